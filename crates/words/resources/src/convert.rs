//! Between the versions of one resource: autoscaling v1 and v2, core events and events.k8s.io.
//!
//! Invariant: there and back gives the same object; what the other version has no field for travels in annotations.

use serde_json::{Map, Value, json};
use trireme_api::path;

use crate::rows::Resource;

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

/// Turns an object of one row into the other's version. `apiVersion` and `kind` follow. Rows of different storages are
/// left alone.
pub fn convert(from: &Resource, to: &Resource, value: &mut Value) {
    if from.is_custom() || from.storage != to.storage || (from.group, from.version) == (to.group, to.version) {
        return;
    }
    match (from.plural, to.group, to.version) {
        ("horizontalpodautoscalers", "autoscaling", "v1") => scaler_to_v1(value),
        ("horizontalpodautoscalers", "autoscaling", "v2") => scaler_to_v2(value),
        ("events", "", _) => rename_event(value, true),
        ("events", _, _) => rename_event(value, false),
        _ => {}
    }
    if let Some(object) = value.as_object_mut()
        && object.contains_key("apiVersion")
    {
        object.insert("apiVersion".to_owned(), Value::String(to.api_version()));
    }
}

/// (core, events.k8s.io)
const EVENT_FIELDS: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("source", "deprecatedSource"),
    ("message", "note"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

fn rename_event(value: &mut Value, to_core: bool) {
    let Some(object) = value.as_object_mut() else { return };
    for (core, events) in EVENT_FIELDS {
        let (from, to) = if to_core { (events, core) } else { (core, events) };
        if let Some(member) = object.remove(*from) {
            object.insert((*to).to_owned(), member);
        }
    }
}

/// Copies members under other names; absent and null ones are left out.
fn moved(from: &Value, names: &[(&str, &str)]) -> Map<String, Value> {
    let mut out = Value::Object(Map::new());
    for (old, new) in names {
        let member = old.split('.').try_fold(from, |at, name| at.get(name));
        if let Some(member) = member.filter(|member| !member.is_null()) {
            let steps: Vec<&str> = new.split('.').collect();
            path::set(&mut out, &steps, member.clone());
        }
    }
    match out {
        Value::Object(out) => out,
        _ => Map::new(),
    }
}

/// Kinds of metrics: (type, member).
const KINDS: &[(&str, &str)] = &[
    ("Object", "object"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
    ("External", "external"),
];

fn member_of(metric: &Value) -> Option<&'static str> {
    let kind = path::str(metric, &["type"]);
    KINDS.iter().find(|(name, _)| *name == kind).map(|(_, member)| *member)
}

/// (v2, v1)
fn spec_names(member: &str) -> &'static [(&'static str, &'static str)] {
    match member {
        "object" => &[
            ("describedObject", "target"),
            ("metric.name", "metricName"),
            ("metric.selector", "selector"),
            ("target.value", "targetValue"),
            ("target.averageValue", "averageValue"),
        ],
        "pods" => &[
            ("metric.name", "metricName"),
            ("metric.selector", "selector"),
            ("target.averageValue", "targetAverageValue"),
        ],
        "external" => &[
            ("metric.name", "metricName"),
            ("metric.selector", "metricSelector"),
            ("target.value", "targetValue"),
            ("target.averageValue", "targetAverageValue"),
        ],
        _ => &[
            ("name", "name"),
            ("container", "container"),
            ("target.averageUtilization", "targetAverageUtilization"),
            ("target.averageValue", "targetAverageValue"),
        ],
    }
}

/// (v2, v1)
fn status_names(member: &str) -> &'static [(&'static str, &'static str)] {
    match member {
        "object" => &[
            ("describedObject", "target"),
            ("metric.name", "metricName"),
            ("metric.selector", "selector"),
            ("current.value", "currentValue"),
            ("current.averageValue", "averageValue"),
        ],
        "pods" => &[
            ("metric.name", "metricName"),
            ("metric.selector", "selector"),
            ("current.averageValue", "currentAverageValue"),
        ],
        "external" => &[
            ("metric.name", "metricName"),
            ("metric.selector", "metricSelector"),
            ("current.value", "currentValue"),
            ("current.averageValue", "currentAverageValue"),
        ],
        _ => &[
            ("name", "name"),
            ("container", "container"),
            ("current.averageUtilization", "currentAverageUtilization"),
            ("current.averageValue", "currentAverageValue"),
        ],
    }
}

type Names = fn(&str) -> &'static [(&'static str, &'static str)];

fn metric_to_v1(metric: &Value, names: Names, zeros: &[(&str, &str)]) -> Value {
    let mut out = json!({"type": metric.get("type")});
    if let Some(member) = member_of(metric) {
        let mut inner = moved(&metric[member], names(member));
        for (of, name) in zeros {
            if *of == member {
                inner.entry(*name).or_insert_with(|| Value::from("0"));
            }
        }
        out[member] = Value::Object(inner);
    }
    out
}

fn metric_to_v2(metric: &Value, names: Names, is_spec: bool) -> Value {
    let mut out = json!({"type": metric.get("type")});
    if let Some(member) = member_of(metric) {
        let back: Vec<(&str, &str)> = names(member).iter().map(|(v2, v1)| (*v1, *v2)).collect();
        let mut inner = Value::Object(moved(&metric[member], &back));
        if is_spec {
            let has = |name| path::get(&inner, &["target", name]).is_some();
            let kind = match member {
                "resource" | "containerResource" if has("averageUtilization") => "Utilization",
                "object" if !has("averageValue") => "Value",
                "external" if has("value") => "Value",
                _ => "AverageValue",
            };
            if member == "object" && has("averageValue") && path::str(&inner, &["target", "value"]) == "0" {
                drop(path::remove(&mut inner, &["target", "value"]));
            }
            path::set(&mut inner, &["target", "type"], kind);
        }
        out[member] = inner;
    }
    out
}

fn is_cpu_utilization(metric: &Value) -> bool {
    path::str(metric, &["type"]) == "Resource"
        && path::str(metric, &["resource", "name"]) == "cpu"
        && path::i64(metric, &["resource", "target", "averageUtilization"]).is_some()
}

fn annotate(value: &mut Value, name: &str, content: &Value) {
    let mut text = String::new();
    write_in_order(&mut text, content, true);
    path::set(value, &["metadata", "annotations", name], text);
}

/// The members of metrics, conditions and behaviour in the order of upstream's structs, all in one: no two disagree.
const ORDER: &[&str] = &[
    "type",
    "status",
    "lastTransitionTime",
    "reason",
    "message",
    "object",
    "pods",
    "resource",
    "containerResource",
    "external",
    "target",
    "kind",
    "name",
    "apiVersion",
    "metricName",
    "metricSelector",
    "currentAverageUtilization",
    "targetAverageUtilization",
    "currentValue",
    "targetValue",
    "currentAverageValue",
    "targetAverageValue",
    "container",
    "selector",
    "averageValue",
    "matchLabels",
    "matchExpressions",
    "key",
    "operator",
    "values",
    "ScaleUp",
    "ScaleDown",
    "StabilizationWindowSeconds",
    "SelectPolicy",
    "Policies",
    "Type",
    "Value",
    "PeriodSeconds",
    "Tolerance",
];

/// Writes JSON with the members of structs in [`ORDER`]; those of maps stay in the order of their names.
fn write_in_order(out: &mut String, value: &Value, is_struct: bool) {
    match value {
        Value::Object(object) => {
            let mut members: Vec<(&String, &Value)> = object.iter().collect();
            if is_struct {
                members.sort_by_key(|(name, _)| ORDER.iter().position(|known| known == name).unwrap_or(ORDER.len()));
            }
            out.push('{');
            for (number, (name, value)) in members.into_iter().enumerate() {
                if number > 0 {
                    out.push(',');
                }
                out.push_str(&Value::from(name.as_str()).to_string());
                out.push(':');
                write_in_order(out, value, name != "matchLabels");
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (number, item) in items.iter().enumerate() {
                if number > 0 {
                    out.push(',');
                }
                write_in_order(out, item, is_struct);
            }
            out.push(']');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}

fn drop_annotations(value: &mut Value) {
    let Some(Value::Object(annotations)) = path::get_mut(value, &["metadata", "annotations"]) else {
        return;
    };
    for name in [METRICS, CURRENT_METRICS, CONDITIONS, BEHAVIOR] {
        annotations.remove(name);
    }
    if annotations.is_empty() {
        drop(path::remove(value, &["metadata", "annotations"]));
    }
}

fn scaler_to_v1(value: &mut Value) {
    drop_annotations(value);
    let metrics = path::remove(value, &["spec", "metrics"]).unwrap_or_default();
    let metrics = metrics.as_array().map(Vec::as_slice).unwrap_or_default();
    if let Some(cpu) = metrics.iter().find(|metric| is_cpu_utilization(metric)) {
        let utilization = cpu["resource"]["target"]["averageUtilization"].clone();
        path::set(value, &["spec", "targetCPUUtilizationPercentage"], utilization);
    }
    let zeros = [("object", "targetValue"), ("pods", "targetAverageValue")];
    let rest = metrics.iter().filter(|metric| !is_cpu_utilization(metric));
    let rest: Vec<Value> = rest.map(|metric| metric_to_v1(metric, spec_names, &zeros)).collect();
    if !rest.is_empty() {
        annotate(value, METRICS, &Value::Array(rest));
    }
    if let Some(current) = path::remove(value, &["status", "currentMetrics"]) {
        let current = current.as_array().map(Vec::as_slice).unwrap_or_default();
        let zeros = [
            ("object", "currentValue"),
            ("pods", "currentAverageValue"),
            ("resource", "currentAverageValue"),
            ("containerResource", "currentAverageValue"),
            ("external", "currentValue"),
        ];
        let cpu = current
            .iter()
            .find(|metric| path::str(metric, &["type"]) == "Resource" && path::str(metric, &["resource", "name"]) == "cpu");
        if let Some(utilization) = cpu.and_then(|cpu| path::i64(cpu, &["resource", "current", "averageUtilization"])) {
            path::set(value, &["status", "currentCPUUtilizationPercentage"], utilization);
        }
        if !current.is_empty() {
            let current: Vec<Value> = current
                .iter()
                .map(|metric| metric_to_v1(metric, status_names, &zeros))
                .collect();
            annotate(value, CURRENT_METRICS, &Value::Array(current));
        }
    }
    if let Some(behavior) = path::remove(value, &["spec", "behavior"]) {
        annotate(value, BEHAVIOR, &recased(&behavior, true));
    }
    if let Some(conditions) = path::remove(value, &["status", "conditions"])
        && conditions.as_array().is_some_and(|conditions| !conditions.is_empty())
    {
        annotate(value, CONDITIONS, &conditions);
    }
    if path::get(value, &["status"]).is_some() {
        for name in ["currentReplicas", "desiredReplicas"] {
            if path::get(value, &["status", name]).is_none() {
                path::set(value, &["status", name], 0);
            }
        }
    }
}

/// The behaviour annotation is written with the names of upstream's inner type, which begin with a capital.
fn recased(value: &Value, capital: bool) -> Value {
    match value {
        Value::Object(object) => {
            let members = object.iter().map(|(name, value)| {
                let mut letters = name.chars();
                let first = letters.next().map(|first| {
                    if capital {
                        first.to_ascii_uppercase()
                    } else {
                        first.to_ascii_lowercase()
                    }
                });
                (first.into_iter().chain(letters).collect::<String>(), recased(value, capital))
            });
            Value::Object(members.filter(|(_, value)| capital || !value.is_null()).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(|item| recased(item, capital)).collect()),
        scalar => scalar.clone(),
    }
}

fn scaler_to_v2(value: &mut Value) {
    let read = |value: &Value, name: &str| -> Option<Value> {
        serde_json::from_str(path::str(value, &["metadata", "annotations", name])).ok()
    };
    let list = |found: Option<Value>| found.and_then(|found| found.as_array().cloned());
    let mut metrics: Vec<Value> = list(read(value, METRICS)).unwrap_or_default();
    metrics = metrics.iter().map(|metric| metric_to_v2(metric, spec_names, true)).collect();
    if path::get(value, &["spec"]).is_some() {
        let utilization = path::remove(value, &["spec", "targetCPUUtilizationPercentage"]).filter(|found| !found.is_null());
        if utilization.is_some() || metrics.is_empty() {
            let target = json!({"type": "Utilization", "averageUtilization": utilization.unwrap_or_else(|| Value::from(80))});
            metrics.push(json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}));
        }
        path::set(value, &["spec", "metrics"], metrics);
    }
    if let Some(behavior) = read(value, BEHAVIOR).filter(|found| found.as_object().is_some_and(|found| !found.is_empty())) {
        path::set(value, &["spec", "behavior"], recased(&behavior, false));
    }
    let utilization = path::remove(value, &["status", "currentCPUUtilizationPercentage"]).filter(|found| !found.is_null());
    if let Some(utilization) = utilization {
        let current = json!({"averageUtilization": utilization});
        let current = json!([{"type": "Resource", "resource": {"name": "cpu", "current": current}}]);
        path::set(value, &["status", "currentMetrics"], current);
    }
    if let Some(current) = list(read(value, CURRENT_METRICS)) {
        let current: Vec<Value> = current
            .iter()
            .map(|metric| metric_to_v2(metric, status_names, false))
            .collect();
        path::set(value, &["status", "currentMetrics"], current);
    }
    if let Some(conditions) = list(read(value, CONDITIONS)) {
        path::set(value, &["status", "conditions"], conditions);
    }
    drop_annotations(value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::find;

    fn both_ways(from: (&str, &str), to: (&str, &str), plural: &str, value: Value) -> Value {
        let (from, to) = (find(from.0, from.1, plural).unwrap(), find(to.0, to.1, plural).unwrap());
        let mut there = value.clone();
        convert(from, to, &mut there);
        let mut back = there.clone();
        convert(to, from, &mut back);
        assert_eq!(back, value);
        there
    }

    #[test]
    fn a_cpu_target_is_a_metric_in_v2() {
        let v1 = json!({"apiVersion": "autoscaling/v1", "metadata": {"name": "a"}, "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 50}});
        let v2 = both_ways(("autoscaling", "v1"), ("autoscaling", "v2"), "horizontalpodautoscalers", v1);
        assert_eq!(v2["apiVersion"], "autoscaling/v2");
        assert_eq!(
            v2["spec"]["metrics"],
            json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}])
        );
    }

    #[test]
    fn what_v1_lacks_travels_in_annotations() {
        let v2 = json!({"apiVersion": "autoscaling/v2", "metadata": {"name": "a"}, "spec": {
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 9}},
            "metrics": [{"type": "Pods", "pods": {"metric": {"name": "m"}, "target": {"type": "AverageValue", "averageValue": "5"}}}]}});
        let v1 = both_ways(("autoscaling", "v2"), ("autoscaling", "v1"), "horizontalpodautoscalers", v2);
        assert_eq!(
            v1["metadata"]["annotations"][METRICS],
            r#"[{"type":"Pods","pods":{"metricName":"m","targetAverageValue":"5"}}]"#
        );
    }

    #[test]
    fn events_have_two_names_for_their_fields() {
        let event = json!({"apiVersion": "v1", "involvedObject": {"name": "p"}, "message": "m", "count": 2, "reason": "r", "reportingComponent": "c"});
        let other = both_ways(("", "v1"), ("events.k8s.io", "v1"), "events", event);
        assert_eq!(
            other,
            json!({"apiVersion": "events.k8s.io/v1", "regarding": {"name": "p"}, "note": "m", "deprecatedCount": 2, "reason": "r", "reportingController": "c"})
        );
    }
}
