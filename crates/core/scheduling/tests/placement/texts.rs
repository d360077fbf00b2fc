//! Where pods go and what is said where they go nowhere.

use serde_json::{Value, json};

use crate::common::{Ground, cpu, node, pod};

fn place(nodes: &[Value], pods: &[Value], pod: &Value) -> Result<String, String> {
    Ground::new(nodes, pods).place(pod)
}

#[test]
fn says_why_no_node_fits() {
    const VICTIMS: &str = "No preemption victims found for incoming pod";
    const USELESS: &str = "Preemption is not helpful for scheduling";
    let none = json!({});
    let port = json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]});
    let app = json!({"matchLabels": {"app": "web"}});
    let term = json!([{"topologyKey": "kubernetes.io/hostname", "labelSelector": app}]);
    let required = |kind: &str| json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": term}}});
    let spread = |key: &str| {
        json!({"topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule", "labelSelector": app, "minDomains": 2},
        ]})
    };
    let taint = json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}});
    let cordon = json!({"spec": {"unschedulable": true}});
    let pinned = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]}]}}}});
    for (extra, there, wanted, reason, preemption) in [
        (&none, &cpu("1500m"), &cpu("1"), "Insufficient cpu", VICTIMS),
        (&none, &none, &cpu("3"), "Insufficient cpu", USELESS),
        (&taint, &none, &none, "node(s) had untolerated taint(s)", USELESS),
        (&cordon, &none, &none, "node(s) were unschedulable", USELESS),
        (
            &none,
            &port,
            &port,
            "node(s) didn't have free ports for the requested pod ports",
            VICTIMS,
        ),
        (
            &none,
            &none,
            &json!({"nodeSelector": {"x": "y"}}),
            "node(s) didn't match Pod's node affinity/selector",
            USELESS,
        ),
        (
            &none,
            &none,
            &required("podAntiAffinity"),
            "node(s) didn't match pod anti-affinity rules",
            VICTIMS,
        ),
        (
            &none,
            &required("podAntiAffinity"),
            &none,
            "node(s) didn't satisfy existing pods anti-affinity rules",
            VICTIMS,
        ),
        (
            &none,
            &none,
            &spread("kubernetes.io/hostname"),
            "node(s) didn't match pod topology spread constraints",
            VICTIMS,
        ),
        (
            &none,
            &none,
            &spread("zone"),
            "node(s) didn't match pod topology spread constraints (missing required label)",
            USELESS,
        ),
        (
            &none,
            &none,
            &pinned,
            "node(s) didn't satisfy plugin(s) [NodeAffinity]",
            USELESS,
        ),
    ] {
        let got = place(
            &[node("a", extra)],
            &[pod("old", Some("a"), there)],
            &pod("new", None, wanted),
        );
        let message = format!("0/1 nodes are available: 1 {reason}. preemption: 0/1 nodes are available: 1 {preemption}.");
        assert_eq!(got, Err(message));
    }
    assert_eq!(
        place(&[], &[], &pod("p", None, &none)),
        Err("no nodes available to schedule pods".into())
    );
}

#[test]
fn several_reasons_are_counted_and_sorted() {
    let nodes = vec![
        node("a", &json!({"spec": {"unschedulable": true}})),
        node("b", &json!({"status": {"allocatable": {"cpu": "1", "pods": "0"}}})),
        node("c", &json!({"status": {"allocatable": {"cpu": "1"}}})),
    ];
    assert_eq!(
        place(&nodes, &[], &pod("p", None, &cpu("2"))),
        Err(
            "0/3 nodes are available: 1 Too many pods, 1 node(s) were unschedulable, 2 Insufficient cpu. preemption: 0/3 \
             nodes are available: 3 Preemption is not helpful for scheduling."
                .into()
        )
    );
}

#[test]
fn chooses_the_better_node() {
    let none = json!({});
    let prefer = json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 10, "preference": {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}}]}}});
    let near = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}]}}});
    let spread = json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {"matchLabels": {"app": "web"}}}]});
    let soft_taint = json!({"spec": {"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}});
    let ssd = json!({"metadata": {"labels": {"disk": "ssd"}}});
    for (name, a, b, on_a, wanted, chosen) in [
        ("the emptier", &none, &none, Some(cpu("1")), &none, "b"),
        ("without a soft taint", &soft_taint, &none, None, &none, "b"),
        ("by preference", &none, &ssd, None, &prefer, "b"),
        ("beside its friend", &none, &none, Some(none.clone()), &near, "a"),
        ("spread out", &none, &none, Some(none.clone()), &spread, "b"),
    ] {
        let pods: Vec<_> = on_a.iter().map(|spec| pod("old", Some("a"), spec)).collect();
        let got = place(&[node("a", a), node("b", b)], &pods, &pod("new", None, wanted));
        assert_eq!(got.as_deref(), Ok(chosen), "{name}");
    }
}

#[test]
fn the_first_of_an_affine_group_can_be_placed() {
    let near = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}]}}});
    assert_eq!(
        place(&[node("a", &json!({}))], &[], &pod("p", None, &near)).as_deref(),
        Ok("a")
    );
    let strangers = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "db"}}}]}}});
    assert!(place(&[node("a", &json!({}))], &[], &pod("p", None, &strangers)).is_err());
}

#[test]
fn what_leaves_and_comes_back_is_counted_once() {
    let mut ground = Ground::new(&[node("a", &json!({}))], &[pod("p", Some("a"), &cpu("1"))]);
    ground.put_pod(&pod("p", Some("a"), &cpu("500m")));
    ground.put_pod(&pod("q", Some("b"), &cpu("1")));
    let used = |ground: &Ground, name: &str| ground.snapshot.node(name).map(|node| node.requested.milli_cpu);
    assert_eq!((used(&ground, "a"), used(&ground, "b")), (Some(500), None));
    // A node that comes later has the pods that named it before.
    ground.put_node(&node("b", &json!({})));
    assert_eq!(used(&ground, "b"), Some(1000));
    assert!(ground.snapshot.remove_node("a"));
    ground.put_node(&node("a", &json!({})));
    assert_eq!(used(&ground, "a"), Some(500));
    assert!(ground.snapshot.remove_pod("p").is_some() && ground.snapshot.remove_pod("p").is_none());
    assert_eq!(used(&ground, "a"), Some(0));
}

#[test]
fn a_large_cluster_is_sampled_in_turns() {
    let nodes: Vec<_> = (0..1000).map(|n| node(&format!("n{n:04}"), &json!({}))).collect();
    let mut ground = Ground::new(&nodes, &[]);
    let new = ground.read(&pod("p", None, &cpu("1m")));
    let profile = trireme_scheduling::Profile::default();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let placement = trireme_scheduling::decide(&mut ground.snapshot, &profile, &new, 0).unwrap();
        assert_eq!((placement.suitable, placement.evaluated), (420, 420));
        seen.insert(placement.node);
    }
    assert_eq!(seen.len(), 3);
    assert_eq!(
        [50, 100, 1000, 5000, 10_000].map(|n| profile.nodes_to_find(n)),
        [50, 100, 420, 500, 500]
    );
}
