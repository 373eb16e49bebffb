//! PATCH of an object or of one of its parts.

use std::sync::Arc;

use coracle_schema::{
    FieldErrors, SchemaRef,
    decode::{self, DecodeError, FieldValidation},
    go,
    patch::{self, PatchError},
};
use coracle_tree::{Value, json};

use super::{
    Api, Call, apply,
    write::{Made, Writing},
};
use crate::{
    registry::Kind,
    request::query::WriteOptions,
    wire::{Answer, PatchType, Status, negotiate, status::Subject},
};

/// Changes the object as the patch in the body says.
pub async fn patch(api: &Api, call: &Call, kind: &Arc<Kind>) -> Result<Answer, Status> {
    let of = negotiate::patch_type(&call.headers, kind.is_custom())?;
    if of == PatchType::Apply {
        return apply::apply(api, call, kind).await;
    }
    let options = WriteOptions::parse_patch(&call.query, call.user_agent(), false)?;
    let mut writing = Writing::new(api, call, kind, options);
    // Where there is nothing to patch, nobody asks with what.
    let patch = Patch::parse(of, &call.body, writing.options.field_validation);
    let made = writing
        .change(false, |writing, old| {
            let old = old.ok_or_else(Status::no_such_path)?;
            let patch = patch.as_ref().map_err(Clone::clone)?;
            let patched = patch.apply(&kind.schema, old.value())?;
            // What a refusal shows is made again then: a copy would cost every patch.
            let refuse = |error: &DecodeError| match patch.apply(&kind.schema, old.value()) {
                Ok(shown) => patch.undecodable(kind, &shown, error),
                Err(status) => status,
            };
            let object = writing.decode_patched(patched, patch.reports.clone(), refuse)?;
            Ok(Made { object, owned: false })
        })
        .await;
    writing.settle(made)
}

/// A patch, parsed once however often it is tried.
pub struct Patch<'a> {
    how: How<'a>,
    /// What is unknown in it, or stands twice.
    reports: Vec<String>,
}

enum How<'a> {
    /// RFC 6902.
    Json(&'a [u8]),
    /// RFC 7386.
    Merge(Value),
    /// By the schema's merge keys.
    Strategic(Value),
}

impl<'a> Patch<'a> {
    /// Reads the body as a patch of this type (`validateAndTranscodePatch`, `applyJSPatch` of `endpoints/handlers/patch.go`).
    pub fn parse(of: PatchType, body: &'a [u8], mode: FieldValidation) -> Result<Self, Status> {
        let invalid = || Status::bad_request("invalid JSON patch");
        let text = str::from_utf8(body).map_err(|_| invalid())?;
        let (value, mut reports) = decode::plain_json(text, mode).map_err(|_| invalid())?;
        let (fits, head, wanted) = match of {
            PatchType::Json => (value.is_array(), "error decoding patch: ", "[]handlers.jsonPatchOp"),
            PatchType::Merge => (value.is_object(), "error decoding patch: ", "map[string]interface {}"),
            PatchType::Strategic | PatchType::Apply => (value.is_object(), "", "map[string]interface {}"),
        };
        if !fits && !value.is_null() {
            let found = go::json_name(&value);
            return Err(Status::bad_request(format!("{head}json: cannot unmarshal {found} into Go value of type {wanted}")));
        }
        let how = match of {
            PatchType::Json => {
                // What are no operations is refused where they are tried.
                reports = decode::json_patch_reports(text, mode).unwrap_or_default();
                How::Json(body)
            }
            PatchType::Merge => How::Merge(value),
            PatchType::Strategic | PatchType::Apply => How::Strategic(value),
        };
        Ok(Self { how, reports })
    }

    /// The patched object.
    pub fn apply(&self, schema: &SchemaRef, old: &Value) -> Result<Value, Status> {
        let patched = match &self.how {
            How::Json(patch) => patch::json_patch(old.clone(), patch),
            How::Merge(patch) => patch::merge_patch(old.clone(), patch.clone()),
            How::Strategic(patch) => patch::strategic_merge_patch(schema, old.clone(), patch.clone()),
        };
        patched.map_err(refused)
    }

    /// What is said of a patch whose result is no object of the kind (`applyPatchToCurrentObject` of `endpoints/handlers/patch.go`). Of a
    /// secret upstream shows all it holds, to whoever may patch it and to the audit log; here nothing of it is shown.
    fn undecodable(&self, kind: &Kind, patched: &Value, error: &DecodeError) -> Status {
        let mut errors = FieldErrors::none();
        if kind.gvk.group.is_empty() && &*kind.gvk.kind == "Secret" {
            errors.invalid("patch", Value::from(REDACTED), &error.to_string());
            return Status::invalid(Subject { group: "", resource: "", name: "" }, &errors);
        }
        match (&self.how, error) {
            (How::Strategic(patch), DecodeError::Mismatch(text)) => {
                errors.invalid("patch", format!("{:?}", go_print(patch)), &unconverted(text));
            }
            (How::Strategic(patch), error) => errors.invalid("patch", format!("{:?}", go_print(patch)), &error.to_string()),
            (_, error) => errors.invalid("patch", Value::from(patched.to_string()), &error.to_string()),
        }
        Status::invalid(Subject { group: "", resource: "", name: "" }, &errors)
    }
}

/// What stands for what a secret holds (`pkg/apis/core/validation`).
const REDACTED: &str = "<secret contents redacted>";

/// What Go's converter of unstructured objects says, where its decoder would say `json: cannot unmarshal KIND into … of type TYPE`.
fn unconverted(text: &str) -> String {
    let found = text.strip_prefix("json: cannot unmarshal ").and_then(|rest| rest.split_whitespace().next()).unwrap_or_default();
    let found = match found {
        "object" => "map",
        "array" => "slice",
        "number" => "int64",
        other => other,
    };
    let Some((_, wanted)) = text.rsplit_once(" of type ") else { return text.to_owned() };
    match wanted {
        _ if wanted.starts_with("map[") => format!("cannot restore map from {found}"),
        _ if wanted.starts_with("[]") => format!("cannot restore slice from {found}"),
        _ if wanted.contains('.') => format!("cannot restore struct from: {found}"),
        _ => format!("cannot convert {found} to {wanted}"),
    }
}

/// A value as Go prints it with `%+v`.
fn go_print(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.to_string(),
        Value::Array(items) => format!("[{}]", items.iter().map(go_print).collect::<Vec<_>>().join(" ")),
        Value::Object(members) => {
            let mut shown: Vec<String> = members.iter().map(|(name, value)| format!("{name}:{}", go_print(value))).collect();
            shown.sort();
            format!("map[{}]", shown.join(" "))
        }
        other => other.to_string(),
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

#[cfg(test)]
mod tests {
    use coracle_schema::Tables;

    use super::*;
    use crate::registry::{catalog, rules::PLAIN};

    #[test]
    fn a_patch_that_breaks_the_type_of_a_field_is_shown_as_go_prints_it() {
        let value = json!({"metadata": {"labels": "x", "a": [1, null, true]}});
        assert_eq!(go_print(&value), "map[metadata:map[a:[1 <nil> true] labels:x]]");
        let error = DecodeError::Mismatch(
            "json: cannot unmarshal string into Go struct field ObjectMeta.metadata.labels of type map[string]string".to_owned(),
        );
        let kinds = catalog::built_in(&Tables::load().unwrap(), |_, _| &PLAIN);
        let kind = |resource: &str| kinds.get("", "v1", resource).unwrap();
        let made = |how| Patch { how, reports: Vec::new() };
        let patch = made(How::Strategic(json!({"metadata": {"labels": "x"}})));
        let status = patch.undecodable(kind("pods"), &Value::Null, &error);
        let expected = " \"\" is invalid: patch: Invalid value: \"map[metadata:map[labels:x]]\": cannot restore map from string";
        assert_eq!((status.code, status.message.as_str()), (422, expected));
        for patch in [patch, made(How::Merge(Value::Null))] {
            let status = patch.undecodable(kind("secrets"), &json!({"data": {"k": "hidden"}}), &error);
            assert!(
                status.message.starts_with(r#" "" is invalid: patch: Invalid value: "<secret contents redacted>": json: "#),
                "{}",
                status.message
            );
            assert!(!status.to_value().to_string().contains("hidden"));
        }
    }
}
