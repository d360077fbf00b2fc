//! Label and field selectors.
//!
//! Invariant: a parsed selector is valid; matching never fails. It will not know which fields a resource can be selected by.

mod fields;
mod labels;
mod query;
mod validity;

pub use fields::{Demand, FieldOperator, FieldSelector, FieldTerm};
pub use labels::{LabelSelector, Operator, Requirement, SelectorError};
pub use validity::{key_errors, subdomain_errors, value_errors};
