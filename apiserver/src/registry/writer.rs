//! Writes by the server's own parts (bootstrap, role aggregation, quota), through the whole write path as `system:apiserver`.

use async_trait::async_trait;
use serde_json::Value;

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
}
