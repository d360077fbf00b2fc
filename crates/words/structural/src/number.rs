//! Numbers as Go holds them once it has read JSON, and what is said of those that do not fit.
//!
//! Invariant: a number without point and exponent that fits 64 bits is whole, every other is a float.

use serde_json::{Number, Value};

use crate::node::{Checks, Type};

/// A number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Num {
    Int(i64),
    Float(f64),
}

impl Num {
    pub fn of(number: &Number) -> Self {
        match number.as_i64() {
            Some(whole) => Self::Int(whole),
            None => Self::Float(number.as_f64().unwrap_or_default()),
        }
    }

    pub fn float(self) -> f64 {
        match self {
            Self::Int(whole) => whole as f64,
            Self::Float(float) => float,
        }
    }

    /// As `%v` prints it.
    pub fn shown(self) -> String {
        match self {
            Self::Int(whole) => whole.to_string(),
            Self::Float(float) => plain(float),
        }
    }
}

/// A float as Go's `%v` prints it.
fn plain(float: f64) -> String {
    let written = format!("{float:e}");
    let Some((mantissa, exponent)) = written.split_once('e') else {
        return written;
    };
    match exponent.parse::<i32>() {
        Ok(power) if float != 0.0 && !(-4..21).contains(&power) => {
            let sign = if power < 0 { '-' } else { '+' };
            format!("{mantissa}e{sign}{:02}", power.abs())
        }
        _ => format!("{float}"),
    }
}

/// A float as Go's `int64` makes it whole; what has too many digits becomes the least number of all.
fn whole(float: f64) -> i64 {
    const MOST: f64 = 9_223_372_036_854_775_808.0;
    if (-MOST..MOST).contains(&float) {
        float as i64
    } else {
        i64::MIN
    }
}

/// Whether a float is a whole number to those who speak JSON.
pub(crate) fn is_whole(float: f64) -> bool {
    const MOST: f64 = 9_007_199_254_740_991.0;
    if !float.is_finite() || float.abs() > MOST {
        return false;
    }
    let truncated = float.abs().trunc();
    let difference = (float.abs() - truncated).abs();
    if float.fract() == 0.0 {
        return true;
    }
    // What cannot be told apart from a whole number is one.
    truncated != 0.0 && difference / (float.abs() + truncated) < 1e-9
}

/// What is wrong with a number: a message that belongs to no field, or one of a field, with the value shown.
pub(crate) enum Wrong {
    Unplaced(String),
    Placed { value: String, message: String },
}

/// What the limits of a schema say of a number. Messages name the place `at`.
pub(crate) fn judge(number: Num, checks: Option<&Checks>, is: Type, at: &str) -> Vec<Wrong> {
    let mut found = Vec::new();
    let format = checks
        .and_then(|checks| checks.format.as_ref())
        .map_or("", |format| &*format.name);
    found.extend(range(number, is, format, "Checked", at).map(Wrong::Unplaced));
    let Some(checks) = checks else {
        return found;
    };
    // A limit that its type cannot hold is compared as a float.
    let mut limit = |limit: f64, prefix: &str| {
        let wrong = range(Num::Float(limit), is, format, prefix, at);
        let native = wrong.is_none();
        found.extend(wrong.map(Wrong::Unplaced));
        match number {
            Num::Int(_) if native => (number, Num::Int(whole(limit))),
            _ => (Num::Float(number.float()), Num::Float(limit)),
        }
    };
    let mut later = Vec::new();
    if let Some(factor) = checks.multiple_of {
        let (number, factor) = limit(factor, "MultipleOf");
        let (positive, multiple) = match (number, factor) {
            (Num::Int(number), Num::Int(factor)) => (factor > 0, factor > 0 && number % factor == 0),
            _ => {
                let (number, factor) = (number.float(), factor.float());
                let times = if factor < 1.0 {
                    1.0 / factor * number
                } else {
                    number / factor
                };
                (factor > 0.0, is_whole(times))
            }
        };
        if !positive {
            let message = format!("factor MultipleOf declared for {at} must be positive: {}", factor.shown());
            later.push((factor, message));
        } else if !multiple {
            later.push((number, format!("{at} in body should be a multiple of {}", factor.shown())));
        }
    }
    if let Some(least) = checks.minimum {
        let (number, least) = limit(least, "Minimum boundary");
        let exclusive = checks.exclusive_minimum;
        if below(number, least, exclusive) {
            let or = if exclusive { "" } else { "or equal to " };
            later.push((number, format!("{at} in body should be greater than {or}{}", least.shown())));
        }
    }
    if let Some(most) = checks.maximum {
        let (number, most) = limit(most, "Maximum boundary");
        let exclusive = checks.exclusive_maximum;
        if below(most, number, exclusive) {
            let or = if exclusive { "" } else { "or equal to " };
            later.push((number, format!("{at} in body should be less than {or}{}", most.shown())));
        }
    }
    found.extend(later.into_iter().map(|(value, message)| Wrong::Placed {
        value: value.shown(),
        message,
    }));
    found
}

/// Whether a number is below another, or as large where that is too small, too.
fn below(number: Num, least: Num, exclusive: bool) -> bool {
    match (number, least) {
        (Num::Int(number), Num::Int(least)) => number < least || (exclusive && number == least),
        _ => number.float() < least.float() || (exclusive && number.float() == least.float()),
    }
}

/// What is said of a number that its type and format cannot hold.
fn range(number: Num, is: Type, format: &str, prefix: &str, at: &str) -> Option<String> {
    let fits = match is {
        Type::Integer => match number {
            Num::Int(whole) => format != "int32" || i32::try_from(whole).is_ok(),
            Num::Float(float) => {
                const MOST: f64 = 9_223_372_036_854_775_808.0;
                let (least, most) = if format == "int32" {
                    (f64::from(i32::MIN), f64::from(i32::MAX))
                } else {
                    (-MOST, MOST)
                };
                float.fract() == 0.0 && float >= least && if format == "int32" { float <= most } else { float < most }
            }
        },
        Type::Number if format == "float" => (number.float() as f32).is_finite(),
        _ => true,
    };
    if fits {
        return None;
    }
    Some(if format.is_empty() {
        format!("{prefix} value must be of type {} (default format) in {at}", is.name())
    } else {
        format!("{prefix} value must be of type {} with format {format} in {at}", is.name())
    })
}

/// Whether a value is a choice, after Go made it one of the choice's type.
pub(crate) fn is_choice(value: &Value, choice: &Value) -> bool {
    match (value, choice) {
        (Value::Null, _) | (_, Value::Null) => false,
        (Value::Number(value), Value::Number(choice)) => match (Num::of(value), Num::of(choice)) {
            (Num::Int(value), Num::Float(choice)) => value as f64 == choice,
            (Num::Float(value), Num::Int(choice)) => whole(value) == choice,
            (value, choice) => value == choice,
        },
        (value, choice) => value == choice,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_print_as_go_prints_them() {
        for (float, text) in [
            (1.0, "1"),
            (0.5, "0.5"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (1e-5, "1e-05"),
            (-1.25e-7, "-1.25e-07"),
            (0.0, "0"),
        ] {
            assert_eq!(Num::Float(float).shown(), text);
        }
    }

    #[test]
    fn a_float_without_fraction_is_whole() {
        for (float, whole) in [
            (1.0, true),
            (1.5, false),
            (1e20, false),
            (-3.0, true),
            (0.000_000_000_1, false),
        ] {
            assert_eq!(is_whole(float), whole, "{float}");
        }
    }
}
