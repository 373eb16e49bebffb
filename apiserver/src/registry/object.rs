//! An object of any kind: parsed JSON with easy access to its metadata.

use std::sync::OnceLock;

use bytes::Bytes;
use coracle_tree::{Map, Value};

/// A parsed object. The root is always a JSON object; accessors of absent metadata give the empty value.
#[derive(Clone, Debug)]
pub struct Object {
    value: Value,
    /// Its stored form, if somebody needed that before it was stored; gone with any change.
    stored: OnceLock<Bytes>,
}

impl PartialEq for Object {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl Object {
    /// Wraps a JSON value; `None` when it is not a JSON object.
    pub fn new(value: Value) -> Option<Self> {
        value.is_object().then(|| Self { value, stored: OnceLock::new() })
    }

    /// The whole value.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// The whole value, to change. It must stay a JSON object.
    pub fn value_mut(&mut self) -> &mut Value {
        self.stored.take();
        &mut self.value
    }

    /// Changes the whole value, which must stay a JSON object, where it must; `change` tells whether it did.
    pub fn adjust(&mut self, change: impl FnOnce(&mut Value) -> bool) {
        if change(&mut self.value) {
            self.stored.take();
        }
    }

    /// Its stored form, if that was made of it as it is.
    pub(super) fn stored(&self) -> Option<&Bytes> {
        self.stored.get()
    }

    /// This is its stored form.
    pub(super) fn keep_stored(&self, bytes: Bytes) {
        // Whoever was first made the same.
        let _ = self.stored.set(bytes);
    }

    /// Unwraps.
    pub fn into_value(self) -> Value {
        self.value
    }

    /// What is at a JSON pointer of plain member names.
    pub fn at(&self, pointer: &str) -> Option<&Value> {
        self.value.pointer(pointer)
    }

    /// A text at a JSON pointer of plain member names; empty when absent or not text.
    pub fn text(&self, pointer: &str) -> &str {
        self.at(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    /// `metadata.name`
    pub fn name(&self) -> &str {
        self.text("/metadata/name")
    }

    /// `metadata.namespace`
    pub fn namespace(&self) -> &str {
        self.text("/metadata/namespace")
    }

    /// `metadata.uid`
    pub fn uid(&self) -> &str {
        self.text("/metadata/uid")
    }

    /// `metadata.resourceVersion`
    pub fn resource_version(&self) -> &str {
        self.text("/metadata/resourceVersion")
    }

    /// `metadata.generation`, 0 when absent.
    pub fn generation(&self) -> i64 {
        self.at("/metadata/generation").and_then(Value::as_i64).unwrap_or_default()
    }

    /// Whether deletion has begun.
    pub fn is_deleting(&self) -> bool {
        !self.text("/metadata/deletionTimestamp").is_empty()
    }

    /// `metadata.finalizers`
    pub fn finalizers(&self) -> Vec<&str> {
        let list = self.at("/metadata/finalizers").and_then(Value::as_array);
        list.map(|l| l.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
    }

    /// `metadata.labels[key]`
    pub fn label(&self, key: &str) -> Option<&str> {
        self.value.get("metadata")?.get("labels")?.get(key)?.as_str()
    }

    /// `metadata.annotations[key]`
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.value.get("metadata")?.get("annotations")?.get(key)?.as_str()
    }

    /// The metadata map, made when absent.
    pub fn metadata_mut(&mut self) -> &mut Map {
        member_mut(self.value_mut(), "metadata")
    }

    /// Sets a member of metadata.
    pub fn set_metadata(&mut self, name: &str, value: impl Into<Value>) {
        self.metadata_mut().insert(name, value.into());
    }

    /// A top-level member, made an empty object when absent (`spec`, `status`).
    pub fn member_mut(&mut self, name: &str) -> &mut Map {
        member_mut(self.value_mut(), name)
    }
}

/// The object member `name` of `parent`, made when absent or not an object.
fn member_mut<'a>(parent: &'a mut Value, name: &str) -> &'a mut Map {
    if !parent.is_object() {
        *parent = Value::Object(Map::new());
    }
    let Value::Object(map) = parent else { unreachable!("made an object above") };
    let slot = map.entry(name).or_insert_with(|| Value::Object(Map::new()));
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    let Value::Object(member) = slot else { unreachable!("made an object above") };
    member
}
