//! `cargo xtask up`: from a clean clone to the example application on a real cluster.

use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::Value;

use crate::{packages, project, standin, tools};

/// Name of the lab that holds the cluster.
pub(crate) const LAB: &str = "trireme";
/// The registry of the example's image.
const REGISTRY: &str = "registry-1.docker.io:443";
/// Longest wait for the registry to accept a connection.
const REGISTRY_LIMIT: Duration = Duration::from_secs(3);
/// Longest wait for the server to say that it is ready.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// Longest wait for the HPA to show a figure: metrics need two samples.
const METRICS_LIMIT: Duration = Duration::from_secs(120);

/// Options of `cargo xtask up`.
#[derive(Args)]
pub(crate) struct Up {
    /// Do not apply the example application
    #[arg(long)]
    bare: bool,
    /// Further arguments for `trireme server`, behind `--`
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// The release binary.
pub(crate) fn binary() -> PathBuf {
    project::target().join("release/trireme")
}

/// Builds the release binary.
pub(crate) fn build() -> Result<()> {
    project::say("building (a few minutes the first time)");
    project::run(project::cargo().args(["build", "--release", "--package", "trireme"]))
}

/// The example cluster and the commands that act on it.
struct Cluster {
    kubectl: PathBuf,
    kubeconfig: String,
}

impl Cluster {
    fn kubectl(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.kubectl);
        command
            .args(["--kubeconfig", &self.kubeconfig])
            .args(arguments)
            .current_dir(project::root());
        command
    }

    fn run(&self, arguments: &[&str]) -> Result<()> {
        eprintln!("$ kubectl {}", arguments.join(" "));
        project::run(&mut self.kubectl(arguments))
    }

    fn wait_for(&self, what: &str, limit: Duration, arguments: &[&str], holds: impl Fn(&str) -> bool) -> Result<String> {
        let deadline = Instant::now() + limit;
        loop {
            let outcome = project::output(&mut self.kubectl(arguments));
            if let Ok(text) = &outcome
                && holds(text)
            {
                return Ok(text.clone());
            }
            if Instant::now() > deadline {
                match outcome {
                    Ok(text) => bail!("{what} did not come about within {} s; last answer: {text}", limit.as_secs()),
                    Err(error) => return Err(error.context(format!("{what} did not come about within {} s", limit.as_secs()))),
                }
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

/// Runs `cargo xtask up`.
pub(crate) fn run(options: &Up) -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "run as root: a node makes containers, links and cgroups"
    );
    packages::install(packages::NODE)?;
    packages::install(packages::TESTS)?;
    let kubectl = tools::kubectl()?;
    build()?;
    let binary = binary();

    project::say("starting a one-node cluster in network namespaces of its own");
    project::run(
        Command::new(&binary)
            .args(["lab", "--name", LAB, "up", "--"])
            .args(&options.arguments),
    )?;
    let host = lab_host(&binary)?;
    let kubeconfig = host["kubeconfig"].as_str().context("the lab names a kubeconfig")?.to_owned();
    wait_for_file(Path::new(&kubeconfig), &host)?;
    let cluster = Cluster { kubectl, kubeconfig };
    cluster.wait_for("a ready server", READY_LIMIT, &["get", "--raw", "/readyz"], |text| {
        text == "ok"
    })?;

    provide_images(&binary)?;
    if !options.bare {
        example(&cluster)?;
    }
    eprintln!();
    eprintln!("The cluster is up. To use it:");
    eprintln!("  export KUBECONFIG={}", cluster.kubeconfig);
    eprintln!("  {} get pods --all-namespaces", cluster.kubectl.display());
    eprintln!("`cargo xtask down` removes it.");
    Ok(())
}

fn lab_host(binary: &Path) -> Result<Value> {
    let status = project::output(Command::new(binary).args(["lab", "--name", LAB, "status", "--output", "json"]))?;
    let hosts: Vec<Value> = serde_json::from_str(&status)?;
    hosts.into_iter().next().context("the lab has no host")
}

fn wait_for_file(path: &Path, host: &Value) -> Result<()> {
    let deadline = Instant::now() + READY_LIMIT;
    while !path.exists() {
        ensure!(
            Instant::now() < deadline,
            "the server wrote no kubeconfig; see its log {}",
            host["log"].as_str().unwrap_or_default()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Pulls the example's image through the machine's network, or imports stand-ins where no registry answers.
fn provide_images(binary: &Path) -> Result<()> {
    let in_host = |arguments: &[&str]| {
        let mut command = Command::new(binary);
        command
            .args(["lab", "--name", LAB, "exec", "--machine-network", "--"])
            .arg(binary)
            .args(arguments);
        command
    };
    if registry_answers() {
        project::say("pulling nginx:1.16");
        if project::run(&mut in_host(&["images", "pull", standin::NGINX])).is_ok() {
            return Ok(());
        }
    }
    project::say("NO REGISTRY ANSWERS: a stand-in made from Debian's nginx package is imported under the name nginx:1.16");
    for archive in standin::all()? {
        project::run(in_host(&["images", "import"]).arg(archive))?;
    }
    Ok(())
}

fn registry_answers() -> bool {
    REGISTRY
        .to_socket_addrs()
        .ok()
        .and_then(|mut addresses| addresses.next())
        .is_some_and(|address| TcpStream::connect_timeout(&address, REGISTRY_LIMIT).is_ok())
}

fn example(cluster: &Cluster) -> Result<()> {
    project::say("the example application: a Deployment of three, a LoadBalancer Service and an HPA");
    cluster.run(&["apply", "-f", "examples/limit-range.yaml"])?;
    cluster.run(&["apply", "-f", "examples/nginx.yaml"])?;
    cluster.run(&["rollout", "status", "deployment/nginx-deployment", "--timeout=120s"])?;
    let address = cluster.wait_for(
        "an external address",
        Duration::from_secs(30),
        &[
            "get",
            "service",
            "nginx-service",
            "-o",
            "jsonpath={.status.loadBalancer.ingress[0].ip}",
        ],
        |text| !text.is_empty(),
    )?;
    project::say("waiting for the HPA to see the pods' CPU");
    cluster.wait_for(
        "a CPU figure at the HPA",
        METRICS_LIMIT,
        &[
            "get",
            "hpa.v2.autoscaling",
            "nginx-hpa",
            "-o",
            "jsonpath={.status.currentMetrics[0].resource.current.averageUtilization}",
        ],
        |text| text.parse::<u32>().is_ok(),
    )?;
    cluster.run(&["get", "pods,services,hpa", "-o", "wide"])?;
    project::say(format!("fetching http://{address}/ through the Service"));
    let page = project::output(Command::new("curl").args([
        "--silent",
        "--show-error",
        "--fail",
        "--max-time",
        "5",
        &format!("http://{address}/"),
    ]))?;
    ensure!(page.contains("Welcome to nginx!"), "this is not nginx's page: {page}");
    println!("{}", page.trim());
    Ok(())
}
