//! What stands for a field that was not given, and which given values are left out.

use coracle_tree::{Map, Text, Value};

use crate::types::{Field, Presence, Schema, Shape, Type};

/// Lists which without items say that what was there is to go, and which, not given, leave it as it was (`internal/managedfields.go`,
/// `podStatusStrategy`).
const TELLING: [&str; 2] = ["managedFields", "resourceClaimStatuses"];

/// What the encoder writes for a field that was not given; `None` when it writes nothing.
pub(super) fn absent(schema: &Schema, field: &Field) -> Option<Value> {
    field.is_always_written().then(|| match field.presence {
        Presence::Nullable => Value::Null,
        _ => value(schema, &field.shape),
    })
}

/// Whether a decoded value is left out of a field.
pub(super) fn is_left_out(field: &Field, value: &Value) -> bool {
    match field.presence {
        Presence::Always | Presence::Nullable => false,
        Presence::Optional => value.is_null(),
        Presence::WhenSet => match value {
            Value::Null => true,
            Value::Bool(set) => !set,
            Value::Number(number) => number.as_f64() == Some(0.0) && field.shape != Shape::IntOrString,
            Value::String(text) => text.is_empty() && field.shape != Shape::IntOrString,
            Value::Array(items) => {
                items.is_empty() && field.shape != Shape::Any && field.shape != Shape::Object && !TELLING.contains(&&*field.name)
            }
            Value::Object(members) => members.is_empty() && matches!(field.shape, Shape::Map(_)),
        },
    }
}

/// Whether a decoded value is none for Go.
pub(super) fn is_absent(field: &Field, value: &Value) -> bool {
    value.is_null() && !matches!(field.shape, Shape::Any | Shape::Object)
}

/// Makes lists without items null where they are written all the same: protobuf, in which upstream stores what it then shows, does not tell
/// them from none. Whether there were any.
pub(super) fn forget_empty_lists(schema: &Schema, of: &Type, members: &mut Map) -> bool {
    let mut any = false;
    for field in of.listed.iter().map(|at| &of.fields[*at as usize]) {
        let Some(value) = members.get_mut(&field.name) else { continue };
        match value {
            Value::Array(items) if items.is_empty() && field.is_always_written() => {
                *value = Value::Null;
                any = true;
            }
            value => schema.enter_messages(&field.shape, value, &mut |of, members| any |= forget_empty_lists(schema, of, members)),
        }
    }
    any
}

/// The zero value of a shape, as it is encoded.
pub(super) fn value(schema: &Schema, shape: &Shape) -> Value {
    match shape {
        Shape::String => Value::String(Text::default()),
        Shape::Bool => Value::Bool(false),
        Shape::Int32 | Shape::Int64 | Shape::Float64 | Shape::IntOrString => Value::from(0),
        Shape::Duration => Value::from("0s"),
        Shape::Quantity => Value::from("0"),
        Shape::Message(id) => message(schema, schema.get(*id)),
        Shape::Bytes | Shape::Time | Shape::MicroTime | Shape::Object | Shape::Fields | Shape::Any | Shape::List(_) | Shape::Map(_) => {
            Value::Null
        }
    }
}

fn message(schema: &Schema, of: &Type) -> Value {
    let mut out = Map::new();
    for field in of.written.iter().map(|at| &of.fields[*at as usize]) {
        if let Some(value) = absent(schema, field) {
            out.insert(field.key(), value);
        }
    }
    Value::Object(out)
}
