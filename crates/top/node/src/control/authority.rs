//! Controllers of roles, tokens and claims against a real API server, each as the account that it has in a cluster.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Event, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::ClusterRole;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use trireme_apiserver::authn::{Chain, ServiceAccountTokens};
use trireme_apiserver::policy::{PolicyAdmission, PolicyAuthorizer, bootstrap_roles};
use trireme_apiserver::{ApiServer, Authenticator as _, Config, Plugins, UserInfo};
use trireme_client::{ApiObject, Cache, Client, DeleteOptions, ListOptions, Patch, SystemClock};
use trireme_manager::{Manager, controllers};
use trireme_reconcile::local_volume::{Answer, Order};
use trireme_store::{MemoryStore, Store};

use super::{access, controller_user};
use crate::seams::AccountTokens;

const ISSUER: &str = "https://kubernetes.default.svc";
/// The first leader's.
const TERM: u64 = 1;

struct Ground {
    admin: Client,
    tokens: Arc<ServiceAccountTokens>,
    disks: Arc<Disks>,
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
        let disks = Arc::new(Disks::default());
        let shutdown = CancellationToken::new();
        let admin = access(&server, UserInfo::apiserver(), TERM);
        let cache = Cache::new(&admin, shutdown.clone());
        let settings = controllers::Settings {
            root_ca_pem: "pem".to_owned(),
            token_signer: Some(Arc::new(AccountTokens::new(&key).unwrap())),
            local_volumes: Some(Arc::clone(&disks) as _),
            ..controllers::Settings::default()
        };
        crate::local_volumes::make_class(&server).await.unwrap();
        let kinds = controllers::kinds();
        let registrations = controllers::all(&settings, &kinds);
        let access = move |account: &'static str| access(&server, controller_user(account), TERM);
        let manager = Manager::with_access(access, cache, Arc::new(kinds), Arc::new(SystemClock)).register_all(registrations);
        tokio::spawn(manager.run(shutdown.clone()));
        Self {
            admin,
            tokens: Arc::new(tokens),
            disks,
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

/// Disks of nodes in memory: sizes of the volumes by name.
#[derive(Default)]
struct Disks(std::sync::Mutex<std::collections::BTreeMap<String, i64>>);

#[async_trait::async_trait]
impl controllers::LocalVolumes for Disks {
    async fn ensure(&self, node: &serde_json::Value, order: &Order) -> Answer {
        assert_eq!(node["metadata"]["name"], order.node.as_str());
        if order.bytes > 1 << 40 {
            return Answer::Refused("no room".into());
        }
        self.0.lock().unwrap().insert(order.name.clone(), order.bytes);
        Answer::Done(format!("/disk/{}", order.name))
    }

    async fn remove(&self, _: &serde_json::Value, name: &str) -> Answer {
        self.0.lock().unwrap().remove(name);
        Answer::Done(String::new())
    }
}

fn claimed(name: &str, class: Option<&str>, size: &str) -> PersistentVolumeClaim {
    typed(
        json!({"metadata": {"name": name, "namespace": "default"}, "spec": {"storageClassName": class,
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}}),
    )
}

fn is_bound(claim: Option<&PersistentVolumeClaim>, size: &str) -> bool {
    let status = claim.and_then(|claim| claim.status.as_ref());
    status.is_some_and(|status| {
        let capacity = status.capacity.as_ref().and_then(|capacity| capacity.get("storage"));
        status.phase.as_deref() == Some("Bound") && capacity.is_some_and(|found| found.0 == size)
    })
}

impl Ground {
    /// What the scheduler does with a claim.
    async fn choose_node(&self, claim: &str, node: &str) {
        let patch = json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": node}}});
        self.patch(claim, &patch).await;
    }

    async fn patch(&self, claim: &str, patch: &Value) {
        let patch = Patch::Merge(patch.to_string().into());
        let patched = self
            .admin
            .patch::<PersistentVolumeClaim>("default", claim, None, &patch)
            .await;
        patched.unwrap();
    }

    async fn told(&self, claim: &str, reason: &str) {
        for _ in 0..2_000 {
            let events = self
                .admin
                .list::<Event>(Some("default"), &ListOptions::default())
                .await
                .unwrap();
            let about = |event: &Arc<Event>| event.involved_object.name.as_deref() == Some(claim);
            if events
                .iter()
                .any(|event| about(event) && event.reason.as_deref() == Some(reason))
            {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        panic!("{claim} is not told of {reason}");
    }
}

#[tokio::test]
async fn a_claim_of_the_default_class_is_made_grown_and_taken_away() {
    let ground = Ground::start().await;
    let node = json!({"metadata": {"name": "n", "labels": {"kubernetes.io/hostname": "n"}}});
    ground.admin.create::<Node>(&typed(node)).await.unwrap();
    ground.admin.create(&claimed("c", None, "1Gi")).await.unwrap();
    ground.told("c", "WaitForFirstConsumer").await;
    ground.choose_node("c", "n").await;
    let claim = ground
        .until::<PersistentVolumeClaim>("default", "c", |claim| is_bound(claim, "1Gi"))
        .await
        .unwrap();
    assert_eq!(claim.spec.as_ref().unwrap().storage_class_name.as_deref(), Some("local"));
    let name = claim.spec.as_ref().unwrap().volume_name.clone().unwrap();
    assert_eq!(ground.disks.0.lock().unwrap()[&name], 1 << 30);
    ground
        .until::<PersistentVolume>("", &name, |volume| phase(volume) == Some("Bound"))
        .await;

    let patch = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}});
    ground.patch("c", &patch).await;
    ground
        .until::<PersistentVolumeClaim>("default", "c", |claim| is_bound(claim, "2Gi"))
        .await;
    assert_eq!(ground.disks.0.lock().unwrap()[&name], 2 << 30);

    ground
        .admin
        .delete::<PersistentVolumeClaim>("default", "c", &DeleteOptions::default())
        .await
        .unwrap();
    ground.until::<PersistentVolume>("", &name, |volume| volume.is_none()).await;
    assert!(ground.disks.0.lock().unwrap().is_empty());
    ground.shutdown.cancel();
}

#[tokio::test]
async fn a_node_without_room_gives_the_choice_back() {
    let ground = Ground::start().await;
    ground
        .admin
        .create::<Node>(&typed(json!({"metadata": {"name": "n"}})))
        .await
        .unwrap();
    ground.admin.create(&claimed("c", None, "2Ti")).await.unwrap();
    ground.choose_node("c", "n").await;
    ground.told("c", "ProvisioningFailed").await;
    ground
        .until::<PersistentVolumeClaim>("default", "c", |claim| {
            let annotations = claim.and_then(|claim| claim.metadata.annotations.as_ref());
            annotations.is_some_and(|annotations| !annotations.contains_key("volume.kubernetes.io/selected-node"))
        })
        .await;
    ground.shutdown.cancel();
}

fn phase(volume: Option<&PersistentVolume>) -> Option<&str> {
    volume?.status.as_ref()?.phase.as_deref()
}

#[tokio::test]
async fn a_volume_made_by_hand_is_bound_and_kept() {
    let ground = Ground::start().await;
    let volume = json!({"metadata": {"name": "v"}, "spec": {"capacity": {"storage": "5Gi"}, "accessModes": ["ReadWriteOnce"],
        "storageClassName": "manual", "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": "/x"}}});
    ground.admin.create::<PersistentVolume>(&typed(volume)).await.unwrap();
    ground
        .until::<PersistentVolume>("", "v", |volume| phase(volume) == Some("Available"))
        .await;
    ground.admin.create(&claimed("c", Some("manual"), "1Gi")).await.unwrap();
    ground
        .until::<PersistentVolumeClaim>("default", "c", |claim| is_bound(claim, "5Gi"))
        .await;
    ground
        .admin
        .delete::<PersistentVolumeClaim>("default", "c", &DeleteOptions::default())
        .await
        .unwrap();
    ground
        .until::<PersistentVolume>("", "v", |volume| phase(volume) == Some("Released"))
        .await;
    ground.shutdown.cancel();
}
