//! Bindings of admission policies.

use std::collections::HashSet;

use coracle_schema::{FieldErrors, name, selector};
use coracle_tree::Value;

use super::{changing_operations, match_resources, own_name, reserved_still};
use crate::{
    kinds::view,
    registry::{self, Object, Part, Rules},
};

/// Rules of the bindings of both.
pub(in crate::kinds) struct Binding {
    /// Whether its policy changes objects.
    pub(in crate::kinds) mutating: bool,
}

impl Rules for Binding {
    fn policy(&self) -> registry::Policy {
        registry::Policy::CONDITIONAL
    }

    fn unheard(&self) -> &'static [&'static str] {
        &["spec.matchResources.resourceRules.operations", "spec.matchResources.excludeResourceRules.operations"]
    }

    fn order(&self) -> &'static [&'static str] {
        &[
            "metadata",
            "spec.policyName",
            "spec.paramRef.name",
            "spec.paramRef.selector",
            "spec.paramRef.parameterNotFoundAction",
            "spec.paramRef",
            "spec.matchResources.matchPolicy",
            "spec.matchResources.namespaceSelector",
            "spec.matchResources.objectSelector",
            "spec.matchResources",
            "spec.validationActions",
        ]
    }

    fn validate(&self, new: &Object, old: Option<&Object>, _part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        own_name(new, old, &mut errors);
        let spec = view::member(new.value(), "spec");
        let policy = view::text(spec, "policyName");
        if policy.is_empty() {
            errors.required("spec.policyName", "");
        } else {
            errors.invalid_each("spec.policyName", policy, name::subdomain(policy));
        }
        if let Some(given) = view::get(spec, "paramRef") {
            param_ref(given, "spec.paramRef", &mut errors);
        }
        if let Some(given) = view::get(spec, "matchResources") {
            match_resources(given, "spec.matchResources", &mut errors);
            if self.mutating {
                changing_operations(given, "spec.matchResources", &mut errors);
            }
        }
        if !self.mutating {
            validation_actions(spec, &mut errors);
        }
        errors
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        reserved_still(new, old).into_iter().collect()
    }
}

fn param_ref(given: &Value, path: &str, errors: &mut FieldErrors) {
    let (name, chosen) = (view::text(given, "name"), view::get(given, "selector"));
    if !name.is_empty() {
        errors.invalid_each(&format!("{path}.name"), name, name::path_segment(name));
        if chosen.is_some() {
            errors.forbidden(format!("{path}.name"), "name and selector are mutually exclusive");
        }
    }
    if let Some(chosen) = chosen {
        selector::validate_object(chosen, &format!("{path}.selector"), errors);
        if !name.is_empty() {
            errors.forbidden(format!("{path}.selector"), "name and selector are mutually exclusive");
        }
    }
    if name.is_empty() && chosen.is_none() {
        errors.required(path, "one of name or selector must be specified");
    }
    let path = format!("{path}.parameterNotFoundAction");
    match view::text(given, "parameterNotFoundAction") {
        "" => errors.required(path, ""),
        "Deny" | "Allow" => {}
        other => errors.not_supported(path, view::quoted(other), &["Deny", "Allow"]),
    }
}

fn validation_actions(spec: &Value, errors: &mut FieldErrors) {
    const ACTIONS: [&str; 3] = ["Audit", "Deny", "Warn"];
    let actions: Vec<&str> = view::texts(spec, "validationActions").collect();
    if actions.is_empty() {
        errors.required("spec.validationActions", "");
    }
    let mut seen = HashSet::new();
    for (at, action) in actions.iter().enumerate() {
        let path = format!("spec.validationActions[{at}]");
        if !ACTIONS.contains(action) {
            errors.not_supported(&path, view::quoted(action), &ACTIONS);
        }
        if !seen.insert(action) {
            errors.duplicate(path, view::quoted(action));
        }
    }
    if seen.contains(&"Deny") && seen.contains(&"Warn") {
        let detail = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        errors.invalid("spec.validationActions", view::member(spec, "validationActions"), detail);
    }
}
