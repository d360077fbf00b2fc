//! Answers that differ between a good guess and upstream: each was seen on a stock server.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};
use tokio::time::Instant;
use trireme_apiserver::Config;
use trireme_store::Command;

use crate::common::{call, made, send, server};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

fn pod(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"a": "b"}},
        "spec": {"containers": [{"name": "main", "image": "registry.example/app:1"}]},
    })
}

/// The events of a watch that ends by its timeout.
fn events(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn what_is_asked_for_must_be_there_to_give() {
    let server = server(Config::default(), None).await;
    made(&server, "POST", MAPS, json!({"metadata": {"name": "a"}})).await;
    let one = format!("{MAPS}/a");
    for (method, path, code) in [
        ("HEAD", one.as_str(), 405),
        ("HEAD", MAPS, 405),
        ("GET", one.as_str(), 200),
        ("OPTIONS", one.as_str(), 405),
    ] {
        let answer = call(&server, method, path, Value::Null).await;
        assert_eq!(answer.code, code, "{method} {path}");
    }
    let accept = |types: &'static str| {
        let (server, one) = (server.clone(), one.clone());
        async move { send(&server, "GET", &one, &[("accept", types)], Bytes::new()).await }
    };
    let refused = accept("application/*").await;
    assert_eq!(refused.code, 406);
    assert!(
        refused
            .text
            .contains("Available representations: application/json, application/yaml"),
        "{}",
        refused.text
    );
    assert_eq!(accept("application/*, application/json").await.code, 200);
    assert_eq!(accept("*/*").await.code, 200);

    let review = json!({
        "kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1",
        "spec": {"nonResourceAttributes": {"path": "/", "verb": "get"}},
    });
    let token = json!({"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "spec": {"token": "ADMIN"}});
    for (path, body) in [
        ("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review),
        ("/apis/authentication.k8s.io/v1/tokenreviews", token),
    ] {
        let body = Bytes::from(body.to_string());
        let refused = send(&server, "POST", path, &[("accept", TABLE)], body.clone()).await;
        assert_eq!(refused.code, 406, "{path}");
        assert_eq!(refused.body["reason"], "NotAcceptable");
        assert_eq!(
            refused.body["message"],
            "only the following media types are accepted: application/json, application/yaml, \
             application/vnd.kubernetes.protobuf"
        );
        let either = format!("{TABLE},application/json");
        assert_eq!(
            send(&server, "POST", path, &[("accept", &either)], body.clone()).await.code,
            201
        );
        let metadata = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
        let answer = send(&server, "POST", path, &[("accept", metadata)], body).await;
        assert_eq!(answer.body["kind"], "PartialObjectMetadata", "{path}");
    }
}

/// As a client does that comes from a server which is further: what it asks for is told once it is there, and not never.
#[tokio::test(start_paused = true)]
async fn a_watch_from_a_revision_to_come_tells_what_follows_it() {
    let server = server(Config::default(), None).await;
    let ahead = server.store().revision() + 2;
    let request = Request::get(format!("{MAPS}?watch=1&timeoutSeconds=60&resourceVersion={ahead}"))
        .header("authorization", "Bearer ADMIN")
        .body(Full::new(Bytes::new()))
        .unwrap();
    let mut body = server.handle(request).await.into_body();
    let mut after = Vec::new();
    for number in 0..4 {
        let made = made(&server, "POST", MAPS, json!({"metadata": {"name": format!("m{number}")}})).await;
        let revision: u64 = made["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
        if revision > ahead {
            after.push(made["metadata"]["name"].clone());
        }
    }
    let begun = Instant::now();
    let mut told = Vec::new();
    while told.len() < after.len() {
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        let events = events(std::str::from_utf8(&frame).unwrap());
        told.extend(events.iter().map(|event| event["object"]["metadata"]["name"].clone()));
    }
    assert!(after.len() >= 2 && told == after, "{told:?}, not {after:?}");
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn watches_begin_and_end_as_upstreams() {
    let server = server(Config::default(), None).await;
    let revision = made(&server, "POST", MAPS, json!({"metadata": {"name": "a"}})).await["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .to_owned();
    for rest in ["", "&resourceVersion=0"] {
        let refused = call(&server, "GET", &format!("{MAPS}?watch=1&continue=abc{rest}"), Value::Null).await;
        assert_eq!(refused.code, 422);
        assert_eq!(
            refused.body["message"],
            "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden when \
             continue is provided"
        );
    }
    // From a revision on: a bookmark two seconds before the end, and none where there is no such moment.
    let told = |query: String| {
        let server = server.clone();
        async move {
            let answer = call(&server, "GET", &format!("{MAPS}?watch=1&{query}"), Value::Null).await;
            assert_eq!(answer.code, 200);
            events(&answer.text)
        }
    };
    let last = told(format!(
        "resourceVersion={revision}&allowWatchBookmarks=true&timeoutSeconds=5"
    ))
    .await;
    assert_eq!(last.len(), 1, "{last:?}");
    assert_eq!(last[0]["type"], "BOOKMARK");
    assert!(last[0]["object"]["metadata"]["annotations"].is_null());
    assert!(
        told(format!(
            "resourceVersion={revision}&allowWatchBookmarks=true&timeoutSeconds=2"
        ))
        .await
        .is_empty()
    );
    assert!(told(format!("resourceVersion={revision}&timeoutSeconds=5")).await.is_empty());
    // From the present state on: a bookmark says where that ends.
    let state = told("fieldSelector=metadata.name%3Da&allowWatchBookmarks=true&timeoutSeconds=1".to_owned()).await;
    let types: Vec<&str> = state.iter().filter_map(|event| event["type"].as_str()).collect();
    assert_eq!(types, ["ADDED", "BOOKMARK"]);
    assert_eq!(
        state[1]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
}

#[tokio::test]
async fn a_large_state_is_told_whole_and_in_order() {
    let server = server(Config::default(), None).await;
    let names: Vec<String> = (0..1300).map(|number| format!("m{number:05}")).collect();
    for name in &names {
        made(
            &server,
            "POST",
            MAPS,
            json!({"metadata": {"name": name}, "data": {"k": "v".repeat(if name.ends_with('7') { 9000 } else { 10 })}}),
        )
        .await;
    }
    let path = format!("{MAPS}?watch=1&allowWatchBookmarks=true&timeoutSeconds=1");
    let answer = call(&server, "GET", &path, Value::Null).await;
    let mut events = events(&answer.text);
    let end = events.pop().unwrap();
    assert_eq!(end["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    let told: Vec<&str> = events
        .iter()
        .filter_map(|event| event["object"]["metadata"]["name"].as_str())
        .collect();
    assert_eq!(told, names);
}

/// What comes soon after an event that was sent waits for the rest of a moment and goes out as one; what comes after a while
/// waits for nothing, and neither does a backlog.
#[tokio::test(start_paused = true)]
async fn events_that_follow_each_other_closely_go_out_together() {
    let server = server(Config::default(), None).await;
    let make = |names: std::ops::Range<usize>| {
        let server = server.clone();
        async move {
            for number in names {
                made(&server, "POST", MAPS, json!({"metadata": {"name": format!("m{number}")}})).await;
            }
        }
    };
    let request = Request::get(format!("{MAPS}?watch=1&resourceVersion={}", server.store().revision()))
        .header("authorization", "Bearer ADMIN")
        .body(Full::new(Bytes::new()))
        .unwrap();
    let mut body = server.handle(request).await.into_body();
    let mut next = async || {
        let start = Instant::now();
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        (events(std::str::from_utf8(&frame).unwrap()).len(), start.elapsed())
    };
    let moment = Duration::from_millis(10)..Duration::from_millis(20);
    make(0..1).await;
    assert_eq!(next().await, (1, Duration::ZERO));
    make(1..4).await;
    let (count, waited) = next().await;
    assert!(count == 3 && moment.contains(&waited), "{count} after {waited:?}");
    tokio::time::sleep(moment.start).await;
    make(4..5).await;
    assert_eq!(next().await, (1, Duration::ZERO), "the first after a while");
    make(5..205).await;
    let (first, waited) = next().await;
    assert!(first > 1 && moment.contains(&waited), "{first} after {waited:?}");
    let mut left = 200 - first;
    while left > 0 {
        let (count, waited) = next().await;
        assert_eq!(waited, Duration::ZERO);
        left -= count;
    }
}

#[tokio::test]
async fn a_deletion_is_told_as_the_object_last_stood() {
    let server = server(Config::default(), None).await;
    let map = json!({"metadata": {"name": "held", "finalizers": ["example.com/hold"]}});
    made(&server, "POST", MAPS, map).await;
    let path = format!("{MAPS}/held");
    let marked = made(&server, "DELETE", &path, Value::Null).await;
    let revision = marked["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let free = send(
        &server,
        "PATCH",
        &path,
        &[("content-type", "application/merge-patch+json")],
        json!({"metadata": {"finalizers": null}}).to_string().into(),
    )
    .await;
    assert_eq!(free.code, 200);
    assert!(
        free.body["metadata"]["finalizers"].is_null(),
        "the answer is what the change made of it"
    );
    let watch = format!("{MAPS}?watch=1&resourceVersion={revision}&timeoutSeconds=1");
    let answer = call(&server, "GET", &watch, Value::Null).await;
    let events = events(&answer.text);
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["type"], "DELETED");
    let told = &events[0]["object"]["metadata"];
    assert_eq!(told["finalizers"], json!(["example.com/hold"]));
    assert_eq!(told["deletionTimestamp"], marked["metadata"]["deletionTimestamp"]);
    let at = |value: &Value| value.as_str().unwrap().parse::<u64>().unwrap();
    assert!(at(&told["resourceVersion"]) > revision.parse().unwrap());
    assert_eq!(told["resourceVersion"], free.body["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn a_collection_is_deleted_whole_and_not_at_a_version_that_is_gone() {
    let server = server(Config::default(), None).await;
    for name in ["a", "b", "c"] {
        made(&server, "POST", MAPS, json!({"metadata": {"name": name}})).await;
    }
    let now = server.store().revision();
    server.store().commit(Command::Compact { revision: now }).await.unwrap();
    for path in [
        format!("{MAPS}?resourceVersion={}", now - 1),
        format!("{MAPS}?resourceVersion={}&resourceVersionMatch=Exact", now - 1),
    ] {
        let refused = call(&server, "DELETE", &path, Value::Null).await;
        assert_eq!(
            (refused.code, refused.body["reason"].as_str()),
            (410, Some("Expired")),
            "{path}"
        );
    }
    let exact = format!("{MAPS}?resourceVersion={}&resourceVersionMatch=Exact", now - 1);
    assert_eq!(call(&server, "GET", &exact, Value::Null).await.code, 410);
    let some = made(&server, "DELETE", &format!("{MAPS}?limit=1"), Value::Null).await;
    assert_eq!(some["items"].as_array().unwrap().len(), 1);
    let rest = made(&server, "DELETE", MAPS, Value::Null).await;
    assert_eq!(rest["items"].as_array().unwrap().len(), 2);
    assert!(rest["metadata"]["continue"].is_null());
    let left = made(&server, "GET", MAPS, Value::Null).await;
    assert!(left["items"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn an_eviction_that_is_tried_leaves_the_pod() {
    let server = server(Config::default(), None).await;
    made(&server, "POST", PODS, pod("p")).await;
    let eviction = |version: &str, more: Value| {
        let mut eviction = json!({"apiVersion": version, "kind": "Eviction", "metadata": {"name": "p"}});
        for (key, value) in more.as_object().into_iter().flatten() {
            eviction[key.as_str()] = value.clone();
        }
        eviction
    };
    let path = format!("{PODS}/p/eviction");
    let before = made(&server, "GET", &format!("{PODS}/p"), Value::Null).await;
    for (path, body) in [
        (format!("{path}?dryRun=All"), eviction("policy/v1", json!({}))),
        (
            path.clone(),
            eviction("policy/v1", json!({"deleteOptions": {"dryRun": ["All"]}})),
        ),
        (format!("{path}?dryRun=All"), eviction("policy/v1beta1", json!({}))),
    ] {
        let answer = call(&server, "POST", &path, body).await;
        assert_eq!(
            (answer.code, answer.body["status"].as_str()),
            (201, Some("Success")),
            "{}",
            answer.text
        );
        let after = made(&server, "GET", &format!("{PODS}/p"), Value::Null).await;
        assert_eq!(after, before, "{path}");
    }
    let elsewhere = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p", "namespace": "other"}});
    let refused = call(&server, "POST", &path, elsewhere).await;
    assert_eq!(refused.code, 400);
    assert_eq!(
        refused.body["message"],
        "the namespace of the provided object does not match the namespace sent on the request"
    );
    // A version that the client names is held against the pod as the client saw it.
    let stale = eviction(
        "policy/v1",
        json!({"deleteOptions": {"preconditions": {"resourceVersion": "1"}}}),
    );
    assert_eq!(call(&server, "POST", &path, stale).await.code, 409);
    assert_eq!(made(&server, "GET", &format!("{PODS}/p"), Value::Null).await, before);
    let version = before["metadata"]["resourceVersion"].clone();
    let fresh = eviction(
        "policy/v1beta1",
        json!({"deleteOptions": {"preconditions": {"resourceVersion": version}}}),
    );
    let done = call(&server, "POST", &path, fresh).await;
    assert_eq!(done.code, 201, "{}", done.text);
    assert_eq!(call(&server, "GET", &format!("{PODS}/p"), Value::Null).await.code, 404);
}

/// Not stock's answer: there an eviction whose deletion was lost blocks its budget for two minutes.
#[tokio::test]
async fn an_eviction_that_was_granted_is_not_counted_again() {
    let server = server(Config::default(), None).await;
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget = json!({"metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}}});
    let mut budget = made(&server, "POST", budgets, budget).await;
    for name in ["granted", "older", "other"] {
        let mut pod = made(&server, "POST", PODS, pod(name)).await;
        pod["status"]["phase"] = "Running".into();
        pod["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
        made(&server, "PUT", &format!("{PODS}/{name}/status"), pod).await;
    }
    let created = made(&server, "GET", &format!("{PODS}/granted"), Value::Null).await["metadata"]["creationTimestamp"].clone();
    budget["status"] = json!({
        "observedGeneration": budget["metadata"]["generation"], "disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 1,
        "expectedPods": 3, "disruptedPods": {"granted": created, "older": "2020-01-01T00:00:00Z"},
    });
    made(&server, "PUT", &format!("{budgets}/b/status"), budget).await;
    for (name, code) in [("other", 429), ("older", 429), ("granted", 201)] {
        let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
        let answer = call(&server, "POST", &format!("{PODS}/{name}/eviction"), eviction).await;
        assert_eq!(answer.code, code, "{name}: {}", answer.text);
    }
    let after = made(&server, "GET", &format!("{budgets}/b"), Value::Null).await;
    assert_eq!(after["status"]["disruptionsAllowed"], 0);
    assert_eq!(call(&server, "GET", &format!("{PODS}/granted"), Value::Null).await.code, 404);
}

#[tokio::test]
async fn scales_and_bindings_are_of_their_namespace_and_version() {
    let server = server(Config::default(), None).await;
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let set = json!({"metadata": {"name": "s"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}});
    let sets = "/apis/apps/v1/namespaces/default/replicasets";
    made(&server, "POST", sets, set).await;
    let scale = json!({
        "apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "s", "namespace": "other"}, "spec": {"replicas": 2},
    });
    assert_eq!(call(&server, "PUT", &format!("{sets}/s/scale"), scale).await.code, 400);
    let there = made(&server, "GET", &format!("{sets}/s"), Value::Null).await;
    let modified = "Operation cannot be fulfilled on replicasets.apps \"s\": the object has been modified; please apply your changes \
                    to the latest version and try again";
    let own = there["metadata"]["uid"].as_str().unwrap();
    let precondition = format!("Precondition failed: UID in precondition: other, UID in object meta: {own}");
    let stored = format!(
        "Operation cannot be fulfilled on replicasets.apps \"s\": StorageError: invalid object, Code: 4, Key: \
         /registry/replicasets/default/s, ResourceVersion: 0, AdditionalErrorMsg: {precondition}"
    );
    let patched = format!("Operation cannot be fulfilled on replicasets/scale.apps \"s\": {precondition}");
    for (method, metadata, why) in [
        ("PUT", json!({"name": "s", "resourceVersion": "1"}), modified),
        ("PUT", json!({"name": "s", "uid": "other"}), &stored),
        ("PATCH", json!({"resourceVersion": "1"}), modified),
        ("PATCH", json!({"uid": "other"}), &patched),
    ] {
        let body = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": metadata, "spec": {"replicas": 2}});
        let kind = [("content-type", "application/merge-patch+json")];
        let headers = if method == "PATCH" { &kind[..] } else { &[] };
        let answer = send(&server, method, &format!("{sets}/s/scale"), headers, body.to_string().into()).await;
        assert_eq!(
            (answer.code, answer.body["message"].as_str()),
            (409, Some(why)),
            "{method} {body}"
        );
    }
    let unchanged = call(&server, "GET", &format!("{sets}/s"), Value::Null).await;
    assert_eq!(unchanged.body, there);

    let bound = made(&server, "POST", PODS, pod("p")).await;
    let binding = |version: &str| {
        json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p", "resourceVersion": version, "labels": {"a": "c"}},
            "target": {"kind": "Node", "name": "n1"},
        })
    };
    let present = bound["metadata"]["resourceVersion"].as_str().unwrap();
    let another = json!({"metadata": {"name": "p", "uid": "other"}, "target": {"kind": "Node", "name": "n1"}});
    let another = call(&server, "POST", &format!("{PODS}/p/binding"), another).await;
    let own = bound["metadata"]["uid"].as_str().unwrap();
    let why = format!(
        "Operation cannot be fulfilled on pods \"p\": StorageError: invalid object, Code: 4, Key: /registry/pods/default/p, \
         ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: other, UID in object meta: {own}"
    );
    assert_eq!((another.code, another.body["message"].as_str()), (409, Some(why.as_str())));
    let stale = call(&server, "POST", &format!("{PODS}/p/binding"), binding("1")).await;
    assert_eq!(stale.code, 409);
    assert_eq!(
        stale.body["message"],
        format!(
            "Operation cannot be fulfilled on pods \"p\": StorageError: invalid object, Code: 4, Key: /registry/pods/default/p, \
             ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: ResourceVersion in precondition: 1, ResourceVersion \
             in object meta: {present}"
        )
    );
    let mut hoped = bound.clone();
    hoped["status"]["nominatedNodeName"] = "n2".into();
    let hoped = made(&server, "PUT", &format!("{PODS}/p/status"), hoped).await;
    assert_eq!(hoped["status"]["nominatedNodeName"], "n2");
    let present = hoped["metadata"]["resourceVersion"].as_str().unwrap();
    made(&server, "POST", &format!("{PODS}/p/binding"), binding(present)).await;
    let pod = made(&server, "GET", &format!("{PODS}/p"), Value::Null).await;
    assert_eq!(pod["spec"]["nodeName"], "n1");
    assert_eq!(pod["status"]["nominatedNodeName"], Value::Null, "what was hoped for is over");
    assert_eq!(pod["metadata"]["labels"]["a"], "c", "a binding's labels replace the pod's");
}

#[tokio::test]
async fn built_in_groups_are_registered() {
    let server = server(Config::default(), None).await;
    let path = "/apis/apiregistration.k8s.io/v1/apiservices";
    let list = made(&server, "GET", path, Value::Null).await;
    let items = list["items"].as_array().unwrap();
    let names: Vec<&str> = items.iter().filter_map(|item| item["metadata"]["name"].as_str()).collect();
    for name in [
        "v1.",
        "v1.apps",
        "v2.autoscaling",
        "v1.rbac.authorization.k8s.io",
        "v1.apiextensions.k8s.io",
    ] {
        assert!(names.contains(&name), "{name}: {names:?}");
    }
    assert!(!names.contains(&"v1.apiregistration.k8s.io"));
    // Every group that discovery shows, but the one that registers them.
    let groups = made(&server, "GET", "/apis", Value::Null).await;
    for group in groups["groups"].as_array().unwrap() {
        for version in group["versions"].as_array().unwrap() {
            let (group, version) = (group["name"].as_str().unwrap(), version["version"].as_str().unwrap());
            let listed = names.contains(&format!("{version}.{group}").as_str());
            assert_eq!(listed, group != "apiregistration.k8s.io", "{version}.{group}");
        }
    }
    let core = items.iter().find(|item| item["metadata"]["name"] == "v1.").unwrap();
    assert_eq!(
        core["metadata"]["labels"],
        json!({"kube-aggregator.kubernetes.io/automanaged": "onstart"})
    );
    assert_eq!(
        core["spec"],
        json!({"groupPriorityMinimum": 18000, "version": "v1", "versionPriority": 1}),
    );
    let condition = &core["status"]["conditions"][0];
    assert_eq!(
        [
            &condition["type"],
            &condition["status"],
            &condition["reason"],
            &condition["message"]
        ],
        ["Available", "True", "Local", "Local APIServices are always available"]
    );
    // Who deletes one has it again at the next start; one that is ours and served no more goes.
    made(&server, "DELETE", &format!("{path}/v1.apps"), Value::Null).await;
    let old = json!({
        "metadata": {"name": "v1beta1.old.example", "labels": {"kube-aggregator.kubernetes.io/automanaged": "onstart"}},
        "spec": {"group": "old.example", "version": "v1beta1", "groupPriorityMinimum": 100, "versionPriority": 1},
    });
    made(&server, "POST", path, old).await;
    server.bootstrap().await.unwrap();
    assert_eq!(call(&server, "GET", &format!("{path}/v1.apps"), Value::Null).await.code, 200);
    assert_eq!(
        call(&server, "GET", &format!("{path}/v1beta1.old.example"), Value::Null)
            .await
            .code,
        404
    );
}
