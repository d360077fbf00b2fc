//! Request bodies to values: media types, YAML, protobuf, and upstream's words for what is wrong.
//!
//! Invariant: `kind` and `apiVersion` may be missing but not contradict the path.

use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use trireme_api::cost::Ledger;
use trireme_api::decode::{DecodeError, Decoded, FieldValidation, YamlError};
use trireme_api::protobuf::ProtobufError;
use trireme_api::{Status, decode, protobuf, schema};

use super::accept::{Format, JSON, PROTOBUF, YAML};
use crate::pipeline::patch::yaml_errors;
use crate::pipeline::rules;

/// The kind that a body must be of.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// API group.
    pub group: &'a str,
    /// API version.
    pub version: &'a str,
    /// Kind.
    pub kind: &'a str,
}

/// The format of a request body.
///
/// # Errors
/// 415.
pub fn content_type(headers: &HeaderMap) -> Result<Format, Status> {
    let text = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    match text.split(';').next().unwrap_or_default().trim() {
        "" | JSON => Ok(Format::Json),
        YAML => Ok(Format::Yaml),
        PROTOBUF => Ok(Format::Protobuf),
        _ => Err(Status::failure(
            415,
            "UnsupportedMediaType",
            format!(
                "the body of the request was in an unknown format - accepted media types include: {JSON}, {YAML}, {PROTOBUF}"
            ),
        )),
    }
}

/// Decodes a body of the expected kind.
///
/// # Errors
/// 400 with upstream's texts.
pub fn body(format: Format, bytes: &Bytes, expected: Expected<'_>, validation: FieldValidation) -> Result<Decoded, Status> {
    let unrecognised = |why: &str, shown: &str| {
        Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): {why} ({shown})",
            expected.kind
        ))
    };
    match format {
        Format::Json => json(bytes, expected, validation),
        Format::Yaml => {
            let (parsed, repeated) = decode::yaml(bytes, &mut Ledger::new()).map_err(|error| match error {
                YamlError::Cost(error) => error.into(),
                error => unrecognised(&error.to_string(), &hexed(bytes)),
            })?;
            let mut decoded = typed(&parsed, bytes, expected, validation).map_err(|refused| match refused {
                // What the reader of YAML finds comes first.
                Refused::Decode(DecodeError::Strict(found)) if !repeated.is_empty() => {
                    let all = std::iter::once(yaml_errors(&repeated)).chain(found).collect();
                    refuse(expected, DecodeError::Strict(all))
                }
                refused => refused.into_status(expected),
            })?;
            match validation {
                FieldValidation::Ignore => {}
                FieldValidation::Strict if repeated.is_empty() => {}
                FieldValidation::Strict => return Err(refuse(expected, DecodeError::Strict(vec![yaml_errors(&repeated)]))),
                FieldValidation::Warn => decoded.warnings.splice(0..0, repeated).for_each(drop),
            }
            Ok(decoded)
        }
        Format::Protobuf => {
            let unknown = protobuf::unwrap(bytes).map_err(|error| unrecognised(&error.to_string(), &hexed(bytes)))?;
            check_type(expected, &unknown.api_version, &unknown.kind, bytes)?;
            let ty = schema_of(expected)?;
            let value = protobuf::decode(&unknown.raw, ty).map_err(|error| match error {
                ProtobufError::Cost(error) => error.into(),
                error => cannot_handle(expected, &error.to_string()),
            })?;
            decode::value(value, ty, validation).map_err(|error| refuse(expected, error))
        }
    }
}

fn schema_of(expected: Expected<'_>) -> Result<&'static schema::Struct, Status> {
    schema::kind(expected.group, expected.version, expected.kind)
        .ok_or_else(|| Status::internal(&format!("no schema for {}", expected.kind)))
}

fn json(bytes: &Bytes, expected: Expected<'_>, validation: FieldValidation) -> Result<Decoded, Status> {
    let body = decode::Body::parse(bytes).map_err(|why| no_json(why, bytes, expected))?;
    typed(&body, bytes, expected, validation).map_err(|refused| refused.into_status(expected))
}

fn no_json(why: DecodeError, bytes: &Bytes, expected: Expected<'_>) -> Status {
    match why {
        DecodeError::Cost(error) => error.into(),
        why => Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): couldn't get version/kind; json parse error: {why} ({})",
            expected.kind,
            summary(bytes)
        )),
    }
}

/// Why a parsed body is refused.
enum Refused {
    /// It is of another kind.
    Kind(Status),
    /// It does not decode.
    Decode(DecodeError),
}

impl Refused {
    fn into_status(self, expected: Expected<'_>) -> Status {
        match self {
            Self::Kind(status) => status,
            Self::Decode(error) => refuse(expected, error),
        }
    }
}

fn typed(
    body: &decode::Body<'_>,
    bytes: &Bytes,
    expected: Expected<'_>,
    validation: FieldValidation,
) -> Result<Decoded, Refused> {
    let (api_version, kind) = body.type_meta().map_err(|why| Refused::Kind(no_json(why, bytes, expected)))?;
    check_type(expected, &api_version, &kind, bytes).map_err(Refused::Kind)?;
    let ty = schema_of(expected).map_err(Refused::Kind)?;
    body.typed(ty, validation).map_err(Refused::Decode)
}

fn refuse(expected: Expected<'_>, error: DecodeError) -> Status {
    match error {
        DecodeError::Cost(error) => error.into(),
        error => cannot_handle(expected, &error.to_string()),
    }
}

fn cannot_handle(expected: Expected<'_>, why: &str) -> Status {
    Status::bad_request(format!(
        "{} in version {:?} cannot be handled as a {}: {why}",
        expected.kind, expected.version, expected.kind
    ))
}

/// Versions that are served no more, but taken where a newer one of the same form is expected: group, kind, old, new.
const OLDER_FORMS: &[(&str, &str, &str, &str)] = &[("policy", "Eviction", "v1beta1", "v1")];

fn is_older_form(expected: Expected<'_>, group: &str, version: &str, kind: &str) -> bool {
    group == expected.group && kind == expected.kind && OLDER_FORMS.contains(&(group, kind, version, expected.version))
}

/// A body without kind or version is what the path says; another one is refused.
fn check_type(expected: Expected<'_>, api_version: &str, kind: &str, bytes: &Bytes) -> Result<(), Status> {
    let kind = if kind.is_empty() { expected.kind } else { kind };
    let (group, version) = match api_version.split('/').collect::<Vec<_>>()[..] {
        [""] => (expected.group, expected.version),
        [version] => ("", version),
        [group, version] => (group, version),
        _ => {
            return Err(Status::bad_request(format!(
                "the object provided is unrecognized (must be of type {}): unexpected GroupVersion string: {api_version} ({})",
                expected.kind,
                summary(bytes)
            )));
        }
    };
    if (group, version, kind) == (expected.group, expected.version, expected.kind)
        || is_older_form(expected, group, version, kind)
    {
        return Ok(());
    }
    let shown = if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    };
    let Some(why) = rules::misfit((expected.group, expected.version, expected.kind), &shown, kind) else {
        return Ok(());
    };
    Err(Status::bad_request(format!(
        "{kind} in version {version:?} cannot be handled as a {}: {why}",
        expected.kind
    )))
}

/// The beginning of a body, as upstream shows it in errors.
fn summary(bytes: &[u8]) -> String {
    const SHOWN: usize = 30;
    match bytes.first() {
        None => "<empty>".to_owned(),
        Some(b'{') if bytes.len() > SHOWN => format!("{} ...", String::from_utf8_lossy(&bytes[..SHOWN])),
        Some(b'{') => String::from_utf8_lossy(bytes).into_owned(),
        Some(_) => hexed(bytes),
    }
}

fn hexed(bytes: &[u8]) -> String {
    const SHOWN: usize = 30;
    if bytes.len() > SHOWN {
        format!("{} ...", hex::encode(&bytes[..SHOWN]))
    } else {
        hex::encode(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_of_other_kinds_are_refused_with_upstreams_words() {
        let expected = Expected {
            group: "",
            version: "v1",
            kind: "ConfigMap",
        };
        for (text, message) in [
            (
                "",
                "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse \
                 error: unexpected end of JSON input (<empty>)",
            ),
            (
                r#"{"apiVersion":"v1","kind":"Secret"}"#,
                "Secret in version \"v1\" cannot be handled as a ConfigMap: converting (v1.Secret) to (core.ConfigMap): \
                 unknown conversion",
            ),
            (
                r#"{"apiVersion":"v1","kind":"Gadget"}"#,
                "Gadget in version \"v1\" cannot be handled as a ConfigMap: no kind \"Gadget\" is registered for version \
                 \"v1\" in scheme \"pkg/api/legacyscheme/scheme.go:30\"",
            ),
        ] {
            let bytes = Bytes::copy_from_slice(text.as_bytes());
            let error = body(Format::Json, &bytes, expected, FieldValidation::Warn).unwrap_err();
            assert_eq!(error.message, message);
        }
    }
}
