//! The HorizontalPodAutoscaler: metrics in, desired replicas out (pkg/controller/podautoscaler). Proportional control with
//! a dead band (tolerance), a rate limit per direction (policies) and a window that damps reversals (stabilisation).
//!
//! Pure: time, metrics and the memory of earlier recommendations are arguments; the new memory is a result.

mod behavior;
mod replicas;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerStatus,
    MetricSpec, MetricStatus, MetricTarget, MetricValueStatus, ResourceMetricStatus,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use trireme_api::quantity;
use trireme_api::selector::LabelSelector;

pub use behavior::Memory;
use replicas::Proposal;

/// How often an autoscaler looks, in seconds.
pub const SYNC_PERIOD_SECONDS: u64 = 15;

/// What one look sees.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Desired.
    pub autoscaler: Arc<HorizontalPodAutoscaler>,
    /// The target's scale, or why there is none.
    pub scale: Result<Scale, String>,
    /// The pods that the scale's selector selects.
    pub pods: Vec<Arc<Pod>>,
    /// Usage by pod name, or why there is none.
    pub metrics: Result<BTreeMap<String, PodUsage>, String>,
    /// Why the scale could not be set, if the last look tried and failed: this one tells of it, the next tries again.
    pub failure: Option<String>,
    /// Names of the autoscalers of its namespace that control one of these pods, itself among them ([`controlling`]).
    pub controlling: Vec<String>,
}

/// The autoscalers, given by name and the selector of their target, that control one of these pods. Two that do would
/// undo each other's work.
#[must_use]
pub fn controlling<'a>(pods: &[Arc<Pod>], selectors: impl Iterator<Item = (&'a str, &'a LabelSelector)>) -> Vec<String> {
    let none = BTreeMap::new();
    let labels: Vec<_> = pods.iter().map(|pod| pod.metadata.labels.as_ref().unwrap_or(&none)).collect();
    let mut names: Vec<String> = selectors
        .filter(|(_, selector)| labels.iter().any(|labels| selector.matches(labels)))
        .map(|(name, _)| name.to_owned())
        .collect();
    names.sort();
    names
}

/// The `scale` subresource of the target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scale {
    /// `spec.replicas`.
    pub desired: i32,
    /// `status.replicas`.
    pub current: i32,
    /// `status.selector`; empty where it is missing.
    pub selector: String,
}

/// Usage of one pod over a window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodUsage {
    /// End of the window.
    pub timestamp: Timestamp,
    /// Length of the window.
    pub window_seconds: i64,
    /// By container name.
    pub containers: BTreeMap<String, ContainerUsage>,
}

/// Usage of one container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContainerUsage {
    /// Thousandths of a core.
    pub cpu_milli: i64,
    /// Bytes.
    pub memory_bytes: i64,
}

/// What one look decides.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// The size to set on the scale, where it is to change.
    pub scale_to: Option<i32>,
    /// What is told of that: done or, with the error behind it, failed.
    pub rescale: String,
    /// The status to write.
    pub status: HorizontalPodAutoscalerStatus,
    /// Other events, after the scale was set.
    pub events: Vec<Note>,
}

/// An event about the autoscaler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Whether it is a warning.
    pub warning: bool,
    /// Reason.
    pub reason: &'static str,
    /// Text.
    pub message: String,
}

struct Look<'a> {
    snapshot: &'a Snapshot,
    now: Timestamp,
    outcome: Outcome,
}

/// Decides. `memory` is what earlier looks remembered of this autoscaler and is brought up to date.
#[must_use]
pub fn reconcile(snapshot: &Snapshot, memory: &mut Memory, now: Timestamp) -> Outcome {
    let autoscaler = &snapshot.autoscaler;
    let mut status = autoscaler.status.clone().unwrap_or_default();
    status.observed_generation = autoscaler.metadata.generation;
    let mut look = Look {
        snapshot,
        now,
        outcome: Outcome {
            status,
            ..Outcome::default()
        },
    };
    look.run(memory);
    if look.outcome.status.conditions.as_ref().is_some_and(Vec::is_empty) {
        look.outcome.status.conditions = None;
    }
    look.outcome
}

impl Look<'_> {
    fn run(&mut self, memory: &mut Memory) {
        let autoscaler = Arc::clone(&self.snapshot.autoscaler);
        let spec = &autoscaler.spec;
        let scale = match &self.snapshot.scale {
            Ok(scale) => scale.clone(),
            Err(error) => {
                self.warn("FailedGetScale", error.clone());
                let message = format!("the HPA controller was unable to get the target's current scale: {error}");
                self.condition("AbleToScale", "False", "FailedGetScale", message);
                return;
            }
        };
        let message = "the HPA controller was able to get the target's current scale";
        self.condition("AbleToScale", "True", "SucceededGetScale", message.into());
        let current = scale.desired;
        let minimum = spec.min_replicas.unwrap_or(1);
        memory.begin(current, self.now);

        let mut statuses = self.outcome.status.current_metrics.take();
        let (desired, reason) = if current == 0 && minimum != 0 {
            let message = "scaling is disabled since the replica count of the target is zero";
            self.condition("ScalingActive", "False", "ScalingDisabled", message.into());
            (0, String::new())
        } else if current > spec.max_replicas {
            (
                spec.max_replicas,
                "Current number of replicas above Spec.MaxReplicas".to_owned(),
            )
        } else if current < minimum {
            (minimum, "Current number of replicas below Spec.MinReplicas".to_owned())
        } else {
            let metrics = spec.metrics.clone().unwrap_or_default();
            let (proposal, computed) = self.propose(&metrics, &scale);
            statuses = (!computed.is_empty()).then_some(computed);
            let Some((proposed, metric)) = proposal else {
                self.finish(current, self.outcome.status.desired_replicas, statuses);
                return;
            };
            let reason = match proposed.cmp(&current) {
                std::cmp::Ordering::Greater => format!("{metric} above target"),
                std::cmp::Ordering::Less => "All metrics below target".to_owned(),
                std::cmp::Ordering::Equal => String::new(),
            };
            let normal = memory.normalize(spec, current, proposed, self.now);
            for (kind, status, reason, message) in normal.conditions {
                self.condition(kind, status, reason, message.into());
            }
            (normal.desired, reason)
        };
        if desired != current
            && let Some(why) = &self.snapshot.failure
        {
            let message = format!("the HPA controller was unable to update the target scale: {why}");
            self.condition("AbleToScale", "False", "FailedUpdateScale", message);
            self.finish(current, self.outcome.status.desired_replicas, statuses);
            return;
        }
        if desired != current {
            self.outcome.scale_to = Some(desired);
            let message = format!("the HPA controller was able to update the target scale to {desired}");
            self.condition("AbleToScale", "True", "SucceededRescale", message);
            self.outcome.rescale = format!("New size: {desired}; reason: {reason}");
            memory.decide(current, desired, self.now);
            self.outcome.status.last_scale_time = Some(Time(self.now));
        }
        self.finish(current, desired, statuses);
    }

    fn finish(&mut self, current: i32, desired: i32, statuses: Option<Vec<MetricStatus>>) {
        let status = &mut self.outcome.status;
        status.current_replicas = Some(current);
        status.desired_replicas = desired;
        status.current_metrics = statuses;
    }

    /// The largest proposal of all metrics and the metric's name; `None` where no scaling is safe.
    fn propose(&mut self, metrics: &[MetricSpec], scale: &Scale) -> (Option<(i32, String)>, Vec<MetricStatus>) {
        if let Err(why) = self.check_selector(scale) {
            self.warn("FailedComputeMetricsReplicas", why);
            return (None, vec![]);
        }
        let mut best: Option<(i32, String)> = None;
        let mut statuses = Vec::new();
        let mut failures: Vec<(&'static str, String)> = Vec::new();
        for metric in metrics {
            match self.evaluate(metric, scale) {
                Ok((replicas, name, status)) => {
                    statuses.push(status);
                    if best.as_ref().is_none_or(|(most, _)| replicas > *most) {
                        best = Some((replicas, name));
                    }
                }
                Err(failure) => failures.push(failure),
            }
        }
        for (reason, message) in &failures {
            self.warn(reason, message.clone());
        }
        if let Some((reason, message)) = failures.first() {
            // With some metrics missing, growing is safe and shrinking is not.
            if best.as_ref().is_none_or(|(replicas, _)| *replicas < scale.desired) {
                self.condition(
                    "ScalingActive",
                    "False",
                    reason,
                    format!("the HPA was unable to compute the replica count: {message}"),
                );
                let all = format!(
                    "invalid metrics ({} invalid out of {}), first error is: {message}",
                    failures.len(),
                    metrics.len()
                );
                self.warn("FailedComputeMetricsReplicas", all);
                return (None, statuses);
            }
        }
        if let Some((_, name)) = &best {
            let message = format!("the HPA was able to successfully calculate a replica count from {name}");
            self.condition("ScalingActive", "True", "ValidMetricFound", message);
        }
        (best, statuses)
    }

    /// Whether the selector says which pods are meant, and nobody else scales them. The error is what upstream reports.
    fn check_selector(&mut self, scale: &Scale) -> Result<(), String> {
        let controlling = &self.snapshot.controlling;
        let (event, reason, why, shown) = if scale.selector.is_empty() {
            let shown = "the HPA target's scale is missing a selector".to_owned();
            (
                "SelectorRequired",
                "InvalidSelector",
                "selector is required".to_owned(),
                shown,
            )
        } else if let Err(error) = LabelSelector::parse(&scale.selector) {
            let why = format!("couldn't convert selector into a corresponding internal selector object: {error}");
            ("InvalidSelector", "InvalidSelector", why.clone(), why)
        } else if controlling.len() > 1 {
            let namespace = self.snapshot.autoscaler.metadata.namespace.as_deref().unwrap_or_default();
            let keys: Vec<String> = controlling.iter().map(|name| format!("{{{name} {namespace}}}")).collect();
            let (selector, keys) = (&scale.selector, keys.join(" "));
            let why = format!("pods by selector {selector} are controlled by multiple HPAs: [{keys}]");
            ("AmbiguousSelector", "AmbiguousSelector", why.clone(), why)
        } else {
            return Ok(());
        };
        self.warn(event, why.clone());
        self.condition("ScalingActive", "False", reason, shown);
        Err(why)
    }

    fn evaluate(&self, metric: &MetricSpec, scale: &Scale) -> Result<(i32, String, MetricStatus), (&'static str, String)> {
        let (resource, container, target, failure) = match (&metric.resource, &metric.container_resource) {
            (Some(source), _) => (&source.name, None, &source.target, "FailedGetResourceMetric"),
            (_, Some(source)) => (
                &source.name,
                Some(source.container.as_str()),
                &source.target,
                "FailedGetContainerResourceMetric",
            ),
            _ => return Err(unserved(&metric.type_)),
        };
        let proposal = self
            .resource(resource, container, target, scale)
            .map_err(|why| (failure, why))?;
        let name = match (&target.average_value, container) {
            (Some(_), _) => format!("{resource} resource"),
            (None, Some(_)) => format!("{resource} container resource utilization (percentage of request)"),
            (None, None) => format!("{resource} resource utilization (percentage of request)"),
        };
        let current = MetricValueStatus {
            average_utilization: proposal.utilization,
            average_value: Some(show(resource, proposal.average_milli)),
            value: None,
        };
        let status = match container {
            None => MetricStatus {
                type_: "Resource".into(),
                resource: Some(ResourceMetricStatus {
                    name: resource.clone(),
                    current,
                }),
                ..MetricStatus::default()
            },
            Some(container) => MetricStatus {
                type_: "ContainerResource".into(),
                container_resource: Some(ContainerResourceMetricStatus {
                    name: resource.clone(),
                    container: container.into(),
                    current,
                }),
                ..MetricStatus::default()
            },
        };
        Ok((proposal.replicas, name, status))
    }

    fn resource(
        &self,
        resource: &str,
        container: Option<&str>,
        target: &MetricTarget,
        scale: &Scale,
    ) -> Result<Proposal, String> {
        let kind = if target.average_value.is_some() {
            "usage"
        } else {
            "utilization"
        };
        let usage = match &self.snapshot.metrics {
            Ok(usage) => replicas::usage_of(usage, &self.snapshot.pods, resource, container),
            Err(error) => Err(format!("unable to get metrics for resource {resource}: {error}")),
        };
        let question = replicas::Question {
            pods: &self.snapshot.pods,
            resource,
            container,
            tolerances: behavior::tolerances(Some(&self.snapshot.autoscaler.spec)),
            now: self.now,
        };
        let proposal = usage.and_then(|usage| match (&target.average_value, target.average_utilization) {
            (Some(value), _) => {
                let target = quantity::Quantity::parse(&value.0).map_err(|error| error.to_string())?.milli_value();
                question.by_value(usage, target, scale)
            }
            (None, Some(percent)) => question.by_utilization(usage, percent, scale),
            (None, None) => {
                Err("invalid resource metric source: neither an average utilization target nor an average value (usage) target was set".into())
            }
        });
        proposal.map_err(|why| format!("failed to get {resource} {kind}: {why}"))
    }

    fn warn(&mut self, reason: &'static str, message: String) {
        self.outcome.events.push(Note {
            warning: true,
            reason,
            message,
        });
    }

    fn condition(&mut self, kind: &str, status: &str, reason: &str, message: String) {
        let conditions = self.outcome.status.conditions.get_or_insert_default();
        let now = Some(Time(self.now));
        match conditions.iter_mut().find(|condition| condition.type_ == kind) {
            Some(held) => {
                if held.status != status {
                    held.last_transition_time = now;
                }
                held.status = status.into();
                held.reason = Some(reason.into());
                held.message = Some(message);
            }
            None => conditions.push(HorizontalPodAutoscalerCondition {
                type_: kind.into(),
                status: status.into(),
                reason: Some(reason.into()),
                message: Some(message),
                last_transition_time: now,
            }),
        }
    }
}

/// Metrics that need an adapter which is not there.
fn unserved(kind: &str) -> (&'static str, String) {
    match kind {
        "Pods" => (
            "FailedGetPodsMetric",
            "failed to get pods metric value: no custom metrics API is registered".into(),
        ),
        "Object" => (
            "FailedGetObjectMetric",
            "failed to get object metric value: no custom metrics API is registered".into(),
        ),
        "External" => (
            "FailedGetExternalMetric",
            "failed to get external metric value: no external metrics API is registered".into(),
        ),
        other => ("InvalidMetricSourceType", format!("unknown metric source type \"{other}\"")),
    }
}

/// CPU in thousandths of a core, all else in whole units.
fn show(resource: &str, milli: i64) -> Quantity {
    let shown = if resource == "cpu" {
        quantity::Quantity::from_milli(milli, quantity::Format::DecimalSi)
    } else {
        quantity::Quantity::new(milli / 1000, quantity::Format::BinarySi)
    };
    Quantity(shown.to_string())
}

#[cfg(test)]
mod tests;
