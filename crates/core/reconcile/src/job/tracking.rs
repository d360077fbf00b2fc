//! Which pods are counted when, and when a Job is over.

use std::collections::BTreeSet;

use k8s_openapi::api::batch::v1::UncountedTerminatedPods;
use k8s_openapi::api::core::v1::Pod;

use super::{Look, condition, event, indexes, is_tracked, nonzero, policy, uid};
use crate::plan::EventKind;
use crate::pods;

/// Most pods that one status counts at a time, so that it stays small.
const UNCOUNTED_MAX: usize = 500;

impl<'a> Look<'a> {
    /// Moves what has lost its finalizer into the counts, enters what has ended; says whose finalizers may go once that
    /// is written.
    pub(super) fn track(&mut self) -> Vec<&'a Pod> {
        let mut all = self.pods.clone();
        if self.is_indexed() {
            all.sort_by_key(|pod| indexes::index_of(pod));
        }
        let held: BTreeSet<&str> = all.iter().filter(|pod| is_tracked(pod)).map(|pod| uid(pod)).collect();
        let UncountedTerminatedPods { failed, succeeded } = self.status.uncounted_terminated_pods.take().unwrap_or_default();
        let (mut succeeded, counted) = still_held(succeeded, &held);
        self.status.succeeded = nonzero(self.status.succeeded.unwrap_or(0).saturating_add(counted));
        let (mut failed, counted) = still_held(failed, &held);
        self.status.failed = nonzero(self.status.failed.unwrap_or(0).saturating_add(counted));

        let mut release = Vec::new();
        let mut new_indexes = BTreeSet::new();
        for pod in all.into_iter().filter(|pod| is_tracked(pod)) {
            let has_failed = policy::is_failed(pod, self.spec);
            if !self.may_go(pod, has_failed) {
                continue;
            }
            release.push(pod);
            let index = self.index_of(pod);
            let listed = |list: &[String]| list.iter().any(|listed| listed == uid(pod));
            if pods::phase(pod) == "Succeeded" && !listed(&failed) {
                if !self.is_indexed() {
                    if !listed(&succeeded) {
                        succeeded.push(uid(pod).to_owned());
                    }
                } else if let Some(index) = index.filter(|index| !self.succeeded_before.has(*index)) {
                    new_indexes.insert(index);
                }
            } else if (has_failed || self.is_failing()) && !listed(&failed) && (!self.is_indexed() || index.is_some()) {
                // When the Job has failed, every pod that has not ended has failed with it.
                if policy::verdict(self.spec.pod_failure_policy.as_ref(), pod).counts {
                    failed.push(uid(pod).to_owned());
                }
            }
            if new_indexes.len() + succeeded.len() + failed.len() >= UNCOUNTED_MAX {
                break; // The rest at the next look.
            }
        }
        if self.is_indexed() {
            let indexes = self.succeeded_indexes.with(&new_indexes);
            self.status.succeeded = nonzero(i32::try_from(indexes.total()).unwrap_or(i32::MAX));
            self.status.completed_indexes = Some(indexes.to_string()).filter(|text| !text.is_empty());
            self.status.failed_indexes = self.failed_indexes.as_ref().map(ToString::to_string);
        }
        let filled = |list: Vec<String>| (!list.is_empty()).then_some(list);
        self.status.uncounted_terminated_pods = Some(UncountedTerminatedPods {
            failed: filled(failed),
            succeeded: filled(succeeded),
        });
        release
    }

    fn is_failing(&self) -> bool {
        self.verdict
            .as_ref()
            .is_some_and(|verdict| verdict.type_ != "SuccessCriteriaMet")
    }

    /// Whether a pod need not be held any longer.
    fn may_go(&self, pod: &Pod, has_failed: bool) -> bool {
        if self.job.metadata.deletion_timestamp.is_some() || self.verdict.is_some() || pods::phase(pod) == "Succeeded" {
            return true;
        }
        let waits_for_successor = || {
            let delayed = indexes::index_of(pod).and_then(|index| self.delayed.get(&index));
            delayed.is_some_and(|delayed| uid(delayed) == uid(pod))
        };
        has_failed && !waits_for_successor()
    }

    /// Says first why the Job ends, and that it is over once that is written and no pod is left to be counted or to go.
    pub(super) fn conclude(&mut self, none_to_release: bool) {
        let Some(verdict) = self.verdict.clone() else { return };
        let conditions = self.status.conditions.get_or_insert_default();
        let written = self.stored.conditions.iter().flatten();
        if !written
            .clone()
            .any(|held| held.type_ == verdict.type_ && held.status == "True")
        {
            conditions.retain(|held| held.type_ != verdict.type_);
            conditions.push(verdict);
            return;
        }
        let uncounted = self.status.uncounted_terminated_pods.as_ref();
        let counted = uncounted.is_none_or(|lists| lists.failed.is_none() && lists.succeeded.is_none());
        if !(none_to_release && counted && self.now_terminating == 0) {
            return;
        }
        let (reason, message) = (verdict.reason.unwrap_or_default(), verdict.message.unwrap_or_default());
        let succeeded = verdict.type_ == "SuccessCriteriaMet";
        let over = condition(
            if succeeded { "Complete" } else { "Failed" },
            "True",
            &reason,
            &message,
            self.now,
        );
        conditions.retain(|held| held.type_ != over.type_);
        if succeeded {
            self.status.completion_time.clone_from(&over.last_transition_time);
            let most = self.spec.completions.unwrap_or(i32::MAX);
            if self.status.succeeded.unwrap_or(0) > most {
                let message = "Too many succeeded pods running after completion count reached";
                self.told
                    .push(event(self.job, EventKind::Warning, "TooManySucceededPods", message));
            }
            self.told
                .push(event(self.job, EventKind::Normal, "Completed", "Job completed"));
        } else {
            self.told.push(event(self.job, EventKind::Warning, &reason, &message));
        }
        conditions.push(over);
    }
}

/// Those of a list that still have their finalizer, and how many have not.
fn still_held(list: Option<Vec<String>>, held: &BTreeSet<&str>) -> (Vec<String>, i32) {
    let list = list.unwrap_or_default();
    let all = list.len();
    let kept: Vec<_> = list.into_iter().filter(|uid| held.contains(uid.as_str())).collect();
    let counted = super::count(all - kept.len());
    (kept, counted)
}
