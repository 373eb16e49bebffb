//! Mutating and validating admission policies.

use std::collections::HashSet;

use coracle_schema::{FieldErrors, name};
use coracle_tree::Value;

use super::{changing_operations, match_conditions, match_resources, own_name, reserved_still};
use crate::{
    kinds::{conditions, view},
    registry::{self, Object, Part, Rules},
};

/// Rules of both admission policies.
pub(in crate::kinds) struct Policy {
    /// Whether it changes objects.
    pub(in crate::kinds) mutating: bool,
}

impl Rules for Policy {
    fn policy(&self) -> registry::Policy {
        registry::Policy::CONDITIONAL
    }

    fn unheard(&self) -> &'static [&'static str] {
        &["spec.matchConstraints.resourceRules.operations", "spec.matchConstraints.excludeResourceRules.operations"]
    }

    fn order(&self) -> &'static [&'static str] {
        &[
            "metadata",
            "spec.failurePolicy",
            "spec.paramKind.apiVersion",
            "spec.paramKind.kind",
            "spec.paramKind",
            "spec.matchConstraints.matchPolicy",
            "spec.matchConstraints.namespaceSelector",
            "spec.matchConstraints.objectSelector",
            "spec.matchConstraints.resourceRules",
            "spec.matchConstraints",
            "spec.matchConditions",
            "spec.variables",
            "spec.mutations",
            "spec.validations",
            "spec.auditAnnotations",
            "spec.reinvocationPolicy",
        ]
    }

    fn validate(&self, new: &Object, old: Option<&Object>, part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        own_name(new, old, &mut errors);
        if part == Part::Status {
            let status = view::member(new.value(), "status");
            for (at, warning) in view::list(view::member(status, "typeChecking"), "expressionWarnings").iter().enumerate() {
                for field in ["warning", "fieldRef"].into_iter().filter(|field| view::text(warning, field).is_empty()) {
                    errors.required(format!("status.typeChecking.expressionWarnings[{at}].{field}"), "");
                }
            }
            conditions::check(view::list(status, "conditions"), "status.conditions", &mut errors);
            return errors;
        }
        let spec = view::member(new.value(), "spec");
        if let Some(kind) = view::get(spec, "paramKind") {
            param_kind(kind, "spec.paramKind", &mut errors);
        }
        match view::get(spec, "matchConstraints") {
            None => errors.required("spec.matchConstraints", ""),
            Some(given) => {
                match_resources(given, "spec.matchConstraints", &mut errors);
                if view::list(given, "resourceRules").is_empty() {
                    errors.required("spec.matchConstraints.resourceRules", "");
                }
                if self.mutating {
                    changing_operations(given, "spec.matchConstraints", &mut errors);
                }
            }
        }
        match_conditions(spec, "spec.matchConditions", &mut errors);
        for (at, variable) in view::list(spec, "variables").iter().enumerate() {
            policy_variable(variable, &format!("spec.variables[{at}]"), &mut errors);
        }
        if self.mutating {
            mutations(spec, &mut errors);
        } else {
            validations(spec, new.name(), &mut errors);
        }
        errors
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        reserved_still(new, old).into_iter().collect()
    }
}

fn param_kind(kind: &Value, path: &str, errors: &mut FieldErrors) {
    let version = view::text(kind, "apiVersion");
    let path_of = |field: &str| format!("{path}.{field}");
    if version.is_empty() {
        errors.required(path_of("apiVersion"), "");
    } else {
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        if version.contains('/') {
            let why = format!("unexpected GroupVersion string: {}", view::text(kind, "apiVersion"));
            errors.invalid(path_of("apiVersion"), view::quoted(view::text(kind, "apiVersion")), &why);
        } else {
            if !group.is_empty() {
                for why in name::subdomain(group) {
                    errors.invalid(path_of("apiVersion"), view::quoted(group), &format!("invalid group {group:?}: {why}"));
                }
            }
            for why in name::label_1035(version) {
                errors.invalid(path_of("apiVersion"), view::quoted(version), &why);
            }
        }
    }
    let kind = view::text(kind, "kind");
    if kind.is_empty() {
        errors.required(path_of("kind"), "");
    } else {
        for why in name::label_1035(&kind.to_lowercase()) {
            errors.invalid(path_of("kind"), view::quoted(kind), &format!("may have mixed case, but should otherwise match: {why}"));
        }
    }
}

fn policy_variable(variable: &Value, path: &str, errors: &mut FieldErrors) {
    let name = view::text(variable, "name");
    if name.trim().is_empty() {
        errors.required(format!("{path}.name"), "name is not specified");
    } else if !coracle_cel::is_identifier(name) {
        errors.invalid(format!("{path}.name"), view::quoted(name), "must be a valid CEL identifier");
    }
    if view::text(variable, "expression").trim().is_empty() {
        errors.required(format!("{path}.expression"), "expression is not specified");
    }
}

fn mutations(spec: &Value, errors: &mut FieldErrors) {
    let all = view::list(spec, "mutations");
    if all.is_empty() {
        errors.required("spec.mutations", "mutations must contain at least one item");
    }
    for (at, mutation) in all.iter().enumerate() {
        let path = format!("spec.mutations[{at}]");
        let forms = [("JSONPatch", "jsonPatch", "applyConfiguration"), ("ApplyConfiguration", "applyConfiguration", "jsonPatch")];
        let of = view::text(mutation, "patchType");
        match forms.iter().find(|(known, ..)| *known == of) {
            Some((_, own, other)) => {
                match view::get(mutation, own) {
                    None => errors.required(format!("{path}.{own}"), &format!("must be specified when patchType is {of}")),
                    Some(given) if view::text(given, "expression").trim().is_empty() => {
                        errors.required(format!("{path}.{own}.expression"), "");
                    }
                    Some(_) => {}
                }
                if view::get(mutation, other).is_some() {
                    let detail = format!("must not be specified when patchType is {of}");
                    errors.invalid(format!("{path}.{other}"), format!("\"{{{other}}}\""), &detail);
                }
            }
            None if of.is_empty() => errors.required(format!("{path}.patchType"), ""),
            None => errors.not_supported(format!("{path}.patchType"), view::quoted(of), &["ApplyConfiguration", "JSONPatch"]),
        }
    }
    if view::text(spec, "reinvocationPolicy").is_empty() {
        errors.required("spec.reinvocationPolicy", "");
    }
}

fn validations(spec: &Value, policy: &str, errors: &mut FieldErrors) {
    const REASONS: [&str; 3] = ["Forbidden", "Invalid", "RequestEntityTooLarge"];
    let (checks, annotations) = (view::list(spec, "validations"), view::list(spec, "auditAnnotations"));
    if checks.is_empty() && annotations.is_empty() {
        for field in ["validations", "auditAnnotations"] {
            errors.required(format!("spec.{field}"), "validations or auditAnnotations must contain at least one item");
        }
    }
    for (at, check) in checks.iter().enumerate() {
        let path = format!("spec.validations[{at}]");
        if view::text(check, "expression").trim().is_empty() {
            errors.required(format!("{path}.expression"), "expression is not specified");
        }
        if let Some(message) = view::get(check, "messageExpression").and_then(Value::as_str)
            && !message.is_empty()
            && message.trim().is_empty()
        {
            errors.invalid(format!("{path}.messageExpression"), view::quoted(message), "must be non-empty if specified");
        }
        let message = view::text(check, "message");
        if !message.is_empty() && message.trim().is_empty() {
            errors.invalid(format!("{path}.message"), view::quoted(message), "must be non-empty if specified");
        } else if message.trim().contains(['\n', '\r']) {
            errors.invalid(format!("{path}.message"), view::quoted(message), "must not contain line breaks");
        }
        if let Some(reason) = view::get(check, "reason").and_then(Value::as_str).filter(|reason| !REASONS.contains(reason)) {
            errors.not_supported(format!("{path}.reason"), view::quoted(reason), &REASONS);
        }
    }
    let mut keys = HashSet::new();
    for (at, annotation) in annotations.iter().enumerate() {
        let path = format!("spec.auditAnnotations[{at}]");
        let key = view::text(annotation, "key");
        let full = format!("{policy}/{key}");
        // The key is written down together with the policy's name.
        if policy.is_empty() {
            errors.invalid(format!("{path}.key"), view::quoted(key), "requires metadata.name be non-empty");
        } else {
            errors.invalid_each(&format!("{path}.key"), &full, name::qualified(&full));
        }
        if view::text(annotation, "valueExpression").trim().is_empty() {
            errors.required(format!("{path}.valueExpression"), "valueExpression is not specified");
        }
        if !key.is_empty() && !keys.insert(key) {
            errors.duplicate(format!("{path}.key"), view::quoted(key));
        }
    }
}
