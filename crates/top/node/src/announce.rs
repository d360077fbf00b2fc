//! Load balancer addresses of the pool on this node, as far as it is its turn.
//!
//! Invariant: which node's turn it is follows from the API's objects, the same on every node; whether that node is there the
//! candidates find out among themselves, so an address moves within seconds, not when the API calls the node dead.
//! Addresses that a host has anyway are left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use trireme_client::{Cache, ResourceRef};
use trireme_network::{Duty, VirtualAddress, guard, lasting_addresses};
use trireme_routing::announce::{self, Input};

/// Candidates for an address, the one whose turn it is among them: more would only ask.
const CANDIDATES: usize = 3;
/// Changes that come this close together are looked at together.
const GATHER: Duration = Duration::from_millis(20);
/// How often to look again though nothing changed: the host's own addresses may have.
const CHECK: Duration = Duration::from_secs(15);

/// The addresses of this node.
pub(crate) struct Announcer {
    node_name: String,
    cache: Arc<Cache>,
    pool: BTreeSet<IpAddr>,
    duties: BTreeMap<IpAddr, watch::Sender<Duty>>,
    guarded: BTreeSet<IpAddr>,
    /// What followed from the objects the last time; `None` when it is to be applied anew.
    followed: Option<BTreeMap<IpAddr, Duty>>,
    running: JoinSet<()>,
}

impl Announcer {
    pub(crate) fn new(node_name: String, cache: Arc<Cache>, pool: impl IntoIterator<Item = IpAddr>) -> Self {
        Self {
            node_name,
            cache,
            pool: pool.into_iter().collect(),
            duties: BTreeMap::new(),
            guarded: BTreeSet::new(),
            followed: None,
            running: JoinSet::new(),
        }
    }

    /// Follows Services, endpoints and nodes until shutdown; then gives all addresses away, so that others take them.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        if self.pool.is_empty() {
            return;
        }
        let resources = [
            ResourceRef::of::<Node>(),
            ResourceRef::of::<Service>(),
            ResourceRef::of::<EndpointSlice>(),
        ];
        let cache = Arc::clone(&self.cache);
        let work = async {
            let mut changes = cache.subscribe(&resources);
            cache.synced(&resources).await;
            let mut checked = Instant::now();
            loop {
                while changes.try_next().is_some() {}
                self.apply().await;
                if timeout_at(checked + CHECK, changes.next()).await.is_ok() {
                    sleep(GATHER).await;
                } else {
                    checked = Instant::now();
                    self.followed = None;
                }
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = work => {}
        }
        self.duties.clear();
        while self.running.join_next().await.is_some() {}
    }

    async fn apply(&mut self) {
        while self.running.try_join_next().is_some() {}
        let order = announce::order(&Input {
            services: &self.cache.list::<Service>(None),
            slices: &self.cache.list::<EndpointSlice>(None),
            nodes: &self.cache.list::<Node>(None),
            pool: &self.pool,
        });
        let mut wanted = duties(&self.node_name, &order);
        if self.followed.as_ref() == Some(&wanted) {
            return;
        }
        let followed = wanted.clone();
        match lasting_addresses().await {
            Ok(own) => wanted.retain(|address, _| !own.contains(address)),
            Err(error) => tracing::warn!("addresses of this host: {error}"),
        }
        let addresses: BTreeSet<IpAddr> = wanted.keys().copied().collect();
        if addresses != self.guarded {
            // Closed before it is had.
            match guard(&addresses).await {
                Ok(()) => self.guarded = addresses,
                Err(error) => {
                    self.followed = None;
                    tracing::warn!("closing load balancer addresses to the host's own servers: {error}");
                    return;
                }
            }
        }
        self.followed = Some(followed);
        self.duties.retain(|address, _| wanted.contains_key(address));
        for (address, duty) in wanted {
            match self.duties.get(&address) {
                Some(known) => {
                    known.send_if_modified(|now| std::mem::replace(now, duty) != duty);
                }
                None => {
                    let (say, told) = watch::channel(duty);
                    self.running.spawn(VirtualAddress::new(address).serve(told));
                    self.duties.insert(address, say);
                }
            }
        }
    }
}

/// What a node has to do for each address.
fn duties(node: &str, order: &BTreeMap<IpAddr, Vec<String>>) -> BTreeMap<IpAddr, Duty> {
    let duty = |(address, nodes): (&IpAddr, &Vec<String>)| {
        let rank = nodes.iter().take(CANDIDATES).position(|it| it == node)?;
        Some((*address, Duty::Candidate(u32::try_from(rank).ok()?)))
    };
    order.iter().filter_map(duty).collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use nix::sched::{CloneFlags, unshare};
    use serde_json::json;
    use trireme_client::Client;
    use trireme_client::testing::FakeTransport;

    use super::*;

    fn shell(command: &str) -> String {
        let output = Command::new("sh").args(["-ec", command]).output().unwrap();
        assert!(
            output.status.success(),
            "{command}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    async fn until(what: &str, done: impl Fn() -> bool) {
        for _ in 0..200 {
            if done() {
                return;
            }
            sleep(Duration::from_millis(25)).await;
        }
        panic!("never: {what}");
    }

    /// In a network namespace of the test's own.
    #[test]
    fn an_address_follows_its_service_and_goes_with_the_process() {
        let test = async {
            shell(
                "ip link add eth0 type veth peer name far && ip link set far up && ip link set eth0 up && ip addr add 192.0.2.1/24 dev eth0",
            );
            let fake = FakeTransport::new();
            let seed = |ready: &str, address: &str| {
                fake.seed(
                    &ResourceRef::of::<Node>(),
                    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a"},
                           "status": {"conditions": [{"type": "Ready", "status": ready}]}}),
                );
                fake.seed(
                    &ResourceRef::of::<Service>(),
                    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "d", "name": "s"},
                           "spec": {"type": "LoadBalancer", "clusterIP": "10.43.0.7"},
                           "status": {"loadBalancer": {"ingress": [{"ip": address}]}}}),
                );
            };
            seed("True", "192.0.2.100");
            let shutdown = CancellationToken::new();
            let cache = Cache::new(&Client::new(fake.clone()), shutdown.clone());
            let pool = [1, 100, 101].map(|last| IpAddr::from([192, 0, 2, last]));
            let announcer = Announcer::new("a".into(), cache, pool);
            let running = tokio::spawn(announcer.run(shutdown.clone()));
            let has = |address: &str| shell("ip -o addr show dev eth0").contains(&format!(" {address}/32 "));
            until("held", || has("192.0.2.100")).await;
            assert!(
                shell("nft list ruleset").contains("192.0.2.100"),
                "closed to the host's own servers"
            );
            seed("True", "192.0.2.101");
            until("the other one", || has("192.0.2.101") && !has("192.0.2.100")).await;
            seed("Unknown", "192.0.2.101");
            until("not by a node that is not ready", || !has("192.0.2.101")).await;
            seed("True", "192.0.2.1");
            sleep(Duration::from_millis(300)).await;
            assert!(!has("192.0.2.1"), "the host's own address stays as it is");
            seed("True", "192.0.2.100");
            until("held again", || has("192.0.2.100")).await;
            shutdown.cancel();
            running.await.unwrap();
            assert!(!has("192.0.2.100"));
        };
        let thread = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(test);
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }

    #[test]
    fn the_first_few_nodes_are_candidates() {
        let address: IpAddr = "192.0.2.100".parse().unwrap();
        let order = BTreeMap::from([(address, ["a", "b", "c", "d"].map(str::to_owned).to_vec())]);
        for (node, expected) in [
            ("a", Some(Duty::Candidate(0))),
            ("c", Some(Duty::Candidate(2))),
            ("d", None),
            ("x", None),
        ] {
            assert_eq!(duties(node, &order).get(&address).copied(), expected, "{node}");
        }
    }
}
