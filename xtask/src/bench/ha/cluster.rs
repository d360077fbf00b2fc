//! The cluster under measurement: made, asked, struck and mended.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use http::Method;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;
use serde_json::Value;

use super::super::lab::{Host, Lab};
use super::super::process::{Process, Processes};
use super::super::rest::Rest;
use super::super::target::{Endpoint, Target};
use super::options::Ha;

/// Longest wait for a cluster to be as it should be.
const PATIENCE: Duration = Duration::from_secs(120);
/// Longest wait for one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// Time between two questions.
const ASK_GAP: Duration = Duration::from_millis(100);
/// A member that lacks more log entries is not in step.
const LAG_MAX: u64 = 100;
/// A member that the leader heard from longer ago, in milliseconds, is not in step.
const SILENCE_MAX_MS: u64 = 2000;
/// Where servers tell of their cluster.
pub(super) const STATUS: &str = "/trireme/v1/status";

/// A cluster in a lab.
pub(super) struct Cluster {
    lab: Lab,
    servers: Vec<Server>,
}

/// One server, as its clients know it.
#[derive(Clone)]
pub(super) struct Server {
    pub(super) name: String,
    pub(super) address: Ipv4Addr,
    pub(super) kubeconfig: PathBuf,
    pub(super) rest: Rest,
}

/// The cluster as a server sees it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Status {
    /// Who was asked.
    pub(super) id: u64,
    leader: Option<u64>,
    members: Vec<Known>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Known {
    member: Member,
    role: String,
    lag_entries: Option<u64>,
    last_heard_ms: Option<u64>,
}

#[derive(Clone, Debug, Deserialize)]
struct Member {
    id: u64,
    name: String,
}

impl Status {
    /// The name of a member.
    pub(super) fn name(&self, id: u64) -> Option<&str> {
        let known = self.members.iter().find(|known| known.member.id == id)?;
        Some(&known.member.name)
    }

    /// Whether a member counts for quorum.
    pub(super) fn votes(&self, name: &str) -> bool {
        self.members
            .iter()
            .any(|known| known.member.name == name && known.role == "Voter")
    }

    /// Whether there are so many voters and all are up to date.
    fn in_step(&self, count: usize) -> bool {
        let well = |known: &&Known| {
            known.role == "Voter"
                && known.lag_entries.is_some_and(|lag| lag < LAG_MAX)
                && known.last_heard_ms.is_some_and(|ms| ms < SILENCE_MAX_MS)
        };
        self.members.len() == count && self.members.iter().filter(well).count() == count
    }
}

/// Tries again and again until it succeeds, up to a limit.
pub(super) async fn eventually<T>(
    what: &str,
    limit: Duration,
    pause: Duration,
    mut attempt: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        match attempt().await {
            Ok(found) => return Ok(found),
            Err(error) if Instant::now() > deadline => {
                return Err(error.context(format!("{what}: not within {} s", limit.as_secs())));
            }
            Err(_) => tokio::time::sleep(pause).await,
        }
    }
}

/// Runs a command to its end; it ends with us when we are interrupted.
pub(super) async fn finish(command: Command) -> Result<String> {
    let text = format!("{command:?}");
    let output = tokio::process::Command::from(command).kill_on_drop(true).output().await;
    let output = output.with_context(|| format!("cannot run {text}"))?;
    ensure!(
        output.status.success(),
        "{text} failed: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Removes a lab, if it is there.
pub(super) async fn down(lab: &Lab) -> Result<()> {
    finish(lab.command("down")).await.map(drop)
}

async fn known(host: &Host) -> Result<Server> {
    let endpoint = Target::of_kubeconfig(host.kubeconfig.clone()).resolve().await?;
    Ok(Server {
        name: host.name.clone(),
        address: host.address,
        kubeconfig: host.kubeconfig.clone(),
        rest: Rest {
            endpoint: Arc::new(endpoint),
        },
    })
}

impl Server {
    /// Asks for a path in JSON, and not for long.
    async fn ask(&self, path: &str) -> Result<Value> {
        let answer = tokio::time::timeout(ANSWER_LIMIT, self.rest.request(Method::GET, path, None)).await;
        answer.with_context(|| format!("{}: no answer", self.name))?
    }

    /// The cluster as it sees it.
    pub(super) async fn status(&self) -> Result<Status> {
        serde_json::from_value(self.ask(STATUS).await?).context("the cluster's status has an unknown form")
    }

    /// Fails unless it is ready.
    pub(super) async fn ready(&self) -> Result<()> {
        let found = tokio::time::timeout(ANSWER_LIMIT, self.rest.answers("/readyz")).await;
        found.with_context(|| format!("{}: no answer", self.name))?
    }
}

impl Cluster {
    /// Makes a lab with so many servers, in place of what an earlier run left, and waits until they are one cluster.
    pub(super) async fn up(lab: &Lab, servers: usize, options: &Ha) -> Result<Self> {
        down(lab).await?;
        let mut command = lab.command("up");
        command
            .args(["--servers", &servers.to_string(), "--disk-size", &options.disk_size])
            .args(["--no-kubeconfig", "--timeout", &PATIENCE.as_secs().to_string(), "--"])
            .args(options.server_arguments());
        finish(command).await?;
        let mut cluster = Self {
            lab: lab.clone(),
            servers: Vec::new(),
        };
        for host in cluster.hosts().await? {
            cluster.servers.push(known(&host).await?);
        }
        cluster.settled().await?;
        Ok(cluster)
    }

    /// The servers with which it began.
    pub(super) fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// Their endpoints, in the same order.
    pub(super) fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.servers.iter().map(|server| server.rest.endpoint.clone()).collect()
    }

    /// Version of the first server.
    pub(super) async fn version(&self) -> Result<String> {
        self.servers[0].rest.version().await
    }

    /// The first server, for work while nothing is wrong.
    pub(super) fn rest(&self) -> &Rest {
        &self.servers[0].rest
    }

    async fn hosts(&self) -> Result<Vec<Host>> {
        let lab = self.lab.clone();
        tokio::task::spawn_blocking(move || lab.hosts()).await?
    }

    /// Waits until all servers are ready, agree on a leader and are in step with it; says which leads.
    pub(super) async fn settled(&self) -> Result<usize> {
        eventually("all servers in step", PATIENCE, ASK_GAP, async || {
            let mut leaders = Vec::new();
            for server in &self.servers {
                server.ready().await?;
                let status = server.status().await?;
                leaders.push(status.leader.and_then(|id| status.name(id).map(str::to_owned)));
            }
            let leader = leaders[0].clone().context("there is no leader")?;
            ensure!(
                leaders.iter().all(|other| other.as_deref() == Some(&leader)),
                "the servers know different leaders"
            );
            let leader = self.position(&leader)?;
            ensure!(
                self.servers[leader].status().await?.in_step(self.servers.len()),
                "a member is behind"
            );
            Ok(leader)
        })
        .await
    }

    fn position(&self, name: &str) -> Result<usize> {
        let found = self.servers.iter().position(|server| server.name == name);
        found.with_context(|| format!("\"{name}\" is none of the servers"))
    }

    /// Starts servers that do not run, and waits until all are in step; says which leads.
    pub(super) async fn mend(&self) -> Result<usize> {
        let hosts = self.hosts().await?;
        for (server, name) in self.servers.iter().map(|server| &server.name).enumerate() {
            if hosts.iter().any(|host| &host.name == name && !host.serves) {
                self.restart(server).await?;
            }
        }
        self.settled().await
    }

    /// The position of a server that a status names by id.
    pub(super) fn of_id(&self, status: &Status, id: u64) -> Result<usize> {
        self.position(status.name(id).context("a server is no member")?)
    }

    /// The processes of all servers, in order.
    pub(super) async fn processes(&self) -> Result<Vec<Processes>> {
        let hosts = self.hosts().await?;
        let process = |server: &Server| {
            let host = hosts.iter().find(|host| host.name == server.name && host.serves);
            let pid = host.and_then(|host| host.server_pid);
            let pid = pid.with_context(|| format!("server {} does not run", server.name))?;
            Ok(Processes(vec![Process(pid)]))
        };
        self.servers.iter().map(process).collect()
    }

    /// Sends SIGKILL to a server; says when.
    pub(super) async fn kill(&self, server: usize) -> Result<Instant> {
        let processes = self.processes().await?;
        let [Process(pid)] = processes[server].0[..] else {
            bail!("a server is one process")
        };
        let now = Instant::now();
        kill(Pid::from_raw(pid), Signal::SIGKILL).context("SIGKILL")?;
        Ok(now)
    }

    /// Stops a server cleanly if it runs, and starts it again.
    pub(super) async fn restart(&self, server: usize) -> Result<()> {
        let mut command = self.lab.command("restart");
        command.arg(&self.servers[server].name);
        finish(command).await.map(drop)
    }

    /// Makes another server; it is not waited for.
    pub(super) async fn add_server(&self) -> Result<Server> {
        let mut command = self.lab.command("add-host");
        command.args(["--server", "--no-wait"]);
        finish(command).await?;
        let host = self.hosts().await?.pop().context("the lab has hosts")?;
        eventually("the new server's kubeconfig", PATIENCE, ASK_GAP, async || known(&host).await).await
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(roles: &[(&str, Option<u64>, Option<u64>)]) -> Status {
        let member = |(id, (role, lag, heard)): (usize, &(&str, Option<u64>, Option<u64>))| json!({"member": {"id": id, "name": format!("s-{id}")}, "role": role, "lagEntries": lag, "lastHeardMs": heard});
        let members: Vec<Value> = roles.iter().enumerate().map(member).collect();
        serde_json::from_value(json!({"id": 0, "term": 3, "leader": 0, "members": members})).expect("a status")
    }

    #[test]
    fn members_are_in_step_or_not() {
        let well = ("Voter", Some(0), Some(5));
        for (other, wanted) in [
            (well, true),
            (("Learner", Some(0), Some(5)), false),
            (("Voter", None, Some(5)), false),
            (("Voter", Some(100), Some(5)), false),
            (("Voter", Some(0), None), false),
            (("Voter", Some(0), Some(2000)), false),
        ] {
            assert_eq!(status(&[well, other]).in_step(2), wanted, "{other:?}");
        }
        assert!(!status(&[well]).in_step(2));
    }

    #[test]
    fn members_are_known_by_id_and_name() {
        let status = status(&[("Voter", None, None), ("Learner", None, None)]);
        assert_eq!((status.name(1), status.name(2)), (Some("s-1"), None));
        assert!(status.votes("s-0") && !status.votes("s-1") && !status.votes("s-2"));
    }
}
