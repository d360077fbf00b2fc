//! The whole kubelet against an API and a runtime in memory. Waiting is for conditions, never for times.

mod admission;
mod isolation;
mod resize;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use k8s_openapi::api::node::v1::RuntimeClass;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use trireme_client::testing::FakeTransport;
use trireme_client::{Cache, Client, DeleteOptions, ResourceRef, Transport};

use crate::fake::FakeRuntime;
use crate::{Kubelet, KubeletConfig};

use self::resize::guaranteed;

pub(crate) struct Lab {
    pub(crate) api: Arc<FakeTransport>,
    pub(crate) runtime: Arc<FakeRuntime>,
    pub(crate) client: Client,
    pub(crate) server: Option<std::net::SocketAddr>,
    pub(crate) metrics: Arc<crate::ResourceMetrics>,
    pub(crate) log_dir: std::path::PathBuf,
    shutdown: CancellationToken,
    task: Option<tokio::task::JoinHandle<()>>,
    _directory: Arc<tempfile::TempDir>,
}

/// A file that keeps the node of a lab from being ready; what is in it says why.
const OBSTACLE: &str = "obstacle";

impl Lab {
    pub(crate) fn start() -> Self {
        Self::with(
            FakeTransport::new(),
            FakeRuntime::new(),
            Arc::new(tempfile::tempdir().unwrap()),
            None,
        )
    }

    pub(crate) fn start_with_tls(tls: crate::Tls) -> Self {
        Self::with(
            FakeTransport::new(),
            FakeRuntime::new(),
            Arc::new(tempfile::tempdir().unwrap()),
            Some(tls),
        )
    }

    fn with(
        api: Arc<FakeTransport>,
        runtime: Arc<FakeRuntime>,
        directory: Arc<tempfile::TempDir>,
        tls: Option<crate::Tls>,
    ) -> Self {
        runtime.add_image("img:1");
        let client = Client::new(api.clone());
        let shutdown = CancellationToken::new();
        let cache = Cache::new(&client, shutdown.clone());
        let mut config = KubeletConfig::new("node-1", [192, 0, 2, 1].into(), directory.path().join("data"));
        config.pod_log_dir = directory.path().join("logs");
        let obstacle = directory.path().join(OBSTACLE);
        config.obstacle = crate::Obstacle::new(move || std::fs::read_to_string(&obstacle).ok());
        let server = tls.as_ref().map(|_| {
            let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            free.local_addr().unwrap()
        });
        config.tls = tls;
        if let Some(address) = server {
            config.listen = address.ip();
            config.port = address.port();
        }
        let log_dir = config.pod_log_dir.clone();
        let kubelet = Kubelet::build(config, &client, cache, runtime.clone(), runtime.clone()).unwrap();
        let metrics = kubelet.metrics();
        let ended = shutdown.clone();
        let task = tokio::spawn(async move { kubelet.run(ended).await.unwrap() });
        Self {
            api,
            runtime,
            client,
            server,
            metrics,
            log_dir,
            shutdown,
            task: Some(task),
            _directory: directory,
        }
    }

    async fn restart(mut self) -> Self {
        self.shutdown.cancel();
        self.task.take().unwrap().await.unwrap();
        Self::with(
            Arc::clone(&self.api),
            Arc::clone(&self.runtime),
            Arc::clone(&self._directory),
            None,
        )
    }

    pub(crate) fn pod(&self, name: &str, spec: Value) {
        let mut spec = spec;
        spec["nodeName"] = json!("node-1");
        spec["enableServiceLinks"] = json!(true);
        let metadata =
            json!({"name": name, "namespace": "n", "uid": format!("uid-{name}"), "generation": 1, "finalizers": ["test/hold"]});
        self.api.seed(
            &ResourceRef::of::<Pod>(),
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": {"phase": "Pending"}}),
        );
    }

    async fn get(&self, name: &str) -> Value {
        let target = Client::target::<Pod>("n", name, None);
        self.api
            .get(&target)
            .await
            .map(|object| object.value())
            .unwrap_or(Value::Null)
    }

    pub(crate) async fn until(&self, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..1500 {
            let pod = self.get(name).await;
            if holds(&pod) {
                return pod;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never {what}: {:#}\n{:?}", self.get(name).await, self.runtime.calls());
    }

    async fn until_called(&self, call: &str) {
        for _ in 0..1500 {
            if self.runtime.calls().iter().any(|known| known == call) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never {call}: {:?}", self.runtime.calls());
    }

    /// Changes a pod as a client of the API would.
    async fn change(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut pod = self.get(name).await;
        change(&mut pod);
        pod["metadata"]["generation"] = json!(pod["metadata"]["generation"].as_i64().unwrap() + 1);
        self.api.seed(&ResourceRef::of::<Pod>(), pod);
    }

    async fn until_told(&self, reason: &str) -> String {
        for _ in 0..1500 {
            if let Some((_, message)) = self.events().await.into_iter().find(|(known, _)| known == reason) {
                return message;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never told {reason}: {:?}", self.events().await);
    }

    async fn delete(&self, name: &str, grace: i64) {
        let mut pod = self.get(name).await;
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
        self.api.seed(&ResourceRef::of::<Pod>(), pod);
    }

    async fn events(&self) -> Vec<(String, String)> {
        let list = self
            .client
            .list::<Event>(None, &trireme_client::ListOptions::default())
            .await
            .unwrap();
        list.iter()
            .map(|event| {
                (
                    event.reason.clone().unwrap_or_default(),
                    event.message.clone().unwrap_or_default(),
                )
            })
            .collect()
    }

    /// Waits for an event of a pod.
    async fn until_event(&self, pod: &str, reason: &str, message: &str) {
        let options = trireme_client::ListOptions::default();
        for _ in 0..1500 {
            let list = self.client.list::<Event>(None, &options).await.unwrap();
            let found = list.iter().any(|event| {
                event.involved_object.name.as_deref() == Some(pod)
                    && event.reason.as_deref() == Some(reason)
                    && event.message.as_deref() == Some(message)
            });
            if found {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never {reason} {message}: {:?}", self.events().await);
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

pub(crate) fn condition(pod: &Value, kind: &str) -> String {
    let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions
        .iter()
        .find(|condition| condition["type"] == kind)
        .map_or_else(String::new, |condition| {
            condition["status"].as_str().unwrap_or_default().to_owned()
        })
}

pub(crate) fn ready(pod: &Value) -> bool {
    condition(pod, "Ready") == "True"
}

fn waiting(pod: &Value) -> String {
    pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

#[tokio::test]
async fn a_pod_runs_is_ready_and_goes() {
    let lab = Lab::start();
    lab.pod("a", json!({"restartPolicy": "Always", "containers": [{
        "name": "c", "image": "img:1", "command": ["run", "$(WHO)"], "env": [{"name": "WHO", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        "lifecycle": {"preStop": {"exec": {"command": ["bye"]}}}
    }]}));
    let pod = lab.until("a", "ready", ready).await;
    assert_eq!(pod["status"]["phase"], "Running");
    assert_eq!(pod["status"]["podIP"], "127.0.0.1");
    assert_eq!(pod["status"]["hostIP"], "192.0.2.1");
    assert_eq!(pod["status"]["qosClass"], "BestEffort");
    assert_eq!(pod["status"]["observedGeneration"], 1);
    assert!(
        pod["status"]["containerStatuses"][0]["containerID"]
            .as_str()
            .unwrap()
            .starts_with("trireme://")
    );
    assert_eq!(lab.runtime.config("c").unwrap().command, ["run", "127.0.0.1"]);
    assert!(
        lab.runtime
            .calls()
            .contains(&"sandbox a kubepods/besteffort/poduid-a".to_owned())
    );

    lab.delete("a", 5).await;
    lab.until_called("stop c 5").await;
    lab.until("a", "all ended", |pod| {
        pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 143
    })
    .await;
    for _ in 0..500 {
        if lab.api.calls().contains(&"DELETE pods n/a".to_owned()) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let calls = lab.runtime.calls();
    let at = |text: &str| {
        calls
            .iter()
            .position(|call| call.starts_with(text))
            .unwrap_or_else(|| panic!("no {text} in {calls:?}"))
    };
    assert!(at("exec c2 bye") < at("stop c") && at("stop c") < at("stop-sandbox"));
    assert!(lab.api.calls().contains(&"DELETE pods n/a".to_owned()));
    let reasons: Vec<String> = lab.events().await.into_iter().map(|(reason, _)| reason).collect();
    for reason in ["Pulled", "Created", "Started", "Killing"] {
        assert!(reasons.iter().any(|known| known == reason), "{reason} in {reasons:?}");
    }

    // The finalizer goes, and with it the pod.
    let mut pod = lab.get("a").await;
    pod["metadata"]["finalizers"] = json!([]);
    lab.api.seed(&ResourceRef::of::<Pod>(), pod);
    lab.client.delete::<Pod>("n", "a", &DeleteOptions::default()).await.unwrap();
    lab.until_called("remove-sandbox s1").await;
}

#[tokio::test]
async fn init_containers_run_in_turn_and_restarts_back_off() {
    let lab = Lab::start();
    lab.pod(
        "a",
        json!({"restartPolicy": "Always",
        "initContainers": [{"name": "i", "image": "img:1"}, {"name": "side", "image": "img:1", "restartPolicy": "Always"}],
        "containers": [{"name": "c", "image": "img:1"}]}),
    );
    let pod = lab
        .until("a", "in its init container", |pod| {
            pod["status"]["initContainerStatuses"][0]["state"]["running"].is_object()
        })
        .await;
    assert_eq!(waiting(&pod), "PodInitializing");
    assert_eq!(condition(&pod, "Initialized"), "False");
    lab.runtime.exit("i", 0);
    let pod = lab.until("a", "ready", ready).await;
    assert_eq!(
        pod["status"]["initContainerStatuses"][0]["state"]["terminated"]["reason"],
        "Completed"
    );
    assert_eq!(pod["status"]["initContainerStatuses"][1]["ready"], true);
    lab.runtime.exit("c", 1);
    lab.until("a", "restarted once", |pod| {
        pod["status"]["containerStatuses"][0]["restartCount"] == 1 && ready(pod)
    })
    .await;
    lab.runtime.exit("c", 1);
    let pod = lab.until("a", "backing off", |pod| waiting(pod) == "CrashLoopBackOff").await;
    assert_eq!(
        pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"],
        "back-off 10s restarting failed container=c pod=a_n(uid-a)"
    );
    assert_eq!(
        pod["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"],
        1
    );
    assert_eq!(pod["status"]["phase"], "Running");
}

#[tokio::test]
async fn nothing_counts_on_a_container_before_its_post_start_hook_has_ended() {
    let lab = Lab::start();
    lab.runtime.hold_execs(true);
    let hook = json!({"postStart": {"exec": {"command": ["hook"]}}});
    let probe = json!({"exec": {"command": ["probe"]}, "periodSeconds": 1});
    lab.pod(
        "a",
        json!({"restartPolicy": "Always",
        "initContainers": [{"name": "side", "image": "img:1", "restartPolicy": "Always", "lifecycle": hook, "readinessProbe": probe}],
        "containers": [{"name": "c", "image": "img:1"}]}),
    );
    lab.until_called("exec c2 hook").await;
    lab.change("a", |pod| pod["metadata"]["labels"] = json!({"seen": "yes"}))
        .await;
    let pod = lab
        .until("a", "looked at again", |pod| pod["status"]["observedGeneration"] == 2)
        .await;
    let side = &pod["status"]["initContainerStatuses"][0];
    assert_eq!(side["state"], json!({"waiting": {"reason": "PodInitializing"}}));
    assert_eq!((&side["started"], &side["ready"]), (&json!(false), &json!(false)));
    assert_eq!(condition(&pod, "Initialized"), "False");
    let calls = lab.runtime.calls();
    assert!(
        !calls.iter().any(|call| call.contains("probe") || call == "create c 0"),
        "{calls:?}"
    );

    lab.runtime.hold_execs(false);
    lab.until("a", "ready", ready).await;
    let calls = lab.runtime.calls();
    let at = |text: &str| calls.iter().position(|call| call == text);
    assert!(at("exec c2 hook") < at("create c 0"), "{calls:?}");
}

#[tokio::test]
async fn a_post_start_hook_that_fails_ends_its_container() {
    let lab = Lab::start();
    lab.runtime.exec_results(&[1]);
    lab.pod(
        "a",
        json!({"restartPolicy": "Always", "terminationGracePeriodSeconds": 3, "containers": [
            {"name": "c", "image": "img:1", "lifecycle": {"postStart": {"exec": {"command": ["hook"]}}}}]}),
    );
    lab.until_called("stop c 3").await;
    let pod = lab
        .until("a", "waiting for the next try", |pod| waiting(pod) == "PostStartHookError")
        .await;
    assert_eq!(
        pod["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"],
        143
    );
    assert_eq!(lab.until_told("FailedPostStartHook").await, "PostStartHook failed");
    assert_eq!(lab.until_told("Killing").await, "FailedPostStartHook");
}

#[tokio::test]
async fn a_pod_whose_image_changes_is_ready_until_the_old_container_has_ended() {
    let lab = Lab::start();
    lab.runtime.add_image("img:2");
    let probe = json!({"exec": {"command": ["probe"]}, "periodSeconds": 1});
    lab.pod(
        "a",
        json!({"restartPolicy": "Always", "terminationGracePeriodSeconds": 7, "containers": [
            {"name": "c", "image": "img:1", "readinessProbe": probe}]}),
    );
    lab.until("a", "ready", ready).await;
    lab.runtime.hold_stops(true);
    lab.change("a", |pod| pod["spec"]["containers"][0]["image"] = json!("img:2"))
        .await;
    lab.until_called("stop c 7").await;
    lab.change("a", |pod| pod["metadata"]["labels"] = json!({"seen": "yes"}))
        .await;
    let pod = lab
        .until("a", "looked at again", |pod| pod["status"]["observedGeneration"] == 3)
        .await;
    assert!(ready(&pod), "{pod:#}");
    let container = &pod["status"]["containerStatuses"][0];
    assert_eq!((&container["ready"], &container["image"]), (&json!(true), &json!("img:1")));
    lab.runtime.hold_execs(true);
    lab.runtime.hold_stops(false);
    lab.until("a", "not ready", |pod| !ready(pod)).await;
    let pod = lab
        .until("a", "running the new image", |pod| {
            let container = &pod["status"]["containerStatuses"][0];
            container["image"] == "img:2" && container["state"]["running"].is_object()
        })
        .await;
    assert!(!ready(&pod), "its probe has not answered yet");
    lab.runtime.hold_execs(false);
    lab.until("a", "ready again", ready).await;
}

#[tokio::test]
async fn a_job_like_pod_succeeds_and_leaves_no_sandbox() {
    let lab = Lab::start();
    lab.pod(
        "a",
        json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "img:1"}]}),
    );
    lab.until("a", "ready", ready).await;
    lab.runtime.exit("c", 0);
    let pod = lab.until("a", "done", |pod| pod["status"]["phase"] == "Succeeded").await;
    let ready = pod["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .find(|condition| condition["type"] == "Ready")
        .unwrap()
        .clone();
    assert_eq!(
        (ready["status"].as_str(), ready["reason"].as_str()),
        (Some("False"), Some("PodCompleted"))
    );
    lab.until_called("stop-sandbox s1").await;
}

#[tokio::test]
async fn what_cannot_run_says_why() {
    let lab = Lab::start();
    lab.runtime.break_command("nope");
    lab.pod(
        "image",
        json!({"restartPolicy": "Always", "containers": [{"name": "c", "image": "absent:1"}]}),
    );
    lab.pod(
        "command",
        json!({"restartPolicy": "Always", "containers": [{"name": "c", "image": "img:1", "command": ["nope"]}]}),
    );
    lab.pod("env", json!({"restartPolicy": "Always", "containers": [{"name": "c", "image": "img:1", "envFrom": [{"configMapRef": {"name": "gone"}}]}]}));
    // Together these have 64 MiB, if nobody looks; what has more is tried under limits (`pod/tests/cost.rs`).
    let doubled: Vec<Value> = (0..26)
        .map(|number| json!({"name": "A", "value": if number == 0 { "x" } else { "$(A)$(A)" }}))
        .collect();
    lab.pod(
        "doubled",
        json!({"restartPolicy": "Always", "containers": [{"name": "c", "image": "img:1", "env": doubled}]}),
    );
    lab.pod("volume", json!({"restartPolicy": "Always", "volumes": [{"name": "v", "configMap": {"name": "gone"}}], "containers": [{"name": "c", "image": "img:1"}]}));
    lab.until("image", "ErrImagePull", |pod| waiting(pod) == "ErrImagePull").await;
    let pod = lab
        .until("image", "ImagePullBackOff", |pod| waiting(pod) == "ImagePullBackOff")
        .await;
    let message = pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(
        message,
        "Back-off pulling image \"absent:1\": ErrImagePull: absent:1: not found"
    );
    lab.until("command", "RunContainerError", |pod| waiting(pod) == "RunContainerError")
        .await;
    lab.until("env", "CreateContainerConfigError", |pod| {
        waiting(pod) == "CreateContainerConfigError"
    })
    .await;
    let pod = lab
        .until("doubled", "CreateContainerConfigError", |pod| {
            waiting(pod) == "CreateContainerConfigError"
        })
        .await;
    let told = "argument list too long: environment or command have more than 8388608 bytes";
    assert_eq!(pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"], told);
    let pod = lab
        .until("volume", "waiting", |pod| waiting(pod) == "ContainerCreating")
        .await;
    assert_eq!(condition(&pod, "PodReadyToStartContainers"), "False");
    let events = lab.events().await;
    assert!(
        events.contains(&(
            "FailedMount".into(),
            "MountVolume.SetUp failed for volume \"v\" : configmap \"gone\" not found".into()
        )),
        "{events:?}"
    );
}

#[tokio::test]
async fn probes_decide_readiness_and_restarts() {
    let lab = Lab::start();
    let exec = |command: &str, more: Value| {
        let mut probe = json!({"exec": {"command": [command]}, "periodSeconds": 1, "failureThreshold": 1, "successThreshold": 1});
        probe.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        probe
    };
    lab.runtime.exec_results(&[1, 0, 0]);
    lab.pod("a", json!({"restartPolicy": "Always", "terminationGracePeriodSeconds": 3, "containers": [{"name": "c", "image": "img:1", "readinessProbe": exec("ready", json!({}))}]}));
    let pod = lab
        .until("a", "running and not ready", |pod| {
            pod["status"]["containerStatuses"][0]["started"] == true
        })
        .await;
    assert!(!ready(&pod));
    lab.until("a", "ready", ready).await;
    lab.runtime.exec_results(&[1]);
    lab.pod("b", json!({"restartPolicy": "Always", "terminationGracePeriodSeconds": 3, "containers": [{"name": "d", "image": "img:1", "livenessProbe": exec("live", json!({"terminationGracePeriodSeconds": 2}))}]}));
    lab.until_called("stop d 2").await;
    lab.until("b", "restarted", |pod| {
        pod["status"]["containerStatuses"][0]["restartCount"] == 1
    })
    .await;
}

#[tokio::test]
async fn a_restart_of_the_kubelet_touches_no_pod_and_ends_orphans() {
    let lab = Lab::start();
    lab.pod(
        "a",
        json!({"restartPolicy": "Always", "containers": [{"name": "c", "image": "img:1"}]}),
    );
    lab.pod(
        "b",
        json!({"restartPolicy": "Always", "containers": [{"name": "d", "image": "img:1"}]}),
    );
    lab.until("a", "ready", ready).await;
    lab.until("b", "ready", ready).await;
    let before: Vec<String> = lab.runtime.calls();
    let (api, runtime, directory) = (Arc::clone(&lab.api), Arc::clone(&lab.runtime), Arc::clone(&lab._directory));
    let mut lab = lab;
    lab.shutdown.cancel();
    lab.task.take().unwrap().await.unwrap();
    let mut gone = lab.get("b").await;
    gone["metadata"]["finalizers"] = json!([]);
    api.seed(&ResourceRef::of::<Pod>(), gone);
    lab.client.delete::<Pod>("n", "b", &DeleteOptions::default()).await.unwrap();
    let lab = Lab::with(api, runtime, directory, None);
    lab.until_called("stop d 30").await;
    lab.pod(
        "e",
        json!({"restartPolicy": "Always", "containers": [{"name": "e", "image": "img:1"}]}),
    );
    lab.until("e", "ready", ready).await;
    let calls = lab.runtime.calls();
    assert!(
        !calls[before.len()..]
            .iter()
            .any(|call| call.starts_with("stop c") || call == "start c" || call == "create c 0"),
        "{calls:?}"
    );
    let lab = lab.restart().await;
    lab.until("a", "ready", ready).await;
}

#[tokio::test]
async fn a_successor_of_the_same_name_waits() {
    let lab = Lab::start();
    lab.pod("a", json!({"restartPolicy": "Always", "containers": [{"name": "c", "image": "img:1", "lifecycle": {"preStop": {"sleep": {"seconds": 1}}}}]}));
    lab.until("a", "ready", ready).await;
    let mut next = lab.get("a").await;
    next["metadata"]["uid"] = json!("uid-next");
    next["status"] = json!({"phase": "Pending"});
    // The API forgets the first without a word of deletion, as with --force.
    lab.api.seed(&ResourceRef::of::<Pod>(), next);
    lab.until("a", "ready again", |pod| pod["metadata"]["uid"] == "uid-next" && ready(pod))
        .await;
    let calls = lab.runtime.calls();
    let at = |text: &str| {
        calls
            .iter()
            .position(|call| call == text)
            .unwrap_or_else(|| panic!("no {text} in {calls:?}"))
    };
    assert!(
        at("remove-sandbox s1") < at("sandbox a kubepods/besteffort/poduid-next"),
        "{calls:?}"
    );
}

#[tokio::test]
async fn a_pod_that_cannot_be_read_is_told_of_and_can_still_be_deleted() {
    let lab = Lab::start();
    lab.pod("a", guaranteed("100m", "20Mi"));
    lab.until("a", "ready", ready).await;
    lab.change("a", |pod| pod["spec"]["priority"] = json!("high")).await;
    let told = lab.until_told("FailedSync").await;
    assert!(told.starts_with("the kubelet cannot read the pod: "), "{told}");
    let calls = lab.runtime.calls();
    assert!(!calls.iter().any(|call| call.starts_with("stop")), "it runs on: {calls:?}");
    lab.delete("a", 5).await;
    lab.until_called("stop c 30").await;
}

#[tokio::test]
async fn a_deadline_ends_a_pod() {
    let lab = Lab::start();
    lab.pod(
        "a",
        json!({"restartPolicy": "Never", "activeDeadlineSeconds": 1, "containers": [{"name": "c", "image": "img:1"}]}),
    );
    let pod = lab.until("a", "over", |pod| pod["status"]["phase"] == "Failed").await;
    assert_eq!(pod["status"]["reason"], "DeadlineExceeded");
    lab.until("a", "stopped", |pod| {
        pod["status"]["containerStatuses"][0]["state"]["terminated"].is_object()
    })
    .await;
    let told = (
        "DeadlineExceeded",
        "Pod was active on the node longer than the specified deadline",
    );
    let mut times = 0;
    for _ in 0..500 {
        let events = lab.events().await;
        times = events.iter().filter(|(reason, text)| (&**reason, &**text) == told).count();
        if times > 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(times, 1, "{:?}", lab.events().await);
}

#[tokio::test]
async fn what_keeps_a_node_from_being_ready_is_in_its_condition() {
    let directory = Arc::new(tempfile::tempdir().unwrap());
    std::fs::write(directory.path().join(OBSTACLE), "the disk is gone").unwrap();
    let lab = Lab::with(FakeTransport::new(), FakeRuntime::new(), Arc::clone(&directory), None);
    let ready = async |lab: &Lab, wanted: &str| {
        for _ in 0..500 {
            let node = lab.client.find::<Node>("", "node-1").await.unwrap();
            let conditions = node
                .and_then(|node| node.status.clone()?.conditions.clone())
                .unwrap_or_default();
            let ready = conditions
                .into_iter()
                .find(|condition| condition.type_ == "Ready" && condition.status == wanted);
            if let Some(ready) = ready {
                return (ready.reason.unwrap(), ready.message.unwrap());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("Ready is never {wanted}");
    };
    let (reason, message) = ready(&lab, "False").await;
    assert_eq!((&*reason, &*message), ("KubeletNotReady", "the disk is gone"));
    std::fs::remove_file(directory.path().join(OBSTACLE)).unwrap();
    let lab = lab.restart().await;
    assert_eq!(ready(&lab, "True").await.0, "KubeletReady");
}

#[tokio::test]
async fn the_node_registers_and_keeps_its_lease() {
    let lab = Lab::start();
    for _ in 0..500 {
        if lab.client.find::<Lease>("kube-node-lease", "node-1").await.unwrap().is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let lease = lab.client.get::<Lease>("kube-node-lease", "node-1").await.unwrap();
    let spec = lease.spec.as_ref().unwrap();
    assert_eq!(
        (spec.holder_identity.as_deref(), spec.lease_duration_seconds),
        (Some("node-1"), Some(40))
    );
    let node = lab.client.get::<Node>("", "node-1").await.unwrap();
    let status = node.status.as_ref().unwrap();
    let ready = status
        .conditions
        .as_ref()
        .unwrap()
        .iter()
        .find(|condition| condition.type_ == "Ready")
        .unwrap();
    assert_eq!(
        (ready.reason.as_deref(), ready.message.as_deref()),
        (Some("KubeletReady"), Some("kubelet is posting ready status"))
    );
    assert_eq!(status.capacity.as_ref().unwrap()["pods"].0, "110");
    assert_eq!(node.metadata.labels.as_ref().unwrap()["kubernetes.io/os"], "linux");
    assert_eq!(
        status
            .daemon_endpoints
            .as_ref()
            .unwrap()
            .kubelet_endpoint
            .as_ref()
            .unwrap()
            .port,
        10250
    );
}
