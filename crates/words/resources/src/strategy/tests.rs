//! Doors and peculiarities, case by case.

use super::*;
use crate::rows::find;
use serde_json::json;

const NOW: &str = "2026-01-01T00:00:00Z";

fn row(group: &str, plural: &str) -> &'static Resource {
    find(group, "v1", plural).unwrap()
}

fn create(group: &str, plural: &str, mut value: Value) -> Value {
    prepare_create(row(group, plural), &mut value, NOW);
    value
}

fn update(group: &str, plural: &str, subresource: Option<&str>, mut new: Value, old: &Value) -> Value {
    prepare_update(row(group, plural), &mut new, old, subresource, NOW, None);
    new
}

#[test]
fn generation_starts_at_one_and_counts_what_matters() {
    let deployment = |spec: i64, annotation: &str| json!({"metadata": {"name": "d", "generation": 7, "annotations": {"a": annotation}}, "spec": {"replicas": spec}});
    assert_eq!(create("apps", "deployments", deployment(1, "x"))["metadata"]["generation"], 1);
    for (new, want) in [(deployment(1, "x"), 7), (deployment(2, "x"), 8), (deployment(1, "y"), 8)] {
        assert_eq!(
            update("apps", "deployments", None, new, &deployment(1, "x"))["metadata"]["generation"],
            want
        );
    }
    let map = create("", "configmaps", json!({"metadata": {"name": "c", "generation": 5}}));
    assert_eq!(map["metadata"]["generation"], 5, "kinds that do not count keep what was sent");
}

#[test]
fn each_door_keeps_what_is_not_its_own() {
    let old =
        json!({"metadata": {"name": "d", "uid": "u", "labels": {"a": "1"}}, "spec": {"replicas": 1}, "status": {"replicas": 1}});
    let new = json!({"metadata": {"name": "d", "labels": {"a": "2"}}, "spec": {"replicas": 2}, "status": {"replicas": 2}});
    let main = update("apps", "deployments", None, new.clone(), &old);
    assert_eq!(
        (
            &main["spec"]["replicas"],
            &main["status"]["replicas"],
            &main["metadata"]["uid"]
        ),
        (&json!(2), &json!(1), &json!("u"))
    );
    let status = update("apps", "deployments", Some("status"), new, &old);
    assert_eq!(
        (&status["spec"]["replicas"], &status["status"]["replicas"]),
        (&json!(1), &json!(2))
    );
    assert_eq!(status["metadata"]["labels"]["a"], "1");
}

#[test]
fn deletion_and_creation_times_cannot_be_taken_back() {
    let old = json!({"metadata": {"creationTimestamp": "a", "deletionTimestamp": "b", "deletionGracePeriodSeconds": 3}});
    let new = update("", "configmaps", None, json!({"metadata": {"creationTimestamp": "x"}}), &old);
    assert_eq!(new["metadata"], old["metadata"]);
}

#[test]
fn new_pods_are_pending_with_their_class() {
    let pod = |resources: Value| {
        create(
            "",
            "pods",
            json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "resources": resources}]}, "status": {"phase": "Running"}}),
        )
    };
    for (resources, want) in [
        (json!({}), "BestEffort"),
        (json!({"requests": {"cpu": "0", "ephemeral-storage": "1Gi"}}), "BestEffort"),
        (json!({"requests": {"cpu": "1"}}), "Burstable"),
        (json!({"limits": {"cpu": "1", "memory": "1Gi"}}), "Guaranteed"),
        (
            json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1Gi"}}),
            "Guaranteed",
        ),
        (
            json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "1Gi"}}),
            "Burstable",
        ),
    ] {
        assert_eq!(
            pod(resources.clone())["status"],
            json!({"phase": "Pending", "qosClass": want}),
            "{resources}"
        );
    }
}

#[test]
fn secrets_take_text_and_twins_are_brought_into_step() {
    let secret = create(
        "",
        "secrets",
        json!({"metadata": {}, "data": {"a": "eA=="}, "stringData": {"b": "y"}}),
    );
    assert_eq!(secret, json!({"metadata": {}, "data": {"a": "eA==", "b": "eQ=="}}));
    let pod = create(
        "",
        "pods",
        json!({"metadata": {}, "spec": {"containers": [], "serviceAccount": "s"}}),
    );
    assert_eq!(pod["spec"]["serviceAccountName"], "s");
    let node = create("", "nodes", json!({"metadata": {}, "spec": {"podCIDR": "10.0.0.0/24"}}));
    assert_eq!(node["spec"]["podCIDRs"], json!(["10.0.0.0/24"]));
}

#[test]
fn jobs_select_their_pods_by_uid() {
    let job = create(
        "batch",
        "jobs",
        json!({"metadata": {"name": "j", "uid": "u"}, "spec": {"template": {"metadata": {}, "spec": {}}}}),
    );
    assert_eq!(
        job["spec"]["selector"],
        json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u"}})
    );
    assert_eq!(job["spec"]["template"]["metadata"]["labels"]["job-name"], "j");
    let own = json!({"metadata": {"name": "j"}, "spec": {"manualSelector": true, "template": {}}});
    assert_eq!(create("batch", "jobs", own)["spec"].get("selector"), None);
}

#[test]
fn namespaces_are_labelled_and_finalized() {
    let mut namespace = create("", "namespaces", json!({"metadata": {"name": "n"}, "spec": {}}));
    assert_eq!(
        namespace["metadata"].get("labels"),
        None,
        "validation sees only what was sent"
    );
    fill_stored(row("", "namespaces"), &mut namespace);
    assert_eq!(namespace["spec"]["finalizers"], json!(["kubernetes"]));
    assert_eq!(namespace["status"], json!({"phase": "Active"}));
    assert_eq!(namespace["metadata"]["labels"]["kubernetes.io/metadata.name"], "n");
    let changed = json!({"metadata": {"name": "n"}, "spec": {"finalizers": []}});
    assert_eq!(
        update("", "namespaces", None, changed.clone(), &namespace)["spec"],
        namespace["spec"]
    );
    let finalized = update("", "namespaces", Some("finalize"), changed, &namespace);
    assert_eq!(
        (&finalized["spec"]["finalizers"], &finalized["status"]["phase"]),
        (&json!([]), &json!("Active"))
    );
}

#[test]
fn a_service_gives_up_what_its_new_type_does_not_need() {
    let old = json!({"metadata": {}, "spec": {"type": "NodePort", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
        "externalTrafficPolicy": "Cluster", "ports": [{"port": 80, "nodePort": 30000}]}, "status": {"loadBalancer": {}}});
    let mut new = old.clone();
    new["spec"]["type"] = json!("ClusterIP");
    let new = update("", "services", None, new, &old);
    assert_eq!(new["spec"]["ports"], json!([{"port": 80}]));
    assert_eq!(new["spec"].get("externalTrafficPolicy"), None);
    let mut name = old.clone();
    name["spec"]["type"] = json!("ExternalName");
    assert_eq!(update("", "services", None, name, &old)["spec"].get("clusterIP"), None);
}

#[test]
fn a_service_without_outside_addresses_has_no_policy_for_them() {
    let old = json!({"metadata": {}, "spec": {"type": "ClusterIP", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
        "externalIPs": ["192.0.2.1"], "externalTrafficPolicy": "Cluster", "internalTrafficPolicy": "Cluster",
        "ports": [{"port": 80}]}, "status": {"loadBalancer": {}}});
    let without = |policy: &str| {
        let mut new = old.clone();
        new["spec"]["externalTrafficPolicy"] = json!(policy);
        new["spec"].as_object_mut().unwrap().remove("externalIPs");
        update("", "services", None, new, &old)["spec"]["externalTrafficPolicy"].clone()
    };
    assert_eq!(without("Cluster"), Value::Null);
    assert_eq!(without("Local"), "Local", "a change is left for validation to refuse");
    let mut name = old.clone();
    name["spec"]["type"] = json!("ExternalName");
    let mut name = update("", "services", None, name, &old);
    assert_eq!(name["spec"]["internalTrafficPolicy"], "Cluster", "validation sees it");
    fill_stored(row("", "services"), &mut name);
    for gone in ["clusterIP", "clusterIPs", "internalTrafficPolicy"] {
        assert_eq!(name["spec"].get(gone), None, "{gone}");
    }
}

#[test]
fn old_annotations_of_app_armor_become_fields() {
    let key = |name: &str| format!("container.apparmor.security.beta.kubernetes.io/{name}");
    let told = |name: &str| {
        format!(
            "metadata.annotations[{}]: deprecated since v1.30; use the \"appArmorProfile\" field instead",
            key(name)
        )
    };
    let mut pod = json!({
        "metadata": {"annotations": {(key("a")): "localhost/x", (key("b")): "runtime/default", (key("c")): "odd", (key("d")): "unconfined"}},
        "spec": {"securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}}, "containers": [{"name": "a"}, {"name": "b"},
            {"name": "c"}, {"name": "d", "securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}}}]},
    });
    let warnings = prepare_create(row("", "pods"), &mut pod, NOW);
    assert_eq!(
        warnings,
        [told("a"), told("c")],
        "the pod says the same of b, and d has its own field"
    );
    let of = |index: usize| pod["spec"]["containers"][index]["securityContext"]["appArmorProfile"].clone();
    assert_eq!(of(0), json!({"type": "Localhost", "localhostProfile": "x"}));
    assert_eq!(
        (of(1), of(2), of(3)),
        (Value::Null, Value::Null, json!({"type": "RuntimeDefault"}))
    );
}

#[test]
fn fields_of_gates_that_are_off_are_dropped() {
    let spec = json!({
        "schedulingGroup": {"podGroupName": "g"},
        "containers": [{"name": "a", "lifecycle": {"stopSignal": "SIGUSR1"}},
            {"name": "b", "lifecycle": {"stopSignal": "SIGUSR1", "preStop": {"sleep": {"seconds": 1}}}}],
        "volumes": [{"name": "v", "projected": {"sources": [{"clusterTrustBundle": {"path": "p"}}, {"podCertificate": {}}]}}],
    });
    let bare = json!({
        "containers": [{"name": "a"}, {"name": "b", "lifecycle": {"preStop": {"sleep": {"seconds": 1}}}}],
        "volumes": [{"name": "v", "projected": {"sources": [{}, {}]}}],
    });
    let job = |spec: &Value| json!({"metadata": {}, "spec": {"template": {"spec": spec}}});
    assert_eq!(create("apps", "deployments", job(&spec))["spec"]["template"]["spec"], bare);
    let cron = json!({"metadata": {}, "spec": {"jobTemplate": job(&spec)}});
    let cron = create("batch", "cronjobs", cron);
    assert_eq!(cron["spec"]["jobTemplate"]["spec"]["template"]["spec"], bare);
    // What is in use stays, feature by feature.
    let mut signalled = bare.clone();
    signalled["containers"][0]["lifecycle"] = json!({"stopSignal": "SIGHUP"});
    let updated = update("apps", "deployments", None, job(&spec), &job(&signalled));
    let updated = &updated["spec"]["template"]["spec"];
    assert_eq!(updated["containers"], spec["containers"]);
    assert_eq!(updated.get("schedulingGroup"), None);
    let node = json!({"metadata": {}, "spec": {"configSource": {"configMap": {}}}, "status": {"config": {}}});
    let node = create("", "nodes", node);
    assert_eq!((&node["spec"], &node["status"]), (&json!({}), &json!({})));
}

#[test]
fn which_kinds_put_creates_and_which_need_a_version() {
    for (group, plural, creates, unconditional) in [
        ("", "pods", false, true),
        ("", "services", true, true),
        ("coordination.k8s.io", "leases", true, false),
        ("policy", "poddisruptionbudgets", false, false),
        ("rbac.authorization.k8s.io", "roles", true, true),
    ] {
        let row = row(group, plural);
        assert_eq!(
            (allow_create_on_update(row), allow_unconditional_update(row)),
            (creates, unconditional),
            "{plural}"
        );
    }
}

#[test]
fn a_gated_pod_says_since_when() {
    let pod = create(
        "",
        "pods",
        json!({"metadata": {"name": "p"}, "spec": {"schedulingGates": [{"name": "a.b/c"}], "containers": []}}),
    );
    assert_eq!(pod["status"]["conditions"][0]["lastTransitionTime"], NOW);
}

#[test]
fn metadata_alone_hides_the_twins_of_fields() {
    let counted = "deprecated.daemonset.template.generation";
    for (kind, annotations, wanted) in [
        ("DaemonSet", json!({counted: "1"}), json!({"name": "d"})),
        (
            "DaemonSet",
            json!({counted: "1", "a": "b"}),
            json!({"name": "d", "annotations": {"a": "b"}}),
        ),
        (
            "Deployment",
            json!({counted: "1"}),
            json!({"name": "d", "annotations": {counted: "1"}}),
        ),
    ] {
        let mut metadata = json!({"name": "d", "annotations": annotations});
        hide_twins(&kind.into(), &mut metadata);
        assert_eq!(metadata, wanted);
    }
}

#[test]
fn a_token_request_is_compared_with_an_empty_one() {
    let row = Resource {
        kind: "TokenRequest",
        ..*row("authentication.k8s.io", "tokenreviews")
    };
    assert!(crate::apply::blank(&row)["spec"].get("audiences").is_some());
}

#[test]
fn what_is_off_is_dropped_unless_in_use() {
    let lease = json!({"metadata": {"name": "l"}, "spec": {"preferredHolder": "x", "holderIdentity": "y"}});
    let created = create("coordination.k8s.io", "leases", lease.clone());
    assert_eq!(created["spec"], json!({"holderIdentity": "y"}));
    let kept = update("coordination.k8s.io", "leases", None, lease.clone(), &lease);
    assert_eq!(kept["spec"]["preferredHolder"], "x");
    let slice = |topology: &str| json!({"metadata": {"name": "s"}, "endpoints": [{"addresses": ["a"], "deprecatedTopology": {"z": topology}}]});
    let endpoint = |value: Value| value["endpoints"][0].get("deprecatedTopology").is_some();
    assert!(!endpoint(create("discovery.k8s.io", "endpointslices", slice("1"))));
    assert!(endpoint(update(
        "discovery.k8s.io",
        "endpointslices",
        None,
        slice("1"),
        &slice("1")
    )));
    assert!(!endpoint(update(
        "discovery.k8s.io",
        "endpointslices",
        None,
        slice("2"),
        &slice("1")
    )));
}

#[test]
fn names_labels_and_statuses_that_come_from_elsewhere() {
    let range = create("", "limitranges", json!({"metadata": {"uid": "u"}, "spec": {}}));
    assert_eq!(range["metadata"]["name"], "u");
    let job = |labels: Value| {
        let mut job = create(
            "batch",
            "jobs",
            json!({"metadata": {"name": "j", "uid": "u", "labels": labels}, "spec": {"template": {}}}),
        );
        fill_stored(row("batch", "jobs"), &mut job);
        job
    };
    assert_eq!(job(json!({}))["metadata"]["labels"]["job-name"], "j");
    assert_eq!(job(json!({"a": "b"}))["metadata"]["labels"], json!({"a": "b"}));
    let node = create(
        "",
        "nodes",
        json!({"metadata": {"name": "n"}, "status": {"capacity": {"cpu": "1"}}}),
    );
    assert_eq!(node["status"]["capacity"]["cpu"], "1");
    let pod = create(
        "",
        "pods",
        json!({"metadata": {"name": "p"}, "spec": {"terminationGracePeriodSeconds": -1, "containers": []}}),
    );
    assert_eq!(pod["spec"]["terminationGracePeriodSeconds"], 1);
}

#[test]
fn what_is_sent_of_a_slice_counts_before_it_is_dropped() {
    let slice = |more: Value| {
        let mut device = json!({"name": "d0"});
        device.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
        json!({"metadata": {"name": "s", "generation": 1}, "spec": {"driver": "d.example", "devices": [device]}})
    };
    let of_a_gate_that_is_off = json!({"nodeAllocatableResourceMappings": {"memory": {}}});
    let new = update(
        "resource.k8s.io",
        "resourceslices",
        None,
        slice(of_a_gate_that_is_off),
        &slice(json!({})),
    );
    assert_eq!(new["spec"], slice(json!({}))["spec"]);
    assert_eq!(new["metadata"]["generation"], 2);
}

#[test]
fn taints_of_devices_say_since_when() {
    let slice = |taints: Value| json!({"metadata": {"name": "s"}, "spec": {"devices": [{"name": "d0", "taints": taints}]}});
    let taints =
        json!([{"key": "a", "effect": "NoExecute"}, {"key": "b", "effect": "NoSchedule", "timeAdded": "2025-01-01T00:00:00Z"}]);
    let told = json!([
        {"key": "a", "effect": "NoExecute", "timeAdded": NOW},
        {"key": "b", "effect": "NoSchedule", "timeAdded": "2025-01-01T00:00:00Z"}
    ]);
    let made = create("resource.k8s.io", "resourceslices", slice(taints.clone()));
    assert_eq!(made["spec"]["devices"][0]["taints"], told);
    let changed = update("resource.k8s.io", "resourceslices", None, slice(taints), &slice(json!([])));
    assert_eq!(changed["spec"]["devices"][0]["taints"], told);
}
