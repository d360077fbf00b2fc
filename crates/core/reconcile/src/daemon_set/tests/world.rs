//! A simulated API with a scheduler and kubelets: carries out plans and lets pods run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};
use trireme_api::Object;

use super::super::backoff::Pauses;
use super::super::{SeenNode, Snapshot, placement, reconcile};
use crate::history;
use crate::plan::{Action, Plan};
use crate::pods::{self, CountedPod};
use crate::replicaset::to_value;

pub(super) struct World {
    pub(super) set: DaemonSet,
    pub(super) nodes: BTreeMap<String, Node>,
    pub(super) pods: BTreeMap<String, Pod>,
    pub(super) revisions: BTreeMap<String, ControllerRevision>,
    pub(super) pauses: Pauses,
    pub(super) now: Timestamp,
    /// Reason and message of each event.
    pub(super) events: Vec<(String, String)>,
    /// Whether pods become ready.
    pub(super) healthy: bool,
    /// Names of pods made and of pods deleted, in order.
    pub(super) made: Vec<String>,
    pub(super) deleted: Vec<String>,
    /// Nodes with an available pod, at the worst moment; most pods on all nodes at any moment.
    pub(super) fewest_served: usize,
    pub(super) most_pods: usize,
    serial: u32,
}

/// A DaemonSet of one image; `spec` is merged into its spec.
pub(super) fn daemon_set(image: &str, spec: Value) -> DaemonSet {
    let mut value = json!({
        "metadata": {"name": "agent", "namespace": "ns", "uid": "set-uid", "generation": 1,
            "annotations": {"deprecated.daemonset.template.generation": "1"}},
        "spec": {
            "selector": {"matchLabels": {"app": "agent"}}, "revisionHistoryLimit": 10,
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}},
            "template": {"metadata": {"labels": {"app": "agent"}}, "spec": {"containers": [{"name": "c", "image": image}]}}
        }
    });
    merge(&mut value["spec"], spec);
    serde_json::from_value(value).unwrap()
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

pub(super) fn node(name: &str, labels: Value, taints: Value) -> Node {
    serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}, "spec": {"taints": taints}})).unwrap()
}

pub(super) fn seen(node: &Node) -> SeenNode {
    SeenNode::of(&Object::from_value(&to_value(node)).unwrap()).unwrap()
}

fn counted(pod: &Pod) -> CountedPod {
    CountedPod::made(&to_value(pod))
}

/// The node that a pod is on or asks for.
pub(super) fn target_of(pod: &Pod) -> Option<String> {
    let on = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    on.or_else(|| placement::target(&counted(pod)).map(str::to_owned))
}

impl World {
    /// A DaemonSet and nodes `n0`, `n1` and so on.
    pub(super) fn new(set: DaemonSet, nodes: usize) -> Self {
        let nodes = (0..nodes).map(|number| format!("n{number}"));
        Self {
            set,
            nodes: nodes.map(|name| (name.clone(), node(&name, json!({}), json!([])))).collect(),
            pods: BTreeMap::new(),
            revisions: BTreeMap::new(),
            pauses: Pauses::default(),
            now: "2026-01-01T00:00:00Z".parse().unwrap(),
            events: vec![],
            healthy: true,
            made: vec![],
            deleted: vec![],
            fewest_served: usize::MAX,
            most_pods: 0,
            serial: 0,
        }
    }

    /// What the controller wants now.
    pub(super) fn plan(&mut self) -> Plan {
        let snapshot = Snapshot {
            daemon_set: Arc::new(self.set.clone()),
            nodes: self.nodes.values().map(seen).collect(),
            pods: self.pods.values().map(counted).collect(),
            revisions: self.revisions.values().cloned().map(Arc::new).collect(),
        };
        let serial = &mut self.serial;
        reconcile(&snapshot, &mut self.pauses, self.now, &mut || {
            *serial += 1;
            format!("{serial:05}")
        })
    }

    /// Carries out the first `count` actions.
    pub(super) fn carry_out(&mut self, plan: &Plan, count: usize) {
        for action in plan.actions.iter().take(count) {
            if let Action::Told { done: Some(note), .. } | Action::Event(note) = action {
                self.events.push((note.reason.clone(), note.message.clone()));
            }
            self.act(action.effect());
        }
    }

    fn act(&mut self, action: &Action) {
        match action {
            Action::Create { object, .. } if object["kind"] == "Pod" => {
                let mut pod: Pod = serde_json::from_value(object.clone()).unwrap();
                let name = pod.metadata.name.clone().unwrap();
                pod.metadata.uid = Some(format!("uid-{name}"));
                pod.metadata.creation_timestamp = Some(self.time());
                pod.status = serde_json::from_value(json!({"phase": "Pending"})).unwrap();
                self.made.push(name.clone());
                assert!(self.pods.insert(name, pod).is_none(), "a name is used once");
            }
            Action::Create { object, .. } | Action::Update { object } => {
                let mut revision: ControllerRevision = serde_json::from_value(object.clone()).unwrap();
                let name = revision.metadata.name.clone().unwrap();
                let is_there = self.revisions.contains_key(&name);
                assert_eq!(is_there, matches!(action, Action::Update { .. }), "{name}");
                revision.metadata.uid = Some(format!("uid-{name}"));
                self.revisions.insert(name, revision);
            }
            Action::UpdateStatus { object } => {
                let changed: DaemonSet = serde_json::from_value(object.clone()).unwrap();
                assert_eq!(changed.spec, self.set.spec);
                self.set.status = changed.status;
            }
            Action::Patch { target, patch, .. } => {
                let held = if target.kind == "Pod" {
                    to_value(&self.pods[&target.name])
                } else {
                    to_value(&self.revisions[&target.name])
                };
                assert_eq!(held["metadata"]["uid"], target.uid.as_str());
                let mut changed = held;
                merge(&mut changed, patch.clone());
                if target.kind == "Pod" {
                    self.pods
                        .insert(target.name.clone(), serde_json::from_value(changed).unwrap());
                } else {
                    let revision = serde_json::from_value(changed).unwrap();
                    self.revisions.insert(target.name.clone(), revision);
                }
            }
            Action::Delete { target, .. } if target.kind == "Pod" => {
                let time = self.time();
                let pod = self.pods.get_mut(&target.name).unwrap();
                assert!(pod.metadata.deletion_timestamp.is_none(), "deleted once: {}", target.name);
                self.deleted.push(target.name.clone());
                if target_of(pod).is_some() && pod.spec.as_ref().unwrap().node_name.is_some() {
                    pod.metadata.deletion_timestamp = Some(time);
                } else {
                    self.pods.remove(&target.name);
                }
            }
            Action::Delete { target, .. } => assert!(self.revisions.remove(&target.name).is_some()),
            Action::Event(_) => {}
            other => panic!("unexpected {other:?}"),
        }
    }

    fn time(&self) -> k8s_openapi::apimachinery::pkg::apis::meta::v1::Time {
        k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(self.now)
    }

    /// Pods are bound, run, and go; those of nodes that are gone too. Whether anything changed.
    pub(super) fn run_nodes(&mut self) -> bool {
        let before = self.pods.clone();
        let (nodes, now, healthy) = (&self.nodes, self.now, self.healthy);
        self.pods.retain(|_, pod| {
            let bound = pod.spec.as_ref().unwrap().node_name.clone();
            let lost = bound.is_some_and(|node| !nodes.contains_key(&node));
            pod.metadata.deletion_timestamp.is_none() && !lost
        });
        for pod in self.pods.values_mut() {
            let node = target_of(pod).unwrap();
            if pod.spec.as_ref().unwrap().node_name.is_none() {
                if nodes.contains_key(&node) {
                    pod.spec.as_mut().unwrap().node_name = Some(node);
                }
            } else if pods::phase(pod) == "Pending" {
                let ready = if healthy { "True" } else { "False" };
                let status = json!({"phase": "Running", "conditions": [
                    {"type": "Ready", "status": ready, "lastTransitionTime": now.to_string()}]});
                pod.status = serde_json::from_value(status).unwrap();
            }
        }
        self.fewest_served = self.fewest_served.min(self.served());
        self.most_pods = self.most_pods.max(self.pods.len());
        self.pods != before
    }

    /// Nodes with a pod that is available and stays.
    pub(super) fn served(&self) -> usize {
        let minimum = self.set.spec.as_ref().unwrap().min_ready_seconds.unwrap_or(0);
        let serve = |pod: &&Pod| {
            let available = pods::available_in(pod, minimum, self.now).is_some_and(|left| left.is_zero());
            available && pods::is_active(pod)
        };
        let served: BTreeSet<String> = self.pods.values().filter(serve).filter_map(target_of).collect();
        self.nodes.keys().filter(|name| served.contains(*name)).count()
    }

    /// One look and what comes of it; whether anything moved or is still to come.
    pub(super) fn step(&mut self) -> bool {
        let plan = self.plan();
        self.carry_out(&plan, usize::MAX);
        let moved = self.run_nodes();
        let wait = plan
            .requeue_after
            .map_or(1, |wait| i64::try_from(wait.as_secs()).unwrap().max(1));
        self.now += SignedDuration::from_secs(wait);
        moved || !plan.actions.is_empty() || plan.requeue_after.is_some()
    }

    pub(super) fn settle(&mut self) {
        for _ in 0..300 {
            if !self.step() {
                return;
            }
        }
        panic!("never settles: {:#?}", self.events);
    }

    /// Forgets what was made, deleted and told.
    pub(super) fn begin(&mut self) {
        (self.fewest_served, self.most_pods) = (usize::MAX, 0);
        self.events.clear();
        self.made.clear();
        self.deleted.clear();
    }

    pub(super) fn set_image(&mut self, image: &str) {
        let spec = self.set.spec.as_mut().unwrap();
        spec.template.spec.as_mut().unwrap().containers[0].image = Some(image.into());
        let generation = self.set.metadata.generation.unwrap() + 1;
        self.set.metadata.generation = Some(generation);
        let annotations = self.set.metadata.annotations.as_mut().unwrap();
        annotations.insert("deprecated.daemonset.template.generation".into(), generation.to_string());
    }

    /// The images of all pods, sorted.
    pub(super) fn images(&self) -> Vec<&str> {
        let specs = self.pods.values().map(|pod| pod.spec.as_ref().unwrap());
        let mut images: Vec<&str> = specs.map(|spec| spec.containers[0].image.as_deref().unwrap()).collect();
        images.sort_unstable();
        images
    }

    pub(super) fn status(&self) -> DaemonSetStatus {
        self.set.status.clone().unwrap_or_default()
    }

    /// Numbers and images of the revisions, sorted.
    pub(super) fn history(&self) -> Vec<(i64, String)> {
        let mut history: Vec<_> = self
            .revisions
            .values()
            .map(|revision| {
                let template = history::template_of(revision).unwrap();
                (revision.revision, template.spec.unwrap().containers[0].image.clone().unwrap())
            })
            .collect();
        history.sort();
        history
    }
}
