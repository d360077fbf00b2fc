//! The cells of every kind but pods, in groups of kin.
//!
//! Invariant: objects are in their stored version; a missing field reads as its zero value.

use jiff::Timestamp;
use serde_json::Value;
use trireme_api::path;

use super::words::{access_modes, clipped, containers, duration, instant, labels, or_none, selector, selector_or_none, since};
use crate::rows::Resource;

/// An object with the time, and short ways to its fields.
struct View<'a> {
    value: &'a Value,
    now: Timestamp,
}

impl<'a> View<'a> {
    fn str(&self, at: &[&str]) -> &'a str {
        path::str(self.value, at)
    }

    fn text(&self, at: &[&str]) -> Value {
        Value::from(self.str(at))
    }

    fn number(&self, at: &[&str]) -> i64 {
        path::i64(self.value, at).unwrap_or(0)
    }

    fn int(&self, at: &[&str]) -> Value {
        Value::from(self.number(at))
    }

    fn flag(&self, at: &[&str], default: bool) -> Value {
        Value::from(path::get(self.value, at).and_then(Value::as_bool).unwrap_or(default))
    }

    fn or(&self, at: &[&str], default: &str) -> Value {
        match path::get(self.value, at) {
            Some(Value::String(text)) => Value::from(text.as_str()),
            Some(Value::Null) | None => Value::from(default),
            Some(other) => Value::from(other.to_string()),
        }
    }

    fn list(&self, at: &[&str]) -> &'a [Value] {
        path::list(self.value, at)
    }

    fn get(&self, at: &[&str]) -> Option<&'a Value> {
        path::get(self.value, at)
    }

    fn len(&self, at: &[&str]) -> usize {
        match self.get(at) {
            Some(Value::Array(items)) => items.len(),
            Some(Value::Object(members)) => members.len(),
            _ => 0,
        }
    }

    fn name(&self) -> Value {
        self.text(&["metadata", "name"])
    }

    fn age(&self) -> Value {
        Value::from(since(self.get(&["metadata", "creationTimestamp"]), self.now))
    }

    fn since(&self, at: &[&str]) -> String {
        since(self.get(at), self.now)
    }

    fn condition(&self, kind: &str) -> Option<&'a str> {
        let conditions = self.list(&["status", "conditions"]);
        conditions
            .iter()
            .find(|condition| path::str(condition, &["type"]) == kind)
            .map(|found| path::str(found, &["status"]))
    }

    fn phase(&self) -> Value {
        if self.get(&["metadata", "deletionTimestamp"]).is_some() {
            Value::from("Terminating")
        } else {
            self.text(&["status", "phase"])
        }
    }

    fn default_class(&self, annotations: &[&str]) -> Value {
        let marked = annotations
            .iter()
            .any(|name| self.str(&["metadata", "annotations", name]) == "true");
        Value::from(format!(
            "{}{}",
            self.str(&["metadata", "name"]),
            if marked { " (default)" } else { "" }
        ))
    }
}

fn joined(items: &[Value], separator: &str) -> String {
    items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(separator)
}

pub(super) fn cells(row: &Resource, value: &Value, now: Timestamp) -> Option<Vec<Value>> {
    let view = View { value, now };
    workloads(row, &view)
        .or_else(|| network(row, &view))
        .or_else(|| storage(row, &view))
        .or_else(|| cluster(row, &view))
}

fn workloads(row: &Resource, v: &View<'_>) -> Option<Vec<Value>> {
    let template = v.get(&["spec", "template", "spec"]);
    let [names, images] = containers(template);
    let chosen = || Value::from(selector_or_none(v.get(&["spec", "selector"])));
    Some(match (row.group, row.plural) {
        ("", "podtemplates") => {
            let [names, images] = containers(v.get(&["template", "spec"]));
            vec![
                v.name(),
                names,
                images,
                Value::from(labels(v.get(&["template", "metadata", "labels"]))),
            ]
        }
        ("", "replicationcontrollers") | ("apps", "replicasets") => {
            let chosen = if row.group.is_empty() {
                Value::from(labels(v.get(&["spec", "selector"])))
            } else {
                chosen()
            };
            let counts = [
                v.int(&["spec", "replicas"]),
                v.int(&["status", "replicas"]),
                v.int(&["status", "readyReplicas"]),
            ];
            [vec![v.name()], counts.to_vec(), vec![v.age(), names, images, chosen]].concat()
        }
        ("apps", "deployments") => {
            let ready = format!(
                "{}/{}",
                v.number(&["status", "readyReplicas"]),
                v.number(&["spec", "replicas"])
            );
            let (updated, available) = (v.int(&["status", "updatedReplicas"]), v.int(&["status", "availableReplicas"]));
            let chosen = Value::from(selector(v.get(&["spec", "selector"])));
            vec![
                v.name(),
                Value::from(ready),
                updated,
                available,
                v.age(),
                names,
                images,
                chosen,
            ]
        }
        ("apps", "statefulsets") => {
            let ready = format!(
                "{}/{}",
                v.number(&["status", "readyReplicas"]),
                v.number(&["spec", "replicas"])
            );
            vec![v.name(), Value::from(ready), v.age(), names, images]
        }
        ("apps", "daemonsets") => {
            let of = |name| v.int(&["status", name]);
            vec![
                v.name(),
                of("desiredNumberScheduled"),
                of("currentNumberScheduled"),
                of("numberReady"),
                of("updatedNumberScheduled"),
                of("numberAvailable"),
                Value::from(labels(v.get(&["spec", "template", "spec", "nodeSelector"]))),
                v.age(),
                names,
                images,
                chosen(),
            ]
        }
        ("apps", "controllerrevisions") => {
            let owners = v.list(&["metadata", "ownerReferences"]);
            let owner = owners
                .iter()
                .find(|owner| path::bool(owner, &["controller"]))
                .map_or("<none>".to_owned(), |owner| {
                    let kind = path::str(owner, &["kind"]).to_lowercase();
                    let name = path::str(owner, &["name"]);
                    match path::str(owner, &["apiVersion"]).rsplit_once('/') {
                        Some((group, _)) => format!("{kind}.{group}/{name}"),
                        None => format!("{kind}/{name}"),
                    }
                });
            vec![v.name(), Value::from(owner), v.int(&["revision"]), v.age()]
        }
        ("batch", "jobs") => {
            vec![
                v.name(),
                job_status(v),
                job_completions(v),
                job_duration(v),
                v.age(),
                names,
                images,
                chosen(),
            ]
        }
        ("batch", "cronjobs") => {
            let inner = ["spec", "jobTemplate", "spec"];
            let [names, images] = containers(v.get(&[&inner[..], &["template", "spec"]].concat()));
            let suspend = match v.get(&["spec", "suspend"]).and_then(Value::as_bool) {
                Some(true) => "True",
                Some(false) => "False",
                None => "<unset>",
            };
            let last = v
                .get(&["status", "lastScheduleTime"])
                .map_or("<none>".to_owned(), |_| v.since(&["status", "lastScheduleTime"]));
            vec![
                v.name(),
                v.text(&["spec", "schedule"]),
                v.or(&["spec", "timeZone"], "<none>"),
                Value::from(suspend),
                Value::from(v.len(&["status", "active"])),
                Value::from(last),
                v.age(),
                names,
                images,
                Value::from(selector_or_none(v.get(&[&inner[..], &["selector"]].concat()))),
            ]
        }
        ("policy", "poddisruptionbudgets") => vec![
            v.name(),
            v.or(&["spec", "minAvailable"], "N/A"),
            v.or(&["spec", "maxUnavailable"], "N/A"),
            v.int(&["status", "disruptionsAllowed"]),
            v.age(),
        ],
        ("autoscaling", "horizontalpodautoscalers") => vec![
            v.name(),
            Value::from(format!(
                "{}/{}",
                v.str(&["spec", "scaleTargetRef", "kind"]),
                v.str(&["spec", "scaleTargetRef", "name"])
            )),
            Value::from(metrics(v)),
            v.or(&["spec", "minReplicas"], "<unset>"),
            v.int(&["spec", "maxReplicas"]),
            v.int(&["status", "currentReplicas"]),
            v.age(),
        ],
        _ => return None,
    })
}

fn job_status(v: &View<'_>) -> Value {
    let is = |kind| v.condition(kind) == Some("True");
    let deleting = v.get(&["metadata", "deletionTimestamp"]).is_some();
    Value::from(match () {
        () if is("Complete") => "Complete",
        () if is("Failed") => "Failed",
        () if deleting => "Terminating",
        () if is("Suspended") => "Suspended",
        () if is("FailureTarget") => "FailureTarget",
        () if is("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    })
}

fn job_completions(v: &View<'_>) -> Value {
    let done = v.number(&["status", "succeeded"]);
    let parallel = v.number(&["spec", "parallelism"]);
    Value::from(match path::i64(v.value, &["spec", "completions"]) {
        Some(wanted) => format!("{done}/{wanted}"),
        None if parallel > 1 => format!("{done}/1 of {parallel}"),
        None => format!("{done}/1"),
    })
}

fn job_duration(v: &View<'_>) -> Value {
    let Some(start) = instant(v.get(&["status", "startTime"])) else {
        return Value::from("");
    };
    let end = instant(v.get(&["status", "completionTime"])).unwrap_or(v.now);
    Value::from(duration(end.as_second() - start.as_second()))
}

fn metrics(v: &View<'_>) -> String {
    const UNKNOWN: &str = "<unknown>";
    let specs = v.list(&["spec", "metrics"]);
    if specs.is_empty() {
        return "<none>".to_owned();
    }
    let current = v.list(&["status", "currentMetrics"]);
    let mut shown = Vec::new();
    for (number, spec) in specs.iter().enumerate() {
        let member = match path::str(spec, &["type"]) {
            "External" => "external",
            "Pods" => "pods",
            "Object" => "object",
            "Resource" => "resource",
            "ContainerResource" => "containerResource",
            _ => {
                shown.push("<unknown type>".to_owned());
                continue;
            }
        };
        let target = |name| path::str(spec, &[member, "target", name]);
        let measured = |name| match current
            .get(number)
            .map(|status| path::str(status, &[member, "current", name]))
        {
            None | Some("") => UNKNOWN.to_owned(),
            Some(text) => text.to_owned(),
        };
        let average = !target("averageValue").is_empty();
        shown.push(match member {
            "external" | "object" if average => format!("{}/{} (avg)", measured("averageValue"), target("averageValue")),
            "external" | "object" => format!("{}/{}", measured("value"), target("value")),
            "pods" => format!("{}/{}", measured("averageValue"), target("averageValue")),
            _ => {
                let name = path::str(spec, &[member, "name"]);
                if average {
                    format!("{name}: {}/{}", measured("averageValue"), target("averageValue"))
                } else {
                    let percent = |from: Option<&Value>, at: &str| {
                        from.and_then(|from| path::i64(from, &[member, at, "averageUtilization"]))
                            .map(|share| format!("{share}%"))
                    };
                    let now = percent(current.get(number), "current").unwrap_or_else(|| UNKNOWN.to_owned());
                    let wanted = percent(Some(spec), "target").unwrap_or_else(|| "<auto>".to_owned());
                    format!("{name}: {now}/{wanted}")
                }
            }
        });
    }
    clipped(&shown, 2, ", ")
}

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

fn network(row: &Resource, v: &View<'_>) -> Option<Vec<Value>> {
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

fn storage(row: &Resource, v: &View<'_>) -> Option<Vec<Value>> {
    let beta_class = |v: &View<'_>| match v.str(&["metadata", "annotations", "volume.beta.kubernetes.io/storage-class"]) {
        "" => v.text(&["spec", "storageClassName"]),
        class => Value::from(class),
    };
    Some(match (row.group, row.plural) {
        ("", "persistentvolumes") => {
            let claim = v.get(&["spec", "claimRef"]).map_or(String::new(), |claim| {
                format!("{}/{}", path::str(claim, &["namespace"]), path::str(claim, &["name"]))
            });
            vec![
                v.name(),
                v.or(&["spec", "capacity", "storage"], "0"),
                Value::from(access_modes(v.list(&["spec", "accessModes"]))),
                v.text(&["spec", "persistentVolumeReclaimPolicy"]),
                v.phase(),
                Value::from(claim),
                beta_class(v),
                v.or(&["spec", "volumeAttributesClassName"], "<unset>"),
                v.text(&["status", "reason"]),
                v.age(),
                v.or(&["spec", "volumeMode"], "<unset>"),
            ]
        }
        ("", "persistentvolumeclaims") => {
            let bound = !v.str(&["spec", "volumeName"]).is_empty();
            let capacity = if bound {
                v.or(&["status", "capacity", "storage"], "0")
            } else {
                Value::from("")
            };
            let modes = if bound {
                access_modes(v.list(&["status", "accessModes"]))
            } else {
                String::new()
            };
            vec![
                v.name(),
                v.phase(),
                v.text(&["spec", "volumeName"]),
                capacity,
                Value::from(modes),
                beta_class(v),
                v.or(&["spec", "volumeAttributesClassName"], "<unset>"),
                v.age(),
                v.or(&["spec", "volumeMode"], "<unset>"),
            ]
        }
        ("storage.k8s.io", "storageclasses") => vec![
            v.default_class(&[
                "storageclass.kubernetes.io/is-default-class",
                "storageclass.beta.kubernetes.io/is-default-class",
            ]),
            v.text(&["provisioner"]),
            v.or(&["reclaimPolicy"], "Delete"),
            v.or(&["volumeBindingMode"], "Immediate"),
            v.flag(&["allowVolumeExpansion"], false),
            v.age(),
        ],
        ("storage.k8s.io", "volumeattributesclasses") => vec![v.name(), v.text(&["driverName"]), v.age()],
        ("storage.k8s.io", "volumeattachments") => vec![
            v.name(),
            v.text(&["spec", "attacher"]),
            v.text(&["spec", "source", "persistentVolumeName"]),
            v.text(&["spec", "nodeName"]),
            v.flag(&["status", "attached"], false),
            v.age(),
        ],
        ("storage.k8s.io", "csinodes") => vec![v.name(), Value::from(v.len(&["spec", "drivers"])), v.age()],
        ("storage.k8s.io", "csidrivers") => {
            let tokens = match v.get(&["spec", "tokenRequests"]) {
                Some(Value::Array(requests)) => requests
                    .iter()
                    .map(|request| path::str(request, &["audience"]))
                    .collect::<Vec<_>>()
                    .join(","),
                _ => "<unset>".to_owned(),
            };
            vec![
                v.name(),
                v.flag(&["spec", "attachRequired"], true),
                v.flag(&["spec", "podInfoOnMount"], false),
                v.flag(&["spec", "storageCapacity"], false),
                Value::from(tokens),
                v.flag(&["spec", "requiresRepublish"], false),
                Value::from(or_none(&joined(v.list(&["spec", "volumeLifecycleModes"]), ","))),
                v.age(),
            ]
        }
        _ => return None,
    })
}

fn cluster(row: &Resource, v: &View<'_>) -> Option<Vec<Value>> {
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
    let mut count = v.number(&["count"]).max(1);
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
