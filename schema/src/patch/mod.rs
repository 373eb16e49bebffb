//! The three patch formats that compute a new object from an old one: JSON patch, merge patch, strategic merge patch.
//!
//! Which error is whose fault follows kube-apiserver's `endpoints/handlers/patch.go`.

mod json;
mod merge;
mod order;
mod strategic;

pub use json::json_patch;
pub use merge::merge_patch;
pub use strategic::strategic_merge_patch;

/// Why a patch was refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PatchError {
    /// The patch is malformed: 400 `BadRequest`.
    #[error("{0}")]
    BadRequest(String),
    /// The patch does not apply to this object, or one of its tests failed: 422 `Invalid`. Upstream does not tell the client why: the answer's
    /// message is [`PatchError::REJECTED`], its details are `{}`; the text here is for the log.
    #[error("{0}")]
    Rejected(String),
    /// The patch has too many operations: 413 `RequestEntityTooLarge`.
    #[error("Request entity too large: {0}")]
    TooLarge(String),
    /// The patch cannot be merged: upstream answers 500 without a reason, with this message.
    #[error("{0}")]
    Unmergeable(String),
}

impl PatchError {
    /// What clients are told of [`PatchError::Rejected`].
    pub const REJECTED: &'static str = "the server rejected our request due to an error in our request";
}

#[cfg(test)]
mod upstream;
