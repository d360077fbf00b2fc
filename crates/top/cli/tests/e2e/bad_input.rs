//! Being written.

use crate::Scenario;

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[];
