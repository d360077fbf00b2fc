//! The words for text that does not follow the grammar.
//!
//! Our own parser ends at the first mistake and has no words for it. Upstream's come from a generated parser; crate `cel`
//! generates its own from the same grammar, so it is asked once the text is refused. It recurses, so what nests deep or
//! chains long is told more shortly.

use cel::parser::Parser;

use crate::problem::Problem;
use crate::source::{Issue, Location, Source};

/// Deepest nesting of brackets that the generated parser sees.
const DEPTH_MAX: u16 = 96;
/// Most operators that it sees: it descends once for each.
const CHAIN_MAX: usize = 1_000;
/// Said where nobody knows better.
const UNKNOWN: &str = "the expression does not follow the grammar of CEL";

/// What is wrong with `text`, which our own parser refused.
pub(crate) fn issues(text: &str, source: &Source) -> Vec<Issue> {
    let unknown = |at| {
        vec![Issue {
            at,
            problem: Problem::Syntax(UNKNOWN.into()),
        }]
    };
    if !bounded(text) {
        return unknown(Location::NONE);
    }
    let parsed = Parser::new()
        .max_recursion_depth(DEPTH_MAX)
        .enable_optional_syntax(true)
        .parse(text);
    let Err(errors) = parsed else {
        return unknown(source.location(0));
    };
    let known = errors.errors.iter().filter_map(|error| {
        let (line, column) = error.pos;
        let at = |column| Location::at(line, if text.is_empty() { -1 } else { column });
        let Some(said) = error.msg.strip_prefix("Syntax error: ") else {
            let (problem, column) = match error.msg.as_str() {
                // It stands one further in upstream's eyes.
                "unsupported syntax: '`'" => (Problem::EscapedIdentifier, column),
                "invalid argument to has() macro" => (Problem::Has, column - 1),
                // What else it says of a tree with holes is its own.
                said => {
                    let name = said.strip_prefix("reserved identifier: ")?;
                    (Problem::ReservedIdentifier(name.into()), column - 1)
                }
            };
            let at = at(column);
            return Some(Issue { at, problem });
        };
        Some(Issue {
            at: at(column - 1),
            problem: Problem::Syntax(upstreams(said).into()),
        })
    });
    let known: Vec<Issue> = known.collect();
    if known.is_empty() {
        unknown(source.location(0))
    } else {
        known
    }
}

/// What upstream says where the generated parser says `said`.
fn upstreams(said: &str) -> String {
    const ALTERNATIVE: &str = "no viable alternative at input '";
    if let Some(input) = said.strip_prefix(ALTERNATIVE).and_then(|rest| rest.strip_suffix('\'')) {
        let mut letters = input.chars();
        if letters.next().is_some() && matches!(letters.as_str(), "true" | "false" | "null") {
            return format!("mismatched input '{}' expecting IDENTIFIER", letters.as_str());
        }
    }
    // The generated parser lists what could go on with what was read; upstream's has given that up.
    match said.split_once(" expecting {") {
        Some((found, wanted)) if wanted.contains("'=='") => {
            let next = if wanted.contains("':'") { "':'" } else { "<EOF>" };
            format!("{found} expecting {next}")
        }
        _ => said.to_owned(),
    }
}

/// Whether the generated parser can take the text. Text within quotes counts, too: what is a quote only a parser can tell, and
/// the limits leave room for it.
fn bounded(text: &str) -> bool {
    let (mut depth, mut operators) = (0_u16, 0_usize);
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => {
                depth += 1;
                operators += 1;
            }
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            b'.' | b'?' | b':' | b'!' | b'-' | b'+' | b'*' | b'/' | b'%' | b'<' | b'>' | b'=' | b'&' | b'|' => {
                operators += 1;
            }
            _ => {}
        }
        if depth > DEPTH_MAX {
            return false;
        }
    }
    // The one operator that is a word.
    operators += text
        .split(|letter: char| !letter.is_alphanumeric() && letter != '_')
        .filter(|word| *word == "in")
        .count();
    operators <= CHAIN_MAX
}
