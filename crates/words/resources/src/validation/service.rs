//! Services, endpoints and endpoint slices (pkg/apis/core/validation, pkg/apis/discovery/validation).
//!
//! Invariant: addresses are checked for their form; whether they are free is for the allocator to say.

use super::container::{PROTOCOLS, label_key};
use super::errors::Errors;
use super::ip;
use super::metadata;
use super::names;
use super::node::{Node, same};
use super::path::Path;
use super::probe;
use super::seen::Seen;
use super::show;

const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const MODE: &str = "service.kubernetes.io/topology-mode";
const RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

fn headless(spec: &Node<'_>) -> bool {
    spec.at("clusterIPs").strings() == ["None"]
}

/// A service; `old` is there for an update.
pub(super) fn service(errors: &mut Errors, root: &Node<'_>, old: Option<&Node<'_>>) {
    let (annotations, spec) = (root.get("metadata.annotations"), root.at("spec"));
    let (hints, mode) = (annotations.key(HINTS), annotations.key(MODE));
    if hints.set() && mode.set() && hints.str() != mode.str() {
        errors.push(mode.bad(format!("must match annotations[{HINTS}] when both are specified")));
    }
    let (kind, ports) = (spec.text("type"), spec.at("ports"));
    if ports.is_empty() && !headless(&spec) && kind != "ExternalName" {
        errors.push(ports.required(""));
    }
    type_rules(errors, &spec);
    self::ports(errors, &ports);
    metadata::labels(errors, &spec.at("selector"));
    affinity(errors, &spec);
    addresses(errors, &spec, old.map(|old| old.at("spec")).as_ref());
    external_addresses(errors, &spec, old);
    spec.at("type")
        .need_one_of(errors, &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]);
    port_sets(errors, &spec);
    source_ranges(errors, root, old);
    let allocate = spec.at("allocateLoadBalancerNodePorts");
    if allocate.set() && kind != "LoadBalancer" {
        errors.push(allocate.forbidden("may only be used when `type` is 'LoadBalancer'"));
    }
    if !allocate.set() && kind == "LoadBalancer" {
        errors.push(allocate.moved("allocateLoadBalancerNodePorts").required(""));
    }
    balancer_class(errors, &spec, None);
    traffic(errors, &spec);
}

fn type_rules(errors: &mut Errors, spec: &Node<'_>) {
    let kind = spec.text("type");
    if matches!(kind, "LoadBalancer" | "NodePort") && headless(spec) {
        let first = spec.at("clusterIPs").index(0);
        errors.push(first.bad(format!("may not be set to 'None' for {kind} services")));
    }
    if kind == "ExternalName" {
        for name in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            let node = spec.at(name);
            if node.set() && !node.is_empty() {
                errors.push(node.forbidden("may not be set for ExternalName services"));
            }
        }
        let name = spec.at("externalName");
        let plain = name.str().strip_suffix('.').unwrap_or(name.str());
        if plain.is_empty() {
            errors.push(name.required(""));
        } else {
            errors.extend(
                names::subdomain(plain)
                    .into_iter()
                    .map(|message| name.bad_text(plain, message)),
            );
        }
    }
}

fn ports(errors: &mut Errors, node: &Node<'_>) {
    let mut seen: Seen<&str> = Seen::default();
    for port in node.items() {
        let (name, number) = (port.at("name"), port.at("port"));
        if name.is_empty() {
            if node.len() > 1 {
                errors.push(name.required(""));
            }
        } else {
            name.each(errors, names::label(name.str()));
            if seen.contains(&name.str()) {
                errors.push(name.duplicate());
            } else {
                seen.push(name.str());
            }
        }
        errors.extend(names::port(number.int()).into_iter().map(|message| number.bad_int(message)));
        port.at("protocol").need_one_of(errors, PROTOCOLS);
        probe::port(errors, &port.at("targetPort"));
        let protocol = port.at("appProtocol");
        if protocol.set() {
            label_key(errors, &protocol);
        }
    }
}

fn affinity(errors: &mut Errors, spec: &Node<'_>) {
    spec.at("sessionAffinity").need_one_of(errors, &["ClientIP", "None"]);
    let config = spec.at("sessionAffinityConfig");
    match spec.text("sessionAffinity") {
        "ClientIP" => {
            const NEEDED: &str = "when session affinity type is ClientIP";
            let (client, timeout) = (config.at("clientIP"), config.get("clientIP.timeoutSeconds"));
            if let Some(missing) = [&config, &client, &timeout].into_iter().find(|node| !node.set()) {
                errors.push(missing.required(NEEDED));
            } else if !(1..=86400).contains(&timeout.int()) {
                errors.push(timeout.bad_int("must be greater than 0 and less than 86400"));
            }
        }
        "None" if config.set() => errors.push(config.forbidden("must not be set when session affinity is None")),
        _ => {}
    }
}

fn external_addresses(errors: &mut Errors, spec: &Node<'_>, old: Option<&Node<'_>>) {
    let before = old.map(|old| old.get("spec.externalIPs").strings()).unwrap_or_default();
    let before = before.into_iter().collect();
    for address in spec.at("externalIPs").items() {
        if ip::address(errors, &address, &before) {
            ip::endpoint(errors, &address);
        }
    }
}

fn port_sets(errors: &mut Errors, spec: &Node<'_>) {
    let ports = spec.at("ports").items();
    if spec.text("type") == "ClusterIP" {
        for port in ports.iter().map(|port| port.at("nodePort")).filter(|port| port.int() != 0) {
            errors.push(port.forbidden("may not be used when `type` is 'ClusterIP'"));
        }
    }
    let mut seen: Seen<(&str, i64)> = Seen::default();
    for port in &ports {
        let number = port.at("nodePort");
        let key = (port.text("protocol"), number.int());
        if number.int() != 0 && seen.contains(&key) {
            errors.push(number.duplicate());
        }
        seen.push(key);
    }
    seen.clear();
    for port in &ports {
        let key = (port.text("protocol"), port.at("port").int());
        if seen.contains(&key) {
            errors.push(port.duplicate_as(format!(
                "{{\"Name\":\"\",\"Protocol\":{},\"AppProtocol\":null,\"Port\":{},\"TargetPort\":0,\"NodePort\":0}}",
                show::quoted(key.0),
                key.1
            )));
        }
        seen.push(key);
    }
}

fn source_ranges(errors: &mut Errors, root: &Node<'_>, old: Option<&Node<'_>>) {
    const ONLY: &str = "may only be used when `type` is 'LoadBalancer'";
    let spec = root.at("spec");
    let balancer = spec.text("type") == "LoadBalancer";
    let ranges = spec.at_as("loadBalancerSourceRanges", "LoadBalancerSourceRanges");
    let annotation = root.get("metadata.annotations").key(RANGES);
    let check = |errors: &mut Errors, path: &Path<'_>, text: &str, before: &Seen<&str>| {
        let value = serde_json::Value::from(text);
        let path = path.clone();
        ip::block(errors, &Node { path, value: &value }, before);
    };
    if !ranges.is_empty() {
        if !balancer {
            errors.push(ranges.forbidden(ONLY));
        }
        let before = old.map(|old| old.get("spec.loadBalancerSourceRanges").strings());
        let before = before.iter().flatten().map(|text| text.trim()).collect();
        for range in ranges.items() {
            check(errors, &range.path, range.str().trim(), &before);
        }
    } else if annotation.set() {
        if !balancer {
            errors.push(annotation.forbidden(ONLY));
        }
        let same = old.is_some_and(|old| old.get("metadata.annotations").key(RANGES).str() == annotation.str());
        if !same && !annotation.str().trim().is_empty() {
            for range in annotation.str().trim().split(',') {
                check(errors, &annotation.path, range.trim(), &Seen::default());
            }
        }
    }
}

fn traffic(errors: &mut Errors, spec: &Node<'_>) {
    let kind = spec.text("type");
    let external = matches!(kind, "LoadBalancer" | "NodePort") || (kind == "ClusterIP" && !spec.at("externalIPs").is_empty());
    let policy = spec.at("externalTrafficPolicy");
    if external {
        policy.need_one_of(errors, &["Cluster", "Local"]);
    } else if !policy.is_empty() {
        errors.push(policy.bad("may only be set for externally-accessible services"));
    }
    let health = spec.at("healthCheckNodePort");
    if needs_health_check(spec) {
        if health.int() == 0 {
            errors.push(health.required(""));
        } else {
            errors.extend(names::port(health.int()).into_iter().map(|message| health.bad_int(message)));
        }
    } else if health.int() != 0 {
        errors.push(health.bad_int("may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"));
    }
    let internal = spec.at("internalTrafficPolicy");
    if internal.set() {
        internal.one_of(errors, &["Cluster", "Local"]);
    } else if matches!(kind, "NodePort" | "LoadBalancer" | "ClusterIP") {
        errors.push(internal.required(""));
    }
    let distribution = spec.at("trafficDistribution");
    if distribution.set() {
        distribution.one_of(errors, &["PreferClose", "PreferSameZone", "PreferSameNode"]);
    }
}

fn needs_health_check(spec: &Node<'_>) -> bool {
    spec.text("type") == "LoadBalancer" && spec.text("externalTrafficPolicy") == "Local"
}

/// The cluster addresses of a service, its families and their policy.
pub(super) fn addresses(errors: &mut Errors, spec: &Node<'_>, old: Option<&Node<'_>>) {
    if spec.text("type") == "ExternalName" {
        return;
    }
    let (list, families, policy) = (spec.at("clusterIPs"), spec.at("ipFamilies"), spec.at("ipFamilyPolicy"));
    let (all, first) = (list.strings(), spec.text("clusterIP"));
    if first.is_empty() {
        if !all.is_empty() {
            errors.push(list.invalid("must be empty when `clusterIP` is not specified"));
        }
    } else if all.is_empty() {
        errors.push(list.required(""));
    } else if all[0] != first {
        errors.push(list.invalid("first value must match `clusterIP`"));
    }
    let mut seen: Seen<&str> = Seen::default();
    for family in families.items() {
        family.one_of(errors, &["IPv4", "IPv6"]);
        if seen.contains(&family.str()) {
            errors.push(family.duplicate());
        }
        seen.push(family.str());
    }
    if policy.set() {
        policy.one_of(errors, &["PreferDualStack", "RequireDualStack", "SingleStack"]);
    }
    let before = old.map(|old| old.at("clusterIPs").strings()).unwrap_or_default();
    let before = before.into_iter().collect();
    let mut invalid = false;
    for (index, address) in list.items().iter().enumerate() {
        if index == 0 && address.str() == "None" {
            if all.len() > 1 {
                invalid = true;
                errors.push(list.invalid("'None' must be the first and only value"));
            }
            continue;
        }
        invalid |= !ip::address(errors, address, &before);
    }
    if all.len() > 2 {
        errors.push(list.invalid("may only hold up to 2 values"));
    }
    if invalid {
        return;
    }
    if all.len() > 1 && !ip::dual_stack(&all) {
        errors.push(list.invalid("may specify no more than one IP for each IP family"));
    }
    if headless(spec) {
        return;
    }
    for (index, (address, family)) in list.items().iter().zip(families.strings()).enumerate() {
        let wrong = match family {
            "IPv4" => ip::is_v6(address.str()),
            "IPv6" => !ip::is_v6(address.str()),
            _ => false,
        };
        if wrong {
            errors.push(address.bad(format!("expected an {family} value as indicated by `ipFamilies[{index}]`")));
        }
    }
}

fn balancer_class(errors: &mut Errors, spec: &Node<'_>, old: Option<&Node<'_>>) {
    let (class, balancer) = (spec.at("loadBalancerClass"), spec.text("type") == "LoadBalancer");
    if let Some(old) = old
        && balancer
        && old.text("type") == "LoadBalancer"
        && class.value != old.at("loadBalancerClass").value
    {
        errors.push(class.invalid("may not change once set"));
    }
    if !class.set() {
        return;
    }
    if balancer {
        label_key(errors, &class);
    } else {
        errors.push(class.forbidden("may only be used when `type` is 'LoadBalancer'"));
    }
}

/// What may not change about a service, and the rest.
pub(super) fn update(errors: &mut Errors, root: &Node<'_>, old: &Node<'_>) {
    let (spec, before) = (root.at("spec"), old.at("spec"));
    if spec.text("type") != "ExternalName" && before.text("type") != "ExternalName" {
        if !(headless(&spec) && headless(&before)) {
            address_change(errors, &spec, &before);
        }
        if !headless(&spec) && !headless(&before) {
            family_change(errors, &spec, &before);
        }
    }
    balancer_class(errors, &spec, Some(&before));
    if needs_health_check(&spec)
        && needs_health_check(&before)
        && spec.at("healthCheckNodePort").int() != before.at("healthCheckNodePort").int()
    {
        errors.push(spec.at("healthCheckNodePort").forbidden(super::node::IMMUTABLE));
    }
    service(errors, root, Some(old));
}

fn address_change(errors: &mut Errors, spec: &Node<'_>, before: &Node<'_>) {
    const SET: &str = "may not change once set";
    let list = spec.at("clusterIPs");
    let (new, old) = (list.strings(), before.at("clusterIPs").strings());
    let at = |index: usize, detail: &str| list.moved(format!("{}[{index}]", list.path)).invalid(detail);
    if old.len() == new.len() {
        for (index, _) in old.iter().zip(&new).enumerate().filter(|(_, (old, new))| old != new) {
            errors.push(at(index, SET));
        }
        return;
    }
    if new.is_empty() {
        errors.push(at(0, "primary clusterIP can not be unset"));
    }
    if !old.is_empty() && !new.is_empty() && new[0] != old[0] {
        errors.push(at(0, SET));
    }
    let policy = spec.at("ipFamilyPolicy");
    if old.len() > new.len() && new.len() == 1 && policy.str() != "SingleStack" {
        errors.push(policy.invalid("must be set to 'SingleStack' when releasing the secondary clusterIP"));
    }
}

fn family_change(errors: &mut Errors, spec: &Node<'_>, before: &Node<'_>) {
    const SET: &str = "may not change once set";
    let (families, addresses) = (spec.at("ipFamilies"), spec.at("clusterIPs"));
    let (new, old) = (families.strings(), before.at("ipFamilies").strings());
    let path = format!("{}[0]", families.path);
    let at = |shown: &Node<'_>, detail: &str| shown.moved(path.clone()).invalid(detail);
    if old.len() == new.len() {
        for _ in old.iter().zip(&new).filter(|(old, new)| old != new) {
            errors.push(at(&families, SET));
        }
        return;
    }
    if old.len() > new.len() && addresses.is_empty() {
        errors.push(at(&families, "primary ipFamily can not be unset"));
    }
    if !old.is_empty() && !new.is_empty() && new[0] != old[0] {
        errors.push(at(&addresses, SET));
    }
    let policy = spec.at("ipFamilyPolicy");
    if old.len() > new.len() && new.len() == 1 && policy.str() != "SingleStack" {
        errors.push(policy.invalid("must be set to 'SingleStack' when releasing the secondary ipFamily"));
    }
}

/// Where a load balancer stands.
pub(super) fn balancer_status(errors: &mut Errors, root: &Node<'_>, old: &Node<'_>, service: bool) {
    let list = root.get("status.loadBalancer.ingress");
    if service && root.at("spec").text("type") != "LoadBalancer" && !list.is_empty() {
        errors.push(list.forbidden("may only be used when `spec.type` is 'LoadBalancer'"));
        return;
    }
    let known = old.get("status.loadBalancer.ingress").items();
    let known: Seen<&str> = known
        .iter()
        .map(|one| one.text("ip"))
        .filter(|text| !text.is_empty())
        .collect();
    for one in list.items() {
        let (address, mode, host) = (one.at("ip"), one.at("ipMode"), one.at("hostname"));
        if !address.is_empty() {
            ip::address(errors, &address, &known);
        }
        if service {
            match (mode.set(), address.is_empty()) {
                (false, false) => errors.push(mode.required("must be specified when `ip` is set")),
                (true, true) => errors.push(mode.forbidden("may not be specified when `ip` is not set")),
                (true, false) => mode.one_of(errors, &["Proxy", "VIP"]),
                (false, true) => {}
            }
        }
        if !host.is_empty() {
            host.each(errors, names::subdomain(host.str()));
            if ip::parse(host.str()).is_some() {
                errors.push(host.bad("must be a DNS name, not an IP address"));
            }
        }
    }
}

/// Endpoints; unchanged subsets are let be.
pub(super) fn endpoints(errors: &mut Errors, root: &Node<'_>, old: Option<&Node<'_>>) {
    let subsets = root.at("subsets");
    if old.is_some_and(|old| same(old.at("subsets").value, subsets.value)) {
        return;
    }
    for subset in subsets.items() {
        let lists = [subset.at("addresses"), subset.at("notReadyAddresses")];
        if lists.iter().all(Node::is_empty) {
            errors.push(subset.required("must specify `addresses` or `notReadyAddresses`"));
        }
        for address in lists.iter().flat_map(Node::items) {
            let (ip, host, node) = (address.at("ip"), address.at("hostname"), address.at("nodeName"));
            ip::address(errors, &ip, &Seen::default());
            if !host.is_empty() {
                host.each(errors, names::label(host.str()));
            }
            if node.set() {
                node.each(errors, names::subdomain(node.str()));
            }
            ip::endpoint(errors, &ip);
        }
        let ports = subset.at("ports");
        for port in ports.items() {
            let (name, number, protocol) = (port.at("name"), port.at("port"), port.at("appProtocol"));
            if !name.is_empty() {
                name.each(errors, names::label(name.str()));
            } else if ports.len() > 1 {
                errors.push(name.required(""));
            }
            errors.extend(names::port(number.int()).into_iter().map(|message| number.bad_int(message)));
            port.at("protocol").need_one_of(errors, PROTOCOLS);
            if protocol.set() {
                label_key(errors, &protocol);
            }
        }
    }
}

/// An endpoint slice; unchanged endpoints are let be.
pub(super) fn slice(errors: &mut Errors, root: &Node<'_>, old: Option<&Node<'_>>) {
    root.at("addressType").need_one_of(errors, &["FQDN", "IPv4", "IPv6"]);
    slice_ports(errors, &root.at("ports"));
    let endpoints = root.at("endpoints");
    if !old.is_some_and(|old| same(old.at("endpoints").value, endpoints.value)) {
        slice_endpoints(errors, &endpoints, root.text("addressType"));
    }
    if let Some(old) = old {
        root.at("addressType").immutable_text(errors, &old.at("addressType"));
    }
}

fn slice_ports(errors: &mut Errors, node: &Node<'_>) {
    if node.len() > 20000 {
        errors.push(node.too_many(node.len(), 20000));
        return;
    }
    let mut seen: Seen<&str> = Seen::default();
    for port in node.items() {
        let (name, protocol) = (port.at("name"), port.at("appProtocol"));
        if !name.is_empty() {
            name.each(errors, names::label(name.str()));
        }
        if seen.contains(&name.str()) {
            errors.push(name.duplicate_as(show::quoted(name.str())));
        } else {
            seen.push(name.str());
        }
        port.at("protocol").need_one_of(errors, PROTOCOLS);
        if protocol.set() {
            label_key(errors, &protocol);
        }
    }
}

fn slice_endpoints(errors: &mut Errors, node: &Node<'_>, kind: &str) {
    if node.len() > 1000 {
        errors.push(node.too_many(node.len(), 1000));
        return;
    }
    for endpoint in node.items() {
        let addresses = endpoint.at("addresses");
        if addresses.is_empty() {
            errors.push(addresses.required("must contain at least 1 address"));
        } else if addresses.len() > 100 {
            errors.push(addresses.too_many(addresses.len(), 100));
        }
        for address in addresses.items() {
            slice_address(errors, &addresses, &address, kind);
        }
        let (name, host, topology) = (
            endpoint.at("nodeName"),
            endpoint.at("hostname"),
            endpoint.at("deprecatedTopology"),
        );
        if name.set() {
            name.each(errors, names::subdomain(name.str()));
        }
        if topology.len() > 16 {
            errors.push(topology.too_many(topology.len(), 16));
        }
        metadata::labels(errors, &topology);
        if host.set() {
            host.each(errors, names::label(host.str()));
        }
        for (list, rule) in [
            ("forZones", names::label_value as names::NameRule),
            ("forNodes", names::subdomain),
        ] {
            let hints = endpoint.at("hints").at(list);
            if hints.len() > 8 {
                errors.push(hints.too_many(hints.len(), 8));
                break;
            }
            let mut seen: Seen<&str> = Seen::default();
            for name in hints.items().iter().map(|hint| hint.at("name")) {
                if seen.contains(&name.str()) {
                    errors.push(name.duplicate());
                } else {
                    seen.push(name.str());
                }
                name.each(errors, rule(name.str()));
            }
        }
    }
}

fn slice_address(errors: &mut Errors, list: &Node<'_>, address: &Node<'_>, kind: &str) {
    match kind {
        "FQDN" => domain_name(errors, address),
        "IPv4" | "IPv6" => {
            let before = errors.len();
            if kind == "IPv4" {
                ip::address(errors, address, &Seen::default());
            } else {
                ip::canonical_address(errors, address);
            }
            if errors.len() == before {
                if ip::is_v6(address.str()) != (kind == "IPv6") {
                    errors.push(list.bad_text(address.str(), format!("must be an {kind} address")));
                }
                ip::endpoint(errors, address);
            }
        }
        _ => {}
    }
}

fn domain_name(errors: &mut Errors, node: &Node<'_>) {
    if node.is_empty() {
        errors.push(node.required(""));
        return;
    }
    let name = node.str().strip_suffix('.').unwrap_or(node.str());
    let messages = names::subdomain(name);
    if !messages.is_empty() {
        errors.push(node.bad_text(name, messages.join(",")));
    } else if !name.contains('.') {
        errors.push(node.bad_text(name, "should be a domain with at least two segments separated by dots"));
    } else if let Some(part) = name.split('.').find(|part| !names::label(part).is_empty()) {
        errors.push(node.bad_text(part, names::label(part).join(",")));
    }
}
