//! Relaxed writes: seen at once like any other, on disk a little later, and what a crash takes of them is all it takes.

use super::*;
use crate::{Durability, Event};

/// So long that nothing is flushed in a test unless it is made to.
const LONG: Duration = Duration::from_secs(3600);

fn relaxed(value: impl Into<bytes::Bytes>) -> Write {
    Write::Put { value: value.into(), ttl: None, durability: Durability::Relaxed }
}

fn lazy(dir: &Path) -> Embedded {
    Embedded::open(&Options { relaxed_interval: LONG, ..Options::at(dir) }).unwrap()
}

/// The store as a crash at this moment would leave it.
fn crashed(dir: &Path) -> (Embedded, TempDir) {
    let copy = copied(dir);
    (lazy(copy.path()), copy)
}

fn copied(dir: &Path) -> TempDir {
    let copy = tempdir().unwrap();
    for file in ["state.db", "state.db-wal"] {
        // There is no log before the first write.
        if dir.join(file).exists() {
            fs::copy(dir.join(file), copy.path().join(file)).unwrap();
        }
    }
    copy
}

async fn put_relaxed(store: &dyn Store, key: &str, value: &str) -> Revision {
    let key = Key::from(key);
    let found = store.get(&key).await.unwrap().value;
    let expect = found.map_or(Expect::Absent, |entry| Expect::At(entry.revision));
    store.commit(&key, expect, relaxed(value.to_owned())).await.unwrap()
}

fn all_relaxed(interval: Duration) -> (Arc<dyn Store>, TempDir) {
    let dir = tempdir().unwrap();
    let store = Embedded::open(&Options { relaxed_interval: interval, ..Options::at(dir.path()) }).unwrap();
    (Arc::new(Faulty::new(Arc::new(store), Faults { relaxed: true, ..Faults::default() })), dir)
}

contract_tests!(waiting_long, all_relaxed(LONG));
contract_tests!(flushed_often, all_relaxed(Duration::from_millis(2)));

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn histories_hold_however_often_what_waits_is_flushed() {
    for interval in [LONG, Duration::from_millis(1)] {
        contract::histories_hold_under_faults(all_relaxed(interval).0, 5000..5100).await;
    }
}

#[tokio::test]
async fn a_relaxed_write_is_seen_at_once_and_is_lost_in_a_crash_and_its_revision_never_comes_again() {
    let dir = tempdir().unwrap();
    let store = lazy(dir.path());
    let strict = create(&store, "/strict", "s").await;
    // The first reserves revisions, which is durable; so is what is written with it.
    let first = put_relaxed(&store, "/lease", "1").await;
    let mut last = first;
    for n in 2..40 {
        last = put_relaxed(&store, "/lease", &n.to_string()).await;
    }
    let read = store.range("/", Page::default()).await.unwrap();
    let values: Vec<_> = read.value.iter().map(|entry| (entry.key.as_str(), &entry.value[..])).collect();
    assert_eq!((values, read.revision), (vec![("/lease", &b"39"[..]), ("/strict", &b"s"[..])], last));
    let told: Vec<Event> = contract::take(&store, "/", strict, 39).await;
    assert_eq!(told.iter().map(|event| event.revision.0).collect::<Vec<_>>(), (first.0..=last.0).collect::<Vec<_>>());
    assert_eq!(contract::take(&store, "/", Revision(last.0 - 1), 1).await[0].revision, last, "from where only memory reaches");

    let (after, _copy) = crashed(dir.path());
    assert_eq!(after.get(&"/strict".into()).await.unwrap().value.unwrap().value, "s");
    let lease = after.get(&"/lease".into()).await.unwrap();
    assert_eq!(lease.value.unwrap().revision, first, "what waited is lost");
    assert!(lease.revision > last, "{} was handed out, now it is {}", last, lease.revision);
    assert!(create(&after, "/next", "n").await > last);
    let late = after.commit(&"/lease".into(), Expect::At(last), put("x")).await;
    assert_eq!(late, Err(StoreError::Moved { now: first }), "an expectation of what was lost is not met by something else");
}

#[tokio::test]
async fn a_strict_write_takes_the_relaxed_ones_before_it_to_disk() {
    let dir = tempdir().unwrap();
    let store = lazy(dir.path());
    put_relaxed(&store, "/lease", "0").await;
    let second = put_relaxed(&store, "/lease", "1").await;
    let event = put_relaxed(&store, "/event", "e").await;
    let strict = create(&store, "/strict", "s").await;
    put_relaxed(&store, "/lease", "2").await;
    let (after, _copy) = crashed(dir.path());
    let found = after.range("/", Page::default()).await.unwrap().value;
    let found: Vec<_> = found.iter().map(|entry| (entry.key.as_str(), entry.revision)).collect();
    assert_eq!(found, [("/event", event), ("/lease", second), ("/strict", strict)]);
    let deleted = store.commit(&"/event".into(), Expect::At(event), Write::Delete).await.unwrap();
    let (after, _copy) = crashed(dir.path());
    assert_eq!(after.get(&"/lease".into()).await.unwrap().value.unwrap().value, "2", "so does a delete");
    assert!(after.get(&"/event".into()).await.unwrap().value.is_none() && deleted > strict);
}

#[tokio::test]
async fn what_waits_is_written_after_the_interval_and_when_it_is_much() {
    let dir = tempdir().unwrap();
    let store = Embedded::open(&Options { relaxed_interval: Duration::from_millis(20), ..Options::at(dir.path()) }).unwrap();
    put_relaxed(&store, "/lease", "0").await;
    let written = put_relaxed(&store, "/lease", "1").await;
    let flushed = async {
        while store.shared.index.read().waiting().len() > 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), flushed).await.expect("nobody has to ask for it");
    let (after, _copy) = crashed(dir.path());
    assert_eq!(after.get(&"/lease".into()).await.unwrap().value.unwrap().revision, written);

    let dir = tempdir().unwrap();
    let store = lazy(dir.path());
    let mut most = 0;
    for _ in 0..30 {
        put_relaxed(&store, "/event", &"x".repeat(100 << 10)).await;
        most = most.max(store.shared.index.read().waiting().map(|row| row.value.as_ref().map_or(0, bytes::Bytes::len)).sum());
    }
    assert!((500 << 10..=1 << 20).contains(&most), "{most} bytes waited");
}

#[tokio::test]
async fn revisions_stay_above_all_that_were_handed_out_over_many_crashes() {
    let mut dir = tempdir().unwrap();
    let mut highest = Revision(0);
    for round in 0..8 {
        let store = lazy(dir.path());
        assert!(store.revision().await.unwrap() >= highest, "round {round}");
        // More than are reserved at a time, in some rounds, and none at all in others.
        let writes = [3000, 0, 1, 6000, 0, 2, 4096, 5][round];
        for chunk in (0..writes).collect::<Vec<u64>>().chunks(200) {
            let keys: Vec<_> = chunk.iter().map(|n| Key::from(format!("/{round}/{n}"))).collect();
            let done = join_all(keys.iter().map(|key| store.commit(key, Expect::Absent, relaxed("x")))).await;
            let done: Vec<_> = done.into_iter().map(Result::unwrap).collect();
            assert!(done.iter().all(|revision| *revision > highest), "round {round}: {done:?} after {highest}");
            highest = done.into_iter().max().unwrap_or(highest);
        }
        let copy = copied(dir.path());
        store.close().await;
        dir = copy;
    }
}

#[tokio::test]
async fn the_last_revision_that_was_reserved_is_passed_over_too() {
    let dir = tempdir().unwrap();
    let store = lazy(dir.path());
    let first = put_relaxed(&store, "/first", "f").await;
    let mut last = first;
    for chunk in (1..=4096).collect::<Vec<u64>>().chunks(128) {
        let keys: Vec<_> = chunk.iter().map(|n| Key::from(format!("/{n}"))).collect();
        let done = join_all(keys.iter().map(|key| store.commit(key, Expect::Absent, relaxed("")))).await;
        last = done.into_iter().map(Result::unwrap).max().unwrap().max(last);
    }
    assert_eq!(last.0, first.0 + 4096);
    let (after, _copy) = crashed(dir.path());
    let found = after.range("/", Page::default()).await.unwrap();
    assert_eq!(found.value.len(), 1, "all of them were lost but the first");
    assert!(found.revision > last, "a state of {last} is not what is there at {}", found.revision);
}

#[tokio::test]
async fn a_flush_that_could_not_be_done_is_not_said_to_be() {
    let dir = tempdir().unwrap();
    let store = lazy(dir.path());
    store.flush().await.unwrap();
    put_relaxed(&store, "/lease", "1").await;
    let second = put_relaxed(&store, "/lease", "2").await;
    let other = Connection::open(dir.path().join("state.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let Err(StoreError::Unavailable(why)) = store.flush().await else { panic!("flushed") };
    assert!(why.contains("could not be written yet"), "{why}");
    other.execute_batch("ROLLBACK").unwrap();
    store.flush().await.unwrap();
    let (after, _copy) = crashed(dir.path());
    assert_eq!(after.get(&"/lease".into()).await.unwrap().value.unwrap().revision, second);
}

/// On a real, small file system, as `make unit` mounts one.
#[tokio::test]
#[ignore = "needs a small file system, named by STORE_SMALL_FS"]
async fn closing_on_a_full_disk_writes_what_waits_into_the_room_of_the_ballast() {
    let place = std::env::var("STORE_SMALL_FS").expect("STORE_SMALL_FS names a small file system");
    let dir = tempfile::tempdir_in(place).unwrap();
    let (ballast, filler) = (dir.path().join("ballast"), dir.path().join("filler"));
    // As it is set aside a while after the start.
    fs::write(&ballast, vec![0; 4 << 20]).unwrap();
    let store = Embedded::open(&Options { relaxed_interval: LONG, ballast: 4 << 20, ..Options::at(dir.path()) }).unwrap();
    put_relaxed(&store, "/lease", "1").await;
    let last = put_relaxed(&store, "/lease", &"x".repeat(300 << 10)).await;
    let mut file = fs::File::create(&filler).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    store.close().await;
    drop(store);
    assert!(!ballast.exists());
    fs::remove_file(&filler).unwrap();
    assert_eq!(lazy(dir.path()).get(&"/lease".into()).await.unwrap().value.unwrap().revision, last);
}

#[tokio::test]
async fn closing_writes_what_waits_and_skips_no_revision() {
    let dir = tempdir().unwrap();
    let store = lazy(dir.path());
    create(&store, "/strict", "s").await;
    put_relaxed(&store, "/lease", "1").await;
    let last = put_relaxed(&store, "/lease", "2").await;
    store.close().await;
    let store = lazy(dir.path());
    assert_eq!(store.get(&"/lease".into()).await.unwrap().value.unwrap().revision, last);
    assert_eq!(create(&store, "/next", "n").await.0, last.0 + 1);
}

#[tokio::test]
async fn without_an_interval_nothing_waits() {
    let dir = tempdir().unwrap();
    let store = Embedded::open(&Options { relaxed_interval: Duration::ZERO, ..Options::at(dir.path()) }).unwrap();
    let mut last = Revision(0);
    for n in 0..5 {
        last = put_relaxed(&store, "/lease", &n.to_string()).await;
    }
    let (after, _copy) = crashed(dir.path());
    assert_eq!(after.get(&"/lease".into()).await.unwrap().value.unwrap().revision, last);
    assert_eq!(after.revision().await.unwrap(), last, "nothing was reserved");
}

#[tokio::test]
async fn a_full_disk_keeps_what_waits_until_there_is_room() {
    let dir = tempdir().unwrap();
    let store = Embedded::open(&Options { size_limit: Some(2 << 20), relaxed_interval: LONG, ..Options::at(dir.path()) }).unwrap();
    put_relaxed(&store, "/lease", "0").await;
    let mut filled = Vec::new();
    let waited = loop {
        let waited = put_relaxed(&store, "/lease", &filled.len().to_string()).await;
        match store.commit(&format!("/fill/{}", filled.len()).into(), Expect::Absent, put(vec![1; 64 << 10])).await {
            Ok(revision) => filled.push(revision),
            Err(StoreError::Unavailable(reason)) => break (waited, reason),
            Err(err) => panic!("{err}"),
        }
    };
    assert!(waited.1.contains("no room on the disk"), "{}", waited.1);
    assert_eq!(store.get(&"/lease".into()).await.unwrap().value.unwrap().revision, waited.0, "acknowledged, so it is there");
    let refused = store.commit(&"/lease".into(), Expect::At(waited.0), relaxed("more")).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    for (n, revision) in filled.iter().enumerate() {
        store.commit(&format!("/fill/{n}").into(), Expect::At(*revision), Write::Delete).await.unwrap();
    }
    store.close().await;
    assert_eq!(lazy(dir.path()).get(&"/lease".into()).await.unwrap().value.unwrap().revision, waited.0);
}

#[tokio::test]
async fn an_idle_store_with_a_heartbeat_syncs_once_an_interval() {
    let dir = tempdir().unwrap();
    let store = lazy(dir.path());
    put_relaxed(&store, "/lease", "0").await;
    let before = fs::metadata(dir.path().join("state.db-wal")).unwrap().len();
    for n in 0..200 {
        put_relaxed(&store, "/lease", &n.to_string()).await;
    }
    assert_eq!(fs::metadata(dir.path().join("state.db-wal")).unwrap().len(), before, "no byte was written");
    create(&store, "/strict", "s").await;
    let written = fs::metadata(dir.path().join("state.db-wal")).unwrap().len() - before;
    assert!(written < 200 * 1024, "{written} bytes for 200 heartbeats");
}
