//! What calls cost when they run, by the sizes of their arguments.

use super::error::EvalError;
use super::value::{Key, List, Map, Val};
use crate::cost::calls;

const TRAVERSAL: f64 = 0.1;
const REGEX: f64 = 0.25;

/// How a call is priced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Price {
    One,
    /// One, or the shorter of two texts, by the traversal.
    Compare,
    /// As `Compare`, but one for values of Kubernetes' types.
    Equal,
    /// Going so many times through the first argument.
    Through(u32),
    /// Going through both.
    Both,
    /// A pattern tried on a text.
    Match,
    /// A text searched in another.
    Contains,
    /// Each element of the second argument.
    In,
    /// Going through the parts of the first argument.
    Parts,
    /// Going twice through the result.
    Joined,
    /// A list of the result's size.
    Made,
    /// A list flattened.
    Flatten,
    /// Each element of an argument with each.
    Pairs(usize),
    /// Each element of one list with each of another, so many times.
    Sets(u32),
    /// A check of what a user may do.
    Check,
    Selector,
    ContainsIp(bool),
    ContainsCidr(bool),
    Validate,
}

impl Price {
    pub fn of(function: &str, overload: Option<&'static str>) -> Self {
        let id = overload.unwrap_or_default();
        match id {
            "list_slice" | "lists_range" | "list_reverse" => return Self::Made,
            "list_flatten" | "list_flatten_int" => return Self::Flatten,
            "list_distinct" => return Self::Pairs(0),
            "list_sets_contains_list" | "list_sets_intersects_list" => return Self::Sets(1),
            "list_sets_equivalent_list" => return Self::Sets(2),
            _ if id.starts_with("list_") && id.ends_with("_sort") => return Self::Pairs(0),
            _ if id.ends_with("_sortByAssociatedKeys") => return Self::Pairs(1),
            _ => {}
        }
        match function {
            "check" => return Self::Check,
            "fieldSelector" | "labelSelector" => return Self::Selector,
            "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => return Self::Parts,
            "url"
            | "lowerAscii"
            | "upperAscii"
            | "substring"
            | "trim"
            | "jsonpatch.escapeKey"
            | "cidr"
            | "isIP"
            | "isCIDR"
            | "quantity"
            | "isQuantity"
            | "semver"
            | "isSemver" => return Self::Through(1),
            "replace" | "split" | "ip.isCanonical" => return Self::Through(2),
            "join" => return Self::Joined,
            "find" | "findAll" => return Self::Match,
            "ip" => return if id == "cidr_ip" { Self::One } else { Self::Through(1) },
            "containsIP" => return Self::ContainsIp(id == "cidr_contains_ip_string"),
            "containsCIDR" => return Self::ContainsCidr(id == "cidr_contains_cidr_string"),
            "validate" => return Self::Validate,
            "_==_" => return Self::Equal,
            _ => {}
        }
        match id {
            "starts_with_string" | "ends_with_string" | "string_to_bytes" | "bytes_to_string" | "strings_quote"
            | "string_format" => Self::Through(1),
            "in_list" => Self::In,
            _ if calls::compares(id) => Self::Compare,
            "add_string" | "add_bytes" => Self::Both,
            "matches_string" => Self::Match,
            "contains_string" => Self::Contains,
            _ => Self::One,
        }
    }

    pub fn cost(self, arguments: &[Result<Val<'_>, EvalError>], result: &Result<Val<'_>, EvalError>) -> u64 {
        let size = |index: usize| arguments.get(index).map_or(1, of);
        let by = |count: f64, factor: f64| (count * factor).ceil() as u64;
        let made = |factor: f64, count: u64| (count as f64 * factor) as u64 + 11;
        match self {
            Self::One => 1,
            Self::Compare => by(size(0).min(size(1)) as f64, TRAVERSAL),
            Self::Equal => match &arguments[0] {
                Ok(
                    Val::Quantity(_) | Val::Ip(_) | Val::Cidr(_) | Val::Url(_) | Val::Semver(_) | Val::Format(_) | Val::Check(_),
                ) => 1,
                _ => Self::Compare.cost(arguments, result),
            },
            Self::Through(times) => by(size(0) as f64 * f64::from(times), TRAVERSAL),
            Self::Both => by((size(0) + size(1)) as f64, TRAVERSAL),
            Self::Match => by(1.0 + size(0) as f64, TRAVERSAL) * by(size(1) as f64, REGEX),
            Self::Contains => by(size(0) as f64, TRAVERSAL) * by(size(1) as f64, TRAVERSAL),
            Self::In => size(1),
            Self::Parts => match arguments.first() {
                Some(Ok(value)) => parts(value),
                _ => 1,
            },
            Self::Joined => by(of(result) as f64 * 2.0, TRAVERSAL),
            Self::Made => made(1.0, of(result)),
            Self::Flatten => {
                let depth = match arguments.get(1) {
                    Some(Ok(Val::Int(depth))) => *depth as f64,
                    _ => 1.0,
                };
                made(depth, size(0))
            }
            Self::Pairs(index) => {
                let text = match arguments.get(index) {
                    Some(Ok(Val::List(list))) if list.len() > 0 => matches!(list.get(0), Ok(Val::String(_) | Val::Bytes(_))),
                    _ => false,
                };
                let count = size(index);
                made(if text { 2.0 + TRAVERSAL } else { 2.0 }, count.saturating_mul(count))
            }
            Self::Sets(times) => 1 + ((size(0).wrapping_mul(size(1))) as f64 * f64::from(times)) as u64,
            Self::Check => 350_000,
            Self::Selector => {
                let length = size(1) as f64;
                10 + by(length, TRAVERSAL) + by(by(length, 0.5) as f64, 50.0)
            }
            Self::ContainsIp(text) => by((size(0) * 2) as f64, TRAVERSAL) + if text { by(size(1) as f64, TRAVERSAL) } else { 0 },
            Self::ContainsCidr(text) => {
                let base = by((size(0) * 2) as f64, TRAVERSAL) + by(size(0) as f64, TRAVERSAL) + 1;
                base + if text { by(size(1) as f64, TRAVERSAL) } else { 0 }
            }
            Self::Validate => {
                let Some(Ok(Val::Format(named))) = arguments.first() else {
                    return 1;
                };
                by(1.0 + size(1) as f64, TRAVERSAL) * by(f64::from(named.longest), REGEX)
            }
        }
    }
}

fn of(value: &Result<Val<'_>, EvalError>) -> u64 {
    value.as_ref().map_or(1, Val::size)
}

/// Going through a value as through a tree.
fn parts(value: &Val<'_>) -> u64 {
    match value {
        Val::String(text) => (text.as_str().len() as f64 * TRAVERSAL) as u64,
        Val::Bytes(bytes) => (bytes.len() as f64 * TRAVERSAL) as u64,
        Val::List(List::Made(items, _)) => items.iter().map(parts).sum(),
        Val::List(list) => (0..list.len()).map(|index| list.get(index).as_ref().map_or(1, parts)).sum(),
        Val::Map(Map::Made(map)) => map.iter().map(|(key, value)| parts(&Key::value(key)) + parts(value)).sum(),
        Val::Map(map) => {
            let each = |key: &Val<'_>| parts(key);
            let keys = map.keys();
            let values = keys.iter().map(|key| match map.find(key) {
                Ok(Some(value)) => parts(&value),
                _ => 1,
            });
            keys.iter().map(each).sum::<u64>() + values.sum::<u64>()
        }
        _ => 1,
    }
}
