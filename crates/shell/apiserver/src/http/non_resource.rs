//! Paths that are no resource: discovery, OpenAPI, health, version, metrics, keys.
//!
//! Invariant: discovery and OpenAPI are derived from rows and the field table, made once.

use std::sync::Arc;

use http::{HeaderValue, Method, Response, header};
use serde_json::{Value, json};
use trireme_api::{Status, StatusDetails};

use super::accept::{Offer, Shape};
use super::body::Body;
use super::handle::{Asked, Incoming, error_style, style};
use super::respond::{self, Style, page_not_found, response, text};
use crate::discovery;
use crate::health::Endpoint;
use crate::openapi;
use crate::server::ApiServer;

/// Serves a path that is no resource.
pub(crate) async fn serve<B>(server: &Arc<ApiServer>, incoming: Incoming<B>) -> Response<Body>
where
    B: http_body::Body<Data = bytes::Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let path = incoming.parts.uri.path().to_owned();
    let reading = matches!(incoming.parts.method, Method::GET | Method::HEAD);
    if let Some(answer) = health(server, &incoming, &path) {
        return answer;
    }
    if path.contains("//") {
        return page_not_found();
    }
    if path.starts_with("/trireme/") {
        return extension(server, incoming, &path).await;
    }
    let trimmed = path.trim_end_matches('/');
    if !reading {
        let known = trimmed == "/api" || trimmed == "/apis" || trimmed.starts_with("/api/") || trimmed.starts_with("/apis/");
        return if known && discovery::document(server, trimmed).is_some() {
            let status = Status::failure(
                405,
                "MethodNotAllowed",
                "the server does not allow this method on the requested resource",
            );
            respond::status(
                &error_style(&incoming.parts, &incoming.query),
                &status.with_details(StatusDetails::default()),
            )
        } else {
            page_not_found()
        };
    }
    match trimmed {
        "" => value_answer(&incoming, 200, &discovery::paths(server)),
        "/version" => value_answer(&incoming, 200, &version(server)),
        "/metrics" => response(
            200,
            "text/plain; version=0.0.4; charset=utf-8",
            Body::whole(server.metrics.text()),
        ),
        "/openapi/v3" => openapi::index(server, &incoming.parts),
        "/openapi/v2" => openapi::v2(server, &incoming.parts),
        "/openid/v1/jwks" => match &server.plugins.tokens {
            Some(tokens) => {
                let body = serde_json::to_vec(&tokens.key_set()).expect("a JSON value serialises");
                response(200, "application/jwk-set+json", Body::whole(body))
            }
            None => page_not_found(),
        },
        "/.well-known/openid-configuration" => openid_configuration(server, &incoming),
        "/api" | "/apis" => group_list(server, &incoming, trimmed),
        other if other.starts_with("/api/") || other.starts_with("/apis/") => match discovery::document(server, other) {
            Some((kind, document)) => discovery_answer(&incoming, &kind, &document),
            None if discovery::knows_group(server, other) => not_found(&incoming),
            None => page_not_found(),
        },
        other => match other.strip_prefix("/openapi/v3/") {
            Some(place) => openapi::v3(server, &incoming.parts, &incoming.query, place),
            None => page_not_found(),
        },
    }
}

async fn extension<B>(server: &ApiServer, incoming: Incoming<B>, path: &str) -> Response<Body>
where
    B: http_body::Body<Data = bytes::Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let Some(extension) = &server.plugins.extension else {
        return page_not_found();
    };
    let style = error_style(&incoming.parts, &incoming.query);
    let Asked { parts, body, .. } = *incoming.asked;
    let answer = match super::body::read(body).await {
        Ok(body) => extension.handle(&incoming.user, &parts.method, path, body).await,
        Err(status) => Err(status),
    };
    match answer {
        Ok(value) => {
            let body = serde_json::to_vec(&value).expect("a JSON value serialises");
            response(200, "application/json", Body::whole(body))
        }
        Err(status) => respond::status(&style, &status),
    }
}

fn not_found<B>(incoming: &Incoming<B>) -> Response<Body> {
    let status = super::resources::no_such_resource();
    respond::status(&error_style(&incoming.parts, &incoming.query), &status)
}

fn value_answer<B>(incoming: &Incoming<B>, code: u16, value: &Value) -> Response<Body> {
    let mut style = error_style(&incoming.parts, &incoming.query);
    style.accepted = super::accept::Accepted::default();
    style.pretty = true;
    respond::value(&style, code, "v1", "", value)
}

fn health<B>(server: &ApiServer, incoming: &Incoming<B>, path: &str) -> Option<Response<Body>> {
    let mut parts = path.trim_start_matches('/').splitn(2, '/');
    let endpoint = match parts.next()? {
        "healthz" => Endpoint::Healthz,
        "livez" => Endpoint::Livez,
        "readyz" => Endpoint::Readyz,
        _ => return None,
    };
    let check = parts.next().filter(|name| !name.is_empty());
    Some(match server.health.answer(endpoint, check, &incoming.query) {
        Some(report) => text(report.code, report.text),
        None => page_not_found(),
    })
}

fn version(server: &ApiServer) -> Value {
    json!({
        "major": "1",
        "minor": "36",
        "emulationMajor": "1",
        "emulationMinor": "36",
        "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "35",
        "gitVersion": server.config.git_version,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("linux/{}", if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }),
    })
}

fn openid_configuration<B>(server: &ApiServer, incoming: &Incoming<B>) -> Response<Body> {
    let Some(tokens) = &server.plugins.tokens else {
        return page_not_found();
    };
    let document = json!({
        "issuer": tokens.issuer(),
        "jwks_uri": format!("https://{}/openid/v1/jwks", server.advertised()),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": [tokens.algorithm()],
    });
    let _ = incoming;
    let body = serde_json::to_vec(&document).expect("a JSON value serialises");
    response(200, "application/json", Body::whole(body))
}

fn group_list<B>(server: &ApiServer, incoming: &Incoming<B>, path: &str) -> Response<Body> {
    let style = match style(&incoming.parts, &incoming.query, Offer::Discovery) {
        Ok(style) => style,
        Err(status) => return respond::status(&error_style(&incoming.parts, &incoming.query), &status),
    };
    if style.accepted.shape == Shape::AggregatedDiscovery {
        return aggregated(server, incoming, &style, path);
    }
    match discovery::document(server, path) {
        Some((kind, document)) => {
            let mut answer = discovery_answer(incoming, &kind, &document);
            answer.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
            answer
        }
        None => page_not_found(),
    }
}

fn aggregated<B>(server: &ApiServer, incoming: &Incoming<B>, style: &Style, path: &str) -> Response<Body> {
    let document = discovery::aggregated(server, path == "/api");
    let etag = openapi::etag(&document);
    let known = incoming.header("if-none-match").is_some_and(|known| known == etag);
    let mut answer = if known {
        let mut answer = Response::new(Body::empty());
        *answer.status_mut() = http::StatusCode::NOT_MODIFIED;
        answer
    } else {
        let value: Value = serde_json::from_slice(&document).unwrap_or_default();
        respond::value(style, 200, "apidiscovery.k8s.io/v2", "APIGroupDiscoveryList", &value)
    };
    let media_type = HeaderValue::from_static("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
    answer.headers_mut().insert(header::CONTENT_TYPE, media_type);
    answer.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        answer.headers_mut().insert(header::ETAG, etag);
    }
    answer
}

fn discovery_answer<B>(incoming: &Incoming<B>, kind: &str, document: &Value) -> Response<Body> {
    match style(&incoming.parts, &incoming.query, Offer::Plain) {
        Ok(style) => {
            let api_version = document["apiVersion"].as_str().unwrap_or_default();
            respond::value(&style, 200, api_version, kind, document)
        }
        Err(status) => respond::status(&error_style(&incoming.parts, &incoming.query), &status),
    }
}
