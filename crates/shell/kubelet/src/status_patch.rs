//! Statuses are written as upstream's kubelet writes them: by strategic merge patches that say what differs.
//!
//! Invariant: a patch names nothing but what the node itself changes. So what others write at the same time (taints, labels,
//! conditions of their own) is neither undone nor held against the node: a whole object that is late would be refused by
//! admission before anybody sees that it is late, here as upstream.

use serde_json::{Map, Value, json};
use trireme_api::schema::{Struct, kind};

/// What makes one status of a core object another; nothing where they are the same. Members that are null are absent.
pub(crate) fn between(of: &str, old: &Value, new: &Value) -> Option<Value> {
    let status = kind("", "v1", of).and_then(|ty| ty.field("status"));
    let ty = status.and_then(|status| status.ty.structure());
    let (nothing, no_members) = (Map::new(), Map::new());
    let patch = members(
        ty,
        old.as_object().unwrap_or(&nothing),
        new.as_object().unwrap_or(&no_members),
    );
    (!patch.is_empty()).then_some(Value::Object(patch))
}

fn members(ty: Option<&Struct>, old: &Map<String, Value>, new: &Map<String, Value>) -> Map<String, Value> {
    let mut patch = Map::new();
    let gone = old
        .iter()
        .filter(|(name, held)| !held.is_null() && new.get(*name).is_none_or(Value::is_null));
    patch.extend(gone.map(|(name, _)| (name.clone(), Value::Null)));
    for (name, wanted) in new.iter().filter(|(_, wanted)| !wanted.is_null()) {
        let field = ty.and_then(|ty| ty.field(name));
        match (old.get(name), wanted) {
            (Some(held), wanted) if held == wanted => {}
            (Some(Value::Object(held)), Value::Object(wanted)) => {
                let inner = members(field.and_then(|field| field.ty.structure()), held, wanted);
                if !inner.is_empty() {
                    patch.insert(name.clone(), Value::Object(inner));
                }
            }
            (Some(Value::Array(held)), Value::Array(wanted)) => {
                let merges = field.filter(|field| field.strategy.is_some_and(|strategy| strategy.merges()));
                match merges.and_then(|field| field.merge_key) {
                    Some(key) => elements((name, key), held, wanted, &mut patch),
                    None => drop(patch.insert(name.clone(), Value::Array(wanted.clone()))),
                }
            }
            (_, wanted) => drop(patch.insert(name.clone(), wanted.clone())),
        }
    }
    patch
}

/// What a list lacks or has too much whose elements the API tells apart by a key.
fn elements((name, key): (&str, &str), old: &[Value], new: &[Value], patch: &mut Map<String, Value>) {
    let Some((before, after)) = keyed(key, old).zip(keyed(key, new)) else {
        // Addresses of a node may have one type.
        let mut all = new.to_vec();
        all.push(json!({"$patch": "replace"}));
        patch.insert(name.to_owned(), Value::Array(all));
        return;
    };
    let gone = before.iter().filter(|(id, _)| !after.iter().any(|(other, _)| other == id));
    let mut list: Vec<Value> = gone.map(|(id, _)| json!({"$patch": "delete", key: id})).collect();
    for (id, wanted) in &after {
        let mut changed = match before.iter().find(|(other, _)| other == id) {
            Some((_, held)) => members(None, held, wanted),
            None => (*wanted).clone(),
        };
        if !changed.is_empty() {
            changed.insert(key.to_owned(), Value::from(*id));
            list.push(Value::Object(changed));
        }
    }
    if !list.is_empty() {
        patch.insert(name.to_owned(), Value::Array(list));
        let order = after.iter().map(|(id, _)| json!({key: id})).collect();
        patch.insert(format!("$setElementOrder/{name}"), Value::Array(order));
    }
}

/// The elements with their keys; nothing where one has none or two have the same.
fn keyed<'a>(key: &str, list: &'a [Value]) -> Option<Vec<(&'a str, &'a Map<String, Value>)>> {
    let pairs = list.iter().map(|element| {
        let members = element.as_object()?;
        Some((members.get(key)?.as_str()?, members))
    });
    let pairs: Vec<_> = pairs.collect::<Option<_>>()?;
    let twice = |at: usize| pairs[..at].iter().any(|(id, _)| *id == pairs[at].0);
    (!(0..pairs.len()).any(twice)).then_some(pairs)
}

#[cfg(test)]
mod tests {
    use trireme_api::bulk::Present;
    use trireme_resources::patch::strategic_merge;
    use trireme_resources::rows::Resource;

    use super::*;

    fn row(plural: &str) -> &'static Resource {
        trireme_resources::find("", "v1", plural).unwrap()
    }

    /// The patch, and what the API makes of the old status with it.
    fn patched(of: &str, old: &Value, new: &Value) -> (Option<Value>, Value) {
        let patch = between(of, old, new);
        let Some(status) = &patch else { return (None, old.clone()) };
        let plural = if of == "Pod" { "pods" } else { "nodes" };
        let text = serde_json::to_vec(&json!({"status": status})).unwrap();
        let mut outcome = strategic_merge(row(plural), &Present::of(json!({"status": old})), &text, false).unwrap();
        (patch, outcome.document["status"].take())
    }

    fn without_nulls(value: &Value) -> Value {
        match value {
            Value::Object(members) => {
                let kept = members.iter().filter(|(_, value)| !value.is_null());
                Value::Object(kept.map(|(name, value)| (name.clone(), without_nulls(value))).collect())
            }
            Value::Array(list) => list.iter().map(without_nulls).collect(),
            other => other.clone(),
        }
    }

    #[test]
    fn a_patch_makes_one_status_the_other_and_says_nothing_else() {
        let ready = |status: &str| json!({"type": "Ready", "status": status, "lastProbeTime": null, "reason": "R"});
        let foreign = json!({"type": "example.com/Gate", "status": "True"});
        let table = [
            (
                "Pod",
                json!({"phase": "Pending"}),
                json!({"phase": "Running"}),
                json!({"phase": "Running"}),
            ),
            (
                "Pod",
                json!({"phase": "Failed", "reason": "E"}),
                json!({"phase": "Failed"}),
                json!({"reason": null}),
            ),
            (
                "Pod",
                json!({"conditions": [foreign, ready("False")]}),
                json!({"conditions": [foreign, {"type": "Ready", "status": "True"}, {"type": "Initialized", "status": "True"}]}),
                json!({"conditions": [{"type": "Ready", "status": "True", "reason": null}, {"type": "Initialized", "status": "True"}],
                    "$setElementOrder/conditions": [{"type": "example.com/Gate"}, {"type": "Ready"}, {"type": "Initialized"}]}),
            ),
            (
                "Pod",
                json!({"podIPs": [{"ip": "10.0.0.1"}], "podIP": "10.0.0.1"}),
                json!({"podIPs": [{"ip": "10.0.0.2"}], "podIP": "10.0.0.2"}),
                json!({"podIP": "10.0.0.2", "podIPs": [{"$patch": "delete", "ip": "10.0.0.1"}, {"ip": "10.0.0.2"}],
                    "$setElementOrder/podIPs": [{"ip": "10.0.0.2"}]}),
            ),
            // Without a merge key: whole.
            (
                "Pod",
                json!({"containerStatuses": [{"name": "a", "ready": false}, {"name": "b", "ready": false}]}),
                json!({"containerStatuses": [{"name": "a", "ready": true}, {"name": "b", "ready": false}]}),
                json!({"containerStatuses": [{"name": "a", "ready": true}, {"name": "b", "ready": false}]}),
            ),
            (
                "Node",
                json!({"addresses": [{"type": "InternalIP", "address": "a"}, {"type": "InternalIP", "address": "b"}],
                    "capacity": {"cpu": "1", "example.com/gpu": "2"}}),
                json!({"addresses": [{"type": "InternalIP", "address": "c"}], "capacity": {"cpu": "2", "example.com/gpu": "2"}}),
                json!({"addresses": [{"type": "InternalIP", "address": "c"}, {"$patch": "replace"}], "capacity": {"cpu": "2"}}),
            ),
        ];
        for (of, old, new, expected) in table {
            let (patch, outcome) = patched(of, &old, &new);
            assert_eq!(patch, Some(expected), "{old} {new}");
            assert_eq!(without_nulls(&outcome), without_nulls(&new), "{old} {new}");
        }
        let same = json!({"conditions": [foreign, ready("True")], "phase": "Running", "message": null});
        let told_otherwise = json!({"conditions": [foreign, ready("True")], "phase": "Running"});
        assert_eq!(patched("Pod", &same, &told_otherwise).0, None);
    }

    #[test]
    fn what_others_say_meanwhile_stays() {
        let old = json!({"conditions": [{"type": "Ready", "status": "False"}]});
        let new = json!({"conditions": [{"type": "Ready", "status": "True"}]});
        let patch = json!({"status": between("Node", &old, &new)});
        let meanwhile = json!({"spec": {}, "status": {"conditions": [{"type": "Ready", "status": "False"},
            {"type": "NetworkUnavailable", "status": "False"}]}});
        let text = serde_json::to_vec(&patch).unwrap();
        let outcome = strategic_merge(row("nodes"), &Present::of(meanwhile), &text, false)
            .unwrap()
            .document;
        assert_eq!(
            outcome["status"]["conditions"],
            json!([{"type": "Ready", "status": "True"}, {"type": "NetworkUnavailable", "status": "False"}])
        );
    }
}
