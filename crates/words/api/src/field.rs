//! Field errors as upstream's `field.Error` prints them
//! (staging/src/k8s.io/apimachinery/pkg/util/validation/field/errors.go).

use std::collections::HashSet;

/// Which kind of error; it decides the cause's reason and the first words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldErrorType {
    /// `Not found: "x"`.
    NotFound,
    /// `Required value: detail`.
    Required,
    /// `Duplicate value: "x"`.
    Duplicate,
    /// `Invalid value: "x": detail`.
    Invalid,
    /// `Unsupported value: "x": supported values: "a", "b"`.
    NotSupported,
    /// `Forbidden: detail`.
    Forbidden,
    /// `Too long: detail`.
    TooLong,
    /// `Too many: 3: must have at most 2 items`.
    TooMany,
    /// `Internal error: detail`.
    Internal,
    /// `Invalid value: "x": detail` for a wrong type.
    TypeInvalid,
}

/// One problem with one field. All problems of an object are returned, not the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Which kind.
    pub kind: FieldErrorType,
    /// Path, for example `spec.containers[0].name`.
    pub path: String,
    /// The bad value already as Go would print it (strings quoted, numbers bare, objects as JSON); empty where none is
    /// shown.
    pub value: String,
    /// What is wrong and what is right.
    pub detail: String,
}

impl FieldError {
    /// The cause's machine-readable reason.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self.kind {
            FieldErrorType::NotFound => "FieldValueNotFound",
            FieldErrorType::Required => "FieldValueRequired",
            FieldErrorType::Duplicate => "FieldValueDuplicate",
            FieldErrorType::Invalid => "FieldValueInvalid",
            FieldErrorType::NotSupported => "FieldValueNotSupported",
            FieldErrorType::Forbidden => "FieldValueForbidden",
            FieldErrorType::TooLong => "FieldValueTooLong",
            FieldErrorType::TooMany => "FieldValueTooMany",
            FieldErrorType::Internal => "InternalError",
            FieldErrorType::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    /// The error without its path.
    #[must_use]
    pub fn body(&self) -> String {
        let title = match self.kind {
            FieldErrorType::NotFound => "Not found",
            FieldErrorType::Required => "Required value",
            FieldErrorType::Duplicate => "Duplicate value",
            FieldErrorType::Invalid | FieldErrorType::TypeInvalid => "Invalid value",
            FieldErrorType::NotSupported => "Unsupported value",
            FieldErrorType::Forbidden => "Forbidden",
            FieldErrorType::TooLong => "Too long",
            FieldErrorType::TooMany => "Too many",
            FieldErrorType::Internal => "Internal error",
        };
        let shows_value = !matches!(
            self.kind,
            FieldErrorType::Required | FieldErrorType::Forbidden | FieldErrorType::TooLong | FieldErrorType::Internal
        );
        let mut text = title.to_owned();
        if shows_value && !self.value.is_empty() {
            text.push_str(": ");
            text.push_str(&self.value);
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
}

impl std::fmt::Display for FieldError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path, self.body())
    }
}

/// Several errors as `ErrorList.ToAggregate()` prints them: one bare, several in brackets, equal texts once.
#[must_use]
pub fn aggregate(errors: &[FieldError]) -> String {
    let mut seen: HashSet<String> = HashSet::with_capacity(errors.len());
    let mut texts = String::new();
    for error in errors {
        let text = error.to_string();
        if seen.contains(&text) {
            continue;
        }
        if !seen.is_empty() {
            texts.push_str(", ");
        }
        texts.push_str(&text);
        seen.insert(text);
    }
    match seen.len() {
        1 => texts,
        _ => format!("[{texts}]"),
    }
}
