//! From Kubernetes' protobuf to JSON values, by the field numbers of the tables: what typed clients (kubectl create among them) send.
//!
//! The envelope is apimachinery's `runtime/serializer/protobuf`: four magic bytes and a `runtime.Unknown`. The value that comes out is
//! what the same object would be as JSON before it is decoded: what stands for zero values is the decoder's business.

use base64::{Engine, engine::general_purpose::STANDARD};
use coracle_tree::{Map, Text, Value};
use jiff::Timestamp;

use super::{
    DEPTH, MAGIC, ProtoError, duration,
    wire::{Parts, Wire},
};
use crate::types::{Alternative, Field, Member, Presence, Schema, SchemaRef, Shape, Type, TypeId};

/// Decodes a body into the value of a message; `apiVersion` and `kind` come from the envelope.
pub fn decode(body: &[u8], schema: &SchemaRef) -> Result<Value, ProtoError> {
    let unknown = Unknown::read(body)?;
    let reader = Reader { schema: &schema.schema, depth: 0 };
    let mut value = reader.message(schema.root, unknown.raw)?;
    if let Some(members) = value.as_object_mut() {
        for (name, text) in [("apiVersion", unknown.api_version), ("kind", unknown.kind)] {
            if !text.is_empty() {
                members.insert(name, text.into());
            }
        }
    }
    Ok(value)
}

/// `apiVersion` and `kind` of a body, from its envelope.
pub fn type_of(body: &[u8]) -> Result<(String, String), ProtoError> {
    Unknown::read(body).map(|unknown| (unknown.api_version, unknown.kind))
}

/// `runtime.Unknown`
#[derive(Default)]
struct Unknown<'a> {
    api_version: String,
    kind: String,
    raw: &'a [u8],
}

impl<'a> Unknown<'a> {
    fn read(body: &'a [u8]) -> Result<Self, ProtoError> {
        let mut made = Self::default();
        let unknown = match body.strip_prefix(MAGIC) {
            None if body.is_empty() => return Err(ProtoError::NoData),
            None => return Err(ProtoError::NotProtobuf),
            Some([]) => return Err(ProtoError::NoBody),
            Some(unknown) => unknown,
        };
        for part in Parts(unknown) {
            match part? {
                (1, Wire::Bytes(meta)) => {
                    for part in Parts(meta) {
                        match part? {
                            (1, Wire::Bytes(text)) => made.api_version = String::from_utf8_lossy(text).into_owned(),
                            (2, Wire::Bytes(text)) => made.kind = String::from_utf8_lossy(text).into_owned(),
                            _ => {}
                        }
                    }
                }
                (2, Wire::Bytes(raw)) => made.raw = raw,
                _ => {}
            }
        }
        Ok(made)
    }
}

struct Reader<'s> {
    schema: &'s Schema,
    depth: usize,
}

impl Reader<'_> {
    fn deeper(&self) -> Result<Self, ProtoError> {
        if self.depth >= DEPTH {
            return Err(ProtoError::TooDeep);
        }
        Ok(Self { schema: self.schema, depth: self.depth + 1 })
    }

    fn message(&self, id: TypeId, raw: &[u8]) -> Result<Value, ProtoError> {
        let inner = self.deeper()?;
        let of = self.schema.get(id);
        if let Some(union) = of.union {
            return inner.union(union.message, union.other, raw);
        }
        let mut members = Map::new();
        inner.fields(of, raw, &mut members)?;
        Ok(Value::Object(members))
    }

    /// Reads the fields of a message into a map; those of inline messages stand in the same map.
    fn fields(&self, of: &Type, raw: &[u8], into: &mut Map) -> Result<(), ProtoError> {
        // Where fields come in order, as Go writes them, there is nothing yet that a zero value might overwrite.
        let (fresh, mut last) = (into.is_empty(), 0);
        for part in Parts(raw) {
            let (number, wire) = part?;
            match of.member(number) {
                Some(Member::Field(at)) if fresh && number > last && is_left_out(&of.fields[*at as usize], wire) => {}
                Some(Member::Field(at)) => {
                    self.field(&of.fields[*at as usize], wire, into)?;
                    last = last.max(number);
                }
                Some(Member::Inline { message, .. }) => {
                    let Wire::Bytes(raw) = wire else { return Err(ProtoError::Mismatch(number.to_string())) };
                    self.deeper()?.fields(self.schema.get(*message), raw, into)?;
                }
                None => {}
            }
        }
        Ok(())
    }

    fn field(&self, field: &Field, wire: Wire<'_>, into: &mut Map) -> Result<(), ProtoError> {
        let mismatch = || ProtoError::Mismatch(field.name.to_string());
        match &field.shape {
            list if field.nested => {
                let list = self.map_value(list, wire).ok_or_else(mismatch)??;
                into.insert(field.key(), list);
            }
            Shape::List(item) => {
                let list = slot(into, field, || Value::Array(Vec::new())).and_then(Value::as_array_mut).ok_or_else(mismatch)?;
                match (&**item, wire) {
                    // Repeated numbers may come packed.
                    (Shape::Int32 | Shape::Int64 | Shape::Bool, Wire::Bytes(packed)) => {
                        let mut rest = Parts(packed);
                        while !rest.0.is_empty() {
                            list.push(self.value(item, Wire::Varint(rest.varint()?)).ok_or_else(mismatch)??);
                        }
                    }
                    _ => list.push(self.value(item, wire).ok_or_else(mismatch)??),
                }
            }
            Shape::Map(item) => {
                let Wire::Bytes(entry) = wire else { return Err(mismatch()) };
                let (mut key, mut value) = (Text::default(), None);
                for part in Parts(entry) {
                    match part? {
                        (1, Wire::Bytes(text)) => key = Text::from_utf8_lossy(text),
                        (2, wire) => value = Some(self.map_value(item, wire).ok_or_else(mismatch)??),
                        _ => {}
                    }
                }
                let value = match value {
                    Some(value) => value,
                    None => self.map_value(item, Wire::Bytes(&[])).or_else(|| self.value(item, Wire::Varint(0))).ok_or_else(mismatch)??,
                };
                let map = slot(into, field, || Value::Object(Map::new())).and_then(Value::as_object_mut).ok_or_else(mismatch)?;
                map.insert(key, value);
            }
            shape => {
                let value = self.value(shape, wire).ok_or_else(mismatch)??;
                // A zero time is an empty message: nothing.
                if !value.is_null() {
                    into.insert(field.key(), value);
                }
            }
        }
        Ok(())
    }

    /// A list as a map's value is a message of its own (`ExtraValue`), as some fields are.
    fn map_value(&self, shape: &Shape, wire: Wire<'_>) -> Option<Result<Value, ProtoError>> {
        let (Shape::List(item), Wire::Bytes(raw)) = (shape, wire) else { return self.value(shape, wire) };
        let mut list = Vec::new();
        for part in Parts(raw) {
            match part {
                Ok((1, wire)) => match self.value(item, wire)? {
                    Ok(value) => list.push(value),
                    Err(error) => return Some(Err(error)),
                },
                Ok(_) => {}
                Err(error) => return Some(Err(error)),
            }
        }
        Some(Ok(Value::Array(list)))
    }

    /// One value; `None` when the wire type does not fit the shape.
    fn value(&self, shape: &Shape, wire: Wire<'_>) -> Option<Result<Value, ProtoError>> {
        let value = match (shape, wire) {
            (Shape::String, Wire::Bytes(text)) => std::str::from_utf8(text).ok()?.into(),
            (Shape::Bool, Wire::Varint(n)) => (n != 0).into(),
            #[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "negative numbers are sign-extended varints")]
            (Shape::Int32, Wire::Varint(n)) => (n as i64 as i32).into(),
            #[expect(clippy::cast_possible_wrap, reason = "two's complement on the wire")]
            (Shape::Int64, Wire::Varint(n)) => (n as i64).into(),
            (Shape::Float64, Wire::Fixed64(bits)) => f64::from_bits(bits).into(),
            (Shape::Float64, Wire::Fixed32(bits)) => f64::from(f32::from_bits(bits)).into(),
            (Shape::Bytes, Wire::Bytes(raw)) => STANDARD.encode(raw).into(),
            (Shape::Time | Shape::MicroTime, Wire::Bytes(raw)) => return Some(time(raw, *shape == Shape::MicroTime)),
            (Shape::Duration, Wire::Bytes(raw)) => return Some(number_in(raw).map(|n| duration::text(n).into())),
            (Shape::Quantity, Wire::Bytes(raw)) => return Some(text_in(raw).map(Value::from)),
            (Shape::IntOrString, Wire::Bytes(raw)) => return Some(int_or_string(raw)),
            (Shape::Object | Shape::Any, Wire::Bytes(raw)) => return Some(raw_json(raw)),
            // What are no fields is for ownership to tell: it takes such entries for none.
            (Shape::Fields, Wire::Bytes(raw)) => return Some(raw_json(raw).or_else(|_| text_in(raw).map(Value::from))),
            (Shape::Message(id), Wire::Bytes(raw)) => return Some(self.message(*id, raw)),
            _ => return None,
        };
        Some(Ok(value))
    }

    /// `JSONSchemaPropsOrArray`, `…OrBool`, `…OrStringArray`: their JSON is one of their two fields.
    fn union(&self, message: TypeId, other: Alternative, raw: &[u8]) -> Result<Value, ProtoError> {
        let (mut schema, mut list, mut allows) = (None, Vec::new(), false);
        let schema_number = if other == Alternative::Bool { 2 } else { 1 };
        for part in Parts(raw) {
            match (other, part?) {
                (_, (number, Wire::Bytes(raw))) if number == schema_number => schema = Some(self.message(message, raw)?),
                (Alternative::Bool, (1, Wire::Varint(n))) => allows = n != 0,
                (Alternative::List, (2, Wire::Bytes(raw))) => list.push(self.message(message, raw)?),
                (Alternative::Strings, (2, Wire::Bytes(text))) => list.push(Text::from_utf8_lossy(text).into()),
                _ => {}
            }
        }
        Ok(match (schema, other) {
            (Some(schema), _) => schema,
            (None, Alternative::Bool) => allows.into(),
            (None, _) => list.into(),
        })
    }
}

/// Whether this is a zero value that JSON does not have: Go writes one for all that is no pointer.
fn is_left_out(field: &Field, wire: Wire<'_>) -> bool {
    field.presence == Presence::WhenSet
        && match wire {
            Wire::Varint(0) => matches!(field.shape, Shape::Bool | Shape::Int32 | Shape::Int64),
            Wire::Bytes([]) => matches!(field.shape, Shape::String | Shape::Bytes),
            _ => false,
        }
}

/// What is there of a field that comes in pieces. (An entry of the map would copy the name for each piece.)
fn slot<'m>(members: &'m mut Map, field: &Field, empty: impl FnOnce() -> Value) -> Option<&'m mut Value> {
    if !members.contains_key(&field.name) {
        members.insert(field.key(), empty());
    }
    members.get_mut(&field.name)
}

/// `Timestamp {seconds, nanos}`; an empty one is the zero time, which JSON writes as null.
fn time(raw: &[u8], micros: bool) -> Result<Value, ProtoError> {
    if raw.is_empty() {
        return Ok(Value::Null);
    }
    let (mut seconds, mut nanos) = (0i64, 0i32);
    for part in Parts(raw) {
        match part? {
            #[expect(clippy::cast_possible_wrap, reason = "two's complement on the wire")]
            (1, Wire::Varint(n)) => seconds = n as i64,
            #[expect(clippy::cast_possible_truncation, reason = "below a billion")]
            (2, Wire::Varint(n)) => nanos = n as i32,
            _ => {}
        }
    }
    let time = Timestamp::new(seconds, nanos).map_err(|_| ProtoError::Mismatch("time".into()))?;
    Ok(if micros { crate::time::micros(time) } else { crate::time::seconds(time) }.into())
}

fn int_or_string(raw: &[u8]) -> Result<Value, ProtoError> {
    let (mut is_text, mut number, mut text) = (false, 0i64, Text::default());
    for part in Parts(raw) {
        match part? {
            (1, Wire::Varint(n)) => is_text = n == 1,
            #[expect(clippy::cast_possible_wrap, reason = "two's complement on the wire")]
            (2, Wire::Varint(n)) => number = n as i64,
            (3, Wire::Bytes(raw)) => text = Text::from_utf8_lossy(raw),
            _ => {}
        }
    }
    Ok(if is_text { text.into() } else { number.into() })
}

/// JSON in the first field (`RawExtension`, `FieldsV1`, `JSON`).
fn raw_json(raw: &[u8]) -> Result<Value, ProtoError> {
    for part in Parts(raw) {
        if let (1, Wire::Bytes(json)) = part? {
            return serde_json::from_slice(json).map_err(|e| ProtoError::Mismatch(format!("raw ({e})")));
        }
    }
    Ok(Value::Null)
}

fn text_in(raw: &[u8]) -> Result<Text, ProtoError> {
    for part in Parts(raw) {
        if let (1, Wire::Bytes(text)) = part? {
            return Ok(Text::from_utf8_lossy(text));
        }
    }
    Ok(Text::default())
}

fn number_in(raw: &[u8]) -> Result<i64, ProtoError> {
    for part in Parts(raw) {
        #[expect(clippy::cast_possible_wrap, reason = "two's complement on the wire")]
        if let (1, Wire::Varint(n)) = part? {
            return Ok(n as i64);
        }
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;
    use crate::Tables;

    fn bytes(number: u32, content: &[u8]) -> Vec<u8> {
        let mut out = vec![u8::try_from(number << 3 | 2).unwrap(), u8::try_from(content.len()).unwrap()];
        out.extend_from_slice(content);
        out
    }

    fn varint(number: u32, value: u8) -> Vec<u8> {
        vec![u8::try_from(number << 3).unwrap(), value]
    }

    fn envelope(version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let meta = [bytes(1, version.as_bytes()), bytes(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), bytes(1, &meta), bytes(2, raw)].concat()
    }

    #[test]
    fn a_config_map_reads_as_its_json_would() {
        let tables = Tables::load().unwrap();
        let schema = tables.kind("", "v1", "ConfigMap").unwrap();
        // metadata: name 1, creationTimestamp 8 (zero: empty); data: 2, a map.
        let metadata = [bytes(1, b"x"), bytes(8, b"")].concat();
        let entry = [bytes(1, b"a"), bytes(2, b"b")].concat();
        let body = envelope("v1", "ConfigMap", &[bytes(1, &metadata), bytes(2, &entry)].concat());
        let expected = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"a": "b"}});
        assert_eq!(decode(&body, &schema).unwrap(), expected);
    }

    #[test]
    fn ports_quantities_and_alternatives_of_int_and_string_are_understood() {
        let tables = Tables::load().unwrap();
        let port = tables.message("core.ServicePort").unwrap();
        let target = [varint(1, 1), bytes(3, b"http")].concat();
        let raw = [varint(3, 80), bytes(4, &target)].concat();
        let value = decode(&envelope("", "", &raw), &port).unwrap();
        assert_eq!(value, json!({"port": 80, "targetPort": "http"}));
        let resources = tables.message("core.ResourceRequirements").unwrap();
        let entry = [bytes(1, b"cpu"), bytes(2, &bytes(1, b"100m"))].concat();
        assert_eq!(decode(&envelope("", "", &bytes(1, &entry)), &resources).unwrap(), json!({"limits": {"cpu": "100m"}}));
    }

    #[test]
    fn of_what_comes_twice_the_last_counts_zero_or_not() {
        let tables = Tables::load().unwrap();
        let secret = tables.kind("", "v1", "Secret").unwrap();
        let read = |raw: &[u8], schema| decode(&envelope("", "", raw), schema).unwrap();
        assert_eq!(read(&[bytes(3, b"a"), bytes(3, b"")].concat(), &secret), json!({"type": ""}));
        // The name stands in a message of its own, whose fields are those of the one around it.
        let source = tables.message("core.ConfigMapEnvSource").unwrap();
        let nested = |name: &[u8]| bytes(1, &bytes(1, name));
        assert_eq!(read(&[nested(b"a"), nested(b"")].concat(), &source), json!({"name": ""}));
    }

    #[test]
    fn broken_bodies_are_refused_without_panic() {
        let tables = Tables::load().unwrap();
        let schema = tables.kind("", "v1", "ConfigMap").unwrap();
        assert_eq!(decode(b"{}", &schema), Err(ProtoError::NotProtobuf));
        let whole = envelope("v1", "ConfigMap", &bytes(1, &bytes(1, b"name")));
        for length in MAGIC.len() + 1..whole.len() {
            let _ = decode(&whole[..length], &schema);
        }
        assert_eq!(decode(&whole[..whole.len() - 1], &schema), Err(ProtoError::Truncated));
    }
}
