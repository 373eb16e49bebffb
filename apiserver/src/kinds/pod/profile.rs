//! Seccomp and AppArmor profiles of pods and containers (upstream `validateSeccompProfileField`, `ValidateAppArmorProfileField`).

use coracle_schema::FieldErrors;
use coracle_tree::{Value, json};

use super::container::descending;
use crate::kinds::view;

/// Before the fields of 1.30, annotations named the AppArmor profile of each container.
pub(super) const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// The profile that an annotation names.
pub(super) fn of_annotation(text: &str) -> Option<Value> {
    match text {
        "unconfined" => Some(json!({"type": "Unconfined"})),
        "runtime/default" => Some(json!({"type": "RuntimeDefault"})),
        _ => {
            let local = text.strip_prefix("localhost/").filter(|local| !local.is_empty())?;
            Some(json!({"type": "Localhost", "localhostProfile": local}))
        }
    }
}

/// Copies annotations into the fields of containers that have none, unless the pod's profile is the same (KEP-24).
pub(super) fn take_annotations(pod: &mut Value) {
    let annotations = view::map(view::member(pod, "metadata"), "annotations").clone();
    let spec = view::member(pod, "spec");
    if !annotations.keys().any(|key| key.starts_with(APP_ARMOR)) || view::text(view::member(spec, "os"), "name") == "windows" {
        return;
    }
    let of_pod = view::get(view::member(spec, "securityContext"), "appArmorProfile").cloned();
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        let Some(spec) = view::message_mut(pod, "spec") else { return };
        for container in view::items_mut(spec, list) {
            let given = annotations.get(&format!("{APP_ARMOR}{}", view::text(container, "name"))).and_then(Value::as_str);
            let Some(profile) = given.and_then(of_annotation).filter(|profile| Some(profile) != of_pod.as_ref()) else { continue };
            let mut errors = FieldErrors::none();
            app_armor(&profile, &"", &mut errors);
            if errors.is_empty() && view::get(view::member(container, "securityContext"), "appArmorProfile").is_none() {
                view::set_absent(container, "securityContext", json!({}));
                container["securityContext"]["appArmorProfile"] = profile;
            }
        }
    }
}

/// Checks both profiles of a security context.
pub(super) fn check(security: &Value, path: view::At<'_>, errors: &mut FieldErrors) {
    if let Some(profile) = view::get(security, "seccompProfile") {
        of(profile, "seccompProfile", "seccomp", profile, &format_args!("{path}.seccompProfile"), errors);
        let local = view::text(profile, "localhostProfile");
        if view::text(profile, "type") == "Localhost" && view::get(profile, "localhostProfile").is_some() {
            descending(local, &format_args!("{path}.seccompProfile.localhostProfile"), errors);
        }
    }
    if let Some(profile) = view::get(security, "appArmorProfile") {
        let shown = view::member(profile, "localhostProfile");
        let path = format_args!("{path}.appArmorProfile");
        of(profile, "appArmorProfile", "AppArmor", shown, &path, errors);
        app_armor(profile, &format_args!("{path}.localhostProfile"), errors);
    }
}

/// What both have in common: a type, and a profile of the host with the type that has one. `shown` is the value upstream names.
fn of(profile: &Value, field: &str, called: &str, shown: &Value, path: view::At<'_>, errors: &mut FieldErrors) {
    let local = view::get(profile, "localhostProfile").is_some();
    let kind = view::text(profile, "type");
    if kind.is_empty() {
        errors.required(format_args!("{path}.type"), &format!("type is required when {field} is set"));
    }
    match (kind, local) {
        // Of AppArmor upstream says nothing more without a type it knows.
        (_, true) if field == "appArmorProfile" && !["RuntimeDefault", "Unconfined", "Localhost"].contains(&kind) => {}
        ("Localhost", false) => {
            errors.required(format_args!("{path}.localhostProfile"), &format!("must be set when {called} type is Localhost"));
        }
        ("Localhost", true) | (_, false) => {}
        (_, true) => {
            errors.invalid(format_args!("{path}.localhostProfile"), shown, &format!("can only be set when {called} type is Localhost"));
        }
    }
}

/// A profile's name is not padded with white space, not empty and not too long.
fn app_armor(profile: &Value, path: view::At<'_>, errors: &mut FieldErrors) {
    const LONGEST: usize = 4095;
    let Some(local) = view::get(profile, "localhostProfile").and_then(Value::as_str) else { return };
    if view::text(profile, "type") != "Localhost" {
        return;
    }
    if local.trim() != local {
        errors.invalid(path, view::quoted(local), "must not be padded with whitespace");
    } else if local.is_empty() {
        errors.required(path, "must be set when AppArmor type is Localhost");
    }
    if local.len() > LONGEST {
        errors.too_long(path, LONGEST as u64, "byte");
    }
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    #[test]
    fn only_a_local_profile_is_named_and_it_must_be() {
        let security =
            json!({"seccompProfile": {"type": "RuntimeDefault", "localhostProfile": "x"}, "appArmorProfile": {"type": "Localhost"}});
        let mut errors = FieldErrors::none();
        check(&security, &"s", &mut errors);
        let said: Vec<&str> = errors.0.iter().map(|error| error.path.as_str()).collect();
        assert_eq!(said, ["s.seccompProfile.localhostProfile", "s.appArmorProfile.localhostProfile"]);
        let mut errors = FieldErrors::none();
        check(&json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "/x"}}), &"s", &mut errors);
        assert_eq!(errors.0[0].to_string(), "s.seccompProfile.localhostProfile: Invalid value: \"/x\": must be a relative path");
    }
}
