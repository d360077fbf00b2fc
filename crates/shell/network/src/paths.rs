//! The tunnel between nodes, and routes, neighbours and forwarding entries, by rtnetlink; each call idempotent.
//!
//! Invariant: reads give only what we made: routes by their protocol number, the rest by the device it is on. So whatever is
//! read and not wanted may go.

use std::net::{IpAddr, Ipv4Addr};

use futures::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVxlan, RouteMessageBuilder};
use trireme_routing::Cidr;
use trireme_routing::mesh::{Mac, Route, Tunnel, VXLAN_ID, VXLAN_PORT};

use crate::NetworkError;
use crate::links::{Links, failed, is};

/// Marks our routes; unassigned in iproute2's tables.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(116);

/// A route as the kernel holds it.
pub(crate) struct FoundRoute {
    pub(crate) range: Cidr,
    pub(crate) via: Option<Ipv4Addr>,
    pub(crate) source: Option<Ipv4Addr>,
    pub(crate) link: Option<u32>,
    pub(crate) is_onlink: bool,
    message: RouteMessage,
}

impl FoundRoute {
    /// Whether it is the route wanted, given the tunnel's index.
    pub(crate) fn is(&self, route: &Route, tunnel: Option<u32>) -> bool {
        let over_tunnel = tunnel.is_some() && self.link == tunnel;
        self.via == Some(route.via)
            && self.source == Some(route.source)
            && over_tunnel == route.is_tunnelled
            && self.is_onlink == route.is_tunnelled
    }
}

/// What is there under the tunnel's name.
pub(crate) struct FoundTunnel {
    pub(crate) index: u32,
    pub(crate) mtu: u32,
    pub(crate) is_ours: bool,
}

fn examine(link: &LinkMessage, tunnel: &Tunnel) -> FoundTunnel {
    let mut found = FoundTunnel {
        index: link.header.index,
        mtu: 0,
        is_ours: false,
    };
    let mut has_mac = false;
    let mut has_shape = false;
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Mtu(mtu) => found.mtu = *mtu,
            LinkAttribute::Address(mac) => has_mac = *mac == tunnel.mac,
            LinkAttribute::LinkInfo(infos) => {
                has_shape = infos.iter().any(|info| match info {
                    LinkInfo::Data(InfoData::Vxlan(data)) => shape(tunnel).iter().all(|it| data.contains(it)),
                    _ => false,
                });
            }
            _ => {}
        }
    }
    found.is_ours = has_mac && has_shape;
    found
}

/// What cannot be changed without making the device anew.
fn shape(tunnel: &Tunnel) -> [InfoVxlan; 4] {
    [
        InfoVxlan::Id(VXLAN_ID),
        InfoVxlan::Local(tunnel.local),
        InfoVxlan::Learning(false),
        InfoVxlan::Port(VXLAN_PORT),
    ]
}

impl Links {
    async fn link(&self, name: &str) -> Result<Option<LinkMessage>, NetworkError> {
        let mut found = std::pin::pin!(self.handle.link().get().match_name(name).execute());
        match found.try_next().await {
            Ok(link) => Ok(link),
            Err(error) if is(&error, libc::ENODEV) => Ok(None),
            Err(error) => Err(failed(format!("look for link {name}"))(error)),
        }
    }

    /// What is there under this name, compared with what is wanted.
    pub(crate) async fn find_tunnel(&self, name: &str, tunnel: &Tunnel) -> Result<Option<FoundTunnel>, NetworkError> {
        Ok(self.link(name).await?.map(|link| examine(&link, tunnel)))
    }

    /// Makes the tunnel; fails if the name is taken. It is down afterwards.
    pub(crate) async fn make_tunnel(&self, name: &str, tunnel: &Tunnel, mtu: u32) -> Result<u32, NetworkError> {
        let message = LinkMessageBuilder::<LinkVxlan>::new_with_info_kind(InfoKind::Vxlan)
            .name(name)
            .set_info_data(InfoData::Vxlan(shape(tunnel).into()))
            .address(tunnel.mac.to_vec())
            .mtu(mtu)
            .build();
        let made = self.handle.link().add(message).execute().await;
        made.map_err(failed(format!("make tunnel {name}")))?;
        self.require(name).await
    }

    pub(crate) async fn set_mtu(&self, index: u32, mtu: u32) -> Result<(), NetworkError> {
        let message = LinkUnspec::new_with_index(index).mtu(mtu).build();
        let set = self.handle.link().set(message).execute().await;
        set.map_err(failed(format!("set the largest packet of link {index} to {mtu}")))
    }

    /// Takes all IPv4 addresses but one from a link.
    pub(crate) async fn keep_only(&self, index: u32, address: Ipv4Addr) -> Result<(), NetworkError> {
        let all = self.handle.address().get().set_link_index_filter(index).execute();
        let all: Vec<_> = all.try_collect().await.map_err(failed("list addresses"))?;
        for message in all {
            let stays = message
                .attributes
                .iter()
                .any(|it| matches!(it, AddressAttribute::Local(IpAddr::V4(it)) if *it == address));
            if message.header.family != AddressFamily::Inet || message.header.index != index || stays {
                continue;
            }
            let removed = self.handle.address().del(message).execute().await;
            removed.map_err(failed("remove a former address of the tunnel"))?;
        }
        Ok(())
    }

    /// Our IPv4 routes.
    pub(crate) async fn our_routes(&self) -> Result<Vec<FoundRoute>, NetworkError> {
        let all = self
            .handle
            .route()
            .get(RouteMessageBuilder::<Ipv4Addr>::new().build())
            .execute();
        let all: Vec<RouteMessage> = all.try_collect().await.map_err(failed("list routes"))?;
        let ours = all
            .into_iter()
            .filter(|it| it.header.protocol == PROTOCOL && it.header.table == RouteHeader::RT_TABLE_MAIN);
        Ok(ours.map(found_route).collect())
    }

    /// Makes or changes a route.
    pub(crate) async fn put_route(&self, range: Cidr, route: &Route, tunnel: Option<u32>) -> Result<(), NetworkError> {
        let IpAddr::V4(address) = range.address() else { return Ok(()) };
        let mut message = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(address, range.prefix())
            .gateway(route.via)
            .pref_source(route.source)
            .protocol(PROTOCOL);
        if let (true, Some(index)) = (route.is_tunnelled, tunnel) {
            message = message.output_interface(index).onlink();
        }
        let put = self.handle.route().add(message.build()).replace().execute().await;
        put.map_err(failed(format!("route to {range} via {}", route.via)))
    }

    /// Removes a route; an absent one is done.
    pub(crate) async fn remove_route(&self, route: FoundRoute) -> Result<(), NetworkError> {
        match self.handle.route().del(route.message).execute().await {
            Err(error) if is(&error, libc::ESRCH) => Ok(()),
            other => other.map_err(failed(format!("remove the route to {}", route.range))),
        }
    }

    /// Permanent neighbours on a link.
    pub(crate) async fn neighbours(&self, index: u32) -> Result<Vec<(Ipv4Addr, Mac)>, NetworkError> {
        let all = self.entries(AddressFamily::Inet, index).await?;
        let pair = |message: NeighbourMessage| {
            let address = message.attributes.iter().find_map(|it| match it {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(*address),
                _ => None,
            });
            Some((address?, mac_of(&message)?))
        };
        Ok(all.into_iter().filter_map(pair).collect())
    }

    /// Permanent forwarding entries of a tunnel.
    pub(crate) async fn forwarding(&self, index: u32) -> Result<Vec<(Mac, Ipv4Addr)>, NetworkError> {
        let all = self.entries(AddressFamily::Bridge, index).await?;
        let pair = |message: NeighbourMessage| {
            let address = message.attributes.iter().find_map(|it| match it {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(*address),
                NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => {
                    Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.as_slice()).ok()?))
                }
                _ => None,
            });
            Some((mac_of(&message)?, address?))
        };
        Ok(all.into_iter().filter_map(pair).collect())
    }

    async fn entries(&self, family: AddressFamily, index: u32) -> Result<Vec<NeighbourMessage>, NetworkError> {
        let all = self.handle.neighbours().get().set_address_family(family).execute();
        let all: Vec<NeighbourMessage> = all.try_collect().await.map_err(failed("list neighbours"))?;
        let here = |it: &NeighbourMessage| {
            it.header.family == family && it.header.ifindex == index && it.header.state == NeighbourState::Permanent
        };
        Ok(all.into_iter().filter(here).collect())
    }

    pub(crate) async fn put_neighbour(&self, index: u32, address: Ipv4Addr, mac: Mac) -> Result<(), NetworkError> {
        let request = self.handle.neighbours().add(index, IpAddr::V4(address));
        let put = request.link_layer_address(&mac).replace().execute().await;
        put.map_err(failed(format!("neighbour {address}")))
    }

    pub(crate) async fn remove_neighbour(&self, index: u32, address: Ipv4Addr) -> Result<(), NetworkError> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.ifindex = index;
        let place = NeighbourAttribute::Destination(NeighbourAddress::Inet(address));
        message.attributes.push(place);
        self.remove_entry(message, format!("remove neighbour {address}")).await
    }

    pub(crate) async fn put_forwarding(&self, index: u32, mac: Mac, node: Ipv4Addr) -> Result<(), NetworkError> {
        let request = self.handle.neighbours().add_bridge(index, &mac).flags(NeighbourFlags::Own);
        let put = request.destination(IpAddr::V4(node)).replace().execute().await;
        put.map_err(failed(format!("forwarding entry for {node}")))
    }

    pub(crate) async fn remove_forwarding(&self, index: u32, mac: Mac, node: Ipv4Addr) -> Result<(), NetworkError> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        message.header.ifindex = index;
        message.header.flags = NeighbourFlags::Own;
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        let place = NeighbourAttribute::Destination(NeighbourAddress::Inet(node));
        message.attributes.push(place);
        self.remove_entry(message, format!("remove the forwarding entry for {node}"))
            .await
    }

    async fn remove_entry(&self, message: NeighbourMessage, what: String) -> Result<(), NetworkError> {
        match self.handle.neighbours().del(message).execute().await {
            Err(error) if is(&error, libc::ENOENT) => Ok(()),
            other => other.map_err(failed(what)),
        }
    }
}

fn mac_of(message: &NeighbourMessage) -> Option<Mac> {
    message.attributes.iter().find_map(|it| match it {
        NeighbourAttribute::LinkLayerAddress(bytes) => Mac::try_from(bytes.as_slice()).ok(),
        _ => None,
    })
}

fn found_route(message: RouteMessage) -> FoundRoute {
    let (mut first, mut via, mut source, mut link) = (Ipv4Addr::UNSPECIFIED, None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => first = *address,
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => via = Some(*address),
            RouteAttribute::PrefSource(RouteAddress::Inet(address)) => source = Some(*address),
            RouteAttribute::Oif(index) => link = Some(*index),
            _ => {}
        }
    }
    FoundRoute {
        range: Cidr::new(IpAddr::V4(first), message.header.destination_prefix_length),
        via,
        source,
        link,
        is_onlink: message.header.flags.contains(RouteFlags::Onlink),
        message,
    }
}
