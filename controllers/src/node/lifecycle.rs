//! The health of nodes (upstream `pkg/controller/nodelifecycle`): a node whose lease and status have not moved for the grace
//! period is `Unknown`; taints follow the conditions; pods on nodes that are not ready are not ready.
//!
//! Heartbeats wake nobody: they only move the time at which the node is looked at next. What counts is when we saw a
//! heartbeat, not what its clock said.

use std::{collections::HashMap, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{condition, ready, taints};
use crate::{
    caches::Caches,
    change::{Change, Note, PatchKind, Plan, Tolerate},
    lease::NODE_LEASES,
    object::{Key, Object},
    pod::Pod,
    run::{Controller, Named, Wake},
    time,
};

/// A node that never reported has this long for its first status (`--node-startup-grace-period`).
const STARTUP_SECONDS: i64 = 60;
/// What becomes unknown with the node.
const CONDITIONS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// The controller.
pub(crate) struct NodeLifecycle {
    caches: Arc<Caches>,
    grace: Duration,
    /// When each node was last seen to be alive.
    seen: Arc<Mutex<HashMap<String, Timestamp>>>,
}

impl NodeLifecycle {
    /// The controller over these caches; `grace` is the silence after which a node's state is unknown.
    pub(crate) fn new(caches: Arc<Caches>, grace: Duration) -> Self {
        Self { caches, grace, seen: Arc::default() }
    }
}

impl Named for NodeLifecycle {
    fn name(&self) -> &'static str {
        "node-lifecycle-controller"
    }
    fn identity(&self) -> &'static str {
        "node-controller"
    }

    fn reads(&self, wake: &Wake) {
        let seen = self.seen.clone();
        wake.on(&self.caches.leases, move |delta, wake| {
            let Some(lease) = delta.new.filter(|lease| lease.namespace() == NODE_LEASES) else { return };
            if delta.old.is_none_or(|old| old.spec.renew_time != lease.spec.renew_time) {
                seen.lock().insert(lease.name().to_owned(), Timestamp::now());
                if delta.old.is_none() {
                    wake(Key::new("", lease.name()));
                }
            }
        });
        let (seen, caches) = (self.seen.clone(), self.caches.clone());
        wake.on(&self.caches.nodes, move |delta, wake| {
            let Some(node) = delta.new else {
                seen.lock().retain(|name, _| delta.old.is_some_and(|old| old.name() != name));
                return;
            };
            let heartbeat = |node: &Node| condition(node, "Ready").and_then(|ready| ready.last_heartbeat_time.clone());
            if delta.old.is_none_or(|old| heartbeat(old) != heartbeat(node)) && ready(node) != "Unknown" {
                seen.lock().insert(node.name().to_owned(), Timestamp::now());
            }
            if delta.old.is_none_or(|old| concerns(old, node)) {
                wake(Key::of(node.as_ref()));
            }
            // Whether all nodes are silent decides for each of them: the first to be heard, or the last to fall silent, matters to all.
            let was = delta.old.is_some_and(|old| ready(old) == "True");
            if was != (ready(node) == "True") {
                let nodes = caches.nodes.list("");
                if !nodes.iter().any(|other| other.name() != node.name() && ready(other) == "True") {
                    nodes.iter().for_each(|node| wake(Key::of(node.as_ref())));
                }
            }
        });
        let caches = self.caches.clone();
        wake.on(&self.caches.pods, move |delta, wake| {
            let Some((pod, node)) = delta.new.and_then(|pod| Some((pod, pod.spec.node_name.as_deref()?))) else { return };
            if pod.is_ready() && caches.nodes.get("", node).is_some_and(|node| ready(&node) != "True") {
                wake(Key::new("", node));
            }
        });
    }
}

/// Whether a change of a node is more than a heartbeat.
fn concerns(old: &Node, new: &Node) -> bool {
    let states = |node: &Node| -> Vec<(String, String)> {
        let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref()).into_iter().flatten();
        conditions.map(|condition| (condition.type_.clone(), condition.status.clone())).collect()
    };
    old.spec != new.spec || states(old) != states(new)
}

impl Controller for NodeLifecycle {
    fn plan(&self, key: &Key, now: Timestamp) -> Plan {
        let Some(node) = self.caches.nodes.at(key) else { return Plan::nothing() };
        let first = condition(&node, "Ready").is_none();
        let start = *self.seen.lock().entry(key.name.to_string()).or_insert(now);
        let (since, grace) = if first {
            (node.created().unwrap_or(start), SignedDuration::from_secs(STARTUP_SECONDS))
        } else {
            (start, SignedDuration::try_from(self.grace).unwrap_or(SignedDuration::MAX))
        };
        let silent = now.duration_since(since) >= grace;
        let mut plan = Plan::nothing();
        if silent && (first || ready(&node) != "Unknown") {
            plan.push(mark_unknown(&node, now));
            if ready(&node) == "True" {
                plan.tell(Note::normal(node.as_ref(), "NodeNotReady", format!("Node {} status is now: NodeNotReady", node.name())));
            }
        } else if !silent {
            plan.again_at(since.checked_add(grace).unwrap_or(Timestamp::MAX), now);
        }
        // With every node silent it is us who are cut off: then nothing is evicted.
        let any_ready = self.caches.nodes.list("").iter().any(|node| ready(node) == "True");
        plan.steps.extend(taint(&node, any_ready, now).map(crate::change::Step::One));
        if ready(&node) != "True" && !first {
            let pods = self.caches.pods.indexed(node.name());
            plan.parallel(pods.iter().filter(|pod| pod.is_ready()).map(|pod| mark_unready(pod, now)).collect());
        }
        plan
    }
}

fn mark_unknown(node: &Node, now: Timestamp) -> Change {
    let conditions: Vec<Value> = CONDITIONS
        .iter()
        .filter_map(|type_| match condition(node, type_) {
            None => Some(json!({
                "type": type_,
                "status": "Unknown",
                "reason": "NodeStatusNeverUpdated",
                "message": "Kubelet never posted node status.",
                "lastHeartbeatTime": node.metadata.creation_timestamp,
                "lastTransitionTime": time::api(now),
            })),
            Some(condition) if condition.status != "Unknown" => Some(json!({
                "type": type_,
                "status": "Unknown",
                "reason": "NodeStatusUnknown",
                "message": "Kubelet stopped posting node status.",
                "lastTransitionTime": time::api(now),
            })),
            Some(_) => None,
        })
        .collect();
    let body = json!({"metadata": {"uid": node.uid()}, "status": {"conditions": conditions}});
    Change::patch_status::<Node>(Key::of(node), PatchKind::Strategic, body).tolerate(Tolerate::Races)
}

fn taint(node: &Node, evict: bool, now: Timestamp) -> Option<Change> {
    let present = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let wanted = taints::wanted(node, evict, now);
    if wanted == present {
        return None;
    }
    // A whole list is written, so the node must be as we know it.
    let body = json!({
        "metadata": {"uid": node.uid(), "resourceVersion": node.resource_version()},
        "spec": {"taints": if wanted.is_empty() { Value::Null } else { json!(wanted) }},
    });
    Some(Change::patch::<Node>(Key::of(node), PatchKind::Merge, body).tolerate(Tolerate::NotFound))
}

fn mark_unready(pod: &Pod, now: Timestamp) -> Change {
    let condition = json!({"type": "Ready", "status": "False", "lastTransitionTime": time::api(now)});
    let body = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}});
    Change::patch_status::<Pod>(Key::of(pod), PatchKind::Strategic, body)
        .on_success(Note::warning(pod, "NodeNotReady", "Node is not ready"))
        .tolerate(Tolerate::Races)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Verb;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn node(name: &str, status: Option<&str>, taints: &Value) -> Node {
        let conditions = status.map(|status| json!([{"type": "Ready", "status": status}]));
        serde_json::from_value(json!({
            "metadata": {"name": name, "uid": name, "resourceVersion": "7", "creationTimestamp": time::api(at(0))},
            "spec": {"taints": taints},
            "status": {"conditions": conditions},
        }))
        .unwrap()
    }

    fn bodies(plan: &Plan) -> Vec<Value> {
        let body = |change: &Change| match &change.verb {
            Verb::Patch { body, .. } => body.clone(),
            other => panic!("unexpected {other:?}"),
        };
        plan.changes().map(body).collect()
    }

    fn controller(nodes: Vec<Node>) -> NodeLifecycle {
        let caches = Arc::new(Caches::default());
        nodes.into_iter().for_each(|node| caches.nodes.put(node));
        NodeLifecycle::new(caches, Duration::from_secs(50))
    }

    #[test]
    fn a_silent_node_becomes_unknown_after_the_grace_period() {
        let controller = controller(vec![node("n", Some("True"), &json!(null)), node("other", Some("True"), &json!(null))]);
        let plan = controller.plan(&Key::new("", "n"), at(0));
        assert_eq!((plan.changes().count(), plan.again.unwrap().as_secs()), (0, 50));
        let plan = controller.plan(&Key::new("", "n"), at(50));
        let condition = &bodies(&plan)[0]["status"]["conditions"][0];
        assert_eq!((condition["status"].as_str(), condition["reason"].as_str()), (Some("Unknown"), Some("NodeStatusUnknown")));
    }

    #[test]
    fn a_node_that_never_reported_has_a_minute() {
        let controller = controller(vec![node("n", None, &json!(null))]);
        assert_eq!(controller.plan(&Key::new("", "n"), at(20)).again.unwrap().as_secs(), 40);
        let plan = controller.plan(&Key::new("", "n"), at(61));
        assert_eq!(bodies(&plan)[0]["status"]["conditions"][0]["reason"], "NodeStatusNeverUpdated");
    }

    #[test]
    fn an_unknown_node_is_tainted_for_eviction_only_while_another_is_alive() {
        let key = Key::new("", "n");
        let silent = || node("n", Some("Unknown"), &json!(null));
        let plan = controller(vec![silent(), node("other", Some("True"), &json!(null))]).plan(&key, at(0));
        assert_eq!(bodies(&plan)[0]["spec"]["taints"].as_array().unwrap().len(), 2);
        let plan = controller(vec![silent()]).plan(&key, at(0));
        assert_eq!(bodies(&plan)[0]["spec"]["taints"][0]["effect"], "NoSchedule");
    }

    #[test]
    fn pods_of_a_node_that_is_not_ready_are_not_ready() {
        let controller = controller(vec![node("n", Some("False"), &json!([{"key": taints::NOT_READY, "effect": "NoSchedule"}]))]);
        let pod = json!({"metadata": {"name": "p", "namespace": "a", "uid": "p"}, "spec": {"nodeName": "n"},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        controller.caches.pods.put(serde_json::from_value(pod).unwrap());
        let bodies = bodies(&controller.plan(&Key::new("", "n"), at(0)));
        assert_eq!(bodies[0]["status"]["conditions"][0]["status"], "False");
    }
}
