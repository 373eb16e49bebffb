//! Kinds that extend the server: custom resource definitions, API services, webhooks. What is needed to store them; serving is elsewhere.

use std::collections::HashSet;

use coracle_schema::{FieldErrors, name, selector};
use serde_json::{Value, json};

use super::view;
use crate::registry::{Object, Part, Rules};

/// Rules of `customresourcedefinitions`.
pub(super) struct CustomResourceDefinition;
/// Rules of `apiservices`.
pub(super) struct ApiService;
/// Rules of both webhook configurations.
pub(super) struct WebhookConfiguration;

impl Rules for CustomResourceDefinition {
    fn default(&self, object: &mut Object) {
        let Some(names) = view::message_mut(object.value_mut(), "spec").and_then(|spec| view::message_mut(spec, "names")) else { return };
        let kind = view::text(names, "kind").to_owned();
        if view::text(names, "singular").is_empty() {
            names["singular"] = kind.to_lowercase().into();
        }
        if view::text(names, "listKind").is_empty() && !kind.is_empty() {
            names["listKind"] = format!("{kind}List").into();
        }
    }

    fn prepare(&self, new: &mut Object, old: Option<&Object>, part: Part<'_>) {
        if old.is_none() {
            new.value_mut()["status"] = json!({"conditions": [], "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": []});
        }
        if part == Part::Status {
            return;
        }
        // A version that was ever stored is remembered until an administrator says that no object is kept in it.
        let versions = view::list(view::member(new.value(), "spec"), "versions");
        let Some(stored) = versions.iter().find(|v| view::flag(v, "storage")).map(|v| view::text(v, "name").to_owned()) else { return };
        let status = new.member_mut("status");
        let known = status.entry("storedVersions").or_insert_with(|| json!([]));
        if known.is_null() {
            *known = json!([]);
        }
        if let Some(list) = known.as_array_mut()
            && !list.iter().any(|v| v == stored.as_str())
        {
            list.push(stored.into());
        }
    }

    fn validate(&self, new: &Object, old: Option<&Object>, part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        if part == Part::Status {
            return errors;
        }
        let spec = view::member(new.value(), "spec");
        let (group, names) = (view::text(spec, "group"), view::member(spec, "names"));
        if new.name() != format!("{}.{group}", view::text(names, "plural")) {
            errors.invalid("metadata.name", view::quoted(new.name()), "must be spec.names.plural+\".\"+spec.group");
        }
        match group {
            "" => errors.required("spec.group", ""),
            _ if !name::subdomain(group).is_empty() => {
                errors.invalid("spec.group", view::quoted(group), &name::subdomain(group).join(","));
            }
            _ if !group.contains('.') => errors.invalid("spec.group", view::quoted(group), "should be a domain with at least one dot"),
            _ => {}
        }
        match view::text(spec, "scope") {
            "" => errors.required("spec.scope", ""),
            "Cluster" | "Namespaced" => {}
            other => errors.not_supported("spec.scope", view::quoted(other), &["Cluster", "Namespaced"]),
        }
        versions(spec, &mut errors);
        definition_names(names, &mut errors);
        if let Some(old) = old {
            let before = view::member(old.value(), "spec");
            let established = |c: &Value| view::text(c, "type") == "Established" && view::text(c, "status") == "True";
            let is_established = view::list(view::member(old.value(), "status"), "conditions").iter().any(established);
            if is_established && view::text(before, "scope") != view::text(spec, "scope") {
                errors.invalid("spec.scope", view::member(spec, "scope"), "field is immutable");
            }
            for (now, before, path) in [
                (view::text(spec, "group"), view::text(before, "group"), "spec.group"),
                (view::text(names, "plural"), view::text(view::member(before, "names"), "plural"), "spec.names.plural"),
            ] {
                if now != before {
                    errors.invalid(path, view::quoted(now), "field is immutable");
                }
            }
        }
        errors
    }
}

fn versions(spec: &Value, errors: &mut FieldErrors) {
    let list = view::list(spec, "versions");
    let mut seen = HashSet::new();
    for (at, version) in list.iter().enumerate() {
        let path = format!("spec.versions[{at}]");
        let version_name = view::text(version, "name");
        let wrong = name::label_1035(version_name);
        if !wrong.is_empty() {
            errors.invalid(format!("{path}.name"), view::quoted(version_name), &wrong.join(","));
        }
        if !seen.insert(version_name) {
            errors.invalid("spec.versions", view::member(spec, "versions"), "must contain unique version names");
        }
        if view::get(view::member(version, "schema"), "openAPIV3Schema").is_none() {
            errors.required(format!("{path}.schema.openAPIV3Schema"), "");
        }
    }
    if list.iter().filter(|v| view::flag(v, "storage")).count() != 1 {
        let detail = "must have exactly one version marked as storage version";
        errors.invalid("spec.versions", view::member(spec, "versions"), detail);
    }
}

fn definition_names(names: &Value, errors: &mut FieldErrors) {
    for field in ["plural", "singular", "kind", "listKind"] {
        let text = view::text(names, field);
        if text.is_empty() {
            errors.required(format!("spec.names.{field}"), "");
            continue;
        }
        let mixed = field == "kind" || field == "listKind";
        let wrong = name::label_1035(&if mixed { text.to_lowercase() } else { text.to_owned() });
        if !wrong.is_empty() {
            let head = if mixed { "may have mixed case, but should otherwise match: " } else { "" };
            errors.invalid(format!("spec.names.{field}"), view::quoted(text), &format!("{head}{}", wrong.join(",")));
        }
    }
    for field in ["shortNames", "categories"] {
        for (at, text) in view::texts(names, field).enumerate() {
            let wrong = name::label_1035(text);
            if !wrong.is_empty() {
                errors.invalid(format!("spec.names.{field}[{at}]"), view::quoted(text), &wrong.join(","));
            }
        }
    }
    let (kind, list) = (view::text(names, "kind"), view::text(names, "listKind"));
    if !kind.is_empty() && kind == list {
        errors.invalid("spec.names.listKind", view::quoted(list), "kind and listKind may not be the same");
    }
}

impl Rules for ApiService {
    fn validate(&self, new: &Object, _old: Option<&Object>, part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        if part == Part::Status {
            return errors;
        }
        let spec = view::member(new.value(), "spec");
        let (group, version) = (view::text(spec, "group"), view::text(spec, "version"));
        let wanted = format!("{version}.{group}");
        if new.name() != wanted {
            let detail = format!("must be `spec.version+\".\"+spec.group`: {wanted:?}");
            errors.invalid("metadata.name", view::quoted(new.name()), &detail);
        }
        if group.is_empty() && version != "v1" {
            errors.required("spec.group", "only v1 may have an empty group and it better be legacy kube");
        } else if !group.is_empty() {
            errors.invalid_each("spec.group", group, name::subdomain(group));
        }
        errors.invalid_each("spec.version", version, name::label_1035(version));
        for (field, most) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
            let value = view::int(spec, field).unwrap_or_default();
            if !(1..=most).contains(&value) {
                errors.invalid(format!("spec.{field}"), value, &format!("must be positive and less than {most}"));
            }
        }
        backing_service(spec, &mut errors);
        errors
    }
}

fn backing_service(spec: &Value, errors: &mut FieldErrors) {
    let (bundle, insecure) = (view::text(spec, "caBundle"), view::flag(spec, "insecureSkipTLSVerify"));
    let Some(service) = view::get(spec, "service") else {
        if !bundle.is_empty() {
            errors.invalid("spec.caBundle", view::quoted("…"), "local APIServices may not have a caBundle");
        }
        if insecure {
            errors.invalid("spec.insecureSkipTLSVerify", true, "local APIServices may not have insecureSkipTLSVerify");
        }
        return;
    };
    for field in ["namespace", "name"] {
        if view::text(service, field).is_empty() {
            errors.required(format!("spec.service.{field}"), "");
        }
    }
    if let Some(port) = view::int(service, "port") {
        for message in name::port_number(port) {
            errors.invalid("spec.service.port", port, &format!("port is not valid: {message}"));
        }
    }
    if insecure && !bundle.is_empty() {
        errors.invalid("spec.insecureSkipTLSVerify", true, "may not be true if caBundle is present");
    }
}

impl Rules for WebhookConfiguration {
    fn validate(&self, new: &Object, _old: Option<&Object>, _part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
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
}

fn webhook(hook: &Value, path: &str, errors: &mut FieldErrors) {
    let hook_name = view::text(hook, "name");
    if hook_name.is_empty() {
        errors.required(format!("{path}.name"), "");
    } else if name::subdomain(hook_name).is_empty() && hook_name.split('.').count() < 3 {
        errors.invalid(
            format!("{path}.name"),
            view::quoted(hook_name),
            "should be a domain with at least three segments separated by dots",
        );
    } else {
        errors.invalid_each(&format!("{path}.name"), hook_name, name::subdomain(hook_name));
    }
    let versions: Vec<&str> = view::texts(hook, "admissionReviewVersions").collect();
    if versions.is_empty() {
        errors.required(format!("{path}.admissionReviewVersions"), "must specify one of v1, v1beta1");
    } else if !versions.iter().any(|v| ["v1", "v1beta1"].contains(v)) {
        let shown = view::member(hook, "admissionReviewVersions");
        errors.invalid(format!("{path}.admissionReviewVersions"), shown, "must include at least one of v1, v1beta1");
    }
    match view::text(hook, "sideEffects") {
        "" => errors.required(format!("{path}.sideEffects"), "must specify one of None, NoneOnDryRun"),
        "None" | "NoneOnDryRun" => {}
        other => errors.not_supported(format!("{path}.sideEffects"), view::quoted(other), &["None", "NoneOnDryRun"]),
    }
    if let Some(seconds) = view::int(hook, "timeoutSeconds").filter(|s| !(1..=30).contains(s)) {
        errors.invalid(format!("{path}.timeoutSeconds"), seconds, "the timeout value must be between 1 and 30 seconds");
    }
    for field in ["namespaceSelector", "objectSelector"] {
        if let Some(given) = view::get(hook, field) {
            selector::validate_object(given, &format!("{path}.{field}"), errors);
        }
    }
    for (at, rule) in view::list(hook, "rules").iter().enumerate() {
        webhook_rule(rule, &format!("{path}.rules[{at}]"), errors);
    }
    client_config(view::member(hook, "clientConfig"), &format!("{path}.clientConfig"), errors);
}

fn webhook_rule(rule: &Value, path: &str, errors: &mut FieldErrors) {
    for (field, what) in
        [("operations", "operations"), ("apiGroups", "API groups"), ("apiVersions", "API versions"), ("resources", "resources")]
    {
        let list = view::list(rule, field);
        if list.is_empty() {
            errors.required(format!("{path}.{field}"), "");
        }
        if field != "resources" && list.len() > 1 && list.iter().any(|v| v == "*") {
            let detail = format!("if '*' is present, must not specify other {what}");
            errors.invalid(format!("{path}.{field}"), view::member(rule, field), &detail);
        }
    }
}

fn client_config(config: &Value, path: &str, errors: &mut FieldErrors) {
    let url = view::get(config, "url").and_then(Value::as_str);
    match (url, view::get(config, "service")) {
        (Some(url), None) => {
            if !url.starts_with("https://") {
                let scheme = url.split("://").next().unwrap_or_default();
                let detail = format!("'https' is the only allowed URL scheme; desired format: https://host[/path]; got scheme {scheme:?}");
                errors.invalid(format!("{path}.url"), view::quoted(url), &detail);
            }
        }
        (None, Some(service)) => {
            if view::text(service, "name").is_empty() {
                errors.required(format!("{path}.service.name"), "service name is required");
            }
            if view::text(service, "namespace").is_empty() {
                errors.required(format!("{path}.service.namespace"), "service namespace is required");
            }
            if let Some(port) = view::int(service, "port") {
                for message in name::port_number(port) {
                    errors.invalid(format!("{path}.service.port"), port, &format!("port is not valid: {message}"));
                }
            }
        }
        _ => errors.required(path, "exactly one of url or service is required"),
    }
}
