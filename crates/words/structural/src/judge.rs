//! Runs the rules of a schema over an object (pkg/apiserver/schema/cel/validation.go).
//!
//! Invariant: all rules of one object together cost at most [`BUDGET`], each run at most [`PER_CALL_LIMIT`]; both end the run with
//! an error, as upstream has it. A rule runs on a stack that suffices for it.

use std::sync::atomic::AtomicUsize;

use serde_json::Value;
use trireme_api::cost::ERRORS_BYTES_MAX;
use trireme_api::field::{FieldError, FieldErrorType};
use trireme_cel::eval::{BUDGET, EvalError, Inputs, Kind, Outcome, PER_CALL_LIMIT, Program, Shape, Terms, Val};
use trireme_cel::{STACK_BYTES, running_stack_bytes};

use crate::correlate::{self, Correlated};
use crate::node::{ListType, Node};
use crate::path::Path;
use crate::rules::{Made, Reason, Rule, Rules};
use crate::shape;
use crate::show;

/// The longest message that an expression gives.
const MESSAGE_BYTES_MAX: usize = 5 * 1024;

/// Why no more rules are run.
struct Ended;

/// What was, for those parts of an object that can be told apart.
#[derive(Clone, Copy, Default)]
struct Ratchet<'r, 'a> {
    current: Option<&'r Correlated<'a>>,
    parent: Option<&'r Correlated<'a>>,
}

impl Ratchet<'_, '_> {
    /// Whether a fault is let pass, since nothing changed.
    fn excuses(self) -> bool {
        self.current.or(self.parent).is_some_and(Correlated::is_same)
    }
}

/// Values that a rule reads.
struct Read<'a> {
    this: Result<Val<'a>, EvalError>,
    /// What was; none where nothing is known by this name.
    was: Option<Result<Val<'a>, EvalError>>,
}

impl<'a> Inputs<'a> for Read<'a> {
    fn get(&self, name: &str) -> Option<Result<Val<'a>, EvalError>> {
        match name {
            "self" => Some(self.this.clone()),
            "oldSelf" => self.was.clone(),
            _ => None,
        }
    }
}

/// What rules say of one object.
pub(crate) struct Judge<'s> {
    declared: &'s AtomicUsize,
    pub errors: Vec<FieldError>,
    pub warnings: Vec<String>,
    spent: u64,
    bytes: usize,
}

/// Judges an object by its rules.
pub(crate) fn judge<'a>(
    node: &'a Node,
    (shape, declared): (&'a Shape, &'a AtomicUsize),
    new: &'a Value,
    old: Option<&'a Value>,
) -> Judge<'a> {
    let mut judge = Judge {
        declared,
        errors: Vec::new(),
        warnings: Vec::new(),
        spent: 0,
        bytes: 0,
    };
    if node.below.rules {
        let was = old.map(|old| Correlated::new(new, old, node));
        let ratchet = Ratchet {
            current: was.as_ref(),
            parent: None,
        };
        // That it ended early is among the errors.
        let _ended = judge.walk(node, shape, new, old, Path::ROOT, ratchet);
    }
    judge
}

fn run<'a>(program: &Program, text: &str, read: &Read<'a>) -> Outcome<'a> {
    let terms = Terms {
        limit: PER_CALL_LIMIT,
        authorizer: None,
    };
    stacker::maybe_grow(running_stack_bytes(text.len()), STACK_BYTES, || program.run(read, terms))
}

impl Judge<'_> {
    fn push(&mut self, error: FieldError) {
        if self.bytes < ERRORS_BYTES_MAX {
            self.bytes += error.path.len() + error.value.len() + error.detail.len();
            self.errors.push(error);
        }
    }

    fn walk<'a>(
        &mut self,
        node: &'a Node,
        shape: &'a Shape,
        new: &'a Value,
        old: Option<&'a Value>,
        at: Path<'_>,
        ratchet: Ratchet<'_, 'a>,
    ) -> Result<(), Ended> {
        if !node.below.rules || new.is_null() {
            return Ok(());
        }
        let old = old.filter(|old| !old.is_null());
        if let Some(rules) = node.rules.as_deref() {
            self.rules(rules, node, shape, new, old, &at, ratchet)?;
        }
        match new {
            Value::Object(members) => {
                for (name, member) in members {
                    let known = node.properties.get(name.as_str());
                    let Some(inner) = known.or_else(|| node.additional()).filter(|inner| inner.below.rules) else {
                        continue;
                    };
                    let inner_shape = match &shape.kind {
                        Kind::Object(all) => all.get(name.as_str()),
                        Kind::Map(of) => Some(&**of),
                        _ => None,
                    };
                    let place = if known.is_some() { at.child(name) } else { at.key(name) };
                    // A member that the schema names and no expression can read has no rules.
                    let Some(inner_shape) = inner_shape.filter(|shape| known.is_none() || !shape::is_kept(shape)) else {
                        continue;
                    };
                    let was = old.and_then(|old| old.get(name));
                    self.below(
                        inner,
                        inner_shape,
                        member,
                        was,
                        place,
                        ratchet,
                        |current| current.key(name),
                        name,
                    )?;
                }
            }
            Value::Array(items) => {
                let (Some(inner), Kind::List(inner_shape, _)) = (node.items(), &shape.kind) else {
                    return Ok(());
                };
                if !inner.below.rules {
                    return Ok(());
                }
                let keyed = old.map(|old| correlate::keyed(node, old)).unwrap_or_default();
                for (index, item) in items.iter().enumerate() {
                    let was = match &node.list {
                        ListType::Map(keys) if !keyed.is_empty() => {
                            correlate::composite(item, keys).and_then(|key| keyed.get(&key).copied())
                        }
                        _ => None,
                    };
                    let place = at.index(index);
                    self.below(
                        inner,
                        inner_shape,
                        item,
                        was,
                        place,
                        ratchet,
                        |current| current.index(index),
                        "",
                    )?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Goes on with a part of a value.
    #[expect(clippy::too_many_arguments, reason = "a step of the walk is all of these")]
    fn below<'a>(
        &mut self,
        node: &'a Node,
        shape: &'a Shape,
        new: &'a Value,
        old: Option<&'a Value>,
        at: Path<'_>,
        ratchet: Ratchet<'_, 'a>,
        part: impl Fn(&Correlated<'a>) -> Option<Correlated<'a>>,
        name: &str,
    ) -> Result<(), Ended> {
        let Some(current) = ratchet.current else {
            return self.walk(node, shape, new, old, at, ratchet);
        };
        // The type of a resource is not what was sent, so that nothing excuses it.
        if ratchet.parent.is_none() && matches!(name, "apiVersion" | "kind") {
            return self.walk(node, shape, new, old, at, Ratchet::default());
        }
        let was = part(current);
        let ratchet = Ratchet {
            current: was.as_ref(),
            parent: Some(current),
        };
        self.walk(node, shape, new, old, at, ratchet)
    }

    #[expect(clippy::too_many_arguments, reason = "a step of the walk is all of these")]
    fn rules<'a>(
        &mut self,
        rules: &Rules,
        node: &'a Node,
        shape: &'a Shape,
        new: &'a Value,
        old: Option<&'a Value>,
        at: &Path<'_>,
        ratchet: Ratchet<'_, 'a>,
    ) -> Result<(), Ended> {
        let of_schema = |detail: String| FieldError {
            kind: FieldErrorType::Invalid,
            path: at.field(),
            value: show::quoted(node.is.name()),
            detail,
        };
        if shape::is_kept(shape) {
            const NO_TYPE: &str = "failed to convert to declType for CEL validation rules";
            self.push(of_schema(format!("rule compiler initialization error: {NO_TYPE}")));
            return Ok(());
        }
        const SPENT: &str = "validation failed due to running out of cost budget, no further validation rules will be run";
        if self.spent >= BUDGET {
            self.push(of_schema(SPENT.to_owned()));
            return Err(Ended);
        }
        let read = Read {
            this: Val::shaped(new, shape),
            was: old.map(|old| Val::shaped(old, shape)),
        };
        for (rule, made) in rules.all.iter().zip(rules.made(node, shape, self.declared)) {
            let program = match &made.program {
                None => continue,
                Some(Err(why)) => {
                    self.push(of_schema(format!("rule compile error: {why}")));
                    continue;
                }
                Some(Ok(program)) => program,
            };
            if made.transition && old.is_none() && !rule.optional_old_self {
                continue;
            }
            let outcome = if rule.optional_old_self && made.transition {
                run(program, &rule.text, &optional(&read))
            } else {
                run(program, &rule.text, &read)
            };
            if outcome.cost > BUDGET - self.spent {
                self.push(of_schema(SPENT.to_owned()));
                return Err(Ended);
            }
            self.spent += outcome.cost;
            let named = rule.named();
            match outcome.result {
                Ok(Val::Bool(true)) => {}
                Ok(_) => self.failed(rule, made, node, new, &read, at, ratchet)?,
                Err(why @ EvalError::CostLimit) => {
                    self.push(of_schema(format!(
                        "'{why}': no further validation rules will be run due to call cost exceeds limit for rule: {named}"
                    )));
                    return Err(Ended);
                }
                Err(why @ (EvalError::NoSuchOverload | EvalError::NoSuchOverloadOf(_))) => {
                    self.push(of_schema(format!(
                        "'{why}': call arguments did not match a supported operator, function or macro signature for rule: {named}"
                    )));
                }
                Err(why) => self.push(of_schema(format!("{why} evaluating rule: {named}"))),
            }
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "a step of the walk is all of these")]
    fn failed<'a>(
        &mut self,
        rule: &Rule,
        made: &Made,
        node: &Node,
        new: &Value,
        read: &Read<'a>,
        at: &Path<'_>,
        ratchet: Ratchet<'_, 'a>,
    ) -> Result<(), Ended> {
        let path = match (made.field.is_empty(), at.is_root()) {
            (true, _) => at.field(),
            (false, true) => made.field.clone(),
            (false, false) => format!("{}.{}", at.field(), made.field),
        };
        let mut message = None;
        let mut ended = None;
        if let Some(program) = &made.message {
            match self.message(program, &rule.message_expression, read) {
                Ok(told) => message = told,
                Err(why) => ended = Some(why),
            }
        }
        let shown = if matches!(node.is.name(), "object" | "array") {
            String::new()
        } else {
            show::value(new)
        };
        let stops = ended.is_some();
        let error = match ended {
            Some(detail) => FieldError {
                kind: FieldErrorType::Invalid,
                path,
                value: show::quoted(node.is.name()),
                detail,
            },
            None => reasoned(rule.reason, path, shown, message.unwrap_or_else(|| rule.message())),
        };
        if !made.transition && ratchet.excuses() {
            let text = error.to_string();
            if self.bytes < ERRORS_BYTES_MAX {
                self.bytes += text.len();
                self.warnings.push(text);
            }
        } else {
            self.push(error);
        }
        if stops { Err(Ended) } else { Ok(()) }
    }

    /// The message that an expression gives, none if it gives no good one; an error ends everything.
    fn message(&mut self, program: &Program, text: &str, read: &Read<'_>) -> Result<Option<String>, String> {
        let outcome = run(program, text, read);
        if outcome.cost > BUDGET - self.spent {
            return Err(
                "messageExpression evaluation failed due to running out of cost budget, no further validation rules will be run"
                    .to_owned(),
            );
        }
        if matches!(outcome.result, Err(EvalError::CostLimit)) {
            let quoted = show::quoted(text);
            return Err(format!(
                "no further validation rules will be run due to call cost exceeds limit for messageExpression: {quoted}"
            ));
        }
        self.spent += outcome.cost;
        let Ok(Val::String(told)) = &outcome.result else {
            return Ok(None);
        };
        let told = told.as_str().trim();
        let good = !told.is_empty() && told.len() <= MESSAGE_BYTES_MAX && !told.contains('\n');
        Ok(good.then(|| told.to_owned()))
    }
}

/// The same values for a rule to which what was may be missing.
fn optional<'a>(read: &Read<'a>) -> Read<'a> {
    let was = match read.was.clone() {
        None => Ok(Val::Optional(None)),
        Some(Ok(value)) => Ok(Val::Optional(Some(value.into()))),
        Some(Err(why)) => Err(why),
    };
    Read {
        this: read.this.clone(),
        was: Some(was),
    }
}

fn reasoned(reason: Reason, path: String, value: String, detail: String) -> FieldError {
    let (kind, value, detail) = match reason {
        Reason::Invalid => (FieldErrorType::Invalid, value, detail),
        Reason::Forbidden => (FieldErrorType::Forbidden, String::new(), detail),
        Reason::Required => (FieldErrorType::Required, String::new(), detail),
        Reason::Duplicate => (FieldErrorType::Duplicate, value, String::new()),
    };
    FieldError {
        kind,
        path,
        value,
        detail,
    }
}
