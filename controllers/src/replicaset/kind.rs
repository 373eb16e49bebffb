//! What replica sets and replication controllers have in common.

use std::sync::Arc;

use k8s_openapi::api::{
    apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus},
    core::v1::{PodTemplateSpec, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus},
};
use serde::Serialize;

use crate::{
    caches::Caches,
    object::{Kind, Labels},
    selector,
    store::Store,
};

/// A kind that keeps a number of equal pods.
pub(crate) trait Replicated: Kind + Serialize {
    /// Upstream's name of its controller.
    const CONTROLLER: &'static str;
    /// The service account of its controller.
    const IDENTITY: &'static str;
    /// Where it is cached.
    fn store(caches: &Caches) -> &Arc<Store<Self>>;
    /// How many pods are wanted.
    fn wanted(&self) -> i32;
    /// How long a pod must be ready to count as available.
    fn min_ready_seconds(&self) -> i32;
    /// Whether a pod with these labels is one of its own.
    fn selects(&self, labels: &Labels) -> bool;
    /// What its pods are made from.
    fn template(&self) -> Option<&PodTemplateSpec>;
    /// Its status.
    fn counts(&self) -> Counts;
    /// Itself with another status.
    fn with(&self, counts: Counts) -> Self;
}

/// The status of either kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Counts {
    /// Pods that neither ended nor are being deleted.
    pub replicas: i32,
    /// Of them, those with all labels of the template.
    pub fully_labeled: i32,
    /// Of them, those that are ready.
    pub ready: i32,
    /// Of them, those that are ready for long enough.
    pub available: i32,
    /// Pods that are being deleted; replication controllers do not report them.
    pub terminating: Option<i32>,
    /// The generation this status is about.
    pub observed_generation: i64,
    /// Conditions.
    pub conditions: Vec<ReplicaSetCondition>,
}

impl Replicated for ReplicaSet {
    const CONTROLLER: &'static str = "replicaset-controller";
    const IDENTITY: &'static str = "replicaset-controller";

    fn store(caches: &Caches) -> &Arc<Store<Self>> {
        &caches.replica_sets
    }
    fn wanted(&self) -> i32 {
        self.spec.replicas.unwrap_or(1)
    }
    fn min_ready_seconds(&self) -> i32 {
        self.spec.min_ready_seconds.unwrap_or_default()
    }
    fn selects(&self, labels: &Labels) -> bool {
        !selector::is_empty(&self.spec.selector) && selector::selects(&self.spec.selector, labels)
    }
    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.template.as_ref()
    }
    fn counts(&self) -> Counts {
        let status = self.status.clone().unwrap_or_default();
        Counts {
            replicas: status.replicas,
            fully_labeled: status.fully_labeled_replicas.unwrap_or_default(),
            ready: status.ready_replicas.unwrap_or_default(),
            available: status.available_replicas.unwrap_or_default(),
            terminating: status.terminating_replicas,
            observed_generation: status.observed_generation.unwrap_or_default(),
            conditions: status.conditions.unwrap_or_default(),
        }
    }
    fn with(&self, counts: Counts) -> Self {
        let status = ReplicaSetStatus {
            replicas: counts.replicas,
            fully_labeled_replicas: some(counts.fully_labeled),
            ready_replicas: some(counts.ready),
            available_replicas: some(counts.available),
            terminating_replicas: counts.terminating,
            observed_generation: Some(counts.observed_generation),
            conditions: Some(counts.conditions).filter(|list| !list.is_empty()),
        };
        Self { status: Some(status), ..self.clone() }
    }
}

impl Replicated for ReplicationController {
    const CONTROLLER: &'static str = "replicationcontroller-controller";
    const IDENTITY: &'static str = "replication-controller";

    fn store(caches: &Caches) -> &Arc<Store<Self>> {
        &caches.replication_controllers
    }
    fn wanted(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }
    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or_default()
    }
    fn selects(&self, labels: &Labels) -> bool {
        let wanted = self.spec.as_ref().and_then(|spec| spec.selector.as_ref()).filter(|wanted| !wanted.is_empty());
        wanted.is_some_and(|wanted| selector::selects_map(wanted, labels))
    }
    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }
    fn counts(&self) -> Counts {
        let status = self.status.clone().unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default().into_iter().map(|condition| ReplicaSetCondition {
            last_transition_time: condition.last_transition_time,
            message: condition.message,
            reason: condition.reason,
            status: Some(condition.status),
            type_: Some(condition.type_),
        });
        Counts {
            replicas: status.replicas,
            fully_labeled: status.fully_labeled_replicas.unwrap_or_default(),
            ready: status.ready_replicas.unwrap_or_default(),
            available: status.available_replicas.unwrap_or_default(),
            terminating: None,
            observed_generation: status.observed_generation.unwrap_or_default(),
            conditions: conditions.collect(),
        }
    }
    fn with(&self, counts: Counts) -> Self {
        let conditions = counts.conditions.into_iter().map(|condition| ReplicationControllerCondition {
            last_transition_time: condition.last_transition_time,
            message: condition.message,
            reason: condition.reason,
            status: condition.status.unwrap_or_default(),
            type_: condition.type_.unwrap_or_default(),
        });
        let status = ReplicationControllerStatus {
            replicas: counts.replicas,
            fully_labeled_replicas: some(counts.fully_labeled),
            ready_replicas: some(counts.ready),
            available_replicas: some(counts.available),
            observed_generation: Some(counts.observed_generation),
            conditions: Some(conditions.collect::<Vec<_>>()).filter(|list| !list.is_empty()),
        };
        Self { status: Some(status), ..self.clone() }
    }
}

/// Zero is left out, as the API's own `omitempty` does.
fn some(count: i32) -> Option<i32> {
    Some(count).filter(|count| *count != 0)
}
