//! Statuses of pods in each of their situations.

use serde_json::{Value, json};

use super::*;
use crate::Backoff;
use crate::fixture::{at, pod, prepared, run, with};
use crate::observed::{ContainerState::*, ProbeResults, Verdict, Waiting};
use jiff::SignedDuration;

fn condition<'a>(status: &'a PodStatus, kind: &str) -> &'a PodCondition {
    status
        .conditions
        .as_ref()
        .unwrap()
        .iter()
        .find(|condition| condition.type_ == kind)
        .unwrap()
}

fn waiting(status: &ContainerStatus) -> &str {
    status
        .state
        .as_ref()
        .unwrap()
        .waiting
        .as_ref()
        .unwrap()
        .reason
        .as_deref()
        .unwrap_or_default()
}

#[test]
fn phases() {
    let one = || json!({"restartPolicy": "Always"});
    let never = || json!({"restartPolicy": "Never"});
    let init = |policy: &str| json!({"restartPolicy": policy, "initContainers": [{"name": "i"}]});
    let side = || json!({"restartPolicy": "Never", "initContainers": [{"name": "s", "restartPolicy": "Always"}]});
    // name, spec, runs, stopped, phase
    let rows: Vec<(&str, Value, Vec<crate::Container>, bool, &str)> = vec![
        ("nothing", one(), vec![], false, "Pending"),
        ("running", one(), vec![run("c", 0, Running, 0)], false, "Running"),
        ("between runs", one(), vec![run("c", 0, Exited, 1)], false, "Running"),
        ("done", never(), vec![run("c", 0, Exited, 0)], false, "Succeeded"),
        ("failed", never(), vec![run("c", 0, Exited, 1)], false, "Failed"),
        (
            "deleted while it would restart",
            one(),
            vec![run("c", 0, Exited, 0)],
            true,
            "Succeeded",
        ),
        ("killed", one(), vec![run("c", 0, Exited, 137)], true, "Failed"),
        (
            "initialising",
            init("Always"),
            vec![run("i", 0, Running, 0)],
            false,
            "Pending",
        ),
        ("init failing", init("Always"), vec![run("i", 0, Exited, 1)], false, "Pending"),
        ("init failed", init("Never"), vec![run("i", 0, Exited, 1)], false, "Failed"),
        (
            "a sidecar keeps a pod running",
            side(),
            vec![run("c", 0, Exited, 0), run("s", 0, Running, 0)],
            false,
            "Running",
        ),
        (
            "until it ends",
            side(),
            vec![run("c", 0, Exited, 0), run("s", 0, Exited, 137)],
            true,
            "Succeeded",
        ),
    ];
    for (name, spec, runs, stopped, expected) in rows {
        let observed = Observed {
            stopped,
            ..with(prepared(), runs)
        };
        assert_eq!(
            status(&pod(spec), &observed, at(100)).phase.as_deref(),
            Some(expected),
            "{name}"
        );
    }
}

#[test]
fn a_final_phase_stays() {
    let mut pod = pod(json!({"restartPolicy": "Always"}));
    pod.status = Some(PodStatus {
        phase: Some("Failed".into()),
        reason: Some("Evicted".into()),
        ..PodStatus::default()
    });
    let observed = Observed {
        previous: pod.status.clone().unwrap(),
        ..with(prepared(), [run("c", 0, Running, 0)])
    };
    let found = status(&pod, &observed, at(100));
    assert_eq!(
        (found.phase.as_deref(), found.reason.as_deref()),
        (Some("Failed"), Some("Evicted"))
    );
    assert_eq!(condition(&found, "Ready").reason.as_deref(), Some("PodFailed"));
}

#[test]
fn a_new_pod_waits_for_its_parts() {
    let found = status(
        &pod(json!({"containers": [{"name": "a"}, {"name": "b"}]})),
        &Observed::default(),
        at(100),
    );
    let statuses = found.container_statuses.as_ref().unwrap();
    assert_eq!(
        (waiting(&statuses[0]), waiting(&statuses[1])),
        ("ContainerCreating", "ContainerCreating")
    );
    assert_eq!(condition(&found, "PodReadyToStartContainers").status, "False");
    assert_eq!(condition(&found, "Initialized").status, "True");
    let ready = condition(&found, "Ready");
    assert_eq!(
        (ready.reason.as_deref(), ready.message.as_deref()),
        (Some("ContainersNotReady"), Some("containers with unready status: [a b]"))
    );
    assert_eq!(found.start_time, Some(seconds(at(100))));
    assert_eq!(found.qos_class.as_deref(), Some("BestEffort"));
    let kinds: Vec<&str> = found
        .conditions
        .as_ref()
        .unwrap()
        .iter()
        .map(|condition| condition.type_.as_str())
        .collect();
    assert_eq!(
        kinds,
        [
            "PodReadyToStartContainers",
            "Initialized",
            "Ready",
            "ContainersReady",
            "PodScheduled"
        ]
    );
    assert!(
        found
            .conditions
            .as_ref()
            .unwrap()
            .iter()
            .all(|condition| condition.observed_generation == Some(3))
    );
}

#[test]
fn init_containers_say_what_is_missing() {
    let spec = json!({"initContainers": [{"name": "i"}, {"name": "j"}]});
    let found = status(&pod(spec.clone()), &with(prepared(), [run("i", 0, Running, 0)]), at(100));
    assert_eq!(waiting(&found.container_statuses.as_ref().unwrap()[0]), "PodInitializing");
    let initialized = condition(&found, "Initialized");
    assert_eq!(
        (initialized.reason.as_deref(), initialized.message.as_deref()),
        (
            Some("ContainersNotInitialized"),
            Some("containers with incomplete status: [i j]")
        )
    );
    let found = status(&pod(spec), &with(prepared(), [run("c", 0, Running, 0)]), at(100));
    let init = &found.init_container_statuses.as_ref().unwrap()[0];
    assert_eq!(
        init.state.as_ref().unwrap().terminated.as_ref().unwrap().reason.as_deref(),
        Some("Completed"),
        "forgotten is done"
    );
    assert_eq!(condition(&found, "Initialized").status, "True");
}

#[test]
fn readiness_follows_probes_and_gates() {
    let spec = json!({"containers": [{"name": "c", "readinessProbe": {}, "startupProbe": {}}], "readinessGates": [{"conditionType": "x/y"}]});
    let mut pod = pod(spec);
    let mut observed = with(prepared(), [run("c", 0, Running, 0)]);
    let of = |pod: &Pod, observed: &Observed| {
        let found = status(pod, observed, at(100));
        let container = found.container_statuses.as_ref().unwrap()[0].clone();
        (
            container.started,
            container.ready,
            condition(&found, "ContainersReady").status.clone(),
            condition(&found, "Ready").message.clone(),
        )
    };
    let unready = Some("containers with unready status: [c]".to_owned());
    assert_eq!(of(&pod, &observed), (Some(false), false, "False".into(), unready.clone()));
    observed.probes.insert(
        "c-0".into(),
        ProbeResults {
            startup: Some(true),
            ..ProbeResults::default()
        },
    );
    assert_eq!(of(&pod, &observed), (Some(true), false, "False".into(), unready));
    observed.probes.insert(
        "c-0".into(),
        ProbeResults {
            startup: Some(true),
            readiness: Some(true),
            liveness: None,
        },
    );
    let absent = "corresponding condition of pod readiness gate \"x/y\" does not exist.";
    assert_eq!(of(&pod, &observed), (Some(true), true, "True".into(), Some(absent.into())));
    let gate = PodCondition {
        type_: "x/y".into(),
        status: "True".into(),
        ..PodCondition::default()
    };
    pod.status = Some(PodStatus {
        conditions: Some(vec![gate]),
        ..PodStatus::default()
    });
    assert_eq!(of(&pod, &observed), (Some(true), true, "True".into(), None));
    assert_eq!(
        status(&pod, &observed, at(100)).conditions.unwrap()[0].type_,
        "x/y",
        "others' conditions stay"
    );
}

#[test]
fn failures_back_off_and_last_state() {
    let pod = pod(json!({"restartPolicy": "Always"}));
    let mut observed = with(prepared(), [run("c", 2, Exited, 1), run("c", 1, Exited, 2)]);
    observed.backoffs.insert(
        "c".into(),
        Backoff {
            delay: SignedDuration::from_secs(160),
            last_update: at(0),
        },
    );
    let found = status(&pod, &observed, at(100)).container_statuses.unwrap().remove(0);
    assert_eq!(waiting(&found), "CrashLoopBackOff");
    let message = found.state.as_ref().unwrap().waiting.as_ref().unwrap().message.clone();
    assert_eq!(
        message.as_deref(),
        Some("back-off 2m40s restarting failed container=c pod=p_n(u)")
    );
    assert_eq!(found.last_state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code, 1);
    // It is being started: the back-off that it has by now is the next one's.
    observed.busy.insert("c".into());
    let starting = status(&pod, &observed, at(100)).container_statuses.unwrap().remove(0);
    assert!(starting.state.unwrap().terminated.is_some());
    observed.busy.clear();
    assert_eq!(found.restart_count, 2);

    observed.failures.insert(
        "c".into(),
        Waiting {
            reason: "RunContainerError".into(),
            message: "no".into(),
            retry_at: at(101),
        },
    );
    assert_eq!(
        waiting(&status(&pod, &observed, at(100)).container_statuses.unwrap()[0]),
        "RunContainerError",
        "what just failed is shown first"
    );

    let observed = with(prepared(), [run("c", 2, Running, 0), run("c", 1, Exited, 2)]);
    let found = status(&pod, &observed, at(100)).container_statuses.unwrap().remove(0);
    assert_eq!(found.last_state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code, 2);
    assert_eq!(found.container_id.as_deref(), Some("trireme://c-2"));
    assert!(found.ready);
}

#[test]
fn transition_times_move_only_with_the_status() {
    let pod = pod(json!({}));
    let mut observed = with(prepared(), [run("c", 0, Running, 0)]);
    let first = status(&pod, &observed, at(100));
    observed.previous = first.clone();
    assert_eq!(status(&pod, &observed, at(200)), first, "nothing new is nothing new");
    observed.containers = vec![run("c", 0, Exited, 1)];
    let later = status(&pod, &observed, at(300));
    assert_eq!(condition(&later, "Ready").last_transition_time, Some(seconds(at(300))));
    assert_eq!(condition(&later, "PodScheduled").last_transition_time, Some(seconds(at(100))));
    assert_eq!(later.start_time, Some(seconds(at(100))));
}

#[test]
fn a_verdict_of_the_node_fails_the_pod() {
    let observed = Observed {
        verdict: Some(Verdict {
            reason: "Evicted".into(),
            message: "out of disk".into(),
        }),
        ..with(prepared(), [run("c", 0, Running, 0)])
    };
    let found = status(&pod(json!({})), &observed, at(100));
    assert_eq!(
        (found.phase.as_deref(), found.reason.as_deref(), found.message.as_deref()),
        (Some("Failed"), Some("Evicted"), Some("out of disk"))
    );
}

#[test]
fn addresses_of_pod_and_host() {
    let found = status(&pod(json!({})), &prepared(), at(100));
    assert_eq!(
        (found.pod_ip.as_deref(), found.host_ip.as_deref()),
        (Some("10.42.0.2"), Some("192.0.2.1"))
    );
    let mut observed = prepared();
    observed.sandboxes[0].ips.clear();
    let found = status(&pod(json!({"hostNetwork": true})), &observed, at(100));
    assert_eq!(found.pod_ip.as_deref(), Some("192.0.2.1"));
}

#[test]
fn what_has_not_started_waits_and_says_why() {
    let exec = json!({"exec": {"command": ["x"]}});
    let spec = || json!({"restartPolicy": "Always", "containers": [{"name": "c", "lifecycle": {"postStart": exec}}]});
    let with_init = || {
        let mut spec = spec();
        spec["initContainers"] = json!([{"name": "i"}]);
        spec
    };
    // name, spec, runs, the container's waiting reason
    for (name, spec, runs, reason) in [
        ("made", spec(), vec![run("c", 0, Created, 0)], "ContainerCreating"),
        (
            "made after init containers",
            with_init(),
            vec![run("c", 0, Created, 0), run("i", 0, Exited, 0)],
            "PodInitializing",
        ),
        ("not known", spec(), vec![run("c", 0, Unknown, 0)], "ContainerCreating"),
    ] {
        let found = status(&pod(spec), &with(prepared(), runs), at(100));
        let container = &found.container_statuses.as_ref().unwrap()[0];
        assert_eq!(waiting(container), reason, "{name}");
        assert_eq!((container.started, container.ready), (Some(false), false), "{name}");
        assert_eq!(found.phase.as_deref(), Some("Pending"), "{name}");
        assert_eq!(condition(&found, "Ready").status, "False", "{name}");
        assert_eq!(condition(&found, "ContainersReady").status, "False", "{name}");
    }

    // A hook of a second run: what was said before it stays.
    let runs = [run("c", 1, Created, 0), run("c", 0, Exited, 3)];
    let found = status(&pod(spec()), &with(prepared(), runs), at(100));
    let container = &found.container_statuses.as_ref().unwrap()[0];
    let ended = container.state.as_ref().unwrap().terminated.as_ref().unwrap();
    assert_eq!((ended.exit_code, container.restart_count, container.ready), (3, 0, false));
    assert_eq!(found.phase.as_deref(), Some("Running"));
}
