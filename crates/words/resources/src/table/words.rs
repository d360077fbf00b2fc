//! Texts that cells are made of: ages, selectors, clipped lists.
//!
//! Invariant: the forms are upstream's, to the letter.

use jiff::Timestamp;
use serde_json::Value;
use trireme_api::{path, time};

/// A time as its distance to now: `5s`, `3m20s`, `2d3h`; `<unknown>` where there is none.
pub(super) fn since(value: Option<&Value>, now: Timestamp) -> String {
    match instant(value) {
        Some(then) => duration(now.as_second() - then.as_second()),
        None => "<unknown>".to_owned(),
    }
}

/// A time in either form.
pub(super) fn instant(value: Option<&Value>) -> Option<Timestamp> {
    let text = value?.as_str()?;
    time::parse(text)
        .ok()
        .or_else(|| time::parse_micro(text).ok())
        .filter(|then| !time::is_go_zero(*then))
}

/// Seconds in two or three significant digits.
pub(super) fn duration(seconds: i64) -> String {
    let two = |big: i64, unit: &str, small: i64, small_unit: &str| {
        if small == 0 {
            format!("{big}{unit}")
        } else {
            format!("{big}{unit}{small}{small_unit}")
        }
    };
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        _ if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => two(hours, "h", minutes % 60, "m"),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 24 * 8 => two(hours / 24, "d", hours % 24, "h"),
        _ if hours < 24 * 365 * 2 => format!("{}d", hours / 24),
        _ if hours < 24 * 365 * 8 => two(hours / 24 / 365, "y", hours / 24 % 365, "d"),
        _ => format!("{}y", hours / 24 / 365),
    }
}

/// A map of labels: `a=b,c=d`, or `<none>`.
pub(super) fn labels(value: Option<&Value>) -> String {
    let Some(Value::Object(labels)) = value else {
        return "<none>".to_owned();
    };
    let pairs: Vec<String> = labels
        .iter()
        .map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()))
        .collect();
    or_none(&pairs.join(","))
}

/// The text itself, or `<none>` for an empty one.
pub(super) fn or_none(text: &str) -> String {
    if text.is_empty() {
        "<none>".to_owned()
    } else {
        text.to_owned()
    }
}

/// A label selector object as its text form.
pub(super) fn selector(value: Option<&Value>) -> String {
    let Some(value) = value else { return String::new() };
    let mut parts: Vec<(String, String)> = Vec::new();
    if let Some(labels) = path::object(value, &["matchLabels"]) {
        parts.extend(
            labels
                .iter()
                .map(|(name, value)| (name.clone(), format!("{name}={}", value.as_str().unwrap_or_default()))),
        );
    }
    for rule in path::list(value, &["matchExpressions"]) {
        let key = path::str(rule, &["key"]);
        let mut values: Vec<&str> = path::list(rule, &["values"]).iter().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let values = values.join(",");
        let part = match path::str(rule, &["operator"]) {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            _ => return "<invalid>".to_owned(),
        };
        parts.push((key.to_owned(), part));
    }
    parts.sort_by(|a, b| a.0.cmp(&b.0));
    parts.into_iter().map(|(_, part)| part).collect::<Vec<_>>().join(",")
}

/// A selector, or `<none>` for an empty one.
pub(super) fn selector_or_none(value: Option<&Value>) -> String {
    match selector(value).as_str() {
        "" => "<none>".to_owned(),
        "<invalid>" => "<error>".to_owned(),
        text => text.to_owned(),
    }
}

/// At most `max` items, then how many more there are.
pub(super) fn clipped(items: &[String], max: usize, separator: &str) -> String {
    if items.len() > max {
        format!("{} + {} more...", items[..max].join(separator), items.len() - max)
    } else {
        items.join(separator)
    }
}

/// Names and images of containers.
pub(super) fn containers(spec: Option<&Value>) -> [Value; 2] {
    let list = spec.map_or(&[][..], |spec| path::list(spec, &["containers"]));
    let all = |name: &str| Value::from(list.iter().map(|one| path::str(one, &[name])).collect::<Vec<_>>().join(","));
    [all("name"), all("image")]
}

/// Access modes in their short forms, in a fixed order.
pub(super) fn access_modes(modes: &[Value]) -> String {
    let short = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let there = short
        .iter()
        .filter(|(mode, _)| modes.iter().any(|one| one == mode))
        .map(|(_, short)| *short);
    there.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn durations_keep_two_or_three_digits() {
        for (seconds, want) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (200, "3m20s"),
            (601, "10m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 300, "3h5m"),
            (47 * 3600, "47h"),
            (50 * 3600, "2d2h"),
            (100 * 24 * 3600, "100d"),
            (3 * 365 * 24 * 3600 + 86400, "3y1d"),
            (9 * 365 * 24 * 3600, "9y"),
        ] {
            assert_eq!(duration(seconds), want, "{seconds}");
        }
    }

    #[test]
    fn selectors_are_sorted_by_key() {
        let value = json!({"matchLabels": {"b": "1"}, "matchExpressions": [
            {"key": "a", "operator": "In", "values": ["y", "x"]}, {"key": "c", "operator": "DoesNotExist"}]});
        assert_eq!(selector(Some(&value)), "a in (x,y),b=1,!c");
        assert_eq!(selector_or_none(Some(&json!({}))), "<none>");
    }

    #[test]
    fn long_lists_are_clipped() {
        let items: Vec<String> = (0..5).map(|n| n.to_string()).collect();
        assert_eq!(clipped(&items, 3, ","), "0,1,2 + 2 more...");
        assert_eq!(clipped(&items[..3], 3, ","), "0,1,2");
    }
}
