//! Three hosts with real pods: pods reach each other over nodes as themselves, whole packets fit, Services lead to remote
//! endpoints, and what is gone leaves nothing behind.

mod ground;

use std::net::IpAddr;
use std::sync::Arc;

use ground::{Connection, Namespace, Switch, address};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;
use trireme_network::{Nft, Nftables, PodMesh, PodNetwork, PodNetworkConfig, VirtualAddress};
use trireme_routing::mesh::{self, Mode};
use trireme_routing::{Input, NodeFacts};

const CLUSTER: &str = "10.42.0.0/16";
const SERVICES: &str = "10.43.0.0/16";
const BALANCED: &str = "192.0.2.200";
const BRIDGE: &str = "trireme0";

struct Host {
    name: String,
    number: u8,
    /// Last part of its address.
    place: u8,
    namespace: Namespace,
    network: Arc<PodNetwork>,
    mesh: Arc<PodMesh>,
    _directory: tempfile::TempDir,
}

impl Host {
    fn new(switch: &Switch, number: u8, mode: Mode) -> Self {
        let namespace = switch.host(number, &[&format!("192.0.2.{number}/24")]);
        let directory = tempfile::tempdir().unwrap();
        let config = PodNetworkConfig {
            node_address: [192, 0, 2, number].into(),
            pod_cidr: format!("10.42.{number}.0/24").parse().unwrap(),
            cluster_cidr: CLUSTER.parse().unwrap(),
            service_cidr: SERVICES.parse().unwrap(),
            bridge: BRIDGE.into(),
            data_dir: directory.path().to_owned(),
            mtu: 0,
            overhead_bytes: mode.overhead_bytes(),
        };
        let (network, mesh) = namespace.run_async(async move || {
            let network = PodNetwork::open(config).await.unwrap();
            (Arc::new(network), Arc::new(PodMesh::open(BRIDGE).unwrap()))
        });
        Self {
            name: format!("host{number}"),
            number,
            place: number,
            namespace,
            network,
            mesh,
            _directory: directory,
        }
    }

    fn node(&self) -> Arc<Node> {
        let range = format!("10.42.{}.0/24", self.number);
        let node = json!({
            "metadata": {"name": self.name},
            "spec": {"podCIDR": range, "podCIDRs": [range]},
            "status": {"addresses": [{"type": "InternalIP", "address": format!("192.0.2.{}", self.place)}]},
        });
        Arc::new(serde_json::from_value(node).unwrap())
    }

    /// Applies what follows from the nodes; returns how much changed.
    fn apply(&self, mode: Mode, nodes: &[Arc<Node>]) -> usize {
        self.apply_with(Arc::clone(&self.mesh), mode, nodes)
    }

    fn apply_with(&self, pod_mesh: Arc<PodMesh>, mode: Mode, nodes: &[Arc<Node>]) -> usize {
        let (name, number, place, nodes) = (self.name.clone(), self.number, self.place, nodes.to_vec());
        self.namespace.run_async(async move || {
            let on_link = pod_mesh.networks().await.unwrap();
            let (wanted, problems) = mesh::mesh(&mesh::Input {
                node_name: &name,
                node_address: [192, 0, 2, place].into(),
                pod_cidr: format!("10.42.{number}.0/24").parse().unwrap(),
                mode,
                on_link: &on_link,
                nodes: &nodes,
            });
            assert_eq!(problems, []);
            pod_mesh.apply(&wanted).await.unwrap()
        })
    }

    fn pod(&self, name: &'static str) -> (Namespace, IpAddr) {
        let pod = Namespace::new();
        let (network, path) = (Arc::clone(&self.network), pod.path().to_owned());
        let given = self
            .namespace
            .run_async(async move || network.attach(name, &path).await.unwrap());
        pod.serve(name, 8080);
        (pod, given)
    }

    /// Rules for one Service whose endpoints are `(address, host number)`, with a load balancer address.
    fn rules(&self, policy: &str, endpoints: &[(IpAddr, u8)]) {
        let service: Service = serde_json::from_value(json!({
            "metadata": {"namespace": "d", "name": "web"},
            "spec": {"type": "LoadBalancer", "clusterIP": "10.43.0.7", "clusterIPs": ["10.43.0.7"], "externalTrafficPolicy": policy,
                     "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}]},
            "status": {"loadBalancer": {"ingress": [{"ip": BALANCED}]}},
        }))
        .unwrap();
        let endpoints: Vec<_> = endpoints
            .iter()
            .map(|(ip, host)| json!({"addresses": [ip], "nodeName": format!("host{host}")}))
            .collect();
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": {"namespace": "d", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "ports": [{"port": 8080, "protocol": "TCP"}], "endpoints": endpoints,
        }))
        .unwrap();
        let node = NodeFacts {
            name: self.name.clone(),
            cluster_cidrs: vec![CLUSTER.parse().unwrap()],
            pod_cidrs: vec![format!("10.42.{}.0/24", self.number).parse().unwrap()],
            service_cidrs: vec![SERVICES.parse().unwrap()],
            addresses: vec![IpAddr::from([192, 0, 2, self.place])],
            ..NodeFacts::default()
        };
        let routing = trireme_routing::route(&Input {
            services: &[Arc::new(service)],
            slices: &[Arc::new(slice)],
            host_ports: &[],
            node: &node,
        });
        let script = routing.ruleset.replace();
        self.namespace.run_async(async move || Nft.apply(&script).await.unwrap());
    }

    /// Everything that the mesh put into the kernel.
    fn traces(&self) -> String {
        self.namespace
            .shell("ip route show proto 116; if ip link show trireme-vx >/dev/null 2>&1; then bridge fdb show dev trireme-vx; ip neigh show dev trireme-vx nud permanent; fi")
    }
}

struct Cluster {
    switch: Switch,
    hosts: Vec<Host>,
    mode: Mode,
}

impl Cluster {
    fn new(mode: Mode) -> Self {
        let switch = Switch::new();
        let hosts: Vec<Host> = (1..=3).map(|number| Host::new(&switch, number, mode)).collect();
        let cluster = Self { switch, hosts, mode };
        cluster.apply(&cluster.nodes());
        cluster
    }

    fn nodes(&self) -> Vec<Arc<Node>> {
        self.hosts.iter().map(Host::node).collect()
    }

    fn apply(&self, nodes: &[Arc<Node>]) {
        for host in &self.hosts {
            host.apply(self.mode, nodes);
        }
    }
}

fn pods_and_nodes_reach_all(mode: Mode) {
    let cluster = Cluster::new(mode);
    let pods: Vec<(Namespace, IpAddr)> = cluster
        .hosts
        .iter()
        .zip(["a", "b", "c"])
        .map(|(host, name)| host.pod(name))
        .collect();
    for (at, (from, from_ip)) in pods.iter().enumerate() {
        for ((_, to_ip), name) in pods.iter().zip(["a", "b", "c"]) {
            assert_eq!(
                from.ask(&format!("{to_ip}:8080")),
                Ok((name.into(), from_ip.to_string())),
                "{from_ip} to {to_ip}"
            );
            // The node as its pods' gateway, whichever pod it asks.
            assert_eq!(
                cluster.hosts[at].namespace.ask(&format!("{to_ip}:8080")),
                Ok((name.into(), format!("10.42.{}.1", at + 1)))
            );
        }
    }
    // A whole packet passes without being cut, one byte more is refused where it starts, and a stream of them arrives.
    let whole = 1500 - mode.overhead_bytes() as usize - 28;
    let far = format!("{}:8080", pods[1].1);
    assert!(pods[0].0.send_whole(&far, whole).unwrap(), "a whole packet");
    let error = pods[0].0.send_whole(&far, whole + 1).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
    let target = far.clone();
    let answer = pods[0].0.run(move || Connection::open(&target)?.ask_after(1 << 20));
    assert_eq!(answer, Ok(("b".into(), pods[0].1.to_string())));
    // The node's own packets have to fit as well: what is too large for the way is told, not lost.
    cluster.hosts[0].namespace.send_whole(&far, whole).unwrap();
    assert!(cluster.hosts[0].namespace.send_whole(&far, whole + 1).is_err());

    // A stranger's packets do not come in by the tunnel.
    if mode == Mode::Vxlan {
        let rules = cluster.hosts[0].namespace.shell("nft list table inet trireme-tunnel");
        assert!(
            rules.contains("192.0.2.2") && rules.contains("192.0.2.3") && !rules.contains("192.0.2.1,"),
            "{rules}"
        );
        let stranger = cluster.switch.host(8, &["192.0.2.8/24"]);
        stranger.shell(
            "ip link add vx type vxlan id 1 dstport 8472 remote 192.0.2.1 local 192.0.2.8 && ip link set vx up && \
             ip addr add 10.42.8.1/24 dev vx && ip route add 10.42.1.0/24 via 10.42.1.1 dev vx onlink && \
             ip neigh add 10.42.1.1 lladdr 0e:58:c0:00:02:01 dev vx",
        );
        let at = format!("{}:8080", pods[0].1);
        assert!(!stranger.send_whole(&at, 8).unwrap());
        let rules = cluster.hosts[0].namespace.shell("nft list chain inet trireme-tunnel input");
        assert!(
            rules.contains("counter packets") && !rules.contains("packets 0 bytes 0 drop"),
            "{rules}"
        );
    }

    // Nothing to do the second time, nor after a restart; an open connection goes on.
    let target = far.clone();
    let mut open = pods[0].0.run(move || Connection::open(&target)).unwrap();
    let nodes = cluster.nodes();
    for host in &cluster.hosts {
        assert_eq!(host.apply(mode, &nodes), 0);
        let again = host.namespace.run_async(async || Arc::new(PodMesh::open(BRIDGE).unwrap()));
        assert_eq!(host.apply_with(again, mode, &nodes), 0);
    }
    assert!(open.ask().is_ok());
    // A node that goes leaves nothing behind; the others stay.
    for host in &cluster.hosts[..2] {
        assert!(host.apply(mode, &nodes[..2]) > 0);
        let traces = host.traces();
        assert!(!traces.contains("10.42.3.") && !traces.contains("192.0.2.3"), "{traces}");
    }
    assert!(open.ask().is_ok());
    // Somebody takes a route away; the next look brings it back.
    cluster.hosts[0].namespace.shell("ip route del 10.42.2.0/24");
    assert_eq!(cluster.hosts[0].apply(mode, &nodes), if mode == Mode::Vxlan { 4 } else { 2 });
    assert!(open.ask().is_ok());
    // None: all of it goes.
    cluster.hosts[0].apply(Mode::None, &nodes);
    assert_eq!(cluster.hosts[0].traces(), "");
    cluster.hosts[0].namespace.shell("! ip link show trireme-vx 2>/dev/null");
}

#[test]
fn pods_and_nodes_reach_all_over_a_tunnel() {
    pods_and_nodes_reach_all(Mode::Vxlan);
}

#[test]
fn pods_and_nodes_reach_all_over_plain_routes() {
    pods_and_nodes_reach_all(Mode::HostGw);
}

fn services_lead_to_remote_endpoints(mode: Mode) {
    let cluster = Cluster::new(mode);
    let outside = cluster.switch.host(9, &["192.0.2.9/24"]);
    let (a, ip_a) = cluster.hosts[0].pod("a");
    let (_b, ip_b) = cluster.hosts[1].pod("b");
    for host in &cluster.hosts {
        host.rules("Cluster", &[(ip_b, 2)]);
    }
    // ClusterIP: a pod as itself, a node as its gateway.
    assert_eq!(a.ask("10.43.0.7:80"), Ok(("b".into(), ip_a.to_string())));
    assert_eq!(
        cluster.hosts[0].namespace.ask("10.43.0.7:80"),
        Ok(("b".into(), "10.42.1.1".into()))
    );
    // NodePort, policy Cluster: by every node, and the endpoint sees the node that passed it on.
    for host in &cluster.hosts {
        let (name, seen) = outside.ask(&format!("192.0.2.{}:30080", host.number)).unwrap();
        assert_eq!(name, "b");
        let node = [format!("192.0.2.{}", host.number), format!("10.42.{}.1", host.number)];
        assert!(node.contains(&seen), "{seen} is host {}", host.number);
        // Also from pods and nodes of the cluster.
        assert_eq!(a.ask(&format!("192.0.2.{}:30080", host.number)).unwrap().0, "b");
        assert_eq!(
            cluster.hosts[2]
                .namespace
                .ask(&format!("192.0.2.{}:30080", host.number))
                .unwrap()
                .0,
            "b"
        );
    }
    // Policy Local: only where the endpoint is, and the client keeps its address.
    for host in &cluster.hosts {
        host.rules("Local", &[(ip_b, 2)]);
    }
    assert_eq!(outside.ask("192.0.2.2:30080"), Ok(("b".into(), "192.0.2.9".into())));
    assert!(outside.ask("192.0.2.1:30080").is_err());
    assert_eq!(
        a.ask("192.0.2.1:30080"),
        Ok(("b".into(), ip_a.to_string())),
        "within the cluster it is as Cluster"
    );
    // A load balancer address, had by a node without an endpoint: from everywhere, by that node itself too, and nothing but
    // the Service's port.
    for host in &cluster.hosts {
        host.rules("Cluster", &[(ip_b, 2)]);
    }
    let holder = cluster.hosts[2].namespace.run_async(async || {
        trireme_network::guard(&[address(BALANCED)].into()).await.unwrap();
        VirtualAddress::new(address(BALANCED)).hold().await.unwrap()
    });
    cluster.hosts[2].namespace.serve("host", 9090);
    let balanced = format!("{BALANCED}:80");
    for from in cluster.hosts.iter().map(|host| &host.namespace).chain([&a, &outside]) {
        assert_eq!(from.ask(&balanced).map(|(name, _)| name), Ok("b".into()));
        assert_eq!(
            from.ask(&format!("{BALANCED}:9090")),
            Err(std::io::ErrorKind::ConnectionRefused)
        );
    }
    cluster.hosts[2]
        .namespace
        .run_async(async move || holder.release().await.unwrap());
    // A pod that reaches itself by the Service of all nodes.
    for host in &cluster.hosts {
        host.rules("Cluster", &[(ip_a, 1)]);
    }
    assert_eq!(a.ask("10.43.0.7:80").unwrap().0, "a");
    assert_eq!(a.ask("192.0.2.2:30080").unwrap().0, "a");
    // Out of the cluster as the node; to another node as well.
    outside.serve("out", 8080);
    assert_eq!(a.ask("192.0.2.9:8080"), Ok(("out".into(), "192.0.2.1".into())));
    cluster.hosts[1].namespace.serve("two", 8081);
    assert_eq!(a.ask("192.0.2.2:8081"), Ok(("two".into(), "192.0.2.1".into())));
}

#[test]
fn services_lead_to_remote_endpoints_over_a_tunnel() {
    services_lead_to_remote_endpoints(Mode::Vxlan);
}

#[test]
fn services_lead_to_remote_endpoints_over_plain_routes() {
    services_lead_to_remote_endpoints(Mode::HostGw);
}

#[test]
fn a_host_with_a_new_address_and_a_new_mode_are_followed() {
    let mut cluster = Cluster::new(Mode::Vxlan);
    let (a, ip_a) = cluster.hosts[0].pod("a");
    let (_c, ip_c) = cluster.hosts[2].pod("c");
    let far = format!("{ip_c}:8080");
    let ok = || Ok(("c".to_owned(), ip_a.to_string()));
    assert_eq!(a.ask(&far), ok());
    let before = cluster.hosts[0].traces();
    cluster.hosts[2]
        .namespace
        .shell("ip addr del 192.0.2.3/24 dev eth0 && ip addr add 192.0.2.33/24 dev eth0");
    cluster.hosts[2].place = 33;
    cluster.apply(&cluster.nodes());
    assert_eq!(a.ask(&far), ok());
    let after = cluster.hosts[0].traces();
    assert!(before.contains("192.0.2.3 ") && !after.contains("192.0.2.3 "), "{after}");
    // Another mode, one host after the other, without making anything anew by hand.
    for mode in [Mode::HostGw, Mode::Vxlan] {
        cluster.mode = mode;
        cluster.apply(&cluster.nodes());
        assert_eq!(a.ask(&far), ok(), "{mode}");
    }
    assert!(address("10.42.3.0") < ip_c);
}

/// Not a test: `cargo test --release -p trireme-network --test mesh -- --ignored --nocapture` prints what the ways cost.
#[test]
#[ignore = "measures"]
fn measure() {
    const BYTES: usize = 2 << 30;
    const QUESTIONS: u32 = 5000;
    for mode in [Mode::HostGw, Mode::Vxlan] {
        let cluster = Cluster::new(mode);
        let (a, _) = cluster.hosts[0].pod("a");
        let (_b, ip_b) = cluster.hosts[1].pod("b");
        let target = format!("{ip_b}:8080");
        let (stream, questions) = a.run(move || {
            let mut connection = Connection::open(&target).unwrap();
            let begun = std::time::Instant::now();
            for _ in 0..BYTES >> 20 {
                connection.ask_after(1 << 20).unwrap();
            }
            let stream = begun.elapsed();
            let begun = std::time::Instant::now();
            for _ in 0..QUESTIONS {
                connection.ask().unwrap();
            }
            (stream, begun.elapsed())
        });
        cluster.hosts[1].namespace.serve("two", 8081);
        let direct = cluster.hosts[0].namespace.run(|| {
            let mut connection = Connection::open("192.0.2.2:8081").unwrap();
            let begun = std::time::Instant::now();
            for _ in 0..QUESTIONS {
                connection.ask().unwrap();
            }
            begun.elapsed()
        });
        let gbit_s = BYTES as f64 * 8.0 / stream.as_secs_f64() / 1e9;
        println!(
            "{mode}: {gbit_s:.2} Gbit/s, {:?} a question, {:?} from host to host",
            questions / QUESTIONS,
            direct / QUESTIONS
        );
    }
}
