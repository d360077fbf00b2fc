//! A whole kubelet over a runtime without containers, against an API in memory.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use trireme_api::Status;
use trireme_client::testing::FakeTransport;
use trireme_client::{Cache, Client, ResourceRef, Transport};

use super::{End, HollowRuntime, ends};
use crate::tests::{condition, ready};
use crate::{Capacity, Kubelet, KubeletConfig};

struct HollowNode {
    api: Arc<FakeTransport>,
    runtime: Arc<HollowRuntime>,
    shutdown: CancellationToken,
}

impl HollowNode {
    fn start(directory: &Path) -> Self {
        let api = FakeTransport::new();
        let client = Client::new(api.clone());
        let shutdown = CancellationToken::new();
        let cache = Cache::new(&client, shutdown.clone());
        cache.ensure_of::<Node>();
        let runtime = HollowRuntime::new(Arc::clone(&cache), Duration::ZERO);
        let mut config = KubeletConfig::new("node-1", [192, 0, 2, 1].into(), directory.join("data"));
        config.pod_log_dir = directory.join("logs");
        config.eviction_hard = "".parse().unwrap();
        config.capacity = Some(Capacity {
            cpus: 48,
            memory_bytes: 64 << 30,
            storage_bytes: 100 << 30,
        });
        let kubelet = Kubelet::build(config, &client, cache, runtime.clone(), runtime.clone()).unwrap();
        let ended = shutdown.clone();
        tokio::spawn(async move { kubelet.run(ended).await.unwrap() });
        Self { api, runtime, shutdown }
    }

    fn pod(&self, name: &str, metadata: Value, spec: Value) {
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "n", "uid": format!("uid-{name}"), "generation": 1,
                "creationTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["test/hold"]},
            "spec": spec,
        });
        trireme_client::testing::merge(&mut pod["metadata"], &metadata);
        pod["spec"]["nodeName"] = json!("node-1");
        self.api.seed(&ResourceRef::of::<Pod>(), pod);
    }

    async fn until(&self, name: &str, what: &str, done: impl Fn(&Value) -> bool) -> Value {
        let target = Client::target::<Pod>("n", name, None);
        let mut last = Value::Null;
        for _ in 0..1500 {
            last = self.api.get(&target).await.unwrap().value();
            if done(&last) {
                return last;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{name} never {what}: {last:#}");
    }
}

impl Drop for HollowNode {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// What would be asked of a container succeeds, what it would be given is nowhere, and it goes when it is told to.
#[tokio::test]
async fn a_hollow_pod_lives_as_a_real_one_and_touches_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let below = directory.path().join("host");
    let node = HollowNode::start(directory.path());
    let probe = json!({"httpGet": {"port": 80, "path": "/"}, "periodSeconds": 1});
    node.pod(
        "a",
        json!({}),
        json!({"restartPolicy": "Always",
            "volumes": [{"name": "e", "emptyDir": {"medium": "Memory"}},
                {"name": "h", "hostPath": {"path": below, "type": "DirectoryOrCreate"}}],
            "initContainers": [{"name": "i", "image": "img:1"}],
            "containers": [{"name": "c", "image": "img:1", "readinessProbe": probe, "livenessProbe": {"tcpSocket": {"port": 1}},
                "lifecycle": {"postStart": {"httpGet": {"port": 80}}},
                "volumeMounts": [{"name": "e", "mountPath": "/e", "subPath": "x"}, {"name": "h", "mountPath": "/h"}]}]}),
    );
    // Without a range there is no address to have.
    let pending = node
        .until("a", "waits", |pod| condition(pod, "PodReadyToStartContainers") == "False")
        .await;
    assert_eq!(pending["status"]["phase"], "Pending");
    node.runtime.set_range(Ipv4Addr::new(10, 42, 7, 0), 24);
    let pod = node.until("a", "ready", ready).await;
    assert_eq!(pod["status"]["phase"], "Running");
    assert_eq!(pod["status"]["podIP"], "10.42.7.2");
    assert_eq!(pod["status"]["containerStatuses"][0]["started"], true);
    assert_eq!(
        pod["status"]["initContainerStatuses"][0]["state"]["terminated"]["exitCode"],
        0
    );
    let found = node
        .api
        .get(&Client::target::<Node>("", "node-1", None))
        .await
        .unwrap()
        .value();
    assert_eq!(found["status"]["capacity"]["cpu"], "48");
    assert_eq!(found["status"]["allocatable"]["memory"], "64Gi");

    let mut deleted = pod;
    deleted["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    deleted["metadata"]["deletionGracePeriodSeconds"] = json!(30);
    node.api.seed(&ResourceRef::of::<Pod>(), deleted);
    node.until("a", "ended", |pod| {
        pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 143
    })
    .await;
    for _ in 0..500 {
        if node.api.calls().contains(&"DELETE pods n/a".to_owned()) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(node.api.calls().contains(&"DELETE pods n/a".to_owned()));
    let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Time stands still but where everybody waits: then what they wait for comes at once.
#[tokio::test(start_paused = true)]
async fn a_node_that_stays_as_it_is_says_so_every_five_minutes() {
    let directory = tempfile::tempdir().unwrap();
    let node = HollowNode::start(directory.path());
    let of_node = |call: &&String| call.contains("nodes/status") && call.ends_with("node-1");
    let written = || node.api.calls().iter().filter(of_node).count();
    while written() == 0 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let target = Client::target::<Node>("", "node-1", None);
    let seed = async |change: &dyn Fn(&mut serde_json::Value)| {
        let mut found = node.api.get(&target).await.unwrap().value();
        found["status"]["conditions"]
            .as_array_mut()
            .unwrap()
            .iter_mut()
            .for_each(change);
        node.api.seed(&ResourceRef::of::<Node>(), found);
    };
    // After the first, which is a change, half the time to one and a half; then always the same.
    for seconds in [150..=462, 300..=312, 300..=312, 300..=312] {
        // The clock on the wall stands still, too: what was said is long ago.
        seed(&|condition| condition["lastHeartbeatTime"] = "2026-01-01T00:00:00Z".into()).await;
        let (before, since) = (written(), tokio::time::Instant::now());
        while written() == before {
            assert!(since.elapsed() < Duration::from_secs(600), "{:?}", node.api.calls());
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert!(seconds.contains(&since.elapsed().as_secs()), "{:?}", since.elapsed());
    }
    // Somebody gave the node up: it says otherwise within ten seconds.
    let before = written();
    seed(&|condition| condition["status"] = "Unknown".into()).await;
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(written(), before + 1);
    let found = node.api.get(&target).await.unwrap().value();
    assert!(
        found["status"]["conditions"]
            .as_array()
            .unwrap()
            .iter()
            .all(|condition| condition["status"] != "Unknown")
    );
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(written(), before + 1);
    // What it sees is late, as it is after a time out of reach; once its Lease is renewed again, it looks at the Node itself.
    node.api.hold(&ResourceRef::of::<Node>(), true);
    seed(&|condition| condition["status"] = "Unknown".into()).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(written(), before + 1);
    let away = Status::failure(503, "ServiceUnavailable", "out of reach");
    node.api.fail_next("PUT leases kube-node-lease/node-1", away);
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(written(), before + 2, "{:?}", node.api.calls());
    assert!(
        !node.api.calls().iter().any(|call| call.starts_with("PUT nodes")),
        "what it does not change it does not send"
    );
}

/// Pods of Jobs succeed; an annotation says how others end.
#[tokio::test]
async fn a_hollow_job_succeeds() {
    let directory = tempfile::tempdir().unwrap();
    let node = HollowNode::start(directory.path());
    node.runtime.set_range(Ipv4Addr::new(10, 42, 7, 0), 24);
    let once = json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "img:1"}]});
    let owner = json!([{"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "u", "controller": true}]);
    node.pod("job", json!({"ownerReferences": owner}), once.clone());
    let failing = json!({"hollow.trireme.io/run-seconds": "0", "hollow.trireme.io/exit-code": "3"});
    node.pod("failing", json!({"annotations": failing}), once);
    node.until("job", "succeeded", |pod| pod["status"]["phase"] == "Succeeded")
        .await;
    let failed = node
        .until("failing", "failed", |pod| pod["status"]["phase"] == "Failed")
        .await;
    let ended = &failed["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((&ended["exitCode"], &ended["reason"]), (&json!(3), &json!("Error")));
}

#[test]
fn what_a_pod_says_of_its_end() {
    let seconds = Duration::from_secs;
    let end = |after, exit_code| {
        Some(End {
            after: seconds(after),
            exit_code,
        })
    };
    let job =
        json!({"ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "u", "controller": true}]});
    let set = json!({"ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "j", "uid": "u", "controller": true}]});
    let annotated = |time: &str, code: &str| json!({"annotations": {super::RUN_SECONDS: time, super::EXIT_CODE: code}});
    let spec = json!({
        "initContainers": [{"name": "init"}, {"name": "sidecar", "restartPolicy": "Always"}],
        "containers": [{"name": "main"}],
    });
    for (metadata, container, expected) in [
        (json!({}), "main", None),
        (json!({}), "init", end(0, 0)),
        (json!({}), "sidecar", None),
        (set, "main", None),
        (job.clone(), "main", end(7, 0)),
        (job.clone(), "init", end(0, 0)),
        (annotated("3", "2"), "main", end(3, 2)),
        (annotated("3", "many"), "main", end(3, 0)),
        (annotated("soon", "2"), "main", None),
    ] {
        let pod: Pod = serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap();
        assert_eq!(ends(&pod, container, seconds(7)), expected, "{metadata} {container}");
    }
}
