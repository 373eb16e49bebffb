//! Who may: one decision before dispatch, from [`crate::request::RequestInfo`] and the user. Handlers never authorize.

pub mod abac;
pub mod aggregation;
#[cfg(feature = "cedar")]
pub mod cedar;
pub mod configuration;
pub mod escalation;
pub mod graph;
pub mod index;
pub mod node;
pub mod policy;
pub mod rbac;
pub mod reviews;
pub mod rules;

mod authorizers;
mod chain;
mod conditions;
mod fixed;
pub(crate) mod mirror;
mod webhook;

use async_trait::async_trait;

pub(crate) use self::authorizers::Authorizers;
pub use self::{
    authorizers::Options,
    chain::{Chain, Link, Verdict},
};
use crate::{
    authn::User,
    request::RequestInfo,
    wire::{Status, status::Subject},
};

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
    /// What it is called in the configuration and in reasons.
    fn name(&self) -> &str;

    /// Decides over what it has in memory; never waits.
    fn decide(&self, user: &User, request: &RequestInfo) -> Decision;

    /// As [`Authorizer::decide`], with why it allows, where there is something to tell.
    fn explain(&self, user: &User, request: &RequestInfo) -> Verdict {
        self.decide(user, request).into()
    }

    /// What it allows the user in a namespace, for SelfSubjectRulesReview.
    fn rules(&self, _user: &User, _namespace: &str) -> rules::Known {
        rules::Known::default()
    }
}

/// An authorizer that asks somebody else.
#[async_trait]
pub trait Remote: Send + Sync {
    /// What it is called in the configuration and in reasons.
    fn name(&self) -> &str;

    /// Asks, within limits of its own.
    async fn ask(&self, user: &User, request: &RequestInfo) -> Verdict;

    /// What it knows to allow a user, for SelfSubjectRulesReview: usually that it cannot tell.
    fn rules(&self) -> rules::Known;
}

/// A way to decide, as `--authorization-mode` names it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Mode {
    /// Agents may what their own node needs.
    Node,
    /// Roles and bindings.
    Rbac,
    /// Anybody may do anything.
    AlwaysAllow,
    /// Nobody may do anything.
    AlwaysDeny,
    /// Policies in a file.
    Abac,
    /// Somebody else decides.
    Webhook,
    /// Policies in Cedar.
    #[cfg(feature = "cedar")]
    Cedar,
}

impl Mode {
    /// All there are, in the order in which upstream tells them.
    pub const ALL: &[Self] = &[
        Self::AlwaysAllow,
        Self::AlwaysDeny,
        Self::Abac,
        Self::Webhook,
        Self::Rbac,
        Self::Node,
        #[cfg(feature = "cedar")]
        Self::Cedar,
    ];

    /// As flags and files name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Node => "Node",
            Self::Rbac => "RBAC",
            Self::AlwaysAllow => "AlwaysAllow",
            Self::AlwaysDeny => "AlwaysDeny",
            Self::Abac => "ABAC",
            Self::Webhook => "Webhook",
            #[cfg(feature = "cedar")]
            Self::Cedar => "Cedar",
        }
    }

    /// The mode of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|mode| mode.name() == name)
    }
}

/// The group whose members may do everything.
pub const MASTERS: &str = "system:masters";

/// The 403 of a refused request (`endpoints/handlers/responsewriters/errors.go`).
pub fn forbidden(user: &User, request: &RequestInfo, reason: &str) -> Status {
    let mut why = refusal(user, request);
    if !reason.is_empty() {
        why.push_str(": ");
        why.push_str(reason);
    }
    if !request.is_resource {
        return Status::forbidden(Subject { group: "", resource: "", name: "" }, &why);
    }
    Status::forbidden(Subject { group: &request.group, resource: &request.resource, name: &request.name }, &why)
}

/// `User "x" cannot list resource "pods" in API group "" in the namespace "default"`
fn refusal(user: &User, request: &RequestInfo) -> String {
    let (name, verb) = (&user.name, &request.verb);
    if !request.is_resource {
        return format!("User {name:?} cannot {verb} path {:?}", request.path);
    }
    let mut resource = request.resource.clone();
    if !request.subresource.is_empty() {
        resource.push('/');
        resource.push_str(&request.subresource);
    }
    let place = match request.namespace.as_str() {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace {namespace:?}"),
    };
    format!("User {name:?} cannot {verb} resource {resource:?} in API group {:?} {place}", request.group)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> RequestInfo {
        RequestInfo {
            is_resource: true,
            verb: "list".into(),
            resource: "pods".into(),
            namespace: "default".into(),
            ..RequestInfo::default()
        }
    }

    #[test]
    fn refusals_read_as_upstreams() {
        let jane = User::new("jane", &[]);
        let message = |request: &RequestInfo| forbidden(&jane, request, "").message;
        assert_eq!(
            message(&request()),
            r#"pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "default""#
        );
        let scale = RequestInfo {
            verb: "update".into(),
            group: "apps".into(),
            resource: "deployments".into(),
            subresource: "scale".into(),
            name: "web".into(),
            namespace: String::new(),
            ..request()
        };
        assert_eq!(
            message(&scale),
            r#"deployments.apps "web" is forbidden: User "jane" cannot update resource "deployments/scale" in API group "apps" at the cluster scope"#
        );
        let path = RequestInfo { verb: "get".into(), path: "/metrics".into(), ..RequestInfo::default() };
        assert_eq!(message(&path), r#"forbidden: User "jane" cannot get path "/metrics""#);
    }
}
