//! Defaults of the core group (pkg/apis/core/v1/defaults.go).

use serde_json::{Value, json};

use super::{Fields, image, is_zero, object, set, set_zero, text};
use crate::quota;

pub(super) fn apply(name: &str, fields: &mut Fields) {
    match name {
        "Pod" => pod(fields),
        "PodSpec" => pod_spec(fields),
        "Container" | "EphemeralContainer" | "EphemeralContainerCommon" => container(fields),
        "Volume" => volume(fields),
        "Probe" => {
            set_zero(fields, "timeoutSeconds", 1);
            set_zero(fields, "periodSeconds", 10);
            set_zero(fields, "successThreshold", 1);
            set_zero(fields, "failureThreshold", 3);
        }
        "HTTPGetAction" => {
            set_zero(fields, "path", "/");
            set_zero(fields, "scheme", "HTTP");
        }
        "SecretVolumeSource" | "ConfigMapVolumeSource" | "DownwardAPIVolumeSource" | "ProjectedVolumeSource" => {
            set(fields, "defaultMode", 0o644);
        }
        "ServiceAccountTokenProjection" => set(fields, "expirationSeconds", 3600),
        "HostPathVolumeSource" => set(fields, "type", ""),
        "ObjectFieldSelector" => set_zero(fields, "apiVersion", "v1"),
        "Service" => service(fields),
        "Secret" => set_zero(fields, "type", "Opaque"),
        "ReplicationController" => replication_controller(fields),
        "PersistentVolume" => {
            set_zero(object(fields, "status"), "phase", "Pending");
            let spec = object(fields, "spec");
            set_zero(spec, "persistentVolumeReclaimPolicy", "Retain");
            set(spec, "volumeMode", "Filesystem");
        }
        "PersistentVolumeClaim" => set_zero(object(fields, "status"), "phase", "Pending"),
        "PersistentVolumeClaimSpec" => set(fields, "volumeMode", "Filesystem"),
        "EndpointPort" => set_zero(fields, "protocol", "TCP"),
        "Namespace" => namespace(fields),
        "NodeStatus" => {
            if let (None, Some(capacity)) = (fields.get("allocatable"), fields.get("capacity").cloned()) {
                fields.insert("allocatable".into(), capacity);
            }
        }
        "LimitRangeItem" => limit_range_item(fields),
        _ => {}
    }
}

fn pull_policy(image: &str) -> &'static str {
    if image::tag(image) == Some("latest") {
        "Always"
    } else {
        "IfNotPresent"
    }
}

fn container(fields: &mut Fields) {
    let policy = pull_policy(text(fields, "image"));
    set_zero(fields, "imagePullPolicy", policy);
    set_zero(fields, "terminationMessagePath", "/dev/termination-log");
    set_zero(fields, "terminationMessagePolicy", "File");
}

fn pod_spec(fields: &mut Fields) {
    set_zero(fields, "dnsPolicy", "ClusterFirst");
    set_zero(fields, "restartPolicy", "Always");
    set(fields, "securityContext", json!({}));
    set(fields, "terminationGracePeriodSeconds", 30);
    set_zero(fields, "schedulerName", "default-scheduler");
}

fn volume(fields: &mut Fields) {
    if fields.keys().all(|key| key == "name") {
        fields.insert("emptyDir".into(), json!({}));
    }
    if let Some(image) = fields.get_mut("image").and_then(Value::as_object_mut) {
        let policy = pull_policy(text(image, "reference"));
        set_zero(image, "pullPolicy", policy);
    }
}

/// Requests that a container leaves out are its limits; only in pods, not in templates.
fn pod(fields: &mut Fields) {
    let Some(spec) = fields.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    let host_network = spec.get("hostNetwork") == Some(&Value::Bool(true));
    for list in ["containers", "initContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let Some(container) = container.as_object_mut() else {
                continue;
            };
            if let Some(resources) = container.get_mut("resources").and_then(Value::as_object_mut) {
                requests_from_limits(resources);
            }
            if host_network {
                for port in container.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
                    let number = port_number(port);
                    if let (Some(port), Some(number)) = (port.as_object_mut(), number) {
                        set_zero(port, "hostPort", number);
                    }
                }
            }
        }
    }
    whole_pod(spec);
    set(spec, "enableServiceLinks", true);
}

/// What a pod asks for as a whole, where it says so in part: huge pages as its containers, cpu and memory as they request
/// or else as its own limits.
fn whole_pod(spec: &mut Fields) {
    let Some(own) = spec.get("resources").and_then(Value::as_object) else {
        return;
    };
    let members = |name: &str| own.get(name).and_then(Value::as_object).cloned().unwrap_or_default();
    let (mut requests, mut limits) = (members("requests"), members("limits"));
    if requests.is_empty() && limits.is_empty() {
        return;
    }
    let of_containers = |list: &str| {
        let containers =
            ["containers", "initContainers"].map(|list| (list.to_owned(), spec.get(list).cloned().unwrap_or_default()));
        quota::of_containers(&Value::Object(containers.into_iter().collect()), list)
    };
    for (name, amount) in of_containers("limits") {
        if name.starts_with("hugepages-") && !requests.contains_key(&name) {
            set(&mut limits, &name, amount.to_string());
        }
    }
    if !limits.is_empty() {
        for (name, amount) in of_containers("requests") {
            if matches!(name.as_str(), "cpu" | "memory") {
                set(&mut requests, &name, amount.to_string());
            }
        }
        for (name, limit) in &limits {
            if quota::is_of_pods(name) {
                set(&mut requests, name, limit.clone());
            }
        }
    }
    let own = object(spec, "resources");
    for (name, list) in [("requests", requests), ("limits", limits)] {
        if !list.is_empty() {
            own.insert(name.to_owned(), Value::Object(list));
        }
    }
}

fn port_number(port: &Value) -> Option<Value> {
    port.get("containerPort").cloned()
}

fn requests_from_limits(resources: &mut Fields) {
    let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() else {
        return;
    };
    let requests = object(resources, "requests");
    for (name, limit) in limits {
        set(requests, &name, limit);
    }
    if requests.is_empty() {
        resources.remove("requests");
    }
}

fn service(fields: &mut Fields) {
    let spec = object(fields, "spec");
    set_zero(spec, "sessionAffinity", "None");
    match text(spec, "sessionAffinity") {
        "None" => drop(spec.remove("sessionAffinityConfig")),
        "ClientIP"
            if spec
                .get("sessionAffinityConfig")
                .and_then(|config| config.pointer("/clientIP/timeoutSeconds"))
                .is_none() =>
        {
            spec.insert("sessionAffinityConfig".into(), json!({"clientIP": {"timeoutSeconds": 10800}}));
        }
        _ => {}
    }
    set_zero(spec, "type", "ClusterIP");
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(port) = port.as_object_mut() else { continue };
        set_zero(port, "protocol", "TCP");
        let number = port.get("port").cloned().unwrap_or_else(|| 0.into());
        set_zero(port, "targetPort", number);
    }
    let kind = text(spec, "type").to_owned();
    let external_addresses = !is_zero(spec.get("externalIPs"));
    let reachable = matches!(kind.as_str(), "NodePort" | "LoadBalancer") || (kind == "ClusterIP" && external_addresses);
    if reachable {
        set_zero(spec, "externalTrafficPolicy", "Cluster");
    }
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer" | "ClusterIP") {
        set(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        set(spec, "allocateLoadBalancerNodePorts", true);
        let ingress = fields
            .get_mut("status")
            .and_then(|status| status.pointer_mut("/loadBalancer/ingress"));
        for ingress in ingress.and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(ingress) = ingress.as_object_mut()
                && !text(ingress, "ip").is_empty()
            {
                set(ingress, "ipMode", "VIP");
            }
        }
    }
}

fn replication_controller(fields: &mut Fields) {
    let labels = fields
        .get("spec")
        .and_then(|spec| spec.pointer("/template/metadata/labels"))
        .cloned();
    let Some(labels) = labels.filter(|labels| !is_zero(Some(labels))) else {
        return;
    };
    set_zero(object(fields, "spec"), "selector", labels.clone());
    set_zero(object(fields, "metadata"), "labels", labels);
}

fn namespace(fields: &mut Fields) {
    let metadata = object(fields, "metadata");
    let name = text(metadata, "name").to_owned();
    if !name.is_empty() {
        object(metadata, "labels").insert("kubernetes.io/metadata.name".into(), name.into());
    }
    set_zero(object(fields, "status"), "phase", "Active");
}

/// For containers, what is left out follows from what is there: the default limit from the maximum, the default request
/// from the default limit, and else from the minimum.
fn limit_range_item(fields: &mut Fields) {
    if text(fields, "type") != "Container" {
        return;
    }
    for (target, source) in [("default", "max"), ("defaultRequest", "default"), ("defaultRequest", "min")] {
        let source = fields.get(source).and_then(Value::as_object).cloned().unwrap_or_default();
        if source.is_empty() {
            continue;
        }
        let target = object(fields, target);
        for (name, quantity) in source {
            set(target, &name, quantity);
        }
    }
}
