//! What is still there of one object's past: a GET of the object with `?coracleHistory=true`. Being a GET of the object, it is authorized,
//! audited and counted as one, and answered for objects that are gone, too.

use coracle_store::{Past, Version};
use coracle_tree::{Map, Value, json};
use http::StatusCode;
use jiff::Timestamp;
use serde::de::IgnoredAny;

use super::{Api, Call};
use crate::{
    registry::Kind,
    wire::{Answer, Body, Status, answer},
};

/// The parameter that asks for it.
pub const PARAMETER: &str = "coracleHistory";

/// Answers with the versions, oldest first; 404 when nothing of the object is left.
pub async fn history(api: &Api, call: &Call, kind: &Kind) -> Result<Answer, Status> {
    let Past { versions, since } = api.storage.past(kind, call.namespace_of(kind), &call.info.name).await?;
    if versions.is_empty() {
        return Err(Status::not_found(kind.subject(&call.info.name)));
    }
    let items = versions.iter().map(item).collect::<Result<Vec<_>, _>>().map_err(|error| Status::internal(error.to_string()))?;
    let (since, items) = (json!(since.0.to_string()), items.join(","));
    let text = format!("{{\"kind\":\"ObjectHistory\",\"apiVersion\":\"coracle/v1\",\"since\":{since},\"items\":[{items}]}}\n");
    Ok(answer::bytes(StatusCode::OK, "application/json", Body::full(text)))
}

/// One version: what was done, at which revision and when, and the object as it was then.
fn item(version: &Version) -> serde_json::Result<String> {
    let verb = match &version.value {
        None => "delete",
        Some(_) if version.created == version.revision => "create",
        Some(_) => "update",
    };
    let mut members = Map::new();
    members.insert("verb", verb.into());
    members.insert("resourceVersion", version.revision.0.to_string().into());
    if let Some(at) = version.at.and_then(|at| Timestamp::from_millisecond(at).ok()) {
        members.insert("time", format!("{at:.3}").into());
    }
    let mut text = Value::Object(members).to_string();
    if let Some(object) = &version.value {
        // As it is stored, if that can be part of JSON.
        let _: IgnoredAny = serde_json::from_slice(object)?;
        text.truncate(text.len() - 1);
        text.push_str(",\"object\":");
        text.push_str(&String::from_utf8_lossy(object));
        text.push('}');
    }
    Ok(text)
}
