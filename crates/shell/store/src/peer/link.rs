//! The asking side of a connection: requests by id, answers in any order.
//!
//! Invariant: a request fails as "not sent" only when no byte of it can have reached the peer. A connection that breaks
//! fails all that wait on it; the next request makes another one.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::wire::{self, Failure};
use super::{PeerDialer, Stream};
use crate::Member;

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// The peer cannot be reached.
    #[error("cannot reach the peer: {0}")]
    NotSent(io::Error),
    /// The connection broke, or the peer did not answer in time. It may have been done.
    #[error("the peer did not answer")]
    Lost,
    /// The peer says no.
    #[error(transparent)]
    Failed(Failure),
}

/// Longest wait for a connection.
const CONNECTED_WITHIN: Duration = Duration::from_secs(2);
/// A connection on which nothing came for so long while an answer is late is given up: the way it took may be cut.
const SILENCE: Duration = Duration::from_secs(1);

/// A way to one member, on a connection of its own.
pub(crate) struct Link {
    dialer: Arc<dyn PeerDialer>,
    member: Member,
    slot: Arc<Mutex<Slot>>,
}

type Dialled = Option<Result<Arc<Connection>, (io::ErrorKind, String)>>;

/// The connection of a link.
enum Slot {
    Idle,
    /// Being made, whoever still waits for it: on a bad way it takes longer than the most patient of them.
    Dialling(watch::Receiver<Dialled>),
    Open(Arc<Connection>),
}

impl Link {
    pub(crate) fn new(dialer: Arc<dyn PeerDialer>, member: Member) -> Self {
        Self {
            dialer,
            member,
            slot: Arc::new(Mutex::new(Slot::Idle)),
        }
    }

    pub(crate) fn member(&self) -> &Member {
        &self.member
    }

    /// The connection that is there, or another one.
    pub(crate) async fn connection(&self) -> io::Result<Arc<Connection>> {
        let mut dialled = {
            let mut slot = self.slot.lock();
            match &*slot {
                Slot::Open(connection) if connection.lives() => return Ok(Arc::clone(connection)),
                Slot::Dialling(dialled) => dialled.clone(),
                Slot::Idle | Slot::Open(_) => {
                    let (done, dialled) = watch::channel(None);
                    *slot = Slot::Dialling(dialled.clone());
                    tokio::spawn(dial(
                        Arc::clone(&self.dialer),
                        self.member.clone(),
                        Arc::clone(&self.slot),
                        done,
                    ));
                    dialled
                }
            }
        };
        let outcome = dialled.wait_for(Option::is_some).await.map(|outcome| outcome.clone());
        match outcome {
            Ok(Some(Ok(connection))) => Ok(connection),
            Ok(Some(Err((kind, text)))) => Err(io::Error::new(kind, text)),
            Ok(None) | Err(_) => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Asks, and waits for the answer.
    pub(crate) async fn call(&self, kind: u8, content: &[u8], within: Duration) -> Result<Bytes, CallError> {
        let connection = match tokio::time::timeout(within, self.connection()).await {
            Ok(connection) => connection.map_err(CallError::NotSent)?,
            Err(_) => return Err(CallError::NotSent(io::ErrorKind::TimedOut.into())),
        };
        match tokio::time::timeout(within, connection.ask(kind, content).answer()).await {
            Ok(answer) => answer,
            Err(_) => {
                connection.close_if_silent();
                Err(CallError::Lost)
            }
        }
    }
}

/// Makes a connection and puts it into its slot.
async fn dial(dialer: Arc<dyn PeerDialer>, member: Member, slot: Arc<Mutex<Slot>>, done: watch::Sender<Dialled>) {
    let stream = match tokio::time::timeout(CONNECTED_WITHIN, dialer.connect(&member)).await {
        Ok(stream) => stream.map_err(|error| (error.kind(), error.to_string())),
        Err(late) => Err((io::ErrorKind::TimedOut, late.to_string())),
    };
    let outcome = stream.map(Connection::start);
    *slot.lock() = match &outcome {
        Ok(connection) => Slot::Open(Arc::clone(connection)),
        Err(_) => Slot::Idle,
    };
    done.send_replace(Some(outcome));
}

type Waiting = HashMap<u64, oneshot::Sender<Result<Bytes, Failure>>>;

/// An open connection.
pub(crate) struct Connection {
    outgoing: mpsc::UnboundedSender<Bytes>,
    waiting: Arc<Mutex<Option<Waiting>>>,
    next: AtomicU64,
    closed: watch::Sender<bool>,
    /// When something last came.
    heard: Arc<Mutex<Instant>>,
}

/// A request that was sent.
pub(crate) struct Asked(Option<oneshot::Receiver<Result<Bytes, Failure>>>);

impl Asked {
    /// Waits for the answer.
    pub(crate) async fn answer(self) -> Result<Bytes, CallError> {
        match self.0 {
            Some(answer) => match answer.await {
                Ok(Ok(content)) => Ok(content),
                Ok(Err(failure)) => Err(CallError::Failed(failure)),
                Err(_) => Err(CallError::Lost),
            },
            None => Err(CallError::NotSent(io::ErrorKind::NotConnected.into())),
        }
    }
}

impl Connection {
    fn start(stream: Box<dyn Stream>) -> Arc<Self> {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let (outgoing, mut frames) = mpsc::unbounded_channel::<Bytes>();
        let waiting = Arc::new(Mutex::new(Some(Waiting::new())));
        let closed = watch::Sender::new(false);
        let heard = Arc::new(Mutex::new(Instant::now()));
        let connection = Arc::new(Self {
            outgoing,
            waiting: Arc::clone(&waiting),
            next: AtomicU64::new(1),
            closed: closed.clone(),
            heard: Arc::clone(&heard),
        });
        let mut ended = closed.subscribe();
        let write = async move {
            while let Some(frame) = frames.recv().await {
                writer.write_all(&frame).await?;
                if frames.is_empty() {
                    writer.flush().await?;
                }
            }
            writer.shutdown().await
        };
        let theirs = Arc::clone(&waiting);
        let read = async move {
            let mut buffer = BytesMut::new();
            while let Some(frame) = wire::read(&mut reader, &mut buffer).await? {
                *heard.lock() = Instant::now();
                let answer = match frame.kind {
                    wire::OK => Ok(frame.content),
                    _ => Err(wire::from_json(&frame.content).unwrap_or_else(|failure| failure)),
                };
                let waiter = theirs.lock().as_mut().and_then(|waiting| waiting.remove(&frame.id));
                if let Some(waiter) = waiter
                    && waiter.send(answer).is_err()
                {
                    tracing::trace!("nobody waits for this answer any more");
                }
            }
            io::Result::Ok(())
        };
        tokio::spawn(async move {
            let outcome = tokio::select! {
                outcome = write => outcome,
                outcome = read => outcome,
                _ = ended.wait_for(|ended| *ended) => Ok(()),
            };
            if let Err(error) = outcome {
                tracing::debug!(%error, "a connection to a peer broke");
            }
            // From here on nothing is taken; dropping the senders tells those who wait.
            drop(waiting.lock().take());
            closed.send_replace(true);
        });
        connection
    }

    fn lives(&self) -> bool {
        !*self.closed.borrow()
    }

    /// Ends it; whoever waits is told.
    pub(crate) fn close(&self) {
        self.closed.send_replace(true);
    }

    /// Ends it when nothing has come for a while: it may be cut off, and what waits longer on it waits in vain.
    pub(crate) fn close_if_silent(&self) {
        if self.heard.lock().elapsed() >= SILENCE {
            self.close();
        }
    }

    /// Resolves when it has ended.
    pub(crate) async fn ended(&self) {
        // The sender lives in `self`.
        drop(self.closed.subscribe().wait_for(|closed| *closed).await);
    }

    /// Sends a request, behind all that were sent before.
    pub(crate) fn ask(&self, kind: u8, content: &[u8]) -> Asked {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock();
            let Some(waiting) = waiting.as_mut() else { return Asked(None) };
            waiting.insert(id, sender);
        }
        if self.outgoing.send(wire::frame(id, kind, content)).is_err() {
            return Asked(None);
        }
        Asked(Some(answer))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.closed.send_replace(true);
    }
}
