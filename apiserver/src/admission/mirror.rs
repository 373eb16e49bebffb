//! Keeping what is configured at hand: it is read anew whenever some of it changed, and by whoever changed it here, before the answer.

use futures::{
    StreamExt,
    stream::{BoxStream, SelectAll, select_all},
};
use serde_json::Value;
use tracing::warn;

use crate::{authz::mirror, registry::Reader, wire::Status};

/// The group of policies and webhook configurations.
pub(super) const GROUP: &str = "admissionregistration.k8s.io";

/// Tells which of several resources changed.
pub struct Changes(SelectAll<BoxStream<'static, &'static str>>);

impl Changes {
    /// Begins to follow: nothing that changes from now on is missed.
    pub(super) async fn begin(reader: &dyn Reader, resources: &[&'static str]) -> Result<Self, Status> {
        let mut streams = Vec::with_capacity(resources.len());
        for resource in resources.iter().copied() {
            let (_, changes) = mirror::begin(reader, GROUP, resource).await?;
            streams.push(changes.map(move |_| resource).boxed());
        }
        Ok(Self(select_all(streams)))
    }

    /// The resource of the next change.
    pub(super) async fn next(&mut self) -> Option<&'static str> {
        self.0.next().await
    }
}

/// `metadata.name`
pub(super) fn name(object: &Value) -> &str {
    object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default()
}

/// `metadata.resourceVersion`
pub(super) fn version(object: &Value) -> &str {
    object.pointer("/metadata/resourceVersion").and_then(Value::as_str).unwrap_or_default()
}

/// Logs a failed reading: what was known stays in force.
pub(super) fn told(what: &str, read: Result<(), Status>) {
    if let Err(status) = read {
        warn!(%status, "{what} cannot be read; those known stay in force");
    }
}
