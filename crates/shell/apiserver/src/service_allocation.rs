//! Addresses and node ports of Services.
//!
//! Invariant: an `IPAddress` object (or a node port's reservation) exists exactly while a Service holds that address (or
//! port): both are written in the Service's own transaction, an allocation with the precondition that it was absent. So
//! nothing doubles and nothing leaks, whatever fails in between.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rand::Rng as _;
use serde_json::{Value, json};
use trireme_api::Status;
use trireme_api::field::{FieldError, FieldErrorType};
use trireme_resources::validation;
use trireme_store::{Body, Operation, Precondition, Write};

use crate::keys;
use crate::pipeline::Target;
use crate::pipeline::options::{error, quoted};
use crate::server::{ApiServer, now};

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    base: u128,
    bits: u8,
    v6: bool,
}

impl Cidr {
    /// Parses `10.43.0.0/16` or `fd00::/112`; host bits are cleared.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (address, bits) = text.split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let bits: u8 = bits.parse().ok()?;
        let (number, width) = number_of(address);
        if bits > width {
            return None;
        }
        let host = u32::from(width - bits);
        let base = if host >= 128 { 0 } else { number >> host << host };
        Some(Self {
            base,
            bits,
            v6: address.is_ipv6(),
        })
    }

    /// `IPv4` or `IPv6`.
    #[must_use]
    pub fn family(&self) -> &'static str {
        if self.v6 { "IPv6" } else { "IPv4" }
    }

    /// The `n`th address.
    #[must_use]
    pub fn address(&self, n: u128) -> IpAddr {
        let number = self.base.wrapping_add(n);
        if self.v6 {
            IpAddr::V6(Ipv6Addr::from(number))
        } else {
            IpAddr::V4(Ipv4Addr::from(u32::try_from(number & u128::from(u32::MAX)).unwrap_or(0)))
        }
    }

    /// How many addresses it has, at most 2^64 as upstream counts.
    #[must_use]
    pub fn size(&self) -> u128 {
        let width: u8 = if self.v6 { 128 } else { 32 };
        1 << u32::from(width - self.bits).min(64)
    }

    /// Whether an address can be given to a Service: within the range, not its first, and in IPv4 not its last.
    #[must_use]
    pub fn gives(&self, address: IpAddr) -> bool {
        let (number, _) = number_of(address);
        let last = self.base + self.size() - 1;
        address.is_ipv6() == self.v6 && number > self.base && number <= last && (self.v6 || number < last)
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address(0), self.bits)
    }
}

fn number_of(address: IpAddr) -> (u128, u8) {
    match address {
        IpAddr::V4(v4) => (u128::from(u32::from(v4)), 32),
        IpAddr::V6(v6) => (u128::from(v6), 128),
    }
}

/// How often a random address or port is tried before the range is searched.
const RANDOM_TRIES: u32 = 64;
/// Reservations of node ports are records of this kind.
const NODE_PORTS: &str = "nodeports";

/// What a Service holds.
#[derive(Debug, Default, PartialEq, Eq)]
struct Claims {
    addresses: BTreeSet<IpAddr>,
    ports: BTreeSet<u16>,
}

fn texts(value: &Value) -> Vec<String> {
    let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn text<'a>(spec: &'a Value, name: &str) -> &'a str {
    spec[name].as_str().unwrap_or_default()
}

/// A number, 0 where there is none.
fn whole(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

fn port(value: &Value) -> Option<u16> {
    value
        .as_u64()
        .and_then(|port| u16::try_from(port).ok())
        .filter(|port| *port > 0)
}

/// All node ports of a service, as they stand there.
fn port_numbers(service: &Value) -> BTreeSet<i64> {
    let spec = &service["spec"];
    let ports = spec["ports"].as_array().into_iter().flatten();
    let numbers = ports.map(|entry| whole(&entry["nodePort"]));
    numbers
        .chain([whole(&spec["healthCheckNodePort"])])
        .filter(|number| *number != 0)
        .collect()
}

fn claims(service: &Value) -> Claims {
    let spec = &service["spec"];
    let mut claims = Claims::default();
    if needs_address(spec) {
        claims.addresses = texts(&spec["clusterIPs"]).iter().filter_map(|ip| ip.parse().ok()).collect();
    }
    let ports = spec["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
    claims.ports = ports.iter().filter_map(|entry| port(&entry["nodePort"])).collect();
    claims.ports.extend(port(&spec["healthCheckNodePort"]));
    claims
}

fn needs_address(spec: &Value) -> bool {
    text(spec, "type") != "ExternalName"
}

fn is_headless(spec: &Value) -> bool {
    text(spec, "clusterIP") == "None" || spec["clusterIPs"][0] == "None"
}

fn allocates_node_ports(spec: &Value) -> bool {
    match text(spec, "type") {
        "NodePort" => true,
        "LoadBalancer" => spec["allocateLoadBalancerNodePorts"].as_bool().unwrap_or(true),
        _ => false,
    }
}

fn needs_health_check_port(spec: &Value) -> bool {
    text(spec, "type") == "LoadBalancer" && text(spec, "externalTrafficPolicy") == "Local"
}

/// Whether a request means Services.
pub(crate) fn is_service(target: &Target) -> bool {
    target.row.group.is_empty() && target.row.plural == "services"
}

fn refused(service: &Value, errors: &[FieldError]) -> Status {
    Status::invalid("", "Service", crate::pipeline::meta_text(service, "name"), errors)
}

fn invalid(path: &str, value: impl Into<String>, detail: impl Into<String>) -> FieldError {
    error(FieldErrorType::Invalid, path, value, detail)
}

fn shown_list(list: &[String]) -> String {
    Value::from(list.to_vec()).to_string()
}

impl ApiServer {
    /// Allocates for a new object; the writes belong into its transaction.
    ///
    /// # Errors
    /// As upstream refuses addresses and ports.
    pub(crate) fn allocate_create(&self, target: &Target, service: &mut Value, dry_run: bool) -> Result<Vec<Write>, Status> {
        if !is_service(target) || !service["spec"].is_object() {
            return Ok(Vec::new());
        }
        let spec = &mut service["spec"];
        let single = text(spec, "clusterIP").to_owned();
        if !single.is_empty() && texts(&spec["clusterIPs"]).is_empty() {
            spec["clusterIPs"] = json!([single]);
        }
        self.allocate(target, None, service, dry_run)
    }

    /// Allocates for a changed object; the writes belong into its transaction. What it gives back is [`Self::release_changed`].
    ///
    /// # Errors
    /// As upstream refuses addresses and ports.
    pub(crate) fn allocate_update(
        &self,
        target: &Target,
        old: &Value,
        service: &mut Value,
        dry_run: bool,
    ) -> Result<Vec<Write>, Status> {
        if !is_service(target) || !target.subresource.is_empty() || !service["spec"].is_object() {
            return Ok(Vec::new());
        }
        patch_allocated(old, service);
        normalize(old, service);
        self.allocate(target, Some(old), service, dry_run)
    }

    /// The writes that give back what a changed object holds no longer, once it is as it will be stored.
    pub(crate) fn release_changed(&self, target: &Target, old: &Value, service: &Value) -> Vec<Write> {
        if !is_service(target) || !target.subresource.is_empty() {
            return Vec::new();
        }
        let (before, after) = (claims(old), claims(service));
        let addresses = before.addresses.difference(&after.addresses);
        let addresses = addresses.filter_map(|address| self.free(address_key(*address)));
        let ports = before.ports.difference(&after.ports);
        let ports = ports.filter_map(|port| self.free(keys::internal(NODE_PORTS, &port.to_string())));
        addresses.chain(ports).collect()
    }

    /// The writes that give back all that a deleted object held.
    pub(crate) fn release(&self, target: &Target, service: &Value) -> Vec<Write> {
        if !is_service(target) {
            return Vec::new();
        }
        let held = claims(service);
        let addresses = held.addresses.iter().filter_map(|address| self.free(address_key(*address)));
        let ports = held
            .ports
            .iter()
            .filter_map(|port| self.free(keys::internal(NODE_PORTS, &port.to_string())));
        addresses.chain(ports).collect()
    }

    fn free(&self, key: trireme_store::Key) -> Option<Write> {
        let current = self.store.get(&key)?;
        Some(Write {
            key,
            precondition: Precondition::Revision(current.header().resource_version),
            operation: Operation::Delete {
                last: Body::new(current.value()),
            },
        })
    }

    fn allocate(&self, target: &Target, old: Option<&Value>, service: &mut Value, dry_run: bool) -> Result<Vec<Write>, Status> {
        let mut writes = Vec::new();
        if !old.is_some_and(|old| keeps_preferred_families(old, service)) {
            self.families(old, service)?;
            writes = self.addresses(target, old, service, dry_run)?;
        }
        let mut ports = Ports {
            held: old.map(port_numbers).unwrap_or_default(),
            taken: BTreeSet::new(),
            new: old.is_none(),
            dry_run,
            searched: 0,
        };
        self.node_ports(&mut ports, service)?;
        if !old.is_some_and(|old| needs_health_check_port(&old["spec"])) {
            self.health_check_port(&mut ports, service)?;
        }
        writes.extend(ports.taken.iter().map(|port| self.claim_port(target, service, *port)));
        Ok(writes)
    }

    fn cidr(&self, family: &str) -> Option<&Cidr> {
        self.config.service_cidrs.iter().find(|cidr| cidr.family() == family)
    }

    /// Fills `ipFamilyPolicy` and `ipFamilies`.
    fn families(&self, old: Option<&Value>, service: &mut Value) -> Result<(), Status> {
        let spec = &mut service["spec"];
        if !needs_address(spec) {
            return Ok(());
        }
        let selectorless = spec["selector"].as_object().is_none_or(serde_json::Map::is_empty);
        let free_headless = text(spec, "clusterIP") == "None" && selectorless;
        // An empty one is there, and wrong.
        if spec["ipFamilyPolicy"].is_null() {
            let inherited = old.map(|old| text(&old["spec"], "ipFamilyPolicy")).unwrap_or_default();
            let policy = match inherited {
                "" if free_headless => "RequireDualStack",
                "" => "SingleStack",
                inherited => inherited,
            };
            spec["ipFamilyPolicy"] = policy.into();
        }
        let policy = text(spec, "ipFamilyPolicy").to_owned();
        let wrong = validation::service_addresses(service, old);
        if !wrong.is_empty() {
            return Err(refused(service, &wrong));
        }
        let snapshot = service.clone();
        let spec = &mut service["spec"];
        let mut addresses = texts(&spec["clusterIPs"]);
        let mut families = texts(&spec["ipFamilies"]);
        let mut errors = Vec::new();
        if let Some(old) = old {
            let (old_addresses, old_families) = (texts(&old["spec"]["clusterIPs"]), texts(&old["spec"]["ipFamilies"]));
            if policy == "SingleStack" {
                if addresses == old_addresses && addresses.len() > 1 {
                    addresses.truncate(1);
                }
                if families == old_families && families.len() > 1 {
                    families.truncate(1);
                }
            } else {
                if !addresses.is_empty() && addresses.len() < old_addresses.len() {
                    let detail = "must be 'SingleStack' to release the secondary cluster IP";
                    errors.push(invalid("spec.ipFamilyPolicy", quoted(&policy), detail));
                }
                if !families.is_empty() && families.len() < old_families.len() {
                    let detail = "must be 'SingleStack' to release the secondary IP family";
                    errors.push(invalid("spec.ipFamilyPolicy", quoted(&policy), detail));
                }
            }
        }
        if policy == "SingleStack" {
            let detail = "must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs are specified";
            if addresses.len() == 2 {
                errors.push(invalid("spec.ipFamilyPolicy", quoted(&policy), detail));
            }
            let detail = "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified";
            if families.len() == 2 {
                errors.push(invalid("spec.ipFamilyPolicy", quoted(&policy), detail));
            }
        }
        for (index, address) in addresses.iter().enumerate() {
            let Ok(parsed) = address.parse::<IpAddr>() else { break };
            let family = if parsed.is_ipv6() { "IPv6" } else { "IPv4" };
            if index >= families.len() {
                if self.cidr(family).is_none() {
                    let path = format!("spec.clusterIPs[{index}]");
                    let detail = format!("{family} is not configured on this cluster");
                    errors.push(invalid(&path, shown_list(&addresses), detail));
                } else {
                    families.push(family.to_owned());
                }
            }
        }
        if !errors.is_empty() {
            return Err(refused(&snapshot, &errors));
        }
        let default = self.config.service_cidrs.first().map_or("IPv4", Cidr::family);
        if free_headless {
            if families.is_empty() {
                families.push(default.to_owned());
            }
            if families.len() < 2 && policy != "SingleStack" {
                families.push(other_family(&families[0]).to_owned());
            }
        } else {
            if policy == "RequireDualStack" && self.config.service_cidrs.len() < 2 {
                let detail = "this cluster is not configured for dual-stack services";
                errors.push(invalid("spec.ipFamilyPolicy", quoted(&policy), detail));
            }
            for (index, family) in families.iter().enumerate() {
                if self.cidr(family).is_none() {
                    let path = format!("spec.ipFamilies[{index}]");
                    errors.push(invalid(&path, quoted(family), "not configured on this cluster"));
                }
            }
            if !errors.is_empty() {
                return Err(refused(&snapshot, &errors));
            }
            if families.is_empty() {
                families.push(default.to_owned());
            }
            if policy != "SingleStack" && families.len() == 1 && self.config.service_cidrs.len() == 2 {
                families.push(other_family(&families[0]).to_owned());
            }
        }
        if !addresses.is_empty() {
            spec["clusterIPs"] = addresses.into();
        }
        spec["ipFamilies"] = families.into();
        Ok(())
    }

    fn addresses(&self, target: &Target, old: Option<&Value>, service: &mut Value, dry_run: bool) -> Result<Vec<Write>, Status> {
        if !needs_address(&service["spec"]) || is_headless(&service["spec"]) {
            return Ok(Vec::new());
        }
        let families = texts(&service["spec"]["ipFamilies"]);
        // A changed service is given what it lacks: all if it had no addresses by its type, else its second family's.
        let first = match old.map(|old| &old["spec"]) {
            Some(before) if needs_address(before) => {
                let more = texts(&before["ipFamilies"]).len() == 1 && families.len() == 2;
                if is_headless(before) || !more {
                    return Ok(Vec::new());
                }
                1
            }
            _ => 0,
        };
        let mut addresses = texts(&service["spec"]["clusterIPs"]);
        let given = addresses.clone();
        let mut writes = Vec::new();
        for (index, family) in families.iter().enumerate().skip(first) {
            let cidr = self.cidr(family);
            let wished = addresses.get(index).filter(|address| !address.is_empty()).cloned();
            let address = match (wished, cidr) {
                (Some(wished), cidr) => {
                    let parsed: IpAddr = wished
                        .parse()
                        .map_err(|_| Status::internal(&format!("failed to parse service IP {wished:?}")))?;
                    let why = match cidr {
                        Some(cidr) if !cidr.gives(parsed) && dry_run => Some(format!(
                            "the provided IP ({wished}) is not in the valid range. The range of valid IPs is {cidr}"
                        )),
                        Some(cidr) if !cidr.gives(parsed) => {
                            Some("the provided network does not match the current range".to_owned())
                        }
                        _ if !dry_run && self.store.get(&address_key(parsed)).is_some() => {
                            Some("provided IP is already allocated".to_owned())
                        }
                        _ => None,
                    };
                    if let Some(why) = why {
                        let detail = format!("failed to allocate IP {wished}: {why}");
                        let problem = invalid("spec.clusterIPs", shown_list(&given), detail);
                        return Err(refused(service, &[problem]));
                    }
                    parsed
                }
                (None, Some(cidr)) => self.free_address(cidr).ok_or_else(|| {
                    Status::internal(&format!(
                        "failed to allocate a serviceIP for Service {:?}: range is full",
                        crate::pipeline::meta_text(service, "name")
                    ))
                })?,
                (None, None) => continue,
            };
            if crate::pipeline::meta_text(service, "name").is_empty() {
                // Upstream allocates before it looks at the name.
                let detail = format!(
                    "failed to allocate IP: IPAddress.networking.k8s.io \"{address}\" is invalid: spec.parentRef.name: \
                     Required value"
                );
                return Err(refused(service, &[invalid("spec.clusterIPs", "[\"\"]", detail)]));
            }
            writes.push(self.claim_address(target, service, address));
            if index < addresses.len() {
                addresses[index] = address.to_string();
            } else {
                addresses.push(address.to_string());
            }
        }
        if let Some(first) = addresses.first() {
            service["spec"]["clusterIP"] = first.as_str().into();
            service["spec"]["clusterIPs"] = addresses.into();
        }
        Ok(writes)
    }

    /// A free address: at random from the upper part of the range, then anywhere.
    fn free_address(&self, cidr: &Cidr) -> Option<IpAddr> {
        let size = cidr.size();
        let usable = if cidr.v6 { size - 1 } else { size.saturating_sub(2) };
        if usable == 0 {
            return None;
        }
        let reserved = if size <= 16 { 0 } else { (size / 16).clamp(16, 256) };
        let free = |n: u128| {
            let address = cidr.address(n);
            (cidr.gives(address) && self.store.get(&address_key(address)).is_none()).then_some(address)
        };
        let mut random = rand::rng();
        for _ in 0..RANDOM_TRIES {
            if let Some(address) = free(random.random_range(reserved + 1..=usable.max(reserved + 1))) {
                return Some(address);
            }
        }
        // The range is crowded: search it, the upper part first. Ranges are bounded by what an operator configures.
        let search = usable.min(1 << 20);
        (reserved + 1..=search).chain(1..=reserved.min(search)).find_map(free)
    }

    fn claim_address(&self, target: &Target, service: &Value, address: IpAddr) -> Write {
        let family = if address.is_ipv6() { "IPv6" } else { "IPv4" };
        let object = json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "IPAddress",
            "metadata": {
                "name": address.to_string(),
                "uid": uuid::Uuid::new_v4().to_string(),
                "creationTimestamp": now(),
                "generation": 1,
                "labels": {
                    "ipaddress.kubernetes.io/ip-family": family,
                    "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
                },
            },
            "spec": {
                "parentRef": {
                    "resource": "services",
                    "namespace": target.namespace,
                    "name": crate::pipeline::meta_text(service, "name"),
                },
            },
        });
        claim(address_key(address), object)
    }

    fn node_ports(&self, ports: &mut Ports, service: &mut Value) -> Result<(), Status> {
        let allocates = allocates_node_ports(&service["spec"]);
        let exposed = matches!(text(&service["spec"], "type"), "NodePort" | "LoadBalancer");
        if !exposed {
            return Ok(());
        }
        let entries = service["spec"]["ports"].as_array().cloned().unwrap_or_default();
        // The same port under two protocols shares one node port, if the service is new.
        let mut shared: BTreeMap<i64, i64> = BTreeMap::new();
        let mut seen: BTreeSet<(&str, i64)> = BTreeSet::new();
        // What the first entry of a port that wishes for a node port wishes.
        let mut wishes: BTreeMap<i64, i64> = BTreeMap::new();
        for entry in entries.iter().filter(|entry| whole(&entry["nodePort"]) != 0) {
            wishes.entry(whole(&entry["port"])).or_insert(whole(&entry["nodePort"]));
        }
        for (index, entry) in entries.iter().enumerate() {
            let (number, own) = (whole(&entry["port"]), whole(&entry["nodePort"]));
            if own == 0 && !allocates {
                continue;
            }
            let known = shared.get(&number).copied().filter(|_| ports.new);
            let requested = match known {
                Some(known) if own == 0 => known,
                None if ports.new => wishes.get(&number).copied().unwrap_or(0),
                _ => own,
            };
            let node_port = if requested == 0 {
                let found = self.free_port(ports);
                found.ok_or_else(|| Status::internal("failed to allocate a nodePort: range is full"))?
            } else {
                if known != Some(requested) {
                    let path = format!("spec.ports[{index}].nodePort");
                    self.take_port(ports, requested)
                        .map_err(|why| refused(service, &[invalid(&path, requested.to_string(), why)]))?;
                }
                requested
            };
            shared.entry(number).or_insert(node_port);
            let protocol = text(entry, "protocol");
            if !seen.insert((protocol, node_port)) && !ports.new {
                let message = format!("duplicate nodePort: {{{protocol} {node_port}}}");
                return Err(Status::failure(500, "", message));
            }
            service["spec"]["ports"][index]["nodePort"] = node_port.into();
        }
        Ok(())
    }

    fn health_check_port(&self, ports: &mut Ports, service: &mut Value) -> Result<(), Status> {
        if !needs_health_check_port(&service["spec"]) {
            return Ok(());
        }
        let wished = whole(&service["spec"]["healthCheckNodePort"]);
        let full = || Status::internal("failed to allocate a HealthCheck NodePort 0: range is full");
        if wished == 0 {
            service["spec"]["healthCheckNodePort"] = self.free_port(ports).ok_or_else(full)?.into();
            return Ok(());
        }
        self.take_port(ports, wished)
            .map_err(|why| Status::internal(&format!("failed to allocate requested HealthCheck NodePort {wished}: {why}")))
    }

    /// Takes a port that a client wishes, unless the service holds it already.
    fn take_port(&self, ports: &mut Ports, wished: i64) -> Result<(), PortRefused> {
        if ports.held.contains(&wished) {
            return Ok(());
        }
        let range = &self.config.node_ports;
        let Some(port) = u16::try_from(wished).ok().filter(|port| range.contains(port)) else {
            return if ports.dry_run {
                Ok(())
            } else {
                Err(PortRefused::OutOfRange(*range.start(), *range.end()))
            };
        };
        if !ports.new && ports.taken.contains(&port) {
            return Ok(());
        }
        if ports.taken.contains(&port) || self.store.get(&keys::internal(NODE_PORTS, &port.to_string())).is_some() {
            return Err(PortRefused::Taken);
        }
        ports.taken.insert(port);
        Ok(())
    }

    /// Takes any port that is free.
    fn free_port(&self, ports: &mut Ports) -> Option<i64> {
        let range = self.config.node_ports.clone();
        let free = |port: &u16| {
            !ports.taken.contains(port)
                && !ports.held.contains(&i64::from(*port))
                && self.store.get(&keys::internal(NODE_PORTS, &port.to_string())).is_none()
        };
        let mut random = rand::rng();
        let mut tries = (0..RANDOM_TRIES).map(|_| random.random_range(range.clone()));
        let found = match tries.find(free) {
            Some(found) => found,
            None => {
                // What was not free before is not free now.
                let rest = ports.searched.max(*range.start())..=*range.end();
                let found = rest.clone().find(free);
                ports.searched = found.unwrap_or(*rest.end());
                found?
            }
        };
        ports.taken.insert(found);
        Some(found.into())
    }

    fn claim_port(&self, target: &Target, service: &Value, port: u16) -> Write {
        let record = json!({
            "apiVersion": "trireme.io/internal",
            "kind": "NodePort",
            "metadata": {"name": port.to_string()},
            "spec": {
                "service": format!("{}/{}", target.namespace, crate::pipeline::meta_text(service, "name")),
            },
        });
        claim(keys::internal(NODE_PORTS, &port.to_string()), record)
    }
}

/// The node ports of a service while they are allocated.
struct Ports {
    /// Those that it holds already, in the range or not: that may have been another when it got them.
    held: BTreeSet<i64>,
    /// Those that it is given now.
    taken: BTreeSet<u16>,
    /// Whether the service is new.
    new: bool,
    /// Whether nothing is kept: then any port is in the range.
    dry_run: bool,
    /// Ports below this one are not free.
    searched: u16,
}

/// Why a service does not get the node port that it wishes.
#[derive(Debug, thiserror::Error)]
enum PortRefused {
    #[error("provided port is not in the valid range. The range of valid ports is {0}-{1}")]
    OutOfRange(u16, u16),
    #[error("provided port is already allocated")]
    Taken,
}

impl From<PortRefused> for String {
    fn from(why: PortRefused) -> Self {
        why.to_string()
    }
}

/// Whether a service that prefers both families is the same in all that they depend on: it is not given or denied one
/// because the cluster has changed.
fn keeps_preferred_families(old: &Value, service: &Value) -> bool {
    const PREFER: &str = "PreferDualStack";
    let (before, spec) = (&old["spec"], &service["spec"]);
    let same = |name: &str| before[name] == spec[name];
    let prefers = |spec: &Value| text(spec, "ipFamilyPolicy") == PREFER;
    // One that was made by way of its status has no policy.
    let preferred = prefers(before) || before["ipFamilyPolicy"].is_null();
    needs_address(spec) && same("type") && prefers(spec) && preferred && same("clusterIPs") && same("ipFamilies")
}

fn address_key(address: IpAddr) -> trireme_store::Key {
    keys::object("networking.k8s.io", "ipaddresses", "", &address.to_string())
}

fn claim(key: trireme_store::Key, object: Value) -> Write {
    Write {
        key,
        precondition: Precondition::Absent,
        operation: Operation::Put {
            body: Body::new(object),
            ttl_seconds: None,
        },
    }
}

fn other_family(family: &str) -> &'static str {
    if family == "IPv4" { "IPv6" } else { "IPv4" }
}

/// Keeps `clusterIP` and `clusterIPs` together for clients that know only one of them.
fn normalize(old: &Value, service: &mut Value) {
    let (before, spec) = (&old["spec"], &mut service["spec"]);
    let (old_single, old_list) = (text(before, "clusterIP"), texts(&before["clusterIPs"]));
    let single = text(spec, "clusterIP").to_owned();
    if !old_list.is_empty() && texts(&spec["clusterIPs"]).is_empty() && single == old_single {
        spec["clusterIPs"] = old_list.clone().into();
    }
    if single == old_single || texts(&spec["clusterIPs"]) != old_list {
        return;
    }
    let spec = spec.as_object_mut().expect("checked by the caller");
    if single.is_empty() {
        spec.remove("clusterIPs");
    } else {
        spec.insert("clusterIPs".into(), json!([single]));
    }
}

/// Gives a changed Service what it already holds where the client left it out.
fn patch_allocated(old: &Value, service: &mut Value) {
    let (before, spec) = (&old["spec"], &mut service["spec"]);
    if needs_address(before) && needs_address(spec) {
        if text(spec, "clusterIP").is_empty() && !text(before, "clusterIP").is_empty() {
            spec["clusterIP"] = before["clusterIP"].clone();
        }
        if texts(&spec["clusterIPs"]).is_empty() && !texts(&before["clusterIPs"]).is_empty() {
            spec["clusterIPs"] = before["clusterIPs"].clone();
        }
    }
    if allocates_node_ports(before) && allocates_node_ports(spec) {
        let entries = |spec: &Value| spec["ports"].as_array().cloned().unwrap_or_default();
        let used = |spec: &Value| {
            entries(spec)
                .iter()
                .filter_map(|entry| port(&entry["nodePort"]))
                .collect::<BTreeSet<_>>()
        };
        let kept: BTreeSet<u16> = used(before).intersection(&used(spec)).copied().collect();
        let held = entries(before);
        // Of equal names the last.
        let known: BTreeMap<&str, &Value> = held.iter().map(|old| (text(old, "name"), old)).collect();
        for entry in spec["ports"].as_array_mut().into_iter().flatten() {
            // What is no port was asked for all the same.
            if whole(&entry["nodePort"]) != 0 {
                continue;
            }
            let same = known.get(text(entry, "name"));
            if let Some(node_port) = same
                .and_then(|old| port(&old["nodePort"]))
                .filter(|port| !kept.contains(port))
            {
                entry["nodePort"] = node_port.into();
            }
        }
    }
    if needs_health_check_port(before) && needs_health_check_port(spec) && whole(&spec["healthCheckNodePort"]) == 0 {
        spec["healthCheckNodePort"] = before["healthCheckNodePort"].clone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_gives_all_but_its_ends() {
        let cidr = Cidr::parse("10.43.7.9/16").unwrap();
        assert_eq!(cidr.to_string(), "10.43.0.0/16");
        assert_eq!(cidr.size(), 65536);
        let gives = |text: &str| cidr.gives(text.parse().unwrap());
        assert!(gives("10.43.0.1") && gives("10.43.255.254"));
        assert!(!gives("10.43.0.0") && !gives("10.43.255.255") && !gives("10.44.0.1") && !gives("::1"));
        assert_eq!(Cidr::parse("fd00::/112").unwrap().family(), "IPv6");
        assert_eq!(Cidr::parse("10.0.0.0/33"), None);
    }

    #[test]
    fn an_update_keeps_what_the_client_left_out() {
        let old = json!({"spec": {"type": "NodePort", "clusterIP": "10.0.0.9", "clusterIPs": ["10.0.0.9"],
            "ports": [{"name": "a", "port": 1, "nodePort": 30001}]}});
        let mut new = json!({"spec": {"type": "NodePort", "ports": [{"name": "a", "port": 2}, {"name": "b", "port": 3}]}});
        patch_allocated(&old, &mut new);
        normalize(&old, &mut new);
        assert_eq!(new["spec"]["clusterIP"], "10.0.0.9");
        assert_eq!(new["spec"]["clusterIPs"], json!(["10.0.0.9"]));
        assert_eq!(new["spec"]["ports"][0]["nodePort"], 30001);
        assert!(new["spec"]["ports"][1]["nodePort"].is_null());
    }
}
