//! Rules of a schema (`x-kubernetes-validations`, pkg/apiserver/schema/cel): compiled when they are first needed, by the type that
//! their schema declares.
//!
//! Invariant: rules are compiled once. A rule that does not compile is told where it would have been run.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;
use trireme_cel::eval::{Program, Shape};
use trireme_cel::{Budget, Environment, Refused, STACK_BYTES, Type as CelType, Wanted, stack_bytes};

use crate::field_path;
use crate::node::Node;

/// Most fields whose types are declared for the rules of one schema, anew for each place that has rules. What is beyond is
/// compiled without types: it runs as ever, and a mistake of types is told where a value meets it.
const DECLARED_MAX: usize = 100_000;

/// What a failed rule is an error of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    Invalid,
    Forbidden,
    Required,
    Duplicate,
}

/// One rule as it is written.
#[derive(Debug)]
pub(crate) struct Rule {
    pub text: Box<str>,
    message: Box<str>,
    pub message_expression: Box<str>,
    pub reason: Reason,
    field_path: Box<str>,
    pub optional_old_self: bool,
}

impl Rule {
    fn read(rule: &Value) -> Self {
        let text = |name: &str| rule.get(name).and_then(Value::as_str).unwrap_or_default().into();
        Self {
            text: text("rule"),
            message: text("message"),
            message_expression: text("messageExpression"),
            reason: match rule.get("reason").and_then(Value::as_str) {
                Some("FieldValueForbidden") => Reason::Forbidden,
                Some("FieldValueRequired") => Reason::Required,
                Some("FieldValueDuplicate") => Reason::Duplicate,
                _ => Reason::Invalid,
            },
            field_path: text("fieldPath"),
            optional_old_self: rule.get("optionalOldSelf") == Some(&Value::Bool(true)),
        }
    }

    /// The rule as errors name it.
    pub fn named(&self) -> &str {
        if self.message.is_empty() { &self.text } else { &self.message }.trim()
    }

    /// What is told where it fails.
    pub fn message(&self) -> String {
        if self.message.is_empty() {
            format!("failed rule: {}", self.named())
        } else {
            self.message.trim().to_owned()
        }
    }
}

/// The rules of one schema.
#[derive(Debug)]
pub(crate) struct Rules {
    pub all: Vec<Rule>,
    made: OnceLock<Vec<Made>>,
}

/// A rule as it runs.
#[derive(Debug)]
pub(crate) struct Made {
    /// None of an empty rule; else the program, or why there is none.
    pub program: Option<Result<Program, String>>,
    pub message: Option<Program>,
    /// Whether it reads what was.
    pub transition: bool,
    /// The field that it speaks of, below the value.
    pub field: String,
}

impl Rules {
    /// The rules that a schema has.
    pub fn read(rules: Option<&Value>) -> Option<Self> {
        let all: Vec<Rule> = rules?.as_array()?.iter().map(Rule::read).collect();
        (!all.is_empty()).then(|| Self {
            all,
            made: OnceLock::new(),
        })
    }

    /// The rules as they run, over values of a shape; `declared` counts the fields that were declared for rules of this schema.
    pub fn made(&self, node: &Node, shape: &Shape, declared: &AtomicUsize) -> &[Made] {
        self.made.get_or_init(|| {
            let fields = crate::shape::fields(shape);
            let make_environment = |optional| {
                let before = declared.fetch_add(fields, Ordering::Relaxed);
                if before.saturating_add(fields) > DECLARED_MAX {
                    declared.fetch_sub(fields, Ordering::Relaxed);
                    return untyped(optional);
                }
                environment(shape, optional)
            };
            let mut environments = [None, None];
            let mut make_one = |rule: &Rule| {
                let optional = rule.optional_old_self;
                let own = environments[usize::from(optional)].get_or_insert_with(|| make_environment(optional));
                make(rule, own, node)
            };
            self.all.iter().map(&mut make_one).collect()
        })
    }
}

/// What rules of values of a shape know.
pub(crate) fn environment(shape: &Shape, optional_old_self: bool) -> Environment {
    let mut environment = Environment::empty();
    let is = environment.declare_shaped(&["self", "oldSelf"], "selfType", shape);
    if optional_old_self {
        environment.declare("oldSelf", CelType::optional(is));
    }
    environment
}

/// Likewise, where nothing is said of types.
fn untyped(optional_old_self: bool) -> Environment {
    let mut environment = Environment::empty();
    environment.declare("self", CelType::Dyn);
    environment.declare(
        "oldSelf",
        if optional_old_self {
            CelType::optional(CelType::Dyn)
        } else {
            CelType::Dyn
        },
    );
    environment
}

fn compiled(environment: &Environment, text: &str, wanted: CelType) -> Result<Program, Refused> {
    let wanted = Wanted::OneOf(vec![wanted]);
    // The caller's stack may be a worker's, of which little is left.
    stacker::maybe_grow(stack_bytes(text.len()), STACK_BYTES, || {
        environment.program_within(text, &wanted, &mut Budget::default())
    })
}

fn make(rule: &Rule, environment: &Environment, node: &Node) -> Made {
    let mut made = Made {
        program: None,
        message: None,
        transition: false,
        field: String::new(),
    };
    if rule.text.trim().is_empty() {
        return made;
    }
    match compiled(environment, &rule.text, CelType::Bool) {
        Ok(program) => {
            made.transition = program.inputs().iter().any(|name| &**name == "oldSelf");
            made.program = Some(Ok(program));
        }
        Err(Refused::Unwanted(_)) => {
            made.program = Some(Err("cel expression must evaluate to a bool".to_owned()));
            return made;
        }
        Err(why) => {
            made.program = Some(Err(why.to_string()));
            return made;
        }
    }
    if !rule.message_expression.is_empty() {
        // Where it does not compile, nothing is told of the field either, as upstream has it.
        let Ok(program) = compiled(environment, &rule.message_expression, CelType::String) else {
            return made;
        };
        made.message = Some(program);
    }
    if !rule.field_path.is_empty() {
        made.field = field_path::normalized(&rule.field_path, node).unwrap_or_default();
    }
    made
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;
    use crate::Structural;

    /// A chain of schemas with rules at each, over many fields at its end: the types of all of them would be declared anew for each
    /// place. What is beyond the limit is compiled without types, and still run.
    #[test]
    fn compiling_rules_at_every_level_is_bounded() {
        let fields: Map<String, Value> = (0..10_000).map(|n| (format!("f{n}"), json!({"type": "string"}))).collect();
        let mut schema = json!({"type": "object", "properties": fields});
        for _ in 0..60 {
            let rules = json!([{"rule": "has(self.a) && size(self.b) > 1"}]);
            schema = json!({"type": "object", "properties": {"a": schema, "b": {"type": "string"}}, "x-kubernetes-validations": rules});
        }
        let schema = Structural::compile(&json!({"type": "object", "properties": {"spec": schema}}), false).unwrap();
        let mut object = json!({});
        for _ in 0..60 {
            object = json!({"a": object, "b": "x"});
        }
        let errors = schema.validate_rules(&json!({"spec": object}), None);
        assert_eq!(errors.len(), 60, "{errors:?}");
        // Sixty times ten thousand without the limit.
        let declared = schema.declared.load(Ordering::Relaxed);
        assert!((10_000..=DECLARED_MAX).contains(&declared), "{declared}");
    }
}
