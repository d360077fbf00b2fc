//! `format`: texts with clauses for values.

use super::convert;
use super::unfit;
use crate::eval::compile::Call;
use crate::eval::error::{EvalError, Evaluated, refused};
use crate::eval::run::Run;
use crate::eval::show::quoted;
use crate::eval::value::Val;

/// The most digits behind the point.
const PRECISION_MAX: usize = 10_000;

pub(super) fn format<'r, 'p, 'a>(run: &'r mut Run<'p, 'a>, call: &'r Call, values: &'r [Val<'a>]) -> Evaluated<Val<'a>> {
    let [Val::String(form), Val::List(arguments)] = values else {
        return Err(unfit(call, values));
    };
    let mut made = String::new();
    let mut rest = form.as_str();
    let mut index = 0;
    while let Some(at) = rest.find('%') {
        made.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            made.push('%');
            rest = after;
            continue;
        }
        if index >= arguments.len() {
            return refused(format!("index {index} out of range"));
        }
        let argument = arguments.get(index)?;
        index += 1;
        if rest.is_empty() {
            return refused("unexpected end of string");
        }
        let mut precision = None;
        if let Some(after) = rest.strip_prefix('.') {
            let digits = after.bytes().take_while(u8::is_ascii_digit).count();
            if digits == after.len() {
                return parsing("error while parsing precision: could not find end of precision specifier");
            }
            precision = match after[..digits].parse::<usize>() {
                Ok(precision) => Some(precision),
                Err(_) => {
                    let why = if digits == 0 { "invalid syntax" } else { "value out of range" };
                    let said = format!(
                        "error while parsing precision: error while converting precision to integer: strconv.Atoi: parsing \
                         \"{}\": {why}",
                        &after[..digits]
                    );
                    return parsing(&said);
                }
            };
            rest = &after[digits..];
        }
        let clause = rest.chars().next().unwrap_or_default();
        let part = shown(&argument, clause, precision.unwrap_or(6).min(PRECISION_MAX))?;
        run.makes(part.len() as u64 / 8)?;
        made.push_str(&part);
        rest = &rest[clause.len_utf8()..];
    }
    made.push_str(rest);
    Ok(Val::made(&made))
}

fn parsing<T>(said: &str) -> Evaluated<T> {
    refused(format!("could not parse formatting clause: {said}"))
}

fn wrong<T>(wanted: &str, found: &Val<'_>) -> Evaluated<T> {
    refused(format!("error during formatting: {wanted}, was given {}", found.type_name()))
}

fn shown(value: &Val<'_>, clause: char, precision: usize) -> Evaluated<String> {
    match clause {
        's' => string(value),
        'd' => match value {
            Val::Int(number) => Ok(number.to_string()),
            Val::Uint(number) => Ok(number.to_string()),
            _ => wrong("decimal clause can only be used on integers", value),
        },
        'f' | 'e' => {
            let number = match value {
                Val::Double(number) => *number,
                Val::String(text) => match text.as_str() {
                    "NaN" => f64::NAN,
                    "Infinity" => f64::INFINITY,
                    "-Infinity" => f64::NEG_INFINITY,
                    _ => return float_only(clause, value),
                },
                _ => return float_only(clause, value),
            };
            let made = if number.is_nan() {
                "NaN".into()
            } else if number.is_infinite() {
                if number > 0.0 { "∞" } else { "-∞" }.into()
            } else if clause == 'f' {
                grouped(&format!("{number:.precision$}"))
            } else {
                scientific(&format!("{number:.6e}"))
            };
            // Upstream takes the precision of this clause for the width.
            Ok(if clause == 'e' { format!("{made:>precision$}") } else { made })
        }
        'b' => match value {
            Val::Int(number) => Ok(signed(*number, |number| format!("{number:b}"))),
            Val::Uint(number) => Ok(format!("{number:b}")),
            Val::Bool(truth) => Ok(u8::from(*truth).to_string()),
            _ => wrong("only integers and bools can be formatted as binary", value),
        },
        'o' => match value {
            Val::Int(number) => Ok(signed(*number, |number| format!("{number:o}"))),
            Val::Uint(number) => Ok(format!("{number:o}")),
            _ => wrong("octal clause can only be used on integers", value),
        },
        'x' | 'X' => {
            let bytes = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            let made = match value {
                Val::Int(number) => signed(*number, |number| format!("{number:x}")),
                Val::Uint(number) => format!("{number:x}"),
                Val::String(text) => bytes(text.as_str().as_bytes()),
                Val::Bytes(all) => bytes(all),
                _ => return wrong("only integers, byte buffers, and strings can be formatted as hex", value),
            };
            Ok(if clause == 'X' { made.to_ascii_uppercase() } else { made })
        }
        other => parsing(&format!("unrecognized formatting clause \"{other}\"")),
    }
}

fn float_only<T>(clause: char, value: &Val<'_>) -> Evaluated<T> {
    match clause {
        'f' => wrong("fixed-point clause can only be used on doubles", value),
        _ => wrong("scientific clause can only be used on doubles", value),
    }
}

fn signed(number: i64, show: impl Fn(u64) -> String) -> String {
    let sign = if number < 0 { "-" } else { "" };
    format!("{sign}{}", show(number.unsigned_abs()))
}

/// Digits before the point in groups of three, as English writes them.
fn grouped(plain: &str) -> String {
    let (sign, digits) = match plain.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", plain),
    };
    let (whole, fraction) = digits
        .split_once('.')
        .map_or((digits, None), |(whole, fraction)| (whole, Some(fraction)));
    let mut made = String::from(sign);
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index) % 3 == 0 {
            made.push(',');
        }
        made.push(digit);
    }
    if let Some(fraction) = fraction {
        made.push('.');
        made.push_str(fraction);
    }
    made
}

/// `1.5e3` as `1.5 × 10⁰³`.
fn scientific(plain: &str) -> String {
    let Some((mantissa, exponent)) = plain.split_once('e') else {
        return plain.into();
    };
    let (sign, digits) = match exponent.strip_prefix('-') {
        Some(digits) => ("⁻", digits),
        None => ("", exponent),
    };
    const SMALL: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
    let small: String = format!("{digits:0>2}")
        .bytes()
        .map(|digit| SMALL[usize::from(digit.wrapping_sub(b'0')) % 10])
        .collect();
    format!("{mantissa}×10{sign}{small}")
}

fn string(value: &Val<'_>) -> Evaluated<String> {
    const WANTED: &str =
        "string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, types, durations, and timestamps";
    match value {
        Val::List(_) | Val::Map(_) => nested(value).map_err(during),
        Val::Null => Ok("null".into()),
        Val::Ip(_) | Val::Cidr(_) => wrong(WANTED, value),
        _ => match convert::string(value) {
            Some(Ok(Val::String(text))) => Ok(text.as_str().into()),
            Some(Err(why)) => refused(format!(
                "error during formatting: could not convert argument {} to string",
                quoted(&why.to_string())
            )),
            _ => wrong(WANTED, value),
        },
    }
}

fn during(why: EvalError) -> EvalError {
    EvalError::Refused(format!("error during formatting: {why}").into())
}

/// A part of a list or map, and the list or map.
fn nested(value: &Val<'_>) -> Evaluated<String> {
    Ok(match value {
        Val::List(list) => {
            let parts: Vec<String> = list.values()?.iter().map(nested).collect::<Evaluated<_>>()?;
            format!("[{}]", parts.join(", "))
        }
        Val::Map(map) => {
            let mut parts = Vec::new();
            for key in map.keys() {
                let shown = match &key {
                    Val::String(text) => quoted(text.as_str()),
                    Val::Bool(_) | Val::Int(_) | Val::Uint(_) => crate::eval::show::plain(&key),
                    other => return refused(format!("no formatting function for map key of type {}", other.type_name())),
                };
                let Some(found) = map.find(&key)? else {
                    return refused(format!("could not find key: {}", quoted(&crate::eval::show::plain(&key))));
                };
                parts.push((shown, nested(&found)?));
            }
            parts.sort();
            let parts: Vec<String> = parts.into_iter().map(|(key, value)| format!("{key}:{value}")).collect();
            format!("{{{}}}", parts.join(", "))
        }
        Val::Null => "null".into(),
        Val::String(text) => quoted(text.as_str()),
        Val::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => format!("b{}", quoted(text)),
            Err(_) => {
                return refused("could not convert argument \"invalid UTF-8 in bytes, cannot convert to string\" to string");
            }
        },
        Val::Double(number) if number.is_nan() => "\"NaN\"".into(),
        Val::Double(number) if number.is_infinite() => if *number > 0.0 { "\"+Inf\"" } else { "\"-Inf\"" }.into(),
        Val::Double(number) => format!("{number:.6}"),
        Val::Timestamp(..) => format!("timestamp({})", quoted(&crate::eval::show::plain(value))),
        Val::Duration(nanos) => format!("duration({})", quoted(&crate::eval::time::span(*nanos))),
        Val::Bool(_) | Val::Int(_) | Val::Uint(_) | Val::Type(_) => crate::eval::show::plain(value),
        other => return refused(format!("no formatting function for {}", other.type_name())),
    })
}
