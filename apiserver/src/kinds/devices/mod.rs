//! Devices: what drivers offer, claims for them, classes, and what keeps devices from being used (upstream `apis/resource/v1`,
//! `apis/resource/validation`). Upstream's types declare most of what the tables know once more; here it is looked at in one place, so that
//! the tables are not heard.

mod claim;
mod faults;
mod selector;
mod slice;

use coracle_schema::{FieldErrors, name};
use coracle_tree::Value;

use self::faults::{Faults, Set, Unique, itself};
use super::{conditions, view};
use crate::registry::{Object, Part, Policy, Rules};

/// Rules of `resourceclaims` and `resourceclaimtemplates`.
pub(super) struct ResourceClaim {
    /// Where the claim's spec is.
    pub(super) spec: &'static str,
}

/// Rules of `resourceslices`.
pub(super) struct ResourceSlice;

/// Rules of `deviceclasses`.
pub(super) struct DeviceClass;

/// Rules of `devicetaintrules`.
pub(super) struct DeviceTaintRule;

const CONDITIONS: usize = 8;
const LISTED: usize = 32;
const BINDING_CONDITIONS: usize = 4;
const EFFECTS: [&str; 3] = ["NoExecute", "NoSchedule", "None"];

fn everything(_: &Object) -> Vec<String> {
    vec!["spec".to_owned(), "status".to_owned()]
}

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

    fn prepare(&self, new: &mut Object, old: Option<&Object>, part: Part<'_>) {
        if let (Part::Status, Some(old)) = (part, old)
            && let Some(status) = new.value_mut().get_mut("status")
        {
            claim::forget_released(status, view::member(old.value(), "status"));
        }
    }

    fn passed_over(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        everything(new)
    }

    fn validate(&self, new: &Object, old: Option<&Object>, part: Part<'_>) -> FieldErrors {
        let template = self.spec != "/spec";
        let mut faults = Faults::new(true);
        if part == Part::Status {
            claim::status(new.value(), old.map(Object::value), &mut faults);
            return faults.into_errors();
        }
        // A spec never changes; one that did not was checked when it came. Upstream checks that of a template all the same.
        let spec = |object: &'_ Object| view::member(object.value(), "spec").clone();
        let changed = old.map(|old| spec(old) != spec(new));
        if changed == Some(false) || changed == Some(true) && !template {
            if changed == Some(true) {
                faults.written.invalid("spec", Value::Null, "field is immutable");
            }
            return faults.into_errors();
        }
        let path = self.spec.trim_start_matches('/').replace('/', ".");
        let devices = new.value().pointer(self.spec).map_or(&Value::Null, |spec| view::member(spec, "devices"));
        claim::spec(devices, &format!("{path}.devices"), &mut faults);
        if changed == Some(true) {
            faults.written.invalid("spec", view::member(new.value(), "spec"), "field is immutable");
        }
        faults.into_errors()
    }
}

fn count(request: &mut Value) {
    if view::text(request, "allocationMode") == "ExactCount" && view::int(request, "count").unwrap_or_default() == 0 {
        request["count"] = 1.into();
    }
}

impl Rules for ResourceSlice {
    fn note_time(&self, new: &mut Object, _old: Option<&Object>, _part: Part<'_>, now: &str) {
        let Some(spec) = view::message_mut(new.value_mut(), "spec") else { return };
        for device in view::items_mut(spec, "devices") {
            view::items_mut(device, "taints").for_each(|taint| view::set_absent(taint, "timeAdded", now));
        }
    }

    fn passed_over(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        everything(new)
    }

    fn validate(&self, new: &Object, old: Option<&Object>, _part: Part<'_>) -> FieldErrors {
        let mut faults = Faults::new(true);
        let spec = |object: &'_ Object| view::member(object.value(), "spec").clone();
        slice::spec(&spec(new), old.map(spec).as_ref(), &mut faults);
        faults.into_errors()
    }

    fn warnings(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        let driver = new.text("/spec/driver");
        if driver == driver.to_lowercase() {
            return Vec::new();
        }
        vec![format!("spec.driver: driver names should be lowercase; {driver:?} contains uppercase characters")]
    }

    fn selectable(&self, object: &Value) -> Vec<(&'static str, String)> {
        super::fields::RESOURCE_SLICE.selectable(object)
    }
}

impl Rules for DeviceClass {
    fn passed_over(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        everything(new)
    }

    fn validate(&self, new: &Object, old: Option<&Object>, _part: Part<'_>) -> FieldErrors {
        let mut faults = Faults::new(true);
        let spec = view::member(new.value(), "spec");
        // What is stored was fine when it came.
        let stored = |field| old.is_some_and(|old| view::get(view::member(old.value(), "spec"), field) == view::get(spec, field));
        let listed = |field| Set { items: view::list(spec, field), most: LISTED, unique: Unique::No, key: itself };
        let same = stored("selectors");
        faults.each(&listed("selectors"), "spec.selectors", |faults, given, path| {
            if !same {
                selector::check(given, path, &mut faults.written);
            } else if view::get(given, "cel").is_none() {
                faults.written.required(format!("{path}.cel"), "");
            }
        });
        let same = stored("config");
        faults.each(&listed("config"), "spec.config", |faults, given, path| claim::configuration(given, path, same, faults));
        if let Some(resource) = view::get(spec, "extendedResourceName").and_then(Value::as_str) {
            extended_resource(resource, "spec.extendedResourceName", faults.declared());
        }
        faults.into_errors()
    }
}

/// A resource as pods ask for it (apimachinery `validate.ExtendedResourceName`).
fn extended_resource(resource: &str, path: &str, errors: &mut FieldErrors) {
    if !resource.contains('/') {
        errors.invalid(path, view::quoted(resource), "a name must be a domain-prefixed path, such as 'example.com/my-prop'");
    } else if resource.contains("kubernetes.io/") {
        errors.invalid(path, view::quoted(resource), "must not have \"kubernetes.io/\" domain");
    }
    if resource.starts_with("requests.") {
        errors.invalid(path, view::quoted(resource), "must not have \"requests.\" prefix");
    }
    errors.invalid_each(path, resource, name::in_bytes(name::qualified(&format!("requests.{resource}"))));
}

/// Checks a taint; an effect that stays was fine when it came.
fn taint(taint: &Value, old: Option<&Value>, path: &str, faults: &mut Faults) {
    let text = |field| view::text(taint, field);
    faults.written.invalid_each(&format!("{path}.key"), text("key"), name::qualified(text("key")));
    faults.written.invalid_each(&format!("{path}.value"), text("value"), name::label_value(text("value")));
    if old.is_some_and(|old| view::text(old, "effect") == text("effect")) {
        return;
    }
    match text("effect") {
        "" => faults.declared().required(format!("{path}.effect"), ""),
        known if EFFECTS.contains(&known) => {}
        other => faults.declared().not_supported(format!("{path}.effect"), view::quoted(other), &EFFECTS),
    }
}

/// Checks the conditions that must hold, or fail, before a pod is bound (`validateDeviceBindingParameters`).
fn binding(of: &Value, path: &str, faults: &mut Faults) {
    let lists = ["bindingConditions", "bindingFailureConditions"];
    for list in lists {
        let set = Set { items: view::list(of, list), most: BINDING_CONDITIONS, unique: Unique::No, key: itself };
        faults.each(&set, &format!("{path}.{list}"), |faults, condition, path| {
            let condition = condition.as_str().unwrap_or_default();
            faults.written.invalid_each(path, condition, name::qualified(condition));
        });
    }
    let [wanted, failures] = lists.map(|list| view::texts(of, list).collect::<Vec<_>>());
    for (list, conditions) in [(lists[0], &wanted), (lists[1], &failures)] {
        for (at, condition) in conditions.iter().enumerate() {
            let path = format!("{path}.{list}[{at}]");
            if conditions[..at].contains(condition) {
                faults.written.duplicate(&path, view::quoted(condition));
            }
            if list == lists[1] && wanted.contains(condition) {
                let detail = "bindingFailureConditions must not overlap with bindingConditions";
                faults.written.invalid(path, view::quoted(condition), detail);
            }
        }
    }
    for (list, own, other, detail) in [
        (lists[0], &wanted, &failures, "bindingConditions are required to use bindingFailureConditions"),
        (lists[1], &failures, &wanted, "bindingFailureConditions are required to use bindingConditions"),
    ] {
        if own.is_empty() && !other.is_empty() {
            faults.written.invalid(format!("{path}.{list}"), view::member(of, list), detail);
        }
    }
}

impl Rules for DeviceTaintRule {
    fn policy(&self) -> Policy {
        Policy::CONDITIONAL
    }

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

    fn passed_over(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        everything(new)
    }

    fn validate(&self, new: &Object, old: Option<&Object>, part: Part<'_>) -> FieldErrors {
        let mut faults = Faults::new(true);
        if part == Part::Status {
            let all = view::list(view::member(new.value(), "status"), "conditions");
            conditions::check(all, "status.conditions", &mut faults.written);
            if all.len() > CONDITIONS {
                faults.written.too_many("status.conditions", all.len(), CONDITIONS as u64);
            }
            return faults.into_errors();
        }
        let spec = view::member(new.value(), "spec");
        let chosen = view::member(spec, "deviceSelector");
        let given = |field| view::get(chosen, field).and_then(Value::as_str);
        if let Some(driver) = given("driver") {
            faults.driver(driver, "spec.deviceSelector.driver");
        }
        if let Some(pool) = given("pool") {
            faults.pool(pool, "spec.deviceSelector.pool");
        }
        if let Some(device) = given("device") {
            faults.written.invalid_each("spec.deviceSelector.device", device, name::label(device));
        }
        let before = old.map(|old| view::member(view::member(old.value(), "spec"), "taint"));
        taint(view::member(spec, "taint"), before, "spec.taint", &mut faults);
        faults.into_errors()
    }
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    #[test]
    fn a_claims_constraints_speak_of_its_requests_and_its_spec_stays() {
        let rules = ResourceClaim { spec: "/spec" };
        let claim = |of: &str| {
            let requests = json!([{"name": "gpu", "exactly": {"deviceClassName": "c", "allocationMode": "All"}}]);
            Object::new(json!({"spec": {"devices": {"requests": requests, "constraints": [{"requests": [of], "matchAttribute": "example.com/a"}]}}})).unwrap()
        };
        assert!(rules.validate(&claim("gpu"), None, Part::Whole).is_empty());
        let refused = rules.validate(&claim("nic"), None, Part::Whole);
        assert_eq!(refused.0[0].path, "spec.devices.constraints[0].requests[0]");
        let changed = rules.validate(&claim("nic"), Some(&claim("gpu")), Part::Whole);
        assert_eq!(changed.0[0].to_string(), "spec: Invalid value: null: field is immutable");
    }
}
