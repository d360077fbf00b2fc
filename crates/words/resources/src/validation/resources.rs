//! Names and amounts of resources, and references to fields and resources (pkg/apis/core/validation).
//!
//! Invariant: lists of names are upstream's; nothing here knows which kind it looks at.

use trireme_api::quantity::Quantity;

use super::errors::Errors;
use super::metadata;
use super::names;
use super::node::Node;
use super::seen::Seen;

const HUGE: &str = "hugepages-";
const STANDARD_QUOTA: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
];
const STANDARD: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "storage",
    "requests.storage",
    "services.nodeports",
    "services.loadbalancers",
];
const INTEGER: &[&str] = &[
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

/// Whether it is a size of huge pages.
pub(super) fn is_huge(name: &str) -> bool {
    name.starts_with(HUGE)
}

fn is_standard(name: &str) -> bool {
    STANDARD.contains(&name) || is_huge(name) || name.starts_with("requests.hugepages-")
}

/// Whether quotas know it by itself.
pub(super) fn is_standard_quota(name: &str) -> bool {
    STANDARD_QUOTA.contains(&name) || is_huge(name) || name.starts_with("requests.hugepages-")
}

pub(super) fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && names::qualified(&format!("requests.{name}")).is_empty()
}

/// Whether requests may be below limits.
pub(super) fn overcommit(name: &str) -> bool {
    is_native(name) && !is_huge(name)
}

/// Name of any resource; told at `node`.
pub(super) fn name(errors: &mut Errors, node: &Node<'_>, name: &str) {
    let messages = names::qualified(name);
    if !messages.is_empty() {
        errors.extend(messages.into_iter().map(|message| node.bad_text(name, message)));
    } else if !name.contains('/') && !is_standard(name) {
        errors.push(node.bad_text(name, "must be a standard resource type or fully qualified"));
    }
}

/// Name of a resource that containers ask for.
pub(super) fn container_name(errors: &mut Errors, node: &Node<'_>, called: &str) {
    name(errors, node, called);
    if !called.contains('/') {
        if !matches!(called, "cpu" | "memory" | "ephemeral-storage") && !is_huge(called) {
            errors.push(node.bad_text(called, "must be a standard resource for containers"));
        }
    } else if !is_native(called) && !is_extended(called) {
        errors.push(node.bad_text(called, "doesn't follow extended resource name standard"));
    }
}

fn pod_name(errors: &mut Errors, node: &Node<'_>, called: &str) {
    let before = errors.len();
    name(errors, node, called);
    if errors.len() == before && !matches!(called, "cpu" | "memory") && !is_huge(called) {
        errors.push(node.unsupported_as(super::show::quoted(called), &["cpu", "hugepages-", "memory"]));
    }
}

/// Name of a resource that quotas count.
pub(super) fn quota_name(errors: &mut Errors, node: &Node<'_>, called: &str) {
    name(errors, node, called);
    if !called.contains('/') && !is_standard_quota(called) {
        errors.push(node.bad_text(called, "must be a standard resource for quota"));
    }
}

/// An amount: not negative, and whole where things are counted.
pub(super) fn amount(errors: &mut Errors, node: &Node<'_>, called: &str) {
    let quantity = node.quantity();
    if quantity.sign() < 0 {
        errors.push(node.bad_quantity(super::node::NEGATIVE));
    }
    if (INTEGER.contains(&called) || is_extended(called)) && quantity.milli_value() % 1000 != 0 {
        errors.push(node.bad_quantity("must be an integer"));
    }
}

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// A container.
    Container,
    /// A pod as a whole.
    Pod,
}

/// Requests, limits and claims. `claims` are the pod's.
pub(super) fn requirements(errors: &mut Errors, node: &Node<'_>, scope: Scope, claims: &[&str]) {
    let named = |errors: &mut Errors, at: &Node<'_>, called: &str| match scope {
        Scope::Container => container_name(errors, at, called),
        Scope::Pod => pod_name(errors, at, called),
    };
    let (limits, requests) = (node.at("limits"), node.at("requests"));
    let (mut compute, mut huge) = (false, false);
    for (called, limit) in limits.entries() {
        named(errors, &limit, called);
        amount(errors, &limit, called);
        huge_pages(errors, &limit, called, &mut huge);
        compute |= matches!(called, "cpu" | "memory");
    }
    for (called, request) in requests.entries() {
        named(errors, &request, called);
        amount(errors, &request, called);
        let (asked, limit) = (request.quantity(), limits.key(called));
        if limit.set() {
            let most = limit.quantity();
            let shown = super::show::quoted(&asked.to_string());
            if asked != most && !overcommit(called) {
                errors.push(requests.invalid_as(shown, format!("must be equal to {called} limit of {most}")));
            } else if asked > most {
                errors.push(requests.invalid_as(shown, format!("must be less than or equal to {called} limit of {most}")));
            }
        } else if !overcommit(called) {
            errors.push(limits.required("Limit must be set for non overcommitable resources"));
        }
        huge_pages(errors, &request, called, &mut huge);
        compute |= matches!(called, "cpu" | "memory");
    }
    if huge && !compute {
        errors.push(node.forbidden("HugePages require cpu or memory"));
    }
    claim_names(errors, &node.at("claims"), claims);
}

fn huge_pages(errors: &mut Errors, node: &Node<'_>, called: &str, seen: &mut bool) {
    let Some(size) = called.strip_prefix(HUGE) else { return };
    *seen = true;
    let size = Quantity::parse(size).map_or(0, |size| size.value());
    let quantity = node.quantity();
    if size <= 0 || quantity.value() < 0 || quantity.value() % size != 0 {
        errors.push(node.bad_quantity(format!("{quantity} is not positive integer multiple of {called}")));
    }
}

/// Unknown claims that are told, each with the names of all known ones.
const UNKNOWN_MAX: usize = 100;

/// `claims` are those of the pod, sorted.
fn claim_names(errors: &mut Errors, node: &Node<'_>, claims: &[&str]) {
    let mut seen: Seen<String> = Seen::default();
    let mut used: Seen<&str> = Seen::default();
    let mut unknown = 0;
    for claim in node.items() {
        let called = claim.text("name");
        if called.is_empty() {
            errors.push(claim.required(""));
            continue;
        }
        let duplicate = |text: &str| claim.duplicate_as(super::show::quoted(text));
        if seen.contains(&called.to_owned()) {
            errors.push(duplicate(called));
        } else {
            let mut key = called.to_owned();
            let request = claim.at("request");
            if !request.is_empty() {
                request.each(errors, names::label(request.str()));
                key = format!("{called}/{}", request.str());
            }
            if seen.contains(&key) {
                errors.push(duplicate(&key));
            } else if request.is_empty() && used.contains(&called) {
                errors.push(duplicate(called));
            }
            seen.push(key);
            used.push(called);
        }
        if claims.binary_search(&called).is_err() && unknown < UNKNOWN_MAX {
            unknown += 1;
            let mut error = claim.at("name").moved(claim.path.clone()).not_found();
            error.detail = if claims.is_empty() {
                "must be one of the names in pod.spec.resourceClaims which is empty".to_owned()
            } else {
                format!("must be one of the names in pod.spec.resourceClaims: {}", claims.join(", "))
            };
            errors.push(error);
        }
    }
}

const CONVERTIBLE: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// A reference to a field of the pod; `known` are the paths allowed here.
pub(super) fn field_ref(errors: &mut Errors, node: &Node<'_>, known: &[&str]) {
    let (version, path) = (node.at("apiVersion"), node.at("fieldPath"));
    for required in [&version, &path] {
        if required.is_empty() {
            errors.push(required.required(""));
            return;
        }
    }
    if version.str() != "v1" {
        errors.push(path.bad(format!(
            "error converting fieldPath: unsupported pod version: {}",
            version.str()
        )));
        return;
    }
    let subscripted = path
        .str()
        .strip_suffix("']")
        .and_then(|rest| rest.split_once("['"))
        .filter(|(base, _)| !base.is_empty());
    if let Some((base, key)) = subscripted {
        match base {
            "metadata.annotations" => metadata::label_name(errors, node, &key.to_lowercase()),
            "metadata.labels" => metadata::label_name(errors, node, key),
            _ => errors.push(path.bad(format!(
                "error converting fieldPath: field label does not support subscript: {}",
                path.str()
            ))),
        }
        return;
    }
    let converted = if path.str() == "spec.host" {
        "spec.nodeName"
    } else {
        path.str()
    };
    if !CONVERTIBLE.contains(&converted) {
        errors.push(path.bad(format!(
            "error converting fieldPath: field label not supported: {}",
            path.str()
        )));
    } else if !known.contains(&converted) {
        errors.push(path.unsupported_as(super::show::quoted(converted), known));
    }
}

const RESOURCE_FIELDS: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// A reference to a container's resource.
pub(super) fn resource_ref(errors: &mut Errors, node: &Node<'_>, volume: bool) {
    const SIZES: &[&str] = &[
        "1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei",
    ];
    let resource = node.at("resource");
    let huge = ["limits.hugepages-", "requests.hugepages-"]
        .iter()
        .any(|prefix| resource.str().starts_with(prefix));
    if volume && node.text("containerName").is_empty() {
        errors.push(node.at("containerName").required(""));
    } else if resource.is_empty() {
        errors.push(resource.required(""));
    } else if !huge {
        resource.one_of(errors, RESOURCE_FIELDS);
    }
    let divisor = node.at("divisor");
    if divisor.quantity().is_zero() {
        return;
    }
    let text = divisor.quantity().to_string();
    let what = match resource.str() {
        "limits.cpu" | "requests.cpu" => {
            if !["1m", "1"].contains(&text.as_str()) {
                errors.push(divisor.bad_text(
                    resource.str(),
                    "only divisor's values 1m and 1 are supported with the cpu resource",
                ));
            }
            return;
        }
        "limits.memory" | "requests.memory" => "memory",
        "limits.ephemeral-storage" | "requests.ephemeral-storage" => "local ephemeral storage",
        _ if huge => "hugepages",
        _ => return,
    };
    if !SIZES.contains(&text.as_str()) {
        errors.push(divisor.bad_text(
            resource.str(),
            format!(
                "only divisor's values {} are supported with the {what} resource",
                SIZES.join(", ")
            ),
        ));
    }
}
