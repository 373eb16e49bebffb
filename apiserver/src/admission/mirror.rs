//! Keeping what is configured at hand: it is read anew whenever some of it changed, and by whoever changed it here, before the answer.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use coracle_tree::Value;
use futures::{
    StreamExt,
    stream::{BoxStream, SelectAll, select_all},
};
use tracing::warn;

use crate::{authz::mirror, registry::Reader, wire::Status};

/// The group of policies and webhook configurations.
pub(super) const GROUP: &str = "admissionregistration.k8s.io";

/// Pause before what could not be read is read again.
const AGAIN: Duration = Duration::from_secs(1);

/// Tells which of several resources changed.
pub struct Changes(SelectAll<BoxStream<'static, &'static str>>);

impl Changes {
    /// Begins to follow: nothing that changes from now on is missed.
    pub(super) fn begin(reader: &dyn Reader, resources: &[&'static str]) -> Self {
        let followed = resources.iter().copied().map(|resource| mirror::follow(reader, GROUP, resource).map(move |_| resource).boxed());
        Self(select_all(followed))
    }

    /// The resource of the next change. While something could not be read nothing but a pause may be told: it is to be read again.
    pub(super) async fn next(&mut self, behind: bool) -> Option<Option<&'static str>> {
        if !behind {
            return self.0.next().await.map(Some);
        }
        tokio::time::timeout(AGAIN, self.0.next()).await.map_or(Some(None), |changed| changed.map(Some))
    }
}

/// Whether what is in force is not what there is: it could not be read.
#[derive(Default)]
pub(super) struct Behind(AtomicBool);

impl Behind {
    pub(super) fn is_so(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Notes how a reading ended.
    pub(super) fn note(&self, what: &str, read: Result<(), Status>) {
        let was = self.0.swap(read.is_err(), Ordering::Relaxed);
        if let Err(status) = read
            && !was
        {
            warn!(%status, "{what} cannot be read; those known stay in force");
        }
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
