//! Functions of text. Letters are code points.

use super::{Body, unfit};
use crate::eval::compile::Call;
use crate::eval::error::{EvalError, Evaluated, refused};
use crate::eval::ops;
use crate::eval::regex::Pattern;
use crate::eval::show;
use crate::eval::value::Val;

/// The text that an argument is.
pub(super) fn text<'r>(call: &Call, values: &'r [Val<'_>], index: usize) -> Evaluated<&'r str> {
    match values.get(index) {
        Some(Val::String(text)) => Ok(text.as_str()),
        _ => Err(unfit(call, values)),
    }
}

/// The number that an argument is, none if there is no such argument.
fn number(call: &Call, values: &[Val<'_>], index: usize) -> Evaluated<Option<i64>> {
    match values.get(index) {
        Some(Val::Int(number)) => Ok(Some(*number)),
        None => Ok(None),
        Some(_) => Err(unfit(call, values)),
    }
}

pub(super) fn body(name: &str) -> Option<Body> {
    Some(match name {
        "contains" => |_, call, values| Ok(Val::Bool(text(call, values, 0)?.contains(text(call, values, 1)?))),
        "startsWith" => |_, call, values| Ok(Val::Bool(text(call, values, 0)?.starts_with(text(call, values, 1)?))),
        "endsWith" => |_, call, values| Ok(Val::Bool(text(call, values, 0)?.ends_with(text(call, values, 1)?))),
        "matches" => |_, call, values| {
            let subject = match &values[0] {
                Val::String(text) => text.as_str(),
                _ if call.pattern.is_some() => return Err(EvalError::NoSuchOverload),
                Val::Duration(_) | Val::Timestamp(..) => return Err(EvalError::NoSuchOverload),
                _ => return Err(EvalError::NoSuchOverloadOf("matches".into())),
            };
            match &call.pattern {
                Some(pattern) => Ok(Val::Bool(pattern.0.is_match(subject))),
                None => match values.get(1) {
                    Some(Val::String(pattern)) => Ok(Val::Bool(Pattern::new(pattern.as_str())?.0.is_match(subject))),
                    _ => Err(EvalError::NoSuchOverload),
                },
            }
        },
        "find" | "findAll" => find,
        "charAt" => |_, call, values| {
            let (letters, at) = (text(call, values, 0)?, number(call, values, 1)?.unwrap_or_default());
            let count = letters.chars().count();
            match usize::try_from(at).ok().filter(|at| *at <= count) {
                Some(at) => Ok(Val::made(&letters.chars().nth(at).map(String::from).unwrap_or_default())),
                None => Err(EvalError::OutOfRange(at)),
            }
        },
        "indexOf" => |_, call, values| search(call, values, false),
        "lastIndexOf" => |_, call, values| search(call, values, true),
        "lowerAscii" => |_, call, values| Ok(Val::made(&text(call, values, 0)?.to_ascii_lowercase())),
        "upperAscii" => |_, call, values| Ok(Val::made(&text(call, values, 0)?.to_ascii_uppercase())),
        "trim" => |_, call, values| Ok(Val::made(text(call, values, 0)?.trim_matches(is_space))),
        "replace" => |run, call, values| {
            let (whole, old, new) = (text(call, values, 0)?, text(call, values, 1)?, text(call, values, 2)?);
            let most = number(call, values, 3)?.unwrap_or(-1);
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            let found = if old.is_empty() {
                whole.chars().count() + 1
            } else {
                whole.matches(old).count()
            };
            run.makes((found.min(most) as u64).saturating_mul(new.len() as u64) / 8)?;
            Ok(Val::made(&whole.replacen(old, new, most)))
        },
        "split" => |_, call, values| {
            let (whole, separator) = (text(call, values, 0)?, text(call, values, 1)?);
            let most = number(call, values, 2)?.unwrap_or(-1);
            Ok(Val::list(split(whole, separator, most).into_iter().map(Val::made).collect()))
        },
        "substring" => |_, call, values| {
            let whole = text(call, values, 0)?;
            let count = whole.chars().count();
            let start = number(call, values, 1)?.unwrap_or_default();
            let end = number(call, values, 2)?;
            if let Some(end) = end.filter(|end| start > *end) {
                return Err(EvalError::Substring { start, end });
            }
            let within = |at: i64| {
                usize::try_from(at)
                    .ok()
                    .filter(|at| *at <= count)
                    .ok_or(EvalError::OutOfRange(at))
            };
            let from = within(start)?;
            let to = end.map_or(Ok(count), within)?;
            let part: String = whole.chars().skip(from).take(to - from).collect();
            Ok(Val::made(&part))
        },
        "join" => |run, call, values| {
            let Val::List(list) = &values[0] else {
                return Err(unfit(call, values));
            };
            let separator = if values.len() > 1 { text(call, values, 1)? } else { "" };
            run.makes((list.len() as u64).saturating_mul(separator.len() as u64) / 8)?;
            let mut made = String::new();
            for (index, item) in list.values()?.iter().enumerate() {
                if index > 0 {
                    made.push_str(separator);
                }
                let Val::String(part) = item else {
                    return refused(format!("join: invalid input: {}", show::plain(item)));
                };
                run.makes(part.as_str().len() as u64 / 8)?;
                made.push_str(part.as_str());
            }
            Ok(Val::made(&made))
        },
        "strings.quote" => |_, call, values| {
            let mut made = String::from("\"");
            for letter in text(call, values, 0)?.chars() {
                match show::escape(letter) {
                    Some(escape) => made.push_str(escape),
                    None => made.push(letter),
                }
            }
            made.push('"');
            Ok(Val::made(&made))
        },
        "format" => super::format::format,
        _ => return None,
    })
}

/// What Go trims.
fn is_space(letter: char) -> bool {
    letter.is_whitespace()
}

/// Parts between separators, as Go's `SplitN` cuts them.
fn split<'t>(whole: &'t str, separator: &str, most: i64) -> Vec<&'t str> {
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    if most == 0 {
        return Vec::new();
    }
    if !separator.is_empty() {
        return whole.splitn(most, separator).collect();
    }
    let mut parts = Vec::new();
    let mut rest = whole;
    while let Some(letter) = rest.chars().next() {
        if parts.len() + 1 == most {
            parts.push(rest);
            return parts;
        }
        let (part, after) = rest.split_at(letter.len_utf8());
        parts.push(part);
        rest = after;
    }
    parts
}

fn find<'r, 'p, 'a>(_: &'r mut crate::eval::run::Run<'p, 'a>, call: &'r Call, values: &'r [Val<'a>]) -> Evaluated<Val<'a>> {
    let Val::String(subject) = &values[0] else {
        return Err(if call.pattern.is_some() {
            EvalError::NoSuchOverload
        } else {
            unfit(call, values)
        });
    };
    let subject = subject.as_str();
    let dynamic;
    let pattern = match &call.pattern {
        Some(pattern) => &pattern.0,
        None => {
            dynamic = Pattern::new(text(call, values, 1)?).map_err(|why| match why {
                EvalError::Regex(fault) => EvalError::IllegalRegex(fault),
                other => other,
            })?;
            &dynamic.0
        }
    };
    if &*call.function == "find" {
        return Ok(Val::made(pattern.find(subject).map_or("", |found| found.as_str())));
    }
    let most = number(call, values, 2)?.unwrap_or(-1);
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let found = pattern.find_iter(subject).take(most).map(|found| Val::made(found.as_str()));
    Ok(Val::list(found.collect()))
}

/// Where a text stands in another, or a value in a list; -1 if it does not.
fn search<'a>(call: &Call, values: &[Val<'a>], last: bool) -> Evaluated<Val<'a>> {
    let found = |at: Option<usize>| Ok(Val::Int(at.and_then(|at| i64::try_from(at).ok()).unwrap_or(-1)));
    if let Val::List(list) = &values[0] {
        let Some(searched) = values.get(1) else {
            return Err(unfit(call, values));
        };
        let items = list.values()?;
        let same = |item: &Val<'_>| matches!(ops::equal(item, searched), Ok(true));
        return found(if last {
            items.iter().rposition(same)
        } else {
            items.iter().position(same)
        });
    }
    let (whole, part) = (text(call, values, 0)?, text(call, values, 1)?);
    let letters: Vec<char> = whole.chars().collect();
    let offset = number(call, values, 2)?;
    if part.is_empty() {
        return Ok(Val::Int(offset.unwrap_or(if last {
            i64::try_from(letters.len()).unwrap_or(i64::MAX)
        } else {
            0
        })));
    }
    if offset.is_none() && last && whole.len() < part.len() {
        return found(None);
    }
    let offset = offset.unwrap_or(if last {
        i64::try_from(letters.len()).unwrap_or(i64::MAX) - 1
    } else {
        0
    });
    let Ok(from) = usize::try_from(offset) else {
        return Err(EvalError::OutOfRange(offset));
    };
    let part: Vec<char> = part.chars().collect();
    if from >= letters.len() || part.len() > letters.len() {
        return found(None);
    }
    let end = letters.len() - part.len();
    let here = |at: &usize| letters[*at..].starts_with(&part);
    if last {
        found((0..=from.min(end)).rev().find(here))
    } else {
        found((from..=end).find(here))
    }
}
