//! Who may do what.

use anyhow::{Context, Result, ensure};

use super::{ready, shell};
use crate::cluster::{Cluster, Namespace, contains};

fn robot(space: &Namespace<'_>) -> Result<()> {
    space.run(&["create", "serviceaccount", "robot"])?;
    space.run(&["create", "role", "reader", "--verb=list", "--resource=pods"])?;
    space
        .run(&[
            "create",
            "rolebinding",
            "reader",
            "--role=reader",
            "--serviceaccount=access:robot",
        ])
        .map(drop)
}

pub(super) fn role(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("access")?;
    ensure!(
        cluster.run(&["auth", "can-i", "delete", "nodes"])? == "yes\n",
        "the admin may do all"
    );
    contains(&cluster.run(&["auth", "whoami"])?, "system:masters")?;
    let output = cluster.command(&["auth", "can-i", "list", "pods", "--as", "bob"]).output()?;
    ensure!(
        output.stdout == b"no\n" && output.status.code() == Some(1),
        "a plain user may not: {output:?}"
    );
    ensure!(
        cluster
            .run(&[
                "auth",
                "can-i",
                "create",
                "selfsubjectaccessreviews",
                "--as",
                "bob",
                "--as-group",
                "system:authenticated"
            ])?
            .contains("yes"),
        "but ask"
    );

    robot(&space)?;
    let token = space.run(&["create", "token", "robot", "--duration=10m"])?;
    let token = token.trim();
    // With this token alone, without the admin's certificate.
    let as_robot = |arguments: &[&str]| -> Result<std::process::Output> {
        let server = format!("https://{}:6443", cluster.address);
        let mut command = cluster.command(&["--server", &server, "--token", token, "-n", "access"]);
        let bare = tempfile::NamedTempFile::new()?;
        command
            .args(arguments)
            .args(["--kubeconfig", &bare.path().to_string_lossy(), "--insecure-skip-tls-verify"]);
        Ok(command.output()?)
    };
    let output = as_robot(&["get", "pods"])?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    contains(
        &String::from_utf8_lossy(&as_robot(&["auth", "whoami"])?.stdout),
        "system:serviceaccount:access:robot",
    )?;
    for (arguments, wanted) in [
        (
            &["get", "pod", "any"][..],
            "User \"system:serviceaccount:access:robot\" cannot get resource \"pods\" in API group \"\" in the namespace \"access\"",
        ),
        (
            &["get", "pods", "-A"],
            "cannot list resource \"pods\" in API group \"\" at the cluster scope",
        ),
        (&["get", "secrets"], "cannot list resource \"secrets\""),
        (&["get", "nodes"], "cannot list resource \"nodes\""),
        (
            &["create", "token", "robot"],
            "cannot create resource \"serviceaccounts/token\"",
        ),
        (&["get", "pods", "--as=kubernetes-admin"], "cannot impersonate"),
    ] {
        let output = as_robot(arguments)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success(), "{arguments:?} is allowed");
        contains(&said, wanted)?;
    }
    // Nobody gives away what is not his own.
    let escalation = space.refused(&[
        "create",
        "rolebinding",
        "more",
        "--clusterrole=cluster-admin",
        "--serviceaccount=access:robot",
        "--as=system:serviceaccount:access:robot",
    ])?;
    contains(&escalation, "cannot create resource \"rolebindings\"")?;
    // The token goes with its account.
    space.run(&["delete", "serviceaccount", "robot"])?;
    let output = as_robot(&["get", "pods"])?;
    contains(&String::from_utf8_lossy(&output.stderr), "Unauthorized")
}

pub(super) fn from_a_pod(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("access")?;
    robot(&space)?;
    // kubectl itself is the client: it is one static file, brought in from the host.
    let kubectl = std::path::PathBuf::from(cluster.command(&[]).get_program());
    let directory = kubectl.parent().context("kubectl is in a directory")?.canonicalize()?;
    space.apply(&format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: client}}
spec:
  serviceAccountName: robot
  terminationGracePeriodSeconds: 0
  containers:
  - {{name: main, image: 'busybox:1.35', command: [sleep, '3600'], volumeMounts: [{{name: tools, mountPath: /tools, readOnly: true}}]}}
  volumes: [{{name: tools, hostPath: {{path: {}, type: Directory}}}}]
",
        directory.display()
    ))?;
    ready(&space, &["client"])?;
    contains(&shell(&space, "client", "/tools/kubectl get pods")?, "client")?;
    contains(
        &shell(&space, "client", "/tools/kubectl get secrets 2>&1 || true")?,
        "cannot list resource \"secrets\"",
    )?;
    let account = "/var/run/secrets/kubernetes.io/serviceaccount";
    ensure!(
        shell(&space, "client", &format!("cat {account}/namespace"))? == "access",
        "the namespace is told"
    );
    // By name, with the CA that came with the token.
    let by_name = format!(
        "/tools/kubectl --server https://kubernetes.default.svc --certificate-authority {account}/ca.crt --token $(cat {account}/token) get pods -o name"
    );
    ensure!(
        shell(&space, "client", &by_name)? == "pod/client\n",
        "the API server answers to its name"
    );
    contains(
        &shell(&space, "client", "touch /tools/new 2>&1 || true")?,
        "Read-only file system",
    )
}
