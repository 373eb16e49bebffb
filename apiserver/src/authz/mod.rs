//! Who may: one decision before dispatch, from [`crate::request::RequestInfo`] and the user. Handlers never authorize.

use crate::{authn::User, request::RequestInfo};

/// An authorizer's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Go ahead.
    Allow,
    /// Stop here.
    Deny(String),
    /// Ask the next; if nobody allows it, it is refused, with this reason if not empty.
    NoOpinion(String),
}

/// One authorizer (node, RBAC, …). Asked in order; the first that allows or denies wins.
pub trait Authorizer: Send + Sync {
    /// Decides over what it has in memory; never waits.
    fn decide(&self, user: &User, request: &RequestInfo) -> Decision;
}
