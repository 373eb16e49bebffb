//! Strategic merge patch: lists merge by key, with directives for what a plain merge cannot say (apimachinery's `util/strategicpatch`).

use coracle_tree::{Map, Text, Value};

use super::{
    PatchError,
    order::{self, Kind},
};
use crate::{
    SchemaRef,
    types::{PatchStrategy, Schema, Shape},
};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList";
const ORDER: &str = "$setElementOrder";

type Object = Map;

/// Merges a patch into an object of a built-in kind. (Custom resources do not support the format: 415.)
pub fn strategic_merge_patch(schema: &SchemaRef, object: Value, patch: Value) -> Result<Value, PatchError> {
    let (Value::Object(object), Value::Object(patch)) = (object, patch) else {
        return Err(PatchError::BadRequest("invalid JSON document".into()));
    };
    let merger = Merger { schema: &schema.schema };
    Ok(Value::Object(merger.map(object, patch, At::Message(schema.root))?))
}

/// Where in the schema a value stands.
#[derive(Clone, Copy)]
enum At<'s> {
    Message(crate::TypeId),
    /// Values without fields of their own: scalars, free maps.
    Other(&'s Shape),
}

struct Merger<'s> {
    schema: &'s Schema,
}

/// What the schema says of a field: how it merges, and where its value (for a list: an item) stands.
struct Rule<'s> {
    strategy: &'s PatchStrategy,
    inner: At<'s>,
}

/// A merged list.
#[derive(Default)]
struct Merged {
    items: Vec<Value>,
    /// The order in which items count as standing on the server. Upstream deletes and appends in place: for each item that a patch deletes,
    /// one that it adds moves up into this order.
    order: Vec<Value>,
}

impl<'s> Merger<'s> {
    fn name(&self, at: At<'s>) -> &'s str {
        match at {
            At::Message(id) => self.schema.get(id).short_name(),
            At::Other(_) => "",
        }
    }

    fn rule(&self, at: At<'s>, key: &str) -> Result<Rule<'s>, PatchError> {
        static PLAIN: PatchStrategy = PatchStrategy { merge: false, replace: false, retain_keys: false, key: None };
        let place = |shape: &'s Shape| match shape {
            Shape::Message(id) => At::Message(*id),
            other => At::Other(other),
        };
        match at {
            At::Other(any @ (Shape::Object | Shape::Any | Shape::Fields)) => Ok(Rule { strategy: &PLAIN, inner: At::Other(any) }),
            At::Other(_) => Err(PatchError::Unmergeable("merging an object in json but data type is not struct, instead is: map".into())),
            At::Message(id) => {
                let message = self.schema.get(id);
                let unknown = || format!("unable to find api field in struct {} for the json field {key:?}", message.short_name());
                let field = message.field(key).ok_or_else(|| PatchError::Unmergeable(unknown()))?;
                let inner = match &field.shape {
                    Shape::List(item) => place(item),
                    other => place(other),
                };
                Ok(Rule { strategy: &field.patch, inner })
            }
        }
    }

    /// Merges `patch` into `object`.
    fn map(&self, mut object: Object, mut patch: Object, at: At<'s>) -> Result<Object, PatchError> {
        match patch.get(PATCH) {
            None => {}
            Some(Value::String(directive)) if directive == "replace" => {
                patch.remove(PATCH);
                return Ok(patch);
            }
            Some(Value::String(directive)) if directive == "delete" => return Ok(Object::new()),
            Some(other) => return Err(bad_directive(other, &patch)),
        }
        retain_keys(&mut object, &mut patch)?;
        self.ordered_lists(&mut object, &mut patch, at)?;
        for (key, value) in patch {
            self.member(&mut object, key, value, at)?;
        }
        Ok(object)
    }

    fn member(&self, object: &mut Object, key: Text, mut value: Value, at: At<'s>) -> Result<(), PatchError> {
        let deletes = key.starts_with(DELETE_FROM);
        let key = if deletes { directive_target(&key, DELETE_FROM)? } else { key };
        if value.is_null() {
            object.remove(&key);
            return Ok(());
        }
        let Some(current) = object.get_mut(&key) else {
            if !deletes {
                insert(object, key, value);
            }
            return Ok(());
        };
        match (current.take(), &mut value) {
            (Value::Object(current), Value::Object(patch)) => {
                let rule = self.rule(at, &key)?;
                let patch = std::mem::take(patch);
                let merged = if rule.strategy.replace { patch } else { self.map(current, patch, rule.inner)? };
                object.insert(key, Value::Object(merged));
            }
            (Value::Array(current), Value::Array(patch)) => {
                let rule = self.rule(at, &key)?;
                let merged = self.list(current, std::mem::take(patch), &rule, deletes)?;
                object.insert(key, Value::Array(merged.items));
            }
            (current, _) if deletes => {
                object.insert(key, current);
            }
            _ => insert(object, key, value),
        }
        Ok(())
    }

    fn list(&self, current: Vec<Value>, patch: Vec<Value>, rule: &Rule<'s>, deletes: bool) -> Result<Merged, PatchError> {
        if !rule.strategy.merge && !deletes {
            return Ok(Merged { items: patch, order: current });
        }
        if current.is_empty() && patch.is_empty() {
            return Ok(Merged::default());
        }
        let merge_key = rule.strategy.key.as_deref();
        let kind = order::kind_of(&[&current, &patch])?;
        if kind == Kind::Scalar {
            if deletes {
                return Ok(Merged { items: current.into_iter().filter(|v| !patch.contains(v)).collect(), order: Vec::new() });
            }
            let mut merged: Vec<Value> = Vec::with_capacity(current.len() + patch.len());
            for value in current.iter().chain(&patch) {
                if !merged.contains(value) {
                    merged.push(value.clone());
                }
            }
            let items = order::restore(merged, &patch, &current, merge_key, kind)?;
            return Ok(Merged { items, order: current });
        }
        let Some(key) = merge_key else {
            let message = format!("cannot merge lists without merge key for {}", self.name(rule.inner));
            return Err(PatchError::Unmergeable(message));
        };
        let before = current.len();
        let (current, patch) = item_directives(current, patch, key)?;
        let stood = order::marks(&current, key);
        let merged = self.items(current, &patch, key, rule.inner)?;
        let order = order::marks(&merged[..merged.len().min(before)], key);
        let items = order::restore(merged, &patch, &stood, merge_key, kind)?;
        Ok(Merged { items, order })
    }

    /// Merges items into those with the same key, and appends the others.
    fn items(&self, mut list: Vec<Value>, patch: &[Value], key: &str, at: At<'s>) -> Result<Vec<Value>, PatchError> {
        for item in patch {
            let id = order::key_of(item, key)?;
            match order::find(&list, key, id)? {
                Some(found) => {
                    if let (Value::Object(current), Value::Object(patch)) = (list[found].take(), item) {
                        list[found] = Value::Object(self.map(current, patch.clone(), at)?);
                    }
                }
                None => list.push(item.clone()),
            }
        }
        Ok(list)
    }

    /// Merges and orders the lists whose order the patch names.
    fn ordered_lists(&self, object: &mut Object, patch: &mut Object, at: At<'s>) -> Result<(), PatchError> {
        let directives: Vec<Text> = patch.keys().filter(|k| k.starts_with(ORDER)).cloned().collect();
        for directive in directives {
            let Some(wanted) = patch.remove(&directive) else { continue };
            let Value::Array(wanted) = wanted else { return Err(order::bad_type("list", &wanted)) };
            let key = directive_target(&directive, ORDER)?;
            let list = |value: Option<&Value>| match value {
                None => Ok(None),
                Some(Value::Array(list)) => Ok(Some(list.clone())),
                Some(other) => Err(order::bad_type("list", other)),
            };
            let (current, patched) = (list(object.get(&key))?, list(patch.get(&key))?);
            let rule = self.rule(at, &key)?;
            let merge_key = rule.strategy.key.as_deref();
            order::check(patched.as_deref().unwrap_or_default(), &wanted, merge_key)?;
            let kinds = [current.as_deref().unwrap_or_default(), patched.as_deref().unwrap_or_default()];
            let merged = match (&current, &patched) {
                (None, None) => continue,
                (Some(current), None) => Merged { items: current.clone(), order: current.clone() },
                (None, Some(patched)) => match without_directives(Value::Array(patched.clone())) {
                    Some(Value::Array(items)) => Merged { items, order: Vec::new() },
                    _ => continue,
                },
                (Some(current), Some(patched)) => self.list(current.clone(), patched.clone(), &rule, false)?,
            };
            let kind = order::kind_of(&kinds)?;
            let ordered = order::restore(merged.items, &wanted, &merged.order, merge_key, kind)?;
            object.insert(key.clone(), Value::Array(ordered));
            patch.remove(&key);
        }
        Ok(())
    }
}

/// Clears what `$retainKeys` does not name.
fn retain_keys(object: &mut Object, patch: &mut Object) -> Result<(), PatchError> {
    let bad = || PatchError::BadRequest("invalid patch format of retainKeys".into());
    let Some(keys) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(keys) = keys else { return Err(bad()) };
    let named = |key: &str| keys.iter().any(|k| k.as_str() == Some(key));
    for (key, value) in &*patch {
        if !value.is_null() && !key.starts_with(DELETE_FROM) && !key.starts_with(ORDER) && !named(key) {
            return Err(bad());
        }
    }
    object.retain(|key, _| named(key));
    Ok(())
}

/// `volumes` of `$setElementOrder/volumes`.
fn directive_target(key: &str, prefix: &str) -> Result<Text, PatchError> {
    match key.split_once('/') {
        Some((head, target)) if head == prefix => Ok(target.into()),
        _ => {
            let what = if prefix == ORDER { "setElementOrder list" } else { "primitive list" };
            Err(PatchError::BadRequest(format!("invalid patch format of {what}")))
        }
    }
}

/// Carries out `$patch` of list items. Answers what is left of the list, and the items to merge.
fn item_directives(mut list: Vec<Value>, patch: Vec<Value>, key: &str) -> Result<(Vec<Value>, Vec<Value>), PatchError> {
    let mut items = Vec::with_capacity(patch.len());
    let mut replace = false;
    for item in patch {
        let directive = match &item {
            Value::Object(map) => map.get(PATCH).map(|d| (d, map)),
            other => return Err(order::bad_type("map", other)),
        };
        match directive {
            None => items.push(item),
            Some((Value::String(directive), _)) if directive == "delete" => {
                let id = order::key_of(&item, key)?;
                while let Some(found) = order::find(&list, key, id)? {
                    list.remove(found);
                }
            }
            Some((Value::String(directive), _)) if directive == "replace" => replace = true,
            Some((Value::String(directive), _)) if directive == "merge" => {
                return Err(PatchError::Unmergeable("merging lists cannot yet be specified in the patch".into()));
            }
            Some((other, map)) => return Err(bad_directive(other, map)),
        }
    }
    Ok(if replace { (items, Vec::new()) } else { (list, items) })
}

fn bad_directive(directive: &Value, map: &Object) -> PatchError {
    let directive = directive.as_str().map_or_else(|| directive.to_string(), str::to_owned);
    PatchError::Unmergeable(format!("unknown patch type: {directive} in map: {}", order::go_map(map)))
}

/// Puts a value of the patch where nothing stands to merge it with.
fn insert(object: &mut Object, key: Text, mut value: Value) {
    drop_nulls(&mut value);
    match without_directives(value) {
        Some(value) => object.insert(key, value),
        None => object.remove(&key),
    };
}

/// The value without maps that carry a directive; `None` if it is one itself.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) if map.contains_key(PATCH) => None,
        Value::Object(map) => Some(Value::Object(map.into_iter().filter_map(|(k, v)| Some((k, without_directives(v)?))).collect())),
        Value::Array(list) => Some(Value::Array(list.into_iter().filter_map(without_directives).collect())),
        other => Some(other),
    }
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
