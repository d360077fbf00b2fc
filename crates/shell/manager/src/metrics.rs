//! Counters of what the manager did, for `/metrics`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// Counters of one controller.
#[derive(Debug, Default)]
pub struct ControllerMetrics {
    /// Reconciliations that ended well.
    pub done: AtomicU64,
    /// Reconciliations that failed and back off.
    pub failed: AtomicU64,
    /// Reconciliations that panicked.
    pub panicked: AtomicU64,
    /// Actions carried out.
    pub actions: AtomicU64,
}

/// Counters of all controllers.
#[derive(Debug, Default)]
pub struct Metrics(Mutex<BTreeMap<&'static str, Arc<ControllerMetrics>>>);

impl Metrics {
    /// The counters of one controller.
    pub fn controller(&self, name: &'static str) -> Arc<ControllerMetrics> {
        Arc::clone(self.0.lock().entry(name).or_default())
    }

    /// All counters in Prometheus' text format.
    #[must_use]
    pub fn render(&self) -> String {
        let controllers = self.0.lock();
        let mut text = String::from("# TYPE trireme_controller_reconcile_total counter\n");
        let mut line = |metric: &str, name: &str, label: &str, value: &AtomicU64| {
            let value = value.load(Ordering::Relaxed);
            // Writing to a String cannot fail.
            writeln!(text, "{metric}{{controller=\"{name}\"{label}}} {value}").expect("a String grows");
        };
        for (name, counters) in controllers.iter() {
            let total = "trireme_controller_reconcile_total";
            line(total, name, ",result=\"done\"", &counters.done);
            line(total, name, ",result=\"failed\"", &counters.failed);
            line(total, name, ",result=\"panicked\"", &counters.panicked);
        }
        for (name, counters) in controllers.iter() {
            line("trireme_controller_actions_total", name, "", &counters.actions);
        }
        text
    }
}
