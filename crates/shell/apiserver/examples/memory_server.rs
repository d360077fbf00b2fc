//! A bare API server over a store in memory, for replaying recorded requests and for measuring.
//!
//! `memory_server ADDRESS TOKEN_FILE [SERVICE_CIDR]`. It makes its own certificate; nothing survives it.

use std::path::Path;
use std::sync::Arc;

use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_util::sync::CancellationToken;
use trireme_apiserver::authn::{Chain, ClientCertificate, TokenFile};
use trireme_apiserver::{AllowMasters, AdmitAll, ApiServer, Cidr, Config, Plugins};
use trireme_store::MemoryStore;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, address, tokens, rest @ ..] = arguments.as_slice() else {
        return Err("usage: memory_server ADDRESS TOKEN_FILE [SERVICE_CIDR]".into());
    };
    let cidr = rest.first().map_or("10.96.0.0/16", String::as_str);
    let config = Config {
        service_cidrs: vec![Cidr::parse(cidr).ok_or("not a CIDR")?],
        ..Config::default()
    };
    let plugins = Plugins {
        authorizer: Arc::new(AllowMasters),
        admission: Arc::new(AdmitAll),
        authenticator: Arc::new(Chain::new(vec![
            Arc::new(ClientCertificate),
            Arc::new(TokenFile::read(Path::new(tokens))?),
        ])),
        dialer: None,
        tokens: None,
        metrics: None,
    };
    let server = ApiServer::build(config, MemoryStore::new(), plugins);
    server.bootstrap().await?;
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let chain = vec![CertificateDer::from(made.cert)];
    let tls = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
    let listener = tokio::net::TcpListener::bind(address).await?;
    server.serve(listener, tls, CancellationToken::new()).await;
    Ok(())
}
