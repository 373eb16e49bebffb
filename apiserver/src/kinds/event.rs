//! Events, the same objects in two groups with other names for their fields (upstream `apis/core/validation/events.go`).

use std::time::Duration;

use coracle_schema::{FieldErrors, name};
use coracle_tree::Value;

use super::view;
use crate::registry::{Object, Part, Policy, Rules};

/// How long an event is kept, if nothing else is said.
const TTL_SECONDS: u64 = 3600;

/// Rules of `events`, in both groups.
pub(super) struct Event {
    /// `None`: for ever.
    ttl_seconds: Option<u64>,
}

/// Events that last as upstream's do by default.
pub(super) static EVENT: Event = Event { ttl_seconds: Some(TTL_SECONDS) };

impl Event {
    /// Events that last so long; 0: for ever.
    pub(super) fn lasting(ttl: Duration) -> Self {
        Self { ttl_seconds: Some(ttl.as_secs()).filter(|seconds| *seconds > 0) }
    }
}

/// Names of the fields of an event, as a group has them.
struct EventNames {
    object: &'static str,
    message: &'static str,
    reporter: &'static str,
    source: &'static str,
}

static CORE_EVENT: EventNames =
    EventNames { object: "involvedObject", message: "message", reporter: "reportingComponent", source: "source" };
static GROUP_EVENT: EventNames =
    EventNames { object: "regarding", message: "note", reporter: "reportingController", source: "deprecatedSource" };

/// Selectable fields as `events.k8s.io` calls them (`apis/events/v1/conversion.go`).
const GROUP_LABELS: &[(&str, &str)] = &[
    ("reason", "reason"),
    ("regarding.kind", "involvedObject.kind"),
    ("regarding.namespace", "involvedObject.namespace"),
    ("regarding.name", "involvedObject.name"),
    ("regarding.uid", "involvedObject.uid"),
    ("regarding.apiVersion", "involvedObject.apiVersion"),
    ("regarding.resourceVersion", "involvedObject.resourceVersion"),
    ("regarding.fieldPath", "involvedObject.fieldPath"),
    ("reportingController", "reportingComponent"),
    ("type", "type"),
];

/// Fields of `events.k8s.io` that never change, the names refusals have for them, and what stands for an absent one there.
const LASTING: &[(&str, &str, &str)] = &[
    ("regarding", "involvedObject", "{}"),
    ("reason", "reason", "\"\""),
    ("note", "message", "\"\""),
    ("deprecatedSource", "source", "{}"),
    ("deprecatedFirstTimestamp", "firstTimestamp", "null"),
    ("deprecatedLastTimestamp", "lastTimestamp", "null"),
    ("deprecatedCount", "count", "0"),
    ("type", "type", "\"\""),
    ("eventTime", "eventTime", "null"),
    ("action", "action", "\"\""),
    ("related", "related", "null"),
    ("reportingController", "reportingController", "\"\""),
    ("reportingInstance", "reportingInstance", "\"\""),
];

fn event_names(event: &Value) -> &'static EventNames {
    if view::text(event, "apiVersion").starts_with("events.k8s.io/") { &GROUP_EVENT } else { &CORE_EVENT }
}

impl Rules for Event {
    fn policy(&self) -> Policy {
        Policy { create_on_update: true, ttl_seconds: self.ttl_seconds, dependents: false, ..Policy::DEFAULT }
    }

    fn validate(&self, new: &Object, old: Option<&Object>, _part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        let event = new.value();
        let names = event_names(event);
        let about = view::text(view::member(event, names.object), "namespace");
        let mismatch = "does not match event.namespace";
        let has_time = view::get(event, "eventTime").is_some();
        let allowed = match (about, has_time) {
            ("", false) => ["", "default"].contains(&new.namespace()),
            ("", true) => ["default", "kube-system"].contains(&new.namespace()),
            (about, false) => about == new.namespace(),
            (_, true) => true,
        };
        if !allowed {
            errors.invalid("involvedObject.namespace", view::quoted(about), mismatch);
        }
        if has_time {
            timed_event(event, names, &mut errors);
        }
        if names.object == GROUP_EVENT.object && old.is_none() {
            strict_event(event, has_time, &mut errors);
        }
        errors
    }

    fn metadata_last(&self, new: &Object) -> bool {
        event_names(new.value()).object == CORE_EVENT.object
    }

    fn immutable(&self, new: &Object, old: &Object, _part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        let (event, before) = (new.value(), old.value());
        // Events of the first version change as they like.
        if event_names(event).object != GROUP_EVENT.object {
            return errors;
        }
        if view::get(event, "series") != view::get(before, "series") {
            series(event, &mut errors);
        }
        for (field, path, absent) in LASTING {
            let (now, then) = (view::get(event, field), view::get(before, field));
            let shown = |value: Option<&Value>| value.map_or_else(|| (*absent).to_owned(), Value::to_string);
            // The first version writes what is empty, this one leaves it out: that is no change.
            if now != then && shown(now) != shown(then) {
                errors.invalid(*path, shown(now), "field is immutable");
            }
        }
        errors
    }

    fn selectable(&self, object: &Value) -> Vec<(&'static str, String)> {
        let names = event_names(object);
        let about = view::member(object, names.object);
        let owned = |of: &Value, name: &str| view::text(of, name).to_owned();
        let source = owned(view::member(object, names.source), "component");
        let reporter = owned(object, names.reporter);
        vec![
            ("involvedObject.kind", owned(about, "kind")),
            ("involvedObject.namespace", owned(about, "namespace")),
            ("involvedObject.name", owned(about, "name")),
            ("involvedObject.uid", owned(about, "uid")),
            ("involvedObject.apiVersion", owned(about, "apiVersion")),
            ("involvedObject.resourceVersion", owned(about, "resourceVersion")),
            ("involvedObject.fieldPath", owned(about, "fieldPath")),
            ("reason", owned(object, "reason")),
            ("source", if source.is_empty() { reporter.clone() } else { source }),
            ("reportingComponent", reporter),
            ("type", owned(object, "type")),
        ]
    }

    fn field_labels(&self, group: &str) -> &'static [(&'static str, &'static str)] {
        if group.is_empty() { &[] } else { GROUP_LABELS }
    }
}

/// Events of the new kind say who reports what about what.
fn timed_event(event: &Value, names: &EventNames, errors: &mut FieldErrors) {
    let reporter = view::text(event, names.reporter);
    if reporter.is_empty() {
        errors.required(names.reporter, "");
    }
    errors.invalid_each(names.reporter, reporter, name::qualified(reporter));
    for (field, path, most) in [("reportingInstance", "reportingInstance", 128), ("action", "action", 128), ("reason", "reason", 128)] {
        let text = view::text(event, field);
        if text.is_empty() {
            errors.required(path, "");
        }
        if text.len() > most {
            errors.invalid(path, "\"\"", &format!("can have at most {most} characters"));
        }
    }
    if view::text(event, names.message).len() > 1024 {
        errors.invalid("message", "\"\"", "can have at most 1024 characters");
    }
}

/// What `events.k8s.io/v1` asks of new events beyond that.
fn strict_event(event: &Value, has_time: bool, errors: &mut FieldErrors) {
    if !has_time {
        errors.required("eventTime", "");
    }
    let kind = view::text(event, "type");
    if !["Normal", "Warning"].contains(&kind) {
        errors.invalid("type", "\"\"", &format!("has invalid value: {kind}"));
    }
    for (field, path) in
        [("deprecatedFirstTimestamp", "firstTimestamp"), ("deprecatedLastTimestamp", "lastTimestamp"), ("deprecatedCount", "count")]
    {
        if view::get(event, field).is_some() {
            errors.invalid(path, "\"\"", "needs to be unset");
        }
    }
    let source = view::member(event, "deprecatedSource");
    if !view::text(source, "component").is_empty() || !view::text(source, "host").is_empty() {
        errors.invalid("source", "\"\"", "needs to be unset");
    }
    series(event, errors);
}

fn series(event: &Value, errors: &mut FieldErrors) {
    if let Some(series) = view::get(event, "series") {
        if view::int(series, "count").unwrap_or_default() < 2 {
            errors.invalid("series.count", "\"\"", "should be at least 2");
        }
        if view::get(series, "lastObservedTime").is_none() {
            errors.required("series.lastObservedTime", "");
        }
    }
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    #[test]
    fn of_an_event_of_the_new_group_only_the_series_changes() {
        let event = |change: Value| {
            let mut event = json!({"apiVersion": "events.k8s.io/v1", "metadata": {"name": "e"}, "reason": "Started", "note": "n"});
            event.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            Object::new(event).unwrap()
        };
        let said =
            |new: &Object, old: &Object| EVENT.immutable(new, old, Part::Whole).0.iter().map(ToString::to_string).collect::<Vec<_>>();
        let old = event(json!({}));
        let series = json!({"series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:00.000000Z"}});
        assert!(said(&event(series), &old).is_empty());
        assert!(said(&event(json!({"reportingController": ""})), &old).is_empty());
        assert_eq!(said(&event(json!({"note": null})), &old), ["message: Invalid value: \"\": field is immutable"]);
        assert_eq!(said(&event(json!({"series": {"count": 1}})), &old).len(), 2);
        let first_version = json!({"reportingController": "", "reportingInstance": "", "deprecatedSource": {}, "deprecatedCount": 0});
        assert!(said(&old, &event(first_version)).is_empty());
        assert_eq!(said(&event(json!({"reportingInstance": "i"})), &event(json!({"reportingInstance": ""}))).len(), 1);
    }
}
