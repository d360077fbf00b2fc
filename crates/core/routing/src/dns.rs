//! Cluster DNS as a function: Services and EndpointSlices to records, a question to an answer, as version 1.1.0 of the
//! Kubernetes DNS schema has it.
//!
//! Invariant: a name that exists without a record of the asked type is no data, never NXDOMAIN. It will not forward,
//! cache or shuffle. Pod names (`10-42-0-5.ns.pod.<zone>`) are answered from the name alone, but only for addresses that
//! pods can have, so that no certificate for `*.pod.<zone>` can be pointed at a foreign address.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core_v1;
use k8s_openapi::api::discovery::v1 as discovery;

use crate::endpoints::{self, Index};
use crate::facts::{Cidr, Protocol};

/// Seconds an answer may be kept.
pub const TTL_S: u32 = 5;
const SCHEMA_VERSION: &str = "1.1.0";
const SCHEMA_TTL_S: u32 = 28_800;
/// Aliases that are followed in a row; there may be a circle.
const ALIASES_MAX: usize = 8;

/// What names are made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    /// Cluster domain without dots at its ends, `cluster.local`.
    pub domain: String,
    /// Ranges of pods: whose reverse names and pod names are answered.
    pub cluster_cidrs: Vec<Cidr>,
    /// Ranges of ClusterIPs: whose reverse names are answered.
    pub service_cidrs: Vec<Cidr>,
    /// The cluster DNS address, for the zone's own name server record.
    pub server: Option<IpAddr>,
}

/// Types of records that questions ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// IPv4 address.
    A,
    /// IPv6 address.
    Aaaa,
    /// Service.
    Srv,
    /// Reverse name.
    Ptr,
    /// Alias.
    Cname,
    /// Text.
    Txt,
    /// Name server.
    Ns,
    /// Start of authority.
    Soa,
    /// Whatever there is.
    Any,
    /// Any other type: never has records here.
    Other,
}

/// Content of a record. Names are absolute, with the dot at the end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Data {
    /// A.
    A(Ipv4Addr),
    /// AAAA.
    Aaaa(Ipv6Addr),
    /// SRV.
    Srv {
        /// Priority.
        priority: u16,
        /// Weight.
        weight: u16,
        /// Port.
        port: u16,
        /// Name of the host.
        target: String,
    },
    /// PTR.
    Ptr(String),
    /// CNAME.
    Cname(String),
    /// TXT.
    Txt(String),
    /// NS.
    Ns(String),
}

/// A record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Record {
    /// Owner, absolute.
    pub name: String,
    /// Seconds it may be kept.
    pub ttl_s: u32,
    /// Content.
    pub data: Data,
}

/// What a question gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Records, and others that save the asker a question.
    Records {
        /// Answer section.
        answers: Vec<Record>,
        /// Additional section.
        additional: Vec<Record>,
        /// An alias leads to this name outside the zone, whose records belong behind the answers.
        chase: Option<String>,
    },
    /// The name exists, a record of this type does not.
    NoData,
    /// The name does not exist.
    NxDomain,
    /// The start of authority is asked for: the caller makes it, as it does for negative answers.
    Soa,
    /// Not a name of the cluster: ask others.
    NotOurs,
}

/// Records of a cluster.
#[derive(Clone, Debug)]
pub struct Records {
    zone: Zone,
    /// Namespace → Service → what it answers.
    namespaces: BTreeMap<String, BTreeMap<String, Entry>>,
    /// Address → absolute names.
    reverse: BTreeMap<IpAddr, Vec<String>>,
}

#[derive(Clone, Debug)]
enum Entry {
    Cluster { addresses: Vec<IpAddr>, ports: Vec<NamedPort> },
    Headless { endpoints: Vec<Host> },
    External { target: String },
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct NamedPort {
    name: String,
    protocol: Protocol,
    port: u16,
}

#[derive(Clone, Debug)]
struct Host {
    name: String,
    address: IpAddr,
    ports: Vec<NamedPort>,
}

impl Records {
    /// Builds the records. Slices of Services with a ClusterIP may be left out: they make no names.
    #[must_use]
    pub fn build(services: &[Arc<core_v1::Service>], slices: &[Arc<discovery::EndpointSlice>], zone: Zone) -> Self {
        let zone = Zone {
            domain: zone.domain.trim_matches('.').to_ascii_lowercase(),
            ..zone
        };
        let index = endpoints::index(slices);
        let mut records = Self {
            zone,
            namespaces: BTreeMap::new(),
            reverse: BTreeMap::new(),
        };
        for service in services {
            let (Some(namespace), Some(name)) = (&service.metadata.namespace, &service.metadata.name) else {
                continue;
            };
            let Some(entry) = entry(service, &index) else { continue };
            records.add_reverse(namespace, name, &entry);
            records
                .namespaces
                .entry(namespace.clone())
                .or_default()
                .insert(name.clone(), entry);
        }
        for names in records.reverse.values_mut() {
            names.sort();
            names.dedup();
        }
        records
    }

    /// The zone.
    #[must_use]
    pub fn zone(&self) -> &Zone {
        &self.zone
    }

    fn service_name(&self, namespace: &str, name: &str) -> String {
        format!("{name}.{namespace}.svc.{}.", self.zone.domain)
    }

    fn add_reverse(&mut self, namespace: &str, name: &str, entry: &Entry) {
        let of_service = self.service_name(namespace, name);
        match entry {
            Entry::Cluster { addresses, .. } => {
                for address in addresses {
                    self.reverse.entry(*address).or_default().push(of_service.clone());
                }
            }
            Entry::Headless { endpoints } => {
                for host in endpoints {
                    self.reverse
                        .entry(host.address)
                        .or_default()
                        .push(format!("{}.{of_service}", host.name));
                }
            }
            Entry::External { .. } => {}
        }
    }

    /// Answers a question. The name may be of any case, with or without the dot at its end.
    #[must_use]
    pub fn resolve(&self, name: &str, kind: Kind) -> Answer {
        let lower = name.trim_end_matches('.').to_ascii_lowercase();
        if let Some(address) = reverse_address(&lower) {
            return self.resolve_reverse(&lower, address, kind);
        }
        let Some(prefix) = below(&lower, &self.zone.domain) else {
            return Answer::NotOurs;
        };
        let labels: Vec<&str> = prefix.split('.').filter(|label| !label.is_empty()).collect();
        let owner = format!("{lower}.");
        match labels.as_slice() {
            [] => self.apex(&owner, kind),
            ["svc" | "pod" | "dns"] => Answer::NoData,
            ["ns", "dns"] => answer_addresses(&owner, self.zone.server.iter().copied(), kind),
            ["dns-version"] => text(&owner, kind),
            [namespace, "svc" | "pod"] if self.namespaces.contains_key(*namespace) => Answer::NoData,
            [address, _, "pod"] => self.pod(&owner, address, kind),
            [before @ .., service, namespace, "svc"] => {
                let known = self.namespaces.get(*namespace).and_then(|services| services.get(*service));
                known.map_or(Answer::NxDomain, |entry| {
                    self.service(&owner, entry, (service, namespace), before, kind)
                })
            }
            _ => Answer::NxDomain,
        }
    }

    fn apex(&self, owner: &str, kind: Kind) -> Answer {
        match kind {
            Kind::Soa => Answer::Soa,
            Kind::Ns | Kind::Any => {
                let host = format!("ns.dns.{}.", self.zone.domain);
                let additional = self.zone.server.iter().map(|it| record(&host, address_data(*it))).collect();
                Answer::Records {
                    answers: vec![record(owner, Data::Ns(host.clone()))],
                    additional,
                    chase: None,
                }
            }
            _ => Answer::NoData,
        }
    }

    fn pod(&self, owner: &str, label: &str, kind: Kind) -> Answer {
        let v4 = label.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::V4);
        let address = v4.or_else(|_| label.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6));
        match address {
            Ok(address) if self.zone.cluster_cidrs.iter().any(|cidr| cidr.contains(address)) => {
                answer_addresses(owner, std::iter::once(address), kind)
            }
            _ => Answer::NxDomain,
        }
    }

    fn service(&self, owner: &str, entry: &Entry, of: (&str, &str), before: &[&str], kind: Kind) -> Answer {
        let service = self.service_name(of.1, of.0);
        match (entry, before) {
            (Entry::External { target }, []) => self.alias(owner, target, kind),
            (Entry::External { .. }, _) => Answer::NxDomain,
            (Entry::Cluster { addresses, .. }, []) if kind != Kind::Srv => {
                answer_addresses(owner, addresses.iter().copied(), kind)
            }
            (Entry::Cluster { addresses, ports }, _) => {
                let Some(chosen) = chosen_ports(ports, before) else {
                    return Answer::NxDomain;
                };
                let additional = addresses.iter().map(|it| record(&service, address_data(*it))).collect();
                services(
                    owner,
                    chosen.into_iter().map(|port| (port.port, service.clone())).collect(),
                    additional,
                    kind,
                )
            }
            // Without ready endpoints the name does not exist.
            (Entry::Headless { endpoints }, _) if endpoints.is_empty() => Answer::NxDomain,
            (Entry::Headless { endpoints }, []) if kind != Kind::Srv => {
                answer_addresses(owner, endpoints.iter().map(|host| host.address), kind)
            }
            (Entry::Headless { endpoints }, [host]) if endpoints.iter().any(|it| it.name == *host) => answer_addresses(
                owner,
                endpoints.iter().filter(|it| it.name == *host).map(|it| it.address),
                kind,
            ),
            (Entry::Headless { endpoints }, _) => headless_services(owner, &service, endpoints, before, kind),
        }
    }

    fn alias(&self, owner: &str, target: &str, kind: Kind) -> Answer {
        let mut answers = vec![record(owner, Data::Cname(target.to_owned()))];
        if kind == Kind::Cname || kind == Kind::Any {
            return Answer::Records {
                answers,
                additional: Vec::new(),
                chase: None,
            };
        }
        // Those who ask resolve nothing themselves: they want all the way to the records.
        let (mut next, mut chase) = (target, None);
        for _ in 0..ALIASES_MAX {
            let plain = next.trim_end_matches('.');
            let Some(prefix) = below(plain, &self.zone.domain) else {
                chase = Some(next.to_owned());
                break;
            };
            let Some(further) = self.alias_of(prefix) else {
                if let Answer::Records { answers: more, .. } = self.resolve(plain, kind) {
                    answers.extend(more);
                }
                break;
            };
            answers.push(record(next, Data::Cname(further.to_owned())));
            next = further;
        }
        Answer::Records {
            answers,
            additional: Vec::new(),
            chase,
        }
    }

    /// What the name of an ExternalName Service leads to.
    fn alias_of(&self, prefix: &str) -> Option<&str> {
        let labels: Vec<&str> = prefix.split('.').collect();
        let [service, namespace, "svc"] = labels.as_slice() else {
            return None;
        };
        match self.namespaces.get(*namespace)?.get(*service)? {
            Entry::External { target } => Some(target),
            Entry::Cluster { .. } | Entry::Headless { .. } => None,
        }
    }

    fn resolve_reverse(&self, lower: &str, address: Option<IpAddr>, kind: Kind) -> Answer {
        let Some(address) = address else { return Answer::NotOurs };
        if !self
            .zone
            .cluster_cidrs
            .iter()
            .chain(&self.zone.service_cidrs)
            .any(|cidr| cidr.contains(address))
        {
            return Answer::NotOurs;
        }
        let Some(names) = self.reverse.get(&address) else {
            return Answer::NxDomain;
        };
        if kind != Kind::Ptr && kind != Kind::Any {
            return Answer::NoData;
        }
        let owner = format!("{lower}.");
        let answers = names.iter().map(|name| record(&owner, Data::Ptr(name.clone()))).collect();
        Answer::Records {
            answers,
            additional: Vec::new(),
            chase: None,
        }
    }
}

fn entry(service: &core_v1::Service, index: &Index<'_>) -> Option<Entry> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        let target = spec
            .external_name
            .as_deref()
            .unwrap_or_default()
            .trim_end_matches('.')
            .to_ascii_lowercase();
        return (!target.is_empty()).then(|| Entry::External {
            target: format!("{target}."),
        });
    }
    let number = |port: i32| u16::try_from(port).unwrap_or(0);
    match spec.cluster_ip.as_deref() {
        None | Some("") => None,
        Some("None") => Some(Entry::Headless {
            endpoints: hosts(service, index),
        }),
        Some(first) => {
            let mut addresses: Vec<IpAddr> = spec.cluster_ips.iter().flatten().filter_map(|it| it.parse().ok()).collect();
            if addresses.is_empty() {
                addresses.extend(first.parse::<IpAddr>());
            }
            let ports = spec.ports.iter().flatten().filter_map(|port| {
                let protocol = Protocol::of(port.protocol.as_deref())?;
                Some(NamedPort {
                    name: port.name.clone().unwrap_or_default(),
                    protocol,
                    port: number(port.port),
                })
            });
            Some(Entry::Cluster {
                addresses,
                ports: ports.collect(),
            })
        }
    }
}

fn hosts(service: &core_v1::Service, index: &Index<'_>) -> Vec<Host> {
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let name = service.metadata.name.as_deref().unwrap_or_default();
    let publish_all = service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses) == Some(true);
    let mut hosts: BTreeMap<(IpAddr, String), Vec<NamedPort>> = BTreeMap::new();
    for slice in index.get(&(namespace, name)).map(Vec::as_slice).unwrap_or_default() {
        let ports: Vec<NamedPort> = slice.ports.iter().flatten().filter_map(named_port).collect();
        for endpoint in slice
            .endpoints
            .iter()
            .flatten()
            .filter(|it| publish_all || endpoints::conditions(it).0)
        {
            for address in endpoint.addresses.iter().filter_map(|text| text.parse::<IpAddr>().ok()) {
                let host = endpoint.hostname.as_deref().filter(|host| !host.is_empty());
                let host = host.map_or_else(|| address.to_string().replace(['.', ':'], "-"), str::to_ascii_lowercase);
                let known = hosts.entry((address, host)).or_default();
                known.extend(ports.iter().cloned());
                known.sort();
                known.dedup();
            }
        }
    }
    hosts
        .into_iter()
        .map(|((address, name), ports)| Host { name, address, ports })
        .collect()
}

fn named_port(port: &discovery::EndpointPort) -> Option<NamedPort> {
    let protocol = Protocol::of(port.protocol.as_deref())?;
    let number = u16::try_from(port.port?).ok()?;
    Some(NamedPort {
        name: port.name.clone().unwrap_or_default(),
        protocol,
        port: number,
    })
}

/// What stands before the zone, `None` for a name outside it.
fn below<'a>(name: &'a str, zone: &str) -> Option<&'a str> {
    let prefix = name.strip_suffix(zone)?;
    if prefix.is_empty() {
        Some("")
    } else {
        prefix.strip_suffix('.')
    }
}

/// `None`: not a reverse name. `Some(None)`: one of no whole address.
fn reverse_address(name: &str) -> Option<Option<IpAddr>> {
    if let Some(labels) = below(name, "in-addr.arpa") {
        let octets: Vec<&str> = labels.rsplit('.').collect();
        return Some(octets.join(".").parse::<Ipv4Addr>().ok().map(IpAddr::V4));
    }
    let labels = below(name, "ip6.arpa")?;
    let digits: String = labels.rsplit('.').collect();
    let whole = digits.len() == 32 && labels.len() == 63;
    Some(
        whole
            .then(|| u128::from_str_radix(&digits, 16).ok())
            .flatten()
            .map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))),
    )
}

fn record(name: &str, data: Data) -> Record {
    Record {
        name: name.to_owned(),
        ttl_s: TTL_S,
        data,
    }
}

fn address_data(address: IpAddr) -> Data {
    match address {
        IpAddr::V4(v4) => Data::A(v4),
        IpAddr::V6(v6) => Data::Aaaa(v6),
    }
}

fn answer_addresses(owner: &str, addresses: impl Iterator<Item = IpAddr>, kind: Kind) -> Answer {
    let wanted = addresses.filter(|address| match kind {
        Kind::A => address.is_ipv4(),
        Kind::Aaaa => address.is_ipv6(),
        Kind::Any => true,
        _ => false,
    });
    let mut answers: Vec<Record> = wanted.map(|address| record(owner, address_data(address))).collect();
    answers.sort();
    answers.dedup();
    or_no_data(answers, Vec::new())
}

fn or_no_data(answers: Vec<Record>, additional: Vec<Record>) -> Answer {
    if answers.is_empty() {
        Answer::NoData
    } else {
        Answer::Records {
            answers,
            additional,
            chase: None,
        }
    }
}

fn text(owner: &str, kind: Kind) -> Answer {
    if !matches!(kind, Kind::Txt | Kind::Any) {
        return Answer::NoData;
    }
    let record = Record {
        name: owner.to_owned(),
        ttl_s: SCHEMA_TTL_S,
        data: Data::Txt(SCHEMA_VERSION.to_owned()),
    };
    or_no_data(vec![record], Vec::new())
}

/// The ports that the labels before a Service's name mean: none for all, `_proto` for a name in between (which exists but
/// has no records), `_port._proto` for one. `None` where there is no such name.
fn chosen_ports<'a>(ports: &'a [NamedPort], before: &[&str]) -> Option<Vec<&'a NamedPort>> {
    let has_protocol = |label: &str, port: &NamedPort| label.strip_prefix('_') == Some(port.protocol.word());
    match before {
        [] => Some(ports.iter().collect()),
        [protocol] => ports
            .iter()
            .any(|port| !port.name.is_empty() && has_protocol(protocol, port))
            .then(Vec::new),
        [name, protocol] => {
            let name = name.strip_prefix('_').filter(|name| !name.is_empty())?;
            let found: Vec<_> = ports
                .iter()
                .filter(|port| port.name == name && has_protocol(protocol, port))
                .collect();
            (!found.is_empty()).then_some(found)
        }
        _ => None,
    }
}

fn services(owner: &str, mut targets: Vec<(u16, String)>, additional: Vec<Record>, kind: Kind) -> Answer {
    if !matches!(kind, Kind::Srv | Kind::Any) {
        return Answer::NoData;
    }
    targets.sort();
    targets.dedup();
    let weight = u16::try_from(100 / targets.len().max(1)).unwrap_or(1).max(1);
    let answers = targets.into_iter().map(|(port, target)| {
        record(
            owner,
            Data::Srv {
                priority: 0,
                weight,
                port,
                target,
            },
        )
    });
    or_no_data(answers.collect(), additional)
}

fn headless_services(owner: &str, service: &str, endpoints: &[Host], before: &[&str], kind: Kind) -> Answer {
    let (mut targets, mut additional, mut exists) = (Vec::new(), Vec::new(), before.is_empty());
    for host in endpoints {
        let Some(chosen) = chosen_ports(&host.ports, before) else {
            continue;
        };
        exists = true;
        let name = format!("{}.{service}", host.name);
        if !chosen.is_empty() {
            additional.push(record(&name, address_data(host.address)));
        }
        targets.extend(chosen.into_iter().map(|port| (port.port, name.clone())));
    }
    if exists {
        services(owner, targets, additional, kind)
    } else {
        Answer::NxDomain
    }
}
