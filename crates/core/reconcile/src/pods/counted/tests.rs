//! What is read of a pod, and which goes first.

use serde_json::{Value, json};

use super::*;

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

#[test]
fn facts_are_what_the_pod_says() {
    let pod = CountedPod::made(&json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z",
            "annotations": {"a\"b": "c", DELETION_COST: "-7"}},
        "spec": {"nodeName": "n\\1", "hostname": "h", "subdomain": "s",
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]}]}}},
            "containers": [{"name": "a", "ports": [{"name": "http", "containerPort": 80}, {"containerPort": 1}, null]}, {"name": "b"}],
            "initContainers": [
                {"name": "side", "restartPolicy": "Always", "ports": [{"name": "dns", "containerPort": 53, "protocol": "UDP"}]},
                {"name": "first", "ports": [{"name": "gone", "containerPort": 2}]}, null]},
        "status": {"phase": "Running",
            "conditions": [null, {"type": "PodScheduled", "status": "True"},
                {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:30:00Z"}],
            "containerStatuses": [{"name": "a", "restartCount": 2}, {"name": "b", "restartCount": 5}],
            "initContainerStatuses": [{"name": "first", "restartCount": 9}, {"name": "side", "restartCount": 3}],
            "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}, null, {"ip": ""}]}
    }));
    let expected = PodFacts {
        phase: Phase::Running,
        node: "n\\1".into(),
        ready: true,
        ready_since: Some("2026-01-01T00:30:00Z".parse().unwrap()),
        created: Some("2026-01-01T00:00:00Z".parse().unwrap()),
        deletion_cost: -7,
        restarts: (5, 3),
        asks_for: Some("n2".into()),
        addresses: ["10.0.0.1", "fd00::1"].map(Box::from).into(),
        hostname: "h".into(),
        subdomain: "s".into(),
        ports: [("http", "TCP", 80), ("dns", "UDP", 53)]
            .map(|(name, protocol, number)| NamedPort {
                name: name.into(),
                protocol: protocol.into(),
                number,
            })
            .into(),
    };
    assert_eq!(pod.facts(), &expected);
    assert_eq!(pod.available_in(1800, now()), Some(Duration::ZERO));
    assert_eq!(pod.available_in(1801, now()), Some(Duration::from_secs(1)));
}

#[test]
fn nulls_and_what_is_absent_are_nothing() {
    let nothing = json!({"metadata": {}});
    let nulls = json!({"metadata": {"annotations": null, "creationTimestamp": null}, "spec": {"nodeName": null, "initContainers": null, "containers": null, "hostname": null, "affinity": null},
        "status": {"phase": null, "conditions": null, "containerStatuses": null, "initContainerStatuses": null,
            "podIP": null, "podIPs": null}});
    let nulls_within = json!({"metadata": {"annotations": {DELETION_COST: "+1"}},
        "status": {"conditions": [{"type": null, "status": null, "lastTransitionTime": null},
            {"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            "containerStatuses": [{"name": null, "restartCount": null}, null]}});
    let alone = json!({"metadata": {}, "spec": null, "status": null});
    let expected = PodFacts {
        phase: Phase::Pending,
        node: "".into(),
        ready: false,
        ready_since: None,
        created: None,
        deletion_cost: 0,
        restarts: (0, 0),
        asks_for: None,
        addresses: [].into(),
        hostname: "".into(),
        subdomain: "".into(),
        ports: [].into(),
    };
    for pod in [nothing, nulls, nulls_within, alone] {
        let pod = CountedPod::made(&pod);
        assert_eq!(pod.facts(), &expected, "{:?}", pod.object());
        assert_eq!(pod.available_in(0, now()), None);
    }
    let wrong = json!({"metadata": {}, "status": {"conditions": "unreadable"}});
    assert!(CountedPod::of(&Object::from_value(&wrong).unwrap()).is_err());
}

#[test]
fn costs_are_read_as_upstream_reads_them() {
    let table = [
        ("5", 5),
        ("-5", -5),
        ("0", 0),
        ("+5", 0),
        ("05", 0),
        ("2147483648", 0),
        ("x", 0),
        ("", 0),
        ("-", 0),
    ];
    for (text, cost) in table {
        assert_eq!(cost_of(text), cost, "{text}");
    }
}

/// Each of these goes before the next.
#[test]
fn pods_go_in_upstreams_order() {
    let ready = |since: &str| json!([{"type": "Ready", "status": "True", "lastTransitionTime": since}]);
    let pod = |uid: &str, node: &str, cost: &str, created: &str, status: Value| {
        CountedPod::made(&json!({
            "metadata": {"uid": uid, "creationTimestamp": created, "annotations": {DELETION_COST: cost}},
            "spec": {"nodeName": node, "initContainers": [{"name": "side", "restartPolicy": "Always"}]}, "status": status}))
    };
    let running = |conditions: Value, restarts: i32, of_sidecar: i32| {
        json!({"phase": "Running", "conditions": conditions, "containerStatuses": [{"name": "c", "restartCount": restarts}],
            "initContainerStatuses": [{"name": "side", "restartCount": of_sidecar}]})
    };
    let (old, long, lately) = ("2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z", "2026-01-01T00:59:00Z");
    let order = [
        (pod("9", "", "0", old, json!({"phase": "Running"})), 0),
        (pod("9", "n", "0", old, json!({"phase": "Pending"})), 0),
        (pod("9", "n", "0", old, json!({"phase": "Unknown"})), 0),
        (pod("9", "n", "0", old, running(json!([]), 0, 0)), 0),
        (pod("9", "n", "-1", old, running(ready(long), 0, 0)), 0),
        (pod("9", "n", "0", old, running(ready(long), 0, 0)), 2),
        (pod("9", "n", "0", old, running(ready(lately), 0, 0)), 1),
        (pod("9", "n", "0", old, running(ready(long), 3, 0)), 1),
        (pod("9", "n", "0", old, running(ready(long), 2, 1)), 1),
        (pod("9", "n", "0", lately, running(ready(long), 2, 0)), 1),
        (pod("1", "n", "0", old, running(ready(long), 2, 0)), 1),
        (pod("2", "n", "0", long, running(ready(long), 2, 0)), 1),
        (pod("0", "n", "1", lately, running(ready(lately), 9, 0)), 1),
    ];
    for (at, first) in order.iter().enumerate() {
        for second in &order[at + 1..] {
            let [first, second] = [first, second].map(|(pod, neighbours)| (pod, *neighbours));
            assert_eq!(deletion_order(first, second, now()), Ordering::Less, "{first:?} {second:?}");
            assert_eq!(deletion_order(second, first, now()), Ordering::Greater);
        }
    }
}
