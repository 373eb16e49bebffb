//! Whether the expressions of a policy or webhook configuration compile (`pkg/apis/admissionregistration/validation`). A check of its own
//! because only admission knows what expressions may say; it cannot be switched off.

use async_trait::async_trait;
use coracle_schema::FieldErrors;
use serde_json::Value;

use super::compile::{Compiled, Expression, Policy};
use crate::{
    admission::{Admission, Attempt, Operation, look::list, mirror::GROUP},
    registry::Object,
    wire::Status,
};

/// The check as a plugin.
pub struct Expressions;

#[async_trait]
impl Admission for Expressions {
    fn name(&self) -> &'static str {
        "Expressions"
    }

    fn concerns(&self, attempt: &Attempt<'_>) -> bool {
        let written = matches!(attempt.operation, Operation::Create | Operation::Update);
        written && attempt.request.group == GROUP && attempt.request.subresource.is_empty()
    }

    async fn validate(&self, attempt: &mut Attempt<'_>, new: Option<&Object>) -> Result<(), Status> {
        let Some(new) = new else { return Ok(()) };
        let mut errors = FieldErrors::none();
        match &*attempt.kind.gvk.kind {
            "ValidatingAdmissionPolicy" => policy(new.value(), false, &mut errors),
            "MutatingAdmissionPolicy" => policy(new.value(), true, &mut errors),
            "ValidatingWebhookConfiguration" | "MutatingWebhookConfiguration" => {
                for (at, webhook) in list(new.value(), "/webhooks").iter().enumerate() {
                    let made = Policy::of(&serde_json::json!({"spec": {"matchConditions": webhook.get("matchConditions")}}), false);
                    conditions(&made, &format!("webhooks[{at}]"), &mut errors);
                }
            }
            _ => {}
        }
        if errors.is_empty() { Ok(()) } else { Err(Status::invalid(attempt.kind.kind_subject(new.name()), &errors)) }
    }
}

fn policy(object: &Value, mutating: bool, errors: &mut FieldErrors) {
    let made = Policy::of(object, mutating);
    conditions(&made, "spec", errors);
    for (at, (_, variable)) in made.variables.iter().enumerate() {
        say(variable, &format!("spec.variables[{at}].expression"), errors);
    }
    for (at, validation) in made.validations.iter().enumerate() {
        say(&validation.expression, &format!("spec.validations[{at}].expression"), errors);
        if let Some(message) = &validation.message_expression {
            say(message, &format!("spec.validations[{at}].messageExpression"), errors);
        }
    }
    for (at, annotation) in made.annotations.iter().enumerate() {
        say(&annotation.value, &format!("spec.auditAnnotations[{at}].valueExpression"), errors);
    }
    for (at, mutation) in made.mutations.iter().enumerate() {
        let field = if mutation.json_patch { "jsonPatch" } else { "applyConfiguration" };
        say(&mutation.expression, &format!("spec.mutations[{at}].{field}.expression"), errors);
    }
}

fn conditions(made: &Policy, path: &str, errors: &mut FieldErrors) {
    for (at, condition) in made.conditions.iter().enumerate() {
        say(condition, &format!("{path}.matchConditions[{at}].expression"), errors);
    }
}

/// What is missing is told by the kind's own rules.
fn say(Expression { text, program, .. }: &Expression, path: &str, errors: &mut FieldErrors) {
    let program: &Compiled = program;
    if let Err(why) = program
        && !text.trim().is_empty()
    {
        errors.invalid(path, Value::from(text.as_str()), why);
    }
}
