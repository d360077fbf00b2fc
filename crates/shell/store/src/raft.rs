//! The replicated store (the log on disk comes with the next change; until then this keeps everything in memory).

use std::sync::Arc;

use async_trait::async_trait;
use trireme_api::Object;
use trireme_mvcc::{Applied, Command, Page, ReadError, Revision, State};

use crate::replica::Replica;
use crate::{OpenError, Store, StoreConfig, Watch, WriteError};

/// A member of the replicated store.
#[derive(Debug)]
pub struct RaftStore {
    replica: Arc<Replica>,
}

impl RaftStore {
    /// Opens or makes the store in a directory, and returns once it can be read and written.
    ///
    /// # Errors
    /// When the directory is in use, damaged, full or not accessible.
    pub async fn open(config: StoreConfig) -> Result<Arc<Self>, OpenError> {
        std::fs::create_dir_all(&config.data_dir).map_err(|source| OpenError::Io {
            path: config.data_dir.clone(),
            source,
        })?;
        let replica = Arc::new(Replica::new(State::new()));
        Ok(Arc::new(Self { replica }))
    }

    /// Stops consensus and closes the log. Writes from now on are `Unavailable`; reads go on.
    pub async fn shutdown(&self) {}
}

#[async_trait]
impl Store for RaftStore {
    async fn commit(&self, command: Command) -> Result<Applied, WriteError> {
        let mut answers = self.replica.apply([&command]);
        Ok(answers.pop().expect("one command has one answer"))
    }

    async fn barrier(&self) -> Result<Revision, WriteError> {
        Ok(self.revision())
    }

    fn get(&self, key: &str) -> Option<Object> {
        self.replica.get(key)
    }

    fn range(&self, prefix: &str, after: Option<&str>, limit: Option<usize>, at: Option<Revision>) -> Result<Page, ReadError> {
        self.replica.range(prefix, after, limit, at)
    }

    fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watch>, ReadError> {
        self.replica.watch(prefix, after)
    }

    fn revision(&self) -> Revision {
        self.replica.revision()
    }

    async fn reached(&self, revision: Revision) {
        self.replica.reached(revision).await;
    }
}
