//! The count of a job's pods: who runs, who ended, who is still to be counted.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use k8s_openapi::api::batch::v1::{Job, JobStatus, UncountedTerminatedPods};

use super::{
    indexes, is_indexed, is_tracked,
    policy::{self, Verdict},
    replaces_only_failed,
};
use crate::{object::Object, pod::Pod};

/// Uids noted in one pass (upstream's `MaxUncountedPods`).
const MOST: usize = 500;

/// The pods of a job, counted.
pub(super) struct Tally {
    /// Neither ended nor going.
    pub(super) active: Vec<Arc<Pod>>,
    /// Of them, those that are ready.
    pub(super) ready: usize,
    /// Going but not ended.
    pub(super) terminating: usize,
    /// Ended well, counted or noted.
    pub(super) succeeded: i32,
    /// Ended badly, counted or noted.
    pub(super) failed: i32,
    /// Indexes that are done, of an indexed job.
    pub(super) completed: BTreeSet<i32>,
    /// Why the policy says that the job has failed.
    pub(super) policy_failure: Option<String>,
    /// Pods whose finalizer may go once the status is written.
    pub(super) release: Vec<Arc<Pod>>,
    /// Whether every ended pod is in the counts for good.
    pub(super) settled: bool,
}

/// How many pods shall succeed; `None` for a work queue, which ends when any did.
pub(super) fn completions(job: &Job) -> Option<i32> {
    job.spec.as_ref().and_then(|spec| spec.completions)
}

impl Tally {
    /// Counts `pods`, and writes what was counted into `status`. When `finishing`, pods that run are counted as failed as
    /// soon as they are going.
    pub(super) fn count(job: &Job, pods: &[Arc<Pod>], finishing: bool, status: &mut JobStatus) -> Self {
        let by_uid: HashMap<&str, &Arc<Pod>> = pods.iter().map(|pod| (pod.uid(), pod)).collect();
        let untracked = |uid: &String| by_uid.get(uid.as_str()).is_none_or(|pod| !is_tracked(pod));
        let mut uncounted = status.uncounted_terminated_pods.take().unwrap_or_default();
        status.succeeded = grow(status.succeeded, settle(&mut uncounted.succeeded, &untracked));
        status.failed = grow(status.failed, settle(&mut uncounted.failed, &untracked));
        let limit = completions(job).unwrap_or(i32::MAX);
        let mut tally = Self {
            active: pods.iter().filter(|pod| pod.is_active()).cloned().collect(),
            ready: pods.iter().filter(|pod| pod.is_active() && pod.is_ready()).count(),
            terminating: pods.iter().filter(|pod| pod.is_terminating()).count(),
            succeeded: 0,
            failed: 0,
            completed: indexes::parse(status.completed_indexes.as_deref().unwrap_or_default(), limit),
            policy_failure: None,
            release: Vec::new(),
            settled: true,
        };
        for pod in pods.iter().filter(|pod| is_tracked(pod)) {
            tally.take(job, pod, finishing, limit, &mut uncounted);
        }
        tally.sum(job, status, uncounted);
        tally
    }

    /// Takes one pod that still has its finalizer.
    fn take(&mut self, job: &Job, pod: &Arc<Pod>, finishing: bool, limit: i32, uncounted: &mut UncountedTerminatedPods) {
        let (succeeded, failed) = (uncounted.succeeded.get_or_insert_default(), uncounted.failed.get_or_insert_default());
        let uid = &pod.metadata.uid;
        if succeeded.len() + failed.len() >= MOST && !succeeded.contains(uid) && !failed.contains(uid) {
            self.settled = false;
            return;
        }
        if pod.status.phase == "Succeeded" && !failed.contains(uid) {
            match indexes::of(pod, limit).filter(|_| is_indexed(job)) {
                // The index alone keeps it from being counted twice.
                Some(index) => drop(self.completed.insert(index)),
                None if is_indexed(job) => {}
                None => note(succeeded, uid),
            }
            self.release.push(pod.clone());
        } else if is_failed(job, pod, finishing) {
            match policy::judge(job, pod) {
                Verdict::Ignore if !failed.contains(uid) => {}
                Verdict::Fail(why) => {
                    self.policy_failure.get_or_insert(why);
                    note(failed, uid);
                }
                Verdict::Count | Verdict::Ignore => note(failed, uid),
            }
            self.release.push(pod.clone());
        } else if job.deleted().is_some() {
            self.release.push(pod.clone());
        }
    }

    fn sum(&mut self, job: &Job, status: &mut JobStatus, uncounted: UncountedTerminatedPods) {
        let length = |list: &Option<Vec<String>>| i32::try_from(list.as_ref().map_or(0, Vec::len)).unwrap_or(i32::MAX);
        if is_indexed(job) {
            self.succeeded = i32::try_from(self.completed.len()).unwrap_or(i32::MAX);
            status.succeeded = Some(self.succeeded).filter(|count| *count > 0);
            status.completed_indexes = Some(indexes::format(&self.completed)).filter(|text| !text.is_empty());
        } else {
            self.succeeded = status.succeeded.unwrap_or_default() + length(&uncounted.succeeded);
        }
        self.failed = status.failed.unwrap_or_default() + length(&uncounted.failed);
        self.settled &= length(&uncounted.succeeded) + length(&uncounted.failed) == 0 && self.release.is_empty();
        let kept = |list: Option<Vec<String>>| list.filter(|list| !list.is_empty());
        status.uncounted_terminated_pods =
            Some(UncountedTerminatedPods { succeeded: kept(uncounted.succeeded), failed: kept(uncounted.failed) });
    }
}

/// Whether a pod counts as failed: it ended badly, or will when it is gone and need not be waited for.
fn is_failed(job: &Job, pod: &Pod, finishing: bool) -> bool {
    match pod.status.phase.as_str() {
        "Failed" => true,
        "Succeeded" => false,
        _ => pod.metadata.deletion_timestamp.is_some() && (finishing || !replaces_only_failed(job)),
    }
}

/// Takes the uids out whose finalizer is off; how many.
fn settle(list: &mut Option<Vec<String>>, untracked: &impl Fn(&String) -> bool) -> i32 {
    let Some(list) = list else { return 0 };
    let before = list.len();
    list.retain(|uid| !untracked(uid));
    i32::try_from(before - list.len()).unwrap_or(i32::MAX)
}

fn grow(count: Option<i32>, by: i32) -> Option<i32> {
    Some(count.unwrap_or_default() + by).filter(|count| *count > 0)
}

fn note(list: &mut Vec<String>, uid: &str) {
    if !list.iter().any(|noted| noted == uid) {
        list.push(uid.to_owned());
    }
}
