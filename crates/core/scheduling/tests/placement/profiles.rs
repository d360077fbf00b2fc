//! What a profile's arguments change in a decision.

use serde_json::{Value, json};
use trireme_scheduling::configuration::read;
use trireme_scheduling::{Preemption, Profile, decide, preempt};

use crate::common::{Ground, cpu, node, pod};

/// A profile by its `plugins` and `pluginConfig`.
fn profile(plugins: &Value, name: &str, args: &Value) -> Profile {
    let mut profile = json!({"plugins": plugins});
    if !name.is_empty() {
        profile["pluginConfig"] = json!([{"name": name, "args": args}]);
    }
    let value =
        json!({"apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration", "profiles": [profile]});
    read(&value).unwrap().profiles.remove(0)
}

fn place(ground: &mut Ground, profile: &Profile, pod: &Value) -> Result<String, String> {
    let pod = ground.read(pod);
    match decide(&mut ground.snapshot, profile, &pod, 0) {
        Ok(placement) => Ok(placement.node.into()),
        Err(refused) => Err(match preempt(&mut ground.snapshot, profile, &pod, &refused, 0) {
            Preemption::Remove { node, .. } => format!("preempts on {node}"),
            Preemption::Hopeless(why) => refused.message(&why),
            Preemption::Ineligible(why) => refused.message(why),
        }),
    }
}

#[test]
fn default_constraints_spread_pods_of_a_service() {
    let racks = [("n1", "r1"), ("n2", "r2")].map(|(name, rack)| node(name, &json!({"metadata": {"labels": {"rack": rack}}})));
    let constraint = json!({"maxSkew": 1, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"});
    let list = json!({"defaultingType": "List", "defaultConstraints": [constraint]});
    let profile = profile(&json!({}), "PodTopologySpread", &list);
    let mut ground = Ground::new(&racks, &[pod("a", Some("n1"), &json!({}))]);
    let service = json!({"spec": {"selector": {"app": "web"}}}).to_string();
    ground.snapshot.put_service("default", "s", Some(service.as_bytes())).unwrap();
    let only_first = json!({"nodeSelector": {"rack": "r1"}});
    assert_eq!(place(&mut ground, &profile, &pod("p", None, &json!({}))).unwrap(), "n2");
    // Only nodes that the pod admits count, so there is but one rack.
    assert_eq!(place(&mut ground, &profile, &pod("p", None, &only_first)).unwrap(), "n1");
    ground.put_pod(&pod("b", Some("n2"), &json!({})));
    ground.put_pod(&pod("c", Some("n2"), &json!({})));
    let full = json!({"nodeName": null});
    assert_eq!(place(&mut ground, &profile, &pod("p", None, &full)).unwrap(), "n1");
    // A pod that nobody selects is not spread.
    let mut other = pod("q", None, &json!({"nodeSelector": {"rack": "r2"}}));
    other["metadata"]["labels"] = json!({"app": "other"});
    assert_eq!(place(&mut ground, &profile, &other).unwrap(), "n2");
}

#[test]
fn an_ignored_resource_fills_no_node() {
    let spec = json!({"containers": [{"name": "c", "resources": {"requests": {"example.com/gpu": "1"}}}]});
    let args = json!({"ignoredResourceGroups": ["example.com"], "scoringStrategy": {"type": "LeastAllocated"}});
    let ignoring = profile(&json!({}), "NodeResourcesFit", &args);
    let mut ground = Ground::new(&[node("n1", &json!({}))], &[]);
    assert!(place(&mut ground, &Profile::default(), &pod("p", None, &spec)).is_err());
    assert_eq!(place(&mut ground, &ignoring, &pod("p", None, &spec)).unwrap(), "n1");
}

#[test]
fn without_preemption_nobody_makes_room() {
    let none = profile(
        &json!({"postFilter": {"disabled": [{"name": "DefaultPreemption"}]}}),
        "",
        &json!({}),
    );
    let mut ground = Ground::new(&[node("n1", &json!({}))], &[pod("a", Some("n1"), &cpu("2"))]);
    let mut important = pod("p", None, &cpu("1"));
    important["spec"]["priority"] = 5.into();
    let default = place(&mut ground, &Profile::default(), &important);
    assert_eq!(default.unwrap_err(), "preempts on n1");
    let said = place(&mut ground, &none, &important).unwrap_err();
    assert_eq!(said, "0/1 nodes are available: 1 Insufficient cpu.");
}

#[test]
fn a_filter_that_is_disabled_keeps_nobody_away() {
    let tainted = node("n1", &json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}}));
    let mut ground = Ground::new(&[tainted], &[]);
    let open = profile(
        &json!({"filter": {"disabled": [{"name": "TaintToleration"}]}}),
        "",
        &json!({}),
    );
    assert!(place(&mut ground, &Profile::default(), &pod("p", None, &json!({}))).is_err());
    assert_eq!(place(&mut ground, &open, &pod("p", None, &json!({}))).unwrap(), "n1");
}
