//! Pods that were bound to the node by hand and have no place on it.

use k8s_openapi::api::core::v1::Node;

use super::*;

/// Who has no place is refused before anything of it runs, and who has one keeps it whatever becomes of the node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_no_place_here_is_refused_and_what_runs_stays() {
    let lab = Lab::start();
    let image = "img:1";
    let ports = json!([{"containerPort": 80, "hostPort": 8080, "protocol": "TCP"}]);
    let held = json!({"containers": [{"name": "c", "image": image, "ports": ports}]});
    lab.pod("a", held.clone());
    lab.until("a", "ready", ready).await;
    let cores = lab.client.get::<Node>("", "node-1").await.unwrap();
    let cores: i64 = cores.status.as_ref().unwrap().capacity.as_ref().unwrap()["cpu"]
        .0
        .parse()
        .unwrap();
    let greedy =
        json!({"containers": [{"name": "c", "image": image, "resources": {"requests": {"cpu": (cores + 1).to_string()}}}]});
    let (asked, all) = ((cores + 1) * 1000, cores * 1000);
    for (name, spec, reason, text) in [
        (
            "port",
            held,
            "NodePorts",
            "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports".to_owned(),
        ),
        (
            "elsewhere",
            json!({"containers": [{"name": "c", "image": image}], "nodeSelector": {"disk": "ssd"}}),
            "NodeAffinity",
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector".to_owned(),
        ),
        (
            "greedy",
            greedy,
            "OutOfcpu",
            format!("Node didn't have enough resource: cpu, requested: {asked}, used: 0, capacity: {all}"),
        ),
    ] {
        lab.pod(name, spec);
        lab.until_event(name, reason, &text).await;
        let pod = lab.until(name, "fails", |pod| pod["status"]["phase"] == "Failed").await;
        assert_eq!(pod["status"]["reason"], reason);
        assert_eq!(pod["status"]["message"], format!("Pod was rejected: {text}"));
        let sandbox = format!("sandbox {name} ");
        assert!(!lab.runtime.calls().iter().any(|call| call.starts_with(&sandbox)), "{name}");
    }
    let evict = |node: &mut Node| {
        let taint = json!([{"key": "gone", "effect": "NoExecute"}]);
        node.spec.get_or_insert_default().taints = serde_json::from_value(taint).unwrap();
        true
    };
    lab.client.modify::<Node>("", "node-1", evict).await.unwrap();
    let lab = lab.restart().await;
    lab.pod("late", json!({"containers": [{"name": "c", "image": image}]}));
    let text = "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate";
    lab.until_event("late", "TaintToleration", text).await;
    lab.pod(
        "tolerant",
        json!({"containers": [{"name": "c", "image": image}], "tolerations": [{"operator": "Exists"}]}),
    );
    lab.until("tolerant", "ready", ready).await;
    lab.until("a", "still ready", ready).await;
    assert!(!lab.runtime.calls().iter().any(|call| call.starts_with("stop c")));
}
