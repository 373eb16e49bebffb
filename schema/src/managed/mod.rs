//! Field ownership: `metadata.managedFields`, kept up on every write (apimachinery's `util/managedfields`).

mod check;
mod compare;
mod element;
mod entries;
pub(crate) mod node;
mod reconcile;
mod reset;
mod set;
mod versions;

use coracle_tree::{Map, Value};

pub(crate) use check::check;
pub(crate) use compare::{Delta, objects as compare};
pub(crate) use element::{display, field as field_element, of_item as item_element};
pub(crate) use entries::{Entries, Entry};
pub(crate) use node::ATOMIC_TYPES;
pub(crate) use reconcile::reconcile;
pub use reset::{Path, reset_fields};
pub(crate) use set::{
    Set, add, attach, below, has, includes, intersection, is_member, node as set_node, of_names as set_of_names, paths, subtract,
    subtract_trees,
};
pub(crate) use versions::{Deltas, Others, Views};
pub use versions::{Unconverted, Versions};

use crate::SchemaRef;

/// The longest manager name, in characters.
const MAX_MANAGER: usize = 128;

/// Who writes, where and when.
#[derive(Clone, Copy, Debug)]
pub struct Who<'a> {
    /// The field manager; see [`manager_name`].
    pub manager: &'a str,
    /// Version of the request, `apps/v1`: the entry's `apiVersion`.
    pub api_version: &'a str,
    /// Kind of the request's objects.
    pub kind: &'a str,
    /// `status`, `scale`, …; empty for the main resource.
    pub subresource: &'a str,
    /// Time of the request: RFC 3339 in UTC, whole seconds.
    pub now: &'a str,
    /// What this endpoint does not write; see [`reset_fields`].
    pub reset: &'a [Path],
    /// The versions of the kind; `None`: there is no other than that of the request.
    pub versions: Option<&'a dyn Versions>,
}

/// The manager of a request: its `fieldManager` option, else the part of the user agent before the first slash, printable and at most 128
/// characters long.
pub fn manager_name(field_manager: &str, user_agent: &str) -> String {
    if !field_manager.is_empty() {
        return field_manager.to_owned();
    }
    let prefix = user_agent.split('/').next().unwrap_or_default();
    prefix.chars().filter(|c| !c.is_control()).take(MAX_MANAGER).collect()
}

/// Brings `new.metadata.managedFields` up to date: what a create, an update or a patch (not an apply) of `old` into `new` changed is
/// owned by `who` from now on. To be called with the decoded and defaulted object, before mutating admission, whose changes nobody owns.
///
/// A list sent by the client counts unless it is absent or wrong, in which case the stored one does; `[]` and `[{}]` empty it. An
/// object whose list is empty is not tracked until its first apply.
pub fn record_update(schema: &SchemaRef, old: Option<&Value>, new: &mut Value, who: &Who<'_>) {
    let sent = take_list(new);
    let mut entries = entries_of_update(sent, old, who.subresource);
    if entries.0.is_empty() && old.is_some() {
        return;
    }
    let Ok(deltas) = deltas_of_update(schema, old, new, &mut entries, who) else {
        // Who owns what cannot be told in a version somebody owns fields in: the owners stay those of the object that was there.
        if let Some(list) = old.and_then(|o| o.pointer("/metadata/managedFields")) {
            metadata_mut(new).insert("managedFields", list.clone());
        }
        return;
    };
    record(&mut entries, deltas, who);
    entries.cap();
    put_list(new, entries);
}

fn deltas_of_update<'a>(
    schema: &'a SchemaRef,
    old: Option<&Value>,
    new: &Value,
    entries: &mut Entries,
    who: &Who<'a>,
) -> Result<Deltas, String> {
    let views = Views::new(schema, who);
    let others = Others::of(&views, entries, old)?;
    Deltas::in_versions(&views, old, new, who, (&others, entries))
}

/// Moves what `deltas` say from its owners to `who`.
pub(crate) fn record(entries: &mut Entries, deltas: Deltas, who: &Who<'_>) {
    entries.take(&deltas);
    let mut changed = deltas.own.changed;
    strip(&mut changed);
    if !changed.is_empty() {
        entries.join(Entry {
            manager: if who.manager.is_empty() { "unknown".into() } else { who.manager.into() },
            applied: false,
            api_version: who.api_version.into(),
            subresource: who.subresource.into(),
            time: Some(who.now.into()),
            fields: changed,
        });
    }
}

/// What is wrong with a list of managed fields, if anything is (`ValidateManagedFields`).
pub fn fault(list: &Value) -> Option<String> {
    Entries::sent(list.clone()).err()
}

/// When a write changed nothing but times in `managedFields`, puts the old list back, so that nothing is written. To be called last,
/// with the object as it would be stored. Answers whether `new` now equals `old` but for the resource version.
pub fn keep_times_if_unchanged(old: &Value, new: &mut Value) -> bool {
    let (Some(before), Some(after)) = (list_of(old), list_of(new)) else { return same_but_version(old, new) };
    let same = before.len() == after.len() && before.iter().zip(after).all(|(a, b)| same_members(a, b, "time"));
    if !same || !same_rest(old, new) {
        return false;
    }
    if let Some(list) = old.pointer("/metadata/managedFields").cloned() {
        metadata_mut(new).insert("managedFields", list);
    }
    true
}

fn list_of(object: &Value) -> Option<&Vec<Value>> {
    object.get("metadata")?.get("managedFields")?.as_array()
}

fn same_but_version(old: &Value, new: &Value) -> bool {
    list_of(old).is_none() == list_of(new).is_none() && same_rest(old, new)
}

/// Whether two objects are equal apart from their managed fields and resource versions.
pub(crate) fn same_rest(old: &Value, new: &Value) -> bool {
    let (Some(a), Some(b)) = (old.as_object(), new.as_object()) else { return false };
    let metadata = |m: &Map| m.iter().filter(|(k, _)| *k != "managedFields" && *k != "resourceVersion").count();
    a.len() == b.len()
        && a.iter().all(|(key, value)| match (key.as_str(), value, b.get(key)) {
            ("metadata", Value::Object(x), Some(Value::Object(y))) => {
                metadata(x) == metadata(y)
                    && x.iter().all(|(k, v)| matches!(k.as_str(), "managedFields" | "resourceVersion") || y.get(k) == Some(v))
            }
            (_, value, other) => other == Some(value),
        })
}

fn same_members(a: &Value, b: &Value, except: &str) -> bool {
    let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else { return a == b };
    let count = |m: &Map| m.keys().filter(|k| *k != except).count();
    count(a) == count(b) && a.iter().all(|(k, v)| k == except || b.get(k) == Some(v))
}

/// The entries that a write starts from.
fn entries_of_update(sent: Option<Value>, old: Option<&Value>, subresource: &str) -> Entries {
    let stored = old.and_then(|o| o.pointer("/metadata/managedFields"));
    let Some(sent) = sent else { return Entries::stored(stored.cloned().unwrap_or_default()) };
    if Some(&sent) == stored {
        return Entries::stored(sent);
    }
    if subresource.is_empty() {
        if is_reset(&sent) {
            return Entries::default();
        }
        match Entries::sent(sent) {
            Ok(entries) if !entries.0.is_empty() => return entries,
            _ => {}
        }
    }
    Entries::stored(stored.cloned().unwrap_or_default())
}

/// `[]` or `[{}]`: the client asks to forget all owners.
fn is_reset(list: &Value) -> bool {
    match list.as_array().map(Vec::as_slice) {
        Some([]) => true,
        Some([Value::Object(only)]) => only.values().all(|v| v.is_null() || v.as_str() == Some("")),
        _ => false,
    }
}

/// Takes `metadata.managedFields` out of an object.
pub(crate) fn take_list(object: &mut Value) -> Option<Value> {
    object.get_mut("metadata")?.as_object_mut()?.remove("managedFields")
}

/// Puts the entries into an object.
pub(crate) fn put_list(object: &mut Value, entries: Entries) {
    match entries.into_value() {
        Some(list) => {
            metadata_mut(object).insert("managedFields", list);
        }
        None => {
            take_list(object);
        }
    }
}

/// The metadata map, made when absent. An object that is no JSON object is left alone.
fn metadata_mut(object: &mut Value) -> &mut Map {
    if !object.get("metadata").is_some_and(Value::is_object) {
        object["metadata"] = Value::Object(Map::new());
    }
    match object.get_mut("metadata").and_then(Value::as_object_mut) {
        Some(metadata) => metadata,
        None => unreachable!("made an object above"),
    }
}

/// Members of metadata that nobody owns.
const UNOWNED_METADATA: &[&str] = &[
    "f:name",
    "f:namespace",
    "f:creationTimestamp",
    "f:selfLink",
    "f:uid",
    "f:clusterName",
    "f:generation",
    "f:managedFields",
    "f:resourceVersion",
];

/// Takes away what nobody owns: the identity of the object and what the server sets (`stripmeta.go`).
pub(crate) fn strip(fields: &mut Set) {
    fields.remove("f:apiVersion");
    fields.remove("f:kind");
    let Some(metadata) = fields.get_mut("f:metadata").and_then(Value::as_object_mut) else { return };
    metadata.remove(".");
    for name in UNOWNED_METADATA {
        metadata.remove(name);
    }
    if metadata.is_empty() {
        fields.remove("f:metadata");
    }
}

#[cfg(test)]
mod tests;
