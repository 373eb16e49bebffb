//! Reads of other objects, for admission, authorization and the rules that must look around.

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use crate::wire::Status;

/// A change of one object of a watched resource. JSON with resource version, as served.
#[derive(Clone, Debug)]
pub struct Change {
    /// Namespace, empty for cluster kinds.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// What is there now; `None` after a delete.
    pub object: Option<Bytes>,
}

/// Linearizable reads from the watch cache, by group and plural resource.
#[async_trait]
pub trait Reader: Send + Sync + 'static {
    /// One object's JSON; `namespace` is empty for cluster kinds.
    async fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Result<Option<Bytes>, Status>;

    /// All objects of a namespace, or of all when `namespace` is empty.
    async fn list(&self, group: &str, resource: &str, namespace: &str) -> Result<Vec<Bytes>, Status>;

    /// What is there now, as changes, and then every change, in order. Never ends and never loses one: when it falls behind it starts
    /// over by itself, with deletes for what went away.
    fn follow(&self, group: &str, resource: &str) -> BoxStream<'static, Change>;
}
