//! The watch cache: every read of the API server is served from here.
//!
//! In front of any [`Store`]: one event stream of the store feeds all [`Collection`]s in revision order. A collection is a prefix of
//! keys (`/registry/pods/`), kept as a persistent map of [`Cached`] objects, so that a [`Snapshot`] is a clone of its root, plus a
//! ring of recent [`Change`]s that every [`Watcher`] reads with its own cursor and from which recent states are rebuilt. Of what was overtaken
//! the ring soon holds only what differs from what came next.
//! What an object means is supplied from outside: [`Decode`] turns stored bytes into the bytes that go on the wire and the facts `F`
//! that filters need.
//!
//! Consistency: a collection has seen every event up to [`Collection::seen`]; a read waits until that is fresh enough ([`Freshness`])
//! or fails. When the store's stream breaks, collections are emptied and reloaded, reads wait, and watchers are told `Expired`:
//! nothing stale is served.

mod collection;
mod delta;
mod feed;
mod forms;
mod history;
mod ring;
mod snapshot;
mod version;
mod wakes;
mod watcher;

#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use self::history::History;
pub use self::{
    collection::Collection,
    forms::Forms,
    snapshot::Snapshot,
    version::Cached,
    wakes::Interest,
    watcher::{Batch, Watcher},
};
use crate::{At, Entry, Key, Revision, Store};

/// What the cache makes of stored bytes; supplied by whoever knows what they mean. Called once per write, on the cache's feeding
/// task: must not block. Must make something of any bytes: an object that cannot be understood is still listed and deletable.
pub trait Decode<F>: Send + Sync + 'static {
    /// The bytes to send and the facts to filter by, from the bytes stored at `revision`.
    fn decode(&self, key: &Key, stored: &Bytes, revision: Revision) -> Decoded<F>;

    /// The last state of an object with `revision`, the revision at which it went away (was deleted, or left a selector).
    fn departed(&self, last: &Cached<F>, revision: Revision) -> Bytes;

    /// A word by which many watch few objects each, as kubelets do by the node of a pod ([`Interest::Word`]); empty: none.
    fn word<'c>(&self, _object: &'c Cached<F>) -> &'c str {
        ""
    }
}

/// What [`Decode::decode`] answers.
pub struct Decoded<F> {
    /// Exactly what goes on the wire, resource version included.
    pub wire: Bytes,
    /// What filters need to know.
    pub facts: F,
}

/// Encodings kept beside an object.
pub const OBJECT_FORMS: usize = 4;
/// Encodings kept beside a change: more, because there is one for each event type.
pub const EVENT_FORMS: usize = 12;

/// One change of one object, as every watcher of the collection sees it.
pub struct Change<F> {
    /// The revision of the write.
    pub revision: Revision,
    /// The key that was written.
    pub key: Key,
    /// What was there; `None`: it was created.
    pub before: Option<Arc<Cached<F>>>,
    /// What is there now; `None`: it was deleted. `before` and `after` are never both `None`.
    pub after: Option<Arc<Cached<F>>>,
    /// Encoded events (one slot for each encoding and event type), made once however many watch, kept until those who keep up were told.
    pub frames: Forms<EVENT_FORMS>,
    departed: std::sync::OnceLock<Bytes>,
    decode: Arc<dyn Decode<F>>,
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Linearizable: everything that was acknowledged before the read began.
    Latest,
    /// At this revision or later; waits a little for it ([`Limits::wait`]), then [`Error::TooNew`].
    NotOlderThan(Revision),
    /// The state at exactly this revision, while the ring and [`Limits::history`] reach back that far, else [`Error::Expired`].
    Exact(Revision),
    /// Whatever is there.
    Any,
}

/// Why the cache did not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The revision asked for has not been reached within the wait.
    #[error("revision {asked} has not been reached, the latest is {current}")]
    TooNew {
        /// What was asked for.
        asked: Revision,
        /// What the cache has seen.
        current: Revision,
    },
    /// The revision asked for is older than what is kept: list again.
    #[error("revision is no longer kept; the oldest is {oldest}")]
    Expired {
        /// The oldest revision that can be asked for.
        oldest: Revision,
    },
    /// The collection was removed, or is read again, because somebody said so: a watcher has missed nothing and there is nothing to say.
    #[error("the collection was given up")]
    Ended,
    /// The cache cannot be fresh: the store does not answer, or the cache is loading.
    #[error("watch cache unavailable: {0}")]
    Unavailable(String),
}

/// Bounds of the cache.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Changes a collection's ring keeps at most.
    pub events: usize,
    /// Bytes of superseded objects a ring keeps alive at most (about).
    pub bytes: usize,
    /// Changes older than this are dropped, so that an idle cache holds little more than the objects.
    pub age: Duration,
    /// States overtaken longer ago than this are not rebuilt, even where nothing changed since (upstream compacts as often).
    pub history: Duration,
    /// How long [`Freshness::NotOlderThan`] waits (three seconds upstream, too), and the latest state of one object before the store is asked
    /// for it.
    pub wait: Duration,
    /// How long the other reads wait for the store and for loading.
    pub patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            events: 65_536,
            bytes: 32 << 20,
            age: Duration::from_secs(90),
            history: Duration::from_secs(300),
            wait: Duration::from_secs(3),
            patience: Duration::from_secs(10),
        }
    }
}

/// The watch cache of one store. Dropping it ends its feeding task and expires all watchers.
pub struct Cache<F> {
    shared: Arc<Shared<F>>,
    stop: CancellationToken,
    _guard: DropGuard,
}

/// What a collection needs of its cache.
pub(crate) struct Core<F> {
    store: Arc<dyn Store>,
    decode: Arc<dyn Decode<F>>,
    limits: Limits,
    history: Mutex<History>,
    /// Every loaded collection has seen all events up to here. Also signalled, unchanged, when a collection was loaded.
    progress: watch::Sender<Revision>,
}

/// What the cache shares with its feeding task.
pub(crate) struct Shared<F> {
    core: Arc<Core<F>>,
    collections: RwLock<HashMap<Arc<str>, Arc<Collection<F>>>>,
    /// A collection was added and wants loading.
    wanted: Notify,
}

impl<F: Send + Sync + 'static> Cache<F> {
    /// Starts feeding from `store`. Must be called within a tokio runtime.
    pub fn start(store: Arc<dyn Store>, decode: Arc<dyn Decode<F>>) -> Self {
        Self::start_with(store, decode, Limits::default())
    }

    /// As [`Cache::start`], with other bounds.
    pub fn start_with(store: Arc<dyn Store>, decode: Arc<dyn Decode<F>>, limits: Limits) -> Self {
        let (progress, _) = watch::channel(Revision(0));
        let core = Arc::new(Core { store, decode, limits, history: Mutex::new(History::new(limits.history)), progress });
        let shared = Arc::new(Shared { core, collections: RwLock::default(), wanted: Notify::new() });
        let stop = CancellationToken::new();
        tokio::spawn(feed::run(shared.clone(), stop.clone()));
        Self { shared, _guard: stop.clone().drop_guard(), stop }
    }

    /// Ends the feeding: to be called before the store is closed. Reads that want the latest state wait in vain afterwards.
    pub fn close(&self) {
        self.stop.cancel();
    }

    /// The collection of all keys under `prefix` (a trailing `/` is added when missing); made, and loaded in the background, when it is
    /// not there yet. Reads of it wait until it is loaded.
    pub fn collection(&self, prefix: &str) -> Arc<Collection<F>> {
        let prefix = if prefix.ends_with('/') { prefix.to_owned() } else { format!("{prefix}/") };
        if let Some(found) = self.shared.collections.read().get(prefix.as_str()) {
            return found.clone();
        }
        let prefix: Arc<str> = prefix.into();
        let mut collections = self.shared.collections.write();
        let collection =
            collections.entry(prefix.clone()).or_insert_with(|| Arc::new(Collection::new(prefix, self.shared.core.clone()))).clone();
        drop(collections);
        self.shared.wanted.notify_one();
        collection
    }

    /// The collection of `prefix` if somebody asked for it before; makes none.
    pub fn known(&self, prefix: &str) -> Option<Arc<Collection<F>>> {
        self.shared.collections.read().get(prefix).cloned()
    }

    /// Loads the collection of `prefix` again: its watchers end, reads wait.
    pub fn reload(&self, prefix: &str) {
        if let Some(collection) = self.shared.collections.read().get(prefix) {
            collection.renew();
            self.shared.wanted.notify_one();
        }
    }

    /// Forgets the collection of `prefix`: its watchers end, reads through handles that are still held fail.
    pub fn remove(&self, prefix: &str) {
        let removed = self.shared.collections.write().remove(prefix);
        if let Some(collection) = removed {
            collection.close();
            self.shared.core.progress.send_modify(|_| {});
        }
    }

    /// Gives up the encodings of objects that nobody asked for since this was last called.
    pub fn age_forms(&self) {
        let collections: Vec<_> = self.shared.collections.read().values().cloned().collect();
        let snapshots = collections.iter().filter_map(|collection| collection.current());
        snapshots.for_each(|snapshot| snapshot.iter().for_each(|cached| cached.forms.age()));
    }

    /// The revision up to which every loaded collection has seen all events.
    pub fn seen(&self) -> Revision {
        self.shared.core.seen()
    }
}

impl<F: 'static> Core<F> {
    pub(crate) fn seen(&self) -> Revision {
        *self.progress.borrow()
    }

    /// The revision of the store's last write.
    async fn latest(&self) -> Result<Revision, Error> {
        match self.store.latest() {
            Some(latest) => Ok(latest),
            None => self.store.revision().await.map_err(|err| Error::Unavailable(err.to_string())),
        }
    }

    fn cached(&self, entry: &Entry) -> Arc<Cached<F>> {
        Arc::new(Cached::new(entry, self.decode.decode(&entry.key, &entry.value, entry.revision)))
    }
}

impl<F: 'static> Change<F> {
    /// The state before, carrying this change's revision: the object of a DELETED event, both when the object was deleted and when
    /// it left a watcher's selector. `None` for a creation. Made once, on first demand.
    pub fn departed(&self) -> Option<Bytes> {
        let before = self.before.as_ref()?;
        Some(self.departed.get_or_init(|| self.decode.departed(before, self.revision)).clone())
    }
}

impl<F> At<Option<Arc<Cached<F>>>> {
    /// The object's wire bytes, if it is there.
    pub fn wire(&self) -> Option<Bytes> {
        self.value.as_ref().map(|cached| cached.wire())
    }
}
