//! YAML to the tree that JSON gives, as sigs.k8s.io/yaml makes it with yaml.v2: the first document, YAML 1.1 scalars, keys
//! of other types as text, merge keys, aliases.
//!
//! Invariant: nothing is copied for an alias before the ledger has paid for it, and what aliases give beyond upstream's
//! ratio is refused with its words. Depth is bounded. It will not decode against a type.

use std::borrow::Cow;
use std::collections::HashMap;

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError, Span, Tag};
use serde_json::Value;

use super::body::Body;
use super::scalar::{Misfit, Scalar, resolve};
use super::syntax::{DEPTH_MAX, Node, parse as json};
use crate::bulk::Path;
use crate::cost::{CostError, Ledger, Size, VALUES_MAX};
use crate::read;
use crate::schema::Struct;

/// Keys that stand twice are told up to this number.
const DUPLICATES_MAX: usize = 100;
/// Upstream refuses what comes out of aliases to more than this part, once there are a thousand values.
const ALIASED_PARTS_MAX: (usize, usize) = (99, 100);

/// Why a text is no YAML that the API takes. `Display` is upstream's text, `yaml: ` included where upstream has it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum YamlError {
    /// Malformed.
    #[error("yaml: {}{problem}", place(*.line))]
    Syntax {
        /// Line, 1 for the first.
        line: usize,
        /// What is wrong there.
        problem: String,
    },
    /// Aliases that multiply the document.
    #[error("yaml: document contains excessive aliasing")]
    Aliasing,
    /// An alias inside what it stands for.
    #[error("yaml: anchor '{0}' value contains itself")]
    Itself(String),
    /// A list or mapping as a key.
    #[error("yaml: invalid map key")]
    Key,
    /// A key that JSON cannot have.
    #[error("unsupported map key of type: %!s(<nil>), key: <nil>")]
    NullKey,
    /// A merge key whose value is no mapping.
    #[error("yaml: map merge requires map or sequence of maps as the value")]
    Merge,
    /// A scalar that does not fit its tag.
    #[error("yaml: cannot decode !!{found} `{text}` as a !!{tag}")]
    Tag {
        /// What it is.
        found: &'static str,
        /// The scalar.
        text: String,
        /// What its tag says.
        tag: String,
    },
    /// A number that JSON cannot write.
    #[error("json: unsupported value: {0}")]
    NotFinite(&'static str),
    /// The document would cost too much.
    #[error(transparent)]
    Cost(#[from] CostError),
}

/// yaml.v2 leaves the first line's number out.
fn place(line: usize) -> String {
    if line > 1 { format!("line {line}: ") } else { String::new() }
}

/// A document without a type.
#[derive(Clone, Debug, PartialEq)]
pub struct Untyped {
    /// Its value.
    pub value: Value,
    /// The keys that stand twice in a mapping, as [`yaml`] tells them.
    pub repeated: Vec<String>,
    /// How many values its bulk has, if that is known to be as decoding would leave it.
    pub settled: Option<usize>,
}

/// The value of a YAML text's first document; else as [`yaml`]. `bulk` says where an object of a type has its bulk, if it has one
/// ([`crate::bulk`]).
///
/// # Errors
/// As [`YamlError`] says.
pub fn yaml_value(bytes: &[u8], ledger: &mut Ledger, bulk: Option<(Path, &'static Struct)>) -> Result<Untyped, YamlError> {
    // Without a type there is no need for the order of members: most JSON is read straight to its value.
    if is_json(bytes)
        && let Some((value, settled)) = read::plain(bytes, ledger, bulk)
    {
        return Ok(Untyped {
            value,
            repeated: Vec::new(),
            settled,
        });
    }
    let (body, repeated) = yaml(bytes, ledger)?;
    Ok(Untyped {
        value: body.into_value(),
        repeated,
        settled: None,
    })
}

/// Whether a text begins as a JSON object does.
fn is_json(bytes: &[u8]) -> bool {
    bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{')
}

/// The first document of a YAML text, and the keys that stand twice in a mapping, in strict decoding's words:
/// `line 7: key "a" already set in map`. An empty text is null.
///
/// # Errors
/// As [`YamlError`] says.
pub fn yaml<'a>(bytes: &'a [u8], ledger: &mut Ledger) -> Result<(Body<'a>, Vec<String>), YamlError> {
    // JSON is YAML, and what clients mostly send. One that repeats a key needs the lines that only YAML's reading knows.
    if is_json(bytes) {
        let mut attempt = *ledger;
        match json(bytes, &mut attempt) {
            Ok(mut node) => {
                if go_form(&mut node) {
                    *ledger = attempt;
                    return Ok((Body(node), Vec::new()));
                }
            }
            Err(super::DecodeError::Cost(error)) => return Err(error.into()),
            Err(_) => {}
        }
    }
    let text = std::str::from_utf8(bytes).map_err(|_| YamlError::Syntax {
        line: 1,
        problem: "invalid leading UTF-8 octet".to_owned(),
    })?;
    let Some(document) = Document::compose(text, ledger)? else {
        return Ok((Body(Node::Null), Vec::new()));
    };
    let mut builder = Builder {
        document: &document,
        ledger,
        open: vec![false; document.nodes.len()],
        made: 0,
        aliased: 0,
        inside_alias: 0,
        duplicates: Vec::new(),
    };
    let mut node = builder.node(document.root, 0)?;
    go_order(&mut node);
    Ok((Body(node), builder.duplicates))
}

/// Members in the order in which Go writes a map: what strict decoding finds is told in it.
fn go_order(node: &mut Node<'_>) {
    match node {
        Node::Array(items) => items.iter_mut().for_each(go_order),
        Node::Object(members) => {
            members.sort_by(|(one, _), (other, _)| one.cmp(other));
            members.iter_mut().for_each(|(_, member)| go_order(member));
        }
        _ => {}
    }
}

/// Brings a JSON text's tree into the form that a YAML reader and a JSON writer give it: floats, and the order of members.
/// Whether each name stands once in its object; else it stays half done.
fn go_form(node: &mut Node<'_>) -> bool {
    match node {
        Node::Number(text) if text.contains(['.', 'e', 'E']) => {
            if let Some(float) = text.parse::<f64>().ok().filter(|float| float.is_finite()) {
                *text = Cow::Owned(float.to_string());
            }
            true
        }
        Node::Array(items) => items.iter_mut().all(go_form),
        Node::Object(members) => {
            if !members.is_sorted_by(|(one, _), (other, _)| one < other) {
                members.sort_by(|(one, _), (other, _)| one.cmp(other));
                if members.windows(2).any(|pair| pair[0].0 == pair[1].0) {
                    return false;
                }
            }
            members.iter_mut().all(|(_, member)| go_form(member))
        }
        _ => true,
    }
}

/// A node as composed: aliases still point.
enum Composed<'a> {
    Scalar {
        text: Cow<'a, str>,
        plain: bool,
        tag: Option<String>,
    },
    Sequence(Vec<usize>),
    /// Keys and values in turn.
    Mapping(Vec<usize>),
    Alias {
        target: usize,
        name: String,
    },
}

struct Document<'a> {
    nodes: Vec<(Composed<'a>, usize)>,
    root: usize,
}

impl<'a> Document<'a> {
    fn compose(text: &'a str, ledger: &mut Ledger) -> Result<Option<Self>, YamlError> {
        let options = granit_parser::options! {
            emit_comments: false,
            bom_inside_document_as_content: true,
            block_scalar_eof_without_line_feed: true,
            flow_nesting_limit: DEPTH_MAX,
            block_nesting_limit: DEPTH_MAX,
        };
        let mut nodes: Vec<(Composed<'a>, usize)> = Vec::new();
        let mut anchors: HashMap<usize, usize> = HashMap::new();
        let mut open: Vec<usize> = Vec::new();
        let mut root = None;
        for next in Parser::new_from_str_with_options(text, options) {
            let (event, span) = next.map_err(|error| scan_error(&error))?;
            let (node, anchor, opens) = match event {
                Event::Scalar(scalar, style, anchor, tag) => {
                    let scalar = Composed::Scalar {
                        text: scalar,
                        plain: style == ScalarStyle::Plain,
                        tag: tag.map(|tag| tag_name(&tag)),
                    };
                    (scalar, anchor, false)
                }
                Event::SequenceStart(_, anchor, _) => (Composed::Sequence(Vec::new()), anchor, true),
                Event::MappingStart(_, anchor, _) => (Composed::Mapping(Vec::new()), anchor, true),
                Event::Alias(id) => (alias(&anchors, id, &span, text)?, 0, false),
                Event::SequenceEnd | Event::MappingEnd => {
                    open.pop();
                    continue;
                }
                Event::DocumentEnd => break,
                _ => continue,
            };
            // Composing holds every node once, keys too.
            if nodes.len() >= 2 * VALUES_MAX {
                return Err(CostError::Values.into());
            }
            let at = nodes.len();
            if anchor != 0 {
                anchors.insert(anchor, at);
            }
            nodes.push((node, span.start.line()));
            match open.last() {
                Some(parent) => match &mut nodes[*parent].0 {
                    Composed::Sequence(children) | Composed::Mapping(children) => children.push(at),
                    Composed::Scalar { .. } | Composed::Alias { .. } => {}
                },
                None => root = Some(at),
            }
            if opens {
                open.push(at);
            }
        }
        // What composing holds is let go only when the request is done with.
        ledger.values(nodes.len() / 4)?;
        Ok(root.map(|root| Self { nodes, root }))
    }
}

fn alias<'a>(anchors: &HashMap<usize, usize>, id: usize, span: &Span, text: &str) -> Result<Composed<'a>, YamlError> {
    let name = span.slice(text).unwrap_or_default().trim_start_matches('*').to_owned();
    match anchors.get(&id) {
        Some(target) => Ok(Composed::Alias { target: *target, name }),
        None => Err(YamlError::Syntax {
            line: 1,
            problem: format!("unknown anchor '{name}' referenced"),
        }),
    }
}

fn tag_name(tag: &Tag) -> String {
    match tag.suffix_in_namespace("tag:yaml.org,2002:") {
        Some(name) => name.into_owned(),
        None => tag.original(),
    }
}

/// The words of the reference parser where they are known.
fn scan_error(error: &ScanError) -> YamlError {
    let problem = match error.kind() {
        ErrorKind::TabInBlockIndentation
        | ErrorKind::TabNotAllowed
        | ErrorKind::TabInIndentation
        | ErrorKind::TabInPlainScalar => "found a tab character that violates indentation".to_owned(),
        ErrorKind::RecursionLimitExceeded => format!("exceeded max depth of {DEPTH_MAX}"),
        ErrorKind::ExpectedBlockMappingKey => "did not find expected key".to_owned(),
        ErrorKind::ExpectedNodeContent => "did not find expected node content".to_owned(),
        ErrorKind::ExpectedFlowMappingSeparator => "did not find expected ',' or '}'".to_owned(),
        ErrorKind::ExpectedFlowSequenceSeparator => "did not find expected ',' or ']'".to_owned(),
        ErrorKind::ExpectedBlockSequenceEntry => "did not find expected '-' indicator".to_owned(),
        ErrorKind::SimpleKeyExpected => "could not find expected ':'".to_owned(),
        _ => error.info(),
    };
    YamlError::Syntax {
        line: error.marker().line(),
        problem,
    }
}

/// Makes the tree, aliases followed.
struct Builder<'a, 'd, 'l> {
    document: &'d Document<'a>,
    ledger: &'l mut Ledger,
    /// Which nodes are being made: an alias to one of them contains itself.
    open: Vec<bool>,
    made: usize,
    aliased: usize,
    inside_alias: usize,
    duplicates: Vec<String>,
}

impl<'a> Builder<'a, '_, '_> {
    /// Charges a node, and its text where it is one more copy.
    fn charge(&mut self, copied: usize) -> Result<(), YamlError> {
        self.made += 1;
        self.aliased += usize::from(self.inside_alias > 0);
        let (part, whole) = ALIASED_PARTS_MAX;
        if self.aliased > 100 && self.made > 1000 && self.aliased * whole > self.made * part {
            return Err(YamlError::Aliasing);
        }
        let paid = match self.inside_alias {
            0 => self.ledger.value(),
            _ => self.ledger.copy(Size {
                bytes: copied,
                values: 1,
            }),
        };
        match paid {
            Err(_) if self.inside_alias > 0 => Err(YamlError::Aliasing),
            paid => Ok(paid?),
        }
    }

    fn node(&mut self, at: usize, depth: usize) -> Result<Node<'a>, YamlError> {
        let document = self.document;
        if depth > DEPTH_MAX {
            return Err(YamlError::Syntax {
                line: document.nodes[at].1,
                problem: format!("exceeded max depth of {DEPTH_MAX}"),
            });
        }
        match &document.nodes[at].0 {
            Composed::Alias { target, name } => {
                if self.open[*target] {
                    return Err(YamlError::Itself(name.clone()));
                }
                self.inside_alias += 1;
                let node = self.node(*target, depth)?;
                self.inside_alias -= 1;
                Ok(node)
            }
            Composed::Scalar { text, plain, tag } => {
                self.charge(text.len())?;
                let scalar = self.scalar(text, *plain, tag.as_deref())?;
                Ok(match scalar {
                    Scalar::Null => Node::Null,
                    Scalar::Bool(value) => Node::Bool(value),
                    Scalar::Whole(digits) => Node::Number(digits.into()),
                    Scalar::Float(float) => Node::Number(finite(float)?.to_string().into()),
                    Scalar::String(_) => Node::String(text.clone()),
                })
            }
            Composed::Sequence(items) => {
                self.charge(0)?;
                self.open[at] = true;
                let mut out = Vec::with_capacity(items.len());
                for item in items {
                    out.push(self.node(*item, depth + 1)?);
                }
                self.open[at] = false;
                Ok(Node::Array(out))
            }
            Composed::Mapping(_) => {
                self.charge(0)?;
                let mut members = Members::default();
                self.members(at, depth, &mut members)?;
                Ok(Node::Object(members.list))
            }
        }
    }

    fn scalar<'t>(&self, text: &'t str, plain: bool, tag: Option<&str>) -> Result<Scalar<'t>, YamlError> {
        resolve(text, plain, tag).map_err(|Misfit { found }| YamlError::Tag {
            found,
            text: text.to_owned(),
            tag: tag.unwrap_or_default().to_owned(),
        })
    }

    /// Puts the entries of a mapping in; later ones win, whether they stand there or are merged.
    fn members(&mut self, at: usize, depth: usize, out: &mut Members<'a>) -> Result<(), YamlError> {
        let document = self.document;
        let Composed::Mapping(children) = &document.nodes[at].0 else {
            return Err(YamlError::Merge);
        };
        self.open[at] = true;
        for pair in children.chunks_exact(2) {
            let (key, value) = (pair[0], pair[1]);
            if self.is_merge(key) {
                self.merge(value, depth, out)?;
                continue;
            }
            let (name, shown) = self.key(key)?;
            let node = self.node(value, depth + 1)?;
            if !out.put(name, node) && self.duplicates.len() < DUPLICATES_MAX {
                let line = document.nodes[value].1;
                let text = format!("line {line}: key {shown} already set in map");
                if self.ledger.tell(text.len()) {
                    self.duplicates.push(text);
                }
            }
        }
        self.open[at] = false;
        Ok(())
    }

    fn is_merge(&self, at: usize) -> bool {
        matches!(&self.document.nodes[at].0, Composed::Scalar { text, plain, tag }
            if text == "<<" && (*plain && tag.is_none() || tag.as_deref() == Some("merge")))
    }

    fn merge(&mut self, at: usize, depth: usize, out: &mut Members<'a>) -> Result<(), YamlError> {
        let document = self.document;
        match &document.nodes[at].0 {
            Composed::Mapping(_) => self.members(at, depth, out),
            Composed::Alias { target, name } => {
                if self.open[*target] {
                    return Err(YamlError::Itself(name.clone()));
                }
                self.inside_alias += 1;
                self.charge(0)?;
                self.members(*target, depth, out)?;
                self.inside_alias -= 1;
                Ok(())
            }
            Composed::Sequence(items) => {
                for item in items.iter().rev() {
                    if matches!(document.nodes[*item].0, Composed::Sequence(_)) {
                        return Err(YamlError::Merge);
                    }
                    self.merge(*item, depth, out)?;
                }
                Ok(())
            }
            Composed::Scalar { .. } => Err(YamlError::Merge),
        }
    }

    /// A key as text, and as Go shows it.
    fn key(&mut self, at: usize) -> Result<(Cow<'a, str>, String), YamlError> {
        let document = self.document;
        let (text, plain, tag) = match &document.nodes[at].0 {
            Composed::Scalar { text, plain, tag } => (text, *plain, tag.as_deref()),
            Composed::Alias { target, .. } => match &document.nodes[*target].0 {
                Composed::Scalar { text, plain, tag } => (text, *plain, tag.as_deref()),
                _ => return Err(YamlError::Key),
            },
            _ => return Err(YamlError::Key),
        };
        self.charge(text.len())?;
        let name = match self.scalar(text, plain, tag)? {
            Scalar::String(text_shown) => {
                let shown = if text_shown.len() < 256 {
                    format!("{text_shown:?}")
                } else {
                    String::new()
                };
                return Ok((text.clone(), shown));
            }
            Scalar::Null => return Err(YamlError::NullKey),
            Scalar::Bool(value) => value.to_string(),
            Scalar::Whole(digits) => digits,
            Scalar::Float(float) if float.is_nan() => ".nan".to_owned(),
            Scalar::Float(float) if float.is_infinite() => if float > 0.0 { ".inf" } else { "-.inf" }.to_owned(),
            #[allow(clippy::cast_possible_truncation)] // upstream shows such keys in 32 bits
            Scalar::Float(float) => (float as f32).to_string(),
        };
        Ok((Cow::Owned(name.clone()), name))
    }
}

fn finite(float: f64) -> Result<f64, YamlError> {
    if float.is_nan() {
        Err(YamlError::NotFinite("NaN"))
    } else if float.is_infinite() {
        Err(YamlError::NotFinite(if float > 0.0 { "+Inf" } else { "-Inf" }))
    } else {
        Ok(float)
    }
}

/// The entries of a mapping in the order of their first appearance.
#[derive(Default)]
struct Members<'a> {
    list: Vec<(Cow<'a, str>, Node<'a>)>,
    places: HashMap<Cow<'a, str>, usize>,
}

impl<'a> Members<'a> {
    /// Whether the name is new.
    fn put(&mut self, name: Cow<'a, str>, node: Node<'a>) -> bool {
        if let Some(at) = self.places.get(&name) {
            self.list[*at].1 = node;
            return false;
        }
        self.places.insert(name.clone(), self.list.len());
        self.list.push((name, node));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Reads a text in both ways, which give the same and charge the same.
    fn read(text: &str) -> Result<(Value, Vec<String>), YamlError> {
        let (mut one, mut other) = (Ledger::new(), Ledger::new());
        let by_tree = yaml(text.as_bytes(), &mut one).map(|(body, duplicates)| (body.into_value(), duplicates));
        let straight = yaml_value(text.as_bytes(), &mut other, None).map(|untyped| (untyped.value, untyped.repeated));
        assert_eq!(straight, by_tree, "{text}");
        assert_eq!(other, one, "{text}");
        by_tree
    }

    #[test]
    fn documents_read_as_upstream_reads_them() {
        for (text, want) in [
            ("", Value::Null),
            ("# nothing\n", Value::Null),
            ("a: 1\n---\nb: 2\n", json!({"a": 1})),
            ("---\na: 1\n---\nb: 2\n", json!({"a": 1})),
            ("y: 1\nn: 2\n", json!({"true": 1, "false": 2})),
            (
                "a: y\nb: \"y\"\n1: x\n0x10: z\n1.5: f\n",
                json!({"a": true, "b": "y", "1": "x", "16": "z", "1.5": "f"}),
            ),
            (
                "replicas: 3.0\nhalf: 0.5\nmode: 0644\n",
                json!({"replicas": 3, "half": 0.5, "mode": 420}),
            ),
            ("{\"replicas\": 3.0, \"y\": \"y\"}", json!({"replicas": 3, "y": "y"})),
            (
                "a: &x {k: v}\nb: *x\nc: [*x]\n",
                json!({"a": {"k": "v"}, "b": {"k": "v"}, "c": [{"k": "v"}]}),
            ),
            (
                "base: &x {k: v, l: 1}\nc:\n  <<: *x\n  k: w\n",
                json!({"base": {"k": "v", "l": 1}, "c": {"k": "w", "l": 1}}),
            ),
            ("t: !!str 12\nu: !custom z\n", json!({"t": "12", "u": "z"})),
            ("s: |\n  one\n  two\n", json!({"s": "one\ntwo\n"})),
        ] {
            assert_eq!(read(text).unwrap_or_else(|error| panic!("{text}: {error}")).0, want, "{text}");
        }
    }

    #[test]
    fn keys_that_stand_twice_are_told_with_their_lines() {
        let (value, duplicates) = read("a: 1\nb: 2\na: 3\ny: 1\ny: 2\n").unwrap();
        assert_eq!(value, json!({"a": 3, "b": 2, "true": 2}));
        assert_eq!(
            duplicates,
            ["line 3: key \"a\" already set in map", "line 5: key true already set in map"]
        );
        let (_, duplicates) = read("{\"a\": 1,\n \"a\": 2}").unwrap();
        assert_eq!(duplicates, ["line 2: key \"a\" already set in map"]);
    }

    #[test]
    fn what_is_wrong_is_told_in_upstreams_words() {
        for (text, message) in [
            ("a: b: c\n", "yaml: mapping values are not allowed in this context"),
            (
                "a: 1\nb: c: d\n",
                "yaml: line 2: mapping values are not allowed in this context",
            ),
            ("a: &x [*x]\n", "yaml: anchor 'x' value contains itself"),
            ("<<: 1\n", "yaml: map merge requires map or sequence of maps as the value"),
            ("a: !!int x\n", "yaml: cannot decode !!str `x` as a !!int"),
            ("a: .inf\n", "json: unsupported value: +Inf"),
            ("? [a]\n: b\n", "yaml: invalid map key"),
        ] {
            assert_eq!(read(text).unwrap_err().to_string(), message, "{text}");
        }
    }

    #[test]
    fn aliases_do_not_multiply() {
        trireme_limited::run(
            "decode::yaml::tests::multiplied",
            trireme_limited::Limits::address_space_mib(512),
        );
    }

    #[test]
    #[ignore = "run by its parent under limits"]
    fn multiplied() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..9 {
            let inner = vec![format!("*a{}", level - 1); 10].join(", ");
            bomb.push_str(&format!("a{level}: &a{level} [{inner}]\n"));
        }
        assert_eq!(read(&bomb), Err(YamlError::Aliasing));
        // As upstream counts, it is the share of aliases: what has more beside them may have as many.
        let shared = |beside: usize| {
            let beside = vec!["y"; beside].join(", ");
            let (long, aliases) = (vec!["x"; 300].join(", "), vec!["*a"; 200].join(", "));
            read(&format!("a: &a [{long}]\nb: [{beside}]\nc: [{aliases}]\n"))
        };
        assert_eq!(shared(0), Err(YamlError::Aliasing));
        assert!(shared(500).is_ok());
        let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(100_000), vec!["*a"; 500].join(", "));
        assert_eq!(read(&long), Err(YamlError::Aliasing), "few values, but long ones");
        assert!(matches!(read(&"[".repeat(10_000)), Err(YamlError::Syntax { .. })));
    }
}
