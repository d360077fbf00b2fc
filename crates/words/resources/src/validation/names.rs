//! What names, keys and numbers may be, with upstream's texts
//! (staging/src/k8s.io/apimachinery/pkg/util/validation/validation.go).
//!
//! Invariant: each function returns what is wrong with one text, nothing if it is valid; it knows no field paths.

pub(super) use trireme_api::selector::{key_errors as qualified, subdomain_errors as long_name, value_errors as label_value};

/// What is wrong with a text.
pub(super) type Messages = Vec<String>;

/// A rule for names.
pub(super) type NameRule = fn(&str) -> Messages;

const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";

/// A message with examples and the regular expression, as upstream words it.
pub(super) fn regex_message(what: &str, regex: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{what} (regex used for validation is '{regex}')");
    }
    let examples: Vec<String> = examples.iter().map(|example| format!("'{example}', ")).collect();
    format!(
        "{what} (e.g. {}regex used for validation is '{regex}')",
        examples.join(" or ")
    )
}

fn too_long(text: &str, most: usize, errors: &mut Messages) {
    if text.len() > most {
        errors.push(format!("must be no more than {most} characters"));
    }
}

fn lower(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    matches!((bytes.first(), bytes.last()), (Some(first), Some(last)) if lower(*first) && lower(*last))
        && bytes.iter().all(|byte| lower(*byte) || *byte == b'-')
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_label)
}

/// RFC 1123 label.
pub(super) fn label(text: &str) -> Messages {
    let mut errors = Vec::new();
    too_long(text, 63, &mut errors);
    if !is_label(text) {
        errors.push(if is_subdomain(text) {
            "must not contain dots".to_owned()
        } else {
            regex_message(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character",
                LABEL,
                &["my-name", "123-abc"],
            )
        });
    }
    errors
}

/// RFC 1123 subdomain.
pub(super) fn subdomain(text: &str) -> Messages {
    let mut errors = Vec::new();
    too_long(text, 253, &mut errors);
    if !is_subdomain(text) {
        errors.push(regex_message(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
            SUBDOMAIN,
            &["example.com"],
        ));
    }
    errors
}

/// RFC 1123 subdomain that may hold underscores.
pub(super) fn subdomain_underscore(text: &str) -> Messages {
    const PART: &str = "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?";
    let mut errors = Vec::new();
    too_long(text, 253, &mut errors);
    let part = |text: &str| {
        let bytes = text.strip_prefix('_').unwrap_or(text).as_bytes();
        matches!((bytes.first(), bytes.last()), (Some(first), Some(last)) if lower(*first) && lower(*last))
            && bytes.iter().all(|byte| lower(*byte) || b"-_".contains(byte))
    };
    if !text.split('.').all(part) {
        errors.push(regex_message(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character",
            &format!("{PART}(\\.{PART})*"),
            &["example.com"],
        ));
    }
    errors
}

/// `*.` and a subdomain.
pub(super) fn wildcard_subdomain(text: &str) -> Messages {
    let mut errors = Vec::new();
    too_long(text, 253, &mut errors);
    if !text.strip_prefix("*.").is_some_and(is_subdomain) {
        errors.push(regex_message(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
            &format!("\\*\\.{SUBDOMAIN}"),
            &["*.example.com"],
        ));
    }
    errors
}

/// RFC 1035 label.
pub(super) fn label_1035(text: &str) -> Messages {
    let mut errors = Vec::new();
    too_long(text, 63, &mut errors);
    if !is_label(text) || text.as_bytes()[0].is_ascii_digit() {
        errors.push(regex_message(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character",
            "[a-z]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "abc-123"],
        ));
    }
    errors
}

/// Part of a URL path.
pub(super) fn path_segment(text: &str) -> Messages {
    if text == "." || text == ".." {
        return vec![format!("may not be '{text}'")];
    }
    ["/", "%"]
        .iter()
        .filter(|part| text.contains(**part))
        .map(|part| format!("may not contain '{part}'"))
        .collect()
}

/// Anything.
pub(super) fn any(_: &str) -> Messages {
    Vec::new()
}

/// Key of a config map or secret.
pub(super) fn config_key(text: &str) -> Messages {
    let mut errors = Vec::new();
    too_long(text, 253, &mut errors);
    if text.is_empty()
        || !text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
    {
        errors.push(regex_message(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    errors.extend(directory_change(text));
    errors
}

fn directory_change(text: &str) -> Option<String> {
    match text {
        "." | ".." => Some(format!("must not be '{text}'")),
        _ if text.starts_with("..") => Some("must not start with '..'".to_owned()),
        _ => None,
    }
}

/// Name of an environment variable.
pub(super) fn env_name(text: &str) -> Messages {
    let mut errors = Vec::new();
    if text.is_empty() {
        errors.push("environment variable name must be non-empty".to_owned());
    }
    if !text.bytes().all(|byte| (0x20..0x7f).contains(&byte) && byte != b'=') {
        errors
            .push("a valid environment variable name must consist only of printable ASCII characters other than '='".to_owned());
    }
    errors
}

/// Name of an HTTP header.
pub(super) fn header_name(text: &str) -> Messages {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return Vec::new();
    }
    vec![regex_message(
        "a valid HTTP header must consist of alphanumeric characters or '-'",
        "[-A-Za-z0-9]+",
        &["X-Header-Name"],
    )]
}

/// Name of a port (IANA service name).
pub(super) fn port_name(text: &str) -> Messages {
    let mut errors = Vec::new();
    too_long(text, 15, &mut errors);
    let rules = [
        (
            !text.is_empty() && text.bytes().all(|byte| lower(byte) || byte == b'-'),
            "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
        ),
        (
            text.bytes().any(|byte| byte.is_ascii_lowercase()),
            "must contain at least one letter (a-z)",
        ),
        (!text.contains("--"), "must not contain consecutive hyphens"),
        (
            !text.starts_with('-') && !text.ends_with('-'),
            "must not begin or end with a hyphen",
        ),
    ];
    errors.extend(rules.iter().filter(|(holds, _)| !holds).map(|(_, text)| (*text).to_owned()));
    errors
}

/// A number between two others.
pub(super) fn in_range(number: i64, low: i64, high: i64) -> Messages {
    if (low..=high).contains(&number) {
        Vec::new()
    } else {
        vec![format!("must be between {low} and {high}, inclusive")]
    }
}

/// Number of a port.
pub(super) fn port(number: i64) -> Messages {
    in_range(number, 1, 65535)
}

/// Id of a user or group.
pub(super) fn user_id(number: i64) -> Messages {
    in_range(number, 0, i64::from(i32::MAX))
}

/// A percentage such as `10%`.
pub(super) fn percent(text: &str) -> Messages {
    let digits = text.strip_suffix('%').unwrap_or_default();
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Vec::new();
    }
    vec![regex_message(
        "a valid percent string must be a numeric string followed by an ending '%'",
        "[0-9]+%",
        &["1%", "93%"],
    )]
}

/// A C identifier.
pub(super) fn c_identifier(text: &str) -> Messages {
    let bytes = text.as_bytes();
    if bytes
        .first()
        .is_some_and(|first| first.is_ascii_alphabetic() || *first == b'_')
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
    {
        return Vec::new();
    }
    vec![regex_message(
        "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_'",
        "[A-Za-z_][A-Za-z0-9_]*",
        &["my_name", "MY_NAME", "MyName"],
    )]
}
