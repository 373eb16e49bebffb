//! `storage.k8s.io`

use coracle_tree::Value;

use super::{
    AGE, Columns, NAME, PLAIN,
    cell::{self, items, or, text, there},
};
use crate::wire::table::{Column, Row};

/// Either marks the class of claims that name none.
const DEFAULT_CLASS: [&str; 2] = ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

pub(super) fn columns(resource: &str) -> &'static Columns {
    match resource {
        "storageclasses" => &CLASSES,
        "volumeattributesclasses" => &ATTRIBUTES,
        "volumeattachments" => &ATTACHMENTS,
        "csinodes" => &NODES,
        "csidrivers" => &DRIVERS,
        "csistoragecapacities" => &CAPACITIES,
        _ => &PLAIN,
    }
}

static CLASSES: Columns = Columns {
    columns: &[
        NAME,
        Column::text("Provisioner", "Who makes the volumes."),
        Column::text("ReclaimPolicy", "What becomes of a volume when its claim is gone."),
        Column::text("VolumeBindingMode", "When volumes are made and bound."),
        Column::text("AllowVolumeExpansion", "Whether volumes can grow."),
        AGE,
    ],
    cells: |s| {
        vec![
            s.name(),
            text(s.object, "provisioner").into(),
            or(text(s.object, "reclaimPolicy"), "Delete").into(),
            or(text(s.object, "volumeBindingMode"), "Immediate").into(),
            flag(s.object, "allowVolumeExpansion", false),
            s.age(),
        ]
    },
    conditions: |_| Value::Null,
    arrange: Some(mark_default),
};

/// A truth value, with what counts when absent.
fn flag(value: &Value, name: &str, absent: bool) -> Value {
    value.get(name).and_then(Value::as_bool).unwrap_or(absent).into()
}

/// In lists the class that counts as the default is marked: the youngest one annotated so, of equally old ones the first by name.
fn mark_default(rows: &mut [Row]) {
    let annotated = |row: &&mut Row| {
        let annotations = row.object.pointer("/metadata/annotations");
        DEFAULT_CLASS.iter().any(|key| annotations.and_then(|a| a.get(key)).and_then(Value::as_str) == Some("true"))
    };
    let text_at = |row: &Row, pointer: &str| row.object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let rank = |row: &&mut Row| (text_at(row, "/metadata/creationTimestamp"), std::cmp::Reverse(text_at(row, "/metadata/name")));
    if let Some(default) = rows.iter_mut().filter(annotated).max_by_key(rank) {
        let name = text_at(default, "/metadata/name");
        if let Some(cell) = default.cells.first_mut() {
            *cell = format!("{name} (default)").into();
        }
    }
}

static ATTRIBUTES: Columns = Columns::new(&[NAME, Column::text("DriverName", "Driver that knows the attributes."), AGE], |s| {
    vec![s.name(), text(s.object, "driverName").into(), s.age()]
});

static ATTACHMENTS: Columns = Columns::new(
    &[
        NAME,
        Column::new("Attacher", "string", "name", "Driver that attaches.", 0),
        Column::text("PV", "The volume."),
        Column::text("Node", "The node."),
        Column::boolean("Attached", "Whether it is attached."),
        AGE,
    ],
    |s| {
        let spec = s.spec();
        vec![
            s.name(),
            text(spec, "attacher").into(),
            text(s.at("/spec/source"), "persistentVolumeName").into(),
            text(spec, "nodeName").into(),
            flag(s.status(), "attached", false),
            s.age(),
        ]
    },
);

static NODES: Columns = Columns::new(&[NAME, Column::integer("Drivers", "Number of drivers on the node."), AGE], |s| {
    vec![s.name(), items(s.spec(), "drivers").len().into(), s.age()]
});

static DRIVERS: Columns = Columns::new(
    &[
        NAME,
        Column::boolean("AttachRequired", "Whether volumes must be attached before they are mounted."),
        Column::boolean("PodInfoOnMount", "Whether the driver is told of the pod."),
        Column::boolean("StorageCapacity", "Whether the driver says how much room there is."),
        Column::text("TokenRequests", "Audiences of tokens the driver is given."),
        Column::boolean("RequiresRepublish", "Whether volumes are published again and again."),
        Column::text("Modes", "How long the driver's volumes live."),
        AGE,
    ],
    |s| {
        let spec = s.spec();
        let audiences = items(spec, "tokenRequests").iter().map(|t| text(t, "audience")).collect::<Vec<_>>().join(",");
        let tokens = if there(spec, "tokenRequests").is_some() { audiences } else { "<unset>".to_owned() };
        vec![
            s.name(),
            flag(spec, "attachRequired", true),
            flag(spec, "podInfoOnMount", false),
            flag(spec, "storageCapacity", false),
            tokens.into(),
            flag(spec, "requiresRepublish", false),
            or(&cell::joined(spec, "volumeLifecycleModes"), "<none>").into(),
            s.age(),
        ]
    },
);

static CAPACITIES: Columns = Columns::new(
    &[NAME, Column::text("StorageClassName", "Class the room is for."), Column::text("Capacity", "How much room there is.")],
    |s| {
        let capacity = there(s.object, "capacity").map_or_else(|| "<unset>".to_owned(), cell::scalar);
        vec![s.name(), text(s.object, "storageClassName").into(), capacity.into()]
    },
);
