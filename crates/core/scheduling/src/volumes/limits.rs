//! How many volumes of each driver a node takes.
//!
//! Invariant: a volume that several pods of a node share is counted once.

use std::collections::{BTreeMap, BTreeSet};

use super::demand::refuse;
use super::records::ClaimRecord;
use super::storage::Storage;
use crate::filter::{Plugins, Reason, Rejection};
use crate::node::NodeState;
use crate::pod::PodRecord;

/// A volume as its driver counts it: driver and handle.
pub(super) type Counted = (Box<str>, Box<str>);

/// The volume that a claim has or will have; none where no driver counts it.
fn counted(storage: &Storage, claim: &ClaimRecord) -> Option<Counted> {
    let volume = (!claim.volume.is_empty()).then(|| storage.volume(&claim.volume)).flatten();
    if let Some(volume) = volume {
        return volume
            .csi
            .clone()
            .filter(|(driver, handle)| !driver.is_empty() && !handle.is_empty());
    }
    let class = storage.class(&claim.claim.class)?;
    // No driver's handle begins so.
    let handle = format!("\0{}/{}", claim.claim.namespace, claim.claim.name);
    (!class.provisioner.is_empty()).then(|| (class.provisioner.clone(), handle.into()))
}

/// The volumes of a pod that drivers count.
///
/// # Errors
/// When a claim is not there.
pub(super) fn volumes(storage: &Storage, pod: &PodRecord) -> Result<BTreeSet<Counted>, Rejection> {
    let namespace = &pod.template.namespace;
    let mut volumes = BTreeSet::new();
    for source in &pod.template.claims {
        let name = source.name(&pod.name);
        let Some(claim) = storage.stored_claim(namespace, &name) else {
            let text = format!("looking up PVC {namespace}/{name}: persistentvolumeclaim \"{name}\" not found");
            return Err(refuse(Plugins::VOLUME_LIMITS, text));
        };
        volumes.extend(counted(storage, claim));
    }
    Ok(volumes)
}

/// Whether a node takes these volumes besides those that it has.
///
/// # Errors
/// When it takes fewer of some driver.
pub(super) fn check(storage: &Storage, volumes: &BTreeSet<Counted>, node: &NodeState) -> Result<(), Rejection> {
    let Some(limits) = storage.limits(node.name()) else {
        return Ok(());
    };
    let limit = |driver: &str| limits.get(driver).copied().flatten();
    if !volumes.iter().any(|(driver, _)| limit(driver).is_some()) {
        return Ok(());
    }
    let mut attached = BTreeSet::new();
    for other in node.pods.iter().filter(|other| !other.template.claims.is_empty()) {
        for source in &other.template.claims {
            let claim = storage.stored_claim(&other.template.namespace, &source.name(&other.name));
            attached.extend(claim.and_then(|claim| counted(storage, claim)));
        }
    }
    let mut new: BTreeMap<&str, i64> = BTreeMap::new();
    for (driver, _) in volumes.iter().filter(|volume| !attached.contains(volume)) {
        *new.entry(driver).or_default() += 1;
    }
    for attachment in storage.attachments(node.name()) {
        let csi = storage.volume(&attachment.volume).and_then(|volume| volume.csi.as_ref());
        attached.extend(csi.map(|(_, handle)| (attachment.attacher.clone(), handle.clone())));
    }
    let held = |driver: &str| i64::try_from(attached.iter().filter(|(of, _)| **of == *driver).count()).unwrap_or(i64::MAX);
    let over = |(driver, count): (&&str, &i64)| limit(driver).is_some_and(|limit| held(driver).saturating_add(*count) > limit);
    if new.iter().any(over) {
        return Err(Rejection::passing(Reason::TooManyVolumes));
    }
    Ok(())
}
