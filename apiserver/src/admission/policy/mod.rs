//! ValidatingAdmissionPolicy and MutatingAdmissionPolicy: policies written as expressions (apiserver `admission/plugin/policy`).
//!
//! Policies are compiled once, when they are read; the index follows them and their bindings. A write that no policy could match costs a
//! look at two empty maps.

mod check;
mod compile;
mod environment;
mod evaluate;
mod index;
mod mutating;
mod params;
mod patch;
mod validating;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use coracle_tree::Value;

pub use check::faults;
pub(super) use compile::Policy;
pub(super) use evaluate::{Asked, Scene, conditions};
pub use index::Policies;
pub(super) use index::Set;
pub use mutating::MutatingAdmissionPolicy;
pub use validating::ValidatingAdmissionPolicy;

use super::{Attempt, matching::Equivalents, reach::Reach};
use crate::{
    authz,
    registry::{Reader, kind},
    wire::Status,
};

/// Where the resource of a kind is found: its name, and whether it is namespaced. Of parameters only the kind is known.
pub type Resources = Arc<dyn Fn(&str, &str) -> Option<(String, bool)> + Send + Sync>;

/// What both plugins work with.
#[derive(Clone)]
pub struct Engine {
    /// The policies there are.
    pub policies: Arc<Policies>,
    /// Where parameters and namespaces are read.
    pub reader: Arc<dyn Reader>,
    /// Whom expressions ask about access.
    pub authorizer: authz::Chain,
    /// The resource of an API version and kind.
    pub resources: Resources,
    /// What else serves the objects of a kind.
    pub equivalents: Equivalents,
}

/// What policies of the API never see: they could lock everyone out of mending them.
const EXEMPT: [&str; 4] =
    ["validatingadmissionpolicies", "validatingadmissionpolicybindings", "mutatingadmissionpolicies", "mutatingadmissionpolicybindings"];

/// Which policies see a write.
pub(super) fn reach(attempt: &Attempt<'_>) -> Reach {
    let request = attempt.request;
    match request.group.as_str() {
        "admissionregistration.k8s.io" if EXEMPT.contains(&request.resource.as_str()) => Reach::Files,
        group if kind::is_review(group, &request.resource) => Reach::Nobody,
        _ => Reach::All,
    }
}

/// The namespace of what is written, for expressions; none for what is in no namespace, and for namespaces.
pub(super) async fn namespace_of(reader: &dyn Reader, attempt: &Attempt<'_>) -> Result<Option<Value>, Status> {
    let name = attempt.request.namespace.as_str();
    if name.is_empty() || (attempt.request.resource == "namespaces" && attempt.request.group.is_empty()) {
        return Ok(None);
    }
    super::look::one(reader, "", "namespaces", "", name).await
}
