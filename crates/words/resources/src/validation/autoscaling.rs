//! Horizontal pod autoscalers in the form of `autoscaling/v2` (pkg/apis/autoscaling/validation).
//!
//! Invariant: scaling to zero replicas is not allowed, as it is not in a stock server.

use super::errors::Errors;
use super::names;
use super::node::{NEGATIVE, Node};
use super::resources;

/// A scale.
pub(super) fn scale(errors: &mut Errors, root: &Node<'_>) {
    root.get("spec.replicas").non_negative(errors);
}

/// An autoscaler.
pub(super) fn autoscaler(errors: &mut Errors, root: &Node<'_>, old: Option<&Node<'_>>) {
    let spec = root.at("spec");
    let (least, most) = (spec.at("minReplicas"), spec.at("maxReplicas"));
    let bound = if old.is_some_and(|old| old.get("spec.minReplicas").value.as_i64() == Some(0)) {
        0
    } else {
        1
    };
    if least.set() && least.int() < bound {
        errors.push(least.bad_int(format!("must be greater than or equal to {bound}")));
    }
    if most.int() == 0 {
        errors.push(most.required("must be set and greater than 0"));
    } else if most.int() < 0 {
        errors.push(most.bad_int("must be greater than or equal to 1"));
    }
    if least.set() && most.int() < least.int() {
        errors.push(most.bad_int("must be greater than or equal to `minReplicas`"));
    }
    let target = spec.at("scaleTargetRef");
    let before = old.map(|old| old.get("spec.scaleTargetRef"));
    let kept = before.is_some_and(|before| {
        ["apiVersion", "kind"]
            .iter()
            .all(|name| before.text(name) == target.text(name))
    });
    let version = match target.text("kind") {
        _ if kept => Version::Any,
        // The one kind that scales and has no group.
        "ReplicationController" => Version::Whole,
        _ => Version::Grouped,
    };
    target_ref(errors, &target, version);
    let metrics = spec.at("metrics");
    for metric in metrics.items() {
        self::metric(errors, &metric);
    }
    let outside = metrics
        .items()
        .iter()
        .any(|metric| matches!(metric.text("type"), "Object" | "External"));
    if least.set() && least.int() == 0 && !outside {
        errors.push(metrics.forbidden("must specify at least one Object or External metric to support scaling to zero replicas"));
    }
    for name in ["scaleUp", "scaleDown"] {
        rules(errors, &spec.at("behavior").at(name));
    }
}

/// What a reference's `apiVersion` has to be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    /// Anything: it was there before.
    Any,
    /// One that can be read.
    Whole,
    /// One with a group.
    Grouped,
}

fn target_ref(errors: &mut Errors, node: &Node<'_>, wanted: Version) {
    for name in ["kind", "name"] {
        let text = node.at(name);
        if text.is_empty() {
            errors.push(text.required(""));
        } else {
            text.each(errors, names::path_segment(text.str()));
        }
    }
    let version = node.at("apiVersion");
    if wanted == Version::Any {
        return;
    }
    let group = version.str().split_once('/').map_or("", |(group, _)| group);
    if version.str().matches('/').count() > 1 {
        errors.push(version.bad(format!("unexpected GroupVersion string: {}", version.str())));
    } else if wanted == Version::Grouped && group.is_empty() {
        errors.push(version.bad("apiVersion must specify API group"));
    }
}

fn rules(errors: &mut Errors, node: &Node<'_>) {
    if !node.set() {
        return;
    }
    let window = node.at("stabilizationWindowSeconds");
    if window.int() < 0 {
        errors.push(window.bad_int("must be greater than or equal to zero"));
    }
    if window.int() > 3600 {
        errors.push(window.bad_int("must be less than or equal to 3600"));
    }
    let select = node.at("selectPolicy");
    if select.set() {
        select.one_of(errors, &["Disabled", "Max", "Min"]);
    }
    let policies = node.at("policies");
    if policies.is_empty() {
        errors.push(policies.required("must specify at least one Policy"));
    }
    for policy in policies.items() {
        policy.at("type").one_of(errors, &["Percent", "Pods"]);
        let (value, period) = (policy.at("value"), policy.at("periodSeconds"));
        for number in [&value, &period] {
            if number.int() <= 0 {
                errors.push(number.bad_int("must be greater than zero"));
            }
        }
        if period.int() > 1800 {
            errors.push(period.bad_int("must be less than or equal to 1800"));
        }
    }
    let tolerance = node.at("tolerance");
    if tolerance.set() && tolerance.quantity().sign() < 0 {
        errors.push(tolerance.bad_quantity(NEGATIVE));
    }
}

const KINDS: &[(&str, &str)] = &[
    ("Object", "object"),
    ("External", "external"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
];

fn metric(errors: &mut Errors, node: &Node<'_>) {
    const KNOWN: &[&str] = &["ContainerResource", "External", "Object", "Pods", "Resource"];
    let kind = node.at("type");
    if kind.is_empty() {
        errors.push(kind.required("must specify a metric source type"));
    }
    kind.one_of(errors, KNOWN);
    let mut present: Vec<&str> = KINDS.iter().map(|(_, name)| *name).filter(|name| node.has(name)).collect();
    if let Some(first) = present.first() {
        source(errors, &node.at(first), first);
    }
    let expected = KINDS.iter().find(|(known, _)| *known == kind.str()).map(|(_, name)| *name);
    match expected {
        Some(name) if !node.has(name) => {
            errors.push(
                node.at(name)
                    .required("must populate information for the given metric source"),
            );
        }
        Some(_) => {}
        None => errors.push(kind.unsupported(KNOWN)),
    }
    if present.len() != 1 {
        present.retain(|name| Some(*name) != expected);
        for name in present {
            errors.push(node.at(name).forbidden("must populate the given metric source only"));
        }
    }
}

fn source(errors: &mut Errors, node: &Node<'_>, kind: &str) {
    let target = node.at("target");
    let (value, average, utilization) = (target.at("value"), target.at("averageValue"), target.at("averageUtilization"));
    match kind {
        "object" => target_ref(errors, &node.at("describedObject"), Version::Whole),
        "resource" | "containerResource" => {
            let name = node.at("name");
            if name.is_empty() {
                errors.push(name.required("must specify a resource name"));
            } else if kind == "containerResource" {
                resources::container_name(errors, &name, name.str());
            }
        }
        _ => {}
    }
    if kind == "containerResource" {
        let container = node.at("container");
        if container.is_empty() {
            errors.push(container.required("must specify a container"));
        } else {
            container.each(errors, names::label(container.str()));
        }
    }
    if matches!(kind, "object" | "external" | "pods") {
        identifier(errors, &node.at("metric").at("name"));
    }
    self::target(errors, &target);
    match kind {
        "object" if !value.set() && !average.set() => {
            errors.push(average.required("must set either a target value or averageValue"));
        }
        "external" => {
            if !value.set() && !average.set() {
                errors.push(average.required("must set either a target value for metric or a per-pod target"));
            }
            if value.set() && average.set() {
                errors.push(value.forbidden("may not set both a target value for metric and a per-pod target"));
            }
        }
        "pods" if !average.set() => errors.push(average.required("must specify a positive target averageValue")),
        "resource" | "containerResource" => {
            if !utilization.set() && !average.set() {
                errors.push(utilization.required("must set either a target raw value or a target utilization"));
            }
            if utilization.set() && average.set() {
                errors.push(average.forbidden("may not set both a target raw value and a target utilization"));
            }
        }
        _ => {}
    }
}

fn identifier(errors: &mut Errors, name: &Node<'_>) {
    if name.is_empty() {
        errors.push(name.required("must specify a metric name"));
    } else {
        name.each(errors, names::path_segment(name.str()));
    }
}

fn target(errors: &mut Errors, node: &Node<'_>) {
    let kind = node.at("type");
    if kind.is_empty() {
        errors.push(kind.required("must specify a metric target type"));
    }
    if !matches!(kind.str(), "Utilization" | "Value" | "AverageValue") {
        errors.push(kind.bad("must be either Utilization, Value, or AverageValue"));
    }
    for name in ["value", "averageValue"] {
        let amount = node.at(name);
        if amount.set() && amount.quantity().sign() != 1 {
            errors.push(amount.bad_quantity("must be positive"));
        }
    }
    let utilization = node.at("averageUtilization");
    if utilization.set() && utilization.int() < 1 {
        errors.push(utilization.bad_int("must be greater than 0"));
    }
}
