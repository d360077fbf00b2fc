//! `metrics.k8s.io/v1beta1`: resource metrics out of a pluggable source.
//!
//! Invariant: read-only; the group exists only where there is a source.

use http::Response;
use serde_json::{Value, json};
use trireme_api::selector::LabelSelector;
use trireme_api::{Status, StatusDetails};

use crate::http::body::Body;
use crate::http::handle::{Incoming, error_style};
use crate::http::resources::{no_such_resource, not_allowed};
use crate::http::respond;
use crate::pipeline::rules;
use crate::server::ApiServer;

/// The API group.
pub(crate) const GROUP: &str = "metrics.k8s.io";
/// Its version.
pub(crate) const VERSION: &str = "v1beta1";
const API_VERSION: &str = "metrics.k8s.io/v1beta1";

pub(crate) fn resource_list() -> Vec<Value> {
    let entry = |name: &str, namespaced: bool, kind: &str| json!({"name": name, "singularName": "", "namespaced": namespaced, "kind": kind, "verbs": ["get", "list"]});
    vec![entry("nodes", false, "NodeMetrics"), entry("pods", true, "PodMetrics")]
}

pub(crate) fn aggregated_version() -> Value {
    let entry = |name: &str, scope: &str, kind: &str| {
        json!({
            "resource": name, "responseKind": {"group": "", "version": "", "kind": kind}, "scope": scope,
            "singularResource": "", "verbs": ["get", "list"],
        })
    };
    json!({
        "version": VERSION,
        "resources": [entry("nodes", "Cluster", "NodeMetrics"), entry("pods", "Namespaced", "PodMetrics")],
        "freshness": "Current",
    })
}

/// Serves a request of the group.
pub(crate) async fn serve<B>(server: &ApiServer, incoming: &Incoming<B>) -> Response<Body> {
    let style = error_style(&incoming.parts, &incoming.query);
    answer(server, incoming).await.map_or_else(
        |status| respond::status(&style, &status),
        |(kind, value)| {
            let mut json = style;
            json.accepted = crate::http::accept::Accepted::default();
            respond::value(&json, 200, API_VERSION, kind, &value)
        },
    )
}

/// Objects of a resource that a label selector selects.
pub(crate) async fn items(
    server: &ApiServer,
    plural: &str,
    namespace: Option<&str>,
    selector: &str,
) -> Result<Vec<Value>, Status> {
    let source = server.plugins.metrics.as_ref().ok_or_else(no_such_resource)?;
    let mut items = match plural {
        "nodes" => source.nodes().await,
        "pods" => source.pods(namespace).await,
        _ => return Err(no_such_resource()),
    };
    let selector = LabelSelector::parse(selector).map_err(|error| Status::bad_request(error.to_string()))?;
    items.retain(|item| selector.matches(&rules::labels_of(item)));
    Ok(items)
}

async fn answer<B>(server: &ApiServer, incoming: &Incoming<B>) -> Result<(&'static str, Value), Status> {
    let info = &incoming.info;
    let source = server.plugins.metrics.as_ref().ok_or_else(no_such_resource)?;
    if info.version != VERSION {
        return Err(no_such_resource());
    }
    let name = info.path_name().unwrap_or_default();
    let namespace = info.in_namespace().then_some(info.namespace.as_str());
    let (items, kind, list) = match info.resource.as_str() {
        "nodes" => (source.nodes().await, "NodeMetrics", "NodeMetricsList"),
        "pods" => (source.pods(namespace).await, "PodMetrics", "PodMetricsList"),
        _ => return Err(no_such_resource()),
    };
    if !matches!(info.verb.as_str(), "get" | "list") {
        return Err(not_allowed());
    }
    if !name.is_empty() {
        let singular = if info.resource == "nodes" { "nodes" } else { "pods" };
        let mut found = items
            .into_iter()
            .find(|item| item["metadata"]["name"] == name)
            .ok_or_else(|| not_found(singular, namespace, name))?;
        found["kind"] = kind.into();
        found["apiVersion"] = API_VERSION.into();
        return Ok((kind, found));
    }
    let selector = LabelSelector::parse(incoming.query.get("labelSelector").unwrap_or_default());
    let selector = selector.map_err(|error| Status::bad_request(error.to_string()))?;
    let pinned = incoming.query.get("fieldSelector").and_then(|text| {
        text.strip_prefix("metadata.name=")
            .map(|name| name.trim_start_matches('=').to_owned())
    });
    let items: Vec<Value> = items
        .into_iter()
        .filter(|item| selector.matches(&rules::labels_of(item)))
        .filter(|item| pinned.as_ref().is_none_or(|name| item["metadata"]["name"] == name.as_str()))
        .collect();
    Ok((
        list,
        json!({"kind": list, "apiVersion": API_VERSION, "metadata": {}, "items": items}),
    ))
}

fn not_found(resource: &str, namespace: Option<&str>, name: &str) -> Status {
    let shown = namespace.map_or_else(|| name.to_owned(), |namespace| format!("{namespace}/{name}"));
    let mut status = Status::not_found(GROUP, resource, &shown);
    status.details = Some(Box::new(StatusDetails {
        name: shown,
        group: GROUP.into(),
        kind: resource.into(),
        ..StatusDetails::default()
    }));
    status
}
