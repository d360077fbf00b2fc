//! Where a `proxy` subresource leads: upstream's `[SCHEME:]NAME[:PORT]` of a pod, a service or a node, to an address.
//!
//! Invariant: the address is the pod's own, a ready endpoint's that is a pod's own, or the node's own; loopback,
//! link-local, multicast and unspecified addresses are refused whoever claims them (CVE-2022-3294).

use std::net::{IpAddr, SocketAddr};

use rand::Rng as _;
use serde_json::Value;
use trireme_api::Status;

use crate::nodes::NodeEndpoint;
use crate::pipeline::Target;
use crate::server::ApiServer;

/// What a request is passed on to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    /// A node's kubelet, with the API server's certificate.
    Kubelet(String),
    /// An address, without any credentials of the API server's.
    Address {
        /// Whether TLS is spoken; nobody's certificate is verified, as nobody certified the backend.
        tls: bool,
        /// Where.
        address: SocketAddr,
        /// Address and port as they stand in a URL.
        host: String,
    },
}

/// The parts of the name in a proxy's URL.
#[derive(Debug, PartialEq, Eq)]
struct Named<'a> {
    scheme: &'a str,
    name: &'a str,
    port: &'a str,
}

fn split(id: &str) -> Option<Named<'_>> {
    let parts: Vec<&str> = id.split(':').collect();
    let (scheme, name, port) = match parts[..] {
        [name] => ("", name, ""),
        [name, port] => ("", name, port),
        [scheme, name, port] => (scheme, name, port),
        _ => return None,
    };
    (!name.is_empty() && matches!(scheme, "" | "http" | "https")).then_some(Named { scheme, name, port })
}

fn not_allowed() -> Status {
    Status::bad_request("address not allowed")
}

fn unavailable(message: String) -> Status {
    Status::failure(503, "ServiceUnavailable", message)
}

/// Whether an address may be reached for a client: Go's `IsGlobalUnicast`.
fn is_reachable(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            !(address.is_unspecified()
                || address.is_loopback()
                || address.is_link_local()
                || address.is_multicast()
                || address.is_broadcast())
        }
        IpAddr::V6(address) => {
            !(address.is_unspecified() || address.is_loopback() || address.is_unicast_link_local() || address.is_multicast())
        }
    }
}

fn reachable(address: &str) -> Result<IpAddr, Status> {
    let address: IpAddr = address.parse().map_err(|_| not_allowed())?;
    if is_reachable(address) {
        Ok(address)
    } else {
        Err(not_allowed())
    }
}

impl Backend {
    fn at(scheme: &str, address: IpAddr, port: &str) -> Result<Self, Status> {
        let tls = scheme == "https";
        let number = match port {
            "" if tls => 443,
            "" => 80,
            text => text.parse().map_err(|_| {
                unavailable(format!(
                    "error trying to reach service: dial tcp: lookup tcp/{text}: unknown port"
                ))
            })?,
        };
        let address = SocketAddr::new(address, number);
        Ok(Self::Address {
            tls,
            address,
            host: if port.is_empty() {
                let text = address.to_string();
                text[..text.len() - number.to_string().len() - 1].to_owned()
            } else {
                address.to_string()
            },
        })
    }

    /// The backend that a request's target means.
    ///
    /// # Errors
    /// As upstream.
    pub(crate) async fn of(server: &ApiServer, target: &Target) -> Result<Self, Status> {
        server.barrier().await?;
        let kind = target.row.singular;
        let named =
            split(&target.name).ok_or_else(|| Status::bad_request(format!("invalid {kind} request {:?}", target.name)))?;
        let named_target = Target {
            name: named.name.to_owned(),
            ..target.clone()
        };
        match target.row.kind {
            "Pod" => pod(server, &named_target, &named),
            "Service" => service(server, &named_target, &named, &target.name),
            "Node" => node(server, &named_target, &named).await,
            _ => Err(crate::http::resources::no_such_resource()),
        }
    }
}

fn found(server: &ApiServer, target: &Target) -> Result<Value, Status> {
    let object = server.store.get(&target.key()).ok_or_else(|| target.not_found())?;
    Ok(object.value())
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn pod(server: &ApiServer, target: &Target, named: &Named<'_>) -> Result<Backend, Status> {
    let pod = found(server, target)?;
    let first_port = || {
        let mut ports = list(&pod["spec"], "containers")
            .iter()
            .flat_map(|container| list(container, "ports").first());
        ports
            .next()
            .and_then(|port| port["containerPort"].as_u64())
            .map(|port| port.to_string())
    };
    let port = if named.port.is_empty() {
        first_port().unwrap_or_default()
    } else {
        named.port.to_owned()
    };
    let address = list(&pod["status"], "podIPs")
        .first()
        .and_then(|first| first["ip"].as_str())
        .or_else(|| pod["status"]["podIP"].as_str());
    Backend::at(named.scheme, reachable(address.unwrap_or_default())?, &port)
}

fn service(server: &ApiServer, target: &Target, named: &Named<'_>, id: &str) -> Result<Backend, Status> {
    let mut port_name = named.port.to_owned();
    if let Ok(number) = named.port.parse::<i64>() {
        let service = found(server, target)?;
        let port = list(&service["spec"], "ports")
            .iter()
            .find(|port| port["port"].as_i64() == Some(number));
        let port = port.ok_or_else(|| unavailable(format!("no service port {number} found for service {:?}", named.name)))?;
        port_name = port["name"].as_str().unwrap_or_default().to_owned();
    }
    let endpoints = server.view().get("", "endpoints", &target.namespace, named.name);
    let endpoints = endpoints.ok_or_else(|| target.not_found())?.value();
    let subsets = list(&endpoints, "subsets");
    if subsets.is_empty() {
        return Err(unavailable(format!("no endpoints available for service {:?}", named.name)));
    }
    for subset in from_anywhere(subsets) {
        for port in list(subset, "ports")
            .iter()
            .filter(|port| port["name"].as_str().unwrap_or_default() == port_name)
        {
            for endpoint in from_anywhere(list(subset, "addresses")) {
                if let Some(address) = pods_own(server, &target.namespace, endpoint) {
                    let port = port["port"].as_u64().unwrap_or_default().to_string();
                    return Backend::at(named.scheme, address, &port);
                }
            }
        }
    }
    Err(unavailable(format!("no endpoints available for service {id:?}")))
}

/// All items once, from a random one on.
fn from_anywhere(items: &[Value]) -> impl Iterator<Item = &Value> {
    let start = if items.is_empty() {
        0
    } else {
        rand::rng().random_range(0..items.len())
    };
    items[start..].iter().chain(&items[..start])
}

/// The address of an endpoint that is a pod of its namespace: what anybody wrote into Endpoints is not reached.
fn pods_own(server: &ApiServer, namespace: &str, endpoint: &Value) -> Option<IpAddr> {
    let reference = &endpoint["targetRef"];
    if reference["namespace"] != namespace {
        return None;
    }
    let pod = server.view().get("", "pods", namespace, reference["name"].as_str()?)?.value();
    let address = endpoint["ip"].as_str()?;
    let own = list(&pod["status"], "podIPs").iter().any(|own| own["ip"] == address);
    if own { reachable(address).ok() } else { None }
}

async fn node(server: &ApiServer, target: &Target, named: &Named<'_>) -> Result<Backend, Status> {
    let node = found(server, target)?;
    let endpoint = NodeEndpoint::of(&node).ok_or_else(|| {
        unavailable(format!(
            "no preferred addresses found; known addresses: [] of node {}",
            named.name
        ))
    })?;
    let address = host_address(&endpoint).await?;
    if named.port.is_empty() || named.port == endpoint.port.to_string() {
        return Ok(Backend::Kubelet(named.name.to_owned()));
    }
    Backend::at(named.scheme, address, named.port)
}

/// The node's address, once every address that its name has may be reached.
async fn host_address(endpoint: &NodeEndpoint) -> Result<IpAddr, Status> {
    if let Ok(address) = endpoint.host.parse::<IpAddr>() {
        return if is_reachable(address) {
            Ok(address)
        } else {
            Err(not_allowed())
        };
    }
    let found = tokio::net::lookup_host((endpoint.host.as_str(), endpoint.port)).await;
    let addresses: Vec<IpAddr> = found
        .map_err(|error| Status::bad_request(error.to_string()))?
        .map(|address| address.ip())
        .collect();
    match addresses.first() {
        Some(first) if addresses.iter().all(|address| is_reachable(*address)) => Ok(*first),
        _ => Err(not_allowed()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_up_to_three_parts() {
        let check = |id: &str, expected: Option<[&str; 3]>| {
            let actual = split(id).map(|named| [named.scheme, named.name, named.port]);
            assert_eq!(actual, expected, "{id}");
        };
        check("a", Some(["", "a", ""]));
        check("a:80", Some(["", "a", "80"]));
        check("https:a:web", Some(["https", "a", "web"]));
        check("http:a:", Some(["http", "a", ""]));
        check("ftp:a:21", None);
        check("a:b:c:d", None);
        check(":80", None);
        check("https::80", None);
    }

    #[test]
    fn addresses_of_the_host_and_its_links_are_refused() {
        for address in [
            "127.0.0.1",
            "127.8.8.8",
            "169.254.169.254",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "::1",
            "::",
            "fe80::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "metadata.internal",
            "",
        ] {
            assert_eq!(reachable(address).unwrap_err().message, "address not allowed", "{address}");
        }
        assert!(reachable("10.42.0.7").is_ok() && reachable("fd00::7").is_ok());
    }

    #[test]
    fn hosts_stand_as_in_a_url() {
        let host = |scheme: &str, address: &str, port: &str| match Backend::at(scheme, address.parse().unwrap(), port) {
            Ok(Backend::Address { host, address, .. }) => (host, address.port()),
            other => panic!("{other:?}"),
        };
        assert_eq!(host("", "10.0.0.1", ""), ("10.0.0.1".to_owned(), 80));
        assert_eq!(host("https", "fd00::1", ""), ("[fd00::1]".to_owned(), 443));
        assert_eq!(host("", "fd00::1", "8080"), ("[fd00::1]:8080".to_owned(), 8080));
    }
}
