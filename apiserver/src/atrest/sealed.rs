//! The store as everybody above sees it: plaintext. What cannot be read is left out, and remembered with the reason.

use std::sync::Arc;

use bytes::Bytes;
use coracle_store::{At, Key, Store, StoreError};
use tracing::warn;

use super::AtRest;
use crate::registry::translated::{Faults, Translate};

impl AtRest {
    /// Tries again what could not be read; the prefixes under which something now can.
    pub(crate) async fn retry(&self) -> Vec<String> {
        let mut readable = Vec::new();
        for key in self.faults.keys() {
            let Some(prefix) = self.places.prefix(key.as_str()) else { continue };
            if readable.contains(&prefix) {
                continue;
            }
            let Ok(At { value, revision }) = self.store.get(&key).await else { continue };
            if let Some(entry) = value
                && let Err(why) = self.open_value(&key, &entry.value).await
            {
                self.faults.note(key, entry.revision, why);
                continue;
            }
            self.faults.forget(&key, revision);
            readable.push(prefix);
        }
        readable
    }
}

impl Translate for AtRest {
    const WRONG: &'static str = "data from the storage is not transformable";
    const DATED: bool = false;

    fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    fn faults(&self) -> &Faults {
        &self.faults
    }

    async fn read(&self, key: &Key, value: &Bytes) -> Result<Bytes, String> {
        Ok(Bytes::from(self.open_value(key, value).await?.plain))
    }

    fn close(&self, key: &Key, value: &Bytes) -> Result<Bytes, StoreError> {
        let sealed = self.seal_value(key, value).map_err(|why| {
            warn!(key = key.as_str(), error = why, "failed to encrypt data");
            StoreError::Value(why)
        })?;
        Ok(Bytes::from(sealed))
    }
}
