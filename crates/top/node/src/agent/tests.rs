//! An agent's certificates against a real API server with its controllers, over real TLS.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::{Node as NodeObject, Secret};
use serde_json::{Value, json};
use tempfile::TempDir;
use trireme_apiserver::authn::{BootstrapTokens, Chain, ClientCertificate};
use trireme_apiserver::policy::{PolicyAdmission, PolicyAuthorizer, bootstrap_roles};
use trireme_apiserver::{ApiServer, Config, InProcess, Plugins, UserInfo};
use trireme_client::SystemClock;
use trireme_manager::{Manager, controllers};
use trireme_store::{MemoryStore, Store};

use super::*;
use crate::files;
use crate::join::token::Role;
use crate::live::LiveIdentity;
use crate::pki::{Authority, Known, Leaf};
use crate::tls;

struct Ground {
    directory: TempDir,
    authority: Arc<Authority>,
    admin: Client,
    servers: Arc<Servers>,
    token: Token,
    shutdown: CancellationToken,
}

impl Drop for Ground {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn typed<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

impl Ground {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let pki = directory.path().join("pki");
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let authority = Arc::new(Authority::load_or_make(&pki, "ca", "trireme-ca", Known::Nothing, now).unwrap());
        let leaf = Leaf {
            file: "apiserver",
            common_name: "kube-apiserver".to_owned(),
            organisation: None,
            names: vec![trireme_client::failover::SERVER_NAME.to_owned()],
            usages: vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth],
        };
        let identity = authority.leaf(&pki, &leaf, now).unwrap();
        let live = LiveIdentity::new(identity, vec![]).unwrap();

        let store: Arc<dyn Store> = MemoryStore::new();
        let authorizer = PolicyAuthorizer::start(Arc::clone(&store));
        let certified = ClientCertificate::new(tls::roots(authority.certificate()).unwrap()).unwrap();
        let plugins = Plugins {
            authorizer: Arc::clone(&authorizer) as _,
            admission: Arc::new(PolicyAdmission::new(authorizer)),
            authenticator: Arc::new(Chain::new(vec![Arc::new(certified), Arc::new(BootstrapTokens::new(&store))])),
            dialer: None,
            tokens: None,
            metrics: None,
            extension: None,
        };
        let server = ApiServer::build(Config::default(), store, plugins);
        server.bootstrap().await.unwrap();
        bootstrap_roles(&server).await.unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let shutdown = CancellationToken::new();
        let config = tls::server(&live, authority.certificate()).unwrap();
        tokio::spawn(Arc::clone(&server).serve(listener, config, shutdown.clone()));

        let admin = Client::new(InProcess::new(Arc::clone(&server), UserInfo::apiserver()));
        let cache = Cache::new(&admin, shutdown.clone());
        let settings = controllers::Settings {
            signer: Some(Arc::clone(&authority) as _),
            ..controllers::Settings::default()
        };
        let kinds = controllers::kinds();
        let registrations = controllers::all(&settings, &kinds);
        let access = move |account: &'static str| {
            let name = format!("system:serviceaccount:kube-system:{account}");
            let user = UserInfo::new(&name, &["system:serviceaccounts", "system:serviceaccounts:kube-system"]);
            Client::new(InProcess::new(Arc::clone(&server), user))
        };
        let manager = Manager::with_access(access, cache, Arc::new(kinds), Arc::new(SystemClock)).register_all(registrations);
        tokio::spawn(manager.run(shutdown.clone()));

        let token = Token::random(Role::Agent, authority.certificate()).unwrap();
        let ground = Self {
            servers: Servers::new(&[url], |_| {}).unwrap(),
            directory,
            authority,
            admin,
            token,
            shutdown,
        };
        ground.add_token(&ground.token, Role::Agent).await;
        ground
    }

    async fn add_token(&self, token: &Token, role: Role) {
        let data = |text: &str| STANDARD.encode(text);
        let secret: Secret = typed(json!({
            "metadata": {"name": format!("bootstrap-token-{}", token.id), "namespace": "kube-system"},
            "type": "bootstrap.kubernetes.io/token",
            "data": {
                "token-id": data(&token.id), "token-secret": data(&token.secret),
                "usage-bootstrap-authentication": data("true"), "auth-extra-groups": data(&role.group()),
            },
        }));
        self.admin.create(&secret).await.unwrap();
    }

    fn agent(&self, name: &str) -> PathAndSubject {
        let directory = self.directory.path().join(name);
        files::private_directory(&directory).unwrap();
        let subject = Subject {
            name: name.to_owned(),
            address: "192.0.2.7".parse().unwrap(),
        };
        (directory, subject)
    }

    async fn open(&self, (directory, subject): &PathAndSubject, token: Option<&Token>) -> Result<Certificates> {
        let authority = self.authority.certificate();
        Certificates::open(directory, authority, subject.clone(), &self.servers, token).await
    }

    fn client(&self, certificates: &Certificates) -> (Arc<Failover>, Client) {
        let way = Failover::new(Arc::clone(&self.servers), Arc::clone(&certificates.credentials));
        let client = Client::new(Arc::new(HttpsTransport::over(&way)));
        (way, client)
    }
}

type PathAndSubject = (std::path::PathBuf, Subject);

fn node(name: &str) -> NodeObject {
    typed(json!({
        "metadata": {"name": name},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.7"}, {"type": "Hostname", "address": name}]},
    }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_asked_for_kept_and_renewed() {
    let ground = Ground::start().await;
    let agent = ground.agent("n1");
    let file = |name: &str| std::fs::read_to_string(agent.0.join(name)).ok();
    let certificates = ground.open(&agent, Some(&ground.token)).await.unwrap();
    let first = file("kubelet-client.pem").unwrap();
    let (way, client) = ground.client(&certificates);
    client.create(&node("n1")).await.unwrap();
    let forbidden = client.create(&node("n2")).await.unwrap_err();
    assert_eq!(forbidden.code, 403, "a node is itself and nobody else: {forbidden}");

    let serving = certificates.serving();
    assert!(file("kubelet-serving.pem").is_none());
    let keeping = tokio::spawn(certificates.keep(way, client.clone(), ground.shutdown.clone()));
    while !format!("{serving:?}").contains("CertifiedKey") {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let served = file("kubelet-serving.pem").expect("what is shown was kept before");
    keeping.abort();

    // The next start needs no token, and both certificates are as they were.
    let again = ground.open(&agent, None).await.unwrap();
    assert!(format!("{:?}", again.serving()).contains("CertifiedKey"));
    assert_eq!(
        (file("kubelet-client.pem").unwrap(), file("kubelet-serving.pem").unwrap()),
        (first.clone(), served)
    );
    let (way, client) = ground.client(&again);
    client.get::<NodeObject>("", "n1").await.unwrap();

    // Renewed by what is there, without a token.
    ground
        .admin
        .delete::<Secret>(
            "kube-system",
            &format!("bootstrap-token-{}", ground.token.id),
            &Default::default(),
        )
        .await
        .unwrap();
    again.renew_now(&way, &client).await.unwrap();
    assert_ne!(file("kubelet-client.pem").unwrap(), first);
    client.get::<NodeObject>("", "n1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_join_gets_no_certificate() {
    let ground = Ground::start().await;
    let agent = ground.agent("n1");
    let said = |error: anyhow::Error| format!("{error:#}");
    let missing = ground.open(&agent, None).await.err().map(said).unwrap();
    assert!(missing.contains("trireme token create"), "{missing}");
    let unknown = Token::random(Role::Agent, ground.authority.certificate()).unwrap();
    let refused = ground.open(&agent, Some(&unknown)).await.err().map(said).unwrap();
    assert!(refused.contains("Unauthorized"), "{refused}");
    let server = Token::random(Role::Server, ground.authority.certificate()).unwrap();
    ground.add_token(&server, Role::Server).await;
    let refused = ground.open(&agent, Some(&server)).await.err().map(said).unwrap();
    assert!(refused.contains("forbidden"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_another_node_or_cluster_is_not_used() {
    let ground = Ground::start().await;
    let agent = ground.agent("n1");
    ground.open(&agent, Some(&ground.token)).await.unwrap();
    let renamed = (agent.0.clone(), ground.agent("n9").1);
    assert!(ground.open(&renamed, None).await.is_err(), "its name is another one");
    let elsewhere = Ground::start().await;
    assert!(elsewhere.open(&agent, None).await.is_err(), "its cluster is another one");
    std::fs::write(agent.0.join("kubelet-client.pem"), "nonsense").unwrap();
    let damaged = format!("{:#}", ground.open(&agent, None).await.err().unwrap());
    assert!(damaged.contains("kubelet-client.pem"), "{damaged}");
}
