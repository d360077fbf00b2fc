//! NetworkPolicies to rules: every combination of the fields, and random clusters, against a slow reference; what the rules mean
//! is read from the script that the kernel gets.

mod clusters;
mod kernel;
mod reference;
#[path = "../shared/mod.rs"]
mod shared;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::Command;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kernel::{Kernel, Packet};
use reference::World;
use serde_json::{Value, json};
use shared::kernel_accepts;
use trireme_routing::policy::{Input, Labels, Outcome, Policy, PolicyPod, isolate};
use trireme_routing::{Existing, NodeFacts, POLICY_TABLE, Ruleset};

const NODE_V4: &str = "192.0.2.1";
const NODE_V6: &str = "2001:db8::1";

fn node() -> NodeFacts {
    NodeFacts {
        name: "one".into(),
        cluster_cidrs: vec!["10.42.0.0/16".parse().unwrap(), "fd42::/48".parse().unwrap()],
        pod_cidrs: vec!["10.42.0.0/24".parse().unwrap(), "fd42::/64".parse().unwrap()],
        addresses: vec![NODE_V4.parse().unwrap(), NODE_V6.parse().unwrap()],
        ..NodeFacts::default()
    }
}

/// A world's policies and pods, as they are seen.
fn read(world: &World) -> (Vec<Arc<Policy>>, Vec<Arc<PolicyPod>>) {
    let policies: Vec<Arc<Policy>> = world
        .policies
        .iter()
        .map(|it| Arc::new(Policy::of(&serde_json::from_value::<NetworkPolicy>(it.clone()).unwrap())))
        .collect();
    let pods: Vec<Arc<PolicyPod>> = world
        .pods
        .iter()
        .filter_map(|it| PolicyPod::of(&serde_json::from_value::<Pod>(it.clone()).unwrap()))
        .map(Arc::new)
        .collect();
    (policies, pods)
}

fn compute(world: &World) -> Outcome {
    let (policies, pods) = read(world);
    let labels = |it: &Value| serde_json::from_value::<Option<Labels>>(it["metadata"]["labels"].clone()).unwrap();
    let namespaces: BTreeMap<String, Labels> = world
        .namespaces
        .iter()
        .map(|it| {
            (
                it["metadata"]["name"].as_str().unwrap().to_owned(),
                labels(it).unwrap_or_default(),
            )
        })
        .collect();
    isolate(&Input {
        policies: &policies,
        namespaces: &namespaces,
        pods: &pods,
        node: &node(),
    })
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn namespace(name: &str, labels: &Value) -> Value {
    json!({"metadata": {"name": name, "labels": labels}})
}

/// A pod of number `at` on a node, with ports `http` (TCP 80), `dns` (UDP 53) and, in a sidecar, `side` (TCP 81).
fn pod(at: usize, space: &str, on: &str, labels: &Value) -> Value {
    let net = if on == "one" { "0" } else { "1" };
    json!({
        "metadata": {"name": format!("p{at}"), "namespace": space, "labels": labels},
        "spec": {"nodeName": on,
            "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 80},
                {"name": "dns", "containerPort": 53, "protocol": "UDP"}]}],
            "initContainers": [{"name": "s", "restartPolicy": "Always", "ports": [{"name": "side", "containerPort": 81}]},
                {"name": "i", "ports": [{"name": "once", "containerPort": 82}]}]},
        "status": {"phase": "Running", "podIPs": [
            {"ip": format!("10.42.{net}.{}", at + 2)},
            {"ip": if on == "one" { format!("fd42::{:x}", at + 2) } else { format!("fd42:0:0:1::{:x}", at + 2) }}]},
    })
}

fn policy(name: &str, space: &str, spec: Value) -> Value {
    json!({"metadata": {"name": name, "namespace": space}, "spec": spec})
}

/// Two namespaces; in each a pod of either label here, and one on another node.
fn small() -> World {
    let mut world = World {
        namespaces: vec![
            namespace("x", &json!({"ns": "x", "kubernetes.io/metadata.name": "x"})),
            namespace("y", &json!({"ns": "y"})),
        ],
        ..World::default()
    };
    for (at, (space, on, labels)) in [
        ("x", "one", json!({"app": "a"})),
        ("x", "one", json!({"app": "b"})),
        ("y", "one", json!({"app": "a"})),
        ("x", "two", json!({"app": "b"})),
        ("y", "two", json!({"app": "b", "tier": "t"})),
    ]
    .into_iter()
    .enumerate()
    {
        world.pods.push(pod(at, space, on, &labels));
    }
    world
}

const FLOWS: [(&str, u16); 7] = [
    ("tcp", 80),
    ("tcp", 81),
    ("tcp", 82),
    ("udp", 53),
    ("udp", 80),
    ("sctp", 80),
    ("icmp", 0),
];

/// All packets between the addresses of one family.
fn packets(world: &World) -> Vec<Packet> {
    let own = world
        .pods
        .iter()
        .flat_map(|pod| pod["status"]["podIPs"].as_array().into_iter().flatten())
        .map(|it| address(it["ip"].as_str().unwrap()));
    let others = ["198.51.100.7", "203.0.113.9", "2001:db8:1::7", NODE_V4, NODE_V6].map(address);
    let mut all: Vec<IpAddr> = own.chain(others).collect();
    all.sort_unstable();
    all.dedup();
    let mut packets = Vec::new();
    for from in &all {
        for to in all.iter().filter(|to| to.is_ipv4() == from.is_ipv4()) {
            packets.extend(FLOWS.map(|(protocol, port)| Packet::new(*from, *to, protocol, port)));
        }
    }
    packets
}

fn hook_of(packet: &Packet) -> &'static str {
    let own = [NODE_V4, NODE_V6].map(address);
    if own.contains(&packet.to) { "input" } else { "forward" }
}

/// The rules mean what the reference says, for every packet; gives what was computed.
fn check(world: &World) -> Outcome {
    let outcome = compute(world);
    judge(world, &outcome, &packets(world));
    outcome
}

/// How many of the packets pass.
fn judge(world: &World, outcome: &Outcome, packets: &[Packet]) -> usize {
    let script = outcome.ruleset.replace();
    let kernel = Kernel::load(&script);
    let mut passed = 0;
    for packet in packets {
        let expected = world.passes("one", packet);
        passed += usize::from(expected);
        let hook = hook_of(packet);
        assert_eq!(
            kernel.passes(hook, packet),
            expected,
            "{hook} {packet:?}\n{}\n{script}",
            serde_json::to_string_pretty(&world.policies).unwrap()
        );
    }
    for packet in packets.iter().step_by(13) {
        let reply = Packet {
            from: packet.to,
            to: packet.from,
            established: true,
            ..*packet
        };
        assert!(kernel.passes("forward", &reply), "replies pass");
    }
    passed
}

fn peers() -> Vec<Value> {
    vec![
        Value::Null,
        json!([]),
        json!([{"podSelector": {}}]),
        json!([{"podSelector": {"matchLabels": {"app": "b"}}}]),
        json!([{"podSelector": {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["a"]}]}}]),
        json!([{"podSelector": {"matchExpressions": [{"key": "tier", "operator": "Exists"}]}}]),
        json!([{"namespaceSelector": {}}]),
        json!([{"namespaceSelector": {"matchLabels": {"ns": "y"}}}]),
        json!([{"namespaceSelector": {"matchExpressions": [{"key": "ns", "operator": "In", "values": ["y", "z"]}]},
                "podSelector": {"matchLabels": {"app": "a"}}}]),
        json!([{"namespaceSelector": {"matchLabels": {"ns": "y"}}}, {"podSelector": {"matchLabels": {"app": "b"}}}]),
        json!([{"ipBlock": {"cidr": "198.51.100.0/24"}}]),
        json!([{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["198.51.100.0/24", "10.42.1.0/24"]}},
               {"ipBlock": {"cidr": "::/0", "except": ["2001:db8:1::/64"]}}]),
        json!([{"ipBlock": {"cidr": "198.51.100.0/24", "except": ["198.51.100.7/32"]}}, {"podSelector": {"matchLabels": {"app": "a"}}}]),
    ]
}

fn ports() -> Vec<Value> {
    vec![
        Value::Null,
        json!([{"port": 80}]),
        json!([{"port": 80, "protocol": "UDP"}]),
        json!([{"port": 80, "endPort": 81, "protocol": "TCP"}]),
        json!([{"port": "http"}]),
        json!([{"port": "dns", "protocol": "UDP"}, {"port": "side"}, {"port": "once"}]),
        json!([{"protocol": "SCTP"}]),
        json!([{"port": "http", "protocol": "UDP"}, {"port": 82}, {"protocol": "UDP"}]),
    ]
}

/// All values of all fields with each other; of one section, since the other is read with the same words.
fn every_combination(section: &str, whom: &str) {
    let mut world = small();
    let all = packets(&world);
    let (v4, v6): (Vec<Packet>, Vec<Packet>) = all.into_iter().partition(|it| it.to.is_ipv4());
    let (mut seen, mut passed, mut judged) = (0, 0, 0);
    for subjects in [json!({}), json!({"matchLabels": {"app": "a"}}), Value::Null] {
        for types in [
            Value::Null,
            json!(["Ingress"]),
            json!(["Egress"]),
            json!(["Ingress", "Egress"]),
        ] {
            let mut sections = vec![Value::Null, json!([]), json!([{}])];
            for peers in peers() {
                for ports in ports() {
                    sections.push(json!([{whom: peers, "ports": ports}]));
                }
            }
            for rules in sections {
                let mut spec = json!({"podSelector": subjects, "policyTypes": types, section: rules});
                spec.as_object_mut().unwrap().retain(|_, value| !value.is_null());
                world.policies = vec![policy("one", "x", spec)];
                // Both families have the same rules; each case is judged in one, neighbours in the other, by half of its packets.
                let packets = if (seen + seen / 8) % 2 == 0 { &v4 } else { &v6 };
                let packets: Vec<Packet> = packets.iter().skip(seen % 2).step_by(2).copied().collect();
                passed += judge(&world, &compute(&world), &packets);
                judged += packets.len();
                seen += 1;
            }
        }
    }
    assert_eq!(seen, 3 * 4 * (3 + 13 * 8));
    assert!(passed > judged / 4 && passed < judged, "{passed} of {judged} pass");
}

#[test]
fn every_combination_of_ingress_equals_the_reference() {
    every_combination("ingress", "from");
}

#[test]
fn every_combination_of_egress_equals_the_reference() {
    every_combination("egress", "to");
}

#[test]
fn policies_add_up() {
    let mut world = small();
    let only = |peer: Value, port: Value| json!({"podSelector": {}, "ingress": [{"from": [peer], "ports": [port]}]});
    let of_a = only(json!({"podSelector": {"matchLabels": {"app": "a"}}}), json!({"port": 80}));
    let of_y = only(
        json!({"namespaceSelector": {"matchLabels": {"ns": "y"}}}),
        json!({"port": 80}),
    );
    let of_block = only(
        json!({"ipBlock": {"cidr": "198.51.100.0/24"}}),
        json!({"port": 81, "endPort": 90}),
    );
    let nothing = json!({"podSelector": {"matchLabels": {"app": "b"}}, "policyTypes": ["Ingress", "Egress"]});
    world.policies = [of_a, of_y, of_block, nothing]
        .into_iter()
        .enumerate()
        .map(|(at, spec)| policy(&format!("n{at}"), "x", spec))
        .collect();
    let outcome = check(&world);
    let kernel = Kernel::load(&outcome.ruleset.replace());
    // Ports of the two first are open to the union of their peers, which is one rule.
    assert_eq!(kernel.sizes().0, 4, "{}", outcome.ruleset.replace());
    world
        .policies
        .push(policy("all", "x", json!({"podSelector": {}, "ingress": [{}]})));
    check(&world);
}

#[test]
fn a_pod_that_is_not_known_is_closed_and_the_node_reaches_itself() {
    let mut world = small();
    assert!(compute(&world).ruleset == Ruleset::new(POLICY_TABLE), "no policy, no rules");
    world.policies = vec![policy("deny", "nowhere", json!({"podSelector": {}}))];
    let kernel = Kernel::load(&compute(&world).ruleset.replace());
    for (unknown, known) in [("10.42.0.77", "10.42.0.2"), ("fd42::77", "fd42::2")] {
        let (unknown, known) = (address(unknown), address(known));
        assert!(!kernel.passes("forward", &Packet::new(unknown, known, "tcp", 80)));
        assert!(!kernel.passes("forward", &Packet::new(known, unknown, "tcp", 80)));
        assert!(!kernel.passes("input", &Packet::new(unknown, address(NODE_V4), "tcp", 80)) || unknown.is_ipv6());
        let own = Packet {
            by_loopback: true,
            ..Packet::new(unknown, unknown, "tcp", 80)
        };
        assert!(kernel.passes("input", &own));
    }
    let neighbour = Packet::new(address("fd42::77"), address("fd42::1"), "nd", 0);
    assert!(kernel.passes("input", &neighbour));
    // Pods of other nodes are those nodes' to judge.
    assert!(kernel.passes(
        "forward",
        &Packet::new(address("10.42.0.2"), address("10.42.1.77"), "tcp", 80)
    ));
}

#[test]
fn pods_of_the_host_and_pods_that_have_ended_are_nobody() {
    let mut world = small();
    world.pods[1]["spec"]["hostNetwork"] = json!(true);
    world.pods[1]["status"]["podIPs"] = json!([{"ip": NODE_V4}]);
    world.pods[3]["status"]["phase"] = json!("Succeeded");
    let to_b = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "egress": [{"to": [{"podSelector": {}}]}]});
    world.policies = vec![policy("p", "x", to_b)];
    let outcome = check(&world);
    assert_eq!(outcome.isolated_pods, 1);
    assert!(outcome.names_pods);
    let alone = compute(&World {
        policies: vec![policy(
            "p",
            "x",
            json!({"podSelector": {}, "ingress": [{"ports": [{"port": 80}]}]}),
        )],
        ..world
    });
    assert!(!alone.names_pods, "needs no other pods");
}

/// All the shapes that rules have, each policy of them in the place of the one before.
#[test]
fn the_kernel_takes_every_shape_and_every_change() {
    let mut world = small();
    let mut before = Ruleset::new(POLICY_TABLE);
    let mut scripts = Vec::new();
    let long: Vec<Value> = (0..40)
        .map(|at| json!({"port": 1000 + at * 3, "endPort": 1001 + at * 3}))
        .collect();
    let mut lists = ports();
    lists.push(Value::Array(long));
    for (at, peers) in peers().into_iter().enumerate() {
        for ports in &lists {
            let mut rule = json!({"from": peers, "ports": ports});
            rule.as_object_mut().unwrap().retain(|_, value| !value.is_null());
            let both = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "ingress": [rule]});
            world.policies = vec![policy("p", if at % 2 == 0 { "x" } else { "y" }, both)];
            let after = compute(&world).ruleset;
            let change = after.change_from(&before);
            scripts.extend([change.apply, change.cleanup]);
            before = after;
        }
    }
    let gone = Ruleset::new(POLICY_TABLE).change_from(&before);
    scripts.extend([gone.apply, before.replace(), before.replace()]);
    let adopted = before.adopt(&Existing::of(POLICY_TABLE));
    scripts.extend([adopted.apply, adopted.cleanup]);
    kernel_accepts(&scripts);
}

#[test]
fn what_many_policies_share_is_there_once_and_a_packet_meets_few_rules() {
    let mut world = small();
    let everywhere = json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [
        {"from": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "b"}}}], "ports": [{"port": 80}]}]});
    world.policies = (0..2_000)
        .map(|at| policy(&format!("p{at}"), if at % 2 == 0 { "x" } else { "y" }, everywhere.clone()))
        .collect();
    let many = check(&world);
    world.policies.truncate(2);
    assert_eq!(many, check(&world), "more of the same is the same");
    // Each opens another port, to another namespace: one list of ports and peers each, and no more than is asked for.
    world
        .namespaces
        .extend((0..200).map(|at| namespace(&format!("n{at}"), &json!({"n": at.to_string()}))));
    world.policies = (0..200)
        .map(|at| {
            let from = json!([{"namespaceSelector": {"matchLabels": {"n": at.to_string()}}}]);
            let rule = json!({"from": from, "ports": [{"port": 1000 + at}]});
            policy(&format!("p{at}"), "x", json!({"podSelector": {}, "ingress": [rule]}))
        })
        .collect();
    let kernel = Kernel::load(&check(&world).ruleset.replace());
    assert_eq!((kernel.chains("ip", "in/"), kernel.sizes().0), (1, 201));
}

#[test]
fn many_pods_of_one_selector_are_one_set() {
    let mut world = small();
    world.namespaces.push(namespace("big", &json!({"n": "big"})));
    world
        .pods
        .extend((10..210).map(|at| pod(at, "big", "two", &json!({"app": "a"}))));
    let policies = |count: usize| {
        let each = (0..count).map(|at| {
            let from = json!([{"namespaceSelector": {"matchLabels": {"n": "big"}}}, {"podSelector": {"matchLabels": {"app": at.to_string()}}}]);
            let rule = json!({"from": from, "ports": [{"port": 80 + at}]});
            policy(&format!("p{at}"), if at % 2 == 0 { "x" } else { "y" }, json!({"podSelector": {}, "ingress": [rule]}))
        });
        each.collect::<Vec<_>>()
    };
    let mut sizes = Vec::new();
    for count in [2, 40] {
        world.policies = policies(count);
        sizes.push(compute(&world).ruleset.size());
    }
    // A rule or two more for each, and not 200 addresses in both families.
    assert!(sizes[1] < sizes[0] + 40 * 10, "{sizes:?}");
    world.pods.truncate(40);
    check(&world);
}

/// A policy made to be multiplied: long lists of peers and ports, and a second for each port, in no common order.
#[test]
fn rules_are_as_large_as_the_policies_ask_for() {
    let mut world = small();
    let blocks: Vec<Value> = (0..1_000)
        .map(|at| json!({"ipBlock": {"cidr": format!("203.{}.{}.0/25", at / 250, at % 250)}}))
        .collect();
    let ports: Vec<Value> = (0..1_000).map(|at| json!({"port": 2 * at + 1})).collect();
    let mut rules = vec![json!({"from": blocks, "ports": ports})];
    rules.extend((0..1_000).map(|at| {
        let own = json!({"ipBlock": {"cidr": format!("198.18.{}.{}/32", at / 250, at % 250)}});
        json!({"from": [own], "ports": [{"port": 2 * at + 1}]})
    }));
    world.policies = vec![policy("p", "x", json!({"podSelector": {}, "ingress": rules}))];
    let size = compute(&world).ruleset.size();
    assert!(size < 10_000, "{size} for 4,000 entries");
}

/// Figures for docs/BENCHMARKS.md; run by hand with `--release -- --ignored --nocapture`.
#[test]
#[ignore = "figures, not a test"]
fn ten_thousand_policies_cost() {
    let mut world = World::default();
    for space in 0..100 {
        let name = format!("n{space}");
        world.namespaces.push(namespace(&name, &json!({"n": name})));
        for at in 0..100 {
            let number = space * 100 + at;
            let on = if at == 0 {
                "one".to_owned()
            } else {
                format!("node{}", number % 100)
            };
            let mut it = pod(number, &name, &on, &json!({"app": format!("a{}", at % 10)}));
            let net = if at == 0 { 0 } else { 1 + number / 250 };
            it["status"]["podIPs"] = json!([{"ip": format!("10.42.{net}.{}", 2 + if at == 0 { space } else { number % 250 })}]);
            world.pods.push(it);
            let from = json!([{"podSelector": {"matchLabels": {"app": format!("a{}", at % 10)}}},
                {"namespaceSelector": {"matchLabels": {"n": format!("n{at}")}}}]);
            let rule = json!({"from": from, "ports": [{"port": 80 + at % 20}]});
            let subjects = if at % 2 == 0 {
                json!({})
            } else {
                json!({"matchLabels": {"app": format!("a{}", at % 10)}})
            };
            world.policies.push(policy(
                &format!("p{at}"),
                &name,
                json!({"podSelector": subjects, "ingress": [rule]}),
            ));
        }
    }
    let begun = std::time::Instant::now();
    let first = compute(&world);
    println!("objects read and rules computed in {} ms", begun.elapsed().as_millis());
    let (policies, pods) = read(&world);
    let namespaces: BTreeMap<String, Labels> = (0..100)
        .map(|at| format!("n{at}"))
        .map(|n| (n.clone(), [("n".to_owned(), n)].into()))
        .collect();
    let node = NodeFacts {
        pod_cidrs: vec!["10.42.0.0/24".parse().unwrap()],
        ..node()
    };
    let input = Input {
        policies: &policies,
        namespaces: &namespaces,
        pods: &pods,
        node: &node,
    };
    let begun = std::time::Instant::now();
    let outcome = isolate(&input);
    let computed = begun.elapsed();
    let script = outcome.ruleset.replace();
    let kernel = Kernel::load(&script);
    println!(
        "{} policies, {} pods, {} of them here and isolated: computed in {} ms, {} objects, script of {} kB, longest chain {} rules",
        policies.len(),
        pods.len(),
        outcome.isolated_pods,
        computed.as_millis(),
        outcome.ruleset.size(),
        script.len() / 1000,
        kernel.sizes().0
    );
    let begun = std::time::Instant::now();
    let change = outcome.ruleset.change_from(&first.ruleset);
    println!(
        "difference in {} ms, {} bytes",
        begun.elapsed().as_millis(),
        change.apply.len()
    );
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("all.nft");
    std::fs::write(&path, &script).unwrap();
    let begun = std::time::Instant::now();
    let output = Command::new("unshare")
        .args(["--net", "nft", "-f"])
        .arg(&path)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    println!("the kernel takes all of it in {} ms", begun.elapsed().as_millis());
}
