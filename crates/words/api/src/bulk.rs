//! Objects whose greatest part is set aside while they are changed: the versions of a definition, with all their schemas.
//!
//! Invariant: in a value whose bulk is set aside stands a small list instead, of the elements' scalars. That list is the stored
//! object's own if and only if the bulk is: so who compares two such values finds what comparing the whole would find. A bulk
//! is compared as text, which is the same for the same value: stored bytes are canonical. Nobody makes a value of the stored
//! one who need not look inside.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::OnceLock;

use serde_json::{Map, Value};

use crate::cost::{Ledger, values_in};
use crate::decode::{self, Node};
use crate::object::Object;
use crate::{read, splice, write};

/// Where a bulk stands: the names that lead to it.
pub type Path = &'static [&'static str];

/// The bulk of a stored object.
#[derive(Debug)]
pub struct Bulk {
    at: Path,
    object: Object,
    text: Range<usize>,
}

/// A stored object that is about to be changed.
#[derive(Debug)]
pub struct Present {
    value: Value,
    bulk: Option<Bulk>,
    whole: OnceLock<Value>,
}

/// A bulk that was taken out of the object that is to be stored.
#[derive(Debug)]
pub struct Lifted {
    value: Value,
    /// Whether it is the stored object's.
    kept: bool,
}

/// A bulk that stays what it is in an object that is to be stored, of which only what stands for it is in the value.
#[derive(Clone, Debug, PartialEq)]
pub enum Kept {
    /// Nobody read it so far.
    Unread,
    /// As a client sent it once more, and how many values it has where they were counted.
    Sent(Value, Option<usize>),
}

impl Present {
    /// An object that is a value already.
    #[must_use]
    pub fn of(value: Value) -> Self {
        Self {
            value,
            bulk: None,
            whole: OnceLock::new(),
        }
    }

    /// A stored object without what stands there, if that is a list with elements.
    ///
    /// # Panics
    /// As [`Object::value`].
    #[must_use]
    pub fn without(object: &Object, at: Path) -> Self {
        let bytes = object.bytes();
        let found = splice::scalars_at(bytes, at).and_then(|(text, stand_in)| {
            let small = [&bytes[..text.start], &stand_in, &bytes[text.end..]].concat();
            Some((read::value(&small).ok()?, text))
        });
        match found {
            Some((value, text)) => Self {
                value,
                bulk: Some(Bulk {
                    at,
                    object: object.clone(),
                    text,
                }),
                whole: OnceLock::new(),
            },
            None => Self::of(object.value()),
        }
    }

    /// Its value, in which the bulk may be set aside.
    #[must_use]
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// Its value with its bulk, which is read now where it was not before.
    #[must_use]
    pub fn whole(&self) -> &Value {
        match &self.bulk {
            Some(bulk) => self.whole.get_or_init(|| bulk.object.value()),
            None => &self.value,
        }
    }

    /// Its value with its bulk.
    #[must_use]
    pub fn into_whole(self) -> Value {
        match (self.whole.into_inner(), self.bulk) {
            (Some(whole), _) => whole,
            (None, Some(bulk)) => bulk.object.value(),
            (None, None) => self.value,
        }
    }

    /// Where its bulk stands, if one is set aside.
    #[must_use]
    pub fn bulk_at(&self) -> Option<Path> {
        self.bulk.as_ref().map(|bulk| bulk.at)
    }

    /// The text of the bulk that is set aside.
    #[must_use]
    pub fn bulk_text(&self) -> Option<&[u8]> {
        self.bulk.as_ref().map(Bulk::text)
    }

    /// The bulk that is set aside, as it is written.
    #[must_use]
    pub fn bulk_node(&self) -> Option<Node<'_>> {
        let bulk = self.bulk.as_ref()?;
        decode::any_node(bulk.text(), false, &mut Ledger::new())
            .ok()
            .map(|(node, _)| node)
    }

    /// Puts the bulk in a value, in the place of what stands for it there. How many values more that are, at most, comes back.
    ///
    /// # Panics
    /// Never: an object holds JSON.
    pub fn restore(&self, kept: Kept, value: &mut Value) -> usize {
        let Some(bulk) = &self.bulk else { return 0 };
        let (bulk_value, counted) = match kept {
            Kept::Unread => (read::value(bulk.text()).expect("an Object holds valid JSON"), None),
            Kept::Sent(sent, counted) => (sent, counted),
        };
        let values = counted.unwrap_or_else(|| values_in(&bulk_value));
        debug_assert_eq!(values, values_in(&bulk_value));
        put(value, bulk.at, bulk_value);
        values
    }

    /// Sets aside the bulk of a value that is to be stored instead; `kept` says that it is this object's own. Nothing is done
    /// where one of the two has none that can be set aside.
    pub fn lift(&self, new: &mut Value, kept: bool) -> Option<Lifted> {
        let bulk = self.bulk.as_ref()?;
        let slot = at_mut(new, bulk.at)?;
        let elements = slot.as_array().filter(|elements| !elements.is_empty())?;
        let own = at(&self.value, bulk.at)?;
        debug_assert!(!kept || write::is_text_of(bulk.text(), slot), "what is kept is what there is");
        let scalars = Value::Array(elements.iter().map(scalars_of).collect());
        let kept = kept || (scalars == *own && write::is_text_of(bulk.text(), slot));
        let stand_in = if kept { own.clone() } else { other_than(own, scalars) };
        Some(Lifted {
            value: std::mem::replace(slot, stand_in),
            kept,
        })
    }

    /// The text of what stands for a bulk in a value, after changes to it: this object's bulk or the one that was taken out.
    #[must_use]
    pub fn text_of(&self, value: &Value, lifted: Lifted) -> Option<Spliced<'_>> {
        let bulk = self.bulk.as_ref()?;
        let text = if lifted.kept || at(value, bulk.at) == at(&self.value, bulk.at) {
            Cow::Borrowed(bulk.text())
        } else {
            Cow::Owned(write::into_bytes(lifted.value))
        };
        Some(Spliced { at: bulk.at, text })
    }
}

impl Bulk {
    fn text(&self) -> &[u8] {
        &self.object.bytes()[self.text.clone()]
    }
}

impl Lifted {
    /// Puts the bulk in a value, in the place of what stands for it, which is kept here instead; and takes it out again when
    /// called once more.
    pub fn swap(&mut self, value: &mut Value, at: Path) {
        if let Some(slot) = at_mut(value, at) {
            std::mem::swap(slot, &mut self.value);
        }
    }

    /// Whether it is the stored object's.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.kept
    }

    /// The bulk, as a value.
    #[must_use]
    pub fn into_value(self) -> Value {
        self.value
    }
}

/// A text that stands in a value's text in the place of what the value holds.
#[derive(Clone, Debug)]
pub struct Spliced<'a> {
    pub(crate) at: Path,
    pub(crate) text: Cow<'a, [u8]>,
}

/// Puts a value where that path leads, if there is anything.
pub fn put(value: &mut Value, at: Path, new: Value) {
    if let Some(slot) = at_mut(value, at) {
        *slot = new;
    }
}

/// What stands where a path leads.
#[must_use]
pub fn at<'v>(value: &'v Value, at: &[&str]) -> Option<&'v Value> {
    at.iter().try_fold(value, |value, name| value.get(name))
}

fn at_mut<'v>(value: &'v mut Value, at: &[&str]) -> Option<&'v mut Value> {
    at.iter().try_fold(value, |value, name| value.get_mut(name))
}

/// What stands for elements with those scalars that are not the elements of the stored object, for which `own` stands.
fn other_than(own: &Value, mut scalars: Value) -> Value {
    // Elements with the same scalars may differ in the rest.
    while scalars == *own {
        match &mut scalars {
            Value::Array(elements) => elements.extend(elements.last().cloned()),
            _ => break,
        }
    }
    scalars
}

fn scalars_of(element: &Value) -> Value {
    let Value::Object(members) = element else {
        return element.clone();
    };
    let scalars = members
        .iter()
        .filter(|(_, member)| !(member.is_array() || member.is_object()));
    Value::Object(
        scalars
            .map(|(name, member)| (name.clone(), member.clone()))
            .collect::<Map<_, _>>(),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const AT: Path = &["spec", "versions"];

    fn stored() -> (Value, Object) {
        let value = json!({
            "apiVersion": "v1", "kind": "K", "metadata": {"name": "a"},
            "spec": {"versions": [{"name": "v1", "served": true, "schema": {"x": [1]}}, {"name": "v2", "list": [2]}], "z": 1},
        });
        let object = Object::from_value(&value).unwrap();
        (value, object)
    }

    #[test]
    fn a_bulk_is_set_aside_and_comes_back() {
        let (value, object) = stored();
        let present = Present::without(&object, AT);
        let mut small = value.clone();
        put(&mut small, AT, json!([{"name": "v1", "served": true}, {"name": "v2"}]));
        assert_eq!((present.value(), present.whole()), (&small, &value));
        let mut restored = small.clone();
        assert_eq!(
            (present.bulk_at(), present.restore(Kept::Unread, &mut restored)),
            (Some(AT), 11)
        );
        assert_eq!(restored, value);
        assert_eq!(present.into_whole(), value);

        for without in [
            json!({"metadata": {}}),
            json!({"spec": {"versions": []}}),
            json!({"spec": {"versions": 7}}),
        ] {
            let present = Present::without(&Object::from_value(&without).unwrap(), AT);
            assert_eq!(
                (present.value(), present.whole(), present.bulk_at()),
                (&without, &without, None)
            );
            assert!(present.lift(&mut value.clone(), false).is_none());
        }
    }

    #[test]
    fn what_stands_for_a_bulk_is_the_same_for_the_same_alone() {
        let (value, object) = stored();
        let present = Present::without(&object, AT);
        let lifted = |change: &dyn Fn(&mut Value), kept: bool| {
            let mut new = value.clone();
            change(&mut new);
            let changed = new.clone();
            let mut lifted = present.lift(&mut new, kept).unwrap();
            let same = at(&new, AT) == at(present.value(), AT);
            assert_eq!(same, lifted.is_kept());
            let small = new.clone();
            lifted.swap(&mut new, AT);
            assert_eq!(new, changed);
            lifted.swap(&mut new, AT);
            assert_eq!(new, small);
            let text = present.text_of(&new, lifted).unwrap().text;
            assert_eq!(&*text, at(&changed, AT).unwrap().to_string().as_bytes());
            same
        };
        assert!(lifted(&|_| {}, false));
        assert!(lifted(&|_| {}, true));
        assert!(lifted(&|new| new["metadata"]["name"] = json!("b"), false));
        assert!(!lifted(&|new| new["spec"]["versions"][0]["schema"]["x"] = json!([2]), false));
        assert!(!lifted(&|new| new["spec"]["versions"][0]["served"] = json!(false), false));
        assert!(!lifted(
            &|new| drop(new["spec"]["versions"].as_array_mut().unwrap().pop()),
            false
        ));
        // What stands there for another may be sent, too: it is another all the same.
        assert!(!lifted(
            &|new| put(new, AT, present.value()["spec"]["versions"].clone()),
            false
        ));

        let mut none = json!({"spec": {"versions": null}});
        assert!(present.lift(&mut none, false).is_none());
        // Somebody put back what was there.
        let mut new = value.clone();
        new["spec"]["versions"][0]["served"] = json!(false);
        let lifted = present.lift(&mut new, false).unwrap();
        put(&mut new, AT, at(present.value(), AT).unwrap().clone());
        assert_eq!(
            &*present.text_of(&new, lifted).unwrap().text,
            at(&value, AT).unwrap().to_string().as_bytes()
        );
    }

    #[test]
    fn a_text_is_spliced_in() {
        let (value, object) = stored();
        let present = Present::without(&object, AT);
        let mut new = value.clone();
        new["spec"]["versions"][1]["list"] = json!([{"more": "\""}]);
        let whole = new.to_string();
        let lifted = present.lift(&mut new, false).unwrap();
        let spliced = present.text_of(&new, lifted);
        assert_eq!(write::spliced(new.clone(), spliced.clone()), whole.as_bytes());
        let made = Object::from_spliced(new, spliced).unwrap();
        assert_eq!((made.bytes().as_ref(), &made.header().name[..]), (whole.as_bytes(), "a"));
        assert_eq!(write::spliced(value.clone(), None), value.to_string().as_bytes());
    }
}
