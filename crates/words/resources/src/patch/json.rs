//! JSON patch (RFC 6902) as upstream's library applies it: `replace` of an absent member puts it there, `test` takes absent
//! for null, `-1` is the last index, `01` is 1, an absent `value` is null.
//!
//! Invariant: what operations copy and shift is charged before it happens, so a patch costs what its body and these
//! limits say, whatever it does to the document.

use serde_json::{Map, Value};
use trireme_api::cost::{CostError, Ledger, Size};
use trireme_api::decode::{self, DecodeError};
use trireme_api::go::kind;

/// Why a patch does not apply. Upstream tells the client none of the causes but the limit on operations.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(super) enum Refused {
    /// An operation does not apply, or is none.
    #[error("an operation of the patch does not apply")]
    Unfit,
    /// The patch would cost too much.
    #[error(transparent)]
    Cost(#[from] CostError),
}

/// The operations of a patch, and what strict decoding finds in it (where `look` says so).
pub(super) fn operations(patch: &[u8], look: bool, ledger: &mut Ledger) -> Result<(Vec<Value>, Vec<String>), DecodeError> {
    let decoded = decode::any(patch, look, ledger)?;
    let wrong = |text: String| Err(DecodeError::Type(text));
    let operations = match decoded.value {
        Value::Array(operations) => operations,
        Value::Null => Vec::new(),
        other => {
            return wrong(format!(
                "json: cannot unmarshal {} into Go value of type []handlers.jsonPatchOp",
                kind(&other)
            ));
        }
    };
    let mut strict = decoded.warnings;
    for (index, operation) in operations.iter().enumerate() {
        let members = match operation {
            Value::Object(members) => members,
            Value::Null => continue,
            other => {
                return wrong(format!(
                    "json: cannot unmarshal {} into Go value of type handlers.jsonPatchOp",
                    kind(other)
                ));
            }
        };
        for (name, member) in members {
            match name.as_str() {
                "op" | "path" | "from" if !(member.is_string() || member.is_null()) => {
                    return wrong(format!(
                        "json: cannot unmarshal {} into Go struct field jsonPatchOp.{name} of type string",
                        kind(member)
                    ));
                }
                "op" | "path" | "from" | "value" => {}
                other => {
                    if look && strict.len() < 100 && ledger.tell(other.len() + 32) {
                        strict.push(format!("unknown field \"[{index}].{other}\""));
                    }
                }
            }
        }
    }
    for text in &mut strict {
        text.insert_str(0, "json patch ");
    }
    Ok((operations, strict))
}

/// Applies operations in order.
pub(super) fn apply(mut document: Value, operations: Vec<Value>, ledger: &mut Ledger) -> Result<Value, Refused> {
    for operation in operations {
        let Value::Object(members) = operation else {
            return Err(Refused::Unfit);
        };
        one(&mut document, members, ledger)?;
    }
    Ok(document)
}

fn text<'a>(operation: &'a Map<String, Value>, name: &str) -> Result<&'a str, Refused> {
    operation.get(name).and_then(Value::as_str).ok_or(Refused::Unfit)
}

fn one(document: &mut Value, mut operation: Map<String, Value>, ledger: &mut Ledger) -> Result<(), Refused> {
    let sent = operation.remove("value");
    let kind = text(&operation, "op")?;
    match kind {
        "add" => Place::find(document, text(&operation, "path")?)?.add(sent.unwrap_or_default(), ledger),
        "remove" => Place::find(document, text(&operation, "path")?)?.remove(ledger).map(drop),
        "replace" => match text(&operation, "path")? {
            "" => match sent {
                Some(whole @ (Value::Object(_) | Value::Array(_))) => {
                    *document = whole;
                    Ok(())
                }
                _ => Err(Refused::Unfit),
            },
            path => Place::find(document, path)?.replace(sent.unwrap_or_default()),
        },
        "move" => {
            let moved = Place::find(document, text(&operation, "from")?)?.remove(ledger)?;
            Place::find(document, text(&operation, "path")?)?.add(moved, ledger)
        }
        "copy" => {
            let found = Place::find(document, text(&operation, "from")?)?.get()?;
            ledger.copy(found.map_or_else(Size::default, Size::of))?;
            let copy = found.cloned().unwrap_or_default();
            Place::find(document, text(&operation, "path")?)?.add(copy, ledger)
        }
        "test" => {
            let found = match text(&operation, "path")? {
                "" => Some(&*document),
                path => Place::find(document, path)?.get()?,
            };
            let equal = match found {
                None | Some(Value::Null) => sent.is_none_or(|sent| sent.is_null()),
                Some(found) => sent.is_some_and(|sent| sent == *found),
            };
            if equal { Ok(()) } else { Err(Refused::Unfit) }
        }
        _ => Err(Refused::Unfit),
    }
}

/// A member of an object or an element of a list, there or not.
enum Place<'a> {
    Member(&'a mut Map<String, Value>, String),
    Element(&'a mut Vec<Value>, String),
}

impl<'a> Place<'a> {
    /// What a path names; its parent must be there.
    fn find(document: &'a mut Value, path: &str) -> Result<Self, Refused> {
        let (parents, last) = path.rsplit_once('/').ok_or(Refused::Unfit)?;
        let mut at = document;
        // What stands before the first slash is ignored, as upstream ignores it.
        for part in parents.split('/').skip(1) {
            let part = unescape(part);
            at = match at {
                Value::Object(members) => members.get_mut(&part),
                Value::Array(items) => index(&part, items.len()).and_then(|index| items.get_mut(index)),
                _ => None,
            }
            .ok_or(Refused::Unfit)?;
        }
        match at {
            Value::Object(members) => Ok(Self::Member(members, unescape(last))),
            Value::Array(items) => Ok(Self::Element(items, unescape(last))),
            _ => Err(Refused::Unfit),
        }
    }

    /// What is there; none for an absent member.
    fn get(self) -> Result<Option<&'a Value>, Refused> {
        match self {
            Self::Member(members, name) => Ok(members.get(&name)),
            Self::Element(items, key) => {
                let index = index(&key, items.len()).ok_or(Refused::Unfit)?;
                items.get(index).map(Some).ok_or(Refused::Unfit)
            }
        }
    }

    fn add(self, value: Value, ledger: &mut Ledger) -> Result<(), Refused> {
        match self {
            Self::Member(members, name) => drop(members.insert(name, value)),
            Self::Element(items, key) if key == "-" => items.push(value),
            Self::Element(items, key) => {
                // Counted from the end, the new element counts, too.
                let index = index(&key, items.len() + 1).filter(|index| *index <= items.len());
                let index = index.ok_or(Refused::Unfit)?;
                ledger.shift(items.len() - index)?;
                items.insert(index, value);
            }
        }
        Ok(())
    }

    fn replace(self, value: Value) -> Result<(), Refused> {
        match self {
            Self::Member(members, name) => drop(members.insert(name, value)),
            Self::Element(items, key) => {
                let slot = index(&key, items.len()).and_then(|index| items.get_mut(index));
                *slot.ok_or(Refused::Unfit)? = value;
            }
        }
        Ok(())
    }

    fn remove(self, ledger: &mut Ledger) -> Result<Value, Refused> {
        match self {
            Self::Member(members, name) => members.remove(&name).ok_or(Refused::Unfit),
            Self::Element(items, key) => {
                let index = index(&key, items.len()).filter(|index| *index < items.len());
                let index = index.ok_or(Refused::Unfit)?;
                ledger.shift(items.len() - index)?;
                Ok(items.remove(index))
            }
        }
    }
}

/// An index as Go reads it; a negative one counts from the end of `length` elements.
fn index(key: &str, length: usize) -> Option<usize> {
    let number: i64 = key.parse().ok()?;
    if number < 0 {
        let back = usize::try_from(number.unsigned_abs()).ok()?;
        return length.checked_sub(back);
    }
    usize::try_from(number).ok()
}

fn unescape(part: &str) -> String {
    part.replace("~1", "/").replace("~0", "~")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(document: Value, operations: Value) -> Result<Value, Refused> {
        let Value::Array(operations) = operations else { panic!() };
        apply(document, operations, &mut Ledger::new())
    }

    #[test]
    fn operations_do_what_upstreams_library_does() {
        let list = || json!({"l": [1, 2, 3], "o": {"a": 1, "n": null, "x/y": {"~": 5}}});
        for (operation, want) in [
            (json!({"op": "replace", "path": "/o/new", "value": 7}), json!(7)),
            (json!({"op": "replace", "path": "/l/-1", "value": 9}), json!([1, 2, 9])),
            (json!({"op": "replace", "path": "/l/01", "value": 9}), json!([1, 9, 3])),
            (json!({"op": "replace", "path": "/l/+1", "value": 9}), json!([1, 9, 3])),
            (json!({"op": "add", "path": "/l/-1", "value": 9}), json!([1, 2, 3, 9])),
            (json!({"op": "add", "path": "/l/-4", "value": 9}), json!([9, 1, 2, 3])),
            (json!({"op": "add", "path": "/l/-", "value": 9}), json!([1, 2, 3, 9])),
            (json!({"op": "add", "path": "/l/01", "value": 9}), json!([1, 9, 2, 3])),
            (json!({"op": "remove", "path": "/l/-1"}), json!([1, 2])),
            (json!({"op": "add", "path": "/o/new"}), json!(null)),
            (json!({"op": "copy", "from": "/o/gone", "path": "/o/new"}), json!(null)),
            (json!({"op": "copy", "from": "/o/x~1y/~0", "path": "/o/new"}), json!(5)),
            (json!({"op": "move", "from": "/o/a", "path": "/o/new"}), json!(1)),
        ] {
            let out = run(list(), json!([operation])).unwrap_or_else(|error| panic!("{operation}: {error}"));
            let found = if want.is_array() { &out["l"] } else { &out["o"]["new"] };
            assert_eq!(found, &want, "{operation}");
        }
        for passes in [
            json!({"op": "test", "path": "/o/gone", "value": null}),
            json!({"op": "test", "path": "/o/gone"}),
            json!({"op": "test", "path": "/o/n", "value": null}),
            json!({"op": "test", "path": "/l/-1", "value": 3}),
            json!({"op": "test", "path": "", "value": list()}),
        ] {
            assert_eq!(run(list(), json!([passes])), Ok(list()), "{passes}");
        }
    }

    #[test]
    fn what_does_not_apply_is_refused() {
        let list = || json!({"l": [1, 2, 3], "o": {"a": 1, "n": null}});
        for operation in [
            json!({"op": "test", "path": "/o/a"}),
            json!({"op": "test", "path": "/o/n", "value": 1}),
            json!({"op": "test", "path": "/l/3", "value": null}),
            json!({"op": "remove", "path": "/o/gone"}),
            json!({"op": "remove", "path": ""}),
            json!({"op": "add", "path": "", "value": {}}),
            json!({"op": "add", "path": "o", "value": 1}),
            json!({"op": "add", "path": "/o/gone/x", "value": 1}),
            json!({"op": "add", "path": "/o/n/x", "value": 1}),
            json!({"op": "add", "path": "/l/4", "value": 1}),
            json!({"op": "add", "path": "/l/-5", "value": 1}),
            json!({"op": "replace", "path": "/l/-", "value": 1}),
            json!({"op": "replace", "path": "/l/3", "value": 1}),
            json!({"op": "replace", "path": "", "value": 1}),
            json!({"op": "move", "from": "/o", "path": "/o/x"}),
            json!({"op": "copy", "from": "/l/7", "path": "/o/x"}),
            json!({"op": "smash", "path": "/o"}),
            json!({"path": "/o"}),
            json!(null),
        ] {
            assert_eq!(run(list(), json!([operation])), Err(Refused::Unfit), "{operation}");
        }
    }

    #[test]
    fn copies_that_double_a_list_end_at_upstreams_limit() {
        let double = json!({"op": "copy", "from": "/l", "path": "/l/-"});
        let document = |length| json!({"l": ["x".repeat(length)]});
        let refused = run(document(1000), Value::Array(vec![double.clone(); 60])).unwrap_err();
        assert!(matches!(refused, Refused::Cost(CostError::Copied { .. })), "{refused}");
        let refused = run(document(1), Value::Array(vec![double; 60])).unwrap_err();
        assert_eq!(refused, Refused::Cost(CostError::Values), "many small values");
    }

    #[test]
    fn lists_are_not_shifted_without_end() {
        let operations = vec![json!({"op": "add", "path": "/l/0", "value": 1}); 10_000];
        let document = json!({"l": vec![1; 5_000]});
        let refused = apply(document, operations, &mut Ledger::new()).unwrap_err();
        assert_eq!(refused, Refused::Cost(CostError::Shifted));
    }

    #[test]
    fn bodies_that_are_no_patch_are_told_in_gos_words() {
        for (body, message) in [
            (
                &b"{}"[..],
                "json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp",
            ),
            (
                b"[1]",
                "json: cannot unmarshal number into Go value of type handlers.jsonPatchOp",
            ),
            (
                br#"[{"op":1}]"#,
                "json: cannot unmarshal number into Go struct field jsonPatchOp.op of type string",
            ),
            (b"[", "unexpected end of JSON input"),
        ] {
            let error = operations(body, true, &mut Ledger::new()).unwrap_err();
            assert_eq!(error.to_string(), message);
        }
        let (_, strict) = operations(
            br#"[{"op":"test","op":"test","path":"/a","why":1,"value":{"a":1,"a":1}}]"#,
            true,
            &mut Ledger::new(),
        )
        .unwrap();
        assert_eq!(
            strict,
            [
                "json patch duplicate field \"[0].op\"",
                "json patch duplicate field \"[0].value.a\"",
                "json patch unknown field \"[0].why\""
            ]
        );
    }
}
