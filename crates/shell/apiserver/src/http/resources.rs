//! Requests for resources: from path and verb to the pipeline, and its results to answers.
//!
//! Invariant: this file routes and encodes; it decides nothing about objects.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Response};
use serde_json::Value;
use trireme_api::decode::{Decoded, FieldValidation};
use trireme_api::{Status, StatusDetails};
use trireme_resources::Resource;

use super::accept::{Format, Offer};
use super::body::{self, Body};
use super::decode::{self, Expected};
use super::handle::{Incoming, error_style, style};
use super::respond::{self, Style, page_not_found};
use super::watch_stream;
use crate::custom::decode as custom;
use crate::pipeline::delete::{answers_object, success};
use crate::pipeline::patch::PatchKind;
use crate::pipeline::selection::Selection;
use crate::pipeline::{Target, WriteOptions, Written, options, rules};
use crate::server::ApiServer;
use crate::{discovery, metrics_api, proxy, reviews};

/// 404: no such resource, as opposed to no such object.
#[must_use]
pub fn no_such_resource() -> Status {
    Status::failure(404, "NotFound", "the server could not find the requested resource").with_details(StatusDetails::default())
}

/// 405.
#[must_use]
pub fn not_allowed() -> Status {
    Status::failure(
        405,
        "MethodNotAllowed",
        "the server does not allow this method on the requested resource",
    )
    .with_details(StatusDetails::default())
}

fn unsupported_patch() -> Status {
    Status::failure(415, "UnsupportedMediaType", "415: Unsupported Media Type").with_details(StatusDetails::default())
}

/// 415 of a patch that custom resources do not take.
fn unsupported_custom_patch() -> Status {
    Status::failure(
        415,
        "UnsupportedMediaType",
        "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, \
         application/merge-patch+json, application/apply-patch+yaml",
    )
}

/// Serves a request for a resource. Only reading goes without a box for its own state: what the others hold is more, and
/// each request would carry it.
///
/// # Errors
/// What the client is told.
pub(crate) async fn serve<B>(server: &Arc<ApiServer>, incoming: Incoming<B>) -> Result<Response<Body>, Status>
where
    B: http_body::Body<Data = bytes::Bytes> + Send + Unpin + 'static,
    B::Error: std::fmt::Display,
{
    let info = &incoming.info;
    if info.path.contains("//") && info.subresource != "proxy" {
        return Ok(page_not_found());
    }
    let knows_group = discovery::knows_group(server, &info.path);
    if info.group == metrics_api::GROUP {
        return Ok(Box::pin(metrics_api::serve(server, &incoming)).await);
    }
    let found = trireme_resources::find(&info.group, &info.version, &info.resource);
    let target = match found {
        Some(row) if knows_group => route(&incoming, row)?,
        _ => match Box::pin(custom_target(server, &incoming)).await? {
            Some(target) => target,
            None if knows_group => return Err(no_such_resource()),
            None => return Ok(page_not_found()),
        },
    };
    let row = target.row;
    let deprecated = row
        .deprecated
        .map(|warning| (warning, error_style(&incoming.parts, &incoming.query)));
    let answer = if row.virtual_ {
        Box::pin(reviews::serve(server, incoming, target)).await
    } else if !target.subresource.is_empty() {
        Box::pin(subresource(server, incoming, target)).await
    } else {
        whole(server, incoming, target).await
    };
    let Some((warning, errors)) = deprecated else {
        return answer;
    };
    let mut answer = answer.unwrap_or_else(|status| respond::status(&errors, &status));
    respond::add_first_warning(&mut answer, warning);
    Ok(answer)
}

const JOB_PODS_STAY: &str = "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to \
    remove them or set propagationPolicy=Orphan to suppress this warning";

/// What a client is warned of when it deletes without saying what becomes of dependents.
fn deletion_warnings(target: &Target, options: &options::DeleteOptions) -> Vec<String> {
    let silent = options.propagation.is_none() && options.orphan_dependents.is_none();
    let warned = silent && target.row.group == "batch" && target.row.plural == "jobs";
    if warned { vec![JOB_PODS_STAY.to_owned()] } else { Vec::new() }
}

/// What a request for a custom resource means; none where no definition serves it so.
async fn custom_target<B>(server: &Arc<ApiServer>, incoming: &Incoming<B>) -> Result<Option<Target>, Status> {
    let info = &incoming.info;
    let Some(found) = server.custom(&info.group, &info.version, &info.resource).await? else {
        return Ok(None);
    };
    let row = found.served.row;
    let everywhere = matches!(info.verb.as_str(), "list" | "watch");
    if row.namespaced != info.in_namespace() && !(row.namespaced && everywhere) {
        return Ok(None);
    }
    let name = info.path_name().unwrap_or_default();
    if !info.subresource.is_empty() && row.subresource(&info.subresource).is_none() {
        return Err(Status::not_found(row.group, row.plural, name));
    }
    let mut target = match route(incoming, row) {
        Err(status) if status.is_not_found() => return Ok(None),
        target => target?,
    };
    target.custom = Some(found.served);
    Ok(Some(target))
}

fn route<B>(incoming: &Incoming<B>, row: &'static Resource) -> Result<Target, Status> {
    let info = &incoming.info;
    let name = info.path_name().unwrap_or_default();
    let in_namespace = info.in_namespace();
    if name.contains('/') || (!row.namespaced && in_namespace) {
        return Err(no_such_resource());
    }
    if row.namespaced && !in_namespace && !name.is_empty() {
        return Err(no_such_resource());
    }
    if !info.subresource.is_empty() {
        let known = row.subresource(&info.subresource).ok_or_else(no_such_resource)?;
        if !info.rest.is_empty() && info.subresource != "proxy" {
            return Err(no_such_resource());
        }
        let verb = match incoming.parts.method {
            Method::HEAD | Method::OPTIONS if info.subresource == "proxy" => "get",
            Method::GET => "get",
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => return Err(not_allowed()),
        };
        if !known.verbs.contains(&verb) {
            return Err(not_allowed());
        }
    } else if !allows(row, info.verb.as_str(), &incoming.parts.method, in_namespace, name) {
        return Err(not_allowed());
    }
    let namespaces = row.group.is_empty() && row.plural == "namespaces";
    Ok(Target {
        row,
        custom: None,
        namespace: if namespaces { String::new() } else { info.namespace.clone() },
        name: name.to_owned(),
        subresource: info.subresource.clone(),
        user: Arc::clone(&incoming.user),
    })
}

fn allows(row: &Resource, verb: &str, method: &Method, in_namespace: bool, name: &str) -> bool {
    let fits = match *method {
        Method::GET => true,
        Method::POST => name.is_empty() && (in_namespace || !row.namespaced),
        Method::PUT | Method::PATCH => !name.is_empty(),
        Method::DELETE => !name.is_empty() || in_namespace || !row.namespaced,
        _ => false,
    };
    fits && row.has_verb(verb)
}

/// The decoded body of a request and its warnings; what was sent empty is noted in the options.
pub(crate) async fn read_object<B>(
    incoming: &mut Incoming<B>,
    expected: Expected<'_>,
    write: &mut WriteOptions,
) -> Result<(Value, Vec<String>), Status>
where
    B: http_body::Body<Data = bytes::Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let format = decode::content_type(&incoming.parts.headers)?;
    let bytes = body::read(&mut incoming.body).await?;
    let decoded = decode::body(format, &bytes, expected, write.validation)?;
    write.empty = decoded.empty;
    write.values = decoded.values;
    Ok((decoded.value, decoded.warnings))
}

/// A body as a whole object of the target's row, with its defaults.
pub(crate) fn defaulted(
    format: Format,
    bytes: &Bytes,
    target: &Target,
    validation: rules::FieldValidation,
) -> Result<Decoded, Status> {
    if let Some(served) = &target.custom {
        return custom::body(served, format, bytes, validation);
    }
    let row = target.row;
    let mut decoded = decode::body(format, bytes, expected(row), validation)?;
    rules::defaults(row, &mut decoded.value);
    Ok(decoded)
}

pub(crate) fn expected(row: &Resource) -> Expected<'static> {
    Expected {
        group: row.group,
        version: row.version,
        kind: row.kind,
    }
}

async fn whole<B>(server: &Arc<ApiServer>, mut incoming: Incoming<B>, target: Target) -> Result<Response<Body>, Status>
where
    B: http_body::Body<Data = bytes::Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    match incoming.info.verb.as_str() {
        "get" => {
            let style = style(&incoming.parts, &incoming.query, Offer::Object)?;
            check_include(&incoming)?;
            let version = incoming.query.get("resourceVersion").unwrap_or_default();
            let object = server.get(&target, version).await?;
            Ok(respond::object(&style, 200, &target, &object))
        }
        "list" => Box::pin(list(server, &incoming, &target)).await,
        "watch" => Box::pin(watch(server, &incoming, &target)).await,
        "create" => Box::pin(create(server, &mut incoming, &target)).await,
        "update" => Box::pin(update(server, &mut incoming, &target)).await,
        "patch" => Box::pin(patch(server, incoming, target)).await,
        "delete" => Box::pin(delete(server, &mut incoming, &target)).await,
        "deletecollection" => Box::pin(delete_collection(server, &mut incoming, &target)).await,
        _ => Err(not_allowed()),
    }
}

async fn list<B>(server: &Arc<ApiServer>, incoming: &Incoming<B>, target: &Target) -> Result<Response<Body>, Status> {
    let style = style(&incoming.parts, &incoming.query, Offer::List)?;
    check_include(incoming)?;
    let list = options::list(&incoming.query, false)?;
    let selection = Selection::parse(target, &list.label_selector, &list.field_selector)?;
    match server.list(target, &list, &selection).await {
        Ok(listing) => Ok(respond::list(&style, target, listing)),
        Err(failure) => Ok(respond::list_failure(&style, &failure)),
    }
}

async fn create<B>(server: &Arc<ApiServer>, incoming: &mut Incoming<B>, target: &Target) -> Result<Response<Body>, Status>
where
    B: http_body::Body<Data = bytes::Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let style = style(&incoming.parts, &incoming.query, Offer::Object)?;
    let mut write = options::write(&incoming.query, "CreateOptions", None, incoming.header("user-agent"))?;
    let (value, warnings) = match &target.custom {
        None => {
            let (mut value, warnings) = read_object(incoming, expected(target.row), &mut write).await?;
            write.shares_labels = rules::shares_labels(target.row, &value);
            rules::defaults(target.row, &mut value);
            (value, warnings)
        }
        Some(served) => {
            let format = decode::content_type(&incoming.parts.headers)?;
            let bytes = body::read(&mut incoming.body).await?;
            let decoded = custom::body(served, format, &bytes, write.validation)?;
            write.values = decoded.values;
            (decoded.value, decoded.warnings)
        }
    };
    let written = server.create(target, value, &write).await;
    written_answer(&style, target, written, warnings)
}

/// PUT, of the object or of a part of it.
async fn update<B>(server: &Arc<ApiServer>, incoming: &mut Incoming<B>, target: &Target) -> Result<Response<Body>, Status>
where
    B: http_body::Body<Data = bytes::Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let style = style(&incoming.parts, &incoming.query, Offer::Object)?;
    let mut write = options::write(&incoming.query, "UpdateOptions", None, incoming.header("user-agent"))?;
    let format = decode::content_type(&incoming.parts.headers)?;
    let bytes = body::read(&mut incoming.body).await?;
    let validation = write.validation;
    let decoded = defaulted(format, &bytes, target, validation)?;
    write.empty = decoded.empty;
    write.values = decoded.values;
    let again = || defaulted(format, &bytes, target, validation).map(|decoded| decoded.value);
    let written = server.update(target, decoded.value, &again, &write).await;
    written_answer(&style, target, written, decoded.warnings)
}

async fn delete<B>(server: &Arc<ApiServer>, incoming: &mut Incoming<B>, target: &Target) -> Result<Response<Body>, Status>
where
    B: http_body::Body<Data = bytes::Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let style = style(&incoming.parts, &incoming.query, Offer::Object)?;
    let body = delete_body(incoming).await?;
    let delete = options::delete(&incoming.query, body.as_ref())?;
    let mut warnings = deletion_warnings(target, &delete);
    let mut answer = match server.delete(target, &delete).await {
        Ok(deleted) => {
            warnings.extend_from_slice(&deleted.warnings);
            if answers_object(target, &deleted) {
                respond::object(&style, 200, target, &deleted.object)
            } else {
                respond::status(&style, &success(target, &deleted))
            }
        }
        Err(status) => respond::status(&error_style(&incoming.parts, &incoming.query), &status),
    };
    respond::add_warnings(&mut answer, &warnings);
    Ok(answer)
}

async fn delete_collection<B>(
    server: &Arc<ApiServer>,
    incoming: &mut Incoming<B>,
    target: &Target,
) -> Result<Response<Body>, Status>
where
    B: http_body::Body<Data = bytes::Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let style = style(&incoming.parts, &incoming.query, Offer::List)?;
    let list = options::list(&incoming.query, false)?;
    let selection = Selection::parse(target, &list.label_selector, &list.field_selector)?;
    let body = delete_body(incoming).await?;
    let delete = options::delete(&incoming.query, body.as_ref())?;
    let mut answer = match server.delete_collection(target, &list, &selection, &delete).await {
        Ok(listing) => respond::list(&style, target, listing),
        Err(failure) => respond::list_failure(&style, &failure),
    };
    respond::add_warnings(&mut answer, &deletion_warnings(target, &delete));
    Ok(answer)
}

/// Sends a written object, with the warnings of decoding before those of the pipeline.
pub(crate) fn written_answer(
    style: &Style,
    target: &Target,
    written: Result<Written, Status>,
    mut warnings: Vec<String>,
) -> Result<Response<Body>, Status> {
    let mut answer = match written {
        Ok(mut written) => {
            warnings.append(&mut written.warnings);
            respond::object(style, if written.created { 201 } else { 200 }, target, &written.object)
        }
        Err(mut status) => {
            warnings.append(&mut status.warnings);
            let mut plain = *style;
            plain.accepted.shape = super::accept::Shape::Plain;
            respond::status(&plain, &status)
        }
    };
    respond::add_warnings(&mut answer, &warnings);
    Ok(answer)
}

fn check_include<B>(incoming: &Incoming<B>) -> Result<(), Status> {
    match incoming.query.text("includeObject") {
        None | Some("None" | "Metadata" | "Object") => Ok(()),
        Some(other) => Err(Status::bad_request(format!(
            "Unable to convert to Table as requested: includeObject: Invalid value: {other:?}: must be 'Metadata', 'Object', \
             'None', or empty"
        ))),
    }
}

/// `DeleteOptions` of a body, where there is one.
pub(crate) async fn delete_body<B>(incoming: &mut Incoming<B>) -> Result<Option<Value>, Status>
where
    B: http_body::Body<Data = bytes::Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let bytes = body::read(&mut incoming.body).await?;
    if bytes.is_empty() {
        return Ok(None);
    }
    let format = decode::content_type(&incoming.parts.headers)?;
    if format == Format::Json
        && let Ok(value) = serde_json::from_slice::<Value>(&bytes)
        && let Some(kind) = value["kind"].as_str().filter(|kind| *kind != "DeleteOptions")
    {
        let version = value["apiVersion"].as_str().unwrap_or_default();
        return Err(Status::bad_request(format!(
            "no kind {kind:?} is registered for version {version:?} in scheme \
             \"k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme/register.go:27\""
        )));
    }
    let expected = Expected {
        group: "meta.k8s.io",
        version: "v1",
        kind: "DeleteOptions",
    };
    decode::body(format, &bytes, expected, FieldValidation::Ignore).map(|decoded| Some(decoded.value))
}

async fn watch<B>(server: &Arc<ApiServer>, incoming: &Incoming<B>, target: &Target) -> Result<Response<Body>, Status> {
    let style = style(&incoming.parts, &incoming.query, Offer::Watch)?;
    check_include(incoming)?;
    let list = options::list(&incoming.query, true)?;
    let mut selection = Selection::parse(target, &list.label_selector, &list.field_selector)?;
    if incoming.info.legacy_watch && !target.name.is_empty() {
        selection = selection.named(&target.name);
    }
    let watcher = server.watch(target, &list, selection).await?;
    Ok(watch_stream::response(style, target, watcher, server.metrics.streaming()))
}

async fn patch<B>(server: &Arc<ApiServer>, mut incoming: Incoming<B>, target: Target) -> Result<Response<Body>, Status>
where
    B: http_body::Body<Data = bytes::Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let kind = incoming
        .header("content-type")
        .and_then(PatchKind::of)
        .ok_or_else(unsupported_patch);
    let kind = match (&target.custom, kind) {
        (Some(_), Err(_) | Ok(PatchKind::Strategic)) => return Err(unsupported_custom_patch()),
        (_, kind) => kind?,
    };
    let style = style(&incoming.parts, &incoming.query, Offer::Object)?;
    let apply = Some(kind == PatchKind::Apply);
    let write = options::write(&incoming.query, "PatchOptions", apply, incoming.header("user-agent"))?;
    let bytes = body::read(&mut incoming.body).await?;
    let written = if target.subresource == "scale" {
        server.patch_scale(&target, kind, &bytes, &write).await
    } else {
        server.patch(&target, kind, &bytes, &write).await
    };
    written_answer(&style, &as_answered(target), written, Vec::new())
}

/// The target with the row of what a change of it answers.
fn as_answered(target: Target) -> Target {
    if target.subresource != "scale" {
        return target;
    }
    Target {
        row: crate::pipeline::subresources::scale_row(),
        custom: None,
        ..target
    }
}

async fn subresource<B>(server: &Arc<ApiServer>, mut incoming: Incoming<B>, target: Target) -> Result<Response<Body>, Status>
where
    B: http_body::Body<Data = bytes::Bytes> + Send + Unpin + 'static,
    B::Error: std::fmt::Display,
{
    let sub = target.subresource.clone();
    let method = incoming.parts.method.clone();
    match sub.as_str() {
        "log" => return proxy::logs(server, incoming, &target).await,
        "exec" | "attach" | "portforward" => return proxy::stream(server, incoming, &target).await,
        "proxy" => return proxy::proxy(server, incoming, &target).await,
        _ => {}
    }
    if method == Method::PATCH {
        return patch(server, incoming, target).await;
    }
    let offer = if method == Method::POST {
        Offer::Review
    } else {
        Offer::Object
    };
    let style = style(&incoming.parts, &incoming.query, offer)?;
    if method == Method::GET {
        let version = incoming.query.get("resourceVersion").unwrap_or_default();
        let object = server.get(&target, version).await?;
        if sub == "scale" {
            let scale = crate::pipeline::subresources::scale_of(&target, &object.value())?;
            let scale = rules::object_of(&scale)?;
            return Ok(respond::object(
                &style,
                200,
                crate::pipeline::subresources::scale_row(),
                &scale,
            ));
        }
        return Ok(respond::object(&style, 200, &target, &object));
    }
    if method == Method::POST {
        return posted(server, incoming, target, &style).await;
    }
    if sub != "scale" {
        return update(server, &mut incoming, &target).await;
    }
    let mut write = options::write(&incoming.query, "UpdateOptions", None, incoming.header("user-agent"))?;
    let row = crate::pipeline::subresources::scale_row();
    let (value, warnings) = read_object(&mut incoming, expected(row), &mut write).await?;
    let written = server.update_scale(&target, value, &write).await;
    written_answer(&style, &as_answered(target), written, warnings)
}

/// POST to a subresource: `binding`, `eviction`, `token`.
async fn posted<B>(
    server: &Arc<ApiServer>,
    mut incoming: Incoming<B>,
    target: Target,
    style: &Style,
) -> Result<Response<Body>, Status>
where
    B: http_body::Body<Data = bytes::Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let known = target.row.subresource(&target.subresource).ok_or_else(no_such_resource)?;
    let mut write = options::write(&incoming.query, "CreateOptions", None, incoming.header("user-agent"))?;
    let (group, version) = if known.version.is_empty() {
        (target.row.group, target.row.version)
    } else {
        (known.group, known.version)
    };
    let expected = Expected {
        group,
        version,
        kind: known.kind,
    };
    let (value, warnings) = read_object(&mut incoming, expected, &mut write).await?;
    let warned = |status: Status| status.warning(warnings.clone());
    let mut answer = match target.subresource.as_str() {
        "binding" => respond::status(style, &server.bind(&target, value, &write).await.map_err(warned)?),
        "eviction" => respond::status(style, &server.evict(&target, value, &write).await.map_err(warned)?),
        "token" => {
            let token = server.issue_token(&target, value, &write).await.map_err(warned)?;
            respond::value(style, 201, "authentication.k8s.io/v1", "TokenRequest", &token)
        }
        _ => return Err(not_allowed()),
    };
    respond::add_warnings(&mut answer, &warnings);
    Ok(answer)
}
