//! The StatefulSet controller: pods with names, places and claims of their own, made and replaced in order
//! (pkg/controller/statefulset).
//!
//! Invariant: a pod is made only where none of its name is seen, and one that failed or is outdated is deleted and made
//! anew at a later look, once it is gone: no identity is ever held by two pods. Held by the property test in `property.rs`.

mod claims;
mod pod;
mod revisions;
mod status;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, RollingUpdateStatefulSetStrategy, StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::ownership::{self, Claim};
use crate::plan::{Action, EventKind, EventNote, ObjectRef, Plan};
use crate::pods;
use crate::replicaset::{BURST_REPLICAS, to_value};

pub use claims::is_claim_of;
pub use pod::parent_and_ordinal;

/// What the controller looks at, all of it in the set's namespace.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Desired.
    pub set: Arc<StatefulSet>,
    /// Pods.
    pub pods: Vec<Arc<Pod>>,
    /// History, of everybody.
    pub revisions: Vec<Arc<ControllerRevision>>,
    /// Claims.
    pub claims: Vec<Arc<PersistentVolumeClaim>>,
}

/// Plans one step.
#[must_use]
pub fn reconcile(snapshot: &Snapshot, now: Timestamp) -> Plan {
    let set = &*snapshot.set;
    let Some(spec) = &set.spec else {
        return Plan::default();
    };
    let owner = ownership::controller_reference("apps/v1", "StatefulSet", &set.metadata);
    let mut plan = Plan::default();
    let history = revisions::claimed(snapshot, spec, &owner, &mut plan);
    let ours = claimed_pods(snapshot, spec, &owner, &mut plan);
    if !plan.actions.is_empty() {
        return plan; // What was adopted or released is seen at the next look.
    }
    let Some(revisions) = revisions::Revisions::find(snapshot, spec, &owner, &history, &mut plan) else {
        return plan;
    };
    let mut work = Work {
        set,
        spec,
        owner,
        revisions: &revisions,
        claims: snapshot.claims.iter().map(|claim| (claims::name(claim), claim)).collect(),
        now,
        actions: Vec::new(),
    };
    let places = work.places(&ours);
    let mut status = status::of(set, &revisions, places.pods(), now);
    if set.metadata.deletion_timestamp.is_none() {
        let outdated = work.act(&places);
        status::deleted(&mut status, outdated);
    }
    status::complete(spec, &mut status);

    // Status before pods: it tells what was observed, and a failing creation must not hold it back.
    plan.actions.extend(status::write(set, status));
    plan.actions.append(&mut work.actions);
    plan.actions.extend(revisions.truncate(spec, &history, &ours));
    plan.requeue_after = ours
        .iter()
        .filter_map(|pod| pods::available_in(pod, work.minimum(), now))
        .filter(|left| !left.is_zero())
        .min();
    plan
}

/// The set's pods. What is to be adopted or released is put into the plan.
fn claimed_pods<'a>(
    snapshot: &'a Snapshot,
    spec: &StatefulSetSpec,
    owner: &OwnerReference,
    plan: &mut Plan,
) -> Vec<&'a Arc<Pod>> {
    let deleting = snapshot.set.metadata.deletion_timestamp.is_some();
    let mut ours = Vec::new();
    for pod in &snapshot.pods {
        let member = parent_and_ordinal(pod).is_some_and(|(parent, _)| parent == owner.name);
        let matches = member && ownership::selects(&spec.selector, pod.metadata.labels.as_ref());
        let target = ownership::object_ref("v1", "Pod", &pod.metadata);
        match ownership::claim(owner, deleting, &pod.metadata, matches, target) {
            Claim::Ours => ours.push(pod),
            Claim::Adopt(action) | Claim::Release(action) => plan.actions.push(action),
            Claim::NotOurs => {}
        }
    }
    ours
}

/// The set's pods by what is to become of them.
struct Places<'a> {
    /// At ordinals that are wanted.
    wanted: BTreeMap<i32, &'a Pod>,
    /// At others, the last first.
    condemned: Vec<&'a Pod>,
}

impl<'a> Places<'a> {
    fn pods(&self) -> impl Iterator<Item = &'a Pod> {
        self.wanted.values().chain(&self.condemned).copied()
    }
}

/// Whether work goes on behind a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// With the next pod.
    On,
    /// Not before something changed, where pods come and go in order.
    Wait,
}

/// One step of one set.
struct Work<'a> {
    set: &'a StatefulSet,
    spec: &'a StatefulSetSpec,
    owner: OwnerReference,
    revisions: &'a revisions::Revisions,
    claims: BTreeMap<&'a str, &'a Arc<PersistentVolumeClaim>>,
    now: Timestamp,
    actions: Vec<Action>,
}

impl<'a> Work<'a> {
    fn name(&self) -> &'a str {
        self.set.metadata.name.as_deref().unwrap_or_default()
    }

    fn minimum(&self) -> i32 {
        self.spec.min_ready_seconds.unwrap_or(0)
    }

    fn is_ordered(&self) -> bool {
        self.spec.pod_management_policy.as_deref() != Some("Parallel")
    }

    fn rolling(&self) -> Option<&'a RollingUpdateStatefulSetStrategy> {
        self.spec.update_strategy.as_ref()?.rolling_update.as_ref()
    }

    fn is_available(&self, pod: &Pod) -> bool {
        pods::available_in(pod, self.minimum(), self.now).is_some_and(|left| left == Duration::ZERO)
    }

    fn is_unavailable(&self, pod: &Pod) -> bool {
        !self.is_available(pod) || is_terminating(pod)
    }

    fn places(&self, ours: &[&'a Arc<Pod>]) -> Places<'a> {
        let mut wanted: BTreeMap<i32, &'a Pod> = BTreeMap::new();
        let mut condemned = Vec::new();
        for pod in ours {
            let Some(ordinal) = pod::ordinal(pod) else { continue };
            if ordinals(self.spec).contains(&i64::from(ordinal)) {
                wanted.insert(ordinal, pod);
            } else {
                condemned.push((ordinal, &***pod));
            }
        }
        condemned.sort_by_key(|(ordinal, _)| Reverse(*ordinal));
        Places {
            wanted,
            condemned: condemned.into_iter().map(|(_, pod)| pod).collect(),
        }
    }

    /// Plans what is to be done with the pods. How many were found outdated and are deleted is returned.
    fn act(&mut self, places: &Places<'a>) -> i32 {
        let ordered = self.is_ordered();
        let mut made = 0;
        for ordinal in ordinals(self.spec).map_while(|ordinal| i32::try_from(ordinal).ok()) {
            let then = if let Some(pod) = places.wanted.get(&ordinal) {
                self.keep(pod, ordered)
            } else if made == BURST_REPLICAS {
                return 0; // The others once these are seen.
            } else {
                made += 1;
                self.make(&self.revisions.pod(self.set, self.spec, &self.owner, ordinal))
            };
            if then == Then::Wait && ordered {
                return 0;
            }
        }
        for pod in &places.condemned {
            self.fix_claims(pod);
        }
        let mut first = places.wanted.values().chain(places.condemned.iter().rev());
        let first_unavailable = first.find(|pod| self.is_unavailable(pod)).map(|pod| &pod.metadata.name);
        for pod in &places.condemned {
            let is_well = is_running_and_ready(pod) && self.is_available(pod);
            // One that has ended will never be well; upstream waits for it.
            let waits = ordered && !is_well && !pods::is_finished(pod) && first_unavailable != Some(&pod.metadata.name);
            if !is_terminating(pod) && !waits {
                self.delete(pod);
            }
            if ordered {
                return 0;
            }
        }
        let strategy = self.spec.update_strategy.as_ref();
        if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete") {
            return 0;
        }
        self.roll(places)
    }

    /// Sees to a pod that is there and wanted.
    fn keep(&mut self, pod: &'a Pod, ordered: bool) -> Then {
        if pods::is_finished(pod) {
            // Also one that succeeded: a pod that was evicted or stopped ends so or so.
            if !is_terminating(pod) {
                self.delete(pod);
            }
            return Then::Wait;
        }
        if pods::phase(pod) == "Pending" {
            if self.create_claims(pod).is_some() {
                return Then::Wait;
            }
            self.fix_claims(pod);
        }
        if ordered && (is_terminating(pod) || !is_running_and_ready(pod) || !self.is_available(pod)) {
            return Then::Wait;
        }
        let identity = pod::has_identity(self.set, pod);
        let storage = claims::are_mounted(self.name(), self.spec, pod);
        if identity && storage && self.claims_are_owned_rightly(pod) {
            return Then::On;
        }
        let mut changed = pod.clone();
        if !identity {
            pod::give_identity(self.set, &mut changed);
        }
        if !storage {
            claims::mount(self.name(), self.spec, &mut changed);
            if let Some(why) = self.create_claims(pod) {
                self.tell(
                    EventKind::Warning,
                    "FailedUpdate",
                    format!("{} failed error: {why}", self.about("Update", pod)),
                );
                return Then::Wait;
            }
        }
        self.fix_claims(pod);
        let action = Action::Update {
            object: to_value(&changed),
        };
        let told = self.told(action, "Update", pod);
        self.actions.push(told);
        Then::On
    }

    /// Makes a pod, with its claims.
    fn make(&mut self, pod: &Pod) -> Then {
        if self.has_stale_claim(pod) {
            return Then::Wait; // It goes with the pod that it was of.
        }
        if let Some(why) = self.create_claims(pod) {
            self.tell(
                EventKind::Warning,
                "FailedCreate",
                format!("{} failed error: {why}", self.about("Create", pod)),
            );
            return Then::Wait;
        }
        let action = Action::Create {
            object: to_value(pod),
            exists_is_done: false,
        };
        let told = self.told(action, "Create", pod);
        self.actions.push(told);
        self.fix_claims(pod);
        Then::Wait
    }

    fn delete(&mut self, pod: &Pod) {
        let action = Action::Delete {
            target: ownership::object_ref("v1", "Pod", &pod.metadata),
            grace_period_seconds: None,
            propagation: None,
        };
        let told = self.told(action, "Delete", pod);
        self.actions.push(told);
    }

    /// Deletes outdated pods, the last first, and as many as may be missing. How many is returned.
    fn roll(&mut self, places: &Places<'a>) -> i32 {
        let rolling = self.rolling();
        let partition = rolling.and_then(|rolling| rolling.partition).unwrap_or(0);
        let wanted = ordinals(self.spec);
        let from = wanted.start + i64::from(partition);
        let update = self.revisions.update_name();
        let goes = |pod: &Pod| pod::revision(pod) != update && !is_terminating(pod);
        let Some(most) = rolling.and_then(|rolling| rolling.max_unavailable.as_ref()) else {
            for ordinal in (from..wanted.end).rev() {
                let held = i32::try_from(ordinal).ok().and_then(|ordinal| places.wanted.get(&ordinal));
                match held {
                    Some(pod) if goes(pod) => {
                        self.delete(pod);
                        return 1;
                    }
                    Some(pod) if !self.is_unavailable(pod) => {}
                    Some(_) | None => return 0,
                }
            }
            return 0;
        };
        let replicas = usize::try_from(wanted.end - wanted.start).unwrap_or(0);
        let available = places.wanted.values().filter(|pod| !self.is_unavailable(pod)).count();
        let missing = replicas.saturating_sub(available);
        let room = max_unavailable(most, replicas).saturating_sub(missing);
        let candidates = places.wanted.iter().rev();
        let candidates = candidates.filter(|(ordinal, pod)| i64::from(**ordinal) >= from && goes(pod));
        let mut deleted = 0;
        for (_, pod) in candidates.take(room) {
            self.delete(pod);
            deleted += 1;
        }
        deleted
    }

    fn regarding(&self) -> ObjectRef {
        ownership::object_ref("apps/v1", "StatefulSet", &self.set.metadata)
    }

    fn note(&self, kind: EventKind, reason: String, message: String) -> EventNote {
        EventNote {
            regarding: self.regarding(),
            kind,
            reason,
            message,
        }
    }

    fn tell(&mut self, kind: EventKind, reason: &str, message: String) {
        let note = self.note(kind, reason.into(), message);
        self.actions.push(Action::Event(note));
    }

    fn about(&self, verb: &str, pod: &Pod) -> String {
        let pod = pod.metadata.name.as_deref().unwrap_or_default();
        format!("{verb} Pod {pod} in StatefulSet {}", self.name())
    }

    /// An action upon a pod with the events of either end.
    fn told(&self, action: Action, verb: &str, pod: &Pod) -> Action {
        let about = self.about(verb, pod);
        Action::Told {
            action: Box::new(action),
            done: Some(self.note(EventKind::Normal, format!("Successful{verb}"), format!("{about} successful"))),
            failed: Some(self.note(EventKind::Warning, format!("Failed{verb}"), format!("{about} failed error"))),
        }
    }
}

/// The ordinals that are wanted.
fn ordinals(spec: &StatefulSetSpec) -> std::ops::Range<i64> {
    let start = i64::from(start_ordinal(spec));
    start..start + i64::from(spec.replicas.unwrap_or(1))
}

fn start_ordinal(spec: &StatefulSetSpec) -> i32 {
    spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0)
}

/// How many pods may be missing: a number or a percentage of the size rounded down, at least one.
fn max_unavailable(most: &IntOrString, replicas: usize) -> usize {
    let number = match most {
        IntOrString::Int(number) => usize::try_from(*number).unwrap_or(0),
        IntOrString::String(text) => {
            let percent = text.strip_suffix('%').and_then(|number| number.parse::<usize>().ok());
            percent.unwrap_or(0).saturating_mul(replicas) / 100
        }
    };
    number.max(1)
}

fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

fn is_running_and_ready(pod: &Pod) -> bool {
    pods::phase(pod) == "Running" && pods::is_ready(pod)
}

#[cfg(test)]
mod property;
#[cfg(test)]
mod tests;
