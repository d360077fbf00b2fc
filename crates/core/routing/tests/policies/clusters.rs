//! Random clusters.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::reference::World;
use super::{check, compute, kernel, namespace, pod, policy};

fn one_of(values: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    proptest::sample::select(values)
}

fn labels() -> impl Strategy<Value = Value> {
    let value = || prop_oneof![1 => Just(None), 3 => one_of(&["a", "b", "c"]).prop_map(Some)];
    (value(), value()).prop_map(|(app, tier)| {
        let mut labels = json!({});
        for (key, value) in [("app", app), ("tier", tier)] {
            if let Some(value) = value {
                labels[key] = json!(value);
            }
        }
        labels
    })
}

fn selector() -> impl Strategy<Value = Value> {
    let expression = (
        one_of(&["app", "tier"]),
        one_of(&["In", "NotIn", "Exists", "DoesNotExist"]),
        proptest::collection::vec(one_of(&["a", "b", "c"]), 1..3),
    )
        .prop_map(|(key, operator, values)| {
            let values = if operator.contains("Exist") { Vec::new() } else { values };
            json!({"key": key, "operator": operator, "values": values})
        });
    prop_oneof![
        2 => Just(json!({})),
        3 => labels().prop_map(|labels| json!({"matchLabels": labels})),
        3 => proptest::collection::vec(expression, 1..3).prop_map(|all| json!({"matchExpressions": all})),
    ]
}

fn peer() -> impl Strategy<Value = Value> {
    let block = prop_oneof![
        Just(json!({"ipBlock": {"cidr": "10.42.0.0/16", "except": ["10.42.0.2/31", "10.42.1.0/28"]}})),
        Just(json!({"ipBlock": {"cidr": "10.42.0.4/30"}})),
        Just(json!({"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}})),
        Just(json!({"ipBlock": {"cidr": "198.51.100.7/32"}})),
        Just(json!({"ipBlock": {"cidr": "fd42::/62", "except": ["fd42::4/127"]}})),
        Just(json!({"ipBlock": {"cidr": "::/0"}})),
        Just(json!({"ipBlock": {"cidr": "192.0.2.1/32"}})),
    ];
    prop_oneof![
        3 => selector().prop_map(|it| json!({"podSelector": it})),
        2 => selector().prop_map(|it| json!({"namespaceSelector": it})),
        2 => (selector(), selector()).prop_map(|(a, b)| json!({"namespaceSelector": a, "podSelector": b})),
        3 => block,
    ]
}

fn port() -> impl Strategy<Value = Value> {
    let protocol = || one_of(&["TCP", "UDP", "SCTP"]);
    prop_oneof![
        Just(json!({"port": 80})),
        protocol().prop_map(|it| json!({"protocol": it})),
        (protocol(), 79..83_u16).prop_map(|(protocol, port)| json!({"protocol": protocol, "port": port})),
        (protocol(), 50..83_u16, 0..20_u16)
            .prop_map(|(protocol, port, more)| { json!({"protocol": protocol, "port": port, "endPort": port + more}) }),
        (protocol(), one_of(&["http", "dns", "side", "once"]))
            .prop_map(|(protocol, name)| json!({"protocol": protocol, "port": name})),
    ]
}

fn rules(whom: &'static str) -> impl Strategy<Value = Value> {
    let rule = (
        proptest::collection::vec(peer(), 0..4),
        proptest::collection::vec(port(), 0..3),
    )
        .prop_map(move |(peers, ports)| json!({whom: peers, "ports": ports}));
    proptest::collection::vec(rule, 0..3).prop_map(Value::Array)
}

fn any_policy() -> impl Strategy<Value = Value> {
    let types = prop_oneof![
        Just(Value::Null),
        Just(json!(["Ingress"])),
        Just(json!(["Egress"])),
        Just(json!(["Ingress", "Egress"])),
    ];
    (one_of(&["x", "y", "z"]), selector(), types, rules("from"), rules("to")).prop_map(
        |(space, subjects, types, ingress, egress)| {
            let mut spec = json!({"podSelector": subjects, "policyTypes": types, "ingress": ingress, "egress": egress});
            spec.as_object_mut().unwrap().retain(|_, value| !value.is_null());
            policy("p", space, spec)
        },
    )
}

fn cluster() -> impl Strategy<Value = World> {
    let pods = (one_of(&["x", "y", "z"]), one_of(&["one", "one", "two"]), labels(), 0..12_u8);
    (
        proptest::collection::vec(labels(), 3),
        proptest::collection::vec(pods, 1..7),
        proptest::collection::vec(any_policy(), 0..5),
    )
        .prop_map(|(spaces, pods, policies)| {
            let names = ["x", "y", "z"];
            let pods = pods.into_iter().enumerate().map(|(at, (space, on, labels, fate))| {
                let mut pod = pod(at, space, on, &labels);
                match fate {
                    0 => pod["status"]["podIPs"] = json!([]),
                    1 => pod["spec"]["containers"][0]["ports"][0]["containerPort"] = json!(81),
                    2 => pod["spec"]["containers"] = json!([{"name": "c"}]),
                    _ => {}
                }
                pod
            });
            World {
                namespaces: names
                    .iter()
                    .zip(&spaces)
                    .map(|(name, labels)| namespace(name, labels))
                    .collect(),
                pods: pods.collect(),
                policies,
            }
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_clusters_equal_the_reference(world in cluster()) {
        let outcome = check(&world);
        // Neither the order of the objects nor the way to the rules matters.
        let mut turned = world.clone();
        turned.pods.reverse();
        turned.policies.reverse();
        prop_assert_eq!(
            kernel::lines(&compute(&turned).ruleset.replace()).len(),
            kernel::lines(&outcome.ruleset.replace()).len()
        );
    }
}
