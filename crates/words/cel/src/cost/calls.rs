//! What calls of functions cost, each by the sizes of its arguments.

use crate::ast::{ExprId, Literal};
use crate::types::Type;

use super::{Coster, Span, Value};

/// Going once through a text, for each letter.
const TRAVERSAL: f64 = 0.1;
/// A regular expression, for each of its letters and each letter that it is tried on.
const REGEX: f64 = 0.25;
/// The longest regular expression of a named format.
const FORMAT_REGEX_MAX: f64 = 128.0;
/// The most values that an attribute of a device has.
const ATTRIBUTE_VALUES_MAX: u64 = 48;

/// A cost, and the size of the result where it is known.
type Estimate = (Span, Option<Span>);

fn only(cost: Span) -> Option<Estimate> {
    Some((cost, None))
}

impl<'a> Coster<'a> {
    /// What one overload costs, its arguments with it.
    #[expect(clippy::too_many_arguments, reason = "a call is all of these")]
    pub(super) fn overload(
        &mut self,
        id: ExprId,
        function: &str,
        overload: &str,
        target: Option<&Value<'a>>,
        values: &[Value<'a>],
        arguments: &[ExprId],
        costs: &[Span],
    ) -> Estimate {
        let sum = costs.iter().copied().fold(Span::just(0), Span::plus);
        let known = self
            .of_list(overload, target, values)
            .or_else(|| self.of_kubernetes(function, overload, target, values));
        if let Some((cost, size)) = known {
            return (cost.plus(sum), size);
        }
        let unknown = |value: &Value<'a>| value.size.unwrap_or(Span::UNKNOWN);
        let (cost, size) = match (overload, target, values) {
            ("logical_or" | "logical_and", _, _) => {
                let (left, right) = (costs[0], costs[1]);
                let max = left.plus(right).max;
                return (Span { min: left.min, max }, None);
            }
            ("conditional", _, [_, yes, no]) => {
                let size = unknown(yes).union(unknown(no));
                let both = (self.entries_of(arguments[1]), self.entries_of(arguments[2]));
                self.set_entries(id, both.0.zip(both.1).map(|(one, other)| one.union(other)));
                return (costs[0].plus(costs[1].union(costs[2])), Some(size));
            }
            ("string_format", Some(target), _) => (unknown(target).factor(TRAVERSAL), None),
            ("string_to_bytes", _, [text]) => {
                let Span { min, max } = unknown(text);
                let max = max.wrapping_mul(4);
                (unknown(text).factor(TRAVERSAL), Some(Span { min, max }))
            }
            ("bytes_to_string", _, [bytes]) => {
                let Span { min, max } = unknown(bytes);
                (unknown(bytes).factor(TRAVERSAL), Some(Span { min: min / 4, max }))
            }
            ("strings_quote", _, [text]) => {
                let Span { min, max } = unknown(text);
                let (min, max) = (min.wrapping_add(2), max.wrapping_mul(2).wrapping_add(2));
                (unknown(text).factor(TRAVERSAL), Some(Span { min, max }))
            }
            ("starts_with_string" | "ends_with_string", _, [part]) => (unknown(part).factor(TRAVERSAL), None),
            ("in_list", _, [_, list]) => (unknown(list), None),
            ("matches_string", Some(target), [pattern]) => {
                let text = unknown(target).plus(Span::just(1)).factor(TRAVERSAL);
                (text.times(unknown(pattern).factor(REGEX)), None)
            }
            ("contains_string", Some(target), [part]) => {
                (unknown(target).factor(TRAVERSAL).times(unknown(part).factor(TRAVERSAL)), None)
            }
            ("add_string" | "add_bytes" | "add_list", _, [left, right]) => {
                let size = unknown(left).plus(unknown(right));
                let both = (self.entries_of(arguments[0]), self.entries_of(arguments[1]));
                self.set_entries(id, both.0.zip(both.1).map(|(one, other)| one.union(other)));
                let cost = match overload {
                    "add_list" => Span::just(1),
                    _ => size.factor(TRAVERSAL),
                };
                (cost, Some(size))
            }
            (_, _, [left, right]) if compares(overload) => {
                let max = unknown(left).max.min(unknown(right).max);
                let min = u64::from(max > 0);
                (Span { min, max }.factor(TRAVERSAL), None)
            }
            _ => (Span::just(1), None),
        };
        (cost.plus(sum), size)
    }

    /// The size of a value as libraries see it.
    fn size_of_value(&self, value: &Value<'a>) -> Span {
        value
            .size
            .or_else(|| self.sized_by_path(&value.path))
            .unwrap_or(Span::UNKNOWN)
    }

    /// Functions of the libraries of lists and sets.
    fn of_list(&self, overload: &str, target: Option<&Value<'a>>, values: &[Value<'a>]) -> Option<Estimate> {
        let allocating = |factor: f64, size: Span| Some((size.factor(factor).plus(Span::just(11)), Some(size)));
        let int = |value: &Value<'_>, otherwise: u64| match value.literal {
            Some(Literal::Int(number)) => u64::try_from(*number).unwrap_or_default(),
            _ => otherwise,
        };
        match (overload, target, values) {
            ("list_slice", Some(target), [start, end]) => {
                let whole = self.size_of_value(target).max;
                allocating(1.0, Span::just(int(end, whole).wrapping_sub(int(start, 0))))
            }
            ("lists_range", _, [count]) => allocating(1.0, Span::just(int(count, u64::MAX))),
            ("list_reverse", Some(target), []) => allocating(1.0, self.size_of_value(target)),
            ("list_flatten", Some(target), []) => allocating(1.0, self.size_of_value(target)),
            ("list_flatten_int", Some(target), [depth]) => allocating(int(depth, u64::MAX) as f64, self.size_of_value(target)),
            ("list_distinct", Some(target), []) => {
                let size = self.size_of_value(target);
                allocating(2.0, size.times(size))
            }
            ("list_sets_contains_list" | "list_sets_intersects_list" | "list_sets_equivalent_list", _, [one, other]) => {
                let factor = if overload == "list_sets_equivalent_list" { 2.0 } else { 1.0 };
                let pairs = self.size_of_value(one).times(self.size_of_value(other));
                only(pairs.factor(factor).plus(Span::just(1)))
            }
            _ => {
                let sorted = match (overload.ends_with("_sort"), overload.ends_with("_sortByAssociatedKeys")) {
                    (true, _) => target?,
                    (_, true) => values.first()?,
                    _ => return None,
                };
                let text = overload.starts_with("list_string") || overload.starts_with("list_bytes");
                let size = self.size_of_value(sorted);
                allocating(if text { 2.0 + TRAVERSAL } else { 2.0 }, size.times(size))
            }
        }
    }

    /// The size of an element of a list, if the type says what it is.
    fn element(&self, list: &Value<'a>) -> Option<(&'a Type, Span)> {
        let is = list.is.parameters().next()?;
        let size = if list.path.is_empty() {
            None
        } else {
            let mut path = list.path.clone();
            path.push("@items".into());
            self.sized_by_path(&path)
        };
        Some((is, size.unwrap_or(Span::UNKNOWN)))
    }

    /// Functions that Kubernetes counts itself, its own and some of others.
    fn of_kubernetes(
        &self,
        function: &str,
        overload: &str,
        target: Option<&Value<'a>>,
        values: &[Value<'a>],
    ) -> Option<Estimate> {
        let size = |value: &Value<'a>| self.size_of_value(value);
        match function {
            "check" => only(Span::just(350_000)),
            "serviceAccount"
            | "path"
            | "group"
            | "resource"
            | "subresource"
            | "namespace"
            | "name"
            | "allowed"
            | "reason"
            | "error"
            | "errored"
            | "masked"
            | "prefixLength"
            | "family"
            | "isUnspecified"
            | "isLoopback"
            | "isLinkLocalMulticast"
            | "isLinkLocalUnicast"
            | "isGlobalUnicast"
            | "format.named"
            | "sign"
            | "asInteger"
            | "isInteger"
            | "asApproximateFloat"
            | "isGreaterThan"
            | "isLessThan"
            | "compareTo"
            | "add"
            | "sub"
            | "major"
            | "minor"
            | "patch"
            | "getScheme"
            | "getHostname"
            | "getHost"
            | "getPort"
            | "getEscapedPath"
            | "getQuery" => only(Span::just(1)),
            "includes" => only(Span {
                min: 0,
                max: ATTRIBUTE_VALUES_MAX,
            }),
            "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => {
                let target = target?;
                let Some((is, element)) = self.element(target) else {
                    return only(size(target).factor(TRAVERSAL));
                };
                let each = match is {
                    Type::String | Type::Bytes => Span::just(1).plus(element.factor(TRAVERSAL)),
                    _ => Span::just(1),
                };
                only(size(target).times(each))
            }
            "url" | "jsonpatch.escapeKey" => {
                let size = size(values.first()?);
                Some((size.factor(TRAVERSAL), Some(size)))
            }
            "lowerAscii" | "upperAscii" | "substring" | "trim" => {
                let size = size(target?);
                Some((size.factor(TRAVERSAL), Some(size)))
            }
            "replace" => {
                let (Some(target), [from, to, ..]) = (target, values) else {
                    return None;
                };
                let whole = size(target);
                let result = replaced(whole, size(from), size(to));
                Some((whole.factor(2.0 * TRAVERSAL), Some(result)))
            }
            "split" => {
                let whole = size(target?);
                let max = match values.get(1).and_then(|limit| limit.literal) {
                    Some(Literal::Int(limit)) => *limit as u64,
                    _ => whole.max,
                };
                Some((whole.factor(2.0 * TRAVERSAL), Some(Span { min: 0, max })))
            }
            "join" => {
                let target = target?;
                let list = size(target);
                let mut whole = Span::just(0);
                if let Some((_, element)) = self.element(target) {
                    whole = list.times(element);
                }
                if let Some(separator) = values.first() {
                    let between = Span {
                        min: list.min.saturating_sub(1),
                        max: list.max.saturating_sub(1),
                    };
                    whole = whole.plus(size(separator).times(between));
                }
                Some((whole.factor(TRAVERSAL), Some(whole)))
            }
            "find" | "findAll" => {
                let (Some(target), Some(pattern)) = (target, values.first()) else {
                    return None;
                };
                let whole = size(target);
                let text = whole.plus(Span::just(1)).factor(TRAVERSAL);
                let max = whole.max;
                Some((text.times(size(pattern).factor(REGEX)), Some(Span { min: 0, max })))
            }
            "ip" if overload == "cidr_ip" => only(Span::just(1)),
            "cidr" | "isIP" | "isCIDR" | "ip" | "quantity" | "isQuantity" | "semver" | "isSemver" => {
                only(size(values.first()?).factor(TRAVERSAL))
            }
            "ip.isCanonical" => only(size(values.first()?).factor(2.0 * TRAVERSAL)),
            "containsIP" | "containsCIDR" => {
                let bytes = Span { min: 4, max: 16 };
                let mut cost = bytes.plus(bytes).factor(TRAVERSAL);
                if function == "containsCIDR" {
                    cost = cost.plus(bytes.factor(TRAVERSAL)).plus(Span::just(1));
                }
                if matches!(overload, "cidr_contains_ip_string" | "cidr_contains_cidr_string") {
                    cost = cost.plus(size(values.first()?).factor(TRAVERSAL));
                }
                only(cost)
            }
            "validate" => only(size(values.first()?).factor(TRAVERSAL).factor(FORMAT_REGEX_MAX * REGEX)),
            "_==_" => equality(values),
            _ => None,
        }
    }
}

/// Equality of values that are compared at once, whatever they hold.
fn equality(values: &[Value<'_>]) -> Option<Estimate> {
    let [left, right] = values else {
        return None;
    };
    if left.is.runtime_name() != right.is.runtime_name() {
        return None;
    }
    let max = match left.is {
        Type::Opaque(name, _) if matches!(&**name, "net.IP" | "net.CIDR") => return only(Span::just(1)),
        Type::Struct(name) => match &**name {
            "kubernetes.Quantity" | "kubernetes.Semver" => return only(Span::just(1)),
            name if name.starts_with("kubernetes.authorization.") => return only(Span::just(1)),
            "kubernetes.NamedFormat" => 64,
            "kubernetes.URL" => right.size.map_or(1, |size| size.max),
            _ => return None,
        },
        _ => return None,
    };
    only(Span { min: 1, max }.factor(TRAVERSAL))
}

/// Whether an overload compares texts or bytes part by part.
pub(crate) fn compares(overload: &str) -> bool {
    matches!(
        overload,
        "less_string"
            | "greater_string"
            | "less_equals_string"
            | "greater_equals_string"
            | "less_bytes"
            | "greater_bytes"
            | "less_equals_bytes"
            | "greater_equals_bytes"
            | "equals"
            | "not_equals"
    )
}

/// The size of a text of which parts are replaced.
fn replaced(whole: Span, from: Span, to: Span) -> Span {
    let times = |whole: u64, part: u64| (whole as f64 / part as f64).ceil() as u64;
    let (mut count, mut kept) = (Span::just(0), Span::just(0));
    if from.min == 0 {
        (count.max, kept.max) = (whole.max.saturating_add(1), whole.max);
    } else if to.max <= from.min {
        kept.max = whole.max;
    } else {
        count.max = times(whole.max, from.min);
    }
    if from.max == 0 {
        (count.min, kept.min) = (whole.min.saturating_add(1), whole.min);
    } else if from.max <= to.min {
        kept.min = whole.min;
    } else {
        count.min = times(whole.min, from.max);
    }
    count.times(to).plus(kept)
}
