//! Label selectors, of query strings and of objects.

use std::collections::BTreeMap;

use serde_json::Value;

/// Why a text or object is no selector; upstream's text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(String);

impl SelectorError {
    pub(super) fn new(text: String) -> Self {
        Self(text)
    }
}

/// How a requirement compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `=`.
    Equals,
    /// `==`.
    DoubleEquals,
    /// `!=`.
    NotEquals,
    /// `in (…)`.
    In,
    /// `notin (…)`.
    NotIn,
    /// `key`.
    Exists,
    /// `!key`.
    DoesNotExist,
    /// `>`.
    GreaterThan,
    /// `<`.
    LessThan,
}

/// One requirement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// Label key.
    pub key: String,
    /// Comparison.
    pub operator: Operator,
    /// Values, as given; those of a query string sorted.
    pub values: Vec<String>,
}

/// All requirements must hold. `Default` matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    /// Requirements sorted by key.
    pub requirements: Vec<Requirement>,
    /// Whether nothing matches, which is what an absent selector of an object means.
    pub nothing: bool,
}

impl LabelSelector {
    /// Parses a query string.
    ///
    /// # Errors
    /// With upstream's text.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        Err(SelectorError::new("not yet".into()))
    }

    /// From a `metav1.LabelSelector` in JSON; null or absent matches nothing, `{}` everything.
    ///
    /// # Errors
    /// With upstream's text.
    pub fn from_value(_value: Option<&Value>) -> Result<Self, SelectorError> {
        Ok(Self::default())
    }

    /// Whether the labels fulfil all requirements.
    #[must_use]
    pub fn matches(&self, _labels: &BTreeMap<String, String>) -> bool {
        !self.nothing
    }
}
