//! Tables of single looks, and CronJobs that are kept over clocks that jump.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// Made at midnight, every hour.
fn cron_job(spec: Value, status: Value) -> CronJob {
    let mut whole = json!({
        "metadata": {"name": "tick", "namespace": "ns", "uid": "cron", "resourceVersion": "1", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"schedule": "0 * * * *", "concurrencyPolicy": "Allow", "successfulJobsHistoryLimit": 3, "failedJobsHistoryLimit": 1,
            "jobTemplate": {"metadata": {"labels": {"l": "v"}, "annotations": {"a": "v"}}, "spec": {"template": {}}}},
        "status": status,
    });
    for (field, value) in spec.as_object().unwrap() {
        whole["spec"][field] = value.clone();
    }
    serde_json::from_value(whole).unwrap()
}

/// A Job made for an hour of the day: `Running`, `Complete`, `Failed`.
fn job(hour: u32, state: &str) -> Job {
    let scheduled = at(&format!("2026-01-01T{hour:02}:00:00Z"));
    let conditions = if state == "Running" {
        json!([])
    } else {
        json!([{"type": state, "status": "True"}])
    };
    serde_json::from_value(json!({
        "metadata": {"name": job_name("tick", scheduled), "namespace": "ns", "uid": format!("job-{hour}"), "resourceVersion": "9",
            "annotations": {SCHEDULED_AT: scheduled.to_string()},
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "CronJob", "name": "tick", "uid": "cron", "controller": true}]},
        "spec": {"template": {}},
        "status": {"startTime": scheduled.to_string(), "conditions": conditions,
            "completionTime": (state == "Complete").then(|| scheduled.to_string())},
    }))
    .unwrap()
}

fn look(cron_job: &CronJob, jobs: &[Job], now: &str) -> Plan {
    let snapshot = Snapshot {
        cron_job: Arc::new(cron_job.clone()),
        jobs: jobs.iter().cloned().map(Arc::new).collect(),
        found: BTreeSet::new(),
        rescheduled: false,
    };
    reconcile(&snapshot, at(now))
}

/// A plan in words: `+HOUR` made, `-UID` deleted, `status`, `!reason` told.
fn words(plan: &Plan) -> Vec<String> {
    let word = |action: &Action| match action.effect() {
        Action::Create { object, .. } => {
            let scheduled = object["metadata"]["annotations"][SCHEDULED_AT].as_str().unwrap();
            format!("+{}", &scheduled[5..16])
        }
        Action::Delete { target, .. } => format!("-{}", target.uid),
        Action::UpdateStatus { .. } => "status".into(),
        Action::Event(note) => format!("!{}", note.reason),
        other => format!("{other:?}"),
    };
    plan.actions.iter().map(word).collect()
}

fn status(plan: &Plan) -> Value {
    let mut written = plan.actions.iter().filter_map(|action| match action {
        Action::UpdateStatus { object } => Some(object["status"].clone()),
        _ => None,
    });
    written.next().unwrap_or_default()
}

fn active(hours: &[u32]) -> Value {
    let of = |hour: &u32| {
        let job = job(*hour, "Running");
        json!({"apiVersion": "batch/v1", "kind": "Job", "name": job.metadata.name, "namespace": "ns", "uid": job.metadata.uid, "resourceVersion": "9"})
    };
    hours.iter().map(of).collect()
}

#[test]
fn jobs_are_made_when_due() {
    let last = |hour: u32| json!({"lastScheduleTime": format!("2026-01-01T{hour:02}:00:00Z")});
    let running = |hour: u32| json!({"lastScheduleTime": format!("2026-01-01T{hour:02}:00:00Z"), "active": active(&[hour])});
    type Row = (
        &'static str,
        Value,
        Value,
        Vec<Job>,
        &'static str,
        &'static [&'static str],
        Option<u64>,
    );
    let table: Vec<Row> = vec![
        (
            "before the first time",
            json!({}),
            json!({}),
            vec![],
            "2026-01-01T00:59:59Z",
            &[],
            Some(1_100),
        ),
        (
            "at the first time",
            json!({}),
            json!({}),
            vec![],
            "2026-01-01T01:00:00Z",
            &["+01-01T01:00"],
            Some(3_600_100),
        ),
        (
            "a little later",
            json!({}),
            last(1),
            vec![],
            "2026-01-01T02:00:10Z",
            &["+01-01T02:00"],
            Some(3_590_100),
        ),
        (
            "made already",
            json!({}),
            last(2),
            vec![],
            "2026-01-01T02:00:10Z",
            &[],
            Some(3_590_100),
        ),
        (
            "several missed: the last",
            json!({}),
            last(1),
            vec![],
            "2026-01-01T09:30:00Z",
            &["+01-01T09:00"],
            Some(1_800_100),
        ),
        (
            "very many missed",
            json!({}),
            json!({}),
            vec![],
            "2026-02-01T09:30:00Z",
            &["!TooManyMissedTimes", "+02-01T09:00"],
            Some(1_800_100),
        ),
        (
            "too late",
            json!({"startingDeadlineSeconds": 60}),
            last(1),
            vec![],
            "2026-01-01T02:02:00Z",
            &[],
            Some(3_480_100),
        ),
        (
            "in time",
            json!({"startingDeadlineSeconds": 60}),
            last(1),
            vec![],
            "2026-01-01T02:00:50Z",
            &["+01-01T02:00"],
            Some(3_550_100),
        ),
        (
            "suspended",
            json!({"suspend": true}),
            last(1),
            vec![],
            "2026-01-01T02:00:10Z",
            &[],
            None,
        ),
        (
            "made and not entered",
            json!({}),
            last(1),
            vec![job(2, "Running")],
            "2026-01-01T02:00:10Z",
            &["status"],
            Some(3_590_100),
        ),
        (
            "ended before it was entered",
            json!({}),
            last(1),
            vec![job(2, "Complete")],
            "2026-01-01T02:00:10Z",
            &["!SawCompletedJob", "status"],
            Some(3_590_100),
        ),
        (
            "allowed beside",
            json!({}),
            running(1),
            vec![job(1, "Running")],
            "2026-01-01T02:00:00Z",
            &["+01-01T02:00"],
            Some(3_600_100),
        ),
        (
            "forbidden beside",
            json!({"concurrencyPolicy": "Forbid"}),
            running(1),
            vec![job(1, "Running")],
            "2026-01-01T02:00:00Z",
            &["!JobAlreadyActive"],
            Some(3_600_100),
        ),
        (
            "in place of",
            json!({"concurrencyPolicy": "Replace"}),
            running(1),
            vec![job(1, "Running")],
            "2026-01-01T02:00:00Z",
            &["-job-1", "status", "+01-01T02:00"],
            Some(3_600_100),
        ),
        (
            "gone",
            json!({}),
            running(1),
            vec![],
            "2026-01-01T01:30:00Z",
            &["!MissingJob", "status"],
            Some(1_800_100),
        ),
        (
            "nobody expected it",
            json!({}),
            last(3),
            vec![job(1, "Running")],
            "2026-01-01T03:30:00Z",
            &["!UnexpectedJob"],
            Some(1_800_100),
        ),
        (
            "no such zone",
            json!({"timeZone": "Nowhere/X"}),
            last(1),
            vec![],
            "2026-01-01T02:00:10Z",
            &["!UnknownTimeZone"],
            None,
        ),
        (
            "zone in the line",
            json!({"schedule": "TZ=Asia/Kolkata 0 * * * *"}),
            last(1),
            vec![],
            "2026-01-01T01:30:10Z",
            &["!UnsupportedSchedule", "+01-01T01:30"],
            Some(3_590_100),
        ),
        (
            "not to be read",
            json!({"schedule": "0 0 L * *"}),
            last(1),
            vec![],
            "2026-01-01T02:00:10Z",
            &["!UnparseableSchedule"],
            None,
        ),
        (
            "never",
            json!({"schedule": "0 0 31 2 *"}),
            last(1),
            vec![],
            "2026-01-01T02:00:10Z",
            &["!InvalidSchedule"],
            None,
        ),
    ];
    for (name, spec, stored, jobs, now, expected, wait) in table {
        let plan = look(&cron_job(spec, stored), &jobs, now);
        assert_eq!(words(&plan), expected, "{name}");
        assert_eq!(
            plan.requeue_after.map(|wait| u64::try_from(wait.as_millis()).unwrap()),
            wait,
            "{name}"
        );
    }
}

#[test]
fn a_job_says_when_and_for_whom_it_was_made() {
    let plan = look(
        &cron_job(json!({"timeZone": "Asia/Kolkata", "schedule": "30 7 * * *"}), json!({})),
        &[],
        "2026-01-01T02:00:00Z",
    );
    let Action::Told { action, done, failed } = &plan.actions[0] else {
        panic!("{plan:?}")
    };
    let Action::Create { object, .. } = &**action else {
        panic!("{action:?}")
    };
    let metadata = &object["metadata"];
    assert_eq!(metadata["name"], "tick-29453880");
    assert_eq!(metadata["labels"], json!({"l": "v"}));
    assert_eq!(
        metadata["annotations"],
        json!({"a": "v", SCHEDULED_AT: "2026-01-01T07:30:00+05:30"})
    );
    assert_eq!(
        (
            &metadata["ownerReferences"][0]["kind"],
            &metadata["ownerReferences"][0]["uid"]
        ),
        (&json!("CronJob"), &json!("cron"))
    );
    let told = |note: &Option<EventNote>| note.as_ref().map(|note| (note.reason.clone(), note.message.clone())).unwrap();
    assert_eq!(told(done), ("SuccessfulCreate".into(), "Created job tick-29453880".into()));
    assert_eq!(told(failed), ("FailedCreate".into(), "Error creating job".into()));
}

#[test]
fn what_was_made_is_entered_and_what_ended_leaves() {
    let stored = json!({"lastScheduleTime": "2026-01-01T01:00:00Z", "active": active(&[1])});
    let plan = look(
        &cron_job(json!({}), stored),
        &[job(1, "Complete"), job(2, "Running")],
        "2026-01-01T02:00:10Z",
    );
    let expected =
        json!({"active": active(&[2]), "lastScheduleTime": "2026-01-01T02:00:00Z", "lastSuccessfulTime": "2026-01-01T01:00:00Z"});
    assert_eq!(
        (words(&plan), status(&plan)),
        (vec!["!SawCompletedJob".into(), "status".into()], expected)
    );
}

#[test]
fn the_oldest_jobs_that_ended_go() {
    let stored = json!({"lastScheduleTime": "2026-01-01T08:00:00Z", "lastSuccessfulTime": "2026-01-01T08:00:00Z"});
    let mut jobs: Vec<_> = [1, 3, 5, 7, 8].map(|hour| job(hour, "Complete")).into();
    jobs.extend([2, 4, 6].map(|hour| job(hour, "Failed")));
    let plan = look(&cron_job(json!({}), stored.clone()), &jobs, "2026-01-01T08:30:00Z");
    assert_eq!(words(&plan), ["-job-1", "-job-3", "-job-2", "-job-4"]);
    let none = json!({"successfulJobsHistoryLimit": 0, "failedJobsHistoryLimit": null});
    let plan = look(&cron_job(none, stored), &jobs, "2026-01-01T08:30:00Z");
    assert_eq!(words(&plan).len(), 5);
}

#[test]
fn a_new_schedule_begins_with_its_next_time() {
    let stored = json!({"lastScheduleTime": "2026-01-01T00:00:00Z"});
    let mut snapshot = Snapshot {
        cron_job: Arc::new(cron_job(json!({"schedule": "0 1 * * *"}), stored)),
        jobs: Vec::new(),
        found: BTreeSet::new(),
        rescheduled: true,
    };
    let plan = reconcile(&snapshot, at("2026-01-01T12:00:00Z"));
    assert_eq!(
        (words(&plan).len(), plan.requeue_after),
        (0, Some(Duration::from_secs(13 * 3600) + AFTER))
    );
    snapshot.rescheduled = false;
    assert_eq!(words(&reconcile(&snapshot, at("2026-01-01T12:00:00Z"))), ["+01-01T01:00"]);
}

/// An API in memory.
struct World {
    cron_job: CronJob,
    jobs: Vec<Job>,
    made: Vec<Timestamp>,
}

impl World {
    /// Looks until nothing is written any more; how many Jobs were made.
    fn settle(&mut self, now: Timestamp) -> usize {
        let before = self.made.len();
        for _ in 0..8 {
            let snapshot = Snapshot {
                cron_job: Arc::new(self.cron_job.clone()),
                jobs: self.jobs.iter().cloned().map(Arc::new).collect(),
                found: BTreeSet::new(),
                rescheduled: false,
            };
            let plan = reconcile(&snapshot, now);
            let mut wrote = false;
            for action in &plan.actions {
                wrote |= self.act(action.effect());
            }
            if !wrote {
                return self.made.len() - before;
            }
        }
        panic!("it does not come to rest at {now}");
    }

    fn act(&mut self, action: &Action) -> bool {
        match action {
            Action::Create { object, .. } => {
                let mut job: Job = serde_json::from_value(object.clone()).unwrap();
                let name = job.metadata.name.clone();
                assert!(
                    self.jobs.iter().all(|held| held.metadata.name != name),
                    "{name:?} is there already"
                );
                self.made.push(made_for(&job, &self.cron_job.metadata).unwrap());
                job.metadata.uid = Some(format!("made-{}", self.made.len()));
                self.jobs.push(job);
            }
            Action::Delete { target, .. } => self.jobs.retain(|job| uid(job) != target.uid),
            Action::UpdateStatus { object } => {
                let new: CronJob = serde_json::from_value(object.clone()).unwrap();
                assert_ne!(new.status, self.cron_job.status);
                self.cron_job.status = new.status;
            }
            Action::Event(_) => return false,
            other => panic!("{other:?}"),
        }
        true
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_clock_that_jumps_neither_fires_twice_nor_storms(
        line in proptest::sample::select(vec!["* * * * *", "*/7 * * * *", "0 * * * *", "30 2 * * *", "@every 90s", "59 23 31 12 *", "* * * 2 *", "0 0 1 * 5"]),
        zone in proptest::sample::select(vec![None, Some("America/New_York"), Some("Australia/Lord_Howe")]),
        policy in proptest::sample::select(vec!["Allow", "Forbid", "Replace"]),
        deadline in proptest::option::of(0..4_000_i64),
        jumps in proptest::collection::vec((prop_oneof![-400_000..400_000_i64, 0..200_i64, -100_000_000..300_000_000_i64], any::<u8>()), 1..20),
    ) {
        let spec = json!({"schedule": line, "timeZone": zone, "concurrencyPolicy": policy, "startingDeadlineSeconds": deadline});
        let mut world = World { cron_job: cron_job(spec, json!({})), jobs: Vec::new(), made: Vec::new() };
        let mut now = at("2026-01-01T00:00:00Z");
        for (jump, ends) in jumps {
            now += SignedDuration::from_secs(jump);
            prop_assert!(world.settle(now) <= 1, "one time at a time");
            prop_assert_eq!(world.settle(now), 0);
            for (place, job) in world.jobs.iter_mut().enumerate() {
                if (ends >> (place % 8)) & 1 == 1 && job::finished(job).is_none() {
                    let kind = if ends > 127 { "Complete" } else { "Failed" };
                    job.status = serde_json::from_value(json!({"conditions": [{"type": kind, "status": "True"}], "completionTime": now.to_string()})).unwrap();
                }
            }
        }
        prop_assert!(world.made.is_sorted_by(|earlier, later| earlier < later), "{:?}", world.made);
        let minutes: BTreeSet<_> = world.made.iter().map(|at| job_name("", *at)).collect();
        prop_assert!(line.starts_with('@') || minutes.len() == world.made.len());
    }
}
