//! Admission webhooks: which of them look at a request, what they are sent, and what their answers do.
//!
//! Invariant: nothing here calls anybody. A shell asks [`Hooks`] whom a request concerns, sends what [`review::Review`] makes,
//! and does what [`review::judge`] says; ids of requests come as arguments. Every text is upstream's
//! (staging/src/k8s.io/apiserver/pkg/admission/plugin/webhook).

pub mod conditions;
pub mod failure;
pub mod hook;
pub mod matching;
pub mod review;
#[cfg(test)]
mod tests;

pub use conditions::Conditioned;
pub use failure::Failure;
pub use hook::{Endpoint, Hook, Hooks, ReviewVersion};
pub use matching::{Attributes, Kind, Resource, Selected, is_exempt};
pub use review::{Review, Verdict, judge};

/// Which of the two kinds of webhooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// They may change the object, one after the other.
    Mutating,
    /// They may refuse the object as it will be stored, all at once.
    Validating,
}

impl Phase {
    /// What upstream's metrics call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mutating => "admit",
            Self::Validating => "validating",
        }
    }
}
