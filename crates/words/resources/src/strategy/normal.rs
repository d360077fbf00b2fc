//! What upstream's conversion to its inner form and back does to an object: deprecated twins of fields, write-only fields.
//!
//! Invariant: doing it twice is the same as once. It runs after decoding and after every patch.

use serde_json::{Map, Value};
use trireme_api::path;

use crate::rows::Resource;

/// Annotation that counts the templates of a daemon set.
pub(super) const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

/// Brings twin fields into step and write-only fields to where they belong.
pub fn normalize(row: &Resource, value: &mut Value) {
    match (row.group, row.plural) {
        ("", "secrets") => string_data(value),
        ("", "pods") => {
            pod_spec(value.get_mut("spec"));
            let grace = ["spec", "terminationGracePeriodSeconds"];
            if path::i64(value, &grace).is_some_and(|seconds| seconds < 0) {
                path::set(value, &grace, 1);
            }
            twins(value, "status", "podIP", "podIPs", Some("ip"));
        }
        ("", "nodes") => twins(value, "spec", "podCIDR", "podCIDRs", None),
        ("", "podtemplates") => pod_spec(path::get_mut(value, &["template", "spec"])),
        ("", "replicationcontrollers") | ("apps", "deployments" | "replicasets") | ("batch", "jobs") => {
            pod_spec(path::get_mut(value, &["spec", "template", "spec"]));
        }
        ("apps", "daemonsets") => {
            pod_spec(path::get_mut(value, &["spec", "template", "spec"]));
            let annotations = path::object_mut(value, &["metadata", "annotations"]);
            annotations.entry(TEMPLATE_GENERATION).or_insert_with(|| Value::from("0"));
            // Inside upstream's server neither is a pointer.
            if let Some(Value::Object(rolling)) = path::get_mut(value, &["spec", "updateStrategy", "rollingUpdate"]) {
                for name in ["maxUnavailable", "maxSurge"] {
                    rolling.entry(name).or_insert_with(|| Value::from(0));
                }
            }
        }
        ("apps", "statefulsets") => {
            pod_spec(path::get_mut(value, &["spec", "template", "spec"]));
            if let Some(Value::Array(claims)) = path::get_mut(value, &["spec", "volumeClaimTemplates"]) {
                for claim in claims {
                    for (name, want) in [("apiVersion", "v1"), ("kind", "PersistentVolumeClaim")] {
                        if path::str(claim, &[name]).is_empty() {
                            path::set(claim, &[name], want);
                        }
                    }
                }
            }
        }
        ("batch", "cronjobs") => {
            pod_spec(path::get_mut(value, &["spec", "jobTemplate", "spec", "template", "spec"]));
        }
        _ => {}
    }
}

/// Takes out of metadata shown by itself what is the twin of a field: upstream's inner form has only the field.
pub fn hide_twins(kind: &Value, metadata: &mut Value) {
    if kind != "DaemonSet" {
        return;
    }
    let annotations = metadata.get_mut("annotations").and_then(Value::as_object_mut);
    let empty = annotations.is_some_and(|annotations| {
        annotations.remove(TEMPLATE_GENERATION);
        annotations.is_empty()
    });
    if empty && let Some(metadata) = metadata.as_object_mut() {
        metadata.remove("annotations");
    }
}

/// `stringData` is text that goes into `data`.
fn string_data(value: &mut Value) {
    use base64::Engine as _;
    let Some(Value::Object(texts)) = path::remove(value, &["stringData"]) else {
        return;
    };
    if texts.is_empty() {
        return;
    }
    let data = path::object_mut(value, &["data"]);
    for (name, text) in texts {
        let text = text.as_str().unwrap_or_default();
        data.insert(name, Value::String(base64::engine::general_purpose::STANDARD.encode(text)));
    }
}

/// `serviceAccount` is the old name of `serviceAccountName`.
fn pod_spec(spec: Option<&mut Value>) {
    let Some(Value::Object(spec)) = spec else { return };
    let text = |spec: &Map<String, Value>, name: &str| {
        spec.get(name)
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
            .map(str::to_owned)
    };
    match text(spec, "serviceAccountName").or_else(|| text(spec, "serviceAccount")) {
        Some(name) => {
            spec.insert("serviceAccountName".to_owned(), Value::String(name.clone()));
            spec.insert("serviceAccount".to_owned(), Value::String(name));
        }
        None => {
            spec.remove("serviceAccount");
        }
    }
}

/// A single field and its list: where both are there and differ, the single one is right.
fn twins(value: &mut Value, part: &str, single: &str, list: &str, member: Option<&str>) {
    let Some(part) = value.get_mut(part) else { return };
    let items = part.get(list).and_then(Value::as_array);
    let first = items.and_then(|items| items.first()).map(|first| {
        let text = member.map_or(Some(first), |member| first.get(member));
        text.and_then(Value::as_str).unwrap_or_default().to_owned()
    });
    let one = path::str(part, &[single]).to_owned();
    match first {
        Some(first) if one.is_empty() => {
            if !first.is_empty() {
                path::set(part, &[single], first);
            }
        }
        Some(first) if first == one => {}
        _ if one.is_empty() => {}
        _ => {
            let item = match member {
                Some(member) => Value::Object(Map::from_iter([(member.to_owned(), Value::String(one))])),
                None => Value::String(one),
            };
            path::set(part, &[list], Value::Array(vec![item]));
        }
    }
}
