//! `flowcontrol.apiserver.k8s.io`

use coracle_tree::Value;

use super::{
    AGE, Columns, NAME, PLAIN,
    cell::{int, items, or, text, there},
};
use crate::wire::table::{Column, Row};

pub(super) fn columns(resource: &str) -> &'static Columns {
    match resource {
        "flowschemas" => &SCHEMAS,
        "prioritylevelconfigurations" => &LEVELS,
        _ => &PLAIN,
    }
}

static SCHEMAS: Columns = Columns {
    columns: &[
        NAME,
        Column::text("PriorityLevel", "Priority level of the requests."),
        Column::text("MatchingPrecedence", "Schemas with a lower number are tried first."),
        Column::text("DistinguisherMethod", "What tells flows apart."),
        AGE,
        Column::text("MissingPL", "Whether the priority level does not exist."),
    ],
    cells: |s| {
        let dangling = items(s.status(), "conditions").iter().find(|c| text(c, "type") == "Dangling");
        vec![
            s.name(),
            text(s.at("/spec/priorityLevelConfiguration"), "name").into(),
            int(s.spec(), "matchingPrecedence").into(),
            or(text(s.at("/spec/distinguisherMethod"), "type"), "<none>").into(),
            s.age(),
            dangling.map_or("?", |c| text(c, "status")).into(),
        ]
    },
    conditions: |_| Value::Null,
    arrange: Some(in_order_of_use),
};

/// Lists are shown in the order in which requests are matched.
fn in_order_of_use(rows: &mut [Row]) {
    rows.sort_by_cached_key(|row| {
        let precedence = row.object.pointer("/spec/matchingPrecedence").and_then(Value::as_i64).unwrap_or_default();
        (precedence, row.object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned())
    });
}

static LEVELS: Columns = Columns::new(
    &[
        NAME,
        Column::text("Type", "Exempt or Limited."),
        Column::text("NominalConcurrencyShares", "Share of the server's seats."),
        Column::text("Queues", "Number of queues."),
        Column::text("HandSize", "Queues dealt to each flow."),
        Column::text("QueueLengthLimit", "The most requests that wait in a queue."),
        AGE,
    ],
    |s| {
        let limited = s.at("/spec/limited");
        let queuing = s.at("/spec/limited/limitResponse/queuing");
        let number = |holder: &Value, name: &str| {
            if holder.is_null() { "<none>".into() } else { there(holder, name).cloned().unwrap_or_else(|| 0.into()) }
        };
        vec![
            s.name(),
            text(s.spec(), "type").into(),
            number(limited, "nominalConcurrencyShares"),
            number(queuing, "queues"),
            number(queuing, "handSize"),
            number(queuing, "queueLengthLimit"),
            s.age(),
        ]
    },
);
