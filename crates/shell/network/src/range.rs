//! An IPv4 range as `10.42.0.0/24`.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// A text is not a range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an IPv4 range: write it as 10.42.0.0/24")]
pub struct RangeError(String);

/// An IPv4 range; host bits are cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ipv4Range {
    address: Ipv4Addr,
    prefix: u8,
}

impl Ipv4Range {
    /// A range; a prefix above 32 means 32.
    #[must_use]
    pub fn new(address: Ipv4Addr, prefix: u8) -> Self {
        let prefix = prefix.min(32);
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
        Self {
            address: Ipv4Addr::from_bits(address.to_bits() & mask),
            prefix,
        }
    }

    /// First address.
    #[must_use]
    pub fn address(self) -> Ipv4Addr {
        self.address
    }

    /// Prefix length.
    #[must_use]
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// Whether the address lies within.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        Self::new(address, self.prefix) == self
    }

    /// First usable address: the gateway of a pod range.
    #[must_use]
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address.to_bits() | 1)
    }

    /// First and last address for pods; `None` if there is no room for one beside the gateway.
    #[must_use]
    pub fn pods(self) -> Option<(Ipv4Addr, Ipv4Addr)> {
        let size = 1u64 << (32 - u32::from(self.prefix));
        let first = self.address.to_bits();
        let last = first.checked_add(u32::try_from(size.checked_sub(2)?).ok()?)?;
        (size >= 4).then(|| (Ipv4Addr::from_bits(first + 2), Ipv4Addr::from_bits(last)))
    }
}

impl fmt::Display for Ipv4Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Ipv4Range {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let parse = || {
            let (address, prefix) = text.trim().split_once('/')?;
            let prefix: u8 = prefix.parse().ok().filter(|prefix| *prefix <= 32)?;
            Some(Self::new(address.parse().ok()?, prefix))
        };
        parse().ok_or_else(|| RangeError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_get_what_is_neither_network_gateway_nor_broadcast() {
        let table = [
            ("10.42.0.0/24", Some(("10.42.0.2", "10.42.0.254"))),
            ("10.42.0.9/30", Some(("10.42.0.10", "10.42.0.10"))),
            ("10.42.0.0/31", None),
            ("10.42.0.0/32", None),
        ];
        for (text, expected) in table {
            let range: Ipv4Range = text.parse().unwrap();
            let expected = expected.map(|(first, last)| (first.parse().unwrap(), last.parse().unwrap()));
            assert_eq!(range.pods(), expected, "{text}");
        }
        let range: Ipv4Range = "10.42.0.0/24".parse().unwrap();
        assert!(range.contains(range.gateway()) && !range.contains("10.42.1.1".parse().unwrap()));
        assert!("10.42.0.0/33".parse::<Ipv4Range>().is_err());
        assert!("x/24".parse::<Ipv4Range>().is_err());
    }
}
