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
    let mut refused = None;
    members.retain(|name, value| {
        // Beside the fields only apiVersion and kind, which are left out when empty.
        let Some(field) = of.field(name) else { return *value != "" };
        if let Err(why) = settle(schema, &field.shape, value, false) {
            refused.get_or_insert(why);
        }
        let null = value.is_null() && !matches!(field.shape, Shape::Any | Shape::Object);
        if !null && !zero::is_left_out(field, value) {
            return true;
        }
        zero::absent(schema, field).map(|instead| *value = instead).is_some()
    });
    for field in of.written.iter().map(|at| &of.fields[*at as usize]) {
        if !members.contains_key(&*field.name)
            && let Some(value) = zero::absent(schema, field)
        {
            members.insert(field.name.to_string(), value);
        }
    }
    refused.map_or(Ok(()), Err)
}
