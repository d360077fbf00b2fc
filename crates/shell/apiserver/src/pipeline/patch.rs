//! PATCH in its four kinds.
//!
//! Invariant: a patch is applied anew to the object as it is at each attempt, so a lost race is no conflict unless the
//! patch names a resourceVersion.

use bytes::Bytes;
use serde_json::Value;
use trireme_api::Status;
use trireme_api::field::FieldErrorType;
use trireme_api::schema::{Struct, Type};

use super::options::{error, quoted};
use super::update::{Behaviour, Made};
use super::{Target, WriteOptions, Written, meta_text, rules};
use crate::server::ApiServer;

/// Which kind of patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchKind {
    /// `application/json-patch+json`.
    Json,
    /// `application/merge-patch+json`.
    Merge,
    /// `application/strategic-merge-patch+json`.
    Strategic,
    /// `application/apply-patch+yaml`.
    Apply,
}

impl PatchKind {
    /// By media type, parameters ignored.
    #[must_use]
    pub fn of(content_type: &str) -> Option<Self> {
        match content_type.split(';').next().unwrap_or_default().trim() {
            "application/json-patch+json" => Some(Self::Json),
            "application/merge-patch+json" => Some(Self::Merge),
            "application/strategic-merge-patch+json" => Some(Self::Strategic),
            "application/apply-patch+yaml" => Some(Self::Apply),
            _ => None,
        }
    }
}

impl ApiServer {
    /// Patches an object or a subresource of it.
    ///
    /// # Errors
    /// As upstream.
    pub async fn patch(&self, target: &Target, kind: PatchKind, body: &Bytes, options: &WriteOptions) -> Result<Written, Status> {
        if kind == PatchKind::Apply {
            return self.apply(target, body, options).await;
        }
        let behaviour = Behaviour {
            patch: true,
            ..Behaviour::default()
        };
        let mut make = |current: &Value| {
            let patched = patched(target, kind, current, body)?;
            let shown = shown(target, kind, &patched, body);
            decode_patched(target, patched, &shown, options)
        };
        self.change(target, options, behaviour, &mut make).await
    }

    async fn apply(&self, target: &Target, body: &Bytes, options: &WriteOptions) -> Result<Written, Status> {
        let applied =
            rules::parse_yaml_or_json(body).map_err(|why| Status::bad_request(format!("error decoding YAML: {why}")))?;
        check_applied(target, &applied)?;
        self.barrier().await?;
        if self.store.get(&target.key()).is_none() {
            if !target.subresource.is_empty() {
                return Err(target.not_found());
            }
            return self.apply_new(target, &applied, options).await;
        }
        let version = meta_text(&applied, "resourceVersion").to_owned();
        let behaviour = Behaviour {
            patch: true,
            ..Behaviour::default()
        };
        let mut make = |current: &Value| {
            if !version.is_empty() && version != meta_text(current, "resourceVersion") {
                return Err(target.modified());
            }
            let value = rules::apply(target, Some(current), &applied, options)?;
            let shown = go_json(target.row.schema(), &value);
            let mut made = decode_patched(target, value, &shown, options)?;
            made.managed = true;
            Ok(made)
        };
        self.change(target, options, behaviour, &mut make).await
    }

    async fn apply_new(&self, target: &Target, applied: &Value, options: &WriteOptions) -> Result<Written, Status> {
        let value = rules::apply(target, None, applied, options)?;
        let shown = go_json(target.row.schema(), &value);
        let options = &WriteOptions {
            shares_labels: rules::shares_labels(target.row, &value),
            ..options.clone()
        };
        let made = decode_patched(target, value, &shown, options)?;
        let mut written = self.create_as(target, made.value, options, true).await?;
        let mut warnings = made.warnings;
        warnings.append(&mut written.warnings);
        written.warnings = warnings;
        Ok(written)
    }
}

/// The present object with a patch applied.
pub(crate) fn patched(target: &Target, kind: PatchKind, current: &Value, body: &Bytes) -> Result<Value, Status> {
    match kind {
        PatchKind::Json => rules::json_patch(current, body),
        PatchKind::Merge => rules::merge_patch(current, body),
        PatchKind::Strategic => rules::strategic_patch(target, current, body),
        PatchKind::Apply => Err(Status::internal("apply is not a patch of this path")),
    }
}

/// Decodes and defaults what a patch gave.
pub(crate) fn decode_patched(target: &Target, patched: Value, shown: &str, options: &WriteOptions) -> Result<Made, Status> {
    let bad = |why: String| Status::invalid("", "", "", &[error(FieldErrorType::Invalid, "patch", quoted(shown), why)]);
    if patched["kind"].as_str() != Some(target.row.kind) || patched["apiVersion"].as_str() != Some(&target.api_version()) {
        return Err(bad(format!(
            "{} in version {:?} cannot be handled as a {}: converting ({}) to ({}): unknown conversion",
            patched["kind"].as_str().unwrap_or_default(),
            target.row.version,
            target.row.kind,
            patched["kind"].as_str().unwrap_or_default(),
            target.row.kind,
        )));
    }
    let (mut value, warnings) = rules::decode_value(target.row, patched, options.validation).map_err(bad)?;
    rules::defaults(target.row, &mut value);
    Ok(Made {
        value,
        warnings,
        managed: false,
    })
}

/// What upstream's errors show of a patch that gave no valid object: the object, or a strategic patch itself.
pub(crate) fn shown(target: &Target, kind: PatchKind, patched: &Value, body: &Bytes) -> String {
    match kind {
        PatchKind::Strategic => go_value(&serde_json::from_slice(body).unwrap_or_default()),
        _ => go_json(target.row.schema(), patched),
    }
}

/// A value as Go's `%v` prints it.
fn go_value(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(go_value).collect::<Vec<_>>().join(" ")),
        Value::Object(members) => {
            let members = members.iter().map(|(name, member)| format!("{name}:{}", go_value(member)));
            format!("map[{}]", members.collect::<Vec<_>>().join(" "))
        }
        other => other.to_string(),
    }
}

/// The patched object as upstream's errors show it: the top level sorted, what lies below in the order of declaration.
fn go_json(ty: &Struct, value: &Value) -> String {
    let Value::Object(members) = value else {
        return value.to_string();
    };
    let shown = members.iter().map(|(name, member)| {
        let text = ty
            .field(name)
            .map_or_else(|| member.to_string(), |field| declared(field.ty, member));
        format!("{}:{text}", Value::from(name.as_str()))
    });
    format!("{{{}}}", shown.collect::<Vec<_>>().join(","))
}

fn declared(ty: Type, value: &Value) -> String {
    match (ty, value) {
        (Type::List(inner), Value::Array(items)) => {
            let items: Vec<String> = items.iter().map(|item| declared(*inner, item)).collect();
            format!("[{}]", items.join(","))
        }
        (Type::Map(inner), Value::Object(members)) => {
            let members = members
                .iter()
                .map(|(name, member)| format!("{}:{}", Value::from(name.as_str()), declared(*inner, member)));
            format!("{{{}}}", members.collect::<Vec<_>>().join(","))
        }
        (Type::Struct(reference), Value::Object(members)) => {
            let known = reference.fields.iter().filter_map(|field| {
                let member = members.get(field.json)?;
                Some(format!("\"{}\":{}", field.json, declared(field.ty, member)))
            });
            let unknown = members
                .iter()
                .filter(|(name, _)| reference.field(name).is_none())
                .map(|(name, member)| format!("{}:{member}", Value::from(name.as_str())));
            format!("{{{}}}", known.chain(unknown).collect::<Vec<_>>().join(","))
        }
        _ => value.to_string(),
    }
}

fn check_applied(target: &Target, applied: &Value) -> Result<(), Status> {
    let text = |name: &str| applied[name].as_str().unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    if api_version != target.api_version() || kind != target.row.kind {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        return Err(Status::bad_request(format!(
            "invalid object type: {group}/{version}, Kind={kind}"
        )));
    }
    if applied["metadata"]["managedFields"]
        .as_array()
        .is_some_and(|list| !list.is_empty())
    {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let name = meta_text(applied, "name");
    if !name.is_empty() && name != target.name {
        return super::update::check_name(target, applied);
    }
    Ok(())
}
