//! ValidatingAdmissionPolicy (apiserver `plugin/policy/validating/{dispatcher,validator}.go`).

use std::sync::OnceLock;

use async_trait::async_trait;
use coracle_cel::{Val, limits};
use serde_json::{Value, json};

use super::{
    Engine,
    compile::{Expression, Policy, Validation},
    evaluate::{Asked, Evaluation, Scene, conditions},
    index::Binding,
    is_exempt, namespace_of, params,
};
use crate::{
    admission::{
        Admission, Attempt, look,
        matching::{Subject, matches},
        mirror,
        request::describe,
    },
    registry::Object,
    wire::Status,
};

/// The plugin.
pub struct ValidatingAdmissionPolicy(pub Engine);

/// A refusal, or what would be one.
struct Denial {
    message: String,
    reason: String,
}

impl Denial {
    fn new(message: String) -> Self {
        Self { message, reason: String::new() }
    }
}

#[async_trait]
impl Admission for ValidatingAdmissionPolicy {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionPolicy"
    }

    fn concerns(&self, attempt: &Attempt<'_>) -> bool {
        !self.0.policies.validating.is_empty() && !is_exempt(attempt)
    }

    async fn refresh(&self) {
        let engine = &self.0;
        mirror::told("validating admission policies", engine.policies.validating.read(&*engine.reader).await);
    }

    async fn validate(&self, attempt: &mut Attempt<'_>, new: Option<&Object>) -> Result<(), Status> {
        let engine = &self.0;
        let namespace = namespace_of(&*engine.reader, attempt).await?;
        let mut warnings = Vec::new();
        let mut refused: Option<(Denial, String)> = None;
        // The same for all policies, and for none where none matches.
        let request = OnceLock::new();
        for (policy, bindings) in &*engine.policies.validating.hooks() {
            let subject = Subject { attempt, new, namespace: namespace.as_ref(), equivalents: &engine.equivalents };
            match matches(policy.criteria.as_ref(), &subject) {
                Ok(Some(_)) => {}
                Ok(None) => continue,
                Err(why) => {
                    configuration(policy, None, &why, &mut refused);
                    continue;
                }
            }
            for binding in bindings {
                match matches(binding.criteria.as_ref(), &subject) {
                    Ok(Some(_)) => {}
                    Ok(None) => continue,
                    Err(why) => {
                        configuration(policy, Some(binding), &why, &mut refused);
                        continue;
                    }
                }
                let found = match params::collect(engine, policy, binding, &subject.attempt.request.namespace).await {
                    Ok(found) => found,
                    Err(why) => {
                        configuration(policy, Some(binding), &why, &mut refused);
                        continue;
                    }
                };
                for param in &found {
                    let asked = Asked::new(&engine.authorizer, subject.attempt.user);
                    let scene = Scene {
                        policy,
                        attempt: subject.attempt,
                        object: new.map_or(&Value::Null, Object::value),
                        old: subject.attempt.old.map_or(&Value::Null, Object::value),
                        namespace: namespace.as_ref().unwrap_or(&Value::Null),
                        request: request.get_or_init(|| describe(subject.attempt, new, None)),
                        params: param,
                        asked: &asked,
                    };
                    let ask = || ask(&scene);
                    for denial in asked.until_known(ask).await {
                        act(policy, binding, denial, &mut warnings, &mut refused);
                    }
                }
            }
        }
        attempt.warnings.extend(warnings);
        refused.map_or(Ok(()), |(denial, message)| Err(refusal(attempt, new, &denial, &message)))
    }
}

fn told(policy: &Policy, binding: Option<&Binding>, message: &str) -> String {
    match binding {
        Some(binding) => format!("ValidatingAdmissionPolicy '{}' with binding '{}' denied request: {message}", policy.name, binding.name),
        None => format!("ValidatingAdmissionPolicy '{}' denied request: {message}", policy.name),
    }
}

/// Something about the policy keeps it from being asked.
fn configuration(policy: &Policy, binding: Option<&Binding>, why: &str, refused: &mut Option<(Denial, String)>) {
    if !policy.fails_closed || refused.is_some() {
        return;
    }
    let what = if binding.is_some() { "binding" } else { "policy" };
    let message = format!("failed to configure {what}: {why}");
    let told = told(policy, binding, &message);
    *refused = Some((Denial::new(message), told));
}

/// Does with a denial what the binding says.
fn act(policy: &Policy, binding: &Binding, denial: Denial, warnings: &mut Vec<String>, refused: &mut Option<(Denial, String)>) {
    let actions = look::list(&binding.spec, "/validationActions");
    if actions.iter().any(|action| action == "Warn") {
        let (policy, binding) = (&policy.name, &binding.name);
        let message = &denial.message;
        warnings.push(format!("Validation failed for ValidatingAdmissionPolicy '{policy}' with binding '{binding}': {message}"));
    }
    if actions.iter().any(|action| action == "Deny") && refused.is_none() {
        let told = told(policy, Some(binding), &denial.message);
        *refused = Some((denial, told));
    }
}

/// All that the policy has against the write.
fn ask(scene: &Scene<'_>) -> Vec<Denial> {
    let policy = scene.policy;
    let closed = policy.fails_closed;
    let failure = |why: String| if closed { vec![Denial::new(why)] } else { Vec::new() };
    match conditions(scene) {
        Ok(true) => {}
        Ok(false) => return Vec::new(),
        Err(why) => return failure(why),
    }
    let evaluation = Evaluation::new(scene, limits::RUNTIME_BUDGET);
    let mut results = Vec::with_capacity(policy.validations.len());
    for validation in &policy.validations {
        match evaluation.run(&validation.expression) {
            Ok(result) => results.push(result),
            Err(why) => return failure(why),
        }
    }
    let mut denials = Vec::new();
    if results.iter().any(|result| !matches!(result, Ok(Val::Bool(true)))) {
        let messages = Evaluation::new(scene, evaluation.budget.get());
        for (validation, result) in policy.validations.iter().zip(results) {
            match result {
                Ok(Val::Bool(true)) => {}
                Ok(_) => denials.extend(denied(validation, &messages, closed)),
                Err(why) => denials.extend(closed.then(|| Denial::new(why))),
            }
        }
    }
    if !policy.annotations.is_empty() {
        denials.extend(annotations(scene, closed));
    }
    denials
}

fn denied<'a>(validation: &'a Validation, messages: &Evaluation<'a>, closed: bool) -> Option<Denial> {
    let computed = match &validation.message_expression {
        Some(expression) => match message(expression, messages) {
            Ok(message) => message,
            Err(why) => return closed.then(|| Denial::new(format!("failed messageExpression: {why}"))),
        },
        None => None,
    };
    let message = computed.unwrap_or_else(|| match validation.message.trim() {
        "" => format!("failed expression: {}", validation.expression.text.trim()),
        message => message.to_owned(),
    });
    let reason = if validation.reason.is_empty() { "Invalid" } else { &validation.reason };
    Some(Denial { message, reason: reason.to_owned() })
}

/// The message that an expression makes, if it makes one that can be shown.
fn message<'a>(expression: &'a Expression, messages: &Evaluation<'a>) -> Result<Option<String>, String> {
    let result = messages.run(expression)?;
    let text = result.ok().and_then(|value| value.as_str().map(|text| text.trim().to_owned()));
    Ok(text.filter(|text| !text.is_empty() && text.len() <= limits::MESSAGE_BYTES && !text.contains('\n')))
}

/// What is wrong with the audit annotations.
fn annotations(scene: &Scene<'_>, closed: bool) -> Vec<Denial> {
    let evaluation = Evaluation::new(scene, limits::RUNTIME_BUDGET);
    let mut wrong = Vec::new();
    for annotation in &scene.policy.annotations {
        match evaluation.run(&annotation.value) {
            Ok(Ok(_)) => {}
            Ok(Err(why)) => wrong.push(Denial::new(why)),
            Err(why) => {
                wrong.push(Denial::new(why));
                break;
            }
        }
    }
    if closed { wrong } else { Vec::new() }
}

fn refusal(attempt: &Attempt<'_>, new: Option<&Object>, denial: &Denial, message: &str) -> Status {
    let mut status = look::forbidden(attempt, new, message);
    (status.code, status.reason) = match denial.reason.as_str() {
        "Forbidden" => (403, "Forbidden"),
        "Unauthorized" => (401, "Unauthorized"),
        "RequestEntityTooLarge" => (413, "RequestEntityTooLarge"),
        _ => (422, "Invalid"),
    };
    let name = attempt.name(new);
    if status.details.is_null() {
        status.details = json!({"name": name});
    }
    status.details["causes"] = json!([{"message": message}]);
    status
}
