//! A server's end of a SPDY/3.1 connection: the streams that a client opens, each way flow-controlled.
//!
//! Invariant: memory is bounded by named limits whatever the client sends; a stream whose reader is slow holds the others
//! back rather than grow. Kubernetes' own clients neither keep windows nor tell of them: a window binds us only once the
//! client has shown that it keeps them. We open no streams, and push nothing.

mod carrier;
mod frame;
mod headers;
#[cfg(test)]
pub(super) mod tests;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::body::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncReadExt};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use carrier::{Input, Output};
use frame::{Control, FrameError, GoAway, HEAD_LENGTH, Head, Outgoing, Reset};
use headers::{Deflater, Inflater};

pub(super) use carrier::Carrier;
pub(super) use headers::Headers;

/// Most streams that a connection has open.
const STREAMS_MAX: usize = 512;
/// Bytes that are read or written at once.
pub(super) const CHUNK: usize = 32 * 1024;
/// Chunks that wait for a stream's reader.
const INBOX: usize = 4;
/// Frames with data, and others, that wait to be sent.
const DATA_QUEUE: usize = 16;
const CONTROL_QUEUE: usize = 1024;
/// Window of a stream, and of the connection, before anybody says otherwise.
const WINDOW: u32 = 64 * 1024;
/// A connection on which nothing moves for so long is ended, as upstream's kubelet does by default.
const IDLE_MAX: Duration = Duration::from_secs(4 * 3600);
/// How long a client has to end its side after the last frame.
const FAREWELL: Duration = Duration::from_secs(5);

/// Why reading a connection ended.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The client asks and asks, and reads no answer.
    #[error("too many frames wait to be sent")]
    Flood,
    #[error("idle")]
    Idle,
}

/// The stream, or the whole connection, is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gone;

/// A connection. Dropping it ends it, after what was written.
pub(super) struct Connection {
    inner: Arc<Inner>,
    accepted: mpsc::Receiver<Stream>,
}

/// Whether a stream with these headers is wanted.
pub(super) type Judge = fn(&Headers) -> bool;

impl Connection {
    /// Serves a connection in a task of its own.
    pub(super) fn start(carrier: Carrier, judge: Judge) -> Self {
        let (control, controls) = mpsc::channel(CONTROL_QUEUE);
        let (data, datas) = mpsc::channel(DATA_QUEUE);
        let (accept, accepted) = mpsc::channel(INBOX);
        let inner = Arc::new(Inner {
            state: Mutex::new(State {
                streams: HashMap::new(),
                last: 0,
                initial_window: i64::from(WINDOW),
                session_window: i64::from(WINDOW),
                session_consumed: 0,
                keeps_windows: false,
                keeps_session: false,
                failed: false,
            }),
            grown: Notify::new(),
            control,
            data,
            over: CancellationToken::new(),
            written: AtomicBool::new(false),
        });
        tokio::spawn(drive(Arc::clone(&inner), carrier, (controls, datas), accept, judge));
        Self { inner, accepted }
    }

    /// The next stream that the client opens; `None` when the connection is over.
    pub(super) async fn accept(&mut self) -> Option<Stream> {
        self.accepted.recv().await
    }

    /// Waits for the connection's end.
    pub(super) async fn over(&self) {
        self.inner.over.cancelled().await;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.inner.end();
    }
}

struct Inner {
    state: Mutex<State>,
    /// A window has grown, or a stream has gone.
    grown: Notify,
    /// Sent before data.
    control: mpsc::Sender<Outgoing>,
    data: mpsc::Sender<Outgoing>,
    over: CancellationToken,
    /// Something was sent since the reader last looked.
    written: AtomicBool,
}

struct State {
    streams: HashMap<u32, Entry>,
    /// The newest stream of the client.
    last: u32,
    initial_window: i64,
    session_window: i64,
    /// Bytes taken in that the client was not told of yet.
    session_consumed: u32,
    keeps_windows: bool,
    keeps_session: bool,
    /// The client broke the protocol.
    failed: bool,
}

struct Entry {
    /// `None` once the client has said all.
    inbox: Option<mpsc::Sender<Bytes>>,
    /// We have not said all yet.
    open_here: bool,
    window: i64,
    gone: CancellationToken,
}

impl Inner {
    /// Ends the connection, now for streams, after what is queued for the client.
    fn end(&self) {
        self.over.cancel();
        for entry in self.state.lock().streams.drain().map(|(_, entry)| entry) {
            entry.gone.cancel();
        }
        self.grown.notify_waiters();
    }

    /// Sends a frame that answers the client, from where waiting would stop the reader.
    fn answer(&self, frame: Outgoing) -> Result<(), Failure> {
        self.control.try_send(frame).map_err(|_| Failure::Flood)
    }

    /// The client has said all on a stream.
    fn half_closed(&self, stream: u32) {
        let mut state = self.state.lock();
        if let Some(entry) = state.streams.get_mut(&stream) {
            entry.inbox = None;
            if !entry.open_here {
                state.streams.remove(&stream);
            }
        }
    }

    fn reset(&self, stream: u32) {
        if let Some(entry) = self.state.lock().streams.remove(&stream) {
            entry.gone.cancel();
        }
        self.grown.notify_waiters();
    }

    /// Counts bytes that were taken in on any stream: what to tell the client, now and then.
    fn consumed(&self, count: usize) -> Option<Outgoing> {
        let mut state = self.state.lock();
        state.session_consumed += u32::try_from(count).expect("a chunk's length");
        (state.session_consumed >= WINDOW / 2).then(|| Outgoing::WindowUpdate {
            stream: 0,
            delta: std::mem::take(&mut state.session_consumed),
        })
    }

    /// Takes as much of the windows as there is, up to what is wanted; `None` when there is none now.
    fn take_window(&self, stream: u32, wanted: usize) -> Result<Option<usize>, Gone> {
        let mut state = self.state.lock();
        let state = &mut *state;
        let entry = state.streams.get_mut(&stream).filter(|entry| entry.open_here).ok_or(Gone)?;
        let mut room = i64::try_from(wanted.min(CHUNK)).expect("a chunk's length");
        if state.keeps_windows {
            room = room.min(entry.window);
        }
        if state.keeps_session {
            room = room.min(state.session_window);
        }
        if room <= 0 {
            return Ok(None);
        }
        entry.window -= room;
        state.session_window -= room;
        Ok(usize::try_from(room).ok())
    }

    fn grow_window(&self, stream: u32, delta: u32) {
        let mut state = self.state.lock();
        if stream == 0 {
            state.keeps_session = true;
            state.session_window += i64::from(delta);
        } else {
            state.keeps_windows = true;
            if let Some(entry) = state.streams.get_mut(&stream) {
                entry.window += i64::from(delta);
            }
        }
        drop(state);
        self.grown.notify_waiters();
    }

    fn set_initial_window(&self, size: u32) {
        let mut state = self.state.lock();
        state.keeps_windows = true;
        let change = i64::from(size) - state.initial_window;
        state.initial_window += change;
        for entry in state.streams.values_mut() {
            entry.window += change;
        }
        drop(state);
        self.grown.notify_waiters();
    }
}

/// A stream that the client opened.
pub(super) struct Stream {
    pub(super) id: u32,
    pub(super) headers: Headers,
    pub(super) reader: StreamReader,
    pub(super) writer: StreamWriter,
}

/// What the client sends on a stream.
pub(super) struct StreamReader {
    inner: Arc<Inner>,
    id: u32,
    inbox: mpsc::Receiver<Bytes>,
    consumed: u32,
    gone: CancellationToken,
}

impl StreamReader {
    /// The next bytes; `None` once the client has said all, or is gone.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        let chunk = tokio::select! {
            biased;
            () = self.gone.cancelled() => None,
            chunk = self.inbox.recv() => chunk,
        }?;
        self.consumed += u32::try_from(chunk.len()).expect("a chunk's length");
        let own = (self.consumed >= WINDOW / 2).then(|| Outgoing::WindowUpdate {
            stream: self.id,
            delta: std::mem::take(&mut self.consumed),
        });
        for update in [own, self.inner.consumed(chunk.len())].into_iter().flatten() {
            if self.inner.control.send(update).await.is_err() {
                return None;
            }
        }
        Some(chunk)
    }
}

/// What is sent to the client on a stream. Dropping it before its end resets the stream.
pub(super) struct StreamWriter {
    inner: Arc<Inner>,
    id: u32,
    finished: bool,
    gone: CancellationToken,
}

impl StreamWriter {
    /// Sends bytes, as the client's windows allow.
    pub(super) async fn write(&mut self, mut bytes: &[u8]) -> Result<(), Gone> {
        while !bytes.is_empty() {
            let part;
            (part, bytes) = bytes.split_at(self.room(bytes.len()).await?);
            let frame = Outgoing::Data {
                stream: self.id,
                fin: false,
                payload: part.to_vec(),
            };
            self.inner.data.send(frame).await.map_err(|_| Gone)?;
        }
        Ok(())
    }

    /// Says that this was all.
    pub(super) async fn finish(mut self) -> Result<(), Gone> {
        self.finished = true;
        {
            let mut state = self.inner.state.lock();
            let entry = state.streams.get_mut(&self.id).ok_or(Gone)?;
            entry.open_here = false;
            if entry.inbox.is_none() {
                state.streams.remove(&self.id);
            }
        }
        let frame = Outgoing::Data {
            stream: self.id,
            fin: true,
            payload: Vec::new(),
        };
        self.inner.data.send(frame).await.map_err(|_| Gone)
    }

    /// Completes when the client resets the stream, or the connection ends.
    pub(super) fn gone(&self) -> CancellationToken {
        self.gone.clone()
    }

    async fn room(&self, wanted: usize) -> Result<usize, Gone> {
        loop {
            let grown = self.inner.grown.notified();
            tokio::pin!(grown);
            grown.as_mut().enable();
            if let Some(room) = self.inner.take_window(self.id, wanted)? {
                return Ok(room);
            }
            grown.await;
        }
    }
}

impl Drop for StreamWriter {
    fn drop(&mut self) {
        if self.finished || self.inner.state.lock().streams.remove(&self.id).is_none() {
            return;
        }
        let frame = Outgoing::RstStream {
            stream: self.id,
            why: Reset::Cancel,
        };
        if self.inner.answer(frame).is_err() {
            tracing::debug!("a stream's reset was not told");
        }
    }
}

type Queues = (mpsc::Receiver<Outgoing>, mpsc::Receiver<Outgoing>);

/// Runs a connection to its end.
async fn drive(inner: Arc<Inner>, carrier: Carrier, queues: Queues, accept: mpsc::Sender<Stream>, judge: Judge) {
    let Carrier { mut input, output } = carrier;
    let sending = send(&inner, output, queues);
    let reading = async {
        let received = tokio::select! {
            received = receive(&inner, &mut input, accept, judge) => received,
            () = inner.over.cancelled() => Ok(()),
        };
        if let Err(failure) = received {
            tracing::debug!("a SPDY connection ended: {failure}");
            inner.state.lock().failed = matches!(failure, Failure::Frame(_));
        }
        inner.end();
        // A connection that is dropped with something unread is reset, and what was sent last is lost on its way.
        let mut rest = vec![0; CHUNK];
        let drained = async { while let Ok(1..) = input.read(&mut rest).await {} };
        if tokio::time::timeout(IDLE_MAX, drained).await.is_err() {
            tracing::debug!("a client neither reads nor goes");
        }
    };
    tokio::pin!(sending, reading);
    let late = tokio::select! {
        sent = &mut sending => {
            if let Err(error) = sent {
                tracing::debug!("sending on a SPDY connection: {error}");
            }
            inner.end();
            tokio::time::timeout(FAREWELL, reading).await.is_err()
        }
        () = &mut reading => tokio::time::timeout(FAREWELL, sending).await.is_err(),
    };
    if late {
        tracing::debug!("a client did not end its connection");
    }
}

/// Sends what is queued, and at the end that it is the end.
async fn send(inner: &Inner, mut output: Output, (mut control, mut data): Queues) -> io::Result<()> {
    let mut deflater = Deflater::default();
    loop {
        let frame = tokio::select! {
            biased;
            Some(frame) = control.recv() => frame,
            Some(frame) = data.recv() => frame,
            () = inner.over.cancelled() => break,
        };
        output.send(frame.encode(&mut deflater)).await?;
        inner.written.store(true, Ordering::Relaxed);
    }
    let end = {
        let state = inner.state.lock();
        let why = if state.failed { GoAway::ProtocolError } else { GoAway::Ok };
        Outgoing::GoAway { last: state.last, why }
    };
    output.send(end.encode(&mut deflater)).await?;
    output.close().await
}

/// Takes frames in until the client goes.
async fn receive(inner: &Arc<Inner>, input: &mut Input, accept: mpsc::Sender<Stream>, judge: Judge) -> Result<(), Failure> {
    let mut inflater = Inflater::new();
    loop {
        while !arrived(input).await? {
            if !inner.written.swap(false, Ordering::Relaxed) {
                return Err(Failure::Idle);
            }
        }
        if input.buffer().is_empty() {
            return Ok(());
        }
        let mut head = [0; HEAD_LENGTH];
        input.read_exact(&mut head).await?;
        let (kind, flags, length) = match Head::parse(head)? {
            Head::Data { stream, fin, length } => {
                take_data(inner, input, stream, length).await?;
                if fin {
                    inner.half_closed(stream);
                }
                continue;
            }
            Head::Control { kind, flags, length } => (kind, flags, length),
        };
        let mut payload = vec![0; length];
        input.read_exact(&mut payload).await?;
        match Control::parse(kind, flags, &payload, &mut inflater)? {
            Control::SynStream { stream, fin, headers } => {
                if let Some(stream) = open(inner, stream, fin, headers, judge)?
                    && accept.send(stream).await.is_err()
                {
                    return Ok(());
                }
            }
            // We open none that could be answered.
            Control::SynReply { stream } => inner.answer(Outgoing::RstStream {
                stream,
                why: Reset::ProtocolError,
            })?,
            Control::RstStream { stream } => inner.reset(stream),
            Control::Headers { stream, fin: true } => inner.half_closed(stream),
            Control::Settings {
                initial_window: Some(size),
            } => inner.set_initial_window(size),
            Control::WindowUpdate { stream, delta } => inner.grow_window(stream, delta),
            // An even number would answer a ping of ours, and we send none.
            Control::Ping(id) if id % 2 == 1 => inner.answer(Outgoing::Ping(id))?,
            // Upstream's servers end at once, and its clients expect no more.
            Control::GoAway => return Ok(()),
            Control::Ping(_) | Control::Headers { .. } | Control::Settings { .. } | Control::Unknown => {}
        }
    }
}

/// Waits for bytes or the end; false after a long while without.
async fn arrived(input: &mut Input) -> io::Result<bool> {
    match tokio::time::timeout(IDLE_MAX, input.fill_buf()).await {
        Ok(read) => read.map(|_| true),
        Err(_) => Ok(false),
    }
}

/// Makes a stream, or resets it.
fn open(inner: &Arc<Inner>, id: u32, fin: bool, headers: Headers, judge: Judge) -> Result<Option<Stream>, Failure> {
    let gone = CancellationToken::new();
    let (sender, inbox) = mpsc::channel(INBOX);
    let refused = {
        let mut state = inner.state.lock();
        if inner.over.is_cancelled() {
            return Ok(None);
        }
        let refused = if id.is_multiple_of(2) || id <= state.last {
            Some(Reset::ProtocolError)
        } else if state.streams.len() >= STREAMS_MAX {
            Some(Reset::RefusedStream)
        } else if !judge(&headers) {
            Some(Reset::Cancel)
        } else {
            None
        };
        state.last = state.last.max(id);
        if refused.is_none() {
            let entry = Entry {
                inbox: (!fin).then_some(sender),
                open_here: true,
                window: state.initial_window,
                gone: gone.clone(),
            };
            state.streams.insert(id, entry);
        }
        refused
    };
    if let Some(why) = refused {
        inner.answer(Outgoing::RstStream { stream: id, why })?;
        return Ok(None);
    }
    // Queued before anybody can send data on it.
    inner.answer(Outgoing::SynReply { stream: id })?;
    Ok(Some(Stream {
        id,
        headers,
        reader: StreamReader {
            inner: Arc::clone(inner),
            id,
            inbox,
            consumed: 0,
            gone: gone.clone(),
        },
        writer: StreamWriter {
            inner: Arc::clone(inner),
            id,
            finished: false,
            gone,
        },
    }))
}

/// Hands a data frame's payload to its stream, in chunks; what nobody reads is dropped.
async fn take_data(inner: &Inner, input: &mut Input, stream: u32, mut length: usize) -> Result<(), Failure> {
    while length > 0 {
        let mut chunk = vec![0; length.min(CHUNK)];
        input.read_exact(&mut chunk).await?;
        length -= chunk.len();
        let count = chunk.len();
        let target = {
            let state = inner.state.lock();
            let entry = state.streams.get(&stream);
            entry.and_then(|entry| Some((entry.inbox.clone()?, entry.gone.clone())))
        };
        let taken = match target {
            Some((inbox, gone)) => tokio::select! {
                sent = inbox.send(chunk.into()) => sent.is_ok(),
                () = gone.cancelled() => false,
            },
            None => false,
        };
        if !taken && let Some(update) = inner.consumed(count) {
            inner.answer(update)?;
        }
    }
    Ok(())
}
