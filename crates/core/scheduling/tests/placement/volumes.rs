//! Volumes of pods: what upstream's VolumeRestrictions, NodeVolumeLimits, VolumeBinding and VolumeZone say, in their words.

use serde_json::{Value, json};
use trireme_scheduling::volumes::{Unbound, VolumePlan, Written};
use trireme_scheduling::{Profile, decide};

use crate::common::{Ground, merge, node, pod};

const TAIL: &str = "preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";

fn object(kind: &str, name: &str, extra: &Value) -> Value {
    let mut object =
        json!({"kind": kind, "metadata": {"name": name, "namespace": "default", "uid": name, "resourceVersion": "1"}});
    merge(&mut object, extra);
    object
}

/// A claim of a class, bound to a volume where one is named.
fn claim(name: &str, class: &str, volume: &str) -> Value {
    let mut claim = object(
        "PersistentVolumeClaim",
        name,
        &json!({"spec": {"storageClassName": class, "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "5Gi"}}}}),
    );
    if !volume.is_empty() {
        claim["spec"]["volumeName"] = volume.into();
        claim["metadata"]["annotations"] = json!({"pv.kubernetes.io/bind-completed": "yes"});
    }
    claim
}

fn with(mut object: Value, extra: &Value) -> Value {
    merge(&mut object, extra);
    object
}

fn volume(name: &str, class: &str, size: &str, on: Option<&str>) -> Value {
    let mut volume = object(
        "PersistentVolume",
        name,
        &json!({"spec": {"storageClassName": class, "accessModes": ["ReadWriteOnce"], "capacity": {"storage": size}},
            "status": {"phase": "Available"}}),
    );
    if let Some(on) = on {
        volume["spec"]["nodeAffinity"] = json!({"required": {"nodeSelectorTerms": [{"matchExpressions":
            [{"key": "kubernetes.io/hostname", "operator": "In", "values": [on]}]}]}});
    }
    volume
}

fn class(name: &str, mode: &str, extra: &Value) -> Value {
    let mut class = object(
        "StorageClass",
        name,
        &json!({"provisioner": "example.com/p", "volumeBindingMode": mode}),
    );
    merge(&mut class, extra);
    class
}

fn using(name: &str, on: Option<&str>, claims: &[&str]) -> Value {
    let volumes: Vec<_> = claims
        .iter()
        .map(|claim| json!({"name": claim, "persistentVolumeClaim": {"claimName": claim}}))
        .collect();
    pod(name, on, &json!({"volumes": volumes}))
}

fn ground(nodes: &[Value], storage: &[Value]) -> Ground {
    let mut ground = Ground::new(nodes, &[]);
    storage.iter().for_each(|object| ground.put_storage(object));
    ground
}

#[test]
fn says_what_keeps_a_claim_from_all_nodes() {
    let none = json!({});
    let waits = || class("slow", "WaitForFirstConsumer", &none);
    let ephemeral = pod(
        "p",
        None,
        &json!({"volumes": [{"name": "v", "ephemeral": {"volumeClaimTemplate": {}}}]}),
    );
    let owned =
        |uid: &str| json!({"metadata": {"ownerReferences": [{"kind": "Pod", "name": "p", "uid": uid, "controller": true}]}});
    let p = using("p", None, &["c"]);
    for (pod, storage, text) in [
        (&p, vec![], "persistentvolumeclaim \"c\" not found"),
        (
            &p,
            vec![with(claim("c", "", "v"), &json!({"status": {"phase": "Lost"}}))],
            "persistentvolumeclaim \"c\" bound to non-existent persistentvolume \"v\"",
        ),
        (
            &p,
            vec![with(
                claim("c", "", "v"),
                &json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
            )],
            "persistentvolumeclaim \"c\" is being deleted",
        ),
        (
            &p,
            vec![claim("c", "", "")],
            "pod has unbound immediate PersistentVolumeClaims",
        ),
        (
            &p,
            vec![claim("c", "fast", ""), class("fast", "Immediate", &none)],
            "pod has unbound immediate PersistentVolumeClaims",
        ),
        (
            &p,
            vec![claim("c", "gone", "")],
            "pod has unbound immediate PersistentVolumeClaims",
        ),
        (
            // Its user chose a volume, and nobody has bound it yet.
            &p,
            vec![waits(), with(claim("c", "slow", ""), &json!({"spec": {"volumeName": "v"}}))],
            "pod has unbound immediate PersistentVolumeClaims",
        ),
        (&p, vec![claim("c", "", "gone")], "persistentvolume \"gone\" not found"),
        (
            &ephemeral,
            vec![],
            "waiting for ephemeral volume controller to create the persistentvolumeclaim \"p-v\"",
        ),
        (
            &ephemeral,
            vec![with(claim("p-v", "", "v"), &owned("other"))],
            "PVC default/p-v was not created for pod default/p (pod is not owner)",
        ),
    ] {
        let said = ground(&[node("n1", &none)], &storage).place(pod).unwrap_err();
        assert_eq!(said, format!("0/1 nodes are available: {text}. {TAIL}"));
    }
    let own = [with(claim("p-v", "", "v"), &owned("p")), volume("v", "", "5Gi", None)];
    assert_eq!(ground(&[node("n1", &none)], &own).place(&ephemeral).unwrap(), "n1");
}

#[test]
fn says_what_keeps_a_claim_from_a_node() {
    let none = json!({});
    let waits = |extra: &Value| class("slow", "WaitForFirstConsumer", extra);
    let manual = waits(&json!({"provisioner": "kubernetes.io/no-provisioner"}));
    let zone = |zone: &str| json!({"allowedTopologies": [{"matchLabelExpressions": [{"key": "zone", "values": [zone]}]}]});
    let tells = object("CSIDriver", "example.com/p", &json!({"spec": {"storageCapacity": true}}));
    let capacity = |amount: &str| {
        let told = json!({"storageClassName": "slow", "nodeTopology": {"matchLabels": {"zone": "z1"}}, "capacity": amount});
        object("CSIStorageCapacity", "k", &told)
    };
    let bind = "didn't find available persistent volumes to bind";
    for (storage, text) in [
        (
            vec![claim("c", "", "v"), volume("v", "", "5Gi", Some("n2"))],
            "didn't match PersistentVolume's node affinity",
        ),
        (vec![claim("c", "slow", ""), manual.clone()], bind),
        (
            vec![claim("c", "slow", ""), manual.clone(), volume("v", "slow", "5Gi", Some("n2"))],
            bind,
        ),
        (
            vec![claim("c", "slow", ""), manual.clone(), volume("v", "slow", "4Gi", None)],
            bind,
        ),
        (vec![claim("c", "slow", ""), waits(&zone("z2"))], bind),
        (
            vec![
                with(
                    claim("c", "slow", ""),
                    &json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": "n2"}}}),
                ),
                waits(&none),
            ],
            bind,
        ),
        (
            vec![claim("c", "slow", ""), waits(&none), tells.clone()],
            "did not have enough free storage",
        ),
        (
            vec![claim("c", "slow", ""), waits(&none), tells.clone(), capacity("4Gi")],
            "did not have enough free storage",
        ),
        (
            vec![
                claim("c", "", "v"),
                with(
                    volume("v", "", "5Gi", None),
                    &json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "z2__z3"}}}),
                ),
            ],
            "had no available volume zone",
        ),
    ] {
        let labels = json!({"metadata": {"labels": {"zone": "z1", "topology.kubernetes.io/zone": "z1"}}});
        let said = ground(&[node("n1", &labels)], &storage)
            .place(&using("p", None, &["c"]))
            .unwrap_err();
        assert_eq!(
            said,
            format!("0/1 nodes are available: 1 node(s) {text}. {TAIL}"),
            "{storage:#?}"
        );
    }
    for storage in [
        vec![claim("c", "slow", ""), waits(&zone("z1")), tells.clone(), capacity("5Gi")],
        vec![claim("c", "slow", ""), manual, volume("v", "slow", "5Gi", Some("n1"))],
        vec![
            claim("c", "", "v"),
            with(
                volume("v", "", "5Gi", None),
                &json!({"metadata": {"labels": {"failure-domain.beta.kubernetes.io/zone": "z1"}}}),
            ),
        ],
    ] {
        let labels = json!({"metadata": {"labels": {"zone": "z1", "topology.kubernetes.io/zone": "z1"}}});
        let mut ground = ground(&[node("n1", &labels)], &storage);
        assert_eq!(ground.place(&using("p", None, &["c"])).unwrap(), "n1", "{storage:#?}");
    }
}

#[test]
fn a_claim_of_one_pod_is_given_to_another_by_preemption_only() {
    let none = json!({});
    let single = with(claim("c", "", "v"), &json!({"spec": {"accessModes": ["ReadWriteOncePod"]}}));
    let mut ground = ground(
        &[node("n1", &none), node("n2", &none)],
        &[single, volume("v", "", "5Gi", None)],
    );
    ground.put_pod(&using("holder", Some("n1"), &["c"]));
    let text = "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod";
    let said = ground.place(&using("p", None, &["c"])).unwrap_err();
    let tail = "preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod.";
    assert_eq!(said, format!("0/2 nodes are available: 2 {text}. {tail}"));
    ground.put_pod(&pod("low", Some("n2"), &none));
    let important = with(using("p", None, &["c"]), &json!({"spec": {"priority": 9}}));
    assert_eq!(ground.preempt(&important).unwrap(), ("n1".into(), vec!["holder".into()]));
    ground.snapshot.remove_pod("holder");
    assert!(ground.place(&using("p", None, &["c"])).is_ok());
}

#[test]
fn disks_are_not_shared_unless_read_only() {
    let disk = |name: &str, on, read: bool| {
        let source = json!({"name": "d", "gcePersistentDisk": {"pdName": "disk", "readOnly": read}});
        pod(name, on, &json!({"volumes": [source]}))
    };
    for (held, asked, fits) in [(true, true, true), (true, false, false), (false, true, false)] {
        let mut ground = Ground::new(&[node("n1", &json!({}))], &[disk("a", Some("n1"), held)]);
        let placed = ground.place(&disk("p", None, asked));
        assert_eq!(placed.is_ok(), fits);
        if let Err(said) = placed {
            let tail = "preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.";
            assert_eq!(
                said,
                format!("0/1 nodes are available: 1 node(s) had no available disk. {tail}")
            );
        }
    }
}

#[test]
fn a_node_takes_no_more_volumes_of_a_driver_than_it_says() {
    let csi = |name: &str| {
        let source = json!({"spec": {"csi": {"driver": "d", "volumeHandle": name}}});
        with(volume(name, "", "5Gi", None), &source)
    };
    let limited = |count: i64| {
        let drivers = json!([{"name": "d", "nodeID": "n", "allocatable": {"count": count}}, {"name": "other"}]);
        object("CSINode", "n1", &json!({"spec": {"drivers": drivers}}))
    };
    let attached = |volume: &str| {
        let spec = json!({"attacher": "d", "nodeName": "n1", "source": {"persistentVolumeName": volume}});
        object("VolumeAttachment", volume, &json!({"spec": spec}))
    };
    let storage = ["a", "b", "c"].map(|name| [claim(name, "", name), csi(name)]).concat();
    let said = "0/1 nodes are available: 1 node(s) exceed max volume count. preemption: 0/1 nodes are available: 1 No preemption \
                victims found for incoming pod.";
    for (limit, held, attachments, asked, fits) in [
        (1, vec![], vec![], &["a"][..], true),
        (1, vec![], vec![], &["a", "b"], false),
        (2, vec!["a"], vec![], &["b"], true),
        (1, vec!["a"], vec![], &["b"], false),
        // One volume is one, whoever uses it.
        (1, vec!["a"], vec![], &["a"], true),
        // What is still attached counts, but once.
        (1, vec![], vec!["a"], &["b"], false),
        (2, vec!["a"], vec!["a"], &["b"], true),
        (2, vec!["a"], vec!["c"], &["b"], false),
    ] {
        let mut ground = ground(&[node("n1", &json!({}))], &storage);
        ground.put_storage(&limited(limit));
        attachments.iter().for_each(|volume| ground.put_storage(&attached(volume)));
        ground.put_pod(&using("old", Some("n1"), &held));
        let placed = ground.place(&using("p", None, asked));
        let expected = if fits { Ok("n1".to_owned()) } else { Err(said.to_owned()) };
        assert_eq!(placed, expected, "{limit} {held:?} {attachments:?} {asked:?}");
    }
}

fn plan(ground: &mut Ground, pod: &Value) -> (String, Option<Box<VolumePlan>>) {
    let pod = ground.read(pod);
    let placement = decide(&mut ground.snapshot, &Profile::default(), &pod, 0).unwrap();
    (placement.node.into(), placement.volumes)
}

fn pairs(plan: &VolumePlan) -> Vec<(&str, &str)> {
    let bindings = plan.bindings.iter();
    let bindings = bindings.map(|binding| (&*binding.claim.claim.name, &*binding.volume.volume.name));
    let provisions = plan.provisions.iter().map(|claim| (&*claim.claim.name, ""));
    bindings.chain(provisions).collect()
}

#[test]
fn claims_get_the_smallest_volumes_that_suit_and_others_are_made() {
    let none = json!({});
    let mut storage = vec![class("slow", "WaitForFirstConsumer", &none)];
    storage.extend(["big", "small", "none"].map(|name| claim(name, "slow", "")));
    storage[1] = with(
        storage[1].clone(),
        &json!({"spec": {"resources": {"requests": {"storage": "8Gi"}}}}),
    );
    storage[3] = with(
        storage[3].clone(),
        &json!({"spec": {"selector": {"matchLabels": {"no": "such"}}}}),
    );
    storage.extend([
        volume("v8", "slow", "8Gi", Some("n1")),
        volume("v9", "slow", "9Gi", None),
        volume("v6", "slow", "6Gi", Some("n1")),
        volume("v5", "slow", "5Gi", Some("n2")),
    ]);
    let mut ground = ground(&[node("n1", &none)], &storage);
    let (_, made) = plan(&mut ground, &using("p", None, &["big", "small", "none"]));
    assert_eq!(pairs(&made.unwrap()), [("small", "v6"), ("big", "v8"), ("none", "")]);
    // What was meant for a claim is the claim's, be it large.
    let meant = json!({"spec": {"claimRef": {"namespace": "default", "name": "small"}}});
    ground.put_storage(&with(volume("v9", "slow", "9Gi", None), &meant));
    let (_, made) = plan(&mut ground, &using("p", None, &["small"]));
    assert_eq!(pairs(&made.unwrap()), [("small", "v9")]);
}

#[test]
fn no_volume_is_given_twice_and_what_was_taken_back_is_free() {
    let none = json!({});
    let manual = json!({"provisioner": "kubernetes.io/no-provisioner"});
    let storage = [
        class("slow", "WaitForFirstConsumer", &manual),
        claim("c1", "slow", ""),
        claim("c2", "slow", ""),
        volume("v", "slow", "5Gi", Some("n1")),
    ];
    let mut ground = ground(&[node("n1", &none), node("n2", &none)], &storage);
    let (on, made) = plan(&mut ground, &using("p1", None, &["c1"]));
    let made = made.unwrap();
    assert_eq!((on.as_str(), pairs(&made)), ("n1", vec![("c1", "v")]));
    ground.snapshot.storage.assume(&made, "n1");
    let second = using("p2", None, &["c2"]);
    assert!(ground.place(&second).is_err());
    // The same version again changes nothing; a newer one says what is.
    ground.put_storage(&storage[3]);
    assert!(ground.place(&second).is_err());
    ground.put_storage(&with(storage[3].clone(), &json!({"metadata": {"resourceVersion": "2"}})));
    assert_eq!(ground.place(&second).unwrap(), "n1");
    let (_, made) = plan(&mut ground, &using("p1", None, &["c1"]));
    ground.snapshot.storage.assume(made.as_ref().unwrap(), "n1");
    assert!(ground.place(&second).is_err());
    ground.snapshot.storage.restore(&made.unwrap());
    assert_eq!(ground.place(&second).unwrap(), "n1");
}

#[test]
fn a_pod_waits_until_its_volumes_are_bound_or_will_not_be() {
    let none = json!({});
    let labels = serde_json::from_value(json!({"kubernetes.io/hostname": "n1"})).unwrap();
    let written = |bindings: &[(&str, &str, u64)], provisions: &[(&str, u64)]| Written {
        bindings: bindings
            .iter()
            .map(|(claim, volume, version)| ((*claim).into(), (*volume).into(), *version))
            .collect(),
        provisions: provisions
            .iter()
            .map(|(claim, version)| ((*claim).into(), *version))
            .collect(),
    };
    let given = |uid: &str, version: &str| {
        let reference = json!({"metadata": {"resourceVersion": version}, "spec": {"claimRef":
            {"namespace": "default", "name": "c", "uid": uid}}});
        with(volume("v", "slow", "5Gi", Some("n1")), &reference)
    };
    let selected = |node: &str, volume: &str| {
        let annotations =
            json!({"metadata": {"resourceVersion": "3", "annotations": {"volume.kubernetes.io/selected-node": node}}});
        with(claim("c", "slow", volume), &annotations)
    };
    let static_one = written(&[("default/c", "v", 2)], &[]);
    let made = written(&[], &[("default/c", 3)]);
    for (what, storage, written, expected) in [
        (
            "not seen yet",
            vec![claim("c", "slow", ""), given("c", "1")],
            &static_one,
            Ok(false),
        ),
        (
            "not bound yet",
            vec![claim("c", "slow", ""), given("c", "2")],
            &static_one,
            Ok(false),
        ),
        ("bound", vec![claim("c", "slow", "v"), given("c", "2")], &static_one, Ok(true)),
        (
            "taken away",
            vec![claim("c", "slow", ""), given("", "3")],
            &static_one,
            Err(Unbound::Reset("v".into())),
        ),
        (
            "volume gone",
            vec![claim("c", "slow", "")],
            &static_one,
            Err(Unbound::NoVolume("v".into())),
        ),
        (
            "claim gone",
            vec![given("c", "2")],
            &static_one,
            Err(Unbound::NoClaim("default/c".into())),
        ),
        ("not made yet", vec![selected("n1", "")], &made, Ok(false)),
        ("made, not seen", vec![selected("n1", "v")], &made, Ok(false)),
        ("made", vec![selected("n1", "v"), given("c", "4")], &made, Ok(true)),
        (
            "given up",
            vec![with(claim("c", "slow", ""), &json!({"metadata": {"resourceVersion": "4"}}))],
            &made,
            Err(Unbound::Failed("c".into())),
        ),
        (
            "made elsewhere",
            vec![selected("n1", "v"), volume("v", "slow", "5Gi", Some("n2"))],
            &made,
            Err(Unbound::Elsewhere {
                volume: "v".into(),
                node: "n1".into(),
            }),
        ),
    ] {
        let ground = ground(&[node("n1", &none)], &storage);
        assert_eq!(ground.snapshot.storage.is_bound(written, "n1", &labels), expected, "{what}");
    }
}
