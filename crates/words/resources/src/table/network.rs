//! The cells of services, endpoints and their kin.
//!
//! Invariant: objects are in their stored version; a missing field reads as its zero value.

use serde_json::Value;
use trireme_api::path;

use super::view::{View, joined};
use super::words::{clipped, labels, or_none, selector_or_none};
use crate::rows::Resource;

fn balancer(v: &View<'_>) -> Vec<String> {
    let mut found: Vec<String> = v
        .list(&["status", "loadBalancer", "ingress"])
        .iter()
        .map(|ingress| match path::str(ingress, &["ip"]) {
            "" => path::str(ingress, &["hostname"]).to_owned(),
            ip => ip.to_owned(),
        })
        .filter(|address| !address.is_empty())
        .collect();
    found.sort();
    found.dedup();
    found
}

fn external_addresses(v: &View<'_>) -> String {
    let set = joined(v.list(&["spec", "externalIPs"]), ",");
    match v.str(&["spec", "type"]) {
        "ClusterIP" | "NodePort" => or_none(&set),
        "LoadBalancer" => {
            let mut all = balancer(v);
            if !set.is_empty() {
                all.push(set);
            }
            if all.is_empty() {
                "<pending>".to_owned()
            } else {
                all.join(",")
            }
        }
        "ExternalName" => v.str(&["spec", "externalName"]).to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

pub(super) fn network(row: &Resource, v: &View<'_>) -> Option<Vec<Value>> {
    Some(match (row.group, row.plural) {
        ("", "services") => {
            let ports = v.list(&["spec", "ports"]).iter().map(|port| {
                let (number, node) = (
                    path::i64(port, &["port"]).unwrap_or(0),
                    path::i64(port, &["nodePort"]).unwrap_or(0),
                );
                let protocol = path::str(port, &["protocol"]);
                if node > 0 {
                    format!("{number}:{node}/{protocol}")
                } else {
                    format!("{number}/{protocol}")
                }
            });
            let ports = ports.collect::<Vec<_>>().join(",");
            let inside = v
                .list(&["spec", "clusterIPs"])
                .first()
                .and_then(Value::as_str)
                .unwrap_or("<none>");
            vec![
                v.name(),
                v.text(&["spec", "type"]),
                Value::from(inside),
                Value::from(external_addresses(v)),
                Value::from(or_none(&ports)),
                v.age(),
                Value::from(labels(v.get(&["spec", "selector"]))),
            ]
        }
        ("networking.k8s.io", "ingresses") => {
            let rules = v.list(&["spec", "rules"]);
            let hosts: Vec<&str> = rules
                .iter()
                .map(|rule| path::str(rule, &["host"]))
                .filter(|host| !host.is_empty())
                .collect();
            let shown = &hosts[..hosts.len().min(3)];
            let hosts = match (shown.is_empty(), hosts.len() > 3 || (hosts.len() == 3 && rules.len() > 3)) {
                (true, _) => "*".to_owned(),
                (false, true) => format!("{} + {} more...", shown.join(","), rules.len() - 3),
                (false, false) => shown.join(","),
            };
            let ports = if v.len(&["spec", "tls"]) > 0 { "80, 443" } else { "80" };
            let address = Value::from(balancer(v).join(","));
            vec![
                v.name(),
                v.or(&["spec", "ingressClassName"], "<none>"),
                Value::from(hosts),
                address,
                Value::from(ports),
                v.age(),
            ]
        }
        ("networking.k8s.io", "ingressclasses") => {
            let parameters = v.get(&["spec", "parameters"]).map_or("<none>".to_owned(), |parameters| {
                let part = |name| path::str(parameters, &[name]);
                match parameters.get("apiGroup") {
                    Some(_) => format!("{}.{}/{}", part("kind"), part("apiGroup"), part("name")),
                    None => format!("{}/{}", part("kind"), part("name")),
                }
            });
            let name = v.default_class(&["ingressclass.kubernetes.io/is-default-class"]);
            vec![name, v.text(&["spec", "controller"]), Value::from(parameters), v.age()]
        }
        ("networking.k8s.io", "networkpolicies") => {
            vec![
                v.name(),
                Value::from(selector_or_none(v.get(&["spec", "podSelector"]))),
                v.age(),
            ]
        }
        ("networking.k8s.io", "servicecidrs") => vec![v.name(), Value::from(joined(v.list(&["spec", "cidrs"]), ",")), v.age()],
        ("networking.k8s.io", "ipaddresses") => {
            let parent = v.get(&["spec", "parentRef"]).map_or("<none>".to_owned(), |parent| {
                let part = |name| path::str(parent, &[name]);
                let mut out = trireme_api::status::qualified(part("group"), part("resource")).to_lowercase();
                for name in ["namespace", "name"] {
                    if name == "name" || !part(name).is_empty() {
                        out.push('/');
                        out.push_str(part(name));
                    }
                }
                out
            });
            // Upstream has an age here without a column for it.
            vec![v.name(), Value::from(parent), v.age()]
        }
        ("", "endpoints") => vec![v.name(), Value::from(endpoints(v)), v.age()],
        ("discovery.k8s.io", "endpointslices") => {
            let or_unset = |text: String| if text.is_empty() { "<unset>".to_owned() } else { text };
            let ports: Vec<String> = v
                .list(&["ports"])
                .iter()
                .map(
                    |port| match (path::i64(port, &["port"]), port.get("name").and_then(Value::as_str)) {
                        (Some(number), _) => number.to_string(),
                        (None, Some(name)) => name.to_owned(),
                        (None, None) => "*".to_owned(),
                    },
                )
                .collect();
            let addresses: Vec<String> = v
                .list(&["endpoints"])
                .iter()
                .flat_map(|endpoint| path::list(endpoint, &["addresses"]))
                .filter_map(|address| address.as_str().map(str::to_owned))
                .collect();
            vec![
                v.name(),
                v.text(&["addressType"]),
                Value::from(or_unset(clipped(&ports, 3, ","))),
                Value::from(or_unset(clipped(&addresses, 3, ","))),
                v.age(),
            ]
        }
        _ => return None,
    })
}

fn endpoints(v: &View<'_>) -> String {
    let subsets = v.list(&["subsets"]);
    if subsets.is_empty() {
        return "<none>".to_owned();
    }
    let mut found = Vec::new();
    for subset in subsets {
        let addresses = path::list(subset, &["addresses"])
            .iter()
            .map(|address| path::str(address, &["ip"]));
        let ports = path::list(subset, &["ports"]);
        if ports.is_empty() {
            found.extend(addresses.clone().map(str::to_owned));
        }
        for port in ports {
            let number = path::i64(port, &["port"]).unwrap_or(0);
            found.extend(addresses.clone().map(|ip| {
                if ip.contains(':') {
                    format!("[{ip}]:{number}")
                } else {
                    format!("{ip}:{number}")
                }
            }));
        }
    }
    clipped(&found, 3, ",")
}
