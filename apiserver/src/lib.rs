//! The Kubernetes API server: requests in, answers out. One path for every kind.
//!
//! Map: `request` (path grammar, layers) → `verbs` (one file per verb) → `admission`, `registry`, schema crate → store crate.
//! `kinds` holds the odd rules of single kinds and depends on `registry` only; `wire` (encodings) is a leaf.

pub mod admission;
pub mod authn;
pub mod authz;
pub mod kinds;
pub mod registry;
pub mod request;
pub mod verbs;
pub mod wire;
