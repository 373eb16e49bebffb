//! Which part of the old object a part of the new one is: unchanged parts are not validated again (ratcheting; apiserver `cel/common/equality.go`).

use std::collections::HashMap;

use coracle_tree::Value;

use super::node::Node;
use crate::types::ListKind;

/// A value and what it was before, with the schema that says how the two relate.
#[derive(Clone, Copy)]
pub(crate) struct Correlated<'a> {
    pub(crate) old: &'a Value,
    pub(crate) schema: &'a Node,
}

impl<'a> Correlated<'a> {
    /// The old value of a member; none where the schema names no such member.
    pub(crate) fn key(self, name: &str) -> Option<Self> {
        Some(Self { old: self.old.as_object()?.get(name)?, schema: self.schema.member(name)? })
    }

    /// The old items of a list by their keys; none where items have no identity of their own, as in all lists but maps.
    pub(crate) fn items(self) -> Option<Items<'a>> {
        let ListKind::Map(keys) = &self.schema.list else { return None };
        let schema = self.schema.items.as_deref()?;
        let mut by_key = HashMap::new();
        for item in self.old.as_array()? {
            if let Some(key) = key_of(keys, item) {
                by_key.entry(key).or_insert(item);
            }
        }
        Some(Items { keys, schema, by_key })
    }

    /// Whether nothing changed. Members that the schema does not name never count as unchanged.
    pub(crate) fn equals(self, new: &Value) -> bool {
        match (new, self.old) {
            (Value::Object(new), Value::Object(old)) => {
                new.len() == old.len() && new.iter().all(|(name, value)| self.key(name).is_some_and(|child| child.equals(value)))
            }
            (Value::Array(new), Value::Array(old)) => match self.schema.list {
                ListKind::Atomic | ListKind::Set => new == old,
                ListKind::Map(_) => {
                    let items = self.items();
                    let same = |item: &Value| items.as_ref().and_then(|items| items.get(item)).is_some_and(|child| child.equals(item));
                    new.len() == old.len() && new.iter().all(same)
                }
            },
            (new, old) => new == old,
        }
    }
}

/// The old items of a list.
pub(crate) struct Items<'a> {
    keys: &'a [Box<str>],
    schema: &'a Node,
    by_key: HashMap<String, &'a Value>,
}

impl<'a> Items<'a> {
    /// What an item was before.
    pub(crate) fn get(&self, item: &Value) -> Option<Correlated<'a>> {
        let old = *self.by_key.get(&key_of(self.keys, item)?)?;
        Some(Correlated { old, schema: self.schema })
    }
}

/// The keys of an item as one text; none when one is missing or no scalar.
fn key_of(keys: &[Box<str>], item: &Value) -> Option<String> {
    let mut text = String::new();
    for key in keys {
        let value = item.get(&**key).filter(|v| v.is_string() || v.is_number() || v.is_boolean())?;
        text.push_str(&value.to_string());
        text.push(',');
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;
    use crate::structural::tests::node;

    #[test]
    fn items_of_map_lists_are_found_by_their_keys_in_any_order() {
        let schema = node(&json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items":
            {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer"}}}}));
        let old = json!([{"k": "a", "v": 1}, {"k": "b", "v": 2}]);
        let whole = Correlated { old: &old, schema: &schema };
        assert!(whole.equals(&json!([{"k": "b", "v": 2}, {"k": "a", "v": 1}])));
        assert!(!whole.equals(&json!([{"k": "a", "v": 1}, {"k": "b", "v": 3}])));
        let items = whole.items().unwrap();
        assert_eq!(items.get(&json!({"k": "b", "v": 9})).unwrap().old, &json!({"k": "b", "v": 2}));
        assert!(items.get(&json!({"k": "c"})).is_none());
    }

    #[test]
    fn what_the_schema_does_not_name_counts_as_changed() {
        let schema =
            node(&json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"a": {"type": "string"}}}));
        let old = json!({"a": "x", "free": 1});
        assert!(!Correlated { old: &old, schema: &schema }.equals(&old));
    }
}
