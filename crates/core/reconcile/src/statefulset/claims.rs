//! The claims of pods: made from the set's templates, mounted under the templates' names, and owned so that the garbage
//! collector deletes them when `persistentVolumeClaimRetentionPolicy` says so.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::{Work, ordinals, pod};
use crate::ownership;
use crate::plan::{Action, EventKind};
use crate::replicaset::to_value;

/// A claim's name.
pub(super) fn name(claim: &Arc<PersistentVolumeClaim>) -> &str {
    claim.metadata.name.as_deref().unwrap_or_default()
}

/// Whether a claim of that name is of a pod of the set.
#[must_use]
pub fn is_claim_of(set: &StatefulSet, claim: &str) -> bool {
    let of = set.metadata.name.as_deref().unwrap_or_default();
    let templates = set.spec.as_ref().and_then(|spec| spec.volume_claim_templates.as_ref());
    templates.into_iter().flatten().any(|template| {
        let rest = claim.strip_prefix(template_name(template));
        let rest = rest.and_then(|rest| rest.strip_prefix('-')?.strip_prefix(of)?.strip_prefix('-'));
        rest.is_some_and(|ordinal| ordinal.parse::<u32>().is_ok())
    })
}

fn template_name(template: &PersistentVolumeClaim) -> &str {
    template.metadata.name.as_deref().unwrap_or_default()
}

fn claim_name(set: &str, template: &PersistentVolumeClaim, ordinal: i32) -> String {
    format!("{}-{set}-{ordinal}", template_name(template))
}

/// The templates with the names of a pod's claims.
fn named<'a>(set: &str, spec: &'a StatefulSetSpec, pod: &Pod) -> Vec<(&'a PersistentVolumeClaim, String)> {
    let Some(ordinal) = pod::ordinal(pod) else { return Vec::new() };
    let templates = spec.volume_claim_templates.iter().flatten();
    templates
        .map(|template| (template, claim_name(set, template, ordinal)))
        .collect()
}

/// Whether a pod mounts all its claims.
pub(super) fn are_mounted(set: &str, spec: &StatefulSetSpec, pod: &Pod) -> bool {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref());
    named(set, spec, pod).into_iter().all(|(template, claim)| {
        let volume = volumes
            .into_iter()
            .flatten()
            .rfind(|volume| volume.name == template_name(template));
        let source = volume.and_then(|volume| volume.persistent_volume_claim.as_ref());
        source.is_some_and(|source| source.claim_name == claim)
    })
}

/// Mounts a pod's claims, in place of volumes of the same names.
pub(super) fn mount(set: &str, spec: &StatefulSetSpec, pod: &mut Pod) {
    let claims = named(set, spec, pod);
    if claims.is_empty() {
        return;
    }
    let pod_spec = pod.spec.get_or_insert_default();
    let others = pod_spec.volumes.take().unwrap_or_default();
    let mut volumes: Vec<Volume> = Vec::with_capacity(claims.len() + others.len());
    for (template, claim_name) in &claims {
        volumes.push(Volume {
            name: template_name(template).into(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim_name.clone(),
                read_only: None,
            }),
            ..Volume::default()
        });
    }
    let is_claimed = |volume: &Volume| claims.iter().any(|(template, _)| template_name(template) == volume.name);
    volumes.extend(others.into_iter().filter(|volume| !is_claimed(volume)));
    pod_spec.volumes = Some(volumes);
}

/// What becomes of claims: whether they are deleted with the set, and when their pod is scaled away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Retention {
    with_set: bool,
    with_pod: bool,
}

fn retention(spec: &StatefulSetSpec) -> Retention {
    let policy = spec.persistent_volume_claim_retention_policy.as_ref();
    let deletes = |when: Option<&String>| when.map(String::as_str) == Some("Delete");
    Retention {
        with_set: deletes(policy.and_then(|policy| policy.when_deleted.as_ref())),
        with_pod: deletes(policy.and_then(|policy| policy.when_scaled.as_ref())),
    }
}

/// Whom a reference names, whatever its UID.
fn names(reference: &OwnerReference, api_version: &str, kind: &str, owner: &ObjectMeta) -> bool {
    reference.api_version == api_version && reference.kind == kind && Some(&reference.name) == owner.name.as_ref()
}

/// What a claim's references say about a set and one of its pods.
struct Owners<'a> {
    references: &'a [OwnerReference],
    set: &'a ObjectMeta,
    pod: &'a ObjectMeta,
}

impl Owners<'_> {
    fn is_set(&self, reference: &OwnerReference) -> bool {
        names(reference, "apps/v1", "StatefulSet", self.set)
    }

    fn is_pod(&self, reference: &OwnerReference) -> bool {
        names(reference, "v1", "Pod", self.pod)
    }

    fn has(&self, owner: &ObjectMeta) -> bool {
        self.references.iter().any(|reference| is(reference, owner))
    }

    /// The set or the pod of that name was another one.
    fn are_stale(&self) -> bool {
        let set = self.references.iter().find(|reference| self.is_set(reference));
        let pod = self.references.iter().find(|reference| self.is_pod(reference));
        set.is_some_and(|reference| !is(reference, self.set)) || pod.is_some_and(|reference| !is(reference, self.pod))
    }

    /// Somebody else controls the claim, though it is to be deleted one day.
    fn have_stranger(&self, retention: Retention) -> bool {
        let is_strange = |reference: &OwnerReference| {
            if self.is_set(reference) {
                !is(reference, self.set)
            } else if self.is_pod(reference) {
                !is(reference, self.pod)
            } else {
                reference.controller == Some(true)
            }
        };
        (retention.with_set || retention.with_pod) && self.references.iter().any(is_strange)
    }

    fn are_right(&self, retention: Retention, scaled_away: bool) -> bool {
        if self.are_stale() {
            return true; // Whose they are is not known; they are not touched.
        }
        let (set, pod) = (self.has(self.set), self.has(self.pod));
        if self.have_stranger(retention) {
            return !set && !pod;
        }
        let mut own = self
            .references
            .iter()
            .filter(|reference| is(reference, self.set) || is(reference, self.pod));
        if own.any(|reference| reference.controller != Some(true)) {
            return false;
        }
        (set, pod) == wanted(retention, scaled_away)
    }

    fn righted(&self, retention: Retention, scaled_away: bool) -> Vec<OwnerReference> {
        let others = self.references.iter();
        let others = others.filter(|reference| !self.is_set(reference) && !self.is_pod(reference));
        let mut references: Vec<_> = others.cloned().collect();
        if self.have_stranger(retention) {
            return references;
        }
        let (set, pod) = wanted(retention, scaled_away);
        let mut add = |wanted: bool, api_version, kind, owner: &ObjectMeta| {
            if wanted && !references.iter().any(|reference| is(reference, owner)) {
                references.push(ownership::controller_reference(api_version, kind, owner));
            }
        };
        add(pod, "v1", "Pod", self.pod);
        add(set, "apps/v1", "StatefulSet", self.set);
        references
    }
}

fn is(reference: &OwnerReference, owner: &ObjectMeta) -> bool {
    reference.uid == owner.uid.as_deref().unwrap_or_default()
}

/// Whether the set and whether the pod should own a claim.
fn wanted(retention: Retention, scaled_away: bool) -> (bool, bool) {
    match (retention.with_pod, retention.with_set) {
        (false, with_set) => (with_set, false),
        (true, false) => (false, scaled_away),
        (true, true) => (!scaled_away, scaled_away),
    }
}

impl<'a> Work<'a> {
    /// The claims of a pod that are there.
    fn claims_of(&self, pod: &Pod) -> Vec<&'a Arc<PersistentVolumeClaim>> {
        let named = named(self.name(), self.spec, pod);
        named
            .iter()
            .filter_map(|(_, name)| self.claims.get(name.as_str()).copied())
            .collect()
    }

    fn owners<'o>(&'o self, claim: &'o PersistentVolumeClaim, pod: &'o Pod) -> Owners<'o> {
        Owners {
            references: claim.metadata.owner_references.as_deref().unwrap_or_default(),
            set: &self.set.metadata,
            pod: &pod.metadata,
        }
    }

    fn is_scaled_away(&self, pod: &Pod) -> bool {
        pod::ordinal(pod).is_none_or(|ordinal| !ordinals(self.spec).contains(&i64::from(ordinal)))
    }

    pub(super) fn claims_are_owned_rightly(&self, pod: &Pod) -> bool {
        let (retention, scaled_away) = (retention(self.spec), self.is_scaled_away(pod));
        self.claims_of(pod)
            .into_iter()
            .all(|claim| self.owners(claim, pod).are_right(retention, scaled_away))
    }

    /// A claim is still that of an earlier pod of the same name, with which it is to go.
    pub(super) fn has_stale_claim(&self, pod: &Pod) -> bool {
        let is_of_another = |claim: &Arc<PersistentVolumeClaim>| {
            let owners = self.owners(claim, pod);
            let reference = owners.references.iter().find(|reference| owners.is_pod(reference));
            reference.is_some_and(|reference| !is(reference, &pod.metadata))
        };
        retention(self.spec).with_pod && self.claims_of(pod).into_iter().any(is_of_another)
    }

    /// Makes the claims of a pod that are missing; what stands in the way is returned.
    pub(super) fn create_claims(&mut self, pod: &Pod) -> Option<String> {
        let mut going = Vec::new();
        for (template, name) in named(self.name(), self.spec, pod) {
            match self.claims.get(name.as_str()) {
                Some(claim) if claim.metadata.deletion_timestamp.is_some() => going.push(format!("pvc {name} is being deleted")),
                Some(_) => {}
                None => {
                    let action = self.create_claim(template, &name, pod);
                    self.actions.push(action);
                }
            }
        }
        match going.len() {
            0 => None,
            1 => going.pop(),
            _ => Some(format!("[{}]", going.join(", "))),
        }
    }

    fn create_claim(&self, template: &PersistentVolumeClaim, name: &str, pod: &Pod) -> Action {
        let metadata = template.metadata.clone();
        let mut labels = metadata.labels.unwrap_or_default();
        labels.extend(self.spec.selector.match_labels.clone().unwrap_or_default());
        let claim = PersistentVolumeClaim {
            metadata: ObjectMeta {
                name: Some(name.into()),
                namespace: self.set.metadata.namespace.clone(),
                labels: (!labels.is_empty()).then_some(labels),
                ..metadata
            },
            spec: template.spec.clone(),
            status: None,
        };
        let pod = pod.metadata.name.as_deref().unwrap_or_default();
        let done = format!("Create Claim {name} Pod {pod} in StatefulSet {} success", self.name());
        let failed = format!(
            "Create Claim {name} for Pod {pod} in StatefulSet {} failed error",
            self.name()
        );
        Action::Told {
            action: Box::new(Action::Create {
                object: to_value(&claim),
                exists_is_done: false,
            }),
            done: Some(self.note(EventKind::Normal, "SuccessfulCreate".into(), done)),
            failed: Some(self.note(EventKind::Warning, "FailedCreate".into(), failed)),
        }
    }

    /// Gives the claims of a pod the owners that they should have.
    pub(super) fn fix_claims(&mut self, pod: &Pod) {
        let (retention, scaled_away) = (retention(self.spec), self.is_scaled_away(pod));
        for claim in self.claims_of(pod) {
            let owners = self.owners(claim, pod);
            if owners.are_right(retention, scaled_away) {
                continue;
            }
            let strange = owners.have_stranger(retention);
            let references = owners.righted(retention, scaled_away);
            let mut changed = PersistentVolumeClaim::clone(claim);
            changed.metadata.owner_references = (!references.is_empty()).then_some(references);
            if strange {
                let message = format!(
                    "PersistentVolumeClaim {} has a conflicting OwnerReference that acts as a manging controller, the retention \
                     policy is ignored for this claim",
                    name(claim)
                );
                self.tell(EventKind::Warning, "ConflictingController", message);
            }
            let action = Action::Update {
                object: to_value(&changed),
            };
            if !self.actions.contains(&action) {
                self.actions.push(action);
            }
        }
    }
}
