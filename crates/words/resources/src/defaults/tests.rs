//! Defaults by kind, and that a second time changes nothing.

use serde_json::json;
use trireme_api::schema;

use super::*;

fn filled(group: &str, version: &str, kind: &str, value: Value) -> Value {
    let row = crate::find_kind(group, version, kind).unwrap();
    let mut once = value;
    apply(row, &mut once);
    let mut twice = once.clone();
    apply(row, &mut twice);
    assert_eq!(once, twice);
    once
}

#[test]
fn a_deployment_and_its_template() {
    let filled = filled(
        "apps",
        "v1",
        "Deployment",
        json!({
            "metadata": {"name": "web"},
            "spec": {"template": {"spec": {
                "volumes": [{"name": "v"}, {"name": "c", "configMap": {"name": "x"}}],
                "containers": [{"name": "a", "image": "nginx", "resources": {"limits": {"cpu": "1"}}, "ports": [{"containerPort": 80}],
                    "livenessProbe": {"httpGet": {"port": 80}}}, {"name": "b", "image": "host:5000/nginx:1.16"}]
            }}}
        }),
    );
    let spec = &filled["spec"];
    assert_eq!(
        spec["strategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}})
    );
    assert_eq!(
        (&spec["replicas"], &spec["progressDeadlineSeconds"]),
        (&json!(1), &json!(600))
    );
    let pod = &spec["template"]["spec"];
    assert_eq!(pod["volumes"][0]["emptyDir"], json!({}));
    assert_eq!(pod["volumes"][1]["configMap"]["defaultMode"], 420);
    let [first, second] = [&pod["containers"][0], &pod["containers"][1]];
    assert_eq!(
        (&first["imagePullPolicy"], &second["imagePullPolicy"]),
        (&json!("Always"), &json!("IfNotPresent"))
    );
    assert_eq!(first["ports"][0]["protocol"], "TCP");
    assert_eq!(
        first["livenessProbe"]["httpGet"],
        json!({"path": "/", "port": 80, "scheme": "HTTP"})
    );
    assert_eq!(first["livenessProbe"]["failureThreshold"], 3);
    assert!(
        first["resources"].get("requests").is_none(),
        "a template's requests are left alone"
    );
}

#[test]
fn only_the_latest_of_an_image_is_pulled_always() {
    for (image, policy) in [
        ("nginx", "Always"),
        ("nginx:latest", "Always"),
        ("host:5000/a/nginx", "Always"),
        ("nginx:1.16", "IfNotPresent"),
        ("nginx@sha256:abc", "IfNotPresent"),
        ("", "IfNotPresent"),
        ("Nginx", "IfNotPresent"),
    ] {
        let filled = filled(
            "",
            "v1",
            "Pod",
            json!({"spec": {"containers": [{"name": "a", "image": image}]}}),
        );
        assert_eq!(filled["spec"]["containers"][0]["imagePullPolicy"], policy, "{image}");
    }
}

#[test]
fn a_pods_requests_are_its_limits() {
    let filled = filled(
        "",
        "v1",
        "Pod",
        json!({
            "spec": {"hostNetwork": true, "containers": [{"name": "a", "image": "x:1", "resources": {"limits": {"cpu": "1"}}, "ports": [{"containerPort": 80}]}]}
        }),
    );
    assert_eq!(filled["spec"]["containers"][0]["resources"]["requests"], json!({"cpu": "1"}));
    assert_eq!(filled["spec"]["containers"][0]["ports"][0]["hostPort"], 80);
    assert_eq!(filled["spec"]["enableServiceLinks"], true);
}

#[test]
fn a_pod_as_a_whole_requests_what_its_containers_do_and_else_its_limits() {
    let container = |resources: Value| json!({"name": "a", "image": "x:1", "resources": resources});
    for (whole, containers, requests, limits) in [
        (
            json!({"limits": {"cpu": "2", "memory": "1Gi"}}),
            json!({"requests": {"cpu": "100m"}}),
            json!({"cpu": "100m", "memory": "1Gi"}),
            json!({"cpu": "2", "memory": "1Gi"}),
        ),
        (
            json!({"requests": {"cpu": "1"}}),
            json!({"limits": {"hugepages-2Mi": "4Mi"}}),
            json!({"cpu": "1", "hugepages-2Mi": "4Mi"}),
            json!({"hugepages-2Mi": "4Mi"}),
        ),
        (
            json!({"requests": {"cpu": "1"}}),
            json!({"requests": {"memory": "1Gi"}}),
            json!({"cpu": "1"}),
            Value::Null,
        ),
    ] {
        let pod = json!({"spec": {"containers": [container(containers)], "resources": whole}});
        let filled = filled("", "v1", "Pod", pod);
        let own = &filled["spec"]["resources"];
        assert_eq!((&own["requests"], &own["limits"]), (&requests, &limits), "{own}");
    }
}

#[test]
fn services_by_type() {
    let port = |kind: &str| {
        let filled = filled("", "v1", "Service", json!({"spec": {"type": kind, "ports": [{"port": 80}]}}));
        filled["spec"].clone()
    };
    assert_eq!(
        port("ClusterIP")["ports"][0],
        json!({"port": 80, "protocol": "TCP", "targetPort": 80})
    );
    assert!(port("ClusterIP").get("externalTrafficPolicy").is_none());
    assert_eq!(port("LoadBalancer")["allocateLoadBalancerNodePorts"], true);
    assert_eq!(port("NodePort")["externalTrafficPolicy"], "Cluster");
    assert!(port("ExternalName").get("internalTrafficPolicy").is_none());
}

#[test]
fn an_autoscaler_watches_cpu() {
    let filled = filled(
        "autoscaling",
        "v2",
        "HorizontalPodAutoscaler",
        json!({"spec": {"behavior": {"scaleDown": {"selectPolicy": "Min"}}}}),
    );
    assert_eq!(filled["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 80);
    assert_eq!(filled["spec"]["behavior"]["scaleDown"]["selectPolicy"], "Min");
    assert_eq!(filled["spec"]["behavior"]["scaleUp"]["policies"].as_array().unwrap().len(), 2);
}

#[test]
fn what_is_passed_over_has_no_defaults() {
    assert_eq!(WITHOUT, ["JSONSchemaProps"]);
    let mut next = vec![schema::json_schema_props()];
    let mut met = std::collections::HashSet::new();
    while let Some(of) = next.pop() {
        if !met.insert((of.package, of.name)) {
            continue;
        }
        let mut fields = Fields::new();
        for_struct(of, &mut fields);
        assert!(of.defaulted().next().is_none() && fields.is_empty(), "{of:?}");
        for field in of.fields {
            assert!(!field.go_type.ends_with("ResourceList"), "{field:?}");
            let mut ty = &field.ty;
            while let Type::List(inner) | Type::Map(inner) = ty {
                ty = inner;
            }
            if let Type::Struct(inner) = ty {
                next.push(inner.get());
            }
        }
    }
    assert!(met.len() > 2, "{met:?}");
}
