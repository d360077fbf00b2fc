//! A claim: looks for its volume, has one made, binds both, and says when it has lost it.

use jiff::Timestamp;
use serde_json::{Value, json};
use trireme_api::quantity::Quantity;
use trireme_api::volume::{Claim, Volume, annotation, best_for, class_of, has_class};

use super::{TELL_AGAIN_AFTER, annotated, event, migrated, name, phase, set_annotation, uid, with_migration, with_phase};
use crate::plan::{Action, EventKind, EventNote, Plan};

/// What a resize of the volume left behind: the size that its file system has until the node has grown it.
const PRE_RESIZE_CAPACITY: &str = "volume.alpha.kubernetes.io/pre-resize-capacity";

/// What binding has to know of a storage class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    /// Whether it waits for a consumer.
    pub waits: bool,
    /// Who makes its volumes.
    pub provisioner: String,
}

impl Class {
    /// Reads one.
    #[must_use]
    pub fn read(class: &Value) -> Self {
        Self {
            waits: class["volumeBindingMode"] == "WaitForFirstConsumer",
            provisioner: class["provisioner"].as_str().unwrap_or_default().to_owned(),
        }
    }
}

/// Name of the default class: the newest of those that say so, and of those the first by name.
#[must_use]
pub fn default_class(classes: &[Value]) -> Option<&str> {
    let says_so = |class: &&Value| {
        [
            "storageclass.kubernetes.io/is-default-class",
            "storageclass.beta.kubernetes.io/is-default-class",
        ]
        .iter()
        .any(|key| annotated(class, key) == Some("true"))
    };
    let made = |class: &Value| class["metadata"]["creationTimestamp"].as_str().unwrap_or_default().to_owned();
    let order = |a: &&Value, b: &&Value| made(b).cmp(&made(a)).then_with(|| name(a).cmp(name(b)));
    classes.iter().filter(says_so).min_by(order).map(name)
}

/// A claim and what matters to it.
#[derive(Clone, Debug)]
pub struct ClaimSnapshot {
    /// The claim, whole.
    pub claim: Value,
    /// Volumes, whole: at least those that are available, that are meant for it, and the one that it names.
    pub volumes: Vec<Value>,
    /// Its class, where that is there.
    pub class: Option<Class>,
    /// Name of the default class.
    pub default_class: Option<String>,
    /// Names of its pods that have no node yet, sorted.
    pub unscheduled: Vec<String>,
}

/// Binds a claim, or does what has to be done before.
#[must_use]
pub fn reconcile(snapshot: &ClaimSnapshot, _now: Timestamp) -> Plan {
    let claim = &snapshot.claim;
    let provisioner = annotated(claim, annotation::PROVISIONER).or_else(|| annotated(claim, annotation::BETA_PROVISIONER));
    if let Some(object) = with_migration(claim, provisioner) {
        return plan([Action::Update { object }]);
    }
    if annotated(claim, annotation::BIND_COMPLETED).is_some() {
        plan(bound(snapshot))
    } else if claim["spec"]["volumeName"].as_str().unwrap_or_default().is_empty() {
        unbound(snapshot)
    } else {
        asking(snapshot)
    }
}

fn plan(actions: impl IntoIterator<Item = Action>) -> Plan {
    Plan {
        actions: actions.into_iter().collect(),
        requeue_after: None,
    }
}

/// Tells what it waits for, and that it does.
fn pending(claim: &Value, note: Option<EventNote>) -> Plan {
    let told = note.is_some();
    let status = with_claim_phase(claim, "Pending", None).map(|object| Action::UpdateStatus { object });
    Plan {
        actions: note.map(Action::Event).into_iter().chain(status).collect(),
        requeue_after: told.then_some(TELL_AGAIN_AFTER),
    }
}

/// The user did not say which volume.
fn unbound(snapshot: &ClaimSnapshot) -> Plan {
    let claim = &snapshot.claim;
    let waits = snapshot.class.as_ref().is_some_and(|class| class.waits);
    let volumes: Vec<Volume> = snapshot.volumes.iter().map(Volume::read).collect();
    let found = match best_for(&Claim::read(claim), &volumes, waits) {
        Ok(found) => found,
        // Validation lets no such selector in; nothing can be told of it that its user does not see.
        Err(_) => return Plan::default(),
    };
    if let Some(volume) = found.and_then(|found| by_name(snapshot, &found.name)) {
        return plan(bind(volume, claim));
    }
    if let Some(class) = snapshot.default_class.as_ref().filter(|_| !has_class(claim)) {
        let mut object = claim.clone();
        object["spec"]["storageClassName"] = class.as_str().into();
        return plan([Action::Update { object }]);
    }
    if waits && annotated(claim, annotation::SELECTED_NODE).is_none() {
        let (reason, message) = match snapshot.unscheduled.as_slice() {
            [] => (
                "WaitForFirstConsumer",
                "waiting for first consumer to be created before binding".to_owned(),
            ),
            [pod] => ("WaitForPodScheduled", format!("waiting for pod {pod} to be scheduled")),
            pods => (
                "WaitForPodScheduled",
                format!("waiting for pods {} to be scheduled", pods.join(",")),
            ),
        };
        return pending(claim, Some(event(claim, EventKind::Normal, reason, message)));
    }
    if class_of(claim).is_empty() {
        let message = "no persistent volumes available for this claim and no storage class is set";
        return pending(claim, Some(event(claim, EventKind::Normal, "FailedBinding", message.into())));
    }
    provision(snapshot)
}

/// Asks the class's provisioner for a volume.
fn provision(snapshot: &ClaimSnapshot) -> Plan {
    let claim = &snapshot.claim;
    let failed = |why: String| pending(claim, Some(event(claim, EventKind::Warning, "ProvisioningFailed", why)));
    let Some(class) = &snapshot.class else {
        return failed(format!("storageclass.storage.k8s.io \"{}\" not found", class_of(claim)));
    };
    let driver = migrated(&class.provisioner);
    if driver.is_none() && class.provisioner.starts_with("kubernetes.io/") {
        return failed(format!("no volume plugin matched name: {}", class.provisioner));
    }
    let provisioner = driver.unwrap_or(&class.provisioner);
    if annotated(claim, annotation::PROVISIONER) != Some(provisioner) {
        let mut object = claim.clone();
        set_annotation(&mut object, annotation::BETA_PROVISIONER, provisioner);
        set_annotation(&mut object, annotation::PROVISIONER, provisioner);
        return plan([Action::Update { object }]);
    }
    let message = format!(
        "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system \
         administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."
    );
    pending(claim, Some(event(claim, EventKind::Normal, "ExternalProvisioning", message)))
}

fn by_name<'a>(snapshot: &'a ClaimSnapshot, wanted: &str) -> Option<&'a Value> {
    snapshot.volumes.iter().find(|volume| name(volume) == wanted)
}

fn asked_for(snapshot: &ClaimSnapshot) -> Option<&Value> {
    by_name(snapshot, snapshot.claim["spec"]["volumeName"].as_str().unwrap_or_default())
}

/// The user asked for a certain volume.
fn asking(snapshot: &ClaimSnapshot) -> Plan {
    let claim = &snapshot.claim;
    let Some(volume) = asked_for(snapshot) else {
        return pending(claim, None);
    };
    let (seen, wanted) = (Volume::read(volume), Claim::read(claim));
    if seen.claim.is_none() {
        return match mismatch(&seen, &wanted) {
            None => plan(bind(volume, claim)),
            Some(why) => {
                let message = format!("Cannot bind to requested volume \"{}\": {why}", seen.name);
                pending(claim, Some(event(claim, EventKind::Warning, "VolumeMismatch", message)))
            }
        };
    }
    if seen.is_bound_to(&wanted) {
        return plan(bind(volume, claim));
    }
    let message = format!("volume \"{}\" already bound to a different claim.", seen.name);
    pending(claim, Some(event(claim, EventKind::Warning, "FailedBinding", message)))
}

/// Why a volume that a claim names does not suit it.
fn mismatch(volume: &Volume, claim: &Claim) -> Option<String> {
    let why = if volume.deleting {
        return Some(format!("the volume is marked for deletion \"{}\"", volume.name));
    } else if volume.capacity.value() < claim.request.value() {
        "requested PV is too small"
    } else if volume.class != claim.class {
        "storageClassName does not match"
    } else if volume.attributes_class != claim.attributes_class {
        "volumeAttributesClassName does not match"
    } else if volume.block != claim.block {
        "incompatible volumeMode"
    } else if !volume.allows(claim) {
        "incompatible accessMode"
    } else {
        return None;
    };
    Some(why.to_owned())
}

/// The claim was bound before.
fn bound(snapshot: &ClaimSnapshot) -> Vec<Action> {
    let claim = &snapshot.claim;
    let lost = |reason: &str, message: &str| {
        if phase(claim) == "Lost" {
            return Vec::new();
        }
        let object = with_claim_phase(claim, "Lost", None);
        let told = object.map(|object| Action::Told {
            action: Box::new(Action::UpdateStatus { object }),
            done: Some(event(claim, EventKind::Warning, reason, message.to_owned())),
            failed: None,
        });
        told.into_iter().collect()
    };
    if claim["spec"]["volumeName"].as_str().unwrap_or_default().is_empty() {
        return lost(
            "ClaimLost",
            "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!",
        );
    }
    let Some(volume) = asked_for(snapshot) else {
        return lost(
            "ClaimLost",
            "Bound claim has lost its PersistentVolume. Data on the volume is lost!",
        );
    };
    match volume["spec"]["claimRef"].as_object() {
        Some(reference) if reference.get("uid").and_then(Value::as_str).unwrap_or_default() != uid(claim) => lost(
            "ClaimMisbound",
            "Two claims are bound to the same volume, this one is bound incorrectly",
        ),
        _ => bind(volume, claim),
    }
}

/// What is still to be written of a binding: the specs, or, where they are right, the status.
fn bind(volume: &Value, claim: &Value) -> Vec<Action> {
    let own = volume_with_claim(volume, claim).map(|object| Action::Update { object });
    let theirs = claim_with_volume(claim, volume).map(|object| Action::Update { object });
    if own.is_some() || theirs.is_some() {
        return own.into_iter().chain(theirs).collect();
    }
    let own = with_phase(volume, "Bound", "");
    let theirs = with_claim_phase(claim, "Bound", Some(volume)).map(|object| Action::UpdateStatus { object });
    own.into_iter().chain(theirs).collect()
}

fn volume_with_claim(volume: &Value, claim: &Value) -> Option<Value> {
    let reference = &volume["spec"]["claimRef"];
    let (own, metadata) = (reference["uid"] == uid(claim), &claim["metadata"]);
    let meant = Volume::read(volume).is_bound_to(&Claim::read(claim));
    if own && meant {
        return None;
    }
    let mut object = volume.clone();
    object["spec"]["claimRef"] = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": metadata["namespace"],
        "name": metadata["name"], "uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]});
    if !meant && annotated(volume, annotation::BOUND_BY_CONTROLLER).is_none() {
        set_annotation(&mut object, annotation::BOUND_BY_CONTROLLER, "yes");
    }
    Some(object)
}

fn claim_with_volume(claim: &Value, volume: &Value) -> Option<Value> {
    let binds = claim["spec"]["volumeName"] != volume["metadata"]["name"];
    let completed = annotated(claim, annotation::BIND_COMPLETED).is_some();
    if !binds && completed {
        return None;
    }
    let mut object = claim.clone();
    if binds {
        object["spec"]["volumeName"] = volume["metadata"]["name"].clone();
        if annotated(claim, annotation::BOUND_BY_CONTROLLER).is_none() {
            set_annotation(&mut object, annotation::BOUND_BY_CONTROLLER, "yes");
        }
    }
    if !completed {
        set_annotation(&mut object, annotation::BIND_COMPLETED, "yes");
    }
    Some(object)
}

/// The claim with its phase and with what the volume gives, where that is not so yet.
fn with_claim_phase(claim: &Value, wanted: &str, volume: Option<&Value>) -> Option<Value> {
    const GIVEN: [&str; 3] = ["accessModes", "capacity", "currentVolumeAttributesClassName"];
    let mut object = claim.clone();
    if !object["status"].is_object() {
        object["status"] = json!({});
    }
    let was = phase(claim).to_owned();
    let status = &mut object["status"];
    status["phase"] = wanted.into();
    match volume {
        None => GIVEN.iter().for_each(|field| {
            status.as_object_mut().map(|status| status.remove(*field));
        }),
        Some(volume) => {
            let spec = &volume["spec"];
            status["accessModes"] = spec["accessModes"].clone();
            // A file system may be smaller than its volume on purpose, so a bound claim keeps what it says.
            if was != wanted {
                give_capacity(status, volume);
            }
            if was == "Pending" && wanted == "Bound" {
                match &spec["volumeAttributesClassName"] {
                    Value::Null => {
                        status
                            .as_object_mut()
                            .map(|status| status.remove("currentVolumeAttributesClassName"));
                    }
                    class => status["currentVolumeAttributesClassName"] = class.clone(),
                }
            }
        }
    }
    (object["status"] != claim["status"]).then_some(object)
}

fn give_capacity(status: &mut Value, volume: &Value) {
    let quantity = |value: &Value| value.as_str().and_then(|text| Quantity::parse(text).ok());
    let size = &volume["spec"]["capacity"]["storage"];
    if let Some(before) = annotated(volume, PRE_RESIZE_CAPACITY) {
        let size = Quantity::parse(before).map_or_else(|_| size.clone(), |_| before.into());
        if !status["capacity"].is_object() {
            status["capacity"] = json!({});
        }
        status["capacity"]["storage"] = size;
    } else if quantity(size).is_none() || quantity(size) != quantity(&status["capacity"]["storage"]) {
        status["capacity"] = volume["spec"]["capacity"].clone();
    }
}
