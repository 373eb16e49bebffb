//! The store seam: bytes and revisions, no Kubernetes words.
//!
//! Every answer carries the revision at which it was true; every write carries what it expects to find. Implementations:
//! [`embedded`] (SQLite, group commit; also without a file as the memory store) and [`etcd`]. All pass the suite in
//! `contract`, also behind [`faulty`].
//! In front of a store stands the watch [`cache`]: persistent maps and a ring of events, from which all reads are served.

pub mod cache;
#[cfg(test)]
mod contract;
pub mod embedded;
pub mod etcd;
pub mod faulty;
pub mod grpc;
mod past;
pub mod snapshot;
pub mod split;

use std::{borrow::Borrow, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};

/// A point in the store's single, total order of writes. The first write of an empty store gets 1 or more.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Revision(pub u64);

/// A key: `/registry/pods/default/web-0`. Cheap to clone and shared between the index and the cache.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

/// A value together with the revision at which it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At<T> {
    /// What was read.
    pub value: T,
    /// The store's revision when it was true.
    pub revision: Revision,
}

/// One stored object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: Key,
    /// Its bytes, as written.
    pub value: Bytes,
    /// The revision of its last write.
    pub revision: Revision,
    /// The revision that created it.
    pub created: Revision,
}

/// What a writer believes is there. A write without a belief does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Nothing is there.
    Absent,
    /// The object is there and was last written at this revision.
    At(Revision),
}

/// What a writer wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Store these bytes; with `ttl`, delete them when that long has passed.
    Put {
        /// The new bytes.
        value: Bytes,
        /// Time to live from this write on.
        ttl: Option<Duration>,
        /// Whether it must be on disk before it is acknowledged.
        durability: Durability,
    },
    /// Remove the object.
    Delete,
}

/// What a power cut or a crash may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Nothing that was acknowledged.
    #[default]
    Strict,
    /// The write, for a few seconds: it is on disk after the store's interval, or as soon as any strict write that follows it is. For what
    /// is written often and made anew soon: heartbeats, events. A store may treat it as [`Durability::Strict`]. In any case revisions
    /// that were handed out never come again.
    Relaxed,
}

impl Write {
    /// Store these bytes, for good and durably.
    pub fn put(value: impl Into<Bytes>) -> Self {
        Self::Put { value: value.into(), ttl: None, durability: Durability::Strict }
    }

    /// Store these bytes, durably, for so long.
    pub fn put_for(value: impl Into<Bytes>, ttl: Duration) -> Self {
        Self::Put { value: value.into(), ttl: Some(ttl), durability: Durability::Strict }
    }
}

/// A page of a range read: keys after `after`, at most `limit`.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// Start after this key (exclusive); `None`: from the beginning.
    pub after: Option<Key>,
    /// At most this many; `None`: all.
    pub limit: Option<usize>,
}

/// One committed write, as watchers see it, in revision order. What was there before is not in it: whoever needs that (the
/// [`cache`]) has just seen it, and a store would have to keep or re-read every value to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The key that was written.
    pub key: Key,
    /// The write's revision.
    pub revision: Revision,
    /// What is there now; `None` after a delete.
    pub after: Option<Entry>,
}

/// A version of an object that a store still has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// The revision of the write that made it.
    pub revision: Revision,
    /// The revision that created the object; for a deletion, that of what was deleted.
    pub created: Revision,
    /// When it was written, in milliseconds of Unix time, if the store knows.
    pub at: Option<i64>,
    /// Its bytes; `None`: the write was a deletion.
    pub value: Option<Bytes>,
}

/// What a store still has of one key's past.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Past {
    /// Oldest first.
    pub versions: Vec<Version>,
    /// Every version after this revision is among them.
    pub since: Revision,
}

/// How long something took, many times.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Durations {
    /// Upper bounds in seconds, rising, each with how many took at most as long.
    pub bounds: Vec<(f64, u64)>,
    /// The sum of all.
    pub seconds: f64,
    /// How many there were.
    pub count: u64,
}

/// What a store tells of itself, for metrics; what it does not know is empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    /// Bytes of its database, free pages included.
    pub size: Option<u64>,
    /// Bytes of it that are used.
    pub used: Option<u64>,
    /// Bytes of the log that is not yet in the database.
    pub log: Option<u64>,
    /// How long commits took to be on disk.
    pub commits: Option<Durations>,
}

/// The events of a watch. An `Err` ends it.
pub type Events = BoxStream<'static, Result<Event, StoreError>>;

/// What [`Store::follow`] tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The only write of its revision.
    Write(Event),
    /// All writes of one revision, of as many keys: etcd deletes what hangs on a lease at once.
    Writes(Vec<Event>),
    /// At this revision an object was written under one of these keys that cannot be read: what is known of them is old. It is not gone, and
    /// those who keep copies must not take it for gone. Stores that keep values as they are never tell this.
    Unreadable(Vec<Key>, Revision),
    /// Every write up to here was told.
    Reached(Revision),
}

/// The steps of a watch. An `Err` ends it.
pub type Steps = BoxStream<'static, Result<Step, StoreError>>;

/// Why the store did not do as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The write expected an object that is not there.
    #[error("no such key")]
    Absent,
    /// The write expected nothing to be there.
    #[error("the key exists, last written at revision {}", now.0)]
    Exists {
        /// Revision of the object that is there.
        now: Revision,
    },
    /// The object was written since.
    #[error("the key was written since, at revision {}", now.0)]
    Moved {
        /// Revision of the object that is there.
        now: Revision,
    },
    /// The revision asked for is no longer kept.
    #[error("revision is compacted; the oldest kept is {}", oldest.0)]
    Compacted {
        /// The oldest revision that can be asked for.
        oldest: Revision,
    },
    /// The value is larger than the store takes.
    #[error("value of {size} bytes is over the limit of {limit}")]
    TooLarge {
        /// Size of the refused value in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// Not at present: disk full, shutting down, no quorum. Whether a write that ended so was done is not known: read again.
    #[error("store unavailable: {0}")]
    Unavailable(String),
    /// What stands between this store and its values could not write or read one, and says why.
    #[error("{0}")]
    Value(String),
    /// Stored data does not read back as it was written.
    #[error("store corrupt: {0}")]
    Corrupt(String),
}

/// Who is told of the pieces of a [`Store::scan`].
pub type Each = Arc<dyn Fn(&[Entry]) + Send + Sync>;

/// Objects read at a time by stores that can count no other way.
const COUNTED_AT_ONCE: usize = 500;

/// The seam. Acknowledged means durable, for the stores that have a disk and writes that ask for no less ([`Durability`]).
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The latest revision; linearizable.
    async fn revision(&self) -> Result<Revision, StoreError>;
    /// The same where it is known without asking anybody (one writer in this process), `None` elsewhere. Makes the freshness check
    /// of a read one atomic load.
    fn latest(&self) -> Option<Revision> {
        None
    }
    /// One object.
    async fn get(&self, key: &Key) -> Result<At<Option<Entry>>, StoreError>;
    /// All objects whose key starts with `prefix`, in key order.
    async fn range(&self, prefix: &str, page: Page) -> Result<At<Vec<Entry>>, StoreError>;
    /// The same in pieces, for readers that keep something else than the entries: all as of the revision that is returned, in no particular
    /// order, perhaps several at a time. `Compacted` when one of them is gone before it was read: begin anew.
    async fn scan(&self, prefix: &str, each: Each) -> Result<Revision, StoreError> {
        let At { value, revision } = self.range(prefix, Page::default()).await?;
        each(&value);
        Ok(revision)
    }
    /// One compare-and-swap; returns the write's revision. `Expect::At` + `Write::Delete` deletes. `Expect::Absent` + `Write::Delete` has
    /// nothing to do and always fails, with `Exists` or `Absent`. After `Unavailable` the write may or may not have happened: read again.
    async fn commit(&self, key: &Key, expect: Expect, write: Write) -> Result<Revision, StoreError>;
    /// All events after `from` whose key starts with `prefix`, without a gap, in order. An error (`Compacted` when `from` is older
    /// than what is kept) is the last item.
    fn watch(&self, prefix: &str, from: Revision) -> Events;
    /// As [`Store::watch`], in steps: what is written at one revision comes together, and between writes it is told how far they are.
    fn follow(&self, prefix: &str, from: Revision) -> Steps {
        self.watch(prefix, from).map(|event| event.map(Step::Write)).boxed()
    }
    /// Somebody waits until the steps of [`Store::follow`] reach this revision. A store that does not tell every write at once hurries.
    fn expedite(&self, _to: Revision) {}
    /// The bytes under which a value is kept, for who binds one to its place: the key as whoever keeps it knows it.
    fn bound_to(&self, key: &Key) -> Vec<u8> {
        key.as_str().as_bytes().to_vec()
    }
    /// How many objects there are whose key starts with `prefix`.
    async fn count(&self, prefix: &str) -> Result<usize, StoreError> {
        let (mut count, mut after) = (0, None);
        loop {
            let page = self.range(prefix, Page { after, limit: Some(COUNTED_AT_ONCE) }).await?.value;
            count += page.len();
            match page.last() {
                Some(last) if page.len() == COUNTED_AT_ONCE => after = Some(last.key.clone()),
                _ => return Ok(count),
            }
        }
    }
    /// What is still there of a key's past: the versions since the last compaction, and the one that was there then.
    async fn past(&self, key: &Key) -> Result<Past, StoreError> {
        past::told(self, key).await
    }
    /// Bytes it takes on disk, where that can be told.
    fn size(&self) -> Option<u64> {
        None
    }
    /// What there is to be told of it. Takes a moment: reads the database.
    async fn stats(&self) -> Stats {
        Stats { size: self.size(), ..Stats::default() }
    }
    /// Why it does not take all writes at present though it answers, and what is to be done about it.
    fn alarm(&self) -> Option<String> {
        None
    }
    /// Forget versions superseded at or before `to` (at most the latest revision); a watch can then start at `to` or later.
    async fn compact(&self, to: Revision) -> Result<(), StoreError>;
}

impl Key {
    /// The key's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Keys order and hash as their text does, so maps of keys can be asked with a `&str`.
impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl From<String> for Key {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<&str> for Key {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
