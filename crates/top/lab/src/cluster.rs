//! A cluster in a lab: the first server, then all that join it, until every server and every node is ready.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::disk;
use crate::error::{LabError, during};
use crate::host::Host;
use crate::lab::Lab;
use crate::state::{LabState, Role, directory};

/// How often servers are asked whether they are ready.
const POLL: Duration = Duration::from_millis(25);
/// Longest wait for one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// Port of the API where a kubeconfig names none.
const API_PORT: u16 = 6443;
/// Lines of a log that an error shows.
const TAIL_LINES: usize = 15;

/// What a lab is to be.
#[derive(Clone, Debug)]
pub struct Up {
    /// The program that the hosts run: trireme, or one that heeds [`crate::INIT_ARGUMENT`] as it does.
    pub program: PathBuf,
    /// Servers.
    pub servers: u8,
    /// Agents.
    pub agents: u8,
    /// Hosts that run nothing.
    pub bare: u8,
    /// Whether all are one cluster. Otherwise every server is a cluster of its own, and there are no agents.
    pub join: bool,
    /// Further arguments of every server; `{subnet}` becomes the first three parts of the lab's addresses.
    pub server_arguments: Vec<String>,
    /// Further arguments of every agent.
    pub agent_arguments: Vec<String>,
    /// Size of each host's disk; none lays its data into directories of the machine.
    pub disk_bytes: Option<u64>,
    /// How long to wait until all is ready. None does not wait, for which there must be one server.
    pub ready_limit: Option<Duration>,
}

impl Up {
    /// One server that is not waited for.
    #[must_use]
    pub fn one(program: PathBuf) -> Self {
        Self {
            program,
            servers: 1,
            agents: 0,
            bare: 0,
            join: true,
            server_arguments: vec![],
            agent_arguments: vec![],
            disk_bytes: None,
            ready_limit: None,
        }
    }

    /// A cluster whose hosts have disks, waited for.
    #[must_use]
    pub fn cluster(program: PathBuf, servers: u8, agents: u8) -> Self {
        Self {
            servers,
            agents,
            disk_bytes: Some(crate::DISK_BYTES_DEFAULT),
            ready_limit: Some(Duration::from_secs(60)),
            ..Self::one(program)
        }
    }
}

/// What a new host is to be to its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addition {
    /// A server that joins.
    Server,
    /// An agent that joins.
    Agent,
    /// It runs nothing yet.
    Bare,
}

impl Lab {
    /// Makes the lab, starts its cluster and waits until it is ready. What is told on the way goes to `tell`. When hosts
    /// cannot be made nothing stays; when the cluster does not get ready the lab stays, for a look.
    ///
    /// # Errors
    /// See [`LabError`].
    pub fn up(&self, up: &Up, tell: &(dyn Fn(&str) + Sync)) -> Result<(), LabError> {
        let mut disk_bytes = up.disk_bytes;
        if disk_bytes.is_some()
            && let Some(reason) = disk::obstacle()
        {
            tell(&format!(
                "hosts get no disks of their own, so `fill-disk` and `power-cut` will not be possible: {reason}"
            ));
            disk_bytes = None;
        }
        self.create(LabState {
            program: up.program.clone(),
            disk_bytes,
            server_arguments: up.server_arguments.clone(),
            agent_arguments: up.agent_arguments.clone(),
            ..LabState::default()
        })
        .or_else(|error| match error {
            LabError::Exists(_) => Err(error),
            error => self.down().and(Err(error)),
        })?;
        let several = |role, count| std::iter::repeat_n(role, usize::from(count));
        let roles: Vec<Role> = several(Role::Server, up.servers)
            .chain(several(Role::Agent, up.agents))
            .chain(several(Role::Bare, up.bare))
            .collect();
        let hosts = self.make_hosts(&roles).or_else(|error| self.down().and(Err(error)))?;
        tell(&format!("{} hosts on {}.0/24", hosts.len(), self.subnet()?));
        if up.servers == 0 {
            return Ok(());
        }
        let names: Vec<&str> = hosts.iter().map(Host::name).collect();
        if !up.join {
            for host in hosts.iter().filter(|host| host.state.role == Role::Server) {
                self.start(host.name(), &self.command(host, None)?)?;
            }
            return up.ready_limit.map_or(Ok(()), |limit| self.wait_ready_of(&names, limit, tell));
        }
        let first = self.start(hosts[0].name(), &self.command(&hosts[0], None)?);
        first.or_else(|error| self.down().and(Err(error)))?;
        let Some(limit) = up.ready_limit else {
            return Ok(());
        };
        let deadline = Instant::now() + limit;
        if hosts.len() > 1 {
            self.wait_for_api(hosts[0].name(), limit)?;
            tell(&format!("{} serves the API", hosts[0].name()));
            self.join(&hosts[1..], deadline)?;
        }
        self.wait_ready_of(&names, deadline.saturating_duration_since(Instant::now()), tell)
    }

    /// Makes hosts and has them join the cluster; they are not waited for.
    ///
    /// # Errors
    /// When no server gives a token.
    pub fn add_hosts(&self, additions: &[Addition]) -> Result<Vec<Host>, LabError> {
        let role = |addition: &Addition| match addition {
            Addition::Server => Role::Server,
            Addition::Agent => Role::Agent,
            Addition::Bare => Role::Bare,
        };
        let hosts = self.make_hosts(&additions.iter().map(role).collect::<Vec<_>>())?;
        self.join(&hosts, Instant::now())?;
        hosts.iter().map(|host| self.host(host.name())).collect()
    }

    /// Makes one host and has it join the cluster; it is not waited for.
    ///
    /// # Errors
    /// When no server gives a token.
    pub fn add_host(&self, addition: Addition) -> Result<Host, LabError> {
        Ok(self.add_hosts(&[addition])?.remove(0))
    }

    /// Starts what is to join, all at once. Tokens are asked for until the deadline.
    fn join(&self, hosts: &[Host], deadline: Instant) -> Result<(), LabError> {
        let mut commands = Vec::new();
        for role in [Role::Server, Role::Agent] {
            let joining: Vec<&Host> = hosts.iter().filter(|host| host.state.role == role).collect();
            if joining.is_empty() {
                continue;
            }
            let (url, token) = self.token(role, hosts, deadline)?;
            for host in joining {
                commands.push((host, self.command(host, Some((&url, &token)))?));
            }
        }
        for (host, command) in commands {
            self.start(host.name(), &command)?;
        }
        Ok(())
    }

    /// A token from any server that gives one, and that server's URL.
    fn token(&self, role: Role, joining: &[Host], deadline: Instant) -> Result<(String, String), LabError> {
        let role = if role == Role::Server { "server" } else { "agent" };
        let program = self.load()?.program;
        let mut reason = "none is running".to_owned();
        loop {
            for host in self.hosts()? {
                let joins = joining.iter().any(|other| other.name() == host.name());
                if host.state.role != Role::Server || joins || !host.serves() {
                    continue;
                }
                let output = host.output(&[&program.to_string_lossy(), "token", "create", "--role", role])?;
                let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
                if output.status.success() {
                    match api_url(&host) {
                        Ok(url) => return Ok((url, said(&output.stdout))),
                        Err(error) => reason = error,
                    }
                    continue;
                }
                reason = said(&output.stderr);
            }
            if Instant::now() >= deadline {
                return Err(LabError::NoToken {
                    lab: self.name().into(),
                    reason,
                });
            }
            std::thread::sleep(POLL);
        }
    }

    /// Command line of a host's server or agent.
    fn command(&self, host: &Host, join: Option<(&str, &str)>) -> Result<Vec<String>, LabError> {
        let state = self.load()?;
        let server = host.state.role == Role::Server;
        let mut command = vec![
            state.program.to_string_lossy().into_owned(),
            if server { "server" } else { "agent" }.into(),
            "--node-name".into(),
            host.name().into(),
            "--node-ip".into(),
            host.address().to_string(),
            "--cgroup-root".into(),
            host.cgroup(),
        ];
        if server {
            command.extend(["--tls-san".into(), host.state.gateway.to_string()]);
        }
        if let Some((url, token)) = join {
            command.extend(["--join".into(), url.into(), "--token".into(), token.into()]);
        }
        let subnet = self.subnet()?;
        let further = if server {
            &state.server_arguments
        } else {
            &state.agent_arguments
        };
        command.extend(further.iter().map(|argument| argument.replace("{subnet}", &subnet)));
        Ok(command)
    }

    /// Waits until a server's API is ready.
    fn wait_for_api(&self, host: &str, limit: Duration) -> Result<(), LabError> {
        let deadline = Instant::now() + limit;
        blocking(async || {
            let mut clients = Clients::default();
            loop {
                let host = self.host(host)?;
                ended(&host)?;
                let Err(reason) = clients.ready(&host).await else {
                    return Ok(());
                };
                if Instant::now() > deadline {
                    return Err(self.not_ready(limit, &format!("the API of {} ({reason})", host.name())));
                }
                tokio::time::sleep(POLL).await;
            }
        })
    }

    /// Waits until the API of every server and the node of every host is ready. Hosts that are off, and servers and
    /// agents that were stopped before, are not waited for.
    ///
    /// # Errors
    /// When one ends, or it takes longer.
    pub fn wait_ready(&self, limit: Duration, tell: &(dyn Fn(&str) + Sync)) -> Result<(), LabError> {
        let hosts: Vec<Host> = self.hosts()?.into_iter().filter(Host::serves).collect();
        let names: Vec<&str> = hosts.iter().map(Host::name).collect();
        self.wait_ready_of(&names, limit, tell)
    }

    /// The same for some of the hosts.
    ///
    /// # Errors
    /// When one of them ends, or it takes longer.
    pub fn wait_ready_of(&self, names: &[&str], limit: Duration, tell: &(dyn Fn(&str) + Sync)) -> Result<(), LabError> {
        let deadline = Instant::now() + limit;
        let state = self.load()?;
        let servers_are_nodes = runs_node(&state.server_arguments);
        let all: Vec<Host> = self.hosts()?.into_iter().filter(Host::serves).collect();
        let servers: Vec<&Host> = all.iter().filter(|host| host.state.role == Role::Server).collect();
        let hosts: Vec<Host> = names.iter().map(|name| self.host(name)).collect::<Result<_, _>>()?;
        let mut apis: Vec<&Host> = hosts.iter().filter(|host| host.state.role == Role::Server).collect();
        let is_node = |host: &&Host| match host.state.role {
            Role::Server => servers_are_nodes,
            Role::Agent => true,
            Role::Bare => false,
        };
        let mut nodes: Vec<&Host> = hosts.iter().filter(is_node).collect();
        blocking(async || {
            let mut clients = Clients::default();
            // One server is asked for the nodes, each in turn: independent ones know their own node alone.
            let mut turns = servers.iter().cycle();
            loop {
                for host in apis.iter().chain(&nodes) {
                    ended(host)?;
                }
                let mut missing = Vec::new();
                let mut waiting = Vec::new();
                for host in apis {
                    match clients.ready(host).await {
                        Ok(()) => tell(&format!("{} serves the API", host.name())),
                        Err(reason) => {
                            missing.push(format!("the API of {} ({reason})", host.name()));
                            waiting.push(host);
                        }
                    }
                }
                apis = waiting;
                if let Some(server) = turns.next().filter(|_| !nodes.is_empty()) {
                    let all = clients.ready_nodes(server).await.unwrap_or_default();
                    let (done, waiting): (Vec<_>, Vec<_>) =
                        nodes.into_iter().partition(|host| all.iter().any(|name| name == host.name()));
                    for host in done {
                        tell(&format!("node {} is ready", host.name()));
                    }
                    missing.extend(waiting.iter().map(|host| format!("node {}", host.name())));
                    nodes = waiting;
                }
                if missing.is_empty() {
                    return Ok(());
                }
                if Instant::now() > deadline {
                    return Err(self.not_ready(limit, &missing.join(", ")));
                }
                tokio::time::sleep(POLL).await;
            }
        })
    }

    fn not_ready(&self, limit: Duration, what: &str) -> LabError {
        LabError::NotReady {
            seconds: limit.as_secs(),
            what: what.into(),
            logs: directory(self.name()).display().to_string(),
        }
    }
}

/// An error with the end of the log, if a host's server or agent has ended.
fn ended(host: &Host) -> Result<(), LabError> {
    if host.serves() {
        return Ok(());
    }
    let text = std::fs::read_to_string(host.log()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    Err(LabError::ServerEnded {
        host: host.name().into(),
        log: host.log().display().to_string(),
        tail: lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n"),
    })
}

/// Whether servers with these arguments are nodes.
fn runs_node(arguments: &[String]) -> bool {
    let lists = arguments.iter().enumerate().filter_map(|(index, argument)| {
        if argument == "--disable" {
            arguments.get(index + 1).map(String::as_str)
        } else {
            argument.strip_prefix("--disable=")
        }
    });
    !lists.flat_map(|list| list.split(',')).any(|part| part == "node")
}

/// Runs asynchronous code from wherever the caller is, a runtime's thread included.
fn blocking<T: Send>(act: impl AsyncFnOnce() -> Result<T, LabError> + Send) -> Result<T, LabError> {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                during("starting a runtime", runtime)?.block_on(act())
            })
            .join()
            .expect("nothing here panics")
    })
}

/// A server's URL as all hosts reach it; its port is in its kubeconfig.
fn api_url(host: &Host) -> Result<String, String> {
    let file = kube::config::Kubeconfig::read_from(host.kubeconfig()).map_err(|error| error.to_string())?;
    let server = file.clusters.first().and_then(|named| named.cluster.as_ref()?.server.clone());
    let port = server
        .as_deref()
        .and_then(|url| url.rsplit_once(':')?.1.trim_end_matches('/').parse().ok());
    Ok(format!("https://{}:{}", host.address(), port.unwrap_or(API_PORT)))
}

/// Clients of servers, each made once.
#[derive(Default)]
struct Clients(BTreeMap<String, kube::Client>);

impl Clients {
    async fn of(&mut self, host: &Host) -> Result<kube::Client, String> {
        if let Some(client) = self.0.get(host.name()) {
            return Ok(client.clone());
        }
        let client = client(host).await?;
        self.0.insert(host.name().into(), client.clone());
        Ok(client)
    }

    async fn ready(&mut self, host: &Host) -> Result<(), String> {
        ask(self.of(host).await?, "/readyz").await.map(drop)
    }

    async fn ready_nodes(&mut self, host: &Host) -> Result<Vec<String>, String> {
        let text = ask(self.of(host).await?, "/api/v1/nodes?resourceVersion=0").await?;
        names_of_ready(&text).map_err(|error| error.to_string())
    }
}

async fn client(host: &Host) -> Result<kube::Client, String> {
    if !host.kubeconfig().exists() {
        return Err("no kubeconfig yet".into());
    }
    // TLS needs one provider for the process; a program that has its own keeps it.
    if rustls::crypto::CryptoProvider::get_default().is_none()
        && rustls::crypto::ring::default_provider().install_default().is_err()
    {
        tracing::debug!("another thread installed a TLS provider");
    }
    let mut file = kube::config::Kubeconfig::read_from(host.kubeconfig()).map_err(|error| error.to_string())?;
    let url = api_url(host)?;
    for named in &mut file.clusters {
        if let Some(cluster) = &mut named.cluster {
            cluster.server = Some(url.clone());
        }
    }
    let config = kube::Config::from_custom_kubeconfig(file, &kube::config::KubeConfigOptions::default()).await;
    kube::Client::try_from(config.map_err(|error| error.to_string())?).map_err(|error| error.to_string())
}

fn names_of_ready(text: &str) -> serde_json::Result<Vec<String>> {
    let list: Value = serde_json::from_str(text)?;
    let is_ready = |node: &&Value| {
        let conditions = node["status"]["conditions"].as_array();
        conditions.is_some_and(|all| all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"))
    };
    let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    Ok(items
        .iter()
        .filter(is_ready)
        .filter_map(|node| node["metadata"]["name"].as_str().map(str::to_owned))
        .collect())
}

async fn ask(client: kube::Client, path: &str) -> Result<String, String> {
    let request = http::Request::get(path).body(vec![]).map_err(|error| error.to_string())?;
    match tokio::time::timeout(ANSWER_LIMIT, client.request_text(request)).await {
        Ok(Ok(text)) => Ok(text),
        Ok(Err(kube::Error::Api(status))) => Err(status.message.clone()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::runs_node;

    #[test]
    fn a_server_without_node_is_none() {
        for (arguments, wanted) in [
            (&[][..], true),
            (&["--disable", "node"], false),
            (&["--disable=dns,node"], false),
            (&["--disable", "dns", "node"], true),
        ] {
            let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
            assert_eq!(runs_node(&arguments), wanted, "{arguments:?}");
        }
    }
}
