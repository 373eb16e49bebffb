//! Cron jobs: jobs by the clock (upstream `pkg/controller/cronjob`).

mod schedule;

use std::sync::Arc;

use jiff::{Timestamp, tz::TimeZone};
use k8s_openapi::{
    api::{
        batch::v1::{CronJob, CronJobStatus, Job},
        core::v1::ObjectReference,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::core::params::PropagationPolicy;

use self::schedule::Schedule;
use crate::{
    caches::Caches,
    change::{Change, Note, Plan, Tolerate},
    object::{Key, Object, controller_reference, reference},
    run::{Controller, Named, Wake},
    time,
};

const SCHEDULED_FOR: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

/// The controller.
pub(crate) struct CronJobs {
    caches: Arc<Caches>,
}

impl CronJobs {
    /// The controller over these caches.
    pub(crate) fn new(caches: Arc<Caches>) -> Self {
        Self { caches }
    }
}

impl Named for CronJobs {
    fn name(&self) -> &'static str {
        "cronjob-controller"
    }
    fn identity(&self) -> &'static str {
        "cronjob-controller"
    }
    fn reads(&self, wake: &Wake) {
        wake.on_self(&self.caches.cron_jobs);
        wake.on_owned(&self.caches.jobs, "CronJob");
    }
}

impl Controller for CronJobs {
    fn plan(&self, key: &Key, now: Timestamp) -> Plan {
        let Some(cron) = self.caches.cron_jobs.at(key) else { return Plan::nothing() };
        let jobs = self.caches.jobs.owned_by(cron.uid());
        let mut plan = Plan::nothing();
        let mut status = follow(&cron, &jobs, &mut plan);
        clean_up(&cron, &jobs, &mut plan);
        if cron.deleted().is_none() {
            schedule(&cron, &jobs, &mut status, now, &mut plan);
        }
        if cron.status.clone().unwrap_or_default() != status {
            let after = CronJob { status: Some(status), ..cron.as_ref().clone() };
            plan.finally = Some(Box::new(
                move |outcome| if outcome.create_error.is_none() { vec![Change::update_status(&after)] } else { Vec::new() },
            ));
        }
        plan
    }
}

fn end(job: &Job) -> Option<(&str, Option<Timestamp>)> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let end =
        conditions.iter().find(|condition| matches!(condition.type_.as_str(), "Complete" | "Failed") && condition.status == "True")?;
    Some((end.type_.as_str(), end.last_transition_time.as_ref().map(|time| time.0)))
}

/// The status as the jobs make it: who runs, and when one last succeeded.
fn follow(cron: &CronJob, jobs: &[Arc<Job>], plan: &mut Plan) -> CronJobStatus {
    let mut status = cron.status.clone().unwrap_or_default();
    let listed = status.active.take().unwrap_or_default();
    for job in jobs {
        let Some((how, at)) = end(job) else { continue };
        if listed.iter().any(|active| active.uid.as_deref() == Some(job.uid())) {
            plan.tell(Note::normal(cron, "SawCompletedJob", format!("Saw completed job: {}, condition: {how}", job.name())));
        }
        let last = status.last_successful_time.as_ref().map(|time| time.0);
        if how == "Complete" && at > last {
            status.last_successful_time = at.map(time::api);
        }
    }
    let known = |job: &Job| listed.iter().any(|active| active.uid.as_deref() == Some(job.uid()));
    let scheduled = |job: &Job| job.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(SCHEDULED_FOR));
    let (running, foreign): (Vec<&Arc<Job>>, Vec<_>) =
        jobs.iter().filter(|job| end(job).is_none()).partition(|job| known(job) || scheduled(job));
    for job in foreign {
        let message = format!("Saw a job that the controller did not create or forgot: {}", job.name());
        plan.tell(Note::warning(cron, "UnexpectedJob", message));
    }
    let active = running.into_iter().map(|job| ObjectReference { resource_version: None, ..reference(job.as_ref()) });
    let mut active: Vec<ObjectReference> = active.collect();
    active.sort_by(|a, b| a.name.cmp(&b.name));
    let same = |a: &ObjectReference| listed.iter().any(|b| a.uid == b.uid);
    let kept = if active.len() == listed.len() && active.iter().all(same) { listed } else { active };
    status.active = Some(kept).filter(|list| !list.is_empty());
    status
}

/// Deletes the oldest ended jobs above the limits.
fn clean_up(cron: &CronJob, jobs: &[Arc<Job>], plan: &mut Plan) {
    for (how, limit) in
        [("Complete", cron.spec.successful_jobs_history_limit.unwrap_or(3)), ("Failed", cron.spec.failed_jobs_history_limit.unwrap_or(1))]
    {
        let mut ended: Vec<&Arc<Job>> = jobs.iter().filter(|job| end(job).is_some_and(|(found, _)| found == how)).collect();
        ended.sort_by_key(|job| (job.status.as_ref().and_then(|status| status.start_time.clone()), job.name().to_owned()));
        let excess = ended.len().saturating_sub(usize::try_from(limit).unwrap_or_default());
        plan.parallel(ended.into_iter().take(excess).map(|job| delete(cron, job)).collect());
    }
}

fn delete(cron: &CronJob, job: &Job) -> Change {
    Change::delete_with(job, PropagationPolicy::Background)
        .on_success(Note::normal(cron, "SuccessfulDelete", format!("Deleted job {}", job.name())))
        .on_failure(Note::warning(cron, "FailedDelete", "Deleted job: {error}"))
}

fn schedule(cron: &CronJob, jobs: &[Arc<Job>], status: &mut CronJobStatus, now: Timestamp, plan: &mut Plan) {
    if cron.spec.suspend.unwrap_or_default() {
        return;
    }
    let zone = match cron.spec.time_zone.as_deref() {
        None => TimeZone::UTC,
        Some(name) => match TimeZone::get(name) {
            Ok(zone) => zone,
            Err(error) => return plan.tell(Note::warning(cron, "UnknownTimeZone", format!("invalid timeZone: {name:?}: {error}"))),
        },
    };
    let schedule = match Schedule::parse(&cron.spec.schedule) {
        Ok(schedule) => schedule,
        Err(error) => {
            let message = format!("unparseable schedule: {:?} : {error}", cron.spec.schedule);
            return plan.tell(Note::warning(cron, "UnparseableSchedule", message));
        }
    };
    let last = status.last_schedule_time.as_ref().map(|time| time.0).or(cron.created()).unwrap_or(now);
    let earliest = cron.spec.starting_deadline_seconds.map_or(last, |seconds| last.max(time::plus(now, -seconds)));
    if let Some(next) = schedule.after(now, &zone) {
        plan.again_at(next, now);
    }
    let Some(due) = schedule.latest(earliest, now, &zone) else { return };
    let active = |job: &Job| status.active.iter().flatten().any(|active| active.uid.as_deref() == Some(job.uid()));
    let running: Vec<&Arc<Job>> = jobs.iter().filter(|job| active(job)).collect();
    match cron.spec.concurrency_policy.as_deref() {
        Some("Forbid") if !running.is_empty() => {
            let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
            return plan.tell(Note::normal(cron, "JobAlreadyActive", message));
        }
        Some("Replace") => plan.parallel(running.iter().map(|job| delete(cron, job)).collect()),
        _ => {}
    }
    plan.push(create(cron, due));
    status.last_schedule_time = Some(time::api(due));
}

/// The job of a point in time: its name tells which, so that it is never made twice.
fn create(cron: &CronJob, due: Timestamp) -> Change {
    let template = &cron.spec.job_template;
    let from = template.metadata.clone().unwrap_or_default();
    let mut annotations = from.annotations.unwrap_or_default();
    annotations.insert(SCHEDULED_FOR.to_owned(), time::seconds(due).to_string());
    let metadata = ObjectMeta {
        name: Some(format!("{}-{}", cron.name(), due.as_second() / 60)),
        namespace: Some(cron.namespace().to_owned()),
        labels: from.labels,
        annotations: Some(annotations),
        owner_references: Some(vec![controller_reference(cron)]),
        ..ObjectMeta::default()
    };
    let job = Job { metadata, spec: template.spec.clone(), status: None };
    Change::create(&job)
        .tolerate(Tolerate::AlreadyExists)
        .on_success(Note::normal(cron, "SuccessfulCreate", "Created job {name}"))
        .on_failure(Note::warning(cron, "FailedCreate", "Error creating job: {error}"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::change::Verb;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn run(spec: &Value, status: &Value, jobs: &[Value]) -> (Vec<String>, Plan) {
        let mut spec = spec.clone();
        spec["jobTemplate"] = json!({"spec": {"template": {}}});
        let caches = Arc::new(Caches::default());
        let cron = json!({"metadata": {"name": "c", "namespace": "a", "uid": "c", "creationTimestamp": "2026-01-01T00:00:30Z"},
            "spec": spec, "status": status});
        caches.cron_jobs.put(serde_json::from_value(cron).unwrap());
        jobs.iter().for_each(|job| caches.jobs.put(serde_json::from_value(job.clone()).unwrap()));
        let plan = CronJobs::new(caches).plan(&Key::new("a", "c"), at("2026-01-01T00:07:10Z"));
        let tell = |change: &Change| match &change.verb {
            Verb::Create(_) => format!("+{}", change.key.name),
            Verb::Delete { .. } => format!("-{}", change.key.name),
            other => panic!("unexpected {other:?}"),
        };
        (plan.changes().map(tell).collect(), plan)
    }

    fn job(name: &str, ended: Option<&str>) -> Value {
        let conditions = ended.map(|how| json!([{"type": how, "status": "True", "lastTransitionTime": "2026-01-01T00:06:00Z"}]));
        json!({"metadata": {"name": name, "namespace": "a", "uid": name, "annotations": {SCHEDULED_FOR: "2026-01-01T00:05:00Z"},
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "CronJob", "name": "c", "uid": "c", "controller": true}]},
            "status": {"conditions": conditions}})
    }

    #[test]
    fn the_latest_missed_time_starts_one_job_and_the_next_is_awaited() {
        let (told, plan) = run(&json!({"schedule": "*/5 * * * *"}), &json!({}), &[]);
        let due = at("2026-01-01T00:05:00Z").as_second() / 60;
        assert_eq!(told, [format!("+c-{due}")]);
        assert_eq!(plan.again.unwrap().as_secs(), 170);
        let done = json!({"lastScheduleTime": "2026-01-01T00:05:00Z"});
        assert!(run(&json!({"schedule": "*/5 * * * *"}), &done, &[]).0.is_empty());
        assert!(run(&json!({"schedule": "*/5 * * * *", "suspend": true}), &json!({}), &[]).0.is_empty());
        assert!(run(&json!({"schedule": "*/5 * * * *", "startingDeadlineSeconds": 60}), &json!({}), &[]).0.is_empty());
    }

    #[test]
    fn a_running_job_forbids_or_is_replaced_by_the_next() {
        let running = [job("old", None)];
        let policy = |policy: &str| run(&json!({"schedule": "* * * * *", "concurrencyPolicy": policy}), &json!({}), &running).0.len();
        assert_eq!((policy("Allow"), policy("Forbid"), policy("Replace")), (1, 0, 2));
    }

    #[test]
    fn a_job_made_by_hand_is_told_of_and_not_counted() {
        let mut manual = job("manual", None);
        manual["metadata"]["annotations"] = json!({"cronjob.kubernetes.io/instantiate": "manual"});
        let (told, plan) = run(&json!({"schedule": "* * * * *", "concurrencyPolicy": "Forbid"}), &json!({}), &[manual]);
        assert_eq!(told.len(), 1, "it does not keep the next from starting");
        assert!(plan.steps.iter().any(|step| matches!(step, crate::change::Step::Tell(note) if note.reason == "UnexpectedJob")));
    }

    #[test]
    fn ended_jobs_above_the_limits_go() {
        let jobs = [job("a", Some("Complete")), job("b", Some("Complete")), job("f", Some("Failed"))];
        let spec = json!({"schedule": "0 0 1 1 *", "successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 0});
        assert_eq!(run(&spec, &json!({}), &jobs).0, ["-a", "-f"]);
    }
}
