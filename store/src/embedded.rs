//! The embedded store: SQLite as an append-only log, one writer thread, group commit.
//!
//! Map: `open` (directory, lock, schema, first index), `ends` (the index of a log), `log` (all SQL), `index` (keys in memory), `group` (which
//! writes succeed; pure), `writer` (the thread), `expiry` and `compaction` (what is due when; pure), `room` (disk full), `scan` (all of a
//! kind), `tail` (watches).
//!
//! Invariants: a strict write is answered after its transaction is on disk (`synchronous=FULL`), and everything before it is then, too; the
//! index holds committed writes only; events are published in revision order before the write is answered. Relaxed writes wait in memory
//! for the next transaction, at most for the interval; their revisions are reserved on disk beforehand, and what was reserved is passed
//! over when a store is opened that was not closed. After an error of the disk, in a commit or when the write-ahead log is moved into the
//! database, nothing is written any more and the log stays: only opening it anew tells what is there. Without a path it is the memory store: same engine, no file, no sync.

mod check;
mod compaction;
mod dump;
mod ends;
mod expiry;
mod group;
mod index;
mod log;
mod meters;
mod open;
mod past;
mod room;
mod scan;
mod tail;
mod writer;

#[cfg(test)]
mod tests;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use futures::future;
use parking_lot::{Mutex, RwLock};
use rusqlite::Connection;
use tokio::sync::{Semaphore, broadcast, oneshot, watch};

pub use self::{
    check::Checked,
    dump::{Dump, Restore},
    open::OpenError,
};
use self::{
    index::{Index, Slot},
    meters::Meters,
    open::Opened,
    scan::Scan,
    writer::Ask,
};
use crate::{At, Each, Entry, Event, Events, Expect, Key, Page, Past, Revision, Stats, Store, StoreError, Write};

/// Writes that may wait for the writer at a time; more wait to be queued.
const QUEUE: usize = 1024;
/// Groups of events kept for watches that are slower than the writer; slower ones read the log.
const GROUPS: usize = 64;
/// How often a range is read again when compaction removed a row under it.
const ATTEMPTS: usize = 8;

/// How to open the store.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory of the database, made when missing; `None`: in memory.
    pub path: Option<PathBuf>,
    /// The store in memory begins as a copy of the one in this directory, whether or not a server has that open.
    pub copy_of: Option<PathBuf>,
    /// The largest value taken, in bytes. 3 MiB, as the largest request upstream takes.
    pub value_limit: usize,
    /// How long superseded versions are kept for watches. Five minutes, as upstream's etcd compaction.
    pub keep: Duration,
    /// They are kept this long, and what was deleted is, as long as no more than `history_bytes` were written since.
    pub history: Duration,
    /// See `history`.
    pub history_bytes: u64,
    /// How often versions that are old enough are looked for.
    pub compact_every: Duration,
    /// Bytes on disk set aside, given up when the disk is full so that there is room to delete and compact. 0: none.
    pub ballast: u64,
    /// The database file never grows beyond this many bytes; at the limit the store behaves as on a full disk.
    pub size_limit: Option<u64>,
    /// Relaxed writes wait so long at most until they are written to disk, many at once. Zero: they are as strict as the others.
    pub relaxed_interval: Duration,
    /// The wall clock, for times to live.
    pub clock: fn() -> SystemTime,
}

impl Options {
    /// A store in memory, gone when closed.
    pub fn memory() -> Self {
        Self {
            path: None,
            copy_of: None,
            value_limit: 3 << 20,
            keep: Duration::from_secs(300),
            history: Duration::ZERO,
            history_bytes: 0,
            compact_every: Duration::from_secs(60),
            ballast: 8 << 20,
            size_limit: None,
            relaxed_interval: Duration::from_secs(5),
            clock: SystemTime::now,
        }
    }

    /// A store in memory that begins with what the store in the directory `path` holds.
    pub fn copy_of(path: impl Into<PathBuf>) -> Self {
        Self { copy_of: Some(path.into()), ..Self::memory() }
    }

    /// A store in the directory `path`.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: Some(path.into()), ..Self::memory() }
    }
}

/// A handle to the embedded store. Dropping it lets the writer finish what is queued and end; [`Embedded::close`] waits for that.
pub struct Embedded {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Ask>,
    permits: Arc<Semaphore>,
    value_limit: usize,
    id: String,
}

/// What writer, readers and watches share.
struct Shared {
    /// For messages: the database file, or "memory".
    name: String,
    /// The database file, if there is one.
    path: Option<PathBuf>,
    meters: Meters,
    /// The keys and where their values are in the log; changed by the writer only, after each commit.
    index: RwLock<Index>,
    /// The index's revision, readable without the lock.
    head: AtomicU64,
    /// The connection reads go through. In memory it is also the writer's.
    reads: Arc<Mutex<Connection>>,
    /// Committed groups. The writer holds the only strong sender, so that watches end with it.
    events: broadcast::WeakSender<Arc<[Event]>>,
    /// Why the store stopped for good.
    failure: watch::Sender<Option<String>>,
}

impl Embedded {
    /// Opens the store, making directory and database when they are missing, and starts the writer. Blocks for a few milliseconds.
    pub fn open(options: &Options) -> Result<Self, OpenError> {
        let Opened { name, path, id, index, compacted, reserved, stood, engine, reads } = open::open(options)?;
        let (events, _) = broadcast::channel(GROUPS);
        let (queue, inbox) = mpsc::channel();
        let shared = Arc::new(Shared {
            name,
            path,
            meters: Meters::default(),
            head: AtomicU64::new(index.head().0),
            index: RwLock::new(index),
            reads,
            events: events.downgrade(),
            failure: watch::channel(None).0,
        });
        writer::spawn(engine, (compacted, reserved, stood), options, inbox, events, shared.clone())?;
        Ok(Self { shared, queue, permits: Arc::new(Semaphore::new(QUEUE)), value_limit: options.value_limit, id })
    }

    /// The identity of this database, made when it was created.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether writes can succeed; the reason if the store stopped because its disk failed.
    pub fn health(&self) -> Result<(), StoreError> {
        self.shared.health()
    }

    /// Everything that is there now, to be read while the store goes on. Blocks as long as reading all keys takes.
    pub fn dump(&self) -> Result<Dump, OpenError> {
        match self.shared.path.as_deref().and_then(Path::parent) {
            Some(dir) => Dump::open(dir),
            None => Dump::copy(&self.shared.reads.lock()),
        }
    }

    /// Waits until the store stops for good because its disk failed, and says why. The process should end then and start from disk.
    pub async fn failed(&self) -> String {
        let mut failure = self.shared.failure.subscribe();
        loop {
            if let Some(reason) = failure.borrow_and_update().clone() {
                return reason;
            }
            if failure.changed().await.is_err() {
                return "store is closed".to_owned();
            }
        }
    }

    /// Writes the relaxed writes that wait, unless the disk is full: whoever reads the database beside the store sees everything then.
    pub async fn flush(&self) -> Result<(), StoreError> {
        let (answer, done) = oneshot::channel();
        self.queue.send(Ask::Flush { answer }).map_err(|_| closed())?;
        done.await.map_err(|_| closed())?
    }

    /// Writes what is queued, moves the write-ahead log into the database and gives the directory free.
    pub async fn close(&self) {
        let (answer, done) = oneshot::channel();
        if self.queue.send(Ask::Close { answer }).is_ok() {
            // An error means that the writer has ended already.
            let _ = done.await;
        }
    }

    /// Runs a read on the pool for blocking work.
    async fn read<T: Send + 'static>(&self, read: impl FnOnce(&Shared) -> Result<T, StoreError> + Send + 'static) -> Result<T, StoreError> {
        let shared = self.shared.clone();
        match tokio::task::spawn_blocking(move || read(&shared)).await {
            Ok(result) => result,
            Err(err) => Err(StoreError::Unavailable(format!("read was abandoned: {err}"))),
        }
    }
}

#[async_trait]
impl Store for Embedded {
    async fn revision(&self) -> Result<Revision, StoreError> {
        self.shared.health()?;
        Ok(self.shared.head())
    }

    fn latest(&self) -> Option<Revision> {
        Some(self.shared.head())
    }

    async fn get(&self, key: &Key) -> Result<At<Option<Entry>>, StoreError> {
        let key = key.clone();
        self.read(move |shared| shared.get(&key)).await
    }

    async fn range(&self, prefix: &str, page: Page) -> Result<At<Vec<Entry>>, StoreError> {
        let prefix = prefix.to_owned();
        self.read(move |shared| shared.range(&prefix, &page)).await
    }

    async fn scan(&self, prefix: &str, each: Each) -> Result<Revision, StoreError> {
        self.shared.health()?;
        let (slots, waiting, revision) = {
            let index = self.shared.index.read();
            let (slots, waiting) = apart(index.range(prefix, None, None), &index);
            (slots, waiting, index.head())
        };
        each(&waiting);
        let scan = Arc::new(Scan::new(slots, revision, each));
        let readers = (0..scan.readers()).map(|_| {
            let scan = Arc::downgrade(&scan);
            self.read(move |shared| scan::run(shared, &scan))
        });
        // All of them have ended then: nobody is told anything any more.
        future::join_all(readers).await.into_iter().collect::<Result<(), _>>()?;
        Ok(revision)
    }

    async fn commit(&self, key: &Key, expect: Expect, write: Write) -> Result<Revision, StoreError> {
        if let Write::Put { value, .. } = &write
            && value.len() > self.value_limit
        {
            return Err(StoreError::TooLarge { size: value.len(), limit: self.value_limit });
        }
        let permit = self.permits.clone().acquire_owned().await.map_err(|_| closed())?;
        let (answer, done) = oneshot::channel();
        let ask = Ask::Commit { key: key.clone(), expect, write, answer, permit };
        self.queue.send(ask).map_err(|_| closed())?;
        done.await.map_err(|_| closed())?
    }

    fn watch(&self, prefix: &str, from: Revision) -> Events {
        tail::events(self.shared.clone(), prefix.to_owned(), from)
    }

    async fn count(&self, prefix: &str) -> Result<usize, StoreError> {
        Ok(self.shared.index.read().count(prefix))
    }

    async fn past(&self, key: &Key) -> Result<Past, StoreError> {
        let key = key.clone();
        // The log is read, and what waits is not in it.
        self.flush().await?;
        self.read(move |shared| shared.past(&key)).await
    }

    fn size(&self) -> Option<u64> {
        self.shared.file_size("")
    }

    async fn stats(&self) -> Stats {
        let durations = Some(self.shared.meters.durations()).filter(|_| self.shared.path.is_some());
        let pages = self.read(|shared| Ok(log::pages(&shared.reads.lock()).ok())).await.ok().flatten();
        let log = self.shared.file_size("-wal");
        Stats { size: self.size(), used: pages, log, commits: durations }
    }

    fn alarm(&self) -> Option<String> {
        self.shared.meters.is_full().then(|| self.shared.full())
    }

    async fn compact(&self, to: Revision) -> Result<(), StoreError> {
        let (answer, done) = oneshot::channel();
        self.queue.send(Ask::Compact { to, answer }).map_err(|_| closed())?;
        done.await.map_err(|_| closed())?
    }
}

impl Shared {
    fn head(&self) -> Revision {
        Revision(self.head.load(Ordering::Acquire))
    }

    /// What is to be done on a full disk.
    fn full(&self) -> String {
        let place = self.path.as_deref().and_then(Path::parent).unwrap_or(Path::new("")).display();
        format!(
            "{}: no room on the disk, only deletes are taken until there is. Make room on the file system of {place}, or delete objects; \
             writes are taken again by themselves a second later",
            self.name
        )
    }

    fn health(&self) -> Result<(), StoreError> {
        match &*self.failure.borrow() {
            Some(reason) => Err(StoreError::Unavailable(reason.clone())),
            None => Ok(()),
        }
    }

    /// Bytes of the file of that suffix beside the database; in memory there is none.
    fn file_size(&self, suffix: &str) -> Option<u64> {
        let mut file = self.path.clone()?.into_os_string();
        file.push(suffix);
        std::fs::metadata(file).ok().map(|file| file.len())
    }

    fn row_missing(&self, at: Revision) -> StoreError {
        StoreError::Corrupt(format!("{}: a row of the log is missing at revision {at}", self.name))
    }

    fn get(&self, key: &Key) -> Result<At<Option<Entry>>, StoreError> {
        self.health()?;
        self.consistently(|index| index.get(key.as_str()).map(|slot| (key.clone(), *slot)).into_iter().collect())
            .map(|At { value, revision }| At { value: value.into_iter().next(), revision })
    }

    fn range(&self, prefix: &str, page: &Page) -> Result<At<Vec<Entry>>, StoreError> {
        self.health()?;
        self.consistently(|index| index.range(prefix, page.after.as_ref(), page.limit))
    }

    /// On disk over a connection of its own: it takes longer than other reads may wait.
    fn past(&self, key: &Key) -> Result<Past, StoreError> {
        self.health()?;
        let last = self.index.read().get(key.as_str()).map(|slot| slot.revision);
        let named = |err: log::LogError| err.naming(&self.name);
        let Some(path) = &self.path else { return past::read(&self.reads.lock(), key, last).map_err(named) };
        let db = open::reading(path).map_err(|err| named(err.into()))?;
        past::read(&db, key, last).map_err(named)
    }

    /// Reads the values of the keys `select` names, all as of one revision. A row can vanish between index and log only when it was
    /// superseded and compacted in that moment; then the answer is taken anew.
    fn consistently(&self, select: impl Fn(&Index) -> Vec<(Key, Slot)>) -> Result<At<Vec<Entry>>, StoreError> {
        for _ in 0..ATTEMPTS {
            let (slots, waiting, revision) = {
                let index = self.index.read();
                let (slots, waiting) = apart(select(&index), &index);
                (slots, waiting, index.head())
            };
            let connection = self.reads.lock();
            match log::entries(&connection, slots).map_err(|err| err.naming(&self.name))? {
                Some(mut value) => {
                    if !waiting.is_empty() {
                        value.extend(waiting);
                        value.sort_unstable_by(|one, other| one.key.cmp(&other.key));
                    }
                    return Ok(At { value, revision });
                }
                None if self.head() == revision => return Err(self.row_missing(revision)),
                None => {}
            }
        }
        Err(StoreError::Unavailable(format!("{}: compaction overtook the read", self.name)))
    }
}

/// What is to be read from the log, and the entries that are not there yet.
fn apart(slots: Vec<(Key, Slot)>, index: &Index) -> (Vec<(Key, Slot)>, Vec<Entry>) {
    let logged = index.logged_to();
    if logged == index.head() {
        return (slots, Vec::new());
    }
    let (slots, waiting): (Vec<_>, Vec<_>) = slots.into_iter().partition(|(_, slot)| slot.revision <= logged);
    let entry = |(key, Slot { revision, created, .. })| index.waiting_value(revision).map(|value| Entry { key, value, revision, created });
    (slots, waiting.into_iter().filter_map(entry).collect())
}

fn closed() -> StoreError {
    StoreError::Unavailable("store is closed".to_owned())
}
