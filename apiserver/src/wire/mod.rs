//! Encodings and the one error. A leaf: knows nothing of verbs or stores.

pub mod answer;
pub mod body;
pub(crate) mod configuration;
pub mod gzip;
pub mod negotiate;
pub mod parts;
pub mod pretty;
mod rope;
pub mod status;
pub mod table;
pub(crate) mod tunnel;
pub mod yaml;

pub use answer::Answer;
pub use body::{Body, Sending};
pub use negotiate::{BodyEncoding, Encoding, Form, Offer, PatchType, Wanted};
pub use rope::Rope;
pub use status::Status;

/// Protobuf messages that are not of the API: the few there are, by hand.
pub(crate) use coracle_store::grpc::message;
