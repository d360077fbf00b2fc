//! A cluster in a lab: the first server, then all that join it, until every server and every node is ready.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::disk;
use crate::error::LabError;
use crate::host::Host;
use crate::lab::Lab;
use crate::ready::api_url;
use crate::state::{LabState, Role};

/// How often a token is asked for.
const POLL: Duration = Duration::from_millis(25);
/// What must stay free where hosts have no disks of their own: upstream's default without the disk's signals.
const EVICTION_HARD: &str = "memory.available<100Mi";

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
        if state.disk_bytes.is_none() {
            // The hosts' data is on the machine's disk, which is no measure of how much room a host has.
            command.extend(["--eviction-hard".into(), EVICTION_HARD.into()]);
        }
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
}

/// Whether servers with these arguments are nodes.
pub(crate) fn runs_node(arguments: &[String]) -> bool {
    let lists = arguments.iter().enumerate().filter_map(|(index, argument)| {
        if argument == "--disable" {
            arguments.get(index + 1).map(String::as_str)
        } else {
            argument.strip_prefix("--disable=")
        }
    });
    !lists.flat_map(|list| list.split(',')).any(|part| part == "node")
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
