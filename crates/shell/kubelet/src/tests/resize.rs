//! What a container may use changes while it runs.

use super::*;

/// A pod with one guaranteed container.
pub(super) fn guaranteed(cpu: &str, memory: &str) -> Value {
    let amounts = json!({"cpu": cpu, "memory": memory});
    json!({"restartPolicy": "Always", "containers": [
        {"name": "c", "image": "img:1", "resources": {"requests": amounts, "limits": amounts}}]})
}

fn resized(pod: &Value, amounts: &Value) -> bool {
    let settled = ["PodResizePending", "PodResizeInProgress"]
        .iter()
        .all(|kind| condition(pod, kind).is_empty());
    let container = &pod["status"]["containerStatuses"][0];
    settled
        && pod["status"]["observedGeneration"] == pod["metadata"]["generation"]
        && container["resources"]["limits"] == *amounts
        && container["allocatedResources"] == *amounts
}

#[tokio::test]
async fn resources_change_while_a_pod_runs() {
    let lab = Lab::start();
    lab.pod("a", guaranteed("100m", "20Mi"));
    let pod = lab.until("a", "ready", ready).await;
    assert!(resized(&pod, &json!({"cpu": "100m", "memory": "20Mi"})), "{pod:#}");
    assert_eq!(pod["status"]["allocatedResources"], json!({"cpu": "100m", "memory": "20Mi"}));
    for (cpu, memory, expected) in [
        (
            "200m",
            "40Mi",
            vec![
                "limit pod 41943040 10000 102",
                "limit c 41943040 10000 102",
                "limit pod 41943040 20000 102",
                "limit pod 41943040 20000 204",
                "limit c 41943040 20000 204",
            ],
        ),
        (
            "50m",
            "10Mi",
            vec![
                "limit c 10485760 20000 204",
                "limit pod 10485760 20000 204",
                "limit c 10485760 5000 51",
                "limit pod 10485760 20000 51",
                "limit pod 10485760 5000 51",
            ],
        ),
    ] {
        let before = lab.runtime.calls().len();
        lab.change("a", |pod| {
            pod["spec"]["containers"] = guaranteed(cpu, memory)["containers"].clone()
        })
        .await;
        let amounts = json!({"cpu": cpu, "memory": memory});
        let pod = lab.until("a", "resized", |pod| resized(pod, &amounts)).await;
        assert_eq!(lab.runtime.calls()[before..], expected);
        assert_eq!(pod["status"]["resources"], json!({"requests": amounts, "limits": amounts}));
        assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
        assert!(ready(&pod));
    }
    let started = lab.until_told("ResizeStarted").await;
    assert_eq!(
        started,
        r#"Pod resize started: {"containers":[{"name":"c","resources":{"limits":{"cpu":"200m","memory":"40Mi"},"requests":{"cpu":"200m","memory":"40Mi"}}}],"generation":2}"#
    );
    let completed = lab.until_told("ResizeCompleted").await;
    assert_eq!(completed, started.replace("started", "completed"));
}

#[tokio::test]
async fn memory_in_use_is_not_taken_away() {
    let lab = Lab::start();
    lab.pod("a", guaranteed("100m", "20Mi"));
    lab.until("a", "ready", ready).await;
    lab.change("a", |pod| {
        pod["spec"]["containers"] = guaranteed("100m", "4Mi")["containers"].clone()
    })
    .await;
    let pod = lab
        .until("a", "refused", |pod| {
            condition(pod, "PodResizeInProgress") == "True" && pod.to_string().contains("\"Error\"")
        })
        .await;
    let conditions = pod["status"]["conditions"].as_array().unwrap();
    let found = conditions
        .iter()
        .find(|known| known["type"] == "PodResizeInProgress")
        .unwrap();
    let why = "cannot decrease memory limits: [attempting to set pod memory limit (4194304) below current usage (5242880), \
               attempting to set container \"c\" memory limit (4194304) below current usage (5242880)]";
    assert_eq!((&found["reason"], &found["message"]), (&json!("Error"), &json!(why)));
    assert_eq!(found["observedGeneration"], 2);
    let container = &pod["status"]["containerStatuses"][0];
    assert_eq!(container["resources"]["limits"]["memory"], "20Mi", "what it has");
    assert_eq!(container["allocatedResources"]["memory"], "4Mi", "what it was granted");
    assert!(!lab.runtime.calls().iter().any(|call| call.starts_with("limit")));
    assert!(lab.until_told("ResizeError").await.contains("below current usage"));
    // Taken back, it is over.
    lab.change("a", |pod| {
        pod["spec"]["containers"] = guaranteed("100m", "20Mi")["containers"].clone()
    })
    .await;
    lab.until("a", "over", |pod| resized(pod, &json!({"cpu": "100m", "memory": "20Mi"})))
        .await;
}

#[tokio::test]
async fn a_wish_beyond_the_node_waits_and_a_restart_forgets_no_grant() {
    let lab = Lab::start();
    lab.pod("a", guaranteed("100m", "20Mi"));
    lab.pod("b", guaranteed("100m", "20Mi"));
    lab.until("a", "ready", ready).await;
    lab.until("b", "ready", ready).await;
    lab.change("a", |pod| {
        pod["spec"]["containers"] = guaranteed("200m", "20Mi")["containers"].clone()
    })
    .await;
    lab.until("a", "resized", |pod| resized(pod, &json!({"cpu": "200m", "memory": "20Mi"})))
        .await;
    // All of the node but for what the other one has.
    let cpus = std::thread::available_parallelism().unwrap().get() * 1000;
    let all = format!("{}m", cpus - 100);
    lab.change("a", |pod| {
        pod["spec"]["containers"] = guaranteed(&all, "20Mi")["containers"].clone()
    })
    .await;
    lab.until("a", "resized to all that is left", |pod| {
        condition(pod, "PodResizePending").is_empty() && pod["status"]["allocatedResources"]["cpu"] == *all
    })
    .await;
    lab.change("b", |pod| {
        pod["spec"]["containers"] = guaranteed("200m", "20Mi")["containers"].clone()
    })
    .await;
    let waits = |pod: &Value| condition(pod, "PodResizePending") == "True" && pod["status"]["observedGeneration"] == 2;
    let pod = lab.until("b", "waiting", waits).await;
    let conditions = pod["status"]["conditions"].as_array().unwrap();
    let found = conditions.iter().find(|known| known["type"] == "PodResizePending").unwrap();
    let why = format!(
        "Node didn't have enough resource: cpu, requested: 200, used: {}, capacity: {cpus}",
        cpus - 100
    );
    assert_eq!((&found["reason"], &found["message"]), (&json!("Deferred"), &json!(why)));
    assert_eq!(pod["status"]["containerStatuses"][0]["allocatedResources"]["cpu"], "100m");
    assert!(
        lab.until_told("ResizeDeferred")
            .await
            .starts_with("Pod resize OutOfcpu: {\"containers\":")
    );

    let before = lab.runtime.calls().len();
    let lab = lab.restart().await;
    lab.change("b", |pod| pod["metadata"]["labels"] = json!({"seen": "yes"}))
        .await;
    let pod = lab
        .until("b", "waiting still", |pod| {
            condition(pod, "PodResizePending") == "True" && pod["status"]["observedGeneration"] == 3
        })
        .await;
    assert_eq!(pod["status"]["containerStatuses"][0]["allocatedResources"]["cpu"], "100m");
    let calls = lab.runtime.calls();
    assert!(!calls[before..].iter().any(|call| call.starts_with("limit")), "{calls:?}");

    // Room is made: the other one asks for less, and then the grant is there.
    lab.change("a", |pod| {
        pod["spec"]["containers"] = guaranteed("50m", "20Mi")["containers"].clone()
    })
    .await;
    lab.until("b", "resized", |pod| resized(pod, &json!({"cpu": "200m", "memory": "20Mi"})))
        .await;
}

#[tokio::test]
async fn a_resize_policy_of_restart_restarts_the_container() {
    let lab = Lab::start();
    let mut spec = guaranteed("100m", "20Mi");
    spec["restartPolicy"] = json!("OnFailure");
    spec["containers"][0]["resizePolicy"] = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
    lab.pod("a", spec.clone());
    lab.until("a", "ready", ready).await;
    for (restarts, memory) in [(1, "40Mi"), (2, "30Mi"), (3, "10Mi")] {
        let before = lab.runtime.calls().len();
        lab.change("a", |pod| {
            pod["spec"]["containers"][0]["resources"] = guaranteed("100m", memory)["containers"][0]["resources"].clone();
        })
        .await;
        let amounts = json!({"cpu": "100m", "memory": memory});
        let pod = lab
            .until("a", "restarted with other limits", |pod| {
                resized(pod, &amounts) && pod["status"]["containerStatuses"][0]["restartCount"] == restarts && ready(pod)
            })
            .await;
        assert_eq!(pod["status"]["phase"], "Running");
        let calls = lab.runtime.calls();
        let at = |text: &str| calls[before..].iter().position(|call| call.starts_with(text));
        assert!(
            at("stop c") < at("limit pod") && at("limit pod") < at(&format!("create c {restarts}")),
            "{calls:?}"
        );
    }
    assert_eq!(lab.until_told("Killing").await, "Container c resize requires restart");
}
