//! Authorizers that look at nothing (`apiserver/pkg/authorization/authorizerfactory/builtin.go`).

use super::{Authorizer, Decision, policy::Rule, rules::Known};
use crate::{authn::User, request::RequestInfo};

/// `AlwaysAllow`
pub(super) struct Allow;

impl Authorizer for Allow {
    fn name(&self) -> &str {
        "alwaysallow"
    }

    fn decide(&self, _user: &User, _request: &RequestInfo) -> Decision {
        Decision::Allow
    }

    fn rules(&self, _user: &User, _namespace: &str) -> Known {
        Known::of([[Rule::everything(), Rule::every_path()].into()])
    }
}

/// `AlwaysDeny`
pub(super) struct Deny;

impl Authorizer for Deny {
    fn name(&self) -> &str {
        "alwaysdeny"
    }

    fn decide(&self, _user: &User, _request: &RequestInfo) -> Decision {
        Decision::NoOpinion("Everything is forbidden.".to_owned())
    }
}
