//! Credentials whose time is up, over real TLS: each is told 401 in the API's form, and the connection goes on.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use trireme_apiserver::authn::{AskForCertificate, Chain, ClientCertificate, ServiceAccountTokens};
use trireme_apiserver::{AdmitAll, AllowMasters, ApiServer, Config, Plugins};
use trireme_store::{MemoryStore, Store};

const ISSUER: &str = "https://kubernetes.default.svc";

type Authority = CertifiedIssuer<'static, KeyPair>;
type Identity = (CertificateDer<'static>, PrivateKeyDer<'static>);

fn authority() -> Authority {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn issue(issuer: &Authority, name: &str, end_year: i32) -> Identity {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.distinguished_name.push(DnType::OrganizationName, "system:masters");
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(end_year, 1, 1);
    let certificate = params.signed_by(&key, issuer).unwrap();
    (
        certificate.der().clone(),
        PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())),
    )
}

struct Fixture {
    authority: Authority,
    address: std::net::SocketAddr,
    signing: KeyPair,
    server: Arc<ApiServer>,
}

impl Fixture {
    async fn start() -> Self {
        let fixture = Self::start_unready().await;
        fixture.server.bootstrap().await.unwrap();
        fixture
    }

    /// A server that does not have its cluster's state yet.
    async fn start_unready() -> Self {
        let authority = authority();
        let store: Arc<dyn Store> = MemoryStore::new();
        let signing = KeyPair::generate().unwrap();
        let pem = signing.serialize_pem();
        let tokens = ServiceAccountTokens::new(&pem, signing.public_key_raw(), ISSUER, vec![ISSUER.to_owned()], &store).unwrap();
        let tokens = Arc::new(tokens);
        let mut roots = RootCertStore::empty();
        roots.add(authority.der().clone()).unwrap();
        let (certificate, key) = issue(&authority, "apiserver", 2200);
        let tls = rustls::ServerConfig::builder()
            .with_client_cert_verifier(AskForCertificate::new(&roots))
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let plugins = Plugins {
            authorizer: Arc::new(AllowMasters),
            admission: Arc::new(AdmitAll),
            authenticator: Arc::new(Chain::new(vec![
                Arc::new(ClientCertificate::new(roots).unwrap()),
                Arc::clone(&tokens) as _,
            ])),
            dialer: None,
            tokens: Some(tokens),
            metrics: None,
            extension: None,
        };
        let server = ApiServer::build(Config::default(), store, plugins);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(Arc::clone(&server).serve(listener, tls, CancellationToken::new()));
        Self {
            authority,
            address,
            signing,
            server,
        }
    }

    async fn connect(&self, identity: Option<Identity>) -> SendRequest<Full<Bytes>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone()).unwrap();
        let builder = rustls::ClientConfig::builder().with_root_certificates(roots);
        let config = match identity {
            Some((certificate, key)) => builder.with_client_auth_cert(vec![certificate], key).unwrap(),
            None => builder.with_no_client_auth(),
        };
        let stream = tokio::net::TcpStream::connect(self.address).await.unwrap();
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(ServerName::try_from("localhost").unwrap(), stream)
            .await
            .unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    /// The token's claims, changed and signed again by the cluster's key.
    fn resign(&self, token: &str, change: impl Fn(&mut Value)) -> String {
        let parts: Vec<&str> = token.split('.').collect();
        let mut claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap();
        change(&mut claims);
        let key = jsonwebtoken::EncodingKey::from_ec_pem(self.signing.serialize_pem().as_bytes()).unwrap();
        jsonwebtoken::encode(&jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256), &claims, &key).unwrap()
    }
}

async fn ask(sender: &mut SendRequest<Full<Bytes>>, path: &str, token: Option<&str>, body: Option<Value>) -> (u16, Value) {
    let mut request = Request::builder()
        .method(if body.is_some() { "POST" } else { "GET" })
        .uri(path)
        .header("host", "localhost")
        .header("content-type", "application/json");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let body = body.map(|body| body.to_string()).unwrap_or_default();
    sender.ready().await.unwrap();
    let answer = sender
        .send_request(request.body(Full::new(Bytes::from(body))).unwrap())
        .await
        .unwrap();
    let code = answer.status().as_u16();
    let bytes = answer.into_body().collect().await.unwrap().to_bytes();
    (code, serde_json::from_slice(&bytes).unwrap_or_default())
}

fn unauthorized() -> (u16, Value) {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "Unauthorized", "reason": "Unauthorized", "code": 401,
    });
    (401, status)
}

#[tokio::test]
async fn an_expired_or_foreign_client_certificate_is_unauthorized() {
    let fixture = Fixture::start().await;
    let good = issue(&fixture.authority, "admin", 2200);
    let mut sender = fixture.connect(Some(good)).await;
    assert_eq!(ask(&mut sender, "/api/v1/namespaces/default", None, None).await.0, 200);
    let expired = issue(&fixture.authority, "admin", 2021);
    let foreign = issue(&authority(), "admin", 2200);
    for identity in [expired, foreign] {
        // The handshake succeeds, so that the client is told why; the same connection is told it again.
        let mut sender = fixture.connect(Some(identity)).await;
        for path in ["/api/v1/namespaces/default", "/apis/nonsense/v1/x", "/version"] {
            assert_eq!(ask(&mut sender, path, None, None).await, unauthorized(), "{path}");
        }
    }
}

#[tokio::test]
async fn an_expired_service_account_token_is_unauthorized() {
    let fixture = Fixture::start().await;
    let mut admin = fixture.connect(Some(issue(&fixture.authority, "admin", 2200))).await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}});
    assert_eq!(ask(&mut admin, accounts, None, Some(account)).await.0, 201);
    let wanted = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let (code, answer) = ask(&mut admin, &format!("{accounts}/robot/token"), None, Some(wanted)).await;
    assert_eq!(code, 201, "{answer}");
    let token = answer["status"]["token"].as_str().unwrap();

    let mut robot = fixture.connect(None).await;
    let path = "/api/v1/namespaces/default";
    let (code, answer) = ask(&mut robot, path, Some(token), None).await;
    assert_eq!(
        (code, answer["reason"].as_str()),
        (403, Some("Forbidden")),
        "it is known: {answer}"
    );
    let shifted = |seconds: i64| {
        fixture.resign(token, |claims| {
            for claim in ["exp", "iat", "nbf"] {
                claims[claim] = json!(claims[claim].as_i64().unwrap() + seconds);
            }
        })
    };
    assert_eq!(ask(&mut robot, path, Some(&shifted(0)), None).await.0, 403);
    assert_eq!(ask(&mut robot, path, Some(&shifted(-7200)), None).await, unauthorized());
    assert_eq!(ask(&mut robot, path, Some(&shifted(7200)), None).await, unauthorized());
    let other = fixture.resign(token, |claims| claims["aud"] = json!(["https://elsewhere.example"]));
    assert_eq!(ask(&mut robot, path, Some(&other), None).await, unauthorized());
    // An expired token does not spoil a good certificate, as authenticators are asked in turn.
    assert_eq!(ask(&mut admin, path, Some(&shifted(-7200)), None).await.0, 200);
}

/// A new server knows neither the tokens nor the roles that its cluster has: who is refused by it may be welcome elsewhere.
#[tokio::test]
async fn a_server_that_has_not_caught_up_refuses_nobody() {
    let fixture = Fixture::start_unready().await;
    let (pods, unknown) = ("/api/v1/pods", Some("abcdef.0123456789abcdef"));
    let mut sender = fixture.connect(None).await;
    let (code, status) = ask(&mut sender, pods, unknown, None).await;
    assert_eq!((code, &status["reason"]), (503, &"ServiceUnavailable".into()), "{status}");
    assert_eq!(ask(&mut sender, pods, None, None).await.0, 503);
    fixture.server.bootstrap().await.unwrap();
    assert_eq!(ask(&mut sender, pods, unknown, None).await.0, 401);
    assert_eq!(ask(&mut sender, pods, None, None).await.0, 403);
}
