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
/// Longest pause before a server is looked for again: when one comes back, this is how long it takes to be noticed.
const UNREACHABLE_BACKOFF_MAX: Duration = Duration::from_secs(2);
/// Pause before a server is asked again that has not come as far as the one before it.
const BEHIND_PAUSE: Duration = Duration::from_millis(200);
/// A watch that lasted longer than this was a good one.
const STEADY: Duration = Duration::from_secs(5);

/// Why a watch came to its end.
enum Ended {
    /// The server closed it: watch on from the last revision.
    Closed,
    /// History is gone: list again.
    Expired,
    /// This server has not come as far as what was seen already: ask again soon. A list would travel back in time.
    Behind,
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
                pause_after(&status, &mut backoff).await;
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
                Ended::Behind => tokio::time::sleep(BEHIND_PAUSE).await,
                Ended::Closed if begun.elapsed() > STEADY => {}
                Ended::Closed => pause(&mut backoff).await,
                Ended::Failed(status) => {
                    tracing::debug!(resource = %store.resource.plural, code = status.code, "watch failed: {status}");
                    pause_after(&status, &mut backoff).await;
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
    match status.code {
        410 => Ended::Expired,
        504 if is_behind(&status) => Ended::Behind,
        _ => Ended::Failed(status),
    }
}

fn is_behind(status: &Status) -> bool {
    let causes = status.details.as_ref().map(|details| details.causes.as_slice());
    let mut causes = causes.unwrap_or_default().iter();
    causes.any(|cause| cause.reason == "ResourceVersionTooLarge")
}

async fn pause(backoff: &mut Duration) {
    tokio::time::sleep(backoff.mul_f64(1.0 + rand::random::<f64>())).await;
    *backoff = (*backoff * 2).min(BACKOFF_MAX);
}

async fn pause_after(status: &Status, backoff: &mut Duration) {
    if status.code == 0 {
        *backoff = (*backoff).min(UNREACHABLE_BACKOFF_MAX);
    }
    pause(backoff).await;
}
