//! What the log still holds of one key: its earlier versions, until compaction removes them.

use rusqlite::{Connection, Row as SqlRow, params};

use super::log::{self, LogError};
use crate::{
    Key, Past, Revision, Version,
    past::{BYTES, VERSIONS},
};

const COLUMNS: &str = "rev, create_rev, prev_rev, del, at, crc, v";

/// A row of the log, and the revision of the one it supersedes.
struct Found {
    version: Version,
    previous: Revision,
}

/// The versions of `key` after the revision the log is compacted to, and the one that was there then; `last` is the revision of its
/// latest, if it is there now. Reads every row of the kept window once: nothing points from a key to its versions.
pub(super) fn read(db: &Connection, key: &Key, last: Option<Revision>) -> Result<Past, LogError> {
    let snapshot = db.unchecked_transaction()?;
    let since = log::compacted(&snapshot)?;
    let (mut versions, mut bytes, mut first) = (Vec::new(), 0, Revision(0));
    let mut complete = true;
    {
        let sql = format!("SELECT {COLUMNS} FROM log WHERE rev > ?1 AND k = ?2 ORDER BY rev DESC");
        let mut statement = snapshot.prepare_cached(&sql)?;
        let mut rows = statement.query(params![log::number(since), key.as_str().as_bytes()])?;
        while let Some(row) = rows.next()? {
            if versions.len() >= VERSIONS || bytes >= BYTES {
                complete = false;
                break;
            }
            let Found { version, previous } = found(row, key)?;
            bytes += version.value.as_ref().map_or(0, bytes::Bytes::len);
            first = previous;
            versions.push(version);
        }
    }
    // What the oldest of them superseded is a row from before, and so is the only one of an object nobody wrote since.
    let base = if versions.is_empty() { last.unwrap_or_default() } else { first };
    if complete && base > Revision(0) {
        let sql = format!("SELECT {COLUMNS} FROM log WHERE rev = ?1 AND k = ?2");
        let mut statement = snapshot.prepare_cached(&sql)?;
        let mut rows = statement.query(params![log::number(base), key.as_str().as_bytes()])?;
        if let Some(row) = rows.next()? {
            versions.push(found(row, key)?.version);
        }
    }
    snapshot.finish()?;
    versions.reverse();
    let since = if complete { since } else { versions.first().map_or(since, |version| version.revision) };
    Ok(Past { versions, since })
}

fn found(row: &SqlRow<'_>, key: &Key) -> Result<Found, LogError> {
    let revision = log::revision(row, 0)?;
    let deleted: bool = row.get(3)?;
    let value = log::sound(row, 5, revision, key.as_str().as_bytes())?;
    let version = Version { revision, created: log::revision(row, 1)?, at: row.get(4)?, value: (!deleted).then_some(value) };
    Ok(Found { version, previous: log::revision(row, 2)? })
}
