//! Two structs line by line, as upstream shows what may not change
//! (staging/src/k8s.io/apimachinery/pkg/util/diff/diff.go).
//!
//! Invariant: unified form with three lines around each change; the lines are the structs' internal form, indented. The search
//! for equal stretches takes a bounded number of steps (`tests/cost.rs`).

use std::collections::HashMap;

use serde_json::Value;
use trireme_api::{decode, schema};

use super::show;

const CONTEXT: usize = 3;

/// A part of the old object as a difference shows it: from storage, which holds nothing empty, whatever it was compared with.
pub(super) fn as_stored(package: &str, name: &str, part: &Value) -> Value {
    let mut part = part.clone();
    if let Some(ty) = schema::named(package, name) {
        decode::canonicalize(&mut part, ty);
    }
    part
}

/// The difference between two structs; empty where there is none.
pub(super) fn unified(package: &str, name: &str, old: &Value, new: &Value) -> String {
    let before = indented(&show::internal(package, name, old));
    let after = indented(&show::internal(package, name, new));
    let (before, after): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    render(&before, &after)
}

/// JSON without spaces, spread over lines with one space for each level.
fn indented(json: &str) -> String {
    let mut out = String::with_capacity(json.len() * 2);
    let (mut level, mut quoted, mut escaped) = (0usize, false, false);
    let mut letters = json.chars().peekable();
    let line = |out: &mut String, level: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n(' ', level));
    };
    while let Some(letter) = letters.next() {
        if quoted {
            out.push(letter);
            (quoted, escaped) = (escaped || letter != '"', !escaped && letter == '\\');
            continue;
        }
        match letter {
            '"' => {
                quoted = true;
                out.push(letter);
            }
            '{' | '[' => {
                out.push(letter);
                if let Some(end) = letters.next_if(|next| matches!(next, '}' | ']')) {
                    out.push(end);
                } else {
                    level += 1;
                    line(&mut out, level);
                }
            }
            '}' | ']' => {
                level = level.saturating_sub(1);
                line(&mut out, level);
                out.push(letter);
            }
            ',' => {
                out.push(letter);
                line(&mut out, level);
            }
            ':' => out.push_str(": "),
            letter => out.push(letter),
        }
    }
    out
}

/// Most steps of looking for equal stretches; what is not found by then is told as changed.
const STEPS_MAX: usize = 1_000_000;

/// Where the lines of the second text are.
struct Places<'t> {
    of: HashMap<&'t str, Vec<usize>>,
    steps_left: usize,
}

impl<'t> Places<'t> {
    fn new(lines: &[&'t str]) -> Self {
        let mut of: HashMap<&str, Vec<usize>> = HashMap::new();
        for (place, line) in lines.iter().enumerate() {
            of.entry(line).or_default().push(place);
        }
        // Lines that make up more than a hundredth of a long text start no stretch, they only lengthen one.
        if lines.len() >= 200 {
            of.retain(|_, places| places.len() <= lines.len() / 100 + 1);
        }
        Self {
            of,
            steps_left: STEPS_MAX,
        }
    }

    fn within(&self, line: &str, (low, high): (usize, usize)) -> &[usize] {
        let places = self.of.get(line).map_or(&[][..], Vec::as_slice);
        let places = &places[places.partition_point(|place| *place < low)..];
        &places[..places.partition_point(|place| *place < high)]
    }
}

/// Equal stretches: start in `a`, start in `b`, length. The longest first, then what is left and right of it.
fn matches(a: &[&str], b: &[&str]) -> Vec<(usize, usize, usize)> {
    let mut found = Vec::new();
    let mut places = Places::new(b);
    let mut open = vec![(0, a.len(), 0, b.len())];
    while let Some((a_low, a_high, b_low, b_high)) = open.pop() {
        let (at_a, at_b, length) = longest(a, b, (a_low, a_high), (b_low, b_high), &mut places);
        if length > 0 {
            found.push((at_a, at_b, length));
            open.push((a_low, at_a, b_low, at_b));
            open.push((at_a + length, a_high, at_b + length, b_high));
        }
    }
    found.sort_unstable();
    found
}

fn longest(
    a: &[&str],
    b: &[&str],
    (a_low, a_high): (usize, usize),
    (b_low, b_high): (usize, usize),
    places: &mut Places<'_>,
) -> (usize, usize, usize) {
    let mut best = (a_low, b_low, 0);
    // Of the line before, how long the stretch is that ends at each place.
    let mut lengths: HashMap<usize, usize> = HashMap::new();
    for (row, line) in a.iter().enumerate().take(a_high).skip(a_low) {
        let columns = places.within(line, (b_low, b_high));
        let steps = 1 + columns.len();
        let mut next = HashMap::with_capacity(columns.len());
        for column in columns {
            let before = column.checked_sub(1).and_then(|before| lengths.get(&before));
            let length = before.copied().unwrap_or_default() + 1;
            next.insert(*column, length);
            if length > best.2 {
                best = (row + 1 - length, column + 1 - length, length);
            }
        }
        lengths = next;
        places.steps_left = places.steps_left.saturating_sub(steps);
        if places.steps_left == 0 {
            return (a_low, b_low, 0);
        }
    }
    let (mut at_a, mut at_b, mut length) = best;
    while at_a > a_low && at_b > b_low && a[at_a - 1] == b[at_b - 1] {
        (at_a, at_b, length) = (at_a - 1, at_b - 1, length + 1);
    }
    while at_a + length < a_high && at_b + length < b_high && a[at_a + length] == b[at_b + length] {
        length += 1;
    }
    (at_a, at_b, length)
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Equal,
    Change,
}

type Step = (Kind, usize, usize, usize, usize);

fn steps(a: &[&str], b: &[&str]) -> Vec<Step> {
    let (mut at_a, mut at_b) = (0, 0);
    let mut steps = Vec::new();
    let mut stretches = matches(a, b);
    stretches.push((a.len(), b.len(), 0));
    for (next_a, next_b, length) in stretches {
        if at_a < next_a || at_b < next_b {
            steps.push((Kind::Change, at_a, next_a, at_b, next_b));
        }
        if length > 0 {
            match steps.last_mut() {
                Some((Kind::Equal, _, end_a, _, end_b)) => (*end_a, *end_b) = (next_a + length, next_b + length),
                _ => steps.push((Kind::Equal, next_a, next_a + length, next_b, next_b + length)),
            }
        }
        (at_a, at_b) = (next_a + length, next_b + length);
    }
    steps
}

fn groups(mut steps: Vec<Step>) -> Vec<Vec<Step>> {
    if let Some((Kind::Equal, a, a_end, b, b_end)) = steps.first_mut() {
        *a = (*a).max(a_end.saturating_sub(CONTEXT));
        *b = (*b).max(b_end.saturating_sub(CONTEXT));
    }
    if let Some((Kind::Equal, a, a_end, b, b_end)) = steps.last_mut() {
        *a_end = (*a_end).min(*a + CONTEXT);
        *b_end = (*b_end).min(*b + CONTEXT);
    }
    let (mut groups, mut group): (Vec<Vec<Step>>, Vec<Step>) = (Vec::new(), Vec::new());
    for (kind, mut a, a_end, mut b, b_end) in steps {
        if kind == Kind::Equal && a_end - a > 2 * CONTEXT {
            group.push((kind, a, a_end.min(a + CONTEXT), b, b_end.min(b + CONTEXT)));
            groups.push(std::mem::take(&mut group));
            (a, b) = (a.max(a_end - CONTEXT), b.max(b_end - CONTEXT));
        }
        group.push((kind, a, a_end, b, b_end));
    }
    if group.iter().any(|step| step.0 == Kind::Change) {
        groups.push(group);
    }
    groups
}

fn range(start: usize, end: usize) -> String {
    match end - start {
        0 => format!("{start},0"),
        1 => format!("{}", start + 1),
        length => format!("{},{length}", start + 1),
    }
}

fn render(a: &[&str], b: &[&str]) -> String {
    let mut out = String::new();
    for group in groups(steps(a, b)) {
        let (Some(first), Some(last)) = (group.first(), group.last()) else {
            continue;
        };
        out.push_str(&format!("@@ -{} +{} @@\n", range(first.1, last.2), range(first.3, last.4)));
        let mut lines = |sign: char, lines: &[&str]| {
            for line in lines {
                out.push(sign);
                out.push_str(line);
                out.push('\n');
            }
        };
        for (kind, a_low, a_high, b_low, b_high) in group {
            if kind == Kind::Equal {
                lines(' ', &a[a_low..a_high]);
            } else {
                lines('-', &a[a_low..a_high]);
                lines('+', &b[b_low..b_high]);
            }
        }
    }
    out
}
