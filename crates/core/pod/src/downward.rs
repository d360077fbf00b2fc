//! The downward API: fields of a pod and resources of its containers as text (pkg/fieldpath, pkg/api/v1/resource).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};

use crate::quantity::{milli_value, value};
use crate::spec;

/// What the node knows and the pod does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// The pod's addresses, primary first.
    pub pod_ips: Vec<String>,
    /// The node's addresses, primary first.
    pub host_ips: Vec<String>,
    /// Allocatable CPU in thousandths of a core: the limit of who has none.
    pub allocatable_milli_cpu: i64,
    /// Allocatable memory in bytes.
    pub allocatable_memory: i64,
    /// Allocatable ephemeral storage in bytes.
    pub allocatable_storage: i64,
}

/// A reference that cannot be resolved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// Not a field of the downward API.
    #[error("unsupported fieldPath: {0}")]
    Path(String),
    /// Not a resource of the downward API.
    #[error("unsupported container resource : {0}")]
    Resource(String),
    /// No such container.
    #[error("container {0} not found")]
    Container(String),
}

/// Value of a `fieldRef`.
///
/// # Errors
/// For a path that is not served.
pub fn field(pod: &Pod, path: &str, node: &NodeFacts) -> Result<String, FieldError> {
    let metadata = &pod.metadata;
    let pod_spec = spec::of(pod);
    let first = |ips: &[String]| ips.first().cloned().unwrap_or_default();
    if let Some((map, key)) = path.strip_suffix("']").and_then(|path| path.split_once("['")) {
        let map = match map {
            "metadata.labels" => &metadata.labels,
            "metadata.annotations" => &metadata.annotations,
            _ => return Err(FieldError::Path(path.into())),
        };
        return Ok(map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => spec::name(pod).to_owned(),
        "metadata.namespace" => spec::namespace(pod).to_owned(),
        "metadata.uid" => spec::uid(pod).to_owned(),
        "metadata.labels" => format_map(metadata.labels.as_ref()),
        "metadata.annotations" => format_map(metadata.annotations.as_ref()),
        "spec.nodeName" => pod_spec.node_name.clone().unwrap_or_default(),
        "spec.serviceAccountName" => pod_spec.service_account_name.clone().unwrap_or_default(),
        "status.hostIP" => first(&node.host_ips),
        "status.hostIPs" => node.host_ips.join(","),
        "status.podIP" => first(&node.pod_ips),
        "status.podIPs" => node.pod_ips.join(","),
        _ => return Err(FieldError::Path(path.into())),
    })
}

/// A map as lines `key="escaped value"` in order of keys.
#[must_use]
pub fn format_map(map: Option<&BTreeMap<String, String>>) -> String {
    let mut text = String::new();
    for (key, value) in map.into_iter().flatten() {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(key);
        text.push('=');
        text.push_str(&quote(value));
    }
    text
}

/// Go's `strconv.Quote` for what labels and annotations hold.
fn quote(value: &str) -> String {
    let mut text = String::from("\"");
    for c in value.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            c if c.is_control() => text.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => text.push(c),
        }
    }
    text.push('"');
    text
}

/// Value of a `resourceFieldRef`; `own` is the container that asks, where the reference names none.
///
/// # Errors
/// For an unknown resource or container.
pub fn resource(
    pod: &Pod,
    own: Option<&Container>,
    reference: &ResourceFieldSelector,
    node: &NodeFacts,
) -> Result<String, FieldError> {
    let named = reference.container_name.as_deref().filter(|name| !name.is_empty());
    let found = named
        .map(|name| spec::container(pod, name).ok_or_else(|| FieldError::Container(name.into())))
        .transpose()?;
    let container = found.as_ref().or(own).ok_or_else(|| FieldError::Container(String::new()))?;
    let resources = container.resources.as_ref();
    let (kind, name) = reference
        .resource
        .split_once('.')
        .ok_or_else(|| FieldError::Resource(reference.resource.clone()))?;
    let list = match kind {
        "limits" => resources.and_then(|resources| resources.limits.as_ref()),
        "requests" => resources.and_then(|resources| resources.requests.as_ref()),
        _ => return Err(FieldError::Resource(reference.resource.clone())),
    };
    let text = list.and_then(|list| list.get(name)).map(|quantity| quantity.0.as_str());
    let divisor = reference
        .divisor
        .as_ref()
        .map(|quantity| quantity.0.as_str())
        .filter(|text| milli_value(text) != 0)
        .unwrap_or("1");
    let limited = kind == "limits";
    let result = match name {
        "cpu" => {
            let milli =
                text.map(milli_value)
                    .filter(|value| *value != 0)
                    .unwrap_or(if limited { node.allocatable_milli_cpu } else { 0 });
            ceil(milli, milli_value(divisor))
        }
        "memory" | "ephemeral-storage" => {
            let fallback = if name == "memory" {
                node.allocatable_memory
            } else {
                node.allocatable_storage
            };
            let bytes = text
                .map(value)
                .filter(|value| *value != 0)
                .unwrap_or(if limited { fallback } else { 0 });
            ceil(bytes, value(divisor))
        }
        name if name.starts_with("hugepages-") => ceil(text.map_or(0, value), value(divisor)),
        _ => return Err(FieldError::Resource(reference.resource.clone())),
    };
    Ok(result.to_string())
}

fn ceil(amount: i64, divisor: i64) -> i64 {
    let divisor = divisor.max(1);
    amount / divisor + i64::from(amount % divisor != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_and_resources() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "labels": {"b": "2", "a": "say \"x\"\n"}, "annotations": {"k": "v"}},
            "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "1250m"}, "requests": {"memory": "32Mi"}}}]}
        }))
        .unwrap();
        let node = NodeFacts {
            pod_ips: vec!["10.42.0.2".into()],
            allocatable_memory: 1 << 30,
            ..NodeFacts::default()
        };
        assert_eq!(
            field(&pod, "metadata.labels", &node).unwrap(),
            "a=\"say \\\"x\\\"\\n\"\nb=\"2\""
        );
        assert_eq!(field(&pod, "metadata.annotations['k']", &node).unwrap(), "v");
        assert_eq!(field(&pod, "status.podIP", &node).unwrap(), "10.42.0.2");
        assert!(field(&pod, "spec.nope", &node).is_err());
        let container = &spec::of(&pod).containers[0];
        for (name, divisor, expected) in [
            ("limits.cpu", "1", "2"),
            ("limits.cpu", "1m", "1250"),
            ("limits.cpu", "0", "2"),
            ("requests.cpu", "1", "0"),
            ("requests.memory", "1Mi", "32"),
            ("limits.memory", "1Gi", "1"),
        ] {
            let reference: ResourceFieldSelector = serde_json::from_value(json!({"resource": name, "divisor": divisor})).unwrap();
            assert_eq!(
                resource(&pod, Some(container), &reference, &node).unwrap(),
                expected,
                "{name} {divisor}"
            );
        }
    }
}
