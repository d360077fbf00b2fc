//! What is asked of nodes and what is made of their answers.

use serde_json::{Value, json};

use super::*;

fn claim(change: impl FnOnce(&mut Value)) -> Value {
    let mut object = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "c", "namespace": "ns", "uid": "u", "resourceVersion": "7", "annotations":
            {"volume.kubernetes.io/storage-provisioner": "trireme.io/local", "volume.kubernetes.io/selected-node": "n"}},
        "spec": {"storageClassName": "local", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        "status": {"phase": "Pending"}});
    change(&mut object);
    object
}

fn class(change: impl FnOnce(&mut Value)) -> Value {
    let mut object = json!({"metadata": {"name": "local"}, "provisioner": "trireme.io/local", "reclaimPolicy": "Delete"});
    change(&mut object);
    object
}

fn made() -> Value {
    let snapshot = ClaimSnapshot {
        claim: claim(|_| ()),
        class: class(|_| ()),
        node: Some(json!({"metadata": {"name": "n", "labels": {"kubernetes.io/hostname": "host"}}})),
        answer: Answer::Done("/data/pvc-u".into()),
    };
    let plan = reconcile_claim(&snapshot, Timestamp::UNIX_EPOCH);
    let [Action::Told { action, done, .. }] = plan.actions.as_slice() else {
        panic!("{plan:?}")
    };
    assert_eq!(done.as_ref().unwrap().message, "Successfully provisioned volume pvc-u");
    let Action::Create {
        object,
        exists_is_done: true,
    } = action.as_ref()
    else {
        panic!("{action:?}")
    };
    object.clone()
}

#[test]
fn a_claim_with_a_node_orders_a_volume() {
    let order = |change: fn(&mut Value)| super::order(&claim(change), &class(|_| ()));
    let expected = Order {
        node: "n".into(),
        name: "pvc-u".into(),
        bytes: 1 << 30,
        enforced: true,
    };
    assert_eq!(order(|_| ()), Wanted::Volume(expected));
    type Change = fn(&mut Value);
    let nothing: [Change; 3] = [
        |claim| claim["metadata"]["annotations"]["volume.kubernetes.io/storage-provisioner"] = "other".into(),
        |claim| claim["spec"]["volumeName"] = "v".into(),
        |claim| claim["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into(),
    ];
    for change in nothing {
        assert_eq!(order(change), Wanted::Nothing);
    }
    let refused: [Change; 4] = [
        |claim| claim["metadata"]["annotations"]["volume.kubernetes.io/selected-node"] = Value::Null,
        |claim| claim["spec"]["volumeMode"] = "Block".into(),
        |claim| claim["spec"]["dataSource"] = json!({"kind": "PersistentVolumeClaim", "name": "x"}),
        |claim| claim["spec"]["selector"] = json!({}),
    ];
    for change in refused {
        assert!(matches!(order(change), Wanted::Refused(_)));
    }
    let optioned = class(|class| class["mountOptions"] = json!(["noexec"]));
    assert!(matches!(super::order(&claim(|_| ()), &optioned), Wanted::Refused(_)));
    let loose = class(|class| class["parameters"] = json!({"enforceSize": "false"}));
    assert!(matches!(super::order(&claim(|_| ()), &loose), Wanted::Volume(order) if !order.enforced));
}

#[test]
fn the_volume_is_the_claims_and_its_nodes() {
    let volume = made();
    assert_eq!(volume["metadata"]["name"], "pvc-u");
    assert_eq!(volume["metadata"]["finalizers"], json!([FINALIZER]));
    assert_eq!(
        volume["metadata"]["annotations"]["pv.kubernetes.io/provisioned-by"],
        "trireme.io/local"
    );
    assert_eq!(volume["spec"]["claimRef"]["uid"], "u");
    assert_eq!(volume["spec"]["local"]["path"], "/data/pvc-u");
    let read = Volume::read(&volume);
    assert!(read.is_bound_to(&Claim::read(&claim(|_| ()))));
    assert!(read.reaches(&[("kubernetes.io/hostname".to_owned(), "host".to_owned())].into()));
}

#[test]
fn a_node_that_refuses_gives_the_choice_back() {
    let plan = |answer: Answer| {
        let snapshot = ClaimSnapshot {
            claim: claim(|_| ()),
            class: class(|_| ()),
            node: None,
            answer,
        };
        reconcile_claim(&snapshot, Timestamp::UNIX_EPOCH)
    };
    let refused = plan(Answer::Refused("no room".into()));
    let [Action::Event(note), Action::Update { object }] = refused.actions.as_slice() else {
        panic!("{refused:?}")
    };
    assert_eq!(
        note.message,
        "failed to provision volume with StorageClass \"local\": no room"
    );
    assert_eq!(annotated(object, annotation::SELECTED_NODE), None);
    assert_eq!(plan(Answer::Gone).actions.len(), 2);
    let silent = plan(Answer::Silent("timeout".into()));
    assert_eq!((silent.actions.len(), silent.requeue_after), (1, Some(ASK_AGAIN_AFTER)));
}

#[test]
fn data_goes_only_with_a_released_volume_that_is_to_be_deleted() {
    let of = |change: fn(&mut Value)| {
        let mut volume = made();
        volume["status"] = json!({"phase": "Released"});
        change(&mut volume);
        due(&volume, None, None)
    };
    let remove = Due::Remove {
        node: "n".into(),
        name: "pvc-u".into(),
    };
    assert_eq!(of(|_| ()), remove);
    assert_eq!(
        of(|volume| volume["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into()),
        remove
    );
    assert_eq!(of(|volume| volume["status"]["phase"] = "Bound".into()), Due::Nothing);
    assert_eq!(
        of(|volume| volume["spec"]["persistentVolumeReclaimPolicy"] = "Retain".into()),
        Due::Nothing
    );
    assert_eq!(
        of(|volume| {
            volume["spec"]["persistentVolumeReclaimPolicy"] = "Retain".into();
            volume["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        }),
        Due::Leave
    );
    assert_eq!(
        of(|volume| volume["metadata"]["annotations"][annotation::PROVISIONED_BY] = "other".into()),
        Due::Nothing
    );
}

#[test]
fn the_object_goes_after_the_data() {
    let plan = |answer: Answer| {
        let volume = made();
        let due = Due::Remove {
            node: "n".into(),
            name: "pvc-u".into(),
        };
        reconcile_volume(
            &VolumeSnapshot {
                volume,
                claim: None,
                due,
                answer,
            },
            Timestamp::UNIX_EPOCH,
        )
    };
    let done = plan(Answer::Done(String::new()));
    assert!(matches!(
        done.actions.as_slice(),
        [
            Action::Delete { .. },
            Action::RemoveFinalizer {
                finalizer: FINALIZER,
                ..
            }
        ]
    ));
    assert_eq!(plan(Answer::Gone).actions.len(), 2);
    let busy = plan(Answer::Refused("busy".into()));
    assert!(matches!(busy.actions.as_slice(), [Action::Event(note)] if note.reason == "VolumeFailedDelete"));
    assert!(busy.requeue_after.is_some());
}

#[test]
fn a_claim_grows_in_two_steps() {
    let mut volume = made();
    volume["status"] = json!({"phase": "Bound"});
    let bound = claim(|claim| {
        claim["spec"]["resources"]["requests"]["storage"] = "2Gi".into();
        claim["spec"]["volumeName"] = "pvc-u".into();
        claim["status"] = json!({"phase": "Bound", "capacity": {"storage": "1Gi"}});
    });
    let step = |volume: &Value, claim: &Value| {
        let due = due(volume, Some(claim), None);
        let snapshot = VolumeSnapshot {
            volume: volume.clone(),
            claim: Some(claim.clone()),
            due: due.clone(),
            answer: Answer::Done(String::new()),
        };
        (due, reconcile_volume(&snapshot, Timestamp::UNIX_EPOCH))
    };
    let (due, plan) = step(&volume, &bound);
    assert!(matches!(due, Due::Grow(order) if order.bytes == 2 << 30));
    let [Action::Update { object: volume }] = plan.actions.as_slice() else {
        panic!("{plan:?}")
    };
    assert_eq!(volume["spec"]["capacity"]["storage"], "2Gi");
    let (_, plan) = step(volume, &bound);
    let [Action::Told { action, .. }] = plan.actions.as_slice() else {
        panic!("{plan:?}")
    };
    let Action::UpdateStatus { object: bound } = action.as_ref() else {
        panic!("{action:?}")
    };
    assert_eq!(bound["status"]["capacity"]["storage"], "2Gi");
    assert_eq!(step(volume, bound).0, Due::Nothing);
}
