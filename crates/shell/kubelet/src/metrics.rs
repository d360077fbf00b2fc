//! CPU rate and memory of containers, pods and the node, for `metrics.k8s.io`.
//!
//! Invariant: nothing is sampled unless somebody asks; who asks the first time waits one short moment for a rate. Later
//! rates are over at least [`WINDOW_MIN`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::{Mutex, RwLock};
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;
use trireme_runtime::cri::{RuntimeService, Usage};

use crate::shared::PodView;

/// Shortest time between two samples that make a rate, and how often samples are taken while anyone asks.
const WINDOW_MIN: Duration = Duration::from_secs(10);
/// Sampling ends this long after the last question.
const IDLE: Duration = Duration::from_secs(120);
/// First window, before there is a longer one.
const FIRST_WINDOW: Duration = Duration::from_millis(500);

/// Resource metrics of one node.
pub struct ResourceMetrics {
    inner: Arc<Inner>,
    sampler: Mutex<Option<AbortOnDropHandle<()>>>,
}

struct Inner {
    node: String,
    labels: BTreeMap<String, String>,
    runtime: Arc<dyn RuntimeService>,
    pods: Arc<RwLock<BTreeMap<String, PodView>>>,
    samples: Mutex<Samples>,
    asked: Mutex<Instant>,
}

#[derive(Default)]
struct Samples {
    before: Option<Sample>,
    last: Option<Sample>,
}

#[derive(Clone)]
struct Sample {
    at: Instant,
    time: Timestamp,
    containers: BTreeMap<String, Usage>,
    node: Usage,
}

/// A rate of one thing.
#[derive(Clone, Copy)]
struct Rate {
    nano_cores: u64,
    memory: u64,
}

impl ResourceMetrics {
    pub(crate) fn new(
        node: String,
        labels: BTreeMap<String, String>,
        runtime: Arc<dyn RuntimeService>,
        pods: Arc<RwLock<BTreeMap<String, PodView>>>,
    ) -> Self {
        let inner = Inner {
            node,
            labels,
            runtime,
            pods,
            samples: Mutex::default(),
            asked: Mutex::new(Instant::now()),
        };
        Self {
            inner: Arc::new(inner),
            sampler: Mutex::default(),
        }
    }

    /// `NodeMetrics` of `metrics.k8s.io/v1beta1`, `None` where nothing can be measured.
    pub async fn node_metrics(&self) -> Option<Value> {
        let (before, last) = self.samples().await?;
        let rate = rate(&before, &last, &before.node, &last.node);
        let mut labels = self.inner.labels.clone();
        labels
            .entry("kubernetes.io/hostname".into())
            .or_insert_with(|| self.inner.node.clone());
        Some(json!({
            "kind": "NodeMetrics", "apiVersion": "metrics.k8s.io/v1beta1",
            "metadata": {"name": self.inner.node, "creationTimestamp": now(), "labels": labels},
            "timestamp": seconds(last.time), "window": window(&before, &last), "usage": usage(rate)
        }))
    }

    /// `PodMetrics` of `metrics.k8s.io/v1beta1`, one per pod with a running container that was seen twice.
    pub async fn pod_metrics(&self) -> Vec<Value> {
        let Some((before, last)) = self.samples().await else {
            return Vec::new();
        };
        let pods: Vec<PodView> = self.inner.pods.read().values().cloned().collect();
        let mut found = Vec::new();
        for view in pods {
            let running = view.containers.iter().filter(|run| run.running);
            let containers: Vec<Value> = running
                .filter_map(|run| {
                    let rate = rate(&before, &last, before.containers.get(&run.id)?, last.containers.get(&run.id)?);
                    Some(json!({"name": run.name, "usage": usage(rate)}))
                })
                .collect();
            if containers.is_empty() {
                continue;
            }
            let metadata = &view.pod.metadata;
            found.push(json!({
                "kind": "PodMetrics", "apiVersion": "metrics.k8s.io/v1beta1",
                "metadata": {
                    "name": metadata.name, "namespace": metadata.namespace, "creationTimestamp": now(),
                    "labels": metadata.labels.clone().unwrap_or_default()
                },
                "timestamp": seconds(last.time), "window": window(&before, &last), "containers": containers
            }));
        }
        found
    }

    /// Usage of every container by id, and of the node, as it is now.
    pub(crate) async fn raw(&self) -> Option<(BTreeMap<String, Usage>, Usage, Timestamp)> {
        let sample = self.inner.sample().await?;
        Some((sample.containers, sample.node, sample.time))
    }

    async fn samples(&self) -> Option<(Sample, Sample)> {
        *self.inner.asked.lock() = Instant::now();
        self.keep_sampling();
        let fresh = |samples: &Samples| {
            samples.last.as_ref().is_some_and(|last| last.at.elapsed() < WINDOW_MIN * 2) && samples.before.is_some()
        };
        if !fresh(&self.inner.samples.lock()) {
            let before = self.inner.sample().await?;
            tokio::time::sleep(FIRST_WINDOW).await;
            let last = self.inner.sample().await?;
            *self.inner.samples.lock() = Samples {
                before: Some(before),
                last: Some(last),
            };
        }
        let samples = self.inner.samples.lock();
        Some((samples.before.clone()?, samples.last.clone()?))
    }

    fn keep_sampling(&self) {
        let mut sampler = self.sampler.lock();
        if sampler.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let inner = Arc::clone(&self.inner);
        *sampler = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            while inner.asked.lock().elapsed() < IDLE {
                tokio::time::sleep(WINDOW_MIN).await;
                if let Some(new) = inner.sample().await {
                    let mut samples = inner.samples.lock();
                    samples.before = samples.last.take();
                    samples.last = Some(new);
                }
            }
            *inner.samples.lock() = Samples::default();
        })));
    }
}

impl Inner {
    async fn sample(&self) -> Option<Sample> {
        let containers = match self.runtime.list_container_stats().await {
            Ok(stats) => stats.into_iter().map(|stats| (stats.id, stats.usage)).collect(),
            Err(error) => {
                tracing::warn!("usage of containers is not known: {error}");
                return None;
            }
        };
        Some(Sample {
            at: Instant::now(),
            time: Timestamp::now(),
            containers,
            node: node_usage()?,
        })
    }
}

/// Usage of the whole machine from `/proc`.
fn node_usage() -> Option<Usage> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let fields: Vec<u64> = stat
        .lines()
        .next()?
        .split_whitespace()
        .skip(1)
        .filter_map(|field| field.parse().ok())
        .collect();
    // user, nice, system, irq, softirq, steal; not idle and iowait. In hundredths of a second.
    let busy: u64 = [0, 1, 2, 5, 6, 7].iter().filter_map(|index| fields.get(*index)).sum();
    let memory = std::fs::read_to_string("/proc/meminfo").ok()?;
    let of = |key: &str| -> u64 {
        let line = memory.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok())
            .unwrap_or(0)
            * 1024
    };
    Some(Usage {
        timestamp: i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(0),
        cpu_nanoseconds: busy * 10_000_000,
        memory_working_set_bytes: of("MemTotal:").saturating_sub(of("MemAvailable:")),
        memory_usage_bytes: of("MemTotal:").saturating_sub(of("MemFree:")),
    })
}

fn rate(before: &Sample, last: &Sample, one: &Usage, two: &Usage) -> Rate {
    let by_stamps = two.timestamp.saturating_sub(one.timestamp);
    let elapsed = match u128::try_from(by_stamps) {
        Ok(nanoseconds) if nanoseconds > 0 => nanoseconds,
        _ => last.at.duration_since(before.at).as_nanos().max(1),
    };
    let used = u128::from(two.cpu_nanoseconds.saturating_sub(one.cpu_nanoseconds));
    Rate {
        nano_cores: u64::try_from(used * 1_000_000_000 / elapsed).unwrap_or(u64::MAX),
        memory: two.memory_working_set_bytes,
    }
}

fn usage(rate: Rate) -> Value {
    json!({"cpu": if rate.nano_cores == 0 { "0".to_owned() } else { format!("{}n", rate.nano_cores) }, "memory": format!("{}Ki", rate.memory / 1024)})
}

fn window(before: &Sample, last: &Sample) -> String {
    let window = last.at.duration_since(before.at);
    format!("{}.{:03}s", window.as_secs(), window.subsec_millis())
}

fn now() -> String {
    seconds(Timestamp::now())
}

fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
