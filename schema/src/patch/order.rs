//! Items of merged lists: how they are told apart and in which order they end (the `normalizeElementOrder` part of `strategicpatch`).

use coracle_tree::{Map, Value};

use super::PatchError;

/// What a list holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Messages.
    Map,
    /// Text, numbers.
    Scalar,
}

/// What all items of some lists are; an error if they differ.
pub(super) fn kind_of(lists: &[&[Value]]) -> Result<Kind, PatchError> {
    let mut first: Option<std::mem::Discriminant<Value>> = None;
    let mut kind = None;
    for item in lists.iter().copied().flatten() {
        match (item, first) {
            (Value::Array(_), None) => return Err(PatchError::Rejected("lists of lists are not supported".into())),
            (item, Some(first)) if std::mem::discriminant(item) != first => {
                let printed: Vec<String> = lists.iter().map(|l| go_list(l)).collect();
                return Err(PatchError::Unmergeable(format!("list element types are not identical: [{}]", printed.join(" "))));
            }
            (item, _) => {
                first = Some(std::mem::discriminant(item));
                kind = Some(if item.is_object() { Kind::Map } else { Kind::Scalar });
            }
        }
    }
    kind.ok_or_else(|| PatchError::Unmergeable("no elements in any of the given slices".into()))
}

/// The merge key's value of an item.
pub(super) fn key_of<'v>(item: &'v Value, key: &str) -> Result<&'v Value, PatchError> {
    let Value::Object(map) = item else { return Err(bad_type("map", item)) };
    let missing = || PatchError::Unmergeable(format!("map: {} does not contain declared merge key: {key}", go_map(map)));
    map.get(key).ok_or_else(missing)
}

/// Where the item stands whose key has this value.
pub(super) fn find(list: &[Value], key: &str, value: &Value) -> Result<Option<usize>, PatchError> {
    for (at, item) in list.iter().enumerate() {
        let Value::Object(map) = item else { return Err(PatchError::Unmergeable(format!("value for key {at} is not a map"))) };
        if map.get(key) == Some(value) {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

/// What tells the items of a list apart, in their order: enough to put others in this order.
pub(super) fn marks(list: &[Value], key: &str) -> Vec<Value> {
    let mark = |item: &Value| match item.get(key) {
        Some(value) => Value::Object(Map::from_iter([(key.to_owned(), value.clone())])),
        None => item.clone(),
    };
    list.iter().map(mark).collect()
}

/// Whether two items are the same one.
fn same(a: &Value, b: &Value, key: Option<&str>) -> bool {
    match key {
        Some(key) => a.get(key) == b.get(key),
        None => a == b,
    }
}

fn index(list: &[Value], item: &Value, key: Option<&str>) -> Option<usize> {
    list.iter().position(|other| same(other, item, key))
}

/// Puts a merged list in order: items that `wanted` names in its order, the others where they stood in `current`, as far as both is possible.
pub(super) fn restore(
    merged: Vec<Value>,
    wanted: &[Value],
    current: &[Value],
    key: Option<&str>,
    kind: Kind,
) -> Result<Vec<Value>, PatchError> {
    let key = if kind == Kind::Map { key } else { None };
    if let Some(key) = key {
        for item in merged.iter().chain(wanted).chain(current) {
            key_of(item, key)?;
        }
    }
    let (mut named, mut others): (Vec<Value>, Vec<Value>) = merged.into_iter().partition(|item| index(wanted, item, key).is_some());
    named.sort_by_key(|item| index(wanted, item, key));
    others.sort_by_key(|item| index(current, item, key).unwrap_or(usize::MAX));
    Ok(interleave(others, named, current, key))
}

/// Inserts each of `others` before the first of `named` that stood behind it in `current`.
fn interleave(others: Vec<Value>, named: Vec<Value>, current: &[Value], key: Option<&str>) -> Vec<Value> {
    let mut out = Vec::with_capacity(others.len() + named.len());
    let (mut others, mut named) = (others.into_iter().peekable(), named.into_iter().peekable());
    loop {
        let other_first = match (others.peek(), named.peek()) {
            (None, None) => return out,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(other), Some(name)) => match (index(current, other, key), index(current, name, key)) {
                (Some(other), Some(name)) => other < name,
                _ => false,
            },
        };
        out.extend(if other_first { others.next() } else { named.next() });
    }
}

/// Whether the items of a patch stand in the order that the patch itself asks for.
pub(super) fn check(patch: &[Value], wanted: &[Value], key: Option<&str>) -> Result<(), PatchError> {
    if patch.is_empty() || wanted.is_empty() {
        return Ok(());
    }
    if key.is_some()
        && let Some(wrong) = patch.iter().find(|item| !item.is_object())
    {
        return Err(bad_type("map", wrong));
    }
    let mut rest = wanted.iter();
    for item in patch.iter().filter(|item| item.get("$patch").is_none()) {
        loop {
            let Some(next) = rest.next() else {
                let message =
                    format!("The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n", go_list(patch), go_list(wanted));
                return Err(PatchError::Unmergeable(message));
            };
            let found = match key {
                Some(key) => key_of(item, key)? == key_of(next, key)?,
                None => item == next,
            };
            if found {
                break;
            }
        }
    }
    Ok(())
}

/// A value of the wrong JSON type.
pub(super) fn bad_type(expected: &str, actual: &Value) -> PatchError {
    let expected = if expected == "map" { "map[string]interface {}" } else { "[]interface {}" };
    let actual = if actual.is_null() { "%!s(<nil>)" } else { crate::go::type_name(actual) };
    PatchError::Unmergeable(format!("expected a {expected}, but received a {actual}"))
}

/// A map as Go's `%v` prints it.
pub(super) fn go_map(map: &Map) -> String {
    let members: Vec<String> = map.iter().map(|(key, value)| format!("{key}:{}", go_value(value))).collect();
    format!("map[{}]", members.join(" "))
}

fn go_list(list: &[Value]) -> String {
    let items: Vec<String> = list.iter().map(go_value).collect();
    format!("[{}]", items.join(" "))
}

fn go_value(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".into(),
        Value::String(text) => text.to_string(),
        Value::Array(list) => go_list(list),
        Value::Object(map) => go_map(map),
        other => other.to_string(),
    }
}
