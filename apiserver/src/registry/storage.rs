//! Objects of any kind: read from the watch cache, written to the store with an expectation.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use coracle_store::{
    Durability, Expect, Key, Past, Revision, Stats, Store, StoreError, Write,
    cache::{Cached, Collection, Error, Freshness, Snapshot},
    split::Elsewhere,
};
use coracle_tree::{Value, json};
use parking_lot::RwLock;
use tokio::{sync::watch, time::Instant};

use super::{
    convert::{Conversion, Converter},
    items::{self, Facts, Items},
    kept::Kept,
    kind::Kind,
    object::Object,
    places::Caches,
    served::{Catalog, Served},
    translated::Fault,
    values::{Codec, MediaType},
};
use crate::{
    atrest::AtRest,
    metrics::{self, requests::traced},
    wire::Status,
};

/// How often the removal of an object that cannot be read begins anew because somebody else writes it.
const UNREADABLE_RETRIES: usize = 10;

/// All objects, by kind.
pub struct Storage {
    store: Arc<dyn Store>,
    /// What else it rests on.
    places: Vec<Arc<dyn Store>>,
    cache: Caches,
    items: Arc<Items>,
    catalog: RwLock<Arc<Catalog>>,
    kept: Kept,
    /// The last write of a CRD here: whoever serves CRDs has to catch up with it.
    defined: AtomicU64,
    /// How far it is.
    served: watch::Sender<u64>,
    /// The revision of the catalog.
    kinds: watch::Sender<u64>,
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

/// What a writer gets back.
enum Back<'k> {
    /// The bytes it wrote.
    Same(Bytes),
    /// What was stored, converted by this.
    Converted(&'k dyn Converter, Object),
}

impl Back<'_> {
    async fn bytes(self) -> Result<Bytes, Status> {
        match self {
            Self::Same(plain) => Ok(plain),
            Self::Converted(converter, stored) => bytes_of(&converter.read_back(stored).await?),
        }
    }
}

impl Storage {
    /// Starts the cache over a store. Must be called within a tokio runtime.
    pub fn start(store: Arc<dyn Store>, catalog: Catalog) -> Arc<Self> {
        Self::start_over((store, Vec::new()), None, None, catalog)
    }

    /// The same over a store whose values are encrypted, or kept as kube-apiserver keeps them, or both. It comes with the stores of its
    /// prefixes that are elsewhere.
    pub(crate) fn start_over(
        (store, elsewhere): (Arc<dyn Store>, Elsewhere),
        at_rest: Option<Arc<AtRest>>,
        values: Option<(Codec, MediaType)>,
        catalog: Catalog,
    ) -> Arc<Self> {
        let (store, kept) = Kept::over(store, at_rest, values);
        let items = Arc::new(Items::new(&catalog));
        let places = elsewhere.iter().map(|(_, place)| Arc::clone(place)).collect();
        let cache = Caches::start(&store, elsewhere, &items);
        Arc::new(Self {
            store,
            places,
            cache,
            items,
            catalog: RwLock::new(Arc::new(catalog)),
            kept,
            defined: AtomicU64::new(0),
            served: watch::Sender::new(0),
            kinds: watch::Sender::new(0),
        })
    }

    /// Ends the following of the store: the last step before the store is closed.
    pub fn close(&self) {
        self.cache.close();
    }

    /// The store itself, for what is no object of a kind.
    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Whether the store answers, and soon enough for who asks about health (`--etcd-healthcheck-timeout` as it is upstream).
    pub async fn is_alive(&self) -> bool {
        let all = std::iter::once(&self.store).chain(&self.places).map(|store| store.revision());
        tokio::time::timeout(HEALTHY, futures::future::try_join_all(all)).await.is_ok_and(|revisions| revisions.is_ok())
    }

    /// What encrypts the store's values, if something does.
    pub(crate) fn at_rest(&self) -> Option<&Arc<AtRest>> {
        self.kept.at_rest.as_ref()
    }

    /// How values are kept.
    pub(super) fn kept(&self) -> &Kept {
        &self.kept
    }

    /// Reads all objects under a prefix again from the store; watches of them end.
    pub(crate) fn reload(&self, prefix: &str) {
        self.cache.reload(prefix);
    }

    /// Refuses to list and watch a kind of which an object cannot be read: the list would lack it. To be asked when the kind was read, which
    /// is when that is found out.
    pub(crate) fn readable(&self, kind: &Kind) -> Result<(), Status> {
        let Some(prefix) = kind.prefix.as_deref() else { return Ok(()) };
        let faults = self.kept.faults(prefix);
        let Some(first) = faults.first() else { return Ok(()) };
        Err(Status::initializing(kind.subject(""), &first.says(first.key.as_str()), faults.len() - 1))
    }

    /// What is there under a prefix and cannot be read.
    pub(crate) fn faults(&self, prefix: &str) -> Vec<Fault> {
        self.kept.faults(prefix)
    }

    /// Whether an object that does not change is to be written all the same: another key encrypts now, or it is kept in another version or
    /// form than it would be.
    pub(crate) async fn is_stale(&self, kind: &Kind, key: &Key) -> bool {
        if let Some(rest) = &self.kept.at_rest
            && rest.is_stale(key).await
        {
            return true;
        }
        // The version a CRD stores may have changed since.
        let version = kind.custom.as_ref().map(|custom| &*custom.stored);
        match (&self.kept.values, version) {
            (Some(values), version) => values.is_stale(key, version).await,
            (None, Some(version)) => {
                let found = self.store.get(key).await.ok().and_then(|found| found.value);
                found.is_some_and(|entry| !items::is_of_version(&entry.value, version))
            }
            (None, None) => false,
        }
    }

    /// How many objects are stored under a prefix.
    pub async fn count(&self, prefix: &str) -> Result<usize, StoreError> {
        self.store.count(prefix).await
    }

    /// What the store tells of itself.
    pub async fn stats(&self) -> Stats {
        self.store.stats().await
    }

    /// Why the store does not take all writes at present, if so.
    pub fn alarm(&self) -> Option<String> {
        self.store.alarm()
    }

    /// Gives up the encodings of objects that nobody asked for since this was last called.
    pub fn age_forms(&self) {
        self.cache.age_forms();
    }

    /// By how many revisions the cache is behind the store, where that is known without asking anybody.
    pub fn lag(&self) -> Option<u64> {
        self.store.latest().map(|latest| latest.0.saturating_sub(self.cache.main().seen().0))
    }

    /// The cached objects of a kind, if somebody asked for them before.
    pub(crate) fn known(&self, prefix: &str) -> Option<Arc<Collection<Facts>>> {
        self.cache.known(prefix)
    }

    /// The kinds there are now.
    pub fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.catalog.read())
    }

    /// Tells when kinds have come, changed or gone.
    pub fn catalog_changes(&self) -> watch::Receiver<u64> {
        self.kinds.subscribe()
    }

    /// From now on what a CRD serves is this. With `reload`, objects are read again, and watches of them end: they mean something else.
    pub fn serve(&self, served: Served, reload: bool) {
        if let Some(prefix) = served.stored.prefix.clone() {
            self.items.add(&served.stored);
            if reload {
                self.cache.reload(&prefix);
            }
        }
        let mut catalog = self.catalog.write();
        *catalog = Arc::new(catalog.with(served));
        self.kinds.send_replace(catalog.revision());
    }

    /// From now on the resource is not served; watches of its objects end.
    pub fn withdraw(&self, group: &str, resource: &str) {
        let mut catalog = self.catalog.write();
        let Some(served) = catalog.of_crd(group, resource).cloned() else { return };
        *catalog = Arc::new(catalog.without(group, resource));
        self.kinds.send_replace(catalog.revision());
        drop(catalog);
        if let Some(prefix) = &served.stored.prefix {
            self.items.remove(prefix);
            self.cache.remove(prefix);
        }
    }

    /// Every CRD up to this revision is served as it says.
    pub fn note_served(&self, revision: u64) {
        self.served.send_if_modified(|seen| std::mem::replace(seen, revision.max(*seen)) < revision);
    }

    /// Waits, a little, until the CRDs written here so far are served as they say.
    pub async fn catch_up(&self) {
        let written = self.defined.load(Ordering::Acquire);
        let mut served = self.served.subscribe();
        let caught_up = served.wait_for(|seen| *seen >= written);
        // Whoever is slower than this finds the kind a moment later, as with any other server.
        let _ = tokio::time::timeout(CATCH_UP, caught_up).await;
    }

    /// The cached objects of a kind; 404 for kinds that are not stored.
    pub fn collection(&self, kind: &Kind) -> Result<Arc<Collection<Facts>>, Status> {
        let prefix = kind.prefix.as_deref().ok_or_else(Status::no_such_path)?;
        Ok(self.cache.collection(prefix))
    }

    /// All objects of a kind, in memory. Fails when one of them cannot be read: what is missing is not there.
    pub(crate) async fn snapshot(&self, kind: &Kind, freshness: Freshness) -> Result<Snapshot<Facts>, Status> {
        let snapshot = self.collection(kind)?.snapshot(freshness).await.map_err(read_error)?;
        self.readable(kind)?;
        Ok(snapshot)
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
        if found.value.is_none()
            && let Some(fault) = self.kept.fault(&key)
        {
            let key = key.as_str();
            return Err(caused(&fault.says(key.strip_prefix("/registry").unwrap_or(key))));
        }
        Ok(found.value)
    }

    /// One object, parsed, in the kind's version.
    pub async fn read(&self, kind: &Kind, namespace: &str, name: &str, freshness: Freshness) -> Result<Option<Stored>, Status> {
        let Some(cached) = self.cached(kind, namespace, name, freshness).await? else { return Ok(None) };
        let wire = Self::wire_of(kind, &cached.wire()).await?;
        Ok(Some(Stored { object: parse_wire(&wire)?, revision: cached.revision }))
    }

    /// Removes an object that cannot be read, whatever it says; with `dry_run` it is only looked for.
    pub(crate) async fn remove_unreadable(&self, kind: &Kind, namespace: &str, name: &str, dry_run: bool) -> Result<(), Status> {
        let key = kind.key(namespace, name).ok_or_else(Status::no_such_path)?;
        for _ in 0..UNREADABLE_RETRIES {
            match self.store.get(&key).await {
                Ok(found) if found.value.is_none() => return Err(Status::not_found(kind.subject(name))),
                Ok(_) => {
                    let why = "unsafe deletion is not allowed because the object is decodable from storage";
                    let key = key.as_str();
                    let why = format!("StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: {why}");
                    return Err(Status::conflict(kind.subject(name), &why));
                }
                Err(StoreError::Value(_)) => {}
                Err(error) => return Err(store_error(&error)),
            }
            // Gone meanwhile, or mended.
            let Some(Fault { at, .. }) = self.kept.fault(&key) else { continue };
            if dry_run {
                return Ok(());
            }
            match self.store.commit(&key, Expect::At(at), Write::Delete).await {
                Err(StoreError::Moved { .. } | StoreError::Absent) => {}
                done => return done.map(drop).map_err(|error| store_error(&error)),
            }
        }
        Err(Status::conflict(kind.subject(name), "it changes all the time; try again"))
    }

    /// What is still there of an object's past, in the kind's version; values carry their resource version.
    pub async fn past(&self, kind: &Kind, namespace: &str, name: &str) -> Result<Past, Status> {
        let key = kind.key(namespace, name).ok_or_else(Status::no_such_path)?;
        let mut past = self.store.past(&key).await.map_err(|error| store_error(&error))?;
        if let Some(owner) = self.catalog().stored("", "namespaces").filter(|_| kind.is_namespaced())
            && let Some(found) = self.cached(owner, "", namespace, Freshness::Latest).await?
        {
            past = since_made(past, found.created);
        }
        let Past { mut versions, since } = past;
        let stored = versions.iter().filter_map(|version| Some(items::splice(version.value.as_ref()?, version.revision))).collect();
        let mut wires = Self::wires_of(kind, stored).await?.into_iter();
        for version in versions.iter_mut().filter(|version| version.value.is_some()) {
            version.value = wires.next();
        }
        Ok(Past { versions, since })
    }

    /// Writes an object (of the kind's version) under its key. It is gone before the wait for the disk: hundreds of writes may wait at a
    /// time, and each is freed by the thread that made it, which costs half.
    pub async fn put(&self, kind: &Kind, key: &Key, expect: Expect, object: Object, ttl: Option<Duration>) -> Result<Written, WriteError> {
        self.write(kind, key, expect, object, ttl, kind.durability(key)).await
    }

    /// Writes the last state of an object that is removed next; the removal takes it to the disk along, so that both wait for one sync.
    pub async fn put_last(&self, kind: &Kind, key: &Key, at: Revision, object: Object) -> Result<Written, WriteError> {
        self.write(kind, key, Expect::At(at), object, None, Durability::Relaxed).await
    }

    async fn write(
        &self,
        kind: &Kind,
        key: &Key,
        expect: Expect,
        object: Object,
        ttl: Option<Duration>,
        durability: Durability,
    ) -> Result<Written, WriteError> {
        let (stored, back) = Self::encoded(kind, &object).await.map_err(WriteError::Status)?;
        drop(object);
        if expect == Expect::Absent {
            self.begin_history(kind).await;
        }
        let started = Instant::now();
        let committed = self.store.commit(key, expect, Write::Put { value: stored, ttl, durability }).await;
        let took = started.elapsed();
        traced(|trace| trace.note("Store commit", took, committed.is_err(), &[("resource", &kind.id.resource)]));
        metrics::store::asked(if expect == Expect::Absent { "create" } else { "update" }, &kind.id, took, &committed);
        let revision = committed.map_err(WriteError::Store)?;
        if kind.id.is(DEFINITIONS) {
            self.defined.fetch_max(revision.0, Ordering::AcqRel);
        }
        let plain = back.bytes().await.map_err(WriteError::Status)?;
        Ok(Written { wire: items::splice(&plain, revision), revision })
    }

    /// Sees to it that the cache tells changes of this kind from before its first write on, though nobody has read it yet: its writer may watch
    /// from the revision he is given.
    async fn begin_history(&self, kind: &Kind) {
        let Some(prefix) = kind.prefix.as_deref() else { return };
        let collection = self.cache.collection(prefix);
        if collection.counts().0 == 0 {
            // A cache that cannot load is no reason not to write.
            drop(collection.snapshot(Freshness::Any).await);
        }
    }

    /// An object's bytes as a writer gets them back, without a resource version: whatever the stored version has no place for is gone. Dry
    /// runs answer with these (`copyInto` of upstream's `registry/dryrun.go`).
    pub async fn as_written(kind: &Kind, object: &Object) -> Result<Bytes, Status> {
        let (_, back) = Self::encoded(kind, object).await?;
        back.bytes().await
    }

    /// An object's bytes as they are stored, and what its writer is told of them.
    async fn encoded<'k>(kind: &'k Kind, object: &Object) -> Result<(Bytes, Back<'k>), Status> {
        match &kind.conversion {
            Some(Conversion::Renaming(renaming)) => {
                let mut other = object.clone();
                (renaming.to_stored)(other.value_mut());
                Ok((bytes_of(&other)?, Back::Same(bytes_of(object)?)))
            }
            Some(Conversion::Versions(versions)) if !versions.is_stored() => {
                let other = versions.write(object).await?;
                Ok((bytes_of(&other)?, Back::Converted(&**versions, other)))
            }
            _ => {
                let plain = bytes_of(object)?;
                Ok((plain.clone(), Back::Same(plain)))
            }
        }
    }

    /// Removes an object.
    pub async fn delete(&self, kind: &Kind, key: &Key, at: Revision) -> Result<Revision, WriteError> {
        let started = Instant::now();
        let committed = self.store.commit(key, Expect::At(at), Write::Delete).await;
        metrics::store::asked("delete", &kind.id, started.elapsed(), &committed);
        committed.map_err(WriteError::Store)
    }

    /// Whether a client of `kind` sees a cached object's bytes as they are.
    pub fn is_shared(kind: &Kind, cached: &[u8]) -> bool {
        match &kind.conversion {
            None => true,
            Some(Conversion::Renaming(_)) => false,
            Some(Conversion::Versions(versions)) => versions.is_current(cached),
        }
    }

    /// The wire form a client of `kind` sees of a cached object: shared bytes unless it is stored in another version.
    pub async fn wire_of(kind: &Kind, cached: &Bytes) -> Result<Bytes, Status> {
        if Self::is_shared(kind, cached) {
            return Ok(cached.clone());
        }
        let mut made = Self::wires_of(kind, vec![cached.clone()]).await?;
        made.pop().ok_or_else(|| Status::internal("a conversion lost its object"))
    }

    /// The wire forms a client of `kind` sees of cached objects, in order: see [`Storage::wire_of`].
    pub async fn wires_of(kind: &Kind, cached: Vec<Bytes>) -> Result<Vec<Bytes>, Status> {
        match &kind.conversion {
            None => Ok(cached),
            Some(Conversion::Renaming(_)) => cached.iter().map(|wire| rewired(&parse(kind, wire)?)).collect(),
            Some(Conversion::Versions(versions)) if cached.iter().all(|wire| versions.is_current(wire)) => Ok(cached),
            Some(Conversion::Versions(versions)) => versions.read(cached).await,
        }
    }
}

/// A store that takes longer to answer is not well.
const HEALTHY: Duration = Duration::from_secs(2);
/// How long the answer to a write of a CRD waits for its kind to be served.
const CATCH_UP: Duration = Duration::from_secs(2);

/// Group and plural of the resource whose objects define others.
pub const DEFINITIONS: (&str, &str) = ("apiextensions.k8s.io", "customresourcedefinitions");

/// An object's stored form, or why there is none: it is nested too deep.
pub fn bytes_of(object: &Object) -> Result<Bytes, Status> {
    items::stored_bytes(object).map_err(|deep| Status::bad_request(deep.to_string()))
}

/// An object's wire form, with the resource version it carries.
pub fn rewired(object: &Object) -> Result<Bytes, Status> {
    let revision = Revision(object.resource_version().parse().unwrap_or_default());
    Ok(items::splice(&bytes_of(object)?, revision))
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

/// Leaves out what was written before the namespace was made, for it was another's of the same name. Of an object that is there now all may
/// be seen: what was restored or moved may have been written before its namespace.
fn since_made(past: Past, made: Revision) -> Past {
    let Past { mut versions, since } = past;
    let (all, now) = (versions.len(), versions.last().filter(|last| last.value.is_some()).map(|last| last.created));
    versions.retain(|version| version.revision >= made || now == Some(version.created));
    let since = if versions.len() < all { since.max(Revision(made.0.saturating_sub(1))) } else { since };
    Past { versions, since }
}

/// Parses an object's cached form into the version of a built-in kind.
pub fn parse(kind: &Kind, cached: &[u8]) -> Result<Object, Status> {
    let mut object = parse_wire(cached)?;
    if let Some(Conversion::Renaming(renaming)) = &kind.conversion {
        (renaming.from_stored)(object.value_mut());
    }
    Ok(object)
}

/// Parses an object's wire form.
pub fn parse_wire(wire: &[u8]) -> Result<Object, Status> {
    let value: Value = serde_json::from_slice(wire).map_err(|e| Status::internal(format!("stored object cannot be read: {e}")))?;
    Object::new(value).ok_or_else(|| Status::internal("stored object is not a JSON object"))
}

/// A 500 that names its cause twice, as upstream's (`apierrors.NewInternalError`).
fn caused(why: &str) -> Status {
    Status { details: json!({"causes": [{"message": why}]}), ..Status::internal(why) }
}

/// What a failed read tells the client.
pub fn read_error(error: Error) -> Status {
    match error {
        Error::TooNew { asked, current } => {
            let mut status = Status::new(504, "Timeout", format!("Timeout: Too large resource version: {asked}, current: {current}"));
            let cause = json!({"reason": "ResourceVersionTooLarge", "message": "Too large resource version"});
            status.details = json!({"causes": [cause], "retryAfterSeconds": 1});
            status
        }
        Error::Expired { .. } => Status::expired("The resourceVersion for the provided list is too old."),
        Error::Ended => Status::unavailable("the resource is being served anew"),
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
        StoreError::Value(why) => caused(why),
        other => Status::internal(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use coracle_store::Version;

    use super::*;

    #[test]
    fn history_begins_with_the_namespace_but_for_what_is_there_now() {
        let version = |revision: u64, created: u64, is_there: bool| Version {
            revision: Revision(revision),
            created: Revision(created),
            at: None,
            value: is_there.then(|| Bytes::from_static(b"{}")),
        };
        let shown = |versions: &[Version], made: u64| {
            let past = since_made(Past { versions: versions.to_vec(), since: Revision(2) }, Revision(made));
            (past.versions.iter().map(|version| version.revision.0).collect::<Vec<_>>(), past.since.0)
        };
        let again = [version(3, 3, true), version(5, 3, true), version(6, 3, false), version(12, 12, true), version(13, 12, true)];
        assert_eq!(shown(&again, 10), (vec![12, 13], 9));
        assert_eq!(shown(&again, 1), (vec![3, 5, 6, 12, 13], 2));
        assert_eq!(shown(&again[..3], 10), (vec![], 9), "of another's object nothing, not even that it was there");
        assert_eq!(shown(&[version(3, 3, true), version(11, 3, true)], 10), (vec![3, 11], 2));
    }
}
