//! Addresses and blocks of addresses, with upstream's texts
//! (staging/src/k8s.io/apimachinery/pkg/util/validation/ip.go).
//!
//! Invariant: an address with leading zeros is read, as upstream reads it, so that it can be told apart from nonsense.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::errors::Errors;
use super::node::Node;
use super::seen::Seen;
use super::show;

/// An address, leading zeros allowed.
pub(super) fn parse(text: &str) -> Option<IpAddr> {
    if let Ok(found) = text.parse() {
        return Some(found);
    }
    let parts: Vec<&str> = text.split('.').collect();
    if parts.len() != 4
        || parts
            .iter()
            .any(|part| part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_digit()))
    {
        return None;
    }
    let mut bytes = [0u8; 4];
    for (byte, part) in bytes.iter_mut().zip(&parts) {
        *byte = part
            .trim_start_matches('0')
            .parse()
            .or_else(|_| {
                if part.trim_start_matches('0').is_empty() {
                    Ok(0)
                } else {
                    Err(())
                }
            })
            .ok()?;
    }
    Some(IpAddr::V4(Ipv4Addr::from(bytes)))
}

/// Whether it is written as an IPv6 address and is one.
pub(super) fn is_v6(text: &str) -> bool {
    matches!(parse(text), Some(IpAddr::V6(address)) if address.to_ipv4_mapped().is_none())
}

/// A block: address, prefix length.
pub(super) fn parse_block(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = text.split_once('/')?;
    let address = parse(address)?;
    if length.is_empty() || !length.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let length: u8 = length.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    (length <= most).then_some((address, length))
}

/// The address with everything after the prefix cleared.
pub(super) fn masked(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from(u32::from(address) & mask))
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from(u128::from(address) & mask))
        }
    }
}

fn mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some())
}

/// An address, where what stood there before stays allowed.
pub(super) fn address(errors: &mut Errors, node: &Node<'_>, before: &Seen<&str>) -> bool {
    let text = node.str();
    if before.contains(&text) {
        return true;
    }
    let Some(found) = parse(text) else {
        errors.push(node.bad("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"));
        return false;
    };
    if text.parse::<IpAddr>().is_err() {
        errors.push(node.bad("must not have leading 0s"));
        return false;
    }
    if mapped(found) {
        errors.push(node.bad("must not be an IPv4-mapped IPv6 address"));
        return false;
    }
    true
}

/// An address in its one canonical form.
pub(super) fn canonical_address(errors: &mut Errors, node: &Node<'_>) {
    if address(errors, node, &Seen::default())
        && let Some(found) = parse(node.str())
        && found.to_string() != node.str()
    {
        errors.push(node.bad(format!("must be in canonical form ({})", show::quoted(&found.to_string()))));
    }
}

/// A block of addresses, where what stood there before stays allowed.
pub(super) fn block(errors: &mut Errors, node: &Node<'_>, before: &Seen<&str>) -> bool {
    let text = node.str();
    if before.contains(&text) {
        return true;
    }
    let Some((found, length)) = parse_block(text) else {
        errors.push(node.bad("must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"));
        return false;
    };
    let (plain, digits) = text.split_once('/').unwrap_or_default();
    let problem = if plain.parse::<IpAddr>().is_err() || (digits.len() > 1 && digits.starts_with('0')) {
        "must not have leading 0s in IP or prefix length"
    } else if mapped(found) {
        "must not have an IPv4-mapped IPv6 address"
    } else if masked(found, length) != found {
        "must not have bits set beyond the prefix length"
    } else {
        return true;
    };
    errors.push(node.bad(problem));
    false
}

/// A block in its one canonical form.
pub(super) fn canonical_block(errors: &mut Errors, node: &Node<'_>) {
    if block(errors, node, &Seen::default())
        && let Some((found, length)) = parse_block(node.str())
    {
        let canonical = format!("{}/{length}", masked(found, length));
        if canonical != node.str() {
            errors.push(node.bad(format!("must be in canonical form ({})", show::quoted(&canonical))));
        }
    }
}

/// What a list that holds one of each family is made of.
pub(super) enum Each {
    /// Blocks, written as they are.
    Block,
    /// Addresses in objects of their own.
    Address,
}

/// A list of blocks or addresses (`all` are its texts) with no more than one of each family. Where one of them cannot be read, upstream tells
/// of its own failure, too.
pub(super) fn one_of_each(errors: &mut Errors, list: &Node<'_>, all: &[&str], each: &Each) {
    if all.len() < 2 {
        return;
    }
    let unread = all.iter().position(|text| match each {
        Each::Block => parse_block(text).is_none(),
        Each::Address => parse(text).is_none(),
    });
    if let Some(at) = unread {
        let text = all[at];
        let failure = match each {
            Each::Block => format!(
                "invalid PodCIDRs. failed to check with dual stack with error:invalid CIDR[{at}]: <nil> (invalid CIDR address: {text})"
            ),
            Each::Address => format!("failed to check for dual stack with error:invalid IP[{at}]: {text}"),
        };
        errors.push(list.internal(failure));
    }
    if unread.is_some() || !dual_stack(all) || all.len() > 2 {
        errors.push(match each {
            Each::Block => list.invalid("may specify no more than one CIDR for each IP family"),
            Each::Address => {
                let shown: Vec<String> = all.iter().map(|text| format!("{{\"IP\":{}}}", show::quoted(text))).collect();
                list.invalid_as(
                    format!("[{}]", shown.join(",")),
                    "may specify no more than one IP for each IP family",
                )
            }
        });
    }
}

/// Whether the texts hold addresses, or blocks, of both families.
pub(super) fn dual_stack(texts: &[&str]) -> bool {
    let six = |text: &&&str| is_v6(text.split('/').next().unwrap_or_default());
    texts.iter().any(|text| six(&text)) && texts.iter().any(|text| !six(&text))
}

/// An address that traffic can be sent to.
pub(super) fn endpoint(errors: &mut Errors, node: &Node<'_>) {
    let Some(found) = parse(node.str()) else {
        errors.push(node.bad("must be a valid IP address"));
        return;
    };
    let (link_local, link_multicast) = match found {
        IpAddr::V4(address) => (address.is_link_local(), address.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(address) => (
            address.segments()[0] & 0xffc0 == 0xfe80,
            address.segments()[0] & 0xff0f == 0xff02,
        ),
    };
    if found.is_unspecified() {
        errors.push(node.bad(format!("may not be unspecified ({})", node.str())));
    }
    if found.is_loopback() {
        errors.push(node.bad("may not be in the loopback range (127.0.0.0/8, ::1/128)"));
    }
    if link_local {
        errors.push(node.bad("may not be in the link-local range (169.254.0.0/16, fe80::/10)"));
    }
    if link_multicast {
        errors.push(node.bad("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"));
    }
}
