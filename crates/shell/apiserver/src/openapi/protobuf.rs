//! The second version in protobuf: the `Document` of gnostic's `openapi.v2`, as client-go's discovery asks for it.
//!
//! Invariant: every member of the JSON document is in the message, either under its own number or, where its name starts
//! with `x-`, among the extensions; names that are in no table are left out. It writes only what our documents have.

use serde_json::Value;

/// How a JSON value is written.
enum Shape {
    Text,
    Flag,
    Whole,
    /// As text: gnostic's `Any` holds YAML, of which JSON is a part.
    Free,
    /// Members by name, then the number of the extensions, 0 where there are none.
    Message(&'static [(&'static str, u32, &'static Shape)], u32),
    /// An array, one field for each.
    Each(&'static Shape),
    /// A message with nothing but a repeated field (or one) of that number.
    Holder(u32, &'static Shape),
    /// A message with entries `{name = 1, value = 2}` in fields of the first number, for the members of an object; those that
    /// start with `x-` have the second number and are free.
    Entries(u32, u32, &'static Shape),
    /// One of several: messages of one field each, one within another, and what stands in the innermost.
    Chosen(fn(&Value) -> (&'static [u32], &'static Shape)),
}

use Shape::{Chosen, Each, Entries, Flag, Free, Holder, Message, Text, Whole};

static TEXTS: Shape = Each(&Text);
static FREES: Shape = Each(&Free);

static DOCUMENT: Shape = Message(
    &[
        ("swagger", 1, &Text),
        ("info", 2, &INFO),
        ("host", 3, &Text),
        ("basePath", 4, &Text),
        ("schemes", 5, &TEXTS),
        ("consumes", 6, &TEXTS),
        ("produces", 7, &TEXTS),
        ("paths", 8, &PATHS),
        ("definitions", 9, &SCHEMAS),
        ("security", 12, &SECURITY),
        ("securityDefinitions", 13, &SECURITY_DEFINITIONS),
    ],
    16,
);
static INFO: Shape = Message(&[("title", 1, &Text), ("version", 2, &Text), ("description", 3, &Text)], 7);
static PATHS: Shape = Entries(2, 1, &PATH_ITEM);
static PATH_ITEM: Shape = Message(
    &[
        ("get", 2, &OPERATION),
        ("put", 3, &OPERATION),
        ("post", 4, &OPERATION),
        ("delete", 5, &OPERATION),
        ("options", 6, &OPERATION),
        ("head", 7, &OPERATION),
        ("patch", 8, &OPERATION),
        ("parameters", 9, &PARAMETERS),
    ],
    10,
);
static OPERATION: Shape = Message(
    &[
        ("tags", 1, &TEXTS),
        ("summary", 2, &Text),
        ("description", 3, &Text),
        ("operationId", 5, &Text),
        ("produces", 6, &TEXTS),
        ("consumes", 7, &TEXTS),
        ("parameters", 8, &PARAMETERS),
        ("responses", 9, &RESPONSES),
        ("schemes", 10, &TEXTS),
        ("deprecated", 11, &Flag),
        ("security", 12, &SECURITY),
    ],
    13,
);
static PARAMETERS: Shape = Each(&Chosen(|parameter| match parameter["in"].as_str() {
    Some("body") => (&[1, 1], &BODY),
    Some("path") => (&[1, 2, 4], &PLACED),
    Some("header") => (&[1, 2, 1], &PLACED),
    Some(_) => (&[1, 2, 3], &QUERY),
    None => (&[2], &REFERENCE),
}));
static REFERENCE: Shape = Message(&[("$ref", 1, &Text), ("description", 2, &Text)], 0);
static BODY: Shape = Message(
    &[
        ("description", 1, &Text),
        ("name", 2, &Text),
        ("in", 3, &Text),
        ("required", 4, &Flag),
        ("schema", 5, &SCHEMA),
    ],
    6,
);
/// Parameters in paths and headers.
static PLACED: Shape = Message(
    &[
        ("required", 1, &Flag),
        ("in", 2, &Text),
        ("description", 3, &Text),
        ("name", 4, &Text),
        ("type", 5, &Text),
        ("format", 6, &Text),
        ("uniqueItems", 19, &Flag),
    ],
    22,
);
static QUERY: Shape = Message(
    &[
        ("required", 1, &Flag),
        ("in", 2, &Text),
        ("description", 3, &Text),
        ("name", 4, &Text),
        ("type", 6, &Text),
        ("format", 7, &Text),
        ("uniqueItems", 20, &Flag),
    ],
    23,
);
static RESPONSES: Shape = Entries(
    1,
    2,
    &Chosen(|response| match response.get("$ref") {
        Some(_) => (&[2], &REFERENCE),
        None => (&[1], &RESPONSE),
    }),
);
static RESPONSE: Shape = Message(&[("description", 1, &Text), ("schema", 2, &Holder(1, &SCHEMA))], 5);
/// `Definitions` and `Properties`.
static SCHEMAS: Shape = Entries(1, 0, &SCHEMA);
static SCHEMA: Shape = Message(
    &[
        ("$ref", 1, &Text),
        ("format", 2, &Text),
        ("title", 3, &Text),
        ("description", 4, &Text),
        ("default", 5, &Free),
        ("maxLength", 11, &Whole),
        ("minLength", 12, &Whole),
        ("pattern", 13, &Text),
        ("maxItems", 14, &Whole),
        ("minItems", 15, &Whole),
        ("uniqueItems", 16, &Flag),
        ("maxProperties", 17, &Whole),
        ("minProperties", 18, &Whole),
        ("required", 19, &TEXTS),
        ("enum", 20, &FREES),
        (
            "additionalProperties",
            21,
            &Chosen(|value| match value {
                Value::Bool(_) => (&[], &Holder(2, &Flag)),
                _ => (&[1], &SCHEMA),
            }),
        ),
        ("type", 22, &Holder(1, &Text)),
        ("items", 23, &Holder(1, &SCHEMA)),
        ("allOf", 24, &Each(&SCHEMA)),
        ("properties", 25, &SCHEMAS),
        ("readOnly", 27, &Flag),
        ("example", 30, &Free),
    ],
    31,
);
static SECURITY: Shape = Each(&Entries(1, 0, &Holder(1, &Text)));
static SECURITY_DEFINITIONS: Shape = Entries(1, 0, &Chosen(|_| (&[2], &API_KEY)));
static API_KEY: Shape = Message(
    &[
        ("type", 1, &Text),
        ("name", 2, &Text),
        ("in", 3, &Text),
        ("description", 4, &Text),
    ],
    5,
);

/// A document of the second version as a message.
#[must_use]
pub(super) fn document(document: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    body(&mut out, &DOCUMENT, document);
    out
}

/// Writes a field, or one for each of several; what is zero or empty is left out, as proto3 wants, but for messages.
fn field(out: &mut Vec<u8>, number: u32, shape: &Shape, value: &Value) {
    match shape {
        Each(one) => value
            .as_array()
            .into_iter()
            .flatten()
            .for_each(|value| item(out, number, one, value)),
        Text if value.as_str() == Some("") => {}
        Flag | Whole if matches!(value, Value::Bool(false)) || value.as_i64() == Some(0) => {}
        _ => item(out, number, shape, value),
    }
}

fn item(out: &mut Vec<u8>, number: u32, shape: &Shape, value: &Value) {
    match shape {
        Text => bytes(out, number, value.as_str().unwrap_or_default().as_bytes()),
        Flag => integer(out, number, value.as_bool().unwrap_or_default().into()),
        // Two's complement, as int64 goes over the wire.
        Whole => integer(out, number, value.as_i64().unwrap_or_default().cast_unsigned()),
        _ => {
            let mut inner = Vec::new();
            body(&mut inner, shape, value);
            bytes(out, number, &inner);
        }
    }
}

/// Writes what stands within a message.
fn body(out: &mut Vec<u8>, shape: &Shape, value: &Value) {
    match shape {
        Text | Flag | Whole | Each(_) => unreachable!("the tables have these as fields only"),
        Free => bytes(out, 2, format!("{value}\n").as_bytes()),
        Message(members, extensions) => {
            for (name, number, shape) in *members {
                if let Some(value) = value.get(name) {
                    field(out, *number, shape, value);
                }
            }
            extend(out, *extensions, value);
        }
        Holder(number, shape) => match value {
            Value::Array(several) => several.iter().for_each(|value| item(out, *number, shape, value)),
            one => item(out, *number, shape, one),
        },
        Entries(number, extensions, shape) => {
            let members = value.as_object().into_iter().flatten();
            for (name, value) in members.filter(|(name, _)| *extensions == 0 || !name.starts_with("x-")) {
                entry(out, *number, name, shape, value);
            }
            extend(out, *extensions, value);
        }
        Chosen(choose) => {
            let (within, shape) = choose(value);
            let mut inner = Vec::new();
            body(&mut inner, shape, value);
            for number in within.iter().rev() {
                let mut outer = Vec::new();
                bytes(&mut outer, *number, &inner);
                inner = outer;
            }
            out.append(&mut inner);
        }
    }
}

fn extend(out: &mut Vec<u8>, number: u32, value: &Value) {
    let members = value.as_object().into_iter().flatten();
    for (name, value) in members.filter(|(name, _)| number != 0 && name.starts_with("x-")) {
        entry(out, number, name, &Free, value);
    }
}

fn entry(out: &mut Vec<u8>, number: u32, name: &str, shape: &Shape, value: &Value) {
    let mut inner = Vec::new();
    bytes(&mut inner, 1, name.as_bytes());
    item(&mut inner, 2, shape, value);
    bytes(out, number, &inner);
}

fn bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    varint(out, u64::from(number) << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn integer(out: &mut Vec<u8>, number: u32, value: u64) {
    varint(out, u64::from(number) << 3);
    varint(out, value);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    /// A message as it is on the wire: bytes by number, numbers as their varints.
    #[derive(Default)]
    struct Wire<'a>(BTreeMap<u64, Vec<(u64, &'a [u8])>>);

    fn read_varint(bytes: &mut &[u8]) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let (first, rest) = bytes.split_first().expect("a varint has an end");
            *bytes = rest;
            value |= u64::from(first & 0x7f) << shift;
            shift += 7;
            if first & 0x80 == 0 {
                return value;
            }
        }
    }

    impl<'a> Wire<'a> {
        fn parse(mut bytes: &'a [u8]) -> Self {
            let mut message = Self::default();
            while !bytes.is_empty() {
                let key = read_varint(&mut bytes);
                let number = read_varint(&mut bytes);
                let content = match key & 7 {
                    0 => &[][..],
                    2 => {
                        let (content, rest) = bytes.split_at(usize::try_from(number).unwrap());
                        bytes = rest;
                        content
                    }
                    other => panic!("wire type {other} is not written"),
                };
                message.0.entry(key >> 3).or_default().push((number, content));
            }
            message
        }

        fn all(&self, number: u64) -> Vec<&'a [u8]> {
            let fields = self.0.get(&number).into_iter().flatten();
            fields.map(|(_, bytes)| *bytes).collect()
        }

        fn at(&self, path: &[u64]) -> Self {
            match path {
                [] => Self(self.0.clone()),
                [first, rest @ ..] => Self::parse(self.all(*first)[0]).at(rest),
            }
        }

        fn text(&self, number: u64) -> String {
            let bytes = self.all(number).first().copied().unwrap_or_default();
            String::from_utf8(bytes.to_vec()).unwrap()
        }

        /// The values of the entries in the fields of a number, by name.
        fn entries(&self, number: u64) -> BTreeMap<String, Self> {
            let entries = self.all(number).into_iter().map(Self::parse);
            entries.map(|entry| (entry.text(1), entry.at(&[2]))).collect()
        }
    }

    /// What a schema message says, in JSON.
    fn schema(message: &Wire<'_>) -> Value {
        let mut value = json!({});
        let mut say = |name: &str, what: Value| value[name] = what;
        for (number, name) in [(1, "$ref"), (2, "format"), (3, "title"), (4, "description"), (13, "pattern")] {
            if message.0.contains_key(&number) {
                say(name, message.text(number).into());
            }
        }
        if message.0.contains_key(&19) {
            let names = message
                .all(19)
                .into_iter()
                .map(|bytes| String::from_utf8(bytes.to_vec()).unwrap());
            say("required", names.collect());
        }
        if message.0.contains_key(&21) {
            say("additionalProperties", schema(&message.at(&[21, 1])));
        }
        if message.0.contains_key(&22) {
            say("type", message.at(&[22]).text(1).into());
        }
        if message.0.contains_key(&23) {
            say("items", schema(&message.at(&[23, 1])));
        }
        if message.0.contains_key(&25) {
            let properties = message.at(&[25]).entries(1);
            say(
                "properties",
                properties.iter().map(|(name, own)| (name.clone(), schema(own))).collect(),
            );
        }
        for (name, free) in message.entries(31) {
            say(&name, serde_json::from_str(&free.text(2)).unwrap());
        }
        value
    }

    #[test]
    fn the_whole_document_comes_back() {
        let json = super::super::swagger::document(&trireme_resources::custom::Registry::default());
        let encoded = document(&json);
        let message = Wire::parse(&encoded);
        assert_eq!(message.text(1), "2.0");
        assert_eq!(message.at(&[2]).text(1), "Kubernetes");

        let definitions = message.at(&[9]).entries(1);
        assert_eq!(definitions.len(), json["definitions"].as_object().unwrap().len());
        for (name, definition) in &definitions {
            assert_eq!(schema(definition), json["definitions"][name], "{name}");
        }

        let paths = message.at(&[8]).entries(2);
        assert_eq!(paths.len(), json["paths"].as_object().unwrap().len());
        let patch = paths["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"].at(&[8]);
        assert_eq!(patch.text(5), "patchAppsV1NamespacedDeployment");
        assert_eq!(
            patch.at(&[9]).entries(1)["200"].at(&[1, 2, 1]).text(1),
            "#/definitions/io.k8s.api.apps.v1.Deployment"
        );
        let kind: Value = serde_json::from_str(&patch.entries(13)["x-kubernetes-group-version-kind"].text(2)).unwrap();
        assert_eq!(kind, json!({"group": "apps", "version": "v1", "kind": "Deployment"}));
        let parameters: Vec<Wire<'_>> = patch.all(8).into_iter().map(Wire::parse).collect();
        assert_eq!(parameters[0].at(&[1, 1]).text(3), "body");
        assert!(parameters[1..].iter().any(|own| own.at(&[1, 2, 3]).text(4) == "dryRun"));
        let key = message.at(&[13]).entries(1)["BearerToken"].at(&[2]);
        assert_eq!(key.text(1), "apiKey");
        assert!(message.at(&[12]).entries(1).contains_key("BearerToken"));
    }

    #[test]
    fn scalars_and_choices_are_written_as_they_should() {
        for (value, wanted) in [
            (json!({"maxLength": 300}), &[0x58, 0xac, 0x02][..]),
            (json!({"uniqueItems": true}), &[0x80, 0x01, 0x01]),
            (json!({"uniqueItems": false, "format": "", "minItems": 0}), &[]),
            (json!({"default": 1}), &[0x2a, 0x04, 0x12, 0x02, b'1', b'\n']),
            (json!({"additionalProperties": true}), &[0xaa, 0x01, 0x02, 0x10, 0x01]),
            (
                json!({"additionalProperties": {"format": "a"}}),
                &[0xaa, 0x01, 0x05, 0x0a, 0x03, 0x12, 0x01, b'a'],
            ),
            (json!({"type": ["a"]}), &[0xb2, 0x01, 0x03, 0x0a, 0x01, b'a']),
            (json!({"unknown": 1}), &[]),
        ] {
            let mut out = Vec::new();
            body(&mut out, &SCHEMA, &value);
            assert_eq!(out, wanted, "{value}");
        }
    }
}
