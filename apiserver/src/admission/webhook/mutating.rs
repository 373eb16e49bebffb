//! MutatingAdmissionWebhook (apiserver `plugin/webhook/mutating/dispatcher.go`): one after the other, each sees what the one before made.

use async_trait::async_trait;
use coracle_schema::{
    FieldErrors, SchemaRef,
    decode::{self, DecodeError, FieldValidation},
    default, go, patch,
};
use coracle_tree::Value;
use serde::Serialize;

use super::{
    Configured, Engine,
    answer::Answer,
    call::{self, Failure, annotate, ask},
    hook::Hook,
    internal,
    review::Objects,
    versioned,
};
use crate::{
    admission::{
        Admission, Attempt,
        look::unready,
        matching::{Matched, is_shared},
    },
    audit::Level,
    registry::{Kind, Object, convert},
    wire::{Status, status},
};

/// What the trail is told of a call, its members in upstream's order: there are those who compare it as text.
#[derive(Serialize)]
struct Mutated<'h> {
    configuration: &'h str,
    webhook: &'h str,
    mutated: bool,
}

/// What the trail is told of a patch.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Patched<'h> {
    configuration: &'h str,
    webhook: &'h str,
    patch: Value,
    patch_type: &'static str,
}

/// The plugin.
pub struct MutatingAdmissionWebhook(pub(super) Engine);

impl MutatingAdmissionWebhook {
    /// Asks with `engine`, as its configuration says.
    pub(in crate::admission) fn new(engine: Engine, configuration: Configured) -> Result<Self, String> {
        engine.webhooks.mutating.configure(configuration, &engine.reader)?;
        Ok(Self(engine))
    }
}

#[async_trait]
impl Admission for MutatingAdmissionWebhook {
    fn name(&self) -> &'static str {
        "MutatingAdmissionWebhook"
    }

    fn concerns(&self, attempt: &Attempt<'_>) -> bool {
        self.0.webhooks.mutating.any(|| super::reach(attempt))
    }

    async fn refresh(&self) {
        self.0.webhooks.mutating.refresh(&self.0.reader).await;
    }

    async fn mutate(&self, attempt: &mut Attempt<'_>, mut new: Option<&mut Object>) -> Result<(), Status> {
        let engine = &self.0;
        let hooks = engine.webhooks.mutating.hooks(super::reach(attempt)).ok_or_else(|| unready(attempt, new.as_deref()))?;
        let namespace = call::namespace(engine, &hooks, attempt).await?;
        let again = attempt.reinvocation.again;
        let mut round = std::mem::take(&mut attempt.reinvocation.webhooks);
        round.begin(again, new.as_deref().map(Object::value));
        for (at, hook) in hooks.iter().enumerate() {
            let Some(matched) = hook.concerns(engine, attempt, new.as_deref(), namespace.as_ref()).await? else { continue };
            // Who was not asked at first is not asked later.
            if again && !round.is_due(&hook.uid) {
                continue;
            }
            let place = format!("round_{}_index_{at}", u8::from(again));
            let outcome = self.call(hook, attempt, &matched, new.as_deref_mut(), &place).await;
            let mutated = Mutated { configuration: &hook.configuration, webhook: &hook.name, mutated: matches!(outcome, Ok(true)) };
            annotate(attempt, &format!("mutation.webhook.admission.k8s.io/{place}"), &go::json(&mutated), Level::Metadata);
            if matches!(outcome, Ok(true)) {
                round.changed();
                attempt.reinvocation.wanted = true;
            }
            if hook.reinvoked {
                round.ran(hook.uid.clone());
            }
            let Err(failure) = outcome else { continue };
            if let Some(status) = failure.status(hook) {
                return Err(status);
            }
            annotate(attempt, &format!("failed-open.mutation.webhook.admission.k8s.io/{place}"), &hook.name, Level::Metadata);
        }
        round.end(new.as_deref().map(Object::value));
        attempt.reinvocation.webhooks = round;
        Ok(())
    }
}

impl MutatingAdmissionWebhook {
    /// Asks a webhook and applies its patch; tells whether that changed the object.
    async fn call(
        &self,
        hook: &Hook,
        attempt: &mut Attempt<'_>,
        matched: &Matched,
        new: Option<&mut Object>,
        place: &str,
    ) -> Result<bool, Failure> {
        let shown = match new.as_deref() {
            Some(new) => Some(versioned(attempt, matched, new).await.map_err(Failure::Refused)?),
            None => None,
        };
        let old = match attempt.old {
            Some(old) => Some(versioned(attempt, matched, old).await.map_err(Failure::Refused)?),
            None => None,
        };
        let objects = Objects { new: shown.as_deref(), old: old.as_deref() };
        let (answer, warnings) = ask(&self.0, hook, attempt, matched, objects, true).await;
        attempt.warnings.extend(warnings);
        let answer = answer?;
        let Some(patch) = operations(&answer, &self.0.review)? else { return Ok(false) };
        let (Some(shown), Some(new)) = (shown.map(std::borrow::Cow::into_owned), new) else {
            let why =
                format!("admission webhook {:?} attempted to modify the object, which is not supported for this operation", hook.name);
            return Err(Failure::Refused(internal(&why)));
        };
        if answer.patch_type != "JSONPatch" {
            return Err(Failure::Calling(format!("unsupported patch type {:?}", answer.patch_type)));
        }
        let made = patched(attempt, matched, &shown, &answer.patch).map_err(Failure::Refused)?;
        let patched = Patched { configuration: &hook.configuration, webhook: &hook.name, patch, patch_type: "JSONPatch" };
        annotate(attempt, &format!("patch.webhook.admission.k8s.io/{place}"), &go::json(&patched), Level::Request);
        if made == shown {
            return Ok(false);
        }
        attempt.remember_fields(new);
        *new = match matched {
            Some(other) if !is_shared(attempt, other) => convert::between(other, attempt.kind, &made).await.map_err(Failure::Refused)?,
            _ => made,
        };
        Ok(true)
    }
}

/// The operations of a patch, if it has any.
fn operations(answer: &Answer, schema: &SchemaRef) -> Result<Option<Value>, Failure> {
    if answer.patch.is_empty() {
        return Ok(None);
    }
    let undecodable = |why: String| Failure::Calling(format!("received undecodable patch in webhook response: {why}"));
    let read: Value = serde_json::from_slice(&answer.patch).map_err(|e| undecodable(syntax(&answer.patch, schema, &e)))?;
    match read {
        Value::Null => Ok(None),
        Value::Array(operations) if operations.is_empty() => Ok(None),
        Value::Array(operations) => match operations.iter().find(|operation| !operation.is_object() && !operation.is_null()) {
            Some(wrong) => {
                let found = coracle_schema::go::json_name(wrong);
                Err(undecodable(format!("json: cannot unmarshal {found} into Go value of type jsonpatch.Operation")))
            }
            None => Ok(Some(Value::Array(operations))),
        },
        other => {
            let found = coracle_schema::go::json_name(&other);
            Err(undecodable(format!("json: cannot unmarshal {found} into Go value of type jsonpatch.Patch")))
        }
    }
}

/// What Go says of JSON that is none.
fn syntax(text: &[u8], schema: &SchemaRef, error: &serde_json::Error) -> String {
    match decode::from_json(text, schema, FieldValidation::Ignore) {
        Err(DecodeError::Syntax(why)) => why,
        _ => error.to_string(),
    }
}

/// Refuses a custom resource that says it is another: upstream finds out when it validates.
fn check_custom(kind: &Kind, value: &Value) -> Result<(), Status> {
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (version, name) = (text("/apiVersion"), text("/kind"));
    if name.is_empty() {
        return Err(internal(&format!("Object 'Kind' is missing in '{value}'")));
    }
    let mut errors = FieldErrors::none();
    if name != &*kind.gvk.kind {
        errors.invalid("kind", format!("{name:?}"), &format!("must be {}", kind.gvk.kind));
    }
    if version != kind.api_version() {
        errors.invalid("apiVersion", format!("{version:?}"), &format!("must be {}", kind.api_version()));
    }
    let subject = status::Subject { group: &kind.gvk.group, resource: name, name: text("/metadata/name") };
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid(subject, &errors)) }
}

/// The object as the patch makes it, decoded and defaulted anew.
fn patched(attempt: &Attempt<'_>, matched: &Matched, object: &Object, patch: &[u8]) -> Result<Object, Status> {
    let value = patch::json_patch(object.value().clone(), patch).map_err(|error| internal(&error.to_string()))?;
    let kind = matched.as_deref().unwrap_or(attempt.kind);
    let part = attempt.part_of(kind).filter(|(gvk, _)| **gvk != kind.gvk);
    let (gvk, schema) = part.map_or((&kind.gvk, Some(&*kind.schema)), |(gvk, schema)| (gvk, schema));
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (found, name) = (text("apiVersion"), text("kind"));
    if kind.is_custom() && part.is_none() {
        check_custom(kind, &value)?;
    } else if (!found.is_empty() && found != gvk.api_version()) || (!name.is_empty() && name != *gvk.kind) {
        let version = found.rsplit('/').next().unwrap_or_default();
        let why = format!("no kind {name:?} is registered for version {version:?} in scheme \"pkg/runtime/scheme.go:111\"");
        return Err(internal(&why));
    }
    let mut value = match schema {
        Some(schema) => {
            let decoded = decode::from_value(value, schema, FieldValidation::Ignore);
            decoded.map_err(|error| internal(&error.to_string()))?.value
        }
        None => value,
    };
    if !kind.is_custom() || part.is_some() {
        (value["apiVersion"], value["kind"]) = (gvk.api_version().into(), (*gvk.kind).into());
    }
    if let Some(schema) = schema {
        default::apply(&mut value, schema);
    }
    let mut made = Object::new(value).ok_or_else(|| internal("the patched object is not an object"))?;
    if part.is_none() {
        kind.rules.default(&mut made);
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_trail_is_told_has_upstreams_order() {
        let mutated = Mutated { configuration: "c", webhook: "w", mutated: true };
        assert_eq!(go::json(&mutated), r#"{"configuration":"c","webhook":"w","mutated":true}"#);
        let patched = Patched { configuration: "c", webhook: "w", patch: coracle_tree::json!([]), patch_type: "JSONPatch" };
        assert_eq!(go::json(&patched), r#"{"configuration":"c","webhook":"w","patch":[],"patchType":"JSONPatch"}"#);
    }
}
