//! Horizontal pod autoscalers: looks every 15 seconds, reading the target's scale and `metrics.k8s.io` live.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use serde_json::{Value, json};
use trireme_api::quantity::Quantity;
use trireme_api::selector::LabelSelector;
use trireme_api::{Object, Status, time};
use trireme_autoscale::{ContainerUsage, Memory, Outcome, PodUsage, Scale, Snapshot};
use trireme_client::typed::target_of;
use trireme_client::{ListOptions, ResourceRef};
use trireme_reconcile::ownership::object_ref;
use trireme_reconcile::plan::{Action, EventKind, EventNote, ObjectRef, Plan};

use crate::registration::{Context, Failure, Key, Registration};

/// What a look saw: the snapshot, and the scale as it was read, to be written back.
struct Look {
    key: Key,
    snapshot: Snapshot,
    target: ObjectRef,
    scale: Option<Value>,
}

/// What earlier looks remember of an autoscaler.
#[derive(Default)]
struct Known {
    memory: Memory,
    /// Which pods its target has, as last read.
    selector: Option<LabelSelector>,
}

type Memories = Arc<Mutex<HashMap<Key, Known>>>;

pub(super) fn registration() -> Registration {
    let memories = Memories::default();
    let forgetting = Arc::clone(&memories);
    Registration::with_live_snapshot(
        "horizontal-pod-autoscaler",
        move |context, key| look(context, key, Arc::clone(&forgetting)),
        move |look: &Look, now| decide(look, &memories, now),
    )
    .component("horizontal-pod-autoscaler")
    .account("horizontal-pod-autoscaler")
    .queue("horizontalpodautoscaler")
    .watch::<HorizontalPodAutoscaler>(|cache, change| {
        // A new status is this controller's own doing.
        let spec = |object: &Option<Object>| {
            let autoscaler = cache.typed::<HorizontalPodAutoscaler>(object.as_ref()?)?;
            Some((autoscaler.metadata.uid.clone(), autoscaler.spec.clone()))
        };
        if spec(&change.old) == spec(&change.new) {
            Vec::new()
        } else {
            vec![Key::of(change)]
        }
    })
    .reads::<Pod>()
}

async fn look(context: Context, key: Key, memories: Memories) -> Result<Option<Look>, Status> {
    let Some(autoscaler) = context.cache.get::<HorizontalPodAutoscaler>(&key.namespace, &key.name) else {
        memories.lock().remove(&key);
        return Ok(None);
    };
    let target = &autoscaler.spec.scale_target_ref;
    let target = ObjectRef {
        api_version: target.api_version.clone().unwrap_or_default(),
        kind: target.kind.clone(),
        namespace: key.namespace.clone(),
        name: target.name.clone(),
        uid: String::new(),
    };
    let read = read_scale(&context, &target).await;
    let (scale, raw) = match read {
        Ok(value) => (Ok(scale_of(&value)), Some(value)),
        Err(message) => (Err(message), None),
    };
    let text = scale.as_ref().map(|scale| scale.selector.clone()).unwrap_or_default();
    let selector = LabelSelector::parse(&text).ok().filter(|_| !text.is_empty());
    let (pods, metrics) = match &selector {
        None => (Vec::new(), Ok(BTreeMap::new())),
        Some(selector) => {
            let matches = |labels: &BTreeMap<String, String>| selector.matches(labels);
            let pods = context.cache.list_where::<Pod>(Some(&key.namespace), matches);
            (pods, read_metrics(&context, &key, &text).await)
        }
    };
    let controlling = {
        let mut memories = memories.lock();
        if selector.is_some() {
            memories.entry(key.clone()).or_default().selector = selector;
        }
        let here = memories.iter().filter(|(other, _)| other.namespace == key.namespace);
        let selectors = here.filter_map(|(other, known)| Some((other.name.as_str(), known.selector.as_ref()?)));
        trireme_autoscale::controlling(&pods, selectors)
    };
    Ok(Some(Look {
        key,
        snapshot: Snapshot {
            autoscaler,
            scale,
            pods,
            metrics,
            failure: match context.failure {
                Some(Failure::Subresource(why)) => Some(why),
                _ => None,
            },
            controlling,
        },
        target,
        scale: raw,
    }))
}

async fn read_scale(context: &Context, target: &ObjectRef) -> Result<Value, String> {
    let resource = context.kinds.resource(&target.api_version, &target.kind);
    let Some(resource) = resource else {
        return Err(format!(
            "no matches for kind \"{}\" in group \"{}\"",
            target.kind,
            target.api_version.split_once('/').map_or("", |(group, _)| group)
        ));
    };
    let target = target_of(resource, &target.namespace, &target.name, Some("scale"));
    let read = context.client.transport().get(&target).await;
    read.map(|object| object.value()).map_err(|status| status.message)
}

fn scale_of(value: &Value) -> Scale {
    let number = |value: &Value| {
        value
            .as_i64()
            .and_then(|number| i32::try_from(number).ok())
            .unwrap_or_default()
    };
    Scale {
        desired: number(&value["spec"]["replicas"]),
        current: number(&value["status"]["replicas"]),
        selector: value["status"]["selector"].as_str().unwrap_or_default().to_owned(),
    }
}

async fn read_metrics(context: &Context, key: &Key, selector: &str) -> Result<BTreeMap<String, PodUsage>, String> {
    let resource = ResourceRef {
        group: "metrics.k8s.io".into(),
        version: "v1beta1".into(),
        plural: "pods".into(),
        namespaced: true,
    };
    let options = ListOptions {
        label_selector: Some(selector.to_owned()),
        ..ListOptions::default()
    };
    match context
        .client
        .transport()
        .list(&resource, Some(&key.namespace), &options)
        .await
    {
        Ok(list) => Ok(list
            .items
            .iter()
            .filter_map(|object| Some((object.header().name.clone(), usage_of(&object.value())?)))
            .collect()),
        Err(status) => Err(format!("unable to fetch metrics from resource metrics API: {status}")),
    }
}

/// One PodMetrics; `None` where it has no time.
fn usage_of(value: &Value) -> Option<PodUsage> {
    let quantity = |value: &Value| value.as_str().and_then(|text| Quantity::parse(text).ok());
    let containers = value["containers"].as_array().into_iter().flatten().map(|container| {
        let usage = &container["usage"];
        let usage = ContainerUsage {
            cpu_milli: quantity(&usage["cpu"]).map_or(0, |amount| amount.milli_value()),
            memory_bytes: quantity(&usage["memory"]).map_or(0, |amount| amount.value()),
        };
        (container["name"].as_str().unwrap_or_default().to_owned(), usage)
    });
    let window = value["window"].as_str().and_then(|text| time::parse_duration(text).ok());
    Some(PodUsage {
        timestamp: value["timestamp"].as_str().and_then(|text| text.parse().ok())?,
        window_seconds: window.unwrap_or_default() / 1_000_000_000,
        containers: containers.collect(),
    })
}

fn decide(look: &Look, memories: &Memories, now: Timestamp) -> Plan {
    let mut memories = memories.lock();
    let known = memories.entry(look.key.clone()).or_default();
    let outcome = trireme_autoscale::reconcile(&look.snapshot, &mut known.memory, now);
    drop(memories);
    Plan {
        actions: actions(look, &outcome),
        requeue_after: Some(Duration::from_secs(trireme_autoscale::SYNC_PERIOD_SECONDS)),
    }
}

fn actions(look: &Look, outcome: &Outcome) -> Vec<Action> {
    let autoscaler = &*look.snapshot.autoscaler;
    let mut actions = Vec::new();
    let regarding = object_ref("autoscaling/v2", "HorizontalPodAutoscaler", &autoscaler.metadata);
    let note = |kind, reason: &str, message: String| EventNote {
        regarding: regarding.clone(),
        kind,
        reason: reason.to_owned(),
        message,
    };
    if let (Some(replicas), Some(scale)) = (outcome.scale_to, &look.scale) {
        let mut object = scale.clone();
        object["spec"]["replicas"] = json!(replicas);
        let failed = format!("{}; error", outcome.rescale);
        actions.push(Action::Told {
            action: Box::new(Action::UpdateSubresource {
                target: look.target.clone(),
                subresource: "scale",
                object,
            }),
            done: Some(note(EventKind::Normal, "SuccessfulRescale", outcome.rescale.clone())),
            failed: Some(note(EventKind::Warning, "FailedRescale", failed)),
        });
    }
    actions.extend(outcome.events.iter().map(|told| {
        let kind = if told.warning { EventKind::Warning } else { EventKind::Normal };
        Action::Event(note(kind, told.reason, told.message.clone()))
    }));
    if autoscaler.status.as_ref() != Some(&outcome.status) {
        let mut autoscaler = autoscaler.clone();
        autoscaler.status = Some(outcome.status.clone());
        let object = serde_json::to_value(autoscaler).expect("an autoscaler serialises");
        actions.push(Action::UpdateStatus { object });
    }
    actions
}
