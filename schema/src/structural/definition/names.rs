//! The names of a definition.

use coracle_tree::Value;

use super::{list, text_of};
use crate::{field::FieldErrors, name, structural::text};

/// The names that must be there.
pub(super) fn required(names: &Value, errors: &mut FieldErrors) {
    for field in ["plural", "singular", "kind", "listKind"] {
        if text_of(names, field).is_empty() {
            errors.required(format!("spec.names.{field}"), "");
        }
    }
}

/// The form of those that are there, in the spec or in the status.
pub(super) fn check(names: &Value, path: &str, errors: &mut FieldErrors) {
    for field in ["plural", "singular", "kind", "listKind"] {
        let given = text_of(names, field);
        let mixed = matches!(field, "kind" | "listKind");
        let wrong = name::label_1035(&if mixed { given.to_lowercase() } else { given.to_owned() });
        if !given.is_empty() && !wrong.is_empty() {
            let head = if mixed { "may have mixed case, but should otherwise match: " } else { "" };
            errors.invalid(format!("{path}.{field}"), text::quoted(given), &format!("{head}{}", wrong.join(",")));
        }
    }
    each(names, "shortNames", path, errors);
    let (kind, list_kind) = (text_of(names, "kind"), text_of(names, "listKind"));
    if !kind.is_empty() && kind == list_kind {
        errors.invalid(format!("{path}.listKind"), text::quoted(list_kind), "kind and listKind may not be the same");
    }
    each(names, "categories", path, errors);
}

fn each(names: &Value, field: &str, path: &str, errors: &mut FieldErrors) {
    for (at, given) in list(names, field).iter().enumerate().filter_map(|(at, v)| Some((at, v.as_str()?))) {
        let wrong = name::label_1035(given);
        if !wrong.is_empty() {
            errors.invalid(format!("{path}.{field}[{at}]"), text::quoted(given), &wrong.join(","));
        }
    }
}
