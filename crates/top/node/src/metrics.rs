//! Resource metrics of all nodes, for `metrics.k8s.io`: the own node's in process, others' from their kubelets, kept in memory.
//!
//! Invariant: nothing is asked of kubelets unless somebody asks here, and not more often than every 15 seconds, as
//! metrics-server does; a node that does not answer keeps its last figures for a minute and holds up nobody for longer than
//! its time limit.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Node;
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::Instant;
use trireme_apiserver::{MetricsSource, NodeDialer, NodeEndpoint};
use trireme_client::{Cache, ResourceRef};
use trireme_kubelet::ResourceMetrics;

/// Age at which figures are asked for anew.
const FRESH: Duration = Duration::from_secs(15);
/// Age at which figures are not shown any more.
const STALE: Duration = Duration::from_secs(60);
/// Longest wait for one kubelet.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// Kubelets that are asked at once.
const AT_ONCE: usize = 16;
/// Largest answer: a few hundred pods.
const ANSWER_BYTES_MAX: usize = 8 << 20;
/// Where kubelets have them.
const PATH: &str = "/metrics/usage";

/// Figures of one node.
#[derive(Clone)]
struct Figures {
    at: Instant,
    node: Option<Value>,
    pods: Vec<Value>,
}

#[derive(Default)]
struct Gathered {
    at: Option<Instant>,
    nodes: HashMap<String, Figures>,
}

/// The metrics of all nodes.
pub(crate) struct ClusterMetrics {
    own_name: Option<String>,
    own: OnceLock<Arc<ResourceMetrics>>,
    cache: OnceLock<Arc<Cache>>,
    dialer: Arc<dyn NodeDialer>,
    gathered: Mutex<Gathered>,
    fresh: Duration,
    answer_limit: Duration,
}

impl ClusterMetrics {
    /// `own_name` is the node of this process, where it is one.
    pub(crate) fn new(own_name: Option<String>, dialer: Arc<dyn NodeDialer>) -> Self {
        Self {
            own_name,
            own: OnceLock::new(),
            cache: OnceLock::new(),
            dialer,
            gathered: Mutex::default(),
            fresh: FRESH,
            answer_limit: ANSWER_LIMIT,
        }
    }

    /// The kubelet of this process was built.
    pub(crate) fn set_own(&self, metrics: Arc<ResourceMetrics>) {
        assert!(self.own.set(metrics).is_ok(), "one kubelet per process");
    }

    /// Where the nodes are known from.
    pub(crate) fn follow(&self, cache: &Arc<Cache>) {
        cache.ensure_of::<Node>();
        assert!(self.cache.set(Arc::clone(cache)).is_ok(), "one cache per process");
    }

    /// Other nodes that are Ready.
    fn others(&self) -> Vec<NodeEndpoint> {
        let Some(cache) = self.cache.get() else { return Vec::new() };
        let objects = cache.objects(&ResourceRef::of::<Node>(), None);
        let others = objects
            .iter()
            .filter(|object| Some(&object.header().name) != self.own_name.as_ref());
        others
            .map(trireme_api::Object::value)
            .filter(is_ready)
            .filter_map(|node| NodeEndpoint::of(&node))
            .collect()
    }

    /// Figures of other nodes, fresh where they answer.
    async fn gather(&self) -> Vec<Figures> {
        let mut gathered = self.gathered.lock().await;
        if gathered.at.is_none_or(|at| at.elapsed() >= self.fresh) {
            let others = self.others();
            gathered.nodes.retain(|name, _| others.iter().any(|node| node.name == *name));
            let mut answers = stream::iter(others)
                .map(|node| async move {
                    let answer = tokio::time::timeout(self.answer_limit, self.ask(&node)).await;
                    (node.name, answer.unwrap_or_else(|_| Err("it did not answer in time".into())))
                })
                .buffer_unordered(AT_ONCE);
            while let Some((name, answer)) = answers.next().await {
                match answer {
                    Ok(figures) => drop(gathered.nodes.insert(name, figures)),
                    Err(error) => tracing::debug!(node = name, error, "no resource metrics"),
                }
            }
            gathered.at = Some(Instant::now());
        }
        let known = gathered.nodes.values();
        known.filter(|figures| figures.at.elapsed() < STALE).cloned().collect()
    }

    async fn ask(&self, node: &NodeEndpoint) -> Result<Figures, String> {
        let stream = self.dialer.connect(node).await.map_err(|error| error.to_string())?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
        let driver = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(connection));
        let request = http::Request::get(PATH)
            .header(http::header::HOST, &node.host)
            .body(Empty::<Bytes>::new())
            .map_err(|error| error.to_string())?;
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        if !response.status().is_success() {
            return Err(format!("status {}", response.status()));
        }
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        drop(driver);
        let mut answer: Value = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
        let pods = match answer["pods"].take() {
            Value::Array(pods) => pods,
            _ => Vec::new(),
        };
        // A node speaks for itself alone.
        let own = answer["node"]["metadata"]["name"] == node.name.as_str();
        Ok(Figures {
            at: Instant::now(),
            node: own.then(|| answer["node"].take()),
            pods,
        })
    }
}

/// Whether a node's kubelet lives.
pub(crate) fn is_ready(node: &Value) -> bool {
    let conditions = node["status"]["conditions"].as_array();
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

#[async_trait]
impl MetricsSource for ClusterMetrics {
    async fn nodes(&self) -> Vec<Value> {
        let own = async {
            match self.own.get() {
                Some(own) => own.node_metrics().await,
                None => None,
            }
        };
        let (own, others) = tokio::join!(own, self.gather());
        let mut all: Vec<Value> = own
            .into_iter()
            .chain(others.into_iter().filter_map(|figures| figures.node))
            .collect();
        all.sort_by(|a, b| a["metadata"]["name"].as_str().cmp(&b["metadata"]["name"].as_str()));
        all
    }

    async fn pods(&self, namespace: Option<&str>) -> Vec<Value> {
        let own = async {
            match self.own.get() {
                Some(own) => own.pod_metrics().await,
                None => Vec::new(),
            }
        };
        let (own, others) = tokio::join!(own, self.gather());
        let mut all: Vec<Value> = own
            .into_iter()
            .chain(others.into_iter().flat_map(|figures| figures.pods))
            .filter(|pod| namespace.is_none_or(|namespace| pod["metadata"]["namespace"] == namespace))
            .collect();
        let place = |pod: &Value| {
            let text = |field: &str| pod["metadata"][field].as_str().unwrap_or_default().to_owned();
            (text("namespace"), text("name"))
        };
        all.sort_by_cached_key(place);
        all
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http::{Request, Response};
    use hyper::service::service_fn;
    use serde_json::json;
    use tokio_util::sync::CancellationToken;
    use trireme_apiserver::NodeStream;
    use trireme_client::Client;
    use trireme_client::testing::FakeTransport;

    use super::*;

    /// Kubelets in memory: `n1` answers, `n2` hangs, `n3` claims to be another, and nobody else is there.
    #[derive(Default)]
    struct Kubelets {
        asked: AtomicUsize,
    }

    #[async_trait]
    impl NodeDialer for Kubelets {
        async fn connect(&self, node: &NodeEndpoint) -> std::io::Result<Box<dyn NodeStream>> {
            self.asked.fetch_add(1, Ordering::AcqRel);
            let name = match node.name.as_str() {
                "n1" => "n1",
                "n2" => std::future::pending().await,
                "n3" => "n1",
                _ => return Err(std::io::ErrorKind::ConnectionRefused.into()),
            };
            let (near, far) = tokio::io::duplex(4096);
            tokio::spawn(async move {
                let answer = |request: Request<hyper::body::Incoming>| async move {
                    assert_eq!(request.uri().path(), PATH);
                    let pods = [json!({"metadata": {"namespace": "b", "name": name}})];
                    let body = json!({"node": {"metadata": {"name": name}}, "pods": pods});
                    Ok::<_, std::convert::Infallible>(Response::new(body.to_string()))
                };
                let connection = hyper::server::conn::http1::Builder::new();
                drop(connection.serve_connection(TokioIo::new(far), service_fn(answer)).await);
            });
            Ok(Box::new(near))
        }
    }

    #[tokio::test]
    async fn ready_nodes_are_asked_and_the_answer_is_kept_for_a_while() {
        let fake = FakeTransport::new();
        let nodes = ResourceRef::of::<Node>();
        for (name, ready) in [
            ("n1", "True"),
            ("n2", "True"),
            ("n3", "True"),
            ("n4", "Unknown"),
            ("me", "True"),
        ] {
            fake.seed(
                &nodes,
                json!({
                    "apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
                    "status": {
                        "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}],
                        "conditions": [{"type": "Ready", "status": ready}],
                    },
                }),
            );
        }
        let cache = Cache::new(&Client::new(fake.clone()), CancellationToken::new());
        cache.synced(std::slice::from_ref(&nodes)).await;
        let kubelets = Arc::new(Kubelets::default());
        let mut metrics = ClusterMetrics::new(Some("me".into()), Arc::clone(&kubelets) as _);
        metrics.answer_limit = Duration::from_millis(100);
        metrics.follow(&cache);
        let names = |values: Vec<Value>| -> Vec<String> {
            let names = values.iter().filter_map(|value| value["metadata"]["name"].as_str());
            names.map(str::to_owned).collect()
        };
        assert_eq!(names(metrics.nodes().await), ["n1"], "one speaks for itself alone, one hangs");
        assert_eq!(names(metrics.pods(Some("b")).await), ["n1", "n1"]);
        assert!(metrics.pods(Some("a")).await.is_empty());
        assert_eq!(kubelets.asked.load(Ordering::Acquire), 3, "asked once for all of these");
        metrics.fresh = Duration::ZERO;
        metrics.nodes().await;
        assert_eq!(kubelets.asked.load(Ordering::Acquire), 6);
    }
}
