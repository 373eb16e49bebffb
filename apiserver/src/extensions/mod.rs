//! Kinds that come and go while the server runs: CRDs are followed, and what they define is served.
//!
//! | file | |
//! |---|---|
//! | `follow` | the task: every change of a CRD becomes a change of the catalog, and of the CRD's status |
//! | `definition` | what of a CRD is kept at hand |
//! | `names`, `conditions` | pure: who has which name, what the status should say |
//! | `serve` | from a CRD to kinds |
//! | `cleanup` | objects of a CRD that is going away |
//! | `versions`, `review` | conversion between versions, here or by a webhook |
//! | `columns` | printer columns |
//! | `discovery`, `openapi` | what is published of custom resources |
//!
//! A CRD is served first and called `Established` then: whoever sees the condition finds the kind, its discovery and its OpenAPI.

mod cleanup;
mod columns;
mod conditions;
mod definition;
pub mod discovery;
mod follow;
mod names;
pub mod openapi;
mod review;
mod serve;
mod versions;

pub use follow::Follower;
