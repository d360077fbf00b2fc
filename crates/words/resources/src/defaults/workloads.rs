//! Defaults of apps, batch and autoscaling (pkg/apis/{apps,batch,autoscaling}/*/defaults.go).

use serde_json::{Value, json};

use super::{Fields, is_zero, object, set, set_zero, text};

pub(super) fn apply(package: &str, name: &str, fields: &mut Fields) {
    match name {
        "Deployment" => deployment(object(fields, "spec")),
        "ReplicaSet" => set(object(fields, "spec"), "replicas", 1),
        "DaemonSet" => daemon_set(object(fields, "spec")),
        "StatefulSet" => stateful_set(object(fields, "spec")),
        "Job" => {
            let labels = fields
                .get("spec")
                .and_then(|spec| spec.pointer("/template/metadata/labels"))
                .cloned();
            if let Some(labels) = labels.filter(|labels| !is_zero(Some(labels))) {
                set_zero(object(fields, "metadata"), "labels", labels);
            }
            job(object(fields, "spec"));
        }
        "CronJob" => {
            let spec = object(fields, "spec");
            set_zero(spec, "concurrencyPolicy", "Allow");
            set(spec, "suspend", false);
            set(spec, "successfulJobsHistoryLimit", 3);
            set(spec, "failedJobsHistoryLimit", 1);
        }
        "PodFailurePolicyOnPodConditionsPattern" => set_zero(fields, "status", "True"),
        "HorizontalPodAutoscaler" => autoscaler(package.ends_with("/v2"), object(fields, "spec")),
        _ => {}
    }
}

fn deployment(spec: &mut Fields) {
    set(spec, "replicas", 1);
    let strategy = object(spec, "strategy");
    set_zero(strategy, "type", "RollingUpdate");
    if text(strategy, "type") == "RollingUpdate" {
        let rolling = object(strategy, "rollingUpdate");
        set(rolling, "maxUnavailable", "25%");
        set(rolling, "maxSurge", "25%");
    }
    set(spec, "revisionHistoryLimit", 10);
    set(spec, "progressDeadlineSeconds", 600);
}

fn daemon_set(spec: &mut Fields) {
    let strategy = object(spec, "updateStrategy");
    set_zero(strategy, "type", "RollingUpdate");
    if text(strategy, "type") == "RollingUpdate" {
        let rolling = object(strategy, "rollingUpdate");
        set(rolling, "maxUnavailable", 1);
        set(rolling, "maxSurge", 0);
    }
    set(spec, "revisionHistoryLimit", 10);
}

fn stateful_set(spec: &mut Fields) {
    set_zero(spec, "podManagementPolicy", "OrderedReady");
    let strategy = object(spec, "updateStrategy");
    if text(strategy, "type").is_empty() {
        strategy.insert("type".into(), "RollingUpdate".into());
        set(strategy, "rollingUpdate", json!({}));
    }
    if text(strategy, "type") == "RollingUpdate"
        && let Some(rolling) = strategy.get_mut("rollingUpdate").and_then(Value::as_object_mut)
    {
        set(rolling, "partition", 0);
    }
    let retention = object(spec, "persistentVolumeClaimRetentionPolicy");
    set_zero(retention, "whenDeleted", "Retain");
    set_zero(retention, "whenScaled", "Retain");
    set(spec, "replicas", 1);
    set(spec, "revisionHistoryLimit", 10);
}

fn job(spec: &mut Fields) {
    if !spec.contains_key("completions") && !spec.contains_key("parallelism") {
        spec.insert("completions".into(), 1.into());
    }
    set(spec, "parallelism", 1);
    let limit = if spec.contains_key("backoffLimitPerIndex") {
        i32::MAX
    } else {
        6
    };
    set(spec, "backoffLimit", limit);
    set(spec, "completionMode", "NonIndexed");
    set(spec, "suspend", false);
    let replacement = if spec.contains_key("podFailurePolicy") {
        "Failed"
    } else {
        "TerminatingOrFailed"
    };
    set(spec, "podReplacementPolicy", replacement);
    set(spec, "manualSelector", false);
}

/// CPU at 80 % of requests where no metric is named.
fn autoscaler(v2: bool, spec: &mut Fields) {
    set(spec, "minReplicas", 1);
    if !v2 {
        return;
    }
    let target = json!({"type": "Utilization", "averageUtilization": 80});
    set_zero(
        spec,
        "metrics",
        json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}]),
    );
    let Some(behavior) = spec.get_mut("behavior").and_then(Value::as_object_mut) else {
        return;
    };
    let percent = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
    let pods = json!({"type": "Pods", "value": 4, "periodSeconds": 15});
    let up = object(behavior, "scaleUp");
    set(up, "stabilizationWindowSeconds", 0);
    set(up, "selectPolicy", "Max");
    set(up, "policies", json!([pods, percent]));
    let down = object(behavior, "scaleDown");
    set(down, "selectPolicy", "Max");
    set(down, "policies", json!([percent]));
}
