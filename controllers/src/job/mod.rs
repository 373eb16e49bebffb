//! Jobs: pods run to their end, as many as wanted (upstream `pkg/controller/job`).
//!
//! Ended pods are counted exactly once although status and pods are written apart (KEP 2307): a pod carries a finalizer;
//! its uid is first noted in `status.uncountedTerminatedPods`, then the finalizer is taken off, then the uid becomes a count.

mod backoff;
mod create;
mod indexes;
mod plan;
mod policy;
mod status;
mod tally;
mod ttl;

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition};
use serde_json::json;

pub(crate) use self::ttl::TtlAfterFinished;
use crate::{
    caches::Caches,
    change::{Change, PatchKind, Plan, Tolerate},
    claim::claim,
    object::{Key, Labels, Object},
    pod::Pod,
    run::{Controller, Named, Wake},
    selector,
};

/// The finalizer of pods that are still to be counted.
const TRACKING: &str = "batch.kubernetes.io/job-tracking";
/// Who keeps a job when it is not us.
const OUR_NAME: &str = "kubernetes.io/job-controller";

/// The controller.
pub(crate) struct Jobs {
    caches: Arc<Caches>,
}

impl Jobs {
    /// The controller over these caches.
    pub(crate) fn new(caches: Arc<Caches>) -> Self {
        Self { caches }
    }
}

impl Named for Jobs {
    fn name(&self) -> &'static str {
        "job-controller"
    }
    fn identity(&self) -> &'static str {
        "job-controller"
    }
    fn reads(&self, wake: &Wake) {
        wake.on_self(&self.caches.jobs);
        wake.on_owned(&self.caches.pods, "Job");
        let caches = self.caches.clone();
        wake.on(&self.caches.pods, move |delta, wake| {
            let Some(pod) = delta.new.filter(|pod| pod.controller().is_none() && pod.is_active()) else { return };
            if delta.old.is_some_and(|old| old.controller().is_none() && old.labels() == pod.labels()) {
                return;
            }
            caches.jobs.list(pod.namespace()).iter().filter(|job| selects(job, pod.labels())).for_each(|job| wake(Key::of(job.as_ref())));
        });
    }
    fn pace(&self) -> std::time::Duration {
        std::time::Duration::from_millis(50)
    }
}

impl Controller for Jobs {
    fn plan(&self, key: &Key, now: Timestamp) -> Plan {
        let Some(job) = self.caches.jobs.at(key) else {
            // Its pods go with it, but not before their finalizer does.
            let mut plan = Plan::nothing();
            let ours =
                |pod: &&Arc<Pod>| pod.controller().is_some_and(|owner| owner.kind == "Job" && owner.name == *key.name) && is_tracked(pod);
            plan.parallel(self.caches.pods.list(&key.namespace).iter().filter(ours).map(|pod| release(pod)).collect());
            return plan;
        };
        let managed_by = job.spec.as_ref().and_then(|spec| spec.managed_by.as_deref());
        if managed_by.is_some_and(|name| name != OUR_NAME) {
            return Plan::nothing();
        }
        // Without a selector, which the API server is to make up, a job has the pods it made and adopts none.
        let unselective = job.spec.as_ref().is_none_or(|spec| spec.selector.is_none());
        let mine = |pod: &Pod| selects(&job, pod.labels()) || (unselective && pod.controller().is_some());
        let claimed = claim(job.as_ref(), &self.caches.pods, mine, Pod::is_active);
        let mut plan = Plan::nothing();
        plan.parallel(claimed.changes);
        if finished(&job).is_some() {
            plan.parallel(claimed.mine.iter().filter(|pod| is_tracked(pod)).map(|pod| release(pod)).collect());
            return plan;
        }
        plan::job(&job, &claimed.mine, now, &mut plan);
        plan
    }
}

/// Whether the pod carries the finalizer of pods that are still to be counted.
fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().any(|finalizer| finalizer == TRACKING)
}

/// Takes the finalizer off.
fn release(pod: &Pod) -> Change {
    let body = json!({"metadata": {"uid": pod.metadata.uid, "$deleteFromPrimitiveList/finalizers": [TRACKING]}});
    Change::patch::<Pod>(Key::of(pod), PatchKind::Strategic, body).tolerate(Tolerate::Races)
}

fn selects(job: &Job, labels: &Labels) -> bool {
    let selector = job.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| !selector::is_empty(selector) && selector::selects(selector, labels))
}

/// The condition of this type, if it is true.
fn is_true<'a>(job: &'a Job, type_: &str) -> Option<&'a JobCondition> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == type_ && condition.status == "True")
}

/// The condition that says the job is over.
fn finished(job: &Job) -> Option<&JobCondition> {
    is_true(job, "Complete").or_else(|| is_true(job, "Failed"))
}

fn is_indexed(job: &Job) -> bool {
    job.spec.as_ref().and_then(|spec| spec.completion_mode.as_deref()) == Some("Indexed")
}

fn is_suspended(job: &Job) -> bool {
    job.spec.as_ref().and_then(|spec| spec.suspend).unwrap_or_default()
}

/// Whether pods that are going must be gone before they are replaced.
fn replaces_only_failed(job: &Job) -> bool {
    job.spec.as_ref().and_then(|spec| spec.pod_replacement_policy.as_deref()) == Some("Failed")
}

#[cfg(test)]
mod tests;
