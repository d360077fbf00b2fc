//! What the API told of pods and Jobs, in its own order, over the deaths of the servers that told it; and what must hold
//! of it.
//!
//! Invariant: nothing is missing between the first look and the last: a watch goes on at another server where it broke.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::ground::{Ground, Servers};

/// Server-side limit of one watch, in seconds.
const WATCH_SECONDS: u64 = 4;
/// Wait before a watch that broke goes on at another server.
const PAUSE: Duration = Duration::from_millis(100);

/// One event.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) revision: u64,
    pub(crate) gone: bool,
    pub(crate) object: Value,
}

impl Event {
    fn kind(&self) -> &str {
        self.object["kind"].as_str().unwrap_or_default()
    }
}

/// Records until it is finished.
pub(crate) struct Recorder {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<Vec<Event>>>>,
}

impl Recorder {
    /// Begins with what there is, of each of these paths.
    pub(crate) fn start(ground: &Ground, paths: &[&'static str]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let record = |path: &'static str| {
            let (servers, stop) = (ground.servers(), Arc::clone(&stop));
            std::thread::spawn(move || record(&servers, path, &stop))
        };
        Self {
            threads: paths.iter().copied().map(record).collect(),
            stop,
        }
    }

    /// Everything that was told until now, in the order of revisions.
    pub(crate) fn finish(self) -> Result<Vec<Event>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for thread in self.threads {
            all.extend(thread.join().map_err(|_| anyhow::anyhow!("a recorder panicked"))??);
        }
        all.sort_by_key(|event| event.revision);
        Ok(all)
    }
}

fn revision(object: &Value) -> Option<u64> {
    object["metadata"]["resourceVersion"].as_str()?.parse().ok()
}

fn record(servers: &Servers, path: &str, stop: &AtomicBool) -> Result<Vec<Event>> {
    let output = servers.raw(0, path).output()?;
    let list: Value = serde_json::from_slice(&output.stdout).context("the first list")?;
    let mut last = revision(&list).context("a list has a revision")?;
    let kind = list["kind"].as_str().unwrap_or_default().trim_end_matches("List").to_owned();
    let mut events: Vec<Event> = list["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|object| {
            let mut object = object.clone();
            object["kind"] = kind.as_str().into();
            let revision = revision(&object)?;
            Some(Event {
                revision,
                gone: false,
                object,
            })
        })
        .collect();
    for turn in 0.. {
        // Before the watch, so that the last one begins behind the order to stop.
        let ends = stop.load(Ordering::Relaxed);
        let seconds = if ends { 1 } else { WATCH_SECONDS };
        let query = format!("{path}?watch=true&allowWatchBookmarks=true&timeoutSeconds={seconds}&resourceVersion={last}");
        let mut child = servers
            .raw(turn, &query)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let lines = BufReader::new(child.stdout.take().context("stdout is piped")?).lines();
        for line in lines.map_while(Result::ok) {
            // A line that a death cut short is told again elsewhere.
            let Ok(mut event) = serde_json::from_str::<Value>(&line) else {
                break;
            };
            let gone = match event["type"].as_str() {
                Some("ADDED" | "MODIFIED") => false,
                Some("DELETED") => true,
                Some("BOOKMARK") => {
                    last = revision(&event["object"]).map_or(last, |revision| revision.max(last));
                    continue;
                }
                _ => bail!("the history of {path} after {last}: {line}"),
            };
            let object = event["object"].take();
            let revision = revision(&object).context("an object has a revision")?;
            ensure!(revision > last, "{path}: {revision} was told behind {last}");
            last = revision;
            events.push(Event { revision, gone, object });
        }
        let answered = child.wait()?.success();
        if ends && answered {
            break;
        }
        if !answered {
            std::thread::sleep(PAUSE);
        }
    }
    Ok(events)
}

fn controller(object: &Value) -> Option<&Value> {
    let mut owners = object["metadata"]["ownerReferences"].as_array()?.iter();
    owners.find(|owner| owner["controller"] == true)
}

fn text<'a>(object: &'a Value, path: &str) -> &'a str {
    object.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

fn strings(value: &Value) -> Vec<String> {
    let all = value.as_array().into_iter().flatten();
    all.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// What is known of a pod of a Job.
#[derive(Clone, Debug, Default)]
struct JobPod {
    succeeded: bool,
    /// Whether its deletion came before its success: either end of it may have been counted.
    ambiguous: bool,
    index: Option<u64>,
    held: bool,
}

/// The indexes of `1,3-5`.
fn indexes(text: &str) -> BTreeSet<u64> {
    let ranges = text.split(',').filter(|range| !range.is_empty());
    ranges
        .filter_map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            Some(first.parse().ok()?..=last.parse().ok()?)
        })
        .flatten()
        .collect()
}

/// Each Job counted each of its pods once: never one more than had ended by then, and in the end each of them.
pub(crate) fn jobs_are_exact(events: &[Event]) -> Result<()> {
    let mut pods: BTreeMap<String, BTreeMap<String, JobPod>> = BTreeMap::new();
    let mut jobs: BTreeMap<String, Value> = BTreeMap::new();
    for event in events {
        let object = &event.object;
        match event.kind() {
            "Pod" => {
                let Some(owner) = controller(object).filter(|owner| owner["kind"] == "Job") else {
                    continue;
                };
                let uid = text(object, "/metadata/uid").to_owned();
                let pod = pods
                    .entry(text(owner, "/uid").to_owned())
                    .or_default()
                    .entry(uid)
                    .or_default();
                let index = text(object, "/metadata/annotations/batch.kubernetes.io~1job-completion-index");
                pod.index = index.parse().ok();
                if !pod.succeeded && text(object, "/status/phase") == "Succeeded" {
                    pod.succeeded = true;
                    pod.ambiguous = !object["metadata"]["deletionTimestamp"].is_null();
                }
                let finalizers = strings(&object["metadata"]["finalizers"]);
                pod.held = !event.gone && finalizers.iter().any(|name| name == "batch.kubernetes.io/job-tracking");
            }
            "Job" => {
                let pods = pods.entry(text(object, "/metadata/uid").to_owned()).or_default();
                counts_no_more_than_there_is(object, pods).with_context(|| format!("at revision {}", event.revision))?;
                let before = jobs.insert(text(object, "/metadata/uid").to_owned(), object.clone());
                let count = |object: &Value| object["status"]["succeeded"].as_u64().unwrap_or(0);
                let before = before.as_ref().map_or(0, count);
                ensure!(count(object) >= before, "{} were counted, then {}", before, count(object));
            }
            _ => {}
        }
    }
    for (uid, job) in &jobs {
        counted_all(job, &pods[uid]).with_context(|| text(job, "/metadata/name").to_owned())?;
    }
    Ok(())
}

fn counts_no_more_than_there_is(job: &Value, pods: &BTreeMap<String, JobPod>) -> Result<()> {
    let (name, status) = (text(job, "/metadata/name"), &job["status"]);
    let count = |field: &str| status[field].as_u64().unwrap_or(0);
    let listed = |field: &str| strings(&status["uncountedTerminatedPods"][field]);
    let succeeded = pods.values().filter(|pod| pod.succeeded).count() as u64;
    if job["spec"]["completionMode"] == "Indexed" {
        let ended: BTreeSet<u64> = pods
            .values()
            .filter(|pod| pod.succeeded)
            .filter_map(|pod| pod.index)
            .collect();
        let told = indexes(text(job, "/status/completedIndexes"));
        ensure!(
            told.is_subset(&ended),
            "{name}: indexes {told:?} are complete, {ended:?} have succeeded"
        );
        ensure!(
            count("succeeded") == told.len() as u64,
            "{name}: {} of {told:?}",
            count("succeeded")
        );
    } else {
        let counted = count("succeeded") + listed("succeeded").len() as u64;
        ensure!(
            counted <= succeeded,
            "{name}: {counted} are counted, {succeeded} pods have succeeded"
        );
    }
    let counted = count("failed") + listed("failed").len() as u64;
    let others = pods.len() as u64 - pods.values().filter(|pod| pod.succeeded && !pod.ambiguous).count() as u64;
    ensure!(
        counted <= others,
        "{name}: {counted} failures of {others} pods that did not succeed"
    );
    Ok(())
}

fn counted_all(job: &Value, pods: &BTreeMap<String, JobPod>) -> Result<()> {
    let count = |path: &str| job.pointer(path).and_then(Value::as_u64).unwrap_or(0);
    let conditions = job["status"]["conditions"].as_array().into_iter().flatten();
    let complete = conditions
        .filter(|condition| condition["status"] == "True")
        .any(|one| one["type"] == "Complete");
    ensure!(complete, "it is not complete: {}", job["status"]);
    let (succeeded, failed) = (count("/status/succeeded"), count("/status/failed"));
    ensure!(
        succeeded == count("/spec/completions"),
        "{succeeded} of {}",
        count("/spec/completions")
    );
    let ended = pods.values().filter(|pod| pod.succeeded).count() as u64;
    let ambiguous = pods.values().filter(|pod| pod.ambiguous).count() as u64;
    let all = pods.len() as u64;
    ensure!(
        (all - ended..=all - ended + ambiguous).contains(&failed),
        "{failed} failures are counted; of {all} pods {ended} succeeded"
    );
    if job["spec"]["completionMode"] != "Indexed" {
        ensure!(
            (ended - ambiguous..=ended).contains(&succeeded),
            "{succeeded} successes are counted, {ended} pods succeeded"
        );
    }
    ensure!(pods.values().all(|pod| !pod.held), "a pod is held though its Job is over");
    Ok(())
}

/// For each minute between two times (in seconds) a CronJob made one Job, and that one ran once.
pub(crate) fn each_minute_fired_once(events: &[Event], cron_job: &str, from: i64, until: i64) -> Result<()> {
    let mut made: BTreeMap<i64, BTreeSet<&str>> = BTreeMap::new();
    for event in events.iter().filter(|event| event.kind() == "Job") {
        if controller(&event.object).is_some_and(|owner| owner["kind"] == "CronJob" && owner["name"] == cron_job) {
            let name = text(&event.object, "/metadata/name");
            let minute = name.rsplit_once('-').and_then(|(_, minute)| minute.parse().ok());
            let minute = minute.with_context(|| format!("{name} names no minute"))?;
            made.entry(minute).or_default().insert(text(&event.object, "/metadata/uid"));
        }
    }
    let wanted: BTreeSet<i64> = (from.div_euclid(60) + 1..=until.div_euclid(60)).collect();
    let told: BTreeSet<i64> = made.keys().copied().collect();
    ensure!(told == wanted, "fired for the minutes {told:?}, due were {wanted:?}");
    let twice = made.iter().find(|(_, jobs)| jobs.len() != 1);
    ensure!(twice.is_none(), "more than one Job of a minute: {twice:?}");
    Ok(())
}

/// So many pods with this label were ready at any time from the first to the last of these revisions.
pub(crate) fn always_ready(events: &[Event], app: &str, least: usize, between: std::ops::RangeInclusive<u64>) -> Result<()> {
    let mut ready: BTreeSet<&str> = BTreeSet::new();
    for event in events.iter().filter(|event| event.kind() == "Pod") {
        if text(&event.object, "/metadata/labels/app") != app {
            continue;
        }
        if event.revision > *between.end() {
            break;
        }
        let conditions = event.object["status"]["conditions"].as_array().into_iter().flatten();
        let is_ready = conditions
            .filter(|condition| condition["status"] == "True")
            .any(|one| one["type"] == "Ready");
        let deleted = event.gone || !event.object["metadata"]["deletionTimestamp"].is_null();
        let uid = text(&event.object, "/metadata/uid");
        if is_ready && !deleted {
            ready.insert(uid);
        } else {
            ready.remove(uid);
        }
        ensure!(
            event.revision < *between.start() || ready.len() >= least,
            "{} of {app} are ready at revision {}, at least {least} are asked for",
            ready.len(),
            event.revision
        );
    }
    Ok(())
}
