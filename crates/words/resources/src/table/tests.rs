//! Cells, kind by kind.

use super::*;
use crate::rows::{find, rows};
use serde_json::json;
use trireme_api::bulk::Present;

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

fn cells_of(group: &str, version: &str, plural: &str, value: Value) -> Vec<Value> {
    cells(find(group, version, plural).unwrap(), &value, now())
}

#[test]
fn every_row_has_as_many_cells_as_columns() {
    for row in rows() {
        let extra = usize::from(row.plural == "ipaddresses");
        assert_eq!(
            cells(row, &json!({"metadata": {}}), now()).len(),
            columns(row).len() + extra,
            "{}",
            row.plural
        );
        // Upstream looks up the handler's description in the wrong struct, so that it is empty.
        assert!(
            columns(row)
                .iter()
                .all(|column| column.name == "Handler" || !column.description.is_empty())
        );
    }
}

#[test]
fn pods_say_what_is_wrong_with_them() {
    let pod = |status: Value, more: Value| {
        let mut pod = json!({"metadata": {"name": "p", "creationTimestamp": "2026-01-01T00:59:00Z"},
            "spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]}, "status": status});
        let schema = find("", "v1", "pods").unwrap().schema();
        pod = crate::patch::merge_patch(schema, &Present::of(pod), more.to_string().as_bytes(), false)
            .unwrap()
            .document
            .to_value();
        let cells = cells_of("", "v1", "pods", pod);
        [1, 2, 3].map(|at| cells[at].as_str().unwrap().to_owned()).join(" ")
    };
    let running = |restarts: i64| json!({"name": "a", "ready": true, "restartCount": restarts, "state": {"running": {}}});
    for (status, more, want) in [
        (json!({"phase": "Pending"}), json!({}), "0/2 Pending 0"),
        (
            json!({"phase": "Running", "containerStatuses": [running(0), running(0)]}),
            json!({}),
            "2/2 Running 0",
        ),
        (
            json!({"phase": "Running", "containerStatuses": [running(0), {"name": "b", "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                "lastState": {"terminated": {"finishedAt": "2026-01-01T00:58:00Z"}}}]}),
            json!({}),
            "1/2 CrashLoopBackOff 3 (2m ago)",
        ),
        (
            json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"running": {}}}]}),
            json!({}),
            "0/2 Init:0/1 0",
        ),
        (
            json!({"phase": "Failed", "initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 2}}}]}),
            json!({}),
            "0/2 Init:ExitCode:2 0",
        ),
        (
            json!({"phase": "Running"}),
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:59:59Z"}}),
            "0/2 Terminating 0",
        ),
        (
            json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "reason": "SchedulingGated"}]}),
            json!({}),
            "0/2 SchedulingGated 0",
        ),
    ] {
        assert_eq!(pod(status.clone(), more), want, "{status}");
    }
}

#[test]
fn cells_of_common_kinds() {
    let meta = json!({"name": "x", "creationTimestamp": "2026-01-01T00:00:00Z"});
    for (group, version, plural, value, want) in [
        (
            "apps",
            "v1",
            "deployments",
            json!({"metadata": meta, "spec": {"replicas": 3, "selector": {"matchLabels": {"a": "b"}}, "template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}},
                "status": {"readyReplicas": 1, "updatedReplicas": 2}}),
            json!(["x", "1/3", 2, 0, "60m", "c", "i", "a=b"]),
        ),
        (
            "",
            "v1",
            "services",
            json!({"metadata": meta, "spec": {"type": "LoadBalancer", "clusterIPs": ["10.0.0.1"], "ports": [{"port": 80, "nodePort": 30000, "protocol": "TCP"}]}}),
            json!(["x", "LoadBalancer", "10.0.0.1", "<pending>", "80:30000/TCP", "60m", "<none>"]),
        ),
        (
            "autoscaling",
            "v1",
            "horizontalpodautoscalers",
            json!({"metadata": meta, "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "d"}, "minReplicas": 1, "maxReplicas": 5, "targetCPUUtilizationPercentage": 70}}),
            json!(["x", "Deployment/d", "cpu: <unknown>/70%", "1", 5, 0, "60m"]),
        ),
        (
            "",
            "v1",
            "nodes",
            json!({"metadata": {"name": "x", "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"node-role.kubernetes.io/control-plane": ""}},
                "spec": {"unschedulable": true}, "status": {"conditions": [{"type": "Ready", "status": "True"}], "nodeInfo": {"kubeletVersion": "v1"}}}),
            json!([
                "x",
                "Ready,SchedulingDisabled",
                "control-plane",
                "60m",
                "v1",
                "<none>",
                "<none>",
                "<unknown>",
                "<unknown>",
                "<unknown>"
            ]),
        ),
        (
            "events.k8s.io",
            "v1",
            "events",
            json!({"metadata": meta, "type": "Normal", "reason": "R", "note": " n ", "regarding": {"kind": "Pod", "name": "p"},
                "reportingController": "c", "reportingInstance": "i", "eventTime": "2026-01-01T00:59:55.000000Z"}),
            json!(["5s", "Normal", "R", "pod/p", "", "c, i", "n", "5s", 1, "x"]),
        ),
        (
            "batch",
            "v1",
            "jobs",
            json!({"metadata": meta, "spec": {"completions": 2, "selector": {}}, "status": {"succeeded": 2, "startTime": "2026-01-01T00:00:00Z",
                "completionTime": "2026-01-01T00:00:30Z", "conditions": [{"type": "Complete", "status": "True"}]}}),
            json!(["x", "Complete", "2/2", "30s", "60m", "", "", "<none>"]),
        ),
        (
            "rbac.authorization.k8s.io",
            "v1",
            "roles",
            json!({"metadata": meta}),
            json!(["x", "2026-01-01T00:00:00Z"]),
        ),
    ] {
        assert_eq!(Value::Array(cells_of(group, version, plural, value)), want, "{plural}");
    }
}
