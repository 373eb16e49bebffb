//! Server-side apply: a PATCH whose body says what its manager wants.

use std::sync::Arc;

use coracle_schema::{
    apply::{self, ApplyError, Conflict},
    decode::FieldValidation,
};
use coracle_tree::{Value, json};

use super::{
    Api, Call,
    write::{Made, Writing},
};
use crate::{
    registry::{Kind, Object, Part, meta},
    request::query::WriteOptions,
    wire::{Answer, Status, yaml},
};

/// Merges the configuration in the body into what is there, by ownership; creates the object when it is not there.
pub async fn apply(api: &Api, call: &Call, kind: &Arc<Kind>) -> Result<Answer, Status> {
    let options = WriteOptions::parse_patch(&call.query, call.user_agent(), true)?;
    let mut writing = Writing::new(api, call, kind, options);
    let (mut config, doubled) = configuration(&call.body)?;
    let (version, now) = (kind.api_version(), meta::time_text(api.now()));
    let placed = !config.namespace().is_empty();
    meta::match_request(&mut config, kind, call.namespace_of(kind), &call.info.name)?;
    if !placed {
        // Upstream names the configuration as it was sent, where it is mistyped.
        config.metadata_mut().remove("namespace");
    }
    let creates = writing.part == Part::Whole;
    let made = writing
        .change(creates, |writing, old| {
            let who = writing.who(&version, &now);
            let live = old.map(Object::value);
            let merged = apply::apply(&kind.schema, live, config.value(), &who, writing.options.force).map_err(refused)?;
            writing.doubled(&doubled)?;
            let mut object = writing.decode_applied(merged)?;
            if old.is_none() {
                object.metadata_mut().remove("resourceVersion");
            }
            Ok(Made { object, owned: true })
        })
        .await;
    writing.settle(made)
}

/// The configuration that is applied, and what stands twice in it (`applyPatcher` of `endpoints/handlers/patch.go`).
fn configuration(body: &[u8]) -> Result<(Object, Doubled), Status> {
    let refused = |why: String| Status::bad_request(format!("error decoding patch: {why}"));
    let read = yaml::read(body).map_err(|why| refused(format!("error converting YAML to JSON: {why}")))?;
    let doubled = Doubled { strict: read.strict(), lines: read.doubled };
    let what = match &read.value {
        Value::Object(_) => "object",
        Value::Null => return Err(Status::bad_request("invalid object type: /, Kind=")),
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
    };
    let config = Object::new(read.value).ok_or_else(|| {
        let into = "into Go value of type map[string]interface {}";
        refused(format!("error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {what} {into}"))
    })?;
    Ok((config, doubled))
}

/// Keys of a configuration that stand twice.
struct Doubled {
    lines: Vec<String>,
    strict: Option<String>,
}

impl Writing<'_> {
    fn doubled(&mut self, doubled: &Doubled) -> Result<(), Status> {
        match (self.options.field_validation, &doubled.strict) {
            (FieldValidation::Strict, Some(all)) => {
                Err(Status::bad_request(format!("error strict decoding patch: error converting YAML to JSON: {all}")))
            }
            (FieldValidation::Warn, _) => {
                self.warn_once(doubled.lines.iter().cloned());
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// What a refused apply tells the client.
pub fn refused(error: ApplyError) -> Status {
    match error {
        ApplyError::Conflicts(conflicts) => {
            let cause = |c: &Conflict| json!({"reason": "FieldManagerConflict", "message": c.message(), "field": c.path});
            let causes: Vec<Value> = conflicts.0.iter().map(cause).collect();
            Status { details: json!({"causes": causes}), ..Status::new(409, "Conflict", conflicts.message()) }
        }
        ApplyError::BadRequest(text) => Status::bad_request(text),
        ApplyError::Mistyped(text) => Status::new(500, "", text),
    }
}
