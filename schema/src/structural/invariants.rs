//! What makes a schema structural (apiextensions-apiserver `apiserver/schema/validation.go`): every place has a type of its own, and value
//! validations below `allOf`, `anyOf`, `oneOf` and `not` only restrict what stands outside of them.

use super::{
    completeness,
    props::{OrBool, Props},
    text,
};
use crate::field::{ErrorKind, FieldErrors};

/// Everything that keeps the schema at `path` from being structural, in order of the texts.
pub(super) fn check(schema: Props<'_>, path: &str) -> FieldErrors {
    let mut errors = FieldErrors::none();
    place(schema, Level::Root, path, &mut errors);
    completeness::check(schema, path, &mut errors);
    errors.0.sort_by_cached_key(ToString::to_string);
    errors
}

/// Which kind of place a schema describes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

pub(super) fn child(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

pub(super) fn property(path: &str, name: &str) -> String {
    format!("{}[{name}]", child(path, "properties"))
}

fn place(of: Props<'_>, level: Level, path: &str, errors: &mut FieldErrors) {
    if of.text("type") == "array" && of.items().is_none() {
        errors.required(child(path, "items"), "must be specified");
    }
    if let Some(items) = of.items() {
        place(items, Level::Item, &child(path, "items"), errors);
    }
    for (name, schema) in of.named("properties") {
        place(schema, Level::Field, &property(path, name), errors);
    }
    if let Some(additional) = of.additional() {
        let at = child(path, "additionalProperties");
        if level == Level::Root {
            errors.forbidden(&at, "must not be used at the root");
        }
        if let OrBool::Schema(schema) = additional {
            place(schema, Level::Field, &at, errors);
        }
    }
    for (name, set) in [("x-kubernetes-preserve-unknown-fields", of.preserves()), ("x-kubernetes-embedded-resource", of.embedded())] {
        if of.int_or_string() && set {
            errors.invalid(child(path, name), true, "must be false if x-kubernetes-int-or-string is true");
        }
    }
    let skip_first = of.schemas("allOf").next().is_some_and(|first| is_int_or_string(first));
    junctors(of, is_int_or_string(of), skip_first, path, errors);
    kinds(of, level, path, errors);
    metadata(of, level, path, errors);
}

fn kinds(of: Props<'_>, level: Level, path: &str, errors: &mut FieldErrors) {
    let kind = of.text("type");
    let at = child(path, "type");
    let quoted = text::quoted(kind);
    if of.embedded() && kind != "object" {
        let detail = "must be object if x-kubernetes-embedded-resource is true";
        if kind.is_empty() { errors.required(&at, detail) } else { errors.invalid(&at, &quoted, detail) }
    } else if kind.is_empty() && !of.int_or_string() && !of.preserves() {
        let detail = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        errors.required(&at, detail);
    }
    if of.embedded() && of.additional().is_some() {
        errors.forbidden(child(path, "additionalProperties"), "must not be used if x-kubernetes-embedded-resource is set");
    }
    if level == Level::Root && !kind.is_empty() && kind != "object" {
        errors.invalid(at, quoted, "must be object at the root");
    }
}

/// `kind`, `apiVersion` and `metadata` of an object.
fn metadata(of: Props<'_>, level: Level, path: &str, errors: &mut FieldErrors) {
    let is_object = level == Level::Root || of.embedded();
    for name in ["kind", "apiVersion"] {
        if let Some(schema) = of.property(name).filter(|schema| is_object && schema.text("type") != "string") {
            errors.invalid(child(&property(path, name), "type"), text::quoted(schema.text("type")), "must be string");
        }
    }
    if let Some(schema) = of.property("metadata") {
        let at = property(path, "metadata");
        if is_object && schema.text("type") != "object" {
            errors.invalid(child(&at, "type"), text::quoted(schema.text("type")), "must be object");
        }
        if level == Level::Root && !only_names(schema) {
            let detail = "must not specify anything other than name and generateName, but metadata is implicitly specified";
            errors.forbidden(at, detail);
        }
    }
    if of.embedded() && !of.preserves() && !of.has_any("properties") {
        let detail = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        errors.required(child(path, "properties"), detail);
    }
}

/// Whether a schema of metadata says something of names only.
fn only_names(schema: Props<'_>) -> bool {
    schema.named("properties").all(|(name, _)| matches!(name, "name" | "generateName"))
        && schema.members().iter().all(|(name, value)| match name.as_str() {
            "type" | "default" | "properties" => true,
            _ => value.is_null() || value == false || value.as_str() == Some(""),
        })
}

/// `anyOf: [{type: integer}, {type: string}]`
fn is_int_or_string(of: Props<'_>) -> bool {
    let only = |schema: Props<'_>, kind: &str| schema.text("type") == kind && schema.members().len() == 1;
    let mut any_of = of.schemas("anyOf");
    of.list("anyOf").len() == 2 && any_of.next().is_some_and(|s| only(s, "integer")) && any_of.next().is_some_and(|s| only(s, "string"))
}

fn junctors(of: Props<'_>, skip_any_of: bool, skip_first_all_of: bool, path: &str, errors: &mut FieldErrors) {
    if !skip_any_of {
        for (at, schema) in of.schemas("anyOf").enumerate() {
            nested(schema, false, &format!("{}[{at}]", child(path, "anyOf")), errors);
        }
    }
    for (at, schema) in of.schemas("allOf").enumerate() {
        nested(schema, skip_first_all_of && at == 0, &format!("{}[{at}]", child(path, "allOf")), errors);
    }
    for (at, schema) in of.schemas("oneOf").enumerate() {
        nested(schema, false, &format!("{}[{at}]", child(path, "oneOf")), errors);
    }
    if let Some(schema) = of.schema("not") {
        nested(schema, false, &child(path, "not"), errors);
    }
    let pattern = of.text("pattern");
    if let Err(why) = crate::pattern::check(pattern) {
        let detail = format!("must be a valid regular expression, but isn't: {why}");
        errors.push(ErrorKind::Invalid, child(path, "pattern"), format!("Invalid value: {}: {detail}", text::quoted(pattern)));
    }
}

/// A value validation under `allOf`, `anyOf`, `oneOf` or `not`: nothing there may have a form of its own.
fn nested(of: Props<'_>, skip_any_of: bool, path: &str, errors: &mut FieldErrors) {
    junctors(of, skip_any_of, false, path, errors);
    if let Some(items) = of.items() {
        nested(items, false, &child(path, "items"), errors);
    }
    for (name, schema) in of.named("properties") {
        nested(schema, false, &property(path, name), errors);
    }
    if !of.text("type").is_empty() {
        errors.forbidden(child(path, "type"), "must be empty to be structural");
    }
    if of.additional().is_some_and(|additional| !matches!(additional, OrBool::Bool(false))) {
        errors.forbidden(child(path, "additionalProperties"), "must be undefined to be structural");
    }
    if of.get("default").is_some() {
        errors.forbidden(child(path, "default"), "must be undefined to be structural");
    }
    for name in ["title", "description"] {
        if !of.text(name).is_empty() {
            errors.forbidden(child(path, name), "must be empty to be structural");
        }
    }
    for name in ["nullable", "x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource", "x-kubernetes-int-or-string"] {
        if of.flag(name) {
            errors.forbidden(child(path, name), "must be false to be structural");
        }
    }
    if of.has_any("x-kubernetes-list-map-keys") {
        errors.forbidden(child(path, "x-kubernetes-list-map-keys"), "must be empty to be structural");
    }
    for name in ["x-kubernetes-list-type", "x-kubernetes-map-type"] {
        if of.get(name).is_some() {
            errors.forbidden(child(path, name), "must be undefined to be structural");
        }
    }
    if of.has_any("x-kubernetes-validations") {
        errors.forbidden(child(path, "x-kubernetes-validations"), "must be empty to be structural");
    }
    if of.property("metadata").is_some() {
        errors.forbidden(property(path, "metadata"), "must not be specified in a nested context");
    }
}
