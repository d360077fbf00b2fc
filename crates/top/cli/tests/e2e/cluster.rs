//! A one-node cluster in a lab host, and kubectl on it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// Longest wait for the server to be ready: generous, since the machine may be busy.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// A running cluster. [`Cluster::down`] removes it, and so does dropping it.
pub(crate) struct Cluster {
    lab: String,
    kubectl: PathBuf,
    kubeconfig: String,
    /// Address of the host.
    pub(crate) address: String,
    log: PathBuf,
}

fn environment(name: &str) -> Result<PathBuf> {
    let value = std::env::var_os(name);
    value
        .map(PathBuf::from)
        .with_context(|| format!("{name} is not set: run these tests by `cargo xtask test`, which provides kubectl and images"))
}

/// The binary under test.
pub(crate) fn trireme() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_trireme"))
}

impl Cluster {
    /// Starts a cluster and imports the images.
    pub(crate) fn start(lab: &str, arguments: &[&str]) -> Result<Self> {
        let kubectl = environment("TRIREME_TEST_KUBECTL")?;
        let images = environment("TRIREME_TEST_IMAGES")?;
        let mut cluster = Self {
            lab: lab.into(),
            kubectl,
            kubeconfig: String::new(),
            address: String::new(),
            log: PathBuf::new(),
        };
        cluster.lab(&["down"])?; // What an interrupted run left.
        cluster.lab(&[&["up", "--"], arguments].concat())?;
        let status: Vec<Value> = serde_json::from_str(&cluster.lab(&["status", "--output", "json"])?)?;
        let host = status.first().context("the lab has a host")?;
        let text = |name: &str| {
            host[name]
                .as_str()
                .map(str::to_owned)
                .with_context(|| format!("the lab tells {name}"))
        };
        cluster.kubeconfig = text("kubeconfig")?;
        cluster.address = text("address")?;
        cluster.log = text("log")?.into();
        eventually("a ready server", READY_LIMIT, || {
            let output = cluster.command(&["get", "--raw", "/readyz"]).output()?;
            Ok(output.status.success())
        })
        .with_context(|| format!("the log ends so:\n{}", cluster.log_tail()))?;
        for image in std::fs::read_dir(&images)? {
            let path = image?.path();
            if path.extension().is_some_and(|ending| ending == "tar") {
                let path = path.to_str().context("a path of plain letters")?;
                cluster.lab(&["exec", "--", &trireme().to_string_lossy(), "images", "import", path])?;
            }
        }
        // Every trial needs a node that takes pods; one that does not is told here, once.
        let mut told = String::new();
        let ready = eventually("a ready node without taints", READY_LIMIT, || {
            let output = cluster
                .command(&[
                    "get",
                    "nodes",
                    "-o",
                    "jsonpath={range .items[*].status.conditions[*]}{.type}={.status} {end}{.items[*].spec.taints}",
                ])
                .output()?;
            told = String::from_utf8_lossy(&output.stdout).into_owned();
            Ok(told.ends_with("Ready=True "))
        });
        ready.with_context(|| format!("the node says {told}; the log ends so:\n{}", cluster.log_tail()))?;
        Ok(cluster)
    }

    /// Runs `trireme lab` on this cluster's lab.
    pub(crate) fn lab(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new(trireme())
            .args(["lab", "--name", &self.lab])
            .args(arguments)
            .output()?;
        succeed(&format!("trireme lab {}", arguments.join(" ")), &output)
    }

    /// Path of the administrator's kubeconfig.
    pub(crate) fn kubeconfig(&self) -> &str {
        &self.kubeconfig
    }

    /// Removes the cluster.
    pub(crate) fn down(&self) -> Result<()> {
        self.lab(&["down"]).map(drop)
    }

    /// A kubectl command, not yet run.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.kubectl);
        command
            .args(["--kubeconfig", &self.kubeconfig])
            .args(arguments)
            .current_dir(root());
        command
    }

    /// Runs kubectl; its standard output, or an error with what it said.
    pub(crate) fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command(arguments).output()?;
        succeed(&format!("kubectl {}", arguments.join(" ")), &output)
    }

    /// Runs kubectl with something on standard input.
    pub(crate) fn run_with(&self, arguments: &[&str], input: &str) -> Result<String> {
        use std::io::Write;
        let mut command = self.command(arguments);
        command
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        let mut child = command.spawn()?;
        child.stdin.take().context("stdin is piped")?.write_all(input.as_bytes())?;
        succeed(&format!("kubectl {}", arguments.join(" ")), &child.wait_with_output()?)
    }

    /// Runs kubectl, which must fail; what it said on standard error.
    pub(crate) fn refused(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command(arguments).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success(), "kubectl {} succeeded", arguments.join(" "));
        Ok(said)
    }

    /// Waits until kubectl's output satisfies a condition.
    pub(crate) fn until(&self, arguments: &[&str], limit: Duration, holds: impl Fn(&str) -> bool) -> Result<String> {
        let mut last = String::new();
        let outcome = eventually(&format!("kubectl {}", arguments.join(" ")), limit, || {
            let output = self.command(arguments).output()?;
            last = format!(
                "{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
            Ok(output.status.success() && holds(&last))
        });
        outcome.with_context(|| format!("last answer: {last}")).map(|()| last.clone())
    }

    /// Makes a namespace that goes with the returned guard.
    pub(crate) fn namespace(&self, name: &'static str) -> Result<Namespace<'_>> {
        self.run(&["create", "namespace", name])?;
        self.until(
            &["get", "serviceaccount", "default", "-n", name],
            Duration::from_secs(20),
            |_| true,
        )?;
        Ok(Namespace { cluster: self, name })
    }

    /// All that the server logged.
    pub(crate) fn log(&self) -> Result<String> {
        std::fs::read_to_string(&self.log).with_context(|| format!("reading {}", self.log.display()))
    }

    /// The end of the server's log.
    pub(crate) fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(error) = self.down() {
            eprintln!("removing the cluster failed: {error:#}");
        }
    }
}

/// A namespace of one trial.
pub(crate) struct Namespace<'a> {
    cluster: &'a Cluster,
    name: &'static str,
}

impl Namespace<'_> {
    /// Runs kubectl in the namespace.
    pub(crate) fn run(&self, arguments: &[&str]) -> Result<String> {
        self.cluster.run(&[&["-n", self.name], arguments].concat())
    }

    /// Applies a manifest.
    pub(crate) fn apply(&self, manifest: &str) -> Result<String> {
        self.cluster.run_with(&["-n", self.name, "apply", "-f", "-"], manifest)
    }

    /// Waits until kubectl's output satisfies a condition.
    pub(crate) fn until(&self, arguments: &[&str], limit: Duration, holds: impl Fn(&str) -> bool) -> Result<String> {
        self.cluster.until(&[&["-n", self.name], arguments].concat(), limit, holds)
    }

    /// Runs kubectl, which must fail.
    pub(crate) fn refused(&self, arguments: &[&str]) -> Result<String> {
        self.cluster.refused(&[&["-n", self.name], arguments].concat())
    }

    /// A kubectl command, not yet run.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        self.cluster.command(&[&["-n", self.name], arguments].concat())
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        let deleted = self
            .cluster
            .run(&["delete", "namespace", self.name, "--wait=true", "--timeout=90s"]);
        if let Err(error) = deleted {
            eprintln!("deleting namespace {} failed: {error:#}", self.name);
        }
    }
}

/// The checkout.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..")
}

fn succeed(what: &str, output: &Output) -> Result<String> {
    if !output.status.success() {
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        bail!("`{what}` failed: {} {}", said(&output.stdout), said(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Asks again and again until it holds, up to a limit.
pub(crate) fn eventually(what: &str, limit: Duration, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !holds()? {
        ensure!(Instant::now() < deadline, "{what}: not within {} s", limit.as_secs());
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// That a text contains another.
pub(crate) fn contains(text: &str, wanted: &str) -> Result<()> {
    ensure!(text.contains(wanted), "{wanted:?} is not in:\n{text}");
    Ok(())
}
