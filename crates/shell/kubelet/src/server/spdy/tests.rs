//! Connections against a client that says what it is told to.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};

use super::frame::{Head, Outgoing};
use super::headers::Deflater;
use super::*;

/// A client's end.
pub(in super::super) struct Client<S> {
    stream: S,
    deflater: Deflater,
    inflater: Inflater,
}

/// What a client gets.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) enum Got {
    Reply(u32),
    /// A stream, and why.
    Reset(u32, u32),
    Ping(u32),
    GoAway(u32),
    Window(u32, u32),
    Data(u32, bool, Vec<u8>),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub(in super::super) fn new(stream: S) -> Self {
        Self {
            stream,
            deflater: Deflater::default(),
            inflater: Inflater::new(),
        }
    }

    async fn control(&mut self, kind: u8, flags: u8, payload: &[u8]) {
        let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [0x80, 3, 0, kind, flags, 0, length[0], length[1]];
        self.stream.write_all(&[&head, payload].concat()).await.unwrap();
    }

    pub(in super::super) async fn open(&mut self, id: u32, fin: bool, headers: &[(&str, &str)]) {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let block = self.deflater.block(&Headers(headers.collect()));
        let payload = [&id.to_be_bytes()[..], &[0; 6], &block].concat();
        self.control(1, u8::from(fin), &payload).await;
    }

    pub(in super::super) async fn data(&mut self, stream: u32, fin: bool, payload: &[u8]) {
        let payload = payload.to_vec();
        let bytes = Outgoing::Data { stream, fin, payload }.encode(&mut self.deflater);
        self.stream.write_all(&bytes).await.unwrap();
    }

    async fn words(&mut self, kind: u8, words: &[u32]) {
        let payload: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        self.control(kind, 0, &payload).await;
    }

    /// The next frame; `None` at the end.
    pub(in super::super) async fn next(&mut self) -> Option<Got> {
        let mut head = [0; HEAD_LENGTH];
        self.stream.read_exact(&mut head).await.ok()?;
        let head = Head::parse(head).unwrap();
        let (Head::Data { length, .. } | Head::Control { length, .. }) = head;
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).await.unwrap();
        let word = |at: usize| u32::from_be_bytes(payload[at * 4..at * 4 + 4].try_into().unwrap());
        Some(match head {
            Head::Data { stream, fin, .. } => Got::Data(stream, fin, payload),
            Head::Control { kind: 2, .. } => {
                assert_eq!(self.inflater.headers(&payload[4..]).unwrap(), Headers::default());
                Got::Reply(word(0))
            }
            Head::Control { kind: 3, .. } => Got::Reset(word(0), word(1)),
            Head::Control { kind: 6, .. } => Got::Ping(word(0)),
            Head::Control { kind: 7, .. } => Got::GoAway(word(1)),
            Head::Control { kind: 9, .. } => Got::Window(word(0), word(1)),
            other => panic!("{other:?}"),
        })
    }

    /// The next frame that is not about windows.
    pub(in super::super) async fn told(&mut self) -> Option<Got> {
        loop {
            match self.next().await {
                Some(Got::Window(..)) => {}
                other => return other,
            }
        }
    }

    /// All that a stream brings up to its end.
    pub(in super::super) async fn all(&mut self, stream: u32) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            match self.told().await {
                Some(Got::Data(of, fin, payload)) if of == stream => {
                    all.extend_from_slice(&payload);
                    if fin {
                        return all;
                    }
                }
                other => panic!("{other:?} after {} bytes", all.len()),
            }
        }
    }
}

fn pair(judge: Judge) -> (Connection, Client<DuplexStream>) {
    let (near, far) = tokio::io::duplex(4096);
    (Connection::start(Carrier::plain(near), judge), Client::new(far))
}

#[tokio::test]
async fn streams_carry_bytes_both_ways_to_their_ends() {
    let (mut connection, mut client) = pair(|_| true);
    client.open(1, false, &[("a", "b")]).await;
    client.open(3, true, &[]).await;
    assert_eq!(client.next().await, Some(Got::Reply(1)));
    assert_eq!(client.next().await, Some(Got::Reply(3)));
    let (mut first, mut second) = (connection.accept().await.unwrap(), connection.accept().await.unwrap());
    assert_eq!((first.id, first.headers.get("a")), (1, Some("b")));
    assert_eq!(second.reader.next().await, None);
    client.data(1, false, b"hello").await;
    client.data(1, true, b"").await;
    assert_eq!(first.reader.next().await.as_deref(), Some(&b"hello"[..]));
    assert_eq!(first.reader.next().await, None);
    assert!(!first.writer.gone().is_cancelled());
    first.writer.write(b"world").await.unwrap();
    first.writer.finish().await.unwrap();
    assert_eq!(client.next().await, Some(Got::Data(1, false, b"world".to_vec())));
    assert_eq!(client.next().await, Some(Got::Data(1, true, Vec::new())));
    client.words(6, &[7]).await;
    assert_eq!(client.next().await, Some(Got::Ping(7)));
    // What was written comes before the end.
    second.writer.write(b"last").await.unwrap();
    second.writer.finish().await.unwrap();
    assert!(connection.inner.state.lock().streams.is_empty());
    drop(connection);
    assert_eq!(client.next().await, Some(Got::Data(3, false, b"last".to_vec())));
    assert_eq!(client.next().await, Some(Got::Data(3, true, Vec::new())));
    assert_eq!(client.next().await, Some(Got::GoAway(0)));
    assert_eq!(client.next().await, None);
}

#[tokio::test]
async fn streams_that_are_not_wanted_are_reset() {
    let (mut connection, mut client) = pair(|headers| headers.get("bad").is_none());
    for (id, headers, expected) in [
        (2, &[][..], Got::Reset(2, 1)),
        (5, &[("bad", "")], Got::Reset(5, 5)),
        (3, &[], Got::Reset(3, 1)),
        (7, &[], Got::Reply(7)),
    ] {
        client.open(id, false, headers).await;
        assert_eq!(client.next().await, Some(expected));
    }
    let mut kept = vec![connection.accept().await.unwrap()];
    for number in 1..u32::try_from(STREAMS_MAX).unwrap() {
        client.open(7 + 2 * number, false, &[]).await;
        assert_eq!(client.next().await, Some(Got::Reply(7 + 2 * number)));
        kept.push(connection.accept().await.unwrap());
    }
    client.open(9999, false, &[]).await;
    assert_eq!(client.next().await, Some(Got::Reset(9999, 3)));
    // A stream that is dropped makes room.
    kept.pop();
    assert!(matches!(client.next().await, Some(Got::Reset(_, 5))));
    client.open(10001, false, &[]).await;
    assert_eq!(client.next().await, Some(Got::Reply(10001)));
}

#[tokio::test]
async fn a_reset_ends_both_directions_at_once() {
    let (mut connection, mut client) = pair(|_| true);
    client.open(1, false, &[]).await;
    let mut stream = connection.accept().await.unwrap();
    client.data(1, false, b"lost").await;
    client.words(3, &[1, 5]).await;
    stream.writer.gone().cancelled().await;
    assert_eq!(stream.reader.next().await, None);
    assert_eq!(stream.writer.write(b"x").await, Err(Gone));
    assert_eq!(stream.writer.finish().await, Err(Gone));
    // The connection stands, and ends with its client.
    client.words(6, &[1]).await;
    assert_eq!(client.next().await, Some(Got::Reply(1)));
    assert_eq!(client.next().await, Some(Got::Ping(1)));
    client.open(3, false, &[]).await;
    let mut other = connection.accept().await.unwrap();
    drop(client);
    assert_eq!(other.reader.next().await, None);
    assert!(other.writer.gone().is_cancelled());
    assert!(connection.accept().await.is_none());
    connection.over().await;
}

#[tokio::test]
async fn a_client_that_keeps_no_windows_gets_all() {
    let (mut connection, mut client) = pair(|_| true);
    client.open(1, false, &[]).await;
    let mut stream = connection.accept().await.unwrap();
    assert_eq!(client.next().await, Some(Got::Reply(1)));
    let sent: Vec<u8> = (0..1_000_000_u32).map(|number| (number % 251) as u8).collect();
    let writing = async {
        stream.writer.write(&sent).await.unwrap();
        stream.writer.finish().await.unwrap();
    };
    let (got, ()) = tokio::join!(client.all(1), writing);
    assert!(got == sent);
}

#[tokio::test]
async fn a_client_that_keeps_windows_gets_what_they_allow() {
    let (mut connection, mut client) = pair(|_| true);
    // One setting: an initial window of ten bytes.
    client.words(4, &[1, 7, 10]).await;
    client.open(1, false, &[]).await;
    let mut stream = connection.accept().await.unwrap();
    assert_eq!(client.next().await, Some(Got::Reply(1)));
    let writing = tokio::spawn(async move {
        stream.writer.write(b"0123456789abcdef").await.unwrap();
        stream.writer.finish().await.unwrap();
    });
    assert_eq!(client.next().await, Some(Got::Data(1, false, b"0123456789".to_vec())));
    // Were it to send more, that came before the answer, or with it.
    client.words(6, &[1]).await;
    assert_eq!(client.next().await, Some(Got::Ping(1)));
    client.words(9, &[1, 2]).await;
    assert_eq!(client.next().await, Some(Got::Data(1, false, b"ab".to_vec())));
    // A setting changes what open streams have, too.
    client.words(4, &[1, 7, 100]).await;
    assert_eq!(client.next().await, Some(Got::Data(1, false, b"cdef".to_vec())));
    assert_eq!(client.next().await, Some(Got::Data(1, true, Vec::new())));
    writing.await.unwrap();
}

#[tokio::test]
async fn windows_are_given_back_as_a_reader_takes_bytes() {
    let (mut connection, mut client) = pair(|_| true);
    client.open(1, false, &[]).await;
    let mut stream = connection.accept().await.unwrap();
    assert_eq!(client.next().await, Some(Got::Reply(1)));
    let chunk = vec![7; CHUNK];
    let writing = async {
        client.data(1, false, &chunk).await;
        assert_eq!(client.next().await, Some(Got::Window(1, WINDOW / 2)));
        assert_eq!(client.next().await, Some(Got::Window(0, WINDOW / 2)));
        // What nobody reads counts for the connection.
        client.data(99, false, &chunk).await;
        assert_eq!(client.next().await, Some(Got::Window(0, WINDOW / 2)));
    };
    let (read, ()) = tokio::join!(stream.reader.next(), writing);
    assert_eq!(read.map(|chunk| chunk.len()), Some(CHUNK));
}

#[tokio::test]
async fn who_breaks_the_protocol_or_floods_is_sent_away() {
    let (mut connection, mut client) = pair(|_| true);
    client.stream.write_all(b"\x80\x02\0\x01\0\0\0\0").await.unwrap();
    assert_eq!(client.next().await, Some(Got::GoAway(1)));
    assert!(connection.accept().await.is_none());

    let (mut connection, client) = pair(|_| true);
    let (_unread, mut write) = tokio::io::split(client.stream);
    let ping = Outgoing::Ping(1).encode(&mut Deflater::default());
    let flood = async { while write.write_all(&ping).await.is_ok() {} };
    tokio::select! {
        () = flood => panic!("the connection was dropped without a farewell"),
        stream = connection.accept() => assert!(stream.is_none()),
    }
}
