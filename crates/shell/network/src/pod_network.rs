//! The pod network of one node: a bridge that is the gateway of its pods, and a pair of links for each pod.
//!
//! A pod has its address alone (/32) and sends everything to the gateway, also to its neighbours. So every packet goes
//! through the node's IP layer and its rules, whether `br_netfilter` is on or not.
//!
//! Invariant: what is made here outlives the process; opening again finds it. Attach and detach are idempotent.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use trireme_routing::{POLICY_TABLE, TABLE};

use crate::addresses::Addresses;
use crate::links::Links;
use crate::sources::{self, Source};
use crate::{Ipv4Range, NetworkError, Nft, Nftables, PodMesh, guard, namespace, sysctl};

/// What a pod network is made from.
#[derive(Clone, Debug)]
pub struct PodNetworkConfig {
    /// The node's main address.
    pub node_address: Ipv4Addr,
    /// Range of this node's pods.
    pub pod_cidr: Ipv4Range,
    /// Range of all pods.
    pub cluster_cidr: Ipv4Range,
    /// Range of ClusterIPs.
    pub service_cidr: Ipv4Range,
    /// Name of the bridge, normally `trireme0`.
    pub bridge: String,
    /// Where addresses are remembered: `<data_dir>/network`.
    pub data_dir: PathBuf,
    /// Largest packet of pods in bytes; 0 means that of the link with the node's address, less the overhead.
    pub mtu: u32,
    /// What the way to other nodes' pods adds to a packet.
    pub overhead_bytes: u32,
}

/// The pod network of one node.
pub struct PodNetwork {
    config: PodNetworkConfig,
    links: Links,
    bridge: u32,
    addresses: Arc<Addresses>,
}

/// Where no link has the node's address.
pub(crate) const MTU_BYTES: u32 = 1500;
const INSIDE: &str = "eth0";
/// Our links' names begin so.
const PREFIX: &str = "tri";

/// A hardware address that belongs to an IP address: who gets the address later is reached at once.
pub(crate) fn hardware(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x0a, 0x58, a, b, c, d]
}

/// FNV-1a: link names need no secrecy, only to be the same after a restart.
fn short(id: &str) -> String {
    let hash = id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{:012x}", hash & 0xffff_ffff_ffff)
}

fn outside(sandbox_id: &str) -> String {
    format!("{PREFIX}{}", short(sandbox_id))
}

fn source(sandbox_id: &str, address: Ipv4Addr) -> Source {
    Source {
        link: outside(sandbox_id),
        address,
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, NetworkError> + Send + 'static) -> Result<T, NetworkError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| NetworkError::Lost)?
}

impl PodNetwork {
    /// Makes or finds the bridge, its addresses and routes, and turns forwarding on, in the caller's network namespace.
    ///
    /// # Errors
    /// When not root, when nft is missing, or when the pod range is too small.
    pub async fn open(config: PodNetworkConfig) -> Result<Self, NetworkError> {
        Nft.check().await?;
        let directory = config.data_dir.join("addresses");
        let addresses = Arc::new(Addresses::open(&directory, config.pod_cidr)?);
        let links = Links::open()?;
        let gateway = config.pod_cidr.gateway();
        let mtu = match config.mtu {
            0 => {
                let outer = links.mtu_of(config.node_address).await?.unwrap_or(MTU_BYTES);
                outer.saturating_sub(config.overhead_bytes)
            }
            mtu => mtu,
        };
        let config = PodNetworkConfig { mtu, ..config };
        if let Some(loopback) = links.index("lo").await? {
            links.up(loopback).await?;
        }
        sysctl::set("ipv4/ip_forward", "1")?;
        let bridge = links.bridge(&config.bridge, hardware(gateway), mtu).await?;
        // Pods send to each other by way of the gateway on purpose; telling them a shorter way would go past the rules.
        // The kernel obeys the link's setting only where the one for all links agrees.
        for links in ["all", &config.bridge] {
            sysctl::set(&format!("ipv4/conf/{links}/send_redirects"), "0")?;
        }
        sysctl::set_if_there(&format!("ipv6/conf/{}/accept_dad", config.bridge), "0")?;
        links.add_address(bridge, gateway, config.pod_cidr.prefix()).await?;
        // The gateway of a range this node had before would answer for pods that are now elsewhere.
        for (index, address) in links.addresses().await? {
            if index == bridge && address != gateway && !config.service_cidr.contains(address) {
                links.remove_address(address).await?;
            }
        }
        let pods: Vec<Source> = addresses
            .all()
            .into_iter()
            .map(|(id, address)| source(&id, address))
            .collect();
        sources::replace(gateway, &pods).await?;
        // So that a host without a default route can reach Services: rules take over before the packet leaves.
        links.route_direct(config.service_cidr, bridge, Some(gateway)).await?;
        Ok(Self {
            config,
            links,
            bridge,
            addresses,
        })
    }

    /// The configuration, with defaults filled in.
    #[must_use]
    pub fn config(&self) -> &PodNetworkConfig {
        &self.config
    }

    /// The gateway of the pods.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        self.config.pod_cidr.gateway()
    }

    /// Sets an address aside for a sandbox, which [`PodNetwork::attach`] then gives it: who makes rules for it is first.
    /// Idempotent.
    ///
    /// # Errors
    /// [`NetworkError::Exhausted`] when the range is used up.
    pub async fn reserve(&self, sandbox_id: &str) -> Result<IpAddr, NetworkError> {
        let (addresses, id) = (Arc::clone(&self.addresses), sandbox_id.to_owned());
        blocking(move || addresses.allocate(&id)).await.map(IpAddr::V4)
    }

    /// Gives a sandbox an address and a link `eth0` in its network namespace. Idempotent.
    ///
    /// # Errors
    /// [`NetworkError::Exhausted`] when the range is used up; otherwise nothing is left behind but the address, which the
    /// next attempt or [`PodNetwork::detach`] takes.
    pub async fn attach(&self, sandbox_id: &str, netns: &Path) -> Result<IpAddr, NetworkError> {
        let (addresses, id) = (Arc::clone(&self.addresses), sandbox_id.to_owned());
        let address = blocking(move || addresses.allocate(&id)).await?;
        let host = outside(sandbox_id);
        let there = self.links.index(&host).await?;
        let inside = namespace::within(netns, move |links| async move {
            let Some(index) = links.index(INSIDE).await? else {
                return Ok(false);
            };
            Ok(links.addresses().await?.contains(&(index, address)))
        });
        if let (true, Some(port)) = (inside.await?, there) {
            self.links.join(port, self.bridge).await?;
            return Ok(IpAddr::V4(address));
        }
        let made = self.connect(&host, netns, address).await;
        if made.is_err()
            && let Err(error) = self.links.remove(&host).await
        {
            tracing::warn!(link = host, "a link was left behind: {error}");
        }
        made.map(|()| IpAddr::V4(address))
    }

    async fn connect(&self, host: &str, netns: &Path, address: Ipv4Addr) -> Result<(), NetworkError> {
        self.links.remove(host).await?;
        let peer = format!("trp{}", &host[PREFIX.len()..]);
        let target = namespace::open(netns)?;
        let port = self
            .links
            .pair(host, &peer, hardware(address), self.config.mtu, target.as_raw_fd())
            .await?;
        sysctl::set_if_there(&format!("ipv6/conf/{host}/accept_dad"), "0")?;
        let own = Source {
            link: host.to_owned(),
            address,
        };
        sources::add(&own).await?;
        self.links.join(port, self.bridge).await?;
        let gateway = self.gateway();
        namespace::within(netns, move |links| async move {
            let loopback = links.require("lo").await?;
            links.up(loopback).await?;
            let index = links.require(&peer).await?;
            links.rename(index, INSIDE).await?;
            sysctl::set_if_there("ipv6/conf/default/accept_dad", "0")?;
            for setting in [
                "ipv6/conf/eth0/accept_dad",
                "ipv4/conf/eth0/accept_redirects",
                "ipv4/conf/all/accept_redirects",
            ] {
                sysctl::set_if_there(setting, "0")?;
            }
            // Says its address aloud when it comes up, so the bridge learns its new place at once.
            sysctl::set_if_there("ipv4/conf/eth0/arp_notify", "1")?;
            links.add_address(index, address, 32).await?;
            links.up(index).await?;
            links.route_direct(Ipv4Range::new(gateway, 32), index, None).await?;
            links.route_default(gateway, index).await
        })
        .await
    }

    /// Removes a sandbox's links and gives its address back. Idempotent, also for sandboxes never attached.
    ///
    /// # Errors
    /// When the kernel or the disk refuses; call again.
    pub async fn detach(&self, sandbox_id: &str) -> Result<(), NetworkError> {
        self.links.remove(&outside(sandbox_id)).await?;
        if let Some(address) = self.addresses.of(sandbox_id) {
            sources::remove(&source(sandbox_id, address)).await?;
        }
        let (addresses, id) = (Arc::clone(&self.addresses), sandbox_id.to_owned());
        blocking(move || addresses.release(&id)).await
    }

    /// The address a sandbox has.
    #[must_use]
    pub fn address(&self, sandbox_id: &str) -> Option<IpAddr> {
        self.addresses.of(sandbox_id).map(IpAddr::V4)
    }

    /// Detaches every sandbox that is not among the living: what a crash or a reboot left behind. Returns how many.
    ///
    /// # Errors
    /// As [`PodNetwork::detach`].
    pub async fn retain(&self, living: &BTreeSet<String>) -> Result<usize, NetworkError> {
        let mut removed = 0;
        for sandbox in self.addresses.sandboxes().difference(living) {
            self.detach(sandbox).await?;
            removed += 1;
        }
        Ok(removed)
    }

    /// Puts a Service address on the bridge, for a process of this node to answer there itself (cluster DNS).
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn add_service_address(&self, address: Ipv4Addr) -> Result<(), NetworkError> {
        self.links.add_address(self.bridge, address, 32).await
    }

    /// Takes it away again. Idempotent.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn remove_service_address(&self, address: Ipv4Addr) -> Result<(), NetworkError> {
        self.links.remove_address(address).await
    }

    /// Removes all that was made: rules, links, bridge, remembered addresses. Pods lose their network.
    ///
    /// # Errors
    /// The first thing that could not be removed; call again.
    pub async fn teardown(&self) -> Result<(), NetworkError> {
        let mut script = String::new();
        for family in ["ip", "ip6"] {
            for table in [TABLE, POLICY_TABLE] {
                script.push_str(&format!("add table {family} {table}\ndelete table {family} {table}\n"));
            }
        }
        Nft.apply(&script).await?;
        guard(&BTreeSet::new()).await?;
        sources::teardown().await?;
        PodMesh::open(&self.config.bridge)?.teardown().await?;
        for port in self.links.ports(self.bridge).await? {
            if port.starts_with(PREFIX) {
                self.links.remove(&port).await?;
            }
        }
        self.links.remove(&self.config.bridge).await?;
        let addresses = Arc::clone(&self.addresses);
        blocking(move || addresses.remove()).await
    }
}
