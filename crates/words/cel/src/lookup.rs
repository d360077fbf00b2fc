//! What names outside of an expression mean: variables, types and their fields, functions.

use std::collections::HashSet;
use std::sync::LazyLock;

use crate::declare::{Environment, Fields, Functions, Overload, read_type};
use crate::library;
use crate::types::Type;

/// Name, type, and names and types of the fields.
type Message = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

/// Types of protocol buffers that cel-go knows, with their fields.
const MESSAGES: &[Message] = &[
    ("Any", "any", &[("type_url", "string"), ("value", "bytes")]),
    ("BoolValue", "bool", &[("value", "bool")]),
    ("BytesValue", "bytes", &[("value", "bytes")]),
    ("DoubleValue", "double", &[("value", "double")]),
    ("Duration", "duration", &[("seconds", "int"), ("nanos", "int")]),
    ("Empty", "google.protobuf.Empty", &[]),
    ("FloatValue", "double", &[("value", "double")]),
    ("Int32Value", "int", &[("value", "int")]),
    ("Int64Value", "int", &[("value", "int")]),
    ("ListValue", "list(dyn)", &[("values", "list(dyn)")]),
    ("StringValue", "string", &[("value", "string")]),
    ("Struct", "map(string, dyn)", &[("fields", "map(string, dyn)")]),
    ("Timestamp", "timestamp", &[("seconds", "int"), ("nanos", "int")]),
    ("UInt32Value", "uint", &[("value", "uint")]),
    ("UInt64Value", "uint", &[("value", "uint")]),
    (
        "Value",
        "dyn",
        &[
            ("null_value", "int"),
            ("number_value", "double"),
            ("string_value", "string"),
            ("bool_value", "bool"),
            ("struct_value", "map(string, dyn)"),
            ("list_value", "list(dyn)"),
        ],
    ),
];
const PROTOBUF: &str = "google.protobuf.";

/// What `name` means where no loop has a variable of that name.
pub(crate) fn ident(environment: &Environment, name: &str) -> Option<Type> {
    if let Some(found) = environment.variables.get(name) {
        return Some(found.clone());
    }
    let named = match name {
        "list" => read_type("list(A)"),
        "map" => read_type("map(A, B)"),
        "type" => return Some(Type::of(Type::Of(None))),
        "null_type" => Some(Type::Null),
        "net.IP" | "net.CIDR" => read_type(name),
        "optional_type" => Some(Type::Opaque(name.into(), [].into())),
        "google.protobuf.NullValue" | "google.protobuf.NullValue.NULL_VALUE" => return Some(Type::Int),
        _ => return struct_type(environment, name).map(Type::of),
    };
    named.map(Type::of)
}

/// Whether names of variables or types may begin with `word` and a dot.
pub(crate) fn begins_name(environment: &Environment, word: &str) -> bool {
    matches!(word, "google" | "net") || (environment.patches && word == "Object") || environment.prefixes.contains(word)
}

/// Whether names of functions may begin with `word` and a dot, or with names that do.
pub(crate) fn begins_function(environment: &Environment, word: &str) -> bool {
    static BEGINNINGS: LazyLock<HashSet<&str>> = LazyLock::new(|| beginnings(&library::BASE).collect());
    BEGINNINGS.contains(word) || beginnings(&environment.functions).any(|beginning| beginning == word)
}

fn beginnings(of: &Functions) -> impl Iterator<Item = &'static str> {
    of.keys().filter_map(|name| Some(name.split_once('.')?.0))
}

/// Whether a type can be had as a value by this name when a program runs.
pub(crate) fn is_type_value(name: &str) -> bool {
    const VALUES: &[&str] = &[
        "bool",
        "bytes",
        "double",
        "int",
        "list",
        "map",
        "net.CIDR",
        "net.IP",
        "null_type",
        "optional_type",
        "string",
        "type",
        "uint",
    ];
    VALUES.contains(&name) || message(name).is_some()
}

/// The type with fields that `name` is.
pub(crate) fn struct_type(environment: &Environment, name: &str) -> Option<Type> {
    if environment.patches && (name == "JSONPatch" || name == "Object" || name.starts_with("Object.")) {
        return Some(Type::Struct(name.into()));
    }
    match environment.structs.get(name) {
        Some(Fields::Known(_)) => return Some(Type::Struct(name.into())),
        Some(Fields::Alias(is)) => return Some(is.clone()),
        None => {}
    }
    match name {
        "bool" | "bytes" | "double" | "duration" | "int" | "string" | "timestamp" | "uint" => read_type(name),
        _ => message(name).and_then(|(_, is, _)| read_type(is)),
    }
}

fn message(name: &str) -> Option<&'static Message> {
    let name = name.strip_prefix(PROTOBUF)?;
    MESSAGES.iter().find(|(known, ..)| *known == name)
}

/// The name under which fields of a value of type `is`, made as `name`, are looked up; none if it has no fields.
pub(crate) fn message_name(name: &str, is: &Type) -> Option<Box<str>> {
    let known = match is {
        Type::Struct(name) => return Some((&**name).into()),
        Type::Any => "Any",
        Type::Duration => "Duration",
        Type::Timestamp => "Timestamp",
        Type::Null => "NullValue",
        Type::Dyn => "Value",
        _ => return message(name).map(|_| name.into()),
    };
    Some(format!("{PROTOBUF}{known}").into())
}

/// The type of a field.
pub(crate) fn field(environment: &Environment, of: &str, name: &str) -> Option<Type> {
    if environment.patches && of == "JSONPatch" {
        return Some(match name {
            "op" | "path" | "from" => Type::String,
            "value" => Type::Dyn,
            _ => Type::Unspecified,
        });
    }
    if environment.patches && (of == "Object" || of.starts_with("Object.")) {
        return Some(Type::Dyn);
    }
    match environment.structs.get(of) {
        Some(Fields::Known(fields)) => fields.get(name).cloned(),
        Some(Fields::Alias(_)) => None,
        None => {
            let (_, _, fields) = message(of)?;
            let (_, is) = fields.iter().find(|(field, _)| *field == name)?;
            read_type(is)
        }
    }
}

/// The overloads of a function.
pub(crate) fn functions<'a>(environment: &'a Environment, name: &str) -> Option<&'a [Overload]> {
    let found = environment.functions.get(name).or_else(|| library::BASE.get(name));
    found.map(Vec::as_slice)
}
