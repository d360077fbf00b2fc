//! Roles and their bindings (pkg/apis/rbac/validation).
//!
//! Invariant: whether who writes them may is for authorization to say.

use trireme_api::selector::LabelSelector;

use super::errors::Errors;
use super::metadata;
use super::names;
use super::node::Node;
use super::show;

const GROUP: &str = "rbac.authorization.k8s.io";

/// A role, of a namespace or of the cluster.
pub(super) fn role(errors: &mut Errors, root: &Node<'_>, namespaced: bool) {
    for rule in root.at("rules").items() {
        self::rule(errors, &rule, namespaced);
    }
    let aggregation = root.at("aggregationRule");
    if namespaced || !aggregation.set() {
        return;
    }
    let selectors = aggregation.at("clusterRoleSelectors");
    if selectors.is_empty() {
        errors.push(selectors.required("at least one clusterRoleSelector required if aggregationRule is non-nil"));
    }
    for selector in selectors.items() {
        metadata::selector(errors, &selector);
        if LabelSelector::from_value(Some(selector.value)).is_err() {
            errors.push(selector.invalid_as("null", "invalid label selector."));
        }
    }
}

fn rule(errors: &mut Errors, node: &Node<'_>, namespaced: bool) {
    if node.at("verbs").is_empty() {
        errors.push(node.at("verbs").required("verbs must contain at least one value"));
    }
    let urls = node.at("nonResourceURLs");
    if !urls.is_empty() {
        if namespaced {
            errors.push(urls.invalid("namespaced rules cannot apply to non-resource URLs"));
        }
        if ["apiGroups", "resources", "resourceNames"]
            .iter()
            .any(|name| !node.at(name).is_empty())
        {
            errors.push(urls.invalid("rules cannot apply to both regular resources and non-resource URLs"));
        }
        return;
    }
    for (name, detail) in [
        ("apiGroups", "resource rules must supply at least one api group"),
        ("resources", "resource rules must supply at least one resource"),
    ] {
        if node.at(name).is_empty() {
            errors.push(node.at(name).required(detail));
        }
    }
}

/// A binding, of a namespace or of the cluster.
pub(super) fn binding(errors: &mut Errors, root: &Node<'_>, namespaced: bool) {
    let role = root.at("roleRef");
    role.at("apiGroup").one_of(errors, &[GROUP]);
    role.at("kind").one_of(
        errors,
        if namespaced {
            &["Role", "ClusterRole"]
        } else {
            &["ClusterRole"]
        },
    );
    let name = role.at("name");
    if name.is_empty() {
        errors.push(name.required(""));
    } else {
        name.each(errors, names::path_segment(name.str()));
    }
    for subject in root.at("subjects").items() {
        let (name, group) = (subject.at("name"), subject.at("apiGroup"));
        if name.is_empty() {
            errors.push(name.required(""));
        }
        match subject.text("kind") {
            "ServiceAccount" => {
                if !name.is_empty() {
                    name.each(errors, names::subdomain(name.str()));
                }
                if !group.is_empty() {
                    errors.push(group.unsupported(&[""]));
                }
                if !namespaced && subject.text("namespace").is_empty() {
                    errors.push(subject.at("namespace").required(""));
                }
            }
            "User" | "Group" => group.one_of(errors, &[GROUP]),
            _ => errors.push(subject.at("kind").unsupported(&["ServiceAccount", "User", "Group"])),
        }
    }
}

/// The role of a binding stays as it is.
pub(super) fn same_role(errors: &mut Errors, root: &Node<'_>, old: &Node<'_>) {
    let role = root.at("roleRef");
    if ["apiGroup", "kind", "name"]
        .iter()
        .any(|name| role.text(name) != old.at("roleRef").text(name))
    {
        errors.push(role.invalid_as(show::internal("api/rbac/v1", "RoleRef", role.value), "cannot change roleRef"));
    }
}
