//! Changes of definitions, whose versions are set aside meanwhile: what comes out is what changing the whole gives.

use serde_json::{Value, json};

use crate::writes::{Answer, Client};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const ONE: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/bigs.example.com";

fn definition() -> Value {
    let version = |name: &str, storage: bool| {
        json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": {"type": "object", "properties": {
            "spec": {"type": "object", "properties": {"size": {"type": "string", "format": "unheard", "description": "How large"}}}}}}})
    };
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "bigs.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "bigs", "singular": "big", "kind": "Big",
        "listKind": "BigList"}, "versions": [version("v1", true), version("v2", false)]}})
}

async fn created() -> (Client, Value) {
    let client = Client::new().await;
    let created = client
        .json("POST", &format!("{DEFINITIONS}?fieldManager=first"), &definition())
        .await;
    assert_eq!(created.code, 201, "{}", created.body);
    assert_eq!(
        created
            .warnings
            .iter()
            .filter(|text| text.contains("unrecognized format"))
            .count(),
        1
    );
    let settled = settled(&client, ONE).await;
    (client, settled)
}

/// A definition once its names are accepted and it is established.
pub(crate) async fn settled(client: &Client, path: &str) -> Value {
    for _ in 0..500 {
        let found = client.send("GET", path, "", "").await.body;
        let conditions = found["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let established = conditions
            .iter()
            .any(|own| own["type"] == "Established" && own["status"] == "True");
        if established && found["status"]["acceptedNames"] == found["spec"]["names"] {
            return found;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("{path} is not established");
}

/// An object changed in each of the five ways, as a second manager; each takes the function that changes it, the merge and
/// the JSON patch that do the same.
async fn change_all(change: &dyn Fn(&mut Value), merge: Value, patch: Value, check: &dyn Fn(&str, &Value, &Answer)) {
    for way in ["PUT", "merge", "strategic", "json", "apply"] {
        let (client, before) = created().await;
        let mut changed = before.clone();
        change(&mut changed);
        let at = format!("{ONE}?fieldManager=second");
        let answer = match way {
            "PUT" => client.json("PUT", &at, &changed).await,
            "merge" => client.patch(&at, "merge-patch+json", merge.to_string()).await,
            "strategic" => client.patch(&at, "strategic-merge-patch+json", merge.to_string()).await,
            "json" => client.patch(&at, "json-patch+json", patch.to_string()).await,
            _ => {
                let mut config = definition();
                change(&mut config);
                client
                    .patch(&format!("{at}&force=true"), "apply-patch+yaml", config.to_string())
                    .await
            }
        };
        assert_eq!(answer.code, 200, "{way}: {}", answer.body);
        assert_eq!(answer.body["spec"], changed["spec"], "{way}");
        let stored = settled(&client, ONE).await;
        assert_eq!(stored["spec"], answer.body["spec"], "{way}");
        check(way, &before, &answer);
        // The same once more is no change.
        let again = match way {
            "PUT" => client.json("PUT", &at, &stored).await,
            "merge" => client.patch(&at, "merge-patch+json", merge.to_string()).await,
            "strategic" => client.patch(&at, "strategic-merge-patch+json", merge.to_string()).await,
            _ => continue,
        };
        assert_eq!(again.body, stored, "{way}");
    }
}

fn owns_versions(answer: &Answer, manager: &str) -> bool {
    let owners = answer.owners();
    let own = owners.iter().find(|(name, ..)| name == manager);
    own.is_some_and(|(.., fields)| fields["f:spec"].get("f:versions").is_some())
}

#[tokio::test]
async fn what_leaves_the_versions_alone_leaves_their_owner_alone() {
    change_all(
        &|object| object["metadata"]["labels"] = json!({"a": "b"}),
        json!({"metadata": {"labels": {"a": "b"}}}),
        json!([{"op": "add", "path": "/metadata/labels", "value": {"a": "b"}}]),
        &|way, before, answer| {
            assert_eq!(answer.body["metadata"]["generation"], 1, "{way}");
            assert_ne!(
                answer.body["metadata"]["resourceVersion"], before["metadata"]["resourceVersion"],
                "{way}"
            );
            assert_eq!(
                (owns_versions(answer, "first"), owns_versions(answer, "second")),
                (true, way == "apply"),
                "{way}"
            );
            assert!(!answer.warnings.iter().any(|text| text.contains("unrecognized")), "{way}");
        },
    )
    .await;
    change_all(
        &|object| object["spec"]["names"]["shortNames"] = json!(["bg"]),
        json!({"spec": {"names": {"shortNames": ["bg"]}}}),
        json!([{"op": "add", "path": "/spec/names/shortNames", "value": ["bg"]}]),
        &|way, _, answer| {
            assert_eq!(answer.body["metadata"]["generation"], 2, "{way}");
            assert_eq!(
                (owns_versions(answer, "first"), owns_versions(answer, "second")),
                (true, way == "apply"),
                "{way}"
            );
        },
    )
    .await;
}

#[tokio::test]
async fn what_changes_a_version_owns_them_all() {
    let new = |at: &str, value: Value| {
        let mut versions = definition()["spec"]["versions"].clone();
        *versions.pointer_mut(at).unwrap() = value;
        versions
    };
    for (at, value) in [
        (
            "/1/schema/openAPIV3Schema/properties/spec/properties/size/description",
            json!("How big"),
        ),
        ("/0/served", json!(false)),
        ("/1/name", json!("v3")),
    ] {
        let versions = new(at, value.clone());
        change_all(
            &|object| object["spec"]["versions"] = versions.clone(),
            json!({"spec": {"versions": versions}}),
            json!([{"op": "replace", "path": format!("/spec/versions{at}"), "value": value}]),
            &|way, _, answer| {
                assert_eq!(answer.body["metadata"]["generation"], 2, "{way} {at}");
                assert_eq!(
                    (owns_versions(answer, "first"), owns_versions(answer, "second")),
                    (false, true),
                    "{way} {at}"
                );
                assert!(
                    !answer.warnings.iter().any(|text| text.contains("unrecognized")),
                    "{way} {at}"
                );
            },
        )
        .await;
    }
    // A format that only the new one has is told.
    let (client, _) = created().await;
    let path = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/size/format";
    let patch = json!([{"op": "replace", "path": path, "value": "unknown"}]).to_string();
    let answer = client.patch(ONE, "json-patch+json", patch).await;
    let told: Vec<&String> = answer.warnings.iter().filter(|text| text.contains("unrecognized")).collect();
    assert_eq!(told, ["299 - \"unrecognized format \\\"unknown\\\"\""]);
}

#[tokio::test]
async fn patches_see_what_is_set_aside() {
    let (client, before) = created().await;
    let patch = async |operations: Value| {
        client
            .patch(&format!("{ONE}?dryRun=All"), "json-patch+json", operations.to_string())
            .await
    };
    let small = json!([{"name": "v1", "served": true, "storage": true}, {"name": "v2", "served": true, "storage": false}]);
    let description = "/spec/versions/1/schema/openAPIV3Schema/properties/spec/properties/size/description";
    let label = json!({"op": "add", "path": "/metadata/labels", "value": {"a": "b"}});
    for (operation, code) in [
        (json!({"op": "test", "path": "/spec/versions", "value": small}), 422),
        (
            json!({"op": "test", "path": "/spec/versions", "value": before["spec"]["versions"]}),
            200,
        ),
        (json!({"op": "test", "path": "/spec", "value": before["spec"]}), 200),
        (json!({"op": "test", "path": "/spec/versions/0/schema", "value": null}), 422),
        (json!({"op": "test", "path": description, "value": "How large"}), 200),
        (json!({"op": "test", "path": "", "value": before}), 200),
    ] {
        let answer = patch(json!([operation, label])).await;
        assert_eq!(answer.code, code, "{operation}: {}", answer.body);
    }
    let answer = patch(json!([{"op": "copy", "from": description, "path": "/metadata/annotations", "value": {}}])).await;
    assert_eq!(answer.code, 422, "a text is no map: {}", answer.body);
    let copied = json!([{"op": "add", "path": "/metadata/annotations", "value": {}},
        {"op": "copy", "from": description, "path": "/metadata/annotations/a"}]);
    assert_eq!(patch(copied).await.body["metadata"]["annotations"]["a"], "How large");
    let swapped = patch(json!([{"op": "move", "from": "/spec/versions/1", "path": "/spec/versions/0"}])).await;
    assert_eq!(swapped.body["spec"]["versions"][1], before["spec"]["versions"][0]);
    let without = patch(json!([{"op": "remove", "path": "/spec/versions/1"}])).await;
    assert_eq!(without.body["spec"]["versions"], json!([before["spec"]["versions"][0]]));
    for gone in [
        json!([{"op": "remove", "path": "/spec/versions"}]),
        json!([{"op": "add", "path": "/spec", "value": {}}]),
    ] {
        let answer = patch(gone).await;
        assert!(
            answer.code == 422 && answer.message().contains("must have exactly one version"),
            "{}",
            answer.body
        );
    }
    let added = json!([{"op": "add", "path": "/spec/versions/-", "value": before["spec"]["versions"][0]}]);
    let answer = patch(added).await;
    assert!(
        answer.code == 422 && answer.message().contains("unique version names"),
        "{}",
        answer.body
    );
}

/// What stands for the versions that are set aside may be sent as well as anything else.
#[tokio::test]
async fn what_stands_for_versions_is_not_taken_for_them() {
    let small = json!([{"name": "v1", "served": true, "storage": true}, {"name": "v2", "served": true, "storage": false}]);
    let (client, before) = created().await;
    let mut changed = before.clone();
    changed["spec"]["versions"] = small.clone();
    let merge = json!({"spec": {"versions": small}}).to_string();
    let mut config = definition();
    config["spec"]["versions"] = small.clone();
    let applied = format!("{ONE}?fieldManager=second&force=true");
    for answer in [
        client.json("PUT", ONE, &changed).await,
        client.patch(ONE, "merge-patch+json", merge.clone()).await,
        client.patch(ONE, "strategic-merge-patch+json", merge).await,
        client
            .patch(
                ONE,
                "json-patch+json",
                json!([{"op": "add", "path": "/spec/versions", "value": small}]).to_string(),
            )
            .await,
        client.patch(&applied, "apply-patch+yaml", config.to_string()).await,
    ] {
        let fields: Vec<&str> = answer.body["details"]["causes"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|cause| cause["field"].as_str())
            .collect();
        let wanted = [
            "spec.versions[0].schema.openAPIV3Schema",
            "spec.versions[1].schema.openAPIV3Schema",
        ];
        assert_eq!((answer.code, fields), (422, wanted.to_vec()), "{}", answer.body);
    }
    assert_eq!(client.send("GET", ONE, "", "").await.body, before);
}

#[tokio::test]
async fn refusals_show_the_whole_object() {
    let (client, _) = created().await;
    for (kind, patch) in [
        ("merge-patch+json", json!({"spec": {"names": 7}})),
        (
            "json-patch+json",
            json!([{"op": "replace", "path": "/spec/names", "value": 7}]),
        ),
    ] {
        let answer = client.patch(ONE, kind, patch.to_string()).await;
        let told = answer.code == 422 && answer.message().contains("How large");
        assert!(told, "{kind}: {}", answer.body);
    }
}

#[tokio::test]
async fn the_status_door_and_the_end_of_a_definition() {
    let (client, before) = created().await;
    let status = format!("{ONE}/status");
    let mut changed = before.clone();
    changed["spec"]["versions"][0]["served"] = json!(false);
    changed["status"]["acceptedNames"]["plural"] = json!("bigs");
    let answer = client.json("PUT", &status, &changed).await;
    assert_eq!((answer.code, &answer.body["spec"]), (200, &before["spec"]), "{}", answer.body);
    // The default is the name of the version that is stored.
    let none = json!({"status": {"storedVersions": null, "conditions": null, "acceptedNames": {"kind": "Big"}}}).to_string();
    let answer = client.patch(&status, "merge-patch+json", none).await;
    assert_eq!(answer.body["status"]["storedVersions"], json!(["v1"]), "{}", answer.body);
    // What it lost comes again.
    settled(&client, ONE).await;

    let hold = json!({"metadata": {"finalizers": ["example.com/hold"]}}).to_string();
    assert_eq!(client.patch(ONE, "merge-patch+json", hold).await.code, 200);
    let deleted = client.send("DELETE", ONE, "", "").await;
    assert_eq!(deleted.code, 200);
    let pending = deleted.body["status"]["conditions"].as_array().unwrap().last().unwrap();
    assert_eq!(
        (&pending["type"], &pending["reason"]),
        (&json!("Terminating"), &json!("InstanceDeletionPending"))
    );
    let free = json!({"metadata": {"finalizers": null}}).to_string();
    let last = client.patch(ONE, "merge-patch+json", free).await;
    assert_eq!((last.code, &last.body["spec"]), (200, &before["spec"]), "{}", last.body);
    assert_eq!(client.send("GET", ONE, "", "").await.code, 404);
}

/// What is sent empty counts until it is stored: then nothing is set aside.
#[tokio::test]
async fn empty_lists_are_judged_within_the_versions() {
    let (client, before) = created().await;
    let mut changed = before.clone();
    changed["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["required"] = json!([]);
    changed["metadata"]["labels"] = json!({"a": "b"});
    let answer = client.json("PUT", ONE, &changed).await;
    assert_eq!((answer.code, &answer.body["spec"]), (200, &before["spec"]), "{}", answer.body);
    let labels = json!({"metadata": {"labels": {}}}).to_string();
    let answer = client.patch(ONE, "merge-patch+json", labels).await;
    assert_eq!((answer.code, &answer.body["spec"]), (200, &before["spec"]), "{}", answer.body);
    assert_eq!(client.send("GET", ONE, "", "").await.body["spec"], before["spec"]);
}
