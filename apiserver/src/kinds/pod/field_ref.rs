//! References of environment variables and downward API files to fields and resources of their own pod.

use coracle_schema::{FieldErrors, name};
use coracle_tree::Value;

use crate::kinds::view;

/// What an environment variable may refer to.
pub(super) const ENVIRONMENT: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// What a file of a volume may hold.
pub(super) const VOLUME: &[&str] = &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

/// Every path that a pod's downward API knows, wherever it may be used.
const KNOWN: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
    "spec.host",
];

const RESOURCES: &[&str] =
    &["limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory"];

/// Checks a `fieldRef`.
pub(super) fn field(reference: &Value, allowed: &[&str], path: view::At<'_>, errors: &mut FieldErrors) {
    let field = view::text(reference, "fieldPath");
    if view::text(reference, "apiVersion").is_empty() {
        errors.required(format_args!("{path}.apiVersion"), "");
        return;
    }
    if field.is_empty() {
        errors.required(format_args!("{path}.fieldPath"), "");
        return;
    }
    let version = view::text(reference, "apiVersion");
    if version != "v1" {
        let detail = format!("error converting fieldPath: unsupported pod version: {version}");
        return errors.invalid(format_args!("{path}.fieldPath"), view::quoted(field), &detail);
    }
    if let Some((of, key)) = field.strip_suffix("']").and_then(|f| f.split_once("['")) {
        match of {
            "metadata.annotations" => errors.invalid_each(path, &key.to_lowercase(), name::qualified(&key.to_lowercase())),
            "metadata.labels" => errors.invalid_each(path, key, name::qualified(key)),
            _ => unknown(field, path, errors),
        }
    } else if !KNOWN.contains(&field) {
        unknown(field, path, errors);
    } else if !allowed.contains(&field) {
        errors.not_supported(format_args!("{path}.fieldPath"), view::quoted(field), allowed);
    }
}

fn unknown(field: &str, path: view::At<'_>, errors: &mut FieldErrors) {
    let detail = format!("error converting fieldPath: field label not supported: {field}");
    errors.invalid(format_args!("{path}.fieldPath"), view::quoted(field), &detail);
}

/// Checks a `resourceFieldRef`; in a volume it must name the container.
pub(super) fn resource(reference: &Value, volume: bool, path: view::At<'_>, errors: &mut FieldErrors) {
    let resource = view::text(reference, "resource");
    let huge = ["limits.hugepages-", "requests.hugepages-"].iter().any(|prefix| resource.starts_with(prefix));
    if volume && view::text(reference, "containerName").is_empty() {
        errors.required(format_args!("{path}.containerName"), "");
    } else if resource.is_empty() {
        errors.required(format_args!("{path}.resource"), "");
    } else if !RESOURCES.contains(&resource) && !huge {
        errors.not_supported(format_args!("{path}.resource"), view::quoted(resource), RESOURCES);
    }
    divisor(resource, view::text(reference, "divisor"), path, errors);
}

fn divisor(resource: &str, divisor: &str, path: view::At<'_>, errors: &mut FieldErrors) {
    const BYTES: &[&str] = &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
    let (allowed, list, what) = match resource.split_once('.').map(|(_, name)| name) {
        Some("cpu") => (&["1m", "1"][..], "1m and 1".to_owned(), "cpu"),
        Some("memory") => (BYTES, BYTES.join(", "), "memory"),
        Some("ephemeral-storage") => (BYTES, BYTES.join(", "), "local ephemeral storage"),
        Some(name) if name.starts_with("hugepages-") => (BYTES, BYTES.join(", "), "hugepages"),
        _ => return,
    };
    if !["", "0"].contains(&divisor) && !allowed.contains(&divisor) {
        let detail = format!("only divisor's values {list} are supported with the {what} resource");
        errors.invalid(format_args!("{path}.divisor"), view::quoted(resource), &detail);
    }
}
