//! Removing what a manager applied before, does not apply any more, and nobody else owns (`prune` of structured-merge-diff's
//! `merge/update.go`, and `typed/remove.go`).

use std::borrow::Cow;

use coracle_tree::Value;

use super::owned;
use crate::{
    SchemaRef,
    managed::{
        Entries, Entry, Set, Unconverted, Views, add, attach, below, has, intersection, is_member, item_element,
        node::{Node, key_defaults},
        subtract,
    },
    types::Schema,
};

/// An object after pruning.
pub(super) struct Pruned {
    /// As it is compared with the live object: a map or list of which nothing is left is null, which keeps its owners.
    pub(super) compared: Value,
    /// As it is stored: such a map or list is absent, in a custom resource it is null.
    pub(super) stored: Value,
}

/// `merged` without what only `last` owned, which is looked at in the version it was applied in, and what anybody else owns in theirs.
/// `now` is what the manager applies this time, `others` are the entries of everybody else.
pub(super) fn prune(views: &Views<'_>, merged: &Value, last: &Entry, now: &Entry, others: &Entries) -> Result<Pruned, String> {
    let whole = match views.of(merged, &last.api_version) {
        Ok((whole, schema)) => Typed { value: whole, schema },
        Err(Unconverted::Missing) => return Ok(Pruned { compared: merged.clone(), stored: merged.clone() }),
        Err(Unconverted::Failed(why)) => return Err(format!("failed to convert merged object to last applied version: {why}")),
    };
    let owned = whole.named(&last.fields);
    let pruned = Typed { value: Cow::Owned(whole.without(&owned, Empty::Null)), schema: whole.schema };
    let pruned =
        keep_owned(views, &whole, pruned, &last.api_version, (now, others)).map_err(|why| format!("failed add back owned items: {why}"))?;

    // What this manager never owned comes back, too.
    let pruned = match views.of(&pruned.value, &last.api_version) {
        Ok((value, schema)) => Typed { value, schema },
        Err(Unconverted::Missing) => return Ok(Pruned { compared: merged.clone(), stored: merged.clone() }),
        Err(Unconverted::Failed(why)) => {
            return Err(format!("failed add back dangling items: failed to convert pruned object to last applied version: {why}"));
        }
    };
    let mut goes = whole.fields();
    subtract(&mut goes, &pruned.fields());
    let goes = intersection(&goes, &owned);
    let left = |empty| match views.of(&whole.without(&goes, empty), &now.api_version) {
        Ok((value, _)) => Ok(value.into_owned()),
        Err(Unconverted::Missing) => Ok(merged.clone()),
        Err(Unconverted::Failed(why)) => Err(why),
    };
    let compared = left(Empty::Null)?;
    // Only what has a type of Go's has no room for the null.
    let stored = if whole.schema.custom().is_some() { compared.clone() } else { left(Empty::Absent)? };
    Ok(Pruned { compared, stored })
}

/// Brings back what anybody owns, version by version: first those of the version in which something was taken away.
fn keep_owned<'a>(
    views: &Views<'a>,
    whole: &Typed<'a, '_>,
    mut pruned: Typed<'a, 'static>,
    first: &str,
    (now, others): (&Entry, &Entries),
) -> Result<Typed<'a, 'static>, String> {
    let mut owned: Vec<(&str, Set)> = vec![(first, Set::new())];
    for entry in std::iter::once(now).chain(&others.0) {
        match owned.iter_mut().find(|(version, _)| *version == entry.api_version) {
            Some((_, all)) => add(all, &entry.fields),
            None => owned.push((&entry.api_version, entry.fields.clone())),
        }
    }
    let mut all = Typed { value: Cow::Borrowed(&*whole.value), schema: whole.schema };
    for (version, fields) in owned.iter().filter(|(_, fields)| !fields.is_empty()) {
        let (value, schema) = match views.of(&all.value, version) {
            Ok((value, schema)) => (value.into_owned(), schema),
            Err(Unconverted::Missing) => continue,
            Err(Unconverted::Failed(why)) => return Err(format!("failed to convert merged object at version {version}: {why}")),
        };
        all = Typed { value: Cow::Owned(value), schema };
        let left = match views.of(&pruned.value, version) {
            Ok((value, schema)) => Typed { value, schema },
            Err(Unconverted::Missing) => continue,
            Err(Unconverted::Failed(why)) => return Err(format!("failed to convert pruned object at version {version}: {why}")),
        };
        let mut goes = all.fields();
        subtract(&mut goes, &left.fields());
        subtract(&mut goes, &all.named(fields));
        pruned = Typed { value: Cow::Owned(all.without(&goes, Empty::Null)), schema };
    }
    Ok(pruned)
}

/// An object in a version.
struct Typed<'a, 'v> {
    value: Cow<'v, Value>,
    schema: &'a SchemaRef,
}

impl Typed<'_, '_> {
    /// What is in it.
    fn fields(&self) -> Set {
        self.named(&owned::of(&self.schema.schema, Node::root(self.schema), &self.value))
    }

    fn named(&self, set: &Set) -> Set {
        with_named(&self.schema.schema, Node::root(self.schema), set)
    }

    fn without(&self, set: &Set, empty: Empty) -> Value {
        without(&self.schema.schema, Node::root(self.schema), &self.value, set, empty)
    }
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
            let mut out = coracle_tree::Map::new();
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
        (Node::Leaf | Node::Atomic, Value::Array(_) | Value::Object(_)) => Value::Null,
        _ => value.clone(),
    }
}
