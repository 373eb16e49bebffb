//! JSON merge patch (RFC 7386).

use coracle_tree::{Map, Value};

use super::PatchError;

/// Merges a patch, as decoded, into an object. Null removes.
pub fn merge_patch(object: Value, patch: Value) -> Result<Value, PatchError> {
    match (object, patch) {
        (Value::Object(mut object), Value::Object(patch)) => {
            merge(&mut object, patch);
            Ok(Value::Object(object))
        }
        _ => Err(PatchError::BadRequest("Invalid JSON Patch".into())),
    }
}

fn merge(object: &mut Map, patch: Map) {
    for (key, value) in patch {
        match (object.get_mut(&key), value) {
            (_, Value::Null) => {
                object.remove(&key);
            }
            (Some(Value::Object(current)), Value::Object(patch)) => merge(current, patch),
            (_, mut value) => {
                drop_nulls(&mut value);
                object.insert(key, value);
            }
        }
    }
}

/// Drops null members of objects, also of those in lists; null items of lists stay.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    #[test]
    fn null_removes_and_lists_are_replaced() {
        let object = json!({"a": {"b": 1, "c": 2}, "l": [1, 2], "x": 1});
        let patch = json!({"a": {"b": null, "d": {"e": null, "f": 1}}, "l": [{"n": null}], "x": null, "y": null});
        assert_eq!(merge_patch(object, patch).unwrap(), json!({"a": {"c": 2, "d": {"f": 1}}, "l": [{}]}));
    }

    #[test]
    fn a_patch_must_be_an_object() {
        assert_eq!(merge_patch(json!({}), json!([])), Err(PatchError::BadRequest("Invalid JSON Patch".into())));
    }
}
