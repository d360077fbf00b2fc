//! Patches, applies and repeated writes, answered as a stock server answers them.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use serde_json::{Map, Value, json};
use trireme_apiserver::{ApiServer, Config};

use crate::common;

pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) body: Value,
    pub(crate) warnings: Vec<String>,
}

impl Answer {
    pub(crate) fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }

    /// (manager, operation, subresource, fields) of every owner.
    pub(crate) fn owners(&self) -> Vec<(String, String, String, Value)> {
        let text = |entry: &Value, name: &str| entry[name].as_str().unwrap_or_default().to_owned();
        let entries = self.body["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
        entries
            .iter()
            .map(|entry| {
                (
                    text(entry, "manager"),
                    text(entry, "operation"),
                    text(entry, "subresource"),
                    entry["fieldsV1"].clone(),
                )
            })
            .collect()
    }
}

pub(crate) struct Client(Arc<ApiServer>);

impl Client {
    pub(crate) async fn new() -> Self {
        Self(common::server(Config::default(), None).await)
    }

    pub(crate) async fn send(&self, method: &str, path: &str, content_type: &str, body: impl Into<Bytes>) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", "Bearer ADMIN")
            .header("content-type", content_type)
            .body(Full::new(body.into()))
            .unwrap();
        let (parts, body) = self.0.handle(request).await.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Answer {
            code: parts.status.as_u16(),
            body: serde_json::from_slice(&bytes).unwrap_or_default(),
            warnings: parts
                .headers
                .get_all("warning")
                .iter()
                .map(|value| value.to_str().unwrap().to_owned())
                .collect(),
        }
    }

    /// What GET answers to who accepts that media type; null where it is no JSON.
    pub(crate) async fn accepting(&self, accept: &str, path: &str) -> Value {
        common::send(&self.0, "GET", path, &[("accept", accept)], Bytes::new())
            .await
            .body
    }

    pub(crate) async fn json(&self, method: &str, path: &str, body: &Value) -> Answer {
        self.send(method, path, "application/json", body.to_string()).await
    }

    pub(crate) async fn patch(&self, path: &str, kind: &str, body: impl Into<Bytes>) -> Answer {
        self.send("PATCH", path, &format!("application/{kind}"), body).await
    }
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const APPS: &str = "/apis/apps/v1/namespaces/default";

fn template() -> Value {
    json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

fn deployment(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"replicas": 2, "selector": {"matchLabels": {"a": "b"}}, "template": template()}})
}

#[test]
fn copies_that_double_a_list_are_refused_and_objects_do_not_grow_without_end() {
    trireme_limited::run("writes::objects_that_grow", trireme_limited::Limits::address_space_mib(1024));
}

#[tokio::test]
#[ignore = "run by its parent under limits"]
async fn objects_that_grow() {
    let client = Client::new().await;
    let finalizers = ["example.com/a"];
    client
        .json(
            "POST",
            MAPS,
            &json!({"metadata": {"name": "a", "finalizers": finalizers}, "data": {"k": "x".repeat(900_000)}}),
        )
        .await;
    let one = format!("{MAPS}/a");
    let double = r#"{"op":"copy","from":"/metadata/finalizers","path":"/metadata/finalizers/-"}"#;
    let patch = format!("[{}]", vec![double; 60].join(","));
    let answer = client.patch(&one, "json-patch+json", patch).await;
    assert_eq!(
        (answer.code, answer.message()),
        (422, "the server rejected our request due to an error in our request")
    );
    // By bytes alone: the object stays small, and eight copies are more than 3 MiB.
    let map = json!({"metadata": {"name": "c"}, "data": {"k": "x".repeat(400_000)}});
    assert_eq!(client.json("POST", MAPS, &map).await.code, 201);
    let copy = r#"{"op":"copy","from":"/data/k","path":"/data/l"}"#;
    for (times, code) in [(7, 200), (8, 422)] {
        let patch = format!("[{}]", vec![copy; times].join(","));
        let answer = client.patch(&format!("{MAPS}/c"), "json-patch+json", patch).await;
        assert_eq!(answer.code, code, "{times}: {}", answer.message());
    }
    let values = format!("{{\"metadata\":{{\"name\":\"b\"}},\"x\":[{}0]}}", "0,".repeat(200_000));
    let answer = client.send("POST", MAPS, "application/json", values).await;
    assert_eq!(
        (answer.code, answer.message()),
        (413, "Request entity too large: limit is 100000 values in one object")
    );
}

#[tokio::test]
async fn what_an_object_may_cost_is_limited() {
    let client = Client::new().await;
    let refused = |limit: &str| (413, format!("Request entity too large: limit is {limit}"));
    let told = |answer: &Answer| (answer.code, answer.message().to_owned());
    let keys = |count: usize| (0..count).map(|n| (format!("k{n}"), json!(""))).collect::<Map<_, _>>();
    let map = |count: usize| json!({"metadata": {"name": "a"}, "data": keys(count)});
    let owned = refused("15000 values in the managed fields of one object");
    assert_eq!(told(&client.json("POST", MAPS, &map(15_000)).await), owned);
    assert_eq!(client.json("POST", MAPS, &map(14_000)).await.code, 201);
    let one = format!("{MAPS}/a");
    assert_eq!(told(&client.json("PUT", &one, &map(15_000)).await), owned);
    let more = json!({"data": keys(15_000)}).to_string();
    assert_eq!(told(&client.patch(&one, "merge-patch+json", more).await), owned);
    // Rules have one owner as a whole.
    let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    let role = |names: Vec<String>| json!({"metadata": {"name": "r"}, "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": names}]});
    let many = |count: usize| (0..count).map(|n| format!("n{n}")).collect::<Vec<_>>();
    let answer = client.json("POST", roles, &role(many(40_000))).await;
    assert_eq!(
        told(&answer),
        refused("40000 values in one object of this kind, defaults included")
    );
    assert_eq!(client.json("POST", roles, &role(many(39_000))).await.code, 201);
    let definition = |count: usize| {
        let properties: Map<String, Value> = (0..count).map(|n| (format!("p{n}"), json!({"type": "string"}))).collect();
        json!({"metadata": {"name": "bigs.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "bigs", "singular": "big", "kind": "Big", "listKind": "BigList"}, "versions": [{"name": "v1",
            "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object", "properties": properties}}}]}})
    };
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let answer = client.json("POST", definitions, &definition(33_000)).await;
    assert_eq!(
        told(&answer),
        refused("60000 values in one object of this kind, defaults included")
    );
    // As large as the largest that is known.
    assert_eq!(client.json("POST", definitions, &definition(26_240)).await.code, 201);
}

#[tokio::test]
async fn an_object_grows_to_three_mebibytes() {
    let client = Client::new().await;
    let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    let long = |letter: &str| json!({"verbs": [letter.repeat(1_600_000)], "apiGroups": [""], "resources": ["pods"]});
    let role = json!({"metadata": {"name": "r"}, "rules": [long("a")]});
    assert_eq!(client.json("POST", roles, &role).await.code, 201);
    let add = json!([{"op": "add", "path": "/rules/-", "value": long("b")}]).to_string();
    let answer = client.patch(&format!("{roles}/r"), "json-patch+json", add).await;
    assert_eq!(
        (answer.code, answer.message()),
        (413, "Request entity too large: limit is 3145728")
    );
    let kept = client.send("GET", &format!("{roles}/r"), "", "").await;
    assert_eq!(kept.body["rules"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn field_errors_are_told_up_to_a_mebibyte() {
    let client = Client::new().await;
    let data: Map<String, Value> = (0..14_000).map(|n| (format!("k {n}"), json!(""))).collect();
    let answer = client
        .json("POST", MAPS, &json!({"metadata": {"name": "a"}, "data": data}))
        .await;
    assert_eq!(answer.code, 422);
    let causes = answer.body["details"]["causes"].as_array().unwrap();
    let bytes = |cause: &Value| cause["field"].as_str().unwrap().len() + cause["message"].as_str().unwrap().len();
    let told: usize = causes.iter().map(bytes).sum();
    // Of each cause, the first words are not counted.
    assert!(
        (1 << 20..(1 << 20) + 30 * causes.len()).contains(&told),
        "{told} bytes in {}",
        causes.len()
    );
    assert!(causes.len() < 14_000 && answer.message().matches("a valid config key").count() == causes.len());
}

#[tokio::test]
async fn json_patches_follow_upstreams_library() {
    let client = Client::new().await;
    client
        .json(
            "POST",
            MAPS,
            &json!({"metadata": {"name": "a", "finalizers": ["x.y/1", "x.y/2"]}, "data": {"k": "v"}}),
        )
        .await;
    let patch = r#"[{"op":"replace","path":"/data/new","value":"1"},{"op":"test","path":"/data/gone","value":null},
        {"op":"replace","path":"/metadata/finalizers/-1","value":"x.y/last"},{"op":"replace","path":"/metadata/finalizers/00","value":"x.y/0"}]"#;
    let answer = client.patch(&format!("{MAPS}/a"), "json-patch+json", patch).await;
    assert_eq!(answer.code, 200, "{}", answer.body);
    assert_eq!(answer.body["data"], json!({"k": "v", "new": "1"}));
    assert_eq!(answer.body["metadata"]["finalizers"], json!(["x.y/0", "x.y/last"]));
}

#[tokio::test]
async fn repeated_keys_warn_and_strict_refuses() {
    let client = Client::new().await;
    client.json("POST", &format!("{APPS}/deployments"), &deployment("d")).await;
    let one = format!("{APPS}/deployments/d?fieldManager=m&force=");
    let twice = r#"{"apiVersion":"apps/v1","kind":"Deployment","spec":{"replicas":7,"replicas":8}}"#;
    for (kind, warning, refusal) in [
        (
            "merge-patch+json",
            r#"299 - "duplicate field \"spec.replicas\"""#,
            "strict decoding error: duplicate field \"spec.replicas\"",
        ),
        (
            "strategic-merge-patch+json",
            r#"299 - "duplicate field \"spec.replicas\"""#,
            "strict decoding error: duplicate field \"spec.replicas\"",
        ),
        (
            "apply-patch+yaml",
            r#"299 - "line 1: key \"replicas\" already set in map""#,
            "error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  line 1: key \"replicas\" already set in map",
        ),
    ] {
        let path = if kind == "apply-patch+yaml" {
            format!("{one}true")
        } else {
            format!("{APPS}/deployments/d?fieldManager=m")
        };
        let warned = client.patch(&path, kind, twice).await;
        assert_eq!(
            (warned.code, &warned.body["spec"]["replicas"]),
            (200, &json!(8)),
            "{kind}: {}",
            warned.body
        );
        assert_eq!(warned.warnings, [warning], "{kind}");
        let strict = client.patch(&format!("{path}&fieldValidation=Strict"), kind, twice).await;
        assert_eq!(strict.code, if kind == "apply-patch+yaml" { 400 } else { 422 }, "{kind}");
        assert!(strict.message().ends_with(refusal), "{kind}: {}", strict.message());
    }
    let patch = r#"[{"op":"replace","path":"/spec/replicas","value":1,"foo":1}]"#;
    let answer = client.patch(&format!("{APPS}/deployments/d"), "json-patch+json", patch).await;
    assert_eq!(answer.warnings, [r#"299 - "json patch unknown field \"[0].foo\"""#]);
}

#[tokio::test]
async fn yaml_is_read_as_yaml_1_1() {
    let client = Client::new().await;
    let yaml = "metadata:\n  name: m\n  annotations:\n    a: \"1\"\ndata:\n  y: \"1\"\n  n: \"2\"\n  0x10: z\n";
    let made = client.send("POST", MAPS, "application/yaml", yaml).await;
    assert_eq!(made.code, 201, "{}", made.body);
    assert_eq!(made.body["data"], json!({"true": "1", "false": "2", "16": "z"}));
    let text = serde_json::to_string(&template()).unwrap();
    let yaml =
        format!("metadata:\n  name: d\nspec:\n  replicas: 3.0\n  selector: {{matchLabels: {{a: b}}}}\n  template: {text}\n");
    let made = client
        .send("POST", &format!("{APPS}/deployments"), "application/yaml", yaml)
        .await;
    assert_eq!((made.code, &made.body["spec"]["replicas"]), (201, &json!(3)), "{}", made.body);
    let one = format!("{APPS}/deployments/d");
    let merged = client.patch(&one, "merge-patch+json", r#"{"spec":{"replicas":4.0}}"#).await;
    assert!(
        merged.code == 422
            && merged
                .message()
                .ends_with("json: cannot unmarshal number 4.0 into Go struct field DeploymentSpec.spec.replicas of type int32"),
        "{}",
        merged.message()
    );
    let merged = client
        .patch(&one, "strategic-merge-patch+json", r#"{"spec":{"replicas":4.0}}"#)
        .await;
    assert_eq!((merged.code, &merged.body["spec"]["replicas"]), (200, &json!(4)));
    let applied = r#"{"apiVersion":"apps/v1","kind":"Deployment","spec":{"replicas":5.0}}"#;
    let applied = client
        .patch(&format!("{one}?fieldManager=m&force=true"), "apply-patch+yaml", applied)
        .await;
    assert_eq!(
        (applied.code, &applied.body["spec"]["replicas"]),
        (200, &json!(5)),
        "{}",
        applied.body
    );
}

#[tokio::test]
async fn patches_name_the_object_of_the_url() {
    let client = Client::new().await;
    client.json("POST", &format!("{APPS}/deployments"), &deployment("d")).await;
    let one = format!("{APPS}/deployments/d");
    let renamed = "the name of the object (x) does not match the name on the URL (d)";
    let nameless = "the name of the object (d based on URL) was undeterminable: name must be provided";
    for (path, kind, body, message) in [
        (one.clone(), "merge-patch+json", r#"{"metadata":{"name":"x"}}"#, renamed),
        (
            one.clone(),
            "strategic-merge-patch+json",
            r#"{"metadata":{"name":"x"}}"#,
            renamed,
        ),
        (
            format!("{one}/scale"),
            "merge-patch+json",
            r#"{"metadata":{"name":"x"}}"#,
            renamed,
        ),
        (one.clone(), "merge-patch+json", r#"{"metadata":null}"#, nameless),
        (
            one.clone(),
            "json-patch+json",
            r#"[{"op":"remove","path":"/metadata"}]"#,
            nameless,
        ),
        (
            format!("{APPS}/deployments/new?fieldManager=m"),
            "apply-patch+yaml",
            r#"{"apiVersion":"apps/v1","kind":"Deployment","spec":{"replicas":1}}"#,
            "the name of the object (new based on URL) was undeterminable: name must be provided",
        ),
    ] {
        let answer = client.patch(&path, kind, body).await;
        assert_eq!((answer.code, answer.message()), (400, message), "{kind} {body}");
    }
}

#[tokio::test]
async fn owners_are_those_of_a_stock_server() {
    let client = Client::new().await;
    let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"}, "spec": {
        "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}},
        "podFailurePolicy": {"rules": [{"action": "Ignore", "onExitCodes": {"operator": "In", "values": [42]}}]}}});
    let path = "/apis/batch/v1/namespaces/default/jobs/j?fieldManager=m";
    let applied = client.patch(path, "apply-patch+yaml", job.to_string()).await;
    assert_eq!(applied.code, 201, "{}", applied.body);

    let role = client
        .json(
            "POST",
            "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles",
            &json!({"metadata": {"name": "r"}, "rules": []}),
        )
        .await;
    assert_eq!(role.owners()[0].3, json!({"f:rules": {}}));
    assert_eq!(role.body["rules"], Value::Null);
    let slice = json!({"metadata": {"name": "e"}, "addressType": "IPv4", "endpoints": [], "ports": []});
    let slice = client
        .json("POST", "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", &slice)
        .await;
    assert_eq!(
        slice.owners()[0].3,
        json!({"f:addressType": {}, "f:endpoints": {}, "f:ports": {}})
    );

    let range = json!({"metadata": {"name": "l"}, "spec": {"limits": []}});
    let range = client.json("POST", "/api/v1/namespaces/default/limitranges", &range).await;
    assert_eq!(
        (range.code, &range.owners()[0].3),
        (201, &json!({"f:spec": {"f:limits": {}}}))
    );
    let quotas = "/api/v1/namespaces/default/resourcequotas";
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "3"}}});
    let mut quota = client.json("POST", quotas, &quota).await.body;
    quota["status"] = json!({"hard": {"pods": "3"}, "used": {"cpu": "1", "pods": "1"}});
    let told = client.json("PUT", &format!("{quotas}/q/status"), &quota).await;
    let used = json!({".": {}, "f:cpu": {}, "f:pods": {}});
    assert_eq!(told.owners()[1].3["f:status"]["f:used"], used, "{}", told.body);

    let volume = json!({"metadata": {"name": "v"}, "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
        "hostPath": {"path": "/x"}, "claimRef": {"name": "a", "namespace": "b"}}});
    let volume = client.json("POST", "/api/v1/persistentvolumes", &volume).await;
    assert_eq!(
        volume.owners()[0].3["f:spec"]["f:claimRef"],
        json!({".": {}, "f:name": {}, "f:namespace": {}})
    );

    let map = client
        .json("POST", MAPS, &json!({"metadata": {"name": "a"}, "data": {"k": "v"}}))
        .await;
    assert_eq!(map.owners().len(), 1);
    let emptied = client
        .patch(
            &format!("{MAPS}/a"),
            "merge-patch+json",
            r#"{"metadata":{"managedFields":[]}}"#,
        )
        .await;
    assert_eq!((emptied.code, emptied.owners().len()), (200, 0), "{}", emptied.body);
    let map = client
        .json(
            "PUT",
            &format!("{MAPS}/a"),
            &json!({"metadata": {"name": "a", "managedFields": []}, "data": {"k": "w"}}),
        )
        .await;
    assert_eq!((map.code, map.owners().len()), (200, 0));
}

#[tokio::test]
async fn the_same_write_again_changes_nothing() {
    let client = Client::new().await;
    let set = |kind: &str, extra: Value| {
        let mut set =
            json!({"metadata": {"name": kind}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template()}});
        for (name, value) in extra.as_object().into_iter().flatten() {
            set["spec"][name] = value.clone();
        }
        set
    };
    let stateful =
        json!({"serviceName": "s", "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}}});
    let mut annotated = set("annotated", Value::Null);
    annotated["metadata"]["annotations"] = Value::Null;
    for (plural, body) in [
        ("daemonsets", set("d", Value::Null)),
        ("daemonsets", annotated),
        ("statefulsets", set("s", stateful)),
    ] {
        let mut labelled = body.clone();
        labelled["metadata"]["labels"] = json!({"x": "1"});
        let made = client.json("POST", &format!("{APPS}/{plural}"), &labelled).await;
        assert_eq!(made.code, 201, "{}", made.body);
        let one = format!("{APPS}/{plural}/{}", body["metadata"]["name"].as_str().unwrap());
        // As if it had been made long ago, so that a time that moves shows. What only removes gives nobody a new time.
        let mut aged = made.body;
        aged["metadata"].as_object_mut().unwrap().remove("labels");
        for entry in aged["metadata"]["managedFields"].as_array_mut().unwrap() {
            entry["time"] = "2026-01-01T00:00:00Z".into();
        }
        let before = client.json("PUT", &one, &aged).await;
        assert_eq!(before.body["metadata"]["managedFields"][0]["time"], "2026-01-01T00:00:00Z");
        let after = client.json("PUT", &one, &body).await;
        assert_eq!(after.body["metadata"], before.body["metadata"], "{plural}");
    }
}

#[tokio::test]
async fn the_base_of_a_name_may_be_taken_away() {
    let client = Client::new().await;
    let map = format!("{MAPS}/one");
    let sent = json!({"metadata": {"name": "one", "generateName": "o"}});
    assert_eq!(client.json("POST", MAPS, &sent).await.body["metadata"]["generateName"], "o");
    let put = client.json("PUT", &map, &json!({"metadata": {"name": "one"}})).await;
    assert_eq!((put.code, &put.body["metadata"]["generateName"]), (200, &Value::Null));
    let applied = |metadata: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}).to_string();
    let by_apply = format!("{map}?fieldManager=a");
    let kind = "apply-patch+yaml";
    let with = client
        .patch(&by_apply, kind, applied(json!({"name": "one", "generateName": "p"})))
        .await;
    assert_eq!(with.body["metadata"]["generateName"], "p");
    let without = client.patch(&by_apply, kind, applied(json!({"name": "one"}))).await;
    assert_eq!((without.code, &without.body["metadata"]["generateName"]), (200, &Value::Null));
}

#[tokio::test]
async fn equal_owner_references_are_one() {
    let client = Client::new().await;
    let owner =
        |controller: bool| json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u-1", "controller": controller});
    let map = |references: Value| json!({"metadata": {"name": "a", "ownerReferences": references}});
    let made = client.json("POST", MAPS, &map(json!([owner(true), owner(true)]))).await;
    assert_eq!(
        (made.code, made.body["metadata"]["ownerReferences"].as_array().unwrap().len()),
        (201, 1)
    );
    let text = "API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your \
                requests; duplicate UID(s) observed: u-1";
    assert_eq!(
        made.warnings,
        [format!(
            "299 - \".metadata.ownerReferences contains duplicate entries; {text}\""
        )]
    );
    let body = json!({"metadata": {"ownerReferences": [owner(true), owner(true)]}});
    let patched = client.patch(&format!("{MAPS}/a"), "merge-patch+json", body.to_string()).await;
    assert_eq!(
        patched.warnings,
        [format!(
            "299 - \".metadata.ownerReferences contains duplicate entries after mutating admission happens; {text}\""
        )]
    );
    let mut other = owner(true);
    other["name"] = "q".into();
    let refused = client.json("POST", MAPS, &map(json!([owner(true), other]))).await;
    assert_eq!(refused.code, 422, "two that differ are two controllers");

    let review = json!({"metadata": {"ownerReferences": [owner(true), owner(true)]}, "spec": {"user": "alice",
        "resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "default"}}});
    let reviews = "/apis/authorization.k8s.io/v1/namespaces/default/localsubjectaccessreviews";
    let refused = client.json("POST", reviews, &review).await;
    let shown = refused.body["message"].as_str().unwrap().matches(r#""name":"p""#).count();
    assert_eq!(
        (refused.code, &refused.warnings, shown),
        (422, &made.warnings, 1),
        "a review has no owners, but these are told"
    );
}

#[tokio::test]
async fn applying_a_scale_is_an_apply() {
    let client = Client::new().await;
    client
        .json("POST", &format!("{APPS}/deployments?fieldManager=one"), &deployment("d"))
        .await;
    let scale = |manager: &str, more: &str| format!("{APPS}/deployments/d/scale?fieldManager={manager}{more}");
    let body = |replicas: u32| {
        json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d"}, "spec": {"replicas": replicas}})
            .to_string()
    };
    let conflict = client.patch(&scale("two", ""), "apply-patch+yaml", body(5)).await;
    assert_eq!(
        (conflict.code, conflict.message()),
        (
            409,
            "Apply failed with 1 conflict: conflict with \"one\" using autoscaling/v1: .spec.replicas"
        )
    );
    assert_eq!(conflict.body["details"]["causes"][0]["reason"], "FieldManagerConflict");
    let forced = client.patch(&scale("two", "&force=true"), "apply-patch+yaml", body(5)).await;
    assert_eq!(
        (forced.code, &forced.body["spec"]["replicas"]),
        (200, &json!(5)),
        "{}",
        forced.body
    );
    let object = client.json("GET", &format!("{APPS}/deployments/d"), &Value::Null).await;
    let owner = |manager: &str, operation: &str| {
        (
            manager.to_owned(),
            operation.to_owned(),
            "scale".to_owned(),
            json!({"f:spec": {"f:replicas": {}}}),
        )
    };
    assert_eq!(object.owners()[0], owner("two", "Apply"));
    assert!(object.body["metadata"]["managedFields"][0]["time"].is_null());
    let conflict = client.patch(&scale("three", ""), "apply-patch+yaml", body(6)).await;
    assert_eq!(
        conflict.message(),
        "Apply failed with 1 conflict: conflict with \"two\" with subresource \"scale\": .spec.replicas"
    );
    let merged = client
        .patch(&scale("five", ""), "merge-patch+json", r#"{"spec":{"replicas":7}}"#)
        .await;
    assert_eq!(merged.code, 200);
    let object = client.json("GET", &format!("{APPS}/deployments/d"), &Value::Null).await;
    assert_eq!(object.owners()[0], owner("five", "Update"));
    assert_eq!(object.owners().len(), 2);
}

/// The other subresources that show their object: an apply is one of that subresource, and where PATCH is not theirs it is refused.
#[tokio::test]
async fn applying_a_subresource_is_an_apply() {
    const PODS: &str = "/api/v1/namespaces/default/pods";
    let client = Client::new().await;
    let resources = |cpu: &str| json!({"requests": {"cpu": cpu}, "limits": {"cpu": cpu}});
    let pod =
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i", "resources": resources("1")}]}});
    assert_eq!(client.json("POST", &format!("{PODS}?fieldManager=one"), &pod).await.code, 201);
    let apply = async |door: &str, query: &str, body: Value| {
        client
            .patch(&format!("{door}?{query}"), "apply-patch+yaml", body.to_string())
            .await
    };
    let of_pod = |name: &str, spec: Value| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec});
    let resized = of_pod("p", json!({"containers": [{"name": "c", "resources": resources("2")}]}));
    let resize = format!("{PODS}/p/resize");
    let conflict = apply(&resize, "fieldManager=two", resized.clone()).await;
    assert_eq!(
        (conflict.code, conflict.message()),
        (
            409,
            "Apply failed with 2 conflicts: conflicts with \"one\" using v1:\n- .spec.containers[name=\"c\"].resources.limits.cpu\n- \
             .spec.containers[name=\"c\"].resources.requests.cpu"
        )
    );
    let forced = apply(&resize, "fieldManager=two&force=true", resized.clone()).await;
    let owner = |answer: &Answer, manager: &str, door: &str, fields: Value| {
        let wanted = (manager.to_owned(), "Apply".to_owned(), door.to_owned(), fields);
        assert_eq!((answer.code, &answer.owners()[0]), (200, &wanted), "{}", answer.body);
    };
    let amounts = json!({"f:limits": {"f:cpu": {}}, "f:requests": {"f:cpu": {}}});
    let container = json!({".": {}, "f:name": {}, "f:resources": amounts});
    owner(
        &forced,
        "two",
        "resize",
        json!({"f:spec": {"f:containers": {"k:{\"name\":\"c\"}": container}}}),
    );
    assert_eq!(forced.body["spec"]["containers"][0]["resources"], resources("2"));

    let debugged = of_pod("p", json!({"ephemeralContainers": [{"name": "e", "image": "j"}]}));
    let debugged = apply(&format!("{PODS}/p/ephemeralcontainers"), "fieldManager=three", debugged).await;
    let container = json!({".": {}, "f:image": {}, "f:name": {}});
    let fields = json!({"f:spec": {"f:ephemeralContainers": {"k:{\"name\":\"e\"}": container}}});
    owner(&debugged, "three", "ephemeralcontainers", fields);
    assert_eq!(debugged.owners().len(), 3);

    let absent = apply(&format!("{PODS}/q/resize"), "fieldManager=two", resized).await;
    assert_eq!((absent.code, absent.message()), (404, "pods \"q\" not found"));
    let binding =
        json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}});
    for (door, body) in [
        (format!("{PODS}/p/binding"), binding),
        ("/api/v1/namespaces/default/finalize".to_owned(), namespace),
    ] {
        assert_eq!(apply(&door, "fieldManager=two", body).await.code, 405, "{door}");
    }

    let requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let pem = rcgen::CertificateParams::default()
        .serialize_request(&rcgen::KeyPair::generate().unwrap())
        .unwrap()
        .pem()
        .unwrap();
    let request = json!({"metadata": {"name": "r"}, "spec": {"request": STANDARD.encode(pem), "signerName": "e.com/x", "usages": ["client auth"]}});
    let made = client.json("POST", &format!("{requests}?fieldManager=one"), &request).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let approval = |reason: &str| {
        let condition = json!({"type": "Approved", "status": "True", "reason": reason, "message": "m"});
        json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": "r"},
            "status": {"conditions": [condition]}})
    };
    let door = format!("{requests}/r/approval");
    let approved = apply(&door, "fieldManager=two", approval("R")).await;
    let condition = json!({".": {}, "f:message": {}, "f:reason": {}, "f:status": {}, "f:type": {}});
    let fields = json!({"f:status": {"f:conditions": {"k:{\"type\":\"Approved\"}": condition}}});
    owner(&approved, "two", "approval", fields);
    let conflict = apply(&door, "fieldManager=three", approval("S")).await;
    assert_eq!(
        (conflict.code, conflict.message()),
        (
            409,
            "Apply failed with 1 conflict: conflict with \"two\" with subresource \"approval\": \
             .status.conditions[type=\"Approved\"].reason"
        )
    );
}

#[tokio::test]
async fn what_is_not_posted_may_be_created_while_it_is_being_deleted() {
    let client = Client::new().await;
    let leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    let going = |name: &str, kind: (&str, &str)| {
        let metadata = json!({
            "name": name, "selfLink": "x", "deletionTimestamp": "2026-01-02T03:04:05Z", "deletionGracePeriodSeconds": 5,
        });
        json!({"apiVersion": kind.0, "kind": kind.1, "metadata": metadata})
    };
    let lease = going("a", ("coordination.k8s.io/v1", "Lease"));
    let map = going("a", ("v1", "ConfigMap")).to_string();
    let (lease_path, map_path) = (format!("{leases}/a"), format!("{MAPS}/a"));
    let marks = |answer: &Answer| {
        let metadata = &answer.body["metadata"];
        let [link, time, grace] =
            ["selfLink", "deletionTimestamp", "deletionGracePeriodSeconds"].map(|name| metadata[name].clone());
        (answer.code, link, time, grace)
    };
    let deleted = |link: Value| (201, link, json!("2026-01-02T03:04:05Z"), json!(5));
    let apply = |dry_run: &str| format!("{map_path}?fieldManager=a{dry_run}");
    let posted = client.json("POST", leases, &lease).await;
    assert_eq!(marks(&posted), (201, Value::Null, Value::Null, Value::Null));
    client.send("DELETE", &lease_path, "application/json", "").await;
    // A dry run shows the link, too; it is gone from what is stored.
    let put = client.json("PUT", &format!("{lease_path}?dryRun=All"), &lease).await;
    assert_eq!(marks(&put), deleted(json!("x")));
    let applied = client.patch(&apply("&dryRun=All"), "apply-patch+yaml", map.clone()).await;
    assert_eq!(marks(&applied), deleted(json!("x")));
    assert_eq!(marks(&client.json("PUT", &lease_path, &lease).await), deleted(Value::Null));
    let applied = client.patch(&apply(""), "apply-patch+yaml", map).await;
    assert_eq!(marks(&applied), deleted(Value::Null));
    // They are not in the way of their deletion.
    for path in [lease_path, map_path] {
        assert_eq!(client.send("DELETE", &path, "application/json", "").await.code, 200);
        assert_eq!(client.send("GET", &path, "application/json", "").await.code, 404);
    }
}
