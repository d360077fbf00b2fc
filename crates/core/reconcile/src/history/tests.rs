//! What the history of a workload is to do.

use super::*;

fn template(image: &str) -> PodTemplateSpec {
    let value = json!({
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": image, "resources": {}}]},
    });
    serde_json::from_value(value).unwrap()
}

fn set() -> (ObjectMeta, OwnerReference) {
    let metadata: ObjectMeta = serde_json::from_value(json!({
        "name": "web", "namespace": "ns", "uid": "set-uid", "annotations": {"why": "because"},
    }))
    .unwrap();
    let reference = ownership::controller_reference("apps/v1", "StatefulSet", &metadata);
    (metadata, reference)
}

fn made(image: &str, number: i64, count: i32, present: &[Arc<ControllerRevision>]) -> Made {
    let (metadata, reference) = set();
    let owner = Owner {
        metadata: &metadata,
        reference: &reference,
        hash_label: HASH_LABEL,
    };
    make(owner, &template(image), number, count, present)
}

fn held(images: &[(&str, i64)]) -> Vec<Arc<ControllerRevision>> {
    images
        .iter()
        .map(|(image, number)| Arc::new(made(image, *number, 0, &[]).revision))
        .collect()
}

fn names(revisions: &[&Arc<ControllerRevision>]) -> Vec<i64> {
    revisions.iter().map(|revision| revision.revision).collect()
}

#[test]
fn the_hash_is_upstreams() {
    // Published vectors of FNV-1.
    assert_eq!((fnv1(""), fnv1("a"), fnv1("foobar")), (0x811c_9dc5, 0x050c_5d7e, 0x31f0_b262));
    assert_eq!(spelled(1_234_567_890), "56789bcdf4");
    assert_eq!(hash(&json!({}), Some(12)), spelled(fnv1("{}12")));
    assert_eq!(hash(&json!({}), None), spelled(fnv1("{}")));
}

#[test]
fn json_is_written_as_go_writes_it() {
    let mut text = String::new();
    write_as_go(&json!({"b": [1, "a<b>&\"\u{2028}"], "a": null, "c": true}), &mut text);
    assert_eq!(text, r#"{"a":null,"b":[1,"a\u003cb\u003e\u0026\"\u2028"],"c":true}"#);
}

#[test]
fn a_revision_holds_the_template_and_brings_it_back() {
    let made = made("nginx:1", 3, 0, &[]);
    assert!(!made.exists);
    let revision = made.revision;
    let hash = hash(&data_of(&template("nginx:1")), Some(0));
    assert_eq!(name_of(&revision), format!("web-{hash}"));
    assert_eq!(
        to_value(&revision.metadata),
        json!({
            "name": format!("web-{hash}"), "namespace": "ns", "annotations": {"why": "because"},
            "labels": {"app": "web", "controller.kubernetes.io/hash": hash},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": "set-uid",
                "controller": true, "blockOwnerDeletion": true}],
        })
    );
    assert_eq!(revision.revision, 3);
    assert_eq!(revision.data.as_ref().unwrap().0["spec"]["template"]["$patch"], "replace");
    assert_eq!(template_of(&revision), Some(template("nginx:1")));
}

#[test]
fn a_name_with_other_data_counts_as_a_collision_and_one_with_the_same_as_there() {
    let right = made("nginx:1", 1, 0, &[]).revision;
    let mut wrong = right.clone();
    wrong.data = Some(RawExtension(data_of(&template("nginx:2"))));
    let collided = made("nginx:1", 1, 0, &[Arc::new(wrong)]);
    assert_eq!((collided.exists, collided.collision_count), (false, 1));
    assert_ne!(collided.revision.metadata.name, right.metadata.name);
    let again = made("nginx:1", 9, 0, &[Arc::new(right.clone())]);
    assert_eq!((again.exists, again.collision_count), (true, 0));
    assert_eq!(again.revision, right);
}

#[test]
fn a_long_owner_leaves_room_for_the_hash() {
    let name = name(&"a".repeat(240), "f8");
    assert_eq!((name.len(), name.ends_with("a-f8")), (226, true));
}

#[test]
fn equal_revisions_are_found_in_order_and_numbered_anew() {
    let mut revisions = held(&[("c", 5), ("a", 1), ("b", 2), ("a", 3)]);
    sort(&mut revisions);
    assert_eq!(names(&revisions.iter().collect::<Vec<_>>()), [1, 2, 3, 5]);
    assert_eq!(names(&find_equal(&revisions, &template("a"))), [1, 3]);
    assert!(find_equal(&revisions, &template("d")).is_empty());
    assert_eq!((next(&revisions), next(&[])), (6, 1));
    let (changed, action) = renumber(&revisions[0], 6);
    assert_eq!(changed.revision, 6);
    assert!(matches!(action, Action::Update { object } if object["revision"] == 6 && object["kind"] == "ControllerRevision"));
}

#[test]
fn nulls_and_empties_do_not_make_another_state() {
    let mut revision = made("a", 1, 0, &[]).revision;
    let mut data = data_of(&template("a"));
    data["spec"]["template"]["metadata"]["creationTimestamp"] = Value::Null;
    data["spec"]["template"]["spec"]["volumes"] = json!([]);
    revision.data = Some(RawExtension(data));
    assert!(find_equal(&[Arc::new(revision.clone())], &template("a")).is_empty());
    assert!(means(&revision, &template("a")));
    assert!(!means(&revision, &template("b")));
    revision.data = Some(RawExtension(json!({"spec": 1})));
    assert!(!means(&revision, &template("a")));
}

#[test]
fn the_oldest_that_nobody_needs_go() {
    let revisions = held(&[("a", 1), ("b", 2), ("c", 3), ("d", 4)]);
    let live: BTreeSet<&str> = [name_of(&revisions[0]), name_of(&revisions[3])].into();
    let gone = |limit| -> Vec<String> {
        let actions = truncate(&revisions, &live, name_of, limit);
        let names = actions.into_iter().map(|action| match action {
            Action::Delete { target, .. } => target.name,
            other => panic!("{other:?}"),
        });
        names.collect()
    };
    assert_eq!(gone(0), [name_of(&revisions[1]), name_of(&revisions[2])]);
    assert_eq!(gone(1), [name_of(&revisions[1])]);
    assert!(gone(2).is_empty());
    assert!(gone(-1).is_empty());
}

#[test]
fn an_orphan_is_adopted_and_a_strangers_left_alone() {
    let (_, reference) = set();
    let mut revision = made("a", 1, 0, &[]).revision;
    assert_eq!(claim(&reference, false, &revision, true), Claim::Ours);
    revision.metadata.owner_references.as_mut().unwrap()[0].uid = "other".into();
    assert_eq!(claim(&reference, false, &revision, true), Claim::NotOurs);
    revision.metadata.owner_references = None;
    let Claim::Adopt(Action::Patch { target, patch, .. }) = claim(&reference, false, &revision, true) else {
        panic!("an orphan is adopted")
    };
    assert_eq!(target.kind, "ControllerRevision");
    assert_eq!(patch["metadata"]["ownerReferences"][0]["uid"], "set-uid");
    assert_eq!(claim(&reference, true, &revision, true), Claim::NotOurs);
    assert_eq!(claim(&reference, false, &revision, false), Claim::NotOurs);
}
