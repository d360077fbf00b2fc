//! Custom resources: definitions are established, their objects served, shown and deleted with them.

use serde_json::{Value, json};

use crate::definitions::settled;
use crate::writes::Client;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const ONE: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.example.com";
const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

fn definition() -> Value {
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
    "metadata": {"name": "widgets.example.com"},
    "spec": {"group": "example.com", "scope": "Namespaced",
        "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList", "shortNames": ["wd"],
            "categories": ["all"]},
        "versions": [
            {"name": "v1", "served": true, "storage": true, "schema": schema,
                "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.size",
                    "statusReplicasPath": ".status.size", "labelSelectorPath": ".status.selector"}},
                "additionalPrinterColumns": [
                    {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
                    {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"}]},
            {"name": "v1beta1", "served": true, "storage": false, "deprecated": true, "schema": schema},
        ]}})
}

fn widget(name: &str, size: i64) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": {"size": size},
        "status": {"size": 9}})
}

async fn served() -> Client {
    let client = Client::new().await;
    let answer = client.json("POST", DEFINITIONS, &definition()).await;
    assert_eq!(answer.code, 201, "{}", answer.body);
    settled(&client, ONE).await;
    client
}

#[tokio::test]
async fn objects_live_and_are_changed_in_each_way() {
    let client = served().await;
    let made = client.json("POST", WIDGETS, &widget("a", 1)).await;
    assert_eq!(made.code, 201, "{}", made.body);
    assert_eq!(
        (&made.body["metadata"]["generation"], made.body.get("status")),
        (&json!(1), None)
    );
    assert_eq!(client.json("POST", WIDGETS, &widget("a", 1)).await.code, 409);
    let one = format!("{WIDGETS}/a");
    let mut changed = made.body.clone();
    changed["spec"]["size"] = json!(2);
    changed["status"] = json!({"size": 7});
    let put = client.json("PUT", &one, &changed).await;
    assert_eq!(
        (put.code, &put.body["metadata"]["generation"], put.body.get("status")),
        (200, &json!(2), None),
        "{}",
        put.body
    );
    assert_eq!(client.json("PUT", &one, &changed).await.code, 409);
    changed["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    let unpinned = client.json("PUT", &one, &changed).await;
    assert_eq!(
        (unpinned.code, unpinned.message()),
        (
            422,
            "widgets.example.com \"a\" is invalid: metadata.resourceVersion: Invalid value: 0: must be specified for an update"
        )
    );
    let merged = client.patch(
        &one,
        "merge-patch+json",
        r#"{"spec":{"size":3,"colour":"red"},"metadata":{"labels":{"a":"b"}}}"#,
    );
    let merged = merged.await;
    assert_eq!(
        (merged.code, &merged.body["spec"]),
        (200, &json!({"size": 3, "colour": "red"})),
        "{}",
        merged.body
    );
    let labelled = client
        .patch(&one, "merge-patch+json", r#"{"metadata":{"labels":{"c":"d"}}}"#)
        .await;
    assert_eq!(
        labelled.body["metadata"]["generation"], 3,
        "metadata alone is no new generation"
    );
    let patched = client
        .patch(&one, "json-patch+json", r#"[{"op":"remove","path":"/spec/colour"}]"#)
        .await;
    assert_eq!(
        (patched.code, &patched.body["spec"]),
        (200, &json!({"size": 3})),
        "{}",
        patched.body
    );
    let strategic = client.patch(&one, "strategic-merge-patch+json", "{}").await;
    assert_eq!(
        (strategic.code, &strategic.body["reason"]),
        (415, &json!("UnsupportedMediaType"))
    );
    let status = client
        .patch(
            &format!("{one}/status"),
            "merge-patch+json",
            r#"{"spec":{"size":99},"status":{"size":4,"selector":"a=b"},"metadata":{"labels":{"x":"y"}}}"#,
        )
        .await;
    assert_eq!(
        (status.code, &status.body["status"]["size"], &status.body["spec"]["size"]),
        (200, &json!(4), &json!(3))
    );
    assert_eq!(status.body["metadata"]["labels"], labelled.body["metadata"]["labels"]);
    assert_eq!(status.body["metadata"]["generation"], patched.body["metadata"]["generation"]);

    let config = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "a"}, "spec": {"size": 3, "shape": "round"}});
    let applied = client
        .patch(
            &format!("{one}?fieldManager=x&force=true"),
            "apply-patch+yaml",
            config.to_string(),
        )
        .await;
    assert_eq!(
        (applied.code, &applied.body["spec"]["shape"]),
        (200, &json!("round")),
        "{}",
        applied.body
    );
    let owner = applied.owners().into_iter().find(|(manager, ..)| manager == "x").unwrap();
    assert_eq!(owner.3, json!({"f:spec": {".": {}, "f:shape": {}, "f:size": {}}}));
    let fresh = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "b"}, "spec": {"size": 1}});
    let at = format!("{WIDGETS}/b?fieldManager=x");
    assert_eq!(client.patch(&at, "apply-patch+yaml", fresh.to_string()).await.code, 201);
    let gone = client.send("DELETE", &one, "", "").await;
    assert_eq!(
        (gone.code, &gone.body["kind"], &gone.body["status"]),
        (200, &json!("Status"), &json!("Success"))
    );
    assert_eq!(gone.body["details"]["kind"], "widgets");
    let missing = client.send("GET", &one, "", "").await;
    assert_eq!(
        (missing.code, missing.message()),
        (404, "widgets.example.com \"a\" not found")
    );
    assert_eq!(client.send("DELETE", WIDGETS, "", "").await.code, 200);
    assert_eq!(client.send("GET", WIDGETS, "", "").await.body["items"], json!([]));
}

#[tokio::test]
async fn scales_lists_tables_and_versions() {
    let client = served().await;
    client.json("POST", WIDGETS, &widget("a", 1)).await;
    let one = format!("{WIDGETS}/a");
    let ready =
        json!({"status": {"size": 5, "selector": "k=v", "conditions": [{"type": "Ready", "status": "True"}]}}).to_string();
    client.patch(&format!("{one}/status"), "merge-patch+json", ready).await;
    let scale = client.send("GET", &format!("{one}/scale"), "", "").await;
    assert_eq!(
        (&scale.body["kind"], &scale.body["apiVersion"]),
        (&json!("Scale"), &json!("autoscaling/v1"))
    );
    assert_eq!(scale.body["spec"], json!({"replicas": 1}), "{}", scale.body);
    assert_eq!(scale.body["status"], json!({"replicas": 5, "selector": "k=v"}));
    let scaled = client
        .patch(&format!("{one}/scale"), "merge-patch+json", r#"{"spec":{"replicas":6}}"#)
        .await;
    assert_eq!(
        (scaled.code, &scaled.body["spec"]["replicas"]),
        (200, &json!(6)),
        "{}",
        scaled.body
    );

    let list = client.send("GET", WIDGETS, "", "").await;
    assert_eq!(
        (&list.body["kind"], &list.body["apiVersion"]),
        (&json!("WidgetList"), &json!("example.com/v1"))
    );
    assert_eq!(list.body["items"][0]["spec"]["size"], 6);
    // Of custom resources items say what they are.
    assert_eq!(list.body["items"][0]["kind"], "Widget");
    let beta = client.send("GET", &one.replace("v1", "v1beta1"), "", "").await;
    assert_eq!((beta.code, &beta.body["apiVersion"]), (200, &json!("example.com/v1beta1")));
    assert_eq!(
        beta.warnings,
        ["299 - \"example.com/v1beta1 Widget is deprecated; use example.com/v1 Widget\""]
    );
    let mut old = widget("c", 2);
    old["apiVersion"] = json!("example.com/v1beta1");
    let made = client.json("POST", &WIDGETS.replace("v1", "v1beta1"), &old).await;
    assert_eq!(
        (made.code, &made.body["apiVersion"]),
        (201, &json!("example.com/v1beta1")),
        "{}",
        made.body
    );
    assert_eq!(
        client.send("GET", &format!("{WIDGETS}/c"), "", "").await.body["apiVersion"],
        "example.com/v1"
    );
    let wrong = client.json("POST", &WIDGETS.replace("v1", "v1beta1"), &widget("d", 2)).await;
    assert_eq!(
        (wrong.code, wrong.message()),
        (
            400,
            "the API version in the data (example.com/v1) does not match the expected API version (example.com/v1beta1)"
        )
    );

    let table = client.accepting(TABLE, &one).await;
    let columns: Vec<&Value> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|column| &column["name"])
        .collect();
    assert_eq!(columns, ["Name", "Size", "Ready"]);
    assert_eq!(table["rows"][0]["cells"], json!(["a", 6, "True"]));
    let partial = client
        .accepting("application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io", &one)
        .await;
    assert_eq!(
        (&partial["kind"], partial.get("spec")),
        (&json!("PartialObjectMetadata"), None)
    );
    let none = client.accepting("application/vnd.kubernetes.protobuf", &one).await;
    assert_eq!(none, Value::Null, "protobuf is no JSON");
}

#[tokio::test]
async fn discovery_shows_what_is_served() {
    let client = served().await;
    let group = client.send("GET", "/apis/example.com", "", "").await.body;
    assert_eq!(
        group["preferredVersion"],
        json!({"groupVersion": "example.com/v1", "version": "v1"})
    );
    assert_eq!(group["versions"].as_array().unwrap().len(), 2);
    let groups = client.send("GET", "/apis", "", "").await.body;
    assert_eq!(groups["groups"].as_array().unwrap().last().unwrap()["name"], "example.com");
    let resources = client.send("GET", "/apis/example.com/v1", "", "").await.body;
    let verbs = json!([
        "delete",
        "deletecollection",
        "get",
        "list",
        "patch",
        "create",
        "update",
        "watch"
    ]);
    assert_eq!(
        resources["resources"][0],
        json!({"name": "widgets", "singularName": "widget", "namespaced": true, "kind": "Widget", "verbs": verbs,
            "shortNames": ["wd"], "categories": ["all"], "storageVersionHash": resources["resources"][0]["storageVersionHash"]})
    );
    let names: Vec<&Value> = resources["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|own| &own["name"])
        .collect();
    assert_eq!(names, ["widgets", "widgets/status", "widgets/scale"]);
    let aggregated = client
        .accepting(
            "application/json;as=APIGroupDiscoveryList;v=v2;g=apidiscovery.k8s.io",
            "/apis",
        )
        .await;
    let own = aggregated["items"].as_array().unwrap().last().unwrap();
    assert_eq!(own["metadata"]["name"], "example.com");
    assert_eq!(
        own["versions"][0]["resources"][0]["responseKind"],
        json!({"group": "example.com", "version": "v1", "kind": "Widget"})
    );
    for (path, code) in [
        ("/apis/example.com/v1/gadgets", 404),
        ("/apis/example.com/v2/widgets", 404),
        ("/apis/other.example.com/v1/widgets", 404),
        ("/apis/example.com/v1/widgets", 200),
    ] {
        assert_eq!(client.send("GET", path, "", "").await.code, code, "{path}");
    }
}

#[tokio::test]
async fn a_definition_takes_its_objects_with_it_and_ends_its_watches() {
    let client = served().await;
    client.json("POST", WIDGETS, &widget("a", 1)).await;
    let hold = r#"{"metadata":{"finalizers":["example.com/hold"]}}"#;
    client.patch(&format!("{WIDGETS}/a"), "merge-patch+json", hold).await;
    let watch = async {
        client
            .send("GET", &format!("{WIDGETS}?watch=1&resourceVersion=0"), "", "")
            .await
    };
    let ending = async {
        let answer = client.send("DELETE", ONE, "", "").await;
        assert_eq!((answer.code, &answer.body["kind"]), (200, &json!("CustomResourceDefinition")));
        let mut waits = Value::Null;
        for _ in 0..500 {
            waits = client.send("GET", &format!("{WIDGETS}/a"), "", "").await.body;
            if waits["metadata"]["deletionTimestamp"].is_string() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert!(waits["metadata"]["deletionTimestamp"].is_string(), "{waits}");
        let refused = client.json("POST", WIDGETS, &widget("b", 1)).await;
        assert_eq!(
            (refused.code, refused.message()),
            (
                403,
                "widgets.example.com \"b\" is forbidden: create not allowed while custom resource definition is terminating"
            )
        );
        let free = r#"{"metadata":{"finalizers":null}}"#;
        assert_eq!(
            client.patch(&format!("{WIDGETS}/a"), "merge-patch+json", free).await.code,
            200
        );
        for _ in 0..1000 {
            if client.send("GET", ONE, "", "").await.code == 404 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert_eq!(client.send("GET", ONE, "", "").await.code, 404);
    };
    // The watch ends since what it watches is served no more.
    let ended = tokio::time::timeout(std::time::Duration::from_secs(30), async { tokio::join!(watch, ending) });
    assert_eq!(ended.await.unwrap().0.code, 200);
    assert_eq!(client.send("GET", WIDGETS, "", "").await.code, 404);
}

/// A custom resource that is called as a built-in one inherits nothing of it.
#[tokio::test]
async fn a_name_makes_no_behaviour() {
    let client = Client::new().await;
    for (plural, kind) in [
        ("services", "Service"),
        ("leases", "Lease"),
        ("pods", "Pod"),
        ("deployments", "Deployment"),
        ("events", "Event"),
    ] {
        let mut own = definition();
        own["metadata"]["name"] = format!("{plural}.example.com").into();
        own["spec"]["names"] =
            json!({"plural": plural, "singular": kind.to_lowercase(), "kind": kind, "listKind": format!("{kind}List")});
        let made = client.json("POST", DEFINITIONS, &own).await;
        assert_eq!(made.code, 201, "{}", made.body);
        settled(&client, &format!("{DEFINITIONS}/{plural}.example.com")).await;
        let at = format!("/apis/example.com/v1/namespaces/default/{plural}");
        let object = json!({"apiVersion": "example.com/v1", "kind": kind, "metadata": {"name": "a"}, "spec": {"size": 1}});
        let made = client.json("POST", &at, &object).await;
        assert_eq!(
            (made.code, &made.body["spec"]),
            (201, &json!({"size": 1})),
            "{plural}: {}",
            made.body
        );
        assert_eq!(made.body["metadata"]["generation"], 1, "{plural}");
        let mut other = object.clone();
        other["metadata"]["name"] = json!("b");
        other["metadata"]["resourceVersion"] = json!("1");
        assert_eq!(
            client.json("PUT", &format!("{at}/b"), &other).await.code,
            404,
            "{plural}: PUT creates none"
        );
        let gone = client.send("DELETE", &format!("{at}/a"), "", "").await;
        assert_eq!(gone.body["kind"], "Status", "{plural}");
    }
}

fn strict_definition() -> Value {
    let mut own = definition();
    let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {
        "spec": {"type": "object", "required": ["size"], "properties": {
            "size": {"type": "integer", "minimum": 1, "description": "How large it is."},
            "colour": {"type": "string", "default": "red", "enum": ["red", "blue"]}}},
        "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}});
    for version in own["spec"]["versions"].as_array_mut().unwrap() {
        version["schema"] = schema.clone();
        // What all versions have alike upstream takes for the definition's.
        version["selectableFields"] = json!([{"jsonPath": ".spec.colour"}]);
    }
    own
}

#[tokio::test]
async fn schemas_prune_default_and_refuse() {
    let client = Client::new().await;
    let answer = client.json("POST", DEFINITIONS, &strict_definition()).await;
    assert_eq!(answer.code, 201, "{}", answer.body);
    settled(&client, ONE).await;
    let mut object = widget("a", 1);
    object["spec"]["shape"] = json!("round");
    object["metadata"]["nope"] = json!(1);
    let made = client.json("POST", &format!("{WIDGETS}?fieldValidation=Warn"), &object).await;
    assert_eq!(
        (made.code, &made.body["spec"]),
        (201, &json!({"size": 1, "colour": "red"})),
        "{}",
        made.body
    );
    assert_eq!(
        made.warnings,
        ["metadata.nope", "spec.shape"].map(|path| format!("299 - \"unknown field \\\"{path}\\\"\""))
    );
    object["metadata"] = json!({"name": "b"});
    let strict = client
        .json("POST", &format!("{WIDGETS}?fieldValidation=Strict"), &object)
        .await;
    assert_eq!(
        (strict.code, strict.message()),
        (
            400,
            "Widget in version \"v1\" cannot be handled as a Widget: strict decoding error: unknown field \"spec.shape\""
        )
    );
    let refused = client.json("POST", WIDGETS, &widget("c", 0)).await;
    assert_eq!(
        (refused.code, refused.message()),
        (
            422,
            "Widget.example.com \"c\" is invalid: spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1"
        )
    );
    let red = client
        .send("GET", &format!("{WIDGETS}?fieldSelector=spec.colour%3Dred"), "", "")
        .await;
    assert_eq!(red.body["items"].as_array().map(Vec::len), Some(1), "{}", red.body);
    let blue = client
        .send("GET", &format!("{WIDGETS}?fieldSelector=spec.colour%3Dblue"), "", "")
        .await;
    assert_eq!(blue.body["items"], json!([]));
    let unknown = client
        .send("GET", &format!("{WIDGETS}?fieldSelector=spec.size%3D1"), "", "")
        .await;
    assert_eq!(
        (unknown.code, unknown.message()),
        (400, "field label not supported: spec.size")
    );

    let index = client.send("GET", "/openapi/v3", "", "").await.body;
    let url = index["paths"]["apis/example.com/v1"]["serverRelativeURL"]
        .as_str()
        .unwrap()
        .to_owned();
    let document = client.send("GET", &url, "", "").await.body;
    let own = &document["components"]["schemas"]["com.example.v1.Widget"];
    assert_eq!(
        own["properties"]["spec"]["properties"]["size"]["description"],
        "How large it is."
    );
    assert_eq!(
        own["x-kubernetes-group-version-kind"],
        json!([{"group": "example.com", "version": "v1", "kind": "Widget"}])
    );
    let text = document.to_string();
    for reference in text.split("#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(document["components"]["schemas"].get(name).is_some(), "{name}");
    }
    assert!(document["paths"]["/apis/example.com/v1/namespaces/{namespace}/widgets/{name}/status"]["patch"].is_object());
    let older = client.send("GET", "/openapi/v2", "", "").await.body;
    let own = &older["definitions"]["com.example.v1.Widget"];
    assert_eq!(own["properties"]["spec"]["properties"]["size"]["type"], "integer");
    assert_eq!(own["properties"]["status"]["x-kubernetes-preserve-unknown-fields"], true);
}

#[tokio::test]
async fn an_apply_declares_what_it_has() {
    let client = Client::new().await;
    let mut definition = definition();
    for version in definition["spec"]["versions"].as_array_mut().unwrap() {
        version["schema"]["openAPIV3Schema"] = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "size": {"type": "integer"}, "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}},
            "status": {"type": "object", "properties": {"size": {"type": "integer"}, "selector": {"type": "string"}}}}});
    }
    assert_eq!(client.json("POST", DEFINITIONS, &definition).await.code, 201);
    settled(&client, ONE).await;
    let at = format!("{WIDGETS}/b?fieldManager=x");
    let config = |spec: Value, metadata: Value| json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": metadata, "spec": spec});
    for (spec, metadata, problem) in [
        (
            json!({"size": 1, "sise": 2}),
            json!({"name": "b"}),
            ".spec.sise: field not declared in schema",
        ),
        (
            json!({"sise": 2, "free": {"x": 1}}),
            json!({"name": "b", "label": "x"}),
            "errors:\n  .metadata.label: field not declared in schema\n  .spec.sise: field not declared in schema",
        ),
    ] {
        let refused = client
            .patch(&at, "apply-patch+yaml", config(spec, metadata).to_string())
            .await;
        let text = format!("failed to create typed patch object (/b; example.com/v1, Kind=Widget): {problem}");
        assert_eq!((refused.code, refused.message()), (500, &*text));
    }
    let fits = config(json!({"size": 1, "free": {"x": 1}}), json!({"name": "b"}));
    assert_eq!(client.patch(&at, "apply-patch+yaml", fits.to_string()).await.code, 201);
}

/// Waits until an object's spec is that.
async fn spec_becomes(client: &Client, at: &str, wanted: &Value) -> Value {
    let mut found = Value::Null;
    for _ in 0..500 {
        found = client.send("GET", at, "", "").await.body;
        if found["spec"] == *wanted {
            return found;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("{found}");
}

/// What was stored before the schema said so is pruned and has its defaults when it is read, watched, selected and changed.
#[tokio::test]
async fn what_is_stored_is_read_by_the_schema_of_today() {
    let client = served().await;
    let mut old = widget("a", 1);
    old["spec"]["shape"] = json!("round");
    let before = client.json("POST", WIDGETS, &old).await;
    client.json("POST", WIDGETS, &widget("b", 1)).await;
    let versions = &strict_definition()["spec"]["versions"];
    let merge = json!({"spec": {"versions": versions}}).to_string();
    let answer = client.patch(ONE, "merge-patch+json", merge).await;
    assert_eq!(answer.code, 200, "{}", answer.body);
    let one = format!("{WIDGETS}/a");
    let wanted = json!({"size": 1, "colour": "red"});
    let read = spec_becomes(&client, &one, &wanted).await;
    assert_eq!(
        read["metadata"]["resourceVersion"],
        before.body["metadata"]["resourceVersion"]
    );
    let list = client.send("GET", WIDGETS, "", "").await.body;
    assert_eq!(list["items"][0]["spec"], wanted);
    let selected = client
        .send("GET", &format!("{WIDGETS}?fieldSelector=spec.colour=red"), "", "")
        .await
        .body;
    assert_eq!(selected["items"].as_array().map(Vec::len), Some(2), "{selected}");
    let watch = format!("{WIDGETS}?watch=true&timeoutSeconds=1&resourceVersion=0&fieldSelector=metadata.name%3Da");
    let told = client.send("GET", &watch, "", "").await.body;
    assert_eq!(told["object"]["spec"], wanted, "{told}");
    let labelled = client
        .patch(&one, "merge-patch+json", r#"{"metadata":{"labels":{"a":"b"}}}"#)
        .await;
    assert_eq!(
        (&labelled.body["spec"], &labelled.body["metadata"]["generation"]),
        (&wanted, &json!(1)),
        "{}",
        labelled.body
    );
    // Nobody changes anything, and yet it is stored as it is read.
    let two = format!("{WIDGETS}/b");
    let read = client.send("GET", &two, "", "").await.body;
    let same = client.patch(&two, "merge-patch+json", "{}").await.body;
    assert_eq!(same["spec"], wanted);
    assert_ne!(same["metadata"]["resourceVersion"], read["metadata"]["resourceVersion"]);
    let again = client.patch(&two, "merge-patch+json", "{}").await.body;
    assert_eq!(same["metadata"]["resourceVersion"], again["metadata"]["resourceVersion"]);
}

/// A version shows what its own schema knows of an object, and stores what the stored version's does.
#[tokio::test]
async fn each_version_shows_what_its_schema_knows() {
    let client = Client::new().await;
    let mut two = definition();
    let of = |fields: Value| json!({"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object", "properties": fields}}}});
    two["spec"]["versions"][0]["schema"] =
        of(json!({"size": {"type": "integer"}, "colour": {"type": "string", "default": "red"}}));
    two["spec"]["versions"][1]["schema"] = of(json!({"size": {"type": "integer"}, "old": {"type": "string"}}));
    two["spec"]["versions"][1]["schema"]["openAPIV3Schema"]["properties"]["spec"]["required"] = json!(["old"]);
    assert_eq!(client.json("POST", DEFINITIONS, &two).await.code, 201);
    settled(&client, ONE).await;
    let beta = WIDGETS.replace("/v1/", "/v1beta1/");
    let mut widget = widget("a", 1);
    widget["apiVersion"] = json!("example.com/v1beta1");
    let lacking = client.json("POST", &beta, &widget).await;
    assert_eq!(lacking.code, 422, "{}", lacking.body);
    widget["spec"]["old"] = json!("x");
    let made = client.json("POST", &beta, &widget).await;
    assert_eq!((made.code, &made.body["spec"]), (201, &json!({"size": 1})), "{}", made.body);
    let read = client.send("GET", &format!("{WIDGETS}/a"), "", "").await.body;
    assert_eq!(read["spec"], json!({"size": 1, "colour": "red"}));
    // The schema of the version asked for judges what is changed, not only what the change says.
    let changed = client
        .patch(&format!("{beta}/a"), "merge-patch+json", r#"{"spec":{"size":2}}"#)
        .await;
    assert_eq!(changed.code, 422, "{}", changed.body);
    let changed = client
        .patch(&format!("{beta}/a"), "merge-patch+json", r#"{"spec":{"size":2,"old":"y"}}"#)
        .await;
    assert_eq!(
        (changed.code, &changed.body["spec"]),
        (200, &json!({"size": 2})),
        "{}",
        changed.body
    );
    let gone = client.send("DELETE", &format!("{beta}/a"), "", "").await;
    assert_eq!((gone.code, &gone.body["status"]), (200, &json!("Success")), "{}", gone.body);
}

const UNDOMAINED: &str = "prefer a domain-qualified finalizer name";

/// A finalizer without a domain is warned of where it is new.
#[tokio::test]
async fn finalizers_without_a_domain_are_warned_of() {
    let client = served().await;
    let mut held = widget("a", 1);
    held["metadata"]["finalizers"] = json!(["plain", "a/b", "foregroundDeletion", "kubernetes", "x.com"]);
    let made = client.json("POST", WIDGETS, &held).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let others = "to avoid accidental conflicts with other finalizer writers\"";
    let told = |name: &str, path: &str| format!(r#"299 - "metadata.finalizers: \"{name}\": {UNDOMAINED}{path} {others}"#);
    let wanted = [told("plain", ""), told("x.com", " including a path (/)")];
    assert_eq!(made.warnings, wanted);
    let one = format!("{WIDGETS}/a");
    let more = r#"[{"op":"add","path":"/metadata/finalizers/-","value":"added"}]"#;
    assert_eq!(
        client.patch(&one, "json-patch+json", more).await.warnings,
        [told("added", "")]
    );
    let status = format!("{one}/status");
    let status = client.patch(&status, "merge-patch+json", r#"{"status":{"size":1}}"#).await;
    assert_eq!(status.warnings, Vec::<String>::new());
}

/// A definition that is being deleted takes nothing new, by whatever request; what is there may be changed.
#[tokio::test]
async fn nothing_new_is_taken_while_a_definition_is_deleted() {
    let client = served().await;
    let mut held = widget("a", 1);
    held["metadata"]["finalizers"] = json!(["example.com/held"]);
    client.json("POST", WIDGETS, &held).await;
    client.send("DELETE", ONE, "", "").await;
    let mut config = widget("b", 1);
    config.as_object_mut().unwrap().remove("status");
    let apply = async |name: &str, config: &Value| {
        let at = format!("{WIDGETS}/{name}?fieldManager=x&force=true");
        client.patch(&at, "apply-patch+yaml", config.to_string()).await
    };
    let mut refused = apply("b", &config).await;
    for _ in 0..500 {
        if refused.code == 403 {
            break;
        }
        client
            .patch(
                &format!("{WIDGETS}/b"),
                "merge-patch+json",
                r#"{"metadata":{"finalizers":null}}"#,
            )
            .await;
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        refused = apply("b", &config).await;
    }
    let why = "create not allowed while custom resource definition is terminating";
    let told = |name: &str| format!("widgets.example.com {name:?} is forbidden: {why}");
    assert_eq!((refused.code, refused.message()), (403, told("b").as_str()));
    let posted = client.json("POST", WIDGETS, &widget("c", 1)).await;
    assert_eq!((posted.code, posted.message()), (403, told("c").as_str()));
    config["metadata"]["name"] = json!("a");
    assert_eq!(apply("a", &config).await.code, 200);
    client
        .patch(
            &format!("{WIDGETS}/a"),
            "merge-patch+json",
            r#"{"metadata":{"finalizers":null}}"#,
        )
        .await;
}

/// The groups of definitions are APIServices for as long as they are served.
#[tokio::test]
async fn groups_of_definitions_are_registered() {
    const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
    let client = served().await;
    let becomes = async |version: &str, code: u16| {
        for _ in 0..500 {
            let found = client.send("GET", &format!("{SERVICES}/{version}.example.com"), "", "").await;
            if found.code == code {
                return found.body;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("{version} is not {code}");
    };
    let found = becomes("v1", 200).await;
    assert_eq!(
        found["spec"],
        json!({"group": "example.com", "version": "v1", "groupPriorityMinimum": 1000, "versionPriority": 100})
    );
    assert_eq!(
        found["metadata"]["labels"],
        json!({"kube-aggregator.kubernetes.io/automanaged": "true"})
    );
    let condition = &found["status"]["conditions"][0];
    assert_eq!(
        ["type", "status", "reason", "message"].map(|name| condition[name].as_str().unwrap()),
        ["Available", "True", "Local", "Local APIServices are always available"]
    );
    becomes("v1beta1", 200).await;
    let unserved = r#"[{"op":"replace","path":"/spec/versions/1/served","value":false}]"#;
    assert_eq!(client.patch(ONE, "json-patch+json", unserved).await.code, 200);
    becomes("v1beta1", 404).await;
    becomes("v1", 200).await;
    client.send("DELETE", ONE, "", "").await;
    becomes("v1", 404).await;
}
