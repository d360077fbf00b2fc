//! From text to nodes, as cel-go's parser makes them: each node stands where its operator does.
//!
//! Invariant: the parser descends at most as deep as cel-go's (`EXPR_DEPTH_MAX`, `VISIT_DEPTH_MAX`) and makes no more nodes than
//! its caller has left, whatever macros copy. Chains of operators are loops.

use std::sync::Arc;

use crate::ast::{Ast, Entry, Expr, ExprId, Field, Literal, Name, Node};
use crate::macros;
use crate::problem::Problem;
use crate::source::{Issue, Location, Source};
use crate::token::{Kind, Token, tokens};
use crate::unescape::unescape;

/// How deep expressions stand within one another, in brackets and branches.
const EXPR_DEPTH_MAX: u32 = 250;
/// How deep operators and selections stand within one another, counted along chains, too.
const VISIT_DEPTH_MAX: u32 = 250;

/// Words that the grammar takes for names and the language does not.
pub(crate) const RESERVED: &[&str] = &[
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// Why there are no nodes.
#[derive(Debug)]
pub(crate) enum Unparsed {
    /// The text does not follow the grammar.
    Syntax,
    /// It does, and is wrong nevertheless.
    Issues(Vec<Issue>),
    /// Macros make too many nodes of it.
    Nodes,
}

/// A part that was parsed, and how deep operators stand in it.
#[derive(Clone, Copy)]
struct Part {
    id: ExprId,
    depth: u32,
}

/// Nodes in the making; macros add to them, too.
pub(crate) struct Parser<'a> {
    source: &'a Source,
    tokens: Vec<Token>,
    next: usize,
    depth: u32,
    nodes: Vec<Node>,
    /// How many more nodes there may be.
    left: &'a mut usize,
    issues: Vec<Issue>,
    /// Whether `cel.bind` is a macro.
    pub bindings: bool,
}

type Parsed<T> = Result<T, Unparsed>;

/// Parses an expression, whose nodes are taken from what is `left` of them.
pub(crate) fn parse(source: &Source, bindings: bool, left: &mut usize) -> Parsed<Ast> {
    let mut parser = Parser {
        source,
        tokens: tokens(&source.letters).map_err(|_| Unparsed::Syntax)?,
        next: 0,
        depth: 0,
        nodes: Vec::new(),
        left,
        issues: Vec::new(),
        bindings,
    };
    let part = parser.expr()?;
    if parser.peek() != Kind::End {
        return Err(Unparsed::Syntax);
    }
    if parser.issues.is_empty() {
        Ok(Ast {
            nodes: parser.nodes,
            root: part.id,
        })
    } else {
        Err(Unparsed::Issues(parser.issues))
    }
}

impl Parser<'_> {
    /// Adds a node that stands at `at`.
    pub fn add(&mut self, at: u32, expr: Expr) -> Parsed<ExprId> {
        self.charge(1)?;
        let id = ExprId(u32::try_from(self.nodes.len()).unwrap_or(u32::MAX));
        self.nodes.push(Node { at, expr });
        Ok(id)
    }

    /// Counts what takes the work of so many nodes.
    pub fn charge(&mut self, nodes: usize) -> Parsed<()> {
        *self.left = self.left.checked_sub(nodes).ok_or(Unparsed::Nodes)?;
        Ok(())
    }

    pub fn node(&self, id: ExprId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    /// Notes what is wrong at `at`; the node stands for what should be there.
    pub fn fault(&mut self, at: u32, problem: Problem) -> Parsed<ExprId> {
        self.issues.push(Issue {
            at: self.source.location(at),
            problem,
        });
        self.add(at, Expr::Unspecified)
    }

    /// A call of a function or an operator.
    pub fn call(&mut self, at: u32, function: &str, arguments: Vec<ExprId>) -> Parsed<ExprId> {
        let function = function.into();
        self.add(
            at,
            Expr::Call {
                target: None,
                function,
                arguments,
            },
        )
    }

    /// Ends the work with what concerns the whole.
    fn over<T>(&mut self, problem: Problem) -> Parsed<T> {
        let mut issues = std::mem::take(&mut self.issues);
        issues.push(Issue {
            at: Location::NONE,
            problem,
        });
        Err(Unparsed::Issues(issues))
    }

    /// A part whose operator adds to the depth of those below it.
    fn deeper(&mut self, id: ExprId, below: impl IntoIterator<Item = u32>) -> Parsed<Part> {
        let depth = 1 + below.into_iter().max().unwrap_or_default();
        if depth > VISIT_DEPTH_MAX {
            return self.over(Problem::Depth);
        }
        Ok(Part { id, depth })
    }

    fn token(&self) -> Token {
        self.tokens[self.next]
    }

    fn peek(&self) -> Kind {
        self.token().kind
    }

    fn peek_after(&self, ahead: usize) -> Kind {
        self.tokens.get(self.next + ahead).map_or(Kind::End, |token| token.kind)
    }

    fn advance(&mut self) -> Token {
        let token = self.token();
        if token.kind != Kind::End {
            self.next += 1;
        }
        token
    }

    /// Takes the sign if it is next, and says where it stands.
    fn take(&mut self, sign: &'static str) -> Option<u32> {
        (self.peek() == Kind::Sign(sign)).then(|| self.advance().at)
    }

    fn expect(&mut self, sign: &'static str) -> Parsed<u32> {
        self.take(sign).ok_or(Unparsed::Syntax)
    }

    fn text(&self, token: Token) -> String {
        self.source.letters[token.at as usize..token.end as usize].iter().collect()
    }

    fn name(&mut self) -> Parsed<(Name, u32)> {
        if self.peek() != Kind::Ident {
            return Err(Unparsed::Syntax);
        }
        let token = self.advance();
        Ok((self.text(token).into(), token.at))
    }

    /// The name of a field, which might be quoted.
    fn field_name(&mut self, told_at: Option<u32>) -> Parsed<(Name, u32)> {
        if self.peek() != Kind::EscapedIdent {
            return self.name();
        }
        let token = self.advance();
        let at = told_at.unwrap_or(token.at);
        self.fault(at, Problem::EscapedIdentifier)?;
        Ok((self.text(token).into(), token.at))
    }

    fn expr(&mut self) -> Parsed<Part> {
        self.depth += 1;
        if self.depth > EXPR_DEPTH_MAX {
            return self.over(Problem::Recursion(EXPR_DEPTH_MAX));
        }
        let condition = self.logic("||")?;
        let part = match self.take("?") {
            None => condition,
            Some(at) => {
                let yes = self.logic("||")?;
                self.expect(":")?;
                let no = self.expr()?;
                let id = self.call(at, "_?_:_", vec![condition.id, yes.id, no.id])?;
                self.deeper(id, [condition.depth, yes.depth, no.depth])?
            }
        };
        self.depth -= 1;
        Ok(part)
    }

    /// Terms between `||` or `&&`, which become a balanced tree.
    fn logic(&mut self, sign: &'static str) -> Parsed<Part> {
        let inner = |parser: &mut Self| match sign {
            "||" => parser.logic("&&"),
            _ => parser.relation(),
        };
        let first = inner(self)?;
        let (mut terms, mut signs, mut depth) = (vec![first.id], Vec::new(), first.depth);
        while let Some(at) = self.take(sign) {
            let term = inner(self)?;
            terms.push(term.id);
            signs.push(at);
            depth = depth.max(term.depth);
        }
        let function = if sign == "||" { "_||_" } else { "_&&_" };
        let id = self.balanced(function, &terms, &signs)?;
        Ok(Part { id, depth })
    }

    fn balanced(&mut self, function: &str, terms: &[ExprId], signs: &[u32]) -> Parsed<ExprId> {
        if signs.is_empty() {
            return Ok(terms[0]);
        }
        let middle = signs.len() / 2;
        let left = self.balanced(function, &terms[..=middle], &signs[..middle])?;
        let right = self.balanced(function, &terms[middle + 1..], &signs[middle + 1..])?;
        self.call(signs[middle], function, vec![left, right])
    }

    fn chain(&mut self, operators: &[(&'static str, &str)], inner: impl Fn(&mut Self) -> Parsed<Part>) -> Parsed<Part> {
        let mut left = inner(self)?;
        loop {
            let Some((sign, function)) = operators.iter().find(|(sign, _)| self.peek() == Kind::Sign(sign)) else {
                return Ok(left);
            };
            let at = self.expect(sign)?;
            let right = inner(self)?;
            let id = self.call(at, function, vec![left.id, right.id])?;
            left = self.deeper(id, [left.depth, right.depth])?;
        }
    }

    fn relation(&mut self) -> Parsed<Part> {
        const RELATIONS: &[(&str, &str)] = &[
            ("==", "_==_"),
            ("!=", "_!=_"),
            ("<", "_<_"),
            ("<=", "_<=_"),
            (">", "_>_"),
            (">=", "_>=_"),
            ("in", "@in"),
        ];
        const SUMS: &[(&str, &str)] = &[("+", "_+_"), ("-", "_-_")];
        const PRODUCTS: &[(&str, &str)] = &[("*", "_*_"), ("/", "_/_"), ("%", "_%_")];
        self.chain(RELATIONS, |parser| {
            parser.chain(SUMS, |parser| parser.chain(PRODUCTS, Self::unary))
        })
    }

    fn unary(&mut self) -> Parsed<Part> {
        let (sign, function) = match self.peek() {
            Kind::Sign("!") => ("!", "!_"),
            // A minus right before a number is the number's.
            Kind::Sign("-") if !matches!(self.peek_after(1), Kind::Int | Kind::Float) => ("-", "-_"),
            _ => return self.member(),
        };
        let at = self.token().at;
        let mut odd = false;
        while self.take(sign).is_some() {
            odd = !odd;
        }
        let operand = self.member()?;
        if !odd {
            return Ok(operand);
        }
        let id = self.call(at, function, vec![operand.id])?;
        Ok(Part {
            id,
            depth: operand.depth,
        })
    }

    fn member(&mut self) -> Parsed<Part> {
        let mut part = self.primary()?;
        loop {
            if let Some(at) = self.take(".") {
                part = self.selection(part, at)?;
            } else if let Some(at) = self.take("[") {
                let function = if self.take("?").is_some() { "_[?_]" } else { "_[_]" };
                let index = self.expr()?;
                self.expect("]")?;
                let id = self.call(at, function, vec![part.id, index.id])?;
                part = self.deeper(id, [part.depth, index.depth])?;
            } else {
                return Ok(part);
            }
        }
    }

    /// What follows a dot: a field, or a call of a method.
    fn selection(&mut self, operand: Part, at: u32) -> Parsed<Part> {
        if self.take("?").is_some() {
            let (field, field_at) = self.field_name(None)?;
            let field = self.add(field_at, Expr::Literal(Literal::String(field)))?;
            let id = self.call(at, "_?._", vec![operand.id, field])?;
            return self.deeper(id, [operand.depth]);
        }
        let quoted = self.peek() == Kind::EscapedIdent;
        let (name, _) = self.field_name(None)?;
        let open = if quoted { None } else { self.take("(") };
        let Some(open) = open else {
            let operand_id = operand.id;
            let id = self.add(
                at,
                Expr::Select {
                    operand: operand_id,
                    field: name,
                    test: false,
                },
            )?;
            return self.deeper(id, [operand.depth]);
        };
        let (arguments, depth) = self.arguments()?;
        let id = macros::receiver(self, open, name, operand.id, arguments)?;
        self.deeper(id, [operand.depth, depth])
    }

    /// Arguments up to their bracket, and how deep the deepest is.
    fn arguments(&mut self) -> Parsed<(Vec<ExprId>, u32)> {
        let (mut all, mut depth) = (Vec::new(), 0);
        if self.take(")").is_some() {
            return Ok((all, depth));
        }
        loop {
            let part = self.expr()?;
            all.push(part.id);
            depth = depth.max(part.depth);
            if self.take(",").is_none() {
                self.expect(")")?;
                return Ok((all, depth));
            }
        }
    }

    fn primary(&mut self) -> Parsed<Part> {
        let token = self.token();
        match token.kind {
            Kind::Sign("(") => {
                self.advance();
                let part = self.expr()?;
                self.expect(")")?;
                Ok(part)
            }
            Kind::Sign("[") => self.list(),
            Kind::Sign("{") => self.map(),
            Kind::Sign(".") | Kind::Ident => self.named(),
            _ => {
                let id = self.literal()?;
                Ok(Part { id, depth: 0 })
            }
        }
    }

    fn named(&mut self) -> Parsed<Part> {
        let begin = self.token().at;
        let dot = if self.take(".").is_some() { "." } else { "" };
        if self.peek() != Kind::Ident {
            return Err(Unparsed::Syntax);
        }
        let mut ahead = 1;
        while self.peek_after(ahead) == Kind::Sign(".") && self.peek_after(ahead + 1) == Kind::Ident {
            ahead += 2;
        }
        if self.peek_after(ahead) == Kind::Sign("{") {
            return self.message(dot);
        }
        let (word, at) = self.name()?;
        let reserved = RESERVED.contains(&&*word);
        let name: Name = format!("{dot}{word}").into();
        let Some(open) = self.take("(") else {
            let id = if reserved {
                self.fault(begin, Problem::ReservedIdentifier((&*word).into()))?
            } else {
                self.add(at, Expr::Ident(name))?
            };
            return Ok(Part { id, depth: 0 });
        };
        let (arguments, depth) = self.arguments()?;
        let id = if reserved {
            self.fault(begin, Problem::ReservedIdentifier((&*word).into()))?
        } else {
            macros::global(self, open, name, arguments)?
        };
        Ok(Part { id, depth })
    }

    /// A value of a named type, with its fields.
    fn message(&mut self, dot: &str) -> Parsed<Part> {
        let mut name = dot.to_owned();
        loop {
            name += &*self.name()?.0;
            if self.take(".").is_none() {
                break;
            }
            name.push('.');
        }
        let open = self.expect("{")?;
        let (mut fields, mut depth) = (Vec::new(), 0);
        let begin = self.token().at;
        self.items("}", |parser| {
            let optional = parser.take("?").is_some();
            let (name, _) = parser.field_name(Some(begin))?;
            let at = parser.expect(":")?;
            let value = parser.expr()?;
            depth = depth.max(value.depth);
            fields.push(Field {
                at,
                name,
                value: value.id,
                optional,
            });
            Ok(())
        })?;
        let name = name.into();
        let id = self.add(open, Expr::Struct { name, fields })?;
        Ok(Part { id, depth })
    }

    /// What stands between commas up to the bracket `end`, before which a comma may stand.
    fn items(&mut self, end: &'static str, mut item: impl FnMut(&mut Self) -> Parsed<()>) -> Parsed<()> {
        if !matches!(self.peek(), Kind::Sign(sign) if sign == end || sign == ",") {
            item(self)?;
            while self.peek() == Kind::Sign(",") && self.peek_after(1) != Kind::Sign(end) {
                self.advance();
                item(self)?;
            }
        }
        self.take(",");
        self.expect(end).map(drop)
    }

    fn list(&mut self) -> Parsed<Part> {
        let at = self.expect("[")?;
        let (mut elements, mut optional, mut depth) = (Vec::new(), Vec::new(), 0);
        self.items("]", |parser| {
            if parser.take("?").is_some() {
                optional.push(elements.len());
            }
            let part = parser.expr()?;
            elements.push(part.id);
            depth = depth.max(part.depth);
            Ok(())
        })?;
        let id = self.add(at, Expr::List { elements, optional })?;
        Ok(Part { id, depth })
    }

    fn map(&mut self) -> Parsed<Part> {
        let at = self.expect("{")?;
        let (mut entries, mut depth) = (Vec::new(), 0);
        self.items("}", |parser| {
            let optional = parser.take("?").is_some();
            let key = parser.expr()?;
            parser.expect(":")?;
            let value = parser.expr()?;
            depth = depth.max(key.depth).max(value.depth);
            entries.push(Entry {
                key: key.id,
                value: value.id,
                optional,
            });
            Ok(())
        })?;
        let id = self.add(at, Expr::Map(entries))?;
        Ok(Part { id, depth })
    }

    fn literal(&mut self) -> Parsed<ExprId> {
        let begin = self.token().at;
        let sign = if self.take("-").is_some() { "-" } else { "" };
        let token = self.advance();
        if !sign.is_empty() && !matches!(token.kind, Kind::Int | Kind::Float) {
            return Err(Unparsed::Syntax);
        }
        let text = self.text(token);
        let literal = match token.kind {
            Kind::True => Ok(Literal::Bool(true)),
            Kind::False => Ok(Literal::Bool(false)),
            Kind::Null => Ok(Literal::Null),
            Kind::Int => {
                let (digits, radix) = radix(&text);
                i64::from_str_radix(&format!("{sign}{digits}"), radix)
                    .map(Literal::Int)
                    .map_err(|_| Problem::IntLiteral)
            }
            Kind::Uint => {
                let (digits, radix) = radix(&text[..text.len() - 1]);
                u64::from_str_radix(digits, radix)
                    .map(Literal::Uint)
                    .map_err(|_| Problem::UintLiteral)
            }
            Kind::Float => format!("{sign}{text}")
                .parse::<f64>()
                .ok()
                .filter(|number| number.is_finite())
                .map(Literal::Double)
                .ok_or(Problem::DoubleLiteral),
            Kind::String => unescape(&text, false).map(|bytes| {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                Literal::String(text.into())
            }),
            Kind::Bytes => unescape(&text[1..], true).map(|bytes| Literal::Bytes(Arc::from(bytes))),
            _ => return Err(Unparsed::Syntax),
        };
        match literal {
            Ok(literal) => self.add(begin, Expr::Literal(literal)),
            Err(problem) => self.fault(begin, problem),
        }
    }
}

/// The digits of a whole number and their base.
fn radix(text: &str) -> (&str, u32) {
    text.strip_prefix("0x").map_or((text, 10), |digits| (digits, 16))
}
