//! Decoding of custom resources: the body is read as it is, then pruned by its schema. Nothing is normalized, and a value of the wrong type
//! is validation's business (apiextensions-apiserver `apiserver/customresource_handler.go`, `unstructuredSchemaCoercer`).

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::{DecodeError, Decoded, Session, path::Path};
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
    let mut source = serde_json::Deserializer::from_str(text);
    let read = Plain { session: &session, path: &Path::Root }.deserialize(&mut source).and_then(|value| source.end().map(|()| value));
    finish(read, custom, schema, session)
}

/// Decodes a value.
pub(super) fn from_value(mut value: Value, custom: &Custom, schema: &SchemaRef, session: Session<'_>) -> Result<Decoded, DecodeError> {
    numbers(&mut value);
    finish(Ok(value), custom, schema, session)
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
fn go_number(number: &Number) -> Number {
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
) -> Result<Decoded, DecodeError> {
    let mut decoded = session.finish_lax(read)?;
    shape(&mut decoded, custom, schema)?;
    decoded.settle()
}

/// What is read so far, with reports that do not refuse the body yet.
pub(super) struct Lax {
    pub(super) value: Value,
    pub(super) reports: Vec<String>,
    pub(super) mode: super::FieldValidation,
}

impl Lax {
    fn settle(self) -> Result<Decoded, DecodeError> {
        if self.mode == super::FieldValidation::Strict && !self.reports.is_empty() {
            return Err(DecodeError::Strict(self.reports));
        }
        Ok(Decoded { value: self.value, reports: self.reports })
    }

    fn unknown(&mut self, paths: Vec<String>) {
        if self.mode != super::FieldValidation::Ignore {
            let room = super::MAX_REPORTS.saturating_sub(self.reports.len());
            self.reports.extend(paths.into_iter().take(room).map(|path| format!("unknown field \"{path}\"")));
        }
    }
}

fn shape(decoded: &mut Lax, custom: &Custom, schema: &SchemaRef) -> Result<(), DecodeError> {
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
        decoded.unknown(found.unknown.into_iter().map(|path| format!("metadata.{path}")).collect());
    }
    if !custom.preserves {
        let gone = prune::prune(&custom.root, &mut decoded.value);
        decoded.unknown(gone);
        prune::drop_nulls(&custom.root, &mut decoded.value);
    }
    match embedded::coerce(&custom.root, &mut decoded.value, &metadata, Malformed::Refuse) {
        Ok(unknown) => {
            decoded.unknown(unknown);
            Ok(())
        }
        Err(error) => Err(DecodeError::Mismatch(error.to_string())),
    }
}

/// Reads any value, and reports members that stand twice.
#[derive(Clone, Copy)]
struct Plain<'a> {
    session: &'a Session<'a>,
    path: &'a Path<'a>,
}

impl<'de> DeserializeSeed<'de> for Plain<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<Value, D::Error> {
        source.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Plain<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(go_number(&value.into())))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        match Number::from_f64(value) {
            Some(number) => Ok(Value::Number(go_number(&number))),
            None => Err(E::custom("number is not finite")),
        }
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut source: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        loop {
            let path = Path::Index { parent: self.path, at: out.len() };
            match source.next_element_seed(Plain { session: self.session, path: &path })? {
                Some(value) => out.push(value),
                None => return Ok(Value::Array(out)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut source: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(key) = source.next_key::<String>()? {
            let path = Path::Key { parent: self.path, key: &key };
            if out.contains_key(&key) {
                self.session.report("duplicate", &path);
            }
            let value = source.next_value_seed(Plain { session: self.session, path: &path })?;
            out.insert(key, value);
        }
        Ok(Value::Object(out))
    }
}
