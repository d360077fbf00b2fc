//! The answering side: who may join, and as whom. Also what else is asked of a cluster as such: its status, its members.
//!
//! Invariant: every check passes before anything changes; keys go to bearers of a server token alone.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use trireme_api::Status;
use trireme_apiserver::{Extension, UserInfo};
use trireme_store::{Member, MemberError, RaftStore, Store};

use super::token::Role;
use super::wire::{CLOCK_SKEW_MAX_MS, ClusterSettings, JOIN_PATH, JoinAnswer, JoinRequest, ServerGrant};

/// Where the status is.
pub const STATUS_PATH: &str = "/trireme/v1/status";
/// Where members are changed.
pub const MEMBERS_PATH: &str = "/trireme/v1/members";
/// A node whose Lease was renewed within this time lives, as the node lifecycle controller sees it.
const NODE_LIVES: Duration = Duration::from_secs(50);
/// The files of the PKI directory that every server must have alike.
const SHARED_PKI: [&str; 5] = ["ca.crt", "ca.key", "peer-ca.crt", "peer-ca.key", "service-account.key"];

/// A change of members, as `trireme member` asks for it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "action")]
pub enum MemberChange {
    /// Take a member out for good.
    Remove {
        /// Name or id.
        member: String,
    },
    /// Give a learner its vote now.
    Promote {
        /// Name or id.
        member: String,
    },
    /// Make a member the leader.
    Lead {
        /// Name or id; anyone who is up to date where absent.
        member: Option<String>,
    },
}

/// What Trireme serves below `/trireme/`.
pub(crate) struct Cluster {
    pub(crate) store: Arc<RaftStore>,
    pub(crate) settings: ClusterSettings,
    pub(crate) ca_pem: String,
    pub(crate) pki: PathBuf,
    pub(crate) version: String,
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// `1` and `36` of `v1.36.2+trireme.0.1.0`.
fn minor(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.trim_start_matches('v').split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Checks that need nothing but the request and the cluster's settings: role, version, clock, settings.
fn check(request: &JoinRequest, user: &UserInfo, version: &str, settings: &ClusterSettings, now_ms: u64) -> Result<(), String> {
    if !user.in_group(&request.role.group()) {
        let role = request.role.name();
        return Err(format!(
            "the token does not let one join as {role}; make one with `trireme token create --role {role}`"
        ));
    }
    let (Some(ours), Some(theirs)) = (minor(version), minor(&request.version)) else {
        return Err(format!("\"{}\" is no version", request.version));
    };
    // Servers one minor version apart at most, nodes never newer and at most three older: upstream's version skew policy.
    let fits = ours.0 == theirs.0
        && match request.role {
            Role::Server => ours.1.abs_diff(theirs.1) <= 1,
            Role::Agent => theirs.1 <= ours.1 && ours.1 - theirs.1 <= 3,
        };
    if !fits {
        return Err(format!(
            "version {} cannot join a cluster of version {version}: they are too far apart; install {version}",
            request.version
        ));
    }
    let skew = request.time_ms.abs_diff(now_ms);
    if skew > CLOCK_SKEW_MAX_MS {
        return Err(format!(
            "the clocks differ by {} seconds (at most {} are allowed): set the time of host {}, best by NTP",
            skew / 1000,
            CLOCK_SKEW_MAX_MS / 1000,
            request.name
        ));
    }
    if let Some(theirs) = &request.settings
        && let Some((flag, theirs, ours)) = theirs.difference(settings)
    {
        return Err(format!(
            "--{flag} is {theirs} there, but {ours} in this cluster: start with --{flag} {ours}"
        ));
    }
    Ok(())
}

fn refused(message: String) -> Status {
    Status::failure(403, "Forbidden", message)
}

fn member_failed(error: &MemberError) -> Status {
    match error {
        MemberError::Unavailable | MemberError::Unknown => Status::failure(503, "ServiceUnavailable", error.to_string()),
        MemberError::NoSuchMember(_) => Status::failure(404, "NotFound", error.to_string()),
        _ => Status::failure(409, "Conflict", error.to_string()),
    }
}

impl Cluster {
    async fn join(&self, user: &UserInfo, body: &[u8]) -> Result<Value, Status> {
        let request: JoinRequest =
            serde_json::from_slice(body).map_err(|error| Status::bad_request(format!("a request to join: {error}")))?;
        let now_ms = u64::try_from(now().as_millis()).unwrap_or(u64::MAX);
        check(&request, user, &self.version, &self.settings, now_ms).map_err(refused)?;
        self.store
            .barrier()
            .await
            .map_err(|error| Status::failure(503, "ServiceUnavailable", error.to_string()))?;
        if self.node_lives(&request.name) {
            return Err(refused(format!(
                "a node named \"{}\" lives in this cluster already: choose another name with --node-name",
                request.name
            )));
        }
        let server = match request.role {
            Role::Server => Some(self.grant(&request).await?),
            Role::Agent => None,
        };
        tracing::info!(name = request.name, role = request.role.name(), address = %request.address, "joins");
        let answer = JoinAnswer {
            settings: self.settings.clone(),
            ca_pem: self.ca_pem.clone(),
            servers: self
                .store
                .status()
                .await
                .members
                .into_iter()
                .map(|member| member.member.api)
                .collect(),
            server,
        };
        serde_json::to_value(answer).map_err(|error| Status::internal(&error.to_string()))
    }

    /// Whether a node of this name shows signs of life.
    fn node_lives(&self, name: &str) -> bool {
        let key = trireme_apiserver::keys::object("coordination.k8s.io", "leases", "kube-node-lease", name);
        let renewed = self.store.get(&key).and_then(|lease| {
            let time = lease.value()["spec"]["renewTime"].as_str()?.parse::<jiff::Timestamp>().ok()?;
            u64::try_from(time.as_second()).ok()
        });
        renewed.is_some_and(|renewed| now().as_secs().saturating_sub(renewed) < NODE_LIVES.as_secs())
    }

    /// Makes the server a learner and gives it the keys.
    async fn grant(&self, request: &JoinRequest) -> Result<ServerGrant, Status> {
        let (Some(peer), Some(api)) = (&request.peer, &request.api) else {
            return Err(Status::bad_request(
                "a server that joins names its peer address and its API".to_owned(),
            ));
        };
        let status = self.store.status().await;
        if let Some(same) = status.members.iter().find(|known| known.member.name == request.name) {
            if !same.never_heard() {
                return Err(refused(format!(
                    "a server named \"{0}\" is a member already: choose another name with --node-name, or remove that one with \
                     `trireme member remove {0}` first",
                    request.name
                )));
            }
            // It asked before and never came: its answer was lost.
            self.store
                .remove(same.member.id)
                .await
                .map_err(|error| member_failed(&error))?;
        }
        let mut pki = BTreeMap::new();
        for file in SHARED_PKI {
            let text = std::fs::read_to_string(self.pki.join(file))
                .map_err(|error| Status::internal(&format!("reading the cluster's {file}: {error}")))?;
            pki.insert(file.to_owned(), text);
        }
        let member = Member {
            // Exact in every JSON parser, and never used again.
            id: rand::random_range(1..1 << 53),
            name: request.name.clone(),
            peer: peer.clone(),
            api: api.clone(),
            version: request.version.clone(),
        };
        self.store
            .add_learner(member.clone())
            .await
            .map_err(|error| member_failed(&error))?;
        Ok(ServerGrant { member, pki })
    }

    async fn change_members(&self, body: &[u8]) -> Result<Value, Status> {
        let change: MemberChange =
            serde_json::from_slice(body).map_err(|error| Status::bad_request(format!("a change of members: {error}")))?;
        let members = self.store.status().await.members;
        let find = |wanted: &str| {
            let found = members
                .iter()
                .find(|known| known.member.name == wanted || known.member.id.to_string() == wanted);
            found.map(|known| known.member.clone()).ok_or_else(|| {
                Status::failure(
                    404,
                    "NotFound",
                    format!("there is no member \"{wanted}\"; `trireme member list` shows them"),
                )
            })
        };
        let done = match change {
            MemberChange::Remove { member } => self.store.remove(find(&member)?.id).await,
            MemberChange::Promote { member } => self.store.promote(find(&member)?.id).await,
            MemberChange::Lead { member } => {
                let id = member.map(|member| find(&member)).transpose()?.map(|member| member.id);
                self.store.transfer_leader(id).await
            }
        };
        done.map_err(|error| member_failed(&error))?;
        Ok(json!({}))
    }
}

#[async_trait]
impl Extension for Cluster {
    async fn handle(&self, user: &UserInfo, method: &Method, path: &str, body: Bytes) -> Result<Value, Status> {
        match (method, path) {
            (&Method::POST, JOIN_PATH) => self.join(user, &body).await,
            (&Method::GET, STATUS_PATH) => {
                let mut status =
                    serde_json::to_value(self.store.status().await).map_err(|error| Status::internal(&error.to_string()))?;
                status["version"] = self.version.clone().into();
                status["certificates"] = crate::pki::expiries(&self.pki)
                    .into_iter()
                    .map(|(name, expires)| (name, Value::from(expires)))
                    .collect::<serde_json::Map<_, _>>()
                    .into();
                Ok(status)
            }
            (&Method::POST, MEMBERS_PATH) => self.change_members(&body).await,
            _ => Err(Status::failure(
                404,
                "NotFound",
                "the server could not find the requested resource",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> ClusterSettings {
        ClusterSettings {
            service_cidr: "10.43.0.0/16".into(),
            cluster_cidr: "10.42.0.0/16".into(),
            cluster_dns: "10.43.0.10".parse().unwrap(),
            cluster_domain: "cluster.local".into(),
            service_node_port_range: "30000-32767".into(),
            pod_network: "vxlan".into(),
            load_balancer_pool: String::new(),
        }
    }

    #[test]
    fn who_may_not_join_is_told_why_in_one_line() {
        const VERSION: &str = "v1.36.2+trireme.0.1.0";
        let server = UserInfo::new("system:bootstrap:abcdef", &["system:bootstrappers:trireme:server"]);
        let agent = UserInfo::new("system:bootstrap:abcdef", &["system:bootstrappers:trireme:agent"]);
        let good = JoinRequest {
            role: Role::Server,
            name: "n2".into(),
            version: VERSION.into(),
            time_ms: 1_000_000,
            address: "192.0.2.2".parse().unwrap(),
            settings: Some(settings()),
            peer: Some("192.0.2.2:2380".into()),
            api: Some("https://192.0.2.2:6443".into()),
        };
        let judge = |request: &JoinRequest, user| check(request, user, VERSION, &settings(), 1_000_000);
        assert_eq!(judge(&good, &server), Ok(()));
        let as_agent = JoinRequest {
            role: Role::Agent,
            settings: None,
            ..good.clone()
        };
        assert_eq!(judge(&as_agent, &agent), Ok(()));
        let cases = [
            (good.clone(), &agent, "does not let one join as server"),
            (as_agent.clone(), &server, "does not let one join as agent"),
            (
                JoinRequest {
                    time_ms: 1_031_000,
                    ..good.clone()
                },
                &server,
                "clocks differ by 31 seconds",
            ),
            (
                JoinRequest {
                    version: "v1.34.0".into(),
                    ..good.clone()
                },
                &server,
                "too far apart",
            ),
            (
                JoinRequest {
                    version: "v1.37.0".into(),
                    ..as_agent.clone()
                },
                &agent,
                "too far apart",
            ),
            (
                JoinRequest {
                    version: "x".into(),
                    ..good.clone()
                },
                &server,
                "is no version",
            ),
            (
                JoinRequest {
                    settings: Some(ClusterSettings {
                        cluster_cidr: "10.0.0.0/16".into(),
                        ..settings()
                    }),
                    ..good.clone()
                },
                &server,
                "start with --cluster-cidr 10.42.0.0/16",
            ),
        ];
        for (request, user, reason) in cases {
            let told = judge(&request, user).unwrap_err();
            assert!(told.contains(reason) && told.lines().count() == 1, "{told}");
        }
        assert_eq!(
            judge(
                &JoinRequest {
                    version: "v1.35.9".into(),
                    ..good.clone()
                },
                &server
            ),
            Ok(())
        );
        assert_eq!(
            judge(
                &JoinRequest {
                    version: "v1.33.0".into(),
                    ..as_agent
                },
                &agent
            ),
            Ok(())
        );
    }
}
