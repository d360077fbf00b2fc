//! Patterns as Go writes them, matched by crate `regex`, which writes some otherwise.

use regex::{Regex, RegexBuilder};

use super::error::{EvalError, Evaluated};
use crate::goregex::regex_fault;

/// A pattern.
#[derive(Clone, Debug)]
pub(crate) struct Pattern(pub Regex);

impl Pattern {
    pub fn new(pattern: &str) -> Evaluated<Self> {
        if let Some(fault) = regex_fault(pattern) {
            return Err(EvalError::Regex(fault));
        }
        let built = RegexBuilder::new(&translated(pattern)).build();
        built.map(Self).map_err(|_| EvalError::LargeRegex)
    }
}

/// What matches as Go's `pattern` does; none where Go refuses it or it takes more bytes.
#[must_use]
pub fn matcher(pattern: &str, bytes_max: usize) -> Option<Regex> {
    if regex_fault(pattern).is_some() {
        return None;
    }
    RegexBuilder::new(&translated(pattern)).size_limit(bytes_max).build().ok()
}

/// The same pattern in the other syntax. Go took it: what follows a backslash is there.
fn translated(pattern: &str) -> String {
    let mut made = String::with_capacity(pattern.len() + 8);
    let mut rest = pattern;
    let mut class = false;
    while let Some(letter) = rest.chars().next() {
        let after = &rest[letter.len_utf8()..];
        match letter {
            '\\' => {
                let code = after.chars().next().unwrap_or('\\');
                rest = after.get(code.len_utf8()..).unwrap_or_default();
                match code {
                    'Q' if !class => {
                        let (quoted, after) = rest.split_once("\\E").unwrap_or((rest, ""));
                        made.push_str(&regex::escape(quoted));
                        rest = after;
                    }
                    'd' => made.push_str(if class { "0-9" } else { "[0-9]" }),
                    'w' => made.push_str(if class { "0-9A-Za-z_" } else { "[0-9A-Za-z_]" }),
                    's' => made.push_str(if class { r"\t\n\f\r " } else { r"[\t\n\f\r ]" }),
                    'D' => made.push_str("[^0-9]"),
                    'W' => made.push_str("[^0-9A-Za-z_]"),
                    'S' => made.push_str(r"[^\t\n\f\r ]"),
                    'b' => made.push_str(r"(?-u:\b)"),
                    'B' => made.push_str(r"(?-u:\B)"),
                    '0'..='7' => {
                        let digits = 2.min(rest.bytes().take_while(|digit| (b'0'..=b'7').contains(digit)).count());
                        let value = u32::from_str_radix(&format!("{code}{}", &rest[..digits]), 8).unwrap_or_default();
                        made.push_str(&format!("\\x{{{value:x}}}"));
                        rest = &rest[digits..];
                    }
                    'p' | 'P' | 'x' if rest.starts_with('{') => {
                        let end = rest.find('}').map_or(rest.len(), |end| end + 1);
                        let (name, after) = rest.split_at(end);
                        let code = match (code, name.starts_with("{^")) {
                            ('p', true) => 'P',
                            ('P', true) => 'p',
                            _ => code,
                        };
                        made.push('\\');
                        made.push(code);
                        made.push_str(&name.replacen("{^", "{", 1));
                        rest = after;
                    }
                    '<' | '>' => made.push(code),
                    _ => {
                        made.push('\\');
                        made.push(code);
                    }
                }
                continue;
            }
            '[' if class => {
                if let Some(end) = after.strip_prefix(':').and_then(|inner| inner.find(":]")) {
                    let whole = &rest[..end + 4];
                    made.push_str(whole);
                    rest = &rest[whole.len()..];
                    continue;
                }
                made.push_str("\\[");
            }
            '[' => {
                class = true;
                made.push('[');
                rest = after;
                if let Some(after) = rest.strip_prefix('^') {
                    made.push('^');
                    rest = after;
                }
                if let Some(after) = rest.strip_prefix(']') {
                    made.push_str("\\]");
                    rest = after;
                }
                continue;
            }
            ']' if class => {
                class = false;
                made.push(']');
            }
            ']' => made.push_str("\\]"),
            '&' | '~' if class => {
                made.push('\\');
                made.push(letter);
            }
            '-' if class && (after.starts_with('-') || made.ends_with('-')) => made.push_str("\\-"),
            '{' if !class && !repeats(after) => made.push_str("\\{"),
            _ => made.push(letter),
        }
        rest = after;
    }
    made
}

/// Whether what follows an open brace makes it a repetition.
fn repeats(after: &str) -> bool {
    let Some((inner, _)) = after.split_once('}') else {
        return false;
    };
    let (least, most) = inner.split_once(',').unwrap_or((inner, ""));
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()) && (text.len() < 2 || !text.starts_with('0'));
    !least.is_empty() && number(least) && number(most)
}
