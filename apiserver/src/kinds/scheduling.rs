//! What says where pods go: tolerations, affinity, node selectors, spreading (upstream `apis/core/validation`).

use std::collections::HashSet;

use coracle_schema::{ErrorKind, FieldErrors, name, selector};
use coracle_tree::{Text, Value};

use super::view;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const TAINT_EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// Checks tolerations.
pub(crate) fn tolerations(list: &[Value], path: view::At<'_>, errors: &mut FieldErrors) {
    for (at, toleration) in list.iter().enumerate() {
        let path = format_args!("{path}[{at}]");
        let text = |name| view::text(toleration, name);
        let (key, operator, value) = (text("key"), text("operator"), text("value"));
        if !key.is_empty() {
            errors.invalid_each(&format_args!("{path}.key"), key, name::qualified(key));
        } else if operator != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.invalid(format_args!("{path}.operator"), view::quoted(operator), detail);
        }
        if view::int(toleration, "tolerationSeconds").is_some() && text("effect") != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.invalid(format_args!("{path}.effect"), view::quoted(text("effect")), detail);
        }
        match operator {
            "Equal" | "" => {
                let wrong = name::label_value(value);
                if !wrong.is_empty() {
                    errors.invalid(format_args!("{path}.operator"), view::quoted(value), &wrong.join(";"));
                }
            }
            "Exists" if !value.is_empty() => {
                errors.invalid(format_args!("{path}.operator"), view::quoted(value), "value must be empty when `operator` is 'Exists'");
            }
            "Exists" => {}
            // Comparisons are behind a gate that is off.
            other => errors.not_supported(format_args!("{path}.operator"), view::quoted(other), &["Equal", "Exists"]),
        }
        let effect = text("effect");
        if !["", "NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
            let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
            errors.not_supported(format_args!("{path}.effect"), view::quoted(effect), &effects);
        }
    }
}

/// Checks the taints of a node: keys, values, effects, and that none stands twice.
pub(super) fn taints(list: &[Value], path: view::At<'_>, errors: &mut FieldErrors) {
    let mut seen = HashSet::new();
    for (at, taint) in list.iter().enumerate() {
        let path = format_args!("{path}[{at}]");
        let (key, value, effect) = (view::text(taint, "key"), view::text(taint, "value"), view::text(taint, "effect"));
        errors.invalid_each(&format_args!("{path}.key"), key, name::qualified(key));
        let wrong = name::label_value(value);
        if !wrong.is_empty() {
            errors.invalid(format_args!("{path}.value"), view::quoted(value), &wrong.join(";"));
        }
        match effect {
            "" => errors.required(format_args!("{path}.effect"), ""),
            "NoSchedule" | "PreferNoSchedule" | "NoExecute" => {}
            other => errors.not_supported(format_args!("{path}.effect"), view::quoted(other), &TAINT_EFFECTS),
        }
        if !seen.insert((key, effect)) {
            let message = format!("Duplicate value: {taint}: taints must be unique by key and effect pair");
            errors.push(ErrorKind::Duplicate, path, message);
        }
    }
}

/// Checks an affinity.
pub(super) fn affinity(affinity: &Value, path: view::At<'_>, errors: &mut FieldErrors) {
    if let Some(node) = view::get(affinity, "nodeAffinity") {
        let path = format_args!("{path}.nodeAffinity");
        if let Some(required) = view::get(node, REQUIRED) {
            node_selector(required, &format_args!("{path}.{REQUIRED}"), errors);
        }
        for (at, term) in view::list(node, PREFERRED).iter().enumerate() {
            let path = format_args!("{path}.{PREFERRED}[{at}]");
            weight(term, &path, errors);
            node_selector_term(view::member(term, "preference"), false, &format_args!("{path}.preference"), errors);
        }
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(pods) = view::get(affinity, kind) else { continue };
        for (at, term) in view::list(pods, REQUIRED).iter().enumerate() {
            pod_term(term, &format_args!("{path}.{kind}.{REQUIRED}[{at}]"), errors);
        }
        for (at, term) in view::list(pods, PREFERRED).iter().enumerate() {
            let path = format_args!("{path}.{kind}.{PREFERRED}[{at}]");
            weight(term, &path, errors);
            pod_term(view::member(term, "podAffinityTerm"), &format_args!("{path}.podAffinityTerm"), errors);
        }
    }
}

fn weight(term: &Value, path: view::At<'_>, errors: &mut FieldErrors) {
    let weight = view::int(term, "weight").unwrap_or_default();
    if !(1..=100).contains(&weight) {
        errors.invalid(format_args!("{path}.weight"), weight, "must be in the range 1-100");
    }
}

/// Checks a node selector: at least one term.
pub(super) fn node_selector(selector: &Value, path: view::At<'_>, errors: &mut FieldErrors) {
    let terms = view::list(selector, "nodeSelectorTerms");
    let path = format_args!("{path}.nodeSelectorTerms");
    if terms.is_empty() {
        errors.required(path, "must have at least one node selector term");
    }
    for (at, term) in terms.iter().enumerate() {
        node_selector_term(term, true, &format_args!("{path}[{at}]"), errors);
    }
}

fn node_selector_term(term: &Value, check_values: bool, path: view::At<'_>, errors: &mut FieldErrors) {
    for (at, requirement) in view::list(term, "matchExpressions").iter().enumerate() {
        let path = format_args!("{path}.matchExpressions[{at}]");
        let values = view::list(requirement, "values");
        match view::text(requirement, "operator") {
            "In" | "NotIn" if values.is_empty() => {
                errors.required(format_args!("{path}.values"), "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                errors.forbidden(format_args!("{path}.values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
            }
            "Gt" | "Lt" if values.len() != 1 => {
                errors.required(format_args!("{path}.values"), "must be specified single value when `operator` is 'Lt' or 'Gt'");
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            other => errors.invalid(format_args!("{path}.operator"), view::quoted(other), "not a valid selector operator"),
        }
        let key = view::text(requirement, "key");
        errors.invalid_each(&format_args!("{path}.key"), key, name::qualified(key));
        for (at, value) in values.iter().filter_map(Value::as_str).enumerate().filter(|_| check_values) {
            errors.invalid_each(&format_args!("{path}.values[{at}]"), value, name::label_value(value));
        }
    }
    for (at, requirement) in view::list(term, "matchFields").iter().enumerate() {
        field_requirement(requirement, &format_args!("{path}.matchFields[{at}]"), errors);
    }
}

fn field_requirement(requirement: &Value, path: view::At<'_>, errors: &mut FieldErrors) {
    let values = view::list(requirement, "values");
    match view::text(requirement, "operator") {
        "In" | "NotIn" if values.len() == 1 => {}
        "In" | "NotIn" => {
            let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            errors.required(format_args!("{path}.values"), detail);
        }
        other => errors.invalid(format_args!("{path}.operator"), view::quoted(other), "not a valid selector operator"),
    }
    match view::text(requirement, "key") {
        "metadata.name" => {
            for (at, value) in values.iter().filter_map(Value::as_str).enumerate() {
                errors.invalid_each(&format_args!("{path}.values[{at}]"), value, name::subdomain(value));
            }
        }
        other => errors.invalid(format_args!("{path}.key"), view::quoted(other), "not a valid field selector key"),
    }
}

fn pod_term(term: &Value, path: view::At<'_>, errors: &mut FieldErrors) {
    for selector in ["labelSelector", "namespaceSelector"] {
        if let Some(given) = view::get(term, selector) {
            selector::validate_object(given, &format!("{path}.{selector}"), errors);
        }
    }
    for namespace in view::texts(term, "namespaces") {
        errors.invalid_each(&format_args!("{path}.namespace"), namespace, name::label(namespace));
    }
    match_keys(term, path, errors);
    let key = view::text(term, "topologyKey");
    if key.is_empty() {
        errors.required(format_args!("{path}.topologyKey"), "can not be empty");
    }
    errors.invalid_each(&format_args!("{path}.topologyKey"), key, name::qualified(key));
}

/// Keys of labels of the pod itself that become part of the selector (`ValidateMatchLabelKeysAndMismatchLabelKeys`).
fn match_keys(of: &Value, path: view::At<'_>, errors: &mut FieldErrors) {
    let selector = view::get(of, "labelSelector");
    for list in ["matchLabelKeys", "mismatchLabelKeys"] {
        let keys: Vec<&str> = view::texts(of, list).collect();
        let path = format_args!("{path}.{list}");
        if !keys.is_empty() && selector.is_none() {
            errors.forbidden(path, "must not be specified when labelSelector is not set");
            continue;
        }
        for (at, key) in keys.iter().enumerate() {
            errors.invalid_each(&format_args!("{path}[{at}]"), key, name::qualified(key));
        }
    }
    // The selector has an expression for each key already: one more of the same key was given.
    let mut seen: HashSet<&str> =
        selector.into_iter().flat_map(|selector| view::map(selector, "matchLabels").keys()).map(Text::as_str).collect();
    let keys: Vec<&str> = view::texts(of, "matchLabelKeys").collect();
    for expression in selector.into_iter().flat_map(|selector| view::list(selector, "matchExpressions")) {
        let key = view::text(expression, "key");
        if let Some(at) = keys.iter().rposition(|known| *known == key).filter(|_| seen.contains(key)) {
            errors.invalid(format_args!("{path}[{at}]"), view::quoted(key), "exists in both matchLabelKeys and labelSelector");
        }
        seen.insert(key);
    }
    let others: Vec<&str> = view::texts(of, "mismatchLabelKeys").collect();
    for (at, key) in view::texts(of, "matchLabelKeys").enumerate().filter(|(_, key)| others.contains(key)) {
        let detail = "exists in both matchLabelKeys and mismatchLabelKeys";
        errors.invalid(format_args!("{path}.matchLabelKeys[{at}]"), view::quoted(key), detail);
    }
}

/// Checks topology spread constraints.
pub(super) fn spreading(constraints: &[Value], path: view::At<'_>, errors: &mut FieldErrors) {
    let pair = |c: &Value| (view::text(c, "topologyKey").to_owned(), view::text(c, "whenUnsatisfiable").to_owned());
    for (at, constraint) in constraints.iter().enumerate() {
        let path = format_args!("{path}[{at}]");
        positive(view::int(constraint, "maxSkew").unwrap_or_default(), &format_args!("{path}.maxSkew"), errors);
        let (key, action) = pair(constraint);
        if key.is_empty() {
            errors.required(format_args!("{path}.topologyKey"), "can not be empty");
        }
        if action.is_empty() {
            errors.not_supported(format_args!("{path}.whenUnsatisfiable"), "\"\"", &["DoNotSchedule", "ScheduleAnyway"]);
        }
        if constraints[at + 1..].iter().any(|other| pair(other) == (key.clone(), action.clone())) {
            errors.duplicate(format_args!("{path}.{{topologyKey, whenUnsatisfiable}}"), view::quoted(&format!("{{{key}, {action}}}")));
        }
        if let Some(domains) = view::int(constraint, "minDomains") {
            positive(domains, &format_args!("{path}.minDomains"), errors);
            if action != "DoNotSchedule" {
                let detail = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
                errors.invalid(format_args!("{path}.minDomains"), domains, &detail);
            }
        }
        match_keys(constraint, &path, errors);
        if let Some(selector) = view::get(constraint, "labelSelector") {
            selector::validate_object(selector, &format!("{path}.labelSelector"), errors);
        }
    }
}

fn positive(value: i64, path: view::At<'_>, errors: &mut FieldErrors) {
    if value <= 0 {
        errors.invalid(path, value, "must be greater than zero");
    }
}
