//! Horizontal pod autoscalers, in both versions (upstream `apis/autoscaling/validation`).

use coracle_schema::{FieldErrors, Quantity, name};
use coracle_tree::{Value, json};

use super::{template, view};
use crate::registry::{Object, Part, Rules, autoscaler};

/// Rules of `horizontalpodautoscalers`, in both versions.
pub(super) struct HorizontalPodAutoscaler;

const WINDOW_MAX: i64 = 3600;
const PERIOD_MAX: i64 = 1800;

impl Rules for HorizontalPodAutoscaler {
    fn default(&self, object: &mut Object) {
        let is_v1 = object.text("/apiVersion") == "autoscaling/v1";
        if is_v1 {
            // Upstream has only the newer version in its hands, and shows all of it in the older one's annotations.
            autoscaler::to_v2(object.value_mut());
        }
        let spec = view::message_mut(object.value_mut(), "spec");
        if let Some(spec) = spec.filter(|spec| view::list(spec, "metrics").is_empty()) {
            spec["metrics"] =
                json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}]);
        }
        if is_v1 {
            return autoscaler::from_v2(object.value_mut());
        }
        let Some(spec) = view::message_mut(object.value_mut(), "spec") else { return };
        if let Some(behavior) = view::message_mut(spec, "behavior") {
            scaling_rules(
                behavior,
                "scaleUp",
                &json!({
                    "stabilizationWindowSeconds": 0, "selectPolicy": "Max",
                    "policies": [{"type": "Pods", "value": 4, "periodSeconds": 15}, {"type": "Percent", "value": 100, "periodSeconds": 15}],
                }),
            );
            scaling_rules(
                behavior,
                "scaleDown",
                &json!({
                    "selectPolicy": "Max", "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}],
                }),
            );
        }
    }

    fn validate(&self, new: &Object, old: Option<&Object>, part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        if part == Part::Status {
            template::not_negative(view::member(new.value(), "status"), &["currentReplicas", "desiredReplicas"], "status", &mut errors);
            return errors;
        }
        let spec = view::member(new.value(), "spec");
        let (least, most) = (view::int(spec, "minReplicas"), view::int(spec, "maxReplicas").unwrap_or_default());
        if least.is_some_and(|least| most < least) {
            errors.invalid("spec.maxReplicas", most, "must be greater than or equal to `minReplicas`");
        }
        let (target, before) =
            (view::member(spec, "scaleTargetRef"), old.map(|old| view::member(view::member(old.value(), "spec"), "scaleTargetRef")));
        let same =
            before.is_some_and(|before| ["apiVersion", "kind"].iter().all(|field| view::text(before, field) == view::text(target, field)));
        let api_version = match view::text(target, "kind") {
            // What was stored before the rule was there may stay.
            _ if same => ApiVersion::Any,
            // The one kind without a group that has a scale.
            "ReplicationController" => ApiVersion::GroupMayLack,
            _ => ApiVersion::Whole,
        };
        reference(target, api_version, "spec.scaleTargetRef", &mut errors);
        let before = old.map(|old| view::list(view::member(old.value(), "spec"), "metrics")).unwrap_or_default();
        let described = |metric: &Value| view::text(metric, "type") == "Object" && !describes_a_version(metric);
        let of_metrics = if before.iter().any(described) { ApiVersion::Any } else { ApiVersion::GroupMayLack };
        for (at, metric) in view::list(spec, "metrics").iter().enumerate() {
            metric_source(metric, of_metrics, &format!("spec.metrics[{at}]"), &mut errors);
        }
        let unscaled = |metric: &Value| ["Object", "External"].contains(&view::text(metric, "type"));
        if least == Some(0) && !view::list(spec, "metrics").iter().any(unscaled) {
            errors.forbidden("spec.metrics", "must specify at least one Object or External metric to support scaling to zero replicas");
        }
        if let Some(percent) = view::int(spec, "targetCPUUtilizationPercentage").filter(|percent| *percent < 1) {
            // The old version's only metric, under the name it has in the new one.
            errors.invalid("spec.metrics[0].resource.target.averageUtilization", percent, "must be greater than 0");
        }
        for direction in ["scaleUp", "scaleDown"] {
            if let Some(rules) = view::get(view::member(spec, "behavior"), direction) {
                check_rules(rules, &format!("spec.behavior.{direction}"), &mut errors);
            }
        }
        // What upstream's declarations say comes last.
        if let Some(least) = least.filter(|n| *n < 0) {
            errors.invalid("spec.minReplicas", least, "must be greater than or equal to 0");
        }
        match most {
            0 => errors.required("spec.maxReplicas", ""),
            n if n < 0 => errors.invalid("spec.maxReplicas", n, "must be greater than or equal to 1"),
            _ => {}
        }
        errors
    }
}

/// What the `apiVersion` of a reference may be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ApiVersion {
    Any,
    GroupMayLack,
    Whole,
}

/// The group in a reference's `apiVersion`.
fn group(reference: &Value) -> &str {
    view::text(reference, "apiVersion").split_once('/').map_or("", |(group, _)| group)
}

fn reference(given: &Value, allowed: ApiVersion, path: &str, errors: &mut FieldErrors) {
    for field in ["kind", "name"] {
        match view::text(given, field) {
            "" => errors.required(format!("{path}.{field}"), ""),
            text => errors.invalid_each(&format!("{path}.{field}"), text, name::path_segment(text)),
        }
    }
    let version = view::text(given, "apiVersion");
    if allowed == ApiVersion::Any {
        return;
    }
    if !is_a_version(version) {
        let detail = format!("unexpected GroupVersion string: {version}");
        errors.invalid(format!("{path}.apiVersion"), view::quoted(version), &detail);
    } else if group(given).is_empty() && allowed == ApiVersion::Whole {
        errors.invalid(format!("{path}.apiVersion"), view::quoted(version), "apiVersion must specify API group");
    }
}

/// Whether this is a version, with or without a group.
fn is_a_version(text: &str) -> bool {
    text.matches('/').count() <= 1
}

/// Whether the object a metric describes, if it describes one, is of a version there can be.
fn describes_a_version(metric: &Value) -> bool {
    view::get(metric, "object").is_none_or(|object| is_a_version(view::text(view::member(object, "describedObject"), "apiVersion")))
}

/// Types of metrics with the member that describes each, in the order upstream looks for them.
const SOURCES: &[(&str, &str)] = &[
    ("Object", "object"),
    ("External", "external"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
];
const TYPES: [&str; 5] = ["ContainerResource", "External", "Object", "Pods", "Resource"];

fn metric_source(metric: &Value, api_version: ApiVersion, path: &str, errors: &mut FieldErrors) {
    let kind = view::text(metric, "type");
    let type_path = format!("{path}.type");
    let expected = SOURCES.iter().find(|(name, _)| *name == kind).map(|(_, field)| *field);
    if kind.is_empty() {
        errors.required(&type_path, "must specify a metric source type");
    }
    if expected.is_none() {
        errors.not_supported(&type_path, view::quoted(kind), &TYPES);
    }
    let given: Vec<&str> = SOURCES.iter().map(|(_, field)| *field).filter(|field| view::get(metric, field).is_some()).collect();
    if let Some(first) = given.first() {
        source((first, api_version), view::member(metric, first), &format!("{path}.{first}"), errors);
    }
    if let Some(field) = expected.filter(|field| !given.contains(field)) {
        errors.required(format!("{path}.{field}"), "must populate information for the given metric source");
    }
    if given.len() != 1 {
        for other in given.iter().filter(|field| Some(**field) != expected) {
            errors.forbidden(format!("{path}.{other}"), "must populate the given metric source only");
        }
    }
}

/// `api_version` is what that of an object may be that a metric describes.
fn source((of, api_version): (&str, ApiVersion), source: &Value, path: &str, errors: &mut FieldErrors) {
    let goal = view::member(source, "target");
    let has = |field| view::get(goal, field).is_some();
    let path_of = |field: &str| format!("{path}.{field}");
    match of {
        "object" => reference(view::member(source, "describedObject"), api_version, &path_of("describedObject"), errors),
        "resource" | "containerResource" if view::text(source, "name").is_empty() => {
            errors.required(path_of("name"), "must specify a resource name");
        }
        _ => {}
    }
    if of == "containerResource" {
        match view::text(source, "container") {
            "" => errors.required(path_of("container"), "must specify a container"),
            container => errors.invalid_each(&path_of("container"), container, name::label(container)),
        }
    }
    if ["object", "external", "pods"].contains(&of) {
        match view::text(view::member(source, "metric"), "name") {
            "" => errors.required(path_of("metric.name"), "must specify a metric name"),
            metric => errors.invalid_each(&path_of("metric.name"), metric, name::path_segment(metric)),
        }
    }
    target(goal, &path_of("target"), errors);
    let neither = !has("value") && !has("averageValue");
    match of {
        "object" if neither => errors.required(path_of("target.averageValue"), "must set either a target value or averageValue"),
        "external" if neither => {
            errors.required(path_of("target.averageValue"), "must set either a target value for metric or a per-pod target");
        }
        "external" if has("value") && has("averageValue") => {
            errors.forbidden(path_of("target.value"), "may not set both a target value for metric and a per-pod target");
        }
        "pods" if !has("averageValue") => errors.required(path_of("target.averageValue"), "must specify a positive target averageValue"),
        "resource" | "containerResource" => match (has("averageUtilization"), has("averageValue")) {
            (false, false) => {
                errors.required(path_of("target.averageUtilization"), "must set either a target raw value or a target utilization");
            }
            (true, true) => {
                errors.forbidden(path_of("target.averageValue"), "may not set both a target raw value and a target utilization");
            }
            _ => {}
        },
        _ => {}
    }
}

fn target(target: &Value, path: &str, errors: &mut FieldErrors) {
    let of = view::text(target, "type");
    if of.is_empty() {
        errors.required(format!("{path}.type"), "must specify a metric target type");
    }
    if !["Utilization", "Value", "AverageValue"].contains(&of) {
        errors.invalid(format!("{path}.type"), view::quoted(of), "must be either Utilization, Value, or AverageValue");
    }
    for field in ["value", "averageValue"] {
        if let Some(amount) = view::get(target, field)
            && view::quantity(amount).is_some_and(|q| q <= Quantity::ZERO)
        {
            errors.invalid(format!("{path}.{field}"), amount, "must be positive");
        }
    }
    if let Some(percent) = view::int(target, "averageUtilization").filter(|percent| *percent < 1) {
        errors.invalid(format!("{path}.averageUtilization"), percent, "must be greater than 0");
    }
}

fn check_rules(rules: &Value, path: &str, errors: &mut FieldErrors) {
    if let Some(window) = view::int(rules, "stabilizationWindowSeconds") {
        let path = format!("{path}.stabilizationWindowSeconds");
        if window < 0 {
            errors.invalid(path, window, "must be greater than or equal to zero");
        } else if window > WINDOW_MAX {
            errors.invalid(path, window, &format!("must be less than or equal to {WINDOW_MAX}"));
        }
    }
    if let Some(policy) = view::get(rules, "selectPolicy").and_then(Value::as_str)
        && !["Max", "Min", "Disabled"].contains(&policy)
    {
        errors.not_supported(format!("{path}.selectPolicy"), view::quoted(policy), &["Disabled", "Max", "Min"]);
    }
    let policies = view::list(rules, "policies");
    if policies.is_empty() {
        errors.required(format!("{path}.policies"), "must specify at least one Policy");
    }
    for (at, policy) in policies.iter().enumerate() {
        let path = format!("{path}.policies[{at}]");
        let (value, period) = (view::int(policy, "value").unwrap_or_default(), view::int(policy, "periodSeconds").unwrap_or_default());
        let of = view::text(policy, "type");
        if !["Pods", "Percent"].contains(&of) {
            errors.not_supported(format!("{path}.type"), view::quoted(of), &["Percent", "Pods"]);
        }
        if value <= 0 {
            errors.invalid(format!("{path}.value"), value, "must be greater than zero");
        }
        if period <= 0 {
            errors.invalid(format!("{path}.periodSeconds"), period, "must be greater than zero");
        } else if period > PERIOD_MAX {
            errors.invalid(format!("{path}.periodSeconds"), period, &format!("must be less than or equal to {PERIOD_MAX}"));
        }
    }
    if let Some(tolerance) = view::get(rules, "tolerance")
        && view::quantity(tolerance).is_some_and(|q| q < Quantity::ZERO)
    {
        errors.invalid(format!("{path}.tolerance"), tolerance, "must be greater than or equal to 0");
    }
}

/// Fills in what a scaling rule leaves out, once there is any behaviour at all.
fn scaling_rules(behavior: &mut Value, name: &str, defaults: &Value) {
    view::set_absent(behavior, name, json!({}));
    for (field, value) in defaults.as_object().into_iter().flatten() {
        view::set_absent(&mut behavior[name], field, value.clone());
    }
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    #[test]
    fn a_metric_is_described_by_the_member_of_its_type() {
        let metrics = json!([{"type": "Pods", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 0}}}]);
        let spec = json!({"maxReplicas": 2, "scaleTargetRef": {"kind": "Deployment", "name": "d"}, "metrics": metrics});
        let object = Object::new(json!({"spec": spec})).unwrap();
        let unchanged = HorizontalPodAutoscaler.validate(&object, Some(&object), Part::Whole).0;
        assert!(unchanged.iter().all(|error| error.path != "spec.scaleTargetRef.apiVersion"), "{unchanged:?}");
        let controller = json!({"spec": {"maxReplicas": 2, "scaleTargetRef": {"kind": "ReplicationController", "name": "d"}}});
        assert_eq!(HorizontalPodAutoscaler.validate(&Object::new(controller).unwrap(), None, Part::Whole).0, []);
        let texts: Vec<String> = HorizontalPodAutoscaler.validate(&object, None, Part::Whole).0.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "spec.scaleTargetRef.apiVersion: Invalid value: \"\": apiVersion must specify API group",
                "spec.metrics[0].resource.target.averageUtilization: Invalid value: 0: must be greater than 0",
                "spec.metrics[0].pods: Required value: must populate information for the given metric source",
            ]
        );
    }

    #[test]
    fn what_metrics_describe_may_stay_as_wrong_as_it_was() {
        let scaler = |version: &str| {
            let of = json!({"kind": "Service", "name": "s", "apiVersion": version});
            let metric = json!({"describedObject": of, "metric": {"name": "m"}, "target": {"type": "Value", "value": "1"}});
            let target = json!({"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"});
            let spec = json!({"maxReplicas": 2, "scaleTargetRef": target, "metrics": [{"type": "Object", "object": metric}]});
            Object::new(json!({"spec": spec})).unwrap()
        };
        let told = |new: &str, old: &str| HorizontalPodAutoscaler.validate(&scaler(new), Some(&scaler(old)), Part::Whole).0.len();
        assert_eq!((told("v1", "v1"), told("a/b/c", "v1"), told("a/b/c", "a/b/c"), told("d/e/f", "a/b/c")), (0, 1, 0, 0));
    }
}
