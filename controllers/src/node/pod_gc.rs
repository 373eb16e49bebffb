//! Removes pods nobody else will: those of nodes that are gone, those that were deleted before they had a node, and the
//! oldest of too many ended ones (upstream `pkg/controller/podgc`).

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicIsize, Ordering},
    },
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;

use super::{disrupt, ready, taints::OUT_OF_SERVICE};
use crate::{
    caches::Caches,
    change::{Change, Plan},
    object::{Key, Object},
    pod::Pod,
    run::{Controller, Named, Wake},
    time,
};

/// A node may be away for this long before its pods are given up.
const QUARANTINE_SECONDS: i64 = 40;
/// The key of the look at ended pods; no pod has it, since pods have namespaces.
const ENDED: &str = "ended";
/// Missing nodes remembered before the oldest are dropped.
const REMEMBERED: usize = 1024;
/// Ended pods removed by one look.
const BATCH: usize = 500;

/// The controller. Its keys are pods.
pub(crate) struct PodGc {
    caches: Arc<Caches>,
    threshold: usize,
    /// Since when nodes that pods name are missing.
    missing: Mutex<HashMap<String, Timestamp>>,
    ended: Arc<AtomicIsize>,
}

impl PodGc {
    /// The controller over these caches; `threshold` ended pods are kept, 0 keeps all.
    pub(crate) fn new(caches: Arc<Caches>, threshold: usize) -> Self {
        Self { caches, threshold, missing: Mutex::default(), ended: Arc::default() }
    }

    fn too_many(&self) -> usize {
        let ended = usize::try_from(self.ended.load(Ordering::Relaxed)).unwrap_or_default();
        if self.threshold == 0 { 0 } else { ended.saturating_sub(self.threshold) }
    }
}

impl Named for PodGc {
    fn name(&self) -> &'static str {
        "pod-garbage-collector-controller"
    }
    fn identity(&self) -> &'static str {
        "pod-garbage-collector"
    }

    fn reads(&self, wake: &Wake) {
        let caches = self.caches.clone();
        wake.on(&self.caches.nodes, move |delta, wake| {
            let Some(node) = delta.last() else { return };
            let shut_down = |node: &Node| !is_ready(node) && is_out_of_service(node);
            if delta.new.is_none_or(|node| shut_down(node)) {
                caches.pods.indexed(node.name()).iter().for_each(|pod| wake(Key::of(pod.as_ref())));
            }
        });
        let (caches, ended, threshold) = (self.caches.clone(), self.ended.clone(), self.threshold);
        wake.on(&self.caches.pods, move |delta, wake| {
            let is_ended = |pod: Option<&Arc<Pod>>| isize::from(pod.is_some_and(|pod| pod.is_terminal()));
            let change = is_ended(delta.new) - is_ended(delta.old);
            let count = ended.fetch_add(change, Ordering::Relaxed) + change;
            if change > 0 && threshold > 0 && usize::try_from(count).unwrap_or_default() > threshold {
                wake(Key::new("", ENDED));
            }
            let Some(pod) = delta.new else { return };
            let homeless = pod.spec.node_name.as_deref().is_none_or(str::is_empty) && pod.metadata.deletion_timestamp.is_some();
            let lost = pod.spec.node_name.as_deref().is_some_and(|node| !node.is_empty() && caches.nodes.get("", node).is_none());
            let leaving =
                pod.metadata.deletion_timestamp.is_some() && delta.old.is_none_or(|old| old.metadata.deletion_timestamp.is_none());
            if homeless || lost || leaving {
                wake(Key::of(pod.as_ref()));
            }
        });
    }
}

fn is_ready(node: &Node) -> bool {
    ready(node) == "True"
}

fn is_out_of_service(node: &Node) -> bool {
    node.spec.as_ref().and_then(|spec| spec.taints.as_ref()).into_iter().flatten().any(|taint| taint.key == OUT_OF_SERVICE)
}

impl Controller for PodGc {
    fn plan(&self, key: &Key, now: Timestamp) -> Plan {
        if key.namespace.is_empty() {
            return self.remove_ended();
        }
        let Some(pod) = self.caches.pods.at(key) else { return Plan::nothing() };
        let deleted = pod.metadata.deletion_timestamp.is_some();
        let Some(name) = pod.spec.node_name.as_deref().filter(|name| !name.is_empty()) else {
            return if deleted { remove(&pod, None, now) } else { Plan::nothing() };
        };
        match self.caches.nodes.get("", name) {
            Some(node) => {
                self.missing.lock().remove(name);
                if deleted && !is_ready(&node) && is_out_of_service(&node) {
                    return remove(&pod, Some("PodGC: node is out of service"), now);
                }
                Plan::nothing()
            }
            None => {
                let mut missing = self.missing.lock();
                if missing.len() > REMEMBERED {
                    // Long gone, and their pods with them: were there another, its wait would begin anew.
                    missing.retain(|_, since| time::plus(*since, 10 * QUARANTINE_SECONDS) > now);
                }
                let since = *missing.entry(name.to_owned()).or_insert(now);
                drop(missing);
                let at = time::plus(since, QUARANTINE_SECONDS);
                if at > now {
                    let mut plan = Plan::nothing();
                    plan.again_at(at, now);
                    return plan;
                }
                remove(&pod, Some("PodGC: node no longer exists"), now)
            }
        }
    }
}

impl PodGc {
    fn remove_ended(&self) -> Plan {
        let mut plan = Plan::nothing();
        let excess = self.too_many().min(BATCH);
        if excess == 0 {
            return plan;
        }
        let mut ended: Vec<Arc<Pod>> = self.caches.pods.all().into_iter().filter(|pod| pod.is_terminal()).collect();
        // Those that were evicted first, then the oldest.
        ended.sort_by_key(|pod| (pod.status.reason.as_deref() != Some("Evicted"), pod.created(), Key::of(pod.as_ref())));
        plan.parallel(ended.iter().take(excess).map(|pod| Change::delete_now(pod.as_ref())).collect());
        plan
    }
}

/// Ends a pod that has not ended, and removes it without grace: no node will.
fn remove(pod: &Pod, why: Option<&str>, now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    if let Some(why) = why.filter(|_| !pod.is_terminal()) {
        plan.push(disrupt(pod, "DeletionByPodGC", why, true, now));
    }
    plan.push(Change::delete_now(pod));
    plan
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::change::Verb;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn pod(name: &str, node: Option<&str>, phase: &str, deleted: bool) -> Pod {
        let deleted = deleted.then(|| time::api(at(0)));
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "a", "uid": name, "deletionTimestamp": deleted},
            "spec": {"nodeName": node}, "status": {"phase": phase}}))
        .unwrap()
    }

    fn told(plan: &Plan) -> Vec<String> {
        let tell = |change: &Change| match &change.verb {
            Verb::Patch { body, .. } => format!("fail {}", body["status"]["phase"].as_str().unwrap()),
            Verb::Delete { grace_seconds, .. } => format!("delete {} {grace_seconds:?}", change.key.name),
            other => panic!("unexpected {other:?}"),
        };
        plan.changes().map(tell).collect()
    }

    #[test]
    fn pods_of_a_missing_node_are_given_up_after_a_quarantine() {
        let caches = Arc::new(Caches::default());
        caches.pods.put(pod("p", Some("gone"), "Running", false));
        let gc = PodGc::new(caches, 0);
        let key = Key::new("a", "p");
        assert_eq!((told(&gc.plan(&key, at(0))).len(), gc.plan(&key, at(10)).again.unwrap().as_secs()), (0, 30));
        assert_eq!(told(&gc.plan(&key, at(40))), ["fail Failed", "delete p Some(0)"]);
    }

    #[test]
    fn a_pod_deleted_before_it_had_a_node_is_removed() {
        let caches = Arc::new(Caches::default());
        caches.pods.put(pod("p", None, "Pending", true));
        caches.pods.put(pod("q", None, "Pending", false));
        let gc = PodGc::new(caches, 0);
        assert_eq!(told(&gc.plan(&Key::new("a", "p"), at(0))), ["delete p Some(0)"]);
        assert!(told(&gc.plan(&Key::new("a", "q"), at(0))).is_empty());
    }

    #[test]
    fn the_oldest_of_too_many_ended_pods_go() {
        let caches = Arc::new(Caches::default());
        for (name, age) in [("old", 0), ("middle", 10), ("new", 20)] {
            let mut pod = pod(name, Some("n"), "Succeeded", false);
            pod.metadata.creation_timestamp = Some(at(age));
            caches.pods.put(pod);
        }
        let gc = PodGc::new(caches, 1);
        gc.ended.store(3, Ordering::Relaxed);
        assert_eq!(told(&gc.plan(&Key::new("", ENDED), at(99))), ["delete old Some(0)", "delete middle Some(0)"]);
    }
}
