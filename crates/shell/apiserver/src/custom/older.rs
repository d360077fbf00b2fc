//! Which stored custom resources differ from what the schemas of today make of them.
//!
//! Invariant: nobody looks unless objects are read that may differ, and then once for a schema: of most definitions that change
//! no object differs, and what they store is then served as it is, like all else. What differs stays as it is stored.

use std::sync::Arc;
use std::time::Duration;

use trireme_resources::Resource;
use trireme_resources::custom::{Form, Registry};
use trireme_store::Store;

use crate::keys;

/// How often is asked whether somebody should look.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(60);
/// How long after a look history shows nothing any more that was replaced before it.
const HISTORY: Duration = Duration::from_secs(360);
/// How many objects are looked at before others have their turn.
const CHUNK: usize = 64;

/// Begins to look at the objects of all versions of which some were read that may differ.
pub(super) fn look(store: &Arc<dyn Store>, registry: &Registry) {
    for (stored, forms) in registry.forms() {
        for (index, form) in forms.iter().enumerate() {
            if form.asks() {
                tokio::spawn(settle(Arc::clone(store), stored, Arc::clone(forms), index));
            }
        }
    }
}

/// Finds the newest object that differs and, once nobody can read what was there before, says so.
async fn settle(store: Arc<dyn Store>, stored: &'static Resource, forms: Arc<[Form]>, index: usize) {
    let form = &forms[index];
    match newest_that_differs(&store, stored, form).await {
        Some(newest) => {
            tokio::time::sleep(HISTORY).await;
            form.settled_after(newest);
        }
        None => form.not_seen(),
    }
}

/// The revision of the newest object of a form that differs from what its schema makes of it, 0 where none does; nothing where
/// history went on before all were seen.
async fn newest_that_differs(store: &Arc<dyn Store>, stored: &Resource, form: &Form) -> Option<u64> {
    let prefix = keys::prefix(stored.group, stored.plural, (!stored.namespaced).then_some(""));
    let (revision, mut newest, mut after) = (store.revision(), 0, None::<String>);
    loop {
        let page = store.range(&prefix, after.as_deref(), Some(CHUNK), Some(revision)).ok()?;
        for (_, object) in &page.items {
            let header = object.header();
            let is_of_form = header
                .api_version
                .rsplit_once('/')
                .is_some_and(|(_, version)| version == form.version());
            if header.resource_version <= newest || !is_of_form {
                continue;
            }
            let before = object.value();
            let mut value = before.clone();
            if form.read(&mut value, header.resource_version) && value != before {
                newest = header.resource_version;
            }
        }
        match page.items.last() {
            Some((key, _)) if page.remaining > 0 => after = Some(key.to_string()),
            _ => return Some(newest),
        }
        tokio::task::yield_now().await;
    }
}
