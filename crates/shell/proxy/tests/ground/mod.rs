//! Ground for packet tests: a host, pods and an outside client in network namespaces of their own threads.
//!
//! Invariant: the machine's own namespace is never touched; everything ends with its threads.

use std::future::Future;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use trireme_client::testing::FakeTransport;
use trireme_client::{Cache, Client, ListOptions, ResourceRef};
use trireme_network::{Nft, PodNetwork, PodNetworkConfig};
use trireme_proxy::{Gate, Policies, PoliciesConfig, Proxy, ProxyConfig};
use trireme_routing::policy::PolicyPod;
use trireme_routing::{NodeFacts, Protocol};

pub const NODE: &str = "192.0.2.1";
pub const OUTSIDE: &str = "192.0.2.2";
const PATIENCE: Duration = Duration::from_secs(3);

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace, held by a thread that does what it is told.
pub struct Namespace {
    path: PathBuf,
    jobs: mpsc::Sender<Job>,
}

impl Namespace {
    pub fn new() -> Self {
        let (jobs, todo) = mpsc::channel::<Job>();
        let (told, path) = mpsc::channel();
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let (process, thread) = (std::process::id(), nix::unistd::gettid());
            told.send(PathBuf::from(format!("/proc/{process}/task/{thread}/ns/net")))
                .unwrap();
            for job in todo {
                job();
            }
        });
        Self {
            path: path.recv().unwrap(),
            jobs,
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs something inside.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        self.jobs.send(Box::new(move || done.send(work()).unwrap())).unwrap();
        result.recv().unwrap()
    }

    /// Serves inside.
    pub fn serve(&self, name: &'static str, port: u16) {
        self.run(move || serve(name, port));
    }

    pub fn ask(&self, target: &str) -> Result<(String, String), std::io::ErrorKind> {
        let target = target.to_owned();
        self.run(move || ask(&target))
    }
}

/// Answers TCP connections and datagrams on a port with a name and the address of whoever asks, in this thread's namespace.
pub fn serve(name: &'static str, port: u16) {
    let tcp = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
    std::thread::spawn(move || {
        for stream in tcp.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let peer = stream.peer_addr().unwrap().ip();
                let mut byte = [0];
                while stream.read(&mut byte).unwrap_or(0) == 1 {
                    stream.write_all(format!("{name} {peer}\n").as_bytes()).unwrap();
                }
            });
        }
    });
    let udp = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 16];
        while let Ok((_, peer)) = udp.recv_from(&mut buffer) {
            udp.send_to(format!("{name} {}\n", peer.ip()).as_bytes(), peer).unwrap();
        }
    });
}

pub fn shell(command: &str) {
    let output = Command::new("sh").args(["-ec", command]).output().unwrap();
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// An open connection to one of the servers.
pub struct Connection(TcpStream);

impl Connection {
    pub fn open(target: &str) -> Result<Self, std::io::ErrorKind> {
        Self::open_within(target, PATIENCE)
    }

    pub fn open_within(target: &str, patience: Duration) -> Result<Self, std::io::ErrorKind> {
        let target: SocketAddr = target.parse().unwrap();
        let stream = TcpStream::connect_timeout(&target, patience).map_err(|error| error.kind())?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Ok(Self(stream))
    }

    /// Who answers, and as whom we are seen.
    pub fn ask(&mut self) -> Result<(String, String), std::io::ErrorKind> {
        self.0.write_all(b"?").map_err(|error| error.kind())?;
        let mut text = String::new();
        let mut byte = [0];
        while !text.ends_with('\n') {
            if self.0.read(&mut byte).map_err(|error| error.kind())? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof);
            }
            text.push(char::from(byte[0]));
        }
        Ok(split(&text))
    }
}

fn split(text: &str) -> (String, String) {
    let (name, peer) = text.trim().split_once(' ').unwrap();
    (name.to_owned(), peer.to_owned())
}

pub fn ask(target: &str) -> Result<(String, String), std::io::ErrorKind> {
    Connection::open(target)?.ask()
}

/// Asks by one datagram, from the socket given.
pub fn ask_udp(socket: &UdpSocket, target: &str) -> Result<(String, String), std::io::ErrorKind> {
    let mut buffer = [0; 64];
    for _ in 0..10 {
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        socket.send_to(b"?", target).map_err(|error| error.kind())?;
        if let Ok((length, _)) = socket.recv_from(&mut buffer) {
            return Ok(split(&String::from_utf8_lossy(&buffer[..length])));
        }
    }
    Err(std::io::ErrorKind::TimedOut)
}

/// A node in its own namespace, with a client outside, a fake API and a running proxy.
pub struct Host {
    pub network: PodNetwork,
    pub outside: Namespace,
    pub fake: Arc<FakeTransport>,
    pub cache: Arc<Cache>,
    pub proxy: Option<(CancellationToken, tokio::task::JoinHandle<()>)>,
    shutdown: CancellationToken,
}

/// Runs a test on a host of its own, with bridge packets going through IP rules or not.
pub fn on_host<F: Future<Output = ()>>(bridge_filter: bool, test: impl FnOnce(Host) -> F + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let directory = tempfile::tempdir().unwrap();
            let setting = "/proc/sys/net/bridge/bridge-nf-call-iptables";
            if Path::new(setting).exists() {
                std::fs::write(setting, if bridge_filter { "1" } else { "0" }).unwrap();
            }
            test(Host::new(directory.path()).await).await;
        });
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn facts() -> NodeFacts {
    NodeFacts {
        name: "one".into(),
        zone: None,
        cluster_cidrs: vec!["10.42.0.0/16".parse().unwrap()],
        pod_cidrs: vec!["10.42.0.0/24".parse().unwrap()],
        service_cidrs: vec!["10.43.0.0/16".parse().unwrap()],
        addresses: vec![NODE.parse().unwrap()],
        local_service_addresses: vec!["10.43.0.10".parse().unwrap()],
        external_ip_cidrs: Vec::new(),
        reserved_ports: vec![(Protocol::Tcp, 6443)],
    }
}

/// Cluster DNS, as a peer of policies.
pub fn dns() -> PolicyPod {
    PolicyPod {
        namespace: "kube-system".into(),
        name: "kube-dns".into(),
        labels: [("k8s-app".to_owned(), "kube-dns".to_owned())].into(),
        addresses: vec!["10.43.0.10".parse().unwrap()],
        ..PolicyPod::default()
    }
}

pub fn config(data_dir: &Path) -> PodNetworkConfig {
    PodNetworkConfig {
        node_address: NODE.parse().unwrap(),
        pod_cidr: "10.42.0.0/24".parse().unwrap(),
        cluster_cidr: "10.42.0.0/16".parse().unwrap(),
        service_cidr: "10.43.0.0/16".parse().unwrap(),
        bridge: "trireme0".into(),
        data_dir: data_dir.to_owned(),
        mtu: 0,
        overhead_bytes: 0,
    }
}

impl Host {
    async fn new(data_dir: &Path) -> Self {
        let outside = Namespace::new();
        shell(&format!(
            "ip link add up0 type veth peer name up1 && ip link set up1 netns {} && \
             ip addr add {NODE}/24 dev up0 && ip link set up0 mtu 1460 && ip link set up0 up && ip route add default via {OUTSIDE}",
            outside.path().display()
        ));
        outside.run(|| {
            shell(&format!(
                "ip link set lo up && ip addr add {OUTSIDE}/24 dev up1 && ip link set up1 up && ip route add 203.0.113.0/24 via {NODE} && \
                 ip route add 198.51.100.0/24 via {NODE} && ip route add 10.43.0.0/16 via {NODE}"
            ));
        });
        let network = PodNetwork::open(config(data_dir)).await.unwrap();
        let fake = FakeTransport::new();
        let shutdown = CancellationToken::new();
        let cache = Cache::new(&Client::new(fake.clone()), shutdown.clone());
        Self {
            network,
            outside,
            fake,
            cache,
            proxy: None,
            shutdown,
        }
    }

    pub async fn start_proxy(&mut self) {
        let config = ProxyConfig {
            node: facts(),
            pods: ListOptions::default(),
        };
        let proxy = Proxy::new(Arc::clone(&self.cache), Arc::new(Nft), config);
        let mut synced = proxy.synced();
        let stop = CancellationToken::new();
        let ended = stop.clone();
        let task = tokio::spawn(async move { proxy.run(ended).await.unwrap() });
        synced.wait_for(|synced| *synced).await.unwrap();
        self.proxy = Some((stop, task));
    }

    /// Keeps policies, for all that the test takes.
    pub fn start_policies(&self, stand_ins: Vec<PolicyPod>) -> Gate {
        let config = PoliciesConfig {
            node: facts(),
            pods: ListOptions::default(),
            stand_ins,
        };
        let (cache, others) = (Arc::clone(&self.cache), Arc::clone(&self.cache));
        let (policies, gate) = Policies::new(cache, others, Arc::new(Nft), config);
        let ended = self.shutdown.clone();
        tokio::spawn(async move { policies.run(ended).await.unwrap() });
        gate
    }

    pub async fn stop_proxy(&mut self) {
        if let Some((stop, task)) = self.proxy.take() {
            stop.cancel();
            task.await.unwrap();
        }
    }

    /// A pod with a server on port 8080.
    pub async fn pod(&self, name: &'static str) -> (Namespace, IpAddr) {
        let namespace = Namespace::new();
        let address = self.network.attach(name, namespace.path()).await.unwrap();
        namespace.serve(name, 8080);
        (namespace, address)
    }

    pub fn service(&self, name: &str, cluster_ip: &str, extra: &Value) {
        let mut spec = json!({
            "clusterIP": cluster_ip, "clusterIPs": [cluster_ip], "type": "ClusterIP",
            "ports": [{"name": "tcp", "port": 80, "protocol": "TCP"}, {"name": "udp", "port": 80, "protocol": "UDP"}],
        });
        for (key, value) in extra.as_object().unwrap() {
            spec[key] = value.clone();
        }
        let mut service =
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "d"}, "spec": spec});
        if let Some(ingress) = service["spec"].as_object_mut().unwrap().remove("ingress") {
            service["status"] = json!({"loadBalancer": {"ingress": [{"ip": ingress}]}});
        }
        self.fake
            .seed(&ResourceRef::of::<k8s_openapi::api::core::v1::Service>(), service);
    }

    pub fn endpoints(&self, service: &str, addresses: &[IpAddr]) {
        let endpoints: Vec<Value> = addresses
            .iter()
            .map(|it| json!({"addresses": [it], "nodeName": "one"}))
            .collect();
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": format!("{service}-1"), "namespace": "d", "labels": {"kubernetes.io/service-name": service}},
            "ports": [{"name": "tcp", "port": 8080, "protocol": "TCP"}, {"name": "udp", "port": 8080, "protocol": "UDP"}],
            "endpoints": endpoints,
        });
        self.fake
            .seed(&ResourceRef::of::<k8s_openapi::api::discovery::v1::EndpointSlice>(), slice);
    }

    /// Asks from the host itself.
    pub async fn ask(&self, target: &str) -> Result<(String, String), std::io::ErrorKind> {
        let target = target.to_owned();
        tokio::task::spawn_blocking(move || ask(&target)).await.unwrap()
    }

    /// Waits until something becomes true.
    pub async fn until(&self, what: &str, mut done: impl AsyncFnMut() -> bool) {
        for _ in 0..200 {
            if done().await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        let rules = Command::new("nft").args(["list", "ruleset"]).output().unwrap();
        panic!("never: {what}\n{}", String::from_utf8_lossy(&rules.stdout));
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}
