//! Reads of other objects, for admission, authorization and the rules that must look around.

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use serde::de::DeserializeOwned;

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

    /// All objects of a namespace, or of all when `namespace` is empty. Fails when an object of the resource cannot be read: what is not in
    /// the list is not there.
    async fn list(&self, group: &str, resource: &str, namespace: &str) -> Result<Vec<Bytes>, Status>;

    /// The same without those that cannot be read: for whoever does nothing to what is missing, and only allows more for what is there.
    async fn list_readable(&self, group: &str, resource: &str, namespace: &str) -> Result<Vec<Bytes>, Status>;

    /// What is there now, as [`Reader::list_readable`] tells it, and every change after that, as [`Reader::follow`] tells them.
    async fn begin_readable(&self, group: &str, resource: &str) -> Result<(Vec<Bytes>, BoxStream<'static, Change>), Status>;

    /// What is there now, as changes, and then every change, in order. Never ends and never loses one: when it falls behind it starts
    /// over by itself, with deletes for what went away.
    fn follow(&self, group: &str, resource: &str) -> BoxStream<'static, Change>;
}

/// One object, decoded; `None` when it is not there. `namespace` is empty for cluster kinds.
pub(crate) async fn one<T: DeserializeOwned>(
    reader: &dyn Reader,
    group: &str,
    resource: &str,
    namespace: &str,
    name: &str,
) -> Result<Option<T>, Status> {
    let found = reader.get(group, resource, namespace, name).await?;
    found.map(|bytes| serde_json::from_slice(&bytes).map_err(|e| unreadable(resource, name, &e))).transpose()
}

/// All objects of a namespace, or of all when it is empty, decoded.
pub(crate) async fn all<T: DeserializeOwned>(reader: &dyn Reader, group: &str, resource: &str, namespace: &str) -> Result<Vec<T>, Status> {
    read_all(resource, &reader.list(group, resource, namespace).await?)
}

/// Objects as they are listed, as far as somebody looks at them.
pub(crate) fn read_all<T: DeserializeOwned>(resource: &str, found: &[Bytes]) -> Result<Vec<T>, Status> {
    found.iter().map(|bytes| serde_json::from_slice(bytes).map_err(|e| unreadable(resource, "", &e))).collect()
}

fn unreadable(resource: &str, name: &str, error: &serde_json::Error) -> Status {
    Status::internal(format!("{resource} {name:?} cannot be read: {error}"))
}
