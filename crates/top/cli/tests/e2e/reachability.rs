//! Services from everywhere they can be reached, and rollouts that nobody notices.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::Scenario;
use crate::cluster::{Cluster, Namespace};
use crate::http::{self, Visitors};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("a_service_is_reached_every_way_and_in_balance", every_way),
    ("a_rolling_update_under_load_fails_no_request", rolling_update),
];

/// Three nginx pods that leave service before they stop, as upstream's documentation of termination advises.
const WEB: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: nginx
        image: nginx:1.16
        ports: [{containerPort: 80, name: http}]
        readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}
        lifecycle: {preStop: {sleep: {seconds: 2}}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: LoadBalancer
  selector: {app: web}
  ports: [{port: 8080, targetPort: http}]
";

fn serve(space: &Namespace<'_>) -> Result<String> {
    space.apply(WEB)?;
    space.run(&["rollout", "status", "deployment/web", "--timeout=90s"])?;
    let path = "jsonpath={.status.loadBalancer.ingress[0].ip}";
    space.until(&["get", "service", "web", "-o", path], Duration::from_secs(20), |text| {
        !text.is_empty()
    })
}

fn every_way(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("every-way")?;
    let external = serve(&space)?;
    space.run(&[
        "run",
        "client",
        "--image=busybox:1.35",
        "--restart=Never",
        "--command",
        "--",
        "sleep",
        "3600",
    ])?;
    space.run(&["wait", "--for=condition=Ready", "pod/client", "--timeout=60s"])?;
    let field = |path: &str| space.run(&["get", "service", "web", "-o", &format!("jsonpath={path}")]);
    let (cluster_ip, node_port) = (field("{.spec.clusterIP}")?, field("{.spec.ports[0].nodePort}")?);
    let ways = [
        format!("http://{cluster_ip}:8080/hostname"),
        format!("http://{}:{node_port}/hostname", cluster.address),
        format!("http://{external}:8080/hostname"),
        "http://web:8080/hostname".to_owned(),
        "http://web.every-way.svc.cluster.local:8080/hostname".to_owned(),
    ];
    for way in &ways {
        // Forty requests to three backends: each answers with a probability of 1 - 3·(2/3)^40, one miss in four million.
        let script = format!("for i in $(seq 40); do wget -q -O - {way} || exit 1; done");
        let answers = space
            .run(&["exec", "client", "--", "sh", "-c", &script])
            .with_context(|| way.clone())?;
        balanced(way, answers.lines())?;
    }
    // From outside of the cluster.
    let address = format!("{external}:8080").parse()?;
    let answers: Vec<String> = (0..40).map(|_| http::get(address, "/hostname")).collect::<Result<_>>()?;
    balanced("from outside", answers.iter().map(|answer| answer.trim()))
}

fn balanced<'a>(way: &str, answers: impl Iterator<Item = &'a str>) -> Result<()> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    answers.for_each(|answer| *counts.entry(answer).or_default() += 1);
    ensure!(counts.len() == 3, "{way}: not all three pods answered: {counts:?}");
    Ok(())
}

fn rolling_update(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("rolling")?;
    let external = serve(&space)?;
    let visitors = Visitors::start(format!("{external}:8080").parse()?, 4, Duration::from_millis(10));
    for image in ["nginx:1.17", "nginx:1.16"] {
        space.run(&["set", "image", "deployment/web", &format!("nginx={image}")])?;
        space.run(&["rollout", "status", "deployment/web", "--timeout=120s"])?;
    }
    // Until the last old pod is gone.
    space.until(&["get", "pods", "-o", "name"], Duration::from_secs(60), |text| {
        text.lines().count() == 3
    })?;
    let answered = visitors.finish()?;
    ensure!(answered > 100, "too few requests to tell: {answered}");
    Ok(())
}
