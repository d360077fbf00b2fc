//! Faults of expressions that show when upstream makes a program of them: constants that cannot be converted, and regular
//! expressions that cannot be compiled.

use crate::ast::{Ast, Expr, ExprId, Literal};
use crate::check::Checked;
use crate::goregex::{RegexFault, regex_fault};
use crate::lookup;
use crate::types::Type;

/// Why there is no program.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// A constant cannot become one of another type.
    #[error("type conversion error from '{from}' to '{to}'")]
    Conversion {
        /// The type of the constant.
        from: &'static str,
        /// The type it should become.
        to: &'static str,
    },
    /// A number is too large for an `int`.
    #[error("integer overflow")]
    Int,
    /// A number is too large for a `uint`, or negative.
    #[error("unsigned integer overflow")]
    Uint,
    /// Bytes are no text.
    #[error("invalid UTF-8 in bytes, cannot convert to string")]
    Text,
    /// A regular expression is none.
    #[error("error parsing regexp: {0}")]
    Regex(RegexFault),
    /// A type is named that has no value.
    #[error("reference to undefined type: {0}")]
    Type(Box<str>),
}

/// Refuses what no program can be made of, the innermost fault first.
pub(crate) fn judge(ast: &Ast, checked: &Checked) -> Result<(), Unfit> {
    constant(ast, checked, ast.root).map(drop)
}

/// The constant that a node is, if it is one.
fn constant(ast: &Ast, checked: &Checked, id: ExprId) -> Result<Option<Literal>, Unfit> {
    let expr = &ast.node(id).expr;
    if let Expr::Literal(literal) = expr {
        return Ok(Some(literal.clone()));
    }
    if let Some(name) = checked.names.get(&id.0) {
        return match &checked.types[id.0 as usize] {
            Some(Type::Of(_)) if !lookup::is_type_value(name) => Err(Unfit::Type(name.clone())),
            _ => Ok(None),
        };
    }
    let mut below = Vec::new();
    for child in expr.children() {
        below.push(constant(ast, checked, child)?);
    }
    let Expr::Call { function, .. } = expr else {
        return Ok(None);
    };
    match (&**function, below.as_slice()) {
        ("matches", [_, Some(Literal::String(pattern)), ..]) | ("find" | "findAll", [_, Some(Literal::String(pattern)), ..]) => {
            regex_fault(pattern).map_or(Ok(None), |fault| Err(Unfit::Regex(fault)))
        }
        (to, [Some(from)]) => convert(from, to),
        _ => Ok(None),
    }
}

fn convert(from: &Literal, to: &str) -> Result<Option<Literal>, Unfit> {
    let refused = |to| Err(Unfit::Conversion { from: "string", to });
    let made = match (to, from) {
        ("bool", Literal::String(text)) => match &**text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Literal::Bool(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Literal::Bool(false),
            _ => return refused("bool"),
        },
        ("bytes", Literal::String(text)) => Literal::Bytes(text.as_bytes().into()),
        ("double", Literal::String(text)) => match float(text) {
            Some(number) => Literal::Double(number),
            None => return refused("double"),
        },
        ("double", Literal::Int(number)) => Literal::Double(*number as f64),
        ("double", Literal::Uint(number)) => Literal::Double(*number as f64),
        ("int", Literal::String(text)) => match int(text) {
            Some(number) => Literal::Int(number),
            None => return refused("int"),
        },
        ("int", Literal::Uint(number)) => Literal::Int(i64::try_from(*number).map_err(|_| Unfit::Int)?),
        // The largest numbers below and above that a float can tell from the limits.
        ("int", Literal::Double(number)) if *number > -9.223_372_036_854_776e18 && *number < 9.223_372_036_854_776e18 => {
            Literal::Int(*number as i64)
        }
        ("int", Literal::Double(_)) => return Err(Unfit::Int),
        ("uint", Literal::String(text)) => match uint(text) {
            Some(number) => Literal::Uint(number),
            None => return refused("uint"),
        },
        ("uint", Literal::Int(number)) => Literal::Uint(u64::try_from(*number).map_err(|_| Unfit::Uint)?),
        ("uint", Literal::Double(number)) if *number >= 0.0 && *number < 18_446_744_073_709_551_616.0 => {
            Literal::Uint(*number as u64)
        }
        ("uint", Literal::Double(_)) => return Err(Unfit::Uint),
        ("string", Literal::Bytes(bytes)) => match std::str::from_utf8(bytes) {
            Ok(text) => Literal::String(text.into()),
            Err(_) => return Err(Unfit::Text),
        },
        ("string", Literal::Int(number)) => Literal::String(number.to_string().into()),
        ("string", Literal::Uint(number)) => Literal::String(number.to_string().into()),
        ("string", Literal::Bool(truth)) => Literal::String(truth.to_string().into()),
        ("bool", Literal::Bool(_))
        | ("bytes", Literal::Bytes(_))
        | ("double", Literal::Double(_))
        | ("int", Literal::Int(_))
        | ("string", Literal::String(_))
        | ("uint", Literal::Uint(_))
        | ("dyn", _) => from.clone(),
        _ => return Ok(None),
    };
    Ok(Some(made))
}

/// The number that Go's `strconv.ParseFloat` reads.
pub(crate) fn float(text: &str) -> Option<f64> {
    let (negative, unsigned) = match text.strip_prefix(['+', '-']) {
        Some(rest) => (text.starts_with('-'), rest.to_ascii_lowercase()),
        None => (false, text.to_ascii_lowercase()),
    };
    let hexadecimal = unsigned.strip_prefix("0x");
    let bytes = hexadecimal.unwrap_or(&unsigned).as_bytes();
    let digit = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_hexdigit);
    let separated = |at: usize| digit(at.checked_sub(1)) && digit(Some(at + 1));
    if bytes.iter().enumerate().any(|(at, byte)| *byte == b'_' && !separated(at)) {
        return None;
    }
    let plain = unsigned.replace('_', "");
    let number = match hexadecimal {
        Some(_) => hexadecimal_float(&plain[2..])?,
        None => plain.parse::<f64>().ok()?,
    };
    let finite = number.is_finite() || matches!(plain.as_str(), "inf" | "infinity" | "nan");
    finite.then_some(if negative { -number } else { number })
}

/// A float of hexadecimal digits with a binary exponent; its last digit may be off by one.
fn hexadecimal_float(text: &str) -> Option<f64> {
    let (mantissa, exponent) = text.split_once('p')?;
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let mut number = 0.0;
    for digit in whole.chars().chain(fraction.chars()) {
        number = number * 16.0 + f64::from(digit.to_digit(16)?);
    }
    let shift = i32::try_from(fraction.len()).ok()?.checked_mul(4)?;
    Some(number * 2.0_f64.powi(exponent.parse::<i32>().ok()?.checked_sub(shift)?))
}

/// The number that Go's `strconv.ParseInt` reads to base ten.
fn int(text: &str) -> Option<i64> {
    text.parse().ok()
}

/// The number that Go's `strconv.ParseUint` reads to base ten: no sign.
pub(crate) fn uint(text: &str) -> Option<u64> {
    text.parse().ok().filter(|_| !text.starts_with('+'))
}
