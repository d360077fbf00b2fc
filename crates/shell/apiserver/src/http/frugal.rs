//! The TLS stream of a connection, as what is idle or unread should cost little: it is waited on without a buffer, takes
//! back what was read and not used, and holds less that is encrypted and unsent once it carries a watch (a list wants few
//! large writes, hundreds of watches that nobody reads want little memory).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

/// Two records.
const WATCH_UNSENT_BYTES_MAX: usize = 32 * 1024;

/// What is known of a stream while somebody else holds it.
#[derive(Default)]
pub(super) struct Known {
    watching: AtomicBool,
    unsent: AtomicBool,
}

impl Known {
    /// From here on the stream carries a watch.
    pub(super) fn set_watching(&self) {
        self.watching.store(true, Ordering::Release);
    }

    /// Whether the last that was written is still to be sent, or the stream's end is.
    pub(super) fn is_unsent(&self) -> bool {
        self.unsent.load(Ordering::Acquire)
    }
}

/// A TLS stream.
pub(super) struct Frugal<S> {
    tls: Box<TlsStream<S>>,
    known: Arc<Known>,
    limited: bool,
    /// Read before and given back.
    unread: Bytes,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Frugal<S> {
    pub(super) fn new(tls: Box<TlsStream<S>>, known: Arc<Known>) -> Self {
        Self {
            tls,
            known,
            limited: false,
            unread: Bytes::new(),
        }
    }

    /// Gives back what was read last, without the buffer that it was read into.
    pub(super) fn give_back(&mut self, read: &[u8]) {
        self.unread = Bytes::copy_from_slice(read);
    }

    /// Waits until there is something to read; false at the stream's end. Cancel-safe.
    pub(super) async fn readable(&mut self) -> io::Result<bool> {
        Ok(!self.unread.is_empty() || !self.tls.fill_buf().await?.is_empty())
    }

    fn limit(&mut self) {
        if !self.limited && self.known.watching.load(Ordering::Acquire) {
            self.tls.get_mut().1.set_buffer_limit(Some(WATCH_UNSENT_BYTES_MAX));
            self.limited = true;
        }
    }

    fn note<T>(&self, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let unsent = outcome.is_pending() || self.tls.get_ref().1.wants_write();
        self.known.unsent.store(unsent, Ordering::Release);
        outcome
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Frugal<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.unread.is_empty() {
            let length = this.unread.len().min(buffer.remaining());
            buffer.put_slice(&this.unread[..length]);
            this.unread.advance(length);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.tls).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Frugal<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.limit();
        let outcome = Pin::new(&mut this.tls).poll_write(context, bytes);
        this.note(outcome)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.tls).poll_flush(context);
        this.note(outcome)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.known.unsent.store(true, Ordering::Release);
        Pin::new(&mut this.tls).poll_shutdown(context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.limit();
        let outcome = Pin::new(&mut this.tls).poll_write_vectored(context, buffers);
        this.note(outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }
}
