//! A store of which a test sees every write.

use std::sync::Arc;

use async_trait::async_trait;
use coracle_store::{At, Entry, Events, Expect, Key, Page, Revision, Store, StoreError, Write};

/// What a test does about writes.
#[async_trait]
pub(crate) trait Tap: Send + Sync + 'static {
    /// One is about to be passed on.
    fn asked(&self, _: &Key, _: &Write) {}

    /// One is done; its answer waits for this.
    async fn done(&self, _: &Key) {}
}

/// A store with a tap.
pub(crate) struct Tapped<T> {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) tap: T,
}

#[async_trait]
impl<T: Tap> Store for Tapped<T> {
    async fn revision(&self) -> Result<Revision, StoreError> {
        self.store.revision().await
    }
    fn latest(&self) -> Option<Revision> {
        self.store.latest()
    }
    async fn get(&self, key: &Key) -> Result<At<Option<Entry>>, StoreError> {
        self.store.get(key).await
    }
    async fn range(&self, prefix: &str, page: Page) -> Result<At<Vec<Entry>>, StoreError> {
        self.store.range(prefix, page).await
    }
    async fn commit(&self, key: &Key, expect: Expect, write: Write) -> Result<Revision, StoreError> {
        self.tap.asked(key, &write);
        let done = self.store.commit(key, expect, write).await;
        self.tap.done(key).await;
        done
    }
    fn watch(&self, prefix: &str, from: Revision) -> Events {
        self.store.watch(prefix, from)
    }
    async fn compact(&self, to: Revision) -> Result<(), StoreError> {
        self.store.compact(to).await
    }
}
