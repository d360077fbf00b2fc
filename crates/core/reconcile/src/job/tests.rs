//! Tables of single looks, and Jobs that are run to their end in a small world of their own.

use std::collections::{BTreeMap, BTreeSet};

use jiff::ToSpan;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn now() -> Timestamp {
    "2026-01-01T00:10:00Z".parse().unwrap()
}

fn job(spec: Value, status: Value) -> Job {
    let mut whole = json!({
        "metadata": {"name": "pi", "namespace": "ns", "uid": "job", "resourceVersion": "1"},
        "spec": {"parallelism": 1, "completions": 1, "backoffLimit": 6, "completionMode": "NonIndexed",
            "selector": {"matchLabels": {"job": "pi"}},
            "template": {"metadata": {"labels": {"job": "pi"}}, "spec": {"restartPolicy": "Never", "containers": [{"name": "c"}]}}},
        "status": status,
    });
    for (field, value) in spec.as_object().unwrap() {
        whole["spec"][field] = value.clone();
    }
    serde_json::from_value(whole).unwrap()
}

/// A pod of the Job: `Running`, `Failed`; with `+` it is ready, with `-` it is being deleted, with `!` it is counted.
fn pod(name: &str, state: &str, index: Option<i64>) -> Pod {
    let phase = state.trim_end_matches(['+', '-', '!']);
    let ended = matches!(phase, "Failed" | "Succeeded");
    let container = json!({"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"terminated": {"exitCode": if phase == "Failed" { 3 } else { 0 }, "finishedAt": "2026-01-01T00:09:00Z"}}});
    let annotations = index.map_or(json!({}), |index| json!({indexes::COMPLETION_INDEX: index.to_string()}));
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "ns", "uid": name, "labels": {"job": "pi"}, "annotations": annotations,
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "deletionTimestamp": state.contains('-').then_some("2026-01-01T00:09:30Z"),
            "finalizers": if state.contains('!') { json!([]) } else { json!([FINALIZER]) },
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "pi", "uid": "job", "controller": true}]},
        "spec": {"containers": [], "nodeName": "n"},
        "status": {"phase": phase, "containerStatuses": if ended { json!([container]) } else { json!([]) },
            "conditions": [{"type": "Ready", "status": if state.contains('+') { "True" } else { "False" }}]},
    }))
    .unwrap()
}

fn look(job: &Job, pods: &[Pod]) -> Plan {
    let snapshot = Snapshot {
        job: Arc::new(job.clone()),
        pods: pods.iter().cloned().map(Arc::new).collect(),
        backoff: Backoff::default(),
        creation_failed: false,
    };
    let mut number = 0;
    let mut suffix = || {
        number += 1;
        format!("{number:05}")
    };
    reconcile(&snapshot, now(), &mut suffix).0
}

/// A plan in words: `+name` made, `-name` deleted, `~name` let go, `status`, `!reason` told.
fn words(plan: &Plan) -> Vec<String> {
    let word = |action: &Action| match action.effect() {
        Action::Create { object, .. } => format!("+{}", object["metadata"]["name"].as_str().unwrap()),
        Action::Delete { target, .. } => format!("-{}", target.name),
        Action::RemoveFinalizer { target, .. } => format!("~{}", target.name),
        Action::UpdateStatus { .. } => "status".into(),
        Action::Event(note) => format!("!{}", note.reason),
        other => format!("{other:?}"),
    };
    plan.actions.iter().map(word).collect()
}

fn status(plan: &Plan) -> Value {
    let written = plan.actions.iter().find_map(|action| match action {
        Action::UpdateStatus { object } => Some(object["status"].clone()),
        _ => None,
    });
    written.unwrap_or_default()
}

/// Conditions as `Type=Status/Reason`.
fn conditions(status: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = status["conditions"].as_array().cloned().unwrap_or_default();
    all.iter()
        .map(|condition| {
            format!(
                "{}={}/{}",
                text(&condition["type"]),
                text(&condition["status"]),
                text(&condition["reason"])
            )
        })
        .collect()
}

#[test]
fn pods_are_made_deleted_and_let_go() {
    let indexed = |more: Value| {
        let mut spec = json!({"completionMode": "Indexed", "completions": 4, "parallelism": 2});
        for (field, value) in more.as_object().unwrap() {
            spec[field] = value.clone();
        }
        spec
    };
    let started = json!({"startTime": "2026-01-01T00:00:00Z", "active": 1, "ready": 0, "terminating": 0});
    // what it is, spec, status, pods, plan
    type Row = (&'static str, Value, Value, Vec<Pod>, &'static [&'static str]);
    let table: Vec<Row> = vec![
        (
            "first look",
            json!({"parallelism": 2, "completions": 3}),
            json!({}),
            vec![],
            &["+pi-00001", "+pi-00002", "status"],
        ),
        (
            "no more than are missing",
            json!({"parallelism": 5, "completions": 3}),
            json!({"succeeded": 2}),
            vec![],
            &["+pi-00001", "status"],
        ),
        ("settled", json!({}), started.clone(), vec![pod("a", "Running", None)], &[]),
        (
            "too many: the one that is not ready",
            json!({"completions": 9}),
            json!({}),
            vec![pod("a", "Running+", None), pod("b", "Running", None)],
            &["~b", "-b", "status"],
        ),
        (
            "one fails: wait",
            json!({}),
            json!({}),
            vec![pod("a", "Failed", None)],
            &["+pi-00001", "status", "~a"],
        ),
        (
            "one succeeds",
            json!({"completions": 2}),
            json!({}),
            vec![pod("a", "Succeeded", None)],
            &["+pi-00001", "status", "~a"],
        ),
        (
            "work queue: one has succeeded, the others end by themselves",
            json!({"completions": null, "parallelism": 3}),
            json!({}),
            vec![pod("a", "Succeeded", None), pod("b", "Running", None)],
            &["status", "~a"],
        ),
        (
            "suspended",
            json!({"suspend": true}),
            started.clone(),
            vec![pod("a", "Running", None)],
            &["~a", "-a", "status", "!Suspended"],
        ),
        (
            "resumed",
            json!({"suspend": false}),
            json!({"conditions": [{"type": "Suspended", "status": "True"}]}),
            vec![],
            &["+pi-00001", "status", "!Resumed"],
        ),
        (
            "no replacement while it is going",
            json!({"podReplacementPolicy": "Failed"}),
            json!({}),
            vec![pod("a", "Running-", None)],
            &["status"],
        ),
        (
            "a replacement while it is going",
            json!({"podReplacementPolicy": "TerminatingOrFailed"}),
            json!({}),
            vec![pod("a", "Running-!", None)],
            &["+pi-00001", "status"],
        ),
        (
            "indexes from the lowest",
            indexed(json!({})),
            json!({"completedIndexes": "0"}),
            vec![pod("a", "Running", Some(2))],
            &["+pi-1-00001", "status"],
        ),
        (
            "one index twice, one beyond, one without",
            indexed(json!({})),
            json!({}),
            vec![
                pod("a", "Running", Some(1)),
                pod("b", "Running+", Some(1)),
                pod("c", "Running", Some(4)),
                pod("d", "Running", None),
            ],
            &["~c", "-c", "~d", "-d", "~a", "-a", "status"],
        ),
        (
            "managed by another",
            json!({"managedBy": "example.com/x"}),
            json!({}),
            vec![],
            &[],
        ),
        (
            "over",
            json!({}),
            json!({"conditions": [{"type": "Complete", "status": "True"}]}),
            vec![pod("a", "Succeeded", None)],
            &[],
        ),
    ];
    for (name, spec, status, pods, expected) in table {
        assert_eq!(words(&look(&job(spec, status), &pods)), expected, "{name}");
    }
}

#[test]
fn a_job_that_is_deleted_lets_its_pods_go_and_makes_none() {
    let mut going = job(json!({"completions": 3, "parallelism": 3}), json!({}));
    going.metadata.deletion_timestamp = Some(Time(now()));
    let plan = look(&going, &[pod("a", "Running-", None), pod("b", "Running", None)]);
    assert_eq!(words(&plan), ["status", "~a", "~b"]);
    assert_eq!(status(&plan)["uncountedTerminatedPods"], json!({"failed": ["a"]}));
}

#[test]
fn jobs_end_for_these_reasons() {
    let per_index = |more: Value| {
        let mut spec = json!({"completionMode": "Indexed", "completions": 3, "parallelism": 3, "backoffLimitPerIndex": 0});
        for (field, value) in more.as_object().unwrap() {
            spec[field] = value.clone();
        }
        spec
    };
    let old = json!({"startTime": "2026-01-01T00:00:00Z"});
    let rule = json!([{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [3]}}]);
    let mut restarted = pod("a", "Running", None);
    restarted.status.as_mut().unwrap().container_statuses = serde_json::from_value(json!([
        {"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 2}]))
    .unwrap();
    let on_failure = json!({"backoffLimit": 2, "template": {"spec": {"restartPolicy": "OnFailure", "containers": []}}});
    type Row = (Value, Value, Vec<Pod>, &'static str, &'static str);
    let table: Vec<Row> = vec![
        (
            json!({}),
            json!({"succeeded": 1}),
            vec![],
            "SuccessCriteriaMet=True/CompletionsReached",
            "Reached expected number of succeeded pods",
        ),
        (
            json!({"completions": 0}),
            json!({}),
            vec![],
            "SuccessCriteriaMet=True/CompletionsReached",
            "Reached expected number of succeeded pods",
        ),
        (
            json!({"backoffLimit": 0}),
            json!({}),
            vec![pod("a", "Failed", None)],
            "FailureTarget=True/BackoffLimitExceeded",
            "Job has reached the specified backoff limit",
        ),
        (
            on_failure,
            json!({}),
            vec![restarted],
            "FailureTarget=True/BackoffLimitExceeded",
            "Job has reached the specified backoff limit",
        ),
        (
            json!({"activeDeadlineSeconds": 600}),
            old.clone(),
            vec![pod("a", "Running", None)],
            "FailureTarget=True/DeadlineExceeded",
            "Job was active longer than specified deadline",
        ),
        (
            json!({"podFailurePolicy": {"rules": rule}}),
            json!({}),
            vec![pod("a", "Failed", None)],
            "FailureTarget=True/PodFailurePolicy",
            "Container c for pod ns/a failed with exit code 3 matching FailJob rule at index 0",
        ),
        (
            per_index(json!({"maxFailedIndexes": 0})),
            json!({}),
            vec![pod("a", "Failed", Some(1))],
            "FailureTarget=True/MaxFailedIndexesExceeded",
            "Job has exceeded the specified maximal number of failed indexes",
        ),
        (
            per_index(json!({})),
            json!({"completedIndexes": "0,2"}),
            vec![pod("a", "Failed", Some(1))],
            "FailureTarget=True/FailedIndexes",
            "Job has failed indexes",
        ),
        (
            per_index(json!({"successPolicy": {"rules": [{"succeededIndexes": "1"}]}})),
            json!({}),
            vec![pod("a", "Succeeded", Some(1))],
            "SuccessCriteriaMet=True/SuccessPolicy",
            "Matched rules at index 0",
        ),
    ];
    for (spec, stored, pods, expected, message) in table {
        let mut running = job(spec, stored);
        let plan = look(&running, &pods);
        let written = status(&plan);
        assert_eq!(conditions(&written), [expected]);
        assert_eq!(written["conditions"][0]["message"], message);
        assert_eq!((&written["active"], &written["ready"]), (&json!(null), &json!(0)));
        // Then, with all pods counted and gone, it is over.
        running.status = serde_json::from_value(written).unwrap();
        let plan = look(&running, &[]);
        let (kind, reason) = expected.split_once("=True/").unwrap();
        let (kind, told) = if kind == "FailureTarget" {
            ("Failed", reason)
        } else {
            ("Complete", "Completed")
        };
        assert_eq!(words(&plan), ["status".to_owned(), format!("!{told}")], "{expected}");
        assert_eq!(
            conditions(&status(&plan)),
            [expected.to_owned(), format!("{kind}=True/{reason}")]
        );
        assert_eq!(status(&plan)["completionTime"].is_string(), kind == "Complete");
        // And not while one is still going.
        let plan = look(&running, &[pod("z", "Running-!", None)]);
        assert_eq!(conditions(&status(&plan)).len().max(1), 1, "{expected}");
    }
}

#[test]
fn a_pod_is_listed_then_let_go_then_counted() {
    let spec = json!({"completions": 3, "parallelism": 2, "backoffLimit": 6});
    let mut running = job(spec, json!({}));
    let plan = look(&running, &[pod("a", "Succeeded", None), pod("b", "Failed", None)]);
    let written = status(&plan);
    assert_eq!(
        written["uncountedTerminatedPods"],
        json!({"succeeded": ["a"], "failed": ["b"]})
    );
    assert_eq!((&written["succeeded"], &written["failed"]), (&json!(null), &json!(null)));
    assert_eq!(words(&plan), ["+pi-00001", "+pi-00002", "status", "~a", "~b"]);
    running.status = serde_json::from_value(written).unwrap();
    // The finalizer of one could not be taken off: it stays listed and is not listed again.
    let plan = look(&running, &[pod("a", "Succeeded", None), pod("b", "Failed!", None)]);
    let written = status(&plan);
    assert_eq!(written["uncountedTerminatedPods"], json!({"succeeded": ["a"]}));
    assert_eq!((&written["succeeded"], &written["failed"]), (&json!(null), &json!(1)));
    running.status = serde_json::from_value(written).unwrap();
    let plan = look(&running, &[pod("a", "Succeeded!", None)]);
    assert_eq!(
        (&status(&plan)["succeeded"], &status(&plan)["failed"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(status(&plan)["uncountedTerminatedPods"], json!({}));
}

#[test]
fn a_failed_pod_is_replaced_after_the_back_off() {
    let running = job(
        json!({}),
        json!({"startTime": "2026-01-01T00:00:00Z", "ready": 0, "terminating": 0}),
    );
    let snapshot = |backoff: Backoff, pods: &[Pod]| Snapshot {
        job: Arc::new(running.clone()),
        pods: pods.iter().cloned().map(Arc::new).collect(),
        backoff,
        creation_failed: false,
    };
    let mut letters = || "xxxxx".to_owned();
    let failed_at: Timestamp = "2026-01-01T00:09:00Z".parse().unwrap();
    let (plan, backoff) = reconcile(
        &snapshot(Backoff::default(), &[pod("a", "Failed", None)]),
        failed_at + 1.second(),
        &mut letters,
    );
    assert_eq!(words(&plan), ["status", "~a"]);
    assert_eq!(plan.requeue_after, Some(Duration::from_secs(9)));
    let (plan, backoff) = reconcile(&snapshot(backoff, &[]), failed_at + 9.seconds(), &mut letters);
    assert_eq!((words(&plan).len(), plan.requeue_after), (0, Some(Duration::from_secs(1))));
    let (plan, _) = reconcile(&snapshot(backoff, &[]), failed_at + 10.seconds(), &mut letters);
    assert_eq!(words(&plan), ["+pi-xxxxx", "status"]);
}

#[test]
fn a_failed_index_hands_its_count_to_its_successor() {
    let spec = json!({"completionMode": "Indexed", "completions": 2, "parallelism": 2, "backoffLimitPerIndex": 3});
    let mut first = pod("a", "Failed", Some(1));
    first
        .metadata
        .annotations
        .as_mut()
        .unwrap()
        .insert(indexes::FAILURE_COUNT.into(), "1".into());
    let other = pod("b", "Running", Some(0));
    // 60 seconds after the second failure its 20 seconds are over.
    let plan = look(&job(spec.clone(), json!({})), &[first.clone(), other.clone()]);
    assert_eq!(words(&plan), ["+pi-1-00001", "status"], "it waits for its successor");
    let Action::Create { object, .. } = plan.actions[0].effect() else {
        unreachable!()
    };
    let expected = json!({indexes::COMPLETION_INDEX: "1", indexes::FAILURE_COUNT: "2"});
    assert_eq!(object["metadata"]["annotations"], expected);
    assert_eq!(status(&plan)["failedIndexes"], json!(""));
    let successor = pod("c", "Running", Some(1));
    let plan = look(&job(spec.clone(), json!({})), &[first.clone(), other.clone(), successor]);
    assert_eq!(words(&plan), ["status", "~a"]);
    first
        .metadata
        .annotations
        .as_mut()
        .unwrap()
        .insert(indexes::FAILURE_COUNT.into(), "3".into());
    let plan = look(&job(spec, json!({})), &[first, other]);
    assert_eq!(
        (words(&plan), &status(&plan)["failedIndexes"]),
        (vec!["status".into(), "~a".into()], &json!("1"))
    );
}

#[test]
fn an_index_is_told_in_every_place() {
    let template = json!({"metadata": {"labels": {"job": "pi"}, "finalizers": ["x"]},
        "spec": {"restartPolicy": "Never", "initContainers": [{"name": "i"}], "containers": [{"name": "c", "env": [{"name": "JOB_COMPLETION_INDEX", "value": "own"}]}]}});
    let spec = json!({"completionMode": "Indexed", "completions": 1, "template": template});
    let plan = look(&job(spec, json!({})), &[]);
    let Action::Create { object, .. } = plan.actions[0].effect() else {
        unreachable!()
    };
    let metadata = &object["metadata"];
    assert_eq!(
        (&metadata["name"], &metadata["generateName"]),
        (&json!("pi-0-00001"), &json!("pi-0-"))
    );
    assert_eq!(metadata["labels"], json!({"job": "pi", indexes::COMPLETION_INDEX: "0"}));
    assert_eq!(metadata["finalizers"], json!(["x", FINALIZER]));
    assert_eq!(metadata["ownerReferences"][0]["kind"], "Job");
    assert_eq!(object["spec"]["hostname"], "pi-0");
    let field = "metadata.labels['batch.kubernetes.io/job-completion-index']";
    assert_eq!(
        object["spec"]["initContainers"][0]["env"],
        json!([{"name": "JOB_COMPLETION_INDEX", "valueFrom": {"fieldRef": {"fieldPath": field}}}])
    );
    assert_eq!(
        object["spec"]["containers"][0]["env"],
        json!([{"name": "JOB_COMPLETION_INDEX", "value": "own"}])
    );
}

#[test]
fn orphans_are_taken_in_with_the_finalizer_and_strays_leave_it() {
    let mut orphan = pod("a", "Running!", None);
    orphan.metadata.owner_references = None;
    let mut stray = pod("b", "Running", None);
    stray.metadata.labels = None;
    let plan = look(&job(json!({}), json!({})), &[orphan, stray]);
    let patches: Vec<_> = plan
        .actions
        .iter()
        .map(|action| match action {
            Action::Patch { patch, .. } => (
                patch["metadata"]["finalizers"].clone(),
                patch["metadata"]["ownerReferences"][0]["uid"].clone(),
            ),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(patches, [(json!([FINALIZER]), json!("job")), (json!([]), json!(null))]);
}

#[test]
fn what_could_not_be_made_is_not_in_the_status() {
    let mut snapshot = Snapshot {
        job: Arc::new(job(json!({}), json!({}))),
        pods: Vec::new(),
        backoff: Backoff::default(),
        creation_failed: false,
    };
    let plan = reconcile(&snapshot, now(), &mut || "x".into()).0;
    assert_eq!(
        (words(&plan), &status(&plan)["active"]),
        (vec!["+pi-x".into(), "status".into()], &json!(1))
    );
    snapshot.creation_failed = true;
    let plan = reconcile(&snapshot, now(), &mut || "x".into()).0;
    assert_eq!(
        (words(&plan), &status(&plan)["active"]),
        (vec!["status".into(), "+pi-x".into()], &json!(null))
    );
}

/// An API and nodes of a hundred lines.
struct World {
    job: Job,
    pods: BTreeMap<String, Pod>,
    now: Timestamp,
    backoff: Backoff,
    creation_failed: bool,
    chance: u64,
    made: usize,
    /// Pods that were ever listed as uncounted, by the list.
    listed: BTreeMap<&'static str, BTreeSet<String>>,
}

impl World {
    fn new(job: Job, pods: Vec<Pod>, chance: u64) -> Self {
        let mut world = Self {
            job,
            pods: pods.into_iter().map(|pod| (uid(&pod).to_owned(), pod)).collect(),
            now: now(),
            backoff: Backoff::default(),
            creation_failed: false,
            chance,
            made: 0,
            listed: BTreeMap::new(),
        };
        world.check_lists();
        world
    }

    /// A number below `below`.
    fn roll(&mut self, below: u64) -> u64 {
        self.chance = self
            .chance
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.chance >> 33) % below
    }

    /// Whoever was on a list and left it never comes back.
    fn check_lists(&mut self) {
        let status = self.job.status.clone().unwrap_or_default();
        let lists = status.uncounted_terminated_pods.unwrap_or_default();
        for (name, list) in [("succeeded", lists.succeeded), ("failed", lists.failed)] {
            let held = self.listed.entry(name).or_default();
            for uid in list.into_iter().flatten() {
                held.insert(uid.clone());
                assert!(self.pods.contains_key(&uid) || self.made == 0, "{uid} was counted already");
            }
        }
    }

    fn look(&mut self) -> Plan {
        let ours = |pod: &&Pod| ownership::controller_of(&pod.metadata).is_none_or(|owner| owner.uid == "job");
        let snapshot = Snapshot {
            job: Arc::new(self.job.clone()),
            pods: self.pods.values().filter(ours).cloned().map(Arc::new).collect(),
            backoff: self.backoff.clone(),
            creation_failed: self.creation_failed,
        };
        let made = self.made;
        let mut fresh = 0;
        let mut suffix = || {
            fresh += 1;
            format!("{made}x{fresh}")
        };
        let (plan, backoff) = reconcile(&snapshot, self.now, &mut suffix);
        self.backoff = backoff;
        plan
    }

    /// Carries out a plan, of which any action may fail.
    fn carry_out(&mut self, plan: &Plan, failing: bool) {
        self.creation_failed = false;
        for action in &plan.actions {
            if failing && self.roll(8) == 0 {
                self.creation_failed = matches!(action.effect(), Action::Create { .. });
                if self.roll(2) == 0 {
                    self.backoff = Backoff::default(); // The leader changed.
                }
                return;
            }
            self.act(action.effect());
        }
    }

    fn act(&mut self, action: &Action) {
        match action {
            Action::Create { object, .. } => {
                let mut pod: Pod = serde_json::from_value(object.clone()).unwrap();
                self.made += 1;
                let uid = format!("made-{}", self.made);
                pod.metadata.uid = Some(uid.clone());
                pod.metadata.creation_timestamp = Some(Time(self.now));
                self.pods.insert(uid, pod);
            }
            Action::Delete { target, .. } => {
                if let Some(pod) = self.pods.get_mut(&target.uid) {
                    pod.metadata.deletion_timestamp.get_or_insert(Time(self.now));
                }
            }
            Action::RemoveFinalizer { target, finalizer } => {
                if let Some(pod) = self.pods.get_mut(&target.uid) {
                    pod.metadata
                        .finalizers
                        .get_or_insert_default()
                        .retain(|name| name != finalizer);
                }
            }
            Action::Patch { target, patch, .. } => {
                let pod = self.pods.get_mut(&target.uid).unwrap();
                pod.metadata.finalizers = serde_json::from_value(patch["metadata"]["finalizers"].clone()).unwrap();
                pod.metadata.owner_references = serde_json::from_value(patch["metadata"]["ownerReferences"].clone()).unwrap();
            }
            Action::UpdateStatus { object } => {
                let new: Job = serde_json::from_value(object.clone()).unwrap();
                assert_ne!(new.status, self.job.status);
                let over = |job: &Job| finished(job).is_some();
                assert!(!over(&self.job), "a Job that is over is left alone");
                self.job.status = new.status;
                self.check_lists();
            }
            Action::Event(_) => {}
            other => panic!("{other:?}"),
        }
    }

    /// One thing happens to one pod; false where nothing can happen any more.
    fn live(&mut self) -> bool {
        let alive: Vec<String> = self
            .pods
            .iter()
            .filter(|(_, pod)| !pods::is_finished(pod) || (pod.metadata.deletion_timestamp.is_some() && !is_tracked(pod)))
            .map(|(uid, _)| uid.clone())
            .collect();
        if alive.is_empty() {
            return false;
        }
        self.now += 1.second();
        let chosen = alive[usize::try_from(self.roll(alive.len() as u64)).unwrap()].clone();
        let fate = self.roll(4);
        let pod = self.pods.get_mut(&chosen).unwrap();
        let deleting = pod.metadata.deletion_timestamp.is_some();
        if deleting && !is_tracked(pod) {
            self.pods.remove(&chosen);
            return true;
        }
        let phase = match fate {
            _ if deleting => "Failed",
            0 => "Running",
            1 => "Failed",
            _ => "Succeeded",
        };
        let exit = i32::from(phase == "Failed") * 3;
        let terminated = json!([{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": exit, "finishedAt": self.now.to_string()}}}]);
        let status = pod.status.get_or_insert_default();
        status.phase = Some(phase.into());
        if phase != "Running" {
            status.container_statuses = serde_json::from_value(terminated).unwrap();
        }
        true
    }

    /// Runs until nothing happens any more; how many steps that took.
    fn run(&mut self, failing: bool) -> usize {
        for step in 0..3_000 {
            let plan = self.look();
            self.carry_out(&plan, failing && step < 200);
            if plan.actions.is_empty() {
                if self.live() {
                    continue;
                }
                let Some(wait) = plan.requeue_after else { return step };
                self.now += SignedDuration::try_from(wait).unwrap();
            } else if self.roll(3) == 0 {
                self.live();
            }
        }
        panic!("it does not come to rest: {:?}", words(&self.look()));
    }
}

fn any_spec() -> impl Strategy<Value = Value> {
    let rules = prop_oneof![
        Just(json!(null)),
        Just(json!({"rules": [{"action": "Ignore", "onExitCodes": {"operator": "In", "values": [3]}}]})),
        Just(json!({"rules": [{"action": "Count", "onExitCodes": {"operator": "In", "values": [3]}}]})),
    ];
    let counts = (
        0..4_i32,
        proptest::option::of(0..5_i32),
        0..4_i32,
        proptest::option::of(0..3_i32),
        proptest::option::of(0..3_i32),
    );
    (counts, any::<[bool; 5]>(), rules).prop_map(|((parallelism, completions, limit, per_index, most), flags, rules)| {
        let [indexed, suspend, only_failed, deadline, success] = flags;
        let indexed = indexed && completions.is_some();
        let only_failed = only_failed || !rules.is_null();
        let policy = json!({"rules": [{"succeededCount": 1}]});
        json!({
            "parallelism": parallelism, "completions": completions, "backoffLimit": limit,
            "completionMode": if indexed { "Indexed" } else { "NonIndexed" },
            "backoffLimitPerIndex": per_index.filter(|_| indexed),
            "maxFailedIndexes": most.filter(|_| indexed && per_index.is_some()),
            "suspend": suspend && parallelism == 3,
            "podReplacementPolicy": if only_failed { "Failed" } else { "TerminatingOrFailed" },
            "activeDeadlineSeconds": deadline.then_some(100),
            "successPolicy": if success && indexed { policy } else { json!(null) },
            "podFailurePolicy": rules,
        })
    })
}

fn any_pod() -> impl Strategy<Value = (String, Option<i64>, u8)> {
    let state = proptest::sample::select(vec![
        "Pending",
        "Running",
        "Running+",
        "Running-",
        "Running-!",
        "Failed",
        "Failed!",
        "Succeeded",
        "Succeeded!",
        "Failed-",
    ]);
    (state.prop_map(str::to_owned), proptest::option::of(0..6_i64), 0..8_u8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_pod_is_counted_once(spec in any_spec(), found in proptest::collection::vec(any_pod(), 0..6), listed in 0..4_usize,
        chance in any::<u64>(), failing in any::<bool>()) {
        let pods: Vec<Pod> = found.iter().enumerate().map(|(place, (state, index, kind))| {
            let mut pod = pod(&format!("found-{place}"), state, *index);
            match kind {
                0 => pod.metadata.owner_references = None,
                1 => pod.metadata.labels = None,
                2 => pod.metadata.owner_references.as_mut().unwrap()[0].uid = "other".into(),
                _ => {}
            }
            pod
        }).collect();
        // Some of those that have ended are listed already.
        let indexed = spec["completionMode"] == "Indexed";
        let ours = |pod: &&Pod| pod.metadata.labels.is_some() && ownership::controller_of(&pod.metadata).is_some_and(|owner| owner.uid == "job");
        let ended = |phase: &str| -> Vec<String> {
            let ended = pods.iter().filter(ours).filter(|pod| pods::phase(pod) == phase);
            ended.take(listed).map(|pod| uid(pod).to_owned()).collect()
        };
        let lists = if indexed { json!({"failed": ended("Failed")}) } else { json!({"failed": ended("Failed"), "succeeded": ended("Succeeded")}) };
        let stored = json!({"failed": 1, "uncountedTerminatedPods": lists});
        let mut world = World::new(job(spec.clone(), stored), pods, chance);
        world.run(failing);
        let plan = world.look();
        prop_assert_eq!(plan.actions.len(), 0, "{:?}", words(&plan));

        let status = world.job.status.clone().unwrap_or_default();
        let total = |list: &str| i32::try_from(world.listed[list].len()).unwrap();
        // One that waits for its successor may stay listed.
        let waiting = Look::listed(&status, true).len();
        prop_assert_eq!(status.failed.unwrap_or(0) + count(waiting), 1 + total("failed"));
        if indexed {
            let done = Intervals::parse(status.completed_indexes.as_deref().unwrap_or_default(), i64::MAX);
            prop_assert_eq!(i64::from(status.succeeded.unwrap_or(0)), done.total());
        } else {
            prop_assert_eq!(status.succeeded.unwrap_or(0), total("succeeded"));
        }
        prop_assert_eq!(status.active.unwrap_or(0), i32::try_from(world.pods.values().filter(|pod| pods::is_active(pod) && ours(pod)).count()).unwrap());
        let over = finished(&world.job).map(|condition| condition.type_.as_str());
        if over == Some("Complete") && spec["successPolicy"].is_null() && let Some(completions) = spec["completions"].as_i64() {
            prop_assert!(i64::from(status.succeeded.unwrap_or(0)) >= completions);
        }
        if over.is_some() {
            prop_assert!(world.pods.values().filter(ours).all(|pod| !is_tracked(pod)), "all are let go");
        } else {
            prop_assert!(spec["suspend"] == true || spec["parallelism"] == 0, "{:?}", status);
        }
    }
}
