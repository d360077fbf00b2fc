//! PATCH in its four kinds.
//!
//! Invariant: a patch is applied anew to the object as it is at each attempt, so a lost race is no conflict unless the
//! patch names a resourceVersion.

use bytes::Bytes;
use serde_json::Value;
use trireme_api::cost::Ledger;
use trireme_api::decode::{DecodeError, FieldValidation, YamlError, yaml};
use trireme_api::field::FieldErrorType;
use trireme_api::schema::{Struct, Type};
use trireme_api::{Status, go};
use trireme_resources::patch::{self, Patched};

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
            let patched = patched(target, kind, current, body, options.validation)?;
            decode_patched(target, patched, Shown::of(kind, body), options)
        };
        self.change(target, options, behaviour, &mut make).await
    }

    async fn apply(&self, target: &Target, body: &Bytes, options: &WriteOptions) -> Result<Written, Status> {
        let Config { value: applied, strict } = config(body, options.validation)?;
        check_applied(target, &applied)?;
        self.barrier().await?;
        if self.store.get(&target.key()).is_none() {
            if !target.subresource.is_empty() {
                return Err(target.not_found());
            }
            return self.apply_new(target, &applied, strict, options).await;
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
            made_by_apply(target, Some(current), &applied, &strict, options)
        };
        self.change(target, options, behaviour, &mut make).await
    }

    async fn apply_new(
        &self,
        target: &Target,
        applied: &Value,
        strict: Strict,
        options: &WriteOptions,
    ) -> Result<Written, Status> {
        let options = &WriteOptions {
            shares_labels: rules::shares_labels(target.row, applied),
            ..options.clone()
        };
        let mut made = made_by_apply(target, None, applied, &strict, options)?;
        super::create::match_namespace(target, &mut made.value)?;
        super::update::check_name(target, &made.value)?;
        let mut written = self.create_as(target, made.value, options, true).await?;
        made.warnings.append(&mut written.warnings);
        written.warnings = made.warnings;
        Ok(written)
    }
}

/// What strict decoding finds in an applied configuration, for the answer after the apply itself.
pub(crate) struct Strict(Vec<String>);

impl Strict {
    /// The warnings, or the refusal.
    fn told(&self, validation: FieldValidation) -> Result<Vec<String>, Status> {
        match validation {
            FieldValidation::Ignore => Ok(Vec::new()),
            FieldValidation::Warn => Ok(self.0.clone()),
            FieldValidation::Strict if self.0.is_empty() => Ok(Vec::new()),
            FieldValidation::Strict => Err(Status::bad_request(format!(
                "error strict decoding YAML: error converting YAML to JSON: {}",
                yaml_errors(&self.0)
            ))),
        }
    }
}

/// Several findings of strict YAML decoding as one text.
pub(crate) fn yaml_errors(found: &[String]) -> String {
    format!("yaml: unmarshal errors:\n  {}", found.join("\n  "))
}

/// An applied configuration.
pub(crate) struct Config {
    /// The configuration.
    pub value: Value,
    /// What strict decoding finds in it.
    pub strict: Strict,
}

/// Reads an applied configuration, which is YAML or JSON.
pub(crate) fn config(body: &Bytes, validation: FieldValidation) -> Result<Config, Status> {
    let (parsed, mut strict) = yaml(body, &mut Ledger::new()).map_err(|error| match error {
        YamlError::Cost(error) => error.into(),
        error => Status::bad_request(format!("error decoding YAML: error converting YAML to JSON: {error}")),
    })?;
    let value = parsed.into_value();
    if !(value.is_object() || value.is_null()) {
        return Err(Status::bad_request(format!(
            "error decoding YAML: error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {} into Go value of type \
             map[string]interface {{}}",
            go::kind(&value)
        )));
    }
    if validation == FieldValidation::Ignore {
        strict.clear();
    }
    Ok(Config {
        value,
        strict: Strict(strict),
    })
}

/// What an apply makes of an object, managed fields included.
pub(crate) fn made_by_apply(
    target: &Target,
    current: Option<&Value>,
    applied: &Value,
    strict: &Strict,
    options: &WriteOptions,
) -> Result<Made, Status> {
    let value = rules::apply(target, current, applied, options)?;
    let mut warnings = strict.told(options.validation)?;
    let patched = Patched {
        value,
        strict: Vec::new(),
    };
    let mut made = decode_patched(target, patched, Shown::Object, options)?;
    warnings.append(&mut made.warnings);
    Ok(Made {
        warnings,
        managed: true,
        ..made
    })
}

/// The present object with a patch applied.
pub(crate) fn patched(
    target: &Target,
    kind: PatchKind,
    current: &Value,
    body: &Bytes,
    validation: FieldValidation,
) -> Result<Patched, Status> {
    let look = validation != FieldValidation::Ignore;
    match kind {
        PatchKind::Json => patch::json_patch(current, body, look),
        PatchKind::Merge => patch::merge_patch(current, body, look),
        PatchKind::Strategic => patch::strategic_merge(target.row, current, body, look),
        PatchKind::Apply => Err(Status::internal("apply is not a patch of this path")),
    }
}

/// What upstream's errors show of a patch that gave no valid object.
#[derive(Clone, Copy)]
pub(crate) enum Shown<'a> {
    /// The object that it gave.
    Object,
    /// The strategic patch itself.
    Patch(&'a Bytes),
}

impl<'a> Shown<'a> {
    pub(crate) fn of(kind: PatchKind, body: &'a Bytes) -> Self {
        match kind {
            PatchKind::Strategic => Self::Patch(body),
            _ => Self::Object,
        }
    }
}

/// Decodes and defaults what a patch gave.
pub(crate) fn decode_patched(
    target: &Target,
    patched: Patched,
    shown: Shown<'_>,
    options: &WriteOptions,
) -> Result<Made, Status> {
    let Patched { value: patched, strict } = patched;
    let bad = |patched: &Value, why: String| {
        let shown = match shown {
            Shown::Object => go_json(target.row.schema(), patched),
            Shown::Patch(body) => go::plain(&serde_json::from_slice(body).unwrap_or_default()),
        };
        Status::invalid("", "", "", &[error(FieldErrorType::Invalid, "patch", quoted(&shown), why)])
    };
    if patched["kind"].as_str() != Some(target.row.kind) || patched["apiVersion"].as_str() != Some(&target.api_version()) {
        let why = format!(
            "{} in version {:?} cannot be handled as a {}: converting ({}) to ({}): unknown conversion",
            patched["kind"].as_str().unwrap_or_default(),
            target.row.version,
            target.row.kind,
            patched["kind"].as_str().unwrap_or_default(),
            target.row.kind,
        );
        return Err(bad(&patched, why));
    }
    let strictly = options.validation == FieldValidation::Strict && !strict.is_empty();
    let decoded = match rules::decode_value(target.row, &patched, options.validation) {
        Ok(decoded) if strictly => {
            debug_assert!(decoded.warnings.is_empty(), "strict decoding warns of nothing");
            return Err(bad(&patched, DecodeError::Strict(strict).to_string()));
        }
        Ok(decoded) => decoded,
        Err(DecodeError::Strict(found)) => {
            let all = strict.into_iter().chain(found).collect();
            return Err(bad(&patched, DecodeError::Strict(all).to_string()));
        }
        Err(DecodeError::Cost(error)) => return Err(error.into()),
        Err(why) => return Err(bad(&patched, why.to_string())),
    };
    let mut value = decoded.value;
    let mut warnings = strict;
    warnings.extend(decoded.warnings);
    rules::defaults(target.row, &mut value);
    Ok(Made {
        value,
        warnings,
        managed: false,
    })
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

/// What is wrong with an applied configuration whatever the object is.
pub(crate) fn check_applied(target: &Target, applied: &Value) -> Result<(), Status> {
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
