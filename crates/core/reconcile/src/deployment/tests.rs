//! Rollouts played through against an obedient world.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;

fn now() -> Timestamp {
    "2026-01-01T00:10:00Z".parse().unwrap()
}

fn deployment(replicas: i32, image: &str, strategy: Value) -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "ns", "uid": "d", "generation": 1},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "strategy": strategy,
            "revisionHistoryLimit": 1, "progressDeadlineSeconds": 600,
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}}
        }
    }))
    .unwrap()
}

/// Applies plans and makes every pod ready at once.
struct World {
    deployment: Deployment,
    sets: BTreeMap<String, ReplicaSet>,
    least_available: i32,
    most_pods: i32,
    events: Vec<String>,
}

impl World {
    fn new(deployment: Deployment) -> Self {
        Self {
            deployment,
            sets: BTreeMap::new(),
            least_available: i32::MAX,
            most_pods: 0,
            events: vec![],
        }
    }

    fn step(&mut self) -> bool {
        let snapshot = Snapshot {
            deployment: Arc::new(self.deployment.clone()),
            replica_sets: self.sets.values().cloned().map(Arc::new).collect(),
            pods: vec![],
        };
        let plan = reconcile(&snapshot, now());
        let moved = !plan.actions.is_empty();
        for action in plan.actions {
            match action.effect().clone() {
                Action::Create { object, .. } | Action::Update { object } => {
                    let mut set: ReplicaSet = serde_json::from_value(object).unwrap();
                    let name = set.metadata.name.clone().unwrap();
                    set.metadata.uid = Some(name.clone());
                    set.metadata
                        .creation_timestamp
                        .get_or_insert(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
                            now() + jiff::SignedDuration::from_secs(i64::try_from(self.sets.len()).unwrap()),
                        ));
                    self.sets.insert(name, set);
                }
                Action::UpdateStatus { object } => self.deployment = serde_json::from_value(object).unwrap(),
                Action::Delete { target, .. } => drop(self.sets.remove(&target.name).unwrap()),
                Action::Event(note) => self.events.push(note.message),
                other => panic!("unexpected {other:?}"),
            }
        }
        self.most_pods = self.most_pods.max(
            self.sets
                .values()
                .map(|set| set.spec.as_ref().unwrap().replicas.unwrap())
                .sum(),
        );
        // A set that shrinks loses its pods at once.
        let kept: i32 = self
            .sets
            .values()
            .map(|set| available(set).min(set.spec.as_ref().unwrap().replicas.unwrap()))
            .sum();
        self.least_available = self.least_available.min(kept);
        // One pod of one set becomes available at a time.
        let mut settled = false;
        for set in self.sets.values_mut() {
            let wanted = set.spec.as_ref().unwrap().replicas.unwrap();
            let status = set.status.get_or_insert_default();
            let held = status.available_replicas.unwrap_or(0);
            let next = if held > wanted { wanted } else { (held + 1).min(wanted) };
            settled |= next != held || status.replicas != wanted;
            status.replicas = wanted;
            status.available_replicas = Some(next);
            status.ready_replicas = Some(next);
            status.observed_generation = set.metadata.generation;
        }
        moved || settled
    }

    fn settle(&mut self) {
        for _ in 0..100 {
            if !self.step() {
                return;
            }
        }
        panic!("never settles: {:#?}", self.events);
    }

    fn sizes(&self) -> Vec<i32> {
        let mut sizes: Vec<_> = self
            .sets
            .values()
            .map(|set| set.spec.as_ref().unwrap().replicas.unwrap())
            .collect();
        sizes.sort_unstable();
        sizes
    }

    fn set_image(&mut self, image: &str) {
        let spec = self.deployment.spec.as_mut().unwrap();
        spec.template.spec.as_mut().unwrap().containers[0].image = Some(image.into());
        self.deployment.metadata.generation = self.deployment.metadata.generation.map(|generation| generation + 1);
    }
}

fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

#[test]
fn a_rollout_keeps_within_surge_and_availability() {
    let mut world = World::new(deployment(
        4,
        "a",
        json!({"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}),
    ));
    world.settle();
    assert_eq!(world.sizes(), [4]);
    assert!(status::is_complete(&world.deployment));
    assert_eq!(
        world.events,
        ["Scaled up replica set web-".to_owned() + &hash(&world) + " from 0 to 4"]
    );
    (world.least_available, world.most_pods) = (i32::MAX, 0);
    world.set_image("b");
    world.settle();
    assert_eq!(world.sizes(), [0, 4]);
    assert!(
        world.least_available >= 4 && world.most_pods <= 5,
        "{} {}",
        world.least_available,
        world.most_pods
    );
    assert_eq!(
        world.deployment.metadata.annotations.as_ref().unwrap()["deployment.kubernetes.io/revision"],
        "2"
    );
    let progressing = world
        .deployment
        .status
        .as_ref()
        .unwrap()
        .conditions
        .iter()
        .flatten()
        .find(|c| c.type_ == "Progressing")
        .unwrap();
    assert_eq!(progressing.reason.as_deref(), Some("NewReplicaSetAvailable"));
}

fn hash(world: &World) -> String {
    world.sets.keys().next().unwrap().trim_start_matches("web-").to_owned()
}

#[test]
fn going_back_reuses_the_old_set_as_a_new_revision_and_history_is_cut() {
    let mut world = World::new(deployment(2, "a", json!({})));
    world.settle();
    for image in ["b", "c"] {
        world.set_image(image);
        world.settle();
    }
    assert_eq!(world.sizes(), [0, 2], "revisionHistoryLimit 1 keeps one old set");
    world.set_image("b");
    world.settle();
    assert_eq!(world.sizes(), [0, 2]);
    assert_eq!(
        world.deployment.metadata.annotations.as_ref().unwrap()["deployment.kubernetes.io/revision"],
        "4"
    );
}

#[test]
fn scaling_in_a_paused_rollout_is_proportional() {
    let mut world = World::new(deployment(
        10,
        "a",
        json!({"rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}}),
    ));
    world.settle();
    world.set_image("b");
    for _ in 0..2 {
        world.step();
    }
    world.deployment.spec.as_mut().unwrap().paused = Some(true);
    world.settle();
    let before: i32 = world.sizes().iter().sum();
    assert!(before > 10 && world.sizes()[0] > 0, "{:?}", world.sizes());
    world.deployment.spec.as_mut().unwrap().replicas = Some(20);
    world.settle();
    assert_eq!(world.sizes().iter().sum::<i32>(), 23, "{:?}", world.sizes());
    world.deployment.spec.as_mut().unwrap().paused = None;
    world.settle();
    assert_eq!(world.sizes(), [0, 20]);
}

#[test]
fn recreate_waits_for_the_old_pods() {
    let mut world = World::new(deployment(3, "a", json!({"type": "Recreate"})));
    world.settle();
    world.most_pods = 0;
    world.set_image("b");
    world.settle();
    assert_eq!(world.sizes(), [0, 3]);
    assert_eq!(world.most_pods, 3);
}
