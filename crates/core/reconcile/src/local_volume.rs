//! Volumes on a node's own disk: the provisioner of class `local`.
//!
//! The node makes, resizes and removes what lies on its disk when it is told to; this says what it is to be told
//! ([`order`], [`due`]) and turns what it answered into the API's objects. Invariant: data is removed only for a volume that
//! is released, is to be deleted, and was made here; every order may be given again.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use trireme_api::volume::{Claim, Volume, annotation, class_of};

use crate::plan::{Action, EventKind, EventNote, ObjectRef, Plan};

/// Name of the provisioner.
pub const PROVISIONER: &str = "trireme.io/local";
/// Parameter of a class whose volumes may grow beyond their size: `false`.
pub const ENFORCE_SIZE: &str = "enforceSize";
/// On a volume: the node whose disk it is on.
const NODE: &str = "trireme.io/local-volume-node";
/// Keeps a volume's object until its data is gone; upstream's provisioners use this name.
const FINALIZER: &str = "external-provisioner.volume.kubernetes.io/finalizer";
/// Wait before a node that does not answer is asked again.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// What a node is to have on its disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Node.
    pub node: String,
    /// Name of the volume, which its directory has too.
    pub name: String,
    /// Its size in bytes.
    pub bytes: i64,
    /// Whether more than that must be impossible.
    pub enforced: bool,
}

/// What a node answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is so; this is the path.
    Done(String),
    /// It will not, or cannot.
    Refused(String),
    /// It did not answer.
    Silent(String),
    /// There is no such node any more.
    Gone,
}

/// What is to be done for a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Nothing, or not yet.
    Nothing,
    /// It cannot be had.
    Refused(&'static str),
    /// A volume, from a node.
    Volume(Order),
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn annotated<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object["metadata"]["annotations"][key].as_str()
}

fn event(object: &Value, kind: EventKind, reason: &str, message: String) -> EventNote {
    let member = |name: &str| text(&object["metadata"][name]).to_owned();
    EventNote {
        regarding: ObjectRef {
            api_version: "v1".into(),
            kind: text(&object["kind"]).to_owned(),
            namespace: member("namespace"),
            name: member("name"),
            uid: member("uid"),
        },
        kind,
        reason: reason.to_owned(),
        message,
    }
}

/// Name of the volume that a claim gets.
#[must_use]
pub fn volume_name(claim: &Value) -> String {
    format!("pvc-{}", text(&claim["metadata"]["uid"]))
}

/// What a claim that asks this provisioner gets; `class` is its class.
#[must_use]
pub fn order(claim: &Value, class: &Value) -> Wanted {
    let asks = annotated(claim, annotation::PROVISIONER) == Some(PROVISIONER);
    let bound = !text(&claim["spec"]["volumeName"]).is_empty();
    if !asks || bound || claim["metadata"]["deletionTimestamp"].is_string() || class["provisioner"] != PROVISIONER {
        return Wanted::Nothing;
    }
    let wanted = Claim::read(claim);
    if wanted.block {
        return Wanted::Refused("volumes of mode Block are not made on a node's own disk");
    }
    if !claim["spec"]["dataSource"].is_null() || !claim["spec"]["dataSourceRef"].is_null() {
        return Wanted::Refused("a volume on a node's own disk is not filled from a data source");
    }
    if wanted.selector.is_some() {
        return Wanted::Refused("claim.Spec.Selector is not supported");
    }
    if class["mountOptions"].as_array().is_some_and(|options| !options.is_empty()) {
        return Wanted::Refused("the class asks for mount options, which volumes on a node's own disk do not take");
    }
    let Some(node) = annotated(claim, annotation::SELECTED_NODE).filter(|node| !node.is_empty()) else {
        return Wanted::Refused("no node was selected: the class must have volumeBindingMode WaitForFirstConsumer");
    };
    Wanted::Volume(Order {
        node: node.to_owned(),
        name: volume_name(claim),
        bytes: wanted.request.value(),
        enforced: class["parameters"][ENFORCE_SIZE] != "false",
    })
}

/// A claim, its class, and what came of its order.
#[derive(Clone, Debug)]
pub struct ClaimSnapshot {
    /// The claim, whole.
    pub claim: Value,
    /// Its class.
    pub class: Value,
    /// The node that was chosen, where it is there.
    pub node: Option<Value>,
    /// The node's answer, or why none was asked.
    pub answer: Answer,
}

/// Makes the volume that lies ready, or tells why there is none. A node that refuses is not asked again: the scheduler
/// chooses anew.
#[must_use]
pub fn reconcile_claim(snapshot: &ClaimSnapshot, _now: Timestamp) -> Plan {
    let claim = &snapshot.claim;
    let failed = |why: &str| {
        let message = format!("failed to provision volume with StorageClass \"{}\": {why}", class_of(claim));
        Action::Event(event(claim, EventKind::Warning, "ProvisioningFailed", message))
    };
    match &snapshot.answer {
        Answer::Done(path) => {
            let volume = volume(snapshot, path);
            let message = format!("Successfully provisioned volume {}", text(&volume["metadata"]["name"]));
            let done = event(claim, EventKind::Normal, "ProvisioningSucceeded", message);
            Plan {
                actions: vec![Action::Told {
                    action: Box::new(Action::Create {
                        object: volume,
                        exists_is_done: true,
                    }),
                    done: Some(done),
                    failed: Some(event(
                        claim,
                        EventKind::Warning,
                        "ProvisioningFailed",
                        "Error creating provisioned PV object".into(),
                    )),
                }],
                requeue_after: None,
            }
        }
        Answer::Silent(why) => Plan {
            actions: vec![failed(why)],
            requeue_after: Some(ASK_AGAIN_AFTER),
        },
        Answer::Refused(why) => again(claim, failed(why)),
        Answer::Gone => again(claim, failed("the selected node is gone")),
    }
}

/// Tells why, and gives the choice of a node back to the scheduler.
fn again(claim: &Value, told: Action) -> Plan {
    let mut actions = vec![told];
    if annotated(claim, annotation::SELECTED_NODE).is_some() {
        let mut object = claim.clone();
        if let Some(annotations) = object["metadata"]["annotations"].as_object_mut() {
            annotations.remove(annotation::SELECTED_NODE);
        }
        actions.push(Action::Update { object });
    }
    Plan {
        actions,
        requeue_after: None,
    }
}

fn volume(snapshot: &ClaimSnapshot, path: &str) -> Value {
    let (claim, class) = (&snapshot.claim, &snapshot.class);
    let (metadata, spec) = (&claim["metadata"], &claim["spec"]);
    let node = annotated(claim, annotation::SELECTED_NODE).unwrap_or_default();
    let labels = snapshot.node.as_ref().map(|node| &node["metadata"]["labels"]);
    let host = labels
        .and_then(|labels| labels["kubernetes.io/hostname"].as_str())
        .unwrap_or(node);
    let policy = class["reclaimPolicy"].as_str().unwrap_or("Delete");
    let mut volume = json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {
            "name": volume_name(claim),
            "annotations": {annotation::PROVISIONED_BY: PROVISIONER, NODE: node},
        },
        "spec": {
            "capacity": {"storage": spec["resources"]["requests"]["storage"]},
            "accessModes": spec["accessModes"],
            "volumeMode": "Filesystem",
            "persistentVolumeReclaimPolicy": policy,
            "storageClassName": class_of(claim),
            "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": metadata["namespace"],
                "name": metadata["name"], "uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions":
                [{"key": "kubernetes.io/hostname", "operator": "In", "values": [host]}]}]}},
            "local": {"path": path},
        },
    });
    if policy == "Delete" {
        volume["metadata"]["finalizers"] = json!([FINALIZER]);
    }
    if !spec["volumeAttributesClassName"].is_null() {
        volume["spec"]["volumeAttributesClassName"] = spec["volumeAttributesClassName"].clone();
    }
    volume
}

/// What a volume of this provisioner is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing.
    Nothing,
    /// Its object is let go of; the data stays.
    Leave,
    /// The data is removed, then the object.
    Remove {
        /// Where.
        node: String,
        /// Name.
        name: String,
    },
    /// It grows.
    Grow(Order),
}

/// What a volume is due; `claim` is the claim that it is bound to, `class` the claim's class.
#[must_use]
pub fn due(volume: &Value, claim: Option<&Value>, class: Option<&Value>) -> Due {
    if annotated(volume, annotation::PROVISIONED_BY) != Some(PROVISIONER) || volume["spec"]["local"].is_null() {
        return Due::Nothing;
    }
    let name = text(&volume["metadata"]["name"]).to_owned();
    let node = annotated(volume, NODE).unwrap_or_default().to_owned();
    let delete = volume["spec"]["persistentVolumeReclaimPolicy"] == "Delete";
    let deleting = volume["metadata"]["deletionTimestamp"].is_string();
    if deleting && !delete {
        return if held(volume) { Due::Leave } else { Due::Nothing };
    }
    if delete && matches!(text(&volume["status"]["phase"]), "Released" | "Failed") {
        return Due::Remove { node, name };
    }
    let Some(claim) = claim.filter(|claim| claim["metadata"]["uid"] == volume["spec"]["claimRef"]["uid"]) else {
        return Due::Nothing;
    };
    let (seen, wanted) = (Volume::read(volume), Claim::read(claim));
    let shown = Volume::read(&json!({"spec": {"capacity": claim["status"]["capacity"]}}));
    let bound = claim["status"]["phase"] == "Bound";
    if bound && !deleting && (wanted.request > seen.capacity || wanted.request > shown.capacity) {
        return Due::Grow(Order {
            node,
            name,
            bytes: wanted.request.value(),
            enforced: class.is_none_or(|class| class["parameters"][ENFORCE_SIZE] != "false"),
        });
    }
    Due::Nothing
}

fn held(volume: &Value) -> bool {
    let finalizers = volume["metadata"]["finalizers"].as_array();
    finalizers.is_some_and(|finalizers| finalizers.iter().any(|name| name == FINALIZER))
}

/// A volume, what it was due and what came of it.
#[derive(Clone, Debug)]
pub struct VolumeSnapshot {
    /// The volume, whole.
    pub volume: Value,
    /// The claim that it is bound to.
    pub claim: Option<Value>,
    /// What it was due.
    pub due: Due,
    /// The node's answer, where one was asked.
    pub answer: Answer,
}

/// Writes down what a node did with a volume.
#[must_use]
pub fn reconcile_volume(snapshot: &VolumeSnapshot, _now: Timestamp) -> Plan {
    let volume = &snapshot.volume;
    match (&snapshot.due, &snapshot.answer) {
        (Due::Nothing, _) => Plan::default(),
        (Due::Leave, _) => plan(vec![let_go(volume)]),
        // With its node gone for good, so is the data.
        (Due::Remove { .. }, Answer::Done(_) | Answer::Gone) => {
            let metadata = &volume["metadata"];
            let mut actions = Vec::new();
            if metadata["deletionTimestamp"].is_null() {
                actions.push(Action::Delete {
                    target: target(volume),
                    grace_period_seconds: None,
                    propagation: None,
                });
            }
            if held(volume) {
                actions.push(let_go(volume));
            }
            plan(actions)
        }
        (Due::Remove { .. }, Answer::Refused(why) | Answer::Silent(why)) => Plan {
            actions: vec![Action::Event(event(
                volume,
                EventKind::Warning,
                "VolumeFailedDelete",
                why.clone(),
            ))],
            requeue_after: Some(ASK_AGAIN_AFTER),
        },
        (Due::Grow(_), answer) => grown(snapshot, answer),
    }
}

fn plan(actions: Vec<Action>) -> Plan {
    Plan {
        actions,
        requeue_after: None,
    }
}

fn target(volume: &Value) -> ObjectRef {
    event(volume, EventKind::Normal, "", String::new()).regarding
}

fn let_go(volume: &Value) -> Action {
    Action::RemoveFinalizer {
        target: target(volume),
        finalizer: FINALIZER,
    }
}

/// The volume says its new size first, then the claim.
fn grown(snapshot: &VolumeSnapshot, answer: &Answer) -> Plan {
    let (volume, Some(claim)) = (&snapshot.volume, &snapshot.claim) else {
        return Plan::default();
    };
    let failed = |why: &str| Plan {
        actions: vec![Action::Event(event(
            claim,
            EventKind::Warning,
            "VolumeResizeFailed",
            format!("resize volume \"{}\" failed: {why}", text(&volume["metadata"]["name"])),
        ))],
        requeue_after: Some(ASK_AGAIN_AFTER),
    };
    match answer {
        Answer::Refused(why) | Answer::Silent(why) => return failed(why),
        Answer::Gone => return failed("its node is gone"),
        Answer::Done(_) => {}
    }
    let size = &claim["spec"]["resources"]["requests"]["storage"];
    if Claim::read(claim).request > Volume::read(volume).capacity {
        let mut object = volume.clone();
        object["spec"]["capacity"]["storage"] = size.clone();
        return plan(vec![Action::Update { object }]);
    }
    let mut object = claim.clone();
    object["status"]["capacity"] = json!({"storage": size});
    let message = "Resize volume succeeded".to_owned();
    plan(vec![Action::Told {
        action: Box::new(Action::UpdateStatus { object }),
        done: Some(event(claim, EventKind::Normal, "VolumeResizeSuccessful", message)),
        failed: None,
    }])
}

#[cfg(test)]
#[path = "local_volume/tests.rs"]
mod tests;
