//! Conversion webhooks: what is not stored in the version that is asked for.

use super::*;

/// What a webhook answers that calls `size` of `v1` `length` in `v2`, and back.
fn converted(request: &Value) -> Reply {
    let to = request["desiredAPIVersion"].as_str().unwrap();
    let objects = request["objects"].as_array().unwrap().iter().map(|object| {
        let mut object = object.clone();
        let [from, into] = if to.ends_with("/v2") {
            ["size", "length"]
        } else {
            ["length", "size"]
        };
        object["apiVersion"] = json!(to);
        if let Some(value) = object["spec"].as_object_mut().unwrap().remove(from) {
            object["spec"][into] = value;
        }
        object["metadata"]["annotations"]["by"] = json!("hook");
        object["metadata"]["finalizers"] = json!(["not/taken"]);
        object
    });
    Reply::Review(
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "response": {
        "uid": request["uid"], "result": {"status": "Success"}, "convertedObjects": objects.collect::<Vec<_>>()}}),
    )
}

/// A webhook converts what is read, watched, changed and deleted in a version that is not stored; of a list all in one call.
#[tokio::test]
async fn conversion_webhooks_convert() {
    const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let place = |version: &str| format!("/apis/example.com/{version}/namespaces/default/widgets");
    let backend = Backend::start(|path, request| match path {
        "/convert" => converted(request),
        _ => deny("no"),
    })
    .await;
    let server = server(Config::default(), None).await;
    let schema = |field: &str| {
        json!({"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object",
        "properties": {field: {"type": "integer"}}}}}})
    };
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"},
            "conversion": {"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"],
                "clientConfig": backend.at("/convert")}},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema("size")},
                {"name": "v2", "served": true, "storage": false, "schema": schema("length")}]}});
    made(&server, "POST", DEFINITIONS, definition).await;
    for _ in 0..500 {
        if call(&server, "GET", &place("v2"), Value::Null).await.code == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let widget = |version: &str, name: &str, spec: Value| {
        json!({"apiVersion": format!("example.com/{version}"), "kind": "Widget",
        "metadata": {"name": name}, "spec": spec})
    };
    let answer = call(&server, "POST", &place("v1"), widget("v1", "a", json!({"size": 1}))).await;
    assert_eq!((answer.code, backend.asked().len()), (201, 0), "{}", answer.text);
    let one = format!("{}/a", place("v2"));
    let read = call(&server, "GET", &one, Value::Null).await.body;
    assert_eq!(
        (&read["apiVersion"], &read["spec"]),
        (&json!("example.com/v2"), &json!({"length": 1}))
    );
    assert_eq!(
        (&read["metadata"]["annotations"], read["metadata"].get("finalizers")),
        (&json!({"by": "hook"}), None)
    );
    let answer = call(&server, "POST", &place("v2"), widget("v2", "b", json!({"length": 2}))).await;
    assert_eq!(
        (answer.code, &answer.body["spec"]),
        (201, &json!({"length": 2})),
        "{}",
        answer.text
    );
    let stored = call(&server, "GET", &format!("{}/b", place("v1")), Value::Null).await.body;
    assert_eq!(
        (&stored["apiVersion"], &stored["spec"]),
        (&json!("example.com/v1"), &json!({"size": 2}))
    );
    backend.asked();
    let list = call(&server, "GET", &place("v2"), Value::Null).await.body;
    let lengths: Vec<&Value> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| &item["spec"]["length"])
        .collect();
    assert_eq!((lengths, backend.asked().len()), (vec![&json!(1), &json!(2)], 1));
    let watch = format!(
        "{}?watch=1&timeoutSeconds=1&resourceVersion=0&fieldSelector=metadata.name%3Da",
        place("v2")
    );
    let told = call(&server, "GET", &watch, Value::Null).await;
    assert!(told.text.contains(r#""spec":{"length":1}"#), "{}", told.text);
    let mut changed = read.clone();
    changed["spec"]["length"] = json!(5);
    let put = call(&server, "PUT", &one, changed).await;
    assert_eq!(
        (put.code, &put.body["spec"], &put.body["metadata"]["generation"]),
        (200, &json!({"length": 5}), &json!(2)),
        "{}",
        put.text
    );
    let gone = call(&server, "DELETE", &one, Value::Null).await;
    assert_eq!(gone.code, 200, "{}", gone.text);
    // A webhook that is gone refuses what it would have to convert, and nothing else.
    let nowhere = json!([{"op": "replace", "path": "/spec/conversion/webhook/clientConfig/url", "value": format!("https://{}/other", backend.address)}]);
    let patched = send(
        &server,
        "PATCH",
        &format!("{DEFINITIONS}/widgets.example.com"),
        &[("content-type", "application/json-patch+json")],
        nowhere.to_string().into(),
    )
    .await;
    assert_eq!(patched.code, 200, "{}", patched.text);
    let two = format!("{}/b", place("v2"));
    let mut refused = call(&server, "GET", &two, Value::Null).await;
    for _ in 0..500 {
        if refused.code != 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        refused = call(&server, "GET", &two, Value::Null).await;
    }
    let (code, why) = message(&refused);
    assert_eq!(code, 500, "{why}");
    assert!(
        why.starts_with("conversion webhook for example.com/v1, Kind=Widget failed: "),
        "{why}"
    );
    assert_eq!(
        call(&server, "GET", &format!("{}/b", place("v1")), Value::Null).await.code,
        200
    );
}
