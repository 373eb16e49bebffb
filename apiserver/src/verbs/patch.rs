//! PATCH of an object or of one of its parts.

use std::sync::Arc;

use coracle_schema::{
    SchemaRef,
    patch::{self, PatchError},
};
use serde_json::{Value, json};

use super::{
    Api, Call, apply,
    write::{Made, Writing},
};
use crate::{
    registry::Kind,
    request::query::WriteOptions,
    wire::{Answer, PatchType, Status, negotiate},
};

/// Changes the object as the patch in the body says.
pub async fn patch(api: &Api, call: &Call, kind: &Arc<Kind>) -> Result<Answer, Status> {
    let of = negotiate::patch_type(&call.headers, kind.is_custom())?;
    if of == PatchType::Apply {
        return apply::apply(api, call, kind).await;
    }
    let options = WriteOptions::parse_patch(&call.query, call.user_agent(), false)?;
    let mut writing = Writing::new(api, call, kind, options);
    let patch = Patch::parse(of, &call.body)?;
    let outcome = writing
        .change(false, |writing, old| {
            let old = old.ok_or_else(Status::no_such_path)?;
            let patched = patch.apply(&kind.schema, old.value())?;
            Ok(Made { object: writing.decode_value(patched)?, owned: false })
        })
        .await?;
    writing.answer(&outcome)
}

/// A patch, parsed once however often it is tried.
pub enum Patch<'a> {
    /// RFC 6902.
    Json(&'a [u8]),
    /// RFC 7386.
    Merge(Value),
    /// By the schema's merge keys.
    Strategic(Value),
}

impl<'a> Patch<'a> {
    /// Reads the body as a patch of this type (`validateAndTranscodePatch`, `applyJSPatch` of `endpoints/handlers/patch.go`).
    pub fn parse(of: PatchType, body: &'a [u8]) -> Result<Self, Status> {
        let value: Value = serde_json::from_slice(body).map_err(|_| Status::bad_request("invalid JSON patch"))?;
        let (fits, head, wanted) = match of {
            PatchType::Json => (value.is_array(), "error decoding patch: ", "[]handlers.jsonPatchOp"),
            PatchType::Merge => (value.is_object(), "error decoding patch: ", "map[string]interface {}"),
            PatchType::Strategic | PatchType::Apply => (value.is_object(), "", "map[string]interface {}"),
        };
        if !fits && !value.is_null() {
            let found = json_kind(&value);
            return Err(Status::bad_request(format!("{head}json: cannot unmarshal {found} into Go value of type {wanted}")));
        }
        Ok(match of {
            PatchType::Json => Self::Json(body),
            PatchType::Merge => Self::Merge(value),
            PatchType::Strategic | PatchType::Apply => Self::Strategic(value),
        })
    }

    /// The patched object.
    pub fn apply(&self, schema: &SchemaRef, old: &Value) -> Result<Value, Status> {
        let patched = match self {
            Self::Json(patch) => patch::json_patch(old.clone(), patch),
            Self::Merge(patch) => patch::merge_patch(old.clone(), patch.clone()),
            Self::Strategic(patch) => patch::strategic_merge_patch(schema, old.clone(), patch.clone()),
        };
        patched.map_err(refused)
    }
}

/// What Go's decoder calls a value.
fn json_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn refused(error: PatchError) -> Status {
    match error {
        PatchError::BadRequest(text) => Status::bad_request(text),
        PatchError::Rejected(_) => {
            tracing::debug!(%error, "patch rejected");
            Status { details: json!({}), ..Status::new(422, "Invalid", PatchError::REJECTED) }
        }
        PatchError::TooLarge(_) => Status::new(413, "RequestEntityTooLarge", error.to_string()),
        PatchError::Unmergeable(text) => Status::new(500, "", text),
    }
}
