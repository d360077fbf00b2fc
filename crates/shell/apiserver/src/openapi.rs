//! OpenAPI documents, generated from the field table and the rows.
//!
//! Invariant: a document describes one group and version and every struct that it reaches, in upstream's words where there
//! are some. Documents are made on demand and kept only as their hash: they are large and seldom asked for.

mod custom;
mod paths;
mod protobuf;
mod schemas;
mod swagger;

use std::sync::OnceLock;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use trireme_resources::{groups, rows};

use crate::http::body::Body;
use crate::http::query::Query;
use crate::http::respond::{page_not_found, response};
use crate::server::ApiServer;

use schemas::{Maker, OPENAPI};

/// A strong validator of a document.
#[must_use]
pub fn etag(document: &[u8]) -> String {
    format!("\"{}\"", hash(document))
}

fn hash(document: &[u8]) -> String {
    hex::encode_upper(Sha256::digest(document))
}

/// The digest of the document of each place, in the order of `places`; made at the first request for the index.
static DIGESTS: OnceLock<Vec<[u8; 32]>> = OnceLock::new();

/// Nothing that stays is allocated beside a document, so as not to pin its memory; the allocator may still keep it for reuse.
fn digests() -> Vec<[u8; 32]> {
    let places = places();
    let mut digests = Vec::with_capacity(places.len());
    for (_, group, version) in &places {
        let mut digest = Sha256::new();
        serde_json::to_writer(&mut digest, &group_document(group, version)).expect("a JSON value serialises");
        digests.push(digest.finalize().into());
    }
    digests
}

fn places() -> Vec<(String, &'static str, &'static str)> {
    let mut places = vec![("api/v1".to_owned(), "", "v1")];
    for group in groups() {
        for version in group.versions {
            places.push((format!("apis/{}/{version}", group.name), group.name, version));
        }
    }
    places
}

/// `/openapi/v3`: where the documents are.
#[must_use]
pub(crate) fn index(server: &ApiServer, _parts: &Parts) -> Response<Body> {
    let digests = DIGESTS.get_or_init(digests);
    let mut paths: Map<String, Value> = places()
        .into_iter()
        .zip(digests)
        .map(|((place, ..), digest)| {
            let url = format!("/openapi/v3/{place}?hash={}", hex::encode_upper(digest));
            (place, json!({"serverRelativeURL": url}))
        })
        .collect();
    let registry = server.customs.registry();
    let customs = server.customs.digests(&registry, |group, version| {
        let mut digest = Sha256::new();
        serde_json::to_writer(&mut digest, &custom::document(&registry, group, version)).expect("a JSON value serialises");
        digest.finalize().into()
    });
    for (place, digest) in customs.iter() {
        let url = format!("/openapi/v3/{place}?hash={}", hex::encode_upper(digest));
        paths.insert(place.clone(), json!({"serverRelativeURL": url}));
    }
    let mut bare: Vec<String> = ["api", "apis", "version", "openid/v1/jwks", ".well-known/openid-configuration"]
        .map(str::to_owned)
        .to_vec();
    bare.extend(registry.groups().map(|(name, _)| format!("apis/{name}")));
    bare.extend(groups().iter().map(|group| format!("apis/{}", group.name)));
    let empty = hash(&serde_json::to_vec(&bare_document()).expect("a JSON value serialises"));
    for place in bare {
        let url = format!("/openapi/v3/{place}?hash={empty}");
        paths.insert(place, json!({"serverRelativeURL": url}));
    }
    let body = serde_json::to_vec(&json!({"paths": paths})).expect("a JSON value serialises");
    // Upstream's index has this type too, though it is JSON.
    response(200, "text/plain; charset=utf-8", Body::whole(body))
}

/// `/openapi/v3/{place}`.
#[must_use]
pub(crate) fn v3(server: &ApiServer, parts: &Parts, query: &Query, place: &str) -> Response<Body> {
    let place = place.trim_end_matches('/');
    let known = places().into_iter().find(|(own, ..)| own == place);
    let registry = server.customs.registry();
    let own = place.strip_prefix("apis/").and_then(|rest| rest.split_once('/'));
    let own = own.filter(|(group, version)| {
        let versions = registry.versions(group);
        versions.is_some_and(|versions| versions.iter().any(|own| own == version))
    });
    let document = match known {
        Some((_, group, version)) => group_document(group, version),
        None if own.is_some() => own.map_or(Value::Null, |(group, version)| custom::document(&registry, group, version)),
        None if ["api", "apis", "version", "openid/v1/jwks", ".well-known/openid-configuration"].contains(&place)
            || place
                .strip_prefix("apis/")
                .is_some_and(|name| registry.versions(name).is_some() || groups().iter().any(|group| group.name == name)) =>
        {
            bare_document()
        }
        None => {
            let mut answer = Response::new(Body::empty());
            *answer.status_mut() = StatusCode::NOT_FOUND;
            return answer;
        }
    };
    let body = serde_json::to_vec(&document).expect("a JSON value serialises");
    let mut answer = cached(parts, "application/json", body.into());
    if query.get("hash").is_some() {
        let forever = HeaderValue::from_static("public, immutable");
        answer.headers_mut().insert(header::CACHE_CONTROL, forever);
    }
    answer
}

/// `/openapi/v2`.
#[must_use]
pub(crate) fn v2(server: &ApiServer, parts: &Parts) -> Response<Body> {
    let accept = parts.headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    match Form::accepted(accept.unwrap_or_default()) {
        Some(Form::Json) => {
            let body = serde_json::to_vec(&swagger::document(&server.customs.registry())).expect("a JSON value serialises");
            cached(parts, "application/json", body.into())
        }
        Some(Form::Protobuf) => cached(
            parts,
            SWAGGER_PROTOBUF,
            protobuf::document(&swagger::document(&server.customs.registry())).into(),
        ),
        None => {
            let mut answer = page_not_found();
            *answer.status_mut() = StatusCode::NOT_ACCEPTABLE;
            answer
        }
    }
}

/// What the second version is called in protobuf; clients may write `@` for the dot before `v1.0`.
const SWAGGER_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// The forms of the second version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Json,
    Protobuf,
}

impl Form {
    /// The form that a client likes best; the first of those it likes as well.
    fn accepted(accept: &str) -> Option<Self> {
        if accept.trim().is_empty() {
            return Some(Self::Json);
        }
        let mut best: Option<(f32, Self)> = None;
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let form = match parts.next().unwrap_or_default() {
                "application/json" | "application/*" | "*/*" => Self::Json,
                media if media.replacen("v2@v1.0", "v2.v1.0", 1) == SWAGGER_PROTOBUF => Self::Protobuf,
                _ => continue,
            };
            let quality = parts.find_map(|part| part.strip_prefix("q=")?.parse().ok()).unwrap_or(1.0);
            if quality > 0.0 && best.is_none_or(|(known, _)| quality > known) {
                best = Some((quality, form));
            }
        }
        best.map(|(_, form)| form)
    }
}

fn cached(parts: &Parts, media_type: &'static str, body: Bytes) -> Response<Body> {
    let etag = etag(&body);
    let known = parts.headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok()) == Some(etag.as_str());
    let mut answer = if known {
        let mut answer = Response::new(Body::empty());
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
        answer
    } else {
        response(200, media_type, Body::whole(body))
    };
    if let Ok(value) = HeaderValue::from_str(&etag) {
        answer.headers_mut().insert(header::ETAG, value);
    }
    answer.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    answer
}

fn bare_document() -> Value {
    json!({"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1.36.0"}, "paths": {}, "components": {}})
}

fn group_document(group: &str, version: &str) -> Value {
    let mut maker = Maker::new(OPENAPI, group, version);
    maker.group(group, version);
    let mut paths = Map::new();
    for row in rows().iter().filter(|row| row.group == group && row.version == version) {
        paths::add(&mut paths, row);
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.36.0"},
        "paths": paths,
        "components": {"schemas": maker.schemas},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_asked_for_is_given() {
        for (accept, form) in [
            ("", Some(Form::Json)),
            ("*/*", Some(Form::Json)),
            ("application/json", Some(Form::Json)),
            (
                "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
                Some(Form::Protobuf),
            ),
            (SWAGGER_PROTOBUF, Some(Form::Protobuf)),
            (
                "application/com.github.proto-openapi.spec.v2@v1.0+protobuf, application/json",
                Some(Form::Protobuf),
            ),
            (
                "application/com.github.proto-openapi.spec.v2@v1.0+protobuf;q=0.5, application/json",
                Some(Form::Json),
            ),
            ("application/yaml", None),
            ("application/json;q=0", None),
        ] {
            assert_eq!(Form::accepted(accept), form, "{accept}");
        }
    }

    #[test]
    fn documents_resolve_their_references_and_carry_merge_keys() {
        let document = group_document("apps", "v1");
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let text = document.to_string();
        for reference in text.split("#/components/schemas/").skip(1) {
            let name = reference.split('"').next().unwrap();
            assert!(schemas.contains_key(name), "{name}");
        }
        let deployment = &schemas["io.k8s.api.apps.v1.Deployment"];
        assert_eq!(deployment["x-kubernetes-group-version-kind"][0]["kind"], "Deployment");
        let ports = &schemas["io.k8s.api.core.v1.Container"]["properties"]["ports"];
        assert_eq!(ports["x-kubernetes-list-map-keys"], json!(["containerPort", "protocol"]));
        assert_eq!(ports["x-kubernetes-patch-merge-key"], "containerPort");
        assert!(ports["description"].as_str().is_some_and(|text| text.contains("port")));
        let spec = &deployment["properties"]["spec"];
        assert_eq!(
            spec["allOf"][0]["$ref"],
            "#/components/schemas/io.k8s.api.apps.v1.DeploymentSpec"
        );
        assert!(spec["description"].is_string());
        let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
        assert!(
            patch["parameters"]
                .as_array()
                .unwrap()
                .iter()
                .any(|own| own["name"] == "fieldValidation")
        );
    }
}
