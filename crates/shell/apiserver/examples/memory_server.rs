//! A bare API server over a store in memory, for replaying recorded requests and for measuring.
//!
//! `memory_server ADDRESS TOKEN_FILE [SERVICE_CIDR]`. It makes its own certificate; nothing survives it.

use std::path::Path;
use std::sync::Arc;

use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_util::sync::CancellationToken;
use trireme_apiserver::authn::{Chain, ServiceAccountTokens, TokenFile};
use trireme_apiserver::policy::{PolicyAdmission, PolicyAuthorizer, bootstrap_roles};
use trireme_apiserver::{ApiServer, Cidr, Config, Plugins, connection_limits};
use trireme_connections::{Shares, raise_limit};
use trireme_store::{MemoryStore, Store};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, address, tokens, rest @ ..] = arguments.as_slice() else {
        return Err("usage: memory_server ADDRESS TOKEN_FILE [SERVICE_CIDR]".into());
    };
    let cidr = rest.first().map_or("10.96.0.0/16", String::as_str);
    let config = Config {
        service_cidrs: vec![Cidr::parse(cidr).ok_or("not a CIDR")?],
        connections: connection_limits(Shares::of(raise_limit()?)),
        ..Config::default()
    };
    let store: Arc<dyn Store> = MemoryStore::new();
    let key = rcgen::KeyPair::generate()?;
    let issuer = "https://kubernetes.default.svc";
    let accounts = ServiceAccountTokens::new(
        &key.serialize_pem(),
        key.public_key_raw(),
        issuer,
        vec![issuer.to_owned()],
        &store,
    )?;
    let accounts = Arc::new(accounts);
    let authorizer = PolicyAuthorizer::start(Arc::clone(&store));
    let plugins = Plugins {
        authorizer: Arc::clone(&authorizer) as _,
        admission: Arc::new(PolicyAdmission::new(authorizer)),
        authenticator: Arc::new(Chain::new(vec![
            Arc::new(TokenFile::read(Path::new(tokens))?),
            Arc::clone(&accounts) as _,
        ])),
        dialer: None,
        tokens: Some(accounts),
        metrics: None,
        extension: None,
    };
    let server = ApiServer::build(config, store, plugins);
    server.bootstrap().await?;
    bootstrap_roles(&server).await?;
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let chain = vec![CertificateDer::from(made.cert)];
    let tls = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    let listener = tokio::net::TcpListener::bind(address).await?;
    server.serve(listener, tls, CancellationToken::new()).await;
    Ok(())
}
