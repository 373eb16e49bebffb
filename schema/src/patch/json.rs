//! JSON patch (RFC 6902) with the habits of the library upstream uses: negative indexes count from the end, `replace` adds what is missing.

use coracle_tree::{Map, Value};

use super::PatchError;

/// The most operations of one patch.
const MAX_OPERATIONS: usize = 10_000;
/// A patch may not make an object longer than this many list items by copying: `copy` doubles what it copies.
const MAX_COPIED_VALUES: usize = 1_000_000;

/// Applies a JSON patch, as sent, to an object.
pub fn json_patch(object: Value, patch: &[u8]) -> Result<Value, PatchError> {
    let operations: Vec<Map> = serde_json::from_slice(patch).map_err(|e| PatchError::BadRequest(e.to_string()))?;
    if operations.len() > MAX_OPERATIONS {
        let message = format!("The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}", operations.len());
        return Err(PatchError::TooLarge(message));
    }
    let mut document = object;
    let mut copied = 0;
    for operation in operations {
        run(&mut document, operation, &mut copied).map_err(PatchError::Rejected)?;
    }
    Ok(document)
}

fn run(document: &mut Value, mut operation: Map, copied: &mut usize) -> Result<(), String> {
    let value = operation.remove("value").unwrap_or_default();
    let text = |name: &str| operation.get(name).and_then(Value::as_str);
    let kind = text("op").unwrap_or("unknown");
    let path = text("path").ok_or_else(|| format!("{kind} operation failed to decode path: missing value"));
    let from = || text("from").ok_or_else(|| format!("{kind} operation failed to decode from: missing value"));
    match kind {
        "add" => add(document, kind, path?, value),
        "remove" => take(document, kind, path?).map(drop),
        "replace" => replace(document, path?, value),
        "move" => {
            let moved = take(document, kind, from()?)?;
            add(document, kind, path?, moved)
        }
        "copy" => {
            let copy = read(document, kind, from()?)?.cloned().unwrap_or_default();
            *copied += size(&copy);
            if *copied > MAX_COPIED_VALUES {
                return Err(format!("copy operations made more than {MAX_COPIED_VALUES} values"));
            }
            add(document, kind, path?, copy)
        }
        "test" => test(document, path?, &value),
        other => Err(format!("Unexpected kind: {other}")),
    }
}

fn size(value: &Value) -> usize {
    1 + match value {
        Value::Array(list) => list.iter().map(size).sum(),
        Value::Object(map) => map.values().map(size).sum(),
        _ => 0,
    }
}

fn missing(kind: &str, path: &str) -> String {
    format!("{kind} operation does not apply: doc is missing path: {path:?}: missing value")
}

fn invalid_index(at: i64) -> String {
    format!("Unable to access invalid index: {at}: invalid index referenced")
}

/// Undoes the escapes of a path's step.
fn unescape(step: &str) -> String {
    step.replace("~1", "/").replace("~0", "~")
}

/// The steps to the container, and the last step.
fn steps(path: &str) -> Option<(Vec<String>, String)> {
    let mut steps: Vec<String> = path.split('/').skip(1).map(unescape).collect();
    let last = steps.pop()?;
    Some((steps, last))
}

/// A position in a list of `length` items; negative ones count from the end.
fn position(step: &str, length: usize) -> Result<usize, String> {
    let at: i64 = step.parse().map_err(|_| format!("value was not a proper array index: '{step}'"))?;
    let found = if at < 0 { at + length as i64 } else { at };
    usize::try_from(found).ok().filter(|at| *at < length).ok_or_else(|| invalid_index(at))
}

fn child<'v>(value: &'v Value, step: &str) -> Option<&'v Value> {
    match value {
        Value::Object(map) => map.get(step),
        Value::Array(list) => list.get(position(step, list.len()).ok()?),
        _ => None,
    }
}

fn child_mut<'v>(value: &'v mut Value, step: &str) -> Option<&'v mut Value> {
    match value {
        Value::Object(map) => map.get_mut(step),
        Value::Array(list) => {
            let at = position(step, list.len()).ok()?;
            list.get_mut(at)
        }
        _ => None,
    }
}

/// The container that `path` leads into, and the last step.
fn container<'v>(document: &'v mut Value, path: &str) -> Option<(&'v mut Value, String)> {
    let (way, last) = steps(path)?;
    let found = way.iter().try_fold(document, |value, step| child_mut(value, step))?;
    (found.is_object() || found.is_array()).then_some((found, last))
}

fn add(document: &mut Value, kind: &str, path: &str, value: Value) -> Result<(), String> {
    let (container, last) = container(document, path).ok_or_else(|| missing(kind, path))?;
    match container {
        Value::Object(map) => {
            map.insert(last, value);
        }
        Value::Array(list) if last == "-" => list.push(value),
        Value::Array(list) => {
            let at = position(&last, list.len() + 1).map_err(|e| format!("error in {kind} for path: '{path}': {e}"))?;
            list.insert(at, value);
        }
        _ => return Err(missing(kind, path)),
    }
    Ok(())
}

fn take(document: &mut Value, kind: &str, path: &str) -> Result<Value, String> {
    let (container, last) = container(document, path).ok_or_else(|| missing(kind, path))?;
    let failed = |e: String| format!("error in {kind} for path: '{path}': {e}");
    match container {
        Value::Object(map) => map.remove(&last).ok_or_else(|| failed(format!("Unable to remove nonexistent key: {last}: missing value"))),
        Value::Array(list) => {
            let at = position(&last, list.len()).map_err(failed)?;
            Ok(list.remove(at))
        }
        _ => Err(missing(kind, path)),
    }
}

fn replace(document: &mut Value, path: &str, value: Value) -> Result<(), String> {
    if path.is_empty() {
        if !value.is_object() && !value.is_array() {
            return Err("replace operation value must be object or array".into());
        }
        *document = value;
        return Ok(());
    }
    let (container, last) = container(document, path).ok_or_else(|| missing("replace", path))?;
    match container {
        Value::Object(map) => {
            map.insert(last, value);
        }
        Value::Array(list) => {
            let at = position(&last, list.len())
                .map_err(|_| format!("replace operation does not apply: doc is missing key: {path}: missing value"))?;
            list[at] = value;
        }
        _ => return Err(missing("replace", path)),
    }
    Ok(())
}

/// The value at `path`; `None` when a map has no such key.
fn read<'v>(document: &'v Value, kind: &str, path: &str) -> Result<Option<&'v Value>, String> {
    let (way, last) = steps(path).ok_or_else(|| missing(kind, path))?;
    let found = way.iter().try_fold(document, |value, step| child(value, step)).ok_or_else(|| missing(kind, path))?;
    match found {
        Value::Object(map) => Ok(map.get(&last)),
        Value::Array(list) => {
            position(&last, list.len()).map(|at| list.get(at)).map_err(|e| format!("error in {kind} for path: '{path}': {e}"))
        }
        _ => Err(missing(kind, path)),
    }
}

fn test(document: &Value, path: &str, value: &Value) -> Result<(), String> {
    let found = if path.is_empty() { Some(document) } else { read(document, "test", path)? };
    if found.unwrap_or(&Value::Null) == value { Ok(()) } else { Err(format!("testing value {path} failed: test failed")) }
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    fn patched(patch: &Value) -> Result<Value, PatchError> {
        json_patch(json!({"a": {"b": 1}, "l": [1, 2, 3], "x/y": 0}), patch.to_string().as_bytes())
    }

    #[test]
    fn every_operation_does_what_it_says() {
        let patch = json!([
            {"op": "test", "path": "/l/1", "value": 2},
            {"op": "add", "path": "/l/0", "value": 0},
            {"op": "add", "path": "/l/-", "value": 9},
            {"op": "remove", "path": "/l/-1"},
            {"op": "replace", "path": "/a/b", "value": null},
            {"op": "replace", "path": "/a/new", "value": 5},
            {"op": "copy", "from": "/a", "path": "/c"},
            {"op": "move", "from": "/x~1y", "path": "/z~0"},
        ]);
        let a = json!({"b": null, "new": 5});
        assert_eq!(patched(&patch).unwrap(), json!({"a": a, "c": a, "l": [0, 1, 2, 3], "z~": 0}));
    }

    #[test]
    fn what_does_not_apply_is_rejected_and_what_is_no_patch_is_a_bad_request() {
        let rejected = [
            json!([{"op": "test", "path": "/a/b", "value": 2}]),
            json!([{"op": "remove", "path": "/nothing"}]),
            json!([{"op": "add", "path": "/l/7", "value": 1}]),
            json!([{"op": "add", "path": "/no/way", "value": 1}]),
            json!([{"op": "jump", "path": "/a"}]),
            json!([{"op": "add"}]),
        ];
        for patch in rejected {
            assert!(matches!(patched(&patch), Err(PatchError::Rejected(_))), "{patch}");
        }
        assert!(matches!(patched(&json!({"op": "add"})), Err(PatchError::BadRequest(_))));
        let many: Vec<Value> = (0..=MAX_OPERATIONS).map(|_| json!({"op": "test", "path": "/l/0", "value": 1})).collect();
        let error = patched(&json!(many)).unwrap_err().to_string();
        assert_eq!(error, "Request entity too large: The allowed maximum operations in a JSON patch is 10000, got 10001");
    }

    #[test]
    fn copies_of_copies_are_bounded() {
        let mut patch = Vec::new();
        for _ in 0..64 {
            patch.push(json!({"op": "copy", "from": "/a", "path": "/a/a"}));
            patch.push(json!({"op": "copy", "from": "/a", "path": "/a/b"}));
        }
        assert!(matches!(patched(&json!(patch)), Err(PatchError::Rejected(_))));
    }
}
