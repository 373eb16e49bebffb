//! Pod templates of workloads: defaults, and the checks every owner of pods shares (upstream `ValidatePodTemplateSpec`).

use coracle_schema::{FieldErrors, name, selector, selector::LabelSelector};
use coracle_tree::{Map, Value};

use super::{pod, view};
use crate::registry::Object;

/// Field by field defaults of the template at `spec.template`, and elsewhere by [`default_at`].
pub(super) fn default(object: &mut Value) {
    if let Some(spec) = view::message_mut(object, "spec") {
        default_at(spec);
    }
}

/// Defaults of the template in a spec.
pub(super) fn default_at(spec: &mut Value) {
    if let Some(template) = view::message_mut(spec, "template")
        && let Some(spec) = view::message_mut(template, "spec")
    {
        pod::default_spec(spec);
    }
}

/// Checks a template: labels, annotations and the pod spec.
pub(super) fn check(template: &Value, path: &str, errors: &mut FieldErrors) {
    let metadata = view::member(template, "metadata");
    selector::validate_labels(view::map(metadata, "labels"), &format!("{path}.labels"), errors);
    for key in view::map(metadata, "annotations").keys() {
        errors.invalid_each(&format!("{path}.annotations"), key, name::qualified(&key.to_lowercase()));
    }
    let spec = view::member(template, "spec");
    pod::validate_spec(spec, "", false, &format!("{path}.spec"), errors);
    if !view::list(spec, "ephemeralContainers").is_empty() {
        errors.forbidden(format!("{path}.spec.ephemeralContainers"), "ephemeral containers not allowed in pod template");
    }
}

/// Checks the template of what keeps pods running: they restart always and have no deadline. `owner` is the kind's name.
pub(super) fn check_lasting(template: &Value, owner: &str, path: &str, errors: &mut FieldErrors) {
    check(template, path, errors);
    let spec = view::member(template, "spec");
    let policy = view::text(spec, "restartPolicy");
    if policy != "Always" {
        restart_policy(policy, path, errors);
        errors.not_supported(format!("{path}.spec.restartPolicy"), view::quoted(policy), &["Always"]);
    }
    if view::get(spec, "activeDeadlineSeconds").is_some() {
        let detail = format!("activeDeadlineSeconds in {owner} is not Supported");
        errors.forbidden(format!("{path}.spec.activeDeadlineSeconds"), &detail);
    }
}

/// What upstream says of a restart policy that no pod has, before it says which of them the owner takes.
pub(super) fn restart_policy(policy: &str, path: &str, errors: &mut FieldErrors) {
    const POLICIES: [&str; 3] = ["Always", "OnFailure", "Never"];
    if !policy.is_empty() && !POLICIES.contains(&policy) {
        errors.not_supported(format!("{path}.spec.restartPolicy"), view::quoted(policy), &POLICIES);
    }
}

/// The template's path where its owner's selector is malformed: upstream then does not look at it.
pub(super) fn behind_selector(object: &Object) -> Vec<String> {
    if has_selector(object) { Vec::new() } else { vec!["spec.template".to_owned()] }
}

/// Whether the selector of a workload is well-formed, or absent.
pub(super) fn has_selector(object: &Object) -> bool {
    LabelSelector::from_object(view::get(view::member(object.value(), "spec"), "selector")).is_ok()
}

/// Checks a selector object that must be there, not empty, and match the template's labels. That it is there is in the tables.
pub(super) fn check_selector(spec: &Value, kind: &str, errors: &mut FieldErrors) {
    let Some(given) = view::get(spec, "selector") else {
        // No selector selects nothing, not even the template's pods.
        if let Ok(nothing) = LabelSelector::from_object(None) {
            matches_template(&nothing, view::member(spec, "template"), errors);
        }
        return;
    };
    selector::validate_object(given, "spec.selector", errors);
    match LabelSelector::from_object(Some(given)) {
        Ok(parsed) if parsed.is_everything() => {
            errors.invalid("spec.selector", given, &format!("empty selector is invalid for {kind}"));
        }
        Ok(parsed) => matches_template(&parsed, view::member(spec, "template"), errors),
        // Upstream has no words for this of stateful sets.
        Err(_) => errors.invalid("spec.selector", given, if kind == "statefulset" { "" } else { "invalid label selector" }),
    }
}

/// The template's labels must satisfy the selector.
pub(super) fn matches_template(selector: &LabelSelector, template: &Value, errors: &mut FieldErrors) {
    let labels = view::map(view::member(template, "metadata"), "labels");
    if !selector.matches(labels) {
        let shown = if labels.is_empty() { "null".to_owned() } else { Value::Object(labels.clone()).to_string() };
        errors.invalid("spec.template.metadata.labels", shown, "`selector` does not match template `labels`");
    }
}

/// A field that may not change once the object is there.
pub(super) fn immutable(new: &Value, old: &Value, field: &str, path: &str, errors: &mut FieldErrors) {
    let (now, before) = (view::get(new, field), view::get(old, field));
    if now != before {
        let path = if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") };
        errors.invalid(path, now.unwrap_or(&Value::Null), "field is immutable");
    }
}

/// Numbers that count something.
pub(super) fn not_negative(spec: &Value, fields: &[&str], path: &str, errors: &mut FieldErrors) {
    for field in fields {
        if let Some(value) = view::int(spec, field).filter(|v| *v < 0) {
            errors.invalid(format!("{path}.{field}"), value, "must be greater than or equal to 0");
        }
    }
}

/// The counts of a status: none negative, and none above another: `larger` of (count, the one it may not exceed, as upstream calls that).
pub(super) fn counts(status: &Value, counts: &[&str], larger: &[(&str, &str, &str)], errors: &mut FieldErrors) {
    not_negative(status, counts, "status", errors);
    for (count, bound, called) in larger {
        let value = |name| view::int(status, name).unwrap_or_default();
        if value(count) > value(bound) {
            errors.invalid(format!("status.{count}"), value(count), &format!("cannot be greater than {called}"));
        }
    }
}

/// A count of hash collisions only grows.
pub(super) fn collisions(new: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    let count = |object: &Value| view::int(view::member(object, "status"), "collisionCount").unwrap_or_default();
    if old.is_some_and(|old| count(new) < count(old)) {
        errors.invalid("status.collisionCount", count(new), "cannot be decremented");
    }
}

/// A number or a percentage, neither negative.
pub(super) fn int_or_percent(value: &Value, path: &str, errors: &mut FieldErrors) {
    match value {
        Value::String(text) => errors.invalid_each(path, text, name::percent(text)),
        Value::Number(number) if number.as_i64().is_some_and(|n| n < 0) => {
            errors.invalid(path, number, "must be greater than or equal to 0");
        }
        _ => {}
    }
}

/// A percentage above a hundred makes no sense.
pub(super) fn at_most_all(value: &Value, path: &str, errors: &mut FieldErrors) {
    let percent = value.as_str().and_then(|t| t.strip_suffix('%')).and_then(|t| t.parse::<i64>().ok());
    if percent.is_some_and(|p| p > 100) {
        errors.invalid(path, value, "must not be greater than 100%");
    }
}

/// The number in a number or percentage.
pub(super) fn amount(value: &Value) -> i64 {
    match value {
        Value::String(text) => text.trim_end_matches('%').parse().unwrap_or_default(),
        other => other.as_i64().unwrap_or_default(),
    }
}

/// A new object whose name will be part of its pods' names had better be named like a host; `what` says of what it will be a part.
pub(super) fn name_warnings(new: &Object, old: Option<&Object>, what: &str) -> Vec<String> {
    let wrong = name::label(new.name());
    if old.is_some() || wrong.is_empty() {
        return Vec::new();
    }
    let text = "which can result in surprising behavior; a DNS label is recommended";
    vec![format!("metadata.name: this is used in {what}, {text}: [{}]", wrong.join(" "))]
}

/// What is odd about the pods of the template at `path`, when it is new or the spec has changed.
pub(super) fn warnings(new: &Object, old: Option<&Object>, path: &str) -> Vec<String> {
    if old.is_some_and(|old| old.generation() == new.generation()) {
        return Vec::new();
    }
    let template = path.split('.').fold(new.value(), view::member);
    pod::warnings::of(template, path)
}

/// What [`name_warnings`] says of workloads.
pub(super) const POD_NAMES: &str = "Pod names and hostnames";

/// The labels of a template, made when absent.
pub(super) fn labels_mut(template: &mut Value) -> Option<&mut Map> {
    let metadata = template.as_object_mut()?.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    let labels = metadata.as_object_mut()?.entry("labels").or_insert_with(|| Value::Object(Map::new()));
    if labels.is_null() {
        *labels = Value::Object(Map::new());
    }
    labels.as_object_mut()
}
