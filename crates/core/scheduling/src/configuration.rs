//! KubeSchedulerConfiguration (`kubescheduler.config.k8s.io/v1`) into [`Profile`]s.
//!
//! Invariant: what is accepted is acted on, or named in [`Configuration::unused`]; all problems are returned, each with its
//! path, in upstream's words where it is upstream that refuses. It reads no file; the value comes from YAML or JSON.

use std::time::Duration;

use serde_json::Value;
use trireme_api::field::{FieldError, FieldErrorType};

use crate::profile::Profile;

mod arguments;
mod plugins;

/// Name of the one version that is read.
const API_VERSION: &str = "kubescheduler.config.k8s.io/v1";
const KIND: &str = "KubeSchedulerConfiguration";

/// Pauses between attempts to place a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// After the first failure; it doubles.
    pub least: Duration,
    /// The longest.
    pub most: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            least: Duration::from_secs(1),
            most: Duration::from_secs(10),
        }
    }
}

/// What a scheduler is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// One for each name that pods ask for; never empty.
    pub profiles: Vec<Profile>,
    /// Pauses.
    pub backoff: Backoff,
    /// Paths of what was given and does nothing here.
    pub unused: Vec<String>,
}

impl Default for Configuration {
    fn default() -> Self {
        Self {
            profiles: vec![Profile::default()],
            backoff: Backoff::default(),
            unused: Vec::new(),
        }
    }
}

/// Problems as they are found.
pub(super) type Errors = Vec<FieldError>;

/// A value with its path.
#[derive(Clone, Debug)]
pub(super) struct At<'a> {
    value: &'a Value,
    path: String,
}

impl<'a> At<'a> {
    fn field(&self, name: &str) -> Self {
        let path = if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        };
        Self {
            value: self.value.get(name).unwrap_or(&Value::Null),
            path,
        }
    }

    fn is_absent(&self) -> bool {
        self.value.is_null()
    }

    /// An error of this kind here.
    fn error(&self, kind: FieldErrorType, detail: impl Into<String>) -> FieldError {
        FieldError {
            kind,
            path: self.path.clone(),
            value: self.value.to_string(),
            detail: detail.into(),
        }
    }

    fn invalid(&self, detail: impl Into<String>) -> FieldError {
        self.error(FieldErrorType::Invalid, detail)
    }

    fn required(&self, detail: impl Into<String>) -> FieldError {
        self.error(FieldErrorType::Required, detail)
    }

    fn forbidden(&self, detail: impl Into<String>) -> FieldError {
        self.error(FieldErrorType::Forbidden, detail)
    }

    /// A mapping with no other keys than these.
    fn check_keys(&self, known: &[&str], errors: &mut Errors) {
        match self.value {
            Value::Null => {}
            Value::Object(fields) => {
                let unknown = fields.keys().filter(|key| !known.contains(&key.as_str()));
                errors.extend(unknown.map(|key| self.field(key).error(FieldErrorType::Forbidden, "unknown field")));
            }
            _ => errors.push(self.invalid("must be a mapping")),
        }
    }

    fn items(&self, errors: &mut Errors) -> Vec<Self> {
        match self.value {
            Value::Null => Vec::new(),
            Value::Array(items) => {
                let at = |(index, value)| Self {
                    value,
                    path: format!("{}[{index}]", self.path),
                };
                items.iter().enumerate().map(at).collect()
            }
            _ => {
                errors.push(self.invalid("must be a list"));
                Vec::new()
            }
        }
    }

    fn text(&self, errors: &mut Errors) -> &'a str {
        match self.value {
            Value::Null => "",
            Value::String(text) => text,
            _ => {
                errors.push(self.invalid("must be a string"));
                ""
            }
        }
    }

    fn number(&self, errors: &mut Errors) -> Option<i64> {
        if self.is_absent() {
            return None;
        }
        let number = self.value.as_i64();
        if number.is_none() {
            errors.push(self.invalid("must be a whole number"));
        }
        number
    }

    fn flag(&self, errors: &mut Errors) -> bool {
        match self.value {
            Value::Null => false,
            Value::Bool(flag) => *flag,
            _ => {
                errors.push(self.invalid("must be true or false"));
                false
            }
        }
    }
}

/// Reads a configuration.
///
/// # Errors
/// All that is wrong with it.
pub fn read(value: &Value) -> Result<Configuration, Vec<FieldError>> {
    let root = At {
        value,
        path: String::new(),
    };
    let mut errors = Errors::new();
    if !value.is_object() {
        let mut error = root.invalid("must be a mapping");
        error.value = String::new();
        return Err(vec![error]);
    }
    for (field, wanted) in [("apiVersion", API_VERSION), ("kind", KIND)] {
        let field = root.field(field);
        if field.value != wanted {
            errors.push(field.invalid(format!("must be \"{wanted}\"")));
        }
    }
    // Settings of a process of its own, which the scheduler of a server is not.
    let process = [
        "leaderElection",
        "clientConnection",
        "enableProfiling",
        "enableContentionProfiling",
        "parallelism",
        "delayCacheUntilActive",
    ];
    let known = [
        "apiVersion",
        "kind",
        "metadata",
        "percentageOfNodesToScore",
        "podInitialBackoffSeconds",
        "podMaxBackoffSeconds",
        "profiles",
        "extenders",
    ];
    root.check_keys(&[&known[..], &process[..]].concat(), &mut errors);
    let unused = process.iter().filter(|name| !root.field(name).is_absent());
    let unused = unused.map(|name| (*name).to_owned()).collect();
    let parallelism = root.field("parallelism");
    if parallelism.number(&mut errors).is_some_and(|number| number <= 0) {
        errors.push(parallelism.invalid("should be an integer value greater than zero"));
    }
    let extenders = root.field("extenders");
    if !extenders.items(&mut errors).is_empty() {
        errors.push(extenders.forbidden("this scheduler asks no extenders"));
    }
    let percent = percentage(&root.field("percentageOfNodesToScore"), &mut errors);
    let backoff = backoff(&root, &mut errors);
    let mut profiles: Vec<Profile> = Vec::new();
    for at in root.field("profiles").items(&mut errors) {
        let profile = profile(&at, percent, &mut errors);
        let same = profiles
            .iter()
            .position(|known| known.scheduler_name == profile.scheduler_name);
        if let Some(first) = same {
            let mut error = at.field("schedulerName").error(FieldErrorType::Duplicate, "");
            error.value = format!("\"profiles[{first}].schedulerName\"");
            errors.push(error);
        }
        profiles.push(profile);
    }
    if profiles.is_empty() {
        profiles.push(Profile {
            nodes_percent: percent,
            ..Profile::default()
        });
    }
    if errors.is_empty() {
        Ok(Configuration {
            profiles,
            backoff,
            unused,
        })
    } else {
        Err(errors)
    }
}

fn percentage(at: &At<'_>, errors: &mut Errors) -> Option<usize> {
    let percent = at.number(errors)?;
    match usize::try_from(percent) {
        Ok(percent @ 0..=100) => Some(percent),
        _ => {
            errors.push(at.invalid("not in valid range [0-100]"));
            None
        }
    }
}

fn backoff(root: &At<'_>, errors: &mut Errors) -> Backoff {
    let (first, last) = (root.field("podInitialBackoffSeconds"), root.field("podMaxBackoffSeconds"));
    let defaults = Backoff::default();
    let mut seconds = |at: &At<'_>, default: Duration| at.number(errors).unwrap_or(i64::try_from(default.as_secs()).unwrap_or(1));
    let (least, most) = (seconds(&first, defaults.least), seconds(&last, defaults.most));
    if least <= 0 {
        errors.push(first.invalid("must be greater than 0"));
    }
    if most < least {
        errors.push(last.invalid("must be greater than or equal to PodInitialBackoffSeconds"));
    }
    let seconds = |number: i64| Duration::from_secs(u64::try_from(number).unwrap_or_default());
    Backoff {
        least: seconds(least),
        most: seconds(most),
    }
}

fn profile(at: &At<'_>, percent: Option<usize>, errors: &mut Errors) -> Profile {
    at.check_keys(
        &["schedulerName", "percentageOfNodesToScore", "plugins", "pluginConfig"],
        errors,
    );
    let mut profile = Profile::default();
    let name = at.field("schedulerName");
    if !name.is_absent() {
        name.text(errors).clone_into(&mut profile.scheduler_name);
        if name.value == "" {
            errors.push(name.required(""));
        }
    }
    let own = at.field("percentageOfNodesToScore");
    profile.nodes_percent = if own.is_absent() { percent } else { percentage(&own, errors) };
    plugins::read(&at.field("plugins"), &mut profile, errors);
    let mut seen: Vec<&str> = Vec::new();
    for config in at.field("pluginConfig").items(errors) {
        config.check_keys(&["name", "args"], errors);
        let name = config.field("name").text(errors);
        if seen.contains(&name) {
            let mut error = config.error(FieldErrorType::Duplicate, "");
            error.value = format!("\"{name}\"");
            errors.push(error);
        }
        seen.push(name);
        arguments::read(name, &config, &mut profile, errors);
    }
    profile
}

#[cfg(test)]
mod tests;
