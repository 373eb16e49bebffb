//! Kubernetes' protobuf, by the field numbers of the tables, in both directions: what typed clients speak unless they are told not to.
//!
//! A body is four magic bytes and a `runtime.Unknown` (apimachinery's `runtime/serializer/protobuf`): version and kind, and the message.
//! Answers are made from the JSON bytes an object is cached as, read no further than needed, or of the value where there is one ([`encode`]),
//! byte for byte as the generated code of the Go types writes them: ascending field numbers, sorted maps, zero values of all that is no
//! pointer there.

pub mod decode;
pub mod duration;
pub mod encode;
pub mod envelope;
mod node;
mod plan;
mod scalar;
#[cfg(test)]
mod tests;
mod wire;

pub use decode::{decode, type_of};
pub use encode::{message, message_of};
pub use envelope::{MAGIC, envelope};
pub(crate) use plan::Plan;

/// Messages nested deeper than this are refused, as in JSON.
const DEPTH: usize = 100;

/// Why a body is not what it says, or an object cannot be written.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProtoError {
    /// It does not begin with the magic bytes.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NotProtobuf,
    /// There is nothing at all.
    #[error("empty data")]
    NoData,
    /// There is nothing behind the magic bytes.
    #[error("empty body")]
    NoBody,
    /// It breaks off within a field.
    #[error("unexpected EOF")]
    Truncated,
    /// A field has another wire type than its table says, or its content does not read.
    #[error("field {0} does not read as the type it has")]
    Mismatch(String),
    /// Nested too deep.
    #[error("nested deeper than {DEPTH} messages")]
    TooDeep,
    /// The JSON of an object is not of its schema.
    #[error("object cannot be written as protobuf: {0}")]
    Unwritable(String),
}

impl crate::SchemaRef {
    /// Whether the message has a protobuf form: custom resources have none.
    pub fn has_protobuf(&self) -> bool {
        self.root().fields.iter().any(|field| field.number.is_some())
    }
}
