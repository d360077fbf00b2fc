//! The base controllers together, against an API in memory.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Event, Namespace, Node, PersistentVolumeClaim, Pod, ResourceQuota, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::Ingress;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use trireme_client::testing::FakeTransport;
use trireme_client::{ApiObject, Cache, Client, DeleteOptions, ListOptions, Propagation, ResourceRef, SystemClock};

use super::*;
use crate::Manager;

struct Ground {
    fake: Arc<FakeTransport>,
    client: Client,
    shutdown: CancellationToken,
}

fn start() -> Ground {
    start_without("")
}

/// All controllers but one.
fn start_without(name: &str) -> Ground {
    let fake = FakeTransport::new();
    let client = Client::new(fake.clone());
    let shutdown = CancellationToken::new();
    let cache = Cache::new(&client, shutdown.clone());
    let kinds = Arc::new(kinds());
    let settings = Settings {
        root_ca_pem: "pem".into(),
        cluster_cidrs: vec!["10.42.0.0/16".into()],
        ..Settings::default()
    };
    let mut registrations = all(&settings, &kinds);
    registrations.retain(|registration| registration.name != name);
    let manager = Manager::new(client.clone(), cache, kinds, Arc::new(SystemClock)).register_all(registrations);
    tokio::spawn(manager.run(shutdown.clone()));
    Ground { fake, client, shutdown }
}

impl Drop for Ground {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Ground {
    fn seed<K: ApiObject>(&self, mut value: Value) -> String {
        value["apiVersion"] = K::API_VERSION.into();
        value["kind"] = K::KIND.into();
        self.fake.seed(&ResourceRef::of::<K>(), value).header().uid.clone()
    }

    async fn until<K: ApiObject>(&self, what: &str, done: impl Fn(&[Arc<K>]) -> bool) -> Vec<Arc<K>> {
        for _ in 0..10_000 {
            let all = self.client.list::<K>(None, &ListOptions::default()).await.unwrap();
            if done(&all) {
                return all;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("never: {what}; calls: {:#?}", self.fake.calls());
    }
}

fn owned(name: &str, kind: &str, owner: &str, uid: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "a", "ownerReferences": [
            {"apiVersion": "v1", "kind": kind, "name": owner, "uid": uid, "blockOwnerDeletion": true},
        ]},
    })
}

#[tokio::test]
async fn a_namespace_gets_its_account_and_certificate_and_goes_with_all_its_content() {
    let ground = start();
    ground.seed::<Namespace>(json!({"metadata": {"name": "a"}, "spec": {"finalizers": ["kubernetes"]}}));
    ground.until::<ServiceAccount>("account", |all| all.len() == 1).await;
    ground
        .until::<ConfigMap>("certificate", |all| {
            all.iter()
                .any(|map| map.data.as_ref().is_some_and(|data| data["ca.crt"] == "pem"))
        })
        .await;
    ground.seed::<Pod>(json!({"metadata": {"name": "p", "namespace": "a"}, "spec": {"containers": []}}));
    ground
        .client
        .delete::<Namespace>("", "a", &DeleteOptions::default())
        .await
        .unwrap();
    ground.until::<Namespace>("namespace gone", <[_]>::is_empty).await;
    ground.until::<ConfigMap>("content gone", <[_]>::is_empty).await;
    let calls = ground.fake.calls();
    let at = |call: &str| calls.iter().position(|made| made == call).unwrap();
    assert!(at("DELETE pods a/p") < at("DELETE serviceaccounts a/default"));
    assert!(at("DELETE serviceaccounts a/default") < at("PUT namespaces/finalize /a"));
}

#[tokio::test]
async fn owners_take_their_dependents_along_in_the_order_asked_for() {
    let ground = start();
    // Background, over two generations.
    let top = ground.seed::<ConfigMap>(json!({"metadata": {"name": "top", "namespace": "a"}}));
    let middle = ground.seed::<ConfigMap>(owned("middle", "ConfigMap", "top", &top));
    ground.seed::<ConfigMap>(owned("bottom", "ConfigMap", "middle", &middle));
    let delete = async |name: &str, propagation| {
        let options = DeleteOptions {
            propagation: Some(propagation),
            ..DeleteOptions::default()
        };
        ground.client.delete::<ConfigMap>("a", name, &options).await.unwrap();
    };
    delete("top", Propagation::Background).await;
    ground.until::<ConfigMap>("background", <[_]>::is_empty).await;
    // Foreground: the dependents go first.
    let top = ground.seed::<ConfigMap>(json!({"metadata": {"name": "fore", "namespace": "a"}}));
    ground.seed::<ConfigMap>(owned("blocking", "ConfigMap", "fore", &top));
    delete("fore", Propagation::Foreground).await;
    ground.until::<ConfigMap>("foreground", <[_]>::is_empty).await;
    let calls = ground.fake.calls();
    let at = |call: &str| calls.iter().position(|made| made == call).unwrap();
    assert!(at("DELETE configmaps a/blocking") < at("PATCH configmaps a/fore"));
    // Orphan: the dependents stay, without the reference.
    let top = ground.seed::<ConfigMap>(json!({"metadata": {"name": "parent", "namespace": "a"}}));
    ground.seed::<ConfigMap>(owned("child", "ConfigMap", "parent", &top));
    delete("parent", Propagation::Orphan).await;
    ground
        .until::<ConfigMap>("orphan", |all| {
            all.len() == 1 && all[0].metadata.owner_references.as_ref().is_none_or(Vec::is_empty)
        })
        .await;
    // A reference to an owner that never was.
    ground.seed::<ConfigMap>(owned("stray", "ConfigMap", "nobody", "never"));
    ground.until::<ConfigMap>("stray", |all| all.len() == 1).await;
}

fn widgets() -> ResourceRef {
    ResourceRef {
        group: "example.com".into(),
        version: "v1".into(),
        plural: "widgets".into(),
        namespaced: true,
    }
}

/// Custom resources are cared for as soon as their definition is established, and in both roles.
#[tokio::test]
async fn custom_resources_own_are_owned_and_go_with_their_namespace() {
    let ground = start();
    ground.seed::<CustomResourceDefinition>(json!({
        "metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"},
            "versions": [{"name": "v1", "served": true, "storage": true}]},
        "status": {"acceptedNames": {"plural": "widgets", "kind": "Widget"},
            "conditions": [{"type": "Established", "status": "True"}]},
    }));
    let widget = |name: &str, owners: Value| {
        let metadata = json!({"name": name, "namespace": "a", "ownerReferences": owners});
        let value = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": metadata});
        ground.fake.seed(&widgets(), value).header().uid.clone()
    };
    let top = widget("top", json!([]));
    let reference = |uid: &str| json!([{"apiVersion": "example.com/v1", "kind": "Widget", "name": "top", "uid": uid}]);
    widget("middle", reference(&top));
    ground.seed::<ConfigMap>(json!({"metadata": {"name": "m", "namespace": "a", "ownerReferences": reference(&top)}}));
    let left = async || {
        let list = ground
            .client
            .transport()
            .list(&widgets(), None, &ListOptions::default())
            .await
            .unwrap();
        list.items.len()
    };
    assert_eq!(left().await, 2);
    let target = trireme_client::typed::target_of(widgets(), "a", "top", None);
    let background = DeleteOptions {
        propagation: Some(Propagation::Background),
        ..DeleteOptions::default()
    };
    ground.client.transport().delete(&target, &background).await.unwrap();
    ground.until::<ConfigMap>("dependent gone", <[_]>::is_empty).await;
    for _ in 0..10_000 {
        if left().await == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(left().await, 0, "calls: {:#?}", ground.fake.calls());
    // With its namespace.
    ground.seed::<Namespace>(json!({"metadata": {"name": "a"}, "spec": {"finalizers": ["kubernetes"]}}));
    widget("last", json!([]));
    ground
        .client
        .delete::<Namespace>("", "a", &DeleteOptions::default())
        .await
        .unwrap();
    ground.until::<Namespace>("namespace gone", <[_]>::is_empty).await;
    assert_eq!(left().await, 0);
}

#[tokio::test]
async fn nodes_get_different_ranges_and_lose_the_taint_when_ready() {
    let ground = start();
    for name in ["n1", "n2", "n3"] {
        ground.seed::<Node>(json!({
            "metadata": {"name": name},
            "spec": {"taints": [{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]},
            "status": {"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z"}]},
        }));
    }
    let nodes = ground
        .until::<Node>("ranges and no taints", |all| {
            all.iter().all(|node| {
                let spec = node.spec.clone().unwrap_or_default();
                spec.pod_cidr.is_some() && spec.taints.unwrap_or_default().is_empty()
            })
        })
        .await;
    let mut ranges: Vec<_> = nodes.iter().filter_map(|node| node.spec.clone()?.pod_cidr).collect();
    ranges.sort();
    assert_eq!(ranges, ["10.42.0.0/24", "10.42.1.0/24", "10.42.2.0/24"]);
}

#[tokio::test]
async fn a_deployment_becomes_pods_and_goes_with_them() {
    let ground = start();
    let labels = json!({"app": "web"});
    ground.seed::<Deployment>(json!({
        "metadata": {"name": "web", "namespace": "a", "generation": 1},
        "spec": {
            "replicas": 3, "selector": {"matchLabels": labels}, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "nginx"}]}},
        },
    }));
    ground.until::<Pod>("three pods", |all| all.len() == 3).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    ground.until::<Pod>("still three pods", |all| all.len() == 3).await;
    ground
        .client
        .delete::<Deployment>("a", "web", &DeleteOptions::default())
        .await
        .unwrap();
    ground.until::<ReplicaSet>("no ReplicaSet", <[_]>::is_empty).await;
    ground.until::<Pod>("no pods", <[_]>::is_empty).await;
}

#[tokio::test]
async fn a_stateful_set_becomes_pods_with_names_and_goes_with_them() {
    let ground = start();
    let labels = json!({"app": "web"});
    ground.seed::<StatefulSet>(json!({
        "metadata": {"name": "web", "namespace": "a", "generation": 1},
        "spec": {
            "replicas": 3, "selector": {"matchLabels": labels}, "serviceName": "web", "podManagementPolicy": "Parallel",
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "nginx"}]}},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}],
        },
    }));
    let pods = ground.until::<Pod>("three pods", |all| all.len() == 3).await;
    let mut names: Vec<_> = pods.iter().filter_map(|pod| pod.metadata.name.clone()).collect();
    names.sort();
    assert_eq!(names, ["web-0", "web-1", "web-2"]);
    ground
        .until::<PersistentVolumeClaim>("three claims", |all| all.len() == 3)
        .await;
    ground.until::<ControllerRevision>("one revision", |all| all.len() == 1).await;
    // A lost pod comes back under its name.
    let lost = ground.client.delete::<Pod>("a", "web-1", &DeleteOptions::default()).await;
    lost.unwrap();
    let before: Vec<_> = pods.iter().map(|pod| pod.metadata.uid.clone()).collect();
    ground
        .until::<Pod>("web-1 anew", |all| {
            let named = |pod: &&Arc<Pod>| pod.metadata.name.as_deref() == Some("web-1");
            all.iter().find(named).is_some_and(|pod| !before.contains(&pod.metadata.uid))
        })
        .await;
    ground
        .client
        .delete::<StatefulSet>("a", "web", &DeleteOptions::default())
        .await
        .unwrap();
    ground.until::<ControllerRevision>("no revision", <[_]>::is_empty).await;
    ground.until::<Pod>("no pods", <[_]>::is_empty).await;
    let claims = ground
        .client
        .list::<PersistentVolumeClaim>(None, &ListOptions::default())
        .await;
    assert_eq!(claims.unwrap().len(), 3, "claims are retained");
}

#[tokio::test]
async fn an_autoscaler_raises_its_target_when_the_pods_are_busy() {
    // The API in memory serves an object as its own scale, so that nobody else may write its status.
    let ground = start_without("statefulset");
    let labels = json!({"app": "web"});
    ground.seed::<StatefulSet>(json!({
        "metadata": {"name": "web", "namespace": "a"},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "serviceName": "web", "template": {}},
        "status": {"replicas": 1, "selector": "app=web"},
    }));
    let long_ago = "2026-01-01T00:00:00Z";
    ground.seed::<Pod>(json!({
        "metadata": {"name": "web-0", "namespace": "a", "labels": labels},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "100m"}}}]},
        "status": {
            "phase": "Running", "startTime": long_ago,
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": long_ago}],
        },
    }));
    let metrics = ResourceRef {
        group: "metrics.k8s.io".into(),
        version: "v1beta1".into(),
        plural: "pods".into(),
        namespaced: true,
    };
    ground.fake.seed(
        &metrics,
        json!({
            "apiVersion": "metrics.k8s.io/v1beta1", "kind": "PodMetrics",
            "metadata": {"name": "web-0", "namespace": "a", "labels": labels},
            "timestamp": jiff::Timestamp::now().to_string(), "window": "15s",
            "containers": [{"name": "c", "usage": {"cpu": "200m", "memory": "1Mi"}}],
        }),
    );
    ground.seed::<HorizontalPodAutoscaler>(json!({
        "metadata": {"name": "web", "namespace": "a"},
        "spec": {
            "minReplicas": 1, "maxReplicas": 5,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web"},
            "metrics": [{"type": "Resource", "resource": {
                "name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50},
            }}],
        },
    }));
    ground
        .until::<StatefulSet>("four replicas", |all| {
            all.iter()
                .any(|set| set.spec.as_ref().is_some_and(|spec| spec.replicas == Some(4)))
        })
        .await;
    ground
        .until::<HorizontalPodAutoscaler>("a status", |all| {
            all.iter()
                .any(|autoscaler| autoscaler.status.as_ref().is_some_and(|status| status.desired_replicas == 4))
        })
        .await;
}

#[tokio::test]
async fn endpoints_go_with_their_service_and_hand_made_ones_are_mirrored() {
    let ground = start();
    ground.seed::<Namespace>(json!({"metadata": {"name": "a"}, "spec": {"finalizers": ["kubernetes"]}}));
    let named = |name: &str, spec: Value| json!({"metadata": {"name": name, "namespace": "a"}, "spec": spec});
    let by_hand = |name: &str| {
        json!({"metadata": {"name": name, "namespace": "a"},
            "subsets": [{"addresses": [{"ip": "10.1.2.3"}], "ports": [{"port": 80, "protocol": "TCP"}]}]})
    };
    ground.seed::<Endpoints>(by_hand("alone"));
    // As Go clients send conditions.
    let mut none = named("none", json!({"selector": {"no": "pod"}, "ports": [{"port": 80}]}));
    none["status"] =
        json!({"conditions": [{"type": "A", "status": "True", "reason": "R", "message": "", "lastTransitionTime": null}]});
    ground.seed::<Service>(none);
    ground.seed::<Service>(named("hand", json!({"ports": [{"port": 80}]})));
    ground.seed::<Endpoints>(by_hand("hand"));
    let has = |all: &[Arc<Endpoints>], name: &str| all.iter().any(|one| one.metadata.name.as_deref() == Some(name));
    ground
        .until::<Endpoints>("Endpoints of no pods", |all| has(all, "none"))
        .await;
    let mirrors = |all: &[Arc<EndpointSlice>]| {
        let addresses = all
            .iter()
            .flat_map(|slice| slice.endpoints.iter().flatten())
            .map(|one| one.addresses[0].clone());
        addresses.collect::<Vec<_>>()
    };
    ground
        .until::<EndpointSlice>("a mirror", |all| mirrors(all) == ["10.1.2.3"])
        .await;
    let mut changed = by_hand("hand");
    changed["subsets"][0]["addresses"][0]["ip"] = "10.2.3.4".into();
    ground.seed::<Endpoints>(changed);
    ground
        .until::<EndpointSlice>("a changed mirror", |all| mirrors(all) == ["10.2.3.4"])
        .await;
    for name in ["none", "hand"] {
        ground
            .client
            .delete::<Service>("a", name, &DeleteOptions::default())
            .await
            .unwrap();
    }
    let left = ground
        .until::<Endpoints>("Endpoints gone", |all| !has(all, "none") && !has(all, "hand"))
        .await;
    assert!(has(&left, "alone"), "only a Service's end ends them");
    ground
        .until::<EndpointSlice>("the mirror gone", |all| mirrors(all).is_empty())
        .await;
}

#[tokio::test]
async fn pods_made_and_not_made_are_told_by_events_of_their_own() {
    let ground = start();
    ground.seed::<Namespace>(json!({"metadata": {"name": "a"}, "spec": {"finalizers": ["kubernetes"]}}));
    ground.fake.fail_next(
        "POST pods",
        trireme_api::Status::failure(403, "Forbidden", "exceeded quota: q"),
    );
    ground.seed::<ReplicaSet>(json!({"metadata": {"name": "web", "namespace": "a"}, "spec": {"replicas": 1,
        "selector": {"matchLabels": {"app": "web"}}, "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}}}}));
    let pods = ground.until::<Pod>("a pod", |all| all.len() == 1).await;
    let told = |all: &[Arc<Event>], kind: &str, reason: &str, message: &str| {
        all.iter().any(|event| {
            let seen = [&event.type_, &event.reason, &event.message].map(|text| text.as_deref().unwrap_or_default());
            seen == [kind, reason, message]
        })
    };
    ground
        .until::<Event>("the failure", |all| {
            told(all, "Warning", "FailedCreate", "Error creating: exceeded quota: q")
        })
        .await;
    let created = format!("Created pod: {}", pods[0].metadata.name.as_deref().unwrap());
    ground
        .until::<Event>("the success", |all| told(all, "Normal", "SuccessfulCreate", &created))
        .await;
}

#[tokio::test]
async fn two_autoscalers_of_one_target_are_told_and_scale_nothing() {
    let ground = start();
    ground.seed::<Namespace>(json!({"metadata": {"name": "a"}, "spec": {"finalizers": ["kubernetes"]}}));
    ground.seed::<Pod>(
        json!({"metadata": {"name": "web-0", "namespace": "a", "labels": {"app": "web"}}, "spec": {"containers": []}}),
    );
    // The stand-in tells the object itself where its scale is asked for: it is of a kind that no controller writes to.
    let target = json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "name": "web"});
    ground.seed::<Ingress>(json!({"metadata": {"name": "web", "namespace": "a"}, "spec": {"replicas": 1},
        "status": {"replicas": 1, "selector": "app=web"}}));
    let metric =
        json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}});
    let seed = |name: &str| {
        ground.seed::<HorizontalPodAutoscaler>(json!({"metadata": {"name": name, "namespace": "a"},
            "spec": {"maxReplicas": 5, "scaleTargetRef": target, "metrics": [metric]}}))
    };
    let reason = |all: &[Arc<HorizontalPodAutoscaler>], name: &str| {
        let one = all.iter().find(|one| one.metadata.name.as_deref() == Some(name))?;
        let conditions = one.status.as_ref()?.conditions.as_ref()?;
        let active = conditions.iter().find(|condition| condition.type_ == "ScalingActive")?;
        Some((active.status.clone(), active.reason.clone()?))
    };
    seed("one");
    ground
        .until::<HorizontalPodAutoscaler>("a first look", |all| reason(all, "one").is_some())
        .await;
    seed("two");
    let ambiguous = Some(("False".to_owned(), "AmbiguousSelector".to_owned()));
    ground
        .until::<HorizontalPodAutoscaler>("the second is told", |all| reason(all, "two") == ambiguous)
        .await;
    assert!(!ground.fake.calls().iter().any(|call| call.starts_with("PUT ingresses/scale")));
}

#[test]
fn every_stored_resource_is_collectable_in_one_version() {
    let collectable = kinds().collectable();
    let named = |plural: &str| collectable.iter().filter(|resource| resource.plural == plural).count();
    for plural in ["pods", "nodes", "deployments", "horizontalpodautoscalers", "events", "leases"] {
        assert_eq!(named(plural), 1, "{plural}");
    }
    assert_eq!(named("bindings") + named("tokenreviews") + named("componentstatuses"), 0);
}

#[tokio::test]
async fn a_quota_counts_what_there_is_and_gives_back_what_went() {
    let ground = start();
    ground.seed::<Namespace>(json!({"metadata": {"name": "a"}, "spec": {"finalizers": ["kubernetes"]}}));
    let hard = json!({"count/deployments.apps": "4", "secrets": "3", "pods": "2", "requests.cpu": "1"});
    ground.seed::<ResourceQuota>(json!({"metadata": {"name": "q", "namespace": "a"}, "spec": {"hard": hard}}));
    let pod = json!({"metadata": {"name": "p", "namespace": "a"}, "spec": {"containers": [
        {"name": "c", "image": "i", "resources": {"requests": {"cpu": "250m"}}}]}});
    let is = |quota: &ResourceQuota, wanted: [(&str, &str); 4]| {
        let used = quota.status.as_ref().and_then(|status| status.used.as_ref());
        let stated = quota.status.as_ref().and_then(|status| status.hard.as_ref());
        let spec = quota.spec.as_ref().and_then(|spec| spec.hard.as_ref());
        stated == spec
            && used.is_some_and(|used| {
                wanted
                    .iter()
                    .all(|(name, amount)| used.get(*name).is_some_and(|has| has.0 == *amount))
            })
    };
    let becomes = async |what: &str, wanted: [(&str, &str); 4]| {
        ground
            .until::<ResourceQuota>(what, |all| all.iter().any(|quota| is(quota, wanted)))
            .await
    };
    let none = [
        ("count/deployments.apps", "0"),
        ("secrets", "0"),
        ("pods", "0"),
        ("requests.cpu", "0"),
    ];
    becomes("nothing used", none).await;

    // As if admission had let them in: nobody but the controller counts here.
    ground.seed::<Pod>(pod.clone());
    ground.seed::<Secret>(json!({"metadata": {"name": "s", "namespace": "a"}}));
    ground.seed::<ResourceQuota>(json!({"metadata": {"name": "q", "namespace": "a"},
        "spec": {"hard": {"count/deployments.apps": "5", "secrets": "3", "pods": "2", "requests.cpu": "1"}}}));
    let some = [
        ("count/deployments.apps", "0"),
        ("secrets", "1"),
        ("pods", "1"),
        ("requests.cpu", "250m"),
    ];
    becomes("counted anew with the limits", some).await;

    let mut over = pod;
    over["status"] = json!({"phase": "Succeeded"});
    ground.seed::<Pod>(over);
    becomes("a pod that is over", [some[0], some[1], none[2], none[3]]).await;
    ground
        .client
        .delete::<Secret>("a", "s", &DeleteOptions::default())
        .await
        .unwrap();
    becomes("a secret that went", none).await;
}

#[tokio::test]
async fn a_daemon_set_follows_the_nodes_and_replaces_a_pod_that_failed() {
    let ground = start();
    let ready = json!({"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z"}]});
    let node = |name: &str, kind: &str| json!({"metadata": {"name": name, "labels": {"kind": kind}}, "status": ready});
    ground.seed::<Node>(node("n1", "a"));
    ground.seed::<Node>(node("n2", "b"));
    let uid = ground.seed::<DaemonSet>(json!({
        "metadata": {"name": "agent", "namespace": "ns", "generation": 1},
        "spec": {"selector": {"matchLabels": {"app": "x"}}, "updateStrategy": {"type": "OnDelete"}, "template": {
            "metadata": {"labels": {"app": "x"}}, "spec": {"nodeSelector": {"kind": "a"}, "containers": []}}},
    }));
    let pods = ground.until::<Pod>("one pod", |all| all.len() == 1).await;
    let first = pods[0].metadata.clone();
    assert_eq!(first.owner_references.as_ref().unwrap()[0].uid, uid);
    let revisions = ground.until::<ControllerRevision>("a revision", |all| all.len() == 1).await;
    assert_eq!(
        revisions[0].metadata.labels.as_ref().unwrap()["controller-revision-hash"],
        first.labels.as_ref().unwrap()["controller-revision-hash"]
    );
    let mut failed = serde_json::to_value(&*pods[0]).unwrap();
    failed["status"] = json!({"phase": "Failed"});
    ground.seed::<Pod>(failed);
    let another = |all: &[Arc<Pod>]| all.len() == 1 && all[0].metadata.name != first.name;
    ground.until::<Pod>("another pod", another).await;
    ground.seed::<Node>(node("n2", "a"));
    ground.until::<Pod>("a pod on each node", |all| all.len() == 2).await;
    let told = |all: &[Arc<DaemonSet>]| {
        all[0]
            .status
            .as_ref()
            .is_some_and(|status| status.desired_number_scheduled == 2)
    };
    ground.until::<DaemonSet>("the status", told).await;
}

/// A pod was counted, released and entered in the Job's count by an earlier leader. The new one has seen the Job so, and the
/// pod not yet.
#[tokio::test]
async fn a_new_leader_counts_no_pod_again_that_it_sees_late() {
    const HELD: &[&str] = &["batch.kubernetes.io/job-tracking"];
    let fake = FakeTransport::new();
    let client = Client::new(fake.clone());
    let shutdown = CancellationToken::new();
    let cache = Cache::new(&client, shutdown.clone());
    let (jobs, pods) = (ResourceRef::of::<Job>(), ResourceRef::of::<Pod>());
    let job = |status: Value| {
        let template = json!({"metadata": {"labels": {"job": "j"}}, "spec": {"containers": [], "restartPolicy": "Never"}});
        let spec = json!({"completions": 2, "parallelism": 2, "completionMode": "NonIndexed", "backoffLimit": 6,
            "selector": {"matchLabels": {"job": "j"}}, "template": template});
        let metadata = json!({"name": "j", "namespace": "a", "uid": "job"});
        json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec, "status": status})
    };
    let pod = |name: &str, phase: &str, finalizers: &[&str]| {
        let owner = json!([{"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "job", "controller": true}]);
        let metadata = json!({"name": name, "namespace": "a", "uid": name, "labels": {"job": "j"},
            "ownerReferences": owner, "finalizers": finalizers});
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": []}, "status": {"phase": phase}})
    };
    let started = "2026-01-01T00:00:00Z";
    fake.seed(&pods, pod("ended", "Succeeded", HELD));
    fake.seed(&pods, pod("gone", "Succeeded", HELD));
    fake.seed(&jobs, job(json!({"active": 2, "startTime": started})));
    cache.synced(&[jobs.clone(), pods.clone()]).await;
    fake.hold(&pods, true);
    fake.seed(&pods, pod("ended", "Succeeded", &[]));
    fake.seed(&pods, pod("gone", "Succeeded", &[]));
    client.delete::<Pod>("a", "gone", &DeleteOptions::default()).await.unwrap();
    let counted = json!({"succeeded": 2, "startTime": started, "uncountedTerminatedPods": {}});
    let revision = fake.seed(&jobs, job(counted)).header().resource_version;
    assert!(cache.wait_revision(&jobs, revision).await);

    let kinds = Arc::new(kinds());
    let manager = Manager::new(client.clone(), cache, kinds, Arc::new(SystemClock)).register_all(job::registrations());
    let metrics = manager.metrics();
    tokio::spawn(manager.run(shutdown.clone()));
    // Long enough for whoever does not wait to have counted.
    tokio::time::sleep(Duration::from_millis(100)).await;
    fake.hold(&pods, false);
    let ground = Ground { fake, client, shutdown };
    let complete = |job: &Arc<Job>| trireme_reconcile::job::finished(job).is_some();
    let all = ground.until::<Job>("complete", |all| all.iter().all(complete)).await;
    assert_eq!(all[0].status.as_ref().unwrap().succeeded, Some(2));
    let finished =
        "job_controller_jobs_finished_total{completion_mode=\"NonIndexed\",result=\"succeeded\",reason=\"CompletionsReached\"} 1";
    let syncs = "job_controller_job_syncs_total{completion_mode=\"NonIndexed\",result=\"success\",action=\"tracking\"} ";
    for _ in 0..1000 {
        if metrics.render().contains(finished) {
            break; // The API has it a moment earlier.
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let text = metrics.render();
    assert!(text.contains(finished) && text.contains(syncs), "{text}");
    assert!(
        !text.contains("job_controller_job_pods_finished_total{"),
        "none was counted here: {text}"
    );
}
