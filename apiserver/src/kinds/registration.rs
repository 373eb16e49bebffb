//! Webhook configurations and admission policies with their bindings (upstream `apis/admissionregistration/validation`). Whether
//! expressions compile is the policy engine's to find out.

mod bindings;
mod policies;
mod webhooks;

use std::collections::HashSet;

use coracle_schema::{FieldErrors, name, selector};
use coracle_tree::Value;

pub(super) use self::{bindings::Binding, policies::Policy, webhooks::WebhookConfiguration};
use super::view;
use crate::registry::{Object, names::OF_FILES};

const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
/// What a policy that changes objects may match: nobody can change a deletion.
const CHANGING: [&str; 4] = ["*", "CONNECT", "CREATE", "UPDATE"];
const CONDITIONS_MAX: usize = 64;

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

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;
    use crate::registry::{Part, Rules};

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
