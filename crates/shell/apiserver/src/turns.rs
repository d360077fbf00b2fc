//! Turns of nodes' requests: which of them are worked on, and which wait.
//!
//! Invariant: a node has at most its share of the turns, and of the places in which requests wait, whatever it sends and however
//! slowly. So the others go on beside one that holds all it may have
//! (`one_node_that_sends_slowly_holds_up_no_other`), and of those who wait for a turn no node has more than its share.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

/// Requests of nodes that are worked on at once, for each processor; the others wait for their turn. When thousands of pods
/// start, their kubelets ask for more than there are processors for: what is worked on for them all at once would hold up the
/// pods that are to follow, and who is told to come again comes again too soon and makes it worse.
const TURNS_EACH: usize = 32;
/// Of these, the ones of one node: an eighth.
const SHARES: usize = 8;
/// Requests of nodes that are here at once, at work or waiting; more are told to come again.
pub const NODE_REQUESTS_MAX: usize = 20_000;
/// Of these, the ones of one node: several for each pod that it can have.
pub const ONE_NODES_REQUESTS_MAX: usize = 1_000;

/// Who of the nodes' requests is worked on.
pub(crate) struct NodeRequests {
    here: Semaphore,
    turns: Semaphore,
    share: usize,
    /// Of the nodes that have requests here, by their user's name.
    nodes: Mutex<HashMap<Arc<str>, OfNode>>,
}

/// What one node has here.
struct OfNode {
    requests: usize,
    turns: Arc<Semaphore>,
}

/// A turn. It lasts until it is dropped.
pub(crate) struct Turn<'a> {
    _turn: SemaphorePermit<'a>,
    _own: OwnedSemaphorePermit,
    _place: Place<'a>,
}

/// A place among those who are here.
struct Place<'a> {
    all: &'a NodeRequests,
    node: Arc<str>,
    _here: SemaphorePermit<'a>,
}

impl NodeRequests {
    pub(crate) fn new() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            here: Semaphore::new(NODE_REQUESTS_MAX),
            turns: Semaphore::new(processors * TURNS_EACH),
            share: processors * TURNS_EACH / SHARES,
            nodes: Mutex::default(),
        }
    }

    /// Waits for a turn; `None` where too many are here already, of all nodes or of this one.
    pub(crate) async fn turn(&self, node: &str) -> Option<Turn<'_>> {
        let (place, own) = self.place(node)?;
        // First its own, so that it waits among the others with no more than its share.
        let own = own.acquire_owned().await.ok()?;
        Some(Turn {
            _turn: self.turns.acquire().await.ok()?,
            _own: own,
            _place: place,
        })
    }

    fn place(&self, node: &str) -> Option<(Place<'_>, Arc<Semaphore>)> {
        let here = self.here.try_acquire().ok()?;
        let mut nodes = self.nodes.lock();
        let name = nodes
            .get_key_value(node)
            .map_or_else(|| Arc::from(node), |(name, _)| Arc::clone(name));
        let of_node = nodes.entry(Arc::clone(&name)).or_insert_with(|| OfNode {
            requests: 0,
            turns: Arc::new(Semaphore::new(self.share)),
        });
        if of_node.requests >= ONE_NODES_REQUESTS_MAX {
            return None;
        }
        of_node.requests += 1;
        let turns = Arc::clone(&of_node.turns);
        drop(nodes);
        let place = Place {
            all: self,
            node: name,
            _here: here,
        };
        Some((place, turns))
    }

    /// How many nodes have requests here.
    #[cfg(test)]
    pub(crate) fn nodes(&self) -> usize {
        self.nodes.lock().len()
    }

    /// How many turns one node may have.
    #[cfg(test)]
    pub(crate) fn share(&self) -> usize {
        self.share
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Entry::Occupied(mut held) = self.all.nodes.lock().entry(Arc::clone(&self.node)) {
            held.get_mut().requests -= 1;
            if held.get().requests == 0 {
                held.remove();
            }
        }
    }
}
