//! ValidatingAdmissionPolicy (apiserver `plugin/policy/validating/{dispatcher,validator}.go`).

use std::{borrow::Cow, sync::OnceLock};

use async_trait::async_trait;
use coracle_cel::{Val, limits};
use coracle_schema::go;
use coracle_tree::{Value, json};
use serde::Serialize;

use super::{
    Engine,
    compile::{Expression, Policy, Validation},
    evaluate::{Asked, Evaluation, Scene, common, conditions},
    index::Binding,
    namespace_of, params, reach,
};
use crate::{
    admission::{
        Admission, Attempt, look,
        matching::{Matched, Subject, matches, versioned},
        request::describe,
    },
    audit::Level,
    registry::Object,
    wire::Status,
};

/// The plugin.
pub struct ValidatingAdmissionPolicy(pub Engine);

/// Bytes of an audit annotation.
const NOTE_BYTES: usize = 10 * 1024;
/// Failures told to the audit log of one write.
const FAILURES: usize = 50;

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
        self.0.policies.validating.any(|| reach(attempt))
    }

    async fn refresh(&self) {
        let engine = &self.0;
        engine.policies.validating.refresh(&*engine.reader).await;
    }

    async fn validate(&self, attempt: &mut Attempt<'_>, new: Option<&Object>) -> Result<(), Status> {
        let engine = &self.0;
        let hooks = engine.policies.validating.hooks(reach(attempt)).ok_or_else(|| look::unready(attempt, new))?;
        let asks_namespace = hooks.iter().any(|(policy, bindings)| policy.asks_namespace() || bindings.iter().any(|b| b.asks_namespace()));
        let namespace = if asks_namespace { namespace_of(&*engine.reader, attempt).await? } else { None };
        let asked = Asked::new(&engine.authorizer, attempt.user);
        let mut verdict = Verdict::default();
        // The same for all policies that match in the version asked for, and for none where none matches.
        let request = OnceLock::new();
        let values = [const { OnceLock::new() }; 2];
        let subject = Subject { attempt, new, namespace: namespace.as_ref(), equivalents: &engine.equivalents };
        for (policy, bindings) in &*hooks {
            let matched = match matches(policy.criteria.as_ref(), &subject) {
                Ok(Some(matched)) => matched,
                Ok(None) => continue,
                Err(why) => {
                    verdict.configuration(policy, None, &why);
                    continue;
                }
            };
            let request = || if policy.reads_request { request.get_or_init(|| describe(attempt, new, None)) } else { &Value::Null };
            let mut notes = Vec::new();
            for binding in bindings {
                match matches(binding.criteria.as_ref(), &subject) {
                    Ok(Some(_)) => {}
                    Ok(None) => continue,
                    Err(why) => {
                        verdict.configuration(policy, Some(binding), &why);
                        continue;
                    }
                }
                if matched.is_some() || policy.declared.params || policy.asks_authorizer {
                    Box::pin(hear(engine, (policy, binding), &subject, &matched, &mut verdict, &mut notes)).await;
                    continue;
                }
                let scene = Scene {
                    policy,
                    attempt,
                    object: new.map_or(&Value::Null, Object::value),
                    old: attempt.old.map_or(&Value::Null, Object::value),
                    namespace: namespace.as_ref().unwrap_or(&Value::Null),
                    request: request(),
                    params: &Value::Null,
                    asked: &asked,
                    shared: None,
                };
                let values = &values[usize::from(policy.reads_request)];
                let values = values.get_or_init(|| common(scene.object, scene.old, scene.namespace, scene.request));
                verdict.hear(policy, binding, ask(&Scene { shared: Some(values), ..scene }), &mut notes);
            }
            for (key, values) in notes {
                annotate(attempt, &format!("{}/{key}", policy.name), &values.join(", "));
            }
        }
        if !verdict.failures.is_empty() {
            annotate(attempt, "validation.policy.admission.k8s.io/validation_failure", &go::json(&verdict.failures));
        }
        attempt.warnings.extend(verdict.warnings);
        verdict.refused.map_or(Ok(()), |(denial, message)| Err(refusal(attempt, new, &denial, &message)))
    }
}

/// Asks a policy that takes parameters, asks who may what, or is about another version of the object than the one that is written.
async fn hear(
    engine: &Engine,
    (policy, binding): (&Policy, &Binding),
    subject: &Subject<'_>,
    matched: &Matched,
    verdict: &mut Verdict,
    notes: &mut Vec<(String, Vec<String>)>,
) {
    let Ready { params, object, old } = match ready(engine, policy, binding, subject, matched).await {
        Ok(ready) => ready,
        Err(why) => return verdict.configuration(policy, Some(binding), &why),
    };
    let request = if policy.reads_request { describe(subject.attempt, subject.new, matched.as_deref()) } else { Value::Null };
    for param in &*params {
        let asked = Asked::new(&engine.authorizer, subject.attempt.user);
        let scene = Scene {
            policy,
            attempt: subject.attempt,
            object: object.as_deref().map_or(&Value::Null, Object::value),
            old: old.as_deref().map_or(&Value::Null, Object::value),
            namespace: subject.namespace.unwrap_or(&Value::Null),
            request: &request,
            params: param,
            asked: &asked,
            shared: None,
        };
        let said = asked.until_known(|| ask(&scene)).await;
        verdict.hear(policy, binding, said, notes);
    }
}

/// What a binding's policy is asked with.
struct Ready<'o> {
    params: Cow<'static, [Value]>,
    /// In the version the policy matched in.
    object: Option<Cow<'o, Object>>,
    old: Option<Cow<'o, Object>>,
}

async fn ready<'o>(
    engine: &Engine,
    policy: &Policy,
    binding: &Binding,
    subject: &Subject<'o>,
    matched: &Matched,
) -> Result<Ready<'o>, String> {
    let attempt = subject.attempt;
    let params = params::collect(engine, policy, binding, &attempt.request.namespace).await?;
    let unlike = |status: Status| format!("failed to convert object version: {}", status.message);
    let mut shown = [None, None];
    for (shown, object) in shown.iter_mut().zip([subject.new, attempt.old]) {
        if let Some(object) = object.filter(|_| !params.is_empty()) {
            *shown = Some(versioned(attempt, matched, object).await.map_err(unlike)?);
        }
    }
    let [object, old] = shown;
    Ok(Ready { params, object, old })
}

/// Tells the audit log; what it does not take is logged instead.
fn annotate(attempt: &Attempt<'_>, key: &str, value: &str) {
    if let Err(why) = attempt.annotations.add(key, value, Level::Metadata) {
        tracing::warn!("audit annotation of a validating admission policy is left out: {why}");
    }
}

/// A failure that a binding wants in the audit log, its members in upstream's order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Failed {
    message: String,
    policy: String,
    binding: String,
    expression_index: usize,
    validation_actions: Vec<Value>,
}

fn told(policy: &Policy, binding: Option<&Binding>, message: &str) -> String {
    match binding {
        Some(binding) => format!("ValidatingAdmissionPolicy '{}' with binding '{}' denied request: {message}", policy.name, binding.name),
        None => format!("ValidatingAdmissionPolicy '{}' denied request: {message}", policy.name),
    }
}

/// What the policies make of a write.
#[derive(Default)]
struct Verdict {
    warnings: Vec<String>,
    /// What is to be told to the audit log.
    failures: Vec<Failed>,
    /// The first refusal counts.
    refused: Option<(Denial, String)>,
}

impl Verdict {
    fn refuse(&mut self, policy: &Policy, binding: Option<&Binding>, denial: Denial) {
        if self.refused.is_none() {
            let told = told(policy, binding, &denial.message);
            self.refused = Some((denial, told));
        }
    }

    /// Something about the policy keeps it from being asked.
    fn configuration(&mut self, policy: &Policy, binding: Option<&Binding>, why: &str) {
        if policy.fails_closed {
            let what = if binding.is_some() { "binding" } else { "policy" };
            self.refuse(policy, binding, Denial::new(format!("failed to configure {what}: {why}")));
        }
    }

    /// Takes what a policy said: does with each denial what the binding says, and collects what is to be noted.
    fn hear(&mut self, policy: &Policy, binding: &Binding, said: Said, notes: &mut Vec<(String, Vec<String>)>) {
        for (at, denial) in said.denials {
            self.act(policy, binding, at, denial);
        }
        for (key, value) in said.notes {
            let at = notes.iter().position(|(known, _)| *known == key).unwrap_or_else(|| {
                notes.push((key, Vec::new()));
                notes.len() - 1
            });
            if !notes[at].1.contains(&value) {
                notes[at].1.push(value);
            }
        }
        // What cannot be noted refuses, whatever the binding does with denials.
        for denial in said.unnoted {
            self.refuse(policy, Some(binding), denial);
        }
    }

    fn act(&mut self, policy: &Policy, binding: &Binding, at: usize, denial: Denial) {
        let actions = look::list(&binding.spec, "/validationActions");
        let wants = |wanted: &str| actions.iter().any(|action| action == wanted);
        let (name, bound, message) = (&policy.name, &binding.name, &denial.message);
        if wants("Warn") {
            self.warnings.push(format!("Validation failed for ValidatingAdmissionPolicy '{name}' with binding '{bound}': {message}"));
        }
        if wants("Audit") && self.failures.len() < FAILURES {
            self.failures.push(Failed {
                message: message.clone(),
                policy: name.clone(),
                binding: bound.clone(),
                expression_index: at,
                validation_actions: actions.to_vec(),
            });
        }
        if wants("Deny") {
            self.refuse(policy, Some(binding), denial);
        }
    }
}

/// What a policy says of a write.
#[derive(Default)]
struct Said {
    /// What it has against it, each with the place of the expression.
    denials: Vec<(usize, Denial)>,
    /// What is to be noted in the audit log.
    notes: Vec<(String, String)>,
    /// Why something could not be noted.
    unnoted: Vec<Denial>,
}

impl Said {
    /// It could not be asked.
    fn failed(policy: &Policy, why: String) -> Self {
        let denials = if policy.fails_closed { vec![(0, Denial::new(why))] } else { Vec::new() };
        Self { denials, ..Self::default() }
    }
}

/// What the policy says.
fn ask(scene: &Scene<'_>) -> Said {
    let policy = scene.policy;
    let closed = policy.fails_closed;
    match conditions(scene) {
        Ok(true) => {}
        Ok(false) => return Said::default(),
        Err(why) => return Said::failed(policy, why),
    }
    let evaluation = Evaluation::new(scene, limits::RUNTIME_BUDGET);
    let mut results = Vec::with_capacity(policy.validations.len());
    for validation in &policy.validations {
        match evaluation.run(&validation.expression) {
            Ok(result) => results.push(result),
            Err(why) => return Said::failed(policy, why),
        }
    }
    let mut said = Said::default();
    if results.iter().any(|result| !matches!(result, Ok(Val::Bool(true)))) {
        let messages = Evaluation::new(scene, evaluation.budget.get());
        for (at, (validation, result)) in policy.validations.iter().zip(results).enumerate() {
            let denial = match result {
                Ok(Val::Bool(true)) => None,
                Ok(_) => denied(validation, &messages, closed),
                Err(why) => closed.then(|| Denial::new(why)),
            };
            said.denials.extend(denial.map(|denial| (at, denial)));
        }
    }
    if policy.annotations.is_empty() {
        return said;
    }
    match annotations(scene, said) {
        Ok(said) => said,
        Err(why) => Said::failed(policy, why),
    }
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

/// Adds what is to be noted in the audit log; the error is that nothing more can be evaluated.
fn annotations(scene: &Scene<'_>, mut said: Said) -> Result<Said, String> {
    let evaluation = Evaluation::new(scene, limits::RUNTIME_BUDGET);
    for annotation in &scene.policy.annotations {
        match evaluation.run(&annotation.value)? {
            Ok(value) => {
                let text = value.as_str().map(str::trim).filter(|text| !text.is_empty());
                said.notes.extend(text.map(|text| (annotation.key.clone(), text[..text.floor_char_boundary(NOTE_BYTES)].to_owned())));
            }
            Err(why) if scene.policy.fails_closed => said.unnoted.push(Denial::new(why)),
            Err(_) => {}
        }
    }
    Ok(said)
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
