//! Reads the committed form of the field table.
//!
//! Grammar, by lines, cells divided by tabs:
//! - `#…`: ignored.
//! - `@package alias group version`: what follows is in this package; `-` is the core group.
//! - `Name [!]`: a struct; `!` when server-side apply replaces it as a whole.
//! - `TAB < tag Ref`: an inlined struct that is a nested message on the wire.
//! - `TAB json tag flags type extras…`: a field. Flags: p pointer, e omitempty, z omitzero, o optional. Extras: `g=` Go
//!   type where it does not follow from the type, `l=` list type, `k=` keys, `m=` merge key, `s=` strategy, `d=` default.
//! - A type is `[]`, `{}` and then a letter or a struct's name, with `alias.` before it when of another package.
//!
//! Invariant: a malformed table panics: it is our own file, and a test reads all of it.

use std::collections::HashMap;

use super::{Embed, FIELDS_MAX, Field, ListType, Part, Strategy, Struct, StructRef, Table, Type, slot};

struct Raw {
    name: &'static str,
    package: &'static str,
    alias: &'static str,
    atomic: bool,
    lines: Vec<&'static str>,
}

pub(super) fn parse(text: &'static str) -> Table {
    let (raws, groups) = split(text);
    let index: HashMap<(&str, &str), u16> = raws
        .iter()
        .zip(0u16..)
        .map(|(raw, number)| ((raw.alias, raw.name), number))
        .collect();
    let mut structs: Vec<Struct> = Vec::with_capacity(raws.len());
    // Own fields first; embeds are flattened afterwards, when all structs are known.
    let mut own: Vec<(Vec<Item>, &Raw)> = Vec::with_capacity(raws.len());
    for raw in &raws {
        own.push((raw.lines.iter().map(|line| item(line, raw, &index)).collect(), raw));
    }
    for number in 0..own.len() {
        let raw = own[number].1;
        let mut fields = Vec::new();
        let mut embeds = Vec::new();
        flatten(&own, number, false, &mut fields, &mut embeds);
        let slots = slots(&fields);
        let those = |of: fn(&Field) -> bool| -> &'static [u16] {
            let indices = (0u16..).zip(&fields).filter(|(_, field)| of(field));
            Vec::leak(indices.map(|(index, _)| index).collect())
        };
        let (always, defaulted) = (those(Field::always_written), those(|field| field.default.is_some()));
        let mut wire: Vec<(u32, Part)> = (0u16..)
            .zip(&fields)
            .filter(|(_, field)| !field.embedded && field.tag != 0)
            .map(|(index, field)| (field.tag, Part::Field(index)))
            .chain((0u16..).zip(&embeds).map(|(index, embed)| (embed.tag, Part::Embed(index))))
            .collect();
        wire.sort_by_key(|(tag, _)| *tag);
        structs.push(Struct {
            wire: Vec::leak(wire.into_iter().map(|(_, part)| part).collect()),
            name: raw.name,
            package: raw.package,
            fields: Vec::leak(fields),
            embeds: Vec::leak(embeds),
            atomic: raw.atomic,
            slots: Vec::leak(slots),
            always,
            defaulted,
        });
    }
    let mut kinds = HashMap::new();
    let mut names = HashMap::new();
    for (number, ty) in (0u16..).zip(&structs) {
        names.insert((ty.package, ty.name), number);
        if ty.is_kind() || ty.name == "WatchEvent" {
            let (group, version) = groups[ty.package];
            kinds.insert((group, version, ty.name), number);
        }
    }
    Table { structs, kinds, names }
}

/// The slots of fields by their names, half of them empty.
fn slots(fields: &[Field]) -> Vec<u16> {
    assert!(fields.len() <= FIELDS_MAX, "a struct has few fields");
    let mut slots = vec![u16::MAX; (fields.len() * 2).next_power_of_two().max(2)];
    for (index, field) in (0u16..).zip(fields) {
        let mut at = slot(field.json, slots.len());
        while slots[at] != u16::MAX {
            at = (at + 1) & (slots.len() - 1);
        }
        slots[at] = index;
    }
    slots
}

type Groups = HashMap<&'static str, (&'static str, &'static str)>;

fn split(text: &'static str) -> (Vec<Raw>, Groups) {
    let mut raws: Vec<Raw> = Vec::new();
    let mut groups = Groups::new();
    let (mut package, mut alias) = ("", "");
    for line in text.lines() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(head) = line.strip_prefix('@') {
            let cells: Vec<&'static str> = head.split('\t').collect();
            let [a, b, group, version] = cells[..] else {
                panic!("malformed package line: {line}")
            };
            (package, alias) = (a, b);
            groups.insert(package, (if group == "-" { "" } else { group }, version));
        } else if let Some(field) = line.strip_prefix('\t') {
            raws.last_mut().expect("a field stands in a struct").lines.push(field);
        } else {
            let (name, mark) = line.split_once('\t').unwrap_or((line, ""));
            raws.push(Raw {
                name,
                package,
                alias,
                atomic: mark == "!",
                lines: Vec::new(),
            });
        }
    }
    (raws, groups)
}

enum Item {
    Field(Field),
    Embed(u32, StructRef),
}

fn flatten(own: &[(Vec<Item>, &Raw)], number: usize, embedded: bool, fields: &mut Vec<Field>, embeds: &mut Vec<Embed>) {
    for item in &own[number].0 {
        match item {
            Item::Field(field) => fields.push(Field { embedded, ..*field }),
            Item::Embed(tag, ty) => {
                if !embedded {
                    embeds.push(Embed { tag: *tag, ty: *ty });
                }
                flatten(own, usize::from(ty.0), true, fields, embeds);
            }
        }
    }
}

fn item(line: &'static str, raw: &Raw, index: &HashMap<(&str, &str), u16>) -> Item {
    let cells: Vec<&'static str> = line.split('\t').collect();
    if let ["<", tag, name] = cells[..] {
        let Type::Struct(ty) = type_of(name, raw, index) else {
            panic!("{line} does not name a struct")
        };
        return Item::Embed(number(tag), ty);
    }
    let [json, tag, flags, ty, extras @ ..] = &cells[..] else {
        panic!("malformed field line: {line}")
    };
    let mut field = Field {
        json,
        tag: number(tag),
        ty: type_of(ty, raw, index),
        go_type: "",
        pointer: flags.contains('p'),
        omitempty: flags.contains('e'),
        omitzero: flags.contains('z'),
        optional: flags.contains('o'),
        list_type: None,
        map_keys: &[],
        merge_key: None,
        strategy: None,
        default: None,
        embedded: false,
    };
    for extra in extras {
        let (letter, value) = extra.split_once('=').expect("an extra is letter=value");
        match (letter, value) {
            ("g", text) => field.go_type = text,
            ("l", "atomic") => field.list_type = Some(ListType::Atomic),
            ("l", "granular") => field.list_type = Some(ListType::Granular),
            ("l", "set") => field.list_type = Some(ListType::Set),
            ("l", "map") => field.list_type = Some(ListType::Map),
            ("k", keys) => field.map_keys = Vec::leak(keys.split(',').collect()),
            ("m", key) => field.merge_key = Some(key),
            ("s", "merge") => field.strategy = Some(Strategy::Merge),
            ("s", "retainKeys") => field.strategy = Some(Strategy::RetainKeys),
            ("s", "merge,retainKeys") => field.strategy = Some(Strategy::MergeRetainKeys),
            ("s", "replace") => field.strategy = Some(Strategy::Replace),
            ("d", text) => field.default = Some(text),
            _ => panic!("unknown extra in: {line}"),
        }
    }
    if field.go_type.is_empty() {
        field.go_type = go_type(ty, raw.package);
    }
    Item::Field(field)
}

fn number(text: &str) -> u32 {
    text.parse().expect("a tag is a number")
}

fn type_of(text: &'static str, raw: &Raw, index: &HashMap<(&str, &str), u16>) -> Type {
    if let Some(rest) = text.strip_prefix("[]") {
        return Type::List(leak(type_of(rest, raw, index)));
    }
    if let Some(rest) = text.strip_prefix("{}") {
        return Type::Map(leak(type_of(rest, raw, index)));
    }
    match text {
        "s" => Type::String,
        "b" => Type::Bool,
        "i" => Type::Int32,
        "l" => Type::Int64,
        "d" => Type::Double,
        "y" => Type::Bytes,
        "Q" => Type::Quantity,
        "I" => Type::IntOrString,
        "T" => Type::Time,
        "M" => Type::MicroTime,
        "D" => Type::Duration,
        "R" => Type::RawExtension,
        "J" => Type::Json,
        "Jb" => Type::SchemaOrBool,
        "Ja" => Type::SchemaOrArray,
        "Js" => Type::SchemaOrStrings,
        "F" => Type::FieldsV1,
        "X" => Type::StringItems,
        name => {
            let key = name.rsplit_once('.').unwrap_or((raw.alias, name));
            let found = index
                .get(&key)
                .unwrap_or_else(|| panic!("{} in {} is not in the table", name, raw.name));
            Type::Struct(StructRef(*found))
        }
    }
}

/// Scalars share one static; only types of structs are leaked, once per use.
fn leak(ty: Type) -> &'static Type {
    match ty {
        Type::String => &Type::String,
        Type::Quantity => &Type::Quantity,
        Type::Int32 => &Type::Int32,
        Type::Bytes => &Type::Bytes,
        other => Box::leak(Box::new(other)),
    }
}

fn go_type(text: &'static str, package: &'static str) -> &'static str {
    if let Some(plain) = plain(text) {
        return plain;
    }
    String::leak(go_text(text, package))
}

fn plain(text: &str) -> Option<&'static str> {
    Some(match text {
        "s" => "string",
        "b" => "bool",
        "i" => "int32",
        "l" => "int64",
        "d" => "float64",
        "y" => "[]uint8",
        "T" => "v1.Time",
        "M" => "v1.MicroTime",
        "D" => "v1.Duration",
        "F" => "v1.FieldsV1",
        "R" => "runtime.RawExtension",
        "I" => "intstr.IntOrString",
        "Q" => "resource.Quantity",
        "J" => "v1.JSON",
        "Jb" => "v1.JSONSchemaPropsOrBool",
        "Ja" => "v1.JSONSchemaPropsOrArray",
        "Js" => "v1.JSONSchemaPropsOrStringArray",
        "X" => "v1.ExtraValue",
        "[]s" => "[]string",
        "{}s" => "map[string]string",
        _ => return None,
    })
}

fn go_text(text: &str, package: &str) -> String {
    if let Some(rest) = text.strip_prefix("[]") {
        return format!("[]{}", go_text(rest, package));
    }
    if let Some(rest) = text.strip_prefix("{}") {
        return format!("map[string]{}", go_text(rest, package));
    }
    if let Some(plain) = plain(text) {
        return plain.to_owned();
    }
    let (home, name) = text.rsplit_once('.').unwrap_or((package, text));
    format!("{}.{name}", home.rsplit('/').next().unwrap_or_default())
}
