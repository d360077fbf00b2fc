//! Changes of resources while a pod runs (kuberuntime's `computePodResizeAction` and `doPodResizeAction`).
//!
//! Invariant: the pod's own cgroup grows before its containers do and shrinks after them; among containers, who gives up comes
//! before who takes. A container whose resizePolicy says so is restarted instead, and nothing is changed beside that. Only
//! once nothing else is under way are limits changed.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container as Spec, Pod, ResourceRequirements};

use crate::observed::{Container, ContainerState, Observed, Sandbox};
use crate::plan::{KillReason, Step, kill};
use crate::qos::{self, Limits};
use crate::resources::{Compute, Resources, effective, resizable};
use crate::spec;

/// Limits of one cgroup to write, 0 for what stays as it is and -1 for none any more.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Of the pod's own cgroup.
    Pod(Limits),
    /// Of a container.
    Container {
        /// Id.
        id: String,
        /// Limits.
        limits: Limits,
        /// What the container has once they are written.
        actuated: ResourceRequirements,
    },
}

/// Memory limits that become lower, and so must be above what is used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lowered {
    /// The pod's own, bytes.
    pub pod: Option<i64>,
    /// Of containers: id, name and bytes.
    pub containers: Vec<(String, String, i64)>,
}

impl Lowered {
    /// Whether nothing becomes lower.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pod.is_none() && self.containers.is_empty()
    }

    /// Why the limits cannot be lowered now, given what the pod and its containers (by id) use; `None` for what is not known.
    #[must_use]
    pub fn refusal(&self, pod_usage: Option<u64>, usage: impl Fn(&str) -> Option<u64>) -> Option<String> {
        let over = |used: u64, limit: i64| u64::try_from(limit).is_ok_and(|limit| used >= limit);
        let mut errors = Vec::new();
        if let Some(limit) = self.pod {
            match pod_usage {
                None => errors.push("missing pod memory usage".to_owned()),
                Some(used) if over(used, limit) => errors.push(format!(
                    "attempting to set pod memory limit ({limit}) below current usage ({used})"
                )),
                Some(_) => {}
            }
        }
        for (id, name, limit) in &self.containers {
            match usage(id) {
                None => errors.push(format!("missing container \"{name}\" memory usage")),
                Some(used) if over(used, *limit) => errors.push(format!(
                    "attempting to set container \"{name}\" memory limit ({limit}) below current usage ({used})"
                )),
                Some(_) => {}
            }
        }
        match errors.as_slice() {
            [] => None,
            [one] => Some(format!("cannot decrease memory limits: {one}")),
            several => Some(format!("cannot decrease memory limits: [{}]", several.join(", "))),
        }
    }
}

/// Whether the node still changes what it has granted. `told`: whether it said so before.
#[must_use]
pub fn in_progress(pod: &Pod, observed: &Observed, told: bool) -> bool {
    let pod_spec = spec::of(pod);
    let containers = resizable(pod_spec).any(|container| {
        running(container, observed)
            .and_then(|run| run.actuated.as_ref())
            .is_some_and(|actuated| Compute::of(actuated) != Compute::of(&effective(pod_spec, container)))
    });
    // Limits of the pod that lag behind prolong a change, but are none by themselves.
    containers || (told && observed.sandbox().is_some_and(|sandbox| lags(pod, sandbox)))
}

fn running<'a>(container: &Spec, observed: &'a Observed) -> Option<&'a Container> {
    observed
        .latest(&container.name)
        .filter(|run| run.state == ContainerState::Running)
}

fn lags(pod: &Pod, sandbox: &Sandbox) -> bool {
    wanted(pod, &sandbox.limits) != sandbox.limits
}

/// The limits of the pod's own cgroup. Where it has none any more, those that are there stay (as upstream has it); a runtime
/// that tells no shares is not asked to change them.
fn wanted(pod: &Pod, now: &Limits) -> Limits {
    let limits = qos::pod_limits(pod);
    let kept = |new: i64, old: i64| if new == 0 { old } else { new };
    Limits {
        cpu_period: now.cpu_period,
        cpu_quota: kept(limits.cpu_quota, now.cpu_quota),
        cpu_shares: if now.cpu_shares == 0 { 0 } else { limits.cpu_shares },
        memory_bytes: kept(limits.memory_bytes, now.memory_bytes),
    }
}

/// Kills of containers that must restart, or else the changes to make now; never both. `leave`: containers that are killed
/// anyway.
pub(crate) fn plan(pod: &Pod, observed: &Observed, leave: &BTreeSet<String>) -> Vec<Step> {
    let Some(sandbox) = observed.sandbox() else {
        return Vec::new();
    };
    let pod_spec = spec::of(pod);
    let mut kills = Vec::new();
    let mut updates = Vec::new();
    for container in resizable(pod_spec) {
        let name = &container.name;
        if leave.contains(name) || observed.busy.contains(name) {
            continue;
        }
        let Some((run, actuated)) = running(container, observed).and_then(|run| Some((run, run.actuated.as_ref()?))) else {
            continue;
        };
        let update = Update {
            run,
            now: actuated,
            then: effective(pod_spec, container),
        };
        if update.restarts(container) {
            let message = format!("Container {name} resize requires restart");
            kills.push(kill(pod, container, run, message, KillReason::Resized));
        } else if update.changes() {
            updates.push(update);
        }
    }
    if !kills.is_empty() {
        return kills;
    }
    if !observed.busy.is_empty() || observed.resizing || !leave.is_empty() {
        return Vec::new();
    }
    let step = steps(pod, sandbox, updates);
    step.into_iter().collect()
}

struct Update<'a> {
    run: &'a Container,
    now: &'a ResourceRequirements,
    then: ResourceRequirements,
}

impl Update<'_> {
    fn both(&self) -> (Compute, Compute) {
        (Compute::of(self.now), Compute::of(&self.then))
    }

    fn changes(&self) -> bool {
        let (now, then) = self.both();
        now != then
    }

    fn restarts(&self, container: &Spec) -> bool {
        let (now, then) = self.both();
        let policy = |resource: &str| {
            let mut policies = container.resize_policy.iter().flatten();
            policies.any(|policy| policy.resource_name == resource && policy.restart_policy == "RestartContainer")
        };
        let cpu = (now.cpu_request, now.cpu_limit) != (then.cpu_request, then.cpu_limit);
        let memory = (now.memory_request, now.memory_limit) != (then.memory_request, then.memory_limit);
        (cpu && policy("cpu")) || (memory && policy("memory"))
    }

    /// By how much memory or CPU changes: the limit decides, or else the request.
    fn difference(&self, of: fn(&Compute) -> (i64, i64)) -> i64 {
        let (now, then) = self.both();
        let ((limit, request), (new_limit, new_request)) = (of(&now), of(&then));
        if new_limit == limit {
            new_request - request
        } else {
            new_limit - limit
        }
    }

    /// What the container has once the named resources are changed.
    fn mixed(&self, names: &[&str]) -> ResourceRequirements {
        let mix = |now: &Option<Resources>, then: &Option<Resources>| -> Option<Resources> {
            let mut mixed = now.clone().unwrap_or_default();
            mixed.retain(|name, _| !names.contains(&name.as_str()));
            let new = then.iter().flatten().filter(|(name, _)| names.contains(&name.as_str()));
            mixed.extend(new.map(|(name, quantity)| (name.clone(), quantity.clone())));
            (!mixed.is_empty()).then_some(mixed)
        };
        ResourceRequirements {
            requests: mix(&self.now.requests, &self.then.requests),
            limits: mix(&self.now.limits, &self.then.limits),
            claims: self.then.claims.clone(),
        }
    }

    fn change(&self, names: &[&str]) -> Change {
        let actuated = self.mixed(names);
        let limits = qos::limits_of(&actuated);
        let lifted = |limit: i64| if limit == 0 { -1 } else { limit };
        Change::Container {
            id: self.run.id.clone(),
            limits: Limits {
                cpu_quota: lifted(limits.cpu_quota),
                memory_bytes: lifted(limits.memory_bytes),
                ..limits
            },
            actuated,
        }
    }
}

/// All changes in the order in which they are made.
fn steps(pod: &Pod, sandbox: &Sandbox, updates: Vec<Update<'_>>) -> Option<Step> {
    let (now, then) = (sandbox.limits, wanted(pod, &sandbox.limits));
    let none = Limits::default();
    let mut changes = Vec::new();

    let memory = Change::Pod(Limits {
        memory_bytes: then.memory_bytes,
        ..none
    });
    // No limit is the highest.
    let above = |new: i64, old: i64| old > 0 && new > old;
    let below = |new: i64, old: i64| new > 0 && (old <= 0 || new < old);
    if above(then.memory_bytes, now.memory_bytes) {
        changes.push(memory.clone());
    }
    let (in_order, names) = ordered(&updates, |compute| (compute.memory_limit, compute.memory_request));
    changes.extend(in_order.map(|update| update.change(&["memory"])));
    if below(then.memory_bytes, now.memory_bytes) {
        changes.push(memory);
    }
    let memory_first: BTreeSet<String> = names;

    let quota = Change::Pod(Limits {
        cpu_period: qos::CPU_PERIOD,
        cpu_quota: then.cpu_quota,
        ..none
    });
    let shares = Change::Pod(Limits {
        cpu_shares: then.cpu_shares,
        ..none
    });
    if above(then.cpu_quota, now.cpu_quota) {
        changes.push(quota.clone());
    }
    if then.cpu_shares > now.cpu_shares {
        changes.push(shares.clone());
    }
    let (in_order, _) = ordered(&updates, |compute| (compute.cpu_limit, compute.cpu_request));
    changes.extend(in_order.map(|update| {
        let names: &[&str] = if memory_first.contains(&update.run.id) {
            &["memory", "cpu"]
        } else {
            &["cpu"]
        };
        update.change(names)
    }));
    if then.cpu_shares < now.cpu_shares {
        changes.push(shares);
    }
    if below(then.cpu_quota, now.cpu_quota) {
        changes.push(quota);
    }

    let lowered = Lowered {
        pod: Some(then.memory_bytes).filter(|limit| below(*limit, now.memory_bytes)),
        containers: updates
            .iter()
            .filter_map(|update| {
                let (now, then) = update.both();
                below(then.memory_limit, now.memory_limit).then(|| {
                    let run = update.run;
                    (run.id.clone(), run.name.clone(), then.memory_limit)
                })
            })
            .collect(),
    };
    (!changes.is_empty()).then(|| Step::Resize {
        sandbox_id: sandbox.id.clone(),
        changes,
        lowered,
    })
}

/// Who changes something, those that give up first; and their ids.
fn ordered<'a>(
    updates: &'a [Update<'a>],
    of: fn(&Compute) -> (i64, i64),
) -> (impl Iterator<Item = &'a Update<'a>>, BTreeSet<String>) {
    let changed: Vec<&Update<'_>> = updates
        .iter()
        .filter(|update| {
            let (now, then) = update.both();
            of(&now) != of(&then)
        })
        .collect();
    let ids = changed.iter().map(|update| update.run.id.clone()).collect();
    let (mut give, take): (Vec<_>, Vec<_>) = changed.into_iter().partition(|update| update.difference(of) < 0);
    give.extend(take);
    (give.into_iter(), ids)
}

#[cfg(test)]
#[path = "resize_tests.rs"]
mod tests;
