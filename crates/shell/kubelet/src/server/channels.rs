//! Channels in a WebSocket: each message begins with the number of its channel.
//!
//! Invariant: the subprotocol alone says how a message looks (`base64.`: text, the channel as a digit and the rest in
//! base64), whether a channel can be closed (`v5`), and whether a command's end is told as a Status (`v4`, `v5`) or, before,
//! as a text and only when it failed. A client that names no subprotocol speaks `channel.k8s.io`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::body::Bytes;
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;

/// Number of the message that closes a channel.
const CLOSE: u8 = 255;

/// A subprotocol that both sides agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Channels {
    base64: bool,
    closes: bool,
    status: bool,
}

/// What a client sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// Bytes for a channel.
    Data(u8, Bytes),
    /// A channel's end.
    Close(u8),
}

impl Channels {
    /// Of a subprotocol's name, empty for none.
    pub(super) fn of(protocol: &str) -> Self {
        Self {
            base64: protocol.contains("base64."),
            closes: protocol.starts_with("v5."),
            status: protocol.starts_with("v4.") || protocol.starts_with("v5."),
        }
    }

    /// A message for a channel.
    pub(super) fn message(self, channel: u8, data: &[u8]) -> Message {
        if self.base64 {
            let mut text = String::from(char::from(b'0'.wrapping_add(channel)));
            STANDARD.encode_string(data, &mut text);
            return Message::text(text);
        }
        let mut bytes = Vec::with_capacity(data.len() + 1);
        bytes.push(channel);
        bytes.extend_from_slice(data);
        Message::Binary(bytes.into())
    }

    /// What a message says; `None` for what says nothing.
    pub(super) fn read(self, message: Message) -> Option<Said> {
        let data: Bytes = match message {
            Message::Binary(data) => data,
            Message::Text(text) => Bytes::copy_from_slice(text.as_bytes()),
            _ => return None,
        };
        let (&first, rest) = data.split_first()?;
        if self.closes && first == CLOSE {
            return rest.first().map(|channel| Said::Close(*channel));
        }
        if self.base64 {
            return Some(Said::Data(first.wrapping_sub(b'0'), STANDARD.decode(rest).ok()?.into()));
        }
        Some(Said::Data(first, data.slice(1..)))
    }

    /// How a command's end is told, `None` for not at all.
    pub(super) fn verdict(self, status: &Value) -> Option<String> {
        if self.status {
            return Some(status.to_string());
        }
        (status["status"] != "Success").then(|| status["message"].as_str().unwrap_or_default().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn messages_look_as_their_subprotocol_says() {
        // subprotocol, what is sent on channel 1, what comes, what that says
        for (protocol, sent, comes, said) in [
            (
                "",
                Message::Binary(b"\x01hi".to_vec().into()),
                Message::Binary(b"\x00foo".to_vec().into()),
                Some(Said::Data(0, Bytes::from("foo"))),
            ),
            (
                "channel.k8s.io",
                Message::Binary(b"\x01hi".to_vec().into()),
                Message::Binary(vec![255, 0].into()),
                Some(Said::Data(255, Bytes::from_static(&[0]))),
            ),
            (
                "v5.channel.k8s.io",
                Message::Binary(b"\x01hi".to_vec().into()),
                Message::Binary(vec![255, 0].into()),
                Some(Said::Close(0)),
            ),
            (
                "base64.channel.k8s.io",
                Message::text("1aGk="),
                Message::Binary(b"0Zm9v".to_vec().into()),
                Some(Said::Data(0, Bytes::from("foo"))),
            ),
            (
                "v4.base64.channel.k8s.io",
                Message::text("1aGk="),
                Message::text("0???"),
                None,
            ),
        ] {
            let channels = Channels::of(protocol);
            assert_eq!(channels.message(1, b"hi"), sent, "{protocol}");
            assert_eq!(channels.read(comes), said, "{protocol}");
        }
    }

    #[test]
    fn the_end_is_a_status_or_a_text() {
        let (good, bad) = (json!({"status": "Success"}), json!({"status": "Failure", "message": "no"}));
        for (protocol, told) in [
            ("v4.channel.k8s.io", [Some(good.to_string()), Some(bad.to_string())]),
            ("v5.channel.k8s.io", [Some(good.to_string()), Some(bad.to_string())]),
            ("base64.channel.k8s.io", [None, Some("no".to_owned())]),
            ("", [None, Some("no".to_owned())]),
        ] {
            let channels = Channels::of(protocol);
            assert_eq!([channels.verdict(&good), channels.verdict(&bad)], told, "{protocol}");
        }
    }
}
