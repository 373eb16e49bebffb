//! The image store of the embedded runtime: pulls from registries, imports archives, keeps each layer unpacked once.
//!
//! On disk, under one directory:
//!
//! - `blobs/sha256/<hex>`: image configurations, as received.
//! - `layers/<28 hex>/`: one unpacked layer, named by its diff id, in overlayfs form (whiteouts are 0/0 devices, opaque directories carry
//!   `trusted.overlay.opaque`). The short name keeps 127 `lowerdir`s below the page that `mount(2)` takes.
//! - `index.json`: which images exist and which references mean them. Replaced whole.
//! - `ingest/`: what is not finished; partial downloads survive a restart, partial layers do not.
//!
//! Order of writes, so that a power cut leaves no torn layer: unpack beside, `syncfs`, rename, sync the directory, then the index.

mod archive;
mod config;
mod disk;
mod folder;
mod index;
mod layer;
mod pull;
mod reference;
mod store;

pub use config::ImageConfig;
pub use reference::ImageReference;
pub use store::{Registries, Store, Use};

/// What goes wrong in the image store.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The reference does not parse.
    #[error("couldn't parse image name {reference:?}: {reason}")]
    InvalidReference {
        /// As written.
        reference: String,
        /// Which rule it breaks.
        reason: String,
    },
    /// The registry wants other credentials, or hides the repository.
    #[error("pull access denied, repository does not exist or may require authorization: {0}")]
    Denied(String),
    /// The registry has no such repository, tag or digest, or none for this platform.
    #[error("{0}: not found")]
    NotFound(String),
    /// No answer from the registry.
    #[error("{0}")]
    Unavailable(String),
    /// The registry answered something else.
    #[error("{0}")]
    Registry(String),
    /// Bytes do not have the digest they should have, or an archive or manifest is malformed.
    #[error("{0}")]
    Corrupt(String),
    /// The file system refused.
    #[error("{what}: {source}")]
    Io {
        /// What was attempted, with its path.
        what: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The image is used by containers.
    #[error("image {0} is in use by a container")]
    InUse(String),
}

impl ImageError {
    /// A function for `map_err` that names what was attempted.
    pub(crate) fn io<E: Into<std::io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> ImageError {
        let what = what.into();
        move |source| ImageError::Io { what, source: source.into() }
    }
}

/// Shorthand for results of the store.
pub(crate) type Result<T> = std::result::Result<T, ImageError>;

#[cfg(test)]
pub(crate) use archive::tests;

#[cfg(test)]
mod registry_tests;
