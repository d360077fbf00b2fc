//! The `Status` object: how the API tells of failure and of deletion.
//!
//! Invariant: `code` and `reason` agree as upstream pairs them
//! (staging/src/k8s.io/apimachinery/pkg/api/errors/errors.go).

use serde::{Deserialize, Serialize};

use crate::cost::ERRORS_BYTES_MAX;

/// `v1.Status`. It is the error type of every API operation, in process and over HTTP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "camelCase", default)]
#[error("{message}")]
pub struct Status {
    /// `Success` or `Failure`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub status: String,
    /// What happened, for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// What happened, for machines.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Which object, and the causes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<Box<StatusDetails>>,
    /// HTTP status code.
    #[serde(skip_serializing_if = "is_zero")]
    pub code: u16,
    /// What the client is warned of besides; in HTTP it travels in headers.
    #[serde(skip)]
    pub warnings: Vec<String>,
}

/// `v1.StatusDetails`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatusDetails {
    /// Name of the object.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// API group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// Kind, or resource name: upstream uses both.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// UID of the object.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// One per invalid field, or per reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<StatusCause>,
    /// Seconds after which to try again.
    #[serde(skip_serializing_if = "is_zero_u32")]
    pub retry_after_seconds: u32,
}

/// `v1.StatusCause`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatusCause {
    /// Machine-readable cause, for example `FieldValueInvalid`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Cause in words.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Path of the field, for example `spec.ports[0].port`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
}

fn is_zero(value: &u16) -> bool {
    *value == 0
}

fn is_zero_u32(value: &u32) -> bool {
    *value == 0
}

impl Status {
    /// A failure with its code, reason and message, without details.
    #[must_use]
    pub fn failure(code: u16, reason: &str, message: impl Into<String>) -> Self {
        Self {
            status: "Failure".into(),
            message: message.into(),
            reason: reason.into(),
            details: None,
            code,
            warnings: Vec::new(),
        }
    }

    /// Adds what the client is warned of besides.
    #[must_use]
    pub fn warning(mut self, warnings: Vec<String>) -> Self {
        self.warnings.extend(warnings);
        self
    }

    /// Adds details.
    #[must_use]
    pub fn with_details(mut self, details: StatusDetails) -> Self {
        self.details = Some(Box::new(details));
        self
    }

    fn about(self, group: &str, resource: &str, name: &str) -> Self {
        self.with_details(StatusDetails {
            name: name.into(),
            group: group.into(),
            kind: resource.into(),
            ..StatusDetails::default()
        })
    }

    /// 404: `pods "x" not found`.
    #[must_use]
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        Self::failure(
            404,
            "NotFound",
            format!("{} \"{name}\" not found", qualified(group, resource)),
        )
        .about(group, resource, name)
    }

    /// 409: `pods "x" already exists`.
    #[must_use]
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        Self::failure(
            409,
            "AlreadyExists",
            format!("{} \"{name}\" already exists", qualified(group, resource)),
        )
        .about(group, resource, name)
    }

    /// 409: `Operation cannot be fulfilled on pods "x": why`.
    #[must_use]
    pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> Self {
        Self::failure(
            409,
            "Conflict",
            format!(
                "Operation cannot be fulfilled on {} \"{name}\": {why}",
                qualified(group, resource)
            ),
        )
        .about(group, resource, name)
    }

    /// 403: `pods "x" is forbidden: why`.
    #[must_use]
    pub fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let subject = match (resource.is_empty(), name.is_empty()) {
            (true, _) => format!("forbidden: {why}"),
            (false, true) => format!("{} is forbidden: {why}", qualified(group, resource)),
            (false, false) => format!("{} \"{name}\" is forbidden: {why}", qualified(group, resource)),
        };
        Self::failure(403, "Forbidden", subject).about(group, resource, name)
    }

    /// 400 without details.
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::failure(400, "BadRequest", message)
    }

    /// 500: `Internal error occurred: why`.
    #[must_use]
    pub fn internal(why: &str) -> Self {
        Self::failure(500, "InternalError", format!("Internal error occurred: {why}")).with_details(StatusDetails {
            causes: vec![StatusCause {
                message: why.into(),
                ..StatusCause::default()
            }],
            ..StatusDetails::default()
        })
    }

    /// 410: the resourceVersion asked for is no longer there.
    #[must_use]
    pub fn expired(message: impl Into<String>) -> Self {
        Self::failure(410, "Expired", message)
    }

    /// 422 from a kind, a name and the field errors: all of them, up to [`ERRORS_BYTES_MAX`].
    #[must_use]
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &[crate::field::FieldError]) -> Self {
        let mut bytes = 0;
        let told = errors.iter().take_while(|error| {
            let fits = bytes < ERRORS_BYTES_MAX;
            bytes += error.path.len() + error.value.len() + error.detail.len();
            fits
        });
        let errors = &errors[..told.count()];
        let causes: Vec<_> = errors
            .iter()
            .map(|error| StatusCause {
                reason: error.reason().into(),
                message: error.body(),
                field: error.path.clone(),
            })
            .collect();
        let mut message = format!("{} \"{name}\" is invalid", qualified(group, kind));
        if !errors.is_empty() {
            message.push_str(": ");
            message.push_str(&crate::field::aggregate(errors));
        }
        Self::failure(422, "Invalid", message).with_details(StatusDetails {
            name: name.into(),
            group: group.into(),
            kind: kind.into(),
            causes,
            ..StatusDetails::default()
        })
    }

    /// 500 without a reason: what upstream answers with for errors that it does not classify.
    #[must_use]
    pub fn unclassified(message: impl Into<String>) -> Self {
        Self::failure(500, "", message)
    }

    /// 401: `Unauthorized`.
    #[must_use]
    pub fn unauthorized() -> Self {
        Self::failure(401, "Unauthorized", "Unauthorized")
    }

    /// 404 for a path that no resource has.
    #[must_use]
    pub fn no_such_resource() -> Self {
        Self::failure(404, "NotFound", "the server could not find the requested resource").with_details(StatusDetails::default())
    }

    /// 405 for a method that a path has not.
    #[must_use]
    pub fn method_not_allowed() -> Self {
        Self::failure(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
        .with_details(StatusDetails::default())
    }

    /// 405: `create is not supported on resources of kind "pods"`.
    #[must_use]
    pub fn method_not_supported(group: &str, resource: &str, action: &str) -> Self {
        Self::failure(
            405,
            "MethodNotAllowed",
            format!(
                "{action} is not supported on resources of kind \"{}\"",
                qualified(group, resource)
            ),
        )
        .about(group, resource, "")
    }

    /// 406 with the media types that would do.
    #[must_use]
    pub fn not_acceptable(accepted: &[&str]) -> Self {
        Self::failure(
            406,
            "NotAcceptable",
            format!("only the following media types are accepted: {}", accepted.join(", ")),
        )
    }

    /// 409: a generated name was taken, try again.
    #[must_use]
    pub fn generate_name_conflict(group: &str, resource: &str, name: &str, retry_after_seconds: u32) -> Self {
        let mut status = Self::already_exists(group, resource, name);
        status
            .message
            .push_str(", the server was not able to generate a unique name for the object");
        status.retry_after(retry_after_seconds)
    }

    /// 409 of server-side apply, one cause per field that another manager owns.
    #[must_use]
    pub fn apply_conflict(message: impl Into<String>, causes: Vec<StatusCause>) -> Self {
        Self::failure(409, "Conflict", message).with_details(StatusDetails {
            causes,
            ..StatusDetails::default()
        })
    }

    /// 410 for what is gone and has no successor.
    #[must_use]
    pub fn gone(message: impl Into<String>) -> Self {
        Self::failure(410, "Gone", message)
    }

    /// 413: `Request entity too large: why`.
    #[must_use]
    pub fn request_entity_too_large(why: &str) -> Self {
        Self::failure(413, "RequestEntityTooLarge", format!("Request entity too large: {why}"))
    }

    /// 415 with the media types that would do.
    #[must_use]
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        Self::failure(
            415,
            "UnsupportedMediaType",
            format!(
                "the body of the request was in an unknown format - accepted media types include: {}",
                accepted.join(", ")
            ),
        )
    }

    /// 429 with the seconds to wait; 0 leaves them out.
    #[must_use]
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self::failure(429, "TooManyRequests", message).retry_after(retry_after_seconds)
    }

    /// 500 `ServerTimeout`: an operation could not be completed now, try again.
    #[must_use]
    pub fn server_timeout(group: &str, resource: &str, operation: &str, retry_after_seconds: u32) -> Self {
        Self::failure(
            500,
            "ServerTimeout",
            format!(
                "The {operation} operation against {} could not be completed at this time, please try again.",
                qualified(group, resource)
            ),
        )
        .about(group, resource, operation)
        .retry_after(retry_after_seconds)
    }

    /// 503: `reason` in words.
    #[must_use]
    pub fn service_unavailable(message: impl Into<String>) -> Self {
        Self::failure(503, "ServiceUnavailable", message)
    }

    /// 504: `Timeout: why`.
    #[must_use]
    pub fn timeout(why: &str, retry_after_seconds: u32) -> Self {
        Self::failure(504, "Timeout", format!("Timeout: {why}")).retry_after(retry_after_seconds)
    }

    /// 504: a resourceVersion from the future.
    #[must_use]
    pub fn resource_version_too_large(wanted: u64, current: u64) -> Self {
        let mut status = Self::timeout(&format!("Too large resource version: {wanted}, current: {current}"), 1);
        status.details.get_or_insert_default().causes = vec![StatusCause {
            reason: "ResourceVersionTooLarge".into(),
            message: "Too large resource version".into(),
            field: String::new(),
        }];
        status
    }

    /// `Success`, with what it was about; `code` 0 leaves the code out.
    #[must_use]
    pub fn success(code: u16, details: Option<StatusDetails>) -> Self {
        Self {
            status: "Success".into(),
            code,
            details: details.map(Box::new),
            ..Self::default()
        }
    }

    /// Sets the seconds after which to try again.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.details.get_or_insert_default().retry_after_seconds = seconds;
        self
    }

    /// The object as it is sent, with `kind`, `apiVersion` and empty `metadata`.
    ///
    /// # Panics
    /// Never: a status always serialises to an object.
    #[must_use]
    pub fn to_value(&self) -> serde_json::Value {
        let mut value = serde_json::to_value(self).expect("a status serialises");
        value["kind"] = "Status".into();
        value["apiVersion"] = "v1".into();
        value["metadata"] = serde_json::json!({});
        value
    }

    /// Whether this is "not found" and nothing else: never take another error for it.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.code == 404 && self.reason == "NotFound"
    }

    /// Whether a write lost a race and may be tried again from a fresh read.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.code == 409 && self.reason == "Conflict"
    }

    /// Whether the object to create is already there.
    #[must_use]
    pub fn is_already_exists(&self) -> bool {
        self.code == 409 && self.reason == "AlreadyExists"
    }
}

/// `deployments.apps`, or `pods` for the core group: upstream's `GroupResource.String()`.
#[must_use]
pub fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() {
        resource.to_owned()
    } else {
        format!("{resource}.{group}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn statuses_are_sent_as_upstream_sends_them() {
        for (status, value) in [
            (
                Status::resource_version_too_large(9, 5),
                json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                    "message": "Timeout: Too large resource version: 9, current: 5", "reason": "Timeout",
                    "details": {"causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}], "retryAfterSeconds": 1},
                    "code": 504}),
            ),
            (
                Status::method_not_allowed(),
                json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                    "message": "the server does not allow this method on the requested resource", "reason": "MethodNotAllowed",
                    "details": {}, "code": 405}),
            ),
            (
                Status::unclassified("boom"),
                json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "boom", "code": 500}),
            ),
            (
                Status::success(201, None),
                json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
            ),
        ] {
            assert_eq!(status.to_value(), value);
        }
        assert_eq!(Status::invalid("", "Pod", "x", &[]).message, "Pod \"x\" is invalid");
    }
}
