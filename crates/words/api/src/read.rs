//! Compact JSON text to values, as serde_json reads it, for texts whose members stand in order: those of stored objects.
//!
//! Invariant: what comes out is what serde_json's own reading gives. A large object is built at once from what was read of it,
//! not member by member: its nodes are full then, and no place in it is sought.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// So many members are put in one by one: most objects have fewer.
const FEW: usize = 8;

/// Reads a value.
///
/// # Errors
/// When the text is no JSON.
pub(crate) fn value(bytes: &[u8]) -> serde_json::Result<Value> {
    let read: serde_json::Result<Read> = match std::str::from_utf8(bytes) {
        // One look at all of it costs less than one at each text in it.
        Ok(text) => serde_json::from_str(text),
        Err(_) => serde_json::from_slice(bytes),
    };
    read.map(|Read(value)| value)
}

struct Read(Value);

impl<'de> Deserialize<'de> for Read {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader).map(Self)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any valid JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut read = Vec::new();
        while let Some(Read(item)) = items.next_element()? {
            read.push(item);
        }
        Ok(Value::Array(read))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        for _ in 0..FEW {
            match members.next_entry::<String, Read>()? {
                Some((name, Read(member))) => object.insert(name, member),
                None => return Ok(Value::Object(object)),
            };
        }
        let mut read: Vec<(String, Value)> = Vec::new();
        while let Some((name, Read(member))) = members.next_entry()? {
            read.push((name, member));
        }
        object.append(&mut read.into_iter().collect());
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_what_serde_json_reads() {
        let many: Map<String, Value> = (0..100).map(|number| (format!("m{number}"), number.into())).collect();
        let many = Value::Object(many).to_string();
        let texts = [
            "null",
            "[]",
            "{}",
            r#"[1,-2,18446744073709551615,-2.5,1e300,true,"a\"\u0001\ud83d\ude00"]"#,
            r#"{"b":[[],{},{"x":[null,{"y":""}]}],"":0}"#,
            // Neither in order nor each once.
            r#"{"j":1,"i":2,"h":3,"g":4,"f":5,"e":6,"d":7,"c":8,"b":9,"a":10,"j":11,"b":12}"#,
            many.as_str(),
        ];
        for text in texts {
            let wanted: Value = serde_json::from_str(text).unwrap();
            assert_eq!(value(text.as_bytes()).unwrap(), wanted, "{text}");
        }
        for text in ["", "{", r#"{"a":1,}"#, "[1 2]", "1e999", "nul"] {
            assert!(value(text.as_bytes()).is_err(), "{text}");
            assert!(serde_json::from_str::<Value>(text).is_err(), "{text}");
        }
        assert!(value(b"\"\xff\"").is_err());
    }
}
