//! Network policies, ingresses and their classes, addresses and service ranges (pkg/apis/networking/validation).
//!
//! Invariant: whether an address is free or a range in use is not looked at here.

use super::errors::Errors;
use super::ip;
use super::metadata;
use super::names;
use super::node::{IMMUTABLE, Node};
use super::seen::Seen;
use super::show;

/// A network policy; blocks that `old` had stay allowed.
pub(super) fn policy(errors: &mut Errors, root: &Node<'_>, old: Option<&Node<'_>>) {
    let spec = root.at("spec");
    metadata::selector(errors, &spec.at("podSelector"));
    let known: Seen<&str> = old.map(|old| blocks(&old.at("spec"))).unwrap_or_default();
    for (list, peers) in [("ingress", "from"), ("egress", "to")] {
        for rule in spec.at(list).items() {
            for port in rule.at("ports").items() {
                self::port(errors, &port);
            }
            for peer in rule.at(peers).items() {
                self::peer(errors, &peer, &known);
            }
        }
    }
    let types = spec.at("policyTypes");
    if types.len() > 2 {
        errors.push(types.invalid("may not specify more than two policyTypes"));
        return;
    }
    for kind in types.items() {
        kind.one_of(errors, &["Ingress", "Egress"]);
    }
}

fn blocks<'a>(spec: &Node<'a>) -> Seen<&'a str> {
    let mut found = Seen::default();
    for (list, peers) in [("ingress", "from"), ("egress", "to")] {
        for block in spec
            .at(list)
            .items()
            .iter()
            .flat_map(|rule| rule.at(peers).items())
            .map(|peer| peer.at("ipBlock"))
            .filter(Node::set)
        {
            found.push(block.text("cidr"));
            block.at("except").strings().into_iter().for_each(|except| found.push(except));
        }
    }
    found
}

fn port(errors: &mut Errors, node: &Node<'_>) {
    let (protocol, port, end) = (node.at("protocol"), node.at("port"), node.at("endPort"));
    if protocol.set() {
        protocol.one_of(errors, &["TCP", "UDP", "SCTP"]);
    }
    if port.value.is_string() {
        if end.set() {
            errors.push(end.bad_int("may not be specified when `port` is non-numeric"));
        }
        port.each(errors, names::port_name(port.str()));
    } else if port.set() {
        errors.extend(names::port(port.int()).into_iter().map(|message| port.bad_int(message)));
        if end.set() {
            if end.int() < port.int() {
                errors.push(end.invalid_as(port.int().to_string(), "must be greater than or equal to `port`"));
            }
            errors.extend(names::port(end.int()).into_iter().map(|message| end.bad_int(message)));
        }
    } else if end.set() {
        errors.push(end.bad_int("may not be specified when `port` is not specified"));
    }
}

fn peer(errors: &mut Errors, node: &Node<'_>, known: &Seen<&str>) {
    let mut count = 0;
    for name in ["podSelector", "namespaceSelector"] {
        let selector = node.at(name);
        if selector.set() {
            count += 1;
            metadata::selector(errors, &selector);
        }
    }
    let block = node.at("ipBlock");
    if block.set() {
        count += 1;
        ip_block(errors, &block, known);
    }
    if count == 0 {
        errors.push(node.required("must specify a peer"));
    } else if count > 1 && block.set() {
        errors.push(node.forbidden("may not specify both ipBlock and another peer"));
    }
}

fn ip_block(errors: &mut Errors, node: &Node<'_>, known: &Seen<&str>) {
    let whole = node.at("cidr");
    if whole.is_empty() {
        errors.push(whole.required(""));
        return;
    }
    ip::block(errors, &whole, known);
    let Some((address, length)) = ip::parse_block(whole.str()) else {
        return;
    };
    for except in node.at("except").items() {
        ip::block(errors, &except, known);
        let Some((inner, inner_length)) = ip::parse_block(except.str()) else {
            continue;
        };
        let inside = inner.is_ipv4() == address.is_ipv4() && ip::masked(inner, length) == ip::masked(address, length);
        if !inside || length >= inner_length {
            errors.push(except.bad("must be a strict subset of `cidr`"));
        }
    }
}

/// An ingress; `create` adds what only a new one must hold.
pub(super) fn ingress(errors: &mut Errors, root: &Node<'_>, create: bool) {
    let spec = root.at("spec");
    let (rules, backend, class) = (spec.at("rules"), spec.at("defaultBackend"), spec.at("ingressClassName"));
    if rules.is_empty() && !backend.set() {
        let shown = if rules.set() { "[]" } else { "null" };
        errors.push(spec.invalid_as(shown, "either `defaultBackend` or `rules` must be specified"));
    }
    if backend.set() {
        self::backend(errors, &backend);
    }
    for rule in rules.items() {
        let host = rule.at("host");
        if !host.is_empty() {
            if ip::parse(host.str()).is_some() {
                errors.push(host.bad("must be a DNS name, not an IP address"));
            }
            host.each(errors, host_name(host.str()));
        }
        if rule.has("http") {
            let paths = rule.get("http.paths");
            if paths.is_empty() {
                errors.push(paths.required(""));
            }
            for path in paths.items() {
                http_path(errors, &path);
            }
        }
    }
    for tls in spec.at("tls").items() {
        for host in tls.at("hosts").items() {
            host.each(errors, host_name(host.str()));
        }
        let secret = tls.at("secretName");
        if !secret.is_empty() {
            secret.each(errors, names::subdomain(secret.str()));
        }
    }
    if class.set() {
        class.each(errors, names::subdomain(class.str()));
    }
    let annotation = root.get("metadata.annotations").key("kubernetes.io/ingress.class");
    if create && annotation.set() && class.set() && annotation.str() != class.str() {
        errors.push(
            annotation
                .moved("annotations.kubernetes.io/ingress.class")
                .bad("must match `ingressClassName` when both are specified"),
        );
    }
}

fn host_name(host: &str) -> names::Messages {
    if host.contains('*') {
        names::wildcard_subdomain(host)
    } else {
        names::subdomain(host)
    }
}

fn http_path(errors: &mut Errors, node: &Node<'_>) {
    let (kind, path) = (node.at("pathType"), node.at("path"));
    if !kind.set() {
        errors.push(kind.required("pathType must be specified"));
        return;
    }
    let relative = !path.str().starts_with('/');
    match kind.str() {
        "Exact" | "Prefix" => {
            if relative {
                errors.push(path.bad("must be an absolute path"));
            }
            for part in ["//", "/./", "/../", "%2f", "%2F"] {
                if path.str().contains(part) {
                    errors.push(path.bad(format!("must not contain '{part}'")));
                }
            }
            for end in ["/..", "/."] {
                if path.str().ends_with(end) {
                    errors.push(path.bad(format!("cannot end with '{end}'")));
                }
            }
        }
        "ImplementationSpecific" => {
            if !path.is_empty() && relative {
                errors.push(path.bad("must be an absolute path"));
            }
        }
        _ => errors.push(kind.unsupported(&["Exact", "ImplementationSpecific", "Prefix"])),
    }
    backend(errors, &node.at("backend"));
}

fn backend(errors: &mut Errors, node: &Node<'_>) {
    let (resource, service) = (node.at("resource"), node.at("service"));
    match (resource.set(), service.set()) {
        (true, true) => errors.push(node.bad_text("", "cannot set both resource and service backends")),
        (true, false) => reference(errors, &resource),
        (false, true) => {
            let (name, port_name, number) = (service.at("name"), service.get("port.name"), service.get("port.number"));
            if name.is_empty() {
                errors.push(name.required(""));
            } else {
                name.each(errors, names::label(name.str()));
            }
            match (!port_name.is_empty(), number.int() != 0) {
                (true, true) => errors.push(node.bad_text("", "cannot set both port name & port number")),
                (true, false) => port_name.each(errors, names::port_name(port_name.str())),
                (false, true) => errors.extend(names::port(number.int()).into_iter().map(|message| number.bad_int(message))),
                (false, false) => errors.push(node.required("port name or number is required")),
            }
        }
        (false, false) => errors.push(node.bad_text("", "resource or service backend is required")),
    }
}

fn reference(errors: &mut Errors, node: &Node<'_>) {
    let group = node.at("apiGroup");
    if group.set() {
        group.each(errors, names::subdomain(group.str()));
    }
    for name in ["kind", "name"] {
        segment(errors, &node.at(name));
    }
}

fn segment(errors: &mut Errors, node: &Node<'_>) {
    if node.is_empty() {
        errors.push(node.required(""));
    } else {
        node.each(errors, names::path_segment(node.str()));
    }
}

/// An ingress class.
pub(super) fn ingress_class(errors: &mut Errors, root: &Node<'_>) {
    let spec = root.at("spec");
    let controller = spec.at("controller");
    if controller.len() > 250 {
        errors.push(controller.too_long(250));
    }
    domain_path(errors, &controller);
    let parameters = spec.at("parameters");
    if !parameters.set() {
        return;
    }
    reference(errors, &parameters);
    let (scope, namespace) = (parameters.at("scope"), parameters.at("namespace"));
    match scope.str() {
        _ if !scope.set() => errors.push(scope.required("")),
        "Namespace" if !namespace.set() => errors.push(namespace.required("`parameters.scope` is set to 'Namespace'")),
        "Namespace" => namespace.each(errors, names::label(namespace.str())),
        "Cluster" => {
            if namespace.set() {
                errors.push(namespace.forbidden("`parameters.scope` is set to 'Cluster'"));
            }
        }
        _ => errors.push(scope.unsupported(&["Cluster", "Namespace"])),
    }
}

/// A domain, a slash and a path.
pub(super) fn domain_path(errors: &mut Errors, node: &Node<'_>) {
    if node.is_empty() {
        errors.push(node.required(""));
        return;
    }
    let Some((host, path)) = node
        .str()
        .split_once('/')
        .filter(|(host, path)| !host.is_empty() && !path.is_empty())
    else {
        errors.push(node.bad("must be a domain-prefixed path (such as \"acme.io/foo\")"));
        return;
    };
    errors.extend(names::subdomain(host).into_iter().map(|message| node.bad_text(host, message)));
    if !path
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&byte))
    {
        let message = names::regex_message("Invalid path", "[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+", &[]);
        errors.push(node.bad_text(path, message));
    }
}

/// An address in use.
pub(super) fn address(errors: &mut Errors, root: &Node<'_>) {
    let parent = root.get("spec.parentRef");
    if !parent.set() {
        errors.push(parent.required(""));
        return;
    }
    let group = parent.at("group");
    if !group.is_empty() {
        group.each(errors, names::subdomain(group.str()));
    }
    segment(errors, &parent.at("resource"));
    segment(errors, &parent.at("name"));
    let namespace = parent.at("namespace");
    if !namespace.is_empty() {
        namespace.each(errors, names::path_segment(namespace.str()));
    }
}

/// The owner of an address stays as it is.
pub(super) fn address_update(errors: &mut Errors, root: &Node<'_>, old: &Node<'_>) {
    let parent = root.get("spec.parentRef");
    if !super::node::same(parent.value, old.get("spec.parentRef").value) {
        errors.push(parent.bad_struct("api/networking/v1", "ParentReference", IMMUTABLE));
    }
}

/// What the name of an address may be: the address.
pub(super) fn address_name(name: &str) -> names::Messages {
    let value = serde_json::Value::from(name);
    let mut errors = Errors::new();
    ip::canonical_address(&mut errors, &Node::root(&value));
    errors.into_iter().map(|error| error.detail).collect()
}

/// Ranges of service addresses.
pub(super) fn service_range(errors: &mut Errors, root: &Node<'_>) {
    let list = root.get("spec.cidrs");
    if list.is_empty() {
        errors.push(list.required("at least one CIDR required"));
        return;
    }
    if list.len() > 2 {
        errors.push(list.invalid_as(
            format!("{{\"CIDRs\":{}}}", show::json(list.value)),
            "may only hold up to 2 values",
        ));
        return;
    }
    for block in list.items() {
        ip::canonical_block(errors, &block);
    }
    let parsed: Vec<bool> = list
        .strings()
        .iter()
        .filter_map(|text| ip::parse_block(text))
        .map(|(address, _)| address.is_ipv4())
        .collect();
    if parsed.len() == 2 && parsed[0] == parsed[1] {
        errors.push(list.invalid("may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"));
    }
}

/// Of the ranges only a second one may be added.
pub(super) fn service_range_update(errors: &mut Errors, root: &Node<'_>, old: &Node<'_>) {
    let list = root.get("spec.cidrs");
    let (new, was) = (list.items(), old.get("spec.cidrs").strings());
    match (was.len(), new.len()) {
        (before, now) if before == now => {
            errors.extend(
                new.iter()
                    .zip(&was)
                    .filter(|(new, was)| new.str() != **was)
                    .map(|(new, _)| new.bad(IMMUTABLE)),
            );
        }
        (1, 2) => {
            if new[0].str() != was[0] {
                errors.push(new[0].bad(IMMUTABLE));
            }
            service_range(errors, root);
        }
        _ => errors.push(list.invalid(IMMUTABLE)),
    }
}
