//! What is wrong with the literals of an expression whose types are right: spans and points of time, regular expressions, and
//! lists and maps whose elements differ.

use std::ops::RangeInclusive;

use trireme_api::time;

use crate::ast::{Ast, Expr, ExprId, Literal};
use crate::check::Checked;
use crate::format;
use crate::goregex::regex_fault;
use crate::problem::Problem;
use crate::source::{Issue, Source};
use crate::types::Type;

/// The years 1 to 9999, in seconds.
const TIMES: RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// The faults of all literals.
pub(crate) fn issues(source: &Source, ast: &Ast, checked: &Checked) -> Vec<Issue> {
    let mut judge = Judge {
        source,
        ast,
        checked,
        issues: Vec::new(),
    };
    judge.visit(ast.root, false);
    judge.issues
}

struct Judge<'a> {
    source: &'a Source,
    ast: &'a Ast,
    checked: &'a Checked,
    issues: Vec<Issue>,
}

impl Judge<'_> {
    fn fault(&mut self, id: ExprId, problem: Problem) {
        self.issues.push(Issue {
            at: self.source.location(self.ast.node(id).at),
            problem,
        });
    }

    /// Looks at a node and all below it; in `exempt` ones, elements may differ.
    fn visit(&mut self, id: ExprId, exempt: bool) {
        let expr = &self.ast.node(id).expr;
        let format = matches!(expr, Expr::Call { function, .. } if **function == *"format");
        for child in expr.children() {
            self.visit(child, exempt || format);
        }
        match expr {
            Expr::List { elements, optional } if !exempt => self.elements(elements, optional),
            Expr::Map(entries) if !exempt => {
                let keys = entries.iter().map(|entry| (entry.key, false)).collect();
                let values = entries.iter().map(|entry| (entry.value, entry.optional)).collect();
                self.entries(keys);
                self.entries(values);
            }
            Expr::Call {
                target: Some(target),
                arguments,
                ..
            } if format => self.format(id, *target, arguments),
            Expr::Call { function, arguments, .. } => self.call(function, arguments),
            _ => {}
        }
    }

    fn format(&mut self, call: ExprId, target: ExprId, arguments: &[ExprId]) {
        let Expr::Literal(Literal::String(format)) = &self.ast.node(target).expr else {
            return;
        };
        let &[argument] = arguments else {
            return;
        };
        let Expr::List { elements, .. } = &self.ast.node(argument).expr else {
            return;
        };
        if let Some((at, problem)) = format::fault(self.ast, self.checked, format, elements) {
            self.fault(at.unwrap_or(call), problem);
        }
    }

    fn type_of(&self, id: ExprId, optional: bool) -> Type {
        let found = self.checked.types[id.0 as usize].clone().unwrap_or(Type::Dyn);
        match found.in_optional() {
            Some(inner) if optional => inner.clone(),
            _ => found,
        }
    }

    /// Tells of the first element that differs from the first.
    fn elements(&mut self, elements: &[ExprId], optional: &[usize]) {
        let mut first: Option<Type> = None;
        for (index, element) in elements.iter().enumerate() {
            let found = self.type_of(*element, optional.binary_search(&index).is_ok());
            match &first {
                None => first = Some(found),
                Some(expected) if !expected.is_equivalent(&found) => {
                    let expected = expected.clone();
                    self.fault(*element, Problem::TypeMismatch { expected, found });
                    return;
                }
                Some(_) => {}
            }
        }
    }

    /// Tells of all keys, or values, that differ from the first.
    fn entries(&mut self, nodes: Vec<(ExprId, bool)>) {
        let mut nodes = nodes.into_iter();
        let Some((first, optional)) = nodes.next() else {
            return;
        };
        let expected = self.type_of(first, optional);
        for (id, optional) in nodes {
            let found = self.type_of(id, optional);
            if !expected.is_equivalent(&found) {
                let expected = expected.clone();
                self.fault(id, Problem::TypeMismatch { expected, found });
            }
        }
    }

    fn call(&mut self, function: &str, arguments: &[ExprId]) {
        let name = match function {
            "duration" => "duration",
            "timestamp" => "timestamp",
            "matches" => "matches",
            _ => return,
        };
        let Some(first) = arguments.first() else {
            return;
        };
        let Expr::Literal(literal) = &self.ast.node(*first).expr else {
            return;
        };
        let good = match (name, literal) {
            ("duration", Literal::String(text)) => time::parse_duration(text).is_ok(),
            ("timestamp", Literal::String(text)) => is_timestamp(text),
            ("timestamp", Literal::Int(seconds)) => TIMES.contains(seconds),
            ("matches", Literal::String(text)) => regex_fault(text).is_none(),
            _ => true,
        };
        if !good {
            self.fault(*first, Problem::InvalidArgument(name));
        }
    }
}

/// Whether Go reads the text as a point in time by RFC 3339, and it is one of the years 1 to 9999.
fn is_timestamp(text: &str) -> bool {
    time::parse(text).is_ok_and(|time| TIMES.contains(&time.as_second()))
}
