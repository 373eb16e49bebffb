//! Jobs and cron jobs (upstream `apis/batch`).

use coracle_schema::{FieldErrors, name, selector, selector::LabelSelector};
use coracle_tree::{Map, Value, json};

use super::{job_policy, job_status, schedule, template, view};
use crate::registry::{Object, Part, Rules};

const UID_LABELS: [&str; 2] = ["controller-uid", "batch.kubernetes.io/controller-uid"];
const NAME_LABELS: [&str; 2] = ["job-name", "batch.kubernetes.io/job-name"];

/// Indexed jobs with more completions than this must bound failures and parallelism.
const MANY_COMPLETIONS: i64 = 100_000;
const MOST_PARALLEL: i64 = 100_000;
/// How many of that many may run at once, and how many may fail.
const MOST_OF_MANY: i64 = 10_000;

/// Rules of `jobs`.
pub(super) struct Job;
/// Rules of `cronjobs`.
pub(super) struct CronJob;

impl Rules for Job {
    fn default(&self, object: &mut Object) {
        template::default(object.value_mut());
        take_labels(object);
        let Some(spec) = view::message_mut(object.value_mut(), "spec") else { return };
        if view::int(spec, "completions").is_none() && view::int(spec, "parallelism").is_none() {
            spec["completions"] = 1.into();
        }
        view::set_absent(spec, "parallelism", 1);
        let unlimited = view::int(spec, "backoffLimitPerIndex").is_some();
        view::set_absent(spec, "backoffLimit", if unlimited { i32::MAX } else { 6 });
        view::set_absent(spec, "completionMode", "NonIndexed");
        view::set_absent(spec, "suspend", false);
        let failed = view::get(spec, "podFailurePolicy").is_some();
        view::set_absent(spec, "podReplacementPolicy", if failed { "Failed" } else { "TerminatingOrFailed" });
        view::set_absent(spec, "manualSelector", false);
    }

    fn prepare(&self, new: &mut Object, old: Option<&Object>, _part: Part<'_>) {
        if old.is_none() {
            // Labels that were taken from the template are the template's, also those it gets now.
            let pointer = "/spec/template/metadata/labels";
            let taken = new.value().pointer("/metadata/labels").is_some_and(|labels| new.value().pointer(pointer) == Some(labels));
            generate_selector(new);
            if taken && let Some(labels) = new.value().pointer(pointer).cloned() {
                new.set_metadata("labels", labels);
            }
        }
    }

    fn read_back(&self, object: &mut Object) {
        take_labels(object);
    }

    fn validate(&self, new: &Object, old: Option<&Object>, part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        if part == Part::Status {
            job_status::check(new.value(), old.map_or(&Value::Null, Object::value), &mut errors);
            return errors;
        }
        let spec = view::member(new.value(), "spec");
        if old.is_none() {
            generated_selector(new, &mut errors);
        }
        job_spec(spec, "spec", &mut errors);
        match view::get(spec, "selector") {
            None => errors.required("spec.selector", ""),
            Some(given) => {
                selector::validate_object(given, "spec.selector", &mut errors);
            }
        }
        if let Ok(parsed) = LabelSelector::from_object(view::get(spec, "selector")) {
            template::matches_template(&parsed, view::member(spec, "template"), &mut errors);
        }
        if let Some(old) = old {
            job_update(spec, old, &mut errors);
        }
        if view::text(spec, "completionMode") == "Indexed"
            && let Some(completions) = view::int(spec, "completions").filter(|completions| *completions > 0)
        {
            let last = format!("{}-{}", new.name(), completions - 1);
            if !name::label(&last).is_empty() {
                let detail = format!("will not able to create pod with invalid DNS label: {last}");
                errors.invalid("metadata.name", view::quoted(new.name()), &detail);
            }
        }
        errors
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        let mut all = template::name_warnings(new, old, template::POD_NAMES);
        all.extend(job_warnings(new, old, "spec"));
        all
    }

    fn selectable(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![("status.successful", view::int(view::member(object, "status"), "succeeded").unwrap_or_default().to_string())]
    }
}

/// A job without labels has those of its template.
fn take_labels(job: &mut Object) {
    let labels = job.value().pointer("/spec/template/metadata/labels").cloned();
    if let Some(labels) = labels.filter(|l| l.as_object().is_some_and(|m| !m.is_empty()))
        && view::map(view::member(job.value(), "metadata"), "labels").is_empty()
    {
        job.set_metadata("labels", labels);
    }
}

/// Labels the template with the job's uid and name and selects by the uid, unless the writer does that by hand.
fn generate_selector(job: &mut Object) {
    let (uid, name) = (job.uid().to_owned(), job.name().to_owned());
    let Some(spec) = view::message_mut(job.value_mut(), "spec") else { return };
    if view::flag(spec, "manualSelector") {
        return;
    }
    if let Some(labels) = view::message_mut(spec, "template").and_then(template::labels_mut) {
        for (keys, value) in [(NAME_LABELS, &name), (UID_LABELS, &uid)] {
            for key in keys {
                labels.entry(key).or_insert_with(|| value.as_str().into());
            }
        }
    }
    view::set_absent(spec, "selector", json!({}));
    view::set_absent(&mut spec["selector"], "matchLabels", Value::Object(Map::new()));
    view::set_absent(&mut spec["selector"]["matchLabels"], UID_LABELS[1], uid);
}

/// Labels and selector that the writer gave must agree with those that would be generated.
fn generated_selector(job: &Object, errors: &mut FieldErrors) {
    let spec = view::member(job.value(), "spec");
    if view::flag(spec, "manualSelector") {
        return;
    }
    let labels = view::map(view::member(view::member(spec, "template"), "metadata"), "labels");
    let mut expected = Map::new();
    for (keys, value) in [(UID_LABELS, job.uid()), (NAME_LABELS, job.name())] {
        for key in keys {
            expected.insert(key.to_owned(), value.into());
            let path = "spec.template.metadata.labels";
            match labels.get(key).and_then(Value::as_str) {
                None => errors.required(path, &format!("must be '{value}'")),
                Some(found) if found != value => {
                    errors.invalid(path, Value::Object(labels.clone()), &format!("must be '{value}'"));
                }
                Some(_) => {}
            }
        }
    }
    let Some(given) = view::get(spec, "selector") else { return };
    if LabelSelector::from_object(Some(given)).is_ok_and(|parsed| !parsed.matches(&expected)) {
        errors.invalid("spec.selector", given, "`selector` not auto-generated");
    }
}

fn job_spec(spec: &Value, path: &str, errors: &mut FieldErrors) {
    let counts = [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ];
    template::not_negative(spec, &counts, path, errors);
    let int = |name| view::int(spec, name);
    if int("maxFailedIndexes").is_some() && int("backoffLimitPerIndex").is_none() {
        errors.required(format!("{path}.backoffLimitPerIndex"), "when maxFailedIndexes is specified");
    }
    if let Some(manager) = view::get(spec, "managedBy").and_then(Value::as_str) {
        managed_by(manager, &format!("{path}.managedBy"), errors);
    }
    let mode = view::get(spec, "completionMode").and_then(Value::as_str);
    if let Some(mode) = mode.filter(|mode| !["NonIndexed", "Indexed"].contains(mode)) {
        errors.not_supported(format!("{path}.completionMode"), view::quoted(mode), &["NonIndexed", "Indexed"]);
    }
    let is_indexed = mode == Some("Indexed");
    if is_indexed {
        indexed(spec, path, errors);
    }
    if matches!(mode, None | Some("NonIndexed")) {
        for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if let Some(value) = int(field) {
                errors.invalid(format!("{path}.{field}"), value, "requires indexed completion mode");
            }
        }
    }
    job_policy::failure(spec, path, errors);
    match view::get(spec, "successPolicy") {
        Some(_) if is_indexed => job_policy::success(spec, path, errors),
        Some(policy) => errors.invalid(format!("{path}.successPolicy"), policy, "requires indexed completion mode"),
        None => {}
    }
    replacement(spec, path, errors);
    template::check(view::member(spec, "template"), &format!("{path}.template"), errors);
    let policy = view::text(view::member(view::member(spec, "template"), "spec"), "restartPolicy");
    let policy_path = format!("{path}.template.spec.restartPolicy");
    let fails = view::get(spec, "podFailurePolicy").is_some();
    match policy {
        "Always" | "" => errors.required(policy_path, "valid values: \"OnFailure\", \"Never\""),
        "OnFailure" if fails => {
            errors.invalid(policy_path, "\"OnFailure\"", "only \"Never\" is supported when podFailurePolicy is specified");
        }
        "OnFailure" | "Never" => {}
        other => {
            template::restart_policy(other, &format!("{path}.template"), errors);
            errors.not_supported(policy_path, view::quoted(other), &["OnFailure", "Never"]);
        }
    }
}

fn replacement(spec: &Value, path: &str, errors: &mut FieldErrors) {
    let Some(policy) = view::get(spec, "podReplacementPolicy").and_then(Value::as_str) else { return };
    let fails = view::get(spec, "podFailurePolicy").is_some();
    let known: &[&str] = if fails { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
    if !known.contains(&policy) {
        errors.not_supported(format!("{path}.podReplacementPolicy"), view::quoted(policy), known);
    }
}

/// `acme.io/foo`: a domain and a path (`IsDomainPrefixedPath`).
fn managed_by(text: &str, path: &str, errors: &mut FieldErrors) {
    if text.is_empty() {
        return errors.required(path, "");
    }
    match text.split_once('/') {
        Some((domain, rest)) if !domain.is_empty() && !rest.is_empty() => {
            errors.invalid_each(path, domain, name::subdomain(domain));
            if !rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:@/".contains(&b)) {
                errors.invalid(
                    path,
                    view::quoted(rest),
                    "Invalid path (regex used for validation is '^[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+$')",
                );
            }
        }
        _ => errors.invalid(path, view::quoted(text), "must be a domain-prefixed path (such as \"acme.io/foo\")"),
    }
    if text.len() > name::LABEL_MAX {
        errors.too_long(path, name::LABEL_MAX as u64, "byte");
    }
}

fn indexed(spec: &Value, path: &str, errors: &mut FieldErrors) {
    let int = |name| view::int(spec, name);
    let completions = int("completions");
    if completions.is_none() {
        errors.required(format!("{path}.completions"), "when completion mode is Indexed");
    }
    if let Some(parallel) = int("parallelism").filter(|p| *p > MOST_PARALLEL) {
        let detail = format!("must be less than or equal to {MOST_PARALLEL} when completion mode is Indexed");
        errors.invalid(format!("{path}.parallelism"), parallel, &detail);
    }
    let failed = int("maxFailedIndexes");
    if let (Some(failed), Some(all)) = (failed, completions)
        && failed > all
    {
        errors.invalid(format!("{path}.maxFailedIndexes"), failed, "must be less than or equal to completions");
    }
    if let Some(failed) = failed.filter(|failed| *failed > MOST_PARALLEL) {
        errors.invalid(format!("{path}.maxFailedIndexes"), failed, &format!("must be less than or equal to {MOST_PARALLEL}"));
    }
    if completions.is_none_or(|c| c <= MANY_COMPLETIONS) || int("backoffLimitPerIndex").is_none() {
        return;
    }
    if failed.is_none() {
        let detail = format!("must be specified when completions is above {MANY_COMPLETIONS}");
        errors.required(format!("{path}.maxFailedIndexes"), &detail);
    }
    let when = format!("when completions are above {MANY_COMPLETIONS} and used with backoff limit per index");
    for field in ["parallelism", "maxFailedIndexes"] {
        if let Some(count) = int(field).filter(|count| *count > MOST_OF_MANY) {
            errors.invalid(format!("{path}.{field}"), count, &format!("must be less than or equal to {MOST_OF_MANY} {when}"));
        }
    }
}

fn job_update(spec: &Value, old: &Object, errors: &mut FieldErrors) {
    let before = view::member(old.value(), "spec");
    completions_update(spec, before, errors);
    template::immutable(spec, before, "selector", "spec", errors);
    template_update(view::member(spec, "template"), old, errors);
    for field in ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"] {
        template::immutable(spec, before, field, "spec", errors);
    }
}

/// Indexed jobs grow and shrink, together with what runs at once. That such a job has no completions is said elsewhere.
fn completions_update(spec: &Value, before: &Value, errors: &mut FieldErrors) {
    if view::text(spec, "completionMode") != "Indexed" {
        return template::immutable(spec, before, "completions", "spec", errors);
    }
    let (now, old) = (view::int(spec, "completions"), view::int(before, "completions"));
    if let Some(completions) = now.filter(|_| now != old && now != view::int(spec, "parallelism")) {
        errors.invalid("spec.completions", completions, "can only be modified in tandem with spec.parallelism");
    }
}

/// The template stays, except that of a suspended job without pods (`validatePodTemplateUpdate`, `shouldAllowMutablePodTemplate`).
fn template_update(template: &Value, old: &Object, errors: &mut FieldErrors) {
    let (before, status) = (view::member(old.value(), "spec"), view::member(old.value(), "status"));
    let stopped = |c: &Value| view::text(c, "type") == "Suspended" && view::text(c, "status") == "True";
    let at_rest = view::get(status, "startTime").is_none() || view::list(status, "conditions").iter().any(stopped);
    let free = view::flag(before, "suspend") && at_rest && view::int(status, "active").unwrap_or_default() == 0;
    let mut expected = view::member(before, "template").clone();
    if !free {
        if &expected != template {
            errors.invalid("spec.template", template, "field is immutable");
        }
        return;
    }
    free_directives(&mut expected, template);
    if view::member(&expected, "spec") != view::member(template, "spec") {
        errors.invalid("spec.template.spec", view::member(template, "spec"), "field is immutable");
    }
}

/// What of the spec of a suspended job's pods may be changed: where they go, and their resources (KEP-2926, KEP-5440).
fn free_directives(expected: &mut Value, template: &Value) {
    let copy = |to: &mut Value, from: &Value, field: &str| match view::get(from, field) {
        Some(value) => to[field] = value.clone(),
        None => drop(view::remove(to, field)),
    };
    let spec = view::member(template, "spec");
    let Some(to) = view::message_mut(expected, "spec") else { return };
    ["nodeSelector", "tolerations", "schedulingGates"].iter().for_each(|field| copy(to, spec, field));
    for list in ["containers", "initContainers"] {
        for (container, now) in view::items_mut(to, list).zip(view::list(spec, list)) {
            copy(container, now, "resources");
        }
    }
    let mut affinity = view::member(to, "affinity").clone();
    let node = view::get(view::member(spec, "affinity"), "nodeAffinity");
    match node {
        Some(node) if affinity.is_object() => affinity["nodeAffinity"] = node.clone(),
        Some(node) => affinity = json!({"nodeAffinity": node}),
        None => drop(view::remove(&mut affinity, "nodeAffinity")),
    }
    match affinity.as_object() {
        Some(members) if !members.is_empty() => to["affinity"] = affinity,
        _ => drop(view::remove(to, "affinity")),
    }
}

/// What is odd about a job's spec at `path` (`WarningsForJobSpec`).
fn job_warnings(new: &Object, old: Option<&Object>, path: &str) -> Vec<String> {
    if old.is_some_and(|old| old.generation() == new.generation()) {
        return Vec::new();
    }
    let spec = path.split('.').fold(new.value(), view::member);
    let more_than = |field, most| view::int(spec, field).is_some_and(|n| n > most);
    let mut all = Vec::new();
    if view::text(spec, "completionMode") == "Indexed" && more_than("completions", 100_000) && more_than("parallelism", 10_000) {
        let when = "In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4";
        all.push(format!("{path}: {when}, Kubernetes might not be able to track completedIndexes when a big number of indexes fail"));
    }
    all.extend(template::warnings(new, old, &format!("{path}.template")));
    all
}

impl Rules for CronJob {
    fn default(&self, object: &mut Object) {
        let template = view::message_mut(object.value_mut(), "spec").and_then(|spec| view::message_mut(spec, "jobTemplate"));
        if let Some(spec) = template.and_then(|template| view::message_mut(template, "spec")) {
            template::default_at(spec);
        }
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        let mut all = template::name_warnings(new, old, template::POD_NAMES);
        all.extend(job_warnings(new, old, "spec.jobTemplate.spec"));
        if old.is_some() && view::text(view::member(new.value(), "spec"), "schedule").contains("TZ") {
            let see = "see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details";
            all.push(format!("cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, {see}"));
        }
        all
    }

    fn validate(&self, new: &Object, old: Option<&Object>, part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        if part == Part::Status {
            return errors;
        }
        let spec = view::member(new.value(), "spec");
        if old.is_none() && new.name().len() > name::LABEL_MAX - 11 {
            errors.invalid("metadata.name", view::quoted(new.name()), "must be no more than 52 characters");
        }
        let text = view::text(spec, "schedule");
        if !text.is_empty() {
            if let Err(why) = schedule::check(text) {
                errors.invalid("spec.schedule", view::quoted(text), &why);
            }
            if text.contains("TZ") {
                let detail = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
                errors.invalid("spec.schedule", view::quoted(text), detail);
            }
        }
        // A zone that was known once may stay: what a machine knows of zones changes.
        let before = old.and_then(|old| view::get(view::member(old.value(), "spec"), "timeZone"));
        let zone = view::get(spec, "timeZone").filter(|zone| before != Some(*zone));
        if let Some(zone) = zone.and_then(Value::as_str) {
            time_zone(zone, &mut errors);
        }
        let counts = ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"];
        template::not_negative(spec, &counts, "spec", &mut errors);
        let job = view::member(view::member(spec, "jobTemplate"), "spec");
        job_spec(job, "spec.jobTemplate.spec", &mut errors);
        if let Some(given) = view::get(job, "selector") {
            errors.invalid("spec.jobTemplate.spec.selector", given, "`selector` will be auto-generated");
        }
        if view::flag(job, "manualSelector") {
            errors.not_supported("spec.jobTemplate.spec.manualSelector", true, &["nil", "false"]);
        }
        // Upstream's declarations speak last.
        if text.is_empty() {
            errors.required("spec.schedule", "");
        }
        errors
    }
}

fn is_zone(zone: &str) -> bool {
    let zones = jiff::tz::db();
    // These two are not of the database.
    zone == "UTC"
        || zone.eq_ignore_ascii_case("local")
        || zones.is_definitively_empty()
        || zones.get(zone).is_ok_and(|found| found.iana_name() == Some(zone))
}

/// The name of a zone that is known. Where a machine knows no zones the form of the name is all that can be checked.
fn time_zone(zone: &str, errors: &mut FieldErrors) {
    let part =
        |p: &str| !p.is_empty() && !p.starts_with(['-', '.']) && p.bytes().all(|b| b.is_ascii_alphanumeric() || b"._+-~".contains(&b));
    if zone.is_empty() {
        errors.invalid("spec.timeZone", "\"\"", "timeZone must be nil or non-empty string");
    } else if !zone.split('/').all(part) || !is_zone(zone) {
        errors.invalid("spec.timeZone", view::quoted(zone), &format!("unknown time zone {zone}"));
    } else if zone.eq_ignore_ascii_case("local") {
        let detail = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        errors.invalid("spec.timeZone", view::quoted(zone), detail);
    }
}
