//! Renewal of certificates: what is made anew and when, and what connections see of it.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
use rustls::pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;
use trireme_apiserver::authn::{Chain, ClientCertificate};
use trireme_apiserver::{AdmitAll, AllowMasters, ApiServer, Config, Plugins};
use trireme_store::MemoryStore;

use super::*;
use crate::pki::Known;
use crate::tls;

const DAY: Duration = Duration::from_hours(24);

fn today() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

fn leaf(file: &'static str, group: Option<&str>, usage: rcgen::ExtendedKeyUsagePurpose) -> Leaf {
    Leaf {
        file,
        common_name: file.to_owned(),
        organisation: group.map(str::to_owned),
        names: vec!["localhost".to_owned()],
        usages: vec![usage],
    }
}

fn serial(der: &[u8]) -> Vec<u8> {
    x509_parser::parse_x509_certificate(der).unwrap().1.raw_serial().to_vec()
}

/// Made nine months ago, so that all that is shown today is valid by the clock of TLS.
struct Fixture {
    directory: tempfile::TempDir,
    authority: Arc<Authority>,
    renewal: Renewal,
    made: Duration,
}

impl Fixture {
    fn new() -> Self {
        let made = today() - 270 * DAY;
        let directory = tempfile::tempdir().unwrap();
        let authority = Arc::new(Authority::load_or_make(directory.path(), "ca", "trireme-ca", Known::Nothing, made).unwrap());
        let renewal = Renewal::new(directory.path().to_owned(), Arc::clone(&authority));
        Self {
            directory,
            authority,
            renewal,
            made,
        }
    }

    fn connector(&self, client: &Arc<LiveIdentity>) -> TlsConnector {
        TlsConnector::from(Arc::new(tls::client(client, self.authority.certificate()).unwrap()))
    }
}

/// A connection and the serial number of the server's certificate.
async fn connect(connector: &TlsConnector, address: std::net::SocketAddr) -> (SendRequest<Empty<Bytes>>, Vec<u8>) {
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = connector.connect(name, stream).await.unwrap();
    let serial = serial(&stream.get_ref().1.peer_certificates().unwrap()[0]);
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    (sender, serial)
}

async fn get(sender: &mut SendRequest<Empty<Bytes>>, path: &str) -> u16 {
    sender.ready().await.unwrap();
    let request = http::Request::get(path)
        .header("host", "localhost")
        .body(Empty::new())
        .unwrap();
    sender.send_request(request).await.unwrap().status().as_u16()
}

#[tokio::test]
async fn a_running_server_shows_a_renewed_certificate_and_its_connections_go_on() {
    drop(rustls::crypto::ring::default_provider().install_default());
    let mut fixture = Fixture::new();
    let made = fixture.made;
    let api = fixture.renewal.keep(leaf("apiserver", None, ServerAuth), made).unwrap();
    let admin = leaf("admin", Some("system:masters"), ClientAuth);
    let admin = fixture.renewal.keep(admin, made).unwrap();
    let roots = tls::roots(fixture.authority.certificate()).unwrap();
    let plugins = Plugins {
        authorizer: Arc::new(AllowMasters),
        admission: Arc::new(AdmitAll),
        authenticator: Arc::new(Chain::new(vec![Arc::new(ClientCertificate::new(roots).unwrap())])),
        dialer: None,
        tokens: None,
        metrics: None,
        extension: None,
    };
    let server = ApiServer::build(Config::default(), MemoryStore::new(), plugins);
    server.bootstrap().await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let config = tls::server(&api, fixture.authority.certificate()).unwrap();
    tokio::spawn(server.serve(listener, config, CancellationToken::new()));

    let connector = fixture.connector(&admin);
    let path = "/api/v1/namespaces/default";
    let (mut old, first) = connect(&connector, address).await;
    assert_eq!(get(&mut old, path).await, 200);
    // Not due: nothing changes.
    fixture.renewal.check(made + 200 * DAY);
    let (_, same) = connect(&connector, address).await;
    assert_eq!(same, first);
    let shown_before = admin.identity().certificate;
    // Less than a third of the year is left.
    fixture.renewal.check(today());
    let (mut new, second) = connect(&connector, address).await;
    assert_ne!(second, first);
    assert_ne!(admin.identity().certificate, shown_before);
    assert_eq!(get(&mut new, path).await, 200, "the client shows its new certificate");
    assert_eq!(get(&mut old, path).await, 200, "the old connection goes on");
    // A start finds what was renewed, and keeps it.
    let again = fixture
        .authority
        .leaf(fixture.directory.path(), &leaf("apiserver", None, ServerAuth), today());
    assert_eq!(serial(&again.unwrap().certificate), second);
}

#[tokio::test]
async fn a_client_shows_its_renewed_certificate() {
    drop(rustls::crypto::ring::default_provider().install_default());
    let mut fixture = Fixture::new();
    let made = fixture.made;
    let kubelet = fixture.renewal.keep(leaf("kubelet", None, ServerAuth), made).unwrap();
    let client = fixture.renewal.keep(leaf("client", None, ClientAuth), made).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(tls::server(&kubelet, fixture.authority.certificate()).unwrap()));
    let connector = fixture.connector(&client);
    let mut shown = Vec::new();
    for _ in 0..2 {
        let accept = async {
            let (stream, _) = listener.accept().await.unwrap();
            let stream = acceptor.accept(stream).await.unwrap();
            serial(&stream.get_ref().1.peer_certificates().unwrap()[0])
        };
        let dial = async {
            let stream = TcpStream::connect(address).await.unwrap();
            connector
                .connect(ServerName::try_from("localhost").unwrap(), stream)
                .await
                .unwrap()
        };
        shown.push(tokio::join!(accept, dial).0);
        fixture.renewal.check(today());
    }
    assert_ne!(shown[0], shown[1]);
    assert_eq!(shown[1], serial(&client.identity().certificate));
}

#[test]
fn what_depends_on_a_certificate_is_tried_until_it_succeeds_and_then_left_alone() {
    let mut fixture = Fixture::new();
    let admin = fixture.renewal.keep(leaf("admin", None, ClientAuth), fixture.made).unwrap();
    let broken = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let written = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (fails, seen) = (Arc::clone(&broken), Arc::clone(&written));
    fixture.renewal.follow_up("admin", move |identity| {
        anyhow::ensure!(!fails.load(std::sync::atomic::Ordering::Relaxed), "the disk is full");
        seen.lock().unwrap().push(identity.certificate.clone());
        Ok(())
    });
    fixture.renewal.check(fixture.made);
    fixture.renewal.check(today());
    assert!(written.lock().unwrap().is_empty());
    broken.store(false, std::sync::atomic::Ordering::Relaxed);
    fixture.renewal.check(today());
    fixture.renewal.check(today());
    assert_eq!(*written.lock().unwrap(), [admin.identity().certificate]);
}

#[test]
fn a_leaf_that_cannot_be_renewed_stays_in_use() {
    let mut fixture = Fixture::new();
    let api = fixture
        .renewal
        .keep(leaf("apiserver", None, ServerAuth), fixture.made)
        .unwrap();
    let before = api.identity().certificate;
    let path = fixture.directory.path().join("apiserver.crt");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, "nonsense").unwrap();
    fixture.renewal.check(today());
    assert_eq!(api.identity().certificate, before);
    std::fs::write(&path, whole).unwrap();
    fixture.renewal.check(today());
    assert_ne!(api.identity().certificate, before);
}
