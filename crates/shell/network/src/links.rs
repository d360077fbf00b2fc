//! Links, addresses and routes by rtnetlink, each call idempotent.
//!
//! Invariant: works in the network namespace that the thread was in when [`Links::open`] was called.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::RawFd;

use futures::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressScope};
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::route::RouteScope;
use rtnetlink::{Error, Handle, LinkBridge, LinkBridgePort, LinkUnspec, LinkVeth, RouteMessageBuilder};
use trireme_routing::Cidr;

use crate::{Ipv4Range, NetworkError};

/// An address of this host and how far its network goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HostNetwork {
    pub(crate) link: u32,
    pub(crate) address: IpAddr,
    pub(crate) prefix: u8,
}

impl HostNetwork {
    pub(crate) fn network(&self) -> Cidr {
        Cidr::new(self.address, self.prefix)
    }
}

/// A connection to the kernel; ends with its last clone.
#[derive(Clone)]
pub(crate) struct Links {
    pub(crate) handle: Handle,
}

pub(crate) fn failed(what: impl Into<String>) -> impl FnOnce(Error) -> NetworkError {
    move |error| match error {
        Error::NetlinkError(message) => NetworkError::kernel(what, message.to_io()),
        other => NetworkError::kernel(what, std::io::Error::other(other.to_string())),
    }
}

pub(crate) fn is(error: &Error, code: i32) -> bool {
    matches!(error, Error::NetlinkError(message) if message.raw_code().abs() == code)
}

/// Turns "it is there already" into success.
pub(crate) fn unless_there(result: Result<(), Error>, what: impl Into<String>) -> Result<(), NetworkError> {
    match result {
        Err(error) if is(&error, libc::EEXIST) => Ok(()),
        other => other.map_err(failed(what)),
    }
}

impl Links {
    /// Connects to the kernel from within a tokio runtime.
    pub(crate) fn open() -> Result<Self, NetworkError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(|source| NetworkError::kernel("netlink", source))?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// The index of a link, `None` if there is no such link.
    pub(crate) async fn index(&self, name: &str) -> Result<Option<u32>, NetworkError> {
        let mut found = std::pin::pin!(self.handle.link().get().match_name(name).execute());
        match found.try_next().await {
            Ok(link) => Ok(link.map(|link| link.header.index)),
            Err(error) if is(&error, libc::ENODEV) => Ok(None),
            Err(error) => Err(failed(format!("look for link {name}"))(error)),
        }
    }

    /// The index of a link that must be there.
    pub(crate) async fn require(&self, name: &str) -> Result<u32, NetworkError> {
        let missing = || NetworkError::kernel(format!("link {name}"), std::io::Error::from_raw_os_error(libc::ENODEV));
        self.index(name).await?.ok_or_else(missing)
    }

    /// All IPv4 addresses of global scope with their link's index.
    pub(crate) async fn addresses(&self) -> Result<Vec<(u32, Ipv4Addr)>, NetworkError> {
        let all = self
            .handle
            .address()
            .get()
            .execute()
            .try_collect::<Vec<_>>()
            .await
            .map_err(failed("list addresses"))?;
        let global = all.into_iter().filter(|it| it.header.scope == AddressScope::Universe);
        Ok(global
            .filter_map(|message| {
                let address = message.attributes.iter().find_map(|attribute| match attribute {
                    AddressAttribute::Address(IpAddr::V4(address)) => Some(*address),
                    _ => None,
                })?;
                Some((message.header.index, address))
            })
            .collect())
    }

    /// Name and hardware address of a link.
    pub(crate) async fn face(&self, index: u32) -> Result<(String, [u8; 6]), NetworkError> {
        let mut found = std::pin::pin!(self.handle.link().get().match_index(index).execute());
        let link = found.try_next().await.map_err(failed(format!("look at link {index}")))?;
        let (mut name, mut hardware) = (String::new(), [0; 6]);
        for attribute in link.into_iter().flat_map(|link| link.attributes) {
            match attribute {
                LinkAttribute::IfName(it) => name = it,
                // A link without one (a tunnel) has no neighbours to tell.
                LinkAttribute::Address(it) => hardware = it.try_into().unwrap_or_default(),
                _ => {}
            }
        }
        Ok((name, hardware))
    }

    /// Lasting global addresses of both families on links other than those named and the loopback.
    pub(crate) async fn host_networks(&self, without: &[&str]) -> Result<Vec<HostNetwork>, NetworkError> {
        let mut ours = Vec::new();
        for name in without.iter().chain(&["lo"]) {
            ours.extend(self.index(name).await?);
        }
        let all = self.handle.address().get().execute();
        let all: Vec<_> = all.try_collect().await.map_err(failed("list addresses"))?;
        let lasting = all.into_iter().filter(|it| {
            it.header.scope == AddressScope::Universe
                && !it.header.flags.contains(AddressHeaderFlags::Deprecated)
                && !ours.contains(&it.header.index)
        });
        Ok(lasting
            .filter_map(|message| {
                let local = message.attributes.iter().find_map(|attribute| match attribute {
                    AddressAttribute::Local(address) => Some(*address),
                    _ => None,
                });
                let plain = message.attributes.iter().find_map(|attribute| match attribute {
                    AddressAttribute::Address(address) => Some(*address),
                    _ => None,
                });
                Some(HostNetwork {
                    link: message.header.index,
                    address: local.or(plain)?,
                    prefix: message.header.prefix_len,
                })
            })
            .collect())
    }

    /// Largest packet of the link that has an address; `None` if none has it.
    pub(crate) async fn mtu_of(&self, address: Ipv4Addr) -> Result<Option<u32>, NetworkError> {
        let Some((index, _)) = self.addresses().await?.into_iter().find(|(_, it)| *it == address) else {
            return Ok(None);
        };
        let mut found = std::pin::pin!(self.handle.link().get().match_index(index).execute());
        let link = found.try_next().await.map_err(failed(format!("look at link {index}")))?;
        Ok(link.and_then(|link| {
            link.attributes.into_iter().find_map(|attribute| match attribute {
                LinkAttribute::Mtu(mtu) => Some(mtu),
                _ => None,
            })
        }))
    }

    /// Names of the links that are ports of a bridge.
    pub(crate) async fn ports(&self, bridge: u32) -> Result<Vec<String>, NetworkError> {
        let all = self
            .handle
            .link()
            .get()
            .execute()
            .try_collect::<Vec<_>>()
            .await
            .map_err(failed("list links"))?;
        let of_bridge = all
            .into_iter()
            .filter(|link| link.attributes.contains(&LinkAttribute::Controller(bridge)));
        Ok(of_bridge
            .filter_map(|link| {
                link.attributes.into_iter().find_map(|attribute| match attribute {
                    LinkAttribute::IfName(name) => Some(name),
                    _ => None,
                })
            })
            .collect())
    }

    /// Makes a bridge with a fixed hardware address (otherwise it would change with its ports), or finds it.
    pub(crate) async fn bridge(&self, name: &str, hardware: [u8; 6], mtu: u32) -> Result<u32, NetworkError> {
        let message = LinkBridge::new(name).address(hardware.to_vec()).mtu(mtu).up().build();
        unless_there(self.handle.link().add(message).execute().await, format!("make bridge {name}"))?;
        let index = self.require(name).await?;
        // One that was there may come from another mode of the pod network.
        self.set_mtu(index, mtu).await?;
        self.up(index).await?;
        Ok(index)
    }

    /// Makes a pair of links, the second end in the namespace of `namespace`. Fails if either name is taken.
    pub(crate) async fn pair(
        &self,
        host: &str,
        peer: &str,
        hardware: [u8; 6],
        mtu: u32,
        namespace: RawFd,
    ) -> Result<u32, NetworkError> {
        let message = LinkVeth::new(host, peer).mtu(mtu).build();
        self.handle
            .link()
            .add(message)
            .execute()
            .await
            .map_err(failed(format!("make links {host} and {peer}")))?;
        let far = self.require(peer).await?;
        let message = LinkUnspec::new_with_index(far).address(hardware.to_vec()).mtu(mtu).build();
        self.handle
            .link()
            .set(message)
            .execute()
            .await
            .map_err(failed(format!("set up link {peer}")))?;
        let message = LinkUnspec::new_with_index(far).setns_by_fd(namespace).build();
        self.handle
            .link()
            .set(message)
            .execute()
            .await
            .map_err(failed(format!("move link {peer} into the sandbox")))?;
        self.require(host).await
    }

    /// Makes a link a port of a bridge that may send a packet back where it came from.
    pub(crate) async fn join(&self, index: u32, bridge: u32) -> Result<(), NetworkError> {
        let message = LinkUnspec::new_with_index(index).controller(bridge).up().build();
        self.handle
            .link()
            .set(message)
            .execute()
            .await
            .map_err(failed("join a link to the bridge"))?;
        let message = LinkBridgePort::new(index).hairpin(true).build();
        self.handle
            .link()
            .set_port(message)
            .execute()
            .await
            .map_err(failed("set hairpin mode"))
    }

    pub(crate) async fn up(&self, index: u32) -> Result<(), NetworkError> {
        let message = LinkUnspec::new_with_index(index).up().build();
        self.handle
            .link()
            .set(message)
            .execute()
            .await
            .map_err(failed(format!("bring up link {index}")))
    }

    pub(crate) async fn rename(&self, index: u32, name: &str) -> Result<(), NetworkError> {
        let message = LinkUnspec::new_with_index(index).name(name).build();
        self.handle
            .link()
            .set(message)
            .execute()
            .await
            .map_err(failed(format!("rename a link to {name}")))
    }

    /// Removes a link; an absent one is done.
    pub(crate) async fn remove(&self, name: &str) -> Result<(), NetworkError> {
        let Some(index) = self.index(name).await? else { return Ok(()) };
        match self.handle.link().del(index).execute().await {
            Err(error) if is(&error, libc::ENODEV) => Ok(()),
            other => other.map_err(failed(format!("remove link {name}"))),
        }
    }

    pub(crate) async fn add_address(&self, index: u32, address: Ipv4Addr, prefix: u8) -> Result<(), NetworkError> {
        let request = self.handle.address().add(index, IpAddr::V4(address), prefix);
        unless_there(request.execute().await, format!("add address {address}/{prefix}"))
    }

    /// Removes an address from whatever link has it; an absent one is done.
    pub(crate) async fn remove_address(&self, address: Ipv4Addr) -> Result<(), NetworkError> {
        let mut of_v4 = std::pin::pin!(self.handle.address().get().set_address_filter(IpAddr::V4(address)).execute());
        while let Some(message) = of_v4.try_next().await.map_err(failed("list addresses"))? {
            if message.header.family != AddressFamily::Inet {
                continue;
            }
            let removed = self.handle.address().del(message).execute().await;
            match removed {
                Err(error) if is(&error, libc::EADDRNOTAVAIL) => {}
                other => other.map_err(failed(format!("remove address {address}")))?,
            }
        }
        Ok(())
    }

    /// A route to a range that is reached directly over a link.
    pub(crate) async fn route_direct(&self, range: Ipv4Range, index: u32, source: Option<Ipv4Addr>) -> Result<(), NetworkError> {
        let mut route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(range.address(), range.prefix())
            .output_interface(index)
            .scope(RouteScope::Link);
        if let Some(source) = source {
            route = route.pref_source(source);
        }
        self.handle
            .route()
            .add(route.build())
            .replace()
            .execute()
            .await
            .map_err(failed(format!("route to {range}")))
    }

    /// The default route.
    pub(crate) async fn route_default(&self, gateway: Ipv4Addr, index: u32) -> Result<(), NetworkError> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .gateway(gateway)
            .output_interface(index)
            .build();
        self.handle
            .route()
            .add(route)
            .replace()
            .execute()
            .await
            .map_err(failed("default route"))
    }
}
