//! Configuration: flags, environment and files become one typed, checked value before anything is opened.
//!
//! Invariant: a flag beats `TRIREME_*`, the environment beats the files, a later file beats an earlier one; an unknown
//! key is an error that names it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use crate::join::wire::ClusterSettings;
use trireme_kubelet::EvictionHard;
use trireme_manager::scheduler_configuration::{self, Configuration};
use trireme_routing::mesh::Mode;

/// Where the main configuration file is, if there is one.
pub const DEFAULT_CONFIG: &str = "/etc/trireme/config.yaml";

/// A node renews its Lease every ten seconds, and may have to find another server first.
const NODE_GRACE_MIN: Duration = Duration::from_secs(15);

/// Reads how many processes a pod may have: a positive number, or -1.
fn pids_limit(text: &str) -> Result<i64, String> {
    match text.parse() {
        Ok(limit) if limit == -1 || limit > 0 => Ok(limit),
        _ => Err(format!("\"{text}\" is neither a positive number nor -1 (no limit)")),
    }
}

/// Reads `90s`, `30m`, `24h`, `7d`, or `0`.
///
/// # Errors
/// What it should look like.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("\"{text}\" is not a time like 50s, 30m, 24h or 7d");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3600,
        Some('d') => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    number.checked_mul(unit).map(Duration::from_secs).ok_or_else(wrong)
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people where standard error is a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// A part of the server that can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// The reconcilers.
    Controllers,
    /// The scheduler.
    Scheduler,
    /// Kubelet, runtime and pod network.
    Node,
    /// Service routing on this host.
    Proxy,
    /// Cluster DNS on this host.
    Dns,
}

/// Options that every host has, server or agent.
#[derive(Args, Clone, Debug)]
pub struct NodeOptions {
    /// Configuration file; `*.yaml` in the directory of the same name with `.d` appended are read after it
    #[arg(long, env = "TRIREME_CONFIG", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
    /// Directory of everything that must survive a restart
    #[arg(long, env = "TRIREME_DATA_DIR", default_value = "/var/lib/trireme")]
    pub data_dir: PathBuf,
    /// Directory of sockets and other things that a reboot may take
    #[arg(long, env = "TRIREME_RUN_DIR", default_value = "/run/trireme")]
    pub run_dir: PathBuf,
    /// Directory of container logs, one directory a pod below it
    #[arg(long, env = "TRIREME_POD_LOG_DIR", default_value = "/var/log/pods")]
    pub pod_log_dir: PathBuf,
    /// Port of the kubelet's own API
    #[arg(long, env = "TRIREME_KUBELET_PORT", default_value_t = 10250)]
    pub kubelet_port: u16,
    /// Join the cluster of any of these servers, for example https://192.0.2.1:6443; once joined it is not needed any more
    #[arg(long, env = "TRIREME_JOIN", value_delimiter = ',')]
    pub join: Vec<String>,
    /// Token that lets this host join, from `trireme token create` on a server
    #[arg(long, env = "TRIREME_TOKEN", hide_env_values = true, conflicts_with = "token_file")]
    pub token: Option<String>,
    /// File that holds the token
    #[arg(long, env = "TRIREME_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// How long to ask the servers of --join while none of them answers
    #[arg(long, env = "TRIREME_JOIN_TIMEOUT", default_value = "60s", value_parser = duration)]
    pub join_timeout: Duration,
    /// Name of this node [default: the host name in lower case]
    #[arg(long, env = "TRIREME_NODE_NAME")]
    pub node_name: Option<String>,
    /// Address of this node [default: the one that the default route uses]
    #[arg(long, env = "TRIREME_NODE_IP")]
    pub node_ip: Option<IpAddr>,
    /// cgroup below which pods get theirs
    #[arg(long, env = "TRIREME_CGROUP_ROOT", default_value = "/")]
    pub cgroup_root: String,
    /// Most pods on this node
    #[arg(long, env = "TRIREME_MAX_PODS", default_value_t = 110)]
    pub max_pods: u32,
    /// Most processes of one pod; -1 for no limit
    #[arg(long, env = "TRIREME_POD_MAX_PIDS", default_value_t = trireme_kubelet::POD_PIDS_LIMIT, allow_negative_numbers = true,
        value_parser = pids_limit)]
    pub pod_max_pids: i64,
    /// What must stay free, or the node takes no more pods; signals that are not named are not watched. One value, in the
    /// form signal<amount,signal<percentage
    #[arg(long, env = "TRIREME_EVICTION_HARD", default_value_t)]
    pub eviction_hard: EvictionHard,
    /// Form of log lines
    #[arg(long, env = "TRIREME_LOG_FORMAT", default_value = "auto")]
    pub log_format: LogFormat,
    /// What to log: error, warn, info, debug, trace, or a filter per module
    #[arg(long, env = "TRIREME_LOG_LEVEL", default_value = "info,openraft=error,hickory_server=warn")]
    pub log_level: String,
}

/// Options of `trireme server`. Every one is also a key of the configuration file and a `TRIREME_` variable.
#[derive(Args, Clone, Debug)]
pub struct ServerOptions {
    /// What every host is told.
    #[command(flatten)]
    pub node: NodeOptions,
    /// Where to write the administrator's kubeconfig
    #[arg(long, env = "TRIREME_KUBECONFIG", default_value = "/etc/trireme/kubeconfig")]
    pub kubeconfig: PathBuf,
    /// Address to serve the API on
    #[arg(long, env = "TRIREME_BIND_ADDRESS", default_value = "0.0.0.0")]
    pub bind_address: IpAddr,
    /// Port to serve the API on
    #[arg(long, env = "TRIREME_SECURE_PORT", default_value_t = 6443)]
    pub secure_port: u16,
    /// Port of the peers' own protocol, between servers
    #[arg(long, env = "TRIREME_PEER_PORT", default_value_t = 2380)]
    pub peer_port: u16,
    /// Virtual addresses of the API for people and tools, one of which each server may hold
    #[arg(long, env = "TRIREME_VIP", value_delimiter = ',')]
    pub vip: Vec<IpAddr>,
    /// Further names and addresses of the API's certificate
    #[arg(long, env = "TRIREME_TLS_SAN", value_delimiter = ',')]
    pub tls_san: Vec<String>,
    /// Range of pod addresses
    #[arg(long, env = "TRIREME_CLUSTER_CIDR", default_value = "10.42.0.0/16")]
    pub cluster_cidr: String,
    /// How pods of different nodes reach each other: vxlan, host-gw (all nodes share a link) or none; the same on every node
    #[arg(long, env = "TRIREME_POD_NETWORK", default_value_t)]
    pub pod_network: Mode,
    /// Range of Service addresses
    #[arg(long, env = "TRIREME_SERVICE_CIDR", default_value = "10.43.0.0/16")]
    pub service_cidr: String,
    /// Address of cluster DNS [default: the tenth of the service range]
    #[arg(long, env = "TRIREME_CLUSTER_DNS")]
    pub cluster_dns: Option<IpAddr>,
    /// Domain of cluster DNS
    #[arg(long, env = "TRIREME_CLUSTER_DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Ports that NodePort Services get
    #[arg(long, env = "TRIREME_SERVICE_NODE_PORT_RANGE", default_value = "30000-32767")]
    pub service_node_port_range: String,
    /// Addresses for LoadBalancer Services, comma separated or `A-B` [default: the nodes' own addresses]
    #[arg(long, env = "TRIREME_LOAD_BALANCER_POOL", value_delimiter = ',')]
    pub load_balancer_pool: Vec<String>,
    /// How long a node may be silent before it is given up; its pods leave their Services then. Nodes renew their Leases
    /// every ten seconds
    #[arg(long, env = "TRIREME_NODE_MONITOR_GRACE_PERIOD", default_value = "50s", value_parser = duration)]
    pub node_monitor_grace_period: Duration,
    /// File of kind KubeSchedulerConfiguration (kubescheduler.config.k8s.io/v1): the scheduler's profiles
    #[arg(long, env = "TRIREME_SCHEDULER_CONFIG")]
    pub scheduler_config: Option<PathBuf>,
    /// File of static bearer tokens: token,user,uid,"group1,group2"
    #[arg(long, env = "TRIREME_TOKEN_AUTH_FILE")]
    pub token_auth_file: Option<PathBuf>,
    /// Let requests without credentials in as system:anonymous; otherwise only health and version answer them
    #[arg(long, env = "TRIREME_ANONYMOUS_AUTH", default_value_t = false, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub anonymous_auth: bool,
    /// Warn clients of kinds and fields that are stored and do nothing yet
    #[arg(long, env = "TRIREME_WARN_UNENFORCED", default_value_t = true, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub warn_unenforced: bool,
    /// Parts to leave out, comma separated
    #[arg(long, env = "TRIREME_DISABLE", value_delimiter = ',')]
    pub disable: Vec<Part>,
}

/// Options of `trireme agent`.
#[derive(Args, Clone, Debug)]
pub struct AgentOptions {
    /// What every host is told.
    #[command(flatten)]
    pub node: NodeOptions,
}

/// Why the configuration cannot be used; the message says what to change.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file that was named is not there.
    #[error("{path}: there is no such file; correct --config (or TRIREME_CONFIG), or leave it out to use {DEFAULT_CONFIG}")]
    Absent {
        /// Which.
        path: PathBuf,
    },
    /// A file is there but cannot be read. (`cause` rather than `source`: the line says it already.)
    #[error("{path}: cannot be read: {cause}; make it a readable text file, or name another with --config")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// A file is not a YAML mapping.
    #[error("{path}: {reason}; write one `key: value` a line, keys named like the flags of `trireme server --help`")]
    Malformed {
        /// Which.
        path: PathBuf,
        /// Why and where, in one line.
        reason: String,
    },
    /// A value that its flag does not take.
    #[error("{path}: {reason}; correct the value of \"{key}\"")]
    FileValue {
        /// Which file.
        path: PathBuf,
        /// Which key.
        key: String,
        /// What is wrong and what is right, in one line.
        reason: String,
    },
    /// A key that no flag has.
    #[error("{path}: unknown key \"{key}\"; keys are the names of the flags of `trireme server --help`, without dashes in front")]
    UnknownKey {
        /// Which file.
        path: PathBuf,
        /// Which key.
        key: String,
    },
    /// A value that does not fit.
    #[error("--{flag}: {reason}")]
    Value {
        /// Which flag.
        flag: &'static str,
        /// What is wrong and what is right.
        reason: String,
    },
}

/// A flag as a configuration file sets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileArgument {
    /// Which file.
    pub path: PathBuf,
    /// Which key: the flag's name.
    pub key: String,
    /// Its value as on a command line.
    pub value: String,
}

impl FileArgument {
    /// `--key=value`.
    #[must_use]
    pub fn flag(&self) -> String {
        format!("--{}={}", self.key, self.value)
    }
}

/// The flags that the configuration files stand for, to be placed before those of the command line. Keys whose
/// environment variable is set are left out, since the environment beats the files.
///
/// # Errors
/// See [`ConfigError`]. An absent file is no error unless it was named.
pub fn file_arguments(
    path: &Path,
    named: bool,
    known: &dyn Fn(&str) -> bool,
    environment: &dyn Fn(&str) -> bool,
) -> Result<Vec<FileArgument>, ConfigError> {
    let mut merged: BTreeMap<String, (PathBuf, serde_json::Value)> = BTreeMap::new();
    for file in config_files(path, named)? {
        let text = std::fs::read_to_string(&file).map_err(|cause| ConfigError::Read {
            path: file.clone(),
            cause,
        })?;
        let parsed: Option<BTreeMap<String, serde_json::Value>> =
            serde_saphyr::from_str(&text).map_err(|error| ConfigError::Malformed {
                path: file.clone(),
                reason: yaml_reason(&error),
            })?;
        for (key, value) in parsed.unwrap_or_default() {
            if key == "config" || !known(&key) {
                return Err(ConfigError::UnknownKey { path: file, key });
            }
            merged.insert(key, (file.clone(), value));
        }
    }
    let mut arguments = Vec::new();
    for (key, (path, value)) in merged {
        if environment(&format!("TRIREME_{}", key.replace('-', "_").to_uppercase())) {
            continue;
        }
        let text = match value {
            serde_json::Value::String(text) => text,
            serde_json::Value::Array(items) => items
                .iter()
                .map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned))
                .collect::<Vec<_>>()
                .join(","),
            other => other.to_string(),
        };
        arguments.push(FileArgument { path, key, value: text });
    }
    Ok(arguments)
}

/// What a YAML parser complains of, in one line without the file's text.
fn yaml_reason(error: &serde_saphyr::Error) -> String {
    let error = error.without_snippet();
    let place = |location: &serde_saphyr::Location| format!("line {} column {}", location.line(), location.column());
    match error {
        serde_saphyr::Error::DuplicateMappingKey { key, location } => {
            let key = key.as_deref().map_or_else(String::new, |key| format!(" \"{key}\""));
            format!("{}: the key{key} stands there a second time", place(location))
        }
        serde_saphyr::Error::Unexpected { location, .. } => {
            format!("{}: it is not a mapping of keys to values", place(location))
        }
        other => {
            let text = other.to_string();
            let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
            format!("not valid YAML: {}", line.strip_prefix("error: ").unwrap_or(line))
        }
    }
}

fn config_files(path: &Path, named: bool) -> Result<Vec<PathBuf>, ConfigError> {
    let mut files = Vec::new();
    if path.exists() {
        files.push(path.to_owned());
    } else if named {
        return Err(ConfigError::Absent { path: path.to_owned() });
    }
    let mut directory = path.as_os_str().to_owned();
    directory.push(".d");
    let directory = PathBuf::from(directory);
    if directory.is_dir() {
        let entries = std::fs::read_dir(&directory).map_err(|cause| ConfigError::Read {
            path: directory.clone(),
            cause,
        })?;
        let mut more: Vec<PathBuf> = entries
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|ending| ending == "yaml"))
            .collect();
        more.sort();
        files.extend(more);
    }
    Ok(files)
}

/// Reads a KubeSchedulerConfiguration.
///
/// # Errors
/// [`ConfigError::Value`] with all that is wrong with it, in one line.
pub fn scheduler_configuration(path: &Path) -> Result<Configuration, ConfigError> {
    let wrong = |reason: String| ConfigError::Value {
        flag: "scheduler-config",
        reason: format!("{}: {reason}", path.display()),
    };
    let text = std::fs::read_to_string(path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    let value: serde_json::Value = serde_saphyr::from_str(&text).map_err(|error| wrong(yaml_reason(&error)))?;
    scheduler_configuration::read(&value).map_err(|errors| wrong(trireme_api::field::aggregate(&errors)))
}

/// An IPv4 range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// First address.
    pub network: std::net::Ipv4Addr,
    /// Length of the prefix in bits.
    pub prefix: u8,
}

impl Cidr {
    /// The address `offset` places after the first one.
    ///
    /// # Panics
    /// When it lies outside the range.
    #[must_use]
    pub fn nth(&self, offset: u32) -> std::net::Ipv4Addr {
        assert!(u64::from(offset) < 1_u64 << (32 - self.prefix), "offset within the range");
        (u32::from(self.network) + offset).into()
    }
}

impl std::str::FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("\"{text}\" is not an IPv4 range like 10.43.0.0/16");
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let address: std::net::Ipv4Addr = address.parse().map_err(|_| wrong())?;
        let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
        if !(8..=28).contains(&prefix) {
            return Err(format!("\"{text}\": the prefix must be between 8 and 28 bits long"));
        }
        if u32::from(address) & (u32::MAX >> prefix) != 0 {
            return Err(format!("\"{text}\" has address bits behind its prefix"));
        }
        Ok(Self {
            network: address,
            prefix,
        })
    }
}

/// A configuration after all checks that need no disk and no network.
#[derive(Clone, Debug)]
pub struct Checked {
    /// As given.
    pub options: ServerOptions,
    /// Service range.
    pub service_cidr: Cidr,
    /// Pod range.
    pub cluster_cidr: Cidr,
    /// Cluster DNS address.
    pub cluster_dns: IpAddr,
    /// NodePort range, both ends included.
    pub node_ports: (u16, u16),
    /// The scheduler's profiles.
    pub scheduler: Configuration,
}

impl NodeOptions {
    /// Checks values.
    ///
    /// # Errors
    /// [`ConfigError::Value`] naming the flag.
    pub fn check(&self) -> Result<(), ConfigError> {
        match &self.node_name {
            Some(name) if !is_subdomain(name) => Err(ConfigError::Value {
                flag: "node-name",
                reason: format!("\"{name}\" must be lower case letters, digits, '-' and '.', such as node-1.example"),
            }),
            _ => Ok(()),
        }
    }

    /// The token to join with, if one is to join.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub fn token(&self) -> Result<Option<String>, ConfigError> {
        if self.join.is_empty() {
            return Ok(None);
        }
        match &self.token_file {
            Some(path) => std::fs::read_to_string(path)
                .map(|text| Some(text.trim().to_owned()))
                .map_err(|error| ConfigError::Value {
                    flag: "token-file",
                    reason: format!("reading {}: {error}", path.display()),
                }),
            None => Ok(self.token.clone()),
        }
    }
}

impl ServerOptions {
    /// Checks values and their relations.
    ///
    /// # Errors
    /// [`ConfigError::Value`] naming the flag.
    pub fn check(self) -> Result<Checked, ConfigError> {
        let value = |flag, reason| ConfigError::Value { flag, reason };
        let service_cidr: Cidr = self.service_cidr.parse().map_err(|reason| value("service-cidr", reason))?;
        let cluster_cidr: Cidr = self.cluster_cidr.parse().map_err(|reason| value("cluster-cidr", reason))?;
        let shorter = service_cidr.prefix.min(cluster_cidr.prefix);
        if u32::from(service_cidr.network) >> (32 - shorter) == u32::from(cluster_cidr.network) >> (32 - shorter) {
            return Err(value(
                "service-cidr",
                format!("{} overlaps the pods' {}", self.service_cidr, self.cluster_cidr),
            ));
        }
        let node_ports = self
            .service_node_port_range
            .split_once('-')
            .and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)))
            .filter(|(first, last): &(u16, u16)| first <= last && *first > 0)
            .ok_or_else(|| {
                value(
                    "service-node-port-range",
                    format!("\"{}\" is not a range like 30000-32767", self.service_node_port_range),
                )
            })?;
        self.node.check()?;
        if self.node_monitor_grace_period < NODE_GRACE_MIN {
            return Err(value(
                "node-monitor-grace-period",
                format!(
                    "must be at least {} s, or nodes would be given up that live",
                    NODE_GRACE_MIN.as_secs()
                ),
            ));
        }
        if self.peer_port == self.secure_port || self.peer_port == self.node.kubelet_port {
            return Err(value(
                "peer-port",
                format!("{} is taken by another port flag", self.peer_port),
            ));
        }
        if !self.node.join.is_empty() && self.node.token.is_none() && self.node.token_file.is_none() {
            return Err(value(
                "join",
                "needs --token or --token-file; make one with `trireme token create --role server` on a server".into(),
            ));
        }
        if self.secure_port == self.node.kubelet_port {
            return Err(value(
                "kubelet-port",
                format!("{} is the API's port already", self.node.kubelet_port),
            ));
        }
        let scheduler = self.scheduler_config.as_deref().map(scheduler_configuration).transpose()?;
        let cluster_dns = self.cluster_dns.unwrap_or_else(|| service_cidr.nth(10).into());
        Ok(Checked {
            scheduler: scheduler.unwrap_or_default(),
            service_cidr,
            cluster_cidr,
            cluster_dns,
            node_ports,
            options: self,
        })
    }
}

impl Checked {
    /// The address where this host's own programs find the API: the one that it is bound to, or the node's if that is any.
    #[must_use]
    pub fn answers_at(&self, node_ip: IpAddr) -> IpAddr {
        match self.options.bind_address {
            any if any.is_unspecified() => node_ip,
            one => one,
        }
    }

    /// The address where other hosts find the server. As upstream's `--advertise-address` by default, it is the node's where
    /// the API is bound to the loopback.
    #[must_use]
    pub fn reached_at(&self, node_ip: IpAddr) -> IpAddr {
        match self.answers_at(node_ip) {
            own if own.is_loopback() => node_ip,
            one => one,
        }
    }

    /// Whether a part runs.
    #[must_use]
    pub fn runs(&self, part: Part) -> bool {
        let disable = &self.options.disable;
        // Routing and DNS serve this host's pods: without a node they have nobody to serve.
        let needs_node = matches!(part, Part::Proxy | Part::Dns);
        let without = disable.contains(&part) || (needs_node && disable.contains(&Part::Node));
        !without
    }
}

impl Checked {
    /// What must be the same on every host.
    #[must_use]
    pub fn cluster_settings(&self) -> ClusterSettings {
        let options = &self.options;
        ClusterSettings {
            service_cidr: options.service_cidr.clone(),
            cluster_cidr: options.cluster_cidr.clone(),
            cluster_dns: self.cluster_dns,
            cluster_domain: options.cluster_domain.clone(),
            service_node_port_range: options.service_node_port_range.clone(),
            pod_network: options.pod_network.to_string(),
            load_balancer_pool: options.load_balancer_pool.join(","),
        }
    }
}

fn is_subdomain(name: &str) -> bool {
    name.len() <= 253
        && name.split('.').all(|label| {
            !label.is_empty()
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_checked() {
        assert_eq!(
            "10.43.0.0/16".parse::<Cidr>().unwrap().nth(10),
            std::net::Ipv4Addr::new(10, 43, 0, 10)
        );
        for wrong in ["10.43.0.0", "10.43.0.1/16", "10.43.0.0/33", "x/16", "10.0.0.0/30"] {
            assert!(wrong.parse::<Cidr>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_limit_of_processes_is_positive_or_none() {
        assert_eq!(pids_limit("1024"), Ok(1024));
        assert_eq!(pids_limit("-1"), Ok(-1));
        for wrong in ["0", "-2", "", "many"] {
            assert!(pids_limit(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations_are_read() {
        assert_eq!(duration("90s").unwrap().as_secs(), 90);
        assert_eq!(duration("24h").unwrap().as_secs(), 86_400);
        assert_eq!(duration("0").unwrap().as_secs(), 0);
        for wrong in ["", "h", "1w", "-1h", "99999999999999999999d"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_scheduler_configuration_is_read_and_a_wrong_one_names_its_flag_and_field() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("scheduler.yaml");
        let head = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";
        std::fs::write(&path, format!("{head}profiles:\n- schedulerName: packer\n")).unwrap();
        let read = scheduler_configuration(&path).unwrap();
        assert_eq!(read.profiles[0].scheduler_name, "packer");
        std::fs::write(&path, format!("{head}percentageOfNodesToScore: 200\n")).unwrap();
        let error = scheduler_configuration(&path).unwrap_err().to_string();
        let text = "percentageOfNodesToScore: Invalid value: 200: not in valid range [0-100]";
        assert_eq!(error, format!("--scheduler-config: {}: {text}", path.display()));
        let error = scheduler_configuration(&directory.path().join("absent"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("absent: cannot be read"), "{error}");
    }

    #[test]
    fn files_become_arguments_unless_the_environment_says_otherwise() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.yaml");
        std::fs::write(&path, "secure-port: 7443\ntls-san: [a, b]\nnode-name: first\n").unwrap();
        std::fs::create_dir(directory.path().join("config.yaml.d")).unwrap();
        std::fs::write(directory.path().join("config.yaml.d/10.yaml"), "node-name: second\n").unwrap();
        let known = |key: &str| ["secure-port", "tls-san", "node-name"].contains(&key);
        let arguments = file_arguments(&path, true, &known, &|name| name == "TRIREME_SECURE_PORT").unwrap();
        let flags: Vec<String> = arguments.iter().map(FileArgument::flag).collect();
        assert_eq!(flags, ["--node-name=second", "--tls-san=a,b"]);
        assert_eq!(arguments[0].path, directory.path().join("config.yaml.d/10.yaml"));
        std::fs::write(&path, "nod-name: x\n").unwrap();
        let error = file_arguments(&path, true, &known, &|_| false).unwrap_err().to_string();
        assert!(error.contains("unknown key \"nod-name\""), "{error}");
        assert!(
            file_arguments(&directory.path().join("absent.yaml"), false, &known, &|_| false)
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn a_broken_file_is_told_in_one_line_that_names_it_and_says_its_cause_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.yaml");
        let known = |key: &str| ["secure-port", "node-name"].contains(&key);
        let told = |content: Option<&[u8]>| {
            match content {
                Some(content) => std::fs::write(&path, content).unwrap(),
                None => std::fs::remove_file(&path).unwrap(),
            }
            let error = file_arguments(&path, true, &known, &|_| false).unwrap_err();
            // As the binary shows it: with the chain of causes.
            let line = format!("{:#}", anyhow::Error::from(error));
            assert!(line.starts_with(&format!("{}: ", path.display())), "{line}");
            assert_eq!(line.lines().count(), 1, "{line}");
            line
        };
        for (content, cause) in [
            (&b"secure-port: [1\n  x: \"y\n"[..], "not valid YAML: "),
            (
                b"node-name: a\nnode-name: b\n",
                "line 2 column 1: the key \"node-name\" stands there a second time",
            ),
            (b"- a\n- b\n", "line 1 column 1: it is not a mapping of keys to values"),
            (b"\xff\xfe", "cannot be read: stream did not contain valid UTF-8"),
            (b"port: 1\n", "unknown key \"port\""),
        ] {
            let line = told(Some(content));
            assert_eq!(line.matches(cause).count(), 1, "{line}");
        }
        let line = told(None);
        assert_eq!(line.matches("no such file").count(), 1, "{line}");
    }
}
