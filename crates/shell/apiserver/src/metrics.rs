//! Prometheus metrics of the API server under upstream's names.
//!
//! Invariant: labels come from rows and from closed sets, never from what a client wrote.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Labels of a request.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct RequestLabels {
    verb: &'static str,
    group: &'static str,
    version: &'static str,
    resource: &'static str,
    subresource: &'static str,
    scope: &'static str,
    code: u16,
}

/// Labels of a request's duration.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct DurationLabels {
    verb: &'static str,
    group: &'static str,
    version: &'static str,
    resource: &'static str,
    subresource: &'static str,
    scope: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct InflightLabels {
    request_kind: &'static str,
}

/// What of a request is counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Observed {
    /// Upper-case verb: GET, LIST, WATCH, POST, PUT, PATCH, DELETE, DELETECOLLECTION, CONNECT.
    pub verb: &'static str,
    /// API group.
    pub group: &'static str,
    /// API version.
    pub version: &'static str,
    /// Plural.
    pub resource: &'static str,
    /// Subresource.
    pub subresource: &'static str,
    /// `cluster`, `namespace` or `resource`.
    pub scope: &'static str,
}

type MakeHistogram = fn() -> Histogram;

/// The metrics and their registry.
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    durations: Family<DurationLabels, Histogram, MakeHistogram>,
    inflight: Family<InflightLabels, Gauge>,
    watches: Gauge,
}

fn histogram() -> Histogram {
    Histogram::new([
        0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0,
        60.0,
    ])
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let requests = Family::default();
        let durations: Family<DurationLabels, Histogram, MakeHistogram> = Family::new_with_constructor(histogram);
        let inflight = Family::default();
        let watches = Gauge::default();
        // The encoder appends `_total` to a counter's name.
        registry.register("apiserver_request", "Requests by verb, resource and code", requests.clone());
        registry.register(
            "apiserver_request_duration_seconds",
            "Response latency by verb and resource",
            durations.clone(),
        );
        registry.register(
            "apiserver_current_inflight_requests",
            "Requests being served, by kind",
            inflight.clone(),
        );
        registry.register(
            "apiserver_longrunning_requests",
            "Watches and streams being served",
            watches.clone(),
        );
        Self {
            registry,
            requests,
            durations,
            inflight,
            watches,
        }
    }
}

impl Metrics {
    /// Counts a finished request.
    pub fn observe(&self, what: Observed, code: u16, took: Duration) {
        let labels = RequestLabels {
            verb: what.verb,
            group: what.group,
            version: what.version,
            resource: what.resource,
            subresource: what.subresource,
            scope: what.scope,
            code,
        };
        self.requests.get_or_create(&labels).inc();
        if what.verb == "WATCH" || what.verb == "CONNECT" {
            return;
        }
        let labels = DurationLabels {
            verb: labels.verb,
            group: labels.group,
            version: labels.version,
            resource: labels.resource,
            subresource: labels.subresource,
            scope: labels.scope,
        };
        self.durations.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// Counts a request as being served while the guard lives.
    #[must_use]
    pub fn serving(&self, mutating: bool) -> Serving {
        let request_kind = if mutating { "mutating" } else { "readOnly" };
        let gauge = self.inflight.get_or_create(&InflightLabels { request_kind }).clone();
        gauge.inc();
        Serving(gauge)
    }

    /// Counts a long-running request while the guard lives.
    #[must_use]
    pub fn streaming(&self) -> Serving {
        self.watches.inc();
        Serving(self.watches.clone())
    }

    /// The text that `/metrics` answers.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string succeeds");
        text
    }
}

/// Takes one off a gauge when dropped.
pub struct Serving(Gauge);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.dec();
    }
}
