//! Changes of what a kind creates: the same for each kind, of the largest object of it that is accepted.
//!
//! Invariant: a change touches one label and is a dry run, so it can be sent any number of times.

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use super::super::http::Call;
use super::kinds::{APPLY, JSON_PATCH, MERGE, STRATEGIC};

/// An object that was created, and how.
pub(super) struct Created {
    /// Its path.
    pub(super) path: String,
    /// As it was sent.
    sent: Value,
    /// As it was answered.
    answered: Value,
}

impl Created {
    /// What became of a creation in that collection.
    ///
    /// # Errors
    /// When the body or the answer is no object with a name.
    pub(super) fn of(collection: &str, sent: &Bytes, answered: &Bytes) -> Result<Self> {
        let sent: Value = serde_json::from_slice(sent).context("what was sent is no JSON")?;
        let answered: Value = serde_json::from_slice(answered).context("the answer is no JSON")?;
        let name = answered["metadata"]["name"].as_str().context("the answer has no name")?;
        Ok(Self {
            path: format!("{collection}/{name}"),
            sent,
            answered,
        })
    }

    /// Each change by its name.
    pub(super) fn changes(&self) -> Vec<(&'static str, Call)> {
        let label = || json!({"worst": "changed"});
        let labelled = |object: &Value| {
            let mut object = object.clone();
            object["metadata"]["labels"] = label();
            object
        };
        let mut applied = labelled(&self.sent);
        for member in ["apiVersion", "kind"] {
            applied[member] = self.answered[member].clone();
        }
        let merge = json!({"metadata": {"labels": label()}}).to_string();
        let patch = json!([{"op": "add", "path": "/metadata/labels", "value": label()}]).to_string();
        let call = |method: Method, query: &str, body: String| {
            Call::with(method, format!("{}?dryRun=All&fieldManager=worst{query}", self.path), body)
        };
        vec![
            ("PUT", call(Method::PUT, "", labelled(&self.answered).to_string())),
            ("merge patch", call(Method::PATCH, "", merge.clone()).of_type(MERGE)),
            ("JSON patch", call(Method::PATCH, "", patch).of_type(JSON_PATCH)),
            ("strategic patch", call(Method::PATCH, "", merge).of_type(STRATEGIC)),
            (
                "apply",
                call(Method::PATCH, "&force=true", applied.to_string()).of_type(APPLY),
            ),
        ]
    }
}
