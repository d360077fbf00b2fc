//! Rolling updates, and those that wait for somebody to delete pods.

use serde_json::{Value, json};

use super::world::{World, daemon_set, node};

/// A settled world of `a` on four nodes, about to become `b`.
fn about_to_roll(strategy: Value, extra: Value) -> World {
    let mut spec = json!({"updateStrategy": strategy});
    spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    let mut world = World::new(daemon_set("a", spec), 4);
    world.settle();
    assert_eq!(world.images(), ["a"; 4]);
    world.begin();
    world.set_image("b");
    world
}

fn rolling(surge: Value, unavailable: Value) -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
}

#[test]
fn an_update_keeps_within_its_limits() {
    for (surge, unavailable, fewest, most) in [
        (json!(0), json!(1), 3, 4),
        (json!(0), json!(3), 1, 4),
        (json!(0), json!("50%"), 2, 4),
        (json!(0), json!("30%"), 2, 4),
        (json!(0), json!("100%"), 0, 4),
        // Neither: one may be missing all the same.
        (json!(0), json!(0), 3, 4),
        (json!(1), json!(0), 4, 5),
        (json!(3), json!(0), 4, 7),
        (json!("50%"), json!(0), 4, 6),
        (json!("100%"), json!(0), 4, 8),
    ] {
        let mut world = about_to_roll(rolling(surge.clone(), unavailable.clone()), json!({}));
        world.settle();
        assert_eq!(world.images(), ["b"; 4], "{surge} {unavailable}");
        assert_eq!(
            (world.fewest_served, world.most_pods, world.made.len()),
            (fewest, most, 4),
            "{surge} {unavailable}"
        );
        let status = world.status();
        assert_eq!(
            (
                status.updated_number_scheduled,
                status.number_available,
                status.observed_generation
            ),
            (Some(4), Some(4), Some(2))
        );
    }
}

#[test]
fn a_new_pod_counts_only_when_it_was_ready_for_long_enough() {
    for strategy in [rolling(json!(0), json!(1)), rolling(json!(1), json!(0))] {
        let mut world = about_to_roll(strategy, json!({"minReadySeconds": 30}));
        let begun = world.now;
        world.settle();
        assert_eq!(world.images(), ["b"; 4]);
        let took = world.now.duration_since(begun).as_secs();
        assert!(took >= 4 * 30, "{took} s");
        assert!(world.fewest_served >= 3);
    }
}

#[test]
fn a_rollout_of_what_never_gets_ready_stops_at_its_limits() {
    for (surge, unavailable, images) in [
        (json!(0), json!(1), vec!["a", "a", "a", "b"]),
        (json!(1), json!(0), vec!["a", "a", "a", "a", "b"]),
    ] {
        let mut world = about_to_roll(rolling(surge, unavailable), json!({}));
        world.healthy = false;
        world.settle();
        assert_eq!(world.images(), images);
        assert_eq!(
            world.status().updated_number_scheduled.unwrap_or(0),
            i32::from(images.len() == 4)
        );
        // And going back touches none of those that were left alone.
        world.healthy = true;
        world.set_image("a");
        world.begin();
        world.settle();
        assert_eq!(world.images(), ["a"; 4]);
        assert_eq!(
            (world.deleted.len(), world.made.len()),
            (1, usize::from(images.len() == 4)),
            "only the new one goes"
        );
    }
}

#[test]
fn old_pods_that_serve_nobody_go_at_once() {
    let mut world = about_to_roll(rolling(json!(0), json!(1)), json!({}));
    for pod in world.pods.values_mut().take(3) {
        pod.status.as_mut().unwrap().conditions.as_mut().unwrap()[0].status = "False".into();
    }
    let plan = world.plan();
    world.carry_out(&plan, usize::MAX);
    assert_eq!(world.deleted.len(), 3);
    world.settle();
    assert_eq!(world.images(), ["b"; 4]);
}

#[test]
fn surging_an_old_pod_that_serves_nobody_gets_company_at_once_and_goes_when_there_is_another() {
    let mut world = about_to_roll(rolling(json!(1), json!(0)), json!({}));
    for pod in world.pods.values_mut().take(3) {
        pod.status.as_mut().unwrap().conditions.as_mut().unwrap()[0].status = "False".into();
    }
    let plan = world.plan();
    world.carry_out(&plan, usize::MAX);
    assert_eq!(
        (world.made.len(), world.deleted.len()),
        (4, 0),
        "three in need and one by maxSurge"
    );
    world.settle();
    assert_eq!((world.images(), world.deleted.len()), (vec!["b"; 4], 4));
}

#[test]
fn surging_a_pod_that_is_on_its_way_out_is_replaced_at_once() {
    let mut world = World::new(daemon_set("a", json!({"updateStrategy": rolling(json!(1), json!(0))})), 1);
    world.settle();
    world.begin();
    let pod = world.pods.values_mut().next().unwrap();
    pod.metadata.deletion_timestamp = pod.metadata.creation_timestamp.clone();
    let plan = world.plan();
    world.carry_out(&plan, usize::MAX);
    assert_eq!((world.made.len(), world.pods.len()), (1, 2));
    world.settle();
    assert_eq!(world.pods.len(), 1);
}

#[test]
fn surging_what_left_its_nodes_goes_only_as_others_serve() {
    let select = |zone: &str| json!({"template": {"spec": {"nodeSelector": {"zone": zone}}}});
    let mut spec = select("a");
    spec["updateStrategy"] = rolling(json!(1), json!(0));
    let mut world = World::new(daemon_set("a", spec), 0);
    let taint = json!([{"key": "own", "effect": "NoSchedule"}]);
    world.nodes.insert("n0".into(), node("n0", json!({"zone": "a"}), json!([])));
    world.settle();
    // No new pod may come to n0, and n1 is to have one instead.
    world.nodes.insert("n0".into(), node("n0", json!({"zone": "a"}), taint));
    world.nodes.insert("n1".into(), node("n1", json!({"zone": "a"}), json!([])));
    world.begin();
    world.set_image("b");
    world.healthy = false;
    world.settle();
    assert_eq!(world.images(), ["a", "b"], "the old one serves until the new one does");
    for pod in world.pods.values_mut() {
        pod.status.as_mut().unwrap().conditions.as_mut().unwrap()[0].status = "True".into();
    }
    world.settle();
    assert_eq!(world.images(), ["b"]);
}

#[test]
fn on_delete_nothing_goes_by_itself() {
    let mut world = about_to_roll(json!({"type": "OnDelete", "rollingUpdate": null}), json!({}));
    world.settle();
    assert_eq!(
        (world.images(), world.status().updated_number_scheduled),
        (vec!["a"; 4], None)
    );
    let first = world.pods.keys().next().unwrap().clone();
    world.pods.remove(&first);
    world.settle();
    assert_eq!(world.images(), ["a", "a", "a", "b"]);
    assert_eq!(world.status().updated_number_scheduled, Some(1));
}
