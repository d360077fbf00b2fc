//! Forgetting flows whose endpoint is gone, by netlink (no `conntrack` program needed).
//!
//! It blocks while it reads the kernel's table: call it from a blocking thread.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rtnetlink::sys::{Socket, SocketAddr};
use trireme_routing::{Flow, Protocol};

const NETLINK_NETFILTER: isize = 12;
const GET: u16 = 0x101;
const DELETE: u16 = 0x102;
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
const MESSAGE_ERROR: u16 = 2;
const MESSAGE_DONE: u16 = 3;
const HEADER_BYTES: usize = 16;
const NFGEN_BYTES: usize = 4;
const TYPE_MASK: u16 = 0x3fff;

const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const STATUS_SEEN_REPLY: u32 = 0x2;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;

/// Deletes every flow for which `is_stale` says so; returns how many.
///
/// # Errors
/// When the kernel's table cannot be read, or a deletion is refused.
pub fn forget(is_stale: impl Fn(&Flow) -> bool) -> io::Result<usize> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut forgotten = 0;
    for family in [libc::AF_INET, libc::AF_INET6] {
        let family = u8::try_from(family).map_err(io::Error::other)?;
        let stale = stale_tuples(&socket, family, &is_stale)?;
        for tuple in stale {
            send(&socket, &message(DELETE, REQUEST | ACK, family, &tuple))?;
            match acknowledged(&socket) {
                Ok(()) => forgotten += 1,
                // It ended by itself in between.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(forgotten)
}

fn send(socket: &Socket, bytes: &[u8]) -> io::Result<()> {
    let sent = socket.send(bytes, 0)?;
    if sent == bytes.len() {
        Ok(())
    } else {
        Err(io::Error::from(io::ErrorKind::WriteZero))
    }
}

fn message(kind: u16, flags: u16, family: u8, attributes: &[u8]) -> Vec<u8> {
    let length = HEADER_BYTES + NFGEN_BYTES + attributes.len();
    let mut bytes = Vec::with_capacity(length);
    bytes.extend(u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([family, 0, 0, 0]);
    bytes.extend(attributes);
    bytes
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Messages of one datagram: type and body.
fn messages(mut datagram: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    while let (Some(length), Some(kind)) = (i32_at(datagram, 0), u16_at(datagram, 4)) {
        let Ok(length) = usize::try_from(length) else { break };
        let Some(body) = datagram.get(HEADER_BYTES..length) else {
            break;
        };
        found.push((kind, body));
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn error_of(body: &[u8]) -> io::Result<()> {
    match i32_at(body, 0) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.abs())),
        None => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
    }
}

fn acknowledged(socket: &Socket) -> io::Result<()> {
    let (datagram, _) = socket.recv_from_full()?;
    match messages(&datagram).first() {
        Some((MESSAGE_ERROR, body)) => error_of(body),
        _ => Err(io::Error::from(io::ErrorKind::InvalidData)),
    }
}

/// The original tuples, as the kernel wrote them, of stale flows.
fn stale_tuples(socket: &Socket, family: u8, is_stale: &impl Fn(&Flow) -> bool) -> io::Result<Vec<Vec<u8>>> {
    send(socket, &message(GET, REQUEST | DUMP, family, &[]))?;
    let mut stale = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        for (kind, body) in messages(&datagram) {
            match kind {
                MESSAGE_DONE => return Ok(stale),
                MESSAGE_ERROR => error_of(body)?,
                _ => {
                    let all = body.get(NFGEN_BYTES..).unwrap_or_default();
                    let Some(flow) = flow(all) else { continue };
                    if is_stale(&flow) {
                        stale.extend(attribute(all, TUPLE_ORIG).map(|(whole, _)| whole.to_vec()));
                    }
                }
            }
        }
    }
}

struct Tuple {
    protocol: Protocol,
    source: (IpAddr, u16),
    destination: (IpAddr, u16),
}

/// A flow of the kernel's table; `None` for protocols that Services do not have.
fn flow(attributes: &[u8]) -> Option<Flow> {
    let original = tuple(attribute(attributes, TUPLE_ORIG)?.1)?;
    let reply = tuple(attribute(attributes, TUPLE_REPLY)?.1)?;
    let status = u32::from_be_bytes(attribute(attributes, STATUS)?.1.get(..4)?.try_into().ok()?);
    Some(Flow {
        protocol: original.protocol,
        original: original.destination,
        endpoint: reply.source,
        answered: status & STATUS_SEEN_REPLY != 0,
    })
}

fn tuple(body: &[u8]) -> Option<Tuple> {
    let (_, ip) = attribute(body, TUPLE_IP)?;
    let (_, proto) = attribute(body, TUPLE_PROTO)?;
    let protocol = match i32::from(*attribute(proto, 1)?.1.first()?) {
        libc::IPPROTO_TCP => Protocol::Tcp,
        libc::IPPROTO_UDP => Protocol::Udp,
        libc::IPPROTO_SCTP => Protocol::Sctp,
        _ => return None,
    };
    let port = |kind| Some(u16::from_be_bytes(attribute(proto, kind)?.1.get(..2)?.try_into().ok()?));
    let address = |v4, v6| match attribute(ip, v4) {
        Some((_, bytes)) => Some(IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(..4)?).ok()?))),
        None => Some(IpAddr::V6(Ipv6Addr::from(
            <[u8; 16]>::try_from(attribute(ip, v6)?.1.get(..16)?).ok()?,
        ))),
    };
    Some(Tuple {
        protocol,
        source: (address(1, 3)?, port(2)?),
        destination: (address(2, 4)?, port(3)?),
    })
}

/// An attribute: with its header and padding, and its content.
fn attribute(mut bytes: &[u8], wanted: u16) -> Option<(&[u8], &[u8])> {
    loop {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & TYPE_MASK;
        if length < 4 {
            return None;
        }
        let padded = length.next_multiple_of(4).min(bytes.len());
        if kind == wanted {
            return Some((bytes.get(..padded)?, bytes.get(4..length)?));
        }
        bytes = bytes.get(padded..)?;
    }
}
