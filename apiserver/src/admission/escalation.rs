//! Roles and bindings grant no more than their writer holds. Upstream does this in their storage, after all admission.

use async_trait::async_trait;

use super::{Admission, Attempt, Operation};
use crate::{authz::escalation::Escalation, registry::Object, wire::Status};

/// The check as a plugin; it cannot be switched off.
pub struct RoleEscalation(pub Escalation);

#[async_trait]
impl Admission for RoleEscalation {
    fn name(&self) -> &'static str {
        "RoleEscalation"
    }

    fn concerns(&self, attempt: &Attempt<'_>) -> bool {
        matches!(attempt.operation, Operation::Create | Operation::Update) && Escalation::concerns(attempt.request)
    }

    async fn validate(&self, attempt: &mut Attempt<'_>, new: Option<&Object>) -> Result<(), Status> {
        match new {
            Some(new) => self.0.check(attempt.user, attempt.request, new, attempt.old).await,
            None => Ok(()),
        }
    }
}
