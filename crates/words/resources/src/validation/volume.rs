//! Volumes of pods and the sources that persistent volumes share with them (pkg/apis/core/validation).
//!
//! Invariant: sources are looked at in upstream's order; the second one that is set is told, not looked into.

use std::collections::HashSet;

use super::errors::Errors;
use super::metadata;
use super::names;
use super::node::Node;
use super::seen::Seen;
use super::{resources, show, storage};

/// What checks one source: the errors, the source.
type Check = fn(&mut Errors, &Node<'_>);

/// Name in JSON, name in the path of the source's own problems, name where it is one too many, check.
pub(super) type Source = (&'static str, &'static str, &'static str, Check);

const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";

/// Sources of a pod's volume, in upstream's order.
const SOURCES: &[Source] = &[
    ("emptyDir", "emptyDir", "emptyDir", empty_dir),
    ("hostPath", "hostPath", "hostPath", host_path),
    ("gitRepo", "gitRepo", "gitRepo", git_repo),
    ("gcePersistentDisk", "persistentDisk", "gcePersistentDisk", gce_disk),
    (
        "awsElasticBlockStore",
        "awsElasticBlockStore",
        "awsElasticBlockStore",
        aws_disk,
    ),
    ("secret", "secret", "secret", secret),
    ("nfs", "nfs", "nfs", nfs),
    ("iscsi", "iscsi", "iscsi", iscsi),
    ("glusterfs", "glusterfs", "glusterfs", |e, n| {
        needs(e, n, &["endpoints", "path"])
    }),
    ("flocker", "flocker", "flocker", flocker),
    (
        "persistentVolumeClaim",
        "persistentVolumeClaim",
        "persistentVolumeClaim",
        |e, n| needs(e, n, &["claimName"]),
    ),
    ("rbd", "rbd", "rbd", rbd),
    ("cinder", "cinder", "cinder", cinder),
    ("cephfs", "cephfs", "cephFS", cephfs),
    ("quobyte", "quobyte", "quobyte", quobyte),
    ("downwardAPI", "downwardAPI", "downwarAPI", downward),
    ("fc", "fc", "fc", fibre_channel),
    ("flexVolume", "flexVolume", "flexVolume", flex),
    ("configMap", "configMap", "configMap", config_map),
    ("azureFile", "azureFile", "azureFile", |e, n| {
        needs(e, n, &["secretName", "shareName"])
    }),
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
    ("azureDisk", "azureDisk", "azureDisk", azure_disk),
    ("storageos", "storageos", "storageos", |e, n| storage_os(e, n, false)),
    ("projected", "projected", "projected", projected),
    ("scaleIO", "scaleIO", "scaleIO", |e, n| {
        needs(e, n, &["gateway", "system", "volumeName"])
    }),
    ("csi", "csi", "csi", csi),
    ("ephemeral", "ephemeral", "ephemeral", ephemeral),
    ("image", "image", "image", image),
];

/// The volumes of a pod; returns those that are in order. `name` is the pod's, empty in a template.
pub(super) fn volumes<'a>(errors: &mut Errors, node: &Node<'a>, name: &str, is_pod: bool) -> Vec<Node<'a>> {
    let mut good: Vec<Node<'a>> = Vec::new();
    let mut seen: Seen<&str> = Seen::default();
    let created: HashSet<String> = node
        .items()
        .iter()
        .filter(|volume| !name.is_empty() && volume.has("ephemeral"))
        .map(|volume| format!("{name}-{}", volume.text("name")))
        .collect();
    for volume in node.items() {
        let mut found = Errors::new();
        source(&mut found, &volume, name, is_pod);
        let called = volume.at("name");
        if called.is_empty() {
            found.push(called.required(""));
        } else {
            called.each(&mut found, names::label(called.str()));
        }
        if seen.contains(&called.str()) {
            found.push(called.duplicate());
        }
        if found.is_empty() {
            seen.push(called.str());
            good.push(volume.clone());
        }
        errors.extend(found);
        let claim = volume.get("persistentVolumeClaim.claimName");
        if volume.has("persistentVolumeClaim") && created.contains(claim.str()) {
            errors.push(claim.bad("must not reference a PVC that gets created for an ephemeral volume"));
        }
    }
    good
}

fn source(errors: &mut Errors, volume: &Node<'_>, pod: &str, is_pod: bool) {
    let mut seen = false;
    for (json, shown, extra, check) in SOURCES {
        if !volume.has(json) {
            continue;
        }
        let this = volume.at_as(json, shown);
        if seen && *json != "emptyDir" {
            errors.push(volume.child(extra).forbidden("may not specify more than 1 volume type"));
        } else if *json == "image" && is_pod && this.text("reference").is_empty() {
            errors.push(this.at("reference").required(""));
            check(errors, &this);
        } else {
            check(errors, &this);
            if *json == "ephemeral" && !pod.is_empty() && !volume.text("name").is_empty() {
                let claim = format!("{pod}-{}", volume.text("name"));
                let name = volume.at("name");
                for message in names::subdomain(&claim) {
                    errors.push(name.bad(format!("PVC name {}: {message}", show::quoted(&claim))));
                }
            }
        }
        if *json == "iscsi" {
            let length = volume.text("name").len() + 1 + this.text("targetPortal").len();
            if this.has("initiatorName") && length > 64 {
                errors.push(volume.at("name").bad(LONG_TARGET));
            }
        }
        seen = true;
    }
    if !seen {
        errors.push(volume.required("must specify a volume type"));
    }
}

const LONG_TARGET: &str =
    "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";

/// Members that must not be empty.
pub(super) fn needs(errors: &mut Errors, node: &Node<'_>, names: &[&str]) {
    for name in names {
        node.need(errors, name);
    }
}

fn empty_dir(errors: &mut Errors, node: &Node<'_>) {
    let limit = node.at("sizeLimit");
    if limit.set() && limit.quantity().sign() < 0 {
        errors.push(limit.forbidden("SizeLimit field must be a valid resource quantity"));
    }
}

pub(super) fn host_path(errors: &mut Errors, node: &Node<'_>) {
    let path = node.at("path");
    if path.is_empty() {
        errors.push(path.required(""));
        return;
    }
    no_backsteps(errors, &path);
    let kinds = [
        "",
        "BlockDevice",
        "CharDevice",
        "Directory",
        "DirectoryOrCreate",
        "File",
        "FileOrCreate",
        "Socket",
    ];
    if node.has("type") {
        node.at("type").one_of(errors, &kinds);
    }
}

fn git_repo(errors: &mut Errors, node: &Node<'_>) {
    node.need(errors, "repository");
    descending(errors, &node.at("directory"));
}

fn partition(errors: &mut Errors, node: &Node<'_>) {
    let partition = node.at("partition");
    if !(0..=255).contains(&partition.int()) {
        errors.push(partition.bad_int("must be between 1 and 255, inclusive"));
    }
}

pub(super) fn gce_disk(errors: &mut Errors, node: &Node<'_>) {
    node.need(errors, "pdName");
    partition(errors, node);
}

pub(super) fn aws_disk(errors: &mut Errors, node: &Node<'_>) {
    node.need(errors, "volumeID");
    partition(errors, node);
}

fn mode(errors: &mut Errors, node: &Node<'_>) {
    if !(0..=0o777).contains(&node.int()) {
        errors.push(node.bad_int(MODE));
    }
}

fn secret(errors: &mut Errors, node: &Node<'_>) {
    node.need(errors, "secretName");
    mode(errors, &node.at("defaultMode"));
    for item in node.at("items").items() {
        key_to_path(errors, &item);
    }
}

fn config_map(errors: &mut Errors, node: &Node<'_>) {
    node.need(errors, "name");
    mode(errors, &node.at("defaultMode"));
    for item in node.at("items").items() {
        key_to_path(errors, &item);
    }
}

fn key_to_path(errors: &mut Errors, node: &Node<'_>) {
    needs(errors, node, &["key", "path"]);
    local_path(errors, &node.at("path"));
    mode(errors, &node.at("mode"));
}

pub(super) fn nfs(errors: &mut Errors, node: &Node<'_>) {
    needs(errors, node, &["server", "path"]);
    if !node.text("path").starts_with('/') {
        errors.push(node.at("path").bad("must be an absolute path"));
    }
}

fn initiator(text: &str) -> bool {
    let alphanumeric = |text: &str, length| text.len() == length && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if let Some(at) = text.find("iqn.") {
        let rest = &text[at + 4..];
        let digits = |text: Option<&str>| text.is_some_and(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        return digits(rest.get(0..4))
            && rest.get(4..5) == Some("-")
            && digits(rest.get(5..7))
            && rest.get(7..8) == Some(".")
            && rest
                .get(8..)
                .and_then(|rest| rest.split_once(':'))
                .is_some_and(|(name, tail)| {
                    !name.is_empty()
                        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte))
                        && !tail.is_empty()
                        && !tail.chars().any(|letter| letter.is_whitespace() || ",;*&$|".contains(letter))
                });
    }
    (text.starts_with("eui") && text.len() == 20 && alphanumeric(&text[4..], 16))
        || (text.starts_with("naa") && text.len() == 36 && alphanumeric(&text[4..], 32))
}

fn iscsi_names(errors: &mut Errors, node: &Node<'_>, prefix: &str) {
    let known = |text: &str| ["iqn", "eui", "naa"].iter().any(|known| text.starts_with(known));
    let iqn = node.at("iqn");
    if iqn.is_empty() {
        errors.push(iqn.required(""));
    } else if !known(iqn.str()) {
        errors.push(iqn.bad(prefix));
    } else if !initiator(iqn.str()) {
        errors.push(iqn.bad("must be valid format"));
    }
    let lun = node.at("lun");
    if !(0..=255).contains(&lun.int()) {
        errors.push(lun.bad_int("must be between 0 and 255, inclusive"));
    }
    if (node.is("chapAuthDiscovery") || node.is("chapAuthSession")) && !node.has("secretRef") {
        errors.push(node.at("secretRef").required(""));
    }
}

fn initiator_name(errors: &mut Errors, node: &Node<'_>, prefix: &str) {
    let name = node.at_as("initiatorName", "initiatorname");
    if !name.set() {
        return;
    }
    let known = ["iqn", "eui", "naa"].iter().any(|known| name.str().starts_with(known));
    if !known {
        errors.push(name.bad(prefix));
    } else if !initiator(name.str()) {
        errors.push(name.bad("must be valid format"));
    }
}

fn iscsi(errors: &mut Errors, node: &Node<'_>) {
    const PREFIX: &str = "must be valid format starting with iqn, eui, or naa";
    node.need(errors, "targetPortal");
    iscsi_names(errors, node, PREFIX);
    initiator_name(errors, node, PREFIX);
}

/// The source as a persistent volume has it.
pub(super) fn iscsi_persistent(errors: &mut Errors, node: &Node<'_>, volume: &str) {
    node.need(errors, "targetPortal");
    let portal = node.at_as("targetPortal", "targetportal");
    if node.has("initiatorName") && volume.len() + 1 + portal.len() > 64 {
        errors.push(portal.bad(LONG_TARGET));
    }
    iscsi_names(errors, node, "must be valid format");
    if node.has("secretRef") {
        node.at("secretRef").need(errors, "name");
    }
    initiator_name(errors, node, "must be valid format");
}

pub(super) fn flocker(errors: &mut Errors, node: &Node<'_>) {
    let (name, uuid) = (node.text("datasetName"), node.text("datasetUUID"));
    if name.is_empty() && uuid.is_empty() {
        errors.push(node.required("one of datasetName and datasetUUID is required"));
    }
    if !name.is_empty() && !uuid.is_empty() {
        errors.push(node.bad_text("resource", "datasetName and datasetUUID can not be specified simultaneously"));
    }
    if name.contains('/') {
        errors.push(node.at("datasetName").bad("must not contain '/'"));
    }
}

fn need_list(errors: &mut Errors, node: &Node<'_>, name: &str) {
    if node.at(name).is_empty() {
        errors.push(node.at(name).required(""));
    }
}

pub(super) fn rbd(errors: &mut Errors, node: &Node<'_>) {
    need_list(errors, node, "monitors");
    node.need(errors, "image");
}

pub(super) fn cephfs(errors: &mut Errors, node: &Node<'_>) {
    need_list(errors, node, "monitors");
}

fn cinder(errors: &mut Errors, node: &Node<'_>) {
    node.need(errors, "volumeID");
    if node.has("secretRef") {
        node.at("secretRef").need(errors, "name");
    }
}

pub(super) fn cinder_persistent(errors: &mut Errors, node: &Node<'_>) {
    cinder(errors, node);
    if node.has("secretRef") {
        node.at("secretRef").need(errors, "namespace");
    }
}

pub(super) fn quobyte(errors: &mut Errors, node: &Node<'_>) {
    const PAIRS: &str = "must be a host:port pair or multiple pairs separated by commas";
    let registry = node.at("registry");
    if registry.is_empty() {
        errors.push(registry.required(PAIRS));
    } else if node.text("tenant").len() >= 65 {
        errors.push(
            node.at("tenant")
                .required("must be a UUID and may not exceed a length of 64 characters"),
        );
    } else {
        for pair in registry.str().split(',') {
            if pair.matches(':').count() != 1 {
                errors.push(registry.bad(PAIRS));
            }
        }
    }
    node.need(errors, "volume");
}

pub(super) fn fibre_channel(errors: &mut Errors, node: &Node<'_>) {
    let (names, ids) = (node.at("targetWWNs"), node.at("wwids"));
    if names.is_empty() && ids.is_empty() {
        errors.push(names.required("must specify either targetWWNs or wwids, but not both"));
    }
    if !names.is_empty() && !ids.is_empty() {
        errors.push(names.invalid("targetWWNs and wwids can not be specified simultaneously"));
    }
    let lun = node.at("lun");
    if !names.is_empty() {
        if !lun.set() {
            errors.push(lun.required("lun is required if targetWWNs is specified"));
        } else if !(0..=255).contains(&lun.int()) {
            errors.push(lun.bad_int("must be between 0 and 255, inclusive"));
        }
    }
}

pub(super) fn flex(errors: &mut Errors, node: &Node<'_>) {
    node.need(errors, "driver");
    for (key, option) in node.at("options").entries() {
        let domain = format!(".{}", key.split('/').next().unwrap_or_default().to_lowercase());
        if domain.ends_with(".kubernetes.io") || domain.ends_with(".k8s.io") {
            errors.push(option.bad_text(key, "kubernetes.io and k8s.io namespaces are reserved"));
        }
    }
}

pub(super) fn azure_disk(errors: &mut Errors, node: &Node<'_>) {
    needs(errors, node, &["diskName", "diskURI"]);
    if node.has("cachingMode") {
        node.at("cachingMode").one_of(errors, &["None", "ReadOnly", "ReadWrite"]);
    }
    let kind = node.at("kind");
    if !kind.set() {
        return;
    }
    kind.one_of(errors, &["Dedicated", "Managed", "Shared"]);
    let uri = node.at("diskURI");
    if kind.str() == "Managed" && !uri.str().starts_with("/subscriptions/") {
        errors.push(
            uri.unsupported(&["/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"]),
        );
    }
    if kind.str() != "Managed" && !uri.str().starts_with("https://") {
        errors.push(uri.unsupported(&["https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"]));
    }
}

pub(super) fn storage_os(errors: &mut Errors, node: &Node<'_>, persistent: bool) {
    let (name, namespace) = (node.at("volumeName"), node.at("volumeNamespace"));
    if name.is_empty() {
        errors.push(name.required(""));
    } else {
        name.each(errors, names::label(name.str()));
    }
    if !namespace.is_empty() {
        namespace.each(errors, names::label(namespace.str()));
    }
    if node.has("secretRef") {
        needs(
            errors,
            &node.at("secretRef"),
            if persistent { &["name", "namespace"] } else { &["name"] },
        );
    }
}

/// Name of a CSI driver.
pub(super) fn driver_name(errors: &mut Errors, node: &Node<'_>) {
    if node.is_empty() {
        errors.push(node.required(""));
        return;
    }
    if node.len() > 63 {
        errors.push(node.too_long(63));
    }
    node.each(errors, names::subdomain(&node.str().to_lowercase()));
}

fn csi(errors: &mut Errors, node: &Node<'_>) {
    driver_name(errors, &node.at("driver"));
    let secret = node.at("nodePublishSecretRef");
    if secret.set() {
        if secret.text("name").is_empty() {
            errors.push(secret.at("name").required(""));
        } else {
            let name = secret.at("name");
            name.moved(node.child("name").path).each(errors, names::subdomain(name.str()));
        }
    }
}

fn ephemeral(errors: &mut Errors, node: &Node<'_>) {
    let template = node.at("volumeClaimTemplate");
    if !template.set() {
        errors.push(template.required(""));
        return;
    }
    template_metadata(errors, &template.at("metadata"));
    storage::claim_spec(errors, &template.at("spec"));
}

/// Metadata of a template that may only hold labels and annotations.
pub(super) fn template_metadata(errors: &mut Errors, meta: &Node<'_>) {
    metadata::annotations(errors, &meta.at("annotations"));
    metadata::labels(errors, &meta.at("labels"));
    let others = [
        "name",
        "generateName",
        "namespace",
        "selfLink",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "ownerReferences",
        "finalizers",
        "managedFields",
    ];
    for name in others {
        if meta.has(name) {
            let shown = if name == "uid" { "uID" } else { name };
            errors.push(meta.child(shown).forbidden("cannot be set"));
        }
    }
}

fn image(errors: &mut Errors, node: &Node<'_>) {
    node.at("pullPolicy")
        .need_one_of(errors, &["Always", "IfNotPresent", "Never"]);
}

fn downward(errors: &mut Errors, node: &Node<'_>) {
    mode(errors, &node.at("defaultMode"));
    for item in node.at("items").items() {
        // Upstream tells all files at the volume's own path.
        downward_file(errors, &item.moved(node.path.clone()));
    }
}

const DOWNWARD_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];

fn downward_file(errors: &mut Errors, node: &Node<'_>) {
    node.need(errors, "path");
    local_path(errors, &node.at("path"));
    if node.has("fieldRef") {
        resources::field_ref(errors, &node.at("fieldRef"), DOWNWARD_FIELDS);
        if node.has("resourceFieldRef") {
            errors.push(node.bad_text(
                "resource",
                "fieldRef and resourceFieldRef can not be specified simultaneously",
            ));
        }
    } else if node.has("resourceFieldRef") {
        resources::resource_ref(errors, &node.at("resourceFieldRef"), true);
    } else {
        errors.push(node.required("one of fieldRef and resourceFieldRef is required"));
    }
    mode(errors, &node.at("mode"));
}

fn once<'a>(errors: &mut Errors, node: &Node<'_>, paths: &mut Seen<&'a str>, path: &'a str, shown: &str) {
    if paths.contains(&path) {
        errors.push(node.bad_text(shown, "conflicting duplicate paths"));
    } else {
        paths.push(path);
    }
}

fn projected(errors: &mut Errors, node: &Node<'_>) {
    mode(errors, &node.at("defaultMode"));
    let mut paths: Seen<&str> = Seen::default();
    for source in node.at("sources").items() {
        let mut count = 0;
        for name in ["secret", "configMap"] {
            let this = source.at(name);
            if !this.set() {
                continue;
            }
            count += 1;
            this.need(errors, "name");
            for item in this.at("items").items() {
                key_to_path(errors, &item);
                if !item.text("path").is_empty() {
                    once(errors, node, &mut paths, item.text("path"), this.text("name"));
                }
            }
        }
        let downward = source.at("downwardAPI");
        if downward.set() {
            count += 1;
            for item in downward.at("items").items() {
                downward_file(errors, &item.moved(downward.path.clone()));
                if !item.text("path").is_empty() {
                    once(errors, node, &mut paths, item.text("path"), item.text("path"));
                }
            }
        }
        let token = source.at("serviceAccountToken");
        if token.set() {
            count += 1;
            let expiration = token.at("expirationSeconds");
            if expiration.int() < 600 {
                errors.push(expiration.bad_int("may not specify a duration less than 10 minutes"));
            }
            if expiration.int() > 1 << 32 {
                errors.push(expiration.bad_int("may not specify a duration larger than 2^32 seconds"));
            }
            let path = token.at("path").moved(node.child("path").path);
            if path.is_empty() {
                errors.push(path.required(""));
            } else {
                local_path(errors, &path);
            }
        }
        let bundle = source.at("clusterTrustBundle");
        if bundle.set() {
            count += 1;
            trust_bundle(errors, &bundle);
            local_path(errors, &bundle.at("path"));
            once(errors, node, &mut paths, bundle.text("path"), bundle.text("path"));
        }
        if source.has("podCertificate") {
            count += 1;
            pod_certificate(errors, node, &source.at("podCertificate"), &mut paths);
        }
        if count > 1 {
            errors.push(source.forbidden("may not specify more than 1 volume type per source"));
        }
    }
}

fn trust_bundle(errors: &mut Errors, node: &Node<'_>) {
    let (name, signer, selector) = (node.at("name"), node.at("signerName"), node.at("labelSelector"));
    match (name.set(), signer.set()) {
        (true, true) => errors.push(node.bad_struct(
            "api/core/v1",
            "ClusterTrustBundleProjection",
            "only one of name and signerName may be used",
        )),
        (true, false) => {
            if name.is_empty() {
                errors.push(name.required("must be a valid object name"));
            }
            let plain = name.str().rsplit(':').next().unwrap_or_default();
            for message in names::subdomain(plain) {
                errors.push(name.bad(format!("not a valid clustertrustbundlename: {message}")));
            }
            if selector.set() {
                errors.push(selector.invalid_as(
                    show::selector(selector.value),
                    "labelSelector must be unset if name is specified",
                ));
            }
        }
        (false, true) => {
            if signer.is_empty() {
                errors.push(signer.required("must be a valid signer name"));
            }
            signer_name(errors, &signer);
            metadata::selector(errors, &selector);
        }
        (false, false) => errors.push(node.required("either name or signerName must be specified")),
    }
    node.need(errors, "path");
}

fn pod_certificate<'a>(errors: &mut Errors, volume: &Node<'_>, node: &Node<'a>, paths: &mut Seen<&'a str>) {
    signer_name(errors, &node.at("signerName"));
    node.at("keyType").one_of(
        errors,
        &["RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"],
    );
    let longest = node.at("maxExpirationSeconds");
    if longest.set() {
        if longest.int() < 3600 {
            errors.push(longest.bad_int("if provided, maxExpirationSeconds must be >= 3600"));
        }
        let host = node.text("signerName").split('/').next().unwrap_or_default();
        let most = if host == "kubernetes.io" || host.ends_with(".kubernetes.io") {
            86400
        } else {
            91 * 86400
        };
        if longest.int() > most {
            errors.push(longest.bad_int(format!("if provided, maxExpirationSeconds must be <= {most}")));
        }
    }
    let mut count = 0;
    for name in ["credentialBundlePath", "keyPath", "certificateChainPath"] {
        let path = node.at(name);
        if !path.is_empty() {
            count += 1;
            local_path(errors, &path);
            once(errors, volume, paths, path.str(), path.str());
        }
    }
    if count == 0 {
        errors.push(node.required("specify at least one of credentialBundlePath, keyPath, and certificateChainPath"));
    }
}

/// Name of a certificate signer: a domain and a path.
pub(super) fn signer_name(errors: &mut Errors, node: &Node<'_>) {
    if node.is_empty() {
        errors.push(node.required(""));
        return;
    }
    let parts: Vec<&str> = node.str().split('/').collect();
    let [domain, path] = parts[..] else {
        errors.push(node.bad("must be a fully qualified domain and path of the form 'example.com/signer-name'"));
        return;
    };
    if domain.len() > 253 {
        errors.push(node.too_long(253));
    }
    if let Some(part) = domain.split('.').find(|part| !names::label(part).is_empty()) {
        for message in names::label(part) {
            errors.push(node.bad_text(domain, format!("validating label {}: {message}", show::quoted(part))));
        }
    }
    if !domain.contains('.') {
        errors.push(node.bad_text(domain, "should be a domain with at least two segments separated by dots"));
    }
    if let Some(part) = path.split('.').find(|part| !names::subdomain(part).is_empty()) {
        for message in names::subdomain(part) {
            errors.push(node.bad_text(path, format!("validating label {}: {message}", show::quoted(part))));
        }
    }
    if node.len() > 571 {
        errors.push(node.too_long(571));
    }
}

/// A path that does not leave its directory upwards.
pub(super) fn no_backsteps(errors: &mut Errors, node: &Node<'_>) {
    if node.str().split('/').any(|part| part == "..") {
        errors.push(node.bad("must not contain '..'"));
    }
}

/// A relative path without steps upwards.
pub(super) fn descending(errors: &mut Errors, node: &Node<'_>) {
    if node.str().starts_with('/') {
        errors.push(node.bad("must be a relative path"));
    }
    no_backsteps(errors, node);
}

fn local_path(errors: &mut Errors, node: &Node<'_>) {
    descending(errors, node);
    if node.str().starts_with("..") && !node.str().starts_with("../") {
        errors.push(node.bad("must not start with '..'"));
    }
}
