//! Webhook configurations and admission policies with their bindings (upstream `apis/admissionregistration/validation`). Whether
//! expressions compile is the policy engine's to find out.

use std::collections::HashSet;

use coracle_schema::{FieldErrors, name, selector, webhook};
use serde_json::Value;

use super::{conditions, view};
use crate::registry::{self, Object, Part, Rules, kind, names::OF_FILES};

/// Rules of both webhook configurations.
pub(super) struct WebhookConfiguration;
/// Rules of both admission policies.
pub(super) struct Policy {
    /// Whether it changes objects.
    pub(super) mutating: bool,
}
/// Rules of the bindings of both.
pub(super) struct Binding {
    /// Whether its policy changes objects.
    pub(super) mutating: bool,
}

const VERSIONS: [&str; 2] = ["v1", "v1beta1"];
const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
/// What a policy that changes objects may match: nobody can change a deletion.
const CHANGING: [&str; 4] = ["*", "CONNECT", "CREATE", "UPDATE"];
const CONDITIONS_MAX: usize = 64;

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

/// Why an object of the API may not have its name.
fn reserved(new: &Object) -> Option<String> {
    new.name().ends_with(OF_FILES).then(|| {
        format!("names ending with {OF_FILES:?} are reserved for static manifest-based configurations and cannot be managed via the API")
    })
}

/// Refuses a new object whose name is not the API's to give.
fn own_name(new: &Object, old: Option<&Object>, errors: &mut FieldErrors) {
    if let Some(why) = reserved(new).filter(|_| old.is_none()) {
        errors.invalid("metadata.name", view::quoted(new.name()), &why);
    }
}

/// Warns of the name of an object that was there before such names were refused.
fn reserved_still(new: &Object, old: Option<&Object>) -> Option<String> {
    old.and_then(|_| reserved(new)).map(|why| format!("metadata.name: {why}"))
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

fn rule_with_operations(rule: &Value, path: &str, errors: &mut FieldErrors) {
    let operations: Vec<&str> = view::texts(rule, "operations").collect();
    let only = |field: &str, what: &str, errors: &mut FieldErrors| {
        let list = view::list(rule, field);
        if list.is_empty() {
            errors.required(format!("{path}.{field}"), "");
        }
        if list.len() > 1 && list.iter().any(|v| v == "*") {
            let detail = format!("if '*' is present, must not specify other {what}");
            errors.invalid(format!("{path}.{field}"), view::member(rule, field), &detail);
        }
    };
    only("operations", "operations", errors);
    for (at, operation) in operations.iter().enumerate().filter(|(_, o)| !OPERATIONS.contains(o)) {
        errors.not_supported(format!("{path}.operations[{at}]"), view::quoted(operation), &OPERATIONS);
    }
    only("apiGroups", "API groups", errors);
    only("apiVersions", "API versions", errors);
    for (at, _) in view::texts(rule, "apiVersions").enumerate().filter(|(_, version)| version.is_empty()) {
        errors.required(format!("{path}.apiVersions[{at}]"), "");
    }
    resources(rule, &format!("{path}.resources"), errors);
}

fn resources(rule: &Value, path: &str, errors: &mut FieldErrors) {
    let all: Vec<&str> = view::texts(rule, "resources").collect();
    let shown = view::member(rule, "resources");
    if all.is_empty() {
        errors.required(path, "");
    }
    let (mut parents, mut parts) = (HashSet::new(), HashSet::new());
    for (at, given) in all.iter().enumerate() {
        let path = format!("{path}[{at}]");
        if given.is_empty() {
            errors.required(path, "");
            continue;
        }
        let Some((parent, part)) = given.split_once('/') else { continue };
        if parents.contains(parent) {
            errors.invalid(&path, view::quoted(given), &format!("if '{parent}/*' is present, must not specify {given}"));
        }
        if parts.contains(part) {
            errors.invalid(&path, view::quoted(given), &format!("if '*/{part}' is present, must not specify {given}"));
        }
        if part == "*" {
            parents.insert(parent);
        }
        if parent == "*" {
            parts.insert(part);
        }
    }
    if all.len() > 1 && all.contains(&"*/*") {
        errors.invalid(path, shown, "if '*/*' is present, must not specify other resources");
    }
    // Upstream looks at the last one without a part only.
    let last = all.iter().rfind(|given| !given.is_empty() && !given.contains('/'));
    if all.contains(&"*") && last.is_some_and(|given| *given != "*") {
        errors.invalid(path, shown, "if '*' is present, must not specify other resources without subresources");
    }
}

fn match_conditions(of: &Value, path: &str, errors: &mut FieldErrors) {
    let conditions = view::list(of, "matchConditions");
    if conditions.len() > CONDITIONS_MAX {
        errors.too_many(path, conditions.len(), CONDITIONS_MAX as u64);
    }
    let mut names = HashSet::new();
    for (at, condition) in conditions.iter().enumerate() {
        let path = format!("{path}[{at}]");
        let (name, expression) = (view::text(condition, "name"), view::text(condition, "expression"));
        if expression.trim().is_empty() {
            errors.required(format!("{path}.expression"), "");
        }
        let path = format!("{path}.name");
        if name.is_empty() {
            errors.required(path, "");
        } else {
            errors.invalid_each(&path, name, name::qualified(name));
            if !names.insert(name) {
                errors.duplicate(path, view::quoted(name));
            }
        }
    }
}

/// Which requests a policy or binding is for.
fn match_resources(given: &Value, path: &str, errors: &mut FieldErrors) {
    for field in ["namespaceSelector", "objectSelector"] {
        if let Some(given) = view::get(given, field) {
            selector::validate_object(given, &format!("{path}.{field}"), errors);
        }
    }
    for list in ["resourceRules", "excludeResourceRules"] {
        for (at, rule) in view::list(given, list).iter().enumerate() {
            let path = format!("{path}.{list}[{at}]");
            let mut names = HashSet::new();
            for (at, name) in view::texts(rule, "resourceNames").enumerate() {
                let path = format!("{path}.resourceNames[{at}]");
                errors.invalid_each(&path, name, name::path_segment(name));
                if !names.insert(name) {
                    errors.duplicate(path, view::quoted(name));
                }
            }
            rule_with_operations(rule, &path, errors);
        }
    }
}

/// Objects are changed only on their way in.
fn changing_operations(given: &Value, path: &str, errors: &mut FieldErrors) {
    for rule in view::list(given, "resourceRules") {
        for operation in view::texts(rule, "operations").filter(|operation| !CHANGING.contains(operation)) {
            errors.not_supported(format!("{path}.resourceRules.operations"), view::quoted(operation), &CHANGING);
        }
    }
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(rules: &dyn Rules, value: Value) -> Vec<String> {
        let object = Object::new(value).unwrap();
        rules.validate(&object, None, Part::Whole).0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_webhook_is_named_by_a_domain_and_reached_by_one_way() {
        let hook =
            json!({"name": "a.b", "sideEffects": "Some", "admissionReviewVersions": ["v1", "v1"], "clientConfig": {"url": "http://u@h?q"}});
        assert_eq!(
            texts(&WebhookConfiguration, json!({"webhooks": [hook]})),
            [
                "webhooks[0].name: Invalid value: \"a.b\": should be a domain with at least three segments separated by dots",
                "webhooks[0].sideEffects: Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\"",
                "webhooks[0].clientConfig.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]",
                "webhooks[0].clientConfig.url: Invalid value: \"u\": user information is not permitted in the URL",
                "webhooks[0].clientConfig.url: Invalid value: \"q\": query parameters are not permitted in the URL",
                "webhooks[0].admissionReviewVersions[1]: Invalid value: \"v1\": duplicate version",
            ]
        );
    }

    #[test]
    fn a_policy_that_changes_objects_matches_no_deletion() {
        let rule = json!({"operations": ["DELETE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]});
        let policy = json!({"spec": {"matchConstraints": {"resourceRules": [rule]}, "reinvocationPolicy": "Never"}});
        assert_eq!(
            texts(&Policy { mutating: true }, policy),
            [
                "spec.matchConstraints.resourceRules.operations: Unsupported value: \"DELETE\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"UPDATE\"",
                "spec.mutations: Required value: mutations must contain at least one item",
            ]
        );
    }

    #[test]
    fn a_binding_names_one_way_to_its_parameters() {
        let binding =
            json!({"spec": {"policyName": "p", "validationActions": ["Deny", "Warn"], "paramRef": {"name": "a", "selector": {}}}});
        let found = texts(&Binding { mutating: false }, binding);
        assert_eq!(found[0], "spec.paramRef.name: Forbidden: name and selector are mutually exclusive");
        assert_eq!(found[2], "spec.paramRef.parameterNotFoundAction: Required value");
        assert!(found[3].contains("must not contain both Deny and Warn"), "{found:?}");
    }
}
