//! Namespaces: the label, the finalizer and the phase every one has (upstream `registry/core/namespace`).

use coracle_schema::{FieldErrors, name};
use coracle_tree::{Value, json};

use super::view;
use crate::registry::{Object, Part, Rules};

/// The finalizer that keeps a namespace until its content is gone.
const KUBERNETES: &str = "kubernetes";

/// Rules of `namespaces`.
pub(super) struct Namespace;

impl Rules for Namespace {
    fn default(&self, object: &mut Object) {
        let name = object.name().to_owned();
        if name.is_empty() {
            return;
        }
        let labels = object.metadata_mut().entry("labels").or_insert_with(|| json!({}));
        if labels.is_null() {
            *labels = json!({});
        }
        labels["kubernetes.io/metadata.name"] = name.into();
    }

    fn prepare(&self, new: &mut Object, old: Option<&Object>, part: Part<'_>) {
        match (old, part) {
            (None, _) => {
                // Generated names come after defaulting.
                self.default(new);
                new.member_mut("status").insert("phase", "Active".into());
                let spec = new.member_mut("spec");
                let finalizers = spec.entry("finalizers").or_insert_with(|| json!([]));
                if finalizers.is_null() {
                    *finalizers = json!([]);
                }
                if let Some(list) = finalizers.as_array_mut()
                    && !list.iter().any(|f| f == KUBERNETES)
                {
                    list.push(KUBERNETES.into());
                }
            }
            (Some(old), Part::Whole) => {
                let before = view::member(view::member(old.value(), "spec"), "finalizers").clone();
                let spec = new.member_mut("spec");
                if before.is_null() {
                    spec.remove("finalizers");
                } else {
                    spec.insert("finalizers", before);
                }
            }
            (Some(old), Part::Other("finalize")) => {
                let status = view::member(old.value(), "status").clone();
                new.value_mut()["status"] = status;
            }
            _ => {}
        }
    }

    fn validate(&self, new: &Object, _old: Option<&Object>, part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        let value = new.value();
        if part == Part::Status {
            let phase = view::text(view::member(value, "status"), "phase");
            let (wanted, detail) = if new.is_deleting() {
                ("Terminating", "may only be 'Terminating' if `deletionTimestamp` is not empty")
            } else {
                ("Active", "may only be 'Active' if `deletionTimestamp` is empty")
            };
            if phase != wanted {
                errors.invalid("status.Phase", view::quoted(phase), detail);
            }
            return errors;
        }
        for finalizer in view::texts(view::member(value, "spec"), "finalizers") {
            errors.invalid_each("spec.finalizers", finalizer, name::qualified(finalizer));
            if !finalizer.contains('/') && ![KUBERNETES, "orphan", "foregroundDeletion"].contains(&finalizer) {
                let detail = "name is neither a standard finalizer name nor is it fully qualified";
                errors.invalid("spec.finalizers", view::quoted(finalizer), detail);
            }
        }
        errors
    }

    fn selectable(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![("status.phase", view::text(view::member(object, "status"), "phase").to_owned())]
    }
}
