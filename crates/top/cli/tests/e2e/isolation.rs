//! What a pod asks for to be kept apart, as its user sees it: user namespaces, debugging, no mounts below /proc; and the logs that
//! tell of it, to the last byte.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::Scenario;
use crate::cluster::{Cluster, Namespace, contains};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("a_pod_of_its_own_users_is_root_of_nothing_else", user_namespace),
    ("a_debugging_container_sees_its_target", debugging),
    ("isolation_that_is_not_there_is_told", refused),
    ("logs_end_as_they_were_written", logs),
    ("an_image_is_a_volume", image_volume),
];

const PATIENCE: Duration = Duration::from_secs(60);
const IMAGE: &str = "busybox:1.35";

fn pod(name: &str, rest: &str, container: &str, volumes: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{terminationGracePeriodSeconds: 0, restartPolicy: Never, {rest} \
         containers: [{{name: main, image: '{IMAGE}', {container}}}], volumes: [{volumes}]}}}}"
    )
}

fn ready(space: &Namespace<'_>, name: &str) -> Result<()> {
    let path = "jsonpath={.status.containerStatuses[0].ready}";
    space
        .until(&["get", "pod", name, "-o", path], PATIENCE, |text| text == "true")
        .map(drop)
}

fn user_namespace(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("own-users")?;
    space.run(&["create", "configmap", "words", "--from-literal=word=hello"])?;
    let container = "command: [sh, -c, 'cat /proc/self/uid_map; id -u; cat /c/word; echo; cat /var/run/secrets/kubernetes.io/*/namespace; \
                     echo; echo mine > /v/file; hostname; sleep 3600'], \
                     volumeMounts: [{name: v, mountPath: /v}, {name: c, mountPath: /c}, {name: m, mountPath: /m}]";
    let volumes = "{name: v, emptyDir: {}}, {name: c, configMap: {name: words}}, {name: m, emptyDir: {medium: Memory}}";
    space.apply(&pod("first", "hostUsers: false,", container, volumes))?;
    space.apply(&pod("second", "hostUsers: false,", container, volumes))?;
    let mut ranges = Vec::new();
    for name in ["first", "second"] {
        ready(&space, name)?;
        let log = space.until(&["logs", name], PATIENCE, |log| log.contains(name))?;
        let said: Vec<&str> = log.lines().map(str::trim).collect();
        let map: Vec<&str> = said[0].split_whitespace().collect();
        ensure!(map[0] == "0" && map[1] != "0" && map[2] == "65536", "{log}");
        ensure!(said[1..] == ["0", "hello", "own-users", name], "{log}");
        ranges.push(map[1].to_owned());
        let exec = space.run(&[
            "exec",
            name,
            "--",
            "sh",
            "-c",
            "cat /proc/self/uid_map; touch /m/x && cat /v/file && id -u",
        ])?;
        contains(&exec, map[1])?;
        contains(&exec, "mine\n0\n")?;
    }
    ensure!(ranges[0] != ranges[1], "{ranges:?}");

    // Of its own users' /proc nothing need be hidden, where it says so; others' is masked.
    let covered = "grep -c ' /proc/' /proc/mounts; sleep 3600";
    for (name, security, unmasked) in [
        ("masked", "", false),
        ("unmasked", "securityContext: {procMount: Unmasked},", true),
    ] {
        let container = format!("{security} command: [sh, -c, \"{covered}\"]");
        space.apply(&pod(name, "hostUsers: false,", &container, ""))?;
        let log = space.until(&["logs", name], PATIENCE, |log| log.ends_with('\n'))?;
        ensure!((log.trim() == "0") == unmasked, "{name}: {log} mounts below /proc");
    }
    Ok(())
}

fn debugging(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("debugging")?;
    space.apply(&pod("web", "", "command: [sleep, '4321']", ""))?;
    ready(&space, "web")?;
    let image = format!("--image={IMAGE}");
    let script = "cat /proc/1/cmdline | tr '\\0' ' '; echo";
    space.run(&[
        "debug",
        "web",
        &image,
        "--target=main",
        "-c",
        "look",
        "--",
        "sh",
        "-c",
        script,
    ])?;
    space
        .until(&["logs", "web", "-c", "look"], PATIENCE, |log| log.contains("sleep 4321"))
        .map(drop)
}

fn refused(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("refused")?;
    let class = "{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: e2e-sandboxed}, handler: e2e-no-such}";
    space.apply(class)?;
    space.apply(&pod(
        "sandboxed",
        "runtimeClassName: e2e-sandboxed,",
        "command: [sleep, '3600']",
        "",
    ))?;
    let events = [
        "get",
        "events",
        "--field-selector=involvedObject.name=sandboxed,reason=FailedCreatePodSandBox",
        "-o",
        "jsonpath={.items[*].message}",
    ];
    space.until(&events, PATIENCE, |text| {
        text.contains("no runtime for \"e2e-no-such\" is configured")
    })?;
    let phase = space.run(&["get", "pod", "sandboxed", "-o", "jsonpath={.status.phase}"])?;
    ensure!(phase == "Pending", "{phase}");
    cluster.run(&["delete", "runtimeclass", "e2e-sandboxed"])?;

    let below = "command: [sleep, '3600'], volumeMounts: [{name: v, mountPath: /proc/sys}]";
    space.apply(&pod("below", "", below, "{name: v, emptyDir: {}}"))?;
    let message = "jsonpath={.status.containerStatuses[0].state}";
    space
        .until(&["get", "pod", "below", "-o", message], PATIENCE, |text| {
            text.contains("cannot be mounted because it is inside /proc")
        })
        .map(drop)
}

fn logs(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("logs-to-the-end")?;
    let long = "command: [sh, -c, 'head -c 40000 /dev/zero | tr \"\\\\0\" x; echo; printf DONE; exit 3'], \
                terminationMessagePolicy: FallbackToLogsOnError";
    space.apply(&pod("writer", "", long, ""))?;
    let message = "jsonpath={.status.containerStatuses[0].state.terminated.message}";
    let told = space.until(&["get", "pod", "writer", "-o", message], PATIENCE, |text| {
        text.ends_with("DONE")
    })?;
    ensure!(told.len() == 2048, "{}", told.len());
    let log = space.run(&["logs", "writer"])?;
    ensure!(log == format!("{}\nDONE", "x".repeat(40_000)), "{} bytes", log.len());
    let stamped = space.run(&["logs", "writer", "--timestamps"])?;
    let lines: Vec<&str> = stamped.lines().collect();
    ensure!(lines.len() == 2 && !stamped.ends_with('\n'), "{} lines", lines.len());
    for (line, rest) in lines.iter().zip(["x".repeat(40_000), "DONE".to_owned()]) {
        let (time, content) = line.split_once(' ').unwrap_or_default();
        ensure!(time.ends_with('Z') && content == rest, "{time} {} bytes", content.len());
    }
    Ok(())
}

fn image_volume(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("image-volume")?;
    let container = "command: [sh, -c, 'test -e /v/bin/busybox && echo there; /v/bin/busybox true || echo not executed; \
                     echo x > /v/x || echo read-only'], volumeMounts: [{name: v, mountPath: /v}]";
    let volume = format!("{{name: v, image: {{reference: '{IMAGE}', pullPolicy: IfNotPresent}}}}");
    space.apply(&pod("reader", "", container, &volume))?;
    let log = space.until(&["logs", "reader"], PATIENCE, |log| log.contains("read-only\n"))?;
    contains(&log, "there\n")?;
    contains(&log, "not executed\n")
}
