//! What the API is told of a pod's changes of resources: `PodResizePending`, `PodResizeInProgress`, and the events' texts.
//!
//! Invariant: a change in progress keeps the generation that it began with, and an error is shown until the change is over.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodCondition, PodStatus, ResourceRequirements};
use serde::Serialize;

use crate::spec;
use crate::status_container::seconds;

/// Type of the condition of a wish that waits.
pub(crate) const PENDING: &str = "PodResizePending";
/// Type of the condition of a change that is being made.
pub(crate) const IN_PROGRESS: &str = "PodResizeInProgress";

/// One of the two conditions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResizeCondition {
    /// `Deferred`, `Error`, or empty.
    pub reason: String,
    /// Text.
    pub message: String,
    /// Generation of the pod that wishes for the change.
    pub generation: i64,
    /// When the condition began, or its reason changed.
    pub since: Timestamp,
}

/// Both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResizeConditions {
    /// What is wished for was not granted yet.
    pub pending: Option<ResizeCondition>,
    /// What was granted is being made.
    pub in_progress: Option<ResizeCondition>,
}

impl ResizeConditions {
    /// As the API shows them.
    #[must_use]
    pub fn of(status: &PodStatus) -> Self {
        let read = |kind: &str| {
            let mut all = status.conditions.iter().flatten();
            let found = all.find(|condition| condition.type_ == kind)?;
            Some(ResizeCondition {
                reason: found.reason.clone().unwrap_or_default(),
                message: found.message.clone().unwrap_or_default(),
                generation: found.observed_generation.unwrap_or(0),
                since: found.last_transition_time.as_ref().map(|time| time.0).unwrap_or_default(),
            })
        };
        Self {
            pending: read(PENDING),
            in_progress: read(IN_PROGRESS),
        }
    }

    /// Says that a wish waits. Whether that is new: for this generation, or for another reason.
    pub fn wait(&mut self, message: &str, generation: i64, now: Timestamp) -> bool {
        let reason = "Deferred";
        let old = self.pending.take();
        let kept = old.as_ref().filter(|old| old.reason == reason);
        self.pending = Some(ResizeCondition {
            reason: reason.into(),
            message: message.into(),
            generation,
            since: kept.map_or(now, |old| old.since),
        });
        kept.is_none_or(|old| old.generation != generation)
    }

    /// Says that a change was granted and begins.
    pub fn begin(&mut self, generation: i64, now: Timestamp) {
        self.pending = None;
        self.in_progress = None;
        self.go_on(generation, now);
    }

    /// Says that a change is being made.
    pub fn go_on(&mut self, generation: i64, now: Timestamp) {
        self.in_progress.get_or_insert(ResizeCondition {
            reason: String::new(),
            message: String::new(),
            generation,
            since: now,
        });
    }

    /// Says why a change cannot be made. Its generation where that is new.
    pub fn fail(&mut self, message: &str, generation: i64, now: Timestamp) -> Option<i64> {
        let reason = "Error";
        let old = self.in_progress.take();
        let generation = old.as_ref().map_or(generation, |old| old.generation);
        let kept = old.as_ref().filter(|old| old.reason == reason);
        let new = kept.is_none_or(|old| old.message != message);
        self.in_progress = Some(ResizeCondition {
            reason: reason.into(),
            message: message.into(),
            generation,
            since: kept.map_or(now, |old| old.since),
        });
        new.then_some(generation)
    }

    /// Says that a change is over. Its generation, if there was one.
    pub fn end(&mut self) -> Option<i64> {
        self.in_progress.take().map(|old| old.generation)
    }

    /// In the API's form.
    pub(crate) fn conditions(&self) -> Vec<PodCondition> {
        let show = |kind: &str, condition: &Option<ResizeCondition>| {
            let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            condition.as_ref().map(|condition| PodCondition {
                type_: kind.into(),
                status: "True".into(),
                reason: text(&condition.reason),
                message: text(&condition.message),
                observed_generation: Some(condition.generation).filter(|generation| *generation != 0),
                last_probe_time: Some(seconds(condition.since)),
                last_transition_time: Some(seconds(condition.since)),
            })
        };
        [show(PENDING, &self.pending), show(IN_PROGRESS, &self.in_progress)]
            .into_iter()
            .flatten()
            .collect()
    }
}

#[derive(Serialize)]
struct Granted<'a> {
    name: &'a str,
    resources: ResourceRequirements,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    init_containers: Vec<Granted<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    containers: Vec<Granted<'a>>,
    #[serde(skip_serializing_if = "is_zero")]
    generation: i64,
    #[serde(skip_serializing_if = "str::is_empty")]
    error: &'a str,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's form
fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// Text of an event: what happens, then the pod's resources.
#[must_use]
pub fn event_message(what: &str, pod: &Pod, generation: i64, error: &str) -> String {
    let list = |containers: &'_ [Container]| -> Vec<(String, ResourceRequirements)> {
        containers
            .iter()
            .map(|container| (container.name.clone(), container.resources.clone().unwrap_or_default()))
            .collect()
    };
    let (init, regular) = (list(spec::init_containers(spec::of(pod))), list(&spec::of(pod).containers));
    let granted = |(name, resources)| Granted { name, resources };
    let summary = Summary {
        init_containers: init
            .iter()
            .map(|(name, resources)| granted((name.as_str(), resources.clone())))
            .collect(),
        containers: regular
            .iter()
            .map(|(name, resources)| granted((name.as_str(), resources.clone())))
            .collect(),
        generation,
        error,
    };
    match serde_json::to_string(&summary) {
        Ok(text) => format!("{what}: {text}"),
        Err(_) => what.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{at, pod};
    use serde_json::json;

    #[test]
    fn conditions_keep_what_they_began_with() {
        let mut conditions = ResizeConditions::default();
        assert!(conditions.wait("full", 2, at(1)));
        assert!(!conditions.wait("still full", 2, at(2)), "said already");
        assert!(conditions.wait("still full", 3, at(3)), "another wish");
        assert_eq!(conditions.pending.as_ref().unwrap().since, at(1));

        conditions.begin(3, at(4));
        assert_eq!(conditions.pending, None);
        assert_eq!(conditions.fail("busy", 4, at(5)), Some(3), "the generation stays");
        assert_eq!(conditions.fail("busy", 4, at(6)), None);
        conditions.go_on(4, at(7));
        let shown = serde_json::to_value(conditions.conditions()).unwrap();
        assert_eq!(
            shown,
            json!([{"type": "PodResizeInProgress", "status": "True", "reason": "Error", "message": "busy",
                "observedGeneration": 3, "lastProbeTime": seconds(at(5)), "lastTransitionTime": seconds(at(5))}])
        );
        let status = PodStatus {
            conditions: Some(conditions.conditions()),
            ..PodStatus::default()
        };
        assert_eq!(ResizeConditions::of(&status), conditions, "a restart finds them again");
        assert_eq!((conditions.end(), conditions.end()), (Some(3), None));
    }

    #[test]
    fn events_name_the_resources() {
        let pod = pod(json!({
            "initContainers": [{"name": "i", "resources": {"limits": {"cpu": "200m"}, "requests": {"cpu": "100m"}}}],
            "containers": [{"name": "c"}],
        }));
        assert_eq!(
            event_message("Pod resize completed", &pod, 2, ""),
            r#"Pod resize completed: {"initContainers":[{"name":"i","resources":{"limits":{"cpu":"200m"},"requests":{"cpu":"100m"}}}],"containers":[{"name":"c","resources":{}}],"generation":2}"#
        );
        assert!(event_message("Pod resize error", &pod, 2, "no").ends_with(r#","generation":2,"error":"no"}"#));
    }
}
