//! Removing what a manager applied before, does not apply any more, and nobody else owns (`prune` of structured-merge-diff's
//! `merge/update.go`, and `typed/remove.go`).

use serde_json::Value;

use super::owned;
use crate::{
    managed::{
        Entries, Set, add, attach, below, has, intersection, is_member, item_element,
        node::{Node, key_defaults},
        subtract,
    },
    types::Schema,
};

/// An object after pruning.
pub(super) struct Pruned {
    /// As it is compared with the live object: a map or list of which nothing is left is null, which keeps its owners.
    pub(super) compared: Value,
    /// As it is stored: such a map or list is absent.
    pub(super) stored: Value,
}

/// `merged` without what only `last` owned. `now` is what the manager applies this time, `others` are the entries of everybody else.
pub(super) fn prune(schema: &Schema, root: Node<'_>, merged: &Value, last: &Set, now: &Set, others: &Entries) -> Pruned {
    let named = |set: &Set| with_named(schema, root, set);
    let last = named(last);
    let there = named(&owned::of(schema, root, merged));
    let pruned = without(schema, root, merged, &last, Empty::Null);

    // What anybody owns comes back.
    let mut kept = now.clone();
    for entry in &others.0 {
        add(&mut kept, &entry.fields);
    }
    let mut goes = there.clone();
    subtract(&mut goes, &named(&owned::of(schema, root, &pruned)));
    subtract(&mut goes, &named(&kept));
    let pruned = without(schema, root, merged, &goes, Empty::Null);

    // So does what this manager never owned.
    let mut goes = there;
    subtract(&mut goes, &named(&owned::of(schema, root, &pruned)));
    let goes = intersection(&goes, &last);
    let left = |empty| without(schema, root, merged, &goes, empty);
    Pruned { compared: left(Empty::Null), stored: left(Empty::Absent) }
}

/// The set with every field by name on the way to a member made a member, too (`EnsureNamedFieldsAreMembers`).
fn with_named(schema: &Schema, node: Node<'_>, set: &Set) -> Set {
    let mut made = Set::new();
    for (key, inner) in set.iter().filter(|(key, _)| key.as_str() != ".") {
        let name = key.strip_prefix("f:");
        let child = match name {
            Some(name) => node.child(schema, name).unwrap_or(Node::Leaf),
            None => node.item(schema),
        };
        let children = inner.as_object().map(|c| with_named(schema, child, c)).unwrap_or_default();
        let member = is_member(inner) || name.is_some_and(|n| node.names(n));
        attach(&mut made, key.clone(), member, children);
    }
    made
}

/// What becomes of a member of which nothing is left.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Empty {
    Null,
    Absent,
}

/// The value without the paths of `set`.
fn without(schema: &Schema, node: Node<'_>, value: &Value, set: &Set, empty: Empty) -> Value {
    match (node, value) {
        (Node::Message(_) | Node::Map(_) | Node::Custom(_) | Node::Deduced, Value::Object(map)) => {
            let mut out = serde_json::Map::new();
            // A map with an emptied member is not itself empty: `{"a": null}` is stored as `{}`.
            let mut emptied = false;
            for (name, value) in map {
                let key = format!("f:{name}");
                if has(set, &key) {
                    continue;
                }
                match (below(set, &key), node.child(schema, name)) {
                    (Some(inner), Some(child)) => {
                        let value = without(schema, child, value, inner, empty);
                        emptied |= value.is_null();
                        if !value.is_null() || empty == Empty::Null {
                            out.insert(name.clone(), value);
                        }
                    }
                    _ => {
                        out.insert(name.clone(), value.clone());
                    }
                }
            }
            if out.is_empty() && !emptied { Value::Null } else { Value::Object(out) }
        }
        (Node::List(kind, item), Value::Array(items)) => {
            let (defaults, child) = (key_defaults(schema, item), node.item(schema));
            let mut out = Vec::with_capacity(items.len());
            for value in items {
                let Ok(key) = item_element(kind, defaults, value) else {
                    out.push(value.clone());
                    continue;
                };
                if has(set, &key) {
                    continue;
                }
                out.push(below(set, &key).map_or_else(|| value.clone(), |inner| without(schema, child, value, inner, empty)));
            }
            if out.is_empty() { Value::Null } else { Value::Array(out) }
        }
        (Node::Leaf, Value::Array(_) | Value::Object(_)) => Value::Null,
        _ => value.clone(),
    }
}
