//! The node's main address.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use crate::TUNNEL;
use crate::links::Links;

/// The address that this host uses towards others: the source address of its default route, otherwise the first global
/// address of a link that is not the pod bridge's. Sends nothing.
pub async fn main_address() -> Option<Ipv4Addr> {
    by_route().or(by_link().await)
}

fn by_route() -> Option<Ipv4Addr> {
    // Connecting a datagram socket only asks the routing table. The address is one reserved for documentation.
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(address) if !address.is_loopback() && !address.is_unspecified() => Some(address),
        _ => None,
    }
}

async fn by_link() -> Option<Ipv4Addr> {
    let links = Links::open().ok()?;
    let found = links.host_networks(&["trireme0", TUNNEL]).await.ok()?;
    let addresses = found.into_iter().filter_map(|it| match it.address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    });
    addresses
        .into_iter()
        .find(|address| !address.is_loopback() && !address.is_link_local())
}
