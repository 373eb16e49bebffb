//! Deletes jobs some time after they are over (upstream `pkg/controller/ttlafterfinished`).

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use kube::core::params::PropagationPolicy;

use super::finished;
use crate::{
    caches::Caches,
    change::{Change, Plan},
    object::{Key, Object},
    run::{Controller, Named, Wake},
    time,
};

/// The controller.
pub(crate) struct TtlAfterFinished {
    caches: Arc<Caches>,
}

impl TtlAfterFinished {
    /// The controller over these caches.
    pub(crate) fn new(caches: Arc<Caches>) -> Self {
        Self { caches }
    }
}

impl Named for TtlAfterFinished {
    fn name(&self) -> &'static str {
        "ttl-after-finished-controller"
    }
    fn identity(&self) -> &'static str {
        "ttl-after-finished-controller"
    }
    fn reads(&self, wake: &Wake) {
        wake.on(&self.caches.jobs, |delta, wake| {
            delta.new.filter(|job| due(job).is_some()).into_iter().for_each(|job| wake(Key::of(job.as_ref())));
        });
    }
}

/// When the job shall go.
fn due(job: &Job) -> Option<Timestamp> {
    let seconds = job.spec.as_ref()?.ttl_seconds_after_finished?;
    Some(time::plus(finished(job)?.last_transition_time.as_ref()?.0, seconds.into()))
}

impl Controller for TtlAfterFinished {
    fn plan(&self, key: &Key, now: Timestamp) -> Plan {
        let Some(job) = self.caches.jobs.at(key).filter(|job| job.deleted().is_none()) else { return Plan::nothing() };
        match due(&job) {
            None => Plan::nothing(),
            Some(at) if at <= now => Change::delete_with(job.as_ref(), PropagationPolicy::Foreground).into(),
            Some(at) => {
                let mut plan = Plan::nothing();
                plan.again_at(at, now);
                plan
            }
        }
    }
}
