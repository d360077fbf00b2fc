//! ResourceQuota: `status.hard` follows `spec.hard`, and `status.used` is counted anew from what there is.
//!
//! Invariant: admission charges a quota in the transaction that stores the object; this gives back what is used no more. The
//! quota was read before its contents were listed, so whatever is missing in the listing changed the quota too and the
//! update fails on its resourceVersion: a count never falls behind what was admitted.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value};
use trireme_api::quantity::{Format, Quantity};
use trireme_api::{Object, path};
use trireme_resources::quota::{self, Amounts};

use crate::namespace::Contents;
use crate::plan::{Action, Plan};

/// How often everything is counted again though nothing changed.
pub const RESYNC: Duration = Duration::from_secs(300);

/// A quota and what it counts.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The quota.
    pub quota: Object,
    /// Objects of its namespace, per resource that one of its names counts; listed after the quota was read.
    pub contents: Vec<Contents>,
}

/// Whether objects of a resource can be under a quota: all but those that nobody keeps.
#[must_use]
pub fn is_counted(group: &str, plural: &str) -> bool {
    !matches!((group, plural), ("" | "events.k8s.io", "events") | ("", "bindings"))
}

/// Brings the status up to date.
#[must_use]
pub fn reconcile(snapshot: &Snapshot, now: Timestamp) -> Plan {
    let mut quota = snapshot.quota.value();
    let hard = quota::amounts(&quota["spec"]["hard"]);
    let (stated, before) = (
        quota::amounts(&quota["status"]["hard"]),
        quota::amounts(&quota["status"]["used"]),
    );
    // What covers is asked with the names as they will be.
    path::set(&mut quota, &["status", "hard"], json(&hard));
    let mut counted = Amounts::new();
    for contents in &snapshot.contents {
        count(&mut counted, &quota, contents, now);
    }
    let mut used = before.clone();
    used.extend(counted);
    used.retain(|name, _| hard.contains_key(name));
    let mut plan = Plan {
        actions: Vec::new(),
        requeue_after: Some(RESYNC),
    };
    if stated != hard || before != used {
        path::set(&mut quota, &["status", "used"], json(&used));
        plan.actions.push(Action::UpdateStatus { object: quota });
    }
    plan
}

/// Adds what the objects of one resource use, under each of the quota's names that counts them; zero where there are none.
fn count(total: &mut Amounts, quota: &Value, contents: &Contents, now: Timestamp) {
    let (group, plural) = (contents.group.as_str(), contents.plural.as_str());
    let names = path::object(quota, &["status", "hard"]).into_iter().flatten();
    let names: Vec<&String> = names
        .map(|(name, _)| name)
        .filter(|name| quota::counts(group, plural, name))
        .collect();
    let mut of_resource = Amounts::new();
    for object in &contents.objects {
        let object = if has_content(group, plural) {
            object.value()
        } else {
            Value::Null
        };
        if !quota::covers(quota, group, plural, &object) {
            continue;
        }
        let mut uses = quota::usage(group, plural, &object);
        let lost = (group, plural) == ("", "pods") && is_overdue(&object, now);
        uses.retain(|name, _| names.contains(&name) && (!lost || name == "count/pods"));
        quota::add(&mut of_resource, &uses);
    }
    for name in names {
        let amount = of_resource.remove(name.as_str());
        total.insert(name.clone(), amount.unwrap_or_else(|| Quantity::zero(Format::DecimalSi)));
    }
}

/// Whether what an object uses depends on more than that it exists.
#[must_use]
pub fn has_content(group: &str, plural: &str) -> bool {
    matches!((group, plural), ("", "pods" | "services" | "persistentvolumeclaims"))
}

/// A pod that should be gone by now, whose node cannot say so.
fn is_overdue(pod: &Value, now: Timestamp) -> bool {
    let metadata = &pod["metadata"];
    let (Some(at), Some(grace)) = (
        metadata["deletionTimestamp"].as_str(),
        metadata["deletionGracePeriodSeconds"].as_i64(),
    ) else {
        return false;
    };
    let ends = at.parse::<Timestamp>().ok();
    ends.and_then(|ends| ends.checked_add(SignedDuration::from_secs(grace)).ok())
        .is_some_and(|ends| now > ends)
}

fn json(amounts: &Amounts) -> Map<String, Value> {
    let members = amounts.iter().map(|(name, amount)| (name.clone(), amount.to_string().into()));
    members.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: &Value) -> Object {
        Object::from_value(value).unwrap()
    }

    fn contents(plural: &str, objects: &[Value]) -> Contents {
        Contents {
            group: String::new(),
            plural: plural.into(),
            objects: objects.iter().map(object).collect(),
        }
    }

    /// The status that the plan writes; nothing where it writes none.
    fn status(spec: &Value, status: &Value, contents: Vec<Contents>) -> Value {
        let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q", "namespace": "a",
            "resourceVersion": "7"}, "spec": spec, "status": status});
        let snapshot = Snapshot {
            quota: object(&quota),
            contents,
        };
        let plan = reconcile(&snapshot, "2026-01-01T00:01:00Z".parse().unwrap());
        assert_eq!(plan.requeue_after, Some(RESYNC));
        match &plan.actions[..] {
            [] => Value::Null,
            [Action::UpdateStatus { object }] => {
                assert_eq!(object["metadata"]["resourceVersion"], "7", "the precondition");
                object["status"].clone()
            }
            other => panic!("{other:?}"),
        }
    }

    fn pod(name: &str, rest: Value) -> Value {
        let mut pod = json!({"metadata": {"name": name}, "spec": {"containers": [
            {"name": "c", "resources": {"requests": {"cpu": "250m", "memory": "64Mi"}}}]}});
        merge(&mut pod, rest);
        pod
    }

    fn merge(into: &mut Value, more: Value) {
        match (into, more) {
            (Value::Object(into), Value::Object(more)) => {
                for (name, value) in more {
                    merge(into.entry(name).or_insert(Value::Null), value);
                }
            }
            (into, more) => *into = more,
        }
    }

    #[test]
    fn counts_what_there_is() {
        let hard = json!({"pods": "3", "count/pods": "9", "requests.cpu": "2", "requests.memory": "1Gi"});
        let pods = contents(
            "pods",
            &[
                pod("a", json!({})),
                pod("b", json!({})),
                pod("done", json!({"status": {"phase": "Succeeded"}})),
                pod(
                    "lost",
                    json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 30}}),
                ),
            ],
        );
        assert_eq!(
            status(&json!({"hard": hard}), &json!({}), vec![pods]),
            json!({"hard": hard,
                "used": {"pods": "2", "count/pods": "4", "requests.cpu": "500m", "requests.memory": "128Mi"}})
        );
    }

    #[test]
    fn gives_back_and_follows_the_specification() {
        let maps = |count: usize| {
            let names = (0..count).map(|at| json!({"metadata": {"name": format!("m{at}")}}));
            vec![contents("configmaps", &names.collect::<Vec<_>>())]
        };
        let both = |hard: &str, used: &str| json!({"hard": {"configmaps": hard}, "used": {"configmaps": used}});
        for (hard, before, there, wanted) in [
            ("2", both("2", "2"), 1, both("2", "1")),
            ("2", both("2", "2"), 0, both("2", "0")),
            ("5", both("2", "2"), 2, both("5", "2")),
            ("2", json!({}), 0, both("2", "0")),
            (
                "2",
                json!({"hard": {"secrets": "1"}, "used": {"secrets": "1"}}),
                1,
                both("2", "1"),
            ),
            ("2", both("2", "2"), 2, Value::Null),
            ("2", both("2000m", "2"), 2, Value::Null),
        ] {
            let got = status(&json!({"hard": {"configmaps": hard}}), &before, maps(there));
            assert_eq!(got, wanted, "{hard} {before} {there}");
        }
    }

    #[test]
    fn a_scope_leaves_out_what_is_not_in_it_and_an_unknown_name_has_no_use() {
        let spec = json!({"hard": {"pods": "3"}, "scopes": ["Terminating"]});
        let pods = [
            pod("a", json!({})),
            pod("ends", json!({"spec": {"activeDeadlineSeconds": 9}})),
        ];
        let wanted = json!({"hard": {"pods": "3"}, "used": {"pods": "1"}});
        assert_eq!(status(&spec, &json!({}), vec![contents("pods", &pods)]), wanted);
        let spec = json!({"hard": {"count/things.example.com": "3"}});
        let wanted = json!({"hard": {"count/things.example.com": "3"}, "used": {}});
        assert_eq!(status(&spec, &json!({}), Vec::new()), wanted);
    }
}
