//! The functions, by name: each looks at the values it is given, as cel-go's dispatch does.

mod convert;
mod format;
mod kubernetes;
mod lists;
mod strings;

use std::cmp::Ordering;

use super::compile::Call;
use super::error::{EvalError, Evaluated};
use super::ops;
use super::run::Run;
use super::time;
use super::value::Val;

/// What a function does.
pub(crate) type Body = for<'r, 'p, 'a> fn(&'r mut Run<'p, 'a>, &'r Call, &'r [Val<'a>]) -> Evaluated<Val<'a>>;

/// The function of a name, called with so many arguments.
pub(crate) fn body(name: &str, arguments: usize) -> Option<Body> {
    Some(match name {
        "_+_" | "_-_" | "_*_" | "_/_" | "_%_" => arithmetic,
        "-_" => negate,
        "!_" => not,
        "@not_strictly_false" => not_strictly_false,
        "_<_" | "_<=_" | "_>_" | "_>=_" => compare,
        "_==_" | "_!=_" => arithmetic,
        "@in" => contains,
        "size" => size,
        "cel.@mapInsert" => |_, _, values| ops::map_insert(values.to_vec()),
        "getFullYear" | "getMonth" | "getDayOfYear" | "getDayOfMonth" | "getDate" | "getDayOfWeek" | "getHours"
        | "getMinutes" | "getSeconds" | "getMilliseconds" => clock,
        "optional.of" => |_, _, values| Ok(Val::some(values[0].clone())),
        "optional.ofNonZeroValue" => |_, _, values| {
            Ok(if is_zero(&values[0]) {
                Val::Optional(None)
            } else {
                Val::some(values[0].clone())
            })
        },
        "optional.none" => |_, _, _| Ok(Val::Optional(None)),
        "value" => |_, call, values| match &values[0] {
            Val::Optional(Some(value)) => Ok((**value).clone()),
            Val::Optional(None) => Err(EvalError::None),
            _ => Err(unfit(call, values)),
        },
        "hasValue" => |_, call, values| match &values[0] {
            Val::Optional(value) => Ok(Val::Bool(value.is_some())),
            _ => Err(unfit(call, values)),
        },
        _ => {
            return convert::body(name)
                .or_else(|| strings::body(name))
                .or_else(|| lists::body(name))
                .or_else(|| kubernetes::body(name, arguments));
        }
    })
}

/// What is said of arguments for which a function has no overload.
pub(crate) fn unfit(call: &Call, values: &[Val<'_>]) -> EvalError {
    let types: Vec<&str> = values.iter().map(Val::type_name).collect();
    EvalError::NoSuchOverloadOf(format!("{}({})", call.function, types.join(", ")).into())
}

fn arithmetic<'r, 'p, 'a>(run: &'r mut Run<'p, 'a>, call: &'r Call, values: &'r [Val<'a>]) -> Evaluated<Val<'a>> {
    if let [Val::List(left), Val::List(right)] = values {
        run.makes((left.len() + right.len()) as u64)?;
    }
    match values {
        [left, right] => ops::arithmetic(&call.function, left, right),
        _ => Err(EvalError::NoSuchOverload),
    }
}

fn negate<'r, 'p, 'a>(_: &'r mut Run<'p, 'a>, _: &'r Call, values: &'r [Val<'a>]) -> Evaluated<Val<'a>> {
    match &values[0] {
        Val::Int(number) => number.checked_neg().map(Val::Int).ok_or(EvalError::IntOverflow),
        Val::Double(number) => Ok(Val::Double(-number)),
        Val::Duration(nanos) => nanos.checked_neg().map(Val::Duration).ok_or(EvalError::IntOverflow),
        Val::Bool(_) | Val::String(_) | Val::Timestamp(..) => Err(EvalError::NoSuchOverload),
        _ => Err(EvalError::NoSuchOverloadOf("-_".into())),
    }
}

fn not<'r, 'p, 'a>(_: &'r mut Run<'p, 'a>, _: &'r Call, values: &'r [Val<'a>]) -> Evaluated<Val<'a>> {
    match &values[0] {
        Val::Bool(truth) => Ok(Val::Bool(!truth)),
        _ => Err(EvalError::NoSuchOverload),
    }
}

fn not_strictly_false<'r, 'p, 'a>(_: &'r mut Run<'p, 'a>, _: &'r Call, values: &'r [Val<'a>]) -> Evaluated<Val<'a>> {
    Ok(Val::Bool(!matches!(values[0], Val::Bool(false))))
}

fn compare<'r, 'p, 'a>(_: &'r mut Run<'p, 'a>, call: &'r Call, values: &'r [Val<'a>]) -> Evaluated<Val<'a>> {
    let [left, right] = values else {
        return Err(EvalError::NoSuchOverload);
    };
    let ordered = matches!(
        left,
        Val::Bool(_)
            | Val::Int(_)
            | Val::Uint(_)
            | Val::Double(_)
            | Val::String(_)
            | Val::Bytes(_)
            | Val::Duration(_)
            | Val::Timestamp(..)
    );
    if !ordered {
        return Err(EvalError::NoSuchOverloadOf(call.function.clone()));
    }
    let order = ops::compare(left, right)?;
    Ok(Val::Bool(match &*call.function {
        "_<_" => order == Ordering::Less,
        "_<=_" => order != Ordering::Greater,
        "_>_" => order == Ordering::Greater,
        _ => order != Ordering::Less,
    }))
}

fn contains<'r, 'p, 'a>(_: &'r mut Run<'p, 'a>, _: &'r Call, values: &'r [Val<'a>]) -> Evaluated<Val<'a>> {
    match values {
        [searched, within] => ops::contains(searched, within).map(Val::Bool),
        _ => Err(EvalError::NoSuchOverload),
    }
}

fn size<'r, 'p, 'a>(_: &'r mut Run<'p, 'a>, _: &'r Call, values: &'r [Val<'a>]) -> Evaluated<Val<'a>> {
    match &values[0] {
        value @ (Val::String(_) | Val::Bytes(_) | Val::List(_) | Val::Map(_)) => {
            Ok(Val::Int(i64::try_from(value.size()).unwrap_or(i64::MAX)))
        }
        Val::Timestamp(..) | Val::Duration(_) => Err(EvalError::NoSuchOverload),
        _ => Err(EvalError::NoSuchOverloadOf("size".into())),
    }
}

fn clock<'r, 'p, 'a>(_: &'r mut Run<'p, 'a>, call: &'r Call, values: &'r [Val<'a>]) -> Evaluated<Val<'a>> {
    let spans = matches!(&*call.function, "getHours" | "getMinutes" | "getSeconds" | "getMilliseconds");
    match values {
        [Val::Timestamp(seconds, nanos)] => time::part(&call.function, *seconds, *nanos, None).map(Val::Int),
        [Val::Timestamp(seconds, nanos), Val::String(zone)] => {
            time::part(&call.function, *seconds, *nanos, Some(zone.as_str())).map(Val::Int)
        }
        [Val::Duration(nanos)] if spans => Ok(Val::Int(time::of_span(&call.function, *nanos))),
        _ => Err(unfit(call, values)),
    }
}

fn is_zero(value: &Val<'_>) -> bool {
    match value {
        Val::Null => true,
        Val::Bool(truth) => !truth,
        Val::Int(number) => *number == 0,
        Val::Uint(number) => *number == 0,
        Val::Double(number) => *number == 0.0,
        Val::String(text) => text.as_str().is_empty(),
        Val::Bytes(bytes) => bytes.is_empty(),
        Val::Duration(nanos) => *nanos == 0,
        Val::Timestamp(seconds, nanos) => *seconds == -62_135_596_800 && *nanos == 0,
        Val::List(list) => list.shape().is_none() && list.len() == 0,
        Val::Map(super::value::Map::Seen(_, Some(_))) => false,
        Val::Map(map) => map.len() == 0,
        _ => false,
    }
}
