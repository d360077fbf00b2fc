//! What single requests are answered and warned of, as a stock server answers them: seen there, kept here.

use std::sync::Arc;

use http::Request;
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};
use trireme_apiserver::{ApiServer, Config};

use crate::common;

struct Answer {
    code: u16,
    body: Value,
    warnings: Vec<String>,
}

impl Answer {
    fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }
}

async fn server(warn_unenforced: bool) -> Arc<ApiServer> {
    let config = Config {
        warn_unenforced,
        ..Config::default()
    };
    common::server(config, None).await
}

async fn call(server: &Arc<ApiServer>, method: &str, path: &str, body: Value) -> Answer {
    let media_type = if method == "PATCH" {
        "application/merge-patch+json"
    } else {
        "application/json"
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("authorization", "Bearer ADMIN")
        .header("content-type", media_type)
        .body(Full::new(bytes::Bytes::from(body.to_string())))
        .unwrap();
    let (parts, body) = server.handle(request).await.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let warnings = parts.headers.get_all("warning").iter().map(|value| {
        let text = value.to_str().unwrap();
        let text = text.strip_prefix("299 - \"").and_then(|text| text.strip_suffix('"')).unwrap();
        text.replace("\\\"", "\"")
    });
    Answer {
        code: parts.status.as_u16(),
        body: serde_json::from_slice(&bytes).unwrap(),
        warnings: warnings.collect(),
    }
}

const SERVICES: &str = "/api/v1/namespaces/default/services";
const PODS: &str = "/api/v1/namespaces/default/pods";
const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/default/events";
const NAME: &str = "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is \
    recommended: [must not contain dots]";

#[tokio::test]
async fn addresses_and_ports_that_are_none_are_told_by_their_field() {
    let server = server(true).await;
    for (spec, code, message) in [
        (
            json!({"clusterIP": "x"}),
            422,
            "spec.clusterIPs[0]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ),
        (
            json!({"clusterIP": "10.43.0.009"}),
            422,
            "spec.clusterIPs[0]: Invalid value: \"10.43.0.009\": must not have leading 0s",
        ),
        (
            json!({"clusterIPs": ["10.43.0.9"]}),
            422,
            "spec.clusterIPs: Invalid value: [\"10.43.0.9\"]: must be empty when `clusterIP` is not specified",
        ),
        (
            json!({"clusterIP": "10.43.0.9", "clusterIPs": ["10.43.0.8"]}),
            422,
            "spec.clusterIPs: Invalid value: [\"10.43.0.8\"]: first value must match `clusterIP`",
        ),
        (
            json!({"clusterIP": "10.97.0.1"}),
            422,
            "failed to allocate IP 10.97.0.1: the provided network does not match the current range",
        ),
        (
            json!({"type": "ExternalName", "externalName": "a.b", "internalTrafficPolicy": "Odd"}),
            422,
            "spec.internalTrafficPolicy: Unsupported value: \"Odd\": supported values: \"Cluster\", \"Local\"",
        ),
        (
            json!({"ipFamilies": ["IPv5"]}),
            422,
            "spec.ipFamilies[0]: Unsupported value: \"IPv5\": supported values: \"IPv4\", \"IPv6\"",
        ),
        (
            json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 99999}]}),
            422,
            "spec.ports[0].nodePort: Invalid value: 99999: provided port is not in the valid range. The range of valid ports is \
             30000-32767",
        ),
        (
            json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": -3}]}),
            422,
            "spec.ports[0].nodePort: Invalid value: -3: provided port is not in the valid range. The range of valid ports is \
             30000-32767",
        ),
        (
            json!({"type": "NodePort", "ports": [{"name": "a", "port": 80, "nodePort": 30009},
                {"name": "b", "port": 81, "nodePort": 30009}]}),
            422,
            "spec.ports[1].nodePort: Invalid value: 30009: provided port is already allocated",
        ),
        (
            json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 99999}),
            500,
            "failed to allocate requested HealthCheck NodePort 99999: provided port is not in the valid range. The range of \
             valid ports is 30000-32767",
        ),
    ] {
        let mut service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
        for (name, value) in spec.as_object().unwrap() {
            service["spec"][name] = value.clone();
        }
        let answer = call(&server, "POST", SERVICES, service).await;
        assert_eq!(answer.code, code, "{spec}: {}", answer.body);
        assert!(answer.message().ends_with(message), "{spec}: {}", answer.message());
    }
    // Nothing was taken by what was refused.
    let port = json!({"metadata": {"name": "s"}, "spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": 30009}]}});
    assert_eq!(call(&server, "POST", SERVICES, port).await.code, 201);
}

#[tokio::test]
async fn a_changed_service_gives_up_what_upstream_drops() {
    let server = server(true).await;
    let spec = |answer: &Answer, name: &str| answer.body["spec"][name].clone();
    let balanced = json!({"metadata": {"name": "lb"}, "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}});
    let made = call(&server, "POST", SERVICES, balanced.clone()).await;
    let node_port = made.body["spec"]["ports"][0]["nodePort"].clone();
    assert!(node_port.is_number(), "{}", made.body);
    let one = format!("{SERVICES}/lb");
    let same = call(&server, "PUT", &one, balanced.clone()).await;
    assert_eq!(
        same.body["spec"]["ports"][0]["nodePort"], node_port,
        "a replaced one keeps them"
    );
    assert_eq!(spec(&same, "clusterIP"), spec(&made, "clusterIP"));
    let mut off = balanced;
    off["spec"]["allocateLoadBalancerNodePorts"] = json!(false);
    let off = call(&server, "PUT", &one, off).await;
    assert_eq!(
        (off.code, off.body["spec"]["ports"][0].get("nodePort")),
        (200, None),
        "{}",
        off.body
    );
    let again = json!({"metadata": {"name": "np"}, "spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": node_port}]}});
    assert_eq!(
        call(&server, "POST", SERVICES, again).await.code,
        201,
        "the port was given back"
    );

    let outside = json!({"metadata": {"name": "x"}, "spec": {"externalIPs": ["192.0.2.1"], "ports": [{"port": 80}]}});
    let made = call(&server, "POST", SERVICES, outside).await;
    assert_eq!(spec(&made, "externalTrafficPolicy"), "Cluster");
    let one = format!("{SERVICES}/x");
    let inside = call(&server, "PATCH", &one, json!({"spec": {"externalIPs": null}})).await;
    assert_eq!(
        (inside.code, spec(&inside, "externalTrafficPolicy")),
        (200, Value::Null),
        "{}",
        inside.body
    );
    let address = format!(
        "/apis/networking.k8s.io/v1/ipaddresses/{}",
        spec(&inside, "clusterIP").as_str().unwrap()
    );
    assert_eq!(call(&server, "GET", &address, Value::Null).await.code, 200);
    let name = json!({"spec": {"type": "ExternalName", "externalName": "a.b"}});
    let name = call(&server, "PATCH", &one, name).await;
    let left = json!({"ports": [{"protocol": "TCP", "port": 80, "targetPort": 80}], "type": "ExternalName", "sessionAffinity": "None",
        "externalName": "a.b"});
    assert_eq!((name.code, &name.body["spec"]), (200, &left), "{}", name.body);
    assert_eq!(
        call(&server, "GET", &address, Value::Null).await.code,
        404,
        "the address was given back"
    );
}

#[tokio::test]
async fn a_jobs_labels_are_its_templates() {
    let server = server(true).await;
    let jobs = "/apis/batch/v1/namespaces/default/jobs";
    let job = |name: &str, labels: Value| {
        json!({"metadata": {"name": name, "labels": labels}, "spec": {"template": {"metadata": {"labels": {"app": "x"}},
            "spec": {"restartPolicy": "Never", "containers": [{"name": "a", "image": "i"}]}}}})
    };
    let keys = |answer: &Answer| -> Vec<String> {
        let labels = answer.body["metadata"]["labels"].as_object();
        labels.map(|labels| labels.keys().cloned().collect()).unwrap_or_default()
    };
    let generated = [
        "batch.kubernetes.io/controller-uid",
        "batch.kubernetes.io/job-name",
        "controller-uid",
        "job-name",
    ];
    let made = call(&server, "POST", jobs, job("bare", Value::Null)).await;
    assert_eq!(keys(&made), [&["app"], &generated[..]].concat(), "{}", made.body);
    assert_eq!(
        made.body["metadata"]["labels"],
        made.body["spec"]["template"]["metadata"]["labels"]
    );
    let owned = &made.body["metadata"]["managedFields"][0]["fieldsV1"]["f:metadata"]["f:labels"];
    assert_eq!(owned, &json!({".": {}, "f:app": {}}));
    let without = json!({"metadata": {"labels": {"app": null}}});
    let changed = call(&server, "PATCH", &format!("{jobs}/bare"), without).await;
    assert_eq!(keys(&changed), generated, "a removed label stays away");
    let own = call(&server, "POST", jobs, job("own", json!({"app": "x"}))).await;
    assert_eq!(keys(&own), ["app"], "labels that a client sets stay its own");
}

#[tokio::test]
async fn events_in_their_new_form_are_strict() {
    let server = server(true).await;
    let event = |name: &str, fields: Value| {
        let mut event = json!({"metadata": {"name": name}, "eventTime": "2026-01-01T00:00:00.000000Z", "type": "Normal",
            "reason": "r", "action": "a", "reportingController": "c", "reportingInstance": "i", "note": "n",
            "regarding": {"namespace": "default"}});
        for (name, value) in fields.as_object().unwrap() {
            event[name] = value.clone();
        }
        event
    };
    let wrong = json!({"type": "Odd", "series": {"count": 1, "lastObservedTime": "2026-01-01T00:00:00.000000Z"},
        "deprecatedCount": 3, "deprecatedSource": {"component": "x"}, "deprecatedFirstTimestamp": "2026-01-01T00:00:00Z"});
    let answer = call(&server, "POST", EVENTS, event("e", wrong)).await;
    assert_eq!(
        (answer.code, answer.message()),
        (
            422,
            "Event \"e\" is invalid: [series.count: Invalid value: \"\": should be at least 2, type: Invalid value: \"\": has \
             invalid value: Odd, firstTimestamp: Invalid value: \"\": needs to be unset, count: Invalid value: \"\": needs to be \
             unset, source: Invalid value: \"\": needs to be unset]"
        )
    );
    assert_eq!(call(&server, "POST", EVENTS, event("e", json!({}))).await.code, 201);
    let one = format!("{EVENTS}/e");
    let answer = call(&server, "PATCH", &one, json!({"note": "other"})).await;
    assert_eq!(
        (answer.code, answer.message()),
        (
            422,
            "Event \"e\" is invalid: message: Invalid value: \"other\": field is immutable"
        )
    );
    let series = json!({"series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:00.000000Z"}});
    assert_eq!(call(&server, "PATCH", &one, series).await.code, 200);
    let core = "/api/v1/namespaces/default/events/e";
    assert_eq!(
        call(&server, "PATCH", core, json!({"message": "other"})).await.code,
        200,
        "the old form is not"
    );
}

#[tokio::test]
async fn amounts_are_rounded_up_to_thousandths() {
    let server = server(true).await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "image": "i",
        "resources": {"limits": {"cpu": "0.0001", "memory": "1Gi"}, "requests": {"cpu": "1u"}}}]}});
    let pod = call(&server, "POST", PODS, pod).await;
    assert_eq!(
        pod.body["spec"]["containers"][0]["resources"],
        json!({"limits": {"cpu": "1m", "memory": "1Gi"}, "requests": {"cpu": "1m", "memory": "1Gi"}})
    );
    for (path, body, at) in [
        (
            "/api/v1/namespaces/default/resourcequotas",
            json!({"spec": {"hard": {"cpu": "1u"}}}),
            "/spec/hard/cpu",
        ),
        (
            "/api/v1/namespaces/default/limitranges",
            json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": 0.0001}}]}}),
            "/spec/limits/0/default/cpu",
        ),
        (
            "/api/v1/namespaces/default/persistentvolumeclaims",
            json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1.0001"}}}}),
            "/spec/resources/requests/storage",
        ),
    ] {
        let mut body = body;
        body["metadata"] = json!({"name": "x"});
        let answer = call(&server, "POST", path, body).await;
        let wanted = if at.ends_with("storage") { "1001m" } else { "1m" };
        assert_eq!(
            (answer.code, answer.body.pointer(at)),
            (201, Some(&json!(wanted))),
            "{}",
            answer.body
        );
    }
}

#[tokio::test]
async fn what_defaulting_fills_in_outside_the_core() {
    let server = server(true).await;
    let service = json!({"metadata": {"name": "v1.x.io"}, "spec": {"group": "x.io", "version": "v1", "groupPriorityMinimum": 100,
        "versionPriority": 1, "insecureSkipTLSVerify": true, "service": {"name": "a", "namespace": "b"}}});
    let made = call(&server, "POST", "/apis/apiregistration.k8s.io/v1/apiservices", service).await;
    assert_eq!(made.body["spec"]["service"]["port"], 443, "{}", made.body);
    let definition = json!({"metadata": {"name": "as.x.io"}, "spec": {"group": "x.io", "scope": "Namespaced",
        "names": {"plural": "as", "kind": "A"}, "versions": [{"name": "v1", "served": true, "storage": true,
        "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let made = call(&server, "POST", path, definition).await;
    assert_eq!(made.body["spec"]["conversion"], json!({"strategy": "None"}), "{}", made.body);
    let names = json!({"plural": "as", "singular": "a", "kind": "A", "listKind": "AList"});
    assert_eq!(made.body["spec"]["names"], names);
    let scaler = json!({"metadata": {"name": "h"}, "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "x", "apiVersion": "apps/v1"}, "maxReplicas": 3,
        "behavior": {"scaleDown": {"policies": []}}}});
    let path = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    let refused = call(&server, "POST", path, scaler).await;
    assert_eq!(
        refused.message(),
        "HorizontalPodAutoscaler.autoscaling \"h\" is invalid: spec.behavior.scaleDown.policies: Required value: must specify at \
         least one Policy"
    );
}

#[tokio::test]
async fn warnings_come_with_answers_that_fail_too() {
    let server = server(true).await;
    let pod = json!({"metadata": {"name": "a.c"}, "spec": {"containers": [{"name": "a", "image": "i"}]}});
    let made = call(&server, "POST", PODS, pod.clone()).await;
    assert_eq!((made.code, made.warnings), (201, vec![NAME.to_owned()]));
    let again = call(&server, "POST", PODS, pod.clone()).await;
    assert_eq!((again.code, again.warnings), (409, vec![NAME.to_owned()]));
    let quiet = call(
        &server,
        "PATCH",
        &format!("{PODS}/a.c"),
        json!({"metadata": {"labels": {"a": "b"}}}),
    )
    .await;
    assert_eq!((quiet.code, quiet.warnings.len()), (200, 0), "a changed pod is not told of");
    let mut unknown = pod;
    unknown["spec"]["odd"] = json!(1);
    unknown["spec"]["restartPolicy"] = json!("Odd");
    let refused = call(&server, "POST", PODS, unknown).await;
    assert_eq!(
        (refused.code, refused.warnings),
        (422, vec!["unknown field \"spec.odd\"".to_owned()]),
        "what is invalid is not warned of"
    );
}

#[tokio::test]
async fn what_upstream_warns_of() {
    let server = server(false).await;
    let pod = json!({"metadata": {"name": "a.b"}, "spec": {
        "containers": [{"name": "a", "image": "i", "ports": [{"containerPort": 80, "hostIP": "10.0.0.1"}],
            "resources": {"limits": {"memory": "1500m"}}, "lifecycle": {"stopSignal": "SIGHUP"}}],
        "schedulingGroup": {"podGroupName": "x"},
        "volumes": [{"name": "v", "projected": {"sources": [{"clusterTrustBundle": {"name": "x", "path": "p"}},
            {"secret": {"name": "s", "items": [{"key": "k", "path": "a/b"}]}},
            {"configMap": {"name": "c", "items": [{"key": "k", "path": "a"}]}}]}}]}});
    let made = call(&server, "POST", PODS, pod).await;
    let fraction = |list: &str| {
        format!("spec.containers[0].resources.{list}[memory]: fractional byte value \"1500m\" is invalid, must be an integer")
    };
    assert_eq!(
        made.warnings,
        [
            NAME.to_owned(),
            "volume \"v\" (Projected) has no sources provided".to_owned(),
            "volume \"v\" (Projected): overlapping paths: \"a\" (ConfigMap \"c\") with \"a/b\" (Secret \"s\")".to_owned(),
            fraction("limits"),
            fraction("requests"),
            "spec.containers[0].ports[0]: hostIP set without hostPort: {Name: HostPort:0 ContainerPort:80 Protocol:TCP \
             HostIP:10.0.0.1}"
                .to_owned(),
        ],
        "{}",
        made.body
    );
    assert_eq!(
        made.body["spec"]["volumes"][0]["projected"]["sources"][0],
        json!({}),
        "fields of gates that are off go"
    );
    assert_eq!(made.body["spec"]["containers"][0].get("lifecycle"), None);
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "i"}]}});
    for (path, body, warning) in [
        (
            "/api/v1/nodes",
            json!({"spec": {"externalID": "x", "configSource": {"configMap": {"name": "n"}}}}),
            "spec.externalID: this field is deprecated, and is unused by Kubernetes",
        ),
        (
            "/apis/apps/v1/namespaces/default/statefulsets",
            json!({"spec": {"revisionHistoryLimit": -1, "serviceName": "x", "selector": {"matchLabels": {"a": "b"}},
                "template": template}}),
            "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended",
        ),
        (
            "/api/v1/namespaces/default/resourcequotas",
            json!({"spec": {"hard": {"cpu": "2", "limits.cpu": "1"}}}),
            "ResourceQuota cpu (2) should be less than limits.cpu (1)",
        ),
        (
            "/apis/networking.k8s.io/v1/namespaces/default/ingresses",
            json!({"metadata": {"annotations": {"kubernetes.io/ingress.class": "x"}},
                "spec": {"defaultBackend": {"service": {"name": "a", "port": {"number": 80}}}}}),
            "annotation \"kubernetes.io/ingress.class\" is deprecated, please use 'spec.ingressClassName' instead",
        ),
        (
            SERVICES,
            json!({"spec": {"type": "LoadBalancer", "ports": [{"port": 80}], "loadBalancerSourceRanges": ["2001:DB8::/64"]}}),
            "spec.loadBalancerSourceRanges[0]: IPv6 CIDR value \"2001:DB8::/64\" should be in RFC 5952 canonical format \
             (\"2001:db8::/64\")",
        ),
    ] {
        let mut body = body;
        body["metadata"]["name"] = json!("x");
        let answer = call(&server, "POST", path, body).await;
        assert_eq!(
            (answer.code, answer.warnings.as_slice()),
            (201, &[warning.to_owned()][..]),
            "{}",
            answer.body
        );
    }
}

#[tokio::test]
async fn scales_and_endpoints_warn_in_upstreams_order() {
    let server = server(false).await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "i"}],
        "nodeSelector": {"beta.kubernetes.io/arch": "x"}}});
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}});
    let told =
        ["spec.template.spec.nodeSelector[beta.kubernetes.io/arch]: deprecated since v1.14; use \"kubernetes.io/arch\" instead"];
    assert_eq!(call(&server, "POST", deployments, deployment).await.warnings, told);
    let one = format!("{deployments}/d");
    let label = call(&server, "PATCH", &one, json!({"metadata": {"labels": {"x": "y"}}})).await;
    assert_eq!((label.code, label.warnings.len()), (200, 0), "its generation is the same");
    let scaled = call(&server, "PATCH", &format!("{one}/scale"), json!({"spec": {"replicas": 3}})).await;
    assert_eq!(
        (scaled.code, scaled.body["kind"].as_str(), scaled.warnings),
        (200, Some("Scale"), told.map(str::to_owned).to_vec())
    );
    let endpoints =
        json!({"metadata": {"name": "e"}, "subsets": [{"addresses": [{"ip": "2001:DB8::1"}], "ports": [{"port": 1}]}]});
    let made = call(&server, "POST", "/api/v1/namespaces/default/endpoints", endpoints).await;
    assert_eq!(
        made.warnings,
        [
            "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
            "subsets[0].addresses[0].ip: IPv6 address \"2001:DB8::1\" should be in RFC 5952 canonical format (\"2001:db8::1\")",
        ]
    );
}

#[tokio::test]
async fn what_does_nothing_yet_says_so_unless_told_not_to() {
    let path = "/apis/networking.k8s.io/v1/ingressclasses";
    let class = json!({"metadata": {"name": "x"}, "spec": {"controller": "example.com/c"}});
    let told = "IngressClass is stored but not acted on yet: no controller serves it";
    for (warn, wanted) in [(true, vec![told.to_owned()]), (false, Vec::new())] {
        let server = server(warn).await;
        let made = call(&server, "POST", path, class.clone()).await;
        assert_eq!((made.code, &made.warnings), (201, &wanted));
        let change = json!({"metadata": {"labels": {"a": "b"}}});
        let changed = call(&server, "PATCH", &format!("{path}/x"), change).await;
        assert_eq!((changed.code, &changed.warnings), (200, &wanted));
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "image": "i"}],
            "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}]}});
        let pod = call(&server, "POST", PODS, pod).await;
        let limit = "spec.volumes[0].emptyDir.sizeLimit: accepted but not enforced yet: a volume on disk may grow beyond it";
        assert_eq!(pod.warnings, wanted.iter().map(|_| limit.to_owned()).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn what_was_sent_to_a_subresource_is_warned_of_also_where_it_is_refused() {
    let server = server(false).await;
    let warning = ["unknown field \"odd\"".to_owned()];
    for (door, body) in [
        (
            "binding",
            json!({"metadata": {"name": "gone"}, "target": {"kind": "Node", "name": "n"}, "odd": 1}),
        ),
        ("eviction", json!({"metadata": {"name": "gone"}, "odd": 1})),
    ] {
        let refused = call(&server, "POST", &format!("{PODS}/gone/{door}"), body).await;
        assert_eq!((refused.code, refused.warnings.as_slice()), (404, &warning[..]), "{door}");
    }
    let claims = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {
        "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    assert_eq!(call(&server, "POST", deployments, claims).await.code, 201);
    let patch = json!({"odd": 1, "metadata": {"finalizers": ["-"]}});
    let refused = call(&server, "PATCH", &format!("{deployments}/d/scale"), patch).await;
    assert_eq!(
        (refused.code, refused.warnings.as_slice()),
        (422, &warning[..]),
        "{}",
        refused.body
    );
}

#[tokio::test]
async fn a_policy_counts_what_is_empty_and_other_kinds_do_not() {
    let server = server(false).await;
    let policies = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies";
    let made = call(
        &server,
        "POST",
        policies,
        json!({"metadata": {"name": "p"}, "spec": {"podSelector": {}}}),
    )
    .await;
    assert_eq!((made.code, &made.body["metadata"]["generation"]), (201, &json!(1)));
    for want in [2, 3] {
        let sent = json!({"spec": {"podSelector": {"matchLabels": {}}}});
        let changed = call(&server, "PATCH", &format!("{policies}/p"), sent).await;
        assert_eq!(changed.body["metadata"]["generation"], want, "{}", changed.body);
    }
    let same = call(
        &server,
        "PATCH",
        &format!("{policies}/p"),
        json!({"spec": {"podSelector": {}}}),
    )
    .await;
    assert_eq!(same.body["metadata"]["generation"], 3);
    let ingress =
        json!({"metadata": {"name": "i"}, "spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}});
    let ingresses = "/apis/networking.k8s.io/v1/namespaces/default/ingresses";
    assert_eq!(call(&server, "POST", ingresses, ingress).await.code, 201);
    let same = call(&server, "PATCH", &format!("{ingresses}/i"), json!({"spec": {"tls": []}})).await;
    assert_eq!(
        (same.code, &same.body["metadata"]["generation"]),
        (200, &json!(1)),
        "{}",
        same.body
    );
}
