//! Filters, then scores, then one of the best.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;

use crate::affinity::PodAffinity;
use crate::filter::{self, Rejection};
use crate::node::{NodeState, Snapshot};
use crate::requests::PodRequests;
use crate::score::Scorer;
use crate::spread::Spread;

/// Where a pod goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Name of the node.
    pub node: String,
}

/// Why a pod goes nowhere, as its event and its condition say it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Unschedulable {
    /// For example `0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption
    /// victims found for incoming pod.`
    pub message: String,
}

/// Places a pod. `seed` chooses among equally good nodes.
///
/// # Errors
/// When no node passes the filters.
pub fn schedule(snapshot: &Snapshot, pod: &Pod, seed: u64) -> Result<Placement, Unschedulable> {
    if snapshot.nodes.is_empty() {
        return Err(Unschedulable {
            message: "no nodes available to schedule pods".into(),
        });
    }
    let requests = PodRequests::of(pod);
    let affinity = PodAffinity::new(snapshot, pod);
    let spread = Spread::new(snapshot, pod);
    let mut rejections = Vec::new();
    let mut fitting: Vec<&NodeState> = Vec::new();
    for state in snapshot.nodes.values() {
        let checked = filter::check(pod, &requests, state)
            .and_then(|()| spread.check(state))
            .and_then(|()| affinity.check(state));
        match checked {
            Ok(()) => fitting.push(state),
            Err(rejection) => rejections.push(rejection),
        }
    }
    if fitting.is_empty() {
        return Err(Unschedulable {
            message: message(pod, &rejections),
        });
    }
    if let [only] = fitting[..] {
        return Ok(Placement {
            node: only.name().to_owned(),
        });
    }
    let all: Vec<_> = snapshot.nodes.values().collect();
    let scores = Scorer {
        pod,
        requests: &requests,
        affinity: &affinity,
        spread: &spread,
        all: &all,
    }
    .score(&fitting);
    let best = scores.iter().copied().max().unwrap_or_default();
    let best: Vec<_> = fitting.iter().zip(&scores).filter(|(_, score)| **score == best).collect();
    let chosen = usize::try_from(seed % best.len() as u64).unwrap_or_default();
    Ok(Placement {
        node: best[chosen].0.name().to_owned(),
    })
}

fn message(pod: &Pod, rejections: &[Rejection]) -> String {
    let total = rejections.len();
    let reasons = rejections
        .iter()
        .flat_map(|rejection| rejection.reasons.iter().map(String::as_str));
    let never = pod.spec.as_ref().and_then(|spec| spec.preemption_policy.as_deref()) == Some("Never");
    let preemption = if never {
        "not eligible due to preemptionPolicy=Never.".to_owned()
    } else {
        let why = rejections.iter().map(|rejection| match rejection.preemption_helps {
            true => "No preemption victims found for incoming pod",
            false => "Preemption is not helpful for scheduling",
        });
        format!("0/{total} nodes are available: {}.", histogram(why))
    };
    format!(
        "0/{total} nodes are available: {}. preemption: {preemption}",
        histogram(reasons)
    )
}

/// `1 reason, 2 other reason`, sorted as text.
fn histogram<'a>(reasons: impl Iterator<Item = &'a str>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in reasons {
        *counts.entry(reason).or_default() += 1;
    }
    let mut texts: Vec<_> = counts
        .into_iter()
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    texts.sort();
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::Node;
    use serde_json::{Value, json};

    use super::*;

    fn node(name: &str, extra: &Value) -> Arc<Node> {
        let mut node = json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "spec": {},
            "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "3"}},
        });
        merge(&mut node, extra);
        Arc::new(serde_json::from_value(node).unwrap())
    }

    fn merge(into: &mut Value, from: &Value) {
        match (into, from) {
            (Value::Object(into), Value::Object(from)) => {
                for (name, value) in from {
                    merge(into.entry(name.clone()).or_insert(Value::Null), value);
                }
            }
            (into, from) => *into = from.clone(),
        }
    }

    fn pod(name: &str, on: Option<&str>, spec: &Value) -> Arc<Pod> {
        let mut pod = json!({
            "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c"}]},
        });
        if let Some(on) = on {
            pod["spec"]["nodeName"] = on.into();
        }
        merge(&mut pod["spec"], spec);
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn cpu(amount: &str) -> Value {
        json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": amount}}}]})
    }

    fn place(nodes: Vec<Arc<Node>>, pods: Vec<Arc<Pod>>, pod: &Pod) -> Result<String, String> {
        let snapshot = Snapshot::from_lists(nodes, pods);
        schedule(&snapshot, pod, 0)
            .map(|placement| placement.node)
            .map_err(|error| error.message)
    }

    #[test]
    fn says_why_no_node_fits() {
        const VICTIMS: &str = "No preemption victims found for incoming pod";
        const USELESS: &str = "Preemption is not helpful for scheduling";
        let none = json!({});
        let port = json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]});
        let app = json!({"matchLabels": {"app": "web"}});
        let term = json!([{"topologyKey": "kubernetes.io/hostname", "labelSelector": app}]);
        let required = |kind: &str| json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": term}}});
        let spread = |key: &str| {
            json!({"topologySpreadConstraints": [
                {"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule", "labelSelector": app, "minDomains": 2},
            ]})
        };
        let taint = json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}});
        let cordon = json!({"spec": {"unschedulable": true}});
        let pinned = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]}]}}}});
        for (extra, there, wanted, reason, preemption) in [
            (&none, &cpu("1500m"), &cpu("1"), "Insufficient cpu", VICTIMS),
            (&none, &none, &cpu("3"), "Insufficient cpu", USELESS),
            (&taint, &none, &none, "node(s) had untolerated taint(s)", USELESS),
            (&cordon, &none, &none, "node(s) were unschedulable", USELESS),
            (
                &none,
                &port,
                &port,
                "node(s) didn't have free ports for the requested pod ports",
                VICTIMS,
            ),
            (
                &none,
                &none,
                &json!({"nodeSelector": {"x": "y"}}),
                "node(s) didn't match Pod's node affinity/selector",
                USELESS,
            ),
            (
                &none,
                &none,
                &required("podAntiAffinity"),
                "node(s) didn't match pod anti-affinity rules",
                VICTIMS,
            ),
            (
                &none,
                &required("podAntiAffinity"),
                &none,
                "node(s) didn't satisfy existing pods anti-affinity rules",
                VICTIMS,
            ),
            (
                &none,
                &none,
                &spread("kubernetes.io/hostname"),
                "node(s) didn't match pod topology spread constraints",
                VICTIMS,
            ),
            (
                &none,
                &none,
                &spread("zone"),
                "node(s) didn't match pod topology spread constraints (missing required label)",
                USELESS,
            ),
            (
                &none,
                &none,
                &pinned,
                "node(s) didn't satisfy plugin(s) [NodeAffinity]",
                USELESS,
            ),
        ] {
            let got = place(
                vec![node("a", extra)],
                vec![pod("old", Some("a"), there)],
                &pod("new", None, wanted),
            );
            let message = format!("0/1 nodes are available: 1 {reason}. preemption: 0/1 nodes are available: 1 {preemption}.");
            assert_eq!(got, Err(message));
        }
        assert_eq!(
            place(vec![], vec![], &pod("p", None, &none)),
            Err("no nodes available to schedule pods".into())
        );
    }

    #[test]
    fn several_reasons_are_counted_and_sorted() {
        let nodes = vec![
            node("a", &json!({"spec": {"unschedulable": true}})),
            node("b", &json!({"status": {"allocatable": {"cpu": "1", "pods": "0"}}})),
            node("c", &json!({"status": {"allocatable": {"cpu": "1"}}})),
        ];
        assert_eq!(
            place(nodes, vec![], &pod("p", None, &cpu("2"))),
            Err(
                "0/3 nodes are available: 1 Too many pods, 1 node(s) were unschedulable, 2 Insufficient cpu. preemption: 0/3 \
                 nodes are available: 3 Preemption is not helpful for scheduling."
                    .into()
            )
        );
    }

    #[test]
    fn chooses_the_better_node() {
        let none = json!({});
        let prefer = json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 10, "preference": {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}}]}}});
        let near = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}]}}});
        let spread = json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {"matchLabels": {"app": "web"}}}]});
        let soft_taint = json!({"spec": {"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}});
        let ssd = json!({"metadata": {"labels": {"disk": "ssd"}}});
        for (name, a, b, on_a, wanted, chosen) in [
            ("the emptier", &none, &none, Some(cpu("1")), &none, "b"),
            ("without a soft taint", &soft_taint, &none, None, &none, "b"),
            ("by preference", &none, &ssd, None, &prefer, "b"),
            ("beside its friend", &none, &none, Some(none.clone()), &near, "a"),
            ("spread out", &none, &none, Some(none.clone()), &spread, "b"),
        ] {
            let pods = on_a.iter().map(|spec| pod("old", Some("a"), spec)).collect();
            let got = place(vec![node("a", a), node("b", b)], pods, &pod("new", None, wanted));
            assert_eq!(got.as_deref(), Ok(chosen), "{name}");
        }
    }

    #[test]
    fn the_first_of_an_affine_group_can_be_placed() {
        let near = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}]}}});
        assert_eq!(
            place(vec![node("a", &json!({}))], vec![], &pod("p", None, &near)).as_deref(),
            Ok("a")
        );
        let strangers = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "db"}}}]}}});
        assert!(place(vec![node("a", &json!({}))], vec![], &pod("p", None, &strangers)).is_err());
    }

    #[test]
    fn a_removed_pod_gives_back_what_it_held() {
        let mut state = NodeState::new(node("a", &json!({})));
        let empty = state.requested.clone();
        state.add_pod(pod("p", Some("a"), &cpu("1")));
        state.add_pod(pod("p", Some("a"), &cpu("500m")));
        assert_eq!(state.requested.milli_cpu, 500);
        assert!(state.remove_pod("p") && !state.remove_pod("p"));
        assert_eq!(state.requested, empty);
    }
}
