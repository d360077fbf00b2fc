//! Volumes in a temporary directory, against an API in memory. Mounts are real and taken away again.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use serde_json::json;
use trireme_client::testing::FakeTransport;
use trireme_client::{Client, ResourceRef};

use super::*;

fn pod(volumes: serde_json::Value, security: serde_json::Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u1", "labels": {"app": "x"}},
        "spec": {"containers": [{"name": "c"}], "volumes": volumes, "securityContext": security}
    }))
    .unwrap()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn seeded() -> std::sync::Arc<FakeTransport> {
    let api = FakeTransport::new();
    api.seed(
        &ResourceRef::of::<k8s_openapi::api::core::v1::ConfigMap>(),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "namespace": "n"}, "data": {"a": "1", "b": "2"}}),
    );
    api.seed(
        &ResourceRef::of::<k8s_openapi::api::core::v1::Secret>(),
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "n"}, "data": {"k": "djE="}}),
    );
    api
}

#[tokio::test]
async fn every_kind_is_mounted_refreshed_and_taken_away() {
    let directory = tempfile::tempdir().unwrap();
    let api = seeded();
    let volumes = Volumes::new(directory.path(), Client::new(api.clone()));
    let pod = pod(
        json!([
            {"name": "e", "emptyDir": {}},
            {"name": "t", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            {"name": "c", "configMap": {"name": "m", "items": [{"key": "a", "path": "x/y", "mode": 256}]}},
            {"name": "s", "secret": {"secretName": "s", "defaultMode": 384}},
            {"name": "d", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
            {"name": "p", "projected": {"sources": [{"configMap": {"name": "m"}}, {"configMap": {"name": "gone", "optional": true}}]}}
        ]),
        json!({"fsGroup": 4321}),
    );
    let node = NodeFacts::default();
    let paths = volumes.mount(&pod, &node).await.unwrap();
    assert_eq!(mode(&paths["e"]) & 0o777, 0o777);
    assert_eq!(std::fs::metadata(&paths["e"]).unwrap().gid(), 4321);
    assert!(is_mount_point(&paths["t"]).unwrap());
    assert_eq!(std::fs::read_to_string(paths["c"].join("x/y")).unwrap(), "1");
    assert_eq!(std::fs::read_to_string(paths["s"].join("k")).unwrap(), "v1");
    assert_eq!(mode(&paths["s"].join("k")), 0o640, "fsGroup may read");
    assert_eq!(std::fs::read_to_string(paths["d"].join("labels")).unwrap(), "app=\"x\"");
    assert_eq!(std::fs::read_to_string(paths["p"].join("b")).unwrap(), "2");

    std::fs::write(paths["e"].join("kept"), "yes").unwrap();
    api.seed(
        &ResourceRef::of::<k8s_openapi::api::core::v1::ConfigMap>(),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "namespace": "n"}, "data": {"a": "new"}}),
    );
    let again = volumes.mount(&pod, &node).await.unwrap();
    assert_eq!(again, paths);
    assert_eq!(std::fs::read_to_string(paths["c"].join("x/y")).unwrap(), "new");
    assert!(!paths["p"].join("b").exists());
    assert!(paths["e"].join("kept").exists());

    volumes.tear_down("u1").unwrap();
    volumes.tear_down("u1").unwrap();
    assert!(!volumes.pod_dir("u1").exists());
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let volumes = Volumes::new(directory.path(), Client::new(seeded()));
    for (volume, expected) in [
        (json!({"configMap": {"name": "gone"}}), "configmap \"gone\" not found"),
        (json!({"secret": {"secretName": "gone"}}), "secret \"gone\" not found"),
        (
            json!({"configMap": {"name": "m", "items": [{"key": "z", "path": "z"}]}}),
            "configmap references non-existent config key: z",
        ),
        (
            json!({"hostPath": {"path": "/proc/self/status", "type": "Directory"}}),
            "hostPath type check failed: /proc/self/status is not a directory",
        ),
    ] {
        let mut volume = volume;
        volume["name"] = json!("v");
        let error = volumes
            .mount(&pod(json!([volume]), json!({})), &NodeFacts::default())
            .await
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("MountVolume.SetUp failed for volume \"v\" : {expected}")
        );
    }
}

#[tokio::test]
async fn sub_paths_stay_inside() {
    let directory = tempfile::tempdir().unwrap();
    let volumes = Volumes::new(directory.path(), Client::new(FakeTransport::new()));
    let paths = volumes
        .mount(&pod(json!([{"name": "e", "emptyDir": {}}]), json!({})), &NodeFacts::default())
        .await
        .unwrap();
    let root = &paths["e"];
    std::fs::create_dir(root.join("inside")).unwrap();
    std::fs::write(root.join("inside/file"), "in").unwrap();
    symlink("inside", root.join("fine")).unwrap();
    symlink("/etc", root.join("evil")).unwrap();
    symlink("../../../..", root.join("up")).unwrap();
    let ask = |sub_path: &'static str, index| {
        volumes.sub_path(&SubPathRequest {
            pod_uid: "u1",
            volume: "e",
            volume_path: root,
            sub_path,
            container: "c",
            index,
        })
    };
    assert_eq!(std::fs::read_to_string(ask("fine/file", 0).unwrap()).unwrap(), "in");
    assert_eq!(
        std::fs::read_to_string(ask("fine/file", 0).unwrap()).unwrap(),
        "in",
        "bound again"
    );
    let made = ask("new/deep", 1).unwrap();
    std::fs::write(made.join("x"), "").unwrap();
    assert!(root.join("new/deep/x").exists());
    assert_eq!(mode(&root.join("new")), 0o777);
    for bad in ["evil", "evil/passwd", "up", "../x", "/etc"] {
        assert!(ask(bad, 2).is_err(), "{bad}");
    }
    volumes.tear_down("u1").unwrap();
    assert!(!volumes.pod_dir("u1").exists());
}

/// A volume in memory holds what its limit, its pod's or the node's memory allows, and not a page more.
#[tokio::test]
async fn volumes_in_memory_are_no_larger_than_their_limit() {
    let directory = tempfile::tempdir().unwrap();
    let volumes = Volumes::new(directory.path(), Client::new(FakeTransport::new()));
    let mut pod = pod(
        json!([
            {"name": "own", "emptyDir": {"medium": "Memory", "sizeLimit": "64Ki"}},
            {"name": "large", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
            {"name": "none", "emptyDir": {"medium": "Memory"}}
        ]),
        json!({}),
    );
    let container = json!({"name": "c", "resources": {"limits": {"memory": "1Mi"}, "requests": {"memory": "1Mi"}}});
    pod.spec.as_mut().unwrap().containers = vec![serde_json::from_value(container).unwrap()];
    let node = NodeFacts {
        allocatable_memory: 1 << 30,
        ..NodeFacts::default()
    };
    let paths = volumes.mount(&pod, &node).await.unwrap();
    for (name, bytes) in [("own", 64 << 10), ("large", 1 << 20), ("none", 1 << 20)] {
        let file = paths[name].join("file");
        std::fs::write(&file, vec![1; bytes]).unwrap();
        let error = std::fs::write(paths[name].join("more"), [1]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "{name}");
    }
    volumes.tear_down("u1").unwrap();
    pod.spec.as_mut().unwrap().containers[0].resources = None;
    let node = NodeFacts {
        allocatable_memory: 128 << 10,
        ..NodeFacts::default()
    };
    let paths = volumes.mount(&pod, &node).await.unwrap();
    std::fs::write(paths["none"].join("file"), vec![1; 128 << 10]).unwrap();
    assert!(std::fs::write(paths["none"].join("more"), [1]).is_err());
    volumes.tear_down("u1").unwrap();
}

#[test]
fn references_that_multiply_end_within_a_limit_of_address_space() {
    trireme_limited::run("tests::in_a_child", trireme_limited::Limits::address_space_mib(512));
}

#[tokio::test]
#[ignore = "run by its parent under limits"]
async fn in_a_child() {
    let directory = tempfile::tempdir().unwrap();
    let api = seeded();
    let large = "x".repeat(1_000_000);
    api.seed(
        &ResourceRef::of::<k8s_openapi::api::core::v1::ConfigMap>(),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "l", "namespace": "n"}, "data": {"k": large}}),
    );
    let volumes = Volumes::new(directory.path(), Client::new(api));
    let items: Vec<_> = (0..3_000)
        .map(|number| json!({"key": "k", "path": format!("f{number}")}))
        .collect();
    let fields: Vec<_> = (0..10_000)
        .map(|number| json!({"path": format!("f{number}"), "fieldRef": {"fieldPath": "metadata.annotations"}}))
        .collect();
    let map = |number: usize| json!({"name": format!("v{number}"), "configMap": {"name": "l"}});
    for volumes_of_pod in [
        json!([{"name": "v", "configMap": {"name": "l", "items": items}}]),
        json!([{"name": "v", "projected": {"sources": [{"configMap": {"name": "l", "items": items}}]}}]),
        json!([{"name": "v", "downwardAPI": {"items": fields}}]),
        // Each has room; all of them together have not.
        (0..100).map(map).collect(),
    ] {
        let mut pod = pod(volumes_of_pod, json!({}));
        pod.metadata.annotations = Some(BTreeMap::from([("a".to_owned(), "x".repeat(200_000))]));
        let refused = volumes.mount(&pod, &NodeFacts::default()).await.unwrap_err().to_string();
        let why = "the pod's volumes would hold more than 67108864 bytes of what the API has";
        assert!(refused.ends_with(why), "{refused}");
    }
    volumes.tear_down("u1").unwrap();
}

/// A claim with its volume, bound to each other.
fn bind(api: &FakeTransport, source: serde_json::Value, phase: &str) {
    use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim};
    let mut spec = json!({"claimRef": {"namespace": "n", "name": "data", "uid": "uc"}, "nodeAffinity": {"required": {"nodeSelectorTerms":
        [{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["here"]}]}]}}});
    for (key, value) in source.as_object().unwrap() {
        spec[key] = value.clone();
    }
    let seed = |resource: &ResourceRef, object: serde_json::Value| api.seed(resource, object);
    seed(
        &ResourceRef::of::<PersistentVolumeClaim>(),
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data", "namespace": "n", "uid": "uc"},
            "spec": {"volumeName": "pv"}, "status": {"phase": phase}}),
    );
    seed(
        &ResourceRef::of::<PersistentVolume>(),
        json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "pv"}, "spec": spec}),
    );
    for name in ["here", "there"] {
        seed(
            &ResourceRef::of::<Node>(),
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}}),
        );
    }
}

fn claiming(node: &str) -> Pod {
    let mut pod = pod(
        json!([{"name": "d", "persistentVolumeClaim": {"claimName": "data"}}]),
        json!({"fsGroup": 4321}),
    );
    pod.spec.as_mut().unwrap().node_name = Some(node.to_owned());
    pod
}

#[tokio::test]
async fn a_claim_gives_its_volume_and_its_data_outlives_the_pod() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("disk");
    std::fs::create_dir(&place).unwrap();
    let api = seeded();
    bind(&api, json!({"local": {"path": place}}), "Bound");
    let volumes = Volumes::new(directory.path(), Client::new(api.clone()));
    let paths = volumes.mount(&claiming("here"), &NodeFacts::default()).await.unwrap();
    assert_eq!(paths["d"], place);
    assert_eq!(std::fs::metadata(&place).unwrap().gid(), 4321);
    std::fs::write(place.join("file"), "kept").unwrap();
    volumes.tear_down("u1").unwrap();
    assert_eq!(std::fs::read_to_string(place.join("file")).unwrap(), "kept");
    std::fs::remove_dir_all(&place).unwrap();
    let error = volumes.mount(&claiming("here"), &NodeFacts::default()).await.unwrap_err();
    let expected = format!(
        "MountVolume.SetUp failed for volume \"pv\" : path \"{}\" does not exist",
        place.display()
    );
    assert_eq!(error.to_string(), expected);
}

#[tokio::test]
async fn a_claim_that_cannot_be_had_is_told_in_upstreams_words() {
    let directory = tempfile::tempdir().unwrap();
    for (source, phase, node, expected) in [
        (
            json!({"local": {"path": "/"}}),
            "Pending",
            "here",
            "Unable to attach or mount volumes: unmounted volumes=[d], unattached volumes=[], failed to process volumes=[d]: \
             error processing PVC n/data: PVC is not bound",
        ),
        (
            json!({"local": {"path": "/"}}),
            "Bound",
            "there",
            "MountVolume.NodeAffinity check failed for volume \"pv\" : no matching NodeSelectorTerms",
        ),
        (
            json!({"csi": {"driver": "disks.example.com", "volumeHandle": "x"}}),
            "Bound",
            "here",
            "MountVolume.SetUp failed for volume \"pv\" : kubernetes.io/csi: mounter.SetUpAt failed to get CSI client: driver name \
             disks.example.com not found in the list of registered CSI drivers",
        ),
        (
            json!({"nfs": {"server": "s", "path": "/p"}}),
            "Bound",
            "here",
            "MountVolume.SetUp failed for volume \"pv\" : NFS volumes are not supported by this node yet (s:/p)",
        ),
        (
            json!({"hostPath": {"path": "/nowhere", "type": "Directory"}}),
            "Bound",
            "here",
            "MountVolume.SetUp failed for volume \"pv\" : hostPath type check failed: /nowhere is not a directory",
        ),
    ] {
        let api = seeded();
        bind(&api, source, phase);
        let volumes = Volumes::new(directory.path(), Client::new(api));
        let error = volumes.mount(&claiming(node), &NodeFacts::default()).await.unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}
