//! What a host can be wrong about: ports, directories, rights, tools, configuration.

use std::process::Command;

use anyhow::{Result, ensure};

use crate::cluster::{Cluster, contains, trireme};

/// Runs the binary in the lab's host, beside the server there; it must fail. What it said on standard error.
fn beside(cluster: &Cluster, environment: &[&str], arguments: &[&str]) -> Result<String> {
    let binary = trireme().to_string_lossy();
    let command = [&["exec", "--", "timeout", "20", "env"], environment, &[&*binary], arguments].concat();
    // The lab passes on what the command said and its exit code.
    match cluster.lab(&command) {
        Ok(said) => anyhow::bail!("`trireme {}` succeeded: {said}", arguments.join(" ")),
        Err(error) => Ok(format!("{error:#}")),
    }
}

/// That one line says all, and what it says.
fn one_line(said: &str, wanted: &[&str]) -> Result<()> {
    let line = said.lines().find(|line| line.contains("trireme: ")).unwrap_or_default();
    for text in wanted {
        ensure!(line.contains(text), "{text:?} is not in the line {line:?} of:\n{said}");
    }
    ensure!(said.lines().count() == 1, "more than one line:\n{said}");
    Ok(())
}

pub(super) fn taken(cluster: &Cluster) -> Result<()> {
    let said = beside(cluster, &[], &["server"])?;
    one_line(&said, &["6443 is in use by another program", "choose another --secure-port"])?;
    let said = beside(cluster, &[], &["server", "--secure-port", "7443"])?;
    one_line(&said, &["2380 is in use by another program", "choose another --peer-port"])?;
    let said = beside(
        cluster,
        &[],
        &[
            "server",
            "--secure-port",
            "7443",
            "--peer-port",
            "7380",
            "--kubelet-port",
            "11250",
        ],
    )?;
    one_line(
        &said,
        &["the data directory /var/lib/trireme", "is in use by another process"],
    )?;
    let said = beside(
        cluster,
        &[],
        &[
            "server",
            "--secure-port",
            "7443",
            "--peer-port",
            "7380",
            "--data-dir",
            "/run/second",
            "--run-dir",
            "/run/second",
            "--kubeconfig",
            "/run/second/kubeconfig",
        ],
    )?;
    one_line(&said, &["10250 is in use by another program", "--kubelet-port"])?;
    ensure!(
        cluster
            .lab(&["exec", "--", "sh", "-c", "ls /run/second 2>/dev/null || true"])?
            .is_empty(),
        "something was made"
    );
    // The server that was there is unharmed.
    contains(&cluster.run(&["get", "--raw", "/readyz"])?, "ok")
}

pub(super) fn configuration(cluster: &Cluster) -> Result<()> {
    let file = |text: &str| -> Result<String> {
        cluster.lab(&["exec", "--", "sh", "-c", &format!("printf '{text}' > /run/wrong.yaml")])?;
        beside(cluster, &[], &["server", "--config", "/run/wrong.yaml"])
    };
    one_line(
        &file("nonsense-key: 1\\n")?,
        &["/run/wrong.yaml: unknown key \"nonsense-key\"", "trireme server --help"],
    )?;
    one_line(&file("broken: [\\n")?, &["/run/wrong.yaml: not valid YAML: ", "`key: value`"])?;
    one_line(
        &file("secure-port: high\\n")?,
        &[
            "/run/wrong.yaml: invalid value 'high' for '--secure-port",
            "correct the value of \"secure-port\"",
        ],
    )?;
    one_line(
        &beside(cluster, &[], &["server", "--config", "/run/none.yaml"])?,
        &["/run/none.yaml: there is no such file; correct --config"],
    )?;
    for (flag, value, wanted) in [
        (
            "--service-cidr",
            "nonsense",
            "\"nonsense\" is not an IPv4 range like 10.43.0.0/16",
        ),
        ("--cluster-cidr", "10.42.0.0/33", "the prefix must be between"),
        ("--log-level", "x=y=z", "is no level and no filter"),
        ("--cluster-dns", "192.0.2.1", "--cluster-dns"),
        ("--service-node-port-range", "5-1", "--service-node-port-range"),
        ("--token-auth-file", "/run/none.csv", "/run/none.csv"),
    ] {
        let said = beside(cluster, &[], &["server", flag, value])?;
        one_line(&said, &[wanted])?;
    }
    contains(
        &beside(cluster, &[], &["server", "--nonsense"])?,
        "unexpected argument '--nonsense'",
    )?;
    contains(
        &beside(cluster, &[], &["server", "--eviction-hard", "disk<1Gi"])?,
        "unsupported eviction signal \"disk\"; there are memory.available, nodefs.available",
    )?;
    contains(&beside(cluster, &["TRIREME_SECURE_PORT=many"], &["server"])?, "'many'")
}

pub(super) fn rights(cluster: &Cluster) -> Result<()> {
    let binary = trireme().to_string_lossy();
    let copy = tempfile::tempdir()?;
    // Where nobody may go: the checkout may be root's alone.
    let own = copy.path().join("trireme");
    std::fs::copy(trireme(), &own)?;
    std::fs::set_permissions(copy.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    for (arguments, wanted) in [
        (&["server"][..], "needs root"),
        (&["lab", "--name", "e2e-nobody", "up"], "needs root"),
    ] {
        let output = Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&own)
            .args(arguments)
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            output.status.code() == Some(1),
            "{binary} {arguments:?}: {:?} {said}",
            output.status
        );
        one_line(said.trim_end(), &[wanted])?;
    }
    contains(&cluster.run(&["get", "--raw", "/readyz"])?, "ok")
}

pub(super) fn tools(cluster: &Cluster) -> Result<()> {
    let second = [
        "server",
        "--secure-port",
        "7443",
        "--peer-port",
        "7380",
        "--kubelet-port",
        "11250",
        "--data-dir",
        "/run/second",
        "--run-dir",
        "/run/second",
        "--kubeconfig",
        "/run/second/kubeconfig",
    ];
    // A mount namespace without the directory where nft is.
    let script = format!(
        "mount -t tmpfs none /usr/sbin && exec {} {}",
        trireme().display(),
        second.join(" ")
    );
    let said = match cluster.lab(&["exec", "--", "timeout", "20", "unshare", "--mount", "sh", "-c", &script]) {
        Ok(said) => anyhow::bail!("a server without nft started: {said}"),
        Err(error) => format!("{error:#}"),
    };
    one_line(&said, &["nft", "apt-get install nftables"])?;
    ensure!(
        cluster
            .lab(&["exec", "--", "sh", "-c", "ls /run/second 2>/dev/null || true"])?
            .is_empty(),
        "something was made"
    );
    contains(&cluster.run(&["get", "--raw", "/readyz"])?, "ok")
}

pub(super) fn archives(cluster: &Cluster) -> Result<()> {
    one_line(
        &beside(cluster, &[], &["images", "import", "/no/such.tar"])?,
        &["/no/such.tar", "No such file or directory"],
    )?;
    one_line(
        &beside(cluster, &[], &["images", "import", "/etc/passwd"])?,
        &["/etc/passwd", "neither an OCI nor a docker archive"],
    )?;
    one_line(
        &beside(cluster, &[], &["images", "rm", "none"])?,
        &["there is no image none", "trireme images list"],
    )?;
    let images = cluster.lab(&["exec", "--", &trireme().to_string_lossy(), "images", "list"])?;
    contains(&images, "docker.io/library/nginx:1.16")
}
