//! Pods and pod templates (pkg/apis/core/validation).
//!
//! Invariant: the order of problems is upstream's. A pod's rules and a template's differ by the pod's metadata alone.

use serde_json::Value;

use super::affinity;
use super::container::{self, Around};
use super::diff;
use super::ip;
use super::metadata::{self, Rules};
use super::names;
use super::node::{Errors, NEGATIVE, Node, same};
use super::resources::{self, Scope};
use super::security;
use super::volume;

const MIRROR: &str = "kubernetes.io/config.mirror";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// How a pod's metadata is checked.
pub(super) const RULES: Rules = Rules { name: names::subdomain, namespaced: true, standard_finalizers: true };

/// A pod to create.
pub(super) fn create(errors: &mut Errors, root: &Node<'_>) {
    metadata_and_spec(errors, root);
    let spec = root.at("spec");
    let ephemeral = spec.at("ephemeralContainers");
    if !ephemeral.is_empty() {
        errors.push(ephemeral.forbidden("cannot be set on create"));
    }
    if !spec.text("nodeName").is_empty() && !spec.at("schedulingGates").is_empty() {
        errors.push(spec.at("nodeName").forbidden("cannot be set until all schedulingGates have been cleared"));
    }
    let annotations = root.get("metadata.annotations");
    security::seccomp_annotations(errors, &annotations, &spec);
    security::app_armor_annotations(errors, &annotations, &spec);
}

fn metadata_and_spec(errors: &mut Errors, root: &Node<'_>) {
    let (meta, spec) = (root.at("metadata"), root.at("spec"));
    metadata::create(errors, &meta, RULES);
    annotations(errors, &meta.at("annotations"), &spec);
    self::spec(errors, &spec, Some(&meta));
    if spec.text("serviceAccountName").is_empty() {
        for volume in spec.at("volumes").items() {
            for source in volume.get("projected.sources").items() {
                let token = source.at("serviceAccountToken");
                if token.set() {
                    errors.push(token.forbidden("must not be specified when serviceAccountName is not set"));
                }
            }
        }
    }
    for list in ["containers", "initContainers"] {
        for container in spec.at(list).items() {
            container::image_spaces(errors, &container);
        }
    }
}

/// Annotations that mean something for pods.
fn annotations(errors: &mut Errors, node: &Node<'_>, spec: &Node<'_>) {
    let mirror = node.key(MIRROR);
    if mirror.set() && spec.text("nodeName").is_empty() {
        errors.push(mirror.bad("must set spec.nodeName if mirror pod annotation is set"));
    }
    let cost = node.key(DELETION_COST);
    let number = cost.str();
    let plain = !number.starts_with('+') && (number == "0" || !number.trim_start_matches('-').starts_with('0'));
    if cost.set() && (!plain || number.parse::<i32>().is_err()) {
        errors.push(cost.bad("must be a 32bit integer"));
    }
    let seccomp = |errors: &mut Errors, key: &str, value: &Node<'_>| {
        let at = value.moved(node.child(key).path);
        match value.str() {
            "runtime/default" | "docker/default" | "unconfined" => {}
            text => match text.strip_prefix("localhost/") {
                Some(path) => {
                    let path = Value::from(path);
                    volume::descending(errors, &Node { path: at.path, value: &path });
                }
                None => errors.push(at.bad("must be a valid seccomp profile")),
            },
        }
    };
    for (key, value) in node.entries() {
        if key == "seccomp.security.alpha.kubernetes.io/pod" || key.starts_with("container.seccomp.security.alpha.kubernetes.io/") {
            seccomp(errors, key, &value);
        }
    }
    for (key, value) in node.entries() {
        let Some(container) = key.strip_prefix(APP_ARMOR) else { continue };
        if !security::every_container(spec).iter().any(|known| known.text("name") == container) {
            errors.push(value.bad_text(container, "container not found"));
        }
        let text = value.str();
        if !matches!(text, "" | "runtime/default" | "unconfined") && !text.starts_with("localhost/") {
            errors.push(value.bad(format!("invalid AppArmor profile name: {}", super::show::quoted(text))));
        }
    }
}

/// A template of pods.
pub(super) fn template(errors: &mut Errors, node: &Node<'_>) {
    let (notes, spec) = (node.get("metadata.annotations").moved(node.child("annotations").path), node.at("spec"));
    metadata::labels(errors, &node.get("metadata.labels").moved(node.child("labels").path));
    metadata::annotations(errors, &notes);
    annotations(errors, &notes, &spec);
    self::spec(errors, &spec, None);
    security::seccomp_annotations(errors, &notes, &spec);
    security::app_armor_annotations(errors, &notes, &spec);
    let ephemeral = spec.at("ephemeralContainers");
    if !ephemeral.is_empty() {
        errors.push(ephemeral.forbidden("ephemeral containers not allowed in pod template"));
    }
}

/// Labels and annotations of a template once more, as stateful sets check them.
pub(super) fn template_metadata(errors: &mut Errors, node: &Node<'_>) {
    let notes = node.get("metadata.annotations").moved(node.child("annotations").path);
    metadata::labels(errors, &node.get("metadata.labels").moved(node.child("labels").path));
    metadata::annotations(errors, &notes);
    annotations(errors, &notes, &node.at("spec"));
}

/// A pod's specification; `meta` is there for a pod, not for a template.
fn spec(errors: &mut Errors, node: &Node<'_>, meta: Option<&Node<'_>>) {
    let grace = node.at("terminationGracePeriodSeconds");
    if !grace.set() {
        errors.push(grace.required(""));
    }
    let name = meta.map_or("", |meta| meta.text("name"));
    let volumes = volume::volumes(errors, &node.at("volumes"), name, meta.is_some());
    let claims = node.at("resourceClaims");
    let around = Around {
        volumes,
        claims: claims.items().iter().map(|claim| claim.text("name")).filter(|name| !name.is_empty()).collect(),
        grace: grace.value.as_i64(),
        os: node.has("os").then(|| node.at("os").text("name")),
        restart: node.text("restartPolicy"),
        host_users: node.at("hostUsers").value != &Value::Bool(false),
    };
    resource_claims(errors, &claims, meta);
    container::containers(errors, &node.at("containers"), &around);
    container::init_containers(errors, &node.at("initContainers"), &node.at("containers"), &around);
    container::ephemeral(errors, node, &around);
    pod_resources(errors, node, &around.claims);
    host_network(errors, node, meta.is_some());
    node.at("restartPolicy").need_one_of(errors, &["Always", "OnFailure", "Never"]);
    node.at("dnsPolicy").need_one_of(errors, &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"]);
    metadata::labels(errors, &node.at("nodeSelector"));
    security::pod(errors, node);
    affinity::affinity(errors, &node.at("affinity"));
    dns(errors, node);
    for gate in node.at("readinessGates").items() {
        container::label_key(errors, &gate.at("conditionType"));
    }
    scheduling_gates(errors, &node.at("schedulingGates"));
    affinity::spread(errors, &node.at("topologySpreadConstraints"));
    security::host_process(errors, node);
    security::host_users(errors, node);
    hostname_override(errors, node);
    for (name, rule) in
        [("serviceAccountName", names::subdomain as names::NameRule), ("nodeName", names::subdomain)]
    {
        optional(errors, &node.at(name), rule);
    }
    let deadline = node.at("activeDeadlineSeconds");
    if deadline.set() {
        let messages = names::in_range(deadline.int(), 1, i64::from(i32::MAX));
        errors.extend(messages.into_iter().map(|message| deadline.bad_int(message)));
    }
    optional(errors, &node.at("hostname"), names::label);
    optional(errors, &node.at("subdomain"), names::label);
    affinity::tolerations(errors, &node.at("tolerations"));
    for alias in node.at("hostAliases").items() {
        ip::address(errors, &alias.at("ip"), &[]);
        for name in alias.at("hostnames").items() {
            name.each(errors, names::subdomain(name.str()));
        }
    }
    optional(errors, &node.at("priorityClassName"), names::subdomain);
    let runtime = node.at("runtimeClassName");
    if runtime.set() {
        runtime.each(errors, names::subdomain(runtime.str()));
    }
    let preemption = node.at("preemptionPolicy");
    if preemption.set() {
        preemption.need_one_of(errors, &["PreemptLowerPriority", "Never"]);
    }
    overhead(errors, &node.at("overhead"));
    if node.has("os") {
        security::operating_system(errors, node);
    }
    file_keys(errors, node);
}

fn optional(errors: &mut Errors, node: &Node<'_>, rule: names::NameRule) {
    if !node.is_empty() {
        node.each(errors, rule(node.str()));
    }
}

/// Overhead counts as limits.
pub(super) fn overhead(errors: &mut Errors, node: &Node<'_>) {
    if node.set() {
        let limits = serde_json::json!({ "limits": node.value });
        resources::requirements(errors, &Node { path: node.path.clone(), value: &limits }, Scope::Container, &[]);
    }
}

fn resource_claims(errors: &mut Errors, node: &Node<'_>, meta: Option<&Node<'_>>) {
    let mut seen: Vec<&str> = Vec::new();
    for claim in node.items() {
        if meta.is_some_and(|meta| meta.get("metadata").at("annotations").has(MIRROR) || meta.at("annotations").has(MIRROR)) {
            errors.push(Node::root(node.value).moved("[]").forbidden("static pods do not support resource claims"));
            continue;
        }
        let name = claim.at("name");
        if name.is_empty() {
            errors.push(name.required(""));
        } else if seen.contains(&name.str()) {
            errors.push(name.duplicate());
        } else {
            name.each(errors, names::label(name.str()));
            seen.push(name.str());
        }
        let (direct, template) = (claim.at("resourceClaimName"), claim.at("resourceClaimTemplateName"));
        let whole = |detail: &str| claim.bad_struct("api/core/v1", "PodResourceClaim", detail);
        if direct.set() && template.set() {
            errors.push(whole("at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"));
        }
        if !direct.set() && !template.set() {
            errors.push(whole("must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"));
        }
        for source in [direct, template] {
            if source.set() {
                source.each(errors, names::subdomain(source.str()));
            }
        }
    }
}

fn pod_resources(errors: &mut Errors, spec: &Node<'_>, claims: &[&str]) {
    let node = spec.at("resources");
    if !node.set() {
        return;
    }
    if spec.at("os").text("name") == "windows" {
        errors.push(node.forbidden("may not be set for a windows pod"));
        return;
    }
    if !node.at("claims").is_empty() {
        errors.push(node.at("claims").forbidden("claims may not be set for Resources at pod-level"));
    }
    resources::requirements(errors, &node, Scope::Pod, claims);
    for (called, request) in node.at("requests").entries() {
        let sum = aggregate(spec, "requests", called);
        if sum > request.quantity() {
            errors.push(request.bad_quantity(format!("must be greater than or equal to aggregate container requests of {sum}")));
        }
    }
    for (called, limit) in node.at("limits").entries().into_iter().filter(|(called, _)| resources::is_huge(called)) {
        let sum = aggregate(spec, "limits", called);
        if sum > limit.quantity() {
            errors.push(limit.bad_quantity(format!("must be greater than or equal to aggregate container limits of {sum}")));
        }
    }
    for (index, container) in spec.at("containers").items().iter().enumerate() {
        for (called, limit) in container.get("resources.limits").entries() {
            let whole = node.at("limits").key(called);
            if whole.set() && limit.quantity() > whole.quantity() {
                let at = limit.moved(format!("{}.containers[{index}][{called}].limits", node.path));
                errors.push(at.bad_quantity(format!("must be less than or equal to pod limits of {}", whole.quantity())));
            }
        }
    }
}

/// What all containers need at once: those that run together summed up, against the largest start.
fn aggregate(spec: &Node<'_>, list: &str, called: &str) -> trireme_api::quantity::Quantity {
    let of = |container: &Node<'_>| container.at("resources").at(list).key(called).quantity();
    let mut running = trireme_api::quantity::Quantity::zero(trireme_api::quantity::Format::DecimalSi);
    let mut largest = running.clone();
    for container in spec.at("initContainers").items() {
        let mut here = of(&container);
        if container.text("restartPolicy") == "Always" {
            running.add(&here);
            here = running.clone();
        } else {
            here.add(&running);
        }
        if here > largest {
            largest = here;
        }
    }
    for container in spec.at("containers").items() {
        running.add(&of(&container));
    }
    if largest > running { largest } else { running }
}

fn host_network(errors: &mut Errors, spec: &Node<'_>, is_pod: bool) {
    if !spec.is("hostNetwork") {
        return;
    }
    for container in spec.at("containers").items() {
        for port in container.at("ports").items() {
            let host = port.at("hostPort");
            if (is_pod || host.int() != 0) && host.int() != port.at("containerPort").int() {
                errors.push(host.bad_int("must match `containerPort` when `hostNetwork` is true"));
            }
        }
    }
}

fn dns(errors: &mut Errors, spec: &Node<'_>) {
    let node = spec.at("dnsConfig");
    let servers = node.at("nameservers");
    if spec.text("dnsPolicy") == "None" {
        if !node.set() {
            errors.push(node.required("must provide `dnsConfig` when `dnsPolicy` is None"));
            return;
        }
        if servers.is_empty() {
            errors.push(servers.required("must provide at least one DNS nameserver when `dnsPolicy` is None"));
            return;
        }
    }
    if servers.len() > 3 {
        errors.push(servers.invalid("must not have more than 3 nameservers"));
    }
    for server in servers.items() {
        ip::address(errors, &server, &[]);
    }
    let searches = node.at("searches");
    if searches.len() > 32 {
        errors.push(searches.invalid("must not have more than 32 search paths"));
    }
    if searches.strings().join(" ").len() > 2048 {
        errors.push(searches.invalid("must not have more than 2048 characters (including spaces) in the search list"));
    }
    for search in searches.items() {
        if search.str() != "." {
            let plain = search.str().strip_suffix('.').unwrap_or(search.str());
            errors.extend(names::subdomain_underscore(plain).into_iter().map(|message| search.bad_text(plain, message)));
        }
    }
    for option in node.at("options").items() {
        if option.text("name").is_empty() {
            errors.push(option.required("must not be empty"));
        }
    }
}

fn scheduling_gates(errors: &mut Errors, node: &Node<'_>) {
    let mut seen: Vec<&str> = Vec::new();
    for gate in node.items() {
        let name = gate.at("name").moved(gate.path.clone());
        container::label_key(errors, &name);
        if seen.contains(&name.str()) {
            errors.push(name.duplicate());
        }
        seen.push(name.str());
    }
}

fn hostname_override(errors: &mut Errors, spec: &Node<'_>) {
    let node = spec.at("hostnameOverride");
    if !node.set() {
        return;
    }
    for (name, detail) in [
        ("setHostnameAsFQDN", "may not be specified when setHostnameAsFQDN is true"),
        ("hostNetwork", "may not be specified when hostNetwork is true"),
    ] {
        if spec.is(name) {
            errors.push(node.forbidden(detail));
        }
    }
    if node.len() > 64 {
        errors.push(node.too_long(64));
    }
    node.each(errors, names::subdomain(node.str()));
}

fn file_keys(errors: &mut Errors, spec: &Node<'_>) {
    let volumes = spec.at("volumes").items();
    for container in security::every_container(spec) {
        for variable in container.at("env").items() {
            let name = variable.get("valueFrom.fileKeyRef.volumeName");
            if !variable.at("valueFrom").has("fileKeyRef") {
                continue;
            }
            match volumes.iter().find(|volume| volume.text("name") == name.str()) {
                None => errors.push(name.not_found()),
                Some(volume) if !volume.has("emptyDir") => {
                    errors.push(name.bad("referenced volume must be of type emptyDir"));
                }
                Some(_) => {}
            }
        }
    }
}

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
        let text = diff::unified("api/core/v1", "PodSpec", before.value, &munged);
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
            if kept.iter().any(|(key, value)| spec.at("nodeSelector").key(key).value != value.value) {
                errors.push(
                    spec.at("nodeSelector")
                        .invalid("only additions to spec.nodeSelector are allowed (no mutations or deletions)"),
                );
            }
            restore("nodeSelector");
        }
        if !same(spec.get("affinity.nodeAffinity").value, before.get("affinity.nodeAffinity").value) {
            gated_affinity(errors, spec, before);
            let others = ["podAffinity", "podAntiAffinity"].iter().any(|name| spec.at("affinity").has(name));
            if !others && !before.has("affinity") {
                fields.remove("affinity");
            } else {
                let affinity = fields.entry("affinity").or_insert_with(|| Value::Object(serde_json::Map::new()));
                if let Some(affinity) = affinity.as_object_mut() {
                    affinity.insert("nodeAffinity".into(), before.get("affinity.nodeAffinity").value.clone());
                }
            }
        }
    }
    for list in ["containers", "initContainers"] {
        let Some(Value::Array(containers)) = fields.get_mut(list) else { continue };
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
    if !before.get("affinity.nodeAffinity").has("requiredDuringSchedulingIgnoredDuringExecution") {
        return;
    }
    let shown = |node: &Node<'_>| super::show::internal("api/core/v1", "NodeSelectorTerm", node.value);
    if !old.is_empty() && old.len() != new.len() {
        let all: Vec<String> = new.items().iter().map(shown).collect();
        let text = if new.set() { format!("[{}]", all.join(",")) } else { "null".into() };
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
    let now: Vec<Value> = new.items().iter().map(plain).collect();
    if old.items().iter().any(|toleration| !now.contains(&plain(toleration))) {
        errors.push(new.forbidden("existing toleration can not be modified except its tolerationSeconds"));
        return;
    }
    affinity::tolerations(errors, new);
}

fn deleted_gates(errors: &mut Errors, new: &Node<'_>, old: &Node<'_>) {
    let before: Vec<&str> = old.items().iter().map(|gate| gate.text("name")).collect();
    for gate in new.items() {
        let name = gate.at("name");
        if !before.contains(&name.str()) {
            errors.push(name.forbidden(format!("only deletion is allowed, but found new scheduling gate '{}'", name.str())));
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

fn status_addresses(errors: &mut Errors, status: &Node<'_>, before: &Node<'_>, name: &str) {
    let list = status.at(name);
    let known: Vec<&str> = before.at(name).items().iter().map(|address| address.text("ip")).collect();
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
    if all.len() > 1 && (!ip::dual_stack(&all) || all.len() > 2) {
        let shown: Vec<String> = all.iter().map(|text| format!("{{\"IP\":{}}}", super::show::quoted(text))).collect();
        errors.push(list.invalid_as(format!("[{}]", shown.join(",")), "may specify no more than one IP for each IP family"));
    }
}

/// A container that ended stays ended, unless its policy restarts it.
fn transitions(errors: &mut Errors, new: &Node<'_>, old: &Node<'_>, spec: &Node<'_>, containers: &str) {
    let policy = spec.text("restartPolicy");
    for (index, before) in old.items().iter().enumerate() {
        let ended = before.get("state.terminated");
        if !ended.set() {
            continue;
        }
        let name = before.text("name");
        let revived = new.items().iter().any(|now| now.text("name") == name && !now.get("state.terminated").set());
        let container = spec.at(containers).items().into_iter().find(|container| container.text("name") == name);
        let code = ended.at("exitCode").int();
        let allowed = !containers.is_empty() && container.is_some_and(|container| restarts(&container, policy, code));
        if revived && !allowed {
            errors.push(new.index(index).child("state").forbidden("may not be transitioned to non-terminated state"));
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
    let policy = if container.has("restartPolicy") { container.text("restartPolicy") } else { pod };
    match policy {
        "Always" => true,
        "OnFailure" => code != 0,
        _ => false,
    }
}

/// Containers added through their own door.
pub(super) fn update_ephemeral(errors: &mut Errors, root: &Node<'_>, old: &Node<'_>) {
    if old.get("metadata.annotations").has(MIRROR) {
        errors.push(Node::root(root.value).moved("[]").forbidden("static pods do not support ephemeral containers"));
        return;
    }
    metadata::update(errors, &root.at("metadata"), &old.at("metadata"), RULES);
    metadata_and_spec(errors, root);
    annotation_updates(errors, root, old);
    let list = root.get("spec.ephemeralContainers");
    for before in old.get("spec.ephemeralContainers").items() {
        let name = super::show::quoted(before.text("name"));
        let now = list.items().into_iter().rfind(|container| container.text("name") == before.text("name"));
        match now {
            None => errors.push(list.forbidden(format!("existing ephemeral containers {name} may not be removed\n"))),
            Some(now) if !same(now.value, before.value) => {
                let text = diff::unified("api/core/v1", "EphemeralContainer", before.value, now.value);
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
        errors.push(class.moved("spec").bad("Pod QOS Class may not change as a result of resizing"));
    }
    let running = old.get("status.containerStatuses").items();
    if running.iter().find(|status| status.get("state.running").set()).is_some_and(|status| !status.has("resources")) {
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
                errors.push(now.at("name").forbidden(format!("{list} may not be renamed or reordered on resize")));
            }
        }
    }
    if moved {
        return;
    }
    for list in ["initContainers", "containers"] {
        for (now, then) in spec.at(list).items().iter().zip(before.at(list).items()) {
            if list == "initContainers" && then.text("restartPolicy") != "Always" {
                continue;
            }
            for (name, detail) in
                [("requests", "resource requests cannot be removed"), ("limits", "resource limits cannot be removed")]
            {
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
    for (now, then) in spec.at("initContainers").items().iter().zip(before.at("initContainers").items()) {
        if then.text("restartPolicy") != "Always" {
            if !same(now.value, then.value) {
                errors.push(spec.forbidden("resources for non-sidecar init containers are immutable"));
            }
        } else if immutable(now, &then) {
            errors.push(now.forbidden("only cpu and memory resources for init or sidecar containers are mutable"));
        }
    }
}

fn without_compute(container: &Value) -> Value {
    let mut container = container.clone();
    for list in ["requests", "limits"] {
        if let Some(Value::Object(amounts)) = container.pointer_mut(&format!("/resources/{list}")) {
            amounts.retain(|name, _| !matches!(name.as_str(), "cpu" | "memory"));
        }
    }
    container
}

/// Which node a pod is to be bound to.
pub(super) fn binding(errors: &mut Errors, root: &Node<'_>) {
    let target = root.at("target");
    if !matches!(target.text("kind"), "" | "Node") {
        errors.push(target.at("kind").unsupported(&["Node", "<empty>"]));
    }
    target.need(errors, "name");
}

/// A number that counts something.
pub(super) fn counts(errors: &mut Errors, node: &Node<'_>, names: &[&str]) {
    for name in names {
        let count = node.at(name);
        if count.int() < 0 {
            errors.push(count.bad_int(NEGATIVE));
        }
    }
}
