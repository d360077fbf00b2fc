//! Three real HTTPS servers, each with a thread of its own, so that one can be killed, or hang as if it had been stopped.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Condvar, Mutex as BlockingMutex};
use std::thread::JoinHandle;

use futures::StreamExt;
use hyper::body::Frame;
use hyper::service::service_fn;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::server::WebPkiClientVerifier;
use serde_json::json;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::transport::{ResourceRef, Transport, WatchEvent, WatchOptions};
use crate::{HttpsTransport, ListOptions, Target, WriteOptions};

struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

type Pair = (CertificateDer<'static>, PrivateKeyDer<'static>);

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(vec![]).unwrap();
        parameters.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = parameters.self_signed(&key).unwrap();
        Self {
            certificate: certificate.der().clone(),
            issuer: Issuer::new(parameters, key),
        }
    }

    fn sign(&self, names: &[&str], common_name: &str, usage: ExtendedKeyUsagePurpose) -> Pair {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut parameters = CertificateParams::new(names).unwrap();
        parameters.distinguished_name.push(DnType::CommonName, common_name);
        parameters.extended_key_usages = vec![usage];
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        (certificate.der().clone(), key)
    }
}

/// What the test sees and sets of a server.
struct Shared {
    name: String,
    ready: AtomicBool,
    writes: AtomicUsize,
    clients: BlockingMutex<Vec<CertificateDer<'static>>>,
    stopped: BlockingMutex<bool>,
    going: Condvar,
}

struct TestServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    handle: tokio::runtime::Handle,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl TestServer {
    fn start(authority: &Authority, name: &str) -> Self {
        let (certificate, key) = authority.sign(&[SERVER_NAME], "server", ExtendedKeyUsagePurpose::ServerAuth);
        let mut roots = RootCertStore::empty();
        roots.add(authority.certificate.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .unwrap();
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate], key)
            .unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            ready: AtomicBool::new(true),
            writes: AtomicUsize::new(0),
            clients: BlockingMutex::default(),
            stopped: BlockingMutex::new(false),
            going: Condvar::new(),
        });
        let (end, ended) = oneshot::channel();
        let (tell, told) = std::sync::mpsc::channel();
        let seen = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                tell.send((listener.local_addr().unwrap(), tokio::runtime::Handle::current()))
                    .unwrap();
                tokio::spawn(accept(listener, TlsAcceptor::from(Arc::new(tls)), seen));
                ended.await.ok();
            });
        });
        let (address, handle) = told.recv().unwrap();
        Self {
            address,
            shared,
            handle,
            end: Some(end),
            thread: Some(thread),
        }
    }

    fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Ends with all its connections.
    fn kill(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    /// Does nothing any more, as a stopped process: the kernel still takes connections.
    fn stop(&self) {
        *self.shared.stopped.lock().unwrap() = true;
        let shared = Arc::clone(&self.shared);
        let (begun, begins) = std::sync::mpsc::channel();
        self.handle.spawn(async move {
            begun.send(()).unwrap();
            let mut stopped = shared.stopped.lock().unwrap();
            while *stopped {
                stopped = shared.going.wait(stopped).unwrap();
            }
        });
        // From here on its one thread does nothing else.
        begins.recv().unwrap();
    }

    fn go_on(&self) {
        *self.shared.stopped.lock().unwrap() = false;
        self.shared.going.notify_all();
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.go_on();
        self.kill();
    }
}

async fn accept(listener: tokio::net::TcpListener, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (acceptor, shared) = (acceptor.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            if let Some([certificate, ..]) = stream.get_ref().1.peer_certificates() {
                shared.clients.lock().unwrap().push(certificate.clone());
            }
            let service = service_fn(move |request| answer(request, Arc::clone(&shared)));
            // How a connection ended is the client's to tell in these tests.
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await
                .ok();
        });
    }
}

type TestBody = http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>;

fn full(value: &serde_json::Value) -> TestBody {
    Full::new(Bytes::from(value.to_string())).boxed_unsync()
}

async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<TestBody>, Infallible> {
    let ready = shared.ready.load(Ordering::Acquire);
    let unavailable = || {
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 503, "reason": "ServiceUnavailable", "message": "no leader"});
        Ok(Response::builder().status(503).body(full(&status)).unwrap())
    };
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": shared.name, "namespace": "default", "resourceVersion": "5"}});
    if request.uri().path() == "/readyz" {
        return if ready {
            Ok(Response::new(full(&json!("ok"))))
        } else {
            unavailable()
        };
    }
    if request.uri().query().is_some_and(|query| query.contains("watch=true")) {
        let line = json!({"type": "ADDED", "object": map}).to_string() + "\n";
        let first = futures::stream::iter([Ok(Frame::data(Bytes::from(line)))]);
        let body = first.chain(futures::stream::pending());
        return Ok(Response::new(http_body_util::StreamBody::new(body).boxed_unsync()));
    }
    if request.method() == Method::POST {
        shared.writes.fetch_add(1, Ordering::AcqRel);
        if !ready {
            return unavailable();
        }
    }
    Ok(Response::new(full(&map)))
}

struct Ground {
    servers: Vec<TestServer>,
    known: Arc<Servers>,
    way: Arc<Failover>,
    transport: HttpsTransport,
    authority: Authority,
}

impl Ground {
    fn new(count: usize) -> Self {
        let authority = Authority::new();
        let servers: Vec<_> = (0..count)
            .map(|number| TestServer::start(&authority, &format!("s{number}")))
            .collect();
        let urls: Vec<String> = servers.iter().map(TestServer::url).collect();
        let known = Servers::new(&urls, |_| {}).unwrap();
        let credentials = Credentials::new(std::slice::from_ref(&authority.certificate)).unwrap();
        let way = Failover::new(Arc::clone(&known), Arc::new(credentials));
        Self {
            servers,
            known,
            transport: HttpsTransport::over(&way),
            way,
            authority,
        }
    }

    /// The server that requests go to now.
    async fn present(&self) -> usize {
        let present = self.way.present().await.unwrap();
        let url = present.to_string();
        self.servers.iter().position(|server| server.url() == url).unwrap()
    }

    async fn get(&self) -> Result<String, trireme_api::Status> {
        let object = self.transport.get(&target("x")).await?;
        Ok(object.header().name.clone())
    }

    async fn create(&self) -> Result<String, trireme_api::Status> {
        let body = Bytes::from_static(br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"}}"#);
        let created = self.transport.create(&target(""), body, &WriteOptions::default()).await?;
        Ok(created.header().name.clone())
    }
}

fn maps() -> ResourceRef {
    ResourceRef::of::<k8s_openapi::api::core::v1::ConfigMap>()
}

fn target(name: &str) -> Target {
    Target {
        resource: maps(),
        namespace: Some("default".into()),
        name: name.into(),
        subresource: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_server_takes_over_from_a_killed_one() {
    let mut ground = Ground::new(3);
    for left in [2, 1] {
        let name = ground.get().await.unwrap();
        let present = ground.present().await;
        assert_eq!(name, format!("s{present}"));
        let options = WatchOptions::default();
        let mut watch = ground.transport.watch(&maps(), None, &options).await.unwrap();
        assert!(matches!(watch.next().await, Some(Ok(WatchEvent::Added(_)))));
        ground.servers[present].kill();
        let end = watch.next().await;
        assert!(matches!(end, None | Some(Err(_))), "{end:?}");
        // Neither reads nor writes notice, since nothing was sent to a connection that is known to be closed.
        assert_ne!(ground.create().await.unwrap(), name, "{left} servers are left");
        assert_ne!(ground.get().await.unwrap(), name);
    }
    let last = ground.present().await;
    ground.servers[last].kill();
    let status = ground.get().await.unwrap_err();
    assert_eq!((status.code, status.reason.as_str()), (0, "ServiceUnavailable"));
    let late = TestServer::start(&ground.authority, "late");
    ground.known.replace(vec![late.url().parse().unwrap()]);
    assert_eq!(ground.get().await.unwrap(), "late");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_server_is_given_up_with_all_that_waits_for_it() {
    let ground = Ground::new(3);
    ground.get().await.unwrap();
    let hung = ground.present().await;
    let mut watch = ground.transport.watch(&maps(), None, &WatchOptions::default()).await.unwrap();
    assert!(matches!(watch.next().await, Some(Ok(WatchEvent::Added(_)))));
    ground.servers[hung].stop();
    let (read, write, watch) = tokio::join!(ground.get(), ground.create(), watch.next());
    assert_ne!(read.unwrap(), format!("s{hung}"), "a read is asked again elsewhere");
    let status = write.unwrap_err();
    assert_eq!(
        status.code, 0,
        "a write that may have been carried out is the caller's to judge: {status}"
    );
    assert!(matches!(watch, Some(Err(_))), "{watch:?}");
    assert_ne!(ground.create().await.unwrap(), format!("s{hung}"));
    assert_eq!(ground.known.ranked().last().unwrap().to_string(), ground.servers[hung].url());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_ready_is_left_for_one_that_is() {
    let ground = Ground::new(2);
    ground.get().await.unwrap();
    let cut = ground.present().await;
    let mut watch = ground.transport.watch(&maps(), None, &WatchOptions::default()).await.unwrap();
    assert!(matches!(watch.next().await, Some(Ok(WatchEvent::Added(_)))));
    ground.servers[cut].shared.ready.store(false, Ordering::Release);
    assert_eq!(ground.create().await.unwrap_err().code, 503, "an answer is an answer");
    assert!(
        matches!(watch.next().await, Some(Err(_)) | None),
        "its watches end, they would tell nothing"
    );
    assert_eq!(ground.create().await.unwrap(), format!("s{}", 1 - cut));
    assert_eq!(
        ground.servers[cut].shared.writes.load(Ordering::Acquire),
        1,
        "no write is sent twice"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_left_for_a_server_that_is_no_better() {
    let ground = Ground::new(2);
    ground.get().await.unwrap();
    let present = ground.present().await;
    for server in &ground.servers {
        server.shared.ready.store(false, Ordering::Release);
    }
    assert_eq!(ground.create().await.unwrap_err().code, 503);
    while ground.way.checking.load(Ordering::Acquire) {
        tokio::task::yield_now().await;
    }
    assert_eq!(ground.present().await, present);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_certificate_is_shown_without_a_break() {
    let ground = Ground::new(1);
    ground.get().await.unwrap();
    let mut watch = ground.transport.watch(&maps(), None, &WatchOptions::default()).await.unwrap();
    assert!(matches!(watch.next().await, Some(Ok(WatchEvent::Added(_)))));
    let shown = || ground.servers[0].shared.clients.lock().unwrap().clone();
    assert!(shown().is_empty(), "nothing to show yet");
    let mut all = Vec::new();
    for name in ["first", "second"] {
        let (certificate, key) = ground.authority.sign(&[], name, ExtendedKeyUsagePurpose::ClientAuth);
        ground
            .way
            .credentials
            .set_certificate(vec![certificate.clone()], &key)
            .unwrap();
        ground.way.renew().await;
        ground.get().await.unwrap();
        all.push(certificate);
        assert_eq!(shown(), all);
    }
    assert!(futures::poll!(watch.next()).is_pending(), "what ran goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_another_authority_is_not_spoken_to() {
    let ground = Ground::new(1);
    let stranger = TestServer::start(&Authority::new(), "stranger");
    ground.known.replace(vec![stranger.url().parse().unwrap()]);
    assert_eq!(ground.get().await.unwrap(), "s0", "the first known is the last resort");
    let known = Servers::new(&[stranger.url()], |_| {}).unwrap();
    let credentials = Credentials::new(std::slice::from_ref(&ground.authority.certificate)).unwrap();
    let transport = HttpsTransport::over(&Failover::new(known, Arc::new(credentials)));
    let status = transport.list(&maps(), None, &ListOptions::default()).await.unwrap_err();
    assert_eq!(status.code, 0);
    assert!(status.message.contains("certificate"), "{status}");
}
