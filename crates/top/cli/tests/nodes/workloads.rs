//! Every kind of workload in real containers while servers and agents die, and what must hold of all of it: what the API
//! told (`history`) and what the containers themselves wrote down (`stamps`).
//!
//! `TRIREME_TEST_KILLS` says how often each kind of death happens, instead of once.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::Scenario;
use crate::ground::{Ground, HOSTS, SERVERS, eventually};
use crate::history::{self, Event, Recorder};
use crate::stamps::{self, ENDS, LIVES, Stamps};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("the_judges_of_workloads_see_what_is_wrong", judges),
    ("workloads_are_exact_while_servers_and_agents_die", exact),
];

/// Pods of the StatefulSet: one for each host.
const IDENTITIES: usize = HOSTS;
/// Pods of the Deployment that a budget guards, and how many of them have to be there.
const GUARDED: usize = 4;
const GUARDED_LEAST: usize = 3;
/// Longest wait for the next minute, to kill the leader as a CronJob is due.
const MINUTE_WAIT_MAX: Duration = Duration::from_secs(12);

/// Seconds of a minute at which it is plain whether a CronJob that is due each minute was due.
const MINUTE_CLEAR: std::ops::RangeInclusive<u64> = 4..=54;

/// A pod template: a container that writes stamps, on a node that is given up after two seconds.
fn template(stamps: &Stamps, what: &str, script: &str, restart: &str) -> Value {
    let tolerate = |key: &str| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 2});
    let from = |path: &str| json!({"fieldRef": {"fieldPath": path}});
    json!({
        "metadata": {"labels": {"app": what}},
        "spec": {
            "restartPolicy": restart,
            "terminationGracePeriodSeconds": 1,
            "tolerations": [tolerate("node.kubernetes.io/unreachable"), tolerate("node.kubernetes.io/not-ready")],
            "topologySpreadConstraints": [{
                "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": {"app": what}},
            }],
            "volumes": [{"name": "stamps", "hostPath": {"path": stamps.path()}}],
            "containers": [{
                "name": "main", "image": "busybox:1.35", "command": ["sh", "-c", script.replace("WHAT", what)],
                "env": [
                    {"name": "NAME", "valueFrom": from("metadata.name")},
                    {"name": "ID", "valueFrom": from("metadata.uid")},
                ],
                "volumeMounts": [{"name": "stamps", "mountPath": "/stamps"}],
            }],
        },
    })
}

/// A workload with this spec beside its selector and template.
fn workload(api: &str, kind: &str, name: &str, template: &Value, spec: Value) -> Value {
    let mut object = json!({"apiVersion": api, "kind": kind, "metadata": {"name": name}, "spec": spec});
    object["spec"]["template"] = template.clone();
    if kind != "Job" {
        object["spec"]["selector"] = json!({"matchLabels": template["metadata"]["labels"]});
    }
    object
}

/// What is there from the beginning to the end.
fn lasting(stamps: &Stamps) -> Vec<Value> {
    let set = template(stamps, "identity", LIVES, "Always");
    let daemon = template(stamps, "daemon", LIVES, "Always");
    let guarded = template(stamps, "guarded", LIVES, "Always");
    let tick = template(stamps, "tick", ENDS, "Never");
    let spec = json!({"replicas": IDENTITIES, "podManagementPolicy": "Parallel", "serviceName": "identity"});
    vec![
        workload("apps/v1", "StatefulSet", "identity", &set, spec),
        workload("apps/v1", "DaemonSet", "daemon", &daemon, json!({})),
        workload("apps/v1", "Deployment", "guarded", &guarded, json!({"replicas": GUARDED})),
        json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "guarded"},
            "spec": {"minAvailable": GUARDED_LEAST, "selector": {"matchLabels": {"app": "guarded"}}}}),
        json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "tick"}, "spec": {
            "schedule": "* * * * *", "successfulJobsHistoryLimit": 100,
            "jobTemplate": {"spec": {"backoffLimit": 100, "template": tick}}}}),
    ]
}

/// Two Jobs, one by index.
fn jobs(stamps: &Stamps, name: &str) -> Vec<Value> {
    let template = template(stamps, "job", ENDS, "Never");
    let plain = json!({"completions": 6, "parallelism": 2, "backoffLimit": 100});
    let indexed = json!({"completions": 4, "parallelism": 2, "backoffLimit": 100, "completionMode": "Indexed"});
    vec![
        workload("batch/v1", "Job", &format!("{name}-plain"), &template, plain),
        workload("batch/v1", "Job", &format!("{name}-indexed"), &template, indexed),
    ]
}

fn apply(ground: &Ground, objects: Vec<Value>) -> Result<()> {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    ground.apply(&list.to_string()).map(drop)
}

fn since_epoch() -> Result<Duration> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?)
}

fn seconds() -> Result<i64> {
    Ok(i64::try_from(since_epoch()?.as_secs())?)
}

/// Kills the leader, waits until another one leads, and starts it again.
fn kill_leader(ground: &Ground) -> Result<()> {
    let leader = ground.leader()?;
    let name = &ground.hosts[leader].name;
    let killed = Instant::now();
    ground.lab(&["kill", name])?;
    eventually("another one leads", || Ok(ground.leader()? != leader))?;
    eprintln!(
        "  {name} led and was killed; another one leads within {} ms",
        killed.elapsed().as_millis()
    );
    ground.lab(&["restart", name]).map(drop)
}

fn servers_are_ready(ground: &Ground) -> Result<()> {
    for server in 0..SERVERS {
        eventually("every server is ready", || {
            Ok(ground.kubectl(server, &["get", "--raw", "/readyz"])? == "ok")
        })?;
    }
    Ok(())
}

/// Deaths from which a host comes back at once: of the leader's process, an agent's, and an agent's power.
fn die_and_come_back(ground: &Ground, round: usize) -> Result<()> {
    let agent = |number: usize| ground.hosts[SERVERS + number % (HOSTS - SERVERS)].name.clone();
    kill_leader(ground)?;
    ground.lab(&["kill", &agent(round)])?;
    ground.lab(&["restart", &agent(round)])?;
    servers_are_ready(ground)?;
    ground.lab(&["power-cut", &agent(round + 1)])?;
    kill_leader(ground)?;
    servers_are_ready(ground)?;
    eventually("every node is Ready", || Ok(ground.ready_nodes(0)?.len() == HOSTS)).map(drop)
}

/// A pod of the StatefulSet on a host: its name and UID.
fn identity_on(ground: &Ground, host: usize) -> Result<(String, String)> {
    let pods = ground.get(0, &["pods", "-l", "app=identity"])?;
    let mut pods = pods["items"].as_array().into_iter().flatten();
    let found = pods.find(|pod| pod["spec"]["nodeName"] == *ground.hosts[host].name);
    let found = found.with_context(|| format!("no identity is on {}", ground.hosts[host].name))?;
    let text = |field: &str| found["metadata"][field].as_str().unwrap_or_default().to_owned();
    Ok((text("name"), text("uid")))
}

/// One agent is cut off, the other one loses its power for good, as an administrator tells the cluster. Both come back.
fn lose_two_nodes(ground: &Ground) -> Result<()> {
    let (cut, off) = (SERVERS, SERVERS + 1);
    let names = [ground.hosts[cut].name.as_str(), ground.hosts[off].name.as_str()];
    let (held, moved) = (identity_on(ground, cut)?, identity_on(ground, off)?);
    ground.lab(&["cut", names[0]])?;
    ground.lab(&["power-cut", "--stay-off", names[1]])?;
    // Nobody is given up before the grace is over; meanwhile leaders die, one as a CronJob is due.
    let to_minute = Duration::from_millis(60_000 - u64::try_from(since_epoch()?.as_millis() % 60_000)?);
    if to_minute < MINUTE_WAIT_MAX {
        std::thread::sleep(to_minute.saturating_sub(Duration::from_millis(100)));
    }
    kill_leader(ground)?;
    servers_are_ready(ground)?;
    let pod = |name: &str| ground.get(0, &["pod", name]);
    for (name, _) in [&held, &moved] {
        eventually("a pod on a node that is given up is to go", || {
            Ok(!pod(name)?["metadata"]["deletionTimestamp"].is_null())
        })?;
    }
    let taint = "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute";
    ground.kubectl(0, &["taint", "node", names[1], taint])?;
    eventually("the identity of the node that is out of service is elsewhere", || {
        let pod = pod(&moved.0)?;
        let ready = pod["status"]["phase"] == "Running" && pod["metadata"]["uid"] != *moved.1;
        Ok(ready && pod["spec"]["nodeName"] != *names[1])
    })?;
    ensure!(
        pod(&held.0)?["metadata"]["uid"] == *held.1,
        "an identity was given to another pod while its node could not be asked"
    );
    kill_leader(ground)?;
    ground.lab(&["heal"])?;
    ground.lab(&["start-host", names[1]])?;
    servers_are_ready(ground)?;
    eventually("every node is Ready", || Ok(ground.ready_nodes(0)?.len() == HOSTS))?;
    ground
        .kubectl(0, &["taint", "node", names[1], "node.kubernetes.io/out-of-service-"])
        .map(drop)
}

/// Waits until there is as much of everything as there should be, and no more.
fn counts_are_right(ground: &Ground) -> Result<()> {
    let wanted = [
        ("identity", "statefulset", IDENTITIES),
        ("daemon", "daemonset", HOSTS),
        ("guarded", "deployment", GUARDED),
    ];
    for (app, kind, count) in wanted {
        let mut seen = String::new();
        let right = eventually("as many pods as there should be", || {
            let path = "jsonpath={.status.replicas}{.status.currentNumberScheduled} {.status.readyReplicas}{.status.numberReady} \
                        {.status.availableReplicas}{.status.numberAvailable}";
            let status = ground.kubectl(0, &["get", kind, app, "-o", path])?;
            let path = "jsonpath={range .items[*]}{.status.phase}{.metadata.deletionTimestamp} {end}";
            let pods = ground.kubectl(0, &["get", "pods", "-l", &format!("app={app}"), "-o", path])?;
            seen = format!("{status}; {pods}");
            let running = pods.split_whitespace().filter(|phase| *phase == "Running").count();
            Ok(status == format!("{count} {count} {count}") && running == count && pods.split_whitespace().count() == count)
        });
        right.with_context(|| format!("{kind}: {seen}"))?;
    }
    Ok(())
}

/// Drains a node while the leader dies; gives the revisions between which it went on.
fn drain(ground: &Ground) -> Result<std::ops::RangeInclusive<u64>> {
    let revision = |ground: &Ground, server: usize| -> Result<u64> {
        let pods = ground.get(server, &["pods", "-l", "app=guarded"])?;
        let pods = pods["items"].as_array().into_iter().flatten();
        let revisions = pods.filter_map(|pod| pod["metadata"]["resourceVersion"].as_str()?.parse().ok());
        revisions.max().context("there are guarded pods")
    };
    let leader = ground.leader()?;
    let asked = (leader + 1) % SERVERS;
    let first = revision(ground, asked)?;
    let pods = ground.get(asked, &["pods", "-l", "app=guarded"])?;
    let node = pods["items"][0]["spec"]["nodeName"]
        .as_str()
        .context("a guarded pod has a node")?
        .to_owned();
    std::thread::scope(|scope| {
        let draining = scope.spawn(|| {
            let arguments = ["drain", &node, "--pod-selector=app=guarded", "--timeout=40s"];
            ground.kubectl(asked, &arguments)
        });
        let killed = kill_leader(ground);
        let drained = draining.join().map_err(|_| anyhow::anyhow!("the drain panicked"))?;
        killed?;
        drained.context("a drain under a budget ends")
    })?;
    let last = revision(ground, asked)?;
    let path = format!("--field-selector=spec.nodeName={node}");
    let left = ground.kubectl(asked, &["get", "pods", "-l", "app=guarded", &path, "-o", "name"])?;
    ensure!(left.is_empty(), "left on {node}: {left}");
    ground.kubectl(asked, &["uncordon", &node])?;
    Ok(first..=last)
}

fn exact(ground: &mut Ground) -> Result<()> {
    let stamps = Stamps::make(ground.name())?;
    let outcome = run(ground, &stamps);
    if outcome.is_err() {
        // Before the stamps go: containers that are left would write more of them.
        eprintln!("{}", ground.logs());
        ground.down()?;
    }
    outcome
}

fn run(ground: &Ground, stamps: &Stamps) -> Result<()> {
    let rounds = match std::env::var("TRIREME_TEST_KILLS") {
        Ok(text) => text.parse().context("TRIREME_TEST_KILLS is a number")?,
        Err(_) => 1_usize,
    };
    let paths = ["/api/v1/namespaces/default/pods", "/apis/batch/v1/namespaces/default/jobs"];
    let recorder = Recorder::start(ground, &paths);
    let from = seconds()?;
    apply(ground, lasting(stamps))?;
    counts_are_right(ground)?;
    for round in 0..rounds {
        apply(ground, jobs(stamps, &format!("round-{round}")))?;
        die_and_come_back(ground, round)?;
    }
    eprintln!("  died and came back after {} s", seconds()? - from);
    apply(ground, jobs(stamps, "loss"))?;
    lose_two_nodes(ground)?;
    eprintln!("  lost two nodes and had them back after {} s", seconds()? - from);
    counts_are_right(ground)?;
    let drained = drain(ground)?;
    servers_are_ready(ground)?;
    counts_are_right(ground)?;
    let complete = eventually("every Job is complete", || {
        let path = "jsonpath={.items[*].status.conditions[?(@.type=='Complete')].status} / {.items[*].metadata.name}";
        let text = ground.kubectl(0, &["get", "jobs", "-o", path])?;
        let (complete, all) = text.split_once(" / ").unwrap_or_default();
        Ok(complete.split_whitespace().count() == all.split_whitespace().count())
    });
    complete.with_context(|| ground.kubectl(0, &["get", "jobs,pods", "-o", "wide"]).unwrap_or_default())?;
    // Not as a minute begins: whether the CronJob was due before it was suspended would be open.
    let into = u64::try_from(seconds()?.rem_euclid(60))?;
    if !MINUTE_CLEAR.contains(&into) {
        std::thread::sleep(Duration::from_secs((60 + MINUTE_CLEAR.start() - into) % 60));
    }
    let until = seconds()?;
    ground.kubectl(0, &["patch", "cronjob", "tick", "-p", "{\"spec\": {\"suspend\": true}}"])?;
    eventually("the last Jobs are complete", || {
        let path = "jsonpath={.items[*].status.active}";
        Ok(ground.kubectl(0, &["get", "jobs", "-o", path])?.is_empty())
    })?;
    let events = recorder.finish()?;
    eprintln!("  healed and drained after {} s; {} events", seconds()? - from, events.len());

    history::jobs_are_exact(&events).context("Jobs")?;
    history::always_ready(&events, "guarded", GUARDED_LEAST, drained).context("the drain")?;
    history::each_minute_fired_once(&events, "tick", from, until).context("the CronJob")?;
    let identities = stamps.of("identity")?;
    ensure!(identities.len() == IDENTITIES, "identities: {:?}", identities.keys());
    stamps::never_two_at_once(&identities)?;
    for what in ["job", "tick"] {
        stamps::each_ran_once(&stamps.of(what)?)?;
    }
    clear(ground)
}

fn clear(ground: &Ground) -> Result<()> {
    let kinds = "cronjobs,jobs,statefulsets,daemonsets,deployments,poddisruptionbudgets";
    ground.kubectl(0, &["delete", kinds, "--all", "--wait=false"])?;
    let selector = "app in (identity, daemon, guarded, job, tick)";
    eventually("nothing is left of the workloads", || {
        Ok(ground.kubectl(0, &["get", "pods", "-l", selector, "-o", "name"])?.is_empty())
    })?;
    // What was on the node that was out of service is no workload's.
    ground.serve()
}

fn event(revision: u64, object: Value) -> Event {
    Event {
        revision,
        gone: false,
        object,
    }
}

/// Fabricated histories with one fault each: a judge that sees none of them is none.
fn judges(_: &mut Ground) -> Result<()> {
    let owner = json!([{"kind": "Job", "uid": "j", "name": "j", "controller": true}]);
    let pod = |revision: u64, uid: &str, phase: &str, held: bool| {
        let finalizers = if held {
            json!(["batch.kubernetes.io/job-tracking"])
        } else {
            json!([])
        };
        let metadata = json!({"uid": uid, "name": uid, "ownerReferences": owner, "finalizers": finalizers});
        event(
            revision,
            json!({"kind": "Pod", "metadata": metadata, "status": {"phase": phase}}),
        )
    };
    let job = |revision: u64, succeeded: u64, listed: &[&str], failed: u64| {
        let complete = if succeeded >= 2 {
            json!([{"type": "Complete", "status": "True"}])
        } else {
            json!([])
        };
        let status = json!({"succeeded": succeeded, "failed": failed, "conditions": complete,
            "uncountedTerminatedPods": {"succeeded": listed}});
        let metadata = json!({"uid": "j", "name": "j"});
        event(
            revision,
            json!({"kind": "Job", "metadata": metadata, "spec": {"completions": 2}, "status": status}),
        )
    };
    let right = [
        pod(1, "a", "Running", true),
        pod(2, "b", "Running", true),
        pod(3, "a", "Succeeded", true),
        job(4, 0, &["a"], 0),
        pod(5, "a", "Succeeded", false),
        job(6, 1, &[], 0),
        pod(7, "b", "Succeeded", true),
        job(8, 1, &["b"], 0),
        pod(9, "b", "Succeeded", false),
        job(10, 2, &[], 0),
    ];
    history::jobs_are_exact(&right)?;
    let twice = [&right[..6], &[job(7, 2, &[], 0)]].concat();
    let lost = [&right[..9], &[job(10, 1, &[], 0)]].concat();
    let failure = [&right[..9], &[job(10, 2, &[], 1)]].concat();
    let held = [&right[..8], &right[9..]].concat();
    for (wrong, what) in [
        (twice, "twice"),
        (lost, "lost"),
        (failure, "a failure of nobody"),
        (held, "held"),
    ] {
        ensure!(history::jobs_are_exact(&wrong).is_err(), "not seen: {what}");
    }

    let tick = |revision: u64, name: &str, uid: &str| {
        let owner = json!([{"kind": "CronJob", "name": "tick", "controller": true}]);
        event(
            revision,
            json!({"kind": "Job", "metadata": {"uid": uid, "name": name, "ownerReferences": owner}}),
        )
    };
    let each = [tick(1, "tick-2", "a"), tick(2, "tick-2", "a"), tick(3, "tick-3", "b")];
    history::each_minute_fired_once(&each, "tick", 61, 181)?;
    let again = [&each[..], &[tick(4, "tick-3", "c")]].concat();
    for (wrong, until) in [(&each[..2], 181), (&each[..], 241), (&again[..], 181)] {
        ensure!(
            history::each_minute_fired_once(wrong, "tick", 61, until).is_err(),
            "not seen: {wrong:?}"
        );
    }

    let web = |revision: u64, uid: &str, ready: &str| {
        let status = json!({"conditions": [{"type": "Ready", "status": ready}]});
        event(
            revision,
            json!({"kind": "Pod", "metadata": {"uid": uid, "labels": {"app": "web"}}, "status": status}),
        )
    };
    let few = [
        web(1, "a", "True"),
        web(2, "b", "True"),
        web(3, "a", "False"),
        web(4, "a", "True"),
    ];
    history::always_ready(&few, "web", 1, 1..=4)?;
    history::always_ready(&few, "web", 2, 4..=4)?;
    ensure!(
        history::always_ready(&few, "web", 2, 2..=4).is_err(),
        "not seen: too few are ready"
    );

    let run = |uid: &str, begin: f64, last: f64| stamps::Run {
        uid: uid.to_owned(),
        begin,
        last,
    };
    let runs = |runs: &[stamps::Run]| stamps::Runs::from([("id-0".to_owned(), runs.to_vec())]);
    stamps::never_two_at_once(&runs(&[run("a", 1.0, 2.0), run("a", 2.0, 3.0), run("b", 3.5, 4.0)]))?;
    let overlap = runs(&[run("a", 1.0, 5.0), run("a", 5.0, 5.5), run("b", 5.25, 6.0)]);
    ensure!(stamps::never_two_at_once(&overlap).is_err(), "not seen: two at once");
    let within = runs(&[run("a", 1.0, 5.0), run("b", 2.0, 2.5), run("c", 3.0, 4.0)]);
    ensure!(stamps::never_two_at_once(&within).is_err(), "not seen: two at once");
    stamps::each_ran_once(&runs(&[run("a", 1.0, 2.0), run("b", 1.0, 3.0)]))?;
    ensure!(stamps::each_ran_once(&overlap).is_err(), "not seen: run again");
    Ok(())
}
