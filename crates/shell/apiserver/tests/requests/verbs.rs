//! The verbs of the API over a store in memory: through HTTP's handler and through the in-process transport.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};
use trireme_apiserver::{ApiServer, Config, InProcess, UserInfo};
use trireme_client::{DeleteOptions, ListOptions, Patch, ResourceRef, Target, WatchEvent, WatchOptions, WriteOptions};

use crate::common;

struct Answer {
    code: u16,
    body: Value,
    headers: http::HeaderMap,
}

async fn server() -> Arc<ApiServer> {
    common::server(Config::default(), None).await
}

async fn send(server: &Arc<ApiServer>, method: &str, path: &str, headers: &[(&str, &str)], body: Bytes) -> Answer {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("authorization", "Bearer ADMIN")
        .header("user-agent", "test/1");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = server.handle(request.body(Full::new(body)).unwrap()).await;
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    Answer {
        code: parts.status.as_u16(),
        body: serde_json::from_slice(&bytes).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned())),
        headers: parts.headers,
    }
}

async fn call(server: &Arc<ApiServer>, method: &str, path: &str, body: Value) -> Answer {
    let body = if body.is_null() {
        Bytes::new()
    } else {
        body.to_string().into()
    };
    send(server, method, path, &[], body).await
}

async fn patch(server: &Arc<ApiServer>, path: &str, kind: &str, body: Value) -> Answer {
    let media_type = format!("application/{kind}");
    send(
        server,
        "PATCH",
        path,
        &[("content-type", &media_type)],
        body.to_string().into(),
    )
    .await
}

fn pod(name: &str, node: &str) -> Value {
    let mut pod = json!({
        "metadata": {"name": name},
        "spec": {"containers": [{"name": "main", "image": "registry.example/app:1"}]},
    });
    if !node.is_empty() {
        pod["spec"]["nodeName"] = node.into();
    }
    pod
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn an_object_lives_from_create_to_delete() {
    let server = server().await;
    let made = call(
        &server,
        "POST",
        MAPS,
        json!({"metadata": {"name": "a", "labels": {"x": "1"}}, "data": {"k": "v"}}),
    )
    .await;
    assert_eq!(made.code, 201, "{}", made.body);
    assert_eq!(made.body["metadata"]["managedFields"][0]["manager"], "test");
    assert_eq!(made.body["kind"], "ConfigMap");
    let one = format!("{MAPS}/a");
    let got = call(&server, "GET", &one, Value::Null).await;
    assert_eq!(got.body, made.body);

    assert_eq!(
        call(&server, "POST", MAPS, json!({"metadata": {"name": "a"}})).await.body["reason"],
        "AlreadyExists"
    );

    let mut changed = got.body.clone();
    changed["data"]["k"] = "w".into();
    let updated = call(&server, "PUT", &one, changed.clone()).await;
    assert_eq!(
        (updated.code, &updated.body["data"]["k"]),
        (200, &json!("w")),
        "{}",
        updated.body
    );
    let stale = call(&server, "PUT", &one, changed).await;
    assert_eq!((stale.code, stale.body["reason"].as_str()), (409, Some("Conflict")));
    assert!(
        stale.body["message"]
            .as_str()
            .unwrap()
            .ends_with("apply your changes to the latest version and try again")
    );

    let same = call(&server, "PUT", &one, updated.body.clone()).await;
    assert_eq!(
        same.body["metadata"]["resourceVersion"],
        updated.body["metadata"]["resourceVersion"]
    );

    for (kind, body) in [
        ("merge-patch+json", json!({"data": {"m": "1"}})),
        ("strategic-merge-patch+json", json!({"data": {"s": "1"}})),
        ("json-patch+json", json!([{"op": "add", "path": "/data/j", "value": "1"}])),
    ] {
        let patched = patch(&server, &one, kind, body).await;
        assert_eq!(patched.code, 200, "{kind}: {}", patched.body);
    }
    let got = call(&server, "GET", &one, Value::Null).await;
    assert_eq!(got.body["data"], json!({"k": "w", "m": "1", "s": "1", "j": "1"}));

    let gone = call(&server, "DELETE", &one, Value::Null).await;
    assert_eq!((gone.code, gone.body["status"].as_str()), (200, Some("Success")));
    let absent = call(&server, "GET", &one, Value::Null).await;
    assert_eq!(absent.body["message"], "configmaps \"a\" not found");
    assert_eq!(call(&server, "PUT", &one, json!({"metadata": {"name": "a"}})).await.code, 404);
}

#[tokio::test]
async fn apply_creates_changes_and_conflicts() {
    let server = server().await;
    let apply = |manager: &'static str, value: &'static str| {
        let server = Arc::clone(&server);
        async move {
            let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": value}});
            patch(&server, &format!("{MAPS}/a?fieldManager={manager}"), "apply-patch+yaml", body).await
        }
    };
    assert_eq!(apply("one", "1").await.code, 201);
    let again = apply("one", "2").await;
    assert_eq!((again.code, &again.body["data"]["k"]), (200, &json!("2")), "{}", again.body);
    let conflict = apply("two", "3").await;
    assert_eq!(
        (conflict.code, conflict.body["reason"].as_str()),
        (409, Some("Conflict")),
        "{}",
        conflict.body
    );
}

#[tokio::test]
async fn lists_are_paged_selected_and_shaped() {
    let server = server().await;
    for index in 0..5 {
        let label = if index % 2 == 0 { "even" } else { "odd" };
        let body = json!({"metadata": {"name": format!("m{index}"), "labels": {"p": label}}});
        assert_eq!(call(&server, "POST", MAPS, body).await.code, 201);
    }
    let names = |answer: &Answer| -> Vec<String> {
        let items = answer.body["items"].as_array().unwrap();
        items
            .iter()
            .map(|item| item["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let first = call(&server, "GET", &format!("{MAPS}?limit=2"), Value::Null).await;
    assert_eq!(names(&first), ["m0", "m1"]);
    assert_eq!(first.body["metadata"]["remainingItemCount"], 3);
    assert!(first.body["items"][0]["kind"].is_null(), "items of a list carry no kind");
    let next = first.body["metadata"]["continue"].as_str().unwrap();
    call(&server, "POST", MAPS, json!({"metadata": {"name": "m9"}})).await;
    let rest = call(&server, "GET", &format!("{MAPS}?limit=9&continue={next}"), Value::Null).await;
    assert_eq!(
        names(&rest),
        ["m2", "m3", "m4"],
        "the second page is of the first page's revision"
    );
    let odd = call(&server, "GET", &format!("{MAPS}?labelSelector=p%3Dodd"), Value::Null).await;
    assert_eq!(names(&odd), ["m1", "m3"]);
    for (limit, name, found) in [("", "m2", &["m2"][..]), ("&limit=1", "m2", &["m2"]), ("&limit=1", "m", &[])] {
        let path = format!("{MAPS}?fieldSelector=metadata.name%3D{name}{limit}");
        let one = call(&server, "GET", &path, Value::Null).await;
        assert_eq!(names(&one), found, "{path}");
        assert!(
            one.body["metadata"]["continue"].is_null(),
            "a name is looked up, there is no next page: {path}"
        );
    }
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let table = send(&server, "GET", MAPS, &table, Bytes::new()).await;
    assert_eq!(
        (table.body["kind"].as_str(), table.body["rows"][0]["cells"][0].as_str()),
        (Some("Table"), Some("m0"))
    );
    let partial = [("accept", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io")];
    let partial = send(&server, "GET", MAPS, &partial, Bytes::new()).await;
    assert_eq!(partial.body["items"][0]["kind"], "PartialObjectMetadata");
    let deleted = call(&server, "DELETE", &format!("{MAPS}?labelSelector=p%3Dodd"), Value::Null).await;
    assert_eq!((deleted.code, names(&deleted).len()), (200, 2));
    let left = call(&server, "GET", MAPS, Value::Null).await;
    assert_eq!(names(&left), ["m0", "m2", "m4", "m9"]);
}

#[tokio::test]
async fn long_lists_are_streamed_and_compressed_on_request() {
    let server = server().await;
    for index in 0..40 {
        let body = json!({"metadata": {"name": format!("m{index:02}")}, "data": {"k": "x".repeat(10_000)}});
        call(&server, "POST", MAPS, body).await;
    }
    let plain = call(&server, "GET", MAPS, Value::Null).await;
    assert_eq!(plain.body["items"].as_array().unwrap().len(), 40);
    let request = Request::get(MAPS)
        .header("authorization", "Bearer ADMIN")
        .header("accept-encoding", "gzip")
        .body(Full::new(Bytes::new()))
        .unwrap();
    let response = server.handle(request).await;
    assert_eq!(response.headers()["content-encoding"], "gzip");
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let list: Value = serde_json::from_reader(flate2::read::GzDecoder::new(bytes.as_ref())).unwrap();
    assert_eq!(list, plain.body);
}

#[tokio::test]
async fn a_watch_tells_transitions_and_bookmarks() {
    let server = server().await;
    let made = call(
        &server,
        "POST",
        MAPS,
        json!({"metadata": {"name": "a", "labels": {"on": "yes"}}}),
    )
    .await;
    let revision = made.body["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    patch(
        &server,
        &format!("{MAPS}/a"),
        "merge-patch+json",
        json!({"metadata": {"labels": {"on": "no"}}}),
    )
    .await;
    patch(
        &server,
        &format!("{MAPS}/a"),
        "merge-patch+json",
        json!({"metadata": {"labels": {"on": "yes"}}}),
    )
    .await;
    patch(&server, &format!("{MAPS}/a"), "merge-patch+json", json!({"data": {"k": "v"}})).await;
    call(&server, "DELETE", &format!("{MAPS}/a"), Value::Null).await;
    let events = |query: String| {
        let server = Arc::clone(&server);
        async move {
            let answer = call(
                &server,
                "GET",
                &format!("{MAPS}?watch=1&timeoutSeconds=1&{query}"),
                Value::Null,
            )
            .await;
            let text = match answer.body {
                Value::String(text) => text,
                other => other.to_string(),
            };
            let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            lines
                .map(|event| event["type"].as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        }
    };
    let selected = events(format!("labelSelector=on%3Dyes&resourceVersion={revision}")).await;
    assert_eq!(selected, ["DELETED", "ADDED", "MODIFIED", "DELETED"]);
    let all = events(format!("resourceVersion={revision}")).await;
    assert_eq!(all, ["MODIFIED", "MODIFIED", "MODIFIED", "DELETED"]);
    call(&server, "POST", MAPS, json!({"metadata": {"name": "b"}})).await;
    let initial = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    assert_eq!(events(initial.to_owned()).await, ["ADDED", "BOOKMARK"]);
}

#[tokio::test]
async fn deletion_waits_for_finalizers_and_grace() {
    let server = server().await;
    let body = json!({"metadata": {"name": "f", "finalizers": ["example.com/hold"]}});
    call(&server, "POST", MAPS, body).await;
    let one = format!("{MAPS}/f");
    let held = call(&server, "DELETE", &one, Value::Null).await;
    assert!(held.body["metadata"]["deletionTimestamp"].is_string());
    let released = patch(&server, &one, "merge-patch+json", json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(released.code, 200);
    assert_eq!(call(&server, "GET", &one, Value::Null).await.code, 404);

    let pods = "/api/v1/namespaces/default/pods";
    assert_eq!(call(&server, "POST", pods, pod("p", "n1")).await.code, 201);
    let marked = call(&server, "DELETE", &format!("{pods}/p"), Value::Null).await;
    assert_eq!(marked.body["metadata"]["deletionGracePeriodSeconds"], 30, "{}", marked.body);
    assert_eq!(call(&server, "GET", &format!("{pods}/p"), Value::Null).await.code, 200);
    let now = call(&server, "DELETE", &format!("{pods}/p?gracePeriodSeconds=0"), Value::Null).await;
    assert_eq!(now.code, 200);
    assert_eq!(call(&server, "GET", &format!("{pods}/p"), Value::Null).await.code, 404);

    call(&server, "POST", pods, pod("unscheduled", "")).await;
    call(&server, "DELETE", &format!("{pods}/unscheduled"), Value::Null).await;
    assert_eq!(
        call(&server, "GET", &format!("{pods}/unscheduled"), Value::Null).await.code,
        404
    );

    let foreground = call(&server, "POST", MAPS, json!({"metadata": {"name": "fg"}})).await;
    assert_eq!(foreground.code, 201);
    let waits = call(
        &server,
        "DELETE",
        &format!("{MAPS}/fg?propagationPolicy=Foreground"),
        Value::Null,
    )
    .await;
    assert_eq!(waits.body["metadata"]["finalizers"], json!(["foregroundDeletion"]));
}

#[tokio::test]
async fn a_namespace_goes_when_it_is_finalized() {
    let server = server().await;
    call(&server, "POST", "/api/v1/namespaces", json!({"metadata": {"name": "ns"}})).await;
    let one = "/api/v1/namespaces/ns";
    let marked = call(&server, "DELETE", one, Value::Null).await;
    assert_eq!(marked.body["status"]["phase"], "Terminating", "{}", marked.body);
    assert_eq!(marked.body["spec"]["finalizers"], json!(["kubernetes"]));
    let body = json!({"metadata": {"name": "ns"}, "spec": {"finalizers": []}});
    assert_eq!(call(&server, "PUT", &format!("{one}/finalize"), body).await.code, 200);
    assert_eq!(call(&server, "GET", one, Value::Null).await.code, 404);
}

#[tokio::test]
async fn services_get_addresses_and_ports_and_give_them_back() {
    let server = server().await;
    let services = "/api/v1/namespaces/default/services";
    let address = |answer: &Answer| answer.body["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned();
    let body = |name: &str, kind: &str| json!({"metadata": {"name": name}, "spec": {"type": kind, "selector": {"a": "b"}, "ports": [{"port": 80}]}});
    let made = call(&server, "POST", services, body("a", "NodePort")).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let ip = address(&made);
    let port = made.body["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
    assert!((30000..=32767).contains(&port) && ip.starts_with("10.43."));
    assert_eq!(made.body["spec"]["clusterIPs"], json!([ip]));
    assert_eq!(made.body["spec"]["ipFamilies"], json!(["IPv4"]));
    let held = format!("/apis/networking.k8s.io/v1/ipaddresses/{ip}");
    assert_eq!(
        call(&server, "GET", &held, Value::Null).await.body["spec"]["parentRef"]["name"],
        "a"
    );

    let mut taken = body("b", "ClusterIP");
    taken["spec"]["clusterIP"] = ip.as_str().into();
    let refused = call(&server, "POST", services, taken).await;
    assert_eq!(refused.code, 422);
    let text = refused.body["message"].as_str().unwrap();
    assert!(text.contains("provided IP is already allocated"), "{text}");

    let mut taken = body("c", "NodePort");
    taken["spec"]["ports"][0]["nodePort"] = port.into();
    let refused = call(&server, "POST", services, taken).await;
    let text = refused.body["message"].as_str().unwrap();
    assert!(text.contains("provided port is already allocated"), "{text}");

    let kept = patch(
        &server,
        &format!("{services}/a"),
        "merge-patch+json",
        json!({"spec": {"selector": {"x": "y"}}}),
    )
    .await;
    assert_eq!(address(&kept), ip);
    let plain = patch(
        &server,
        &format!("{services}/a"),
        "merge-patch+json",
        json!({"spec": {"type": "ClusterIP"}}),
    )
    .await;
    assert!(plain.body["spec"]["ports"][0]["nodePort"].is_null(), "{}", plain.body);
    let mut again = body("c", "NodePort");
    again["spec"]["ports"][0]["nodePort"] = port.into();
    assert_eq!(
        call(&server, "POST", services, again).await.code,
        201,
        "the port was given back"
    );
    call(&server, "DELETE", &format!("{services}/a"), Value::Null).await;
    assert_eq!(
        call(&server, "GET", &held, Value::Null).await.code,
        404,
        "the address was given back"
    );
    let own = call(&server, "GET", &format!("{services}/kubernetes"), Value::Null).await;
    assert_eq!(address(&own), "10.43.0.1");
}

#[tokio::test]
async fn pods_are_bound_once_and_scaled_things_are_scaled() {
    let server = server().await;
    let pods = "/api/v1/namespaces/default/pods";
    call(&server, "POST", pods, pod("p", "")).await;
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    let bound = call(&server, "POST", &format!("{pods}/p/binding"), binding.clone()).await;
    assert_eq!(
        (bound.code, bound.body["status"].as_str()),
        (201, Some("Success")),
        "{}",
        bound.body
    );
    let got = call(&server, "GET", &format!("{pods}/p"), Value::Null).await;
    assert_eq!(got.body["spec"]["nodeName"], "n1");
    assert_eq!(got.body["status"]["conditions"][0]["type"], "PodScheduled");
    let again = call(&server, "POST", &format!("{pods}/p/binding"), binding).await;
    assert_eq!(
        again.body["message"],
        "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \"n1\""
    );
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let body = json!({"metadata": {"name": "d"}, "spec": {
        "replicas": 2, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": pod("x", "")["spec"]},
    }});
    assert_eq!(call(&server, "POST", deployments, body).await.code, 201);
    let scale = call(&server, "GET", &format!("{deployments}/d/scale"), Value::Null).await;
    assert_eq!(
        (&scale.body["spec"]["replicas"], &scale.body["status"]["selector"]),
        (&json!(2), &json!("a=b"))
    );
    let wished = json!({"metadata": {"name": "d"}, "spec": {"replicas": 5}});
    assert_eq!(
        call(&server, "PUT", &format!("{deployments}/d/scale"), wished).await.code,
        200
    );
    let got = call(&server, "GET", &format!("{deployments}/d"), Value::Null).await;
    assert_eq!(
        (&got.body["spec"]["replicas"], &got.body["metadata"]["generation"]),
        (&json!(5), &json!(2))
    );
}

#[tokio::test]
async fn strangers_are_refused_and_the_rest_is_answered() {
    let server = server().await;
    let as_alice = [("authorization", "Bearer ALICE")];
    let request = |path: &str, token: Option<&str>| {
        let mut request = Request::get(path);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        request.body(Full::new(Bytes::new())).unwrap()
    };
    assert_eq!(as_alice.len(), 1);
    assert_eq!(server.handle(request(MAPS, Some("nobody"))).await.status(), 401);
    assert_eq!(server.handle(request(MAPS, Some("ALICE"))).await.status(), 403);
    assert_eq!(server.handle(request(MAPS, None)).await.status(), 403);
    for path in ["/version", "/livez", "/readyz", "/healthz"] {
        assert_eq!(server.handle(request(path, None)).await.status(), 200, "{path}");
    }
    for path in [
        "/api",
        "/apis",
        "/api/v1",
        "/apis/apps",
        "/apis/apps/v1",
        "/openapi/v3",
        "/openapi/v3/apis/apps/v1",
        "/openapi/v2",
        "/metrics",
        "/",
    ] {
        assert_eq!(server.handle(request(path, Some("ADMIN"))).await.status(), 200, "{path}");
    }
    assert_eq!(call(&server, "GET", "/nothing/here", Value::Null).await.code, 404);
    let strict = call(
        &server,
        "POST",
        &format!("{MAPS}?fieldValidation=Strict"),
        json!({"metadata": {"name": "z"}, "nope": 1}),
    )
    .await;
    assert_eq!(strict.code, 400);
    let warned = call(&server, "POST", MAPS, json!({"metadata": {"name": "z"}, "nope": 1})).await;
    assert_eq!(warned.headers["warning"], "299 - \"unknown field \\\"nope\\\"\"");
    let large = format!("{{\"data\":{{\"a\":\"{}\"}}}}", "x".repeat(4 * 1024 * 1024));
    assert_eq!(send(&server, "POST", MAPS, &[], large.into()).await.code, 413);
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: yaml\ndata:\n  mode: \"0644\"\n";
    let yaml = send(&server, "POST", MAPS, &[("content-type", "application/yaml")], yaml.into()).await;
    assert_eq!(
        (yaml.code, &yaml.body["data"]["mode"]),
        (201, &json!("0644")),
        "{}",
        yaml.body
    );
}

#[tokio::test]
async fn parts_of_the_process_share_objects() {
    let server = server().await;
    let transport = InProcess::new(
        Arc::clone(&server),
        UserInfo::new("system:kube-controller-manager", &["system:masters"]),
    );
    let resource = ResourceRef {
        group: "".into(),
        version: "v1".into(),
        plural: "configmaps".into(),
        namespaced: true,
    };
    let target = |name: &str| Target {
        resource: resource.clone(),
        namespace: Some("default".into()),
        name: name.into(),
        subresource: None,
    };
    let list = transport.list(&resource, None, &ListOptions::default()).await.unwrap();
    let watch = WatchOptions {
        resource_version: list.resource_version,
        ..WatchOptions::default()
    };
    let mut events = transport.watch(&resource, Some("default"), &watch).await.unwrap();
    let body = Bytes::from_static(br#"{"metadata":{"name":"a"},"data":{"x":"y"}}"#);
    let made = transport.create(&target(""), body, &WriteOptions::default()).await.unwrap();
    let event = tokio::time::timeout(Duration::from_secs(10), events.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    let WatchEvent::Added(seen) = event else { panic!("{event:?}") };
    let got = transport.get(&target("a")).await.unwrap();
    assert!(got.is_same(&seen), "a watch and a get share one object");
    assert_eq!(got.header().uid, made.header().uid);
    let patched = Patch::Merge(Bytes::from_static(br#"{"data":{"a":"b"}}"#));
    let changed = transport
        .patch(&target("a"), &patched, &WriteOptions::default())
        .await
        .unwrap();
    assert_eq!(
        changed.value()["metadata"]["managedFields"][0]["manager"],
        "kube-controller-manager"
    );
    assert!(
        transport
            .delete(&target("a"), &DeleteOptions::default())
            .await
            .unwrap()
            .is_none()
    );
    assert!(transport.get(&target("a")).await.unwrap_err().is_not_found());
    let stranger = InProcess::new(server, UserInfo::new("bob", &[]));
    assert_eq!(stranger.get(&target("a")).await.unwrap_err().code, 403);
}

#[tokio::test]
async fn every_row_can_be_listed_and_watched() {
    let server = server().await;
    for row in trireme_resources::rows()
        .iter()
        .filter(|row| row.has_verb("list") && !row.virtual_)
    {
        let base = if row.group.is_empty() {
            "/api/v1".to_owned()
        } else {
            format!("/apis/{}/{}", row.group, row.version)
        };
        let list = call(&server, "GET", &format!("{base}/{}", row.plural), Value::Null).await;
        assert_eq!(
            (list.code, list.body["kind"].as_str()),
            (200, Some(format!("{}List", row.kind).as_str()))
        );
        let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
        let table = send(&server, "GET", &format!("{base}/{}", row.plural), &table, Bytes::new()).await;
        assert_eq!(table.body["kind"], "Table", "{}", row.plural);
    }
}

/// Who watches the pods of a node hears what enters, changes and goes there, in whatever namespace, and of nothing else, also
/// from a revision of the past on.
#[tokio::test]
async fn the_pods_of_a_node_are_watched_alone() {
    let server = server().await;
    let transport = InProcess::new(
        Arc::clone(&server),
        UserInfo::new("system:kube-scheduler", &["system:masters"]),
    );
    let resource = |plural: &'static str, namespaced: bool| ResourceRef {
        group: "".into(),
        version: "v1".into(),
        plural: plural.into(),
        namespaced,
    };
    let pods = resource("pods", true);
    let watch = |selector: &str, resource_version: u64| WatchOptions {
        field_selector: Some(selector.into()),
        resource_version,
        ..WatchOptions::default()
    };
    let begin = transport
        .list(&pods, None, &ListOptions::default())
        .await
        .unwrap()
        .resource_version;
    let mut live = transport.watch(&pods, None, &watch("spec.nodeName=n1", begin)).await.unwrap();
    let mut others = transport
        .watch(&pods, None, &watch("spec.nodeName!=n1", begin))
        .await
        .unwrap();
    for (name, node) in [("a", "n2"), ("b", ""), ("c", "n1"), ("d", "")] {
        let pod = json!({"metadata": {"name": name}, "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}],
            "serviceAccountName": "default"}});
        let made = call(&server, "POST", "/api/v1/namespaces/default/pods", pod).await;
        assert_eq!(made.code, 201, "{}", made.body);
    }
    for (name, node) in [("b", "n1"), ("d", "n2")] {
        let binding =
            json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": {"kind": "Node", "name": node}});
        let path = format!("/api/v1/namespaces/default/pods/{name}/binding");
        assert_eq!(call(&server, "POST", &path, binding).await.code, 201);
    }
    let patch = [("content-type", "application/merge-patch+json")];
    for name in ["a", "b"] {
        let path = format!("/api/v1/namespaces/default/pods/{name}");
        let labelled = send(&server, "PATCH", &path, &patch, r#"{"metadata":{"labels":{"x":"y"}}}"#.into()).await;
        assert_eq!(labelled.code, 200, "{}", labelled.body);
    }
    let gone = call(
        &server,
        "DELETE",
        "/api/v1/namespaces/default/pods/c?gracePeriodSeconds=0",
        Value::Null,
    )
    .await;
    assert_eq!(gone.code, 200, "{}", gone.body);
    let told = async |events: &mut futures::stream::BoxStream<'static, Result<WatchEvent, trireme_api::Status>>, count: usize| {
        let mut told = Vec::new();
        while told.len() < count {
            let event = tokio::time::timeout(Duration::from_secs(10), events.next()).await.unwrap();
            told.push(match event.unwrap().unwrap() {
                WatchEvent::Added(object) => format!("+{}", object.header().name),
                WatchEvent::Modified(object) => format!("~{}", object.header().name),
                WatchEvent::Deleted(object) => format!("-{}", object.header().name),
                WatchEvent::Bookmark(_) => continue,
            });
        }
        told
    };
    assert_eq!(told(&mut live, 4).await, ["+c", "+b", "~b", "-c"]);
    assert_eq!(told(&mut others, 6).await, ["+a", "+b", "+d", "-b", "~d", "~a"]);
    let mut past = transport.watch(&pods, None, &watch("spec.nodeName=n1", begin)).await.unwrap();
    assert_eq!(told(&mut past, 4).await, ["+c", "+b", "~b", "-c"]);

    let nodes = resource("nodes", false);
    let mut own = transport
        .watch(&nodes, None, &watch("metadata.name=n1", begin))
        .await
        .unwrap();
    for name in ["n0", "n10", "n1"] {
        assert_eq!(
            call(&server, "POST", "/api/v1/nodes", json!({"metadata": {"name": name}}))
                .await
                .code,
            201
        );
    }
    assert_eq!(told(&mut own, 1).await, ["+n1"]);
}
