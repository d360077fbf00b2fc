//! What is accepted but better not used (pkg/api/*/warnings.go and the strategies of pkg/registry).
//!
//! Invariant: a warning refuses nothing. Whether a kind warns of a change as well as of a new object, and whether only
//! where its generation rises, is as upstream's strategy of the kind has it.

mod finalizers;
mod paths;
mod pod;

use std::net::IpAddr;

use super::ip;
use super::names;
use super::node::Node;
use super::show::quoted;

pub(super) use finalizers::of_finalizers;

pub(super) type Warnings = Vec<String>;

const POD_NAME: &str = "this is used in the Pod's hostname";
const OWNER_NAME: &str = "this is used in Pod names and hostnames";
const HISTORY: &str = "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended";
const CLASS: &str = "deprecated since v1.8; use \"storageClassName\" attribute instead";
const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
const BETA_MOUNT: &str = "volume.beta.kubernetes.io/mount-options";
const MOUNTABLE: &str = "kubernetes.io/enforce-mountable-secrets";
const STATIC: &str = ".static.k8s.io";

/// All warnings about an object of a storage that is created, or changed through `door` where `old` is there.
pub(super) fn of(storage: &str, door: Option<&str>, root: &Node<'_>, old: Option<&Node<'_>>) -> Warnings {
    let mut found = Warnings::new();
    let out = &mut found;
    let spec = root.at("spec");
    let new = old.is_none();
    let bumped = old.is_none_or(|old| generation(old) != generation(root));
    match (storage, door) {
        ("core/pods", Some("status")) => {
            for list in ["podIPs", "hostIPs"] {
                let addresses = root.at("status").at(list).items();
                addresses.iter().for_each(|one| address(out, &one.at("ip")));
            }
        }
        ("core/services" | "networking.k8s.io/ingresses", Some("status")) => {
            for one in root.get("status.loadBalancer.ingress").items() {
                address(out, &one.at("ip").moved(one.path.clone()));
            }
        }
        (_, Some(door)) if door != "scale" => {}
        // Of changed pods nothing is told: people seldom touch them, and it would be looked at often.
        ("core/pods", _) if new => {
            dns_name(out, root, POD_NAME);
            pod::pod(out, root);
        }
        ("core/podtemplates", _) if bumped => pod::pod(out, &root.at("template")),
        ("core/replicationcontrollers", _) if bumped => owner(out, root, old, old.unwrap_or(root)),
        ("apps/deployments" | "apps/replicasets", _) if bumped => owner(out, root, old, root),
        ("apps/daemonsets", _) if old.is_none_or(|old| template_generation(old) != template_generation(root)) => {
            pod::pod(out, &spec.at("template"));
        }
        ("apps/statefulsets", _) => {
            if bumped {
                pod::pod(out, &spec.at("template"));
            }
            for claim in spec.at("volumeClaimTemplates").items() {
                let shown = if new { claim.path.clone() } else { claim.child("Spec").path };
                claim_spec(out, &claim.at("spec").moved(shown));
            }
            if spec.at("revisionHistoryLimit").int() < 0 {
                out.push(HISTORY.to_owned());
            }
        }
        ("batch/jobs", _) if bumped => {
            if new {
                dns_name(out, root, OWNER_NAME);
            }
            job(out, &spec);
        }
        ("batch/cronjobs", _) => {
            if new {
                dns_name(out, root, OWNER_NAME);
            }
            if bumped {
                job(out, &spec.get("jobTemplate.spec"));
            }
            if !new && spec.text("schedule").contains("TZ") {
                out.push(
                    "cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see \
                     https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details"
                        .to_owned(),
                );
            }
        }
        ("core/services", _) => service(out, root),
        ("core/endpoints", _) => endpoints(out, root),
        ("discovery.k8s.io/endpointslices", _) => slice(out, root, new),
        ("core/nodes", _) => node(out, &spec),
        ("core/resourcequotas", _) if new => quota(out, &spec.at("hard")),
        ("core/serviceaccounts", _) => {
            let annotated = |root: &Node<'_>| root.get("metadata.annotations").has(MOUNTABLE);
            if annotated(root) && !old.is_some_and(annotated) {
                out.push(format!(
                    "metadata.annotations[{MOUNTABLE}]: deprecated in v1.32+; prefer separate namespaces to isolate access to \
                     mounted secrets"
                ));
            }
        }
        ("core/secrets", _) => secret(out, root),
        ("core/persistentvolumes", _) => volume(out, root),
        ("core/persistentvolumeclaims", _) => {
            annotation(out, root, BETA_CLASS, CLASS);
            claim_spec(out, &spec);
        }
        ("networking.k8s.io/networkpolicies", _) => network_policy(out, &spec),
        ("networking.k8s.io/ingresses", _) if new => {
            const CLASS: &str = "kubernetes.io/ingress.class";
            if root.get("metadata.annotations").has(CLASS) && !spec.has("ingressClassName") {
                out.push(format!(
                    "annotation \"{CLASS}\" is deprecated, please use 'spec.ingressClassName' instead"
                ));
            }
        }
        ("node.k8s.io/runtimeclasses", _) => {
            let selector = root.get("scheduling.nodeSelector");
            for (key, _) in selector.entries() {
                out.extend(pod::label(key).map(|text| format!("{}: {text}", selector.path)));
            }
        }
        ("storage.k8s.io/storageclasses", _) => {
            for topology in root.at("allowedTopologies").items() {
                for expression in topology.at("matchLabelExpressions").items() {
                    let key = expression.at("key");
                    out.extend(pod::label(key.str()).map(|text| format!("{}: {text}", key.path)));
                }
            }
        }
        ("storage.k8s.io/csistoragecapacities", _) => {
            let topology = root.at("nodeTopology");
            pod::node_term(out, &topology, false);
            let labels = topology.at("matchLabels");
            for (key, _) in labels.entries() {
                out.extend(pod::label(key).map(|text| format!("{}.{key}: {text}", labels.path)));
            }
        }
        ("storage.k8s.io/csidrivers", _) => csi_driver(out, &spec, old.map(|old| old.at("spec")).as_ref()),
        ("resource.k8s.io/resourceslices", _) => {
            let driver = spec.at("driver");
            if driver.str() != driver.str().to_lowercase() {
                out.push(format!(
                    "spec.driver: driver names should be lowercase; {} contains uppercase characters",
                    quoted(driver.str())
                ));
            }
        }
        (storage, _) if storage.starts_with("admissionregistration.k8s.io/") => static_name(out, root),
        _ => {}
    }
    found
}

fn generation(root: &Node<'_>) -> i64 {
    root.get("metadata.generation").int()
}

fn template_generation<'a>(root: &Node<'a>) -> &'a str {
    root.get("metadata.annotations")
        .key("deprecated.daemonset.template.generation")
        .str()
}

fn static_name(out: &mut Warnings, root: &Node<'_>) {
    if root.at("metadata").text("name").ends_with(STATIC) {
        out.push(format!(
            "metadata.name: names ending with \"{STATIC}\" are reserved for static manifest-based configurations and cannot be \
             managed via the API"
        ));
    }
}

/// A name that will not do as a host's.
fn dns_name(out: &mut Warnings, root: &Node<'_>, used: &str) {
    let wrong = names::label(root.at("metadata").text("name"));
    if !wrong.is_empty() {
        out.push(format!(
            "metadata.name: {used}, which can result in surprising behavior; a DNS label is recommended: [{}]",
            wrong.join(" ")
        ));
    }
}

/// What owns pods by a template; `shown` is the object whose template is looked at.
fn owner(out: &mut Warnings, root: &Node<'_>, old: Option<&Node<'_>>, shown: &Node<'_>) {
    if old.is_none() {
        dns_name(out, root, OWNER_NAME);
    }
    pod::pod(out, &shown.get("spec.template"));
}

fn job(out: &mut Warnings, spec: &Node<'_>) {
    let indexed = spec.text("completionMode") == "Indexed";
    if indexed && spec.at("completions").int() > 100_000 && spec.at("parallelism").int() > 10_000 {
        out.push(format!(
            "{}: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes \
             might not be able to track completedIndexes when a big number of indexes fail",
            spec.path
        ));
    }
    pod::pod(out, &spec.at("template"));
}

/// An amount of bytes that is none.
fn fraction(out: &mut Warnings, amount: &Node<'_>) {
    if amount.set() && amount.quantity().milli_value() % 1000 != 0 {
        out.push(format!(
            "{}: fractional byte value {} is invalid, must be an integer",
            amount.path,
            quoted(&amount.quantity().to_string())
        ));
    }
}

fn claim_spec(out: &mut Warnings, spec: &Node<'_>) {
    for list in ["requests", "limits"] {
        fraction(out, &spec.at("resources").at(list).key("storage"));
    }
}

fn annotation(out: &mut Warnings, root: &Node<'_>, key: &str, text: &str) {
    let annotation = root.get("metadata.annotations").key(key);
    if annotation.set() {
        out.push(format!("{}: {text}", annotation.path));
    }
}

fn mapped(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V6(six) => six.to_ipv4_mapped().map(IpAddr::V4),
        IpAddr::V4(_) => None,
    }
}

fn address(out: &mut Warnings, node: &Node<'_>) {
    let Some(found) = ip::parse(node.str()) else { return };
    let plain = mapped(found).unwrap_or(found);
    let (shown, canonical) = (quoted(node.str()), quoted(&plain.to_string()));
    if node.str().parse::<IpAddr>().is_err() || mapped(found).is_some() {
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

fn block(out: &mut Warnings, node: &Node<'_>) {
    let text = node.str();
    let Some((given, given_length)) = ip::parse_block(text) else {
        return;
    };
    let (found, length) = match mapped(given) {
        Some(four) if given_length >= 96 => (four, given_length - 96),
        _ => (given, given_length),
    };
    let network = quoted(&format!("{}/{length}", ip::masked(found, length)));
    let (plain, digits) = text.split_once('/').unwrap_or_default();
    let strict = plain.parse::<IpAddr>().is_ok() && (digits.len() == 1 || !digits.starts_with('0')) && mapped(given).is_none();
    let shown = quoted(text);
    let before = out.len();
    if ip::masked(found, length) != found {
        let whole = if found.is_ipv6() { 128 } else { 32 };
        out.push(format!(
            "{}: CIDR value {shown} is ambiguous in this context (should be {network} or {}?)",
            node.path,
            quoted(&format!("{found}/{whole}"))
        ));
    }
    if !strict {
        out.push(format!(
            "{}: non-standard CIDR value {shown} is invalid: use {network}",
            node.path
        ));
    }
    if out.len() == before && found.is_ipv6() && network != shown {
        out.push(format!(
            "{}: IPv6 CIDR value {shown} should be in RFC 5952 canonical format ({network})",
            node.path
        ));
    }
}

fn node(out: &mut Warnings, spec: &Node<'_>) {
    if spec.has("configSource") {
        out.push("spec.configSource: the feature is removed".to_owned());
    }
    if !spec.text("externalID").is_empty() {
        out.push("spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned());
    }
    spec.at("podCIDRs").items().iter().for_each(|range| block(out, range));
}

fn quota(out: &mut Warnings, hard: &Node<'_>) {
    for name in ["cpu", "memory", "storage", "ephemeral-storage"] {
        let (mut requests, limits) = (format!("requests.{name}"), format!("limits.{name}"));
        if !hard.has(&requests) && matches!(name, "cpu" | "memory") {
            requests = name.to_owned();
        }
        let (request, limit) = (hard.key(&requests), hard.key(&limits));
        if request.set() && limit.set() && request.quantity() > limit.quantity() {
            out.push(format!(
                "ResourceQuota {requests} ({}) should be less than {limits} ({})",
                request.quantity(),
                limit.quantity()
            ));
        }
    }
}

fn endpoints(out: &mut Warnings, root: &Node<'_>) {
    let by = root.get("metadata.labels").key("endpoints.kubernetes.io/managed-by");
    if by.str() == "endpoint-controller" {
        return;
    }
    for subset in root.at("subsets").items() {
        for list in ["addresses", "notReadyAddresses"] {
            let addresses = subset.at(list).items();
            addresses.iter().for_each(|one| address(out, &one.at("ip")));
        }
    }
}

fn slice(out: &mut Warnings, root: &Node<'_>, new: bool) {
    if new && root.text("addressType") == "FQDN" {
        out.push("spec.addressType: FQDN endpoints are deprecated".to_owned());
    }
    let by = root.get("metadata.labels").key("endpointslice.kubernetes.io/managed-by");
    if matches!(
        by.str(),
        "endpointslice-controller.k8s.io" | "endpointslicemirroring-controller.k8s.io"
    ) {
        return;
    }
    for endpoint in root.at("endpoints").items() {
        endpoint.at("addresses").items().iter().for_each(|one| address(out, one));
    }
}

fn network_policy(out: &mut Warnings, spec: &Node<'_>) {
    for (rules, peers) in [("ingress", "from"), ("egress", "to")] {
        for rule in spec.at(rules).items() {
            for blocks in rule.at(peers).items().iter().map(|peer| peer.at("ipBlock")) {
                block(out, &blocks.at("cidr"));
                blocks.at("except").items().iter().for_each(|except| block(out, except));
            }
        }
    }
}

fn csi_driver(out: &mut Warnings, spec: &Node<'_>, old: Option<&Node<'_>>) {
    let tokens = spec.at("tokenRequests");
    let changed = old.is_none_or(|old| !super::node::same(old.at("tokenRequests").value, tokens.value));
    if changed && !tokens.is_empty() && !spec.has("serviceAccountTokenInSecrets") {
        out.push(
            "spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging \
             of tokens in volume attributes"
                .to_owned(),
        );
    }
}

fn service(out: &mut Warnings, root: &Node<'_>) {
    const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
    let (spec, kind) = (root.at("spec"), root.at("spec").text("type"));
    let headless = kind == "ClusterIP" && spec.text("clusterIP") == "None";
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
    let ranges = spec.at("loadBalancerSourceRanges").items();
    ranges.iter().for_each(|range| block(out, range));
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

fn volume(out: &mut Warnings, root: &Node<'_>) {
    let spec = root.at("spec");
    annotation(out, root, BETA_CLASS, CLASS);
    annotation(
        out,
        root,
        BETA_MOUNT,
        "deprecated since v1.31; use \"mountOptions\" attribute instead",
    );
    let reclaim = spec.at("persistentVolumeReclaimPolicy");
    if reclaim.str() == "Recycle" {
        out.push(format!(
            "{}: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.",
            reclaim.path
        ));
    }
    for term in spec.get("nodeAffinity.required.nodeSelectorTerms").items() {
        pod::node_term(out, &term, false);
    }
    for (name, shown, text) in pod::VOLUMES {
        if spec.has(name) && !matches!(*name, "flocker" | "quobyte") {
            out.push(format!("{}: {text}", spec.child(shown).path));
        }
    }
}

/// A secret with a certificate that is none.
fn secret(out: &mut Warnings, root: &Node<'_>) {
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
