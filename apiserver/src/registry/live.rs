//! [`Reader`] over the watch cache.

use std::{collections::HashSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use coracle_store::{
    Key,
    cache::{Collection, Freshness, Watcher},
};
use futures::stream::{BoxStream, StreamExt};

use super::{
    items::Facts,
    kind::Kind,
    reader::{Change, Reader},
    storage::{Storage, read_error},
};
use crate::wire::Status;

/// Pause before a broken watch of our own cache starts over.
const RETRY: Duration = Duration::from_millis(100);

#[async_trait]
impl Reader for Storage {
    async fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Result<Option<Bytes>, Status> {
        let kind = self.stored_kind(group, resource)?;
        let found = self.cached(&kind, namespace, name, Freshness::Latest).await?;
        Ok(found.map(|cached| cached.wire.clone()))
    }

    async fn list(&self, group: &str, resource: &str, namespace: &str) -> Result<Vec<Bytes>, Status> {
        let kind = self.stored_kind(group, resource)?;
        let snapshot = self.collection(&kind)?.snapshot(Freshness::Latest).await.map_err(read_error)?;
        let prefix = kind.list_prefix(namespace);
        Ok(snapshot.range(&prefix, None).map(|cached| cached.wire.clone()).collect())
    }

    fn follow(&self, group: &str, resource: &str) -> BoxStream<'static, Change> {
        let found = self.stored_kind(group, resource).and_then(|kind| Ok((self.collection(&kind)?, kind)));
        match found {
            Ok((collection, kind)) => follow(collection, kind),
            // A resource nobody serves has no objects and never will.
            Err(_) => futures::stream::pending().boxed(),
        }
    }
}

impl Storage {
    fn stored_kind(&self, group: &str, resource: &str) -> Result<Arc<Kind>, Status> {
        self.catalog().stored(group, resource).cloned().ok_or_else(Status::no_such_path)
    }
}

struct Following {
    collection: Arc<Collection<Facts>>,
    kind: Arc<Kind>,
    /// What the consumer was told is there.
    known: HashSet<Key>,
    watcher: Option<Watcher<Facts>>,
}

fn follow(collection: Arc<Collection<Facts>>, kind: Arc<Kind>) -> BoxStream<'static, Change> {
    let start = Following { collection, kind, known: HashSet::new(), watcher: None };
    let runs = futures::stream::unfold(start, |mut following| async move {
        loop {
            match following.step().await {
                Some(changes) => return Some((futures::stream::iter(changes), following)),
                None => {
                    following.watcher = None;
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    });
    runs.flatten().boxed()
}

impl Following {
    /// The next changes; `None` when the cache lost track and everything must be told again.
    async fn step(&mut self) -> Option<Vec<Change>> {
        let Some(watcher) = &mut self.watcher else {
            let (snapshot, watcher) = self.collection.snapshot_and_watch(Freshness::Latest).await.ok()?;
            let gone: Vec<Key> = self.known.iter().filter(|key| snapshot.get(key.as_str()).is_none()).cloned().collect();
            let mut changes: Vec<Change> = gone.iter().map(|key| self.change(key, None)).collect();
            self.known = snapshot.iter().map(|cached| cached.key.clone()).collect();
            changes.extend(snapshot.iter().map(|cached| self.change(&cached.key, Some(cached.wire.clone()))));
            self.watcher = Some(watcher);
            return Some(changes);
        };
        let batch = watcher.next_batch().await.ok()?;
        let mut changes = Vec::with_capacity(batch.changes.len());
        for change in batch.changes {
            let object = change.after.as_ref().map(|cached| cached.wire.clone());
            if object.is_some() {
                self.known.insert(change.key.clone());
            } else {
                self.known.remove(&change.key);
            }
            changes.push(self.change(&change.key, object));
        }
        Some(changes)
    }

    fn change(&self, key: &Key, object: Option<Bytes>) -> Change {
        let (namespace, name) = self.kind.split_key(key.as_str());
        Change { namespace: namespace.to_owned(), name: name.to_owned(), object }
    }
}
