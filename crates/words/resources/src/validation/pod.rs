//! Pods and pod templates (pkg/apis/core/validation).
//!
//! Invariant: the order of problems is upstream's. A pod's rules and a template's differ by the pod's metadata alone.

use std::collections::HashMap;

use serde_json::Value;
use trireme_api::quantity::{Format, Quantity};

use super::affinity;
use super::container::{self, Around};
use super::errors::Errors;
use super::ip;
use super::metadata::{self, Rules};
use super::names;
use super::node::{NEGATIVE, Node};
use super::resources::{self, Scope};
use super::security;
use super::seen::Seen;
use super::volume;

pub(super) use crate::references::MIRROR;

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
/// Begins the old annotations about AppArmor.
pub(super) const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// How a pod's metadata is checked.
pub(super) const RULES: Rules = Rules {
    name: names::subdomain,
    namespaced: true,
    standard_finalizers: true,
    any_base: false,
};

/// A pod to create.
pub(super) fn create(errors: &mut Errors, root: &Node<'_>) {
    metadata_and_spec(errors, root);
    let spec = root.at("spec");
    let ephemeral = spec.at("ephemeralContainers");
    if !ephemeral.is_empty() {
        errors.push(ephemeral.forbidden("cannot be set on create"));
    }
    if !spec.text("nodeName").is_empty() && !spec.at("schedulingGates").is_empty() {
        errors.push(
            spec.at("nodeName")
                .forbidden("cannot be set until all schedulingGates have been cleared"),
        );
    }
    let annotations = root.get("metadata.annotations");
    security::seccomp_annotations(errors, &annotations, &spec);
    security::app_armor_annotations(errors, &annotations, &spec);
}

/// All that a pod is checked for on every way in.
pub(super) fn metadata_and_spec(errors: &mut Errors, root: &Node<'_>) {
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
pub(super) fn annotations(errors: &mut Errors, node: &Node<'_>, spec: &Node<'_>) {
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
                    volume::descending(
                        errors,
                        &Node {
                            path: at.path,
                            value: &path,
                        },
                    );
                }
                None => errors.push(at.bad("must be a valid seccomp profile")),
            },
        }
    };
    const OF_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
    let of_pod = node.entries().into_iter().filter(|(key, _)| *key == OF_POD);
    let of_containers = node
        .entries()
        .into_iter()
        .filter(|(key, _)| key.starts_with("container.seccomp.security.alpha.kubernetes.io/"));
    for (key, value) in of_pod.chain(of_containers) {
        seccomp(errors, key, &value);
    }
    let mut containers: Option<Seen<&str>> = None;
    for (key, value) in node.entries() {
        let Some(container) = key.strip_prefix(APP_ARMOR) else {
            continue;
        };
        let names = || {
            security::every_container(spec)
                .iter()
                .map(|known| known.text("name"))
                .collect()
        };
        if !containers.get_or_insert_with(names).contains(&container) {
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
    let (notes, spec) = (
        node.get("metadata.annotations").moved(node.child("annotations").path),
        node.at("spec"),
    );
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
    let mut claim_names: Vec<&str> = claims.items().iter().map(|claim| claim.text("name")).collect();
    claim_names.retain(|name| !name.is_empty());
    claim_names.sort_unstable();
    let around = Around {
        volumes: container::by_name(volumes),
        claims: claim_names,
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
    node.at("restartPolicy")
        .need_one_of(errors, &["Always", "OnFailure", "Never"]);
    node.at("dnsPolicy")
        .need_one_of(errors, &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"]);
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
    optional(errors, &node.at("serviceAccountName"), names::subdomain);
    optional(errors, &node.at("nodeName"), names::subdomain);
    let deadline = node.at("activeDeadlineSeconds");
    if deadline.set() {
        let messages = names::in_range(deadline.int(), 1, i64::from(i32::MAX));
        errors.extend(messages.into_iter().map(|message| deadline.bad_int(message)));
    }
    optional(errors, &node.at("hostname"), names::label);
    optional(errors, &node.at("subdomain"), names::label);
    affinity::tolerations(errors, &node.at("tolerations"));
    for alias in node.at("hostAliases").items() {
        ip::address(errors, &alias.at("ip"), &Seen::default());
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
        resources::requirements(
            errors,
            &Node {
                path: node.path.clone(),
                value: &limits,
            },
            Scope::Container,
            &[],
        );
    }
}

fn resource_claims(errors: &mut Errors, node: &Node<'_>, meta: Option<&Node<'_>>) {
    let mut seen: Seen<&str> = Seen::default();
    for claim in node.items() {
        if meta.is_some_and(|meta| meta.at("annotations").has(MIRROR)) {
            errors.push(
                Node::root(node.value)
                    .moved("[]")
                    .forbidden("static pods do not support resource claims"),
            );
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
            errors.push(whole(
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
            ));
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
    if node.has("claims") {
        errors.push(
            node.at("claims")
                .forbidden("claims may not be set for Resources at pod-level"),
        );
    }
    resources::requirements(errors, &node, Scope::Pod, claims);
    let (requests, limits) = (aggregates(spec, "requests"), aggregates(spec, "limits"));
    for (called, request) in node.at("requests").entries() {
        if let Some(sum) = requests.get(called).filter(|sum| **sum > request.quantity()) {
            errors.push(request.bad_quantity(format!(
                "must be greater than or equal to aggregate container requests of {sum}"
            )));
        }
    }
    for (called, limit) in node
        .at("limits")
        .entries()
        .into_iter()
        .filter(|(called, _)| resources::is_huge(called))
    {
        if let Some(sum) = limits.get(called).filter(|sum| **sum > limit.quantity()) {
            errors.push(limit.bad_quantity(format!(
                "must be greater than or equal to aggregate container limits of {sum}"
            )));
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

/// What all containers need at once of each resource: those that run together summed up, against the largest start.
fn aggregates<'a>(spec: &Node<'a>, list: &'static str) -> HashMap<&'a str, Quantity> {
    let zero = || Quantity::zero(Format::DecimalSi);
    let mut sums: HashMap<&str, (Quantity, Quantity)> = HashMap::new();
    for container in spec.at("initContainers").items() {
        let sidecar = container.text("restartPolicy") == "Always";
        for (called, amount) in container.at("resources").at(list).entries() {
            let (running, largest) = sums.entry(called).or_insert_with(|| (zero(), zero()));
            let mut here = amount.quantity();
            if sidecar {
                running.add(&here);
                here = running.clone();
            } else {
                here.add(running);
            }
            if here > *largest {
                *largest = here;
            }
        }
    }
    for container in spec.at("containers").items() {
        for (called, amount) in container.at("resources").at(list).entries() {
            let (running, _) = sums.entry(called).or_insert_with(|| (zero(), zero()));
            running.add(&amount.quantity());
        }
    }
    let larger = |(running, largest): (Quantity, Quantity)| if largest > running { largest } else { running };
    sums.into_iter().map(|(called, sum)| (called, larger(sum))).collect()
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
        ip::address(errors, &server, &Seen::default());
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
            errors.extend(
                names::subdomain_underscore(plain)
                    .into_iter()
                    .map(|message| search.bad_text(plain, message)),
            );
        }
    }
    for option in node.at("options").items() {
        if option.text("name").is_empty() {
            errors.push(option.required("must not be empty"));
        }
    }
}

fn scheduling_gates(errors: &mut Errors, node: &Node<'_>) {
    let mut seen: Seen<&str> = Seen::default();
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
    let volumes = container::by_name(spec.at("volumes").items());
    for container in security::every_container(spec) {
        for variable in container.at("env").items() {
            let name = variable.get("valueFrom.fileKeyRef.volumeName");
            if !variable.at("valueFrom").has("fileKeyRef") {
                continue;
            }
            match volumes.get(name.str()) {
                None => errors.push(name.not_found()),
                Some(volume) if !volume.has("emptyDir") => {
                    errors.push(name.bad("referenced volume must be of type emptyDir"));
                }
                Some(_) => {}
            }
        }
    }
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
