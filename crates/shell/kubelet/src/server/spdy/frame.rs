//! Frames of SPDY/3.1 from and to bytes.
//!
//! Invariant: pure; what is longer than its kind allows is refused before it is read. Data frames may be as long as the
//! protocol lets them (16 MiB): their payload is read in parts by the connection.

use super::headers::{BLOCK_MAX, Deflater, Headers, Inflater};

/// Bytes before each frame's payload.
pub(crate) const HEAD_LENGTH: usize = 8;
/// Longest control frame.
pub(crate) const CONTROL_MAX: usize = BLOCK_MAX;
/// A frame's flag: the sender has said all on this stream.
const FIN: u8 = 1;
const VERSION: u16 = 3;
const INITIAL_WINDOW_SIZE: u32 = 7;
const STREAM_MASK: u32 = 0x7fff_ffff;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

/// Why a connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("not SPDY/3.1")]
    Version,
    #[error("a frame is too long")]
    TooLarge,
    #[error("a frame is malformed")]
    Malformed,
    #[error("a header block does not inflate")]
    Compression,
    #[error("a header block is malformed")]
    Headers,
}

/// Why a stream is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reset {
    ProtocolError = 1,
    RefusedStream = 3,
    Cancel = 5,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GoAway {
    Ok = 0,
    ProtocolError = 1,
}

/// The first bytes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Head {
    Data { stream: u32, fin: bool, length: usize },
    Control { kind: u16, flags: u8, length: usize },
}

impl Head {
    pub(crate) fn parse(bytes: [u8; HEAD_LENGTH]) -> Result<Self, FrameError> {
        let [a, b, c, d, flags, rest @ ..] = bytes;
        let first = u32::from_be_bytes([a, b, c, d]);
        let length = rest.iter().fold(0, |sum, byte| (sum << 8) | usize::from(*byte));
        if first & !STREAM_MASK == 0 {
            let fin = flags & FIN != 0;
            return match first {
                0 => Err(FrameError::Malformed),
                stream => Ok(Self::Data { stream, fin, length }),
            };
        }
        if u16::from_be_bytes([a & 0x7f, b]) != VERSION {
            return Err(FrameError::Version);
        }
        if length > CONTROL_MAX {
            return Err(FrameError::TooLarge);
        }
        let kind = u16::from_be_bytes([c, d]);
        Ok(Self::Control { kind, flags, length })
    }
}

/// A frame that a client sends, other than data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Control {
    SynStream {
        stream: u32,
        fin: bool,
        headers: Headers,
    },
    SynReply {
        stream: u32,
    },
    RstStream {
        stream: u32,
    },
    /// `None`: nothing that concerns us.
    Settings {
        initial_window: Option<u32>,
    },
    Ping(u32),
    GoAway,
    Headers {
        stream: u32,
        fin: bool,
    },
    WindowUpdate {
        stream: u32,
        delta: u32,
    },
    /// Of a kind that the protocol says to ignore.
    Unknown,
}

impl Control {
    /// Reads a control frame's payload. Header blocks must all come through here, in order, also those that nobody wants.
    pub(crate) fn parse(kind: u16, flags: u8, payload: &[u8], inflater: &mut Inflater) -> Result<Self, FrameError> {
        let fin = flags & FIN != 0;
        Ok(match kind {
            SYN_STREAM => {
                let (stream, rest) = stream(payload)?;
                // The associated stream, the priority and the credential slot mean nothing here.
                let block = rest.get(6..).ok_or(FrameError::Malformed)?;
                let headers = inflater.headers(block)?;
                Self::SynStream { stream, fin, headers }
            }
            SYN_REPLY | HEADERS => {
                let (stream, block) = stream(payload)?;
                inflater.headers(block)?;
                match kind {
                    SYN_REPLY => Self::SynReply { stream },
                    _ => Self::Headers { stream, fin },
                }
            }
            RST_STREAM => {
                let [stream, _status] = words(payload)?;
                Self::RstStream {
                    stream: stream & STREAM_MASK,
                }
            }
            SETTINGS => Self::Settings {
                initial_window: settings(payload)?,
            },
            PING => {
                let [id] = words(payload)?;
                Self::Ping(id)
            }
            GOAWAY => {
                let [_last, _status] = words(payload)?;
                Self::GoAway
            }
            WINDOW_UPDATE => {
                let [stream, delta] = words(payload)?;
                let (stream, delta) = (stream & STREAM_MASK, delta & STREAM_MASK);
                Self::WindowUpdate { stream, delta }
            }
            _ => Self::Unknown,
        })
    }
}

fn stream(payload: &[u8]) -> Result<(u32, &[u8]), FrameError> {
    let (bytes, rest) = payload.split_first_chunk::<4>().ok_or(FrameError::Malformed)?;
    match u32::from_be_bytes(*bytes) & STREAM_MASK {
        0 => Err(FrameError::Malformed),
        stream => Ok((stream, rest)),
    }
}

/// A payload of exactly `N` words.
fn words<const N: usize>(payload: &[u8]) -> Result<[u32; N], FrameError> {
    let (words, rest) = payload.as_chunks::<4>();
    let words: &[[u8; 4]; N] = words.try_into().map_err(|_| FrameError::Malformed)?;
    if rest.is_empty() {
        Ok(words.map(u32::from_be_bytes))
    } else {
        Err(FrameError::Malformed)
    }
}

fn settings(payload: &[u8]) -> Result<Option<u32>, FrameError> {
    let (count, entries) = payload.split_first_chunk::<4>().ok_or(FrameError::Malformed)?;
    let (entries, rest) = entries.as_chunks::<8>();
    if usize::try_from(u32::from_be_bytes(*count)) != Ok(entries.len()) || !rest.is_empty() {
        return Err(FrameError::Malformed);
    }
    let window = entries.iter().rev().find_map(|[_flags, id @ .., a, b, c, d]| {
        let id = id.iter().fold(0, |sum, byte| (sum << 8) | u32::from(*byte));
        (id == INITIAL_WINDOW_SIZE).then_some(u32::from_be_bytes([*a, *b, *c, *d]) & STREAM_MASK)
    });
    Ok(window)
}

/// A frame that we send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outgoing {
    SynReply { stream: u32 },
    RstStream { stream: u32, why: Reset },
    Ping(u32),
    GoAway { last: u32, why: GoAway },
    WindowUpdate { stream: u32, delta: u32 },
    Data { stream: u32, fin: bool, payload: Vec<u8> },
}

impl Outgoing {
    pub(crate) fn encode(&self, deflater: &mut Deflater) -> Vec<u8> {
        let control = |kind: u16, payload: &[u8]| {
            let mut bytes = (0x8000 | VERSION).to_be_bytes().to_vec();
            bytes.extend_from_slice(&kind.to_be_bytes());
            bytes.extend_from_slice(&length(payload, 0));
            bytes.extend_from_slice(payload);
            bytes
        };
        let pair = |first: u32, second: u32| [first.to_be_bytes(), second.to_be_bytes()].concat();
        match self {
            Self::SynReply { stream } => {
                let block = deflater.block(&Headers::default());
                control(SYN_REPLY, &[&stream.to_be_bytes()[..], &block].concat())
            }
            Self::RstStream { stream, why } => control(RST_STREAM, &pair(*stream, *why as u32)),
            Self::Ping(id) => control(PING, &id.to_be_bytes()),
            Self::GoAway { last, why } => control(GOAWAY, &pair(*last, *why as u32)),
            Self::WindowUpdate { stream, delta } => control(WINDOW_UPDATE, &pair(*stream, *delta)),
            Self::Data { stream, fin, payload } => {
                let mut bytes = Vec::with_capacity(HEAD_LENGTH + payload.len());
                bytes.extend_from_slice(&stream.to_be_bytes());
                bytes.extend_from_slice(&length(payload, u8::from(*fin)));
                bytes.extend_from_slice(payload);
                bytes
            }
        }
    }
}

/// Flags in one byte, length in three.
fn length(payload: &[u8], flags: u8) -> [u8; 4] {
    let length = u32::try_from(payload.len()).expect("payloads that we make are short");
    assert!(length < 1 << 24, "payloads that we make are short");
    ((u32::from(flags) << 24) | length).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame's head and payload.
    fn split(bytes: &[u8]) -> (Head, &[u8]) {
        let (head, payload) = bytes.split_first_chunk().unwrap();
        (Head::parse(*head).unwrap(), payload)
    }

    fn parse(bytes: &[u8]) -> Result<Control, FrameError> {
        let (head, payload) = split(bytes);
        let Head::Control { kind, flags, length } = head else {
            panic!("a data frame");
        };
        assert_eq!(length, payload.len());
        Control::parse(kind, flags, payload, &mut Inflater::new())
    }

    #[test]
    fn what_is_written_is_read() {
        let encode = |frame: Outgoing| frame.encode(&mut Deflater::default());
        for (sent, read) in [
            (Outgoing::SynReply { stream: 5 }, Control::SynReply { stream: 5 }),
            (
                Outgoing::RstStream {
                    stream: 7,
                    why: Reset::Cancel,
                },
                Control::RstStream { stream: 7 },
            ),
            (Outgoing::Ping(9), Control::Ping(9)),
            (
                Outgoing::GoAway {
                    last: 3,
                    why: GoAway::Ok,
                },
                Control::GoAway,
            ),
            (
                Outgoing::WindowUpdate { stream: 0, delta: 8 },
                Control::WindowUpdate { stream: 0, delta: 8 },
            ),
        ] {
            assert_eq!(parse(&encode(sent)).unwrap(), read);
        }
        let data = encode(Outgoing::Data {
            stream: 3,
            fin: true,
            payload: b"abc".to_vec(),
        });
        let head = Head::Data {
            stream: 3,
            fin: true,
            length: 3,
        };
        assert_eq!(split(&data), (head, &b"abc"[..]));
    }

    #[test]
    fn bytes_are_as_the_protocol_says() {
        let mut deflater = Deflater::default();
        for (frame, bytes) in [
            (Outgoing::Ping(1), &b"\x80\x03\0\x06\0\0\0\x04\0\0\0\x01"[..]),
            (
                Outgoing::RstStream {
                    stream: 1,
                    why: Reset::RefusedStream,
                },
                b"\x80\x03\0\x03\0\0\0\x08\0\0\0\x01\0\0\0\x03",
            ),
            (
                Outgoing::SynReply { stream: 1 },
                b"\x80\x03\0\x02\0\0\0\x18\0\0\0\x01\x78\xbb\xe3\xc6\xa7\xc2\0\x04\0\xfb\xff\0\0\0\0\0\0\0\xff\xff",
            ),
            // The zlib stream goes on.
            (
                Outgoing::SynReply { stream: 3 },
                b"\x80\x03\0\x02\0\0\0\x12\0\0\0\x03\0\x04\0\xfb\xff\0\0\0\0\0\0\0\xff\xff",
            ),
        ] {
            assert_eq!(frame.encode(&mut deflater), bytes, "{frame:?}");
        }
    }

    #[test]
    fn a_clients_frames_are_read() {
        let block = Deflater::default().block(&Headers(vec![("port".into(), "80".into())]));
        let mut syn = vec![0x80, 3, 0, 1, 1, 0, 0, u8::try_from(block.len() + 10).unwrap()];
        syn.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        syn.extend_from_slice(&block);
        let Control::SynStream { stream, fin, headers } = parse(&syn).unwrap() else {
            panic!("not a SYN_STREAM");
        };
        assert_eq!((stream, fin, headers.get("port")), (1, true, Some("80")));
        for (bytes, expected) in [
            (
                &b"\x80\x03\0\x04\0\0\0\x14\0\0\0\x02\0\0\0\x04\0\0\0\x64\0\0\0\x07\0\x01\0\0"[..],
                Ok(Control::Settings {
                    initial_window: Some(65536),
                }),
            ),
            (b"\x80\x03\0\x04\0\0\0\x04\0\0\0\x02", Err(FrameError::Malformed)),
            (b"\x80\x03\0\x0a\0\0\0\x01\0", Ok(Control::Unknown)),
            (b"\x80\x03\0\x06\0\0\0\x02\0\0", Err(FrameError::Malformed)),
            (b"\x80\x03\0\x06\0\0\0\x08\0\0\0\x01\0\0\0\x01", Err(FrameError::Malformed)),
            (b"\x80\x03\0\x01\0\0\0\x08\0\0\0\x01\0\0\0\0", Err(FrameError::Malformed)),
            (b"\x80\x03\0\x02\0\0\0\x04\0\0\0\0", Err(FrameError::Malformed)),
        ] {
            assert_eq!(parse(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn bad_heads_are_refused() {
        for (bytes, error) in [
            (*b"\x80\x02\0\x01\0\0\0\x01", FrameError::Version),
            (*b"\0\0\0\0\0\0\0\x01", FrameError::Malformed),
            (*b"\x80\x03\0\x01\0\xff\xff\xff", FrameError::TooLarge),
        ] {
            assert_eq!(Head::parse(bytes).unwrap_err(), error);
        }
    }
}
