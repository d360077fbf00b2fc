//! What becomes of a request's body that its handler did not read: a refusal before the body was sent, for example.
//!
//! Invariant: on HTTP/1.1 a connection is used again only where the whole body was taken in. A little more is read and
//! dropped; where that is not all, the client is told `Connection: close`, and what it still sends is taken in until it
//! has read that, or the next request on the connection would be lost without a word. HTTP/2 has streams for this.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Version, header};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use parking_lot::Mutex;
use trireme_connections::Place;

use super::body::Body;

/// How much of an unread body is read for the sake of the connection; upstream's number.
const DROPPED_BYTES_MAX: usize = 256 * 1024;
/// And for how long.
const DROPPED_WITHIN: Duration = Duration::from_secs(1);

/// What a handler left.
pub(super) struct Rest {
    body: Incoming,
    /// Whether the client still waits to be asked for it (`Expect: 100-continue`).
    unasked: bool,
}

/// Where a body goes that was dropped before its end.
pub(super) type Left = Option<Arc<Mutex<Option<Rest>>>>;

/// A request's body, that is not lost when its handler drops it.
pub struct Watched {
    /// Taken when it has ended, broken off, or was dropped.
    body: Option<Incoming>,
    unasked: bool,
    left: Left,
}

/// Watches a request's body, where it has one and its connection cares.
pub(super) fn watched(request: Request<Incoming>) -> (Request<Watched>, Left) {
    let cares = request.version() < Version::HTTP_2 && !request.body().is_end_stream();
    let left: Left = cares.then(Arc::default);
    let unasked = cares && request.headers().contains_key(header::EXPECT);
    let request = request.map(|body| Watched {
        body: Some(body),
        unasked,
        left: left.clone(),
    });
    (request, left)
}

/// What was left of a body, if any was.
pub(super) fn rest(left: Left) -> Option<Rest> {
    left.and_then(|left| left.lock().take())
}

/// Takes in the rest of an unread body, or has the connection close behind the answer.
pub(super) async fn settle(mut answer: Response<Body>, mut rest: Rest, place: &Place) -> Response<Body> {
    // One that waits to be asked is not asked: it sends its body or does not, and then closes.
    let dropped = !rest.unasked
        && matches!(
            tokio::time::timeout(DROPPED_WITHIN, drop_rest(&mut rest.body)).await,
            Ok(true)
        );
    if dropped {
        return answer;
    }
    answer
        .headers_mut()
        .insert(header::CONNECTION, HeaderValue::from_static("close"));
    place.linger();
    answer
}

/// Whether the body came to its end within the limit.
async fn drop_rest(body: &mut Incoming) -> bool {
    let mut read = 0;
    while read <= DROPPED_BYTES_MAX {
        match body.frame().await {
            None => return true,
            Some(Ok(frame)) => read += frame.data_ref().map_or(0, Bytes::len),
            Some(Err(_)) => return false,
        }
    }
    false
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let Some(body) = &mut this.body else {
            return Poll::Ready(None);
        };
        this.unasked = false;
        let polled = Pin::new(body).poll_frame(context);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            this.body = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, http_body::Body::size_hint)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let (Some(body), Some(left)) = (self.body.take(), &self.left)
            && !body.is_end_stream()
        {
            *left.lock() = Some(Rest {
                body,
                unasked: self.unasked,
            });
        }
    }
}
