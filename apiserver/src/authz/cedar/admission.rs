//! Policies are checked when they are written; those over `k8s::admission` may forbid writes.

use std::sync::Arc;

use async_trait::async_trait;
use cedar_policy::{Decision as Word, Entity};
use coracle_schema::FieldErrors;
use coracle_tree::Value;

use super::{Cedar, GROUP, POLICIES, entities, is_internal, named};
use crate::{
    admission::{Admission, Attempt, Operation, look},
    registry::Object,
    wire::Status,
};

/// The namespace that no policy closes: the cluster's own.
const OPEN: &str = "kube-system";

/// The plugin.
pub(crate) struct CedarPolicies(pub(crate) Arc<Cedar>);

#[async_trait]
impl Admission for CedarPolicies {
    fn name(&self) -> &'static str {
        "CedarPolicies"
    }

    fn concerns(&self, attempt: &Attempt<'_>) -> bool {
        look::is(attempt, GROUP, POLICIES) || !self.0.policies.read().is_empty()
    }

    async fn validate(&self, attempt: &mut Attempt<'_>, new: Option<&Object>) -> Result<(), Status> {
        if let Some(policy) = new.filter(|_| look::is(attempt, GROUP, POLICIES)) {
            self.check_policy(attempt, policy)?;
        }
        match self.forbidden(attempt, new) {
            Some(by) => Err(look::forbidden(attempt, new, &format!("Cedar: forbidden by {by}"))),
            None => Ok(()),
        }
    }
}

impl CedarPolicies {
    fn check_policy(&self, attempt: &Attempt<'_>, policy: &Object) -> Result<(), Status> {
        let content = policy.text("/spec/content");
        let strict = policy.at("/spec/validation/enforced").and_then(Value::as_bool).unwrap_or_default();
        let Err(why) = self.0.check(policy.name(), content, strict) else { return Ok(()) };
        let mut errors = FieldErrors::none();
        errors.invalid("spec.content", format!("{content:?}"), &why);
        Err(Status::invalid(attempt.kind.subject(policy.name()), &errors))
    }

    /// The policies that forbid the write.
    fn forbidden(&self, attempt: &Attempt<'_>, new: Option<&Object>) -> Option<String> {
        if is_internal(attempt.user) || attempt.request.namespace == OPEN {
            return None;
        }
        let action = match attempt.operation {
            Operation::Create => "create",
            Operation::Update => "update",
            Operation::Delete => "delete",
            Operation::Connect => "connect",
        };
        let (object, old) = match (new, attempt.old) {
            (Some(new), old) => (new, old),
            (None, old) => (old?, None),
        };
        let (principal, mut all) = entities::user(attempt.user)?;
        let (resource, objects) = entities::object(attempt, object.value(), old.map(Object::value))?;
        all.extend(objects);
        let every = entities::uid("k8s::admission::Action", "all")?;
        let action = entities::uid("k8s::admission::Action", action)?;
        all.push(Entity::new_no_attrs(every.clone(), std::collections::HashSet::new()));
        all.push(Entity::new_no_attrs(action.clone(), std::collections::HashSet::from([every])));
        let response = self.0.ask(principal, action, resource, all)?;
        let by = named(&response);
        // Where nothing is permitted and nothing forbidden, admission has nothing to say.
        (response.decision() == Word::Deny && !by.is_empty()).then_some(by)
    }
}
