//! What `kubectl get` shows of each kind, a file for each group: columns and cells as kube-apiserver's `internalversion/printers.go`
//! makes them, wide cells included (the client leaves out what it does not want).

mod admissionregistration;
mod apps;
mod autoscaling;
mod batch;
mod cell;
mod certificates;
mod core;
mod discovery;
mod event;
mod flowcontrol;
mod networking;
mod node;
mod pod;
mod rbac;
mod resource;
mod single;
mod storage;
mod volume;

use coracle_tree::Value;
use jiff::Timestamp;

use self::cell::Subject;
use crate::wire::table::{Column, Printer, Row};

/// The printer of a built-in kind.
pub struct Columns {
    columns: &'static [Column<'static>],
    cells: fn(Subject<'_>) -> Vec<Value>,
    conditions: fn(&Value) -> Value,
    arrange: Option<fn(&mut [Row])>,
}

impl Columns {
    /// A printer without conditions, whose rows stand for themselves.
    const fn new(columns: &'static [Column<'static>], cells: fn(Subject<'_>) -> Vec<Value>) -> Self {
        Self { columns, cells, conditions: |_| Value::Null, arrange: None }
    }
}

impl Printer for Columns {
    fn columns(&self) -> Vec<Column<'_>> {
        self.columns.to_vec()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        (self.cells)(Subject { object, now })
    }

    fn conditions(&self, object: &Value) -> Value {
        (self.conditions)(object)
    }

    fn arrange(&self) -> Option<fn(&mut [Row])> {
        self.arrange
    }
}

const NAME: Column<'static> = Column::new("Name", "string", "name", "Name of the object, unique among its kind in its namespace.", 0);
const AGE: Column<'static> = Column::text("Age", "Time since the object was created.");
const CONTAINERS: Column<'static> = Column::wide("Containers", "Names of the containers in the template.");
const IMAGES: Column<'static> = Column::wide("Images", "Images of the containers in the template.");
const SELECTOR: Column<'static> = Column::wide("Selector", "Which pods belong to the object.");

/// Kinds without columns of their own (`rest/table.go`).
static PLAIN: Columns = Columns::new(&[NAME, Column::new("Created At", "date", "", "When the object was created.", 0)], |s| {
    vec![s.name(), cell::text(s.metadata(), "creationTimestamp").into()]
});

/// Kinds of which there is no more to say than how old they are.
static NAME_AND_AGE: Columns = Columns::new(&[NAME, AGE], |s| vec![s.name(), s.age()]);

/// The printer of a resource; custom resources without columns of their own are printed like [`PLAIN`], with their age instead of a date.
pub fn columns_for(group: &str, resource: &str) -> &'static Columns {
    match group {
        "" => core::columns(resource),
        "apps" => apps::columns(resource),
        "batch" => batch::columns(resource),
        "autoscaling" => autoscaling::columns(resource),
        "events.k8s.io" if resource == "events" => &event::EVENTS,
        "networking.k8s.io" => networking::columns(resource),
        "discovery.k8s.io" => discovery::columns(resource),
        "storage.k8s.io" => storage::columns(resource),
        "rbac.authorization.k8s.io" => rbac::columns(resource),
        "certificates.k8s.io" => certificates::columns(resource),
        "admissionregistration.k8s.io" => admissionregistration::columns(resource),
        "flowcontrol.apiserver.k8s.io" => flowcontrol::columns(resource),
        "resource.k8s.io" => resource::columns(resource),
        _ => single::columns(group, resource),
    }
}

/// How long ago an instant was, as a column of dates shows it; `None` when it is no instant.
pub fn age_of(text: &str, now: Timestamp) -> Option<String> {
    let then: Timestamp = text.parse().ok()?;
    Some(cell::human(cell::between(then, now)))
}

#[cfg(test)]
mod tests;
