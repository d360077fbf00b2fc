//! Request bodies to values: media types, YAML, protobuf, and upstream's words for what is wrong.
//!
//! Invariant: `kind` and `apiVersion` may be missing but not contradict the path.

use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use trireme_api::decode::{DecodeError, Decoded, FieldValidation};
use trireme_api::{Status, decode, protobuf, schema};

use super::accept::{Format, JSON, PROTOBUF, YAML};
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
            let json = yaml_to_json(bytes, validation).map_err(|why| unrecognised(&format!("yaml: {why}"), &hexed(bytes)))?;
            let mut decoded = self::json(&json.bytes, expected, validation)?;
            if validation == FieldValidation::Strict && !json.duplicates.is_empty() {
                return Err(cannot_handle(
                    expected,
                    &format!("strict decoding error: {}", json.duplicates.join(", ")),
                ));
            }
            if validation == FieldValidation::Warn {
                let mut warnings = json.duplicates;
                warnings.append(&mut decoded.warnings);
                decoded.warnings = warnings;
            }
            Ok(decoded)
        }
        Format::Protobuf => {
            let unknown = protobuf::unwrap(bytes).map_err(|error| unrecognised(&error.to_string(), &hexed(bytes)))?;
            check_type(expected, &unknown.api_version, &unknown.kind, bytes)?;
            let ty = schema::kind(expected.group, expected.version, expected.kind)
                .ok_or_else(|| Status::internal(&format!("no schema for {}", expected.kind)))?;
            let value = protobuf::decode(&unknown.raw, ty).map_err(|error| cannot_handle(expected, &error.to_string()))?;
            decode::value(value, ty, validation).map_err(|error| cannot_handle(expected, &error.to_string()))
        }
    }
}

fn json(bytes: &Bytes, expected: Expected<'_>, validation: FieldValidation) -> Result<Decoded, Status> {
    let ty = schema::kind(expected.group, expected.version, expected.kind)
        .ok_or_else(|| Status::internal(&format!("no schema for {}", expected.kind)))?;
    let syntax = |why: DecodeError| {
        Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): couldn't get version/kind; json parse error: {why} ({})",
            expected.kind,
            summary(bytes)
        ))
    };
    let body = decode::Body::parse(bytes).map_err(syntax)?;
    let (api_version, kind) = body.type_meta().map_err(syntax)?;
    check_type(expected, &api_version, &kind, bytes)?;
    body.typed(ty, validation)
        .map_err(|error| cannot_handle(expected, &error.to_string()))
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
    // The delete options, bindings and evictions of every group and version are the same.
    let why = if let Some(ty) = schema::kind(group, version, kind).filter(|ty| ty.is_kind()) {
        if group == expected.group && version == expected.version || kind != expected.kind {
            format!(
                "converting ({}.{kind}) to ({}.{}): unknown conversion",
                ty.version(),
                rules::internal_package(expected.group),
                expected.kind
            )
        } else {
            return Ok(());
        }
    } else {
        let shown = if group.is_empty() {
            version.to_owned()
        } else {
            format!("{group}/{version}")
        };
        format!("no kind {kind:?} is registered for version {shown:?} in scheme \"pkg/api/legacyscheme/scheme.go:30\"")
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

/// YAML as JSON.
pub struct FromYaml {
    /// The JSON.
    pub bytes: Bytes,
    /// Keys that stood twice in a mapping, in strict decoding's words.
    pub duplicates: Vec<String>,
}

/// The first document of a YAML text as JSON.
///
/// # Errors
/// What the parser says.
pub fn yaml_to_json(bytes: &[u8], validation: FieldValidation) -> Result<FromYaml, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "invalid UTF-8".to_owned())?;
    let text = first_document(text);
    if text.trim_start().starts_with('{') && serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok() {
        return Ok(FromYaml {
            bytes: Bytes::copy_from_slice(text.as_bytes()),
            duplicates: Vec::new(),
        });
    }
    let value = rules::yaml(text)?;
    let duplicate = match validation {
        FieldValidation::Ignore => None,
        FieldValidation::Warn | FieldValidation::Strict => rules::yaml_duplicate(text),
    };
    Ok(FromYaml {
        bytes: serde_json::to_vec(&value).map_err(|error| error.to_string())?.into(),
        duplicates: duplicate.into_iter().collect(),
    })
}

/// The text before the second document's marker.
fn first_document(text: &str) -> &str {
    let body_start = match text.find(|character: char| !character.is_whitespace()) {
        Some(at) if text[at..].starts_with("---") => at + 3,
        _ => 0,
    };
    match text[body_start..].find("\n---") {
        Some(end) => &text[..body_start + end + 1],
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_document_counts() {
        assert_eq!(first_document("a: 1\n---\nb: 2\n"), "a: 1\n");
        assert_eq!(first_document("---\na: 1\n---\nb: 2\n"), "---\na: 1\n");
        assert_eq!(first_document("a: 1\n"), "a: 1\n");
    }

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
