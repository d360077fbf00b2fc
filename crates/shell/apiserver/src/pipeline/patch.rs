//! PATCH in its four kinds.
//!
//! Invariant: a patch is applied anew to the object as it is at each attempt, so a lost race is no conflict unless the
//! patch names a resourceVersion.

use bytes::Bytes;
use serde_json::Value;
use trireme_api::bulk::{Kept, Present};
use trireme_api::cost::Ledger;
use trireme_api::decode::{
    Body, DecodeError, Decoded, FieldValidation, Node, Touched, Untyped, YamlError, unstructured_where, yaml_value,
};
use trireme_api::field::FieldErrorType;
use trireme_api::{Status, go};
use trireme_resources::Resource;
use trireme_resources::apply::Applied;
use trireme_resources::patch::{self, Patched};

use super::create::By;
use super::options::{error, quoted};
use super::update::{Behaviour, Made};
use super::{Target, WriteOptions, Written, meta_text, metadata, rules};
use crate::custom::decode as custom;
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
        let mut make = |present: &Present| patched(target, kind, present, body, options);
        self.change(target, options, behaviour, &mut make).await
    }

    async fn apply(&self, target: &Target, body: &Bytes, options: &WriteOptions) -> Result<Written, Status> {
        self.barrier().await?;
        let absent = self.store.get(&target.key()).is_none();
        if absent && !target.subresource.is_empty() && !rules::status_apply_creates(target.row) {
            return Err(target.not_found());
        }
        let mut configs = configs(target.row, body, options.validation)?;
        if absent {
            return self.apply_new(target, configs()?, options).await;
        }
        let behaviour = Behaviour {
            patch: true,
            ..Behaviour::default()
        };
        let mut make = |present: &Present| made_by_apply(target, Some(present), configs()?, options);
        self.change(target, options, behaviour, &mut make).await
    }

    async fn apply_new(&self, target: &Target, config: Config, options: &WriteOptions) -> Result<Written, Status> {
        let options = &WriteOptions {
            shares_labels: rules::shares_labels(target.row, &config.value),
            ..options.clone()
        };
        let mut made = made_by_apply(target, None, config, options)?;
        let uid = meta_text(&made.value, "uid");
        if !uid.is_empty() {
            let why = format!("uid mismatch: the provided object specified uid {uid}, and no existing object was found");
            return Err(target.conflict(&why));
        }
        super::create::match_namespace(target, &mut made.value)?;
        super::update::check_name(target, &made.value)?;
        let options = &WriteOptions {
            empty: made.empty,
            ..options.clone()
        };
        let mut written = self.create_as(target, made.value, options, By::Apply).await?;
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
    /// How many values its bulk has, if that is known to be as decoding would leave it.
    pub settled: Option<usize>,
}

/// Reads an applied configuration, for one attempt after the other: a large one is not kept for a second, which is rare, but
/// read again.
pub(crate) fn configs<'a>(
    row: &'static Resource,
    body: &'a Bytes,
    validation: FieldValidation,
) -> Result<impl FnMut() -> Result<Config, Status> + Send + 'a, Status> {
    let mut first = Some(config(row, body, validation)?);
    Ok(move || first.take().map_or_else(|| config(row, body, validation), Ok))
}

/// Reads an applied configuration, which is YAML or JSON.
fn config(row: &'static Resource, body: &Bytes, validation: FieldValidation) -> Result<Config, Status> {
    let bulk = row.bulk.map(|at| (at, row.schema()));
    let Untyped {
        value,
        repeated: mut strict,
        settled,
    } = yaml_value(body, &mut Ledger::new(), bulk).map_err(|error| match error {
        YamlError::Cost(error) => error.into(),
        error => Status::bad_request(format!("error decoding YAML: error converting YAML to JSON: {error}")),
    })?;
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
        settled,
    })
}

/// What an apply makes of an object, managed fields included.
pub(crate) fn made_by_apply(
    target: &Target,
    present: Option<&Present>,
    config: Config,
    options: &WriteOptions,
) -> Result<Made, Status> {
    let Config {
        value: applied,
        strict,
        settled,
    } = config;
    let [namespace, name] = ["namespace", "name"].map(|name| meta_text(&applied, name).to_owned());
    let managed = applied["metadata"]
        .get("managedFields")
        .filter(|fields| fields.is_array())
        .cloned();
    let Applied {
        value, same_spec, kept, ..
    } = rules::apply(target, present, (applied, settled), options)?;
    let touched = match (target.row.bulk, settled) {
        // A bulk is of one manager: it is there as it was sent, or the live one stays.
        (Some(at), Some(values)) if kept.is_none() => Touched::Beside(at, values),
        _ => Touched::All,
    };
    let convert = |value: Value| {
        if let Some(served) = &target.custom {
            return custom::applied(served, value).map_err(|why| match why {
                DecodeError::Cost(error) => error.into(),
                why => unconvertible(target, (&namespace, &name), &why),
            });
        }
        unstructured_where(value, target.row.schema(), FieldValidation::Ignore, &touched).map_err(|why| match why {
            DecodeError::Cost(error) => error.into(),
            why => unconvertible(target, (&namespace, &name), &why),
        })
    };
    if let Some(managed) = managed {
        // Such as can be read were refused; these are told with whatever else does not fit, and never kept.
        let mut sent = value.clone();
        metadata(&mut sent).insert("managedFields".into(), managed);
        convert(sent)?;
    }
    let decoded = convert(value)?;
    let warnings = strict.told(options.validation)?;
    let mut value = decoded.value;
    rules::defaults(target.row, &mut value);
    Ok(Made {
        values: decoded.values,
        // What is not the same may become so by its defaults.
        same_spec: same_spec.then_some(true),
        warnings,
        empty: decoded.empty,
        kept,
        ..Made::managed(value)
    })
}

/// Upstream's refusal of an apply whose outcome does not fit its type.
fn unconvertible(target: &Target, (namespace, name): (&str, &str), why: &DecodeError) -> Status {
    let kind = format!("{}/{}, Kind={}", target.row.group, target.row.version, target.row.kind);
    Status::failure(
        500,
        "",
        format!(
            "failed to convert new object ({namespace}/{name}; {kind}) to proper version: unable to convert unstructured object to \
             {kind}: {why}"
        ),
    )
}

/// The present object with a patch applied, decoded and defaulted.
pub(crate) fn patched(
    target: &Target,
    kind: PatchKind,
    present: &Present,
    body: &Bytes,
    options: &WriteOptions,
) -> Result<Made, Status> {
    match patched_apart(target, kind, present, body, options) {
        // The refusal may show all of the object.
        Err(_) if present.bulk_at().is_some() => {
            patched_apart(target, kind, &Present::of(present.whole().clone()), body, options)
        }
        made => made,
    }
}

/// Likewise; what cannot be had shows the object without its bulk.
fn patched_apart(
    target: &Target,
    kind: PatchKind,
    present: &Present,
    body: &Bytes,
    options: &WriteOptions,
) -> Result<Made, Status> {
    let look = options.validation != FieldValidation::Ignore;
    let ty = target.row.schema();
    match kind {
        PatchKind::Json => decode_patched(target, patch::json_patch(ty, present, body, look)?, options),
        PatchKind::Merge => decode_patched(target, patch::merge_patch(ty, present, body, look)?, options),
        PatchKind::Strategic => {
            let Patched {
                document,
                strict,
                touched,
                kept,
            } = patch::strategic_merge(target.row, present, body, look)?;
            let decoded = unstructured_where(document, ty, options.validation, &touched);
            settled(target, decoded, (strict, kept), options, || {
                patch::strategic_shown(target.row, present.value(), body)
            })
        }
        PatchKind::Apply => Err(Status::internal("apply is not a patch of this path")),
    }
}

/// Decodes and defaults what a JSON or merge patch gave.
fn decode_patched(target: &Target, patched: Patched<Node<'_>>, options: &WriteOptions) -> Result<Made, Status> {
    if let Some(served) = &target.custom {
        let shown = patched.document.to_text();
        let value = patched.document.into_value();
        let decoded = custom::settled(served, value, patched.strict, options.validation);
        return settled(target, decoded, (Vec::new(), false), options, || shown);
    }
    let body = Body::of_node(patched.document);
    let expected = (target.row.group, target.row.version, target.row.kind);
    let decoded = match body.type_meta() {
        Err(error) => Err(DecodeError::Type(format!(
            "couldn't get version/kind; json parse error: {error}"
        ))),
        // To upstream that is its internal form, which has no names in JSON.
        Ok((version, kind)) if version.is_empty() && (kind.is_empty() || kind == target.row.kind) => {
            return Err(super::update::nameless(target));
        }
        Ok((version, kind)) => match rules::misfit(expected, &version, &kind) {
            Some(why) => Err(DecodeError::Type(why)),
            None => body.typed(target.row.schema(), options.validation),
        },
    };
    settled(target, decoded, (patched.strict, patched.kept), options, || {
        body.node().to_text()
    })
}

/// What decoding of a patch's outcome gave, with defaults; or upstream's refusal, which shows the outcome or the patch.
fn settled(
    target: &Target,
    decoded: Result<Decoded, DecodeError>,
    (strict, kept): (Vec<String>, bool),
    options: &WriteOptions,
    shown: impl FnOnce() -> String,
) -> Result<Made, Status> {
    let strictly = options.validation == FieldValidation::Strict && !strict.is_empty();
    let why = match decoded {
        Ok(decoded) if strictly => {
            debug_assert!(decoded.warnings.is_empty(), "strict decoding warns of nothing");
            DecodeError::Strict(strict)
        }
        Ok(decoded) => {
            let mut value = decoded.value;
            let mut warnings = strict;
            warnings.extend(decoded.warnings);
            rules::defaults(target.row, &mut value);
            return Ok(Made {
                values: decoded.values,
                warnings,
                empty: decoded.empty,
                kept: kept.then_some(Kept::Unread),
                ..Made::plain(value)
            });
        }
        Err(DecodeError::Strict(found)) => DecodeError::Strict(strict.into_iter().chain(found).collect()),
        Err(DecodeError::Cost(error)) => return Err(error.into()),
        Err(why) => why,
    };
    let problem = error(FieldErrorType::Invalid, "patch", quoted(&shown()), why.to_string());
    Err(Status::invalid("", "", "", &[problem]))
}
