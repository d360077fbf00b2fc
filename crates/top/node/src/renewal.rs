//! Renews certificates while they are in use: each hour every leaf is looked at, and one with less than a third of its
//! life left is made anew, written, and shown by all handshakes from then on.
//!
//! Invariant: a look does the same work whether or not anything is due, starting with the one at start; a leaf that
//! cannot be renewed stays in use and is tried again at the next look. It never replaces an authority.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio_util::sync::CancellationToken;
use trireme_client::Clock;

use crate::live::LiveIdentity;
use crate::pki::{Authority, Identity, Leaf, PkiError};

/// Time between two looks.
const INTERVAL: Duration = Duration::from_hours(1);

type FollowUp = Box<dyn Fn(&Identity) -> Result<()> + Send>;

/// The leaves of one authority below one directory.
pub struct Renewal {
    directory: PathBuf,
    authority: Arc<Authority>,
    leaves: Vec<Kept>,
}

struct Kept {
    leaf: Leaf,
    live: Arc<LiveIdentity>,
    follow_up: Option<FollowUp>,
    /// The follow-up has not succeeded with the present certificate.
    owed: bool,
}

impl Renewal {
    /// None yet.
    #[must_use]
    pub fn new(directory: PathBuf, authority: Arc<Authority>) -> Self {
        Self {
            directory,
            authority,
            leaves: Vec::new(),
        }
    }

    /// Loads a leaf, or makes it where it is absent or due, and keeps it from now on. Servers show their authority too, so
    /// that those who know only its hash can join.
    ///
    /// # Errors
    /// See [`PkiError`].
    pub fn keep(&mut self, leaf: Leaf, now: Duration) -> Result<Arc<LiveIdentity>, PkiError> {
        let identity = self.authority.leaf(&self.directory, &leaf, now)?;
        let live = LiveIdentity::new(identity, vec![self.authority.certificate().clone()])?;
        self.leaves.push(Kept {
            leaf,
            live: Arc::clone(&live),
            follow_up: None,
            owed: false,
        });
        Ok(live)
    }

    /// Does this after each renewal of a leaf, and again at every look until it succeeds.
    pub fn follow_up(&mut self, file: &str, follow_up: impl Fn(&Identity) -> Result<()> + Send + 'static) {
        let kept = self.leaves.iter_mut().find(|kept| kept.leaf.file == file);
        kept.expect("a leaf that is kept").follow_up = Some(Box::new(follow_up));
    }

    /// One look at all leaves; what failed is logged.
    pub fn check(&mut self, now: Duration) {
        for kept in &mut self.leaves {
            if let Err(error) = kept.check(&self.directory, &self.authority, now) {
                tracing::error!(
                    certificate = kept.leaf.file,
                    "cannot be renewed; tried again within the hour: {error:#}"
                );
            }
        }
    }

    /// Looks every hour until the end.
    pub async fn run(mut self, clock: Arc<dyn Clock>, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
            let now = Duration::from_millis(u64::try_from(clock.now().as_millisecond()).unwrap_or_default());
            // It reads files and may write some.
            let looked = tokio::task::spawn_blocking(move || {
                self.check(now);
                self
            });
            match looked.await {
                Ok(same) => self = same,
                Err(error) => {
                    tracing::error!("certificates are no longer renewed, restart the server: {error}");
                    return;
                }
            }
        }
    }
}

impl Kept {
    fn check(&mut self, directory: &std::path::Path, authority: &Authority, now: Duration) -> Result<()> {
        let identity = authority.leaf(directory, &self.leaf, now)?;
        if identity.certificate != self.live.identity().certificate {
            self.live.replace(identity)?;
            self.owed = self.follow_up.is_some();
            tracing::info!(certificate = self.leaf.file, "renewed; in use from now on");
        }
        if self.owed
            && let Some(follow_up) = &self.follow_up
        {
            follow_up(&self.live.identity()).context("renewed, but what depends on it is not")?;
            self.owed = false;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
