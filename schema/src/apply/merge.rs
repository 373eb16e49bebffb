//! Merging a configuration into an object: the configuration wins where it says something (structured-merge-diff's `typed/merge.go`).

use std::collections::{HashMap, HashSet};

use coracle_tree::{Map, Text, Value};

use crate::{
    managed::{
        Path, item_element,
        node::{Node, key_defaults},
    },
    types::Schema,
};

/// The whole object `live` with `config` merged in, without its managed fields, of which a configuration says nothing.
pub(super) fn objects(schema: &Schema, root: Node<'_>, live: &Value, config: &Value) -> Value {
    match (live, config) {
        (Value::Object(ours), Value::Object(theirs)) => Value::Object(maps(schema, root, ours, theirs, &["metadata", "managedFields"])),
        _ => merge(schema, root, live, config),
    }
}

/// `live` with `config` merged in.
pub(super) fn merge(schema: &Schema, node: Node<'_>, live: &Value, config: &Value) -> Value {
    match (node, live, config) {
        (Node::Message(_) | Node::Map(_) | Node::Custom(_) | Node::Deduced, Value::Object(ours), Value::Object(theirs)) => {
            Value::Object(maps(schema, node, ours, theirs, &[]))
        }
        // A null says nothing about what is in a map or list.
        (Node::Message(_) | Node::Map(_) | Node::Custom(_) | Node::Deduced, Value::Object(ours), Value::Null) if !ours.is_empty() => {
            live.clone()
        }
        (Node::List(..), Value::Array(ours), Value::Null) if !ours.is_empty() => live.clone(),
        (Node::List(..), Value::Array(ours), Value::Array(theirs)) if !ours.is_empty() || !theirs.is_empty() => {
            Value::Array(lists(schema, node, ours, theirs))
        }
        _ => config.clone(),
    }
}

/// What both have is merged below, and what only one has is copied, but for the member of `ours` at the path `apart`.
fn maps(schema: &Schema, node: Node<'_>, ours: &Map, theirs: &Map, apart: Path) -> Map {
    let merged = ours.iter().filter_map(|(key, live)| {
        let apart = match apart.split_first() {
            Some((first, [])) if first == key => return None,
            Some((first, rest)) if first == key => rest,
            _ => &[],
        };
        let made = match (theirs.get(key), node.child(schema, key)) {
            (Some(Value::Object(theirs)), Some(child)) if !apart.is_empty() => match live {
                Value::Object(ours) => Value::Object(maps(schema, child, ours, theirs, apart)),
                _ => Value::Object(theirs.clone()),
            },
            (Some(config), Some(child)) => merge(schema, child, live, config),
            (Some(config), None) => config.clone(),
            (None, _) => live.clone(),
        };
        Some((key.clone(), made))
    });
    let new = theirs.iter().filter(|(key, _)| !ours.contains_key(key));
    merged.chain(new.map(|(key, config)| (key.clone(), config.clone()))).collect()
}

/// A list's items with their elements.
struct Indexed<'v> {
    keys: Vec<Text>,
    /// `None` for items that stand more than once: those are not merged.
    items: HashMap<Text, Option<&'v Value>>,
    all: Vec<&'v Value>,
}

fn index<'v>(schema: &Schema, node: Node<'_>, list: &'v [Value]) -> Indexed<'v> {
    let mut made = Indexed { keys: Vec::new(), items: HashMap::new(), all: Vec::new() };
    let Node::List(kind, item) = node else { return made };
    let defaults = key_defaults(schema, item);
    for value in list {
        let Ok(key) = item_element(kind, defaults, value) else { continue };
        made.items.entry(key.clone()).and_modify(|v| *v = None).or_insert(Some(value));
        made.keys.push(key);
        made.all.push(value);
    }
    made
}

/// Merges two lists: items only in `ours` keep their place, those of `theirs` come in their own order.
fn lists(schema: &Schema, node: Node<'_>, ours: &[Value], theirs: &[Value]) -> Vec<Value> {
    let (left, right) = (index(schema, node, ours), index(schema, node, theirs));
    let child = node.item(schema);
    let both = |key: &str| match (left.items.get(key).copied().flatten(), right.items.get(key).copied().flatten()) {
        (Some(live), Some(config)) => merge(schema, child, live, config),
        (_, Some(config)) => config.clone(),
        (live, None) => live.cloned().unwrap_or_default(),
    };
    let mut shared = right.keys.iter().filter(|key| left.items.contains_key(*key));
    let mut next_shared = shared.next();
    let mut done: HashSet<&str> = HashSet::new();
    let mut out = Vec::with_capacity(ours.len().max(theirs.len()));
    let (mut l, mut r) = (0, 0);
    while l < left.keys.len() || r < right.keys.len() {
        if let (Some(key), Some(wanted)) = (left.keys.get(l), right.keys.get(r)) {
            if key == wanted {
                done.insert(key);
                out.push(both(key));
                (l, r) = (l + 1, r + 1);
                next_shared = shared.next();
                continue;
            }
            if right.items.contains_key(key) && next_shared.is_some_and(|next| next != key) {
                // In both, but its turn in the order of `theirs` has not come.
                l += 1;
                continue;
            }
        }
        if let Some(key) = left.keys.get(l) {
            if !right.items.contains_key(key) {
                out.push(left.all[l].clone());
                l += 1;
                continue;
            }
            if done.contains(key.as_str()) {
                l += 1;
            }
        }
        if let Some(key) = right.keys.get(r) {
            done.insert(key);
            out.push(both(key));
            r += 1;
            if next_shared == Some(key) {
                next_shared = shared.next();
            }
        }
    }
    out
}
