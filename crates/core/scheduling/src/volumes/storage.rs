//! All claims, volumes and classes, kept current change by change.
//!
//! Invariant: a free volume is listed under its class once, and under no class once it has a claim, be that assumed only.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use trireme_api::quantity::Quantity;
use trireme_api::volume::ClaimRef;

use super::demand::VolumePlan;
use super::records::{
    AttachmentRecord, CapacityRecord, ClaimRecord, ClassRecord, Limits, VolumeRecord, read_limits, read_tells_capacity,
};
use crate::pod::{ClaimSource, PodRecord};
use crate::relations::HOSTNAME;
use crate::selector::Labels;

/// A record as the API has it, and as a decision that is under way will make it.
#[derive(Clone, Debug)]
struct Held<T> {
    stored: Arc<T>,
    assumed: Option<Arc<T>>,
}

impl<T> Held<T> {
    fn current(&self) -> &Arc<T> {
        self.assumed.as_ref().unwrap_or(&self.stored)
    }
}

/// Volumes by size, then name.
type BySize = BTreeMap<(Quantity, String), Arc<VolumeRecord>>;

/// Free volumes of one class.
#[derive(Clone, Debug, Default)]
struct Free {
    /// Those that only nodes with this hostname reach.
    of_host: HashMap<String, BySize>,
    others: BySize,
}

/// Claims, volumes, classes, and what drivers say.
#[derive(Clone, Debug, Default)]
pub struct Storage {
    /// By namespace/name.
    claims: HashMap<String, Held<ClaimRecord>>,
    volumes: HashMap<String, Held<VolumeRecord>>,
    free: HashMap<String, Free>,
    /// Names of the volumes that name a claim, by namespace/name of the claim.
    meant: HashMap<String, BTreeSet<String>>,
    classes: HashMap<String, Arc<ClassRecord>>,
    /// By node.
    limits: HashMap<String, Limits>,
    /// Drivers that tell their capacity.
    tell_capacity: HashSet<String>,
    capacities: BTreeMap<(String, String), CapacityRecord>,
    attachments: HashMap<String, AttachmentRecord>,
    /// Names of attachments by node.
    attached: HashMap<Box<str>, BTreeSet<String>>,
    /// Node slots of the pods that name a claim, by namespace/name of the claim.
    users: HashMap<String, Vec<usize>>,
}

pub(super) fn key(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

/// What was written to the API for a pod that waits for its volumes.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// Namespace/name of each claim that got a volume, the volume, and the version of it that was written.
    pub bindings: Vec<(String, String, u64)>,
    /// Namespace/name of each claim whose volume is to be made, and the version of it that was written.
    pub provisions: Vec<(String, u64)>,
}

/// Why the volumes that a pod waits for will not come. The texts are upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unbound {
    /// The volume is gone.
    #[error("failed to check binding: persistentvolumes \"{0}\" not found")]
    NoVolume(String),
    /// The claim is gone.
    #[error("failed to check binding: persistentvolumeclaims \"{0}\" not found")]
    NoClaim(String),
    /// The claim whose volume was to be made is gone.
    #[error("failed to check provisioning pvc: persistentvolumeclaims \"{0}\" not found")]
    NoClaimToProvision(String),
    /// The volume cannot be reached from the node.
    #[error("pv \"{volume}\" node affinity doesn't match node \"{node}\": no matching NodeSelectorTerms")]
    Elsewhere {
        /// The volume.
        volume: String,
        /// The node.
        node: String,
    },
    /// The volume was taken away from the claim again.
    #[error("ClaimRef got reset for pv \"{0}\"")]
    Reset(String),
    /// Whoever makes volumes has given up on this node.
    #[error("provisioning failed for PVC \"{0}\"")]
    Failed(String),
}

impl Storage {
    /// A claim is new, has changed, or is gone (none).
    ///
    /// # Errors
    /// When it is no JSON.
    pub fn put_claim(&mut self, namespace: &str, name: &str, json: Option<&[u8]>) -> Result<(), serde_json::Error> {
        let key = key(namespace, name);
        let Some(json) = json else {
            self.claims.remove(&key);
            return Ok(());
        };
        let stored = Arc::new(ClaimRecord::read(json)?);
        let assumed = self.claims.get(&key).and_then(|held| held.assumed.clone());
        let assumed = assumed.filter(|assumed| assumed.version == stored.version);
        self.claims.insert(key, Held { stored, assumed });
        Ok(())
    }

    /// A volume is new, has changed, or is gone (none). What it was.
    ///
    /// # Errors
    /// When it is no JSON.
    pub fn put_volume(&mut self, name: &str, json: Option<&[u8]>) -> Result<Option<Arc<VolumeRecord>>, serde_json::Error> {
        let stored = json.map(VolumeRecord::read).transpose()?.map(Arc::new);
        let old = self.volumes.remove(name);
        if let Some(old) = &old {
            self.unlist(old.current());
        }
        if let Some(stored) = stored {
            let assumed = old.as_ref().and_then(|held| held.assumed.clone());
            let assumed = assumed.filter(|assumed| assumed.version == stored.version);
            let held = Held { stored, assumed };
            self.list(held.current());
            self.volumes.insert(name.to_owned(), held);
        }
        Ok(old.map(|held| held.stored))
    }

    /// The volume that a change has made of a record.
    #[must_use]
    pub fn volume(&self, name: &str) -> Option<&Arc<VolumeRecord>> {
        self.volumes.get(name).map(|held| &held.stored)
    }

    fn by_size<'a>(free: &'a mut Free, record: &VolumeRecord) -> &'a mut BySize {
        match record.host() {
            Some(host) => free.of_host.entry(host.to_owned()).or_default(),
            None => &mut free.others,
        }
    }

    fn list(&mut self, record: &Arc<VolumeRecord>) {
        let volume = &record.volume;
        match &volume.claim {
            Some(claim) => {
                let meant = self.meant.entry(key(&claim.namespace, &claim.name)).or_default();
                meant.insert(volume.name.clone());
            }
            None if volume.phase == "Available" => {
                let free = self.free.entry(volume.class.clone()).or_default();
                let place = (volume.capacity.clone(), volume.name.clone());
                Self::by_size(free, record).insert(place, Arc::clone(record));
            }
            None => {}
        }
    }

    fn unlist(&mut self, record: &Arc<VolumeRecord>) {
        let volume = &record.volume;
        if let Some(claim) = &volume.claim {
            let key = key(&claim.namespace, &claim.name);
            if let Some(meant) = self.meant.get_mut(&key) {
                meant.remove(&volume.name);
                if meant.is_empty() {
                    self.meant.remove(&key);
                }
            }
        } else if let Some(free) = self.free.get_mut(&volume.class) {
            let place = (volume.capacity.clone(), volume.name.clone());
            let by_size = Self::by_size(free, record);
            by_size.remove(&place);
            if by_size.is_empty()
                && let Some(host) = record.host()
            {
                free.of_host.remove(host);
            }
            if free.of_host.is_empty() && free.others.is_empty() {
                self.free.remove(&volume.class);
            }
        }
    }

    /// A class is new, has changed, or is gone (none). What it was.
    ///
    /// # Errors
    /// When a field has another type than the API says.
    pub fn put_class(&mut self, name: &str, json: Option<&[u8]>) -> Result<Option<Arc<ClassRecord>>, serde_json::Error> {
        Ok(match json.map(ClassRecord::read).transpose()? {
            Some(class) => self.classes.insert(name.to_owned(), Arc::new(class)),
            None => self.classes.remove(name),
        })
    }

    /// A class as it is.
    #[must_use]
    pub fn class(&self, name: &str) -> Option<&Arc<ClassRecord>> {
        self.classes.get(name)
    }

    /// A CSINode is new, has changed, or is gone (none). The limits that it said before.
    ///
    /// # Errors
    /// When a field has another type than the API says.
    pub fn put_csi_node(&mut self, node: &str, json: Option<&[u8]>) -> Result<Option<Limits>, serde_json::Error> {
        Ok(match json.map(read_limits).transpose()? {
            Some(limits) => self.limits.insert(node.to_owned(), limits),
            None => self.limits.remove(node),
        })
    }

    /// How many volumes a node takes of each driver; none where nobody says.
    #[must_use]
    pub fn limits(&self, node: &str) -> Option<&Limits> {
        self.limits.get(node)
    }

    /// A CSIDriver is new, has changed, or is gone (none).
    ///
    /// # Errors
    /// When a field has another type than the API says.
    pub fn put_driver(&mut self, name: &str, json: Option<&[u8]>) -> Result<(), serde_json::Error> {
        if json.map(read_tells_capacity).transpose()? == Some(true) {
            self.tell_capacity.insert(name.to_owned());
        } else {
            self.tell_capacity.remove(name);
        }
        Ok(())
    }

    /// A CSIStorageCapacity is new, has changed, or is gone (none). What it was.
    ///
    /// # Errors
    /// When a field has another type than the API says.
    pub fn put_capacity(
        &mut self,
        namespace: &str,
        name: &str,
        json: Option<&[u8]>,
    ) -> Result<Option<CapacityRecord>, serde_json::Error> {
        let key = (namespace.to_owned(), name.to_owned());
        Ok(match json.map(CapacityRecord::read).transpose()? {
            Some(capacity) => self.capacities.insert(key, capacity),
            None => self.capacities.remove(&key),
        })
    }

    /// A capacity as it is.
    #[must_use]
    pub fn capacity(&self, namespace: &str, name: &str) -> Option<&CapacityRecord> {
        self.capacities.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// A VolumeAttachment is new, has changed, or is gone (none).
    ///
    /// # Errors
    /// When a field has another type than the API says.
    pub fn put_attachment(&mut self, name: &str, json: Option<&[u8]>) -> Result<(), serde_json::Error> {
        let new = json.map(AttachmentRecord::read).transpose()?.flatten();
        if let Some(old) = self.attachments.remove(name)
            && let Some(attached) = self.attached.get_mut(&old.node)
        {
            attached.remove(name);
            if attached.is_empty() {
                self.attached.remove(&old.node);
            }
        }
        if let Some(new) = new {
            self.attached.entry(new.node.clone()).or_default().insert(name.to_owned());
            self.attachments.insert(name.to_owned(), new);
        }
        Ok(())
    }

    pub(super) fn attachments(&self, node: &str) -> impl Iterator<Item = &AttachmentRecord> {
        let names = self.attached.get(node).into_iter().flatten();
        names.filter_map(|name| self.attachments.get(name))
    }

    /// A pod is on a node slot (`by` 1) or no more (−1).
    pub(crate) fn count(&mut self, pod: &PodRecord, slot: usize, by: i64) {
        for source in &pod.template.claims {
            let ClaimSource::Named(name) = source else { continue };
            let key = key(&pod.template.namespace, name);
            if by > 0 {
                self.users.entry(key).or_default().push(slot);
            } else if let Some(slots) = self.users.get_mut(&key) {
                if let Some(at) = slots.iter().position(|held| *held == slot) {
                    slots.swap_remove(at);
                }
                if slots.is_empty() {
                    self.users.remove(&key);
                }
            }
        }
    }

    /// Slots of the nodes where pods name a claim.
    pub(super) fn users(&self, namespace: &str, claim: &str) -> &[usize] {
        self.users.get(&key(namespace, claim)).map(Vec::as_slice).unwrap_or_default()
    }

    pub(super) fn stored_claim(&self, namespace: &str, name: &str) -> Option<&Arc<ClaimRecord>> {
        self.claims.get(&key(namespace, name)).map(|held| &held.stored)
    }

    pub(super) fn claim(&self, namespace: &str, name: &str) -> Option<&Arc<ClaimRecord>> {
        self.claims.get(&key(namespace, name)).map(Held::current)
    }

    pub(super) fn current_volume(&self, name: &str) -> Option<&Arc<VolumeRecord>> {
        self.volumes.get(name).map(Held::current)
    }

    /// The volumes of a class that a claim may get on a node with these labels: those meant for it, and the free ones.
    pub(super) fn candidates<'a>(
        &'a self,
        claim: &'a ClaimRecord,
        labels: &Labels,
    ) -> impl Iterator<Item = &'a Arc<VolumeRecord>> {
        let class = &claim.claim.class;
        let meant = self.meant.get(&key(&claim.claim.namespace, &claim.claim.name));
        let meant = meant.into_iter().flatten().filter_map(|name| self.current_volume(name));
        let free = self.free.get(class);
        let of_host = labels.get(HOSTNAME).and_then(|host| free?.of_host.get(host));
        meant
            .filter(move |record| record.volume.class == *class)
            .chain(of_host.into_iter().flat_map(BTreeMap::values))
            .chain(free.into_iter().flat_map(|free| free.others.values()))
    }

    /// Whether a driver that tells its capacity can make a volume for a node with these labels.
    pub(super) fn has_room(&self, class: (&str, &ClassRecord), claim: &ClaimRecord, labels: &Labels) -> bool {
        let (name, class) = class;
        if !claim.has_request || !self.tell_capacity.contains(&*class.provisioner) {
            return true;
        }
        self.capacities.values().any(|capacity| {
            let enough = capacity
                .limit
                .as_ref()
                .is_some_and(|limit| limit.value() >= claim.claim.request.value());
            let there = || capacity.nodes.as_ref().is_some_and(|nodes| nodes.selects(labels));
            &*capacity.class == name && enough && there()
        })
    }

    /// Counts what a decision gives as given, before the API shows it.
    pub fn assume(&mut self, plan: &VolumePlan, node: &str) {
        for binding in &plan.bindings {
            let claim = &binding.claim.claim;
            let mut record = (*binding.volume).clone();
            record.by_controller |= !record.volume.is_bound_to(claim);
            record.volume.claim = Some(ClaimRef {
                namespace: claim.namespace.clone(),
                name: claim.name.clone(),
                uid: claim.uid.clone(),
            });
            self.set_volume(&binding.volume, Some(Arc::new(record)));
        }
        for claim in &plan.provisions {
            if let Some(held) = self.held_claim(claim) {
                held.assumed = Some(Arc::new(ClaimRecord {
                    selected_node: Some(node.into()),
                    ..(**claim).clone()
                }));
            }
        }
    }

    /// Takes [`Self::assume`] back, but for what the API shows another version of by now.
    pub fn restore(&mut self, plan: &VolumePlan) {
        for binding in &plan.bindings {
            self.set_volume(&binding.volume, None);
        }
        for claim in &plan.provisions {
            if let Some(held) = self.held_claim(claim) {
                held.assumed = None;
            }
        }
    }

    fn held_claim(&mut self, claim: &ClaimRecord) -> Option<&mut Held<ClaimRecord>> {
        let held = self.claims.get_mut(&key(&claim.claim.namespace, &claim.claim.name))?;
        (held.stored.version == claim.version).then_some(held)
    }

    fn set_volume(&mut self, of: &VolumeRecord, assumed: Option<Arc<VolumeRecord>>) {
        let Some(mut held) = self.volumes.remove(&of.volume.name) else {
            return;
        };
        if held.stored.version == of.version {
            self.unlist(held.current());
            held.assumed = assumed;
            self.list(held.current());
        }
        self.volumes.insert(of.volume.name.clone(), held);
    }

    /// Whether all that was written for a pod on a node with these labels is bound for good.
    ///
    /// # Errors
    /// When it will not be, and the pod must be placed anew.
    pub fn is_bound(&self, written: &Written, node: &str, labels: &Labels) -> Result<bool, Unbound> {
        let elsewhere = |volume: &str| Unbound::Elsewhere {
            volume: volume.to_owned(),
            node: node.to_owned(),
        };
        for (key, volume, version) in &written.bindings {
            let record = self.volume(volume).ok_or_else(|| Unbound::NoVolume(volume.clone()))?;
            let claim = self.claims.get(key).ok_or_else(|| Unbound::NoClaim(key.clone()))?;
            if record.version < *version {
                return Ok(false);
            }
            if !record.volume.reaches(labels) {
                return Err(elsewhere(volume));
            }
            if record.volume.claim.as_ref().is_none_or(|claim| claim.uid.is_empty()) {
                return Err(Unbound::Reset(volume.clone()));
            }
            if !claim.stored.is_bound() {
                return Ok(false);
            }
        }
        for (key, version) in &written.provisions {
            let claim = self.claims.get(key).ok_or_else(|| Unbound::NoClaimToProvision(key.clone()))?;
            let claim = &claim.stored;
            if claim.version < *version {
                return Ok(false);
            }
            if claim.selected_node.as_deref() != Some(node) {
                return Err(Unbound::Failed(claim.claim.name.clone()));
            }
            if !claim.volume.is_empty() {
                // The volume may only not have been seen yet.
                let Some(record) = self.volume(&claim.volume) else {
                    return Ok(false);
                };
                if !record.volume.reaches(labels) {
                    return Err(elsewhere(&claim.volume));
                }
            }
            if !claim.is_bound() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
