//! Persistent volumes and claims, storage classes and what CSI drivers tell of themselves
//! (pkg/apis/core/validation, pkg/apis/storage/validation).
//!
//! Invariant: sources of volumes are checked where pods have them too; here is only what differs.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use super::affinity;
use super::container::label_key;
use super::diff;
use super::errors::Errors;
use super::metadata;
use super::names;
use super::node::{IMMUTABLE, NEGATIVE, Node, same};
use super::resources;
use super::seen::Seen;
use super::show;
use super::volume::{self, Source, needs};

/// The annotation that named a claim's class before there was a field.
const CLASS: &str = "volume.beta.kubernetes.io/storage-class";
const ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

/// Sources of a persistent volume, in upstream's order.
pub(super) const SOURCES: &[Source] = &[
    ("hostPath", "hostPath", "hostPath", volume::host_path),
    ("gcePersistentDisk", "persistentDisk", "gcePersistentDisk", volume::gce_disk),
    (
        "awsElasticBlockStore",
        "awsElasticBlockStore",
        "awsElasticBlockStore",
        volume::aws_disk,
    ),
    ("glusterfs", "glusterfs", "glusterfs", glusterfs),
    ("flocker", "flocker", "flocker", volume::flocker),
    ("nfs", "nfs", "nfs", volume::nfs),
    ("rbd", "rbd", "rbd", volume::rbd),
    ("quobyte", "quobyte", "quobyte", volume::quobyte),
    ("cephfs", "cephfs", "cephFS", volume::cephfs),
    ("iscsi", "iscsi", "iscsi", |_, _| ()),
    ("cinder", "cinder", "cinder", volume::cinder_persistent),
    ("fc", "fc", "fc", volume::fibre_channel),
    ("flexVolume", "flexVolume", "flexVolume", volume::flex),
    ("azureFile", "azureFile", "azureFile", azure_file),
    ("vsphereVolume", "vsphereVolume", "vsphereVolume", |e, n| {
        needs(e, n, &["volumePath"])
    }),
    (
        "photonPersistentDisk",
        "photonPersistentDisk",
        "photonPersistentDisk",
        |e, n| needs(e, n, &["pdID"]),
    ),
    ("portworxVolume", "portworxVolume", "portworxVolume", |e, n| {
        needs(e, n, &["volumeID"])
    }),
    ("azureDisk", "azureDisk", "azureDisk", volume::azure_disk),
    ("scaleIO", "scaleIO", "scaleIO", |e, n| {
        needs(e, n, &["gateway", "system", "volumeName"])
    }),
    ("local", "local", "local", local),
    ("storageos", "storageos", "storageos", |e, n| volume::storage_os(e, n, true)),
    ("csi", "csi", "csi", csi),
];

fn glusterfs(errors: &mut Errors, node: &Node<'_>) {
    needs(errors, node, &["endpoints", "path"]);
    let namespace = node.at("endpointsNamespace");
    if namespace.set() {
        if namespace.is_empty() {
            errors.push(namespace.bad("if the endpointnamespace is set, it must be a valid namespace name"));
        } else {
            namespace.each(errors, names::label(namespace.str()));
        }
    }
}

fn azure_file(errors: &mut Errors, node: &Node<'_>) {
    needs(errors, node, &["secretName", "shareName"]);
    if node.has("secretNamespace") {
        node.need(errors, "secretNamespace");
    }
}

fn local(errors: &mut Errors, node: &Node<'_>) {
    let path = node.at("path");
    if path.is_empty() {
        errors.push(path.required(""));
    } else {
        volume::no_backsteps(errors, &path);
    }
}

fn csi(errors: &mut Errors, node: &Node<'_>) {
    volume::driver_name(errors, &node.at("driver"));
    node.need(errors, "volumeHandle");
    for name in [
        "controllerPublishSecretRef",
        "controllerExpandSecretRef",
        "nodePublishSecretRef",
        "nodeExpandSecretRef",
    ] {
        let secret = node.at(name);
        if !secret.set() {
            continue;
        }
        for (name, rule) in [("name", names::subdomain as names::NameRule), ("namespace", names::label)] {
            let text = secret.at(name);
            if text.is_empty() {
                errors.push(text.required(""));
            } else {
                text.each(errors, rule(text.str()));
            }
        }
    }
}

fn access_modes(errors: &mut Errors, node: &Node<'_>) {
    let modes = node.strings();
    for mode in &modes {
        if !ACCESS_MODES.contains(mode) {
            errors.push(node.unsupported_as(show::quoted(mode), ACCESS_MODES));
        }
    }
    let others = modes
        .iter()
        .any(|mode| *mode != "ReadWriteOncePod" && ACCESS_MODES.contains(mode));
    if modes.contains(&"ReadWriteOncePod") && others {
        errors.push(node.forbidden("may not use ReadWriteOncePod with other access modes"));
    }
}

/// Specification of a persistent volume; `inline` is the one inside an attachment.
fn volume_spec(errors: &mut Errors, node: &Node<'_>, name: &str, inline: bool) {
    const INLINE: &str = "may not be specified in the context of inline volumes";
    let (capacity, modes) = (node.at("capacity"), node.at("accessModes"));
    if inline {
        if node.has("claimRef") {
            errors.push(node.at("claimRef").forbidden(INLINE));
        }
        if !capacity.is_empty() {
            errors.push(capacity.forbidden(INLINE));
        }
        if !node.has("csi") {
            errors.push(
                node.at("csi")
                    .required("has to be specified in the context of inline volumes"),
            );
        }
    }
    if modes.is_empty() {
        errors.push(modes.required(""));
    }
    access_modes(errors, &modes);
    if !inline {
        if capacity.is_empty() {
            errors.push(capacity.required(""));
        }
        if !capacity.has("storage") || capacity.len() > 1 {
            errors.push(capacity.unsupported_as(show::json(capacity.value), &["storage"]));
        }
        for (_, amount) in capacity.entries() {
            basic(errors, &amount);
            if amount.quantity().sign() <= 0 {
                errors.push(amount.bad_quantity("must be greater than zero"));
            }
        }
    }
    let reclaim = node.at("persistentVolumeReclaimPolicy");
    if !reclaim.is_empty() {
        if !inline {
            reclaim.one_of(errors, &["Delete", "Recycle", "Retain"]);
        } else if reclaim.str() != "Retain" {
            errors.push(reclaim.forbidden("may only be Retain in the context of inline volumes"));
        }
    }
    let affinity = node.at("nodeAffinity");
    if affinity.set() {
        if inline {
            errors.push(affinity.forbidden(INLINE));
        } else if affinity.has("required") {
            affinity::node_selector(errors, &affinity.at("required"));
        } else {
            errors.push(affinity.at("required").required("must specify required node constraints"));
        }
    }
    source(errors, node, name);
    let path = node.get("hostPath.path").str();
    let at_root = path.starts_with('/') && path.split('/').all(|part| matches!(part, "" | "." | ".."));
    if node.has("hostPath") && at_root && reclaim.str() == "Recycle" {
        errors.push(reclaim.forbidden("may not be 'recycle' for a hostPath mount of '/'"));
    }
    let class = node.at("storageClassName");
    if !class.is_empty() {
        if inline {
            errors.push(class.forbidden(INLINE));
        } else {
            class.each(errors, names::subdomain(class.str()));
        }
    }
    let mode = node.at("volumeMode");
    if mode.set() {
        if !inline {
            mode.one_of(errors, &["Block", "Filesystem"]);
        } else if mode.str() != "Filesystem" {
            errors.push(mode.forbidden("may not specify volumeMode other than Filesystem in the context of inline volumes"));
        }
    }
    let attributes = node.at("volumeAttributesClassName");
    if attributes.set() && !inline {
        if attributes.is_empty() {
            errors.push(attributes.required("an empty string is disallowed"));
        } else {
            attributes.each(errors, names::subdomain(attributes.str()));
        }
        if !node.has("csi") {
            errors.push(
                node.at("csi")
                    .required("has to be specified when using volumeAttributesClassName"),
            );
        }
    }
}

fn source(errors: &mut Errors, node: &Node<'_>, name: &str) {
    let mut seen = false;
    for (json, shown, extra, check) in SOURCES {
        if !node.has(json) {
            continue;
        }
        let this = node.at_as(json, shown);
        if seen && *json != "flexVolume" {
            errors.push(node.child(extra).forbidden("may not specify more than 1 volume type"));
            continue;
        }
        check(errors, &this);
        if *json == "iscsi" {
            volume::iscsi_persistent(errors, &this, name);
        }
        if *json == "local" && !node.has("nodeAffinity") {
            errors.push(node.child("nodeAffinity").required("Local volume requires node affinity"));
        }
        seen = true;
    }
    if !seen {
        errors.push(node.required("must specify a volume type"));
    }
}

fn basic(errors: &mut Errors, node: &Node<'_>) {
    let value = node.quantity().wrapped_value();
    if value < 0 {
        errors.push(node.invalid_as(value.to_string(), "must be a valid resource quantity"));
    }
}

/// A persistent volume.
pub(super) fn volume(errors: &mut Errors, root: &Node<'_>) {
    volume_spec(errors, &root.at("spec"), root.at("metadata").text("name"), false);
}

/// Specification of a claim.
pub(super) fn claim_spec(errors: &mut Errors, node: &Node<'_>) {
    let modes = node.at("accessModes");
    if modes.is_empty() {
        errors.push(modes.required("at least 1 access mode is required"));
    }
    metadata::selector(errors, &node.at("selector"));
    access_modes(errors, &modes);
    let amount = node
        .get("resources.requests.storage")
        .moved(node.at("resources").key("storage").path);
    if !amount.set() {
        errors.push(amount.required(""));
    } else if amount.quantity().sign() <= 0 {
        errors.push(amount.bad_quantity("must be greater than zero"));
    } else {
        resources::amount(errors, &amount, "storage");
    }
    let class = node.at("storageClassName");
    if !class.is_empty() {
        class.each(errors, names::subdomain(class.str()));
    }
    if node.has("volumeMode") {
        node.at("volumeMode").one_of(errors, &["Block", "Filesystem"]);
    }
    let (source, reference) = (node.at("dataSource"), node.at("dataSourceRef"));
    for place in [&source, &reference] {
        if place.set() {
            data_source(errors, place);
        }
    }
    // Upstream shows a path's private fields here: none.
    if !reference.text("namespace").is_empty() {
        if source.set() {
            errors.push(node.invalid_as("{}", "may not be specified when dataSourceRef.namespace is specified"));
        }
    } else if source.set() && reference.set() {
        let differs = ["apiGroup", "kind", "name"]
            .iter()
            .any(|name| source.at(name).value != reference.at(name).value);
        if differs {
            errors.push(node.invalid_as("{}", "must match dataSourceRef"));
        }
    }
    let attributes = node.at("volumeAttributesClassName");
    if !attributes.is_empty() {
        attributes.each(errors, names::subdomain(attributes.str()));
    }
}

fn data_source(errors: &mut Errors, node: &Node<'_>) {
    needs(errors, node, &["name", "kind"]);
    let group = node.at("apiGroup");
    if group.is_empty() && node.text("kind") != "PersistentVolumeClaim" {
        errors.push(node.bad_text(
            node.text("kind"),
            "must be 'PersistentVolumeClaim' when referencing the default apiGroup",
        ));
    }
    if !group.is_empty() {
        group.each(errors, names::subdomain(group.str()));
    }
    let namespace = node.at("namespace");
    if !namespace.is_empty() {
        namespace.each(errors, names::label(namespace.str()));
    }
}

/// The specification of a claim and the one before, `was`, with all that may change put back.
fn claim_parts(errors: &mut Errors, root: &Node<'_>, old: &Node<'_>, was: &Value, bound: bool) -> (Value, Value) {
    let (spec, before) = (root.at("spec"), old.at("spec"));
    let (mut new, mut was) = (spec.value.clone(), was.clone());
    if let (Some(new), Some(was)) = (new.as_object_mut(), was.as_object_mut()) {
        if before.text("volumeName").is_empty() {
            match new.get("volumeName").cloned() {
                Some(name) => drop(was.insert("volumeName".into(), name)),
                None => drop(was.remove("volumeName")),
            }
        }
        let annotation = |root: &Node<'_>| root.get("metadata.annotations").key(CLASS).str().to_owned();
        let (now, then) = (annotation(root), annotation(old));
        let class = spec.text("storageClassName");
        let from_annotation = !then.is_empty()
            && !before.has("storageClassName")
            && spec.has("storageClassName")
            && class == then
            && (now.is_empty() || now == then);
        if from_annotation {
            new.remove("storageClassName");
        } else {
            if now != then {
                errors.push(root.get("metadata").at("annotations").child(CLASS).bad_text(&now, IMMUTABLE));
            }
            if spec.has("storageClassName") && !before.has("storageClassName") && (then.is_empty() || class == then) {
                new.remove("storageClassName");
            }
        }
        if bound {
            if let Some(Value::Object(requests)) = new.get_mut("resources").and_then(|resources| resources.get_mut("requests")) {
                requests.insert("storage".into(), before.get("resources.requests.storage").value.clone());
            }
            match before.value.get("volumeAttributesClassName").cloned() {
                Some(name) => drop(new.insert("volumeAttributesClassName".into(), name)),
                None => drop(new.remove("volumeAttributesClassName")),
            }
        }
    }
    (new, was)
}

/// What may not change about a claim.
pub(super) fn claim_update(errors: &mut Errors, root: &Node<'_>, old: &Node<'_>) {
    claim_spec(errors, &root.at("spec"));
    let bound = root.at("status").text("phase") == "Bound";
    let (spec, before) = (root.at("spec"), old.at("spec"));
    let (new, was) = claim_parts(errors, root, old, before.value, bound);
    if new != was {
        let stored = diff::as_stored("api/core/v1", "PersistentVolumeClaimSpec", before.value);
        let (new, was) = claim_parts(&mut Errors::new(), root, old, &stored, bound);
        let text = diff::unified("api/core/v1", "PersistentVolumeClaimSpec", &was, &new);
        errors.push(spec.forbidden(format!(
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n{text}"
        )));
    }
    let size = spec.get("resources.requests.storage");
    if size.quantity() < before.get("resources.requests.storage").quantity()
        && size.quantity() <= old.get("status.capacity.storage").quantity()
    {
        errors.push(size.forbidden("field can not be less than status.capacity"));
    }
    spec.at("volumeMode")
        .moved("volumeMode")
        .immutable(errors, &before.at("volumeMode"));
    let (attributes, were) = (spec.at("volumeAttributesClassName"), before.at("volumeAttributesClassName"));
    if attributes.value != were.value && old.at("status").has("currentVolumeAttributesClassName") {
        if !attributes.set() {
            errors
                .push(attributes.forbidden("update to nil is forbidden when status.currentVolumeAttributesClassName is not nil"));
        } else if attributes.is_empty() {
            errors.push(
                attributes
                    .forbidden("update to empty string is forbidden when status.currentVolumeAttributesClassName is not nil"),
            );
        }
    }
}

/// Status of a claim.
pub(super) fn claim_status(errors: &mut Errors, root: &Node<'_>) {
    if root.get("spec.accessModes").is_empty() {
        errors.push(root.child("Spec").child("accessModes").required(""));
    }
    let status = root.at("status");
    for (_, amount) in status.at("capacity").entries() {
        basic(errors, &amount);
    }
    const PHASES: &[&str] = &[
        "ControllerResizeInProgress",
        "ControllerResizeInfeasible",
        "NodeResizeInProgress",
        "NodeResizeInfeasible",
        "NodeResizePending",
    ];
    let phases = status.at("allocatedResourceStatuses");
    for (name, phase) in phases.entries() {
        errors.extend(claim_resource(&phases, name));
        if !PHASES.contains(&phase.str()) {
            errors.push(phases.unsupported_as(show::quoted(name), PHASES));
        }
    }
    let allocated = status.at("allocatedResources");
    for (name, amount) in allocated.entries() {
        let problems = claim_resource(&allocated, name);
        if !problems.is_empty() {
            errors.extend(problems);
            continue;
        }
        let known = errors.len();
        basic(errors, &amount);
        if errors.len() == known {
            resources::amount(errors, &amount, "storage");
        }
    }
}

/// A name of a resource that a claim has: storage, or one of somebody else's.
fn claim_resource(list: &Node<'_>, name: &str) -> Vec<trireme_api::field::FieldError> {
    let messages = names::qualified(name);
    if messages.is_empty() && resources::is_native(name) && name != "storage" {
        return vec![list.unsupported_as(show::quoted(name), &["storage"])];
    }
    messages.into_iter().map(|message| list.bad_text(name, message)).collect()
}

fn provisioner(errors: &mut Errors, node: &Node<'_>) {
    if node.is_empty() {
        errors.push(node.required(""));
    } else {
        let lower = node.str().to_lowercase();
        errors.extend(
            names::qualified(&lower)
                .into_iter()
                .map(|message| node.bad_text(&lower, message)),
        );
    }
}

fn parameters(errors: &mut Errors, node: &Node<'_>, needed: bool) {
    if node.len() > 512 {
        errors.push(node.too_long(512));
        return;
    }
    let mut bytes = 0;
    for (key, value) in node.entries() {
        if key.is_empty() {
            errors.push(node.bad_text("", "field can not be empty."));
        }
        bytes += key.len() + value.len();
    }
    if bytes > 256 * 1024 {
        errors.push(node.too_long(256 * 1024));
    }
    if needed && node.is_empty() {
        errors.push(node.required("must contain at least one key/value pair"));
    }
}

/// Most problems with which topologies that stand twice are still told, once for each that they equal.
const DUPLICATES_MAX: usize = 10_000;

/// A storage class.
pub(super) fn class(errors: &mut Errors, root: &Node<'_>) {
    provisioner(errors, &root.at("provisioner"));
    parameters(errors, &root.at("parameters"), false);
    let reclaim = root.at("reclaimPolicy");
    if !reclaim.is_empty() {
        reclaim.one_of(errors, &["Delete", "Retain"]);
    }
    root.at("volumeBindingMode")
        .given_one_of(errors, &["Immediate", "WaitForFirstConsumer"]);
    let topologies = root.at("allowedTopologies");
    let mut earlier: HashMap<BTreeMap<&str, Vec<String>>, usize> = HashMap::new();
    for term in topologies.items() {
        let mut map: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for requirement in term.at("matchLabelExpressions").items() {
            let (key, values) = (requirement.at("key"), requirement.at("values"));
            if values.is_empty() {
                errors.push(values.required(""));
            }
            let mut seen: Seen<&str> = Seen::default();
            let mut distinct: Vec<String> = Vec::new();
            for value in values.items() {
                if seen.contains(&value.str()) {
                    errors.push(value.duplicate());
                } else {
                    seen.push(value.str());
                    distinct.push(value.str().to_owned());
                }
            }
            label_key(errors, &key);
            distinct.sort_unstable();
            if map.insert(key.str(), distinct).is_some() {
                errors.push(key.duplicate());
            }
        }
        // Upstream's list of earlier terms begins with as many empty ones as there are terms.
        let blank = if map.is_empty() { topologies.len() } else { 0 };
        let earlier = earlier.entry(map).or_insert(blank);
        let told = (*earlier).min(DUPLICATES_MAX.saturating_sub(errors.len()));
        let duplicate = term.child("matchLabelExpressions").duplicate_as("\"\"");
        errors.extend(std::iter::repeat_n(duplicate, told));
        *earlier += 1;
    }
}

/// What may not change about a storage class.
pub(super) fn class_update(errors: &mut Errors, root: &Node<'_>, old: &Node<'_>) {
    root.at("parameters").immutable(errors, &old.at("parameters"));
    root.at("provisioner").immutable_text(errors, &old.at("provisioner"));
    for name in ["reclaimPolicy", "volumeBindingMode"] {
        root.at(name).immutable(errors, &old.at(name));
    }
}

/// A volume attributes class.
pub(super) fn attributes_class(errors: &mut Errors, root: &Node<'_>) {
    provisioner(errors, &root.at("driverName"));
    parameters(errors, &root.at("parameters"), true);
}

/// What may not change about a volume attributes class.
pub(super) fn attributes_class_update(errors: &mut Errors, root: &Node<'_>, old: &Node<'_>) {
    for name in ["driverName", "parameters"] {
        if !same(root.at(name).value, old.at(name).value) {
            errors.push(root.at(name).forbidden(format!("updates to {name} are forbidden.")));
        }
    }
}

/// An attachment of a volume to a node.
pub(super) fn attachment(errors: &mut Errors, root: &Node<'_>) {
    const ONE: &str = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    let spec = root.at("spec");
    volume::driver_name(errors, &spec.at("attacher"));
    let source = spec.at("source");
    let (inline, name) = (source.at("inlineVolumeSpec"), source.at("persistentVolumeName"));
    match (inline.set(), name.set()) {
        (false, false) => errors.push(source.required(ONE)),
        (true, true) => errors.push(source.forbidden(ONE)),
        (false, true) if name.is_empty() => errors.push(name.required("must specify non empty persistentVolumeName")),
        (false, true) => {}
        (true, false) => volume_spec(errors, &inline, "", true),
    }
    let node = spec.at("nodeName");
    node.each(errors, names::subdomain(node.str()));
    let status = root.at("status");
    let metadata = status.at("attachmentMetadata");
    if metadata
        .entries()
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum::<usize>()
        > 256 * 1024
    {
        errors.push(metadata.too_long(256 * 1024));
    }
    for error in ["attachError", "detachError"] {
        let message = status.at(error).at("message");
        if message.len() > 1024 {
            errors.push(message.too_long(256 * 1024));
        }
    }
    if name.set() {
        name.each(errors, names::subdomain(name.str()));
    }
}

/// What a node says of its CSI drivers.
pub(super) fn csi_node(errors: &mut Errors, root: &Node<'_>) {
    let mut seen: Seen<&str> = Seen::default();
    for driver in root.get("spec.drivers").items() {
        let (name, id, count) = (driver.at("name"), driver.at("nodeID"), driver.get("allocatable.count"));
        volume::driver_name(errors, &name);
        if id.is_empty() {
            errors.push(id.required(""));
        }
        if id.len() > 256 {
            errors.push(id.bad("must be 256 characters or less"));
        }
        if count.int() < 0 {
            errors.push(count.bad_int(NEGATIVE));
        }
        if seen.contains(&name.str()) {
            errors.push(name.duplicate());
        }
        seen.push(name.str());
        let mut keys: Seen<&str> = Seen::default();
        for key in driver.at("topologyKeys").strings() {
            if key.is_empty() {
                errors.push(driver.required(""));
            }
            if keys.contains(&key) {
                errors.push(driver.duplicate_as(show::quoted(key)));
            }
            keys.push(key);
            metadata::label_name(errors, &driver, key);
        }
    }
}

/// What may not change about a node's CSI drivers.
pub(super) fn csi_node_update(errors: &mut Errors, root: &Node<'_>, old: &Node<'_>) {
    csi_node(errors, root);
    let drivers = root.get("spec.drivers");
    let mut named: HashMap<&str, Vec<Node<'_>>> = HashMap::new();
    for driver in drivers.items() {
        named.entry(driver.text("name")).or_default().push(driver);
    }
    for before in old.get("spec.drivers").items() {
        for now in named.get(before.text("name")).into_iter().flatten() {
            let plain = |node: &Node<'_>| {
                let mut value = node.value.clone();
                if let Some(fields) = value.as_object_mut() {
                    fields.remove("allocatable");
                }
                value
            };
            if !same(&plain(now), &plain(&before)) {
                let shown = show::internal("api/storage/v1", "CSINodeDriver", &plain(now));
                errors.push(drivers.invalid_as(shown, IMMUTABLE));
            }
        }
    }
}

/// A CSI driver.
pub(super) fn csi_driver(errors: &mut Errors, root: &Node<'_>) {
    let spec = root.at("spec");
    for (name, shown) in [
        ("attachRequired", "attachedRequired"),
        ("podInfoOnMount", "podInfoOnMount"),
        ("storageCapacity", "storageCapacity"),
    ] {
        if !spec.has(name) {
            errors.push(spec.child(shown).required(""));
        }
    }
    if spec.has("fsGroupPolicy") {
        spec.at("fsGroupPolicy")
            .one_of(errors, &["File", "None", "ReadWriteOnceWithFSType"]);
    }
    let mut audiences: Seen<&str> = Seen::default();
    for request in spec.at("tokenRequests").items() {
        let (audience, expiration) = (request.at("audience"), request.at("expirationSeconds"));
        if audiences.contains(&audience.str()) {
            errors.push(audience.duplicate_as(show::quoted(audience.str())));
            continue;
        }
        audiences.push(audience.str());
        if expiration.set() && expiration.int() < 600 {
            errors.push(expiration.bad_int("may not specify a duration less than 10 minutes"));
        }
        if expiration.int() > 1 << 32 {
            errors.push(expiration.bad_int("may not specify a duration larger than 2^32 seconds"));
        }
    }
    let modes = spec.at("volumeLifecycleModes");
    for mode in modes
        .strings()
        .into_iter()
        .filter(|mode| !matches!(*mode, "Persistent" | "Ephemeral"))
    {
        errors.push(modes.unsupported_as(show::quoted(mode), &["Persistent", "Ephemeral"]));
    }
    if !spec.has("seLinuxMount") {
        errors.push(spec.child("seLinuxMount").required(""));
    }
    let period = spec.at("nodeAllocatableUpdatePeriodSeconds");
    if period.set() && period.int() < 10 {
        errors.push(period.bad_int("must be greater than or equal to 10 seconds"));
    }
    let secrets = spec.at("serviceAccountTokenInSecrets");
    if secrets.set() && spec.at("tokenRequests").is_empty() {
        errors.push(secrets.invalid("serviceAccountTokenInSecrets is set but no tokenRequests are specified"));
    }
}

/// What may not change about a CSI driver.
pub(super) fn csi_driver_update(errors: &mut Errors, root: &Node<'_>, old: &Node<'_>) {
    csi_driver(errors, root);
    let (spec, before) = (root.at("spec"), old.at("spec"));
    spec.at_as("attachRequired", "attachedRequired")
        .immutable(errors, &before.at("attachRequired"));
    spec.at("volumeLifecycleModes")
        .immutable(errors, &before.at("volumeLifecycleModes"));
}

/// What a driver has left somewhere.
pub(super) fn capacity(errors: &mut Errors, root: &Node<'_>) {
    metadata::selector(errors, &root.at("nodeTopology"));
    let (class, left) = (root.at("storageClassName"), root.at("capacity"));
    class.each(errors, names::subdomain(class.str()));
    if left.set() && left.quantity().sign() < 0 {
        errors.push(left.bad_quantity(NEGATIVE));
    }
}

/// What may not change about it.
pub(super) fn capacity_update(errors: &mut Errors, root: &Node<'_>, old: &Node<'_>) {
    let (topology, class) = (root.at("nodeTopology"), root.at("storageClassName"));
    if !same(topology.value, old.at("nodeTopology").value) {
        errors.push(topology.invalid_as(show::selector(topology.value), IMMUTABLE));
    }
    if class.str() != old.text("storageClassName") {
        errors.push(class.bad(IMMUTABLE));
    }
}
