//! The cells of what makes pods, and of what scales and guards them.
//!
//! Invariant: objects are in their stored version; a missing field reads as its zero value.

use serde_json::Value;
use trireme_api::path;

use super::view::View;
use super::words::{clipped, containers, duration, instant, labels, selector, selector_or_none};
use crate::rows::Resource;

pub(super) fn workloads(row: &Resource, v: &View<'_>) -> Option<Vec<Value>> {
    let template = v.get(&["spec", "template", "spec"]);
    let [names, images] = containers(template);
    let chosen = || Value::from(selector_or_none(v.get(&["spec", "selector"])));
    Some(match (row.group, row.plural) {
        ("autoscaling", "scales") => {
            let [wanted, there] = [["spec", "replicas"], ["status", "replicas"]].map(|path| v.int(&path));
            vec![v.name(), wanted, there, v.age()]
        }
        ("", "podtemplates") => {
            let [names, images] = containers(v.get(&["template", "spec"]));
            vec![
                v.name(),
                names,
                images,
                Value::from(labels(v.get(&["template", "metadata", "labels"]))),
            ]
        }
        ("", "replicationcontrollers") | ("apps", "replicasets") => {
            let chosen = if row.group.is_empty() {
                Value::from(labels(v.get(&["spec", "selector"])))
            } else {
                chosen()
            };
            let counts = [
                v.int(&["spec", "replicas"]),
                v.int(&["status", "replicas"]),
                v.int(&["status", "readyReplicas"]),
            ];
            [vec![v.name()], counts.to_vec(), vec![v.age(), names, images, chosen]].concat()
        }
        ("apps", "deployments") => {
            let ready = format!(
                "{}/{}",
                v.number(&["status", "readyReplicas"]),
                v.number(&["spec", "replicas"])
            );
            let (updated, available) = (v.int(&["status", "updatedReplicas"]), v.int(&["status", "availableReplicas"]));
            let chosen = Value::from(selector(v.get(&["spec", "selector"])));
            vec![
                v.name(),
                Value::from(ready),
                updated,
                available,
                v.age(),
                names,
                images,
                chosen,
            ]
        }
        ("apps", "statefulsets") => {
            let ready = format!(
                "{}/{}",
                v.number(&["status", "readyReplicas"]),
                v.number(&["spec", "replicas"])
            );
            vec![v.name(), Value::from(ready), v.age(), names, images]
        }
        ("apps", "daemonsets") => {
            let of = |name| v.int(&["status", name]);
            vec![
                v.name(),
                of("desiredNumberScheduled"),
                of("currentNumberScheduled"),
                of("numberReady"),
                of("updatedNumberScheduled"),
                of("numberAvailable"),
                Value::from(labels(v.get(&["spec", "template", "spec", "nodeSelector"]))),
                v.age(),
                names,
                images,
                chosen(),
            ]
        }
        ("apps", "controllerrevisions") => {
            let owners = v.list(&["metadata", "ownerReferences"]);
            let owner = owners
                .iter()
                .find(|owner| path::bool(owner, &["controller"]))
                .map_or("<none>".to_owned(), |owner| {
                    let kind = path::str(owner, &["kind"]).to_lowercase();
                    let name = path::str(owner, &["name"]);
                    match path::str(owner, &["apiVersion"]).rsplit_once('/') {
                        Some((group, _)) => format!("{kind}.{group}/{name}"),
                        None => format!("{kind}/{name}"),
                    }
                });
            vec![v.name(), Value::from(owner), v.int(&["revision"]), v.age()]
        }
        ("batch", "jobs") => {
            vec![
                v.name(),
                job_status(v),
                job_completions(v),
                job_duration(v),
                v.age(),
                names,
                images,
                chosen(),
            ]
        }
        ("batch", "cronjobs") => {
            let inner = ["spec", "jobTemplate", "spec"];
            let [names, images] = containers(v.get(&[&inner[..], &["template", "spec"]].concat()));
            let suspend = match v.get(&["spec", "suspend"]).and_then(Value::as_bool) {
                Some(true) => "True",
                Some(false) => "False",
                None => "<unset>",
            };
            let last = v
                .get(&["status", "lastScheduleTime"])
                .map_or("<none>".to_owned(), |_| v.since(&["status", "lastScheduleTime"]));
            vec![
                v.name(),
                v.text(&["spec", "schedule"]),
                v.or(&["spec", "timeZone"], "<none>"),
                Value::from(suspend),
                Value::from(v.len(&["status", "active"])),
                Value::from(last),
                v.age(),
                names,
                images,
                Value::from(selector_or_none(v.get(&[&inner[..], &["selector"]].concat()))),
            ]
        }
        ("policy", "poddisruptionbudgets") => vec![
            v.name(),
            v.or(&["spec", "minAvailable"], "N/A"),
            v.or(&["spec", "maxUnavailable"], "N/A"),
            v.int(&["status", "disruptionsAllowed"]),
            v.age(),
        ],
        ("autoscaling", "horizontalpodautoscalers") => vec![
            v.name(),
            Value::from(format!(
                "{}/{}",
                v.str(&["spec", "scaleTargetRef", "kind"]),
                v.str(&["spec", "scaleTargetRef", "name"])
            )),
            Value::from(metrics(v)),
            v.or(&["spec", "minReplicas"], "<unset>"),
            v.int(&["spec", "maxReplicas"]),
            v.int(&["status", "currentReplicas"]),
            v.age(),
        ],
        _ => return None,
    })
}

fn job_status(v: &View<'_>) -> Value {
    let is = |kind| v.condition(kind) == Some("True");
    let deleting = v.get(&["metadata", "deletionTimestamp"]).is_some();
    Value::from(match () {
        () if is("Complete") => "Complete",
        () if is("Failed") => "Failed",
        () if deleting => "Terminating",
        () if is("Suspended") => "Suspended",
        () if is("FailureTarget") => "FailureTarget",
        () if is("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    })
}

fn job_completions(v: &View<'_>) -> Value {
    let done = v.number(&["status", "succeeded"]);
    let parallel = v.number(&["spec", "parallelism"]);
    Value::from(match path::i64(v.value, &["spec", "completions"]) {
        Some(wanted) => format!("{done}/{wanted}"),
        None if parallel > 1 => format!("{done}/1 of {parallel}"),
        None => format!("{done}/1"),
    })
}

fn job_duration(v: &View<'_>) -> Value {
    let Some(start) = instant(v.get(&["status", "startTime"])) else {
        return Value::from("");
    };
    let end = instant(v.get(&["status", "completionTime"])).unwrap_or(v.now);
    Value::from(duration(end.as_second() - start.as_second()))
}

fn metrics(v: &View<'_>) -> String {
    const UNKNOWN: &str = "<unknown>";
    let specs = v.list(&["spec", "metrics"]);
    if specs.is_empty() {
        return "<none>".to_owned();
    }
    let current = v.list(&["status", "currentMetrics"]);
    let mut shown = Vec::new();
    for (number, spec) in specs.iter().enumerate() {
        let member = match path::str(spec, &["type"]) {
            "External" => "external",
            "Pods" => "pods",
            "Object" => "object",
            "Resource" => "resource",
            "ContainerResource" => "containerResource",
            _ => {
                shown.push("<unknown type>".to_owned());
                continue;
            }
        };
        let target = |name| path::str(spec, &[member, "target", name]);
        let measured = |name| match current
            .get(number)
            .map(|status| path::str(status, &[member, "current", name]))
        {
            None | Some("") => UNKNOWN.to_owned(),
            Some(text) => text.to_owned(),
        };
        let average = !target("averageValue").is_empty();
        shown.push(match member {
            "external" | "object" if average => format!("{}/{} (avg)", measured("averageValue"), target("averageValue")),
            "external" | "object" => format!("{}/{}", measured("value"), target("value")),
            "pods" => format!("{}/{}", measured("averageValue"), target("averageValue")),
            _ => {
                let name = path::str(spec, &[member, "name"]);
                if average {
                    format!("{name}: {}/{}", measured("averageValue"), target("averageValue"))
                } else {
                    let percent = |from: Option<&Value>, at: &str| {
                        from.and_then(|from| path::i64(from, &[member, at, "averageUtilization"]))
                            .map(|share| format!("{share}%"))
                    };
                    let now = percent(current.get(number), "current").unwrap_or_else(|| UNKNOWN.to_owned());
                    let wanted = percent(Some(spec), "target").unwrap_or_else(|| "<auto>".to_owned());
                    format!("{name}: {now}/{wanted}")
                }
            }
        });
    }
    clipped(&shown, 2, ", ")
}
