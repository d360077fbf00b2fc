//! Webhooks as they are configured, prepared once for each version of their configuration.
//!
//! Invariant: the order is upstream's: configurations by name, webhooks as they stand in theirs.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine as _;

use serde_json::Value;
use trireme_api::selector::LabelSelector;

use super::Phase;
use super::conditions::Condition;
use super::matching::{Rule, texts};

/// Where a webhook listens, and by whom it is certified. Equal ones share their connections.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Whom its certificate must come from, in PEM; empty for the system's roots.
    pub ca_bundle: Vec<u8>,
    /// The place.
    pub place: Place,
}

/// The place where a webhook listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// A port of a Service.
    Service {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The Service's port.
        port: u16,
        /// Path of the URL, with a slash at its beginning; may be empty.
        path: String,
    },
    /// A URL.
    Url(String),
    /// Neither: nothing can be called.
    Nowhere,
}

/// A version of `AdmissionReview`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReviewVersion {
    /// `admission.k8s.io/v1`.
    V1,
    /// `admission.k8s.io/v1beta1`, whose answers are held to less.
    V1beta1,
}

/// One webhook of a configuration.
#[derive(Debug)]
pub struct Hook {
    /// Its name.
    pub name: String,
    /// The name of its configuration.
    pub configuration: String,
    /// What tells it from all others: configuration, name, and how many of that name came before it there.
    pub id: String,
    /// Which requests concern it.
    pub rules: Vec<Rule>,
    /// Whether a rule also means the other groups and versions of the same objects.
    pub equivalent: bool,
    /// Which namespaces; none for all. What cannot be read refuses what it would decide on.
    pub namespaces: Result<Option<LabelSelector>, String>,
    /// Which objects; likewise.
    pub objects: Result<Option<LabelSelector>, String>,
    /// Whether a call that fails is as good as none.
    pub ignores_failures: bool,
    /// Whether it may be asked in a dry run.
    pub dry_runs: bool,
    /// How long it may take.
    pub timeout_seconds: u64,
    /// The first version of reviews that both sides know; none where there is none.
    pub reviews: Option<ReviewVersion>,
    /// Whether it is asked once more where the object was changed after it.
    pub reinvoked: bool,
    /// What must be true of a request besides; empty for nothing.
    pub conditions: Vec<Condition>,
    /// Where it listens.
    pub endpoint: Arc<Endpoint>,
}

/// How long a webhook may take that does not say.
const TIMEOUT_SECONDS: u64 = 10;
const PORT: u64 = 443;

fn selector(value: Option<&Value>) -> Result<Option<LabelSelector>, String> {
    let read = LabelSelector::from_value(value).map_err(|error| error.to_string())?;
    Ok((!read.is_empty()).then_some(read))
}

impl Endpoint {
    /// What a `clientConfig` says.
    #[must_use]
    pub fn of(config: &Value) -> Self {
        let encoded = config["caBundle"].as_str().unwrap_or_default();
        let service = &config["service"];
        let place = if service.is_object() {
            let text = |name: &str| service[name].as_str().unwrap_or_default().to_owned();
            let path = text("path");
            Place::Service {
                namespace: text("namespace"),
                name: text("name"),
                port: u16::try_from(service["port"].as_u64().unwrap_or(PORT)).unwrap_or_default(),
                path,
            }
        } else {
            config["url"]
                .as_str()
                .map_or(Place::Nowhere, |url| Place::Url(url.to_owned()))
        };
        Self {
            ca_bundle: base64::engine::general_purpose::STANDARD.decode(encoded).unwrap_or_default(),
            place,
        }
    }
}

impl Hook {
    fn of(phase: Phase, configuration: &str, hook: &Value, id: String) -> Self {
        let text = |name: &str| hook[name].as_str().unwrap_or_default();
        let reviews = texts(&hook["admissionReviewVersions"]);
        let known = |version: &String| match version.as_str() {
            "v1" => Some(ReviewVersion::V1),
            "v1beta1" => Some(ReviewVersion::V1beta1),
            _ => None,
        };
        Self {
            name: text("name").to_owned(),
            configuration: configuration.to_owned(),
            id,
            rules: hook["rules"].as_array().into_iter().flatten().map(Rule::of).collect(),
            equivalent: text("matchPolicy") == "Equivalent",
            namespaces: selector(hook.get("namespaceSelector")),
            objects: selector(hook.get("objectSelector")),
            ignores_failures: text("failurePolicy") == "Ignore",
            dry_runs: matches!(text("sideEffects"), "None" | "NoneOnDryRun"),
            timeout_seconds: hook["timeoutSeconds"].as_u64().unwrap_or(TIMEOUT_SECONDS),
            reviews: reviews.iter().find_map(known),
            reinvoked: phase == Phase::Mutating && text("reinvocationPolicy") == "IfNeeded",
            conditions: hook["matchConditions"]
                .as_array()
                .into_iter()
                .flatten()
                .map(Condition::of)
                .collect(),
            endpoint: Arc::new(Endpoint::of(&hook["clientConfig"])),
        }
    }

    /// All webhooks of a configuration.
    #[must_use]
    pub fn all(phase: Phase, configuration: &Value) -> Vec<Arc<Self>> {
        let name = configuration["metadata"]["name"].as_str().unwrap_or_default();
        let mut named: HashMap<&str, usize> = HashMap::new();
        let hooks = configuration["webhooks"].as_array().into_iter().flatten();
        hooks
            .map(|hook| {
                let own = hook["name"].as_str().unwrap_or_default();
                let before = named.entry(own).or_default();
                let id = format!("{name}/{own}/{before}");
                *before += 1;
                Arc::new(Self::of(phase, name, hook, id))
            })
            .collect()
    }
}

/// All webhooks that are configured.
#[derive(Clone, Debug, Default)]
pub struct Hooks {
    mutating: Vec<Arc<Hook>>,
    validating: Vec<Arc<Hook>>,
}

impl Hooks {
    /// Those of all configurations, of which each comes with its name.
    #[must_use]
    pub fn new(mut mutating: Vec<(String, Vec<Arc<Hook>>)>, mut validating: Vec<(String, Vec<Arc<Hook>>)>) -> Self {
        let flat = |configurations: &mut Vec<(String, Vec<Arc<Hook>>)>| {
            configurations.sort_by(|(a, _), (b, _)| a.cmp(b));
            configurations.drain(..).flat_map(|(_, hooks)| hooks).collect()
        };
        Self {
            mutating: flat(&mut mutating),
            validating: flat(&mut validating),
        }
    }

    /// Those of one kind, in the order in which they are asked.
    #[must_use]
    pub fn of(&self, phase: Phase) -> &[Arc<Hook>] {
        match phase {
            Phase::Mutating => &self.mutating,
            Phase::Validating => &self.validating,
        }
    }
}
