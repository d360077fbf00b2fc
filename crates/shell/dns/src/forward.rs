//! Names outside the cluster, asked of the host's resolvers.
//!
//! Invariant: our own addresses are never among those asked, so a question cannot go round. Answers are kept for a while,
//! never longer than they say; failures are not kept.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, SystemTime};

use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::{RData, Record, RecordType};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::Upstream;
use crate::answer::Response;

/// How long one resolver has for one answer.
const ANSWER: Duration = Duration::from_secs(2);
/// How often the list of resolvers is gone through.
const ROUNDS: usize = 2;
/// Resolvers that are asked, as with libc.
const SERVERS_MAX: usize = 3;
/// Questions under way; more are refused at once.
const UNDER_WAY_MAX: usize = 1000;
/// Answers kept.
const KEPT_MAX: usize = 1024;
/// Longest time an answer is kept, in seconds.
const KEPT_S_MAX: u32 = 30;
/// How long the list of resolvers is believed without looking at the file.
const LOOK: Duration = Duration::from_secs(5);
const DATAGRAM_BYTES: u16 = 1232;

pub(crate) struct Forwarder {
    upstream: Upstream,
    own: Vec<SocketAddr>,
    under_way: Semaphore,
    kept: Mutex<HashMap<(String, RecordType), Kept>>,
    servers: Mutex<Option<Servers>>,
}

struct Kept {
    response: Response,
    since: Instant,
    until: Instant,
}

struct Servers {
    list: Vec<SocketAddr>,
    modified: Option<SystemTime>,
    looked: Instant,
}

impl Forwarder {
    pub(crate) fn new(upstream: Upstream, own: Vec<SocketAddr>) -> Self {
        Self {
            upstream,
            own,
            under_way: Semaphore::new(UNDER_WAY_MAX),
            kept: Mutex::default(),
            servers: Mutex::new(None),
        }
    }

    /// Asks on. SERVFAIL where nobody can be asked or nobody answers.
    pub(crate) async fn ask(&self, query: &Query) -> Response {
        let key = (query.name().to_ascii().to_ascii_lowercase(), query.query_type());
        if let Some(kept) = self.kept(&key) {
            return kept;
        }
        let Ok(_place) = self.under_way.try_acquire() else {
            return Response::of(ResponseCode::Refused);
        };
        let servers = self.servers();
        for server in servers.iter().cycle().take(servers.len() * ROUNDS) {
            match timeout(ANSWER, exchange(*server, query)).await {
                Ok(Ok(message)) if message.metadata.response_code != ResponseCode::ServFail => {
                    let response = response(message);
                    self.keep(key, &response);
                    return response;
                }
                Ok(Ok(_)) => tracing::debug!(%server, name = key.0, "resolver failed"),
                Ok(Err(error)) => tracing::debug!(%server, name = key.0, "resolver: {error}"),
                Err(_) => tracing::debug!(%server, name = key.0, "resolver did not answer"),
            }
        }
        Response::of(ResponseCode::ServFail)
    }

    fn kept(&self, key: &(String, RecordType)) -> Option<Response> {
        let kept = self.kept.lock();
        let found = kept.get(key)?;
        let now = Instant::now();
        if now >= found.until {
            return None;
        }
        let age = u32::try_from(now.duration_since(found.since).as_secs()).unwrap_or(u32::MAX);
        let mut response = found.response.clone();
        for section in [&mut response.answers, &mut response.authorities, &mut response.additionals] {
            for record in section {
                record.ttl = record.ttl.saturating_sub(age);
            }
        }
        Some(response)
    }

    fn keep(&self, key: (String, RecordType), response: &Response) {
        let Some(seconds) = keepable(response).filter(|seconds| *seconds > 0) else {
            return;
        };
        let now = Instant::now();
        let mut kept = self.kept.lock();
        if kept.len() >= KEPT_MAX {
            kept.retain(|_, it| it.until > now);
        }
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        let until = now + Duration::from_secs(u64::from(seconds));
        kept.insert(
            key,
            Kept {
                response: response.clone(),
                since: now,
                until,
            },
        );
    }

    fn servers(&self) -> Vec<SocketAddr> {
        let path = match &self.upstream {
            Upstream::Servers(list) => return self.others(list.clone()),
            Upstream::ResolvConf(path) => path,
        };
        let mut known = self.servers.lock();
        if let Some(servers) = known.as_ref().filter(|it| it.looked.elapsed() < LOOK) {
            return servers.list.clone();
        }
        let modified = std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
        let unchanged = known.take().filter(|it| it.modified.is_some() && it.modified == modified);
        let list = unchanged.map_or_else(|| self.others(read(path)), |it| it.list);
        *known = Some(Servers {
            list: list.clone(),
            modified,
            looked: Instant::now(),
        });
        list
    }

    fn others(&self, list: Vec<SocketAddr>) -> Vec<SocketAddr> {
        list.into_iter()
            .filter(|server| !self.own.contains(server))
            .take(SERVERS_MAX)
            .collect()
    }
}

fn read(path: &Path) -> Vec<SocketAddr> {
    match std::fs::read_to_string(path) {
        Ok(text) => nameservers(&text),
        Err(error) => {
            tracing::warn!("{}: {error}", path.display());
            Vec::new()
        }
    }
}

fn nameservers(text: &str) -> Vec<SocketAddr> {
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next())?
    });
    // Zones of link-local addresses are of no use here.
    lines
        .filter_map(|word| word.parse::<IpAddr>().ok())
        .map(|address| SocketAddr::new(address, 53))
        .collect()
}

fn response(message: Message) -> Response {
    let is_edns = |record: &Record| matches!(record.data, RData::OPT(_));
    Response {
        code: message.metadata.response_code,
        authoritative: false,
        answers: message.answers,
        authorities: message.authorities,
        additionals: message.additionals.into_iter().filter(|record| !is_edns(record)).collect(),
    }
}

/// Seconds a response may be kept: the least of its records' lives, for a negative one what its SOA says.
fn keepable(response: &Response) -> Option<u32> {
    if !matches!(response.code, ResponseCode::NoError | ResponseCode::NXDomain) {
        return None;
    }
    let life = if response.answers.is_empty() {
        response.authorities.iter().find_map(|record| match &record.data {
            RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
            _ => None,
        })
    } else {
        response.answers.iter().map(|record| record.ttl).min()
    };
    life.map(|seconds| seconds.min(KEPT_S_MAX))
}

async fn exchange(server: SocketAddr, query: &Query) -> io::Result<Message> {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(query.clone());
    let mut edns = Edns::new();
    edns.set_max_payload(DATAGRAM_BYTES).set_version(0);
    message.set_edns(edns);
    let question = message.to_vec().map_err(io::Error::other)?;
    let answer = by_datagram(server, &question, &message).await?;
    if answer.metadata.truncation {
        by_stream(server, &question, &message).await
    } else {
        Ok(answer)
    }
}

/// A fresh socket each time: its port is as hard to guess as the id.
async fn by_datagram(server: SocketAddr, question: &[u8], asked: &Message) -> io::Result<Message> {
    let any: IpAddr = if server.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Ok(answer) = Message::from_vec(&buffer[..length])
            && belongs(asked, &answer)
        {
            return Ok(answer);
        }
    }
}

async fn by_stream(server: SocketAddr, question: &[u8], asked: &Message) -> io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(question.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), question].concat()).await?;
    let length = stream.read_u16().await?;
    let mut buffer = vec![0; usize::from(length)];
    stream.read_exact(&mut buffer).await?;
    let answer = Message::from_vec(&buffer).map_err(io::Error::other)?;
    if belongs(asked, &answer) {
        Ok(answer)
    } else {
        Err(io::Error::from(io::ErrorKind::InvalidData))
    }
}

fn belongs(asked: &Message, answer: &Message) -> bool {
    asked.metadata.id == answer.metadata.id
        && answer.metadata.message_type == hickory_proto::op::MessageType::Response
        && asked.queries == answer.queries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_read_as_libc_does_and_never_ourselves() {
        let text =
            "# nameserver 9.9.9.9\nsearch x\nnameserver 10.43.0.10\nnameserver  192.0.2.53 # x\nnameserver ::1\nnameserver bad\n";
        let found = nameservers(text);
        assert_eq!(
            found,
            ["10.43.0.10:53", "192.0.2.53:53", "[::1]:53"].map(|it| it.parse().unwrap())
        );
        let own = vec!["10.43.0.10:53".parse().unwrap()];
        let forwarder = Forwarder::new(Upstream::Servers(found), own);
        assert_eq!(forwarder.servers().len(), 2);
    }
}
