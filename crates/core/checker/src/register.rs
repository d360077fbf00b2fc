//! The model of one key: what it holds, and which answers an operation may give there.
//!
//! Invariant: whatever a correct store can do, a step allows. A change of unknown outcome has a revision that nobody knows,
//! unless its value was seen with one.

use crate::record::{Kind, Operation, Outcome, Seen};

/// The revision of a change that nobody was told of.
pub(crate) const UNTOLD: u64 = 0;

/// What a key holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Register<'a> {
    /// Value and revision, which may be [`UNTOLD`].
    pub(crate) value: Option<(&'a str, u64)>,
    /// The highest revision that a change of this key is known to have had; later ones are higher.
    pub(crate) floor: u64,
}

impl<'a> Register<'a> {
    fn put(self, value: &'a str, revision: u64) -> Option<Self> {
        self.raised(revision).map(|floor| Self {
            value: Some((value, revision)),
            floor,
        })
    }

    fn removed(self, revision: u64) -> Option<Self> {
        self.value?;
        self.raised(revision).map(|floor| Self { value: None, floor })
    }

    fn raised(self, revision: u64) -> Option<u64> {
        match revision {
            UNTOLD => Some(self.floor),
            revision => (revision > self.floor).then_some(revision),
        }
    }

    /// The same with a value of which only is known that nobody saw it.
    pub(crate) fn unseen(self) -> Self {
        let value = self.value.map(|(_, revision)| ("(never seen)", revision));
        Self { value, ..self }
    }

    /// The register once somebody was shown what it holds, if that can be.
    fn shown(self, seen: &Seen) -> Option<Self> {
        match (seen, self.value) {
            (Seen::Absent, None) => Some(self),
            (Seen::Present { value, revision }, Some((held, UNTOLD))) if held == value => self.put(held, *revision),
            (Seen::Present { value, revision }, Some((held, at))) if held == value && at == *revision => Some(self),
            _ => None,
        }
    }

    /// The register if what it holds was last changed at a revision.
    fn at(self, expected: u64) -> Option<Self> {
        match self.value {
            Some((_, revision)) if revision == expected => Some(self),
            Some((held, UNTOLD)) => self.put(held, expected),
            _ => None,
        }
    }

    /// The register after an operation took effect, if its answer can be right here. `resolved` is the revision of an
    /// operation of unknown outcome, where one is known.
    pub(crate) fn step(self, operation: &'a Operation, resolved: u64) -> Option<Self> {
        let kind = &operation.kind;
        let revision = match &operation.outcome {
            Outcome::Saw(seen) => return self.shown(seen),
            Outcome::Refused { seen } => {
                let possible = match kind {
                    Kind::Read | Kind::StaleRead => false,
                    Kind::Write { .. } | Kind::Delete { expected: None } => self.value.is_none(),
                    Kind::Create { .. } => self.value.is_some(),
                    Kind::Cas { expected, .. }
                    | Kind::Delete {
                        expected: Some(expected),
                    } => self.value.is_none_or(|(_, revision)| revision != *expected),
                };
                return match seen {
                    _ if !possible => None,
                    Some(seen) => self.shown(seen),
                    None => Some(self),
                };
            }
            Outcome::Applied { revision } => *revision,
            Outcome::Unknown => resolved,
            Outcome::Failed => return Some(self),
        };
        match kind {
            Kind::Read | Kind::StaleRead => Some(self),
            Kind::Write { value } => self.put(value, revision),
            Kind::Create { value } if self.value.is_none() => self.put(value, revision),
            Kind::Create { .. } => None,
            Kind::Cas { expected, value } => self.at(*expected)?.put(value, revision),
            Kind::Delete { expected: None } => self.removed(revision),
            Kind::Delete {
                expected: Some(expected),
            } => self.at(*expected)?.removed(revision),
        }
    }
}

impl std::fmt::Display for Register<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.value {
            None => f.write_str("nothing"),
            Some((value, UNTOLD)) => write!(f, "{value:?} of an unknown revision"),
            Some((value, revision)) => write!(f, "{value:?} of revision {revision}"),
        }
    }
}
