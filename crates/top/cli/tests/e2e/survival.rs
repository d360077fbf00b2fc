//! SIGKILL of the server, again and again, under writes, under a watch and under traffic: nothing acknowledged is lost,
//! nothing is told twice, nobody in front of a pod notices.
//!
//! What an unacknowledged write became is nobody's business here: it may be there or not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use parking_lot::Mutex;
use serde_json::Value;

use crate::Scenario;
use crate::api::Api;
use crate::cluster::{Cluster, Namespace, contains, eventually};
use crate::http::Visitors;

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[("killing_the_server_loses_nothing_and_nobody_notices", killed)];

/// How often the server is killed, unless `TRIREME_TEST_KILLS` says otherwise.
const KILLS: usize = 5;
/// Writers that write at the same time.
const WRITERS: usize = 4;
/// Acknowledged writes before the next kill.
const WRITES_BETWEEN: usize = 40;
/// Longest wait for the server, in a debug build on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const CONFIG_MAPS: &str = "/api/v1/namespaces/survival/configmaps";

const WORKLOAD: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: nginx
        image: nginx:1.16
        readinessProbe: {httpGet: {path: /, port: 80}, periodSeconds: 1}
        livenessProbe: {httpGet: {path: /, port: 80}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: LoadBalancer, selector: {app: web}, ports: [{port: 8090, targetPort: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: counter}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: 'busybox:1.35', command: [sh, -c, 'i=0; while true; do i=$((i+1)); echo count $i; sleep 0.1; done']}]
";

/// What the writers were told.
#[derive(Default)]
struct Acknowledged {
    /// Name to content and resourceVersion.
    writes: Mutex<BTreeMap<String, (String, u64)>>,
    count: AtomicUsize,
    complaints: Mutex<Vec<String>>,
    stop: AtomicBool,
}

/// What the watch told: how often each name was added, and the last resourceVersion.
#[derive(Default)]
struct Told {
    added: BTreeMap<String, usize>,
    last: u64,
    connections: usize,
}

fn killed(cluster: &Cluster) -> Result<()> {
    let kills = match std::env::var("TRIREME_TEST_KILLS") {
        Ok(text) => text.parse().context("TRIREME_TEST_KILLS is a number")?,
        Err(_) => KILLS,
    };
    let space = cluster.namespace("survival")?;
    space.apply(WORKLOAD)?;
    space.run(&["rollout", "status", "deployment/web", "--timeout=90s"])?;
    space.run(&["wait", "--for=condition=Ready", "pod/counter", "--timeout=60s"])?;
    let path = "jsonpath={.status.loadBalancer.ingress[0].ip}";
    let address = space.until(&["get", "service", "web", "-o", path], Duration::from_secs(20), |text| {
        !text.is_empty()
    })?;
    let before = containers(&space)?;
    ensure!(before.len() == 3, "three pods: {before:?}");

    let api = Api::of(cluster)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let start = revision(&runtime.block_on(api.get(CONFIG_MAPS))?)?;
    let acknowledged = Arc::new(Acknowledged::default());
    let told = Arc::new(Mutex::new(Told {
        last: start,
        ..Told::default()
    }));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| runtime.spawn(write(api.clone(), writer, start, Arc::clone(&acknowledged))))
        .collect();
    let watcher = runtime.spawn(watch(api.clone(), Arc::clone(&told), Arc::clone(&acknowledged)));
    let visitors = Visitors::start(format!("{address}:8090").parse()?, 2, Duration::from_millis(5));

    let outcome = kill_often(cluster, &acknowledged, kills);
    acknowledged.stop.store(true, Ordering::Relaxed);
    for writer in writers {
        runtime.block_on(writer)?;
    }
    let answered = visitors.finish();
    let slowest = outcome?;
    let answered = answered?;
    let complaints = acknowledged.complaints.lock().clone();
    ensure!(
        complaints.is_empty(),
        "{} complaints, the first: {}",
        complaints.len(),
        complaints[0]
    );

    // Nothing acknowledged is lost, and no revision serves twice.
    let writes = acknowledged.writes.lock().clone();
    let list = runtime.block_on(api.get(CONFIG_MAPS))?;
    let items = list["items"].as_array().context("a list has items")?;
    let stored: BTreeMap<&str, &Value> = items
        .iter()
        .filter_map(|item| Some((item["metadata"]["name"].as_str()?, item)))
        .collect();
    for (name, (content, version)) in &writes {
        let object = stored
            .get(name.as_str())
            .with_context(|| format!("{name}, acknowledged as {version}, is lost"))?;
        ensure!(
            object["data"]["content"] == content.as_str(),
            "{name} holds something else: {object}"
        );
        ensure!(
            revision(object)? == *version,
            "{name} was acknowledged as {version} and is {}",
            revision(object)?
        );
    }
    let versions: BTreeSet<u64> = items.iter().map(revision).collect::<Result<_>>()?;
    ensure!(versions.len() == items.len(), "a resourceVersion was used twice");

    // The watch told each object once, also those whose writers heard nothing.
    let ours: BTreeSet<&str> = stored.keys().copied().filter(|name| name.starts_with("writer-")).collect();
    let complete = eventually("a watch that has told everything", Duration::from_secs(20), || {
        Ok(told.lock().added.len() >= ours.len())
    });
    watcher.abort();
    {
        let told = told.lock();
        let names: BTreeSet<&str> = told.added.keys().map(String::as_str).collect();
        complete.with_context(|| format!("{} of {} were told", names.len(), ours.len()))?;
        ensure!(
            names == ours,
            "the watch told of others: {:?}",
            names.symmetric_difference(&ours).collect::<Vec<_>>()
        );
        let twice: Vec<_> = told.added.iter().filter(|(_, count)| **count != 1).collect();
        ensure!(twice.is_empty(), "told more than once: {twice:?}");
        ensure!(
            told.connections > kills,
            "the watch was not interrupted: {} connections",
            told.connections
        );
    }

    // Pods went on, and are still ours.
    let after = containers(&space)?;
    ensure!(before == after, "containers changed: {before:#?} {after:#?}");
    ensure!(
        space.run(&["exec", "counter", "--", "echo", "here"])? == "here\n",
        "exec reaches containers from before"
    );
    let log = space.run(&["logs", "counter"])?;
    let lost = log
        .lines()
        .enumerate()
        .find(|(index, line)| **line != format!("count {}", index + 1));
    ensure!(lost.is_none(), "the log has a gap at {lost:?}");
    let lines = log.lines().count();
    space.until(&["logs", "counter", "--tail=1"], PATIENCE, |line| {
        line.trim() > "" && log_number(line) > lines
    })?;
    // And what is new works.
    space.run(&["scale", "deployment/web", "--replicas=3"])?;
    space.run(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    contains(
        &space.run(&[
            "run",
            "late",
            "--image=busybox:1.35",
            "--restart=Never",
            "--command",
            "--",
            "true",
        ])?,
        "created",
    )?;
    space.until(&["get", "pod", "late", "-o", "jsonpath={.status.phase}"], PATIENCE, |phase| {
        phase == "Succeeded"
    })?;
    println!(
        "[{kills} kills: {} writes acknowledged, {answered} requests answered, ready again in {} ms at most] ",
        writes.len(),
        slowest.as_millis()
    );
    Ok(())
}

fn log_number(line: &str) -> usize {
    line.trim()
        .strip_prefix("count ")
        .and_then(|number| number.parse().ok())
        .unwrap_or_default()
}

/// Kills the server as often as asked, each time under way of writes. Returns the longest time from start to ready.
fn kill_often(cluster: &Cluster, acknowledged: &Acknowledged, kills: usize) -> Result<Duration> {
    let mut slowest = Duration::ZERO;
    for kill in 0..kills {
        let goal = acknowledged.count.load(Ordering::Relaxed) + WRITES_BETWEEN;
        eventually("writes that go on", PATIENCE, || {
            Ok(acknowledged.count.load(Ordering::Relaxed) >= goal)
        })
        .with_context(|| format!("before kill {kill}"))?;
        cluster.lab(&["kill"])?;
        cluster.lab(&["restart"])?;
        let started = Instant::now();
        eventually("a ready server", PATIENCE, || {
            Ok(cluster.command(&["get", "--raw", "/readyz"]).output()?.status.success())
        })
        .with_context(|| format!("after kill {kill}; the log ends so:\n{}", cluster.log_tail()))?;
        slowest = slowest.max(started.elapsed());
    }
    // The last life is used as well.
    let goal = acknowledged.count.load(Ordering::Relaxed) + WRITES_BETWEEN;
    eventually("writes after the last kill", PATIENCE, || {
        Ok(acknowledged.count.load(Ordering::Relaxed) >= goal)
    })?;
    Ok(slowest)
}

/// Creates ConfigMaps one after another over kept connections until told to stop.
async fn write(api: Api, writer: usize, start: u64, acknowledged: Arc<Acknowledged>) {
    let mut last = start;
    for number in 0_usize.. {
        if acknowledged.stop.load(Ordering::Relaxed) {
            return;
        }
        let (name, content) = (format!("writer-{writer}-{number}"), format!("{writer} wrote {number}"));
        let body = serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"content": content}});
        let outcome = async {
            let answer = api.admin.post(api.url(CONFIG_MAPS)).json(&body).send().await?;
            let status = answer.status();
            Ok::<_, reqwest::Error>((status, answer.json::<Value>().await?))
        };
        match outcome.await {
            Ok((status, object)) if status.is_success() => {
                match revision(&object) {
                    Ok(version) if version > last => last = version,
                    other => acknowledged
                        .complaints
                        .lock()
                        .push(format!("after {last}, {name} was acknowledged as {other:?}")),
                }
                acknowledged.writes.lock().insert(name, (content, last));
                acknowledged.count.fetch_add(1, Ordering::Relaxed);
            }
            // A server that starts or stops may say so.
            Ok((status, _)) if status.is_server_error() || status.as_u16() == 429 => {
                tokio::time::sleep(Duration::from_millis(20)).await
            }
            Ok((status, object)) => acknowledged.complaints.lock().push(format!("{name}: {status} {object}")),
            // Not acknowledged.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Watches from where it was, over as many connections as it takes.
async fn watch(api: Api, told: Arc<Mutex<Told>>, acknowledged: Arc<Acknowledged>) {
    loop {
        let from = told.lock().last;
        let path = format!("{CONFIG_MAPS}?watch=true&resourceVersion={from}&allowWatchBookmarks=true");
        let mut connected = false;
        let outcome = api.watch(&path, |event| {
            let mut told = told.lock();
            if !connected {
                connected = true;
                told.connections += 1;
            }
            match event.kind.as_str() {
                "ADDED" | "BOOKMARK" => {}
                other => bail!("{other}: {}", event.object),
            }
            let version = revision(&event.object)?;
            ensure!(version >= told.last, "the watch went back from {} to {version}", told.last);
            told.last = version;
            if event.kind == "ADDED" {
                let name = event.object["metadata"]["name"]
                    .as_str()
                    .context("an object has a name")?
                    .to_owned();
                *told.added.entry(name).or_default() += 1;
            }
            Ok(true)
        });
        if let Err(error) = outcome.await {
            // While the server is down connections are refused; anything else is wrong.
            if error.downcast_ref::<reqwest::Error>().is_none() && !format!("{error}").contains("503") {
                acknowledged.complaints.lock().push(format!("watch from {from}: {error:#}"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn revision(object: &Value) -> Result<u64> {
    object["metadata"]["resourceVersion"]
        .as_str()
        .and_then(|text| text.parse().ok())
        .with_context(|| format!("no resourceVersion in {object}"))
}

/// Identity, start and restarts of every container.
fn containers(space: &Namespace<'_>) -> Result<BTreeSet<String>> {
    let path = "jsonpath={range .items[*]}{.metadata.uid} {.status.podIP} {.status.containerStatuses[0].containerID} \
                {.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].state.running.startedAt} {.status.conditions[?(@.type=='Ready')].status}{'\\n'}{end}";
    Ok(space.run(&["get", "pods", "-o", path])?.lines().map(str::to_owned).collect())
}
