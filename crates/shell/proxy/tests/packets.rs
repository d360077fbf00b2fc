//! Real packets through real rules: pods, the node itself and a client outside, over every kind of Service address.

mod ground;
mod isolation;

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::Duration;

use ground::{Connection, Host, NODE, OUTSIDE, ask_udp, on_host};
use serde_json::json;

const PORTS: &str = r#"[{"name": "tcp", "port": 80, "nodePort": 30080, "protocol": "TCP"},
                        {"name": "udp", "port": 80, "nodePort": 30080, "protocol": "UDP"}]"#;

fn ports() -> serde_json::Value {
    serde_json::from_str(PORTS).unwrap()
}

async fn every_way(mut host: Host) {
    let ((a, ip_a), (b, ip_b)) = (host.pod("a").await, host.pod("b").await);
    assert_ne!(ip_a, ip_b);
    host.service(
        "web",
        "10.43.0.7",
        &json!({"type": "LoadBalancer", "ports": ports(), "ingress": "203.0.113.5"}),
    );
    host.endpoints("web", &[ip_a, ip_b]);
    host.start_proxy().await;

    // Pods reach each other directly, as themselves.
    assert_eq!(a.ask(&format!("{ip_b}:8080")), Ok(("b".into(), ip_a.to_string())));
    let addresses = ["10.43.0.7:80", "192.0.2.1:30080", "203.0.113.5:80"];
    for target in addresses {
        let (mut of_pod, mut of_node, mut of_outside) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for _ in 0..24 {
            // With two endpoints, half of these are the pod reaching itself.
            of_pod.insert(a.ask(target).unwrap_or_else(|error| panic!("pod to {target}: {error}")).0);
            of_node.insert(
                host.ask(target)
                    .await
                    .unwrap_or_else(|error| panic!("node to {target}: {error}"))
                    .0,
            );
            of_outside.insert(
                host.outside
                    .ask(target)
                    .unwrap_or_else(|error| panic!("outside to {target}: {error}"))
                    .0,
            );
        }
        for seen in [of_pod, of_node, of_outside] {
            assert_eq!(seen.len(), 2, "{target} is balanced");
        }
    }
    for target in ["10.43.0.7:80", "192.0.2.1:30080", "203.0.113.5:80"] {
        let answer = b.run(move || ask_udp(&UdpSocket::bind("0.0.0.0:0").unwrap(), target));
        assert!(answer.is_ok(), "udp to {target}: {answer:?}");
    }
    // Whom the pods see: another pod as itself, a client outside as the node.
    host.endpoints("web", &[ip_b]);
    host.until("only b answers", async || {
        for _ in 0..12 {
            if host.ask("10.43.0.7:80").await.is_ok_and(|(name, _)| name != "b") {
                return false;
            }
        }
        true
    })
    .await;
    assert_eq!(a.ask("10.43.0.7:80"), Ok(("b".into(), ip_a.to_string())));
    assert_eq!(
        host.outside.ask("192.0.2.1:30080"),
        Ok(("b".into(), host.network.gateway().to_string()))
    );
    // A port that no Service has, a Service without endpoints, a ClusterIP nobody has.
    assert_eq!(a.ask("10.43.0.7:81"), Err(ErrorKind::ConnectionRefused));
    host.endpoints("web", &[]);
    host.until("refused", async || {
        host.ask("10.43.0.7:80").await == Err(ErrorKind::ConnectionRefused)
    })
    .await;
    for target in addresses {
        assert_eq!(a.ask(target), Err(ErrorKind::ConnectionRefused), "pod to {target}");
        assert_eq!(
            host.outside.ask(target),
            Err(ErrorKind::ConnectionRefused),
            "outside to {target}"
        );
        assert_eq!(host.ask(target).await, Err(ErrorKind::ConnectionRefused), "node to {target}");
    }
    // Out of the cluster as the node.
    host.outside.serve("out", 8080);
    assert_eq!(a.ask("192.0.2.2:8080"), Ok(("out".into(), NODE.into())));
    host.stop_proxy().await;
    host.network.teardown().await.unwrap();
    ground::shell("! ip link show trireme0 2>/dev/null && ! nft list tables | grep -q trireme && ! ip -o link | grep -q ': tri'");
}

#[test]
fn every_address_from_everywhere_with_bridge_filter() {
    on_host(true, every_way);
}

#[test]
fn every_address_from_everywhere_without_bridge_filter() {
    on_host(false, every_way);
}

#[test]
fn local_policy_keeps_the_clients_address_and_source_ranges_hold() {
    on_host(true, async |mut host: Host| {
        let (a, ip_a) = host.pod("a").await;
        let local = json!({"type": "LoadBalancer", "ports": ports(), "ingress": "203.0.113.5", "externalTrafficPolicy": "Local",
                           "healthCheckNodePort": 32000});
        host.service("web", "10.43.0.7", &local);
        host.endpoints("web", &[ip_a]);
        let guarded = json!({"type": "LoadBalancer", "ingress": "203.0.113.6", "loadBalancerSourceRanges": ["198.51.100.0/24"]});
        host.service("guarded", "10.43.0.8", &guarded);
        host.endpoints("guarded", &[ip_a]);
        host.start_proxy().await;
        for target in ["192.0.2.1:30080", "203.0.113.5:80"] {
            assert_eq!(host.outside.ask(target), Ok(("a".into(), OUTSIDE.into())), "{target}");
            assert!(a.ask(target).is_ok() && host.ask(target).await.is_ok(), "{target}");
        }
        assert_eq!(host.outside.ask("203.0.113.6:80"), Err(ErrorKind::TimedOut));
        assert!(host.ask("10.43.0.8:80").await.is_ok());
        let health = |host: &Host| {
            host.outside.run(|| {
                use std::io::{Read, Write};
                let mut stream = std::net::TcpStream::connect("192.0.2.1:32000").unwrap();
                stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
                let mut text = String::new();
                stream.read_to_string(&mut text).unwrap();
                text
            })
        };
        let (_host, text) = tokio::task::spawn_blocking(move || {
            let text = health(&host);
            (host, text)
        })
        .await
        .unwrap();
        assert!(
            text.starts_with("HTTP/1.1 200 OK") && text.contains("\"localEndpoints\": 1"),
            "{text}"
        );
    });
}

#[test]
fn affinity_holds_over_addresses_rewrites_and_restarts() {
    on_host(true, async |mut host: Host| {
        let ((client, _), (_a, ip_a), (_b, ip_b), (_c, ip_c)) = (
            host.pod("client").await,
            host.pod("a").await,
            host.pod("b").await,
            host.pod("c").await,
        );
        let sticky = json!({"type": "LoadBalancer", "ports": ports(), "ingress": "203.0.113.5", "sessionAffinity": "ClientIP"});
        host.service("web", "10.43.0.7", &sticky);
        host.endpoints("web", &[ip_a, ip_b]);
        host.start_proxy().await;
        let first = client.ask("10.43.0.7:80").unwrap().0;
        let same = |client: &ground::Namespace| {
            for target in ["10.43.0.7:80", "192.0.2.1:30080", "203.0.113.5:80"].iter().cycle().take(24) {
                assert_eq!(client.ask(target).unwrap().0, first, "{target}");
            }
        };
        same(&client);
        // Another endpoint comes; another process takes over.
        host.endpoints("web", &[ip_a, ip_b, ip_c]);
        host.until("three endpoints", async || {
            let rules = std::process::Command::new("nft")
                .args(["list", "table", "ip", "trireme"])
                .output()
                .unwrap();
            String::from_utf8_lossy(&rules.stdout).contains("mod 3")
        })
        .await;
        same(&client);
        host.stop_proxy().await;
        same(&client);
        host.start_proxy().await;
        same(&client);
    });
}

#[test]
fn connections_survive_and_new_ones_leave_an_endpoint_that_goes() {
    on_host(true, async |mut host: Host| {
        let ((client, _), (_a, ip_a), (_b, ip_b)) = (host.pod("client").await, host.pod("a").await, host.pod("b").await);
        host.service("web", "10.43.0.7", &json!({}));
        host.endpoints("web", &[ip_a]);
        host.start_proxy().await;
        let mut open = client.run(|| Connection::open("10.43.0.7:80").unwrap());
        assert_eq!(open.ask().unwrap().0, "a");
        let socket = client.run(|| UdpSocket::bind("0.0.0.0:5555").unwrap());
        let datagram = {
            let socket = std::sync::Arc::new(socket);
            async move || {
                let socket = std::sync::Arc::clone(&socket);
                tokio::task::spawn_blocking(move || ask_udp(&socket, "10.43.0.7:80"))
                    .await
                    .unwrap()
            }
        };
        assert_eq!(datagram().await.unwrap().0, "a");
        host.endpoints("web", &[ip_b]);
        host.until("new connections go to b", async || {
            client.ask("10.43.0.7:80").is_ok_and(|(name, _)| name == "b")
        })
        .await;
        assert_eq!(open.ask().unwrap().0, "a", "an open connection stays where it is");
        host.until("the flow moved to b", async || {
            datagram().await.is_ok_and(|(name, _)| name == "b")
        })
        .await;
        // Rules stay when the proxy goes, and somebody's flush is mended by the next.
        host.stop_proxy().await;
        assert_eq!(client.ask("10.43.0.7:80").unwrap().0, "b");
        ground::shell("nft add table ip foreign && nft add chain ip foreign theirs");
        host.start_proxy().await;
        assert_eq!(open.ask().unwrap().0, "a");
        assert_eq!(client.ask("10.43.0.7:80").unwrap().0, "b");
        host.network.teardown().await.unwrap();
        ground::shell("nft list chain ip foreign theirs");
    });
}

#[test]
fn who_waits_for_an_endpoint_that_is_gone_gets_to_another() {
    on_host(true, async |mut host: Host| {
        let ((client, _), (a, ip_a), (_b, ip_b)) = (host.pod("client").await, host.pod("a").await, host.pod("b").await);
        a.run(|| {
            ground::shell(
                "nft add table ip deaf && nft add chain ip deaf input '{ type filter hook input priority 0; policy drop; }'",
            );
        });
        host.service("web", "10.43.0.7", &json!({}));
        host.endpoints("web", &[ip_a]);
        host.start_proxy().await;
        let waiting = client.run(|| std::thread::spawn(|| Connection::open_within("10.43.0.7:80", Duration::from_secs(30))));
        host.until("the client has asked", async || {
            client.run(|| {
                let sockets = std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
                let states = sockets.lines().filter_map(|line| line.split_whitespace().nth(3));
                states.filter(|state| *state == "02").count() == 1
            })
        })
        .await;
        // The kernel has chosen, and keeps to it when the client tries again, unless it forgets.
        host.endpoints("web", &[ip_b]);
        let answer = tokio::task::spawn_blocking(move || waiting.join().unwrap()?.ask())
            .await
            .unwrap();
        assert_eq!(answer.map(|(name, _)| name), Ok("b".into()));
    });
}

#[test]
fn host_ports_follow_the_pods_of_this_node() {
    on_host(true, async |mut host: Host| {
        let (a, ip_a) = host.pod("a").await;
        host.start_proxy().await;
        let pod = |phase: &str| {
            json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "d"},
                "spec": {"nodeName": "one", "containers": [{"name": "c", "ports": [{"containerPort": 8080, "hostPort": 8088}]}]},
                "status": {"phase": phase, "podIP": ip_a, "podIPs": [{"ip": ip_a}]},
            })
        };
        let pods = trireme_client::ResourceRef::of::<k8s_openapi::api::core::v1::Pod>();
        host.fake.seed(&pods, pod("Running"));
        host.until("published", async || {
            host.outside.ask("192.0.2.1:8088") == Ok(("a".into(), OUTSIDE.into()))
        })
        .await;
        assert_eq!(host.ask("192.0.2.1:8088").await.unwrap().0, "a");
        assert_eq!(a.ask("192.0.2.1:8088").unwrap().0, "a");
        host.fake.seed(&pods, pod("Succeeded"));
        host.until("withdrawn", async || {
            host.outside.ask("192.0.2.1:8088") == Err(ErrorKind::ConnectionRefused)
        })
        .await;
    });
}

#[test]
fn links_and_addresses_outlive_their_process() {
    on_host(true, async |host: Host| {
        let (a, ip_a) = host.pod("a").await;
        let (b, ip_b) = host.pod("b").await;
        let config = host.network.config().clone();
        assert_eq!(config.mtu, 1460, "that of the uplink");
        a.run(|| ground::shell("ip link show eth0 | grep -q 'mtu 1460'"));
        // A second process on the same node finds everything, and attaching again changes nothing.
        let again = trireme_network::PodNetwork::open(config).await.unwrap();
        assert_eq!(again.attach("a", a.path()).await.unwrap(), ip_a);
        assert_eq!(b.ask(&format!("{ip_a}:8080")).unwrap().0, "a");
        assert_eq!(trireme_network::main_address().await, Some(NODE.parse().unwrap()));
        // A namespace that is gone is an error that names it, and leaves no link.
        let error = again
            .attach("gone", std::path::Path::new("/proc/self/ns/none"))
            .await
            .unwrap_err();
        assert!(error.to_string().contains("/proc/self/ns/none"), "{error}");
        again.detach("a").await.unwrap();
        again.detach("a").await.unwrap();
        assert_eq!(again.address("a"), None);
        let removed = again.retain(&["b".to_owned()].into()).await.unwrap();
        assert_eq!(
            (removed, again.address("b")),
            (1, Some(ip_b)),
            "only b and the failed one were left"
        );
        again.add_service_address("10.43.0.10".parse().unwrap()).await.unwrap();
        again.add_service_address("10.43.0.10".parse().unwrap()).await.unwrap();
        ground::shell("ip -4 addr show dev trireme0 | grep -q 10.43.0.10/32");
        again.remove_service_address("10.43.0.10".parse().unwrap()).await.unwrap();
        // With another range, the gateway of the old one goes.
        let moved = trireme_network::PodNetworkConfig {
            pod_cidr: "10.42.7.0/24".parse().unwrap(),
            ..again.config().clone()
        };
        let moved = trireme_network::PodNetwork::open(moved).await.unwrap();
        ground::shell(
            "! ip -4 addr show dev trireme0 | grep -q 10.42.0.1/ && ip -4 addr show dev trireme0 | grep -q 10.42.7.1/24",
        );
        moved.teardown().await.unwrap();
    });
}

#[test]
fn the_nodes_own_services_are_reached_without_a_default_route() {
    on_host(true, async |mut host: Host| {
        ground::shell("ip route del default");
        let (a, ip_a) = host.pod("a").await;
        // The API server runs on the node itself, cluster DNS on a Service address of the node.
        host.service("kubernetes", "10.43.0.1", &json!({}));
        host.endpoints("kubernetes", &[NODE.parse().unwrap()]);
        host.service("kube-dns", "10.43.0.10", &json!({}));
        host.network.add_service_address("10.43.0.10".parse().unwrap()).await.unwrap();
        host.service("web", "10.43.0.7", &json!({}));
        host.endpoints("web", &[ip_a]);
        tokio::task::spawn_blocking(|| ground::serve("node", 8080)).await.unwrap();
        host.start_proxy().await;
        assert_eq!(host.ask("10.43.0.7:80").await.unwrap().0, "a");
        for target in ["10.43.0.1:80", "10.43.0.10:8080"] {
            assert_eq!(a.ask(target), Ok(("node".into(), ip_a.to_string())), "{target}");
            assert_eq!(host.ask(target).await.unwrap().0, "node", "{target}");
            let answer = a.run(move || ask_udp(&UdpSocket::bind("0.0.0.0:0").unwrap(), target));
            assert!(answer.is_ok() || target == "10.43.0.10:8080", "udp to {target}: {answer:?}");
        }
    });
}

#[test]
fn a_rolling_update_fails_no_request() {
    on_host(true, async |mut host: Host| {
        let ((client, _), (_a, ip_a)) = (host.pod("client").await, host.pod("a").await);
        host.service("web", "10.43.0.7", &json!({}));
        host.endpoints("web", &[ip_a]);
        host.start_proxy().await;
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stopped = std::sync::Arc::clone(&stop);
        let steady = client.run(move || {
            std::thread::spawn(move || {
                let mut seen = Vec::new();
                while !stopped.load(std::sync::atomic::Ordering::SeqCst) {
                    seen.push(ground::ask("10.43.0.7:80"));
                }
                seen
            })
        });
        let mut addresses = vec![ip_a];
        for name in ["b", "c", "d", "e"] {
            let (pod, address) = host.pod(name).await;
            addresses.push(address);
            host.endpoints("web", &addresses);
            host.until("both answer", async || {
                client.ask("10.43.0.7:80").is_ok_and(|(seen, _)| seen == name)
            })
            .await;
            // The old one leaves the slice first and loses its network only after that took effect.
            addresses.remove(0);
            host.endpoints("web", &addresses);
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            let gone = ["a", "b", "c", "d"]
                .into_iter()
                .find(|it| host.network.address(it).is_some_and(|at| !addresses.contains(&at)));
            host.network.detach(gone.unwrap()).await.unwrap();
            std::mem::forget(pod);
        }
        stop.store(true, std::sync::atomic::Ordering::SeqCst);
        let seen = tokio::task::spawn_blocking(move || steady.join().unwrap()).await.unwrap();
        let failed: Vec<_> = seen.iter().filter(|answer| answer.is_err()).collect();
        assert!(failed.is_empty(), "{} of {}: {failed:?}", failed.len(), seen.len());
    });
}

#[test]
fn loopback_services_of_the_node_are_not_reached_from_outside() {
    on_host(true, async |mut host: Host| {
        tokio::task::spawn_blocking(|| ground::serve("node", 7777)).await.unwrap();
        host.start_proxy().await;
        // CVE-2020-8558: a neighbour sends to 127.0.0.1 by way of this node, on which something has set route_localnet.
        ground::shell("echo 1 > /proc/sys/net/ipv4/conf/up0/route_localnet");
        host.outside.run(|| {
            ground::shell("ip addr del 127.0.0.1/8 dev lo && echo 1 > /proc/sys/net/ipv4/conf/up1/route_localnet");
            ground::shell("ip route add 127.0.0.1/32 via 192.0.2.1 dev up1");
        });
        assert_eq!(host.outside.ask("127.0.0.1:7777"), Err(ErrorKind::TimedOut));
        ground::shell("nft flush chain ip trireme filter_input");
        assert!(
            host.outside.ask("127.0.0.1:7777").is_ok(),
            "it is the rule that holds them off"
        );
    });
}
