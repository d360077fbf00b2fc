//! Custom resources for the controllers that look at all resources: the kinds that definitions make, and their watches.
//!
//! Invariant: a custom resource is watched as long as its definition is established, in one version that is served: the stored one
//! where it is. One that is gone is forgotten, its view included.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::Value;
use trireme_api::Object;
use trireme_client::kinds::api_version;
use trireme_client::{Cache, Kinds, ResourceRef};
use trireme_resources::custom::status;

use crate::queue::Queue;
use crate::registration::Map;

/// A controller that is told of changes of custom resources.
pub(crate) struct Told {
    /// Whom a change concerns.
    pub(crate) map: Map,
    /// Its queue.
    pub(crate) queue: Weak<Queue>,
}

/// What a definition makes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Defined {
    kind: String,
    /// The resource in each served version, the one that is watched first.
    resources: Vec<ResourceRef>,
}

impl Defined {
    /// What an established definition makes; nothing where no version is served.
    fn of(definition: &Object) -> Option<Self> {
        let value = definition.value();
        if !status::is_true(&value["status"]["conditions"], status::ESTABLISHED) {
            return None;
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let spec = &value["spec"];
        let versions = spec["versions"].as_array().into_iter().flatten();
        let mut served: Vec<&Value> = versions.filter(|version| version["served"] == true).collect();
        served.sort_by_key(|version| version["storage"] != true);
        let resources: Vec<ResourceRef> = served
            .into_iter()
            .map(|version| ResourceRef {
                group: text(&spec["group"]).into(),
                version: text(&version["name"]).into(),
                plural: text(&spec["names"]["plural"]).into(),
                namespaced: spec["scope"] == "Namespaced",
            })
            .collect();
        (!resources.is_empty()).then(|| Self {
            kind: text(&value["status"]["acceptedNames"]["kind"]),
            resources,
        })
    }

    fn enter(&self, cache: &Arc<Cache>, kinds: &Kinds, told: &[Told]) {
        for (number, resource) in self.resources.iter().enumerate() {
            kinds.insert(&self.kind, resource.clone(), number == 0);
        }
        let Some(watched) = self.resources.first() else { return };
        for Told { map, queue } in told {
            let (map, queue, own) = (Arc::clone(map), Weak::clone(queue), Arc::downgrade(cache));
            cache.on_change(watched, move |change| {
                let (Some(queue), Some(cache)) = (queue.upgrade(), own.upgrade()) else {
                    return false;
                };
                for key in map(&cache, change) {
                    queue.add(key);
                }
                true
            });
        }
    }

    fn leave(&self, cache: &Cache, kinds: &Kinds) {
        for resource in &self.resources {
            kinds.remove(&api_version(resource), &self.kind);
        }
        if let Some(watched) = self.resources.first() {
            cache.forget(watched);
        }
    }
}

/// Follows definitions, without end.
pub(crate) async fn follow(cache: Arc<Cache>, kinds: Arc<Kinds>, told: Vec<Told>) {
    let mut changes = cache.subscribe(&[ResourceRef::of::<CustomResourceDefinition>()]);
    let mut known: HashMap<String, Defined> = HashMap::new();
    loop {
        let change = changes.next().await;
        let now = change.new.as_ref().and_then(Defined::of);
        if known.get(&change.name) == now.as_ref() {
            continue;
        }
        if let Some(before) = known.remove(&change.name) {
            before.leave(&cache, &kinds);
        }
        if let Some(now) = now {
            now.enter(&cache, &kinds, &told);
            known.insert(change.name, now);
        }
    }
}
