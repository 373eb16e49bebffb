//! What mutations make of an object (apiserver `plugin/policy/mutating/patch`).

use coracle_cel::{List, Map, Val};
use coracle_schema::{SchemaRef, apply, patch};
use coracle_tree::{Value, json};

/// `Object{...}`: merged in as server-side apply merges.
pub(super) fn configuration(schema: &SchemaRef, object: &Value, value: &Val<'_>) -> Result<Value, String> {
    let Val::Object(_) = value else {
        return Err(format!("unsupported return type from ApplyConfiguration expression: {}", value.ty().name()));
    };
    named(value, "Object")?;
    let mut config = value.to_json().map_err(|error| error.to_string())?;
    for field in ["apiVersion", "kind"] {
        config[field] = object.get(field).cloned().unwrap_or_default();
    }
    apply::overlay(schema, object, &config).map_err(|why| format!("error applying patch: {why}"))
}

/// `[JSONPatch{...}]`: applied one after the other; if a test fails, nothing is changed.
pub(super) fn json(object: &Value, value: &Val<'_>) -> Result<Value, String> {
    let Val::List(list) = value else { return Err("type mismatch: JSONPatchType.expression should evaluate to array".to_owned()) };
    let mut operations = Vec::with_capacity(list.len());
    for item in list.iter() {
        operations.push(operation(&item.map_err(|error| error.to_string())?)?);
    }
    let bytes = serde_json::to_vec(&operations).map_err(|error| error.to_string())?;
    match patch::json_patch(object.clone(), &bytes) {
        Ok(made) => Ok(made),
        Err(_) if !tests_hold(object, &operations) => Ok(object.clone()),
        Err(error) => Err(format!("JSON Patch: {error}")),
    }
}

fn operation(item: &Val<'_>) -> Result<Value, String> {
    let Val::Object(operation) = item else {
        return Err("type mismatch: JSONPatchType.expression should evaluate to array of JSONPatch".to_owned());
    };
    let mut out = json!({});
    for (name, value) in &operation.fields {
        if *name == "value" {
            if let Val::Object(_) = value {
                let root = value.ty();
                named(value, root.name())?;
            }
            let shown = |error| format!("JSONPath valueExpression evaluated to a type that could not marshal to JSON: {error}");
            out["value"] = value.to_json().map_err(shown)?;
        } else {
            out[*name] = value.as_str().unwrap_or_default().into();
        }
    }
    Ok(out)
}

/// Whether the tests among the operations hold, each after those before it.
fn tests_hold(object: &Value, operations: &[Value]) -> bool {
    let mut at = object.clone();
    for operation in operations {
        let Ok(bytes) = serde_json::to_vec(&[operation]) else { return true };
        match patch::json_patch(at.clone(), &bytes) {
            Ok(next) => at = next,
            Err(_) => return operation["op"] != "test",
        }
    }
    true
}

/// The names of nested types must spell the way to them: `Object.spec.template`.
fn named(value: &Val<'_>, expected: &str) -> Result<(), String> {
    match value {
        Val::Object(object) => {
            if object.name != expected {
                let name = object.name;
                return Err(format!(
                    "type mismatch: unexpected type name {name:?}, expected {expected:?}, which matches field name path from root Object type"
                ));
            }
            object.fields.iter().try_for_each(|(field, value)| named(value, &format!("{expected}.{field}")))
        }
        Val::List(List::Shared(items)) => items.iter().try_for_each(|item| named(item, expected)),
        Val::Map(Map::Shared(table)) => table.entries().iter().try_for_each(|(_, value)| named(value, expected)),
        _ => Ok(()),
    }
}
