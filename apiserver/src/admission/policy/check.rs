//! Whether the expressions of a policy or webhook configuration compile (`pkg/apis/admissionregistration/validation`). Not among the kind's
//! rules because only admission knows what expressions may say.

use coracle_schema::FieldErrors;
use coracle_tree::{Value, json};

use super::compile::{Compiled, Expression, Policy};
use crate::{
    admission::{look::list, mirror::GROUP},
    registry::Kind,
};

/// What is wrong with the expressions of an object; of most kinds nothing.
pub fn faults(kind: &Kind, object: &Value) -> FieldErrors {
    let mut errors = FieldErrors::none();
    if &*kind.id.group != GROUP {
        return errors;
    }
    match &*kind.gvk.kind {
        "ValidatingAdmissionPolicy" => policy(object, false, &mut errors),
        "MutatingAdmissionPolicy" => policy(object, true, &mut errors),
        "ValidatingWebhookConfiguration" | "MutatingWebhookConfiguration" => {
            for (at, webhook) in list(object, "/webhooks").iter().enumerate() {
                let made = Policy::of(&json!({"spec": {"matchConditions": webhook.get("matchConditions")}}), false);
                conditions(&made, &format!("webhooks[{at}]"), &mut errors);
            }
        }
        _ => {}
    }
    errors
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
