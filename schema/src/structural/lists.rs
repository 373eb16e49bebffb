//! Lists that are sets or maps hold nothing twice (apiextensions-apiserver `apiserver/schema/listtype`).

use std::collections::HashMap;

use coracle_tree::Value;

use super::{node::Node, text};
use crate::{field::FieldErrors, types::ListKind};

/// Checks all lists in a value, from `path` on.
pub(super) fn check(node: &Node, value: &Value, path: &str, errors: &mut FieldErrors) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                match (node.property(name), node.additional.schema()) {
                    (Some(schema), _) if path.is_empty() => check(schema, value, name, errors),
                    (Some(schema), _) => check(schema, value, &format!("{path}.{name}"), errors),
                    (None, Some(schema)) => check(schema, value, &format!("{path}[{name}]"), errors),
                    (None, None) => {}
                }
            }
        }
        Value::Array(items) => {
            match &node.list {
                ListKind::Atomic => {}
                ListKind::Set => twins(path, items.iter().map(|item| (item.to_string(), item)), errors),
                ListKind::Map(keys) => map(keys, items, path, errors),
            }
            if let Some(schema) = &node.items {
                for (at, item) in items.iter().enumerate() {
                    check(schema, item, &format!("{path}[{at}]"), errors);
                }
            }
        }
        _ => {}
    }
}

fn map(keys: &[Box<str>], items: &[Value], path: &str, errors: &mut FieldErrors) {
    if let Some((at, item)) = items.iter().enumerate().find(|(_, item)| !item.is_object() && !item.is_null()) {
        errors.invalid(format!("{path}[{at}]"), text::shown(item), "must be an object for an array of list-type map");
        return;
    }
    let of = |item: &Value| -> Value {
        let found = keys.iter().filter_map(|key| Some((key.to_string(), item.get(&**key)?.clone())));
        found.collect()
    };
    let keys: Vec<Value> = items.iter().map(of).collect();
    twins(path, keys.iter().map(|key| (key.to_string(), key)), errors);
}

/// Reports what stands more than once, where it stands for the second time.
fn twins<'v>(path: &str, items: impl Iterator<Item = (String, &'v Value)>, errors: &mut FieldErrors) {
    let mut seen: HashMap<String, usize> = HashMap::new();
    for (at, (key, item)) in items.enumerate() {
        let times = seen.entry(key).or_default();
        *times += 1;
        if *times == 2 {
            errors.duplicate(format!("{path}[{at}]"), text::shown(item));
        }
    }
}
