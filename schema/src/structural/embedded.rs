//! Objects inside objects (`x-kubernetes-embedded-resource`): their metadata has the type all metadata has
//! (apiextensions-apiserver `apiserver/schema/objectmeta`).

use coracle_tree::{Map, Text, Value};

use super::{node::Node, text};
use crate::{
    decode,
    field::{ErrorKind, FieldError, FieldErrors},
    name,
    types::SchemaRef,
};

/// What to do with metadata that has not the types of metadata.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// Refuse the object.
    Refuse,
    /// Leave out the members that are wrong: objects stored by servers that did not look.
    Drop,
}

/// Brings the metadata of embedded objects into its stored form. `metadata` is the type of it. Answers the paths of unknown members.
pub(crate) fn coerce(node: &Node, value: &mut Value, metadata: &SchemaRef, malformed: Malformed) -> Result<Vec<String>, FieldError> {
    let mut walk = Coerce { metadata, malformed, unknown: Vec::new() };
    walk.value(node, value, "")?;
    walk.unknown.sort();
    Ok(walk.unknown)
}

/// The same for one object whatever its schema says: how defaults inside of metadata are checked.
pub(super) fn coerce_object(value: &mut Value, metadata: &SchemaRef) -> Result<(), FieldError> {
    let mut walk = Coerce { metadata, malformed: Malformed::Refuse, unknown: Vec::new() };
    match value.as_object_mut() {
        Some(members) => walk.meta(members, ""),
        None => Ok(()),
    }
}

struct Coerce<'a> {
    metadata: &'a SchemaRef,
    malformed: Malformed,
    unknown: Vec<String>,
}

impl Coerce<'_> {
    fn value(&mut self, node: &Node, value: &mut Value, path: &str) -> Result<(), FieldError> {
        match value {
            Value::Object(members) => {
                if node.embedded {
                    self.meta(members, path)?;
                }
                for (name, value) in members {
                    match (node.property(name), node.additional.schema()) {
                        (Some(below), _) => self.value(below, value, &child(path, name))?,
                        (None, Some(below)) => self.value(below, value, &format!("{path}[{name}]"))?,
                        (None, None) => {}
                    }
                }
            }
            Value::Array(items) => {
                let Some(below) = &node.items else { return Ok(()) };
                for (at, item) in items.iter_mut().enumerate() {
                    self.value(below, item, &format!("{path}[{at}]"))?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn meta(&mut self, members: &mut Map, path: &str) -> Result<(), FieldError> {
        for name in ["apiVersion", "kind"] {
            let Some(value) = members.get(name).filter(|v| !v.is_string()) else { continue };
            if self.malformed == Malformed::Refuse {
                return Err(invalid(&child(path, name), value, "must be a string"));
            }
            members.remove(name);
        }
        let Some(given) = members.get_mut("metadata") else { return Ok(()) };
        match metadata(given, self.metadata, self.malformed) {
            Ok(found) => {
                *given = found.value;
                let prefix = child(path, "metadata");
                self.unknown.extend(found.unknown.into_iter().map(|name| format!("{prefix}.{name}")));
                Ok(())
            }
            Err(_) if self.malformed == Malformed::Drop => Ok(()),
            Err(why) => Err(invalid(&child(path, "metadata"), given, &why)),
        }
    }
}

/// Metadata in its stored form.
pub(crate) struct Metadata {
    /// The members.
    pub(crate) value: Value,
    /// Paths in it of members that metadata has not.
    pub(crate) unknown: Vec<String>,
}

/// Decodes metadata. Fails with the decoder's words.
pub(crate) fn metadata(given: &Value, schema: &SchemaRef, malformed: Malformed) -> Result<Metadata, String> {
    let decoded = |value: Value| {
        let decoded = decode::from_value(value, schema, decode::FieldValidation::Warn).map_err(|e| e.to_string())?;
        let path = |report: String| report.split_once('"').map(|(_, path)| path.trim_end_matches('"').to_owned()).unwrap_or_default();
        Ok(Metadata { value: decoded.value, unknown: decoded.reports.into_iter().map(path).collect() })
    };
    let whole = decoded(if given.is_null() { Value::Object(Map::new()) } else { given.clone() });
    match (whole, given) {
        (Err(_), Value::Object(members)) if malformed == Malformed::Drop => {
            let fits = |name: &Text, value: &Value| decoded(Value::Object(Map::from_iter([(name.clone(), value.clone())]))).is_ok();
            decoded(Value::Object(members.iter().filter(|(name, value)| fits(name, value)).map(|(n, v)| (n.clone(), v.clone())).collect()))
        }
        (whole, _) => whole,
    }
}

/// Checks embedded objects; `root` says that the value itself is one.
pub(super) fn check(node: &Node, value: &Value, path: &str, root: bool, errors: &mut FieldErrors) {
    match value {
        Value::Object(members) => {
            if node.embedded || root {
                object(members, path, errors);
            }
            for (name, value) in members {
                match (node.property(name), node.additional.schema()) {
                    (Some(below), _) => check(below, value, &child(path, name), false, errors),
                    (None, Some(below)) => check(below, value, &format!("{path}[{name}]"), false, errors),
                    (None, None) => {}
                }
            }
        }
        Value::Array(items) => {
            let Some(below) = &node.items else { return };
            for (at, item) in items.iter().enumerate() {
                check(below, item, &format!("{path}[{at}]"), false, errors);
            }
        }
        _ => {}
    }
}

fn object(members: &Map, path: &str, errors: &mut FieldErrors) {
    for name in ["apiVersion", "kind"] {
        let path = child(path, name);
        match members.get(name) {
            None => errors.required(path, ""),
            Some(Value::String(text)) if text.is_empty() => errors.invalid(path, "\"\"", "must not be empty"),
            Some(Value::String(version)) if name == "apiVersion" => {
                if version.matches('/').count() > 1 {
                    errors.invalid(path, text::quoted(version), &format!("unexpected GroupVersion string: {version}"));
                }
            }
            Some(Value::String(kind)) => {
                let wrong = name::label_1035(&kind.to_lowercase());
                if !wrong.is_empty() {
                    let detail = format!("may have mixed case, but should otherwise match: {}", wrong.join(","));
                    errors.invalid(path, text::quoted(kind), &detail);
                }
            }
            Some(other) => errors.invalid(path, text::shown(other), "must be a string"),
        }
    }
    if let Some(metadata) = members.get("metadata").and_then(Value::as_object) {
        check_metadata(metadata, &child(path, "metadata"), errors);
    }
}

/// Metadata as any kind's objects may have it: names are path segments.
fn check_metadata(metadata: &Map, path: &str, errors: &mut FieldErrors) {
    let text_of = |name: &str| metadata.get(name).and_then(Value::as_str).unwrap_or_default();
    for name in ["generateName", "name"] {
        if !text_of(name).is_empty() {
            errors.invalid_each(&format!("{path}.{name}"), text_of(name), name::path_segment(text_of(name)));
        }
    }
    if !text_of("namespace").is_empty() {
        errors.invalid_each(&format!("{path}.namespace"), text_of("namespace"), name::label(text_of("namespace")));
    }
    for (key, value) in metadata.get("labels").and_then(Value::as_object).into_iter().flatten() {
        let path = format!("{path}.labels");
        errors.invalid_each(&path, key, name::qualified(key));
        let value = value.as_str().unwrap_or_default();
        errors.invalid_each(&path, value, name::label_value(value));
    }
    for key in metadata.get("annotations").and_then(Value::as_object).into_iter().flatten().map(|(key, _)| key) {
        errors.invalid_each(&format!("{path}.annotations"), key, name::qualified(&key.to_lowercase()));
    }
    for finalizer in metadata.get("finalizers").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        errors.invalid_each(&format!("{path}.finalizers"), finalizer, name::qualified(finalizer));
    }
    for (at, owner) in metadata.get("ownerReferences").and_then(Value::as_array).into_iter().flatten().enumerate() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if owner.get(field).and_then(Value::as_str).unwrap_or_default().is_empty() {
                errors.required(format!("{path}.ownerReferences[{at}].{field}"), "must not be empty");
            }
        }
    }
}

fn child(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn invalid(path: &str, value: &Value, detail: &str) -> FieldError {
    let path = if path.is_empty() { "<nil>" } else { path };
    FieldError { kind: ErrorKind::Invalid, path: path.to_owned(), message: format!("Invalid value: {}: {detail}", text::shown(value)) }
}
