//! Everything that is there at one moment, read beside a writer that goes on, in this process or another; and a database made of it.
//!
//! SQLite's write-ahead log makes the first simple: whoever has begun to read sees the database as it was then, and a commit is visible
//! only after it is on disk. Nothing that was acknowledged before is missing, and nothing is half there.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rusqlite::{
    Connection, OptionalExtension,
    backup::{Backup, StepResult},
    ffi::{Error as Failure, SQLITE_BUSY},
};

use super::{
    OpenError, ends,
    index::{Index, Slot},
    log::{self, Row},
    open,
};
use crate::{Key, Revision, StoreError, snapshot::Record};

/// The database in a store's directory.
pub(super) const FILE: &str = "state.db";
/// Values read at a time.
const PIECE: usize = 256;
/// Rows written in one transaction.
const BATCH: usize = 4096;

/// A store as it was when this was opened.
pub struct Dump {
    pub(super) db: Connection,
    pub(super) name: String,
    id: String,
    index: Index,
    compacted: Revision,
}

impl Dump {
    /// Of the store in `dir`, whether or not a server has it open. Nothing is changed there.
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        let path = dir.join(FILE);
        Self::of(source(dir)?, &path.display().to_string(), &path)
    }

    /// Of a copy of a database in memory.
    pub(super) fn copy(from: &Connection) -> Result<Self, OpenError> {
        let sqlite = |source| OpenError::Sqlite { path: "memory".into(), source };
        let mut db = Connection::open_in_memory().map_err(sqlite)?;
        duplicate(from, &mut db).map_err(sqlite)?;
        Self::of(db, "memory", Path::new("memory"))
    }

    fn of(db: Connection, name: &str, path: &Path) -> Result<Self, OpenError> {
        let sqlite = |source| OpenError::Sqlite { path: path.to_owned(), source };
        // One transaction from here to the end: the first read fixes what is seen.
        db.execute_batch("BEGIN").map_err(sqlite)?;
        let made: Option<i64> =
            db.query_row("SELECT 1 FROM sqlite_schema WHERE name = 'meta'", [], |row| row.get(0)).optional().map_err(sqlite)?;
        if made.is_none() {
            return Err(OpenError::Missing { path: path.to_owned() });
        }
        let found = open::schema(&db).map_err(sqlite)?;
        if !(1..=open::SCHEMA).contains(&found) {
            return Err(OpenError::Newer { path: path.to_owned(), found });
        }
        let (id, compacted, mut index) =
            (open::id(&db).map_err(sqlite)?, log::compacted(&db).map_err(sqlite)?, ends::index(&db, None, |_| ()).map_err(sqlite)?);
        // Revisions that were given out for writes that may wait a moment for the disk.
        index.begin(compacted, log::reserved(&db).map_err(sqlite)?);
        Ok(Self { db, name: name.to_owned(), id, index, compacted })
    }

    /// Makes the file of the store in `dir`, which nobody has open, as small as it can be.
    pub fn shrink(dir: &Path) -> Result<(), OpenError> {
        let path = dir.join(FILE);
        let sqlite = |source| OpenError::Sqlite { path: path.clone(), source };
        let db = open::connect(&path).map_err(sqlite)?;
        // Only the checkpoints that tell of their errors.
        let vacuum = "PRAGMA wal_autocheckpoint=0; VACUUM";
        log::checkpoint(&db).and_then(|()| db.execute_batch(vacuum)).and_then(|()| log::checkpoint(&db)).map_err(sqlite)
    }

    /// The revision at which this is true.
    pub fn revision(&self) -> Revision {
        self.index.head()
    }

    /// The oldest revision whose successors are all kept.
    pub fn compacted(&self) -> Revision {
        self.compacted
    }

    /// The identity of the database.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// How many objects there are.
    pub fn count(&self) -> usize {
        self.index.count("")
    }

    /// Every object, in the order of their last writes, each checked against its checksum.
    pub fn each<E: From<StoreError>>(&self, mut see: impl FnMut(Record) -> Result<(), E>) -> Result<(), E> {
        let mut slots: Vec<(Key, Slot)> = self.index.iter().map(|(key, slot)| (key.clone(), *slot)).collect();
        slots.sort_unstable_by_key(|(_, slot)| slot.revision);
        for piece in slots.chunks(PIECE) {
            let entries = log::read(&self.db, piece.to_vec()).map_err(|err| err.naming(&self.name))?;
            let entries = entries.ok_or_else(|| StoreError::Corrupt(format!("{}: a row of the log is missing", self.name)))?;
            for (entry, (_, slot)) in entries.into_iter().zip(piece) {
                see(Record { entry, version: slot.version, expires: slot.expires })?;
            }
        }
        Ok(())
    }
}

/// Copies a database, page by page.
pub(super) fn duplicate(from: &Connection, to: &mut Connection) -> rusqlite::Result<()> {
    // What is in memory cannot change the size of its pages later.
    to.execute_batch(&format!("PRAGMA page_size={}", open::PAGE_SIZE))?;
    let backup = Backup::new(from, to)?;
    // All pages in one step, within one transaction: what is written meanwhile is not in it.
    match backup.step(-1)? {
        StepResult::Done => Ok(()),
        _ => Err(rusqlite::Error::SqliteFailure(Failure::new(SQLITE_BUSY), Some("another process holds the database".to_owned()))),
    }
}

/// Opens the database of `dir` to read or copy it; nothing is changed there.
pub(super) fn source(dir: &Path) -> Result<Connection, OpenError> {
    let path = dir.join(FILE);
    // Before SQLite sees it, as when a server opens it: it removes a log beside an empty database, and with it what may be all that is left.
    match open::is_empty(&path) {
        Err(source) => return Err(OpenError::Io { path, source }),
        Ok(true) => {
            let marker = dir.join(open::MARKER);
            return Err(if marker.exists() { OpenError::Emptied { path, marker } } else { OpenError::Missing { path } });
        }
        Ok(false) => {}
    }
    open::reading(&path).map_err(|source| OpenError::Sqlite { path, source })
}

/// A database in the making: a directory beside the one it is to become, so that a half made one is never taken for whole.
pub struct Restore {
    db: Connection,
    /// Where it is made.
    made: PathBuf,
    dir: PathBuf,
    last: Revision,
    waiting: usize,
    /// Objects that share a revision with another (etcd writes several keys in one transaction): they get one of their own at the end.
    shared: Vec<Record>,
}

impl Restore {
    /// Begins one that will stand in `dir`, where there must not be one yet.
    pub fn begin(dir: &Path) -> Result<Self, OpenError> {
        if dir.join(FILE).exists() {
            return Err(OpenError::Exists { path: dir.to_owned() });
        }
        if let Some(path) = Self::in_the_way(dir)? {
            return Err(OpenError::Io { path, source: not_empty() });
        }
        let mut name = dir.file_name().unwrap_or_default().to_owned();
        name.push(".restoring");
        let made = dir.with_file_name(name);
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Io { path, source }
        };
        if made.exists() {
            fs::remove_dir_all(&made).map_err(io(&made))?;
        }
        DirBuilder::new().recursive(true).mode(0o700).create(&made).map_err(io(&made))?;
        let path = made.join(FILE);
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(io(&path))?;
        let sqlite = |source| OpenError::Sqlite { path: path.clone(), source };
        let db = open::connect(&path).map_err(sqlite)?;
        open::create(&db, &made, &path).map_err(|err| err.at(&path))?;
        db.execute_batch("PRAGMA synchronous=OFF; PRAGMA temp_store=MEMORY; BEGIN").map_err(sqlite)?;
        Ok(Self { db, made, dir: dir.to_owned(), last: Revision(0), waiting: 0, shared: Vec::new() })
    }

    /// What is in `dir` that a database made there would take the place of; what a store leaves where its database is gone does not count.
    pub fn in_the_way(dir: &Path) -> Result<Option<PathBuf>, OpenError> {
        in_the_way(dir).map_err(|source| OpenError::Io { path: dir.to_owned(), source })
    }

    /// Adds an object; they come in the order of their last writes.
    pub fn add(&mut self, record: Record) -> Result<(), OpenError> {
        if record.entry.revision <= self.last {
            self.shared.push(record);
            return Ok(());
        }
        self.last = record.entry.revision;
        self.insert(record).map_err(|source| self.error(source))
    }

    fn insert(&mut self, record: Record) -> rusqlite::Result<()> {
        let Record { entry, version, expires } = record;
        let slot = Slot { revision: entry.revision, created: entry.created, version, expires };
        log::append(&self.db, &Row { key: entry.key, slot, previous: Revision(0), value: Some(entry.value) }, None)?;
        self.waiting += 1;
        if self.waiting >= BATCH {
            self.waiting = 0;
            self.db.execute_batch("COMMIT; BEGIN")?;
        }
        Ok(())
    }

    /// Ends it: `head` is the revision of what was restored, `bump` how many are skipped after it, so that none that a client may have
    /// seen is given out again. Everything before counts as compacted: who watches from there is told to list again. Answers the
    /// revision the store begins with.
    pub fn finish(mut self, head: Revision, bump: u64) -> Result<Revision, OpenError> {
        let mut head = head.max(self.last);
        for mut record in std::mem::take(&mut self.shared) {
            head.0 += 1;
            record.entry.revision = head;
            self.insert(record).map_err(|source| self.error(source))?;
        }
        // An empty store is at 1.
        let head = Revision(head.0.saturating_add(bump).clamp(1, i64::MAX.unsigned_abs() / 2));
        let end = |db: &Connection| -> rusqlite::Result<()> {
            db.execute("UPDATE meta SET v = ?1 WHERE k = 'compact_rev'", [head.0.cast_signed()])?;
            db.execute_batch("COMMIT")?;
            log::checkpoint(db)
        };
        end(&self.db).map_err(|source| self.error(source))?;
        let Self { db, made, dir, .. } = self;
        let closed = db.close().map_err(|(_, source)| OpenError::Sqlite { path: made.join(FILE), source });
        closed?;
        place(&made, &dir).map_err(|source| OpenError::Io { path: dir, source })?;
        Ok(head)
    }

    fn error(&self, source: rusqlite::Error) -> OpenError {
        OpenError::Sqlite { path: self.made.join(FILE), source }
    }
}

/// What is left where a database is gone or never was; it is in nobody's way.
const LEFT: [&str; 3] = ["lock", "ballast", open::MARKER];

/// Anything else that is in a directory, if that exists.
fn in_the_way(dir: &Path) -> io::Result<Option<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if !LEFT.iter().any(|left| entry.file_name() == *left) {
            return Ok(Some(entry.path()));
        }
    }
    Ok(None)
}

fn not_empty() -> io::Error {
    io::Error::new(io::ErrorKind::DirectoryNotEmpty, "is in the way of a database that is to be made here")
}

/// Syncs what was made and puts it where it belongs, at once.
fn place(made: &Path, dir: &Path) -> io::Result<()> {
    File::open(made.join(FILE))?.sync_all()?;
    File::open(made)?.sync_all()?;
    if dir.exists() {
        if in_the_way(dir)?.is_some() {
            return Err(not_empty());
        }
        // The directory stays, and with it the marker: until the database is there, no server takes the place for that of a new one.
        fs::rename(made.join(FILE), dir.join(FILE))?;
        File::open(dir)?.sync_all()?;
        return fs::remove_dir(made);
    }
    fs::rename(made, dir)?;
    match dir.parent().filter(|parent| *parent != Path::new("")) {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use tempfile::tempdir;

    use super::*;
    use crate::{
        Expect, Store, Write,
        embedded::{Embedded, Options},
    };

    fn put(text: &str, ttl: Option<Duration>) -> Write {
        Write::Put { value: Bytes::copy_from_slice(text.as_bytes()), ttl, durability: crate::Durability::Strict }
    }

    fn records(dump: &Dump) -> Vec<Record> {
        let mut all = Vec::new();
        dump.each::<StoreError>(|record| {
            all.push(record);
            Ok(())
        })
        .unwrap();
        all
    }

    #[tokio::test]
    async fn what_is_read_beside_a_running_writer_is_one_moment_and_becomes_a_store_again() {
        let folder = tempdir().unwrap();
        let dir = folder.path().join("store");
        let store = Embedded::open(&Options::at(&dir)).unwrap();
        let first = store.commit(&"/a".into(), Expect::Absent, put("1", None)).await.unwrap();
        let second = store.commit(&"/a".into(), Expect::At(first), put("2", None)).await.unwrap();
        store.commit(&"/b".into(), Expect::Absent, put("b", Some(Duration::from_secs(3600)))).await.unwrap();
        let gone = store.commit(&"/c".into(), Expect::Absent, put("c", None)).await.unwrap();
        let head = store.commit(&"/c".into(), Expect::At(gone), Write::Delete).await.unwrap();

        let dump = Dump::open(&dir).unwrap();
        store.commit(&"/later".into(), Expect::Absent, put("x", None)).await.unwrap();
        store.compact(store.revision().await.unwrap()).await.unwrap();
        let found = records(&dump);
        assert_eq!((dump.revision(), dump.count(), dump.id()), (head, 2, store.id()));
        let keys: Vec<&str> = found.iter().map(|record| record.entry.key.as_str()).collect();
        assert_eq!(keys, ["/a", "/b"]);
        assert_eq!((found[0].entry.revision, found[0].entry.created, found[0].version), (second, first, 2));

        let copy = folder.path().join("copy");
        let mut restore = Restore::begin(&copy).unwrap();
        let expires = found[1].expires;
        for record in found {
            restore.add(record).unwrap();
        }
        assert!(!copy.exists(), "nothing stands there before it is whole");
        let begins = restore.finish(dump.revision(), 1000).unwrap();
        assert_eq!(begins.0, head.0 + 1000);
        let restored = Embedded::open(&Options::at(&copy)).unwrap();
        assert_eq!(restored.revision().await.unwrap(), begins);
        let a = restored.get(&"/a".into()).await.unwrap().value.unwrap();
        assert_eq!((a.value, a.revision, a.created), (Bytes::from("2"), second, first));
        assert_eq!(records(&Dump::open(&copy).unwrap())[1].expires, expires);
        assert_eq!(restored.commit(&"/n".into(), Expect::Absent, put("n", None)).await.unwrap().0, begins.0 + 1);
        assert!(matches!(Restore::begin(&copy), Err(OpenError::Exists { .. })));
    }

    #[tokio::test]
    async fn objects_written_in_one_revision_of_another_store_get_one_each() {
        let folder = tempdir().unwrap();
        let dir = folder.path().join("store");
        let mut restore = Restore::begin(&dir).unwrap();
        for key in ["/a", "/b", "/c"] {
            let entry = crate::Entry { key: key.into(), value: Bytes::from("v"), revision: Revision(7), created: Revision(7) };
            restore.add(Record { entry, version: 1, expires: None }).unwrap();
        }
        assert_eq!(restore.finish(Revision(9), 0).unwrap(), Revision(11));
        let store = Embedded::open(&Options::at(&dir)).unwrap();
        let all = store.range("/", crate::Page::default()).await.unwrap().value;
        let revisions: Vec<u64> = all.iter().map(|entry| entry.revision.0).collect();
        assert_eq!(revisions, [7, 10, 11]);
    }

    #[tokio::test]
    async fn a_copy_in_memory_goes_its_own_way_from_the_moment_it_was_made() {
        let folder = tempdir().unwrap();
        let store = Embedded::open(&Options::at(folder.path())).unwrap();
        let first = store.commit(&"/a".into(), Expect::Absent, put("1", None)).await.unwrap();
        let copy = Embedded::open(&Options::copy_of(folder.path())).unwrap();
        assert_eq!(copy.revision().await.unwrap(), first);
        copy.commit(&"/a".into(), Expect::At(first), put("theirs", None)).await.unwrap();
        store.commit(&"/b".into(), Expect::Absent, put("ours", None)).await.unwrap();
        assert_eq!(store.get(&"/a".into()).await.unwrap().value.unwrap().value, "1");
        assert_eq!(copy.get(&"/a".into()).await.unwrap().value.unwrap().value, "theirs");
        assert_eq!(copy.get(&"/b".into()).await.unwrap().value, None);
        assert_eq!(copy.dump().unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_store_that_lost_its_database_can_be_restored_where_it_was() {
        let folder = tempdir().unwrap();
        let dir = folder.path().join("store");
        Embedded::open(&Options::at(&dir)).unwrap().close().await;
        fs::remove_file(dir.join(FILE)).unwrap();
        assert!(matches!(Embedded::open(&Options::at(&dir)), Err(OpenError::Emptied { .. })));
        assert_eq!(Restore::begin(&dir).unwrap().finish(Revision(9), 0).unwrap(), Revision(9));
        Embedded::open(&Options::at(&dir)).unwrap().close().await;

        fs::remove_file(dir.join(FILE)).unwrap();
        fs::write(dir.join("state.db-wal"), "writes that somebody may still want").unwrap();
        let refused = Restore::begin(&dir).err().unwrap().to_string();
        assert!(refused.contains("store/state.db-wal: is in the way"), "{refused}");
    }

    #[tokio::test]
    async fn a_lost_database_is_remembered_until_another_is_in_its_place() {
        let folder = tempdir().unwrap();
        let dir = folder.path().join("store");
        Embedded::open(&Options::at(&dir)).unwrap().close().await;
        fs::remove_file(dir.join(FILE)).unwrap();
        let restore = Restore::begin(&dir).unwrap();
        // Somebody puts it back meanwhile: the last step fails.
        fs::write(dir.join("state.db-wal"), "writes that somebody may still want").unwrap();
        let refused = restore.finish(Revision(9), 0).unwrap_err().to_string();
        assert!(refused.contains("is in the way"), "{refused}");
        fs::remove_file(dir.join("state.db-wal")).unwrap();
        assert!(matches!(Embedded::open(&Options::at(&dir)), Err(OpenError::Emptied { .. })));
        Restore::begin(&dir).unwrap().finish(Revision(9), 0).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing stays beside it");
        fs::remove_file(dir.join(FILE)).unwrap();
        assert!(
            matches!(Embedded::open(&Options::at(&dir)), Err(OpenError::Emptied { .. })),
            "no server ran, and it is known all the same"
        );
    }

    #[tokio::test]
    async fn reading_an_emptied_store_leaves_what_is_beside_it() {
        let folder = tempdir().unwrap();
        let log = folder.path().join("state.db-wal");
        Embedded::open(&Options::at(folder.path())).unwrap().close().await;
        fs::write(folder.path().join(FILE), "").unwrap();
        fs::write(&log, "writes that somebody may still want").unwrap();
        assert!(matches!(Dump::open(folder.path()), Err(OpenError::Emptied { .. })));
        assert!(matches!(Embedded::open(&Options::copy_of(folder.path())), Err(OpenError::Emptied { .. })));
        fs::remove_file(folder.path().join(open::MARKER)).unwrap();
        assert!(matches!(Dump::open(folder.path()), Err(OpenError::Missing { .. })));
        assert_eq!(fs::read_to_string(log).unwrap(), "writes that somebody may still want");
    }

    #[test]
    fn where_there_is_no_database_none_is_made() {
        let folder = tempdir().unwrap();
        assert!(matches!(Dump::open(folder.path()), Err(OpenError::Missing { .. })));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
