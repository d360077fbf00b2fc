//! Quotas: what is over is refused in upstream's words, and what goes makes room again.

use std::time::Duration;

use anyhow::{Result, ensure};
use futures::future::join_all;
use reqwest::StatusCode;
use serde_json::json;

use crate::Scenario;
use crate::api::Api;
use crate::cluster::{Cluster, Namespace, contains};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("a_full_quota_refuses_and_takes_again", objects),
    ("a_quota_of_pods_counts_those_that_run", pods),
    ("a_crowd_gets_exactly_what_a_quota_allows", crowd),
];

const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until the quota `own` says that so much is used.
fn used(space: &Namespace<'_>, name: &str, amount: &str) -> Result<()> {
    let path = format!("jsonpath={{.status.used.{}}}", name.replace('.', "\\."));
    space
        .until(&["get", "quota", "own", "-o", &path], PATIENCE, |text| text == amount)
        .map(drop)
}

fn objects(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("quota-objects")?;
    // One is the certificate that every namespace gets.
    space.until(&["get", "configmap", "kube-root-ca.crt"], PATIENCE, |_| true)?;
    space.run(&["create", "secret", "generic", "before"])?;
    space.run(&[
        "create",
        "quota",
        "own",
        "--hard=configmaps=2,count/secrets=2,count/deployments.apps=0",
    ])?;
    used(&space, "configmaps", "1")?;
    used(&space, "count/secrets", "1")?;
    space.run(&["create", "configmap", "first"])?;
    let refused = |name: &str| space.refused(&["create", "configmap", name]);
    let words = "configmaps \"second\" is forbidden: exceeded quota: own, requested: configmaps=1, used: configmaps=2, limited: \
                 configmaps=2";
    contains(&refused("second")?, words)?;
    let Err(error) = space.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: second}}") else {
        anyhow::bail!("it was applied");
    };
    contains(
        &format!("{error:#}"),
        &format!("Error from server (Forbidden): error when creating \"STDIN\": {words}"),
    )?;
    contains(
        &space.refused(&["create", "deployment", "web", "--image=nginx:1.16"])?,
        "exceeded quota: own, requested: count/deployments.apps=1, used: count/deployments.apps=0, limited: count/deployments.apps=0",
    )?;

    // What goes makes room.
    space.run(&["delete", "configmap", "first"])?;
    space.until(&["create", "configmap", "second"], PATIENCE, |_| true)?;
    contains(&refused("third")?, "used: configmaps=2, limited: configmaps=2")?;
    // A dry run uses nothing.
    space.run(&["create", "secret", "generic", "dry", "--dry-run=server"])?;
    space.run(&["create", "secret", "generic", "wet"])?;
    space.run(&["delete", "secret", "before", "wet"])?;
    used(&space, "count/secrets", "0")?;
    // A higher limit holds at once.
    space.run(&["patch", "quota", "own", "-p", r#"{"spec":{"hard":{"configmaps":"3"}}}"#])?;
    space.until(&["create", "configmap", "third"], PATIENCE, |_| true)?;
    let described = space.run(&["describe", "quota", "own"])?;
    let line = described
        .lines()
        .find(|line| line.starts_with("configmaps"))
        .unwrap_or_default();
    let shown: Vec<&str> = line.split_whitespace().collect();
    ensure!(shown == ["configmaps", "3", "3"], "{described}");
    Ok(())
}

fn pods(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("quota-pods")?;
    space.run(&["create", "quota", "own", "--hard=pods=1,requests.cpu=100m"])?;
    used(&space, "pods", "0")?;
    let pod = |name: &str, command: &str, cpu: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{restartPolicy: Never, \
             terminationGracePeriodSeconds: 1, containers: [{{name: main, image: 'busybox:1.35', command: [sh, -c, '{command}'], \
             resources: {{requests: {{cpu: {cpu}}}}}}}]}}}}"
        )
    };
    let refused = |manifest: &str| match space.apply(manifest) {
        Ok(said) => anyhow::bail!("it was taken: {said}"),
        Err(error) => Ok(format!("{error:#}")),
    };
    contains(
        &refused(&pod("greedy", "true", "101m"))?,
        "pods \"greedy\" is forbidden: exceeded quota: own, requested: requests.cpu=101m, used: requests.cpu=0, limited: requests.cpu=100m",
    )?;
    let unsaid =
        "{apiVersion: v1, kind: Pod, metadata: {name: unsaid}, spec: {containers: [{name: main, image: 'busybox:1.35'}]}}";
    contains(&refused(unsaid)?, "failed quota: own: must specify requests.cpu for: main")?;
    space.apply(&pod("first", "exec sleep 3600", "60m"))?;
    contains(
        &refused(&pod("second", "exec sleep 3600", "60m"))?,
        "exceeded quota: own, requested: pods=1,requests.cpu=60m, used: pods=1,requests.cpu=60m, limited: pods=1,requests.cpu=100m",
    )?;
    // A pod counts until it is gone.
    space.run(&["wait", "--for=condition=Ready", "pod/first", "--timeout=60s"])?;
    space.run(&["delete", "pod", "first"])?;
    used(&space, "requests.cpu", "0")?;
    // One that is over, though it is still there, counts no more.
    space.apply(&pod("short", "true", "60m"))?;
    space.until(
        &["get", "pod", "short", "-o", "jsonpath={.status.phase}"],
        PATIENCE,
        |phase| phase == "Succeeded",
    )?;
    used(&space, "pods", "0")?;
    space.apply(&pod("third", "true", "100m")).map(drop)
}

/// Creations and deletions at once, while the controller counts: never one too many, and in the end as many as there are.
fn crowd(cluster: &Cluster) -> Result<()> {
    const ALLOWED: usize = 10;
    let space = cluster.namespace("quota-crowd")?;
    space.run(&["create", "quota", "own", &format!("--hard=secrets={ALLOWED}")])?;
    used(&space, "secrets", "0")?;
    let api = Api::of(cluster)?;
    let secrets = "/api/v1/namespaces/quota-crowd/secrets";
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    for round in 0..5 {
        let create = async |number: usize| {
            let body = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": format!("r{round}-{number}")}});
            let answer = api.admin.post(api.url(secrets)).json(&body).send().await?;
            Ok::<_, anyhow::Error>((answer.status(), answer.text().await?))
        };
        let answers = runtime.block_on(join_all((0..4 * ALLOWED).map(create)));
        let mut created = Vec::new();
        for (number, answer) in answers.into_iter().enumerate() {
            match answer? {
                (StatusCode::CREATED, _) => created.push(format!("r{round}-{number}")),
                (StatusCode::FORBIDDEN, text) => contains(&text, "exceeded quota: own, requested: secrets=1")?,
                (code, text) => anyhow::bail!("round {round}: {code}: {text}"),
            }
        }
        ensure!(created.len() == ALLOWED, "round {round}: {} were let in", created.len());
        used(&space, "secrets", &ALLOWED.to_string())?;
        let delete = async |name: &String| {
            let answer = api.admin.delete(api.url(&format!("{secrets}/{name}"))).send().await?;
            Ok::<_, anyhow::Error>(answer.status())
        };
        for code in runtime.block_on(join_all(created.iter().map(delete))) {
            ensure!(code?.is_success(), "round {round}: not deleted");
        }
        used(&space, "secrets", "0")?;
    }
    Ok(())
}
