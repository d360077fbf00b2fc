//! DaemonSets. Remembers where their pods failed, which no object says.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::Mutex;
use trireme_api::Object;
use trireme_client::{Cache, Change, ResourceRef};
use trireme_reconcile::daemon_set::backoff::Pauses;
use trireme_reconcile::daemon_set::{self, SeenNode, Snapshot};
use trireme_reconcile::ownership;

use super::suffix;
use crate::facts::counted_pods;
use crate::registration::{Context, Key, Registration, controllers_of};

/// Pauses after failed pods, by DaemonSet. No two workers have one key, so each takes out what it works with.
type Remembered = Arc<Mutex<HashMap<Key, Pauses>>>;

pub(super) fn registration() -> Registration {
    let remembered = Remembered::default();
    let forgetting = Arc::clone(&remembered);
    Registration::new(
        "daemonset",
        move |context, key| {
            let snapshot = snapshot(context, key);
            if snapshot.is_none() {
                forgetting.lock().remove(key);
            }
            snapshot
        },
        move |snapshot: &Snapshot, now| {
            let key = key_of(&snapshot.daemon_set.metadata);
            let mut pauses = remembered.lock().remove(&key).unwrap_or_default();
            let plan = daemon_set::reconcile(snapshot, &mut pauses, now, &mut suffix);
            if !pauses.is_empty() {
                remembered.lock().insert(key, pauses);
            }
            plan
        },
    )
    .component("daemonset-controller")
    .account("daemon-set-controller")
    .primary::<DaemonSet>()
    .controlled::<Pod, DaemonSet>()
    .watch::<Pod>(orphaned)
    .watch::<ControllerRevision>(changed_of_ours)
    .watch::<ControllerRevision>(orphaned)
    .watch::<Node>(all_if_placement_changed)
}

fn key_of(metadata: &ObjectMeta) -> Key {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    Key::new(text(&metadata.namespace), text(&metadata.name))
}

/// What has no controller may be adopted by whichever DaemonSet selects it.
fn orphaned(cache: &Cache, change: &Change) -> Vec<Key> {
    let Some(new) = &change.new else { return Vec::new() };
    if new.header().owners.iter().any(|owner| owner.controller) {
        return Vec::new();
    }
    let sets = cache.list::<DaemonSet>(Some(&change.namespace));
    let selecting = sets.iter().filter(|set| {
        let spec = set.spec.as_ref();
        spec.is_some_and(|spec| ownership::selects(&spec.selector, Some(&new.header().labels)))
    });
    selecting.map(|set| key_of(&set.metadata)).collect()
}

/// A revision that changes or goes concerns its DaemonSet. One that comes with its controller concerns nobody, as upstream
/// has it: it is the controller's own, or somebody's who shall see it for a while.
fn changed_of_ours(_: &Cache, change: &Change) -> Vec<Key> {
    if change.old.is_none() {
        return Vec::new();
    }
    controllers_of::<DaemonSet>(change)
}

/// A node that comes, goes, or changes its labels or taints may concern every DaemonSet; its heartbeats concern none.
fn all_if_placement_changed(cache: &Cache, change: &Change) -> Vec<Key> {
    if let (Some(old), Some(new)) = (&change.old, &change.new) {
        // As they stand: canonical bytes differ where the taints do.
        let taints = |node: &Object| node.raw_at(&["spec", "taints"]).map(<[u8]>::to_vec);
        if old.header().labels == new.header().labels && taints(old) == taints(new) {
            return Vec::new();
        }
    }
    let sets = cache.objects(&ResourceRef::of::<DaemonSet>(), None);
    sets.iter()
        .map(|set| Key::new(&set.header().namespace, &set.header().name))
        .collect()
}

fn snapshot(context: &Context, key: &Key) -> Option<Snapshot> {
    let cache = &context.cache;
    let daemon_set = cache.get::<DaemonSet>(&key.namespace, &key.name)?;
    let uid = daemon_set.metadata.uid.as_deref().unwrap_or_default();
    let selector = daemon_set.spec.as_ref().map(|spec| &spec.selector);
    // Owned ones, and such as nobody controls and it may adopt.
    let pods = counted_pods(cache, &key.namespace, |pod| {
        let header = pod.header();
        header.owners.iter().any(|owner| owner.uid == uid)
            || (ownership::controller_in(header).is_none()
                && selector.is_some_and(|selector| ownership::selects(selector, Some(&header.labels))))
    });
    Some(Snapshot {
        nodes: cache.read::<Node, _>(None, |_| true, SeenNode::of),
        revisions: cache.list::<ControllerRevision>(Some(&key.namespace)),
        pods,
        daemon_set,
    })
}
