//! Quantities as numbers, rounded up as upstream's `Value()` and `MilliValue()` do. Texts were validated by the API.

/// Whole units, rounded up; 0 for what does not parse.
#[must_use]
pub fn value(text: &str) -> i64 {
    scaled(text, 0)
}

/// Thousandths, rounded up; 0 for what does not parse.
#[must_use]
pub fn milli_value(text: &str) -> i64 {
    scaled(text, 3)
}

/// `text` × 10^`power`, rounded up and saturated.
fn scaled(text: &str, power: i32) -> i64 {
    let text = text.trim();
    let split = text
        .find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-')))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let (binary, decimal) = match suffix {
        "" => (0, 0),
        "n" => (0, -9),
        "u" => (0, -6),
        "m" => (0, -3),
        "k" => (0, 3),
        "M" => (0, 6),
        "G" => (0, 9),
        "T" => (0, 12),
        "P" => (0, 15),
        "E" => (0, 18),
        "Ki" => (10, 0),
        "Mi" => (20, 0),
        "Gi" => (30, 0),
        "Ti" => (40, 0),
        "Pi" => (50, 0),
        "Ei" => (60, 0),
        other => match other
            .strip_prefix(['e', 'E'])
            .and_then(|exponent| exponent.parse::<i32>().ok())
        {
            Some(exponent) => (0, exponent.clamp(-30, 30)),
            None => return 0,
        },
    };
    let negative = number.starts_with('-');
    let number = number.trim_start_matches(['+', '-']);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let fraction = &fraction[..fraction.len().min(12)];
    let digits = format!("{whole}{fraction}");
    let Ok(mantissa) = (if digits.is_empty() { "0" } else { &digits }).parse::<i128>() else {
        return 0;
    };
    let exponent = decimal + power - i32::try_from(fraction.len()).unwrap_or(0);
    let Some(mut value) = mantissa.checked_mul(1_i128 << binary) else {
        return i64::MAX;
    };
    for _ in 0..exponent.max(0) {
        let Some(next) = value.checked_mul(10) else { return i64::MAX };
        value = next;
    }
    let mut divisor: i128 = 1;
    for _ in 0..(-exponent).max(0) {
        divisor = divisor.saturating_mul(10);
    }
    let rounded = if value % divisor == 0 {
        value / divisor
    } else {
        value / divisor + 1
    };
    let rounded = i64::try_from(rounded).unwrap_or(i64::MAX);
    if negative { -rounded } else { rounded }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_round_up() {
        for (text, units, milli) in [
            ("0", 0, 0),
            ("1", 1, 1000),
            ("100m", 1, 100),
            ("1500m", 2, 1500),
            ("0.5", 1, 500),
            ("1.5Gi", 1_610_612_736, 1_610_612_736_000),
            ("128Mi", 134_217_728, 134_217_728_000),
            ("1e3", 1000, 1_000_000),
            ("2k", 2000, 2_000_000),
            ("10n", 1, 1),
            ("nonsense", 0, 0),
        ] {
            assert_eq!((value(text), milli_value(text)), (units, milli), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in ".{0,24}") {
            let _ = (value(&text), milli_value(&text));
        }
    }
}
