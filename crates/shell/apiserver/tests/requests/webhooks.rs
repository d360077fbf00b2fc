//! Admission webhooks over real TLS on loopback: which requests they meet, in which order, what they are sent, and what their
//! answers do.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use serde_json::{Value, json};
use trireme_apiserver::{ApiServer, Config, NodeDialer, NodeEndpoint, NodeStream};

use crate::common::{Answer, call, made, send, server};

const REGISTRATION: &str = "/apis/admissionregistration.k8s.io/v1";
const CONFIGMAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

/// What a webhook does with a review.
enum Reply {
    /// Answers with these members of a response.
    Response(Value),
    /// Answers something else.
    Raw(u16, &'static str),
    /// Sends the caller elsewhere.
    Moved,
    /// Never answers.
    Hang,
    /// Closes the connection.
    Gone,
}

type Decide = dyn Fn(&str, &Value) -> Reply + Send + Sync;

/// A server of webhooks.
struct Backend {
    address: SocketAddr,
    ca: String,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
    connections: Arc<Mutex<usize>>,
}

fn allow() -> Reply {
    Reply::Response(json!({"allowed": true}))
}

fn deny(message: &str) -> Reply {
    Reply::Response(json!({"allowed": false, "status": {"message": message}}))
}

fn patch(operations: &Value) -> Reply {
    let patch = STANDARD.encode(operations.to_string());
    Reply::Response(json!({"allowed": true, "patch": patch, "patchType": "JSONPatch"}))
}

impl Backend {
    async fn start(decide: impl Fn(&str, &Value) -> Reply + Send + Sync + 'static) -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let names = ["127.0.0.1", "hooks.default.svc"].map(str::to_owned);
        let certificate = CertificateParams::new(names.to_vec()).unwrap().signed_by(&key, &ca).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            )
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let backend = Self {
            address: listener.local_addr().unwrap(),
            ca: ca.pem(),
            asked: Arc::default(),
            connections: Arc::default(),
        };
        let (asked, connections) = (Arc::clone(&backend.asked), Arc::clone(&backend.connections));
        let decide: Arc<Decide> = Arc::new(decide);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, asked, decide) = (acceptor.clone(), Arc::clone(&asked), Arc::clone(&decide));
                *connections.lock().unwrap() += 1;
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(|request| answer(Arc::clone(&asked), Arc::clone(&decide), request));
                    let serving = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                    drop(serving.await);
                });
            }
        });
        backend
    }

    /// The configuration of a client that reaches it by its address.
    fn at(&self, path: &str) -> Value {
        json!({"url": format!("https://{}{path}", self.address), "caBundle": STANDARD.encode(&self.ca)})
    }

    /// Paths and reviews since the last time.
    fn asked(&self) -> Vec<(String, Value)> {
        let mut asked = std::mem::take(&mut *self.asked.lock().unwrap());
        asked.retain(|(path, _)| !path.starts_with("/marker"));
        asked
    }
}

async fn answer(
    asked: Arc<Mutex<Vec<(String, Value)>>>,
    decide: Arc<Decide>,
    request: Request<hyper::body::Incoming>,
) -> Result<Response<Full<Bytes>>, std::io::Error> {
    let path = request.uri().to_string();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let review: Value = serde_json::from_slice(&body).unwrap();
    asked.lock().unwrap().push((path.clone(), review.clone()));
    let place = path.split('?').next().unwrap_or_default();
    let reply = match place {
        "/marker" => deny("here"),
        place => decide(place, &review["request"]),
    };
    let answer = Response::builder();
    Ok(match reply {
        Reply::Response(mut response) => {
            response["uid"] = review["request"]["uid"].clone();
            let review = json!({"apiVersion": review["apiVersion"], "kind": "AdmissionReview", "response": response});
            answer
                .header("content-type", "application/json")
                .body(Full::new(review.to_string().into()))
        }
        Reply::Raw(code, text) => answer
            .status(code)
            .header("content-type", "text/plain")
            .body(Full::new(text.into())),
        Reply::Moved => answer.status(307).header("location", "/allow").body(Full::default()),
        Reply::Hang => std::future::pending().await,
        Reply::Gone => return Err(std::io::Error::other("gone")),
    }
    .unwrap())
}

/// A webhook for everything that is done to some resources.
fn hook(name: &str, client: Value, resources: &[&str]) -> Value {
    json!({
        "name": format!("{name}.example.com"), "clientConfig": client, "admissionReviewVersions": ["v1"], "sideEffects": "None",
        "rules": [{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": resources}],
    })
}

fn with(mut hook: Value, member: &str, value: Value) -> Value {
    hook[member] = value;
    hook
}

/// Stores configurations and waits until the server follows them.
async fn configured(server: &Arc<ApiServer>, backend: &Backend, configurations: &[(&str, &str, Vec<Value>)]) {
    for (kind, name, hooks) in configurations {
        let configuration = json!({"metadata": {"name": name}, "webhooks": hooks});
        made(
            server,
            "POST",
            &format!("{REGISTRATION}/{kind}webhookconfigurations"),
            configuration,
        )
        .await;
    }
    let marker = with(
        hook("marker", backend.at("/marker"), &["secrets"]),
        "objectSelector",
        json!({"matchLabels": {"marker": "yes"}}),
    );
    let configuration = json!({"metadata": {"name": "zz-marker"}, "webhooks": [marker]});
    let place = format!("{REGISTRATION}/validatingwebhookconfigurations");
    made(server, "POST", &place, configuration).await;
    let secret = json!({"metadata": {"name": "marker", "labels": {"marker": "yes"}}});
    for _ in 0..500 {
        let answer = call(
            server,
            "POST",
            "/api/v1/namespaces/default/secrets?dryRun=All",
            secret.clone(),
        )
        .await;
        if answer.code != 201 {
            assert!(answer.text.contains("denied the request: here"), "{}", answer.text);
            backend.asked();
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the configuration is not followed");
}

fn config_map(name: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"a": "b"}})
}

fn message(answer: &Answer) -> (u16, &str) {
    (answer.code, answer.body["message"].as_str().unwrap_or_default())
}

#[tokio::test]
async fn a_webhook_refuses_each_kind_of_write_and_sees_it_as_upstreams_do() {
    let backend = Backend::start(|_, request| {
        if request["name"] == "never" || request["oldObject"]["data"]["keep"] == "yes" {
            return deny("no way");
        }
        allow()
    })
    .await;
    let server = server(Config::default(), None).await;
    let hooks = vec![hook("v", backend.at("/v/"), &["configmaps"])];
    configured(&server, &backend, &[("validating", "v", hooks)]).await;

    let refused = call(&server, "POST", CONFIGMAPS, config_map("never")).await;
    let text = "admission webhook \"v.example.com\" denied the request: no way";
    assert_eq!(message(&refused), (400, text), "{}", refused.text);
    assert_eq!(refused.body.get("reason"), None);
    backend.asked();

    let created = made(&server, "POST", &format!("{CONFIGMAPS}?fieldManager=me"), config_map("a")).await;
    let asked = backend.asked();
    let [(path, review)] = asked.as_slice() else {
        panic!("one review: {asked:?}")
    };
    assert_eq!(path, "/v?timeout=10s");
    let request = &review["request"];
    assert_eq!(request["object"]["metadata"]["uid"], created["metadata"]["uid"]);
    assert_eq!((&request["oldObject"], &request["dryRun"]), (&Value::Null, &json!(false)));
    assert_eq!(
        request["options"],
        json!({"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1", "fieldManager": "me"})
    );
    assert_eq!(request["userInfo"]["username"], "admin");
    assert_eq!(request["kind"], json!({"group": "", "version": "v1", "kind": "ConfigMap"}));
    assert_eq!(
        (&request["name"], &request["namespace"], &request["operation"]),
        (&json!("a"), &json!("default"), &json!("CREATE"))
    );

    let one = format!("{CONFIGMAPS}/a");
    let keep = json!({"data": {"keep": "yes"}});
    let merge = [("content-type", "application/merge-patch+json")];
    let patched = send(&server, "PATCH", &one, &merge, keep.to_string().into()).await;
    assert_eq!(patched.code, 200, "{}", patched.text);
    let asked = backend.asked();
    let request = &asked[0].1["request"];
    assert_eq!(
        (&request["operation"], &request["options"]["kind"]),
        (&json!("UPDATE"), &json!("UpdateOptions"))
    );
    assert_eq!(request["oldObject"]["data"], json!({"a": "b"}));
    assert_eq!(request["object"]["data"], json!({"a": "b", "keep": "yes"}));

    for (method, path) in [("PUT", one.as_str()), ("DELETE", one.as_str()), ("DELETE", CONFIGMAPS)] {
        let body = if method == "PUT" { config_map("a") } else { Value::Null };
        let refused = call(&server, method, path, body).await;
        assert_eq!(message(&refused), (400, text), "{method} {path}");
    }
    let asked = backend.asked();
    let names: Vec<(&Value, &Value, &Value)> = asked
        .iter()
        .map(|(_, review)| {
            let request = &review["request"];
            (&request["operation"], &request["name"], &request["object"])
        })
        .collect();
    assert_eq!(names[1], (&json!("DELETE"), &json!("a"), &Value::Null));
    assert_eq!(
        names[2],
        (&json!("DELETE"), &Value::Null, &Value::Null),
        "a collection has no name"
    );
    assert_eq!(
        *backend.connections.lock().unwrap(),
        2,
        "connections are kept: one for each place"
    );
}

#[tokio::test]
async fn mutating_webhooks_work_in_order_and_again_where_they_want_it() {
    let backend = Backend::start(|path, request| {
        let data = &request["object"]["data"];
        let add = |name: &str, value: &str| patch(&json!([{"op": "add", "path": format!("/data/{name}"), "value": value}]));
        match path {
            // Says how often it was asked, so it always changes the object.
            "/count" => add("count", &format!("{}+", data["count"].as_str().unwrap_or_default())),
            "/after" if data["count"].is_string() => add("after", data["count"].as_str().unwrap_or_default()),
            "/uid" => {
                assert_eq!(request["object"]["metadata"].get("uid"), None);
                patch(&json!([{"op": "add", "path": "/metadata/uid", "value": "mine"}, {"op": "add", "path": "/unknown", "value": 1}]))
            }
            "/warn" => Reply::Response(json!({"allowed": true, "warnings": ["beware", "beware", "of \"this\""]})),
            "/see" if data["after"] == "+" && data["count"] == "++" => deny("seen"),
            _ => allow(),
        }
    })
    .await;
    let server = server(Config::default(), None).await;
    let maps: &[&str] = &["configmaps"];
    let again = |hook| with(hook, "reinvocationPolicy", json!("IfNeeded"));
    let see = with(
        hook("see", backend.at("/see"), maps),
        "objectSelector",
        json!({"matchLabels": {"see": "yes"}}),
    );
    configured(
        &server,
        &backend,
        &[
            ("mutating", "b", vec![hook("after", backend.at("/after"), maps)]),
            (
                "mutating",
                "a",
                vec![
                    again(hook("count", backend.at("/count"), maps)),
                    hook("uid", backend.at("/uid"), maps),
                ],
            ),
            ("validating", "v", vec![hook("warn", backend.at("/warn"), maps), see]),
        ],
    )
    .await;
    let answer = call(&server, "POST", CONFIGMAPS, config_map("a")).await;
    assert_eq!(answer.code, 201, "{}", answer.text);
    assert_eq!(answer.body["data"], json!({"a": "b", "count": "++", "after": "+"}));
    assert_ne!(answer.body["metadata"]["uid"], "mine");
    let warnings: Vec<&str> = answer
        .headers
        .get_all("warning")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    assert_eq!(warnings, ["299 - \"beware\"", "299 - \"of \\\"this\\\"\""]);
    let order: Vec<String> = backend
        .asked()
        .into_iter()
        .map(|(path, _)| path.replace("?timeout=10s", ""))
        .collect();
    assert_eq!(order, ["/count", "/uid", "/after", "/count", "/warn"]);

    let mut other = config_map("b");
    other["metadata"]["labels"] = json!({"see": "yes"});
    let refused = call(&server, "POST", CONFIGMAPS, other).await;
    let warned = refused.headers.get("warning").is_some();
    assert_eq!((message(&refused).0, warned), (400, true), "{}", refused.text);
}

#[tokio::test]
async fn failures_are_told_in_upstreams_words_or_ignored() {
    let backend = Backend::start(|path, _| match path {
        "/hang" => Reply::Hang,
        "/gone" => Reply::Gone,
        "/moved" => Reply::Moved,
        "/busy" => Reply::Raw(500, "too bad"),
        "/nonsense" => Reply::Raw(200, "nonsense"),
        "/empty" => Reply::Raw(200, ""),
        "/unfit" => patch(&json!([{"op": "remove", "path": "/data/none"}])),
        "/broken" => patch(&json!({"op": "add"})),
        "/mistyped" => patch(&json!([{"op": "add", "path": "/data/number", "value": 1}])),
        _ => allow(),
    })
    .await;
    let server = server(Config::default(), None).await;
    let named = |name: &str, path: &str| {
        let mut client = backend.at(path);
        match name {
            "refused" => client["url"] = json!("https://127.0.0.1:1/allow"),
            "unknown" => client["caBundle"] = Value::Null,
            "named" => client["url"] = json!(format!("https://localhost:{}/allow", backend.address.port())),
            "service" => client = json!({"service": {"namespace": "default", "name": "none", "path": "/a"}}),
            _ => {}
        }
        client
    };
    let cases = [
        ("hang", "Post \"https://ADDRESS/hang?timeout=1s\": context deadline exceeded"),
        ("gone", "Post \"https://ADDRESS/gone?timeout=1s\": EOF"),
        (
            "moved",
            "the server responded with the status code 307 but did not return more information",
        ),
        (
            "busy",
            "an error on the server (\"too bad\") has prevented the request from succeeding",
        ),
        (
            "nonsense",
            "couldn't get version/kind; json parse error: invalid character 'o' in literal null (expecting 'u')",
        ),
        (
            "empty",
            "0-length response with status code: 200 and content type: text/plain",
        ),
        (
            "refused",
            "Post \"https://127.0.0.1:1/allow?timeout=1s\": dial tcp 127.0.0.1:1: connect: connection refused",
        ),
        (
            "unknown",
            "Post \"https://ADDRESS/unknown?timeout=1s\": tls: failed to verify certificate: x509: certificate signed by unknown \
             authority",
        ),
        (
            "named",
            "Post \"https://localhost:PORT/allow?timeout=1s\": tls: failed to verify certificate: x509: certificate is valid for \
             hooks.default.svc, not localhost",
        ),
        (
            "service",
            "Post \"https://none.default.svc:443/a?timeout=1s\": service \"none\" not found",
        ),
    ];
    let selected = |hook: Value, label: &str| {
        let hook = with(hook, "objectSelector", json!({"matchLabels": {"case": label}}));
        with(hook, "timeoutSeconds", json!(1))
    };
    let mut hooks = Vec::new();
    for (name, _) in &cases {
        let own = hook(name, named(name, &format!("/{name}")), &["configmaps"]);
        hooks.push(selected(own.clone(), name));
        let ignored = with(own, "name", json!(format!("{name}-ignored.example.com")));
        let ignored = selected(ignored, &format!("{name}-ignored"));
        hooks.push(with(ignored, "failurePolicy", json!("Ignore")));
    }
    for name in ["unfit", "broken", "mistyped"] {
        hooks.push(selected(hook(name, named(name, &format!("/{name}")), &["configmaps"]), name));
    }
    let mut validating = hooks.clone();
    validating.truncate(2 * cases.len());
    let validating = validating.into_iter().map(|mut hook| {
        let label = hook["objectSelector"]["matchLabels"]["case"].as_str().unwrap().to_owned();
        hook["objectSelector"]["matchLabels"]["case"] = json!(format!("v-{label}"));
        hook
    });
    configured(
        &server,
        &backend,
        &[("mutating", "m", hooks), ("validating", "v", validating.collect())],
    )
    .await;
    let labelled = |label: &str| {
        let mut map = config_map(label);
        map["metadata"]["labels"] = json!({"case": label});
        map
    };
    let (address, port) = (backend.address.to_string(), backend.address.port().to_string());
    for (name, why) in &cases {
        for label in [(*name).to_owned(), format!("v-{name}")] {
            let refused = call(&server, "POST", CONFIGMAPS, labelled(&label)).await;
            let why = why.replace("ADDRESS", &address).replace("PORT", &port);
            let text =
                format!("Internal error occurred: failed calling webhook \"{name}.example.com\": failed to call webhook: {why}");
            assert_eq!(message(&refused), (500, text.as_str()), "{label}");
            assert_eq!(refused.body["reason"], "InternalError");
            let ignored = call(&server, "POST", CONFIGMAPS, labelled(&format!("{label}-ignored"))).await;
            assert_eq!(ignored.code, 201, "{label}: {}", ignored.text);
        }
    }
    for (name, text) in [
        (
            "unfit",
            "Internal error occurred: error in remove for path: '/data/none': Unable to remove nonexistent key: none: missing value",
        ),
        (
            "mistyped",
            "Internal error occurred: json: cannot unmarshal number into Go struct field ConfigMap.data of type string",
        ),
    ] {
        let refused = call(&server, "POST", CONFIGMAPS, labelled(name)).await;
        assert_eq!(message(&refused), (500, text));
    }
    let broken = call(&server, "POST", CONFIGMAPS, labelled("broken")).await;
    assert!(
        message(&broken).1.starts_with(
            "Internal error occurred: failed calling webhook \"broken.example.com\": received undecodable patch in webhook response: "
        ),
        "{}",
        broken.text
    );
}

#[tokio::test]
async fn other_versions_subresources_and_connections_are_met() {
    let backend = Backend::start(|path, request| match path {
        "/v1" => {
            let version = request["object"]["apiVersion"].as_str();
            assert_eq!(version, Some("autoscaling/v1"), "{request}");
            patch(&json!([{"op": "replace", "path": "/spec/maxReplicas", "value": 7}]))
        }
        "/scale" => patch(&json!([{"op": "replace", "path": "/spec/replicas", "value": 5}])),
        "/binding" => deny("stay"),
        "/connect" | "/closed" => deny("closed"),
        _ => allow(),
    })
    .await;
    let server = server(Config::default(), None).await;
    let mut scalers = hook("hpa", backend.at("/v1"), &["horizontalpodautoscalers"]);
    scalers["rules"][0]["apiVersions"] = json!(["v1"]);
    configured(
        &server,
        &backend,
        &[
            (
                "mutating",
                "m",
                vec![scalers, hook("scale", backend.at("/scale"), &["deployments/scale"])],
            ),
            (
                "validating",
                "v",
                vec![
                    hook("binding", backend.at("/binding"), &["pods/binding"]),
                    hook(
                        "connect",
                        backend.at("/connect"),
                        &["pods/attach", "pods/exec", "pods/portforward", "pods/proxy", "services/proxy"],
                    ),
                    hook("scale", backend.at("/seen"), &["deployments/scale"]),
                    hook("review", backend.at("/closed"), &["selfsubjectaccessreviews"]),
                ],
            ),
        ],
    )
    .await;
    let scaler = json!({"metadata": {"name": "h"}, "spec": {"maxReplicas": 3,
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}}});
    let place = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    let scaler = made(&server, "POST", place, scaler).await;
    assert_eq!(
        (&scaler["apiVersion"], &scaler["spec"]["maxReplicas"]),
        (&json!("autoscaling/v2"), &json!(7))
    );
    let request = &backend.asked()[0].1["request"].clone();
    assert_eq!(request["kind"]["version"], "v1");
    assert_eq!(
        (&request["requestKind"]["version"], &request["requestResource"]["version"]),
        (&json!("v2"), &json!("v2"))
    );

    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let deployment = json!({"metadata": {"name": "d"},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": template}});
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    made(&server, "POST", deployments, deployment).await;
    let merge = [("content-type", "application/merge-patch+json")];
    let scaled = send(
        &server,
        "PATCH",
        &format!("{deployments}/d/scale"),
        &merge,
        r#"{"spec":{"replicas":2}}"#.into(),
    )
    .await;
    assert_eq!(
        (scaled.code, &scaled.body["spec"]["replicas"]),
        (200, &json!(5)),
        "{}",
        scaled.text
    );
    let asked = backend.asked();
    let seen: Vec<(&Value, &Value, &Value)> = asked
        .iter()
        .map(|(_, review)| {
            let request = &review["request"];
            (
                &request["kind"]["kind"],
                &request["object"]["spec"]["replicas"],
                &request["oldObject"]["spec"]["replicas"],
            )
        })
        .collect();
    let scale = json!("Scale");
    assert_eq!(seen, [(&scale, &json!(2), &json!(1)), (&scale, &json!(5), &json!(1))]);

    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    made(&server, "POST", PODS, pod).await;
    let review = json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let refused = call(
        &server,
        "POST",
        "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
        review,
    )
    .await;
    assert_eq!(
        message(&refused),
        (400, "admission webhook \"review.example.com\" denied the request: closed")
    );
    backend.asked();
    for (path, options) in [
        (
            "attach?stdin=true&container=c",
            json!({"kind": "PodAttachOptions", "stdin": true, "container": "c"}),
        ),
        (
            "exec?command=a&command=b&stdout=true",
            json!({"kind": "PodExecOptions", "stdout": true, "command": ["a", "b"]}),
        ),
        (
            "portforward?ports=80",
            json!({"kind": "PodPortForwardOptions", "ports": [80]}),
        ),
    ] {
        let refused = call(&server, "POST", &format!("{PODS}/p/{path}"), Value::Null).await;
        assert_eq!(
            message(&refused),
            (400, "admission webhook \"connect.example.com\" denied the request: closed"),
            "{path}"
        );
        let asked = backend.asked();
        let request = &asked[0].1["request"];
        let mut expected = options;
        expected["apiVersion"] = json!("v1");
        assert_eq!(request["object"], expected, "{path}");
        assert_eq!(request["kind"]["kind"], expected["kind"]);
        assert_eq!(
            (&request["operation"], &request["name"], &request["options"]),
            (&json!("CONNECT"), &json!("p"), &Value::Null)
        );
    }
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    let refused = call(&server, "POST", &format!("{PODS}/p/binding"), binding).await;
    assert_eq!(
        message(&refused),
        (400, "admission webhook \"binding.example.com\" denied the request: stay")
    );
    let asked = backend.asked();
    let request = &asked[0].1["request"];
    assert_eq!(
        (&request["object"]["kind"], &request["subResource"], &request["oldObject"]),
        (&json!("Binding"), &json!("binding"), &Value::Null)
    );
}

#[tokio::test]
async fn who_configures_admission_cannot_be_stopped_by_it() {
    let backend = Backend::start(|_, request| match request["resource"]["resource"].as_str() {
        Some("secrets") => allow(), // the marker is one
        _ => deny("all"),
    })
    .await;
    let server = server(Config::default(), None).await;
    let all = || vec![hook("all", backend.at("/all"), &["*/*"])];
    configured(&server, &backend, &[("validating", "all", all())]).await;
    assert_eq!(call(&server, "POST", CONFIGMAPS, config_map("a")).await.code, 400);
    made(
        &server,
        "POST",
        &format!("{REGISTRATION}/mutatingwebhookconfigurations"),
        json!({"metadata": {"name": "other"}, "webhooks": all()}),
    )
    .await;
    let place = format!("{REGISTRATION}/mutatingwebhookconfigurations/other");
    assert_eq!(call(&server, "DELETE", &place, Value::Null).await.code, 200);
    let place = format!("{REGISTRATION}/validatingwebhookconfigurations/all");
    assert_eq!(call(&server, "DELETE", &place, Value::Null).await.code, 200);
    for _ in 0..500 {
        if call(&server, "POST", CONFIGMAPS, config_map("a")).await.code == 201 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("a configuration that is gone is still followed");
}

/// Leads every address of the pod network to one backend.
struct Network(SocketAddr);

#[async_trait]
impl NodeDialer for Network {
    async fn connect(&self, _: &NodeEndpoint) -> std::io::Result<Box<dyn NodeStream>> {
        Err(std::io::ErrorKind::ConnectionRefused.into())
    }

    async fn connect_address(&self, address: SocketAddr) -> std::io::Result<Box<dyn NodeStream>> {
        assert_eq!(address, "10.42.0.9:8443".parse().unwrap());
        Ok(Box::new(tokio::net::TcpStream::connect(self.0).await?))
    }
}

#[tokio::test]
async fn a_service_is_reached_at_its_ready_endpoints() {
    let backend = Backend::start(|_, _| deny("reached")).await;
    let server = server(Config::default(), Some(Arc::new(Network(backend.address)))).await;
    let service = json!({"metadata": {"name": "hooks"}, "spec": {"ports": [{"name": "web", "port": 9443, "targetPort": 8443}]}});
    made(&server, "POST", "/api/v1/namespaces/default/services", service).await;
    let client = |port: u16| {
        json!({"service": {"namespace": "default", "name": "hooks", "port": port, "path": "/x"},
            "caBundle": STANDARD.encode(&backend.ca)})
    };
    let maps: &[&str] = &["configmaps"];
    let selected = |hook, label: &str| with(hook, "objectSelector", json!({"matchLabels": {"case": label}}));
    let hooks = vec![
        selected(hook("good", client(9443), maps), "good"),
        selected(hook("port", client(1), maps), "port"),
    ];
    configured(&server, &backend, &[("validating", "v", hooks)]).await;
    let labelled = |label: &str| {
        let mut map = config_map("a");
        map["metadata"]["labels"] = json!({"case": label});
        map
    };
    let failed = |name: &str, port: u16, why: &str| {
        format!(
            "Internal error occurred: failed calling webhook \"{name}.example.com\": failed to call webhook: Post \
             \"https://hooks.default.svc:{port}/x?timeout=10s\": {why}"
        )
    };
    let refused = call(&server, "POST", CONFIGMAPS, labelled("good")).await;
    let text = failed("good", 9443, "no endpoints available for service \"hooks\"");
    assert_eq!(message(&refused), (500, text.as_str()));
    let slice = json!({
        "metadata": {"name": "hooks-1", "labels": {"kubernetes.io/service-name": "hooks"}}, "addressType": "IPv4",
        "ports": [{"name": "web", "port": 8443}],
        "endpoints": [{"addresses": ["10.42.0.8"], "conditions": {"ready": false}}, {"addresses": ["10.42.0.9"]}],
    });
    made(
        &server,
        "POST",
        "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
        slice,
    )
    .await;
    let refused = call(&server, "POST", CONFIGMAPS, labelled("good")).await;
    let text = "admission webhook \"good.example.com\" denied the request: reached";
    assert_eq!(message(&refused), (400, text), "{}", refused.text);
    let refused = call(&server, "POST", CONFIGMAPS, labelled("port")).await;
    let text = failed("port", 1, "no service port 1 found for service \"hooks\"");
    assert_eq!(message(&refused), (500, text.as_str()));
}

#[tokio::test]
async fn selectors_and_conditions_keep_webhooks_out() {
    let backend = Backend::start(|path, _| deny(path)).await;
    let server = server(Config::default(), None).await;
    let maps: &[&str] = &["configmaps"];
    let condition = |text: &str| json!([{"name": "c", "expression": text}]);
    let mut named = hook("named", backend.at("/named"), maps);
    named["matchConditions"] = condition("object.metadata.name == 'named' && request.userInfo.username == 'admin'");
    let mut wrong = hook("wrong", backend.at("/wrong"), maps);
    wrong["matchConditions"] = condition("object.metadata.labels.wrong == 'yes'");
    wrong["objectSelector"] = json!({"matchExpressions": [{"key": "case", "operator": "Exists"}]});
    let mut allowed = hook("allowed", backend.at("/allowed"), maps);
    allowed["matchConditions"] = condition("!authorizer.requestResource.check('create').allowed()");
    let selected = with(
        hook("selected", backend.at("/selected"), maps),
        "namespaceSelector",
        json!({"matchLabels": {"watched": "yes"}}),
    );
    let mut spaces = hook("spaces", backend.at("/spaces"), &["namespaces"]);
    spaces["namespaceSelector"] = json!({"matchLabels": {"never": "yes"}});
    let mutating = vec![named, wrong.clone(), selected, spaces];
    configured(
        &server,
        &backend,
        &[("mutating", "m", mutating), ("validating", "v", vec![allowed])],
    )
    .await;

    made(&server, "POST", CONFIGMAPS, config_map("other")).await;
    let refused = call(&server, "POST", CONFIGMAPS, config_map("named")).await;
    assert_eq!(
        message(&refused),
        (400, "admission webhook \"named.example.com\" denied the request: /named")
    );
    let mut labelled = config_map("case");
    labelled["metadata"]["labels"] = json!({"case": "1"});
    let refused = call(&server, "POST", CONFIGMAPS, labelled).await;
    let text = "configmaps \"case\" is forbidden: expression 'object.metadata.labels.wrong == 'yes'' resulted in error: no such key: \
                wrong";
    assert_eq!(message(&refused), (403, text));

    made(
        &server,
        "POST",
        "/api/v1/namespaces",
        json!({"metadata": {"name": "watched", "labels": {"watched": "yes"}}}),
    )
    .await;
    let refused = call(&server, "POST", "/api/v1/namespaces/watched/configmaps", config_map("other")).await;
    assert_eq!(
        message(&refused),
        (
            400,
            "admission webhook \"selected.example.com\" denied the request: /selected"
        )
    );
    let never = json!({"metadata": {"name": "never", "labels": {"never": "yes"}}});
    let refused = call(&server, "POST", "/api/v1/namespaces", never).await;
    assert_eq!(
        message(&refused),
        (400, "admission webhook \"spaces.example.com\" denied the request: /spaces")
    );

    let metrics = call(&server, "GET", "/metrics", Value::Null).await.text;
    for line in [
        "apiserver_admission_webhook_rejection_count{name=\"named.example.com\",type=\"admit\",operation=\"CREATE\",\
         error_type=\"no_error\",rejection_code=\"400\"} 1",
        "apiserver_admission_webhook_request_total{name=\"named.example.com\",type=\"admit\",operation=\"CREATE\",code=\"400\",\
         rejected=\"true\"} 1",
        "apiserver_admission_match_condition_exclusions_total{name=\"allowed.example.com\",kind=\"webhook\",type=\"validating\",\
         operation=\"CREATE\"} 1",
    ] {
        assert!(metrics.lines().any(|own| own == line), "{line}: {metrics}");
    }
}

#[tokio::test]
async fn custom_resources_are_patched_and_pruned_in_each_version() {
    let backend = Backend::start(|path, request| match path {
        "/patch" => {
            assert_eq!(request["object"]["apiVersion"], "example.com/v1", "{request}");
            patch(&json!([
                {"op": "add", "path": "/spec/added", "value": "yes"},
                {"op": "add", "path": "/spec/unknown", "value": "pruned"},
            ]))
        }
        _ => allow(),
    })
    .await;
    let server = server(Config::default(), None).await;
    let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "added": {"type": "string"}, "own": {"type": "string", "default": "filled"}}}}}});
    let version = |name: &str, storage: bool| json!({"name": name, "served": true, "storage": storage, "schema": schema});
    let definition = json!({"metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"},
            "versions": [version("v1", true), version("v1beta1", false)]}});
    made(
        &server,
        "POST",
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
        definition,
    )
    .await;
    let mut hook = hook("cr", backend.at("/patch"), &["widgets"]);
    hook["rules"][0]["apiVersions"] = json!(["v1"]);
    configured(&server, &backend, &[("mutating", "m", vec![hook])]).await;
    for version in ["v1", "v1beta1"] {
        let place = format!("/apis/example.com/{version}/namespaces/default/widgets");
        let widget = json!({"apiVersion": format!("example.com/{version}"), "kind": "Widget", "metadata": {"name": version},
            "spec": {}});
        let mut answer = call(&server, "POST", &place, widget.clone()).await;
        for _ in 0..200 {
            if answer.code != 404 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            answer = call(&server, "POST", &place, widget.clone()).await;
        }
        assert_eq!(answer.code, 201, "{}", answer.text);
        assert_eq!(answer.body["apiVersion"], widget["apiVersion"]);
        assert_eq!(answer.body["spec"], json!({"added": "yes", "own": "filled"}));
    }
}
