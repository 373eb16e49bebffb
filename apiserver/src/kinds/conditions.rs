//! `metav1.Condition` lists in a status, where upstream checks them (apimachinery `ValidateConditions`).

use std::collections::HashSet;

use coracle_schema::{FieldErrors, name};
use coracle_tree::Value;

use super::view;

const REASON_MAX: usize = 1024;
const MESSAGE_MAX: usize = 32 * 1024;
const STATUSES: [&str; 3] = ["False", "True", "Unknown"];

/// Checks the conditions in a list.
pub(super) fn check(conditions: &[Value], path: &str, errors: &mut FieldErrors) {
    let mut seen = HashSet::new();
    for (at, condition) in conditions.iter().enumerate() {
        let path = format!("{path}[{at}]");
        let text = |field| view::text(condition, field);
        if !seen.insert(text("type")) {
            errors.duplicate(&path, view::quoted(text("type")));
        }
        match text("type") {
            "" => errors.required(format!("{path}.type"), "is required"),
            of => errors.invalid_each(&format!("{path}.type"), of, name::qualified(of)),
        }
        match text("status") {
            "" => errors.required(format!("{path}.status"), ""),
            known if STATUSES.contains(&known) => {}
            other => errors.not_supported(format!("{path}.status"), view::quoted(other), &STATUSES),
        }
        if let Some(generation) = view::int(condition, "observedGeneration").filter(|generation| *generation < 0) {
            errors.invalid(format!("{path}.observedGeneration"), generation, "must be greater than or equal to zero");
        }
        if text("lastTransitionTime").is_empty() {
            errors.required(format!("{path}.lastTransitionTime"), "");
        }
        reason(text("reason"), &format!("{path}.reason"), errors);
        if text("message").len() > MESSAGE_MAX {
            errors.too_long(format!("{path}.message"), MESSAGE_MAX as u64, "byte");
        }
    }
}

fn reason(reason: &str, path: &str, errors: &mut FieldErrors) {
    if reason.is_empty() {
        return errors.required(path, "");
    }
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let begins = reason.starts_with(|c: char| c.is_ascii_alphabetic());
    let ends = reason.bytes().last().is_some_and(word);
    if !begins || !ends || !reason.bytes().all(|b| word(b) || b == b',' || b == b':') {
        let text = "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_'";
        let form = "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?";
        let detail = format!(
            "{text} (e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is '{form}')"
        );
        errors.invalid(path, view::quoted(reason), &detail);
    }
    if reason.len() > REASON_MAX {
        errors.too_long(path, REASON_MAX as u64, "byte");
    }
}
