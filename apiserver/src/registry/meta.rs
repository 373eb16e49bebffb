//! System metadata: what the server sets on every object, whatever its kind, and what it lets writers put there.
//!
//! Rules and texts: apiserver `registry/rest/{create,update,delete}.go`, apimachinery `api/validation/objectmeta.go`.

use coracle_schema::{ErrorKind, FieldErrors, go::quoted, time};
use coracle_tree::{Map, Text, Value};
use jiff::Timestamp;

use super::{
    kind::{Generation, Kind, NameRule, Scope},
    names,
    object::Object,
};
use crate::wire::Status;

/// The finalizer that lets dependents go first.
pub const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer that sets dependents free.
pub const ORPHAN: &str = "orphan";

/// Letters of generated names: no vowels, so that no words appear (apimachinery `util/rand`).
const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LENGTH: usize = 5;
const NAME_LIMIT: usize = 63;
const ANNOTATIONS_LIMIT: usize = 256 * 1024;

/// RFC 3339 in seconds, as `metav1.Time` is written.
pub fn time_text(now: Timestamp) -> String {
    time::seconds(now)
}

/// `prefix` and five random letters; the prefix is cut so that the name fits a label.
pub fn generate_name(prefix: &str) -> String {
    let mut end = prefix.len().min(NAME_LIMIT - SUFFIX_LENGTH);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    let mut name = prefix[..end].to_owned();
    let random = uuid::Uuid::new_v4();
    name.extend(random.as_bytes().iter().take(SUFFIX_LENGTH).map(|b| char::from(LETTERS[usize::from(*b) % LETTERS.len()])));
    name
}

/// Makes the object's namespace agree with the request's. An empty one in the object is filled in.
pub fn match_namespace(object: &mut Object, namespace: &str) -> Result<(), Status> {
    if object.namespace().is_empty() {
        object.set_metadata("namespace", namespace);
    } else if object.namespace() != namespace {
        return Err(Status::bad_request("the namespace of the provided object does not match the namespace sent on the request"));
    }
    Ok(())
}

/// Makes the object's name and namespace agree with the request's. An empty one in the object is filled in.
pub fn match_request(object: &mut Object, kind: &Kind, namespace: &str, name: &str) -> Result<(), Status> {
    if kind.scope == Scope::Namespaced {
        match_namespace(object, namespace)?;
    } else {
        object.metadata_mut().remove("namespace");
    }
    if !name.is_empty() {
        if object.name().is_empty() {
            object.set_metadata("name", name);
        }
        match_name(object, name)?;
    }
    Ok(())
}

/// Refuses an object of another name than that of the request.
pub fn match_name(object: &Object, name: &str) -> Result<(), Status> {
    if object.name() == name {
        return Ok(());
    }
    let text = format!("the name of the object ({}) does not match the name on the URL ({name})", object.name());
    Err(Status::bad_request(text))
}

/// Clears what only the server sets, of an object about to be created (`WipeObjectMetaSystemFields`).
pub fn wipe(object: &mut Object) {
    let meta = object.metadata_mut();
    for field in ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"] {
        meta.remove(field);
    }
}

/// Drops owner references that are there before already; the uids of those that were (`dedupOwnerReferences`).
pub fn drop_doubled_owners(object: &mut Object) -> Vec<String> {
    let Some(owners) = object.at("/metadata/ownerReferences").and_then(Value::as_array).filter(|owners| owners.len() > 1) else {
        return Vec::new();
    };
    let (mut kept, mut doubled): (Vec<Value>, Vec<String>) = (Vec::new(), Vec::new());
    for owner in owners {
        if kept.contains(owner) {
            doubled.push(owner.get("uid").and_then(Value::as_str).unwrap_or_default().to_owned());
        } else {
            kept.push(owner.clone());
        }
    }
    if !doubled.is_empty() {
        object.set_metadata("ownerReferences", kept);
    }
    doubled
}

/// Sets uid, creation time, generation and, from `generateName`, the name; clears what only the server sets.
pub fn fill_new(object: &mut Object, kind: &Kind, now: Timestamp) {
    let generated = object.text("/metadata/generateName").to_owned();
    let meta = object.metadata_mut();
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion"] {
        meta.remove(field);
    }
    meta.insert("uid", uuid::Uuid::new_v4().to_string().into());
    meta.insert("creationTimestamp", time_text(now).into());
    if !matches!(kind.generation, Generation::None | Generation::FromChange) {
        meta.insert("generation", 1.into());
    }
    if object.name().is_empty() && !generated.is_empty() {
        // No letters make an address of what is none.
        let keeps = kind.naming == NameRule::Address;
        object.set_metadata("name", if keeps { generated } else { generate_name(&generated) });
    }
}

/// Carries over from `old` what a writer may leave out and may not change.
pub fn carry_over(new: &mut Object, old: &Object) {
    let before = old.value().get("metadata").and_then(Value::as_object);
    let meta = new.metadata_mut();
    meta.remove("selfLink");
    let Some(before) = before else { return };
    for field in ["uid", "name", "namespace"] {
        if meta.get(field).is_none_or(|v| v.is_null() || v == "")
            && let Some(value) = before.get(field)
        {
            meta.insert(field, value.clone());
        }
    }
    // Times and generation are the server's; what the writer sent is of no account.
    for field in ["creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"] {
        copy_or_remove(meta, before, field);
    }
}

/// Takes all metadata but resource version and managed fields from `old`: writes of a status change nothing else.
pub fn keep_metadata(new: &mut Object, old: &Object) {
    let sent = new.value_mut().get_mut("metadata").and_then(|m| m.as_object_mut()).map(std::mem::take).unwrap_or_default();
    let mut meta = old.value().get("metadata").and_then(Value::as_object).cloned().unwrap_or_default();
    for field in ["resourceVersion", "managedFields"] {
        copy_or_remove(&mut meta, &sent, field);
    }
    new.value_mut()["metadata"] = Value::Object(meta);
}

fn copy_or_remove(to: &mut Map, from: &Map, field: &str) {
    match from.get(field) {
        Some(value) => to.insert(field, value.clone()),
        None => to.remove(field),
    };
}

/// Moves `generation` when the kind says so.
pub fn advance_generation(new: &mut Object, old: &Object, kind: &Kind) {
    let moved = match kind.generation {
        Generation::None | Generation::Fixed => return,
        Generation::Spec | Generation::FromChange => body_differs(new, old),
        Generation::Body => whole_differs(new, old),
        Generation::SpecAndLabels => {
            body_differs(new, old) || new.value().pointer("/metadata/labels") != old.value().pointer("/metadata/labels")
        }
        Generation::SpecAndAnnotations => {
            body_differs(new, old) || new.value().pointer("/metadata/annotations") != old.value().pointer("/metadata/annotations")
        }
    };
    if moved {
        new.set_metadata("generation", old.generation() + 1);
    }
}

/// Whether anything outside metadata differs.
fn whole_differs(new: &Object, old: &Object) -> bool {
    let body = |o: &Object| o.value().as_object().into_iter().flatten().filter(|(name, _)| *name != "metadata").count();
    let same = |(name, value): (&Text, &Value)| name == "metadata" || old.value().get(name) == Some(value);
    body(new) != body(old) || !new.value().as_object().into_iter().flatten().all(same)
}

/// Whether anything outside metadata and status differs.
fn body_differs(new: &Object, old: &Object) -> bool {
    let body = |o: &Object| {
        let members = o.value().as_object().into_iter().flatten();
        members.filter(|(k, v)| !matches!(k.as_str(), "metadata" | "status" | "apiVersion" | "kind") && !v.is_null()).count()
    };
    let same =
        |k: &str, v: &Value| matches!(k, "metadata" | "status" | "apiVersion" | "kind") || old.value().get(k) == Some(v) || v.is_null();
    body(new) != body(old) || !new.value().as_object().into_iter().flatten().all(|(k, v)| same(k, v))
}

/// Marks an object as being deleted: time when it is to be gone, grace, and generation as upstream's `BeforeDelete` moves it.
pub fn mark_deleted(object: &mut Object, now: Timestamp, grace_seconds: i64) {
    let at = now.saturating_add(jiff::SignedDuration::from_secs(grace_seconds)).unwrap_or(now);
    let generation = object.generation();
    object.set_metadata("deletionTimestamp", time_text(at));
    object.set_metadata("deletionGracePeriodSeconds", grace_seconds);
    if generation > 0 {
        object.set_metadata("generation", generation + 1);
    }
}

/// Replaces the finalizers.
pub fn set_finalizers(object: &mut Object, finalizers: &[String]) {
    if finalizers.is_empty() {
        object.metadata_mut().remove("finalizers");
    } else {
        object.set_metadata("finalizers", finalizers.to_vec());
    }
}

/// Checks the metadata of an object about to be created or written.
pub fn validate(object: &Object, old: Option<&Object>, kind: &Kind) -> FieldErrors {
    let mut errors = FieldErrors::none();
    let faults = |name: &str, prefix: bool| {
        kind.rules.name_faults(object, old, name, prefix).unwrap_or_else(|| names::object_name(kind.naming, name, prefix))
    };
    let generated = object.text("/metadata/generateName");
    if !generated.is_empty() {
        errors.invalid_each("metadata.generateName", generated, faults(generated, true));
    }
    if object.name().is_empty() {
        errors.required("metadata.name", "name or generateName is required");
    } else {
        errors.invalid_each("metadata.name", object.name(), faults(object.name(), false));
    }
    match (kind.scope, object.namespace()) {
        (Scope::Namespaced, "") => errors.required("metadata.namespace", ""),
        (Scope::Namespaced, namespace) => {
            for why in names::label(namespace) {
                errors.invalid("metadata.namespace", quoted(namespace), &why);
            }
        }
        (Scope::Cluster, "") => {}
        (Scope::Cluster, _) => errors.forbidden("metadata.namespace", "not allowed on this type"),
    }
    if object.generation() < 0 {
        errors.invalid("metadata.generation", object.generation(), "must be greater than or equal to 0");
    }
    labels(object, &mut errors);
    annotations(object, &mut errors);
    owners(object, &mut errors);
    finalizers(object, kind, &mut errors);
    errors
}

/// Checks an update: what may never change, and no new finalizers on an object on its way out.
pub fn validate_update(new: &Object, old: &Object) -> FieldErrors {
    let mut errors = FieldErrors::none();
    for field in ["name", "namespace", "uid", "creationTimestamp"] {
        let pointer = format!("/metadata/{field}");
        if new.text(&pointer) != old.text(&pointer) {
            errors.invalid(format!("metadata.{field}"), quoted(new.text(&pointer)), "field is immutable");
        }
    }
    if old.is_deleting() {
        let before = old.finalizers();
        let added: Vec<String> = new.finalizers().into_iter().filter(|f| !before.contains(f)).map(quoted).collect();
        if !added.is_empty() {
            let found = added.join(", ");
            let text = format!("no new finalizers can be added if the object is being deleted, found new finalizers []string{{{found}}}");
            errors.forbidden("metadata.finalizers", &text);
        }
    }
    errors
}

fn labels(object: &Object, errors: &mut FieldErrors) {
    for (key, value) in members(object, "labels") {
        for why in names::qualified_name(key) {
            errors.invalid("metadata.labels", quoted(key), &why);
        }
        let value = value.as_str().unwrap_or_default();
        for why in names::label_value(value) {
            errors.invalid("metadata.labels", quoted(value), &why);
        }
    }
}

fn annotations(object: &Object, errors: &mut FieldErrors) {
    let mut size = 0;
    for (key, value) in members(object, "annotations") {
        for why in names::qualified_name(&key.to_lowercase()) {
            errors.invalid("metadata.annotations", quoted(key), &why);
        }
        size += key.len() + value.as_str().unwrap_or_default().len();
    }
    if size > ANNOTATIONS_LIMIT {
        errors.push(ErrorKind::TooLong, "metadata.annotations", format!("Too long: may not be more than {ANNOTATIONS_LIMIT} bytes"));
    }
}

fn owners(object: &Object, errors: &mut FieldErrors) {
    let list = object.value().pointer("/metadata/ownerReferences").and_then(Value::as_array);
    let mut controller: Option<String> = None;
    for (i, owner) in list.into_iter().flatten().enumerate() {
        let path = format!("metadata.ownerReferences[{i}]");
        let text = |field: &str| owner[field].as_str().unwrap_or_default();
        let version = text("apiVersion");
        if version.is_empty() {
            errors.required(format!("{path}.apiVersion"), "must not be empty");
        } else if version.rsplit('/').next().unwrap_or_default().is_empty() || version.matches('/').count() > 1 {
            errors.invalid(format!("{path}.apiVersion"), quoted(version), "must be <group>/<version> or <version>");
        }
        for field in ["kind", "name", "uid"] {
            if text(field).is_empty() {
                errors.required(format!("{path}.{field}"), "must not be empty");
            }
        }
        if owner["controller"] == Value::Bool(true) {
            let this = format!("{}/{}", text("kind"), text("name"));
            if let Some(first) = &controller {
                let why =
                    format!("Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}");
                errors.invalid("metadata.ownerReferences", list.map(|l| Value::Array(l.clone())).unwrap_or_default(), &why);
            } else {
                controller = Some(this);
            }
        }
    }
}

fn finalizers(object: &Object, kind: &Kind, errors: &mut FieldErrors) {
    const STANDARD: [&str; 3] = [ORPHAN, FOREGROUND, "kubernetes"];
    let all = object.finalizers();
    for name in &all {
        errors.invalid_each("metadata.finalizers", name, names::qualified_name(name));
    }
    if all.contains(&ORPHAN) && all.contains(&FOREGROUND) {
        let value = serde_json::to_string(&all).unwrap_or_default();
        errors.invalid("metadata.finalizers", value, "finalizer orphan and foregroundDeletion cannot be both set");
    }
    for (i, name) in all.iter().enumerate() {
        if !by_machinery(kind) && !name.contains('/') && !STANDARD.contains(name) {
            errors.invalid(
                format!("metadata.finalizers[{i}]"),
                quoted(name),
                "name is neither a standard finalizer name nor is it fully qualified",
            );
        }
    }
}

/// Kinds whose metadata the machinery checks alone, which knows no standard names of finalizers.
fn by_machinery(kind: &Kind) -> bool {
    const RESOURCES: [&str; 3] = ["poddisruptionbudgets", "runtimeclasses", "leases"];
    const GROUPS: [&str; 3] = ["apiextensions.k8s.io", "apiregistration.k8s.io", "admissionregistration.k8s.io"];
    let (group, resource) = (&*kind.gvk.group, &*kind.id.resource);
    kind.is_custom() || GROUPS.contains(&group) || RESOURCES.contains(&resource) || (group, resource) == ("", "events")
}

fn members<'a>(object: &'a Object, name: &str) -> impl Iterator<Item = (&'a Text, &'a Value)> {
    object.value().get("metadata").and_then(|m| m.get(name)).and_then(Value::as_object).into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    fn object(meta: &Value) -> Object {
        Object::new(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta})).unwrap()
    }

    #[test]
    fn generated_names_fit_a_label_and_use_the_safe_letters() {
        let name = generate_name(&"x".repeat(80));
        assert_eq!(name.len(), 63);
        assert!(name[58..].bytes().all(|b| LETTERS.contains(&b)), "{name}");
        assert_ne!(generate_name("a-"), generate_name("a-"));
    }

    #[test]
    fn what_may_never_change_is_refused_and_what_was_left_out_is_filled() {
        let old = object(
            &json!({"name": "a", "namespace": "d", "uid": "u", "creationTimestamp": "t", "deletionTimestamp": "x", "finalizers": ["a/b"]}),
        );
        let mut new = object(&json!({"name": "a", "finalizers": ["a/b", "c/d"]}));
        carry_over(&mut new, &old);
        assert_eq!((new.uid(), new.namespace(), new.is_deleting()), ("u", "d", true));
        let errors = validate_update(&new, &old);
        assert_eq!(errors.0.len(), 1);
        assert!(errors.0[0].to_string().contains("found new finalizers []string{\"c/d\"}"), "{:?}", errors.0);
        new.set_metadata("uid", "v");
        assert_eq!(validate_update(&new, &old).0[0].to_string(), "metadata.uid: Invalid value: \"v\": field is immutable");
    }

    #[test]
    fn times_are_written_in_seconds() {
        assert_eq!(time_text(Timestamp::from_second(1_700_000_000).unwrap()), "2023-11-14T22:13:20Z");
    }
}
