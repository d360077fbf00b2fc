//! Keeps one [`Store`] equal to the API: list, watch, list again when history is gone.
//!
//! Invariant: no event is lost between the list and the watch, since the watch starts at the list's revision.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use trireme_api::Status;

use crate::store::Store;
use crate::transport::{ListOptions, Transport, WatchEvent, WatchOptions};

const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// A watch that lasted longer than this was a good one.
const STEADY: Duration = Duration::from_secs(5);

/// Why a watch came to its end.
enum Ended {
    /// The server closed it: watch on from the last revision.
    Closed,
    /// History is gone: list again.
    Expired,
    /// Something else: pause first.
    Failed(Status),
}

pub(crate) async fn run(transport: Arc<dyn Transport>, store: Arc<Store>, options: ListOptions, shutdown: CancellationToken) {
    let work = follow(transport.as_ref(), &store, &options);
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = work => {}
    }
}

async fn follow(transport: &dyn Transport, store: &Store, options: &ListOptions) {
    let mut backoff = BACKOFF_MIN;
    loop {
        match transport.list(&store.resource, None, options).await {
            Ok(list) => {
                backoff = BACKOFF_MIN;
                store.replace(list.items, list.resource_version);
            }
            Err(status) => {
                tracing::debug!(resource = %store.resource.plural, code = status.code, "list failed: {status}");
                pause(&mut backoff).await;
                continue;
            }
        }
        loop {
            let begun = Instant::now();
            let ended = watch(transport, store, options).await;
            if begun.elapsed() > STEADY {
                backoff = BACKOFF_MIN;
            }
            match ended {
                Ended::Expired => break,
                Ended::Closed if begun.elapsed() > STEADY => {}
                Ended::Closed => pause(&mut backoff).await,
                Ended::Failed(status) => {
                    tracing::debug!(resource = %store.resource.plural, code = status.code, "watch failed: {status}");
                    pause(&mut backoff).await;
                }
            }
        }
    }
}

async fn watch(transport: &dyn Transport, store: &Store, options: &ListOptions) -> Ended {
    let options = WatchOptions {
        label_selector: options.label_selector.clone(),
        field_selector: options.field_selector.clone(),
        resource_version: store.now_at().revision,
    };
    let mut stream = match transport.watch(&store.resource, None, &options).await {
        Ok(stream) => stream,
        Err(status) => return ended(status),
    };
    while let Some(event) = stream.next().await {
        match event {
            Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)) => store.put(object),
            Ok(WatchEvent::Deleted(object)) => store.remove(&object),
            Ok(WatchEvent::Bookmark(revision)) => store.advance(revision, false),
            Err(status) => return ended(status),
        }
    }
    Ended::Closed
}

fn ended(status: Status) -> Ended {
    if status.code == 410 {
        Ended::Expired
    } else {
        Ended::Failed(status)
    }
}

async fn pause(backoff: &mut Duration) {
    tokio::time::sleep(backoff.mul_f64(1.0 + rand::random::<f64>())).await;
    *backoff = (*backoff * 2).min(BACKOFF_MAX);
}
