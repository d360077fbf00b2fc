//! The rules of a schema as a definition brings them: whether they compile by the types that the schema declares, and what running
//! them can cost at most (pkg/apis/apiextensions/validation/cel_validation.go).
//!
//! Invariant: the types of a schema are declared anew for each place that has rules, as upstream does; where that would declare
//! more than [`FIELDS_MAX`] in all, a place is left untyped.

use std::cell::{Cell, OnceCell};
use std::collections::HashMap;

use serde_json::Value;
use trireme_cel::eval::{Kind, Shape};
use trireme_cel::{Budget, Environment, Estimated, Refused, Wanted};

use crate::compile;
use crate::node::{Additional, Node, Type};
use crate::rules::environment;
use crate::shape;
use crate::sizes::{REQUEST_BYTES_MAX, Sizes};

/// The most fields that are declared for the rules of one schema.
const FIELDS_MAX: usize = 500_000;

/// A schema whose rules are judged.
#[derive(Debug)]
pub struct Definition {
    shape: Shape,
    sizes: Option<Sizes>,
    /// By where its schema stands in memory, which is the one thing that two walks over one value share.
    places: HashMap<usize, Place>,
    fields_left: Cell<usize>,
}

/// A schema with rules.
#[derive(Debug)]
struct Place {
    way: Vec<Step>,
    /// How many values of it there can be, where something bounds that.
    cardinality: Option<u64>,
    /// Fields of the schemas in it.
    fields: usize,
}

#[derive(Clone, Debug)]
enum Step {
    Member(Box<str>),
    Inner,
}

/// What the rules of one schema know.
#[derive(Debug)]
pub enum Scope<'d> {
    /// Its values have no type in expressions.
    NoType,
    /// They have one.
    Typed(Box<Typed<'d>>),
}

/// The types that rules of one schema know.
#[derive(Debug)]
pub struct Typed<'d> {
    shape: &'d Shape,
    /// Without and with what was being optional.
    environments: [OnceCell<Environment>; 2],
    sizes: &'d Sizes,
    cardinality: u64,
}

impl Definition {
    /// Reads a structural schema; none if it has no rules, or cannot be read.
    #[must_use]
    pub fn of(schema: &Value) -> Option<Self> {
        let root = compile::node(schema, 0).ok().filter(|root| root.below.rules)?;
        let mut found = Self {
            shape: shape::of(&root, true),
            sizes: Sizes::of(&root, true),
            places: HashMap::new(),
            fields_left: Cell::new(FIELDS_MAX),
        };
        found.look(schema, &root, &mut Vec::new(), Some(1));
        Some(found)
    }

    /// Finds places with rules; gives how many schemas there are.
    fn look(&mut self, schema: &Value, node: &Node, way: &mut Vec<Step>, cardinality: Option<u64>) -> usize {
        let mut fields = 1;
        let below = cardinality.and_then(|count| Some(count.saturating_mul(elements(node)?)));
        for (name, property) in &node.properties {
            if let Some(inner) = schema.get("properties").and_then(|all| all.get(&**name)) {
                way.push(Step::Member(name.clone()));
                fields += self.look(inner, property, way, below);
                way.pop();
            }
        }
        for (name, inner) in [("items", node.items()), ("additionalProperties", node.additional())] {
            if let (Some(node), Some(inner)) = (inner, schema.get(name)) {
                way.push(Step::Inner);
                fields += self.look(inner, node, way, below);
                way.pop();
            }
        }
        if node.rules.is_some() {
            let place = Place {
                way: way.clone(),
                cardinality,
                fields,
            };
            self.places.insert(address(schema), place);
        }
        fields
    }

    /// What the rules of a schema within the definition's know; none where it would take too much to say.
    #[must_use]
    pub fn scope(&self, schema: &Value) -> Option<Scope<'_>> {
        let place = self.places.get(&address(schema))?;
        self.fields_left.set(self.fields_left.get().checked_sub(place.fields)?);
        let (mut shape, mut sizes) = (&self.shape, self.sizes.as_ref());
        for step in &place.way {
            let inner = match (&shape.kind, step) {
                (Kind::Object(all), Step::Member(name)) => all.get(&**name),
                (Kind::List(inner, _) | Kind::Map(inner), Step::Inner) => Some(&**inner),
                _ => None,
            };
            let Some(inner) = inner else {
                return Some(Scope::NoType);
            };
            shape = inner;
            sizes = sizes.and_then(|sizes| match step {
                Step::Member(name) => trireme_cel::eval::escaped(name).and_then(|name| sizes.field(&name)),
                Step::Inner => sizes.elements(),
            });
        }
        if shape::is_kept(shape) {
            return Some(Scope::NoType);
        }
        let sizes = sizes?;
        Some(Scope::Typed(Box::new(Typed {
            shape,
            environments: [OnceCell::new(), OnceCell::new()],
            sizes,
            cardinality: place.cardinality.unwrap_or(REQUEST_BYTES_MAX / (sizes.least_bytes + 1)),
        })))
    }
}

fn address(schema: &Value) -> usize {
    std::ptr::from_ref(schema).addr()
}

/// How many values of an inner schema one value has; none if nothing bounds it.
fn elements(node: &Node) -> Option<u64> {
    let checks = node.checks.as_deref();
    let limit = |count: Option<i64>| count.map(|count| u64::try_from(count).unwrap_or(0));
    match node.is {
        Type::Object if !matches!(node.additional, Additional::None) => limit(checks.and_then(|checks| checks.max_properties)),
        Type::Array => limit(checks.and_then(|checks| checks.max_items)),
        _ => Some(1),
    }
}

impl Typed<'_> {
    /// Compiles an expression and estimates what running it once costs at most. `optional` says that what was may be missing.
    ///
    /// # Errors
    /// Why it is refused. It descends: callers give it stack, as for every expression.
    pub fn estimate(&self, text: &str, optional: bool, budget: &mut Budget) -> Result<Estimated, Refused> {
        let environment = self.environments[usize::from(optional)].get_or_init(|| environment(self.shape, optional));
        environment.estimated_within(text, &Wanted::Anything, budget, &|path| self.sizes.at(path))
    }

    /// What costs so much for one value costs this for all that an object can have.
    #[must_use]
    pub fn for_all(&self, cost: u64) -> u64 {
        cost.saturating_mul(self.cardinality)
    }
}
