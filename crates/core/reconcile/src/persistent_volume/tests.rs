//! Upstream's documented behaviours, row by row (binder_test.go, delete_test.go, provision_test.go, recycle_test.go).

use serde_json::{Value, json};

use super::*;
use crate::plan::{Action, Plan};

pub(super) fn claim(change: impl FnOnce(&mut Value)) -> Value {
    let mut object = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "c", "namespace": "ns", "uid": "uc", "resourceVersion": "7"},
        "spec": {"storageClassName": "gold", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        "status": {"phase": "Pending"}});
    change(&mut object);
    object
}

pub(super) fn volume(name: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut object = json!({"apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": name, "uid": format!("u-{name}"), "resourceVersion": "9"},
        "spec": {"storageClassName": "gold", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "2Gi"},
            "persistentVolumeReclaimPolicy": "Retain", "local": {"path": "/x"}},
        "status": {"phase": "Available"}});
    change(&mut object);
    object
}

pub(super) fn meant(object: &mut Value, uid: &str) {
    object["spec"]["claimRef"] = json!({"namespace": "ns", "name": "c", "uid": uid});
}

fn annotate(object: &mut Value, names: &[&str]) {
    for name in names {
        set_annotation(object, name, "yes");
    }
}

fn snapshot(claim: Value, volumes: Vec<Value>) -> ClaimSnapshot {
    ClaimSnapshot {
        claim,
        volumes,
        class: Some(Class {
            waits: false,
            provisioner: "example.com/disks".into(),
        }),
        default_class: None,
        unscheduled: Vec::new(),
    }
}

fn run(snapshot: &ClaimSnapshot) -> Plan {
    reconcile_claim(snapshot, jiff::Timestamp::UNIX_EPOCH)
}

fn run_volume(volume: Value, claim: Option<Value>) -> Plan {
    reconcile_volume(&VolumeSnapshot { volume, claim }, jiff::Timestamp::UNIX_EPOCH)
}

/// What a plan says, one line each.
fn shown(plan: &Plan) -> Vec<String> {
    let note =
        |note: &crate::plan::EventNote| format!("{:?} {} {}: {}", note.kind, note.reason, note.regarding.name, note.message);
    let one = |action: &Action| match action {
        Action::Update { object } => format!("update {}", name(object)),
        Action::UpdateStatus { object } => format!("{} is {}", name(object), phase(object)),
        other => format!("{other:?}"),
    };
    let lines = plan.actions.iter().flat_map(|action| match action {
        Action::Event(event) => vec![note(event)],
        Action::Told { action, done, .. } => [Some(one(action)), done.as_ref().map(note)].into_iter().flatten().collect(),
        other => vec![one(other)],
    });
    lines.collect()
}

fn written(plan: &Plan, index: usize) -> &Value {
    match plan.actions[index].effect() {
        Action::Update { object } | Action::UpdateStatus { object } => object,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_volume_that_suits_is_bound_in_two_rounds() {
    let plan = run(&snapshot(claim(|_| ()), vec![volume("v", |_| ())]));
    assert_eq!(shown(&plan), ["update v", "update c"]);
    let (volume, claim) = (written(&plan, 0).clone(), written(&plan, 1).clone());
    assert_eq!(
        volume["spec"]["claimRef"],
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": "ns", "name": "c", "uid": "uc", "resourceVersion": "7"})
    );
    assert_eq!(
        volume["metadata"]["annotations"],
        json!({"pv.kubernetes.io/bound-by-controller": "yes"})
    );
    assert_eq!(claim["spec"]["volumeName"], "v");
    assert_eq!(
        claim["metadata"]["annotations"],
        json!({"pv.kubernetes.io/bound-by-controller": "yes", "pv.kubernetes.io/bind-completed": "yes"})
    );
    let plan = run(&snapshot(claim, vec![volume]));
    assert_eq!(shown(&plan), ["v is Bound", "c is Bound"]);
    let (volume, claim) = (written(&plan, 0).clone(), written(&plan, 1).clone());
    assert_eq!(
        claim["status"],
        json!({"phase": "Bound", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "2Gi"}})
    );
    assert_eq!(run(&snapshot(claim.clone(), vec![volume.clone()])), Plan::default());
    assert_eq!(run_volume(volume, Some(claim)), Plan::default());
}

#[test]
fn what_the_user_bound_is_not_marked_as_the_controllers() {
    let both = |object: &mut Value| meant(object, "");
    let named = claim(|object| object["spec"]["volumeName"] = "v".into());
    let plan = run(&snapshot(named, vec![volume("v", both)]));
    assert_eq!(shown(&plan), ["update v", "update c"]);
    assert_eq!(written(&plan, 0)["spec"]["claimRef"]["uid"], "uc");
    assert_eq!(written(&plan, 0)["metadata"]["annotations"], Value::Null);
    assert_eq!(
        written(&plan, 1)["metadata"]["annotations"],
        json!({"pv.kubernetes.io/bind-completed": "yes"})
    );
}

#[test]
fn a_volume_asked_for_must_suit_and_be_free() {
    type Change = fn(&mut Value);
    let asking = || claim(|object| object["spec"]["volumeName"] = "v".into());
    let refused = |why: &str| format!("Warning VolumeMismatch c: Cannot bind to requested volume \"v\": {why}");
    let cases: [(Change, &str); 7] = [
        (|v| v["spec"]["capacity"]["storage"] = "1".into(), "requested PV is too small"),
        (
            |v| v["spec"]["storageClassName"] = "silver".into(),
            "storageClassName does not match",
        ),
        (
            |v| v["spec"]["volumeAttributesClassName"] = "x".into(),
            "volumeAttributesClassName does not match",
        ),
        (|v| v["spec"]["volumeMode"] = "Block".into(), "incompatible volumeMode"),
        (
            |v| v["spec"]["accessModes"] = json!(["ReadOnlyMany"]),
            "incompatible accessMode",
        ),
        (
            |v| v["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into(),
            "the volume is marked for deletion \"v\"",
        ),
        (|v| meant(v, "other"), ""),
    ];
    for (change, why) in cases {
        let plan = run(&snapshot(asking(), vec![volume("v", change)]));
        let expected = if why.is_empty() {
            "Warning FailedBinding c: volume \"v\" already bound to a different claim.".to_owned()
        } else {
            refused(why)
        };
        assert_eq!(shown(&plan), [expected]);
    }
    assert_eq!(run(&snapshot(asking(), vec![])), Plan::default());
    let was_lost = claim(|object| {
        object["spec"]["volumeName"] = "v".into();
        object["status"] = json!({"phase": "Lost", "capacity": {"storage": "1"}});
    });
    let plan = run(&snapshot(was_lost, vec![]));
    assert_eq!(written(&plan, 0)["status"], json!({"phase": "Pending"}));
}

#[test]
fn a_class_that_waits_tells_what_it_waits_for() {
    let waiting = |change: fn(&mut Value), pods: &[&str]| {
        let mut snapshot = snapshot(claim(change), vec![volume("v", |_| ())]);
        snapshot.class = Some(Class {
            waits: true,
            provisioner: "kubernetes.io/no-provisioner".into(),
        });
        snapshot.unscheduled = pods.iter().map(|pod| (*pod).to_owned()).collect();
        let plan = run(&snapshot);
        (shown(&plan), plan.requeue_after)
    };
    let (told, again) = waiting(|_| (), &[]);
    assert_eq!(
        told,
        ["Normal WaitForFirstConsumer c: waiting for first consumer to be created before binding"]
    );
    assert!(again.is_some());
    assert_eq!(
        waiting(|_| (), &["p"]).0,
        ["Normal WaitForPodScheduled c: waiting for pod p to be scheduled"]
    );
    assert_eq!(
        waiting(|_| (), &["p", "q"]).0,
        ["Normal WaitForPodScheduled c: waiting for pods p,q to be scheduled"]
    );
    let selected: fn(&mut Value) = |object| set_annotation(object, annotation::SELECTED_NODE, "n");
    assert_eq!(
        waiting(selected, &[]).0,
        ["Warning ProvisioningFailed c: no volume plugin matched name: kubernetes.io/no-provisioner"]
    );
}

#[test]
fn a_volume_kept_for_the_claim_is_bound_though_the_class_waits() {
    let mut snapshot = snapshot(
        claim(|_| ()),
        vec![volume("a", |_| ()), volume("v", |object| meant(object, "uc"))],
    );
    snapshot.class.as_mut().unwrap().waits = true;
    assert_eq!(shown(&run(&snapshot)), ["update c"]);
}

#[test]
fn provisioners_are_asked_by_both_annotations_then_waited_for() {
    let plan = run(&snapshot(claim(|_| ()), vec![]));
    assert_eq!(shown(&plan), ["update c"]);
    let asked = written(&plan, 0).clone();
    assert_eq!(
        asked["metadata"]["annotations"],
        json!({"volume.kubernetes.io/storage-provisioner": "example.com/disks",
            "volume.beta.kubernetes.io/storage-provisioner": "example.com/disks"})
    );
    assert_eq!(
        shown(&run(&snapshot(asked, vec![]))),
        [
            "Normal ExternalProvisioning c: Waiting for a volume to be created either by the external provisioner \
         'example.com/disks' or manually by the system administrator. If volume creation is delayed, please verify that the \
         provisioner is running and correctly registered."
        ]
    );
    let mut gone = snapshot(claim(|_| ()), vec![]);
    gone.class = None;
    assert_eq!(
        shown(&run(&gone)),
        ["Warning ProvisioningFailed c: storageclass.storage.k8s.io \"gold\" not found"]
    );
}

#[test]
fn a_plugin_that_a_driver_has_taken_over_is_asked_by_the_drivers_name() {
    let mut disks = snapshot(claim(|_| ()), vec![]);
    disks.class.as_mut().unwrap().provisioner = "kubernetes.io/gce-pd".into();
    let plan = run(&disks);
    assert_eq!(
        written(&plan, 0)["metadata"]["annotations"][annotation::PROVISIONER],
        "pd.csi.storage.gke.io"
    );
    let old = volume("v", |object| {
        set_annotation(object, annotation::PROVISIONED_BY, "kubernetes.io/gce-pd")
    });
    let plan = run_volume(old, None);
    assert_eq!(
        written(&plan, 0)["metadata"]["annotations"][annotation::MIGRATED_TO],
        "pd.csi.storage.gke.io"
    );
}

#[test]
fn a_claim_without_a_class_gets_the_default_one_or_says_so() {
    let bare = || claim(|object| object["spec"]["storageClassName"] = Value::Null);
    let mut snapshot = snapshot(bare(), vec![]);
    snapshot.class = None;
    assert_eq!(
        shown(&run(&snapshot)),
        ["Normal FailedBinding c: no persistent volumes available for this claim and no storage class is set"]
    );
    snapshot.default_class = Some("silver".into());
    let plan = run(&snapshot);
    assert_eq!(written(&plan, 0)["spec"]["storageClassName"], "silver");
    snapshot.claim["spec"]["storageClassName"] = "".into();
    assert_eq!(shown(&run(&snapshot)).len(), 1);
    assert!(shown(&run(&snapshot))[0].contains("FailedBinding"));
}

#[test]
fn the_newest_default_class_is_the_default() {
    let class = |name: &str, made: &str, default: &str| {
        json!({"metadata": {"name": name, "creationTimestamp": made,
            "annotations": {"storageclass.kubernetes.io/is-default-class": default}}})
    };
    let (old, new) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
    let classes = [
        class("a", old, "true"),
        class("c", new, "true"),
        class("b", new, "true"),
        class("d", new, "false"),
    ];
    assert_eq!(default_class(&classes), Some("b"));
    assert_eq!(default_class(&classes[3..]), None);
}

#[test]
fn a_claim_that_was_bound_is_lost_with_its_volume() {
    let was = |change: fn(&mut Value)| {
        claim(|object| {
            annotate(object, &[annotation::BIND_COMPLETED]);
            object["status"]["phase"] = "Bound".into();
            object["spec"]["volumeName"] = "v".into();
            change(object);
        })
    };
    let lost = |claim, volumes| shown(&run(&snapshot(claim, volumes)));
    assert_eq!(
        lost(was(|object| object["spec"]["volumeName"] = "".into()), vec![]),
        [
            "c is Lost",
            "Warning ClaimLost c: Bound claim has lost reference to PersistentVolume. Data on the volume is lost!"
        ]
    );
    assert_eq!(
        lost(was(|_| ()), vec![]),
        [
            "c is Lost",
            "Warning ClaimLost c: Bound claim has lost its PersistentVolume. Data on the volume is lost!"
        ]
    );
    assert_eq!(
        lost(was(|_| ()), vec![volume("v", |object| meant(object, "other"))]),
        [
            "c is Lost",
            "Warning ClaimMisbound c: Two claims are bound to the same volume, this one is bound incorrectly"
        ]
    );
    assert!(lost(was(|object| object["status"]["phase"] = "Lost".into()), vec![]).is_empty());
    // A volume that has come unbound, or back, is bound again.
    assert_eq!(lost(was(|_| ()), vec![volume("v", |_| ())]), ["update v"]);
    let back = vec![volume("v", |object| meant(object, "uc"))];
    assert_eq!(
        lost(was(|object| object["status"]["phase"] = "Lost".into()), back),
        ["v is Bound", "c is Bound"]
    );
}

#[test]
fn a_bound_claim_keeps_its_size() {
    let bound = claim(|object| {
        annotate(object, &[annotation::BIND_COMPLETED]);
        object["spec"]["volumeName"] = "v".into();
        object["status"] = json!({"phase": "Bound", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}});
    });
    let grown = volume("v", |object| {
        meant(object, "uc");
        object["status"]["phase"] = "Bound".into();
    });
    assert_eq!(run(&snapshot(bound, vec![grown])), Plan::default());
}

#[test]
fn volumes_are_available_released_or_failed() {
    type Change = fn(&mut Value);
    let deleted_by = "error getting deleter volume plugin for volume \"v\": no deletable volume plugin matched";
    let failed = |reason: &str, why: &str| vec!["v is Failed".to_owned(), format!("Warning {reason} v: {why}")];
    let cases: [(Change, Vec<String>); 10] = [
        (|_| (), vec![]),
        (|v| v["status"]["phase"] = "Pending".into(), vec!["v is Available".into()]),
        (
            |v| {
                meant(v, "");
                v["status"]["phase"] = "Pending".into();
            },
            vec!["v is Available".into()],
        ),
        (|v| meant(v, "gone"), vec!["v is Released".into()]),
        (
            |v| {
                meant(v, "gone");
                v["status"]["phase"] = "Released".into();
            },
            vec![],
        ),
        (
            |v| {
                meant(v, "gone");
                v["status"]["phase"] = "Released".into();
                v["spec"]["persistentVolumeReclaimPolicy"] = "Delete".into();
            },
            failed("VolumeFailedDelete", deleted_by),
        ),
        (
            |v| {
                meant(v, "gone");
                v["status"]["phase"] = "Released".into();
                v["spec"]["persistentVolumeReclaimPolicy"] = "Delete".into();
                set_annotation(v, annotation::PROVISIONED_BY, "example.com/disks");
            },
            vec![],
        ),
        (
            |v| {
                meant(v, "gone");
                v["status"]["phase"] = "Released".into();
                v["spec"]["persistentVolumeReclaimPolicy"] = "Recycle".into();
            },
            failed("VolumeFailedRecycle", "No recycler plugin found for the volume!"),
        ),
        (
            |v| {
                meant(v, "gone");
                v["status"]["phase"] = "Released".into();
                v["spec"]["persistentVolumeReclaimPolicy"] = "Burn".into();
            },
            failed(
                "VolumeUnknownReclaimPolicy",
                "Volume has unrecognized PersistentVolumeReclaimPolicy",
            ),
        ),
        (
            |v| {
                meant(v, "gone");
                v["status"]["phase"] = "Failed".into();
                v["spec"]["persistentVolumeReclaimPolicy"] = "Delete".into();
            },
            vec![],
        ),
    ];
    for (change, expected) in cases {
        assert_eq!(shown(&run_volume(volume("v", change), None)), expected);
    }
    // A claim of the same name that came later is not the volume's.
    let plan = run_volume(volume("v", |object| meant(object, "gone")), Some(claim(|_| ())));
    assert_eq!(shown(&plan), ["v is Released"]);
}

#[test]
fn a_volume_whose_claim_has_another_is_given_back() {
    let elsewhere = || claim(|object| object["spec"]["volumeName"] = "w".into());
    let by_controller = volume("v", |object| {
        meant(object, "uc");
        annotate(object, &[annotation::BOUND_BY_CONTROLLER]);
    });
    let plan = run_volume(by_controller, Some(elsewhere()));
    assert_eq!(written(&plan, 0)["spec"]["claimRef"], Value::Null);
    assert_eq!(written(&plan, 0)["metadata"]["annotations"], json!({}));
    let by_user = volume("v", |object| meant(object, "uc"));
    let plan = run_volume(by_user, Some(elsewhere()));
    assert_eq!(
        written(&plan, 0)["spec"]["claimRef"],
        json!({"namespace": "ns", "name": "c", "uid": ""})
    );
    let made = volume("v", |object| {
        meant(object, "uc");
        object["spec"]["persistentVolumeReclaimPolicy"] = "Delete".into();
        set_annotation(object, annotation::PROVISIONED_BY, "example.com/disks");
    });
    assert_eq!(shown(&run_volume(made, Some(elsewhere()))), ["v is Released"]);
}

#[test]
fn a_device_meant_for_a_claim_of_files_is_told_of_on_both_sides() {
    let device = volume("v", |object| {
        meant(object, "uc");
        object["spec"]["volumeMode"] = "Block".into();
    });
    let plan = run_volume(device, Some(claim(|_| ())));
    assert_eq!(
        shown(&plan),
        [
            "Warning VolumeMismatch v: Cannot bind PersistentVolume to requested PersistentVolumeClaim \"c\" due to incompatible volumeMode.",
            "Warning VolumeMismatch c: Cannot bind PersistentVolume \"v\" to requested PersistentVolumeClaim due to incompatible volumeMode.",
        ]
    );
    assert!(plan.requeue_after.is_some());
}

#[test]
fn ephemeral_volumes_get_claims_of_their_own() {
    let pod = |deleting: bool| {
        let mut pod = json!({"metadata": {"name": "p", "namespace": "ns", "uid": "up"}, "spec": {"containers": [], "volumes": [
            {"name": "plain", "emptyDir": {}},
            {"name": "scratch", "ephemeral": {"volumeClaimTemplate": {"metadata": {"labels": {"a": "b"}},
                "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}}}]}});
        if deleting {
            pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        std::sync::Arc::new(serde_json::from_value(pod).unwrap())
    };
    let run = |deleting: bool, owner: Option<&str>| {
        let claims = owner.map(|owner| {
            let claim = json!({"metadata": {"name": "p-scratch", "namespace": "ns", "ownerReferences":
                [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": owner, "controller": true}]}});
            (
                "p-scratch".to_owned(),
                std::sync::Arc::new(serde_json::from_value(claim).unwrap()),
            )
        });
        let snapshot = EphemeralSnapshot {
            pod: pod(deleting),
            claims: claims.into_iter().collect(),
        };
        reconcile_ephemeral(&snapshot, jiff::Timestamp::UNIX_EPOCH)
    };
    let plan = run(false, None);
    let [
        Action::Told {
            action,
            done: None,
            failed: Some(failed),
        },
    ] = plan.actions.as_slice()
    else {
        panic!("{plan:?}")
    };
    let Action::Create {
        object,
        exists_is_done: false,
    } = action.as_ref()
    else {
        panic!("{action:?}")
    };
    assert_eq!(failed.message, "ephemeral volume scratch: create PVC p-scratch");
    assert_eq!(
        object["metadata"],
        json!({"name": "p-scratch", "namespace": "ns", "labels": {"a": "b"}, "ownerReferences": [{"apiVersion": "v1",
            "kind": "Pod", "name": "p", "uid": "up", "controller": true, "blockOwnerDeletion": true}]})
    );
    assert_eq!(
        object["spec"],
        json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}})
    );
    assert_eq!(run(true, None), Plan::default());
    assert_eq!(run(false, Some("up")), Plan::default());
    assert_eq!(
        shown(&run(false, Some("other"))),
        ["Warning FailedBinding p: ephemeral volume scratch: PVC ns/p-scratch was not created for pod ns/p (pod is not owner)"]
    );
}

#[test]
fn a_claim_that_asks_for_more_waits_for_whoever_made_its_volume() {
    let bound = |asks: &str| {
        claim(|object| {
            object["spec"]["resources"]["requests"]["storage"] = asks.into();
            object["status"] = json!({"phase": "Bound", "capacity": {"storage": "2Gi"}});
        })
    };
    let run = |asks: &str, uid: &str| {
        let snapshot = ExpandSnapshot {
            claim: bound(asks),
            volume: volume("v", |object| meant(object, uid)),
        };
        shown(&reconcile_expand(&snapshot, jiff::Timestamp::UNIX_EPOCH))
    };
    assert_eq!(
        run("3Gi", "uc"),
        ["Normal ExternalExpanding c: waiting for an external controller to expand this PVC"]
    );
    assert!(run("2Gi", "uc").is_empty() && run("3Gi", "other").is_empty());
}
