//! Prometheus metrics of the API server under upstream's names, and `/metrics` for all parts of the process.
//!
//! Invariant: labels come from rows and from closed sets, never from what a client wrote. What other parts count is asked
//! for when somebody reads it; they know nothing of this server.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Duration;

use parking_lot::RwLock;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::server::ApiServer;

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

/// Where the texts of [`RequestLabels`] lie, and the code. Equal texts in two places are found by both.
type Places = ([usize; 6], u16);

/// The metrics of one kind of request.
#[derive(Clone)]
struct Found {
    requests: Counter,
    /// None of watches and streams.
    durations: Option<Histogram>,
}

/// Hashes places: they are the program's own, so nobody chooses them.
#[derive(Default)]
struct Fold(u64);

impl Hasher for Fold {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u16(&mut self, number: u16) {
        self.write_u64(number.into());
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0.rotate_left(26)
    }
}

type MakeHistogram = fn() -> Histogram;

/// The metrics and their registry.
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    durations: Family<DurationLabels, Histogram, MakeHistogram>,
    /// By the places of the labels' texts, which are all constants: most requests are of few kinds, and comparing and hashing
    /// seven texts twice for each of them costs more than all else that is counted here.
    found: RwLock<HashMap<Places, Found, BuildHasherDefault<Fold>>>,
    reading: Gauge,
    mutating: Gauge,
    watches: Gauge,
    others: RwLock<Vec<Source>>,
}

impl Found {
    fn count(&self, took: Duration) {
        self.requests.inc();
        if let Some(durations) = &self.durations {
            durations.observe(took.as_secs_f64());
        }
    }
}

/// Gives what another part of the process counted, as OpenMetrics text.
type Source = Box<dyn Fn() -> String + Send + Sync>;

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
        let inflight: Family<InflightLabels, Gauge> = Family::default();
        let running = |request_kind| inflight.get_or_create(&InflightLabels { request_kind }).clone();
        let (reading, mutating) = (running("readOnly"), running("mutating"));
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
            found: RwLock::default(),
            reading,
            mutating,
            watches,
            others: RwLock::default(),
        }
    }
}

impl Metrics {
    /// Counts a finished request.
    pub fn observe(&self, what: Observed, code: u16, took: Duration) {
        let texts = [
            what.verb,
            what.group,
            what.version,
            what.resource,
            what.subresource,
            what.scope,
        ];
        let places = (texts.map(|text| text.as_ptr() as usize), code);
        let known = self.found.read().get(&places).map(|found| found.count(took)).is_some();
        if !known {
            let found = self.find(what, code);
            found.count(took);
            self.found.write().insert(places, found);
        }
    }

    fn find(&self, what: Observed, code: u16) -> Found {
        let labels = RequestLabels {
            verb: what.verb,
            group: what.group,
            version: what.version,
            resource: what.resource,
            subresource: what.subresource,
            scope: what.scope,
            code,
        };
        let requests = self.requests.get_or_create(&labels).clone();
        let labels = DurationLabels {
            verb: labels.verb,
            group: labels.group,
            version: labels.version,
            resource: labels.resource,
            subresource: labels.subresource,
            scope: labels.scope,
        };
        let endless = what.verb == "WATCH" || what.verb == "CONNECT";
        let durations = (!endless).then(|| self.durations.get_or_create(&labels).clone());
        Found { requests, durations }
    }

    /// Counts a request as being served while the guard lives.
    #[must_use]
    pub fn serving(&self, mutating: bool) -> Serving {
        let gauge = if mutating { &self.mutating } else { &self.reading }.clone();
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
        let mut own = String::new();
        encode(&mut own, &self.registry).expect("writing to a string succeeds");
        let mut text = String::new();
        append(&mut text, &own);
        for other in self.others.read().iter() {
            append(&mut text, &other());
        }
        text
    }
}

impl ApiServer {
    /// Has `/metrics` show what another part of the process counts: `source` answers OpenMetrics text. Names must not be
    /// those of another part.
    pub fn add_metrics(&self, source: impl Fn() -> String + Send + Sync + 'static) {
        self.metrics.others.write().push(Box::new(source));
    }
}

/// Appends OpenMetrics text in the older form that `/metrics` is served in: there a counter's HELP and TYPE carry the
/// `_total` of its samples, and nothing marks the end.
fn append(text: &mut String, open: &str) {
    let mut help = None;
    for line in open.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            // The type, which follows, decides on the name.
            (Some("#"), Some("HELP"), Some(_), told) => help = Some(told.unwrap_or_default().trim_end_matches('.')),
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                let total = if kind == "counter" { "_total" } else { "" };
                let kind = if kind == "unknown" { "untyped" } else { kind };
                let help = help.take().unwrap_or_default();
                text.extend(["# HELP ", name, total, " ", help, "\n"]);
                text.extend(["# TYPE ", name, total, " ", kind, "\n"]);
            }
            (Some("#"), ..) => {}
            _ => text.extend([line, "\n"]),
        }
    }
}

/// Takes one off a gauge when dropped.
pub struct Serving(Gauge);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_counted_with_its_like_wherever_its_labels_lie() {
        let metrics = Metrics::default();
        let elsewhere: &'static str = String::from("GET").leak();
        for (verb, code) in [("GET", 200), (elsewhere, 200), ("GET", 404), ("GET", 200), ("WATCH", 200)] {
            let what = Observed {
                verb,
                ..Observed::default()
            };
            metrics.observe(what, code, Duration::from_millis(3));
        }
        let text = metrics.text();
        let sample = |name: &str, verb: &str, code: &str| {
            let labels =
                format!("{name}{{verb=\"{verb}\",group=\"\",version=\"\",resource=\"\",subresource=\"\",scope=\"\"{code}}} ");
            let line = text.lines().find_map(|line| line.strip_prefix(&labels));
            line.map(str::to_owned)
        };
        assert_eq!(
            sample("apiserver_request_total", "GET", ",code=\"200\"").as_deref(),
            Some("3")
        );
        assert_eq!(
            sample("apiserver_request_total", "GET", ",code=\"404\"").as_deref(),
            Some("1")
        );
        assert_eq!(
            sample("apiserver_request_total", "WATCH", ",code=\"200\"").as_deref(),
            Some("1")
        );
        let durations = "apiserver_request_duration_seconds_count";
        assert_eq!(sample(durations, "GET", "").as_deref(), Some("4"));
        assert_eq!(sample(durations, "WATCH", ""), None);
    }

    #[test]
    fn every_sample_stands_below_the_help_and_type_of_its_name() {
        let metrics = Metrics::default();
        let what = Observed {
            verb: "GET",
            ..Observed::default()
        };
        metrics.observe(what, 200, Duration::from_millis(3));
        let other = "# HELP workqueue_adds Keys.\n# TYPE workqueue_adds counter\nworkqueue_adds_total{name=\"a\"} 1\n# EOF\n";
        metrics.others.write().push(Box::new(move || other.to_owned()));
        let text = metrics.text();
        assert!(text.ends_with(
            "# HELP workqueue_adds_total Keys\n# TYPE workqueue_adds_total counter\nworkqueue_adds_total{name=\"a\"} 1\n"
        ));
        assert!(text.contains("# TYPE apiserver_request_total counter\napiserver_request_total{verb=\"GET\""));
        let (mut helped, mut typed) = ("", "");
        for line in text.lines() {
            match line.splitn(4, ' ').collect::<Vec<_>>()[..] {
                ["#", "HELP", name, help] if !help.is_empty() => helped = name,
                ["#", "TYPE", name, _] => {
                    assert_eq!(name, helped);
                    typed = name;
                }
                _ => {
                    assert!(!line.starts_with('#'), "{line}");
                    let rest = line.strip_prefix(typed).unwrap_or_else(|| panic!("{line} below {typed}"));
                    assert!(
                        ["{", " ", "_sum", "_count", "_bucket"]
                            .iter()
                            .any(|next| rest.starts_with(next)),
                        "{line}"
                    );
                }
            }
        }
    }
}
