//! How many replicas would bring usage to its target (pkg/controller/podautoscaler/replica_calculator.go).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use trireme_api::quantity::Quantity;

use crate::{PodUsage, Scale};

/// For so long after its start a pod's CPU counts only when it is ready and was so for a whole window.
const CPU_INITIALIZATION_SECONDS: i64 = 300;
/// A pod that became unready within this time of its start has never been ready.
const INITIAL_READINESS_SECONDS: i64 = 30;

/// Dead band around 1.0, per direction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Tolerances {
    pub(crate) down: f64,
    pub(crate) up: f64,
}

impl Tolerances {
    fn holds(self, ratio: f64) -> bool {
        (1.0 - self.down..=1.0 + self.up).contains(&ratio)
    }
}

/// Usage of one pod in thousandths of the resource's unit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    milli: i64,
    timestamp: Option<(Timestamp, i64)>,
}

pub(crate) type Samples = BTreeMap<String, Sample>;

/// What one metric proposes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Proposal {
    pub(crate) replicas: i32,
    pub(crate) utilization: Option<i32>,
    pub(crate) average_milli: i64,
}

/// Picks one resource out of the pods' usage. A pod with a container unaccounted for has no sample.
pub(crate) fn usage_of(
    usage: &BTreeMap<String, PodUsage>,
    pods: &[Arc<Pod>],
    resource: &str,
    container: Option<&str>,
) -> Result<Samples, String> {
    let value = |usage: &crate::ContainerUsage| match resource {
        "cpu" => Some(usage.cpu_milli),
        "memory" => Some(usage.memory_bytes.saturating_mul(1000)),
        _ => None,
    };
    let samples: Samples = pods
        .iter()
        .filter_map(|pod| {
            let name = pod.metadata.name.clone()?;
            let usage = usage.get(&name)?;
            let milli = match container {
                Some(container) => value(usage.containers.get(container)?)?,
                None => usage.containers.values().map(value).sum::<Option<i64>>()?,
            };
            Some((
                name,
                Sample {
                    milli,
                    timestamp: Some((usage.timestamp, usage.window_seconds)),
                },
            ))
        })
        .collect();
    if samples.is_empty() {
        return Err(format!(
            "unable to get metrics for resource {resource}: no metrics returned from resource metrics API"
        ));
    }
    Ok(samples)
}

/// One metric's question.
pub(crate) struct Question<'a> {
    pub(crate) pods: &'a [Arc<Pod>],
    pub(crate) resource: &'a str,
    pub(crate) container: Option<&'a str>,
    pub(crate) tolerances: Tolerances,
    pub(crate) now: Timestamp,
}

#[derive(Default)]
struct Groups {
    ready: usize,
    unready: BTreeSet<String>,
    missing: BTreeSet<String>,
    ignored: BTreeSet<String>,
}

/// Ratio of usage to target, utilisation in percent where there are requests, average in thousandths.
type Ratio = (f64, Option<i32>, i64);

impl Question<'_> {
    /// Towards a percentage of the pods' requests.
    pub(crate) fn by_utilization(&self, samples: Samples, percent: i32, scale: &Scale) -> Result<Proposal, String> {
        let requests = self.requests()?;
        let ratio = |samples: &Samples| -> Result<Ratio, String> {
            let known = || {
                samples
                    .iter()
                    .filter_map(|(name, sample)| Some((sample.milli, *requests.get(name)?)))
            };
            let total: i64 = known().map(|(used, _)| used).sum();
            let requested: i64 = known().map(|(_, requested)| requested).sum();
            if requested == 0 {
                return Err("no metrics returned matched known pods".into());
            }
            let utilization = i32::try_from(total.saturating_mul(100) / requested).unwrap_or(i32::MAX);
            let count = i64::try_from(known().count()).unwrap_or(i64::MAX);
            Ok((f64::from(utilization) / f64::from(percent), Some(utilization), total / count))
        };
        let full = |name: &String| {
            requests
                .get(name)
                .map_or(0, |request| request * i64::from(percent.max(100)) / 100)
        };
        self.propose(samples, scale, &ratio, &full)
    }

    /// Towards an average in thousandths of the resource's unit.
    pub(crate) fn by_value(&self, samples: Samples, target: i64, scale: &Scale) -> Result<Proposal, String> {
        let ratio = |samples: &Samples| -> Result<Ratio, String> {
            let total: i64 = samples.values().map(|sample| sample.milli).sum();
            let average = total / i64::try_from(samples.len().max(1)).unwrap_or(1);
            #[expect(clippy::cast_precision_loss, reason = "a ratio needs no more than 53 bits")]
            Ok((average as f64 / target as f64, None, average))
        };
        self.propose(samples, scale, &ratio, &|_| target)
    }

    fn propose(
        &self,
        mut samples: Samples,
        scale: &Scale,
        ratio: &dyn Fn(&Samples) -> Result<Ratio, String>,
        full: &dyn Fn(&String) -> i64,
    ) -> Result<Proposal, String> {
        if self.pods.is_empty() {
            return Err("no pods returned by selector while calculating replica count".into());
        }
        let groups = self.group(&samples);
        samples.retain(|name, _| !groups.ignored.contains(name) && !groups.unready.contains(name));
        if samples.is_empty() {
            return Err("did not receive metrics for targeted pods (pods might be unready)".into());
        }
        let (first, utilization, average_milli) = ratio(&samples)?;
        let answer = |replicas| {
            Ok(Proposal {
                replicas,
                utilization,
                average_milli,
            })
        };
        let current = scale.desired;
        let rises_with_unready = !groups.unready.is_empty() && first > 1.0;
        if !rises_with_unready && groups.missing.is_empty() {
            return answer(if self.tolerances.holds(first) {
                current
            } else {
                times(first, groups.ready)
            });
        }
        // Whoever cannot be measured is taken to dampen the change: idle when growing, busy when shrinking.
        let mut assume = |names: &BTreeSet<String>, value: &dyn Fn(&String) -> i64| {
            for name in names {
                samples.insert(
                    name.clone(),
                    Sample {
                        milli: value(name),
                        timestamp: None,
                    },
                );
            }
        };
        if first < 1.0 {
            assume(&groups.missing, full);
        } else if first > 1.0 {
            assume(&groups.missing, &|_| 0);
        }
        if rises_with_unready {
            assume(&groups.unready, &|_| 0);
        }
        let (second, _, _) = ratio(&samples)?;
        let turned = (first < 1.0 && second > 1.0) || (first > 1.0 && second < 1.0);
        if self.tolerances.holds(second) || turned {
            return answer(current);
        }
        let replicas = times(second, samples.len());
        let backwards = (second < 1.0 && replicas > current) || (second > 1.0 && replicas < current);
        answer(if backwards { current } else { replicas })
    }

    fn group(&self, samples: &Samples) -> Groups {
        let mut groups = Groups::default();
        for pod in self.pods {
            let name = pod.metadata.name.clone().unwrap_or_default();
            let phase = pod
                .status
                .as_ref()
                .and_then(|status| status.phase.as_deref())
                .unwrap_or_default();
            if pod.metadata.deletion_timestamp.is_some() || phase == "Failed" {
                groups.ignored.insert(name);
            } else if phase == "Pending" {
                groups.unready.insert(name);
            } else {
                let group = match samples.get(&name) {
                    None => &mut groups.missing,
                    Some(sample) if self.resource == "cpu" && self.is_warming_up(pod, sample) => &mut groups.unready,
                    Some(_) => {
                        groups.ready += 1;
                        continue;
                    }
                };
                group.insert(name);
            }
        }
        groups
    }

    fn is_warming_up(&self, pod: &Pod, sample: &Sample) -> bool {
        let Some(status) = &pod.status else { return true };
        let ready = status
            .conditions
            .iter()
            .flatten()
            .find(|condition| condition.type_ == "Ready");
        let (Some(ready), Some(start)) = (ready, &status.start_time) else {
            return true;
        };
        let start = start.0.as_second();
        let since = ready.last_transition_time.as_ref().map_or(start, |time| time.0.as_second());
        if start + CPU_INITIALIZATION_SECONDS > self.now.as_second() {
            let whole_window = sample
                .timestamp
                .is_some_and(|(end, window)| end.as_second() >= since + window);
            ready.status == "False" || !whole_window
        } else {
            ready.status == "False" && start + INITIAL_READINESS_SECONDS > since
        }
    }

    /// Requests of each pod, or of the one container, in thousandths of the resource's unit.
    fn requests(&self) -> Result<BTreeMap<String, i64>, String> {
        let mut requests = BTreeMap::new();
        for pod in self.pods {
            let Some(spec) = &pod.spec else { continue };
            let sidecars = spec
                .init_containers
                .iter()
                .flatten()
                .filter(|container| container.restart_policy.as_deref() == Some("Always"));
            let name = pod.metadata.name.clone().unwrap_or_default();
            let mut total = 0;
            for container in spec.containers.iter().chain(sidecars) {
                if self.container.is_none_or(|wanted| wanted == container.name) {
                    total += request(container, self.resource).ok_or_else(|| {
                        format!(
                            "missing request for {} in container {} of Pod {name}",
                            self.resource, container.name
                        )
                    })?;
                }
            }
            requests.insert(name, total);
        }
        Ok(requests)
    }
}

fn request(container: &Container, resource: &str) -> Option<i64> {
    let quantity = container.resources.as_ref()?.requests.as_ref()?.get(resource)?;
    Some(Quantity::parse(&quantity.0).ok()?.milli_value())
}

fn times(ratio: f64, count: usize) -> i32 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        reason = "replica counts are small; the cast saturates"
    )]
    let replicas = (ratio * count as f64).ceil() as i32;
    replicas
}
