//! What a write changed: the paths added, modified and removed between two objects (structured-merge-diff's `compare.go`).
//!
//! Upstream compares Go structs, in which a message that is not a pointer is always there and a field without `omitempty` always has a
//! value. So an absent one counts as present and zero here: only what is inside it is added or removed, not the field itself.

use std::collections::BTreeMap;

use coracle_tree::{Map, Text, Value};

use super::{
    element,
    node::{self, Node},
    set::{self, Set},
};
use crate::types::{Field, Presence, Schema, SchemaRef, Shape, Type};

/// The difference between two objects.
#[derive(Debug, Default)]
pub(crate) struct Delta {
    /// Paths added or modified.
    pub(crate) changed: Set,
    /// Paths removed.
    pub(crate) removed: Set,
}

/// Compares `old` (nothing: the object is being created) with `new`.
pub(crate) fn objects(schema: &SchemaRef, old: Option<&Value>, new: &Value) -> Delta {
    let mut delta = Delta::default();
    let walk = Walk { schema: &schema.schema };
    let empty = Map::new();
    let root = Node::root(schema);
    let old = old.and_then(Value::as_object).unwrap_or(&empty);
    let new = new.as_object().unwrap_or(&empty);
    walk.maps(root, old, new, &mut delta);
    delta
}

struct Walk<'s> {
    schema: &'s Schema,
}

/// The items of a list that share one element text.
#[derive(Default)]
struct Items<'v> {
    old: Vec<&'v Value>,
    new: Vec<&'v Value>,
}

impl<'s> Walk<'s> {
    /// Two unequal values of one place. Answers whether the place itself is modified; what differs inside goes to `delta`.
    fn pair(&self, node: Node<'s>, old: &Value, new: &Value, delta: &mut Delta) -> bool {
        match node {
            Node::Leaf | Node::Atomic => !same_number(old, new),
            Node::Message(_) | Node::Map(_) | Node::Custom(_) | Node::Deduced => match (old, new) {
                (Value::Object(old), Value::Object(new)) => self.maps_or_empty(node, old, new, delta),
                (Value::Object(map), other) => {
                    delta.removed = self.whole_map(node, map);
                    map.is_empty() || !other.is_null()
                }
                (other, Value::Object(map)) => {
                    delta.changed = self.whole_map(node, map);
                    map.is_empty() || !other.is_null()
                }
                _ => !same_number(old, new),
            },
            Node::List(..) => match (list_or_null(old), list_or_null(new)) {
                (Some([]), Some([])) | (None, _) | (_, None) => true,
                (Some(old), Some(new)) => {
                    self.lists(node, old, new, delta);
                    false
                }
            },
        }
    }

    fn maps_or_empty(&self, node: Node<'s>, old: &Map, new: &Map, delta: &mut Delta) -> bool {
        if old.is_empty() && new.is_empty() {
            return true;
        }
        self.maps(node, old, new, delta);
        false
    }

    fn maps(&self, node: Node<'s>, old: &Map, new: &Map, delta: &mut Delta) {
        for (key, after) in new {
            match old.get(key) {
                Some(before) if before == after => {}
                Some(before) => {
                    let Some(child) = node.child(self.schema, key) else { continue };
                    let mut inner = Delta::default();
                    let modified = self.pair(child, before, after, &mut inner);
                    set::attach(&mut delta.changed, element::field(key), modified, inner.changed);
                    set::attach(&mut delta.removed, element::field(key), false, inner.removed);
                }
                None => self.one_sided(node, key, after, &mut delta.changed),
            }
        }
        for (key, before) in old {
            if !new.contains_key(key) {
                self.one_sided(node, key, before, &mut delta.removed);
            }
        }
    }

    /// A member that only one of two maps has.
    fn one_sided(&self, node: Node<'s>, key: &str, value: &Value, into: &mut Set) {
        let (member, zero) = match node {
            Node::Message(message) => match message.field(key) {
                Some(field) => beside_zero(self.schema, field, value),
                None => (true, None),
            },
            _ => (true, None),
        };
        let Some(child) = node.child(self.schema, key) else { return };
        let children = match zero {
            Some(message) => {
                let mut children = Set::new();
                for (name, inner) in value.as_object().into_iter().flatten() {
                    self.one_sided(Node::Message(message), name, inner, &mut children);
                }
                children
            }
            None => self.whole(child, value),
        };
        set::attach(into, element::field(key), member, children);
    }

    /// All paths below a value that had no counterpart at all.
    fn whole(&self, node: Node<'s>, value: &Value) -> Set {
        match (node, value) {
            (Node::Message(_) | Node::Map(_) | Node::Custom(_) | Node::Deduced, Value::Object(map)) => self.whole_map(node, map),
            (Node::List(kind, item), Value::Array(items)) => {
                let (defaults, child) = (node::key_defaults(self.schema, item), node.item(self.schema));
                let mut into = Set::new();
                for value in items {
                    let Ok(key) = element::of_item(kind, defaults, value) else { continue };
                    let children = if into.contains_key(&key) { Set::new() } else { self.whole(child, value) };
                    set::attach(&mut into, key, true, children);
                }
                into
            }
            _ => Set::new(),
        }
    }

    fn whole_map(&self, node: Node<'s>, map: &Map) -> Set {
        let member = |(key, value): (&Text, &Value)| {
            let child = node.child(self.schema, key)?;
            Some((element::field(key), set::node(true, self.whole(child, value))?))
        };
        map.iter().filter_map(member).collect()
    }

    fn lists(&self, node: Node<'s>, old: &[Value], new: &[Value], delta: &mut Delta) {
        let Node::List(kind, item) = node else { return };
        let (defaults, child) = (node::key_defaults(self.schema, item), node.item(self.schema));
        let mut items: BTreeMap<Text, Items<'_>> = BTreeMap::new();
        for value in old {
            if let Ok(key) = element::of_item(kind, defaults, value) {
                items.entry(key).or_default().old.push(value);
            }
        }
        for value in new {
            if let Ok(key) = element::of_item(kind, defaults, value) {
                items.entry(key).or_default().new.push(value);
            }
        }
        for (key, found) in items {
            self.items(child, key, &found, delta);
        }
    }

    /// The items under one element: one against one as usual; duplicates are one opaque mark.
    fn items(&self, child: Node<'s>, key: Text, found: &Items<'_>, delta: &mut Delta) {
        let whole = |value: &&Value| self.whole(child, value);
        match (found.old.as_slice(), found.new.as_slice()) {
            ([before], [after]) => {
                if before != after {
                    let mut inner = Delta::default();
                    let modified = self.pair(child, before, after, &mut inner);
                    set::attach(&mut delta.changed, key.clone(), modified, inner.changed);
                    set::attach(&mut delta.removed, key, false, inner.removed);
                }
            }
            ([], [after]) => set::attach(&mut delta.changed, key, true, whole(after)),
            ([before], []) => set::attach(&mut delta.removed, key, true, whole(before)),
            ([_, _, ..], [_, _, ..]) => {
                if found.old != found.new {
                    set::attach(&mut delta.changed, key, true, Set::new());
                }
            }
            ([_, _, ..], after) => {
                if let Some(after) = after.first() {
                    set::attach(&mut delta.changed, key.clone(), true, whole(after));
                }
                set::attach(&mut delta.removed, key, true, Set::new());
            }
            (before, _) => {
                if let Some(before) = before.first() {
                    set::attach(&mut delta.removed, key.clone(), true, whole(before));
                }
                set::attach(&mut delta.changed, key, true, Set::new());
            }
        }
    }
}

/// How a field counts that one side lacks: whether the field itself is added or removed, and the message to go on in, when the lacking side
/// has it as zero.
fn beside_zero<'s>(schema: &'s Schema, field: &Field, value: &Value) -> (bool, Option<&'s Type>) {
    match (&field.shape, field.presence) {
        (_, Presence::Optional) => (true, None),
        (Shape::Message(id), presence) => match Node::of_field(schema, field) {
            // A pointer that is written as null when not given: the place is there, the message is not.
            Node::Message(_) if presence == Presence::Nullable => (value.as_object().is_some_and(Map::is_empty), None),
            Node::Message(_) => (false, Some(schema.get(*id))),
            Node::Leaf | Node::Atomic if presence == Presence::Nullable => (!value.is_null(), None),
            Node::Leaf | Node::Atomic => (value.as_object().is_some_and(|m| !m.is_empty()), None),
            _ => (true, None),
        },
        (Shape::Time | Shape::MicroTime, _) => (!value.is_null(), None),
        (_, Presence::WhenSet) => (true, None),
        (Shape::List(_) | Shape::Map(_), _) => match value {
            Value::Null => (false, None),
            other => (field.atomic || is_atomic_list(field) || is_empty(other), None),
        },
        (_, Presence::Nullable) => (!value.is_null(), None),
        (_, Presence::Always) => (!is_zero(value), None),
    }
}

fn is_atomic_list(field: &Field) -> bool {
    matches!(field.shape, Shape::List(_)) && field.list == crate::types::ListKind::Atomic
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        other => is_empty(other),
    }
}

/// Numbers are equal across their JSON spellings (`1` and `1.0`).
fn same_number(a: &Value, b: &Value) -> bool {
    matches!((a, b), (Value::Number(a), Value::Number(b)) if (a.is_f64() || b.is_f64()) && a.as_f64() == b.as_f64())
}

fn list_or_null(value: &Value) -> Option<&[Value]> {
    match value {
        Value::Null => Some(&[]),
        other => other.as_array().map(Vec::as_slice),
    }
}
