//! Whether a database is what was written to it: SQLite's own structures and every checksum. That no version of a key is missing is found
//! when the dump is opened, as when a store is: by reading the index.

use super::{
    dump::Dump,
    log::{self, LogError},
    open,
};
use crate::StoreError;

/// What was found of a sound database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Its layout.
    pub format: i64,
    /// Rows of the log: objects, superseded versions and deletions.
    pub rows: u64,
    /// Bytes of all values, superseded ones too.
    pub bytes: u64,
    /// Pages of the file that hold nothing, in bytes.
    pub free: u64,
}

impl Dump {
    /// Checks everything; the error names the first thing that is wrong.
    pub fn check(&self) -> Result<Checked, StoreError> {
        let corrupt = |why: String| StoreError::Corrupt(format!("{}: {why}", self.name));
        let sqlite = |err: rusqlite::Error| LogError::from(err).naming(&self.name);
        let sound: String = self.db.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)).map_err(sqlite)?;
        if sound != "ok" {
            return Err(corrupt(format!("the database's pages are damaged: {sound}")));
        }
        let number = |sql: &str| self.db.query_row(sql, [], |row| row.get::<_, u32>(0)).map(u64::from).map_err(sqlite);
        let free = number("PRAGMA freelist_count")? * number("PRAGMA page_size")?;
        let (rows, bytes) = self.rows()?;
        let format = open::schema(&self.db).map_err(sqlite)?;
        Ok(Checked { format, rows, bytes, free })
    }

    /// Every row against its checksum.
    fn rows(&self) -> Result<(u64, u64), StoreError> {
        let corrupt = |why: String| StoreError::Corrupt(format!("{}: {why}", self.name));
        let sqlite = |err: rusqlite::Error| LogError::from(err).naming(&self.name);
        let (mut count, mut bytes) = (0, 0);
        let mut statement = self.db.prepare("SELECT rev, k, create_rev, crc, v FROM log ORDER BY rev").map_err(sqlite)?;
        let mut rows = statement.query([]).map_err(sqlite)?;
        while let Some(row) = rows.next().map_err(sqlite)? {
            let at = log::revision(row, 0).map_err(sqlite)?;
            let key = log::key(row, 1).map_err(|err| corrupt(format!("revision {at}: its key is no text: {err}")))?;
            let value = log::sound(row, 3, at, key.as_str().as_bytes()).map_err(|err| match err {
                LogError::Checksum(_) => corrupt(format!("revision {at} of {key} does not match its checksum")),
                err => err.naming(&self.name),
            })?;
            let created = log::revision(row, 2).map_err(sqlite)?;
            if created > at {
                return Err(corrupt(format!("revision {at} of {key} says that it was created later, at {created}")));
            }
            count += 1;
            bytes += value.len() as u64;
        }
        Ok((count, bytes))
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;
    use tempfile::tempdir;

    use super::*;
    use crate::{
        Expect, Revision, Store,
        contract::put,
        embedded::{Embedded, Options},
    };

    #[tokio::test]
    async fn the_first_thing_that_is_wrong_is_named() {
        let dir = tempdir().unwrap();
        let store = Embedded::open(&Options::at(dir.path())).unwrap();
        let mut last = store.commit(&"/a".into(), Expect::Absent, put("0")).await.unwrap();
        for n in 1..9 {
            last = store.commit(&"/a".into(), Expect::At(last), put(n.to_string())).await.unwrap();
        }
        store.compact(Revision(4)).await.unwrap();
        let head = store.commit(&"/b".into(), Expect::Absent, put("b")).await.unwrap();
        store.close().await;
        drop(store);
        let file = dir.path().join("state.db");
        let checked = || Dump::open(dir.path()).unwrap().check();
        let found = checked().unwrap();
        assert_eq!((found.format, found.rows, found.bytes), (open::SCHEMA, head.0 - 3, head.0 - 3));

        let change = |sql: &str| Connection::open(&file).unwrap().execute(sql, []).unwrap();
        change(&format!("UPDATE log SET v = X'00' WHERE rev = {head}"));
        let wrong = checked().unwrap_err().to_string();
        assert!(wrong.contains(&format!("revision {head} of /b does not match its checksum")), "{wrong}");
        change("DELETE FROM log WHERE rev = 6");
        let wrong = Dump::open(dir.path()).err().unwrap().to_string();
        assert!(wrong.contains("revision 7 of /a supersedes revision 6, found is 5: a row is missing"), "{wrong}");
    }
}
