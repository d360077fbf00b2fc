//! The servers of a cluster as somebody outside of them knows them: where they are, and which to try first.
//!
//! Invariant: the list is never empty; what it is replaced by comes from the cluster itself (the EndpointSlice of the
//! `kubernetes` Service), and the servers it was made with stay as the last resort. It opens no connection.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Instant;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use parking_lot::Mutex;
use rand::seq::SliceRandom;
use trireme_api::Object;

use crate::cache::Cache;
use crate::transport::ResourceRef;

/// More servers than this are not remembered.
const SERVERS_MAX: usize = 64;
/// Namespace of the Service that lists the servers.
const NAMESPACE: &str = "default";
/// Its name.
const SERVICE: &str = "kubernetes";

/// Where a server's API is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerAddress {
    /// Name or address, without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// A text that is no address of a server.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("\"{0}\" is no address of a server like https://192.0.2.1:6443")]
pub struct BadAddress(pub String);

impl FromStr for ServerAddress {
    type Err = BadAddress;

    /// Reads `https://HOST[:PORT][/]`; the port is 6443 where none is named.
    fn from_str(text: &str) -> Result<Self, BadAddress> {
        let bad = || BadAddress(text.to_owned());
        let place = text.strip_prefix("https://").ok_or_else(bad)?;
        let authority: http::uri::Authority = place.strip_suffix('/').unwrap_or(place).parse().map_err(|_| bad())?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let port_is_wrong = authority.port_u16().is_none() && authority.as_str() != authority.host();
        if host.is_empty() || authority.as_str().contains('@') || port_is_wrong {
            return Err(bad());
        }
        Ok(Self {
            host: host.to_owned(),
            port: authority.port_u16().unwrap_or(6443),
        })
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "https://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "https://{}:{}", self.host, self.port)
        }
    }
}

type Changed = Box<dyn Fn(&[String]) + Send + Sync>;

/// The servers of a cluster.
pub struct Servers {
    state: Mutex<State>,
    changed: Changed,
}

struct State {
    /// In an order of this process's own, so that many clients spread over the servers.
    listed: Vec<ServerAddress>,
    first: Vec<ServerAddress>,
    failed: HashMap<ServerAddress, Instant>,
}

impl Servers {
    /// Servers to begin with; `changed` is called with every later list, to be kept for the next start. It must be quick.
    ///
    /// # Errors
    /// When there is none, or one cannot be read.
    pub fn new(urls: &[String], changed: impl Fn(&[String]) + Send + Sync + 'static) -> Result<Arc<Self>, BadAddress> {
        let mut first = urls
            .iter()
            .map(|url| url.parse())
            .collect::<Result<Vec<ServerAddress>, _>>()?;
        if first.is_empty() {
            return Err(BadAddress(String::new()));
        }
        first.dedup();
        first.truncate(SERVERS_MAX);
        let mut listed = first.clone();
        listed.shuffle(&mut rand::rng());
        Ok(Arc::new(Self {
            state: Mutex::new(State {
                listed,
                first,
                failed: HashMap::new(),
            }),
            changed: Box::new(changed),
        }))
    }

    /// The servers, sorted, as URLs.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        let mut listed = self.state.lock().listed.clone();
        listed.sort();
        listed.iter().map(ToString::to_string).collect()
    }

    /// Takes a new list; an empty one says nothing.
    pub fn replace(&self, mut listed: Vec<ServerAddress>) {
        listed.sort();
        listed.dedup();
        listed.truncate(SERVERS_MAX);
        if listed.is_empty() {
            return;
        }
        {
            let mut state = self.state.lock();
            // Those that stay keep their places.
            let mut next: Vec<_> = state.listed.iter().filter(|known| listed.contains(known)).cloned().collect();
            let mut fresh: Vec<_> = listed.into_iter().filter(|server| !next.contains(server)).collect();
            if fresh.is_empty() && next.len() == state.listed.len() {
                return;
            }
            fresh.shuffle(&mut rand::rng());
            next.extend(fresh);
            let State { first, failed, .. } = &mut *state;
            failed.retain(|server, _| next.contains(server) || first.contains(server));
            state.listed = next;
        }
        let urls = self.urls();
        tracing::info!(servers = urls.join(","), "the cluster's servers have changed");
        (self.changed)(&urls);
    }

    /// Follows the `kubernetes` Service for as long as the cache lives.
    pub fn follow(self: &Arc<Self>, cache: &Cache) {
        let servers = Arc::downgrade(self);
        let slices: Mutex<HashMap<String, Vec<ServerAddress>>> = Mutex::default();
        cache.on_change(&ResourceRef::of::<EndpointSlice>(), move |change| {
            let Some(servers) = servers.upgrade() else { return false };
            if change.namespace != NAMESPACE || !change.latest().is_some_and(is_of_servers) {
                return true;
            }
            let mut slices = slices.lock();
            match &change.new {
                Some(slice) => slices.insert(change.name.clone(), addresses(slice)),
                None => slices.remove(&change.name),
            };
            servers.replace(slices.values().flatten().cloned().collect());
            true
        });
    }

    /// All that may be tried, best first: those that never failed, then those whose failure is longest ago, then those
    /// known from the start alone.
    #[must_use]
    pub fn ranked(&self) -> Vec<ServerAddress> {
        let state = self.state.lock();
        let mut ranked = state.listed.clone();
        ranked.sort_by_key(|server| state.failed.get(server).copied());
        let last: Vec<_> = state
            .first
            .iter()
            .filter(|server| !ranked.contains(server))
            .cloned()
            .collect();
        ranked.extend(last);
        ranked
    }

    /// A server failed just now.
    pub fn failed(&self, server: &ServerAddress) {
        self.state.lock().failed.insert(server.clone(), Instant::now());
    }

    /// A server answered.
    pub fn answered(&self, server: &ServerAddress) {
        self.state.lock().failed.remove(server);
    }
}

fn is_of_servers(slice: &Object) -> bool {
    let labels = &slice.header().labels;
    labels.get("kubernetes.io/service-name").is_some_and(|name| name == SERVICE)
}

/// The ready addresses of a slice with the port named `https`.
fn addresses(slice: &Object) -> Vec<ServerAddress> {
    let Ok(slice) = slice.typed::<EndpointSlice>() else {
        return Vec::new();
    };
    let ports = slice.ports.iter().flatten();
    let port = ports
        .filter(|port| port.name.as_deref().is_none_or(|name| name == "https"))
        .find_map(|port| u16::try_from(port.port?).ok());
    let Some(port) = port else { return Vec::new() };
    let ready = slice.endpoints.iter().flatten().filter(|endpoint| {
        let conditions = endpoint.conditions.as_ref();
        conditions.and_then(|conditions| conditions.ready).unwrap_or(true)
    });
    ready
        .flat_map(|endpoint| &endpoint.addresses)
        .map(|host| ServerAddress {
            host: host.clone(),
            port,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::Client;
    use crate::testing::FakeTransport;

    fn address(text: &str) -> ServerAddress {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_are_read_and_shown() {
        for (text, shown) in [
            ("https://192.0.2.1:6443", "https://192.0.2.1:6443"),
            ("https://192.0.2.1", "https://192.0.2.1:6443"),
            ("https://a.example:443/", "https://a.example:443"),
            ("https://[2001:db8::1]:6443", "https://[2001:db8::1]:6443"),
            ("https://[2001:db8::1]", "https://[2001:db8::1]:6443"),
        ] {
            assert_eq!(address(text).to_string(), shown, "{text}");
        }
        for wrong in [
            "http://a:1",
            "a:1",
            "https://",
            "https://a:99999",
            "https://a:1/b",
            "https://u@a:1",
            "https://a:",
        ] {
            assert_eq!(wrong.parse::<ServerAddress>(), Err(BadAddress(wrong.into())), "{wrong}");
        }
        assert!(Servers::new(&[], |_| {}).is_err());
    }

    #[test]
    fn those_that_failed_come_later_and_those_of_the_start_last() {
        let servers = Servers::new(&["https://a".into(), "https://b".into()], |_| {}).unwrap();
        servers.replace(vec![address("https://b"), address("https://c"), address("https://d")]);
        servers.failed(&address("https://b"));
        servers.failed(&address("https://c"));
        let ranked: Vec<_> = servers.ranked().into_iter().map(|server| server.host).collect();
        assert_eq!(ranked, ["d", "b", "c", "a"]);
        servers.answered(&address("https://c"));
        let ranked: Vec<_> = servers.ranked().into_iter().map(|server| server.host).collect();
        assert_eq!(ranked[2..], ["b", "a"]);
        servers.replace(Vec::new());
        assert_eq!(servers.urls().len(), 3, "an empty list says nothing");
    }

    #[tokio::test]
    async fn the_kubernetes_service_is_followed() {
        let resource = ResourceRef::of::<EndpointSlice>();
        let slice = |name: &str, service: &str, ready: &[(&str, bool)]| {
            json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": service}},
                "ports": [{"name": "https", "port": 6443, "protocol": "TCP"}],
                "endpoints": ready.iter().map(|(address, ready)| {
                    json!({"addresses": [address], "conditions": {"ready": ready}})
                }).collect::<Vec<_>>(),
            })
        };
        let fake = FakeTransport::new();
        fake.seed(
            &resource,
            slice(
                "kubernetes",
                "kubernetes",
                &[("10.0.0.1", true), ("10.0.0.2", true), ("10.0.0.3", false)],
            ),
        );
        fake.seed(&resource, slice("web-1", "web", &[("10.9.9.9", true)]));
        let cache = Cache::new(&Client::new(fake.clone()), CancellationToken::new());
        let (told, mut lists) = tokio::sync::mpsc::unbounded_channel();
        let servers = Servers::new(&["https://10.0.0.1".into()], move |urls| told.send(urls.to_vec()).unwrap()).unwrap();
        servers.follow(&cache);
        assert_eq!(
            lists.recv().await.unwrap(),
            ["https://10.0.0.1:6443", "https://10.0.0.2:6443"]
        );
        fake.seed(
            &resource,
            slice("kubernetes", "kubernetes", &[("10.0.0.2", true), ("10.0.0.3", true)]),
        );
        assert_eq!(
            lists.recv().await.unwrap(),
            ["https://10.0.0.2:6443", "https://10.0.0.3:6443"]
        );
    }
}
