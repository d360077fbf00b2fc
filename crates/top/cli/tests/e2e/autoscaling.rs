//! Load makes the autoscaler grow the workload, calm makes it shrink, and events say why.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::Scenario;
use crate::cluster::{Cluster, contains};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[("load_scales_up_and_calm_scales_down_in_steps", up_and_down)];

/// One pod that burns CPU while a file is there; steps of two up, windows short enough for a test.
const BUSY: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: busy}
spec:
  replicas: 1
  selector: {matchLabels: {app: busy}}
  template:
    metadata: {labels: {app: busy}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: main
        image: busybox:1.35
        command: [sh, -c, 'while true; do if [ -e /load/on ]; then for i in $(seq 2000); do :; done; else sleep 0.2; fi; done']
        resources: {requests: {cpu: 50m}, limits: {cpu: 200m}}
        volumeMounts: [{name: load, mountPath: /load}]
      volumes: [{name: load, emptyDir: {}}]
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: busy}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: busy}
  minReplicas: 1
  maxReplicas: 3
  metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}]
  behavior:
    scaleUp: {stabilizationWindowSeconds: 0, policies: [{type: Pods, value: 2, periodSeconds: 15}]}
    scaleDown: {stabilizationWindowSeconds: 15, policies: [{type: Pods, value: 1, periodSeconds: 15}]}
";

fn up_and_down(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("autoscaling")?;
    space.apply(BUSY)?;
    space.run(&["rollout", "status", "deployment/busy", "--timeout=60s"])?;
    let pod = space.run(&["get", "pods", "-o", "name"])?;
    let figure = [
        "get",
        "hpa",
        "busy",
        "-o",
        "jsonpath={.status.currentMetrics[0].resource.current.averageUtilization}",
    ];
    space.until(&figure, Duration::from_secs(90), |text| text.parse::<u32>().is_ok())?;
    space.run(&["exec", pod.trim(), "--", "touch", "/load/on"])?;
    let replicas = ["get", "deployment", "busy", "-o", "jsonpath={.spec.replicas}"];
    space.until(&replicas, Duration::from_secs(60), |text| text == "3")?;
    space.run(&["exec", pod.trim(), "--", "rm", "/load/on"])?;
    space.until(&replicas, Duration::from_secs(150), |text| text == "1")?;
    let events = space.run(&[
        "get",
        "events",
        "--field-selector",
        "reason=SuccessfulRescale",
        "-o",
        "jsonpath={.items[*].message}",
    ])?;
    contains(
        &events,
        "New size: 3; reason: cpu resource utilization (percentage of request) above target",
    )?;
    contains(&events, "New size: 2; reason: All metrics below target")?;
    contains(&events, "New size: 1; reason: All metrics below target")?;
    let described = space.run(&["describe", "hpa", "busy"])?;
    ensure!(described.contains("SuccessfulRescale"), "{described}");
    Ok(())
}
