//! A cluster of three servers in a lab, the application in it, and trials of faults under load.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use parking_lot::Mutex;
use serde_json::Value;
use trireme_checker::{History, Outcome, Record};

use crate::load::{self, Server, Shared};
use crate::recorder::{Recorder, longest_gap};
use crate::visitors::{self, Visitor, Visits};

/// Longest wait for anything to become as it should be, in a debug build on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
/// Writers at each server.
const WRITERS: usize = 2;
/// Node port of the application.
const NODE_PORT: u16 = 30080;

const APPLICATION: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: default}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: nginx
        image: nginx:1.16
        readinessProbe: {httpGet: {path: /, port: 80}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80, nodePort: 30080}]
";

/// The cluster.
pub(crate) struct Ground {
    lab: String,
    kubectl: PathBuf,
    hosts: Mutex<Vec<Host>>,
    trials: AtomicU64,
}

/// One host of it.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) address: String,
    pub(crate) kubeconfig: String,
    pub(crate) log: String,
}

/// What a trial brought.
#[derive(Debug)]
pub(crate) struct Report {
    /// Longest time without an acknowledged write, at servers that the fault did not touch.
    pub(crate) gap: Duration,
    pub(crate) visits: Visits,
}

fn environment(name: &str) -> Result<PathBuf> {
    let value = std::env::var_os(name);
    value
        .map(PathBuf::from)
        .with_context(|| format!("{name} is not set: run these tests by `cargo xtask test`, which provides kubectl and images"))
}

/// The binary under test.
fn trireme() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_trireme"))
}

/// Asks again and again until it holds, up to a limit.
pub(crate) fn eventually(what: &str, limit: Duration, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !holds().unwrap_or(false) {
        if Instant::now() >= deadline {
            holds().with_context(|| format!("{what}: not within {} s", limit.as_secs()))?;
            bail!("{what}: not within {} s", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    ensure!(
        output.status.success(),
        "{command:?} failed: {} {}",
        said(&output.stdout),
        said(&output.stderr)
    );
    Ok(said(&output.stdout))
}

impl Ground {
    /// Makes the cluster and the application.
    pub(crate) fn start(lab: &str) -> Result<Self> {
        let ground = Self {
            lab: lab.into(),
            kubectl: environment("TRIREME_TEST_KUBECTL")?,
            hosts: Mutex::default(),
            trials: AtomicU64::new(0),
        };
        ground.lab(&["down"])?; // What an interrupted run left.
        ground.lab(&["up", "--servers", "3", "--no-kubeconfig", "--timeout", "120"])?;
        ground.refresh()?;
        for host in ground.hosts() {
            ground.import(&host)?;
        }
        let manifest = std::env::temp_dir().join(format!("{lab}-application.yaml"));
        std::fs::write(&manifest, APPLICATION)?;
        let path = manifest.to_string_lossy().into_owned();
        ground.kubectl(0, &["apply", "-f", &path])?;
        std::fs::remove_file(manifest)?;
        ground.kubectl(0, &["rollout", "status", "deployment/web", "--timeout=120s"])?;
        ground.settled()?;
        Ok(ground)
    }

    /// The hosts that there are.
    pub(crate) fn hosts(&self) -> Vec<Host> {
        self.hosts.lock().clone()
    }

    /// One of them.
    pub(crate) fn host(&self, host: usize) -> Host {
        self.hosts.lock()[host].clone()
    }

    /// Gives a host the images.
    pub(crate) fn import(&self, host: &Host) -> Result<()> {
        for image in std::fs::read_dir(environment("TRIREME_TEST_IMAGES")?)? {
            let path = image?.path();
            if path.extension().is_some_and(|ending| ending == "tar") {
                let (binary, path) = (trireme().to_string_lossy(), path.to_string_lossy().into_owned());
                self.lab(&["exec", "--host", &host.name, "--", &binary, "images", "import", &path])?;
            }
        }
        Ok(())
    }

    /// Runs `trireme lab`.
    pub(crate) fn lab(&self, arguments: &[&str]) -> Result<String> {
        run(Command::new(trireme()).args(["lab", "--name", &self.lab]).args(arguments))
    }

    /// Looks anew at which hosts there are.
    pub(crate) fn refresh(&self) -> Result<()> {
        let status: Value = serde_json::from_str(&self.lab(&["status", "--output", "json"])?)?;
        let hosts = status
            .as_array()
            .or_else(|| status["hosts"].as_array())
            .context("the lab tells its hosts")?;
        let text = |host: &Value, name: &str| host[name].as_str().unwrap_or_default().to_owned();
        *self.hosts.lock() = hosts
            .iter()
            .map(|host| Host {
                name: text(host, "name"),
                address: text(host, "address"),
                kubeconfig: text(host, "kubeconfig"),
                log: text(host, "log"),
            })
            .collect();
        Ok(())
    }

    /// Runs kubectl on one server.
    pub(crate) fn kubectl(&self, host: usize, arguments: &[&str]) -> Result<String> {
        run(Command::new(&self.kubectl)
            .args(["--kubeconfig", &self.host(host).kubeconfig, "--request-timeout=20s"])
            .args(arguments))
    }

    /// `trireme …` on one host.
    pub(crate) fn trireme(&self, host: usize, arguments: &[&str]) -> Result<String> {
        let binary = trireme().to_string_lossy();
        let host = self.host(host);
        let all = [&["exec", "--host", &host.name, "--", &*binary], arguments].concat();
        self.lab(&all)
    }

    /// The cluster's status as one host sees it.
    pub(crate) fn status(&self, host: usize) -> Result<Value> {
        Ok(serde_json::from_str(&self.trireme(host, &["status", "--output", "json"])?)?)
    }

    /// Which host leads, as any of `asked` says.
    pub(crate) fn leader(&self, asked: &[usize]) -> Result<usize> {
        let mut found = None;
        eventually("a leader", PATIENCE, || {
            for host in asked {
                let Ok(status) = self.status(*host) else { continue };
                let members = status["members"].as_array().cloned().unwrap_or_default();
                let leader = members.iter().find(|known| known["member"]["id"] == status["leader"]);
                let name = leader.and_then(|known| known["member"]["name"].as_str());
                found = name.and_then(|name| self.hosts().iter().position(|host| host.name == name));
                if found.is_some() {
                    return Ok(true);
                }
            }
            Ok(false)
        })?;
        found.context("a leader")
    }

    /// Whether a server says that it is ready.
    pub(crate) fn ready(&self, host: usize) -> bool {
        self.kubectl(host, &["get", "--raw", "/readyz"])
            .is_ok_and(|said| said == "ok")
    }

    /// Waits until all servers are voters, ready and in step, and the application answers on every host.
    pub(crate) fn settled(&self) -> Result<()> {
        for host in 0..self.hosts().len() {
            eventually(&format!("server {} ready", self.host(host).name), PATIENCE, || {
                Ok(self.kubectl(host, &["get", "--raw", "/readyz"])? == "ok")
            })?;
        }
        eventually("three voters in step", PATIENCE, || {
            let status = self.status(0)?;
            let members = status["members"].as_array().context("members")?;
            let well = |known: &&Value| {
                known["role"] == "Voter"
                    && known["lagEntries"].as_u64().is_some_and(|lag| lag < 100)
                    && known["lastHeardMs"].as_u64().is_some_and(|ms| ms < 2000)
            };
            Ok(members.len() == self.hosts().len() && members.iter().filter(well).count() == self.hosts().len())
        })?;
        eventually("ready nodes", PATIENCE, || {
            let path = "jsonpath={.items[*].status.conditions[?(@.type=='Ready')].status}";
            let ready = self.kubectl(0, &["get", "nodes", "-o", path])?;
            Ok(ready.split_whitespace().filter(|status| *status == "True").count() >= self.hosts().len())
        })?;
        for address in self.doors()? {
            eventually(&format!("the application at {address}"), PATIENCE, || {
                Ok(visitors::get(address).is_ok())
            })?;
        }
        Ok(())
    }

    /// The application's addresses on all hosts.
    fn doors(&self) -> Result<Vec<SocketAddr>> {
        let addresses = self
            .hosts()
            .into_iter()
            .map(|host| Ok(format!("{}:{NODE_PORT}", host.address).parse()?));
        addresses.collect()
    }

    fn server(&self, host: &Host) -> Result<Server> {
        let text = run(Command::new(&self.kubectl).args(["--kubeconfig", &host.kubeconfig]).args([
            "config",
            "view",
            "--raw",
            "--flatten",
            "-o",
            "json",
        ]))?;
        let config: Value = serde_json::from_str(&text)?;
        let (cluster, user) = (&config["clusters"][0]["cluster"], &config["users"][0]["user"]);
        let pem = |value: &Value| -> Result<Vec<u8>> {
            Ok(base64::engine::general_purpose::STANDARD.decode(value.as_str().context("the kubeconfig holds it")?)?)
        };
        // Someone else of this process may have installed it already, which serves as well.
        drop(rustls::crypto::ring::default_provider().install_default());
        let identity = [
            pem(&user["client-certificate-data"])?,
            b"\n".to_vec(),
            pem(&user["client-key-data"])?,
        ]
        .concat();
        let client = reqwest::Client::builder()
            .tls_certs_only([reqwest::Certificate::from_pem(&pem(&cluster["certificate-authority-data"])?)?])
            .identity(reqwest::Identity::from_pem(&identity)?)
            .connect_timeout(Duration::from_secs(2))
            .build()?;
        Ok(Server {
            name: host.name.clone(),
            url: cluster["server"]
                .as_str()
                .context("the kubeconfig names the server")?
                .to_owned(),
            client,
        })
    }

    /// The APIs of all hosts.
    pub(crate) fn servers(&self) -> Result<Vec<Server>> {
        self.hosts().iter().map(|host| self.server(host)).collect()
    }

    /// Writes, watches and visits go on while `fault` happens and is mended; then everything is judged. `touched` are the
    /// hosts whose own clients may see failures.
    pub(crate) fn trial(&self, touched: &[usize], fault: impl FnOnce(&Trial) -> Result<()>) -> Result<Report> {
        let touched: Vec<String> = touched.iter().map(|host| self.host(*host).name).collect();
        let number = self.trials.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("trial-{number}");
        self.kubectl(0, &["create", "namespace", &namespace])?;
        let servers = self.servers()?;
        let shared = Arc::new(Shared {
            servers: servers.clone(),
            namespace: namespace.clone(),
            recorder: Recorder::new(),
            stop: AtomicBool::new(false),
            through: AtomicU64::new(0),
        });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let mut client = 0;
        let mut writers = Vec::new();
        for server in &servers {
            for _ in 0..WRITERS {
                client += 1;
                writers.push(runtime.spawn(load::write(Arc::clone(&shared), server.clone(), client)));
            }
        }
        let watchers: Vec<_> = (0..servers.len())
            .map(|first| runtime.spawn(load::watch(Arc::clone(&shared), first, first as u64 + 1)))
            .collect();
        let visitor = Visitor::start(self.doors()?);
        let trial = Trial {
            shared: Arc::clone(&shared),
            begun: Mutex::new(None),
        };
        let outcome = trial.progress(30).and_then(|()| {
            *trial.begun.lock() = Some(shared.recorder.now());
            fault(&trial)?;
            trial.progress(30)
        });
        let ended = shared.recorder.now();
        shared.stop.store(true, Ordering::Relaxed);
        for writer in writers {
            runtime.block_on(writer)?;
        }
        let visits = visitor.finish()?;
        outcome?;
        self.settled()?;

        // Everything that was acknowledged must have been told by every watch, and be at every server.
        let through = last_revision(&shared.recorder.history());
        shared.through.store(through, Ordering::Relaxed);
        for watcher in watchers {
            let told = async { tokio::time::timeout(PATIENCE, watcher).await };
            runtime
                .block_on(told)
                .with_context(|| format!("a watch did not tell everything up to {through}"))???;
        }
        for host in self.hosts() {
            let server = self.server(&host)?;
            let listing = runtime.block_on(load::list(&shared, &server));
            let listing = listing.with_context(|| format!("{} does not list", server.name))?;
            shared.recorder.push(Record::Listing(listing));
        }
        self.kubectl(0, &["delete", "namespace", &namespace, "--wait=false"])?;
        let history = shared.recorder.history();
        self.judge(&history, &namespace)?;
        let begun = trial.begun.lock().unwrap_or(0);
        let report = Report {
            gap: longest_gap(&history, begun..ended, |server| !touched.iter().any(|name| name == server)),
            visits,
        };
        eprintln!(
            "  {} operations; longest gap of writes {} ms, of the application {} ms ({} visits, {} addresses given up)",
            history.operations.len(),
            report.gap.as_millis(),
            report.visits.longest_gap.as_millis(),
            report.visits.answered,
            report.visits.given_up.len()
        );
        Ok(report)
    }

    fn judge(&self, history: &History, name: &str) -> Result<()> {
        let violations = trireme_checker::check(history);
        if violations.is_empty() {
            return Ok(());
        }
        let path = std::env::temp_dir().join(format!("trireme-{}-{name}.history.jsonl", self.lab));
        std::fs::write(&path, history.to_lines())?;
        let shown: Vec<String> = violations.iter().take(5).map(ToString::to_string).collect();
        bail!(
            "{} violations, history in {}:\n{}",
            violations.len(),
            path.display(),
            shown.join("\n")
        )
    }

    /// The ends of all logs.
    pub(crate) fn logs(&self) -> String {
        let mut all = String::new();
        for host in self.hosts() {
            let text = std::fs::read_to_string(&host.log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            all.push_str(&format!(
                "--- {}\n{}\n",
                host.name,
                lines[lines.len().saturating_sub(25)..].join("\n")
            ));
        }
        all
    }

    /// Removes the cluster.
    pub(crate) fn down(&self) -> Result<()> {
        self.lab(&["down"]).map(drop)
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if let Err(error) = self.down() {
            eprintln!("removing the lab failed: {error:#}");
        }
    }
}

/// A trial that is going on.
pub(crate) struct Trial {
    shared: Arc<Shared>,
    begun: Mutex<Option<u64>>,
}

impl Trial {
    /// Waits until so many more writes were acknowledged.
    pub(crate) fn progress(&self, writes: usize) -> Result<()> {
        let since = self.shared.recorder.now();
        eventually(&format!("{writes} acknowledged writes"), PATIENCE, || {
            Ok(self.shared.recorder.acknowledged_since(since) >= writes)
        })
    }

    /// Whether any write is acknowledged within a time.
    pub(crate) fn stands_still(&self, time: Duration) -> bool {
        let since = self.shared.recorder.now();
        std::thread::sleep(time);
        self.shared.recorder.acknowledged_since(since) == 0
    }
}

fn last_revision(history: &History) -> u64 {
    let applied = history.operations.iter().filter_map(|operation| match operation.outcome {
        Outcome::Applied { revision } => Some(revision),
        _ => None,
    });
    applied.max().unwrap_or(0)
}
