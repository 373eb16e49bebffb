//! Normalizing in place what has the right types already: zero values, absent fields and quantities as Go's encoder would write them.

use serde_json::{Map, Value};

use super::{scalar, visit::whole, zero};
use crate::types::{Schema, SchemaRef, Shape, Type, TypeId};

/// Normalizes an object. Fails with the reason when a text in it does not parse.
pub(super) fn object(value: &mut Value, schema: &SchemaRef) -> Result<(), String> {
    settle(&schema.schema, &Shape::Message(schema.root), value, false)
}

/// `coarse`: quantities are rounded up to thousandths, being values of a resource list.
fn settle(schema: &Schema, shape: &Shape, value: &mut Value, coarse: bool) -> Result<(), String> {
    match (shape, value) {
        (Shape::Message(id), Value::Object(members)) => message(schema, *id, members),
        (Shape::Message(id), Value::Array(items)) => {
            // The form of a union that is a list of its message.
            let of = schema.get(*id).union.map_or(*id, |union| union.message);
            items.iter_mut().filter(|item| item.is_object()).try_for_each(|item| settle(schema, &Shape::Message(of), item, false))
        }
        (Shape::List(of), Value::Array(items)) => items.iter_mut().try_for_each(|item| present(schema, of, item, false)),
        (Shape::Map(of), Value::Object(items)) => {
            let coarse = **of == Shape::Quantity;
            items.values_mut().try_for_each(|item| present(schema, of, item, coarse))
        }
        (Shape::Quantity, Value::String(text)) => {
            *text = scalar::quantity(text, coarse)?;
            Ok(())
        }
        (Shape::Float64, Value::Number(number)) => {
            *number = whole(number);
            Ok(())
        }
        _ => Ok(()),
    }
}

/// An item of a list or map: null is the zero value.
fn present(schema: &Schema, shape: &Shape, value: &mut Value, coarse: bool) -> Result<(), String> {
    settle(schema, shape, value, coarse)?;
    if value.is_null() {
        *value = zero::value(schema, shape);
    }
    Ok(())
}

fn message(schema: &Schema, id: TypeId, members: &mut Map<String, Value>) -> Result<(), String> {
    let of: &Type = schema.get(id);
    let of = of.union.map_or(of, |union| schema.get(union.message));
    for field in &of.fields {
        let Some(value) = members.get_mut(&*field.name) else {
            if let Some(value) = zero::absent(schema, field) {
                members.insert(field.name.to_string(), value);
            }
            continue;
        };
        settle(schema, &field.shape, value, false)?;
        let null = value.is_null() && !matches!(field.shape, Shape::Any | Shape::Object);
        if !null && !zero::is_left_out(field, value) {
            continue;
        }
        match zero::absent(schema, field) {
            Some(instead) => *value = instead,
            None => {
                members.remove(&*field.name);
            }
        }
    }
    // Beside the fields only these, which are left out when empty.
    for name in ["apiVersion", "kind"] {
        if of.typed && of.position(name).is_none() && members.get(name).is_some_and(|value| value == "") {
            members.remove(name);
        }
    }
    Ok(())
}
