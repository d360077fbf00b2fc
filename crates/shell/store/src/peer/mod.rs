//! How members talk to each other: over streams that somebody else makes and secures.

mod link;
mod requests;
mod serve;
mod wire;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};

pub(crate) use link::{CallError, Link};
pub(crate) use requests::{Change, read_append_answer};
pub(crate) use serve::serve;
pub(crate) use wire::Failure;

use crate::Member;

/// A connection to a peer, authenticated and encrypted (or not) by whoever made it.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Connects to peers.
#[async_trait]
pub trait PeerDialer: Send + Sync + 'static {
    /// A new connection to a member, which is proved to be that member.
    ///
    /// # Errors
    /// `ConnectionRefused` only when the member's host answered and nobody listens there: its process is gone.
    async fn connect(&self, member: &Member) -> io::Result<Box<dyn Stream>>;
}

/// Dials members where they are by now: consensus goes on with the addresses that it once began with.
struct Latest {
    dialer: Arc<dyn PeerDialer>,
    /// By id, and the log index of the change of members that they are of.
    members: Mutex<(HashMap<u64, Member>, Option<u64>)>,
}

#[async_trait]
impl PeerDialer for Latest {
    async fn connect(&self, member: &Member) -> io::Result<Box<dyn Stream>> {
        let latest = self.members.lock().0.get(&member.id).cloned();
        self.dialer.connect(latest.as_ref().unwrap_or(member)).await
    }
}

/// The ways to all members that were asked so far.
pub(crate) struct Peers {
    dialer: Option<Arc<Latest>>,
    links: Mutex<HashMap<u64, Arc<Link>>>,
}

impl Peers {
    pub(crate) fn new(dialer: Option<Arc<dyn PeerDialer>>) -> Self {
        Self {
            dialer: dialer.map(|dialer| {
                Arc::new(Latest {
                    dialer,
                    members: Mutex::default(),
                })
            }),
            links: Mutex::default(),
        }
    }

    /// Notes where members are, as of a change of members at this log index.
    pub(crate) fn locate<'a>(&self, index: Option<u64>, members: impl Iterator<Item = &'a Member>) {
        let Some(dialer) = &self.dialer else { return };
        let mut known = dialer.members.lock();
        if known.1 != index {
            *known = (members.map(|member| (member.id, member.clone())).collect(), index);
        }
    }

    /// Notes where a member says itself that it is now: the others may have to reach it before they can agree on that. The
    /// next change of members counts for more.
    pub(crate) fn relocate(&self, member: &Member) {
        if let Some(dialer) = &self.dialer {
            dialer.members.lock().0.insert(member.id, member.clone());
        }
    }

    /// The way that all short requests to a member share; another one when it has moved.
    pub(crate) fn link(&self, member: &Member) -> Option<Arc<Link>> {
        let dialer = self.dialer.as_ref()?;
        let mut links = self.links.lock();
        if let Some(link) = links.get(&member.id).filter(|link| link.member() == member) {
            return Some(Arc::clone(link));
        }
        let link = Arc::new(Link::new(Arc::clone(dialer) as _, member.clone()));
        links.insert(member.id, Arc::clone(&link));
        Some(link)
    }

    /// A way of one's own.
    pub(crate) fn own_link(&self, member: &Member) -> Option<Arc<Link>> {
        let dialer = self.dialer.as_ref()?;
        Some(Arc::new(Link::new(Arc::clone(dialer) as _, member.clone())))
    }
}
