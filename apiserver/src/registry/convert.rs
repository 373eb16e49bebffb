//! Versions of kinds that are stored in another: renaming of built-in ones, in place, in both directions, and what custom resources
//! convert by.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use coracle_schema::decode;
use serde_json::{Map, Value, json};

use super::{kind::Kind, object::Object};
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

    /// Whether this version is the one that is stored.
    fn is_stored(&self) -> bool;

    /// Whether nobody outside has to be asked, so that facts of the stored form hold for every version.
    fn is_local(&self) -> bool;
}

static EVENTS: Renaming = Renaming { stored: "v1", to_stored: event_to_core, from_stored: event_from_core };
static AUTOSCALERS: Renaming = Renaming { stored: "autoscaling/v2", to_stored: autoscaler_to_v2, from_stored: autoscaler_from_v2 };

/// The conversion of a built-in resource that is stored in another version than its own.
pub fn for_kind(group: &str, version: &str, resource: &str) -> Option<Conversion> {
    match (group, version, resource) {
        ("events.k8s.io", "v1", "events") => Some(Conversion::Renaming(&EVENTS)),
        ("autoscaling", "v1", "horizontalpodautoscalers") => Some(Conversion::Renaming(&AUTOSCALERS)),
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
    let mut value = object.value().clone();
    if let Some(Conversion::Renaming(ours)) = &from.conversion {
        (ours.to_stored)(&mut value);
    }
    if let Some(Conversion::Renaming(theirs)) = &to.conversion {
        (theirs.from_stored)(&mut value);
    }
    let decoded = decode::from_value(value, &to.schema, decode::FieldValidation::Ignore);
    let mut value = decoded.map_err(|error| Status::internal(error.to_string()))?.value;
    (value["apiVersion"], value["kind"]) = (to.api_version().into(), (*to.gvk.kind).into());
    Object::new(value).ok_or_else(not_an_object)
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
    event.insert("apiVersion".into(), "v1".into());
    for (new, core) in EVENT_FIELDS {
        rename(event, new, core);
    }
}

fn event_from_core(event: &mut Value) {
    let Some(event) = event.as_object_mut() else { return };
    event.insert("apiVersion".into(), "events.k8s.io/v1".into());
    for (new, core) in EVENT_FIELDS {
        rename(event, core, new);
    }
}

fn rename(map: &mut Map<String, Value>, from: &str, to: &str) {
    if let Some(value) = map.remove(from) {
        map.insert(to.to_owned(), value);
    }
}

/// Where `autoscaling/v1` keeps what it has no field for.
const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

fn autoscaler_to_v2(object: &mut Value) {
    object["apiVersion"] = "autoscaling/v2".into();
    let mut metrics = take_annotation(object, METRICS).and_then(|v| v.as_array().cloned()).unwrap_or_default();
    let target = object.get_mut("spec").and_then(Value::as_object_mut).and_then(|s| s.remove("targetCPUUtilizationPercentage"));
    if let Some(target) = target {
        let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": target}}});
        metrics.insert(0, cpu);
    }
    set_member(object, "spec", "metrics", (!metrics.is_empty()).then(|| metrics.into()));
    let behavior = take_annotation(object, BEHAVIOR);
    set_member(object, "spec", "behavior", behavior);
    let conditions = take_annotation(object, CONDITIONS);
    set_member(object, "status", "conditions", conditions);
    let mut current = take_annotation(object, CURRENT_METRICS).and_then(|v| v.as_array().cloned()).unwrap_or_default();
    let cpu = object.get_mut("status").and_then(Value::as_object_mut).and_then(|s| s.remove("currentCPUUtilizationPercentage"));
    if let Some(cpu) = cpu {
        current.insert(0, json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": cpu}}}));
    }
    set_member(object, "status", "currentMetrics", (!current.is_empty()).then(|| current.into()));
}

fn autoscaler_from_v2(object: &mut Value) {
    object["apiVersion"] = "autoscaling/v1".into();
    let (target, rest) = split_cpu(take_member(object, "spec", "metrics"), "/resource/target/averageUtilization");
    set_member(object, "spec", "targetCPUUtilizationPercentage", target);
    annotate(object, METRICS, rest);
    let behavior = take_member(object, "spec", "behavior");
    annotate(object, BEHAVIOR, behavior);
    let (current, rest) = split_cpu(take_member(object, "status", "currentMetrics"), "/resource/current/averageUtilization");
    set_member(object, "status", "currentCPUUtilizationPercentage", current);
    annotate(object, CURRENT_METRICS, rest);
    let conditions = take_member(object, "status", "conditions");
    annotate(object, CONDITIONS, conditions);
}

/// The utilization of the cpu metric, and the other metrics if there are any.
fn split_cpu(metrics: Option<Value>, pointer: &str) -> (Option<Value>, Option<Value>) {
    let Some(Value::Array(mut metrics)) = metrics else { return (None, None) };
    let is_cpu = |m: &Value| m.pointer("/resource/name").is_some_and(|n| n == "cpu") && m.pointer(pointer).is_some();
    let cpu = metrics.iter().position(is_cpu).map(|at| metrics.remove(at));
    let value = cpu.and_then(|m| m.pointer(pointer).cloned());
    (value, (!metrics.is_empty()).then_some(Value::Array(metrics)))
}

fn take_member(object: &mut Value, of: &str, name: &str) -> Option<Value> {
    object.get_mut(of)?.as_object_mut()?.remove(name)
}

fn set_member(object: &mut Value, of: &str, name: &str, value: Option<Value>) {
    let Some(value) = value else { return };
    if !object[of].is_object() {
        object[of] = json!({});
    }
    object[of][name] = value;
}

fn take_annotation(object: &mut Value, key: &str) -> Option<Value> {
    let annotations = object.pointer_mut("/metadata/annotations")?.as_object_mut()?;
    let text = annotations.remove(key)?;
    if annotations.is_empty() {
        object.get_mut("metadata")?.as_object_mut()?.remove("annotations");
    }
    serde_json::from_str(text.as_str()?).ok()
}

fn annotate(object: &mut Value, key: &str, value: Option<Value>) {
    let Some(value) = value else { return };
    if !object["metadata"]["annotations"].is_object() {
        object["metadata"]["annotations"] = json!({});
    }
    object["metadata"]["annotations"][key] = value.to_string().into();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_autoscaler_survives_the_way_to_v2_and_back() {
        let v1 = json!({
            "apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a"},
            "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 50}, "status": {"currentCPUUtilizationPercentage": 7},
        });
        let mut object = v1.clone();
        autoscaler_to_v2(&mut object);
        assert_eq!(object.pointer("/spec/metrics/0/resource/target/averageUtilization"), Some(&json!(50)));
        autoscaler_from_v2(&mut object);
        assert_eq!(object, v1);
    }

    #[test]
    fn metrics_that_v1_cannot_say_are_kept_in_annotations() {
        let memory =
            json!({"type": "Resource", "resource": {"name": "memory", "target": {"type": "Utilization", "averageUtilization": 9}}});
        let v2 = json!({"apiVersion": "autoscaling/v2", "metadata": {"name": "a"}, "spec": {"maxReplicas": 3, "metrics": [memory]}});
        let mut object = v2.clone();
        autoscaler_from_v2(&mut object);
        assert!(object.pointer("/metadata/annotations").is_some());
        autoscaler_to_v2(&mut object);
        assert_eq!(object, v2);
    }

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
