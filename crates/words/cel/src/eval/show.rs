//! Values as Go prints them, in messages and in texts that expressions make.

use trireme_api::time::format_duration;

use super::value::Val;

/// A float as Go's `%g` prints it.
pub(crate) fn float(number: f64) -> String {
    if number.is_nan() {
        return "NaN".into();
    }
    if number.is_infinite() {
        return if number > 0.0 { "+Inf" } else { "-Inf" }.into();
    }
    if number == 0.0 {
        return if number.is_sign_negative() { "-0" } else { "0" }.into();
    }
    let text = format!("{number:e}");
    let Some((digits, exponent)) = text.split_once('e') else {
        return text;
    };
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if (-4..6).contains(&exponent) {
        return format!("{number}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// As Go's `%v` prints it.
pub(crate) fn plain(value: &Val<'_>) -> String {
    match value {
        Val::Null => "null".into(),
        Val::Bool(truth) => truth.to_string(),
        Val::Int(number) => number.to_string(),
        Val::Uint(number) => number.to_string(),
        Val::Double(number) => float(*number),
        Val::String(text) => text.as_str().into(),
        Val::Bytes(bytes) => {
            let parts: Vec<String> = bytes.iter().map(u8::to_string).collect();
            format!("[{}]", parts.join(" "))
        }
        Val::Duration(nanos) => format_duration(*nanos),
        Val::Timestamp(..) => super::time::text(value),
        Val::List(list) => {
            let parts: Vec<String> = list.values().unwrap_or_default().iter().map(plain).collect();
            format!("[{}]", parts.join(", "))
        }
        Val::Map(map) => {
            let entry = |key: &Val<'_>| format!("{}: {}", plain(key), plain(&Val::Null));
            let parts: Vec<String> = map
                .keys()
                .iter()
                .map(|key| match map.find(key) {
                    Ok(Some(found)) => format!("{}: {}", plain(key), plain(&found)),
                    _ => entry(key),
                })
                .collect();
            format!("{{{}}}", parts.join(", "))
        }
        Val::Type(name) => (**name).into(),
        Val::Optional(Some(inner)) => format!("optional({})", plain(inner)),
        Val::Optional(None) => "optional.none()".into(),
        Val::Quantity(quantity) => quantity.to_string(),
        Val::Ip(address) => address.to_string(),
        Val::Cidr(range) => range.to_string(),
        Val::Url(url) => url.to_string(),
        Val::Semver(version) => version.to_string(),
        Val::Format(named) => named.name.into(),
        Val::Check(check) => check.type_name().into(),
    }
}

/// What Go calls the type of a value.
pub(crate) fn go_type(value: &Val<'_>) -> &'static str {
    match value {
        Val::Null => "types.Null",
        Val::Bool(_) => "types.Bool",
        Val::Int(_) => "types.Int",
        Val::Uint(_) => "types.Uint",
        Val::Double(_) => "types.Double",
        Val::String(_) => "types.String",
        Val::Bytes(_) => "types.Bytes",
        Val::Duration(_) => "types.Duration",
        Val::Timestamp(..) => "types.Timestamp",
        Val::List(_) => "*types.baseList",
        Val::Map(_) => "*types.baseMap",
        Val::Type(_) => "*types.Type",
        Val::Optional(_) => "*types.Optional",
        Val::Quantity(_) => "cel.Quantity",
        Val::Ip(_) => "cel.IP",
        Val::Cidr(_) => "cel.CIDR",
        Val::Url(_) => "cel.URL",
        Val::Semver(_) => "cel.Semver",
        Val::Format(_) => "cel.Format",
        Val::Check(_) => "library.authorizerVal",
    }
}

/// What stands for a letter within double quotes, where Go has two letters for it.
pub(crate) fn escape(letter: char) -> Option<&'static str> {
    Some(match letter {
        '"' => "\\\"",
        '\\' => "\\\\",
        '\u{7}' => "\\a",
        '\u{8}' => "\\b",
        '\u{c}' => "\\f",
        '\n' => "\\n",
        '\r' => "\\r",
        '\t' => "\\t",
        '\u{b}' => "\\v",
        _ => return None,
    })
}

/// A text in double quotes, as Go's `%q` prints it.
pub(crate) fn quoted(text: &str) -> String {
    let mut made = String::from("\"");
    for letter in text.chars() {
        if let Some(escape) = escape(letter) {
            made.push_str(escape);
            continue;
        }
        match letter {
            _ if (letter as u32) < 0x20 || letter as u32 == 0x7f => made.push_str(&format!("\\x{:02x}", letter as u32)),
            _ if (0x80..0xa0).contains(&(letter as u32)) || letter as u32 == 0xad => {
                made.push_str(&format!("\\u{:04x}", letter as u32));
            }
            _ => made.push(letter),
        }
    }
    made.push('"');
    made
}
