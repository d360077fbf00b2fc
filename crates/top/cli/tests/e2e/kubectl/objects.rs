//! Objects through kubectl: shown, made, changed, compared and deleted.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{PATIENCE, field, field_becomes, ready};
use crate::cluster::{Cluster, contains};

const DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}, annotations: {first: one}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: busybox:1.35
        command: [sleep, '3600']
        ports: [{containerPort: 80, name: http}]
";

pub(super) fn shown(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("shown")?;
    space.apply(DEPLOYMENT)?;
    space.run(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    let table = space.run(&["get", "deployments,replicasets,pods", "-o", "wide"])?;
    for wanted in [
        "UP-TO-DATE",
        "busybox:1.35",
        "app=web",
        "DESIRED",
        "NOMINATED NODE",
        "Running",
        "10.42.",
    ] {
        contains(&table, wanted)?;
    }
    let yaml = space.run(&["get", "deployment", "web", "-o", "yaml"])?;
    contains(&yaml, "apiVersion: apps/v1\nkind: Deployment\n")?;
    contains(&yaml, "availableReplicas: 2")?;
    ensure!(!yaml.contains("managedFields"), "kubectl hides managed fields unless asked");
    contains(
        &space.run(&["get", "deployment", "web", "-o", "yaml", "--show-managed-fields"])?,
        "manager: kubectl-client-side-apply",
    )?;
    let json: Value = serde_json::from_str(&space.run(&["get", "pods", "-l", "app=web", "-o", "json"])?)?;
    ensure!(
        json["items"].as_array().is_some_and(|items| items.len() == 2),
        "two pods have the label"
    );
    let phases = space.run(&[
        "get",
        "pods",
        "--field-selector=status.phase=Running",
        "-o",
        "jsonpath={.items[*].status.phase}",
    ])?;
    ensure!(phases == "Running Running", "two pods run: {phases}");
    ensure!(
        space
            .run(&["get", "pods", "--field-selector=status.phase!=Running", "-o", "name"])?
            .is_empty(),
        "others are none"
    );
    let columns = space.run(&[
        "get",
        "deployment",
        "web",
        "-o",
        "custom-columns=N:.metadata.name,R:.spec.replicas",
        "--no-headers",
    ])?;
    ensure!(columns.split_whitespace().eq(["web", "2"]), "{columns}");
    contains(
        &space.run(&["get", "pods", "--show-labels", "--sort-by=.metadata.name"])?,
        "pod-template-hash=",
    )?;
    contains(&space.run(&["get", "pods", "-A"])?, "shown ")?;
    // A page at a time gives the same as all at once.
    let paged = space.run(&["get", "pods", "-o", "name", "--chunk-size=1"])?;
    ensure!(
        paged == space.run(&["get", "pods", "-o", "name", "--chunk-size=0"])?,
        "pages lose something: {paged}"
    );

    let described = space.run(&["describe", "deployment", "web"])?;
    contains(&described, "2 desired | 2 updated | 2 total | 2 available | 0 unavailable")?;
    contains(&described, "ScalingReplicaSet")?;
    let pods = space.run(&["get", "pods", "-o", "name"])?;
    let described = space.run(&["describe", pods.lines().next().context("a pod")?])?;
    for wanted in [
        "Controlled By:  ReplicaSet/web-",
        "QoS Class:                   BestEffort",
        "Successfully assigned shown/web-",
        "Container started",
    ] {
        contains(&described, wanted)?;
    }
    contains(&cluster.run(&["describe", "nodes"])?, "Allocatable:")?;
    contains(&space.run(&["events", "--for", "deployment/web"])?, "ScalingReplicaSet")?;
    contains(&cluster.run(&["cluster-info"])?, "is running at")
}

pub(super) fn watched(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("watched")?;
    space.run(&["create", "configmap", "before", "--from-literal=a=1"])?;
    let mut watch = space.command(&[
        "get",
        "configmaps",
        "-w",
        "--output-watch-events",
        "-l",
        "!ignored",
        "--no-headers",
    ]);
    let mut child = watch.stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("stdout is piped")?).lines();
    let mut next = || -> Result<String> { Ok(lines.next().context("the watch goes on")??) };
    let outcome = (|| -> Result<()> {
        // The ConfigMap of the cluster's CA is there too.
        for name in ["before", "kube-root-ca.crt"] {
            let line = next()?;
            ensure!(
                line.split_whitespace().take(2).eq(["ADDED", name]),
                "{name} is due, but: {line}"
            );
        }
        space.run(&["create", "configmap", "during", "--from-literal=a=1"])?;
        space.run(&["label", "configmap", "during", "b=2"])?;
        space.run(&["label", "configmap", "before", "ignored=yes"])?; // It leaves the selector.
        space.run(&["delete", "configmap", "during"])?;
        for (event, name) in [
            ("ADDED", "during"),
            ("MODIFIED", "during"),
            ("DELETED", "before"),
            ("DELETED", "during"),
        ] {
            let line = next()?;
            ensure!(
                line.split_whitespace().take(2).eq([event, name]),
                "{event} {name} is due, but: {line}"
            );
        }
        Ok(())
    })();
    child.kill()?;
    child.wait()?;
    outcome
}

pub(super) fn applied(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("applied")?;
    contains(&space.apply(DEPLOYMENT)?, "deployment.apps/web created")?;
    contains(&space.apply(DEPLOYMENT)?, "deployment.apps/web unchanged")?;
    // What a later manifest leaves out goes, what others wrote stays.
    space.run(&["annotate", "deployment", "web", "foreign=stays"])?;
    let changed = DEPLOYMENT
        .replace("replicas: 2", "replicas: 1")
        .replace("{first: one}", "{second: two}");
    let mut diff = space.command(&["diff", "-f", "-"]);
    let output = feed(&mut diff, &changed)?;
    ensure!(
        output.status.code() == Some(1),
        "differences give exit code 1, not {:?}",
        output.status
    );
    contains(&String::from_utf8_lossy(&output.stdout), "-  replicas: 2\n+  replicas: 1")?;
    ensure!(
        field(&space, "deployment/web", ".spec.replicas")? == "2",
        "diff changes nothing"
    );
    contains(&space.apply(&changed)?, "deployment.apps/web configured")?;
    let annotations = field(&space, "deployment/web", ".metadata.annotations")?;
    contains(&annotations, "\"foreign\":\"stays\"")?;
    contains(&annotations, "\"second\":\"two\"")?;
    ensure!(
        !annotations.contains("\"first\":"),
        "what was left out is still there: {annotations}"
    );
    let output = feed(&mut space.command(&["diff", "-f", "-"]), &changed)?;
    ensure!(
        output.status.success(),
        "no difference is left: {}",
        String::from_utf8_lossy(&output.stdout)
    );

    // Server-side apply: each manager owns what it said.
    let mine = "{apiVersion: v1, kind: ConfigMap, metadata: {name: shared}, data: {a: mine, b: mine}}";
    let theirs = "{apiVersion: v1, kind: ConfigMap, metadata: {name: shared}, data: {b: theirs, c: theirs}}";
    let apply = |manager: &str, force: &str, manifest: &str| {
        let manager = format!("--field-manager={manager}");
        let output = feed(
            &mut space.command(&["apply", "--server-side", &manager, force, "-f", "-"]),
            manifest,
        )?;
        Ok::<_, anyhow::Error>((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    ensure!(apply("mine", "--force-conflicts=false", mine)?.0, "the first apply is taken");
    let (taken, said) = apply("theirs", "--force-conflicts=false", theirs)?;
    ensure!(!taken, "a conflict is refused");
    contains(&said, "Apply failed with 1 conflict: conflict with \"mine\": .data.b")?;
    ensure!(apply("theirs", "--force-conflicts", theirs)?.0, "a conflict can be forced");
    let data: Value = serde_json::from_str(&field(&space, "configmap/shared", ".data")?)?;
    ensure!(
        data == serde_json::json!({"a": "mine", "b": "theirs", "c": "theirs"}),
        "{data}"
    );
    // A field that its only manager no longer says is removed.
    let less = "{apiVersion: v1, kind: ConfigMap, metadata: {name: shared}, data: {b: theirs}}";
    ensure!(
        apply("theirs", "--force-conflicts=false", less)?.0,
        "the own fields conflict with nobody"
    );
    let data: Value = serde_json::from_str(&field(&space, "configmap/shared", ".data")?)?;
    ensure!(data == serde_json::json!({"a": "mine", "b": "theirs"}), "{data}");
    let dry = space.run(&["create", "configmap", "dry", "--dry-run=server", "-o", "name"])?;
    contains(&dry, "configmap/dry")?;
    contains(&space.refused(&["get", "configmap", "dry"])?, "(NotFound)")
}

/// Runs a command with something on standard input.
fn feed(command: &mut std::process::Command, input: &str) -> Result<std::process::Output> {
    use std::io::Write;
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("stdin is piped")?.write_all(input.as_bytes())?;
    Ok(child.wait_with_output()?)
}

pub(super) fn changed(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("changed")?;
    space.apply(&DEPLOYMENT.replace("replicas: 2", "replicas: 0"))?;
    // A strategic merge patch knows containers by name: the image changes, the command stays.
    let patch = r#"{"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "nginx:1.16"}]}}}}"#;
    space.run(&["patch", "deployment", "web", "-p", patch])?;
    ensure!(
        field(&space, "deployment/web", ".spec.template.spec.containers[*].image")? == "nginx:1.16",
        "the image is patched"
    );
    ensure!(
        field(&space, "deployment/web", ".spec.template.spec.containers[0].command[0]")? == "sleep",
        "the command stays"
    );
    // A merge patch replaces lists and removes by null.
    space.run(&[
        "patch",
        "deployment",
        "web",
        "--type=merge",
        "-p",
        r#"{"metadata": {"labels": {"app": null, "b": "c"}}}"#,
    ])?;
    ensure!(
        field(&space, "deployment/web", ".metadata.labels")? == r#"{"b":"c"}"#,
        "labels are merged"
    );
    let steps = r#"[{"op": "test", "path": "/metadata/labels/b", "value": "c"}, {"op": "add", "path": "/metadata/labels/d", "value": "e"}]"#;
    space.run(&["patch", "deployment", "web", "--type=json", "-p", steps])?;
    ensure!(
        field(&space, "deployment/web", ".metadata.labels.d")? == "e",
        "JSON patch adds"
    );
    let wrong = steps.replace("\"c\"", "\"x\"");
    space.refused(&["patch", "deployment", "web", "--type=json", "-p", &wrong])?;
    contains(
        &space.run(&["patch", "deployment", "web", "--type=merge", "-p", "{}"])?,
        "patched (no change)",
    )?;

    let mut edit = space.command(&["edit", "deployment", "web"]);
    let output = edit.env("KUBE_EDITOR", "sed -i 's/replicas: 0/replicas: 1/'").output()?;
    ensure!(
        output.status.success(),
        "edit failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    ensure!(
        field(&space, "deployment/web", ".spec.replicas")? == "1",
        "the edit is stored"
    );
    let mut edit = space.command(&["edit", "deployment", "web"]);
    let output = edit.env("KUBE_EDITOR", "true").output()?;
    contains(&String::from_utf8_lossy(&output.stderr), "Edit cancelled, no changes made.")?;

    space.run(&["label", "deployment", "web", "stage=test"])?;
    contains(
        &space.refused(&["label", "deployment", "web", "stage=live"])?,
        "already has a value (test), and --overwrite is false",
    )?;
    space.run(&["label", "deployment", "web", "stage=live", "--overwrite"])?;
    ensure!(
        space.run(&["get", "deployments", "-l", "stage in (live)", "-o", "name"])? == "deployment.apps/web\n",
        "selected by label"
    );
    space.run(&["label", "deployment", "web", "stage-"])?;
    ensure!(
        field(&space, "deployment/web", ".metadata.labels.stage")?.is_empty(),
        "the label is gone"
    );
    space.run(&["annotate", "deployment", "web", "note=a text"])?;
    ensure!(
        field(&space, "deployment/web", ".metadata.annotations.note")? == "a text",
        "annotated"
    );
    // A PUT with an old resourceVersion is refused.
    let old = space.run(&["get", "deployment", "web", "-o", "json"])?;
    space.run(&["annotate", "deployment", "web", "note=another", "--overwrite"])?;
    let output = feed(&mut space.command(&["replace", "-f", "-"]), &old)?;
    contains(
        &String::from_utf8_lossy(&output.stderr),
        "the object has been modified; please apply your changes to the latest version and try again",
    )
}

pub(super) fn created(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("created")?;
    space.run(&[
        "create",
        "deployment",
        "web",
        "--image=nginx:1.16",
        "--replicas=1",
        "--port=80",
    ])?;
    space.run(&[
        "create",
        "configmap",
        "plain",
        "--from-literal=key=value",
        "--from-file=manifest=examples/nginx.yaml",
    ])?;
    contains(&field(&space, "configmap/plain", ".data.manifest")?, "kind: Deployment")?;
    space.run(&["create", "secret", "generic", "hidden", "--from-literal=key=value"])?;
    ensure!(
        field(&space, "secret/hidden", ".data.key")? == "dmFsdWU=",
        "secrets are shown in base64"
    );
    ensure!(
        !space.run(&["describe", "secret", "hidden"])?.contains("value"),
        "describe hides secrets"
    );
    space.run(&["create", "job", "once", "--image=busybox:1.35", "--", "true"])?;
    contains(&space.run(&["get", "job", "once"])?, "once")?;
    space.run(&[
        "create",
        "cronjob",
        "often",
        "--image=busybox:1.35",
        "--schedule=*/5 * * * *",
        "--",
        "true",
    ])?;
    space.run(&["create", "serviceaccount", "robot"])?;
    space.run(&[
        "create",
        "poddisruptionbudget",
        "budget",
        "--selector=app=web",
        "--min-available=1",
    ])?;
    space.run(&["create", "ingress", "entry", "--rule=example.com/*=web:80"])?;
    contains(&space.run(&["get", "ingress", "entry"])?, "example.com")?;

    space.run(&[
        "run",
        "single",
        "--image=busybox:1.35",
        "--restart=Never",
        "--labels=a=b",
        "--env=NAME=world",
        "--command",
        "--",
        "sh",
        "-c",
        "echo hello $NAME",
    ])?;
    space.until(
        &["get", "pod", "single", "-o", "jsonpath={.status.phase}"],
        PATIENCE,
        |phase| phase == "Succeeded",
    )?;
    ensure!(space.run(&["logs", "single"])? == "hello world\n", "the pod said hello");
    contains(&space.run(&["get", "pod", "single"])?, "Completed")?;

    space.run(&[
        "expose",
        "deployment",
        "web",
        "--port=8080",
        "--target-port=80",
        "--type=NodePort",
    ])?;
    let port: u16 = field(&space, "service/web", ".spec.ports[0].nodePort")?.parse()?;
    ensure!((30000..=32767).contains(&port), "node port {port}");
    space.run(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    let slice = [
        "get",
        "endpointslices",
        "-l",
        "kubernetes.io/service-name=web",
        "-o",
        "jsonpath={.items[*].ports[0].port} {.items[*].endpoints[*].conditions.ready}",
    ];
    space.until(&slice, PATIENCE, |text| text == "80 true")?;
    contains(&space.run(&["describe", "service", "web"])?, "10.42.")?;
    let page = crate::http::get(format!("{}:{port}", cluster.address).parse()?, "/")?;
    contains(&page, "Welcome to nginx!")?;

    space.run(&["scale", "deployment", "web", "--replicas=3", "--current-replicas=1"])?;
    field_becomes(&space, "deployment/web", ".status.readyReplicas", "3")?;
    contains(
        &space.refused(&["scale", "deployment", "web", "--replicas=5", "--current-replicas=1"])?,
        "Expected replicas to be 1, was 3",
    )?;
    space.run(&["scale", "--replicas=0", "deployment/web"])?;
    space.until(&["get", "pods", "-l", "app=web", "-o", "name"], PATIENCE, str::is_empty)?;
    space.run(&["autoscale", "deployment", "web", "--min=1", "--max=4", "--cpu=50%"])?;
    ensure!(field(&space, "hpa/web", ".spec.maxReplicas")? == "4", "autoscaled");
    contains(&space.run(&["get", "hpa", "web"])?, "Deployment/web")?;
    // The first version of the API shows the same object.
    let old = space.run(&[
        "get",
        "horizontalpodautoscalers.v1.autoscaling",
        "web",
        "-o",
        "jsonpath={.spec.targetCPUUtilizationPercentage}",
    ])?;
    ensure!(old == "50", "autoscaling/v1 says {old:?}");
    space.run(&["set", "env", "deployment/web", "COLOUR=blue"])?;
    ensure!(
        field(&space, "deployment/web", ".spec.template.spec.containers[0].env[0].value")? == "blue",
        "env is set"
    );
    space.run(&["set", "resources", "deployment/web", "--limits=cpu=100m,memory=64Mi"])?;
    ensure!(
        field(
            &space,
            "deployment/web",
            ".spec.template.spec.containers[0].resources.limits.memory"
        )? == "64Mi",
        "limits are set"
    );
    Ok(())
}

pub(super) fn explained(cluster: &Cluster) -> Result<()> {
    let text = cluster.run(&["explain", "pod.spec.containers.livenessProbe.httpGet"])?;
    contains(&text, "FIELD: httpGet <HTTPGetAction>")?;
    contains(&text, "port\t<IntOrString> -required-")?;
    contains(
        &cluster.run(&["explain", "hpa", "--recursive"])?,
        "scaleTargetRef\t<CrossVersionObjectReference> -required-",
    )?;
    contains(
        &cluster.refused(&["explain", "pod.spec.nonsense"])?,
        "field \"nonsense\" does not exist",
    )?;
    let resources = cluster.run(&["api-resources", "--no-headers"])?;
    let kinds: Vec<&str> = resources.lines().filter_map(|line| line.split_whitespace().last()).collect();
    for wanted in [
        "Pod",
        "Deployment",
        "ReplicaSet",
        "HorizontalPodAutoscaler",
        "EndpointSlice",
        "Lease",
        "Job",
        "StatefulSet",
        "NetworkPolicy",
    ] {
        ensure!(kinds.contains(&wanted), "{wanted} is not listed in\n{resources}");
    }
    contains(
        &cluster.run(&["api-resources", "--api-group=apps", "-o", "wide"])?,
        "create,delete,deletecollection,get,list,patch,update,watch",
    )?;
    let versions = cluster.run(&["api-versions"])?;
    for wanted in ["apps/v1", "autoscaling/v1", "autoscaling/v2", "metrics.k8s.io/v1beta1", "v1"] {
        ensure!(versions.lines().any(|line| line == wanted), "{wanted} is not in {versions}");
    }
    let version: Value = serde_json::from_str(&cluster.run(&["version", "-o", "json"])?)?;
    ensure!(version["serverVersion"]["minor"] == "36", "{version}");
    contains(&cluster.run(&["get", "--raw", "/readyz?verbose"])?, "readyz check passed")?;
    contains(&cluster.run(&["get", "--raw", "/metrics"])?, "# TYPE ")
}

pub(super) fn deleted(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("deleted")?;
    let pods = ["get", "pods", "-l", "app=web", "-o", "name"];
    let make = || -> Result<()> {
        space.apply(DEPLOYMENT)?;
        space.run(&["rollout", "status", "deployment/web", "--timeout=60s"]).map(drop)
    };
    make()?;
    space.run(&["delete", "deployment", "web"])?; // In the background.
    space.until(&["get", "replicasets", "-o", "name"], PATIENCE, str::is_empty)?;
    space.until(&pods, PATIENCE, str::is_empty)?;

    make()?;
    // The owner is the last to go, so nothing is left when kubectl returns.
    space.run(&["delete", "deployment", "web", "--cascade=foreground", "--timeout=60s"])?;
    let left = space.run(&["get", "replicasets,pods", "-l", "app=web", "-o", "name"])?;
    ensure!(left.is_empty(), "left behind: {left}");

    make()?;
    let before = space.run(&pods)?;
    space.run(&["delete", "deployment", "web", "--cascade=orphan"])?;
    contains(&space.refused(&["get", "deployment", "web"])?, "(NotFound)")?;
    let set = space.run(&["get", "replicasets", "-o", "name"])?;
    ensure!(
        field(&space, set.trim(), ".metadata.ownerReferences")?.is_empty(),
        "the orphan has no owner"
    );
    ensure!(space.run(&pods)? == before, "the pods stay");
    // A deployment with the same selector adopts it.
    make()?;
    ensure!(
        field(&space, set.trim(), ".metadata.ownerReferences[0].name")? == "web",
        "the orphan is adopted"
    );
    ensure!(space.run(&pods)? == before, "the pods stay");

    // By force: the object is gone at once, whatever the container does.
    space.run(&[
        "run",
        "stubborn",
        "--image=busybox:1.35",
        "--restart=Never",
        "--command",
        "--",
        "sh",
        "-c",
        "trap '' TERM; while true; do sleep 1; done",
    ])?;
    ready(&space, &["stubborn"])?;
    let output = space
        .command(&["delete", "pod", "stubborn", "--force", "--grace-period=0", "--wait=false"])
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    contains(
        &String::from_utf8_lossy(&output.stderr),
        "Immediate deletion does not wait for confirmation",
    )?;
    contains(&space.refused(&["get", "pod", "stubborn"])?, "(NotFound)")?;

    // A finalizer holds an object until it is removed.
    space.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: held, finalizers: [example.com/hold]}}")?;
    space.run(&["delete", "configmap", "held", "--wait=false"])?;
    ensure!(
        !field(&space, "configmap/held", ".metadata.deletionTimestamp")?.is_empty(),
        "it is being deleted"
    );
    space.run(&[
        "patch",
        "configmap",
        "held",
        "--type=merge",
        "-p",
        r#"{"metadata": {"finalizers": null}}"#,
    ])?;
    contains(&space.refused(&["get", "configmap", "held"])?, "(NotFound)")?;
    // All of a kind at once.
    space.run(&["create", "configmap", "one"])?;
    space.run(&["create", "configmap", "two"])?;
    space.run(&["delete", "configmaps", "--all"])?;
    // The namespace's own comes back.
    space
        .until(&["get", "configmaps", "-o", "name"], PATIENCE, |names| {
            names == "configmap/kube-root-ca.crt\n"
        })
        .map(drop)
}

pub(super) fn namespace_goes(cluster: &Cluster) -> Result<()> {
    cluster.run(&["create", "namespace", "going"])?;
    cluster.run_with(&["-n", "going", "apply", "-f", "-"], DEPLOYMENT)?;
    cluster.run(&["-n", "going", "create", "secret", "generic", "hidden"])?;
    cluster.run(&["-n", "going", "create", "service", "clusterip", "web", "--tcp=80:80"])?;
    cluster.run(&["-n", "going", "rollout", "status", "deployment/web", "--timeout=60s"])?;
    cluster.run(&["delete", "namespace", "going", "--wait=false"])?;
    let refused = cluster.refused(&["-n", "going", "create", "configmap", "late"])?;
    ensure!(
        refused.contains("because it is being terminated") || refused.contains("not found"),
        "{refused}"
    );
    cluster.run(&["wait", "--for=delete", "namespace/going", "--timeout=60s"])?;
    for kind in [
        "deployments",
        "replicasets",
        "pods",
        "secrets",
        "services",
        "endpointslices",
        "serviceaccounts",
        "configmaps",
        "events",
    ] {
        let left = cluster.run(&[
            "get",
            kind,
            "-A",
            "-o",
            "jsonpath={.items[?(@.metadata.namespace=='going')].metadata.name}",
        ])?;
        ensure!(left.is_empty(), "{kind} left behind: {left}");
    }
    // A namespace of the same name starts afresh.
    cluster.run(&["create", "namespace", "going"])?;
    cluster.until(
        &["-n", "going", "get", "serviceaccount", "default"],
        Duration::from_secs(20),
        |_| true,
    )?;
    cluster.run(&["delete", "namespace", "going", "--timeout=60s"]).map(drop)
}
