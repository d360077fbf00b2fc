//! Storage by claim with real containers: what is written outlives the pod, has an end at the claim's size, and goes with
//! the claim.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::Scenario;
use crate::cluster::{Cluster, contains};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("a_stateful_set_keeps_its_data", keeps_data),
    ("a_volume_made_by_hand_serves_its_claim", made_by_hand),
];

const LIMIT: Duration = Duration::from_secs(90);

const STORE: &str = "
apiVersion: v1
kind: Service
metadata: {name: store}
spec: {clusterIP: None, selector: {app: store}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: store}
spec:
  replicas: 1
  serviceName: store
  selector: {matchLabels: {app: store}}
  template:
    metadata: {labels: {app: store}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: busybox:1.35
        command: [sleep, '3600']
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec:
      accessModes: [ReadWriteOnce]
      resources: {requests: {storage: 32Mi}}
";

fn keeps_data(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("claims")?;
    space.apply(STORE)?;
    let claim = [
        "get",
        "pvc",
        "data-store-0",
        "-o",
        "jsonpath={.status.phase} {.spec.storageClassName}",
    ];
    space.until(&claim, LIMIT, |now| now == "Bound local")?;
    space.run(&["rollout", "status", "statefulset/store", "--timeout=90s"])?;
    let volume = space.run(&["get", "pvc", "data-store-0", "-o", "jsonpath={.spec.volumeName}"])?;
    let shell = |command: &str| space.run(&["exec", "store-0", "--", "sh", "-c", command]);
    shell("echo kept > /data/file && sync")?;

    let path = format!(
        "/api/v1/nodes/{}/proxy/metrics",
        space.run(&["get", "pod", "store-0", "-o", "jsonpath={.spec.nodeName}"])?
    );
    let figures = cluster.run(&["get", "--raw", path.as_str()])?;
    contains(
        &figures,
        "kubelet_volume_stats_capacity_bytes{namespace=\"claims\",persistentvolumeclaim=\"data-store-0\"}",
    )?;

    // The pod goes, the data stays.
    let uid = [
        "get",
        "pod",
        "store-0",
        "--ignore-not-found",
        "-o",
        "jsonpath={.metadata.uid}",
    ];
    let before = space.run(&uid)?;
    space.run(&["delete", "pod", "store-0"])?;
    space.until(&uid, LIMIT, |now| !now.is_empty() && now != before)?;
    space.run(&["rollout", "status", "statefulset/store", "--timeout=90s"])?;
    ensure!(shell("cat /data/file")?.trim() == "kept");

    // It ends where the claim ends, and elsewhere nothing is full.
    let full = shell("dd if=/dev/zero of=/data/large bs=1M count=64 2>&1; rm /data/large; echo done")?;
    contains(&full, "No space left on device")?;

    // It grows, under the pod or, where the kernel does not let it, without one.
    let patch = r#"{"spec":{"resources":{"requests":{"storage":"96Mi"}}}}"#;
    space.run(&["patch", "pvc", "data-store-0", "-p", patch])?;
    let size = ["get", "pvc", "data-store-0", "-o", "jsonpath={.status.capacity.storage}"];
    space.run(&["scale", "statefulset/store", "--replicas=0"])?;
    space.until(&size, LIMIT, |now| now == "96Mi")?;
    space.run(&["scale", "statefulset/store", "--replicas=1"])?;
    space.run(&["rollout", "status", "statefulset/store", "--timeout=90s"])?;
    shell("dd if=/dev/zero of=/data/large bs=1M count=64 && rm /data/large")?;
    ensure!(shell("cat /data/file")?.trim() == "kept");

    // A claim in use waits for its pod; then volume and directory go with it.
    let path = space.run(&["get", "pv", volume.as_str(), "-o", "jsonpath={.spec.local.path}"])?;
    let on_node = |path: &str| cluster.lab(&["exec", "--", "ls", path]);
    contains(&on_node(&path)?, "file")?;
    space.run(&["delete", "pvc", "data-store-0", "--wait=false"])?;
    ensure!(shell("cat /data/file")?.trim() == "kept");
    space.run(&["delete", "statefulset", "store"])?;
    space.until(
        &["get", "pv", volume.as_str(), "--ignore-not-found", "-o", "name"],
        LIMIT,
        str::is_empty,
    )?;
    ensure!(on_node(&path).is_err(), "{path} is still there");
    Ok(())
}

const BY_HAND: &str = "
apiVersion: v1
kind: PersistentVolume
metadata: {name: by-hand}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: by-hand
  persistentVolumeReclaimPolicy: Retain
  local: {path: PATH}
  nodeAffinity:
    required:
      nodeSelectorTerms:
      - matchExpressions: [{key: kubernetes.io/os, operator: In, values: [linux]}]
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: mine}
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: by-hand
  resources: {requests: {storage: 100Mi}}
---
apiVersion: v1
kind: Pod
metadata: {name: user}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: busybox:1.35
    command: [sh, -c, 'cat /data/seed && echo written > /data/out']
    volumeMounts: [{name: data, mountPath: /data}]
  volumes:
  - name: data
    persistentVolumeClaim: {claimName: mine}
";

fn made_by_hand(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("by-hand")?;
    let place = "/var/lib/trireme/by-hand";
    cluster.lab(&["exec", "--", "mkdir", "-p", place])?;
    cluster.lab(&["exec", "--", "sh", "-c", "echo seed > /var/lib/trireme/by-hand/seed"])?;
    space.apply(&BY_HAND.replace("PATH", place))?;
    space.until(&["get", "pod", "user", "-o", "jsonpath={.status.phase}"], LIMIT, |phase| {
        phase == "Succeeded"
    })?;
    ensure!(space.run(&["logs", "user"])?.trim() == "seed");
    ensure!(
        space.run(&[
            "get",
            "pvc",
            "mine",
            "-o",
            "jsonpath={.status.phase} {.status.capacity.storage}"
        ])? == "Bound 1Gi"
    );
    space.run(&["delete", "pod", "user"])?;
    space.run(&["delete", "pvc", "mine"])?;
    space.until(&["get", "pv", "by-hand", "-o", "jsonpath={.status.phase}"], LIMIT, |phase| {
        phase == "Released"
    })?;
    contains(
        &cluster.lab(&["exec", "--", "cat", "/var/lib/trireme/by-hand/out"])?,
        "written",
    )?;
    space.run(&["delete", "pv", "by-hand"])?;
    Ok(())
}
