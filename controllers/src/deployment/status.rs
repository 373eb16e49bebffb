//! What a deployment reports.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DeploymentStatus, ReplicaSet};

use super::{
    condition::{self, AVAILABLE, FAILURE, NEW_SET_AVAILABLE, PROGRESSING, TIMED_OUT},
    rollout::Rollout,
    strategy::{actual, available, deadline_seconds, max_unavailable, wanted},
};
use crate::{object::Object, time};

impl Rollout<'_> {
    /// The counts, and the condition `Available` (upstream's `calculateStatus`).
    pub(super) fn status(&self) -> DeploymentStatus {
        let old = self.deployment.status.clone().unwrap_or_default();
        let sum = |count: fn(&ReplicaSet) -> i32| self.all().map(count).sum::<i32>();
        let (total, available) = (sum(actual), sum(available));
        let terminating = |set: &ReplicaSet| set.status.as_ref().and_then(|status| status.terminating_replicas);
        let mut status = DeploymentStatus {
            observed_generation: self.deployment.metadata.generation,
            replicas: some(total),
            updated_replicas: some(self.new.as_ref().map(|set| actual(&set.now)).unwrap_or_default()),
            ready_replicas: some(sum(|set| set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or_default())),
            available_replicas: some(available),
            unavailable_replicas: some((self.total() - available).max(0)),
            terminating_replicas: self.all().filter_map(terminating).reduce(|a, b| a + b),
            collision_count: old.collision_count,
            conditions: old.conditions,
        };
        let enough = available >= wanted(&self.deployment) - max_unavailable(&self.deployment);
        let (value, reason, message) = if enough {
            ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
        } else {
            ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
        };
        condition::set(&mut status, condition::new(AVAILABLE, value, reason, message, self.now));
        status
    }

    /// The same with the conditions of a rollout (upstream's `syncRolloutStatus`).
    pub(super) fn rollout_status(&self) -> DeploymentStatus {
        let mut status = self.status();
        if deadline_seconds(&self.deployment).is_none() {
            condition::remove(&mut status, PROGRESSING);
        } else if !self.was_complete(&status) {
            self.mark_progress(&mut status);
        }
        let failure = self.new.as_ref().and_then(|set| condition::failure(&set.now));
        match failure.or_else(|| self.all().find_map(condition::failure)) {
            Some(failure) => condition::set(&mut status, failure),
            None => condition::remove(&mut status, FAILURE),
        }
        status
    }

    /// A rollout that was complete stays so until the template changes: pods that fail later are no lack of progress.
    fn was_complete(&self, status: &DeploymentStatus) -> bool {
        let reason = condition::find(status, PROGRESSING).and_then(|condition| condition.reason.as_deref());
        status.replicas == status.updated_replicas && reason == Some(NEW_SET_AVAILABLE)
    }

    fn mark_progress(&self, status: &mut DeploymentStatus) {
        let subject = match &self.new {
            Some(set) => format!("ReplicaSet {:?}", set.now.name()),
            None => format!("Deployment {:?}", self.deployment.name()),
        };
        let old = self.deployment.status.clone().unwrap_or_default();
        if condition::is_complete(&self.deployment, status) {
            let message = format!("{subject} has successfully progressed.");
            condition::set(status, condition::new(PROGRESSING, "True", NEW_SET_AVAILABLE, message, self.now));
        } else if condition::is_progressing(&old, status) {
            let mut progress = condition::new(PROGRESSING, "True", "ReplicaSetUpdated", format!("{subject} is progressing."), self.now);
            // Each step of progress starts the deadline anew, also when status and reason stay the same.
            if let Some(current) = condition::find(status, PROGRESSING) {
                if current.status.as_deref() == Some("True") {
                    progress.last_transition_time = current.last_transition_time.clone();
                }
                condition::remove(status, PROGRESSING);
            }
            condition::set(status, progress);
        } else if condition::is_late(&self.deployment, status, self.now) {
            let message = format!("{subject} has timed out progressing.");
            condition::set(status, condition::new(PROGRESSING, "False", TIMED_OUT, message, self.now));
        }
    }

    /// When the deadline for progress must be checked.
    pub(super) fn next_look(&self, status: &DeploymentStatus) -> Option<Timestamp> {
        let seconds = deadline_seconds(&self.deployment)?;
        let progress = condition::find(status, PROGRESSING)?;
        let reason = progress.reason.as_deref();
        if condition::is_complete(&self.deployment, status) || matches!(reason, Some(TIMED_OUT | NEW_SET_AVAILABLE | condition::PAUSED)) {
            return None;
        }
        // One second more, since the time in the condition was cut to the second.
        Some(time::plus(progress.last_update_time.as_ref()?.0, i64::from(seconds) + 1))
    }
}

/// Zero is left out, as the API's own `omitempty` does.
fn some(count: i32) -> Option<i32> {
    Some(count).filter(|count| *count != 0)
}
