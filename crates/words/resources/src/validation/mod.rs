//! What is wrong with an object, all of it, with upstream's paths and texts.
//!
//! Invariant: a validator changes nothing and returns every problem it finds, in upstream's order. Objects come
//! canonical and with defaults. Nothing here asks whether something else exists.

mod affinity;
mod aggregation;
mod autoscaling;
mod batch;
mod certificates;
mod claims;
mod config;
mod container;
mod definition;
mod device;
mod diff;
mod embedded;
mod errors;
mod expression;
mod extension;
mod flow;
mod ip;
mod job_status;
mod kinds;
mod metadata;
mod names;
mod network;
mod node;
mod path;
mod pod;
mod pod_update;
mod probe;
mod rbac;
mod resources;
mod review;
mod security;
mod seen;
mod service;
pub(crate) mod show;
mod show_orders;
mod storage;
mod url;
mod volume;
mod volume_update;
mod warnings;
mod workloads;

#[cfg(test)]
mod tests;

use std::borrow::Cow;

use serde_json::Value;
use trireme_api::bulk::Present;
use trireme_api::field::FieldError;

pub use embedded::embedded;

use crate::rows::Resource;
use errors::{Errors, Excuse};
use kinds::{KINDS, Kind, Look};
use metadata::Rules;
use node::Node;

/// What the validator says of an object.
#[derive(Debug, Default)]
#[must_use]
pub struct Judged {
    /// The problems, in upstream's order.
    pub errors: Vec<FieldError>,
    /// What is no problem but told to the client, found on the same way: [`warnings`] does not look for it again.
    pub warnings: Vec<String>,
}

fn kind(row: &Resource) -> Option<&'static Kind> {
    if row.is_custom() {
        return None;
    }
    KINDS.iter().find(|kind| kind.storage == row.storage)
}

/// The object in the version in which it is stored, whose names upstream's messages use.
fn stored<'a>(row: &Resource, value: &'a Value) -> Cow<'a, Value> {
    if row.virtual_ || row.stored_as == (row.group, row.version) {
        return Cow::Borrowed(value);
    }
    let mut value = value.clone();
    crate::convert(row, row.stored(), &mut value);
    Cow::Owned(value)
}

/// Problems of an object to create.
#[must_use]
pub fn create(row: &Resource, value: &Value) -> Vec<FieldError> {
    create_stored(row, &stored(row, value)).errors
}

/// Likewise, of an object that is already in the version in which it is stored; `row` is that of the request, which some
/// kinds are judged by.
pub fn create_stored(row: &Resource, value: &Value) -> Judged {
    let root = Node::root(value);
    let mut errors = Errors::new();
    if row.is_custom() {
        metadata::create(&mut errors, &root.at("metadata"), custom_rules(row));
        return errors.into();
    }
    match row.storage {
        "core/pods" => pod::create(&mut errors, &root),
        "core/bindings" => pod::binding(&mut errors, &root),
        "authorization.k8s.io/subjectaccessreviews" => review::access(&mut errors, &root, review::Subject::Any),
        "authorization.k8s.io/selfsubjectaccessreviews" => review::access(&mut errors, &root, review::Subject::Own),
        "authorization.k8s.io/localsubjectaccessreviews" => review::access(&mut errors, &root, review::Subject::Local),
        "core/events" => {
            let new_style = !row.group.is_empty();
            config::event(&mut errors, &root, new_style);
            if new_style {
                metadata::create(&mut errors, &root.at("metadata"), pod::RULES);
                config::new_event(&mut errors, &root);
            }
        }
        _ => {
            if let Some(kind) = kind(row) {
                if kind.looks {
                    metadata::create(&mut errors, &root.at("metadata"), kind.rules(row.namespaced));
                }
                (kind.create)(&mut errors, &root);
            }
        }
    }
    if errors.is_empty() && !row.virtual_ {
        let rules = Rules {
            name: names::path_segment,
            namespaced: row.namespaced,
            standard_finalizers: false,
            any_base: false,
        };
        metadata::create(&mut errors, &root.at("metadata"), rules);
    }
    errors.into()
}

/// Rules for the metadata of custom resources.
fn custom_rules(row: &Resource) -> Rules {
    Rules {
        name: names::subdomain,
        namespaced: row.namespaced,
        standard_finalizers: false,
        any_base: false,
    }
}

/// Problems of an update; `subresource` says through which door it came.
#[must_use]
pub fn update(row: &Resource, new: &Value, old: &Value, subresource: Option<&str>) -> Vec<FieldError> {
    update_stored(row, &stored(row, new), &stored(row, old), subresource).errors
}

/// Likewise, of objects that are already in the version in which they are stored; `row` is that of the request.
pub fn update_stored(row: &Resource, new: &Value, old: &Value, subresource: Option<&str>) -> Judged {
    let mut errors = Errors::new();
    update_into(&mut errors, row, (new, old), subresource);
    errors.into()
}

/// What is said of an object that replaces one whose bulk is set aside ([`Resource::bulk`]).
#[derive(Debug)]
pub enum Apart {
    /// What [`update_stored`] says.
    Judged(Judged),
    /// What the old bulk may excuse: [`excused`] says whether it does.
    Excusable(Judged),
}

/// Likewise, of an object that replaces one whose bulk is set aside; `same` says that the new one has the same bulk.
#[must_use]
pub fn update_apart(row: &Resource, new: &Value, old: &Value, subresource: Option<&str>, same: bool) -> Apart {
    let mut errors = Errors::with_excuse(if same { Excuse::Same } else { Excuse::Nothing });
    update_into(&mut errors, row, (new, old), subresource);
    let settled = same || errors.is_silent();
    let judged = errors.into();
    if settled {
        Apart::Judged(judged)
    } else {
        Apart::Excusable(judged)
    }
}

/// What is left of what may be excused by the old object as a whole.
pub fn excused(row: &Resource, new: &Value, old: &Present, subresource: Option<&str>, judged: Judged) -> Judged {
    if !judged.errors.is_empty() {
        return update_stored(row, new, old.whole(), subresource);
    }
    // Of the kinds that have a bulk, only definitions warn.
    let known = definition::stored_warnings(old);
    let warnings = judged
        .warnings
        .into_iter()
        .filter(|warning| !known.contains(warning))
        .collect();
    Judged { warnings, ..judged }
}

fn update_into(errors_ref: &mut Errors, row: &Resource, (new, old): (&Value, &Value), subresource: Option<&str>) {
    let (root, before) = (Node::root(new), Node::root(old));
    if row.is_custom() {
        metadata::update(errors_ref, &root.at("metadata"), &before.at("metadata"), custom_rules(row));
        return;
    }
    metadata::update_common(errors_ref, &root.at("metadata"), &before.at("metadata"), row.namespaced);
    match (row.storage, subresource) {
        ("core/pods", None) => pod_update::update(errors_ref, &root, &before),
        ("core/pods", Some("status")) => pod_update::update_status(errors_ref, &root, &before),
        ("core/pods", Some("ephemeralcontainers")) => pod_update::update_ephemeral(errors_ref, &root, &before),
        ("core/pods", Some("resize")) => pod_update::update_resize(errors_ref, &root, &before),
        ("core/events", _) => {
            let new_style = !row.group.is_empty();
            config::event(errors_ref, &root, new_style);
            if new_style {
                metadata::update(errors_ref, &root.at("metadata"), &before.at("metadata"), pod::RULES);
                config::new_event_update(errors_ref, &root, &before);
            }
        }
        ("core/namespaces", Some("finalize")) => {
            metadata::update(errors_ref, &root.at("metadata"), &before.at("metadata"), pod::RULES);
            config::namespace_finalize(errors_ref, &root);
        }
        (_, door) => {
            if let Some(kind) = kind(row) {
                by_kind(errors_ref, row, kind, &root, &before, door);
            }
        }
    }
}

/// Where a claim or a template of claims asks first for devices that others use: the path that upstream names.
#[must_use]
pub fn asks_for_admin(row: &Resource, value: &Value) -> Option<String> {
    let spec = match row.storage {
        "resource.k8s.io/resourceclaims" => "spec",
        "resource.k8s.io/resourceclaimtemplates" => "spec.spec",
        _ => return None,
    };
    let value = stored(row, value);
    let requests = Node::root(&value).get(spec).get("devices.requests").items();
    let index = requests.iter().position(|request| request.at("exactly").is("adminAccess"))?;
    Some(format!("spec.devices.requests[{index}].adminAccess"))
}

/// Problems of the addresses and families of a service, which its allocation needs to be right beforehand.
#[must_use]
pub fn service_addresses(service: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let spec = Node::root(service).at("spec");
    service::addresses(&mut errors, &spec, old.map(|old| Node::root(old).at("spec")).as_ref());
    errors.into()
}

fn by_kind(errors: &mut Errors, row: &Resource, kind: &Kind, root: &Node<'_>, old: &Node<'_>, door: Option<&str>) {
    let rules = kind.rules(row.namespaced);
    let look = |errors: &mut Errors, look: &Look| match look {
        Look::Whole => metadata::create(errors, &root.at("metadata"), rules),
        Look::Change => metadata::update(errors, &root.at("metadata"), &old.at("metadata"), rules),
        Look::Content => (kind.create)(errors, root),
    };
    if door == Some("status") {
        if kind.looks {
            kind.before_status.iter().for_each(|one| look(errors, one));
        }
        (kind.status)(errors, root, old);
        return;
    }
    if kind.twice {
        look(errors, &Look::Whole);
        look(errors, &Look::Content);
    }
    kind.before.iter().for_each(|one| look(errors, one));
    (kind.update)(errors, root, old);
    kind.after.iter().for_each(|one| look(errors, one));
}

/// What is wrong with labels that a webhook which converts gives an object.
#[must_use]
pub(crate) fn converted_labels(labels: &Value) -> Vec<FieldError> {
    let object = serde_json::json!({"metadata": {"labels": labels}});
    let mut errors = Errors::new();
    metadata::labels(&mut errors, &Node::root(&object).get("metadata.labels"));
    errors.into()
}

/// Likewise of annotations, which upstream calls by another name here.
#[must_use]
pub(crate) fn converted_annotations(annotations: &Value) -> Vec<FieldError> {
    let object = serde_json::json!({"metadata": {"annotation": annotations}});
    let mut errors = Errors::new();
    metadata::annotations(&mut errors, &Node::root(&object).get("metadata.annotation"));
    errors.into()
}

/// Warnings about an object that is accepted: created, or, where `old` is there, changed through `subresource`. Both in the
/// version in which they are stored.
#[must_use]
pub fn warnings(row: &Resource, value: &Value, old: Option<&Value>, subresource: Option<&str>) -> Vec<String> {
    if row.is_custom() {
        return match subresource {
            None => warnings::of_finalizers(value, old),
            Some(_) => Vec::new(),
        };
    }
    warnings::of(row.storage, subresource, &Node::root(value), old.map(Node::root).as_ref())
}
