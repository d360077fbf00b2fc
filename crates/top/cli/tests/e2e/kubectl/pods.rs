//! What pods do in their lives: starting, failing, being confined, ending.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{PATIENCE, field, field_becomes, ready, shell};
use crate::cluster::{Cluster, Namespace, contains};

/// A pod of one busybox container named main; `more` goes on in the container, `spec` in the pod.
fn pod(name: &str, script: &str, more: &str, spec: &str) -> String {
    let command = serde_json::json!(["sh", "-c", script]);
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  terminationGracePeriodSeconds: 1
  {spec}
  containers:
  - name: main
    image: busybox:1.35
    command: {command}
    {more}
"
    )
}

/// The first container's status.
fn status(space: &Namespace<'_>, name: &str) -> Result<Value> {
    Ok(serde_json::from_str(&field(
        space,
        &format!("pod/{name}"),
        ".status.containerStatuses[0]",
    )?)?)
}

pub(super) fn init(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("init")?;
    let volume = "volumes: [{name: data, emptyDir: {}}]";
    let init = |script: &str| {
        format!("{volume}\n  initContainers:\n{}", ["one", "two"].map(|name| {
        let command = serde_json::json!(["sh", "-c", script.replace("NAME", name)]);
        format!("  - {{name: {name}, image: 'busybox:1.35', command: {command}, volumeMounts: [{{name: data, mountPath: /data}}]}}\n")
    }).concat())
    };
    let mount = "volumeMounts: [{name: data, mountPath: /data}]";
    space.apply(&pod(
        "ordered",
        "echo main >> /data/order; exec sleep 3600",
        mount,
        &init("echo NAME >> /data/order"),
    ))?;
    ready(&space, &["ordered"])?;
    ensure!(shell(&space, "ordered", "cat /data/order")? == "one\ntwo\nmain\n", "in order");
    ensure!(
        space.run(&["logs", "ordered", "-c", "one"])?.is_empty(),
        "an init container has a log"
    );
    // One that fails keeps the others back.
    space.apply(&pod(
        "failing",
        "echo main; exec sleep 3600",
        mount,
        &init("echo NAME; exit 1"),
    ))?;
    space.until(&["get", "pod", "failing", "--no-headers"], PATIENCE, |line| {
        line.contains("Init:Error") || line.contains("Init:CrashLoopBackOff")
    })?;
    ensure!(
        field(&space, "pod/failing", ".status.conditions[?(@.type=='Initialized')].status")? == "False",
        "it is not initialized"
    );
    contains(
        &field(&space, "pod/failing", ".status.initContainerStatuses[1].state.waiting.reason")?,
        "PodInitializing",
    )?;
    ensure!(
        space.run(&["logs", "failing", "-c", "one"])? == "one\n",
        "the log of the init container that failed"
    );
    Ok(())
}

pub(super) fn liveness(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("liveness")?;
    let probe = "livenessProbe: {exec: {command: [cat, /tmp/alive]}, periodSeconds: 1, failureThreshold: 2}";
    space.apply(&pod("alive", "touch /tmp/alive; exec sleep 3600", probe, ""))?;
    ready(&space, &["alive"])?;
    ensure!(status(&space, "alive")?["restartCount"] == 0, "it lives");
    shell(&space, "alive", "rm /tmp/alive")?;
    field_becomes(&space, "pod/alive", ".status.containerStatuses[0].restartCount", "1")?;
    ready(&space, &["alive"])?;
    let described = space.run(&["describe", "pod", "alive"])?;
    contains(&described, "Liveness probe failed: cat: can't open '/tmp/alive'")?;
    contains(&described, "Container main failed liveness probe, will be restarted")?;
    ensure!(
        status(&space, "alive")?["lastState"]["terminated"]["exitCode"] == 137,
        "it was killed"
    );
    Ok(())
}

pub(super) fn readiness(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("readiness")?;
    let probes = "startupProbe: {exec: {command: [test, -e, /tmp/started]}, periodSeconds: 1, failureThreshold: 60}
    readinessProbe: {httpGet: {path: /index.html, port: 8080}, periodSeconds: 1, failureThreshold: 1}
    ports: [{containerPort: 8080, name: web}]";
    space.apply(&pod("web", "mkdir /www; exec httpd -f -p 8080 -h /www", probes, ""))?;
    space.run(&["expose", "pod", "web", "--port=80", "--target-port=web"])?;
    let started = ".status.containerStatuses[0].started";
    let path = "jsonpath={.items[*].endpoints[?(@.conditions.ready==true)].addresses[0]}";
    let address = ["get", "endpointslices", "-l", "kubernetes.io/service-name=web", "-o", path];
    field_becomes(&space, "pod/web", ".status.phase", "Running")?;
    ensure!(
        field(&space, "pod/web", started)? == "false",
        "not started until the probe says so"
    );
    shell(&space, "web", "touch /tmp/started")?;
    field_becomes(&space, "pod/web", started, "true")?;
    ensure!(space.run(&address)?.is_empty(), "no endpoint before it is ready");
    shell(&space, "web", "echo page > /www/index.html")?;
    ready(&space, &["web"])?;
    space.until(&address, PATIENCE, |ip| !ip.is_empty())?;
    shell(&space, "web", "rm /www/index.html")?;
    space.until(&address, PATIENCE, str::is_empty)?;
    contains(
        &space.run(&["describe", "pod", "web"])?,
        "Readiness probe failed: HTTP probe failed with statuscode: 404",
    )?;
    ensure!(status(&space, "web")?["restartCount"] == 0, "readiness restarts nothing");
    Ok(())
}

pub(super) fn crash(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("crash")?;
    space.apply(&pod("crashing", "echo I am going; exit 4", "", ""))?;
    space.until(&["get", "pod", "crashing", "--no-headers"], PATIENCE, |line| {
        line.contains("CrashLoopBackOff")
    })?;
    let now = status(&space, "crashing")?;
    contains(
        now["state"]["waiting"]["message"].as_str().context("a message")?,
        "back-off 10s restarting failed container=main pod=crashing_crash(",
    )?;
    ensure!(
        now["lastState"]["terminated"]["exitCode"] == 4 && now["lastState"]["terminated"]["reason"] == "Error",
        "{now}"
    );
    let count = now["restartCount"].as_u64().context("a count")?;
    ensure!(count <= 2, "restarted {count} times before the first pause");
    ensure!(
        space.run(&["logs", "crashing", "--previous"])? == "I am going\n",
        "the log of the container before"
    );
    contains(
        &space.run(&["describe", "pod", "crashing"])?,
        "Back-off restarting failed container main in pod crashing_crash(",
    )?;
    space.apply(&pod("missing", "", "", "").replace(r#"["sh","-c",""]"#, "[/no/such/command]"))?;
    space.until(&["get", "pod", "missing", "--no-headers"], PATIENCE, |line| {
        line.contains("RunContainerError") || line.contains("CrashLoopBackOff")
    })?;
    let now = status(&space, "missing")?;
    ensure!(now.to_string().contains("no such file or directory"), "{now}");
    contains(&space.run(&["describe", "pod", "missing"])?, "exec: \"/no/such/command\"")?;
    // Never again where the policy says so.
    space.apply(&pod("once", "exit 3", "", "restartPolicy: Never"))?;
    field_becomes(&space, "pod/once", ".status.phase", "Failed")?;
    ensure!(status(&space, "once")?["restartCount"] == 0, "never is never");
    Ok(())
}

pub(super) fn out_of_memory(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("memory")?;
    space.apply(&pod(
        "greedy",
        "x=a; while true; do x=$x$x; done",
        "resources: {limits: {memory: 16Mi}}",
        "restartPolicy: Never",
    ))?;
    field_becomes(&space, "pod/greedy", ".status.phase", "Failed")?;
    let now = status(&space, "greedy")?;
    ensure!(
        now["state"]["terminated"]["reason"] == "OOMKilled" && now["state"]["terminated"]["exitCode"] == 137,
        "{now}"
    );
    contains(&space.run(&["get", "pod", "greedy"])?, "OOMKilled")
}

pub(super) fn confined(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("confined")?;
    let container = "securityContext: {readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}}
    resources: {limits: {memory: 64Mi, cpu: 200m}, requests: {cpu: 100m}}
    volumeMounts: [{name: data, mountPath: /data}]";
    let spec = "securityContext: {runAsUser: 1000, runAsGroup: 2000, fsGroup: 3000, supplementalGroups: [4000]}
  volumes: [{name: data, emptyDir: {}}]";
    space.apply(&pod("confined", "exec sleep 3600", container, spec))?;
    ready(&space, &["confined"])?;
    let run = |script: &str| shell(&space, "confined", script);
    let identity = run("id -u; id -g; id -G")?;
    let mut lines = identity.lines();
    ensure!(lines.next() == Some("1000") && lines.next() == Some("2000"), "{identity}");
    let groups = lines.next().unwrap_or_default();
    ensure!(
        ["3000", "4000"]
            .iter()
            .all(|group| groups.split(' ').any(|own| own == *group)),
        "{groups}"
    );
    contains(&run("touch /new 2>&1 || true")?, "Read-only file system")?;
    ensure!(
        run("touch /data/new; stat -c '%u %g' /data/new")? == "1000 3000\n",
        "fsGroup owns what is made in the volume"
    );
    for process in ["self", "1"] {
        let status = run(&format!("cat /proc/{process}/status"))?;
        contains(&status, "NoNewPrivs:\t1")?;
        contains(&status, "CapEff:\t0000000000000000")?;
        contains(&status, "CapBnd:\t0000000000000400")?; // NET_BIND_SERVICE is the tenth bit.
    }
    // cgroup v2 has other names than v1.
    let memory = run("cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes")?;
    ensure!(memory.trim() == "67108864", "memory is limited to {memory}");
    let quota = run(
        "cat /sys/fs/cgroup/cpu.max 2>/dev/null || cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu/cpu.cfs_period_us",
    )?;
    ensure!(quota.split_whitespace().eq(["20000", "100000"]), "CPU is limited to {quota}");
    ensure!(field(&space, "pod/confined", ".status.qosClass")? == "Burstable", "its class");
    // The machine's processes and devices are out of sight.
    let processes = run("ls /proc | grep -c '^[0-9]'")?;
    ensure!(processes.trim().parse::<u32>()? < 10, "{processes} processes are seen");
    // Root is refused where the pod says so.
    space.apply(&pod("root", "exec sleep 3600", "securityContext: {runAsNonRoot: true}", ""))?;
    field_becomes(
        &space,
        "pod/root",
        ".status.containerStatuses[0].state.waiting.reason",
        "CreateContainerConfigError",
    )?;
    contains(
        &space.run(&["describe", "pod", "root"])?,
        "container has runAsNonRoot and image will run as root",
    )
}

pub(super) fn graceful(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("graceful")?;
    let mount = "volumeMounts: [{name: host, mountPath: /host}]";
    let script = "trap 'echo term >> /host/log; sleep 1; echo bye >> /host/log; exit 0' TERM; while true; do sleep 0.1; done";
    let hook = format!(
        "{mount}\n    lifecycle: {{postStart: {{exec: {{command: [sh, -c, 'echo post >> /host/log']}}}}, preStop: {{exec: {{command: [sh, -c, 'echo pre >> /host/log; sleep 1; echo pre-end >> /host/log']}}}}}}"
    );
    let volume = "volumes: [{name: host, hostPath: {path: /var/lib/trireme/e2e-graceful, type: DirectoryOrCreate}}]";
    let polite =
        pod("polite", script, &hook, volume).replace("terminationGracePeriodSeconds: 1\n", "terminationGracePeriodSeconds: 25\n");
    space.apply(&polite)?;
    ready(&space, &["polite"])?;
    space.run(&["delete", "pod", "polite", "--timeout=40s"])?;
    let log = cluster.lab(&["exec", "--", "cat", "/var/lib/trireme/e2e-graceful/log"])?;
    ensure!(log == "post\npre\npre-end\nterm\nbye\n", "the order of the end: {log}");
    // One that does not listen is killed when its time is over.
    space.apply(&pod("deaf", "trap '' TERM; while true; do sleep 1; done", "", ""))?;
    ready(&space, &["deaf"])?;
    space.run(&["delete", "pod", "deaf", "--timeout=20s"])?;
    contains(
        &space.run(&["get", "events", "-o", "jsonpath={.items[*].message}"])?,
        "Stopping container main",
    )
}

pub(super) fn deadline(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("deadline")?;
    space.apply(&pod("late", "exec sleep 3600", "", "activeDeadlineSeconds: 2"))?;
    field_becomes(&space, "pod/late", ".status.phase", "Failed")?;
    ensure!(
        field(&space, "pod/late", ".status.reason")? == "DeadlineExceeded",
        "the reason"
    );
    contains(
        &field(&space, "pod/late", ".status.message")?,
        "Pod was active on the node longer than the specified deadline",
    )?;
    let told = "jsonpath={.items[?(@.reason=='DeadlineExceeded')].message}";
    space.until(&["get", "events", "-o", told], Duration::from_secs(20), |text| {
        text == "Pod was active on the node longer than the specified deadline"
    })?;
    space
        .until(
            &[
                "get",
                "pod",
                "late",
                "-o",
                "jsonpath={.status.containerStatuses[0].state.terminated.exitCode}",
            ],
            Duration::from_secs(20),
            |code| !code.is_empty() && code != "0",
        )
        .map(drop)
}

pub(super) fn host_network(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("host-network")?;
    space.apply(&pod(
        "host",
        "echo page > /tmp/index.html; exec httpd -f -p 18999 -h /tmp",
        "ports: [{containerPort: 18999}]",
        "hostNetwork: true",
    ))?;
    ready(&space, &["host"])?;
    ensure!(
        field(&space, "pod/host", ".status.podIP")? == cluster.address,
        "its address is the host's"
    );
    contains(&crate::http::get(format!("{}:18999", cluster.address).parse()?, "/")?, "page")?;
    contains(&shell(&space, "host", "ip addr")?, &cluster.address)?;
    // The port is taken: a second pod finds no place.
    space.apply(&pod(
        "second",
        "exec sleep 3600",
        "ports: [{containerPort: 18999}]",
        "hostNetwork: true",
    ))?;
    let message = [
        "get",
        "pod",
        "second",
        "-o",
        "jsonpath={.status.conditions[?(@.type=='PodScheduled')].message}",
    ];
    space.until(&message, PATIENCE, |text| {
        text.contains("didn't have free ports for the requested pod ports")
    })?;
    space.run(&["delete", "pod", "host"])?;
    ready(&space, &["second"])
}
