//! Network policies with real packets: as they come and go, and for pods that have just come.

mod matrix;

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace as NamespaceObject, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::{Value, json};
use trireme_client::{Client, DeleteOptions, ResourceRef};
use trireme_proxy::Newcomer;

use crate::ground::{self, Connection, Host, NODE, on_host};

/// How long it is listened for what must not come.
const LISTEN_IN_VAIN: Duration = Duration::from_millis(300);

fn namespace(host: &Host, name: &str) {
    host.fake.seed(
        &ResourceRef::of::<NamespaceObject>(),
        json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}}}),
    );
}

fn pod(host: &Host, name: &str, address: Option<IpAddr>) {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "d", "uid": format!("uid-{name}"), "labels": {"app": name}},
        "spec": {"nodeName": "one", "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}]},
        "status": {"phase": "Pending"},
    });
    if let Some(address) = address {
        pod["status"] = json!({"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]});
    }
    host.fake.seed(&ResourceRef::of::<Pod>(), pod);
}

fn policy(host: &Host, name: &str, spec: &Value) {
    host.fake.seed(
        &ResourceRef::of::<NetworkPolicy>(),
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": name, "namespace": "d"}, "spec": spec}),
    );
}

async fn remove_policy(host: &Host, name: &str) {
    let client = Client::new(host.fake.clone());
    let gone = client.delete::<NetworkPolicy>("d", name, &DeleteOptions::default()).await;
    gone.unwrap();
}

fn newcomer(name: &str) -> Newcomer {
    Newcomer {
        namespace: "d".into(),
        name: name.into(),
        uid: format!("uid-{name}"),
    }
}

/// Whether nothing comes back for some time.
fn is_closed(from: &ground::Namespace, target: &str) -> bool {
    let target: SocketAddr = target.parse().unwrap();
    from.run(move || {
        let opened = TcpStream::connect_timeout(&target, LISTEN_IN_VAIN);
        opened.is_err_and(|error| error.kind() == ErrorKind::TimedOut)
    })
}

fn rules() -> String {
    let listed = std::process::Command::new("nft").args(["list", "ruleset"]).output().unwrap();
    String::from_utf8(listed.stdout).unwrap()
}

#[test]
fn a_policy_comes_and_goes_and_what_was_open_stays_open() {
    on_host(true, async |mut host: Host| {
        let ((_a, ip_a), (b, ip_b), (c, ip_c)) = (host.pod("a").await, host.pod("b").await, host.pod("c").await);
        namespace(&host, "d");
        for (name, address) in [("a", ip_a), ("b", ip_b), ("c", ip_c)] {
            pod(&host, name, Some(address));
        }
        host.service("web", "10.43.0.7", &json!({}));
        host.endpoints("web", &[ip_a]);
        host.start_proxy().await;
        host.start_policies(Vec::new());
        let at_a = format!("{ip_a}:8080");
        let mut open = {
            let target = at_a.clone();
            b.run(move || Connection::open(&target).unwrap())
        };
        assert!(
            open.ask().is_ok() && !rules().contains("trireme-policy"),
            "no policy, no rules"
        );

        policy(
            &host,
            "web",
            &json!({"podSelector": {"matchLabels": {"app": "a"}}, "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "c"}}}], "ports": [{"port": "web"}]}]}),
        );
        host.until("b is kept out", async || is_closed(&b, &at_a)).await;
        assert_eq!(c.ask(&at_a).unwrap().0, "a", "who is let in");
        assert_eq!(host.ask(&at_a).await.unwrap().0, "a", "the pod's own node");
        assert!(open.ask().is_ok(), "a flow that was open before stays open");
        // By way of a Service it is the pod's own address and port that count.
        assert_eq!(c.ask("10.43.0.7:80").unwrap().0, "a");
        assert!(is_closed(&b, "10.43.0.7:80"));
        policy(
            &host,
            "narrow",
            &json!({"podSelector": {"matchLabels": {"app": "c"}}, "policyTypes": ["Egress"],
            "egress": [{"to": [{"ipBlock": {"cidr": "10.43.0.0/16"}}]}]}),
        );
        host.until("the Service's address is not what is judged", async || {
            is_closed(&c, "10.43.0.7:80")
        })
        .await;
        policy(
            &host,
            "narrow",
            &json!({"podSelector": {"matchLabels": {"app": "c"}}, "policyTypes": ["Egress"],
            "egress": [{"to": [{"podSelector": {"matchLabels": {"app": "a"}}}], "ports": [{"port": 8080}]}]}),
        );
        host.until("the endpoint is", async || c.ask("10.43.0.7:80").is_ok()).await;

        for name in ["web", "narrow"] {
            remove_policy(&host, name).await;
        }
        host.until("b is let in again", async || b.ask(&at_a).is_ok()).await;
        host.until("nothing is left", async || !rules().contains("trireme-policy"))
            .await;
        assert!(open.ask().is_ok());
    });
}

#[test]
fn a_pod_reaches_itself_the_node_and_dns_as_its_policies_say() {
    on_host(true, async |mut host: Host| {
        let (a, ip_a) = host.pod("a").await;
        for name in ["d", "kube-system"] {
            namespace(&host, name);
        }
        pod(&host, "a", Some(ip_a));
        host.service("web", "10.43.0.7", &json!({}));
        host.endpoints("web", &[ip_a]);
        host.network.add_service_address("10.43.0.10".parse().unwrap()).await.unwrap();
        tokio::task::spawn_blocking(|| [8080, 53].map(|port| ground::serve("node", port)))
            .await
            .unwrap();
        host.start_proxy().await;
        host.start_policies(vec![ground::dns()]);
        let (node, dns) = (format!("{NODE}:8080"), "10.43.0.10:53");
        assert!(a.ask(&node).is_ok() && a.ask(dns).is_ok());
        policy(&host, "p", &json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}));
        host.until("the node is closed to it", async || is_closed(&a, &node)).await;
        assert!(is_closed(&a, dns));
        assert_eq!(a.ask("10.43.0.7:80").unwrap().0, "a", "itself, by way of a Service");
        policy(
            &host,
            "p",
            &json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "egress": [
            {"to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
                     "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}], "ports": [{"port": 53}, {"port": 53, "protocol": "UDP"}]}]}),
        );
        host.until("DNS is open as everywhere", async || a.ask(dns).is_ok()).await;
        assert!(is_closed(&a, &node));
        policy(
            &host,
            "p",
            &json!({"podSelector": {}, "policyTypes": ["Egress"],
            "egress": [{"to": [{"ipBlock": {"cidr": format!("{NODE}/32")}}]}]}),
        );
        host.until("the node is", async || a.ask(&node).is_ok()).await;
        assert!(is_closed(&a, dns));
    });
}

/// Sends datagrams all the time, from before the pod is there.
fn hammer(from: &ground::Namespace, target: SocketAddr) -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    from.run(move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                // Nobody is there yet: the kernel may say so.
                if socket.send_to(b"?", target).is_err() {
                    std::thread::yield_now();
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        });
    });
    stop
}

/// Whether something is heard.
fn hears(pod: &ground::Namespace, within: Duration) -> bool {
    pod.run(move || {
        let socket = UdpSocket::bind("0.0.0.0:9000").unwrap();
        socket.set_read_timeout(Some(within)).unwrap();
        socket.recv_from(&mut [0; 16]).is_ok()
    })
}

#[test]
fn a_new_pod_starts_closed() {
    on_host(true, async |host: Host| {
        let (b, ip_b) = host.pod("b").await;
        namespace(&host, "d");
        pod(&host, "b", Some(ip_b));
        let policies = ResourceRef::of::<NetworkPolicy>();
        let gate = host.start_policies(Vec::new());
        gate.admit("b", newcomer("b"), ip_b).await.unwrap();
        // The policy is in the API, and its event is on its way.
        host.fake.hold(&policies, true);
        policy(&host, "p", &json!({"podSelector": {"matchLabels": {"app": "n"}}}));
        pod(&host, "n", None);
        let address = host.network.reserve("n").await.unwrap();
        let stop = hammer(&b, SocketAddr::new(address, 9000));
        let waiting = {
            let gate = gate.clone();
            tokio::spawn(async move { gate.admit("n", newcomer("n"), address).await })
        };
        tokio::time::sleep(LISTEN_IN_VAIN).await;
        assert!(!waiting.is_finished(), "not before the policy is seen");
        host.fake.hold(&policies, false);
        waiting.await.unwrap().unwrap();
        assert!(rules().contains(&format!("{address} : goto in/")), "{}", rules());
        let n = ground::Namespace::new();
        assert_eq!(host.network.attach("n", n.path()).await.unwrap(), address);
        let n = heard(n, LISTEN_IN_VAIN, false).await;
        // Its status comes later and changes nothing; then it may be spoken to.
        pod(&host, "n", Some(address));
        remove_policy(&host, "p").await;
        let n = heard(n, Duration::from_secs(10), true).await;

        // A pod that nobody announced is closed as long as there are policies, whomever they select.
        policy(&host, "other", &json!({"podSelector": {"matchLabels": {"app": "nobody"}}}));
        host.until("rules", async || rules().contains("trireme-policy")).await;
        let n = heard(n, Duration::from_secs(10), true).await;
        let (stranger, unknown) = host.pod("stranger").await;
        let from_stranger = hammer(&b, SocketAddr::new(unknown, 9000));
        let stranger = heard(stranger, LISTEN_IN_VAIN, false).await;
        pod(&host, "stranger", Some(unknown));
        let stranger = heard(stranger, Duration::from_secs(10), true).await;
        // One that left is forgotten: who gets its address later is judged for himself.
        host.network.detach("n").await.unwrap();
        gate.leave("n");
        stop.store(true, Ordering::SeqCst);
        from_stranger.store(true, Ordering::SeqCst);
        drop((n, stranger));
    });
}

/// The host's tasks go on while it is listened.
async fn heard(pod: ground::Namespace, within: Duration, expected: bool) -> ground::Namespace {
    let (pod, got) = tokio::task::spawn_blocking(move || {
        let got = hears(&pod, within);
        (pod, got)
    })
    .await
    .unwrap();
    assert_eq!(got, expected);
    pod
}
