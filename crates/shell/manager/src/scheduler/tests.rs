//! The scheduler against an API in memory.

use std::time::Duration;

use k8s_openapi::api::core::v1::Event;
use serde_json::Value;
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
            "schedulerName": NAME,
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
    let fake = FakeTransport::new();
    let client = Client::new(fake.clone());
    let shutdown = CancellationToken::new();
    let cache = Cache::new(&client, shutdown.clone());
    let scheduler = Scheduler::new(client.clone(), cache, Arc::new(SystemClock));
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
