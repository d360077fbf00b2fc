//! The values that field selectors compare.
//!
//! Invariant: every path of a row's `selectable` has a value for every object: what is absent is the zero value's text.

use std::borrow::Cow;

use serde_json::Value;
use trireme_api::path;

use crate::rows::Resource;

/// The text of a selectable field of an object in its row's version; none for a path that cannot be selected.
#[must_use]
pub fn lookup<'a>(row: &Resource, value: &'a Value, at: &str) -> Option<Cow<'a, str>> {
    match at {
        "metadata.name" => return Some(path::str(value, &["metadata", "name"]).into()),
        "metadata.namespace" if row.namespaced => return Some(path::str(value, &["metadata", "namespace"]).into()),
        _ if !row.selectable.contains(&at) => return None,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows;
    use serde_json::json;

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
