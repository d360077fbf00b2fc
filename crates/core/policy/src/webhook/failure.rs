//! Why a webhook lets a request fail, and what the client is told.

use trireme_api::Status;

/// A webhook did not admit a request. What becomes of the request depends on which it is: a call that failed may be ignored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The webhook could not be asked, or gave no answer: its failure policy decides.
    #[error("failed calling webhook {hook:?}: {reason}")]
    Call {
        /// Name of the webhook.
        hook: String,
        /// What went wrong.
        reason: String,
        /// The code under which it is counted.
        code: u16,
    },
    /// The webhook refused.
    #[error("{0}")]
    Rejected(Status),
    /// The answer cannot be followed, or the request must not reach the webhook.
    #[error("{0}")]
    Unusable(Status),
}

impl Failure {
    /// A call that failed; `reason` says why.
    #[must_use]
    pub fn call(hook: &str, reason: impl Into<String>, code: u16) -> Self {
        Self::Call {
            hook: hook.to_owned(),
            reason: reason.into(),
            code,
        }
    }

    /// The webhook has side effects, which a dry run must not have.
    #[must_use]
    pub fn dry_run(hook: &str) -> Self {
        Self::Unusable(Status::bad_request(format!(
            "admission webhook {hook:?} does not support dry run"
        )))
    }

    /// The webhook patches a request that has no object.
    #[must_use]
    pub fn nothing_to_patch(hook: &str) -> Self {
        Self::Unusable(Status::internal(&format!(
            "admission webhook {hook:?} attempted to modify the object, which is not supported for this operation"
        )))
    }

    /// What the client is told.
    #[must_use]
    pub fn into_status(self) -> Status {
        match self {
            Self::Call { .. } => Status::internal(&self.to_string()),
            Self::Rejected(status) | Self::Unusable(status) => status,
        }
    }
}

/// What a client is told that a webhook refused: the webhook's own status, made a failure, with the webhook's name.
#[must_use]
pub fn denial(hook: &str, told: Option<Status>) -> Status {
    let mut status = told.unwrap_or_default();
    if status.code < 400 {
        status.code = 400;
    }
    if status.status.is_empty() || status.status == "Success" {
        status.status = "Failure".into();
    }
    let by = format!("admission webhook {hook:?} denied the request");
    status.message = match (status.message.as_str(), status.reason.as_str()) {
        ("", "") => format!("{by} without explanation"),
        ("", reason) => format!("{by}: {reason}"),
        (message, _) => format!("{by}: {message}"),
    };
    status
}
