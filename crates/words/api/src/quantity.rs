//! Fixed-point numbers with a suffix, as `resource.Quantity` parses, compares, adds and prints them.
//!
//! Invariant: no floating point inside; nothing finer than a billionth is kept (rounded away from zero). A text already
//! close to canonical is kept as it was written, as upstream keeps it. Magnitudes beyond 38 digits are refused.

use std::cmp::Ordering;
use std::fmt;

/// How a quantity is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `12M`.
    DecimalSi,
    /// `12Mi`.
    BinarySi,
    /// `12e6`.
    DecimalExponent,
}

/// Why a text is no quantity. The texts are upstream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not of the form number and suffix.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// The number is malformed or too large.
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    /// No such suffix.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// A parsed quantity: `value * 10^scale`.
#[derive(Clone, Debug)]
pub struct Quantity {
    value: i128,
    scale: i32,
    format: Format,
    text: Option<Box<str>>,
}

struct Parts<'a> {
    positive: bool,
    number: &'a str,
    whole: &'a str,
    fraction: &'a str,
    suffix: &'a str,
}

fn scan(text: &str) -> Result<Parts<'_>, QuantityError> {
    let bytes = text.as_bytes();
    let digits = |mut at: usize| {
        while bytes.get(at).is_some_and(u8::is_ascii_digit) {
            at += 1;
        }
        at
    };
    let mut at = 0;
    let positive = bytes.first() != Some(&b'-');
    if matches!(bytes.first(), Some(b'-' | b'+')) {
        at += 1;
    }
    while bytes.get(at) == Some(&b'0') {
        at += 1;
    }
    let start = at;
    at = digits(at);
    let whole = if at == start { "0" } else { &text[start..at] };
    let mut fraction = "";
    if bytes.get(at) == Some(&b'.') {
        let end = digits(at + 1);
        fraction = &text[at + 1..end];
        at = end;
    }
    let number = &text[..at];
    let suffix_start = at;
    while bytes.get(at).is_some_and(|byte| b"eEinumkKMGTP".contains(byte)) {
        at += 1;
    }
    if at < bytes.len() && matches!(bytes[at], b'-' | b'+') {
        at += 1;
    }
    if digits(at) != bytes.len() {
        return Err(QuantityError::Format);
    }
    Ok(Parts {
        positive,
        number,
        whole,
        fraction,
        suffix: &text[suffix_start..],
    })
}

const DECIMAL: &[(&str, i32)] = &[
    ("n", -9),
    ("u", -6),
    ("m", -3),
    ("", 0),
    ("k", 3),
    ("M", 6),
    ("G", 9),
    ("T", 12),
    ("P", 15),
    ("E", 18),
];
const BINARY: &[(&str, i32)] = &[("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];

fn interpret(suffix: &str) -> Option<(Format, i32)> {
    if let Some((_, exponent)) = DECIMAL.iter().find(|(known, _)| *known == suffix) {
        return Some((Format::DecimalSi, *exponent));
    }
    if let Some((_, exponent)) = BINARY.iter().find(|(known, _)| *known == suffix) {
        return Some((Format::BinarySi, *exponent));
    }
    let rest = suffix.strip_prefix(['e', 'E'])?;
    rest.parse().ok().map(|exponent| (Format::DecimalExponent, exponent))
}

fn power(exponent: u32) -> Option<i128> {
    10i128.checked_pow(exponent)
}

/// `value / 10^digits`, away from zero, and whether it was exact.
fn shrink(value: i128, digits: u32) -> (i128, bool) {
    let Some(divisor) = power(digits) else {
        return (value.signum(), value == 0);
    };
    let (quotient, rest) = (value / divisor, value % divisor);
    if rest == 0 {
        (quotient, true)
    } else {
        (quotient + value.signum(), false)
    }
}

impl Quantity {
    /// The zero quantity.
    #[must_use]
    pub fn zero(format: Format) -> Self {
        Self::new(0, format)
    }

    /// A whole number.
    #[must_use]
    pub fn new(value: i64, format: Format) -> Self {
        Self {
            value: value.into(),
            scale: 0,
            format,
            text: None,
        }
    }

    /// Thousandths.
    #[must_use]
    pub fn from_milli(value: i64, format: Format) -> Self {
        Self {
            value: value.into(),
            scale: -3,
            format,
            text: None,
        }
    }

    /// Billionths.
    #[must_use]
    pub fn from_nano(value: i128, format: Format) -> Self {
        Self {
            value,
            scale: -9,
            format,
            text: None,
        }
    }

    /// Parses a text such as `1.5Gi`, `100m` or `12e6`.
    ///
    /// # Errors
    /// When it is not a quantity.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        if text.is_empty() {
            return Err(QuantityError::Format);
        }
        let parts = scan(text)?;
        let (mut format, exponent) = interpret(parts.suffix).ok_or(QuantityError::Suffix)?;
        let length = i32::try_from(parts.whole.len() + parts.fraction.len()).map_err(|_| QuantityError::Numeric)?;
        if parts.number.is_empty() && parts.suffix.is_empty() || length > 38 {
            return Err(QuantityError::Numeric);
        }
        let digits: i128 = [parts.whole, parts.fraction]
            .concat()
            .parse()
            .map_err(|_| QuantityError::Numeric)?;
        let fraction = i32::try_from(parts.fraction.len()).map_err(|_| QuantityError::Numeric)?;
        let sign = if parts.positive { 1 } else { -1 };
        let (multiplier, mut scale, precision) = match format {
            Format::BinarySi => {
                let precision = if fraction == 0 {
                    14 - i32::try_from(parts.whole.len()).unwrap_or(i32::MAX / 2) - exponent * 3 / 10
                } else {
                    -1
                };
                (1i128 << exponent, -fraction, precision)
            }
            _ => (1, exponent.checked_sub(fraction).ok_or(QuantityError::Numeric)?, 18 - length),
        };
        let mut value = digits.checked_mul(multiplier).ok_or(QuantityError::Numeric)?;
        if precision >= 0 && scale >= -9 {
            let shifted = [parts.whole, parts.fraction].concat();
            let keeps = match format {
                Format::BinarySi => exponent % 10 == 0 && digits & 7 != 0,
                _ => scale % 3 == 0 && !shifted.ends_with("000") && !shifted.starts_with('0'),
            };
            let kept = Self {
                value: sign * value,
                scale,
                format,
                text: keeps.then(|| text.into()),
            };
            return if scale > 38 && value != 0 {
                Err(QuantityError::Numeric)
            } else {
                Ok(kept)
            };
        }
        if scale < -9 {
            let drop = u32::try_from(-9 - i64::from(scale)).map_err(|_| QuantityError::Numeric)?;
            value = shrink(value, drop).0;
            scale = -9;
        }
        let mut parsed = Self {
            value,
            scale,
            format,
            text: None,
        };
        if format == Format::BinarySi {
            if parsed.compare_whole(i64::MAX) == Ordering::Greater {
                (parsed.value, parsed.scale) = (i64::MAX.into(), 0);
            }
            if parsed.compare_whole(1) == Ordering::Less && parsed.value > 0 {
                format = Format::DecimalSi;
            }
        }
        parsed.format = format;
        parsed.value *= sign;
        Ok(parsed)
    }

    /// Without what is finer than `10^scale`, rounded away from zero; nothing where that changes nothing.
    #[must_use]
    pub fn rounded_up(&self, scale: i32) -> Option<Self> {
        if self.scale >= scale {
            return None;
        }
        let (value, exact) = shrink(self.value, self.scale.abs_diff(scale));
        (!exact).then_some(Self {
            value,
            scale,
            format: self.format,
            text: None,
        })
    }

    /// The format it was written in.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// Whether it is zero.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.value == 0
    }

    /// -1, 0 or 1.
    #[must_use]
    pub fn sign(&self) -> i32 {
        i32::try_from(self.value.signum()).unwrap_or(0)
    }

    /// Whole units, rounded away from zero; of more than 64 bits the lower ones, as Go takes them.
    #[must_use]
    pub fn wrapped_value(&self) -> i64 {
        let [a, b, c, d, e, f, g, h, ..] = self.scaled(0).to_le_bytes();
        i64::from_le_bytes([a, b, c, d, e, f, g, h])
    }

    /// Value in units of `10^scale`, rounded away from zero, saturating.
    #[must_use]
    pub fn scaled_value(&self, scale: i32) -> i64 {
        let value = self.scaled(scale);
        i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
    }

    fn scaled(&self, scale: i32) -> i128 {
        if self.scale >= scale {
            let factor = u32::try_from(self.scale - scale).ok().and_then(power);
            match factor.and_then(|factor| self.value.checked_mul(factor)) {
                Some(value) => value,
                None if self.value == 0 => 0,
                None => i128::MAX * self.value.signum(),
            }
        } else {
            shrink(self.value, self.scale.abs_diff(scale)).0
        }
    }

    /// The number, if it is written without a fraction and with fewer than 19 digits: what upstream calls an integer.
    #[must_use]
    pub fn as_int(&self) -> Option<i64> {
        let short = self.value.unsigned_abs() < 10_u128.pow(18);
        let factor = power(u32::try_from(self.scale).ok()?)?;
        i64::try_from(self.value.checked_mul(factor)?).ok().filter(|_| short)
    }

    /// Whole units, rounded away from zero.
    #[must_use]
    pub fn value(&self) -> i64 {
        self.scaled_value(0)
    }

    /// Thousandths, rounded away from zero.
    #[must_use]
    pub fn milli_value(&self) -> i64 {
        self.scaled_value(-3)
    }

    /// The number as a float, for ratios and metrics only.
    #[must_use]
    pub fn as_f64(&self) -> f64 {
        #[allow(clippy::cast_precision_loss)] // a ratio's precision is enough
        let base = self.value as f64;
        base * 10f64.powi(self.scale)
    }

    /// Whether it has no fraction.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.scale >= 0 || shrink(self.value, self.scale.unsigned_abs()).1
    }

    fn aligned(&self, other: &Self) -> Option<(i128, i128, i32)> {
        let scale = self.scale.min(other.scale);
        let up = |quantity: &Self| {
            if quantity.value == 0 {
                return Some(0);
            }
            quantity.value.checked_mul(power(quantity.scale.abs_diff(scale))?)
        };
        Some((up(self)?, up(other)?, scale))
    }

    fn compare_whole(&self, whole: i64) -> Ordering {
        self.cmp(&Self::new(whole, self.format))
    }

    fn combine(&mut self, other: &Self, sign: i128) {
        self.text = None;
        if self.value == 0 {
            self.format = other.format;
        }
        if let Some((a, b, scale)) = self.aligned(other)
            && let Some(sum) = a.checked_add(sign * b)
        {
            (self.value, self.scale) = (sum, scale);
        } else {
            // Beyond 38 digits only the larger one counts.
            if other.as_f64().abs() > self.as_f64().abs() {
                (self.value, self.scale) = (sign * other.value, other.scale);
            }
        }
    }

    /// Adds.
    pub fn add(&mut self, other: &Self) {
        self.combine(other, 1);
    }

    /// Subtracts.
    pub fn sub(&mut self, other: &Self) {
        self.combine(other, -1);
    }

    /// Multiplies by a whole number; beyond 38 digits it saturates.
    pub fn mul(&mut self, factor: i64) {
        self.text = None;
        self.value = self.value.saturating_mul(factor.into());
    }

    /// The negative.
    pub fn negate(&mut self) {
        self.text = None;
        self.value = -self.value;
    }

    fn canonical(&self) -> String {
        if self.value == 0 {
            return "0".into();
        }
        let mut format = self.format;
        if format == Format::BinarySi
            && (!self.is_whole()
                || (self.compare_whole(-1024) == Ordering::Greater && self.compare_whole(1024) == Ordering::Less))
        {
            format = Format::DecimalSi;
        }
        if format == Format::BinarySi
            && let Some(mut whole) = (if self.scale >= 0 {
                power(self.scale.unsigned_abs()).and_then(|factor| self.value.checked_mul(factor))
            } else {
                Some(shrink(self.value, self.scale.unsigned_abs()).0)
            })
        {
            let mut exponent = 0;
            while whole.abs() >= 1024 && whole % 1024 == 0 && exponent < 60 {
                whole /= 1024;
                exponent += 10;
            }
            let suffix = BINARY
                .iter()
                .find(|(_, known)| *known == exponent)
                .map_or("", |(text, _)| text);
            return format!("{whole}{suffix}");
        }
        let (mut value, mut exponent) = (self.value, self.scale);
        while value.abs() >= 10 && value % 10 == 0 {
            value /= 10;
            exponent += 1;
        }
        while exponent % 3 != 0 {
            value = value.saturating_mul(10);
            exponent -= 1;
        }
        if format == Format::DecimalExponent {
            return if exponent == 0 {
                value.to_string()
            } else {
                format!("{value}e{exponent}")
            };
        }
        let suffix = DECIMAL
            .iter()
            .find(|(_, known)| *known == exponent)
            .map_or("", |(text, _)| text);
        format!("{value}{suffix}")
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.text {
            Some(text) => f.write_str(text),
            None => f.write_str(&self.canonical()),
        }
    }
}

impl std::str::FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        match self.aligned(other) {
            Some((a, b, _)) => a.cmp(&b),
            None => self.as_f64().total_cmp(&other.as_f64()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_texts() {
        for (text, canonical) in [
            ("0", "0"),
            ("1000m", "1"),
            ("0.5", "500m"),
            ("500m", "500m"),
            ("1.5Gi", "1536Mi"),
            ("1024Mi", "1Gi"),
            ("1536Mi", "1536Mi"),
            ("1Gi", "1Gi"),
            ("1000Ki", "1000Ki"),
            ("1024", "1024"),
            ("100000", "100k"),
            ("1e3", "1e3"),
            ("1000e3", "1e6"),
            ("1.5", "1500m"),
            ("0.1m", "100u"),
            ("0.0000000001", "1n"),
            ("-1.5Gi", "-1536Mi"),
            ("0.5Ki", "512"),
            ("0.0001Ki", "102400u"),
            ("123456789Gi", "123456789Gi"),
            ("9223372036854775808Ki", "9223372036854775807"),
            ("10E", "10E"),
            ("+1", "+1"),
            ("1500000", "1500k"),
            ("2.50", "2500m"),
            (".000000000001Ki", "2n"),
            (".001Ki", "1024m"),
            ("9Ei", "9223372036854775807"),
            ("100.035Ki", "102435840m"),
            ("1.3E+6", "1300e3"),
            ("1.1E-9", "2e-9"),
            ("1.G", "1.G"),
            ("3.001n", "4n"),
            ("-.001Ki", "-1024m"),
        ] {
            assert_eq!(Quantity::parse(text).unwrap().to_string(), canonical, "{text}");
        }
    }

    #[test]
    fn errors_say_which_part_is_wrong() {
        for (text, error) in [
            ("", QuantityError::Format),
            ("abc", QuantityError::Format),
            ("1Gib", QuantityError::Format),
            ("1.2.3", QuantityError::Format),
            ("1K", QuantityError::Suffix),
            ("1e", QuantityError::Suffix),
            ("1 Gi", QuantityError::Format),
            ("1.1.M", QuantityError::Format),
            ("0.1mi", QuantityError::Suffix),
            ("-3.01e-", QuantityError::Suffix),
        ] {
            assert_eq!(Quantity::parse(text).unwrap_err(), error, "{text}");
        }
    }

    #[test]
    fn arithmetic_and_comparison() {
        let parse = |text| Quantity::parse(text).unwrap();
        let mut sum = parse("500m");
        sum.add(&parse("1500m"));
        assert_eq!(sum.to_string(), "2");
        let mut difference = parse("1Gi");
        difference.sub(&parse("512Mi"));
        assert_eq!(difference.to_string(), "512Mi");
        assert_eq!(
            (difference.value(), parse("1500m").value(), parse("0.0001").milli_value()),
            (536_870_912, 2, 1)
        );
        assert!(parse("1Gi") > parse("1G") && parse("1000m") == parse("1") && parse("-1") < parse("0"));
        let mut zero = Quantity::zero(Format::DecimalSi);
        zero.add(&parse("1Gi"));
        assert_eq!(zero.to_string(), "1Gi");
        zero.mul(3);
        assert_eq!(zero.to_string(), "3Gi");
        zero.negate();
        assert_eq!(zero.sign(), -1);
    }
}
