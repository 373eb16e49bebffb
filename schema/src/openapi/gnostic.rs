//! Documents as protobuf (`google/gnostic-models`): what both versions' messages have in common. A table says what each member of the JSON is
//! in its message.
//!
//! Values of any type (extensions, examples, enumerations) are YAML text there, and JSON is YAML.

use coracle_tree::Value;

/// What a member is on the wire.
#[derive(Clone, Copy)]
pub(super) enum Part {
    Text,
    /// A list of texts, one field each.
    Texts,
    Bool,
    Int,
    Double,
    /// `Any`
    Any,
    /// A list of `Any`.
    Anys,
    /// A message.
    Of(Members),
    /// A list of messages.
    List(Writer),
    /// Written by hand.
    By(Writer),
    /// A message with entries `name 1, value 2` under this field number.
    Map(u64, Writer),
}

/// Writes a value as a whole message.
pub(super) type Writer = fn(&Value) -> Vec<u8>;
/// JSON name, field number, form; in the order of numbers.
pub(super) type Members = &'static [(&'static str, u64, Part)];

/// A message of the members that `value` has.
pub(super) fn message(members: Members, value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, number, part) in members {
        if let Some(member) = value.get(*name) {
            field(*number, *part, member, &mut out);
        }
    }
    out
}

fn field(number: u64, part: Part, value: &Value, out: &mut Vec<u8>) {
    let list = || value.as_array().into_iter().flatten();
    match part {
        Part::Text => value.as_str().filter(|text| !text.is_empty()).into_iter().for_each(|text| bytes(number, text.as_bytes(), out)),
        Part::Texts => list().filter_map(Value::as_str).for_each(|text| bytes(number, text.as_bytes(), out)),
        Part::Bool if value == &Value::Bool(true) => {
            varint(number << 3, out);
            out.push(1);
        }
        Part::Bool => {}
        Part::Int => {
            if let Some(n) = value.as_i64().filter(|n| *n != 0) {
                varint(number << 3, out);
                varint(n.cast_unsigned(), out);
            }
        }
        Part::Double => {
            if let Some(n) = value.as_f64().filter(|n| *n != 0.0) {
                varint(number << 3 | 1, out);
                out.extend(n.to_le_bytes());
            }
        }
        Part::Any => bytes(number, &any(value), out),
        Part::Anys => list().for_each(|item| bytes(number, &any(item), out)),
        Part::Of(members) => bytes(number, &message(members, value), out),
        Part::By(write) => bytes(number, &write(value), out),
        Part::List(write) => list().for_each(|item| bytes(number, &write(item), out)),
        Part::Map(entry, write) => {
            let mut entries = Vec::new();
            for (name, item) in value.as_object().into_iter().flatten() {
                bytes(entry, &nested(&[(1, name.as_bytes().to_vec()), (2, write(item))]), &mut entries);
            }
            bytes(number, &entries, out);
        }
    }
}

/// `SecurityRequirement`: names, each with a list of scopes.
pub(super) fn requirement(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, scopes) in value.as_object().into_iter().flatten() {
        let scopes: Vec<(u64, Vec<u8>)> =
            scopes.as_array().into_iter().flatten().filter_map(Value::as_str).map(|scope| (1, scope.as_bytes().to_vec())).collect();
        bytes(1, &nested(&[(1, name.as_bytes().to_vec()), (2, nested(&scopes))]), &mut out);
    }
    out
}

/// `Any`, as text.
fn any(value: &Value) -> Vec<u8> {
    nested(&[(2, format!("{value}\n").into_bytes())])
}

/// The `x-` members as `NamedAny`.
pub(super) fn extensions(number: u64, value: &Value, out: &mut Vec<u8>) {
    for (name, item) in value.as_object().into_iter().flatten().filter(|(name, _)| name.starts_with("x-")) {
        bytes(number, &nested(&[(1, name.as_bytes().to_vec()), (2, any(item))]), out);
    }
}

pub(super) fn nested(fields: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (number, content) in fields {
        bytes(*number, content, &mut out);
    }
    out
}

pub(super) fn bytes(number: u64, content: &[u8], out: &mut Vec<u8>) {
    varint(number << 3 | 2, out);
    varint(content.len() as u64, out);
    out.extend_from_slice(content);
}

pub(super) fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
