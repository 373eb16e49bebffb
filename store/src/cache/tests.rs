//! The cache in front of the memory store, also when it breaks.

use std::collections::BTreeMap;

use super::*;
use crate::{
    Expect, StoreError, Write,
    contract::{create, put},
    embedded::{Embedded, Options},
    faulty::{Faults, Faulty},
};

/// Wire bytes are `revision:value`; the fact is the value's length.
struct Plain;

impl Decode<usize> for Plain {
    fn decode(&self, _key: &Key, stored: &Bytes, revision: Revision) -> Decoded<usize> {
        Decoded { wire: wire(stored, revision), facts: stored.len() }
    }

    fn departed(&self, last: &Cached<usize>, revision: Revision) -> Bytes {
        let value = {
            let wire = last.wire();
            wire.iter().position(|byte| *byte == b':').map(|at| wire.slice(at + 1..)).unwrap()
        };
        wire(&value, revision)
    }

    fn word<'c>(&self, object: &'c Cached<usize>) -> &'c str {
        if object.facts == 3 { "three" } else { "" }
    }
}

fn wire(value: &[u8], revision: Revision) -> Bytes {
    format!("{revision}:{}", std::str::from_utf8(value).unwrap()).into()
}

fn memory() -> Arc<dyn Store> {
    Arc::new(Embedded::open(&Options::memory()).unwrap())
}

fn cache(store: &Arc<dyn Store>) -> Cache<usize> {
    Cache::start(store.clone(), Arc::new(Plain))
}

fn limited(store: &Arc<dyn Store>, limits: Limits) -> Cache<usize> {
    Cache::start_with(store.clone(), Arc::new(Plain), limits)
}

async fn update(store: &dyn Store, key: &str, value: &str) -> Revision {
    let found = store.get(&key.into()).await.unwrap().value.unwrap();
    store.commit(&key.into(), Expect::At(found.revision), put(value.to_owned())).await.unwrap()
}

async fn delete(store: &dyn Store, key: &str) -> Revision {
    let found = store.get(&key.into()).await.unwrap().value.unwrap();
    store.commit(&key.into(), Expect::At(found.revision), Write::Delete).await.unwrap()
}

fn wires(snapshot: &Snapshot<usize>) -> Vec<String> {
    snapshot.iter().map(|cached| String::from_utf8(cached.wire().to_vec()).unwrap()).collect()
}

#[tokio::test]
async fn a_read_of_the_latest_sees_every_write_acknowledged_before_it() {
    let store = memory();
    let before = create(&*store, "/pods/old", "o").await;
    let cache = cache(&store);
    let pods = cache.collection("/pods");
    assert_eq!(pods.prefix(), "/pods/");
    assert_eq!(pods.get("/pods/old", Freshness::Latest).await.unwrap().wire().unwrap(), &format!("{before}:o"));
    for n in 0..100 {
        let revision = create(&*store, &format!("/pods/{n}"), "x").await;
        let read = pods.get(&format!("/pods/{n}"), Freshness::Latest).await.unwrap();
        assert!(read.revision >= revision);
        assert_eq!(read.value.unwrap().revision, revision);
    }
    let deleted = delete(&*store, "/pods/old").await;
    let read = pods.get("/pods/old", Freshness::Latest).await.unwrap();
    assert!(read.value.is_none() && read.revision >= deleted);
    let elsewhere = create(&*store, "/nodes/n", "n").await;
    assert!(pods.snapshot(Freshness::Latest).await.unwrap().revision >= elsewhere, "the revision is the store's, not the collection's");
}

#[tokio::test]
async fn a_snapshot_stands_still_and_is_read_from_any_key_on() {
    let store = memory();
    let cache = cache(&store);
    let pods = cache.collection("/pods/");
    for key in ["/pods/a/1", "/pods/a/2", "/pods/a/3", "/pods/b/1"] {
        create(&*store, key, "x").await;
    }
    let snapshot = pods.snapshot(Freshness::Latest).await.unwrap();
    delete(&*store, "/pods/a/2").await;
    let keys = |snapshot: &Snapshot<usize>, prefix, after| -> Vec<String> {
        snapshot.range(prefix, after).map(|cached| cached.key.to_string()).collect()
    };
    assert_eq!(keys(&snapshot, "/pods/a/", None), ["/pods/a/1", "/pods/a/2", "/pods/a/3"]);
    assert_eq!(keys(&snapshot, "/pods/a/", Some("/pods/a/1")), ["/pods/a/2", "/pods/a/3"]);
    assert_eq!(keys(&snapshot, "/pods/", Some("/pods/a/3")), ["/pods/b/1"]);
    assert_eq!((snapshot.len(), snapshot.is_empty()), (4, false));
    assert_eq!(pods.snapshot(Freshness::Latest).await.unwrap().len(), 3);
}

#[tokio::test]
async fn what_was_forgotten_is_not_taken_for_the_state_at_a_revision() {
    let store = memory();
    let cache = cache(&store);
    let pods = cache.collection("/pods/");
    let revision = create(&*store, "/pods/a", "x").await;
    pods.snapshot(Freshness::Latest).await.unwrap();
    assert_eq!(pods.rebuild(revision).unwrap().len(), 1);
    pods.forget();
    assert!(matches!(pods.rebuild(revision), Err(Error::Unavailable(_))));
}

#[tokio::test]
async fn the_state_at_an_exact_revision_is_rebuilt_while_the_ring_reaches() {
    let store = memory();
    let cache = limited(&store, Limits { events: 50, ..Limits::default() });
    let pods = cache.collection("/pods/");
    pods.snapshot(Freshness::Any).await.unwrap();
    let mut states = Vec::new();
    for n in 0..60u64 {
        let key = format!("/pods/{}", n % 4);
        match (store.get(&key.as_str().into()).await.unwrap().value, n % 7) {
            (None, _) => create(&*store, &key, &n.to_string()).await,
            (Some(_), 6) => delete(&*store, &key).await,
            (Some(_), _) => update(&*store, &key, &n.to_string()).await,
        };
        let now = pods.snapshot(Freshness::Latest).await.unwrap();
        states.push((now.revision, wires(&now)));
    }
    let floor = states[states.len() - 51].0;
    for (revision, expected) in states {
        match pods.snapshot(Freshness::Exact(revision)).await {
            Ok(snapshot) => assert_eq!((snapshot.revision, wires(&snapshot)), (revision, expected)),
            Err(err) => assert!(revision < floor && err == Error::Expired { oldest: floor }, "{revision}: {err}"),
        }
    }
    let read = pods.get("/pods/0", Freshness::Exact(floor)).await.unwrap();
    assert_eq!(read.revision, floor);
}

#[tokio::test]
async fn a_revision_that_is_not_there_yet_is_waited_for_but_not_for_ever() {
    let store = memory();
    let cache = cache(&store);
    let pods = cache.collection("/pods/");
    let now = create(&*store, "/pods/a", "a").await;
    let next = Revision(now.0 + 1);
    let (read, written) = tokio::join!(pods.get("/pods/b", Freshness::NotOlderThan(next)), create(&*store, "/pods/b", "b"));
    assert_eq!((read.unwrap().value.unwrap().revision, written), (next, next));
    let future = Revision(next.0 + 1000);
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    assert_eq!(pods.snapshot(Freshness::NotOlderThan(future)).await.err(), Some(Error::TooNew { asked: future, current: next }));
    assert!(began.elapsed() >= Limits::default().wait);
    assert_eq!(pods.snapshot(Freshness::Exact(future)).await.err(), Some(Error::TooNew { asked: future, current: next }));
}

#[tokio::test]
async fn a_watch_goes_on_exactly_where_its_snapshot_ends() {
    let store = memory();
    let cache = cache(&store);
    let pods = cache.collection("/pods/");
    let first = create(&*store, "/pods/a", "1").await;
    let (snapshot, mut watcher) = pods.snapshot_and_watch(Freshness::Latest).await.unwrap();
    assert_eq!((wires(&snapshot), watcher.try_batch().unwrap().is_none()), (vec![format!("{first}:1")], true));
    let second = update(&*store, "/pods/a", "22").await;
    let batch = watcher.next_batch().await.unwrap();
    assert_eq!(batch.changes.len(), 1);
    let change = &batch.changes[0];
    assert_eq!((change.revision, change.before.as_ref().unwrap().revision), (second, first));
    let after = change.after.as_ref().unwrap();
    assert_eq!((after.wire(), after.facts, after.created), (format!("{second}:22").into(), 2, first));
    let third = delete(&*store, "/pods/a").await;
    let batch = watcher.next_batch().await.unwrap();
    assert!(batch.changes[0].after.is_none());
    assert_eq!(batch.changes[0].departed().unwrap(), format!("{third}:22"), "the last state carries the revision of its end");
    let mut late = pods.watch(first).await.unwrap();
    let revisions: Vec<_> = late.next_batch().await.unwrap().changes.iter().map(|change| change.revision).collect();
    assert_eq!(revisions, [second, third]);
}

#[tokio::test]
async fn a_watcher_knows_how_far_it_is_without_events_of_its_own() {
    let store = memory();
    let cache = cache(&store);
    let pods = cache.collection("/pods/");
    let mut watcher = pods.watch(Revision(1)).await.unwrap();
    let elsewhere = create(&*store, "/nodes/a", "a").await;
    pods.snapshot(Freshness::Latest).await.unwrap();
    assert!(watcher.try_batch().unwrap().is_none());
    assert_eq!(watcher.reached().unwrap(), elsewhere);
    let own = create(&*store, "/pods/a", "a").await;
    pods.snapshot(Freshness::Latest).await.unwrap();
    assert!(watcher.reached().unwrap() < own, "not while a change is waiting for it");
    assert_eq!(watcher.next_batch().await.unwrap().revision, own);
    assert_eq!(watcher.reached().unwrap(), own);
}

#[tokio::test]
async fn large_backlogs_come_in_batches_without_a_gap() {
    let store = memory();
    let cache = cache(&store);
    let pods = cache.collection("/pods/");
    let mut watcher = pods.watch(Revision(1)).await.unwrap();
    for n in 0..600 {
        create(&*store, &format!("/pods/{n}"), "x").await;
    }
    pods.snapshot(Freshness::Latest).await.unwrap();
    let mut next = Revision(2);
    let mut batches = 0;
    while let Some(batch) = watcher.try_batch().unwrap() {
        assert_eq!(batch.changes.last().unwrap().revision, batch.revision);
        for change in batch.changes {
            assert_eq!(change.revision, next);
            next = Revision(next.0 + 1);
        }
        batches += 1;
    }
    assert_eq!((next, batches), (Revision(602), 3));
}

#[tokio::test]
async fn a_watcher_behind_the_ring_is_told_so() {
    let store = memory();
    let cache = limited(&store, Limits { events: 10, ..Limits::default() });
    let pods = cache.collection("/pods/");
    let mut watcher = pods.watch(Revision(1)).await.unwrap();
    for n in 0..11 {
        create(&*store, &format!("/pods/{n}"), "x").await;
    }
    pods.snapshot(Freshness::Latest).await.unwrap();
    let expired = Error::Expired { oldest: Revision(2) };
    assert_eq!(watcher.next_batch().await.err(), Some(expired.clone()));
    assert_eq!(pods.watch(Revision(1)).await.err(), Some(expired));
    assert!(pods.watch(Revision(2)).await.is_ok());
}

#[tokio::test]
async fn encodings_that_watchers_made_go_with_those_who_keep_up() {
    let store = memory();
    let cache = cache(&store);
    let pods = cache.collection("/pods/");
    let mut watcher = pods.watch(Revision(1)).await.unwrap();
    let mut reading = Vec::new();
    for n in 0..600 {
        create(&*store, &format!("/pods/{n}"), "x").await;
        for change in watcher.next_batch().await.unwrap().changes {
            change.frames.get_or_make(0, || vec![0; 2000].into());
            reading.push(change);
        }
    }
    let made: Vec<_> = reading.iter().map(|change| change.frames.bytes()).collect();
    assert!(made[..300].iter().all(|bytes| *bytes == 0) && made[400..].iter().all(|bytes| *bytes == 2000), "{made:?}");
}

#[tokio::test]
async fn who_is_late_for_more_than_a_ring_may_hold_keeps_no_encodings_in_it() {
    let store = memory();
    let cache = limited(&store, Limits { bytes: 1_000_000, ..Limits::default() });
    let pods = cache.collection("/pods/");
    create(&*store, "/pods/a", &"x".repeat(10_000)).await;
    for n in 0..500 {
        update(&*store, "/pods/a", &format!("{n}{}", "x".repeat(10_000))).await;
        pods.snapshot(Freshness::Latest).await.unwrap();
    }
    let mut late = pods.watch(Revision(1)).await.unwrap();
    let mut told = Vec::new();
    while let Some(batch) = late.try_batch().unwrap() {
        told.extend(batch.changes);
    }
    told.iter().for_each(|change| drop(change.frames.get_or_make(0, || change.after.as_ref().unwrap().wire())));
    let held: usize = told.iter().map(|change| change.frames.bytes()).sum();
    assert!(told.len() > 450 && held > 0 && held <= 1_000_000 + 256 * 10_000, "{} changes, {held} bytes", told.len());
    assert!(told[..200].iter().all(|change| change.frames.bytes() == 0));
}

#[tokio::test]
async fn encodings_of_objects_go_when_nobody_asks_for_them() {
    let store = memory();
    let cache = cache(&store);
    let pods = cache.collection("/pods/");
    create(&*store, "/pods/a", "1").await;
    let pod = pods.get("/pods/a", Freshness::Latest).await.unwrap().value.unwrap();
    pod.forms.get_or_make(0, || Bytes::from_static(b"made"));
    cache.age_forms();
    assert_eq!(pod.forms.bytes(), 4);
    cache.age_forms();
    assert_eq!(pod.forms.bytes(), 0);
}

#[tokio::test]
async fn a_ring_tells_all_changes_of_large_objects_in_little_room() {
    let store = memory();
    let cache = limited(&store, Limits { bytes: 2_000_000, ..Limits::default() });
    let pods = cache.collection("/pods/");
    let text = |n: u32| format!("{n}{}", "x".repeat(10_000));
    create(&*store, "/pods/a", &text(0)).await;
    for n in 1..1_000 {
        update(&*store, "/pods/a", &text(n)).await;
        pods.snapshot(Freshness::Latest).await.unwrap();
    }
    let mut watcher = pods.watch(Revision(1)).await.unwrap();
    let (mut told, mut before) = (Vec::new(), None);
    while let Some(batch) = watcher.try_batch().unwrap() {
        for change in batch.changes {
            assert!(change.before.as_ref().map(|cached| cached.wire()) == before);
            before = change.after.as_ref().map(|cached| cached.wire());
            told.push(before.clone().unwrap());
        }
    }
    let wanted: Vec<_> = (0..1_000).map(|n| format!("{}:{}", n + 2, text(n))).collect();
    assert!(told == wanted, "{}", told.len());
}

#[tokio::test]
async fn old_changes_are_dropped_when_nothing_happens() {
    let store = memory();
    let cache = cache(&store);
    let pods = cache.collection("/pods/");
    pods.snapshot(Freshness::Any).await.unwrap();
    create(&*store, "/pods/a", "1").await;
    let last = update(&*store, "/pods/a", "2").await;
    pods.snapshot(Freshness::Latest).await.unwrap();
    assert!(pods.watch(Revision(1)).await.is_ok());
    tokio::time::pause();
    tokio::time::sleep(2 * Limits::default().age).await;
    assert_eq!(pods.watch(Revision(1)).await.err(), Some(Error::Expired { oldest: last }));
    assert!(pods.watch(last).await.is_ok(), "a reader that missed nothing goes on");
}

#[tokio::test]
async fn an_old_state_expires_even_where_nothing_changed_since() {
    let store = memory();
    let cache = cache(&store);
    let (pods, leases) = (cache.collection("/pods/"), cache.collection("/leases/"));
    let first = create(&*store, "/pods/a", "1").await;
    pods.snapshot(Freshness::Latest).await.unwrap();
    tokio::time::pause();
    assert_eq!(pods.snapshot(Freshness::Exact(first)).await.unwrap().len(), 1);
    let mut last = first;
    for n in 0..2 {
        last = create(&*store, &format!("/leases/{n}"), "x").await;
        leases.snapshot(Freshness::Latest).await.unwrap();
        tokio::time::advance(Limits::default().history).await;
    }
    assert_eq!(pods.snapshot(Freshness::Exact(first)).await.err(), Some(Error::Expired { oldest: last }));
    assert!(pods.watch(first).await.is_ok(), "a watcher has missed nothing");
    assert_eq!(pods.snapshot(Freshness::Exact(last)).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_collection_made_later_is_loaded_and_one_removed_is_gone() {
    let store = memory();
    let cache = cache(&store);
    create(&*store, "/crs/a", "a").await;
    cache.collection("/pods/").snapshot(Freshness::Latest).await.unwrap();
    let crs = cache.collection("/crs/");
    assert!(Arc::ptr_eq(&crs, &cache.collection("/crs")));
    let (snapshot, mut watcher) = crs.snapshot_and_watch(Freshness::Latest).await.unwrap();
    assert_eq!(snapshot.len(), 1);
    cache.remove("/crs/");
    assert_eq!(watcher.next_batch().await.err(), Some(Error::Ended));
    assert!(crs.current().is_none());
    let again = cache.collection("/crs/");
    assert!(!Arc::ptr_eq(&crs, &again));
    assert_eq!(again.snapshot(Freshness::Latest).await.unwrap().len(), 1);
}

#[tokio::test]
async fn reads_outlast_a_collection_that_is_read_again_and_watches_of_it_end() {
    let store = memory();
    let cache = cache(&store);
    create(&*store, "/crs/a", "a").await;
    let crs = cache.collection("/crs/");
    let (_, mut watcher) = crs.snapshot_and_watch(Freshness::Latest).await.unwrap();
    let reads = async {
        for _ in 0..500 {
            assert!(crs.get("/crs/a", Freshness::Latest).await.unwrap().value.is_some());
            assert_eq!(crs.snapshot(Freshness::Latest).await.unwrap().len(), 1);
            tokio::task::yield_now().await;
        }
    };
    let again = async {
        loop {
            cache.reload("/crs/");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        () = reads => {}
        () = again => {}
    }
    assert_eq!(watcher.next_batch().await.err(), Some(Error::Ended));
}

#[tokio::test]
async fn dropping_the_cache_expires_its_watchers() {
    let store = memory();
    let cache = cache(&store);
    let pods = cache.collection("/pods/");
    let mut watcher = pods.watch(Revision(1)).await.unwrap();
    drop(cache);
    assert!(matches!(watcher.next_batch().await, Err(Error::Expired { .. })));
    assert!(pods.current().is_none());
}

#[tokio::test]
async fn a_broken_stream_expires_watchers_and_everything_is_loaded_again() {
    let inner = memory();
    let faulty = Arc::new(Faulty::new(inner.clone(), Faults { seed: 1, watch: 1.0, ..Faults::default() }));
    let store: Arc<dyn Store> = faulty.clone();
    let cache = cache(&store);
    let pods = cache.collection("/pods/");
    let mut watcher = pods.watch(Revision(1)).await.unwrap();
    faulty.set(Faults::default());
    let written = create(&*inner, "/pods/a", "a").await;
    assert!(matches!(watcher.next_batch().await, Err(Error::Expired { .. })), "the event broke the stream instead of arriving");
    let (snapshot, mut watcher) = pods.snapshot_and_watch(Freshness::Latest).await.unwrap();
    assert_eq!(wires(&snapshot), [format!("{written}:a")], "what was missed is there");
    let next = update(&*inner, "/pods/a", "b").await;
    assert_eq!(watcher.next_batch().await.unwrap().changes[0].revision, next);
}

/// Another store takes the place of the one in front.
struct PutBack(RwLock<Arc<dyn Store>>);

impl PutBack {
    fn now(&self) -> Arc<dyn Store> {
        self.0.read().clone()
    }
}

#[async_trait::async_trait]
impl Store for PutBack {
    async fn revision(&self) -> Result<Revision, StoreError> {
        self.now().revision().await
    }
    async fn get(&self, key: &Key) -> Result<At<Option<Entry>>, StoreError> {
        self.now().get(key).await
    }
    async fn range(&self, prefix: &str, page: crate::Page) -> Result<At<Vec<Entry>>, StoreError> {
        self.now().range(prefix, page).await
    }
    async fn commit(&self, key: &Key, expect: Expect, write: Write) -> Result<Revision, StoreError> {
        self.now().commit(key, expect, write).await
    }
    fn watch(&self, prefix: &str, from: Revision) -> crate::Events {
        self.now().watch(prefix, from)
    }
    async fn compact(&self, to: Revision) -> Result<(), StoreError> {
        self.now().compact(to).await
    }
}

#[tokio::test]
async fn a_store_put_back_to_an_older_state_has_its_own_history() {
    let first = Arc::new(Embedded::open(&Options::memory()).unwrap());
    let store = Arc::new(PutBack(RwLock::new(first.clone())));
    let seam: Arc<dyn Store> = store.clone();
    let cache = cache(&seam);
    let pods = cache.collection("/pods/");
    for n in 0..9 {
        create(&*first, &format!("/pods/{n}"), "x").await;
    }
    let before = pods.snapshot(Freshness::Latest).await.unwrap().revision;
    let second = memory();
    let back = create(&*second, "/pods/a", "a").await;
    assert!(back < before);
    tokio::time::pause();
    *store.0.write() = second.clone();
    first.close().await;
    // Its end takes a moment to be noticed.
    let noticed = async {
        while cache.seen() != back {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_hours(6), noticed).await.expect("what another store holds is read");
    tokio::time::advance(Limits::default().history).await;
    let state = pods.snapshot(Freshness::Exact(back)).await;
    assert_eq!(state.map(|state| wires(&state)).unwrap(), [format!("{back}:a")], "the revisions of what was there before are not history");
}

#[tokio::test]
async fn while_the_store_does_not_answer_reads_fail_instead_of_being_stale() {
    let inner = memory();
    let broken = Faults { seed: 1, watch: 1.0, ..Faults::default() };
    let faulty = Arc::new(Faulty::new(inner.clone(), broken));
    let store: Arc<dyn Store> = faulty.clone();
    let cache = cache(&store);
    let pods = cache.collection("/pods/");
    let mut watcher = pods.watch(Revision(1)).await.unwrap();
    faulty.set(Faults { read: 1.0, ..broken });
    create(&*inner, "/pods/a", "a").await;
    assert!(watcher.next_batch().await.is_err());
    tokio::time::pause();
    for freshness in [Freshness::Any, Freshness::Latest, Freshness::NotOlderThan(Revision(1)), Freshness::Exact(Revision(1))] {
        assert!(matches!(pods.snapshot(freshness).await, Err(Error::Unavailable(_))), "{freshness:?}");
    }
    faulty.set(Faults::default());
    assert_eq!(pods.snapshot(Freshness::Latest).await.unwrap().len(), 1);
}

#[tokio::test]
async fn while_events_are_late_the_store_is_asked_for_single_objects_and_lists_fail() {
    let inner = memory();
    let late = Faults { seed: 1, still: true, ..Faults::default() };
    let faulty = Arc::new(Faulty::new(inner.clone(), late));
    let store: Arc<dyn Store> = faulty.clone();
    let cache = cache(&store);
    let pods = cache.collection("/pods/");
    assert!(pods.snapshot(Freshness::Latest).await.unwrap().is_empty());
    let written = create(&*inner, "/pods/a", "a").await;
    tokio::time::pause();
    let found = pods.get("/pods/a", Freshness::Latest).await.unwrap();
    assert_eq!((found.value.unwrap().wire(), found.revision), (format!("{written}:a").into(), written));
    assert!(pods.get("/pods/b", Freshness::Latest).await.unwrap().value.is_none());
    assert!(pods.get("/pods/a", Freshness::Any).await.unwrap().value.is_none(), "what is there may be old");
    assert!(matches!(pods.snapshot(Freshness::Latest).await, Err(Error::Unavailable(_))));
    faulty.set(Faults { read: 1.0, ..late });
    assert!(matches!(pods.get("/pods/a", Freshness::Latest).await, Err(Error::Unavailable(_))));
}

/// A reader as careful clients are: from snapshot to changes, and to a snapshot again when told to.
async fn follow_until(pods: Arc<Collection<usize>>, end: &str) -> BTreeMap<String, Bytes> {
    loop {
        let Ok((snapshot, mut watcher)) = pods.snapshot_and_watch(Freshness::Latest).await else { continue };
        let mut known: BTreeMap<_, _> = snapshot.iter().map(|cached| (cached.key.to_string(), cached.wire())).collect();
        let mut last = snapshot.revision;
        loop {
            if known.contains_key(end) {
                return known;
            }
            let Ok(batch) = watcher.next_batch().await else { break };
            for change in batch.changes {
                assert!(change.revision > last);
                last = change.revision;
                let before = change.before.as_ref().map(|cached| cached.wire());
                assert_eq!(before.as_ref(), known.get(change.key.as_str()), "before is what this reader knew");
                match &change.after {
                    Some(cached) => known.insert(cached.key.to_string(), cached.wire()),
                    None => known.remove(change.key.as_str()),
                };
            }
            assert!(batch.revision >= last);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_of_a_breaking_store_end_up_with_the_truth() {
    for seed in 0..3 {
        let truth = memory();
        let faults = Faults { seed, watch: 0.002, read: 0.02, ..Faults::default() };
        let store: Arc<dyn Store> = Arc::new(Faulty::new(truth.clone(), faults));
        let cache = limited(&store, Limits { events: 200, ..Limits::default() });
        let pods = cache.collection("/pods/");
        let readers: Vec<_> = (0..4).map(|_| tokio::spawn(follow_until(pods.clone(), "/pods/end"))).collect();
        for n in 0..1500u64 {
            let key = Key::from(format!("/pods/{}", (n * 7 + seed) % 23));
            let found = truth.get(&key).await.unwrap().value;
            let write = if n % 9 == 8 && found.is_some() { Write::Delete } else { put(n.to_string()) };
            let expect = found.map_or(Expect::Absent, |entry| Expect::At(entry.revision));
            match truth.commit(&key, expect, write).await {
                Ok(_) | Err(StoreError::Moved { .. }) => {}
                Err(err) => panic!("{err}"),
            }
        }
        create(&*truth, "/pods/end", "end").await;
        let expected = truth.range("/pods/", crate::Page::default()).await.unwrap().value;
        let expected: BTreeMap<_, _> =
            expected.into_iter().map(|entry| (entry.key.to_string(), wire(&entry.value, entry.revision))).collect();
        for reader in readers {
            let known = tokio::time::timeout(Duration::from_secs(60), reader).await.unwrap().unwrap();
            assert_eq!(known, expected);
        }
    }
}

#[tokio::test]
async fn a_frame_is_encoded_once_however_many_watch() {
    let store = memory();
    let cache = cache(&store);
    let pods = cache.collection("/pods/");
    let mut watchers = Vec::new();
    for _ in 0..50 {
        watchers.push(pods.watch(Revision(1)).await.unwrap());
    }
    create(&*store, "/pods/a", "a").await;
    let mut encoded = 0;
    for watcher in &mut watchers {
        let batch = watcher.next_batch().await.unwrap();
        let frame = batch.changes[0].frames.get_or_make(0, || {
            encoded += 1;
            Bytes::from_static(b"frame")
        });
        assert_eq!(frame, "frame");
    }
    assert_eq!(encoded, 1);
}

#[tokio::test]
async fn who_watches_a_few_objects_sleeps_until_one_of_them_changes_and_misses_nothing() {
    let store = memory();
    let cache = cache(&store);
    let pods = cache.collection("/pods/");
    let cases = [
        (Interest::Place("/pods/a/".to_owned()), "/pods/a/2", "y"),
        (Interest::Place("/pods/b/2".to_owned()), "/pods/b/2", "y"),
        (Interest::Word("three".to_owned()), "/pods/c/2", "yes"),
    ];
    for (at, (interest, key, value)) in cases.into_iter().enumerate() {
        let (_, mut watcher) = pods.snapshot_and_watch(Freshness::Latest).await.unwrap();
        watcher.narrow(interest.clone());
        let mut waits = std::pin::pin!(watcher.next_batch());
        assert!(futures::poll!(waits.as_mut()).is_pending());
        let other = create(&*store, &format!("/pods/b/1{at}"), "x").await;
        pods.snapshot(Freshness::NotOlderThan(other)).await.unwrap();
        assert!(futures::poll!(waits.as_mut()).is_pending(), "{interest:?}");
        create(&*store, key, value).await;
        let seen: Vec<String> = waits.await.unwrap().changes.iter().map(|change| change.key.to_string()).collect();
        assert_eq!(seen, [format!("/pods/b/1{at}"), key.to_owned()]);
    }
    // What an object was told by before counts, too.
    let (_, mut watcher) = pods.snapshot_and_watch(Freshness::Latest).await.unwrap();
    watcher.narrow(Interest::Word("three".to_owned()));
    let left = update(&*store, "/pods/c/2", "no").await;
    assert_eq!(watcher.next_batch().await.unwrap().revision, left);
    delete(&*store, "/pods/c/2").await;
    pods.snapshot(Freshness::Latest).await.unwrap();
    drop(watcher);
    assert!(!pods.wakes.are_narrow(), "nobody is left who wants to know");
}

#[tokio::test]
async fn who_sleeps_through_more_than_the_ring_keeps_has_seen_it_all_the_same() {
    let store = memory();
    let cache = limited(&store, Limits { events: 64, ..Limits::default() });
    let pods = cache.collection("/pods/");
    let (_, mut watcher) = pods.snapshot_and_watch(Freshness::Latest).await.unwrap();
    watcher.narrow(Interest::Place("/pods/mine".to_owned()));
    let last = "/pods/mine";
    let reader = tokio::spawn(async move {
        let mut seen = 0;
        loop {
            let batch = watcher.next_batch().await?;
            seen += batch.changes.len();
            if batch.changes.iter().any(|change| change.key.as_str() == last) {
                return Ok::<_, Error>(seen);
            }
        }
    });
    for n in 0..1_000 {
        let revision = create(&*store, &format!("/pods/{n}"), "x").await;
        pods.snapshot(Freshness::NotOlderThan(revision)).await.unwrap();
    }
    create(&*store, last, "x").await;
    assert_eq!(reader.await.unwrap(), Ok(1_001));
}

#[tokio::test]
async fn those_who_leave_at_the_same_time_are_forgotten_too() {
    let wakes = super::wakes::Wakes::new();
    let interest = Interest::Place("/pods/mine".to_owned());
    let both = [wakes.subscribe(&interest), wakes.subscribe(&interest)];
    both.iter().for_each(|_| wakes.leave(&interest));
    drop(both);
    assert!(wakes.are_narrow());
    wakes.rouse();
    assert!(!wakes.are_narrow());
}
