//! Encodings and the one error. A leaf: knows nothing of verbs or stores.

pub mod status;

pub use status::Status;
