//! Deletes pods from nodes with taints they do not tolerate, or no longer (upstream `pkg/controller/tainteviction`).

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Taint, Toleration};

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
}

impl TaintEviction {
    /// The controller over these caches.
    pub(crate) fn new(caches: Arc<Caches>) -> Self {
        Self { caches }
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
            if new != old && !new.is_empty() {
                caches.pods.indexed(node.name()).iter().for_each(|pod| wake(Key::of(pod.as_ref())));
            }
        });
        let caches = self.caches.clone();
        wake.on(&self.caches.pods, move |delta, wake| {
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
        match due(&no_execute(&node), &pod.spec.tolerations, now) {
            None => Plan::nothing(),
            Some(at) if at <= now => evict(&pod, now),
            Some(at) => {
                let mut plan = Plan::nothing();
                plan.again_at(at, now);
                plan
            }
        }
    }
}

/// When a pod with these tolerations must go: never, or at the earliest end of what it tolerates.
fn due(taints: &[Taint], tolerations: &[Toleration], now: Timestamp) -> Option<Timestamp> {
    let mut earliest: Option<Timestamp> = None;
    for taint in taints {
        let mut matching = tolerations.iter().filter(|toleration| tolerates(toleration, taint)).peekable();
        if matching.peek().is_none() {
            return Some(now);
        }
        // Of several tolerations of one taint the shortest counts; one without a limit is no limit of its own.
        if let Some(seconds) = matching.filter_map(|toleration| toleration.toleration_seconds).min() {
            let since = taint.time_added.as_ref().map_or(now, |added| added.0);
            let end = time::plus(since, seconds.max(0));
            earliest = Some(earliest.map_or(end, |earliest| earliest.min(end)));
        }
    }
    earliest
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
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn taint(key: &str) -> Taint {
        Taint { key: key.into(), effect: "NoExecute".into(), time_added: Some(time::api(at(0))), value: None }
    }

    fn tolerate(key: &str, seconds: Option<i64>) -> Toleration {
        Toleration { key: Some(key.into()), operator: Some("Exists".into()), toleration_seconds: seconds, ..Toleration::default() }
    }

    #[test]
    fn a_pod_goes_at_once_later_or_never_by_its_tolerations() {
        let cases = [
            (vec![taint("a")], vec![], Some(at(10))),
            (vec![taint("a")], vec![tolerate("b", None)], Some(at(10))),
            (vec![taint("a")], vec![tolerate("a", None)], None),
            (vec![taint("a")], vec![tolerate("a", Some(300))], Some(at(300))),
            (vec![taint("a"), taint("b")], vec![tolerate("a", Some(300)), tolerate("b", Some(60))], Some(at(60))),
            (vec![taint("a"), taint("b")], vec![tolerate("a", Some(300))], Some(at(10))),
            (vec![], vec![], None),
        ];
        for (taints, tolerations, expected) in cases {
            assert_eq!(due(&taints, &tolerations, at(10)), expected, "{taints:?} {tolerations:?}");
        }
    }
}
