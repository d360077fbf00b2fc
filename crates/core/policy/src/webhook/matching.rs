//! Which requests concern a webhook: rules, and the selectors of namespaces and objects.

use serde_json::Value;
use trireme_api::{Status, selector::LabelSelector};

use super::hook::Hook;

/// A resource, by group, version and plural name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Resource<'a> {
    /// Group; empty for the core group.
    pub group: &'a str,
    /// Version.
    pub version: &'a str,
    /// Plural name.
    pub plural: &'a str,
}

/// A kind, by group, version and name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kind<'a> {
    /// Group; empty for the core group.
    pub group: &'a str,
    /// Version.
    pub version: &'a str,
    /// Name.
    pub kind: &'a str,
}

/// What rules look at.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    /// `CREATE`, `UPDATE`, `DELETE` or `CONNECT`.
    pub operation: &'a str,
    /// The resource that the request names.
    pub resource: Resource<'a>,
    /// Its subresource; empty for the object itself.
    pub subresource: &'a str,
    /// The namespace; of a namespace, its own name; empty for what is in none.
    pub namespace: &'a str,
}

/// One rule of a webhook.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    /// Each as resource and subresource.
    resources: Vec<(String, String)>,
    scope: String,
}

pub(super) fn texts(value: &Value) -> Vec<String> {
    let items = value.as_array().into_iter().flatten();
    items.filter_map(Value::as_str).map(str::to_owned).collect()
}

fn named(items: &[String], wanted: &str) -> bool {
    items.iter().any(|item| item == "*" || item == wanted)
}

impl Rule {
    /// As it stands in a configuration.
    #[must_use]
    pub fn of(rule: &Value) -> Self {
        let split = |text: String| match text.split_once('/') {
            Some((resource, subresource)) => (resource.to_owned(), subresource.to_owned()),
            None => (text, String::new()),
        };
        Self {
            operations: texts(&rule["operations"]),
            groups: texts(&rule["apiGroups"]),
            versions: texts(&rule["apiVersions"]),
            resources: texts(&rule["resources"]).into_iter().map(split).collect(),
            scope: rule["scope"].as_str().unwrap_or("*").to_owned(),
        }
    }

    /// Whether it means a request, as if that named this resource.
    #[must_use]
    pub fn matches(&self, attributes: &Attributes<'_>, resource: Resource<'_>) -> bool {
        let part = |item: &str, wanted: &str| item == "*" || item == wanted;
        self.in_scope(attributes, resource)
            && named(&self.operations, attributes.operation)
            && named(&self.groups, resource.group)
            && named(&self.versions, resource.version)
            && self
                .resources
                .iter()
                .any(|(own, subresource)| part(own, resource.plural) && part(subresource, attributes.subresource))
    }

    /// A namespace is in none, though requests for it carry its name.
    fn in_scope(&self, attributes: &Attributes<'_>, resource: Resource<'_>) -> bool {
        let of_cluster = is_namespaces(resource) || attributes.namespace.is_empty();
        match self.scope.as_str() {
            "*" => true,
            "Namespaced" => !of_cluster,
            "Cluster" => of_cluster,
            _ => false,
        }
    }
}

fn is_namespaces(resource: Resource<'_>) -> bool {
    (resource.group, resource.version, resource.plural) == ("", "v1", "namespaces")
}

/// Whether no webhook may look at objects of a kind: those that configure admission, or nobody could mend a bad one.
#[must_use]
pub fn is_exempt(group: &str, kind: &str) -> bool {
    const KINDS: [&str; 6] = [
        "ValidatingWebhookConfiguration",
        "MutatingWebhookConfiguration",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
        "MutatingAdmissionPolicy",
        "MutatingAdmissionPolicyBinding",
    ];
    group == "admissionregistration.k8s.io" && KINDS.contains(&kind)
}

/// Labels of the objects of a request, as JSON.
#[derive(Clone, Copy, Debug)]
pub struct Selected<'a> {
    /// The new object; none where there is none.
    pub object: Option<&'a Value>,
    /// The object as it is; none where there is none.
    pub old: Option<&'a Value>,
}

impl Hook {
    /// The resource that its rules mean of a request: the request's own, else the first of `equivalents` (the same objects in
    /// other groups and versions) that a rule names; none where it does not concern it.
    #[must_use]
    pub fn concerned_by<'a>(
        &self,
        attributes: &Attributes<'a>,
        equivalents: &dyn Fn() -> Vec<Resource<'a>>,
    ) -> Option<Resource<'a>> {
        if self.rules.iter().any(|rule| rule.matches(attributes, attributes.resource)) {
            return Some(attributes.resource);
        }
        // What no rule can mean, whatever the version, is not looked up.
        let possible = |rule: &Rule| named(&rule.operations, attributes.operation);
        if !self.equivalent || !self.rules.iter().any(possible) {
            return None;
        }
        let equivalents = equivalents();
        self.rules.iter().find_map(|rule| {
            let mut others = equivalents.iter().filter(|other| **other != attributes.resource);
            others.find(|other| rule.matches(attributes, **other)).copied()
        })
    }

    /// Whether its selectors take a request that its rules mean. `labels_of` gives the labels of a namespace that is stored.
    ///
    /// # Errors
    /// 404 for a namespace that is not there, 500 for a selector that is none.
    pub fn selects(
        &self,
        attributes: &Attributes<'_>,
        selected: Selected<'_>,
        labels_of: &dyn Fn(&str) -> Option<Value>,
    ) -> Result<bool, Status> {
        let internal = |why: &String| Status::internal(why);
        let objects = self.objects.as_ref().map_err(internal).map(|selector| match selector {
            None => true,
            Some(selector) => {
                let matches = |object: Option<&Value>| object.is_some_and(|object| labelled(selector, object));
                matches(selected.object) || matches(selected.old)
            }
        });
        let namespaces = self.selects_namespace(attributes, selected, labels_of);
        // Who is not meant by one of the two is told nothing of what is wrong with the other.
        if matches!(namespaces, Ok(false)) || matches!(objects, Ok(false)) {
            return Ok(false);
        }
        Ok(namespaces? && objects?)
    }

    fn selects_namespace(
        &self,
        attributes: &Attributes<'_>,
        selected: Selected<'_>,
        labels_of: &dyn Fn(&str) -> Option<Value>,
    ) -> Result<bool, Status> {
        let of_namespaces = attributes.resource.plural == "namespaces";
        if attributes.namespace.is_empty() && !of_namespaces {
            return Ok(true);
        }
        let selector = match &self.namespaces {
            Err(why) => return Err(Status::internal(why)),
            Ok(None) => return Ok(true),
            Ok(Some(selector)) => selector,
        };
        // A namespace that is written is judged as it will be.
        let written = matches!(attributes.operation, "CREATE" | "UPDATE");
        if of_namespaces && attributes.subresource.is_empty() && written {
            return Ok(selected.object.is_some_and(|object| labelled(selector, object)));
        }
        let labels = labels_of(attributes.namespace).ok_or_else(|| Status::not_found("", "namespaces", attributes.namespace))?;
        Ok(selector.matches_value(Some(&labels)))
    }
}

fn labelled(selector: &LabelSelector, object: &Value) -> bool {
    selector.matches_value(object.pointer("/metadata/labels"))
}
