//! Deployments: one replica set per template, replaced by the next at the pace the strategy allows
//! (upstream `pkg/controller/deployment`).

mod annotations;
mod condition;
mod history;
mod rollout;
mod scale;
mod status;
mod strategy;

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use self::rollout::Rollout;
pub(crate) use self::strategy::scaled;
use crate::{
    caches::Caches,
    change::{Change, Note, Plan},
    claim::claim,
    object::{Key, Object},
    run::{Controller, Named, Wake},
    selector,
};

/// The label that tells the pods of one template from those of another.
pub(crate) const HASH_LABEL: &str = "pod-template-hash";

/// The controller.
pub(crate) struct Deployments {
    caches: Arc<Caches>,
}

impl Deployments {
    /// The controller over these caches.
    #[must_use]
    pub(crate) fn new(caches: Arc<Caches>) -> Self {
        Self { caches }
    }
}

impl Named for Deployments {
    fn name(&self) -> &'static str {
        "deployment-controller"
    }
    fn identity(&self) -> &'static str {
        "deployment-controller"
    }

    fn reads(&self, wake: &Wake) {
        wake.on_self(&self.caches.deployments);
        wake.on_owned(&self.caches.replica_sets, "Deployment");
        let caches = self.caches.clone();
        wake.on(&self.caches.replica_sets, move |delta, wake| {
            let Some(set) = delta.new.filter(|set| set.controller().is_none() && set.deleted().is_none()) else { return };
            let deployments = caches.deployments.list(set.namespace());
            deployments.iter().filter(|deployment| selects(deployment, set)).for_each(|deployment| wake(Key::of(deployment.as_ref())));
        });
        // Recreate waits for the last pod of the old sets to be gone.
        let caches = self.caches.clone();
        wake.on(&self.caches.pods, move |delta, wake| {
            if delta.new.is_some_and(|pod| !pod.is_terminal()) {
                return;
            }
            let set = delta.last().and_then(|pod| Some((pod, pod.controller()?)));
            let set = set.and_then(|(pod, owner)| caches.replica_sets.get(pod.namespace(), &owner.name));
            if let Some(owner) = set.as_ref().and_then(|set| set.controller()).filter(|owner| owner.kind == "Deployment") {
                let namespace = set.as_ref().map(|set| set.namespace()).unwrap_or_default();
                if caches.deployments.get(namespace, &owner.name).is_some_and(|deployment| strategy::is_recreate(&deployment)) {
                    wake(Key::new(namespace, &owner.name));
                }
            }
        });
    }

    fn pace(&self) -> std::time::Duration {
        std::time::Duration::from_millis(20)
    }
}

fn selects(deployment: &Deployment, set: &ReplicaSet) -> bool {
    selector::selects(&deployment.spec.selector, set.labels())
}

impl Controller for Deployments {
    fn plan(&self, key: &Key, now: Timestamp) -> Plan {
        let Some(deployment) = self.caches.deployments.at(key) else { return Plan::nothing() };
        if selector::is_empty(&deployment.spec.selector) {
            return selecting_all(&deployment);
        }
        let claimed = claim(deployment.as_ref(), &self.caches.replica_sets, |set| selects(&deployment, set), |_| true);
        let mut plan = Plan::nothing();
        plan.parallel(claimed.changes);
        Rollout::new(&deployment, claimed.mine, &self.caches, now).plan(plan)
    }
}

fn selecting_all(deployment: &Deployment) -> Plan {
    let mut plan = Plan::nothing();
    let message = "This deployment is selecting all pods. A non-empty selector is required.";
    plan.tell(Note::warning(deployment, "SelectingAll", message));
    let observed = deployment.status.as_ref().and_then(|status| status.observed_generation).unwrap_or_default();
    if observed < deployment.generation() {
        let mut deployment = deployment.clone();
        deployment.status.get_or_insert_default().observed_generation = deployment.metadata.generation;
        plan.push(Change::update_status(&deployment));
    }
    plan
}

#[cfg(test)]
mod tests;
