//! What every store must do. Each function is one clause; [`contract_tests`] makes a test of each for one kind of store.

mod histories;
mod linear;
mod watches;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{StreamExt, future::join_all};
use parking_lot::Mutex;
use tokio::time::timeout;

pub(crate) use self::histories::histories_hold_under_faults;
use crate::{At, Entry, Event, Expect, Key, Page, Revision, Store, StoreError, Write};

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn put(value: impl Into<Bytes>) -> Write {
    Write::put(value)
}

pub(crate) async fn create(store: &dyn Store, key: &str, value: &str) -> Revision {
    store.commit(&key.into(), Expect::Absent, put(value.to_owned())).await.unwrap()
}

/// The next `count` events, or a failure in the end.
pub(crate) async fn take(store: &dyn Store, prefix: &str, from: Revision, count: usize) -> Vec<Event> {
    let events = store.watch(prefix, from).take(count).map(Result::unwrap).collect();
    timeout(PATIENCE, events).await.expect("the watch ends with its events")
}

pub(crate) async fn revisions_rise_and_every_read_carries_one(store: Arc<dyn Store>) {
    let empty = store.revision().await.unwrap();
    let first = create(&*store, "/r/a", "1").await;
    let second = create(&*store, "/r/b", "2").await;
    let third = store.commit(&"/r/a".into(), Expect::At(first), put("3")).await.unwrap();
    assert!(empty < first && first < second && second < third && first.0 >= 1);
    assert_eq!(store.revision().await.unwrap(), third);
    assert!(store.latest().is_none_or(|latest| latest == third));
    let read = store.get(&"/r/a".into()).await.unwrap();
    assert_eq!(read.revision, third);
    assert_eq!(read.value.unwrap(), Entry { key: "/r/a".into(), value: "3".into(), revision: third, created: first });
    let missing = store.get(&"/r/c".into()).await.unwrap();
    assert_eq!((missing.value, missing.revision), (None, third));
    assert_eq!(store.range("/none/", Page::default()).await.unwrap().revision, third);
}

pub(crate) async fn writes_succeed_only_as_expected(store: Arc<dyn Store>) {
    let key = Key::from("/cas/a");
    assert_eq!(store.commit(&key, Expect::At(Revision(1)), put("x")).await, Err(StoreError::Absent));
    assert_eq!(store.commit(&key, Expect::At(Revision(1)), Write::Delete).await, Err(StoreError::Absent));
    assert_eq!(store.commit(&key, Expect::Absent, Write::Delete).await, Err(StoreError::Absent));
    let first = create(&*store, "/cas/a", "1").await;
    assert_eq!(store.commit(&key, Expect::Absent, put("x")).await, Err(StoreError::Exists { now: first }));
    assert_eq!(store.commit(&key, Expect::Absent, Write::Delete).await, Err(StoreError::Exists { now: first }));
    let second = store.commit(&key, Expect::At(first), put("2")).await.unwrap();
    assert_eq!(store.commit(&key, Expect::At(first), put("x")).await, Err(StoreError::Moved { now: second }));
    assert_eq!(store.commit(&key, Expect::At(first), Write::Delete).await, Err(StoreError::Moved { now: second }));
    assert_eq!(store.get(&key).await.unwrap().value.unwrap().value, "2");
    let deleted = store.commit(&key, Expect::At(second), Write::Delete).await.unwrap();
    assert!(deleted > second);
    assert_eq!(store.get(&key).await.unwrap().value, None);
    let again = create(&*store, "/cas/a", "").await;
    let entry = store.get(&key).await.unwrap().value.unwrap();
    assert_eq!((entry.created, entry.value.len()), (again, 0), "a new life has a new creation, and may be empty");
}

pub(crate) async fn ranges_are_in_key_order_and_in_pages(store: Arc<dyn Store>) {
    for key in ["/p/c", "/p/a", "/q/a", "/p/b", "/p", "/p/b/x", "/p0"] {
        create(&*store, key, key).await;
    }
    let keys = |entries: &[Entry]| entries.iter().map(|entry| entry.key.to_string()).collect::<Vec<_>>();
    let all = store.range("/p/", Page::default()).await.unwrap().value;
    assert_eq!(keys(&all), ["/p/a", "/p/b", "/p/b/x", "/p/c"]);
    assert!(all.iter().all(|entry| entry.value == entry.key.as_str()));
    let page = |after: Option<&str>, limit| Page { after: after.map(Key::from), limit };
    assert_eq!(keys(&store.range("/p/", page(None, Some(2))).await.unwrap().value), ["/p/a", "/p/b"]);
    assert_eq!(keys(&store.range("/p/", page(Some("/p/b"), Some(2))).await.unwrap().value), ["/p/b/x", "/p/c"]);
    assert_eq!(keys(&store.range("/p/", page(Some("/p/aa"), None)).await.unwrap().value), ["/p/b", "/p/b/x", "/p/c"]);
    assert_eq!(store.range("/p/", page(Some("/p/c"), None)).await.unwrap().value, []);
    assert_eq!(store.range("", Page::default()).await.unwrap().value.len(), 7);
}

/// All that a scan tells, in whatever order.
pub(crate) async fn scanned(store: &dyn Store, prefix: &str) -> Result<(Revision, Vec<Entry>), StoreError> {
    let told: Arc<Mutex<Vec<Entry>>> = Arc::default();
    let into = told.clone();
    let at = store.scan(prefix, Arc::new(move |entries| into.lock().extend_from_slice(entries))).await?;
    let told = std::mem::take(&mut *told.lock());
    Ok((at, told))
}

pub(crate) async fn every_way_to_read_tells_the_same(store: Arc<dyn Store>) {
    let mut told = Vec::new();
    for n in 0..6 {
        create(&*store, &format!("/s/{n}"), "other").await;
        let at = create(&*store, "/s/key", &n.to_string()).await;
        told.push((at, Some(Bytes::from(n.to_string()))));
        if n < 5 {
            told.push((store.commit(&"/s/key".into(), Expect::At(at), Write::Delete).await.unwrap(), None));
        }
    }
    let At { value, revision } = store.range("/s/", Page::default()).await.unwrap();
    let (at, mut scanned) = scanned(&*store, "/s/").await.unwrap();
    scanned.sort_unstable_by(|one, other| one.key.cmp(&other.key));
    assert_eq!((scanned, at), (value, revision));
    assert_eq!((store.count("/s/").await.unwrap(), store.count("/s/k").await.unwrap()), (7, 1));
    let past = store.past(&"/s/key".into()).await.unwrap();
    assert_eq!(past.versions.into_iter().map(|version| (version.revision, version.value)).collect::<Vec<_>>(), told);
}

pub(crate) async fn a_watch_from_any_kept_revision_has_no_gap(store: Arc<dyn Store>) {
    let start = store.revision().await.unwrap();
    let mut live = store.watch("/w/", start);
    let mut expected = Vec::new();
    for round in 0..40 {
        let key = Key::from(format!("/w/{}", round % 7));
        let found = store.get(&key).await.unwrap().value;
        let write = if round % 5 == 4 && found.is_some() { Write::Delete } else { put(format!("value {round}")) };
        let expect = found.as_ref().map_or(Expect::Absent, |entry| Expect::At(entry.revision));
        let revision = store.commit(&key, expect, write.clone()).await.unwrap();
        let created = found.map_or(revision, |entry| entry.created);
        let after = match write {
            Write::Put { value, .. } => Some(Entry { key: key.clone(), value, revision, created }),
            Write::Delete => None,
        };
        expected.push(Event { key, revision, after });
        create(&*store, &format!("/other/{round}"), "noise").await;
    }
    for (skipped, event) in expected.iter().enumerate() {
        let from = if skipped == 0 { start } else { expected[skipped - 1].revision };
        let rest = &expected[skipped..];
        assert_eq!(take(&*store, "/w/", from, rest.len()).await, rest, "from {from}, before {}", event.revision);
    }
    for event in &expected {
        let seen = timeout(PATIENCE, live.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(&seen, event, "live");
    }
}

pub(crate) async fn compaction_forgets_history_and_nothing_else(store: Arc<dyn Store>) {
    let start = store.revision().await.unwrap();
    let mut at = create(&*store, "/c/kept", "0").await;
    let gone = create(&*store, "/c/gone", "0").await;
    store.commit(&"/c/gone".into(), Expect::At(gone), Write::Delete).await.unwrap();
    for n in 1..500 {
        at = store.commit(&"/c/kept".into(), Expect::At(at), put(n.to_string())).await.unwrap();
    }
    let last = store.commit(&"/c/kept".into(), Expect::At(at), put("last")).await.unwrap();
    store.compact(at).await.unwrap();
    let old = timeout(PATIENCE, store.watch("/c/", start).next()).await.unwrap().unwrap();
    let Err(StoreError::Compacted { oldest }) = old else { panic!("{old:?} instead of Compacted") };
    assert!(oldest >= at && oldest <= last);
    let kept = take(&*store, "/c/", oldest.max(at), 1).await;
    assert_eq!(kept[0].revision, last);
    let found = store.range("/c/", Page::default()).await.unwrap();
    assert_eq!(found.value.len(), 1);
    assert_eq!((&found.value[0].value[..], found.revision), (&b"last"[..], last));
    store.compact(last).await.unwrap();
    assert_eq!(store.revision().await.unwrap(), last, "compaction moves no revision");
    assert_eq!(store.get(&"/c/kept".into()).await.unwrap().value.unwrap().value, "last");
    assert_eq!(create(&*store, "/c/gone", "1").await.0, last.0 + 1);
}

pub(crate) async fn a_key_goes_when_its_time_is_over(store: Arc<dyn Store>) {
    let start = store.revision().await.unwrap();
    let short = |value: &'static str| Write::put_for(value, Duration::from_millis(30));
    let began = Instant::now();
    let mortal = store.commit(&"/t/mortal".into(), Expect::Absent, short("m")).await.unwrap();
    let saved = store.commit(&"/t/saved".into(), Expect::Absent, short("s")).await;
    // On a slow machine it may be gone before it can be saved: then it is simply made again.
    let saved = store.commit(&"/t/saved".into(), Expect::At(saved.unwrap()), put("s")).await;
    if saved.is_err() {
        create(&*store, "/t/saved", "s").await;
    }
    let mut events = store.watch("/t/mortal", start);
    let put_event = timeout(PATIENCE, events.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(put_event.revision, mortal);
    let delete = timeout(PATIENCE, events.next()).await.unwrap().unwrap().unwrap();
    assert!(delete.after.is_none() && delete.revision > mortal);
    assert!(began.elapsed() >= Duration::from_millis(30), "not before its time");
    assert_eq!(store.get(&"/t/mortal".into()).await.unwrap().value, None);
    assert!(store.get(&"/t/saved".into()).await.unwrap().value.is_some(), "a write without a time to live lifts it");
}

pub(crate) async fn concurrent_writers_lose_no_update(store: Arc<dyn Store>) {
    create(&*store, "/n/counter", "0").await;
    let add = |store: Arc<dyn Store>| async move {
        let key = Key::from("/n/counter");
        let mut done = Vec::new();
        while done.len() < 20 {
            let entry = store.get(&key).await.unwrap().value.unwrap();
            let next: u64 = std::str::from_utf8(&entry.value).unwrap().parse::<u64>().unwrap() + 1;
            match store.commit(&key, Expect::At(entry.revision), put(next.to_string())).await {
                Ok(revision) => done.push(revision),
                Err(StoreError::Moved { now }) => assert!(now > entry.revision),
                Err(err) => panic!("{err}"),
            }
        }
        done
    };
    let writers = join_all((0..16).map(|_| tokio::spawn(add(store.clone())))).await;
    let mut revisions: Vec<_> = writers.into_iter().flat_map(Result::unwrap).collect();
    revisions.sort_unstable();
    revisions.dedup();
    assert_eq!(revisions.len(), 16 * 20, "each write has its own revision");
    assert_eq!(store.get(&"/n/counter".into()).await.unwrap().value.unwrap().value, "320");
}

pub(crate) async fn of_concurrent_creators_one_wins(store: Arc<dyn Store>) {
    for round in 0..10 {
        let key = Key::from(format!("/one/{round}"));
        let outcomes = join_all((0..16).map(|n| store.commit(&key, Expect::Absent, put(n.to_string())))).await;
        let winner: Vec<_> = outcomes.iter().enumerate().filter_map(|(n, outcome)| Some((n, *outcome.as_ref().ok()?))).collect();
        assert_eq!(winner.len(), 1);
        assert!(outcomes.iter().flat_map(|outcome| outcome.as_ref().err()).all(|err| *err == StoreError::Exists { now: winner[0].1 }));
        assert_eq!(store.get(&key).await.unwrap().value.unwrap().value, winner[0].0.to_string());
    }
}

pub(crate) async fn large_values_are_kept_and_too_large_ones_refused(store: Arc<dyn Store>) {
    let large = Bytes::from(vec![7; 3 << 20]);
    store.commit(&"/large".into(), Expect::Absent, put(large.clone())).await.unwrap();
    assert_eq!(store.get(&"/large".into()).await.unwrap().value.unwrap().value, large);
    let at = store.revision().await.unwrap();
    let refused = store.commit(&"/larger".into(), Expect::Absent, put(vec![7; (3 << 20) + 1])).await;
    assert_eq!(refused, Err(StoreError::TooLarge { size: (3 << 20) + 1, limit: 3 << 20 }));
    assert_eq!(store.revision().await.unwrap(), at);
}

pub(crate) async fn histories_hold_under_a_few_faults(store: Arc<dyn Store>) {
    histories_hold_under_faults(store, 0..24).await;
}

/// Writes enough to recognise a store by; for [`is_unchanged`].
pub(crate) async fn fill(store: &dyn Store) -> (Vec<Entry>, Revision) {
    for n in 0..50 {
        let revision = create(store, &format!("/f/{n:03}"), &format!("first {n}")).await;
        if n % 3 == 0 {
            store.commit(&format!("/f/{n:03}").into(), Expect::At(revision), put("second")).await.unwrap();
        } else if n % 10 == 1 {
            store.commit(&format!("/f/{n:03}").into(), Expect::At(revision), Write::Delete).await.unwrap();
        }
    }
    let all = store.range("", Page::default()).await.unwrap();
    (all.value, all.revision)
}

/// Whether a store that was opened again is what it was.
pub(crate) async fn is_unchanged(store: &dyn Store, (entries, revision): &(Vec<Entry>, Revision)) {
    let found = store.range("", Page::default()).await.unwrap();
    assert_eq!(&found.value, entries);
    assert_eq!(found.revision, *revision);
    let next = create(store, "/f/next", "n").await;
    assert_eq!(next.0, revision.0 + 1);
    let entry = store.get(&"/f/next".into()).await.unwrap().value.unwrap();
    store.commit(&entry.key, Expect::At(next), Write::Delete).await.unwrap();
}

/// One test for each clause, for the stores that `$open` makes: an async expression giving `(Arc<dyn Store>, guard)`.
macro_rules! contract_tests {
    ($module:ident, $open:expr) => {
        mod $module {
            #[allow(unused_imports)]
            use super::*;
            contract_tests!(@ $open;
                revisions_rise_and_every_read_carries_one, writes_succeed_only_as_expected, ranges_are_in_key_order_and_in_pages,
                every_way_to_read_tells_the_same, a_watch_from_any_kept_revision_has_no_gap, compaction_forgets_history_and_nothing_else,
                a_key_goes_when_its_time_is_over, concurrent_writers_lose_no_update, of_concurrent_creators_one_wins,
                large_values_are_kept_and_too_large_ones_refused, histories_hold_under_a_few_faults);
        }
    };
    (@ $open:expr; $($clause:ident),+) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $clause() {
                let (store, _guard) = $open;
                $crate::contract::$clause(store).await;
            }
        )+
    };
}
pub(crate) use contract_tests;
