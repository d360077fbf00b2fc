//! The cells of a pod: its state in one word, restarts, readiness.
//!
//! Invariant: the word is the most telling one: a failing container before the phase, deletion before all.

use std::collections::HashSet;

use jiff::Timestamp;
use serde_json::Value;
use trireme_api::path;

use super::words::{instant, or_none, since};

#[derive(Default)]
struct Restarts {
    count: i64,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, container: &Value) {
        self.count += path::i64(container, &["restartCount"]).unwrap_or(0);
        self.last = self
            .last
            .max(instant(path::get(container, &["lastState", "terminated", "finishedAt"])));
    }
}

fn condition_true(pod: &Value, kind: &str) -> bool {
    let conditions = path::list(pod, &["status", "conditions"]);
    conditions
        .iter()
        .find(|condition| path::str(condition, &["type"]) == kind)
        .is_some_and(|found| path::str(found, &["status"]) == "True")
}

fn end_of(terminated: &Value) -> String {
    let number = |name| path::i64(terminated, &[name]).unwrap_or(0);
    match (path::str(terminated, &["reason"]), number("signal")) {
        ("", 0) => format!("ExitCode:{}", number("exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

/// The state while init containers run; none when they are done.
fn init_state(pod: &Value, restarts: &mut Restarts, sidecars: &mut Restarts, ready: &mut usize) -> Option<String> {
    let specs = path::list(pod, &["spec", "initContainers"]);
    let sidecars_named = specs.iter().filter(|spec| is_sidecar(spec));
    let named: HashSet<&str> = sidecars_named.map(|spec| path::str(spec, &["name"])).collect();
    for (number, status) in path::list(pod, &["status", "initContainerStatuses"]).iter().enumerate() {
        restarts.add(status);
        let sidecar = named.contains(path::str(status, &["name"]));
        if sidecar {
            sidecars.add(status);
        }
        let terminated = path::get(status, &["state", "terminated"]);
        let waiting = path::str(status, &["state", "waiting", "reason"]);
        if terminated.is_some_and(|terminated| path::i64(terminated, &["exitCode"]).unwrap_or(0) == 0) {
            continue;
        }
        if sidecar && path::bool(status, &["started"]) {
            *ready += usize::from(path::bool(status, &["ready"]));
            continue;
        }
        return Some(match terminated {
            Some(terminated) => format!("Init:{}", end_of(terminated)),
            None if !waiting.is_empty() && waiting != "PodInitializing" => format!("Init:{waiting}"),
            None => format!("Init:{number}/{}", specs.len()),
        });
    }
    None
}

fn is_sidecar(spec: &Value) -> bool {
    path::str(spec, &["restartPolicy"]) == "Always"
}

pub(super) fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let phase = path::str(pod, &["status", "phase"]);
    let mut reason = phase.to_owned();
    let status_reason = path::str(pod, &["status", "reason"]);
    if !status_reason.is_empty() {
        reason = status_reason.to_owned();
    }
    let gated = |condition: &Value| {
        path::str(condition, &["type"]) == "PodScheduled" && path::str(condition, &["reason"]) == "SchedulingGated"
    };
    if path::list(pod, &["status", "conditions"]).iter().any(gated) {
        reason = "SchedulingGated".to_owned();
    }
    let (mut restarts, mut sidecars, mut ready) = (Restarts::default(), Restarts::default(), 0);
    let init = init_state(pod, &mut restarts, &mut sidecars, &mut ready);
    let initializing = init.is_some();
    if let Some(init) = init {
        reason = init;
    }
    if !initializing || condition_true(pod, "Initialized") {
        restarts = sidecars;
        let (mut running, mut failure) = (false, String::new());
        for status in path::list(pod, &["status", "containerStatuses"]).iter().rev() {
            restarts.add(status);
            let waiting = path::str(status, &["state", "waiting", "reason"]);
            if !waiting.is_empty() {
                reason = waiting.to_owned();
            } else if let Some(terminated) = path::get(status, &["state", "terminated"]) {
                reason = end_of(terminated);
                if path::i64(terminated, &["exitCode"]).unwrap_or(0) != 0 {
                    failure.clone_from(&reason);
                }
            } else if path::bool(status, &["ready"]) && path::get(status, &["state", "running"]).is_some() {
                running = true;
                ready += 1;
            }
        }
        if reason == "Completed" {
            if running && condition_true(pod, "Ready") {
                reason = "Running".to_owned();
            } else if !failure.is_empty() {
                reason = failure;
            } else if running {
                reason = "NotReady".to_owned();
            }
        }
    }
    if path::get(pod, &["metadata", "deletionTimestamp"]).is_some() {
        if status_reason == "NodeLost" {
            reason = "Unknown".to_owned();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            reason = "Terminating".to_owned();
        }
    }
    let total = path::list(pod, &["spec", "containers"]).len()
        + path::list(pod, &["spec", "initContainers"])
            .iter()
            .filter(|spec| is_sidecar(spec))
            .count();
    let restarts = match restarts.last {
        Some(last) if restarts.count != 0 => {
            format!(
                "{} ({} ago)",
                restarts.count,
                super::words::duration(now.as_second() - last.as_second())
            )
        }
        _ => restarts.count.to_string(),
    };
    let gates = path::list(pod, &["spec", "readinessGates"]);
    let gates = if gates.is_empty() {
        "<none>".to_owned()
    } else {
        let open = gates
            .iter()
            .filter(|gate| condition_true(pod, path::str(gate, &["conditionType"])))
            .count();
        format!("{open}/{}", gates.len())
    };
    let ip = path::list(pod, &["status", "podIPs"])
        .first()
        .map_or("", |ip| path::str(ip, &["ip"]));
    vec![
        Value::from(path::str(pod, &["metadata", "name"])),
        Value::from(format!("{ready}/{total}")),
        Value::from(reason),
        Value::from(restarts),
        Value::from(since(path::get(pod, &["metadata", "creationTimestamp"]), now)),
        Value::from(or_none(ip)),
        Value::from(or_none(path::str(pod, &["spec", "nodeName"]))),
        Value::from(or_none(path::str(pod, &["status", "nominatedNodeName"]))),
        Value::from(gates),
    ]
}
