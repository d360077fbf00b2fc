//! Named formats of text, and what is said of texts that do not have them.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use regex::Regex;
use trireme_api::time;

use super::url::Url;

/// A format.
#[derive(Debug)]
pub struct Named {
    /// What expressions call it.
    pub function: &'static str,
    /// Its name.
    pub name: &'static str,
    /// The length of the pattern that it costs as much as.
    pub(crate) longest: u16,
    faults: fn(&str) -> Vec<String>,
}

const UUID: &str = "(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$";
const TIME: &str = "^([0-9]{2}):([0-9]{2}):([0-9]{2})(.[0-9]+)?(z|([+-][0-9]{2}:[0-9]{2}))$";

const fn named(function: &'static str, name: &'static str, longest: u16, faults: fn(&str) -> Vec<String>) -> Named {
    Named {
        function,
        name,
        longest,
        faults,
    }
}

static ALL: [Named; 13] = [
    named("dns1123Label", "DNS1123Label", 30, label),
    named("dns1123Subdomain", "DNS1123Subdomain", 60, subdomain),
    named("dns1035Label", "DNS1035Label", 30, old_label),
    named("qualifiedName", "QualifiedName", 60, qualified),
    named("dns1123LabelPrefix", "DNS1123LabelPrefix", 30, |text| label(&masked(text))),
    named("dns1123SubdomainPrefix", "DNS1123SubdomainPrefix", 60, |text| {
        subdomain(&masked(text))
    }),
    named("dns1035LabelPrefix", "DNS1035LabelPrefix", 30, |text| {
        old_label(&masked(text))
    }),
    named("labelValue", "LabelValue", 40, label_value),
    named("uri", "URI", 1103, |text| Url::fault(text).into_iter().collect()),
    named("uuid", "uuid", UUID.len() as u16, |text| {
        static PATTERN: LazyLock<Pattern> = LazyLock::new(|| Pattern::new(UUID));
        unless(PATTERN.fits(text), "does not match the UUID format")
    }),
    named("byte", "byte", 84, |text| {
        unless(!text.is_empty() && STANDARD.decode(text).is_ok(), "invalid base64")
    }),
    named("date", "date", TIME.len() as u16, |text| {
        let fits = text.len() == 10 && time::parse(&format!("{text}T00:00:00Z")).is_ok();
        unless(fits, "invalid date")
    }),
    named("datetime", "datetime", TIME.len() as u16, |text| {
        unless(time::parse(&text.to_ascii_uppercase()).is_ok(), "invalid datetime")
    }),
];

/// The format of a name.
pub(crate) fn format(function: &str) -> Option<&'static Named> {
    ALL.iter().find(|named| named.function == function)
}

impl Named {
    /// What is wrong with a text.
    pub(crate) fn faults(&self, text: &str) -> Vec<String> {
        (self.faults)(text)
    }
}

/// A pattern of ours; one that cannot be read fits nothing, which the tests would see.
struct Pattern(Option<Regex>);

impl Pattern {
    fn new(pattern: &str) -> Self {
        Self(Regex::new(pattern).ok())
    }

    fn fits(&self, text: &str) -> bool {
        self.0.as_ref().is_some_and(|pattern| pattern.is_match(text))
    }
}

fn unless(fits: bool, said: &str) -> Vec<String> {
    if fits { Vec::new() } else { vec![said.into()] }
}

/// A beginning of a name as a name: what follows takes the place of a dash at its end.
fn masked(text: &str) -> String {
    match text.strip_suffix('-') {
        Some(rest) if !rest.is_empty() => {
            let kept: String = rest.chars().take(rest.chars().count() - 1).collect();
            format!("{kept}a")
        }
        _ => text.into(),
    }
}

fn too_long(text: &str, most: usize) -> Option<String> {
    (text.len() > most).then(|| format!("must be no more than {most} characters"))
}

/// Of labels, bytes are told.
fn too_long_key(text: &str) -> Option<String> {
    (text.len() > 63).then(|| "must be no more than 63 bytes".into())
}

fn unlike(said: &str, pattern: &str, examples: &[&str]) -> String {
    let examples: Vec<String> = examples.iter().map(|example| format!("'{example}', ")).collect();
    format!(
        "{said} (e.g. {}regex used for validation is '{pattern}')",
        examples.join(" or ")
    )
}

fn is_label(text: &str, first_letter: bool) -> bool {
    let inner = |byte: u8| byte == b'-' || byte.is_ascii_digit() || byte.is_ascii_lowercase();
    let end = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase());
    let bytes = text.as_bytes();
    let first = bytes.first().copied();
    end(first)
        && end(bytes.last().copied())
        && bytes.iter().all(|byte| inner(*byte))
        && (!first_letter || first.is_some_and(|byte| !byte.is_ascii_digit()))
}

const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";

fn label(text: &str) -> Vec<String> {
    let mut faults: Vec<String> = too_long(text, 63).into_iter().collect();
    if !is_label(text, false) {
        faults.push(if text.split('.').all(|part| is_label(part, false)) {
            "must not contain dots".into()
        } else {
            unlike(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with \
                 an alphanumeric character",
                LABEL,
                &["my-name", "123-abc"],
            )
        });
    }
    faults
}

fn subdomain(text: &str) -> Vec<String> {
    let mut faults: Vec<String> = too_long(text, 253).into_iter().collect();
    if !text.split('.').all(|part| is_label(part, false)) {
        faults.push(unlike(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end \
             with an alphanumeric character",
            &format!("{LABEL}(\\.{LABEL})*"),
            &["example.com"],
        ));
    }
    faults
}

fn old_label(text: &str) -> Vec<String> {
    let mut faults: Vec<String> = too_long(text, 63).into_iter().collect();
    if !is_label(text, true) {
        faults.push(unlike(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end \
             with an alphanumeric character",
            "[a-z]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "abc-123"],
        ));
    }
    faults
}

const NAME: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";

fn is_name(text: &str) -> bool {
    let end = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    end(bytes.first()) && end(bytes.last()) && bytes.iter().all(inner)
}

fn qualified(text: &str) -> Vec<String> {
    let wrong = || {
        unlike(
            "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
            NAME,
            &["MyName", "my.name", "123-abc"],
        )
    };
    let mut faults = Vec::new();
    let parts: Vec<&str> = text.split('/').collect();
    let name = match parts.as_slice() {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                faults.push("prefix part must be non-empty".into());
            } else {
                faults.extend(subdomain(prefix).into_iter().map(|fault| format!("prefix part {fault}")));
            }
            name
        }
        _ => {
            let tail = "with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
            return vec![format!("a valid label key {} {tail}", wrong())];
        }
    };
    if name.is_empty() {
        faults.push("name part must be non-empty".into());
    }
    faults.extend(too_long_key(name).map(|fault| format!("name part {fault}")));
    if !is_name(name) {
        faults.push(format!("name part {}", wrong()));
    }
    faults
}

fn label_value(text: &str) -> Vec<String> {
    let mut faults: Vec<String> = too_long_key(text).into_iter().collect();
    if !text.is_empty() && !is_name(text) {
        faults.push(unlike(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with \
             an alphanumeric character",
            &format!("({NAME})?"),
            &["MyValue", "my_value", "12345"],
        ));
    }
    faults
}
