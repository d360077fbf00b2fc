//! What a webhook is sent, and what its answer says.
//!
//! Invariant: an answer is judged as a whole before any of it is followed; what is wrong with it is told in upstream's words.

use std::collections::BTreeMap;

use base64::Engine as _;
use serde::Serialize;
use serde_json::Value;
use trireme_api::decode::{Body, DecodeError};
use trireme_api::{Status, go};

use super::Phase;
use super::failure::{Failure, denial};
use super::hook::{Hook, ReviewVersion};
use super::matching::{Kind, Resource};

/// Who asks.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct User<'a> {
    /// User name.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub username: &'a str,
    /// Id, where there is one.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub uid: &'a str,
    /// Groups.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub groups: &'a [String],
    /// Further facts.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: &'a BTreeMap<String, Vec<String>>,
}

/// One request for review, without what differs from webhook to webhook.
#[derive(Clone, Copy, Debug)]
pub struct Review<'a> {
    /// `CREATE`, `UPDATE`, `DELETE` or `CONNECT`.
    pub operation: &'a str,
    /// The kind that the request names.
    pub request_kind: Kind<'a>,
    /// The resource that the request names.
    pub request_resource: Resource<'a>,
    /// The subresource; empty for the object itself.
    pub subresource: &'a str,
    /// Name; may be empty.
    pub name: &'a str,
    /// Namespace; of a namespace, its own name.
    pub namespace: &'a str,
    /// Who asks.
    pub user: User<'a>,
    /// Whether nothing will be stored.
    pub dry_run: bool,
    /// The request's options; null for a connect.
    pub options: &'a Value,
}

/// The objects of a review, in the version that the webhook is to see.
#[derive(Clone, Copy, Debug)]
pub struct Objects<'a> {
    /// Their kind.
    pub kind: Kind<'a>,
    /// Their resource.
    pub resource: Resource<'a>,
    /// The new one; null where there is none.
    pub object: &'a Value,
    /// The one as it is; null where there is none.
    pub old: &'a Value,
}

#[derive(Serialize)]
struct SentKind<'a> {
    group: &'a str,
    version: &'a str,
    kind: &'a str,
}

#[derive(Serialize)]
struct SentResource<'a> {
    group: &'a str,
    version: &'a str,
    resource: &'a str,
}

impl<'a> From<Kind<'a>> for SentKind<'a> {
    fn from(Kind { group, version, kind }: Kind<'a>) -> Self {
        Self { group, version, kind }
    }
}

impl<'a> From<Resource<'a>> for SentResource<'a> {
    fn from(resource: Resource<'a>) -> Self {
        Self {
            group: resource.group,
            version: resource.version,
            resource: resource.plural,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SentRequest<'a> {
    #[serde(flatten)]
    shown: ShownRequest<'a>,
    object: &'a Value,
    old_object: &'a Value,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SentReview<'a> {
    kind: &'a str,
    api_version: &'a str,
    request: SentRequest<'a>,
}

impl ReviewVersion {
    /// `apiVersion` of its reviews.
    #[must_use]
    pub fn api_version(self) -> &'static str {
        match self {
            Self::V1 => "admission.k8s.io/v1",
            Self::V1beta1 => "admission.k8s.io/v1beta1",
        }
    }
}

/// A request as conditions see it: without its objects, which have names of their own.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownRequest<'a> {
    uid: &'a str,
    kind: SentKind<'a>,
    resource: SentResource<'a>,
    #[serde(skip_serializing_if = "str::is_empty")]
    sub_resource: &'a str,
    request_kind: SentKind<'a>,
    request_resource: SentResource<'a>,
    #[serde(skip_serializing_if = "str::is_empty")]
    request_sub_resource: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    namespace: &'a str,
    operation: &'a str,
    user_info: User<'a>,
    dry_run: bool,
    options: &'a Value,
}

impl Review<'_> {
    fn shown<'a>(&'a self, uid: &'a str, kind: Kind<'a>, resource: Resource<'a>) -> ShownRequest<'a> {
        ShownRequest {
            uid,
            kind: kind.into(),
            resource: resource.into(),
            sub_resource: self.subresource,
            request_kind: self.request_kind.into(),
            request_resource: self.request_resource.into(),
            request_sub_resource: self.subresource,
            name: self.name,
            namespace: self.namespace,
            operation: self.operation,
            user_info: self.user,
            dry_run: self.dry_run,
            options: self.options,
        }
    }

    /// The request as the conditions of a webhook see it that would see that resource.
    ///
    /// # Panics
    /// Never: all of it can be written as JSON.
    #[must_use]
    pub fn request(&self, kind: Kind<'_>, resource: Resource<'_>) -> Value {
        serde_json::to_value(self.shown("", kind, resource)).expect("a request is JSON")
    }

    /// The `AdmissionReview` that a webhook is sent, in JSON.
    ///
    /// # Panics
    /// Never: all of it can be written as JSON.
    #[must_use]
    pub fn body(&self, version: ReviewVersion, uid: &str, objects: &Objects<'_>) -> Vec<u8> {
        let review = SentReview {
            kind: "AdmissionReview",
            api_version: version.api_version(),
            request: SentRequest {
                shown: self.shown(uid, objects.kind, objects.resource),
                object: objects.object,
                old_object: objects.old,
            },
        };
        serde_json::to_vec(&review).expect("a review is JSON")
    }
}

/// What an answer says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    /// What the client is told where the webhook refused.
    pub denied: Option<Status>,
    /// A JSON patch; empty where there is none.
    pub patch: Vec<u8>,
    /// Warnings for the client.
    pub warnings: Vec<String>,
}

/// Why an answer is none, before the webhook's name is put before it.
struct Unfit {
    reason: String,
    code: u16,
}

fn unread(reason: impl Into<String>) -> Unfit {
    Unfit {
        reason: format!("failed to call webhook: {}", reason.into()),
        code: 503,
    }
}

fn invalid(reason: impl Into<String>) -> Unfit {
    Unfit {
        reason: format!("received invalid webhook response: {}", reason.into()),
        code: 503,
    }
}

/// Judges the body of an answer to a review with that id.
///
/// # Errors
/// [`Failure::Call`] for what is no answer.
pub fn judge(hook: &Hook, phase: Phase, uid: &str, body: &[u8]) -> Result<Verdict, Failure> {
    let version = hook.reviews.unwrap_or(ReviewVersion::V1);
    let fail = |unfit: Unfit| Failure::call(&hook.name, unfit.reason, unfit.code);
    let response = response(version, body).map_err(fail)?;
    let patch = match version {
        ReviewVersion::V1 => patch_of(&response, phase, uid).map_err(fail)?,
        ReviewVersion::V1beta1 if phase == Phase::Mutating => response.patch.clone(),
        ReviewVersion::V1beta1 => Vec::new(),
    };
    let denied = (!response.allowed).then(|| denial(&hook.name, response.status));
    if denied.is_none() && !patch.is_empty() {
        let kind = response.patch_type.as_deref().unwrap_or("JSONPatch");
        if kind != "JSONPatch" && version == ReviewVersion::V1 {
            return Err(Failure::call(&hook.name, format!("unsupported patch type {kind:?}"), 400));
        }
    }
    Ok(Verdict {
        denied,
        patch,
        warnings: response.warnings,
    })
}

/// The parts of `response`.
#[derive(Default)]
struct Response {
    /// `apiVersion` and kind of the review; empty where it does not say.
    told: (String, String),
    uid: String,
    allowed: bool,
    status: Option<Status>,
    patch: Vec<u8>,
    patch_type: Option<String>,
    warnings: Vec<String>,
}

/// Upstream's checks of a version 1 answer, in its order; the patch.
fn patch_of(response: &Response, phase: Phase, uid: &str) -> Result<Vec<u8>, Unfit> {
    if response.uid != uid {
        return Err(invalid(format!("expected response.uid={uid:?}, got {:?}", response.uid)));
    }
    let (api_version, kind) = &response.told;
    if (api_version.as_str(), kind.as_str()) != (ReviewVersion::V1.api_version(), "AdmissionReview") {
        let got = if api_version.is_empty() { "/" } else { api_version };
        return Err(invalid(format!(
            "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {got}, Kind={kind}"
        )));
    }
    let (patched, typed) = (!response.patch.is_empty(), response.patch_type.as_deref());
    match (phase, patched, typed) {
        (Phase::Validating, true, _) => Err(invalid("validating webhook may not return response.patch")),
        (Phase::Validating, false, Some(_)) => Err(invalid("validating webhook may not return response.patchType")),
        (Phase::Mutating, true, None) => Err(invalid("webhook returned response.patch but not response.patchType")),
        (Phase::Mutating, false, Some(_)) => Err(invalid("webhook returned response.patchType but not response.patch")),
        (Phase::Mutating, true, Some("")) => Err(invalid("webhook returned invalid response.patchType of \"\"")),
        _ => Ok(response.patch.clone()),
    }
}

/// Reads a review's response as Go does: what is null is absent, what has another type is a mistake.
fn response(version: ReviewVersion, body: &[u8]) -> Result<Response, Unfit> {
    let meta = |why: DecodeError| unread(format!("couldn't get version/kind; json parse error: {why}"));
    let review = Body::parse(body).map_err(meta)?;
    let told = review.type_meta().map_err(meta)?;
    let review = review.into_value();
    known(version, &told)?;
    let response = &review["response"];
    if response.is_null() {
        return Err(invalid("webhook response was absent"));
    }
    if !response.is_object() {
        return Err(mistyped(response, ".response", "v1.AdmissionResponse"));
    }
    let allowed = match &response["allowed"] {
        Value::Null => false,
        Value::Bool(allowed) => *allowed,
        other => return Err(mistyped(other, "AdmissionResponse.response.allowed", "bool")),
    };
    let status = match &response["status"] {
        Value::Null => None,
        status @ Value::Object(_) => Some(
            serde_json::from_value(without_nulls(status))
                .map_err(|error| unread(format!("cannot read response.status: {error}")))?,
        ),
        other => return Err(mistyped(other, "AdmissionResponse.response.status", "v1.Status")),
    };
    let encoded = text(response, "response.", "patch")?;
    let patch = base64::engine::general_purpose::STANDARD
        .decode(encoded.replace(['\r', '\n'], ""))
        .map_err(|_| unread("illegal base64 data in response.patch"))?;
    let patch_type = match &response["patchType"] {
        Value::Null => None,
        _ => Some(text(response, "response.", "patchType")?),
    };
    let warnings = match &response["warnings"] {
        Value::Null => Vec::new(),
        Value::Array(items) => items.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        other => return Err(mistyped(other, "AdmissionResponse.response.warnings", "[]string")),
    };
    Ok(Response {
        told,
        uid: text(response, "response.", "uid")?,
        allowed,
        status,
        patch,
        patch_type,
        warnings,
    })
}

/// Refuses a review of another kind, or of the other version.
fn known(version: ReviewVersion, (api_version, kind): &(String, String)) -> Result<(), Unfit> {
    let versions = [ReviewVersion::V1, ReviewVersion::V1beta1];
    let known_version = api_version.is_empty() || versions.iter().any(|known| known.api_version() == api_version);
    if !(known_version && matches!(kind.as_str(), "" | "AdmissionReview")) {
        return Err(unread(format!(
            "no kind {kind:?} is registered for version {api_version:?} in scheme \"pkg/runtime/scheme.go:110\""
        )));
    }
    if api_version.is_empty() || api_version == version.api_version() {
        return Ok(());
    }
    let short = |api_version: &str| api_version.rsplit('/').next().unwrap_or_default().to_owned();
    Err(unread(format!(
        "converting ({}.AdmissionReview) to ({}.AdmissionReview): unknown conversion",
        short(api_version),
        short(version.api_version())
    )))
}

/// A value without members that are null, which are to Go as if they were absent.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let kept = members.iter().filter(|(_, member)| !member.is_null());
            kept.map(|(name, member)| (name.clone(), without_nulls(member))).collect()
        }
        Value::Array(items) => items.iter().map(without_nulls).collect(),
        other => other.clone(),
    }
}

fn text(of: &Value, within: &str, name: &str) -> Result<String, Unfit> {
    match &of[name] {
        Value::Null => Ok(String::new()),
        Value::String(text) => Ok(text.clone()),
        other => Err(mistyped(other, &format!("AdmissionReview.{within}{name}"), "string")),
    }
}

fn mistyped(value: &Value, place: &str, wanted: &str) -> Unfit {
    unread(format!(
        "json: cannot unmarshal {} into Go struct field {place} of type {wanted}",
        go::kind(value)
    ))
}
