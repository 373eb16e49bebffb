//! Whether a pod may run on this node at all, checked when it arrives (kubelet `lifecycle/predicate.go`, `eviction/eviction_manager.go`). The scheduler
//! has checked the same, but a pod may come with its node already named, and two schedulers may disagree.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::NodeSelectorRequirement;

use super::object::BoundPod;
use super::qos::{self, Amounts};
use super::state::Verdict;
use crate::context::NodeView;

/// What the node's other pods take.
#[derive(Debug, Clone, Default)]
pub struct Taken {
    /// Their number.
    pub pods: u32,
    /// Their requests.
    pub requests: Amounts,
    /// Their host ports: protocol, port, address.
    pub ports: Vec<(String, i32, String)>,
}

/// Admits a pod or says why not.
///
/// # Errors
/// With the reason and message of the failed pod.
pub fn admit(pod: &BoundPod, node_name: &str, node: &NodeView, max_pods: u32, taken: &Taken) -> Result<(), Verdict> {
    pressure(pod, node)?;
    resources(pod, node, max_pods, taken)?;
    if !selected(pod, node_name, &node.labels) {
        return Err(rejected("NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"));
    }
    let conflict = host_ports(pod).iter().any(|own| taken.ports.iter().any(|other| clash(own, other)));
    if conflict {
        let message = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
        return Err(rejected("NodePorts", message));
    }
    Ok(())
}

fn rejected(reason: &str, message: &str) -> Verdict {
    Verdict { reason: reason.to_owned(), message: format!("Pod was rejected: {message}") }
}

/// Under pressure only critical pods get in, under memory pressure also those that asked for memory.
fn pressure(pod: &BoundPod, node: &NodeView) -> Result<(), Verdict> {
    if node.pressure.is_empty() || pod.spec.priority.is_some_and(|p| p >= 2_000_000_000) {
        return Ok(());
    }
    let only_memory = node.pressure == ["MemoryPressure"];
    if only_memory && qos::class(&pod.spec) != qos::Class::BestEffort {
        return Ok(());
    }
    Err(rejected("Evicted", &format!("The node had condition: [{}]. ", node.pressure.join(" "))))
}

fn resources(pod: &BoundPod, node: &NodeView, max_pods: u32, taken: &Taken) -> Result<(), Verdict> {
    let wants = qos::pod_requests(&pod.spec);
    let rows = [
        ("pods", 1, i64::from(taken.pods), i64::from(max_pods)),
        ("cpu", wants.cpu_milli, taken.requests.cpu_milli, node.allocatable.cpu_milli),
        ("memory", wants.memory, taken.requests.memory, node.allocatable.memory),
        ("ephemeral-storage", wants.ephemeral_storage, taken.requests.ephemeral_storage, node.allocatable.ephemeral_storage),
    ];
    for (name, requested, used, capacity) in rows {
        if requested > 0 && requested > capacity.saturating_sub(used) {
            let message = format!("Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}");
            return Err(rejected(&format!("OutOf{name}"), &message));
        }
    }
    Ok(())
}

/// Whether node selector and required node affinity match.
fn selected(pod: &BoundPod, node_name: &str, labels: &BTreeMap<String, String>) -> bool {
    let plain = pod.spec.node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let required = pod
        .spec
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref())
        .and_then(|n| n.required_during_scheduling_ignored_during_execution.as_ref());
    let Some(required) = required else { return plain };
    let fields = BTreeMap::from([("metadata.name".to_owned(), node_name.to_owned())]);
    let term_matches = required.node_selector_terms.iter().any(|term| {
        let expressions = term.match_expressions.as_deref().unwrap_or_default();
        let by_field = term.match_fields.as_deref().unwrap_or_default();
        // An empty term matches nothing.
        !(expressions.is_empty() && by_field.is_empty())
            && expressions.iter().all(|r| holds(r, labels))
            && by_field.iter().all(|r| holds(r, &fields))
    });
    plain && term_matches
}

fn holds(requirement: &NodeSelectorRequirement, labels: &BTreeMap<String, String>) -> bool {
    let value = labels.get(&requirement.key);
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|v| values.contains(v));
    let compare = || Some((value?.parse::<i64>().ok()?, values.first()?.parse::<i64>().ok()?));
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare().is_some_and(|(own, limit)| own > limit),
        "Lt" => compare().is_some_and(|(own, limit)| own < limit),
        _ => false,
    }
}

/// The host ports a pod wants: protocol, port, address.
#[must_use]
pub fn host_ports(pod: &BoundPod) -> Vec<(String, i32, String)> {
    let ports = pod.containers().flat_map(|(_, c)| c.ports.iter().flatten());
    let wanted = ports.filter_map(|p| {
        let port = p.host_port.filter(|port| *port > 0)?;
        let protocol = p.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
        Some((protocol, port, p.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| "0.0.0.0".to_owned())))
    });
    wanted.collect()
}

fn clash(one: &(String, i32, String), other: &(String, i32, String)) -> bool {
    one.0 == other.0 && one.1 == other.1 && (one.2 == other.2 || one.2 == "0.0.0.0" || other.2 == "0.0.0.0")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> NodeView {
        NodeView {
            labels: BTreeMap::from([("zone".to_owned(), "a".to_owned()), ("size".to_owned(), "5".to_owned())]),
            allocatable: Amounts { cpu_milli: 1000, memory: 1 << 30, ephemeral_storage: 1 << 30 },
            ..NodeView::default()
        }
    }

    fn verdict(spec: &str, taken: &Taken) -> Option<(String, String)> {
        let pod = BoundPod::decode(format!("{{\"metadata\":{{\"name\":\"p\"}},\"spec\":{spec}}}").as_bytes()).expect("a pod");
        admit(&pod, "n", &node(), 2, taken).err().map(|v| (v.reason, v.message))
    }

    #[test]
    fn pods_are_refused_for_kubelets_reasons() {
        let none = Taken::default();
        let busy = Taken {
            pods: 1,
            requests: Amounts { cpu_milli: 600, ..Amounts::default() },
            ports: vec![("TCP".to_owned(), 80, "0.0.0.0".to_owned())],
        };
        let full = Taken { pods: 2, ..Taken::default() };
        let half = r#"{"containers":[{"name":"c","resources":{"requests":{"cpu":"500m"}},"ports":[{"containerPort":80,"hostPort":81}]}]}"#;
        assert_eq!(verdict(half, &none), None);
        assert_eq!(
            verdict(half, &busy),
            Some((
                "OutOfcpu".to_owned(),
                "Pod was rejected: Node didn't have enough resource: cpu, requested: 500, used: 600, capacity: 1000".to_owned()
            ))
        );
        for (spec, taken, reason) in [
            (r#"{"containers":[]}"#, &full, "OutOfpods"),
            (r#"{"containers":[],"nodeSelector":{"zone":"b"}}"#, &none, "NodeAffinity"),
            (r#"{"containers":[{"name":"c","ports":[{"containerPort":1,"hostPort":80,"hostIP":"10.0.0.1"}]}]}"#, &busy, "NodePorts"),
        ] {
            assert_eq!(verdict(spec, taken).map(|v| v.0).as_deref(), Some(reason), "{spec}");
        }
    }

    #[test]
    fn node_affinity_operators_hold_as_upstream_defines_them() {
        for (key, operator, values, wanted) in [
            ("zone", "In", vec!["a", "b"], true),
            ("zone", "NotIn", vec!["a"], false),
            ("none", "NotIn", vec!["a"], true),
            ("zone", "Exists", vec![], true),
            ("none", "DoesNotExist", vec![], true),
            ("size", "Gt", vec!["4"], true),
            ("size", "Lt", vec!["5"], false),
        ] {
            let requirement = NodeSelectorRequirement {
                key: key.to_owned(),
                operator: operator.to_owned(),
                values: Some(values.iter().map(|v| (*v).to_owned()).collect()),
            };
            assert_eq!(holds(&requirement, &node().labels), wanted, "{key} {operator} {values:?}");
        }
    }

    #[test]
    fn memory_pressure_keeps_out_only_best_effort_pods() {
        let pressed = NodeView { pressure: vec!["MemoryPressure"], ..node() };
        let pod = |spec: &str| BoundPod::decode(format!("{{\"metadata\":{{}},\"spec\":{spec}}}").as_bytes()).expect("a pod");
        let best_effort = pod(r#"{"containers":[{"name":"c"}]}"#);
        let burstable = pod(r#"{"containers":[{"name":"c","resources":{"requests":{"memory":"1Mi"}}}]}"#);
        assert!(admit(&best_effort, "n", &pressed, 10, &Taken::default()).is_err());
        assert!(admit(&burstable, "n", &pressed, 10, &Taken::default()).is_ok());
    }
}
