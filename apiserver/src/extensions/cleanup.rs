//! What happens to the objects of a CRD that is being deleted: they go first (upstream's `controller/finalizer/crd_finalizer.go`).

use std::{sync::Arc, time::Duration};

use coracle_store::cache::Freshness;
use coracle_tree::Value;
use tokio::time::sleep;
use tracing::{debug, warn};

use super::{
    conditions::terminating,
    definition::{CLEANUP, Definition},
};
use crate::{
    registry::{
        Kind, Reader, Writer,
        condition::{self, Condition},
        meta,
        storage::{DEFINITIONS, read_error},
    },
    verbs::{Api, delete},
    wire::Status,
};

/// Pauses between tries when something does not work, doubled each time up to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// Deletes all objects of a CRD, waits until they are gone, and lets the CRD go; its name. Ends when the CRD is no longer waiting for this.
pub(super) async fn run(api: Arc<Api>, reader: Arc<dyn Reader>, writer: Arc<dyn Writer>, name: String) -> String {
    let mut pause = PAUSES.0;
    let cleanup = Cleanup { api, reader, writer, name };
    loop {
        match cleanup.pass().await {
            Ok(true) => return cleanup.name,
            Ok(false) => {}
            Err(status) => {
                warn!(name = cleanup.name, %status, "cannot delete the objects of a CRD yet");
                sleep(pause).await;
                pause = (pause * 2).min(PAUSES.1);
            }
        }
    }
}

struct Cleanup {
    api: Arc<Api>,
    reader: Arc<dyn Reader>,
    writer: Arc<dyn Writer>,
    name: String,
}

impl Cleanup {
    /// One try; whether there is nothing more to do.
    async fn pass(&self) -> Result<bool, Status> {
        let Some((definition, value)) = self.read().await? else { return Ok(true) };
        if !definition.awaits_cleanup() {
            return Ok(true);
        }
        let (group, plural) = (&definition.spec.group, &definition.spec.names.plural);
        let catalog = self.api.storage.catalog();
        if catalog.is_built_in(group, plural) {
            let why = "instances overlap with built-in resources in storage";
            return self.finish(value, &terminating("False", "OverlappingBuiltInResource", why)).await;
        }
        if !definition.is_true("Established") {
            return self.finish(value, &terminating("False", "NeverEstablished", "resource was never established")).await;
        }
        let Some(kind) = catalog.stored(group, plural).cloned() else {
            return Err(Status::unavailable("the kind is not served yet"));
        };
        let begun = terminating("True", "InstanceDeletionInProgress", "CustomResource deletion is in progress");
        if definition.condition("Terminating") != Some(&begun) {
            self.write(value, &begun, false).await?;
            return Ok(false);
        }
        if let Err(status) = self.delete_all(&kind).await {
            let why = format!("could not issue all deletes: {}", status.message);
            self.write(value, &terminating("True", "InstanceDeletionFailed", &why), false).await?;
            return Err(status);
        }
        let Some((_, value)) = self.read().await? else { return Ok(true) };
        self.finish(value, &terminating("False", "InstanceDeletionCompleted", "removed all instances")).await
    }

    /// Deletes every object, without admission, and waits until those with finalizers are gone, too.
    async fn delete_all(&self, kind: &Arc<Kind>) -> Result<(), Status> {
        let collection = self.api.storage.collection(kind)?;
        loop {
            let (snapshot, mut watcher) = collection.snapshot_and_watch(Freshness::Latest).await.map_err(read_error)?;
            self.api.storage.readable(kind)?;
            if snapshot.is_empty() {
                return Ok(());
            }
            for cached in snapshot.iter() {
                let (namespace, name) = kind.split_key(cached.key.as_str());
                delete::discard(&self.api, kind, namespace, name).await?;
            }
            drop(snapshot);
            if self.api.storage.snapshot(kind, Freshness::Latest).await?.is_empty() {
                return Ok(());
            }
            debug!(name = self.name, "waiting for objects to be removed");
            let waited = watcher.next_batch().await;
            waited.map_err(read_error)?;
        }
    }

    async fn read(&self) -> Result<Option<(Definition, Value)>, Status> {
        let Some(bytes) = self.reader.get(DEFINITIONS.0, DEFINITIONS.1, "", &self.name).await? else { return Ok(None) };
        let value = serde_json::from_slice(&bytes).map_err(|e| Status::internal(e.to_string()))?;
        Ok(Definition::read(&bytes).map(|definition| (definition, value)))
    }

    /// Says why it is over and takes the finalizer off.
    async fn finish(&self, value: Value, condition: &Condition) -> Result<bool, Status> {
        self.write(value, condition, true).await
    }

    /// Writes a condition, and takes off the finalizer when all is `over`; whether it was written. A conflict means: look again.
    async fn write(&self, mut value: Value, condition: &Condition, over: bool) -> Result<bool, Status> {
        condition::set(&mut value, condition, &meta::time_text(self.api.now()));
        if over && let Some(list) = value.pointer_mut("/metadata/finalizers").and_then(Value::as_array_mut) {
            list.retain(|finalizer| finalizer != CLEANUP);
        }
        match self.writer.update(DEFINITIONS.1, "status", "", value).await {
            Ok(_) => Ok(true),
            Err(status) if status.is_lost() => Ok(false),
            Err(status) => Err(status),
        }
    }
}
