//! JSONPath as Kubernetes reads it, as far as columns of tables use it: names, `['name']`, `[0]`, `[*]`, `[1:3]`, `..` and
//! filters such as `[?(@.type=="Ready")]`.
//!
//! Invariant: looking never fails: what is not there is not found. Only the first of several values is wanted.

use serde_json::Value;

/// A path.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Name(String),
    All,
    Index(i64),
    Slice(Option<i64>, Option<i64>),
    Below,
    Filter(JsonPath, Option<(Comparison, Operand)>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Debug, PartialEq)]
enum Operand {
    Value(Value),
    Path(JsonPath),
}

/// Most steps and values that are looked at in one object: `..` may find many.
const FOUND_MAX: usize = 10_000;

impl JsonPath {
    /// Reads a path that begins with a dot, or with a bracket.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut steps = Vec::new();
        let mut rest = text.trim();
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix("..") {
                steps.push(Step::Below);
                rest = if after.starts_with('[') {
                    after
                } else {
                    name(after, &mut steps)?
                };
            } else if let Some(after) = rest.strip_prefix('.') {
                rest = if after.starts_with('[') || after.is_empty() {
                    after
                } else {
                    name(after, &mut steps)?
                };
            } else if rest.starts_with('[') {
                let (inside, after) = bracket(rest)?;
                steps.push(subscript(inside.trim())?);
                rest = after;
            } else {
                return None;
            }
        }
        Some(Self(steps))
    }

    /// The first value that it finds.
    #[must_use]
    pub fn first<'a>(&self, value: &'a Value) -> Option<&'a Value> {
        self.find(value).into_iter().next()
    }

    fn find<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        let mut found = vec![value];
        for step in &self.0 {
            let mut next = Vec::new();
            for value in found {
                step.take(value, &mut next);
                if next.len() > FOUND_MAX {
                    return Vec::new();
                }
            }
            found = next;
        }
        found
    }
}

/// A name up to the next dot or bracket; a backslash takes what follows as it is.
fn name<'a>(text: &'a str, steps: &mut Vec<Step>) -> Option<&'a str> {
    let mut out = String::new();
    let mut letters = text.char_indices();
    let mut end = text.len();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '.' | '[' => {
                end = at;
                break;
            }
            '\\' => out.push(letters.next()?.1),
            other => out.push(other),
        }
    }
    if out.is_empty() {
        return None;
    }
    steps.push(if out == "*" { Step::All } else { Step::Name(out) });
    Some(&text[end..])
}

/// What stands in the brackets that a text begins with, and what follows them.
fn bracket(text: &str) -> Option<(&str, &str)> {
    let mut depth = 0;
    let mut quote = None;
    let mut escaped = false;
    for (at, letter) in text.char_indices() {
        if escaped {
            escaped = false;
            continue;
        }
        match (quote, letter) {
            (_, '\\') => escaped = true,
            (Some(open), letter) if letter == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(letter),
            (None, '[') => depth += 1,
            (None, ']') => {
                depth -= 1;
                if depth == 0 {
                    return Some((&text[1..at], &text[at + 1..]));
                }
            }
            _ => {}
        }
    }
    None
}

fn subscript(inside: &str) -> Option<Step> {
    if inside == "*" {
        return Some(Step::All);
    }
    if let Some(quoted) = unquoted(inside) {
        return Some(Step::Name(quoted));
    }
    if let Some(filter) = inside.strip_prefix("?(").and_then(|rest| rest.strip_suffix(')')) {
        return filter_of(filter.trim());
    }
    if let Some((from, to)) = inside.split_once(':') {
        let bound = |text: &str| -> Option<Option<i64>> {
            let text = text.trim();
            if text.is_empty() {
                Some(None)
            } else {
                text.parse().ok().map(Some)
            }
        };
        return Some(Step::Slice(bound(from)?, bound(to)?));
    }
    inside.parse().ok().map(Step::Index)
}

fn unquoted(text: &str) -> Option<String> {
    let quote = text.chars().next().filter(|letter| matches!(letter, '\'' | '"'))?;
    let inside = text.strip_prefix(quote)?.strip_suffix(quote)?;
    let mut out = String::with_capacity(inside.len());
    let mut letters = inside.chars();
    while let Some(letter) = letters.next() {
        out.push(if letter == '\\' { letters.next()? } else { letter });
    }
    Some(out)
}

fn filter_of(text: &str) -> Option<Step> {
    const OPERATORS: [(&str, Comparison); 6] = [
        ("==", Comparison::Equal),
        ("!=", Comparison::NotEqual),
        ("<=", Comparison::LessOrEqual),
        (">=", Comparison::GreaterOrEqual),
        ("<", Comparison::Less),
        (">", Comparison::Greater),
    ];
    let path = |text: &str| JsonPath::parse(text.trim().strip_prefix('@')?);
    let split = OPERATORS
        .iter()
        .filter_map(|(sign, operator)| Some((text.find(sign)?, *sign, *operator)))
        .min_by_key(|(at, sign, _)| (*at, std::cmp::Reverse(sign.len())));
    let Some((at, sign, operator)) = split else {
        return Some(Step::Filter(path(text)?, None));
    };
    let right = text[at + sign.len()..].trim();
    let operand = if let Some(quoted) = unquoted(right) {
        Operand::Value(quoted.into())
    } else if right.starts_with('@') {
        Operand::Path(path(right)?)
    } else {
        Operand::Value(serde_json::from_str(right).ok()?)
    };
    Some(Step::Filter(path(&text[..at])?, Some((operator, operand))))
}

impl Step {
    fn take<'a>(&self, value: &'a Value, out: &mut Vec<&'a Value>) {
        match (self, value) {
            (Self::Name(name), Value::Object(members)) => out.extend(members.get(name)),
            (Self::Name(name), Value::Array(items)) => {
                out.extend(items.iter().filter_map(|item| item.get(name)));
            }
            (Self::All, Value::Object(members)) => out.extend(members.values()),
            (Self::All, Value::Array(items)) => out.extend(items),
            (Self::Index(index), Value::Array(items)) => out.extend(place(*index, items.len()).and_then(|at| items.get(at))),
            (Self::Slice(from, to), Value::Array(items)) => {
                let bound = |bound: Option<i64>, absent: usize| match bound {
                    None => absent,
                    Some(bound) if bound < 0 => place(bound, items.len()).unwrap_or(0),
                    Some(bound) => usize::try_from(bound).map_or(items.len(), |bound| bound.min(items.len())),
                };
                let (from, to) = (bound(*from, 0), bound(*to, items.len()));
                out.extend(items.get(from..to).unwrap_or_default());
            }
            (Self::Below, value) => below(value, out),
            (Self::Filter(path, test), Value::Array(items)) => {
                out.extend(items.iter().filter(|item| passes(path, test.as_ref(), item)));
            }
            _ => {}
        }
    }
}

fn place(index: i64, length: usize) -> Option<usize> {
    if index < 0 {
        length.checked_sub(usize::try_from(index.unsigned_abs()).ok()?)
    } else {
        usize::try_from(index).ok()
    }
}

fn below<'a>(value: &'a Value, out: &mut Vec<&'a Value>) {
    if out.len() > FOUND_MAX {
        return;
    }
    out.push(value);
    match value {
        Value::Object(members) => members.values().for_each(|member| below(member, out)),
        Value::Array(items) => items.iter().for_each(|item| below(item, out)),
        _ => {}
    }
}

fn passes(path: &JsonPath, test: Option<&(Comparison, Operand)>, item: &Value) -> bool {
    let Some(left) = path.first(item) else { return false };
    let Some((comparison, operand)) = test else { return true };
    let right = match operand {
        Operand::Value(value) => value,
        Operand::Path(path) => match path.first(item) {
            Some(value) => value,
            None => return false,
        },
    };
    let order = match (left, right) {
        (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
        (left, right) => match (left.as_f64(), right.as_f64()) {
            (Some(left), Some(right)) => left.partial_cmp(&right),
            _ => (left == right).then_some(std::cmp::Ordering::Equal),
        },
    };
    match (comparison, order) {
        (Comparison::NotEqual, None) => true,
        (_, None) => false,
        (Comparison::Equal, Some(order)) => order.is_eq(),
        (Comparison::NotEqual, Some(order)) => order.is_ne(),
        (Comparison::Less, Some(order)) => order.is_lt(),
        (Comparison::LessOrEqual, Some(order)) => order.is_le(),
        (Comparison::Greater, Some(order)) => order.is_gt(),
        (Comparison::GreaterOrEqual, Some(order)) => order.is_ge(),
    }
}
