//! The table of references against the field table, and a pod that refers wherever a pod can.

use std::collections::BTreeSet;

use serde_json::json;

use super::*;

/// Fields of a pod whose path sounds like a reference and that are none: the end of the path and why.
const NO_REFERENCES: &[(&str, &str)] = &[
    ("cephfs.secretFile", "a file on the node"),
    ("items[].key", "a key inside the object"),
    ("items[].path", "a file name"),
    ("secretKeyRef.key", "a key inside the object"),
    ("configMapKeyRef.key", "a key inside the object"),
    ("serviceAccountToken.audience", "who the token is for"),
    ("serviceAccountToken.path", "a file name"),
    ("spec.serviceAccount", "the older name of serviceAccountName, kept equal"),
    ("spec.resourceClaims[].name", "the pod's own name for the claim"),
    (
        "spec.resourceClaims[].resourceClaimTemplateName",
        "what a claim is made from, by a controller",
    ),
    ("resources.claims[].name", "an entry of the pod's own resourceClaims"),
    ("resources.claims[].request", "a part of that claim"),
    (
        "status.resourceClaimStatuses[].name",
        "an entry of the pod's own resourceClaims",
    ),
    (
        "status.resourceClaimStatuses[].resourceClaimName",
        "read together with the entry that it is of",
    ),
    (
        "status.nodeAllocatableResourceClaimStatuses[].resourceClaimName",
        "what the scheduler counted for the claim",
    ),
    ("requestMappings[].containerName", "a container of the pod"),
    ("requestMappings[].resourceName", "a resource of the node"),
    ("requestMappings[].requestName", "a part of the claim"),
];

/// Calls `each` with every field below a struct: its path, the struct that holds it, the field's name and type.
fn walk(
    of: &'static Struct,
    path: &str,
    above: &mut Vec<&'static str>,
    each: &mut dyn FnMut(&str, &'static Struct, &'static str, Type),
) {
    if above.contains(&of.name) {
        return;
    }
    above.push(of.name);
    for field in of.fields {
        let dot = if path.is_empty() { "" } else { "." };
        let mut below = format!("{path}{dot}{}", field.json);
        each(&below, of, field.json, field.ty);
        let mut ty = field.ty;
        while let Type::List(inner) | Type::Map(inner) = ty {
            below.push_str("[]");
            ty = *inner;
        }
        if let Type::Struct(inner) = ty {
            walk(inner.get(), &below, above, each);
        }
    }
    above.pop();
}

/// The fields that the table takes names from, as paths of a pod.
fn named() -> BTreeSet<String> {
    fn collect(node: &Node, all: &mut BTreeSet<String>) {
        if let Some(Row {
            name: Name::Field(field) | Name::Given(field),
            ..
        }) = node.row
        {
            all.insert(format!("{}.{field}", node.path));
        }
        if let Some(Row { name: Name::Claim, .. }) = node.row {
            all.insert(format!("{}.resourceClaimName", node.path));
        }
        node.fields.iter().for_each(|branch| collect(&branch.node, all));
    }
    let mut all = BTreeSet::new();
    collect(&TREE, &mut all);
    all
}

#[test]
fn no_field_of_a_pod_that_names_an_object_is_missing() {
    let pod = schema::kind("", "v1", "Pod").unwrap();
    let named = named();
    let mut missed = Vec::new();
    let mut seen = BTreeSet::new();
    walk(pod, "", &mut Vec::new(), &mut |path, holder, field, ty| {
        // The claim of an ephemeral volume is a reference as a whole; what is asked of it is the claim's own.
        if path.starts_with("metadata.") || path.contains("volumeClaimTemplate") {
            return;
        }
        let lower = path.to_lowercase().replace("_", "");
        let sounds = ["secret", "configmap", "claim", "serviceaccount"]
            .iter()
            .any(|word| lower.contains(word));
        // What embeds a name of an object refers, however it is called.
        let embeds = field == "name"
            && (holder.name.ends_with("ObjectReference")
                || holder.embeds.iter().any(|embed| embed.ty.name == "LocalObjectReference"));
        let plain = matches!(ty, Type::Struct(of) if of.name.ends_with("ObjectReference") || of.name == "SecretReference");
        let leaf = matches!(ty, Type::String);
        if !(leaf && (sounds || embeds) || plain) {
            return;
        }
        let path = if plain { format!("{path}.name") } else { path.to_owned() };
        let excused = NO_REFERENCES.iter().find(|(end, _)| path.ends_with(end));
        if let Some((end, _)) = excused {
            seen.insert(*end);
            assert!(!named.contains(&path), "{path} is a reference and excused");
        } else if !named.contains(&path) {
            missed.push(path);
        }
    });
    assert_eq!(missed, Vec::<String>::new());
    let stale: Vec<_> = NO_REFERENCES.iter().filter(|(end, _)| !seen.contains(end)).collect();
    assert!(stale.is_empty(), "excuses for fields that are not there: {stale:?}");
    let held: BTreeSet<&str> = schema::all().map(|of| of.name).collect();
    assert!(
        TABLE.iter().all(|row| held.contains(row.holder)),
        "a row for a struct that is not there"
    );
}

#[test]
fn every_source_of_a_volume_is_known_by_what_it_refers_to() {
    // Volumes of a mirror pod: these need nothing of the API. Whatever else a release brings has to be thought about here.
    const OF_THE_NODE: &[&str] = &[
        "awsElasticBlockStore",
        "azureDisk",
        "cephfs",
        "cinder",
        "downwardAPI",
        "emptyDir",
        "fc",
        "flexVolume",
        "flocker",
        "gcePersistentDisk",
        "gitRepo",
        "hostPath",
        "image",
        "iscsi",
        "nfs",
        "photonPersistentDisk",
        "portworxVolume",
        "quobyte",
        "rbd",
        "scaleIO",
        "storageos",
        "vsphereVolume",
    ];
    for name in ["VolumeSource", "VolumeProjection"] {
        let of = schema::named("api/core/v1", name).unwrap();
        for field in of.fields {
            let (source, _) = element(field.ty).unwrap();
            let refers = TABLE.iter().any(|row| row.holder == source.name) || field.json == "projected";
            assert_ne!(refers, OF_THE_NODE.contains(&field.json), "{name}.{}", field.json);
        }
    }
}

/// A pod that refers wherever a pod can, each time by another name.
fn full() -> Value {
    let container = |prefix: &str| {
        json!({"name": prefix, "envFrom": [{"secretRef": {"name": format!("{prefix}-env-from")}},
                {"configMapRef": {"name": format!("{prefix}-env-from")}}],
            "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": format!("{prefix}-env"), "key": "k"}}},
                {"name": "B", "valueFrom": {"configMapKeyRef": {"name": format!("{prefix}-env"), "key": "k"}}}]})
    };
    json!({"metadata": {"name": "p"}, "spec": {
        "serviceAccountName": "robot", "serviceAccount": "robot",
        "imagePullSecrets": [{"name": "pull"}],
        "containers": [container("main")], "initContainers": [container("init")], "ephemeralContainers": [container("debug")],
        "resourceClaims": [{"name": "a", "resourceClaimName": "direct"}, {"name": "b", "resourceClaimTemplateName": "t"},
            {"name": "c", "resourceClaimTemplateName": "t"}],
        "volumes": [
            {"name": "v1", "secret": {"secretName": "volume"}}, {"name": "v2", "configMap": {"name": "volume"}},
            {"name": "v3", "projected": {"sources": [{"secret": {"name": "projected"}}, {"configMap": {"name": "projected"}},
                {"serviceAccountToken": {"path": "t"}}, {"clusterTrustBundle": {"name": "bundle", "path": "p"}},
                {"podCertificate": {"signerName": "s"}}, {"downwardAPI": {}}]}},
            {"name": "v4", "persistentVolumeClaim": {"claimName": "data"}}, {"name": "v5", "ephemeral": {"volumeClaimTemplate": {}}},
            {"name": "v6", "csi": {"driver": "d", "nodePublishSecretRef": {"name": "csi"}}},
            {"name": "v7", "azureFile": {"secretName": "azure"}}, {"name": "v8", "cephfs": {"secretRef": {"name": "ceph"}}},
            {"name": "v9", "cinder": {"secretRef": {"name": "cinder"}}}, {"name": "va", "flexVolume": {"secretRef": {"name": "flex"}}},
            {"name": "vb", "rbd": {"secretRef": {"name": "rbd"}}}, {"name": "vc", "scaleIO": {"secretRef": {"name": "scale"}}},
            {"name": "vd", "iscsi": {"secretRef": {"name": "iscsi"}}}, {"name": "ve", "storageos": {"secretRef": {"name": "os"}}},
            {"name": "vf", "glusterfs": {"endpoints": "gluster"}}, {"name": "vg", "emptyDir": {}}]},
        "status": {"resourceClaimStatuses": [{"name": "b", "resourceClaimName": "made"}],
            "extendedResourceClaimStatus": {"resourceClaimName": "extended"}}})
}

#[test]
fn references_are_found_wherever_a_pod_has_them() {
    let pod = full();
    let all = of(&pod);
    let of = |referent: Referent| -> BTreeSet<&str> {
        let fitting = all.iter().filter(|reference| reference.referent == referent);
        fitting.map(|reference| &*reference.name).collect()
    };
    let secrets = "azure ceph cinder csi debug-env debug-env-from flex init-env init-env-from iscsi main-env main-env-from os projected \
                   pull rbd scale volume";
    assert_eq!(of(Referent::Secret).into_iter().collect::<Vec<_>>().join(" "), secrets);
    let maps = "debug-env debug-env-from init-env init-env-from main-env main-env-from projected volume";
    assert_eq!(of(Referent::ConfigMap).into_iter().collect::<Vec<_>>().join(" "), maps);
    for (referent, names) in [
        (Referent::PersistentVolumeClaim, &["data", "p-v5"][..]),
        (Referent::ServiceAccount, &["robot"]),
        (Referent::ResourceClaim, &["", "direct", "extended", "made"]),
        (Referent::CsiDriver, &["d"]),
        (Referent::Endpoints, &["gluster"]),
        (Referent::ClusterTrustBundle, &["bundle"]),
        (Referent::PodCertificate, &[""]),
    ] {
        assert_eq!(of(referent).into_iter().collect::<Vec<_>>(), names, "{referent:?}");
    }
    assert!(refers(&pod, Referent::Secret, "rbd") && !refers(&pod, Referent::ConfigMap, "rbd"));
    assert!(!refers(&pod, Referent::ResourceClaim, ""));
}

#[test]
fn a_reference_tells_where_it_stands() {
    let pod = full();
    let found = find(&pod, |reference| (reference.name == "init-env").then(|| reference.clone())).unwrap();
    assert_eq!(found.path, "spec.initContainers[].env[].valueFrom.secretKeyRef");
    assert_eq!(
        (found.text(0, "name"), found.text(1, "name"), found.items[1].0),
        ("init", "A", 0)
    );
    let pull = find(&pod, |reference| (reference.name == "pull").then(|| reference.clone())).unwrap();
    assert_eq!((pull.path, pull.items[0].0), ("spec.imagePullSecrets[]", 0));
    assert_eq!(of(&json!({"spec": {"volumes": [{"secret": {}}]}}))[0].name, "");
    assert!(of(&json!({"spec": {"volumes": "x", "containers": [1, {"env": {}}]}})).is_empty());
}
