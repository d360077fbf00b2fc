//! Controllers of roles and tokens against a real API server, each as the account that it has in a cluster.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::ClusterRole;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use trireme_apiserver::authn::{Chain, ServiceAccountTokens};
use trireme_apiserver::policy::{PolicyAdmission, PolicyAuthorizer, bootstrap_roles};
use trireme_apiserver::{ApiServer, Authenticator as _, Config, Plugins, UserInfo};
use trireme_client::{ApiObject, Cache, Client, DeleteOptions, SystemClock};
use trireme_manager::{Manager, controllers};
use trireme_store::{MemoryStore, Store};

use super::{access, controller_user};
use crate::seams::AccountTokens;

const ISSUER: &str = "https://kubernetes.default.svc";
/// The first leader's.
const TERM: u64 = 1;

struct Ground {
    admin: Client,
    tokens: Arc<ServiceAccountTokens>,
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
        let key = rcgen::KeyPair::generate().unwrap();
        let store: Arc<dyn Store> = MemoryStore::new();
        let audiences = vec![ISSUER.to_owned()];
        let tokens = ServiceAccountTokens::new(&key.serialize_pem(), key.public_key_raw(), ISSUER, audiences, &store).unwrap();
        let authorizer = PolicyAuthorizer::start(Arc::clone(&store));
        let plugins = Plugins {
            authorizer: Arc::clone(&authorizer) as _,
            admission: Arc::new(PolicyAdmission::new(authorizer)),
            authenticator: Arc::new(Chain::default()),
            dialer: None,
            tokens: None,
            metrics: None,
            extension: None,
        };
        let server = ApiServer::build(Config::default(), store, plugins);
        bootstrap_roles(&server).await.unwrap();
        server.bootstrap().await.unwrap();
        let shutdown = CancellationToken::new();
        let admin = access(&server, UserInfo::apiserver(), TERM);
        let cache = Cache::new(&admin, shutdown.clone());
        let settings = controllers::Settings {
            root_ca_pem: "pem".to_owned(),
            token_signer: Some(Arc::new(AccountTokens::new(&key).unwrap())),
            ..controllers::Settings::default()
        };
        let kinds = controllers::kinds();
        let registrations = controllers::all(&settings, &kinds);
        let access = move |account: &'static str| access(&server, controller_user(account), TERM);
        let manager = Manager::with_access(access, cache, Arc::new(kinds), Arc::new(SystemClock)).register_all(registrations);
        tokio::spawn(manager.run(shutdown.clone()));
        Self {
            admin,
            tokens: Arc::new(tokens),
            shutdown,
        }
    }

    /// An object once it is so; `None` once it is gone.
    async fn until<K: ApiObject>(&self, namespace: &str, name: &str, done: impl Fn(Option<&K>) -> bool) -> Option<Arc<K>> {
        for _ in 0..2_000 {
            let found = self.admin.find::<K>(namespace, name).await.unwrap();
            if done(found.as_deref()) {
                return found;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        panic!("{} {namespace}/{name} is never as it should be", K::KIND);
    }

    /// Who a token says to be.
    async fn whoami(&self, token: &str) -> Option<String> {
        let request = http::Request::builder().header("authorization", format!("Bearer {token}"));
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let user = self.tokens.authenticate(&parts, None).await.ok()?;
        user.map(|user| user.name)
    }
}

#[tokio::test]
async fn an_aggregated_role_holds_what_others_come_to_hold() {
    let ground = Ground::start().await;
    let role = |name: &str, label: &str, verbs: &[&str]| {
        json!({"metadata": {"name": name, "labels": {label: "true"}},
            "rules": [{"verbs": verbs, "apiGroups": ["example.com"], "resources": ["widgets"]}]})
    };
    let mut sum = role("sum", "x", &[]);
    sum["rules"] = json!([]);
    sum["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {"part": "true"}}]});
    ground.admin.create::<ClusterRole>(&typed(sum)).await.unwrap();
    let view = "rbac.authorization.k8s.io/aggregate-to-view";
    for (name, label) in [("part", "part"), ("widgets", view)] {
        let part: ClusterRole = typed(role(name, label, &["get"]));
        ground.admin.create(&part).await.unwrap();
    }
    let holds = |role: &ClusterRole, verb: &str| {
        let rules = role.rules.as_ref();
        let of_widgets = |rule: &&k8s_openapi::api::rbac::v1::PolicyRule| {
            rule.resources.as_ref().is_some_and(|all| all[0] == "widgets") && rule.verbs.iter().any(|held| held == verb)
        };
        rules.is_some_and(|rules| rules.iter().any(|rule| of_widgets(&rule)))
    };
    let held = ground
        .until::<ClusterRole>("", "sum", |role| role.is_some_and(|role| holds(role, "get")))
        .await
        .unwrap();
    assert!(held.metadata.managed_fields.is_none(), "a typed form has none");
    let target = Client::target::<ClusterRole>("", "sum", None);
    let managers = ground.admin.transport().get(&target).await.unwrap().value()["metadata"]["managedFields"].take();
    let applied = managers
        .as_array()
        .unwrap()
        .iter()
        .any(|entry| entry["manager"] == "clusterrole-aggregation-controller" && entry["operation"] == "Apply");
    assert!(applied, "{managers:?}");
    // Through `view` to `edit` and `admin`, which the same controller fills one after the other.
    ground
        .until::<ClusterRole>("", "admin", |role| role.is_some_and(|role| holds(role, "get")))
        .await;
    ground
        .admin
        .delete::<ClusterRole>("", "part", &DeleteOptions::default())
        .await
        .unwrap();
    ground
        .until::<ClusterRole>("", "sum", |role| role.is_some_and(|role| !holds(role, "get")))
        .await;
}

#[tokio::test]
async fn a_hand_made_token_secret_is_filled_and_goes_with_its_account() {
    let ground = Ground::start().await;
    let namespace: Namespace = typed(json!({"metadata": {"name": "a"}}));
    ground.admin.create(&namespace).await.unwrap();
    let account: ServiceAccount = typed(json!({"metadata": {"name": "robot", "namespace": "a"}}));
    let account = ground.admin.create(&account).await.unwrap();
    let secret: Secret = typed(
        json!({"type": "kubernetes.io/service-account-token", "metadata": {"name": "s", "namespace": "a",
        "annotations": {"kubernetes.io/service-account.name": "robot"}}}),
    );
    ground.admin.create(&secret).await.unwrap();
    let filled = |secret: Option<&Secret>| {
        let data = secret.and_then(|secret| secret.data.as_ref());
        data.is_some_and(|data| ["token", "ca.crt", "namespace"].iter().all(|key| data.contains_key(*key)))
    };
    let secret = ground.until::<Secret>("a", "s", filled).await.unwrap();
    let text = |key: &str| String::from_utf8(secret.data.as_ref().unwrap()[key].0.clone()).unwrap();
    assert_eq!((text("ca.crt"), text("namespace")), ("pem".to_owned(), "a".to_owned()));
    let annotations = secret.metadata.annotations.as_ref().unwrap();
    assert_eq!(
        annotations.get("kubernetes.io/service-account.uid"),
        account.metadata.uid.as_ref()
    );
    let token = text("token");
    assert_eq!(ground.whoami(&token).await.as_deref(), Some("system:serviceaccount:a:robot"));
    ground
        .admin
        .delete::<ServiceAccount>("a", "robot", &DeleteOptions::default())
        .await
        .unwrap();
    ground.until::<Secret>("a", "s", |secret| secret.is_none()).await;
    assert_eq!(ground.whoami(&token).await, None);
}
