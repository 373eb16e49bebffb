//! Claims of devices: those a pod names, and which of them its containers use (upstream `validatePodResourceClaims`,
//! `validateResourceClaimNames`).

use std::collections::HashSet;

use coracle_schema::{ErrorKind, FieldErrors, name};
use coracle_tree::Value;

use crate::kinds::view;

/// Names of a spec's claims, sorted.
pub(super) fn names(spec: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = view::list(spec, "resourceClaims").iter().map(|claim| view::text(claim, "name")).collect();
    names.retain(|name| !name.is_empty());
    names.sort_unstable();
    names.dedup();
    names
}

/// Checks the claims of a spec.
pub(super) fn of_pod(spec: &Value, path: view::At<'_>, errors: &mut FieldErrors) {
    let mut seen = HashSet::new();
    for (at, claim) in view::list(spec, "resourceClaims").iter().enumerate() {
        let path = format_args!("{path}[{at}]");
        let name = view::text(claim, "name");
        if name.is_empty() {
            errors.required(format_args!("{path}.name"), "");
        } else if !seen.insert(name) {
            errors.duplicate(format_args!("{path}.name"), view::quoted(name));
        } else {
            errors.invalid_each(&format_args!("{path}.name"), name, name::label(name));
        }
        let sources = ["resourceClaimName", "resourceClaimTemplateName"].map(|field| (field, view::get(claim, field)));
        match sources.iter().filter(|(_, source)| source.is_some()).count() {
            0 => errors.invalid(path, claim, "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"),
            1 => {}
            _ => errors.invalid(path, claim, "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"),
        }
        for (field, source) in sources {
            if let Some(text) = source.and_then(Value::as_str) {
                errors.invalid_each(&format_args!("{path}.{field}"), text, name::subdomain(text));
            }
        }
    }
}

/// Checks which claims resources refer to; `known` are those of the pod.
pub(super) fn of_resources(resources: &Value, known: &[&str], path: view::At<'_>, errors: &mut FieldErrors) {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (at, claim) in view::list(resources, "claims").iter().enumerate() {
        let path = format_args!("{path}.claims[{at}]");
        let (name, request) = (view::text(claim, "name"), view::text(claim, "request"));
        if name.is_empty() {
            errors.required(path, "");
            continue;
        }
        if seen.contains(&(name, "")) {
            errors.duplicate(path, view::quoted(name));
        } else {
            if !request.is_empty() {
                errors.invalid_each(&format_args!("{path}.request"), request, name::label(request));
            }
            if seen.contains(&(name, request)) {
                errors.duplicate(path, view::quoted(&format!("{name}/{request}")));
            } else if request.is_empty() {
                // All of a claim beside a part of it.
                seen.iter().filter(|(other, _)| *other == name).for_each(|_| errors.duplicate(path, view::quoted(name)));
            }
            seen.push((name, request));
        }
        if !known.contains(&name) {
            let these = if known.is_empty() { " which is empty".to_owned() } else { format!(": {}", known.join(", ")) };
            let message = format!("Not found: {name:?}: must be one of the names in pod.spec.resourceClaims{these}");
            errors.push(ErrorKind::NotFound, path, message);
        }
    }
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    #[test]
    fn a_container_uses_claims_of_its_pod_each_once() {
        let spec = json!({"resourceClaims": [{"name": "gpu", "resourceClaimName": "one"}, {"name": "nic"}]});
        let mut errors = FieldErrors::none();
        of_pod(&spec, &"spec.resourceClaims", &mut errors);
        let resources = json!({"claims": [{"name": "gpu", "request": "a"}, {"name": "gpu"}, {"name": "disk"}, {}]});
        of_resources(&resources, &names(&spec), &"resources", &mut errors);
        let said: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "spec.resourceClaims[1]: Invalid value: {\"name\":\"nic\"}: must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
                "resources.claims[1]: Duplicate value: \"gpu\"",
                "resources.claims[2]: Not found: \"disk\": must be one of the names in pod.spec.resourceClaims: gpu, nic",
                "resources.claims[3]: Required value",
            ]
        );
    }
}
