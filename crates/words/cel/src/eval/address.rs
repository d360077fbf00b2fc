//! Addresses and ranges of addresses, as Go's package netip reads them.

use std::fmt::{self, Display, Formatter};
use std::net::{IpAddr, Ipv6Addr};

use super::error::{Evaluated, refused};
use super::show::quoted;

/// An address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(pub IpAddr);

/// A range of addresses: one of them, and how many of its bits all share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The address.
    pub address: Address,
    /// The number of bits.
    pub bits: u8,
}

impl Display for Address {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.0)
    }
}

impl Display for Range {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.address, self.bits)
    }
}

/// What is wrong with an address, and where.
type Fault<'t> = (&'static str, &'t str);

fn four(text: &str) -> Result<[u8; 4], Fault<'_>> {
    let mut fields = [0_u8; 4];
    let (mut value, mut position, mut digits) = (0_u32, 0, 0);
    let bytes = text.as_bytes();
    for (at, byte) in bytes.iter().enumerate() {
        let here = &text[at..];
        match byte {
            b'0'..=b'9' => {
                if digits == 1 && value == 0 {
                    return Err(("IPv4 field has octet with leading zero", ""));
                }
                value = value * 10 + u32::from(byte - b'0');
                digits += 1;
                if value > 255 {
                    return Err(("IPv4 field has value >255", ""));
                }
            }
            b'.' => {
                if at == 0 || at == bytes.len() - 1 || bytes[at - 1] == b'.' {
                    return Err(("IPv4 field must have at least one digit", here));
                }
                if position == 3 {
                    return Err(("IPv4 address too long", ""));
                }
                fields[position] = u8::try_from(value).unwrap_or_default();
                (position, value, digits) = (position + 1, 0, 0);
            }
            _ => return Err(("unexpected character", here)),
        }
    }
    if position < 3 {
        return Err(("IPv4 address too short", ""));
    }
    fields[3] = u8::try_from(value).unwrap_or_default();
    Ok(fields)
}

fn six(text: &str) -> Result<[u8; 16], Fault<'_>> {
    let mut bytes = [0_u8; 16];
    let mut ellipsis = None;
    let mut rest = text;
    if let Some(after) = rest.strip_prefix("::") {
        ellipsis = Some(0);
        rest = after;
        if rest.is_empty() {
            return Ok(bytes);
        }
    }
    let mut filled = 0;
    while filled < 16 {
        let mut value = 0_u32;
        let mut length = 0;
        for digit in rest.chars().map_while(|letter| letter.to_digit(16)) {
            if length > 3 {
                return Err(("each group must have 4 or less digits", rest));
            }
            value = value * 16 + digit;
            length += 1;
        }
        if length == 0 {
            return Err(("each colon-separated field must have at least one digit", rest));
        }
        if rest[length..].starts_with('.') {
            if ellipsis.is_none() && filled != 12 {
                return Err(("embedded IPv4 address must replace the final 2 fields of the address", rest));
            }
            if filled + 4 > 16 {
                return Err(("too many hex fields to fit an embedded IPv4 at the end of the address", rest));
            }
            bytes[filled..filled + 4].copy_from_slice(&four(rest)?);
            rest = "";
            filled += 4;
            break;
        }
        bytes[filled..filled + 2].copy_from_slice(&u16::try_from(value).unwrap_or_default().to_be_bytes());
        filled += 2;
        rest = &rest[length..];
        if rest.is_empty() {
            break;
        }
        let Some(after) = rest.strip_prefix(':') else {
            return Err(("unexpected character, want colon", rest));
        };
        if after.is_empty() {
            return Err(("colon must be followed by more characters", rest));
        }
        rest = after;
        if let Some(after) = rest.strip_prefix(':') {
            if ellipsis.is_some() {
                return Err(("multiple :: in address", rest));
            }
            ellipsis = Some(filled);
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
    }
    if !rest.is_empty() {
        return Err(("trailing garbage after address", rest));
    }
    match ellipsis {
        None if filled < 16 => return Err(("address string too short", "")),
        Some(_) if filled == 16 => return Err(("the :: must expand to at least one field of zeros", "")),
        Some(at) => {
            let moved = filled - at;
            bytes.copy_within(at..filled, 16 - moved);
            bytes[at..16 - moved].fill(0);
        }
        None => {}
    }
    Ok(bytes)
}

/// An address, and its zone.
fn read(text: &str) -> Result<(Address, &str), Fault<'_>> {
    match text.bytes().find(|byte| matches!(byte, b'.' | b':' | b'%')) {
        Some(b'.') => four(text).map(|fields| (Address(fields.into()), "")),
        Some(b':') => {
            let (text, zone) = match text.split_once('%') {
                Some((_, "")) => return Err(("zone must be a non-empty string", "")),
                Some(both) => both,
                None => (text, ""),
            };
            six(text).map(|bytes| (Address(Ipv6Addr::from(bytes).into()), zone))
        }
        Some(_) => Err(("missing IPv6 address", "")),
        None => Err(("unable to parse IP", "")),
    }
}

fn parse_error(text: &str, (why, at): Fault<'_>) -> String {
    let place = if at.is_empty() {
        String::new()
    } else {
        format!(" (at {})", quoted(at))
    };
    format!("ParseAddr({}): {why}{place}", quoted(text))
}

impl Address {
    /// The address that a text is.
    pub(crate) fn parse(text: &str) -> Evaluated<Self> {
        match read(text) {
            Err(fault) => {
                let why = parse_error(text, fault);
                refused(format!(
                    "IP Address {} parse error during conversion from string: {why}",
                    quoted(text)
                ))
            }
            Ok((_, zone)) if !zone.is_empty() => refused(format!("IP address {} with zone value is not allowed", quoted(text))),
            Ok((address, _)) if address.is_mapped() => {
                refused(format!("IPv4-mapped IPv6 address {} is not allowed", quoted(text)))
            }
            Ok((address, _)) => Ok(address),
        }
    }

    fn is_mapped(self) -> bool {
        matches!(self.0, IpAddr::V6(address) if address.to_ipv4_mapped().is_some())
    }

    pub(crate) fn size(self) -> u64 {
        if self.0.is_ipv4() { 4 } else { 16 }
    }

    pub(crate) fn is_link_local_multicast(self) -> bool {
        match self.0 {
            IpAddr::V4(address) => address.octets()[..3] == [224, 0, 0],
            IpAddr::V6(address) => address.octets()[0] == 0xff && address.octets()[1] & 0x0f == 0x02,
        }
    }

    pub(crate) fn is_link_local_unicast(self) -> bool {
        match self.0 {
            IpAddr::V4(address) => address.is_link_local(),
            IpAddr::V6(address) => address.segments()[0] & 0xffc0 == 0xfe80,
        }
    }

    pub(crate) fn is_global_unicast(self) -> bool {
        let broadcast = matches!(self.0, IpAddr::V4(address) if address.is_broadcast());
        !(broadcast || self.0.is_unspecified() || self.0.is_loopback() || self.0.is_multicast() || self.is_link_local_unicast())
    }

    /// All bits, those of shorter addresses first.
    fn number(self) -> u128 {
        match self.0 {
            IpAddr::V4(address) => u128::from(u32::from(address)) << 96,
            IpAddr::V6(address) => address.into(),
        }
    }
}

impl Range {
    /// The range that a text is.
    pub(crate) fn parse(text: &str) -> Evaluated<Self> {
        let wrong = |why: &str| {
            let why = format!("netip.ParsePrefix({}): {why}", quoted(text));
            refused(format!("network address parse error during conversion from string: {why}"))
        };
        let Some((address, bits)) = text.rsplit_once('/') else {
            return wrong("no '/'");
        };
        let (read, zone) = match read(address) {
            Ok(read) => read,
            Err(fault) => return wrong(&parse_error(address, fault)),
        };
        if !zone.is_empty() {
            return wrong("IPv6 zones cannot be present in a prefix");
        }
        let digits = bits.strip_prefix(['-', '+']).filter(|_| bits.len() == 2).unwrap_or(bits);
        let number = digits
            .parse::<u32>()
            .ok()
            .filter(|_| bits.len() < 2 || matches!(bits.as_bytes()[0], b'1'..=b'9'));
        let Some(number) = number else {
            return wrong(&format!("bad bits after slash: {}", quoted(bits)));
        };
        match u8::try_from(number) {
            Ok(bits) if u64::from(bits) <= read.size() * 8 => {
                if read.is_mapped() {
                    return refused(format!("IPv4-mapped IPv6 address {} is not allowed", quoted(text)));
                }
                Ok(Self { address: read, bits })
            }
            _ => wrong("prefix length out of range"),
        }
    }

    pub(crate) fn size(self) -> u64 {
        u64::from(self.bits).div_ceil(8)
    }

    fn mask(bits: u8) -> u128 {
        if bits == 0 { 0 } else { u128::MAX << (128 - u32::from(bits)) }
    }

    /// Whether an address is of the range.
    pub(crate) fn has(self, address: Address) -> bool {
        self.address.0.is_ipv4() == address.0.is_ipv4() && (self.address.number() ^ address.number()) & Self::mask(self.bits) == 0
    }

    /// Whether all of another range are.
    pub(crate) fn has_all(self, other: Self) -> bool {
        self.bits <= other.bits && self.has(other.address)
    }

    /// The range with what its addresses do not share left out.
    pub(crate) fn masked(self) -> Self {
        let number = self.address.number() & Self::mask(self.bits);
        let address = match self.address.0 {
            IpAddr::V4(_) => IpAddr::V4(u32::try_from(number >> 96).unwrap_or_default().into()),
            IpAddr::V6(_) => IpAddr::V6(number.into()),
        };
        Self {
            address: Address(address),
            bits: self.bits,
        }
    }
}
