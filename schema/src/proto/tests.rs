//! Against what the Go types write (`testdata/golden.gz`, made by `testdata/golden`), and round trips of every kind.

use std::io::Read;

use coracle_tree::Value;

use super::{decode, duration, envelope, message, message_of};
use crate::{
    Schema, SchemaRef, Tables,
    decode::{FieldValidation, from_value},
    types::{Alternative, Shape, TypeId},
};

/// JSON and protobuf of the same object, as upstream's serializers write them.
struct Golden {
    json: Vec<u8>,
    proto: Vec<u8>,
}

fn golden() -> Vec<Golden> {
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(&include_bytes!("../../testdata/golden.gz")[..]).read_to_end(&mut bytes).unwrap();
    let mut rest = bytes.as_slice();
    let mut record = || {
        let (length, tail) = rest.split_first_chunk::<4>()?;
        let (record, tail) = tail.split_at(u32::from_be_bytes(*length) as usize);
        rest = tail;
        Some(record.to_vec())
    };
    std::iter::from_fn(|| Some(Golden { json: record()?, proto: record()? })).collect()
}

/// Version, kind and schema of an object, if the tables have it.
fn schema_of(tables: &Tables, object: &Value) -> Option<(String, String, SchemaRef)> {
    let (version, kind) = (object["apiVersion"].as_str()?, object["kind"].as_str()?);
    let (group, short) = version.rsplit_once('/').unwrap_or(("", version));
    let schema = tables.kind(group, short, kind).or_else(|| tables.message(&format!("meta.{kind}")))?;
    Some((version.to_owned(), kind.to_owned(), schema))
}

/// Where two values differ first.
fn difference(a: &Value, b: &Value, path: &str) -> String {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            for key in x.keys().chain(y.keys()) {
                let (left, right) = (x.get(key).unwrap_or(&Value::Null), y.get(key).unwrap_or(&Value::Null));
                if left != right || x.contains_key(key) != y.contains_key(key) {
                    return difference(left, right, &format!("{path}.{key}"));
                }
            }
            String::new()
        }
        (Value::Array(x), Value::Array(y)) if x.len() == y.len() => {
            let at = x.iter().zip(y).position(|(l, r)| l != r).unwrap_or_default();
            difference(&x[at], &y[at], &format!("{path}[{at}]"))
        }
        _ => format!("{path}: {a} is not {b}"),
    }
}

#[test]
fn every_kind_is_written_byte_for_byte_as_the_go_types_write_it() {
    let tables = Tables::load().unwrap();
    let (mut compared, mut wrong) = (0, Vec::new());
    for Golden { json, proto } in golden() {
        let object: Value = serde_json::from_slice(&json).unwrap();
        let Some((version, kind, schema)) = schema_of(&tables, &object) else {
            panic!("the tables lack {} {}", object["apiVersion"], object["kind"]);
        };
        let raw = message(&json, &schema).unwrap();
        assert_eq!(message_of(&object, &schema).unwrap(), raw, "{kind}");
        compared += 1;
        if envelope(&version, &kind, &raw) != proto {
            let (ours, theirs) = (decode(&envelope(&version, &kind, &raw), &schema).unwrap(), decode(&proto, &schema).unwrap());
            wrong.push(format!("{version} {kind}: {}", difference(&ours, &theirs, "")));
        }
    }
    assert!(wrong.is_empty(), "{} of {compared}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(compared > 200, "{compared}");
}

#[test]
fn every_kind_reads_from_protobuf_as_it_reads_from_json() {
    let tables = Tables::load().unwrap();
    let mut wrong = Vec::new();
    for Golden { json, proto } in golden() {
        let object: Value = serde_json::from_slice(&json).unwrap();
        let Some((version, kind, schema)) = schema_of(&tables, &object) else { continue };
        let stored = |value: Value| from_value(value, &schema, FieldValidation::Strict).unwrap().value;
        let (ours, theirs) = (stored(decode(&proto, &schema).unwrap()), stored(object));
        if ours != theirs {
            wrong.push(format!("{version} {kind}: {}", difference(&ours, &theirs, "")));
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn a_list_that_is_a_message_of_its_own_is_written_and_read_as_one() {
    let schema = Tables::load().unwrap().message("meta.APIResource").unwrap();
    let json = br#"{"kind":"A","name":"as","namespaced":true,"singularName":"a","verbs":["get","list"]}"#;
    let raw = message(json, &schema).unwrap();
    let verbs = b"\x22\x0b\x0a\x03get\x0a\x04list";
    assert!(raw.windows(verbs.len()).any(|part| part == verbs), "{raw:?}");
    let read = decode(&envelope("v1", "APIResource", &raw), &schema).unwrap();
    assert_eq!(read["verbs"], coracle_tree::json!(["get", "list"]));
}

/// Makes objects of any message: every field with an even chance, numbers and texts as they come.
struct Maker<'s> {
    schema: &'s Schema,
    state: u64,
}

impl Maker<'_> {
    /// `xorshift64`: the same seed makes the same objects.
    fn below(&mut self, bound: u64) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state % bound
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    fn message(&mut self, id: TypeId, depth: usize) -> Value {
        let of = self.schema.get(id);
        if let Some(union) = of.union {
            return match (union.other, self.below(2)) {
                (_, 0) => self.message(union.message, depth),
                (Alternative::Bool, _) => Value::Bool(self.below(2) == 0),
                (Alternative::List, _) => Value::Array(vec![self.message(union.message, depth)]),
                (Alternative::Strings, _) => coracle_tree::json!(["a", "b"]),
            };
        }
        let mut made = coracle_tree::Map::new();
        for field in &of.fields {
            if self.below(2) == 0 {
                made.insert(field.name.to_string(), self.value(&field.shape, depth));
            }
        }
        Value::Object(made)
    }

    fn value(&mut self, shape: &Shape, depth: usize) -> Value {
        let length = if depth == 0 { 0 } else { self.below(3) };
        match shape {
            Shape::String => self.one(&["", "a", "ü\u{1F600}", "\"\\\n\t\0", "x"]).into(),
            Shape::Bool => (self.below(2) == 0).into(),
            Shape::Int32 => self.one(&[0, 1, -1, i32::MIN, i32::MAX, 300]).into(),
            Shape::Int64 => self.one(&[0, 1, -1, i64::MIN, i64::MAX, 1 << 40]).into(),
            Shape::Float64 => self.one(&[0.0, 0.5, -1e300, 3.0]).into(),
            Shape::Bytes => self.one(&["", "AAEC", "/w=="]).into(),
            Shape::Time => self.one(&["2024-02-29T23:59:59Z", "1969-12-31T23:59:59Z"]).into(),
            Shape::MicroTime => self.one(&["2024-02-29T23:59:59.000001Z", "1970-01-01T00:00:00.000000Z"]).into(),
            Shape::Duration => {
                let nanos = self.one(&[0, 1, -1_500_000, 3_600_000_000_000, i64::MAX]);
                duration::text(nanos).into()
            }
            Shape::Quantity => self.one(&["0", "100m", "1536Mi", "5"]).into(),
            Shape::IntOrString if self.below(2) == 0 => self.one(&[0, -5, 8080]).into(),
            Shape::IntOrString => self.one(&["", "25%", "http"]).into(),
            Shape::Object | Shape::Fields | Shape::Any => coracle_tree::json!({"kind": "K", "n": [1, null, {"a": "\u{7f}"}]}),
            Shape::List(of) => (0..length).map(|_| self.value(of, depth - 1)).collect(),
            Shape::Map(of) => (0..length).map(|n| (format!("k{}-{n}", self.below(9)), self.value(of, depth - 1))).collect(),
            Shape::Message(id) if depth > 0 => self.message(*id, depth - 1),
            Shape::Message(_) => coracle_tree::json!({}),
        }
    }
}

/// A value without empty lists, maps and nulls, which protobuf cannot tell from absent ones.
fn without_nothing(value: &Value) -> Value {
    let is_nothing =
        |v: &Value| v.is_null() || v.as_array().is_some_and(Vec::is_empty) || v.as_object().is_some_and(coracle_tree::Map::is_empty);
    match value {
        Value::Object(members) => {
            let kept = members.iter().map(|(name, v)| (name.clone(), without_nothing(v))).filter(|(_, v)| !is_nothing(v));
            Value::Object(kept.collect())
        }
        Value::Array(items) => items.iter().map(without_nothing).collect(),
        other => other.clone(),
    }
}

#[test]
fn objects_of_every_kind_survive_the_way_to_protobuf_and_back() {
    let tables = Tables::load().unwrap();
    let mut wrong = Vec::new();
    for (at, resource) in tables.resources.iter().enumerate() {
        let schema = tables.schema_of(resource);
        let mut maker = Maker { schema: &tables.schema, state: 0x9e37_79b9_7f4a_7c15 ^ at as u64 };
        for _ in 0..12 {
            let mut object = maker.message(resource.type_id, 7);
            object["apiVersion"] = "v".into();
            object["kind"] = resource.kind.into();
            let stored = |value: Value| from_value(value, &schema, FieldValidation::Strict).unwrap().value;
            let before = stored(object);
            let raw = message(before.to_string().as_bytes(), &schema).unwrap();
            let after = stored(decode(&envelope("v", resource.kind, &raw), &schema).unwrap());
            let (before, settled) = (without_nothing(&before), without_nothing(&after));
            if settled != before {
                wrong.push(format!("{}: {}", resource.kind, difference(&before, &settled, "")));
            }
            assert_eq!(message(after.to_string().as_bytes(), &schema).unwrap(), raw, "{}", resource.kind);
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn a_message_with_another_resource_version_is_that_of_the_object_with_it() {
    let tables = Tables::load().unwrap();
    let mut compared = 0;
    for Golden { json, .. } in golden() {
        let mut object: Value = serde_json::from_slice(&json).unwrap();
        let Some((.., schema)) = schema_of(&tables, &object) else { continue };
        if !object["metadata"]["name"].is_string() {
            continue;
        }
        for version in ["", "7", "18446744073709551615"] {
            let bare = message_of(&object, &schema).unwrap();
            object["metadata"]["resourceVersion"] = version.into();
            assert_eq!(envelope::versioned(&bare, version).unwrap(), message_of(&object, &schema).unwrap(), "{object}");
        }
        compared += 1;
    }
    assert!(compared > 100, "{compared}");
    let broken = [&b""[..], b"\x0a", b"\x0a\x02\x0a\0", b"\x08\x01"];
    assert!(broken.iter().all(|message| envelope::versioned(message, "7").is_none()));
}

#[test]
fn owned_fields_that_are_no_json_do_not_hinder_the_object() {
    let schema = Tables::load().unwrap().kind("", "v1", "ConfigMap").unwrap();
    let json = br#"{"metadata":{"managedFields":[{"manager":"m","fieldsV1":{"f:data":{}}}]},"data":{"k":"v"}}"#;
    let mut bytes = message(json, &schema).unwrap();
    let fields = bytes.windows(6).position(|at| at == b"f:data").unwrap();
    bytes[fields - 2] = b'x';
    let read = decode(&envelope::envelope("v1", "ConfigMap", &bytes), &schema).unwrap();
    assert_eq!(read["metadata"]["managedFields"][0]["fieldsV1"], r#"x"f:data":{}}"#);
    assert_eq!(read["data"]["k"], "v");
}
