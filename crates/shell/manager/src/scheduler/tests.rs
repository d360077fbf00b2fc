//! The scheduler against an API in memory.

use std::time::Duration;

use k8s_openapi::api::core::v1::Event;
use serde_json::{Value, json};
use trireme_client::testing::FakeTransport;
use trireme_client::{ListOptions, SystemClock};

use super::*;

fn node(name: &str, cpu: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
        "status": {"allocatable": {"cpu": cpu, "memory": "4Gi", "pods": "10"}},
    })
}

fn pod(name: &str, cpu: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "schedulerName": "default-scheduler",
            "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}],
        },
    })
}

struct Ground {
    fake: Arc<FakeTransport>,
    client: Client,
    shutdown: CancellationToken,
}

fn start() -> Ground {
    start_with(Configuration::default())
}

fn start_with(configuration: Configuration) -> Ground {
    let fake = FakeTransport::new();
    let client = Client::new(fake.clone());
    let shutdown = CancellationToken::new();
    let cache = Cache::new(&client, shutdown.clone());
    let scheduler = Scheduler::new(client.clone(), cache, Arc::new(SystemClock)).with_configuration(configuration);
    tokio::spawn(scheduler.run(shutdown.clone()));
    Ground { fake, client, shutdown }
}

impl Ground {
    fn seed_node(&self, value: Value) {
        self.fake.seed(&ResourceRef::of::<Node>(), value);
    }

    fn seed_pod(&self, value: Value) {
        self.fake.seed(&ResourceRef::of::<Pod>(), value);
    }

    async fn until(&self, name: &str, done: impl Fn(&Pod) -> bool) -> Arc<Pod> {
        loop {
            let pod = self.client.get::<Pod>("default", name).await.unwrap();
            if done(&pod) {
                return pod;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn events(&self, reason: &str) -> Vec<String> {
        loop {
            let events = self.client.list::<Event>(None, &ListOptions::default()).await.unwrap();
            let found: Vec<_> = events
                .iter()
                .filter(|event| event.reason.as_deref() == Some(reason))
                .map(|event| event.message.clone().unwrap_or_default())
                .collect();
            if !found.is_empty() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

fn is_bound(pod: &Pod) -> bool {
    !node_of(pod).is_empty()
}

fn node_of(pod: &Pod) -> &str {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.node_name.as_deref())
        .unwrap_or_default()
}

#[tokio::test]
async fn binds_and_says_so() {
    let ground = start();
    ground.seed_node(node("n1", "1"));
    ground.seed_pod(pod("a", "100m"));
    let bound = ground.until("a", is_bound).await;
    assert_eq!(node_of(&bound), "n1");
    assert_eq!(ground.events("Scheduled").await, ["Successfully assigned default/a to n1"]);
    ground.shutdown.cancel();
}

#[tokio::test]
async fn refuses_with_a_condition_until_there_is_room() {
    let ground = start();
    ground.seed_node(node("n1", "1"));
    ground.seed_pod(pod("a", "800m"));
    ground.until("a", is_bound).await;
    ground.seed_pod(pod("b", "800m"));
    let refused = ground.until("b", |pod| pod.status.is_some()).await;
    let condition = &refused.status.as_ref().unwrap().conditions.as_ref().unwrap()[0];
    assert_eq!(
        (condition.status.as_str(), condition.reason.as_deref()),
        ("False", Some("Unschedulable"))
    );
    let message = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims \
                   found for incoming pod.";
    assert_eq!(condition.message.as_deref(), Some(message));
    assert_eq!(ground.events("FailedScheduling").await[0], message);
    ground.seed_node(node("n2", "1"));
    let bound = ground.until("b", is_bound).await;
    assert_eq!(node_of(&bound), "n2");
    ground.shutdown.cancel();
}

#[tokio::test]
async fn a_burst_never_overcommits_a_node_and_a_failed_binding_is_tried_again() {
    let ground = start();
    for name in ["n1", "n2"] {
        ground.seed_node(node(name, "1"));
    }
    ground.fake.fail_next("POST pods/binding", Status::internal("no"));
    for n in 0..8 {
        ground.seed_pod(pod(&format!("p{n}"), "250m"));
    }
    let mut counts = std::collections::BTreeMap::new();
    for n in 0..8 {
        let bound = ground.until(&format!("p{n}"), is_bound).await;
        *counts.entry(node_of(&bound).to_owned()).or_insert(0) += 1;
    }
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [4, 4]);
    ground.shutdown.cancel();
}

#[tokio::test]
async fn a_more_important_pod_makes_room_for_itself() {
    let ground = start();
    ground.seed_node(node("n1", "1"));
    let with = |name: &str, cpu: &str, priority: i32, policy: &str| {
        let mut pod = pod(name, cpu);
        pod["spec"]["priority"] = priority.into();
        pod["spec"]["preemptionPolicy"] = policy.into();
        pod
    };
    for (name, cpu, priority) in [("least", "300m", 1), ("low", "300m", 2), ("high", "400m", 9)] {
        ground.seed_pod(with(name, cpu, priority, "PreemptLowerPriority"));
        ground.until(name, is_bound).await;
    }
    ground.seed_pod(with("polite", "300m", 8, "Never"));
    let polite = ground.until("polite", |pod| pod.status.is_some()).await;
    let condition = &polite.status.as_ref().unwrap().conditions.as_ref().unwrap()[0];
    let message = "0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never.";
    assert_eq!(condition.message.as_deref(), Some(message));
    ground.seed_pod(with("urgent", "300m", 5, "PreemptLowerPriority"));
    let nominated = |pod: &Pod| pod.status.as_ref().is_some_and(|status| status.nominated_node_name.is_some());
    let urgent = ground.until("urgent", nominated).await;
    let status = urgent.status.as_ref().unwrap();
    assert_eq!(status.nominated_node_name.as_deref(), Some("n1"));
    let condition = &status.conditions.as_ref().unwrap()[0];
    assert_eq!(
        condition.message.as_deref(),
        Some("0/1 nodes are available: 1 Insufficient cpu.")
    );
    let uid = urgent.metadata.uid.clone().unwrap();
    assert_eq!(
        ground.events("Preempted").await,
        [format!("Preempted by pod {uid} on node n1")]
    );
    // Only the least important one has gone, and the room is not the polite pod's, which is not as patient as the nominated
    // one is important.
    for name in ["low", "high"] {
        assert!(ground.client.get::<Pod>("default", name).await.is_ok(), "{name}");
    }
    assert!(ground.client.get::<Pod>("default", "least").await.is_err());
    ground.shutdown.cancel();
}

#[tokio::test]
async fn each_pod_is_placed_by_the_profile_that_it_asks_for() {
    let value = json!({
        "apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",
        "profiles": [{}, {"schedulerName": "packer", "plugins": {"multiPoint": {"disabled": [{"name": "NodeResourcesBalancedAllocation"}]}},
            "pluginConfig": [{"name": "NodeResourcesFit", "args": {"scoringStrategy": {"type": "MostAllocated"}}}]}],
    });
    let ground = start_with(trireme_scheduling::configuration::read(&value).unwrap());
    ground.seed_node(node("n1", "2"));
    ground.seed_pod(pod("first", "500m"));
    ground.until("first", is_bound).await;
    ground.seed_node(node("n2", "2"));
    let of = |name: &str, scheduler: &str| {
        let mut pod = pod(name, "100m");
        pod["spec"]["schedulerName"] = scheduler.into();
        pod
    };
    // The node is there once somebody is on it.
    ground.seed_pod(of("spreads", "default-scheduler"));
    let spreads = ground.until("spreads", is_bound).await;
    ground.seed_pod(of("packs", "packer"));
    let packs = ground.until("packs", is_bound).await;
    assert_eq!((node_of(&spreads), node_of(&packs)), ("n2", "n1"));
    ground.seed_pod(of("strange", "nobody"));
    ground.seed_pod(of("last", "packer"));
    ground.until("last", is_bound).await;
    assert!(!is_bound(&ground.client.get::<Pod>("default", "strange").await.unwrap()));
    let source = |event: &Event| event.source.as_ref().and_then(|source| source.component.clone());
    while !{
        let events = ground.client.list::<Event>(None, &ListOptions::default()).await.unwrap();
        events.iter().any(|event| source(event).as_deref() == Some("packer"))
    } {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    ground.shutdown.cancel();
}

fn claiming(name: &str, claim: &str) -> Value {
    let mut pod = pod(name, "100m");
    pod["spec"]["volumes"] = json!([{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]);
    pod
}

impl Ground {
    fn seed_claim(&self, name: &str, class: &str) {
        let claim = json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name, "namespace": "default"},
            "spec": {"storageClassName": class, "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        });
        self.fake.seed(&ResourceRef::of::<PersistentVolumeClaim>(), claim);
    }

    fn seed_class(&self, name: &str, provisioner: &str) {
        let class = json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name},
            "provisioner": provisioner, "volumeBindingMode": "WaitForFirstConsumer",
        });
        self.fake.seed(&ResourceRef::of::<StorageClass>(), class);
    }

    /// Changes a claim as the binder would, once it is as it should be.
    async fn change_claim(&self, name: &str, ready: impl Fn(&PersistentVolumeClaim) -> bool, patch: Value) {
        loop {
            let claim = self.client.get::<PersistentVolumeClaim>("default", name).await.unwrap();
            if ready(&claim) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let target = Client::target::<PersistentVolumeClaim>("default", name, None);
        let patch = trireme_client::Patch::Merge(patch.to_string().into());
        let options = self.client.write_options();
        self.client.transport().patch(&target, &patch, &options).await.unwrap();
    }
}

fn selected(claim: &PersistentVolumeClaim) -> Option<&str> {
    let annotations = claim.metadata.annotations.as_ref()?;
    annotations.get("volume.kubernetes.io/selected-node").map(String::as_str)
}

const BOUND: &str = "pv.kubernetes.io/bind-completed";

#[tokio::test]
async fn a_pod_waits_for_the_volume_that_is_made_for_its_node_and_holds_nobody_up() {
    let ground = start();
    ground.seed_node(node("n1", "1"));
    ground.seed_class("slow", "example.com/p");
    ground.seed_claim("c", "slow");
    ground.seed_pod(claiming("waits", "c"));
    let waits = ground
        .until("waits", |pod| {
            pod.status.as_ref().is_some_and(|status| status.nominated_node_name.is_some())
        })
        .await;
    assert_eq!(waits.status.as_ref().unwrap().nominated_node_name.as_deref(), Some("n1"));
    ground.seed_pod(pod("other", "100m"));
    ground.until("other", is_bound).await;
    assert!(!is_bound(&ground.client.get::<Pod>("default", "waits").await.unwrap()));
    ground.fake.seed(
        &ResourceRef::of::<PersistentVolume>(),
        json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "v"}, "spec": {}}),
    );
    let bound = json!({"metadata": {"annotations": {BOUND: "yes"}}, "spec": {"volumeName": "v"}});
    ground.change_claim("c", |claim| selected(claim) == Some("n1"), bound).await;
    let waits = ground.until("waits", is_bound).await;
    assert_eq!(node_of(&waits), "n1");
    ground.shutdown.cancel();
}

#[tokio::test]
async fn a_pod_whose_volume_could_not_be_made_is_placed_anew() {
    let ground = start();
    ground.seed_node(node("n1", "1"));
    ground.seed_class("slow", "example.com/p");
    ground.seed_claim("c", "slow");
    ground.seed_pod(claiming("p", "c"));
    let gave_up = json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": null}}});
    ground.change_claim("c", |claim| selected(claim).is_some(), gave_up).await;
    let message = "running PreBind plugin \"VolumeBinding\": binding volumes: provisioning failed for PVC \"c\"";
    assert_eq!(ground.events("FailedScheduling").await, [message]);
    let condition = |pod: &Pod| {
        let condition = pod.status.as_ref()?.conditions.as_ref()?.first()?;
        Some((condition.reason.clone()?, condition.message.clone()?))
    };
    let failed = ground.until("p", |pod| condition(pod).is_some()).await;
    assert_eq!(condition(&failed).unwrap(), ("SchedulerError".into(), message.into()));
    // It is tried again, and the claim gets the node again.
    let bound = json!({"metadata": {"annotations": {BOUND: "yes"}}, "spec": {"volumeName": "v"}});
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "v"}, "spec": {}});
    ground.fake.seed(&ResourceRef::of::<PersistentVolume>(), volume);
    ground.change_claim("c", |claim| selected(claim) == Some("n1"), bound).await;
    ground.until("p", is_bound).await;
    ground.shutdown.cancel();
}

#[tokio::test]
async fn a_claim_gets_a_volume_that_is_there() {
    let ground = start();
    ground.seed_node(node("n1", "1"));
    ground.seed_class("manual", "kubernetes.io/no-provisioner");
    ground.seed_claim("c", "manual");
    ground.seed_pod(claiming("p", "c"));
    let said = ground.events("FailedScheduling").await.remove(0);
    let text = "0/1 nodes are available: 1 node(s) didn't find available persistent volumes to bind. ";
    assert!(said.starts_with(text), "{said}");
    // A volume that comes wakes it.
    let volume = json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "v"},
        "spec": {"storageClassName": "manual", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}},
        "status": {"phase": "Available"},
    });
    ground.fake.seed(&ResourceRef::of::<PersistentVolume>(), volume);
    let volume = loop {
        let volume = ground.client.get::<PersistentVolume>("", "v").await.unwrap();
        if volume.spec.as_ref().unwrap().claim_ref.is_some() {
            break volume;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    let claim = ground.client.get::<PersistentVolumeClaim>("default", "c").await.unwrap();
    let reference = volume.spec.as_ref().unwrap().claim_ref.as_ref().unwrap();
    assert_eq!((reference.name.as_deref(), &reference.uid), (Some("c"), &claim.metadata.uid));
    let annotations = volume.metadata.annotations.as_ref().unwrap();
    assert_eq!(annotations.get("pv.kubernetes.io/bound-by-controller").unwrap(), "yes");
    let bound = json!({"metadata": {"annotations": {BOUND: "yes"}}, "spec": {"volumeName": "v"}});
    ground.change_claim("c", |_| true, bound).await;
    ground.until("p", is_bound).await;
    ground.shutdown.cancel();
}

/// Pods that are decided about together are bound in the order of priority, then of arrival, and one whose binding is refused,
/// or that is gone, takes none of the others with it.
#[tokio::test]
async fn decisions_are_bound_together_in_order_and_each_fails_alone() {
    const PODS: usize = 200;
    let fake = FakeTransport::new();
    let client = Client::new(fake.clone());
    let shutdown = CancellationToken::new();
    let cache = Cache::new(&client, shutdown.clone());
    let ground = Ground { fake, client, shutdown };
    for n in 0..30 {
        ground.seed_node(node(&format!("n{n}"), "1"));
    }
    let name = |n: usize| format!("p{n:03}");
    for n in 0..PODS {
        let mut pod = pod(&name(n), "10m");
        // The last one first.
        pod["spec"]["priority"] = n.into();
        ground.seed_pod(pod);
    }
    for _ in 0..2 {
        ground
            .fake
            .fail_next("POST pods/binding", Status::conflict("", "pods/binding", "p", "lost"));
    }
    // All are there before it begins.
    cache.synced(&[ResourceRef::of::<Node>(), ResourceRef::of::<Pod>()]).await;
    let scheduler = Scheduler::new(ground.client.clone(), cache, Arc::new(SystemClock));
    tokio::spawn(scheduler.run(ground.shutdown.clone()));
    for n in 0..PODS {
        ground.until(&name(n), is_bound).await;
    }
    let calls = ground.fake.calls();
    let bindings = calls
        .iter()
        .filter_map(|call| call.strip_prefix("POST pods/binding default/"));
    let bindings: Vec<&str> = bindings.collect();
    assert_eq!(
        bindings.len(),
        PODS + 2,
        "two were refused once, and nothing else was tried again"
    );
    let mut first = Vec::new();
    let mut again = Vec::new();
    for binding in bindings {
        let which = if first.contains(&binding) { &mut again } else { &mut first };
        which.push(binding);
    }
    let wanted: Vec<String> = (0..PODS).rev().map(name).collect();
    assert_eq!(first, wanted);
    again.sort_unstable();
    assert_eq!(again, [&*wanted[1], &*wanted[0]]);
    ground.shutdown.cancel();
}
