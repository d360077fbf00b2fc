//! Ownership and merging, case by case.

use super::*;
use crate::rows::find;
use proptest::prelude::*;
use serde_json::json;

const NOW: &str = "2026-01-01T00:00:00Z";
const LATER: &str = "2026-01-01T00:01:00Z";

fn row(group: &str, plural: &str) -> &'static Resource {
    find(group, "v1", plural).unwrap()
}

fn by<'a>(manager: &'a str, now: &'a str) -> Applier<'a> {
    Applier {
        manager,
        force: false,
        subresource: None,
        now,
        settled: None,
        custom: None,
    }
}

fn updater<'a>(manager: &'a str, now: &'a str) -> Updater<'a> {
    Updater {
        manager,
        subresource: None,
        now,
        empty: false,
        custom: None,
    }
}

fn config_map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "n"}, "data": data})
}

/// (manager, operation, fields) of every entry.
fn owners(value: &Value) -> Vec<(String, String, Value)> {
    let entries = value["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let text = |entry: &Value, name: &str| entry[name].as_str().unwrap_or_default().to_owned();
    entries
        .iter()
        .map(|entry| (text(entry, "manager"), text(entry, "operation"), entry["fieldsV1"].clone()))
        .collect()
}

fn owned(manager: &str, operation: &str, fields: Value) -> (String, String, Value) {
    (manager.to_owned(), operation.to_owned(), fields)
}

fn canonical(row: &Resource, value: Value) -> Value {
    let mut value = value;
    canonicalize(&mut value, row.schema());
    value
}

fn created(row: &Resource, value: Value, manager: &str) -> Value {
    let mut value = canonical(row, value);
    update_managers(row, None, &mut value, updater(manager, NOW));
    value
}

fn applied(row: &Resource, live: Option<&Value>, config: &Value, who: Applier<'_>) -> Value {
    canonical(
        row,
        apply(row, live.cloned().map(Present::of).as_ref(), config.clone(), who)
            .unwrap()
            .value,
    )
}

#[test]
fn a_create_owns_what_it_sets_but_not_names_and_the_like() {
    let row = row("", "configmaps");
    let mut value = config_map(json!({"a": "1"}));
    value["metadata"]["labels"] = json!({"l": "x"});
    let value = created(row, value, "kubectl");
    assert_eq!(
        owners(&value),
        [owned(
            "kubectl",
            "Update",
            json!({"f:data": {".": {}, "f:a": {}}, "f:metadata": {"f:labels": {".": {}, "f:l": {}}}})
        )]
    );
    assert_eq!(value["metadata"]["managedFields"][0]["time"], NOW);
}

#[test]
fn an_apply_is_dated_where_it_says_something_new() {
    let row = row("", "configmaps");
    let live = created(row, config_map(json!({"a": "1"})), "one");
    // As a stock server answers: null is not what the live object has.
    for (meta, dated) in [
        (json!({"name": "c"}), false),
        (json!({"name": "c", "managedFields": null}), true),
        (json!({"name": "c", "creationTimestamp": null}), true),
        (json!({"name": "c", "annotations": {}}), true),
    ] {
        let mut config = config_map(json!({"a": "1"}));
        config["metadata"] = meta.clone();
        let value = applied(row, Some(&live), &config, by("two", LATER));
        let entries = value["metadata"]["managedFields"].as_array().unwrap();
        let own = entries.iter().find(|entry| entry["manager"] == "two").unwrap();
        assert_eq!(own.get("time").is_some(), dated, "{meta}");
    }
}

#[test]
fn structs_that_always_exist_are_not_owned_themselves() {
    let row = row("", "pods");
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {
        "containers": [{"name": "c", "image": "i", "env": [{"name": "E", "value": "1"}], "ports": [{"containerPort": 80, "protocol": "TCP"}]}]}});
    let value = created(row, pod, "m");
    assert_eq!(
        owners(&value)[0].2,
        json!({"f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {
            ".": {}, "f:image": {}, "f:name": {}, "f:resources": {},
            "f:env": {".": {}, "k:{\"name\":\"E\"}": {".": {}, "f:name": {}, "f:value": {}}},
            "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}, "f:protocol": {}}},
        }}}})
    );
}

#[test]
fn an_update_takes_what_it_changes_and_others_lose_what_it_removes() {
    let row = row("", "configmaps");
    let old = created(row, config_map(json!({"a": "1", "b": "1"})), "first");
    let mut new = old.clone();
    new["data"] = json!({"a": "2", "c": "3"});
    update_managers(row, Some(&old), &mut new, updater("second", LATER));
    assert_eq!(
        owners(&new),
        [
            owned("first", "Update", json!({"f:data": {}})),
            owned("second", "Update", json!({"f:data": {"f:a": {}, "f:c": {}}})),
        ]
    );
    let mut same = new.clone();
    update_managers(row, Some(&new), &mut same, updater("third", LATER));
    assert_eq!(same, new, "an update that changes nothing owns nothing");
}

#[test]
fn ownership_can_be_forgotten_and_is_then_not_tracked() {
    let row = row("", "configmaps");
    let old = created(row, config_map(json!({"a": "1"})), "first");
    let mut reset = old.clone();
    reset["metadata"]["managedFields"] = json!([]);
    update_managers(row, Some(&old), &mut reset, updater("second", LATER));
    assert!(owners(&reset).is_empty());
    let mut absent = old.clone();
    absent["metadata"].as_object_mut().unwrap().remove("managedFields");
    update_managers(row, Some(&old), &mut absent, updater("second", LATER));
    assert_eq!(
        owners(&absent),
        owners(&old),
        "a client that does not know the field does not lose it"
    );
}

#[test]
fn applies_merge_conflict_yield_and_prune() {
    let row = row("apps", "deployments");
    let config = |spec: Value| json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": spec});
    let live = applied(row, None, &config(json!({"replicas": 4, "paused": true})), by("first", NOW));
    assert_eq!(
        owners(&live),
        [owned("first", "Apply", json!({"f:spec": {"f:paused": {}, "f:replicas": {}}}))]
    );

    let again = apply(
        row,
        Some(&Present::of(live.clone())),
        config(json!({"replicas": 4, "paused": true})),
        by("first", LATER),
    )
    .unwrap();
    assert!(!again.changed);
    assert_eq!(
        canonical(row, again.value),
        live,
        "the same again changes nothing, not even a time"
    );

    let status = apply(
        row,
        Some(&Present::of(live.clone())),
        config(json!({"replicas": 5})),
        by("second", LATER),
    )
    .unwrap_err();
    assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"));
    assert_eq!(
        status.message,
        "Apply failed with 1 conflict: conflict with \"first\": .spec.replicas"
    );
    let cause = &status.details.as_ref().unwrap().causes[0];
    assert_eq!(
        (cause.reason.as_str(), cause.message.as_str(), cause.field.as_str()),
        ("FieldManagerConflict", "conflict with \"first\"", ".spec.replicas")
    );

    let forced = applied(
        row,
        Some(&live),
        &config(json!({"replicas": 5})),
        Applier {
            force: true,
            ..by("second", LATER)
        },
    );
    assert_eq!(forced["spec"]["replicas"], 5);
    assert_eq!(
        owners(&forced),
        [
            owned("first", "Apply", json!({"f:spec": {"f:paused": {}}})),
            owned("second", "Apply", json!({"f:spec": {"f:replicas": {}}}))
        ]
    );

    let pruned = applied(row, Some(&forced), &config(json!({})), by("first", LATER));
    assert_eq!(pruned["spec"].get("paused"), None, "what its only owner gives up goes");
    assert_eq!(pruned["spec"]["replicas"], 5);
    assert_eq!(
        owners(&pruned)[0].2,
        json!({"f:spec": {}}),
        "an empty object that was sent is owned"
    );
}

#[test]
fn a_shared_field_stays_when_one_owner_gives_it_up() {
    let row = row("", "configmaps");
    let one = applied(row, None, &config_map(json!({"a": "1", "b": "1"})), by("first", NOW));
    let two = applied(row, Some(&one), &config_map(json!({"a": "1"})), by("second", NOW));
    let out = applied(row, Some(&two), &config_map(json!({"b": "1"})), by("first", LATER));
    assert_eq!(out["data"], json!({"a": "1", "b": "1"}));
    let out = applied(row, Some(&out), &config_map(json!({})), by("second", LATER));
    assert_eq!(out["data"], json!({"b": "1"}));
}

#[test]
fn conflicts_with_updates_name_the_version_and_come_in_order() {
    let row = row("", "configmaps");
    let live = created(row, config_map(json!({"a": "1", "b": "1"})), "kubectl-create");
    let status = apply(
        row,
        Some(&Present::of(live.clone())),
        config_map(json!({"b": "2", "a": "2"})),
        by("x", NOW),
    )
    .unwrap_err();
    assert_eq!(
        status.message,
        "Apply failed with 2 conflicts: conflicts with \"kubectl-create\" using v1:\n- .data.a\n- .data.b"
    );
}

#[test]
fn untracked_objects_are_owned_by_a_stand_in_before_the_first_apply() {
    let row = row("", "configmaps");
    let live = canonical(row, config_map(json!({"a": "1"})));
    let out = applied(row, Some(&live), &config_map(json!({"b": "2"})), by("x", NOW));
    let names: Vec<String> = owners(&out).into_iter().map(|(name, ..)| name).collect();
    assert_eq!(names, ["x", "before-first-apply"]);
}

#[test]
fn kubectl_may_take_what_its_annotation_says() {
    let row = row("", "configmaps");
    let mut sent = config_map(json!({"a": "1"}));
    let annotation = sent.to_string();
    sent["metadata"]["annotations"] = json!({LAST_APPLIED: annotation});
    let live = created(row, sent, "kubectl-client-side-apply");
    let out = applied(row, Some(&live), &config_map(json!({"a": "2"})), by("kubectl", LATER));
    assert_eq!(out["data"]["a"], "2");
    let annotation = out["metadata"]["annotations"][LAST_APPLIED].as_str().unwrap();
    assert!(annotation.contains("\"a\":\"2\""), "{annotation}");
    assert_eq!(
        apply(
            row,
            Some(&Present::of(live.clone())),
            config_map(json!({"a": "2"})),
            by("other", LATER)
        )
        .unwrap_err()
        .code,
        409
    );
}

#[test]
fn configurations_that_do_not_fit_are_refused() {
    let (maps, services) = (row("", "configmaps"), row("", "services"));
    let service =
        |ports: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": ports}});
    for (row, config, code, message) in [
        (maps, json!({"metadata": {"name": "c"}}), 400, "invalid object type: /, Kind="),
        (
            maps,
            json!({"apiVersion": "v1", "kind": "Secret"}),
            400,
            "invalid object type: /v1, Kind=Secret",
        ),
        (
            maps,
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "managedFields": [{}]}}),
            400,
            "metadata.managedFields must be nil",
        ),
        (
            maps,
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "nope": 1}),
            500,
            "failed to create typed patch object (/c; /v1, Kind=ConfigMap): .nope: field not declared in schema",
        ),
        (
            services,
            service(json!([{"port": 1, "name": "a"}, {"port": 1, "protocol": "TCP", "name": "b"}])),
            500,
            "failed to create typed patch object (/s; /v1, Kind=Service): .spec.ports: duplicate entries for key [port=1,protocol=\"TCP\"]",
        ),
    ] {
        let status = apply(row, None, config.clone(), by("x", NOW)).unwrap_err();
        assert_eq!((status.code, status.message.as_str()), (code, message));
    }
}

#[test]
fn the_status_door_owns_status_only() {
    let row = row("", "pods");
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}});
    let old = created(row, pod, "m");
    let mut new = old.clone();
    new["status"]["phase"] = json!("Running");
    new["spec"]["nodeName"] = json!("ignored here");
    update_managers(
        row,
        Some(&old),
        &mut new,
        Updater {
            manager: "kubelet",
            subresource: Some("status"),
            now: LATER,
            empty: false,
            custom: None,
        },
    );
    let entry = new["metadata"]["managedFields"]
        .as_array()
        .unwrap()
        .iter()
        .find(|entry| entry["manager"] == "kubelet")
        .unwrap();
    assert_eq!(
        (&entry["fieldsV1"], &entry["subresource"]),
        (&json!({"f:status": {"f:phase": {}}}), &json!("status"))
    );
}

#[test]
fn owners_in_another_version_lose_what_changes_too() {
    let (v1, v2) = (
        row("autoscaling", "horizontalpodautoscalers"),
        find("autoscaling", "v2", "horizontalpodautoscalers").unwrap(),
    );
    let scaler = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
        "spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "d"}, "targetCPUUtilizationPercentage": 50}});
    let mut old = created(v1, scaler, "one");
    crate::convert(v1, v2, &mut old);
    let old = canonical(v2, old);
    let mut new = old.clone();
    new["spec"]["maxReplicas"] = json!(9);
    update_managers(v2, Some(&old), &mut new, updater("two", LATER));
    let owners = owners(&new);
    assert_eq!(
        owners.iter().find(|(name, ..)| name == "two").unwrap().2,
        json!({"f:spec": {"f:maxReplicas": {}}})
    );
    assert_eq!(
        owners.iter().find(|(name, ..)| name == "one").unwrap().2["f:spec"].get("f:maxReplicas"),
        None
    );
}

#[test]
fn kinds_without_a_table_are_deduced() {
    let row = Resource {
        group: "example.com",
        version: "v1",
        plural: "gadgets",
        kind: "Gadget",
        ..*row("", "configmaps")
    };
    let config = |size: i64| {
        json!({"apiVersion": "example.com/v1", "kind": "Gadget", "metadata": {"name": "g", "labels": {"a": "1"}},
        "spec": {"size": size, "list": [1, 2], "inner": {"x": true}}})
    };
    let live = apply(&row, None, config(1), by("one", NOW)).unwrap().value;
    assert_eq!(
        owners(&live)[0].2,
        json!({"f:metadata": {"f:labels": {"f:a": {}}}, "f:spec": {".": {}, "f:inner": {".": {}, "f:x": {}}, "f:list": {}, "f:size": {}}})
    );
    assert_eq!(
        apply(&row, Some(&Present::of(live.clone())), config(2), by("two", NOW))
            .unwrap_err()
            .message,
        "Apply failed with 1 conflict: conflict with \"one\": .spec.size"
    );
}

fn entries() -> impl Strategy<Value = std::collections::BTreeMap<String, String>> {
    prop::collection::btree_map("[a-c]", "[1-2]", 0..4)
}

proptest! {
    #[test]
    fn applying_twice_is_applying_once(first in entries(), second in entries()) {
        let row = row("", "configmaps");
        let live = applied(row, None, &config_map(json!(first)), by("one", NOW));
        let who = Applier { force: true, ..by("two", LATER) };
        let once = applied(row, Some(&live), &config_map(json!(second)), who);
        let twice = applied(row, Some(&once), &config_map(json!(second)), who);
        prop_assert_eq!(&once, &twice);
        for (name, value) in &second {
            prop_assert_eq!(&once["data"][name], &json!(value));
        }
        for (name, value) in first.iter().filter(|(name, _)| !second.contains_key(*name)) {
            prop_assert_eq!(&once["data"][name], &json!(value));
        }
    }

    #[test]
    fn giving_everything_up_leaves_nothing(first in entries()) {
        let row = row("", "configmaps");
        let live = applied(row, None, &config_map(json!(first)), by("one", NOW));
        let out = applied(row, Some(&live), &config_map(Value::Null), by("one", LATER));
        prop_assert_eq!(out.get("data"), None);
        prop_assert!(owners(&out).len() <= 1);
    }
}

#[test]
fn an_empty_list_within_a_list_that_is_replaced_as_a_whole_is_a_change() {
    let role = row("rbac.authorization.k8s.io", "roles");
    let rules = json!([{"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["*"]}]);
    let config =
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "r"}, "rules": rules.clone()});
    let live = canonical(role, apply(role, None, config.clone(), by("one", NOW)).unwrap().value);
    let put = |rules: Value, labels: Value| {
        let mut new = live.clone();
        new["rules"] = rules;
        new["metadata"]["labels"] = labels;
        decode::canonicalize_as(&mut new, role.schema(), Empty::Sent);
        let sent = Updater {
            empty: true,
            ..updater("two", LATER)
        };
        update_managers(role, Some(&live), &mut new, sent);
        owners(&new)
    };
    let fields = json!({"f:rules": {}});
    assert_eq!(
        put(rules.clone(), json!({})),
        [owned("one", "Apply", fields.clone())],
        "labels are not"
    );
    let mut with = rules;
    with[0]["nonResourceURLs"] = json!([]);
    assert_eq!(put(with, Value::Null), [owned("two", "Update", fields)]);
}

#[test]
fn a_bulk_is_owned_as_a_whole_and_changed_by_nobody() {
    let mut seen = 0;
    for row in crate::rows::rows() {
        let Some(at) = row.bulk else { continue };
        let shape = at.iter().fold(Shape::of_row(row), |shape, name| shape.member(name).unwrap());
        assert!(matches!(shape, Shape::Leaf), "{}", row.plural);
        assert_eq!(row.stored_as, (row.group, row.version), "{}: nothing converts it", row.plural);
        assert!(row.limits.settled && !at.contains(&"metadata"), "{}", row.plural);
        seen += 1;
    }
    assert_eq!(seen, 1, "definitions");
}
