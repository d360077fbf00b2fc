//! A response body that keeps its connection busy until it was sent.

use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};

use crate::budget::Busy;

/// A body with the guard of its request: the request is over when the body is dropped.
pub struct Counted<B> {
    body: B,
    busy: Busy,
}

impl<B> Counted<B> {
    /// Ties a body to its request.
    pub fn new(body: B, busy: Busy) -> Self {
        Self { body, busy }
    }

    /// The same for a body that has an end: its client must take it.
    pub fn finite(body: B, mut busy: Busy) -> Self {
        busy.answers();
        Self { body, busy }
    }
}

impl<B: Body + Unpin> Body for Counted<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(context);
        if matches!(polled, Poll::Ready(Some(_))) {
            this.busy.gave();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
