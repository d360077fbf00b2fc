//! Role-based access control: which rules apply to a user, and whether they allow a request
//! (plugin/pkg/auth/authorizer/rbac, pkg/registry/rbac/validation).
//!
//! Invariant: permissions only add up; nothing here denies.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;

/// `rbac.PolicyRule`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    /// Verbs, or `*`.
    pub verbs: Vec<String>,
    /// API groups, or `*`.
    pub api_groups: Vec<String>,
    /// Resources, `resource/subresource`, `*/subresource`, or `*`.
    pub resources: Vec<String>,
    /// Names; empty for all.
    pub resource_names: Vec<String>,
    /// Paths, with a trailing `*` for all below.
    #[serde(rename = "nonResourceURLs")]
    pub non_resource_urls: Vec<String>,
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub enum Query<'a> {
    /// A resource.
    Resource {
        /// Verb.
        verb: &'a str,
        /// API group, empty for core.
        group: &'a str,
        /// Plural, with `/subresource` where there is one.
        resource: &'a str,
        /// Name, empty for a collection.
        name: &'a str,
    },
    /// A path.
    Path {
        /// Lower-case method.
        verb: &'a str,
        /// Path.
        path: &'a str,
    },
}

impl Rule {
    /// Whether the rule allows it.
    #[must_use]
    pub fn allows(&self, query: &Query<'_>) -> bool {
        let holds = |list: &[String], wanted: &str| list.iter().any(|item| item == "*" || item == wanted);
        match query {
            Query::Resource {
                verb,
                group,
                resource,
                name,
            } => {
                holds(&self.verbs, verb)
                    && holds(&self.api_groups, group)
                    && self.covers_resource(resource)
                    && (self.resource_names.is_empty() || self.resource_names.iter().any(|held| held == name))
            }
            Query::Path { verb, path } => {
                holds(&self.verbs, verb)
                    && self.non_resource_urls.iter().any(|held| match held.strip_suffix('*') {
                        Some(prefix) => path.starts_with(prefix),
                        None => held == path,
                    })
            }
        }
    }

    fn covers_resource(&self, resource: &str) -> bool {
        let subresource = resource.split_once('/').map(|(_, subresource)| subresource);
        self.resources.iter().any(|held| {
            held == "*" || held == resource || (held.strip_prefix("*/").is_some() && held.strip_prefix("*/") == subresource)
        })
    }

    /// Whether `self` allows everything that `other` allows, where `other` is broken down to one verb, group, resource
    /// and name.
    fn covers(&self, other: &Self) -> bool {
        let all = |own: &[String], wanted: &[String]| {
            own.iter().any(|item| item == "*") || wanted.iter().all(|item| own.contains(item))
        };
        let resources =
            self.resources.iter().any(|item| item == "*") || other.resources.iter().all(|item| self.covers_resource(item));
        let names = self.resource_names.is_empty()
            || (!other.resource_names.is_empty() && other.resource_names.iter().all(|name| self.resource_names.contains(name)));
        let paths = other.non_resource_urls.iter().all(|path| {
            self.non_resource_urls.iter().any(|held| match held.strip_suffix('*') {
                Some(prefix) => path.starts_with(prefix),
                None => held == path,
            })
        });
        all(&self.verbs, &other.verbs) && all(&self.api_groups, &other.api_groups) && resources && names && paths
    }

    /// The rule as many rules of one verb, group, resource and name each.
    fn broken_down(&self) -> Vec<Self> {
        let mut pieces = Vec::new();
        for verb in &self.verbs {
            for path in &self.non_resource_urls {
                pieces.push(Self {
                    verbs: vec![verb.clone()],
                    non_resource_urls: vec![path.clone()],
                    ..Self::default()
                });
            }
            for group in &self.api_groups {
                for resource in &self.resources {
                    let piece = Self {
                        verbs: vec![verb.clone()],
                        api_groups: vec![group.clone()],
                        resources: vec![resource.clone()],
                        ..Self::default()
                    };
                    if self.resource_names.is_empty() {
                        pieces.push(piece);
                    } else {
                        let named = self.resource_names.iter().map(|name| Self {
                            resource_names: vec![name.clone()],
                            ..piece.clone()
                        });
                        pieces.extend(named);
                    }
                }
            }
        }
        pieces
    }
}

/// What of `wanted` the rules `held` do not allow: empty where granting `wanted` gives away nothing that one does not
/// have oneself.
#[must_use]
pub fn uncovered(held: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    let pieces = wanted.iter().flat_map(Rule::broken_down);
    pieces.filter(|piece| !held.iter().any(|rule| rule.covers(piece))).collect()
}

/// Rules of one group, resource and name at most that differ by their verbs alone become one.
#[must_use]
pub fn compact(rules: Vec<Rule>) -> Vec<Rule> {
    let mut compacted: Vec<Rule> = Vec::new();
    for rule in rules {
        let simple = rule.api_groups.len() == 1
            && rule.resources.len() == 1
            && rule.resource_names.len() <= 1
            && rule.non_resource_urls.is_empty();
        let alike = |other: &&mut Rule| {
            simple
                && other.api_groups == rule.api_groups
                && other.resources == rule.resources
                && other.resource_names == rule.resource_names
                && other.non_resource_urls.is_empty()
        };
        match compacted.iter_mut().find(alike) {
            Some(other) => other.verbs.extend(rule.verbs),
            None => compacted.push(rule),
        }
    }
    compacted
}

impl std::fmt::Display for Rule {
    /// As upstream's compact form.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let named = [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.non_resource_urls),
            ("ResourceNames", &self.resource_names),
            ("Verbs", &self.verbs),
        ];
        let parts = named.into_iter().filter(|(_, items)| !items.is_empty()).map(|(name, items)| {
            let items: Vec<String> = items.iter().map(|item| format!("{item:?}")).collect();
            format!("{name}:[{}]", items.join(" "))
        });
        write!(out, "{{{}}}", parts.collect::<Vec<_>>().join(", "))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
struct Subject {
    kind: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    namespace: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct RoleRef {
    kind: String,
    name: String,
}

#[derive(Clone, Debug)]
struct Binding {
    role: RoleRef,
    subjects: Vec<Subject>,
}

/// All roles and bindings, kept current by whoever watches them.
#[derive(Clone, Debug, Default)]
pub struct Rbac {
    /// By namespace (empty for ClusterRoles) and name.
    roles: BTreeMap<(String, String), Vec<Rule>>,
    /// By namespace (empty for ClusterRoleBindings) and name.
    bindings: BTreeMap<(String, String), Binding>,
}

/// A user, as far as rules are concerned.
#[derive(Clone, Copy, Debug)]
pub struct Who<'a> {
    /// Name.
    pub name: &'a str,
    /// Groups.
    pub groups: &'a [String],
}

impl Rbac {
    /// Takes in a Role, ClusterRole, RoleBinding or ClusterRoleBinding. Other kinds and malformed objects are ignored:
    /// they grant nothing.
    pub fn set(&mut self, object: &Value) {
        let Some(key) = key(object) else { return };
        match object["kind"].as_str() {
            Some("Role" | "ClusterRole") => {
                let rules = Vec::<Rule>::deserialize(&object["rules"]).unwrap_or_default();
                self.roles.insert(key, rules);
            }
            Some("RoleBinding" | "ClusterRoleBinding") => {
                let subjects = Vec::<Subject>::deserialize(&object["subjects"]).unwrap_or_default();
                if let Ok(role) = RoleRef::deserialize(&object["roleRef"]) {
                    self.bindings.insert(key, Binding { role, subjects });
                }
            }
            _ => {}
        }
    }

    /// Forgets a deleted object.
    pub fn remove(&mut self, object: &Value) {
        let Some(key) = key(object) else { return };
        match object["kind"].as_str() {
            Some("Role" | "ClusterRole") => drop(self.roles.remove(&key)),
            Some("RoleBinding" | "ClusterRoleBinding") => drop(self.bindings.remove(&key)),
            _ => {}
        }
    }

    /// Whether some rule allows it; then the reason, naming the binding.
    #[must_use]
    pub fn allows(&self, who: &Who<'_>, namespace: &str, query: &Query<'_>) -> Option<String> {
        self.granted(who, namespace, matches!(query, Query::Path { .. }))
            .find(|(rules, _)| rules.iter().any(|rule| rule.allows(query)))
            .map(|(_, reason)| reason)
    }

    /// All rules that apply to a user in a namespace (empty: at cluster scope), in a stable order.
    #[must_use]
    pub fn rules(&self, who: &Who<'_>, namespace: &str) -> Vec<Rule> {
        let set: BTreeSet<Rule> = self
            .granted(who, namespace, false)
            .flat_map(|(rules, _)| rules.iter().cloned())
            .collect();
        set.into_iter().collect()
    }

    /// The rules of a role that a binding in `namespace` would grant.
    #[must_use]
    pub fn rules_of(&self, namespace: &str, kind: &str, name: &str) -> Option<&[Rule]> {
        let namespace = if kind == "Role" { namespace } else { "" };
        self.roles.get(&(namespace.to_owned(), name.to_owned())).map(Vec::as_slice)
    }

    fn granted<'a>(
        &'a self,
        who: &'a Who<'_>,
        namespace: &'a str,
        cluster_only: bool,
    ) -> impl Iterator<Item = (&'a Vec<Rule>, String)> + 'a {
        let in_scope = move |of: &str| of.is_empty() || (!cluster_only && of == namespace);
        self.bindings
            .iter()
            .filter(move |((of, _), _)| in_scope(of))
            .filter_map(move |((of, name), binding)| {
                let subject = binding.subjects.iter().find(|subject| applies(subject, who, of))?;
                let role_namespace = if binding.role.kind == "Role" {
                    of.clone()
                } else {
                    String::new()
                };
                let rules = self.roles.get(&(role_namespace, binding.role.name.clone()))?;
                let subject = match subject.kind.as_str() {
                    "ServiceAccount" => format!("ServiceAccount \"{}/{}\"", subject.name, subject.namespace),
                    kind => format!("{kind} \"{}\"", subject.name),
                };
                let (kind, shown) = if of.is_empty() {
                    ("ClusterRoleBinding", name.clone())
                } else {
                    ("RoleBinding", format!("{name}/{of}"))
                };
                let role = &binding.role;
                Some((
                    rules,
                    format!(
                        "RBAC: allowed by {kind} \"{shown}\" of {} \"{}\" to {subject}",
                        role.kind, role.name
                    ),
                ))
            })
    }
}

fn key(object: &Value) -> Option<(String, String)> {
    let metadata = &object["metadata"];
    Some((
        metadata["namespace"].as_str().unwrap_or_default().to_owned(),
        metadata["name"].as_str()?.to_owned(),
    ))
}

fn applies(subject: &Subject, who: &Who<'_>, binding_namespace: &str) -> bool {
    match subject.kind.as_str() {
        "User" => subject.name == who.name,
        "Group" => who.groups.contains(&subject.name),
        "ServiceAccount" => {
            let namespace = if subject.namespace.is_empty() {
                binding_namespace
            } else {
                &subject.namespace
            };
            !namespace.is_empty()
                && who
                    .name
                    .strip_prefix("system:serviceaccount:")
                    .and_then(|rest| rest.split_once(':'))
                    == Some((namespace, &subject.name))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rbac() -> Rbac {
        let mut rbac = Rbac::default();
        for object in crate::bootstrap::objects() {
            rbac.set(&object);
        }
        for object in [
            json!({"kind": "Role", "metadata": {"namespace": "ns", "name": "reader"},
                "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods", "*/log"], "resourceNames": ["a"]}]}),
            json!({"kind": "RoleBinding", "metadata": {"namespace": "ns", "name": "b"}, "roleRef": {"kind": "Role", "name": "reader"},
                "subjects": [{"kind": "User", "name": "alice"}, {"kind": "ServiceAccount", "name": "robot", "namespace": "other"}]}),
        ] {
            rbac.set(&object);
        }
        rbac
    }

    fn get<'a>(resource: &'a str, name: &'a str) -> Query<'a> {
        Query::Resource {
            verb: "get",
            group: "",
            resource,
            name,
        }
    }

    #[test]
    fn rules_match_by_verb_group_resource_name_and_scope() {
        let rbac = rbac();
        let none: Vec<String> = vec![];
        let alice = Who {
            name: "alice",
            groups: &none,
        };
        let robot = Who {
            name: "system:serviceaccount:other:robot",
            groups: &none,
        };
        for (who, namespace, query, allowed) in [
            (&alice, "ns", get("pods", "a"), true),
            (&alice, "ns", get("pods", "b"), false),
            (&alice, "ns", get("pods", ""), false),
            (&alice, "elsewhere", get("pods", "a"), false),
            (&alice, "ns", get("pods/log", "a"), true),
            (&alice, "ns", get("pods/exec", "a"), false),
            (&robot, "ns", get("pods", "a"), true),
            (
                &alice,
                "ns",
                Query::Resource {
                    verb: "get",
                    group: "apps",
                    resource: "pods",
                    name: "a",
                },
                false,
            ),
        ] {
            assert_eq!(
                rbac.allows(who, namespace, &query).is_some(),
                allowed,
                "{who:?} {namespace} {query:?}"
            );
        }
        let reason = rbac.allows(&alice, "ns", &get("pods", "a")).unwrap();
        assert_eq!(
            reason,
            r#"RBAC: allowed by RoleBinding "b/ns" of Role "reader" to User "alice""#
        );
    }

    #[test]
    fn bootstrap_roles_let_masters_do_all_and_everyone_discover() {
        let rbac = rbac();
        let masters = vec!["system:masters".to_owned()];
        let anyone = vec!["system:authenticated".to_owned()];
        let admin = Who {
            name: "admin",
            groups: &masters,
        };
        let user = Who {
            name: "user",
            groups: &anyone,
        };
        assert!(
            rbac.allows(
                &admin,
                "",
                &Query::Path {
                    verb: "get",
                    path: "/metrics"
                }
            )
            .is_some()
        );
        assert!(
            rbac.allows(
                &user,
                "",
                &Query::Path {
                    verb: "get",
                    path: "/apis/apps/v1"
                }
            )
            .is_some()
        );
        assert!(
            rbac.allows(
                &user,
                "",
                &Query::Path {
                    verb: "get",
                    path: "/metrics"
                }
            )
            .is_none()
        );
    }

    #[test]
    fn nobody_grants_what_they_lack() {
        let rule = |verbs: &[&str], resources: &[&str]| Rule {
            verbs: verbs.iter().map(|verb| (*verb).to_owned()).collect(),
            api_groups: vec![String::new()],
            resources: resources.iter().map(|resource| (*resource).to_owned()).collect(),
            ..Rule::default()
        };
        let held = [rule(&["get", "list"], &["pods"]), rule(&["*"], &["secrets"])];
        assert!(uncovered(&held, &[rule(&["get"], &["pods", "secrets"])]).is_empty());
        assert_eq!(
            uncovered(&held, &[rule(&["get", "delete"], &["pods"])]),
            [rule(&["delete"], &["pods"])]
        );
        assert_eq!(uncovered(&held, &[rule(&["*"], &["pods"])]).len(), 1);
    }
}
