//! The CronJob controller: Jobs at the times that a line of cron names (pkg/controller/cronjob).
//!
//! Invariant: no time fires twice. A Job's name says its minute, and the latest time that fired is in the status; a time
//! that is not after it never fires, whatever the clock does. However many times were missed, only the last fires. Held
//! by `tests::a_clock_that_jumps_neither_fires_twice_nor_storms`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use trireme_resources::cron::{self, Schedule};

use crate::plan::{Action, EventKind, EventNote, ObjectRef, Plan};
use crate::replicaset::to_value;
use crate::{job, ownership};

/// On a Job: the time for which it was made, in the zone of its CronJob.
pub const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// Added to every wait, so that a clock which is set back a little does not wake the controller too early.
const AFTER: Duration = Duration::from_millis(100);
/// More missed times than this are told of.
const MISSED_MAX: i64 = 100;

/// What the controller looks at.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Desired.
    pub cron_job: Arc<CronJob>,
    /// The Jobs of its namespace that a CronJob of its name controls, and the one that has the name of a Job to be made.
    pub jobs: Vec<Arc<Job>>,
    /// Names of Jobs that the status lists as active, that are not among `jobs`, and that the API has nevertheless.
    pub found: BTreeSet<String>,
    /// Whether this is the first look since the schedule or its zone was changed.
    pub rescheduled: bool,
}

/// How many times have passed without a Job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missed {
    None,
    Few,
    Many,
}

/// The times of a schedule around now.
#[derive(Clone, Copy, Debug)]
struct Times {
    /// From when on times count.
    earliest: Timestamp,
    /// The last of them, if it has come.
    last: Option<Timestamp>,
    missed: Missed,
}

/// Times that do not follow one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct NoTimes;

/// Plans one step.
#[must_use]
pub fn reconcile(snapshot: &Snapshot, now: Timestamp) -> Plan {
    let mut look = Look {
        cron_job: &snapshot.cron_job,
        spec: &snapshot.cron_job.spec,
        jobs: snapshot
            .jobs
            .iter()
            .map(|job| &**job)
            .filter(|job| is_child(job, &snapshot.cron_job))
            .collect(),
        status: snapshot.cron_job.status.clone().unwrap_or_default(),
        now,
        plan: Plan::default(),
    };
    if snapshot.rescheduled {
        look.wait_for_new_times();
        return look.plan;
    }
    look.enter_made();
    look.clean_history();
    look.enter_ended();
    look.drop_missing(&snapshot.found);
    look.schedule(snapshot);
    look.plan
}

/// The name of the Job of a time.
#[must_use]
pub fn job_name(cron_job: &str, at: Timestamp) -> String {
    format!("{cron_job}-{}", at.as_second() / 60)
}

/// The time for which a Job was made by the controller.
fn made_for(job: &Job, cron_job: &ObjectMeta) -> Option<Timestamp> {
    let at: Timestamp = job.metadata.annotations.as_ref()?.get(SCHEDULED_AT)?.parse().ok()?;
    let name = job_name(cron_job.name.as_deref()?, at);
    (job.metadata.name.as_ref() == Some(&name)).then_some(at)
}

/// Whether a Job's controller is a CronJob of this name.
fn is_child(job: &Job, cron_job: &CronJob) -> bool {
    ownership::controller_of(&job.metadata).is_some_and(|owner| Some(&owner.name) == cron_job.metadata.name.as_ref())
}

fn is_controlled(job: &Job, cron_job: &CronJob) -> bool {
    ownership::controller_of(&job.metadata).is_some_and(|owner| Some(&owner.uid) == cron_job.metadata.uid.as_ref())
}

fn uid(job: &Job) -> &str {
    job.metadata.uid.as_deref().unwrap_or_default()
}

fn name(job: &Job) -> &str {
    job.metadata.name.as_deref().unwrap_or_default()
}

/// One look at a CronJob.
struct Look<'a> {
    cron_job: &'a CronJob,
    spec: &'a CronJobSpec,
    jobs: Vec<&'a Job>,
    status: CronJobStatus,
    now: Timestamp,
    plan: Plan,
}

impl Look<'_> {
    fn regarding(&self) -> ObjectRef {
        ownership::object_ref("batch/v1", "CronJob", &self.cron_job.metadata)
    }

    fn note(&self, kind: EventKind, reason: &str, message: String) -> EventNote {
        EventNote {
            regarding: self.regarding(),
            kind,
            reason: reason.into(),
            message,
        }
    }

    fn tell(&mut self, kind: EventKind, reason: &str, message: String) {
        let note = self.note(kind, reason, message);
        self.plan.actions.push(Action::Event(note));
    }

    fn is_active(&self, job: &Job) -> bool {
        let mut active = self.status.active.iter().flatten();
        active.any(|active| active.uid.as_deref() == Some(uid(job)))
    }

    fn forget(&mut self, uid: &str) {
        let active = self.status.active.get_or_insert_default();
        active.retain(|active| active.uid.as_deref() != Some(uid));
    }

    /// Enters Jobs that were made and are not in the status yet, which is done at the look after.
    fn enter_made(&mut self) {
        let mut made: Vec<_> = self
            .jobs
            .iter()
            .copied()
            .filter(|job| is_controlled(job, self.cron_job) && !self.is_active(job))
            .filter_map(|job| Some((made_for(job, &self.cron_job.metadata)?, job)))
            .collect();
        made.sort_by_key(|(at, _)| *at);
        for (at, job) in made {
            if self.status.last_schedule_time.as_ref().is_some_and(|last| last.0 >= at) {
                continue;
            }
            self.status.last_schedule_time = Some(Time(at));
            self.status.active.get_or_insert_default().push(ObjectReference {
                api_version: Some("batch/v1".into()),
                kind: Some("Job".into()),
                name: job.metadata.name.clone(),
                namespace: job.metadata.namespace.clone(),
                uid: job.metadata.uid.clone(),
                resource_version: job.metadata.resource_version.clone(),
                ..ObjectReference::default()
            });
        }
    }

    /// Deletes the oldest Jobs that have ended, as far as they are more than are to be kept.
    fn clean_history(&mut self) {
        let limits = [
            ("Complete", self.spec.successful_jobs_history_limit),
            ("Failed", self.spec.failed_jobs_history_limit),
        ];
        for (kind, limit) in limits {
            let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else {
                continue;
            };
            let ended = |job: &&Job| job::finished(job).is_some_and(|over| over.type_ == kind);
            let mut ended: Vec<&Job> = self.jobs.iter().copied().filter(ended).collect();
            ended.sort_by_key(|job| {
                let started = job.status.as_ref().and_then(|status| status.start_time.as_ref());
                (started.is_none(), started.map(|time| time.0), job.metadata.name.clone())
            });
            ended.truncate(ended.len().saturating_sub(limit));
            for job in ended.into_iter().filter(|job| job.metadata.deletion_timestamp.is_none()) {
                self.delete(job);
            }
        }
    }

    fn delete(&mut self, job: &Job) {
        let done = self.note(EventKind::Normal, "SuccessfulDelete", format!("Deleted job {}", name(job)));
        let failed = self.note(EventKind::Warning, "FailedDelete", "Deleted job".into());
        self.plan.actions.push(Action::Told {
            action: Box::new(Action::Delete {
                target: ownership::object_ref("batch/v1", "Job", &job.metadata),
                grace_period_seconds: None,
                propagation: Some("Background"),
            }),
            done: Some(done),
            failed: Some(failed),
        });
        self.forget(uid(job));
    }

    /// Takes Jobs that have ended out of the list, notes the last success, and tells of Jobs that nobody expected.
    fn enter_ended(&mut self) {
        for job in self.jobs.clone() {
            let active = self.is_active(job);
            let Some(over) = job::finished(job) else {
                if !active {
                    let message = format!("Saw a job that the controller did not create or forgot: {}", name(job));
                    self.tell(EventKind::Warning, "UnexpectedJob", message);
                }
                continue;
            };
            if active {
                self.forget(uid(job));
                let message = format!("Saw completed job: {}, condition: {}", name(job), over.type_);
                self.tell(EventKind::Normal, "SawCompletedJob", message);
            }
            let completed = job.status.as_ref().and_then(|status| status.completion_time.as_ref());
            let last = self.status.last_successful_time.as_ref();
            if over.type_ == "Complete" && completed.map(|time| time.0) > last.map(|time| time.0) {
                self.status.last_successful_time = completed.cloned();
            }
        }
    }

    /// Takes Jobs that are gone out of the list.
    fn drop_missing(&mut self, found: &BTreeSet<String>) {
        for active in self.status.active.clone().into_iter().flatten() {
            let (job, uid) = (active.name.unwrap_or_default(), active.uid.unwrap_or_default());
            if self.jobs.iter().any(|job| self::uid(job) == uid) || found.contains(&job) {
                continue;
            }
            self.tell(EventKind::Normal, "MissingJob", format!("Active job went missing: {job}"));
            self.forget(&uid);
        }
    }

    /// The line with its zone.
    fn line(&self) -> String {
        let line = &self.spec.schedule;
        match &self.spec.time_zone {
            Some(name) if !line.contains("TZ") && cron::zone(name).is_some() => format!("TZ={name} {line}"),
            _ => line.clone(),
        }
    }

    /// After a change of the schedule the next of its times is waited for; what it would have missed does not fire.
    fn wait_for_new_times(&mut self) {
        let Ok(schedule) = Schedule::parse(&self.line()) else {
            let message = format!("unparseable schedule for cronjob: {}", self.spec.schedule);
            self.tell(EventKind::Warning, "UnParseableCronJobSchedule", message);
            return;
        };
        self.wait(&schedule);
    }

    fn write(&mut self) {
        if self.status.active.as_ref().is_some_and(Vec::is_empty) {
            self.status.active = None;
        }
        if self.status != self.cron_job.status.clone().unwrap_or_default() {
            let mut changed = self.cron_job.clone();
            changed.status = Some(self.status.clone());
            let object = to_value(&changed);
            self.plan.actions.push(Action::UpdateStatus { object });
        }
    }

    /// Makes the Job of the last time that has come, where it is due; the status is written before.
    fn schedule(&mut self, snapshot: &Snapshot) {
        let due = self.due();
        let Some(at) = due else {
            self.write();
            return;
        };
        let name = job_name(self.cron_job.metadata.name.as_deref().unwrap_or_default(), at);
        let taken = snapshot.jobs.iter().any(|job| job.metadata.name.as_ref() == Some(&name));
        if self.spec.concurrency_policy.as_deref() == Some("Replace") {
            for active in self.status.active.clone().into_iter().flatten() {
                let job = self.jobs.iter().copied().find(|job| active.uid.as_deref() == Some(uid(job)));
                if let Some(job) = job {
                    self.delete(job);
                }
            }
        }
        self.write();
        if taken {
            return; // Somebody else's.
        }
        let done = self.note(EventKind::Normal, "SuccessfulCreate", format!("Created job {name}"));
        let failed = self.note(EventKind::Warning, "FailedCreate", "Error creating job".into());
        let job = self.job(name, at);
        self.plan.actions.push(Action::Told {
            action: Box::new(Action::Create {
                object: to_value(&job),
                exists_is_done: false,
            }),
            done: Some(done),
            failed: Some(failed),
        });
    }

    /// The time whose Job is to be made now. Sets when to look again.
    fn due(&mut self) -> Option<Timestamp> {
        if self.cron_job.metadata.deletion_timestamp.is_some() {
            return None;
        }
        if let Some(name) = self.spec.time_zone.clone()
            && cron::zone(&name).is_none()
        {
            let message = format!("invalid timeZone: {name:?}: unknown time zone {name}");
            self.tell(EventKind::Warning, "UnknownTimeZone", message);
            return None;
        }
        if self.spec.suspend == Some(true) {
            return None;
        }
        let line = &self.spec.schedule;
        if line.contains("TZ") {
            let message = format!(
                "CRON_TZ or TZ used in schedule {line:?} is not officially supported, see \
                 https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details"
            );
            self.tell(EventKind::Warning, "UnsupportedSchedule", message);
        }
        let schedule = match Schedule::parse(&self.line()) {
            Ok(schedule) => schedule,
            Err(error) => {
                let message = format!("unparseable schedule: {:?} : {error}", self.spec.schedule);
                self.tell(EventKind::Warning, "UnparseableSchedule", message);
                return None;
            }
        };
        let Ok(times) = self.times(&schedule, true) else {
            let problem = "time difference between two schedules is less than 1 second";
            let message = format!("invalid schedule: {} : {problem}", self.spec.schedule);
            self.tell(EventKind::Warning, "InvalidSchedule", message);
            return None;
        };
        self.wait(&schedule);
        let at = times.last?;
        if times.missed == Missed::Many {
            let message = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
            self.tell(EventKind::Warning, "TooManyMissedTimes", message.into());
        }
        self.may_start(at).then_some(at)
    }

    fn may_start(&mut self, at: Timestamp) -> bool {
        let deadline = self.spec.starting_deadline_seconds.map(SignedDuration::from_secs);
        if deadline.is_some_and(|deadline| self.now.duration_since(at) > deadline) {
            let missed = at.strftime("%a, %d %b %Y %H:%M:%S +0000");
            let message = format!("Missed scheduled time to start a job: {missed}");
            self.tell(EventKind::Warning, "MissSchedule", message);
            return false;
        }
        let cron_job = self.cron_job.metadata.name.as_deref().unwrap_or_default();
        let name = job_name(cron_job, at);
        let mut active = self.status.active.iter().flatten();
        if active.any(|active| active.name.as_ref() == Some(&name)) {
            return false;
        }
        // Not after the last one: it has fired already, if not as this very time.
        if self.status.last_schedule_time.as_ref().is_some_and(|last| last.0 >= at) {
            return false;
        }
        let busy = self.status.active.as_ref().is_some_and(|active| !active.is_empty());
        if busy && self.spec.concurrency_policy.as_deref() == Some("Forbid") {
            let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
            self.tell(EventKind::Normal, "JobAlreadyActive", message.into());
            return false;
        }
        true
    }

    fn job(&self, name: String, at: Timestamp) -> Job {
        let template = &self.spec.job_template;
        let metadata = template.metadata.clone().unwrap_or_default();
        let zone = self.spec.time_zone.as_deref().and_then(cron::zone).unwrap_or(TimeZone::UTC);
        let offset = zone.to_offset(at);
        let shown = if offset.is_zero() {
            at.to_string()
        } else {
            at.display_with_offset(offset).to_string()
        };
        let mut annotations = metadata.annotations.unwrap_or_default();
        annotations.insert(SCHEDULED_AT.into(), shown);
        Job {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: self.cron_job.metadata.namespace.clone(),
                labels: metadata.labels,
                annotations: Some(annotations),
                creation_timestamp: Some(Time(at)),
                owner_references: Some(vec![ownership::controller_reference(
                    "batch/v1",
                    "CronJob",
                    &self.cron_job.metadata,
                )]),
                ..ObjectMeta::default()
            },
            spec: template.spec.clone(),
            status: None,
        }
    }

    /// Looks again at the next time.
    fn wait(&mut self, schedule: &Schedule) {
        let from = match self.times(schedule, false) {
            Err(NoTimes) => self.now,
            Ok(Times { last: Some(last), .. }) => last,
            Ok(Times {
                missed: Missed::None,
                earliest,
                ..
            }) => earliest,
            Ok(_) => self.now,
        };
        let next = schedule.next(from, &TimeZone::UTC);
        let wait = next.and_then(|next| Duration::try_from(next.duration_since(self.now)).ok());
        self.plan.requeue_after = wait.map(|wait| wait + AFTER);
    }

    /// The last time that has come since the last Job, the CronJob's creation or the deadline for starting.
    fn times(&self, schedule: &Schedule, by_deadline: bool) -> Result<Times, NoTimes> {
        let next = |after: Timestamp| schedule.next(after, &TimeZone::UTC);
        let stored = self.status.last_schedule_time.as_ref();
        let created = self.cron_job.metadata.creation_timestamp.as_ref();
        let mut earliest = stored.or(created).map(|time| time.0).unwrap_or_default();
        if let Some(deadline) = self.spec.starting_deadline_seconds.filter(|_| by_deadline)
            && let Ok(limit) = self.now.checked_sub(SignedDuration::from_secs(deadline))
        {
            earliest = earliest.max(limit);
        }
        let mut times = Times {
            earliest,
            last: None,
            missed: Missed::None,
        };
        let first = next(earliest).ok_or(NoTimes)?;
        if self.now < first {
            return Ok(times);
        }
        let second = next(first);
        if second.is_some_and(|second| self.now < second) {
            times.last = Some(first);
            return Ok(times);
        }
        let between = second.ok_or(NoTimes)?.as_second() - first.as_second();
        if between < 1 {
            return Err(NoTimes);
        }
        // About how many fit between the first and now, if they keep their distance; from just before the last of these
        // the last is sought.
        let missed = self.now.duration_since(first).as_secs() / between + 1;
        times.missed = if missed > MISSED_MAX { Missed::Many } else { Missed::Few };
        let start = first.as_second().saturating_add((missed - 2).saturating_mul(between));
        let mut at = Timestamp::from_second(start).ok().and_then(next);
        while let Some(found) = at.filter(|found| *found <= self.now) {
            times.last = Some(found);
            at = next(found);
        }
        Ok(times)
    }
}

#[cfg(test)]
mod tests;
