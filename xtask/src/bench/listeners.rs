//! Who serves an address on this machine: from a listening socket to the processes that hold it, also in other network
//! namespaces (a lab's host has one of its own).

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::Result;

use super::process::{Process, all};

/// A listening socket: where it is bound, and its inode.
#[derive(Debug, PartialEq, Eq)]
struct Listener {
    address: IpAddr,
    inode: u64,
}

/// State of a listening socket in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// The listening sockets of a port in `/proc/net/tcp` or `tcp6`.
fn parse_listeners(text: &str, port: u16) -> Vec<Listener> {
    let parse = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (address, bound) = fields.get(1)?.split_once(':')?;
        let wanted = u16::from_str_radix(bound, 16).ok()? == port && *fields.get(3)? == LISTEN;
        let listener = Listener {
            address: parse_address(address)?,
            inode: fields.get(9)?.parse().ok()?,
        };
        wanted.then_some(listener)
    };
    text.lines().skip(1).filter_map(parse).collect()
}

/// An address as the kernel prints it: words of 32 bits in the machine's order.
fn parse_address(text: &str) -> Option<IpAddr> {
    let mut bytes = Vec::with_capacity(16);
    for word in 0..text.len() / 8 {
        let value = u32::from_str_radix(text.get(word * 8..word * 8 + 8)?, 16).ok()?;
        bytes.extend(value.to_ne_bytes());
    }
    if let Ok(octets) = <[u8; 4]>::try_from(bytes.as_slice()) {
        return Some(Ipv4Addr::from(octets).into());
    }
    <[u8; 16]>::try_from(bytes.as_slice())
        .ok()
        .map(|octets| Ipv6Addr::from(octets).to_canonical())
}

/// The IPv4 addresses of a network namespace, from `/proc/net/fib_trie`: a local route follows its address.
fn parse_local_addresses(text: &str) -> BTreeSet<IpAddr> {
    let mut addresses = BTreeSet::new();
    let mut last = None;
    for line in text.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse::<Ipv4Addr>().ok();
        } else if line.starts_with("/32 host LOCAL") {
            addresses.extend(last.map(IpAddr::from));
        }
    }
    addresses
}

/// The IPv6 addresses of a network namespace, from `/proc/net/if_inet6`.
fn parse_local_addresses_6(text: &str) -> BTreeSet<IpAddr> {
    let parse = |line: &str| {
        u128::from_str_radix(line.split_ascii_whitespace().next()?, 16)
            .ok()
            .map(|bits| Ipv6Addr::from(bits).into())
    };
    text.lines().filter_map(parse).collect()
}

/// Whether a socket bound to an address takes connections to another.
fn takes(bound: IpAddr, target: IpAddr) -> bool {
    bound == target || (bound.is_unspecified() && (bound.is_ipv6() || target.is_ipv4()))
}

/// The processes on this machine that listen at an address; none where it is another machine's. What may not be read is
/// passed over.
pub(crate) fn serving(target: SocketAddr) -> Result<Vec<Process>> {
    let processes = all()?;
    let own = std::fs::read_link("/proc/self/ns/net").ok();
    let namespace = |process: &Process| std::fs::read_link(format!("/proc/{}/ns/net", process.0)).ok();
    let mut groups: HashMap<PathBuf, Vec<Process>> = HashMap::new();
    for process in processes {
        if let Some(namespace) = namespace(&process) {
            groups.entry(namespace).or_default().push(process);
        }
    }
    let mut found = BTreeSet::new();
    for (namespace, members) in groups {
        let Some(first) = members.first() else { continue };
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{}/net/{file}", first.0)).unwrap_or_default();
        let here = if target.ip().is_loopback() {
            own.as_ref() == Some(&namespace)
        } else {
            parse_local_addresses(&read("fib_trie")).contains(&target.ip())
                || parse_local_addresses_6(&read("if_inet6")).contains(&target.ip())
        };
        if !here {
            continue;
        }
        let sockets: BTreeSet<String> = [read("tcp"), read("tcp6")]
            .iter()
            .flat_map(|text| parse_listeners(text, target.port()))
            .filter(|listener| takes(listener.address, target.ip()))
            .map(|listener| format!("socket:[{}]", listener.inode))
            .collect();
        found.extend(members.into_iter().filter(|process| holds(*process, &sockets)));
    }
    Ok(found.into_iter().collect())
}

fn holds(process: Process, sockets: &BTreeSet<String>) -> bool {
    let Ok(entries) = std::fs::read_dir(format!("/proc/{}/fd", process.0)) else {
        return false;
    };
    entries
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .any(|link| link.to_str().is_some_and(|link| sockets.contains(link)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn listening_sockets() {
        let text = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:192B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 111 1 0 100 0 0 10 0\n\
            1: 00000000:192B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 222 1 0 100 0 0 10 0\n\
            2: 0100007F:192B 0100007F:C0DE 01 00000000:00000000 00:00000000 00000000     0        0 333 1 0 20 4 30 10 -1\n\
            3: 0100007F:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 444 1 0 100 0 0 10 0\n\
            nonsense\n";
        let expected = vec![
            Listener {
                address: ip("127.0.0.1"),
                inode: 111,
            },
            Listener {
                address: ip("0.0.0.0"),
                inode: 222,
            },
        ];
        assert_eq!(parse_listeners(text, 6443), expected);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn addresses() {
        for (text, address) in [
            ("0200C70A", Some("10.199.0.2")),
            ("00000000000000000000000001000000", Some("::1")),
            ("0000000000000000FFFF00000100007F", Some("127.0.0.1")),
            ("123", None),
            ("zz00007F", None),
        ] {
            assert_eq!(parse_address(text), address.map(ip), "{text}");
        }
    }

    #[test]
    fn local_addresses() {
        let text = "Main:\n  +-- 10.199.0.0/30 2 0 2\n     |-- 10.199.0.0\n        /30 link UNICAST\n     |-- 10.199.0.2\n        /32 host LOCAL\n\
            |-- 10.199.0.3\n        /32 link BROADCAST\nLocal:\n     |-- 127.0.0.1\n        /32 host LOCAL\n";
        assert_eq!(
            parse_local_addresses(text),
            BTreeSet::from([ip("10.199.0.2"), ip("127.0.0.1")])
        );
        let six = "00000000000000000000000000000001 01 80 10 80       lo\n";
        assert_eq!(parse_local_addresses_6(six), BTreeSet::from([ip("::1")]));
    }

    #[test]
    fn what_a_bound_socket_takes() {
        for (bound, target, expected) in [
            ("127.0.0.1", "127.0.0.1", true),
            ("0.0.0.0", "10.0.0.1", true),
            ("::", "10.0.0.1", true),
            ("0.0.0.0", "::1", false),
            ("127.0.0.1", "10.0.0.1", false),
        ] {
            assert_eq!(takes(ip(bound), ip(target)), expected, "{bound} {target}");
        }
    }

    #[test]
    fn finds_ourselves() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let found = serving(listener.local_addr().expect("it is bound")).expect("/proc can be read");
        assert!(
            found.contains(&Process(i32::try_from(std::process::id()).expect("a PID fits"))),
            "{found:?}"
        );
    }
}
