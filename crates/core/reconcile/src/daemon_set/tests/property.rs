//! From any state of nodes, pods and revisions, and though plans are cut off anywhere, a DaemonSet comes to one right pod
//! per node, and then nothing is written any more.

use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::placement::Placement;
use super::world::{World, daemon_set, node, seen, target_of};
use crate::history;
use crate::pods;

#[derive(Clone, Debug)]
struct Start {
    /// Zone and taint of each node.
    nodes: Vec<(bool, u8)>,
    pods: Vec<StartPod>,
    /// Image, number, whether ours, orphaned or somebody else's, whether labelled.
    revisions: Vec<(u8, i64, u8, bool)>,
    /// Strategy, minReadySeconds, revisionHistoryLimit.
    spec: (u8, i32, i32),
    /// After how many actions each of the first plans is cut off.
    cuts: Vec<usize>,
}

#[derive(Clone, Debug)]
struct StartPod {
    node: usize,
    bound: bool,
    phase: u8,
    ready: bool,
    image: u8,
    owner: u8,
    going: bool,
    selected: bool,
    age: u32,
}

const IMAGES: [&str; 3] = ["a", "b", "c"];

fn start() -> impl Strategy<Value = Start> {
    let pod = (
        (0..6_usize, any::<bool>(), 0..4_u8, any::<bool>()),
        (
            0..3_u8,
            0..3_u8,
            prop::bool::weighted(0.2),
            prop::bool::weighted(0.8),
            0..5_u32,
        ),
    );
    let pod = pod.prop_map(
        |((node, bound, phase, ready), (image, owner, going, selected, age))| StartPod {
            node,
            bound,
            phase,
            ready,
            image,
            owner,
            going,
            selected,
            age,
        },
    );
    (
        prop::collection::vec((prop::bool::weighted(0.8), 0..6_u8), 0..5),
        prop::collection::vec(pod, 0..10),
        prop::collection::vec((0..3_u8, 0..6_i64, 0..3_u8, any::<bool>()), 0..6),
        (0..6_u8, prop_oneof![Just(0), Just(5)], 0..3_i32),
        prop::collection::vec(0..6_usize, 0..6),
    )
        .prop_map(|(nodes, pods, revisions, spec, cuts)| Start {
            nodes,
            pods,
            revisions,
            spec,
            cuts,
        })
}

fn owners(kind: u8) -> Value {
    match kind {
        0 => json!([{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "agent", "uid": "set-uid", "controller": true}]),
        1 => json!(null),
        _ => json!([{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "other", "uid": "other", "controller": true}]),
    }
}

fn world(start: &Start) -> World {
    let rolling = |surge: Value, unavailable: Value| json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}});
    let (strategy, seconds, limit) = start.spec;
    let strategy = match strategy {
        0 => json!({"type": "OnDelete", "rollingUpdate": null}),
        1 => rolling(json!(0), json!(1)),
        2 => rolling(json!(0), json!("50%")),
        3 => rolling(json!(1), json!(0)),
        4 => rolling(json!("50%"), json!(0)),
        _ => rolling(json!(0), json!(0)),
    };
    let spec = json!({"updateStrategy": strategy, "minReadySeconds": seconds, "revisionHistoryLimit": limit,
        "template": {"spec": {"nodeSelector": {"zone": "a"}}}});
    let mut world = World::new(daemon_set("a", spec), 0);
    for (index, (selected, taint)) in start.nodes.iter().enumerate() {
        let name = format!("n{index}");
        let taints = match taint {
            0 => json!([{"key": "own", "effect": "NoSchedule"}]),
            1 => json!([{"key": "own", "effect": "NoExecute"}]),
            2 => json!([{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]),
            _ => json!([]),
        };
        let zone = if *selected { "a" } else { "b" };
        world.nodes.insert(name.clone(), node(&name, json!({"zone": zone}), taints));
    }
    for (index, (image, number, owner, labelled)) in start.revisions.iter().enumerate() {
        let mut template = world.set.spec.clone().unwrap().template;
        template.spec.as_mut().unwrap().containers[0].image = Some(IMAGES[usize::from(*image)].into());
        let mut labels = json!({"app": "agent"});
        if *labelled {
            labels["controller-revision-hash"] = format!("hash{index}").into();
        }
        let name = format!("agent-hash{index}");
        let revision = json!({
            "metadata": {"name": name, "namespace": "ns", "uid": format!("uid-{name}"), "labels": labels,
                "ownerReferences": owners(*owner)},
            "data": history::data_of(&template), "revision": number,
        });
        world.revisions.insert(name, serde_json::from_value(revision).unwrap());
    }
    for (index, pod) in start.pods.iter().enumerate() {
        let name = format!("pod-{index}");
        world.pods.insert(name.clone(), start_pod(&name, pod));
    }
    world
}

fn start_pod(name: &str, pod: &StartPod) -> Pod {
    let wanted = format!("n{}", pod.node);
    let mut value = json!({
        "metadata": {"name": name, "namespace": "ns", "uid": format!("uid-{name}"), "ownerReferences": owners(pod.owner),
            "labels": {"app": if pod.selected { "agent" } else { "other" },
                "controller-revision-hash": format!("hash{}", pod.image)},
            "creationTimestamp": format!("2025-01-01T00:00:0{}Z", pod.age)},
        "spec": {"containers": [{"name": "c", "image": IMAGES[usize::from(pod.image)]}],
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms":
                [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [wanted]}]}]}}}},
        "status": {"phase": "Pending"},
    });
    if pod.bound {
        value["spec"]["nodeName"] = wanted.into();
        let phase = ["Pending", "Running", "Failed", "Succeeded"][usize::from(pod.phase)];
        let ready = if pod.ready && pod.phase == 1 { "True" } else { "False" };
        value["status"] = json!({"phase": phase, "conditions": [
            {"type": "Ready", "status": ready, "lastTransitionTime": "2025-12-31T23:59:58Z"}]});
        if pod.going {
            value["metadata"]["deletionTimestamp"] = "2025-12-31T23:59:59Z".into();
        }
    }
    serde_json::from_value(value).unwrap()
}

/// A pod that runs but is not ready gets ready after a while.
fn heal(world: &mut World) {
    let now = world.now.to_string();
    for pod in world.pods.values_mut() {
        if pods::phase(pod) == "Running" && !pods::is_ready(pod) {
            let condition = json!([{"type": "Ready", "status": "True", "lastTransitionTime": now}]);
            pod.status.as_mut().unwrap().conditions = serde_json::from_value(condition).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn it_settles_from_anywhere(start in start()) {
        let mut world = world(&start);
        for cut in &start.cuts {
            let plan = world.plan();
            world.carry_out(&plan, *cut);
            world.run_nodes();
            world.now += jiff::SignedDuration::from_secs(1);
        }
        heal(&mut world);
        world.settle();
        heal(&mut world);
        world.settle();
        let plan = world.plan();
        prop_assert!(plan.actions.is_empty() && plan.requeue_after.is_none(), "{plan:?}");

        let rolls = start.spec.0 != 0;
        let placement = Placement::of(&world.set);
        let ours = |pod: &&Pod| {
            pod.metadata.owner_references.iter().flatten().any(|owner| owner.uid == "set-uid")
        };
        let present: Vec<_> = world.revisions.values()
            .filter(|revision| history::means(revision, &world.set.spec.as_ref().unwrap().template))
            .filter(|revision| revision.metadata.owner_references.iter().flatten().any(|owner| owner.uid == "set-uid"))
            .collect();
        prop_assert_eq!(present.len(), 1);
        let hash = &present[0].metadata.labels.as_ref().unwrap()["controller-revision-hash"];
        let (mut desired, mut misscheduled, mut updated) = (0, 0, 0);
        for (name, node) in &world.nodes {
            let here: Vec<_> = world.pods.values().filter(ours).filter(|pod| target_of(pod).as_ref() == Some(name)).collect();
            let fit = placement.fit(&seen(node));
            prop_assert!(here.iter().all(|pod| pods::phase(pod) == "Running" && pods::is_ready(pod)));
            prop_assert!(here.len() <= usize::from(fit.stay), "{name}: {}", here.len());
            prop_assert!(!fit.run || here.len() == 1, "{name}: {}", here.len());
            let new = here.iter().filter(|pod| pod.metadata.labels.as_ref().unwrap()["controller-revision-hash"] == *hash);
            let new = i32::try_from(new.count()).unwrap();
            prop_assert!(!rolls || !fit.run || new == 1, "{name} has an old pod");
            desired += i32::from(fit.run);
            misscheduled += i32::from(!fit.run && !here.is_empty());
            updated += if fit.run { new } else { 0 };
        }
        let status = world.status();
        prop_assert_eq!(
            (status.desired_number_scheduled, status.current_number_scheduled, status.number_ready, status.number_misscheduled),
            (desired, desired, desired, misscheduled)
        );
        prop_assert_eq!(status.number_available.unwrap_or(0), desired);
        prop_assert_eq!(status.number_unavailable, None);
        prop_assert_eq!(status.updated_number_scheduled.unwrap_or(0), updated);
        let matching = world.pods.values().filter(|pod| pod.metadata.labels.as_ref().unwrap()["app"] == "agent");
        prop_assert!(matching.into_iter().all(|pod| pod.metadata.owner_references.is_some()), "no orphan is left");
        prop_assert!(world.pods.values().filter(ours).all(|pod| pod.metadata.labels.as_ref().unwrap()["app"] == "agent"));
    }
}
