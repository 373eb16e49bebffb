//! The decision of one job.

use std::{cmp::Reverse, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::{
    batch::v1::{Job, JobStatus},
    core::v1::PodTemplateSpec,
};

use super::{
    backoff, create, indexes, is_indexed, is_suspended, is_true, release, replaces_only_failed, selects,
    status::{self, FAILURE_TARGET, SUCCESS_CRITERIA, SUSPENDED, Why},
    tally::{Tally, completions},
};
use crate::{
    change::{Change, Note, Plan, Step},
    object::Object,
    pod::Pod,
    time,
};

/// Creations of one run (upstream's `MaxPodCreateDeletePerSync`).
const BURST: usize = 500;

/// How a job is about to end.
enum End {
    Complete(Why),
    Failed(Why),
}

/// Plans one job that is not over; `pods` are its own.
pub(super) fn job(job: &Job, pods: &[Arc<Pod>], now: Timestamp, plan: &mut Plan) {
    let mut status = job.status.clone().unwrap_or_default();
    let ending = is_true(job, FAILURE_TARGET).is_some() || is_true(job, SUCCESS_CRITERIA).is_some();
    let tally = Tally::count(job, pods, ending, &mut status);
    start(job, &mut status, now, plan);
    let end = match (is_true(job, FAILURE_TARGET), is_true(job, SUCCESS_CRITERIA)) {
        (Some(condition), _) => Some(End::Failed(Why::of(condition))),
        (None, Some(condition)) => Some(End::Complete(Why::of(condition))),
        (None, None) => verdict(job, pods, &tally, &status, now),
    };
    let mut writes = Plan::nothing();
    let mut active = tally.active.len();
    match &end {
        Some(_) => {
            writes.parallel(tally.active.iter().map(|pod| deletion(job, pod)).collect());
            active = 0;
        }
        None if job.deleted().is_none() => active = steer(job, pods, &tally, now, &mut writes),
        None => {}
    }
    conclude(job, end, &tally, &mut status, now, plan);
    status.active = some(if end_is_set(&status) { active } else { tally.active.len() });
    status.ready = Some(to_i32(tally.ready));
    status.terminating = Some(to_i32(tally.terminating));
    // First the status, which notes the uids; only then may finalizers go.
    if job.status.as_ref() != Some(&status) {
        let mut job = job.clone();
        job.status = Some(status);
        plan.push(Change::update_status(&job));
    }
    plan.parallel(tally.release.iter().map(|pod| release(pod)).collect());
    plan.steps.append(&mut writes.steps);
    plan.again = time::sooner(plan.again, writes.again);
}

fn end_is_set(status: &JobStatus) -> bool {
    status.conditions.iter().flatten().any(|condition| {
        condition.status == "True" && [FAILURE_TARGET, SUCCESS_CRITERIA, "Complete", "Failed"].contains(&condition.type_.as_str())
    })
}

/// Notes the start, and what suspending and resuming mean for it.
fn start(job: &Job, status: &mut JobStatus, now: Timestamp, plan: &mut Plan) {
    if is_suspended(job) {
        if status::set(status, SUSPENDED, true, &Why::new("JobSuspended", "Job suspended"), now) {
            plan.tell(Note::normal(job, "Suspended", "Job suspended"));
        }
        return;
    }
    if status::set(status, SUSPENDED, false, &Why::new("JobResumed", "Job resumed"), now) {
        plan.tell(Note::normal(job, "Resumed", "Job resumed"));
        status.start_time = Some(time::api(now));
    }
    status.start_time.get_or_insert_with(|| time::api(now));
    let deadline = job.spec.as_ref().and_then(|spec| spec.active_deadline_seconds);
    if let (Some(seconds), Some(start)) = (deadline, &status.start_time) {
        let end = time::plus(start.0, seconds);
        if end > now {
            plan.again_at(end, now);
        }
    }
}

/// Whether the job is about to end, and how.
fn verdict(job: &Job, pods: &[Arc<Pod>], tally: &Tally, status: &JobStatus, now: Timestamp) -> Option<End> {
    let spec = job.spec.as_ref()?;
    if let Some(why) = &tally.policy_failure {
        return Some(End::Failed(Why::new("PodFailurePolicy", why.clone())));
    }
    let limit = spec.backoff_limit.unwrap_or(6);
    if tally.failed > limit || past_limit_by_restarts(job, pods, limit) {
        return Some(End::Failed(Why::new("BackoffLimitExceeded", "Job has reached the specified backoff limit")));
    }
    if let (Some(seconds), Some(start), false) = (spec.active_deadline_seconds, &status.start_time, is_suspended(job))
        && time::plus(start.0, seconds) <= now
    {
        return Some(End::Failed(Why::new("DeadlineExceeded", "Job was active longer than specified deadline")));
    }
    let complete = match completions(job) {
        // A work queue: one that ends well tells that there is no more work; the others finish theirs.
        None => tally.succeeded > 0 && tally.active.is_empty(),
        Some(completions) => tally.succeeded >= completions,
    };
    complete.then(|| End::Complete(Why::new("CompletionsReached", "Reached expected number of succeeded pods")))
}

/// With `OnFailure` the kubelet restarts containers in place: the restarts count.
fn past_limit_by_restarts(job: &Job, pods: &[Arc<Pod>], limit: i32) -> bool {
    let policy = job.spec.as_ref().and_then(|spec| spec.template.spec.as_ref()).and_then(|spec| spec.restart_policy.as_deref());
    if policy != Some("OnFailure") {
        return false;
    }
    let counted = pods.iter().filter(|pod| matches!(pod.status.phase.as_str(), "Running" | "Pending"));
    let statuses = counted.flat_map(|pod| pod.status.container_statuses.iter().chain(&pod.status.init_container_statuses));
    let restarts: i32 = statuses.map(|status| status.restart_count).sum();
    if limit == 0 { restarts > 0 } else { restarts >= limit }
}

/// Brings the number of running pods to what is wanted; how many run then.
fn steer(job: &Job, pods: &[Arc<Pod>], tally: &Tally, now: Timestamp, plan: &mut Plan) -> usize {
    let active = tally.active.len();
    if is_suspended(job) {
        plan.parallel(tally.active.iter().map(|pod| deletion(job, pod)).collect());
        return 0;
    }
    let parallelism = to_usize(job.spec.as_ref().and_then(|spec| spec.parallelism).unwrap_or(1));
    let wanted = match completions(job) {
        None if tally.succeeded > 0 => active.min(parallelism),
        None => parallelism,
        Some(completions) => to_usize(completions - tally.succeeded).min(parallelism),
    };
    let doomed = surplus(job, tally, wanted);
    if !doomed.is_empty() {
        let count = doomed.len();
        plan.parallel(doomed.into_iter().take(BURST).map(|pod| deletion(job, &pod)).collect());
        return active - count;
    }
    let going = if replaces_only_failed(job) { tally.terminating } else { 0 };
    let missing = wanted.saturating_sub(active + going).min(BURST);
    if missing == 0 {
        return active;
    }
    let wait = backoff::remaining(pods.iter().map(AsRef::as_ref), now);
    if !wait.is_zero() {
        plan.again_after(wait + Duration::from_millis(10));
        return active;
    }
    let Some(template) = job.spec.as_ref().map(|spec| &spec.template).filter(|template| is_own(job, template)) else { return active };
    let creations = if is_indexed(job) {
        free_indexes(job, pods, tally, missing).into_iter().map(|index| create::indexed(job, template, index)).collect()
    } else {
        create::equal(job, template, missing)
    };
    let count = creations.len();
    plan.steps.push(Step::SlowStart(creations));
    active + count
}

/// Whether the pods of the template would be the job's: others would be released as soon as they were made, without end.
fn is_own(job: &Job, template: &PodTemplateSpec) -> bool {
    let labels = template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
    job.spec.as_ref().is_some_and(|spec| spec.selector.is_none()) || selects(job, &labels)
}

/// Pods that run without need: indexes that have another pod or none any more, then those least far along.
fn surplus(job: &Job, tally: &Tally, wanted: usize) -> Vec<Arc<Pod>> {
    let mut doomed = Vec::new();
    let mut rest = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    let limit = completions(job).unwrap_or(i32::MAX);
    for pod in &tally.active {
        let index = indexes::of(pod, limit);
        let useless = is_indexed(job) && index.is_none_or(|index| tally.completed.contains(&index) || !seen.insert(index));
        if useless { doomed.push(pod.clone()) } else { rest.push(pod.clone()) }
    }
    let over = rest.len().saturating_sub(wanted);
    rest.sort_by_key(|pod| (pod.spec.node_name.is_some(), pod.status.phase == "Running", pod.is_ready(), Reverse(pod.created())));
    doomed.extend(rest.into_iter().take(over));
    doomed
}

/// The lowest indexes that are neither done nor worked on.
fn free_indexes(job: &Job, pods: &[Arc<Pod>], tally: &Tally, count: usize) -> Vec<i32> {
    let limit = completions(job).unwrap_or_default();
    let going = |pod: &&Arc<Pod>| replaces_only_failed(job) && pod.is_terminating();
    let taken: std::collections::BTreeSet<i32> =
        tally.active.iter().chain(pods.iter().filter(going)).filter_map(|pod| indexes::of(pod, limit)).collect();
    (0..limit).filter(|index| !tally.completed.contains(index) && !taken.contains(index)).take(count).collect()
}

/// Sets the conditions of the end: first that it is decided, then, when all pods are gone and counted, that it has come.
fn conclude(job: &Job, end: Option<End>, tally: &Tally, status: &mut JobStatus, now: Timestamp, plan: &mut Plan) {
    let Some(end) = end else { return };
    let (target, last, why) = match end {
        End::Complete(why) => (SUCCESS_CRITERIA, "Complete", why),
        End::Failed(why) => (FAILURE_TARGET, "Failed", why),
    };
    status::set(status, target, true, &why, now);
    if !tally.settled || !tally.active.is_empty() || tally.terminating > 0 {
        return;
    }
    status::set(status, last, true, &why, now);
    if last == "Complete" {
        status.completion_time = Some(time::api(now));
        plan.tell(Note::normal(job, "Completed", "Job completed"));
    } else {
        plan.tell(Note { warning: true, ..Note::normal(job, failure_reason(&why.reason), why.message) });
    }
}

/// Reasons of failed jobs, as the reasons of their events.
fn failure_reason(reason: &str) -> &'static str {
    ["BackoffLimitExceeded", "DeadlineExceeded", "PodFailurePolicy"].into_iter().find(|known| *known == reason).unwrap_or("Failed")
}

fn deletion(job: &Job, pod: &Pod) -> Change {
    Change::delete(pod).on_success(Note::normal(job, "SuccessfulDelete", format!("Deleted pod: {}", pod.name()))).on_failure(Note::warning(
        job,
        "FailedDelete",
        "Error deleting: {error}",
    ))
}

fn some(count: usize) -> Option<i32> {
    Some(to_i32(count)).filter(|count| *count > 0)
}

fn to_i32(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

fn to_usize(count: i32) -> usize {
    usize::try_from(count).unwrap_or_default()
}
