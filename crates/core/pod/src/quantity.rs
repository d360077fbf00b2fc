//! Quantities as numbers, rounded up as upstream's `Value()` and `MilliValue()` do. Texts were validated by the API.

use trireme_api::quantity::Quantity;

/// Whole units, rounded up; 0 for what does not parse.
#[must_use]
pub fn value(text: &str) -> i64 {
    Quantity::parse(text).map_or(0, |quantity| quantity.value())
}

/// Thousandths, rounded up; 0 for what does not parse.
#[must_use]
pub fn milli_value(text: &str) -> i64 {
    Quantity::parse(text).map_or(0, |quantity| quantity.milli_value())
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
