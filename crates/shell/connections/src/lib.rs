//! Connections of a listening port: how many there may be, how long one may stay without asking for anything, and how it
//! is closed so that its client still reads the last answer.
//!
//! Invariant: a port holds no more descriptors than its [`Limits`] say (and [`CLOSING_MAX`] that are being closed), so that
//! a flood at one port leaves the others theirs. A connection on which nothing runs ends by itself. The tests of
//! `budget` hold both.
//!
//! It knows no protocol: who serves tells when a request begins and ends.

mod body;
mod budget;
mod descriptors;
mod guarded;
mod seldom;

pub use body::Counted;
pub use budget::{Budget, Busy, CLOSING_MAX, Limits, Over, Place, open_metrics};
pub use descriptors::{Shares, raise_limit};
pub use guarded::Guarded;
pub use seldom::Seldom;
