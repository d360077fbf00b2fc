//! Work inside another network namespace.
//!
//! Invariant: a thread that has entered another namespace does that one piece of work and ends; it never goes back to a pool.

use std::fs::File;
use std::future::Future;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::sched::{CloneFlags, setns};
use tokio::sync::oneshot;

use crate::NetworkError;
use crate::links::Links;

/// Opens a namespace by its path.
pub(crate) fn open(path: &Path) -> Result<OwnedFd, NetworkError> {
    let file = File::open(path).map_err(|source| NetworkError::Namespace {
        path: path.to_owned(),
        source,
    })?;
    Ok(file.into())
}

/// Runs work with the links of another namespace, on a thread of its own.
pub(crate) async fn within<T, F, R>(path: &Path, work: F) -> Result<T, NetworkError>
where
    T: Send + 'static,
    F: FnOnce(Links) -> R + Send + 'static,
    R: Future<Output = Result<T, NetworkError>>,
{
    let namespace = open(path)?;
    let path = path.to_owned();
    let (sender, receiver) = oneshot::channel();
    let run = move || -> Result<T, NetworkError> {
        let enter = setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET);
        enter.map_err(|errno| NetworkError::Namespace {
            path: path.clone(),
            source: errno.into(),
        })?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|source| NetworkError::Namespace { path, source })?;
        runtime.block_on(async { work(Links::open()?).await })
    };
    let body = move || {
        if sender.send(run()).is_err() {
            tracing::debug!("nobody waits for work in a network namespace any more");
        }
    };
    let thread = std::thread::Builder::new().name("netns".to_owned()).spawn(body);
    thread.map_err(|source| NetworkError::kernel("start a thread", source))?;
    receiver.await.map_err(|_| NetworkError::Lost)?
}
