//! The structural schema of one version of a custom resource, compiled once and walked often: pruning, defaults, metadata of
//! resources within resources, validation, rules, and what owners of fields need to know.
//!
//! Invariant: nothing here does I/O, reads a clock or draws a random number, and what a walk takes is bounded: validation by
//! steps, rules by upstream's budgets, defaults by a ledger, errors by what an answer tells. Walks descend as deep as objects
//! and schemas do, which JSON's decoder bounds (125 levels).
//!
//! Rules and regular expressions are compiled when they are first needed and then kept, so that compiling a schema costs no more
//! than reading it. What upstream does stands in staging/src/k8s.io/apiextensions-apiserver/pkg/apiserver.

mod compile;
mod correlate;
mod defaulting;
mod definition;
mod email;
mod embedded;
mod field_path;
mod format;
mod judge;
mod lists;
mod node;
mod number;
mod path;
mod pattern;
mod prune;
mod rules;
mod shape;
mod show;
mod sizes;
mod validate;

use std::sync::OnceLock;
use std::sync::atomic::AtomicUsize;

use serde_json::Value;
use trireme_api::cost::{CostError, Ledger};
use trireme_api::field::{FieldError, FieldErrorType};
use trireme_cel::eval::Shape;

pub use compile::{UNSUPPORTED, zero};
pub use definition::{Definition, Scope, Typed};
pub use format::{is_of_format, is_unknown as is_unknown_format};
pub use node::{ListType, Node, Type};

/// What was found of an object: errors, and what its sender is only warned of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// What refuses it.
    pub errors: Vec<FieldError>,
    /// What does not.
    pub warnings: Vec<String>,
}

/// The schema of one version of a custom resource.
#[derive(Debug)]
pub struct Structural {
    root: Node,
    preserve_unknown: bool,
    /// What rules know of the root; made when the first is run.
    shape: OnceLock<Shape>,
    /// How many fields were declared for its rules so far.
    declared: AtomicUsize,
}

impl Structural {
    /// Compiles a schema as it is stored (`openAPIV3Schema`). `preserve_unknown` is the definition's own old
    /// `preserveUnknownFields`, which leaves out pruning.
    ///
    /// # Errors
    /// What keeps it from being structural as far as walks need it; a definition's validation tells more, and earlier.
    pub fn compile(schema: &Value, preserve_unknown: bool) -> Result<Self, Vec<String>> {
        Ok(Self {
            root: compile::node(schema, 0)?,
            preserve_unknown,
            shape: OnceLock::new(),
            declared: AtomicUsize::new(0),
        })
    }

    /// Whether what it does not know is removed from objects at all.
    #[must_use]
    pub fn prunes(&self) -> bool {
        !self.preserve_unknown
    }

    /// The schema of the whole object.
    #[must_use]
    pub fn root(&self) -> &Node {
        &self.root
    }

    /// Whether it prunes, and gives defaults, as another one does: they may differ in what they demand and say.
    #[must_use]
    pub fn reads_like(&self, other: &Self) -> bool {
        self.preserve_unknown == other.preserve_unknown && self.root.reads_like(&other.root)
    }

    /// The schema at a path of members and elements (`*` stands for any element), if there is one.
    #[must_use]
    pub fn node_at(&self, path: &[&str]) -> Option<&Node> {
        path.iter().try_fold(&self.root, |node, step| match *step {
            "*" if node.items.is_some() => node.items(),
            name => node.member(name),
        })
    }

    /// Removes what the schema does not know, and nulls that stand where none may; type and metadata of the object stay. What
    /// was unknown is told as `unknown field "spec.x"`, sorted.
    pub fn prune(&self, object: &mut Value, told: Option<&mut Vec<String>>) {
        if self.preserve_unknown {
            return;
        }
        let mut paths = Vec::new();
        prune::prune(
            object,
            Some(&self.root),
            true,
            &mut prune::Told::new(told.is_some().then_some(&mut paths)),
        );
        prune::nulls(object, Some(&self.root));
        if let Some(told) = told {
            paths.sort_unstable();
            told.extend(paths.into_iter().map(|path| format!("unknown field {}", show::quoted(&path))));
        }
    }

    /// Removes what the schema does not know, and leaves nulls that stand where none may to validation.
    pub fn prune_unknown(&self, object: &mut Value) {
        if !self.preserve_unknown {
            prune::prune(object, Some(&self.root), true, &mut prune::Told::new(None));
        }
    }

    /// Fills in defaults, as far as the ledger grants; what stands as null where none may is given the default, too.
    ///
    /// # Errors
    /// When defaults would make the object too large.
    pub fn default_within(&self, object: &mut Value, ledger: &mut Ledger) -> Result<(), CostError> {
        defaulting::fill(object, &self.root, ledger)
    }

    /// Fills in defaults, where nobody asks what that costs: it ends where a ledger of its own does.
    pub fn default(&self, object: &mut Value) {
        // The object is too large then, which whoever stores it refuses.
        let _cost = self.default_within(object, &mut Ledger::new());
    }

    /// Gives the metadata of resources within the object the form that `ObjectMeta` has. Where `drop_invalid`, what is malformed is
    /// removed, as upstream does with what is stored; else it is an error. Unknown fields are told, sorted.
    ///
    /// # Errors
    /// The first part that is malformed.
    pub fn coerce_metadata(
        &self,
        object: &mut Value,
        drop_invalid: bool,
        told: Option<&mut Vec<String>>,
    ) -> Result<(), FieldError> {
        let mut unknown = Vec::new();
        let mut coercion = embedded::Coercion {
            drop_invalid,
            told: told.is_some().then_some(&mut unknown),
        };
        let result = coercion.go(object, &self.root, &path::Path::ROOT);
        if let Some(told) = told {
            unknown.sort_unstable();
            told.append(&mut unknown);
        }
        result
    }

    /// Shows the resources within the object, each with its path, so that their type and metadata can be judged.
    pub fn each_embedded(&self, object: &Value, look: &mut dyn FnMut(&str, &Value)) {
        embedded::each(object, &self.root, &path::Path::ROOT, look);
    }

    /// What of an object does not fit the schema. Faults in what is as it was are let pass.
    #[must_use]
    pub fn validate(&self, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
        validate::check(&self.root, new, old)
    }

    /// What the schema's rules say of an object; those of transitions are asked only of what was. Rules that fail for what is as it
    /// was are let pass.
    #[must_use]
    pub fn validate_rules(&self, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
        self.judge_rules(new, old).errors
    }

    /// Likewise, with warnings of rules that were let pass.
    #[must_use]
    pub fn judge_rules(&self, new: &Value, old: Option<&Value>) -> Judged {
        if !self.root.below.rules {
            return Judged::default();
        }
        let shape = self.shape.get_or_init(|| shape::of(&self.root, true));
        let judge = judge::judge(&self.root, (shape, &self.declared), new, old);
        Judged {
            errors: judge.errors,
            warnings: judge.warnings,
        }
    }

    /// Elements of sets, and keys of lists that have keys, that are there more than once.
    #[must_use]
    pub fn validate_lists(&self, new: &Value) -> Vec<FieldError> {
        let mut twins = lists::Twins::default();
        twins.look(new, &self.root, &path::Path::ROOT);
        twins.errors
    }

    /// All of it in upstream's order: the schema; `between` (what the caller knows of scale and of resources within the object); lists,
    /// which are not looked at where the old object's were wrong, too; rules, unless something blocks them.
    #[must_use]
    pub fn judge(&self, new: &Value, old: Option<&Value>, between: impl FnOnce() -> Vec<FieldError>) -> Judged {
        let mut errors = self.validate(new, old);
        errors.extend(between());
        if old.is_none_or(|old| self.validate_lists(old).is_empty()) {
            errors.extend(self.validate_lists(new));
        }
        if !self.root.below.rules {
            return Judged {
                errors,
                warnings: Vec::new(),
            };
        }
        if errors.iter().any(blocks_rules) {
            errors.push(unchecked());
            return Judged {
                errors,
                warnings: Vec::new(),
            };
        }
        let rules = self.judge_rules(new, old);
        errors.extend(rules.errors);
        Judged {
            errors,
            warnings: rules.warnings,
        }
    }
}

/// Whether rules are not asked where this is wrong: they could not read the object by its types.
#[must_use]
pub fn blocks_rules(error: &FieldError) -> bool {
    matches!(
        error.kind,
        FieldErrorType::NotSupported
            | FieldErrorType::Required
            | FieldErrorType::TooLong
            | FieldErrorType::TooMany
            | FieldErrorType::TypeInvalid
    )
}

/// What is told where rules were not asked.
#[must_use]
pub fn unchecked() -> FieldError {
    FieldError {
        kind: FieldErrorType::Invalid,
        path: "<nil>".to_owned(),
        value: "null".to_owned(),
        detail:
            "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation"
                .to_owned(),
    }
}
