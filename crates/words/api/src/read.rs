//! JSON text to values, as serde_json reads it: texts of stored objects, whose members stand in order, and texts of requests that
//! are read without a type.
//!
//! Invariant: of a stored text what comes out is what serde_json's own reading gives; of a request's what its tree of names gives, or
//! nothing where only the tree can tell. A large object is built at once from what was read of it, not member by member: its nodes
//! are full then, and no place in it is sought.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::bulk::Path;
use crate::cost::Ledger;
use crate::decode::{DEPTH_MAX, Want, keeps};
use crate::schema::Struct;

/// So many members are put in one by one: most objects have fewer.
const FEW: usize = 8;

/// Reads a value.
///
/// # Errors
/// When the text is no JSON.
pub(crate) fn value(bytes: &[u8]) -> serde_json::Result<Value> {
    read(bytes, &mut Stored, At::Elsewhere)
}

/// Reads a value that a request sent, if its text says all of it: no name twice in an object, no number but whole ones of 64 bits,
/// no depth beyond [`DEPTH_MAX`], no more values than the ledger grants, and nothing that is no JSON. Nothing is charged
/// otherwise: whoever reads it with care tells what is wrong. Of the bulk of an object of that type it comes back how many values it
/// has, if decoding would leave all of them as they are: each is looked at as soon as it is read.
pub(crate) fn plain(bytes: &[u8], ledger: &mut Ledger, bulk: Option<(Path, &'static Struct)>) -> Option<(Value, Option<usize>)> {
    let mut attempt = Sent {
        ledger: *ledger,
        settled: true,
        values: None,
    };
    let at = bulk.and_then(|(at, ty)| Some(At::Above(at, Want::at(ty, at)?)));
    let value = read(bytes, &mut attempt, at.unwrap_or(At::Elsewhere)).ok()?;
    *ledger = attempt.ledger;
    Some((value, attempt.values.filter(|_| attempt.settled)))
}

fn read(bytes: &[u8], text: &mut impl Text, at: At) -> serde_json::Result<Value> {
    let reader = Reader { text, depth: 0, at };
    match std::str::from_utf8(bytes) {
        // One look at all of it costs less than one at each text in it.
        Ok(text) => whole(reader, &mut serde_json::Deserializer::from_str(text)),
        Err(_) => whole(reader, &mut serde_json::Deserializer::from_slice(bytes)),
    }
}

fn whole<'de, R: serde_json::de::Read<'de>>(
    reader: Reader<'_, impl Text>,
    from: &mut serde_json::Deserializer<R>,
) -> serde_json::Result<Value> {
    let value = reader.deserialize(&mut *from)?;
    from.end()?;
    Ok(value)
}

/// What is taken as it stands in a kind of text.
trait Text {
    /// Whether there may be one more value, so many lists and objects deep.
    fn pays(&mut self, depth: usize) -> bool;
    /// Whether a number that is no whole one of 64 bits, and a name that its object has already, are taken, and nothing is looked at.
    const LENIENT: bool;
    /// How many values there were so far.
    fn values(&self) -> usize;
    /// The bulk, of so many values, was read.
    fn bulk(&mut self, values: usize);
    /// Something in the bulk is not as decoding would leave it.
    fn unsettle(&mut self);
}

/// Where a value stands to the bulk of its object.
#[derive(Clone, Copy)]
enum At {
    /// Beside it, or there is none.
    Elsewhere,
    /// That path leads from here to the bulk, of which that is wanted.
    Above(Path, Want),
    /// In the bulk; of the value that is wanted.
    Within(Want),
}

/// A stored text: it was judged when it was written.
struct Stored;

impl Text for Stored {
    fn pays(&mut self, _: usize) -> bool {
        true
    }

    const LENIENT: bool = true;

    fn values(&self) -> usize {
        0
    }

    fn bulk(&mut self, _: usize) {}

    fn unsettle(&mut self) {}
}

/// A text of a request.
struct Sent {
    /// What it may cost.
    ledger: Ledger,
    /// Whether decoding would leave the bulk as it is, as far as it was read.
    settled: bool,
    /// Values of the bulk, once it was read.
    values: Option<usize>,
}

impl Text for Sent {
    fn pays(&mut self, depth: usize) -> bool {
        depth <= DEPTH_MAX && self.ledger.value().is_ok()
    }

    const LENIENT: bool = false;

    fn values(&self) -> usize {
        self.ledger.made()
    }

    fn bulk(&mut self, values: usize) {
        self.values = Some(values);
    }

    fn unsettle(&mut self) {
        self.settled = false;
    }
}

struct Reader<'t, T> {
    text: &'t mut T,
    /// Lists and objects around this value.
    depth: usize,
    at: At,
}

impl<T: Text> Reader<'_, T> {
    fn inner(&mut self, at: At) -> Reader<'_, T> {
        Reader {
            text: self.text,
            depth: self.depth + 1,
            at,
        }
    }

    /// Where the items of this list stand.
    fn items(&mut self) -> At {
        let At::Within(want) = self.at else {
            return At::Elsewhere;
        };
        want.item().map_or_else(|| self.odd(), At::Within)
    }

    /// Reads the member of that name.
    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, members: &mut A) -> Result<Value, A::Error> {
        if T::LENIENT {
            return members.next_value_seed(self.inner(At::Elsewhere));
        }
        match self.at {
            At::Above(&[first, ref rest @ ..], want) if first == name => {
                if !rest.is_empty() {
                    return members.next_value_seed(self.inner(At::Above(rest, want)));
                }
                let before = self.text.values();
                let bulk = members.next_value_seed(self.inner(At::Within(want)))?;
                self.text.bulk(self.text.values() - before);
                Ok(bulk)
            }
            At::Within(want) => {
                let (at, field) = match want.member(name) {
                    Some((want, field)) => (At::Within(want), field),
                    None => (self.odd(), None),
                };
                let value = members.next_value_seed(self.inner(at))?;
                if field.is_some_and(|field| !keeps(field, &value)) {
                    self.text.unsettle();
                }
                Ok(value)
            }
            _ => members.next_value_seed(self.inner(At::Elsewhere)),
        }
    }

    /// What stands here is not as decoding would leave it: what is in it need not be looked at.
    fn odd(&mut self) -> At {
        self.text.unsettle();
        At::Elsewhere
    }

    /// Gives an object that was read as a whole.
    fn object(&mut self, object: Map<String, Value>) -> Value {
        if let At::Within(want) = self.at
            && !want.is_complete(&object)
        {
            self.text.unsettle();
        }
        Value::Object(object)
    }

    /// A number or name that only some texts may have.
    fn lenient<E: Error>() -> Result<(), E> {
        if T::LENIENT { Ok(()) } else { Err(E::custom("not plain")) }
    }
}

impl<'de, T: Text> DeserializeSeed<'de> for Reader<'_, T> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        if !self.text.pays(self.depth) {
            return Err(D::Error::custom("too much"));
        }
        let Self { text, depth, at } = self;
        let value = deserializer.deserialize_any(Reader {
            text: &mut *text,
            depth,
            at,
        })?;
        if let At::Within(want) = at
            && !want.has_alone(&value)
        {
            text.unsettle();
        }
        Ok(value)
    }
}

impl<'de, T: Text> Visitor<'de> for Reader<'_, T> {
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

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        if i64::try_from(value).is_err() {
            Self::lenient()?;
        }
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Self::lenient()?;
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

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<Value, A::Error> {
        let mut read = Vec::new();
        let at = self.items();
        while let Some(item) = items.next_element_seed(self.inner(at))? {
            read.push(item);
        }
        Ok(Value::Array(read))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        for count in 1..=FEW {
            let Some(name) = members.next_key::<String>()? else {
                return Ok(self.object(object));
            };
            let member = self.member(&name, &mut members)?;
            object.insert(name, member);
            if object.len() < count {
                Self::lenient()?;
            }
        }
        let mut read: Vec<(String, Value)> = Vec::new();
        while let Some(name) = members.next_key::<String>()? {
            let member = self.member(&name, &mut members)?;
            read.push((name, member));
        }
        let count = object.len() + read.len();
        object.append(&mut read.into_iter().collect());
        if object.len() < count {
            Self::lenient()?;
        }
        Ok(self.object(object))
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
