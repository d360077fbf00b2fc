//! From pods of the API to one worker each, and what nobody owns any more.
//!
//! Invariant: there is one worker per pod UID; a pod of the same namespace and name begins when its predecessor is gone
//! from this node.

mod convert;
mod kill;
mod observe;
mod orphans;
mod publish;
pub(crate) mod resize;
mod start;
mod worker;

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tokio::sync::{Notify, broadcast, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trireme_api::Object;
use trireme_client::{EventType, ListOptions, Regarding, ResourceRef};
use trireme_pod::spec;

use crate::shared::Shared;

/// What a worker is told of its pod.
#[derive(Clone)]
pub(crate) struct Update {
    pub(crate) object: Object,
    pub(crate) pod: Arc<Pod>,
    /// The API does not have it any more.
    pub(crate) gone: bool,
}

struct Handle {
    name: (String, String),
    update: watch::Sender<Update>,
    wake: Arc<Notify>,
    done: watch::Receiver<bool>,
}

struct Manager {
    shared: Arc<Shared>,
    workers: HashMap<String, Handle>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// Runs the node's pods until `shutdown`.
pub(crate) async fn run(shared: Arc<Shared>, shutdown: CancellationToken) {
    let pods = ResourceRef::of::<Pod>();
    if shared.config.own_pods_only {
        let mine = ListOptions {
            field_selector: Some(format!("spec.nodeName={}", shared.config.node_name)),
            ..ListOptions::default()
        };
        shared.cache.ensure_selected(&pods, mine);
    }
    let mut changes = shared.cache.subscribe(std::slice::from_ref(&pods));
    let mut events = shared.runtime.subscribe();
    let mut manager = Manager {
        shared: Arc::clone(&shared),
        workers: HashMap::new(),
        tasks: TaskTracker::new(),
        shutdown: shutdown.clone(),
    };
    let needed = [pods, ResourceRef::of::<Service>()];
    tokio::select! {
        () = shutdown.cancelled() => return,
        () = shared.cache.synced(&needed) => {}
    }
    while let Some(change) = changes.try_next() {
        manager.changed(change.old.as_ref(), change.new.as_ref());
    }
    let clean = orphans::clean(Arc::clone(&shared), manager.workers.keys().cloned().collect());
    let ending = shutdown.clone();
    manager.tasks.spawn(async move {
        tokio::select! {
            () = clean => {}
            () = ending.cancelled() => {}
        }
    });
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            change = changes.next() => manager.changed(change.old.as_ref(), change.new.as_ref()),
            event = events.recv() => match event {
                Ok(event) => manager.wake(&event.pod_uid),
                Err(broadcast::error::RecvError::Lagged(_)) => manager.wake_all(),
                Err(broadcast::error::RecvError::Closed) => {
                    tracing::error!("the runtime's events have ended");
                    break;
                }
            },
        }
    }
    manager.tasks.close();
    manager.tasks.wait().await;
}

impl Manager {
    fn changed(&mut self, old: Option<&Object>, new: Option<&Object>) {
        let new = new.filter(|object| self.is_mine(object));
        if let Some(old) = old
            && new.is_none_or(|new| new.header().uid != old.header().uid)
            && let Some(handle) = self.workers.get(&old.header().uid)
        {
            handle.update.send_modify(|update| {
                update.gone = true;
                if let Ok(pod) = old.typed::<Pod>() {
                    update.object = old.clone();
                    update.pod = pod;
                }
            });
        }
        self.workers.retain(|_, handle| !*handle.done.borrow());
        if let Some(object) = new {
            self.updated(object);
        }
    }

    fn is_mine(&self, object: &Object) -> bool {
        // Also of one that cannot be read, which is told of by the node that it is on.
        let node = object.text_at(&["spec", "nodeName"]);
        node.as_deref() == Some(self.shared.config.node_name.as_str())
    }

    /// Tells of a pod that cannot be read. What runs of it goes on as it was last known, and ends when the pod does.
    fn unreadable(&self, object: &Object, why: &serde_json::Error) {
        let header = object.header();
        tracing::error!(?object, "a pod cannot be read: {why}");
        let regarding = Regarding {
            api_version: header.api_version.clone(),
            kind: header.kind.clone(),
            namespace: header.namespace.clone(),
            name: header.name.clone(),
            uid: header.uid.clone(),
            resource_version: header.resource_version.to_string(),
            field_path: String::new(),
        };
        let message = format!("the kubelet cannot read the pod: {why}");
        self.shared
            .recorder
            .record(regarding, EventType::Warning, "FailedSync", message);
        if let Some(handle) = self.workers.get(&header.uid).filter(|_| header.deleting) {
            handle.update.send_modify(|update| {
                let mut pod = (*update.pod).clone();
                pod.metadata.deletion_timestamp.get_or_insert(Time(Timestamp::now()));
                update.pod = Arc::new(pod);
            });
        }
    }

    fn updated(&mut self, object: &Object) {
        let pod = match object.typed::<Pod>() {
            Ok(pod) => pod,
            Err(error) => return self.unreadable(object, &error),
        };
        let uid = spec::uid(&pod).to_owned();
        let update = Update {
            object: object.clone(),
            pod: Arc::clone(&pod),
            gone: false,
        };
        if let Some(handle) = self.workers.get(&uid) {
            handle.update.send_replace(update);
            return;
        }
        let name = (spec::namespace(&pod).to_owned(), spec::name(&pod).to_owned());
        let before = self
            .workers
            .values()
            .filter(|handle| handle.name == name)
            .map(|handle| handle.done.clone())
            .collect();
        let (sender, receiver) = watch::channel(update);
        let (done, finished) = watch::channel(false);
        let wake = Arc::new(Notify::new());
        self.shared.allocations.expect(&pod, &wake);
        let worker = worker::Worker::new(Arc::clone(&self.shared), receiver, Arc::clone(&wake), self.shutdown.clone());
        self.tasks.spawn(async move {
            wait_for_all(before).await;
            worker.run().await;
            done.send_replace(true);
        });
        self.workers.insert(
            uid,
            Handle {
                name,
                update: sender,
                wake,
                done: finished,
            },
        );
    }

    fn wake(&self, uid: &str) {
        if let Some(handle) = self.workers.get(uid) {
            handle.wake.notify_one();
        }
    }

    fn wake_all(&self) {
        for handle in self.workers.values() {
            handle.wake.notify_one();
        }
    }
}

async fn wait_for_all(before: Vec<watch::Receiver<bool>>) {
    for mut earlier in before {
        // A sender that is gone means that its worker is, too.
        if earlier.wait_for(|done| *done).await.is_err() {
            tracing::debug!("an earlier worker ended without a word");
        }
    }
}
