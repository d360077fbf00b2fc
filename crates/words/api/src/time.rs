//! Times as the API writes them, on [`jiff::Timestamp`]. It will not read a clock.
//!
//! Invariant: what `parse_*` takes and refuses, and the text it refuses with, is what Go's `time.Parse` does with
//! `2006-01-02T15:04:05Z07:00` and `2006-01-02T15:04:05.000000Z07:00`.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// The layout of `metav1.Time`, as Go's messages show it.
pub const SECONDS: &str = "2006-01-02T15:04:05Z07:00";
/// The layout of `metav1.MicroTime`, as Go's messages show it.
pub const MICROS: &str = "2006-01-02T15:04:05.000000Z07:00";

/// `parsing time "x" as "layout": …`, as Go says it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimeError {
    /// The text does not follow the layout from some point on.
    #[error("parsing time {text:?} as {layout:?}: cannot parse {rest:?} as {element:?}")]
    Layout {
        /// The whole text.
        text: String,
        /// The layout asked for.
        layout: &'static str,
        /// What was left to parse.
        rest: String,
        /// The element of the layout that it should have begun with.
        element: &'static str,
    },
    /// The text goes on after the layout's end.
    #[error("parsing time {text:?}: extra text: {rest:?}")]
    Extra {
        /// The whole text.
        text: String,
        /// What was left.
        rest: String,
    },
    /// An element is out of its range.
    #[error("parsing time {text:?}: {element} out of range")]
    Range {
        /// The whole text.
        text: String,
        /// `month`, `day`, `hour`, `minute`, `second`.
        element: &'static str,
    },
}

/// RFC 3339 in UTC and whole seconds, the form of `metav1.Time`.
#[must_use]
pub fn format(time: Timestamp) -> String {
    time.to_zoned(TimeZone::UTC).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// RFC 3339 in UTC with six digits of fraction, the form of `metav1.MicroTime`.
#[must_use]
pub fn format_micro(time: Timestamp) -> String {
    let micros = time.subsec_nanosecond().rem_euclid(1_000_000_000) / 1000;
    let seconds = time.as_nanosecond().div_euclid(1_000_000_000);
    let whole = i64::try_from(seconds)
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok())
        .unwrap_or(time);
    whole
        .to_zoned(TimeZone::UTC)
        .strftime(&format!("%Y-%m-%dT%H:%M:%S.{micros:06}Z"))
        .to_string()
}

/// Parses RFC 3339 with or without a fraction.
///
/// # Errors
/// With Go's message.
pub fn parse(text: &str) -> Result<Timestamp, TimeError> {
    Parser::new(text, SECONDS).run(false)
}

/// Parses RFC 3339 with exactly six digits of fraction or more as Go does for that layout.
///
/// # Errors
/// With Go's message.
pub fn parse_micro(text: &str) -> Result<Timestamp, TimeError> {
    Parser::new(text, MICROS).run(true)
}

/// Whether it is Go's zero time, which the API writes as null.
#[must_use]
pub fn is_go_zero(time: Timestamp) -> bool {
    time.as_second() == -62_135_596_800 && time.subsec_nanosecond() == 0
}

struct Parser<'a> {
    text: &'a str,
    rest: &'a str,
    layout: &'static str,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str, layout: &'static str) -> Self {
        Self {
            text,
            rest: text,
            layout,
        }
    }

    fn fail(&self, rest: &str, element: &'static str) -> TimeError {
        TimeError::Layout {
            text: self.text.into(),
            layout: self.layout,
            rest: rest.into(),
            element,
        }
    }

    fn range(&self, element: &'static str) -> TimeError {
        TimeError::Range {
            text: self.text.into(),
            element,
        }
    }

    fn digits(&mut self, count: usize, element: &'static str) -> Result<i16, TimeError> {
        let head = self.rest.as_bytes().get(..count);
        match head {
            Some(head) if head.iter().all(u8::is_ascii_digit) => {
                let number = head.iter().fold(0i16, |sum, digit| sum * 10 + i16::from(digit - b'0'));
                self.rest = &self.rest[count..];
                Ok(number)
            }
            _ => Err(self.fail(self.rest, element)),
        }
    }

    fn literal(&mut self, element: &'static str) -> Result<(), TimeError> {
        match self.rest.strip_prefix(element) {
            Some(rest) => {
                self.rest = rest;
                Ok(())
            }
            None => Err(self.fail(self.rest, element)),
        }
    }

    fn bounded(&mut self, element: &'static str, name: &'static str, low: i16, high: i16) -> Result<i8, TimeError> {
        let number = self.digits(2, element)?;
        if number < low || number > high {
            return Err(self.range(name));
        }
        i8::try_from(number).map_err(|_| self.range(name))
    }

    fn fraction(&mut self) -> i32 {
        let count = self.rest[1..].bytes().take_while(u8::is_ascii_digit).count();
        let mut nanos = 0i32;
        for index in 0..9 {
            let digit = if index < count {
                self.rest.as_bytes()[1 + index] - b'0'
            } else {
                0
            };
            nanos = nanos * 10 + i32::from(digit);
        }
        self.rest = &self.rest[1 + count..];
        nanos
    }

    fn run(mut self, micro: bool) -> Result<Timestamp, TimeError> {
        let year = self.digits(4, "2006")?;
        self.literal("-")?;
        let month = self.bounded("01", "month", 1, 12)?;
        self.literal("-")?;
        let day = self.digits(2, "02")?;
        self.literal("T")?;
        let hour = self.bounded("15", "hour", 0, 23)?;
        self.literal(":")?;
        let minute = self.bounded("04", "minute", 0, 59)?;
        self.literal(":")?;
        let second = self.bounded("05", "second", 0, 59)?;
        let mut nanos = 0;
        let fraction_follows = self.rest.starts_with(['.', ',']) && self.rest.as_bytes().get(1).is_some_and(u8::is_ascii_digit);
        if micro {
            let six = self
                .rest
                .as_bytes()
                .get(1..7)
                .is_some_and(|digits| digits.iter().all(u8::is_ascii_digit));
            let seventh = self.rest.as_bytes().get(7).is_some_and(u8::is_ascii_digit);
            if !(fraction_follows && six) {
                return Err(self.fail(self.rest, ".000000"));
            }
            if seventh {
                let rest = &self.rest[7..];
                return Err(self.fail(rest, "Z07:00"));
            }
            nanos = self.fraction();
        } else if fraction_follows {
            nanos = self.fraction();
        }
        let offset = self.zone()?;
        if !self.rest.is_empty() {
            return Err(TimeError::Extra {
                text: self.text.into(),
                rest: self.rest.into(),
            });
        }
        let day = i8::try_from(day).map_err(|_| self.range("day"))?;
        let civil = jiff::civil::DateTime::new(year, month, day, hour, minute, second, nanos).map_err(|_| self.range("day"))?;
        let utc = civil.to_zoned(TimeZone::UTC).map_err(|_| self.range("day"))?.timestamp();
        utc.checked_sub(jiff::SignedDuration::from_secs(offset))
            .map_err(|_| self.range("day"))
    }

    /// Offset east of UTC in seconds.
    fn zone(&mut self) -> Result<i64, TimeError> {
        if let Some(rest) = self.rest.strip_prefix('Z') {
            self.rest = rest;
            return Ok(0);
        }
        let bytes = self.rest.as_bytes();
        let valid = bytes.len() >= 6
            && matches!(bytes[0], b'+' | b'-')
            && bytes[3] == b':'
            && [1, 2, 4, 5].iter().all(|index: &usize| bytes[*index].is_ascii_digit());
        if !valid {
            return Err(self.fail(self.rest, "Z07:00"));
        }
        let two = |at: usize| i64::from(bytes[at] - b'0') * 10 + i64::from(bytes[at + 1] - b'0');
        let (hours, minutes) = (two(1), two(4));
        if hours > 24 {
            return Err(self.range("time zone offset hour"));
        }
        if minutes > 60 {
            return Err(self.range("time zone offset minute"));
        }
        let seconds = hours * 3600 + minutes * 60;
        let offset = if bytes[0] == b'-' { -seconds } else { seconds };
        self.rest = &self.rest[6..];
        Ok(offset)
    }
}

/// Parses a Go duration such as `1h15m30.5s` into nanoseconds.
///
/// # Errors
/// With Go's message.
pub fn parse_duration(text: &str) -> Result<i64, DurationError> {
    let invalid = || DurationError::Invalid(text.into());
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let whole_end = rest.bytes().take_while(u8::is_ascii_digit).count();
        let mut end = whole_end;
        let mut fraction = "";
        if rest[end..].starts_with('.') {
            let count = rest[end + 1..].bytes().take_while(u8::is_ascii_digit).count();
            fraction = &rest[end + 1..end + 1 + count];
            end += 1 + count;
        }
        if whole_end == 0 && fraction.is_empty() {
            return Err(invalid());
        }
        let unit_end = end
            + rest[end..]
                .bytes()
                .take_while(|byte| *byte != b'.' && !byte.is_ascii_digit())
                .count();
        let unit = &rest[end..unit_end];
        let scale: i128 = match unit {
            "" => return Err(DurationError::MissingUnit(text.into())),
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            other => return Err(DurationError::UnknownUnit(other.into(), text.into())),
        };
        let whole: i128 = if whole_end == 0 {
            0
        } else {
            rest[..whole_end].parse().map_err(|_| invalid())?
        };
        total += whole.checked_mul(scale).ok_or_else(invalid)?;
        let mut weight = scale;
        for digit in fraction.bytes() {
            total += i128::from(digit - b'0') * weight / 10;
            weight /= 10;
        }
        if total > 1 << 63 {
            return Err(invalid());
        }
        rest = &rest[unit_end..];
    }
    i64::try_from(if negative { -total } else { total }).map_err(|_| invalid())
}

/// Why a text is no duration; texts are Go's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Malformed or too long.
    #[error("time: invalid duration {0:?}")]
    Invalid(String),
    /// A number without unit.
    #[error("time: missing unit in duration {0:?}")]
    MissingUnit(String),
    /// No such unit.
    #[error("time: unknown unit {0:?} in duration {1:?}")]
    UnknownUnit(String, String),
}

/// Prints nanoseconds as Go prints a duration: `1h0m0s`, `1.5s`, `10ms`, `0s`.
#[must_use]
pub fn format_duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let total = nanos.unsigned_abs();
    let decimal = |value: u64, unit: u64, width: usize| {
        let (whole, rest) = (value / unit, value % unit);
        if rest == 0 {
            whole.to_string()
        } else {
            format!("{whole}.{}", format!("{rest:0width$}").trim_end_matches('0'))
        }
    };
    match total {
        0 => "0s".into(),
        1..1_000 => format!("{sign}{total}ns"),
        1_000..1_000_000 => format!("{sign}{}µs", decimal(total, 1_000, 3)),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", decimal(total, 1_000_000, 6)),
        _ => {
            let seconds = decimal(total % 60_000_000_000, 1_000_000_000, 9);
            let minutes = total / 60_000_000_000;
            if minutes == 0 {
                format!("{sign}{seconds}s")
            } else if minutes < 60 {
                format!("{sign}{minutes}m{seconds}s")
            } else {
                format!("{sign}{}h{}m{seconds}s", minutes / 60, minutes % 60)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_taken_and_refused_as_go_does() {
        for (text, out) in [
            ("2010-03-04T05:06:07Z", "2010-03-04T05:06:07Z"),
            ("2010-03-04T05:06:07.999Z", "2010-03-04T05:06:07Z"),
            ("2010-03-04T05:06:07+02:00", "2010-03-04T03:06:07Z"),
        ] {
            assert_eq!(format(parse(text).unwrap()), out);
        }
        assert_eq!(
            format_micro(parse_micro("2010-03-04T05:06:07.000008Z").unwrap()),
            "2010-03-04T05:06:07.000008Z"
        );
        assert_eq!(
            parse("soon").unwrap_err().to_string(),
            r#"parsing time "soon" as "2006-01-02T15:04:05Z07:00": cannot parse "soon" as "2006""#
        );
        assert_eq!(
            parse_micro("2010-03-04T05:06:07Z").unwrap_err().to_string(),
            r#"parsing time "2010-03-04T05:06:07Z" as "2006-01-02T15:04:05.000000Z07:00": cannot parse "Z" as ".000000""#
        );
        assert_eq!(
            parse("2010-13-04T05:06:07Z").unwrap_err().to_string(),
            r#"parsing time "2010-13-04T05:06:07Z": month out of range"#
        );
        assert!(is_go_zero(parse("0001-01-01T00:00:00Z").unwrap()));
    }

    #[test]
    fn durations() {
        for (text, out) in [
            ("90s", "1m30s"),
            ("1h", "1h0m0s"),
            ("1500ms", "1.5s"),
            ("10ms", "10ms"),
            ("0", "0s"),
            ("-1.5h", "-1h30m0s"),
            ("3us", "3µs"),
        ] {
            assert_eq!(format_duration(parse_duration(text).unwrap()), out);
        }
        assert_eq!(
            parse_duration("5").unwrap_err().to_string(),
            r#"time: missing unit in duration "5""#
        );
        assert_eq!(parse_duration("x").unwrap_err().to_string(), r#"time: invalid duration "x""#);
    }
}
