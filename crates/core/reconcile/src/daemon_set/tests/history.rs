//! Revisions: kept, cut, brought back, and put right.

use k8s_openapi::api::apps::v1::ControllerRevision;
use serde_json::json;

use super::world::{World, daemon_set};
use crate::history;
use crate::plan::Action;

fn settled() -> World {
    let mut world = World::new(daemon_set("a", json!({})), 2);
    world.settle();
    world
}

fn only(world: &World) -> ControllerRevision {
    assert_eq!(world.revisions.len(), 1);
    world.revisions.values().next().unwrap().clone()
}

#[test]
fn going_back_is_a_new_number_of_the_old_revision_and_restarts_only_what_changed() {
    let mut world = settled();
    world.set_image("b");
    // One pod has gone over to `b`, the other has not.
    while !world.images().contains(&"b") {
        world.step();
    }
    assert_eq!(world.history(), [(1, "a".into()), (2, "b".into())]);
    let kept: Vec<String> = world
        .pods
        .values()
        .filter(|pod| pod.spec.as_ref().unwrap().containers[0].image.as_deref() == Some("a"))
        .map(|pod| pod.metadata.uid.clone().unwrap())
        .collect();
    assert_eq!(kept.len(), 1);
    world.begin();
    world.set_image("a");
    world.settle();
    assert_eq!(world.history(), [(2, "b".into()), (3, "a".into())]);
    assert_eq!((world.images(), world.deleted.len()), (vec!["a"; 2], 1));
    assert!(world.pods.values().any(|pod| pod.metadata.uid.as_deref() == Some(&kept[0])));
}

#[test]
fn the_oldest_revisions_go_but_none_that_a_pod_is_of() {
    let mut world = World::new(
        daemon_set(
            "a",
            json!({"revisionHistoryLimit": 1, "updateStrategy": {"type": "OnDelete"}}),
        ),
        2,
    );
    world.settle();
    for image in ["b", "c", "d"] {
        world.set_image(image);
        world.settle();
    }
    assert_eq!(world.history(), [(1, "a".into()), (4, "d".into())], "`a` still runs");
    world.pods.clear();
    world.settle();
    world.set_image("e");
    world.settle();
    assert_eq!(world.history(), [(4, "d".into()), (5, "e".into())]);
}

#[test]
fn a_name_that_is_taken_counts_as_a_collision() {
    let mut taken = only(&settled());
    taken.metadata.owner_references = None;
    taken.metadata.labels = None;
    taken.data = Some(k8s_openapi::apimachinery::pkg::runtime::RawExtension(json!({"other": 1})));
    let mut world = World::new(daemon_set("a", json!({})), 2);
    let name = history::name_of(&taken).to_owned();
    world.revisions.insert(name.clone(), taken);
    world.settle();
    assert_eq!((world.revisions.len(), world.status().collision_count), (2, Some(1)));
    let hashes: Vec<_> = world
        .pods
        .values()
        .map(|pod| pod.metadata.labels.as_ref().unwrap()["controller-revision-hash"].clone())
        .collect();
    assert!(
        hashes
            .iter()
            .all(|hash| world.revisions.contains_key(&format!("agent-{hash}")) && format!("agent-{hash}") != name)
    );
}

#[test]
fn a_revision_without_its_label_is_labelled_by_its_name() {
    let mut world = settled();
    let mut bare = only(&world);
    bare.metadata.labels.as_mut().unwrap().remove("controller-revision-hash");
    let name = history::name_of(&bare).to_owned();
    world.revisions.insert(name.clone(), bare);
    let plan = world.plan();
    let [Action::Update { object }] = &plan.actions[..] else {
        panic!("{plan:?}")
    };
    assert_eq!(object["metadata"]["labels"]["controller-revision-hash"], name.as_str());
}

#[test]
fn doubles_become_one_and_their_pods_are_relabelled_not_restarted() {
    let mut world = settled();
    world.begin();
    let mut double = only(&world);
    double.metadata.name = Some("agent-double".into());
    double.metadata.uid = Some("uid-agent-double".into());
    double
        .metadata
        .labels
        .as_mut()
        .unwrap()
        .insert("controller-revision-hash".into(), "double".into());
    double.revision = 7;
    world.revisions.insert("agent-double".into(), double);
    world.settle();
    assert_eq!(history::name_of(&only(&world)), "agent-double");
    assert!(
        world
            .pods
            .values()
            .all(|pod| pod.metadata.labels.as_ref().unwrap()["controller-revision-hash"] == "double")
    );
    assert!(world.made.is_empty() && world.deleted.is_empty());
}

#[test]
fn an_orphan_that_it_selects_is_adopted() {
    let mut world = settled();
    world.begin();
    let mut orphan = only(&world);
    orphan.metadata.owner_references = None;
    world.revisions.insert(history::name_of(&orphan).to_owned(), orphan);
    world.settle();
    assert_eq!(only(&world).metadata.owner_references.unwrap()[0].uid, "set-uid");
    assert!(world.made.is_empty() && world.deleted.is_empty());
}
