//! What a schema does not name goes away (apiextensions-apiserver `apiserver/schema/pruning`, `defaulting/prunenulls.go`).

use coracle_tree::{Map, Value};

use super::node::Node;

/// The members that every object has, named or not.
const META: &[&str] = &["apiVersion", "kind", "metadata"];

/// Removes from an object what its schema does not name; the paths of what went.
pub(crate) fn prune(root: &Node, object: &mut Value) -> Vec<String> {
    let mut walk = Walk { path: String::new(), gone: Some(Vec::new()) };
    walk.root(root, object);
    let mut gone = walk.gone.unwrap_or_default();
    gone.sort();
    gone
}

/// The same for the value of one place, which is no object by itself unless the schema says so.
pub(super) fn value(node: &Node, value: &mut Value) {
    Walk { path: String::new(), gone: None }.value(Some(node), value, node.embedded);
}

/// Removes members that are null and may not be, unless a default takes their place.
pub(crate) fn drop_nulls(node: &Node, value: &mut Value) {
    match value {
        Value::Object(members) => {
            members
                .retain(|name, value| !(value.is_null() && node.member(name).is_some_and(|node| !node.nullable && node.default.is_none())));
            for (name, value) in members {
                if let Some(node) = node.member(name) {
                    drop_nulls(node, value);
                }
            }
        }
        Value::Array(items) => {
            if let Some(node) = &node.items {
                items.iter_mut().for_each(|item| drop_nulls(node, item));
            }
        }
        _ => {}
    }
}

struct Walk {
    path: String,
    /// Where notes are wanted.
    gone: Option<Vec<String>>,
}

impl Walk {
    fn root(&mut self, node: &Node, object: &mut Value) {
        self.value(Some(node), object, true);
    }

    /// `embedded`: the members of every object stay.
    fn value(&mut self, node: Option<&Node>, value: &mut Value, embedded: bool) {
        match value {
            Value::Object(members) => self.members(node, members, embedded),
            Value::Array(items) => {
                let below = node.and_then(|node| node.items.as_deref());
                // Below what preserves its members, what is not named is not looked at.
                if below.is_none() && node.is_some_and(|node| node.preserves) {
                    return;
                }
                let length = self.path.len();
                for (at, item) in items.iter_mut().enumerate() {
                    self.path.push_str(&format!("[{at}]"));
                    match (node, below) {
                        (Some(node), Some(below)) if node.preserves => self.kept(below, item),
                        _ => self.value(below, item, below.is_some_and(|node| node.embedded)),
                    }
                    self.path.truncate(length);
                }
            }
            _ => {}
        }
    }

    /// An item of a list that preserves: upstream goes on as if the item did, too.
    fn kept(&mut self, node: &Node, value: &mut Value) {
        match value {
            Value::Object(members) => self.named(node, members, node.embedded),
            Value::Array(items) => {
                let Some(below) = &node.items else { return };
                let length = self.path.len();
                for (at, item) in items.iter_mut().enumerate() {
                    self.path.push_str(&format!("[{at}]"));
                    self.kept(below, item);
                    self.path.truncate(length);
                }
            }
            _ => {}
        }
    }

    fn members(&mut self, node: Option<&Node>, members: &mut Map, embedded: bool) {
        let Some(node) = node else {
            members.keys().for_each(|name| self.note(name));
            members.clear();
            return;
        };
        if !node.preserves && !node.additional.is_set() {
            members.retain(|name, _| {
                let stays = (embedded && META.contains(&&**name)) || node.property(name).is_some();
                if !stays && (!self.path.is_empty() || !META.contains(&&**name)) {
                    self.note(name);
                }
                stays
            });
        }
        self.named(node, members, embedded);
    }

    /// Goes on in the members that are named.
    fn named(&mut self, node: &Node, members: &mut Map, embedded: bool) {
        for (name, value) in members.iter_mut() {
            if embedded && META.contains(&&**name) {
                continue;
            }
            let below = match node.property(name) {
                Some(below) => Some(below),
                None if node.additional.is_set() => node.additional.schema(),
                None => continue,
            };
            let length = self.path.len();
            if length > 0 {
                self.path.push('.');
            }
            self.path.push_str(name);
            self.value(below, value, below.is_some_and(|node| node.embedded));
            self.path.truncate(length);
        }
    }

    fn note(&mut self, name: &str) {
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        if let Some(gone) = self.gone.as_mut().filter(|gone| gone.len() < 1000) {
            gone.push(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;
    use crate::structural::tests::node;

    fn pruned(schema: &Value, object: Value) -> (Value, Vec<String>) {
        let mut object = object;
        let gone = prune(&node(schema), &mut object);
        (object, gone)
    }

    #[test]
    fn what_is_not_named_goes_and_is_noted() {
        let schema = json!({"type": "object", "properties": {
            "spec": {"type": "object", "properties": {"a": {"type": "string"}, "list": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "integer"}}}}}},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"known": {"type": "object", "properties": {"y": {"type": "string"}}}}},
            "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"z": {"type": "string"}}}},
        }});
        let object = json!({"apiVersion": "v1", "kind": "K", "metadata": {"name": "n"}, "odd": 1,
            "spec": {"a": {"deep": 1}, "b": 1, "list": [{"x": 1, "w": 2}, 3]},
            "free": {"any": {"thing": 1}, "known": {"y": "s", "q": 1}}, "map": {"k": {"z": "1", "zz": 2}}});
        let (object, gone) = pruned(&schema, object);
        assert_eq!(gone, ["free.known.q", "map.k.zz", "odd", "spec.a.deep", "spec.b", "spec.list[0].w"]);
        let expected = json!({"apiVersion": "v1", "kind": "K", "metadata": {"name": "n"}, "spec": {"a": {}, "list": [{"x": 1}, 3]},
            "free": {"any": {"thing": 1}, "known": {"y": "s"}}, "map": {"k": {"z": "1"}}});
        assert_eq!(object, expected);
    }

    #[test]
    fn an_embedded_object_keeps_its_metadata() {
        let schema = json!({"type": "object", "properties": {"template": {"type": "object", "x-kubernetes-embedded-resource": true,
            "properties": {"spec": {"type": "object"}}}}});
        let (object, gone) =
            pruned(&schema, json!({"template": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {}, "status": {}}}));
        assert_eq!(object, json!({"template": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {}}}));
        assert_eq!(gone, ["template.status"]);
    }

    #[test]
    fn nulls_go_unless_they_may_stand_or_a_default_waits() {
        let schema = node(&json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string", "nullable": true},
            "c": {"type": "string", "default": "x"}, "l": {"type": "array", "items": {"type": "string"}}}}));
        let mut object = json!({"a": null, "b": null, "c": null, "l": [null], "other": null});
        drop_nulls(&schema, &mut object);
        assert_eq!(object, json!({"b": null, "c": null, "l": [null], "other": null}));
    }
}
