//! What is accepted but better not used (pkg/api/pod/warnings.go, pkg/api/service/warnings.go and others).
//!
//! Invariant: a warning never depends on the old object; whether to warn on an update is for the caller to say.

use super::ip;
use super::node::Node;
use super::security::every_container;
use super::show::quoted;

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
const VOLUMES: &[(&str, &str, &str)] = &[
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

type Warnings = Vec<String>;

fn label(key: &str) -> Option<&'static str> {
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
    }
    repeated(out, &spec.at("hostAliases"), "ip");
    repeated(out, &spec.at("imagePullSecrets"), "name");
    for secret in spec.at("imagePullSecrets").items() {
        if secret.text("name").is_empty() {
            out.push(format!("{}: invalid empty name \"\"", secret.child("name").path));
        }
    }
    fractions(out, &spec.at("overhead"));
    for container in every_container(&spec) {
        fractions(out, &container.get("resources.limits"));
        fractions(out, &container.get("resources.requests"));
        environment(out, &container);
    }
    ports(out, &spec);
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

fn node_terms(out: &mut Warnings, affinity: &Node<'_>) {
    let required = affinity
        .get("requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms")
        .items();
    let preferred = affinity.at("preferredDuringSchedulingIgnoredDuringExecution").items();
    let preferred = preferred.iter().map(|term| term.at("preference"));
    for term in required.into_iter().chain(preferred) {
        for key in term
            .at("matchExpressions")
            .items()
            .iter()
            .map(|expression| expression.at("key"))
        {
            out.extend(label(key.str()).map(|text| format!("{}: {} is {text}", key.path, key.str())));
        }
    }
}

fn repeated(out: &mut Warnings, list: &Node<'_>, name: &str) {
    let mut seen: Vec<&str> = Vec::new();
    for text in list.items().iter().map(|item| item.at(name)) {
        if seen.contains(&text.str()) {
            out.push(format!("{}: duplicate {name} {}", text.path, quoted(text.str())));
        } else {
            seen.push(text.str());
        }
    }
}

fn fractions(out: &mut Warnings, amounts: &Node<'_>) {
    for name in ["memory", "ephemeral-storage"] {
        let amount = amounts.key(name);
        if amount.quantity().milli_value() % 1000 != 0 {
            let shown = quoted(&amount.quantity().to_string());
            out.push(format!(
                "{}: fractional byte value {shown} is invalid, must be an integer",
                amount.path
            ));
        }
    }
}

fn environment(out: &mut Warnings, container: &Node<'_>) {
    let mut seen: Vec<&str> = Vec::new();
    for variable in container.at("env").items() {
        let (name, value) = (variable.text("name"), variable.text("value"));
        if !seen.contains(&name) {
            seen.push(name);
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

fn ports(out: &mut Warnings, spec: &Node<'_>) {
    let all: Vec<Node<'_>> = every_container(spec)
        .iter()
        .flat_map(|container| container.at("ports").items())
        .collect();
    let host = |port: &Node<'_>| port.at("hostPort").int();
    for (index, port) in all.iter().enumerate() {
        for other in &all[..index] {
            let same = port.at("containerPort").int() == other.at("containerPort").int()
                && port.text("protocol") == other.text("protocol");
            if !same {
                continue;
            }
            let (own, others) = (port.text("hostIP"), other.text("hostIP"));
            let what = if own == others && host(port) == host(other) {
                "duplicate"
            } else if host(port) == 0 || host(other) == 0 {
                "overlapping"
            } else if host(port) == host(other) && own.is_empty() != others.is_empty() {
                "dangerously ambiguous"
            } else {
                continue;
            };
            out.push(format!("{}: {what} port definition with {}", port.path, other.path));
        }
    }
    for (index, port) in all.iter().enumerate() {
        let name = port.text("name");
        if let Some(other) = all[..index]
            .iter()
            .find(|other| !name.is_empty() && other.text("name") == name)
        {
            out.push(format!(
                "{}: duplicate port name {} with {other}, services and probes that select ports by name will use {other}",
                port.path,
                quoted(name),
                other = other.path
            ));
        }
    }
}

fn address(out: &mut Warnings, node: &Node<'_>) {
    let Some(found) = ip::parse(node.str()) else { return };
    let (shown, canonical) = (quoted(node.str()), quoted(&found.to_string()));
    if node.str().parse::<std::net::IpAddr>().is_err() {
        out.push(format!(
            "{}: non-standard IP address {shown} is invalid: use {canonical}",
            node.path
        ));
    } else if found.is_ipv6() && shown != canonical {
        out.push(format!(
            "{}: IPv6 address {shown} should be in RFC 5952 canonical format ({canonical})",
            node.path
        ));
    }
}

/// A service.
pub(super) fn service(out: &mut Warnings, root: &Node<'_>) {
    const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
    let (spec, kind) = (root.at("spec"), root.at("spec").text("type"));
    let headless = spec.at("clusterIPs").strings() == ["None"];
    let external = !spec.at("externalIPs").is_empty();
    if root.get("metadata.annotations").has(HINTS) {
        out.push(format!(
            "annotation {HINTS} is deprecated, please use service.kubernetes.io/topology-mode instead"
        ));
    }
    spec.at("clusterIPs").items().iter().for_each(|one| address(out, one));
    if headless {
        for (used, name) in [
            (!spec.text("loadBalancerIP").is_empty(), "loadBalancerIP"),
            (external, "externalIPs"),
            (spec.text("sessionAffinity") != "None", "SessionAffinity"),
        ] {
            if used {
                out.push(format!("spec.{name} is ignored for headless services"));
            }
        }
    }
    spec.at("externalIPs").items().iter().for_each(|one| address(out, one));
    if external && !headless && kind != "ExternalName" {
        out.push("spec.externalIPs is deprecated and may no longer be implemented in some clusters".to_owned());
    }
    address(out, &spec.at("loadBalancerIP"));
    if kind == "ExternalName" && external {
        out.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if kind != "ExternalName" && !spec.text("externalName").is_empty() {
        out.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    if spec.text("trafficDistribution") == "PreferClose" {
        out.push("spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".to_owned());
    }
}

/// A persistent volume.
pub(super) fn volume(out: &mut Warnings, root: &Node<'_>) {
    let spec = root.at("spec");
    let reclaim = spec.at("persistentVolumeReclaimPolicy");
    if reclaim.str() == "Recycle" {
        out.push(format!(
            "{}: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.",
            reclaim.path
        ));
    }
    for (name, shown, text) in VOLUMES {
        if spec.has(name) && !matches!(*name, "flocker" | "quobyte") {
            out.push(format!("{}: {text}", spec.child(shown).path));
        }
    }
}

/// A secret with a certificate that is none.
pub(super) fn secret(out: &mut Warnings, root: &Node<'_>) {
    use base64::Engine as _;
    let decode = |key: &str| {
        let text = root.at("data").key(key).str();
        base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_default()
    };
    if root.text("type") != "kubernetes.io/tls" {
        return;
    }
    for (key, what) in [("tls.crt", "certificate"), ("tls.key", "key")] {
        if !String::from_utf8_lossy(&decode(key)).contains("-----BEGIN ") {
            out.push(format!("tls: failed to find any PEM data in {what} input"));
            return;
        }
    }
}
