//! Warnings about pods and templates of pods (pkg/api/pod/warnings.go, pkg/api/node/util.go).

use std::collections::{HashMap, HashSet};

use super::super::names;
use super::super::node::{Node, same};
use super::super::path::Path;
use super::super::security::every_container;
use super::super::show::quoted;
use super::{Warnings, address, claim_spec, fraction, paths};
use crate::strategy::{app_armor_annotation, app_armor_profile};

/// Labels of nodes that have a better name now.
const NODE_LABELS: &[(&str, &str)] = &[
    (
        "beta.kubernetes.io/arch",
        "deprecated since v1.14; use \"kubernetes.io/arch\" instead",
    ),
    (
        "beta.kubernetes.io/os",
        "deprecated since v1.14; use \"kubernetes.io/os\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
    ),
    (
        "beta.kubernetes.io/instance-type",
        "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead",
    ),
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    (
        "scheduler.alpha.kubernetes.io/preferAvoidPods",
        "deprecated since v1.22; use Taints and Tolerations instead",
    ),
    (
        "node-role.kubernetes.io/master",
        "use \"node-role.kubernetes.io/control-plane\" instead",
    ),
];
const ANNOTATIONS: &[(&str, &str)] = &[
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    (
        "security.alpha.kubernetes.io/sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
    (
        "security.alpha.kubernetes.io/unsafe-sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
];
/// Volume, its name in the path, and what became of it.
pub(super) const VOLUMES: &[(&str, &str, &str)] = &[
    (
        "photonPersistentDisk",
        "photonPersistentDisk",
        "deprecated in v1.11, non-functional in v1.16+",
    ),
    ("gitRepo", "gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

/// Resources that come in whole bytes.
const BYTES: [&str; 2] = ["memory", "ephemeral-storage"];
/// Most pairs of ports that are looked at: a pod of thousands of equal ones is told enough by then.
const PAIRS_MAX: usize = 4096;
const SECCOMP: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";

pub(super) fn label(key: &str) -> Option<&'static str> {
    NODE_LABELS.iter().find(|(known, _)| *known == key).map(|(_, text)| *text)
}

/// A pod, or a template of pods.
pub(super) fn pod(out: &mut Warnings, node: &Node<'_>) {
    let (meta, spec) = (node.at("metadata"), node.at("spec"));
    for (key, value) in spec.at("nodeSelector").entries() {
        out.extend(label(key).map(|text| format!("{}: {text}", value.path)));
    }
    node_terms(out, &spec.at("affinity").at("nodeAffinity"));
    for constraint in spec.at("topologySpreadConstraints").items() {
        let key = constraint.at("topologyKey");
        out.extend(label(key.str()).map(|text| format!("{}: {} is {text}", key.path, key.str())));
        null_selector(out, &constraint);
    }
    let annotations = meta.at("annotations");
    for (key, text) in ANNOTATIONS {
        if annotations.has(key) {
            out.push(format!("{}: {text}", annotations.key(key).path));
        }
    }
    for volume in spec.at("volumes").items() {
        for (name, shown, text) in VOLUMES {
            if volume.has(name) {
                out.push(format!("{}: {text}", volume.child(shown).path));
            }
        }
        claim_spec(out, &volume.get("ephemeral.volumeClaimTemplate.spec"));
    }
    paths::overlaps(out, &spec.at("volumes"));
    repeated(out, &spec.at("hostAliases"), "ip");
    repeated(out, &spec.at("imagePullSecrets"), "name");
    for secret in spec.at("imagePullSecrets").items() {
        if secret.text("name").is_empty() {
            out.push(format!("{}: invalid empty name \"\"", secret.child("name").path));
        }
    }
    for name in BYTES {
        fraction(out, &spec.at("overhead").key(name));
    }
    let context = spec.at("securityContext");
    if !context.has("seccompProfile") && annotations.has(SECCOMP) {
        non_functional(out, &annotations.key(SECCOMP));
    }
    let template = spec.path.to_string() != "spec";
    for container in every_container(&spec) {
        let key = format!("{SECCOMP_CONTAINER}{}", container.text("name"));
        if !container.at("securityContext").has("seccompProfile") && annotations.has(&key) {
            non_functional(out, &annotations.key(&key));
        }
        // A pod's own annotations were brought into its fields before.
        if template {
            app_armor(out, &annotations, &context, &container);
        }
        for name in BYTES {
            for list in ["limits", "requests"] {
                fraction(out, &container.at("resources").at(list).key(name));
            }
        }
        environment(out, &container);
    }
    host_addresses_and_overlaps(out, &spec);
    names_of_ports(out, &spec);
    let grace = spec.at("terminationGracePeriodSeconds");
    if grace.int() < 0 {
        out.push(format!(
            "{}: must be >= 0; negative values are invalid and will be treated as 1",
            grace.path
        ));
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let affinity = spec.at("affinity").at(kind);
        for term in affinity.at("requiredDuringSchedulingIgnoredDuringExecution").items() {
            null_selector(out, &term);
        }
        for term in affinity.at("preferredDuringSchedulingIgnoredDuringExecution").items() {
            null_selector(out, &term.at("podAffinityTerm"));
        }
    }
    for server in spec.at("dnsConfig").at("nameservers").items() {
        address(out, &server);
    }
    for alias in spec.at("hostAliases").items() {
        address(out, &alias.at("ip"));
    }
}

fn null_selector(out: &mut Warnings, node: &Node<'_>) {
    if !node.has("labelSelector") {
        out.push(format!(
            "{}: a null labelSelector results in matching no pod",
            node.child("labelSelector").path
        ));
    }
}

/// A container's AppArmor annotation in a template, where it is not what the pod's field says anyway.
fn app_armor(out: &mut Warnings, annotations: &Node<'_>, context: &Node<'_>, container: &Node<'_>) {
    let key = app_armor_annotation(container.text("name"));
    let annotation = annotations.key(&key);
    if container.at("securityContext").has("appArmorProfile") || !annotation.set() {
        return;
    }
    let says = app_armor_profile(annotation.str()).unwrap_or_default();
    let profile = context.at("appArmorProfile");
    if !profile.set() || !same(profile.value, &says) {
        out.push(format!(
            "{}: deprecated since v1.30; use the \"appArmorProfile\" field instead",
            annotation.path
        ));
    }
}

fn non_functional(out: &mut Warnings, annotation: &Node<'_>) {
    out.push(format!(
        "{}: non-functional in v1.27+; use the \"seccompProfile\" field instead",
        annotation.path
    ));
}

/// Terms that select nodes; of those that only prefer some, values are looked at, too.
pub(super) fn node_term(out: &mut Warnings, term: &Node<'_>, values: bool) {
    for expression in term.at("matchExpressions").items() {
        let key = expression.at("key");
        out.extend(label(key.str()).map(|text| format!("{}: {} is {text}", key.path, key.str())));
        for value in expression.at("values").items().iter().filter(|_| values) {
            let wrong = names::label_value(value.str()).into_iter();
            out.extend(wrong.map(|message| format!("{}: {} is invalid, {message}", value.path, value.str())));
        }
    }
}

fn node_terms(out: &mut Warnings, affinity: &Node<'_>) {
    for term in affinity
        .get("requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms")
        .items()
    {
        node_term(out, &term, false);
    }
    for term in affinity.at("preferredDuringSchedulingIgnoredDuringExecution").items() {
        node_term(out, &term.at("preference"), true);
    }
}

fn repeated(out: &mut Warnings, list: &Node<'_>, name: &str) {
    let mut seen = HashSet::new();
    for text in list.items().iter().map(|item| item.at(name)) {
        if !seen.insert(text.str()) {
            out.push(format!("{}: duplicate {name} {}", text.path, quoted(text.str())));
        }
    }
}

fn environment(out: &mut Warnings, container: &Node<'_>) {
    let mut seen = HashSet::new();
    for variable in container.at("env").items() {
        let (name, value) = (variable.text("name"), variable.text("value"));
        if seen.insert(name) {
            continue;
        }
        let reference = format!("$({name})");
        if variable.has("valueFrom") || value == reference || !value.contains(&reference) {
            out.push(format!(
                "{}: hides previous definition of {}, which may be dropped when using apply",
                variable.path,
                quoted(name)
            ));
        }
    }
}

fn host_addresses_and_overlaps(out: &mut Warnings, spec: &Node<'_>) {
    let mut earlier: HashMap<(i64, &str), Vec<Node<'_>>> = HashMap::new();
    let host = |port: &Node<'_>| port.at("hostPort").int();
    let mut pairs = 0;
    for port in every_container(spec)
        .iter()
        .flat_map(|container| container.at("ports").items())
    {
        if !port.text("hostIP").is_empty() && host(&port) == 0 {
            out.push(format!(
                "{}: hostIP set without hostPort: {{Name:{} HostPort:0 ContainerPort:{} Protocol:{} HostIP:{}}}",
                port.path,
                port.text("name"),
                port.at("containerPort").int(),
                port.text("protocol"),
                port.text("hostIP")
            ));
        }
        let alike = earlier
            .entry((port.at("containerPort").int(), port.text("protocol")))
            .or_default();
        for other in alike.iter() {
            pairs += 1;
            if pairs > PAIRS_MAX {
                return;
            }
            let (own, others) = (port.text("hostIP"), other.text("hostIP"));
            let what = if own == others && host(&port) == host(other) {
                "duplicate"
            } else if host(&port) == 0 || host(other) == 0 {
                "overlapping"
            } else if host(&port) == host(other) && own.is_empty() != others.is_empty() {
                "dangerously ambiguous"
            } else {
                continue;
            };
            out.push(format!("{}: {what} port definition with {}", port.path, other.path));
        }
        alike.push(port);
    }
}

fn names_of_ports(out: &mut Warnings, spec: &Node<'_>) {
    let mut seen: HashMap<&str, Path<'_>> = HashMap::new();
    for port in every_container(spec)
        .iter()
        .flat_map(|container| container.at("ports").items())
    {
        let name = port.text("name");
        if name.is_empty() {
            continue;
        }
        match seen.get(name) {
            Some(other) => out.push(format!(
                "{}: duplicate port name {} with {other}, services and probes that select ports by name will use {other}",
                port.path,
                quoted(name)
            )),
            None => drop(seen.insert(name, port.path)),
        }
    }
}
