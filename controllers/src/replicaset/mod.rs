//! Replica sets and, by the same code, replication controllers: as many pods as wanted, no more and no fewer
//! (upstream `pkg/controller/replicaset`).

mod kind;
mod plan;
mod rank;

use std::sync::Arc;

use jiff::Timestamp;

pub(crate) use self::kind::Replicated;
use crate::{
    caches::Caches,
    change::Plan,
    claim::claim,
    object::{Key, Object},
    pod::Pod,
    run::{Controller, Named, Wake},
};

/// The controller of all objects of one replicated kind.
pub(crate) struct ReplicaSets<K> {
    caches: Arc<Caches>,
    kind: std::marker::PhantomData<fn() -> K>,
}

impl<K: Replicated> ReplicaSets<K> {
    /// The controller over these caches.
    #[must_use]
    pub(crate) fn new(caches: Arc<Caches>) -> Self {
        Self { caches, kind: std::marker::PhantomData }
    }

    /// Pods that share a node with `set`'s for the purpose of ranking: those of all sets with the same owner.
    fn related(&self, set: &K, mine: &[Arc<Pod>]) -> Vec<Arc<Pod>> {
        let Some(owner) = set.controller() else { return mine.to_vec() };
        let sets = K::store(&self.caches).owned_by(&owner.uid);
        sets.iter().flat_map(|other| self.caches.pods.owned_by(other.uid())).collect()
    }
}

impl<K: Replicated> Named for ReplicaSets<K> {
    fn name(&self) -> &'static str {
        K::CONTROLLER
    }
    fn identity(&self) -> &'static str {
        K::IDENTITY
    }

    fn reads(&self, wake: &Wake) {
        let sets = K::store(&wake.caches);
        wake.on_self(sets);
        let caches = wake.caches.clone();
        wake.on(&wake.caches.pods, move |delta, wake| {
            for pod in delta.both() {
                if let Some(owner) = pod.controller().filter(|owner| owner.kind == K::RESOURCE.kind) {
                    wake(Key::new(pod.namespace(), &owner.name));
                }
            }
            // A pod that lost or never had a controller may be adopted by whoever selects it.
            if let Some(pod) = delta.new.filter(|pod| pod.controller().is_none() && pod.is_active()) {
                let seen = delta.old.is_some_and(|old| old.controller().is_none() && old.labels() == pod.labels());
                if !seen {
                    let sets = K::store(&caches).list(pod.namespace());
                    sets.iter().filter(|set| set.selects(pod.labels())).for_each(|set| wake(Key::of(set.as_ref())));
                }
            }
        });
    }

    fn pace(&self) -> std::time::Duration {
        std::time::Duration::from_millis(20)
    }
}

impl<K: Replicated> Controller for ReplicaSets<K> {
    fn plan(&self, key: &Key, now: Timestamp) -> Plan {
        let Some(set) = K::store(&self.caches).at(key) else { return Plan::nothing() };
        let claimed = claim(set.as_ref(), &self.caches.pods, |pod| set.selects(pod.labels()), Pod::is_active);
        let mut plan = Plan::nothing();
        plan.parallel(claimed.changes);
        let mine = claimed.mine;
        let related = || self.related(&set, &mine);
        plan::replicas(set.as_ref(), &mine, &related, now, &mut plan);
        plan
    }
}
