//! All SQL that touches the log's rows.

use std::time::Duration;

use bytes::Bytes;
use rusqlite::{
    Connection, ErrorCode, OptionalExtension, Row as SqlRow,
    ffi::{Error as Failure, SQLITE_CORRUPT},
    params,
};

use super::{
    index::Slot,
    open::{self, BUSY},
};
use crate::{Entry, Event, Key, Revision, StoreError};

/// Rows of the log looked at in one step of compaction.
const COMPACTION_PIECE: u16 = 200;
/// Bounds of one page of history read for a watch.
const HISTORY_ROWS: usize = 500;
const HISTORY_BYTES: usize = 4 << 20;

/// One write, as it stands in the log.
#[derive(Clone)]
pub(super) struct Row {
    pub(super) key: Key,
    pub(super) slot: Slot,
    /// The revision of the version this one supersedes; 0: none.
    pub(super) previous: Revision,
    /// `None`: a delete.
    pub(super) value: Option<Bytes>,
}

impl Row {
    /// The write as watchers see it.
    pub(super) fn event(&self) -> Event {
        Event { key: self.key.clone(), revision: self.slot.revision, after: self.entry() }
    }

    /// What is there after it.
    pub(super) fn entry(&self) -> Option<Entry> {
        let Slot { revision, created, .. } = self.slot;
        self.value.as_ref().map(|value| Entry { key: self.key.clone(), value: value.clone(), revision, created })
    }
}

/// What went wrong in the log.
#[derive(Debug)]
pub(super) enum LogError {
    Sqlite(rusqlite::Error),
    /// A row does not read back as it was written.
    Checksum(Revision),
}

impl From<rusqlite::Error> for LogError {
    fn from(err: rusqlite::Error) -> Self {
        Self::Sqlite(err)
    }
}

impl LogError {
    /// The store's error, naming the database.
    pub(super) fn naming(&self, name: &str) -> StoreError {
        match self {
            Self::Checksum(revision) => StoreError::Corrupt(format!("{name}: revision {revision} does not match its checksum")),
            Self::Sqlite(err) => match err.sqlite_error_code() {
                Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::Corrupt(format!("{name}: {err}")),
                _ => StoreError::Unavailable(format!("{name}: {err}")),
            },
        }
    }
}

/// Appends one write, made at `at` (milliseconds of Unix time).
pub(super) fn append(db: &Connection, row: &Row, at: Option<i64>) -> rusqlite::Result<()> {
    let value = row.value.as_deref();
    db.prepare_cached(
        "INSERT INTO log(rev, k, create_rev, version, prev_rev, del, exp, crc, v, at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?
    .execute(params![
        number(row.slot.revision),
        row.key.as_str().as_bytes(),
        number(row.slot.created),
        row.slot.version,
        number(row.previous),
        value.is_none(),
        row.slot.expires,
        seal(
            checksum(row.slot.revision, row.key.as_str().as_bytes(), value.unwrap_or_default()),
            header(row.key.as_str().as_bytes(), &row.slot, row.previous, value.is_none()),
        ),
        value,
        at,
    ])?;
    Ok(())
}

/// A row but its value.
pub(super) struct Head {
    pub(super) key: Key,
    pub(super) slot: Slot,
    /// The revision of the version it supersedes; 0: none.
    pub(super) previous: Revision,
    pub(super) deleted: bool,
    /// When it was written, in milliseconds of Unix time.
    pub(super) at: Option<i64>,
    /// Bytes of the value.
    pub(super) size: u32,
}

/// Which row comes first.
#[derive(Clone, Copy)]
pub(super) enum First {
    Oldest,
    Latest,
}

/// Tells every row until `see` wants no more. What a row says beside its value is checked here; values are when they are read.
pub(super) fn heads(db: &Connection, first: First, mut see: impl FnMut(Head) -> rusqlite::Result<bool>) -> rusqlite::Result<()> {
    let order = match first {
        First::Oldest => "ASC",
        First::Latest => "DESC",
    };
    // A database of the first version, which a dump reads as it is, keeps no times.
    let at = if open::schema(db)? > 1 { "at" } else { "NULL" };
    // The length of a value is known without reading it.
    let columns = format!("rev, k, create_rev, version, del, exp, prev_rev, crc, {at}, ifnull(length(v), 0)");
    let mut statement = db.prepare(&format!("SELECT {columns} FROM log ORDER BY rev {order}"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let slot = Slot { revision: revision(row, 0)?, created: revision(row, 2)?, version: row.get(3)?, expires: row.get(5)? };
        let (deleted, previous, at, size) = (row.get(4)?, revision(row, 6)?, row.get(8)?, row.get(9)?);
        let head = Head { key: key(row, 1)?, slot, previous, deleted, at, size };
        let found = header_of(row.get(7)?);
        if found.is_some_and(|found| found != header(head.key.as_str().as_bytes(), &slot, head.previous, head.deleted)) {
            return Err(malformed(format!("revision {} does not match its checksum", slot.revision)));
        }
        if !see(head)? {
            break;
        }
    }
    Ok(())
}

/// The values of these keys, in their order; `None` when a row is gone (superseded and compacted since the index was read).
pub(super) fn entries(db: &Connection, slots: Vec<(Key, Slot)>) -> Result<Option<Vec<Entry>>, LogError> {
    // One transaction: otherwise each row takes and gives back the file locks.
    let snapshot = db.unchecked_transaction()?;
    let found = read(&snapshot, slots)?;
    snapshot.finish()?;
    Ok(found)
}

/// The same within a transaction that is under way.
pub(super) fn read(db: &Connection, slots: Vec<(Key, Slot)>) -> Result<Option<Vec<Entry>>, LogError> {
    // Neighbours by revision share pages: read in that order, each page is fetched once.
    let mut order: Vec<usize> = (0..slots.len()).collect();
    order.sort_unstable_by_key(|at| slots[*at].1.revision);
    let mut values = vec![Bytes::new(); slots.len()];
    let mut statement = db.prepare_cached("SELECT crc, v FROM log WHERE rev = ?1 AND del = 0")?;
    for at in order {
        let (key, slot) = &slots[at];
        let found = statement
            .query_row([number(slot.revision)], |row| {
                let value = row.get_ref(1)?.as_blob_or_null()?.unwrap_or_default();
                let sound = checksum_of(row.get(0)?) == checksum(slot.revision, key.as_str().as_bytes(), value);
                Ok(sound.then(|| Bytes::copy_from_slice(value)))
            })
            .optional()?;
        let Some(value) = found else { return Ok(None) };
        values[at] = value.ok_or(LogError::Checksum(slot.revision))?;
    }
    let entry = |((key, slot), value): ((Key, Slot), Bytes)| Entry { key, value, revision: slot.revision, created: slot.created };
    Ok(Some(slots.into_iter().zip(values).map(entry).collect()))
}

/// A page of history.
pub(super) struct History {
    /// The revision up to which the log is compacted, as of the same moment.
    pub(super) compacted: Revision,
    pub(super) events: Vec<Event>,
    /// Everything up to here is in `events`.
    pub(super) reached: Revision,
}

/// The events after `from` up to `to`, or the first page of them.
pub(super) fn history(db: &mut Connection, from: Revision, to: Revision) -> Result<History, LogError> {
    // One transaction, so that rows and compaction revision belong together.
    let snapshot = db.transaction()?;
    let mut history = History { compacted: compacted(&snapshot)?, events: Vec::new(), reached: to };
    {
        let mut statement =
            snapshot.prepare_cached("SELECT rev, k, create_rev, del, crc, v FROM log WHERE rev > ?1 AND rev <= ?2 ORDER BY rev")?;
        let mut rows = statement.query([number(from), number(to)])?;
        let mut bytes = 0;
        while let Some(row) = rows.next()? {
            let event = event(row)?;
            bytes += event.after.as_ref().map_or(0, |after| after.value.len());
            let at = event.revision;
            history.events.push(event);
            if history.events.len() >= HISTORY_ROWS || bytes >= HISTORY_BYTES {
                history.reached = at;
                break;
            }
        }
    }
    snapshot.finish()?;
    Ok(history)
}

/// Removes what a piece of the log superseded, and its deletes; answers the revision the log is compacted to then.
pub(super) fn compact_piece(db: &Connection, from: Revision, to: Revision) -> rusqlite::Result<Revision> {
    let mut doomed = Vec::with_capacity(usize::from(COMPACTION_PIECE));
    let (mut rows_seen, mut last) = (0, from);
    {
        let mut statement = db.prepare_cached("SELECT rev, prev_rev, del FROM log WHERE rev > ?1 AND rev <= ?2 ORDER BY rev LIMIT ?3")?;
        let mut rows = statement.query(params![number(from), number(to), COMPACTION_PIECE])?;
        while let Some(row) = rows.next()? {
            rows_seen += 1;
            last = revision(row, 0)?;
            let previous = revision(row, 1)?;
            if previous.0 > 0 {
                doomed.push(previous);
            }
            if row.get(2)? {
                doomed.push(last);
            }
        }
    }
    let mut delete = db.prepare_cached("DELETE FROM log WHERE rev = ?1")?;
    for revision in doomed {
        delete.execute([number(revision)])?;
    }
    let reached = if rows_seen < COMPACTION_PIECE { to } else { last };
    db.prepare_cached("UPDATE meta SET v = ?1 WHERE k = 'compact_rev'")?.execute([number(reached)])?;
    Ok(reached)
}

/// Gives `step` free pages back to the file system when there are more than `free`; fewer are kept for the next writes. Whether it did.
pub(super) fn give_back(db: &Connection, free: u32, step: u32) -> rusqlite::Result<bool> {
    let found: u32 = db.prepare_cached("PRAGMA freelist_count")?.query_row([], |row| row.get(0))?;
    if found <= free {
        return Ok(false);
    }
    let mut vacuum = db.prepare(&format!("PRAGMA incremental_vacuum({step})"))?;
    let mut steps = vacuum.query([])?;
    while steps.next()?.is_some() {}
    Ok(true)
}

/// Makes the files as small as they can be, in at most `steps` steps of `step` pages, each small enough for a disk that is almost full. The
/// writer waits for this, so nobody who reads is waited for: what they still need is given back another time.
pub(super) fn shrink(db: &Connection, step: u32, steps: u32) -> rusqlite::Result<()> {
    db.busy_timeout(Duration::ZERO)?;
    let shrunk = shrink_at_once(db, step, steps);
    db.busy_timeout(BUSY)?;
    shrunk
}

fn shrink_at_once(db: &Connection, step: u32, steps: u32) -> rusqlite::Result<()> {
    checkpoint(db)?;
    for _ in 0..steps {
        if !give_back(db, 0, step)? {
            break;
        }
        checkpoint(db)?;
    }
    Ok(())
}

/// Moves as much of the write-ahead log into the database as nobody reads, and waits for nobody. Where that is all, it is written from its
/// beginning again. Answers whether it is.
pub(super) fn backfill(db: &Connection) -> rusqlite::Result<bool> {
    let outcome = |row: &SqlRow<'_>| Ok((row.get::<_, bool>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?));
    let (busy, logged, moved) = db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], outcome)?;
    Ok(!busy && logged == moved)
}

/// Moves the write-ahead log into the database and empties it.
pub(super) fn checkpoint(db: &Connection) -> rusqlite::Result<()> {
    db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
}

/// Bytes of the pages that hold something.
pub(super) fn pages(db: &Connection) -> rusqlite::Result<u64> {
    let number = |sql: &str| db.prepare_cached(sql)?.query_row([], |row| row.get::<_, u32>(0)).map(u64::from);
    let (count, free, size) = (number("PRAGMA page_count")?, number("PRAGMA freelist_count")?, number("PRAGMA page_size")?);
    Ok(count.saturating_sub(free) * size)
}

/// The revision up to which the log is compacted.
pub(super) fn compacted(db: &Connection) -> rusqlite::Result<Revision> {
    db.prepare_cached("SELECT v FROM meta WHERE k = 'compact_rev'")?.query_row([], |row| revision(row, 0))
}

/// The revision below which all may have been handed out, whether or not the log knows of them: relaxed writes can be lost, their revisions
/// do not come again.
pub(super) fn reserved(db: &Connection) -> rusqlite::Result<Revision> {
    let found = db.prepare_cached("SELECT v FROM meta WHERE k = 'reserved_rev'")?.query_row([], |row| revision(row, 0)).optional()?;
    Ok(found.unwrap_or_default())
}

/// Reserves revisions up to this one.
pub(super) fn reserve(db: &Connection, to: Revision) -> rusqlite::Result<()> {
    db.prepare_cached("INSERT OR REPLACE INTO meta(k, v) VALUES ('reserved_rev', ?1)")?.execute([number(to)])?;
    Ok(())
}

fn event(row: &SqlRow<'_>) -> Result<Event, LogError> {
    let (at, key) = (revision(row, 0)?, key(row, 1)?);
    let value = sound(row, 4, at, key.as_str().as_bytes())?;
    let (created, deleted) = (revision(row, 2)?, row.get::<_, bool>(3)?);
    let after = (!deleted).then(|| Entry { key: key.clone(), value, revision: at, created });
    Ok(Event { key, revision: at, after })
}

/// The value of a row, which stands behind its checksum in `column`, if that is right.
pub(super) fn sound(row: &SqlRow<'_>, column: usize, at: Revision, key: &[u8]) -> Result<Bytes, LogError> {
    let value = row.get_ref(column + 1)?.as_blob_or_null().map_err(rusqlite::Error::from)?.unwrap_or_default();
    if checksum_of(row.get(column)?) != checksum(at, key, value) {
        return Err(LogError::Checksum(at));
    }
    Ok(Bytes::copy_from_slice(value))
}

/// What a row's checksum column holds: the checksum of its value below, that of the rest of it above. Rows of early versions have none of
/// the rest.
fn seal(value: u32, header: u32) -> i64 {
    i64::from(header) << 32 | i64::from(value)
}

fn checksum_of(seal: i64) -> u32 {
    u32::try_from(seal & 0xffff_ffff).unwrap_or_default()
}

fn header_of(seal: i64) -> Option<u32> {
    u32::try_from(seal >> 32).ok().filter(|header| *header > 0)
}

/// CRC-32 over all of a row but its value, in 31 bits of which one is always set.
fn header(key: &[u8], slot: &Slot, previous: Revision, deleted: bool) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    for number in [slot.revision.0, slot.created.0, u64::from(slot.version), previous.0, u64::from(deleted)] {
        crc.update(&number.to_le_bytes());
    }
    crc.update(&slot.expires.map_or([0; 9], |at| {
        let mut bytes = [1; 9];
        bytes[1..].copy_from_slice(&at.to_le_bytes());
        bytes
    }));
    crc.update(key);
    crc.finalize() >> 2 | 1 << 30
}

pub(super) fn malformed(why: String) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(Failure::new(SQLITE_CORRUPT), Some(why))
}

/// CRC-32 over revision, key and value: a row that was torn, or that stands in another's place, does not match.
fn checksum(revision: Revision, key: &[u8], value: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&revision.0.to_le_bytes());
    crc.update(key);
    crc.update(value);
    crc.finalize()
}

/// SQLite's integers are signed; revisions stay far below the difference.
pub(super) fn number(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

pub(super) fn revision(row: &SqlRow<'_>, column: usize) -> rusqlite::Result<Revision> {
    let number: i64 = row.get(column)?;
    u64::try_from(number).map(Revision).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, number))
}

pub(super) fn key(row: &SqlRow<'_>, column: usize) -> rusqlite::Result<Key> {
    let bytes = row.get_ref(column)?.as_blob()?;
    let text = std::str::from_utf8(bytes).map_err(|err| rusqlite::Error::Utf8Error(column, err))?;
    Ok(Key::from(text))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tempfile::tempdir;

    use super::*;
    use crate::embedded::open::connect;

    #[test]
    fn the_log_is_moved_as_a_whole_when_nobody_reads_what_was_before() {
        let dir = tempdir().unwrap();
        let path = dir.path().join("state.db");
        std::fs::File::create(&path).unwrap();
        let db = connect(&path).unwrap();
        db.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(v);").unwrap();
        let reader = connect(&path).unwrap();
        reader.execute_batch("BEGIN; SELECT count(*) FROM t;").unwrap();
        db.execute_batch("INSERT INTO t VALUES (1)").unwrap();
        assert!(!backfill(&db).unwrap());
        reader.execute_batch("COMMIT").unwrap();
        assert!(backfill(&db).unwrap());
    }

    #[test]
    fn giving_room_back_waits_for_nobody_who_reads() {
        let dir = tempdir().unwrap();
        let path = dir.path().join("state.db");
        std::fs::File::create(&path).unwrap();
        let db = connect(&path).unwrap();
        db.execute_batch(
            "PRAGMA auto_vacuum=INCREMENTAL; PRAGMA journal_mode=WAL; CREATE TABLE t(v); INSERT INTO t VALUES (zeroblob(99999));",
        )
        .unwrap();
        let reader = connect(&path).unwrap();
        reader.execute_batch("BEGIN; SELECT count(*) FROM t;").unwrap();
        db.execute_batch("DELETE FROM t").unwrap();
        let began = Instant::now();
        shrink(&db, 4, 8).unwrap();
        assert!(began.elapsed() < BUSY, "{:?}", began.elapsed());
        reader.execute_batch("COMMIT").unwrap();
        shrink(&db, 4, 8).unwrap();
        assert_eq!(std::fs::metadata(dir.path().join("state.db-wal")).unwrap().len(), 0);
    }
}
