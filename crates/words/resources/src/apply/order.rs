//! The order in which upstream tells path elements (structured-merge-diff's fieldpath and value): fields by name, then
//! elements of lists by their keys or values, then indexes. As texts, port 443 would come before port 80.

use std::cmp::Ordering;

use serde_json::{Map, Value};

/// What a serialised element is sorted by.
pub(super) enum Place<'a> {
    /// A field's name.
    Field(&'a str),
    /// The keys of a list's element.
    Keys(Map<String, Value>),
    /// A set's element.
    Element(Value),
    /// An index.
    Index(i64),
    /// Anything else, which nobody writes.
    Other(&'a str),
}

impl<'a> Place<'a> {
    pub(super) fn of(element: &'a str) -> Self {
        let found = element.split_once(':').and_then(|(kind, rest)| match kind {
            "f" => Some(Self::Field(rest)),
            "k" => serde_json::from_str(rest).ok().map(Self::Keys),
            "v" => serde_json::from_str(rest).ok().map(Self::Element),
            "i" => rest.parse().ok().map(Self::Index),
            _ => None,
        });
        found.unwrap_or(Self::Other(element))
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Field(_) => 0,
            Self::Keys(_) => 1,
            Self::Element(_) => 2,
            Self::Index(_) => 3,
            Self::Other(_) => 4,
        }
    }
}

impl Ord for Place<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Field(left), Self::Field(right)) | (Self::Other(left), Self::Other(right)) => left.cmp(right),
            (Self::Keys(left), Self::Keys(right)) => members(left, right),
            (Self::Element(left), Self::Element(right)) => values(left, right),
            (Self::Index(left), Self::Index(right)) => left.cmp(right),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for Place<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Place<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Place<'_> {}

fn members(left: &Map<String, Value>, right: &Map<String, Value>) -> Ordering {
    let pairs = left.iter().zip(right);
    let mut orders = pairs.map(|((name, value), (other_name, other))| name.cmp(other_name).then_with(|| values(value, other)));
    orders
        .find(|order| order.is_ne())
        .unwrap_or_else(|| left.len().cmp(&right.len()))
}

/// Numbers come first, then texts, truths, lists, maps and null.
fn values(left: &Value, right: &Value) -> Ordering {
    let rank = |value: &Value| match value {
        Value::Number(_) => 0,
        Value::String(_) => 1,
        Value::Bool(_) => 2,
        Value::Array(_) => 3,
        Value::Object(_) => 4,
        Value::Null => 5,
    };
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => match (left.as_i64(), right.as_i64()) {
            (Some(left), Some(right)) => left.cmp(&right),
            _ => left
                .as_f64()
                .unwrap_or_default()
                .total_cmp(&right.as_f64().unwrap_or_default()),
        },
        (Value::String(left), Value::String(right)) => left.cmp(right),
        (Value::Bool(left), Value::Bool(right)) => left.cmp(right),
        (Value::Array(left), Value::Array(right)) => {
            let mut orders = left.iter().zip(right).map(|(left, right)| values(left, right));
            orders
                .find(|order| order.is_ne())
                .unwrap_or_else(|| left.len().cmp(&right.len()))
        }
        (Value::Object(left), Value::Object(right)) => members(left, right),
        _ => rank(left).cmp(&rank(right)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_come_in_upstreams_order() {
        let sorted = [
            "f:a",
            "f:b",
            "k:{\"name\":\"\"}",
            "k:{\"name\":\"!\"}",
            "k:{\"name\":\"a\"}",
            "k:{\"name\":\"a!\"}",
            "k:{\"port\":9,\"protocol\":\"TCP\"}",
            "k:{\"port\":80,\"protocol\":\"TCP\"}",
            "k:{\"port\":80,\"protocol\":\"UDP\"}",
            "k:{\"port\":443,\"protocol\":\"TCP\"}",
            "v:9",
            "v:10",
            "v:10.5",
            "v:\"\"",
            "v:\"a\"",
            "v:false",
            "i:2",
            "i:10",
        ];
        let mut found = sorted;
        found.sort_unstable();
        assert_ne!(found, sorted, "as texts they come otherwise");
        found.sort_by_cached_key(|element| Place::of(element));
        assert_eq!(found, sorted);
    }
}
