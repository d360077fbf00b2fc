//! ResourceQuota: what a namespace may use in all.
//!
//! Invariant: a request that fits is charged in the same transaction that stores its object, onto the version of the
//! quota that was looked at: two requests never both get the last of something. A dry run is checked and not charged.

use serde_json::{Map, Value};
use trireme_api::Status;
use trireme_resources::quota::{self, Amounts};

use super::{Operation, Request};

/// The quotas of the namespace as they are once the object is stored: only those that change.
///
/// # Errors
/// The refusal.
pub fn charge(request: &Request<'_>) -> Result<Vec<Value>, Status> {
    if request.namespace.is_empty() || !handles(request) {
        return Ok(Vec::new());
    }
    let (group, plural) = (request.group, request.resource);
    let covers = |held: &Value, object: &Value| quota::covers(held, group, plural, object);
    let mut quotas = request.lookup.list("", "resourcequotas", Some(request.namespace));
    quotas.retain(|held| covers(held, request.object));
    for held in &quotas {
        check_stated(request, held)?;
    }
    if quotas.is_empty() {
        return Ok(quotas);
    }
    let wanted = quota::usage(group, plural, request.object);
    let before = request.old.map(|old| quota::usage(group, plural, old)).unwrap_or_default();
    let mut charged = Vec::new();
    for mut held in quotas {
        let counted_before = request.old.is_some_and(|old| covers(&held, old));
        let more = if counted_before {
            grown(&wanted, &before)
        } else {
            wanted.clone()
        };
        if charge_one(request, &mut held, more)? {
            charged.push(held);
        }
    }
    Ok(charged)
}

fn handles(request: &Request<'_>) -> bool {
    let (create, update) = (request.operation == Operation::Create, request.operation == Operation::Update);
    match (request.group, request.resource, request.subresource) {
        ("" | "events.k8s.io", "events", _) => false,
        ("", "pods", "") => {
            let ends = quota::is_terminating;
            create || (update && request.old.is_some_and(|old| ends(old) != ends(request.object)))
        }
        ("", "pods", "resize") => update,
        ("", "services" | "persistentvolumeclaims", "") => create || update,
        (_, _, "") => create,
        _ => false,
    }
}

/// The object must say how much it uses, and the quota how much is used.
fn check_stated(request: &Request<'_>, held: &Value) -> Result<(), Status> {
    let name = held["metadata"]["name"].as_str().unwrap_or_default();
    let hard: Vec<&String> = held["status"]["hard"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, _)| name)
        .collect();
    let counted = || {
        hard.iter()
            .copied()
            .filter(|hard| quota::counts(request.group, request.resource, hard))
    };
    if request.is("", "pods") {
        let missing = quota::unset(request.object, counted());
        if !missing.is_empty() {
            let listed = missing.into_iter().map(|(resource, containers)| {
                format!("{resource} for: {}", containers.into_iter().collect::<Vec<_>>().join(","))
            });
            let listed = listed.collect::<Vec<_>>().join("; ");
            return Err(request.forbid(&format!("failed quota: {name}: must specify {listed}")));
        }
    }
    if counted().any(|resource| held["status"]["used"].get(resource).is_none()) {
        let mut names: Vec<&str> = counted().map(String::as_str).collect();
        names.sort_unstable();
        return Err(request.forbid(&format!("status unknown for quota: {name}, resources: {}", names.join(","))));
    }
    Ok(())
}

/// What an update uses more than before; what it uses less is given back by the controller.
fn grown(wanted: &Amounts, before: &Amounts) -> Amounts {
    let mut more = wanted.clone();
    for (name, quantity) in &mut more {
        if let Some(before) = before.get(name) {
            quantity.sub(before);
        }
    }
    more.retain(|_, quantity| quantity.sign() > 0);
    more
}

/// Adds to one quota; whether that changes it.
fn charge_one(request: &Request<'_>, held: &mut Value, mut more: Amounts) -> Result<bool, Status> {
    let hard = quota::amounts(&held["status"]["hard"]);
    let before = quota::amounts(&held["status"]["used"]);
    more.retain(|name, quantity| !quantity.is_zero() && hard.contains_key(name));
    if more.is_empty() {
        return Ok(false);
    }
    let mut used = before.clone();
    quota::add(&mut used, &more);
    let exceeded: Vec<&String> = more.keys().filter(|name| used[*name] > hard[*name]).collect();
    if !exceeded.is_empty() {
        let shown = |amounts: &Amounts| {
            let parts = exceeded
                .iter()
                .filter_map(|name| Some(format!("{name}={}", amounts.get(*name)?)));
            parts.collect::<Vec<_>>().join(",")
        };
        return Err(request.forbid(&format!(
            "exceeded quota: {}, requested: {}, used: {}, limited: {}",
            held["metadata"]["name"].as_str().unwrap_or_default(),
            shown(&more),
            shown(&before),
            shown(&hard)
        )));
    }
    let used: Map<String, Value> = used
        .into_iter()
        .map(|(name, quantity)| (name, quantity.to_string().into()))
        .collect();
    held["status"]["used"] = Value::Object(used);
    Ok(true)
}
