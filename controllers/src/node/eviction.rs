//! Deletes pods from nodes with taints they do not tolerate, or no longer (upstream `pkg/controller/tainteviction`).

use std::{collections::HashMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Taint, Toleration};
use parking_lot::Mutex;

use super::{disrupt, taints::tolerates};
use crate::{
    caches::Caches,
    change::{Change, Note, Plan},
    object::{Key, Object},
    pod::Pod,
    run::{Controller, Named, Wake},
    time,
};

/// The controller. Its keys are pods.
pub(crate) struct TaintEviction {
    caches: Arc<Caches>,
    /// Since when pods are under taints that they tolerate for a time only, by uid.
    since: Arc<Mutex<HashMap<String, Timestamp>>>,
}

impl TaintEviction {
    /// The controller over these caches.
    pub(crate) fn new(caches: Arc<Caches>) -> Self {
        Self { caches, since: Arc::default() }
    }
}

fn no_execute(node: &Node) -> Vec<Taint> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref()).into_iter().flatten();
    taints.filter(|taint| taint.effect == "NoExecute").cloned().collect()
}

impl Named for TaintEviction {
    fn name(&self) -> &'static str {
        "taint-eviction-controller"
    }
    fn identity(&self) -> &'static str {
        "node-controller"
    }

    fn reads(&self, wake: &Wake) {
        let caches = self.caches.clone();
        wake.on(&self.caches.nodes, move |delta, wake| {
            let taints = |node: Option<&Arc<Node>>| node.map(|node| no_execute(node)).unwrap_or_default();
            let (Some(node), old) = (delta.new, taints(delta.old)) else { return };
            let new = taints(Some(node));
            if new != old {
                caches.pods.indexed(node.name()).iter().for_each(|pod| wake(Key::of(pod.as_ref())));
            }
        });
        let (caches, since) = (self.caches.clone(), self.since.clone());
        wake.on(&self.caches.pods, move |delta, wake| {
            if let (Some(old), None) = (delta.old, delta.new) {
                since.lock().remove(old.uid());
            }
            let Some((pod, node)) = delta.new.and_then(|pod| Some((pod, pod.spec.node_name.as_deref()?))) else { return };
            let seen =
                delta.old.is_some_and(|old| old.spec.node_name == pod.spec.node_name && old.spec.tolerations == pod.spec.tolerations);
            if !seen && caches.nodes.get("", node).is_some_and(|node| !no_execute(&node).is_empty()) {
                wake(Key::of(pod.as_ref()));
            }
        });
    }
}

impl Controller for TaintEviction {
    fn plan(&self, key: &Key, now: Timestamp) -> Plan {
        let Some(pod) = self.caches.pods.at(key).filter(|pod| pod.metadata.deletion_timestamp.is_none()) else { return Plan::nothing() };
        let node = pod.spec.node_name.as_deref().and_then(|name| self.caches.nodes.get("", name));
        let Some(node) = node else { return Plan::nothing() };
        let taints = no_execute(&node);
        let mut since = self.since.lock();
        let Some(seconds) = tolerated_seconds(&taints, &pod.spec.tolerations) else {
            since.remove(pod.uid());
            return Plan::nothing();
        };
        let began = *since.entry(pod.uid().to_owned()).or_insert_with(|| began(&taints, &pod, now));
        drop(since);
        let due = time::plus(began, seconds);
        if due <= now {
            return evict(&pod, now);
        }
        let mut plan = Plan::nothing();
        plan.again_at(due, now);
        plan
    }
}

/// When the pod came under the taints: as far as they and it tell, else now.
fn began(taints: &[Taint], pod: &Pod, now: Timestamp) -> Timestamp {
    let added: Option<Vec<Timestamp>> = taints.iter().map(|taint| taint.time_added.as_ref().map(|added| added.0)).collect();
    let latest = added.and_then(|added| added.into_iter().max());
    latest.map_or(now, |latest| latest.max(pod.status.start_time.or(pod.created()).unwrap_or(now)).min(now))
}

/// For how many seconds the tolerations put up with the taints: 0 for not at all, `None` for ever. Of several tolerations of
/// one taint the first counts.
fn tolerated_seconds(taints: &[Taint], tolerations: &[Toleration]) -> Option<i64> {
    let mut shortest: Option<i64> = None;
    for taint in taints {
        let Some(toleration) = tolerations.iter().find(|toleration| tolerates(toleration, taint)) else { return Some(0) };
        if let Some(seconds) = toleration.toleration_seconds {
            shortest = Some(shortest.map_or(seconds, |shortest| shortest.min(seconds)).max(0));
        }
    }
    shortest
}

fn evict(pod: &Pod, now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    plan.tell(Note::normal(pod, "TaintManagerEviction", format!("Marking for deletion Pod {}", Key::of(pod))));
    plan.push(disrupt(pod, "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint", false, now));
    plan.push(Change::delete(pod));
    plan
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn taint(key: &str) -> Taint {
        Taint { key: key.into(), effect: "NoExecute".into(), time_added: None, value: None }
    }

    fn tolerate(key: &str, seconds: Option<i64>) -> Toleration {
        Toleration { key: Some(key.into()), operator: Some("Exists".into()), toleration_seconds: seconds, ..Toleration::default() }
    }

    #[test]
    fn a_pod_goes_at_once_later_or_never_by_its_tolerations() {
        let cases = [
            (vec![taint("a")], vec![], Some(0)),
            (vec![taint("a")], vec![tolerate("b", None)], Some(0)),
            (vec![taint("a")], vec![tolerate("a", None)], None),
            (vec![taint("a")], vec![tolerate("a", Some(300))], Some(300)),
            (vec![taint("a"), taint("b")], vec![tolerate("a", Some(300)), tolerate("b", Some(60))], Some(60)),
            (vec![taint("a"), taint("b")], vec![tolerate("a", Some(300))], Some(0)),
            (vec![], vec![], None),
        ];
        for (taints, tolerations, expected) in cases {
            assert_eq!(tolerated_seconds(&taints, &tolerations), expected, "{taints:?} {tolerations:?}");
        }
    }

    #[test]
    fn the_time_runs_from_when_the_pod_came_under_the_taint_and_stops_with_it() {
        let caches = Arc::new(Caches::default());
        let node =
            |taints: serde_json::Value| serde_json::from_value(json!({"metadata": {"name": "n"}, "spec": {"taints": taints}})).unwrap();
        caches.nodes.put(node(json!([{"key": "a", "effect": "NoExecute"}])));
        let pod = json!({"metadata": {"name": "p", "namespace": "a", "uid": "p"},
            "spec": {"nodeName": "n", "tolerations": [{"key": "a", "operator": "Exists", "tolerationSeconds": 30}]}});
        caches.pods.put(serde_json::from_value(pod).unwrap());
        let (controller, key) = (TaintEviction::new(caches.clone()), Key::new("a", "p"));
        assert_eq!(controller.plan(&key, at(0)).again.unwrap().as_secs(), 30);
        assert_eq!(controller.plan(&key, at(20)).again.unwrap().as_secs(), 10);
        assert_eq!(controller.plan(&key, at(30)).changes().count(), 2, "marked, and deleted");
        caches.nodes.put(node(json!([])));
        assert_eq!(controller.plan(&key, at(40)).changes().count(), 0);
        caches.nodes.put(node(json!([{"key": "a", "effect": "NoExecute"}])));
        assert_eq!(controller.plan(&key, at(50)).again.unwrap().as_secs(), 30, "a new taint, a new time");
    }
}
