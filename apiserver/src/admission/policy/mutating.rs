//! MutatingAdmissionPolicy (apiserver `plugin/policy/mutating/dispatcher.go`).

use std::sync::Arc;

use async_trait::async_trait;
use coracle_cel::limits;
use coracle_schema::default;
use coracle_tree::{Value, json};

use super::{
    Engine,
    compile::{Mutation, Policy},
    evaluate::{Asked, Evaluation, Scene, conditions},
    index::{Binding, Hook},
    namespace_of, params, patch, reach,
};
use crate::{
    admission::{
        Admission, Attempt, look,
        matching::{Matched, Subject, is_shared, matches, versioned},
        request::describe,
    },
    registry::{Kind, Object, convert},
    wire::Status,
};

/// The plugin.
pub struct MutatingAdmissionPolicy(pub Engine);

/// A policy that is to change the object, as bound.
struct Invocation {
    policy: Arc<Policy>,
    binding: Arc<Binding>,
    param: Value,
    /// The version it matched in.
    matched: Matched,
}

impl Invocation {
    /// What tells it from others.
    fn key(&self) -> String {
        let of = |field: &str| self.param.pointer(field).and_then(Value::as_str).unwrap_or_default();
        format!("{}/{}/{}/{}", self.policy.name, self.binding.name, of("/metadata/namespace"), of("/metadata/name"))
    }
}

/// Why the write is refused: the message, and whether an expression was at fault.
struct Failure {
    message: String,
    invalid: bool,
}

#[async_trait]
impl Admission for MutatingAdmissionPolicy {
    fn name(&self) -> &'static str {
        "MutatingAdmissionPolicy"
    }

    fn concerns(&self, attempt: &Attempt<'_>) -> bool {
        self.0.policies.mutating.any(|| reach(attempt))
    }

    async fn refresh(&self) {
        let engine = &self.0;
        engine.policies.mutating.refresh(&*engine.reader).await;
    }

    async fn mutate(&self, attempt: &mut Attempt<'_>, new: Option<&mut Object>) -> Result<(), Status> {
        let Some(object) = new else { return Ok(()) };
        let engine = &self.0;
        let hooks = engine.policies.mutating.hooks(reach(attempt)).ok_or_else(|| look::unready(attempt, Some(object)))?;
        let namespace = namespace_of(&*engine.reader, attempt).await?;
        let mut failures = Vec::new();
        let invocations = self.invocations(&hooks, attempt, object, namespace.as_ref(), &mut failures).await;
        let again = attempt.reinvocation.again;
        let mut round = std::mem::take(&mut attempt.reinvocation.policies);
        round.begin(again, Some(object.value()));
        let mut ran = false;
        for invocation in &invocations {
            let key = invocation.key();
            let due = !again || round.is_due(&key);
            let Some(changed) = self.invoke(invocation, attempt, object, namespace.as_ref(), due, &mut failures).await? else { continue };
            ran = true;
            if changed {
                round.changed();
            }
            if look::text(&invocation.policy.spec, "reinvocationPolicy") == "IfNeeded" {
                round.ran(key);
            }
        }
        if ran {
            // Upstream takes whatever a mutation made for a change.
            round.changed();
            attempt.reinvocation.wanted = true;
        }
        round.end(Some(object.value()));
        attempt.reinvocation.policies = round;
        if failures.is_empty() { Ok(()) } else { Err(refusal(attempt, object, &failures)) }
    }
}

fn told(policy: &Policy, binding: Option<&Binding>, message: &str) -> String {
    match binding {
        Some(binding) => format!("policy '{}' with binding '{}' denied request: {message}", policy.name, binding.name),
        None => format!("policy {:?} denied request: {message}", policy.name),
    }
}

fn fail(policy: &Policy, binding: Option<&Binding>, message: &str, invalid: bool, failures: &mut Vec<Failure>) {
    if policy.fails_closed {
        failures.push(Failure { message: told(policy, binding, message), invalid });
    }
}

impl MutatingAdmissionPolicy {
    /// The policies that match, with their parameters.
    async fn invocations(
        &self,
        hooks: &[Hook],
        attempt: &Attempt<'_>,
        object: &Object,
        namespace: Option<&Value>,
        failures: &mut Vec<Failure>,
    ) -> Vec<Invocation> {
        let mut found = Vec::new();
        for (policy, bindings) in hooks {
            let subject = Subject { attempt, new: Some(object), namespace, equivalents: &self.0.equivalents };
            let matched = match matches(policy.criteria.as_ref(), &subject) {
                Ok(Some(matched)) => matched,
                Ok(None) => continue,
                Err(why) => {
                    fail(policy, None, &format!("failed to configure policy: {why}"), false, failures);
                    continue;
                }
            };
            for binding in bindings {
                let params = match matches(binding.criteria.as_ref(), &subject) {
                    Ok(Some(_)) => params::collect(&self.0, policy, binding, &attempt.request.namespace).await,
                    Ok(None) => continue,
                    Err(why) => Err(why),
                };
                match params {
                    Ok(params) => {
                        let one = |param| Invocation { policy: policy.clone(), binding: binding.clone(), param, matched: matched.clone() };
                        found.extend(params.into_owned().into_iter().map(one));
                    }
                    Err(why) => fail(policy, Some(binding), &format!("failed to configure binding: {why}"), false, failures),
                }
            }
        }
        found
    }

    /// Lets a policy change the object, if it is `due`; tells whether it did, or nothing when it was not to.
    async fn invoke(
        &self,
        invocation: &Invocation,
        attempt: &mut Attempt<'_>,
        object: &mut Object,
        namespace: Option<&Value>,
        due: bool,
        failures: &mut Vec<Failure>,
    ) -> Result<Option<bool>, Status> {
        let Invocation { policy, binding, param, matched } = invocation;
        let null = Value::Null;
        let asked = Asked::new(&self.0.authorizer, attempt.user);
        let mut changed = false;
        let old = match attempt.old {
            Some(old) => Some(versioned(attempt, matched, old).await?),
            None => None,
        };
        for (at, mutation) in policy.mutations.iter().enumerate() {
            let shown = versioned(attempt, matched, object).await?;
            let request = if policy.reads_request { describe(attempt, Some(object), matched.as_deref()) } else { Value::Null };
            let scene = Scene {
                policy,
                attempt,
                object: shown.value(),
                old: old.as_deref().map_or(&null, Object::value),
                namespace: namespace.unwrap_or(&null),
                request: &request,
                params: param,
                asked: &asked,
                shared: None,
            };
            if at == 0 {
                match asked.until_known(|| conditions(&scene)).await {
                    Ok(true) if due => {}
                    Ok(_) => return Ok(None),
                    Err(why) => {
                        fail(policy, Some(binding), &why, true, failures);
                        return Ok(None);
                    }
                }
            }
            let kind = matched.as_deref().unwrap_or(attempt.kind);
            match asked.until_known(|| made(&scene, mutation, kind)).await {
                Ok(made) if made == *shown.value() => {}
                Ok(made) => {
                    drop((request, shown));
                    attempt.remember_fields(object);
                    put(made, matched, attempt, object).await?;
                    changed = true;
                }
                Err(why) => fail(policy, Some(binding), &why, true, failures),
            }
        }
        Ok(Some(changed))
    }
}

/// The object as the mutation makes it, of the kind in which the policy matched.
fn made(scene: &Scene<'_>, mutation: &Mutation, kind: &Kind) -> Result<Value, String> {
    if let Err(why) = &mutation.expression.program {
        return Err(why.clone());
    }
    let evaluation = Evaluation::new(scene, limits::RUNTIME_BUDGET);
    let value = evaluation.run(&mutation.expression)??;
    if mutation.json_patch { patch::json(scene.object, &value) } else { patch::configuration(&kind.schema, scene.object, &value) }
}

/// Takes the changed object, with its defaults, in the version of the request.
async fn put(made: Value, matched: &Matched, attempt: &Attempt<'_>, object: &mut Object) -> Result<(), Status> {
    let mut new = Object::new(made).ok_or_else(|| Status::internal("a mutating admission policy made something that is no object"))?;
    let kind = matched.as_deref().unwrap_or(attempt.kind);
    default::apply(new.value_mut(), &kind.schema);
    kind.rules.default(&mut new);
    *object = match matched {
        Some(other) if !is_shared(attempt, other) => convert::between(other, attempt.kind, &new).await?,
        _ => new,
    };
    Ok(())
}

fn refusal(attempt: &Attempt<'_>, object: &Object, failures: &[Failure]) -> Status {
    let mut status = look::forbidden(attempt, Some(object), "admission request denied by policy");
    if let Some(first) = failures.first() {
        status.message.clone_from(&first.message);
        if first.invalid {
            status.reason = "Invalid";
        }
    }
    status.details["causes"] = failures.iter().map(|failure| json!({"message": failure.message})).collect();
    status
}
