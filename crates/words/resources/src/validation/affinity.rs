//! Where pods may run: selectors of nodes, affinity, tolerations, spreading (pkg/apis/core/validation).
//!
//! Invariant: nothing here looks at containers.

use std::collections::HashMap;

use super::container::label_key;
use super::errors::Errors;
use super::metadata;
use super::names;
use super::node::Node;
use super::seen::Seen;
use super::show;

const TAINT_EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// A selector of nodes: terms of which one must hold.
pub(super) fn node_selector(errors: &mut Errors, node: &Node<'_>) {
    let terms = node.at("nodeSelectorTerms");
    if terms.is_empty() {
        errors.push(terms.required("must have at least one node selector term"));
    }
    for term in terms.items() {
        node_term(errors, &term, false);
    }
}

fn node_term(errors: &mut Errors, node: &Node<'_>, any_value: bool) {
    for requirement in node.at("matchExpressions").items() {
        let (operator, values) = (requirement.at("operator"), requirement.at("values"));
        match operator.str() {
            "In" | "NotIn" if values.is_empty() => {
                errors.push(values.required("must be specified when `operator` is 'In' or 'NotIn'"));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                errors.push(values.forbidden("may not be specified when `operator` is 'Exists' or 'DoesNotExist'"));
            }
            "Gt" | "Lt" if values.len() != 1 => {
                errors.push(values.required("must be specified single value when `operator` is 'Lt' or 'Gt'"));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            _ => errors.push(operator.bad("not a valid selector operator")),
        }
        label_key(errors, &requirement.at("key"));
        if !any_value {
            for value in values.items() {
                value.each(errors, names::label_value(value.str()));
            }
        }
    }
    for requirement in node.at("matchFields").items() {
        let (operator, values, key) = (requirement.at("operator"), requirement.at("values"), requirement.at("key"));
        match operator.str() {
            "In" | "NotIn" if values.len() != 1 => {
                errors.push(values.required("must be only one value when `operator` is 'In' or 'NotIn' for node field selector"));
            }
            "In" | "NotIn" => {}
            _ => errors.push(operator.bad("not a valid selector operator")),
        }
        if key.str() == "metadata.name" {
            for value in values.items() {
                value.each(errors, names::subdomain(value.str()));
            }
        } else {
            errors.push(key.bad("not a valid field selector key"));
        }
    }
}

fn weight(errors: &mut Errors, node: &Node<'_>) {
    let weight = node.at("weight");
    if !(1..=100).contains(&weight.int()) {
        errors.push(weight.bad_int("must be in the range 1-100"));
    }
}

/// Affinity of a pod; an absent one is fine.
pub(super) fn affinity(errors: &mut Errors, node: &Node<'_>) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
    let nodes = node.at("nodeAffinity");
    if nodes.has(REQUIRED) {
        node_selector(errors, &nodes.at(REQUIRED));
    }
    for term in nodes.at(PREFERRED).items() {
        weight(errors, &term);
        node_term(errors, &term.at("preference"), true);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let pods = node.at(kind);
        for term in pods.at(REQUIRED).items() {
            pod_term(errors, &term);
        }
        for term in pods.at(PREFERRED).items() {
            weight(errors, &term);
            pod_term(errors, &term.at("podAffinityTerm"));
        }
    }
}

fn pod_term(errors: &mut Errors, node: &Node<'_>) {
    metadata::selector(errors, &node.at("labelSelector"));
    metadata::selector(errors, &node.at("namespaceSelector"));
    let namespace = node.child("namespace");
    for name in node.at("namespaces").strings() {
        errors.extend(
            names::label(name)
                .into_iter()
                .map(|message| namespace.bad_text(name, message)),
        );
    }
    label_keys(errors, node);
    let key = node.at("topologyKey");
    if key.is_empty() {
        errors.push(key.required("can not be empty"));
    }
    label_key(errors, &key);
}

fn label_keys(errors: &mut Errors, node: &Node<'_>) {
    let selector = node.at("labelSelector");
    let (matching, other) = (node.at("matchLabelKeys"), node.at("mismatchLabelKeys"));
    for list in [&matching, &other] {
        if list.is_empty() {
            continue;
        }
        if !selector.set() {
            errors.push(list.forbidden("must not be specified when labelSelector is not set"));
            continue;
        }
        for key in list.items() {
            label_key(errors, &key);
        }
    }
    let wanted: HashMap<&str, usize> = matching.strings().into_iter().zip(0..).collect();
    let mut keys: Seen<&str> = selector.at("matchLabels").entries().iter().map(|(key, _)| *key).collect();
    for expression in selector.at("matchExpressions").items() {
        let key = expression.text("key");
        if let Some(index) = wanted.get(key)
            && keys.contains(&key)
        {
            errors.push(
                node.index(*index)
                    .bad_text(key, "exists in both matchLabelKeys and labelSelector"),
            );
        }
        keys.push(key);
    }
    let others: Seen<&str> = other.strings().into_iter().collect();
    for key in matching.items() {
        if others.contains(&key.str()) {
            errors.push(key.bad("exists in both matchLabelKeys and mismatchLabelKeys"));
        }
    }
}

/// Effect of a taint.
fn effect(errors: &mut Errors, node: &Node<'_>) {
    node.need_one_of(errors, TAINT_EFFECTS);
}

/// Taints of a node.
pub(super) fn taints(errors: &mut Errors, node: &Node<'_>) {
    let mut seen: Seen<(&str, &str)> = Seen::default();
    for taint in node.items() {
        label_key(errors, &taint.at("key"));
        let value = taint.at("value");
        let messages = names::label_value(value.str());
        if !messages.is_empty() {
            errors.push(value.bad(messages.join(";")));
        }
        effect(errors, &taint.at("effect"));
        let identity = (taint.text("effect"), taint.text("key"));
        if seen.contains(&identity) {
            let mut error = taint.duplicate_as(show::internal("api/core/v1", "Taint", taint.value));
            error.detail = "taints must be unique by key and effect pair".into();
            errors.push(error);
        } else {
            seen.push(identity);
        }
    }
}

/// Tolerations of a pod.
pub(super) fn tolerations(errors: &mut Errors, node: &Node<'_>) {
    for toleration in node.items() {
        let (key, operator) = (toleration.at("key"), toleration.at("operator"));
        let (value, effect) = (toleration.text("value"), toleration.at("effect"));
        if !key.is_empty() {
            label_key(errors, &key);
        } else if operator.str() != "Exists" {
            errors
                .push(operator.bad("operator must be Exists when `key` is empty, which means \"match all values and all keys\""));
        }
        if toleration.has("tolerationSeconds") && effect.str() != "NoExecute" {
            errors.push(effect.bad("effect must be 'NoExecute' when `tolerationSeconds` is set"));
        }
        match operator.str() {
            "Equal" | "" => {
                let messages = names::label_value(value);
                if !messages.is_empty() {
                    errors.push(operator.bad_text(value, messages.join(";")));
                }
            }
            "Exists" => {
                if !value.is_empty() {
                    errors.push(operator.bad_text(value, "value must be empty when `operator` is 'Exists'"));
                }
            }
            "Lt" | "Gt" => errors.push(operator.unsupported(&["Equal", "Exists", "Lt", "Gt"])),
            _ => errors.push(operator.unsupported(&["Equal", "Exists"])),
        }
        if !effect.is_empty() {
            effect.one_of(errors, TAINT_EFFECTS);
        }
    }
}

/// How pods spread over topologies.
pub(super) fn spread(errors: &mut Errors, node: &Node<'_>) {
    let all = node.items();
    let pairs = all
        .iter()
        .map(|constraint| (constraint.text("topologyKey"), constraint.text("whenUnsatisfiable")));
    let last: HashMap<_, usize> = pairs.zip(0..).collect();
    for (index, constraint) in all.iter().enumerate() {
        let skew = constraint.at("maxSkew");
        if skew.int() <= 0 {
            errors.push(skew.bad_int("must be greater than zero"));
        }
        let (key, action) = (constraint.at("topologyKey"), constraint.at("whenUnsatisfiable"));
        if key.is_empty() {
            errors.push(key.required("can not be empty"));
        }
        action.one_of(errors, &["DoNotSchedule", "ScheduleAnyway"]);
        if last[&(key.str(), action.str())] > index {
            let text = show::quoted(&format!("{{{}, {}}}", key.str(), action.str()));
            errors.push(constraint.child("{topologyKey, whenUnsatisfiable}").duplicate_as(text));
        }
        let domains = constraint.at("minDomains");
        if domains.set() {
            if domains.int() <= 0 {
                errors.push(domains.bad_int("must be greater than zero"));
            }
            if action.str() != "DoNotSchedule" {
                errors.push(domains.bad_int(format!(
                    "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {}",
                    action.str()
                )));
            }
        }
        for name in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            if constraint.has(name) {
                constraint.at(name).one_of(errors, &["Honor", "Ignore"]);
            }
        }
        label_keys(errors, constraint);
        metadata::selector(errors, &constraint.at("labelSelector"));
    }
}
