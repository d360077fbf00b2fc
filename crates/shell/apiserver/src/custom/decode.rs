//! Bodies and outcomes of patches as custom resources: metadata typed, all else as the definition's schema has it.
//!
//! Invariant: what comes out has canonical metadata. Findings are told in upstream's order: what stands twice, unknown metadata,
//! other unknown fields.

use bytes::Bytes;
use serde_json::Value;
use trireme_api::cost::Ledger;
use trireme_api::decode::{self, Body, DecodeError, Decoded, Empty, FieldValidation, YamlError};
use trireme_api::field::FieldErrorType;
use trireme_api::{Status, schema};
use trireme_resources::custom::Served;
use trireme_structural::Structural;

use crate::http::accept::{Format, JSON, YAML};
use crate::pipeline::options::error;
use crate::pipeline::patch::yaml_errors;

/// A body as an object of a served version.
///
/// # Errors
/// 400 with upstream's texts; 415 for protobuf, which custom resources have none of.
pub(crate) fn body(served: &Served, format: Format, bytes: &Bytes, validation: FieldValidation) -> Result<Decoded, Status> {
    let row = served.row;
    let told = |why: &DecodeError| {
        Status::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: {why}",
            row.kind, row.version, row.kind
        ))
    };
    let refuse = |why: DecodeError| match why {
        DecodeError::Cost(error) => error.into(),
        why => told(&why),
    };
    let (body, repeated) = match format {
        Format::Json => (Body::parse(bytes).map_err(refuse)?, Vec::new()),
        Format::Yaml => decode::yaml(bytes, &mut Ledger::new()).map_err(|error| match error {
            YamlError::Cost(error) => error.into(),
            error => told(&DecodeError::Syntax(error.to_string())),
        })?,
        Format::Protobuf => {
            return Err(Status::failure(
                415,
                "UnsupportedMediaType",
                format!("the body of the request was in an unknown format - accepted media types include: {JSON}, {YAML}"),
            ));
        }
    };
    let (api_version, kind) = body.type_meta().map_err(refuse)?;
    if kind.is_empty() {
        let text = String::from_utf8_lossy(bytes);
        return Err(told(&DecodeError::Type(format!("Object 'Kind' is missing in '{text}'"))));
    }
    if !api_version.is_empty() && api_version != row.api_version() {
        return Err(Status::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({})",
            row.api_version()
        )));
    }
    if kind != row.kind {
        let problem = error(
            FieldErrorType::Invalid,
            "kind",
            format!("{kind:?}"),
            format!("must be {}", row.kind),
        );
        return Err(Status::invalid(row.group, row.kind, "", &[problem]));
    }
    let decoded = body.untyped(FieldValidation::Warn).map_err(refuse)?;
    let mut found = decoded.warnings;
    if !repeated.is_empty() {
        found.insert(0, yaml_errors(&repeated));
    }
    settled(served, decoded.value, found, validation).map_err(refuse)
}

/// Prunes a value by its schema, gives the metadata of resources within it their form, and fills in defaults.
fn shape(schema: &Structural, value: &mut Value, mut told: Option<&mut Vec<String>>) -> Result<(), DecodeError> {
    schema.prune(value, told.as_deref_mut());
    let coerced = schema.coerce_metadata(value, false, told);
    coerced.map_err(|error| DecodeError::Type(error.to_string()))?;
    schema.default_within(value, &mut Ledger::new())?;
    // Metadata is no matter of defaults of members.
    Ok(())
}

/// A value as an object of a served version; `found` is what strict decoding found in it so far.
///
/// # Errors
/// For metadata that is none; and under strict validation for what was found.
pub(crate) fn settled(
    served: &Served,
    value: Value,
    found: Vec<String>,
    validation: FieldValidation,
) -> Result<Decoded, DecodeError> {
    let (mut value, mut found) = typed(served, value, found)?;
    if let Some(schema) = served.structural() {
        let told = (validation != FieldValidation::Ignore).then_some(&mut found);
        shape(schema, &mut value, told)?;
    }
    let warnings = match validation {
        FieldValidation::Ignore => Vec::new(),
        FieldValidation::Strict if !found.is_empty() => return Err(DecodeError::Strict(found)),
        FieldValidation::Strict | FieldValidation::Warn => found,
    };
    Ok(Decoded {
        values: None,
        value,
        warnings,
        empty: false,
    })
}

/// What an apply made, as an object of a served version: with defaults, and without what its schema does not know. Upstream
/// prunes that when it reads what was stored; nulls that stand where none may are for validation to refuse.
///
/// # Errors
/// For metadata that is none, and for defaults that cost too much.
pub(crate) fn applied(served: &Served, value: Value) -> Result<Decoded, DecodeError> {
    let (mut value, _) = typed(served, value, Vec::new())?;
    if let Some(schema) = served.structural() {
        schema.prune_unknown(&mut value);
        let coerced = schema.coerce_metadata(&mut value, false, None);
        coerced.map_err(|error| DecodeError::Type(error.to_string()))?;
        schema.default_within(&mut value, &mut Ledger::new())?;
    }
    Ok(Decoded {
        values: None,
        value,
        warnings: Vec::new(),
        empty: false,
    })
}

/// A value with canonical metadata and the type of a served version; what is unknown in its metadata is `found`.
fn typed(served: &Served, mut value: Value, mut found: Vec<String>) -> Result<(Value, Vec<String>), DecodeError> {
    let metadata = value
        .get_mut("metadata")
        .map(Value::take)
        .filter(|metadata| !metadata.is_null());
    if let Some(metadata) = metadata {
        let decoded = decode::value_at(metadata, schema::object_meta(), FieldValidation::Warn, "metadata")?;
        found.extend(decoded.warnings);
        let mut metadata = decoded.value;
        decode::canonicalize_as(&mut metadata, schema::object_meta(), Empty::Stored);
        value["metadata"] = metadata;
    } else if let Some(members) = value.as_object_mut() {
        members.remove("metadata");
    }
    value["apiVersion"] = served.row.api_version().into();
    value["kind"] = served.row.kind.into();
    Ok((value, found))
}
