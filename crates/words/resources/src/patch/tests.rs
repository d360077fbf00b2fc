//! What patches do, case by case.

use super::*;
use crate::rows::find;
use proptest::prelude::*;
use serde_json::json;

fn pods() -> &'static Resource {
    find("", "v1", "pods").unwrap()
}

fn strategic(doc: Value, patch: Value) -> Value {
    strategic_merge(pods(), &Present::of(doc), patch.to_string().as_bytes(), false)
        .unwrap()
        .document
}

fn schema() -> &'static Struct {
    find("apps", "v1", "deployments").unwrap().schema()
}

fn refused(doc: Value, patch: Value) -> (u16, String) {
    let status = strategic_merge(pods(), &Present::of(doc), patch.to_string().as_bytes(), false).unwrap_err();
    (status.code, status.message)
}

fn containers(names: &[(&str, &str)]) -> Value {
    let items: Vec<_> = names
        .iter()
        .map(|(name, image)| json!({"name": name, "image": image}))
        .collect();
    json!({"spec": {"containers": items}})
}

#[test]
fn strategic_lists_merge_by_key_and_delete_and_replace() {
    let live = || containers(&[("a", "1"), ("b", "1")]);
    for (patch, want) in [
        (json!([{"name": "b", "image": "2"}]), containers(&[("a", "1"), ("b", "2")])),
        (
            json!([{"name": "c", "image": "1"}]),
            containers(&[("c", "1"), ("a", "1"), ("b", "1")]),
        ),
        (json!([{"name": "a", "$patch": "delete"}]), containers(&[("b", "1")])),
        (
            json!([{"name": "x", "image": "9"}, {"$patch": "replace"}]),
            containers(&[("x", "9")]),
        ),
    ] {
        assert_eq!(strategic(live(), json!({"spec": {"containers": patch}})), want, "{patch}");
    }
}

#[test]
fn a_patch_is_shown_as_it_is_once_merged() {
    let doc = json!({"metadata": {"labels": {"a": "1"}}, "spec": {"containers": [{"name": "a", "image": "1"}], "nodeName": "n"}});
    let patch = json!({"metadata": {"labels": {"a": null}, "annotations": {"x": null, "y": 1}},
        "spec": {"nodeName": {"z": null}, "containers": [{"name": "a", "image": null, "env": [{"name": "E", "value": null}]}, {"name": "b", "image": null}]}});
    assert_eq!(
        strategic_shown(pods(), &doc, patch.to_string().as_bytes()),
        "map[metadata:map[annotations:map[y:1] labels:map[a:<nil>]] spec:map[containers:[map[env:[map[name:E]] image:<nil> \
         name:a] map[image:<nil> name:b]] nodeName:map[]]]"
    );
}

#[test]
fn the_order_directive_sorts_what_it_names() {
    let patch = json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": [{"name": "b", "image": "2"}]}});
    assert_eq!(
        strategic(containers(&[("a", "1"), ("b", "1")]), patch),
        containers(&[("b", "2"), ("a", "1")])
    );
}

#[test]
fn maps_merge_null_removes_and_directives_replace_or_delete() {
    let live = json!({"metadata": {"labels": {"a": "1", "b": "2"}, "finalizers": ["x", "y"]}});
    for (patch, want) in [
        (
            json!({"metadata": {"labels": {"a": null, "c": "3"}}}),
            json!({"labels": {"b": "2", "c": "3"}, "finalizers": ["x", "y"]}),
        ),
        (
            json!({"metadata": {"labels": {"$patch": "replace", "z": "1"}}}),
            json!({"labels": {"z": "1"}, "finalizers": ["x", "y"]}),
        ),
        (
            json!({"metadata": {"labels": {"$patch": "delete"}}}),
            json!({"labels": {}, "finalizers": ["x", "y"]}),
        ),
        (
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["x"]}}),
            json!({"labels": {"a": "1", "b": "2"}, "finalizers": ["y"]}),
        ),
        (
            json!({"metadata": {"finalizers": ["z"]}}),
            json!({"labels": {"a": "1", "b": "2"}, "finalizers": ["z", "x", "y"]}),
        ),
        (
            json!({"metadata": {"annotations": {"n": null, "m": "1"}}}),
            json!({"annotations": {"m": "1"}, "labels": {"a": "1", "b": "2"}, "finalizers": ["x", "y"]}),
        ),
    ] {
        assert_eq!(strategic(live.clone(), patch.clone())["metadata"], want, "{patch}");
    }
}

#[test]
fn retained_keys_drop_the_rest() {
    let live = json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}});
    let patch = json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]}});
    assert_eq!(
        strategic(live.clone(), patch)["spec"]["volumes"],
        json!([{"name": "v", "hostPath": {"path": "/x"}}])
    );
    let patch = json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name"], "hostPath": {"path": "/x"}}]}});
    assert_eq!(refused(live, patch), (400, "invalid patch format of retainKeys".to_owned()));
}

#[test]
fn bad_strategic_patches_are_refused_in_upstreams_words() {
    let live = || containers(&[("main", "i")]);
    for (spec, code, message) in [
        (
            json!({"containers": [{"$patch": "smash", "name": "main"}]}),
            500,
            "unknown patch type: smash in map: map[$patch:smash name:main]",
        ),
        (
            json!({"containers": [{"image": "x"}]}),
            500,
            "map: map[image:x] does not contain declared merge key: name",
        ),
        (
            json!({"containers": [{"name": "main", "image": "i"}], "$setElementOrder/containers": [{"name": "zzz"}]}),
            500,
            "The order in patch list:\n[map[image:i name:main]]\n doesn't match $setElementOrder list:\n[map[name:zzz]]\n",
        ),
        (
            json!({"$setElementOrder": []}),
            400,
            "invalid patch format of setElementOrder list",
        ),
    ] {
        assert_eq!(refused(live(), json!({"spec": spec})), (code, message.to_owned()), "{spec}");
    }
}

#[test]
fn json_patches_apply_in_order_or_not_at_all() {
    let doc = json!({"metadata": {"name": "n", "labels": {"a": "1"}}});
    let patch = br#"[{"op":"test","path":"/metadata/name","value":"n"},{"op":"add","path":"/metadata/labels/b","value":"2"},{"op":"remove","path":"/metadata/labels/a"}]"#;
    assert_eq!(
        json_patch(schema(), &Present::of(doc.clone()), patch, true)
            .unwrap()
            .document
            .to_value(),
        json!({"metadata": {"name": "n", "labels": {"b": "2"}}})
    );
    for bad in [
        &br#"[{"op":"test","path":"/metadata/name","value":"x"}]"#[..],
        br#"[{"op":"remove","path":"/nope"}]"#,
        br#"[{"op":"smash","path":"/metadata"}]"#,
    ] {
        let status = json_patch(schema(), &Present::of(doc.clone()), bad, true).unwrap_err();
        assert_eq!((status.code, status.reason.as_str()), (422, "Invalid"));
    }
    let many = format!(
        "[{}]",
        vec![r#"{"op":"test","path":"/metadata/name","value":"n"}"#; JSON_PATCH_OPERATIONS_MAX + 1].join(",")
    );
    assert_eq!(
        json_patch(schema(), &Present::of(doc.clone()), many.as_bytes(), true)
            .unwrap_err()
            .code,
        413
    );
    assert_eq!(
        json_patch(schema(), &Present::of(doc.clone()), b"{}", true).unwrap_err().code,
        400
    );
}

#[test]
fn merge_patches_must_be_objects() {
    let doc = json!({"data": {"a": "1", "b": "2"}});
    assert_eq!(
        merge_patch(schema(), &Present::of(doc.clone()), br#"{"data":{"a":null,"c":"3"}}"#, true)
            .unwrap()
            .document
            .to_value(),
        json!({"data": {"b": "2", "c": "3"}})
    );
    assert_eq!(
        merge_patch(schema(), &Present::of(doc.clone()), b"[1]", true)
            .unwrap_err()
            .message,
        "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}"
    );
}

#[test]
fn what_a_patch_looked_into_is_written_sorted_and_all_else_as_it_came() {
    let doc = json!({
        "kind": "Deployment", "apiVersion": "apps/v1", "metadata": {"name": "n", "labels": {"a": "<"}, "annotations": {"b": "c"}},
        "spec": {"replicas": 1, "minReadySeconds": 2, "selector": {"matchLabels": {"a": "b"}}},
    });
    let merged = |patch: &str| {
        merge_patch(schema(), &Present::of(doc.clone()), patch.as_bytes(), true)
            .unwrap()
            .document
            .to_text()
    };
    let patched = |patch: &str| {
        json_patch(schema(), &Present::of(doc.clone()), patch.as_bytes(), true)
            .unwrap()
            .document
            .to_text()
    };
    let untouched =
        r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"n","labels":{"a":"\u003c"},"annotations":{"b":"c"}},"#;
    let sorted =
        r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"annotations":{"b":"c"},"labels":{"a":"\u003c"},"name":"n"},"#;
    let spec = r#""spec":{"replicas":1,"selector":{"matchLabels":{"a":"b"}},"minReadySeconds":2}}"#;
    assert_eq!(merged("{}"), [untouched, spec].concat());
    assert_eq!(merged(r#"{"metadata":{}}"#), [sorted, spec].concat());
    // A test that passes looks into all that it compares; one for a member, into what holds it.
    assert_eq!(
        patched(r#"[{"op":"test","path":"/metadata/name","value":"n"}]"#),
        [sorted, spec].concat()
    );
    assert_eq!(
        patched(r#"[{"op":"replace","path":"/spec","value":{"z":1.0,"a":{"d":1,"c":2}}}]"#),
        [untouched, r#""spec":{"z":1.0,"a":{"d":1,"c":2}}}"#].concat()
    );
    assert_eq!(
        patched(r#"[{"op":"add","path":"/status","value":{"z":1,"a":{"d":1,"c":2}}},{"op":"remove","path":"/status/z"}]"#),
        [untouched, &spec[..spec.len() - 1], r#","status":{"a":{"d":1,"c":2}}}"#].concat()
    );
}

#[test]
fn names_that_stand_twice_in_a_patch_are_told() {
    let doc = Present::of(json!({"spec": {"replicas": 1}}));
    let twice = br#"{"spec":{"replicas":7,"replicas":8,"x":[null,{"a":null}]}}"#;
    let patched = merge_patch(schema(), &doc, twice, true).unwrap();
    assert_eq!(patched.document.to_value(), json!({"spec": {"replicas": 8, "x": [null, {}]}}));
    assert_eq!(patched.strict, ["duplicate field \"spec.replicas\""]);
    assert!(merge_patch(schema(), &doc, twice, false).unwrap().strict.is_empty());
    let pod = br#"{"spec":{"nodeName":"a","nodeName":"b"}}"#;
    let patched = strategic_merge(pods(), &Present::of(json!({})), pod, true).unwrap();
    assert_eq!(patched.strict, ["duplicate field \"spec.nodeName\""]);
    assert_eq!(
        merge_patch(schema(), &doc, b"null", true).unwrap_err().message,
        "Invalid JSON Patch"
    );
}

#[test]
fn long_lists_merge_in_time_that_grows_with_them() {
    let names = |from: usize| -> Vec<Value> { (from..from + 20_000).map(|n| json!(format!("example.com/{n}"))).collect() };
    let live = json!({"metadata": {"finalizers": names(0)}});
    let out = strategic(live, json!({"metadata": {"finalizers": names(10_000)}}));
    assert_eq!(out["metadata"]["finalizers"].as_array().unwrap().len(), 30_000);
    let keyed = |from: usize| -> Vec<Value> {
        (from..from + 10_000)
            .map(|n| json!({"name": format!("c{n}"), "image": "i"}))
            .collect()
    };
    let out = strategic(
        json!({"spec": {"containers": keyed(0)}}),
        json!({"spec": {"containers": keyed(5_000)}}),
    );
    assert_eq!(out["spec"]["containers"].as_array().unwrap().len(), 15_000);
}

fn named() -> impl Strategy<Value = Vec<(String, String)>> {
    prop::collection::btree_map("[a-d]", "[1-3]", 0..4).prop_map(|map| map.into_iter().collect())
}

proptest! {
    #[test]
    fn a_strategic_patch_leaves_each_sent_element_and_loses_none(live in named(), sent in named()) {
        let of = |items: &[(String, String)]| containers(&items.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect::<Vec<_>>());
        let out = strategic(of(&live), of(&sent));
        let image = |name: &str| out["spec"]["containers"].as_array().unwrap().iter()
            .find(|item| item["name"] == name).map(|item| item["image"].as_str().unwrap().to_owned());
        for (name, want) in &sent {
            prop_assert_eq!(image(name), Some(want.clone()));
        }
        for (name, before) in live.iter().filter(|(name, _)| !sent.iter().any(|(other, _)| other == name)) {
            prop_assert_eq!(image(name), Some(before.clone()));
        }
        prop_assert_eq!(strategic(out.clone(), of(&sent)), out);
    }
}
