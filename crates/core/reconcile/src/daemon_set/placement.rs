//! On which nodes a DaemonSet's pod belongs, and what the pod made for one of them looks like. The scheduler does the
//! rest: the pod asks for its node by a required node affinity.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{
    Affinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, PodTemplateSpec, Toleration,
};
use trireme_api::fit::{self, Requirement};

use super::SeenNode;
use crate::history::REVISION_LABEL;
use crate::pods::{CountedPod, tolerates};

/// The annotation of a DaemonSet that counts the changes of its template.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";
/// The label of a pod that holds that count as it was when the pod was made.
const GENERATION_LABEL: &str = "pod-template-generation";
/// What every daemon pod tolerates: taints of conditions under which it is needed all the same.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
/// What a daemon pod in its node's network tolerates besides.
const TOLERATED_BY_HOST_NETWORK: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

/// Whether a pod belongs on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fit {
    /// One is to be started there where there is none.
    pub run: bool,
    /// One that is there may stay.
    pub stay: bool,
}

/// Where the pods of a DaemonSet belong.
#[derive(Debug)]
pub struct Placement {
    /// Its template's spec with the tolerations of daemons.
    spec: PodSpec,
}

impl Placement {
    /// Of a DaemonSet.
    #[must_use]
    pub fn of(set: &DaemonSet) -> Self {
        let template = set.spec.as_ref().and_then(|spec| spec.template.spec.clone());
        let mut spec = template.unwrap_or_default();
        tolerate(&mut spec);
        Self { spec }
    }

    /// Whether a pod belongs on a node.
    #[must_use]
    pub fn fit(&self, node: &SeenNode) -> Fit {
        let nowhere = Fit { run: false, stay: false };
        let name = node.name();
        let fixed = self.spec.node_name.as_deref().unwrap_or_default();
        if !(fixed.is_empty() || fixed == name) || !self.selects(node) {
            return nowhere;
        }
        let mut fit = Fit { run: true, stay: true };
        for taint in node.taints() {
            let hard = matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute");
            let mut tolerations = self.spec.tolerations.iter().flatten();
            if hard && !tolerations.any(|toleration| tolerates(toleration, taint)) {
                fit.run = false;
                fit.stay &= taint.effect != "NoExecute";
            }
        }
        fit
    }

    /// `nodeSelector` and required node affinity.
    fn selects(&self, node: &SeenNode) -> bool {
        let label = |key: &str| node.label(key);
        let mut wanted = self.spec.node_selector.iter().flatten();
        let affinity = self
            .spec
            .affinity
            .as_ref()
            .and_then(|affinity| affinity.node_affinity.as_ref());
        let required = affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
        wanted.all(|(key, value)| label(key) == Some(value))
            && required.is_none_or(|required| {
                required.node_selector_terms.iter().any(|term| {
                    let labels = term.match_expressions.iter().flatten().map(requirement);
                    let fields = term.match_fields.iter().flatten().map(requirement);
                    fit::term_matches(labels, fields, node.name(), label)
                })
            })
    }
}

fn requirement(requirement: &NodeSelectorRequirement) -> Requirement<'_> {
    Requirement {
        key: &requirement.key,
        operator: &requirement.operator,
        values: requirement.values.as_deref().unwrap_or_default(),
    }
}

/// Adds what daemons tolerate. A toleration of the same key, operator, value and effect gives way, whatever its time.
fn tolerate(spec: &mut PodSpec) {
    let network = (spec.host_network == Some(true)).then_some(TOLERATED_BY_HOST_NETWORK);
    for (key, effect) in TOLERATED.into_iter().chain(network) {
        let wanted = Toleration {
            key: Some(key.into()),
            operator: Some("Exists".into()),
            effect: Some(effect.into()),
            ..Toleration::default()
        };
        let all = spec.tolerations.get_or_insert_default();
        let mut found = false;
        for held in all.iter_mut() {
            let valueless = held.value.as_deref().unwrap_or_default().is_empty();
            if held.key == wanted.key && held.operator == wanted.operator && held.effect == wanted.effect && valueless {
                *held = wanted.clone();
                found = true;
            }
        }
        if !found {
            all.push(wanted);
        }
    }
}

/// The count of changes of a DaemonSet's template; nothing where it is absent or no number.
fn template_generation(set: &DaemonSet) -> Option<i64> {
    set.metadata.annotations.as_ref()?.get(TEMPLATE_GENERATION)?.parse().ok()
}

/// The template of the pods of a revision, but for their node.
#[must_use]
pub fn template(set: &DaemonSet, hash: &str) -> PodTemplateSpec {
    let mut template = set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    tolerate(template.spec.get_or_insert_default());
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    if let Some(generation) = template_generation(set) {
        labels.insert(GENERATION_LABEL.into(), generation.to_string());
    }
    if !hash.is_empty() {
        labels.insert(REVISION_LABEL.into(), hash.into());
    }
    template
}

/// Has the scheduler put a pod of this template onto a node and nowhere else. Other required terms go: the node satisfies
/// them already.
#[must_use]
pub fn pinned(mut template: PodTemplateSpec, node: &str) -> PodTemplateSpec {
    let spec = template.spec.get_or_insert_default();
    let affinity: &mut Affinity = spec.affinity.get_or_insert_default();
    let required = &mut affinity
        .node_affinity
        .get_or_insert_default()
        .required_during_scheduling_ignored_during_execution;
    *required = Some(NodeSelector {
        node_selector_terms: vec![NodeSelectorTerm {
            match_expressions: None,
            match_fields: Some(vec![NodeSelectorRequirement {
                key: "metadata.name".into(),
                operator: "In".into(),
                values: Some(vec![node.into()]),
            }]),
        }],
    });
    template
}

/// The node that a pod is on or asks for; nothing where it asks for none or for several.
#[must_use]
pub fn target(pod: &CountedPod) -> Option<&str> {
    let facts = pod.facts();
    if facts.node.is_empty() {
        facts.asks_for.as_deref()
    } else {
        Some(&facts.node)
    }
}

/// The hash of the revision that a pod was made of.
#[must_use]
pub fn hash_of(labels: Option<&BTreeMap<String, String>>) -> &str {
    labels
        .and_then(|labels| labels.get(REVISION_LABEL))
        .map_or("", String::as_str)
}

/// Whether a pod was made of the present template: by its revision's hash, or by the count of changes.
#[must_use]
pub fn is_updated(set: &DaemonSet, pod: &CountedPod, hash: &str) -> bool {
    let labels = &pod.header().labels;
    let counted = template_generation(set).map(|generation| generation.to_string());
    let by_count = counted.is_some() && labels.get(GENERATION_LABEL) == counted.as_ref();
    by_count || (!hash.is_empty() && hash_of(Some(labels)) == hash)
}
