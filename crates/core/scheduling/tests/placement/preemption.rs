//! Whom preemption removes, and where: upstream's rules one by one.

use serde_json::{Value, json};

use crate::common::{Ground, cpu, node, pod};

/// A pod on a node with a priority and CPU in thousandths.
fn on(name: &str, node: &str, priority: i32, milli: u32) -> Value {
    let mut pod = pod(name, Some(node), &cpu(&format!("{milli}m")));
    pod["spec"]["priority"] = priority.into();
    pod["metadata"]["labels"] = json!({"name": name});
    pod
}

fn started(mut pod: Value, second: u32) -> Value {
    pod["status"]["startTime"] = format!("2026-01-01T00:00:{second:02}Z").into();
    pod
}

fn incoming(milli: u32) -> Value {
    let mut pod = on("new", "", 100, milli);
    pod["spec"]["nodeName"] = Value::Null;
    pod
}

fn nodes(names: &[&str]) -> Vec<Value> {
    let size = json!({"status": {"allocatable": {"cpu": "1", "pods": "10"}}});
    names.iter().map(|name| node(name, &size)).collect()
}

#[test]
fn victims_and_nodes_are_upstreams() {
    for (what, there, asked, node, victims) in [
        (
            "the least important make room",
            vec![on("a", "n1", 1, 400), on("b", "n1", 2, 400)],
            500,
            "n1",
            &["a"][..],
        ),
        (
            "of the same priority the one that started last",
            vec![started(on("a", "n1", 1, 400), 1), started(on("b", "n1", 1, 400), 9)],
            500,
            "n1",
            &["b"],
        ),
        (
            "one of the same priority or higher never",
            vec![on("a", "n1", 100, 600), on("b", "n1", 99, 400)],
            400,
            "n1",
            &["b"],
        ),
        (
            "the lowest highest priority",
            vec![on("a", "n1", 5, 800), on("b", "n2", 4, 800)],
            500,
            "n2",
            &["b"],
        ),
        (
            "then the least sum of priorities",
            vec![
                on("a", "n1", 5, 800),
                on("b", "n1", 1, 200),
                on("c", "n2", 5, 500),
                on("d", "n2", 5, 500),
            ],
            1000,
            "n1",
            &["a", "b"],
        ),
        (
            "then the node whose most important victims started last",
            vec![started(on("a", "n1", 5, 800), 1), started(on("b", "n2", 5, 800), 2)],
            500,
            "n2",
            &["b"],
        ),
        (
            "as few as possible",
            vec![on("a", "n1", 1, 300), on("b", "n1", 2, 300), on("c", "n1", 3, 300)],
            600,
            "n1",
            &["b", "a"],
        ),
    ] {
        let mut ground = Ground::new(
            &nodes(
                &["n1", "n2"][..if what.contains("node") || what.starts_with("the lowest") || what.contains("sum") {
                    2
                } else {
                    1
                }],
            ),
            &there,
        );
        let victims = victims.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(ground.preempt(&incoming(asked)), Ok((node.to_owned(), victims)), "{what}");
    }
}

fn budget(name: &str, allowed: i32) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"name": name}}},
        "status": {"disruptionsAllowed": allowed},
    })
}

#[test]
fn budgets_are_kept_where_another_node_or_victim_does() {
    // The budget counts more than priority, between nodes and on a node.
    let there = [on("a", "n1", 1, 800), on("b", "n2", 50, 800)];
    let mut ground = Ground::new(&nodes(&["n1", "n2"]), &there);
    let put = |ground: &mut Ground, name: &str, allowed| {
        let json = budget(name, allowed).to_string();
        ground.snapshot.put_budget("default", name, Some(json.as_bytes())).unwrap();
    };
    put(&mut ground, "a", 0);
    assert_eq!(ground.preempt(&incoming(500)), Ok(("n2".into(), vec!["b".into()])));
    put(&mut ground, "a", 1);
    assert_eq!(ground.preempt(&incoming(500)), Ok(("n1".into(), vec!["a".into()])));
    let mut ground = Ground::new(&nodes(&["n1"]), &[on("a", "n1", 1, 500), on("b", "n1", 50, 500)]);
    put(&mut ground, "a", 0);
    assert_eq!(ground.preempt(&incoming(500)), Ok(("n1".into(), vec!["b".into()])));
    // A budget that nobody can keep is broken.
    put(&mut ground, "b", 0);
    assert_eq!(
        ground.preempt(&incoming(1000)),
        Ok(("n1".into(), vec!["b".into(), "a".into()]))
    );
}

#[test]
fn says_why_preemption_does_not_help() {
    let mut ground = Ground::new(&nodes(&["n1", "n2"]), &[on("a", "n1", 100, 800), on("b", "n2", 1, 100)]);
    ground.put_pod(&on("c", "n2", 100, 800));
    let why = "0/2 nodes are available: 1 Insufficient cpu, 1 No preemption victims found for incoming pod.";
    assert_eq!(ground.preempt(&incoming(500)), Err(why.into()));
    assert_eq!(
        ground.preempt(&incoming(5000)),
        Err("0/2 nodes are available: 2 Preemption is not helpful for scheduling.".into())
    );
    let mut polite = incoming(500);
    polite["spec"]["preemptionPolicy"] = "Never".into();
    assert_eq!(
        ground.preempt(&polite),
        Err("not eligible due to preemptionPolicy=Never.".into())
    );
}

#[test]
fn who_has_preempted_waits_and_holds_the_room() {
    let mut going = on("a", "n1", 1, 800);
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    going["status"]["conditions"] = json!([{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]);
    let mut ground = Ground::new(&nodes(&["n1"]), &[going]);
    let mut waiting = incoming(500);
    waiting["status"]["nominatedNodeName"] = "n1".into();
    let record = ground.read(&waiting);
    ground.snapshot.nominate(std::sync::Arc::new(record));
    let why = "not eligible due to a terminating pod on the nominated node.";
    assert_eq!(ground.preempt(&waiting), Err(why.into()));
    ground.snapshot.remove_pod("a");
    // The room is the waiting pod's: no less important one gets it, a more important one does.
    let mut other = incoming(600);
    other["metadata"]["uid"] = "other".into();
    other["spec"]["priority"] = 99.into();
    assert!(ground.place(&other).is_err());
    other["spec"]["priority"] = 101.into();
    assert_eq!(ground.place(&other).as_deref(), Ok("n1"));
    assert_eq!(ground.place(&waiting).as_deref(), Ok("n1"));
}

#[test]
fn removing_a_pod_undoes_what_its_affinity_forbids() {
    let alone = json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"name": "new"}}}]}}});
    let mut guard = on("a", "n1", 1, 100);
    crate::common::merge(&mut guard["spec"], &alone);
    let mut ground = Ground::new(&nodes(&["n1"]), &[guard, on("b", "n1", 1, 100)]);
    assert_eq!(ground.preempt(&incoming(100)), Ok(("n1".into(), vec!["a".into()])));
}
