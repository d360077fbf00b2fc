//! What resources a node has granted to its pods, and which wish for others (pkg/kubelet/allocation).
//!
//! Invariant: everything else about a pod is decided from what it was granted, not from what it wishes for. A wish is granted
//! as a whole or not at all, and only where the requests of all pods, each by the larger of what it was granted and what its
//! containers still have, stay within the node. A pod that was not admitted has no place here and takes none.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, ResourceRequirements};
use serde::{Deserialize, Serialize};

use crate::admission::{self, Refusal};
use crate::qos::{self, Class};
use crate::quantity::{milli_value, value};
use crate::resources::{self, Resources, pod_requests, same};
use crate::spec;

/// Resources granted to a pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Allocation {
    /// Of the pod as a whole, where it says any.
    pub pod: Option<ResourceRequirements>,
    /// Of its containers by name.
    pub containers: BTreeMap<String, ResourceRequirements>,
}

impl Allocation {
    /// All that a pod wishes for.
    #[must_use]
    pub fn of(pod: &Pod) -> Self {
        let pod = spec::of(pod);
        Self {
            pod: pod.resources.clone(),
            containers: resources::resizable(pod)
                .map(|container| (container.name.clone(), container.resources.clone().unwrap_or_default()))
                .collect(),
        }
    }

    /// Whether a pod wishes for nothing else.
    #[must_use]
    pub fn covers(&self, pod: &Pod) -> bool {
        let pod = spec::of(pod);
        let none = ResourceRequirements::default();
        same(self.pod.as_ref().unwrap_or(&none), pod.resources.as_ref().unwrap_or(&none))
            && resources::resizable(pod).all(|container| {
                let known = self.containers.get(&container.name);
                known.is_none_or(|known| same(known, container.resources.as_ref().unwrap_or(&none)))
            })
    }

    /// The pod with the resources that it was granted.
    #[must_use]
    pub fn applied(&self, pod: &Arc<Pod>) -> Arc<Pod> {
        if self.covers(pod) {
            return Arc::clone(pod);
        }
        let mut granted = (**pod).clone();
        if let Some(spec) = &mut granted.spec {
            spec.resources.clone_from(&self.pod);
            for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
                if let Some(known) = self.containers.get(&container.name) {
                    container.resources = Some(known.clone());
                }
            }
        }
        Arc::new(granted)
    }
}

/// What pods may ask for in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// Thousandths of a core.
    pub milli_cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes of local disk.
    pub storage: i64,
    /// Pods.
    pub pods: i64,
}

struct Entry {
    wished: Arc<Pod>,
    allocation: Allocation,
    actuated: BTreeMap<String, ResourceRequirements>,
    active: bool,
    /// Whether it was found to have a place here, once and for all.
    admitted: bool,
    refused: Option<(Refusal, Timestamp)>,
}

impl Entry {
    /// Whether it holds what it was granted.
    fn holds(&self) -> bool {
        self.active && self.admitted
    }

    fn waits(&self) -> bool {
        self.holds() && !self.allocation.covers(&self.wished)
    }

    /// What the node must keep for it.
    fn requests(&self) -> Resources {
        if !self.holds() {
            return Resources::new();
        }
        pod_requests(spec::of(&self.allocation.applied(&self.wished)), &self.actuated)
    }

    fn grows(&self) -> bool {
        let none = BTreeMap::new();
        let now = pod_requests(spec::of(&self.allocation.applied(&self.wished)), &none);
        let then = pod_requests(spec::of(&self.wished), &none);
        milli(&then) > milli(&now) || bytes(&then, "memory") > bytes(&now, "memory")
    }

    /// Whose turn is first: who takes nothing, then priority, then class, then who has waited longest.
    fn turn(&self) -> impl Ord + use<> {
        let class = qos::class(spec::of(&self.wished));
        (
            self.grows(),
            Reverse(spec::of(&self.wished).priority.unwrap_or(0)),
            class != Class::Guaranteed,
            self.refused.as_ref().map_or(Timestamp::MAX, |(_, since)| *since),
        )
    }
}

/// What a worker knows of its pod.
pub struct Seen<'a> {
    /// The pod as its owner wishes it.
    pub pod: &'a Arc<Pod>,
    /// What running containers have, by name.
    pub actuated: BTreeMap<String, ResourceRequirements>,
    /// Whether it still holds what it was granted.
    pub active: bool,
}

/// All allocations of a node.
#[derive(Default)]
pub struct Ledger {
    entries: BTreeMap<String, Entry>,
}

impl Ledger {
    /// Enters a pod with what it was granted, unless it is known. One that a node's agent has spoken of and that has not
    /// ended was admitted in an earlier life.
    pub fn enter(&mut self, pod: &Arc<Pod>, allocation: impl FnOnce() -> Allocation) {
        let spoken_of = pod.status.as_ref().is_some_and(|status| status.start_time.is_some());
        self.entries.entry(spec::uid(pod).to_owned()).or_insert_with(|| Entry {
            wished: Arc::clone(pod),
            allocation: allocation(),
            actuated: BTreeMap::new(),
            active: true,
            admitted: spoken_of && !spec::is_finished(pod),
            refused: None,
        });
    }

    /// Why a pod that is entered has no place on the node, beside those that have one; from the first time that it has one on,
    /// it keeps it. `runs`: something of it is here already.
    pub fn admission(&mut self, uid: &str, runs: bool, node: &Node, capacity: &Capacity) -> Option<Refusal> {
        let entry = self.entries.get(uid)?;
        if !entry.admitted && !runs {
            let others = self.entries.values().filter(|other| other.holds());
            let refusal = self
                .refuse(uid, capacity)
                .or_else(|| admission::misplaced(&entry.wished, node, others.map(|other| &*other.wished)));
            if refusal.is_some() {
                return refusal;
            }
        }
        self.entries.get_mut(uid)?.admitted = true;
        None
    }

    /// Sets what a pod was granted in an earlier life of the node's agent.
    pub fn recall(&mut self, uid: &str, allocation: Allocation) {
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.allocation = allocation;
        }
    }

    /// What a pod was granted.
    #[must_use]
    pub fn allocation(&self, uid: &str) -> Option<&Allocation> {
        self.entries.get(uid).map(|entry| &entry.allocation)
    }

    /// Why a pod's wish waits, if it does.
    #[must_use]
    pub fn refusal(&self, uid: &str) -> Option<&Refusal> {
        self.entries.get(uid)?.refused.as_ref().map(|(refusal, _)| refusal)
    }

    /// Notes what a worker sees of its pod, and grants what can be granted now. The UIDs whose allocation changed.
    pub fn note(&mut self, seen: Seen<'_>, capacity: &Capacity, now: Timestamp) -> Vec<String> {
        let uid = spec::uid(seen.pod);
        let others_wait = self
            .entries
            .iter()
            .any(|(other, entry)| other != uid && entry.refused.is_some());
        let Some(entry) = self.entries.get_mut(uid) else {
            return Vec::new();
        };
        let before = others_wait.then(|| entry.requests());
        entry.wished = Arc::clone(seen.pod);
        entry.actuated = seen.actuated;
        entry.active = seen.active;
        let waits = entry.waits();
        if !waits {
            entry.refused = None;
        }
        let freed = before.is_some_and(|before| {
            let now = entry.requests();
            milli(&now) < milli(&before)
                || ["memory", "ephemeral-storage"]
                    .iter()
                    .any(|name| bytes(&now, name) < bytes(&before, name))
        });
        if waits || freed || (others_wait && !seen.active) {
            self.settle(capacity, now)
        } else {
            Vec::new()
        }
    }

    /// Forgets a pod that is gone. The UIDs whose allocation changed by it.
    pub fn remove(&mut self, uid: &str, capacity: &Capacity, now: Timestamp) -> Vec<String> {
        match self.entries.remove(uid) {
            Some(_) => self.settle(capacity, now),
            None => Vec::new(),
        }
    }

    /// Grants what can be granted, in turn.
    fn settle(&mut self, capacity: &Capacity, now: Timestamp) -> Vec<String> {
        let mut waiting: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.waits())
            .map(|(uid, entry)| (entry.turn(), uid.clone()))
            .collect();
        waiting.sort();
        let mut granted = Vec::new();
        for (_, uid) in waiting {
            let refusal = self.refuse(&uid, capacity);
            let Some(entry) = self.entries.get_mut(&uid) else { continue };
            entry.refused = match refusal {
                Some(refusal) => {
                    let since = entry.refused.as_ref().map_or(now, |(_, since)| *since);
                    Some((refusal, since))
                }
                None => {
                    entry.allocation = Allocation::of(&entry.wished);
                    granted.push(uid);
                    None
                }
            };
        }
        granted
    }

    /// Why a pod's wish cannot be granted beside what the others have.
    fn refuse(&self, uid: &str, capacity: &Capacity) -> Option<Refusal> {
        let wanted = pod_requests(spec::of(&self.entries.get(uid)?.wished), &BTreeMap::new());
        let others: Vec<Resources> = self
            .entries
            .iter()
            .filter(|(other, entry)| *other != uid && entry.holds())
            .map(|(_, entry)| entry.requests())
            .collect();
        let count = i64::try_from(others.len()).unwrap_or(i64::MAX);
        let refusal = |resource: &str, requested: i64, used: i64, capacity: i64| Refusal {
            reason: format!("OutOf{resource}").into(),
            message: format!(
                "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
            ),
        };
        if count + 1 > capacity.pods {
            return Some(refusal("pods", 1, count, capacity.pods));
        }
        let rows: [(&str, Read, i64); 3] = [
            ("cpu", milli, capacity.milli_cpu),
            ("memory", |list| bytes(list, "memory"), capacity.memory),
            ("ephemeral-storage", |list| bytes(list, "ephemeral-storage"), capacity.storage),
        ];
        let short = rows.into_iter().find_map(|(resource, of, capacity)| {
            let requested = of(&wanted);
            let used = others.iter().fold(0_i64, |sum, other| sum.saturating_add(of(other)));
            (requested > 0 && requested > capacity.saturating_sub(used)).then(|| refusal(resource, requested, used, capacity))
        });
        // The node has none of them; a resource of somebody's own that no node has is not the node's to judge.
        short.or_else(|| {
            let pages = wanted.iter().find(|(name, _)| name.starts_with("hugepages-"));
            let (name, amount) = pages.map(|(name, quantity)| (name, value(&quantity.0)))?;
            (amount > 0).then(|| refusal(name, amount, 0, 0))
        })
    }
}

/// How much of one resource a list names.
type Read = fn(&Resources) -> i64;

fn milli(list: &Resources) -> i64 {
    list.get("cpu").map_or(0, |quantity| milli_value(&quantity.0))
}

fn bytes(list: &Resources, name: &str) -> i64 {
    list.get(name).map_or(0, |quantity| value(&quantity.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::at;
    use serde_json::json;

    const NODE: Capacity = Capacity {
        milli_cpu: 1000,
        memory: 1 << 30,
        storage: 1 << 30,
        pods: 10,
    };

    fn pod(uid: &str, cpu: &str, priority: i32) -> Arc<Pod> {
        let spec = json!({"priority": priority, "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]});
        Arc::new(serde_json::from_value(json!({"metadata": {"uid": uid}, "spec": spec})).unwrap())
    }

    fn note(ledger: &mut Ledger, pod: &Arc<Pod>, seconds: i64) -> Vec<String> {
        ledger.enter(pod, || Allocation::of(pod));
        assert_eq!(ledger.admission(spec::uid(pod), true, &Node::default(), &NODE), None);
        let seen = Seen {
            pod,
            actuated: BTreeMap::new(),
            active: true,
        };
        ledger.note(seen, &NODE, at(seconds))
    }

    fn granted(ledger: &Ledger, uid: &str) -> String {
        let own = &ledger.allocation(uid).unwrap().containers["c"];
        own.requests.as_ref().unwrap()["cpu"].0.clone()
    }

    #[test]
    fn a_wish_is_granted_or_waits_and_says_why() {
        let mut ledger = Ledger::default();
        assert!(note(&mut ledger, &pod("a", "400m", 0), 0).is_empty());
        assert!(note(&mut ledger, &pod("b", "400m", 0), 0).is_empty());
        assert_eq!(note(&mut ledger, &pod("a", "600m", 0), 1), ["a"]);
        assert!(note(&mut ledger, &pod("b", "500m", 0), 2).is_empty());
        assert_eq!(
            (granted(&ledger, "a").as_str(), granted(&ledger, "b").as_str()),
            ("600m", "400m")
        );
        assert_eq!(
            ledger.refusal("b"),
            Some(&Refusal {
                reason: "OutOfcpu".into(),
                message: "Node didn't have enough resource: cpu, requested: 500, used: 600, capacity: 1000".into()
            })
        );
        // The other shrinks: its containers still have what they had.
        let small = pod("a", "100m", 0);
        let seen = |actuated: &str, active| Seen {
            pod: &small,
            actuated: BTreeMap::from([(
                "c".to_owned(),
                serde_json::from_value(json!({"requests": {"cpu": actuated}})).unwrap(),
            )]),
            active,
        };
        assert_eq!(ledger.note(seen("600m", true), &NODE, at(3)), ["a"]);
        assert!(ledger.refusal("b").is_some(), "not yet");
        assert_eq!(ledger.note(seen("100m", true), &NODE, at(4)), ["b"]);
        assert_eq!((granted(&ledger, "b").as_str(), ledger.refusal("b")), ("500m", None));
    }

    #[test]
    fn a_pod_is_admitted_where_there_is_room_and_is_never_asked_again() {
        let node = Node::default();
        let mut ledger = Ledger::default();
        let mut ask = |pod: &Arc<Pod>, runs| {
            ledger.enter(pod, || Allocation::of(pod));
            let refusal = ledger.admission(spec::uid(pod), runs, &node, &NODE);
            refusal.map(|refusal| (refusal.reason.into_owned(), refusal.message))
        };
        let full = |requested: i64, used: i64| {
            let text = format!("Node didn't have enough resource: cpu, requested: {requested}, used: {used}, capacity: 1000");
            Some(("OutOfcpu".to_owned(), text))
        };
        assert_eq!(ask(&pod("a", "600m", 0), false), None);
        assert_eq!(ask(&pod("b", "600m", 0), false), full(600, 600));
        assert_eq!(ask(&pod("c", "400m", 0), false), None, "who was refused takes nothing");
        assert_eq!(ask(&pod("d", "1m", 0), false), full(1, 1000));
        // What runs has its place, also where there is too little room, and what an earlier life spoke of does, too.
        assert_eq!(ask(&pod("e", "500m", 0), true), None);
        assert_eq!(ask(&pod("e", "500m", 0), false), None);
        let mut known = (*pod("f", "500m", 0)).clone();
        known.status = serde_json::from_value(json!({"startTime": "2026-01-01T00:00:00Z", "phase": "Pending"})).unwrap();
        assert_eq!(ask(&Arc::new(known.clone()), false), None);
        known.metadata.uid = Some("g".into());
        known.status.get_or_insert_default().phase = Some("Failed".into());
        assert_eq!(ask(&Arc::new(known), false), full(500, 2000));
        let pages: Pod = serde_json::from_value(json!({"metadata": {"uid": "h"}, "spec": {"containers": [
            {"name": "c", "resources": {"requests": {"hugepages-2Mi": "4Mi", "example.com/absent": "1"}}}]}}))
        .unwrap();
        let text = "Node didn't have enough resource: hugepages-2Mi, requested: 4194304, used: 0, capacity: 0";
        assert_eq!(
            ask(&Arc::new(pages), false),
            Some(("OutOfhugepages-2Mi".to_owned(), text.to_owned()))
        );
    }

    #[test]
    fn a_wish_that_is_taken_back_waits_no_longer() {
        let mut ledger = Ledger::default();
        note(&mut ledger, &pod("a", "800m", 0), 0);
        note(&mut ledger, &pod("b", "100m", 0), 0);
        note(&mut ledger, &pod("b", "300m", 0), 1);
        assert!(ledger.refusal("b").is_some());
        assert!(note(&mut ledger, &pod("b", "100m", 0), 2).is_empty());
        assert_eq!(ledger.refusal("b"), None);
    }

    #[test]
    fn the_first_in_turn_is_the_one_that_matters_most() {
        let mut ledger = Ledger::default();
        note(&mut ledger, &pod("big", "700m", 0), 0);
        for (uid, priority) in [("low", 0), ("high", 5), ("late", 0)] {
            note(&mut ledger, &pod(uid, "100m", priority), 1);
        }
        for (seconds, uid, priority) in [(2, "low", 0), (3, "high", 5), (4, "late", 0)] {
            assert!(note(&mut ledger, &pod(uid, "400m", priority), seconds).is_empty());
        }
        assert_eq!(ledger.remove("big", &NODE, at(9)), ["high", "low"]);
        assert!(ledger.refusal("late").is_some());
        // What takes nothing is granted first, also on a full node.
        assert_eq!(note(&mut ledger, &pod("high", "300m", 5), 10), ["high"]);
    }

    #[test]
    fn an_allocation_is_what_the_rest_sees() {
        let (before, after) = (pod("a", "100m", 0), pod("a", "200m", 0));
        let allocation = Allocation::of(&before);
        assert!(allocation.covers(&before) && !allocation.covers(&after));
        assert_eq!(allocation.applied(&after), before);
        assert!(Arc::ptr_eq(&allocation.applied(&before), &before));
        let text = serde_json::to_string(&allocation).unwrap();
        assert_eq!(serde_json::from_str::<Allocation>(&text).unwrap(), allocation);
    }
}
