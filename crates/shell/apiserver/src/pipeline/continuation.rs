//! Continue tokens: base64 of `{"v":"meta.k8s.io/v1","rv":N,"start":"…"}`, as upstream's.
//!
//! Invariant: `start` is relative to the collection's prefix; a revision of -1 means "whatever is there now".

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use trireme_api::Status;

const VERSION: &str = "meta.k8s.io/v1";

/// Go does not mind bits behind the last byte.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

#[derive(Serialize, Deserialize)]
struct Token {
    v: String,
    rv: i64,
    start: String,
}

/// Where a list goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Continuation {
    /// The revision of the first page; negative for an inconsistent continuation.
    pub revision: i64,
    /// First key that may come next, relative to the prefix.
    pub start: String,
}

impl Continuation {
    /// A token for the page after key `last` (relative to the prefix).
    #[must_use]
    pub fn after(last: &str, revision: i64) -> String {
        let token = Token {
            v: VERSION.to_owned(),
            rv: revision,
            start: format!("{last}\0"),
        };
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).expect("a token serialises"))
    }

    /// The same place at whatever revision is there when it is used.
    #[must_use]
    pub fn inconsistent(&self) -> String {
        let token = Token {
            v: VERSION.to_owned(),
            rv: -1,
            start: self.start.clone(),
        };
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).expect("a token serialises"))
    }

    /// Reads a token.
    ///
    /// # Errors
    /// 400 with upstream's text.
    pub fn parse(text: &str) -> Result<Self, Status> {
        let bad = |why: &str| Status::bad_request(format!("invalid continue token: continue key is not valid: {why}"));
        let bytes = LENIENT
            .decode(text.trim_end_matches('='))
            .map_err(|error| bad(&error.to_string()))?;
        let token: Token = serde_json::from_slice(&bytes).map_err(|_| match bytes.first() {
            None => bad("unexpected end of JSON input"),
            Some(first) if *first == b'{' => bad("unexpected end of JSON input"),
            Some(_) => {
                let first = String::from_utf8_lossy(&bytes).chars().next().unwrap_or_default();
                let shown = match first {
                    '\u{fffd}' => format!("\\u{:04x}", bytes[0]),
                    other => other.to_string(),
                };
                bad(&format!("invalid character '{shown}' looking for beginning of value"))
            }
        })?;
        if token.v != VERSION {
            return Err(bad(&format!("server does not recognize this encoded version {}", token.v)));
        }
        if token.start.is_empty() {
            return Err(bad("encoded start key empty (version meta.k8s.io/v1)"));
        }
        if token.start.starts_with('/') || token.start.split('/').any(|part| part == "..") {
            return Err(bad(&format!("invalid encoded start key: {}", token.start)));
        }
        Ok(Self {
            revision: token.rv,
            start: token.start,
        })
    }

    /// The key behind which the next page begins, for [`trireme_store::Store::range`].
    #[must_use]
    pub fn after_key(&self, prefix: &str) -> String {
        format!("{prefix}{}", self.start.strip_suffix('\0').unwrap_or(&self.start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_and_bad_ones_are_named() {
        let token = Continuation::parse(&Continuation::after("page-2", 7)).unwrap();
        assert_eq!((token.revision, token.start.as_str()), (7, "page-2\0"));
        assert_eq!(token.after_key("/configmaps/a/"), "/configmaps/a/page-2");
        assert_eq!(Continuation::parse(&token.inconsistent()).unwrap().revision, -1);
        for (text, message) in [
            (
                "eyJ2IjoidjkiLCJydiI6MSwic3RhcnQiOiJhIn0",
                "invalid continue token: continue key is not valid: server does not recognize this encoded version v9",
            ),
            (
                "garbage",
                "invalid continue token: continue key is not valid: invalid character '\\u0081' looking for beginning of value",
            ),
        ] {
            assert_eq!(Continuation::parse(text).unwrap_err().message, message);
        }
    }
}
