//! Where pods go, what is said where they go nowhere, and what may change that.

mod common;
mod hints;
mod preemption;
mod profiles;
mod reference;
mod slow;
mod texts;
mod volumes;
