//! What a container finds in its environment and its volumes.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{ready, shell};
use crate::cluster::{Cluster, contains};

const SOURCES: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: conf}
data: {greeting: hello, file.txt: first}
binaryData: {raw: AAEC}
---
apiVersion: v1
kind: Secret
metadata: {name: hidden}
stringData: {password: secret words}
";

const FILLED: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: filled, labels: {tier: front}, annotations: {note: seen}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: busybox:1.35
    command: [sh, -c, 'echo "$0" > /scratch/command; exec sleep 3600', '$(GREETING)/$(COMPOSED)/$$(GREETING)/$(NONE)']
    env:
    - {name: GREETING, valueFrom: {configMapKeyRef: {name: conf, key: greeting}}}
    - {name: COMPOSED, value: 'say $(GREETING) $(UNKNOWN)'}
    - {name: PASSWORD, valueFrom: {secretKeyRef: {name: hidden, key: password}}}
    - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: TIER, valueFrom: {fieldRef: {fieldPath: 'metadata.labels[''tier'']'}}}
    - {name: ADDRESS, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    - {name: MEMORY, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}
    - {name: MISSING, valueFrom: {configMapKeyRef: {name: none, key: none, optional: true}}}
    envFrom: [{configMapRef: {name: conf}, prefix: ALL_}]
    resources: {limits: {memory: 64Mi}}
    volumeMounts:
    - {name: scratch, mountPath: /scratch}
    - {name: memory, mountPath: /memory}
    - {name: conf, mountPath: /conf, readOnly: true}
    - {name: one, mountPath: /one.txt, subPath: file.txt}
    - {name: hidden, mountPath: /hidden}
    - {name: info, mountPath: /info}
    - {name: all, mountPath: /all}
    - {name: host, mountPath: /host}
  volumes:
  - {name: scratch, emptyDir: {}}
  - {name: memory, emptyDir: {medium: Memory, sizeLimit: 8Mi}}
  - {name: conf, configMap: {name: conf}}
  - {name: one, configMap: {name: conf}}
  - {name: hidden, secret: {secretName: hidden, defaultMode: 0400, items: [{key: password, path: deep/word}]}}
  - {name: host, hostPath: {path: /var/lib/trireme/e2e-host-path, type: DirectoryOrCreate}}
  - name: info
    downwardAPI:
      items:
      - {path: labels, fieldRef: {fieldPath: metadata.labels}}
      - {path: limit, resourceFieldRef: {containerName: main, resource: limits.memory}}
  - name: all
    projected:
      sources:
      - {configMap: {name: conf, items: [{key: greeting, path: greeting}]}}
      - {secret: {name: hidden}}
      - {serviceAccountToken: {path: token, audience: somebody, expirationSeconds: 3600}}
"#;

pub(super) fn filled(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("filled")?;
    space.apply(SOURCES)?;
    space.apply(FILLED)?;
    ready(&space, &["filled"])?;
    let address = super::field(&space, "pod/filled", ".status.podIP")?;
    let node = super::field(&space, "pod/filled", ".spec.nodeName")?;
    let environment = shell(&space, "filled", "env")?;
    for wanted in [
        "GREETING=hello",
        "COMPOSED=say hello $(UNKNOWN)",
        "PASSWORD=secret words",
        "POD=filled",
        "TIER=front",
        &format!("ADDRESS={address}"),
        &format!("NODE={node}"),
        "MEMORY=64",
        "ALL_greeting=hello",
        "KUBERNETES_SERVICE_HOST=10.43.0.1",
        "HOSTNAME=filled",
    ] {
        ensure!(
            environment.lines().any(|line| line == wanted),
            "{wanted} is not in\n{environment}"
        );
    }
    ensure!(
        !environment.contains("MISSING"),
        "an optional variable without source is not set"
    );
    let file = |path: &str| shell(&space, "filled", &format!("cat {path}"));
    for (path, wanted) in [
        ("/scratch/command", "hello/say hello $(UNKNOWN)/$(GREETING)/$(NONE)\n"),
        ("/conf/file.txt", "first"),
        ("/one.txt", "first"),
        ("/hidden/deep/word", "secret words"),
        ("/info/labels", "tier=\"front\""),
        ("/info/limit", "67108864"),
        ("/all/greeting", "hello"),
        ("/all/password", "secret words"),
    ] {
        let is = file(path)?;
        ensure!(is == wanted, "{path} holds {is:?}");
    }
    ensure!(file("/all/token")?.split('.').count() == 3, "a token has three parts");
    contains(&shell(&space, "filled", "wc -c < /conf/raw")?, "3")?;
    contains(
        &shell(&space, "filled", "stat -L -c %a /hidden/deep/word /conf/file.txt /scratch")?,
        "400\n644\n777",
    )?;
    contains(&shell(&space, "filled", "grep ' /memory ' /proc/mounts")?, "size=8192k")?;
    contains(
        &shell(&space, "filled", "touch /conf/new 2>&1 || true")?,
        "Read-only file system",
    )?;
    shell(&space, "filled", "echo kept > /host/file; sync")?;
    contains(
        &cluster.lab(&["exec", "--", "cat", "/var/lib/trireme/e2e-host-path/file"])?,
        "kept",
    )?;
    contains(&shell(&space, "filled", "cat /etc/resolv.conf")?, "nameserver 10.43.0.10")?;
    contains(&shell(&space, "filled", "cat /etc/hosts")?, &format!("{address}\tfilled"))
}

pub(super) fn followed(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("followed")?;
    space.apply(SOURCES)?;
    space.apply(
        "
apiVersion: v1
kind: Pod
metadata: {name: reader, labels: {colour: red}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: busybox:1.35
    command: [sleep, '3600']
    volumeMounts: [{name: conf, mountPath: /conf}, {name: info, mountPath: /info}]
  volumes:
  - {name: conf, configMap: {name: conf}}
  - {name: info, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}
",
    )?;
    ready(&space, &["reader"])?;
    space.run(&[
        "patch",
        "configmap",
        "conf",
        "-p",
        r#"{"data": {"file.txt": "second", "more": "new"}}"#,
    ])?;
    space.run(&["label", "pod", "reader", "colour=blue", "--overwrite"])?;
    // The kubelet looks at least once a minute.
    let limit = Duration::from_secs(100);
    space.until(
        &["exec", "reader", "--", "cat", "/conf/file.txt", "/conf/more"],
        limit,
        |text| text.contains("secondnew"),
    )?;
    space.until(&["exec", "reader", "--", "cat", "/info/labels"], limit, |text| {
        text.contains("colour=\"blue\"")
    })?;
    ensure!(
        super::field(&space, "pod/reader", ".status.containerStatuses[0].restartCount")? == "0",
        "nothing was restarted"
    );
    Ok(())
}
