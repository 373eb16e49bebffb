//! Resource names and amounts (upstream `apis/core/helper` and `ValidateResourceRequirements`).

use coracle_schema::{FieldErrors, Quantity, name};
use coracle_tree::Value;

use super::view;

const NOT_INTEGER: &str = "must be an integer";
const NEGATIVE: &str = "must be greater than or equal to 0";

/// Names without a prefix that some kind of object may use.
const STANDARD: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "storage",
    "requests.storage",
    "services.nodeports",
    "services.loadbalancers",
];

/// Names whose amounts are whole numbers.
const COUNTED: &[&str] = &[
    "pods",
    "services",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

/// Checks the limits and requests of a container (`pod_level`: of a pod as a whole).
pub(super) fn requirements(resources: &Value, pod_level: bool, path: view::At<'_>, errors: &mut FieldErrors) {
    let (limits, requests) = (view::map(resources, "limits"), view::map(resources, "requests"));
    let (mut huge, mut compute) = (false, false);
    for (list, name) in [(limits, "limits"), (requests, "requests")] {
        for (resource, amount) in list {
            let path = format_args!("{path}.{name}[{resource}]");
            if pod_level {
                pod_name(resource, &path, errors);
            } else {
                container_name(resource, &path, errors);
            }
            amount_of(resource, amount, &path, errors);
            huge |= resource.starts_with("hugepages-");
            compute |= ["cpu", "memory"].contains(&resource.as_str());
        }
    }
    for (resource, request) in requests {
        let Some(request) = view::quantity(request) else { continue };
        let overcommit = may_overcommit(resource);
        match limits.get(resource).and_then(view::quantity) {
            Some(limit) if request != limit && !overcommit => {
                let detail = format!("must be equal to {resource} limit of {limit}");
                errors.invalid(format_args!("{path}.requests"), view::quoted(&request.to_string()), &detail);
            }
            Some(limit) if request > limit => {
                let detail = format!("must be less than or equal to {resource} limit of {limit}");
                errors.invalid(format_args!("{path}.requests"), view::quoted(&request.to_string()), &detail);
            }
            None if !overcommit => errors.required(format_args!("{path}.limits"), "Limit must be set for non overcommitable resources"),
            _ => {}
        }
    }
    if huge && !compute {
        errors.forbidden(path, "HugePages require cpu or memory");
    }
}

/// An amount may not be negative, and some are whole numbers.
pub(super) fn amount_of(resource: &str, amount: &Value, path: view::At<'_>, errors: &mut FieldErrors) {
    let Some(quantity) = view::quantity(amount) else { return };
    if quantity < Quantity::ZERO {
        errors.invalid(path, view::quoted(&quantity.to_string()), NEGATIVE);
    }
    if is_counted(resource) && !quantity.is_whole() {
        errors.invalid(path, view::quoted(&quantity.to_string()), NOT_INTEGER);
    }
}

/// A name that a quota may bound. The names of both kinds of standard differ in one: `storage` is bounded as `requests.storage`.
pub(super) fn quota_name(resource: &str, path: view::At<'_>, errors: &mut FieldErrors) {
    resource_name(resource, path, errors);
    if !resource.contains('/') && !is_standard_quota(resource) {
        errors.invalid(path, view::quoted(resource), "must be a standard resource for quota");
    }
}

/// Whether a quota bounds it by a name without a prefix.
pub(super) fn is_standard_quota(resource: &str) -> bool {
    is_standard(resource) && resource != "storage"
}

fn is_standard(resource: &str) -> bool {
    STANDARD.contains(&resource) || resource.starts_with("hugepages-") || resource.starts_with("requests.hugepages-")
}

/// A resource name that is qualified or a standard one. Whether it was fine.
pub(super) fn resource_name(resource: &str, path: view::At<'_>, errors: &mut FieldErrors) -> bool {
    let wrong = name::qualified(resource);
    if !wrong.is_empty() {
        errors.invalid_each(path, resource, wrong);
        return false;
    }
    if !resource.contains('/') && !is_standard(resource) {
        errors.invalid(path, view::quoted(resource), "must be a standard resource type or fully qualified");
        return false;
    }
    true
}

/// A resource name that a container may ask for.
pub(super) fn container_name(resource: &str, path: view::At<'_>, errors: &mut FieldErrors) {
    resource_name(resource, path, errors);
    let standard = ["cpu", "memory", "ephemeral-storage"].contains(&resource) || resource.starts_with("hugepages-");
    if !resource.contains('/') && !standard {
        errors.invalid(path, view::quoted(resource), "must be a standard resource for containers");
    } else if !is_native(resource) && !is_extended(resource) {
        errors.invalid(path, view::quoted(resource), "doesn't follow extended resource name standard");
    }
}

fn pod_name(resource: &str, path: view::At<'_>, errors: &mut FieldErrors) {
    let supported = ["cpu", "memory"].contains(&resource) || resource.starts_with("hugepages-");
    if resource_name(resource, path, errors) && !supported {
        errors.not_supported(path, view::quoted(resource), &["cpu", "memory"]);
    }
}

fn is_native(resource: &str) -> bool {
    !resource.contains('/') || resource.split('/').next().is_some_and(|prefix| prefix.contains("kubernetes.io"))
}

fn is_extended(resource: &str) -> bool {
    !is_native(resource) && !resource.starts_with("requests.") && name::qualified(&format!("requests.{resource}")).is_empty()
}

fn is_counted(resource: &str) -> bool {
    COUNTED.contains(&resource) || is_extended(resource)
}

/// Whether more of it may be promised than there is.
pub(super) fn may_overcommit(resource: &str) -> bool {
    is_native(resource) && !resource.starts_with("hugepages-")
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    fn texts(resources: &Value) -> Vec<String> {
        let mut errors = FieldErrors::none();
        requirements(resources, false, &"resources", &mut errors);
        errors.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_request_may_not_exceed_its_limit() {
        assert_eq!(
            texts(&json!({"limits": {"cpu": "1"}, "requests": {"cpu": "2"}})),
            ["resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1"]
        );
        assert!(
            texts(&json!({"limits": {"cpu": "1", "example.com/gpu": "1"}, "requests": {"cpu": "1", "example.com/gpu": "1"}})).is_empty()
        );
    }

    #[test]
    fn names_and_amounts_are_checked() {
        assert_eq!(
            texts(&json!({"limits": {"memory": "-1"}})),
            ["resources.limits[memory]: Invalid value: \"-1\": must be greater than or equal to 0"]
        );
        assert_eq!(
            texts(&json!({"limits": {"gpu": "1"}})),
            [
                "resources.limits[gpu]: Invalid value: \"gpu\": must be a standard resource type or fully qualified",
                "resources.limits[gpu]: Invalid value: \"gpu\": must be a standard resource for containers",
            ]
        );
        assert_eq!(
            texts(&json!({"limits": {"example.com/gpu": "500m"}})),
            ["resources.limits[example.com/gpu]: Invalid value: \"500m\": must be an integer"]
        );
        assert_eq!(
            texts(&json!({"requests": {"example.com/gpu": "1"}})),
            ["resources.limits: Required value: Limit must be set for non overcommitable resources"]
        );
    }
}
