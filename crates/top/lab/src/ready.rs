//! Waits until a cluster is ready, by asking its servers as its administrator.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cluster::runs_node;
use crate::error::{LabError, during};
use crate::host::Host;
use crate::lab::Lab;
use crate::state::{Role, directory};

/// How often servers are asked whether they are ready.
const POLL: Duration = Duration::from_millis(25);
/// Longest wait for one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// Port of the API where a kubeconfig names none.
const API_PORT: u16 = 6443;
/// Lines of a log that an error shows.
const TAIL_LINES: usize = 15;

/// Something that is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Goal {
    /// A server says that it is ready.
    Api(String),
    /// A server counts for quorum.
    Vote(String),
    /// A node is ready.
    Node(String),
}

impl fmt::Display for Goal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Api(name) => write!(formatter, "server {name} ready"),
            Self::Vote(name) => write!(formatter, "member {name} a voter"),
            Self::Node(name) => write!(formatter, "node {name} Ready"),
        }
    }
}

/// What the servers said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Facts {
    ready_servers: BTreeSet<String>,
    voters: BTreeSet<String>,
    ready_nodes: BTreeSet<String>,
}

impl Facts {
    fn fulfil(&self, goal: &Goal) -> bool {
        match goal {
            Goal::Api(name) => self.ready_servers.contains(name),
            Goal::Vote(name) => self.voters.contains(name),
            Goal::Node(name) => self.ready_nodes.contains(name),
        }
    }
}

impl Lab {
    /// Waits until every server is ready and a voter, and every node is Ready. Hosts that are off, and servers and agents
    /// that were stopped before, are not waited for.
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
        let servers_are_nodes = runs_node(&self.load()?.server_arguments);
        let mut goals = Vec::new();
        for name in names {
            let role = self.host(name)?.state.role;
            let name = || (*name).to_owned();
            match role {
                Role::Server => goals.extend([Goal::Api(name()), Goal::Vote(name())]),
                Role::Agent => goals.push(Goal::Node(name())),
                Role::Bare => {}
            }
            if role == Role::Server && servers_are_nodes {
                goals.push(Goal::Node(name()));
            }
        }
        self.wait_for(goals, limit, tell)
    }

    /// Waits until a server's API is ready, and says nothing: it is waited for again with all the others.
    pub(crate) fn wait_for_api(&self, host: &str, limit: Duration) -> Result<(), LabError> {
        self.wait_for(vec![Goal::Api(host.into())], limit, &|_| {})
    }

    fn wait_for(&self, mut goals: Vec<Goal>, limit: Duration, tell: &(dyn Fn(&str) + Sync)) -> Result<(), LabError> {
        let deadline = Instant::now() + limit;
        let hosts = self.hosts()?;
        let awaited: Vec<&Host> = hosts
            .iter()
            .filter(|host| {
                goals
                    .iter()
                    .any(|goal| matches!(goal, Goal::Api(name) | Goal::Vote(name) | Goal::Node(name) if name == host.name()))
            })
            .collect();
        let servers: Vec<&Host> = hosts
            .iter()
            .filter(|host| host.state.role == Role::Server && host.serves())
            .collect();
        blocking(async || {
            let mut clients = Clients::default();
            // One server is asked for members and nodes, each in turn: independent ones know themselves alone.
            let mut turns = servers.iter().cycle();
            let mut facts = Facts::default();
            while !goals.is_empty() {
                for host in &awaited {
                    ended(host)?;
                }
                for host in &servers {
                    if goals.contains(&Goal::Api(host.name().into())) && clients.ask(host, "/readyz").await.is_ok() {
                        facts.ready_servers.insert(host.name().into());
                    }
                }
                if let Some(server) = turns.next() {
                    if goals.iter().any(|goal| matches!(goal, Goal::Vote(_))) {
                        facts
                            .voters
                            .extend(voters(&clients.value(server, "/trireme/v1/status").await));
                    }
                    if goals.iter().any(|goal| matches!(goal, Goal::Node(_))) {
                        facts
                            .ready_nodes
                            .extend(ready_nodes(&clients.value(server, "/api/v1/nodes?resourceVersion=0").await));
                    }
                }
                let (reached, open): (Vec<Goal>, Vec<Goal>) = goals.into_iter().partition(|goal| facts.fulfil(goal));
                reached.iter().for_each(|goal| tell(&goal.to_string()));
                goals = open;
                if !goals.is_empty() && Instant::now() > deadline {
                    let what: Vec<String> = goals.iter().map(ToString::to_string).collect();
                    return Err(LabError::NotReady {
                        seconds: limit.as_secs(),
                        what: what.join(", "),
                        logs: directory(self.name()).display().to_string(),
                    });
                }
                if !goals.is_empty() {
                    tokio::time::sleep(POLL).await;
                }
            }
            Ok(())
        })
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
pub(crate) fn api_url(host: &Host) -> Result<String, String> {
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

    async fn ask(&mut self, host: &Host, path: &str) -> Result<String, String> {
        let client = self.of(host).await?;
        let request = http::Request::get(path).body(vec![]).map_err(|error| error.to_string())?;
        match tokio::time::timeout(ANSWER_LIMIT, client.request_text(request)).await {
            Ok(Ok(text)) => Ok(text),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no answer".into()),
        }
    }

    /// An answer in JSON; nothing if there is none.
    async fn value(&mut self, host: &Host, path: &str) -> Value {
        let answer = self.ask(host, path).await;
        answer.map_or(Value::Null, |text| serde_json::from_str(&text).unwrap_or_default())
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

/// Names of the voters in an answer of the status endpoint.
fn voters(status: &Value) -> Vec<String> {
    let members = status["members"].as_array().into_iter().flatten();
    members
        .filter(|known| known["role"] == "Voter")
        .filter_map(|known| known["member"]["name"].as_str().map(str::to_owned))
        .collect()
}

/// Names of the ready nodes in a list of nodes.
fn ready_nodes(list: &Value) -> Vec<String> {
    let is_ready = |node: &&Value| {
        let mut conditions = node["status"]["conditions"].as_array().into_iter().flatten();
        conditions.any(|one| one["type"] == "Ready" && one["status"] == "True")
    };
    let nodes = list["items"].as_array().into_iter().flatten();
    nodes
        .filter(is_ready)
        .filter_map(|node| node["metadata"]["name"].as_str().map(str::to_owned))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn answers_are_understood() {
        let status = json!({"members": [
            {"member": {"name": "a"}, "role": "Voter"}, {"member": {"name": "b"}, "role": "Learner"}, {"member": {"name": "c"}, "role": "Voter"},
        ]});
        assert_eq!(voters(&status), ["a", "c"]);
        let node = |name: &str, status: &str| json!({"metadata": {"name": name}, "status": {"conditions": [{"type": "Ready", "status": status}]}});
        let list = json!({"items": [node("a", "True"), node("b", "Unknown"), {"metadata": {"name": "c"}}]});
        assert_eq!(ready_nodes(&list), ["a"]);
        assert!(voters(&Value::Null).is_empty() && ready_nodes(&Value::Null).is_empty());
    }

    #[test]
    fn goals_are_reached_one_by_one() {
        let facts = Facts {
            voters: ["a".to_owned()].into(),
            ..Facts::default()
        };
        for (goal, wanted) in [
            (Goal::Vote("a".into()), true),
            (Goal::Vote("b".into()), false),
            (Goal::Api("a".into()), false),
            (Goal::Node("a".into()), false),
        ] {
            assert_eq!(facts.fulfil(&goal), wanted, "{goal}");
        }
    }
}
