//! Label selectors, of query strings and of objects.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use super::query;
use super::validity::{key_errors, value_errors};
use crate::field::{FieldError, FieldErrorType, aggregate};

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
    /// Values, sorted.
    pub values: Vec<String>,
}

/// All requirements must hold. `Default` matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    nothing: bool,
    /// How many different keys an object must have.
    needed: usize,
}

/// Above this number requirements are sought by the labels of an object instead of the other way round.
const FEW_REQUIREMENTS: usize = 8;

pub(super) fn invalid(path: String, value: String, detail: &str) -> FieldError {
    FieldError {
        kind: FieldErrorType::Invalid,
        path,
        value,
        detail: detail.to_owned(),
    }
}

impl Requirement {
    /// A checked requirement.
    ///
    /// # Errors
    /// With upstream's text when key or values are invalid, or their number does not suit the operator.
    pub fn new(key: &str, operator: Operator, values: Vec<String>) -> Result<Self, SelectorError> {
        let mut errors = Vec::new();
        let problems = key_errors(key);
        if !problems.is_empty() {
            errors.push(invalid("key".into(), format!("{key:?}"), &problems.join("; ")));
        }
        let shown = || serde_json::to_string(&values).expect("strings serialise");
        let count = match operator {
            Operator::In | Operator::NotIn if values.is_empty() => Some("for 'in', 'notin' operators, values set can't be empty"),
            Operator::Equals | Operator::DoubleEquals | Operator::NotEquals if values.len() != 1 => {
                Some("exact-match compatibility requires one single value")
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                Some("values set must be empty for exists and does not exist")
            }
            Operator::GreaterThan | Operator::LessThan if values.len() != 1 => {
                Some("for 'Gt', 'Lt' operators, exactly one value is required")
            }
            _ => None,
        };
        if let Some(detail) = count {
            errors.push(invalid("values".into(), shown(), detail));
        }
        for (index, value) in values.iter().enumerate() {
            if matches!(operator, Operator::GreaterThan | Operator::LessThan) && value.parse::<i64>().is_err() {
                errors.push(invalid(
                    format!("values[{index}]"),
                    format!("{value:?}"),
                    "for 'Gt', 'Lt' operators, the value must be an integer",
                ));
            }
        }
        for (index, value) in values.iter().enumerate() {
            let problems = value_errors(value);
            if !problems.is_empty() {
                errors.push(invalid(
                    format!("values[{index}][{key}]"),
                    format!("{value:?}"),
                    &problems.join("; "),
                ));
            }
        }
        if !errors.is_empty() {
            return Err(SelectorError(aggregate(&errors)));
        }
        let mut values = values;
        values.sort_unstable();
        Ok(Self {
            key: key.to_owned(),
            operator,
            values,
        })
    }

    /// Whether labels fulfil it.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.fits(labels.get(&self.key))
    }

    /// Whether it can hold only where the key is there.
    fn needs_key(&self) -> bool {
        !matches!(self.operator, Operator::NotEquals | Operator::NotIn | Operator::DoesNotExist)
    }

    /// Whether the label of its key fulfils it.
    fn fits(&self, found: Option<&String>) -> bool {
        let known = |value: &String| self.values.binary_search(value).is_ok();
        match self.operator {
            Operator::Equals | Operator::DoubleEquals | Operator::In => found.is_some_and(known),
            Operator::NotEquals | Operator::NotIn => found.is_none_or(|value| !known(value)),
            Operator::Exists => found.is_some(),
            Operator::DoesNotExist => found.is_none(),
            Operator::GreaterThan | Operator::LessThan => {
                let (Some(have), Some(want)) = (
                    found.and_then(|value| value.parse::<i64>().ok()),
                    self.values.first().and_then(|value| value.parse::<i64>().ok()),
                ) else {
                    return false;
                };
                if self.operator == Operator::GreaterThan {
                    have > want
                } else {
                    have < want
                }
            }
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = self.values.join(",");
        let key = &self.key;
        match self.operator {
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::DoubleEquals => write!(f, "{key}=={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
        }
    }
}

impl LabelSelector {
    /// Matches everything.
    #[must_use]
    pub fn everything() -> Self {
        Self::default()
    }

    /// Matches nothing.
    #[must_use]
    pub fn nothing() -> Self {
        Self {
            nothing: true,
            ..Self::default()
        }
    }

    /// Parses a query string such as `a=b,c in (d,e),!f`.
    ///
    /// # Errors
    /// With upstream's text.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let requirements = query::parse(text).map_err(SelectorError)?;
        Ok(Self::of(requirements))
    }

    fn of(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        let needed = requirements
            .chunk_by(|a, b| a.key == b.key)
            .filter(|same| same.iter().any(Requirement::needs_key))
            .count();
        Self {
            requirements,
            nothing: false,
            needed,
        }
    }

    /// From a map of labels, each of which must be there (`spec.selector` of a Service or ReplicationController). An
    /// empty map matches everything. Nothing is validated.
    #[must_use]
    pub fn from_map(labels: &BTreeMap<String, String>) -> Self {
        Self::of(
            labels
                .iter()
                .map(|(key, value)| Requirement {
                    key: key.clone(),
                    operator: Operator::Equals,
                    values: vec![value.clone()],
                })
                .collect(),
        )
    }

    /// From a `metav1.LabelSelector` in JSON; null or absent matches nothing, `{}` everything.
    ///
    /// # Errors
    /// With upstream's text.
    pub fn from_value(value: Option<&Value>) -> Result<Self, SelectorError> {
        let Some(value) = value.filter(|value| !value.is_null()) else {
            return Ok(Self::nothing());
        };
        let mut requirements = Vec::new();
        for (key, label) in value["matchLabels"].as_object().into_iter().flatten() {
            let label = label.as_str().unwrap_or_default().to_owned();
            requirements.push(Requirement::new(key, Operator::Equals, vec![label])?);
        }
        for expression in value["matchExpressions"].as_array().into_iter().flatten() {
            let operator = match expression["operator"].as_str().unwrap_or_default() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(SelectorError(format!("{other:?} is not a valid label selector operator"))),
            };
            let values = expression["values"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|value| value.as_str().unwrap_or_default().to_owned())
                .collect();
            let key = expression["key"].as_str().unwrap_or_default();
            requirements.push(Requirement::new(key, operator, values)?);
        }
        Ok(Self::of(requirements))
    }

    /// Whether the labels fulfil all requirements. What it costs grows with the smaller of selector and labels.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        if self.nothing {
            return false;
        }
        if self.requirements.len() <= FEW_REQUIREMENTS {
            return self.requirements.iter().all(|requirement| requirement.matches(labels));
        }
        // Requirements on keys that are not there hold, but for those that need them.
        let mut met = 0;
        for (key, value) in labels {
            let start = self.requirements.partition_point(|requirement| requirement.key < *key);
            let mut needed = false;
            for requirement in self.requirements[start..]
                .iter()
                .take_while(|requirement| requirement.key == *key)
            {
                if !requirement.fits(Some(value)) {
                    return false;
                }
                needed |= requirement.needs_key();
            }
            met += usize::from(needed);
        }
        met == self.needed
    }

    /// Like [`Self::matches`], for `metadata.labels` as JSON.
    #[must_use]
    pub fn matches_value(&self, labels: Option<&Value>) -> bool {
        let labels: BTreeMap<String, String> = labels
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
            .collect();
        self.matches(&labels)
    }

    /// Whether it restricts nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            write!(f, "{requirement}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
    }

    #[test]
    fn query_strings_match() {
        let set = labels(&[("a", "b"), ("n", "5"), ("in", "in"), ("e", "")]);
        for (text, expected) in [
            ("", true),
            ("a=b", true),
            ("a==b,n", true),
            ("a!=b", false),
            ("zz!=b", true),
            ("a in (b, c),!zz", true),
            ("a notin (b)", false),
            ("zz notin (b)", true),
            ("n>4,n<6", true),
            ("n>5", false),
            ("in in (in)", true),
            ("in notin (notin)", true),
            ("e=", true),
            ("e in ()", true),
            ("e in (,x)", true),
            ("!a", false),
            ("  a = b ", true),
        ] {
            let selector = LabelSelector::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(selector.matches(&set), expected, "{text}");
        }
    }

    #[test]
    fn query_strings_are_refused_with_upstreams_text() {
        for (text, message) in [
            (
                "set=one,tier in (front",
                "unable to parse requirement: found '', expected: ',' or ')'",
            ),
            (
                "a b",
                "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt",
            ),
            ("a,,b", "found ',', expected: identifier after ','"),
            ("=a", "found '=', expected: !, identifier, or 'end of string'"),
            ("a in b", "unable to parse requirement: found 'b' expected: '('"),
            ("!a=b", "found '=', expected: ',' or 'end of string'"),
            (
                "v>x",
                "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer",
            ),
            (
                "-x=1",
                "unable to parse requirement: <nil>: Invalid value: \"-x\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
            ),
        ] {
            assert_eq!(LabelSelector::parse(text).unwrap_err().to_string(), message, "{text}");
        }
        let long = "x".repeat(64);
        assert_eq!(
            LabelSelector::parse(&format!("a={long}")).unwrap_err().to_string(),
            format!("unable to parse requirement: values[0][a]: Invalid value: \"{long}\": must be no more than 63 bytes")
        );
    }

    #[test]
    fn many_requirements_match_as_few_do() {
        let set = labels(&[("a", "1"), ("b", "2"), ("n", "5")]);
        let padding: Vec<String> = (0..FEW_REQUIREMENTS).map(|number| format!("!z{number}")).collect();
        for (text, expected) in [
            ("a=1", true),
            ("a=1,b in (2,3)", true),
            ("a=1,a!=1", false),
            ("a=1,c", false),
            ("c!=1,d notin (x),!e", true),
            ("!a", false),
            ("n>4,n<6,a", true),
            ("n>4,n<5", false),
        ] {
            let long = LabelSelector::parse(&format!("{text},{}", padding.join(","))).unwrap();
            assert_eq!(long.matches(&set), expected, "{text}");
            assert_eq!(LabelSelector::parse(text).unwrap().matches(&set), expected, "{text}");
        }
    }

    #[test]
    fn objects_match_and_print() {
        let value = json!({"matchLabels": {"b": "1", "a": "2"}, "matchExpressions": [
            {"key": "c", "operator": "In", "values": ["y", "x"]}, {"key": "d", "operator": "DoesNotExist"}]});
        let selector = LabelSelector::from_value(Some(&value)).unwrap();
        assert_eq!(selector.to_string(), "a=2,b=1,c in (x,y),!d");
        assert!(selector.matches(&labels(&[("a", "2"), ("b", "1"), ("c", "x")])));
        assert!(!LabelSelector::from_value(None).unwrap().matches(&labels(&[])));
        assert!(LabelSelector::from_value(Some(&json!({}))).unwrap().matches(&labels(&[])));
        let wrong = json!({"matchExpressions": [{"key": "c", "operator": "Near"}]});
        assert_eq!(
            LabelSelector::from_value(Some(&wrong)).unwrap_err().to_string(),
            "\"Near\" is not a valid label selector operator"
        );
    }
}
