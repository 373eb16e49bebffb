//! What the objects of a namespace use, by the names of quotas.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, ResourceQuotaSpec, Service};

use super::amount::parse;
use crate::{
    object::Labels,
    pod::{Container, Pod},
};

/// One unit, in nanounits.
pub(super) const ONE: i128 = 1_000_000_000;

/// Whether a quota with these scopes is about a pod.
pub(super) fn in_scope(spec: &ResourceQuotaSpec, pod: &Pod) -> bool {
    let terminating = pod.spec.active_deadline_seconds.is_some_and(|seconds| seconds >= 0);
    let best_effort = containers(pod).all(|container| {
        let set = |list: &Labels| ["cpu", "memory"].iter().any(|name| list.get(*name).is_some_and(|text| parse(text) > 0));
        !set(&container.resources.requests) && !set(&container.resources.limits)
    });
    let priority = pod.spec.priority_class_name.as_deref().unwrap_or_default();
    let holds = |scope: &str, operator: &str, values: &[String]| match scope {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => best_effort,
        "NotBestEffort" => !best_effort,
        "PriorityClass" => match operator {
            "In" => values.iter().any(|value| value == priority),
            "NotIn" => !values.iter().any(|value| value == priority),
            "Exists" => !priority.is_empty(),
            _ => priority.is_empty(),
        },
        _ => false,
    };
    let expressions = spec.scope_selector.iter().flat_map(|selector| selector.match_expressions.iter().flatten());
    spec.scopes.iter().flatten().all(|scope| holds(scope, "Exists", &[]))
        && expressions.into_iter().all(|wanted| holds(&wanted.scope_name, &wanted.operator, wanted.values.as_deref().unwrap_or_default()))
}

fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.spec.containers.iter().chain(&pod.spec.init_containers)
}

/// What pods use of one quota name; `None` when the name is not about pods.
pub(super) fn of_pods(name: &str, pods: &[Arc<Pod>]) -> Option<i128> {
    if name == "count/pods" {
        return Some(count(pods.len()));
    }
    let alive = || pods.iter().filter(|pod| !pod.is_terminal());
    if name == "pods" {
        return Some(count(alive().count()));
    }
    let (limits, resource) = match name {
        "cpu" | "memory" | "ephemeral-storage" => (false, name),
        _ => match (name.strip_prefix("requests."), name.strip_prefix("limits.")) {
            (Some("storage"), _) => return None,
            (Some(resource), _) => (false, resource),
            (_, Some(resource)) => (true, resource),
            _ if name.starts_with("hugepages-") => (false, name),
            _ => return None,
        },
    };
    Some(alive().map(|pod| of_pod(pod, resource, limits)).sum())
}

/// What the scheduler sets aside for a pod: the sum of what runs together, or the largest of what runs before.
fn of_pod(pod: &Pod, resource: &str, limits: bool) -> i128 {
    let of = |container: &Container| {
        let list = if limits { &container.resources.limits } else { &container.resources.requests };
        list.get(resource).map(|text| parse(text)).unwrap_or_default()
    };
    let mut running: i128 = pod.spec.containers.iter().map(of).sum();
    let (mut sidecars, mut before) = (0, 0);
    for container in &pod.spec.init_containers {
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars += of(container);
            before = before.max(sidecars);
        } else {
            before = before.max(sidecars + of(container));
        }
    }
    running += sidecars;
    let overhead = pod.spec.overhead.as_ref().and_then(|overhead| overhead.get(resource)).map(|text| parse(text)).unwrap_or_default();
    running.max(before) + overhead
}

/// What services use of one quota name; `None` when the name is not about services.
pub(super) fn of_services(name: &str, services: &[Arc<Service>]) -> Option<i128> {
    let kind = |service: &Service| service.spec.as_ref().and_then(|spec| spec.type_.clone()).unwrap_or_default();
    let ports = |service: &Service| {
        let listed = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
        match kind(service).as_str() {
            "NodePort" => listed.count(),
            "LoadBalancer" => listed.filter(|port| port.node_port.is_some_and(|port| port != 0)).count(),
            _ => 0,
        }
    };
    match name {
        "services" | "count/services" => Some(count(services.len())),
        "services.loadbalancers" => Some(count(services.iter().filter(|service| kind(service) == "LoadBalancer").count())),
        "services.nodeports" => Some(count(services.iter().map(|service| ports(service)).sum())),
        _ => None,
    }
}

/// What claims use of one quota name; `None` when the name is not about claims.
pub(super) fn of_claims(name: &str, claims: &[Arc<PersistentVolumeClaim>]) -> Option<i128> {
    let class = |claim: &PersistentVolumeClaim| claim.spec.as_ref().and_then(|spec| spec.storage_class_name.clone()).unwrap_or_default();
    let storage = |claim: &PersistentVolumeClaim| {
        let requests = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref()?.get("storage").cloned());
        requests.map(|quantity| parse(&quantity.0)).unwrap_or_default()
    };
    let (of_class, what) = match name.split_once(".storageclass.storage.k8s.io/") {
        Some((of_class, what)) => (Some(of_class), what),
        None => (None, name),
    };
    let chosen = claims.iter().filter(|claim| of_class.is_none_or(|wanted| class(claim) == wanted));
    match what {
        "persistentvolumeclaims" => Some(count(chosen.count())),
        "count/persistentvolumeclaims" if of_class.is_none() => Some(count(chosen.count())),
        "requests.storage" => Some(chosen.map(|claim| storage(claim)).sum()),
        _ => None,
    }
}

/// A number of objects as an amount.
pub(super) fn count(number: usize) -> i128 {
    i128::try_from(number).unwrap_or_default() * ONE
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(spec: &Value, phase: &str) -> Arc<Pod> {
        Arc::new(serde_json::from_value(json!({"spec": spec, "status": {"phase": phase}})).unwrap())
    }

    #[test]
    fn pods_use_what_the_scheduler_sets_aside() {
        let spec = json!({
            "containers": [{"resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "1"}}}, {"resources": {"requests": {"cpu": "200m"}}}],
            "initContainers": [
                {"resources": {"requests": {"cpu": "50m"}}, "restartPolicy": "Always"},
                {"resources": {"requests": {"cpu": "400m"}}},
            ],
            "overhead": {"cpu": "10m"},
        });
        let pods = [pod(&spec, "Running"), pod(&spec, "Succeeded")];
        assert_eq!(of_pods("requests.cpu", &pods), Some(parse("460m")));
        assert_eq!(of_pods("limits.cpu", &pods), Some(parse("1010m")));
        assert_eq!((of_pods("pods", &pods), of_pods("count/pods", &pods)), (Some(ONE), Some(2 * ONE)));
        assert_eq!(of_pods("configmaps", &pods), None);
    }

    #[test]
    fn scopes_choose_pods() {
        let scoped = |scope: &str| ResourceQuotaSpec { scopes: Some(vec![scope.to_owned()]), ..ResourceQuotaSpec::default() };
        let plain = pod(&json!({"containers": [{}]}), "Running");
        let timed = pod(&json!({"containers": [{"resources": {"requests": {"cpu": "1"}}}], "activeDeadlineSeconds": 5}), "Running");
        let chosen = |scope: &str| (in_scope(&scoped(scope), &plain), in_scope(&scoped(scope), &timed));
        assert_eq!(chosen("BestEffort"), (true, false));
        assert_eq!(chosen("NotBestEffort"), (false, true));
        assert_eq!(chosen("Terminating"), (false, true));
    }
}
