//! Objects that are to be written anew in the version they are stored in today (upstream `apis/storagemigration/validation`).

use coracle_schema::{FieldErrors, name};
use coracle_tree::Value;

use super::{conditions, view};
use crate::registry::{Object, Part, Policy, Rules};

/// Rules of `storageversionmigrations`.
pub(super) struct StorageVersionMigration;

impl Rules for StorageVersionMigration {
    fn policy(&self) -> Policy {
        Policy::CONDITIONAL
    }

    fn unheard(&self) -> &'static [&'static str] {
        &["spec.resource.resource"]
    }

    fn validate(&self, new: &Object, old: Option<&Object>, part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        if part == Part::Status {
            status(new.value(), old.map_or(&Value::Null, Object::value), &mut errors);
            return errors;
        }
        let resource = view::member(view::member(new.value(), "spec"), "resource");
        let (group, plural) = (view::text(resource, "group"), view::text(resource, "resource"));
        if plural.is_empty() {
            errors.required("spec.resource.resource", "resource is required to be set");
        }
        for (field, text, wrong) in [("resource", plural, name::label_1035(plural)), ("group", group, name::subdomain(group))] {
            if !text.is_empty() && !wrong.is_empty() {
                errors.invalid(format!("spec.resource.{field}"), view::quoted(text), &wrong.join(","));
            }
        }
        errors
    }

    fn immutable(&self, new: &Object, old: &Object, part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        let spec = |object: &Object| view::member(object.value(), "spec").clone();
        if part != Part::Status && spec(new) != spec(old) {
            errors.invalid("spec", spec(new), "field is immutable");
        }
        errors
    }
}

fn status(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let (status, before) = (view::member(new, "status"), view::member(old, "status"));
    let (version, then) = (view::text(status, "resourceVersion"), view::text(before, "resourceVersion"));
    let number = version.bytes().all(|b| b.is_ascii_digit()) && !version.starts_with('0');
    if !version.is_empty() && !number {
        let detail = format!("resource version is not well formed: {version}");
        errors.invalid("status.resourceVersion", view::quoted(version), &detail);
    }
    conditions::check(view::list(status, "conditions"), "status.conditions", errors);
    if !then.is_empty() && then != version {
        errors.invalid("status.resourceVersion", view::quoted(version), "field is immutable");
    }
    let holds = |status: &Value, of: &str| {
        view::list(status, "conditions").iter().any(|c| view::text(c, "type") == of && view::text(c, "status") == "True")
    };
    let shown = view::member(status, "conditions");
    if holds(status, "Succeeded") && holds(status, "Failed") {
        errors.invalid("status.conditions", shown, "Both success and failed conditions cannot be true at the same time");
    }
    for (of, word) in [("Succeeded", "Success"), ("Failed", "Failed")] {
        if holds(before, of) && !holds(status, of) {
            errors.invalid("status.conditions", shown, &format!("{word} condition cannot be set to false once it is true"));
        }
    }
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    #[test]
    fn a_migration_that_is_over_stays_so() {
        let made = |kind: &str, version: &str| {
            let conditions = json!([{"type": kind, "status": "True", "reason": "R", "lastTransitionTime": "2024-01-01T00:00:00Z"}]);
            Object::new(json!({"status": {"resourceVersion": version, "conditions": conditions}})).unwrap()
        };
        let told = |new: &Object, old: &Object| -> Vec<String> {
            StorageVersionMigration.validate(new, Some(old), Part::Status).0.iter().map(|error| error.path.clone()).collect()
        };
        assert!(told(&made("Succeeded", "7"), &made("Succeeded", "7")).is_empty());
        assert_eq!(
            told(&made("Failed", "x"), &made("Succeeded", "7")),
            ["status.resourceVersion", "status.resourceVersion", "status.conditions"]
        );
    }
}
