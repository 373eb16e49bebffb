//! [`Reader`] over the watch cache.

use std::{collections::HashSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use coracle_store::{
    Key,
    cache::{Collection, Freshness, Snapshot, Watcher},
};
use futures::stream::{BoxStream, StreamExt};

use super::{
    items::Facts,
    kept::Kept,
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
        Ok(found.map(|cached| cached.wire()))
    }

    async fn list(&self, group: &str, resource: &str, namespace: &str) -> Result<Vec<Bytes>, Status> {
        let kind = self.stored_kind(group, resource)?;
        Ok(listed(&kind, &self.snapshot(&kind, Freshness::Latest).await?, namespace))
    }

    async fn list_readable(&self, group: &str, resource: &str, namespace: &str) -> Result<Vec<Bytes>, Status> {
        let kind = self.stored_kind(group, resource)?;
        let snapshot = self.collection(&kind)?.snapshot(Freshness::Latest).await.map_err(read_error)?;
        Ok(listed(&kind, &snapshot, namespace))
    }

    async fn begin_readable(&self, group: &str, resource: &str) -> Result<(Vec<Bytes>, BoxStream<'static, Change>), Status> {
        let kind = self.stored_kind(group, resource)?;
        let collection = self.collection(&kind)?;
        let (snapshot, watcher) = collection.snapshot_and_watch(Freshness::Latest).await.map_err(read_error)?;
        let now = listed(&kind, &snapshot, "");
        let known = snapshot.iter().map(|cached| cached.key.clone()).collect();
        let following = Following { collection, kind, kept: self.kept().clone(), known, watcher: Some(watcher) };
        Ok((now, follow(following)))
    }

    fn follow(&self, group: &str, resource: &str) -> BoxStream<'static, Change> {
        let found = self.stored_kind(group, resource).and_then(|kind| Ok((self.collection(&kind)?, kind)));
        match found {
            Ok((collection, kind)) => {
                follow(Following { collection, kind, kept: self.kept().clone(), known: HashSet::new(), watcher: None })
            }
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

fn listed(kind: &Kind, snapshot: &Snapshot<Facts>, namespace: &str) -> Vec<Bytes> {
    snapshot.range(&kind.list_prefix(namespace), None).map(|cached| cached.wire()).collect()
}

struct Following {
    collection: Arc<Collection<Facts>>,
    kind: Arc<Kind>,
    kept: Kept,
    /// What the consumer was told is there.
    known: HashSet<Key>,
    watcher: Option<Watcher<Facts>>,
}

fn follow(start: Following) -> BoxStream<'static, Change> {
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
            // What can no longer be read is not gone: what was told of it last stands, until it can be read again or goes.
            let missing = std::mem::take(&mut self.known).into_iter().filter(|key| snapshot.get(key.as_str()).is_none());
            let (unreadable, gone): (Vec<Key>, Vec<Key>) = missing.partition(|key| self.kept.fault(key).is_some());
            let mut changes: Vec<Change> = gone.iter().map(|key| self.change(key, None)).collect();
            self.known = snapshot.iter().map(|cached| cached.key.clone()).chain(unreadable).collect();
            changes.extend(snapshot.iter().map(|cached| self.change(&cached.key, Some(cached.wire()))));
            self.watcher = Some(watcher);
            return Some(changes);
        };
        let batch = watcher.next_batch().await.ok()?;
        let mut changes = Vec::with_capacity(batch.changes.len());
        for change in batch.changes {
            let object = change.after.as_ref().map(|cached| cached.wire());
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

#[cfg(test)]
mod tests {
    use coracle_schema::Tables;
    use coracle_store::{Expect, Revision, Store, Write, embedded};
    use tokio::time::timeout;

    use super::*;
    use crate::registry::{
        catalog::{self, Odd},
        values::{Codec, MediaType},
    };

    const MAPS: &str = "configmaps";

    fn house() -> (Arc<dyn Store>, Arc<Storage>) {
        let tables = Arc::new(Tables::load().unwrap());
        let odd = |group: &str, resource: &str| Odd { rules: crate::kinds::rules_for(group, resource), printer: None };
        let catalog = catalog::built_in(&tables, odd);
        let store: Arc<dyn Store> = Arc::new(embedded::Embedded::open(&embedded::Options::memory()).unwrap());
        let values = (Codec::new(tables, &catalog), MediaType::Protobuf);
        (store.clone(), Storage::start_over((store, Vec::new()), None, Some(values), catalog))
    }

    async fn write(store: &dyn Store, name: &str, expect: Expect, value: Bytes) -> Revision {
        store.commit(&Key::from(format!("/registry/configmaps/n/{name}")), expect, Write::put(value)).await.unwrap()
    }

    fn map(name: &str) -> Bytes {
        let object = coracle_tree::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "n"}});
        object.to_string().into()
    }

    const BROKEN: Bytes = Bytes::from_static(b"k8s\0\xff\xff");

    #[tokio::test]
    async fn a_list_that_would_lack_an_object_is_refused() {
        let (store, storage) = house();
        write(&*store, "good", Expect::Absent, map("good")).await;
        let broken = write(&*store, "bad", Expect::Absent, BROKEN).await;
        let refused = storage.list("", MAPS, "").await.unwrap_err();
        assert!(refused.code == 429 && refused.message.contains("/registry/configmaps/n/bad"), "{refused}");
        assert_eq!(storage.list_readable("", MAPS, "").await.unwrap().len(), 1);
        assert_eq!(storage.list("", "secrets", "").await.unwrap().len(), 0, "other kinds are whole");
        write(&*store, "bad", Expect::At(broken), map("bad")).await;
        assert_eq!(storage.list("", MAPS, "").await.unwrap().len(), 2);
    }

    /// Changes up to that of `name`, `true` where something is there.
    async fn until(changes: &mut BoxStream<'static, Change>, name: &str) -> Vec<(String, bool)> {
        let mut told = Vec::new();
        while told.last().is_none_or(|(last, _)| last != name) {
            let change = timeout(Duration::from_secs(20), changes.next()).await.unwrap().unwrap();
            told.push((change.name, change.object.is_some()));
        }
        told
    }

    #[tokio::test]
    async fn an_object_that_can_no_longer_be_read_is_followed_until_it_goes() {
        let (store, storage) = house();
        let first = write(&*store, "a", Expect::Absent, map("a")).await;
        let mut changes = storage.follow("", MAPS);
        assert_eq!(until(&mut changes, "a").await, [("a".to_owned(), true)]);
        let broken = write(&*store, "a", Expect::At(first), BROKEN).await;
        write(&*store, "b", Expect::Absent, map("b")).await;
        assert_eq!(until(&mut changes, "b").await, [("b".to_owned(), true)], "it is not told of as gone");
        store.commit(&"/registry/configmaps/n/a".into(), Expect::At(broken), Write::Delete).await.unwrap();
        let told = until(&mut changes, "a").await;
        assert_eq!(told.last(), Some(&("a".to_owned(), false)), "{told:?}");
    }
}
