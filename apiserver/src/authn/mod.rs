//! Who asks: client certificates, service-account tokens, in-process identities, anonymous.

pub mod bearer;
pub mod certificates;
pub mod claims;
pub mod issuer;
pub mod join;
pub mod jwt;
pub mod keys;
pub mod legacy;
pub mod possession;
pub mod reviews;
pub mod tokens;

mod authenticator;
mod authorities;
pub(crate) mod cache;
mod external;
mod frontproxy;
pub(crate) mod published;
pub(crate) mod tracking;
mod webhook;

pub use authenticator::{Anonymous, Authenticator, Options, Recognised};
pub use authorities::{Authorities, Peer};
pub use cache::Remembered;
pub use external::Signer;
pub use frontproxy::FrontProxy;
pub(crate) use jwt::domain_prefixed_path;
pub use webhook::{Version, WebhookOptions};

pub use crate::user::User;

/// The extra that names the credential itself (`JTI=…`, `X509SHA256=…`).
pub const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";
