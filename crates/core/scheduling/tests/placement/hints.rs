//! Which changes wake a pod that fitted nowhere.

use serde_json::{Value, json};
use trireme_scheduling::hints::{Change, may_help};
use trireme_scheduling::{NodeRecord, Plugins};

use crate::common::{Ground, cpu, merge, node, pod};

fn record(value: &Value) -> NodeRecord {
    NodeRecord::read(value.to_string().as_bytes()).unwrap()
}

#[test]
fn a_change_wakes_only_whom_it_may_help() {
    let none = json!({});
    let mut ground = Ground::default();
    let spread = json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "web"}}}]});
    let near = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "web"}}}]}}});
    let port = json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]});
    let small = ground.read(&pod("small", None, &cpu("500m")));
    let huge = ground.read(&pod("huge", None, &cpu("64")));
    let spread = ground.read(&pod("spread", None, &spread));
    let near = ground.read(&pod("near", None, &near));
    let ported = ground.read(&pod("ported", None, &port));
    let mut other = pod("other", Some("a"), &none);
    other["metadata"]["labels"] = json!({"app": "other"});
    let (same, other) = (ground.read(&pod("same", Some("a"), &none)), ground.read(&other));
    let plain = record(&node("a", &none));
    let larger = record(&node("a", &json!({"status": {"allocatable": {"cpu": "4"}}})));
    let heartbeat = record(&node(
        "a",
        &json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}),
    ));
    let mut cordoned = node("a", &none);
    merge(&mut cordoned, &json!({"spec": {"unschedulable": true}}));
    let cordoned = record(&cordoned);
    let zoned = record(&node("a", &json!({"metadata": {"labels": {"zone": "z"}}})));
    for (what, change, pod, failed, helps) in [
        (
            "a node for whom it is large enough",
            Change::Node(None, &plain),
            &small,
            Plugins::FIT,
            true,
        ),
        (
            "a node that is too small",
            Change::Node(None, &plain),
            &huge,
            Plugins::FIT,
            false,
        ),
        (
            "a heartbeat",
            Change::Node(Some(&plain), &heartbeat),
            &small,
            Plugins::FIT,
            false,
        ),
        ("more room", Change::Node(Some(&plain), &larger), &small, Plugins::FIT, true),
        ("less room", Change::Node(Some(&larger), &plain), &small, Plugins::FIT, false),
        (
            "no longer cordoned",
            Change::Node(Some(&cordoned), &plain),
            &small,
            Plugins::UNSCHEDULABLE,
            true,
        ),
        ("cordoned", Change::Node(Some(&plain), &cordoned), &small, Plugins::FIT, false),
        (
            "another domain",
            Change::Node(Some(&plain), &zoned),
            &spread,
            Plugins::SPREAD,
            true,
        ),
        ("a pod gone, for room", Change::Left(&same), &small, Plugins::FIT, true),
        ("a pod gone, for a taint", Change::Left(&same), &small, Plugins::TAINTS, false),
        (
            "a pod without the port gone",
            Change::Left(&same),
            &ported,
            Plugins::PORTS,
            false,
        ),
        (
            "a pod with the port gone",
            Change::Left(&ported),
            &ported,
            Plugins::PORTS,
            true,
        ),
        ("a pod more, for room", Change::Came(&same), &small, Plugins::FIT, false),
        ("a friend", Change::Came(&same), &near, Plugins::POD_AFFINITY, true),
        ("one more of the spread", Change::Came(&same), &spread, Plugins::SPREAD, true),
        (
            "one that does not count",
            Change::Came(&other),
            &spread,
            Plugins::SPREAD,
            false,
        ),
        (
            "anything, where nobody said why",
            Change::Came(&other),
            &small,
            Plugins::default(),
            true,
        ),
    ] {
        assert_eq!(may_help(change, &pod.template, failed), helps, "{what}");
    }
}

#[test]
fn a_change_of_volumes_wakes_only_whom_it_may_help() {
    let mut ground = Ground::default();
    let mut read = |name: &str, volume: Value| ground.read(&pod(name, Some("a"), &json!({"volumes": [volume]})));
    let claimed = read("p", json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}}));
    let other = read("o", json!({"name": "v", "persistentVolumeClaim": {"claimName": "d"}}));
    let own = read("e", json!({"name": "v", "ephemeral": {}}));
    let disk = read("d", json!({"name": "v", "awsElasticBlockStore": {"volumeID": "x"}}));
    let plain = read("n", json!({"name": "v", "emptyDir": {}}));
    let (restrictions, limits) = (Plugins::VOLUME_RESTRICTIONS, Plugins::VOLUME_LIMITS);
    let (binding, zone) = (Plugins::VOLUME_BINDING, Plugins::VOLUME_ZONE);
    let claim = |name, new| Change::Claim {
        namespace: "default",
        name,
        new,
    };
    let elsewhere = Change::Claim {
        namespace: "other",
        name: "c",
        new: true,
    };
    for (what, change, pod, failed, helps) in [
        ("its claim, new", claim("c", true), &claimed, restrictions, true),
        ("its claim, changed", claim("c", false), &claimed, restrictions, false),
        ("its claim, new, for its limit", claim("c", true), &claimed, limits, true),
        ("its claim, changed, for binding", claim("c", false), &claimed, binding, true),
        ("its claim, changed, for the zone", claim("c", false), &claimed, zone, true),
        ("its claim, for room", claim("c", true), &claimed, Plugins::FIT, false),
        ("another claim", claim("d", true), &claimed, binding, false),
        ("a claim of that name elsewhere", elsewhere, &claimed, binding, false),
        ("the claim that is made for it", claim("e-v", true), &own, binding, true),
        ("a claim that is made for another", claim("e-w", true), &own, binding, false),
        ("a volume", Change::Volume { moved: false }, &claimed, binding, true),
        (
            "a volume that stays, for the zone",
            Change::Volume { moved: false },
            &claimed,
            zone,
            false,
        ),
        ("a volume that moves", Change::Volume { moved: true }, &claimed, zone, true),
        ("a class", Change::Class { new_and_waits: false }, &claimed, binding, true),
        (
            "an immediate class, for the zone",
            Change::Class { new_and_waits: false },
            &claimed,
            zone,
            false,
        ),
        ("a waiting class", Change::Class { new_and_waits: true }, &claimed, zone, true),
        ("a CSINode", Change::CsiNode { new: true }, &claimed, limits, true),
        (
            "a CSINode with more",
            Change::CsiNode { new: false },
            &claimed,
            binding,
            false,
        ),
        ("capacity", Change::Capacity, &claimed, binding, true),
        ("capacity, for a limit", Change::Capacity, &claimed, limits, false),
        ("an attachment less", Change::Detached, &claimed, limits, true),
        ("an attachment less, without claims", Change::Detached, &plain, limits, false),
        (
            "who used the claim is gone",
            Change::Left(&claimed),
            &claimed,
            restrictions,
            true,
        ),
        (
            "who used another is gone",
            Change::Left(&other),
            &claimed,
            restrictions,
            false,
        ),
        ("who had the disk is gone", Change::Left(&disk), &disk, restrictions, true),
        ("who had volumes is gone", Change::Left(&other), &claimed, limits, true),
        ("who had none is gone", Change::Left(&plain), &claimed, limits, false),
    ] {
        assert_eq!(may_help(change, &pod.template, failed), helps, "{what}");
    }
}
