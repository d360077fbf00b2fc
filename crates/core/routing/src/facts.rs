//! What routing has to know about the node and the cluster's address ranges.
//!
//! It will not find these out: they come as input.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::str::FromStr;

/// An IP family, with nftables' words for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Family of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// nftables' name of the family and of the protocol in expressions.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }

    /// nftables' type of an address.
    #[must_use]
    pub fn address_type(self) -> &'static str {
        match self {
            Self::V4 => "ipv4_addr",
            Self::V6 => "ipv6_addr",
        }
    }

    /// `addressType` of EndpointSlices of this family.
    #[must_use]
    pub fn slice_type(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// A transport protocol of a Service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The protocol of an API field; absent means TCP, an unknown one is `None`.
    #[must_use]
    pub fn of(field: Option<&str>) -> Option<Self> {
        match field {
            None | Some("" | "TCP") => Some(Self::Tcp),
            Some("UDP") => Some(Self::Udp),
            Some("SCTP") => Some(Self::Sctp),
            Some(_) => None,
        }
    }

    /// nftables' (and DNS') word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// Why a CIDR could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// No `/`.
    #[error("no prefix length: write it as 10.42.0.0/16")]
    NoPrefix,
    /// The address part is not one.
    #[error("not an IP address before the /")]
    Address,
    /// The prefix length is not a number or too large.
    #[error("not a prefix length after the /")]
    Prefix,
}

/// An address range. Host bits are cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// A range; a prefix longer than the family allows is cut to it.
    #[must_use]
    pub fn new(address: IpAddr, prefix: u8) -> Self {
        match address {
            IpAddr::V4(v4) => {
                let prefix = prefix.min(32);
                let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
                Self {
                    address: IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask)),
                    prefix,
                }
            }
            IpAddr::V6(v6) => {
                let prefix = prefix.min(128);
                let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
                Self {
                    address: IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask)),
                    prefix,
                }
            }
        }
    }

    /// First address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Prefix length.
    #[must_use]
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Its family.
    #[must_use]
    pub fn family(&self) -> Family {
        Family::of(self.address)
    }

    /// Whether the address lies within.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        Family::of(address) == self.family() && Self::new(address, self.prefix).address == self.address
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let (address, prefix) = text.trim().split_once('/').ok_or(CidrError::NoPrefix)?;
        let address: IpAddr = address.parse().map_err(|_| CidrError::Address)?;
        let prefix: u8 = prefix.parse().map_err(|_| CidrError::Prefix)?;
        if prefix > if address.is_ipv4() { 32 } else { 128 } {
            return Err(CidrError::Prefix);
        }
        Ok(Self::new(address, prefix))
    }
}

/// The node, as far as rules depend on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// Name as in `endpoints[].nodeName`.
    pub name: String,
    /// `topology.kubernetes.io/zone` of the node.
    pub zone: Option<String>,
    /// Ranges of all pods of the cluster.
    pub cluster_cidrs: Vec<Cidr>,
    /// Ranges of this node's pods.
    pub pod_cidrs: Vec<Cidr>,
    /// Ranges of ClusterIPs.
    pub service_cidrs: Vec<Cidr>,
    /// The node's own addresses: NodePorts answer on these.
    pub addresses: Vec<IpAddr>,
    /// Service addresses that a process on this node answers itself (cluster DNS); rules leave them alone.
    pub local_service_addresses: Vec<IpAddr>,
    /// Ranges that `spec.externalIPs` may name. Empty: none are served (CVE-2020-8554).
    pub external_ip_cidrs: Vec<Cidr>,
    /// Ports of the node's own that no load balancer address or host port may capture (API server, kubelet).
    pub reserved_ports: Vec<(Protocol, u16)>,
}

impl NodeFacts {
    /// Families the node has pods of.
    #[must_use]
    pub fn families(&self) -> Vec<Family> {
        [Family::V4, Family::V6]
            .into_iter()
            .filter(|family| self.pod_cidrs.iter().any(|cidr| cidr.family() == *family))
            .collect()
    }

    pub(crate) fn reserves(&self, protocol: Protocol, port: u16) -> bool {
        self.reserved_ports.contains(&(protocol, port))
    }
}

/// A container port published on the node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    /// `hostIP`; `None` (or the unspecified address) means all of the node's addresses.
    pub host_ip: Option<IpAddr>,
    /// `hostPort`.
    pub host_port: u16,
    /// `protocol`.
    pub protocol: Protocol,
    /// Address of the pod.
    pub pod_ip: IpAddr,
    /// `containerPort`.
    pub container_port: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_parse_clear_host_bits_and_contain() {
        let cidr: Cidr = "10.42.7.9/16".parse().unwrap();
        assert_eq!(cidr.to_string(), "10.42.0.0/16");
        assert!(cidr.contains("10.42.255.1".parse().unwrap()));
        assert!(!cidr.contains("10.43.0.1".parse().unwrap()));
        assert!(!cidr.contains("fd00::1".parse().unwrap()));
        assert!("0.0.0.0/0".parse::<Cidr>().unwrap().contains("1.2.3.4".parse().unwrap()));
        assert_eq!("fd00:1::5/48".parse::<Cidr>().unwrap().to_string(), "fd00:1::/48");
        for (text, error) in [
            ("10.0.0.1", CidrError::NoPrefix),
            ("x/8", CidrError::Address),
            ("10.0.0.0/33", CidrError::Prefix),
        ] {
            assert_eq!(text.parse::<Cidr>(), Err(error), "{text}");
        }
    }
}
