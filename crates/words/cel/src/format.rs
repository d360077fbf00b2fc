//! Whether a literal of `format` fits the arguments beside it.

use crate::ast::{Ast, Expr, ExprId};
use crate::check::Checked;
use crate::problem::Problem;
use crate::types::Type;

/// What is wrong with a format and the arguments that it is given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FormatFault {
    #[error("too many arguments supplied to string.format (expected {expected}, got {found})")]
    TooMany { expected: usize, found: usize },
    #[error("unexpected end of string")]
    End,
    #[error("index {0} out of range")]
    TooFew(usize),
    #[error("could not parse formatting clause: error while parsing precision: could not find end of precision specifier")]
    PrecisionEnd,
    #[error(
        "could not parse formatting clause: error while parsing precision: error while converting precision to integer: \
         strconv.Atoi: parsing \"{0}\": {why}", why = precision_fault(.0)
    )]
    Precision(Box<str>),
    #[error("could not parse formatting clause: unrecognized formatting clause \"{0}\"")]
    Clause(char),
    #[error("error during formatting: {wanted}, was given {found}")]
    Argument { wanted: &'static str, found: Box<str> },
}

fn precision_fault(digits: &str) -> &'static str {
    if digits.is_empty() {
        "invalid syntax"
    } else {
        "value out of range"
    }
}

/// What is wrong with `format` used with `arguments`, and the node where it is told: the argument, or none for the call's.
pub(crate) fn fault(ast: &Ast, checked: &Checked, format: &str, arguments: &[ExprId]) -> Option<(Option<ExprId>, Problem)> {
    let whole = |fault| Some((None, Problem::Format(fault)));
    let bytes = format.as_bytes();
    let (mut at, mut used) = (0, 0);
    while at < bytes.len() {
        if bytes[at] != b'%' {
            at += 1;
            continue;
        }
        at += 1;
        if bytes.get(at) == Some(&b'%') {
            at += 1;
            continue;
        }
        if at == bytes.len() {
            return whole(FormatFault::End);
        }
        let Some(argument) = arguments.get(used) else {
            return whole(FormatFault::TooFew(used));
        };
        used += 1;
        match precision(&format[at..]) {
            Ok(length) => at += length,
            Err(fault) => return whole(fault),
        }
        let clause = char::from(bytes[at]);
        at += 1;
        let Some((wanted, allowed)) = allowed(clause) else {
            return whole(FormatFault::Clause(clause));
        };
        let bad = if clause == 's' {
            unprintable(ast, checked, *argument)
        } else {
            (!allowed(&type_of(checked, *argument))).then_some(*argument)
        };
        if let Some(bad) = bad {
            let found = type_of(checked, bad).runtime_name().into();
            return Some((Some(bad), Problem::Format(FormatFault::Argument { wanted, found })));
        }
    }
    let found = arguments.len();
    if found > used {
        return whole(FormatFault::TooMany { expected: used, found });
    }
    None
}

/// The length of a precision, which nothing follows if it is all.
fn precision(text: &str) -> Result<usize, FormatFault> {
    let Some(rest) = text.strip_prefix('.') else {
        return Ok(0);
    };
    let length = rest.bytes().take_while(u8::is_ascii_digit).count();
    if length == rest.len() {
        return Err(FormatFault::PrecisionEnd);
    }
    match rest[..length].parse::<i64>() {
        Ok(_) => Ok(1 + length),
        Err(_) => Err(FormatFault::Precision(rest[..length].into())),
    }
}

/// Whether a clause can show a type.
type Allowed = fn(&Type) -> bool;

/// What a clause says of an argument that it cannot show, and which types it can.
fn allowed(clause: char) -> Option<(&'static str, Allowed)> {
    Some(match clause {
        's' => (
            "string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, types, durations, and timestamps",
            is_printable,
        ),
        'd' => ("decimal clause can only be used on integers", is_integer),
        'f' => ("fixed-point clause can only be used on doubles", is_float),
        'e' => ("scientific clause can only be used on doubles", is_float),
        'b' => ("only integers and bools can be formatted as binary", |of| {
            is_integer(of) || *of == Type::Bool
        }),
        'x' | 'X' => ("only integers, byte buffers, and strings can be formatted as hex", |of| {
            is_integer(of) || matches!(of, Type::String | Type::Bytes)
        }),
        'o' => ("octal clause can only be used on integers", is_integer),
        _ => return None,
    })
}

fn is_integer(of: &Type) -> bool {
    matches!(of, Type::Dyn | Type::Int | Type::Uint)
}

fn is_float(of: &Type) -> bool {
    matches!(of, Type::Dyn | Type::Double | Type::String)
}

fn is_printable(of: &Type) -> bool {
    matches!(
        of,
        Type::Dyn
            | Type::List(_)
            | Type::Map(_)
            | Type::Int
            | Type::Uint
            | Type::Double
            | Type::Bool
            | Type::String
            | Type::Timestamp
            | Type::Bytes
            | Type::Duration
            | Type::Of(_)
            | Type::Null
    )
}

fn type_of(checked: &Checked, id: ExprId) -> Type {
    checked.types[id.0 as usize].clone().unwrap_or(Type::Dyn)
}

/// The first part of an argument that cannot be shown as text; parts of literals are looked at.
fn unprintable(ast: &Ast, checked: &Checked, id: ExprId) -> Option<ExprId> {
    if !is_printable(&type_of(checked, id)) {
        return Some(id);
    }
    let expr = &ast.node(id).expr;
    match expr {
        Expr::List { .. } | Expr::Map(_) => expr.children().into_iter().find_map(|part| unprintable(ast, checked, part)),
        _ => None,
    }
}
