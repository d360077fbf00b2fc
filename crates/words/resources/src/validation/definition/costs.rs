//! What the rules of a schema can cost at most, and what is told where that is too much
//! (pkg/apis/apiextensions/validation/validation.go, cel_validation.go).

use super::super::errors::Errors;
use super::super::node::Node;

/// What one rule may cost for all values of its schema that an object can have.
pub(super) const RULE_MAX: u64 = 10_000_000;
/// What all rules of a schema may cost together.
const SCHEMA_MAX: u64 = 100_000_000;
/// Rules that are named where all together cost too much, each a hundredth of that at least.
const NAMED_MAX: usize = 4;

/// What rules cost so far.
#[derive(Default)]
pub(super) struct Costs<'a> {
    total: u64,
    /// The dearest, the first of all.
    dearest: Vec<(Node<'a>, u64)>,
}

impl<'a> Costs<'a> {
    /// Adds what the rule at a place costs.
    pub fn add(&mut self, at: Node<'a>, cost: u64) {
        self.total = self.total.saturating_add(cost);
        if cost >= SCHEMA_MAX / 100 {
            let index = self
                .dearest
                .iter()
                .position(|(_, other)| *other < cost)
                .unwrap_or(self.dearest.len());
            self.dearest.insert(index, (at, cost));
            self.dearest.truncate(NAMED_MAX);
        }
    }

    /// Tells where it is too much.
    pub fn tell(self, errors: &mut Errors, schema: &Node<'_>) {
        if self.total <= SCHEMA_MAX {
            return;
        }
        for (at, _) in &self.dearest {
            errors
                .push(at.forbidden("contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema"));
        }
        const WHAT: &str = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        errors.push(schema.forbidden(exceeded(WHAT, self.total, SCHEMA_MAX)));
    }
}

/// What is told of a cost above its limit.
pub(super) fn exceeded(what: &str, cost: u64, most: u64) -> String {
    let factor = cost as f64 / most as f64;
    let times = if factor > 100.0 {
        "more than 100x".to_owned()
    } else if factor < 1.5 {
        format!("{factor:.6}x")
    } else {
        format!("{factor:.1}x")
    };
    format!(
        "{what} exceeds budget by factor of {times} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
    )
}

#[cfg(test)]
mod tests {
    use super::exceeded;

    #[test]
    fn factors_are_told_as_upstream_tells_them() {
        for (cost, factor) in [(10_500_000, "1.050000x"), (25_000_000, "2.5x"), (u64::MAX, "more than 100x")] {
            let told = exceeded("c", cost, 10_000_000);
            assert!(
                told.starts_with(&format!("c exceeds budget by factor of {factor} (")),
                "{told}"
            );
        }
    }
}
