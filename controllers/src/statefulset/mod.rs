//! Stateful sets: numbered pods that keep their names and claims (upstream `pkg/controller/statefulset`).

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
pub(crate) struct StatefulSets {
    caches: Arc<Caches>,
}

impl StatefulSets {
    /// The controller over these caches.
    pub(crate) fn new(caches: Arc<Caches>) -> Self {
        Self { caches }
    }
}

impl Named for StatefulSets {
    fn name(&self) -> &'static str {
        "statefulset-controller"
    }
    fn identity(&self) -> &'static str {
        "statefulset-controller"
    }
    fn reads(&self, wake: &Wake) {
        wake.on_self(&self.caches.stateful_sets);
        wake.on_owned(&self.caches.pods, "StatefulSet");
        wake.on_owned(&self.caches.controller_revisions, "StatefulSet");
        self.caches.claims.need();
        let caches = self.caches.clone();
        wake.on(&self.caches.pods, move |delta, wake| {
            let Some(pod) = delta.new.filter(|pod| pod.controller().is_none()) else { return };
            let owner = pods::parent(pod.name()).and_then(|(name, _)| caches.stateful_sets.get(pod.namespace(), name));
            owner.into_iter().for_each(|set| wake(Key::of(set.as_ref())));
        });
    }
}

impl Controller for StatefulSets {
    fn plan(&self, key: &Key, now: Timestamp) -> Plan {
        let Some(set) = self.caches.stateful_sets.at(key) else { return Plan::nothing() };
        let mut plan = Plan::nothing();
        if selector::is_empty(&set.spec.selector) {
            plan.tell(Note::warning(
                set.as_ref(),
                "SelectingAll",
                "This stateful set is selecting all pods. A non-empty selector is required.",
            ));
            return plan;
        }
        let member = |pod: &Pod| {
            selector::selects(&set.spec.selector, pod.labels()) && pods::parent(pod.name()).is_some_and(|(name, _)| name == set.name())
        };
        let claimed = claim(set.as_ref(), &self.caches.pods, member, |_| true);
        plan.parallel(claimed.changes);
        plan::set(&set, &claimed.mine, &self.caches, now, &mut plan);
        plan
    }
}

#[cfg(test)]
mod tests;
