//! Who may what, with the policies that a cluster runs with: over a store whose replica may be behind.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use parking_lot::Mutex;
use rcgen::KeyPair;
use serde_json::{Value, json};
use trireme_api::Object;
use trireme_apiserver::authn::{Chain, SecretTokens, ServiceAccountTokens, TokenFile};
use trireme_apiserver::policy::{PolicyAdmission, PolicyAuthorizer, bootstrap_roles};
use trireme_apiserver::{ApiServer, Config, Plugins};
use trireme_store::{Applied, Command, MemoryStore, Page, ReadError, Revision, Store, Watch, WriteError};

const ISSUER: &str = "https://kubernetes.default.svc";
const TOKENS: &str = "ADMIN,admin,u1,\"system:masters\"\nALICE,alice,u2\nNODE,system:node:n1,u3,\"system:nodes\"\n";

/// A replica that has not heard of some changes: until the next barrier it shows what stood before them.
struct Behind {
    store: Arc<MemoryStore>,
    shown: Mutex<HashMap<String, Option<Object>>>,
}

impl Behind {
    /// Another server does something that this one does not hear of yet.
    async fn elsewhere<F: Future<Output = ()>>(&self, key: &str, change: F) {
        let before = self.store.get(key);
        change.await;
        self.shown.lock().insert(key.to_owned(), before);
    }
}

#[async_trait::async_trait]
impl Store for Behind {
    async fn commit(&self, command: Command) -> Result<Applied, WriteError> {
        let applied = self.store.commit(command).await;
        self.shown.lock().clear();
        applied
    }

    async fn barrier(&self) -> Result<Revision, WriteError> {
        self.shown.lock().clear();
        self.store.barrier().await
    }

    fn get(&self, key: &str) -> Option<Object> {
        let shown = self.shown.lock().get(key).cloned();
        shown.unwrap_or_else(|| self.store.get(key))
    }

    fn range(&self, prefix: &str, after: Option<&str>, limit: Option<usize>, at: Option<Revision>) -> Result<Page, ReadError> {
        self.store.range(prefix, after, limit, at)
    }

    fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watch>, ReadError> {
        self.store.watch(prefix, after)
    }

    fn revision(&self) -> Revision {
        self.store.revision()
    }

    async fn reached(&self, revision: Revision) {
        self.store.reached(revision).await;
    }
}

struct Fixture {
    /// A server whose replica may be behind.
    server: Arc<ApiServer>,
    /// Another one of the same cluster, which is not.
    other: Arc<ApiServer>,
    behind: Arc<Behind>,
    signer: SecretTokens,
}

fn build(store: Arc<dyn Store>, key: &KeyPair) -> Arc<ApiServer> {
    let audiences = vec![ISSUER.to_owned()];
    let accounts = ServiceAccountTokens::new(&key.serialize_pem(), key.public_key_raw(), ISSUER, audiences, &store).unwrap();
    let accounts = Arc::new(accounts);
    let authorizer = PolicyAuthorizer::start(Arc::clone(&store));
    let plugins = Plugins {
        authorizer: Arc::clone(&authorizer) as _,
        admission: Arc::new(PolicyAdmission::new(authorizer)),
        authenticator: Arc::new(Chain::new(vec![
            Arc::new(TokenFile::parse(TOKENS).unwrap()),
            Arc::clone(&accounts) as _,
        ])),
        dialer: None,
        tokens: Some(accounts),
        metrics: None,
        extension: None,
    };
    ApiServer::build(Config::default(), store, plugins)
}

impl Fixture {
    async fn start() -> Self {
        let store = MemoryStore::new();
        let behind = Arc::new(Behind {
            store: Arc::clone(&store),
            shown: Mutex::default(),
        });
        let key = KeyPair::generate().unwrap();
        let server = build(Arc::clone(&behind) as _, &key);
        bootstrap_roles(&server).await.unwrap();
        server.bootstrap().await.unwrap();
        // The authoriser learns of roles by its watch.
        let review = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
        while call(&server, "ALICE", "POST", review, json!({})).await.0 != 201 {
            tokio::task::yield_now().await;
        }
        Self {
            other: build(store, &key),
            signer: SecretTokens::new(&key.serialize_pem(), key.public_key_raw()).unwrap(),
            server,
            behind,
        }
    }

    async fn admin(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        call(&self.server, "ADMIN", method, path, body).await
    }

    async fn other(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        call(&self.other, "ADMIN", method, path, body).await
    }
}

async fn call(server: &Arc<ApiServer>, token: &str, method: &str, path: &str, body: Value) -> (u16, Value) {
    let (code, bytes) = call_as(server, token, (method, path), "application/json", body).await;
    (code, serde_json::from_slice(&bytes).unwrap_or_default())
}

/// What comes of a body of some media type.
async fn send(server: &Arc<ApiServer>, token: &str, (method, media_type): (&str, &str), path: &str, body: Value) -> (u16, Value) {
    let headers = [("accept", "application/json"), ("content-type", media_type)];
    let (code, bytes) = exchange(server, token, (method, path), headers, body).await;
    (code, serde_json::from_slice(&bytes).unwrap_or_default())
}

/// What comes back, a watch up to its end.
async fn call_as(server: &Arc<ApiServer>, token: &str, asked: (&str, &str), accept: &str, body: Value) -> (u16, Bytes) {
    let headers = [("accept", accept), ("content-type", "application/json")];
    exchange(server, token, asked, headers, body).await
}

async fn exchange(
    server: &Arc<ApiServer>,
    token: &str,
    (method, path): (&str, &str),
    headers: [(&str, &str); 2],
    body: Value,
) -> (u16, Bytes) {
    let body = if body.is_null() {
        Bytes::new()
    } else {
        body.to_string().into()
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("authorization", format!("Bearer {token}"));
    let request = headers
        .iter()
        .fold(request, |request, (name, value)| request.header(*name, *value));
    let response = server.handle(request.body(Full::new(body)).unwrap()).await;
    let code = response.status().as_u16();
    (code, response.into_body().collect().await.unwrap().to_bytes())
}

/// For network policies a node sees where the pods of all nodes are and what they are called, by a right of its own.
#[tokio::test]
async fn a_node_sees_of_other_nodes_pods_what_policies_need_and_no_more() {
    let fixture = Fixture::start().await;
    let pod = json!({"metadata": {"name": "p", "labels": {"app": "a"}, "annotations": {"note": "hidden"}},
        "spec": {"nodeName": "n2", "containers": [{"name": "c", "image": "hidden", "env": [{"name": "A", "value": "hidden"}],
            "ports": [{"name": "web", "containerPort": 80}]}]}});
    let pods = "/api/v1/namespaces/default/pods";
    let account = json!({"metadata": {"name": "default"}});
    let (code, _) = fixture
        .admin("POST", "/api/v1/namespaces/default/serviceaccounts", account)
        .await;
    assert_eq!(code, 201);
    let (code, answer) = fixture.admin("POST", pods, pod).await;
    assert_eq!(code, 201, "{answer}");
    let peers = "application/json;as=Peers;g=trireme;v=v1,application/json";
    let all = "/api/v1/pods";
    let watch = "/api/v1/pods?watch=1&resourceVersion=0&timeoutSeconds=1";
    for path in [all, watch] {
        let (code, text) = call_as(&fixture.server, "NODE", ("GET", path), peers, Value::Null).await;
        let text = String::from_utf8(text.to_vec()).unwrap();
        assert!(
            code == 200 && text.contains("\"nodeName\":\"n2\"") && text.contains("\"web\""),
            "{code} {text}"
        );
        assert!(!text.contains("hidden"), "{text}");
        // The shape that is answered is the one that was judged: no order of clauses shows more.
        for accept in [
            "application/json",
            "application/json,application/json;q=0.5;as=Peers;g=trireme;v=v1",
        ] {
            let (code, _) = call_as(&fixture.server, "NODE", ("GET", path), accept, Value::Null).await;
            assert_eq!(code, 403, "{path} as {accept}");
        }
        let (code, _) = call_as(&fixture.server, "ALICE", ("GET", path), peers, Value::Null).await;
        assert_eq!(code, 403, "not everybody's");
    }
    let one = format!("{pods}/p");
    for (method, path) in [("GET", one.as_str()), ("DELETE", all), ("DELETE", pods)] {
        let (code, _) = call_as(&fixture.server, "NODE", (method, path), peers, Value::Null).await;
        assert_ne!(code, 200, "{method} {path}");
    }
    for path in ["/apis/networking.k8s.io/v1/networkpolicies", "/api/v1/namespaces"] {
        assert_eq!(call(&fixture.server, "NODE", "GET", path, Value::Null).await.0, 200, "{path}");
    }
}

const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles";

/// A stock API server answers these so. What a node sends whole is held against it where others changed taints or labels since,
/// before it is late; so a kubelet sends what differs.
#[tokio::test]
async fn a_node_that_says_what_differs_is_not_refused_for_what_others_change() {
    let fixture = Fixture::start().await;
    let server = &fixture.server;
    let node = async |method: &str, media_type: &str, path: &str, body: Value| {
        send(server, "NODE", (method, media_type), path, body).await
    };
    let merge = ("PATCH", "application/merge-patch+json");
    const WHOLE: &str = "application/json";
    const DIFFERENCE: &str = "application/strategic-merge-patch+json";
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    fixture
        .admin("POST", accounts, json!({"metadata": {"name": "default"}}))
        .await;
    let tainted = json!({"metadata": {"name": "n1"}, "spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}});
    assert_eq!(fixture.admin("POST", "/api/v1/nodes", tainted).await.0, 201);
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]}});
    let (code, answer) = fixture.admin("POST", "/api/v1/namespaces/default/pods", pod).await;
    assert_eq!(code, 201, "{answer}");
    for (plural, path, change, why, said) in [
        (
            "nodes",
            "/api/v1/nodes/n1",
            json!({"spec": {"taints": null}}),
            "nodes \"n1\" is forbidden: node \"n1\" is not allowed to modify taints",
            json!({"conditions": [{"type": "Ready", "status": "True"}]}),
        ),
        (
            "pods",
            "/api/v1/namespaces/default/pods/p",
            json!({"metadata": {"labels": {"x": "y"}}}),
            "pods \"p\" is forbidden: node \"n1\" cannot update labels through pod status",
            json!({"phase": "Running"}),
        ),
    ] {
        let (_, late) = fixture.admin("GET", path, Value::Null).await;
        assert_eq!(send(server, "ADMIN", merge, path, change).await.0, 200);
        let status = format!("{path}/status");
        let (code, answer) = node("PUT", WHOLE, &status, late.clone()).await;
        assert_eq!((code, &answer["message"]), (403, &json!(why)), "{plural}");
        let (code, _) = fixture.admin("PUT", &status, late.clone()).await;
        assert_eq!(code, 409, "{plural}");
        let metadata = json!({"uid": late["metadata"]["uid"], "resourceVersion": late["metadata"]["resourceVersion"]});
        let (code, answer) = node("PATCH", DIFFERENCE, &status, json!({"metadata": metadata, "status": said})).await;
        assert_eq!((code, &answer["reason"]), (409, &json!("Conflict")), "{plural}: {answer}");
        let metadata = json!({"uid": late["metadata"]["uid"]});
        let (code, answer) = node("PATCH", DIFFERENCE, &status, json!({"metadata": metadata, "status": said})).await;
        assert_eq!(code, 200, "{plural}: {answer}");
        let (_, found) = fixture.admin("GET", path, Value::Null).await;
        assert_eq!(found["spec"]["taints"], Value::Null, "{plural}");
        assert_eq!(found["status"], answer["status"], "{plural}");
    }
}

#[tokio::test]
async fn a_namespace_made_at_one_server_is_there_at_the_next_at_once() {
    let fixture = Fixture::start().await;
    let make = |name: &'static str| fixture.other("POST", "/api/v1/namespaces", json!({"metadata": {"name": name}}));
    let map = json!({"metadata": {"name": "m"}});
    for (name, query) in [("a", ""), ("b", "?dryRun=All")] {
        let key = format!("/namespaces//{name}");
        let change = async { assert_eq!(make(name).await.0, 201) };
        fixture.behind.elsewhere(&key, change).await;
        assert!(fixture.behind.get(&key).is_none(), "this replica does not know of it");
        let path = format!("/api/v1/namespaces/{name}/configmaps{query}");
        let (code, answer) = fixture.admin("POST", &path, map.clone()).await;
        assert_eq!(code, 201, "{answer}");
    }
    let (code, answer) = fixture.admin("POST", "/api/v1/namespaces/never/configmaps", map).await;
    assert_eq!((code, &answer["message"]), (404, &json!("namespaces \"never\" not found")));
}

#[tokio::test]
async fn nothing_is_created_in_a_namespace_that_is_being_deleted_elsewhere() {
    let fixture = Fixture::start().await;
    for (name, query) in [("a", ""), ("b", "?dryRun=All")] {
        let body = json!({"metadata": {"name": name}});
        assert_eq!(fixture.admin("POST", "/api/v1/namespaces", body).await.0, 201);
        let (key, one) = (format!("/namespaces//{name}"), format!("/api/v1/namespaces/{name}"));
        let change = async { assert_eq!(fixture.other("DELETE", &one, Value::Null).await.0, 200) };
        fixture.behind.elsewhere(&key, change).await;
        assert!(
            !fixture.behind.get(&key).unwrap().header().deleting,
            "this replica does not know of it"
        );
        let map = json!({"metadata": {"name": "m"}});
        let (code, answer) = fixture.admin("POST", &format!("{one}/configmaps{query}"), map).await;
        let why = format!(
            "configmaps \"m\" is forbidden: unable to create new content in namespace {name} because it is being terminated"
        );
        assert_eq!((code, &answer["message"]), (403, &json!(why)), "{answer}");
        let cause = json!({"reason": "NamespaceTerminating", "message": format!("namespace {name} is being terminated"),
            "field": "metadata.namespace"});
        assert_eq!(answer["details"]["causes"], json!([cause]));
        assert!(fixture.behind.get(&format!("/configmaps/{name}/m")).is_none());
    }
}

#[tokio::test]
async fn bootstrap_roles_that_are_there_gain_what_they_lack() {
    let fixture = Fixture::start().await;
    let cut = |mut role: Value| {
        role["rules"] = json!([{"verbs": ["get"], "apiGroups": ["example.com"], "resources": ["own"]}]);
        role
    };
    let ours = "system:node-problem-detector";
    let guarded = "system:node-bootstrapper";
    for name in [ours, guarded] {
        let (_, role) = fixture.admin("GET", &format!("{ROLES}/{name}"), Value::Null).await;
        let mut role = cut(role);
        if name == guarded {
            role["metadata"]["annotations"]["rbac.authorization.kubernetes.io/autoupdate"] = json!("false");
        }
        assert_eq!(fixture.admin("PUT", &format!("{ROLES}/{name}"), role).await.0, 200);
    }
    let binding = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/cluster-admin";
    let (_, mut bound) = fixture.admin("GET", binding, Value::Null).await;
    bound["subjects"] = json!([{"kind": "User", "name": "root", "apiGroup": "rbac.authorization.k8s.io"}]);
    assert_eq!(fixture.admin("PUT", binding, bound).await.0, 200);
    let (_, view) = fixture.admin("GET", &format!("{ROLES}/view"), Value::Null).await;
    assert!(view["rules"].as_array().unwrap().len() > 3, "filled from the first moment");

    bootstrap_roles(&fixture.server).await.unwrap();
    let (_, role) = fixture.admin("GET", &format!("{ROLES}/{ours}"), Value::Null).await;
    let rules = role["rules"].as_array().unwrap();
    assert_eq!(rules[0]["resources"], json!(["own"]), "what it has more stays");
    assert!(
        rules.iter().any(|rule| rule["resources"] == json!(["nodes/status"])),
        "{role}"
    );
    let (_, role) = fixture.admin("GET", &format!("{ROLES}/{guarded}"), Value::Null).await;
    assert_eq!(role["rules"].as_array().unwrap().len(), 1);
    let (_, bound) = fixture.admin("GET", binding, Value::Null).await;
    let names: Vec<&Value> = bound["subjects"]
        .as_array()
        .unwrap()
        .iter()
        .map(|subject| &subject["name"])
        .collect();
    assert_eq!(names, [&json!("root"), &json!("system:masters")]);
    let (_, same) = fixture.admin("GET", &format!("{ROLES}/view"), Value::Null).await;
    assert_eq!(same, view, "what is whole is not written");
}

#[tokio::test]
async fn the_issuers_document_names_the_algorithm_of_its_keys() {
    let fixture = Fixture::start().await;
    let (_, document) = fixture.admin("GET", "/.well-known/openid-configuration", Value::Null).await;
    let (_, keys) = fixture.admin("GET", "/openid/v1/jwks", Value::Null).await;
    assert_eq!(document["id_token_signing_alg_values_supported"], json!(["ES256"]));
    assert_eq!(keys["keys"][0]["alg"], "ES256");
}

#[tokio::test]
async fn an_aggregated_role_is_made_by_who_holds_everything() {
    let fixture = Fixture::start().await;
    let writes =
        json!({"verbs": ["create", "update"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"]});
    let role = json!({"metadata": {"name": "writer"}, "rules": [writes]});
    assert_eq!(fixture.admin("POST", ROLES, role).await.0, 201);
    let binding = json!({"metadata": {"name": "writer"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "writer"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "alice"}]});
    let bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    assert_eq!(fixture.admin("POST", bindings, binding).await.0, 201);
    let gathering = json!({"metadata": {"name": "all"}, "rules": [],
        "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"kubernetes.io/bootstrapping": "rbac-defaults"}}]}});
    let why = json!(
        "clusterroles.rbac.authorization.k8s.io \"all\" is forbidden: must have cluster-admin privileges to use the aggregationRule"
    );
    // The authoriser learns of the binding by its watch.
    let (code, answer) = loop {
        let answer = call(&fixture.server, "ALICE", "POST", ROLES, gathering.clone()).await;
        if !answer.1["message"]
            .as_str()
            .is_some_and(|message| message.contains("cannot create resource"))
        {
            break answer;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!((code, &answer["message"]), (403, &why));
    assert_eq!(fixture.admin("POST", ROLES, gathering).await.0, 201);
}

#[tokio::test]
async fn a_node_reads_no_secret_by_a_mirror_pod() {
    let fixture = Fixture::start().await;
    let (_, node) = fixture
        .admin("POST", "/api/v1/nodes", json!({"metadata": {"name": "n1"}}))
        .await;
    let secrets = "/api/v1/namespaces/kube-system/secrets";
    assert_eq!(
        fixture.admin("POST", secrets, json!({"metadata": {"name": "key"}})).await.0,
        201
    );
    let owner = json!({"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": node["metadata"]["uid"], "controller": true});
    let mirror = |spec: Value| {
        let mut pod = json!({"metadata": {"name": "m", "annotations": {"kubernetes.io/config.mirror": "x"}, "ownerReferences": [owner]},
            "spec": {"nodeName": "n1", "containers": [{"name": "main", "image": "a:1"}]}});
        for (key, value) in spec.as_object().unwrap() {
            pod["spec"][key] = value.clone();
        }
        pod
    };
    let pods = "/api/v1/namespaces/kube-system/pods";
    for (spec, why) in [
        (
            json!({"containers": [{"name": "main", "image": "a:1", "envFrom": [{"secretRef": {"name": "key"}}]}]}),
            "a mirror pod may not reference secrets",
        ),
        (
            json!({"imagePullSecrets": [{"name": "key"}]}),
            "a mirror pod may not reference secrets",
        ),
        // The older name of the field means the same.
        (
            json!({"serviceAccount": "default"}),
            "a mirror pod may not reference service accounts",
        ),
    ] {
        let (code, answer) = call(&fixture.server, "NODE", "POST", pods, mirror(spec)).await;
        assert_eq!(
            (code, &answer["message"]),
            (403, &json!(format!("pods \"m\" is forbidden: {why}")))
        );
    }
    let (code, answer) = call(&fixture.server, "NODE", "POST", pods, mirror(json!({}))).await;
    assert_eq!(code, 201, "{answer}");
    // Even one that somebody else lets refer to it opens nothing.
    let key = "/pods/kube-system/m";
    let mut pod = fixture.behind.get(key).unwrap().value();
    pod["spec"]["imagePullSecrets"] = json!([{"name": "key"}]);
    fixture.behind.shown.lock().clear();
    let write = trireme_store::Write {
        key: key.into(),
        precondition: trireme_store::Precondition::None,
        operation: trireme_store::Operation::Put {
            body: trireme_store::Body::new(pod),
            ttl_seconds: None,
        },
    };
    let command = Command::Transaction {
        writes: vec![write],
        now_ms: 0,
        fence: None,
        guards: Vec::new(),
    };
    fixture.behind.commit(command).await.unwrap();
    let (code, answer) = call(&fixture.server, "NODE", "GET", &format!("{secrets}/key"), Value::Null).await;
    assert_eq!(code, 403, "{answer}");
    assert!(
        answer["message"]
            .as_str()
            .unwrap()
            .ends_with("no relationship found between node 'n1' and this object")
    );
}

#[tokio::test]
async fn the_token_of_a_secret_counts_while_the_secret_holds_it() {
    let fixture = Fixture::start().await;
    let base = "/api/v1/namespaces/default";
    let account = json!({"metadata": {"name": "robot"}});
    let (_, account) = fixture.admin("POST", &format!("{base}/serviceaccounts"), account).await;
    let uid = account["metadata"]["uid"].as_str().unwrap();
    let token = fixture.signer.sign("default", "s", "robot", uid).unwrap();
    let review = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let whoami = || call(&fixture.server, &token, "POST", review, json!({}));
    assert_eq!(whoami().await.0, 401, "no such Secret");

    let held = |token: &str| {
        json!({"metadata": {"name": "s", "annotations": {"kubernetes.io/service-account.name": "robot"}},
            "type": "kubernetes.io/service-account-token", "data": {"token": STANDARD.encode(token)}})
    };
    assert_eq!(fixture.admin("POST", &format!("{base}/secrets"), held(&token)).await.0, 201);
    let (code, who) = whoami().await;
    assert_eq!(code, 201, "{who}");
    let user = &who["status"]["userInfo"];
    assert_eq!(
        (&user["username"], &user["uid"]),
        (&json!("system:serviceaccount:default:robot"), &json!(uid))
    );
    let groups = json!([
        "system:serviceaccounts",
        "system:serviceaccounts:default",
        "system:authenticated"
    ]);
    assert_eq!((&user["groups"], &user["extra"]), (&groups, &Value::Null));

    let secret = format!("{base}/secrets/s");
    let (_, mut labelled) = fixture.admin("GET", &secret, Value::Null).await;
    labelled["metadata"]["labels"] = json!({"kubernetes.io/legacy-token-invalid-since": "2026-01-01"});
    assert_eq!(fixture.admin("PUT", &secret, labelled).await.0, 200);
    assert_eq!(whoami().await.0, 401, "marked invalid");
    assert_eq!(fixture.admin("PUT", &secret, held(&format!("{token}x"))).await.0, 200);
    assert_eq!(whoami().await.0, 401, "another token");
    assert_eq!(fixture.admin("PUT", &secret, held(&token)).await.0, 200);
    assert_eq!(whoami().await.0, 201);
    assert_eq!(
        fixture
            .admin("DELETE", &format!("{base}/serviceaccounts/robot"), Value::Null)
            .await
            .0,
        200
    );
    assert_eq!(whoami().await.0, 401, "the account is gone");
}
