//! What a scalar of a YAML document means, as yaml.v2 resolves it: YAML 1.1 with its `yes`, `y` and `on`, octal numbers
//! with a leading zero, and no sexagesimal ones.
//!
//! Invariant: a quoted scalar without a tag is a string. It will not know where a scalar stands.

/// A resolved scalar. Numbers are texts that JSON takes.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Scalar<'a> {
    Null,
    Bool(bool),
    /// A whole number in decimal digits.
    Whole(String),
    /// A number with a fraction; not finite where the document says so.
    Float(f64),
    String(&'a str),
}

impl Scalar<'_> {
    fn tag(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "bool",
            Self::Whole(_) => "int",
            Self::Float(_) => "float",
            Self::String(_) => "str",
        }
    }
}

/// A scalar that does not fit the tag it carries.
#[derive(Debug, PartialEq)]
pub(super) struct Misfit {
    pub(super) found: &'static str,
}

/// Resolves a scalar. `tag` is the name in YAML's own schema, such as `int`.
pub(super) fn resolve<'a>(text: &'a str, plain: bool, tag: Option<&str>) -> Result<Scalar<'a>, Misfit> {
    let scalar = match tag {
        None if plain => by_form(text),
        Some("int" | "float" | "bool" | "null") => by_form(text),
        _ => return Ok(Scalar::String(text)),
    };
    match (tag, scalar) {
        (Some("float"), Scalar::Whole(digits)) => Ok(Scalar::Float(digits.parse().unwrap_or(f64::INFINITY))),
        (Some(tag), scalar) if tag != scalar.tag() => Err(Misfit { found: scalar.tag() }),
        (_, scalar) => Ok(scalar),
    }
}

fn by_form(text: &str) -> Scalar<'_> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Scalar::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => return Scalar::Bool(true),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => return Scalar::Bool(false),
        ".nan" | ".NaN" | ".NAN" => return Scalar::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Scalar::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Scalar::Float(f64::NEG_INFINITY),
        _ => {}
    }
    let first = text.as_bytes()[0];
    if !(first.is_ascii_digit() || matches!(first, b'+' | b'-' | b'.')) {
        return Scalar::String(text);
    }
    let bare = text.replace('_', "");
    if first == b'.' {
        return float(text).map_or(Scalar::String(text), Scalar::Float);
    }
    whole(&bare)
        .map(Scalar::Whole)
        .or_else(|| float(&bare).map(Scalar::Float))
        .unwrap_or(Scalar::String(text))
}

/// A whole number of 64 bits in any of Go's notations.
fn whole(text: &str) -> Option<String> {
    let (sign, digits) = match text.as_bytes().first()? {
        b'-' => ("-", &text[1..]),
        b'+' => ("+", &text[1..]),
        _ => ("", text),
    };
    let lower = digits.get(..2).map(str::to_ascii_lowercase);
    let (radix, digits) = match lower.as_deref() {
        Some("0x") => (16, &digits[2..]),
        Some("0b") => (2, &digits[2..]),
        Some("0o") => (8, &digits[2..]),
        Some(two) if two.starts_with('0') => (8, &digits[1..]),
        _ => (10, digits),
    };
    if digits.is_empty() || !digits.bytes().all(|digit| char::from(digit).is_digit(radix)) {
        return None;
    }
    let magnitude = u64::from_str_radix(digits, radix).ok()?;
    match sign {
        "-" => (magnitude <= i64::MIN.unsigned_abs()).then(|| {
            if magnitude == 0 {
                "0".to_owned()
            } else {
                format!("-{magnitude}")
            }
        }),
        "+" => i64::try_from(magnitude).ok().map(|number| number.to_string()),
        _ => Some(magnitude.to_string()),
    }
}

/// A decimal number with a point or an exponent.
fn float(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (mantissa, exponent) = match unsigned.find(['e', 'E']) {
        Some(at) => (&unsigned[..at], Some(&unsigned[at + 1..])),
        None => (unsigned, None),
    };
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (before, after) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let number = digits(before) && digits(after) && !(before.is_empty() && after.is_empty());
    let power = exponent.is_none_or(|exponent| {
        let bare = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        !bare.is_empty() && digits(bare)
    });
    if !number || !power {
        return None;
    }
    text.parse::<f64>().ok().filter(|value| value.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_are_what_yaml_v2_makes_of_them() {
        for (text, want) in [
            ("", Scalar::Null),
            ("~", Scalar::Null),
            ("y", Scalar::Bool(true)),
            ("N", Scalar::Bool(false)),
            ("Off", Scalar::Bool(false)),
            ("yEs", Scalar::String("yEs")),
            ("0644", Scalar::Whole("420".into())),
            ("08", Scalar::Float(8.0)),
            ("0o17", Scalar::Whole("15".into())),
            ("-0x10", Scalar::Whole("-16".into())),
            ("+12", Scalar::Whole("12".into())),
            ("1_000", Scalar::Whole("1000".into())),
            ("18446744073709551615", Scalar::Whole("18446744073709551615".into())),
            ("3.0", Scalar::Float(3.0)),
            ("1e3", Scalar::Float(1000.0)),
            (".5", Scalar::Float(0.5)),
            ("1.", Scalar::Float(1.0)),
            ("12:30", Scalar::String("12:30")),
            ("2026-01-01", Scalar::String("2026-01-01")),
            ("1.2.3", Scalar::String("1.2.3")),
            ("0x", Scalar::String("0x")),
            ("-", Scalar::String("-")),
            ("1e", Scalar::String("1e")),
            ("inf", Scalar::String("inf")),
            ("é", Scalar::String("é")),
            ("1é", Scalar::String("1é")),
            ("0é", Scalar::String("0é")),
        ] {
            assert_eq!(resolve(text, true, None), Ok(want), "{text}");
        }
        assert_eq!(resolve("y", false, None), Ok(Scalar::String("y")), "quoted");
        assert_eq!(resolve("12", true, Some("str")), Ok(Scalar::String("12")));
        assert_eq!(resolve("12", false, Some("int")), Ok(Scalar::Whole("12".into())));
        assert_eq!(resolve("x", true, Some("int")), Err(Misfit { found: "str" }));
    }
}
