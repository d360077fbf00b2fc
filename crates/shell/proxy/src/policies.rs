//! Keeps the rules of network policies right, and lets a pod onto the network only once its own rules stand.
//!
//! Invariant: a pod's address is among the rules before the pod's first packet passes, judged by every policy that the API had
//! when the pod was to start; an address that is not known is closed while there are policies. Pods of other nodes and the
//! labels of namespaces are looked at only where a rule for a pod of this node names some.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use trireme_client::{Cache, Change, ListOptions, ResourceRef, Subscription};
use trireme_network::{NftError, Nftables};
use trireme_routing::policy::{Input, Labels, Outcome, Policy, PolicyPod, isolate};
use trireme_routing::{NodeFacts, POLICY_TABLE};

use crate::tables::Tables;
use crate::{CHECK, RETRY};

/// Changes that come this close together are applied together.
const GATHER: Duration = Duration::from_millis(10);
/// Longest rest after a change that took long.
const REST_MAX: Duration = Duration::from_secs(1);
/// After this time without a first list of policies it is told why no pod starts.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the keeper of policies has to know.
#[derive(Clone, Debug)]
pub struct PoliciesConfig {
    /// The node.
    pub node: NodeFacts,
    /// Which pods to hold if nobody in this process holds pods yet, as for the proxy.
    pub pods: ListOptions,
    /// What the node answers in place of pods (cluster DNS): peers with the labels that such pods have.
    pub stand_ins: Vec<PolicyPod>,
}

/// A pod that is about to get its network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Newcomer {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
}

/// Nobody keeps the rules any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("network policies are not kept any more: the node is stopping")]
pub struct Closed;

#[derive(Default)]
struct Arrivals {
    state: Mutex<Arrived>,
    wake: Notify,
}

#[derive(Default)]
struct Arrived {
    by_sandbox: BTreeMap<String, (Newcomer, IpAddr)>,
    /// Counts changes, so that who asked knows when it was heard.
    count: u64,
}

impl Arrivals {
    fn change(&self, act: impl FnOnce(&mut BTreeMap<String, (Newcomer, IpAddr)>)) -> u64 {
        let mut state = self.state.lock();
        act(&mut state.by_sandbox);
        state.count += 1;
        let count = state.count;
        drop(state);
        self.wake.notify_one();
        count
    }
}

/// Where pods wait for their rules.
#[derive(Clone)]
pub struct Gate {
    cache: Arc<Cache>,
    arrivals: Arc<Arrivals>,
    admitted: watch::Receiver<u64>,
}

impl Gate {
    /// Returns once the rules for a sandbox's address stand.
    ///
    /// # Errors
    /// [`Closed`] when nobody will ever make them.
    pub async fn admit(&self, sandbox_id: &str, pod: Newcomer, address: IpAddr) -> Result<(), Closed> {
        let policies = ResourceRef::of::<NetworkPolicy>();
        // What was written before the pod is to count, though it comes by another watch. Without an API to ask, what was seen
        // last is what there is.
        if let Err(status) = self.cache.reaches_present_in(&policies, Some(&pod.namespace)).await {
            tracing::debug!(namespace = pod.namespace, "network policies as last seen: {status}");
        }
        let number = self.arrivals.change(|all| {
            all.insert(sandbox_id.to_owned(), (pod, address));
        });
        let mut admitted = self.admitted.clone();
        admitted.wait_for(|heard| *heard >= number).await.map_err(|_| Closed)?;
        Ok(())
    }

    /// Forgets a sandbox whose network is gone. Idempotent.
    pub fn leave(&self, sandbox_id: &str) {
        self.arrivals.change(|all| {
            all.remove(sandbox_id);
        });
    }
}

type Place = (String, String);

/// The keeper of a node's policies.
pub struct Policies {
    cache: Arc<Cache>,
    /// Where pods of other nodes are seen; the same where all pods are held anyway.
    others: Arc<Cache>,
    nft: Arc<dyn Nftables>,
    tables: Tables,
    config: PoliciesConfig,
    arrivals: Arc<Arrivals>,
    admitted: watch::Sender<u64>,
    policies: BTreeMap<Place, Arc<Policy>>,
    own_pods: BTreeMap<Place, Arc<PolicyPod>>,
    other_pods: BTreeMap<Place, Arc<PolicyPod>>,
    namespaces: BTreeMap<String, Labels>,
}

/// Puts a value in place, or takes it away; true if that changed something.
fn put<K: Ord, V: PartialEq>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) -> bool {
    match value {
        Some(value) if map.get(&key) == Some(&value) => false,
        Some(value) => {
            map.insert(key, value);
            true
        }
        None => map.remove(&key).is_some(),
    }
}

/// What is subscribed to.
struct Sources {
    near: Subscription,
    /// Pods of other nodes and namespaces, once they matter.
    far: Option<Subscription>,
}

impl Policies {
    /// A keeper that has not started, and the gate that it opens. `others` sees all pods, or what policies need of them.
    #[must_use]
    pub fn new(cache: Arc<Cache>, others: Arc<Cache>, nft: Arc<dyn Nftables>, config: PoliciesConfig) -> (Self, Gate) {
        let (admitted, heard) = watch::channel(0);
        let arrivals = Arc::new(Arrivals::default());
        let gate = Gate {
            cache: Arc::clone(&cache),
            arrivals: Arc::clone(&arrivals),
            admitted: heard,
        };
        let keeper = Self {
            cache,
            others,
            tables: Tables::new(Arc::clone(&nft), POLICY_TABLE),
            nft,
            config,
            arrivals,
            admitted,
            policies: BTreeMap::new(),
            own_pods: BTreeMap::new(),
            other_pods: BTreeMap::new(),
            namespaces: BTreeMap::new(),
        };
        (keeper, gate)
    }

    /// Keeps the rules right until shutdown. The rules stay when it ends.
    ///
    /// # Errors
    /// [`NftError::Missing`] or [`NftError::NotPermitted`] at the start; later failures are logged and tried again.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), NftError> {
        let work = async {
            self.nft.chains().await?;
            let mut sources = self.watch().await;
            let mut is_stale = true;
            let mut rest = GATHER;
            loop {
                let heard = self.arrivals.state.lock().count;
                if is_stale || !self.tables.is_known() || *self.admitted.borrow() != heard {
                    let begun = Instant::now();
                    is_stale = !self.apply(&mut sources).await;
                    // However fast the cluster changes, this takes a third of one processor.
                    rest = (begun.elapsed() * 2).clamp(GATHER, REST_MAX);
                }
                if !is_stale {
                    self.admitted.send_replace(heard);
                }
                let next_look = if is_stale { RETRY } else { CHECK };
                is_stale |= self.wait(&mut sources, next_look, rest).await;
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            ended = work => ended,
        }
    }

    async fn watch(&mut self) -> Sources {
        let resources = [ResourceRef::of::<NetworkPolicy>(), ResourceRef::of::<Pod>()];
        self.cache.ensure_selected(&resources[1], self.config.pods.clone());
        let near = self.cache.subscribe(&resources);
        while timeout(PATIENCE, self.cache.synced(&resources)).await.is_err() {
            tracing::warn!("no pod gets a network before network policies and pods were listed once: still waiting for the API");
        }
        let mut sources = Sources { near, far: None };
        self.drain(&mut sources);
        sources
    }

    /// Looks at other nodes' pods and at namespaces from now on.
    async fn look_further(&mut self, sources: &mut Sources) {
        let resources = [ResourceRef::of::<Pod>(), ResourceRef::of::<Namespace>()];
        sources.far = Some(self.others.subscribe(&resources));
        while timeout(PATIENCE, self.others.synced(&resources)).await.is_err() {
            tracing::warn!("network policies that name pods wait for the list of pods and namespaces");
        }
        self.drain(sources);
    }

    /// Takes in what has changed; true if some of it matters.
    fn drain(&mut self, sources: &mut Sources) -> bool {
        let mut matters = false;
        while let Some(change) = sources.near.try_next() {
            matters |= self.note(&change, true);
        }
        while let Some(change) = sources.far.as_mut().and_then(Subscription::try_next) {
            matters |= self.note(&change, false);
        }
        matters
    }

    fn note(&mut self, change: &Change, near: bool) -> bool {
        let place = (change.namespace.clone(), change.name.clone());
        let new = change.new.as_ref();
        match &*change.resource.plural {
            "networkpolicies" => {
                let policy = new.and_then(|object| self.cache.typed::<NetworkPolicy>(object));
                put(&mut self.policies, place, policy.map(|it| Arc::new(Policy::of(&it))))
            }
            "namespaces" => {
                let labels = new.map(|object| object.header().labels.clone());
                put(&mut self.namespaces, change.name.clone(), labels)
            }
            _ => {
                let is_here = |node: &str| (node == self.config.node.name) == near;
                let wanted = new.filter(|object| object.text_at(&["spec", "nodeName"]).is_some_and(|node| is_here(&node)));
                let cache = if near { &self.cache } else { &self.others };
                let pod = wanted.and_then(|object| cache.typed::<Pod>(object));
                let pod = pod.and_then(|pod| PolicyPod::of(&pod)).map(Arc::new);
                let pods = if near { &mut self.own_pods } else { &mut self.other_pods };
                put(pods, place, pod)
            }
        }
    }

    /// Returns when there is something to apply, or when it is time to look; true if something changed.
    async fn wait(&mut self, sources: &mut Sources, longest: Duration, rest: Duration) -> bool {
        let end = Instant::now() + longest;
        let arrivals = Arc::clone(&self.arrivals);
        loop {
            let far = async {
                match &mut sources.far {
                    Some(far) => far.next().await,
                    None => std::future::pending().await,
                }
            };
            let matters = tokio::select! {
                change = sources.near.next() => self.note(&change, true),
                change = far => self.note(&change, false),
                () = arrivals.wake.notified() => return self.drain(sources),
                () = sleep_until(end) => {
                    self.tables.look().await;
                    return self.drain(sources);
                }
            };
            if matters {
                break;
            }
        }
        // Who waits for its network waits for nothing else.
        tokio::select! {
            () = sleep(rest) => {}
            () = arrivals.wake.notified() => {}
        }
        self.drain(sources);
        true
    }

    /// Brings the kernel to what the cluster now says. False: try again.
    async fn apply(&mut self, sources: &mut Sources) -> bool {
        self.drain(sources);
        let Some(mut outcome) = self.compute().await else {
            return false;
        };
        if outcome.names_pods && sources.far.is_none() {
            self.look_further(sources).await;
            match self.compute().await {
                Some(further) => outcome = further,
                None => return false,
            }
        }
        let (size, isolated) = (outcome.ruleset.size(), outcome.isolated_pods);
        match self.tables.bring(outcome.ruleset).await {
            Ok(true) => tracing::debug!(size, isolated, "rules of network policies applied"),
            Ok(false) => {}
            Err(error) => {
                tracing::warn!("rules of network policies were not applied, trying again: {error}");
                return false;
            }
        }
        true
    }

    /// The rules, computed where it holds up nobody.
    async fn compute(&self) -> Option<Outcome> {
        let policies: Vec<Arc<Policy>> = self.policies.values().cloned().collect();
        let mut pods = self.pods_here();
        pods.extend(self.other_pods.values().cloned());
        pods.extend(self.config.stand_ins.iter().cloned().map(Arc::new));
        let (namespaces, node) = (self.namespaces.clone(), self.config.node.clone());
        let computed = tokio::task::spawn_blocking(move || {
            isolate(&Input {
                policies: &policies,
                namespaces: &namespaces,
                pods: &pods,
                node: &node,
            })
        });
        computed
            .await
            .inspect_err(|error| tracing::error!("rules of network policies: {error}"))
            .ok()
    }

    /// This node's pods with the addresses that they have, or are about to get: what the network gave out goes before what the
    /// API still says.
    fn pods_here(&self) -> Vec<Arc<PolicyPod>> {
        let arrived = self.arrivals.state.lock();
        let owners: HashMap<IpAddr, &Newcomer> = arrived.by_sandbox.values().map(|(pod, address)| (*address, pod)).collect();
        let is_of = |newcomer: &Newcomer, pod: &PolicyPod| {
            newcomer.uid == pod.uid && newcomer.name == pod.name && newcomer.namespace == pod.namespace
        };
        let placed = |pod: &Arc<PolicyPod>| {
            let said = pod.addresses.iter().copied();
            let mut addresses: Vec<IpAddr> = said
                .filter(|address| owners.get(address).is_none_or(|owner| is_of(owner, pod)))
                .collect();
            let given = arrived.by_sandbox.values().filter(|(newcomer, _)| is_of(newcomer, pod));
            addresses.extend(given.map(|(_, address)| *address));
            addresses.sort_unstable();
            addresses.dedup();
            Arc::new(PolicyPod {
                addresses,
                ..PolicyPod::clone(pod)
            })
        };
        self.own_pods.values().map(placed).collect()
    }
}
