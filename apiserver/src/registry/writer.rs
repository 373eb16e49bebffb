//! Writes by the server's own parts (bootstrap, role aggregation, quota), through the whole write path as `system:apiserver`.

use async_trait::async_trait;
use coracle_tree::Value;
use tracing::{debug, warn};

use crate::wire::Status;

/// The write path as a service inside the server. Objects carry `apiVersion` and `kind`.
#[async_trait]
pub trait Writer: Send + Sync + 'static {
    /// POST to a collection; the object as stored. `namespace` is empty for cluster kinds.
    async fn create(&self, resource: &str, namespace: &str, object: Value) -> Result<Value, Status>;

    /// PUT of the object of this name or of its `subresource` (empty: the whole), expecting `metadata.resourceVersion` if it is set.
    async fn update(&self, resource: &str, subresource: &str, namespace: &str, object: Value) -> Result<Value, Status>;

    /// DELETE of this very object: of its uid and resource version, where it has them.
    async fn delete(&self, resource: &str, namespace: &str, object: &Value) -> Result<(), Status>;

    /// The same; that it is gone or changed already is as well.
    async fn clear(&self, resource: &str, namespace: &str, object: &Value) -> Result<(), Status> {
        match self.delete(resource, namespace, object).await {
            Err(status) if !status.is_lost() => Err(status),
            _ => Ok(()),
        }
    }
}

/// Whether a write failed and is to be tried again; the log is told. Of `what` somebody else changed first, the change is on its way to
/// whoever wrote. `what` is in a few words, with its article.
pub(crate) fn failed<T>(what: &str, name: &str, done: Result<T, Status>) -> bool {
    match done {
        Ok(_) => false,
        Err(status) if status.is_lost() => {
            debug!(name, %status, "{what} changed meanwhile");
            false
        }
        Err(status) => {
            warn!(name, %status, "{what} cannot be written");
            true
        }
    }
}
