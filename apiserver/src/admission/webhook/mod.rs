//! MutatingAdmissionWebhook and ValidatingAdmissionWebhook (apiserver `admission/plugin/webhook`).
//!
//! | file | |
//! |---|---|
//! | `hook` | a webhook of a configuration, made ready, and whether it is to be asked |
//! | `index` | the webhooks there are |
//! | `review` | the question: an `AdmissionReview` |
//! | `answer` | what of the answer is taken |
//! | `configuration` | as whom they are asked |
//! | `call` | one question to one webhook |
//! | `mutating`, `validating` | the plugins |
//!
//! A write that no webhook is configured for costs a look at an empty list.

mod answer;
mod call;
mod configuration;
mod hook;
mod index;
mod mutating;
mod review;
mod validating;

#[cfg(test)]
mod tests;

use std::{borrow::Cow, sync::Arc};

use coracle_schema::SchemaRef;
use serde_json::json;

pub use index::Webhooks;
pub use mutating::MutatingAdmissionWebhook;
pub use validating::ValidatingAdmissionWebhook;

use super::{
    Attempt,
    matching::{Equivalents, Matched},
};
use crate::{
    authz,
    registry::{Object, Reader, convert},
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

/// The 500 of a webhook: upstream names the cause twice (`apierrors.NewInternalError`).
fn internal(why: &str) -> Status {
    let mut status = Status::internal(why);
    status.details = json!({"causes": [{"message": why}]});
    status
}

/// An object in the version a webhook asked for. The kinds of subresources have one version.
async fn versioned<'o>(attempt: &Attempt<'_>, matched: &Matched, object: &'o Object) -> Result<Cow<'o, Object>, Status> {
    let Some(other) = matched else { return Ok(Cow::Borrowed(object)) };
    let same = attempt.part_of(other).is_some_and(|(gvk, _)| gvk == attempt.gvk());
    if same {
        return Ok(Cow::Borrowed(object));
    }
    let made = convert::between(attempt.kind, other, object).await;
    made.map(Cow::Owned).map_err(|status| internal(&status.message))
}
