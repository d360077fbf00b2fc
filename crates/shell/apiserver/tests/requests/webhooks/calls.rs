//! In which order webhooks are asked, what they are sent, and what their answers and failures do.

use super::*;

#[tokio::test]
async fn a_webhook_refuses_each_kind_of_write_and_sees_it_as_upstreams_do() {
    let backend = Backend::start(|_, request| {
        if request["name"] == "never" || request["oldObject"]["data"]["keep"] == "yes" {
            return deny("no way");
        }
        allow()
    })
    .await;
    let server = server(Config::default(), None).await;
    let hooks = vec![hook("v", backend.at("/v/"), &["configmaps"])];
    configured(&server, &backend, &[("validating", "v", hooks)]).await;

    let refused = call(&server, "POST", CONFIGMAPS, config_map("never")).await;
    let text = "admission webhook \"v.example.com\" denied the request: no way";
    assert_eq!(message(&refused), (400, text), "{}", refused.text);
    assert_eq!(refused.body.get("reason"), None);
    backend.asked();

    let created = made(&server, "POST", &format!("{CONFIGMAPS}?fieldManager=me"), config_map("a")).await;
    let asked = backend.asked();
    let [(path, review)] = asked.as_slice() else {
        panic!("one review: {asked:?}")
    };
    assert_eq!(path, "/v?timeout=10s");
    let request = &review["request"];
    assert_eq!(request["object"]["metadata"]["uid"], created["metadata"]["uid"]);
    assert_eq!((&request["oldObject"], &request["dryRun"]), (&Value::Null, &json!(false)));
    assert_eq!(
        request["options"],
        json!({"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1", "fieldManager": "me"})
    );
    assert_eq!(request["userInfo"]["username"], "admin");
    assert_eq!(request["kind"], json!({"group": "", "version": "v1", "kind": "ConfigMap"}));
    assert_eq!(
        (&request["name"], &request["namespace"], &request["operation"]),
        (&json!("a"), &json!("default"), &json!("CREATE"))
    );

    let one = format!("{CONFIGMAPS}/a");
    let keep = json!({"data": {"keep": "yes"}});
    let merge = [("content-type", "application/merge-patch+json")];
    let patched = send(&server, "PATCH", &one, &merge, keep.to_string().into()).await;
    assert_eq!(patched.code, 200, "{}", patched.text);
    let asked = backend.asked();
    let request = &asked[0].1["request"];
    assert_eq!(
        (&request["operation"], &request["options"]["kind"]),
        (&json!("UPDATE"), &json!("UpdateOptions"))
    );
    assert_eq!(request["oldObject"]["data"], json!({"a": "b"}));
    assert_eq!(request["object"]["data"], json!({"a": "b", "keep": "yes"}));

    for (method, path) in [("PUT", one.as_str()), ("DELETE", one.as_str()), ("DELETE", CONFIGMAPS)] {
        let body = if method == "PUT" { config_map("a") } else { Value::Null };
        let refused = call(&server, method, path, body).await;
        assert_eq!(message(&refused), (400, text), "{method} {path}");
    }
    let asked = backend.asked();
    let names: Vec<(&Value, &Value, &Value)> = asked
        .iter()
        .map(|(_, review)| {
            let request = &review["request"];
            (&request["operation"], &request["name"], &request["object"])
        })
        .collect();
    assert_eq!(names[1], (&json!("DELETE"), &json!("a"), &Value::Null));
    assert_eq!(
        names[2],
        (&json!("DELETE"), &Value::Null, &Value::Null),
        "a collection has no name"
    );
    assert_eq!(
        *backend.connections.lock().unwrap(),
        2,
        "connections are kept: one for each place"
    );
}

#[tokio::test]
async fn mutating_webhooks_work_in_order_and_again_where_they_want_it() {
    let backend = Backend::start(|path, request| {
        let data = &request["object"]["data"];
        let add = |name: &str, value: &str| patch(&json!([{"op": "add", "path": format!("/data/{name}"), "value": value}]));
        match path {
            // Says how often it was asked, so it always changes the object.
            "/count" => add("count", &format!("{}+", data["count"].as_str().unwrap_or_default())),
            "/after" if data["count"].is_string() => add("after", data["count"].as_str().unwrap_or_default()),
            "/uid" => {
                assert_eq!(request["object"]["metadata"].get("uid"), None);
                patch(&json!([{"op": "add", "path": "/metadata/uid", "value": "mine"}, {"op": "add", "path": "/unknown", "value": 1}]))
            }
            "/warn" => Reply::Response(json!({"allowed": true, "warnings": ["beware", "beware", "of \"this\""]})),
            "/see" if data["after"] == "+" && data["count"] == "++" => deny("seen"),
            _ => allow(),
        }
    })
    .await;
    let server = server(Config::default(), None).await;
    let maps: &[&str] = &["configmaps"];
    let again = |hook| with(hook, "reinvocationPolicy", json!("IfNeeded"));
    let see = with(
        hook("see", backend.at("/see"), maps),
        "objectSelector",
        json!({"matchLabels": {"see": "yes"}}),
    );
    configured(
        &server,
        &backend,
        &[
            ("mutating", "b", vec![hook("after", backend.at("/after"), maps)]),
            (
                "mutating",
                "a",
                vec![
                    again(hook("count", backend.at("/count"), maps)),
                    hook("uid", backend.at("/uid"), maps),
                ],
            ),
            ("validating", "v", vec![hook("warn", backend.at("/warn"), maps), see]),
        ],
    )
    .await;
    let answer = call(&server, "POST", CONFIGMAPS, config_map("a")).await;
    assert_eq!(answer.code, 201, "{}", answer.text);
    assert_eq!(answer.body["data"], json!({"a": "b", "count": "++", "after": "+"}));
    assert_ne!(answer.body["metadata"]["uid"], "mine");
    let warnings: Vec<&str> = answer
        .headers
        .get_all("warning")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    assert_eq!(warnings, ["299 - \"beware\"", "299 - \"of \\\"this\\\"\""]);
    let order: Vec<String> = backend
        .asked()
        .into_iter()
        .map(|(path, _)| path.replace("?timeout=10s", ""))
        .collect();
    assert_eq!(order, ["/count", "/uid", "/after", "/count", "/warn"]);

    let mut other = config_map("b");
    other["metadata"]["labels"] = json!({"see": "yes"});
    let refused = call(&server, "POST", CONFIGMAPS, other).await;
    let warned = refused.headers.get("warning").is_some();
    assert_eq!((message(&refused).0, warned), (400, true), "{}", refused.text);
}

#[tokio::test]
async fn failures_are_told_in_upstreams_words_or_ignored() {
    let backend = Backend::start(|path, _| match path {
        "/hang" => Reply::Hang,
        "/gone" => Reply::Gone,
        "/moved" => Reply::Moved,
        "/busy" => Reply::Raw(500, "too bad"),
        "/nonsense" => Reply::Raw(200, "nonsense"),
        "/empty" => Reply::Raw(200, ""),
        "/unfit" => patch(&json!([{"op": "remove", "path": "/data/none"}])),
        "/broken" => patch(&json!({"op": "add"})),
        "/mistyped" => patch(&json!([{"op": "add", "path": "/data/number", "value": 1}])),
        _ => allow(),
    })
    .await;
    let server = server(Config::default(), None).await;
    let named = |name: &str, path: &str| {
        let mut client = backend.at(path);
        match name {
            "refused" => client["url"] = json!("https://127.0.0.1:1/allow"),
            "unknown" => client["caBundle"] = Value::Null,
            "named" => client["url"] = json!(format!("https://localhost:{}/allow", backend.address.port())),
            "service" => client = json!({"service": {"namespace": "default", "name": "none", "path": "/a"}}),
            _ => {}
        }
        client
    };
    let cases = [
        ("hang", "Post \"https://ADDRESS/hang?timeout=1s\": context deadline exceeded"),
        ("gone", "Post \"https://ADDRESS/gone?timeout=1s\": EOF"),
        (
            "moved",
            "the server responded with the status code 307 but did not return more information",
        ),
        (
            "busy",
            "an error on the server (\"too bad\") has prevented the request from succeeding",
        ),
        (
            "nonsense",
            "couldn't get version/kind; json parse error: invalid character 'o' in literal null (expecting 'u')",
        ),
        (
            "empty",
            "0-length response with status code: 200 and content type: text/plain",
        ),
        (
            "refused",
            "Post \"https://127.0.0.1:1/allow?timeout=1s\": dial tcp 127.0.0.1:1: connect: connection refused",
        ),
        (
            "unknown",
            "Post \"https://ADDRESS/unknown?timeout=1s\": tls: failed to verify certificate: x509: certificate signed by unknown \
             authority",
        ),
        (
            "named",
            "Post \"https://localhost:PORT/allow?timeout=1s\": tls: failed to verify certificate: x509: certificate is valid for \
             hooks.default.svc, not localhost",
        ),
        (
            "service",
            "Post \"https://none.default.svc:443/a?timeout=1s\": service \"none\" not found",
        ),
    ];
    let selected = |hook: Value, label: &str| {
        let hook = with(hook, "objectSelector", json!({"matchLabels": {"case": label}}));
        with(hook, "timeoutSeconds", json!(1))
    };
    let mut hooks = Vec::new();
    for (name, _) in &cases {
        let own = hook(name, named(name, &format!("/{name}")), &["configmaps"]);
        hooks.push(selected(own.clone(), name));
        let ignored = with(own, "name", json!(format!("{name}-ignored.example.com")));
        let ignored = selected(ignored, &format!("{name}-ignored"));
        hooks.push(with(ignored, "failurePolicy", json!("Ignore")));
    }
    for name in ["unfit", "broken", "mistyped"] {
        hooks.push(selected(hook(name, named(name, &format!("/{name}")), &["configmaps"]), name));
    }
    let mut validating = hooks.clone();
    validating.truncate(2 * cases.len());
    let validating = validating.into_iter().map(|mut hook| {
        let label = hook["objectSelector"]["matchLabels"]["case"].as_str().unwrap().to_owned();
        hook["objectSelector"]["matchLabels"]["case"] = json!(format!("v-{label}"));
        hook
    });
    configured(
        &server,
        &backend,
        &[("mutating", "m", hooks), ("validating", "v", validating.collect())],
    )
    .await;
    let labelled = |label: &str| {
        let mut map = config_map(label);
        map["metadata"]["labels"] = json!({"case": label});
        map
    };
    let (address, port) = (backend.address.to_string(), backend.address.port().to_string());
    for (name, why) in &cases {
        for label in [(*name).to_owned(), format!("v-{name}")] {
            let refused = call(&server, "POST", CONFIGMAPS, labelled(&label)).await;
            let why = why.replace("ADDRESS", &address).replace("PORT", &port);
            let text =
                format!("Internal error occurred: failed calling webhook \"{name}.example.com\": failed to call webhook: {why}");
            assert_eq!(message(&refused), (500, text.as_str()), "{label}");
            assert_eq!(refused.body["reason"], "InternalError");
            let ignored = call(&server, "POST", CONFIGMAPS, labelled(&format!("{label}-ignored"))).await;
            assert_eq!(ignored.code, 201, "{label}: {}", ignored.text);
        }
    }
    for (name, text) in [
        (
            "unfit",
            "Internal error occurred: error in remove for path: '/data/none': Unable to remove nonexistent key: none: missing value",
        ),
        (
            "mistyped",
            "Internal error occurred: json: cannot unmarshal number into Go struct field ConfigMap.data of type string",
        ),
    ] {
        let refused = call(&server, "POST", CONFIGMAPS, labelled(name)).await;
        assert_eq!(message(&refused), (500, text));
    }
    let broken = call(&server, "POST", CONFIGMAPS, labelled("broken")).await;
    assert!(
        message(&broken).1.starts_with(
            "Internal error occurred: failed calling webhook \"broken.example.com\": received undecodable patch in webhook response: "
        ),
        "{}",
        broken.text
    );
}

/// Leads every address of the pod network to one backend.
struct Network(SocketAddr);

#[async_trait]
impl NodeDialer for Network {
    async fn connect(&self, _: &NodeEndpoint) -> std::io::Result<Box<dyn NodeStream>> {
        Err(std::io::ErrorKind::ConnectionRefused.into())
    }

    async fn connect_address(&self, address: SocketAddr) -> std::io::Result<Box<dyn NodeStream>> {
        assert_eq!(address, "10.42.0.9:8443".parse().unwrap());
        Ok(Box::new(tokio::net::TcpStream::connect(self.0).await?))
    }
}

#[tokio::test]
async fn a_service_is_reached_at_its_ready_endpoints() {
    let backend = Backend::start(|_, _| deny("reached")).await;
    let server = server(Config::default(), Some(Arc::new(Network(backend.address)))).await;
    let service = json!({"metadata": {"name": "hooks"}, "spec": {"ports": [{"name": "web", "port": 9443, "targetPort": 8443}]}});
    made(&server, "POST", "/api/v1/namespaces/default/services", service).await;
    let client = |port: u16| {
        json!({"service": {"namespace": "default", "name": "hooks", "port": port, "path": "/x"},
            "caBundle": STANDARD.encode(&backend.ca)})
    };
    let maps: &[&str] = &["configmaps"];
    let selected = |hook, label: &str| with(hook, "objectSelector", json!({"matchLabels": {"case": label}}));
    let hooks = vec![
        selected(hook("good", client(9443), maps), "good"),
        selected(hook("port", client(1), maps), "port"),
    ];
    configured(&server, &backend, &[("validating", "v", hooks)]).await;
    let labelled = |label: &str| {
        let mut map = config_map("a");
        map["metadata"]["labels"] = json!({"case": label});
        map
    };
    let failed = |name: &str, port: u16, why: &str| {
        format!(
            "Internal error occurred: failed calling webhook \"{name}.example.com\": failed to call webhook: Post \
             \"https://hooks.default.svc:{port}/x?timeout=10s\": {why}"
        )
    };
    let refused = call(&server, "POST", CONFIGMAPS, labelled("good")).await;
    let text = failed("good", 9443, "no endpoints available for service \"hooks\"");
    assert_eq!(message(&refused), (500, text.as_str()));
    let slice = json!({
        "metadata": {"name": "hooks-1", "labels": {"kubernetes.io/service-name": "hooks"}}, "addressType": "IPv4",
        "ports": [{"name": "web", "port": 8443}],
        "endpoints": [{"addresses": ["10.42.0.8"], "conditions": {"ready": false}}, {"addresses": ["10.42.0.9"]}],
    });
    made(
        &server,
        "POST",
        "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
        slice,
    )
    .await;
    let refused = call(&server, "POST", CONFIGMAPS, labelled("good")).await;
    let text = "admission webhook \"good.example.com\" denied the request: reached";
    assert_eq!(message(&refused), (400, text), "{}", refused.text);
    let refused = call(&server, "POST", CONFIGMAPS, labelled("port")).await;
    let text = failed("port", 1, "no service port 1 found for service \"hooks\"");
    assert_eq!(message(&refused), (500, text.as_str()));
}
