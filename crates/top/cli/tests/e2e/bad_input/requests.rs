//! Requests that the API server refuses.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::api::Api;
use crate::cluster::{Cluster, Namespace, contains};

/// Gives kubectl a manifest, which must be refused; what it said.
fn refused(space: &Namespace<'_>, arguments: &[&str], manifest: &str) -> Result<String> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), manifest)?;
    let path = file.path().to_string_lossy();
    space.refused(&[arguments, &["-f", &*path]].concat())
}

/// The answer to one request: status code, headers' warning, body.
struct Answer {
    code: StatusCode,
    warning: String,
    body: Value,
}

fn ask(api: &Api, method: &Method, path: &str, kind: &str, body: Vec<u8>) -> Result<Answer> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let answer = api
            .admin
            .request(method.clone(), api.url(path))
            .header("content-type", kind)
            .body(body)
            .send()
            .await?;
        let warning = answer
            .headers()
            .get("warning")
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned();
        let code = answer.status();
        let text = answer.text().await?;
        let body = serde_json::from_str(&text).with_context(|| format!("{code} without JSON: {text}"))?;
        Ok(Answer { code, warning, body })
    })
}

/// That an answer is a Status of upstream's form.
fn is_status(answer: &Answer, code: u16, reason: &str, message: &str) -> Result<()> {
    let body = &answer.body;
    ensure!(answer.code.as_u16() == code, "{code} is due, not {}: {body}", answer.code);
    ensure!(
        body["kind"] == "Status" && body["status"] == "Failure" && body["code"] == code && body["reason"] == reason,
        "{body}"
    );
    contains(body["message"].as_str().unwrap_or_default(), message)
}

pub(super) fn manifests(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("bad-manifests")?;
    let create = |manifest: &str| refused(&space, &["create"], manifest);
    contains(
        &create("apiVersion: v1\nkind: [oops\n")?,
        "error converting YAML to JSON: yaml: line 2",
    )?;
    contains(&create("{\"apiVersion\": \"v1\", \"kind\": ")?, "error parsing")?;
    contains(&create("kind: ConfigMap\nmetadata: {name: a}\n")?, "apiVersion not set")?;
    let unknown = "{apiVersion: v1, kind: ConfigMap, metadata: {name: a, colour: red}, dada: {a: b}}";
    let said = create(unknown)?;
    contains(&said, "(BadRequest)")?;
    contains(
        &said,
        "strict decoding error: unknown field \"dada\", unknown field \"metadata.colour\"",
    )?;
    contains(&refused(&space, &["apply"], unknown)?, "unknown field \"dada\"")?;
    contains(
        &create("{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}, spec: {replicas: many}}")?,
        "cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
    )?;
    contains(
        &create("{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {a: 5}}")?,
        "json: cannot unmarshal number into Go struct field ConfigMap.data of type string",
    )?;
    contains(
        &create("{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: [a]}")?,
        "cannot unmarshal array into Go struct field ConfigMap.data of type map[string]string",
    )?;
    let said = create("apiVersion: apps/v9\nkind: Deployment\nmetadata: {name: a}\n")?;
    contains(&said, "no matches for kind \"Deployment\" in version \"apps/v9\"")?;
    contains(
        &create("{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: other}}")?,
        "the namespace from the provided object \"other\" does not match the namespace \"bad-manifests\"",
    )?;
    // Only warned about, where the client asks so.
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), unknown)?;
    let output = space
        .command(&["create", "--validate=warn", "-f", &file.path().to_string_lossy()])
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    contains(&String::from_utf8_lossy(&output.stderr), "Warning: unknown field \"dada\"")?;
    let names = space.run(&["get", "configmaps,deployments", "-o", "name"])?;
    ensure!(
        names == "configmap/a\nconfigmap/kube-root-ca.crt\n",
        "what was refused is there: {names}"
    );
    Ok(())
}

pub(super) fn bodies(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("bad-bodies")?;
    let api = Api::of(cluster)?;
    let path = "/api/v1/namespaces/bad-bodies/configmaps";
    let post = |query: &str, kind: &str, body: &str| ask(&api, &Method::POST, &format!("{path}{query}"), kind, body.into());
    let json = "application/json";
    is_status(
        &post("", json, r#"{"apiVersion": "v1", "kind": "Conf"#)?,
        400,
        "BadRequest",
        "couldn't get version/kind; json parse error: unexpected end of JSON input",
    )?;
    is_status(
        &post(
            "",
            json,
            r#"{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}}"#,
        )?,
        400,
        "BadRequest",
        "the object provided is unrecognized",
    )
    .or_else(|_| {
        is_status(
            &post(
                "",
                json,
                r#"{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}}"#,
            )?,
            400,
            "BadRequest",
            "Secret in version \"v1\" cannot be handled as a ConfigMap",
        )
    })?;
    is_status(
        &post("", "text/plain", "{}")?,
        415,
        "UnsupportedMediaType",
        "the body of the request was in an unknown format - accepted media types include: ",
    )?;
    let twice =
        r#"{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "twice"}, "data": {"a": "1", "a": "2"}, "dada": 1}"#;
    is_status(
        &post("?fieldValidation=Strict", json, twice)?,
        400,
        "BadRequest",
        "strict decoding error: duplicate field \"data.a\", unknown field \"dada\"",
    )
    .or_else(|_| {
        is_status(
            &post("?fieldValidation=Strict", json, twice)?,
            400,
            "BadRequest",
            "strict decoding error: unknown field \"dada\", duplicate field \"data.a\"",
        )
    })?;
    let warned = post("?fieldValidation=Warn&dryRun=All", json, twice)?;
    ensure!(
        warned.code == 201 && warned.warning.contains("299 - "),
        "{}: {}",
        warned.code,
        warned.warning
    );
    let ignored = post("?fieldValidation=Ignore&dryRun=All", json, twice)?;
    ensure!(
        ignored.code == 201 && ignored.warning.is_empty() && ignored.body["data"]["a"] == "2",
        "{}",
        ignored.body
    );
    is_status(
        &post("?fieldValidation=Sometimes", json, twice)?,
        422,
        "Invalid",
        "fieldValidation: Unsupported value: \"Sometimes\"",
    )?;
    is_status(
        &post("?dryRun=Some", json, twice)?,
        422,
        "Invalid",
        "dryRun: Unsupported value",
    )?;

    // The limit is of three mebibytes, and what is over it is not read to its end.
    let big = |bytes: usize| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "big"}, "data": {"a": "x".repeat(bytes)}})
            .to_string()
    };
    is_status(
        &post("", json, &big(3 << 20))?,
        413,
        "RequestEntityTooLarge",
        "Request entity too large: limit is 3145728",
    )?;
    // A ConfigMap has a limit of its own.
    is_status(
        &post("", json, &big((1 << 20) + 1))?,
        422,
        "Invalid",
        "Too long: may not be more than 1048576 bytes",
    )?;
    let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
    let nested = format!(r#"{{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {{"name": "deep"}}, "data": {deep}}}"#);
    ensure!(post("", json, &nested)?.code == 400, "deep nesting is refused");
    // A YAML document that grows when it is read.
    let bomb = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: bomb}}\ndata:\n  a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n{}",
        (1..9)
            .map(|level| format!(
                "  a{level}: &a{level} [{}]\n",
                vec![format!("*a{}", level - 1); 10].join(", ")
            ))
            .collect::<String>()
    );
    ensure!(post("", "application/yaml", &bomb)?.code == 400, "a YAML bomb is refused");

    is_status(
        &ask(&api, &Method::POST, "/api/v1/namespaces/none/configmaps", json, big(1).into())?,
        404,
        "NotFound",
        "namespaces \"none\" not found",
    )?;
    space.run(&["create", "configmap", "there", "--from-literal=a=b"])?;
    let there = format!("{path}/there");
    let patch = |kind: &str, body: &str| ask(&api, &Method::PATCH, &there, kind, body.into());
    is_status(&patch("application/json", "{}")?, 415, "UnsupportedMediaType", "")?;
    is_status(&patch("application/merge-patch+json", "{")?, 400, "BadRequest", "")?;
    is_status(&patch("application/json-patch+json", "{}")?, 400, "BadRequest", "")?;
    ensure!(
        patch("application/json-patch+json", r#"[{"op": "remove", "path": "/data/none"}]"#)?.code == 422,
        "nothing to remove"
    );
    ensure!(
        patch("application/apply-patch+yaml", "{}")?.code.is_client_error(),
        "an apply without field manager"
    );
    let renamed = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "other"}}).to_string();
    is_status(
        &ask(&api, &Method::PUT, &there, json, renamed.into())?,
        400,
        "BadRequest",
        "the name of the object (other) does not match the name on the URL (there)",
    )?;
    is_status(
        &ask(&api, &Method::POST, &there, json, b"{}".to_vec())?,
        405,
        "MethodNotAllowed",
        "the server does not allow this method on the requested resource",
    )?;
    let names = space.run(&["get", "configmaps", "-o", "name"])?;
    ensure!(
        names == "configmap/kube-root-ca.crt\nconfigmap/there\n",
        "what was refused is there: {names}"
    );
    ensure!(
        space.run(&["get", "configmap", "there", "-o", "jsonpath={.data}"])? == r#"{"a":"b"}"#,
        "what was refused changed something"
    );
    Ok(())
}

pub(super) fn queries(cluster: &Cluster) -> Result<()> {
    let api = Api::of(cluster)?;
    let get = |path: &str| ask(&api, &Method::GET, path, "application/json", Vec::new());
    for (path, code, reason, message) in [
        (
            "/api/v1/pods?labelSelector=a%20in%20(",
            400,
            "BadRequest",
            "unable to parse requirement",
        ),
        (
            "/api/v1/pods?labelSelector=a==b==c",
            400,
            "BadRequest",
            "found '==', expected: ',' or 'end of string'",
        ),
        (
            "/api/v1/pods?fieldSelector=spec.nope=x",
            400,
            "BadRequest",
            "field label not supported: spec.nope",
        ),
        (
            "/api/v1/pods?fieldSelector=x",
            400,
            "BadRequest",
            "invalid selector: 'x'; can't understand 'x'",
        ),
        (
            "/api/v1/pods?limit=x",
            400,
            "BadRequest",
            "strconv.ParseInt: parsing \"x\": invalid syntax",
        ),
        (
            "/api/v1/pods?continue=nonsense",
            400,
            "BadRequest",
            "continue key is not valid",
        ),
        ("/api/v1/pods?resourceVersion=abc", 400, "BadRequest", "resource version"),
        (
            "/api/v1/pods?resourceVersionMatch=Exact",
            422,
            "Invalid",
            "resourceVersionMatch is forbidden unless resourceVersion is provided",
        ),
        (
            "/api/v1/pods?resourceVersion=99999999",
            504,
            "Timeout",
            "Too large resource version",
        ),
        (
            "/api/v1/pods?watch=1&resourceVersion=0&sendInitialEvents=true",
            422,
            "Invalid",
            "sendInitialEvents",
        ),
        (
            "/api/v1/namespaces/default/pods/none",
            404,
            "NotFound",
            "pods \"none\" not found",
        ),
        (
            "/api/v1/namespaces/default/none",
            404,
            "NotFound",
            "the server could not find the requested resource",
        ),
        ("/apis/none.example.com/v1", 404, "NotFound", ""),
        (
            "/api/v1/namespaces/default/pods/none/log",
            404,
            "NotFound",
            "pods \"none\" not found",
        ),
    ] {
        let answer = match get(path) {
            Ok(answer) => answer,
            // Paths outside of the API are answered in plain text.
            Err(error) if format!("{error:#}").contains("404 page not found") => continue,
            Err(error) => return Err(error),
        };
        is_status(&answer, code, reason, message).with_context(|| path.to_owned())?;
    }
    contains(
        &cluster.refused(&["get", "nothing"])?,
        "the server doesn't have a resource type \"nothing\"",
    )?;
    contains(
        &cluster.refused(&["get", "pods", "-l", "a==b==c"])?,
        "Unable to find \"/v1, Resource=pods\" that match label selector \"a==b==c\"",
    )
}

pub(super) fn strangers(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("strangers")?;
    let api = Api::of(cluster)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let code = |path: &str, token: Option<&str>| -> Result<(u16, String)> {
        runtime.block_on(async {
            let mut request = api.nobody.get(api.url(path));
            if let Some(token) = token {
                request = request.bearer_auth(token);
            }
            let answer = request.send().await?;
            Ok((answer.status().as_u16(), answer.text().await?))
        })
    };
    let (refused, text) = code("/api/v1/namespaces", None)?;
    ensure!(refused == 401, "{refused} {text}");
    let status: Value = serde_json::from_str(&text)?;
    ensure!(
        status["kind"] == "Status" && status["reason"] == "Unauthorized" && status["message"] == "Unauthorized",
        "{status}"
    );
    for path in ["/livez", "/readyz", "/healthz", "/version"] {
        let (open, text) = code(path, None)?;
        ensure!(open == 200, "{path} is open to everybody: {open} {text}");
    }
    for path in ["/metrics", "/openapi/v3", "/apis", "/logs"] {
        let (closed, text) = code(path, None)?;
        ensure!(closed == 401 || closed == 403, "{path} is closed: {closed} {text}");
    }
    for token in ["nonsense", "a.b.c", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9."] {
        ensure!(code("/api/v1/namespaces", Some(token))?.0 == 401, "{token} lets in");
        ensure!(code("/version", Some(token))?.0 == 401, "a wrong token is no token: {token}");
    }
    // A token that was good, changed in one letter of its claims or its signature.
    let token = space.run(&["create", "token", "default"])?;
    let token = token.trim();
    ensure!(
        code("/api/v1/namespaces/strangers/pods", Some(token))?.0 == 403,
        "a good token is known, but may not"
    );
    let dot = token.find('.').context("a token has parts")?;
    for place in [dot + 10, token.len() - 10] {
        let mut changed = token.to_owned();
        let other = if &token[place..=place] == "A" { "B" } else { "A" };
        changed.replace_range(place..=place, other);
        ensure!(code("/api/v1/namespaces", Some(&changed))?.0 == 401, "a forged token lets in");
    }
    // One for another audience is none for this server.
    let other = space.run(&["create", "token", "default", "--audience=somebody"])?;
    ensure!(
        code("/api/v1/namespaces", Some(other.trim()))?.0 == 401,
        "a token for somebody else lets in"
    );
    contains(
        &space.refused(&["create", "token", "default", "--duration=1s"])?,
        "may not specify a duration less than 10 minutes",
    )?;
    // A server that is not ours is not trusted.
    let kubeconfig = space.refused(&[
        "get",
        "pods",
        "--server",
        &format!("https://{}:10250", cluster.address),
        "--certificate-authority",
        "/etc/ssl/certs/ca-certificates.crt",
    ])?;
    ensure!(kubeconfig.contains("certificate"), "{kubeconfig}");
    // The kubelet asks as well who is there.
    let stranger = reqwest::Client::builder().tls_danger_accept_invalid_certs(true).build()?;
    for path in [
        "/pods",
        "/stats/summary",
        "/metrics/resource",
        "/containerLogs/strangers/none/none",
    ] {
        let code = runtime
            .block_on(async { stranger.get(format!("https://{}:10250{path}", cluster.address)).send().await })?
            .status();
        ensure!(code == 401, "the kubelet answers {code} to nobody for {path}");
    }

    for (arguments, wanted) in [
        (
            &["get", "pods"][..],
            "User \"bob\" cannot list resource \"pods\" in API group \"\" in the namespace \"strangers\"",
        ),
        (
            &["create", "configmap", "his"],
            "User \"bob\" cannot create resource \"configmaps\"",
        ),
        (
            &["delete", "namespace", "strangers"],
            "User \"bob\" cannot delete resource \"namespaces\"",
        ),
        (
            &["scale", "deployment/none", "--replicas=1"],
            "User \"bob\" cannot get resource \"deployments\"",
        ),
        (&["get", "--raw", "/metrics"], "User \"bob\" cannot get path \"/metrics\""),
        (&["exec", "none", "--", "true"], "User \"bob\" cannot get resource \"pods\""),
    ] {
        let said = space.refused(&[&["--as=bob"], arguments].concat())?;
        contains(&said, "orbidden")?;
        contains(&said, wanted)?;
    }
    Ok(())
}

pub(super) fn values(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("values")?;
    let pod =
        |container: &str| format!("{{apiVersion: v1, kind: Pod, metadata: {{name: a}}, spec: {{containers: [{container}]}}}}");
    let deployment = |spec: &str| format!("{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: a}}, spec: {spec}}}");
    let template = "template: {metadata: {labels: {a: b}}, spec: {containers: [{name: a, image: a}]}}";
    for (manifest, wanted) in [
        ("{apiVersion: v1, kind: ConfigMap, metadata: {name: UPPER}}".to_owned(), "metadata.name: Invalid value: \"UPPER\": a lowercase RFC 1123 subdomain must consist of"),
        ("{apiVersion: v1, kind: ConfigMap, metadata: {name: a, labels: {'a b': c}}}".to_owned(), "metadata.labels: Invalid value: \"a b\": name part must consist of"),
        ("{apiVersion: v1, kind: ConfigMap, metadata: {}}".to_owned(), "name or generateName is required"),
        (pod("{name: a}"), "spec.containers[0].image: Required value"),
        (pod("{image: a}"), "spec.containers[0].name: Required value"),
        (pod("{name: a, image: a}, {name: a, image: a}"), "spec.containers[1].name: Duplicate value: \"a\""),
        (pod("{name: a, image: a, resources: {limits: {cpu: 1}, requests: {cpu: 2}}}"), "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1"),
        (pod("{name: a, image: a, volumeMounts: [{name: none, mountPath: /a}]}"), "spec.containers[0].volumeMounts[0].name: Not found: \"none\""),
        (pod("{name: a, image: a, ports: [{containerPort: 99999}]}"), "spec.containers[0].ports[0].containerPort: Invalid value: 99999: must be between 1 and 65535, inclusive"),
        (pod("{name: a, image: a, livenessProbe: {httpGet: {port: 80}, exec: {command: [a]}}}"), "may not specify more than 1 handler type"),
        (pod(""), "spec.containers: Required value"),
        (deployment(&format!("{{selector: {{matchLabels: {{x: z}}}}, {template}}}")), "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`"),
        (deployment(&format!("{{{template}}}")), "spec.selector: Required value"),
        (deployment(&format!("{{replicas: -1, selector: {{matchLabels: {{a: b}}}}, {template}}}")), "spec.replicas: Invalid value: -1: must be greater than or equal to 0"),
        ("{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: 0}]}}".to_owned(), "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive"),
        ("{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: Odd, ports: [{port: 1}]}}".to_owned(), "spec.type: Unsupported value: \"Odd\""),
        ("{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIP: 192.0.2.1, ports: [{port: 1}]}}".to_owned(), "failed to allocate IP 192.0.2.1: the provided network does not match the current range"),
        ("{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: NodePort, ports: [{port: 1, nodePort: 80}]}}".to_owned(), "provided port is not in the valid range. The range of valid ports is 30000-32767"),
        ("{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: a}, spec: {maxReplicas: 0, scaleTargetRef: {kind: Deployment, name: a}}}".to_owned(), "spec.maxReplicas: Required value: must be set and greater than 0"),
    ] {
        let said = refused(&space, &["create"], &manifest).with_context(|| manifest.clone())?;
        contains(&said, wanted).with_context(|| manifest.clone())?;
    }
    // Fields that never change.
    space.apply(&deployment(&format!(
        "{{replicas: 0, selector: {{matchLabels: {{a: b}}}}, {template}}}"
    )))?;
    let said = space.refused(&[
        "patch",
        "deployment",
        "a",
        "--type=json",
        "-p",
        r#"[{"op": "replace", "path": "/spec/selector/matchLabels", "value": {"c": "d"}}]"#,
    ])?;
    contains(&said, "field is immutable")?;
    // All errors are told at once.
    let said = refused(&space, &["create"], &pod("{name: A_B, ports: [{containerPort: 0}]}"))?;
    contains(&said, "spec.containers[0].name: Invalid value: \"A_B\"")?;
    contains(&said, "spec.containers[0].image: Required value")?;
    contains(&said, "spec.containers[0].ports[0].containerPort: Required value")?;
    // A port is given to one service only.
    let service = |name: &str| {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{type: NodePort, ports: [{{port: 1, nodePort: 32001}}]}}}}"
        )
    };
    space.apply(&service("first"))?;
    contains(
        &refused(&space, &["create"], &service("second"))?,
        "spec.ports[0].nodePort: Invalid value: 32001: provided port is already allocated",
    )?;
    let left = space.run(&["get", "pods,services,hpa,deployments", "-o", "name"])?;
    ensure!(
        left == "service/first\ndeployment.apps/a\n",
        "what was refused is there: {left}"
    );
    Ok(())
}

pub(super) fn image(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("image")?;
    space.run(&["run", "missing", "--image=registry.invalid/no/such:1"])?;
    let reason = [
        "get",
        "pod",
        "missing",
        "-o",
        "jsonpath={.status.containerStatuses[0].state.waiting.reason}",
    ];
    space.until(&reason, Duration::from_secs(30), |text| {
        text == "ErrImagePull" || text == "ImagePullBackOff"
    })?;
    space.until(&reason, Duration::from_secs(30), |text| text == "ImagePullBackOff")?;
    let described = space.run(&["describe", "pod", "missing"])?;
    for wanted in [
        "Pulling image \"registry.invalid/no/such:1\"",
        "Failed to pull image \"registry.invalid/no/such:1\"",
        "Error: ErrImagePull",
        "Back-off pulling image \"registry.invalid/no/such:1\"",
        "Error: ImagePullBackOff",
    ] {
        contains(&described, wanted)?;
    }
    // Why it failed, not only that it failed.
    let failed = described
        .lines()
        .find(|line| line.contains("Failed to pull image"))
        .unwrap_or_default();
    ensure!(
        failed.contains("dns error") || failed.contains("lookup") || failed.contains("resolve"),
        "the line does not say why: {failed}"
    );
    contains(&space.run(&["get", "pod", "missing"])?, "ImagePullBackOff")?;
    space.apply("{apiVersion: v1, kind: Pod, metadata: {name: never}, spec: {containers: [{name: a, image: 'registry.invalid/no/such:1', imagePullPolicy: Never}]}}")?;
    let reason = [
        "get",
        "pod",
        "never",
        "-o",
        "jsonpath={.status.containerStatuses[0].state.waiting.reason}",
    ];
    space.until(&reason, Duration::from_secs(30), |text| text == "ErrImageNeverPull")?;
    space.apply("{apiVersion: v1, kind: Pod, metadata: {name: odd}, spec: {containers: [{name: a, image: 'Not An Image'}]}}")?;
    let reason = [
        "get",
        "pod",
        "odd",
        "-o",
        "jsonpath={.status.containerStatuses[0].state.waiting.reason}",
    ];
    space
        .until(&reason, Duration::from_secs(30), |text| text == "InvalidImageName")
        .map(drop)
}
