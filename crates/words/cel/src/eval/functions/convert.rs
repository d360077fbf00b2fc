//! Conversions from one type to another.

use std::sync::Arc;

use trireme_api::time::parse_duration;

use super::{Body, unfit};
use crate::constants;
use crate::eval::error::{EvalError, Evaluated};
use crate::eval::show;
use crate::eval::time;
use crate::eval::value::{Text, Val};

pub(super) fn body(name: &str) -> Option<Body> {
    Some(match name {
        "type" => |_, _, values| Ok(Val::Type(values[0].type_name().into())),
        "dyn" => |_, _, values| Ok(values[0].clone()),
        "bool" => |_, call, values| match &values[0] {
            Val::Bool(truth) => Ok(Val::Bool(*truth)),
            Val::String(text) => match text.as_str() {
                "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Val::Bool(true)),
                "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Val::Bool(false)),
                _ => wrong("string", "bool"),
            },
            _ => Err(unfit(call, values)),
        },
        "bytes" => |_, call, values| match &values[0] {
            Val::Bytes(bytes) => Ok(Val::Bytes(Arc::clone(bytes))),
            Val::String(text) => Ok(Val::Bytes(text.as_str().as_bytes().into())),
            _ => Err(unfit(call, values)),
        },
        "double" => |_, call, values| match &values[0] {
            Val::Double(number) => Ok(Val::Double(*number)),
            Val::Int(number) => Ok(Val::Double(*number as f64)),
            Val::Uint(number) => Ok(Val::Double(*number as f64)),
            Val::String(text) => constants::float(text.as_str())
                .map(Val::Double)
                .map_or_else(|| wrong("string", "double"), Ok),
            _ => Err(unfit(call, values)),
        },
        "int" => |_, call, values| match &values[0] {
            Val::Int(number) => Ok(Val::Int(*number)),
            Val::Uint(number) => i64::try_from(*number).map(Val::Int).map_err(|_| EvalError::IntOverflow),
            Val::Double(number) if *number > -9.223_372_036_854_776e18 && *number < 9.223_372_036_854_776e18 => {
                Ok(Val::Int(*number as i64))
            }
            Val::Double(_) => Err(EvalError::IntOverflow),
            Val::String(text) => text.as_str().parse().map(Val::Int).or_else(|_| wrong("string", "int")),
            Val::Duration(nanos) => Ok(Val::Int(*nanos)),
            Val::Timestamp(seconds, _) => Ok(Val::Int(*seconds)),
            _ => Err(unfit(call, values)),
        },
        "uint" => |_, call, values| match &values[0] {
            Val::Uint(number) => Ok(Val::Uint(*number)),
            Val::Int(number) => u64::try_from(*number).map(Val::Uint).map_err(|_| EvalError::UintOverflow),
            Val::Double(number) if *number >= 0.0 && *number < 18_446_744_073_709_551_616.0 => Ok(Val::Uint(*number as u64)),
            Val::Double(_) => Err(EvalError::UintOverflow),
            Val::String(text) => constants::uint(text.as_str())
                .map(Val::Uint)
                .map_or_else(|| wrong("string", "uint"), Ok),
            _ => Err(unfit(call, values)),
        },
        "duration" => |_, call, values| match &values[0] {
            Val::Duration(nanos) => Ok(Val::Duration(*nanos)),
            Val::Int(_) => wrong("int", "google.protobuf.Duration"),
            Val::String(text) => parse_duration(text.as_str())
                .map(Val::Duration)
                .or_else(|_| wrong("string", "google.protobuf.Duration")),
            _ => Err(unfit(call, values)),
        },
        "timestamp" => |_, call, values| match &values[0] {
            Val::Timestamp(seconds, nanos) => Ok(Val::Timestamp(*seconds, *nanos)),
            Val::Int(seconds) => time::at(*seconds),
            Val::String(text) => time::parse(text.as_str()),
            _ => Err(unfit(call, values)),
        },
        "string" => |_, call, values| string(&values[0]).unwrap_or_else(|| Err(unfit(call, values))),
        _ => return None,
    })
}

fn wrong<T>(from: &str, to: &'static str) -> Evaluated<T> {
    Err(EvalError::Conversion { from: from.into(), to })
}

/// A value as text, if it can be.
pub(super) fn string<'a>(value: &Val<'a>) -> Option<Evaluated<Val<'a>>> {
    Some(Ok(match value {
        Val::String(text) => Val::String(text.clone()),
        Val::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Val::String(Text::Made(text.into())),
            Err(_) => return Some(Err(EvalError::Utf8)),
        },
        Val::Bool(_)
        | Val::Int(_)
        | Val::Uint(_)
        | Val::Double(_)
        | Val::Timestamp(..)
        | Val::Ip(_)
        | Val::Cidr(_)
        | Val::Type(_) => Val::made(&show::plain(value)),
        Val::Duration(nanos) => Val::made(&time::span(*nanos)),
        _ => return None,
    }))
}
