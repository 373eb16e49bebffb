//! What plugins read of other objects, and how they refuse.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Attempt;
use crate::{
    registry::{Object, Reader, object},
    wire::{Status, status::Subject},
};

/// One object, decoded; `None` when it is not there. `namespace` is empty for cluster kinds.
pub(super) async fn one<T: DeserializeOwned>(
    reader: &dyn Reader,
    group: &str,
    resource: &str,
    namespace: &str,
    name: &str,
) -> Result<Option<T>, Status> {
    let found = reader.get(group, resource, namespace, name).await?;
    found.map(|bytes| serde_json::from_slice(&bytes).map_err(|e| unreadable(resource, name, &e))).transpose()
}

/// All objects of a namespace, or of all when it is empty, decoded.
pub(super) async fn all<T: DeserializeOwned>(reader: &dyn Reader, group: &str, resource: &str, namespace: &str) -> Result<Vec<T>, Status> {
    read_all(resource, &reader.list(group, resource, namespace).await?)
}

/// Objects as they are listed, as far as a plugin looks at them.
pub(crate) fn read_all<T: DeserializeOwned>(resource: &str, found: &[Bytes]) -> Result<Vec<T>, Status> {
    found.iter().map(|bytes| serde_json::from_slice(bytes).map_err(|e| unreadable(resource, "", &e))).collect()
}

fn unreadable(resource: &str, name: &str, error: &serde_json::Error) -> Status {
    Status::internal(format!("{resource} {name:?} cannot be read: {error}"))
}

/// The 403 of a plugin, about the object of the attempt (`admission.NewForbidden`).
pub(crate) fn forbidden(attempt: &Attempt<'_>, new: Option<&Object>, why: &str) -> Status {
    let request = attempt.request;
    let name = match (request.name.as_str(), new) {
        ("", Some(object)) if !object.name().is_empty() => object.name(),
        ("", Some(object)) if !object.text("/metadata/generateName").is_empty() => object.text("/metadata/generateName"),
        ("", _) => "Unknown",
        (name, _) => name,
    };
    Status::forbidden(Subject { group: &request.group, resource: &request.resource, name }, why)
}

/// Whether the attempt is on the main resource `group/resource`.
pub(crate) fn is(attempt: &Attempt<'_>, group: &str, resource: &str) -> bool {
    let request = attempt.request;
    request.subresource.is_empty() && request.resource == resource && request.group == group
}

/// The list at a JSON pointer; empty when absent.
pub(crate) fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    object::at(value, pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The list member `name` of an object, made when absent; `None` only when `parent` is no object.
pub(crate) fn list_mut<'a>(parent: &'a mut Value, name: &str) -> Option<&'a mut Vec<Value>> {
    let slot = parent.as_object_mut()?.entry(name).or_insert_with(|| Value::Array(Vec::new()));
    if slot.is_null() {
        *slot = Value::Array(Vec::new());
    }
    slot.as_array_mut()
}

/// The text member of a value; empty when absent.
pub(crate) fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// Every container list of a pod spec that mutating plugins fill.
pub(super) const CONTAINERS: [&str; 2] = ["initContainers", "containers"];
