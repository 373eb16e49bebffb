//! Every place that a value validation speaks of must be described outside of it (apiextensions-apiserver `apiserver/schema/complete.go`).
//!
//! As upstream, only the validations of the root are followed: those of deeper places are the business of their own level.

use super::{
    invariants::{child, property},
    props::Props,
};
use crate::field::FieldErrors;

/// Checks the validations that stand at the root.
pub(super) fn check(schema: Props<'_>, path: &str, errors: &mut FieldErrors) {
    junctors(schema, Some(schema), path, path, errors);
}

fn junctors(validation: Props<'_>, schema: Option<Props<'_>>, schema_path: &str, path: &str, errors: &mut FieldErrors) {
    if let Some(not) = validation.schema("not") {
        nested(not, schema, schema_path, &child(path, "not"), errors);
    }
    for name in ["allOf", "anyOf", "oneOf"] {
        for (at, one) in validation.schemas(name).enumerate() {
            nested(one, schema, schema_path, &format!("{}[{at}]", child(path, name)), errors);
        }
    }
}

fn nested(validation: Props<'_>, schema: Option<Props<'_>>, schema_path: &str, path: &str, errors: &mut FieldErrors) {
    let Some(of) = schema else {
        return errors.required(schema_path, &format!("because it is defined in {path}"));
    };
    junctors(validation, schema, schema_path, path, errors);
    if let Some(items) = validation.items() {
        nested(items, of.items(), &child(schema_path, "items"), &child(path, "items"), errors);
    }
    for (name, below) in validation.named("properties") {
        let (schema_path, path) = (property(schema_path, name), property(path, name));
        match of.property(name) {
            None => errors.required(schema_path, &format!("because it is defined in {path}")),
            found => nested(below, found, &schema_path, &path, errors),
        }
    }
}
