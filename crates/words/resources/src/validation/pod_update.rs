//! What may change about a pod, through which door (pkg/apis/core/validation).
//!
//! Invariant: what may not change is shown as a difference; what may is put back before the two are compared.

use serde_json::Value;

use super::affinity;
use super::container;
use super::diff;
use super::errors::Errors;
use super::ip;
use super::metadata;
use super::names;
use super::node::{Node, same};
use super::pod::{APP_ARMOR, MIRROR, RULES, annotations, metadata_and_spec};
use super::seen::Seen;

const UPDATABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// An update through the pod itself.
pub(super) fn update(errors: &mut Errors, root: &Node<'_>, old: &Node<'_>) {
    metadata::update(errors, &root.at("metadata"), &old.at("metadata"), RULES);
    metadata_and_spec(errors, root);
    annotation_updates(errors, root, old);
    let (spec, before) = (root.at("spec"), old.at("spec"));
    for list in ["containers", "initContainers"] {
        let (new, old) = (spec.at(list), before.at(list));
        if new.len() != old.len() {
            errors.push(new.forbidden("pod updates may not add or remove containers"));
            return;
        }
        for container in new.items() {
            container.need(errors, "image");
            container::image_spaces(errors, &container);
        }
    }
    let (deadline, earlier) = (spec.at("activeDeadlineSeconds"), before.at("activeDeadlineSeconds"));
    if deadline.set() {
        if !(0..=i64::from(i32::MAX)).contains(&deadline.int()) {
            errors.push(deadline.bad_int("must be between 0 and 2147483647, inclusive"));
            return;
        }
        if earlier.set() && earlier.int() < deadline.int() {
            errors.push(deadline.bad_int("must be less than or equal to previous value"));
            return;
        }
    } else if earlier.set() {
        errors.push(deadline.invalid("must not update from a positive integer to nil value"));
    }
    added_tolerations(errors, &spec.at("tolerations"), &before.at("tolerations"));
    deleted_gates(errors, &spec.at("schedulingGates"), &before.at("schedulingGates"));
    if same(spec.value, before.value) {
        return;
    }
    let munged = munge(errors, &spec, &before);
    if !same(&munged, before.value) {
        let stored = diff::as_stored("api/core/v1", "PodSpec", before.value);
        let mut munged = munge(&mut Errors::new(), &spec, &Node::root(&stored));
        if let Some(fields) = munged.as_object_mut() {
            // Upstream makes these lists anew, of nothing where there are none.
            fields.retain(|name, value| {
                !matches!(name.as_str(), "containers" | "initContainers") || value != &Value::Array(vec![])
            });
        }
        let text = diff::unified("api/core/v1", "PodSpec", &stored, &munged);
        errors.push(spec.forbidden(format!("{UPDATABLE}\n{text}")));
    }
}

/// The new specification with all that may change put back.
fn munge(errors: &mut Errors, spec: &Node<'_>, before: &Node<'_>) -> Value {
    let mut munged = spec.value.clone();
    let Some(fields) = munged.as_object_mut() else { return munged };
    let mut restore = |name: &str| match before.value.get(name) {
        Some(value) => drop(fields.insert(name.to_owned(), value.clone())),
        None => drop(fields.remove(name)),
    };
    for name in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        restore(name);
    }
    let grace = |node: &Node<'_>| node.at("terminationGracePeriodSeconds").value.as_i64();
    if grace(before).is_some_and(|seconds| seconds < 0) && grace(spec) == Some(1) {
        restore("terminationGracePeriodSeconds");
    }
    if !before.at("schedulingGates").is_empty() {
        if !same(spec.at("nodeSelector").value, before.at("nodeSelector").value) {
            let kept = before.at("nodeSelector").entries();
            if kept
                .iter()
                .any(|(key, value)| spec.at("nodeSelector").key(key).value != value.value)
            {
                errors.push(
                    spec.at("nodeSelector")
                        .invalid("only additions to spec.nodeSelector are allowed (no mutations or deletions)"),
                );
            }
            restore("nodeSelector");
        }
        if !same(
            spec.get("affinity.nodeAffinity").value,
            before.get("affinity.nodeAffinity").value,
        ) {
            gated_affinity(errors, spec, before);
            let others = ["podAffinity", "podAntiAffinity"]
                .iter()
                .any(|name| spec.at("affinity").has(name));
            if !others && !before.has("affinity") {
                fields.remove("affinity");
            } else {
                let affinity = fields
                    .entry("affinity")
                    .or_insert_with(|| Value::Object(serde_json::Map::new()));
                if let Some(affinity) = affinity.as_object_mut() {
                    affinity.insert("nodeAffinity".into(), before.get("affinity.nodeAffinity").value.clone());
                }
            }
        }
    }
    for list in ["containers", "initContainers"] {
        let Some(Value::Array(containers)) = fields.get_mut(list) else {
            continue;
        };
        for (index, container) in containers.iter_mut().enumerate() {
            if let Some(fields) = container.as_object_mut() {
                fields.insert("image".into(), before.at(list).index(index).at("image").value.clone());
            }
        }
    }
    munged
}

fn gated_affinity(errors: &mut Errors, spec: &Node<'_>, before: &Node<'_>) {
    const TERMS: &str = "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
    let (new, old) = (spec.get(TERMS), before.get(TERMS));
    if !before
        .get("affinity.nodeAffinity")
        .has("requiredDuringSchedulingIgnoredDuringExecution")
    {
        return;
    }
    let shown = |node: &Node<'_>| super::show::internal("api/core/v1", "NodeSelectorTerm", node.value);
    if !old.is_empty() && old.len() != new.len() {
        let all: Vec<String> = new.items().iter().map(shown).collect();
        let text = if new.set() {
            format!("[{}]", all.join(","))
        } else {
            "null".into()
        };
        errors.push(new.invalid_as(text, "no additions/deletions to non-empty NodeSelectorTerms list are allowed"));
        return;
    }
    for (new, old) in new.items().iter().zip(old.items()) {
        let grows = |name: &str| {
            let (new, old) = (new.at(name).items(), old.at(name).items());
            new.len() >= old.len() && new.iter().zip(&old).all(|(new, old)| same(new.value, old.value))
        };
        let empty = |node: &Node<'_>| node.at("matchExpressions").is_empty() && node.at("matchFields").is_empty();
        if (empty(&old) && !empty(new)) || !grows("matchExpressions") || !grows("matchFields") {
            errors.push(new.invalid_as(shown(new), "only additions are allowed (no mutations or deletions)"));
        }
    }
}

fn annotation_updates(errors: &mut Errors, root: &Node<'_>, old: &Node<'_>) {
    let (new, before) = (root.get("metadata.annotations"), old.get("metadata.annotations"));
    for (key, value) in before.entries() {
        let now = new.key(key);
        if now.value == value.value {
            continue;
        }
        if key.starts_with(APP_ARMOR) {
            errors.push(now.forbidden("may not remove or update AppArmor annotations"));
        }
        if key == MIRROR {
            errors.push(now.forbidden("may not remove or update mirror pod annotation"));
        }
    }
    for (key, value) in new.entries() {
        if before.key(key).set() {
            continue;
        }
        if key.starts_with(APP_ARMOR) {
            errors.push(value.forbidden("may not add AppArmor annotations"));
        }
        if key == MIRROR {
            errors.push(value.forbidden("may not add mirror pod annotation"));
        }
    }
    annotations(errors, &new, &root.at("spec"));
}

fn added_tolerations(errors: &mut Errors, new: &Node<'_>, old: &Node<'_>) {
    let plain = |node: &Node<'_>| {
        let mut value = node.value.clone();
        if let Some(fields) = value.as_object_mut() {
            fields.remove("tolerationSeconds");
        }
        value
    };
    let now: Seen<Value> = new.items().iter().map(plain).collect();
    if old.items().iter().any(|toleration| !now.contains(&plain(toleration))) {
        errors.push(new.forbidden("existing toleration can not be modified except its tolerationSeconds"));
        return;
    }
    affinity::tolerations(errors, new);
}

fn deleted_gates(errors: &mut Errors, new: &Node<'_>, old: &Node<'_>) {
    let before: Seen<&str> = old.items().iter().map(|gate| gate.text("name")).collect();
    for gate in new.items() {
        let name = gate.at("name");
        if !before.contains(&name.str()) {
            errors.push(name.forbidden(format!(
                "only deletion is allowed, but found new scheduling gate '{}'",
                name.str()
            )));
        }
    }
}

/// An update of the status alone.
pub(super) fn update_status(errors: &mut Errors, root: &Node<'_>, old: &Node<'_>) {
    metadata::update(errors, &root.at("metadata"), &old.at("metadata"), RULES);
    annotation_updates(errors, root, old);
    let (status, before) = (root.at("status"), old.at("status"));
    for condition in status.at("conditions").items() {
        if condition.at("observedGeneration").int() < 0 {
            errors.push(condition.at("observedGeneration").bad_int("must be a non-negative integer"));
        }
        if !matches!(condition.text("type"), "PodScheduled" | "Ready" | "Initialized") {
            container::label_key(errors, &condition.at_as("type", "Type"));
        }
    }
    if root.at("spec").text("nodeName") != old.at("spec").text("nodeName") {
        errors.push(status.child("nodeName").forbidden("may not be changed directly"));
    }
    let nominated = status.at("nominatedNodeName");
    if nominated.str() != before.text("nominatedNodeName") && !nominated.is_empty() {
        nominated.each(errors, names::subdomain(nominated.str()));
    }
    let generation = status.at("observedGeneration");
    if generation.int() < 0 {
        errors.push(generation.bad_int("must be a non-negative integer"));
    }
    let class = status.at("qosClass");
    if class.str() != before.text("qosClass") {
        errors.push(class.bad(super::node::IMMUTABLE));
    }
    for (list, containers) in [
        ("containerStatuses", "containers"),
        ("initContainerStatuses", "initContainers"),
        ("ephemeralContainerStatuses", ""),
    ] {
        transitions(errors, &status.at(list), &before.at(list), &old.at("spec"), containers);
    }
    claim_statuses(errors, root, &status);
    extended_claim_status(errors, root, &status.at("extendedResourceClaimStatus"));
    for name in ["podIPs", "hostIPs"] {
        status_addresses(errors, &status, &before, name);
    }
    for list in ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"] {
        for container in status.at(list).items() {
            let linux = container.get("user.linux");
            for name in ["uid", "gid"] {
                let id = linux.at(name);
                errors.extend(names::user_id(id.int()).into_iter().map(|message| id.bad_int(message)));
            }
        }
    }
}

/// What was made of the claims that a pod names.
fn claim_statuses(errors: &mut Errors, root: &Node<'_>, status: &Node<'_>) {
    let claims = root.at("spec").at("resourceClaims");
    let known: Seen<&str> = claims.items().iter().map(|claim| claim.text("name")).collect();
    let mut told: Seen<&str> = Seen::default();
    for entry in status.at("resourceClaimStatuses").items() {
        let name = entry.at("name");
        if !known.contains(&name.str()) {
            errors.push(name.bad("must match the name of an entry in `spec.resourceClaims`"));
        }
        if told.contains(&name.str()) {
            errors.push(name.duplicate());
        }
        told.push(name.str());
        let made = entry.at("resourceClaimName");
        if made.set() {
            made.each(errors, names::subdomain(made.str()));
        }
    }
}

/// The claim that was made for extended resources.
fn extended_claim_status(errors: &mut Errors, root: &Node<'_>, status: &Node<'_>) {
    if !status.set() {
        return;
    }
    let spec = root.at("spec");
    let containers: Vec<Node<'_>> = ["initContainers", "containers"]
        .into_iter()
        .flat_map(|list| spec.at(list).items())
        .collect();
    let mappings = status.at("requestMappings");
    if mappings.items().is_empty() {
        errors.push(mappings.required("at least one request mapping is required"));
    }
    let mut told: Seen<(&str, &str, &str)> = Seen::default();
    for mapping in mappings.items() {
        let (container, resource, request) = (
            mapping.at("containerName"),
            mapping.at("resourceName"),
            mapping.at("requestName"),
        );
        // Of two containers of one name the last counts.
        match containers.iter().rev().find(|known| known.text("name") == container.str()) {
            Some(known) if !known.get("resources.requests").has(resource.str()) => errors.push(resource.bad(
                "must match the extended resource name of an entry in spec.initContainers.resources.requests or \
                 spec.containers.resources.requests",
            )),
            Some(_) => {}
            None => {
                errors.push(container.bad("must match the name of an entry in spec.initContainers.name or spec.containers.name"))
            }
        }
        let at = request.moved(status.child("requestName").path);
        at.each(errors, names::label(request.str()));
        let told_as = (container.str(), resource.str(), request.str());
        if told.contains(&told_as) {
            errors.extend([container.duplicate(), resource.duplicate(), request.duplicate()]);
        }
        told.push(told_as);
    }
    let claim = status.at("resourceClaimName");
    if claim.is_empty() {
        errors.push(claim.required(""));
    } else {
        claim.each(errors, names::subdomain(claim.str()));
    }
}

fn status_addresses(errors: &mut Errors, status: &Node<'_>, before: &Node<'_>, name: &str) {
    let list = status.at(name);
    let known: Seen<&str> = before.at(name).items().iter().map(|address| address.text("ip")).collect();
    let all: Vec<&str> = list.items().iter().map(|address| address.text("ip")).collect();
    if name == "hostIPs"
        && let Some(first) = all.first()
        && *first != status.text("hostIP")
    {
        errors.push(list.index(0).at("ip").bad("must be equal to `hostIP`"));
    }
    for address in list.items() {
        ip::address(errors, &address.at("ip").moved(address.path.clone()), &known);
    }
    ip::one_of_each(errors, &list, &all, &ip::Each::Address);
}

/// A container that ended stays ended, unless its policy restarts it.
fn transitions(errors: &mut Errors, new: &Node<'_>, old: &Node<'_>, spec: &Node<'_>, containers: &'static str) {
    let policy = spec.text("restartPolicy");
    let living: Seen<&str> = new
        .items()
        .iter()
        .filter(|now| !now.get("state.terminated").set())
        .map(|now| now.text("name"))
        .collect();
    let specified = container::by_name(spec.at(containers).items());
    for (index, before) in old.items().iter().enumerate() {
        let ended = before.get("state.terminated");
        if !ended.set() {
            continue;
        }
        let name = before.text("name");
        let revived = living.contains(&name);
        let code = ended.at("exitCode").int();
        let container = specified.get(name).filter(|_| !containers.is_empty());
        let allowed = container.is_some_and(|container| restarts(container, policy, code));
        if revived && !allowed {
            errors.push(
                new.index(index)
                    .child("state")
                    .forbidden("may not be transitioned to non-terminated state"),
            );
        }
    }
}

fn restarts(container: &Node<'_>, pod: &str, code: i64) -> bool {
    for rule in container.at("restartPolicyRules").items() {
        let codes = rule.at("exitCodes");
        let listed = codes.at("values").items().iter().any(|value| value.int() == code);
        if listed == (codes.text("operator") == "In") {
            return true;
        }
    }
    let policy = if container.has("restartPolicy") {
        container.text("restartPolicy")
    } else {
        pod
    };
    match policy {
        "Always" => true,
        "OnFailure" => code != 0,
        _ => false,
    }
}

/// Containers added through their own door.
pub(super) fn update_ephemeral(errors: &mut Errors, root: &Node<'_>, old: &Node<'_>) {
    if old.get("metadata.annotations").has(MIRROR) {
        errors.push(
            Node::root(root.value)
                .moved("[]")
                .forbidden("static pods do not support ephemeral containers"),
        );
        return;
    }
    metadata::update(errors, &root.at("metadata"), &old.at("metadata"), RULES);
    metadata_and_spec(errors, root);
    annotation_updates(errors, root, old);
    let list = root.get("spec.ephemeralContainers");
    for before in old.get("spec.ephemeralContainers").items() {
        let name = super::show::quoted(before.text("name"));
        let now = list
            .items()
            .into_iter()
            .rfind(|container| container.text("name") == before.text("name"));
        match now {
            None => errors.push(list.forbidden(format!("existing ephemeral containers {name} may not be removed\n"))),
            Some(now) if !same(now.value, before.value) => {
                let stored = diff::as_stored("api/core/v1", "EphemeralContainer", before.value);
                let text = diff::unified("api/core/v1", "EphemeralContainer", &stored, now.value);
                errors.push(list.forbidden(format!("existing ephemeral containers {name} may not be changed\n{text}")));
            }
            Some(_) => {}
        }
    }
}

/// Resources changed through their own door.
pub(super) fn update_resize(errors: &mut Errors, root: &Node<'_>, old: &Node<'_>) {
    let whole = |text: &str| Node::root(root.value).moved("[]").forbidden(text);
    if old.get("metadata.annotations").has(MIRROR) {
        errors.push(whole("static pods cannot be resized"));
        return;
    }
    if old.get("spec.os").text("name") == "windows" {
        errors.push(whole("windows pods cannot be resized"));
        return;
    }
    let (spec, before) = (root.at("spec"), old.at("spec"));
    metadata::update(errors, &root.at("metadata"), &old.at("metadata"), RULES);
    metadata_and_spec(errors, root);
    if crate::strategy::pod_qos(root.value) != crate::strategy::pod_qos(old.value) {
        let class = root.get("status.qosClass");
        errors.push(
            class
                .moved("spec")
                .bad("Pod QOS Class may not change as a result of resizing"),
        );
    }
    let running = old.get("status.containerStatuses").items();
    if running
        .iter()
        .find(|status| status.get("state.running").set())
        .is_some_and(|status| !status.has("resources"))
    {
        errors.push(spec.forbidden("Pod running on node without support for resize"));
    }
    let mut moved = false;
    for list in ["containers", "initContainers"] {
        let (new, old) = (spec.at(list), before.at(list));
        if new.len() != old.len() {
            moved = true;
            errors.push(new.forbidden(format!("{list} may not be added or removed on resize")));
            continue;
        }
        for (now, then) in new.items().iter().zip(old.items()) {
            if now.text("name") != then.text("name") {
                moved = true;
                errors.push(
                    now.at("name")
                        .forbidden(format!("{list} may not be renamed or reordered on resize")),
                );
            }
        }
    }
    if moved {
        return;
    }
    for list in ["initContainers", "containers"] {
        for (now, then) in spec.at(list).items().iter().zip(before.at(list).items()) {
            for (name, detail) in [
                ("requests", "resource requests cannot be removed"),
                ("limits", "resource limits cannot be removed"),
            ] {
                let (now, then) = (now.at("resources").at(name), then.at("resources").at(name));
                if then.len() > now.len() || then.entries().iter().any(|(key, _)| !now.key(key).set()) {
                    errors.push(now.forbidden(detail));
                }
            }
        }
    }
    let immutable = |now: &Node<'_>, then: &Node<'_>| !same(&without_compute(now.value), &without_compute(then.value));
    for (now, then) in spec.at("containers").items().iter().zip(before.at("containers").items()) {
        if immutable(now, &then) {
            errors.push(spec.forbidden("only cpu and memory resources are mutable"));
        }
    }
    for (now, then) in spec
        .at("initContainers")
        .items()
        .iter()
        .zip(before.at("initContainers").items())
    {
        if immutable(now, &then) {
            errors.push(now.forbidden("only cpu and memory resources for init or sidecar containers are mutable"));
        }
        let restarts = |policy: &Node<'_>| policy.text("restartPolicy") == "RestartContainer";
        if now.text("restartPolicy") != "Always"
            && !same(now.value, then.value)
            && now.at("resizePolicy").items().iter().any(restarts)
        {
            errors.push(now.forbidden("non-sidecar init containers with a resize policy of RestartContainer cannot be resized"));
        }
    }
}

/// A container with what a resize may change taken away; a list that held nothing else is none, as if it had been absent.
fn without_compute(container: &Value) -> Value {
    let mut container = container.clone();
    let lists = container.get_mut("resources").and_then(Value::as_object_mut);
    for amounts in lists
        .into_iter()
        .flat_map(|lists| lists.values_mut())
        .filter_map(Value::as_object_mut)
    {
        amounts.retain(|name, _| !matches!(name.as_str(), "cpu" | "memory"));
    }
    if let Some(lists) = container.get_mut("resources").and_then(Value::as_object_mut) {
        lists.retain(|_, amounts| amounts.as_object().is_none_or(|amounts| !amounts.is_empty()));
    }
    container
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_resize_may_add_lists_of_cpu_and_memory_and_nothing_else() {
        let container = |resources: Value| json!({"name": "c", "resources": resources});
        let before = container(json!({"requests": {"memory": "1Gi"}}));
        let differs = |resources: Value| !same(&without_compute(&container(resources)), &without_compute(&before));
        assert!(!differs(json!({"requests": {"memory": "2Gi"}, "limits": {"memory": "2Gi"}})));
        assert!(!differs(
            json!({"requests": {"memory": "1Gi", "cpu": "1"}, "limits": {"cpu": "2"}})
        ));
        assert!(!differs(json!({})));
        assert!(differs(
            json!({"requests": {"memory": "1Gi"}, "limits": {"ephemeral-storage": "1Gi"}})
        ));
        assert!(differs(json!({"requests": {"memory": "1Gi"}, "claims": [{"name": "gpu"}]})));
    }
}
