//! Daemon sets: one pod on every node that takes it (upstream `pkg/controller/daemon`).

mod fit;
mod plan;
mod pods;

use std::sync::Arc;

use jiff::Timestamp;

use crate::{
    caches::Caches,
    change::{Note, Plan},
    claim::claim,
    object::{Key, Object},
    pod::Pod,
    run::{Controller, Named, Wake},
    selector,
};

/// The controller.
pub(crate) struct DaemonSets {
    caches: Arc<Caches>,
}

impl DaemonSets {
    /// The controller over these caches.
    pub(crate) fn new(caches: Arc<Caches>) -> Self {
        Self { caches }
    }
}

impl Named for DaemonSets {
    fn name(&self) -> &'static str {
        "daemonset-controller"
    }
    fn identity(&self) -> &'static str {
        "daemon-set-controller"
    }
    fn reads(&self, wake: &Wake) {
        wake.on_self(&self.caches.daemon_sets);
        wake.on_owned(&self.caches.pods, "DaemonSet");
        wake.on_owned(&self.caches.controller_revisions, "DaemonSet");
        let caches = self.caches.clone();
        wake.on(&self.caches.nodes, move |delta, wake| {
            if let (Some(old), Some(new)) = (delta.old, delta.new) {
                let taints = |node: &k8s_openapi::api::core::v1::Node| node.spec.as_ref().and_then(|spec| spec.taints.clone());
                if old.labels() == new.labels() && taints(old) == taints(new) {
                    return;
                }
            }
            caches.daemon_sets.all().iter().for_each(|set| wake(Key::of(set.as_ref())));
        });
    }
    fn pace(&self) -> std::time::Duration {
        std::time::Duration::from_millis(50)
    }
}

impl Controller for DaemonSets {
    fn plan(&self, key: &Key, now: Timestamp) -> Plan {
        let Some(set) = self.caches.daemon_sets.at(key) else { return Plan::nothing() };
        let mut plan = Plan::nothing();
        if selector::is_empty(&set.spec.selector) {
            plan.tell(Note::warning(
                set.as_ref(),
                "SelectingAll",
                "This daemon set is selecting all pods. A non-empty selector is required.",
            ));
            return plan;
        }
        if set.deleted().is_some() {
            return plan;
        }
        let claimed = claim(set.as_ref(), &self.caches.pods, |pod| selector::selects(&set.spec.selector, pod.labels()), Pod::is_active);
        plan.parallel(claimed.changes);
        plan::set(&set, &claimed.mine, &self.caches, now, &mut plan);
        plan
    }
}

#[cfg(test)]
mod tests;
