//! What changes while a pod runs: its resources; and what holds it up before it does: postStart hooks.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{PATIENCE, field, field_becomes, ready, shell};
use crate::cluster::{Cluster, Namespace, contains, eventually};

/// Shares or weight, quota and memory limit as a container sees its own.
const LIMITS: &str = "cd /sys/fs/cgroup; if [ -d cpu ]; then cat cpu/cpu.shares cpu/cpu.cfs_quota_us memory/memory.limit_in_bytes; \
                      else cat cpu.weight; cut -d' ' -f1 cpu.max; cat memory.max; fi";

fn limits(space: &Namespace<'_>) -> Result<Vec<String>> {
    let text = shell(space, "own", LIMITS)?;
    Ok(text.split_whitespace().skip(1).map(str::to_owned).collect())
}

fn conditions(space: &Namespace<'_>) -> Result<Vec<Value>> {
    let all: Vec<Value> = serde_json::from_str(&field(space, "pod/own", ".status.conditions")?)?;
    Ok(all
        .into_iter()
        .filter(|condition| condition["type"].as_str().is_some_and(|kind| kind.starts_with("PodResize")))
        .collect())
}

pub(super) fn resized(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("resized")?;
    let amounts = |cpu: &str, memory: &str| json!({"cpu": cpu, "memory": memory});
    let both = |cpu: &str, memory: &str| json!({"requests": amounts(cpu, memory), "limits": amounts(cpu, memory)});
    let container = |name: &str, resources: Value| json!({"name": name, "image": "busybox:1.35", "command": ["sh", "-c", "exec sleep 3600"], "resources": resources});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "own"}, "spec": {"terminationGracePeriodSeconds": 1,
        "containers": [container("main", both("100m", "40Mi")), container("other", both("50m", "20Mi"))]}});
    space.apply(&pod.to_string())?;
    ready(&space, &["own"])?;
    ensure!(limits(&space)? == ["10000", "41943040"], "as it began");
    let resize = |cpu: &str, memory: &str| {
        let patch = json!({"spec": {"containers": [{"name": "main", "resources": both(cpu, memory)}]}});
        space.run(&[
            "patch",
            "pod",
            "own",
            "--subresource",
            "resize",
            "--patch",
            &patch.to_string(),
        ])
    };
    let settled = |cpu: &str, memory: &str| {
        eventually("resized", PATIENCE, || {
            let container: Value = serde_json::from_str(&field(&space, "pod/own", ".status.containerStatuses[0]")?)?;
            Ok(container["resources"] == both(cpu, memory)
                && container["allocatedResources"] == amounts(cpu, memory)
                && conditions(&space)?.is_empty())
        })
    };
    // More, less, and one of each.
    for (cpu, memory, expected) in [
        ("300m", "80Mi", ["30000", "83886080"]),
        ("50m", "30Mi", ["5000", "31457280"]),
        ("200m", "25Mi", ["20000", "26214400"]),
    ] {
        resize(cpu, memory)?;
        settled(cpu, memory)?;
        ensure!(limits(&space)? == expected, "{:?}", limits(&space)?);
    }
    ensure!(
        field(&space, "pod/own", ".status.containerStatuses[*].restartCount")? == "0 0",
        "nothing restarted"
    );
    let described = space.run(&["describe", "pod", "own"])?;
    contains(&described, "ResizeStarted")?;
    contains(&described, "ResizeCompleted")?;

    // Memory that is in use is not taken away, and the status says so.
    resize("200m", "100Mi")?;
    settled("200m", "100Mi")?;
    shell(&space, "own", "head -c 60000000 /dev/zero > /dev/shm/held")?;
    resize("200m", "30Mi")?;
    eventually("refused", PATIENCE, || {
        let found = conditions(&space)?;
        Ok(found
            .iter()
            .any(|condition| condition["type"] == "PodResizeInProgress" && condition["reason"] == "Error"))
    })?;
    let [error] = &conditions(&space)?[..] else {
        anyhow::bail!("one condition")
    };
    contains(
        error["message"].as_str().unwrap_or_default(),
        "memory limit (31457280) below current usage (",
    )?;
    ensure!(limits(&space)? == ["20000", "104857600"], "what it has");
    shell(&space, "own", "rm /dev/shm/held")?;
    settled("200m", "30Mi")?;

    // More than the node has is refused at once.
    let patch = json!({"spec": {"containers": [{"name": "main", "resources": both("9999", "30Mi")}]}});
    let refused = space.refused(&[
        "patch",
        "pod",
        "own",
        "--subresource",
        "resize",
        "--patch",
        &patch.to_string(),
    ])?;
    contains(
        &refused,
        "node didn't have enough allocatable resources: cpu, requested: 9999050, allocatable: ",
    )
}

pub(super) fn hooked(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("hooked")?;
    let hook = json!({"postStart": {"exec": {"command": ["sh", "-c", "until [ -e /tmp/go ]; do sleep 0.1; done"]}}});
    let container = |name: &str| json!({"name": name, "image": "busybox:1.35", "command": ["sh", "-c", "exec sleep 3600"]});
    let mut side = container("side");
    side["lifecycle"] = hook;
    side["restartPolicy"] = "Always".into();
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "own"}, "spec": {"terminationGracePeriodSeconds": 1,
        "initContainers": [side], "containers": [container("main")]}});
    space.apply(&pod.to_string())?;
    let events = ["get", "events", "-o", "jsonpath={.items[*].reason}"];
    space.until(&events, PATIENCE, |reasons| reasons.contains("Started"))?;
    // Each look of the node at the pod must say so.
    space.run(&["label", "pod", "own", "seen=yes"])?;
    let of_side = |path: &str| field(&space, "pod/own", &format!(".status.initContainerStatuses[0]{path}"));
    ensure!(
        of_side(".state")? == r#"{"waiting":{"reason":"PodInitializing"}}"#,
        "{}",
        of_side(".state")?
    );
    ensure!(
        of_side(".started")? == "false" && of_side(".ready")? == "false",
        "it has not started"
    );
    let main = ".status.containerStatuses[0].state.waiting.reason";
    ensure!(
        field(&space, "pod/own", main)? == "PodInitializing",
        "what comes after it waits"
    );
    space.run(&["exec", "own", "-c", "side", "--", "touch", "/tmp/go"])?;
    ready(&space, &["own"])?;
    field_becomes(&space, "pod/own", ".status.initContainerStatuses[0].started", "true")
}
