//! Brings the kernel to a [`Mesh`]: the tunnel and the ways to other nodes' pods.
//!
//! Invariant: what is right already is left alone, so traffic goes on over a restart; ways are made from the far end to the
//! near one (forwarding entry, neighbour, route) and removed in the opposite order, so that no packet finds half a way. It
//! will not decide what is wanted: `routing::mesh` does.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use trireme_routing::Cidr;
use trireme_routing::mesh::{Mac, Mesh, Tunnel, VXLAN_OVERHEAD_BYTES};

use crate::guard::guard_tunnel;
use crate::links::Links;
use crate::pod_network::MTU_BYTES;
use crate::{NetworkError, sysctl};

/// Name of the tunnel.
pub const TUNNEL: &str = "trireme-vx";

/// The ways from this node to other nodes' pods, in the network namespace that the caller was in at [`PodMesh::open`].
pub struct PodMesh {
    links: Links,
    /// Links that are ours: their networks are no networks of hosts.
    bridge: String,
}

/// Counts changes, and goes on after a failure.
#[derive(Default)]
struct Tally {
    changes: usize,
    failure: Option<NetworkError>,
}

impl Tally {
    fn note(&mut self, done: Result<(), NetworkError>) {
        match done {
            Ok(()) => self.changes += 1,
            Err(error) => {
                tracing::debug!("pod network: {error}");
                self.failure.get_or_insert(error);
            }
        }
    }
}

impl PodMesh {
    /// Connects to the kernel; changes nothing. `bridge` is the name of the pods' bridge.
    ///
    /// # Errors
    /// When the kernel gives no netlink socket.
    pub fn open(bridge: &str) -> Result<Self, NetworkError> {
        Ok(Self {
            links: Links::open()?,
            bridge: bridge.to_owned(),
        })
    }

    /// The networks that this host's own links are in.
    ///
    /// # Errors
    /// When the kernel refuses to tell.
    pub async fn networks(&self) -> Result<Vec<Cidr>, NetworkError> {
        let found = self.links.host_networks(&[&self.bridge, TUNNEL]).await?;
        Ok(found
            .into_iter()
            .filter(|it| it.address.is_ipv4())
            .map(|it| it.network())
            .collect())
    }

    /// Applies the differences and returns how many there were. Call it again whenever nodes change, and now and then, as a
    /// link that goes down takes its routes along.
    ///
    /// # Errors
    /// The first thing that the kernel refused; everything else was done.
    pub async fn apply(&self, wanted: &Mesh) -> Result<usize, NetworkError> {
        let mut tally = Tally::default();
        let tunnel = match &wanted.tunnel {
            Some(tunnel) => Some(self.ensure(tunnel, &mut tally).await?),
            None => {
                if self.links.index(TUNNEL).await?.is_some() {
                    tally.note(self.links.remove(TUNNEL).await);
                }
                None
            }
        };
        let mut stale = Stale::default();
        if let Some(index) = tunnel {
            stale = self.reach_peers(index, wanted, &mut tally).await?;
        }
        let peers: Option<BTreeSet<Ipv4Addr>> = tunnel.map(|_| wanted.forwarding.values().copied().collect());
        // Written anew each time, and no change: somebody may have flushed all rules.
        if let Err(error) = guard_tunnel(peers.as_ref()).await {
            tally.note(Err(error));
        }
        self.routes(tunnel, wanted, &mut tally).await?;
        if let Some(index) = tunnel {
            for address in stale.neighbours {
                tally.note(self.links.remove_neighbour(index, address).await);
            }
            for (mac, node) in stale.forwarding {
                tally.note(self.links.remove_forwarding(index, mac, node).await);
            }
        }
        match tally.failure {
            Some(error) => Err(error),
            None => Ok(tally.changes),
        }
    }

    /// Removes all ways.
    ///
    /// # Errors
    /// As [`PodMesh::apply`].
    pub async fn teardown(&self) -> Result<(), NetworkError> {
        self.apply(&Mesh::default()).await.map(|_| ())
    }

    /// Makes the tunnel, or finds it as it should be.
    async fn ensure(&self, tunnel: &Tunnel, tally: &mut Tally) -> Result<u32, NetworkError> {
        let outer = self.links.mtu_of(tunnel.local).await?.unwrap_or(MTU_BYTES);
        let mtu = outer.saturating_sub(VXLAN_OVERHEAD_BYTES);
        let found = self.links.find_tunnel(TUNNEL, tunnel).await?;
        let index = match found {
            Some(found) if found.is_ours => {
                if found.mtu != mtu {
                    tally.note(self.links.set_mtu(found.index, mtu).await);
                }
                found.index
            }
            other => {
                if other.is_some() {
                    self.links.remove(TUNNEL).await?;
                }
                let made = self.links.make_tunnel(TUNNEL, tunnel, mtu).await;
                let index = made.map_err(|error| match error {
                    NetworkError::Kernel { source, .. } if source.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                        NetworkError::NoVxlan
                    }
                    other => other,
                })?;
                // It carries IPv4 only: no addresses of its own making, and no chatter about them.
                sysctl::set_if_there(&format!("ipv6/conf/{TUNNEL}/addr_gen_mode"), "1")?;
                tally.changes += 1;
                index
            }
        };
        // Loose: what came by the tunnel may have its way back elsewhere while a peer changes its mode.
        sysctl::set_if_there(&format!("ipv4/conf/{TUNNEL}/rp_filter"), "2")?;
        self.links.keep_only(index, tunnel.address).await?;
        self.links.add_address(index, tunnel.address, 32).await?;
        self.links.up(index).await?;
        Ok(index)
    }

    /// Adds what is missing of forwarding entries and neighbours, and tells what is left over.
    async fn reach_peers(&self, index: u32, wanted: &Mesh, tally: &mut Tally) -> Result<Stale, NetworkError> {
        let forwarding: BTreeSet<(Mac, Ipv4Addr)> = self.links.forwarding(index).await?.into_iter().collect();
        for (mac, node) in &wanted.forwarding {
            if !forwarding.contains(&(*mac, *node)) {
                tally.note(self.links.put_forwarding(index, *mac, *node).await);
            }
        }
        let neighbours: BTreeMap<Ipv4Addr, Mac> = self.links.neighbours(index).await?.into_iter().collect();
        for (address, mac) in &wanted.neighbours {
            if neighbours.get(address) != Some(mac) {
                tally.note(self.links.put_neighbour(index, *address, *mac).await);
            }
        }
        Ok(Stale {
            forwarding: forwarding
                .into_iter()
                .filter(|(mac, _)| !wanted.forwarding.contains_key(mac))
                .collect(),
            neighbours: neighbours
                .into_keys()
                .filter(|address| !wanted.neighbours.contains_key(address))
                .collect(),
        })
    }

    async fn routes(&self, tunnel: Option<u32>, wanted: &Mesh, tally: &mut Tally) -> Result<(), NetworkError> {
        let found = self.links.our_routes().await?;
        for (range, route) in &wanted.routes {
            if !found.iter().any(|it| it.range == *range && it.is(route, tunnel)) {
                tally.note(self.links.put_route(*range, route, tunnel).await);
            }
        }
        for route in found {
            if !wanted.routes.contains_key(&route.range) {
                tally.note(self.links.remove_route(route).await);
            }
        }
        Ok(())
    }
}

#[derive(Default)]
struct Stale {
    forwarding: Vec<(Mac, Ipv4Addr)>,
    neighbours: Vec<Ipv4Addr>,
}
