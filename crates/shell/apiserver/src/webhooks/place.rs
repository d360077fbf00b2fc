//! Where a webhook's Service leads: an address of one of its ready endpoints.
//!
//! Invariant: Service addresses are not used, so that a server without a service proxy reaches webhooks, too, if its host reaches pods.

use std::net::{IpAddr, SocketAddr};

use rand::Rng as _;
use serde_json::Value;

use crate::admission::View;

/// Where to connect to.
pub(super) enum Address {
    /// An address.
    Socket(SocketAddr),
    /// A name, of a Service that only stands for one.
    Named(String, u16),
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// An endpoint of a Service's port.
///
/// # Errors
/// Upstream's text.
pub(super) fn of_service(view: View<'_>, namespace: &str, name: &str, port: u16) -> Result<Address, String> {
    let service = view.get("", "services", namespace, name);
    let service = service.ok_or_else(|| format!("service {name:?} not found"))?.value();
    let spec = &service["spec"];
    match spec["type"].as_str().unwrap_or("ClusterIP") {
        "ExternalName" => {
            let external = spec["externalName"].as_str().unwrap_or_default();
            return Ok(Address::Named(external.to_owned(), port));
        }
        "ClusterIP" | "NodePort" | "LoadBalancer" => {}
        other => return Err(format!("unsupported service type {other:?}")),
    }
    let own = list(spec, "ports")
        .iter()
        .find(|own| own["port"].as_u64() == Some(u64::from(port)));
    let own = own.ok_or_else(|| format!("no service port {port} found for service {name:?}"))?;
    let port_name = own["name"].as_str().unwrap_or_default();
    let slices = view.list("discovery.k8s.io", "endpointslices", Some(namespace));
    let of_service = |object: &trireme_api::Object| {
        let labels = &object.header().labels;
        labels.get("kubernetes.io/service-name").is_some_and(|own| own == name)
    };
    let mut slices: Vec<Value> = slices
        .iter()
        .filter(|object| of_service(object))
        .map(|object| object.value())
        .collect();
    let mut random = rand::rng();
    // The Service's first family first, else in any order.
    let family = spec["ipFamilies"][0].as_str().unwrap_or_default();
    slices.sort_by_cached_key(|slice| (slice["addressType"] != family, random.random::<u32>()));
    for slice in &slices {
        let ports = list(slice, "ports");
        let Some(port) = ports.iter().find(|own| own["name"].as_str().unwrap_or_default() == port_name) else {
            continue;
        };
        let Some(port) = port["port"].as_u64().and_then(|port| u16::try_from(port).ok()) else {
            continue;
        };
        let endpoints = list(slice, "endpoints");
        if endpoints.is_empty() {
            continue;
        }
        let start = random.random_range(0..endpoints.len());
        for endpoint in endpoints[start..].iter().chain(&endpoints[..start]) {
            if endpoint["conditions"]["ready"] == false {
                continue;
            }
            let address = endpoint["addresses"][0].as_str().and_then(|text| text.parse::<IpAddr>().ok());
            if let Some(address) = address {
                return Ok(Address::Socket(SocketAddr::new(address, port)));
            }
        }
    }
    Err(format!("no endpoints available for service {name:?}"))
}
