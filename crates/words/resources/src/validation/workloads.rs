//! Deployments, replica sets, replication controllers, stateful sets, daemon sets, revisions
//! (pkg/apis/apps/validation, pkg/apis/core/validation).
//!
//! Invariant: a template is checked as a pod template, and once more for what its owner demands.

use std::collections::HashSet;

use serde_json::{Value, json};
use trireme_api::selector::LabelSelector;

use super::errors::Errors;
use super::metadata;
use super::names;
use super::node::{IMMUTABLE, Node, same};
use super::pod::{self, counts};
use super::show;
use super::storage;

const NO_MATCH: &str = "`selector` does not match template `labels`";

/// The selector's shape; tells what is wrong with it.
fn selector(errors: &mut Errors, node: &Node<'_>, kind: &str) {
    if !node.set() {
        errors.push(node.required(""));
        return;
    }
    metadata::selector(errors, node);
    if node.at("matchLabels").is_empty() && node.at("matchExpressions").is_empty() {
        errors.push(node.invalid_as(show::selector(node.value), format!("empty selector is invalid for {kind}")));
    }
}

/// Parses a selector; an absent one matches nothing and counts as set.
fn parsed(node: &Node<'_>) -> Option<LabelSelector> {
    if node.set() {
        LabelSelector::from_value(Some(node.value)).ok()
    } else {
        Some(LabelSelector::nothing())
    }
}

fn unmatched(errors: &mut Errors, template: &Node<'_>) {
    let labels = template.get("metadata.labels");
    errors.push(labels.invalid_as(show::json(labels.value), NO_MATCH));
}

fn matches(selector: &LabelSelector, template: &Node<'_>) -> bool {
    let labels = template.get("metadata.labels");
    selector.matches_value(labels.set().then_some(labels.value))
}

/// Pods of a controller run until they are stopped.
fn always(errors: &mut Errors, template: &Node<'_>, kind: &str) {
    let (restart, deadline) = (template.get("spec.restartPolicy"), template.get("spec.activeDeadlineSeconds"));
    if restart.str() != "Always" {
        errors.push(restart.unsupported(&["Always"]));
    }
    if deadline.set() {
        errors.push(deadline.forbidden(format!("activeDeadlineSeconds in {kind} is not Supported")));
    }
}

fn replicated_template(errors: &mut Errors, spec: &Node<'_>) {
    let (template, wanted) = (spec.at("template"), spec.at("selector"));
    match parsed(&wanted) {
        None => errors.push(wanted.invalid_as(show::selector(wanted.value), "invalid label selector")),
        Some(selector) => {
            if (!wanted.set() || !selector.is_empty()) && !matches(&selector, &template) {
                unmatched(errors, &template);
            }
            pod::template(errors, &template);
            always(errors, &template, "ReplicaSet");
        }
    }
}

/// A deployment.
pub(super) fn deployment(errors: &mut Errors, root: &Node<'_>) {
    let spec = root.at("spec");
    spec.at("replicas").non_negative(errors);
    selector(errors, &spec.at("selector"), "deployment");
    replicated_template(errors, &spec);
    let strategy = spec.at("strategy");
    let rolling = strategy.at("rollingUpdate");
    match strategy.text("type") {
        "Recreate" => {
            if rolling.set() {
                errors.push(rolling.forbidden("may not be specified when strategy `type` is 'Recreate'"));
            }
        }
        "RollingUpdate" => {
            if rolling.set() {
                let (unavailable, surge) = (rolling.at("maxUnavailable"), rolling.at("maxSurge"));
                int_or_percent(errors, &unavailable);
                int_or_percent(errors, &surge);
                if amount(&unavailable) == 0 && amount(&surge) == 0 {
                    errors.push(shown(&unavailable, "may not be 0 when `maxSurge` is 0"));
                }
                most_hundred(errors, &unavailable);
            } else {
                errors.push(rolling.required("this should be defaulted and never be nil"));
            }
        }
        _ => {
            let text = show::internal("api/apps/v1", "DeploymentStrategy", strategy.value);
            errors.push(strategy.unsupported_as(text, &["Recreate", "RollingUpdate"]));
        }
    }
    counts(
        errors,
        &spec,
        &["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"],
    );
    let deadline = spec.at("progressDeadlineSeconds");
    if deadline.set() && deadline.int() <= spec.at("minReadySeconds").int() {
        errors.push(deadline.bad_int("must be greater than minReadySeconds"));
    }
}

/// A replica set.
pub(super) fn replica_set(errors: &mut Errors, root: &Node<'_>) {
    let spec = root.at("spec");
    counts(errors, &spec, &["replicas", "minReadySeconds"]);
    selector(errors, &spec.at("selector"), "deployment");
    replicated_template(errors, &spec);
}

/// The selector stays as it is.
pub(super) fn same_selector(errors: &mut Errors, root: &Node<'_>, old: &Node<'_>) {
    let selector = root.get("spec.selector");
    if !same(selector.value, old.get("spec.selector").value) {
        errors.push(selector.invalid_as(show::selector(selector.value), IMMUTABLE));
    }
}

/// A replication controller.
pub(super) fn replication_controller(errors: &mut Errors, root: &Node<'_>) {
    let spec = root.at("spec");
    let (replicas, wanted, template) = (spec.at("replicas"), spec.at("selector"), spec.at("template"));
    spec.at("minReadySeconds").non_negative(errors);
    if wanted.is_empty() {
        errors.push(wanted.required(""));
    }
    if replicas.set() {
        replicas.non_negative(errors);
    } else {
        errors.push(replicas.required(""));
    }
    if !template.set() {
        errors.push(template.required(""));
        return;
    }
    let labels = template.get("metadata.labels");
    if wanted
        .entries()
        .iter()
        .any(|(key, value)| labels.key(key).value != value.value)
    {
        unmatched(errors, &template);
    }
    pod::template(errors, &template);
    always(errors, &template, "ReplicationController");
}

/// A daemon set.
pub(super) fn daemon_set(errors: &mut Errors, root: &Node<'_>) {
    let spec = root.at("spec");
    let (wanted, template) = (spec.at("selector"), spec.at("template"));
    metadata::selector(errors, &wanted);
    if parsed(&wanted).is_some_and(|selector| !matches(&selector, &template)) {
        unmatched(errors, &template);
    }
    if wanted.set() && wanted.at("matchLabels").is_empty() && wanted.at("matchExpressions").is_empty() {
        errors.push(wanted.invalid_as(show::selector(wanted.value), "empty selector is invalid for daemonset"));
    }
    pod::template(errors, &template);
    always(errors, &template, "DaemonSet");
    spec.at("minReadySeconds").non_negative(errors);
    let strategy = spec.at("updateStrategy");
    let rolling = strategy.at("rollingUpdate");
    match strategy.text("type") {
        "OnDelete" => {}
        "RollingUpdate" if !rolling.set() => errors.push(rolling.required("")),
        "RollingUpdate" => {
            let (unavailable, surge) = (rolling.at("maxUnavailable"), rolling.at("maxSurge"));
            for check in [int_or_percent, most_hundred] {
                check(errors, &unavailable);
                check(errors, &surge);
            }
            match (amount(&unavailable) != 0, amount(&surge) != 0) {
                (true, true) => errors.push(shown(&surge, "may not be set when maxUnavailable is non-zero")),
                (false, false) => errors.push(unavailable.required("cannot be 0 when maxSurge is 0")),
                _ => {}
            }
        }
        _ => {
            let text = show::internal("api/apps/v1", "DaemonSetUpdateStrategy", strategy.value);
            errors.push(strategy.unsupported_as(text, &["RollingUpdate", "OnDelete"]));
        }
    }
    spec.at("revisionHistoryLimit").non_negative(errors);
}

/// A stateful set; `update` lets some old mistakes be.
pub(super) fn stateful_set(errors: &mut Errors, root: &Node<'_>, old: Option<&Node<'_>>) {
    let skip = old.is_some_and(|old| {
        let mut found = Errors::new();
        stateful_spec(&mut found, &old.at("spec"), true, false);
        !found.is_empty()
    });
    stateful_spec(errors, &root.at("spec"), old.is_some(), skip);
    let Some(old) = old else { return };
    const FREE: &[&str] = &[
        "replicas",
        "template",
        "updateStrategy",
        "minReadySeconds",
        "ordinals",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
    ];
    let fixed = |root: &Node<'_>| {
        let mut spec = root.at("spec").value.clone();
        if let Some(fields) = spec.as_object_mut() {
            fields.retain(|name, _| !FREE.contains(&name.as_str()));
        }
        spec
    };
    if !same(&fixed(root), &fixed(old)) {
        errors.push(root.at("spec").forbidden("updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"));
    }
}

fn stateful_spec(errors: &mut Errors, spec: &Node<'_>, update: bool, skip_template: bool) {
    let policy = spec.at("podManagementPolicy");
    match policy.str() {
        "" => errors.push(policy.required("")),
        "OrderedReady" | "Parallel" => {}
        _ => errors.push(policy.bad("must be 'OrderedReady' or 'Parallel'")),
    }
    stateful_strategy(errors, &spec.at("updateStrategy"));
    let retention = spec.at("persistentVolumeClaimRetentionPolicy");
    if retention.set() {
        for name in ["whenDeleted", "whenScaled"] {
            retention.at(name).one_of(errors, &["Retain", "Delete"]);
        }
    }
    if !update {
        for claim in spec.at("volumeClaimTemplates").items() {
            storage::claim_spec(errors, &claim.at("spec"));
        }
    }
    counts(errors, spec, &["replicas", "minReadySeconds"]);
    if spec.has("ordinals") {
        spec.get("ordinals.start").non_negative(errors);
    }
    let service = spec.at("serviceName");
    if !update && !service.is_empty() {
        service.each(errors, names::label(service.str()));
    }
    let wanted = spec.at("selector");
    selector(errors, &wanted, "statefulset");
    let template = spec.at("template");
    match parsed(&wanted) {
        None => errors.push(wanted.invalid_as(show::selector(wanted.value), "")),
        Some(selector) => {
            let value = with_claims(spec);
            let owned = Node {
                path: template.path.clone(),
                value: &value,
            };
            if (!wanted.set() || !selector.is_empty()) && !matches(&selector, &owned) {
                unmatched(errors, &owned);
            }
            if !skip_template {
                pod::template(errors, &owned);
            }
            pod::template_metadata(errors, &owned);
        }
    }
    always(errors, &template, "StatefulSet");
}

/// The template as its pods will have it: with the claims as volumes.
fn with_claims(spec: &Node<'_>) -> Value {
    let mut template = spec.at("template").value.clone();
    let Some(pod) = template.get_mut("spec").and_then(Value::as_object_mut) else {
        return template;
    };
    pod.remove("subdomain");
    pod.remove("hostname");
    let claims = spec.at("volumeClaimTemplates").items();
    let mut names: Vec<&str> = Vec::with_capacity(claims.len());
    let mut known: HashSet<&str> = HashSet::with_capacity(claims.len());
    for claim in &claims {
        let name = claim
            .at("metadata")
            .value
            .get("name")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if known.insert(name) {
            names.push(name);
        }
    }
    if !names.is_empty() {
        let mut volumes: Vec<Value> = names
            .iter()
            .map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}}))
            .collect();
        let own = pod.get("volumes").and_then(Value::as_array).cloned().unwrap_or_default();
        volumes.extend(
            own.into_iter()
                .filter(|volume| !known.contains(volume["name"].as_str().unwrap_or_default())),
        );
        pod.insert("volumes".into(), Value::Array(volumes));
    }
    template
}

fn stateful_strategy(errors: &mut Errors, strategy: &Node<'_>) {
    let rolling = strategy.at("rollingUpdate");
    match strategy.text("type") {
        "" => errors.push(strategy.required("")),
        "OnDelete" => {
            if rolling.set() {
                errors.push(rolling.bad_struct(
                    "api/apps/v1",
                    "RollingUpdateStatefulSetStrategy",
                    "only allowed for updateStrategy 'RollingUpdate'",
                ));
            }
        }
        "RollingUpdate" => {
            rolling.at("partition").non_negative(errors);
        }
        _ => errors.push(strategy.bad_struct(
            "api/apps/v1",
            "StatefulSetUpdateStrategy",
            "must be 'RollingUpdate' or 'OnDelete'",
        )),
    }
}

fn shown(node: &Node<'_>, detail: &str) -> trireme_api::field::FieldError {
    if node.set() {
        node.invalid(detail)
    } else {
        node.bad_int(detail)
    }
}

/// A count or a percentage.
pub(super) fn int_or_percent(errors: &mut Errors, node: &Node<'_>) {
    if node.value.is_string() {
        node.each(errors, names::percent(node.str()));
    } else {
        node.non_negative(errors);
    }
}

fn percentage(node: &Node<'_>) -> Option<i64> {
    node.value.as_str()?.strip_suffix('%')?.parse().ok()
}

fn amount(node: &Node<'_>) -> i64 {
    percentage(node).unwrap_or_else(|| {
        node.value
            .as_str()
            .map_or(node.int(), |text| text.parse().unwrap_or_default())
    })
}

/// A percentage is a hundred at most.
pub(super) fn most_hundred(errors: &mut Errors, node: &Node<'_>) {
    if percentage(node).is_some_and(|percent| percent > 100) {
        errors.push(node.bad("must not be greater than 100%"));
    }
}

/// Counts in a status, and which may not exceed which.
pub(super) fn status(errors: &mut Errors, root: &Node<'_>, old: &Node<'_>, names: &[&str], smaller: &[&str], ready: &str) {
    let status = root.at("status");
    counts(errors, &status, names);
    for name in smaller {
        let count = status.at(name);
        if count.int() > status.at("replicas").int() {
            errors.push(count.bad_int("cannot be greater than status.replicas"));
        }
    }
    let available = status.at("availableReplicas");
    if !ready.is_empty() && available.int() > status.at("readyReplicas").int() {
        errors.push(available.bad_int(format!("cannot be greater than {ready}")));
    }
    let (now, before) = (status.at("collisionCount"), old.get("status.collisionCount"));
    if before.set() && now.int() < before.int() {
        errors.push(now.bad_int("cannot be decremented"));
    }
}

/// A revision of a stateful or daemon set.
pub(super) fn revision(errors: &mut Errors, root: &Node<'_>, old: Option<&Node<'_>>) {
    root.at("revision").non_negative(errors);
    let data = root.at("data");
    match old {
        Some(old) if data.value != old.at("data").value => {
            errors.push(data.invalid_as(show::json(data.value), IMMUTABLE));
        }
        Some(_) => {}
        None if !data.set() => errors.push(data.required("data is mandatory")),
        None if !data.value.is_object() => errors.push(data.required("data must be a valid JSON object")),
        None => {}
    }
}
