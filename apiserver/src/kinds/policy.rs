//! Kinds that bound others: disruption budgets, quotas, limit ranges, priority classes, leases.

use std::collections::{BTreeSet, HashSet};

use coracle_schema::{FieldErrors, Quantity, name, selector};
use coracle_tree::{Text, Value, json};

use super::{resources, template, view};
use crate::registry::{Object, Part, Policy, Rules};

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
    fn policy(&self) -> Policy {
        Policy::CONDITIONAL
    }

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

const SCOPES: [&str; 7] =
    ["Terminating", "NotTerminating", "BestEffort", "NotBestEffort", "PriorityClass", "VolumeAttributesClass", "CrossNamespacePodAffinity"];

impl Rules for ResourceQuota {
    fn unheard(&self) -> &'static [&'static str] {
        &["spec.scopes", "spec.scopeSelector.matchExpressions.scopeName", "spec.scopeSelector.matchExpressions.operator"]
    }

    fn validate(&self, new: &Object, old: Option<&Object>, part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        if part == Part::Status {
            let status = view::member(new.value(), "status");
            for list in ["hard", "used"] {
                quota_amounts(status, list, &format!("status.{list}"), &mut errors);
            }
            return errors;
        }
        let spec = view::member(new.value(), "spec");
        quota_amounts(spec, "hard", "spec.hard", &mut errors);
        quota_scopes(spec, &mut errors);
        scope_selector(spec, &mut errors);
        if let Some(old) = old {
            let scopes = |of| view::texts(of, "scopes").collect::<BTreeSet<&str>>();
            if scopes(view::member(old.value(), "spec")) != scopes(spec) {
                errors.invalid("spec.scopes", view::member(spec, "scopes"), "field is immutable");
            }
        }
        errors
    }
}

fn quota_amounts(of: &Value, list: &str, path: &str, errors: &mut FieldErrors) {
    for (resource, amount) in view::map(of, list) {
        // Counts of any resource, too: `count/deployments.apps`.
        let path = format!("{path}[{resource}]");
        resources::quota_name(resource, &path, errors);
        resources::amount_of(resource, amount, &path, errors);
    }
}

/// Whether what is in a scope is counted by this resource; other than standard ones always (`IsResourceQuotaScopeValidForResource`).
fn is_counted_in(scope: &str, resource: &str) -> bool {
    let claims = resource == "persistentvolumeclaims" || ["storage", "requests.storage"].contains(&resource);
    let compute = ["cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"].contains(&resource);
    match scope {
        _ if !resources::is_standard_quota(resource) => true,
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => claims,
        "Terminating" | "NotTerminating" | "NotBestEffort" | "PriorityClass" | "CrossNamespacePodAffinity" => resource == "pods" || compute,
        _ => true,
    }
}

fn conflicting(scopes: &HashSet<&str>) -> usize {
    let pairs = [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")];
    pairs.iter().filter(|(one, other)| scopes.contains(one) && scopes.contains(other)).count()
}

fn quota_scopes(spec: &Value, errors: &mut FieldErrors) {
    let shown = view::member(spec, "scopes");
    let mut refuse = |detail: &str| errors.invalid("spec.scopes", shown, detail);
    for scope in view::texts(spec, "scopes") {
        if !SCOPES.contains(&scope) {
            refuse("unsupported scope");
        }
        for _ in view::map(spec, "hard").keys().filter(|resource| !is_counted_in(scope, resource)) {
            refuse("unsupported scope applied to resource");
        }
    }
    for _ in 0..conflicting(&view::texts(spec, "scopes").collect()) {
        refuse("conflicting scopes");
    }
}

fn scope_selector(spec: &Value, errors: &mut FieldErrors) {
    const PATH: &str = "spec.scopeSelector.matchExpressions";
    let selector = view::member(spec, "scopeSelector");
    let expressions = view::list(selector, "matchExpressions");
    for requirement in expressions {
        let (scope, operator) = (view::text(requirement, "scopeName"), view::text(requirement, "operator"));
        let values = view::list(requirement, "values");
        if !SCOPES.contains(&scope) {
            errors.invalid(format!("{PATH}.scopeName"), view::quoted(scope), "unsupported scope");
        }
        for _ in view::map(spec, "hard").keys().filter(|resource| !is_counted_in(scope, resource)) {
            errors.invalid(PATH, selector, "unsupported scope applied to resource");
        }
        let by_value = ["PriorityClass", "VolumeAttributesClass"].contains(&scope) || !SCOPES.contains(&scope);
        if !by_value && operator != "Exists" {
            let detail = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
            errors.invalid(format!("{PATH}.operator"), view::quoted(operator), detail);
        }
        match operator {
            "In" | "NotIn" if values.is_empty() => {
                let detail = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                errors.required(format!("{PATH}.values"), detail);
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let detail = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
                errors.invalid(format!("{PATH}.values"), view::member(requirement, "values"), detail);
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.invalid(format!("{PATH}.operator"), view::quoted(other), "not a valid selector operator"),
        }
    }
    for _ in 0..conflicting(&expressions.iter().map(|requirement| view::text(requirement, "scopeName")).collect()) {
        errors.invalid(PATH, view::member(spec, "scopes"), "conflicting scopes");
    }
}

impl Rules for LimitRange {
    fn policy(&self) -> Policy {
        Policy::CREATING
    }

    fn prepare(&self, new: &mut Object, old: Option<&Object>, _part: Part<'_>) {
        // The one kind whose objects get a name when they come without.
        if old.is_none() && new.name().is_empty() {
            new.set_metadata("name", uuid::Uuid::new_v4().to_string());
        }
    }

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

    fn unheard(&self) -> &'static [&'static str] {
        &["spec.limits.type"]
    }

    fn validate(&self, new: &Object, _old: Option<&Object>, _part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        let mut types = HashSet::new();
        for (at, limit) in view::list(view::member(new.value(), "spec"), "limits").iter().enumerate() {
            let path = format!("spec.limits[{at}]");
            let kind = view::text(limit, "type");
            limit_type(kind, &format!("{path}.type"), &mut errors);
            if !types.insert(kind) {
                errors.duplicate(format!("{path}.type"), view::quoted(kind));
            }
            limit_names(kind, limit, &path, &mut errors);
            bounds(limit, kind, &path, &mut errors);
        }
        errors
    }
}

fn limit_type(kind: &str, path: &str, errors: &mut FieldErrors) {
    let wrong = name::qualified(kind);
    if wrong.is_empty() && !kind.contains('/') && !["Pod", "Container", "PersistentVolumeClaim"].contains(&kind) {
        errors.invalid(path, view::quoted(kind), "must be a standard limit type or fully qualified");
    }
    errors.invalid_each(path, kind, wrong);
}

fn limit_names(kind: &str, limit: &Value, path: &str, errors: &mut FieldErrors) {
    for list in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
        let (given, path) = (view::map(limit, list), format!("{path}.{list}"));
        if kind == "Pod" && ["default", "defaultRequest"].contains(&list) {
            if !given.is_empty() {
                errors.forbidden(path, "may not be specified when `type` is 'Pod'");
            }
            continue;
        }
        if list == "maxLimitRequestRatio"
            && kind == "PersistentVolumeClaim"
            && ["min", "max"].iter().all(|list| !view::map(limit, list).contains_key("storage"))
        {
            let detail = "either minimum or maximum storage value is required, but neither was provided";
            errors.required(path.replace(list, "limits"), detail);
        }
        for resource in given.keys() {
            let path = format!("{path}[{resource}]");
            if ["Pod", "Container"].contains(&kind) {
                resources::container_name(resource, &path, errors);
            } else {
                resources::resource_name(resource, &path, errors);
            }
        }
    }
}

/// The smaller may not exceed the larger: list, its word, list, its word, and of which the place and the amount are shown.
const ORDERED: &[(&str, &str, &str, &str, &str, &str)] = &[
    ("min", "min value", "max", "max value", "min", "min"),
    ("min", "min value", "defaultRequest", "default request value", "defaultRequest", "defaultRequest"),
    ("defaultRequest", "default request value", "max", "max value", "defaultRequest", "defaultRequest"),
    ("defaultRequest", "default request value", "default", "default limit value", "defaultRequest", "defaultRequest"),
    ("min", "min value", "default", "default value", "default", "min"),
    ("default", "default value", "max", "max value", "default", "max"),
];

fn bounds(limit: &Value, kind: &str, path: &str, errors: &mut FieldErrors) {
    let lists = ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"];
    let resources: BTreeSet<&str> = lists.iter().flat_map(|list| view::map(limit, list).keys()).map(Text::as_str).collect();
    for resource in resources {
        let amount = |list: &str| {
            let passed_over = kind == "Pod" && ["default", "defaultRequest"].contains(&list);
            view::map(limit, list).get(resource).and_then(view::quantity).filter(|_| !passed_over)
        };
        for (low, low_word, high, high_word, place, shown) in ORDERED {
            let (Some(a), Some(b)) = (amount(low), amount(high)) else { continue };
            if a > b {
                let detail = format!("{low_word} {a} is greater than {high_word} {b}");
                let shown = amount(shown).unwrap_or_default();
                errors.invalid(format!("{path}.{place}[{resource}]"), view::quoted(&shown.to_string()), &detail);
            }
        }
        if let Some(most) = amount("maxLimitRequestRatio") {
            ratio(most, amount("min"), amount("max"), &format!("{path}.maxLimitRequestRatio[{resource}]"), errors);
        }
        // What cannot be promised twice is asked for as it is limited.
        if let (Some(default), Some(request)) = (amount("default"), amount("defaultRequest"))
            && default != request
            && !resources::may_overcommit(resource)
        {
            let detail = format!("default value {default} must equal to defaultRequest value {request} in {resource}");
            errors.invalid(format!("{path}.defaultRequest[{resource}]"), view::quoted(&request.to_string()), &detail);
        }
    }
}

/// How much more than it asks for a container may be limited to: at least once, and not more than the bounds allow.
fn ratio(most: Quantity, least: Option<Quantity>, largest: Option<Quantity>, path: &str, errors: &mut FieldErrors) {
    const EXACT: i64 = i64::MAX / 1000;
    let shown = view::quoted(&most.to_string());
    if most < Quantity::from_milli(1000) {
        errors.invalid(path, &shown, &format!("ratio {most} is less than 1"));
    }
    let (Some(least), Some(largest)) = (least, largest) else { return };
    let exact = [most, least, largest].iter().all(|amount| amount.value() < EXACT);
    let number = |of: Quantity| if exact { of.milli_value() as f64 } else { of.value() as f64 };
    let allowed = number(largest) / number(least);
    if number(most) / (if exact { 1000.0 } else { 1.0 }) > allowed {
        let allowed = if allowed.is_infinite() { "-Inf".to_owned() } else { format!("{allowed:.6}") };
        errors.invalid(path, shown, &format!("ratio {most} is greater than max/min = {allowed}"));
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
        if old.is_none() && view::get(new.value(), "preemptionPolicy").is_some_and(|policy| policy == "") {
            errors.required("preemptionPolicy", "");
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
    fn policy(&self) -> Policy {
        Policy { create_on_update: true, ..Policy::CONDITIONAL }
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
