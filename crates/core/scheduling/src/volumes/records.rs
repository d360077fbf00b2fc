//! Claims, volumes, classes and what drivers say of nodes, as the scheduler sees them: small records without objects.
//!
//! Invariant: an absent field and its default are the same record.

use std::collections::BTreeMap;

use serde_json::Value;
use trireme_api::quantity::Quantity;
use trireme_api::volume::{Claim, NO_PROVISIONER, Volume, annotation};

use crate::selector::{LabelSelector, Labels};
use crate::view::{Amount, AttachmentView, CapacityView, ClassView, CsiDriverView, CsiNodeView, TopologyTermView};

/// A PersistentVolumeClaim.
#[derive(Clone, Debug)]
pub struct ClaimRecord {
    /// What decides which volume suits it.
    pub claim: Claim,
    /// `metadata.resourceVersion`.
    pub version: u64,
    /// `spec.volumeName`; empty: none.
    pub volume: Box<str>,
    /// Whether it says how much it asks for.
    pub has_request: bool,
    /// Whether it was bound for good.
    pub bind_completed: bool,
    /// The node for which its volume is to be made.
    pub selected_node: Option<Box<str>>,
    /// Whether its volume is gone.
    pub lost: bool,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// UID of the controlling owner.
    pub owner: Option<Box<str>>,
}

/// A PersistentVolume.
#[derive(Clone, Debug)]
pub struct VolumeRecord {
    /// What decides which claim it suits.
    pub volume: Volume,
    /// `metadata.resourceVersion`.
    pub version: u64,
    /// Driver and handle, of a CSI volume.
    pub csi: Option<(Box<str>, Box<str>)>,
    /// Whether it was not its user who gave it to its claim.
    pub by_controller: bool,
}

/// A StorageClass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClassRecord {
    /// Who makes its volumes.
    pub provisioner: Box<str>,
    /// Whether a volume is bound only when a pod needs it.
    pub waits: bool,
    /// Where its volumes can be made: terms of labels with the values allowed; none: everywhere.
    pub topologies: Vec<Vec<(String, Vec<String>)>>,
}

/// A CSIStorageCapacity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapacityRecord {
    /// Of which class.
    pub class: Box<str>,
    /// On which nodes; none: nowhere.
    pub nodes: Option<LabelSelector>,
    /// The largest volume that can be made.
    pub limit: Option<Quantity>,
}

/// A VolumeAttachment of a PersistentVolume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachmentRecord {
    /// The driver.
    pub attacher: Box<str>,
    /// The node.
    pub node: Box<str>,
    /// The volume.
    pub volume: Box<str>,
}

/// Driver names with how many volumes a node takes of each; none: any number.
pub type Limits = BTreeMap<Box<str>, Option<i64>>;

fn version(object: &Value) -> u64 {
    let version = object["metadata"]["resourceVersion"].as_str();
    version.and_then(|version| version.parse().ok()).unwrap_or_default()
}

fn text(value: &Value) -> Box<str> {
    value.as_str().unwrap_or_default().into()
}

impl ClaimRecord {
    /// Reads a claim from its JSON.
    ///
    /// # Errors
    /// When it is no JSON.
    pub fn read(json: &[u8]) -> Result<Self, serde_json::Error> {
        let object: Value = serde_json::from_slice(json)?;
        let (metadata, spec) = (&object["metadata"], &object["spec"]);
        let annotation = |name: &str| metadata["annotations"][name].as_str();
        let mut owners = metadata["ownerReferences"].as_array().into_iter().flatten();
        Ok(Self {
            claim: Claim::read(&object),
            version: version(&object),
            volume: text(&spec["volumeName"]),
            has_request: !spec["resources"]["requests"]["storage"].is_null(),
            bind_completed: annotation(annotation::BIND_COMPLETED).is_some(),
            selected_node: annotation(annotation::SELECTED_NODE).map(Into::into),
            lost: object["status"]["phase"] == "Lost",
            deleting: !metadata["deletionTimestamp"].is_null(),
            owner: owners
                .find(|owner| owner["controller"] == true)
                .map(|owner| text(&owner["uid"])),
        })
    }

    /// Whether it is bound for good.
    #[must_use]
    pub fn is_bound(&self) -> bool {
        !self.volume.is_empty() && self.bind_completed
    }

    /// Whether one pod alone may use it.
    #[must_use]
    pub fn is_one_pods(&self) -> bool {
        self.claim.access_modes.iter().any(|mode| mode == "ReadWriteOncePod")
    }
}

/// Labels of a volume that say where it can be reached; each may hold several values.
const ZONES: [&str; 4] = [
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
];
/// What stands between the values.
const ZONES_DELIMITER: &str = "__";

/// A label of a volume with the values of which a node must have one.
pub type Zone = (&'static str, Vec<String>);

/// Whether a node says where it is, and so must be where its pods' volumes are.
pub(crate) fn is_zoned(labels: &Labels) -> bool {
    ZONES.iter().any(|key| labels.contains_key(*key))
}

/// Whether a node is where a volume says. Its older labels are compared with a node's newer ones too.
pub(crate) fn is_within((key, values): &Zone, labels: &Labels) -> bool {
    let newer = match *key {
        "failure-domain.beta.kubernetes.io/zone" => "topology.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region" => "topology.kubernetes.io/region",
        key => key,
    };
    labels
        .get(*key)
        .or_else(|| labels.get(newer))
        .is_some_and(|value| values.contains(value))
}

impl VolumeRecord {
    /// Reads a volume from its JSON.
    ///
    /// # Errors
    /// When it is no JSON.
    pub fn read(json: &[u8]) -> Result<Self, serde_json::Error> {
        let object: Value = serde_json::from_slice(json)?;
        let csi = &object["spec"]["csi"];
        Ok(Self {
            volume: Volume::read(&object),
            version: version(&object),
            by_controller: !object["metadata"]["annotations"][annotation::BOUND_BY_CONTROLLER].is_null(),
            csi: csi.is_object().then(|| (text(&csi["driver"]), text(&csi["volumeHandle"]))),
        })
    }

    /// Where its labels say that it is; a label that does not parse says nothing.
    #[must_use]
    pub fn zones(&self) -> Vec<Zone> {
        let values = |key: &'static str| {
            let values = self.volume.labels.get(key)?.split(ZONES_DELIMITER);
            let values: Vec<String> = values.map(|value| value.trim().to_owned()).collect();
            values.iter().all(|value| !value.is_empty()).then_some((key, values))
        };
        ZONES.into_iter().filter_map(values).collect()
    }

    /// The one value of `kubernetes.io/hostname` that a node must have to reach it, if there is one.
    pub(super) fn host(&self) -> Option<&str> {
        let [term] = self.volume.nodes.as_deref()? else { return None };
        let mut hosts = term.labels.iter();
        let host = hosts.find(|one| one.key == crate::relations::HOSTNAME && one.operator == "In")?;
        match &host.values[..] {
            [value] => Some(value),
            _ => None,
        }
    }
}

impl ClassRecord {
    /// Reads a class from its JSON.
    ///
    /// # Errors
    /// When a field has another type than the API says.
    pub fn read(json: &[u8]) -> Result<Self, serde_json::Error> {
        let view: ClassView = serde_json::from_slice(json)?;
        let term = |term: TopologyTermView| {
            let requirements = term.match_label_expressions.into_iter();
            requirements.map(|one| (one.key, one.values)).collect()
        };
        Ok(Self {
            provisioner: view.provisioner.into(),
            waits: view.volume_binding_mode == "WaitForFirstConsumer",
            topologies: view.allowed_topologies.into_iter().map(term).collect(),
        })
    }

    /// Whether somebody makes volumes of it.
    #[must_use]
    pub fn provisions(&self) -> bool {
        !self.provisioner.is_empty() && &*self.provisioner != NO_PROVISIONER
    }

    /// Whether its volumes can be made for a node with these labels.
    #[must_use]
    pub fn allows(&self, labels: &Labels) -> bool {
        let holds = |(key, values): &(String, Vec<String>)| labels.get(key).is_some_and(|value| values.contains(value));
        self.topologies.is_empty() || self.topologies.iter().any(|term| !term.is_empty() && term.iter().all(holds))
    }
}

impl CapacityRecord {
    /// Reads a capacity from its JSON.
    ///
    /// # Errors
    /// When a field has another type than the API says.
    pub fn read(json: &[u8]) -> Result<Self, serde_json::Error> {
        let view: CapacityView = serde_json::from_slice(json)?;
        let parse = |amount: Amount| Quantity::parse(&amount.0).ok();
        Ok(Self {
            class: view.storage_class_name.into(),
            nodes: view.node_topology,
            limit: view.maximum_volume_size.or(view.capacity).and_then(parse),
        })
    }
}

impl AttachmentRecord {
    /// Reads an attachment from its JSON; none where it is of no PersistentVolume.
    ///
    /// # Errors
    /// When a field has another type than the API says.
    pub fn read(json: &[u8]) -> Result<Option<Self>, serde_json::Error> {
        let AttachmentView { spec } = serde_json::from_slice(json)?;
        let record = Self {
            attacher: spec.attacher.into(),
            node: spec.node_name.into(),
            volume: spec.source.persistent_volume_name.into(),
        };
        Ok((!record.attacher.is_empty() && !record.volume.is_empty()).then_some(record))
    }
}

/// Reads how many volumes a node takes of each driver, from a CSINode's JSON.
///
/// # Errors
/// When a field has another type than the API says.
pub fn read_limits(json: &[u8]) -> Result<Limits, serde_json::Error> {
    let view: CsiNodeView = serde_json::from_slice(json)?;
    let drivers = view.spec.drivers.into_iter();
    Ok(drivers.map(|driver| (driver.name.into(), driver.allocatable.count)).collect())
}

/// Reads whether a CSIDriver tells its capacity, from its JSON.
///
/// # Errors
/// When a field has another type than the API says.
pub fn read_tells_capacity(json: &[u8]) -> Result<bool, serde_json::Error> {
    let view: CsiDriverView = serde_json::from_slice(json)?;
    Ok(view.spec.storage_capacity)
}
