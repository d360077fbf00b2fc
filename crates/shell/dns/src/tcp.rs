//! DNS over TCP: one question after the other on a connection that holds a place in its port's budget.
//!
//! Invariant: connections take no more descriptors than the budget gives, one that asks nothing for a while ends, and a port
//! that is full takes in who asks for who asks nothing. Test: `silent_connections_leave_room_for_questions`.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hickory_proto::rr::Record;
use hickory_proto::serialize::binary::BinEncoder;
use hickory_server::net::NetError;
use hickory_server::net::runtime::TokioTime;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::{Request, RequestHandler as _, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponse;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use trireme_connections::{Budget, Guarded, Limits, Place};

use crate::handler::Handler;

/// A connection that asks nothing, or takes nothing of an answer, for so long is closed.
const IDLE: Duration = Duration::from_secs(10);
/// A message's head: what is shorter is none.
const HEAD_BYTES: usize = 12;
/// In a head's third byte: it is a response.
const RESPONSE: u8 = 0x80;
/// In a head's fourth byte: the question could not be read.
const FORM_ERROR: u8 = 1;

/// The connections of the cluster DNS port, so many at a time.
#[must_use]
pub fn connections(connections_max: usize) -> Arc<Budget> {
    let limits = Limits {
        total: connections_max,
        per_source: Limits::of_one_source(connections_max),
        first_request: IDLE,
        idle: IDLE,
        stalled: IDLE,
    };
    Budget::new("dns", limits)
}

/// Answers on a port until it is dropped.
pub(crate) async fn serve(listener: TcpListener, handler: Arc<Handler>, budget: Arc<Budget>) {
    let mut open = JoinSet::new();
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("cluster DNS: accepting a connection: {error}");
                sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        while open.try_join_next().is_some() {}
        if let Some(place) = budget.admit(address.ip()).await {
            let handler = Arc::clone(&handler);
            open.spawn(async move {
                if let Err(error) = converse(stream, address, &place, &handler).await {
                    tracing::debug!(%address, "DNS over TCP: {error}");
                }
            });
        }
    }
}

async fn converse(stream: TcpStream, address: SocketAddr, place: &Arc<Place>, handler: &Handler) -> io::Result<()> {
    let mut stream = Guarded::new(stream, Arc::clone(place));
    loop {
        let question = tokio::select! {
            question = read(&mut stream) => question?,
            _ = place.over() => return Ok(()),
        };
        let busy = place.request();
        let Some(answer) = answer(question, address, handler).await else {
            return Ok(());
        };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let message = [&length.to_be_bytes(), answer.as_slice()].concat();
        timeout(IDLE, stream.write_all(&message)).await??;
        drop(busy);
    }
}

async fn read(stream: &mut Guarded<TcpStream>) -> io::Result<Vec<u8>> {
    let mut message = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// The answer to a question; none to what is a response or no message at all.
async fn answer(question: Vec<u8>, address: SocketAddr, handler: &Handler) -> Option<Vec<u8>> {
    let mut head = *question.first_chunk::<HEAD_BYTES>()?;
    if head[2] & RESPONSE != 0 {
        return None;
    }
    let Ok(request) = Request::from_bytes(question, address, Protocol::Tcp) else {
        head[2] |= RESPONSE;
        head[3] = FORM_ERROR;
        head[4..].fill(0);
        return Some(head.to_vec());
    };
    let reply = Reply::default();
    handler.handle_request::<_, TokioTime>(&request, reply.clone()).await;
    reply.0.lock().take()
}

/// Keeps the one message that is sent.
#[derive(Clone, Default)]
struct Reply(Arc<Mutex<Option<Vec<u8>>>>);

#[async_trait]
impl ResponseHandler for Reply {
    async fn send_response<'a>(
        &mut self,
        response: MessageResponse<
            '_,
            'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
        >,
    ) -> Result<ResponseInfo, NetError> {
        let mut bytes = Vec::new();
        let mut encoder = BinEncoder::new(&mut bytes);
        encoder.set_max_size(u16::MAX);
        let info = response.destructive_emit(&mut encoder)?;
        *self.0.lock() = Some(bytes);
        Ok(info)
    }
}
