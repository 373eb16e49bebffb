//! MutatingAdmissionWebhook and ValidatingAdmissionWebhook (apiserver `admission/plugin/webhook`).
//!
//! | file | |
//! |---|---|
//! | `hook` | a webhook of a configuration, made ready, and whether it is to be asked |
//! | `index` | the webhooks there are |
//! | `review` | the question: an `AdmissionReview` |
//! | `answer` | what of the answer is taken |
//! | `configuration` | as whom they are asked, and those of files |
//! | `call` | one question to one webhook |
//! | `mutating`, `validating` | the plugins |
//!
//! A write that no webhook is configured for costs a look at an empty list.

mod answer;
mod call;
pub(super) mod configuration;
mod hook;
mod index;
mod mutating;
mod review;
mod validating;

#[cfg(test)]
mod tests;

use std::{borrow::Cow, sync::Arc};

use coracle_schema::SchemaRef;
use coracle_tree::json;

pub(super) use index::Configured;
pub use index::Webhooks;
pub use mutating::MutatingAdmissionWebhook;
pub use validating::ValidatingAdmissionWebhook;

use super::{
    Attempt,
    matching::{self, Equivalents, Matched},
    policy,
    reach::Reach,
};
use crate::{
    authz,
    registry::{Object, Reader},
    wire::Status,
};

/// What both plugins work with.
#[derive(Clone)]
pub struct Engine {
    /// The webhooks there are.
    pub webhooks: Arc<Webhooks>,
    /// Where namespaces and services are read.
    pub reader: Arc<dyn Reader>,
    /// Whom match conditions ask about access.
    pub authorizer: authz::Chain,
    /// What else serves the objects of a kind.
    pub equivalents: Equivalents,
    /// What an `AdmissionReview` is.
    pub review: SchemaRef,
}

/// Which webhooks see a write: those of the API see neither what policies do not see, nor their own configurations.
fn reach(attempt: &Attempt<'_>) -> Reach {
    let request = attempt.request;
    let own = matches!(&*request.resource, "validatingwebhookconfigurations" | "mutatingwebhookconfigurations");
    if own && request.group == "admissionregistration.k8s.io" { Reach::Files } else { policy::reach(attempt) }
}

/// The 500 of a webhook: upstream names the cause twice (`apierrors.NewInternalError`).
fn internal(why: &str) -> Status {
    let mut status = Status::internal(why);
    status.details = json!({"causes": [{"message": why}]});
    status
}

/// An object in the version a webhook asked for.
async fn versioned<'o>(attempt: &Attempt<'_>, matched: &Matched, object: &'o Object) -> Result<Cow<'o, Object>, Status> {
    matching::versioned(attempt, matched, object).await.map_err(|status| internal(&status.message))
}
