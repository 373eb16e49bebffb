//! The contract, and what only a store on disk can be asked: reopening, locks, damage, full disks, kill -9.

mod crash;
mod relaxed;

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read, Write as _},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    thread::{self, ThreadId},
    time::Duration,
};

use futures::{StreamExt, future::join_all};
use parking_lot::Condvar;
use tempfile::{TempDir, tempdir};

use super::*;
use crate::{
    contract::{self, contract_tests, create, put},
    faulty::{Faults, Faulty},
};

fn on_disk() -> (Arc<dyn Store>, TempDir) {
    let dir = tempdir().unwrap();
    (Arc::new(open(dir.path())), dir)
}

fn in_memory() -> (Arc<dyn Store>, ()) {
    (Arc::new(Embedded::open(&Options::memory()).unwrap()), ())
}

fn slow() -> (Arc<dyn Store>, TempDir) {
    let (store, dir) = on_disk();
    let faults = Faults { seed: 3, delay: Duration::from_millis(1), ..Faults::default() };
    (Arc::new(Faulty::new(store, faults)), dir)
}

fn open(dir: &Path) -> Embedded {
    Embedded::open(&Options::at(dir)).unwrap()
}

contract_tests!(disk, on_disk());
contract_tests!(memory, in_memory());
contract_tests!(delayed, slow());

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn histories_hold_under_faults_from_thousands_of_seeds() {
    contract::histories_hold_under_faults(in_memory().0, 100..2600).await;
}

#[tokio::test]
async fn a_store_opened_again_is_what_it_was() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    let (id, filled) = (store.id().to_owned(), contract::fill(&store).await);
    store.close().await;
    assert!(matches!(store.commit(&"/late".into(), Expect::Absent, put("x")).await, Err(StoreError::Unavailable(_))));
    drop(store);
    assert!(!dir.path().join("state.db-wal").exists(), "closing leaves nothing to recover");
    let store = open(dir.path());
    assert_eq!((store.id(), id.len()), (id.as_str(), 32));
    contract::is_unchanged(&store, &filled).await;
}

#[tokio::test]
async fn revisions_go_on_after_everything_was_deleted_and_compacted() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    let created = create(&store, "/a", "1").await;
    let deleted = store.commit(&"/a".into(), Expect::At(created), Write::Delete).await.unwrap();
    store.compact(deleted).await.unwrap();
    store.close().await;
    let store = open(dir.path());
    assert_eq!(store.revision().await.unwrap(), deleted);
    assert!(create(&store, "/a", "2").await > deleted);
}

#[tokio::test]
async fn a_time_to_live_goes_on_over_a_restart() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    let mortal = Write::put_for("m", Duration::from_millis(50));
    let written = store.commit(&"/m".into(), Expect::Absent, mortal).await.unwrap();
    store.close().await;
    let store = open(dir.path());
    let events = contract::take(&store, "/m", written, 1).await;
    assert_eq!((events[0].after.clone(), events[0].revision > written), (None, true));
}

#[tokio::test]
async fn a_second_opening_is_refused_by_name_until_the_first_is_closed() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    let refused = Embedded::open(&Options::at(dir.path())).err().unwrap().to_string();
    assert!(refused.contains(dir.path().join("lock").to_str().unwrap()), "{refused}");
    assert!(refused.contains(&format!("pid {}", std::process::id())), "{refused}");
    store.close().await;
    open(dir.path()).close().await;
}

#[tokio::test]
async fn only_the_owner_can_read_the_files() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempdir().unwrap();
    let path = dir.path().join("state");
    let store = open(&path);
    create(&store, "/secret", "s").await;
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o077, 0);
    for file in fs::read_dir(&path).unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o077, 0, "{}", file.path().display());
    }
}

#[tokio::test]
async fn a_database_of_the_first_version_is_brought_up_to_date() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    let filled = contract::fill(&store).await;
    store.close().await;
    drop(store);
    let db = Connection::open(dir.path().join("state.db")).unwrap();
    db.execute_batch("ALTER TABLE log DROP COLUMN at; UPDATE meta SET v = 1 WHERE k = 'schema'").unwrap();
    drop(db);
    assert_eq!(Dump::open(dir.path()).unwrap().revision(), filled.1, "the first version can be read as it is");
    let store = open(dir.path());
    contract::is_unchanged(&store, &filled).await;
    create(&store, "/new", "x").await;
    let db = Connection::open(dir.path().join("state.db")).unwrap();
    assert_eq!(db.query_row("SELECT v FROM meta WHERE k = 'schema'", [], |row| row.get::<_, i64>(0)).unwrap(), 2);
    assert!(db.query_row("SELECT at FROM log ORDER BY rev DESC LIMIT 1", [], |row| row.get::<_, i64>(0)).unwrap() > 0);
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused() {
    let dir = tempdir().unwrap();
    open(dir.path()).close().await;
    let db = Connection::open(dir.path().join("state.db")).unwrap();
    db.execute("UPDATE meta SET v = 3 WHERE k = 'schema'", []).unwrap();
    drop(db);
    let refused = Embedded::open(&Options::at(dir.path())).err().unwrap().to_string();
    assert!(refused.contains("state.db has format 3, this version knows up to 2"), "{refused}");
}

#[tokio::test]
async fn a_path_that_is_no_directory_is_named() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, "x").unwrap();
    let refused = Embedded::open(&Options::at(&path)).err().unwrap().to_string();
    assert!(refused.starts_with(path.to_str().unwrap()), "{refused}");
}

#[tokio::test]
async fn a_damaged_value_is_reported_and_not_served() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    let sound = create(&store, "/sound", "s").await;
    let damaged = create(&store, "/damaged", "d").await;
    store.close().await;
    let db = Connection::open(dir.path().join("state.db")).unwrap();
    db.execute("UPDATE log SET v = x'00' WHERE rev = ?1", [damaged.to_string()]).unwrap();
    drop(db);
    let store = open(dir.path());
    assert_eq!(store.get(&"/sound".into()).await.unwrap().value.unwrap().revision, sound);
    let Err(StoreError::Corrupt(reason)) = store.get(&"/damaged".into()).await else { panic!("served") };
    assert!(reason.contains(&format!("revision {damaged}")), "{reason}");
    assert!(matches!(store.range("/", Page::default()).await, Err(StoreError::Corrupt(_))));
    let history: Vec<_> = store.watch("/", Revision(1)).collect().await;
    assert!(matches!(history[..], [Err(StoreError::Corrupt(_))]), "{history:?}");
}

#[tokio::test]
async fn all_that_is_there_is_told_once_by_several_threads() {
    const KEYS: usize = 1000;
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    let keys: Vec<String> = (0..KEYS).map(|n| format!("/s/{n:04}")).collect();
    join_all(keys.iter().map(|key| create(&store, key, key))).await;
    create(&store, "/other", "o").await;
    type Told = Vec<(ThreadId, Entry)>;
    let told: Arc<(Mutex<Told>, Condvar)> = Arc::default();
    let into = told.clone();
    let several = thread::available_parallelism().unwrap().get() > 1;
    let each = move |entries: &[Entry]| {
        let me = thread::current().id();
        let mut told = into.0.lock();
        told.extend(entries.iter().map(|entry| (me, entry.clone())));
        into.1.notify_all();
        // Who comes first waits for another.
        while several && !entries.is_empty() && told.iter().all(|(thread, _)| *thread == me) {
            assert!(!into.1.wait_for(&mut told, Duration::from_secs(20)).timed_out(), "nobody else reads");
        }
    };
    let revision = store.scan("/s/", Arc::new(each)).await.unwrap();
    let mut told: Vec<Entry> = told.0.lock().drain(..).map(|(_, entry)| entry).collect();
    told.sort_unstable_by(|one, other| one.key.cmp(&other.key));
    assert_eq!(At { value: told, revision }, store.range("/s/", Page::default()).await.unwrap());

    let damaged = store.get(&"/s/0500".into()).await.unwrap().value.unwrap().revision;
    let db = Connection::open(dir.path().join("state.db")).unwrap();
    db.execute("UPDATE log SET v = x'00' WHERE rev = ?1", [damaged.to_string()]).unwrap();
    drop(db);
    let Err(StoreError::Corrupt(reason)) = contract::scanned(&store, "/s/").await else { panic!("told") };
    assert!(reason.contains(&format!("revision {damaged}")), "{reason}");
}

#[tokio::test]
async fn a_directory_whose_name_is_no_text_is_as_good_as_another() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
    let dir = tempdir().unwrap();
    let store = open(&dir.path().join(OsStr::from_bytes(b"\xff")));
    let keys: Vec<String> = (0..200).map(|n| format!("/s/{n:04}")).collect();
    join_all(keys.iter().map(|key| create(&store, key, key))).await;
    assert_eq!(contract::scanned(&store, "/s/").await.unwrap().1.len(), keys.len());
    assert_eq!(store.past(&"/s/0007".into()).await.unwrap().versions.len(), 1);
    assert!(store.size().is_some_and(|bytes| bytes > 0));
}

#[tokio::test]
async fn what_a_row_says_beside_its_value_is_checked_when_the_store_is_opened() {
    let damages = ["k = x'2f78'", "del = 1", "create_rev = 1", "version = 7", "prev_rev = 1", "exp = 5"];
    for damage in damages {
        let dir = tempdir().unwrap();
        let store = open(dir.path());
        let first = create(&store, "/a", "1").await;
        store.commit(&"/a".into(), Expect::At(first), put("2")).await.unwrap();
        store.close().await;
        let db = Connection::open(dir.path().join("state.db")).unwrap();
        db.execute(&format!("UPDATE log SET {damage} WHERE rev = (SELECT max(rev) FROM log)"), []).unwrap();
        drop(db);
        let refused = Embedded::open(&Options::at(dir.path())).err().unwrap_or_else(|| panic!("{damage}: opened")).to_string();
        assert!(refused.contains("does not match its checksum") && refused.contains("coracle snapshot restore"), "{damage}: {refused}");
    }
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    let first = create(&store, "/a", "1").await;
    let second = store.commit(&"/a".into(), Expect::At(first), put("2")).await.unwrap();
    store.commit(&"/a".into(), Expect::At(second), put("3")).await.unwrap();
    store.close().await;
    let db = Connection::open(dir.path().join("state.db")).unwrap();
    db.execute("DELETE FROM log WHERE rev = ?1", [second.to_string()]).unwrap();
    drop(db);
    let refused = Embedded::open(&Options::at(dir.path())).err().unwrap().to_string();
    assert!(refused.contains("a row is missing"), "{refused}");
}

#[tokio::test]
async fn an_emptied_database_is_not_taken_for_a_new_one() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    create(&store, "/a", "1").await;
    store.close().await;
    for emptied in [true, false] {
        let file = dir.path().join("state.db");
        if emptied {
            fs::write(&file, "").unwrap();
        } else {
            fs::remove_file(&file).unwrap();
        }
        let refused = Embedded::open(&Options::at(dir.path())).err().unwrap().to_string();
        assert!(refused.contains("state.db is empty, but there was a database here"), "{refused}");
        assert_eq!(file.exists(), emptied, "none is made that would be in the way of what is restored");
    }
    fs::remove_file(dir.path().join("id")).unwrap();
    assert_eq!(open(dir.path()).range("", Page::default()).await.unwrap().value, []);
}

#[tokio::test]
async fn a_full_disk_refuses_puts_takes_deletes_and_recovers() {
    let dir = tempdir().unwrap();
    fill_and_recover(&Options { size_limit: Some(2 << 20), ..Options::at(dir.path()) }).await;
}

/// The same on a real, small file system, as `make unit` mounts one.
#[tokio::test]
#[ignore = "needs a small file system, named by STORE_SMALL_FS"]
async fn a_full_file_system_refuses_puts_takes_deletes_and_recovers() {
    let place = std::env::var("STORE_SMALL_FS").expect("STORE_SMALL_FS names a small file system");
    let dir = tempfile::tempdir_in(place).unwrap();
    let options = Options::at(dir.path());
    let store = Embedded::open(&options).unwrap();
    create(&store, "/first", "f").await;
    // The ballast is set aside a while after the start.
    while !dir.path().join("ballast").exists() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    store.close().await;
    fill_and_recover(&options).await;
}

#[tokio::test]
#[ignore = "needs a file system mounted read-only, named by STORE_READ_ONLY_FS"]
async fn a_read_only_disk_is_said_so_with_the_path() {
    let place = std::path::PathBuf::from(std::env::var("STORE_READ_ONLY_FS").expect("STORE_READ_ONLY_FS names a file system"));
    for folder in [place.join("absent"), place] {
        let Err(refused) = Embedded::open(&Options::at(&folder)) else { panic!("opened {}", folder.display()) };
        let text = refused.to_string();
        assert!(text.contains("Read-only file system") && text.contains(&*folder.to_string_lossy()), "{text}");
    }
}

async fn fill_and_recover(options: &Options) {
    let store = Embedded::open(options).unwrap();
    let mut written = Vec::new();
    let refused = loop {
        let key = Key::from(format!("/fill/{}", written.len()));
        match store.commit(&key, Expect::Absent, put(vec![1; 64 << 10])).await {
            Ok(revision) => written.push((key, revision)),
            Err(err) => break err,
        }
    };
    let StoreError::Unavailable(reason) = refused else { panic!("{refused}") };
    assert!(reason.contains("no room on the disk"), "{reason}");
    assert!(written.len() > 20, "{} writes fitted", written.len());
    let alarm = store.alarm().expect("a full disk is told");
    assert!(alarm.contains("Make room on the file system of"), "{alarm}");
    for (key, revision) in &written {
        assert_eq!(store.get(key).await.unwrap().value.unwrap().revision, *revision, "reads go on and nothing is lost");
    }
    for (key, revision) in &written {
        store.commit(key, Expect::At(*revision), Write::Delete).await.unwrap();
    }
    store.compact(store.revision().await.unwrap()).await.unwrap();
    let recovered = async {
        while store.commit(&"/again".into(), Expect::Absent, put(vec![1; 64 << 10])).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), recovered).await.expect("the store recovers without being opened again");
    store.health().unwrap();
    assert_eq!(store.alarm(), None);
}

#[tokio::test]
async fn a_store_that_cannot_trust_its_database_stops_and_says_so() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    let last = create(&store, "/a", "1").await;
    let mut events = store.watch("/", last);
    // Somebody else writes into the log: the writer's next row is refused by SQLite for a reason it does not know.
    let other = Connection::open(dir.path().join("state.db")).unwrap();
    let row = "INSERT INTO log(rev, k, create_rev, version, prev_rev, del, crc, v) VALUES (?1, x'2f62', 1, 1, 0, 0, 0, x'00')";
    other.execute(row, [(last.0 + 1).to_string()]).unwrap();
    for _ in 0..2 {
        let Err(StoreError::Unavailable(reason)) = store.commit(&"/b".into(), Expect::Absent, put("2")).await else { panic!("written") };
        assert!(reason.contains("stopped, it must be opened anew"), "{reason}");
    }
    assert!(store.health().is_err() && store.revision().await.is_err() && store.get(&"/a".into()).await.is_err());
    assert!(store.compact(last).await.is_err());
    assert!(store.failed().await.contains("stopped"));
    assert!(matches!(events.next().await, Some(Err(StoreError::Unavailable(reason))) if reason.contains("stopped")));
    store.close().await;
    other.execute("DELETE FROM log WHERE rev = ?1", [(last.0 + 1).to_string()]).unwrap();
    drop(other);
    assert_eq!(open(dir.path()).get(&"/a".into()).await.unwrap().value.unwrap().value, "1");
}

#[tokio::test]
async fn a_store_that_stops_while_it_is_closed_leaves_the_write_ahead_log_for_the_next_start() {
    let dir = tempdir().unwrap();
    let store = Embedded::open(&Options { relaxed_interval: Duration::from_secs(3600), ..Options::at(dir.path()) }).unwrap();
    let relaxed = || Write::Put { value: "r".into(), ttl: None, durability: crate::Durability::Relaxed };
    let first = store.commit(&"/r/1".into(), Expect::Absent, relaxed()).await.unwrap();
    let waits = store.commit(&"/r/2".into(), Expect::Absent, relaxed()).await.unwrap();
    let other = Connection::open(dir.path().join("state.db")).unwrap();
    let row = "INSERT INTO log(rev, k, create_rev, version, prev_rev, del, crc, v) VALUES (?1, x'2f62', 1, 1, 0, 0, 0, x'00')";
    other.execute(row, [waits.to_string()]).unwrap();
    drop(other);
    store.close().await;
    assert!(store.health().unwrap_err().to_string().contains("stopped, it must be opened anew"));
    drop(store);
    assert!(fs::metadata(dir.path().join("state.db-wal")).unwrap().len() > 0, "it was not moved");
    let other = Connection::open(dir.path().join("state.db")).unwrap();
    other.execute("DELETE FROM log WHERE rev = ?1", [waits.to_string()]).unwrap();
    drop(other);
    let store = open(dir.path());
    assert_eq!(store.get(&"/r/1".into()).await.unwrap().value.unwrap().revision, first);
    assert!(store.revision().await.unwrap() > waits);
}

#[tokio::test]
async fn the_write_ahead_log_is_moved_into_the_database_when_it_is_long() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    let length = |file: &str| fs::metadata(dir.path().join(file)).unwrap().len();
    for n in 0..6 {
        create(&store, &format!("/large/{n}"), &"x".repeat(3 << 20)).await;
    }
    store.flush().await.unwrap();
    let (database, log) = (length("state.db"), length("state.db-wal"));
    assert!(database > 8 << 20 && log < 16 << 20, "{database} and {log} bytes for 18 MiB");
    assert_eq!(store.range("/large/", Page::default()).await.unwrap().value.len(), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_sleeps_through_many_writes_reads_them_from_the_log() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    let start = store.revision().await.unwrap();
    let mut sleepy = store.watch("/s/", start);
    let first = create(&store, "/s/first", "f").await;
    assert_eq!(sleepy.next().await.unwrap().unwrap().revision, first);
    // More groups than are kept for it, and more rows than a page.
    for _ in 0..2 * GROUPS {
        let keys: Vec<_> = (0..10).map(|n| Key::from(format!("/s/{}-{n}", store.shared.head()))).collect();
        join_all(keys.iter().map(|key| store.commit(key, Expect::Absent, put("x"))))
            .await
            .into_iter()
            .for_each(|done| assert!(done.is_ok()));
    }
    let end = store.revision().await.unwrap();
    let mut expected = first;
    while expected < end {
        expected = Revision(expected.0 + 1);
        assert_eq!(sleepy.next().await.unwrap().unwrap().revision, expected);
    }
}

#[tokio::test]
async fn writes_that_wait_together_share_commits() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    let mut groups = store.shared.events.upgrade().unwrap().subscribe();
    let keys: Vec<_> = (0..150).map(|n| Key::from(format!("/boot/{n}"))).collect();
    let done = join_all(keys.iter().map(|key| store.commit(key, Expect::Absent, put("object")))).await;
    assert!(done.iter().all(Result::is_ok));
    let mut sizes = Vec::new();
    while let Ok(group) = groups.try_recv() {
        sizes.push(group.len());
    }
    assert_eq!(sizes.iter().sum::<usize>(), 150);
    assert!(sizes.len() <= 15, "{sizes:?}");
}

#[tokio::test]
async fn a_watch_ends_with_an_error_when_the_store_is_closed() {
    let store = Embedded::open(&Options::memory()).unwrap();
    let mut events = store.watch("/", Revision(1));
    store.close().await;
    assert!(matches!(events.next().await, Some(Err(StoreError::Unavailable(_)))));
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn superseded_versions_are_compacted_in_time_and_their_space_is_used_again() {
    let dir = tempdir().unwrap();
    let options = Options { keep: Duration::from_millis(20), compact_every: Duration::from_millis(10), ..Options::at(dir.path()) };
    let store = Embedded::open(&options).unwrap();
    let mut at = create(&store, "/k", "0").await;
    for _ in 0..300 {
        at = store.commit(&"/k".into(), Expect::At(at), put(vec![5; 10_000])).await.unwrap();
    }
    let compacted = async {
        loop {
            let first = store.watch("/", Revision(1)).next().await.unwrap();
            if first.is_err_and(|err| err == StoreError::Compacted { oldest: at }) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), compacted).await.expect("idle stores are compacted, too");
    store.close().await;
    let db = Connection::open(dir.path().join("state.db")).unwrap();
    let rows: u32 = db.query_row("SELECT count(*) FROM log", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 1);
}
