//! What plugins read of other objects, and how they refuse.

use coracle_tree::Value;

use super::Attempt;
pub(crate) use crate::registry::reader::{all, one, read_all};
use crate::{
    registry::Object,
    wire::{Status, status::Subject},
};

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

/// The 403 of a plugin that does not know yet what there is.
pub(super) fn unready(attempt: &Attempt<'_>, new: Option<&Object>) -> Status {
    forbidden(attempt, new, "not yet ready to handle request")
}

/// Whether the attempt is on the main resource `group/resource`.
pub(crate) fn is(attempt: &Attempt<'_>, group: &str, resource: &str) -> bool {
    let request = attempt.request;
    request.subresource.is_empty() && request.resource == resource && request.group == group
}

/// The list at a JSON pointer; empty when absent.
pub(crate) fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The labels of an object.
pub(crate) fn labels(value: &Value) -> Option<&Value> {
    value.pointer("/metadata/labels")
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
