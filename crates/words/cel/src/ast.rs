//! Parsed expressions: nodes in one list, which refer to one another by their number.
//!
//! No node owns another, so that dropping a deep expression takes no stack.

use std::sync::Arc;

/// A name in an expression.
pub(crate) type Name = Arc<str>;

/// The number of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ExprId(pub u32);

/// A node and where it stands in the source.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub at: u32,
    pub expr: Expr,
}

/// What a node is.
#[derive(Clone, Debug)]
pub(crate) enum Expr {
    /// Stands where there is a fault.
    Unspecified,
    Literal(Literal),
    Ident(Name),
    /// A field of `operand`; with `test`, whether it is there.
    Select {
        operand: ExprId,
        field: Name,
        test: bool,
    },
    Call {
        target: Option<ExprId>,
        function: Name,
        arguments: Vec<ExprId>,
    },
    List {
        elements: Vec<ExprId>,
        /// Which elements are optional.
        optional: Vec<usize>,
    },
    Map(Vec<Entry>),
    Struct {
        name: Name,
        fields: Vec<Field>,
    },
    Comprehension(Box<Comprehension>),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Name),
    Bytes(Arc<[u8]>),
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub key: ExprId,
    pub value: ExprId,
    pub optional: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Field {
    pub at: u32,
    pub name: Name,
    pub value: ExprId,
    pub optional: bool,
}

/// A loop over `range`: what macros turn into.
#[derive(Clone, Debug)]
pub(crate) struct Comprehension {
    pub range: ExprId,
    pub variable: Name,
    pub second_variable: Option<Name>,
    pub accumulator: Name,
    pub init: ExprId,
    pub condition: ExprId,
    pub step: ExprId,
    pub result: ExprId,
}

/// A parsed expression.
#[derive(Debug)]
pub(crate) struct Ast {
    pub nodes: Vec<Node>,
    pub root: ExprId,
}

impl Ast {
    pub fn node(&self, id: ExprId) -> &Node {
        &self.nodes[id.0 as usize]
    }
}

impl Expr {
    /// The nodes right below, in the order in which they are judged.
    pub fn children(&self) -> Vec<ExprId> {
        match self {
            Self::Unspecified | Self::Literal(_) | Self::Ident(_) => Vec::new(),
            Self::Select { operand, .. } => vec![*operand],
            Self::Call { target, arguments, .. } => target.iter().chain(arguments).copied().collect(),
            Self::List { elements, .. } => elements.clone(),
            Self::Map(entries) => entries.iter().flat_map(|entry| [entry.key, entry.value]).collect(),
            Self::Struct { fields, .. } => fields.iter().map(|field| field.value).collect(),
            Self::Comprehension(it) => vec![it.range, it.init, it.condition, it.step, it.result],
        }
    }
}
