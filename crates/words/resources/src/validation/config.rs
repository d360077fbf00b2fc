//! Config maps, secrets, namespaces, nodes, limits, quotas, events, leases and other small kinds
//! (pkg/apis/core/validation and the groups' own).
//!
//! Invariant: one function a kind; metadata has been looked at before.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use trireme_api::field::FieldError;
use trireme_api::quantity::{Format, Quantity};

use super::affinity;
use super::container::label_key;
use super::errors::Errors;
use super::ip;
use super::metadata;
use super::names;
use super::node::{Node, same};
use super::pod::{self, counts};
use super::resources;
use super::seen::Seen;
use super::show;
use super::workloads::{int_or_percent, most_hundred};

/// What a config map or secret may hold.
const DATA_BYTES_MAX: usize = 1024 * 1024;

fn decoded(node: &Node<'_>) -> Vec<u8> {
    STANDARD.decode(node.str()).unwrap_or_default()
}

/// A config map.
pub(super) fn config_map(errors: &mut Errors, root: &Node<'_>) {
    let (data, binary) = (root.at("data"), root.at("binaryData"));
    let mut bytes = 0;
    for (key, value) in data.entries() {
        errors.extend(names::config_key(key).into_iter().map(|message| value.bad_text(key, message)));
        if binary.has(key) {
            errors.push(value.bad_text(key, "duplicate of key present in binaryData"));
        }
        bytes += value.len();
    }
    for (key, value) in binary.entries() {
        errors.extend(names::config_key(key).into_iter().map(|message| value.bad_text(key, message)));
        bytes += decoded(&value).len();
    }
    if bytes > DATA_BYTES_MAX {
        errors.push(root.moved("[]").too_long(DATA_BYTES_MAX));
    }
}

/// What may not change once `immutable` is set.
pub(super) fn immutable(errors: &mut Errors, root: &Node<'_>, old: &Node<'_>, names: &[&str]) {
    const SET: &str = "field is immutable when `immutable` is set";
    if !old.is("immutable") {
        return;
    }
    if !root.is("immutable") {
        errors.push(root.child("immutable").forbidden(SET));
    }
    for name in names {
        if !same(root.at(name).value, old.at(name).value) {
            errors.push(root.at(name).forbidden(SET));
        }
    }
}

/// A secret.
pub(super) fn secret(errors: &mut Errors, root: &Node<'_>) {
    const ACCOUNT: &str = "kubernetes.io/service-account.name";
    let data = root.at("data");
    let mut bytes = 0;
    for (key, value) in data.entries() {
        errors.extend(names::config_key(key).into_iter().map(|message| value.bad_text(key, message)));
        bytes += decoded(&value).len();
    }
    if bytes > DATA_BYTES_MAX {
        errors.push(data.too_long(DATA_BYTES_MAX));
    }
    let there = |key: &str| data.key(key).set();
    let needed = |key: &str| data.key(key).required("");
    match root.text("type") {
        "kubernetes.io/service-account-token" => {
            let account = root.get("metadata.annotations").key(ACCOUNT);
            if account.is_empty() {
                errors.push(account.required(""));
            }
        }
        kind @ ("kubernetes.io/dockercfg" | "kubernetes.io/dockerconfigjson") => {
            let key = if kind.ends_with("json") {
                ".dockerconfigjson"
            } else {
                ".dockercfg"
            };
            let config = data.key(key);
            if !there(key) {
                errors.push(needed(key));
            } else if let Some(problem) = object_problem(&decoded(&config)) {
                errors.push(config.bad_text("<secret contents redacted>", problem));
            }
        }
        "kubernetes.io/basic-auth" if !there("username") && !there("password") => {
            errors.extend([needed("username"), needed("password")]);
        }
        "kubernetes.io/ssh-auth" if data.key("ssh-privatekey").is_empty() => errors.push(needed("ssh-privatekey")),
        "kubernetes.io/tls" => errors.extend(["tls.crt", "tls.key"].into_iter().filter(|key| !there(key)).map(needed)),
        _ => {}
    }
}

/// Why bytes are no JSON object, in Go's words as far as they are told here.
fn object_problem(bytes: &[u8]) -> Option<String> {
    match serde_json::from_slice::<Value>(bytes) {
        Ok(Value::Object(_) | Value::Null) => return None,
        Ok(other) => {
            let kind = match other {
                Value::Array(_) => "array",
                Value::String(_) => "string",
                Value::Bool(_) => "bool",
                _ => "number",
            };
            return Some(format!(
                "json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}"
            ));
        }
        Err(_) => {}
    }
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_start();
    let letter = |letter: char| {
        if letter == '\'' {
            "'\\''".to_owned()
        } else {
            format!("'{letter}'")
        }
    };
    for word in ["null", "true", "false"] {
        if !text.starts_with(&word[..1]) {
            continue;
        }
        return Some(match text.chars().zip(word.chars()).find(|(got, wanted)| got != wanted) {
            Some((got, wanted)) => {
                format!("invalid character {} in literal {word} (expecting '{wanted}')", letter(got))
            }
            None => "unexpected end of JSON input".to_owned(),
        });
    }
    Some(match text.chars().next() {
        None => "unexpected end of JSON input".to_owned(),
        Some('{' | '[' | '"' | '-' | '0'..='9') => "unexpected end of JSON input".to_owned(),
        Some(first) => format!("invalid character {} looking for beginning of value", letter(first)),
    })
}

/// A namespace.
pub(super) fn namespace(errors: &mut Errors, root: &Node<'_>) {
    let list = root.get("spec.finalizers");
    for finalizer in list.items() {
        finalizer_name(errors, &finalizer.moved(list.path.clone()));
    }
}

/// The finalizers of a namespace through their own door.
pub(super) fn namespace_finalize(errors: &mut Errors, root: &Node<'_>) {
    for finalizer in root.get("spec.finalizers").items() {
        finalizer_name(errors, &finalizer);
    }
}

fn finalizer_name(errors: &mut Errors, node: &Node<'_>) {
    label_key(errors, node);
    metadata::standard_finalizer(errors, node);
}

/// The phase of a namespace.
pub(super) fn namespace_status(errors: &mut Errors, root: &Node<'_>) {
    let phase = root.at("status").at_as("phase", "Phase");
    let (wanted, when) = if root.at("metadata").has("deletionTimestamp") {
        ("Terminating", "is not empty")
    } else {
        ("Active", "is empty")
    };
    if phase.str() != wanted {
        errors.push(phase.bad(format!("may only be '{wanted}' if `deletionTimestamp` {when}")));
    }
}

/// A node to create.
pub(super) fn node(errors: &mut Errors, root: &Node<'_>) {
    let spec = root.at("spec");
    affinity::taints(errors, &spec.at("taints").moved("metadata.taints"));
    node_resources(errors, root);
    let swap = root.get("status.nodeInfo.swap.capacity");
    if swap.set() && swap.int() <= 0 {
        errors.push(
            swap.moved("metadata.nodeSwapStatus.capacity")
                .bad_int("must be greater than zero"),
        );
    }
    declared_features(errors, &root.get("status.declaredFeatures"));
    let blocks = spec.at("podCIDRs");
    for block in blocks.items() {
        ip::block(errors, &block, &Seen::default());
    }
    let all = blocks.strings();
    ip::one_of_each(errors, &blocks, &all, &ip::Each::Block);
}

fn node_resources(errors: &mut Errors, root: &Node<'_>) {
    for list in ["capacity", "allocatable"] {
        let list = root.at("status").at(list);
        for (name, amount) in list.entries() {
            resources::amount(errors, &amount.moved(list.child(name).path), name);
        }
    }
}

/// Names of features in alphabetical order, parts parted by slashes.
fn declared_features(errors: &mut Errors, features: &Node<'_>) {
    let features = features.items();
    for (at, feature) in features.iter().enumerate() {
        let name = feature.str();
        let shown = show::quoted(name);
        let word = |part: &str, first: fn(&char) -> bool| {
            part.chars().next().is_some_and(|letter| first(&letter)) && part.bytes().all(|byte| byte.is_ascii_alphanumeric())
        };
        let mut parts = name.split('/');
        let fits = parts.next().is_some_and(|part| word(part, char::is_ascii_uppercase))
            && parts.all(|part| word(part, char::is_ascii_alphabetic));
        if name.len() > 253 {
            errors.push(feature.bad(format!("invalid feature name {shown}: must be no more than 253 characters")));
        } else if !fits {
            errors.push(feature.bad(format!(
                "invalid feature name {shown}: must start with an UpperCamelCase segment, with subsequent segments separated by '/' \
                 (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes"
            )));
        }
        if let Some(next) = features.get(at + 1) {
            if next.str() == name {
                errors.push(next.duplicate());
            } else if name > next.str() {
                errors.push(next.bad("list must be sorted alphabetically"));
            }
        }
    }
}

/// An update of a node.
pub(super) fn node_update(errors: &mut Errors, root: &Node<'_>, old: &Node<'_>) {
    node_resources(errors, root);
    declared_features(errors, &root.get("status.declaredFeatures"));
    let mut seen: Seen<&Value> = Seen::default();
    for address in root.get("status.addresses").items() {
        if seen.contains(&address.value) {
            errors.push(address.duplicate_as(show::internal("api/core/v1", "NodeAddress", address.value)));
        }
        seen.push(address.value);
    }
    let (spec, before) = (root.at("spec"), old.at("spec"));
    let (new, was) = (spec.at("podCIDRs"), before.at("podCIDRs").strings());
    let changed = FieldError {
        ..new.forbidden("node updates may not change podCIDR except from \"\" to valid")
    };
    if !was.is_empty() {
        if was.len() == new.len() {
            let differences = was.iter().zip(new.strings()).filter(|(was, new)| *was != new);
            errors.extend(differences.map(|_| changed.clone()));
        } else {
            errors.push(changed);
        }
    }
    let provider = spec.at("providerID");
    if !before.text("providerID").is_empty() && before.text("providerID") != provider.str() {
        errors.push(provider.forbidden("node updates may not change providerID except from \"\" to valid"));
    }
    affinity::taints(errors, &spec.at("taints").moved("metadata.taints"));
    if spec.text("externalID") != before.text("externalID") {
        errors.push(spec.child("externalID").forbidden("may not be updated"));
    }
}

/// A limit range.
pub(super) fn limit_range(errors: &mut Errors, root: &Node<'_>) {
    let mut kinds: Seen<&str> = Seen::default();
    for limit in root.get("spec.limits").items() {
        let kind = limit.at("type");
        let messages = names::qualified(kind.str());
        if messages.is_empty()
            && !kind.str().contains('/')
            && !matches!(kind.str(), "Pod" | "Container" | "PersistentVolumeClaim")
        {
            errors.push(kind.bad("must be a standard limit type or fully qualified"));
        }
        kind.each(errors, messages);
        if kinds.contains(&kind.str()) {
            errors.push(kind.duplicate_as(show::quoted(kind.str())));
        }
        kinds.push(kind.str());
        let mut keys: Vec<&str> = Vec::new();
        for list in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
            let amounts = limit.at(list);
            if kind.str() == "Pod" && list.starts_with("default") {
                if !amounts.is_empty() {
                    errors.push(amounts.forbidden("may not be specified when `type` is 'Pod'"));
                }
                continue;
            }
            if list == "maxLimitRequestRatio" && kind.str() == "PersistentVolumeClaim" {
                let bounded = ["min", "max"].iter().any(|bound| limit.at(bound).has("storage"));
                if !bounded {
                    errors.push(
                        limit
                            .child("limits")
                            .required("either minimum or maximum storage value is required, but neither was provided"),
                    );
                }
            }
            for (key, amount) in amounts.entries() {
                if matches!(kind.str(), "Pod" | "Container") {
                    resources::container_name(errors, &amount, key);
                } else {
                    resources::name(errors, &amount, key);
                }
                keys.push(key);
            }
        }
        keys.sort_unstable();
        keys.dedup();
        for key in keys {
            limit_amounts(errors, &limit, key);
        }
    }
}

fn limit_amounts(errors: &mut Errors, limit: &Node<'_>, key: &str) {
    let pod = limit.text("type") == "Pod";
    let of = |list: &'static str| {
        let node = limit.at(list).key(key);
        let quantity = (node.set() && !(pod && list.starts_with("default"))).then(|| node.quantity());
        (node, quantity)
    };
    let ((_, min), (_, max)) = (of("min"), of("max"));
    let ((_, default), (_, request), (_, ratio)) = (of("default"), of("defaultRequest"), of("maxLimitRequestRatio"));
    let mut above = |low: &Option<Quantity>, high: &Option<Quantity>, at: &str, shown: &Option<Quantity>, words: (&str, &str)| {
        if let (Some(low), Some(high), Some(shown)) = (low, high, shown)
            && low > high
        {
            let detail = format!("{} value {low} is greater than {} value {high}", words.0, words.1);
            errors.push(limit.at(at).key(key).invalid_as(show::quoted(&shown.to_string()), detail));
        }
    };
    above(&min, &max, "min", &min, ("min", "max"));
    above(&min, &request, "defaultRequest", &request, ("min", "default request"));
    above(&request, &max, "defaultRequest", &request, ("default request", "max"));
    above(
        &request,
        &default,
        "defaultRequest",
        &request,
        ("default request", "default limit"),
    );
    above(&min, &default, "default", &min, ("min", "default"));
    above(&default, &max, "default", &max, ("default", "max"));
    if let Some(ratio) = ratio {
        let at = limit.at("maxLimitRequestRatio").key(key);
        let shown = show::quoted(&ratio.to_string());
        if ratio < Quantity::new(1, Format::DecimalSi) {
            errors.push(at.invalid_as(shown.clone(), format!("ratio {ratio} is less than 1")));
        }
        if let (Some(min), Some(max)) = (&min, &max) {
            let most = max.as_f64() / min.as_f64();
            if ratio.as_f64() > most {
                errors.push(at.invalid_as(shown, format!("ratio {ratio} is greater than max/min = {most:.6}")));
            }
        }
    }
    if let (Some(default), Some(request)) = (&default, &request)
        && !resources::overcommit(key)
        && default != request
    {
        let at = limit.at("defaultRequest").key(key);
        let detail = format!("default value {default} must equal to defaultRequest value {request} in {key}");
        errors.push(at.invalid_as(show::quoted(&request.to_string()), detail));
    }
}

fn standard_scope(scope: &str) -> bool {
    const SCOPES: &[&str] = &[
        "Terminating",
        "NotTerminating",
        "BestEffort",
        "NotBestEffort",
        "PriorityClass",
        "CrossNamespacePodAffinity",
        "VolumeAttributesClass",
    ];
    SCOPES.contains(&scope)
}

/// Whether a scope says something about a resource.
fn scope_fits(scope: &str, resource: &str) -> bool {
    const COMPUTE: &[&str] = &[
        "cpu",
        "memory",
        "limits.cpu",
        "limits.memory",
        "requests.cpu",
        "requests.memory",
        "pods",
    ];
    match scope {
        "Terminating" | "NotTerminating" | "NotBestEffort" | "PriorityClass" | "CrossNamespacePodAffinity" => {
            COMPUTE.contains(&resource)
        }
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => matches!(resource, "persistentvolumeclaims" | "requests.storage"),
        _ => true,
    }
}

fn amounts(errors: &mut Errors, node: &Node<'_>) {
    for (name, amount) in node.entries() {
        resources::quota_name(errors, &amount, name);
        resources::amount(errors, &amount, name);
    }
}

/// A resource quota.
pub(super) fn quota(errors: &mut Errors, root: &Node<'_>) {
    let spec = root.at("spec");
    let hard = spec.at("hard");
    amounts(errors, &hard);
    let known: Vec<&str> = hard
        .entries()
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| resources::is_standard_quota(name))
        .collect();
    let scopes = spec.at("scopes");
    let listed = scopes.strings();
    for scope in &listed {
        if errors.full() {
            break;
        }
        if !standard_scope(scope) {
            errors.push(scopes.invalid("unsupported scope"));
        }
        for _ in known.iter().filter(|name| !scope_fits(scope, name)) {
            if errors.full() {
                break;
            }
            errors.push(scopes.invalid("unsupported scope applied to resource"));
        }
    }
    let conflicts = |names: &[&str]| {
        [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]]
            .iter()
            .filter(|pair| pair.iter().all(|scope| names.contains(scope)))
            .count()
    };
    for _ in 0..conflicts(&listed) {
        errors.push(scopes.invalid("conflicting scopes"));
    }
    let selector = spec.at("scopeSelector");
    let expressions = selector.at("matchExpressions");
    let mut named: Vec<&str> = Vec::new();
    for requirement in expressions.items() {
        if errors.full() {
            break;
        }
        // Upstream tells all of them at the list's own path.
        let at = |name: &'static str| requirement.at(name).moved(expressions.child(name).path);
        let (scope, operator, values) = (at("scopeName"), at("operator"), at("values"));
        if !standard_scope(scope.str()) {
            errors.push(scope.bad("unsupported scope"));
        }
        for _ in known.iter().filter(|name| !scope_fits(scope.str(), name)) {
            if errors.full() {
                break;
            }
            let shown = show::internal("api/core/v1", "ScopeSelector", selector.value);
            errors.push(expressions.invalid_as(shown, "unsupported scope applied to resource"));
        }
        let exists = matches!(
            scope.str(),
            "BestEffort" | "NotBestEffort" | "Terminating" | "NotTerminating" | "CrossNamespacePodAffinity"
        );
        if exists && operator.str() != "Exists" {
            errors.push(operator.bad("must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity"));
        }
        match operator.str() {
            "In" | "NotIn" if values.is_empty() => {
                errors.push(values.required("must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                errors.push(values.invalid("must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector"));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => errors.push(operator.bad("not a valid selector operator")),
        }
        named.push(scope.str());
    }
    for _ in 0..conflicts(&named) {
        errors.push(expressions.invalid_as(show::json(scopes.value), "conflicting scopes"));
    }
}

/// Amounts in a quota's status.
pub(super) fn quota_status(errors: &mut Errors, root: &Node<'_>) {
    amounts(errors, &root.get("status.hard"));
    amounts(errors, &root.get("status.used"));
}

/// The scopes of a quota stay as they are.
pub(super) fn quota_update(errors: &mut Errors, root: &Node<'_>, old: &Node<'_>) {
    quota(errors, root);
    let sorted = |root: &Node<'_>| {
        let mut scopes: Vec<String> = root
            .get("spec.scopes")
            .strings()
            .iter()
            .map(|text| (*text).to_owned())
            .collect();
        scopes.sort_unstable();
        scopes.dedup();
        scopes
    };
    if sorted(root) != sorted(old) {
        errors.push(root.get("spec.scopes").invalid(super::node::IMMUTABLE));
    }
}

/// An event in its core form; `new_style` says that it came through `events.k8s.io`.
pub(super) fn event(errors: &mut Errors, root: &Node<'_>, new_style: bool) {
    let namespace = root.at("metadata").at("namespace").moved("namespace");
    let involved = root.get("involvedObject.namespace");
    const OTHER: &str = "does not match event.namespace";
    if root.has("eventTime") {
        if involved.is_empty() && !matches!(namespace.str(), "default" | "kube-system") {
            errors.push(involved.bad(OTHER));
        }
        let name = if new_style {
            "reportingController"
        } else {
            "reportingComponent"
        };
        let controller = root.at_as("reportingComponent", name);
        if controller.is_empty() {
            errors.push(controller.required(""));
        }
        label_key(errors, &controller);
        for (name, most) in [
            ("reportingInstance", 128),
            ("action", 128),
            ("reason", 128),
            ("message", 1024),
        ] {
            let text = root.at(name);
            if text.is_empty() && name != "message" {
                errors.push(text.required(""));
            }
            if text.len() > most {
                errors.push(text.bad_text("", format!("can have at most {most} characters")));
            }
        }
    } else if involved.is_empty() {
        if !matches!(namespace.str(), "" | "default") {
            errors.push(involved.bad(OTHER));
        }
    } else if namespace.str() != involved.str() {
        errors.push(involved.bad(OTHER));
    }
    namespace.each(errors, names::subdomain(namespace.str()));
}

fn series(errors: &mut Errors, root: &Node<'_>) {
    let series = root.at("series");
    if !series.set() {
        return;
    }
    if series.at("count").int() < 2 {
        errors.push(series.at("count").bad_text("", "should be at least 2"));
    }
    if !series.has("lastObservedTime") {
        errors.push(series.at("lastObservedTime").required(""));
    }
}

/// What only the new form of an event demands on creation.
pub(super) fn new_event(errors: &mut Errors, root: &Node<'_>) {
    series(errors, root);
    if !root.has("eventTime") {
        errors.push(root.at("eventTime").required(""));
    }
    let kind = root.at("type");
    if !matches!(kind.str(), "Normal" | "Warning") {
        errors.push(kind.bad_text("", format!("has invalid value: {}", kind.str())));
    }
    let empty = |node: &Node<'_>| match node.value {
        Value::Object(members) => members.values().all(|value| value.as_str() == Some("")),
        Value::Number(number) => number.as_i64() == Some(0),
        other => other.is_null(),
    };
    for name in ["firstTimestamp", "lastTimestamp", "count", "source"] {
        let node = root.at(name);
        if !empty(&node) {
            errors.push(node.bad_text("", "needs to be unset"));
        }
    }
}

/// What may not change about an event in its new form.
pub(super) fn new_event_update(errors: &mut Errors, root: &Node<'_>, old: &Node<'_>) {
    if root.at("series").value != old.at("series").value {
        series(errors, root);
    }
    for (name, shown, told) in FIXED {
        let (new, before) = (root.at_as(name, shown), old.at(name));
        match told {
            Told::Text => new.immutable_text(errors, &before),
            Told::Number if new.int() != before.int() => errors.push(new.bad_int(super::node::IMMUTABLE)),
            Told::Number => {}
            Told::Time => new.immutable(errors, &before),
            Told::Pointer(ty) if !same(new.value, before.value) => {
                errors.push(new.bad_struct("api/core/v1", ty, super::node::IMMUTABLE));
            }
            Told::Pointer(_) => {}
            Told::Struct(ty) => {
                // Not a pointer inside the server: none is one without content.
                let empty = Value::Object(serde_json::Map::new());
                let [new_value, before] = [new.value, before.value].map(|value| if value.is_null() { &empty } else { value });
                if !same(new_value, before) {
                    let shown = show::internal("api/core/v1", ty, new_value);
                    errors.push(new.invalid_as(shown, super::node::IMMUTABLE));
                }
            }
        }
    }
}

/// How a field is told that may not change.
enum Told {
    Text,
    Number,
    Time,
    Pointer(&'static str),
    Struct(&'static str),
}

/// What may not change about an event in its new form: name, name in messages, form.
const FIXED: &[(&str, &str, Told)] = &[
    ("involvedObject", "involvedObject", Told::Struct("ObjectReference")),
    ("reason", "reason", Told::Text),
    ("message", "message", Told::Text),
    ("source", "source", Told::Struct("EventSource")),
    ("firstTimestamp", "firstTimestamp", Told::Time),
    ("lastTimestamp", "lastTimestamp", Told::Time),
    ("count", "count", Told::Number),
    ("reason", "reason", Told::Text),
    ("type", "type", Told::Text),
    ("eventTime", "eventTime", Told::Time),
    ("action", "action", Told::Text),
    ("related", "related", Told::Pointer("ObjectReference")),
    ("reportingComponent", "reportingController", Told::Text),
    ("reportingInstance", "reportingInstance", Told::Text),
];

/// A lease.
pub(super) fn lease(errors: &mut Errors, root: &Node<'_>) {
    let spec = root.at("spec");
    let (duration, transitions) = (spec.at("leaseDurationSeconds"), spec.at("leaseTransitions"));
    if duration.set() && duration.int() <= 0 {
        errors.push(duration.bad_int("must be greater than 0"));
    }
    transitions.non_negative(errors);
}

/// A priority class.
pub(super) fn priority_class(errors: &mut Errors, root: &Node<'_>) {
    let (name, value) = (root.at("metadata").at("name"), root.at("value"));
    if name.str().starts_with("system-") {
        let known = match name.str() {
            "system-node-critical" => Some(2_000_001_000),
            "system-cluster-critical" => Some(2_000_000_000),
            _ => None,
        };
        let problem = match known {
            None => Some(format!("{} is not a known system priority class", name.str())),
            Some(known) if known != value.int() => Some(format!("value of {} PriorityClass must be {known}", name.str())),
            Some(_) if root.is("globalDefault") => Some(format!("globalDefault of {} PriorityClass must be false", name.str())),
            Some(_) => None,
        };
        if let Some(problem) = problem {
            errors.push(name.forbidden(format!(
                "priority class names with 'system-' prefix are reserved for system use only. error: {problem}"
            )));
        }
    } else if value.int() > 1_000_000_000 {
        errors.push(value.forbidden("maximum allowed value of a user defined priority is 1000000000"));
    }
    let preemption = root.at("preemptionPolicy");
    if preemption.set() {
        preemption.need_one_of(errors, &["PreemptLowerPriority", "Never"]);
    }
}

/// What may not change about a priority class.
pub(super) fn priority_class_update(errors: &mut Errors, root: &Node<'_>, old: &Node<'_>) {
    if root.at("value").int() != old.at("value").int() {
        errors.push(root.at("value").forbidden("may not be changed in an update."));
    }
    root.at("preemptionPolicy").immutable(errors, &old.at("preemptionPolicy"));
}

/// A disruption budget.
pub(super) fn budget(errors: &mut Errors, root: &Node<'_>) {
    let spec = root.at("spec");
    let (least, most) = (spec.at("minAvailable"), spec.at("maxUnavailable"));
    if least.set() && most.set() {
        errors.push(spec.bad_struct(
            "api/policy/v1",
            "PodDisruptionBudgetSpec",
            "minAvailable and maxUnavailable cannot be both set",
        ));
    }
    for bound in [least, most] {
        if bound.set() {
            int_or_percent(errors, &bound);
            most_hundred(errors, &bound);
        }
    }
    metadata::selector(errors, &spec.at("selector"));
    let policy = spec.at("unhealthyPodEvictionPolicy");
    if policy.set() {
        policy.one_of(errors, &["AlwaysAllow", "IfHealthyBudget"]);
    }
}

/// Status of a disruption budget.
pub(super) fn budget_status(errors: &mut Errors, root: &Node<'_>) {
    let status = root.at("status");
    metadata::conditions(errors, &status.at("conditions"));
    counts(
        errors,
        &status,
        &["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"],
    );
}

/// A runtime class.
pub(super) fn runtime_class(errors: &mut Errors, root: &Node<'_>) {
    let handler = root.at("handler");
    if handler.is_empty() {
        errors.push(handler.required(""));
    } else {
        handler.each(errors, names::label(handler.str()));
    }
    pod::overhead(errors, &root.get("overhead.podFixed").moved("overhead"));
    let scheduling = root.at("scheduling");
    metadata::labels(errors, &scheduling.at("nodeSelector"));
    let tolerations = scheduling.at("tolerations");
    affinity::tolerations(errors, &tolerations);
    let mut seen: Seen<[&str; 4]> = Seen::default();
    for toleration in tolerations.items() {
        let key = ["key", "operator", "value", "effect"].map(|name| toleration.text(name));
        if seen.contains(&key) {
            errors.push(toleration.duplicate_as(show::internal("api/core/v1", "Toleration", toleration.value)));
        } else {
            seen.push(key);
        }
    }
}
