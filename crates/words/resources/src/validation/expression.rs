//! Expressions in CEL: whether they can be parsed, at a bounded cost.
//!
//! Invariant: no expression costs more than its bytes allow, and none can exhaust the stack: it is counted before it is
//! parsed (the tests below hold both). Types and names are not checked here: an expression that names what does not exist
//! passes, where upstream refuses it.

use std::collections::HashSet;
use std::thread;

use cel::parser::Parser;

use super::node::{Errors, Node};

/// Most bytes of one expression.
const EXPRESSION_BYTES_MAX: usize = 10 * 1024;
/// Most bytes of all expressions of one object that are parsed in one request.
const OBJECT_BYTES_MAX: usize = 32 * 1024;
/// Deepest nesting of brackets, and the parser's own limit of recursion.
const DEPTH_MAX: u16 = 96;
/// Most operators of one expression that can stand in one chain: the parser descends once for each.
const CHAIN_MAX: usize = 1_000;
/// Stack of the thread that parses: what an unoptimised build needs for both limits, four times over.
const STACK_BYTES: usize = 64 * 1024 * 1024;

/// The names under which expressions stand in admission kinds.
const NAMES: &[&str] = &["expression", "messageExpression", "valueExpression"];

/// Parses the expressions of one object, those that its former state holds already left out (as upstream, which
/// takes what is stored for valid).
pub(super) struct Expressions<'a> {
    stored: HashSet<&'a str>,
    bytes_left: usize,
}

impl<'a> Expressions<'a> {
    /// For an object whose former state is `old`, if there is one.
    pub fn new(old: Option<&Node<'a>>) -> Self {
        let mut stored = HashSet::new();
        if let Some(old) = old {
            collect(old.value, &mut stored);
        }
        Self {
            stored,
            bytes_left: OBJECT_BYTES_MAX,
        }
    }

    /// Adds an error where `node` holds text that is no expression.
    pub fn check(&mut self, errors: &mut Errors, node: &Node<'_>) {
        if self.stored.contains(node.str()) {
            return;
        }
        let text = node.str().trim();
        if let Err(why) = self.parse(text) {
            errors.push(node.bad_text(text, format!("compilation failed: {why}")));
        }
    }

    fn parse(&mut self, text: &str) -> Result<(), Unparsed> {
        if text.len() > EXPRESSION_BYTES_MAX {
            return Err(Unparsed::Long);
        }
        self.bytes_left = self.bytes_left.checked_sub(text.len()).ok_or(Unparsed::Many)?;
        bounded(text)?;
        // A thread of its own for its stack: the caller's may be a worker's, of which little is left.
        thread::scope(|scope| {
            let parsing = thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, || {
                Parser::new()
                    .max_recursion_depth(DEPTH_MAX)
                    .enable_optional_syntax(true)
                    .parse(text)
                    .map(drop)
                    .map_err(|errors| Unparsed::Syntax(errors.to_string().replace("\n|", "\n |")))
            });
            match parsing.map(thread::ScopedJoinHandle::join) {
                Ok(Ok(result)) => result,
                Ok(Err(_)) | Err(_) => Err(Unparsed::Parser),
            }
        })
    }
}

/// Why an expression was not parsed.
#[derive(Debug, thiserror::Error)]
enum Unparsed {
    #[error("an expression may have at most {EXPRESSION_BYTES_MAX} bytes")]
    Long,
    #[error("the expressions of one object may have at most {OBJECT_BYTES_MAX} bytes")]
    Many,
    #[error("brackets are nested deeper than {DEPTH_MAX}")]
    Deep,
    #[error("an expression may have at most {CHAIN_MAX} operators and selections")]
    Chained,
    #[error("{0}")]
    Syntax(String),
    #[error("the parser failed")]
    Parser,
}

/// Refuses what would make the parser descend too deep. Text within quotes counts too: what is a quote only the parser
/// can tell, and the limits leave room for it.
fn bounded(text: &str) -> Result<(), Unparsed> {
    let (mut depth, mut operators) = (0_u16, 0_usize);
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => {
                depth += 1;
                operators += 1;
            }
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            b'.' | b'?' | b':' | b'!' | b'-' | b'+' | b'*' | b'/' | b'%' | b'<' | b'>' | b'=' => operators += 1,
            _ => {}
        }
        if depth > DEPTH_MAX {
            return Err(Unparsed::Deep);
        }
    }
    // The one operator that is a word.
    operators += text
        .split(|letter: char| !letter.is_alphanumeric() && letter != '_')
        .filter(|word| *word == "in")
        .count();
    if operators > CHAIN_MAX {
        return Err(Unparsed::Chained);
    }
    Ok(())
}

fn collect<'a>(value: &'a serde_json::Value, into: &mut HashSet<&'a str>) {
    match value {
        serde_json::Value::Object(members) => {
            for (name, member) in members {
                match member {
                    serde_json::Value::String(text) if NAMES.contains(&name.as_str()) => {
                        into.insert(text);
                    }
                    _ => collect(member, into),
                }
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| collect(item, into)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<(), String> {
        Expressions::new(None).parse(text).map_err(|why| why.to_string())
    }

    #[test]
    fn what_upstream_takes_is_taken() {
        for text in [
            "object.metadata.name != 'skip-me'",
            "object.?metadata.labels['e'].orValue('') == 'p'",
            "{'a': 1}[?'a'].hasValue()",
            "object.spec.containers.all(c, c.image.startsWith('x/') && !has(c.tty))",
            "Object{spec: Object.spec{replicas: 3}}",
            "has(request.userInfo.groups) ? 'in' in request.userInfo.groups : false",
        ] {
            assert_eq!(parse(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn what_is_no_expression_is_told_in_upstreams_words() {
        assert_eq!(
            parse("... [] bad expression").unwrap_err(),
            "ERROR: <input>:1:2: Syntax error: no viable alternative at input '..'\n | ... [] bad expression\n | .^"
        );
        assert_eq!(
            parse("a b").unwrap_err(),
            "ERROR: <input>:1:3: Syntax error: extraneous input 'b' expecting <EOF>\n | a b\n | ..^"
        );
    }

    #[test]
    fn what_is_too_deep_or_too_long_is_refused_before_it_is_parsed() {
        for text in [
            format!("a{}", ".b".repeat(CHAIN_MAX + 1)),
            format!("1{}", " in 1".repeat(CHAIN_MAX + 1)),
            format!("{}true", "!".repeat(CHAIN_MAX + 1)),
        ] {
            assert!(matches!(bounded(&text), Err(Unparsed::Chained)), "{}", &text[..20]);
        }
        assert!(matches!(bounded(&"(".repeat(100)), Err(Unparsed::Deep)));
        let long = "1,".repeat(EXPRESSION_BYTES_MAX);
        assert!(matches!(Expressions::new(None).parse(&long), Err(Unparsed::Long)));
    }

    #[test]
    fn what_is_as_deep_as_allowed_is_parsed_or_refused_in_words() {
        let depth = usize::from(DEPTH_MAX);
        for text in [
            format!("a{}", ".b".repeat(CHAIN_MAX)),
            format!("a{}", "[0]".repeat(CHAIN_MAX)),
            format!("1{}", " in 1".repeat(CHAIN_MAX)),
        ] {
            assert_eq!(parse(&text), Ok(()));
        }
        for (open, close) in [("(", ")"), ("[", "]"), ("!(", ")"), ("A{b:", "}"), ("[1].all(x,", ")")] {
            let text = format!("{}1{}", open.repeat(depth), close.repeat(depth));
            assert_ne!(parse(&text), Err(Unparsed::Parser.to_string()), "{open}");
        }
    }

    #[test]
    fn one_object_has_one_budget() {
        let mut expressions = Expressions::new(None);
        let text = format!("[{}1]", "1,".repeat(5_000));
        for _ in 0..3 {
            assert!(expressions.parse(&text).is_ok());
        }
        assert!(matches!(expressions.parse(&text), Err(Unparsed::Many)));
    }
}
