//! Three servers and two agents in a lab, a web server and a client on each of them, and kubectl by way of any server.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use parking_lot::Mutex;
use serde_json::Value;

/// Longest wait for anything to become as it should be, in a debug build on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Silence after which a node is given up here.
pub(crate) const GRACE: Duration = Duration::from_secs(20);
/// Servers.
pub(crate) const SERVERS: usize = 3;
/// Hosts; those behind the servers are agents.
pub(crate) const HOSTS: usize = 5;
/// A node port of the web servers.
pub(crate) const NODE_PORT: u16 = 30090;
/// The same, for visitors of that node's own alone.
pub(crate) const LOCAL_PORT: u16 = 30091;

const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80, targetPort: http, nodePort: 30090}]
---
apiVersion: v1
kind: Service
metadata: {name: local}
spec:
  type: NodePort
  externalTrafficPolicy: Local
  selector: {app: web}
  ports: [{port: 80, targetPort: http, nodePort: 30091}]
";

/// The cluster.
pub(crate) struct Ground {
    lab: String,
    kubectl: PathBuf,
    pub(crate) hosts: Vec<Host>,
}

/// How the servers are asked.
pub(crate) struct Servers {
    kubectl: PathBuf,
    /// Kubeconfig and address of each.
    servers: Vec<(String, String)>,
}

impl Servers {
    /// A kubectl command that asks one of them, by number modulo their count, for a path.
    pub(crate) fn raw(&self, server: usize, path: &str) -> Command {
        let (kubeconfig, address) = &self.servers[server % self.servers.len()];
        let url = format!("https://{address}:6443");
        let mut command = Command::new(&self.kubectl);
        command.args(["--kubeconfig", kubeconfig, "--server", &url, "get", "--raw", path]);
        command
    }
}

/// One host of it.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) address: String,
    pub(crate) process: i64,
    kubeconfig: String,
    log: String,
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

/// Asks again and again until it holds, up to a limit; how long that took.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<Duration> {
    let start = Instant::now();
    loop {
        let outcome = holds();
        if matches!(outcome, Ok(true)) {
            return Ok(start.elapsed());
        }
        if start.elapsed() >= PATIENCE {
            outcome.with_context(|| format!("{what}: not within {} s", PATIENCE.as_secs()))?;
            bail!("{what}: not within {} s", PATIENCE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn succeed(what: &str, output: &Output) -> Result<String> {
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    ensure!(
        output.status.success(),
        "{what} failed: {} {}",
        said(&output.stdout),
        said(&output.stderr)
    );
    Ok(said(&output.stdout))
}

impl Ground {
    pub(crate) fn start(lab: &str) -> Result<Self> {
        let mut ground = Self {
            lab: lab.to_owned(),
            kubectl: environment("TRIREME_TEST_KUBECTL")?,
            hosts: vec![],
        };
        let images = environment("TRIREME_TEST_IMAGES")?;
        ground.down()?; // What an interrupted run left.
        let start = Instant::now();
        let (servers, agents) = (SERVERS.to_string(), (HOSTS - SERVERS).to_string());
        let grace = format!("{}s", GRACE.as_secs());
        ground.lab(&[
            "up",
            "--servers",
            &servers,
            "--agents",
            &agents,
            "--no-kubeconfig",
            "--",
            "--vip",
            "{subnet}.200",
            "--load-balancer-pool",
            "{subnet}.210-{subnet}.219",
            "--node-monitor-grace-period",
            &grace,
        ])?;
        eprintln!("  up to all Ready in {} ms", start.elapsed().as_millis());
        ground.refresh()?;
        for host in &ground.hosts {
            for archive in ["busybox-1.35.tar", "nginx-1.16.tar"] {
                let archive = images.join(archive);
                let archive = archive.to_str().context("a path of plain letters")?;
                ground.exec(&host.name, &["trireme", "images", "import", archive])?;
            }
        }
        ground.serve()?;
        Ok(ground)
    }

    /// A web server and a client on each host, and Services before the web servers.
    pub(crate) fn serve(&self) -> Result<()> {
        let mut manifest = SERVICES.to_owned();
        for host in &self.hosts {
            let name = &host.name;
            write!(
                manifest,
                "---
apiVersion: v1
kind: Pod
metadata: {{name: web-{name}, labels: {{app: web}}}}
spec:
  nodeName: {name}
  terminationGracePeriodSeconds: 1
  containers:
  - name: nginx
    image: nginx:1.16
    ports: [{{containerPort: 80, name: http}}]
    readinessProbe: {{httpGet: {{path: /, port: http}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Pod
metadata: {{name: client-{name}, labels: {{app: client}}}}
spec:
  nodeName: {name}
  terminationGracePeriodSeconds: 1
  containers:
  - name: busybox
    image: busybox:1.35
    command: [sh, -c, 'echo begins on {name}; sleep 1000000']
"
            )?;
        }
        self.apply(&manifest)?;
        self.kubectl(0, &["wait", "--for=condition=Ready", "pods", "--all", "--timeout=60s"])
            .map(drop)
    }

    /// Looks anew where the hosts are.
    pub(crate) fn refresh(&mut self) -> Result<()> {
        let status: Vec<Value> = serde_json::from_str(&self.lab(&["status", "--output", "json"])?)?;
        let text = |host: &Value, name: &str| {
            host[name]
                .as_str()
                .map(str::to_owned)
                .with_context(|| format!("the lab tells {name}"))
        };
        let hosts = status.iter().map(|host| {
            Ok(Host {
                name: text(host, "name")?,
                address: text(host, "address")?,
                process: host["serverPid"].as_i64().unwrap_or(0),
                kubeconfig: text(host, "kubeconfig")?,
                log: text(host, "log")?,
            })
        });
        self.hosts = hosts.collect::<Result<_>>()?;
        Ok(())
    }

    /// The first three parts of the hosts' addresses.
    pub(crate) fn subnet(&self) -> &str {
        let address = &self.hosts[0].address;
        address.rsplit_once('.').map_or(address, |(subnet, _)| subnet)
    }

    /// Runs `trireme lab` on the lab.
    pub(crate) fn lab(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(trireme());
        command.args(["lab", "--name", &self.lab]).args(arguments);
        succeed(&format!("trireme lab {}", arguments.join(" ")), &command.output()?)
    }

    /// Runs a command in a host.
    pub(crate) fn exec(&self, host: &str, command: &[&str]) -> Result<String> {
        succeed(&format!("{} in {host}", command.join(" ")), &self.try_exec(host, command)?)
    }

    /// Runs a command in a host, which may fail.
    pub(crate) fn try_exec(&self, host: &str, command: &[&str]) -> Result<Output> {
        let mut lab = Command::new(trireme());
        lab.args(["lab", "--name", &self.lab, "exec", host, "--"]).args(command);
        Ok(lab.output()?)
    }

    /// The lab's name.
    pub(crate) fn name(&self) -> &str {
        &self.lab
    }

    /// How to ask the servers of now from another thread.
    pub(crate) fn servers(&self) -> Servers {
        let servers = self.hosts[..SERVERS].iter();
        Servers {
            kubectl: self.kubectl.clone(),
            servers: servers.map(|host| (host.kubeconfig.clone(), host.address.clone())).collect(),
        }
    }

    /// A kubectl command that asks one of the servers.
    fn command(&self, server: usize, arguments: &[&str]) -> Command {
        let host = &self.hosts[server];
        let url = format!("https://{}:6443", host.address);
        let mut command = Command::new(&self.kubectl);
        command
            .args([
                "--kubeconfig",
                &host.kubeconfig,
                "--server",
                &url,
                "--namespace=default",
                "--request-timeout=10s",
            ])
            .args(arguments);
        command
    }

    /// Runs kubectl by way of a server.
    pub(crate) fn kubectl(&self, server: usize, arguments: &[&str]) -> Result<String> {
        let output = self.command(server, arguments).output()?;
        succeed(&format!("kubectl {} by server {server}", arguments.join(" ")), &output)
    }

    /// Runs kubectl as the administrator, but at another address of the API.
    pub(crate) fn kubectl_at(&self, address: &str, arguments: &[&str]) -> Result<String> {
        let url = format!("https://{address}:6443");
        let mut command = Command::new(&self.kubectl);
        command
            .args([
                "--kubeconfig",
                &self.hosts[0].kubeconfig,
                "--server",
                &url,
                "--request-timeout=500ms",
            ])
            .args(arguments);
        succeed(&format!("kubectl {} at {url}", arguments.join(" ")), &command.output()?)
    }

    /// Applies a manifest.
    pub(crate) fn apply(&self, manifest: &str) -> Result<String> {
        use std::io::Write;
        let mut command = self.command(0, &["apply", "-f", "-"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        child.stdin.take().context("stdin is piped")?.write_all(manifest.as_bytes())?;
        succeed("kubectl apply", &child.wait_with_output()?)
    }

    /// Asks a server for something in JSON.
    pub(crate) fn get(&self, server: usize, arguments: &[&str]) -> Result<Value> {
        let text = self.kubectl(server, &[&["get", "-o", "json"], arguments].concat())?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Watches something from now on.
    pub(crate) fn watch(&self, server: usize, path: &str) -> Result<Watch> {
        let host = &self.hosts[server];
        let url = format!("https://{}:6443", host.address);
        let mut child = Command::new(&self.kubectl)
            .args(["--kubeconfig", &host.kubeconfig, "--server", &url, "get", "--raw", path])
            .stdout(Stdio::piped())
            .spawn()?;
        let output = BufReader::new(child.stdout.take().context("stdout is piped")?);
        let seen: Arc<Mutex<Vec<(Instant, Value)>>> = Arc::default();
        let told = Arc::clone(&seen);
        // Ends with the child, whose output then does.
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if let Ok(mut event) = serde_json::from_str::<Value>(&line) {
                    told.lock().push((Instant::now(), event["object"].take()));
                }
            }
        });
        Ok(Watch { child, seen })
    }

    /// Runs a script in the client pod of a host.
    pub(crate) fn client(&self, server: usize, host: usize, script: &str) -> Result<String> {
        let pod = format!("client-{}", self.hosts[host].name);
        self.kubectl(server, &["exec", &pod, "--", "sh", "-c", script])
    }

    /// Names of the nodes that are Ready.
    pub(crate) fn ready_nodes(&self, server: usize) -> Result<BTreeSet<String>> {
        let nodes = self.get(server, &["nodes"])?;
        let ready = |node: &&Value| {
            let mut conditions = node["status"]["conditions"].as_array().into_iter().flatten();
            conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
        };
        let nodes = nodes["items"].as_array().into_iter().flatten();
        Ok(nodes
            .filter(ready)
            .filter_map(|node| node["metadata"]["name"].as_str().map(str::to_owned))
            .collect())
    }

    /// The leader's place among the hosts.
    pub(crate) fn leader(&self) -> Result<usize> {
        for server in 0..SERVERS {
            let Ok(text) = self.kubectl(server, &["get", "--raw", "/trireme/v1/status"]) else {
                continue;
            };
            let status: Value = serde_json::from_str(&text)?;
            let members = status["members"].as_array().into_iter().flatten();
            let leader = members
                .map(|known| &known["member"])
                .find(|member| !status["leader"].is_null() && member["id"] == status["leader"]);
            let place = leader.and_then(|member| self.hosts.iter().position(|host| member["name"] == *host.name));
            if let Some(place) = place {
                return Ok(place);
            }
        }
        bail!("nobody leads")
    }

    /// Waits until all is as it was at the start: what one trial leaves must not be blamed on the next.
    pub(crate) fn settled(&mut self) -> Result<()> {
        self.lab(&["heal"])?;
        self.refresh()?;
        for server in 0..SERVERS {
            eventually("every server is ready", || {
                Ok(self.kubectl(server, &["get", "--raw", "/readyz"])? == "ok")
            })?;
        }
        eventually("every node is Ready", || Ok(self.ready_nodes(0)?.len() == HOSTS))?;
        self.kubectl(
            0,
            &[
                "wait",
                "--for=condition=Ready",
                "pods",
                "-l",
                "app in (web, client)",
                "--timeout=60s",
            ],
        )
        .map(drop)
    }

    /// The ends of all logs.
    pub(crate) fn logs(&self) -> String {
        let mut all = String::new();
        for host in &self.hosts {
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

/// A watch, and what it told when.
pub(crate) struct Watch {
    child: Child,
    seen: Arc<Mutex<Vec<(Instant, Value)>>>,
}

impl Watch {
    /// When an object was first like this.
    pub(crate) fn first(&self, is: impl Fn(&Value) -> bool) -> Option<Instant> {
        let seen = self.seen.lock();
        seen.iter().find(|(_, object)| is(object)).map(|(when, _)| *when)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("ending a watch: {error}");
        }
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if let Err(error) = self.down() {
            eprintln!("removing the lab failed: {error:#}");
        }
    }
}
