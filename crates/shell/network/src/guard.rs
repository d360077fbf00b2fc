//! Doors that stay closed: load balancer addresses do not lead to the host's own servers, and the tunnel opens to peers only.
//!
//! Invariant: a packet for a guarded address that no Service rule has sent elsewhere is refused; so a port that the Service
//! does not have is closed, though a server of the host listens on all of the host's addresses. Pings are answered.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use trireme_routing::mesh::VXLAN_PORT;

use crate::links::Links;
use crate::{NetworkError, Nft, Nftables};

/// Name of the table of load balancer addresses.
const TABLE: &str = "trireme-guard";

/// Refuses what reaches these addresses and is for the host itself; all others as before. One transaction.
///
/// # Errors
/// When nft refuses.
pub async fn guard(addresses: &BTreeSet<IpAddr>) -> Result<(), NetworkError> {
    Nft.apply(&script(addresses)).await?;
    Ok(())
}

/// Name of the table of the tunnel.
const TUNNEL_TABLE: &str = "trireme-tunnel";

/// Lets packets of the tunnel in from these nodes only: whatever else arrives on its port would be taken for a pod's. An
/// absent tunnel needs no door. One transaction.
pub(crate) async fn guard_tunnel(peers: Option<&BTreeSet<Ipv4Addr>>) -> Result<(), NetworkError> {
    Nft.apply(&tunnel_script(peers)).await?;
    Ok(())
}

fn tunnel_script(peers: Option<&BTreeSet<Ipv4Addr>>) -> String {
    let mut script = format!("add table inet {TUNNEL_TABLE}\ndelete table inet {TUNNEL_TABLE}\n");
    let Some(peers) = peers else { return script };
    let texts: Vec<String> = peers.iter().map(ToString::to_string).collect();
    let elements = if texts.is_empty() {
        String::new()
    } else {
        format!("elements = {{ {} }}\n", texts.join(", "))
    };
    script.push_str(&format!(
        "table inet {TUNNEL_TABLE} {{\nset peers {{\ntype ipv4_addr\n{elements}}}\nchain input {{\n\
         type filter hook input priority -10; policy accept;\n\
         udp dport {VXLAN_PORT} ip saddr @peers accept\nudp dport {VXLAN_PORT} counter drop\n}}\n}}\n"
    ));
    script
}

/// The lasting addresses of this host: those that it has whoever holds what.
///
/// # Errors
/// When the kernel refuses to tell.
pub async fn lasting_addresses() -> Result<BTreeSet<IpAddr>, NetworkError> {
    let found = Links::open()?.host_networks(&[]).await?;
    Ok(found.into_iter().map(|it| it.address).collect())
}

fn script(addresses: &BTreeSet<IpAddr>) -> String {
    let mut script = format!("add table inet {TABLE}\ndelete table inet {TABLE}\n");
    if addresses.is_empty() {
        return script;
    }
    let mut rules = String::new();
    for (family, is_v4) in [("ip", true), ("ip6", false)] {
        let texts: Vec<String> = addresses
            .iter()
            .filter(|it| it.is_ipv4() == is_v4)
            .map(ToString::to_string)
            .collect();
        if !texts.is_empty() {
            // Answers to what the host itself asked of a Service come to the address too: it spoke from there.
            rules.push_str(&format!(
                "ct direction original {family} daddr {{ {} }} jump refuse\n",
                texts.join(", ")
            ));
        }
    }
    script.push_str(&format!(
        "table inet {TABLE} {{\nchain refuse {{\nmeta l4proto tcp reject with tcp reset\nmeta l4proto {{ udp, sctp }} reject\n}}\n\
         chain input {{\ntype filter hook input priority 10; policy accept;\n{rules}}}\n}}\n"
    ));
    script
}
