//! The listener over real TLS: both protocols, a client certificate, and an orderly end.

use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio_util::sync::CancellationToken;
use trireme_apiserver::authn::{AskForCertificate, Chain, ClientCertificate};
use trireme_apiserver::{AdmitAll, AllowMasters, ApiServer, Config, Plugins};
use trireme_store::MemoryStore;

struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

fn issue(ca: &CertifiedIssuer<'_, KeyPair>, name: &str, organisation: &str, alternative: &[String]) -> Identity {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(alternative.to_vec()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.distinguished_name.push(DnType::OrganizationName, organisation);
    let certificate = params.signed_by(&key, ca).unwrap();
    Identity {
        chain: vec![certificate.der().clone()],
        key: PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())),
    }
}

#[tokio::test]
async fn https_serves_both_protocols_and_knows_its_clients() {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let own = issue(&ca, "apiserver", "", &["localhost".to_owned()]);
    let admin = issue(&ca, "admin", "system:masters", &[]);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.der().clone()).unwrap();
    let roots = Arc::new(roots);
    let tls = rustls::ServerConfig::builder()
        .with_client_cert_verifier(AskForCertificate::new(&roots))
        .with_single_cert(own.chain, own.key)
        .unwrap();
    let plugins = Plugins {
        authorizer: Arc::new(AllowMasters),
        admission: Arc::new(AdmitAll),
        authenticator: Arc::new(Chain::new(vec![Arc::new(ClientCertificate::new((*roots).clone()).unwrap())])),
        dialer: None,
        tokens: None,
        metrics: None,
        extension: None,
    };
    let server = ApiServer::build(Config::default(), MemoryStore::new(), plugins);
    server.bootstrap().await.unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(Arc::clone(&server).serve(listener, tls, shutdown.clone()));

    for (protocol, certified, expected) in [("h2", true, 200), ("http/1.1", true, 200), ("http/1.1", false, 403)] {
        let builder = rustls::ClientConfig::builder().with_root_certificates(Arc::clone(&roots));
        let mut client = if certified {
            builder
                .with_client_auth_cert(admin.chain.clone(), admin.key.clone_key())
                .unwrap()
        } else {
            builder.with_no_client_auth()
        };
        client.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = tokio_rustls::TlsConnector::from(Arc::new(client))
            .connect(name, stream)
            .await
            .unwrap();
        let request = Request::get("https://localhost/api/v1/namespaces/default")
            .header("host", "localhost")
            .body(Empty::<Bytes>::new())
            .unwrap();
        let response = if protocol == "h2" {
            let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        } else {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        };
        assert_eq!(response.status().as_u16(), expected, "{protocol} {certified}");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let value: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(value["kind"], if certified { "Namespace" } else { "Status" });
    }
    shutdown.cancel();
    tokio::time::timeout(std::time::Duration::from_secs(20), serving)
        .await
        .unwrap()
        .unwrap();
}
