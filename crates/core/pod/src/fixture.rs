//! Pods and observations for tests, in few words.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::observed::{Container, ContainerState, Observed, Sandbox};
use crate::qos::{self, Limits};
use crate::resources::effective;
use crate::spec;

pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

/// A pod `p` of UID `u` in namespace `n`; its containers get an image.
pub(crate) fn pod(spec: Value) -> Pod {
    let mut spec = spec;
    for list in ["containers", "initContainers"] {
        for container in spec[list].as_array_mut().into_iter().flatten() {
            container["image"] = json!("img:1");
        }
    }
    if spec["containers"].is_null() {
        spec["containers"] = json!([{"name": "c", "image": "img:1"}]);
    }
    let mut value = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 3}, "spec": spec});
    if value["spec"]["initContainers"].is_null() {
        value["spec"].as_object_mut().unwrap().remove("initContainers");
    }
    serde_json::from_value(value).unwrap()
}

pub(crate) fn deleting(mut pod: Pod, grace: i64) -> Pod {
    pod.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(0)));
    pod.metadata.deletion_grace_period_seconds = Some(grace);
    pod
}

/// A ready sandbox `s`, mounted volumes and no containers.
pub(crate) fn prepared() -> Observed {
    Observed {
        sandboxes: vec![Sandbox {
            id: "s".into(),
            attempt: 0,
            ready: true,
            ips: vec!["10.42.0.2".into()],
            limits: Limits::default(),
            created_at: at(0),
        }],
        volumes_ready: true,
        host_ips: vec!["192.0.2.1".into()],
        ..Observed::default()
    }
}

/// A run `name-attempt` in sandbox `s`.
pub(crate) fn run(name: &str, attempt: u32, state: ContainerState, exit_code: i32) -> Container {
    let ended = state == ContainerState::Exited;
    Container {
        id: format!("{name}-{attempt}"),
        sandbox_id: "s".into(),
        name: name.into(),
        attempt,
        state,
        created_at: at(i64::from(attempt)),
        started_at: (state != ContainerState::Created).then(|| at(i64::from(attempt))),
        finished_at: ended.then(|| at(i64::from(attempt) + 1)),
        exit_code,
        reason: if ended && exit_code == 0 {
            "Completed".into()
        } else if ended {
            "Error".into()
        } else {
            String::new()
        },
        message: String::new(),
        image: "img:1".into(),
        image_ref: "sha256:1".into(),
        spec_hash: Some(spec::hash(&k8s_openapi::api::core::v1::Container {
            name: name.into(),
            image: Some("img:1".into()),
            ..Default::default()
        })),
        limits: Limits::default(),
        actuated: None,
    }
}

pub(crate) fn with(mut observed: Observed, runs: impl IntoIterator<Item = Container>) -> Observed {
    observed.containers = runs.into_iter().collect();
    observed
}

/// An observation of a pod whose containers all run with the resources that it grants them.
pub(crate) fn running_as_granted(pod: &Pod) -> Observed {
    let pod_spec = spec::of(pod);
    let mut observed = prepared();
    observed.sandboxes[0].limits = qos::pod_limits(pod);
    for container in pod_spec.containers.iter().chain(spec::init_containers(pod_spec)) {
        let mut own = run(&container.name, 0, ContainerState::Running, 0);
        own.limits = qos::container_limits(pod_spec, container);
        own.actuated = Some(effective(pod_spec, container));
        observed.containers.push(own);
    }
    observed
}
