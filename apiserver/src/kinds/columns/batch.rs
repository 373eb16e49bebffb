//! `batch`: jobs and cron jobs.

use super::{
    AGE, CONTAINERS, Columns, IMAGES, NAME, PLAIN, SELECTOR,
    cell::{self, Subject, int, items, or, text, there},
};
use crate::wire::table::Column;

pub(super) fn columns(resource: &str) -> &'static Columns {
    match resource {
        "jobs" => &JOBS,
        "cronjobs" => &CRON_JOBS,
        _ => &PLAIN,
    }
}

static JOBS: Columns = Columns::new(
    &[
        NAME,
        Column::text("Status", "How far the job is."),
        Column::text("Completions", "Pods that succeeded, of those that should."),
        Column::text("Duration", "How long the job took, or has taken so far."),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    |s| {
        let [names, images] = cell::containers(s.at("/spec/template/spec"));
        vec![
            s.name(),
            status(s).into(),
            completions(s).into(),
            duration(s).into(),
            s.age(),
            names,
            images,
            cell::selector(s.spec().get("selector")).into(),
        ]
    },
);

fn status(s: Subject<'_>) -> &'static str {
    let has = |kind| cell::condition(s.status(), kind) == Some(true);
    if has("Complete") {
        "Complete"
    } else if has("Failed") {
        "Failed"
    } else if s.is_deleting() {
        "Terminating"
    } else if has("Suspended") {
        "Suspended"
    } else if has("FailureTarget") {
        "FailureTarget"
    } else if has("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}

fn completions(s: Subject<'_>) -> String {
    let done = int(s.status(), "succeeded");
    match (there(s.spec(), "completions"), int(s.spec(), "parallelism")) {
        (Some(wanted), _) => format!("{done}/{wanted}"),
        (None, many @ 2..) => format!("{done}/1 of {many}"),
        (None, _) => format!("{done}/1"),
    }
}

fn duration(s: Subject<'_>) -> String {
    let Some(start) = cell::time(s.status(), "startTime") else { return String::new() };
    let end = cell::time(s.status(), "completionTime").unwrap_or(s.now);
    cell::human(cell::between(start, end))
}

static CRON_JOBS: Columns = Columns::new(
    &[
        NAME,
        Column::text("Schedule", "When jobs are started."),
        Column::text("Timezone", "Time zone of the schedule."),
        Column::boolean("Suspend", "Whether no more jobs are started."),
        Column::integer("Active", "Number of jobs that run."),
        Column::text("Last Schedule", "Time since a job was started last."),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    |s| {
        let (spec, status) = (s.spec(), s.status());
        let last = if there(status, "lastScheduleTime").is_some() { s.since(status, "lastScheduleTime") } else { "<none>".to_owned() };
        let [names, images] = cell::containers(s.at("/spec/jobTemplate/spec/template/spec"));
        vec![
            s.name(),
            text(spec, "schedule").into(),
            or(text(spec, "timeZone"), "<none>").into(),
            cell::truth(spec.get("suspend")).into(),
            items(status, "active").len().into(),
            last.into(),
            s.age(),
            names,
            images,
            cell::selector(Some(s.at("/spec/jobTemplate/spec/selector"))).into(),
        ]
    },
);
