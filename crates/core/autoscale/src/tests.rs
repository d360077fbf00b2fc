//! Looks played through second by second.

use serde_json::{Value, json};

use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + seconds).unwrap()
}

fn pod(name: &str, started: i64) -> Arc<Pod> {
    Arc::new(
        serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "100m"}}}]},
            "status": {"phase": "Running", "startTime": at(started).to_string(),
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": at(started).to_string()}]}
        }))
        .unwrap(),
    )
}

struct World {
    spec: Value,
    replicas: i32,
    memory: Memory,
    status: HorizontalPodAutoscalerStatus,
    /// Why the scale cannot be set.
    refusal: Option<String>,
    /// What the last look failed by.
    failure: Option<String>,
}

impl World {
    fn new(replicas: i32, behavior: Value) -> Self {
        let spec = json!({
            "scaleTargetRef": {"kind": "Deployment", "name": "web"}, "minReplicas": 1, "maxReplicas": 10, "behavior": behavior,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}]
        });
        Self {
            spec,
            replicas,
            memory: Memory::default(),
            status: HorizontalPodAutoscalerStatus::default(),
            refusal: None,
            failure: None,
        }
    }

    /// Looks at a moment at which each pod uses so many thousandths of a core.
    fn look(&mut self, second: i64, milli: i64) -> Outcome {
        let mut autoscaler: HorizontalPodAutoscaler =
            serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": self.spec})).unwrap();
        autoscaler.status = Some(self.status.clone());
        let names: Vec<String> = (0..self.replicas).map(|number| format!("p{number}")).collect();
        let usage = |_: &String| PodUsage {
            timestamp: at(second),
            window_seconds: 15,
            containers: BTreeMap::from([(
                "c".to_owned(),
                ContainerUsage {
                    cpu_milli: milli,
                    memory_bytes: 0,
                },
            )]),
        };
        let snapshot = Snapshot {
            autoscaler: Arc::new(autoscaler),
            scale: Ok(Scale {
                desired: self.replicas,
                current: self.replicas,
                selector: "app=web".into(),
            }),
            pods: names.iter().map(|name| pod(name, -1000)).collect(),
            metrics: Ok(names.iter().map(|name| (name.clone(), usage(name))).collect()),
            failure: self.failure.clone(),
            controlling: vec!["web".into()],
        };
        let outcome = reconcile(&snapshot, &mut self.memory, at(second));
        self.failure = self.refusal.clone().filter(|_| outcome.scale_to.is_some());
        if self.failure.is_none() {
            self.replicas = outcome.scale_to.unwrap_or(self.replicas);
            self.status = outcome.status.clone();
        }
        outcome
    }
}

fn reason<'a>(outcome: &'a Outcome, kind: &str) -> &'a str {
    outcome
        .status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == kind)
        .and_then(|c| c.reason.as_deref())
        .unwrap_or("")
}

#[test]
fn grows_at_once_in_steps_and_shrinks_after_its_window() {
    let mut world = World::new(3, json!(null));
    let first = world.look(0, 200);
    assert_eq!(world.replicas, 6, "at most double");
    assert_eq!(reason(&first, "ScalingLimited"), "ScaleUpLimit");
    assert_eq!(
        first.rescale,
        "New size: 6; reason: cpu resource utilization (percentage of request) above target"
    );
    world.look(15, 200);
    assert_eq!(world.replicas, 10);
    assert_eq!(
        world.status.current_metrics.as_ref().unwrap()[0]
            .resource
            .as_ref()
            .unwrap()
            .current
            .average_utilization,
        Some(200)
    );
    let held = world.look(30, 0);
    assert_eq!((world.replicas, reason(&held, "AbleToScale")), (10, "ScaleDownStabilized"));
    world.look(300, 0);
    assert_eq!(world.replicas, 10);
    let fallen = world.look(316, 0);
    assert_eq!((world.replicas, reason(&fallen, "ScalingLimited")), (1, "TooFewReplicas"));
    assert_eq!(fallen.rescale, "New size: 1; reason: All metrics below target");
}

#[test]
fn the_tolerance_keeps_the_size() {
    let mut world = World::new(3, json!(null));
    assert_eq!(world.look(0, 54).scale_to, None);
    assert_eq!(world.look(15, 56).scale_to, Some(4));
    let mut fine = World::new(3, json!({"scaleUp": {"tolerance": "0.01"}}));
    assert_eq!(fine.look(0, 52).scale_to, Some(4));
}

#[test]
fn policies_bound_each_period() {
    let policies = json!({
        "scaleUp": {"stabilizationWindowSeconds": 0, "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}]},
        "scaleDown": {"stabilizationWindowSeconds": 0, "policies": [{"type": "Percent", "value": 50, "periodSeconds": 60}]}
    });
    let mut world = World::new(2, policies);
    let sizes: Vec<i32> = [0, 15, 30, 60]
        .iter()
        .map(|second| {
            world.look(*second, 500);
            world.replicas
        })
        .collect();
    assert_eq!(sizes, [3, 3, 3, 4]);
    world.look(200, 0);
    assert_eq!(world.replicas, 2);
    world.look(215, 0);
    assert_eq!(world.replicas, 2);
    let mut frozen = World::new(
        4,
        json!({"scaleDown": {"stabilizationWindowSeconds": 0, "selectPolicy": "Disabled"}}),
    );
    assert_eq!(frozen.look(0, 0).scale_to, None);
}

#[test]
fn what_cannot_be_measured_dampens() {
    let mut world = World::new(2, json!(null));
    let mut autoscaler: HorizontalPodAutoscaler = serde_json::from_value(json!({"spec": world.spec})).unwrap();
    autoscaler.status = None;
    let usage = PodUsage {
        timestamp: at(0),
        window_seconds: 15,
        containers: BTreeMap::from([(
            "c".to_owned(),
            ContainerUsage {
                cpu_milli: 90,
                memory_bytes: 0,
            },
        )]),
    };
    let mut snapshot = Snapshot {
        autoscaler: Arc::new(autoscaler),
        scale: Ok(Scale {
            desired: 2,
            current: 2,
            selector: "a=b".into(),
        }),
        pods: vec![pod("a", -1000), pod("b", -1000)],
        metrics: Ok(BTreeMap::from([("a".to_owned(), usage)])),
        failure: None,
        controlling: vec!["web".into()],
    };
    assert_eq!(
        reconcile(&snapshot, &mut world.memory, at(0)).scale_to,
        None,
        "the silent pod is taken for idle"
    );
    snapshot.metrics = Err("none".into());
    let failed = reconcile(&snapshot, &mut world.memory, at(15));
    assert_eq!(reason(&failed, "ScalingActive"), "FailedGetResourceMetric");
    assert_eq!(failed.scale_to, None);
}

#[test]
fn two_autoscalers_of_the_same_pods_scale_nothing_and_say_so() {
    let mut labelled = Pod::clone(&pod("a", -1000));
    labelled.metadata.labels = Some(BTreeMap::from([("app".to_owned(), "web".to_owned())]));
    let selectors = ["app=web", "app in (web,db)", "app=db"].map(|text| LabelSelector::parse(text).unwrap());
    let named = ["one", "two", "other"].into_iter().zip(&selectors);
    let controlling = controlling(&[Arc::new(labelled)], named);
    assert_eq!(controlling, ["one", "two"]);
    let autoscaler = json!({"metadata": {"name": "one", "namespace": "ns"},
        "spec": {"maxReplicas": 9, "scaleTargetRef": {"kind": "Deployment", "name": "web"}}});
    let snapshot = Snapshot {
        autoscaler: Arc::new(serde_json::from_value(autoscaler).unwrap()),
        scale: Ok(Scale {
            desired: 2,
            current: 2,
            selector: "app=web".into(),
        }),
        pods: vec![],
        metrics: Ok(BTreeMap::new()),
        failure: None,
        controlling,
    };
    let outcome = reconcile(&snapshot, &mut Memory::default(), at(0));
    assert_eq!(
        (outcome.scale_to, reason(&outcome, "ScalingActive")),
        (None, "AmbiguousSelector")
    );
    let why = "pods by selector app=web are controlled by multiple HPAs: [{one ns} {two ns}]";
    let events: Vec<_> = outcome
        .events
        .iter()
        .map(|note| (note.warning, note.reason, note.message.as_str()))
        .collect();
    assert_eq!(
        events,
        [(true, "AmbiguousSelector", why), (true, "FailedComputeMetricsReplicas", why)]
    );
    let active = outcome
        .status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "ScalingActive");
    assert_eq!(active.unwrap().status, "False");
    assert_eq!(active.unwrap().message.as_deref(), Some(why));
}

#[test]
fn a_size_that_could_not_be_set_is_told_and_counts_for_nothing() {
    let one_a_minute = json!({"scaleUp": {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}]}});
    let mut world = World::new(2, one_a_minute);
    world.refusal = Some("exceeded quota".into());
    assert_eq!(world.look(0, 500).scale_to, Some(3));
    assert_eq!(world.replicas, 2);
    let told = world.look(1, 500);
    assert_eq!((told.scale_to, reason(&told, "AbleToScale")), (None, "FailedUpdateScale"));
    let able = told
        .status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "AbleToScale")
        .unwrap();
    assert_eq!(able.status, "False");
    assert_eq!(
        able.message.as_deref(),
        Some("the HPA controller was unable to update the target scale: exceeded quota")
    );
    assert_eq!((told.status.current_replicas, told.status.last_scale_time), (Some(2), None));
    world.refusal = None;
    assert_eq!(
        world.look(16, 500).scale_to,
        Some(3),
        "the step that was not made is still to be had"
    );
    assert_eq!(world.look(31, 500).scale_to, None, "and then none for a minute");
}
