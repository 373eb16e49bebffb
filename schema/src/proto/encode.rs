//! From an object to its protobuf message, in one pass from its last field to its first.

use base64::{Engine, engine::general_purpose::STANDARD};
use coracle_tree::Value;

use super::{
    ProtoError,
    node::{Node, Read},
    plan::{Plan, Step},
    scalar,
    wire::Backwards,
};
use crate::types::{Alternative, Schema, SchemaRef, Shape, TypeId};

/// The message of an object, without envelope, from its JSON. What the schema does not know is left out.
pub fn message(json: &[u8], schema: &SchemaRef) -> Result<Vec<u8>, ProtoError> {
    encoded(&Read::object(json, schema)?, json.len(), schema)
}

/// The same of an object that is at hand.
pub fn message_of(object: &Value, schema: &SchemaRef) -> Result<Vec<u8>, ProtoError> {
    encoded(object, USUAL, schema)
}

/// Room for a pod.
const USUAL: usize = 4096;

fn encoded<N: Node>(object: &N, room: usize, schema: &SchemaRef) -> Result<Vec<u8>, ProtoError> {
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

struct Encoder<'a, N> {
    schema: &'a Schema,
    plan: &'a Plan,
    out: Backwards,
    /// The values of the fields of the messages that are being written, by their positions in [`crate::types::Type::fields`].
    found: Vec<Option<&'a N>>,
    /// Where messages end that are nested for inline members.
    ends: Vec<usize>,
    scratch: Vec<u8>,
}

impl<'a, N: Node> Encoder<'a, N> {
    fn message(&mut self, id: TypeId, value: &'a N) -> Result<(), ProtoError> {
        let Some(union) = self.schema.get(id).union else { return self.fields(id, value) };
        if let (Some(items), true) = (value.items(), union.other != Alternative::Bool) {
            let of = if union.other == Alternative::List { Shape::Message(union.message) } else { Shape::String };
            return items.iter().rev().try_for_each(|item| self.item(2, &of, item));
        }
        if let (Some(allows), Alternative::Bool) = (value.bool(), union.other) {
            self.out.number(1, allows.into());
            return Ok(());
        }
        let (end, number) = (self.out.len(), if union.other == Alternative::Bool { 2 } else { 1 });
        self.fields(union.message, value)?;
        self.out.close(number, end);
        if union.other == Alternative::Bool {
            // A schema allows.
            self.out.number(1, 1);
        }
        Ok(())
    }

    fn fields(&mut self, id: TypeId, value: &'a N) -> Result<(), ProtoError> {
        let (schema, Some(plan)) = (self.schema, self.plan.get(id)) else {
            return Err(ProtoError::Unwritable("a message without a plan".into()));
        };
        let of = schema.get(id);
        let base = self.found.len();
        self.found.resize(base + of.fields.len(), None);
        if !value.fields(of, &mut self.found[base..]) {
            return Err(unlike(&Shape::Message(id), value));
        }
        for step in &plan.steps {
            match step {
                Step::Field { at, number, zero } => match self.found[base + at].filter(|value| !value.is_null()) {
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
    fn field(&mut self, number: u32, shape: &Shape, value: &'a N) -> Result<(), ProtoError> {
        match shape {
            Shape::List(of) => {
                let items = expected(value.items(), shape, value)?;
                items.iter().rev().try_for_each(|item| self.item(number, of, item))?;
            }
            // A map is a list of messages of key 1 and value 2, sorted by key.
            Shape::Map(of) => {
                for (key, value) in expected(value.entries(), shape, value)?.rev() {
                    let end = self.out.len();
                    self.item(2, of, value)?;
                    self.out.bytes(1, key.as_bytes());
                    self.out.close(number, end);
                }
            }
            Shape::Bool => self.out.number(number, expected(value.bool(), shape, value)?.into()),
            // Negative numbers are sign-extended, 32-bit ones, too.
            Shape::Int32 | Shape::Int64 => self.out.number(number, expected(value.integer(), shape, value)? as u64),
            Shape::Float64 => self.out.double(number, expected(value.float(), shape, value)?),
            _ => {
                let end = self.out.len();
                self.content(shape, value)?;
                self.out.close(number, end);
            }
        }
        Ok(())
    }

    /// An item of a list, or the value of a map's entry: null is the zero value there, and a list a message of its own.
    fn item(&mut self, number: u32, shape: &Shape, value: &'a N) -> Result<(), ProtoError> {
        match shape {
            Shape::List(_) if !value.is_null() => {
                let end = self.out.len();
                self.field(1, shape, value)?;
                self.out.close(number, end);
            }
            _ if !value.is_null() => self.field(number, shape, value)?,
            Shape::Bool | Shape::Int32 | Shape::Int64 => self.out.number(number, 0),
            Shape::Float64 => self.out.double(number, 0.0),
            Shape::Quantity => self.out.bytes(number, b"\x0a\x010"),
            Shape::Message(id) => self.out.bytes(number, self.plan.get(*id).map_or(&[], |plan| &plan.empty)),
            _ => self.out.bytes(number, &[]),
        }
        Ok(())
    }

    /// What stands in a field that has a length.
    fn content(&mut self, shape: &Shape, value: &'a N) -> Result<(), ProtoError> {
        let out = &mut self.out;
        match (shape, value.text(), value.integer()) {
            (Shape::Message(id), ..) => self.message(*id, value)?,
            // JSON within the message.
            (Shape::Object | Shape::Fields | Shape::Any, ..) => {
                self.scratch.clear();
                value.json(&mut self.scratch)?;
                out.bytes(1, &self.scratch);
            }
            (Shape::String, Some(text), _) => out.put(text.as_bytes()),
            (Shape::Quantity, Some(text), _) => out.bytes(1, text.as_bytes()),
            (Shape::Quantity, _, Some(number)) => out.bytes(1, number.to_string().as_bytes()),
            (Shape::Bytes, Some(text), _) => out.put(&STANDARD.decode(text).map_err(|error| ProtoError::Unwritable(error.to_string()))?),
            (Shape::Time, Some(text), _) => scalar::time(text, false, out).map_err(ProtoError::Unwritable)?,
            (Shape::MicroTime, Some(text), _) => scalar::time(text, true, out).map_err(ProtoError::Unwritable)?,
            (Shape::Duration, Some(text), _) => scalar::duration(text, out).map_err(ProtoError::Unwritable)?,
            (Shape::IntOrString, Some(text), _) => scalar::text_alternative(text, out),
            (Shape::IntOrString, _, Some(number)) => scalar::number_alternative(number, out),
            _ => return Err(unlike(shape, value)),
        }
        Ok(())
    }
}

fn expected<T>(found: Option<T>, shape: &Shape, value: &impl Node) -> Result<T, ProtoError> {
    found.ok_or_else(|| unlike(shape, value))
}

fn unlike(shape: &Shape, found: &impl Node) -> ProtoError {
    ProtoError::Unwritable(format!("{} stands where {shape:?} is expected", found.what()))
}
