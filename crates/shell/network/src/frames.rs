//! Ethernet frames that say who has an address: ARP for IPv4, neighbour advertisements for IPv6.
//!
//! Invariant: functions of bytes alone. It will not send anything.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use trireme_routing::mesh::Mac;

/// EtherType of ARP.
pub(crate) const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
const BROADCAST: Mac = [0xff; 6];
const ARP_REQUEST: u16 = 1;
const ARP_REPLY: u16 = 2;
const ICMPV6: u8 = 58;
const ADVERTISEMENT: u8 = 136;
/// The receiver is to replace what it remembers.
const OVERRIDE: u32 = 0x2000_0000;
const TARGET_LINK_LAYER: u8 = 2;

/// What is to be sent when an address has come to `mac`: for IPv4 both forms, as some hosts learn from one only.
pub(crate) fn announcements(address: IpAddr, mac: Mac) -> Vec<Vec<u8>> {
    match address {
        IpAddr::V4(v4) => vec![arp(ARP_REQUEST, mac, v4, [0; 6], v4), arp(ARP_REPLY, mac, v4, BROADCAST, v4)],
        IpAddr::V6(v6) => vec![advertisement(v6, mac)],
    }
}

/// A question who has an address, which teaches nobody anything (RFC 5227).
pub(crate) fn probe(address: Ipv4Addr, mac: Mac) -> Vec<u8> {
    arp(ARP_REQUEST, mac, Ipv4Addr::UNSPECIFIED, [0; 6], address)
}

/// The hardware address of who says in this ARP frame that it has `address`.
pub(crate) fn claims(frame: &[u8], address: Ipv4Addr) -> Option<Mac> {
    let body = frame.get(14..42)?;
    let is_arp = frame[12..14] == ARP.to_be_bytes() && body[..6] == [0, 1, 8, 0, 6, 4];
    (is_arp && body[14..18] == address.octets()).then(|| body[8..14].try_into().ok())?
}

fn ethernet(destination: Mac, source: Mac, kind: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(86);
    frame.extend(destination);
    frame.extend(source);
    frame.extend(kind.to_be_bytes());
    frame
}

fn arp(operation: u16, mac: Mac, sender: Ipv4Addr, target_mac: Mac, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = ethernet(BROADCAST, mac, ARP);
    // Ethernet and IPv4, with addresses of 6 and 4 bytes.
    frame.extend([0, 1, 8, 0, 6, 4]);
    frame.extend(operation.to_be_bytes());
    frame.extend(mac);
    frame.extend(sender.octets());
    frame.extend(target_mac);
    frame.extend(target.octets());
    frame
}

fn advertisement(address: Ipv6Addr, mac: Mac) -> Vec<u8> {
    let everybody = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let mut body = vec![ADVERTISEMENT, 0, 0, 0];
    body.extend(OVERRIDE.to_be_bytes());
    body.extend(address.octets());
    body.extend([TARGET_LINK_LAYER, 1]);
    body.extend(mac);
    let sum = checksum(address, everybody, &body);
    body[2..4].copy_from_slice(&sum.to_be_bytes());

    let mut frame = ethernet([0x33, 0x33, 0, 0, 0, 1], mac, IPV6);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(u16::try_from(body.len()).unwrap_or(u16::MAX).to_be_bytes());
    // Receivers believe only what no router has passed on.
    frame.extend([ICMPV6, 255]);
    frame.extend(address.octets());
    frame.extend(everybody.octets());
    frame.extend(body);
    frame
}

fn checksum(source: Ipv6Addr, destination: Ipv6Addr, body: &[u8]) -> u16 {
    let words = |bytes: &[u8]| -> u32 {
        let pairs = bytes.chunks(2);
        pairs
            .map(|it| u32::from(u16::from_be_bytes([it[0], it.get(1).copied().unwrap_or(0)])))
            .sum()
    };
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let mut sum = words(&source.octets()) + words(&destination.octets()) + length + u32::from(ICMPV6) + words(body);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 9];

    #[test]
    fn announcements_claim_and_probes_do_not() {
        let address: Ipv4Addr = "192.0.2.50".parse().unwrap();
        let frames = announcements(address.into(), MAC);
        assert_eq!(frames.len(), 2);
        for frame in frames {
            assert_eq!(frame.len(), 42);
            assert_eq!(claims(&frame, address), Some(MAC));
            assert_eq!(claims(&frame, "192.0.2.51".parse().unwrap()), None);
            assert_eq!(claims(&frame[..30], address), None, "cut short");
        }
        assert_eq!(claims(&probe(address, MAC), address), None);
    }

    #[test]
    fn an_advertisement_sums_up() {
        let address: Ipv6Addr = "2001:db8::50".parse().unwrap();
        let frames = announcements(address.into(), MAC);
        let frame = &frames[0];
        assert_eq!(frame.len(), 14 + 40 + 32);
        // The sum over a message with its checksum in place is zero.
        let everybody = "ff02::1".parse().unwrap();
        assert_eq!(checksum(address, everybody, &frame[54..]), 0);
        assert_eq!(claims(frame, "192.0.2.50".parse().unwrap()), None);
    }
}
