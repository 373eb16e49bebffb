//! `resource.k8s.io`: dynamic resource allocation.

use super::{
    AGE, Columns, NAME, NAME_AND_AGE, PLAIN,
    cell::{Subject, items, text, there},
};
use crate::wire::table::Column;

pub(super) fn columns(resource: &str) -> &'static Columns {
    match resource {
        "deviceclasses" | "resourceclaimtemplates" => &NAME_AND_AGE,
        "resourceclaims" => &CLAIMS,
        "resourceslices" => &SLICES,
        "devicetaintrules" => &TAINTS,
        _ => &PLAIN,
    }
}

static CLAIMS: Columns = Columns::new(&[NAME, Column::text("State", "Whether the claim is allocated and reserved."), AGE], |s| {
    vec![s.name(), state(s).into(), s.age()]
});

fn state(s: Subject<'_>) -> String {
    let allocated = there(s.status(), "allocation").is_some();
    let states = [
        ("deleted", s.is_deleting()),
        ("pending", !allocated && !s.is_deleting()),
        ("allocated", allocated),
        ("reserved", allocated && !items(s.status(), "reservedFor").is_empty()),
    ];
    states.iter().filter(|(_, holds)| *holds).map(|(name, _)| *name).collect::<Vec<_>>().join(",")
}

static SLICES: Columns = Columns::new(
    &[
        NAME,
        Column::text("Node", "Node whose devices they are."),
        Column::text("Driver", "Driver that offers them."),
        Column::text("Pool", "Pool they belong to."),
        AGE,
    ],
    |s| {
        let spec = s.spec();
        vec![s.name(), text(spec, "nodeName").into(), text(spec, "driver").into(), text(s.at("/spec/pool"), "name").into(), s.age()]
    },
);

static TAINTS: Columns = Columns::new(
    &[
        NAME,
        Column::text("Key", "Key of the taint."),
        Column::text("Value", "Value of the taint."),
        Column::text("Effect", "What the taint does."),
        Column::text("TimeAdded", "Time since the taint was added."),
        AGE,
    ],
    |s| {
        let taint = s.at("/spec/taint");
        let added = if there(taint, "timeAdded").is_some() { s.since(taint, "timeAdded") } else { String::new() };
        vec![s.name(), text(taint, "key").into(), text(taint, "value").into(), text(taint, "effect").into(), added.into(), s.age()]
    },
);
