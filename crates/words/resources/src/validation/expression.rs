//! Expressions in CEL: whether they compile where they stand, at a bounded cost.
//!
//! Invariant: all expressions of one object share one budget, and none can exhaust the stack (the tests here and those of
//! `trireme_cel` hold both). They are compiled, not evaluated.

use trireme_cel::{Budget, Compiled, Environment, Estimated, Refused, STACK_BYTES, Type, Wanted, stack_bytes};
use trireme_structural::Typed;

use super::errors::Errors;
use super::node::Node;

/// Most bytes of one expression.
const EXPRESSION_BYTES_MAX: usize = 10 * 1024;
/// Most bytes of all expressions of one object that are compiled in one request.
const OBJECT_BYTES_MAX: usize = 32 * 1024;

/// Compiles the expressions of one object.
pub(super) struct Expressions {
    bytes_left: usize,
    budget: Budget,
}

impl Expressions {
    /// For one object.
    pub fn new() -> Self {
        Self {
            bytes_left: OBJECT_BYTES_MAX,
            budget: Budget::default(),
        }
    }

    /// Adds an error where `node` holds text that is no expression which gives what is `wanted`. Says what it gives.
    pub fn check(&mut self, errors: &mut Errors, node: &Node<'_>, environment: &Environment, wanted: &Wanted) -> Option<Type> {
        let told = node.str();
        self.check_as(errors, node, told, told, environment, wanted)
    }

    /// Likewise, for those of which the space around does not count.
    pub fn check_trimmed(
        &mut self,
        errors: &mut Errors,
        node: &Node<'_>,
        environment: &Environment,
        wanted: &Wanted,
    ) -> Option<Type> {
        let told = node.str().trim();
        self.check_as(errors, node, told, told, environment, wanted)
    }

    /// Likewise for `text`, which errors tell as `told`.
    pub fn check_as(
        &mut self,
        errors: &mut Errors,
        node: &Node<'_>,
        text: &str,
        told: &str,
        environment: &Environment,
        wanted: &Wanted,
    ) -> Option<Type> {
        if errors.full() {
            return None;
        }
        match self.compile(text, environment, wanted) {
            Ok(compiled) => return Some(compiled.result),
            Err(Uncompiled::Refused(Refused::Unfit(why))) => {
                errors.push(node.internal(format!("program instantiation failed: {why}")));
            }
            Err(Uncompiled::Refused(why @ Refused::Costly)) => errors.push(node.forbidden(why.to_string())),
            Err(why) => errors.push(node.bad_text(told, why.to_string())),
        }
        None
    }

    /// What `text` gives, or why it does not compile.
    ///
    /// # Errors
    /// In upstream's words.
    pub fn result(&mut self, text: &str, environment: &Environment) -> Result<Type, String> {
        match self.compile(text, environment, &Wanted::Anything) {
            Ok(compiled) => Ok(compiled.result),
            Err(why) => Err(why.to_string()),
        }
    }

    /// What `text` comes to by the types that a schema declares, or why it does not compile.
    ///
    /// # Errors
    /// In upstream's words.
    pub fn estimate(&mut self, text: &str, optional: bool, typed: &Typed<'_>) -> Result<Estimated, String> {
        let estimated = self.run(text, |budget| typed.estimate(text, optional, budget));
        estimated.map_err(|why| why.to_string())
    }

    fn compile(&mut self, text: &str, environment: &Environment, wanted: &Wanted) -> Result<Compiled, Uncompiled> {
        self.run(text, |budget| environment.compile_within(text, wanted, budget))
    }

    /// Does `work` on `text`, if the budget allows.
    fn run<T>(&mut self, text: &str, work: impl FnOnce(&mut Budget) -> Result<T, Refused>) -> Result<T, Uncompiled> {
        if text.len() > EXPRESSION_BYTES_MAX {
            return Err(Uncompiled::Long);
        }
        self.bytes_left = self.bytes_left.checked_sub(text.len()).ok_or(Uncompiled::Many)?;
        // The caller's stack may be a worker's, of which little is left.
        stacker::maybe_grow(stack_bytes(text.len()), STACK_BYTES, || work(&mut self.budget)).map_err(Uncompiled::Refused)
    }
}

/// Why an expression was not compiled.
#[derive(Debug, thiserror::Error)]
enum Uncompiled {
    #[error("compilation failed: an expression may have at most {EXPRESSION_BYTES_MAX} bytes")]
    Long,
    #[error("compilation failed: the expressions of one object may have at most {OBJECT_BYTES_MAX} bytes")]
    Many,
    #[error("{0}")]
    Refused(Refused),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compile(expressions: &mut Expressions, text: &str) -> Result<Compiled, Uncompiled> {
        expressions.compile(text, trireme_cel::device(false), &Wanted::Anything)
    }

    fn told(found: Result<Compiled, Uncompiled>, of: &str) {
        assert!(found.map_or_else(|why| !why.to_string().is_empty(), |_| true), "{of}");
    }

    #[test]
    fn one_object_has_one_budget() {
        let mut expressions = Expressions::new();
        let text = format!("[{}1]", "1,".repeat(5_000));
        for _ in 0..3 {
            assert!(compile(&mut expressions, &text).is_ok());
        }
        assert!(matches!(compile(&mut expressions, &text), Err(Uncompiled::Many)));
        let long = "1,".repeat(EXPRESSION_BYTES_MAX);
        assert!(matches!(compile(&mut Expressions::new(), &long), Err(Uncompiled::Long)));
    }

    #[test]
    fn what_macros_copy_counts_for_the_whole_object() {
        let mut expressions = Expressions::new();
        // Each doubles what stands before it.
        let text = format!("optional.of(1){}.hasValue()", ".optMap(x,x)".repeat(8));
        let taken = (0..100).take_while(|_| compile(&mut expressions, &text).is_ok()).count();
        assert!((5..20).contains(&taken), "{taken}");
        let pattern = format!(
            "optional.of('a'.matches('{}')){}.hasValue()",
            "a".repeat(5_000),
            ".optMap(x,x)".repeat(7)
        );
        let found = compile(&mut Expressions::new(), &pattern);
        assert!(matches!(found, Err(Uncompiled::Refused(Refused::Complex))), "{found:?}");
    }

    /// A list, and so often a map from what it holds to the same: its type is twice as large each time.
    fn doubled(times: usize) -> String {
        format!("[1]{}", ".map(x,{x:x})".repeat(times))
    }

    #[test]
    fn a_type_has_a_largest_size() {
        assert!(compile(&mut Expressions::new(), &doubled(8)).is_ok());
        let found = compile(&mut Expressions::new(), &doubled(11));
        assert!(matches!(found, Err(Uncompiled::Refused(Refused::Complex))), "{found:?}");
    }

    #[test]
    fn types_that_are_compared_very_often_count() {
        let text = |times| format!("{}.map(y,[{}y])", doubled(8), "y,".repeat(times));
        assert!(compile(&mut Expressions::new(), &text(100)).is_ok());
        let found = compile(&mut Expressions::new(), &text(4_000));
        assert!(matches!(found, Err(Uncompiled::Refused(Refused::Complex))), "{found:?}");
    }

    #[test]
    fn depth_has_a_limit() {
        let braced = |depth| format!("{}1{}", "(".repeat(depth), ")".repeat(depth));
        let added = |depth| format!("1{}", "+1".repeat(depth));
        for (text, words) in [
            (
                &braced as &dyn Fn(usize) -> String,
                "expression recursion limit exceeded: 250",
            ),
            (&added, "max recursion depth exceeded"),
        ] {
            assert!(compile(&mut Expressions::new(), &text(240)).is_ok());
            let why = compile(&mut Expressions::new(), &text(260)).unwrap_err().to_string();
            assert!(why.contains(words), "{why}");
        }
    }

    #[test]
    fn what_is_as_deep_as_can_be_is_compiled_or_refused_in_words() {
        for (open, close) in [
            ("(", ")"),
            ("[", "]"),
            ("!(", ")"),
            ("A{b:", "}"),
            ("[1].all(x,", ")"),
            ("{", ""),
        ] {
            for depth in [96, 249, 1_000] {
                let text = format!("{}1{}", open.repeat(depth), close.repeat(depth));
                told(compile(&mut Expressions::new(), &text), open);
            }
        }
        for (first, more) in [
            ("a", ".b"),
            ("a", "[0]"),
            ("1", " in 1"),
            ("1", "+1"),
            ("true", "&&true"),
            ("true?1:", "true?1:"),
        ] {
            let text = format!("{first}{}", more.repeat(1_400));
            told(compile(&mut Expressions::new(), &text), more);
        }
    }
}
