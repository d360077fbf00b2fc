//! What one request may cost beyond its body: a ledger that whatever multiplies its input charges before it does so.
//!
//! Invariant: a decoder charges each value that it makes, a patch what it copies and moves, a message what it shows. So
//! work and memory of a request are bounded by these limits, however small the body that asks for them. Limits that
//! upstream has are upstream's. The ledger measures nothing itself and knows no clock. `crates/words/resources/tests/cost.rs`
//! holds it to this under a limit of address space.

use serde_json::Value;

use crate::status::Status;

/// Largest request body, and largest object that is stored.
pub const BODY_BYTES_MAX: usize = 3 * 1024 * 1024;
/// What the `copy` operations of one JSON patch may copy together, as JSON (upstream's `JSONPatchMaxCopyBytes`).
pub const COPIED_BYTES_MAX: usize = 3 * 1024 * 1024;
/// Values (scalars, lists, objects) that one body or patch may hold or make: any object that is stored fits, with its
/// managed fields.
pub const VALUES_MAX: usize = 100_000;
const _: () = assert!(VALUES_MAX > DEFINITION_VALUES_MAX + OWNED_MAX);
/// Values of an object with all that defaults, admission and conversion put in, its managed fields apart.
pub const OBJECT_VALUES_MAX: usize = 40_000;
/// Likewise of a definition of custom resources, the largest objects of real life: KServe's `llminferenceservices` has
/// 52,493, those of Argo Workflows up to 35,225.
pub const DEFINITION_VALUES_MAX: usize = 60_000;
/// Values in the managed fields of an object: a field that somebody owns is one, a list's element two.
pub const OWNED_MAX: usize = 15_000;
/// What an object of a kind may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Most values.
    pub values_max: usize,
    /// Whether defaults, strategy and admission put in [`GAINED_MAX`] values at most, and touch no schema of a definition. It
    /// must be false once admission may change anything.
    pub settled: bool,
}

/// Limits of most kinds.
pub const OBJECT: Limits = Limits {
    values_max: OBJECT_VALUES_MAX,
    settled: false,
};
/// Limits of definitions of custom resources.
pub const DEFINITION: Limits = Limits {
    values_max: DEFINITION_VALUES_MAX,
    settled: true,
};
/// What is put into an object whose kind is settled.
const GAINED_MAX: usize = 100;
/// How many times as many values admission and strategy leave in an object at most, and how many values its managed fields
/// gain for each of its own.
const GROWTH_MAX: usize = 8;
/// Elements of lists that one patch may shift aside to put in or take out others.
pub const SHIFTED_MAX: usize = 10_000_000;
/// Bytes of text that decoding may write about unknown, duplicate and misfitting fields; what exceeds it goes untold.
pub const TOLD_BYTES_MAX: usize = 128 * 1024;
/// Bytes of field errors that one answer tells; the error that exceeds it is the last.
pub const ERRORS_BYTES_MAX: usize = 1024 * 1024;

/// Why a request is refused for what it would cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CostError {
    /// A JSON patch copies too much; upstream's text.
    #[error(
        "Unable to complete the copy, the accumulated size increase of copy is {accumulated}, exceeding the limit {COPIED_BYTES_MAX}"
    )]
    Copied {
        /// Bytes copied so far, the operation that is refused included.
        accumulated: usize,
    },
    /// Too many values.
    #[error("limit is {VALUES_MAX} values in one object")]
    Values,
    /// Too many values in what a request made of its object.
    #[error("limit is {0} values in one object of this kind, defaults included")]
    ObjectValues(usize),
    /// Too many fields with owners.
    #[error("limit is {OWNED_MAX} values in the managed fields of one object")]
    Owned,
    /// Too much work on long lists.
    #[error("limit is {SHIFTED_MAX} elements of lists that one patch shifts")]
    Shifted,
    /// The object would be too large to be stored.
    #[error("limit is {BODY_BYTES_MAX}")]
    Object,
}

impl From<CostError> for Status {
    fn from(error: CostError) -> Self {
        Self::failure(413, "RequestEntityTooLarge", format!("Request entity too large: {error}"))
    }
}

/// What one request has cost so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    copied: usize,
    values: usize,
    /// The most that the request's object had.
    object_values: usize,
    /// Whether that cannot be exceeded.
    settled: bool,
    owned: usize,
    shifted: usize,
    told: usize,
}

impl Ledger {
    /// A ledger with nothing in it.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Charges one value that is about to be made.
    ///
    /// # Errors
    /// When there are more than [`VALUES_MAX`].
    pub fn value(&mut self) -> Result<(), CostError> {
        self.values(1)
    }

    /// Charges values that are about to be made.
    ///
    /// # Errors
    /// When there are more than [`VALUES_MAX`].
    pub fn values(&mut self, count: usize) -> Result<(), CostError> {
        self.values = self.values.saturating_add(count);
        if self.values > VALUES_MAX {
            return Err(CostError::Values);
        }
        Ok(())
    }

    /// How many values were charged.
    pub(crate) fn made(&self) -> usize {
        self.values
    }

    /// Charges an object as it is about to be looked at or stored, with what defaults, admission and conversion put in.
    ///
    /// # Errors
    /// When it has more values than its kind's limit, or its managed fields more than [`OWNED_MAX`].
    pub fn object(&mut self, object: &Value, limits: Limits) -> Result<(), CostError> {
        let values_max = limits.values_max;
        let (mut owned, mut values) = (0, 1);
        for (name, member) in object.as_object().into_iter().flatten() {
            let Some(members) = member.as_object().filter(|_| name == "metadata") else {
                values += values_in(member);
                continue;
            };
            values += 1;
            for (name, member) in members {
                if name == "managedFields" {
                    owned = values_in(member);
                } else {
                    values += values_in(member);
                }
            }
        }
        self.owned = self.owned.max(owned);
        self.object_values = self.object_values.max(values);
        if self.object_values > values_max {
            return Err(CostError::ObjectValues(values_max));
        }
        if self.owned > OWNED_MAX {
            return Err(CostError::Owned);
        }
        Ok(())
    }

    /// Charges an object that was decoded and has its defaults; `values` is what decoding made, if that was counted. Only what
    /// could have too many is counted again.
    ///
    /// # Errors
    /// As [`Self::object`].
    pub fn decoded(&mut self, object: &Value, values: Option<usize>, limits: Limits) -> Result<(), CostError> {
        let Some(values) = values else {
            return self.object(object, limits);
        };
        if values.saturating_mul(GROWTH_MAX) <= limits.values_max.min(OWNED_MAX) {
            debug_assert!(values_in(object) <= values.saturating_mul(GROWTH_MAX), "decoded {values}");
            self.object_values = values;
            return Ok(());
        }
        self.settled = limits.settled && values + GAINED_MAX <= limits.values_max;
        if self.settled {
            self.object_values = values + GAINED_MAX;
            self.managed(object)
        } else {
            self.object(object, limits)
        }
    }

    /// Charges the managed fields of an object, of which nothing else grows.
    fn managed(&mut self, object: &Value) -> Result<(), CostError> {
        self.owned = object["metadata"].get("managedFields").map_or(0, values_in);
        debug_assert!(
            values_in(object) <= self.object_values + self.owned,
            "{} values",
            self.object_values
        );
        if self.owned > OWNED_MAX {
            return Err(CostError::Owned);
        }
        Ok(())
    }

    /// Charges an object once more, with what admission and strategy put in since: most are so small that nothing put into
    /// them comes near a limit, and those are not counted again.
    ///
    /// # Errors
    /// As [`Self::object`].
    pub fn grown(&mut self, object: &Value, limits: Limits) -> Result<(), CostError> {
        if self.settled {
            return self.managed(object);
        }
        let grown = self.object_values.saturating_mul(GROWTH_MAX);
        if grown <= limits.values_max && self.owned.saturating_add(grown) <= OWNED_MAX {
            return Ok(());
        }
        self.object(object, limits)
    }

    /// Charges a copy that is about to be made.
    ///
    /// # Errors
    /// When copies exceed [`COPIED_BYTES_MAX`] or [`VALUES_MAX`].
    pub fn copy(&mut self, size: Size) -> Result<(), CostError> {
        self.copied = self.copied.saturating_add(size.bytes);
        if self.copied > COPIED_BYTES_MAX {
            return Err(CostError::Copied {
                accumulated: self.copied,
            });
        }
        self.values(size.values)
    }

    /// Charges elements of a list that are shifted because one before them comes or goes.
    ///
    /// # Errors
    /// When they exceed [`SHIFTED_MAX`].
    pub fn shift(&mut self, elements: usize) -> Result<(), CostError> {
        self.shifted = self.shifted.saturating_add(elements);
        if self.shifted > SHIFTED_MAX {
            return Err(CostError::Shifted);
        }
        Ok(())
    }

    /// Charges a text about a field; whether it may still be written.
    pub fn tell(&mut self, bytes: usize) -> bool {
        self.told = self.told.saturating_add(bytes);
        self.told <= TOLD_BYTES_MAX
    }
}

/// Values in a value, itself included.
pub(crate) fn values_in(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(values_in).sum::<usize>(),
        Value::Object(members) => 1 + members.values().map(values_in).sum::<usize>(),
        _ => 1,
    }
}

/// How large a value is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Bytes as compact JSON.
    pub bytes: usize,
    /// Values, itself included.
    pub values: usize,
}

impl Size {
    /// Measures a value.
    #[must_use]
    pub fn of(value: &Value) -> Self {
        let mut size = Self::default();
        size.add(value);
        size
    }

    /// Bytes of a string as JSON with its quotes.
    #[must_use]
    pub fn of_text(text: &str) -> usize {
        text_bytes(text)
    }

    fn add(&mut self, value: &Value) {
        self.values += 1;
        self.bytes += match value {
            Value::Null | Value::Bool(true) => 4,
            Value::Bool(false) => 5,
            Value::Number(number) => number.as_i64().map_or_else(|| number.to_string().len(), digits),
            Value::String(text) => text_bytes(text),
            Value::Array(items) => {
                for item in items {
                    self.add(item);
                }
                2 + items.len().saturating_sub(1)
            }
            Value::Object(members) => {
                for (name, member) in members {
                    self.bytes += text_bytes(name) + 1;
                    self.add(member);
                }
                2 + members.len().saturating_sub(1)
            }
        };
    }
}

fn digits(number: i64) -> usize {
    let magnitude = number.unsigned_abs();
    usize::from(number < 0) + magnitude.checked_ilog10().map_or(1, |digits| digits as usize + 1)
}

/// Bytes of a string as JSON with its quotes.
fn text_bytes(text: &str) -> usize {
    let escaped = |byte: u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 8 | 12 => 1,
        0..0x20 => 5,
        _ => 0,
    };
    2 + text.len() + text.bytes().map(escaped).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_size_is_that_of_the_written_text() {
        for value in [
            json!(null),
            json!(-10),
            json!(0),
            json!(1.5),
            json!("a\"\u{1}\nü"),
            json!([]),
            json!({"a": [1, 22, {"b": true, "c": false}], "d": {}}),
        ] {
            assert_eq!(Size::of(&value).bytes, value.to_string().len(), "{value}");
        }
        assert_eq!(Size::of(&json!({"a": [1, 2]})).values, 4);
    }

    #[test]
    fn each_limit_refuses_what_exceeds_it() {
        let mut ledger = Ledger::new();
        let half = Size {
            bytes: COPIED_BYTES_MAX / 2 + 1,
            values: 1,
        };
        assert_eq!(ledger.copy(half), Ok(()));
        assert_eq!(
            ledger.copy(half).unwrap_err().to_string(),
            "Unable to complete the copy, the accumulated size increase of copy is 3145730, exceeding the limit 3145728"
        );
        assert_eq!(Ledger::new().values(VALUES_MAX), Ok(()));
        assert_eq!(Ledger::new().values(VALUES_MAX + 1), Err(CostError::Values));
        let object = |values: usize, owned: usize| {
            let fields: Value = (0..owned)
                .map(|n| (format!("f:{n}"), json!({})))
                .collect::<serde_json::Map<_, _>>()
                .into();
            Ledger::new().object(&json!({"metadata": {"managedFields": fields}, "l": vec![0; values]}), OBJECT)
        };
        // The object, its metadata and the list are values, too; of managed fields the list itself.
        assert_eq!(object(OBJECT_VALUES_MAX - 3, OWNED_MAX - 1), Ok(()));
        assert_eq!(
            object(OBJECT_VALUES_MAX - 2, 0),
            Err(CostError::ObjectValues(OBJECT_VALUES_MAX))
        );
        assert_eq!(object(0, OWNED_MAX), Err(CostError::Owned));
        // What is small cannot grow so far, what is large is counted again.
        let large = json!({"l": vec![0; OBJECT_VALUES_MAX]});
        for (values, grown) in [(1_000, Ok(())), (10_000, Err(CostError::ObjectValues(OBJECT_VALUES_MAX)))] {
            let mut ledger = Ledger::new();
            assert_eq!(ledger.object(&json!({"l": vec![0; values]}), OBJECT), Ok(()));
            assert_eq!(ledger.grown(&large, OBJECT), grown);
        }
        assert_eq!(Ledger::new().shift(SHIFTED_MAX + 1), Err(CostError::Shifted));
        assert!(!Ledger::new().tell(TOLD_BYTES_MAX + 1));
        assert_eq!(Status::from(CostError::Object).code, 413);
    }

    #[test]
    fn what_was_decoded_is_counted_again_where_it_could_have_too_many() {
        let object =
            |values: usize, owned: usize| json!({"metadata": {"managedFields": vec![0; owned]}, "l": vec![0; values - 3]});
        let large = object(OBJECT_VALUES_MAX + 1, 0);
        for (values, seen) in [(OWNED_MAX / GROWTH_MAX, false), (OWNED_MAX / GROWTH_MAX + 1, true)] {
            let mut ledger = Ledger::new();
            assert_eq!(ledger.decoded(&object(values - 1, 0), Some(values), OBJECT), Ok(()));
            assert_eq!(ledger.grown(&large, OBJECT).is_err(), seen, "{values}");
        }
        // Of a kind that is settled only the managed fields grow.
        let most = DEFINITION_VALUES_MAX;
        let refused = Err(CostError::ObjectValues(most));
        for (values, counted, owned, outcome) in [
            (most - GAINED_MAX, most - GAINED_MAX, 9, Ok(())),
            (most, most, 9, Ok(())),
            (most, most + 1, 9, Ok(())),
            (most + 1, most + 1, 9, refused),
            (55_000, 55_000, OWNED_MAX - 1, Ok(())),
            (55_000, 55_000, OWNED_MAX, Err(CostError::Owned)),
        ] {
            let object = object(values, owned);
            assert_eq!(Ledger::new().decoded(&object, Some(counted), DEFINITION), outcome, "{values}");
            let mut ledger = Ledger::new();
            let before = ledger.decoded(&json!({"metadata": {}, "l": vec![0; values - 3]}), Some(counted), DEFINITION);
            assert_eq!(before.and_then(|()| ledger.grown(&object, DEFINITION)), outcome, "{values}");
        }
    }
}
