//! Jobs and cron jobs (pkg/apis/batch/validation).
//!
//! Invariant: a schedule is only read here, never followed; what is wrong with it is told in the words of the library
//! that upstream reads it with.

use serde_json::Value;
use trireme_api::selector::LabelSelector;

use super::container::label_key;
use super::errors::Errors;
use super::metadata;
use super::names;
use super::network::domain_path;
use super::node::{IMMUTABLE, NOT_SHOWN, Node, same};
use super::pod::{self, counts};
use super::seen::Seen;
use super::show;
use crate::cron::{self, Schedule};

const GENERATED: [(&str, &str); 4] = [
    ("controller-uid", "uid"),
    ("job-name", "name"),
    ("batch.kubernetes.io/controller-uid", "uid"),
    ("batch.kubernetes.io/job-name", "name"),
];

/// A job to create.
pub(super) fn job(errors: &mut Errors, root: &Node<'_>) {
    let (meta, spec) = (root.at("metadata"), root.at("spec"));
    generated_selector(errors, &meta, &spec);
    job_spec(errors, &spec);
    let completions = spec.at("completions").int();
    if spec.text("completionMode") == "Indexed" && completions > 0 {
        let host = format!("{}-{}", meta.text("name"), completions - 1);
        if !names::label(&host).is_empty() {
            errors.push(
                meta.at("name")
                    .bad(format!("will not able to create pod with invalid DNS label: {host}")),
            );
        }
    }
}

fn generated_selector(errors: &mut Errors, meta: &Node<'_>, spec: &Node<'_>) {
    let selector = spec.at("selector");
    if spec.is("manualSelector") || !selector.set() {
        return;
    }
    meta.need(errors, "uid");
    let labels = spec.get("template.metadata.labels");
    for (label, member) in GENERATED {
        let (node, wanted) = (labels.key(label), meta.text(member));
        if !node.set() {
            errors.push(node.required(format!("must be '{wanted}'")));
        } else if node.str() != wanted {
            errors.push(node.invalid_as(show::json(labels.value), format!("must be '{wanted}'")));
        }
    }
    let expected: Value = GENERATED
        .iter()
        .map(|(label, member)| ((*label).to_owned(), Value::from(meta.text(member))))
        .collect();
    if LabelSelector::from_value(Some(selector.value)).is_ok_and(|parsed| !parsed.matches_value(Some(&expected))) {
        errors.push(selector.invalid_as(show::selector(selector.value), "`selector` not auto-generated"));
    }
}

fn job_spec(errors: &mut Errors, spec: &Node<'_>) {
    inner_spec(errors, spec);
    let (selector, template) = (spec.at("selector"), spec.at("template"));
    if selector.set() {
        metadata::selector(errors, &selector);
    } else {
        errors.push(selector.required(""));
    }
    let parsed = if selector.set() {
        LabelSelector::from_value(Some(selector.value)).ok()
    } else {
        Some(LabelSelector::nothing())
    };
    let labels = template.get("metadata.labels");
    if parsed.is_some_and(|parsed| !parsed.matches_value(labels.set().then_some(labels.value))) {
        let shown = show::json(labels.value);
        errors.push(labels.invalid_as(shown, "`selector` does not match template `labels`"));
    }
}

fn inner_spec(errors: &mut Errors, spec: &Node<'_>) {
    counts(
        errors,
        spec,
        &[
            "parallelism",
            "completions",
            "activeDeadlineSeconds",
            "backoffLimit",
            "ttlSecondsAfterFinished",
            "backoffLimitPerIndex",
            "maxFailedIndexes",
        ],
    );
    if spec.has("maxFailedIndexes") && !spec.has("backoffLimitPerIndex") {
        errors.push(spec.at("backoffLimitPerIndex").required("when maxFailedIndexes is specified"));
    }
    let manager = spec.at("managedBy");
    if manager.set() {
        domain_path(errors, &manager);
        if manager.len() > 63 {
            errors.push(manager.too_long(63));
        }
    }
    completion_mode(errors, spec);
    let (failure, success) = (spec.at("podFailurePolicy"), spec.at("successPolicy"));
    if failure.set() {
        failure_policy(errors, spec, &failure);
    }
    if success.set() {
        if spec.text("completionMode") == "Indexed" {
            success_policy(errors, spec, &success);
        } else {
            errors.push(success.bad_struct("api/batch/v1", "SuccessPolicy", "requires indexed completion mode"));
        }
    }
    let replacement = spec.at("podReplacementPolicy");
    if replacement.set() {
        replacement.one_of(
            errors,
            if failure.set() {
                &["Failed"]
            } else {
                &["Failed", "TerminatingOrFailed"]
            },
        );
    }
    let template = spec.at("template");
    pod::template(errors, &template);
    let restart = template.get("spec.restartPolicy");
    match restart.str() {
        "Always" | "" => errors.push(restart.required("valid values: \"OnFailure\", \"Never\"")),
        "OnFailure" if failure.set() => {
            errors.push(restart.bad("only \"Never\" is supported when podFailurePolicy is specified"));
        }
        "OnFailure" | "Never" => {}
        _ => errors.push(restart.unsupported(&["OnFailure", "Never"])),
    }
}

fn completion_mode(errors: &mut Errors, spec: &Node<'_>) {
    let mode = spec.at("completionMode");
    if mode.set() {
        mode.one_of(errors, &["NonIndexed", "Indexed"]);
    }
    let (completions, parallelism) = (spec.at("completions"), spec.at("parallelism"));
    let (failed, per_index) = (spec.at("maxFailedIndexes"), spec.at("backoffLimitPerIndex"));
    if mode.str() == "Indexed" {
        if !completions.set() {
            errors.push(completions.required("when completion mode is Indexed"));
        }
        if parallelism.int() > 100_000 {
            errors.push(parallelism.bad_int("must be less than or equal to 100000 when completion mode is Indexed"));
        }
        if completions.set() && failed.set() && failed.int() > completions.int() {
            errors.push(failed.bad_int("must be less than or equal to completions"));
        }
        if failed.int() > 100_000 {
            errors.push(failed.bad_int("must be less than or equal to 100000"));
        }
        if completions.int() > 100_000 && per_index.set() {
            const MANY: &str =
                "must be less than or equal to 10000 when completions are above 100000 and used with backoff limit per index";
            if !failed.set() {
                errors.push(failed.required("must be specified when completions is above 100000"));
            }
            for count in [&parallelism, &failed] {
                if count.int() > 10_000 {
                    errors.push(count.bad_int(MANY));
                }
            }
        }
    }
    if !mode.set() || mode.str() == "NonIndexed" {
        for count in [per_index, failed] {
            if count.set() {
                errors.push(count.bad_int("requires indexed completion mode"));
            }
        }
    }
}

fn failure_policy(errors: &mut Errors, spec: &Node<'_>, policy: &Node<'_>) {
    let rules = policy.at("rules");
    if rules.len() > 20 {
        errors.push(rules.too_many(rules.len(), 20));
    }
    let pod = spec.get("template.spec");
    let containers: Seen<&str> = ["containers", "initContainers"]
        .iter()
        .flat_map(|list| pod.at(list).items())
        .map(|container| container.text("name"))
        .collect();
    for rule in rules.items() {
        let action = rule.at("action");
        match action.str() {
            "" => errors.push(action.required("valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]")),
            "FailIndex" if !spec.has("backoffLimitPerIndex") => {
                errors.push(action.bad("requires the backoffLimitPerIndex to be set"));
            }
            _ => action.one_of(errors, &["Count", "FailIndex", "FailJob", "Ignore"]),
        }
        let (codes, conditions) = (rule.at("onExitCodes"), rule.at("onPodConditions"));
        if codes.set() {
            exit_codes(errors, &codes, &containers);
        }
        if conditions.len() > 20 {
            errors.push(conditions.too_many(conditions.len(), 20));
        }
        for pattern in conditions.items() {
            label_key(errors, &pattern.at("type"));
            let status = pattern.at("status");
            if status.is_empty() {
                errors.push(status.required("valid values: [\"False\" \"True\" \"Unknown\"]"));
            } else {
                status.one_of(errors, &["False", "True", "Unknown"]);
            }
        }
        let clash = match (codes.set(), !conditions.is_empty()) {
            (true, true) => "specifying both OnExitCodes and OnPodConditions is not supported",
            (false, false) => "specifying one of OnExitCodes and OnPodConditions is required",
            _ => continue,
        };
        errors.push(rule.invalid_as(NOT_SHOWN, clash));
    }
}

fn exit_codes(errors: &mut Errors, node: &Node<'_>, containers: &Seen<&str>) {
    let (operator, name, values) = (node.at("operator"), node.at("containerName"), node.at("values"));
    if operator.is_empty() {
        errors.push(operator.required("valid values: [\"In\" \"NotIn\"]"));
    } else {
        operator.one_of(errors, &["In", "NotIn"]);
    }
    if name.set() && !containers.contains(&name.str()) {
        errors.push(name.bad("must be one of the container or initContainer names in the pod template"));
    }
    if values.is_empty() {
        errors.push(values.invalid("at least one value is required"));
    } else if values.len() > 255 {
        errors.push(values.too_many(values.len(), 255));
    }
    let mut seen: Seen<i64> = Seen::default();
    let (mut ordered, mut last) = (true, i64::MIN);
    for value in values.items() {
        if operator.str() == "In" && value.int() == 0 {
            errors.push(value.bad_int("must not be 0 for the In operator"));
        }
        if seen.contains(&value.int()) {
            errors.push(value.duplicate());
        }
        ordered &= last <= value.int();
        last = value.int();
        seen.push(value.int());
    }
    if !ordered {
        errors.push(values.invalid("must be ordered"));
    }
}

fn success_policy(errors: &mut Errors, spec: &Node<'_>, policy: &Node<'_>) {
    let (rules, completions) = (policy.at("rules"), spec.at("completions").int());
    if rules.is_empty() {
        errors.push(rules.required("at least one rules must be specified when the successPolicy is specified"));
    }
    if rules.len() > 20 {
        errors.push(rules.too_many(rules.len(), 20));
    }
    for rule in rules.items() {
        let (indexes, count) = (rule.at("succeededIndexes"), rule.at("succeededCount"));
        if !indexes.set() && !count.set() {
            errors.push(rule.required("at least one of succeededCount or succeededIndexes must be specified"));
        }
        let mut total = 0;
        if indexes.set() {
            if indexes.len() > 64 * 1024 {
                errors.push(indexes.too_long(64 * 1024));
            }
            match index_count(indexes.str(), completions) {
                Ok(found) => total = found,
                Err(problem) => errors.push(indexes.bad(format!("error parsing succeededIndexes: {problem}"))),
            }
        }
        if count.set() {
            count.non_negative(errors);
            if count.int() > completions {
                errors.push(count.bad_int(format!(
                    "must be less than or equal to {completions} (the number of specified completions)"
                )));
            }
            if indexes.set() && count.int() > total {
                errors.push(count.bad_int(format!(
                    "must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
                )));
            }
        }
    }
}

/// How many indexes a list such as `0-3,5` holds.
fn index_count(text: &str, completions: i64) -> Result<i64, String> {
    let ranges = index_ranges(text, completions)?;
    Ok(ranges.into_iter().map(|(first, end)| end - first + 1).sum())
}

/// The ranges of a list such as `0-3,5`, first and last index of each.
pub(super) fn index_ranges(text: &str, completions: i64) -> Result<Vec<(i64, i64)>, String> {
    let (mut last, mut ranges): (Option<i64>, Vec<(i64, i64)>) = (None, Vec::new());
    if text.is_empty() {
        return Ok(ranges);
    }
    let index = |text: &str| -> Result<i64, String> {
        let shown = show::quoted(text);
        let index = text
            .parse()
            .map_err(|_| format!("cannot convert string to integer for index: {shown}"))?;
        if index >= completions {
            Err(format!("too large index: {shown}"))
        } else {
            Ok(index)
        }
    };
    for interval in text.split(',') {
        let parts: Vec<&str> = interval.split('-').collect();
        let (first, end) = match parts[..] {
            [one] => (index(one)?, index(one)?),
            [first, end] => (index(first)?, index(end)?),
            _ => {
                return Err(format!(
                    "the fragment {} violates the requirement that an index interval can have at most two parts separated by '-'",
                    show::quoted(interval)
                ));
            }
        };
        if parts.len() == 2 && first >= end {
            return Err(format!("non-increasing order, previous: {first}, current: {end}"));
        }
        if let Some(last) = last.filter(|last| *last >= first) {
            return Err(format!("non-increasing order, previous: {last}, current: {first}"));
        }
        ranges.push((first, end));
        last = Some(end);
    }
    Ok(ranges)
}

/// What may not change about a job.
pub(super) fn job_update(errors: &mut Errors, root: &Node<'_>, old: &Node<'_>) {
    let (spec, before) = (root.at("spec"), old.at("spec"));
    job_spec(errors, &spec);
    let completions = spec.at("completions");
    if spec.text("completionMode") != "Indexed" {
        completions.immutable(errors, &before.at("completions"));
    } else if completions.set()
        && completions.value != before.at("completions").value
        && completions.int() != spec.at("parallelism").int()
    {
        errors.push(completions.bad_int("can only be modified in tandem with spec.parallelism"));
    }
    let selector = spec.at("selector");
    if !same(selector.value, before.at("selector").value) {
        errors.push(selector.invalid_as(show::selector(selector.value), IMMUTABLE));
    }
    template_update(errors, &spec, &before, old);
    spec.at("completionMode").immutable(errors, &before.at("completionMode"));
    for (name, ty) in [("podFailurePolicy", "PodFailurePolicy"), ("successPolicy", "SuccessPolicy")] {
        let policy = spec.at(name);
        if name == "successPolicy" {
            spec.at("backoffLimitPerIndex")
                .immutable(errors, &before.at("backoffLimitPerIndex"));
            spec.at("managedBy").immutable(errors, &before.at("managedBy"));
        }
        if !same(policy.value, before.at(name).value) {
            errors.push(policy.bad_struct("api/batch/v1", ty, IMMUTABLE));
        }
    }
}

/// A suspended job that runs nothing may have its pods placed and sized anew.
fn template_update(errors: &mut Errors, spec: &Node<'_>, before: &Node<'_>, old: &Node<'_>) {
    let template = spec.at("template");
    let mut earlier = before.at("template").value.clone();
    let suspended = before.is("suspend");
    let status = old.at("status");
    let never_started = !status.has("startTime");
    let rests = status
        .at("conditions")
        .items()
        .iter()
        .any(|condition| condition.text("type") == "Suspended" && condition.text("status") == "True");
    let idle = suspended && status.at("active").int() == 0 && (never_started || rests);
    if (suspended && never_started) || idle {
        for path in [
            "/spec/nodeSelector",
            "/spec/tolerations",
            "/metadata/annotations",
            "/metadata/labels",
            "/spec/schedulingGates",
            "/spec/affinity/nodeAffinity",
        ] {
            put(&mut earlier, path, template.value.pointer(path));
        }
    }
    let (kind, new, earlier) = if idle {
        for list in ["containers", "initContainers"] {
            resize(&mut earlier["spec"][list], &template.value["spec"][list]);
        }
        ("PodSpec", template.at("spec"), &earlier["spec"])
    } else {
        ("PodTemplateSpec", template, &earlier)
    };
    if !same(new.value, earlier) {
        errors.push(new.invalid_as(show::internal("api/core/v1", kind, new.value), IMMUTABLE));
    }
}

/// Give containers of the same name and place the resources of the new ones.
fn resize(containers: &mut Value, new: &Value) {
    let (Some(containers), Some(new)) = (containers.as_array_mut(), new.as_array()) else {
        return;
    };
    if containers.len() != new.len() {
        return;
    }
    for (container, new) in containers.iter_mut().zip(new) {
        if container.get("name") == new.get("name") {
            put(container, "/resources", new.get("resources"));
        }
    }
}

fn put(value: &mut Value, path: &str, new: Option<&Value>) {
    let Some((parent, name)) = path.rsplit_once('/') else { return };
    let mut at = value;
    for step in parent.split('/').filter(|step| !step.is_empty()) {
        if new.is_none() && at.get(step).is_none() {
            return;
        }
        let Some(members) = at.as_object_mut() else { return };
        at = members.entry(step).or_insert_with(|| Value::Object(serde_json::Map::new()));
    }
    let Some(members) = at.as_object_mut() else { return };
    match new {
        Some(new) => drop(members.insert(name.to_owned(), new.clone())),
        None => drop(members.remove(name)),
    }
}

/// A cron job; a time zone that `old` had stays allowed.
pub(super) fn cron_job(errors: &mut Errors, root: &Node<'_>, old: Option<&Node<'_>>) {
    let spec = root.at("spec");
    let (line, zone) = (spec.at("schedule"), spec.at("timeZone"));
    if line.is_empty() {
        errors.push(line.required(""));
    } else {
        if let Err(problem) = Schedule::parse(line.str()) {
            errors.push(line.bad(problem.to_string()));
        }
        let zoned = line.str().contains("TZ");
        if !old.is_some_and(|old| old.get("spec.schedule").str().contains("TZ")) {
            if zoned {
                errors.push(line.bad("cannot use TZ or CRON_TZ in schedule, use timeZone field instead"));
            }
        } else if zoned && zone.set() {
            errors.push(line.bad("cannot use both timeZone field and TZ or CRON_TZ in schedule"));
        }
    }
    spec.at("startingDeadlineSeconds").non_negative(errors);
    if zone.set() && old.is_none_or(|old| old.get("spec.timeZone").value != zone.value) {
        time_zone(errors, &zone);
    }
    spec.at("concurrencyPolicy")
        .need_one_of(errors, &["Allow", "Forbid", "Replace"]);
    let template = spec.get("jobTemplate.spec");
    inner_spec(errors, &template);
    let (selector, manual) = (template.at("selector"), template.at("manualSelector"));
    if selector.set() {
        errors.push(selector.invalid_as(show::selector(selector.value), "`selector` will be auto-generated"));
    }
    if template.is("manualSelector") {
        errors.push(manual.unsupported(&["nil", "false"]));
    }
    counts(errors, &spec, &["successfulJobsHistoryLimit", "failedJobsHistoryLimit"]);
    let name = root.at("metadata").at("name");
    if old.is_none() && name.len() > 52 {
        errors.push(name.bad("must be no more than 52 characters"));
    }
}

fn time_zone(errors: &mut Errors, node: &Node<'_>) {
    let text = node.str();
    if text.is_empty() {
        errors.push(node.bad("timeZone must be nil or non-empty string"));
        return;
    }
    let unknown = || node.bad(format!("unknown time zone {text}"));
    let plain = |part: &str| {
        !matches!(part, "." | "..")
            && !part.starts_with('-')
            && (1..=14).contains(&part.len())
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b".-_+".contains(&byte))
    };
    if !text.split('/').all(plain) {
        errors.push(unknown());
    } else if text.eq_ignore_ascii_case("local") {
        errors.push(node.bad("timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"));
    } else if cron::zone(text).is_none() {
        errors.push(unknown());
    }
}
