//! GET of one object.
//!
//! Invariant: without `resourceVersion` the answer is as new as the newest acknowledged write; the stored bytes are
//! served unless another version than the stored one is asked for.

use std::time::Duration;

use trireme_api::{Object, Status, StatusCause, StatusDetails};

use super::{Target, options};
use crate::server::ApiServer;

/// How long a read waits for a resourceVersion that has not happened yet.
pub const FRESH_WAIT: Duration = Duration::from_secs(3);

impl ApiServer {
    /// The object, at least as new as `resource_version` asks.
    ///
    /// # Errors
    /// 404, or 504 where the revision lies in the future.
    pub async fn get(&self, target: &Target, resource_version: &str) -> Result<Object, Status> {
        match resource_version {
            "" => self.barrier().await?,
            "0" => {}
            text => {
                let revision = options::revision(text).map_err(|why| Status {
                    reason: String::new(),
                    ..Status::failure(500, "", why)
                })?;
                self.wait_for(revision).await?;
            }
        }
        let object = self.store.get(&target.key()).ok_or_else(|| target.not_found())?;
        let written = object.header().resource_version;
        self.shown(target, object, written).await
    }

    /// Waits until the replica has a revision, but not for long.
    pub(crate) async fn wait_for(&self, revision: u64) -> Result<(), Status> {
        if self.store.revision() >= revision {
            return Ok(());
        }
        // A revision that another server has acknowledged arrives within the barrier.
        self.barrier().await?;
        if tokio::time::timeout(FRESH_WAIT, self.store.reached(revision)).await.is_ok() {
            return Ok(());
        }
        Err(too_large(revision, self.store.revision()))
    }
}

/// 504: a resourceVersion in the future.
#[must_use]
pub fn too_large(asked: u64, current: u64) -> Status {
    let text = format!("Timeout: Too large resource version: {asked}, current: {current}");
    Status::failure(504, "Timeout", text).with_details(StatusDetails {
        causes: vec![StatusCause {
            reason: "ResourceVersionTooLarge".into(),
            message: "Too large resource version".into(),
            field: String::new(),
        }],
        retry_after_seconds: 1,
        ..StatusDetails::default()
    })
}
