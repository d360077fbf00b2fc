//! Hollow nodes at a real server with its controllers and its scheduler: a workload comes up on them and goes again.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::process::{Home, trireme};

const NODES: usize = 50;
const PODS: usize = 200;
/// Longest wait for anything, in a debug build on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// The API as the administrator, by the server's kubeconfig.
struct Api {
    url: String,
    client: reqwest::Client,
    runtime: tokio::runtime::Runtime,
}

impl Api {
    fn of(home: &Home) -> Self {
        let text = std::fs::read_to_string(&home.kubeconfig).unwrap();
        let data = |key: &str| {
            let line = text.lines().find_map(|line| line.trim().strip_prefix(key)).unwrap();
            base64::engine::general_purpose::STANDARD.decode(line.trim()).unwrap()
        };
        let identity = [data("client-certificate-data:"), data("client-key-data:")].concat();
        let authority = reqwest::Certificate::from_pem(&data("certificate-authority-data:")).unwrap();
        Self {
            url: format!("https://127.0.0.1:{}", home.port),
            client: reqwest::Client::builder()
                .tls_certs_only([authority])
                .identity(reqwest::Identity::from_pem(&identity).unwrap())
                .build()
                .unwrap(),
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap(),
        }
    }

    fn send(&self, method: reqwest::Method, path: &str, body: Option<(&str, Value)>) -> (u16, Value) {
        let mut request = self.client.request(method, format!("{}{path}", self.url));
        if let Some((kind, body)) = body {
            request = request.header("content-type", kind).body(body.to_string());
        }
        self.runtime.block_on(async {
            let answer = request.send().await.unwrap();
            let status = answer.status().as_u16();
            let text = answer.text().await.unwrap();
            (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
        })
    }

    fn get(&self, path: &str) -> Value {
        self.send(reqwest::Method::GET, path, None).1
    }

    fn until(&self, path: &str, what: &str, done: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = self.get(path);
            if done(&seen) {
                return seen;
            }
            assert!(Instant::now() < deadline, "{path} never {what}: {:.2000}", seen.to_string());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn items(list: &Value) -> &[Value] {
    list["items"].as_array().map_or(&[], Vec::as_slice)
}

/// A pool that runs; killed with its value.
struct Pool(Child);

impl Pool {
    fn start(home: &Home, arguments: &[&str]) -> Self {
        let mut command = trireme();
        command
            .arg("hollow")
            .arg("--kubeconfig")
            .arg(&home.kubeconfig)
            .args(arguments);
        Self(command.stdin(Stdio::null()).spawn().unwrap())
    }

    fn stop(mut self) {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), Signal::SIGTERM).unwrap();
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // It may have ended.
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait().map(drop)) {
            eprintln!("ending a pool: {error}");
        }
    }
}

fn is_ready(object: &Value) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

const PATCH: &str = "application/merge-patch+json";
const JSON: &str = "application/json";

/// 50 nodes, a Deployment of 200 that becomes available, is scaled to none and leaves nothing; a Job; what stays when the
/// pool ends, and nothing with `--clean`.
#[test]
fn hollow_nodes_carry_a_deployment_and_leave_nothing() {
    let home = Home::new("planner");
    let server = home.start(&[]);
    let api = Api::of(&home);
    let count = NODES.to_string();
    let pool = Pool::start(&home, &["--nodes", &count, "--job-time", "0s", "--zones", "3"]);
    let nodes = api.until("/api/v1/nodes", "all ready", |list| {
        items(list).len() == NODES && items(list).iter().all(is_ready)
    });
    for node in items(&nodes) {
        assert_eq!(node["metadata"]["labels"]["hollow.trireme.io/pool"], "hollow");
        assert_eq!(node["status"]["capacity"]["cpu"], "32");
        assert!(node["metadata"]["labels"]["topology.kubernetes.io/zone"].is_string());
        let managers = node["metadata"]["managedFields"].as_array().unwrap();
        assert!(managers.iter().any(|manager| manager["manager"] == "kubelet"));
    }
    api.until(
        "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases",
        "all renewed",
        |list| {
            items(list)
                .iter()
                .filter(|lease| lease["spec"]["renewTime"].is_string())
                .count()
                == NODES
        },
    );

    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
        "replicas": PODS, "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{
            "name": "main", "image": "example.org/web:1", "readinessProbe": {"httpGet": {"port": 80}},
            "resources": {"requests": {"cpu": "10m"}}}]}}}});
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let (status, told) = api.send(reqwest::Method::POST, path, Some((JSON, deployment)));
    assert_eq!(status, 201, "{told}");
    let own = format!("{path}/web");
    api.until(&own, "available", |web| web["status"]["availableReplicas"] == PODS);
    let pods = api.get("/api/v1/namespaces/default/pods");
    let mut addresses: Vec<&str> = items(&pods)
        .iter()
        .filter_map(|pod| pod["status"]["podIP"].as_str())
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), PODS, "every pod has an address of its own");
    for pod in items(&pods) {
        let node = pod["spec"]["nodeName"].as_str().unwrap();
        let node = items(&nodes).iter().find(|known| known["metadata"]["name"] == node).unwrap();
        let container = &pod["status"]["containerStatuses"][0];
        assert!(container["containerID"].as_str().unwrap().starts_with("trireme://"));
        assert!(container["state"]["running"]["startedAt"].is_string());
        assert_eq!(pod["status"]["hostIP"], node["status"]["addresses"][0]["address"]);
    }

    let scaled = json!({"spec": {"replicas": 0}});
    assert_eq!(api.send(reqwest::Method::PATCH, &own, Some((PATCH, scaled))).0, 200);
    api.until("/api/v1/namespaces/default/pods", "gone", |list| items(list).is_empty());

    let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "sum"}, "spec": {
        "completions": 5, "parallelism": 3,
        "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "example.org/sum:1"}]}}}});
    let jobs = "/apis/batch/v1/namespaces/default/jobs";
    assert_eq!(api.send(reqwest::Method::POST, jobs, Some((JSON, job))).0, 201);
    api.until(&format!("{jobs}/sum"), "complete", |job| job["status"]["succeeded"] == 5);

    // What it made stays, and a pool of the same name goes on with it. Another one does not take it over.
    pool.stop();
    assert_eq!(items(&api.get("/api/v1/nodes")).len(), NODES);
    let other = json!({"metadata": {"labels": {"hollow.trireme.io/pool": null}}});
    let (status, _) = api.send(reqwest::Method::PATCH, "/api/v1/nodes/hollow-7", Some((PATCH, other)));
    assert_eq!(status, 200);
    let mut refused = trireme();
    refused.args(["hollow", "--nodes", "8", "--kubeconfig"]).arg(&home.kubeconfig);
    let refused = refused.output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && said.contains("node hollow-7 exists and is none of this pool"),
        "{said}"
    );
    let again = json!({"metadata": {"labels": {"hollow.trireme.io/pool": "hollow"}}});
    assert_eq!(
        api.send(reqwest::Method::PATCH, "/api/v1/nodes/hollow-7", Some((PATCH, again)))
            .0,
        200
    );

    let pool = Pool::start(&home, &["--nodes", &count, "--clean"]);
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    let before = api.get(leases)["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .parse::<u64>()
        .unwrap();
    api.until(leases, "renewed anew", |list| {
        let version = |lease: &Value| lease["metadata"]["resourceVersion"].as_str()?.parse::<u64>().ok();
        items(list)
            .iter()
            .all(|lease| version(lease).is_some_and(|version| version > before))
    });
    pool.stop();
    assert!(items(&api.get("/api/v1/nodes")).is_empty());
    assert!(items(&api.get(leases)).is_empty());
    assert!(items(&api.get("/api/v1/namespaces/default/pods")).is_empty());
    server.stop();
}

/// Who may not act as nodes is told so, and nothing is made.
#[test]
fn a_hollow_pool_without_its_right_is_refused() {
    let home = Home::new("guest");
    let server = home.start(&[]);
    let text = std::fs::read_to_string(&home.kubeconfig).unwrap();
    let mine = home.kubeconfig.with_file_name("mine");
    let lines = text.lines().filter(|line| !line.contains("client-key-data:"));
    let lines = lines.map(|line| match line.split_once("client-certificate-data:") {
        Some((indent, _)) => format!("{indent}token: nobodys\n"),
        None => format!("{line}\n"),
    });
    std::fs::write(&mine, lines.collect::<String>()).unwrap();
    for (file, arguments, expected) in [
        (&mine, &["--nodes", "1"][..], "Unauthorized"),
        (
            &home.kubeconfig,
            &["--nodes", "300", "--pod-range", "10.42.0.0/16"][..],
            "has no room for a /24",
        ),
        (
            &home.kubeconfig,
            &["--nodes", "3", "--address-range", "192.0.2.0/30", "--first", "1"][..],
            "has no room for 4 nodes",
        ),
        (
            &home.kubeconfig.with_file_name("absent"),
            &["--nodes", "1"][..],
            "name a kubeconfig with --kubeconfig",
        ),
    ] {
        let mut command = trireme();
        command.arg("hollow").arg("--kubeconfig").arg(file).args(arguments);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(expected), "{said}");
    }
    assert!(items(&Api::of(&home).get("/api/v1/nodes")).is_empty());
    server.stop();
}
