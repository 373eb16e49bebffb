//! Kinds that bound others: disruption budgets, quotas, limit ranges, priority classes, leases.

use std::collections::{BTreeSet, HashSet};

use coracle_schema::{FieldErrors, Quantity, name, selector};
use serde_json::{Value, json};

use super::{resources, template, view};
use crate::registry::{Object, Part, Rules};

/// Rules of `poddisruptionbudgets`.
pub(super) struct PodDisruptionBudget;
/// Rules of `resourcequotas`.
pub(super) struct ResourceQuota;
/// Rules of `limitranges`.
pub(super) struct LimitRange;
/// Rules of `priorityclasses`.
pub(super) struct PriorityClass;
/// Rules of `leases`.
pub(super) struct Lease;

/// Priorities above are for the system.
const HIGHEST_PRIORITY: i64 = 1_000_000_000;

impl Rules for PodDisruptionBudget {
    fn validate(&self, new: &Object, _old: Option<&Object>, part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        if part == Part::Status {
            let status = view::member(new.value(), "status");
            let counts = ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"];
            super::conditions::check(view::list(status, "conditions"), "status.conditions", &mut errors);
            template::not_negative(status, &counts, "status", &mut errors);
            return errors;
        }
        let spec = view::member(new.value(), "spec");
        let (least, most) = (view::get(spec, "minAvailable"), view::get(spec, "maxUnavailable"));
        if least.is_some() && most.is_some() {
            errors.invalid("spec", spec, "minAvailable and maxUnavailable cannot be both set");
        }
        for (value, field) in [(least, "minAvailable"), (most, "maxUnavailable")] {
            if let Some(value) = value {
                template::int_or_percent(value, &format!("spec.{field}"), &mut errors);
                template::at_most_all(value, &format!("spec.{field}"), &mut errors);
            }
        }
        if let Some(given) = view::get(spec, "selector") {
            selector::validate_object(given, "spec.selector", &mut errors);
        }
        errors
    }
}

impl Rules for ResourceQuota {
    fn validate(&self, new: &Object, old: Option<&Object>, part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        if part == Part::Status {
            return errors;
        }
        let spec = view::member(new.value(), "spec");
        for (resource, amount) in view::map(spec, "hard") {
            let path = format!("spec.hard[{resource}]");
            // Counts of any resource: `count/deployments.apps`.
            resources::resource_name(resource, &path, &mut errors);
            resources::amount_of(resource, amount, &path, &mut errors);
        }
        let scopes: BTreeSet<&str> = view::texts(spec, "scopes").collect();
        for (one, other) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
            if scopes.contains(one) && scopes.contains(other) {
                errors.invalid("spec.scopes", view::member(spec, "scopes"), "conflicting scopes");
            }
        }
        let expressions = view::list(view::member(spec, "scopeSelector"), "matchExpressions");
        for (at, requirement) in expressions.iter().enumerate() {
            let path = format!("spec.scopeSelector.matchExpressions[{at}]");
            let values = view::list(requirement, "values");
            match view::text(requirement, "operator") {
                "In" | "NotIn" if values.is_empty() => {
                    let detail = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                    errors.required(format!("{path}.values"), detail);
                }
                "Exists" | "DoesNotExist" if !values.is_empty() => {
                    let detail = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
                    errors.invalid(format!("{path}.values"), view::member(requirement, "values"), detail);
                }
                _ => {}
            }
        }
        if let Some(old) = old {
            let before: BTreeSet<&str> = view::texts(view::member(old.value(), "spec"), "scopes").collect();
            if before != scopes {
                errors.invalid("spec.scopes", view::member(spec, "scopes"), "field is immutable");
            }
        }
        errors
    }
}

impl Rules for LimitRange {
    fn default(&self, object: &mut Object) {
        let Some(spec) = view::message_mut(object.value_mut(), "spec") else { return };
        for limit in view::items_mut(spec, "limits").filter(|l| view::text(l, "type") == "Container") {
            for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
                let given = view::map(limit, from).clone();
                if given.is_empty() {
                    continue;
                }
                view::set_absent(limit, to, json!({}));
                for (resource, amount) in given {
                    view::set_absent(&mut limit[to], &resource, amount);
                }
            }
        }
    }

    fn validate(&self, new: &Object, _old: Option<&Object>, _part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        let mut types = HashSet::new();
        for (at, limit) in view::list(view::member(new.value(), "spec"), "limits").iter().enumerate() {
            let path = format!("spec.limits[{at}]");
            let kind = view::text(limit, "type");
            if !types.insert(kind) {
                errors.duplicate(format!("{path}.type"), view::quoted(kind));
            }
            limit_type(kind, limit, &path, &mut errors);
            for list in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
                for resource in view::map(limit, list).keys() {
                    resources::resource_name(resource, &format!("{path}.{list}[{resource}]"), &mut errors);
                }
            }
            bounds(limit, &path, &mut errors);
        }
        errors
    }
}

fn limit_type(kind: &str, limit: &Value, path: &str, errors: &mut FieldErrors) {
    errors.invalid_each(&format!("{path}.type"), kind, name::qualified(kind));
    if !kind.contains('/') && !["Pod", "Container", "PersistentVolumeClaim"].contains(&kind) {
        errors.invalid(format!("{path}.type"), view::quoted(kind), "must be a standard limit type or fully qualified");
    }
    if kind == "Pod" {
        for list in ["default", "defaultRequest"] {
            if !view::map(limit, list).is_empty() {
                errors.forbidden(format!("{path}.{list}"), "may not be specified when `type` is 'Pod'");
            }
        }
    }
    if kind == "PersistentVolumeClaim" && ["min", "max"].iter().all(|l| !view::map(limit, l).contains_key("storage")) {
        let detail = "either minimum or maximum storage value is required, but neither was provided";
        errors.required(format!("{path}.limits"), detail);
    }
}

/// The smaller may not exceed the larger: list, its word, list, its word, and which of the two is blamed.
const ORDERED: &[(&str, &str, &str, &str, &str)] = &[
    ("min", "min value", "max", "max value", "min"),
    ("min", "min value", "defaultRequest", "default request value", "defaultRequest"),
    ("defaultRequest", "default request value", "max", "max value", "defaultRequest"),
    ("defaultRequest", "default request value", "default", "default limit value", "defaultRequest"),
    ("min", "min value", "default", "default value", "default"),
    ("default", "default value", "max", "max value", "default"),
];

fn bounds(limit: &Value, path: &str, errors: &mut FieldErrors) {
    let amount = |list: &str, resource: &str| view::map(limit, list).get(resource).and_then(view::quantity);
    for (low, low_word, high, high_word, blamed) in ORDERED {
        for resource in view::map(limit, low).keys() {
            let (Some(a), Some(b)) = (amount(low, resource), amount(high, resource)) else { continue };
            if a > b {
                let shown = amount(blamed, resource).unwrap_or_default();
                let detail = format!("{low_word} {a} is greater than {high_word} {b}");
                errors.invalid(format!("{path}.{blamed}[{resource}]"), view::quoted(&shown.to_string()), &detail);
            }
        }
    }
    for resource in view::map(limit, "maxLimitRequestRatio").keys() {
        let one = Quantity::from_milli(1000);
        if let Some(ratio) = amount("maxLimitRequestRatio", resource).filter(|r| *r < one) {
            let at = format!("{path}.maxLimitRequestRatio[{resource}]");
            errors.invalid(at, view::quoted(&ratio.to_string()), &format!("ratio {ratio} is less than 1"));
        }
    }
}

/// The classes every cluster has: name and value.
const SYSTEM_CLASSES: &[(&str, i64)] = &[("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

impl Rules for PriorityClass {
    fn validate(&self, new: &Object, old: Option<&Object>, _part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        let value = view::int(new.value(), "value").unwrap_or_default();
        if new.name().starts_with("system-") {
            system_class(new, value, &mut errors);
        } else if value > HIGHEST_PRIORITY {
            let detail = format!("maximum allowed value of a user defined priority is {HIGHEST_PRIORITY}");
            errors.forbidden("value", &detail);
        }
        if let Some(old) = old {
            if view::int(old.value(), "value").unwrap_or_default() != value {
                errors.forbidden("value", "may not be changed in an update.");
            }
            if view::text(old.value(), "preemptionPolicy") != view::text(new.value(), "preemptionPolicy") {
                errors.invalid("preemptionPolicy", view::member(new.value(), "preemptionPolicy"), "field is immutable");
            }
        }
        errors
    }
}

fn system_class(class: &Object, value: i64, errors: &mut FieldErrors) {
    let name = class.name();
    let known = SYSTEM_CLASSES.iter().find(|(known, _)| *known == name);
    let why = match known {
        None => format!("{name} is not a known system priority class"),
        Some((_, wanted)) if *wanted != value => format!("value of {name} PriorityClass must be {wanted}"),
        Some(_) if view::flag(class.value(), "globalDefault") => format!("globalDefault of {name} PriorityClass must be false"),
        Some(_) => return,
    };
    let head = "priority class names with 'system-' prefix are reserved for system use only. error: ";
    errors.forbidden("metadata.name", &format!("{head}{why}"));
}

impl Rules for Lease {
    fn policy(&self) -> crate::registry::Policy {
        crate::registry::Policy { create_on_update: true, unconditional_update: false, ..crate::registry::Policy::DEFAULT }
    }

    fn validate(&self, new: &Object, _old: Option<&Object>, _part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        let spec = view::member(new.value(), "spec");
        if let Some(seconds) = view::int(spec, "leaseDurationSeconds").filter(|s| *s <= 0) {
            errors.invalid("spec.leaseDurationSeconds", seconds, "must be greater than 0");
        }
        template::not_negative(spec, &["leaseTransitions"], "spec", &mut errors);
        errors
    }
}
