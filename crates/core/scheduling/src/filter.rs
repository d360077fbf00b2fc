//! Filters that look at one node alone, in upstream's order.

use k8s_openapi::api::core::v1::{Pod, PodSpec, Taint, Toleration};
use trireme_api::fit;

use crate::node::NodeState;
use crate::requests::PodRequests;
use crate::selector::term_matches;

/// Why a node was turned down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// As they appear in the message.
    pub reasons: Vec<String>,
    /// Whether removing pods could change it.
    pub preemption_helps: bool,
}

impl Rejection {
    pub(crate) fn final_one(reason: &str) -> Self {
        Self {
            reasons: vec![reason.into()],
            preemption_helps: false,
        }
    }

    pub(crate) fn passing(reason: &str) -> Self {
        Self {
            reasons: vec![reason.into()],
            preemption_helps: true,
        }
    }
}

/// Runs the filters until the first that rejects.
///
/// # Errors
/// That filter's reasons.
pub fn check(pod: &Pod, requests: &PodRequests, state: &NodeState) -> Result<(), Rejection> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    unschedulable(spec, state)?;
    node_name(spec, state)?;
    taints(spec, state)?;
    node_affinity(spec, state)?;
    host_ports(requests, state)?;
    resources(requests, state)
}

fn unschedulable(spec: &PodSpec, state: &NodeState) -> Result<(), Rejection> {
    let cordoned = state.node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
    let taint = Taint {
        key: "node.kubernetes.io/unschedulable".into(),
        effect: "NoSchedule".into(),
        ..Taint::default()
    };
    if cordoned && !tolerates(spec, &taint) {
        return Err(Rejection::final_one("node(s) were unschedulable"));
    }
    Ok(())
}

fn node_name(spec: &PodSpec, state: &NodeState) -> Result<(), Rejection> {
    match spec.node_name.as_deref() {
        Some(name) if !name.is_empty() && name != state.name() => {
            Err(Rejection::final_one("node(s) didn't match the requested node name"))
        }
        _ => Ok(()),
    }
}

fn taints(spec: &PodSpec, state: &NodeState) -> Result<(), Rejection> {
    let taints = state
        .node
        .spec
        .as_ref()
        .and_then(|spec| spec.taints.as_deref())
        .unwrap_or_default();
    let mut hard = taints
        .iter()
        .filter(|taint| taint.effect == "NoSchedule" || taint.effect == "NoExecute");
    if hard.any(|taint| !tolerates(spec, taint)) {
        return Err(Rejection::final_one("node(s) had untolerated taint(s)"));
    }
    Ok(())
}

/// Whether any of the pod's tolerations tolerates a taint.
#[must_use]
pub fn tolerates(spec: &PodSpec, taint: &Taint) -> bool {
    spec.tolerations
        .iter()
        .flatten()
        .any(|toleration| tolerated_by(toleration, taint))
}

pub(crate) fn tolerated_by(toleration: &Toleration, taint: &Taint) -> bool {
    let Toleration {
        key,
        operator,
        value,
        effect,
        ..
    } = toleration;
    fit::Toleration::of([key, operator, value, effect]).tolerates(&fit::Taint {
        key: &taint.key,
        value: taint.value.as_deref().unwrap_or_default(),
        effect: &taint.effect,
    })
}

fn node_affinity(spec: &PodSpec, state: &NodeState) -> Result<(), Rejection> {
    if matches_node_affinity(spec, state) {
        Ok(())
    } else if pinned_elsewhere(spec, state) {
        // Upstream leaves such a node out before it filters.
        Err(Rejection::final_one("node(s) didn't satisfy plugin(s) [NodeAffinity]"))
    } else {
        Err(Rejection::final_one("node(s) didn't match Pod's node affinity/selector"))
    }
}

/// Whether every required term names nodes, and none of them this one.
fn pinned_elsewhere(spec: &PodSpec, state: &NodeState) -> bool {
    let required = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = required.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    let Some(required) = required.filter(|required| !required.node_selector_terms.is_empty()) else {
        return false;
    };
    required.node_selector_terms.iter().all(|term| {
        let mut names = term.match_fields.iter().flatten();
        names.any(|field| {
            let wanted = field.values.iter().flatten();
            field.key == "metadata.name" && field.operator == "In" && !wanted.clone().any(|name| name == state.name())
        })
    })
}

/// `nodeSelector` and required node affinity.
#[must_use]
pub fn matches_node_affinity(spec: &PodSpec, state: &NodeState) -> bool {
    let by_labels = spec
        .node_selector
        .iter()
        .flatten()
        .all(|(key, value)| state.label(key) == Some(value));
    let required = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = required.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    by_labels
        && required.is_none_or(|required| {
            required
                .node_selector_terms
                .iter()
                .any(|term| term_matches(term, &state.node))
        })
}

fn host_ports(requests: &PodRequests, state: &NodeState) -> Result<(), Rejection> {
    let mut taken = state.pods.values().flat_map(|placed| &placed.requests.ports);
    if !requests.ports.is_empty() && taken.any(|taken| requests.ports.iter().any(|port| port.conflicts(taken))) {
        return Err(Rejection::passing(
            "node(s) didn't have free ports for the requested pod ports",
        ));
    }
    Ok(())
}

fn resources(requests: &PodRequests, state: &NodeState) -> Result<(), Rejection> {
    let mut reasons = Vec::new();
    let mut preemption_helps = true;
    if i64::try_from(state.pods.len()).unwrap_or(i64::MAX) + 1 > state.pods_max {
        reasons.push("Too many pods".to_owned());
    }
    let (asked, all, used) = (&requests.resources, &state.allocatable, &state.requested);
    let mut compare = |name: &str, asked: i64, all: i64, used: i64| {
        if asked > 0 && asked > all - used {
            reasons.push(format!("Insufficient {name}"));
            preemption_helps &= asked <= all;
        }
    };
    compare("cpu", asked.milli_cpu, all.milli_cpu, used.milli_cpu);
    compare("memory", asked.memory, all.memory, used.memory);
    compare(
        "ephemeral-storage",
        asked.ephemeral_storage,
        all.ephemeral_storage,
        used.ephemeral_storage,
    );
    for (name, amount) in &asked.others {
        let of = |list: &crate::requests::Resources| list.others.get(name).copied().unwrap_or_default();
        compare(name, *amount, of(all), of(used));
    }
    if reasons.is_empty() {
        Ok(())
    } else {
        Err(Rejection {
            reasons,
            preemption_helps,
        })
    }
}
