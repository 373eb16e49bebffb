//! Against what the Go types write (`testdata/golden.gz`, made by `testdata/golden`), and round trips of every kind.

use std::io::Read;

use serde_json::Value;

use super::{decode, envelope, message};
use crate::{
    SchemaRef, Tables,
    decode::{FieldValidation, from_value},
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
