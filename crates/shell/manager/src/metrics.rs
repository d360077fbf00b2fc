//! What the manager and the scheduler did, for `/metrics`: upstream's `workqueue_*` and `scheduler_*`, and our own
//! counters of reconciliations.
//!
//! Invariant: labels come from registrations and closed sets, never from objects. One value outlives all terms as leader,
//! so counters never go back.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::queue::{Load, Queue};
use crate::workload_metrics::WorkloadMetrics;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct QueueLabels {
    name: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ControllerLabels {
    controller: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ComponentLabels {
    component: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabels {
    controller: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct AttemptLabels {
    result: &'static str,
    profile: Arc<str>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PendingLabels {
    queue: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct IncomingLabels {
    queue: &'static str,
    event: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct AttemptsLabels {
    attempts: &'static str,
}

type MakeHistogram = fn() -> Histogram;

/// 10 ns to 10 s, in tens.
fn queue_histogram() -> Histogram {
    Histogram::new(exponential_buckets(10e-9, 10.0, 10))
}

/// 1 ms to 16 s, doubling.
fn attempt_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

/// 10 ms to 87 min, doubling.
fn whole_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.01, 2.0, 20))
}

/// Counters of one controller and its queue.
#[derive(Debug)]
pub struct ControllerMetrics {
    /// Reconciliations that ended well.
    pub done: Counter,
    /// Reconciliations that failed and back off.
    pub failed: Counter,
    /// Reconciliations that panicked.
    pub panicked: Counter,
    /// Actions carried out.
    pub actions: Counter,
    /// Keys that came into the queue.
    pub(crate) added: Counter,
    /// Keys to be tried again later.
    pub(crate) retried: Counter,
    /// How long keys waited, in seconds.
    pub(crate) waited: Histogram,
    /// How long they were worked on, in seconds.
    pub(crate) worked: Histogram,
}

impl Default for ControllerMetrics {
    /// Counters that nobody asks for.
    fn default() -> Self {
        Self {
            done: Counter::default(),
            failed: Counter::default(),
            panicked: Counter::default(),
            actions: Counter::default(),
            added: Counter::default(),
            retried: Counter::default(),
            waited: queue_histogram(),
            worked: queue_histogram(),
        }
    }
}

/// What came of one attempt to place a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    Scheduled,
    Unschedulable,
    Error,
}

impl Attempt {
    fn labels(self, profile: &Arc<str>) -> AttemptLabels {
        AttemptLabels {
            result: match self {
                Self::Scheduled => "scheduled",
                Self::Unschedulable => "unschedulable",
                Self::Error => "error",
            },
            profile: Arc::clone(profile),
        }
    }
}

/// Counters of the scheduler.
#[derive(Clone, Debug)]
pub(crate) struct SchedulerMetrics {
    attempts: Family<AttemptLabels, Counter>,
    durations: Family<AttemptLabels, Histogram, MakeHistogram>,
    algorithm: Histogram,
    pending: Family<PendingLabels, Gauge>,
    incoming: Family<IncomingLabels, Counter>,
    tries: Histogram,
    whole: Family<AttemptsLabels, Histogram, MakeHistogram>,
}

impl SchedulerMetrics {
    fn new(registry: &mut Registry) -> Self {
        let this = Self {
            attempts: Family::default(),
            durations: Family::new_with_constructor(attempt_histogram),
            algorithm: attempt_histogram(),
            pending: Family::default(),
            incoming: Family::default(),
            tries: Histogram::new(exponential_buckets(1.0, 2.0, 5)),
            whole: Family::new_with_constructor(whole_histogram),
        };
        // The encoder appends `_total` to a counter's name.
        registry.register(
            "scheduler_schedule_attempts",
            "Attempts to place a pod, by result: scheduled, unschedulable (no node fits), error",
            this.attempts.clone(),
        );
        registry.register(
            "scheduler_scheduling_attempt_duration_seconds",
            "Time of an attempt to place a pod, binding included",
            this.durations.clone(),
        );
        registry.register(
            "scheduler_scheduling_algorithm_duration_seconds",
            "Time to choose a node",
            this.algorithm.clone(),
        );
        registry.register(
            "scheduler_pending_pods",
            "Pods without a node: active are due, backoff wait after a failure, unschedulable fit nowhere",
            this.pending.clone(),
        );
        registry.register(
            "scheduler_queue_incoming_pods",
            "Pods that came into a queue, by queue and cause",
            this.incoming.clone(),
        );
        registry.register(
            "scheduler_pod_scheduling_attempts",
            "Attempts that a pod took until it had a node",
            this.tries.clone(),
        );
        registry.register(
            "scheduler_pod_scheduling_sli_duration_seconds",
            "Time from a pod's arrival until it had a node, by attempts",
            this.whole.clone(),
        );
        // Zeros are shown from the start, so that a rate has something to rise from.
        this.pending(0, 0, 0);
        for result in [Attempt::Scheduled, Attempt::Unschedulable, Attempt::Error] {
            drop(this.attempts.get_or_create(&result.labels(&"default-scheduler".into())));
        }
        this
    }

    /// Counts an attempt by a profile.
    pub(crate) fn attempt(&self, result: Attempt, profile: &Arc<str>, took: Duration) {
        let labels = result.labels(profile);
        self.attempts.get_or_create(&labels).inc();
        self.durations.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// Counts a choice of a node, made or not.
    pub(crate) fn chose(&self, took: Duration) {
        self.algorithm.observe(took.as_secs_f64());
    }

    /// Counts a pod that got its node, after how many attempts and how long.
    pub(crate) fn placed(&self, attempts: u32, since_arrival: Duration) {
        const LABELS: [&str; 15] = [
            "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15+",
        ];
        self.tries.observe(f64::from(attempts));
        let at = usize::try_from(attempts.saturating_sub(1)).unwrap_or(usize::MAX);
        let attempts = LABELS[at.min(LABELS.len() - 1)];
        self.whole
            .get_or_create(&AttemptsLabels { attempts })
            .observe(since_arrival.as_secs_f64());
    }

    /// Counts a pod that came into a queue.
    pub(crate) fn incoming(&self, queue: &'static str, event: &'static str) {
        self.incoming.get_or_create(&IncomingLabels { queue, event }).inc();
    }

    /// How many pods wait where.
    pub(crate) fn pending(&self, active: usize, backoff: usize, unschedulable: usize) {
        for (queue, count) in [("active", active), ("backoff", backoff), ("unschedulable", unschedulable)] {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.pending.get_or_create(&PendingLabels { queue }).set(count);
        }
    }
}

/// All counters.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    outcomes: Family<OutcomeLabels, Counter>,
    actions: Family<ControllerLabels, Counter>,
    depth: Family<QueueLabels, Gauge>,
    added: Family<QueueLabels, Counter>,
    retried: Family<QueueLabels, Counter>,
    waited: Family<QueueLabels, Histogram, MakeHistogram>,
    worked: Family<QueueLabels, Histogram, MakeHistogram>,
    unfinished: Family<QueueLabels, Gauge<f64, AtomicU64>>,
    longest: Family<QueueLabels, Gauge<f64, AtomicU64>>,
    /// The queues of the present term.
    queues: Mutex<BTreeMap<&'static str, Vec<Weak<Queue>>>>,
    dropped: Family<ComponentLabels, Counter>,
    /// Events that found no room, by the component that speaks in them.
    events_dropped: Mutex<BTreeMap<String, Arc<AtomicU64>>>,
    scheduler: SchedulerMetrics,
    workloads: WorkloadMetrics,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let scheduler = SchedulerMetrics::new(&mut registry);
        let workloads = WorkloadMetrics::new(&mut registry);
        let this = Self {
            outcomes: Family::default(),
            actions: Family::default(),
            depth: Family::default(),
            added: Family::default(),
            retried: Family::default(),
            waited: Family::new_with_constructor(queue_histogram),
            worked: Family::new_with_constructor(queue_histogram),
            unfinished: Family::default(),
            longest: Family::default(),
            queues: Mutex::default(),
            dropped: Family::default(),
            events_dropped: Mutex::default(),
            scheduler,
            workloads,
            registry: Registry::default(),
        };
        registry.register(
            "trireme_controller_reconcile",
            "Reconciliations by controller and result",
            this.outcomes.clone(),
        );
        registry.register(
            "trireme_controller_actions",
            "Actions of plans that were carried out, by controller",
            this.actions.clone(),
        );
        registry.register(
            "trireme_events_dropped",
            "Events that were not written since too many waited, by component",
            this.dropped.clone(),
        );
        registry.register("workqueue_depth", "Keys that wait to be worked on", this.depth.clone());
        registry.register("workqueue_adds", "Keys that came into the queue", this.added.clone());
        registry.register("workqueue_retries", "Keys put back to be tried again", this.retried.clone());
        registry.register(
            "workqueue_queue_duration_seconds",
            "Time that keys waited in the queue",
            this.waited.clone(),
        );
        registry.register(
            "workqueue_work_duration_seconds",
            "Time that keys were worked on",
            this.worked.clone(),
        );
        registry.register(
            "workqueue_unfinished_work_seconds",
            "Time spent so far on keys that are being worked on, all together; it grows where workers are stuck",
            this.unfinished.clone(),
        );
        registry.register(
            "workqueue_longest_running_processor_seconds",
            "Time spent so far on the key that has been worked on for longest",
            this.longest.clone(),
        );
        Self { registry, ..this }
    }
}

impl Metrics {
    /// The counters of a controller, by its name and its queue's.
    #[must_use]
    pub fn controller(&self, controller: &'static str, queue: &'static str) -> Arc<ControllerMetrics> {
        let outcome = |result| {
            let labels = OutcomeLabels { controller, result };
            self.outcomes.get_or_create(&labels).clone()
        };
        let queue = QueueLabels { name: queue };
        Arc::new(ControllerMetrics {
            done: outcome("done"),
            failed: outcome("failed"),
            panicked: outcome("panicked"),
            actions: self.actions.get_or_create(&ControllerLabels { controller }).clone(),
            added: self.added.get_or_create(&queue).clone(),
            retried: self.retried.get_or_create(&queue).clone(),
            waited: self.waited.get_or_create(&queue).clone(),
            worked: self.worked.get_or_create(&queue).clone(),
        })
    }

    /// From now on this is a queue of that name; those of earlier terms are forgotten.
    pub(crate) fn watch(&self, name: &'static str, queue: &Arc<Queue>) {
        let mut queues = self.queues.lock();
        let same = queues.entry(name).or_default();
        same.retain(|queue| queue.strong_count() > 0);
        same.push(Arc::downgrade(queue));
    }

    /// Where the events of a component are counted that find no room.
    pub(crate) fn events_dropped(&self, component: &str) -> Arc<AtomicU64> {
        Arc::clone(self.events_dropped.lock().entry(component.to_owned()).or_default())
    }

    pub(crate) fn workloads(&self) -> WorkloadMetrics {
        self.workloads.clone()
    }

    pub(crate) fn scheduler(&self) -> SchedulerMetrics {
        self.scheduler.clone()
    }

    /// All of it in OpenMetrics' text format.
    ///
    /// # Panics
    /// Never: a String takes whatever is written to it.
    #[must_use]
    pub fn render(&self) -> String {
        for (name, queues) in self.queues.lock().iter() {
            let loads = queues.iter().filter_map(Weak::upgrade).map(|queue| queue.load());
            let load = loads.fold(Load::default(), |sum, one| Load {
                depth: sum.depth + one.depth,
                unfinished: sum.unfinished + one.unfinished,
                longest: sum.longest.max(one.longest),
            });
            let labels = QueueLabels { name };
            let depth = i64::try_from(load.depth).unwrap_or(i64::MAX);
            self.depth.get_or_create(&labels).set(depth);
            self.unfinished.get_or_create(&labels).set(load.unfinished.as_secs_f64());
            self.longest.get_or_create(&labels).set(load.longest.as_secs_f64());
        }
        for (component, dropped) in self.events_dropped.lock().iter() {
            let shown = self.dropped.get_or_create(&ComponentLabels {
                component: component.clone(),
            });
            shown.inner().store(dropped.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("a String grows");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::Outcome;
    use crate::registration::Key;

    #[tokio::test(start_paused = true)]
    async fn queues_show_their_load_and_counters_outlive_a_term() {
        let metrics = Metrics::default();
        for term in 1..=2 {
            let queue = Arc::new(Queue::new(metrics.controller("deployment", "deployment")));
            metrics.watch("deployment", &queue);
            queue.add(Key::new("ns", "a"));
            queue.add(Key::new("ns", "b"));
            let key = queue.next().await;
            queue.finish(key, Outcome::Failed);
            let text = metrics.render();
            let line = |line: &str| assert!(text.lines().any(|held| held == line), "{line}\n{text}");
            line("workqueue_depth{name=\"deployment\"} 1");
            line(&format!("workqueue_adds_total{{name=\"deployment\"}} {}", 2 * term));
            line(&format!("workqueue_retries_total{{name=\"deployment\"}} {term}"));
            let worked = 2 * term - 1;
            line(&format!(
                "workqueue_work_duration_seconds_count{{name=\"deployment\"}} {worked}"
            ));
            line("workqueue_unfinished_work_seconds{name=\"deployment\"} 0.0");
            let running = queue.next().await;
            assert!(metrics.render().contains("workqueue_depth{name=\"deployment\"} 0"));
            queue.finish(running, Outcome::Done);
        }
        assert!(metrics.render().contains("workqueue_depth{name=\"deployment\"} 0"));
        metrics.events_dropped("default-scheduler").fetch_add(3, Ordering::Relaxed);
        let text = metrics.render();
        assert!(
            text.contains("trireme_events_dropped_total{component=\"default-scheduler\"} 3"),
            "{text}"
        );
    }
}
