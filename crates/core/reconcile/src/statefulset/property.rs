//! From any start state a set comes to what is asked for, in order where that is asked for, and then nothing is written.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::tests::{Case, case, name_of, now, pod, revision, template};
use super::*;

/// The API, the nodes and the garbage collector, as far as the controller can tell.
struct World {
    set: Value,
    pods: BTreeMap<String, Value>,
    revisions: BTreeMap<String, Value>,
    claims: BTreeMap<String, Value>,
    made: u32,
}

#[derive(Clone, Copy, Debug)]
struct Start {
    ordinal: i32,
    image: &'static str,
    state: State,
    owned: bool,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Ready,
    Waiting,
    Failed,
    Succeeded,
    Going,
}

fn start() -> impl Strategy<Value = Start> {
    let image = prop_oneof![Just("a"), Just("b"), Just("c")];
    let state = prop_oneof![
        3 => Just(State::Ready),
        1 => Just(State::Waiting),
        1 => Just(State::Failed),
        1 => Just(State::Succeeded),
        1 => Just(State::Going),
    ];
    (0..7, image, state, any::<bool>()).prop_map(|(ordinal, image, state, owned)| Start {
        ordinal,
        image,
        state,
        owned,
    })
}

fn configured() -> impl Strategy<Value = Case> {
    let rolling = prop_oneof![
        Just(json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}})),
        Just(json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 2}})),
        Just(json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0, "maxUnavailable": 2}})),
        Just(json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 1, "maxUnavailable": "50%"}})),
        Just(json!({"type": "OnDelete"})),
    ];
    let policy = || prop_oneof![Just("Retain"), Just("Delete")];
    let history = proptest::sample::subsequence(vec!["a", "b", "c", "d"], 0..4);
    (0..5, 0..3, any::<bool>(), rolling, policy(), policy(), history, any::<bool>()).prop_map(
        |(replicas, first, ordered, rolling, deleted, scaled, history, claims)| {
            let mut case = case(replicas);
            case.spec["ordinals"] = json!({"start": first});
            case.spec["podManagementPolicy"] = if ordered { "OrderedReady" } else { "Parallel" }.into();
            case.spec["updateStrategy"] = rolling;
            case.spec["template"] = template("b");
            case.spec["revisionHistoryLimit"] = 1.into();
            case.spec["persistentVolumeClaimRetentionPolicy"] = json!({"whenDeleted": deleted, "whenScaled": scaled});
            if claims {
                case.spec["volumeClaimTemplates"] = json!([{"metadata": {"name": "data"}, "spec": {}}]);
            }
            case.revisions = history
                .into_iter()
                .zip(1..)
                .map(|(image, number)| revision(image, number))
                .collect();
            case
        },
    )
}

impl World {
    fn new(case: &Case, starts: &[Start]) -> Self {
        let claimed = case.spec.get("volumeClaimTemplates").is_some();
        let mut pods = BTreeMap::new();
        for start in starts {
            let mut pod = pod(start.ordinal, start.image, matches!(start.state, State::Ready | State::Going));
            match start.state {
                State::Failed => pod["status"]["phase"] = "Failed".into(),
                State::Succeeded => pod["status"]["phase"] = "Succeeded".into(),
                State::Going => pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into(),
                State::Ready | State::Waiting => {}
            }
            let name = pod["metadata"]["name"].as_str().unwrap().to_owned();
            if !start.owned {
                pod["metadata"]["ownerReferences"] = json!([]);
            }
            if claimed {
                pod["spec"]["volumes"] =
                    json!([{"name": "data", "persistentVolumeClaim": {"claimName": format!("data-{name}")}}]);
            }
            pods.insert(name, pod);
        }
        let revisions = case.revisions.iter().map(|revision| to_value(&**revision));
        Self {
            set: json!({"metadata": case.metadata, "spec": case.spec, "status": case.status}),
            pods,
            revisions: revisions
                .map(|value| (value["metadata"]["name"].as_str().unwrap().to_owned(), value))
                .collect(),
            claims: BTreeMap::new(),
            made: 0,
        }
    }

    fn plan(&self) -> Plan {
        fn typed<K: serde::de::DeserializeOwned>(all: &BTreeMap<String, Value>) -> Vec<Arc<K>> {
            let all = all.values().cloned();
            all.map(|value| Arc::new(serde_json::from_value(value).unwrap())).collect()
        }
        let snapshot = Snapshot {
            set: Arc::new(serde_json::from_value(self.set.clone()).unwrap()),
            pods: typed(&self.pods),
            revisions: typed(&self.revisions),
            claims: typed(&self.claims),
        };
        reconcile(&snapshot, now())
    }

    fn of(&mut self, kind: &str) -> &mut BTreeMap<String, Value> {
        match kind {
            "Pod" => &mut self.pods,
            "ControllerRevision" => &mut self.revisions,
            "PersistentVolumeClaim" => &mut self.claims,
            other => panic!("a StatefulSet has no {other}"),
        }
    }

    fn carry_out(&mut self, plan: &Plan) {
        for action in &plan.actions {
            match action.effect() {
                Action::Create { object, .. } => {
                    let mut object = object.clone();
                    let kind = object["kind"].as_str().unwrap().to_owned();
                    let name = object["metadata"]["name"].as_str().unwrap().to_owned();
                    self.made += 1;
                    object["metadata"]["uid"] = format!("made-{}", self.made).into();
                    if kind == "Pod" {
                        object["status"] = json!({"phase": "Pending"});
                    }
                    if let Some(held) = self.of(&kind).get(&name) {
                        // It has the name and goes away without being adopted. The API refuses another, and the plan ends.
                        let is_ours = held["metadata"]["ownerReferences"][0]["uid"] == "set";
                        assert!(kind == "Pod" && !is_ours, "two of one identity: {kind} {name}");
                        return;
                    }
                    self.of(&kind).insert(name, object);
                }
                Action::Update { object } => {
                    let kind = object["kind"].as_str().unwrap().to_owned();
                    let name = object["metadata"]["name"].as_str().unwrap();
                    let held = self.of(&kind).get_mut(name).unwrap();
                    assert_eq!(held["metadata"]["uid"], object["metadata"]["uid"]);
                    *held = object.clone();
                }
                Action::UpdateStatus { object } => self.set["status"] = object["status"].clone(),
                Action::Patch { target, patch, .. } => {
                    let held = self.of(&target.kind).get_mut(&target.name).unwrap();
                    held["metadata"]["ownerReferences"] = patch["metadata"]["ownerReferences"].clone();
                }
                Action::Delete { target, .. } => {
                    let held = self.of(&target.kind);
                    let object = held.get_mut(&target.name).unwrap();
                    assert_eq!(object["metadata"]["uid"], target.uid);
                    if target.kind == "Pod" {
                        object["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
                    } else {
                        held.remove(&target.name);
                    }
                }
                Action::Event(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Some pods start, end or are gone; claims go with a pod that owned them.
    fn turn(&mut self, mut acts: impl FnMut() -> bool) {
        self.pods
            .retain(|_, pod| pod["metadata"].get("deletionTimestamp").is_none() || !acts());
        for pod in self.pods.values_mut() {
            if pod["status"]["phase"] == "Pending" && acts() {
                pod["status"] = json!({"phase": "Running", "conditions": [
                    {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:09:00Z"}]});
            }
        }
        let alive: Vec<Value> = self.pods.values().map(|pod| pod["metadata"]["uid"].clone()).collect();
        self.claims.retain(|_, claim| {
            let owners = claim["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
            owners.is_empty()
                || owners
                    .iter()
                    .any(|owner| owner["kind"] != "Pod" || alive.contains(&owner["uid"]))
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn any_start_converges_and_is_then_left_alone(
        case in configured(),
        starts in proptest::collection::vec(start(), 0..7),
        acts in proptest::collection::vec(any::<bool>(), 64),
    ) {
        let mut world = World::new(&case, &starts);
        let ordered = case.spec["podManagementPolicy"] == "OrderedReady";
        let mut asked = 0;
        let mut quiet = 0;
        for round in 0..400 {
            let plan = world.plan();
            let of_pods = plan.actions.iter().filter(|action| match action.effect() {
                Action::Create { object, .. } => object["kind"] == "Pod",
                Action::Delete { target, .. } => target.kind == "Pod",
                _ => false,
            });
            if ordered && case.spec["updateStrategy"]["rollingUpdate"].get("maxUnavailable").is_none() {
                prop_assert!(of_pods.count() <= 1, "in order means one at a time: {plan:?}");
            }
            quiet = if plan.actions.is_empty() { quiet + 1 } else { 0 };
            world.carry_out(&plan);
            // Nodes are slow for a while, then they keep up.
            world.turn(|| {
                asked += 1;
                round + asked > 60 || acts[(round + asked) % acts.len()]
            });
            if quiet > 3 && round + asked > 60 {
                break;
            }
        }
        prop_assert!(quiet > 3, "still busy: {:?}", world.plan());

        let first = case.spec["ordinals"]["start"].as_i64().unwrap();
        let replicas = case.spec["replicas"].as_i64().unwrap();
        let wanted: Vec<String> = (first..first + replicas).map(|ordinal| format!("web-{ordinal}")).collect();
        prop_assert_eq!(world.pods.keys().cloned().collect::<Vec<_>>(), wanted.clone());
        let status = &world.set["status"];
        prop_assert_eq!(status["replicas"].as_i64(), Some(replicas));
        prop_assert_eq!(status["availableReplicas"].as_i64(), Some(replicas));
        let update = name_of("b");
        prop_assert_eq!(status["updateRevision"].as_str(), Some(update.as_str()));
        if case.spec["updateStrategy"]["type"] == "RollingUpdate" {
            let partition = case.spec["updateStrategy"]["rollingUpdate"]["partition"].as_u64().unwrap();
            for name in wanted.iter().skip(usize::try_from(partition).unwrap()) {
                let labels = &world.pods[name]["metadata"]["labels"];
                prop_assert_eq!(labels["controller-revision-hash"].as_str(), Some(update.as_str()));
            }
        }
        for (name, pod) in &world.pods {
            prop_assert_eq!(pod["metadata"]["ownerReferences"][0]["uid"].as_str(), Some("set"));
            prop_assert_eq!(pod["metadata"]["labels"]["statefulset.kubernetes.io/pod-name"].as_str(), Some(name.as_str()));
        }
    }
}
