//! Calls that stand for more: `has`, `all`, `map`, `bind` and the like become tests and loops when they are parsed.
//!
//! The nodes and their order are those of cel-go, since what is wrong in them is told in its order. All stand where the call's
//! bracket opens.

use crate::ast::{Comprehension, Entry, Expr, ExprId, Field, Literal, Name};
use crate::parse::{Parser, Unparsed};
use crate::problem::Problem;

/// The variable in which a loop gathers its result.
const ACCUMULATOR: &str = "@result";
/// Its former name, which is not for others either.
const OLD_ACCUMULATOR: &str = "__result__";
/// Bytes of a text that take the work of a node.
const BYTES_OF_A_NODE: usize = 16;
/// The variable of a loop that goes round no time.
const UNUSED: &str = "#unused";

type Made = Result<ExprId, Unparsed>;

/// A call of a function without a target.
pub(crate) fn global(parser: &mut Parser<'_>, at: u32, function: Name, arguments: Vec<ExprId>) -> Made {
    if let ("has", &[argument]) = (&*function, arguments.as_slice()) {
        let Expr::Select { operand, field, .. } = parser.node(argument).expr.clone() else {
            let at = parser.node(argument).at;
            return parser.fault(at, Problem::Has);
        };
        let test = true;
        return parser.add(at, Expr::Select { operand, field, test });
    }
    let target = None;
    parser.add(
        at,
        Expr::Call {
            target,
            function,
            arguments,
        },
    )
}

/// A call of a function of `target`.
pub(crate) fn receiver(parser: &mut Parser<'_>, at: u32, function: Name, target: ExprId, arguments: Vec<ExprId>) -> Made {
    let made = Macro { parser, at };
    match (&*function, arguments.as_slice()) {
        ("all" | "exists" | "exists_one", &[variable, predicate]) => {
            made.quantifier(&function, target, variable, None, predicate)
        }
        ("all" | "exists" | "exists_one" | "existsOne", &[first, second, predicate]) => {
            made.quantifier(&function, target, first, Some(second), predicate)
        }
        ("map", &[variable, each]) => made.map(target, variable, None, each),
        ("map", &[variable, filter, each]) => made.map(target, variable, Some(filter), each),
        ("filter", &[variable, filter]) => made.filter(target, variable, filter),
        ("transformList", &[first, second, each]) => made.transform_list(target, [first, second], None, each),
        ("transformList", &[first, second, filter, each]) => made.transform_list(target, [first, second], Some(filter), each),
        ("transformMap" | "transformMapEntry", &[first, second, each]) => {
            made.transform_map(&function, target, [first, second], None, each)
        }
        ("transformMap" | "transformMapEntry", &[first, second, filter, each]) => {
            made.transform_map(&function, target, [first, second], Some(filter), each)
        }
        ("optMap", &[variable, each]) => made.optional("optMap", target, variable, each),
        ("optFlatMap", &[variable, each]) => made.optional("optFlatMap", target, variable, each),
        ("sortBy", &[variable, key]) => made.sort_by(target, variable, key),
        ("bind", &[variable, value, rest]) if made.binds(target) => made.bind(variable, value, rest),
        _ => {
            let target = Some(target);
            parser.add(
                at,
                Expr::Call {
                    target,
                    function,
                    arguments,
                },
            )
        }
    }
}

/// A macro that is being expanded.
struct Macro<'a, 'b> {
    parser: &'a mut Parser<'b>,
    at: u32,
}

/// What goes wrong with a variable's name, and where.
type Named = Result<Name, (u32, Problem)>;

impl Macro<'_, '_> {
    fn add(&mut self, expr: Expr) -> Made {
        self.parser.add(self.at, expr)
    }

    fn bool(&mut self, value: bool) -> Made {
        self.add(Expr::Literal(Literal::Bool(value)))
    }

    fn int(&mut self, value: i64) -> Made {
        self.add(Expr::Literal(Literal::Int(value)))
    }

    fn ident(&mut self, name: &str) -> Made {
        self.add(Expr::Ident(name.into()))
    }

    fn accumulator(&mut self) -> Made {
        self.ident(ACCUMULATOR)
    }

    fn call(&mut self, function: &str, arguments: Vec<ExprId>) -> Made {
        self.parser.call(self.at, function, arguments)
    }

    fn method(&mut self, target: ExprId, function: &str, arguments: Vec<ExprId>) -> Made {
        self.add(Expr::Call {
            target: Some(target),
            function: function.into(),
            arguments,
        })
    }

    fn list(&mut self, elements: Vec<ExprId>) -> Made {
        let optional = Vec::new();
        self.add(Expr::List { elements, optional })
    }

    /// The name that `node` is, or `problem` at its place.
    fn name(&self, node: ExprId, problem: Problem) -> Named {
        let node = self.parser.node(node);
        match &node.expr {
            Expr::Ident(name) => Ok(name.clone()),
            _ => Err((node.at, problem)),
        }
    }

    /// The name of a variable that loops set.
    fn variable(&self, node: ExprId, problem: Problem) -> Named {
        let name = self.name(node, problem)?;
        if matches!(&*name, ACCUMULATOR | OLD_ACCUMULATOR) {
            return Err((self.parser.node(node).at, Problem::OverwritesAccumulator));
        }
        Ok(name)
    }

    fn variables(&self, [first, second]: [ExprId; 2]) -> Result<[Name; 2], (u32, Problem)> {
        let one = self.name(first, Problem::NotAName)?;
        let other = self.name(second, Problem::NotAName)?;
        if one == other {
            return Err((self.parser.node(second).at, Problem::DuplicateVariable((&*one).into())));
        }
        self.variable(first, Problem::NotAName)?;
        self.variable(second, Problem::NotAName)?;
        Ok([one, other])
    }

    fn fault(self, (at, problem): (u32, Problem)) -> Made {
        self.parser.fault(at, problem)
    }

    /// A loop that gathers in the accumulator and ends in `result`.
    fn comprehension(
        &mut self,
        range: ExprId,
        variable: Name,
        second_variable: Option<Name>,
        [init, condition, step, result]: [ExprId; 4],
    ) -> Made {
        self.add(Expr::Comprehension(Box::new(Comprehension {
            range,
            variable,
            second_variable,
            accumulator: ACCUMULATOR.into(),
            init,
            condition,
            step,
            result,
        })))
    }

    fn quantifier(mut self, kind: &str, target: ExprId, variable: ExprId, second: Option<ExprId>, predicate: ExprId) -> Made {
        let names = match second {
            None => self.variable(variable, Problem::NotAName).map(|name| (name, None)),
            Some(second) => self.variables([variable, second]).map(|[one, other]| (one, Some(other))),
        };
        let (variable, second) = match names {
            Ok(names) => names,
            Err(fault) => return self.fault(fault),
        };
        let parts = match kind {
            "all" => {
                let init = self.bool(true)?;
                let so_far = self.accumulator()?;
                let condition = self.call("@not_strictly_false", vec![so_far])?;
                let so_far = self.accumulator()?;
                let step = self.call("_&&_", vec![so_far, predicate])?;
                [init, condition, step, self.accumulator()?]
            }
            "exists" => {
                let init = self.bool(false)?;
                let so_far = self.accumulator()?;
                let not = self.call("!_", vec![so_far])?;
                let condition = self.call("@not_strictly_false", vec![not])?;
                let so_far = self.accumulator()?;
                let step = self.call("_||_", vec![so_far, predicate])?;
                [init, condition, step, self.accumulator()?]
            }
            _ => {
                let init = self.int(0)?;
                let condition = self.bool(true)?;
                let (so_far, one) = (self.accumulator()?, self.int(1)?);
                let more = self.call("_+_", vec![so_far, one])?;
                let so_far = self.accumulator()?;
                let step = self.call("_?_:_", vec![predicate, more, so_far])?;
                let (so_far, one) = (self.accumulator()?, self.int(1)?);
                [init, condition, step, self.call("_==_", vec![so_far, one])?]
            }
        };
        self.comprehension(target, variable, second, parts)
    }

    /// `step` where `filter` holds, else what there is.
    fn filtered(&mut self, filter: Option<ExprId>, step: ExprId) -> Made {
        let Some(filter) = filter else {
            return Ok(step);
        };
        let so_far = self.accumulator()?;
        self.call("_?_:_", vec![filter, step, so_far])
    }

    /// A loop that appends `each` to a list.
    fn gather(mut self, range: ExprId, variable: Name, second: Option<Name>, filter: Option<ExprId>, each: ExprId) -> Made {
        let init = self.list(Vec::new())?;
        let condition = self.bool(true)?;
        let so_far = self.accumulator()?;
        let one = self.list(vec![each])?;
        let step = self.call("_+_", vec![so_far, one])?;
        let step = self.filtered(filter, step)?;
        let result = self.accumulator()?;
        self.comprehension(range, variable, second, [init, condition, step, result])
    }

    fn map(self, target: ExprId, variable: ExprId, filter: Option<ExprId>, each: ExprId) -> Made {
        match self.variable(variable, Problem::NotAnIdentifier) {
            Ok(name) => self.gather(target, name, None, filter, each),
            Err(fault) => self.fault(fault),
        }
    }

    fn filter(self, target: ExprId, variable: ExprId, filter: ExprId) -> Made {
        match self.variable(variable, Problem::NotAnIdentifier) {
            Ok(name) => self.gather(target, name, None, Some(filter), variable),
            Err(fault) => self.fault(fault),
        }
    }

    fn transform_list(self, target: ExprId, variables: [ExprId; 2], filter: Option<ExprId>, each: ExprId) -> Made {
        match self.variables(variables) {
            Ok([one, other]) => self.gather(target, one, Some(other), filter, each),
            Err(fault) => self.fault(fault),
        }
    }

    fn transform_map(mut self, kind: &str, target: ExprId, variables: [ExprId; 2], filter: Option<ExprId>, each: ExprId) -> Made {
        let [key, value] = match self.variables(variables) {
            Ok(names) => names,
            Err(fault) => return self.fault(fault),
        };
        let so_far = self.accumulator()?;
        let inserted = match kind {
            "transformMap" => vec![so_far, self.ident(&key)?, each],
            _ => vec![so_far, each],
        };
        let step = self.call("cel.@mapInsert", inserted)?;
        let step = self.filtered(filter, step)?;
        let init = self.add(Expr::Map(Vec::new()))?;
        let condition = self.bool(true)?;
        let result = self.accumulator()?;
        self.comprehension(target, key, Some(value), [init, condition, step, result])
    }

    /// A loop that goes round no time: `rest` with a variable that has `value`.
    fn with_variable(&mut self, variable: Name, value: ExprId, rest: ExprId) -> Made {
        let range = self.list(Vec::new())?;
        let condition = self.bool(false)?;
        let step = self.ident(&variable)?;
        self.add(Expr::Comprehension(Box::new(Comprehension {
            range,
            variable: UNUSED.into(),
            second_variable: None,
            accumulator: variable,
            init: value,
            condition,
            step,
            result: rest,
        })))
    }

    fn binds(&self, target: ExprId) -> bool {
        self.parser.bindings && matches!(&self.parser.node(target).expr, Expr::Ident(name) if **name == *"cel")
    }

    fn bind(mut self, variable: ExprId, value: ExprId, rest: ExprId) -> Made {
        match self.name(variable, Problem::BindName) {
            Ok(name) => self.with_variable(name, value, rest),
            Err(fault) => self.fault(fault),
        }
    }

    fn optional(mut self, kind: &'static str, target: ExprId, variable: ExprId, each: ExprId) -> Made {
        let name = match self.name(variable, Problem::OptionalName(kind)) {
            Ok(name) => name,
            Err(fault) => return self.fault(fault),
        };
        let there = self.method(target, "hasValue", Vec::new())?;
        let copied = self.copy(target)?;
        let value = self.method(copied, "value", Vec::new())?;
        let mut inner = self.with_variable(name, value, each)?;
        if kind == "optMap" {
            inner = self.call("optional.of", vec![inner])?;
        }
        let none = self.call("optional.none", Vec::new())?;
        self.call("_?_:_", vec![there, inner, none])
    }

    fn sort_by(mut self, target: ExprId, variable: ExprId, key: ExprId) -> Made {
        const INPUT: &str = "@__sortBy_input__";
        let node = self.parser.node(target);
        if matches!(
            node.expr,
            Expr::Literal(_) | Expr::Map(_) | Expr::Struct { .. } | Expr::Unspecified
        ) {
            let at = node.at;
            return self.fault((at, Problem::SortBy));
        }
        let name = match self.variable(variable, Problem::NotAnIdentifier) {
            Ok(name) => name,
            Err(fault) => return self.fault(fault),
        };
        let input = self.ident(INPUT)?;
        let at = self.at;
        let keys = Macro {
            parser: &mut *self.parser,
            at,
        }
        .gather(input, name, None, None, key)?;
        let input = self.ident(INPUT)?;
        let sorted = self.method(input, "@sortByAssociatedKeys", vec![keys])?;
        self.with_variable(INPUT.into(), target, sorted)
    }

    /// A copy of a node and of all below it, each where it stands.
    fn copy(&mut self, id: ExprId) -> Made {
        let node = self.parser.node(id).clone();
        // Each copy of a text is looked at again.
        match &node.expr {
            Expr::Literal(Literal::String(text)) => self.parser.charge(text.len() / BYTES_OF_A_NODE)?,
            Expr::Literal(Literal::Bytes(bytes)) => self.parser.charge(bytes.len() / BYTES_OF_A_NODE)?,
            _ => {}
        }
        let expr = match node.expr {
            Expr::Unspecified | Expr::Literal(_) | Expr::Ident(_) => node.expr,
            Expr::Select { operand, field, test } => {
                let operand = self.copy(operand)?;
                Expr::Select { operand, field, test }
            }
            Expr::Call {
                target,
                function,
                arguments,
            } => Expr::Call {
                target: target.map(|target| self.copy(target)).transpose()?,
                function,
                arguments: self.copies(&arguments)?,
            },
            Expr::List { elements, optional } => {
                let elements = self.copies(&elements)?;
                Expr::List { elements, optional }
            }
            Expr::Map(entries) => {
                let copied = entries.iter().map(|entry| {
                    Ok(Entry {
                        key: self.copy(entry.key)?,
                        value: self.copy(entry.value)?,
                        optional: entry.optional,
                    })
                });
                Expr::Map(copied.collect::<Result<_, Unparsed>>()?)
            }
            Expr::Struct { name, fields } => {
                let at = self.at;
                let copied = fields.iter().map(|field| {
                    Ok(Field {
                        at,
                        name: field.name.clone(),
                        value: self.copy(field.value)?,
                        optional: field.optional,
                    })
                });
                let fields = copied.collect::<Result<_, Unparsed>>()?;
                Expr::Struct { name, fields }
            }
            Expr::Comprehension(it) => Expr::Comprehension(Box::new(Comprehension {
                range: self.copy(it.range)?,
                init: self.copy(it.init)?,
                condition: self.copy(it.condition)?,
                step: self.copy(it.step)?,
                result: self.copy(it.result)?,
                ..*it
            })),
        };
        self.parser.add(node.at, expr)
    }

    fn copies(&mut self, all: &[ExprId]) -> Result<Vec<ExprId>, Unparsed> {
        all.iter().map(|id| self.copy(*id)).collect()
    }
}
