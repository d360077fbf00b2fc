//! Objects that a stock server takes, one or two of each kind.

use std::hash::{DefaultHasher, Hash, Hasher};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use trireme_resources::rows::{self, Resource};

/// One of them.
#[derive(Clone, Debug)]
pub(crate) struct Example {
    pub(crate) row: &'static Resource,
    pub(crate) object: Value,
    /// Its name, where it cannot have any.
    pub(crate) name: Option<String>,
}

/// Kinds whose objects change what a server does to others: nothing of them is kept.
const GLOBAL: &[&str] = &[
    "Namespace",
    "MutatingWebhookConfiguration",
    "ValidatingWebhookConfiguration",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "APIService",
    "CustomResourceDefinition",
    "FlowSchema",
    "PriorityLevelConfiguration",
    "ServiceCIDR",
    "PriorityClass",
];

/// Kinds whose objects change what a server does to others of their namespace: they have one of their own.
const RULING: &[&str] = &["LimitRange", "ResourceQuota"];
/// Stands for a name that is an address, another one in each case.
const ADDRESS: &str = "ADDRESS";
/// Behind the run's namespace, the name of theirs.
pub(crate) const RULES: &str = "-rules";

impl Example {
    /// Whether its kind rules over its namespace.
    pub(crate) fn rules(&self) -> bool {
        RULING.contains(&self.row.kind)
    }

    /// Whether its kind rules over others.
    pub(crate) fn is_global(&self) -> bool {
        GLOBAL.contains(&self.row.kind)
    }

    /// The name of its object in the case of that name.
    pub(crate) fn name_of(&self, case: &str) -> String {
        match self.name.as_deref() {
            None => case.to_owned(),
            Some(ADDRESS) => {
                let mut hasher = DefaultHasher::new();
                case.hash(&mut hasher);
                let hash = hasher.finish();
                // Four digits each, so that no other way to write it is shorter.
                let group = |bits: u64| bits & 0xffff | 0x1000;
                format!("2001:db8::{:x}:{:x}", group(hash >> 16), group(hash))
            }
            Some(fixed) => fixed.to_owned(),
        }
    }

    /// The path of its collection.
    pub(crate) fn collection(&self, namespace: &str) -> String {
        let row = self.row;
        let group = if row.group.is_empty() {
            "/api".to_owned()
        } else {
            format!("/apis/{}", row.group)
        };
        let inside = if row.namespaced {
            format!("/namespaces/{namespace}")
        } else {
            String::new()
        };
        format!("{group}/{}{inside}/{}", row.version, row.plural)
    }
}

/// All of these kinds, or all.
pub(crate) fn all(kinds: &[String]) -> Result<Vec<Example>> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(include_str!("../examples.yaml")).context("examples.yaml")?;
    let mut found = Vec::new();
    for mut object in documents {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let (Some(version), Some(kind)) = (text(&object["apiVersion"]), text(&object["kind"])) else {
            continue;
        };
        let (group, version) = version.split_once('/').unwrap_or(("", &version));
        let row =
            rows::find_kind(group, version, &kind).with_context(|| format!("examples.yaml: no kind {group}/{version} {kind}"))?;
        let fits = |wanted: &String| wanted.eq_ignore_ascii_case(row.kind) || wanted == row.plural;
        if !kinds.is_empty() && !kinds.iter().any(fits) {
            continue;
        }
        let name = object
            .as_object_mut()
            .and_then(|object| object.remove("name"))
            .and_then(|name| text(&name));
        found.push(Example { row, object, name });
    }
    ensure!(!found.is_empty(), "--kinds: there is no example of {}", kinds.join(", "));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_case_has_an_address_of_its_own() {
        let example = all(&["IPAddress".to_owned()]).unwrap().remove(0);
        let names = ["c1", "c2", "c1-1"].map(|case| example.name_of(case));
        assert_eq!(names, ["c1", "c2", "c1-1"].map(|case| example.name_of(case)));
        for (index, name) in names.iter().enumerate() {
            let address: std::net::Ipv6Addr = name.parse().unwrap();
            assert_eq!(address.to_string(), *name);
            assert!(!names[..index].contains(name));
        }
    }

    #[test]
    fn every_kind_that_can_be_made_has_an_example() {
        let examples = all(&[]).unwrap();
        // A binding needs a pod; what a review of oneself says is one's own; alpha kinds are not served by a stock server.
        let without = [
            "Binding",
            "SelfSubjectReview",
            "SelfSubjectRulesReview",
            "MutatingAdmissionPolicy",
            "MutatingAdmissionPolicyBinding",
        ];
        for row in rows::rows()
            .iter()
            .filter(|row| row.has_verb("create") && !without.contains(&row.kind))
        {
            let found = examples
                .iter()
                .any(|example| example.row.group == row.group && example.row.kind == row.kind);
            assert!(found, "{} {}", row.api_version(), row.kind);
        }
    }
}
