//! A node as it matters to where daemons belong: its header, and its taints, which are read from its bytes once per revision.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Taint;
use trireme_api::Object;
use trireme_api::facts::{Facts, Held};

/// What a node's header does not say of it.
#[derive(Debug)]
pub struct NodeFacts {
    /// `spec.taints`.
    pub taints: Vec<Taint>,
}

/// A node with its facts. Cloning is two reference counts.
#[derive(Clone, Debug)]
pub struct SeenNode {
    object: Object,
    facts: Arc<Held<NodeFacts>>,
}

impl SeenNode {
    /// A node's header and facts.
    ///
    /// # Errors
    /// When its taints are none.
    pub fn of(object: &Object) -> Result<Self, serde_json::Error> {
        Ok(Self {
            facts: object.facts()?,
            object: object.clone(),
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.object.header().name
    }

    /// One of its labels.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        self.object.header().labels.get(key).map(String::as_str)
    }

    /// Its taints.
    #[must_use]
    pub fn taints(&self) -> &[Taint] {
        &self.facts.taints
    }
}

impl Facts for NodeFacts {
    fn read(object: &Object) -> Result<Self, serde_json::Error> {
        let taints = object.raw_at(&["spec", "taints"]).unwrap_or(b"null");
        let taints: Option<Vec<Taint>> = serde_json::from_slice(taints)?;
        Ok(Self {
            taints: taints.unwrap_or_default(),
        })
    }

    fn weight_beside(&self) -> usize {
        let texts = |taint: &Taint| taint.key.len() + taint.value.as_ref().map_or(0, String::len) + taint.effect.len();
        size_of_val(&*self.taints) + self.taints.iter().map(texts).sum::<usize>()
    }
}
