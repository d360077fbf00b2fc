//! From a checked expression to a program: names become slots, constants are folded where cel-go folds them (what it folds costs
//! nothing), and each call knows what it runs and what it costs.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::ast::{Ast, Expr, ExprId, Literal, Name};
use crate::check::Checked;
use crate::types::Type;

use super::functions::{self, Body};
use super::price::Price;
use super::regex::Pattern;
use super::value::{Key, Text, Val};

/// A step of a program, and the number of the node it was made from: costs are tracked by it.
#[derive(Debug)]
pub(crate) struct Node {
    pub id: u32,
    pub step: Step,
}

#[derive(Debug)]
pub(crate) enum Step {
    Const(Val<'static>),
    Attr(Attr),
    And(Box<[Node; 2]>),
    Or(Box<[Node; 2]>),
    Equal(Call, Box<[Node; 2]>, bool),
    Unary(Call, Box<Node>),
    Binary(Call, Box<[Node; 2]>),
    Many(Call, Vec<Node>),
    /// What the first optional holds, or the second: itself or what it holds.
    OrElse(Box<[Node; 2]>, bool),
    Member(Box<Node>, BTreeSet<Key<'static>>),
    List(Vec<Node>, Vec<bool>),
    Map(Vec<(Node, Node, bool)>),
    Fold(Box<Fold>),
}

/// A call: what it runs and what that costs.
#[derive(Debug)]
pub(crate) struct Call {
    pub function: Box<str>,
    /// The overload, where only one is possible.
    pub overload: Option<&'static str>,
    pub body: Body,
    pub price: Price,
    /// The pattern of its last argument, where that is constant.
    pub pattern: Option<Pattern>,
}

/// A variable or a value, and a path from it.
#[derive(Debug)]
pub(crate) struct Attr {
    /// The number of the node that it was made from.
    pub own: u32,
    pub root: Root,
    pub path: Vec<Part>,
    /// Whether only the presence of the last part is asked for.
    pub test: bool,
}

#[derive(Debug)]
pub(crate) enum Root {
    Input(usize),
    Slot {
        index: usize,
        /// Whether the value is used up: nothing reads it before it is set again.
        take: bool,
    },
    Value(Box<Node>),
    Choice(Box<(Node, Attr, Attr)>),
}

/// A step along a path.
#[derive(Debug)]
pub(crate) struct Part {
    pub id: u32,
    pub optional: bool,
    pub key: PartKey,
}

#[derive(Debug)]
pub(crate) enum PartKey {
    Const(Val<'static>),
    Attr(Arc<Attr>),
    Node(Arc<Node>),
}

impl Attr {
    fn new(own: u32, root: Root) -> Self {
        let (path, test) = (Vec::new(), false);
        Self { own, root, path, test }
    }

    /// The number by which its value is known.
    pub fn id(&self) -> u32 {
        match (self.path.last(), &self.root) {
            (Some(last), _) => last.id,
            (None, Root::Choice(all)) if all.1.id() == all.2.id() => all.1.id(),
            _ => self.own,
        }
    }

    /// Lets it tell only whether its last part is there.
    fn ask(&mut self) {
        self.test = true;
        if let Root::Choice(all) = &mut self.root {
            all.1.ask();
            all.2.ask();
        }
    }

    fn extend(&mut self, part: Part) {
        match &mut self.root {
            Root::Choice(all) => {
                let Part { id, optional, key } = part;
                let copy = match &key {
                    PartKey::Const(value) => PartKey::Const(value.clone()),
                    PartKey::Attr(attr) => PartKey::Attr(Arc::clone(attr)),
                    PartKey::Node(node) => PartKey::Node(Arc::clone(node)),
                };
                all.1.extend(Part { id, optional, key: copy });
                all.2.extend(Part { id, optional, key });
            }
            _ => self.path.push(part),
        }
    }
}

/// A loop.
#[derive(Debug)]
pub(crate) struct Fold {
    pub range: Node,
    pub init: Node,
    pub condition: Node,
    pub step: Node,
    pub result: Node,
    pub accumulator: usize,
    pub variable: usize,
    pub second: Option<usize>,
}

/// What was made of an expression.
#[derive(Debug)]
pub(crate) struct Made {
    pub root: Node,
    /// The variables it reads.
    pub inputs: Vec<Box<str>>,
    pub slots: usize,
    pub loops: bool,
    pub ids: usize,
}

/// Why no program is made of an expression that is right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unplanned {
    /// It makes objects, which are not evaluated yet.
    #[error("expressions that make objects are not evaluated")]
    Objects,
    /// It calls a function that is not evaluated.
    #[error("the function {0} is not evaluated")]
    Function(Box<str>),
    /// A constant has no value.
    #[error("{0}")]
    Constant(super::error::EvalError),
}

pub(crate) fn compile(ast: &Ast, checked: &Checked) -> Result<Made, Unplanned> {
    let mut compiler = Compiler {
        ast,
        checked,
        scopes: Vec::new(),
        inputs: Vec::new(),
        slots: 0,
        loops: false,
    };
    let root = compiler.plan(ast.root)?;
    Ok(Made {
        root,
        inputs: compiler.inputs,
        slots: compiler.slots,
        loops: compiler.loops,
        ids: ast.nodes.len(),
    })
}

struct Compiler<'a> {
    ast: &'a Ast,
    checked: &'a Checked,
    scopes: Vec<(Name, usize)>,
    inputs: Vec<Box<str>>,
    slots: usize,
    loops: bool,
}

type Planned = Result<Node, Unplanned>;

fn literal(literal: &Literal) -> Val<'static> {
    match literal {
        Literal::Null => Val::Null,
        Literal::Bool(truth) => Val::Bool(*truth),
        Literal::Int(number) => Val::Int(*number),
        Literal::Uint(number) => Val::Uint(*number),
        Literal::Double(number) => Val::Double(*number),
        Literal::String(text) => Val::String(Text::Made(Arc::clone(text))),
        Literal::Bytes(bytes) => Val::Bytes(Arc::clone(bytes)),
    }
}

impl Compiler<'_> {
    fn plan(&mut self, id: ExprId) -> Planned {
        let ast = self.ast;
        let node = |step| Ok(Node { id: id.0, step });
        match &ast.node(id).expr {
            Expr::Unspecified => Err(Unplanned::Objects),
            Expr::Literal(value) => node(Step::Const(literal(value))),
            Expr::Ident(_) => self.name(id),
            Expr::Select { operand, field, test } => {
                if self.checked.names.contains_key(&id.0) {
                    return self.name(id);
                }
                let key = PartKey::Const(Val::String(Text::Made(Arc::clone(field))));
                let operand = self.plan(*operand)?;
                let mut attr = into_attr(operand);
                attr.extend(Part {
                    id: id.0,
                    optional: false,
                    key,
                });
                if *test {
                    attr.ask();
                }
                node(Step::Attr(attr))
            }
            Expr::Call {
                target,
                function,
                arguments,
            } => self.call(id, *target, function, arguments),
            Expr::List { elements, optional } => {
                let planned = elements
                    .iter()
                    .map(|element| self.plan(*element))
                    .collect::<Result<Vec<_>, _>>()?;
                let optional: Vec<bool> = (0..elements.len()).map(|index| optional.contains(&index)).collect();
                self.folded(id, Step::List(planned, optional))
            }
            Expr::Map(entries) => {
                let mut planned = Vec::new();
                for entry in entries {
                    planned.push((self.plan(entry.key)?, self.plan(entry.value)?, entry.optional));
                }
                self.folded(id, Step::Map(planned))
            }
            Expr::Struct { .. } => Err(Unplanned::Objects),
            Expr::Comprehension(it) => {
                self.loops = true;
                let range = self.plan(it.range)?;
                let init = self.plan(it.init)?;
                let outside = self.scopes.len();
                let accumulator = self.slot(&it.accumulator);
                let variable = self.slot(&it.variable);
                let second = it.second_variable.as_ref().map(|name| self.slot(name));
                let condition = self.plan(it.condition)?;
                let mut step = self.plan(it.step)?;
                self.scopes.truncate(outside + 1);
                let result = self.plan(it.result)?;
                self.scopes.truncate(outside);
                use_up(&mut step, accumulator);
                let fold = Fold {
                    range,
                    init,
                    condition,
                    step,
                    result,
                    accumulator,
                    variable,
                    second,
                };
                node(Step::Fold(Box::new(fold)))
            }
        }
    }

    fn slot(&mut self, name: &Name) -> usize {
        let index = self.slots;
        self.slots += 1;
        self.scopes.push((name.clone(), index));
        index
    }

    fn name(&mut self, id: ExprId) -> Planned {
        let node = |step| Ok(Node { id: id.0, step });
        let Some(name) = self.checked.names.get(&id.0) else {
            return Err(Unplanned::Objects);
        };
        if let Some((_, index)) = self.scopes.iter().rev().find(|(bound, _)| **bound == **name) {
            let root = Root::Slot {
                index: *index,
                take: false,
            };
            return node(Step::Attr(Attr::new(id.0, root)));
        }
        match &self.checked.types[id.0 as usize] {
            Some(Type::Of(named)) => {
                let name = named.as_deref().map_or("type", Type::runtime_name);
                return node(Step::Const(Val::Type(name.into())));
            }
            _ if **name == *"google.protobuf.NullValue.NULL_VALUE" => return node(Step::Const(Val::Int(0))),
            _ => {}
        }
        let index = self.inputs.iter().position(|input| input == name).unwrap_or_else(|| {
            self.inputs.push(name.clone());
            self.inputs.len() - 1
        });
        node(Step::Attr(Attr::new(id.0, Root::Input(index))))
    }

    /// A list, a map or a conversion; a constant, if all it is made of are.
    fn folded(&mut self, id: ExprId, step: Step) -> Planned {
        let constant = |node: &Node| matches!(node.step, Step::Const(_));
        let all = match &step {
            Step::List(elements, _) => elements.iter().all(constant),
            Step::Map(entries) => entries.iter().all(|(key, value, _)| constant(key) && constant(value)),
            Step::Unary(_, argument) => constant(argument),
            _ => false,
        };
        let node = Node { id: id.0, step };
        if !all {
            return Ok(node);
        }
        let value = super::run::constant(&node).map_err(Unplanned::Constant)?;
        Ok(Node {
            id: id.0,
            step: Step::Const(value),
        })
    }

    fn call(&mut self, id: ExprId, target: Option<ExprId>, function: &str, arguments: &[ExprId]) -> Planned {
        // The target of a function of a name space is no value: it has no type.
        let target = target.filter(|target| self.checked.types[target.0 as usize].is_some());
        let mut name: Box<str> = function.strip_prefix('.').unwrap_or(function).into();
        if let (None, Expr::Call { target: Some(space), .. }) = (target, &self.ast.node(id).expr)
            && let Some(space) = self.qualified(*space)
        {
            name = format!("{}.{name}", space.strip_prefix('.').unwrap_or(&space)).into();
        }
        let mut planned = Vec::new();
        for argument in target.iter().chain(arguments) {
            planned.push(self.plan(*argument)?);
        }
        let overload = match self.checked.overloads.get(&id.0).map(Vec::as_slice) {
            Some([only]) => Some(*only),
            _ => None,
        };
        let node = |step| Ok(Node { id: id.0, step });
        let two = <Box<[Node; 2]>>::try_from(planned);
        let planned = match (&*name, two) {
            ("_&&_", Ok(both)) => return node(Step::And(both)),
            ("_||_", Ok(both)) => return node(Step::Or(both)),
            ("_[_]", Ok(both)) => return Ok(index(id, *both, false)),
            ("_?._" | "_[?_]", Ok(both)) => return Ok(index(id, *both, true)),
            ("or", Ok(both)) => return node(Step::OrElse(both, false)),
            ("orValue", Ok(both)) => return node(Step::OrElse(both, true)),
            ("_==_" | "_!=_", Ok(both)) => {
                let equal = &*name == "_==_";
                let overload = Some(if equal { "equals" } else { "not_equals" });
                let call = self.made(&name, overload, &both[..])?;
                return node(Step::Equal(call, both, equal));
            }
            (_, Ok(both)) => Vec::from(both as Box<[Node]>),
            (_, Err(planned)) => planned,
        };
        if &*name == "_?_:_" {
            let mut parts = planned.into_iter();
            if let (Some(condition), Some(yes), Some(no)) = (parts.next(), parts.next(), parts.next()) {
                let choice = (condition, into_attr(yes), into_attr(no));
                return node(Step::Attr(Attr::new(id.0, Root::Choice(Box::new(choice)))));
            }
            return Err(Unplanned::Function(name));
        }
        let call = self.made(&name, overload, &planned)?;
        if overload == Some("in_list") {
            return Ok(membership(id.0, call, planned));
        }
        let mut planned = planned;
        let step = match planned.len() {
            1 => Step::Unary(call, Box::new(planned.remove(0))),
            2 if call.pattern.is_none() => match <Box<[Node; 2]>>::try_from(planned) {
                Ok(both) => Step::Binary(call, both),
                Err(planned) => Step::Many(call, planned),
            },
            _ => Step::Many(call, planned),
        };
        let converts = matches!(
            &*name,
            "bool" | "bytes" | "double" | "dyn" | "duration" | "int" | "string" | "timestamp" | "type" | "uint"
        );
        if converts { self.folded(id, step) } else { node(step) }
    }

    fn made(&self, name: &str, overload: Option<&'static str>, arguments: &[Node]) -> Result<Call, Unplanned> {
        let Some(body) = functions::body(name, arguments.len()) else {
            return Err(Unplanned::Function(name.into()));
        };
        let pattern = match (name, arguments.get(1).map(|node| &node.step)) {
            ("matches" | "find" | "findAll", Some(Step::Const(Val::String(pattern)))) => {
                Some(Pattern::new(pattern.as_str()).map_err(Unplanned::Constant)?)
            }
            _ => None,
        };
        Ok(Call {
            function: name.into(),
            overload,
            body,
            price: Price::of(name, overload),
            pattern,
        })
    }

    /// The dotted name that a node spells.
    fn qualified(&self, id: ExprId) -> Option<String> {
        match &self.ast.node(id).expr {
            Expr::Ident(name) => Some(name.to_string()),
            Expr::Select {
                operand,
                field,
                test: false,
            } => Some(format!("{}.{field}", self.qualified(*operand)?)),
            _ => None,
        }
    }
}

/// A node as the beginning of a path.
fn into_attr(node: Node) -> Attr {
    match node.step {
        Step::Attr(attr) => attr,
        _ => Attr::new(node.id, Root::Value(Box::new(node))),
    }
}

fn index(id: ExprId, [operand, key]: [Node; 2], optional: bool) -> Node {
    let mut attr = into_attr(operand);
    let key = match key.step {
        Step::Const(value) => PartKey::Const(value),
        Step::Attr(attr) => PartKey::Attr(Arc::new(attr)),
        _ => PartKey::Node(Arc::new(key)),
    };
    attr.extend(Part { id: id.0, optional, key });
    Node {
        id: id.0,
        step: Step::Attr(attr),
    }
}

/// A search in a constant list of scalars is a look into a set, which costs nothing.
fn membership(id: u32, call: Call, mut planned: Vec<Node>) -> Node {
    let set = match &planned[1].step {
        Step::Const(Val::List(list)) => {
            if list.len() == 0 {
                return Node {
                    id,
                    step: Step::Const(Val::Bool(false)),
                };
            }
            list.values().ok().and_then(|values| {
                values.iter().map(Key::of).collect::<Option<Vec<_>>>().map(|keys| {
                    let mut all = BTreeSet::new();
                    for key in keys {
                        all.extend(super::ops::equal_keys(&key));
                        all.insert(key);
                    }
                    all
                })
            })
        }
        _ => None,
    };
    if let Some(set) = set {
        let searched = planned.swap_remove(0);
        return Node {
            id,
            step: Step::Member(Box::new(searched), set),
        };
    }
    match <Box<[Node; 2]>>::try_from(planned) {
        Ok(both) => Node {
            id,
            step: Step::Binary(call, both),
        },
        Err(planned) => Node {
            id,
            step: Step::Many(call, planned),
        },
    }
}

/// Lets the step of a loop use up what was gathered, where it adds to it.
fn use_up(step: &mut Node, slot: usize) {
    let first = match &mut step.step {
        Step::Binary(call, both) if matches!(&*call.function, "_+_" | "cel.@mapInsert") => &mut both[0],
        Step::Many(call, all) if &*call.function == "cel.@mapInsert" => &mut all[0],
        Step::Attr(Attr {
            root: Root::Choice(all), ..
        }) => {
            if let Root::Value(node) = &mut all.1.root {
                use_up(node, slot);
            }
            return;
        }
        _ => return,
    };
    if let Step::Attr(Attr {
        root: Root::Slot { index, take },
        path,
        ..
    }) = &mut first.step
        && *index == slot
        && path.is_empty()
    {
        *take = true;
    }
}
