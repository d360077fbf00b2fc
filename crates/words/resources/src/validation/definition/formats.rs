//! Formats that nobody knows, found in the text of a definition's versions without making values of it.
//!
//! Invariant: what is found is what a [`Survey`](super::members::Survey) of the same schemas finds.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The formats that nobody knows in the list of versions of a stored definition.
///
/// # Errors
/// When the text is no JSON, or a type or format in it no text.
pub(super) fn unknown(versions: &[u8]) -> serde_json::Result<HashSet<String>> {
    let mut found = HashSet::new();
    let text = std::str::from_utf8(versions).map_err(serde::de::Error::custom)?;
    let mut from = serde_json::Deserializer::from_str(text);
    Walk {
        found: &mut found,
        place: Place::Versions,
    }
    .deserialize(&mut from)?;
    from.end()?;
    Ok(found)
}

/// What stands somewhere.
#[derive(Clone, Copy)]
enum Place {
    /// The list of versions, or one of them.
    Versions,
    /// What holds a version's schema.
    Validation,
    /// A schema, or a list of them; else nothing of interest.
    Schema,
    /// Schemas by name.
    Schemas,
}

struct Walk<'f> {
    found: &'f mut HashSet<String>,
    place: Place,
}

impl Walk<'_> {
    fn at(&mut self, place: Place) -> Walk<'_> {
        Walk {
            found: self.found,
            place,
        }
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("part of a definition")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        let place = self.place;
        while items.next_element_seed(self.at(place))?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<(), A::Error> {
        if matches!(self.place, Place::Schemas) {
            while members.next_key::<IgnoredAny>()?.is_some() {
                members.next_value_seed(self.at(Place::Schema))?;
            }
            return Ok(());
        }
        let (mut kind, mut format) = (Text::default(), Text::default());
        while let Some(Text(name)) = members.next_key()? {
            match (self.place, name.as_ref()) {
                (Place::Versions, "schema") => members.next_value_seed(self.at(Place::Validation))?,
                (Place::Validation, "openAPIV3Schema") => members.next_value_seed(self.at(Place::Schema))?,
                (Place::Schema, "type") => kind = members.next_value()?,
                (Place::Schema, "format") => format = members.next_value()?,
                (Place::Schema, "items" | "not" | "additionalProperties" | "additionalItems" | "allOf" | "anyOf" | "oneOf") => {
                    members.next_value_seed(self.at(Place::Schema))?
                }
                (Place::Schema, "properties" | "patternProperties" | "definitions" | "dependencies") => {
                    members.next_value_seed(self.at(Place::Schemas))?;
                }
                _ => drop(members.next_value::<IgnoredAny>()?),
            }
        }
        if trireme_structural::is_unknown_format(&format.0, &kind.0) {
            self.found.insert(format.0.into_owned());
        }
        Ok(())
    }
}

/// A text, borrowed where it has no escapes.
#[derive(Default)]
struct Text<'de>(Cow<'de, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrow;

        impl<'de> Visitor<'de> for Borrow {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Borrow)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::members::Survey;
    use super::*;

    #[test]
    fn formats_are_found_where_a_survey_finds_them() {
        let odd = |name: &str| json!({"type": "string", "format": name});
        let schema = json!({
            "type": "object", "format": "f0", "description": "\"format\":\"no1\"", "default": {"type": "string", "format": "no2"},
            "enum": [{"format": "no3"}], "example": {"properties": {"a": {"format": "no4"}}}, "required": ["format"],
            "properties": {
                "format": {"type": "string", "format": "f1"}, "type": {"type": "object", "properties": {"x\"\u{e9}": odd("f\"2")}},
                "known": {"type": "string", "format": "date-time"}, "whole": {"type": "integer", "format": "date"},
                "items": {"type": "array", "items": odd("f3")}, "list": {"items": [odd("f4"), odd("f5")]},
                "none": {"type": "string", "format": ""}, "any": {"format": "f6"}, "maximum": {"maximum": -1.5, "minimum": 2},
            },
            "additionalProperties": odd("f7"), "additionalItems": odd("f8"), "not": odd("f9"),
            "allOf": [odd("f10")], "anyOf": [{"oneOf": [odd("f11")]}], "patternProperties": {"a": odd("f12")},
            "definitions": {"a": odd("f13")}, "dependencies": {"a": ["format"], "b": odd("f14")},
            "x-kubernetes-validations": [{"rule": "format", "message": "type"}],
        });
        let open = json!({"type": "object", "additionalProperties": true, "format": "f15"});
        let mut survey = Survey::default();
        survey.of(&schema);
        survey.of(&open);
        let wanted: HashSet<String> = survey.formats.into_iter().collect();
        assert_eq!(wanted.len(), 17, "f0 to f15 and date");
        let versions = json!([
            {"name": "v1", "format": "no5", "schema": {"format": "no6", "openAPIV3Schema": schema}},
            {"name": "v2", "properties": {"a": odd("no7")}, "schema": {"openAPIV3Schema": open}},
            {"name": "v3", "schema": null},
        ]);
        let text = |value: &Value| unknown(value.to_string().as_bytes());
        assert_eq!(text(&versions).unwrap(), wanted);
        assert!(text(&json!([{"schema": {"openAPIV3Schema": {"format": 7}}}])).is_err());
        assert!(unknown(b"[").is_err());
    }
}
