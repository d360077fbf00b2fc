//! StatefulSets with real containers: names that stay, one after the other, updates and what is left of them.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::Scenario;
use crate::cluster::{Cluster, contains};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[("a_stateful_set_keeps_its_names_through_updates", keeps_names)];

const LIMIT: Duration = Duration::from_secs(60);

const WEB: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: None, selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web}
spec:
  replicas: 3
  serviceName: web
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: nginx
        image: nginx:1.16
        readinessProbe: {httpGet: {path: /, port: 80}, periodSeconds: 1}
";

fn keeps_names(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("stateful")?;
    space.apply(WEB)?;
    space.run(&["rollout", "status", "statefulset/web", "--timeout=90s"])?;
    let column = |path: &str| {
        let path = format!("jsonpath={{.items[*]{path}}}");
        space.run(&["get", "pods", "-l", "app=web", "-o", path.as_str()])
    };
    ensure!(column(".metadata.name")? == "web-0 web-1 web-2");
    ensure!(column(".metadata.labels.apps\\.kubernetes\\.io/pod-index")? == "0 1 2");
    ensure!(space.run(&["exec", "web-1", "--", "hostname", "-f"])?.trim() == "web-1.web.stateful.svc.cluster.local");
    let events = space.run(&[
        "get",
        "events",
        "--field-selector=involvedObject.kind=StatefulSet",
        "-o",
        "wide",
    ])?;
    contains(&events, "Pod web-2 in StatefulSet web successful")?;

    // A lost pod comes back under its name.
    let uid = ["get", "pod", "web-1", "--ignore-not-found", "-o", "jsonpath={.metadata.uid}"];
    let before = space.run(&uid)?;
    space.run(&["delete", "pod", "web-1"])?;
    space.until(&uid, LIMIT, |now| !now.is_empty() && now != before)?;
    space.run(&["rollout", "status", "statefulset/web", "--timeout=60s"])?;

    // An update stops at the partition, goes on without it, and is undone.
    let partition = |number: u8| {
        let patch = format!("{{\"spec\":{{\"updateStrategy\":{{\"rollingUpdate\":{{\"partition\":{number}}}}}}}}}");
        space.run(&["patch", "statefulset", "web", "-p", patch.as_str()])
    };
    partition(2)?;
    space.run(&["set", "image", "statefulset/web", "nginx=nginx:1.17"])?;
    space.run(&["rollout", "status", "statefulset/web", "--timeout=60s"])?;
    ensure!(column(".spec.containers[0].image")? == "nginx:1.16 nginx:1.16 nginx:1.17");
    partition(0)?;
    space.run(&["rollout", "status", "statefulset/web", "--timeout=90s"])?;
    ensure!(column(".spec.containers[0].image")? == "nginx:1.17 nginx:1.17 nginx:1.17");
    contains(&space.run(&["rollout", "history", "statefulset/web"])?, "2")?;
    space.run(&["rollout", "undo", "statefulset/web"])?;
    space.run(&["rollout", "status", "statefulset/web", "--timeout=90s"])?;
    ensure!(column(".spec.containers[0].image")? == "nginx:1.16 nginx:1.16 nginx:1.16");

    space.run(&["scale", "statefulset/web", "--replicas=1"])?;
    let names = ["get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].metadata.name}"];
    space.until(&names, LIMIT, |names| names == "web-0")?;
    Ok(())
}
