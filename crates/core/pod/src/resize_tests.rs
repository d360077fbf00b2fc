//! What is changed, in which order, and what is told of it.

use serde_json::{Value, json};

use super::*;
use crate::fixture::{at, pod, running_as_granted};
use crate::plan;

/// `pod memory=… quota=… shares=…`, `a memory=… quota=… shares=…`: what is written and how.
fn short(step: &Step) -> Vec<String> {
    let limits = |limits: &Limits| {
        [
            ("memory", limits.memory_bytes),
            ("quota", limits.cpu_quota),
            ("shares", i64::try_from(limits.cpu_shares).unwrap()),
        ]
        .iter()
        .filter(|(_, value)| *value != 0)
        .map(|(name, value)| format!(" {name}={value}"))
        .collect::<String>()
    };
    match step {
        Step::Resize { changes, .. } => changes
            .iter()
            .map(|change| match change {
                Change::Pod(own) => format!("pod{}", limits(own)),
                Change::Container { id, limits: own, .. } => format!("{}{}", id.trim_end_matches("-0"), limits(own)),
            })
            .collect(),
        Step::KillContainer { name, message, .. } => vec![format!("kill {name}: {message}")],
        other => vec![format!("{other:?}")],
    }
}

fn shorts(actions: &plan::Actions) -> Vec<String> {
    actions.steps.iter().flat_map(short).collect()
}

/// Requests and limits alike.
fn both(cpu: &str, memory: &str) -> Value {
    json!({"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": cpu, "memory": memory}})
}

fn containers(list: &[(&str, Value)]) -> Value {
    let containers: Vec<Value> = list
        .iter()
        .map(|(name, resources)| json!({"name": name, "resources": resources}))
        .collect();
    json!({"restartPolicy": "Always", "containers": containers})
}

#[test]
fn the_pod_grows_first_and_shrinks_last() {
    let before = pod(containers(&[("a", both("100m", "10Mi")), ("b", both("100m", "10Mi"))]));
    let observed = running_as_granted(&before);
    for (name, after, expected) in [
        ("nothing", [both("100m", "10Mi"), both("0.1", "10240Ki")], vec![]),
        (
            "more",
            [both("200m", "20Mi"), both("100m", "10Mi")],
            vec![
                "pod memory=31457280",
                "a memory=20971520 quota=10000 shares=102",
                "pod quota=30000",
                "pod shares=307",
                "a memory=20971520 quota=20000 shares=204",
            ],
        ),
        (
            "less",
            [both("50m", "5Mi"), both("100m", "10Mi")],
            vec![
                "a memory=5242880 quota=10000 shares=102",
                "pod memory=15728640",
                "a memory=5242880 quota=5000 shares=51",
                "pod shares=153",
                "pod quota=15000",
            ],
        ),
        (
            "who gives up comes first",
            [both("200m", "10Mi"), both("50m", "10Mi")],
            vec![
                "pod quota=25000",
                "pod shares=256",
                "b memory=10485760 quota=5000 shares=51",
                "a memory=10485760 quota=20000 shares=204",
            ],
        ),
    ] {
        let [a, b] = after;
        let after = pod(containers(&[("a", a), ("b", b)]));
        let actions = plan::plan(&after, &observed, at(100));
        assert_eq!(shorts(&actions), expected, "{name}");
        assert_eq!(in_progress(&after, &observed, false), !expected.is_empty(), "{name}");
    }
}

#[test]
fn limits_come_where_there_were_none() {
    let before = pod(containers(&[
        ("a", json!({"requests": {"cpu": "100m"}})),
        ("b", json!({"requests": {"memory": "10Mi"}})),
    ]));
    let observed = running_as_granted(&before);
    let after = pod(containers(&[
        (
            "a",
            json!({"requests": {"cpu": "100m", "memory": "5Mi"}, "limits": {"cpu": "200m"}}),
        ),
        ("b", json!({"requests": {"memory": "20Mi"}, "limits": {"memory": "30Mi"}})),
    ]));
    let actions = plan::plan(&after, &observed, at(100));
    // A request for memory is noted, though no cgroup holds it.
    assert_eq!(
        shorts(&actions),
        [
            "a memory=-1 quota=-1 shares=102",
            "b memory=31457280 quota=-1 shares=2",
            "a memory=-1 quota=20000 shares=102"
        ]
    );
    let Some(Step::Resize { changes, lowered, .. }) = actions.steps.first() else {
        panic!("{actions:?}")
    };
    let Some(Change::Container { actuated, .. }) = changes.last() else {
        panic!("{changes:?}")
    };
    assert_eq!(
        serde_json::to_value(actuated).unwrap(),
        json!({"requests": {"cpu": "100m", "memory": "5Mi"}, "limits": {"cpu": "200m"}})
    );
    assert_eq!(
        *lowered,
        Lowered {
            pod: None,
            containers: vec![("b-0".into(), "b".into(), 30 << 20)]
        }
    );
}

#[test]
fn a_limit_below_what_is_used_is_refused() {
    let mut lowered = Lowered {
        pod: None,
        containers: vec![("a-0".into(), "a".into(), 100)],
    };
    let used = |used| move |_: &str| used;
    assert_eq!(lowered.refusal(None, used(Some(99))), None);
    assert_eq!(
        lowered.refusal(None, used(Some(100))).as_deref(),
        Some("cannot decrease memory limits: attempting to set container \"a\" memory limit (100) below current usage (100)")
    );
    lowered.pod = Some(300);
    assert_eq!(
        lowered.refusal(Some(301), used(None)).as_deref(),
        Some(
            "cannot decrease memory limits: [attempting to set pod memory limit (300) below current usage (301), missing container \"a\" memory usage]"
        )
    );
    assert_eq!(Lowered::default().refusal(None, used(None)), None);
}

#[test]
fn a_policy_of_restart_restarts_and_the_pod_follows_before_the_start() {
    let with_policy = |cpu: &str, memory: &str| {
        let mut spec = containers(&[("a", both(cpu, memory)), ("b", both("100m", "10Mi"))]);
        spec["containers"][0]["resizePolicy"] = json!([
            {"resourceName": "cpu", "restartPolicy": "NotRequired"}, {"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
        pod(spec)
    };
    let mut observed = running_as_granted(&with_policy("100m", "10Mi"));
    assert_eq!(
        plan::plan(&with_policy("200m", "10Mi"), &observed, at(100)).steps.len(),
        1,
        "CPU needs no restart"
    );
    let after = with_policy("200m", "20Mi");
    let kill = "kill a: Container a resize requires restart";
    assert_eq!(shorts(&plan::plan(&after, &observed, at(100))), [kill]);
    observed.busy.insert("a".into());
    assert!(plan::plan(&after, &observed, at(100)).steps.is_empty());

    // It has ended: the pod's own limits, and only then the start.
    observed.busy.clear();
    observed.killed.insert("a-0".into(), KillReason::Resized);
    observed.containers[0].state = ContainerState::Exited;
    observed.containers[0].finished_at = Some(at(99));
    assert_eq!(
        shorts(&plan::plan(&after, &observed, at(100))),
        ["pod memory=31457280", "pod quota=30000", "pod shares=307"]
    );
    observed.resizing = true;
    assert!(plan::plan(&after, &observed, at(100)).steps.is_empty(), "held");
    observed.resizing = false;
    observed.sandboxes[0].limits = qos::pod_limits(&after);
    assert!(matches!(
        plan::plan(&after, &observed, at(100)).steps.as_slice(),
        [Step::StartContainer { name, ended: None, .. }] if name == "a"
    ));
}

#[test]
fn nothing_changes_beside_something_else() {
    let before = pod(containers(&[("a", both("100m", "10Mi")), ("b", both("100m", "10Mi"))]));
    let after = pod(containers(&[("a", both("200m", "10Mi")), ("b", both("100m", "10Mi"))]));
    let observed = running_as_granted(&before);
    let busy = Observed {
        busy: ["b".to_owned()].into(),
        ..observed.clone()
    };
    assert!(plan::plan(&after, &busy, at(100)).steps.is_empty());
    let later = Observed {
        resize_after: Some(at(110)),
        ..observed.clone()
    };
    let actions = plan::plan(&after, &later, at(100));
    assert_eq!((actions.steps.len(), actions.wait_until), (0, Some(at(110))));
    assert_eq!(plan::plan(&after, &later, at(110)).steps.len(), 1);
}

#[test]
fn the_status_tells_what_cgroups_hold() {
    let before = pod(containers(&[
        ("a", both("1", "100M")),
        ("b", json!({"requests": {"cpu": "1m"}, "limits": {"cpu": "5m"}})),
    ]));
    let after = pod(containers(&[
        ("a", both("2", "200M")),
        ("b", json!({"requests": {"cpu": "2m"}, "limits": {"cpu": "10m"}})),
    ]));
    let mut observed = running_as_granted(&before);
    observed.resize.go_on(3, at(100));
    let told = crate::status(&after, &observed, at(100));
    let found = serde_json::to_value(told.container_statuses.unwrap()).unwrap();
    assert_eq!(
        found[0]["resources"],
        json!({"requests": {"cpu": "1", "memory": "100M"}, "limits": {"cpu": "1", "memory": "100000000"}})
    );
    assert_eq!(found[0]["allocatedResources"], json!({"cpu": "2", "memory": "200M"}));
    // Neither is told apart by a cgroup.
    assert_eq!(
        found[1]["resources"],
        json!({"requests": {"cpu": "2m"}, "limits": {"cpu": "10m"}})
    );
    assert_eq!(
        serde_json::to_value(told.resources).unwrap(),
        json!({"requests": {"cpu": "1001m", "memory": "200M"}, "limits": {"cpu": "1005m"}})
    );
    assert_eq!(
        serde_json::to_value(told.allocated_resources).unwrap(),
        json!({"cpu": "2002m", "memory": "200M"})
    );
    let kinds: Vec<String> = told
        .conditions
        .unwrap()
        .into_iter()
        .map(|condition| condition.type_)
        .collect();
    assert_eq!(kinds[..2], ["PodResizeInProgress", "PodReadyToStartContainers"]);
    observed.stopped = true;
    let told = crate::status(&after, &observed, at(100));
    assert!(
        told.conditions
            .unwrap()
            .iter()
            .all(|condition| condition.type_ != "PodResizeInProgress")
    );
}
