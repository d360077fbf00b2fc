//! Where Kubernetes takes expressions: which names each of these uses knows, and what an expression there must give.

use std::sync::{Arc, LazyLock};

use crate::cost::Limit;
use crate::declare::{Environment, Functions, functions, read_type};
use crate::library::kubernetes;
use crate::types::Type;

/// Which names the expressions of a policy or of a webhook's conditions know beside those that all know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Admission {
    /// `params`, the object that configures the policy.
    pub params: bool,
    /// `authorizer`, which says what the user may do.
    pub authorizer: bool,
    /// `Object` and `JSONPatch`, of which patches are made.
    pub patches: bool,
}

/// The name of the type whose fields are a policy's variables.
const VARIABLES: &str = "kubernetes.variables";

impl Admission {
    /// The environment of such expressions.
    pub fn environment(self) -> Environment {
        static BASE: LazyLock<Environment> = LazyLock::new(admission);
        let mut environment = BASE.clone();
        if self.params {
            environment.declare("params", Type::Dyn);
        }
        if self.authorizer {
            for (name, of) in AUTHORIZERS {
                let of = format!("kubernetes.authorization.{of}");
                environment.declare(name, Type::Struct(of.as_str().into()));
            }
        }
        if self.patches {
            environment.allow_patches();
        }
        environment
    }
}

/// The variables by which expressions ask what the user may do, and their types.
const AUTHORIZERS: &[(&str, &str)] = &[("authorizer", "Authorizer"), ("authorizer.requestResource", "ResourceCheck")];

impl Environment {
    /// Lets expressions make objects and JSON patches.
    pub fn allow_patches(&mut self) {
        static PATCHES: LazyLock<Arc<Functions>> = LazyLock::new(|| Arc::new(functions(&[kubernetes::JSON_PATCH])));
        self.patches = true;
        self.functions = Arc::clone(&PATCHES);
    }

    /// Takes the authorizer away.
    pub fn forget_authorizer(&mut self) {
        for (name, _) in AUTHORIZERS {
            self.variables.remove(*name);
        }
    }

    /// Declares `variables`, which has no fields yet.
    pub fn declare_variables(&mut self) {
        self.declare("variables", Type::Struct(VARIABLES.into()));
        self.declare_struct(VARIABLES, &[]);
    }

    /// Declares the variable `name` of a policy, whose expression gave `result`, or does not compile.
    pub fn declare_policy_variable(&mut self, name: &str, result: Option<&Type>) {
        let is = result.map_or(Type::Dyn, kept);
        self.declare_field(VARIABLES, name, is);
    }
}

/// What is kept of the type of a variable: plain types, lists and maps; others are known at run time.
fn kept(of: &Type) -> Type {
    match of {
        Type::List(element) => Type::list(kept(element)),
        Type::Map(both) => Type::map(kept(&both.0), kept(&both.1)),
        Type::Any
        | Type::Bool
        | Type::Bytes
        | Type::Double
        | Type::Duration
        | Type::Int
        | Type::Null
        | Type::String
        | Type::Timestamp
        | Type::Uint => of.clone(),
        _ => Type::Dyn,
    }
}

/// Structures, each with its fields as `NAME TYPE`; those that a later one refers to come first.
const STRUCTURES: &[(&str, &str)] = &[
    ("GroupVersionKind", "group string; version string; kind string"),
    ("GroupVersionResource", "group string; version string; resource string"),
    (
        "UserInfo",
        "username string; uid string; groups list(string); extra map(string, list(string))",
    ),
    (
        "AdmissionRequest",
        "kind kubernetes.GroupVersionKind; resource kubernetes.GroupVersionResource; subResource string; \
         requestKind kubernetes.GroupVersionKind; requestResource kubernetes.GroupVersionResource; \
         requestSubResource string; name string; namespace string; operation string; userInfo kubernetes.UserInfo; \
         dryRun bool; options dyn",
    ),
    ("NamespaceSpec", "finalizers list(string)"),
    (
        "NamespaceCondition",
        "status string; type string; lastTransitionTime timestamp; message string; reason string",
    ),
    (
        "NamespaceStatus",
        "conditions list(kubernetes.NamespaceCondition); phase string",
    ),
    (
        "NamespaceMetadata",
        "name string; generateName string; namespace string; labels map(string, string); \
         annotations map(string, string); UID string; creationTimestamp timestamp; deletionGracePeriodSeconds int; \
         deletionTimestamp timestamp; generation int; resourceVersion string; finalizers list(string)",
    ),
    (
        "Namespace",
        "metadata kubernetes.NamespaceMetadata; spec kubernetes.NamespaceSpec; status kubernetes.NamespaceStatus",
    ),
    (
        "DRADevice",
        "driver string; allowMultipleAllocations bool; attributes map(string, map(string, any)); \
         capacity map(string, map(string, kubernetes.Quantity))",
    ),
];

/// Declares one of [`STRUCTURES`].
///
/// # Panics
///
/// If the table is wrong: a mistake of ours, which every test of this crate would meet.
fn declare_structure(environment: &mut Environment, name: &str) -> Type {
    let Some((_, fields)) = STRUCTURES.iter().find(|(known, _)| *known == name) else {
        panic!("no structure {name}");
    };
    let fields: Vec<(&str, Type)> = fields
        .split("; ")
        .map(|field| {
            let read = field.split_once(' ').and_then(|(name, of)| Some((name, read_type(of)?)));
            read.unwrap_or_else(|| panic!("no field: {field}"))
        })
        .collect();
    let full = format!("kubernetes.{name}");
    environment.declare_struct(&full, &fields);
    Type::Struct(full.as_str().into())
}

fn admission() -> Environment {
    let mut environment = Environment::new();
    for (name, _) in STRUCTURES.iter().filter(|(name, _)| *name != "DRADevice") {
        declare_structure(&mut environment, name);
    }
    for root in ["AdmissionRequest", "Namespace"] {
        environment.name_parts(&format!("kubernetes.{root}"));
    }
    environment.declare("object", Type::Dyn);
    environment.declare("oldObject", Type::Dyn);
    environment.declare("request", Type::Struct("kubernetes.AdmissionRequest".into()));
    environment.declare("namespaceObject", Type::Struct("kubernetes.Namespace".into()));
    environment
}

/// What evaluating a selector for one device may cost.
const DEVICE_COST_MAX: u64 = 1_000_000;

/// How large what is at `path` can be: the letters of names and values, the entries of maps.
fn device_size(path: &[&str]) -> Option<u64> {
    const ENTRIES: u64 = 32;
    let into = |part: &str| matches!(part, "@items" | "@values");
    match path {
        ["device"] => Some(0),
        ["device", "driver"] => Some(63),
        ["device", "allowMultipleAllocations"] => Some(1),
        ["device", "attributes" | "capacity"] => Some(ENTRIES),
        ["device", "attributes" | "capacity", "@keys"] => Some(63),
        ["device", "attributes" | "capacity", outer] if into(outer) => Some(ENTRIES),
        ["device", "attributes" | "capacity", outer, "@keys"] if into(outer) => Some(32),
        // An attribute, whatever its name.
        ["device", "attributes", outer, _] if into(outer) => Some(64),
        ["device", "capacity", outer, inner] if into(outer) && into(inner) => Some(0),
        _ => None,
    }
}

/// The environment of expressions that select devices. One that is `stored` knows what the next version brings, too.
pub fn device(stored: bool) -> &'static Environment {
    static NEW: LazyLock<Environment> = LazyLock::new(|| {
        let mut environment = Environment::new();
        let of = declare_structure(&mut environment, "DRADevice");
        environment.name_parts("kubernetes.DRADevice");
        environment.declare("device", of);
        environment.bindings = true;
        environment.limit = Some(Limit {
            most: DEVICE_COST_MAX,
            size_of: device_size,
        });
        environment
    });
    static STORED: LazyLock<Environment> = LazyLock::new(|| {
        let mut environment = NEW.clone();
        let includes = functions(&["dra_includes_dyn_dyn: dyn::includes(dyn) -> bool"]);
        environment.functions = Arc::new(includes);
        environment
    });
    if stored { &STORED } else { &NEW }
}

/// The environment of the rules of a definition. What `self` and `oldSelf` are is left to run time: the schema would say.
pub fn rule() -> &'static Environment {
    static RULE: LazyLock<Environment> = LazyLock::new(|| {
        let mut environment = Environment::new();
        environment.declare("self", Type::Dyn);
        environment.declare("oldSelf", Type::Dyn);
        environment
    });
    &RULE
}

/// What an expression must give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Anything.
    Anything,
    /// Whether a device is selected: truth, or what is known at run time alone.
    Selection,
    /// A value of one of these types.
    OneOf(Vec<Type>),
}

/// The expression gives something else than is wanted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", unwanted(.wanted, .found))]
pub struct Unwanted {
    wanted: Wanted,
    found: Type,
}

impl Wanted {
    /// The type of expressions that patch an object by applying another.
    pub fn applied_object() -> Self {
        Self::OneOf(vec![Type::Struct("Object".into())])
    }

    /// The type of expressions that give the operations of a JSON patch.
    pub fn json_patch() -> Self {
        Self::OneOf(vec![Type::list(Type::Struct("JSONPatch".into()))])
    }

    /// Refuses what gives something else.
    pub(crate) fn judge(&self, found: &Type) -> Result<(), Unwanted> {
        let good = match self {
            Self::Anything => true,
            Self::Selection => matches!(found, Type::Bool | Type::Any),
            Self::OneOf(all) => all.contains(found),
        };
        if good {
            return Ok(());
        }
        Err(Unwanted {
            wanted: self.clone(),
            found: found.clone(),
        })
    }
}

fn unwanted(wanted: &Wanted, found: &Type) -> String {
    let found = found.declared();
    match wanted {
        Wanted::OneOf(all) => match all.as_slice() {
            [one] => format!("must evaluate to {} but got {found}", one.declared()),
            all => {
                let all: Vec<String> = all.iter().map(|one| one.declared().to_string()).collect();
                format!("must evaluate to one of [{}] but got {found}", all.join(" "))
            }
        },
        Wanted::Anything | Wanted::Selection => format!("must evaluate to bool or the unknown type, not {found}"),
    }
}
