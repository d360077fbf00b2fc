//! Which pods are on which node, followed by a watch of the store.
//!
//! Invariant: it is a hint and decides nothing: it may lag, and who uses it looks at the pods themselves, and elsewhere before
//! saying that there is none.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::RwLock;
use trireme_api::Object;
use trireme_store::{EventKind, Store};

use crate::keys;

/// Keys of pods by the node's name.
#[derive(Default)]
pub(crate) struct Places(pub(crate) RwLock<HashMap<Box<str>, HashSet<Arc<str>>>>);

impl Places {
    /// Reads all pods and follows them from there on. Must be called within a tokio runtime; the task ends with the process.
    pub(crate) fn start(store: Arc<dyn Store>) -> Arc<Self> {
        let places = Arc::<Self>::default();
        let revision = places.read(store.as_ref());
        tokio::spawn(Arc::clone(&places).follow(store, revision));
        places
    }

    /// Takes what there is; the revision that it is of.
    fn read(&self, store: &dyn Store) -> u64 {
        let revision = store.revision();
        let prefix = keys::prefix("", "pods", None);
        self.0.write().clear();
        match store.range(&prefix, None, None, Some(revision)) {
            Ok(page) => page.items.iter().for_each(|(_, pod)| self.put(pod)),
            Err(error) => tracing::warn!(%error, "where pods are is not known yet"),
        }
        revision
    }

    async fn follow(self: Arc<Self>, store: Arc<dyn Store>, mut after: u64) {
        let prefix = keys::prefix("", "pods", None);
        loop {
            match store.watch(&prefix, after) {
                Ok(mut watch) => {
                    while let Ok(events) = watch.next().await {
                        for event in events {
                            match event.kind {
                                EventKind::Put => self.put(&event.object),
                                EventKind::Delete => self.remove(&event.object),
                            }
                        }
                    }
                }
                Err(error) => tracing::warn!(%error, "where pods are is read anew"),
            }
            after = self.read(store.as_ref());
        }
    }

    /// A pod that has a node keeps it for life.
    fn put(&self, pod: &Object) {
        let Some(node) = pod.text_at(&["spec", "nodeName"]).filter(|node| !node.is_empty()) else {
            return;
        };
        let key = key_of(pod);
        // Most events are of a pod that is known: who looks for pods need not wait for them.
        if self.0.read().get(&*node).is_some_and(|pods| pods.contains(&*key)) {
            return;
        }
        let mut nodes = self.0.write();
        match nodes.get_mut(&*node) {
            Some(pods) => {
                pods.insert(key.into());
            }
            None => {
                nodes.insert((&*node).into(), HashSet::from([key.into()]));
            }
        }
    }

    fn remove(&self, pod: &Object) {
        let Some(node) = pod.text_at(&["spec", "nodeName"]) else {
            return;
        };
        let mut nodes = self.0.write();
        if let Some(pods) = nodes.get_mut(&*node) {
            pods.remove(&*key_of(pod));
            if pods.is_empty() {
                nodes.remove(&*node);
            }
        }
    }
}

fn key_of(pod: &Object) -> String {
    let header = pod.header();
    format!("{}{}", keys::prefix("", "pods", Some(&header.namespace)), header.name)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_is_where_it_was_bound_until_it_is_gone() {
        let pod = |namespace: &str, node: &str| {
            let value = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": namespace, "uid": "u",
                "resourceVersion": "1"}, "spec": {"nodeName": node}});
            Object::from_value(&value).unwrap()
        };
        let places = Places::default();
        let known = |node: &str| {
            let nodes = places.0.read();
            let mut keys: Vec<String> = nodes.get(node).into_iter().flatten().map(|key| key.to_string()).collect();
            keys.sort();
            keys
        };
        places.put(&pod("a", ""));
        assert!(places.0.read().is_empty());
        for _ in 0..2 {
            places.put(&pod("a", "n1"));
            places.put(&pod("b", "n1"));
            places.put(&pod("c", "n2"));
        }
        assert_eq!(known("n1"), ["/pods/a/p", "/pods/b/p"]);
        places.remove(&pod("a", "n1"));
        places.remove(&pod("c", "n1"));
        assert_eq!(
            (known("n1"), known("n2")),
            (vec!["/pods/b/p".to_owned()], vec!["/pods/c/p".to_owned()])
        );
        places.remove(&pod("b", "n1"));
        assert!(!places.0.read().contains_key("n1"));
    }
}
