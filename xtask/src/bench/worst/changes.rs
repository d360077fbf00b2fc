//! Changes of what a kind creates: the same for each kind, of the largest object of it that is accepted.
//!
//! Invariant: a change is a dry run, so it can be sent any number of times. It touches one label or, of a definition, what stands
//! in its spec before or behind the schemas.

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
        let label = json!({"worst": "changed"});
        let labels = ("/metadata", "labels", label);
        let mut changes = self.in_every_way(
            ["PUT", "JSON patch", "apply", "merge patch", "strategic patch"],
            &labels,
            &json!({"metadata": {"labels": labels.2}}),
        );
        if self.sent.pointer("/spec/versions/0").is_some() {
            changes.extend(self.in_every_way(
                [
                    "PUT of its spec",
                    "JSON patch of its spec",
                    "apply of its spec",
                    "merge patch of its spec",
                    "strategic patch of its spec",
                ],
                &("/spec/versions/0", "served", json!(false)),
                &json!({"spec": {"names": {"shortNames": ["worst"]}}}),
            ));
        }
        changes
    }

    /// A change by PUT, JSON patch and apply, which set a member of what stands at a pointer, and by the two merges.
    fn in_every_way(
        &self,
        names: [&'static str; 5],
        (at, member, value): &(&str, &str, Value),
        merged: &Value,
    ) -> Vec<(&'static str, Call)> {
        let changed = |object: &Value| {
            let mut object = object.clone();
            if let Some(inside) = object.pointer_mut(at) {
                inside[*member] = value.clone();
            }
            object
        };
        let mut applied = changed(&self.sent);
        for member in ["apiVersion", "kind"] {
            applied[member] = self.answered[member].clone();
        }
        let patch = json!([{"op": "add", "path": format!("{at}/{member}"), "value": value}]);
        let call = |method: Method, query: &str, body: &Value| {
            let path = format!("{}?dryRun=All&fieldManager=worst{query}", self.path);
            Call::with(method, path, body.to_string())
        };
        let calls = [
            call(Method::PUT, "", &changed(&self.answered)),
            call(Method::PATCH, "", &patch).of_type(JSON_PATCH),
            call(Method::PATCH, "&force=true", &applied).of_type(APPLY),
            call(Method::PATCH, "", merged).of_type(MERGE),
            call(Method::PATCH, "", merged).of_type(STRATEGIC),
        ];
        names.into_iter().zip(calls).collect()
    }
}
