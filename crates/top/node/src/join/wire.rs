//! What is asked and answered at `POST /trireme/v1/join`, as JSON.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use trireme_store::Member;

use super::token::Role;

/// Where to join.
pub const JOIN_PATH: &str = "/trireme/v1/join";
/// Clocks of two hosts may differ by this much, in milliseconds; certificates and leases would fail later.
pub const CLOCK_SKEW_MAX_MS: u64 = 30_000;

/// Who wants to join as what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JoinRequest {
    /// As what; the token must be for that.
    pub role: Role,
    /// Node name, which nobody else in the cluster may have.
    pub name: String,
    /// Version of Kubernetes and of Trireme, as `/version` shows it.
    pub version: String,
    /// Its clock in Unix milliseconds.
    pub time_ms: u64,
    /// Address of the node.
    pub address: IpAddr,
    /// A server's own settings: they must be the cluster's.
    #[serde(default)]
    pub settings: Option<ClusterSettings>,
    /// A server's `host:port` for peers.
    #[serde(default)]
    pub peer: Option<String>,
    /// A server's API, `https://host:port`.
    #[serde(default)]
    pub api: Option<String>,
}

/// Settings that must be the same on every host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterSettings {
    /// `--service-cidr`.
    pub service_cidr: String,
    /// `--cluster-cidr`.
    pub cluster_cidr: String,
    /// `--cluster-dns`.
    pub cluster_dns: IpAddr,
    /// `--cluster-domain`.
    pub cluster_domain: String,
    /// `--service-node-port-range`.
    pub service_node_port_range: String,
    /// `--pod-network`.
    pub pod_network: String,
    /// `--load-balancer-pool`, comma separated: every node announces from it.
    #[serde(default)]
    pub load_balancer_pool: String,
}

/// The answer to one who may join.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JoinAnswer {
    /// The cluster's settings.
    pub settings: ClusterSettings,
    /// Certificate of the cluster's CA.
    pub ca_pem: String,
    /// All servers' APIs.
    pub servers: Vec<String>,
    /// To a server: who it is from now on, and the cluster's keys.
    #[serde(default)]
    pub server: Option<ServerGrant>,
}

/// What only a server gets.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerGrant {
    /// Its place among the members.
    pub member: Member,
    /// Files of the PKI directory by name.
    pub pki: BTreeMap<String, String>,
}

impl ClusterSettings {
    /// The first setting in which another host differs: flag, ours, theirs.
    #[must_use]
    pub fn difference<'a>(&'a self, other: &'a Self) -> Option<(&'static str, String, String)> {
        let pairs = [
            ("service-cidr", &self.service_cidr, &other.service_cidr),
            ("cluster-cidr", &self.cluster_cidr, &other.cluster_cidr),
            ("cluster-domain", &self.cluster_domain, &other.cluster_domain),
            (
                "service-node-port-range",
                &self.service_node_port_range,
                &other.service_node_port_range,
            ),
            ("pod-network", &self.pod_network, &other.pod_network),
            ("load-balancer-pool", &self.load_balancer_pool, &other.load_balancer_pool),
        ];
        let texts = pairs
            .into_iter()
            .find(|(_, ours, theirs)| ours != theirs)
            .map(|(flag, ours, theirs)| (flag, ours.clone(), theirs.clone()));
        texts.or_else(|| {
            (self.cluster_dns != other.cluster_dns)
                .then(|| ("cluster-dns", self.cluster_dns.to_string(), other.cluster_dns.to_string()))
        })
    }
}
