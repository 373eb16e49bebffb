//! From an object to its protobuf message, in one pass from its last field to its first.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value};

use super::{
    ProtoError,
    plan::{Plan, Step},
    scalar,
    wire::Backwards,
};
use crate::{
    decode::MAX_NESTING,
    json,
    types::{Alternative, Schema, SchemaRef, Shape, TypeId},
};

/// The message of an object, without envelope, from its JSON. What the schema does not know is left out.
pub fn message(json: &[u8], schema: &SchemaRef) -> Result<Vec<u8>, ProtoError> {
    let object = serde_json::from_slice(json).map_err(|error| ProtoError::Unwritable(error.to_string()))?;
    encoded(&object, json.len(), schema)
}

/// The same of an object that is at hand.
pub fn message_of(object: &Value, schema: &SchemaRef) -> Result<Vec<u8>, ProtoError> {
    encoded(object, USUAL, schema)
}

/// Room for a pod.
const USUAL: usize = 4096;

fn encoded(object: &Value, room: usize, schema: &SchemaRef) -> Result<Vec<u8>, ProtoError> {
    if !schema.has_protobuf() {
        return Err(ProtoError::Unwritable(format!("{} has no protobuf form", schema.root().name)));
    }
    if object.is_null() {
        return Err(ProtoError::Unwritable("it is null".into()));
    }
    let (out, plan) = (Backwards::with_capacity(room), schema.schema.plan());
    let mut encoder = Encoder { schema: &schema.schema, plan, out, found: Vec::new(), ends: Vec::new(), scratch: Vec::new() };
    encoder.message(schema.root, object)?;
    Ok(encoder.out.into_bytes())
}

struct Encoder<'a> {
    schema: &'a Schema,
    plan: &'a Plan,
    out: Backwards,
    /// The values of the fields of the messages that are being written, by their positions in [`crate::types::Type::fields`].
    found: Vec<Option<&'a Value>>,
    /// Where messages end that are nested for inline members.
    ends: Vec<usize>,
    scratch: Vec<u8>,
}

impl<'a> Encoder<'a> {
    fn message(&mut self, id: TypeId, value: &'a Value) -> Result<(), ProtoError> {
        match (value, self.schema.get(id).union) {
            (Value::Object(members), None) => self.fields(id, members),
            (Value::Object(members), Some(union)) => {
                let (end, number) = (self.out.len(), if union.other == Alternative::Bool { 2 } else { 1 });
                self.fields(union.message, members)?;
                self.out.close(number, end);
                if union.other == Alternative::Bool {
                    // A schema allows.
                    self.out.number(1, 1);
                }
                Ok(())
            }
            (Value::Array(items), Some(union)) if union.other != Alternative::Bool => {
                let of = if union.other == Alternative::List { Shape::Message(union.message) } else { Shape::String };
                items.iter().rev().try_for_each(|item| self.item(2, &of, item))
            }
            (Value::Bool(allows), Some(union)) if union.other == Alternative::Bool => {
                self.out.number(1, (*allows).into());
                Ok(())
            }
            _ => mismatch(&Shape::Message(id), value),
        }
    }

    fn fields(&mut self, id: TypeId, members: &'a Map<String, Value>) -> Result<(), ProtoError> {
        let (schema, Some(plan)) = (self.schema, self.plan.get(id)) else {
            return Err(ProtoError::Unwritable("a message without a plan".into()));
        };
        let of = schema.get(id);
        let base = self.found.len();
        self.found.resize(base + of.fields.len(), None);
        for (name, value) in members {
            if let Some(at) = of.position(name) {
                self.found[base + at] = Some(value).filter(|value| !value.is_null());
            }
        }
        for step in &plan.steps {
            match step {
                Step::Field { at, number, zero } => match self.found[base + at] {
                    Some(value) => {
                        let field = &of.fields[*at];
                        let (end, inner) = (self.out.len(), if field.nested { 1 } else { *number });
                        self.field(inner, &field.shape, value)?;
                        if field.nested {
                            self.out.close(*number, end);
                        }
                    }
                    None => self.out.put(zero),
                },
                Step::End => self.ends.push(self.out.len()),
                Step::Begin(number) => {
                    let end = self.ends.pop().unwrap_or_default();
                    self.out.close(*number, end);
                }
            }
        }
        self.found.truncate(base);
        Ok(())
    }

    /// A field, which a list and a map repeat for every item and entry.
    fn field(&mut self, number: u32, shape: &Shape, value: &'a Value) -> Result<(), ProtoError> {
        match (shape, value) {
            (Shape::List(of), Value::Array(items)) => items.iter().rev().try_for_each(|item| self.item(number, of, item)),
            // A map is a list of messages of key 1 and value 2, sorted by key.
            (Shape::Map(of), Value::Object(entries)) => entries.iter().rev().try_for_each(|(key, value)| {
                let end = self.out.len();
                self.item(2, of, value)?;
                self.out.bytes(1, key.as_bytes());
                self.out.close(number, end);
                Ok(())
            }),
            (Shape::Bool, Value::Bool(set)) => {
                self.out.number(number, (*set).into());
                Ok(())
            }
            (Shape::Int32 | Shape::Int64, Value::Number(given)) => match given.as_i64() {
                // Negative numbers are sign-extended, 32-bit ones, too.
                Some(given) => {
                    self.out.number(number, given as u64);
                    Ok(())
                }
                None => mismatch(shape, value),
            },
            (Shape::Float64, Value::Number(given)) => match given.as_f64() {
                Some(given) => {
                    self.out.double(number, given);
                    Ok(())
                }
                None => mismatch(shape, value),
            },
            _ => {
                let end = self.out.len();
                self.content(shape, value)?;
                self.out.close(number, end);
                Ok(())
            }
        }
    }

    /// An item of a list, or the value of a map's entry: null is the zero value there, and a list a message of its own.
    fn item(&mut self, number: u32, shape: &Shape, value: &'a Value) -> Result<(), ProtoError> {
        match (shape, value) {
            (Shape::Bool | Shape::Int32 | Shape::Int64, Value::Null) => self.out.number(number, 0),
            (Shape::Float64, Value::Null) => self.out.double(number, 0.0),
            (Shape::List(_), Value::Array(_)) => {
                let end = self.out.len();
                self.field(1, shape, value)?;
                self.out.close(number, end);
            }
            (_, Value::Null) => {
                let zero: &[u8] = match shape {
                    Shape::Quantity => b"\x0a\x010",
                    Shape::Message(id) => self.plan.get(*id).map_or(&[], |plan| &plan.empty),
                    _ => &[],
                };
                self.out.bytes(number, zero);
            }
            _ => self.field(number, shape, value)?,
        }
        Ok(())
    }

    /// What stands in a field that has a length.
    fn content(&mut self, shape: &Shape, value: &'a Value) -> Result<(), ProtoError> {
        let out = &mut self.out;
        let put = match (shape, value) {
            (Shape::Message(id), _) => return self.message(*id, value),
            (Shape::String, Value::String(text)) => {
                out.put(text.as_bytes());
                Ok(())
            }
            (Shape::Quantity, Value::String(text)) => {
                out.bytes(1, text.as_bytes());
                Ok(())
            }
            (Shape::Quantity, Value::Number(given)) if given.is_i64() => {
                out.bytes(1, given.to_string().as_bytes());
                Ok(())
            }
            (Shape::Bytes, Value::String(text)) => STANDARD.decode(text).map(|bytes| out.put(&bytes)).map_err(|error| error.to_string()),
            (Shape::Time, Value::String(text)) => scalar::time(text, false, out),
            (Shape::MicroTime, Value::String(text)) => scalar::time(text, true, out),
            (Shape::Duration, Value::String(text)) => scalar::duration(text, out),
            (Shape::IntOrString, Value::String(text)) => {
                scalar::text_alternative(text, out);
                Ok(())
            }
            (Shape::IntOrString, Value::Number(given)) if given.is_i64() => {
                scalar::number_alternative(given.as_i64().unwrap_or_default(), out);
                Ok(())
            }
            // JSON within the message.
            (Shape::Object | Shape::Fields | Shape::Any, _) => {
                self.scratch.clear();
                let written = json::write(value, MAX_NESTING, &mut self.scratch).map_err(|error| error.to_string());
                out.bytes(1, &self.scratch);
                written
            }
            _ => return mismatch(shape, value),
        };
        put.map_err(ProtoError::Unwritable)
    }
}

fn mismatch(shape: &Shape, found: &Value) -> Result<(), ProtoError> {
    let found = match found {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(number) if number.is_i64() => "a number",
        Value::Number(_) => "a fraction",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    Err(ProtoError::Unwritable(format!("{found} stands where {shape:?} is expected")))
}
