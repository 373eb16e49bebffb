//! The index of a log, read from both ends at once: most of the time goes into fetching pages, for which a second processor is as good.

use std::{
    panic,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use rusqlite::Connection;

use super::{
    index::Index,
    log::{self, First, Head},
};
use crate::Revision;

/// Builds the index from the whole log, which nobody writes. What a row says beside its value is checked, and that no version is missing since
/// the last compaction: a key that is not where it was would look as if it had never been. With `other`, another connection to the same, rows
/// are read from the latest downwards, too, until both meet; `see` is told all in the order in which they were written.
pub(super) fn index(db: &Connection, other: Option<&mut Connection>, mut see: impl FnMut(&Head)) -> rusqlite::Result<Index> {
    let (mut index, compacted) = (Index::default(), log::compacted(db)?);
    // How far each has come. What both have read in the end is taken once.
    let (up, down) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
    thread::scope(|scope| {
        let latest = other.map(|other| scope.spawn(|| latest(other, &up, &down)));
        log::heads(db, First::Oldest, |head| {
            let at = head.slot.revision.0;
            if at >= down.load(Ordering::Acquire) {
                return Ok(false);
            }
            see(&head);
            take(&mut index, head, compacted)?;
            up.store(at, Ordering::Release);
            Ok(true)
        })?;
        let latest = latest.map_or(Ok(Vec::new()), |latest| latest.join().unwrap_or_else(|panic| panic::resume_unwind(panic)))?;
        let met = index.head();
        for head in latest.into_iter().rev().skip_while(|head| head.slot.revision <= met) {
            see(&head);
            take(&mut index, head, compacted)?;
        }
        Ok(index)
    })
}

/// The rows that were written last, the latest first, down to those that were read `up` to.
fn latest(db: &mut Connection, up: &AtomicU64, down: &AtomicU64) -> rusqlite::Result<Vec<Head>> {
    let mut found = Vec::new();
    log::heads(db, First::Latest, |head| {
        let at = head.slot.revision.0;
        if at <= up.load(Ordering::Acquire) {
            return Ok(false);
        }
        found.push(head);
        down.store(at, Ordering::Release);
        Ok(true)
    })?;
    Ok(found)
}

/// Adds the next row.
fn take(index: &mut Index, head: Head, compacted: Revision) -> rusqlite::Result<()> {
    let Head { key, slot, previous, deleted, .. } = head;
    if slot.revision <= index.head() {
        return Err(log::malformed(format!("revision {} of {key} stands after revision {}", slot.revision, index.head())));
    }
    let there = index.apply(&key, (!deleted).then_some(slot), slot.revision).map_or(Revision(0), |slot| slot.revision);
    if slot.revision > compacted && previous != there {
        let why = format!("revision {} of {key} supersedes revision {previous}, found is {there}: a row is missing", slot.revision);
        return Err(log::malformed(why));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tempfile::{TempDir, tempdir};

    use super::*;
    use crate::{
        Key,
        embedded::{Embedded, Options, index::Slot, log::Row, open},
    };

    const ROWS: u64 = 4000;

    /// A log in which keys are made, written again and deleted, with gaps of revisions.
    fn filled() -> (Connection, Connection, TempDir) {
        let dir = tempdir().unwrap();
        drop(Embedded::open(&Options::at(dir.path())).unwrap());
        let path = dir.path().join("state.db");
        let db = open::connect(&path).unwrap();
        let mut there: Vec<Option<Slot>> = vec![None; 500];
        db.execute_batch("BEGIN").unwrap();
        for n in 0..ROWS {
            let at = usize::try_from(n * 7919 % 500).unwrap();
            // Once many are skipped, as after a restore.
            let revision = Revision(n * 3 + if n > ROWS / 4 { 1_000_000_000 } else { 10 });
            let deleted = there[at].is_some() && n % 5 == 0;
            let created = there[at].map_or(revision, |slot| slot.created);
            let slot = Slot { revision, created, version: there[at].map_or(1, |slot| slot.version + 1), expires: None };
            let previous = there[at].map_or(Revision(0), |slot| slot.revision);
            let value = (!deleted).then(|| Bytes::from(vec![b'v'; 300]));
            log::append(&db, &Row { key: key(at), slot, previous, value }, Some(0)).unwrap();
            there[at] = (!deleted).then_some(slot);
        }
        db.execute_batch("COMMIT").unwrap();
        (db, open::reading(&path).unwrap(), dir)
    }

    fn key(n: usize) -> Key {
        format!("/k/{n:03}").into()
    }

    fn revisions(db: &Connection) -> Vec<u64> {
        let mut statement = db.prepare("SELECT rev FROM log ORDER BY rev").unwrap();
        statement.query_map([], |row| log::revision(row, 0)).unwrap().map(|revision| revision.unwrap().0).collect()
    }

    #[test]
    fn from_both_ends_every_row_is_told_once_and_in_order() {
        let (db, mut other, _dir) = filled();
        let alone = index(&db, None, |_| ()).unwrap();
        assert!(alone.count("/k/") > 300);
        for _ in 0..20 {
            let mut told = Vec::new();
            let both = index(&db, Some(&mut other), |head| told.push(head.slot.revision.0)).unwrap();
            assert_eq!(told, revisions(&db));
            assert!(both.iter().eq(alone.iter()) && both.head() == alone.head());
        }
    }

    #[test]
    fn the_later_end_is_read_down_to_what_the_other_has() {
        let (_db, mut other, _dir) = filled();
        let all = revisions(&other);
        for at in [0, 1, 999, all.len() - 1] {
            let down = AtomicU64::new(u64::MAX);
            let found = latest(&mut other, &AtomicU64::new(all[at]), &down).unwrap();
            assert!(found.iter().map(|head| &head.slot.revision.0).eq(all[at + 1..].iter().rev()));
            assert_eq!(down.into_inner(), all.get(at + 1).copied().unwrap_or(u64::MAX));
        }
    }

    #[test]
    fn what_is_wrong_is_named_wherever_it_stands() {
        for at in [0, ROWS / 2, ROWS - 1] {
            let (db, mut other, _dir) = filled();
            let revision = revisions(&db)[usize::try_from(at).unwrap()];
            db.execute("UPDATE log SET version = version + 1 WHERE rev = ?1", [log::number(Revision(revision))]).unwrap();
            let wrong = index(&db, Some(&mut other), |_| ()).err().unwrap().to_string();
            assert!(wrong.contains(&format!("revision {revision} does not match its checksum")), "{wrong}");
        }
        for at in [0, ROWS / 2, ROWS - 600] {
            let (db, mut other, _dir) = filled();
            let revision = revisions(&db)[usize::try_from(at).unwrap()];
            db.execute("DELETE FROM log WHERE rev = ?1", [log::number(Revision(revision))]).unwrap();
            let wrong = index(&db, Some(&mut other), |_| ()).err().unwrap().to_string();
            assert!(wrong.contains("a row is missing"), "{wrong}");
        }
    }

    #[test]
    fn a_row_that_does_not_stand_in_order_is_refused() {
        let (db, _other, _dir) = filled();
        let mut heads = Vec::new();
        log::heads(&db, First::Latest, |head| {
            heads.push(head);
            Ok(heads.len() < 2)
        })
        .unwrap();
        let (mut index, compacted) = (Index::default(), Revision(u64::MAX));
        let wrong = heads.into_iter().map(|head| take(&mut index, head, compacted)).find_map(Result::err).unwrap().to_string();
        assert!(wrong.contains("stands after"), "{wrong}");
    }
}
