//! Expressions in CEL as Kubernetes 1.36 takes them: parsed, their types checked, their literals looked at, and evaluated
//! ([`eval`]).
//!
//! What is refused, in which order and in which words, is cel-go's; `tests/stock.rs` replays what a stock server said.
//! Invariant: the work is bounded by a [`Budget`], which the expressions of one object share, but it descends as deep as
//! cel-go's: callers give it [`stack_bytes`] of stack.

mod ast;
mod check;
mod constants;
mod cost;
mod declare;
pub mod eval;
mod format;
mod goregex;
mod library;
mod literals;
mod lookup;
mod macros;
mod parse;
mod problem;
mod source;
mod syntax;
mod token;
mod types;
mod unescape;
mod unify;
mod uses;

use std::sync::Arc;

pub use constants::Unfit;
pub use declare::Environment;
pub use goregex::{RegexFault, regex_fault};
pub use source::Issues;
pub use types::{Declared, Type};
pub use uses::{Admission, Unwanted, Wanted, device, rule};

/// Whether a word means something of its own in the language, or may one day, so that no variable is called by it.
#[must_use]
pub fn is_word_of_its_own(word: &str) -> bool {
    matches!(word, "true" | "false" | "null" | "in") || parse::RESERVED.contains(&word)
}

use ast::Ast;
use check::Unchecked;
use parse::Unparsed;
use source::Source;

/// Stack that compiling needs at most, in an unoptimised build, four times over.
pub const STACK_BYTES: usize = 64 * 1024 * 1024;
/// Stack that it takes before it descends, and at most for each byte of the text: no byte opens more than one level.
const STACK_BYTES_BASE: usize = 256 * 1024;
const STACK_BYTES_PER_BYTE: usize = if cfg!(debug_assertions) { 64 * 1024 } else { 16 * 1024 };

/// Stack that compiling a text of this length needs.
#[must_use]
pub fn stack_bytes(length: usize) -> usize {
    let descending = length.saturating_mul(STACK_BYTES_PER_BYTE);
    STACK_BYTES_BASE.saturating_add(descending).min(STACK_BYTES)
}

/// Stack that running a compiled text of this length needs.
#[must_use]
pub fn running_stack_bytes(length: usize) -> usize {
    const BYTES_PER_BYTE: usize = if cfg!(debug_assertions) { 16 * 1024 } else { 2 * 1024 };
    const BYTES_BASE: usize = 64 * 1024;
    length
        .saturating_mul(BYTES_PER_BYTE)
        .saturating_add(BYTES_BASE)
        .min(STACK_BYTES)
}

/// What compiling the expressions of one object may take together.
#[derive(Debug)]
pub struct Budget {
    /// Nodes, with macros expanded. What a macro copies of a text counts, too.
    nodes: usize,
    /// Steps of comparing types.
    steps: u32,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            nodes: NODES_MAX,
            steps: STEPS_MAX,
        }
    }
}

/// The most nodes of the expressions of one object.
const NODES_MAX: usize = 40_000;
/// The most steps of comparing their types.
const STEPS_MAX: u32 = 1_000_000;

/// A compiled expression.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The type of what it gives.
    pub result: Type,
}

/// A compiled expression, and what it may come to.
#[derive(Clone, Debug)]
pub struct Estimated {
    /// The type of what it gives.
    pub result: Type,
    /// What running it costs at most.
    pub cost: u64,
    /// The variables that it reads.
    pub reads: Vec<Box<str>>,
}

/// Why an expression is refused.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refused {
    /// It is wrong.
    #[error("compilation failed: {0}")]
    Issues(Issues),
    /// It gives something else than its place wants.
    #[error("{0}")]
    Unwanted(Unwanted),
    /// It is right, but no program can be made of it: an error of the server in upstream's eyes.
    #[error("program instantiation failed: {0}")]
    Unfit(Unfit),
    /// Evaluating it might cost more than its place allows.
    #[error("too complex, exceeds cost limit")]
    Costly,
    /// It is right, but nothing evaluates it.
    #[error("{0}")]
    Unplanned(eval::Unplanned),
    /// Its macros or its types make too much of it.
    #[error("compilation failed: the expression is too complex")]
    Complex,
}

fn parsed(text: &str, source: &Arc<Source>, bindings: bool, budget: &mut Budget) -> Result<Ast, Refused> {
    let issues = match parse::parse(source, bindings, &mut budget.nodes) {
        Ok(ast) => return Ok(ast),
        Err(Unparsed::Syntax) => syntax::issues(text, source),
        Err(Unparsed::Issues(issues)) => issues,
        Err(Unparsed::Nodes) => return Err(Refused::Complex),
    };
    Err(Refused::Issues(Issues::new(Arc::clone(source), issues)))
}

impl Environment {
    /// Compiles `text`, which must give what is `wanted`.
    pub fn compile(&self, text: &str, wanted: &Wanted) -> Result<Compiled, Refused> {
        self.compile_within(text, wanted, &mut Budget::default())
    }

    /// Likewise, with what is left of a budget.
    pub fn compile_within(&self, text: &str, wanted: &Wanted, budget: &mut Budget) -> Result<Compiled, Refused> {
        let (_, _, result) = self.judged(text, wanted, budget)?;
        Ok(Compiled { result })
    }

    /// Compiles `text`, which must give what is `wanted`, to what can run.
    pub fn program(&self, text: &str, wanted: &Wanted) -> Result<eval::Program, Refused> {
        self.program_within(text, wanted, &mut Budget::default())
    }

    /// Likewise, with what is left of a budget.
    pub fn program_within(&self, text: &str, wanted: &Wanted, budget: &mut Budget) -> Result<eval::Program, Refused> {
        let (ast, checked, _) = self.judged(text, wanted, budget)?;
        eval::Program::new(&ast, &checked).map_err(Refused::Unplanned)
    }

    /// Compiles `text` and estimates what running it costs at most, where `size_of` says how large a value at a path of names can be.
    pub fn estimated_within(
        &self,
        text: &str,
        wanted: &Wanted,
        budget: &mut Budget,
        size_of: &dyn Fn(&[&str]) -> Option<u64>,
    ) -> Result<Estimated, Refused> {
        let (ast, checked, result) = self.judged(text, wanted, budget)?;
        eval::Program::new(&ast, &checked).map_err(Refused::Unplanned)?;
        Ok(Estimated {
            result,
            cost: cost::most(&ast, &checked, size_of),
            reads: checked.names.values().cloned().collect(),
        })
    }

    fn judged(&self, text: &str, wanted: &Wanted, budget: &mut Budget) -> Result<(Ast, check::Checked, Type), Refused> {
        let source = Arc::new(Source::new(text));
        let refused = |issues| Refused::Issues(Issues::new(Arc::clone(&source), issues));
        let ast = parsed(text, &source, self.bindings, budget)?;
        let checked = match check::check(self, &source, &ast, &mut budget.steps) {
            Ok(checked) => checked,
            Err(Unchecked::Issues(issues)) => return Err(refused(issues)),
            Err(Unchecked::Exhausted) => return Err(Refused::Complex),
        };
        let issues = literals::issues(&source, &ast, &checked);
        if !issues.is_empty() {
            return Err(refused(issues));
        }
        let result = checked.types[ast.root.0 as usize].clone().unwrap_or(Type::Dyn);
        wanted.judge(&result).map_err(Refused::Unwanted)?;
        constants::judge(&ast, &checked).map_err(Refused::Unfit)?;
        if let Some(limit) = &self.limit
            && cost::most(&ast, &checked, &limit.size_of) > limit.most
        {
            return Err(Refused::Costly);
        }
        Ok((ast, checked, result))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Overflowing a stack ends the process.
    #[test]
    fn the_stack_suffices_for_each_length() {
        let environment = device(false).clone();
        std::thread::scope(|scope| {
            for (open, close) in [
                ("(", ")"),
                ("[", "]"),
                ("!(", ")"),
                ("[1].all(x,", ")"),
                ("1?1:", ""),
                ("{1:", "}"),
                ("", ".b"),
                ("", "[0]"),
            ] {
                for depth in [1, 4, 16, 64, 240] {
                    let text = format!("{}1{}", open.repeat(depth), close.repeat(depth));
                    let thread = std::thread::Builder::new().stack_size(stack_bytes(text.len()));
                    let compiling = thread.spawn_scoped(scope, || {
                        let text = text;
                        environment.compile(&text, &Wanted::Anything).is_ok()
                    });
                    compiling.expect("a thread").join().expect("no panic");
                }
            }
        });
    }
}
