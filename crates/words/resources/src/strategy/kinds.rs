//! What is peculiar to single kinds when they are created or changed.
//!
//! Invariant: one function per door; a kind that is not named has no peculiarity there.

use std::collections::{HashMap, HashSet, VecDeque};

use serde_json::{Map, Value, json};
use trireme_api::path;

use super::normal::TEMPLATE_GENERATION;
use super::{copy, keep_metadata, pod_qos, put};
use crate::rows::Resource;

/// Prepares what is peculiar; what the client is warned of comes back.
pub(super) fn create(row: &Resource, value: &mut Value, now: &str) -> Vec<String> {
    let mut warnings = Vec::new();
    match (row.group, row.plural) {
        ("", "pods") => {
            // Upstream takes a class that is there for the one it computed before.
            let class = match path::str(value, &["status", "qosClass"]) {
                "" => pod_qos(value),
                sent => sent,
            };
            let mut status = json!({"phase": "Pending", "qosClass": class});
            if !path::list(value, &["spec", "schedulingGates"]).is_empty() {
                status["conditions"] = json!([{
                    "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
                    "message": "Scheduling is blocked due to non-empty scheduling gates",
                    "lastProbeTime": null, "lastTransitionTime": now,
                }]);
            }
            path::set(value, &["status"], status);
            match_label_keys(value);
            warnings = app_armor(value);
        }
        ("", "namespaces") => {
            path::set(value, &["status"], json!({"phase": "Active"}));
            let finalizers = path::list(value, &["spec", "finalizers"]);
            if !finalizers.iter().any(|name| name == "kubernetes") {
                let mut finalizers = finalizers.to_vec();
                finalizers.push(Value::from("kubernetes"));
                path::set(value, &["spec", "finalizers"], finalizers);
            }
        }
        ("", "persistentvolumes") => {
            path::set(
                value,
                &["status"],
                json!({"phase": "Pending", "lastPhaseTransitionTime": now}),
            );
        }
        ("", "persistentvolumeclaims") => {
            path::set(value, &["status"], json!({"phase": "Pending"}));
            data_sources(value, false);
        }
        ("", "serviceaccounts") => secret_names(value),
        ("", "nodes") => drop(path::remove(value, &["status", "config"])),
        ("", "limitranges") if path::str(value, &["metadata", "name"]).is_empty() => {
            copy_within(value, &["metadata", "uid"], &["metadata", "name"]);
        }
        ("discovery.k8s.io", "endpointslices") => topology(value, &Value::Null),
        ("resource.k8s.io", "resourceslices") => taint_times(value, now),
        ("apps", "daemonsets") => {
            let sent = path::str(value, &["metadata", "annotations", TEMPLATE_GENERATION]).parse::<i64>();
            let generation = sent.unwrap_or(0).max(1).to_string();
            path::set(value, &["metadata", "annotations", TEMPLATE_GENERATION], generation);
        }
        ("batch", "jobs") if !path::bool(value, &["spec", "manualSelector"]) => job_selector(value),
        ("certificates.k8s.io", "certificatesigningrequests") => {
            path::set(value, &["status"], json!({}));
        }
        ("apiextensions.k8s.io", "customresourcedefinitions") => stored_versions(value),
        ("apiregistration.k8s.io", "apiservices") if path::get(value, &["spec", "service"]).is_none_or(Value::is_null) => {
            let condition = json!({
                "type": "Available", "status": "True", "lastTransitionTime": now, "reason": "Local",
                "message": "Local APIServices are always available",
            });
            path::set(value, &["status", "conditions"], Value::Array(vec![condition]));
        }
        _ => {}
    }
    warnings
}

/// Says of taints that do not say it since when devices have them.
fn taint_times(slice: &mut Value, now: &str) {
    let devices = path::get_mut(slice, &["spec", "devices"]).and_then(Value::as_array_mut);
    let taints = devices
        .into_iter()
        .flatten()
        .filter_map(|device| device.get_mut("taints")?.as_array_mut());
    for taint in taints.flatten().filter_map(Value::as_object_mut) {
        let since = taint.entry("timeAdded").or_insert(Value::Null);
        if since.is_null() {
            *since = now.into();
        }
    }
}

pub(super) fn update(row: &Resource, new: &mut Value, old: &Value, now: &str) {
    match (row.group, row.plural) {
        ("resource.k8s.io", "resourceslices") => taint_times(new, now),
        ("", "namespaces") => copy(new, old, &["spec", "finalizers"]),
        ("", "secrets") if path::str(new, &["type"]).is_empty() => put(new, "type", old.get("type")),
        ("", "serviceaccounts") => secret_names(new),
        ("", "services") => service_type_change(new, old),
        ("", "persistentvolumeclaims") => {
            let in_use = path::get(old, &["spec", "dataSource"]).is_some();
            data_sources(new, in_use);
        }
        ("discovery.k8s.io", "endpointslices") => topology(new, old),
        ("apps", "daemonsets") => {
            let at = ["metadata", "annotations", TEMPLATE_GENERATION];
            let before = path::str(old, &at).parse::<i64>().unwrap_or(0);
            let changed = path::get(new, &["spec", "template"]) != path::get(old, &["spec", "template"]);
            path::set(new, &at, (before + i64::from(changed)).to_string());
        }
        ("certificates.k8s.io", "certificatesigningrequests") => put(new, "spec", old.get("spec")),
        ("apiextensions.k8s.io", "customresourcedefinitions") => stored_versions(new),
        _ => {}
    }
}

pub(super) fn update_status(row: &Resource, new: &mut Value, old: &Value, now: &str) {
    match (row.group, row.plural) {
        ("", "pods") => {
            drop(path::remove(new, &["metadata", "deletionTimestamp"]));
            copy(new, old, &["metadata", "ownerReferences"]);
            if path::str(new, &["status", "qosClass"]).is_empty() {
                copy(new, old, &["status", "qosClass"]);
            }
            keep_observed_generations(new, old);
        }
        ("apps", "deployments") => copy(new, old, &["metadata", "labels"]),
        ("", "nodes") if path::get(old, &["status", "config"]).is_none() => {
            drop(path::remove(new, &["status", "config"]));
        }
        ("", "persistentvolumes") => {
            let at = ["status", "lastPhaseTransitionTime"];
            let (sent, before) = (path::get(new, &at).cloned(), path::get(old, &at).cloned());
            let same = path::str(new, &["status", "phase"]) == path::str(old, &["status", "phase"]);
            if same && sent.is_none() {
                copy(new, old, &at);
            } else if !same && (sent.is_none() || sent == before) {
                path::set(new, &at, now);
            }
        }
        ("certificates.k8s.io", "certificatesigningrequests") => {
            for kind in ["Approved", "Denied"] {
                keep_conditions(new, old, kind);
            }
            condition_times(new, old, now);
        }
        _ => {}
    }
}

pub(super) fn update_subresource(row: &Resource, new: &mut Value, old: &Value, subresource: &str, now: &str) {
    match (row.plural, subresource) {
        ("namespaces", "finalize") => put(new, "status", old.get("status")),
        ("certificatesigningrequests", "approval") => {
            condition_times(new, old, now);
            let conditions = path::get(new, &["status", "conditions"]).cloned();
            put(new, "spec", old.get("spec"));
            put(new, "status", old.get("status"));
            match conditions {
                Some(conditions) => path::set(new, &["status", "conditions"], conditions),
                None => drop(path::remove(new, &["status", "conditions"])),
            }
        }
        ("pods", "ephemeralcontainers") => {
            let sent = path::get(new, &["spec", "ephemeralContainers"]).cloned();
            put(new, "spec", old.get("spec"));
            put(new, "status", old.get("status"));
            keep_metadata(new, old);
            match sent {
                Some(sent) => path::set(new, &["spec", "ephemeralContainers"], sent),
                None => drop(path::remove(new, &["spec", "ephemeralContainers"])),
            }
        }
        ("pods", "resize") => resize(new, old),
        _ => {}
    }
}

/// Who asks for a certificate: the server says so, not the client.
pub fn set_requester(value: &mut Value, username: &str, uid: &str, groups: &[String], extra: Map<String, Value>) {
    let spec = path::object_mut(value, &["spec"]);
    for name in ["username", "uid", "groups", "extra"] {
        spec.remove(name);
    }
    for (name, text) in [("username", username), ("uid", uid)] {
        if !text.is_empty() {
            spec.insert(name.to_owned(), Value::from(text));
        }
    }
    if !groups.is_empty() {
        spec.insert("groups".to_owned(), Value::from(groups.to_vec()));
    }
    if !extra.is_empty() {
        spec.insert("extra".to_owned(), Value::Object(extra));
    }
}

fn copy_within(value: &mut Value, from: &[&str], to: &[&str]) {
    if let Some(held) = path::get(value, from).cloned() {
        path::set(value, to, held);
    }
}

/// An endpoint's topology is from an older version: no more than what was there stays.
fn topology(new: &mut Value, old: &Value) {
    let name = "deprecatedTopology";
    let before: HashSet<&Value> = path::list(old, &["endpoints"])
        .iter()
        .filter_map(|endpoint| endpoint.get(name))
        .collect();
    let Some(Value::Array(endpoints)) = new.get_mut("endpoints") else {
        return;
    };
    for endpoint in endpoints.iter_mut().filter_map(Value::as_object_mut) {
        if endpoint.get(name).is_some_and(|topology| !before.contains(topology)) {
            endpoint.remove(name);
        }
    }
}

fn namespace_label(value: &mut Value) {
    let name = path::str(value, &["metadata", "name"]).to_owned();
    if !name.is_empty() {
        path::set(value, &["metadata", "labels", "kubernetes.io/metadata.name"], name);
    }
}

/// Of a secret reference of a service account only the name counts.
fn secret_names(value: &mut Value) {
    if let Some(Value::Array(secrets)) = value.get_mut("secrets") {
        for secret in secrets {
            *secret = json!({"name": path::str(secret, &["name"])});
        }
    }
}

/// The storage version joins `status.storedVersions`.
fn stored_versions(value: &mut Value) {
    let versions = path::list(value, &["spec", "versions"]);
    let Some(name) = versions
        .iter()
        .find(|version| path::bool(version, &["storage"]))
        .map(|version| path::str(version, &["name"]))
    else {
        return;
    };
    let mut stored = path::list(value, &["status", "storedVersions"]).to_vec();
    if !stored.iter().any(|stored| stored == name) {
        stored.push(Value::from(name));
        path::set(value, &["status", "storedVersions"], stored);
    }
}

/// A job that does not bring its own selector gets one by its uid.
fn job_selector(value: &mut Value) {
    let name = path::str(value, &["metadata", "name"]).to_owned();
    let uid = path::str(value, &["metadata", "uid"]).to_owned();
    let labels = path::object_mut(value, &["spec", "template", "metadata", "labels"]);
    for (label, text) in [
        ("job-name", &name),
        ("batch.kubernetes.io/job-name", &name),
        ("controller-uid", &uid),
        ("batch.kubernetes.io/controller-uid", &uid),
    ] {
        labels.entry(label).or_insert_with(|| Value::from(text.as_str()));
    }
    let selector = path::object_mut(value, &["spec", "selector", "matchLabels"]);
    selector
        .entry("batch.kubernetes.io/controller-uid")
        .or_insert_with(|| Value::from(uid));
}

/// Whether the labels that defaulting gives this object are its template's own: what the server adds to those, it adds to
/// both. Asked before defaulting.
#[must_use]
pub fn shares_labels(row: &Resource, value: &Value) -> bool {
    let bare = |at: &[&str]| path::object(value, at).is_none_or(Map::is_empty);
    row.storage == "batch/jobs" && bare(&["metadata", "labels"]) && !bare(&["spec", "template", "metadata", "labels"])
}

/// Gives an object the labels of its template.
pub fn share_labels(value: &mut Value) {
    copy_within(value, &["spec", "template", "metadata", "labels"], &["metadata", "labels"]);
}

/// What upstream fills in once an object is found valid, or when it reads it back after it has stored it: owned by nobody.
pub fn fill_stored(row: &Resource, value: &mut Value) {
    let bare = |value: &Value| path::object(value, &["metadata", "labels"]).is_none_or(Map::is_empty);
    match row.storage {
        "core/namespaces" => namespace_label(value),
        "core/services" => service_by_name(value),
        "batch/jobs" if bare(value) => share_labels(value),
        _ => {}
    }
}

/// `dataSource` and `dataSourceRef` say the same where they can.
fn data_sources(value: &mut Value, in_use: bool) {
    let Some(Value::Object(spec)) = value.get_mut("spec") else {
        return;
    };
    let elsewhere = |reference: &Value| !path::str(reference, &["namespace"]).is_empty();
    if !in_use && spec.get("dataSourceRef").is_some_and(elsewhere) {
        spec.remove("dataSourceRef");
    }
    // Who knows of the reference means what is in the source; others were never told of a mistake in it.
    if let Some(source) = spec.get("dataSource").filter(|_| !spec.contains_key("dataSourceRef")) {
        let (group, kind) = (path::str(source, &["apiGroup"]), path::str(source, &["kind"]));
        let known = matches!(
            (group, kind),
            ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
        );
        if !in_use && !known {
            spec.remove("dataSource");
        }
    }
    match (spec.get("dataSource").cloned(), spec.get("dataSourceRef").cloned()) {
        (Some(source), None) => {
            spec.insert("dataSourceRef".to_owned(), source);
        }
        (None, Some(mut reference)) if path::str(&reference, &["namespace"]).is_empty() => {
            drop(path::remove(&mut reference, &["namespace"]));
            spec.insert("dataSource".to_owned(), reference);
        }
        _ => {}
    }
}

/// What an old type needed and the new one does not goes, unless the client changed it too (validation tells then).
fn service_type_change(new: &mut Value, old: &Value) {
    let kind = |value: &Value| path::str(value, &["spec", "type"]).to_owned();
    let same = |new: &Value, name: &str| path::get(new, &["spec", name]) == path::get(old, &["spec", name]);
    let (was, is) = (kind(old), kind(new));
    let node_ports = |kind: &str| matches!(kind, "NodePort" | "LoadBalancer");
    let mut gone: Vec<&str> = Vec::new();
    if was != "ExternalName" && is == "ExternalName" {
        if same(new, "clusterIP") && same(new, "clusterIPs") {
            gone.extend(["clusterIP", "clusterIPs"]);
        }
        gone.extend(["ipFamilies", "ipFamilyPolicy"].into_iter().filter(|name| same(new, name)));
    }
    if node_ports(&was) && !node_ports(&is) {
        let ports = |value: &Value| -> HashSet<i64> {
            let ports = path::list(value, &["spec", "ports"]).iter();
            ports
                .filter_map(|port| path::i64(port, &["nodePort"]))
                .filter(|port| *port != 0)
                .collect()
        };
        let before = ports(old);
        if ports(new).iter().all(|port| before.contains(port))
            && let Some(Value::Array(ports)) = path::get_mut(new, &["spec", "ports"])
        {
            for port in ports {
                drop(path::remove(port, &["nodePort"]));
            }
        }
    }
    let outside = |value: &Value| {
        node_ports(&kind(value)) || (kind(value) == "ClusterIP" && !path::list(value, &["spec", "externalIPs"]).is_empty())
    };
    if outside(old) && !outside(new) && same(new, "externalTrafficPolicy") {
        gone.push("externalTrafficPolicy");
    }
    let health = |value: &Value| kind(value) == "LoadBalancer" && path::str(value, &["spec", "externalTrafficPolicy"]) == "Local";
    if health(old) && !health(new) && same(new, "healthCheckNodePort") {
        gone.push("healthCheckNodePort");
    }
    if was == "LoadBalancer" && is != "LoadBalancer" {
        gone.extend(
            ["allocateLoadBalancerNodePorts", "loadBalancerClass"]
                .into_iter()
                .filter(|name| same(new, name)),
        );
    }
    for name in gone {
        drop(path::remove(new, &["spec", name]));
    }
    if is != "LoadBalancer" && path::get(new, &["status", "loadBalancer"]).is_some() {
        path::set(new, &["status", "loadBalancer"], json!({}));
    }
}

/// A service that is only a name has no traffic of its own to tell about.
fn service_by_name(service: &mut Value) {
    if path::str(service, &["spec", "type"]) == "ExternalName" {
        drop(path::remove(service, &["spec", "internalTrafficPolicy"]));
    }
}

/// The resize door changes resources and resize policies only; a change of the containers themselves is left to
/// validation.
fn resize(new: &mut Value, old: &Value) {
    for list in ["containers", "initContainers"] {
        let names = |value: &Value| -> Vec<String> {
            path::list(value, &["spec", list])
                .iter()
                .map(|one| path::str(one, &["name"]).to_owned())
                .collect()
        };
        if names(new).len() != names(old).len() {
            return;
        }
    }
    let mut spec = old.get("spec").cloned().unwrap_or_default();
    for list in ["containers", "initContainers"] {
        let sent = path::list(new, &["spec", list]).to_vec();
        let Some(Value::Array(kept)) = spec.get_mut(list) else {
            continue;
        };
        if kept
            .iter()
            .zip(&sent)
            .any(|(kept, sent)| path::str(kept, &["name"]) != path::str(sent, &["name"]))
        {
            *kept = sent;
            continue;
        }
        for (kept, sent) in kept.iter_mut().zip(&sent) {
            copy(kept, sent, &["resources"]);
            copy(kept, sent, &["resizePolicy"]);
        }
    }
    copy(&mut spec, &new["spec"], &["resources"]);
    put(new, "spec", Some(&spec));
    put(new, "status", old.get("status"));
    keep_metadata(new, old);
}

fn keep_observed_generations(new: &mut Value, old: &Value) {
    let at = "observedGeneration";
    if path::i64(new, &["status", at]).unwrap_or(0) == 0 {
        copy(new, old, &["status", at]);
    }
    // Of equal types each is the next one's.
    let mut before: HashMap<&str, VecDeque<Option<&Value>>> = HashMap::new();
    for condition in path::list(old, &["status", "conditions"]) {
        let of_type = before.entry(path::str(condition, &["type"])).or_default();
        of_type.push_back(condition.get(at));
    }
    let Some(Value::Array(conditions)) = path::get_mut(new, &["status", "conditions"]) else {
        return;
    };
    for condition in conditions {
        let of_type = before.get_mut(path::str(condition, &["type"]));
        let Some(generation) = of_type.and_then(VecDeque::pop_front) else {
            continue;
        };
        if path::i64(condition, &[at]).unwrap_or(0) == 0
            && let Some(generation) = generation
        {
            path::set(condition, &[at], generation.clone());
        }
    }
}

/// Conditions of a type stay as they were, unless their number changed.
fn keep_conditions(new: &mut Value, old: &Value, kind: &str) {
    let of_kind = |condition: &&Value| path::str(condition, &["type"]) == kind;
    let before: Vec<Value> = path::list(old, &["status", "conditions"])
        .iter()
        .filter(of_kind)
        .cloned()
        .collect();
    let Some(Value::Array(conditions)) = path::get_mut(new, &["status", "conditions"]) else {
        return;
    };
    if conditions.iter().filter(|condition| of_kind(condition)).count() != before.len() {
        return;
    }
    let mut before = before.into_iter();
    for condition in conditions
        .iter_mut()
        .filter(|condition| path::str(condition, &["type"]) == kind)
    {
        if let Some(kept) = before.next() {
            *condition = kept;
        }
    }
}

fn condition_times(new: &mut Value, old: &Value, now: &str) {
    let missing = |condition: &Value, name: &str| condition.get(name).is_none_or(Value::is_null);
    fn alike(condition: &Value) -> (&str, &str) {
        (path::str(condition, &["type"]), path::str(condition, &["status"]))
    }
    let timed = path::list(old, &["status", "conditions"]).iter().rev();
    let timed = timed.filter(|condition| !missing(condition, "lastTransitionTime"));
    // Of equal ones the first.
    let before: HashMap<_, &Value> = timed.map(|condition| (alike(condition), condition)).collect();
    let Some(Value::Array(conditions)) = path::get_mut(new, &["status", "conditions"]) else {
        return;
    };
    for condition in conditions {
        if missing(condition, "lastUpdateTime") {
            path::set(condition, &["lastUpdateTime"], now);
        }
        if missing(condition, "lastTransitionTime") {
            let before = before.get(&alike(condition));
            let time = before.map_or_else(|| Value::from(now), |other| other["lastTransitionTime"].clone());
            path::set(condition, &["lastTransitionTime"], time);
        }
    }
}

const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// The profile that the old annotation of a container says; nothing where it says none that is valid.
#[must_use]
pub fn app_armor_profile(annotation: &str) -> Option<Value> {
    match annotation {
        "unconfined" => Some(json!({"type": "Unconfined"})),
        "runtime/default" => Some(json!({"type": "RuntimeDefault"})),
        other => {
            let name = other.strip_prefix("localhost/")?;
            let valid = !name.is_empty() && name.len() <= 4095 && name.trim() == name;
            valid.then(|| json!({"type": "Localhost", "localhostProfile": name}))
        }
    }
}

/// The key of a container's annotation that says its AppArmor profile.
#[must_use]
pub fn app_armor_annotation(container: &str) -> String {
    format!("{APP_ARMOR}{container}")
}

/// A pod's old annotations become the fields that took their place; the client is warned of those that it set alone.
fn app_armor(pod: &mut Value) -> Vec<String> {
    let annotations = path::object(pod, &["metadata", "annotations"]).cloned().unwrap_or_default();
    let old = annotations.keys().any(|key| key.starts_with(APP_ARMOR));
    if !old || path::str(pod, &["spec", "os", "name"]) == "windows" {
        return Vec::new();
    }
    let mut warnings = Vec::new();
    let of_pod = path::get(pod, &["spec", "securityContext", "appArmorProfile"]).cloned();
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        let containers = path::get_mut(pod, &["spec", list]).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let at = ["securityContext", "appArmorProfile"];
            let key = app_armor_annotation(path::str(container, &["name"]));
            let Some(annotation) = annotations
                .get(&key)
                .filter(|_| path::get(container, &at).is_none_or(Value::is_null))
            else {
                continue;
            };
            let profile = app_armor_profile(annotation.as_str().unwrap_or_default());
            if profile.is_some() && profile == of_pod {
                continue;
            }
            if let Some(profile) = profile {
                path::set(container, &at, profile);
            }
            warnings.push(format!(
                "metadata.annotations[{key}]: deprecated since v1.30; use the \"appArmorProfile\" field instead"
            ));
        }
    }
    warnings
}

/// `matchLabelKeys` and `mismatchLabelKeys` become requirements on the pod's own values.
fn match_label_keys(pod: &mut Value) {
    let labels = path::object(pod, &["metadata", "labels"]).cloned().unwrap_or_default();
    let require = |term: &mut Value, operator_of: &[(&str, &str)]| {
        if term.get("labelSelector").is_none() {
            return;
        }
        for (list, operator) in operator_of {
            let keys: Vec<Value> = path::list(term, &[list]).to_vec();
            for key in keys {
                if let Some(value) = key.as_str().and_then(|key| labels.get(key)) {
                    let mut rules = path::list(term, &["labelSelector", "matchExpressions"]).to_vec();
                    rules.push(json!({"key": key, "operator": operator, "values": [value]}));
                    path::set(term, &["labelSelector", "matchExpressions"], rules);
                }
            }
        }
    };
    for affinity in ["podAffinity", "podAntiAffinity"] {
        let base = ["spec", "affinity", affinity];
        let operators = [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")];
        let Some(affinity) = path::get_mut(pod, &base) else { continue };
        if let Some(Value::Array(terms)) = affinity.get_mut("requiredDuringSchedulingIgnoredDuringExecution") {
            terms.iter_mut().for_each(|term| require(term, &operators));
        }
        if let Some(Value::Array(terms)) = affinity.get_mut("preferredDuringSchedulingIgnoredDuringExecution") {
            terms
                .iter_mut()
                .filter_map(|term| term.get_mut("podAffinityTerm"))
                .for_each(|term| require(term, &operators));
        }
    }
    if let Some(Value::Array(constraints)) = path::get_mut(pod, &["spec", "topologySpreadConstraints"]) {
        constraints
            .iter_mut()
            .for_each(|constraint| require(constraint, &[("matchLabelKeys", "In")]));
    }
}
