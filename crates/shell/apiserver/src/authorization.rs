//! The seam that authorisers plug into, and the smallest authoriser.
//!
//! Invariant: the decision depends on the user and the attributes alone, never on the body of the request.

use trireme_api::Status;

use crate::user::{APISERVER, MASTERS, UserInfo};

/// What is asked for, in upstream's words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, or the lower-case method of a
    /// non-resource request.
    pub verb: String,
    /// Whether a resource is meant; else `path` is.
    pub resource_request: bool,
    /// API group, empty for core.
    pub group: String,
    /// API version.
    pub version: String,
    /// Plural.
    pub resource: String,
    /// Subresource, empty for the object itself.
    pub subresource: String,
    /// Namespace, empty for cluster-scoped requests and for all namespaces.
    pub namespace: String,
    /// Name, empty for collections.
    pub name: String,
    /// Path of a non-resource request.
    pub path: String,
    /// The raw `fieldSelector` of a list, watch or deletecollection.
    pub field_selector: String,
    /// The raw `labelSelector` of a list, watch or deletecollection.
    pub label_selector: String,
}

/// An authoriser's answer; the text is the reason it gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Allowed; ask nobody else.
    Allow(String),
    /// Denied; ask nobody else.
    Deny(String),
    /// Not mine to decide.
    NoOpinion(String),
}

/// One rule of a `SelfSubjectRulesReview`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Verbs.
    pub verbs: Vec<String>,
    /// API groups; empty for a non-resource rule.
    pub groups: Vec<String>,
    /// Resources; empty for a non-resource rule.
    pub resources: Vec<String>,
    /// Names that the rule is limited to.
    pub names: Vec<String>,
    /// Non-resource paths.
    pub paths: Vec<String>,
}

/// Decides whether a user may do something.
pub trait Authorizer: Send + Sync + 'static {
    /// The decision on one request.
    fn authorize(&self, user: &UserInfo, attributes: &Attributes) -> Decision;

    /// What the user may do in a namespace, and whether the answer is incomplete.
    fn rules_for(&self, user: &UserInfo, namespace: &str) -> (Vec<Rule>, bool) {
        let _ = (user, namespace);
        (Vec::new(), true)
    }
}

/// Allows `system:masters` and the API server itself everything, and everybody health and version; denies the rest.
#[derive(Clone, Copy, Debug, Default)]
pub struct AllowMasters;

const PUBLIC: &[&str] = &["/healthz", "/livez", "/readyz", "/version", "/version/"];

/// Whether a request asks for health or version: what anybody may know.
#[must_use]
pub fn is_public(attributes: &Attributes) -> bool {
    !attributes.resource_request && attributes.verb == "get" && PUBLIC.contains(&attributes.path.as_str())
}

impl Authorizer for AllowMasters {
    fn authorize(&self, user: &UserInfo, attributes: &Attributes) -> Decision {
        if user.name == APISERVER || user.in_group(MASTERS) {
            return Decision::Allow(String::new());
        }
        if is_public(attributes) {
            return Decision::Allow(String::new());
        }
        Decision::NoOpinion(String::new())
    }

    fn rules_for(&self, user: &UserInfo, _namespace: &str) -> (Vec<Rule>, bool) {
        let all = || vec!["*".to_owned()];
        if user.name != APISERVER && !user.in_group(MASTERS) {
            return (Vec::new(), false);
        }
        let objects = Rule {
            verbs: all(),
            groups: all(),
            resources: all(),
            ..Rule::default()
        };
        let paths = Rule {
            verbs: all(),
            paths: all(),
            ..Rule::default()
        };
        (vec![objects, paths], false)
    }
}

/// The 403 that follows a decision other than `Allow`.
#[must_use]
pub fn forbidden(user: &UserInfo, attributes: &Attributes, reason: &str) -> Status {
    let because = if reason.is_empty() {
        String::new()
    } else {
        format!(": {reason}")
    };
    if !attributes.resource_request {
        let why = format!(
            "User {:?} cannot {} path {:?}{because}",
            user.name, attributes.verb, attributes.path
        );
        return Status::forbidden("", "", "", &why);
    }
    let resource = if attributes.subresource.is_empty() {
        attributes.resource.clone()
    } else {
        format!("{}/{}", attributes.resource, attributes.subresource)
    };
    let place = if attributes.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {:?}", attributes.namespace)
    };
    let why = format!(
        "User {:?} cannot {} resource {resource:?} in API group {:?} {place}{because}",
        user.name, attributes.verb, attributes.group
    );
    Status::forbidden(&attributes.group, &attributes.resource, &attributes.name, &why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forbidden_texts_are_upstreams() {
        let alice = UserInfo::new("alice", &["system:authenticated"]);
        let list = Attributes {
            verb: "list".into(),
            resource_request: true,
            resource: "pods".into(),
            namespace: "ns".into(),
            ..Attributes::default()
        };
        assert_eq!(
            forbidden(&alice, &list, "").message,
            r#"pods is forbidden: User "alice" cannot list resource "pods" in API group "" in the namespace "ns""#
        );
        let exec = Attributes {
            verb: "create".into(),
            resource_request: true,
            resource: "pods".into(),
            subresource: "exec".into(),
            name: "x".into(),
            ..Attributes::default()
        };
        assert_eq!(
            forbidden(&alice, &exec, "no").message,
            r#"pods "x" is forbidden: User "alice" cannot create resource "pods/exec" in API group "" at the cluster scope: no"#
        );
        let path = Attributes {
            verb: "get".into(),
            path: "/metrics".into(),
            ..Attributes::default()
        };
        let status = forbidden(&alice, &path, "");
        assert_eq!(status.message, r#"forbidden: User "alice" cannot get path "/metrics""#);
        assert_eq!(status.details, Some(Box::default()));
    }

    #[test]
    fn masters_may_everything_and_others_only_health() {
        let get = |path: &str| Attributes {
            verb: "get".into(),
            path: path.into(),
            ..Attributes::default()
        };
        let bob = UserInfo::new("bob", &[]);
        assert_eq!(AllowMasters.authorize(&bob, &get("/livez")), Decision::Allow(String::new()));
        assert_eq!(
            AllowMasters.authorize(&bob, &get("/metrics")),
            Decision::NoOpinion(String::new())
        );
        let master = UserInfo::new("m", &[MASTERS]);
        assert_eq!(
            AllowMasters.authorize(&master, &get("/metrics")),
            Decision::Allow(String::new())
        );
    }
}
