//! Events, in the form of either group.

use coracle_tree::Value;

use super::{
    Columns,
    cell::{Subject, int, or, text, there},
};
use crate::wire::table::Column;

pub(super) static EVENTS: Columns = Columns::new(
    &[
        Column::text("Last Seen", "Time since it happened last."),
        Column::text("Type", "Normal or Warning."),
        Column::text("Reason", "Why it was reported, in one word."),
        Column::text("Object", "What it is about."),
        Column::wide("Subobject", "Which part of the object it is about."),
        Column::wide("Source", "Who reported it."),
        Column::text("Message", "What happened."),
        Column::wide("First Seen", "Time since it happened first."),
        Column::wide("Count", "How often it happened."),
        Column::new("Name", "string", "name", "Name of the event.", 1),
    ],
    |s| {
        let about = either(s, "involvedObject", "regarding");
        let kind = text(about, "kind").to_lowercase();
        let target = if text(about, "name").is_empty() { kind } else { format!("{kind}/{}", text(about, "name")) };
        let message = either(s, "message", "note").as_str().unwrap_or_default();
        let (first, last, count) = seen(s);
        vec![
            last.into(),
            text(s.object, "type").into(),
            text(s.object, "reason").into(),
            target.into(),
            text(about, "fieldPath").into(),
            source(s).into(),
            message.trim().into(),
            first.into(),
            count.into(),
            s.name(),
        ]
    },
);

/// A member by its name in the core group or in `events.k8s.io`.
fn either<'a>(s: Subject<'a>, core: &str, events: &str) -> &'a Value {
    there(s.object, core).unwrap_or_else(|| s.get(events))
}

/// How long ago it was seen first and last, and how often.
fn seen(s: Subject<'_>) -> (String, String, i64) {
    let name = |core, events| if there(s.object, core).is_some() { core } else { events };
    let (first, last) = (name("firstTimestamp", "deprecatedFirstTimestamp"), name("lastTimestamp", "deprecatedLastTimestamp"));
    let first = if there(s.object, first).is_some() { s.since(s.object, first) } else { s.since(s.object, "eventTime") };
    if let Some(series) = there(s.object, "series") {
        return (first, s.since(series, "lastObservedTime"), int(series, "count"));
    }
    let last = if there(s.object, last).is_some() { s.since(s.object, last) } else { first.clone() };
    let count = int(s.object, name("count", "deprecatedCount"));
    (first, last, count.max(1))
}

fn source(s: Subject<'_>) -> String {
    let source = either(s, "source", "deprecatedSource");
    let controller = either(s, "reportingComponent", "reportingController").as_str().unwrap_or_default();
    let component = or(text(source, "component"), controller);
    match or(text(source, "host"), text(s.object, "reportingInstance")) {
        "" => component.to_owned(),
        instance => format!("{component}, {instance}"),
    }
}
