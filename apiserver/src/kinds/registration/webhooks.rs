//! Mutating and validating webhook configurations.

use std::collections::HashSet;

use coracle_schema::{FieldErrors, name, selector, webhook};
use coracle_tree::Value;

use super::{match_conditions, own_name, reserved_still, rule_with_operations};
use crate::{
    kinds::view,
    registry::{self, Object, Part, Rules, kind},
};

/// Rules of both webhook configurations.
pub(in crate::kinds) struct WebhookConfiguration;

const VERSIONS: [&str; 2] = ["v1", "v1beta1"];

impl Rules for WebhookConfiguration {
    fn policy(&self) -> registry::Policy {
        registry::Policy::CONDITIONAL
    }

    fn unheard(&self) -> &'static [&'static str] {
        // Both are the rules' to judge: fewer values are accepted than the type has.
        &["webhooks.sideEffects", "webhooks.rules.operations"]
    }

    fn order(&self) -> &'static [&'static str] {
        &[
            "metadata",
            "webhooks.name",
            "webhooks.rules.operations",
            "webhooks.rules.apiGroups",
            "webhooks.rules.apiVersions",
            "webhooks.rules.resources",
            "webhooks.rules.scope",
            "webhooks.rules",
            "webhooks.failurePolicy",
            "webhooks.matchPolicy",
            "webhooks.sideEffects",
            "webhooks.timeoutSeconds",
            "webhooks.namespaceSelector",
            "webhooks.objectSelector",
            "webhooks.reinvocationPolicy",
            "webhooks.clientConfig",
            "webhooks.matchConditions",
            "webhooks.admissionReviewVersions.",
        ]
    }

    fn validate(&self, new: &Object, old: Option<&Object>, _part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        own_name(new, old, &mut errors);
        let mut names = HashSet::new();
        for (at, hook) in view::list(new.value(), "webhooks").iter().enumerate() {
            let path = format!("webhooks[{at}]");
            webhook(hook, &path, &mut errors);
            let hook_name = view::text(hook, "name");
            if !hook_name.is_empty() && !names.insert(hook_name) {
                errors.duplicate(format!("{path}.name"), view::quoted(hook_name));
            }
        }
        errors
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        let mut warnings = Vec::new();
        for (at, hook) in view::list(new.value(), "webhooks").iter().enumerate() {
            for (rule_at, rule) in view::list(hook, "rules").iter().enumerate() {
                let without_effect = unasked(rule).into_iter().map(|resource| {
                    format!(
                        "webhooks[{at}].rules[{rule_at}]: {resource} is excluded from admission webhooks; this rule will have no effect"
                    )
                });
                warnings.extend(without_effect);
            }
        }
        warnings.extend(reserved_still(new, old));
        warnings
    }
}

/// The resources a rule names that webhooks are never asked about, each once; what is meant with a wildcard is anybody's guess.
fn unasked(rule: &Value) -> Vec<String> {
    let (groups, resources): (Vec<&str>, Vec<&str>) = (view::texts(rule, "apiGroups").collect(), view::texts(rule, "resources").collect());
    if groups.contains(&"*") || resources.contains(&"*") {
        return Vec::new();
    }
    let mut found = Vec::new();
    for group in &groups {
        for resource in resources.iter().filter(|resource| kind::is_review(group, resource)) {
            let name = format!("{resource}.{group}");
            if !found.contains(&name) {
                found.push(name);
            }
        }
    }
    found
}

fn webhook(hook: &Value, path: &str, errors: &mut FieldErrors) {
    let hook_name = view::text(hook, "name");
    let name_path = format!("{path}.name");
    if hook_name.is_empty() {
        errors.required(&name_path, "");
    } else if name::subdomain(hook_name).is_empty() && hook_name.split('.').count() < 3 {
        errors.invalid(&name_path, view::quoted(hook_name), "should be a domain with at least three segments separated by dots");
    } else {
        errors.invalid_each(&name_path, hook_name, name::subdomain(hook_name));
    }
    for (at, rule) in view::list(hook, "rules").iter().enumerate() {
        rule_with_operations(rule, &format!("{path}.rules[{at}]"), errors);
    }
    match view::get(hook, "sideEffects").and_then(Value::as_str) {
        None => errors.required(format!("{path}.sideEffects"), "must specify one of None, NoneOnDryRun"),
        Some("None" | "NoneOnDryRun") => {}
        Some(other) => errors.not_supported(format!("{path}.sideEffects"), view::quoted(other), &["None", "NoneOnDryRun"]),
    }
    if let Some(seconds) = view::int(hook, "timeoutSeconds").filter(|s| !(1..=30).contains(s)) {
        errors.invalid(format!("{path}.timeoutSeconds"), seconds, "the timeout value must be between 1 and 30 seconds");
    }
    for field in ["namespaceSelector", "objectSelector"] {
        if let Some(given) = view::get(hook, field) {
            selector::validate_object(given, &format!("{path}.{field}"), errors);
        }
    }
    webhook::client(view::member(hook, "clientConfig"), &format!("{path}.clientConfig"), errors);
    match_conditions(hook, &format!("{path}.matchConditions"), errors);
    review_versions(hook, &format!("{path}.admissionReviewVersions"), errors);
}

fn review_versions(hook: &Value, path: &str, errors: &mut FieldErrors) {
    let versions: Vec<&str> = view::texts(hook, "admissionReviewVersions").collect();
    if versions.is_empty() {
        return errors.required(path, "must specify one of v1, v1beta1");
    }
    let mut seen = HashSet::new();
    for (at, version) in versions.iter().enumerate() {
        let path = format!("{path}[{at}]");
        if seen.insert(version) {
            errors.invalid_each(&path, version, name::label_1035(version));
        } else {
            errors.invalid(path, view::quoted(version), "duplicate version");
        }
    }
    if !versions.iter().any(|v| VERSIONS.contains(v)) {
        errors.invalid(path, view::member(hook, "admissionReviewVersions"), "must include at least one of v1, v1beta1");
    }
}
