//! Revisions: which ReplicaSet has the present template, and the annotations that number and describe them.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use super::{Set, Work};
use crate::history::without_nothing;
use crate::ownership;
use crate::replicaset::to_value;

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAXIMUM: &str = "deployment.kubernetes.io/max-replicas";
const HASH: &str = "pod-template-hash";
/// Longest list of earlier revisions, in characters.
const HISTORY_LIMIT: usize = 2000;
/// Annotations of a Deployment that its ReplicaSets do not take over.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAXIMUM,
    "deprecated.deployment.rollback.to",
];

/// The revision of a ReplicaSet or Deployment, 0 where it has none.
pub(super) fn of(metadata: &ObjectMeta) -> i64 {
    metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(REVISION)?.parse().ok())
        .unwrap_or(0)
}

/// Whether a ReplicaSet has the Deployment's template, the hash label aside.
pub(super) fn same_template(deployment: &Deployment, set: &ReplicaSet) -> bool {
    let wanted = deployment
        .spec
        .as_ref()
        .map(|spec| to_value(&spec.template))
        .unwrap_or_default();
    let mut held = set
        .spec
        .as_ref()
        .and_then(|spec| spec.template.as_ref())
        .map(to_value)
        .unwrap_or_default();
    if let Some(labels) = held.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
        labels.remove(HASH);
    }
    without_nothing(wanted) == without_nothing(held)
}

/// FNV-1a of the template and the collision count, in letters that spell no word.
pub(super) fn template_hash(deployment: &Deployment) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let template = deployment
        .spec
        .as_ref()
        .map(|spec| to_value(&spec.template))
        .unwrap_or_default();
    let mut hash = 0x811c_9dc5_u32;
    let count = deployment.status.as_ref().and_then(|status| status.collision_count);
    let text = format!("{template}{}", count.map(|count| count.to_string()).unwrap_or_default());
    for byte in text.bytes() {
        hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
    hash.to_string()
        .bytes()
        .map(|byte| char::from(ALPHABET[usize::from(byte) % ALPHABET.len()]))
        .collect()
}

impl Work<'_> {
    /// Brings the new ReplicaSet's annotations and the Deployment's revision up to date, and makes the new ReplicaSet
    /// where it is absent and `create` says so.
    pub(super) fn sync_revision(&mut self, create: bool) {
        let next = self.old.iter().map(|set| of(&set.now.metadata)).max().unwrap_or(0) + 1;
        let maximum = self.replicas() + self.max_surge();
        if let Some(mut new) = self.new.take() {
            annotate(&mut new.now, self.before, next, self.replicas(), maximum, true);
            let minimum = self.before.spec.as_ref().and_then(|spec| spec.min_ready_seconds);
            if let Some(spec) = &mut new.now.spec
                && spec.min_ready_seconds.unwrap_or(0) != minimum.unwrap_or(0)
            {
                spec.min_ready_seconds = minimum;
            }
            let revision = of(&new.now.metadata);
            let found = format!("Found new replica set \"{}\"", new.name());
            self.new = Some(new);
            self.set_revision(revision);
            if self.has_deadline() && self.condition("Progressing").is_none() {
                self.set_condition("Progressing", "True", "FoundNewReplicaSet", found);
            }
        } else if create {
            self.create_new(next, maximum);
        }
    }

    fn create_new(&mut self, revision: i64, maximum: i32) {
        let Some(spec) = self.before.spec.clone() else { return };
        let hash = template_hash(&self.deployment);
        let mut template = spec.template;
        let mut labels = template
            .metadata
            .as_ref()
            .and_then(|metadata| metadata.labels.clone())
            .unwrap_or_default();
        labels.insert(HASH.into(), hash.clone());
        template.metadata.get_or_insert_default().labels = Some(labels.clone());
        let mut selector = spec.selector;
        selector
            .match_labels
            .get_or_insert_default()
            .insert(HASH.into(), hash.clone());
        // The name leaves room for the hash within 253 characters.
        let base: String = self.name().chars().take(253 - hash.len() - 1).collect();
        let owner = ownership::controller_reference("apps/v1", "Deployment", &self.before.metadata);
        let mut set = ReplicaSet {
            metadata: ObjectMeta {
                name: Some(format!("{base}-{hash}")),
                namespace: self.before.metadata.namespace.clone(),
                labels: Some(labels),
                owner_references: Some(vec![owner]),
                ..ObjectMeta::default()
            },
            spec: Some(ReplicaSetSpec {
                replicas: Some(0),
                min_ready_seconds: spec.min_ready_seconds.filter(|seconds| *seconds != 0),
                selector,
                template: Some(template),
            }),
            status: None,
        };
        annotate(&mut set, self.before, revision, self.replicas(), maximum, false);
        let mut set = Set { now: set, before: None };
        let replicas = self.new_set_replicas(0);
        set.set_replicas(replicas);
        let name = set.name().to_owned();
        self.new = Some(set);
        if replicas > 0 {
            self.event(
                "ScalingReplicaSet",
                format!("Scaled up replica set {name} from 0 to {replicas}"),
            );
        }
        self.set_revision(revision);
        if self.has_deadline() {
            self.set_condition(
                "Progressing",
                "True",
                "NewReplicaSetCreated",
                format!("Created new replica set \"{name}\""),
            );
        }
    }

    fn set_revision(&mut self, revision: i64) {
        let annotations = self.deployment.metadata.annotations.get_or_insert_default();
        annotations.insert(REVISION.into(), revision.to_string());
    }
}

/// Copies the Deployment's annotations, numbers the revision and notes the sizes.
fn annotate(set: &mut ReplicaSet, deployment: &Deployment, revision: i64, desired: i32, maximum: i32, exists: bool) {
    let annotations = set.metadata.annotations.get_or_insert_default();
    for (key, value) in deployment.metadata.annotations.iter().flatten() {
        if !NOT_COPIED.contains(&key.as_str()) {
            annotations.insert(key.clone(), value.clone());
        }
    }
    let held = annotations.get(REVISION).cloned();
    let held_number = held.as_deref().and_then(|text| text.parse::<i64>().ok()).unwrap_or(0);
    if held_number < revision {
        annotations.insert(REVISION.into(), revision.to_string());
        if exists && let Some(held) = held {
            remember(annotations, &held);
        }
    }
    if !exists || !annotations.contains_key(DESIRED) {
        note_sizes(annotations, desired, maximum);
    }
}

fn remember(annotations: &mut BTreeMap<String, String>, revision: &str) {
    let history = annotations.get(REVISION_HISTORY).cloned().unwrap_or_default();
    let mut numbers: Vec<&str> = history.split(',').filter(|number| !number.is_empty()).collect();
    numbers.push(revision);
    while numbers.join(",").len() > HISTORY_LIMIT {
        numbers.remove(0);
    }
    annotations.insert(REVISION_HISTORY.into(), numbers.join(","));
}

/// Notes the Deployment's size on a ReplicaSet: how a later change of the size is told from a rollout.
pub(super) fn note_sizes(annotations: &mut BTreeMap<String, String>, desired: i32, maximum: i32) {
    annotations.insert(DESIRED.into(), desired.to_string());
    annotations.insert(MAXIMUM.into(), maximum.to_string());
}

/// The Deployment's size when the ReplicaSet was last scaled.
pub(super) fn noted_desired(set: &ReplicaSet) -> Option<i32> {
    set.metadata.annotations.as_ref()?.get(DESIRED)?.parse().ok()
}

/// The Deployment's largest size when the ReplicaSet was last scaled.
pub(super) fn noted_maximum(set: &ReplicaSet) -> Option<i32> {
    set.metadata.annotations.as_ref()?.get(MAXIMUM)?.parse().ok()
}
