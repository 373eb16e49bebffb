//! A store whose values are kept in another form than the one everybody above it reads and writes. What cannot be read is left out, and
//! remembered with the reason.

use std::{
    collections::{BTreeMap, HashSet},
    ops::Bound,
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use coracle_store::{
    At, Each, Entry, Event, Events, Expect, Key, Page, Past, Revision, Stats, Step, Steps, Store, StoreError, Version, Write,
};
use futures::{FutureExt, StreamExt};
use parking_lot::{Mutex, RwLock};
use tracing::warn;

/// Both directions of a form.
pub(crate) trait Translate: Send + Sync + 'static {
    /// What is wrong with a value that cannot be read, in upstream's words (`storage/etcd3/decoder.go`).
    const WRONG: &'static str;

    /// Whether upstream says of such a value at which revision it was written, too.
    const DATED: bool;

    /// Where values are in the form they are kept in.
    fn store(&self) -> &Arc<dyn Store>;

    /// What could not be read of it.
    fn faults(&self) -> &Faults;

    /// The value as everybody reads it, or why that cannot be made. Nothing is noted: it may be an old one.
    fn read(&self, key: &Key, value: &Bytes) -> impl Future<Output = Result<Bytes, String>> + Send;

    /// The value as it is kept.
    fn close(&self, key: &Key, value: &Bytes) -> Result<Bytes, StoreError>;
}

/// Objects that cannot be read, by their keys: at which revision that was seen, and why it is so.
#[derive(Default)]
pub(crate) struct Faults(RwLock<BTreeMap<Key, (Revision, String)>>);

/// The store as everybody above sees it.
pub(crate) struct Translated<T>(pub(crate) Arc<T>);

/// Objects that are read at a time of what is told in one piece.
const PIECE: usize = 500;

/// What a scan has not told.
#[derive(Default)]
struct Rest {
    /// Objects that cannot be read.
    wrong: HashSet<Key>,
    /// Those for which somebody outside has to be asked.
    waiting: Vec<Entry>,
}

impl Rest {
    fn add(&mut self, other: Self) {
        self.wrong.extend(other.wrong);
        self.waiting.extend(other.waiting);
    }
}

/// As upstream says of a value it can make nothing of (`storage/etcd3/corrupt_obj_deleter.go`).
fn corrupt<T: Translate>(key: &str, at: Revision, why: &str) -> String {
    let (what, at) = (T::WRONG, if T::DATED { at.0 } else { 0 });
    format!("StorageError: corrupt object, Code: 7, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: {what} revision={at}: {why}")
}

/// An object that is there and cannot be read.
pub(crate) struct Fault {
    pub(crate) key: Key,
    /// The revision at which that was seen.
    pub(crate) at: Revision,
    why: String,
    said: fn(&str, Revision, &str) -> String,
}

impl Fault {
    /// What is said of it, with the key called `key`: upstream leaves out the prefix where one object was asked for.
    pub(crate) fn says(&self, key: &str) -> String {
        (self.said)(key, self.at, &self.why)
    }
}

impl Faults {
    /// What is known of an object that cannot be read, if it is one.
    pub(crate) fn of<T: Translate>(&self, key: &Key) -> Option<Fault> {
        let (at, why) = self.0.read().get(key)?.clone();
        Some(Fault { key: key.clone(), at, why, said: corrupt::<T> })
    }

    /// The objects under a prefix that cannot be read, in the order of their keys.
    pub(crate) fn under<T: Translate>(&self, prefix: &str) -> Vec<Fault> {
        let known = self.0.read();
        let near =
            known.range::<str, _>((Bound::Included(prefix), Bound::Unbounded)).take_while(|(key, _)| key.as_str().starts_with(prefix));
        near.map(|(key, (at, why))| Fault { key: key.clone(), at: *at, why: why.clone(), said: corrupt::<T> }).collect()
    }

    /// All of them.
    pub(crate) fn keys(&self) -> Vec<Key> {
        self.0.read().keys().cloned().collect()
    }

    /// What was written at this revision cannot be read, unless something newer is known.
    pub(crate) fn note(&self, key: Key, at: Revision, why: String) {
        let mut known = self.0.write();
        if known.get(&key).is_none_or(|(noted, _)| *noted <= at) {
            known.insert(key, (at, why));
        }
    }

    /// At this revision the object could be read, or was gone; whether something else was noted of it before.
    pub(crate) fn forget(&self, key: &Key, at: Revision) -> bool {
        // Most of the time there is nothing to take a lock for.
        let was = self.0.read().get(key).is_some_and(|(noted, _)| *noted <= at);
        if was {
            self.0.write().remove(key);
        }
        was
    }

    /// At this revision all under a prefix could be read, or was gone, but for `wrong`: what is noted may be of an object whose end nobody
    /// told.
    fn settle(&self, prefix: &str, at: Revision, wrong: &HashSet<Key>) {
        if self.0.read().is_empty() {
            return;
        }
        let stays = |key: &Key, noted: Revision| !key.as_str().starts_with(prefix) || noted > at || wrong.contains(key);
        self.0.write().retain(|key, (noted, _)| stays(key, *noted));
    }
}

impl<T: Translate> Translated<T> {
    /// The entry as everybody reads it, or its key and a note when that cannot be made.
    async fn open(translate: &T, entry: Entry) -> Result<Entry, Key> {
        let read = translate.read(&entry.key, &entry.value).await;
        Self::noted(translate, entry, read)
    }

    fn noted(translate: &T, entry: Entry, read: Result<Bytes, String>) -> Result<Entry, Key> {
        match read {
            Ok(value) => {
                translate.faults().forget(&entry.key, entry.revision);
                Ok(Entry { value, ..entry })
            }
            Err(why) => {
                warn!(key = entry.key.as_str(), error = why, "{}", T::WRONG);
                translate.faults().note(entry.key.clone(), entry.revision, why);
                Err(entry.key)
            }
        }
    }

    /// The error for an object that cannot be read.
    fn unreadable(translate: &T, key: &Key) -> StoreError {
        let fault = translate.faults().of::<T>(key);
        StoreError::Value(fault.map_or_else(|| corrupt::<T>(key.as_str(), Revision(0), ""), |fault| fault.says(key.as_str())))
    }

    /// The event as everybody reads it; the key when an object was written that cannot be read.
    async fn event(translate: &T, event: Event) -> Result<Event, Key> {
        let Some(entry) = event.after else {
            translate.faults().forget(&event.key, event.revision);
            return Ok(event);
        };
        let after = Some(Self::open(translate, entry).await?);
        Ok(Event { after, ..event })
    }

    /// The event for those who keep copies; the key when they have to read again. Of an object that could not be read they have none, and
    /// take nothing from its end; who was told of it before must be told that it is gone.
    async fn copied(translate: &T, event: Event) -> Result<Event, Key> {
        if event.after.is_none() && translate.faults().forget(&event.key, event.revision) {
            return Err(event.key);
        }
        Self::event(translate, event).await
    }

    async fn step(translate: &T, step: Step) -> Step {
        match step {
            Step::Write(event) => {
                let revision = event.revision;
                Self::copied(translate, event).await.map_or_else(|key| Step::Unreadable(vec![key], revision), Step::Write)
            }
            Step::Writes(events) => {
                let revision = events.first().map_or(Revision(0), |event| event.revision);
                let keys: Vec<Key> = events.iter().map(|event| event.key.clone()).collect();
                let mut opened = Vec::with_capacity(events.len());
                for event in events {
                    opened.extend(Self::copied(translate, event).await);
                }
                if opened.len() == keys.len() { Step::Writes(opened) } else { Step::Unreadable(keys, revision) }
            }
            // Whatever was noted here is of what was there before.
            Step::Unreadable(keys, revision) => {
                for key in &keys {
                    translate.faults().forget(key, revision);
                }
                Step::Unreadable(keys, revision)
            }
            other @ Step::Reached(_) => other,
        }
    }
}

#[async_trait]
impl<T: Translate> Store for Translated<T> {
    async fn revision(&self) -> Result<Revision, StoreError> {
        self.0.store().revision().await
    }

    fn latest(&self) -> Option<Revision> {
        self.0.store().latest()
    }

    async fn get(&self, key: &Key) -> Result<At<Option<Entry>>, StoreError> {
        let At { value, revision } = self.0.store().get(key).await?;
        let Some(entry) = value else {
            self.0.faults().forget(key, revision);
            return Ok(At { value: None, revision });
        };
        match Self::open(&self.0, entry).await {
            Ok(entry) => Ok(At { value: Some(entry), revision }),
            Err(key) => Err(Self::unreadable(&self.0, &key)),
        }
    }

    async fn range(&self, prefix: &str, page: Page) -> Result<At<Vec<Entry>>, StoreError> {
        let whole = page.after.is_none() && page.limit.is_none();
        let Page { mut after, limit } = page;
        let (mut opened, mut wrong) = (Vec::new(), HashSet::new());
        loop {
            // What is left out must not make a page look like the last.
            let wanted = limit.map(|limit| limit - opened.len());
            let At { value, revision } = self.0.store().range(prefix, Page { after, limit: wanted }).await?;
            let (count, last) = (value.len(), value.last().map(|entry| entry.key.clone()));
            for entry in value {
                match Self::open(&self.0, entry).await {
                    Ok(entry) => opened.push(entry),
                    Err(key) => drop(wrong.insert(key)),
                }
            }
            let full = wanted.is_none_or(|wanted| count < wanted) || limit.is_some_and(|limit| opened.len() >= limit);
            if full {
                if whole {
                    self.0.faults().settle(prefix, revision, &wrong);
                }
                return Ok(At { value: opened, revision });
            }
            after = last;
        }
    }

    async fn scan(&self, prefix: &str, each: Each) -> Result<Revision, StoreError> {
        let rest: Arc<Mutex<Rest>> = Arc::default();
        let (translate, into, told) = (Arc::clone(&self.0), Arc::clone(&rest), Arc::clone(&each));
        let piece = move |entries: &[Entry]| {
            for entries in entries.chunks(PIECE) {
                let (mut opened, mut kept) = (Vec::with_capacity(entries.len()), Rest::default());
                // Nobody can wait in here: once somebody outside has to be asked (for a key), all the rest is read after this.
                let mut asks = !into.lock().waiting.is_empty();
                for entry in entries {
                    let read = if asks { None } else { translate.read(&entry.key, &entry.value).now_or_never() };
                    let Some(read) = read else {
                        asks = true;
                        kept.waiting.push(entry.clone());
                        continue;
                    };
                    match Self::noted(&translate, entry.clone(), read) {
                        Ok(entry) => opened.push(entry),
                        Err(key) => drop(kept.wrong.insert(key)),
                    }
                }
                into.lock().add(kept);
                told(&opened);
            }
        };
        let revision = self.0.store().scan(prefix, Arc::new(piece)).await?;
        let Rest { mut wrong, waiting } = std::mem::take(&mut *rest.lock());
        let mut waiting = waiting.into_iter().peekable();
        while waiting.peek().is_some() {
            let mut opened = Vec::new();
            for entry in waiting.by_ref().take(PIECE) {
                match Self::open(&self.0, entry).await {
                    Ok(entry) => opened.push(entry),
                    Err(key) => drop(wrong.insert(key)),
                }
            }
            each(&opened);
        }
        self.0.faults().settle(prefix, revision, &wrong);
        Ok(revision)
    }

    async fn commit(&self, key: &Key, expect: Expect, write: Write) -> Result<Revision, StoreError> {
        let write = match write {
            Write::Put { value, ttl, durability } => Write::Put { value: self.0.close(key, &value)?, ttl, durability },
            Write::Delete => Write::Delete,
        };
        self.0.store().commit(key, expect, write).await
    }

    fn watch(&self, prefix: &str, from: Revision) -> Events {
        let translate = Arc::clone(&self.0);
        let events = self.0.store().watch(prefix, from).then(move |event| {
            let translate = Arc::clone(&translate);
            async move { Self::event(&translate, event?).await.map_err(|key| Self::unreadable(&translate, &key)) }
        });
        events.boxed()
    }

    fn follow(&self, prefix: &str, from: Revision) -> Steps {
        let translate = Arc::clone(&self.0);
        let steps = self.0.store().follow(prefix, from).then(move |step| {
            let translate = Arc::clone(&translate);
            async move { Ok(Self::step(&translate, step?).await) }
        });
        steps.boxed()
    }

    fn expedite(&self, to: Revision) {
        self.0.store().expedite(to);
    }

    fn bound_to(&self, key: &Key) -> Vec<u8> {
        self.0.store().bound_to(key)
    }

    async fn past(&self, key: &Key) -> Result<Past, StoreError> {
        let Past { versions, since } = self.0.store().past(key).await?;
        let mut opened = Vec::with_capacity(versions.len());
        for version in versions {
            let value = match version.value {
                None => None,
                Some(value) => {
                    let read = self.0.read(key, &value).await;
                    Some(read.map_err(|why| StoreError::Value(corrupt::<T>(key.as_str(), version.revision, &why)))?)
                }
            };
            opened.push(Version { value, ..version });
        }
        Ok(Past { versions: opened, since })
    }

    async fn stats(&self) -> Stats {
        self.0.store().stats().await
    }

    fn alarm(&self) -> Option<String> {
        self.0.store().alarm()
    }

    async fn count(&self, prefix: &str) -> Result<usize, StoreError> {
        self.0.store().count(prefix).await
    }

    fn size(&self) -> Option<u64> {
        self.0.store().size()
    }

    async fn compact(&self, to: Revision) -> Result<(), StoreError> {
        self.0.store().compact(to).await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use coracle_store::{
        cache::{Cache, Cached, Decode, Decoded, Freshness},
        embedded::{Embedded, Options},
    };

    use super::*;

    /// Reads everything but `sealed`, and `asked` after a while.
    struct Locked(Arc<dyn Store>, Faults);

    impl Translate for Locked {
        const WRONG: &'static str = "locked";
        const DATED: bool = false;

        fn store(&self) -> &Arc<dyn Store> {
            &self.0
        }

        fn faults(&self) -> &Faults {
            &self.1
        }

        async fn read(&self, _: &Key, value: &Bytes) -> Result<Bytes, String> {
            if &**value == b"asked" {
                tokio::task::yield_now().await;
            }
            if &**value == b"sealed" { Err("no key".to_owned()) } else { Ok(value.clone()) }
        }

        fn close(&self, _: &Key, value: &Bytes) -> Result<Bytes, StoreError> {
            Ok(value.clone())
        }
    }

    fn locked() -> (Arc<dyn Store>, Arc<Locked>, Arc<dyn Store>) {
        let store: Arc<dyn Store> = Arc::new(Embedded::open(&Options::memory()).unwrap());
        let locked = Arc::new(Locked(Arc::clone(&store), Faults::default()));
        (store, Arc::clone(&locked), Arc::new(Translated(locked)))
    }

    fn unreadable(key: &str) -> StoreError {
        StoreError::Value(corrupt::<Locked>(key, Revision(0), "no key"))
    }

    struct Plain;

    impl Decode<()> for Plain {
        fn decode(&self, _: &Key, stored: &Bytes, _: Revision) -> Decoded<()> {
            Decoded { wire: stored.clone(), facts: () }
        }

        fn departed(&self, last: &Cached<()>, _: Revision) -> Bytes {
            last.wire()
        }
    }

    async fn put(store: &dyn Store, key: &str, expect: Expect, value: &'static str) -> Revision {
        store.commit(&key.into(), expect, Write::put(value)).await.unwrap()
    }

    #[tokio::test]
    async fn an_object_that_can_no_longer_be_read_is_not_told_of_as_gone() {
        let (store, _, seen) = locked();
        let first = put(&*store, "/secrets/a", Expect::Absent, "one").await;
        let mut watch = seen.watch("/secrets/", first);
        let mut steps = seen.follow("/secrets/", first);
        let cache = Cache::start(Arc::clone(&seen), Arc::new(Plain));
        let (secrets, pods) = (cache.collection("/secrets/"), cache.collection("/pods/"));
        let (_, mut watcher) = secrets.snapshot_and_watch(Freshness::Latest).await.unwrap();
        let (_, mut other) = pods.snapshot_and_watch(Freshness::Latest).await.unwrap();

        let second = put(&*store, "/secrets/a", Expect::At(first), "sealed").await;
        let third = put(&*store, "/pods/p", Expect::Absent, "pod").await;
        assert_eq!(watch.next().await.unwrap(), Err(unreadable("/secrets/a")));
        assert_eq!(steps.next().await.unwrap(), Ok(Step::Unreadable(vec!["/secrets/a".into()], second)));
        let told = tokio::time::timeout(Duration::from_secs(10), watcher.next_batch()).await.unwrap();
        assert!(told.is_err(), "a watch ends without a word of it");
        let told = other.next_batch().await.unwrap();
        assert_eq!(told.changes[0].revision, third, "and others go on");
    }
    #[tokio::test]
    async fn an_old_version_says_nothing_about_the_object_that_is_there() {
        let (store, locked, seen) = locked();
        let [mended, broken] = ["/secrets/mended", "/secrets/broken"].map(Key::from);
        let sealed = put(&*store, "/secrets/mended", Expect::Absent, "sealed").await;
        put(&*store, "/secrets/mended", Expect::At(sealed), "one").await;
        assert_eq!(seen.past(&mended).await, Err(unreadable("/secrets/mended")));
        assert!(locked.faults().under::<Locked>("/secrets/").is_empty(), "what is there now can be read");

        let first = put(&*store, "/secrets/broken", Expect::Absent, "one").await;
        let second = put(&*store, "/secrets/broken", Expect::At(first), "two").await;
        put(&*store, "/secrets/broken", Expect::At(second), "sealed").await;
        assert_eq!(seen.get(&broken).await, Err(unreadable("/secrets/broken")));
        assert_eq!(seen.past(&broken).await, Err(unreadable("/secrets/broken")));
        assert_eq!(locked.faults().of::<Locked>(&broken).unwrap().why, "no key");
    }

    #[tokio::test]
    async fn what_was_noted_of_objects_that_are_no_longer_there_goes_with_the_next_look_at_all() {
        let (store, locked, seen) = locked();
        let noted = || locked.faults().keys().iter().map(ToString::to_string).collect::<Vec<_>>();
        put(&*store, "/pods/a", Expect::Absent, "sealed").await;
        for round in 0..2 {
            let gone = put(&*store, "/secrets/gone", Expect::Absent, "sealed").await;
            if round == 0 {
                put(&*store, "/secrets/here", Expect::Absent, "sealed").await;
            }
            assert!(seen.range("/", Page::default()).await.unwrap().value.is_empty());
            assert_eq!(noted(), ["/pods/a", "/secrets/gone", "/secrets/here"]);
            store.commit(&"/secrets/gone".into(), Expect::At(gone), Write::Delete).await.unwrap();
            // Nobody tells of the delete. A page says nothing of what is not on it.
            seen.range("/secrets/", Page { after: None, limit: Some(1) }).await.unwrap();
            assert_eq!(noted().len(), 3);
            match round {
                0 => drop(seen.range("/secrets/", Page::default()).await.unwrap()),
                _ => drop(seen.scan("/secrets/", Arc::new(|_: &[Entry]| ())).await.unwrap()),
            }
            assert_eq!(noted(), ["/pods/a", "/secrets/here"]);
        }
        // What is known of a later revision is not undone by an earlier one.
        locked.faults().settle("/", Revision(1), &HashSet::new());
        locked.faults().forget(&"/secrets/here".into(), Revision(1));
        assert_eq!(noted(), ["/pods/a", "/secrets/here"]);
    }

    #[tokio::test]
    async fn a_scan_tells_all_in_pieces_also_what_somebody_outside_must_be_asked_for() {
        let (store, locked, seen) = locked();
        let mut last = Revision(0);
        for n in 0..PIECE + 10 {
            let value = match n {
                3 => "sealed",
                20.. if n % 2 == 0 => "asked",
                _ => "plain",
            };
            last = put(&*store, &format!("/pods/{n:04}"), Expect::Absent, value).await;
        }
        let pieces: Arc<Mutex<Vec<Vec<String>>>> = Arc::default();
        let into = pieces.clone();
        let each = move |entries: &[Entry]| into.lock().push(entries.iter().map(|entry| entry.key.to_string()).collect());
        assert_eq!(seen.scan("/pods/", Arc::new(each)).await.unwrap(), last);
        let pieces = std::mem::take(&mut *pieces.lock());
        let largest = pieces.iter().map(Vec::len).max().unwrap();
        let mut told = pieces.concat();
        told.sort();
        let all: Vec<String> = (0..PIECE + 10).filter(|n| *n != 3).map(|n| format!("/pods/{n:04}")).collect();
        assert_eq!(told, all);
        assert!(largest <= PIECE, "{largest}");
        assert_eq!(locked.faults().under::<Locked>("/pods/")[0].key.as_str(), "/pods/0003");
    }
}
