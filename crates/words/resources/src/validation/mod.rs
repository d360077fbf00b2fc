//! What is wrong with an object, all of it, with upstream's paths and texts.
//!
//! Invariant: a validator changes nothing and returns every problem it finds, in upstream's order. Objects come
//! canonical and with defaults. Nothing here asks whether something else exists.

mod affinity;
mod autoscaling;
mod batch;
mod config;
mod container;
mod device;
mod diff;
mod extension;
mod flow;
mod ip;
mod kinds;
mod metadata;
mod names;
mod network;
mod node;
mod pod;
mod pod_update;
mod probe;
mod rbac;
mod resources;
mod review;
mod security;
mod service;
mod show;
mod show_orders;
mod storage;
mod volume;
mod warnings;
mod workloads;

#[cfg(test)]
mod tests;

use std::borrow::Cow;

use serde_json::Value;
use trireme_api::field::FieldError;

use crate::rows::Resource;
use kinds::{KINDS, Kind, Look};
use metadata::Rules;
use node::{Errors, Node};

fn kind(row: &Resource) -> Option<&'static Kind> {
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
    let value = stored(row, value);
    let root = Node::root(&value);
    let mut errors = Errors::new();
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
        };
        metadata::create(&mut errors, &root.at("metadata"), rules);
    }
    errors
}

/// Problems of an update; `subresource` says through which door it came.
#[must_use]
pub fn update(row: &Resource, new: &Value, old: &Value, subresource: Option<&str>) -> Vec<FieldError> {
    let (new, old) = (stored(row, new), stored(row, old));
    let (root, before) = (Node::root(&new), Node::root(&old));
    let mut errors = Errors::new();
    let errors_ref = &mut errors;
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
    errors
}

fn by_kind(errors: &mut Errors, row: &Resource, kind: &Kind, root: &Node<'_>, old: &Node<'_>, door: Option<&str>) {
    let rules = kind.rules(row.namespaced);
    let look = |errors: &mut Errors, look: &Look| match look {
        Look::Whole => metadata::create(errors, &root.at("metadata"), rules),
        Look::Change => metadata::update(errors, &root.at("metadata"), &old.at("metadata"), rules),
    };
    if door == Some("status") {
        if kind.looks {
            look(errors, &Look::Change);
        }
        (kind.status)(errors, root, old);
        return;
    }
    if kind.twice {
        look(errors, &Look::Whole);
        (kind.create)(errors, root);
    }
    kind.before.iter().for_each(|one| look(errors, one));
    (kind.update)(errors, root, old);
    kind.after.iter().for_each(|one| look(errors, one));
}

/// Warnings for an object that is accepted.
#[must_use]
pub fn warnings(row: &Resource, value: &Value) -> Vec<String> {
    let root = Node::root(value);
    let mut out = Vec::new();
    match row.storage {
        "core/pods" => warnings::pod(&mut out, &root),
        "core/podtemplates" => warnings::pod(&mut out, &root.at("template")),
        "core/replicationcontrollers"
        | "apps/deployments"
        | "apps/replicasets"
        | "apps/statefulsets"
        | "apps/daemonsets"
        | "batch/jobs" => warnings::pod(&mut out, &root.get("spec.template")),
        "batch/cronjobs" => warnings::pod(&mut out, &root.get("spec.jobTemplate.spec.template")),
        "core/services" => warnings::service(&mut out, &root),
        "core/persistentvolumes" => warnings::volume(&mut out, &root),
        "core/secrets" => warnings::secret(&mut out, &root),
        _ => {}
    }
    out
}
