//! Formats of values: those that Kubernetes 1.36 knows in schemas of custom resources, judged as go-openapi's `strfmt` does
//! (vendor/k8s.io/kube-openapi/pkg/validation/strfmt, pkg/apiserver/validation/formats.go).
//!
//! Invariant: a format that is not known for its type is as if it were not there. Dashes in names do not count.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::LazyLock;

use regex::Regex;
use trireme_api::time;

use crate::email;
use crate::node::Type;

/// Whether a text is of a format.
type Judge = fn(&str) -> bool;

const STRINGS: &[(&str, Judge)] = &[
    ("bsonobjectid", |text| {
        text.len() == 24 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    }),
    ("byte", is_base64),
    ("cidr", is_cidr),
    ("creditcard", is_credit_card),
    ("date", is_date),
    ("datetime", is_datetime),
    ("duration", is_duration),
    ("email", email::is_address),
    ("hexcolor", |text| {
        let digits = text.strip_prefix('#').unwrap_or(text);
        matches!(digits.len(), 3 | 6) && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    }),
    ("hostname", is_hostname),
    ("ipv4", |text| text.contains('.') && parse_ip(text).is_some()),
    ("ipv6", |text| text.contains(':') && text.parse::<IpAddr>().is_ok()),
    ("isbn", |text| is_isbn10(text) || is_isbn13(text)),
    ("isbn10", is_isbn10),
    ("isbn13", is_isbn13),
    ("k8slongname", |text| text.len() <= 253 && text.split('.').all(is_label)),
    ("k8sshortname", |text| text.len() <= 63 && is_label(text)),
    ("mac", is_mac),
    ("password", |_| true),
    ("rgbcolor", |text| fits(&RGB, text)),
    ("ssn", |text| text.len() == 11 && fits(&SSN, text)),
    ("uri", trireme_cel::eval::is_request_uri),
    ("uuid", |text| is_uuid(text, None, false)),
    ("uuid3", |text| is_uuid(text, Some(b'3'), false)),
    ("uuid4", |text| is_uuid(text, Some(b'4'), true)),
    ("uuid5", |text| is_uuid(text, Some(b'5'), true)),
];

/// A format that is known for its type.
#[derive(Clone, Debug)]
pub(crate) struct Format {
    /// As the schema writes it.
    pub name: Box<str>,
    judge: Option<Judge>,
}

impl Format {
    /// The format of a name, if values of the type have one of it.
    pub fn of(name: &str, is: Type) -> Option<Self> {
        if name.is_empty() {
            return None;
        }
        let judge = match is {
            Type::Any | Type::String => {
                let plain: Cow<'_, str> = if name.contains('-') {
                    name.replace('-', "").into()
                } else {
                    name.into()
                };
                let found = STRINGS.binary_search_by(|(known, _)| (*known).cmp(&plain)).ok()?;
                Some(STRINGS[found].1)
            }
            Type::Integer if matches!(name, "int32" | "int64") => None,
            Type::Number if matches!(name, "float" | "double") => None,
            _ => return None,
        };
        Some(Self {
            name: name.into(),
            judge,
        })
    }

    /// Whether a text is of it.
    pub fn fits(&self, text: &str) -> bool {
        self.judge.is_none_or(|judge| judge(text))
    }
}

/// Whether a text is of a format; every text is of one that nobody knows.
#[must_use]
pub fn is_of_format(text: &str, name: &str) -> bool {
    Format::of(name, Type::String).is_none_or(|format| format.fits(text))
}

/// Whether nobody knows a format of values of a type.
#[must_use]
pub fn is_unknown(name: &str, of_type: &str) -> bool {
    if name.is_empty() {
        return false;
    }
    Type::read(of_type).is_none_or(|is| Format::of(name, is).is_none())
}

/// A pattern of ours; one that cannot be read fits nothing, which the tests would see.
type Ours = LazyLock<Option<Regex>>;

static RGB: Ours = LazyLock::new(|| {
    let part = r"\s*(0|[1-9][0-9]?|1[0-9][0-9]?|2[0-4][0-9]|25[0-5])\s*";
    Regex::new(&format!(r"^rgb\({part},{part},{part}\)$")).ok()
});
static SSN: Ours = LazyLock::new(|| Regex::new(r"^[0-9]{3}[- ]?[0-9]{2}[- ]?[0-9]{4}$").ok());
static HOSTNAME: Ours = LazyLock::new(|| {
    let letter = r"[a-zA-Z0-9\p{S}\p{L}]";
    let inner = r"[a-zA-Z0-9\-\p{S}\p{L}]";
    let alone = format!("{letter}((-?{letter}{{0,62}})?)");
    let dotted = format!(r"({letter}(({inner}{{0,61}}{letter})?)(\.)){{1,}}([a-zA-Z\p{{L}}]){{2,63}}");
    Regex::new(&format!("^({alone}|{dotted})$")).ok()
});
static CREDIT_CARD: Ours = LazyLock::new(|| {
    let all = [
        "4[0-9]{12}(?:[0-9]{3})?",
        "5[1-5][0-9]{14}",
        "6(?:011|5[0-9][0-9])[0-9]{12}",
        "3[47][0-9]{13}",
        "3(?:0[0-5]|[68][0-9])[0-9]{11}",
        "(?:2131|1800|35[0-9]{3})[0-9]{11}",
    ];
    Regex::new(&format!("^(?:{})$", all.join("|"))).ok()
});
static SPAN: Ours = LazyLock::new(|| Regex::new(r"([0-9]+)[\t\n\f\r ]*([A-Za-zµ]+)").ok());

fn fits(pattern: &Ours, text: &str) -> bool {
    pattern.as_ref().is_some_and(|pattern| pattern.is_match(text))
}

fn is_label(text: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.first().is_some_and(|byte| good(*byte))
        && bytes.last().is_some_and(|byte| good(*byte))
        && bytes.iter().all(|byte| good(*byte) || *byte == b'-')
}

fn is_base64(text: &str) -> bool {
    let bytes = text.as_bytes();
    let letters = text.trim_end_matches('=');
    !bytes.is_empty()
        && bytes.len().is_multiple_of(4)
        && bytes.len() - letters.len() <= 2
        && letters
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/'))
}

/// An address; leading zeros are read, too.
fn parse_ip(text: &str) -> Option<IpAddr> {
    if let Ok(found) = text.parse() {
        return Some(found);
    }
    let parts: Vec<&str> = text.split('.').collect();
    if parts.len() != 4 {
        return None;
    }
    let mut bytes = [0_u8; 4];
    for (byte, part) in bytes.iter_mut().zip(parts) {
        if part.is_empty() || !part.bytes().all(|digit| digit.is_ascii_digit()) {
            return None;
        }
        let digits = part.trim_start_matches('0');
        *byte = if digits.is_empty() { 0 } else { digits.parse().ok()? };
    }
    Some(IpAddr::from(bytes))
}

fn is_cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else {
        return false;
    };
    let most = match parse_ip(address) {
        Some(IpAddr::V4(_)) => 32,
        Some(IpAddr::V6(_)) => 128,
        None => return false,
    };
    !length.is_empty()
        && length.bytes().all(|byte| byte.is_ascii_digit())
        && length
            .trim_start_matches('0')
            .parse::<u8>()
            .map_or_else(|_| length.bytes().all(|byte| byte == b'0'), |bits| bits <= most)
}

fn is_credit_card(text: &str) -> bool {
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    let sum: u32 = digits
        .bytes()
        .rev()
        .enumerate()
        .map(|(index, digit)| {
            let digit = u32::from(digit - b'0');
            match (index % 2, digit * 2) {
                (0, _) => digit,
                (_, twice) if twice >= 10 => twice % 10 + 1,
                (_, twice) => twice,
            }
        })
        .sum();
    fits(&CREDIT_CARD, &digits) && sum.is_multiple_of(10)
}

fn is_date(text: &str) -> bool {
    let bytes = text.as_bytes();
    let digits = |range: std::ops::Range<usize>| text.get(range).filter(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
    let number = |range| digits(range).and_then(|part| part.parse::<u16>().ok());
    if bytes.len() != 10 || bytes[4] != b'-' || bytes[7] != b'-' {
        return false;
    }
    let (Some(year), Some(month), Some(day)) = (number(0..4), number(5..7), number(8..10)) else {
        return false;
    };
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let days = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => return false,
    };
    (1..=days).contains(&day)
}

fn is_datetime(text: &str) -> bool {
    let lower = text.to_lowercase();
    let mut parts = lower.split('t');
    let (Some(date), Some(clock)) = (parts.next(), parts.next()) else {
        return false;
    };
    is_date(date) && text.len() >= 4 && is_clock(clock)
}

/// `15:04:05`, then maybe any letter and digits, then the zone.
fn is_clock(text: &str) -> bool {
    let two = |at: usize, most: &str| {
        let part = text.get(at..at + 2);
        part.is_some_and(|part| part.bytes().all(|byte| byte.is_ascii_digit()) && part <= most)
    };
    let colon = |text: &str, at: usize| text.as_bytes().get(at) == Some(&b':');
    if !(two(0, "23") && colon(text, 2) && two(3, "59") && colon(text, 5) && two(6, "59")) {
        return false;
    }
    let is_zone = |zone: &str| {
        let digits = |range: std::ops::Range<usize>| {
            let part = zone.get(range);
            part.is_some_and(|part| part.bytes().all(|byte| byte.is_ascii_digit()))
        };
        zone == "z" || (zone.len() == 6 && zone.starts_with(['+', '-']) && digits(1..3) && colon(zone, 3) && digits(4..6))
    };
    let rest = &text[8..];
    if is_zone(rest) {
        return true;
    }
    // The dot of the pattern stands for any letter but the end of a line.
    let mut letters = rest.chars();
    let Some(first) = letters.next().filter(|first| *first != '\n') else {
        return false;
    };
    let fraction = &rest[first.len_utf8()..];
    let zone = fraction.trim_start_matches(|letter: char| letter.is_ascii_digit());
    zone.len() < fraction.len() && is_zone(zone)
}

/// Units of time; the last of each is a beginning, too.
const UNITS: &[&[&str]] = &[
    &["ns", "nano"],
    &["us", "µs", "micro"],
    &["ms", "milli"],
    &["s", "sec"],
    &["m", "min"],
    &["h", "hr", "hour"],
    &["d", "day"],
    &["w", "wk", "week"],
];

fn is_duration(text: &str) -> bool {
    if time::parse_duration(text).is_ok() {
        return true;
    }
    let Some(pattern) = SPAN.as_ref() else {
        return false;
    };
    let mut found = false;
    for captured in pattern.captures_iter(text) {
        if captured[1].parse::<i64>().is_err() {
            return false;
        }
        let unit = captured[2].to_lowercase();
        found |= UNITS
            .iter()
            .any(|names| names.contains(&&*unit) || names.last().is_some_and(|last| unit.starts_with(last)));
    }
    found
}

fn is_hostname(text: &str) -> bool {
    text.len() <= 255 && text.split('.').all(|part| part.len() <= 63) && fits(&HOSTNAME, text)
}

/// The digits of a book's number.
fn book(text: &str) -> Vec<u8> {
    let kept = |letter: &char| !matches!(letter, '-' | ' ' | '\t' | '\n' | '\u{c}' | '\r');
    text.chars().filter(kept).collect::<String>().into_bytes()
}

fn is_isbn10(text: &str) -> bool {
    let digits = book(text);
    let [first @ .., last] = digits.as_slice() else {
        return false;
    };
    if first.len() != 9 || !first.iter().all(u8::is_ascii_digit) || !(last.is_ascii_digit() || *last == b'X') {
        return false;
    }
    let value = |digit: u8| if digit == b'X' { 10 } else { u32::from(digit - b'0') };
    let sum: u32 = (1..).zip(&digits).map(|(times, digit)| times * value(*digit)).sum();
    sum.is_multiple_of(11)
}

fn is_isbn13(text: &str) -> bool {
    let digits = book(text);
    if digits.len() != 13 || !digits.iter().all(u8::is_ascii_digit) {
        return false;
    }
    let value = |index: usize| u32::from(digits[index] - b'0');
    let sum: u32 = (0..12)
        .map(|index| if index % 2 == 0 { value(index) } else { 3 * value(index) })
        .sum();
    value(12) == (10 - sum % 10) % 10
}

fn is_mac(text: &str) -> bool {
    let bytes = text.as_bytes();
    let of = |each: usize, separators: &[u8]| {
        let separator = bytes[each];
        (bytes.len() + 1).is_multiple_of(each + 1)
            && separators.contains(&separator)
            && matches!((bytes.len() + 1) / (each + 1) * each / 2, 6 | 8 | 20)
            && bytes.iter().enumerate().all(|(at, byte)| {
                if at % (each + 1) == each {
                    *byte == separator
                } else {
                    byte.is_ascii_hexdigit()
                }
            })
    };
    bytes.len() >= 14 && (of(2, b":-") || of(4, b"."))
}

/// Groups of hexadecimal digits with or without dashes between them.
fn is_uuid(text: &str, version: Option<u8>, variant: bool) -> bool {
    let mut rest = text.as_bytes();
    for (index, length) in [8, 4, 4, 4, 12].into_iter().enumerate() {
        if index > 0 {
            rest = rest.strip_prefix(b"-").unwrap_or(rest);
        }
        if rest.len() < length {
            return false;
        }
        let (group, after) = rest.split_at(length);
        let good = group.iter().all(u8::is_ascii_hexdigit)
            && (index != 2 || version.is_none_or(|version| group[0] == version))
            && (index != 3 || !variant || b"89abAB".contains(&group[0]));
        if !good {
            return false;
        }
        rest = after;
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_of_formats_as_upstream_says() {
        for (format, good, bad) in [
            (
                "bsonobjectid",
                &["507f1f77bcf86cd799439011"][..],
                &["507f1f77bcf86cd79943901", "x"][..],
            ),
            ("byte", &["YQ==", "YWI=", "YWJj"], &["", "YQ", "YQ=", "Y-==", "===="]),
            (
                "cidr",
                &["10.0.0.0/8", "010.0.0.0/08", "::/0", "::1/128"],
                &["10.0.0.0", "10.0.0.0/33", "10.0.0.0/", "::/129"],
            ),
            (
                "creditcard",
                &["4111 1111 1111 1111", "5555-5555-5555-4444"],
                &["4111111111111112", ""],
            ),
            (
                "date",
                &["2024-02-29", "0000-01-01"],
                &["2023-02-29", "2024-2-1", "2024-13-01", "2024-01-00", ""],
            ),
            (
                "date-time",
                &[
                    "2024-01-01T00:00:00Z",
                    "2024-01-01t00:00:00.123+01:00",
                    "2024-01-01T00:00:00x1z",
                ],
                &[
                    "2024-01-01",
                    "2024-01-01T24:00:00Z",
                    "2024-01-01T00:00:60Z",
                    "2024-01-01T00:00:00",
                    "2024-01-01 00:00:00Z",
                ],
            ),
            (
                "duration",
                &["1h30m", "-1.5s", "0", "3 days", "22 ns", "1week", "5 Minutes"],
                &["", "x", "1 parsec", "99999999999999999999 s"],
            ),
            (
                "email",
                &["a@b", "A <a@b.c>", "\"x y\"@z", "a@[127.0.0.1]", "g: a@b;", "a@b (c)"],
                &["", "a", "@b", "a@", "a@b c", ".a@b", "a..b@c", "a@b.", "g:;"],
            ),
            ("hexcolor", &["#fff", "A0b1C2"], &["#ffff", "ggg", ""]),
            (
                "hostname",
                &["a", "a.example", "1-2", "a-b.london"],
                &["", "-a", "a.b", "a_b.com", "a..com"],
            ),
            (
                "ipv4",
                &["1.2.3.4", "01.2.3.4", "::ffff:1.2.3.4"],
                &["1.2.3", "1.2.3.256", "::1", ""],
            ),
            ("ipv6", &["::1", "fe80::1"], &["1.2.3.4", "::g", ""]),
            ("isbn", &["0321751043", "978-0321751041"], &["0321751044"]),
            ("isbn10", &["0-321-75104-3", "080442957X"], &["978-0321751041"]),
            ("isbn13", &["978 0321751041"], &["0321751043", "9780321751042"]),
            ("k8s-short-name", &["a-b"], &["a.b", "A", "-a", ""]),
            ("k8s-long-name", &["a-b.c"], &["a..b", "A"]),
            (
                "mac",
                &["01:23:45:67:89:ab", "0123.4567.89AB"],
                &["01:23:45:67:89", "01:23-45:67:89:ab", "0123.4567.89ag", "01"],
            ),
            ("password", &["", "x"], &[]),
            ("rgbcolor", &["rgb(0, 10,255)"], &["rgb(256,0,0)", "rgb(0,0)", "rgb(00,0,0)"]),
            ("ssn", &["123-45-6789"], &["123456789", "123-45-678"]),
            ("uri", &["http://a/b", "/a"], &["a", ""]),
            (
                "uuid",
                &["123e4567-e89b-12d3-a456-426614174000", "123E4567e89b12d3a456426614174000"],
                &["123e4567", ""],
            ),
            (
                "uuid3",
                &["123e4567-e89b-32d3-0456-426614174000"],
                &["123e4567-e89b-42d3-a456-426614174000"],
            ),
            (
                "uuid4",
                &["123e4567-e89b-42d3-a456-426614174000"],
                &["123e4567-e89b-42d3-c456-426614174000"],
            ),
            (
                "uuid5",
                &["123e4567-e89b-52d3-B456-426614174000"],
                &["123e4567-e89b-42d3-a456-426614174000"],
            ),
        ] {
            let known = Format::of(format, Type::String).expect("a format");
            for text in good {
                assert!(known.fits(text), "{format}: {text}");
            }
            for text in bad {
                assert!(!known.fits(text), "{format}: {text}");
            }
        }
    }

    #[test]
    fn a_format_is_known_for_its_type_alone() {
        assert!(STRINGS.is_sorted_by_key(|(name, _)| *name));
        for (name, is, unknown) in [
            ("date-time", "string", false),
            ("date-time", "", false),
            ("date-time", "integer", true),
            ("int32", "integer", false),
            ("int32", "string", true),
            ("double", "number", false),
            ("quantity", "string", true),
            ("date", "array", true),
            ("", "array", false),
        ] {
            assert_eq!(is_unknown(name, is), unknown, "{name} {is}");
        }
    }
}
