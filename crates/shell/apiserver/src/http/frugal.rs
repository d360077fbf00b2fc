//! The TLS stream of an HTTP/1.1 connection, which holds less that is encrypted and unsent once it carries a watch: a
//! list wants few large writes, hundreds of watches that nobody reads want little memory.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

/// Two records.
const WATCH_UNSENT_BYTES_MAX: usize = 32 * 1024;

/// A TLS stream and whether it carries a watch.
pub(super) struct Frugal<S> {
    tls: Box<TlsStream<S>>,
    watching: Arc<AtomicBool>,
    limited: bool,
}

impl<S> Frugal<S> {
    pub(super) fn new(tls: Box<TlsStream<S>>, watching: Arc<AtomicBool>) -> Self {
        Self {
            tls,
            watching,
            limited: false,
        }
    }

    fn limit(&mut self) {
        if !self.limited && self.watching.load(Ordering::Acquire) {
            self.tls.get_mut().1.set_buffer_limit(Some(WATCH_UNSENT_BYTES_MAX));
            self.limited = true;
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Frugal<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tls).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Frugal<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.limit();
        Pin::new(&mut this.tls).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tls).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tls).poll_shutdown(context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.limit();
        Pin::new(&mut this.tls).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }
}
