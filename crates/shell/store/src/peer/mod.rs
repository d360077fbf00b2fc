//! How members talk to each other: over streams that somebody else makes and secures.

use std::io;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};

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
