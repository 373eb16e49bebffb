//! What objects use of a quota (`pkg/quota/v1/evaluator/core`). Pure.

use coracle_schema::Quantity;
use coracle_tree::Value;

use super::super::{
    look::{list, text},
    resources::{self, Half, List},
};

/// The names by which pods are measured beside their counts.
const COMPUTE: [(&str, &str); 4] = [
    ("cpu", "requests.cpu"),
    ("memory", "requests.memory"),
    ("ephemeral-storage", "requests.ephemeral-storage"),
    ("storage", "requests.storage"),
];

/// Core resources whose count has a name of its own beside `count/…`.
const COUNTED: [&str; 6] = ["configmaps", "persistentvolumeclaims", "replicationcontrollers", "resourcequotas", "secrets", "services"];

/// `count/deployments.apps`
pub(super) fn count_name(group: &str, resource: &str) -> String {
    if group.is_empty() { format!("count/{resource}") } else { format!("count/{resource}.{group}") }
}

/// What one object uses.
pub(super) fn of(group: &str, resource: &str, object: &Value) -> List {
    let one = || Quantity::new(1, coracle_schema::quantity::Format::DecimalSi);
    let mut usage = List::from([(count_name(group, resource), one())]);
    if !group.is_empty() {
        return usage;
    }
    if COUNTED.contains(&resource) {
        usage.insert(resource.to_owned(), one());
    }
    match resource {
        "pods" if !is_over(object) => {
            usage.insert("pods".into(), one());
            compute(&mut usage, object);
        }
        "services" => service(&mut usage, object),
        "persistentvolumeclaims" => claim(&mut usage, object),
        _ => {}
    }
    usage
}

/// Whether a pod has ended for good, and so uses nothing but its place in the store.
fn is_over(pod: &Value) -> bool {
    let phase = pod.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default();
    matches!(phase, "Succeeded" | "Failed")
}

fn compute(usage: &mut List, pod: &Value) {
    for (name, quantity) in resources::of_pod(pod, Half::Requests) {
        if let Some((plain, long)) = COMPUTE.iter().find(|(plain, _)| *plain == name) {
            usage.insert((*plain).to_owned(), quantity);
            usage.insert((*long).to_owned(), quantity);
        } else {
            if name.starts_with("hugepages-") {
                usage.insert(name.clone(), quantity);
            }
            usage.insert(format!("requests.{name}"), quantity);
        }
    }
    for (name, quantity) in resources::of_pod(pod, Half::Limits) {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            usage.insert(format!("limits.{name}"), quantity);
        }
    }
}

fn service(usage: &mut List, service: &Value) {
    let spec = service.get("spec").unwrap_or(&Value::Null);
    let balancer = text(spec, "type") == "LoadBalancer";
    let allocated = spec.get("allocateLoadBalancerNodePorts").and_then(Value::as_bool).unwrap_or(true);
    let ports = list(spec, "/ports");
    let node_ports = match text(spec, "type") {
        "NodePort" => ports.len(),
        "LoadBalancer" if allocated => ports.len(),
        "LoadBalancer" => ports.iter().filter(|p| p.get("nodePort").and_then(Value::as_i64).unwrap_or_default() != 0).count(),
        _ => 0,
    };
    let number = |n: usize| Quantity::new(i64::try_from(n).unwrap_or(i64::MAX), coracle_schema::quantity::Format::DecimalSi);
    usage.insert("services.nodeports".into(), number(node_ports));
    usage.insert("services.loadbalancers".into(), number(usize::from(balancer)));
}

fn claim(usage: &mut List, claim: &Value) {
    let storage = resources::of(claim.pointer("/spec/resources/requests")).get("storage").copied();
    let class = claim.pointer("/spec/storageClassName").and_then(Value::as_str).unwrap_or_default();
    let one = Quantity::new(1, coracle_schema::quantity::Format::DecimalSi);
    if !class.is_empty() {
        usage.insert(format!("{class}.storageclass.storage.k8s.io/persistentvolumeclaims"), one);
    }
    if let Some(storage) = storage {
        usage.insert("requests.storage".into(), storage);
        if !class.is_empty() {
            usage.insert(format!("{class}.storageclass.storage.k8s.io/requests.storage"), storage);
        }
    }
}

/// Group and resource whose objects use the quota resource `name`; `None` when nothing does.
pub(super) fn source(name: &str) -> Option<(&str, &str)> {
    if let Some(counted) = name.strip_prefix("count/") {
        return Some(counted.split_once('.').map_or(("", counted), |(resource, group)| (group, resource)));
    }
    if name.contains(".storageclass.storage.k8s.io/") || name == "requests.storage" {
        return Some(("", "persistentvolumeclaims"));
    }
    if let Some(counted) = COUNTED.iter().find(|c| **c == name) {
        return Some(("", counted));
    }
    if name.starts_with("services.") {
        return Some(("", "services"));
    }
    let of_pods = matches!(name, "pods" | "cpu" | "memory" | "ephemeral-storage");
    (of_pods || ["requests.", "limits.", "hugepages-"].iter().any(|p| name.starts_with(p))).then_some(("", "pods"))
}

/// Whether the quota is about the object: every scope it names must fit. Scopes are of pods only.
pub(super) fn in_scope(quota: &Value, group: &str, resource: &str, object: &Value) -> bool {
    let plain = list(quota, "/spec/scopes").iter().filter_map(Value::as_str).map(|scope| (scope, "Exists", &[][..]));
    let selected = list(quota, "/spec/scopeSelector/matchExpressions");
    let selected = selected.iter().map(|e| (text(e, "scopeName"), text(e, "operator"), list(e, "/values")));
    let mut scopes = plain.chain(selected).peekable();
    if scopes.peek().is_none() {
        return true;
    }
    let pods = group.is_empty() && resource == "pods";
    pods && scopes.all(|(scope, operator, values)| scope_fits(scope, operator, values, object))
}

/// Whether a pod is within one scope.
pub(super) fn scope_fits(scope: &str, operator: &str, values: &[Value], pod: &Value) -> bool {
    let ends = pod.pointer("/spec/activeDeadlineSeconds").is_some_and(Value::is_number);
    let best_effort = || {
        let all = ["containers", "initContainers"].into_iter().flat_map(|c| list(pod, &format!("/spec/{c}")));
        let nothing =
            |c: &Value| [Half::Requests, Half::Limits].iter().all(|h| resources::of_container(c, *h).values().all(|q| q.is_zero()));
        all.into_iter().all(nothing) && resources::of_pod(pod, Half::Requests).values().all(|q| q.is_zero())
    };
    match scope {
        "Terminating" => ends,
        "NotTerminating" => !ends,
        "BestEffort" => best_effort(),
        "NotBestEffort" => !best_effort(),
        "PriorityClass" => {
            let class = pod.pointer("/spec/priorityClassName").and_then(Value::as_str).unwrap_or_default();
            let listed = values.iter().any(|v| v == class);
            match operator {
                "In" => listed,
                "NotIn" => !listed,
                "DoesNotExist" => class.is_empty(),
                _ => !class.is_empty(),
            }
        }
        "CrossNamespacePodAffinity" => crosses_namespaces(pod),
        _ => false,
    }
}

/// Whether any affinity term looks into other namespaces.
fn crosses_namespaces(pod: &Value) -> bool {
    let terms = ["podAffinity", "podAntiAffinity"].into_iter().flat_map(|kind| {
        let required = list(pod, &format!("/spec/affinity/{kind}/requiredDuringSchedulingIgnoredDuringExecution")).iter();
        let preferred = list(pod, &format!("/spec/affinity/{kind}/preferredDuringSchedulingIgnoredDuringExecution")).iter();
        required.chain(preferred.filter_map(|p| p.get("podAffinityTerm")))
    });
    terms.into_iter().any(|t| !list(t, "/namespaces").is_empty() || t.get("namespaceSelector").is_some_and(Value::is_object))
}

/// The containers that must say what they ask for and do not: a quota on CPU or memory obliges every container of a pod.
pub(super) fn unsaid(hard: &List, pod: &Value) -> Option<String> {
    let obliging = ["cpu", "limits.cpu", "limits.memory", "memory", "requests.cpu", "requests.memory"];
    let mut missing = Vec::new();
    for name in obliging.into_iter().filter(|n| hard.contains_key(*n)) {
        let (half, plain) = match name.split_once('.') {
            Some(("limits", plain)) => (Half::Limits, plain),
            Some((_, plain)) => (Half::Requests, plain),
            None => (Half::Requests, name),
        };
        if pod.pointer(&format!("/spec/resources/{}/{plain}", half.name())).is_some() {
            continue;
        }
        let containers = ["containers", "initContainers"].into_iter().flat_map(|c| list(pod, &format!("/spec/{c}")));
        let mut silent: Vec<&str> =
            containers.filter(|c| !resources::of_container(c, half).contains_key(plain)).map(|c| text(c, "name")).collect();
        silent.sort_unstable();
        if !silent.is_empty() {
            missing.push(format!("{name} for: {}", silent.join(",")));
        }
    }
    (!missing.is_empty()).then(|| format!("must specify {}", missing.join("; ")))
}

#[cfg(test)]
#[expect(clippy::needless_pass_by_value, reason = "literals are easier to read without borrows")]
mod tests {
    use coracle_tree::json;

    use super::*;

    fn used(resource: &str, object: Value) -> String {
        resources::print(&of("", resource, &object))
    }

    #[test]
    fn pods_use_their_place_and_what_they_ask_for_until_they_end() {
        let container = json!({"name": "c", "resources": {"requests": {"cpu": "1", "example.com/gpu": "2"}, "limits": {"cpu": "2"}}});
        let pod = json!({"spec": {"containers": [container]}});
        assert_eq!(used("pods", pod.clone()), "count/pods=1,cpu=1,limits.cpu=2,pods=1,requests.cpu=1,requests.example.com/gpu=2");
        let mut over = pod;
        over["status"] = json!({"phase": "Succeeded"});
        assert_eq!(used("pods", over), "count/pods=1");
    }

    #[test]
    fn services_and_claims_use_ports_and_storage() {
        let service = json!({"spec": {"type": "LoadBalancer", "ports": [{}, {}]}});
        assert_eq!(used("services", service), "count/services=1,services=1,services.loadbalancers=1,services.nodeports=2");
        let claim = json!({"spec": {"storageClassName": "fast", "resources": {"requests": {"storage": "1Gi"}}}});
        assert!(used("persistentvolumeclaims", claim).contains("fast.storageclass.storage.k8s.io/requests.storage=1Gi"));
        assert_eq!(resources::print(&of("apps", "deployments", &json!({}))), "count/deployments.apps=1");
    }

    #[test]
    fn every_name_has_its_source() {
        for (name, expected) in [
            ("pods", Some(("", "pods"))),
            ("limits.cpu", Some(("", "pods"))),
            ("requests.storage", Some(("", "persistentvolumeclaims"))),
            ("services.nodeports", Some(("", "services"))),
            ("count/deployments.apps", Some(("apps", "deployments"))),
            ("secrets", Some(("", "secrets"))),
            ("nonsense", None),
        ] {
            assert_eq!(source(name), expected, "{name}");
        }
    }

    #[test]
    fn scopes_choose_pods() {
        let quota = |scope: &str| json!({"spec": {"scopes": [scope]}});
        let plain = json!({"spec": {"containers": [{"name": "c"}]}});
        assert!(in_scope(&quota("BestEffort"), "", "pods", &plain) && !in_scope(&quota("NotBestEffort"), "", "pods", &plain));
        assert!(in_scope(&quota("NotTerminating"), "", "pods", &plain) && !in_scope(&quota("Terminating"), "", "pods", &plain));
        assert!(!in_scope(&quota("BestEffort"), "", "services", &json!({})));
        let select = json!({"scopeName": "PriorityClass", "operator": "In", "values": ["high"]});
        let by_class = json!({"spec": {"scopeSelector": {"matchExpressions": [select]}}});
        assert!(!in_scope(&by_class, "", "pods", &plain));
        assert!(in_scope(&by_class, "", "pods", &json!({"spec": {"priorityClassName": "high"}})));
    }

    #[test]
    fn silent_containers_are_named() {
        let hard = resources::of(Some(&json!({"limits.cpu": "1", "requests.memory": "1"})));
        let pod = json!({"spec": {"containers": [{"name": "b"}, {"name": "a", "resources": {"limits": {"cpu": "1"}}}]}});
        assert_eq!(unsaid(&hard, &pod).as_deref(), Some("must specify limits.cpu for: b; requests.memory for: a,b"));
    }
}
