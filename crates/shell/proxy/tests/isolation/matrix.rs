//! What policies let through, in both families, over TCP and UDP: pods here and on another node, somebody outside, the node itself.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};
use trireme_network::{Nft, Nftables};
use trireme_routing::policy::{Input, Policy, PolicyPod, isolate};
use trireme_routing::{NodeFacts, POLICY_TABLE, Ruleset};

use super::LISTEN_IN_VAIN;
use crate::ground::{Namespace, shell};

/// Long enough for what is let through.
const LISTEN: Duration = Duration::from_secs(10);
const NODE: (&str, &str) = ("192.0.2.1", "2001:db8::1");
/// Name, addresses of both families, and of pods the namespace, the label and the node that they are on.
type Spot = (
    &'static str,
    (&'static str, &'static str),
    Option<(&'static str, &'static str, &'static str)>,
);
const SPOTS: [Spot; 5] = [
    ("a", ("10.42.0.2", "fd42::2"), Some(("x", "a", "one"))),
    ("b", ("10.42.0.3", "fd42::3"), Some(("x", "b", "one"))),
    ("c", ("10.42.0.4", "fd42::4"), Some(("y", "a", "one"))),
    ("d", ("10.42.1.5", "fd42:0:0:1::5"), Some(("y", "b", "two"))),
    ("out", ("198.51.100.7", "2001:db8:1::7"), None),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Probe {
    from: &'static str,
    to: &'static str,
    flow: &'static str,
}

fn probes() -> Vec<Probe> {
    let mut all = vec![Probe {
        from: "c",
        to: "d",
        flow: "tcp/80",
    }];
    for other in ["b", "c", "d", "out", "node"] {
        for flow in ["tcp/80", "tcp/81", "udp/80"] {
            for (from, to) in [(other, "a"), ("a", other)] {
                all.push(Probe { from, to, flow });
            }
        }
    }
    all
}

/// Of what a policy for ingress of `a` alone lets through.
fn into_a(probe: &Probe, is_let_in: bool) -> bool {
    probe.to != "a" || probe.from == "node" || is_let_in
}

fn out_of_a(probe: &Probe, is_let_out: bool) -> bool {
    probe.from != "a" || is_let_out
}

type Expected = fn(&Probe) -> bool;

/// Specs in namespace `x`, and what they let through.
fn cases() -> Vec<(&'static str, Vec<Value>, Expected)> {
    let a = || json!({"matchLabels": {"app": "a"}});
    let from = |peers: Value, ports: Value| vec![json!({"podSelector": a(), "ingress": [{"from": peers, "ports": ports}]})];
    let to = |peers: Value, ports: Value| {
        vec![json!({"podSelector": a(), "policyTypes": ["Egress"], "egress": [{"to": peers, "ports": ports}]})]
    };
    let none = || json!([]);
    let label = |app: &str| json!({"matchLabels": {"app": app}});
    let y = || json!({"matchLabels": {"space": "y"}});
    let outside = json!([{"ipBlock": {"cidr": "198.51.100.0/24"}}, {"ipBlock": {"cidr": "2001:db8:1::/64"}}]);
    let but_outside = json!([{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["198.51.100.0/24"]}},
                             {"ipBlock": {"cidr": "::/0", "except": ["2001:db8:1::/64"]}}]);
    let node = json!([{"ipBlock": {"cidr": "192.0.2.1/32"}}, {"ipBlock": {"cidr": "2001:db8::1/128"}}]);
    vec![
        ("no policy", vec![], |_| true),
        ("nobody in", vec![json!({"podSelector": {}})], |it| {
            into_a(it, false) && it.to != "b"
        }),
        (
            "nothing in or out",
            vec![json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})],
            |it| into_a(it, false) && out_of_a(it, false),
        ),
        (
            "nothing out",
            vec![json!({"podSelector": a(), "policyTypes": ["Egress"]})],
            |it| out_of_a(it, false),
        ),
        ("everybody in", vec![json!({"podSelector": a(), "ingress": [{}]})], |_| true),
        ("pods by label", from(json!([{"podSelector": label("b")}]), none()), |it| {
            into_a(it, it.from == "b")
        }),
        (
            "namespaces by label",
            from(json!([{"namespaceSelector": y()}]), none()),
            |it| into_a(it, matches!(it.from, "c" | "d")),
        ),
        (
            "both in one",
            from(json!([{"namespaceSelector": y(), "podSelector": label("b")}]), none()),
            |it| into_a(it, it.from == "d"),
        ),
        (
            "one or the other",
            from(json!([{"namespaceSelector": y()}, {"podSelector": label("b")}]), none()),
            |it| into_a(it, matches!(it.from, "b" | "c" | "d")),
        ),
        (
            "expressions",
            from(
                json!([{"namespaceSelector": {"matchExpressions": [{"key": "space", "operator": "Exists"}]},
                        "podSelector": {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["a", "z"]}]}}]),
                none(),
            ),
            |it| into_a(it, matches!(it.from, "b" | "d")),
        ),
        ("a block", from(outside.clone(), none()), |it| into_a(it, it.from == "out")),
        ("all but a block", from(but_outside.clone(), none()), |it| {
            into_a(it, it.from != "out")
        }),
        ("a port", from(none(), json!([{"port": 80}])), |it| {
            into_a(it, it.flow == "tcp/80")
        }),
        (
            "a port of UDP",
            from(none(), json!([{"port": 80, "protocol": "UDP"}])),
            |it| into_a(it, it.flow == "udp/80"),
        ),
        ("a range", from(none(), json!([{"port": 80, "endPort": 90}])), |it| {
            into_a(it, it.flow.starts_with("tcp"))
        }),
        ("all ports of UDP", from(none(), json!([{"protocol": "UDP"}])), |it| {
            into_a(it, it.flow == "udp/80")
        }),
        (
            "SCTP is not TCP",
            from(none(), json!([{"port": 80, "protocol": "SCTP"}])),
            |it| into_a(it, false),
        ),
        ("a named port", from(none(), json!([{"port": "second"}])), |it| {
            into_a(it, it.flow == "tcp/81")
        }),
        (
            "a named port of UDP from pods",
            from(
                json!([{"namespaceSelector": {}}]),
                json!([{"port": "dgram", "protocol": "UDP"}]),
            ),
            |it| into_a(it, it.flow == "udp/80" && it.from != "out"),
        ),
        ("out to pods", to(json!([{"podSelector": label("b")}]), none()), |it| {
            out_of_a(it, it.to == "b")
        }),
        (
            "out to namespaces and a port",
            to(json!([{"namespaceSelector": y()}]), json!([{"port": 80}])),
            |it| out_of_a(it, matches!(it.to, "c" | "d") && it.flow == "tcp/80"),
        ),
        ("out to a named port", to(none(), json!([{"port": "second"}])), |it| {
            out_of_a(it, matches!(it.to, "b" | "c" | "d") && it.flow == "tcp/81")
        }),
        ("out to a block", to(but_outside, none()), |it| out_of_a(it, it.to != "out")),
        ("out to the node", to(node, none()), |it| out_of_a(it, it.to == "node")),
        (
            "both sections without types",
            vec![json!({"podSelector": a(), "egress": [{"to": [{"podSelector": {}}]}]})],
            |it| into_a(it, false) && out_of_a(it, it.to == "b"),
        ),
        (
            "two policies",
            [
                from(json!([{"podSelector": label("b")}]), json!([{"port": 80}])),
                from(
                    json!([{"namespaceSelector": y(), "podSelector": label("a")}]),
                    json!([{"port": 80, "protocol": "UDP"}]),
                ),
            ]
            .concat(),
            |it| into_a(it, matches!((it.from, it.flow), ("b", "tcp/80") | ("c", "udp/80"))),
        ),
        (
            "kept in though let in",
            [
                from(none(), none()),
                vec![json!({"podSelector": label("b"), "policyTypes": ["Egress"]})],
            ]
            .concat(),
            |it| it.from != "b",
        ),
    ]
}

fn serve() {
    for port in [80, 81] {
        let tcp = TcpListener::bind(("::", port)).unwrap();
        std::thread::spawn(move || {
            for stream in tcp.incoming().flatten() {
                std::thread::spawn(move || {
                    let mut stream = stream;
                    let mut byte = [0];
                    while stream.read(&mut byte).unwrap_or(0) == 1 && stream.write_all(&byte).is_ok() {}
                });
            }
        });
    }
    let udp = UdpSocket::bind(("::", 80)).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 16];
        while let Ok((length, peer)) = udp.recv_from(&mut buffer) {
            if udp.send_to(&buffer[..length], peer).is_err() {
                return;
            }
        }
    });
}

/// Whether somebody answers there, in this thread's namespace.
fn reaches(to: IpAddr, flow: &str, within: Duration) -> bool {
    let (protocol, port) = flow.split_once('/').unwrap();
    let target = SocketAddr::new(to, port.parse().unwrap());
    if protocol == "tcp" {
        let Ok(mut stream) = TcpStream::connect_timeout(&target, within) else {
            return false;
        };
        stream.set_read_timeout(Some(LISTEN)).unwrap();
        stream.write_all(b"?").unwrap();
        return stream.read_exact(&mut [0]).is_ok();
    }
    let own = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(own).unwrap();
    socket.set_read_timeout(Some(LISTEN_IN_VAIN)).unwrap();
    let end = Instant::now() + within;
    loop {
        socket.send_to(b"?", target).unwrap();
        if socket.recv_from(&mut [0; 16]).is_ok() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
    }
}

/// Asks all at once, from this thread's namespace.
fn ask(questions: Vec<(Probe, IpAddr, bool)>) -> Vec<(Probe, bool)> {
    let asked: Vec<_> = questions
        .into_iter()
        .map(|(probe, to, expected)| {
            let within = if expected { LISTEN } else { LISTEN_IN_VAIN };
            (probe, std::thread::spawn(move || reaches(to, probe.flow, within)))
        })
        .collect();
    asked.into_iter().map(|(probe, it)| (probe, it.join().unwrap())).collect()
}

fn address(name: &str, is_v4: bool) -> IpAddr {
    let known = SPOTS.iter().find(|spot| spot.0 == name).map_or(NODE, |spot| spot.1);
    (if is_v4 { known.0 } else { known.1 }).parse().unwrap()
}

/// The node is this thread's namespace; each spot hangs on a link of its own.
fn build() -> BTreeMap<&'static str, Namespace> {
    shell(&format!(
        "ip link set lo up && ip addr add {}/32 dev lo && ip addr add {}/128 dev lo && \
         echo 1 > /proc/sys/net/ipv4/ip_forward && echo 1 > /proc/sys/net/ipv6/conf/all/forwarding && \
         echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad",
        NODE.0, NODE.1
    ));
    let mut spots = BTreeMap::new();
    for (name, (v4, v6), _) in SPOTS {
        let space = Namespace::new();
        shell(&format!(
            "ip link add n{name} type veth peer name p{name} && ip link set p{name} netns {} && ip link set n{name} up && \
             ip addr add fe80::1/64 dev n{name} nodad && ip route add {v4}/32 dev n{name} && ip route add {v6}/128 dev n{name}",
            space.path().display()
        ));
        space.run(move || {
            shell(&format!(
                "echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad && ip link set lo up && ip link set p{name} name eth0 && \
                 echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad && ip link set eth0 up && \
                 ip addr add {v4}/32 dev eth0 && ip addr add {v6}/128 dev eth0 nodad && \
                 ip route add default via {} dev eth0 onlink && ip route add default via fe80::1 dev eth0",
                NODE.0
            ));
            serve();
        });
        spots.insert(name, space);
    }
    serve();
    spots
}

fn rules(specs: &[Value]) -> Ruleset {
    let read = |spec: &Value| {
        let object = json!({"metadata": {"name": "p", "namespace": "x"}, "spec": spec});
        Arc::new(Policy::of(&serde_json::from_value::<NetworkPolicy>(object).unwrap()))
    };
    let policies: Vec<Arc<Policy>> = specs.iter().map(read).collect();
    let pods = SPOTS.iter().filter_map(|(name, (v4, v6), pod)| {
        let (space, app, node) = (*pod)?;
        let pod = json!({
            "metadata": {"name": name, "namespace": space, "labels": {"app": app}},
            "spec": {"nodeName": node, "containers": [{"name": "c", "ports": [
                {"name": "first", "containerPort": 80}, {"name": "dgram", "containerPort": 80, "protocol": "UDP"},
                {"name": "second", "containerPort": 81}]}]},
            "status": {"phase": "Running", "podIPs": [{"ip": v4}, {"ip": v6}]},
        });
        PolicyPod::of(&serde_json::from_value::<Pod>(pod).unwrap())
    });
    let pods: Vec<Arc<PolicyPod>> = pods.map(Arc::new).collect();
    let labels = |name: &str| (name.to_owned(), [("space".to_owned(), name.to_owned())].into());
    let node = NodeFacts {
        name: "one".into(),
        pod_cidrs: vec!["10.42.0.0/24".parse().unwrap(), "fd42::/64".parse().unwrap()],
        ..NodeFacts::default()
    };
    let input = Input {
        policies: &policies,
        namespaces: &["x", "y"].map(labels).into(),
        pods: &pods,
        node: &node,
    };
    isolate(&input).ruleset
}

/// Each case takes the place of the one before it, as policies do that change.
fn play() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let spots = build();
    let mut before = Ruleset::new(POLICY_TABLE);
    for (name, specs, expected) in cases() {
        let after = rules(&specs);
        let change = after.change_from(&before);
        runtime.block_on(async {
            Nft.apply(&change.apply).await.unwrap();
            Nft.apply(&change.cleanup).await.unwrap();
        });
        before = after;
        let mut questions: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        for is_v4 in [true, false] {
            for probe in probes() {
                let question = (probe, address(probe.to, is_v4), expected(&probe));
                questions.entry(probe.from).or_default().push(question);
            }
        }
        let asked: Vec<_> = std::thread::scope(|scope| {
            let of_node = questions.remove("node").unwrap();
            let others: Vec<_> = questions
                .into_iter()
                .map(|(from, questions)| {
                    let spot = &spots[from];
                    scope.spawn(move || spot.run(move || ask(questions)))
                })
                .collect();
            let mut all = ask(of_node);
            all.extend(others.into_iter().flat_map(|it| it.join().unwrap()));
            all
        });
        assert_eq!(asked.len(), 2 * probes().len());
        for (probe, got) in asked {
            assert_eq!(got, expected(&probe), "{name}: {probe:?}\n{}", super::rules());
        }
    }
}

#[test]
fn what_policies_let_through_in_both_families() {
    assert!(2 * cases().len() >= 40);
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        play();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Figures for docs/BENCHMARKS.md: first datagrams of flows from `b` to `a`, one after another (the kernel judges and delivers them
/// while the sender waits), without policies, with one, and with ten thousand in their namespace, each of which lets another
/// pod in at one of a hundred ports.
#[test]
#[ignore = "figures, not a test"]
fn flows_under_ten_thousand_policies() {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let spots = build();
        let to = address("a", true);
        let policy = |at: usize| {
            let from = json!([{"podSelector": {"matchLabels": {"app": if at == 0 { "b".into() } else { format!("x{at}") }}}}]);
            json!({"podSelector": {}, "ingress": [{"from": from, "ports": [{"protocol": "UDP", "port": 9000 + at % 100}]}]})
        };
        let _listener = spots["a"].run(|| UdpSocket::bind("0.0.0.0:9000").unwrap());
        let send = move || {
            let mut took = Duration::ZERO;
            for _ in 0..5_000 {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                let begun = Instant::now();
                socket.send_to(b"?", SocketAddr::new(to, 9000)).unwrap();
                took += begun.elapsed();
            }
            took / 5_000
        };
        for round in 0..3 {
            for count in [0, 1, 10_000] {
                let specs: Vec<Value> = (0..count).map(policy).collect();
                let ruleset = rules(&specs);
                let script = ruleset.replace();
                runtime.block_on(async { Nft.apply(&script).await.unwrap() });
                let each = spots["b"].run(send);
                println!(
                    "round {round}: {count} policies, script of {} kB: {each:?} a flow",
                    script.len() / 1000
                );
            }
        }
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}
