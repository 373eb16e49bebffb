//! Claims for devices, and what keeps devices from being used (upstream `apis/resource/v1`, `apis/resource/validation`).

use std::collections::HashSet;

use coracle_schema::{FieldErrors, name};
use serde_json::Value;

use super::{conditions, view};
use crate::registry::{Object, Part, Rules};

/// Rules of `resourceclaims` and `resourceclaimtemplates`.
pub(super) struct ResourceClaim {
    /// Where the claim's spec is.
    pub(super) spec: &'static str,
}

/// Rules of `devicetaintrules`.
pub(super) struct DeviceTaintRule;

impl Rules for ResourceClaim {
    fn default(&self, object: &mut Object) {
        let devices = object.value_mut().pointer_mut(self.spec).and_then(|spec| spec.get_mut("devices"));
        let Some(devices) = devices else { return };
        for request in view::items_mut(devices, "requests") {
            if let Some(exactly) = view::message_mut(request, "exactly") {
                count(exactly);
            }
            view::items_mut(request, "firstAvailable").for_each(count);
        }
    }

    fn validate(&self, new: &Object, old: Option<&Object>, part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        if part == Part::Status {
            status(new.value(), old.map(Object::value), &mut errors);
            return errors;
        }
        let path = self.spec.trim_start_matches('/').replace('/', ".");
        // A spec never changes; one that did not was checked when it came.
        if let Some(old) = old {
            let spec = |object: &Object| view::get(object.value(), "spec").cloned();
            if spec(old) != spec(new) {
                errors.invalid("spec", Value::Null, "field is immutable");
            } else {
                return errors;
            }
        }
        let empty = Value::Null;
        claim(view::member(new.value().pointer(self.spec).unwrap_or(&empty), "devices"), &format!("{path}.devices"), &mut errors);
        errors
    }
}

fn count(request: &mut Value) {
    if view::text(request, "allocationMode") == "ExactCount" && view::int(request, "count").unwrap_or_default() == 0 {
        request["count"] = 1.into();
    }
}

/// A name that must be there, whose form says that it is not.
fn label(given: &Value, field: &str, path: &str, errors: &mut FieldErrors) {
    let text = view::text(given, field);
    errors.invalid_each(&format!("{path}.{field}"), text, name::label(text));
}

fn class(request: &Value, path: &str, errors: &mut FieldErrors) {
    match view::text(request, "deviceClassName") {
        "" => errors.required(format!("{path}.deviceClassName"), ""),
        class => errors.invalid_each(&format!("{path}.deviceClassName"), class, name::subdomain(class)),
    }
}

fn claim(devices: &Value, path: &str, errors: &mut FieldErrors) {
    let mut names = HashSet::new();
    for (at, request) in view::list(devices, "requests").iter().enumerate() {
        let path = format!("{path}.requests[{at}]");
        let name = view::text(request, "name");
        label(request, "name", &path, errors);
        if !names.insert(name.to_owned()) {
            errors.duplicate(&path, request);
        }
        let choices = view::list(request, "firstAvailable");
        match (view::get(request, "exactly"), choices.is_empty()) {
            (None, true) => errors.required(&path, "exactly one of `exactly` or `firstAvailable` is required"),
            (Some(_), false) => {
                let detail = "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
                errors.invalid(&path, Value::Null, detail);
            }
            (Some(exactly), true) => class(exactly, &format!("{path}.exactly"), errors),
            (None, false) => {
                for (at, choice) in choices.iter().enumerate() {
                    let path = format!("{path}.firstAvailable[{at}]");
                    label(choice, "name", &path, errors);
                    if !names.insert(format!("{name}/{}", view::text(choice, "name"))) {
                        errors.duplicate(&path, choice);
                    }
                    class(choice, &path, errors);
                }
            }
        }
    }
    for list in ["constraints", "config"] {
        for (at, given) in view::list(devices, list).iter().enumerate() {
            for (of, request) in view::texts(given, "requests").enumerate() {
                let path = format!("{path}.{list}[{at}].requests[{of}]");
                for part in request.split('/') {
                    errors.invalid_each(&path, part, name::label(part));
                }
                if !names.contains(request) {
                    let detail = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
                    errors.invalid(path, view::quoted(request), detail);
                }
            }
        }
    }
    for (at, config) in view::list(devices, "config").iter().enumerate() {
        if view::get(config, "opaque").is_none() {
            errors.required(format!("{path}.config[{at}].opaque"), "");
        }
    }
}

fn status(new: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    let status = view::member(new, "status");
    let allocation = |object: &Value| view::get(view::member(object, "status"), "allocation").cloned();
    if let Some(before) = old.and_then(allocation)
        && allocation(new).is_some_and(|now| now != before)
    {
        errors.invalid("status.allocation", Value::Null, "field cannot be modified once set");
    }
    for (at, device) in view::list(status, "devices").iter().enumerate() {
        conditions::check(view::list(device, "conditions"), &format!("status.devices[{at}].conditions"), errors);
    }
}

impl Rules for DeviceTaintRule {
    fn note_time(&self, new: &mut Object, old: Option<&Object>, _part: Part<'_>, now: &str) {
        let taint = |object: &Object| object.value().pointer("/spec/taint").cloned();
        let before = old.and_then(taint);
        if before.is_some() && before == taint(new) {
            return;
        }
        if let Some(taint) = new.value_mut().pointer_mut("/spec/taint") {
            view::set_absent(taint, "timeAdded", now);
        }
    }

    fn validate(&self, new: &Object, _old: Option<&Object>, part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        if part == Part::Status {
            conditions::check(view::list(view::member(new.value(), "status"), "conditions"), "status.conditions", &mut errors);
            return errors;
        }
        let spec = view::member(new.value(), "spec");
        let selector = view::member(spec, "deviceSelector");
        let given = |field| view::get(selector, field).and_then(Value::as_str);
        if let Some(driver) = given("driver") {
            errors.invalid_each("spec.deviceSelector.driver", driver, name::subdomain(driver));
        }
        for part in given("pool").into_iter().flat_map(|pool| pool.split('/')) {
            errors.invalid_each("spec.deviceSelector.pool", part, name::subdomain(part));
        }
        if let Some(device) = given("device") {
            errors.invalid_each("spec.deviceSelector.device", device, name::label(device));
        }
        let taint = view::member(spec, "taint");
        let key = view::text(taint, "key");
        errors.invalid_each("spec.taint.key", key, name::qualified(key));
        let value = view::text(taint, "value");
        errors.invalid_each("spec.taint.value", value, name::label_value(value));
        errors
    }

    fn order(&self) -> &'static [&'static str] {
        &[
            "metadata",
            "spec.deviceSelector.driver",
            "spec.deviceSelector.pool",
            "spec.deviceSelector.device",
            "spec.taint.key",
            "spec.taint.value",
            "spec.taint.effect",
        ]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_claims_constraints_speak_of_its_requests_and_its_spec_stays() {
        let rules = ResourceClaim { spec: "/spec" };
        let claim = |of: &str| {
            let requests = json!([{"name": "gpu", "exactly": {"deviceClassName": "c"}}]);
            Object::new(json!({"spec": {"devices": {"requests": requests, "constraints": [{"requests": [of]}]}}})).unwrap()
        };
        assert!(rules.validate(&claim("gpu"), None, Part::Whole).is_empty());
        let refused = rules.validate(&claim("nic"), None, Part::Whole);
        assert_eq!(refused.0[0].path, "spec.devices.constraints[0].requests[0]");
        let changed = rules.validate(&claim("nic"), Some(&claim("gpu")), Part::Whole);
        assert_eq!(changed.0[0].to_string(), "spec: Invalid value: null: field is immutable");
    }
}
