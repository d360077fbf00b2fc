//! Environment and command lines: `$(VAR)` expansion and the order in which sources win.
//!
//! Invariant: values come from [`Sources`], so this reads nothing itself. Referenced objects must be loaded before; what
//! they are is told by [`references`]. What is made is no more than [`START_BYTES_MAX`], however often a value is named.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::downward::{self, NodeFacts};
use crate::room::{Exhausted, Room, START_BYTES_MAX};

/// Objects that an environment may refer to, by name in the pod's namespace. `None` means it does not exist.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// `data` of ConfigMaps.
    pub config_maps: BTreeMap<String, Option<BTreeMap<String, String>>>,
    /// Decoded `data` of Secrets.
    pub secrets: BTreeMap<String, Option<BTreeMap<String, Vec<u8>>>>,
    /// Variables of the services that the pod sees.
    pub services: BTreeMap<String, String>,
    /// Addresses of pod and node.
    pub node: NodeFacts,
}

/// Why an environment cannot be made; the kubelet shows CreateContainerConfigError.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    /// The ConfigMap does not exist.
    #[error("configmap \"{0}\" not found")]
    NoConfigMap(String),
    /// The Secret does not exist.
    #[error("secret \"{0}\" not found")]
    NoSecret(String),
    /// The key is not in the object.
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    NoKey {
        /// Key.
        key: String,
        /// `ConfigMap` or `Secret`.
        kind: &'static str,
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
    },
    /// A field or resource reference that cannot be resolved.
    #[error(transparent)]
    Field(#[from] downward::FieldError),
    /// More than a process can be started with.
    #[error("argument list too long: environment or command have more than {START_BYTES_MAX} bytes")]
    TooLong,
}

impl From<Exhausted> for EnvError {
    fn from(Exhausted: Exhausted) -> Self {
        Self::TooLong
    }
}

/// ConfigMaps and Secrets that a container's environment refers to.
#[must_use]
pub fn references(container: &Container) -> (Vec<String>, Vec<String>) {
    let mut config_maps = Vec::new();
    let mut secrets = Vec::new();
    for source in container.env_from.iter().flatten() {
        config_maps.extend(source.config_map_ref.iter().map(|reference| reference.name.clone()));
        secrets.extend(source.secret_ref.iter().map(|reference| reference.name.clone()));
    }
    for source in container
        .env
        .iter()
        .flatten()
        .filter_map(|variable| variable.value_from.as_ref())
    {
        config_maps.extend(source.config_map_key_ref.iter().map(|reference| reference.name.clone()));
        secrets.extend(source.secret_key_ref.iter().map(|reference| reference.name.clone()));
    }
    for names in [&mut config_maps, &mut secrets] {
        names.sort();
        names.dedup();
    }
    (config_maps, secrets)
}

/// The environment of a container: `envFrom`, then `env` in order over it, then service variables not yet there.
///
/// # Errors
/// When something that is not optional is missing, or more is made than a process can be started with.
pub fn environment(pod: &Pod, container: &Container, sources: &Sources) -> Result<BTreeMap<String, String>, EnvError> {
    let namespace = crate::spec::namespace(pod);
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    let mut room = Room::of(START_BYTES_MAX);
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &from.config_map_ref {
            match sources.config_maps.get(&reference.name).and_then(Option::as_ref) {
                Some(data) => {
                    for (key, value) in data {
                        room.take(prefix.len() + key.len() + value.len())?;
                        known.insert(format!("{prefix}{key}"), value.clone());
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(EnvError::NoConfigMap(reference.name.clone())),
            }
        }
        if let Some(reference) = &from.secret_ref {
            match sources.secrets.get(&reference.name).and_then(Option::as_ref) {
                Some(data) => {
                    for (key, value) in data {
                        room.take(prefix.len() + key.len() + value.len())?;
                        known.insert(format!("{prefix}{key}"), String::from_utf8_lossy(value).into_owned());
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(EnvError::NoSecret(reference.name.clone())),
            }
        }
    }
    for variable in container.env.iter().flatten() {
        let literal = variable.value.as_deref().unwrap_or_default();
        let value = match &variable.value_from {
            Some(source) if literal.is_empty() => {
                let value = if let Some(reference) = &source.field_ref {
                    downward::field(pod, &reference.field_path, &sources.node)?
                } else if let Some(reference) = &source.resource_field_ref {
                    downward::resource(pod, Some(container), reference, &sources.node)?
                } else if let Some(reference) = &source.config_map_key_ref {
                    let optional = reference.optional == Some(true);
                    match sources.config_maps.get(&reference.name).and_then(Option::as_ref) {
                        None if optional => continue,
                        None => return Err(EnvError::NoConfigMap(reference.name.clone())),
                        Some(data) => match data.get(&reference.key) {
                            Some(value) => value.clone(),
                            None if optional => continue,
                            None => return Err(no_key(&reference.key, "ConfigMap", namespace, &reference.name)),
                        },
                    }
                } else if let Some(reference) = &source.secret_key_ref {
                    let optional = reference.optional == Some(true);
                    match sources.secrets.get(&reference.name).and_then(Option::as_ref) {
                        None if optional => continue,
                        None => return Err(EnvError::NoSecret(reference.name.clone())),
                        Some(data) => match data.get(&reference.key) {
                            Some(value) => String::from_utf8_lossy(value).into_owned(),
                            None if optional => continue,
                            None => return Err(no_key(&reference.key, "Secret", namespace, &reference.name)),
                        },
                    }
                } else {
                    String::new()
                };
                room.take(value.len())?;
                value
            }
            _ => {
                let lookup = |name: &str| known.get(name).or_else(|| sources.services.get(name)).map(String::as_str);
                expand_within(literal, lookup, &mut room)?
            }
        };
        known.insert(variable.name.clone(), value);
    }
    for (name, value) in &sources.services {
        known.entry(name.clone()).or_insert_with(|| value.clone());
    }
    Ok(known)
}

fn no_key(key: &str, kind: &'static str, namespace: &str, name: &str) -> EnvError {
    EnvError::NoKey {
        key: key.into(),
        kind,
        namespace: namespace.into(),
        name: name.into(),
    }
}

/// Expands texts (a command, its arguments, a path) with an environment.
///
/// # Errors
/// When they become longer together than what a process can be started with.
pub fn expand_all<'a>(
    texts: impl IntoIterator<Item = &'a String>,
    environment: &BTreeMap<String, String>,
) -> Result<Vec<String>, EnvError> {
    let mut room = Room::of(START_BYTES_MAX);
    let lookup = |name: &str| environment.get(name).map(String::as_str);
    texts
        .into_iter()
        .map(|text| Ok(expand_within(text, lookup, &mut room)?))
        .collect()
}

/// Replaces `$(NAME)` by what `lookup` says; what it does not know stays as it is; `$$` is a `$`.
fn expand_within<'a>(text: &str, lookup: impl Fn(&str) -> Option<&'a str>, room: &mut Room) -> Result<String, Exhausted> {
    // What is not replaced is no longer than the text.
    room.take(text.len())?;
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        result.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(after) = after.strip_prefix('$') {
            result.push('$');
            rest = after;
        } else if let Some((name, after)) = after.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match lookup(name) {
                Some(value) => {
                    room.take(value.len())?;
                    result.push_str(value);
                }
                None => {
                    result.push_str("$(");
                    result.push_str(name);
                    result.push(')');
                }
            }
            rest = after;
        } else {
            result.push('$');
            rest = after;
        }
    }
    result.push_str(rest);
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn expansion() {
        let environment = BTreeMap::from([("A".to_owned(), "x".to_owned())]);
        for (text, expected) in [
            ("$(A)", "x"),
            ("a$(A)b$(A)", "axbx"),
            ("$$(A)", "$(A)"),
            ("$(B)", "$(B)"),
            ("$A $( $(A", "$A $( $(A"),
            ("end$", "end$"),
            ("$$$(A)", "$x"),
        ] {
            let expanded = expand_all([&text.to_owned()], &environment).unwrap();
            assert_eq!(expanded, [expected], "{text}");
        }
    }

    #[test]
    fn later_sources_win_and_optional_ones_may_be_absent() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"containers": [{
        "name": "c",
        "envFrom": [{"prefix": "P_", "configMapRef": {"name": "m"}}, {"secretRef": {"name": "gone", "optional": true}}],
        "env": [
            {"name": "P_a", "value": "over"},
            {"name": "B", "value": "$(P_a)-$(SVC)-$(NOT)"},
            {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "K", "valueFrom": {"secretKeyRef": {"name": "gone", "key": "k", "optional": true}}}
        ]}]}}))
        .unwrap();
        let sources = Sources {
            config_maps: BTreeMap::from([(
                "m".into(),
                Some(BTreeMap::from([("a".into(), "1".into()), ("b".into(), "2".into())])),
            )]),
            services: BTreeMap::from([("SVC".into(), "s".into()), ("B".into(), "hidden".into())]),
            ..Sources::default()
        };
        let container = &crate::spec::of(&pod).containers[0];
        let found = environment(&pod, container, &sources).unwrap();
        let expected = [
            ("B", "over-s-$(NOT)"),
            ("NAME", "p"),
            ("P_a", "over"),
            ("P_b", "2"),
            ("SVC", "s"),
        ];
        assert_eq!(
            found.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect::<Vec<_>>(),
            expected
        );
        assert_eq!(references(container), (vec!["m".to_owned()], vec!["gone".to_owned()]));
    }

    #[test]
    fn missing_objects_and_keys_are_told_as_upstream_does() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"containers": [{
            "name": "c", "env": [{"name": "K", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}}]}]}}))
        .unwrap();
        let container = &crate::spec::of(&pod).containers[0];
        let mut sources = Sources::default();
        assert_eq!(
            environment(&pod, container, &sources).unwrap_err().to_string(),
            "configmap \"m\" not found"
        );
        sources.config_maps.insert("m".into(), Some(BTreeMap::new()));
        assert_eq!(
            environment(&pod, container, &sources).unwrap_err().to_string(),
            "couldn't find key k in ConfigMap n/m"
        );
    }
}
