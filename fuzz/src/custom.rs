//! What definitions of custom resources bring: schemas, values under them, JSON paths.

use coracle_schema::{
    decode::{FieldValidation, from_value},
    default,
    jsonpath::JsonPath,
    structural,
};
use coracle_tree::Value;

use crate::TABLES;

/// `schema \xFF object`: compiled or refused with reasons; what a compiled schema accepts and defaults is a fixed point of both.
pub(crate) fn structural(data: &[u8]) {
    let at = data.iter().position(|b| *b == 0xFF).unwrap_or(data.len());
    let (Ok(schema), Some(tables)) = (serde_json::from_slice::<Value>(&data[..at]), TABLES.as_ref()) else { return };
    let _ = structural::violations(&schema, "");
    let Ok(compiled) = structural::compile(&schema, &tables.schema, "Thing", false) else { return };
    let Some(object) = data.get(at + 1..).and_then(|rest| serde_json::from_slice::<Value>(rest).ok()) else { return };
    if !object.is_object() {
        return;
    }
    let _ = compiled.validate(&object, None);
    let _ = compiled.validate(&object, Some(&object));
    let Ok(decoded) = from_value(object, &compiled.schema, FieldValidation::Warn) else { return };
    let mut value = decoded.value;
    let again = from_value(value.clone(), &compiled.schema, FieldValidation::Strict).map(|d| d.value);
    assert_eq!(again.as_ref(), Ok(&value), "decoding changes what it accepted");
    default::apply(&mut value, &compiled.schema);
    let once = value.clone();
    default::apply(&mut value, &compiled.schema);
    assert_eq!(once, value, "defaults are not settled after one pass");
}

/// `path \xFF value`: parsed or refused; what is found lies in the value.
pub(crate) fn jsonpath(data: &[u8]) {
    let at = data.iter().position(|b| *b == 0xFF).unwrap_or(data.len());
    let Ok(text) = std::str::from_utf8(&data[..at]) else { return };
    let value: Value = data.get(at + 1..).and_then(|rest| serde_json::from_slice(rest).ok()).unwrap_or_default();
    if let Ok(path) = JsonPath::parse(text) {
        let _ = path.find(&value);
    }
}
