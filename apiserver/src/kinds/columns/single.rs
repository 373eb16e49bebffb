//! Groups with one or two kinds.

use coracle_tree::Value;

use super::{
    AGE, Columns, NAME, NAME_AND_AGE, PLAIN,
    cell::{self, int, items, text, there},
};
use crate::wire::table::Column;

pub(super) fn columns(group: &str, resource: &str) -> &'static Columns {
    match (group, resource) {
        ("policy", "poddisruptionbudgets") => &BUDGETS,
        ("coordination.k8s.io", "leases") => &LEASES,
        ("coordination.k8s.io", "leasecandidates") => &CANDIDATES,
        ("scheduling.k8s.io", "priorityclasses") => &PRIORITIES,
        ("node.k8s.io", "runtimeclasses") => &RUNTIMES,
        ("apiregistration.k8s.io", "apiservices") => &API_SERVICES,
        ("storagemigration.k8s.io", "storageversionmigrations") => &MIGRATIONS,
        ("apiextensions.k8s.io", _) => &PLAIN,
        _ => &NAME_AND_AGE,
    }
}

static BUDGETS: Columns = Columns::new(
    &[
        NAME,
        Column::text("Min Available", "The fewest pods that must stay available."),
        Column::text("Max Unavailable", "The most pods that may be unavailable."),
        Column::integer("Allowed Disruptions", "Pods that may be disrupted now."),
        AGE,
    ],
    |s| {
        let bound = |name| there(s.spec(), name).map_or_else(|| "N/A".to_owned(), cell::scalar);
        let allowed = int(s.status(), "disruptionsAllowed");
        vec![s.name(), bound("minAvailable").into(), bound("maxUnavailable").into(), allowed.into(), s.age()]
    },
);

static LEASES: Columns = Columns::new(&[NAME, Column::text("Holder", "Who holds the lease."), AGE], |s| {
    vec![s.name(), text(s.spec(), "holderIdentity").into(), s.age()]
});

static CANDIDATES: Columns = Columns::new(
    &[
        NAME,
        Column::text("LeaseName", "Which lease it would hold."),
        Column::text("BinaryVersion", "What it is."),
        Column::text("EmulationVersion", "What it acts as."),
        AGE,
    ],
    |s| {
        let of = |field| text(s.spec(), field).into();
        vec![s.name(), of("leaseName"), of("binaryVersion"), of("emulationVersion"), s.age()]
    },
);

static PRIORITIES: Columns = Columns::new(
    &[
        NAME,
        Column::integer("Value", "Priority of pods of the class."),
        Column::boolean("Global-Default", "Whether pods without a class get it."),
        AGE,
        Column::text("PreemptionPolicy", "Whether such pods drive out others."),
    ],
    |s| {
        let default = s.get("globalDefault").as_bool().unwrap_or_default();
        vec![s.name(), int(s.object, "value").into(), default.into(), s.age(), text(s.object, "preemptionPolicy").into()]
    },
);

static RUNTIMES: Columns = Columns::new(&[NAME, Column::text("Handler", "How the runtime names the configuration."), AGE], |s| {
    vec![s.name(), text(s.object, "handler").into(), s.age()]
});

static API_SERVICES: Columns = Columns::new(
    &[
        NAME,
        Column::text("Service", "The service that serves the group, or Local."),
        Column::text("Available", "Whether the group can be used."),
        AGE,
    ],
    |s| {
        let service = there(s.spec(), "service").map(|v| format!("{}/{}", text(v, "namespace"), text(v, "name")));
        let condition = items(s.status(), "conditions").iter().find(|c| text(c, "type") == "Available");
        let available = match condition.map(|c| (text(c, "status"), c)) {
            Some(("True", _)) => "True".to_owned(),
            Some(("False", condition)) => format!("False ({})", text(condition, "reason")),
            _ => "Unknown".to_owned(),
        };
        vec![s.name(), service.unwrap_or_else(|| "Local".to_owned()).into(), available.into(), s.age()]
    },
);

static MIGRATIONS: Columns = Columns::new(
    &[
        Column::text("Name", "Name of the migration."),
        Column::text("Resource", "What is migrated."),
        Column::text("Status", "How far the migration is."),
    ],
    |s| {
        let resource = s.at("/spec/resource");
        let (group, plural) = (text(resource, "group"), text(resource, "resource"));
        let printed = if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") };
        let holds = |c: &&Value| text(c, "status") == "True" && ["Running", "Failed", "Succeeded"].contains(&text(c, "type"));
        let status = items(s.status(), "conditions").iter().rev().find(holds).map_or("Unknown", |c| text(c, "type"));
        vec![s.name(), printed.into(), status.into()]
    },
);
