//! Authorizers that look at nothing (`apiserver/pkg/authorization/authorizerfactory/builtin.go`).

use super::{Authorizer, Decision, policy::Rule, rules::Known};
use crate::{authn::User, request::RequestInfo};

/// `AlwaysAllow`
pub(super) struct Allow;

impl Authorizer for Allow {
    fn decide(&self, _user: &User, _request: &RequestInfo) -> Decision {
        Decision::Allow
    }

    fn rules(&self, _user: &User, _namespace: &str) -> Known {
        let mut known = Known::default();
        known.resource.push(Rule::everything());
        known.other.push(Rule::every_path());
        known
    }
}

/// `AlwaysDeny`
pub(super) struct Deny;

impl Authorizer for Deny {
    fn decide(&self, _user: &User, _request: &RequestInfo) -> Decision {
        Decision::NoOpinion("Everything is forbidden.".to_owned())
    }
}
