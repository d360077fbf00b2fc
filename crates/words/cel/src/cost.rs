//! What an expression can cost at most when it is evaluated, estimated as cel-go estimates it.
//!
//! Sizes of what is not known are taken for the largest; the names of a path say where a value comes from, so that an environment
//! can tell how large it gets.

pub(crate) mod calls;

use std::collections::HashMap;

use crate::ast::{Ast, Comprehension, Expr, ExprId, Literal, Name};
use crate::check::Checked;
use crate::types::Type;

/// How large a value at a path of an environment's variable can be.
pub(crate) type SizeOf = fn(&[&str]) -> Option<u64>;

/// What an expression may cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    pub most: u64,
    pub size_of: SizeOf,
}

/// At least and at most so many: elements, or units of cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub min: u64,
    pub max: u64,
}

impl Span {
    pub const UNKNOWN: Self = Self { min: 0, max: u64::MAX };

    pub fn just(count: u64) -> Self {
        Self { min: count, max: count }
    }

    pub fn plus(self, other: Self) -> Self {
        Self {
            min: self.min.saturating_add(other.min),
            max: self.max.saturating_add(other.max),
        }
    }

    pub fn times(self, other: Self) -> Self {
        Self {
            min: self.min.saturating_mul(other.min),
            max: self.max.saturating_mul(other.max),
        }
    }

    pub fn factor(self, factor: f64) -> Self {
        // Conversion saturates, as cel-go does by hand.
        let each = |count: u64| (count as f64 * factor).ceil() as u64;
        Self {
            min: each(self.min),
            max: each(self.max),
        }
    }

    pub fn union(self, other: Self) -> Self {
        Self {
            min: self.min.min(other.min),
            max: self.max.max(other.max),
        }
    }
}

/// The sizes of what is in a list or a map.
#[derive(Clone, Copy, Debug)]
struct Entries {
    list: bool,
    key: Span,
    value: Span,
}

impl Entries {
    fn union(self, other: Self) -> Self {
        Self {
            list: self.list,
            key: self.key.union(other.key),
            value: self.value.union(other.value),
        }
    }
}

#[derive(Clone, Debug)]
struct Local {
    name: Name,
    path: Vec<Name>,
    size: Option<Span>,
    entries: Option<Entries>,
}

/// What a function is told of an argument.
pub(crate) struct Value<'a> {
    pub path: Vec<Name>,
    pub is: &'a Type,
    pub literal: Option<&'a Literal>,
    pub size: Option<Span>,
}

/// The most that an expression can cost, where `size_of` says how large a value at a path can be.
pub(crate) fn most(ast: &Ast, checked: &Checked, size_of: &dyn Fn(&[&str]) -> Option<u64>) -> u64 {
    let mut coster = Coster {
        ast,
        checked,
        size_of,
        paths: HashMap::new(),
        sizes: HashMap::new(),
        entries: HashMap::new(),
        locals: Vec::new(),
    };
    coster.cost(ast.root).max
}

pub(crate) struct Coster<'a> {
    ast: &'a Ast,
    checked: &'a Checked,
    size_of: &'a dyn Fn(&[&str]) -> Option<u64>,
    paths: HashMap<u32, Vec<Name>>,
    sizes: HashMap<u32, Span>,
    entries: HashMap<u32, Entries>,
    /// Variables of the loops around, the innermost last.
    locals: Vec<Local>,
}

impl<'a> Coster<'a> {
    fn is(&self, id: ExprId) -> &'a Type {
        self.checked.types[id.0 as usize].as_ref().unwrap_or(&Type::Dyn)
    }

    fn local(&self, name: &str) -> Option<&Local> {
        self.locals.iter().rev().find(|local| *local.name == *name)
    }

    fn cost(&mut self, id: ExprId) -> Span {
        if let Some(name) = self.checked.names.get(&id.0) {
            let path = match self.local(name) {
                Some(local) => local.path.clone(),
                None => vec![(&**name).into()],
            };
            self.paths.insert(id.0, path);
            return Span::just(1);
        }
        let ast = self.ast;
        match &ast.node(id).expr {
            Expr::Unspecified | Expr::Literal(_) | Expr::Ident(_) => Span::just(0),
            Expr::Select { operand, field, test } => self.select(id, *operand, field, *test),
            Expr::Call {
                target,
                function,
                arguments,
            } => self.call(id, *target, function, arguments),
            Expr::List { elements, .. } => {
                let (mut sum, mut item) = (Span::just(10), none_of(elements.is_empty()));
                for element in elements {
                    sum = sum.plus(self.cost(*element));
                    item = item.union(self.size_or_unknown(*element));
                }
                let (list, key, value) = (true, Span::just(1), item);
                self.entries.insert(id.0, Entries { list, key, value });
                sum
            }
            Expr::Map(all) => {
                let mut sum = Span::just(30);
                let (mut key, mut value) = (none_of(all.is_empty()), none_of(all.is_empty()));
                for entry in all {
                    sum = sum.plus(self.cost(entry.key)).plus(self.cost(entry.value));
                    key = key.union(self.size_or_unknown(entry.key));
                    value = value.union(self.size_or_unknown(entry.value));
                }
                let list = false;
                self.entries.insert(id.0, Entries { list, key, value });
                sum
            }
            Expr::Struct { fields, .. } => {
                let costs = fields.iter().map(|field| self.cost(field.value));
                costs.fold(Span::just(40), Span::plus)
            }
            Expr::Comprehension(it) => self.comprehension(id, it),
        }
    }

    fn select(&mut self, id: ExprId, operand: ExprId, field: &Name, test: bool) -> Span {
        let sum = self.cost(operand);
        if test {
            return sum;
        }
        let mut path = self.path(operand);
        path.push(field.clone());
        self.paths.insert(id.0, path);
        match self.is(operand) {
            Type::Map(_) | Type::Struct(_) | Type::Param(_) => sum.plus(Span::just(1)),
            _ => sum,
        }
    }

    fn path(&self, id: ExprId) -> Vec<Name> {
        if let Expr::Ident(name) = &self.ast.node(id).expr
            && let Some(local) = self.local(name)
        {
            return local.path.clone();
        }
        self.paths.get(&id.0).cloned().unwrap_or_default()
    }

    fn value(&mut self, id: ExprId) -> Value<'a> {
        let mut path = self.path(id);
        if path.first().is_some_and(|first| matches!(&**first, "@result" | "__result__")) {
            path.clear();
        }
        let ast = self.ast;
        let literal = match &ast.node(id).expr {
            Expr::Literal(literal) => Some(literal),
            _ => None,
        };
        Value {
            path,
            is: self.is(id),
            literal,
            size: self.size(id),
        }
    }

    fn sized_by_path(&self, path: &[Name]) -> Option<Span> {
        let path: Vec<&str> = path.iter().map(|part| &**part).collect();
        let max = (self.size_of)(&path)?;
        Some(Span { min: 0, max })
    }

    fn size(&mut self, id: ExprId) -> Option<Span> {
        if let Some(size) = self.sizes.get(&id.0) {
            return Some(*size);
        }
        let expr = &self.ast.node(id).expr;
        let count = match expr {
            Expr::Literal(Literal::String(text)) => Some(text.chars().count()),
            Expr::Literal(Literal::Bytes(bytes)) => Some(bytes.len()),
            Expr::Literal(_) => Some(1),
            Expr::List { elements, .. } => Some(elements.len()),
            Expr::Map(entries) => Some(entries.len()),
            _ => None,
        };
        if let Some(count) = count {
            return Some(Span::just(count as u64));
        }
        if let Some(size) = self.sized_by_path(&self.path(id)) {
            self.sizes.insert(id.0, size);
            return Some(size);
        }
        if is_scalar(self.is(id)) {
            return Some(Span::just(1));
        }
        match expr {
            Expr::Ident(name) => self.local(name)?.size,
            _ => None,
        }
    }

    fn size_or_unknown(&mut self, id: ExprId) -> Span {
        self.size(id).unwrap_or(Span::UNKNOWN)
    }

    fn entries_of(&self, id: ExprId) -> Option<Entries> {
        if let Some(entries) = self.entries.get(&id.0) {
            return Some(*entries);
        }
        match &self.ast.node(id).expr {
            Expr::Ident(name) => self.local(name)?.entries,
            _ => None,
        }
    }

    fn set_size(&mut self, id: ExprId, size: Option<Span>) {
        if let Some(size) = size {
            self.sizes.insert(id.0, size);
        }
    }

    fn set_entries(&mut self, id: ExprId, entries: Option<Entries>) {
        if let Some(entries) = entries {
            self.entries.insert(id.0, entries);
        }
    }

    fn call(&mut self, id: ExprId, target: Option<ExprId>, function: &str, arguments: &[ExprId]) -> Span {
        if let ("dyn", None, &[argument]) = (function, target, arguments) {
            let cost = self.cost(argument);
            let (size, entries) = (self.size(argument), self.entries_of(argument));
            self.set_size(id, size);
            self.set_entries(id, entries);
            return cost.plus(Span::just(1));
        }
        let costs: Vec<Span> = arguments.iter().map(|argument| self.cost(*argument)).collect();
        let values: Vec<Value<'a>> = arguments.iter().map(|argument| self.value(*argument)).collect();
        let Some(overloads) = self.checked.overloads.get(&id.0) else {
            return Span::just(0);
        };
        // The target of a function of a name space is no value: it has no type.
        let target = target.filter(|target| self.checked.types[target.0 as usize].is_some());
        let mut sum = Span::just(0);
        let target = target.map(|target| {
            sum = self.cost(target);
            self.value(target)
        });
        let mut cost = Span { min: u64::MAX, max: 0 };
        let mut result = None;
        for overload in overloads {
            let (of_this, size) = self.overload(id, function, overload, target.as_ref(), &values, arguments, &costs);
            cost = cost.union(of_this);
            if let Some(size) = size {
                result = Some(result.map_or(size, |so_far: Span| so_far.union(size)));
            }
            let part = match *overload {
                "index_list" => "@items",
                "index_map" => "@values",
                _ => "",
            };
            if let (false, Some(first)) = (part.is_empty(), arguments.first()) {
                result = self.entries_of(*first).map(|entries| entries.value);
                let mut path = self.path(*first);
                path.push(part.into());
                self.paths.insert(id.0, path);
            }
            if result.is_none() {
                result = self.size(id);
            }
        }
        self.set_size(id, result);
        sum.plus(cost)
    }

    fn comprehension(&mut self, id: ExprId, it: &Comprehension) -> Span {
        let sum = self.cost(it.range).plus(self.cost(it.init));
        let outside = self.locals.len();
        let accumulator = Local {
            name: it.accumulator.clone(),
            path: self.path(it.init),
            size: self.size(it.init),
            entries: self.entries_of(it.init),
        };
        self.locals.push(accumulator);
        let nodes = &self.ast;
        let binds = matches!(&nodes.node(it.range).expr, Expr::List { elements, .. } if elements.is_empty())
            && matches!(&nodes.node(it.condition).expr, Expr::Literal(Literal::Bool(false)));
        if binds {
            let sum = sum.plus(self.cost(it.result));
            self.locals.truncate(outside);
            let (size, entries) = (self.size(it.result), self.entries_of(it.result));
            self.set_size(id, size);
            self.set_entries(id, entries);
            return sum;
        }
        self.enter(it);
        let each = self.cost(it.condition).plus(self.cost(it.step));
        let step = self.entries_of(it.step);
        self.locals.truncate(outside + 1);
        let sum = sum.plus(self.cost(it.result));
        self.locals.truncate(outside);
        let count = self.size_or_unknown(it.range);
        match &self.ast.node(it.init).expr {
            Expr::Literal(_) => {
                let size = self.size(it.init);
                self.set_size(id, size);
            }
            Expr::List { .. } | Expr::Map(_) => {
                self.set_size(id, Some(count));
                self.set_entries(id, step);
            }
            _ => {}
        }
        sum.plus(count.times(each))
    }

    /// Makes the variables of a loop known.
    fn enter(&mut self, it: &Comprehension) {
        let entries = self.entries_of(it.range);
        let list = match entries {
            Some(entries) => entries.list,
            None => matches!(self.is(it.range), Type::List(_)),
        };
        let (key, value) = (entries.map(|entries| entries.key), entries.map(|entries| entries.value));
        let path = self.path(it.range);
        let mut enter = |name: &Name, part: &str, size| {
            let mut path = path.clone();
            path.push(part.into());
            self.locals.push(Local {
                name: name.clone(),
                path,
                size,
                entries: None,
            });
        };
        match &it.second_variable {
            Some(second) => {
                enter(&it.variable, if list { "@indices" } else { "@keys" }, key);
                enter(second, if list { "@items" } else { "@values" }, value);
            }
            None if list => enter(&it.variable, "@items", value),
            None => enter(&it.variable, "@keys", key),
        }
    }
}

/// The span of no sizes, to which others are added; of an empty literal it begins at nothing.
fn none_of(empty: bool) -> Span {
    let min = if empty { 0 } else { u64::MAX };
    Span { min, max: 0 }
}

fn is_scalar(of: &Type) -> bool {
    match of {
        Type::Bool | Type::Double | Type::Duration | Type::Int | Type::Timestamp | Type::Uint => true,
        _ => of.in_optional().is_some_and(is_scalar),
    }
}
