//! Volumes and claims as binding sees them, and which volume suits a claim (upstream's
//! component-helpers/storage/volume).
//!
//! Over records that are read from JSON once, so that the binder and the scheduler ask the same question. Invariant: `null`,
//! an absent field and one of another type are the same. It will not look at storage classes, nor at what a pod wants.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::fit::{self, Requirement};
use crate::quantity::{Format, Quantity};
use crate::selector::{LabelSelector, SelectorError};

/// Names of annotations that binder, scheduler and provisioners tell one another things by.
pub mod annotation {
    /// On a claim: it has been through its first binding. The value says nothing.
    pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
    /// On both: the binder chose the other side, not the user. The value says nothing.
    pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
    /// On a claim: name of the node that the scheduler chose for it.
    pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
    /// On a volume: who made it.
    pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
    /// On both: the CSI driver that has taken over from a built-in plugin.
    pub const MIGRATED_TO: &str = "pv.kubernetes.io/migrated-to";
    /// On a claim: who is to make its volume.
    pub const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
    /// The same, under its older name.
    pub const BETA_PROVISIONER: &str = "volume.beta.kubernetes.io/storage-provisioner";
    /// On both: the class, from before there was a field for it; it wins over the field.
    pub const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
}

/// Provisioner of a class whose volumes are made by hand.
pub const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// What `spec.claimRef` of a volume says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClaimRef {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid; empty where a user bound the volume beforehand.
    pub uid: String,
}

/// A volume (`PersistentVolume`).
#[derive(Clone, Debug)]
pub struct Volume {
    /// Name.
    pub name: String,
    /// Labels, which a claim's selector asks for.
    pub labels: BTreeMap<String, String>,
    /// Which claim it is meant for or bound to.
    pub claim: Option<ClaimRef>,
    /// Its size.
    pub capacity: Quantity,
    /// Whether it is a device rather than a file system.
    pub block: bool,
    /// Name of its class; empty: none.
    pub class: String,
    /// Name of its class of attributes; empty: none.
    pub attributes_class: String,
    /// What may be done with it.
    pub access_modes: Vec<String>,
    /// `status.phase`.
    pub phase: String,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// From which nodes it is to be had; `None`: from all.
    pub nodes: Option<Vec<NodeTerm>>,
}

/// A claim (`PersistentVolumeClaim`).
#[derive(Clone, Debug)]
pub struct Claim {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
    /// Name of the class wanted; empty: none.
    pub class: String,
    /// Name of the class of attributes wanted; empty: none.
    pub attributes_class: String,
    /// Size wanted.
    pub request: Quantity,
    /// Whether it wants a device rather than a file system.
    pub block: bool,
    /// What is to be done with it.
    pub access_modes: Vec<String>,
    /// Which labels the volume must have; `None`: any.
    pub selector: Option<Result<LabelSelector, SelectorError>>,
}

/// One of a volume's node selector terms: all of it must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeTerm {
    /// On the node's labels.
    pub labels: Vec<NodeRequirement>,
    /// On its fields, of which `metadata.name` is the only one.
    pub fields: Vec<NodeRequirement>,
}

/// One requirement of a term.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeRequirement {
    /// A label's key, or the path of a field.
    pub key: String,
    /// As [`Requirement::operator`].
    pub operator: String,
    /// What it compares with.
    pub values: Vec<String>,
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(text).collect()
}

fn amount(value: &Value) -> Quantity {
    let read = match value {
        Value::String(text) => Quantity::parse(text).ok(),
        Value::Number(number) => Quantity::parse(&number.to_string()).ok(),
        _ => None,
    };
    read.unwrap_or_else(|| Quantity::zero(Format::BinarySi))
}

/// Name of the class of a volume or claim: the annotation wins over the field. Empty: none.
#[must_use]
pub fn class_of(object: &Value) -> &str {
    let named = object["metadata"]["annotations"][annotation::BETA_CLASS].as_str();
    named
        .or_else(|| object["spec"]["storageClassName"].as_str())
        .unwrap_or_default()
}

/// Whether a claim names a class, be it the empty one, which asks for none. One that does not gets the default class.
#[must_use]
pub fn has_class(claim: &Value) -> bool {
    claim["metadata"]["annotations"][annotation::BETA_CLASS].is_string() || claim["spec"]["storageClassName"].is_string()
}

impl Volume {
    /// Reads one.
    #[must_use]
    pub fn read(object: &Value) -> Self {
        let (metadata, spec) = (&object["metadata"], &object["spec"]);
        let claim = spec["claimRef"].as_object().map(|_| ClaimRef {
            namespace: text(&spec["claimRef"]["namespace"]),
            name: text(&spec["claimRef"]["name"]),
            uid: text(&spec["claimRef"]["uid"]),
        });
        let labels = metadata["labels"].as_object().into_iter().flatten();
        Self {
            name: text(&metadata["name"]),
            labels: labels.map(|(key, value)| (key.clone(), text(value))).collect(),
            claim,
            capacity: amount(&spec["capacity"]["storage"]),
            block: spec["volumeMode"] == "Block",
            class: class_of(object).to_owned(),
            attributes_class: text(&spec["volumeAttributesClassName"]),
            access_modes: texts(&spec["accessModes"]),
            phase: text(&object["status"]["phase"]),
            deleting: metadata["deletionTimestamp"].is_string(),
            nodes: node_terms(&spec["nodeAffinity"]["required"]),
        }
    }

    /// Whether a user or the binder meant it for that claim: by name, and by uid where one is given.
    #[must_use]
    pub fn is_bound_to(&self, claim: &Claim) -> bool {
        self.claim.as_ref().is_some_and(|reference| {
            reference.name == claim.name
                && reference.namespace == claim.namespace
                && (reference.uid.is_empty() || reference.uid == claim.uid)
        })
    }

    /// Whether it is to be had from a node with these labels. Terms about `metadata.name` hold for no node, as upstream's.
    #[must_use]
    pub fn reaches(&self, labels: &BTreeMap<String, String>) -> bool {
        let Some(terms) = &self.nodes else { return true };
        terms.iter().any(|term| {
            fit::term_matches(
                term.labels.iter().map(NodeRequirement::as_requirement),
                term.fields.iter().map(NodeRequirement::as_requirement),
                "",
                |key| labels.get(key).map(String::as_str),
            )
        })
    }

    /// Whether it allows all that the claim wants to do with it.
    #[must_use]
    pub fn allows(&self, claim: &Claim) -> bool {
        claim.access_modes.iter().all(|mode| self.access_modes.contains(mode))
    }
}

impl NodeRequirement {
    fn read(value: &Value) -> Self {
        Self {
            key: text(&value["key"]),
            operator: text(&value["operator"]),
            values: texts(&value["values"]),
        }
    }

    fn as_requirement(&self) -> Requirement<'_> {
        Requirement {
            key: &self.key,
            operator: &self.operator,
            values: &self.values,
        }
    }
}

fn node_terms(selector: &Value) -> Option<Vec<NodeTerm>> {
    let read = |list: &Value| list.as_array().into_iter().flatten().map(NodeRequirement::read).collect();
    selector.as_object()?;
    let terms = selector["nodeSelectorTerms"].as_array().into_iter().flatten();
    let terms = terms.map(|term| NodeTerm {
        labels: read(&term["matchExpressions"]),
        fields: read(&term["matchFields"]),
    });
    Some(terms.collect())
}

impl Claim {
    /// Reads one.
    #[must_use]
    pub fn read(object: &Value) -> Self {
        let (metadata, spec) = (&object["metadata"], &object["spec"]);
        Self {
            namespace: text(&metadata["namespace"]),
            name: text(&metadata["name"]),
            uid: text(&metadata["uid"]),
            class: class_of(object).to_owned(),
            attributes_class: text(&spec["volumeAttributesClassName"]),
            request: amount(&spec["resources"]["requests"]["storage"]),
            block: spec["volumeMode"] == "Block",
            access_modes: texts(&spec["accessModes"]),
            selector: spec["selector"]
                .as_object()
                .map(|_| LabelSelector::from_value(Some(&spec["selector"]))),
        }
    }
}

/// Who looks for a volume.
#[derive(Clone, Copy, Debug)]
pub enum Seeker<'a> {
    /// The binder, which matches access modes itself ([`best_for`]). Where the class waits for a consumer it takes only what
    /// was meant for the claim beforehand.
    Binder {
        /// Whether the class waits for a consumer.
        waits: bool,
    },
    /// The scheduler, for a node.
    Scheduler {
        /// The node's labels.
        labels: &'a BTreeMap<String, String>,
        /// Names of volumes that other claims of the same pod get.
        taken: &'a BTreeSet<String>,
    },
}

/// The volume that was meant for the claim, or else the smallest available one that suits it; the first of equals.
///
/// # Errors
/// When the claim's selector is none.
pub fn find_matching<'v>(
    claim: &Claim,
    volumes: impl IntoIterator<Item = &'v Volume>,
    seeker: Seeker<'_>,
) -> Result<Option<&'v Volume>, SelectorError> {
    let selector = match &claim.selector {
        None => None,
        Some(Ok(selector)) => Some(selector),
        Some(Err(error)) => return Err(error.clone()),
    };
    let mut best: Option<&Volume> = None;
    for volume in volumes {
        let taken = matches!(seeker, Seeker::Scheduler { taken, .. } if taken.contains(&volume.name));
        let bound = volume.is_bound_to(claim);
        if taken
            || (volume.claim.is_some() && !bound)
            || volume.capacity < claim.request
            || volume.block != claim.block
            || volume.attributes_class != claim.attributes_class
            || volume.deleting
        {
            continue;
        }
        let reached = match seeker {
            Seeker::Scheduler { labels, .. } => volume.reaches(labels),
            Seeker::Binder { .. } => true,
        };
        if bound {
            // What was meant for the claim and is not to be had from here leaves no choice.
            return Ok(reached.then_some(volume));
        }
        let asked = match seeker {
            Seeker::Binder { waits } => !waits,
            Seeker::Scheduler { .. } => volume.allows(claim),
        };
        if asked
            && reached
            && volume.phase == "Available"
            && volume.class == claim.class
            && selector.is_none_or(|selector| selector.matches(&volume.labels))
            && best.is_none_or(|best| best.capacity > volume.capacity)
        {
            best = Some(volume);
        }
    }
    Ok(best)
}

/// The volume that the binder gives to a claim: those that allow the fewest things beyond what is wanted come first, then
/// as [`find_matching`].
///
/// # Errors
/// When the claim's selector is none.
pub fn best_for<'v>(claim: &Claim, volumes: &'v [Volume], waits: bool) -> Result<Option<&'v Volume>, SelectorError> {
    let mut by_modes: BTreeMap<(usize, BTreeSet<&str>), Vec<&Volume>> = BTreeMap::new();
    for volume in volumes.iter().filter(|volume| volume.allows(claim)) {
        let modes: BTreeSet<&str> = volume.access_modes.iter().map(String::as_str).collect();
        by_modes.entry((modes.len(), modes)).or_default().push(volume);
    }
    for same in by_modes.into_values() {
        if let Some(found) = find_matching(claim, same, Seeker::Binder { waits })? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claim(change: impl FnOnce(&mut Value)) -> Claim {
        let mut object = json!({"metadata": {"name": "c", "namespace": "ns", "uid": "u"}, "spec": {"storageClassName": "gold",
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "5Gi"}}}});
        change(&mut object);
        Claim::read(&object)
    }

    fn volume(name: &str, size: &str, change: impl FnOnce(&mut Value)) -> Volume {
        let mut object = json!({"metadata": {"name": name, "labels": {"disk": name}}, "spec": {"storageClassName": "gold",
            "accessModes": ["ReadWriteOnce", "ReadOnlyMany"], "capacity": {"storage": size}}, "status": {"phase": "Available"}});
        change(&mut object);
        Volume::read(&object)
    }

    fn plain(name: &str, size: &str) -> Volume {
        volume(name, size, |_| ())
    }

    fn in_zone(zone: &'static str) -> impl FnOnce(&mut Value) {
        move |object| {
            object["spec"]["nodeAffinity"] = json!({"required": {"nodeSelectorTerms": [{"matchExpressions":
                [{"key": "zone", "operator": "In", "values": [zone]}]}]}});
        }
    }

    fn meant_for(uid: &'static str) -> impl FnOnce(&mut Value) {
        move |object| object["spec"]["claimRef"] = json!({"namespace": "ns", "name": "c", "uid": uid})
    }

    fn chosen(claim: &Claim, volumes: &[Volume]) -> Option<String> {
        best_for(claim, volumes, false).unwrap().map(|volume| volume.name.clone())
    }

    #[test]
    fn the_smallest_that_is_large_enough_is_taken() {
        let wanted = claim(|_| ());
        for (volumes, expected) in [
            (vec![plain("a", "10Gi"), plain("b", "5Gi"), plain("c", "7Gi")], Some("b")),
            (vec![plain("a", "10Gi"), plain("b", "4Gi")], Some("a")),
            (vec![plain("a", "4Gi"), plain("b", "5G")], None),
            (vec![plain("a", "6Gi"), plain("b", "6Gi")], Some("a")),
            (vec![], None),
        ] {
            assert_eq!(chosen(&wanted, &volumes).as_deref(), expected);
        }
        let asks_nothing = claim(|object| object["spec"]["resources"] = Value::Null);
        assert_eq!(
            chosen(
                &asks_nothing,
                &[volume("a", "1", |object| object["spec"]["capacity"] = Value::Null)]
            )
            .as_deref(),
            Some("a")
        );
    }

    #[test]
    fn what_does_not_suit_is_passed_over() {
        type Change = fn(&mut Value);
        let changes: [(&str, Change); 8] = [
            ("class", |object| object["spec"]["storageClassName"] = json!("silver")),
            ("older class", |object| {
                object["metadata"]["annotations"] = json!({annotation::BETA_CLASS: "silver"})
            }),
            ("mode", |object| object["spec"]["volumeMode"] = json!("Block")),
            ("attributes", |object| {
                object["spec"]["volumeAttributesClassName"] = json!("fast")
            }),
            ("phase", |object| object["status"]["phase"] = json!("Released")),
            ("no phase", |object| object["status"] = Value::Null),
            ("deletion", |object| {
                object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z")
            }),
            ("access", |object| object["spec"]["accessModes"] = json!(["ReadOnlyMany"])),
        ];
        for (what, change) in changes {
            let volumes = [volume("a", "5Gi", change), plain("b", "10Gi")];
            assert_eq!(chosen(&claim(|_| ()), &volumes).as_deref(), Some("b"), "{what}");
            assert_eq!(chosen(&claim(|_| ()), &volumes[..1]), None, "{what}");
        }
        let other = [volume("a", "5Gi", |object| {
            object["spec"]["claimRef"] = json!({"namespace": "ns", "name": "other"});
        })];
        assert_eq!(chosen(&claim(|_| ()), &other), None);
    }

    #[test]
    fn an_empty_class_asks_for_volumes_without_one() {
        let none = |object: &mut Value| object["spec"]["storageClassName"] = json!("");
        let absent = |object: &mut Value| object["spec"]["storageClassName"] = Value::Null;
        let volumes = [plain("a", "5Gi"), volume("b", "5Gi", absent)];
        assert_eq!(chosen(&claim(none), &volumes).as_deref(), Some("b"));
        assert_eq!(chosen(&claim(absent), &volumes).as_deref(), Some("b"));
        assert!(has_class(&json!({"spec": {"storageClassName": ""}})) && !has_class(&json!({"spec": {}})));
    }

    #[test]
    fn fewest_access_modes_come_before_smallest_size() {
        let only = |object: &mut Value| object["spec"]["accessModes"] = json!(["ReadWriteOnce"]);
        let volumes = [plain("a", "5Gi"), volume("b", "10Gi", only)];
        assert_eq!(chosen(&claim(|_| ()), &volumes).as_deref(), Some("b"));
        let both = claim(|object| object["spec"]["accessModes"] = json!(["ReadWriteOnce", "ReadOnlyMany"]));
        assert_eq!(chosen(&both, &volumes).as_deref(), Some("a"));
        let one_pod = claim(|object| object["spec"]["accessModes"] = json!(["ReadWriteOncePod"]));
        assert_eq!(chosen(&one_pod, &volumes), None);
    }

    #[test]
    fn selectors_choose_by_label() {
        let selecting = |selector: Value| claim(move |object| object["spec"]["selector"] = selector);
        let volumes = [plain("a", "5Gi"), plain("b", "10Gi")];
        assert_eq!(
            chosen(&selecting(json!({"matchLabels": {"disk": "b"}})), &volumes).as_deref(),
            Some("b")
        );
        let expression = json!({"key": "disk", "operator": "NotIn", "values": ["a", "b"]});
        assert_eq!(chosen(&selecting(json!({"matchExpressions": [expression]})), &volumes), None);
        assert_eq!(chosen(&selecting(json!({})), &volumes).as_deref(), Some("a"));
        let broken = selecting(json!({"matchExpressions": [{"key": "disk", "operator": "Like"}]}));
        assert!(best_for(&broken, &volumes, false).is_err());
    }

    #[test]
    fn what_was_meant_for_the_claim_wins() {
        let silver = |object: &mut Value| {
            meant_for("")(object);
            object["spec"]["storageClassName"] = json!("silver");
            object["status"]["phase"] = json!("Pending");
        };
        let volumes = [plain("a", "5Gi"), volume("b", "10Gi", silver)];
        assert_eq!(chosen(&claim(|_| ()), &volumes).as_deref(), Some("b"));
        assert_eq!(
            chosen(&claim(|_| ()), &[plain("a", "5Gi"), volume("b", "10Gi", meant_for("v"))]).as_deref(),
            Some("a")
        );
        assert_eq!(chosen(&claim(|_| ()), &[volume("b", "4Gi", meant_for("u"))]), None);
        let waiting = best_for(&claim(|_| ()), &volumes, true).unwrap();
        assert_eq!(waiting.map(|volume| volume.name.as_str()), Some("b"));
        assert!(best_for(&claim(|_| ()), &volumes[..1], true).unwrap().is_none());
    }

    #[test]
    fn the_scheduler_asks_for_a_node_and_keeps_volumes_apart() {
        let labels = |zone: &str| BTreeMap::from([("zone".to_owned(), zone.to_owned())]);
        let volumes = [
            volume("a", "5Gi", in_zone("x")),
            volume("b", "6Gi", in_zone("y")),
            plain("c", "7Gi"),
        ];
        let find = |volumes: &[Volume], zone: &str, taken: &[&str]| {
            let (labels, taken) = (labels(zone), taken.iter().map(|name| (*name).to_owned()).collect());
            let seeker = Seeker::Scheduler {
                labels: &labels,
                taken: &taken,
            };
            find_matching(&claim(|_| ()), volumes, seeker)
                .unwrap()
                .map(|volume| volume.name.clone())
        };
        assert_eq!(find(&volumes, "x", &[]).as_deref(), Some("a"));
        assert_eq!(find(&volumes, "y", &[]).as_deref(), Some("b"));
        assert_eq!(find(&volumes, "z", &[]).as_deref(), Some("c"));
        assert_eq!(find(&volumes, "x", &["a"]).as_deref(), Some("c"));
        let elsewhere = |object: &mut Value| {
            meant_for("u")(object);
            in_zone("y")(object);
        };
        assert_eq!(find(&[volume("a", "5Gi", elsewhere), plain("c", "7Gi")], "x", &[]), None);
        let read_only = |object: &mut Value| object["spec"]["accessModes"] = json!(["ReadOnlyMany"]);
        assert_eq!(find(&[volume("a", "5Gi", read_only)], "x", &[]), None);
    }

    #[test]
    fn a_node_must_satisfy_one_term() {
        let labels = BTreeMap::from([("zone".to_owned(), "x".to_owned())]);
        let reaches = |required: Value| {
            volume("a", "1", |object| {
                object["spec"]["nodeAffinity"] = json!({"required": required})
            })
            .reaches(&labels)
        };
        let term = |zone: &str| json!({"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]});
        assert!(reaches(Value::Null));
        assert!(reaches(json!({"nodeSelectorTerms": [term("y"), term("x")]})));
        assert!(!reaches(json!({"nodeSelectorTerms": [term("y")]})));
        assert!(!reaches(json!({"nodeSelectorTerms": [{}]})));
        assert!(!reaches(json!({"nodeSelectorTerms": []})));
        assert!(!reaches(
            json!({"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}]})
        ));
    }
}
