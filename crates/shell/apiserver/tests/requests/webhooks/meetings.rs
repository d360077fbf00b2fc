//! Which requests meet which webhooks.

use super::*;

#[tokio::test]
async fn other_versions_subresources_and_connections_are_met() {
    let backend = Backend::start(|path, request| match path {
        "/v1" => {
            let version = request["object"]["apiVersion"].as_str();
            assert_eq!(version, Some("autoscaling/v1"), "{request}");
            patch(&json!([{"op": "replace", "path": "/spec/maxReplicas", "value": 7}]))
        }
        "/scale" => patch(&json!([{"op": "replace", "path": "/spec/replicas", "value": 5}])),
        "/binding" => deny("stay"),
        "/connect" | "/closed" => deny("closed"),
        _ => allow(),
    })
    .await;
    let server = server(Config::default(), None).await;
    let mut scalers = hook("hpa", backend.at("/v1"), &["horizontalpodautoscalers"]);
    scalers["rules"][0]["apiVersions"] = json!(["v1"]);
    configured(
        &server,
        &backend,
        &[
            (
                "mutating",
                "m",
                vec![scalers, hook("scale", backend.at("/scale"), &["deployments/scale"])],
            ),
            (
                "validating",
                "v",
                vec![
                    hook("binding", backend.at("/binding"), &["pods/binding"]),
                    hook(
                        "connect",
                        backend.at("/connect"),
                        &["pods/attach", "pods/exec", "pods/portforward", "pods/proxy", "services/proxy"],
                    ),
                    hook("scale", backend.at("/seen"), &["deployments/scale"]),
                    hook("review", backend.at("/closed"), &["selfsubjectaccessreviews"]),
                ],
            ),
        ],
    )
    .await;
    let scaler = json!({"metadata": {"name": "h"}, "spec": {"maxReplicas": 3,
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}}});
    let place = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    let scaler = made(&server, "POST", place, scaler).await;
    assert_eq!(
        (&scaler["apiVersion"], &scaler["spec"]["maxReplicas"]),
        (&json!("autoscaling/v2"), &json!(7))
    );
    let request = &backend.asked()[0].1["request"].clone();
    assert_eq!(request["kind"]["version"], "v1");
    assert_eq!(
        (&request["requestKind"]["version"], &request["requestResource"]["version"]),
        (&json!("v2"), &json!("v2"))
    );

    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let deployment = json!({"metadata": {"name": "d"},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": template}});
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    made(&server, "POST", deployments, deployment).await;
    let merge = [("content-type", "application/merge-patch+json")];
    let scaled = send(
        &server,
        "PATCH",
        &format!("{deployments}/d/scale"),
        &merge,
        r#"{"spec":{"replicas":2}}"#.into(),
    )
    .await;
    assert_eq!(
        (scaled.code, &scaled.body["spec"]["replicas"]),
        (200, &json!(5)),
        "{}",
        scaled.text
    );
    let asked = backend.asked();
    let seen: Vec<(&Value, &Value, &Value)> = asked
        .iter()
        .map(|(_, review)| {
            let request = &review["request"];
            (
                &request["kind"]["kind"],
                &request["object"]["spec"]["replicas"],
                &request["oldObject"]["spec"]["replicas"],
            )
        })
        .collect();
    let scale = json!("Scale");
    assert_eq!(seen, [(&scale, &json!(2), &json!(1)), (&scale, &json!(5), &json!(1))]);

    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    made(&server, "POST", PODS, pod).await;
    let review = json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let refused = call(
        &server,
        "POST",
        "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
        review,
    )
    .await;
    assert_eq!(
        message(&refused),
        (400, "admission webhook \"review.example.com\" denied the request: closed")
    );
    backend.asked();
    for (path, options) in [
        (
            "attach?stdin=true&container=c",
            json!({"kind": "PodAttachOptions", "stdin": true, "container": "c"}),
        ),
        (
            "exec?command=a&command=b&stdout=true",
            json!({"kind": "PodExecOptions", "stdout": true, "command": ["a", "b"]}),
        ),
        (
            "portforward?ports=80",
            json!({"kind": "PodPortForwardOptions", "ports": [80]}),
        ),
    ] {
        let refused = call(&server, "POST", &format!("{PODS}/p/{path}"), Value::Null).await;
        assert_eq!(
            message(&refused),
            (400, "admission webhook \"connect.example.com\" denied the request: closed"),
            "{path}"
        );
        let asked = backend.asked();
        let request = &asked[0].1["request"];
        let mut expected = options;
        expected["apiVersion"] = json!("v1");
        assert_eq!(request["object"], expected, "{path}");
        assert_eq!(request["kind"]["kind"], expected["kind"]);
        assert_eq!(
            (&request["operation"], &request["name"], &request["options"]),
            (&json!("CONNECT"), &json!("p"), &Value::Null)
        );
    }
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    let refused = call(&server, "POST", &format!("{PODS}/p/binding"), binding).await;
    assert_eq!(
        message(&refused),
        (400, "admission webhook \"binding.example.com\" denied the request: stay")
    );
    let asked = backend.asked();
    let request = &asked[0].1["request"];
    assert_eq!(
        (&request["object"]["kind"], &request["subResource"], &request["oldObject"]),
        (&json!("Binding"), &json!("binding"), &Value::Null)
    );
}

#[tokio::test]
async fn who_configures_admission_cannot_be_stopped_by_it() {
    let backend = Backend::start(|_, request| match request["resource"]["resource"].as_str() {
        Some("secrets") => allow(), // the marker is one
        _ => deny("all"),
    })
    .await;
    let server = server(Config::default(), None).await;
    let all = || vec![hook("all", backend.at("/all"), &["*/*"])];
    configured(&server, &backend, &[("validating", "all", all())]).await;
    assert_eq!(call(&server, "POST", CONFIGMAPS, config_map("a")).await.code, 400);
    made(
        &server,
        "POST",
        &format!("{REGISTRATION}/mutatingwebhookconfigurations"),
        json!({"metadata": {"name": "other"}, "webhooks": all()}),
    )
    .await;
    let place = format!("{REGISTRATION}/mutatingwebhookconfigurations/other");
    assert_eq!(call(&server, "DELETE", &place, Value::Null).await.code, 200);
    let place = format!("{REGISTRATION}/validatingwebhookconfigurations/all");
    assert_eq!(call(&server, "DELETE", &place, Value::Null).await.code, 200);
    for _ in 0..500 {
        if call(&server, "POST", CONFIGMAPS, config_map("a")).await.code == 201 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("a configuration that is gone is still followed");
}

#[tokio::test]
async fn selectors_and_conditions_keep_webhooks_out() {
    let backend = Backend::start(|path, _| deny(path)).await;
    let server = server(Config::default(), None).await;
    let maps: &[&str] = &["configmaps"];
    let condition = |text: &str| json!([{"name": "c", "expression": text}]);
    let mut named = hook("named", backend.at("/named"), maps);
    named["matchConditions"] = condition("object.metadata.name == 'named' && request.userInfo.username == 'admin'");
    let mut wrong = hook("wrong", backend.at("/wrong"), maps);
    wrong["matchConditions"] = condition("object.metadata.labels.wrong == 'yes'");
    wrong["objectSelector"] = json!({"matchExpressions": [{"key": "case", "operator": "Exists"}]});
    let mut allowed = hook("allowed", backend.at("/allowed"), maps);
    allowed["matchConditions"] = condition("!authorizer.requestResource.check('create').allowed()");
    let selected = with(
        hook("selected", backend.at("/selected"), maps),
        "namespaceSelector",
        json!({"matchLabels": {"watched": "yes"}}),
    );
    let mut spaces = hook("spaces", backend.at("/spaces"), &["namespaces"]);
    spaces["namespaceSelector"] = json!({"matchLabels": {"never": "yes"}});
    let mutating = vec![named, wrong.clone(), selected, spaces];
    configured(
        &server,
        &backend,
        &[("mutating", "m", mutating), ("validating", "v", vec![allowed])],
    )
    .await;

    made(&server, "POST", CONFIGMAPS, config_map("other")).await;
    let refused = call(&server, "POST", CONFIGMAPS, config_map("named")).await;
    assert_eq!(
        message(&refused),
        (400, "admission webhook \"named.example.com\" denied the request: /named")
    );
    let mut labelled = config_map("case");
    labelled["metadata"]["labels"] = json!({"case": "1"});
    let refused = call(&server, "POST", CONFIGMAPS, labelled).await;
    let text = "configmaps \"case\" is forbidden: expression 'object.metadata.labels.wrong == 'yes'' resulted in error: no such key: \
                wrong";
    assert_eq!(message(&refused), (403, text));

    made(
        &server,
        "POST",
        "/api/v1/namespaces",
        json!({"metadata": {"name": "watched", "labels": {"watched": "yes"}}}),
    )
    .await;
    let refused = call(&server, "POST", "/api/v1/namespaces/watched/configmaps", config_map("other")).await;
    assert_eq!(
        message(&refused),
        (
            400,
            "admission webhook \"selected.example.com\" denied the request: /selected"
        )
    );
    let never = json!({"metadata": {"name": "never", "labels": {"never": "yes"}}});
    let refused = call(&server, "POST", "/api/v1/namespaces", never).await;
    assert_eq!(
        message(&refused),
        (400, "admission webhook \"spaces.example.com\" denied the request: /spaces")
    );

    let metrics = call(&server, "GET", "/metrics", Value::Null).await.text;
    for line in [
        "apiserver_admission_webhook_rejection_count{name=\"named.example.com\",type=\"admit\",operation=\"CREATE\",\
         error_type=\"no_error\",rejection_code=\"400\"} 1",
        "apiserver_admission_webhook_request_total{name=\"named.example.com\",type=\"admit\",operation=\"CREATE\",code=\"400\",\
         rejected=\"true\"} 1",
        "apiserver_admission_match_condition_exclusions_total{name=\"allowed.example.com\",kind=\"webhook\",type=\"validating\",\
         operation=\"CREATE\"} 1",
    ] {
        assert!(metrics.lines().any(|own| own == line), "{line}: {metrics}");
    }
}

#[tokio::test]
async fn custom_resources_are_patched_and_pruned_in_each_version() {
    let backend = Backend::start(|path, request| match path {
        "/patch" => {
            assert_eq!(request["object"]["apiVersion"], "example.com/v1", "{request}");
            patch(&json!([
                {"op": "add", "path": "/spec/added", "value": "yes"},
                {"op": "add", "path": "/spec/unknown", "value": "pruned"},
            ]))
        }
        _ => allow(),
    })
    .await;
    let server = server(Config::default(), None).await;
    let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "added": {"type": "string"}, "own": {"type": "string", "default": "filled"}}}}}});
    let version = |name: &str, storage: bool| json!({"name": name, "served": true, "storage": storage, "schema": schema});
    let definition = json!({"metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"},
            "versions": [version("v1", true), version("v1beta1", false)]}});
    made(
        &server,
        "POST",
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
        definition,
    )
    .await;
    let mut hook = hook("cr", backend.at("/patch"), &["widgets"]);
    hook["rules"][0]["apiVersions"] = json!(["v1"]);
    configured(&server, &backend, &[("mutating", "m", vec![hook])]).await;
    for version in ["v1", "v1beta1"] {
        let place = format!("/apis/example.com/{version}/namespaces/default/widgets");
        let widget = json!({"apiVersion": format!("example.com/{version}"), "kind": "Widget", "metadata": {"name": version},
            "spec": {}});
        let mut answer = call(&server, "POST", &place, widget.clone()).await;
        for _ in 0..200 {
            if answer.code != 404 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            answer = call(&server, "POST", &place, widget.clone()).await;
        }
        assert_eq!(answer.code, 201, "{}", answer.text);
        assert_eq!(answer.body["apiVersion"], widget["apiVersion"]);
        assert_eq!(answer.body["spec"], json!({"added": "yes", "own": "filled"}));
    }
}

#[tokio::test]
async fn an_eviction_is_no_deletion_to_them_and_a_dry_run_says_so() {
    let backend = Backend::start(|path, _| if path == "/delete" { deny("stay") } else { allow() }).await;
    let server = server(Config::default(), None).await;
    let mut delete = hook("delete", backend.at("/delete"), &["pods"]);
    delete["rules"][0]["operations"] = json!(["DELETE"]);
    let all = hook("all", backend.at("/all"), &["pods", "pods/eviction"]);
    configured(&server, &backend, &[("validating", "v", vec![delete, all])]).await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    made(
        &server,
        "POST",
        &format!("{PODS}?dryRun=All&fieldValidation=Strict"),
        pod.clone(),
    )
    .await;
    let asked = backend.asked();
    let request = &asked[0].1["request"];
    assert_eq!(request["dryRun"], true);
    assert_eq!(
        request["options"],
        json!({"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1", "dryRun": ["All"], "fieldValidation": "Strict"})
    );
    made(&server, "POST", PODS, pod).await;
    backend.asked();
    let one = format!("{PODS}/p");
    let options = json!({"gracePeriodSeconds": 0, "propagationPolicy": "Background"});
    assert_eq!(call(&server, "DELETE", &one, options).await.code, 400);
    let asked = backend.asked();
    let (_, review) = asked.iter().find(|(path, _)| path.starts_with("/delete")).expect("a review");
    assert_eq!(
        review["request"]["options"],
        json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1", "gracePeriodSeconds": 0,
            "propagationPolicy": "Background"})
    );
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
    made(&server, "POST", &format!("{one}/eviction"), eviction).await;
    let asked = backend.asked();
    let [(_, review)] = asked.as_slice() else {
        panic!("the eviction alone: {asked:?}")
    };
    let request = &review["request"];
    assert_eq!(
        (&request["operation"], &request["subResource"], &request["kind"]),
        (
            &json!("CREATE"),
            &json!("eviction"),
            &json!({"group": "policy", "version": "v1", "kind": "Eviction"})
        )
    );
    assert_eq!(call(&server, "GET", &one, Value::Null).await.code, 404);
}
