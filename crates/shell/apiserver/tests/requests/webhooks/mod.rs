//! Admission webhooks over real TLS on loopback: a server of them, and how they are configured.

mod calls;
mod conversion;
mod meetings;

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
    /// Answers that whole review.
    Review(Value),
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
        Reply::Review(review) => answer
            .header("content-type", "application/json")
            .body(Full::new(review.to_string().into())),
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
