//! Reading one's own writes: before a key is reconciled, the cache must have come as far as what any controller of this
//! process wrote to the resources that the controller reads.
//!
//! This takes the place of upstream's expectations: a controller that made three pods cannot see two of them and make
//! another.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use parking_lot::Mutex;
use trireme_api::Object;
use trireme_client::{Cache, ResourceRef};

/// How long a cache may lag behind before the key is put back with back-off.
const LAG_MAX: Duration = Duration::from_secs(30);

/// What was written and may not have come back yet.
#[derive(Default)]
pub struct Written(Mutex<HashMap<ResourceRef, Pending>>);

#[derive(Default)]
struct Pending {
    revision: u64,
    gone: HashSet<String>,
}

impl Written {
    /// An object was written; this is the API's answer.
    pub fn wrote(&self, resource: &ResourceRef, answer: &Object) {
        let mut pending = self.0.lock();
        let pending = pending.entry(resource.clone()).or_default();
        pending.revision = pending.revision.max(answer.header().resource_version);
    }

    /// An object was deleted and nothing held it.
    pub fn removed(&self, resource: &ResourceRef, uid: &str) {
        self.0.lock().entry(resource.clone()).or_default().gone.insert(uid.to_owned());
    }

    /// Waits until the cache shows all that was written to these resources until now. False when it took too long.
    pub async fn seen<'a>(&self, cache: &Cache, resources: impl Iterator<Item = &'a ResourceRef>) -> bool {
        let due: Vec<(ResourceRef, u64, Vec<String>)> = {
            let pending = self.0.lock();
            resources
                .filter_map(|resource| {
                    let due = pending.get(resource)?;
                    let late = due.revision > cache.revision(resource) || !due.gone.is_empty();
                    late.then(|| (resource.clone(), due.revision, due.gone.iter().cloned().collect()))
                })
                .collect()
        };
        if due.is_empty() {
            return true;
        }
        let wait = async {
            for (resource, revision, gone) in &due {
                cache.wait_revision(resource, *revision).await;
                for uid in gone {
                    cache.wait_gone(resource, uid).await;
                    if let Some(pending) = self.0.lock().get_mut(resource) {
                        pending.gone.remove(uid);
                    }
                }
            }
        };
        let seen = tokio::time::timeout(LAG_MAX, wait).await.is_ok();
        if !seen {
            // What does not come within this time never will; going on by preconditions beats standing still.
            let mut pending = self.0.lock();
            for (resource, revision, gone) in &due {
                if let Some(pending) = pending.get_mut(resource) {
                    pending.gone.retain(|uid| !gone.contains(uid));
                    if pending.revision == *revision {
                        pending.revision = 0;
                    }
                }
            }
        }
        seen
    }
}
