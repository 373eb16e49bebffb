//! Versions of kinds that are stored in another: renaming of built-in ones, in place, in both directions, and what custom resources
//! convert by.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use coracle_schema::{decode, managed};
use coracle_tree::{Map, Value};

use super::{autoscaler, kind::Kind, object::Object, served::Catalog};
use crate::wire::Status;

/// How a kind's objects relate to what is stored.
#[derive(Clone)]
pub enum Conversion {
    /// A built-in version that is always stored in another.
    Renaming(&'static Renaming),
    /// A version of a custom resource: most objects are stored as they are, some in another version.
    Versions(Arc<dyn Converter>),
}

/// Two versions of a built-in kind that differ in names only.
pub struct Renaming {
    /// `apiVersion` of what is stored.
    pub stored: &'static str,
    /// From the kind's version to the stored one, in place.
    pub to_stored: fn(&mut Value),
    /// From the stored version to the kind's, in place.
    pub from_stored: fn(&mut Value),
}

/// Converts between the versions of a custom resource.
#[async_trait]
pub trait Converter: Send + Sync {
    /// Whether wire bytes are in this version already, as they must be sent.
    fn is_current(&self, wire: &[u8]) -> bool;

    /// Wire forms in this version, in order; those that are in it already pass as they are. Somebody outside may have to be asked: takes
    /// a while, and may fail.
    async fn read(&self, wires: Vec<Bytes>) -> Result<Vec<Bytes>, Status>;

    /// An object of this version in the one that is stored.
    async fn write(&self, object: &Object) -> Result<Object, Status>;

    /// What was stored by [`Converter::write`], in this version again.
    async fn read_back(&self, stored: Object) -> Result<Object, Status>;

    /// Whether this version is the one that is stored.
    fn is_stored(&self) -> bool;

    /// Whether nobody outside has to be asked, so that facts of the stored form hold for every version.
    fn is_local(&self) -> bool;

    /// All versions, served or not, as if nobody outside had to be asked.
    fn versions(&self) -> &dyn managed::Versions;

    /// An object of any version in another.
    async fn convert(&self, object: Value, api_version: &str) -> Result<Value, Status>;
}

static EVENTS: Renaming = Renaming { stored: "v1", to_stored: event_to_core, from_stored: event_from_core };
static AUTOSCALERS: Renaming = Renaming { stored: "autoscaling/v2", to_stored: autoscaler::to_v2, from_stored: autoscaler::from_v2 };

/// A version whose objects differ from those of `v1` in nothing but its name.
macro_rules! same {
    ($group:literal, $version:literal) => {
        Renaming {
            stored: concat!($group, "/v1"),
            to_stored: |object| object["apiVersion"] = concat!($group, "/v1").into(),
            from_stored: |object| object["apiVersion"] = concat!($group, "/", $version).into(),
        }
    };
}

static ADMISSION: Renaming = same!("admissionregistration.k8s.io", "v1beta1");
static CERTIFICATES: Renaming = same!("certificates.k8s.io", "v1beta1");
static DEVICES: Renaming = same!("resource.k8s.io", "v1beta2");
static MIGRATIONS: Renaming = same!("storagemigration.k8s.io", "v1beta1");

/// The conversion of a built-in resource that is stored in another version than its own.
pub fn for_kind(group: &str, version: &str, resource: &str) -> Option<Conversion> {
    match (group, version, resource) {
        ("events.k8s.io", "v1", "events") => Some(Conversion::Renaming(&EVENTS)),
        ("autoscaling", "v1", "horizontalpodautoscalers") => Some(Conversion::Renaming(&AUTOSCALERS)),
        ("admissionregistration.k8s.io", "v1beta1", _) => Some(Conversion::Renaming(&ADMISSION)),
        ("certificates.k8s.io", "v1beta1", _) => Some(Conversion::Renaming(&CERTIFICATES)),
        ("resource.k8s.io", "v1beta2", _) => Some(Conversion::Renaming(&DEVICES)),
        ("storagemigration.k8s.io", "v1beta1", _) => Some(Conversion::Renaming(&MIGRATIONS)),
        _ => None,
    }
}

impl Conversion {
    /// Whether the kind's own version is the one stored.
    pub fn is_stored(&self) -> bool {
        match self {
            Self::Renaming(_) => false,
            Self::Versions(versions) => versions.is_stored(),
        }
    }
}

/// An object of one version of a resource in another: admission asks webhooks in the version they name.
pub async fn between(from: &Kind, to: &Kind, object: &Object) -> Result<Object, Status> {
    let not_an_object = || Status::internal("a converted object is not a JSON object");
    if let (Some(Conversion::Versions(ours)), Some(Conversion::Versions(theirs))) = (&from.conversion, &to.conversion) {
        let stored = if ours.is_stored() { object.clone() } else { ours.write(object).await? };
        let mut made = theirs.read(vec![super::storage::rewired(&stored)?]).await?;
        let mut made = super::storage::parse_wire(&made.pop().ok_or_else(not_an_object)?)?;
        if object.resource_version().is_empty() {
            made.metadata_mut().remove("resourceVersion");
        }
        return Ok(made);
    }
    Object::new(renamed(from, to, object.value())?).ok_or_else(not_an_object)
}

/// The versions of a built-in resource that is served in several of its group; of others none.
pub fn siblings(kind: &Kind, catalog: &Catalog) -> Vec<Arc<Kind>> {
    if kind.is_custom() {
        return Vec::new();
    }
    let all = || catalog.kinds_of(&kind.id.resource).iter().filter(|other| other.id == kind.id);
    if all().nth(1).is_some() { all().cloned().collect() } else { Vec::new() }
}

/// An object of one version of a built-in resource in another.
pub fn renamed(from: &Kind, to: &Kind, object: &Value) -> Result<Value, Status> {
    let mut value = object.clone();
    if let Some(Conversion::Renaming(ours)) = &from.conversion {
        (ours.to_stored)(&mut value);
    }
    if let Some(Conversion::Renaming(theirs)) = &to.conversion {
        (theirs.from_stored)(&mut value);
    }
    let decoded = decode::from_value(value, &to.schema, decode::FieldValidation::Ignore);
    let mut value = decoded.map_err(|error| Status::internal(error.to_string()))?.value;
    (value["apiVersion"], value["kind"]) = (to.api_version().into(), (*to.gvk.kind).into());
    Ok(value)
}

/// `events.k8s.io/v1` name and core name of the same field.
const EVENT_FIELDS: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
    ("reportingController", "reportingComponent"),
];

fn event_to_core(event: &mut Value) {
    let Some(event) = event.as_object_mut() else { return };
    event.insert("apiVersion", "v1".into());
    for (new, core) in EVENT_FIELDS {
        rename(event, new, core);
    }
}

fn event_from_core(event: &mut Value) {
    let Some(event) = event.as_object_mut() else { return };
    event.insert("apiVersion", "events.k8s.io/v1".into());
    for (new, core) in EVENT_FIELDS {
        rename(event, core, new);
    }
}

fn rename(map: &mut Map, from: &str, to: &str) {
    if let Some(value) = map.remove(from) {
        map.insert(to, value);
    }
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    #[test]
    fn an_event_of_either_group_is_the_same_event() {
        let new =
            json!({"apiVersion": "events.k8s.io/v1", "note": "n", "regarding": {"name": "x"}, "reportingController": "c", "reason": "r"});
        let mut event = new.clone();
        event_to_core(&mut event);
        assert_eq!(
            event,
            json!({"apiVersion": "v1", "message": "n", "involvedObject": {"name": "x"}, "reportingComponent": "c", "reason": "r"})
        );
        event_from_core(&mut event);
        assert_eq!(event, new);
    }
}
