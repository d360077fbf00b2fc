//! Which changes wake a pod that fitted nowhere.

mod common;

use common::{Ground, cpu, merge, node, pod};
use serde_json::{Value, json};
use trireme_scheduling::hints::{Change, may_help};
use trireme_scheduling::{NodeRecord, Plugins};

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
