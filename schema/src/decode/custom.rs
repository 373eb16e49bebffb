//! Decoding of custom resources: the body is read as it is, then pruned by its schema. Nothing is normalized, and a value of the wrong type
//! is validation's business (apiextensions-apiserver `apiserver/customresource_handler.go`, `unstructuredSchemaCoercer`).

use coracle_tree::{Number, Value};

use super::{DecodeError, Decoded, Session, plain, reports::Reports};
use crate::{
    structural::{
        Custom,
        embedded::{self, Malformed},
        prune,
    },
    types::SchemaRef,
};

/// Decodes a body.
pub(super) fn from_json(text: &str, custom: &Custom, schema: &SchemaRef, session: Session<'_>) -> Result<Decoded, DecodeError> {
    let read = plain::read(text, &session.reports);
    finish(read, custom, schema, session, Nulls::Go)
}

/// What becomes of members that are null and may not be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Nulls {
    /// They are left out.
    Go,
    /// They stay, and validation refuses them.
    Stay,
}

/// Decodes a value.
pub(super) fn from_value(
    mut value: Value,
    custom: &Custom,
    schema: &SchemaRef,
    session: Session<'_>,
    nulls: Nulls,
) -> Result<Decoded, DecodeError> {
    numbers(&mut value);
    finish(Ok(value), custom, schema, session, nulls)
}

/// Brings the numbers in a value into the form in which Go holds them.
fn numbers(value: &mut Value) {
    match value {
        Value::Number(number) => *number = go_number(number),
        Value::Array(items) => items.iter_mut().for_each(numbers),
        Value::Object(members) => members.values_mut().for_each(numbers),
        _ => {}
    }
}

/// Go reads what is no int64 as a float64, and writes a float without a fraction as a whole number.
pub(super) fn go_number(number: &Number) -> Number {
    match number.as_f64().filter(|_| number.is_u64() && !number.is_i64()).and_then(Number::from_f64) {
        Some(float) => float,
        None => super::visit::whole(number),
    }
}

/// See [`super::refresh`].
pub(super) fn refresh(object: &mut Value, custom: &Custom, schema: &SchemaRef) {
    let Some(metadata) = schema.metadata() else { return };
    if let Some(given) = object.get("metadata").filter(|m| !m.is_null())
        && let Ok(found) = embedded::metadata(given, &metadata, Malformed::Drop)
    {
        object["metadata"] = found.value;
    }
    if !custom.preserves {
        prune::prune(&custom.root, object);
        prune::drop_nulls(&custom.root, object);
    }
    // Nothing is refused here.
    drop(embedded::coerce(&custom.root, object, &metadata, Malformed::Drop));
}

fn finish(
    read: Result<Value, serde_json::Error>,
    custom: &Custom,
    schema: &SchemaRef,
    session: Session<'_>,
    nulls: Nulls,
) -> Result<Decoded, DecodeError> {
    let mut decoded = session.finish_lax(read)?;
    shape(&mut decoded, custom, schema, nulls)?;
    decoded.reports.settle(decoded.value)
}

/// What is read so far, with reports that do not refuse the body yet.
pub(super) struct Lax {
    pub(super) value: Value,
    pub(super) reports: Reports,
}

fn shape(decoded: &mut Lax, custom: &Custom, schema: &SchemaRef, nulls: Nulls) -> Result<(), DecodeError> {
    if decoded.value.is_null() {
        return Err(DecodeError::MissingKind);
    }
    let Some(members) = decoded.value.as_object_mut() else {
        // What is tried first is the head of the object alone.
        const HEAD: &str = r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;
        let text = format!("json: cannot unmarshal {} into Go value of type {HEAD}", crate::go::json_name(&decoded.value));
        return Err(DecodeError::Syntax(text));
    };
    for name in ["apiVersion", "kind"] {
        match members.get(name) {
            Some(Value::String(_)) | None => {}
            Some(Value::Null) => drop(members.remove(name)),
            Some(other) => {
                let text = format!("json: cannot unmarshal {} into Go struct field .{name} of type string", crate::go::json_name(other));
                return Err(DecodeError::Syntax(text));
            }
        }
    }
    if members.get("kind").and_then(Value::as_str).is_none_or(str::is_empty) {
        return Err(DecodeError::MissingKind);
    }
    let metadata = schema.metadata().ok_or_else(|| DecodeError::Mismatch("metadata has no type".into()))?;
    if let Some(given) = members.get_mut("metadata") {
        let found = embedded::metadata(given, &metadata, Malformed::Refuse).map_err(DecodeError::Mismatch)?;
        *given = found.value;
        decoded.reports.unknown(found.unknown.into_iter().map(|path| format!("metadata.{path}")));
    }
    if !custom.preserves {
        let gone = prune::prune(&custom.root, &mut decoded.value);
        decoded.reports.unknown(gone);
        if nulls == Nulls::Go {
            prune::drop_nulls(&custom.root, &mut decoded.value);
        }
    }
    match embedded::coerce(&custom.root, &mut decoded.value, &metadata, Malformed::Refuse) {
        Ok(unknown) => {
            decoded.reports.unknown(unknown);
            Ok(())
        }
        Err(error) => Err(DecodeError::Mismatch(error.to_string())),
    }
}
