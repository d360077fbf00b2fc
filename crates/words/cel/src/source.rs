//! The text of an expression, positions in it, and what is told about it.
//!
//! Positions are counted in code points, as cel-go counts them; lines end with `\n` alone.

use std::fmt::{self, Display, Formatter};
use std::sync::Arc;

/// The most issues that are printed; of more, their number is told.
const ISSUES_MAX: usize = 100;

/// A place in an expression: lines from 1, columns from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Location {
    line: i32,
    column: i32,
}

impl Location {
    /// No place: what concerns the expression as a whole.
    pub const NONE: Self = Self { line: -1, column: -1 };

    /// A place told by another parser.
    pub fn at(line: isize, column: isize) -> Self {
        let narrow = |number| i32::try_from(number).unwrap_or(i32::MAX);
        Self {
            line: narrow(line),
            column: narrow(column),
        }
    }
}

/// The code points of an expression.
#[derive(Debug)]
pub(crate) struct Source {
    pub letters: Vec<char>,
    /// Where each line begins.
    lines: Vec<usize>,
}

impl Source {
    pub fn new(text: &str) -> Self {
        let letters: Vec<char> = text.chars().collect();
        let breaks = letters.iter().enumerate().filter(|(_, letter)| **letter == '\n');
        let lines = std::iter::once(0).chain(breaks.map(|(at, _)| at + 1)).collect();
        Self { letters, lines }
    }

    /// Line and column of the code point `at`.
    pub fn location(&self, at: u32) -> Location {
        let at = at as usize;
        let line = self.lines.partition_point(|begin| *begin <= at);
        Location {
            line: i32::try_from(line).unwrap_or(i32::MAX),
            column: i32::try_from(at - self.lines[line - 1]).unwrap_or(i32::MAX),
        }
    }

    /// The letters of a line, without its end.
    fn line(&self, number: i32) -> Option<&[char]> {
        let index = usize::try_from(number).ok()?.checked_sub(1)?;
        let begin = *self.lines.get(index)?;
        let end = self.lines.get(index + 1).map_or(self.letters.len(), |next| next - 1);
        (!self.letters.is_empty()).then(|| &self.letters[begin..end])
    }
}

/// Something that is wrong with an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Issue {
    pub at: Location,
    pub problem: super::problem::Problem,
}

/// What is wrong with an expression, in the order of its text. Printed as cel-go prints it: a line for each issue, the line
/// of the expression, and a mark below the place.
#[derive(Clone, Debug)]
pub struct Issues {
    source: Arc<Source>,
    issues: Vec<Issue>,
}

impl Issues {
    /// Orders `issues` by their place; those of one place stay as they were found.
    pub(crate) fn new(source: Arc<Source>, mut issues: Vec<Issue>) -> Self {
        issues.sort_by_key(|issue| issue.at);
        Self { source, issues }
    }
}

impl Display for Issues {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        for (index, issue) in self.issues.iter().take(ISSUES_MAX).enumerate() {
            if index > 0 {
                writeln!(out)?;
            }
            let Location { line, column } = issue.at;
            write!(out, "ERROR: <input>:{line}:{}: {}", column + 1, issue.problem)?;
            let Some(letters) = self.source.line(line) else {
                continue;
            };
            write!(out, "\n | ")?;
            for letter in letters {
                write!(out, "{}", if *letter == '\t' { ' ' } else { *letter })?;
            }
            write!(out, "\n | ")?;
            let column = usize::try_from(column).unwrap_or_default();
            for letter in letters.iter().take(column) {
                write!(out, "{}", if letter.len_utf8() > 1 { '\u{ff0e}' } else { '.' })?;
            }
            let wide = letters.get(column).is_some_and(|letter| letter.len_utf8() > 1);
            write!(out, "{}", if wide { '\u{ff3e}' } else { '^' })?;
        }
        match self.issues.len().checked_sub(ISSUES_MAX) {
            Some(more) if more > 0 => write!(out, "\n{more} more errors were truncated"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Problem;

    #[test]
    fn places_are_shown_below_their_line() {
        let source = Arc::new(Source::new("a +\n\t'é' + bé"));
        let at = |at| Issue {
            at: source.location(at),
            problem: Problem::ReservedIdentifier("b".into()),
        };
        let issues = Issues::new(Arc::clone(&source), vec![at(11), at(0)]);
        assert_eq!(
            issues.to_string(),
            "ERROR: <input>:1:1: reserved identifier: b\n | a +\n | ^\n\
             ERROR: <input>:2:8: reserved identifier: b\n |  'é' + bé\n | ..．....^"
        );
    }
}
