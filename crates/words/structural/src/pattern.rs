//! Regular expressions of schemas: Go's syntax, each compiled when it is first needed and then kept.
//!
//! Invariant: what is kept of one is bounded by [`KEPT_BYTES_MAX`]; a larger one is compiled for each text, and the walk pays for
//! it. One that is too large even then fits every text.

use std::sync::OnceLock;

use regex::Regex;

/// The size up to which a pattern is kept.
const KEPT_BYTES_MAX: usize = 256 * 1024;
/// The size up to which it is compiled at all.
const BYTES_MAX: usize = 8 * 1024 * 1024;
/// Steps that compiling costs.
const STEPS: u64 = 2_000;
const LARGE_STEPS: u64 = 1_000_000;
/// Bytes of text that a step looks at, and bytes of the pattern that make each of them dearer.
const BYTES_PER_STEP: u64 = 64;

#[derive(Debug)]
enum Made {
    Kept(Regex),
    Large,
    Fault(String),
}

/// A pattern.
#[derive(Debug)]
pub(crate) struct Pattern {
    pub text: Box<str>,
    made: OnceLock<Made>,
}

impl Pattern {
    pub fn new(text: &str) -> Self {
        Self {
            text: text.into(),
            made: OnceLock::new(),
        }
    }

    /// Whether a text fits, what to say of the pattern itself if it is none, and what looking cost.
    pub fn judge(&self, text: &str) -> (Result<bool, String>, u64) {
        let mut cost = text.len() as u64 / BYTES_PER_STEP * (1 + self.text.len() as u64 / BYTES_PER_STEP);
        let made = self.made.get_or_init(|| {
            cost += STEPS;
            if let Some(fault) = trireme_cel::regex_fault(&self.text) {
                return Made::Fault(format!(
                    "{}, but pattern is invalid: error parsing regexp: {fault}",
                    self.text
                ));
            }
            trireme_cel::eval::matcher(&self.text, KEPT_BYTES_MAX).map_or(Made::Large, Made::Kept)
        });
        let fits = match made {
            Made::Kept(regex) => Ok(regex.is_match(text)),
            Made::Fault(why) => Err(why.clone()),
            Made::Large => {
                cost += LARGE_STEPS;
                Ok(trireme_cel::eval::matcher(&self.text, BYTES_MAX).is_none_or(|regex| regex.is_match(text)))
            }
        };
        (fits, cost)
    }
}
