//! The type of every part of an expression, found as cel-go's checker finds it, with what it finds wrong.

use std::collections::HashMap;

use crate::ast::{Ast, Comprehension, Entry, Expr, ExprId, Field, Literal, Name};
use crate::declare::{Environment, Overload};
use crate::lookup;
use crate::problem::Problem;
use crate::source::{Issue, Source};
use crate::types::Type;
use crate::unify::{Substitutions, most_general};

/// What was found.
pub(crate) struct Checked {
    /// The type of each node that has one.
    pub types: Vec<Option<Type>>,
    /// The overloads that each call could mean.
    pub overloads: HashMap<u32, Vec<&'static str>>,
    /// The whole names of nodes that name a variable or a type.
    pub names: HashMap<u32, Box<str>>,
}

/// Why an expression has no types.
pub(crate) enum Unchecked {
    Issues(Vec<Issue>),
    /// It would take more steps than are left.
    Exhausted,
}

/// Finds the types in `ast` with the steps that are `left`.
pub(crate) fn check(environment: &Environment, source: &Source, ast: &Ast, left: &mut u32) -> Result<Checked, Unchecked> {
    let mut checker = Checker {
        environment,
        source,
        ast,
        known: Substitutions::new(*left),
        types: vec![None; ast.nodes.len()],
        overloads: HashMap::new(),
        names: HashMap::new(),
        scopes: Vec::new(),
        issues: Vec::new(),
    };
    checker.check(ast.root);
    let mut types = std::mem::take(&mut checker.types);
    if checker.issues.is_empty() {
        for found in types.iter_mut().flatten() {
            checker.known.put_in_place(found);
        }
    }
    *left = checker.known.steps_left();
    if *left == 0 {
        return Err(Unchecked::Exhausted);
    }
    if !checker.issues.is_empty() {
        return Err(Unchecked::Issues(checker.issues));
    }
    Ok(Checked {
        types,
        overloads: checker.overloads,
        names: checker.names,
    })
}

struct Checker<'a> {
    environment: &'a Environment,
    source: &'a Source,
    ast: &'a Ast,
    known: Substitutions,
    types: Vec<Option<Type>>,
    overloads: HashMap<u32, Vec<&'static str>>,
    names: HashMap<u32, Box<str>>,
    /// Variables of the loops around, the innermost last.
    scopes: Vec<(Name, Type)>,
    issues: Vec<Issue>,
}

impl<'a> Checker<'a> {
    fn fault(&mut self, at: u32, problem: Problem) {
        self.issues.push(Issue {
            at: self.source.location(at),
            problem,
        });
    }

    fn set(&mut self, id: ExprId, is: Type) {
        self.known.charge(&is);
        self.types[id.0 as usize] = Some(is);
    }

    fn get(&self, id: ExprId) -> Type {
        self.types[id.0 as usize].clone().unwrap_or(Type::Error)
    }

    fn at(&self, id: ExprId) -> u32 {
        self.ast.node(id).at
    }

    fn check(&mut self, id: ExprId) {
        if self.known.is_exhausted() {
            return;
        }
        let node = self.ast.node(id);
        let at = node.at;
        let found = match &node.expr {
            Expr::Unspecified => Type::Error,
            Expr::Literal(literal) => literal_type(literal),
            Expr::Ident(name) => self.ident(id, name),
            Expr::Select { operand, field, test } => self.select(id, *operand, field, *test),
            Expr::Call {
                target,
                function,
                arguments,
            } => self.call(id, *target, function, arguments),
            Expr::List { elements, optional } => self.list(elements, optional),
            Expr::Map(entries) => self.map(entries),
            Expr::Struct { name, fields } => self.message(at, name, fields),
            Expr::Comprehension(comprehension) => self.comprehension(comprehension),
        };
        self.set(id, found);
    }

    /// What `name` means here.
    fn lookup(&self, name: &str) -> Option<Type> {
        let name = name.strip_prefix('.').unwrap_or(name);
        let bound = self.scopes.iter().rev().find(|(bound, _)| **bound == *name);
        bound
            .map(|(_, is)| is.clone())
            .or_else(|| lookup::ident(self.environment, name))
    }

    /// What `name` means here; notes that `id` is the name.
    fn named(&mut self, id: ExprId, name: &str) -> Option<Type> {
        let found = self.lookup(name)?;
        let name = name.strip_prefix('.').unwrap_or(name);
        self.names.insert(id.0, name.into());
        Some(found)
    }

    fn ident(&mut self, id: ExprId, name: &str) -> Type {
        self.named(id, name).unwrap_or_else(|| {
            self.fault(self.at(id), Problem::UndeclaredReference(name.into()));
            Type::Error
        })
    }

    /// The dotted name that a node spells, if what it begins with is the beginning of names.
    fn qualified(&self, id: ExprId, begins: impl Fn(&str) -> bool) -> Option<String> {
        let mut first = id;
        while let Expr::Select {
            operand, test: false, ..
        } = &self.ast.node(first).expr
        {
            first = *operand;
        }
        // Most selections are of fields: their names are not even written.
        match &self.ast.node(first).expr {
            Expr::Ident(name) if begins(name.strip_prefix('.').unwrap_or(name)) => {}
            _ => return None,
        }
        let (mut parts, mut id) = (Vec::new(), id);
        loop {
            match &self.ast.node(id).expr {
                Expr::Ident(name) => {
                    parts.push(&**name);
                    parts.reverse();
                    return Some(parts.join("."));
                }
                Expr::Select {
                    operand,
                    field,
                    test: false,
                } => {
                    parts.push(field);
                    id = *operand;
                }
                _ => return None,
            }
        }
    }

    fn select(&mut self, id: ExprId, operand: ExprId, field: &str, test: bool) -> Type {
        let begins = |word: &str| lookup::begins_name(self.environment, word);
        if let Some(found) = self.qualified(id, begins).and_then(|name| self.named(id, &name)) {
            return found;
        }
        let found = self.field(id, operand, field, false);
        if test { Type::Bool } else { self.known.put_in(&found, false) }
    }

    fn field(&mut self, id: ExprId, operand: ExprId, field: &str, optional: bool) -> Type {
        self.check(operand);
        let at = self.at(id);
        let operand = self.get(operand);
        let operand = self.known.put_in(&operand, false);
        let (target, wrapped) = match operand.in_optional() {
            Some(inner) => (inner.clone(), true),
            None => (operand, false),
        };
        let found = match &target {
            Type::Map(both) => both.1.clone(),
            Type::Struct(name) => self.field_type(at, name, field).unwrap_or(Type::Error),
            Type::Param(_) => {
                self.known.assign(&Type::Dyn, &target);
                Type::Dyn
            }
            _ => {
                if !target.is_dyn_or_error() {
                    self.fault(at, Problem::NoFields(target));
                }
                Type::Dyn
            }
        };
        if wrapped || optional { Type::optional(found) } else { found }
    }

    fn field_type(&mut self, at: u32, of: &str, field: &str) -> Option<Type> {
        if lookup::struct_type(self.environment, of).is_none() {
            self.fault(at, Problem::UnknownStruct(of.into()));
            return None;
        }
        let found = lookup::field(self.environment, of, field);
        if found.is_none() {
            self.fault(at, Problem::UndefinedField(field.into()));
        }
        found
    }

    fn functions(&self, name: &str) -> Option<&'a [Overload]> {
        lookup::functions(self.environment, name.strip_prefix('.').unwrap_or(name))
    }

    fn call(&mut self, id: ExprId, target: Option<ExprId>, function: &str, arguments: &[ExprId]) -> Type {
        let at = self.at(id);
        if let ("_?._", &[operand, field]) = (function, arguments)
            && let Expr::Literal(Literal::String(field)) = &self.ast.node(field).expr
        {
            let found = self.field(id, operand, field, true);
            self.overloads.insert(id.0, vec!["select_optional_field"]);
            return self.known.put_in(&found, false);
        }
        for argument in arguments {
            self.check(*argument);
        }
        let Some(target) = target else {
            let Some(overloads) = self.functions(function) else {
                self.fault(at, Problem::UndeclaredReference(function.into()));
                return Type::Error;
            };
            return self.resolve(id, function, overloads, None, arguments);
        };
        // Either the function of a name space, or a method.
        let begins = |word: &str| lookup::begins_function(self.environment, word);
        if let Some(prefix) = self.qualified(target, begins) {
            let name = format!("{prefix}.{function}");
            if let Some(overloads) = self.functions(&name) {
                let name = name.strip_prefix('.').unwrap_or(&name).to_owned();
                return self.resolve(id, &name, overloads, None, arguments);
            }
        }
        self.check(target);
        let Some(overloads) = self.functions(function) else {
            self.fault(at, Problem::UndeclaredReference(function.into()));
            return Type::Error;
        };
        self.resolve(id, function, overloads, Some(target), arguments)
    }

    fn resolve(
        &mut self,
        id: ExprId,
        function: &str,
        overloads: &[Overload],
        target: Option<ExprId>,
        arguments: &[ExprId],
    ) -> Type {
        if matches!(function, "_&&_" | "_||_") && target.is_none() {
            self.overloads
                .insert(id.0, overloads.iter().map(|overload| overload.id).collect());
            return self.logic(arguments);
        }
        let found: Vec<Type> = target.iter().chain(arguments).map(|id| self.get(*id)).collect();
        let mut result: Option<Type> = None;
        let mut matching = Vec::new();
        for overload in overloads {
            if overload.member != target.is_some() {
                continue;
            }
            let gives = if overload.parameters.is_empty() {
                self.known
                    .assign_all(&found, &overload.arguments)
                    .then(|| overload.result.clone())
            } else {
                let (wanted, gives) = self.instance(overload);
                let fits = self.known.assign_all(&found, &wanted);
                fits.then(|| self.known.put_in(&gives, false))
            };
            let Some(gives) = gives else {
                continue;
            };
            matching.push(overload.id);
            match &result {
                None => result = Some(gives),
                Some(before) if !before.is_dyn() && gives != *before => result = Some(Type::Dyn),
                Some(_) => {}
            }
        }
        let Some(result) = result else {
            let arguments = found.iter().map(|is| self.known.put_in(is, true)).collect();
            let problem = Problem::NoMatchingOverload {
                function: function.strip_prefix('.').unwrap_or(function).into(),
                arguments,
                member: target.is_some(),
            };
            self.fault(self.at(id), problem);
            return Type::Error;
        };
        self.overloads.insert(id.0, matching);
        result
    }

    /// The arguments and the result of an overload, with variables of their own for its parameters.
    fn instance(&mut self, overload: &Overload) -> (Vec<Type>, Type) {
        let fresh: Vec<(u32, Type)> = overload
            .parameters
            .iter()
            .map(|number| (*number, self.known.fresh()))
            .collect();
        let arguments = overload.arguments.iter().map(|of| renamed(of, &fresh)).collect();
        (arguments, renamed(&overload.result, &fresh))
    }

    /// `&&` and `||` tell which of their terms is no truth.
    fn logic(&mut self, terms: &[ExprId]) -> Type {
        let mut result = Type::Bool;
        for term in terms {
            let found = self.get(*term);
            if !self.known.assign(&found, &Type::Bool) {
                let expected = Type::Bool;
                self.fault(self.at(*term), Problem::TypeMismatch { expected, found });
                result = Type::Error;
            }
        }
        result
    }

    /// The type of what an optional element holds.
    fn unwrapped(&mut self, id: ExprId, is: Type) -> Type {
        if let Some(inner) = is.in_optional() {
            return inner.clone();
        }
        if !is.is_dyn() {
            let problem = Problem::TypeMismatch {
                expected: Type::optional(is.clone()),
                found: is.clone(),
            };
            self.fault(self.at(id), problem);
        }
        is
    }

    /// The type of elements of which some are `before` and one is `is`.
    fn join(&mut self, before: Option<Type>, is: Type) -> Type {
        match before {
            None => is,
            Some(before) if self.known.assign(&before, &is) => most_general(&before, &is).clone(),
            Some(_) => Type::Dyn,
        }
    }

    fn list(&mut self, elements: &[ExprId], optional: &[usize]) -> Type {
        let mut joined = None;
        for (index, element) in elements.iter().enumerate() {
            self.check(*element);
            let mut is = self.get(*element);
            if optional.binary_search(&index).is_ok() {
                is = self.unwrapped(*element, is);
            }
            joined = Some(self.join(joined, is));
        }
        Type::list(joined.unwrap_or_else(|| self.known.fresh()))
    }

    fn map(&mut self, entries: &[Entry]) -> Type {
        let (mut keys, mut values) = (None, None);
        for entry in entries {
            self.check(entry.key);
            let key = self.get(entry.key);
            keys = Some(self.join(keys, key));
            self.check(entry.value);
            let mut value = self.get(entry.value);
            if entry.optional {
                value = self.unwrapped(entry.value, value);
            }
            values = Some(self.join(values, value));
        }
        match (keys, values) {
            (Some(keys), Some(values)) => Type::map(keys, values),
            _ => Type::map(self.known.fresh(), self.known.fresh()),
        }
    }

    fn message(&mut self, at: u32, name: &str, fields: &[Field]) -> Type {
        let Some(named) = self.lookup(name) else {
            self.fault(at, Problem::UndeclaredReference(name.into()));
            return Type::Error;
        };
        let name = name.strip_prefix('.').unwrap_or(name);
        let (result, name) = match &named {
            Type::Of(Some(is)) => match lookup::message_name(name, is) {
                Some(name) => ((**is).clone(), name),
                None => {
                    self.fault(at, Problem::NotAMessageType(is.runtime_name().into()));
                    (Type::Error, name.into())
                }
            },
            Type::Error => (Type::Error, name.into()),
            other => {
                self.fault(at, Problem::NotAType(other.runtime_name().into()));
                (Type::Error, name.into())
            }
        };
        for field in fields {
            self.check(field.value);
            let expected = self.field_type(field.at, &name, &field.name).unwrap_or(Type::Error);
            let mut found = self.get(field.value);
            if field.optional {
                found = self.unwrapped(field.value, found);
            }
            if !self.known.assign(&expected, &found) {
                let field_name = (&*field.name).into();
                let problem = Problem::FieldType {
                    field: field_name,
                    expected,
                    found,
                };
                self.fault(field.at, problem);
            }
        }
        result
    }

    fn comprehension(&mut self, it: &Comprehension) -> Type {
        self.check(it.range);
        self.check(it.init);
        let range = self.get(it.range);
        let range = self.known.put_in(&range, false);
        let accumulator = self.get(it.init);
        let outside = self.scopes.len();
        self.scopes.push((it.accumulator.clone(), accumulator.clone()));
        let two = it.second_variable.is_some();
        let (first, second) = match &range {
            Type::List(element) if two => (Type::Int, (**element).clone()),
            Type::List(element) => ((**element).clone(), Type::Error),
            Type::Map(both) => (both.0.clone(), both.1.clone()),
            Type::Dyn | Type::Error | Type::Param(_) => {
                self.known.assign(&Type::Dyn, &range);
                (Type::Dyn, Type::Dyn)
            }
            _ => {
                self.fault(self.at(it.range), Problem::NotARange(range));
                (Type::Error, Type::Error)
            }
        };
        self.scopes.push((it.variable.clone(), first));
        if let Some(name) = &it.second_variable {
            self.scopes.push((name.clone(), second));
        }
        self.check(it.condition);
        self.assert(it.condition, &Type::Bool);
        self.check(it.step);
        self.assert(it.step, &accumulator);
        self.scopes.truncate(outside + 1);
        self.check(it.result);
        self.scopes.truncate(outside);
        let result = self.get(it.result);
        self.known.put_in(&result, false)
    }

    fn assert(&mut self, id: ExprId, expected: &Type) {
        let found = self.get(id);
        if !self.known.assign(expected, &found) {
            let expected = expected.clone();
            self.fault(self.at(id), Problem::TypeMismatch { expected, found });
        }
    }
}

fn literal_type(literal: &Literal) -> Type {
    match literal {
        Literal::Null => Type::Null,
        Literal::Bool(_) => Type::Bool,
        Literal::Int(_) => Type::Int,
        Literal::Uint(_) => Type::Uint,
        Literal::Double(_) => Type::Double,
        Literal::String(_) => Type::String,
        Literal::Bytes(_) => Type::Bytes,
    }
}

/// `of` with other parameters.
fn renamed(of: &Type, names: &[(u32, Type)]) -> Type {
    match of {
        Type::Param(number) => {
            let found = names.iter().find(|(name, _)| name == number);
            found.map_or_else(|| of.clone(), |(_, fresh)| fresh.clone())
        }
        Type::List(element) => Type::list(renamed(element, names)),
        Type::Map(both) => Type::map(renamed(&both.0, names), renamed(&both.1, names)),
        Type::Of(Some(named)) => Type::of(renamed(named, names)),
        Type::Opaque(name, parameters) => Type::Opaque(
            name.clone(),
            parameters.iter().map(|parameter| renamed(parameter, names)).collect(),
        ),
        _ => of.clone(),
    }
}
