//! Seccomp and AppArmor profiles of pods and containers (upstream `validateSeccompProfileField`, `ValidateAppArmorProfileField`).

use coracle_schema::FieldErrors;
use serde_json::Value;

use super::container::descending;
use crate::kinds::view;

/// Checks both profiles of a security context.
pub(super) fn check(security: &Value, path: &str, errors: &mut FieldErrors) {
    if let Some(profile) = view::get(security, "seccompProfile") {
        of(profile, "seccompProfile", "seccomp", profile, &format!("{path}.seccompProfile"), errors);
        let local = view::text(profile, "localhostProfile");
        if view::text(profile, "type") == "Localhost" && view::get(profile, "localhostProfile").is_some() {
            descending(local, &format!("{path}.seccompProfile.localhostProfile"), errors);
        }
    }
    if let Some(profile) = view::get(security, "appArmorProfile") {
        let shown = view::member(profile, "localhostProfile");
        let path = format!("{path}.appArmorProfile");
        of(profile, "appArmorProfile", "AppArmor", shown, &path, errors);
        app_armor(profile, &format!("{path}.localhostProfile"), errors);
    }
}

/// What both have in common: a type, and a profile of the host with the type that has one. `shown` is the value upstream names.
fn of(profile: &Value, field: &str, called: &str, shown: &Value, path: &str, errors: &mut FieldErrors) {
    let local = view::get(profile, "localhostProfile").is_some();
    let kind = view::text(profile, "type");
    if kind.is_empty() {
        errors.required(format!("{path}.type"), &format!("type is required when {field} is set"));
    }
    match (kind, local) {
        ("Localhost", false) => {
            errors.required(format!("{path}.localhostProfile"), &format!("must be set when {called} type is Localhost"));
        }
        ("Localhost", true) | (_, false) => {}
        (_, true) => {
            errors.invalid(format!("{path}.localhostProfile"), shown, &format!("can only be set when {called} type is Localhost"));
        }
    }
}

/// A profile's name is not padded with white space, not empty and not too long.
fn app_armor(profile: &Value, path: &str, errors: &mut FieldErrors) {
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
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_local_profile_is_named_and_it_must_be() {
        let security =
            json!({"seccompProfile": {"type": "RuntimeDefault", "localhostProfile": "x"}, "appArmorProfile": {"type": "Localhost"}});
        let mut errors = FieldErrors::none();
        check(&security, "s", &mut errors);
        let said: Vec<&str> = errors.0.iter().map(|error| error.path.as_str()).collect();
        assert_eq!(said, ["s.seccompProfile.localhostProfile", "s.appArmorProfile.localhostProfile"]);
        let mut errors = FieldErrors::none();
        check(&json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "/x"}}), "s", &mut errors);
        assert_eq!(errors.0[0].to_string(), "s.seccompProfile.localhostProfile: Invalid value: \"/x\": must be a relative path");
    }
}
