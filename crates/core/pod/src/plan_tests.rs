//! What is planned for a pod in each of its situations.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::fixture::{at, deleting, pod, prepared, run, with};
use crate::observed::{ContainerState::*, ProbeResults, Sandbox, Waiting};

/// Steps in short: `start c`, `kill c`, `stop 30 [c-0 side-0<c-0]`, `sandbox 0`, `mount`.
fn short(actions: &Actions) -> Vec<String> {
    actions
        .steps
        .iter()
        .map(|step| match step {
            Step::MountVolumes => "mount".into(),
            Step::CreateSandbox { attempt, stop } => format!("sandbox {attempt} {}", stop.join(",")).trim_end().to_owned(),
            Step::StartContainer { name, attempt, .. } => match attempt {
                Some(attempt) => format!("start {name} {attempt}"),
                None => format!("start {name}"),
            },
            Step::KillContainer { name, grace_seconds, .. } => format!("kill {name} {grace_seconds}"),
            Step::Resize { changes, .. } => format!("resize {}", changes.len()),
            Step::StopPod {
                grace_seconds, targets, ..
            } => {
                let targets: Vec<String> = targets
                    .iter()
                    .map(|target| {
                        if target.after.is_empty() {
                            target.id.clone()
                        } else {
                            format!("{}<{}", target.id, target.after.join("+"))
                        }
                    })
                    .collect();
                format!("stop {grace_seconds} [{}]", targets.join(" "))
            }
        })
        .collect()
}

fn check(name: &str, spec: Value, observed: &Observed, expected: &[&str]) {
    assert_eq!(short(&plan(&pod(spec), observed, at(100))), expected, "{name}");
}

#[test]
fn from_nothing_to_running() {
    let nothing = Observed::default();
    check("volumes first", json!({}), &nothing, &["mount"]);
    let mounted = Observed {
        volumes_ready: true,
        ..Observed::default()
    };
    check("then a sandbox", json!({}), &mounted, &["sandbox 0"]);
    check(
        "once",
        json!({}),
        &Observed {
            preparing: true,
            ..mounted.clone()
        },
        &[],
    );
    check(
        "not too soon after a failure",
        json!({}),
        &Observed {
            retry_after: Some(at(101)),
            ..mounted
        },
        &[],
    );
    check(
        "then containers in order",
        json!({"containers": [{"name": "a"}, {"name": "b"}]}),
        &prepared(),
        &["start a", "start b"],
    );
    check(
        "what is busy is left alone",
        json!({}),
        &Observed {
            busy: ["c".to_owned()].into(),
            ..prepared()
        },
        &[],
    );
    check(
        "running is fine",
        json!({}),
        &with(prepared(), [run("c", 0, Running, 0)]),
        &[],
    );
}

#[test]
fn restarts_by_policy() {
    for (policy, code, expected) in [
        ("Always", 0, &["start c 1"][..]),
        ("Always", 1, &["start c 1"]),
        ("OnFailure", 1, &["start c 1"]),
        ("OnFailure", 0, &["stop 30 []"]),
        ("Never", 1, &["stop 30 []"]),
    ] {
        check(
            policy,
            json!({"restartPolicy": policy}),
            &with(prepared(), [run("c", 0, Exited, code)]),
            expected,
        );
    }
}

#[test]
fn back_off_holds_a_restart_and_names_its_end() {
    let mut observed = with(prepared(), [run("c", 5, Exited, 1)]);
    observed.backoffs.insert(
        "c".into(),
        Backoff {
            delay: SignedDuration::from_secs(160),
            last_update: at(0),
        },
    );
    let actions = plan(&pod(json!({"restartPolicy": "Always"})), &observed, at(100));
    assert_eq!((short(&actions), actions.wait_until), (vec![], Some(at(166))));
    assert_eq!(
        short(&plan(&pod(json!({"restartPolicy": "Always"})), &observed, at(166))),
        ["start c 6"]
    );
    observed.backoffs.clear();
    observed.failures.insert(
        "c".into(),
        Waiting {
            reason: "ErrImagePull".into(),
            message: String::new(),
            retry_at: at(105),
        },
    );
    let actions = plan(&pod(json!({"restartPolicy": "Always"})), &observed, at(100));
    assert_eq!((short(&actions), actions.wait_until), (vec![], Some(at(105))));
}

#[test]
fn init_containers_and_sidecars() {
    let spec = || json!({"restartPolicy": "Always", "initContainers": [{"name": "i"}, {"name": "side", "restartPolicy": "Always"}, {"name": "j"}]});
    for (name, runs, expected) in [
        ("first", vec![], vec!["start i"]),
        ("running holds the rest", vec![run("i", 0, Running, 0)], vec![]),
        ("failed is tried again", vec![run("i", 0, Exited, 1)], vec!["start i 1"]),
        ("next", vec![run("i", 0, Exited, 0)], vec!["start side"]),
        (
            "a started sidecar holds nothing",
            vec![run("side", 0, Running, 0), run("i", 0, Exited, 0)],
            vec!["start j"],
        ),
        (
            "done",
            vec![run("j", 0, Exited, 0), run("side", 0, Running, 0), run("i", 0, Exited, 0)],
            vec!["start c"],
        ),
        (
            "an ended sidecar comes back beside the others",
            vec![
                run("c", 0, Running, 0),
                run("j", 0, Exited, 0),
                run("side", 0, Exited, 1),
                run("i", 0, Exited, 0),
            ],
            vec!["start side 1"],
        ),
        (
            "forgotten init containers do not run again",
            vec![run("c", 0, Running, 0), run("side", 0, Running, 0)],
            vec![],
        ),
    ] {
        check(name, spec(), &with(prepared(), runs), &expected);
    }
    let never = json!({"restartPolicy": "Never", "initContainers": [{"name": "i"}]});
    check(
        "a failed init container ends the pod",
        never,
        &with(prepared(), [run("i", 0, Exited, 1)]),
        &["stop 30 []"],
    );
}

#[test]
fn a_sidecar_that_has_not_started_holds_what_comes_after_it() {
    let spec = json!({"initContainers": [{"name": "side", "restartPolicy": "Always"}, {"name": "i"}]});
    let starting = Observed {
        busy: ["side".to_owned()].into(),
        ..with(prepared(), [run("side", 0, Created, 0)])
    };
    check("its hook runs", spec.clone(), &starting, &[]);
    check(
        "its hook has ended",
        spec,
        &with(prepared(), [run("side", 0, Running, 0)]),
        &["start i"],
    );
}

#[test]
fn a_sidecar_with_a_startup_probe_is_waited_for() {
    let spec =
        json!({"initContainers": [{"name": "side", "restartPolicy": "Always", "startupProbe": {"exec": {"command": ["x"]}}}]});
    let mut observed = with(prepared(), [run("side", 0, Running, 0)]);
    check("not yet", spec.clone(), &observed, &[]);
    observed.probes.insert(
        "side-0".into(),
        ProbeResults {
            startup: Some(true),
            ..ProbeResults::default()
        },
    );
    check("started", spec.clone(), &observed, &["start c"]);
    observed.probes.insert(
        "side-0".into(),
        ProbeResults {
            startup: Some(false),
            ..ProbeResults::default()
        },
    );
    check("failed", spec, &observed, &["kill side 30"]);
}

#[test]
fn probes_and_changes_kill() {
    let spec = json!({"restartPolicy": "Always", "terminationGracePeriodSeconds": 20, "containers": [
        {"name": "c", "livenessProbe": {"terminationGracePeriodSeconds": 5}}]});
    let mut observed = with(prepared(), [run("c", 0, Running, 0)]);
    observed.probes.insert(
        "c-0".into(),
        ProbeResults {
            liveness: Some(false),
            ..ProbeResults::default()
        },
    );
    check("liveness has its own grace", spec.clone(), &observed, &["kill c 5"]);
    observed.probes.clear();
    observed.containers[0].spec_hash = Some("other".into());
    check("definition changed", spec, &observed, &["kill c 20"]);
}

#[test]
fn what_was_ended_to_be_made_anew_comes_back_however_it_ended() {
    let observed = |reason, code| {
        let mut observed = with(prepared(), [run("c", 0, Exited, code)]);
        observed.killed.insert("c-0".into(), reason);
        observed.backoffs.insert(
            "c".into(),
            Backoff {
                delay: SignedDuration::from_secs(160),
                last_update: at(0),
            },
        );
        observed
    };
    for (policy, reason, code, expected) in [
        ("Never", KillReason::Replaced, 143, &["start c 1"][..]),
        ("OnFailure", KillReason::Resized, 0, &["start c 1"]),
        ("OnFailure", KillReason::LivenessProbe, 0, &[]),
        ("Never", KillReason::LivenessProbe, 143, &["stop 30 []"]),
    ] {
        let observed = observed(reason, code);
        check(policy, json!({"restartPolicy": policy}), &observed, expected);
        let phase = crate::status(&pod(json!({"restartPolicy": policy})), &observed, at(100)).phase;
        let over = expected.iter().any(|step| step.starts_with("stop"));
        assert_eq!(
            phase.as_deref(),
            Some(if over { "Failed" } else { "Running" }),
            "{policy} {reason:?}"
        );
    }
}

#[test]
fn the_end_comes_in_order() {
    let spec = json!({"initContainers": [{"name": "s1", "restartPolicy": "Always"}, {"name": "s2", "restartPolicy": "Always"}]});
    let runs = [run("c", 0, Running, 0), run("s2", 0, Running, 0), run("s1", 0, Running, 0)];
    let observed = with(prepared(), runs);
    let dying = deleting(pod(spec.clone()), 7);
    assert_eq!(
        short(&plan(&dying, &observed, at(100))),
        ["stop 7 [c-0 s2-0<c-0 s1-0<c-0+s2-0]"]
    );
    assert!(
        plan(
            &dying,
            &Observed {
                stopped: true,
                ..observed.clone()
            },
            at(100)
        )
        .steps
        .is_empty()
    );
    assert_eq!(
        short(&plan(&deleting(pod(spec), 0), &observed, at(100)))[0].split(' ').nth(1),
        Some("1"),
        "at least a second"
    );

    let deadline = json!({"activeDeadlineSeconds": 50});
    let mut observed = with(prepared(), [run("c", 0, Running, 0)]);
    observed.previous.start_time = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(60)));
    assert_eq!(plan(&pod(deadline.clone()), &observed, at(100)).wait_until, Some(at(110)));
    assert_eq!(short(&plan(&pod(deadline), &observed, at(110))), ["stop 30 [c-0]"]);
}

#[test]
fn a_lost_sandbox_is_made_anew() {
    let mut observed = with(prepared(), [run("c", 0, Exited, 137)]);
    observed.sandboxes[0].ready = false;
    check("again", json!({"restartPolicy": "Always"}), &observed, &["sandbox 1 s"]);
    check(
        "not for who never restarts",
        json!({"restartPolicy": "Never"}),
        &observed,
        &["stop 30 []"],
    );
    observed.sandboxes.insert(
        0,
        Sandbox {
            id: "t".into(),
            attempt: 1,
            ready: true,
            ips: vec![],
            limits: crate::qos::Limits::default(),
            created_at: at(50),
        },
    );
    let again = json!({"restartPolicy": "Always", "initContainers": [{"name": "i"}]});
    observed.containers.push(run("i", 0, Exited, 0));
    check("init containers run again in it", again, &observed, &["start i 1"]);
}

fn any_state() -> impl Strategy<Value = crate::ContainerState> {
    prop_oneof![Just(Created), Just(Running), Just(Exited), Just(Unknown)]
}

proptest! {
    /// Whatever is seen: nothing busy is touched, nothing running is started, the end is the only step when it comes.
    #[test]
    fn plans_are_sound(
        states in proptest::collection::vec((0..3usize, 0..3u32, any_state(), 0..2i32), 0..6),
        policy in prop_oneof![Just("Always"), Just("OnFailure"), Just("Never")],
        busy in proptest::sample::subsequence(vec!["c", "i", "side"], 0..=3),
        ready in any::<bool>(),
    ) {
        let names = ["c", "i", "side"];
        let pod = pod(json!({"restartPolicy": policy, "initContainers": [{"name": "i"}, {"name": "side", "restartPolicy": "Always"}]}));
        let mut observed = with(prepared(), states.into_iter().map(|(name, attempt, state, code)| run(names[name], attempt, state, code)));
        observed.containers.sort_by_key(|run| std::cmp::Reverse(run.attempt));
        observed.busy = busy.into_iter().map(str::to_owned).collect();
        observed.sandboxes[0].ready = ready;
        let actions = plan(&pod, &observed, at(1000));
        for step in &actions.steps {
            match step {
                Step::StartContainer { name, sandbox_id, obsolete, .. } => {
                    prop_assert!(!observed.busy.contains(name));
                    prop_assert_eq!(sandbox_id, "s");
                    prop_assert!(observed.latest(name).is_none_or(|run| run.state != Running));
                    for id in obsolete {
                        prop_assert!(observed.containers.iter().any(|run| run.id == *id && run.state != Running));
                    }
                }
                Step::KillContainer { name, .. } => prop_assert!(!observed.busy.contains(name)),
                Step::StopPod { .. } => prop_assert_eq!(actions.steps.len(), 1),
                Step::MountVolumes | Step::CreateSandbox { .. } | Step::Resize { .. } => {}
            }
        }
    }
}
