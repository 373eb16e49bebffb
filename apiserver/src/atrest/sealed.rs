//! The store as everybody above sees it: plaintext. What cannot be read is left out, and remembered with the reason.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use coracle_store::{At, Entry, Event, Events, Expect, Key, Page, Revision, Step, Steps, Store, StoreError, Write};
use futures::StreamExt;
use tracing::warn;

use super::AtRest;

/// A store whose values are encrypted.
pub(crate) struct Sealed(pub(crate) Arc<AtRest>);

/// As upstream says of a value it cannot decrypt (`storage/etcd3/corrupt_obj_deleter.go`).
pub(crate) fn corrupt(key: &str, why: &str) -> String {
    format!(
        "StorageError: corrupt object, Code: 7, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: data from the storage is not transformable revision=0: {why}"
    )
}

impl AtRest {
    /// The entry as it is, or `None` and a note when it cannot be read.
    async fn open_entry(&self, entry: Entry) -> Option<Entry> {
        match self.open_value(&entry.key, &entry.value).await {
            Ok(opened) => {
                // Most of the time there is nothing to take a lock for.
                if !self.unreadable.read().is_empty() {
                    self.unreadable.write().remove(&entry.key);
                }
                Some(Entry { value: Bytes::from(opened.plain), ..entry })
            }
            Err(why) => {
                warn!(key = entry.key.as_str(), error = why, "failed to decrypt data");
                self.unreadable.write().insert(entry.key, why);
                None
            }
        }
    }

    async fn open_event(self: Arc<Self>, event: Event) -> Event {
        let after = match event.after {
            Some(entry) => self.open_entry(entry).await,
            None => {
                if !self.unreadable.read().is_empty() {
                    self.unreadable.write().remove(&event.key);
                }
                None
            }
        };
        Event { after, ..event }
    }

    /// Tries again what could not be read; the prefixes under which something now can.
    pub(crate) async fn retry(&self) -> Vec<String> {
        let faults: Vec<Key> = self.unreadable.read().keys().cloned().collect();
        let mut readable = Vec::new();
        for key in faults {
            let Some(prefix) = self.places.prefix(key.as_str()) else { continue };
            if readable.contains(&prefix) {
                continue;
            }
            let gone = match self.store.get(&key).await {
                Ok(At { value: Some(entry), .. }) => match self.open_value(&key, &entry.value).await {
                    Ok(_) => true,
                    Err(why) => {
                        self.unreadable.write().insert(key.clone(), why);
                        false
                    }
                },
                Ok(At { value: None, .. }) => true,
                Err(_) => false,
            };
            if gone {
                self.unreadable.write().remove(&key);
                readable.push(prefix);
            }
        }
        readable
    }
}

#[async_trait]
impl Store for Sealed {
    async fn revision(&self) -> Result<Revision, StoreError> {
        self.0.store.revision().await
    }

    fn latest(&self) -> Option<Revision> {
        self.0.store.latest()
    }

    async fn get(&self, key: &Key) -> Result<At<Option<Entry>>, StoreError> {
        let At { value, revision } = self.0.store.get(key).await?;
        let Some(entry) = value else { return Ok(At { value: None, revision }) };
        match self.0.open_entry(entry).await {
            Some(entry) => Ok(At { value: Some(entry), revision }),
            None => Err(StoreError::Value(corrupt(key.as_str(), &self.0.fault(key).unwrap_or_default()))),
        }
    }

    async fn range(&self, prefix: &str, page: Page) -> Result<At<Vec<Entry>>, StoreError> {
        let Page { mut after, limit } = page;
        let mut opened = Vec::new();
        loop {
            // What is left out must not make a page look like the last.
            let wanted = limit.map(|limit| limit - opened.len());
            let At { value, revision } = self.0.store.range(prefix, Page { after, limit: wanted }).await?;
            let (count, last) = (value.len(), value.last().map(|entry| entry.key.clone()));
            for entry in value {
                opened.extend(self.0.open_entry(entry).await);
            }
            let full = wanted.is_none_or(|wanted| count < wanted) || limit.is_some_and(|limit| opened.len() >= limit);
            if full {
                return Ok(At { value: opened, revision });
            }
            after = last;
        }
    }

    async fn commit(&self, key: &Key, expect: Expect, write: Write) -> Result<Revision, StoreError> {
        let write = match write {
            Write::Put { value, ttl } => Write::Put { value: self.sealed(key, &value)?, ttl },
            Write::Delete => Write::Delete,
        };
        self.0.store.commit(key, expect, write).await
    }

    fn watch(&self, prefix: &str, from: Revision) -> Events {
        let rest = Arc::clone(&self.0);
        let events = self.0.store.watch(prefix, from).then(move |event| {
            let rest = Arc::clone(&rest);
            async move {
                match event {
                    Ok(event) => Ok(rest.open_event(event).await),
                    Err(error) => Err(error),
                }
            }
        });
        events.boxed()
    }

    fn follow(&self, prefix: &str, from: Revision) -> Steps {
        let rest = Arc::clone(&self.0);
        let steps = self.0.store.follow(prefix, from).then(move |step| {
            let rest = Arc::clone(&rest);
            async move {
                Ok(match step? {
                    Step::Write(event) => Step::Write(rest.open_event(event).await),
                    Step::Writes(events) => {
                        let mut opened = Vec::with_capacity(events.len());
                        for event in events {
                            opened.push(Arc::clone(&rest).open_event(event).await);
                        }
                        Step::Writes(opened)
                    }
                    reached @ Step::Reached(_) => reached,
                })
            }
        });
        steps.boxed()
    }

    fn expedite(&self, to: Revision) {
        self.0.store.expedite(to);
    }

    async fn count(&self, prefix: &str) -> Result<usize, StoreError> {
        self.0.store.count(prefix).await
    }

    fn size(&self) -> Option<u64> {
        self.0.store.size()
    }

    async fn compact(&self, to: Revision) -> Result<(), StoreError> {
        self.0.store.compact(to).await
    }
}

impl Sealed {
    fn sealed(&self, key: &Key, value: &[u8]) -> Result<Bytes, StoreError> {
        let sealed = self.0.seal_value(key, value).map_err(|why| {
            warn!(key = key.as_str(), error = why, "failed to encrypt data");
            StoreError::Value(why)
        })?;
        Ok(Bytes::from(sealed))
    }
}

/// How long an object of a kind that expires is kept when it is written again.
pub(super) fn time_to_live(rest: &AtRest, key: &str) -> Option<Duration> {
    rest.places.place(key)?.ttl
}
