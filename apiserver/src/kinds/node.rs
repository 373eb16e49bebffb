//! Nodes: taints, capacity, pod ranges (upstream `ValidateNode`).

use std::{cmp::Ordering, collections::HashSet};

use coracle_schema::{FieldErrors, name, selector};
use coracle_tree::{Value, json};

use super::{address, resources, scheduling, view};
use crate::registry::{Object, Part, Policy, Rules};

const POD_CIDR: &str = "node updates may not change podCIDR except from \"\" to valid";

/// Rules of `nodes`.
pub(super) struct Node;

/// Rules of `runtimeclasses` (upstream `ValidateRuntimeClass`).
pub(super) struct RuntimeClass;

impl Rules for RuntimeClass {
    fn policy(&self) -> Policy {
        Policy { create_on_update: true, ..Policy::CONDITIONAL }
    }

    fn validate(&self, new: &Object, old: Option<&Object>, _part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        let handler = view::text(new.value(), "handler");
        // Declarations speak of a new handler; of a changed one only when it is gone, and after they said that it may not.
        match (handler, old) {
            ("", Some(old)) if !old.text("/handler").is_empty() => {
                errors.invalid("handler", Value::Null, "field is immutable");
                errors.required("handler", "");
            }
            ("", _) => errors.required("handler", ""),
            (_, Some(_)) => errors.invalid_each("handler", handler, name::label(handler)),
            (_, None) => errors.invalid_each("handler", handler, name::in_bytes(name::label(handler))),
        }
        if let Some(overhead) = view::get(new.value(), "overhead") {
            let limits = json!({"limits": view::member(overhead, "podFixed")});
            resources::requirements(&limits, false, &"overhead", &mut errors);
        }
        let scheduling = view::member(new.value(), "scheduling");
        selector::validate_labels(view::map(scheduling, "nodeSelector"), "scheduling.nodeSelector", &mut errors);
        let tolerations = view::list(scheduling, "tolerations");
        scheduling::tolerations(tolerations, &"scheduling.tolerations", &mut errors);
        let key = |toleration: &Value| ["key", "operator", "value", "effect"].map(|field| view::text(toleration, field).to_owned());
        let mut seen = HashSet::new();
        for (at, toleration) in tolerations.iter().enumerate().filter(|(_, toleration)| !seen.insert(key(toleration))) {
            errors.duplicate(format!("scheduling.tolerations[{at}]"), toleration);
        }
        errors
    }

    fn immutable(&self, new: &Object, old: &Object, _part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        if view::text(new.value(), "handler") != view::text(old.value(), "handler") {
            errors.invalid("handler", Value::Null, "field is immutable");
        }
        errors
    }
}

impl Rules for Node {
    fn unheard(&self) -> &'static [&'static str] {
        &["spec.taints.effect"]
    }

    fn prepare(&self, new: &mut Object, old: Option<&Object>, part: Part<'_>) {
        // What kubelets were once configured by is kept only where it is still there (`dropDisabledFields`).
        let had = |message: &str, field: &str| old.is_some_and(|old| view::get(view::member(old.value(), message), field).is_some());
        let (source, config) = (had("spec", "configSource"), had("status", "config"));
        if let Some(spec) = view::message_mut(new.value_mut(), "spec").filter(|_| part == Part::Whole && !source) {
            view::remove(spec, "configSource");
        }
        if let Some(status) = view::message_mut(new.value_mut(), "status").filter(|_| (old.is_none() || part == Part::Status) && !config) {
            view::remove(status, "config");
        }
    }

    fn warnings(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        let spec = view::member(new.value(), "spec");
        let all = [
            (view::get(spec, "configSource").is_some(), "spec.configSource: the feature is removed"),
            (!view::text(spec, "externalID").is_empty(), "spec.externalID: this field is deprecated, and is unused by Kubernetes"),
        ];
        all.into_iter().filter(|(applies, _)| *applies).map(|(_, text)| text.to_owned()).collect()
    }

    fn default(&self, object: &mut Object) {
        if let Some(status) = view::message_mut(object.value_mut(), "status")
            && let Some(capacity) = view::get(status, "capacity").cloned()
        {
            view::set_absent(status, "allocatable", capacity);
        }
        let Some(spec) = view::message_mut(object.value_mut(), "spec") else { return };
        let (one, all) = (view::text(spec, "podCIDR").to_owned(), view::texts(spec, "podCIDRs").next().map(str::to_owned));
        match all {
            None if !one.is_empty() => spec["podCIDRs"] = json!([one]),
            Some(first) if one.is_empty() => spec["podCIDR"] = first.into(),
            // The older field wins when a client knows only it.
            Some(first) if first != one => spec["podCIDRs"] = json!([one]),
            _ => {}
        }
    }

    fn validate(&self, new: &Object, old: Option<&Object>, _part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        let (spec, status) = (view::member(new.value(), "spec"), view::member(new.value(), "status"));
        scheduling::taints(view::list(spec, "taints"), &"metadata.taints", &mut errors);
        for list in ["capacity", "allocatable"] {
            for (resource, amount) in view::map(status, list) {
                resources::amount_of(resource, amount, &format!("status.{list}.{resource}"), &mut errors);
            }
        }
        let ranges: Vec<&str> = view::texts(spec, "podCIDRs").collect();
        let known: Vec<&str> = old.map_or_else(Vec::new, |old| view::texts(view::member(old.value(), "spec"), "podCIDRs").collect());
        for (at, range) in ranges.iter().enumerate() {
            address::cidr(range, &known, &format!("spec.podCIDRs[{at}]"), &mut errors);
        }
        let is_v6 = |range: &&str| range.contains(':');
        if ranges.len() > 2 || (ranges.len() == 2 && ranges.iter().filter(|r| is_v6(r)).count() != 1) {
            let detail = "may specify no more than one CIDR for each IP family";
            errors.invalid("spec.podCIDRs", view::member(spec, "podCIDRs"), detail);
        }
        if let Some(old) = old {
            declared_features(status, &mut errors);
            addresses(status, &mut errors);
            let before = view::member(old.value(), "spec");
            if view::text(before, "externalID") != view::text(spec, "externalID") {
                errors.forbidden("spec.externalID", "may not be updated");
            }
            if !view::list(before, "podCIDRs").is_empty() && view::list(before, "podCIDRs") != view::list(spec, "podCIDRs") {
                errors.forbidden("spec.podCIDRs", POD_CIDR);
            }
            match (view::text(before, "providerID"), view::text(spec, "providerID")) {
                ("", _) => {}
                (_, "") => errors.invalid("spec.providerID", "null", "field cannot be cleared once set"),
                (a, b) if a != b => errors.invalid("spec.providerID", "null", "field cannot be modified once set"),
                _ => {}
            }
        }
        errors
    }

    fn selectable(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![("spec.unschedulable", view::flag(view::member(object, "spec"), "unschedulable").to_string())]
    }
}

/// No address twice, which is looked at in nodes that are there.
fn addresses(status: &Value, errors: &mut FieldErrors) {
    let mut seen = HashSet::new();
    for (at, address) in view::list(status, "addresses").iter().enumerate() {
        let (kind, text) = (view::text(address, "type"), view::text(address, "address"));
        if !seen.insert((kind, text)) {
            errors.duplicate(format!("status.addresses[{at}]"), json!({"Type": kind, "Address": text}));
        }
    }
}

/// Names of features in upper camel case, in parts, in order (upstream `validateNodeDeclaredFeatures`).
fn declared_features(status: &Value, errors: &mut FieldErrors) {
    const LONGEST: usize = 253;
    let features: Vec<&str> = view::texts(status, "declaredFeatures").collect();
    let part = |part: &str| part.starts_with(|c: char| c.is_ascii_alphabetic()) && part.chars().all(|c| c.is_ascii_alphanumeric());
    for (at, feature) in features.iter().enumerate() {
        let path = format!("status.declaredFeatures[{at}]");
        if feature.len() > LONGEST {
            let detail = format!("invalid feature name {feature:?}: must be no more than {LONGEST} characters");
            errors.invalid(path, view::quoted(feature), &detail);
        } else if !feature.starts_with(|c: char| c.is_ascii_uppercase()) || !feature.split('/').all(part) {
            let detail = format!(
                "invalid feature name {feature:?}: must start with an UpperCamelCase segment, with subsequent segments separated by '/' \
                 (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes"
            );
            errors.invalid(path, view::quoted(feature), &detail);
        }
        if let Some(next) = features.get(at + 1) {
            let path = format!("status.declaredFeatures[{}]", at + 1);
            match feature.cmp(next) {
                Ordering::Equal => errors.duplicate(path, view::quoted(next)),
                Ordering::Greater => errors.invalid(path, view::quoted(next), "list must be sorted alphabetically"),
                Ordering::Less => {}
            }
        }
    }
}
