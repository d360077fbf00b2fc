//! The status of a job (pkg/apis/batch/validation and the strategy of pkg/registry/batch/job).
//!
//! Invariant: what did not change is not judged, so that a job whose spec changed under its status can be mended.

use serde_json::Value;

use super::batch::index_ranges;
use super::errors::Errors;
use super::node::{IMMUTABLE, NOT_SHOWN, Node, same};
use super::pod::counts;
use super::seen::Seen;

fn is(root: &Node<'_>, kind: &str) -> bool {
    has(root, kind, "True")
}

fn has(root: &Node<'_>, kind: &str, value: &str) -> bool {
    let conditions = root.get("status.conditions").items();
    conditions
        .iter()
        .find(|condition| condition.text("type") == kind)
        .is_some_and(|condition| condition.text("status") == value)
}

/// An update of a job's status.
pub(super) fn job_status(errors: &mut Errors, root: &Node<'_>, old: &Node<'_>) {
    let (spec, status, before) = (root.at("spec"), root.at("status"), old.at("status"));
    counts(errors, &status, &["active", "succeeded", "failed", "ready", "terminating"]);
    uncounted(errors, &status.at("uncountedTerminatedPods"));
    let changed = |name: &str| status.at(name).value != before.at(name).value;
    let turned = |kind: &str| is(root, kind) != is(old, kind);
    let conditions = status.child("conditions");
    let refuse = |errors: &mut Errors, wrong: bool, text: &str| {
        if wrong {
            errors.push(conditions.invalid_as(NOT_SHOWN, text));
        }
    };
    let (complete, failed) = (is(root, "Complete"), is(root, "Failed"));
    let (criteria, target) = (is(root, "SuccessCriteriaMet"), is(root, "FailureTarget"));
    let finished = complete || failed;
    let finished_turned = finished != (is(old, "Complete") || is(old, "Failed"));
    let (start, completion) = (status.at("startTime"), status.at("completionTime"));
    refuse(
        errors,
        (turned("Complete") || turned("Failed")) && complete && failed,
        "cannot set Complete=True and Failed=true conditions",
    );
    refuse(
        errors,
        (turned("Complete") || turned("FailureTarget")) && complete && target,
        "cannot set Complete=True and FailureTarget=true conditions",
    );
    let completes = turned("Complete") || changed("completionTime");
    if completes && completion.set() && !complete {
        errors.push(completion.invalid("cannot set completionTime when there is no Complete=True condition"));
    }
    if completes && !completion.set() && complete {
        errors.push(completion.required("completionTime is required for Complete jobs"));
    }
    let early = start.set() && completion.set() && completion.str() < start.str();
    if (changed("startTime") || changed("completionTime")) && early {
        errors.push(completion.invalid("must be equal to or after `startTime`"));
    }
    refuse(
        errors,
        (turned("Failed") || changed("failedIndexes")) && failed && !target,
        "cannot set Failed=True condition without the FailureTarget=true condition",
    );
    refuse(
        errors,
        (turned("Complete") || turned("SuccessCriteriaMet")) && complete && !criteria,
        "cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
    );
    let active = status.at("active");
    if (finished_turned || changed("active")) && finished && active.int() > 0 {
        errors.push(active.bad_int("active>0 is invalid for finished job"));
    }
    let nothing_to_do = spec.is("suspend") && spec.at("completions").value.as_i64() == Some(0);
    if (finished_turned || changed("startTime")) && !nothing_to_do && finished && !start.set() {
        errors.push(start.required("startTime is required for finished job"));
    }
    let pods = status.at("uncountedTerminatedPods");
    let some = !pods.at("failed").is_empty() || !pods.at("succeeded").is_empty();
    if (finished_turned || !same(pods.value, before.at("uncountedTerminatedPods").value)) && finished && some {
        errors.push(pods.bad_struct("api/batch/v1", "UncountedTerminatedPods", "must be empty for finished job"));
    }
    indexes(errors, &spec, &status, &before);
    let (terminating, ready) = (status.at("terminating"), status.at("ready"));
    if (finished_turned || changed("terminating")) && finished && terminating.int() > 0 {
        errors.push(terminating.bad_int("terminating>0 is invalid for finished job"));
    }
    if (changed("ready") || changed("active")) && ready.set() && ready.int() > active.int() {
        errors.push(ready.bad_int("cannot set more ready pods than active"));
    }
    refuse(
        errors,
        criteria && failed,
        "cannot set SuccessCriteriaMet=True and Failed=true conditions",
    );
    refuse(
        errors,
        criteria && target,
        "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions",
    );
    refuse(
        errors,
        spec.has("successPolicy") && !criteria && complete,
        "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True",
    );
    history(errors, root, old);
}

/// What may not go back.
fn history(errors: &mut Errors, root: &Node<'_>, old: &Node<'_>) {
    let (spec, status, before) = (root.at("spec"), root.at("status"), old.at("status"));
    let conditions = status.child("conditions");
    for kind in ["Failed", "Complete", "FailureTarget"] {
        if is(old, kind) && !is(root, kind) {
            let text = format!("cannot disable the terminal {kind}=True condition");
            errors.push(conditions.invalid_as(NOT_SHOWN, text));
        }
    }
    let indexed = spec.text("completionMode") == "Indexed";
    let scales = indexed && spec.at("completions").value == spec.at("parallelism").value;
    for name in ["failed", "succeeded"] {
        let free = name == "succeeded" && scales;
        if !free && status.at(name).int() < before.at(name).int() {
            errors.push(status.at(name).bad_int(format!("cannot decrease the {name} counter")));
        }
    }
    let (start, completion) = (status.at("startTime"), status.at("completionTime"));
    if completion.set() && before.has("completionTime") && completion.value != before.at("completionTime").value {
        errors.push(completion.invalid(IMMUTABLE));
    }
    let resuming = is(old, "Suspended") && has(root, "Suspended", "False");
    if before.has("startTime") && start.value != before.at("startTime").value && !spec.is("suspend") && !resuming {
        errors.push(start.invalid("field is immutable for unsuspended job once set"));
    }
    if is(old, "SuccessCriteriaMet") && !is(root, "SuccessCriteriaMet") {
        errors.push(conditions.invalid_as(NOT_SHOWN, "cannot disable the SuccessCriteriaMet=True condition"));
    }
    if is(old, "Complete") && !is(old, "SuccessCriteriaMet") && is(root, "SuccessCriteriaMet") {
        errors.push(conditions.invalid_as(
            NOT_SHOWN,
            "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions",
        ));
    }
}

fn uncounted(errors: &mut Errors, pods: &Node<'_>) {
    let mut seen: Seen<&Value> = Seen::default();
    for list in ["succeeded", "failed"] {
        for uid in pods.at(list).items() {
            if uid.is_empty() {
                errors.push(uid.bad("must not be empty"));
            } else if seen.contains(&uid.value) {
                errors.push(uid.duplicate());
            } else {
                seen.push(uid.value);
            }
        }
    }
}

/// The indexes that completed and failed.
fn indexes(errors: &mut Errors, spec: &Node<'_>, status: &Node<'_>, before: &Node<'_>) {
    let (done, failed, limit) = (
        status.at("completedIndexes"),
        status.at("failedIndexes"),
        spec.at("backoffLimitPerIndex"),
    );
    let changed = |name: &str| status.at(name).value != before.at(name).value;
    let (done_changed, failed_changed) = (changed("completedIndexes"), changed("failedIndexes"));
    let completions = spec.at("completions");
    let ranges = |node: &Node<'_>| index_ranges(node.str(), completions.int());
    if done_changed
        && completions.set()
        && let Err(problem) = ranges(&done)
    {
        errors.push(done.bad(format!("error parsing completedIndexes: {problem}")));
    }
    if failed_changed
        && completions.set()
        && limit.set()
        && failed.set()
        && let Err(problem) = ranges(&failed)
    {
        errors.push(failed.bad(format!("error parsing failedIndexes: {problem}")));
    }
    if done_changed && !done.is_empty() && spec.text("completionMode") != "Indexed" {
        errors.push(done.bad("cannot set non-empty completedIndexes when non-indexed completion mode"));
    }
    if failed_changed && !limit.set() && failed.set() {
        errors.push(failed.bad("cannot set non-null failedIndexes when backoffLimitPerIndex is null"));
    }
    if (done_changed || failed_changed)
        && completions.set()
        && let Some(index) = overlap(failed.str(), done.str(), completions.int())
    {
        errors.push(failed.bad(format!("failedIndexes and completedIndexes overlap at index: {index}")));
    }
}

/// The first index of two lists of ranges that meet; ranges that cannot be read were told before.
fn overlap(failed: &str, done: &str, completions: i64) -> Option<i64> {
    let ranges = |text: &str| -> Vec<(i64, i64)> {
        let parts = text.split(',').filter(|part| !part.is_empty());
        parts
            .filter_map(|part| index_ranges(part, completions).ok())
            .flatten()
            .collect()
    };
    let (failed, done) = (ranges(failed), ranges(done));
    let (mut f, mut d) = (0, 0);
    while let (Some(one), Some(other)) = (failed.get(f), done.get(d)) {
        if other.0 <= one.1 && one.0 <= other.1 {
            return Some(one.0.max(other.0));
        }
        if other.0 <= one.0 {
            d += 1;
        } else {
            f += 1;
        }
    }
    None
}
