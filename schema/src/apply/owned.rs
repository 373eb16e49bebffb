//! Which fields an applied configuration claims (structured-merge-diff's `tofieldset.go`).

use std::collections::HashMap;

use coracle_tree::{Text, Value};

use crate::{
    managed::{
        Set, attach, field_element, item_element,
        node::{Node, key_defaults},
        set_node,
    },
    structural::Kind,
    types::Schema,
};

/// The paths that `value` claims: leaves, items of lists, keys of maps, and empty or null members. A message that is given is not itself
/// claimed, only what is in it.
pub(super) fn of(schema: &Schema, node: Node<'_>, value: &Value) -> Set {
    let mut set = Set::new();
    match (node, value) {
        (Node::Message(_) | Node::Map(_) | Node::Custom(_) | Node::Deduced, Value::Object(map)) => {
            let claimed = |(key, value): (&Text, &Value)| {
                let child = node.child(schema, key)?;
                let empty = value.is_null() || value.as_object().is_some_and(coracle_tree::Map::is_empty);
                let member = is_leaf(child, value) || empty || !node.names(key);
                Some((field_element(key), set_node(member, of(schema, child, value))?))
            };
            return map.iter().filter_map(claimed).collect();
        }
        (Node::List(kind, item), Value::Array(items)) => {
            let (defaults, child) = (key_defaults(schema, item), node.item(schema));
            let keys: Vec<Option<Text>> = items.iter().map(|i| item_element(kind, defaults, i).ok()).collect();
            let mut times: HashMap<&str, usize> = HashMap::new();
            for key in keys.iter().flatten() {
                *times.entry(key).or_default() += 1;
            }
            for (key, value) in keys.iter().zip(items) {
                let Some(key) = key else { continue };
                // An item that stands twice is one opaque mark.
                let children = if times.get(key.as_str()) == Some(&1) { of(schema, child, value) } else { Set::new() };
                attach(&mut set, key.clone(), true, children);
            }
        }
        _ => {}
    }
    set
}

/// Whether the value is owned as a whole.
fn is_leaf(node: Node<'_>, value: &Value) -> bool {
    match node {
        Node::Leaf | Node::Atomic => true,
        Node::Deduced => !value.is_object(),
        Node::Custom(custom) => custom.node.kind == Kind::Any && !value.is_object(),
        _ => false,
    }
}
