//! Opening: the directory, the lock on it, the database with its settings and schema, the first index.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, hooks::Wal};
use tracing::warn;

use super::{
    Options,
    compaction::Stood,
    dump::{self, FILE},
    ends,
    index::Index,
    log,
    room::Room,
};
use crate::Revision;

/// The layout this program writes. A database of an earlier one is brought to it when it is opened, one of a later one is refused.
/// 1: without the time of each write. 2: with it.
pub(super) const SCHEMA: i64 = 2;
pub(super) const PAGE_SIZE: u64 = 8192;
/// Remembers that there is a database.
pub(super) const MARKER: &str = "id";
/// How long to wait for another process that holds the database.
pub(super) const BUSY: Duration = Duration::from_secs(5);
/// How often, and after which pause, a lock that is held is tried again.
const LOCK_ATTEMPTS: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(10);
/// Earlier versions can lose commits when the write-ahead log is reset.
const SQLITE_NEEDED: (i32, &str) = (3_051_003, "3.51.3");

const TABLES: &str = "
    CREATE TABLE log(rev INTEGER PRIMARY KEY, k BLOB NOT NULL, create_rev INT NOT NULL, version INT NOT NULL, prev_rev INT NOT NULL,
                     del INT NOT NULL, exp INT, at INT, crc INT NOT NULL, v BLOB) STRICT;
    CREATE TABLE meta(k TEXT PRIMARY KEY, v ANY) STRICT;
    INSERT INTO meta(k, v) VALUES ('id', lower(hex(randomblob(16)))), ('compact_rev', 1), ('schema', 2);
";

/// From schema 1: rows that are there keep no time. A step either happens as a whole or not at all.
const FROM_1: &str = "BEGIN IMMEDIATE; ALTER TABLE log ADD COLUMN at INT; UPDATE meta SET v = 2 WHERE k = 'schema'; COMMIT;";

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory or a file in it cannot be made or read.
    #[error("{path}: {source}")]
    Io {
        /// What was being opened.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has the directory open.
    #[error("{path} is locked by another process{holder}: a data directory can be open only once")]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// Who holds it, as far as is known.
        holder: String,
    },
    /// The database was written by a later version of this program.
    #[error(
        "{path} has format {found}, this version knows up to {SCHEMA}: a newer version of this program wrote it. Start that version, \
         or restore a snapshot with this one"
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its schema.
        found: i64,
    },
    /// There is no database where one is to be read.
    #[error("{path}: there is no database here")]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// There is a database already where one is to be made.
    #[error("{path}: there is a database already")]
    Exists {
        /// The directory.
        path: PathBuf,
    },
    /// The linked SQLite is too old to be trusted.
    #[error("SQLite {found} is linked, at least {} is needed: earlier ones can lose commits", SQLITE_NEEDED.1)]
    OldSqlite {
        /// Its version.
        found: String,
    },
    /// There was a database here, and it is gone.
    #[error("{path} is empty, but there was a database here ({marker} says so): {RESTORE}, or remove {marker} to begin with nothing")]
    Emptied {
        /// The database.
        path: PathBuf,
        /// The file that remembers it.
        marker: PathBuf,
    },
    /// SQLite cannot open or read the database.
    #[error("{path}: {source}{}", advice(source))]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
}

/// What helps against damage.
const RESTORE: &str = "restore the latest snapshot with `coracle snapshot restore`";

fn advice(err: &rusqlite::Error) -> String {
    match err.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            format!(". The file is damaged: {RESTORE}; `coracle db check` says more")
        }
        _ => String::new(),
    }
}

/// An open database, before its writer runs.
pub(super) struct Opened {
    /// The database file, if there is one.
    pub(super) path: Option<PathBuf>,
    pub(super) name: String,
    pub(super) id: String,
    pub(super) index: Index,
    pub(super) compacted: Revision,
    /// Relaxed writes may have been given revisions up to here.
    pub(super) reserved: Revision,
    pub(super) stood: Stood,
    pub(super) engine: Engine,
    /// In memory the same connection as the writer's.
    pub(super) reads: Arc<Mutex<Connection>>,
}

/// What the writer owns of it.
pub(super) struct Engine {
    pub(super) writes: Arc<Mutex<Connection>>,
    pub(super) room: Room,
    pub(super) on_disk: bool,
    /// Pages in the write-ahead log after the last commit.
    pub(super) frames: Arc<AtomicU32>,
    /// Held as long as the writer runs.
    pub(super) _lock: Option<Lock>,
}

/// Opens or makes the database.
pub(super) fn open(options: &Options) -> Result<Opened, OpenError> {
    if rusqlite::version_number() < SQLITE_NEEDED.0 {
        return Err(OpenError::OldSqlite { found: rusqlite::version().to_owned() });
    }
    match &options.path {
        Some(dir) => open_directory(dir, options),
        None => open_memory(options),
    }
}

fn open_memory(options: &Options) -> Result<Opened, OpenError> {
    let sqlite = |source| OpenError::Sqlite { path: "memory".into(), source };
    let mut db = Connection::open_in_memory().map_err(sqlite)?;
    if let Some(dir) = &options.copy_of {
        dump::duplicate(&dump::source(dir)?, &mut db).map_err(sqlite)?;
        upgrade(&db, &dir.join(FILE))?;
    } else {
        let make = format!("PRAGMA page_size={PAGE_SIZE}; PRAGMA auto_vacuum=INCREMENTAL; {TABLES}");
        db.execute_batch(&make).map_err(sqlite)?;
    }
    let start = || -> rusqlite::Result<_> {
        settle(&db, options)?;
        begin(&db, None, options)
    };
    let Begun { id, compacted, reserved, index, stood } = start().map_err(sqlite)?;
    let db = Arc::new(Mutex::new(db));
    let engine = Engine { writes: db.clone(), room: Room::new(None, 0), on_disk: false, frames: Arc::default(), _lock: None };
    Ok(Opened { name: "memory".to_owned(), path: None, id, index, compacted, reserved, stood, engine, reads: db })
}

fn open_directory(dir: &Path, options: &Options) -> Result<Opened, OpenError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| OpenError::Io { path, source }
    };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io(dir))?;
    let lock = lock(&dir.join("lock"))?;
    let path = dir.join(FILE);
    let sqlite = |source| OpenError::Sqlite { path: path.clone(), source };
    let marker = dir.join(MARKER);
    let emptied = || OpenError::Emptied { path: path.clone(), marker: marker.clone() };
    // Before SQLite sees it: it takes a log beside an empty database for a leftover. And before one is made: it would be in the way of what
    // is restored.
    if marker.exists() && is_empty(&path).map_err(io(&path))? {
        return Err(emptied());
    }
    // Made here so that only its owner can read it; SQLite gives its other files the same mode.
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(io(&path))?;
    let mut db = connect(&path).map_err(sqlite)?;
    let frames = count_frames(&mut db).map_err(sqlite)?;
    // Only a database that was made completely has this table: it is made in one transaction.
    let made: Option<i64> =
        db.query_row("SELECT 1 FROM sqlite_schema WHERE name = 'meta'", [], |row| row.get(0)).optional().map_err(sqlite)?;
    if made.is_none() {
        if marker.exists() {
            return Err(emptied());
        }
        create(&db, dir, &path).map_err(|err| err.at(&path))?;
    }
    upgrade(&db, &path)?;
    let start = || -> rusqlite::Result<_> {
        settle(&db, options)?;
        let mut reads = reading(&path)?;
        Ok((begin(&db, Some(&mut reads), options)?, reads))
    };
    let (Begun { id, compacted, reserved, index, stood }, reads) = start().map_err(sqlite)?;
    // After a restore it names the database that was there before.
    if !fs::read_to_string(&marker).is_ok_and(|marked| marked.trim_end() == id)
        && let Err(err) = mark(dir, &marker, &id)
    {
        // A full disk is no reason not to open: the next start tries again.
        warn!(path = %marker.display(), error = %err, "cannot be written");
    }
    let room = Room::new(Some(dir.join("ballast")), options.ballast);
    let engine = Engine { writes: Arc::new(Mutex::new(db)), room, on_disk: true, frames, _lock: Some(lock) };
    let (name, reads) = (path.display().to_string(), Arc::new(Mutex::new(reads)));
    Ok(Opened { name, path: Some(path), id, index, compacted, reserved, stood, engine, reads })
}

/// What is read of a database before anybody writes it.
struct Begun {
    id: String,
    compacted: Revision,
    reserved: Revision,
    index: Index,
    stood: Stood,
}

/// Reads it, with the help of `other` where that is a connection to the same.
fn begin(db: &Connection, other: Option<&mut Connection>, options: &Options) -> rusqlite::Result<Begun> {
    let (id, compacted, reserved) = (id(db)?, log::compacted(db)?, log::reserved(db)?);
    let mut stood = Stood::new(compacted, options.compact_every);
    let mut index = ends::index(db, other, |head| stood.note(head))?;
    index.begin(compacted, reserved);
    Ok(Begun { id, compacted, reserved, index, stood })
}

/// Whether there is nothing in a file, or no file.
pub(super) fn is_empty(path: &Path) -> io::Result<bool> {
    match fs::metadata(path) {
        Ok(found) => Ok(found.len() == 0),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(err) => Err(err),
    }
}

/// Counts what is in the write-ahead log, for the writer, who moves it. SQLite would do that by itself, within the commit, and keep quiet
/// about errors: of a page whose sync failed the next sync says nothing, and the log would be written over as if it were not needed.
fn count_frames(db: &mut Connection) -> rusqlite::Result<Arc<AtomicU32>> {
    let frames = Arc::new(AtomicU32::new(0));
    let counted = frames.clone();
    db.wal_hook(Some(move |_: &mut Wal, pages| {
        counted.store(u32::try_from(pages).unwrap_or(u32::MAX), Ordering::Relaxed);
        Ok(())
    }))?;
    Ok(frames)
}

/// Notes that there is a database now: an empty file is not taken for a new store any more.
fn mark(dir: &Path, marker: &Path, id: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(marker)?;
    writeln!(file, "{id}")?;
    file.sync_all()?;
    File::open(dir)?.sync_all()
}

/// Brings an earlier layout to the one this program writes.
fn upgrade(db: &Connection, path: &Path) -> Result<(), OpenError> {
    let sqlite = |source| OpenError::Sqlite { path: path.to_owned(), source };
    let found = schema(db).map_err(sqlite)?;
    match found {
        SCHEMA => Ok(()),
        1 => db.execute_batch(FROM_1).map_err(sqlite),
        _ => Err(OpenError::Newer { path: path.to_owned(), found }),
    }
}

/// The layout of a database.
pub(super) fn schema(db: &Connection) -> rusqlite::Result<i64> {
    db.query_row("SELECT v FROM meta WHERE k = 'schema'", [], |row| row.get(0))
}

pub(super) fn connect(path: &Path) -> rusqlite::Result<Connection> {
    // No mutex: each connection stands behind one of ours.
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    db.busy_timeout(BUSY)?;
    db.set_prepared_statement_cache_capacity(16);
    Ok(db)
}

/// A connection that only reads.
pub(super) fn reading(path: &Path) -> rusqlite::Result<Connection> {
    let db = connect(path)?;
    db.execute_batch("PRAGMA query_only=ON; PRAGMA cache_size=-1000;")?;
    Ok(db)
}

/// The settings of the writing connection; those that are kept in the file were made with it.
fn settle(db: &Connection, options: &Options) -> rusqlite::Result<()> {
    db.execute_batch(
        "PRAGMA synchronous=FULL; PRAGMA cache_size=-4000; PRAGMA journal_size_limit=16777216; PRAGMA temp_store=MEMORY;
         PRAGMA trusted_schema=OFF;",
    )?;
    if let Some(limit) = options.size_limit {
        db.execute_batch(&format!("PRAGMA max_page_count={}", (limit / PAGE_SIZE).max(1)))?;
    }
    Ok(())
}

pub(super) enum CreateError {
    Io(io::Error),
    Sqlite(rusqlite::Error),
}

impl CreateError {
    /// The error of opening, naming the database.
    pub(super) fn at(self, path: &Path) -> OpenError {
        let path = path.to_owned();
        match self {
            Self::Io(source) => OpenError::Io { path, source },
            Self::Sqlite(source) => OpenError::Sqlite { path, source },
        }
    }
}

/// Makes a new database. SQLite's own syncs are off, since nothing is acknowledged yet; then file and directory are synced once, so that
/// no later write-ahead log can stand beside an empty database (SQLite would discard it).
pub(super) fn create(db: &Connection, dir: &Path, path: &Path) -> Result<(), CreateError> {
    db.execute_batch(&format!(
        "PRAGMA page_size={PAGE_SIZE}; PRAGMA auto_vacuum=INCREMENTAL; PRAGMA synchronous=OFF; PRAGMA journal_mode=MEMORY;
         BEGIN; {TABLES} COMMIT; PRAGMA journal_mode=WAL;"
    ))
    .map_err(CreateError::Sqlite)?;
    let sync = || -> io::Result<()> {
        File::open(path)?.sync_all()?;
        File::open(dir)?.sync_all()?;
        match dir.parent() {
            Some(parent) if parent != Path::new("") => File::open(parent)?.sync_all(),
            _ => Ok(()),
        }
    };
    sync().map_err(CreateError::Io)
}

/// The identity of a database.
pub(super) fn id(db: &Connection) -> rusqlite::Result<String> {
    db.query_row("SELECT v FROM meta WHERE k = 'id'", [], |row| row.get(0))
}

/// The lock of a directory, held as long as this lives.
pub(super) struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the file is not enough: a process that is just being started may share it. What fails here, closing does a moment later.
        let _ = self.0.unlock();
    }
}

/// Takes the lock of the directory, or says who has it.
fn lock(path: &Path) -> Result<Lock, OpenError> {
    let io = |source| OpenError::Io { path: path.to_owned(), source };
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path).map_err(io)?;
    // A process that was just started shares its parent's open files until it has become another program: the lock of a parent that died
    // meanwhile is held for a moment by nobody who means to.
    let mut tried = file.try_lock();
    for _ in 0..LOCK_ATTEMPTS {
        if !matches!(tried, Err(TryLockError::WouldBlock)) {
            break;
        }
        thread::sleep(LOCK_PAUSE);
        tried = file.try_lock();
    }
    match tried {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // Only decoration for the message.
            let _ = file.read_to_string(&mut holder);
            let holder = if holder.trim().is_empty() { String::new() } else { format!(" (pid {})", holder.trim()) };
            return Err(OpenError::Locked { path: path.to_owned(), holder });
        }
        Err(TryLockError::Error(source)) => return Err(io(source)),
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(io)?;
    Ok(Lock(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_is_given_back_is_free_though_a_process_being_started_shares_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = lock(&path).unwrap();
        let shared = held.0.try_clone().unwrap();
        assert!(matches!(lock(&path), Err(OpenError::Locked { .. })));
        drop(held);
        assert!(shared.try_lock().is_ok(), "nobody else holds it");
        shared.unlock().unwrap();
        lock(&path).unwrap();
    }
}
