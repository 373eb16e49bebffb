//! Bodies in every encoding.

use coracle_apiserver::wire::yaml::read;
use coracle_schema::{
    SchemaRef, decode,
    decode::{FieldValidation, from_json, from_value},
    default, proto,
};
use coracle_tree::Value;

use crate::kind;

/// JSON of a kind: what is accepted is a fixed point of decoding, with and without defaults.
pub(crate) fn json(data: &[u8]) {
    let Some((schema, body)) = kind(data) else { return };
    for mode in [FieldValidation::Ignore, FieldValidation::Strict] {
        if let Ok(decoded) = from_json(body, &schema, mode) {
            settled(&schema, decoded.value);
        }
    }
}

/// YAML: bounded in size and depth; what it gives is decoded like JSON.
pub(crate) fn yaml(data: &[u8]) {
    let Some((schema, body)) = kind(data) else { return };
    if let Ok(document) = read(body)
        && let Ok(decoded) = from_value(document.value, &schema, FieldValidation::Warn)
    {
        settled(&schema, decoded.value);
    }
}

/// Protobuf of a kind, with the envelope put in front.
pub(crate) fn protobuf(data: &[u8]) {
    let Some((schema, body)) = kind(data) else { return };
    let mut whole = proto::MAGIC.to_vec();
    // Field 2 of runtime.Unknown, with its length as a varint.
    whole.push(0x12);
    let mut left = body.len();
    while left >= 0x80 {
        whole.push(left as u8 | 0x80);
        left >>= 7;
    }
    whole.push(left as u8);
    whole.extend_from_slice(body);
    if let Ok(value) = proto::decode(&whole, &schema)
        && let Ok(decoded) = from_value(value, &schema, FieldValidation::Ignore)
    {
        settled(&schema, decoded.value);
    }
    let _ = proto::decode(body, &schema);
}

fn settled(schema: &SchemaRef, mut value: Value) {
    let again = decode::from_value(value.clone(), schema, FieldValidation::Strict);
    assert_eq!(again.map(|d| d.value), Ok(value.clone()), "decoding changes what it accepted");
    default::apply(&mut value, schema);
    let once = value.clone();
    default::apply(&mut value, schema);
    assert_eq!(once, value, "defaults are not settled after one pass");
    let text = value.to_string();
    let read = from_json(text.as_bytes(), schema, FieldValidation::Strict).map(|d| d.value);
    assert_eq!(read, Ok(value), "what was written does not read back");
}
