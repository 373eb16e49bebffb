//! Objects of any kind: read from the watch cache, written to the store with an expectation.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use coracle_store::{
    Expect, Key, Revision, Store, StoreError, Write,
    cache::{Cache, Cached, Collection, Error, Freshness},
};
use parking_lot::RwLock;
use serde_json::{Value, json};

use super::{
    items::{self, Facts, Items},
    kind::{Catalog, Kind},
    object::Object,
};
use crate::wire::Status;

/// All objects, by kind.
pub struct Storage {
    store: Arc<dyn Store>,
    cache: Cache<Facts>,
    catalog: RwLock<Arc<Catalog>>,
}

/// An object as it is stored now.
#[derive(Clone, Debug)]
pub struct Stored {
    /// In the version of the kind it was read as, resource version included.
    pub object: Object,
    /// The revision of its last write.
    pub revision: Revision,
}

/// The outcome of a write.
#[derive(Clone, Debug)]
pub struct Written {
    /// The object as it goes on the wire, in the kind's version.
    pub wire: Bytes,
    /// The write's revision.
    pub revision: Revision,
}

impl Storage {
    /// Starts the cache over a store. Must be called within a tokio runtime.
    pub fn start(store: Arc<dyn Store>, catalog: Catalog) -> Arc<Self> {
        let cache = Cache::start(Arc::clone(&store), Arc::new(Items::new(&catalog)));
        Arc::new(Self { store, cache, catalog: RwLock::new(Arc::new(catalog)) })
    }

    /// Ends the following of the store: the last step before the store is closed.
    pub fn close(&self) {
        self.cache.close();
    }

    /// Whether the store answers.
    pub async fn is_alive(&self) -> bool {
        self.store.revision().await.is_ok()
    }

    /// The kinds there are now.
    pub fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.catalog.read())
    }

    /// The cached objects of a kind; 404 for kinds that are not stored.
    pub fn collection(&self, kind: &Kind) -> Result<Arc<Collection<Facts>>, Status> {
        let prefix = kind.prefix.as_deref().ok_or_else(Status::no_such_path)?;
        Ok(self.cache.collection(prefix))
    }

    /// One object's cached form.
    pub async fn cached(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        freshness: Freshness,
    ) -> Result<Option<Arc<Cached<Facts>>>, Status> {
        let key = kind.key(namespace, name).ok_or_else(Status::no_such_path)?;
        let found = self.collection(kind)?.get(key.as_str(), freshness).await.map_err(read_error)?;
        Ok(found.value)
    }

    /// One object, parsed, in the kind's version.
    pub async fn read(&self, kind: &Kind, namespace: &str, name: &str, freshness: Freshness) -> Result<Option<Stored>, Status> {
        let Some(cached) = self.cached(kind, namespace, name, freshness).await? else { return Ok(None) };
        Ok(Some(Stored { object: parse(kind, &cached.wire)?, revision: cached.revision }))
    }

    /// Writes an object (of the kind's version) under its key.
    pub async fn put(&self, kind: &Kind, key: &Key, expect: Expect, object: &Object, ttl: Option<Duration>) -> Result<Written, WriteError> {
        let plain = items::stored_bytes(object).map_err(|e| WriteError::Status(Status::internal(e.to_string())))?;
        let stored = match kind.conversion {
            None => plain.clone(),
            Some(conversion) => {
                let mut other = object.clone();
                (conversion.to_stored)(other.value_mut());
                items::stored_bytes(&other).map_err(|e| WriteError::Status(Status::internal(e.to_string())))?
            }
        };
        let revision = self.store.commit(key, expect, Write::Put { value: stored, ttl }).await.map_err(WriteError::Store)?;
        Ok(Written { wire: items::splice(&plain, revision), revision })
    }

    /// Removes an object.
    pub async fn delete(&self, key: &Key, at: Revision) -> Result<Revision, WriteError> {
        self.store.commit(key, Expect::At(at), Write::Delete).await.map_err(WriteError::Store)
    }

    /// The wire form a client of `kind` sees of a cached object: shared bytes unless the kind is stored in another version.
    pub fn wire_of(kind: &Kind, cached: &Bytes) -> Result<Bytes, Status> {
        if kind.conversion.is_none() {
            return Ok(cached.clone());
        }
        let object = parse(kind, cached)?;
        let revision = Revision(object.resource_version().parse().unwrap_or_default());
        let bytes = items::stored_bytes(&object).map_err(|e| Status::internal(e.to_string()))?;
        Ok(items::splice(&bytes, revision))
    }
}

/// Why a write was not done.
#[derive(Debug)]
pub enum WriteError {
    /// The store's word: whoever lost a race decides what that means.
    Store(StoreError),
    /// It could not be written at all.
    Status(Status),
}

impl WriteError {
    /// For writes that nobody retries.
    pub fn into_status(self) -> Status {
        match self {
            Self::Status(status) => status,
            Self::Store(error) => store_error(&error),
        }
    }
}

/// Parses an object's cached form into the kind's version.
pub fn parse(kind: &Kind, cached: &[u8]) -> Result<Object, Status> {
    let mut object = parse_wire(cached)?;
    if let Some(conversion) = kind.conversion {
        (conversion.from_stored)(object.value_mut());
    }
    Ok(object)
}

/// Parses an object's wire form.
pub fn parse_wire(wire: &[u8]) -> Result<Object, Status> {
    let value: Value = serde_json::from_slice(wire).map_err(|e| Status::internal(format!("stored object cannot be read: {e}")))?;
    Object::new(value).ok_or_else(|| Status::internal("stored object is not a JSON object"))
}

/// What a failed read tells the client.
pub fn read_error(error: Error) -> Status {
    match error {
        Error::TooNew { asked, current } => {
            let mut status = Status::new(504, "Timeout", format!("Too large resource version: {asked}, current: {current}"));
            let cause = json!({"reason": "ResourceVersionTooLarge", "message": "Too large resource version"});
            status.details = json!({"causes": [cause], "retryAfterSeconds": 1});
            status
        }
        Error::Expired { .. } => Status::expired("The resourceVersion for the provided list is too old."),
        Error::Unavailable(why) => Status::unavailable(why),
    }
}

/// What a failed write tells the client, when it is not about who was first.
pub fn store_error(error: &StoreError) -> Status {
    match error {
        StoreError::TooLarge { limit, .. } => {
            Status::new(413, "RequestEntityTooLarge", format!("Request entity too large: limit is {limit}"))
        }
        StoreError::Unavailable(why) => {
            Status { log: Some(why.clone()), ..Status::unavailable(format!("the store is unavailable: {why}")) }
        }
        other => Status::internal(other.to_string()),
    }
}
