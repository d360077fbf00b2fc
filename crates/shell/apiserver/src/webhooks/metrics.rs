//! What is counted of webhooks, under upstream's names.
//!
//! Invariant: labels are names of webhooks and words of ours; when there were too many names, counting begins anew.

use std::collections::HashSet;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use trireme_policy::webhook::{Failure, Hook, Phase};

/// The most names that are told apart.
const NAMES_MAX: usize = 1_000;
/// Codes above this are counted as this.
const CODE_MAX: u16 = 600;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Step {
    name: String,
    r#type: &'static str,
    operation: &'static str,
    rejected: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Asked {
    name: String,
    r#type: &'static str,
    operation: &'static str,
    code: u16,
    rejected: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Rejection {
    name: String,
    r#type: &'static str,
    operation: &'static str,
    error_type: &'static str,
    rejection_code: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct FailedOpen {
    name: String,
    r#type: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Excluded {
    name: String,
    kind: &'static str,
    r#type: &'static str,
    operation: &'static str,
}

type MakeHistogram = fn() -> Histogram;

/// The counters. Those that upstream calls `…_count` are gauges here, as the encoder gives counters another ending.
pub(super) struct Counts {
    registry: Registry,
    names: Mutex<HashSet<String>>,
    durations: Family<Step, Histogram, MakeHistogram>,
    asked: Family<Asked, Counter>,
    rejections: Family<Rejection, Gauge>,
    failed_open: Family<FailedOpen, Gauge>,
    excluded: Family<Excluded, Counter>,
}

fn histogram() -> Histogram {
    Histogram::new([0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 25.0])
}

impl Default for Counts {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("apiserver_admission");
        let durations = Family::<Step, Histogram, MakeHistogram>::new_with_constructor(histogram);
        let (asked, rejections, failed_open, excluded) =
            (Family::default(), Family::default(), Family::default(), Family::default());
        registry.register(
            "webhook_admission_duration_seconds",
            "Latency of webhooks by name and operation",
            durations.clone(),
        );
        registry.register("webhook_request", "Requests to webhooks", asked.clone());
        registry.register(
            "webhook_rejection_count",
            "Requests that webhooks let fail",
            rejections.clone(),
        );
        registry.register(
            "webhook_fail_open_count",
            "Failures of webhooks that were ignored",
            failed_open.clone(),
        );
        registry.register(
            "match_condition_exclusions",
            "Requests that match conditions kept from webhooks",
            excluded.clone(),
        );
        Self {
            registry,
            names: Mutex::default(),
            durations,
            asked,
            rejections,
            failed_open,
            excluded,
        }
    }
}

impl Counts {
    /// All of it as OpenMetrics text.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        if encode(&mut text, &self.registry).is_err() {
            text.clear();
        }
        text
    }

    /// Begins anew where one more name would be too many.
    fn know(&self, name: &str) {
        let mut names = self.names.lock();
        if names.contains(name) {
            return;
        }
        if names.len() >= NAMES_MAX {
            names.clear();
            self.durations.clear();
            self.asked.clear();
            self.rejections.clear();
            self.failed_open.clear();
            self.excluded.clear();
        }
        names.insert(name.to_owned());
    }

    /// Counts a webhook that was asked; `failure` is why it did not admit the request.
    pub(super) fn asked(
        &self,
        (hook, phase): (&Hook, Phase),
        operation: &'static str,
        took: Duration,
        failure: Option<&Failure>,
    ) {
        self.know(&hook.name);
        let ignored = matches!(failure, Some(Failure::Call { .. })) && hook.ignores_failures;
        let (code, error_type) = match failure {
            None => (200, ""),
            Some(Failure::Call { code, .. }) => (*code, "calling_webhook_error"),
            Some(Failure::Rejected(status)) => (status.code, "no_error"),
            Some(Failure::Unusable(_)) => (0, "apiserver_internal_error"),
        };
        let code = code.min(CODE_MAX);
        let (name, r#type) = (hook.name.clone(), phase.name());
        if ignored {
            let labels = FailedOpen {
                name: name.clone(),
                r#type,
            };
            self.failed_open.get_or_create(&labels).inc();
        } else if failure.is_some() {
            let labels = Rejection {
                name: name.clone(),
                r#type,
                operation,
                error_type,
                rejection_code: code,
            };
            self.rejections.get_or_create(&labels).inc();
        }
        let rejected = if failure.is_some() && !ignored { "true" } else { "false" };
        let labels = Asked {
            name: name.clone(),
            r#type,
            operation,
            code,
            rejected,
        };
        self.asked.get_or_create(&labels).inc();
        let labels = Step {
            name,
            r#type,
            operation,
            rejected,
        };
        self.durations.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// Counts a request that a webhook's conditions kept from it.
    pub(super) fn excluded(&self, (hook, phase): (&Hook, Phase), operation: &'static str) {
        self.know(&hook.name);
        let labels = Excluded {
            name: hook.name.clone(),
            kind: "webhook",
            r#type: phase.name(),
            operation,
        };
        self.excluded.get_or_create(&labels).inc();
    }
}
