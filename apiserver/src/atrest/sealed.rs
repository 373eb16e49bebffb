//! The store as everybody above sees it: plaintext. What cannot be read is left out, and remembered with the reason.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use coracle_store::{At, Entry, Key, Store, StoreError};
use tracing::warn;

use super::AtRest;
use crate::registry::translated::Translate;

/// As upstream says of a value it cannot decrypt (`storage/etcd3/decoder.go`).
pub(crate) const UNTRANSFORMABLE: &str = "data from the storage is not transformable";

/// As upstream says of a value it can make nothing of (`storage/etcd3/corrupt_obj_deleter.go`); `what` is wrong with it.
pub(crate) fn corrupt(key: &str, what: &str, why: &str) -> String {
    format!("StorageError: corrupt object, Code: 7, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: {what} revision=0: {why}")
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
impl Translate for AtRest {
    fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    async fn open(&self, entry: Entry) -> Option<Entry> {
        self.open_entry(entry).await
    }

    fn close(&self, key: &Key, value: &Bytes) -> Result<Bytes, StoreError> {
        let sealed = self.seal_value(key, value).map_err(|why| {
            warn!(key = key.as_str(), error = why, "failed to encrypt data");
            StoreError::Value(why)
        })?;
        Ok(Bytes::from(sealed))
    }

    fn forget(&self, key: &Key) {
        if !self.unreadable.read().is_empty() {
            self.unreadable.write().remove(key);
        }
    }

    fn unreadable(&self, key: &Key) -> StoreError {
        StoreError::Value(corrupt(key.as_str(), UNTRANSFORMABLE, &self.fault(key).unwrap_or_default()))
    }
}
