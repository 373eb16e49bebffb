//! Conditions of objects (`meta/v1` Condition): what is so, why, and since when.

use coracle_tree::{Value, json};
use serde::Deserialize;

/// One of `status.conditions`, without its time.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(crate) struct Condition {
    /// What it is about.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// `True`, `False` or `Unknown`.
    pub(crate) status: String,
    /// A word for programs.
    pub(crate) reason: String,
    /// A sentence for people.
    pub(crate) message: String,
}

/// Sets a condition of an object; its time moves with its status only. `now` is in the form of the API.
pub(crate) fn set(object: &mut Value, condition: &Condition, now: &str) {
    let Some(object) = object.as_object_mut() else { return };
    let status = object.entry("status").or_insert_with(|| json!({}));
    if !status.is_object() {
        *status = json!({});
    }
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    let Some(list) = status["conditions"].as_array_mut() else { return };
    let mut value = json!({
        "type": condition.kind, "status": condition.status, "reason": condition.reason, "message": condition.message, "lastTransitionTime": now,
    });
    match list.iter_mut().find(|old| old["type"] == condition.kind.as_str()) {
        Some(old) => {
            if old["status"] == condition.status.as_str() && old["lastTransitionTime"].is_string() {
                value["lastTransitionTime"] = old["lastTransitionTime"].take();
            }
            *old = value;
        }
        None => list.push(value),
    }
}
