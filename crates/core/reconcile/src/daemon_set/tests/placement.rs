//! Which nodes a pod belongs on.

use serde_json::{Value, json};

use super::super::placement::{Fit, Placement, is_updated, pinned, target, template};
use super::world::{daemon_set, node, seen};
use crate::pods::CountedPod;

#[test]
fn a_node_fits_or_keeps_what_it_has_or_neither() {
    const BOTH: (bool, bool) = (true, true);
    const KEEPS: (bool, bool) = (false, true);
    const NONE: (bool, bool) = (false, false);
    let taint = |key: &str, effect: &str| json!([{"key": key, "value": "v", "effect": effect}]);
    let own = |key: &str| format!("node.kubernetes.io/{key}");
    let required = |term: Value| json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}});
    for (case, spec, taints, expected) in [
        ("plain", json!({}), json!([]), BOTH),
        ("named", json!({"nodeName": "n"}), json!([]), BOTH),
        ("named otherwise", json!({"nodeName": "m"}), json!([]), NONE),
        ("selected", json!({"nodeSelector": {"zone": "a"}}), json!([]), BOTH),
        ("not selected", json!({"nodeSelector": {"zone": "b"}}), json!([]), NONE),
        (
            "affinity",
            required(json!({"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]})),
            json!([]),
            BOTH,
        ),
        (
            "affinity for another",
            required(json!({"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["a"]}]})),
            json!([]),
            NONE,
        ),
        (
            "affinity by name",
            required(json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]})),
            json!([]),
            BOTH,
        ),
        (
            "affinity by another name",
            required(json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["m"]}]})),
            json!([]),
            NONE,
        ),
        ("an empty term", required(json!({})), json!([]), NONE),
        ("no schedule", json!({}), taint("k", "NoSchedule"), KEEPS),
        ("no execute", json!({}), taint("k", "NoExecute"), NONE),
        ("preferably not", json!({}), taint("k", "PreferNoSchedule"), BOTH),
        (
            "tolerated",
            json!({"tolerations": [{"key": "k", "operator": "Equal", "value": "v"}]}),
            taint("k", "NoExecute"),
            BOTH,
        ),
        (
            "another value tolerated",
            json!({"tolerations": [{"key": "k", "operator": "Equal", "value": "w", "effect": "NoSchedule"}]}),
            taint("k", "NoSchedule"),
            KEEPS,
        ),
        ("cordoned", json!({}), taint(&own("unschedulable"), "NoSchedule"), BOTH),
        ("not ready", json!({}), taint(&own("not-ready"), "NoExecute"), BOTH),
        ("unreachable", json!({}), taint(&own("unreachable"), "NoExecute"), BOTH),
        ("not ready, new", json!({}), taint(&own("not-ready"), "NoSchedule"), KEEPS),
        ("disk", json!({}), taint(&own("disk-pressure"), "NoSchedule"), BOTH),
        ("memory", json!({}), taint(&own("memory-pressure"), "NoSchedule"), BOTH),
        ("pid", json!({}), taint(&own("pid-pressure"), "NoSchedule"), BOTH),
        (
            "no network",
            json!({}),
            taint(&own("network-unavailable"), "NoSchedule"),
            KEEPS,
        ),
        (
            "no network needed",
            json!({"hostNetwork": true}),
            taint(&own("network-unavailable"), "NoSchedule"),
            BOTH,
        ),
        ("out of service", json!({}), taint(&own("out-of-service"), "NoExecute"), NONE),
    ] {
        let set = daemon_set("a", json!({"template": {"spec": spec}}));
        let fit = Placement::of(&set).fit(&seen(&node("n", json!({"zone": "a"}), taints)));
        let (run, stay) = expected;
        assert_eq!(fit, Fit { run, stay }, "{case}");
    }
}

#[test]
fn a_pods_node_is_where_it_is_or_where_it_asks_to_be() {
    let set = daemon_set("a", json!({}));
    let pod = |spec: Value| CountedPod::made(&json!({"spec": spec}));
    let mut asking = serde_json::to_value(pinned(template(&set, "h"), "n").spec).unwrap();
    assert_eq!(target(&pod(asking.clone())), Some("n"));
    asking["nodeName"] = "m".into();
    assert_eq!(target(&pod(asking)), Some("m"));
    let fields = |fields: Value| {
        pod(
            json!({"containers": [], "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [{"matchFields": fields}]}}}}),
        )
    };
    assert_eq!(target(&pod(json!({"containers": []}))), None);
    let named = |values: Value| fields(json!([{"key": "metadata.name", "operator": "In", "values": values}]));
    assert_eq!(target(&named(json!(["a", "b"]))), None);
    assert_eq!(target(&named(json!(["a"]))), Some("a"));
    assert_eq!(
        target(&fields(
            json!([{"key": "metadata.name", "operator": "NotIn", "values": ["a"]}])
        )),
        None
    );
}

#[test]
fn a_pod_is_updated_by_its_hash_or_by_the_count_of_changes() {
    let set = daemon_set("a", json!({}));
    for (labels, hash, expected) in [
        (json!({"controller-revision-hash": "h"}), "h", true),
        (json!({"controller-revision-hash": "g"}), "h", false),
        (json!({"controller-revision-hash": ""}), "", false),
        (json!({"pod-template-generation": "1"}), "h", true),
        (json!({"pod-template-generation": "2"}), "h", false),
        (json!({}), "h", false),
    ] {
        let pod = CountedPod::made(&json!({"metadata": {"labels": labels}}));
        assert_eq!(is_updated(&set, &pod, hash), expected, "{labels} {hash}");
    }
    let mut set = set;
    set.metadata.annotations = Some([("deprecated.daemonset.template.generation".into(), "many".into())].into());
    let pod = CountedPod::made(&json!({"metadata": {"labels": {"pod-template-generation": "many"}}}));
    assert!(!is_updated(&set, &pod, "h"));
    assert_eq!(
        template(&set, "").metadata.unwrap().labels.unwrap(),
        [("app".to_owned(), "agent".to_owned())].into()
    );
}
