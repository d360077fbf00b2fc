//! Nobody makes or binds a role with rules they lack, unless they may `escalate` or `bind`
//! (pkg/registry/rbac/{role,clusterrole,rolebinding,clusterrolebinding}/policybased).
//!
//! Invariant: the whole role counts, also where only its labels change: labels say which aggregated roles take it in.

use serde_json::Value;
use trireme_api::Status;

use super::{Operation, Permission, Request};
use crate::rbac::{self, Rule};

const GROUP: &str = "rbac.authorization.k8s.io";

/// What only who may do everything has.
fn everything() -> [Rule; 2] {
    let all = || vec!["*".to_owned()];
    [
        Rule {
            verbs: all(),
            api_groups: all(),
            resources: all(),
            ..Rule::default()
        },
        Rule {
            verbs: all(),
            non_resource_urls: all(),
            ..Rule::default()
        },
    ]
}

pub(super) fn check(request: &Request<'_>) -> Result<(), Status> {
    let written = matches!(request.operation, Operation::Create | Operation::Update);
    if request.group != GROUP || !written || request.authority.is_unlimited() {
        return Ok(());
    }
    if request.old.is_some_and(|old| only_collected(old, request.object)) {
        return Ok(());
    }
    match request.resource {
        "roles" | "clusterroles" => check_role(request),
        "rolebindings" | "clusterrolebindings" => check_binding(request),
        _ => Ok(()),
    }
}

/// Whether nothing changes but what garbage collection needs: owners and finalizers.
fn only_collected(old: &Value, new: &Value) -> bool {
    let without = |object: &Value| {
        let mut object = object.clone();
        if let Some(metadata) = object["metadata"].as_object_mut() {
            for name in ["ownerReferences", "finalizers", "selfLink", "managedFields"] {
                metadata.remove(name);
            }
        }
        object
    };
    without(old) == without(new)
}

fn check_role(request: &Request<'_>) -> Result<(), Status> {
    let escalates = Permission {
        verb: "escalate",
        group: GROUP,
        resource: request.resource,
        namespace: request.namespace,
        name: request.name,
    };
    if request.authority.allows(&escalates) {
        return Ok(());
    }
    let held = request.authority.rules(request.namespace);
    covered(request, &held, &rules(&request.object["rules"]))?;
    let gathers = |role: &Value| {
        let selectors = role["aggregationRule"]["clusterRoleSelectors"].as_array();
        selectors.is_some_and(|selectors| !selectors.is_empty())
    };
    let gathers = gathers(request.object) || request.old.is_some_and(gathers);
    if gathers && !rbac::uncovered(&held, &everything()).is_empty() {
        return Err(request.forbid("must have cluster-admin privileges to use the aggregationRule"));
    }
    Ok(())
}

fn check_binding(request: &Request<'_>) -> Result<(), Status> {
    let reference = &request.object["roleRef"];
    let name = reference["name"].as_str().unwrap_or_default();
    let (resource, namespace) = match reference["kind"].as_str() {
        Some("Role") => ("roles", request.namespace),
        Some("ClusterRole") => ("clusterroles", ""),
        _ => return Ok(()), // Validation refuses it.
    };
    let binds = Permission {
        verb: "bind",
        group: GROUP,
        resource,
        namespace: request.namespace,
        name,
    };
    if request.authority.allows(&binds) {
        return Ok(());
    }
    let Some(role) = request.lookup.get(GROUP, resource, namespace, name) else {
        return Err(Status::not_found(GROUP, resource, name));
    };
    let held = request.authority.rules(request.namespace);
    covered(request, &held, &rules(&role["rules"]))
}

fn rules(value: &Value) -> Vec<Rule> {
    serde_json::from_value(value.clone()).unwrap_or_default()
}

fn covered(request: &Request<'_>, held: &[Rule], wanted: &[Rule]) -> Result<(), Status> {
    let missing = rbac::uncovered(held, wanted);
    if missing.is_empty() {
        return Ok(());
    }
    let mut listed: Vec<String> = rbac::compact(missing).iter().map(ToString::to_string).collect();
    listed.sort();
    listed.dedup();
    let groups: Vec<String> = request.groups.iter().map(|group| format!("{group:?}")).collect();
    Err(request.forbid(&format!(
        "user {:?} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
        request.user,
        groups.join(" "),
        listed.join("\n")
    )))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{Authority, Request, World, mutate};
    use super::*;

    /// Somebody with these rules and these verbs on any role.
    struct Somebody(Vec<Rule>, &'static [&'static str]);

    impl Authority for Somebody {
        fn is_unlimited(&self) -> bool {
            false
        }

        fn allows(&self, permission: &Permission<'_>) -> bool {
            self.1.contains(&permission.verb)
        }

        fn rules(&self, _namespace: &str) -> Vec<Rule> {
            self.0.clone()
        }
    }

    fn rule(verbs: &[&str], resources: &[&str]) -> Value {
        json!({"verbs": verbs, "apiGroups": [""], "resources": resources})
    }

    fn write(who: &Somebody, resource: &str, old: Option<&Value>, mut object: Value) -> Result<(), String> {
        let world = World(vec![(
            "clusterroles",
            json!({"metadata": {"name": "strong"}, "rules": [rule(&["delete"], &["nodes"])]}),
        )]);
        mutate(
            &mut Request {
                group: GROUP,
                resource,
                subresource: "",
                operation: if old.is_some() { Operation::Update } else { Operation::Create },
                namespace: "",
                name: "r",
                user: "alice",
                groups: &["devs".to_owned(), "system:authenticated".to_owned()],
                object: &mut object,
                old,
                lookup: &world,
                authority: who,
                warnings: &mut Vec::new(),
            },
            &mut String::new,
        )
        .map_err(|status| status.message)
    }

    #[test]
    fn a_role_holds_no_more_than_its_writer() {
        let somebody = Somebody(rules(&json!([rule(&["get", "list"], &["pods"])])), &[]);
        let role = |rules: Value| json!({"kind": "ClusterRole", "metadata": {"name": "r"}, "rules": rules});
        assert_eq!(
            write(&somebody, "clusterroles", None, role(json!([rule(&["get"], &["pods"])]))),
            Ok(())
        );
        let strong =
            role(json!([rule(&["delete", "get", "watch"], &["pods", "nodes"]), {"verbs": ["get"], "nonResourceURLs": ["/x"]}]));
        let refused = "clusterroles.rbac.authorization.k8s.io \"r\" is forbidden: user \"alice\" (groups=[\"devs\" \
                       \"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n\
                       {APIGroups:[\"\"], Resources:[\"nodes\"], Verbs:[\"delete\" \"get\" \"watch\"]}\n\
                       {APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\" \"watch\"]}\n\
                       {NonResourceURLs:[\"/x\"], Verbs:[\"get\"]}";
        assert_eq!(
            write(&somebody, "clusterroles", None, strong.clone()),
            Err(refused.to_owned())
        );
        // A label may make others' roles take this one in.
        let mut labelled = strong.clone();
        labelled["metadata"]["labels"] = json!({"rbac.authorization.k8s.io/aggregate-to-view": "true"});
        assert!(write(&somebody, "clusterroles", Some(&strong), labelled.clone()).is_err());
        assert_eq!(
            write(&Somebody(Vec::new(), &["escalate"]), "clusterroles", Some(&strong), labelled),
            Ok(())
        );
        let mut owned = strong.clone();
        owned["metadata"]["finalizers"] = json!(["a/b"]);
        assert_eq!(write(&somebody, "clusterroles", Some(&strong), owned), Ok(()));
    }

    #[test]
    fn who_lets_a_role_gather_must_hold_everything() {
        let gathering = json!({"kind": "ClusterRole", "metadata": {"name": "r"}, "rules": [],
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]}});
        let plain = json!({"kind": "ClusterRole", "metadata": {"name": "r"}, "rules": []});
        let almost = Somebody(rules(&json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}])), &[]);
        let all = Somebody(everything().to_vec(), &[]);
        let escalating = Somebody(Vec::new(), &["escalate"]);
        let refused = "clusterroles.rbac.authorization.k8s.io \"r\" is forbidden: must have cluster-admin privileges to use the \
                       aggregationRule"
            .to_owned();
        for (old, new) in [(None, &gathering), (Some(&plain), &gathering), (Some(&gathering), &plain)] {
            assert_eq!(write(&almost, "clusterroles", old, new.clone()), Err(refused.clone()));
            assert_eq!(write(&all, "clusterroles", old, new.clone()), Ok(()));
            assert_eq!(write(&escalating, "clusterroles", old, new.clone()), Ok(()));
        }
        assert_eq!(write(&almost, "clusterroles", None, plain), Ok(()));
    }

    #[test]
    fn a_role_is_bound_by_who_holds_it_or_may_bind_it() {
        let binding = |role: &str| json!({"metadata": {"name": "r"}, "roleRef": {"kind": "ClusterRole", "name": role}});
        let holder = Somebody(rules(&json!([rule(&["*"], &["nodes"])])), &[]);
        let (nobody, binder) = (Somebody(Vec::new(), &[]), Somebody(Vec::new(), &["bind"]));
        assert_eq!(write(&holder, "clusterrolebindings", None, binding("strong")), Ok(()));
        assert_eq!(write(&binder, "clusterrolebindings", None, binding("strong")), Ok(()));
        assert!(write(&nobody, "clusterrolebindings", None, binding("strong")).is_err());
        assert!(write(&nobody, "clusterrolebindings", Some(&binding("strong")), binding("strong")).is_ok());
        let absent = "clusterroles.rbac.authorization.k8s.io \"absent\" not found".to_owned();
        assert_eq!(write(&nobody, "clusterrolebindings", None, binding("absent")), Err(absent));
    }
}
