//! Clients, watchers and a watch cache of a store that fails from a seed; then everything they were told is checked: each key by
//! [`linear`], each watcher by [`watches`], and all of it against what the store really committed.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{
    StreamExt,
    future::{join_all, try_join_all},
    stream,
};
use parking_lot::Mutex;
use tokio::{sync::watch, time::timeout};

use super::{
    PATIENCE,
    linear::{self, Action, Operation, Outcome},
    put,
    watches::{self, Told},
};
use crate::{
    At, Entry, Event, Expect, Key, Page, Revision, Store, StoreError, Write,
    cache::{Cache, Cached, Change, Collection, Decode, Decoded, Freshness, Limits},
    faulty::{Chance, Faults, Faulty},
};

/// Rounds that run at a time on one store.
const AT_ONCE: usize = 12;
const KEYS: u64 = 3;
const CLIENTS: u64 = 4;
const STEPS: u64 = 14;

/// Runs a round for each seed, or only for the one that `STORE_SEED` names.
pub(crate) async fn histories_hold_under_faults(store: Arc<dyn Store>, seeds: Range<u64>) {
    let seeds = match std::env::var("STORE_SEED") {
        Ok(seed) => seed.parse().map(|seed| seed..seed + 1).expect("STORE_SEED is a number"),
        Err(_) => seeds,
    };
    let log = Log::follow(store.clone()).await;
    let mut rounds = stream::iter(seeds)
        .map(|seed| {
            let round = Round::new(seed, store.clone(), log.clone());
            async move { (seed, Arc::new(round).run().await) }
        })
        .buffer_unordered(AT_ONCE);
    while let Some((seed, outcome)) = rounds.next().await {
        if let Err(why) = outcome {
            panic!("seed {seed}: {why}\nrun it again with STORE_SEED={seed}");
        }
    }
}

/// What the store committed, as one watch tells it that nothing disturbs.
struct Log {
    events: Mutex<HashMap<String, Vec<Event>>>,
    /// Everything up to here is in `events`.
    seen: watch::Sender<Revision>,
    start: Revision,
}

impl Log {
    async fn follow(store: Arc<dyn Store>) -> Arc<Self> {
        let start = store.revision().await.unwrap();
        let log = Arc::new(Self { events: Mutex::default(), seen: watch::channel(start).0, start });
        let (weak, mut events) = (Arc::downgrade(&log), store.watch("/round/", start));
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                let Some(log) = weak.upgrade() else { return };
                let event = event.expect("the undisturbed watch goes on");
                let revision = event.revision;
                let round = event.key.as_str().split('/').nth(2).unwrap_or_default().to_owned();
                log.events.lock().entry(round).or_default().push(event);
                log.seen.send_replace(revision);
            }
        });
        log
    }

    fn seen(&self) -> Revision {
        *self.seen.borrow()
    }

    /// All events of a round, once everything up to `revision` is known.
    async fn of(&self, round: u64, revision: Revision) -> Result<Vec<Event>, String> {
        let mut seen = self.seen.subscribe();
        let reached = timeout(PATIENCE, seen.wait_for(|seen| *seen >= revision)).await;
        reached.map_err(|_| format!("the watch from the start never told of revision {revision}"))?.map_err(|err| err.to_string())?;
        Ok(self.events.lock().remove(&round.to_string()).unwrap_or_default())
    }
}

struct Round {
    seed: u64,
    log: Arc<Log>,
    truth: Arc<dyn Store>,
    store: Arc<Faulty>,
    cache: Option<Cache<()>>,
    /// Every call and every return has its own moment.
    clock: AtomicU64,
    operations: Mutex<Vec<(Key, Operation)>>,
    /// Call, return, and the revision the answer was true at or the write got.
    answers: Mutex<Vec<(u64, u64, Revision)>>,
    /// States that were asked for at a revision.
    states: Mutex<Vec<At<Vec<Entry>>>>,
}

impl Round {
    fn new(seed: u64, truth: Arc<dyn Store>, log: Arc<Log>) -> Self {
        let mut dice = Chance(seed ^ 0x5eed);
        let mut of = |choices: [f64; 3]| choices[usize::try_from(dice.next() % 3).unwrap()];
        let faults = Faults {
            seed,
            before_commit: of([0.0, 0.05, 0.2]),
            after_commit: of([0.0, 0.05, 0.2]),
            late_commit: of([0.0, 0.05, 0.2]),
            read: of([0.0, 0.02, 0.1]),
            watch: of([0.0, 0.02, 0.1]),
            still: false,
            delay: Duration::from_micros(if of([0.0, 1.0, 1.0]) > 0.0 { 2500 } else { 0 }),
            asked: seed.is_multiple_of(2),
            relaxed: false,
        };
        let store = Arc::new(Faulty::new(truth.clone(), faults));
        let limits = Limits {
            events: if seed.is_multiple_of(8) { 5 } else { 1000 },
            wait: Duration::from_millis(20),
            patience: Duration::from_millis(200),
            ..Limits::default()
        };
        let cache = seed.is_multiple_of(4).then(|| Cache::start_with(store.clone(), Arc::new(AsStored), limits));
        Self {
            seed,
            log,
            truth,
            store,
            cache,
            clock: AtomicU64::new(0),
            operations: Mutex::default(),
            answers: Mutex::default(),
            states: Mutex::default(),
        }
    }

    async fn run(self: Arc<Self>) -> Result<(), String> {
        let mut watchers: Vec<_> = (0..2).map(|n| tokio::spawn(self.clone().watch(n))).collect();
        if let Some(cache) = &self.cache {
            watchers.push(tokio::spawn(self.clone().watch_cache(cache.collection(&self.prefix()))));
        }
        join_all((0..CLIENTS).map(|n| tokio::spawn(self.clone().work(n)))).await.into_iter().for_each(Result::unwrap);
        self.store.settle().await;
        let last = self.truth.commit(&self.end(), Expect::Absent, put("end")).await.map_err(|err| err.to_string())?;
        let truth = self.log.of(self.seed, last).await?;
        let told = timeout(PATIENCE, try_join_all(watchers)).await;
        let told = told.map_err(|_| "a watcher never saw the end".to_owned())?.map_err(|err| err.to_string())?;
        for (watcher, told) in told.iter().enumerate() {
            watches::check(&truth, told).map_err(|why| format!("watcher {watcher}: {why}"))?;
        }
        self.check_operations(&truth)?;
        self.check_answers()?;
        for state in &*self.states.lock() {
            watches::check(&truth, &[Told::Listed(state.clone()), Told::Listed(listed(&truth, last))])?;
        }
        Ok(())
    }

    fn prefix(&self) -> String {
        format!("/round/{}/", self.seed)
    }

    fn end(&self) -> Key {
        format!("{}end", self.prefix()).into()
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    /// One client: reads and writes at random, expecting what it last knew.
    async fn work(self: Arc<Self>, client: u64) {
        let mut dice = Chance(self.seed.wrapping_mul(31).wrapping_add(client));
        let mut known: HashMap<Key, Expect> = HashMap::new();
        for step in 0..STEPS {
            let key = Key::from(format!("{}{}", self.prefix(), dice.next() % KEYS));
            let expect = known.get(&key).copied().unwrap_or(Expect::Absent);
            let outcome = match dice.next() % 8 {
                0 | 1 => self.read(&key).await,
                2 => match &self.cache {
                    Some(cache) => self.read_cache(&cache.collection(&self.prefix()), &key, &mut dice).await,
                    None => self.read(&key).await,
                },
                n => {
                    let value = (n != 3 || expect == Expect::Absent).then(|| Bytes::from(format!("{client}.{step}")));
                    self.write(&key, expect, value).await
                }
            };
            match outcome {
                Outcome::Found(None) | Outcome::Refused(StoreError::Absent) => known.insert(key, Expect::Absent),
                Outcome::Found(Some((_, at)))
                | Outcome::Written(at)
                | Outcome::Refused(StoreError::Moved { now: at } | StoreError::Exists { now: at }) => known.insert(key, Expect::At(at)),
                Outcome::Unknown | Outcome::Refused(_) => None,
            };
            if self.seed.is_multiple_of(3) && dice.next().is_multiple_of(12) {
                self.truth.compact(self.log.seen()).await.unwrap();
            }
        }
    }

    async fn read(&self, key: &Key) -> Outcome {
        let called = self.tick();
        let read = self.store.get(key).await;
        self.note(called, read.as_ref().ok().map(|at| at.revision));
        let outcome = match read {
            Ok(At { value, .. }) => Outcome::Found(value.map(|entry| (entry.value, entry.revision))),
            Err(_) => Outcome::Unknown,
        };
        self.record(called, key, Action::Read, outcome)
    }

    async fn read_cache(&self, objects: &Collection<()>, key: &Key, dice: &mut Chance) -> Outcome {
        if dice.next().is_multiple_of(4) {
            // Some state of a moment ago, which may be gone.
            let revision = Revision(self.log.seen().0.saturating_sub(dice.next() % 8).max(self.log.start.0));
            if let Ok(state) = objects.snapshot(Freshness::Exact(revision)).await {
                self.states.lock().push(At { value: state.iter().map(|cached| entry(cached)).collect(), revision });
            }
        }
        let called = self.tick();
        let read = objects.get(key.as_str(), Freshness::Latest).await;
        self.note(called, read.as_ref().ok().map(|at| at.revision));
        let outcome = match read {
            Ok(At { value, .. }) => Outcome::Found(value.map(|cached| (cached.wire(), cached.revision))),
            Err(_) => Outcome::Unknown,
        };
        self.record(called, key, Action::Read, outcome)
    }

    async fn write(&self, key: &Key, expect: Expect, value: Option<Bytes>) -> Outcome {
        let called = self.tick();
        let written = self.store.commit(key, expect, value.clone().map_or(Write::Delete, put)).await;
        self.note(called, written.as_ref().ok().copied());
        let outcome = match written {
            Ok(revision) => Outcome::Written(revision),
            Err(StoreError::Unavailable(_)) => Outcome::Unknown,
            Err(err) => Outcome::Refused(err),
        };
        self.record(called, key, Action::Write(expect, value), outcome)
    }

    fn note(&self, called: u64, revision: Option<Revision>) {
        if let Some(revision) = revision {
            self.answers.lock().push((called, self.tick(), revision));
        }
    }

    fn record(&self, called: u64, key: &Key, action: Action, outcome: Outcome) -> Outcome {
        let operation = Operation { called, returned: self.tick(), action, outcome: outcome.clone() };
        self.operations.lock().push((key.clone(), operation));
        outcome
    }

    /// A watcher as careful clients are: from a list to its events, on where it was when the watch breaks, to a list again when told to.
    async fn watch(self: Arc<Self>, watcher: u64) -> Vec<Told> {
        let mut dice = Chance(self.seed.wrapping_mul(17).wrapping_add(watcher));
        let (prefix, end) = (self.prefix(), self.end());
        let mut told = Vec::new();
        'list: loop {
            let Ok(list) = self.store.range(&prefix, Page::default()).await else {
                tokio::task::yield_now().await;
                continue;
            };
            let mut cursor = list.revision;
            let done = list.value.iter().any(|entry| entry.key == end);
            told.push(Told::Listed(list));
            if done {
                return told;
            }
            loop {
                let mut events = self.store.watch(&prefix, cursor);
                while let Some(next) = events.next().await {
                    match next {
                        Ok(event) => {
                            cursor = event.revision;
                            let done = event.key == end;
                            told.push(Told::Event(event));
                            if done {
                                return told;
                            }
                        }
                        Err(StoreError::Compacted { .. }) => continue 'list,
                        Err(_) => break,
                    }
                    if dice.next().is_multiple_of(8) {
                        tokio::time::sleep(Duration::from_millis(dice.next() % 4)).await;
                    }
                }
                told.push(Told::Resumed);
            }
        }
    }

    /// The same of the cache.
    async fn watch_cache(self: Arc<Self>, objects: Arc<Collection<()>>) -> Vec<Told> {
        let end = self.end();
        let mut told = Vec::new();
        loop {
            let Ok((snapshot, mut watcher)) = objects.snapshot_and_watch(Freshness::Latest).await else {
                tokio::task::yield_now().await;
                continue;
            };
            let value: Vec<_> = snapshot.iter().map(|cached| entry(cached)).collect();
            told.push(Told::Listed(At { value, revision: snapshot.revision }));
            if snapshot.get(end.as_str()).is_some() {
                return told;
            }
            while let Ok(batch) = watcher.next_batch().await {
                told.extend(batch.changes.iter().map(|change| Told::Event(event(change))));
                if batch.changes.iter().any(|change| change.key == end) {
                    return told;
                }
            }
        }
    }

    /// Each key is linearizable; what was acknowledged was committed, and nothing that nobody asked for.
    fn check_operations(&self, truth: &[Event]) -> Result<(), String> {
        let mut by_key: BTreeMap<Key, Vec<Operation>> = BTreeMap::new();
        for (key, operation) in self.operations.lock().drain(..) {
            by_key.entry(key).or_default().push(operation);
        }
        let committed: BTreeMap<Revision, &Event> = truth.iter().map(|event| (event.revision, event)).collect();
        for (key, operations) in &by_key {
            linear::check(operations, self.log.start).map_err(|why| format!("{key}: {why}"))?;
            for operation in operations {
                let (Action::Write(_, value), Outcome::Written(at)) = (&operation.action, &operation.outcome) else { continue };
                let found = committed.get(at).filter(|event| event.key == *key && value_of(event) == value.as_ref());
                found.ok_or_else(|| format!("{key}: acknowledged, but not committed: {operation:?}"))?;
            }
        }
        for event in truth.iter().filter(|event| event.key != self.end()) {
            let asked = by_key.get(&event.key).is_some_and(|operations| operations.iter().any(|operation| is_cause(operation, event)));
            if !asked {
                return Err(format!("nobody asked for {event:?}"));
            }
        }
        Ok(())
    }

    /// Whatever was answered before a call began, the answer to the call is not older.
    fn check_answers(&self) -> Result<(), String> {
        let answers = self.answers.lock();
        for (called, _, revision) in &*answers {
            if let Some(newer) = answers.iter().find(|(_, returned, newer)| returned < called && newer > revision) {
                return Err(format!("a call at {called} was answered as of {revision}, after one as of {} at {}", newer.2, newer.1));
            }
        }
        Ok(())
    }
}

fn is_cause(operation: &Operation, event: &Event) -> bool {
    let Action::Write(_, value) = &operation.action else { return false };
    value.as_ref() == value_of(event)
        && match &operation.outcome {
            Outcome::Written(at) => *at == event.revision,
            Outcome::Unknown => true,
            _ => false,
        }
}

fn value_of(event: &Event) -> Option<&Bytes> {
    event.after.as_ref().map(|entry| &entry.value)
}

fn listed(truth: &[Event], revision: Revision) -> At<Vec<Entry>> {
    At { value: watches::state_at(truth, revision).into_values().collect(), revision }
}

fn entry(cached: &Cached<()>) -> Entry {
    Entry { key: cached.key.clone(), value: cached.wire(), revision: cached.revision, created: cached.created }
}

fn event(change: &Change<()>) -> Event {
    Event { key: change.key.clone(), revision: change.revision, after: change.after.as_deref().map(entry) }
}

/// What is stored is what is sent.
struct AsStored;

impl Decode<()> for AsStored {
    fn decode(&self, _key: &Key, stored: &Bytes, _revision: Revision) -> Decoded<()> {
        Decoded { wire: stored.clone(), facts: () }
    }

    fn departed(&self, last: &Cached<()>, _revision: Revision) -> Bytes {
        last.wire()
    }
}

/// A store that breaks its promises is found out: the whole machinery is of no use if it cannot fail.
#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Events,
        embedded::{Embedded, Options},
    };

    /// How the store lies.
    #[derive(Clone, Copy, Debug)]
    enum Lie {
        /// A read gives what was there some writes ago.
        Stale,
        /// A write is acknowledged and was never done.
        Lost,
        /// A watch leaves an event out.
        Gap,
        /// An expectation is not looked at.
        Blind,
    }

    struct Liar {
        honest: Arc<dyn Store>,
        lie: Lie,
        dice: Mutex<Chance>,
        read: Mutex<HashMap<Key, At<Option<Entry>>>>,
    }

    impl Liar {
        fn lies(&self) -> bool {
            self.dice.lock().next().is_multiple_of(10)
        }
    }

    #[async_trait::async_trait]
    impl Store for Liar {
        async fn revision(&self) -> Result<Revision, StoreError> {
            self.honest.revision().await
        }
        async fn get(&self, key: &Key) -> Result<At<Option<Entry>>, StoreError> {
            let read = self.honest.get(key).await?;
            let old = self.read.lock().insert(key.clone(), read.clone());
            // Its revision does not give it away.
            let stale = old.filter(|_| matches!(self.lie, Lie::Stale)).map(|old| At { revision: read.revision, ..old });
            Ok(stale.unwrap_or(read))
        }
        async fn range(&self, prefix: &str, page: Page) -> Result<At<Vec<Entry>>, StoreError> {
            self.honest.range(prefix, page).await
        }
        async fn commit(&self, key: &Key, expect: Expect, write: Write) -> Result<Revision, StoreError> {
            if matches!(self.lie, Lie::Lost) && !key.as_str().ends_with("/end") && self.lies() {
                return Ok(Revision(self.honest.revision().await?.0 + 1));
            }
            match (self.honest.commit(key, expect, write.clone()).await, self.lie) {
                (Err(StoreError::Moved { now }), Lie::Blind) => self.honest.commit(key, Expect::At(now), write).await,
                (result, _) => result,
            }
        }
        fn watch(&self, prefix: &str, from: Revision) -> Events {
            let skip = if matches!(self.lie, Lie::Gap) && prefix != "/round/" { 4 } else { usize::MAX };
            let events = self.honest.watch(prefix, from).enumerate();
            let ends = |event: &Result<Event, StoreError>| event.as_ref().is_ok_and(|event| event.key.as_str().ends_with("/end"));
            events.filter_map(move |(n, event)| async move { (n != skip || ends(&event)).then_some(event) }).boxed()
        }
        async fn compact(&self, to: Revision) -> Result<(), StoreError> {
            self.honest.compact(to).await
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_store_that_lies_is_found_out() {
        for (lie, words) in [
            (Lie::Stale, "no order of these operations"),
            (Lie::Lost, ""),
            (Lie::Gap, "watcher"),
            (Lie::Blind, "no order of these operations"),
        ] {
            let honest: Arc<dyn Store> = Arc::new(Embedded::open(&Options::memory()).unwrap());
            let liar: Arc<dyn Store> = Arc::new(Liar { honest: honest.clone(), lie, dice: Mutex::new(Chance(1)), read: Mutex::default() });
            let log = Log::follow(honest).await;
            let mut found = Vec::new();
            // Odd seeds: no cache, which would rightly wait for the writes that were only said to be done.
            for seed in [1, 5, 7, 11, 13, 17, 19, 23, 25, 29] {
                let round = Arc::new(Round::new(seed, liar.clone(), log.clone()));
                found.extend(round.run().await.err());
            }
            assert!(found.iter().any(|why| why.contains(words)), "{lie:?}: {found:?}");
        }
    }
}
