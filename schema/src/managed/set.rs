//! Sets of field paths, in the very form `FieldsV1` has on the wire: a tree of JSON objects.
//!
//! A key is a path element (`f:name`, `k:{"port":80}`, `v:"text"`, `i:0`). A node is a member of the set when it is `{}` or has the
//! member `"."`; otherwise it only leads to members below. Working on that form directly means that reading and writing
//! `managedFields` costs nothing. The algebra is that of structured-merge-diff's `fieldpath/set.go`.

use coracle_tree::{Map, Text, Value};

use super::element;

/// A set of paths: element text -> node.
pub(crate) type Set = Map;

/// The mark of a node that is itself a member and has children.
const SELF: &str = ".";

/// A node; nothing when it is neither a member nor has children. Sets are best collected from these: in order, no place is searched.
pub(crate) fn node(member: bool, mut children: Set) -> Option<Value> {
    if !member && children.is_empty() {
        return None;
    }
    if member && !children.is_empty() {
        children.insert(SELF, Value::Object(Map::new()));
    }
    Some(Value::Object(children))
}

/// Adds a node. A node that is neither a member nor has children is left out.
pub(crate) fn attach(set: &mut Set, key: Text, member: bool, children: Set) {
    if let Some(node) = node(member, children) {
        set.insert(key, node);
    }
}

/// Whether the node is itself in the set.
pub(crate) fn is_member(node: &Value) -> bool {
    node.as_object().is_none_or(|n| n.is_empty() || n.contains_key(SELF))
}

/// The nodes of a level, without the mark.
fn nodes(set: &Set) -> impl Iterator<Item = (&Text, &Value)> {
    set.iter().filter(|(key, _)| key.as_str() != SELF)
}

/// The paths below `key`; empty if there are none.
pub(crate) fn below<'a>(set: &'a Set, key: &str) -> Option<&'a Set> {
    set.get(key).and_then(Value::as_object).filter(|n| nodes(n).next().is_some())
}

/// Whether `key` itself is in the set.
pub(crate) fn has(set: &Set, key: &str) -> bool {
    set.get(key).is_some_and(is_member)
}

/// Takes a node apart: whether it is a member, and its children.
fn split(node: Value) -> (bool, Set) {
    match node {
        Value::Object(mut children) if !children.is_empty() => (children.remove(SELF).is_some(), children),
        _ => (true, Set::new()),
    }
}

/// What to do with the children of a node that `other` has as a member.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Below {
    Keep,
    Drop,
}

/// Removes from `set` every path of `other`; what lies below a removed path stays.
pub(crate) fn subtract(set: &mut Set, other: &Set) {
    remove(set, other, Below::Keep);
}

/// Removes from `set` every path of `other` and all that lies below it.
pub(crate) fn subtract_trees(set: &mut Set, other: &Set) {
    remove(set, other, Below::Drop);
}

fn remove(set: &mut Set, other: &Set, below: Below) {
    for (key, theirs) in nodes(other) {
        let Some(ours) = set.get_mut(key) else { continue };
        if is_member(theirs) && below == Below::Drop {
            set.remove(key);
            continue;
        }
        let (mut member, mut children) = split(ours.take());
        member &= !is_member(theirs);
        if let Some(theirs) = theirs.as_object() {
            remove(&mut children, theirs, below);
        }
        if !member && children.is_empty() {
            set.remove(key);
        } else {
            if member && !children.is_empty() {
                children.insert(SELF, Value::Object(Map::new()));
            }
            *ours = Value::Object(children);
        }
    }
}

/// Adds every path of `other`.
pub(crate) fn add(set: &mut Set, other: &Set) {
    for (key, theirs) in nodes(other) {
        let Some(ours) = set.get_mut(key) else {
            set.insert(key.clone(), theirs.clone());
            continue;
        };
        let (member, mut children) = split(ours.take());
        if let Some(theirs) = theirs.as_object() {
            add(&mut children, theirs);
        }
        let member = member || is_member(theirs);
        if member && !children.is_empty() {
            children.insert(SELF, Value::Object(Map::new()));
        }
        *ours = Value::Object(children);
    }
}

/// The paths in both.
pub(crate) fn intersection(a: &Set, b: &Set) -> Set {
    let mut both = Set::new();
    for (key, ours) in nodes(a) {
        let Some(theirs) = b.get(key) else { continue };
        let children = match (ours.as_object(), theirs.as_object()) {
            (Some(ours), Some(theirs)) => intersection(ours, theirs),
            _ => Set::new(),
        };
        attach(&mut both, key.clone(), is_member(ours) && is_member(theirs), children);
    }
    both
}

/// Whether every path of `part` is in `whole`.
pub(crate) fn includes(whole: &Set, part: &Set) -> bool {
    nodes(part).all(|(key, theirs)| {
        let Some(ours) = whole.get(key) else { return false };
        let below = match (ours.as_object(), theirs.as_object()) {
            (Some(ours), Some(theirs)) => includes(ours, theirs),
            _ => true,
        };
        below && (is_member(ours) || !is_member(theirs))
    })
}

/// The set of one path per entry of `paths`, each a list of field names.
pub(crate) fn of_names(paths: &[&[&str]]) -> Set {
    let mut set = Set::new();
    for path in paths {
        let mut node = Set::new();
        for (depth, name) in path.iter().rev().enumerate() {
            let mut outer = Set::new();
            attach(&mut outer, element::field(name), depth == 0, node);
            node = outer;
        }
        add(&mut set, &node);
    }
    set
}

/// Every path of the set as text (`.spec.containers[name="a"].image`); of one level, members come before what lies below them.
pub(crate) fn paths(set: &Set) -> Vec<String> {
    let mut texts = Vec::new();
    collect(set, "", &mut texts);
    texts
}

fn collect(set: &Set, prefix: &str, into: &mut Vec<String>) {
    let printed: Vec<(String, &Value)> = nodes(set).map(|(key, node)| (format!("{prefix}{}", element::display(key)), node)).collect();
    into.extend(printed.iter().filter(|(_, node)| is_member(node)).map(|(path, _)| path.clone()));
    for (path, node) in &printed {
        if let Some(children) = node.as_object() {
            collect(children, path, into);
        }
    }
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    fn set(value: Value) -> Set {
        match value {
            Value::Object(set) => set,
            other => panic!("{other} is not a set"),
        }
    }

    #[test]
    fn subtracting_a_parent_keeps_its_children_and_subtracting_trees_does_not() {
        let full = set(json!({"f:a": {".": {}, "f:b": {}, "f:c": {".": {}, "f:d": {}}}}));
        let mut kept = full.clone();
        subtract(&mut kept, &set(json!({"f:a": {".": {}, "f:c": {}}})));
        assert_eq!(Value::Object(kept), json!({"f:a": {"f:b": {}, "f:c": {"f:d": {}}}}));
        let mut dropped = full;
        subtract_trees(&mut dropped, &set(json!({"f:a": {"f:c": {}}})));
        assert_eq!(Value::Object(dropped), json!({"f:a": {".": {}, "f:b": {}}}));
    }

    #[test]
    fn subtracting_the_last_path_leaves_nothing() {
        let mut some = set(json!({"f:a": {"f:b": {}}}));
        subtract(&mut some, &set(json!({"f:a": {"f:b": {}}})));
        assert!(some.is_empty());
    }

    #[test]
    fn adding_a_child_to_a_leaf_keeps_the_leaf_a_member() {
        let mut some = set(json!({"f:a": {}}));
        add(&mut some, &set(json!({"f:a": {"f:b": {}}, "f:c": {}})));
        assert_eq!(Value::Object(some), json!({"f:a": {".": {}, "f:b": {}}, "f:c": {}}));
    }

    #[test]
    fn intersection_knows_members_from_ways() {
        let both = intersection(&set(json!({"f:a": {".": {}, "f:b": {}}})), &set(json!({"f:a": {"f:b": {}, "f:c": {}}})));
        assert_eq!(Value::Object(both), json!({"f:a": {"f:b": {}}}));
    }

    #[test]
    fn a_way_to_a_path_is_not_the_path() {
        let whole = set(json!({"f:a": {".": {}, "f:b": {}}, "f:c": {"f:d": {}}}));
        assert!(includes(&whole, &set(json!({"f:a": {"f:b": {}}, "f:c": {"f:d": {}}}))));
        assert!(!includes(&whole, &set(json!({"f:c": {}}))));
        assert!(!includes(&whole, &set(json!({"f:a": {"f:x": {}}}))));
    }

    #[test]
    fn paths_read_as_upstream_prints_them() {
        let some =
            set(json!({"f:m": {"f:x": {}}, "f:l": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:n": {}}, "v:\"a\"": {}}}));
        let expected = [".l[containerPort=80,protocol=\"TCP\"]", ".l[=\"a\"]", ".l[containerPort=80,protocol=\"TCP\"].n", ".m.x"];
        assert_eq!(paths(&some), expected);
    }
}
