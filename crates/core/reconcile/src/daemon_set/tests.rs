//! What upstream documents of DaemonSets, on a simulated API; and a property: from any state they settle.

mod history;
mod placement;
mod property;
mod rollout;
mod world;

use serde_json::json;

use crate::plan::{Action, EventKind};
use world::{World, daemon_set, node};

#[test]
fn every_node_gets_one_pod_and_the_status_tells_so() {
    let mut world = World::new(daemon_set("a", json!({})), 3);
    let plan = world.plan();
    let kinds: Vec<_> = plan
        .actions
        .iter()
        .map(|action| match action.effect() {
            Action::Create { object, .. } => object["kind"].as_str().unwrap().to_owned(),
            Action::UpdateStatus { object } => format!("status of {}", object["metadata"]["name"].as_str().unwrap()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(kinds, ["ControllerRevision", "status of agent", "Pod", "Pod", "Pod"]);
    world.settle();
    assert_eq!(world.made, ["agent-00004", "agent-00005", "agent-00006"]);
    assert_eq!(
        world.events[0],
        ("SuccessfulCreate".into(), "Created pod: agent-00004".into())
    );
    let status = serde_json::to_value(world.status()).unwrap();
    assert_eq!(
        status,
        json!({"currentNumberScheduled": 3, "desiredNumberScheduled": 3, "numberAvailable": 3, "numberMisscheduled": 0,
            "numberReady": 3, "observedGeneration": 1, "updatedNumberScheduled": 3})
    );
}

#[test]
fn a_pod_asks_for_its_node_and_tolerates_what_daemons_do() {
    let spec = json!({"template": {"spec": {"nodeSelector": {"kind": "a"}, "tolerations": [
        {"key": "mine", "operator": "Exists"},
        {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}],
        "affinity": {"podAntiAffinity": {}, "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [{"matchExpressions": [{"key": "kind", "operator": "Exists"}]}]}}}}}});
    let mut world = World::new(daemon_set("a", spec), 1);
    world.nodes.insert("n1".into(), node("n1", json!({"kind": "a"}), json!([])));
    let plan = world.plan();
    let Action::Told { action, done, failed } = plan.actions.last().unwrap() else {
        panic!("{plan:?}")
    };
    let Action::Create { object: pod, .. } = &**action else {
        panic!("{action:?}")
    };
    let (done, failed) = (done.as_ref().unwrap(), failed.as_ref().unwrap());
    assert_eq!(
        (
            done.regarding.kind.as_str(),
            done.kind,
            failed.reason.as_str(),
            failed.message.as_str()
        ),
        ("DaemonSet", EventKind::Normal, "FailedCreate", "Error creating")
    );
    let Action::Create { object: revision, .. } = plan.actions[0].effect() else {
        panic!("{plan:?}")
    };
    let hash = revision["metadata"]["labels"]["controller-revision-hash"].as_str().unwrap();
    assert_eq!(revision["metadata"]["name"], format!("agent-{hash}"));
    assert_eq!(revision["metadata"]["labels"]["app"], "agent");
    assert_eq!(pod["metadata"]["generateName"], "agent-");
    assert_eq!(
        pod["metadata"]["labels"],
        json!({"app": "agent", "controller-revision-hash": hash, "pod-template-generation": "1"})
    );
    assert_eq!(
        pod["metadata"]["ownerReferences"],
        json!([{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "agent", "uid": "set-uid", "controller": true,
            "blockOwnerDeletion": true}])
    );
    assert_eq!(pod["spec"]["nodeName"], json!(null));
    assert_eq!(
        pod["spec"]["affinity"],
        json!({"podAntiAffinity": {}, "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]}}})
    );
    let exists =
        |key: &str, effect: &str| json!({"key": format!("node.kubernetes.io/{key}"), "operator": "Exists", "effect": effect});
    assert_eq!(
        pod["spec"]["tolerations"],
        json!([
            {"key": "mine", "operator": "Exists"},
            exists("unreachable", "NoExecute"),
            exists("not-ready", "NoExecute"),
            exists("disk-pressure", "NoSchedule"),
            exists("memory-pressure", "NoSchedule"),
            exists("pid-pressure", "NoSchedule"),
            exists("unschedulable", "NoSchedule"),
        ])
    );
}

#[test]
fn a_node_that_joins_gets_one_and_one_that_leaves_takes_its_own_along() {
    let mut world = World::new(daemon_set("a", json!({})), 2);
    world.settle();
    world.begin();
    world.nodes.insert("n2".into(), node("n2", json!({}), json!([])));
    world.settle();
    assert_eq!((world.made.len(), world.status().desired_number_scheduled), (1, 3));
    world.nodes.remove("n0");
    let plan = world.plan();
    assert!(
        matches!(&plan.actions[..], [Action::UpdateStatus { .. }]),
        "a bound pod is left to pod garbage collection: {plan:?}"
    );
    world.settle();
    assert_eq!((world.pods.len(), world.status().desired_number_scheduled), (2, 2));
}

#[test]
fn a_pod_that_waits_for_a_node_that_is_gone_goes() {
    let mut world = World::new(daemon_set("a", json!({})), 1);
    let plan = world.plan();
    world.carry_out(&plan, usize::MAX);
    world.nodes.clear();
    world.settle();
    assert_eq!((world.deleted.len(), world.pods.len()), (1, 0));
}

#[test]
fn taints_and_labels_that_change_drive_pods_out_or_only_keep_new_ones_away() {
    let taint = |effect: &str| json!([{"key": "own", "effect": effect}]);
    for (name, labels, taints, expected) in [
        ("no schedule", json!({"kind": "a"}), taint("NoSchedule"), (1, 0, 1)),
        ("no execute", json!({"kind": "a"}), taint("NoExecute"), (0, 0, 0)),
        ("preferably not", json!({"kind": "a"}), taint("PreferNoSchedule"), (1, 1, 0)),
        ("another label", json!({"kind": "b"}), json!([]), (0, 0, 0)),
    ] {
        let spec = json!({"template": {"spec": {"nodeSelector": {"kind": "a"}}}});
        let mut world = World::new(daemon_set("a", spec), 0);
        world.nodes.insert("n".into(), node("n", json!({"kind": "a"}), json!([])));
        world.settle();
        assert_eq!(world.pods.len(), 1, "{name}");
        world.nodes.insert("n".into(), node("n", labels, taints));
        world.settle();
        let status = world.status();
        assert_eq!(
            (world.pods.len(), status.desired_number_scheduled, status.number_misscheduled),
            expected,
            "{name}"
        );
    }
}

#[test]
fn a_failed_pod_is_told_of_and_made_again_after_a_growing_pause() {
    let mut world = World::new(daemon_set("a", json!({})), 1);
    world.settle();
    let fail = |world: &mut World| {
        let pod = world.pods.values_mut().next().unwrap();
        pod.status.as_mut().unwrap().phase = Some("Failed".into());
        pod.status.as_mut().unwrap().conditions = None;
    };
    world.begin();
    fail(&mut world);
    let plan = world.plan();
    world.carry_out(&plan, usize::MAX);
    let name = world.deleted[0].clone();
    assert_eq!(
        world.events,
        [
            (
                "FailedDaemonPod".into(),
                format!("Found failed daemon pod ns/{name} on node n0, will try to kill it")
            ),
            ("SuccessfulDelete".into(), format!("Deleted pod: {name}")),
        ]
    );
    let mut waited = Vec::new();
    for _ in 0..4 {
        // The next one fails at once.
        world.run_nodes();
        let plan = world.plan();
        world.carry_out(&plan, usize::MAX);
        fail(&mut world);
        let plan = world.plan();
        let wait = plan.requeue_after.unwrap();
        let deletes = plan
            .actions
            .iter()
            .filter(|action| matches!(action.effect(), Action::Delete { .. }));
        assert_eq!(deletes.count(), 0, "it has to stay for a while");
        world.carry_out(&plan, usize::MAX);
        world.now += jiff::SignedDuration::try_from(wait).unwrap();
        let plan = world.plan();
        world.carry_out(&plan, usize::MAX);
        waited.push(wait.as_secs());
    }
    assert_eq!(waited, [1, 2, 4, 8]);
    assert_eq!(world.deleted.len(), 5);
    world.settle();
    assert_eq!(world.status().number_ready, 1);
}

#[test]
fn a_succeeded_pod_is_told_of_and_made_again_at_once() {
    let mut world = World::new(daemon_set("a", json!({})), 1);
    world.settle();
    world.begin();
    let name = world.pods.keys().next().unwrap().clone();
    world.pods.get_mut(&name).unwrap().status.as_mut().unwrap().phase = Some("Succeeded".into());
    world.settle();
    assert_eq!(
        world.events[0],
        (
            "SucceededDaemonPod".into(),
            format!("Found succeeded daemon pod ns/{name} on node n0, will try to delete it")
        )
    );
    assert_eq!((world.made.len(), world.deleted.len()), (1, 1));
}

#[test]
fn of_several_on_a_node_the_oldest_that_is_bound_stays() {
    let mut world = World::new(daemon_set("a", json!({})), 1);
    world.settle();
    let name = world.pods.keys().next().unwrap().clone();
    let pod = world.pods[&name].clone();
    for (other, created, bound) in [
        ("older-but-waiting", "2025-01-01T00:00:00Z", false),
        ("younger", "2027-01-01T00:00:00Z", true),
    ] {
        let mut double = pod.clone();
        double.metadata.name = Some(other.into());
        double.metadata.uid = Some(format!("uid-{other}"));
        double.metadata.creation_timestamp = serde_json::from_value(json!(created)).unwrap();
        if !bound {
            double.spec.as_mut().unwrap().node_name = None;
        }
        world.pods.insert(other.into(), double);
    }
    world.settle();
    assert_eq!(world.pods.keys().collect::<Vec<_>>(), [&name]);
}

#[test]
fn a_plan_makes_so_many_pods_and_no_more() {
    let mut world = World::new(daemon_set("a", json!({})), 300);
    let plan = world.plan();
    let made = plan
        .actions
        .iter()
        .filter(|action| matches!(action, Action::Told { .. }))
        .count();
    assert_eq!(made, super::BURST_REPLICAS);
    world.settle();
    assert_eq!(world.pods.len(), 300);
}

#[test]
fn an_orphan_is_adopted_and_one_that_is_relabelled_let_go_and_replaced() {
    let mut world = World::new(daemon_set("a", json!({})), 1);
    world.settle();
    world.begin();
    let name = world.pods.keys().next().unwrap().clone();
    world.pods.get_mut(&name).unwrap().metadata.owner_references = None;
    world.settle();
    assert_eq!(
        world.pods[&name].metadata.owner_references.as_ref().unwrap()[0].uid,
        "set-uid"
    );
    assert!(world.made.is_empty());
    let labels = &mut world.pods.get_mut(&name).unwrap().metadata.labels;
    labels.as_mut().unwrap().insert("app".into(), "other".into());
    world.settle();
    assert!(world.pods[&name].metadata.owner_references.is_none());
    assert_eq!((world.pods.len(), world.made.len()), (2, 1));
}

#[test]
fn one_that_selects_all_only_says_so_and_one_being_deleted_does_nothing() {
    let mut world = World::new(daemon_set("a", json!({"selector": {"matchLabels": null}})), 1);
    let plan = world.plan();
    let [Action::Event(note)] = &plan.actions[..] else {
        panic!("{plan:?}")
    };
    assert_eq!(
        (note.reason.as_str(), note.message.as_str()),
        (
            "SelectingAll",
            "This daemon set is selecting all pods. A non-empty selector is required."
        )
    );
    let mut world = World::new(daemon_set("a", json!({})), 1);
    world.set.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    assert_eq!(world.plan(), crate::plan::Plan::default());
}
