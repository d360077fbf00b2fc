//! Spoofed sources: what comes out of a pod's link with another hardware or IP address than the pod's own is dropped, ARP that
//! speaks for others too. Pods have no IPv6 addresses but link-local ones, from which they may look for neighbours and no more.
//! IP packets go to the gateway only: a pod that sent to its neighbour's hardware address would go round the node's IP layer, and
//! so round network policies.
//!
//! Invariant: a link is known here before it becomes a port of the bridge, so no packet of a pod goes unchecked. The rules are in
//! the bridge's own family, where the port that a packet came by is still known.

use std::fmt::Write;
use std::net::Ipv4Addr;

use crate::pod_network::hardware;
use crate::{NetworkError, Nft, Nftables};

const TABLE: &str = "trireme_sources";
/// Looking for neighbours and routers, and telling routers of groups.
const ND: &str = "{ nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, mld2-listener-report }";

/// A pod's link on the host, and the address that it may speak from.
pub(crate) struct Source {
    pub(crate) link: String,
    pub(crate) address: Ipv4Addr,
}

/// The hardware address that belongs to an IP address, as nftables writes it.
fn colons(address: Ipv4Addr) -> String {
    hardware(address).map(|byte| format!("{byte:02x}")).join(":")
}

impl Source {
    fn elements(&self) -> [(&'static str, String); 2] {
        let bytes = colons(self.address);
        let (link, address) = (&self.link, self.address);
        [
            ("links", format!("\"{link}\" . {bytes}")),
            ("sources", format!("\"{link}\" . {bytes} . {address}")),
        ]
    }
}

/// Replaces all rules: these are the gateway and the pods there are. One transaction.
pub(crate) async fn replace(gateway: Ipv4Addr, sources: &[Source]) -> Result<(), NetworkError> {
    Nft.apply(&script(gateway, sources)).await?;
    Ok(())
}

/// Lets a pod's link speak from its address, before it may speak at all.
pub(crate) async fn add(source: &Source) -> Result<(), NetworkError> {
    let mut script = String::new();
    let [links, sources] = source.elements();
    for (set, element) in [("ports", format!("\"{}\"", source.link)), links, sources] {
        push(&mut script, &format!("add element bridge {TABLE} {set} {{ {element} }}\n"));
    }
    Nft.apply(&script).await?;
    Ok(())
}

/// Forgets a link that is gone. Idempotent.
pub(crate) async fn remove(source: &Source) -> Result<(), NetworkError> {
    let mut script = String::new();
    let [links, sources] = source.elements();
    for (set, element) in [("ports", format!("\"{}\"", source.link)), links, sources] {
        // Added first, so that taking it away succeeds whether it was there or not.
        for verb in ["add", "delete"] {
            push(&mut script, &format!("{verb} element bridge {TABLE} {set} {{ {element} }}\n"));
        }
    }
    Nft.apply(&script).await?;
    Ok(())
}

/// Removes the rules. Idempotent.
pub(crate) async fn teardown() -> Result<(), NetworkError> {
    Nft.apply(&format!("add table bridge {TABLE}\ndelete table bridge {TABLE}\n"))
        .await?;
    Ok(())
}

fn push(script: &mut String, text: &str) {
    script.write_str(text).expect("a String takes any text");
}

fn script(gateway: Ipv4Addr, sources: &[Source]) -> String {
    let gateway = colons(gateway);
    let set = |name: &str, kind: &str, elements: Vec<String>| {
        let elements = if elements.is_empty() {
            String::new()
        } else {
            format!("elements = {{ {} }}\n", elements.join(", "))
        };
        format!("set {name} {{\ntype {kind}\n{elements}}}\n")
    };
    let ports = sources.iter().map(|source| format!("\"{}\"", source.link)).collect();
    let (links, addresses) = sources
        .iter()
        .map(|source| source.elements().map(|(_, element)| element))
        .map(|[link, address]| (link, address))
        .unzip();
    format!(
        "add table bridge {TABLE}\ndelete table bridge {TABLE}\ntable bridge {TABLE} {{\n{}{}{}\
         chain from_pod {{\n\
         ether type ip ether daddr {gateway} iifname . ether saddr . ip saddr @sources accept\n\
         ether type arp iifname . ether saddr @links iifname . arp saddr ether . arp saddr ip @sources accept\n\
         ether type arp iifname . ether saddr @links arp saddr ip 0.0.0.0 accept\n\
         ether type ip6 iifname . ether saddr @links ip6 saddr {{ ::, fe80::/10 }} icmpv6 type {ND} accept\n\
         counter drop\n}}\n\
         chain prerouting {{\ntype filter hook prerouting priority -300; policy accept;\niifname @ports goto from_pod\n}}\n}}\n",
        set("ports", "ifname", ports),
        set("links", "ifname . ether_addr", links),
        set("sources", "ifname . ether_addr . ipv4_addr", addresses),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pod_is_in_the_rules_with_its_own_addresses() {
        let pods = [
            Source {
                link: "tri1".into(),
                address: [10, 42, 0, 2].into(),
            },
            Source {
                link: "tri2".into(),
                address: [10, 42, 0, 3].into(),
            },
        ];
        let gateway = [10, 42, 0, 1].into();
        let text = script(gateway, &pods);
        assert!(text.contains("elements = { \"tri1\", \"tri2\" }"), "{text}");
        let own = "elements = { \"tri1\" . 0a:58:0a:2a:00:02 . 10.42.0.2, \"tri2\" . 0a:58:0a:2a:00:03 . 10.42.0.3 }";
        assert!(text.contains(own), "{text}");
        assert!(text.contains("ether daddr 0a:58:0a:2a:00:01 iifname"), "{text}");
        assert!(!script(gateway, &[]).contains("elements"));
    }
}
