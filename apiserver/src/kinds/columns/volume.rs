//! Persistent volumes and their claims.

use coracle_tree::Value;

use super::{
    AGE, Columns, NAME,
    cell::{self, Subject, items, or, text, there},
};
use crate::wire::table::Column;

/// Where the class stood before it was a field.
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

pub(super) static VOLUMES: Columns = Columns::new(
    &[
        NAME,
        Column::text("Capacity", "Size of the volume."),
        Column::text("Access Modes", "How the volume can be mounted."),
        Column::text("Reclaim Policy", "What becomes of the volume when its claim is gone."),
        Column::text("Status", "Whether the volume is available, bound or released."),
        Column::text("Claim", "The claim it is bound to."),
        Column::text("StorageClass", "Its storage class."),
        Column::text("VolumeAttributesClass", "Its class of volume attributes."),
        Column::text("Reason", "Why it is in its state."),
        AGE,
        Column::wide("VolumeMode", "Whether it is a file system or a block device."),
    ],
    |s| {
        let spec = s.spec();
        let claim = there(spec, "claimRef").map(|c| format!("{}/{}", text(c, "namespace"), text(c, "name"))).unwrap_or_default();
        vec![
            s.name(),
            storage(s.at("/spec/capacity/storage")).into(),
            access_modes(spec).into(),
            text(spec, "persistentVolumeReclaimPolicy").into(),
            phase(s).into(),
            claim.into(),
            class(s).into(),
            or(text(spec, "volumeAttributesClassName"), "<unset>").into(),
            text(s.status(), "reason").into(),
            s.age(),
            or(text(spec, "volumeMode"), "<unset>").into(),
        ]
    },
);

pub(super) static CLAIMS: Columns = Columns::new(
    &[
        NAME,
        Column::text("Status", "Whether the claim is pending, bound or lost."),
        Column::text("Volume", "The volume it is bound to."),
        Column::text("Capacity", "Size of the volume."),
        Column::text("Access Modes", "How the volume can be mounted."),
        Column::text("StorageClass", "Its storage class."),
        Column::text("VolumeAttributesClass", "Its class of volume attributes."),
        AGE,
        Column::wide("VolumeMode", "Whether it is a file system or a block device."),
    ],
    |s| {
        let (spec, status) = (s.spec(), s.status());
        let volume = text(spec, "volumeName");
        let (capacity, modes) =
            if volume.is_empty() { Default::default() } else { (storage(s.at("/status/capacity/storage")), access_modes(status)) };
        vec![
            s.name(),
            phase(s).into(),
            volume.into(),
            capacity.into(),
            modes.into(),
            class(s).into(),
            or(text(spec, "volumeAttributesClassName"), "<unset>").into(),
            s.age(),
            or(text(spec, "volumeMode"), "<unset>").into(),
        ]
    },
);

fn phase(s: Subject<'_>) -> &str {
    if s.is_deleting() { "Terminating" } else { text(s.status(), "phase") }
}

fn class(s: Subject<'_>) -> &str {
    s.annotation(CLASS_ANNOTATION).unwrap_or_else(|| text(s.spec(), "storageClassName"))
}

fn storage(quantity: &Value) -> String {
    if quantity.is_null() { "0".to_owned() } else { cell::scalar(quantity) }
}

/// `RWO,RWX`: always in the same order, each once.
fn access_modes(holder: &Value) -> String {
    let all = [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    let has = |mode: &str| items(holder, "accessModes").iter().any(|m| m.as_str() == Some(mode));
    all.iter().filter(|(mode, _)| has(mode)).map(|(_, short)| *short).collect::<Vec<_>>().join(",")
}
