//! JSON values to and from Kubernetes' protobuf.
//!
//! Invariant: encoding equals what upstream's generated code writes for the same object: non-pointer scalars and
//! messages always, pointers when present, maps sorted by key.

mod read;
#[cfg(test)]
mod tests;
mod write;

pub use read::{decode, decode_unknown, unwrap};
pub use write::{encode, encode_list, encode_watch_event, wrap};

use crate::cost::CostError;

/// What stands before every top-level object.
pub const MAGIC: &[u8; 4] = b"k8s\0";

/// `runtime.Unknown`: the envelope of a top-level object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unknown {
    /// `apiVersion`.
    pub api_version: String,
    /// `kind`.
    pub kind: String,
    /// The bare message.
    pub raw: Vec<u8>,
    /// Encoding of `raw`, normally empty.
    pub content_encoding: String,
    /// Media type of `raw`, normally empty.
    pub content_type: String,
}

/// Why bytes are no such message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    /// The envelope's magic is missing.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    Magic,
    /// The bytes end inside a field.
    #[error("unexpected EOF")]
    Truncated,
    /// A length or varint that cannot be.
    #[error("proto: integer overflow")]
    Overflow,
    /// A field has another wire type than its type has.
    #[error("proto: wrong wireType = {wire} for field {field}")]
    WireType {
        /// Name of the field.
        field: String,
        /// Wire type found.
        wire: u8,
    },
    /// A string that is not UTF-8, or embedded JSON that is none.
    #[error("proto: invalid content of field {field}")]
    Content {
        /// Name of the field.
        field: String,
    },
    /// Messages nested deeper than any type needs.
    #[error("proto: nested too deep")]
    Depth,
    /// The message would cost too much.
    #[error(transparent)]
    Cost(#[from] CostError),
}
