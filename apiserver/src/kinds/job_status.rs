//! What a job's controller, ours or somebody else's, may say of it (upstream `validateJobStatus`, `ValidateJobStatusUpdate`; KEP-4368).
//!
//! A rule is looked at when what it speaks of changes, so that a status that is wrong already can still be written otherwise.

use std::collections::HashSet;

use coracle_schema::FieldErrors;
use coracle_tree::Value;

use super::{job_policy::count_indexes, template, view};

/// A job before or after a write of its status.
#[derive(Clone, Copy)]
struct State<'v> {
    spec: &'v Value,
    status: &'v Value,
}

impl<'v> State<'v> {
    fn of(job: &'v Value) -> Self {
        Self { spec: view::member(job, "spec"), status: view::member(job, "status") }
    }

    fn is(self, condition: &str) -> bool {
        self.condition(condition) == Some("True")
    }

    fn condition(self, kind: &str) -> Option<&'v str> {
        view::list(self.status, "conditions").iter().find(|c| view::text(c, "type") == kind).map(|c| view::text(c, "status"))
    }

    fn is_finished(self) -> bool {
        self.is("Complete") || self.is("Failed")
    }

    fn count(self, field: &str) -> i64 {
        view::int(self.status, field).unwrap_or_default()
    }

    fn time(self, field: &str) -> Option<&'v str> {
        view::get(self.status, field).and_then(Value::as_str)
    }
}

/// A write of a status: what was, what is to be.
struct Change<'v> {
    old: State<'v>,
    new: State<'v>,
}

impl Change<'_> {
    fn of(&self, field: &str) -> bool {
        view::get(self.old.status, field) != view::get(self.new.status, field)
    }

    fn of_condition(&self, kind: &str) -> bool {
        self.old.is(kind) != self.new.is(kind)
    }

    fn of_end(&self) -> bool {
        self.old.is_finished() != self.new.is_finished()
    }
}

/// Checks a status that is about to be written; `old` is null for a job that was not there.
pub(super) fn check(job: &Value, old: &Value, errors: &mut FieldErrors) {
    let change = Change { old: State::of(old), new: State::of(job) };
    let status = change.new.status;
    template::not_negative(status, &["active", "succeeded", "failed", "ready", "terminating"], "status", errors);
    uncounted(status, errors);
    ends(&change, errors);
    times(&change, errors);
    leftovers(&change, errors);
    indexes(&change, errors);
    if change.new.count("ready") > change.new.count("active") && (change.of("ready") || change.of("active")) {
        errors.invalid("status.ready", change.new.count("ready"), "cannot set more ready pods than active");
    }
    excluded(change.new, errors);
    transition(&change, errors);
}

fn uncounted(status: &Value, errors: &mut FieldErrors) {
    let mut seen = HashSet::new();
    for list in ["succeeded", "failed"] {
        for (at, uid) in view::texts(view::member(status, "uncountedTerminatedPods"), list).enumerate() {
            let path = format!("status.uncountedTerminatedPods.{list}[{at}]");
            if uid.is_empty() {
                errors.invalid(path, "\"\"", "must not be empty");
            } else if !seen.insert(uid) {
                errors.duplicate(path, view::quoted(uid));
            }
        }
    }
}

/// A job ends once, in one way, and says beforehand that it will.
fn ends(change: &Change<'_>, errors: &mut FieldErrors) {
    const PATH: &str = "status.conditions";
    let new = change.new;
    let (complete, failed) = (change.of_condition("Complete"), change.of_condition("Failed"));
    let rules = [
        (complete || failed, "Complete", "Failed", true, "cannot set Complete=True and Failed=true conditions"),
        (
            complete || change.of_condition("FailureTarget"),
            "Complete",
            "FailureTarget",
            true,
            "cannot set Complete=True and FailureTarget=true conditions",
        ),
        (
            failed || change.of("failedIndexes"),
            "Failed",
            "FailureTarget",
            false,
            "cannot set Failed=True condition without the FailureTarget=true condition",
        ),
        (
            complete || change.of_condition("SuccessCriteriaMet"),
            "Complete",
            "SuccessCriteriaMet",
            false,
            "cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
        ),
    ];
    for (_, _, _, _, detail) in rules.into_iter().filter(|(due, one, other, wrong, _)| *due && new.is(one) && new.is(other) == *wrong) {
        errors.invalid_unshown(PATH, detail);
    }
}

fn times(change: &Change<'_>, errors: &mut FieldErrors) {
    let new = change.new;
    let (started, completed) = (new.time("startTime"), new.time("completionTime"));
    let path = "status.completionTime";
    if change.of_condition("Complete") || change.of("completionTime") {
        match completed {
            Some(time) if !new.is("Complete") => {
                errors.invalid(path, view::quoted(time), "cannot set completionTime when there is no Complete=True condition");
            }
            None if new.is("Complete") => errors.required(path, "completionTime is required for Complete jobs"),
            _ => {}
        }
    }
    let parsed = |time: Option<&str>| time.and_then(|time| time.parse::<jiff::Timestamp>().ok());
    if let (Some(start), Some(end)) = (parsed(started), parsed(completed))
        && end < start
        && (change.of("startTime") || change.of("completionTime"))
    {
        errors.invalid(path, view::quoted(completed.unwrap_or_default()), "must be equal to or after `startTime`");
    }
    let nothing_to_do = view::flag(new.spec, "suspend") && view::int(new.spec, "completions") == Some(0);
    if started.is_none() && new.is_finished() && (change.of_end() || change.of("startTime")) && !nothing_to_do {
        errors.required("status.startTime", "startTime is required for finished job");
    }
}

/// Of a job that is over no pod runs and none waits to be counted.
fn leftovers(change: &Change<'_>, errors: &mut FieldErrors) {
    let new = change.new;
    if !new.is_finished() {
        return;
    }
    let due = |field: &str| change.of_end() || change.of(field);
    for field in ["active", "terminating"] {
        let count = new.count(field);
        if count > 0 && due(field) {
            errors.invalid(format!("status.{field}"), count, &format!("{field}>0 is invalid for finished job"));
        }
    }
    let waiting = view::member(new.status, "uncountedTerminatedPods");
    if ["succeeded", "failed"].iter().any(|list| !view::list(waiting, list).is_empty()) && due("uncountedTerminatedPods") {
        errors.invalid("status.uncountedTerminatedPods", waiting, "must be empty for finished job");
    }
}

fn indexes(change: &Change<'_>, errors: &mut FieldErrors) {
    let new = change.new;
    let completions = view::int(new.spec, "completions");
    let counted = view::int(new.spec, "backoffLimitPerIndex").is_some();
    let (completed, failed) = (view::text(new.status, "completedIndexes"), view::text(new.status, "failedIndexes"));
    for (field, text) in [("completedIndexes", completed), ("failedIndexes", failed)].into_iter().filter(|(field, _)| change.of(field)) {
        if let Some(completions) = completions.filter(|_| field == "completedIndexes" || counted)
            && let Err(why) = count_indexes(text, completions)
        {
            errors.invalid(format!("status.{field}"), view::quoted(text), &format!("error parsing {field}: {why}"));
        }
    }
    if change.of("completedIndexes") && !completed.is_empty() && view::text(new.spec, "completionMode") != "Indexed" {
        let detail = "cannot set non-empty completedIndexes when non-indexed completion mode";
        errors.invalid("status.completedIndexes", view::quoted(completed), detail);
    }
    if change.of("failedIndexes") && view::get(new.status, "failedIndexes").is_some() && !counted {
        let detail = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
        errors.invalid("status.failedIndexes", view::quoted(failed), detail);
    }
    if let Some(completions) = completions
        && (change.of("completedIndexes") || change.of("failedIndexes"))
        && let Some(index) = overlap(completed, failed, completions)
    {
        let detail = format!("failedIndexes and completedIndexes overlap at index: {index}");
        errors.invalid("status.failedIndexes", view::quoted(failed), &detail);
    }
}

/// The first index that two texts such as `1,3-5` share; intervals that cannot be read are passed over.
fn overlap(one: &str, other: &str, completions: i64) -> Option<i64> {
    let intervals = |text: &str| -> Vec<(i64, i64)> {
        let parsed = |interval: &str| {
            count_indexes(interval, completions).ok()?;
            let (first, last) = interval.split_once('-').unwrap_or((interval, interval));
            Some((first.parse().ok()?, last.parse().ok()?))
        };
        text.split(',').filter_map(parsed).collect()
    };
    let (one, other) = (intervals(one), intervals(other));
    let (mut at, mut against) = (one.iter().peekable(), other.iter().peekable());
    while let (Some((first, last)), Some((from, to))) = (at.peek(), against.peek()) {
        if first <= to && from <= last {
            return Some(*first.max(from));
        }
        if first <= from {
            at.next();
        } else {
            against.next();
        }
    }
    None
}

/// Conditions that say the opposite of one another.
fn excluded(new: State<'_>, errors: &mut FieldErrors) {
    const PATH: &str = "status.conditions";
    let met = new.is("SuccessCriteriaMet");
    for failure in ["Failed", "FailureTarget"].into_iter().filter(|failure| met && new.is(failure)) {
        errors.invalid_unshown(PATH, &format!("cannot set SuccessCriteriaMet=True and {failure}=true conditions"));
    }
    if view::get(new.spec, "successPolicy").is_some() && !met && new.is("Complete") {
        errors.invalid_unshown(PATH, "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True");
    }
}

/// What was said once is not taken back.
fn transition(change: &Change<'_>, errors: &mut FieldErrors) {
    const PATH: &str = "status.conditions";
    let (old, new) = (change.old, change.new);
    for kind in ["Failed", "Complete", "FailureTarget"].into_iter().filter(|kind| old.is(kind) && !new.is(kind)) {
        errors.invalid_unshown(PATH, &format!("cannot disable the terminal {kind}=True condition"));
    }
    if new.count("failed") < old.count("failed") {
        errors.invalid("status.failed", new.count("failed"), "cannot decrease the failed counter");
    }
    // An elastic indexed job may become smaller.
    let elastic =
        view::text(new.spec, "completionMode") == "Indexed" && view::get(new.spec, "completions") == view::get(new.spec, "parallelism");
    if new.count("succeeded") < old.count("succeeded") && !elastic {
        errors.invalid("status.succeeded", new.count("succeeded"), "cannot decrease the succeeded counter");
    }
    if let (Some(then), Some(now)) = (old.time("completionTime"), new.time("completionTime"))
        && then != now
    {
        errors.invalid("status.completionTime", view::quoted(now), "field is immutable");
    }
    let resumes = old.is("Suspended") && new.condition("Suspended") == Some("False");
    if old.time("startTime").is_some() && change.of("startTime") && !resumes && !view::flag(new.spec, "suspend") {
        let now = new.time("startTime").map_or_else(|| "null".to_owned(), view::quoted);
        errors.invalid("status.startTime", now, "field is immutable for unsuspended job once set");
    }
    if old.is("SuccessCriteriaMet") && !new.is("SuccessCriteriaMet") {
        errors.invalid_unshown(PATH, "cannot disable the SuccessCriteriaMet=True condition");
    }
    if old.is("Complete") && !old.is("SuccessCriteriaMet") && new.is("SuccessCriteriaMet") {
        errors.invalid_unshown(PATH, "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions");
    }
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    fn told(old: Value, new: Value) -> Vec<String> {
        let job = |status: Value| json!({"spec": {"completionMode": "NonIndexed", "completions": 3, "parallelism": 2}, "status": status});
        let mut errors = FieldErrors::none();
        check(&job(new), &job(old), &mut errors);
        errors.0.iter().map(ToString::to_string).collect()
    }

    fn conditions(kinds: &[&str]) -> Value {
        kinds.iter().map(|kind| json!({"type": kind, "status": "True"})).collect()
    }

    #[test]
    fn a_job_that_ends_says_when_and_that_it_would() {
        let started = json!({"startTime": "2020-01-01T00:00:00Z", "conditions": conditions(&["SuccessCriteriaMet"])});
        let mut ended = json!({"startTime": "2020-01-01T00:00:00Z", "completionTime": "2020-01-01T00:00:01Z"});
        ended["conditions"] = conditions(&["SuccessCriteriaMet", "Complete"]);
        assert_eq!(told(started.clone(), ended.clone()), Vec::<String>::new());
        let early = json!({"startTime": "2020-01-01T00:00:00Z", "completionTime": "2019-01-01T00:00:00Z", "active": 1,
            "conditions": conditions(&["Complete"])});
        let found = told(json!({"startTime": "2020-01-01T00:00:00Z"}), early);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[0].contains("without the SuccessCriteriaMet=true") && found[1].contains("must be equal to or after"), "{found:?}");
        assert!(told(ended, started).iter().any(|error| error.contains("cannot disable the terminal Complete=True")));
    }

    #[test]
    fn what_was_counted_stays_counted() {
        let found = told(json!({"failed": 2, "succeeded": 1}), json!({"failed": 1}));
        assert_eq!(found.len(), 2, "{found:?}");
    }

    #[test]
    fn no_index_both_fails_and_succeeds() {
        assert_eq!(overlap("0-2,5", "3-4", 10), None);
        assert_eq!(overlap("0-2,5", "1", 10), Some(1));
        assert_eq!(overlap("0,5-7", "x,6-9", 10), Some(6));
    }
}
