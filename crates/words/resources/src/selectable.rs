//! The values that field selectors compare.
//!
//! Invariant: every path of a row's `selectable` has a value for every object: what is absent is the zero value's text.

use std::borrow::Cow;

use serde_json::Value;
use trireme_api::{Object, path};

use crate::rows::Resource;

/// The text of a selectable field of an object in its row's version; none for a path that cannot be selected.
#[must_use]
pub fn lookup<'a>(row: &Resource, value: &'a Value, at: &str) -> Option<Cow<'a, str>> {
    match at {
        "metadata.name" => return Some(path::str(value, &["metadata", "name"]).into()),
        "metadata.namespace" if row.namespaced => return Some(path::str(value, &["metadata", "namespace"]).into()),
        _ if !row.selectable.contains(&at) => return None,
        _ if row.is_custom() => return Some(text_of(path::get(value, &at.split('.').collect::<Vec<_>>()))),
        _ => {}
    }
    Some(match (row.kind, at) {
        ("Pod", "status.podIPs") => {
            let ips: Vec<&str> = path::list(value, &["status", "podIPs"])
                .iter()
                .map(|ip| path::str(ip, &["ip"]))
                .collect();
            ips.join(",").into()
        }
        ("Event", "source") => {
            let source = path::str(value, &["source", "component"]);
            if source.is_empty() {
                path::str(value, &["reportingComponent"]).into()
            } else {
                source.into()
            }
        }
        (_, "spec.hostNetwork" | "spec.unschedulable") => {
            let steps: Vec<&str> = at.split('.').collect();
            path::bool(value, &steps).to_string().into()
        }
        (_, "status.replicas" | "status.successful") => {
            let name = if at == "status.successful" { "succeeded" } else { "replicas" };
            path::i64(value, &["status", name]).unwrap_or(0).to_string().into()
        }
        _ => {
            let steps: Vec<&str> = at.split('.').collect();
            path::str(value, &steps).into()
        }
    })
}

/// The text of a field of a custom resource: of a string, a number or a truth; nothing else is compared.
fn text_of(value: Option<&Value>) -> Cow<'_, str> {
    match value {
        Some(Value::String(text)) => text.as_str().into(),
        Some(value @ (Value::Bool(_) | Value::Number(_))) => value.to_string().into(),
        _ => "".into(),
    }
}

/// As [`lookup`], of an object that is stored in its row's version: read from its bytes, which are not parsed for it.
#[must_use]
pub fn lookup_stored<'a>(row: &Resource, object: &'a Object, at: &str) -> Option<Cow<'a, str>> {
    match at {
        "metadata.name" => return Some(object.header().name.as_str().into()),
        "metadata.namespace" if row.namespaced => return Some(object.header().namespace.as_str().into()),
        _ if !row.selectable.contains(&at) => return None,
        _ if row.is_custom() => {
            let raw = object.raw_at(&at.split('.').collect::<Vec<_>>());
            let value = raw.and_then(|raw| serde_json::from_slice::<Value>(raw).ok());
            return Some(text_of(value.as_ref()).into_owned().into());
        }
        _ => {}
    }
    let is_text = is_text(row, at) || (row.kind, at) == ("Event", "source");
    if !is_text {
        // A number, a truth or a list: what stands there is put where `lookup` finds it.
        let raw = |path: &[&str]| {
            let raw = object.raw_at(path)?;
            serde_json::from_slice::<Value>(raw).ok()
        };
        let mut value = Value::Null;
        for member in ["spec", "status"] {
            for name in ["hostNetwork", "unschedulable", "replicas", "succeeded", "podIPs"] {
                if let Some(found) = raw(&[member, name]) {
                    value[member][name] = found;
                }
            }
        }
        return lookup(row, &value, at).map(|text| text.into_owned().into());
    }
    let text = |steps: &[&str]| object.text_at(steps).unwrap_or_default();
    Some(match (row.kind, at) {
        ("Event", "source") => {
            let source = text(&["source", "component"]);
            if source.is_empty() {
                text(&["reportingComponent"])
            } else {
                source
            }
        }
        _ => text(&at.split('.').collect::<Vec<_>>()),
    })
}

/// Whether a path is that of a text, which is compared as it stands.
#[must_use]
pub fn is_text(row: &Resource, at: &str) -> bool {
    let is_other = matches!(
        (row.kind, at),
        ("Pod", "status.podIPs")
            | ("Event", "source")
            | (
                _,
                "spec.hostNetwork" | "spec.unschedulable" | "status.replicas" | "status.successful"
            )
    );
    !is_other && !row.is_custom() && row.selectable.contains(&at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows;
    use serde_json::json;

    #[test]
    fn stored_objects_are_read_as_parsed_ones_are() {
        let object = json!({
            "apiVersion": "v1", "kind": "x",
            "metadata": {"name": "a\"b", "namespace": "d", "resourceVersion": "7"},
            "involvedObject": {"kind": "Pod", "namespace": "d", "name": "p", "uid": "u", "apiVersion": "v1", "fieldPath": "f"},
            "reason": "r", "type": "Normal", "reportingComponent": "kubelet", "source": {"component": ""},
            "spec": {"nodeName": "n\u{e9}\"", "hostNetwork": true, "unschedulable": true, "restartPolicy": "Always",
                "schedulerName": "s", "serviceAccountName": "a", "signerName": "y", "clusterIP": "10.0.0.1", "type": "ClusterIP"},
            "status": {"phase": "Running", "podIP": "10.1.1.1", "podIPs": [{"ip": "10.1.1.1"}, {"ip": "fd00::1"}],
                "nominatedNodeName": "m", "replicas": 3, "succeeded": 2},
        });
        let bare = json!({"apiVersion": "v1", "kind": "x", "metadata": {"name": "a"}, "spec": {}, "status": {"podIPs": null}});
        for value in [object, bare] {
            let stored = Object::from_value(&value).unwrap();
            for row in rows::rows() {
                for at in row
                    .selectable
                    .iter()
                    .chain(&["metadata.name", "metadata.namespace", "spec.none"])
                {
                    assert_eq!(
                        lookup_stored(row, &stored, at),
                        lookup(row, &value, at),
                        "{} {at}",
                        row.plural
                    );
                }
            }
        }
    }

    #[test]
    fn every_selectable_path_has_a_text() {
        for row in rows::rows() {
            for at in row.selectable {
                assert!(lookup(row, &json!({}), at).is_some(), "{} {at}", row.plural);
            }
        }
        let pods = rows::find("", "v1", "pods").unwrap();
        let pod = json!({"spec": {"nodeName": "n", "hostNetwork": true}, "status": {"podIPs": [{"ip": "a"}, {"ip": "b"}]}});
        let look = |at| lookup(pods, &pod, at).unwrap_or_default();
        assert_eq!(
            (look("spec.nodeName"), look("spec.hostNetwork"), look("status.podIPs")),
            ("n".into(), "true".into(), "a,b".into())
        );
        assert!(lookup(pods, &pod, "spec.dnsPolicy").is_none());
    }
}
