//! What a pod's volumes ask of a node: found out once a decision, asked of each node.
//!
//! Invariant: of [`Demand::of`]'s refusals none depends on a node. Filters and their texts stand in upstream's order.

use std::collections::BTreeSet;
use std::sync::Arc;

use trireme_api::volume::{Seeker, find_matching};

use super::limits::{self, Counted};
use super::records::{ClaimRecord, VolumeRecord, Zone, is_within, is_zoned};
use super::storage::Storage;
use crate::filter::{Plugins, Reason, Rejection};
use crate::node::NodeState;
use crate::pod::{ClaimSource, PodRecord, Template};
use crate::snapshot::Snapshot;

/// A claim with the volume that it gets.
#[derive(Clone, Debug)]
pub struct Binding {
    /// The claim.
    pub claim: Arc<ClaimRecord>,
    /// The volume, as it was when it was chosen.
    pub volume: Arc<VolumeRecord>,
}

/// What is to be done for a pod's volumes before it is bound to its node.
#[derive(Clone, Debug, Default)]
pub struct VolumePlan {
    /// Claims that get volumes that are there.
    pub bindings: Vec<Binding>,
    /// Claims whose volumes are to be made for the node.
    pub provisions: Vec<Arc<ClaimRecord>>,
}

/// What a pod's volumes ask.
#[derive(Clone, Debug, Default)]
pub(crate) struct Demand {
    plugins: Plugins,
    /// Claims that one pod alone may use.
    one_pods: BTreeSet<String>,
    /// How many of them other pods use.
    in_use: i64,
    /// Volumes of bound claims; none where one is not there.
    bound: Vec<Option<Arc<VolumeRecord>>>,
    /// Claims that get their volumes by the decision, the smallest first.
    unbound: Vec<Arc<ClaimRecord>>,
    zones: Vec<Zone>,
    /// The volumes that drivers count.
    counted: BTreeSet<Counted>,
    /// Why they could not be counted.
    uncounted: Option<Rejection>,
}

pub(super) fn refuse(plugin: Plugins, text: String) -> Rejection {
    Rejection::last(Reason::Beforehand(plugin, text.into()))
}

fn not_found(plugin: Plugins, kind: &str, name: &str) -> Rejection {
    refuse(plugin, format!("{kind} \"{name}\" not found"))
}

impl Demand {
    /// What a pod's volumes ask; none where they ask nothing.
    ///
    /// # Errors
    /// When no node can take the pod, whatever it is.
    pub(crate) fn of(snapshot: &Snapshot, plugins: Plugins, pod: &PodRecord) -> Result<Option<Self>, Rejection> {
        if !pod.template.has_volumes() {
            return Ok(None);
        }
        let storage = &snapshot.storage;
        let mut demand = Self {
            plugins,
            ..Self::default()
        };
        if plugins.has(Plugins::VOLUME_RESTRICTIONS) {
            demand.restrict(snapshot, &pod.template)?;
        }
        if plugins.has(Plugins::VOLUME_LIMITS) {
            match limits::volumes(storage, pod) {
                Ok(counted) => demand.counted = counted,
                Err(why) => demand.uncounted = Some(why),
            }
        }
        if plugins.has(Plugins::VOLUME_BINDING) {
            check_claims(storage, pod)?;
            demand.sort_out(storage, pod)?;
        }
        if plugins.has(Plugins::VOLUME_ZONE) {
            demand.find_zones(storage, &pod.template)?;
        }
        Ok(Some(demand))
    }

    /// VolumeRestrictions: claims that one pod alone may use.
    fn restrict(&mut self, snapshot: &Snapshot, template: &Template) -> Result<(), Rejection> {
        let storage = &snapshot.storage;
        for source in &template.claims {
            let ClaimSource::Named(name) = source else { continue };
            let Some(claim) = storage.stored_claim(&template.namespace, name) else {
                return Err(not_found(Plugins::VOLUME_RESTRICTIONS, "persistentvolumeclaim", name));
            };
            if !claim.is_one_pods() || !self.one_pods.insert(name.clone()) {
                continue;
            }
            let users = storage.users(&template.namespace, name);
            self.in_use += i64::from(users.iter().any(|slot| snapshot.nodes[*slot].known));
        }
        Ok(())
    }

    /// VolumeBinding: which claims are bound, and which are to be by the decision.
    fn sort_out(&mut self, storage: &Storage, pod: &PodRecord) -> Result<(), Rejection> {
        let namespace = &pod.template.namespace;
        let mut immediate = false;
        for source in &pod.template.claims {
            let Some(claim) = storage.claim(namespace, &source.name(&pod.name)) else {
                continue;
            };
            if claim.is_bound() {
                self.bound.push(storage.current_volume(&claim.volume).map(Arc::clone));
                continue;
            }
            let waits = storage.class(&claim.claim.class).is_some_and(|class| class.waits);
            if waits && claim.volume.is_empty() {
                if self.unbound.iter().any(|known| Arc::ptr_eq(known, claim)) {
                    continue;
                }
                self.unbound.push(Arc::clone(claim));
            } else {
                immediate = true;
            }
        }
        if immediate {
            let text = "pod has unbound immediate PersistentVolumeClaims";
            return Err(refuse(Plugins::VOLUME_BINDING, text.into()));
        }
        self.unbound.sort_by(|one, other| one.claim.request.cmp(&other.claim.request));
        Ok(())
    }

    /// VolumeZone: where the bound volumes say that they are.
    fn find_zones(&mut self, storage: &Storage, template: &Template) -> Result<(), Rejection> {
        let plugin = Plugins::VOLUME_ZONE;
        for source in &template.claims {
            let ClaimSource::Named(name) = source else { continue };
            let Some(claim) = storage.stored_claim(&template.namespace, name) else {
                return Err(not_found(plugin, "persistentvolumeclaim", name));
            };
            if claim.volume.is_empty() {
                let class = &claim.claim.class;
                if class.is_empty() {
                    let text = "PersistentVolumeClaim had no pv name and storageClass name";
                    return Err(refuse(plugin, text.into()));
                }
                match storage.class(class) {
                    None => return Err(not_found(plugin, "storageclass.storage.k8s.io", class)),
                    Some(class) if class.waits => continue,
                    Some(_) => return Err(refuse(plugin, "PersistentVolume had no name".into())),
                }
            }
            let Some(volume) = storage.volume(&claim.volume) else {
                return Err(not_found(plugin, "persistentvolume", &claim.volume));
            };
            self.zones.extend(volume.zones());
        }
        Ok(())
    }

    /// Asks a node.
    ///
    /// # Errors
    /// The reasons of the first plugin that turns it down.
    pub(crate) fn check(
        &self,
        snapshot: &Snapshot,
        template: &Template,
        (slot, node): (usize, &NodeState),
    ) -> Result<(), Rejection> {
        let labels = &node.record.labels;
        if self.plugins.has(Plugins::VOLUME_RESTRICTIONS) {
            self.check_restrictions(snapshot, template, (slot, node))?;
        }
        if let Some(why) = &self.uncounted {
            return Err(why.clone());
        }
        if !self.counted.is_empty() {
            limits::check(&snapshot.storage, &self.counted, node)?;
        }
        if self.plugins.has(Plugins::VOLUME_BINDING) {
            let (_, reasons) = self.match_volumes(&snapshot.storage, node);
            Rejection::of(reasons, false)?;
        }
        let zoned = !self.zones.is_empty() && is_zoned(labels);
        if zoned && !self.zones.iter().all(|zone| is_within(zone, labels)) {
            return Err(Rejection::last(Reason::Zone));
        }
        Ok(())
    }

    fn check_restrictions(
        &self,
        snapshot: &Snapshot,
        template: &Template,
        (slot, node): (usize, &NodeState),
    ) -> Result<(), Rejection> {
        let mut there = node.pods.iter().flat_map(|pod| &pod.template.disks);
        if !template.disks.is_empty() && there.any(|disk| template.disks.iter().any(|own| own.conflicts(disk))) {
            return Err(Rejection::passing(Reason::Disk));
        }
        if template.disks.is_empty() && self.in_use == 0 {
            return Ok(());
        }
        // Of this node other pods may be supposed than those that are there.
        let supposed = self.uses(template, node) - self.uses(template, &snapshot.nodes[slot]);
        if self.in_use + supposed > 0 {
            return Err(Rejection::passing(Reason::OnePods));
        }
        Ok(())
    }

    /// How often pods on a node name claims that one pod alone may use.
    fn uses(&self, template: &Template, node: &NodeState) -> i64 {
        if self.one_pods.is_empty() {
            return 0;
        }
        let same = node.pods.iter().filter(|pod| pod.template.namespace == template.namespace);
        let claims = same.flat_map(|pod| &pod.template.claims);
        let named = claims.filter(|source| matches!(source, ClaimSource::Named(name) if self.one_pods.contains(name)));
        i64::try_from(named.count()).unwrap_or(i64::MAX)
    }

    /// VolumeBinding: what each claim gets on a node, and why the node does not do.
    fn match_volumes(&self, storage: &Storage, node: &NodeState) -> (VolumePlan, Vec<Reason>) {
        let labels = &node.record.labels;
        let (mut plan, mut reasons) = (VolumePlan::default(), Vec::new());
        let mut lost = false;
        for volume in &self.bound {
            match volume {
                Some(volume) if volume.volume.reaches(labels) => {}
                Some(_) => {
                    reasons.push(Reason::VolumeElsewhere);
                    break;
                }
                None => {
                    lost = true;
                    break;
                }
            }
        }
        match self.place_unbound(storage, node, &mut plan) {
            Ok(()) => {}
            Err(reason) => reasons.push(reason),
        }
        if lost {
            reasons.push(Reason::NoVolume);
        }
        (plan, reasons)
    }

    fn place_unbound(&self, storage: &Storage, node: &NodeState, plan: &mut VolumePlan) -> Result<(), Reason> {
        let labels = &node.record.labels;
        let selected = |claim: &&Arc<ClaimRecord>| claim.selected_node.is_some();
        let mut selecting = self.unbound.iter().filter(selected);
        if selecting.any(|claim| claim.selected_node.as_deref() != Some(node.name())) {
            return Err(Reason::NothingToBind);
        }
        let mut provisions: Vec<_> = self.unbound.iter().filter(selected).collect();
        let mut taken = BTreeSet::new();
        for claim in self.unbound.iter().filter(|claim| claim.selected_node.is_none()) {
            let seeker = Seeker::Scheduler { labels, taken: &taken };
            let candidates = storage.candidates(claim, labels).map(|record| &record.volume);
            // A claim whose selector does not parse has no volume; validation lets none in.
            let found = find_matching(&claim.claim, candidates, seeker).ok().flatten();
            match found.and_then(|volume| storage.current_volume(&volume.name)) {
                Some(volume) => {
                    taken.insert(volume.volume.name.clone());
                    plan.bindings.push(Binding {
                        claim: Arc::clone(claim),
                        volume: Arc::clone(volume),
                    });
                }
                None => provisions.push(claim),
            }
        }
        for claim in provisions {
            let name = &claim.claim.class;
            let class = storage.class(name).filter(|class| class.provisions() && class.allows(labels));
            let Some(class) = class else {
                return Err(Reason::NothingToBind);
            };
            if !storage.has_room((name, class), claim, labels) {
                return Err(Reason::NoStorage);
            }
            plan.provisions.push(Arc::clone(claim));
        }
        Ok(())
    }

    /// What is to be done for the pod's volumes on a node that passed; none where all are bound.
    pub(crate) fn plan(&self, storage: &Storage, node: &NodeState) -> Option<VolumePlan> {
        (!self.unbound.is_empty()).then(|| self.match_volumes(storage, node).0)
    }
}

/// VolumeBinding: whether a pod's claims are there and its own.
fn check_claims(storage: &Storage, pod: &PodRecord) -> Result<(), Rejection> {
    let namespace = &pod.template.namespace;
    let refuse = |text: String| Err(refuse(Plugins::VOLUME_BINDING, text));
    for source in &pod.template.claims {
        let name = source.name(&pod.name);
        let ephemeral = matches!(source, ClaimSource::Ephemeral(_));
        let Some(claim) = storage.stored_claim(namespace, &name) else {
            return refuse(match source {
                ClaimSource::Ephemeral(_) => {
                    format!("waiting for ephemeral volume controller to create the persistentvolumeclaim \"{name}\"")
                }
                ClaimSource::Named(_) => format!("persistentvolumeclaim \"{name}\" not found"),
            });
        };
        if claim.lost {
            let volume = &claim.volume;
            return refuse(format!(
                "persistentvolumeclaim \"{name}\" bound to non-existent persistentvolume \"{volume}\""
            ));
        }
        if claim.deleting {
            return refuse(format!("persistentvolumeclaim \"{name}\" is being deleted"));
        }
        if ephemeral && claim.owner.as_deref() != Some(&*pod.uid) {
            let pod = &pod.name;
            return refuse(format!(
                "PVC {namespace}/{name} was not created for pod {namespace}/{pod} (pod is not owner)"
            ));
        }
    }
    Ok(())
}
