//! The disruption controller: how many pods of a PodDisruptionBudget may be evicted now
//! (pkg/controller/disruption/disruption.go). Evictions take from the number it writes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::ownership;
use crate::plan::{Action, EventKind, EventNote, ObjectRef, Plan};
use crate::pods::{self, CountedPod};
use crate::replicaset::to_value;

/// How long a pod whose eviction was granted may take to be marked for deletion; then it counts again.
pub const DELETION_TIMEOUT: SignedDuration = SignedDuration::from_mins(2);
/// How long a pod that is not deleted may say that it is about to be disrupted.
pub const STALE_CONDITION: SignedDuration = SignedDuration::from_mins(2);
const ALLOWED: &str = "DisruptionAllowed";
const TARGET: &str = "DisruptionTarget";

/// What the controller looks at.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Desired.
    pub budget: Arc<PodDisruptionBudget>,
    /// The pods that it selects.
    pub pods: Vec<CountedPod>,
    /// By the uid of a pod's controller: who scales it, or why that is not known.
    pub scales: BTreeMap<String, Result<Scaled, String>>,
}

/// What stands behind pods: a Deployment, or a ReplicaSet of none, and so on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scaled {
    /// Its uid.
    pub uid: String,
    /// How many pods it should have.
    pub replicas: i32,
}

/// How many pods there should be, and how many healthy ones at least.
#[derive(Clone, Copy, Debug, Default)]
struct Expected {
    pods: i32,
    healthy: i32,
}

/// Whether a budget's selector selects a pod with these labels. A budget without one selects nothing.
#[must_use]
pub fn selects(budget: &PodDisruptionBudget, labels: Option<&BTreeMap<String, String>>) -> bool {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| ownership::selects(selector, labels))
}

/// Plans the new status.
#[must_use]
pub fn reconcile(snapshot: &Snapshot, now: Timestamp) -> Plan {
    let budget = &snapshot.budget;
    let mut plan = Plan::default();
    let regarding = ownership::object_ref("policy/v1", "PodDisruptionBudget", &budget.metadata);
    if snapshot.pods.is_empty() {
        tell(
            &mut plan,
            &regarding,
            EventKind::Normal,
            "NoPods",
            "No matching pods found".into(),
        );
    }
    let expected = match expected(snapshot, &regarding, &mut plan) {
        Ok(expected) => expected,
        Err(why) => {
            let message = format!("Failed to calculate the number of expected pods: {why}");
            tell(
                &mut plan,
                &regarding,
                EventKind::Warning,
                "CalculateExpectedPodCountFailed",
                message,
            );
            // Nothing may be evicted while nobody can tell how many there should be.
            let mut status = budget.status.clone().unwrap_or_default();
            status.disruptions_allowed = Some(0);
            let generation = status.observed_generation;
            set_condition(&mut status, ("False", "SyncFailed", &why), generation, now);
            write(&mut plan, budget, status);
            return plan;
        }
    };
    let (disrupted, recheck) = disrupted(snapshot, &mut plan, now);
    let healthy = snapshot.pods.iter().filter(|pod| {
        let header = pod.header();
        !header.deleting && !disrupted.contains_key(&header.name) && pod.facts().ready
    });
    let current = i32::try_from(healthy.count()).unwrap_or(i32::MAX);
    // A budget without pods allows nothing: its first pods may be there before it is looked at again.
    let spare = current.saturating_sub(expected.healthy).max(0);
    let allowed = if expected.pods <= 0 { 0 } else { spare };
    let mut status = PodDisruptionBudgetStatus {
        conditions: budget.status.as_ref().and_then(|status| status.conditions.clone()),
        current_healthy: Some(current),
        desired_healthy: Some(expected.healthy),
        disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
        disruptions_allowed: Some(allowed),
        expected_pods: Some(expected.pods),
        observed_generation: budget.metadata.generation,
    };
    let verdict = if allowed > 0 {
        ("True", "SufficientPods", "")
    } else {
        ("False", "InsufficientPods", "")
    };
    set_condition(&mut status, verdict, budget.metadata.generation, now);
    write(&mut plan, budget, status);
    plan.requeue_after = recheck;
    plan
}

fn tell(plan: &mut Plan, regarding: &ObjectRef, kind: EventKind, reason: &str, message: String) {
    plan.actions.push(Action::Event(EventNote {
        regarding: regarding.clone(),
        kind,
        reason: reason.into(),
        message,
    }));
}

fn write(plan: &mut Plan, budget: &PodDisruptionBudget, status: PodDisruptionBudgetStatus) {
    let held = budget.status.as_ref();
    // An empty map is none.
    let same = held.is_some_and(|held| {
        let mut held = held.clone();
        held.disrupted_pods = held.disrupted_pods.filter(|pods| !pods.is_empty());
        held == status
    });
    if !same {
        let mut changed = budget.clone();
        changed.status = Some(status);
        plan.actions.push(Action::UpdateStatus {
            object: to_value(&changed),
        });
    }
}

fn set_condition(status: &mut PodDisruptionBudgetStatus, verdict: (&str, &str, &str), generation: Option<i64>, now: Timestamp) {
    let (state, reason, message) = verdict;
    let conditions = status.conditions.get_or_insert_default();
    let wanted = Condition {
        last_transition_time: Time(now),
        message: message.into(),
        observed_generation: generation,
        reason: reason.into(),
        status: state.into(),
        type_: ALLOWED.into(),
    };
    match conditions.iter_mut().find(|condition| condition.type_ == ALLOWED) {
        Some(held) => {
            let since = if held.status == wanted.status {
                held.last_transition_time.clone()
            } else {
                wanted.last_transition_time.clone()
            };
            *held = Condition {
                last_transition_time: since,
                ..wanted
            };
        }
        None => conditions.push(wanted),
    }
}

fn expected(snapshot: &Snapshot, regarding: &ObjectRef, plan: &mut Plan) -> Result<Expected, String> {
    let Some(spec) = &snapshot.budget.spec else {
        return Ok(Expected::default());
    };
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(unavailable), _) => {
            let pods = expected_scale(snapshot, regarding, plan)?;
            let healthy = pods.saturating_sub(scaled(unavailable, pods)?).max(0);
            Ok(Expected { pods, healthy })
        }
        (None, Some(IntOrString::Int(healthy))) => Ok(Expected {
            pods: i32::try_from(snapshot.pods.len()).unwrap_or(i32::MAX),
            healthy: *healthy,
        }),
        (None, Some(percentage)) => {
            let pods = expected_scale(snapshot, regarding, plan)?;
            let healthy = scaled(percentage, pods)?;
            Ok(Expected { pods, healthy })
        }
        (None, None) => Ok(Expected::default()),
    }
}

/// A number, or a percentage of one, rounded up.
fn scaled(value: &IntOrString, of: i32) -> Result<i32, String> {
    match value {
        IntOrString::Int(number) => Ok(*number),
        IntOrString::String(text) => {
            let percent = text.strip_suffix('%').and_then(|number| number.parse::<i64>().ok());
            let percent = percent.ok_or("invalid value for IntOrString: invalid type: string is not a percentage")?;
            let scaled = percent.saturating_mul(i64::from(of)).saturating_add(99).div_euclid(100);
            Ok(i32::try_from(scaled).unwrap_or(i32::MAX))
        }
    }
}

/// What all that stands behind the pods should have together.
fn expected_scale(snapshot: &Snapshot, regarding: &ObjectRef, plan: &mut Plan) -> Result<i32, String> {
    let mut scales: BTreeMap<&str, i32> = BTreeMap::new();
    let mut unmanaged = false;
    for pod in &snapshot.pods {
        let Some(owner) = ownership::controller_in(pod.header()) else {
            unmanaged = true;
            continue;
        };
        match snapshot.scales.get(owner) {
            Some(Ok(scaled)) => drop(scales.insert(&scaled.uid, scaled.replicas)),
            Some(Err(why)) => return Err(why.clone()),
            None => return Err(no_controllers(&pod.header().name)),
        }
    }
    if unmanaged {
        let selector = snapshot.budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        let message = format!(
            "Pods selected by this PodDisruptionBudget (selector: {}) were found to be unmanaged. As a result, the status of \
             the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please \
             set \".spec.minAvailable\" field of the PDB to an integer value.",
            show(selector)
        );
        tell(plan, regarding, EventKind::Warning, "UnmanagedPods", message);
    }
    Ok(scales.values().fold(0, |sum, replicas| sum.saturating_add(*replicas)))
}

/// Why a budget cannot be reckoned where a pod's controller is gone.
#[must_use]
pub fn no_controllers(pod: &str) -> String {
    format!("found no controllers for pod {pod:?}")
}

/// A selector as Go prints it.
fn show(selector: Option<&LabelSelector>) -> String {
    let Some(selector) = selector else { return "nil".into() };
    let labels = selector.match_labels.iter().flatten();
    let labels: String = labels.map(|(key, value)| format!("{key}: {value},")).collect();
    let requirements = selector.match_expressions.iter().flatten().map(|requirement| {
        let values = requirement.values.as_deref().unwrap_or_default().join(" ");
        let (key, operator) = (&requirement.key, &requirement.operator);
        format!("LabelSelectorRequirement{{Key:{key},Operator:{operator},Values:[{values}],}},")
    });
    let requirements: String = requirements.collect();
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{requirements}}},}}"
    )
}

/// Pods whose eviction was granted and which are not marked for deletion yet, and when to look again.
fn disrupted(snapshot: &Snapshot, plan: &mut Plan, now: Timestamp) -> (BTreeMap<String, Time>, Option<Duration>) {
    let budget = &snapshot.budget;
    let granted = budget.status.as_ref().and_then(|status| status.disrupted_pods.as_ref());
    let (mut kept, mut recheck) = (BTreeMap::new(), None);
    for pod in snapshot.pods.iter().filter(|pod| !pod.header().deleting) {
        let name = pod.header().name.as_str();
        let Some(since) = granted.and_then(|granted| granted.get(name)) else {
            continue;
        };
        let left = DELETION_TIMEOUT - now.duration_since(since.0);
        if left.is_negative() {
            let namespace = budget.metadata.namespace.as_deref().unwrap_or_default();
            let message = format!("Pod was expected by PDB {namespace}/{namespace} to be deleted but it wasn't");
            let regarding = ownership::pod_ref(pod.object());
            tell(plan, &regarding, EventKind::Warning, "NotDeleted", message);
        } else {
            let left = left.unsigned_abs();
            recheck = Some(recheck.map_or(left, |earlier: Duration| earlier.min(left)));
            kept.insert(name.to_owned(), since.clone());
        }
    }
    (kept, recheck)
}

/// Takes back that a pod is about to be disrupted, once that was said long ago and nothing came of it.
#[must_use]
pub fn reconcile_stale(pod: &Pod, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(since) = says_disrupted(pod) else { return plan };
    let left = STALE_CONDITION - now.duration_since(since);
    if left.is_positive() {
        plan.requeue_after = Some(left.unsigned_abs());
        return plan;
    }
    let mut changed = pod.clone();
    let status = changed.status.get_or_insert_default();
    let tracked = status.observed_generation.is_some();
    for condition in status
        .conditions
        .iter_mut()
        .flatten()
        .filter(|condition| condition.type_ == TARGET)
    {
        let observed = (tracked || condition.observed_generation.is_some()).then_some(pod.metadata.generation);
        condition.observed_generation = observed.flatten();
        condition.status = "False".into();
        condition.reason = None;
        condition.message = None;
        condition.last_probe_time = None;
        condition.last_transition_time = Some(Time(now));
    }
    plan.actions.push(Action::UpdateStatus {
        object: to_value(&changed),
    });
    plan
}

/// Since when a pod that is not being deleted says that it is about to be disrupted. What its node says of it stays true.
#[must_use]
pub fn says_disrupted(pod: &Pod) -> Option<Timestamp> {
    let condition = pods::condition(pod, TARGET)?;
    let stays = pod.metadata.deletion_timestamp.is_none() && !pods::is_finished(pod);
    let by_node = condition.reason.as_deref() == Some("TerminationByKubelet");
    let says = stays && condition.status == "True" && !by_node;
    says.then(|| {
        condition
            .last_transition_time
            .as_ref()
            .map_or(Timestamp::UNIX_EPOCH, |time| time.0)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn now() -> Timestamp {
        "2026-01-01T00:10:00Z".parse().unwrap()
    }

    fn pod(name: &str, ready: bool, owner: Option<&str>) -> CountedPod {
        let owners = owner
            .map(|uid| json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": uid, "uid": uid, "controller": true}]));
        CountedPod::made(&json!({
            "metadata": {"name": name, "namespace": "ns", "uid": name, "ownerReferences": owners},
            "status": {"conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
        }))
    }

    fn snapshot(spec: Value, status: Value, pods: Vec<CountedPod>) -> Snapshot {
        let mut spec = spec;
        spec["selector"] = json!({"matchLabels": {"app": "web"}});
        let scaled = |uid: &str, replicas| {
            Ok(Scaled {
                uid: uid.into(),
                replicas,
            })
        };
        Snapshot {
            budget: Arc::new(
                serde_json::from_value(
                    json!({"metadata": {"name": "b", "namespace": "ns", "uid": "b", "generation": 4},
                    "spec": spec, "status": status}),
                )
                .unwrap(),
            ),
            pods,
            // Two ReplicaSets of one Deployment, and one of none.
            scales: BTreeMap::from([
                ("old".to_owned(), scaled("deployment", 4)),
                ("new".to_owned(), scaled("deployment", 4)),
                ("alone".to_owned(), scaled("alone", 3)),
                ("gone".to_owned(), Err("found no controllers for pod \"p\"".to_owned())),
            ]),
        }
    }

    fn status(plan: &Plan) -> Value {
        let written = plan.actions.iter().find_map(|action| match action {
            Action::UpdateStatus { object } => Some(object["status"].clone()),
            _ => None,
        });
        written.unwrap()
    }

    fn events(plan: &Plan) -> Vec<(&str, &str)> {
        let notes = plan.actions.iter().filter_map(|action| match action {
            Action::Event(note) => Some((note.reason.as_str(), note.message.as_str())),
            _ => None,
        });
        notes.collect()
    }

    #[test]
    fn how_many_may_go_follows_from_what_there_should_be() {
        let pods = |owners: &[Option<&str>], ready: usize| -> Vec<_> {
            let named = owners.iter().enumerate();
            named.map(|(at, owner)| pod(&format!("p{at}"), at < ready, *owner)).collect()
        };
        let four = [Some("old"), Some("old"), Some("new"), Some("new")];
        // spec, pods, ready ones: expected, desired, current, allowed
        let table = [
            (json!({"minAvailable": 2}), pods(&four, 3), [4, 2, 3, 1]),
            (json!({"minAvailable": 4}), pods(&four, 3), [4, 4, 3, 0]),
            (json!({"minAvailable": "28%"}), pods(&four, 4), [4, 2, 4, 2]),
            (json!({"maxUnavailable": 1}), pods(&four, 4), [4, 3, 4, 1]),
            (json!({"maxUnavailable": "30%"}), pods(&four, 4), [4, 2, 4, 2]),
            (json!({"maxUnavailable": 9}), pods(&four, 4), [4, 0, 4, 4]),
            (
                json!({"maxUnavailable": 1}),
                pods(&[Some("new"), Some("alone")], 2),
                [7, 6, 2, 0],
            ),
            (json!({"minAvailable": 0}), vec![], [0, 0, 0, 0]),
            (json!({"minAvailable": "50%"}), pods(&[None, Some("alone")], 2), [3, 2, 2, 0]),
        ];
        for (spec, pods, expected) in table {
            let shown = format!("{spec}");
            let status = status(&reconcile(&snapshot(spec, json!(null), pods), now()));
            let names = ["expectedPods", "desiredHealthy", "currentHealthy", "disruptionsAllowed"];
            assert_eq!(names.map(|name| status[name].as_i64().unwrap()), expected, "{shown}");
            let (state, reason) = if expected[3] > 0 {
                ("True", "SufficientPods")
            } else {
                ("False", "InsufficientPods")
            };
            assert_eq!(
                status["conditions"],
                json!([{"type": "DisruptionAllowed", "status": state, "reason": reason, "message": "", "observedGeneration": 4,
                    "lastTransitionTime": "2026-01-01T00:10:00Z"}])
            );
        }
    }

    #[test]
    fn what_is_settled_is_not_written_again() {
        let pods = vec![pod("p", true, None)];
        let first = reconcile(&snapshot(json!({"minAvailable": 0}), json!(null), pods.clone()), now());
        let later = now() + SignedDuration::from_mins(5);
        let settled = snapshot(json!({"minAvailable": 0}), status(&first), pods);
        assert_eq!(reconcile(&settled, later), Plan::default());
    }

    #[test]
    fn odd_pods_and_lost_controllers_are_told() {
        let none = reconcile(&snapshot(json!({"minAvailable": 1}), json!(null), vec![]), now());
        assert_eq!(events(&none), [("NoPods", "No matching pods found")]);
        let unmanaged = reconcile(
            &snapshot(json!({"maxUnavailable": 1}), json!(null), vec![pod("p", true, None)]),
            now(),
        );
        let told = events(&unmanaged);
        assert_eq!(told[0].0, "UnmanagedPods");
        assert!(told[0].1.contains(
            "(selector: &LabelSelector{MatchLabels:map[string]string{app: web,},MatchExpressions:[]LabelSelectorRequirement{},}) were"
        ));
        let lost = snapshot(
            json!({"maxUnavailable": 1}),
            json!({"disruptionsAllowed": 3, "currentHealthy": 5, "desiredHealthy": 2, "expectedPods": 5, "observedGeneration": 3}),
            vec![pod("p", true, Some("gone"))],
        );
        let plan = reconcile(&lost, now());
        let why = "found no controllers for pod \"p\"";
        let message = format!("Failed to calculate the number of expected pods: {why}");
        assert_eq!(events(&plan), [("CalculateExpectedPodCountFailed", message.as_str())]);
        let status = status(&plan);
        assert_eq!(
            (&status["disruptionsAllowed"], &status["currentHealthy"]),
            (&json!(0), &json!(5))
        );
        let condition = &status["conditions"][0];
        assert_eq!(
            (&condition["reason"], &condition["message"]),
            (&json!("SyncFailed"), &json!(why))
        );
        assert_eq!(condition["observedGeneration"], 3);
    }

    #[test]
    fn granted_evictions_do_not_count_until_they_are_overdue() {
        let granted = json!({"disruptedPods": {"fresh": "2026-01-01T00:09:00Z", "overdue": "2026-01-01T00:07:00Z", "gone": "2026-01-01T00:09:00Z"},
            "currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0});
        let pods = vec![pod("fresh", true, None), pod("overdue", true, None), pod("other", true, None)];
        let plan = reconcile(&snapshot(json!({"minAvailable": 1}), granted, pods), now());
        let status = status(&plan);
        assert_eq!(status["disruptedPods"], json!({"fresh": "2026-01-01T00:09:00Z"}));
        assert_eq!(
            (&status["currentHealthy"], &status["disruptionsAllowed"]),
            (&json!(2), &json!(1))
        );
        assert_eq!(plan.requeue_after, Some(Duration::from_secs(60)));
        assert_eq!(
            events(&plan),
            [("NotDeleted", "Pod was expected by PDB ns/ns to be deleted but it wasn't")]
        );
    }

    #[test]
    fn a_disruption_that_did_not_come_is_taken_back() {
        let pod = |phase: &str, reason: &str| -> Pod {
            let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": reason, "message": "m",
                "lastTransitionTime": "2026-01-01T00:09:00Z"});
            serde_json::from_value(
                json!({"metadata": {"name": "p", "namespace": "ns", "uid": "p", "resourceVersion": "8"},
                "status": {"phase": phase, "conditions": [condition]}}),
            )
            .unwrap()
        };
        let evicted = pod("Running", "EvictionByEvictionAPI");
        assert_eq!(reconcile_stale(&evicted, now()).requeue_after, Some(Duration::from_secs(60)));
        let later = now() + SignedDuration::from_mins(1);
        let plan = reconcile_stale(&evicted, later);
        assert_eq!(
            status(&plan)["conditions"],
            json!([{"type": "DisruptionTarget", "status": "False", "lastTransitionTime": "2026-01-01T00:11:00Z"}])
        );
        for left_alone in [pod("Failed", "EvictionByEvictionAPI"), pod("Running", "TerminationByKubelet")] {
            assert_eq!(reconcile_stale(&left_alone, later), Plan::default());
        }
    }
}
