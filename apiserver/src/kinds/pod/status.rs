//! The status of a pod, as its node writes it (upstream `podStatusStrategy`, `ValidatePodStatusUpdate`).

use std::collections::HashSet;
use std::net::IpAddr;

use coracle_schema::{FieldErrors, name};
use coracle_tree::{Value, json};

use crate::kinds::{address, view};

/// Puts back what a writer that does not know it left out, and brings both forms of the address in line.
pub(super) fn keep(new: &mut Value, old: &Value) {
    let before = view::member(old, "status");
    let Some(status) = view::message_mut(new, "status") else { return };
    for field in ["qosClass", "resourceClaimStatuses", "extendedResourceClaimStatus", "observedGeneration"] {
        if let Some(value) = view::get(before, field) {
            view::set_absent(status, field, value.clone());
        }
    }
    // Who knows them and wants none says so.
    if view::list(status, "resourceClaimStatuses").is_empty()
        && let Some(members) = status.as_object_mut()
    {
        members.remove("resourceClaimStatuses");
    }
    let ip = view::text(status, "podIP").to_owned();
    if !ip.is_empty() && view::list(status, "podIPs").first().is_none_or(|first| view::text(first, "ip") != ip) {
        status["podIPs"] = json!([{"ip": ip}]);
    }
    for condition in view::items_mut(status, "conditions").filter(|c| view::int(c, "observedGeneration").unwrap_or_default() == 0) {
        let same = view::list(before, "conditions").iter().find(|then| view::text(then, "type") == view::text(condition, "type"));
        if let Some(generation) = same.and_then(|then| view::int(then, "observedGeneration")) {
            condition["observedGeneration"] = generation.into();
        }
    }
}

/// Checks a new status.
pub(super) fn check(pod: &Value, old: &Value, errors: &mut FieldErrors) {
    let (spec, status, before) = (view::member(pod, "spec"), view::member(pod, "status"), view::member(old, "status"));
    conditions(status, errors);
    nominated(status, old, errors);
    if let Some(generation) = view::int(status, "observedGeneration").filter(|generation| *generation < 0) {
        errors.invalid("status.observedGeneration", generation, NEGATIVE);
    }
    let quality = view::text(status, "qosClass");
    if quality != view::text(before, "qosClass") {
        errors.invalid("status.qosClass", view::quoted(quality), "field is immutable");
    }
    let may_return = all_may_restart(spec);
    for (list, containers) in [("containerStatuses", "containers"), ("initContainerStatuses", "initContainers")] {
        if !may_return {
            transitions(spec, status, before, list, containers, errors);
        }
    }
    claims(spec, status, errors);
    extended_claim(spec, status, errors);
    addresses(status, before, "podIPs", errors);
    let (ip, ips) = (view::text(status, "podIP"), view::list(status, "podIPs"));
    if ip.is_empty() != ips.is_empty() {
        let detail = "podIP and podIPs must either both be set or both be unset";
        errors.invalid("status.podIPs", view::member(status, "podIPs"), detail);
    }
    if let Some(first) = view::list(status, "hostIPs").first().map(|first| view::text(first, "ip"))
        && first != view::text(status, "hostIP")
    {
        errors.invalid("status.hostIPs[0].ip", view::quoted(first), "must be equal to `hostIP`");
    }
    addresses(status, before, "hostIPs", errors);
    for (list, containers) in [("containerStatuses", "containers"), ("initContainerStatuses", "initContainers")] {
        allocated(spec, status, list, containers, errors);
    }
}

const NEGATIVE: &str = "must be a non-negative integer";

fn conditions(status: &Value, errors: &mut FieldErrors) {
    for (at, condition) in view::list(status, "conditions").iter().enumerate() {
        let path = format!("status.conditions[{at}]");
        if let Some(generation) = view::int(condition, "observedGeneration").filter(|generation| *generation < 0) {
            errors.invalid(format!("{path}.observedGeneration"), generation, NEGATIVE);
        }
        let kind = view::text(condition, "type");
        errors.invalid_each(&format!("{path}.Type"), kind, name::qualified(kind));
    }
}

/// The node for which room is made: only of a pod that has none yet.
fn nominated(status: &Value, old: &Value, errors: &mut FieldErrors) {
    let node = view::text(status, "nominatedNodeName");
    if node.is_empty() || node == view::text(view::member(old, "status"), "nominatedNodeName") {
        return;
    }
    errors.invalid_each("status.nominatedNodeName", node, name::subdomain(node));
    if !view::text(view::member(old, "spec"), "nodeName").is_empty() {
        errors.forbidden("status.nominatedNodeName", "may not be set on pods that are already bound to a node");
    }
}

/// Whether a container has a rule by which all of the pod start again.
fn all_may_restart(spec: &Value) -> bool {
    let containers = view::list(spec, "initContainers").iter().chain(view::list(spec, "containers"));
    let mut rules = containers.flat_map(|container| view::list(container, "restartPolicyRules"));
    rules.any(|rule| view::text(rule, "action") == "RestartAllContainers")
}

/// What has ended stays so, unless it is to start again.
fn transitions(spec: &Value, status: &Value, before: &Value, list: &str, containers: &str, errors: &mut FieldErrors) {
    let terminated = |status| view::get(view::member(status, "state"), "terminated");
    for (at, then) in view::list(before, list).iter().enumerate() {
        let Some(end) = terminated(then) else { continue };
        let same = |one: &&Value| view::text(one, "name") == view::text(then, "name");
        if view::list(status, list).iter().find(same).is_none_or(|now| terminated(now).is_some()) {
            continue;
        }
        let code = view::int(end, "exitCode").unwrap_or_default();
        if !view::list(spec, containers).iter().find(same).is_some_and(|container| starts_again(container, spec, code)) {
            errors.forbidden(format!("status.{list}[{at}].state"), "may not be transitioned to non-terminated state");
        }
    }
}

/// Whether a container is started again after it ended with this code.
fn starts_again(container: &Value, spec: &Value, code: i64) -> bool {
    let fits = |rule: &&Value| {
        let codes = view::member(rule, "exitCodes");
        let named = view::list(codes, "values").iter().any(|value| value.as_i64() == Some(code));
        match view::text(codes, "operator") {
            "In" => named,
            "NotIn" => !named,
            _ => false,
        }
    };
    let own = view::get(container, "restartPolicy").and_then(Value::as_str);
    if own.is_some() && view::list(container, "restartPolicyRules").iter().find(fits).is_some() {
        return true;
    }
    match own.unwrap_or(view::text(spec, "restartPolicy")) {
        "OnFailure" => code != 0,
        policy => policy != "Never",
    }
}

fn claims(spec: &Value, status: &Value, errors: &mut FieldErrors) {
    let mut names = HashSet::new();
    for (at, claim) in view::list(status, "resourceClaimStatuses").iter().enumerate() {
        let path = format!("status.resourceClaimStatuses[{at}]");
        let of = view::text(claim, "name");
        if !view::list(spec, "resourceClaims").iter().any(|claim| view::text(claim, "name") == of) {
            errors.invalid(format!("{path}.name"), view::quoted(of), "must match the name of an entry in `spec.resourceClaims`");
        }
        if !names.insert(of) {
            errors.duplicate(format!("{path}.name"), view::quoted(of));
        }
        if let Some(made) = view::get(claim, "resourceClaimName").and_then(Value::as_str) {
            errors.invalid_each(&format!("{path}.resourceClaimName"), made, name::subdomain(made));
        }
    }
}

/// The claim that was made for extended resources, and what it stands for.
fn extended_claim(spec: &Value, status: &Value, errors: &mut FieldErrors) {
    let Some(claim) = view::get(status, "extendedResourceClaimStatus") else { return };
    let path = "status.extendedResourceClaimStatus";
    let mappings = view::list(claim, "requestMappings");
    if mappings.is_empty() {
        errors.required(format!("{path}.requestMappings"), "at least one request mapping is required");
    }
    let containers: Vec<&Value> = ["containers", "initContainers"].iter().flat_map(|list| view::list(spec, list)).collect();
    let mut seen = HashSet::new();
    for (at, mapping) in mappings.iter().enumerate() {
        let item = format!("{path}.requestMappings[{at}]");
        let [container, resource, request] = ["containerName", "resourceName", "requestName"].map(|field| view::text(mapping, field));
        match containers.iter().find(|one| view::text(one, "name") == container) {
            None => {
                let detail = "must match the name of an entry in spec.initContainers.name or spec.containers.name";
                errors.invalid(format!("{item}.containerName"), view::quoted(container), detail);
            }
            Some(one) if !view::map(view::member(one, "resources"), "requests").contains_key(resource) => {
                let detail = "must match the extended resource name of an entry in spec.initContainers.resources.requests or spec.containers.resources.requests";
                errors.invalid(format!("{item}.resourceName"), view::quoted(resource), detail);
            }
            Some(_) => {}
        }
        errors.invalid_each(&format!("{path}.requestName"), request, name::label(request));
        if !seen.insert((container, resource, request)) {
            for (field, text) in [("containerName", container), ("resourceName", resource), ("requestName", request)] {
                errors.duplicate(format!("{item}.{field}"), view::quoted(text));
            }
        }
    }
    match view::text(claim, "resourceClaimName") {
        "" => errors.required(format!("{path}.resourceClaimName"), ""),
        made => errors.invalid_each(&format!("{path}.resourceClaimName"), made, name::subdomain(made)),
    }
}

/// Addresses that were there may stay; of more than one there is one of each family.
fn addresses(status: &Value, before: &Value, list: &str, errors: &mut FieldErrors) {
    let path = format!("status.{list}");
    let texts = |of: &Value| -> Vec<String> { view::list(of, list).iter().map(|one| view::text(one, "ip").to_owned()).collect() };
    let (now, then) = (texts(status), texts(before));
    for (at, ip) in now.iter().enumerate().filter(|(_, ip)| !then.contains(ip)) {
        address::ip(ip, &format!("{path}[{at}]"), errors);
    }
    let four = now.iter().filter(|ip| ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4())).count();
    if now.len() > 1 && (now.len() > 2 || four != 1) {
        // As upstream shows its internal type.
        let shown: Vec<Value> = now.iter().map(|ip| json!({"IP": ip})).collect();
        errors.invalid(path, Value::from(shown), "may specify no more than one IP for each IP family");
    }
}

fn allocated(spec: &Value, status: &Value, list: &str, containers: &str, errors: &mut FieldErrors) {
    for (at, one) in view::list(status, list).iter().enumerate() {
        let same = |container: &&Value| view::text(container, "name") == view::text(one, "name");
        let Some(container) = view::list(spec, containers).iter().find(same) else { continue };
        let resources = view::member(container, "resources");
        for (resource_at, resource) in view::list(one, "allocatedResourcesStatus").iter().enumerate() {
            let given = view::text(resource, "name");
            let (found, detail) = match given.strip_prefix("claim:") {
                Some(_) if view::get(status, "extendedResourceClaimStatus").is_some() => (true, ""),
                Some(claim) => {
                    let named = |own: &Value| match view::text(own, "request") {
                        "" => claim == view::text(own, "name"),
                        request => claim.split_once('/') == Some((view::text(own, "name"), request)),
                    };
                    let detail = "must match one of the container's resource claims as 'claim:<claimName>/<requestName>' when container.resources.claims[*].request is set or 'claim:<claimName>' when it is empty";
                    (view::list(resources, "claims").iter().any(named), detail)
                }
                None => (view::map(resources, "requests").contains_key(given), "must match one of the container's resource requests"),
            };
            if !found {
                let path = format!("status.{list}[{at}].allocatedResourcesStatus[{resource_at}].name");
                errors.invalid(path, view::quoted(given), detail);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(status: &Value, before: &Value) -> Vec<String> {
        let spec =
            json!({"nodeName": "n", "restartPolicy": "OnFailure", "containers": [{"name": "a"}, {"name": "b", "restartPolicy": "Never"}]});
        let mut pod = json!({"spec": spec, "status": status});
        let old = json!({"spec": spec, "status": before});
        keep(&mut pod, &old);
        let mut errors = FieldErrors::none();
        check(&pod, &old, &mut errors);
        errors.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_container_that_has_ended_runs_again_only_where_its_policy_says_so() {
        let ended = |name: &str, code: i64| json!({"name": name, "state": {"terminated": {"exitCode": code}}});
        let runs = |name: &str| json!({"name": name, "state": {"running": {}}});
        let of = |one: Value| json!({"containerStatuses": [one]});
        let refused = ["status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"];
        assert!(faults(&of(runs("a")), &of(ended("a", 1))).is_empty());
        assert_eq!(faults(&of(runs("a")), &of(ended("a", 0))), refused);
        assert_eq!(faults(&of(runs("b")), &of(ended("b", 1))), refused);
    }

    #[test]
    fn claims_stay_unless_somebody_says_that_there_are_none() {
        let old = json!({"status": {"resourceClaimStatuses": [{"name": "gpu"}]}});
        let kept = |status: Value| {
            let mut new = json!({"status": status});
            keep(&mut new, &old);
            new["status"].clone()
        };
        assert_eq!(kept(json!({"phase": "Running"})), json!({"phase": "Running", "resourceClaimStatuses": [{"name": "gpu"}]}));
        assert_eq!(kept(json!({"resourceClaimStatuses": []})), json!({}));
    }

    #[test]
    fn addresses_agree_and_what_the_server_chose_stays() {
        assert!(faults(&json!({"podIP": "10.0.0.1"}), &json!({"qosClass": "Burstable"})).is_empty());
        let said = faults(
            &json!({"qosClass": "BestEffort", "nominatedNodeName": "m", "hostIPs": [{"ip": "x"}]}),
            &json!({"qosClass": "Burstable"}),
        );
        assert_eq!(
            said,
            [
                "status.nominatedNodeName: Forbidden: may not be set on pods that are already bound to a node",
                "status.qosClass: Invalid value: \"BestEffort\": field is immutable",
                "status.hostIPs[0].ip: Invalid value: \"x\": must be equal to `hostIP`",
                "status.hostIPs[0]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ]
        );
    }
}
