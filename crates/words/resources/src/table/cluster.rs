//! The cells of nodes, events, settings and permissions.
//!
//! Invariant: objects are in their stored version; a missing field reads as its zero value.

use serde_json::Value;
use trireme_api::path;

use super::view::View;
use super::words::{duration, instant, or_none};
use crate::rows::Resource;

pub(super) fn cluster(row: &Resource, v: &View<'_>) -> Option<Vec<Value>> {
    Some(match (row.group, row.plural) {
        ("", "nodes") => node(v),
        ("" | "events.k8s.io", "events") => event(v),
        ("", "namespaces") => vec![v.name(), v.text(&["status", "phase"]), v.age()],
        ("", "secrets") => vec![v.name(), v.text(&["type"]), Value::from(v.len(&["data"])), v.age()],
        ("", "configmaps") => vec![v.name(), Value::from(v.len(&["data"]) + v.len(&["binaryData"])), v.age()],
        ("", "serviceaccounts") | ("resource.k8s.io", "deviceclasses" | "resourceclaimtemplates") => vec![v.name(), v.age()],
        ("", "componentstatuses") => {
            let healthy = v
                .list(&["conditions"])
                .iter()
                .find(|condition| path::str(condition, &["type"]) == "Healthy");
            let part = |name| Value::from(healthy.map_or("", |healthy| path::str(healthy, &[name])));
            let status = match healthy.map(|healthy| path::str(healthy, &["status"])) {
                Some("True") => "Healthy",
                Some("False") => "Unhealthy",
                _ => "Unknown",
            };
            vec![v.name(), Value::from(status), part("message"), part("error")]
        }
        ("", "resourcequotas") => {
            let (mut requests, mut limits) = (Vec::new(), Vec::new());
            if let Some(hard) = path::object(v.value, &["status", "hard"]) {
                for (name, hard) in hard {
                    let used = match v.str(&["status", "used", name]) {
                        "" => "0",
                        used => used,
                    };
                    let shown = format!("{name}: {used}/{}", hard.as_str().unwrap_or("0"));
                    if name.starts_with("limits.") {
                        limits.push(shown)
                    } else {
                        requests.push(shown)
                    }
                }
            }
            vec![
                v.name(),
                Value::from(requests.join(", ")),
                Value::from(limits.join(", ")),
                v.age(),
            ]
        }
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => {
            let of = |kind: &str| {
                let subjects = v
                    .list(&["subjects"])
                    .iter()
                    .filter(|subject| path::str(subject, &["kind"]) == kind);
                let shown = subjects.map(|subject| match kind {
                    "ServiceAccount" => format!("{}/{}", path::str(subject, &["namespace"]), path::str(subject, &["name"])),
                    _ => path::str(subject, &["name"]).to_owned(),
                });
                Value::from(shown.collect::<Vec<_>>().join(", "))
            };
            let role = format!("{}/{}", v.str(&["roleRef", "kind"]), v.str(&["roleRef", "name"]));
            vec![
                v.name(),
                Value::from(role),
                v.age(),
                of("User"),
                of("Group"),
                of("ServiceAccount"),
            ]
        }
        ("certificates.k8s.io", "certificatesigningrequests") => {
            let has = |kind| v.condition(kind).is_some();
            let mut state = if has("Denied") {
                "Denied"
            } else if has("Approved") {
                "Approved"
            } else {
                "Pending"
            }
            .to_owned();
            if has("Failed") {
                state.push_str(",Failed");
            }
            if !v.str(&["status", "certificate"]).is_empty() {
                state.push_str(",Issued");
            }
            let wanted = path::i64(v.value, &["spec", "expirationSeconds"]).map_or("<none>".to_owned(), duration);
            vec![
                v.name(),
                v.age(),
                Value::from(or_none(v.str(&["spec", "signerName"]))),
                v.text(&["spec", "username"]),
                Value::from(wanted),
                Value::from(state),
            ]
        }
        ("coordination.k8s.io", "leases") => vec![v.name(), v.text(&["spec", "holderIdentity"]), v.age()],
        ("scheduling.k8s.io", "priorityclasses") => vec![
            v.name(),
            v.int(&["value"]),
            v.flag(&["globalDefault"], false),
            v.age(),
            v.text(&["preemptionPolicy"]),
        ],
        ("node.k8s.io", "runtimeclasses") => vec![v.name(), v.text(&["handler"]), v.age()],
        ("admissionregistration.k8s.io", _) => admission(row, v)?,
        ("flowcontrol.apiserver.k8s.io", "flowschemas") => vec![
            v.name(),
            v.text(&["spec", "priorityLevelConfiguration", "name"]),
            v.int(&["spec", "matchingPrecedence"]),
            v.or(&["spec", "distinguisherMethod", "type"], "<none>"),
            v.age(),
            Value::from(v.condition("Dangling").unwrap_or("?")),
        ],
        ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations") => {
            let none = || Value::from("<none>");
            let of = |at: &[&str]| v.get(at).cloned().unwrap_or_else(none);
            let queuing = ["spec", "limited", "limitResponse", "queuing"];
            let queue = |name| of(&[&queuing[..], &[name]].concat());
            vec![
                v.name(),
                v.text(&["spec", "type"]),
                of(&["spec", "limited", "nominalConcurrencyShares"]),
                queue("queues"),
                queue("handSize"),
                queue("queueLengthLimit"),
                v.age(),
            ]
        }
        ("resource.k8s.io", "resourceclaims") => {
            let deleted = v.get(&["metadata", "deletionTimestamp"]).is_some();
            let mut states = Vec::new();
            if deleted {
                states.push("deleted");
            }
            match v.get(&["status", "allocation"]) {
                None if !deleted => states.push("pending"),
                None => {}
                Some(_) => {
                    states.push("allocated");
                    if v.len(&["status", "reservedFor"]) > 0 {
                        states.push("reserved");
                    }
                }
            }
            vec![v.name(), Value::from(states.join(",")), v.age()]
        }
        ("resource.k8s.io", "resourceslices") => vec![
            v.name(),
            v.text(&["spec", "nodeName"]),
            v.text(&["spec", "driver"]),
            v.text(&["spec", "pool", "name"]),
            v.age(),
        ],
        ("apiregistration.k8s.io", "apiservices") => {
            let service = v.get(&["spec", "service"]).map_or("Local".to_owned(), |service| {
                format!("{}/{}", path::str(service, &["namespace"]), path::str(service, &["name"]))
            });
            let conditions = v.list(&["status", "conditions"]);
            let available = conditions
                .iter()
                .find(|condition| path::str(condition, &["type"]) == "Available");
            let available = match available.map(|found| (path::str(found, &["status"]), path::str(found, &["reason"]))) {
                Some(("True", _)) => "True".to_owned(),
                Some((status, reason)) => format!("{status} ({reason})"),
                None => "Unknown".to_owned(),
            };
            vec![v.name(), Value::from(service), Value::from(available), v.age()]
        }
        _ => return None,
    })
}

fn admission(row: &Resource, v: &View<'_>) -> Option<Vec<Value>> {
    Some(match row.plural {
        "mutatingwebhookconfigurations" | "validatingwebhookconfigurations" => {
            vec![v.name(), Value::from(v.len(&["webhooks"])), v.age()]
        }
        "validatingadmissionpolicies" | "mutatingadmissionpolicies" => {
            let list = if row.plural.starts_with('v') {
                "validations"
            } else {
                "mutations"
            };
            let kind = v.get(&["spec", "paramKind"]).map_or("<unset>".to_owned(), |kind| {
                format!("{}/{}", path::str(kind, &["apiVersion"]), path::str(kind, &["kind"]))
            });
            vec![v.name(), Value::from(v.len(&["spec", list])), Value::from(kind), v.age()]
        }
        "validatingadmissionpolicybindings" | "mutatingadmissionpolicybindings" => {
            let reference = v.get(&["spec", "paramRef"]).map(|reference| {
                match (path::str(reference, &["namespace"]), path::str(reference, &["name"])) {
                    (_, "") => "<unset>".to_owned(),
                    ("", name) => format!("*/{name}"),
                    (namespace, name) => format!("{namespace}/{name}"),
                }
            });
            let reference = reference.unwrap_or_else(|| "<unset>".to_owned());
            vec![v.name(), v.text(&["spec", "policyName"]), Value::from(reference), v.age()]
        }
        _ => return None,
    })
}

fn node(v: &View<'_>) -> Vec<Value> {
    let mut status = match v.condition("Ready") {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if path::bool(v.value, &["spec", "unschedulable"]) {
        status.push_str(",SchedulingDisabled");
    }
    let mut roles: Vec<&str> = Vec::new();
    if let Some(labels) = path::object(v.value, &["metadata", "labels"]) {
        for (name, value) in labels {
            match name.strip_prefix("node-role.kubernetes.io/") {
                Some(role) if !role.is_empty() => roles.push(role),
                None if name == "kubernetes.io/role" => roles.extend(value.as_str().filter(|role| !role.is_empty())),
                _ => {}
            }
        }
    }
    roles.sort_unstable();
    roles.dedup();
    let address = |kind: &str| {
        let found = v
            .list(&["status", "addresses"])
            .iter()
            .find(|address| path::str(address, &["type"]) == kind);
        Value::from(found.map_or("<none>", |address| path::str(address, &["address"])))
    };
    let info = |name| match v.str(&["status", "nodeInfo", name]) {
        "" => "<unknown>",
        text => text,
    };
    let kernel = match v.str(&["status", "nodeInfo", "architecture"]) {
        "" => info("kernelVersion").to_owned(),
        architecture => format!("{} ({architecture})", info("kernelVersion")),
    };
    vec![
        v.name(),
        Value::from(status),
        Value::from(or_none(&roles.join(","))),
        v.age(),
        v.text(&["status", "nodeInfo", "kubeletVersion"]),
        address("InternalIP"),
        address("ExternalIP"),
        Value::from(info("osImage")),
        Value::from(kernel),
        Value::from(info("containerRuntimeVersion")),
    ]
}

fn event(v: &View<'_>) -> Vec<Value> {
    let known = |at: &[&str]| instant(v.get(at)).is_some();
    let first = if known(&["firstTimestamp"]) {
        v.since(&["firstTimestamp"])
    } else {
        v.since(&["eventTime"])
    };
    let mut last = if known(&["lastTimestamp"]) {
        v.since(&["lastTimestamp"])
    } else {
        first.clone()
    };
    // What was seen once is not counted.
    let mut count = match v.number(&["count"]) {
        0 => 1,
        count => count,
    };
    if v.get(&["series"]).is_some() {
        last = v.since(&["series", "lastObservedTime"]);
        count = v.number(&["series", "count"]);
    }
    let kind = v.str(&["involvedObject", "kind"]).to_lowercase();
    let object = match v.str(&["involvedObject", "name"]) {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let either = |first: &[&str], second: &[&str]| match v.str(first) {
        "" => v.str(second),
        text => text,
    };
    let component = either(&["source", "component"], &["reportingComponent"]);
    let source = match either(&["source", "host"], &["reportingInstance"]) {
        "" => component.to_owned(),
        instance => format!("{component}, {instance}"),
    };
    vec![
        Value::from(last),
        v.text(&["type"]),
        v.text(&["reason"]),
        Value::from(object),
        v.text(&["involvedObject", "fieldPath"]),
        Value::from(source),
        Value::from(v.str(&["message"]).trim()),
        Value::from(first),
        Value::from(count),
        v.name(),
    ]
}
