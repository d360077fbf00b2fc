//! A store without consensus and disk, for the tests of others. Nothing survives it, and nothing expires or is compacted
//! unless a test says so by a command. It leads in term 1.

use std::sync::Arc;

use async_trait::async_trait;
use trireme_api::Object;
use trireme_mvcc::{Applied, Command, Page, ReadError, Revision, State};

use crate::replica::Replica;
use crate::{Store, Watch, WriteError};

/// The state machine alone, as a [`Store`].
#[derive(Debug)]
pub struct MemoryStore {
    replica: Arc<Replica>,
}

impl MemoryStore {
    /// An empty store at revision 1.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let replica = Arc::new(Replica::new(State::new()));
        Arc::new(Self { replica })
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn commit(&self, command: Command) -> Result<Applied, WriteError> {
        let mut answers = self.replica.apply([(&command, 1)]);
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
        self.replica.watch(prefix, None, after)
    }

    fn watch_topic(&self, prefix: &str, topic: &str, after: Revision) -> Result<Box<dyn Watch>, ReadError> {
        self.replica.watch(prefix, Some(topic), after)
    }

    fn revision(&self) -> Revision {
        self.replica.revision()
    }

    async fn reached(&self, revision: Revision) {
        self.replica.reached(revision).await;
    }
}
