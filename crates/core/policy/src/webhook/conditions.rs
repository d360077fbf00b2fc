//! The match conditions of a webhook: expressions that must all be true for it to be asked.
//!
//! Invariant: what the conditions of one webhook cost together is bounded, and they run on a stack that suffices for them. One
//! that is false keeps the webhook out, whatever is wrong with the others; else the failure policy decides about what is wrong.

use std::sync::LazyLock;

use serde_json::Value;
use trireme_cel::eval::{
    Authorizer, Check, EvalError, Inputs, MATCH_CONDITIONS_BUDGET, PER_CALL_LIMIT, Program, Question, Terms, Val,
};
use trireme_cel::{Admission, Budget, Environment, STACK_BYTES, Type, Wanted, running_stack_bytes, stack_bytes};

use super::hook::Hook;

/// One condition, compiled.
#[derive(Debug)]
pub struct Condition {
    text: String,
    program: Result<Program, String>,
}

/// What conditions look at.
#[derive(Clone, Copy)]
pub struct Conditioned<'a> {
    /// The new object; null where there is none.
    pub object: &'a Value,
    /// The object as it is; null where there is none.
    pub old: &'a Value,
    /// What [`super::Review::request`] gives.
    pub request: &'a Value,
    /// The resource that the request names, as the authoriser is asked about it.
    pub resource: &'a Question,
    /// Who says what the user may do.
    pub authorizer: &'a dyn Authorizer,
}

impl<'a> Inputs<'a> for Conditioned<'a> {
    fn get(&self, name: &str) -> Option<Result<Val<'a>, EvalError>> {
        Some(Ok(match name {
            "object" => Val::native(self.object),
            "oldObject" => Val::native(self.old),
            "request" => Val::native(self.request),
            // Nobody looks the namespace up for conditions.
            "namespaceObject" => Val::Null,
            "authorizer" => Check::authorizer(),
            "authorizer.requestResource" => Val::Check(Check::Resource(self.resource.clone()).into()),
            _ => return None,
        }))
    }
}

pub(super) const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

impl Condition {
    /// Compiles a condition as it stands in a configuration.
    #[must_use]
    pub fn of(condition: &Value) -> Self {
        static ENVIRONMENT: LazyLock<Environment> = LazyLock::new(|| {
            let names = Admission {
                authorizer: true,
                ..Admission::default()
            };
            names.environment()
        });
        let text = condition["expression"].as_str().unwrap_or_default();
        let wanted = Wanted::OneOf(vec![Type::Bool]);
        let compiled = stacker::maybe_grow(stack_bytes(text.len()), STACK_BYTES, || {
            ENVIRONMENT.program_within(text.trim(), &wanted, &mut Budget::default())
        });
        Self {
            text: text.to_owned(),
            program: compiled.map_err(|why| format!("compilation error: {why}")),
        }
    }
}

impl Hook {
    /// Whether its conditions let it be asked.
    ///
    /// # Errors
    /// What the client is told, as the reason of a 403.
    pub fn is_wanted(&self, conditioned: &Conditioned<'_>) -> Result<bool, String> {
        let mut left = MATCH_CONDITIONS_BUDGET;
        let mut faults: Vec<String> = Vec::new();
        let mut excluded = false;
        for condition in &self.conditions {
            let program = match &condition.program {
                Ok(program) => program,
                Err(why) => {
                    faults.push(why.clone());
                    continue;
                }
            };
            let terms = Terms {
                limit: PER_CALL_LIMIT,
                authorizer: Some(conditioned.authorizer),
            };
            let stack = running_stack_bytes(condition.text.len());
            let outcome = stacker::maybe_grow(stack, STACK_BYTES, || program.run(conditioned, terms));
            let Some(rest) = left.checked_sub(outcome.cost) else {
                return self.failed(OUT_OF_BUDGET.to_owned());
            };
            left = rest;
            match outcome.result {
                // The others are run all the same: they may cost too much.
                Ok(Val::Bool(false)) => excluded = true,
                Ok(_) => {}
                Err(error) => faults.push(format!("expression '{}' resulted in error: {error}", condition.text)),
            }
        }
        if excluded {
            return Ok(false);
        }
        match faults.as_slice() {
            [] => Ok(true),
            [one] => self.failed(one.clone()),
            [first, rest @ ..] if rest.iter().all(|fault| fault == first) => self.failed(first.clone()),
            _ => {
                let mut told: Vec<String> = Vec::new();
                for fault in faults {
                    if !told.contains(&fault) {
                        told.push(fault);
                    }
                }
                self.failed(format!("[{}]", told.join(", ")))
            }
        }
    }

    /// What its policy makes of conditions that cannot be judged.
    fn failed(&self, why: String) -> Result<bool, String> {
        if self.ignores_failures { Ok(false) } else { Err(why) }
    }
}
