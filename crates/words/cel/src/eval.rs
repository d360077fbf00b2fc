//! Running expressions: a checked expression becomes a [`Program`] once and runs many times, over values that are read where
//! they stand.
//!
//! Values, errors and costs are cel-go's, as Kubernetes 1.36 sets it up: `tests/eval.rs` replays what it said. Invariant: what a
//! run takes, of time and memory, is bounded by the cost it may have ([`Terms::limit`]); it descends as deep as the expression.

mod address;
mod authorizer;
mod compile;
mod error;
mod escape;
mod formats;
mod functions;
mod ops;
mod price;
mod regex;
mod run;
mod semver;
mod show;
mod time;
mod url;
mod value;

pub use address::{Address, Range};
pub use authorizer::{Authorizer, Check, Decision, Question};
pub use compile::Unplanned;
pub use error::EvalError;
pub use escape::escape as escaped;
pub use formats::Named;
pub use regex::matcher;
pub use run::{Inputs, Terms};
pub use semver::Semver;
pub use url::Url;
pub use value::{Key, Kind, List, Map, Order, Shape, Text, Val};

use crate::ast::Ast;
use crate::check::Checked;

/// What one call may cost.
pub const PER_CALL_LIMIT: u64 = 1_000_000;
/// What all rules of an object, or all expressions of a policy's binding, may cost together.
pub const BUDGET: u64 = 10_000_000;
/// What the match conditions of a webhook or binding may cost together.
pub const MATCH_CONDITIONS_BUDGET: u64 = 2_500_000;

/// Whether Go's `url.ParseRequestURI` reads a text.
#[must_use]
pub fn is_request_uri(text: &str) -> bool {
    Url::fault(text).is_none()
}

/// An expression that can run.
#[derive(Debug)]
pub struct Program {
    made: compile::Made,
}

/// What a run came to.
#[derive(Debug)]
pub struct Outcome<'a> {
    /// The value, or why there is none.
    pub result: Result<Val<'a>, EvalError>,
    /// What it cost.
    pub cost: u64,
}

impl Program {
    pub(crate) fn new(ast: &Ast, checked: &Checked) -> Result<Self, Unplanned> {
        Ok(Self {
            made: compile::compile(ast, checked)?,
        })
    }

    /// The variables that it reads.
    #[must_use]
    pub fn inputs(&self) -> &[Box<str>] {
        &self.made.inputs
    }

    /// Runs it.
    #[must_use]
    pub fn run<'a>(&self, inputs: &dyn Inputs<'a>, terms: Terms<'a>) -> Outcome<'a> {
        let mut run = run::Run::new(&self.made, inputs, terms);
        let result = run.eval(&self.made.root);
        Outcome { result, cost: run.cost }
    }
}

impl Val<'_> {
    /// The value as text, for people: as Go prints it.
    #[must_use]
    pub fn show(&self) -> String {
        show::plain(self)
    }
}
