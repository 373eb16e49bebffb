//! One prefix of keys: its objects, its recent changes, and the reads of both.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use imbl::OrdMap;
use parking_lot::RwLock;
use tokio::time::{Instant, timeout};

use super::{Batch, Cached, Change, Core, Error, Forms, Freshness, Interest, Snapshot, Watcher, ring::Ring, wakes::Wakes};
use crate::{At, Event, Key, Revision};

/// How often a list is tried whose state is thrown away while it is made.
const AGAIN: usize = 8;

/// All objects under one prefix. Reads are from memory; see [`Freshness`] for what they may wait for.
pub struct Collection<F> {
    prefix: Arc<str>,
    core: Arc<Core<F>>,
    state: RwLock<State<F>>,
    received: AtomicU64,
    initialized: AtomicU64,
    /// Told once per run of events that concerned this collection, and when it is loaded or forgotten.
    pub(super) wakes: Wakes,
}

struct State<F> {
    map: OrdMap<Key, Arc<Cached<F>>>,
    ring: Ring<F>,
    /// The last event applied, or the revision of loading.
    last: Revision,
    /// Up to where watchers were told.
    told: Revision,
    loaded: bool,
    /// Removed from the cache: never loaded again.
    closed: bool,
    /// Rises when the state is thrown away: watchers of another epoch have a gap.
    epoch: u64,
    /// From this epoch on it was thrown away only because somebody said so: watchers of these have missed nothing, they end.
    whole_since: u64,
}

impl<F: Send + Sync + 'static> Collection<F> {
    pub(super) fn new(prefix: Arc<str>, core: Arc<Core<F>>) -> Self {
        let nothing = Revision(0);
        let state = State {
            map: OrdMap::new(),
            ring: Ring::new(nothing),
            last: nothing,
            told: nothing,
            loaded: false,
            closed: false,
            epoch: 0,
            whole_since: 0,
        };
        let (received, initialized) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { prefix, core, state: RwLock::new(state), received, initialized, wakes: Wakes::new() }
    }

    /// How often it was loaded, and how many events came since the first time.
    pub fn counts(&self) -> (u64, u64) {
        (self.initialized.load(Ordering::Relaxed), self.received.load(Ordering::Relaxed))
    }

    /// The prefix, with its trailing `/`.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The revision up to which this collection knows everything.
    pub fn seen(&self) -> Revision {
        let progress = self.core.seen();
        progress.max(self.state.read().last)
    }

    /// One object by its whole key, with the revision at which the answer was true.
    pub async fn get(&self, key: &str, freshness: Freshness) -> Result<At<Option<Arc<Cached<F>>>>, Error> {
        if let Freshness::Exact(_) = freshness {
            let snapshot = self.snapshot(freshness).await?;
            return Ok(At { value: snapshot.get(key).cloned(), revision: snapshot.revision });
        }
        if freshness != Freshness::Latest {
            self.wait(freshness).await?;
        } else if self.lags().await? {
            return self.stored(key).await;
        }
        match self.peek(|state| state.map.get(key).cloned()) {
            Some(found) => Ok(found),
            // Thrown away since it was waited for.
            None => self.stored(key).await,
        }
    }

    /// Whether memory is there but stays behind the store for longer than anybody should wait who can ask the store for one object instead:
    /// events are told by one task, and where very many requests share little of a processor it comes to its turn late.
    async fn lags(&self) -> Result<bool, Error> {
        let (latest, limits) = (self.core.latest().await?, &self.core.limits);
        let reached = match self.reach(latest, limits.wait).await {
            // Nothing is in memory yet.
            Err(Error::Unavailable(_)) => self.reach(latest, limits.patience).await,
            reached => reached,
        };
        match reached {
            Ok(()) => Ok(false),
            Err(Error::TooNew { .. }) => Ok(true),
            Err(err) => Err(err),
        }
    }

    /// One object as the store has it now. Not for lists: each would hold all objects anew, and many may be waiting.
    async fn stored(&self, key: &str) -> Result<At<Option<Arc<Cached<F>>>>, Error> {
        let found = self.core.store.get(&Key::from(key)).await.map_err(|err| Error::Unavailable(err.to_string()))?;
        Ok(At { value: found.value.map(|entry| self.core.cached(&entry)), revision: found.revision })
    }

    /// All objects at one revision.
    pub async fn snapshot(&self, freshness: Freshness) -> Result<Snapshot<F>, Error> {
        for _ in 0..AGAIN {
            self.wait(freshness).await?;
            let made = match freshness {
                Freshness::Exact(revision) => self.rebuild(revision),
                _ => self.current().ok_or_else(loading),
            };
            if !matches!(made, Err(Error::Unavailable(_))) {
                return made;
            }
        }
        Err(loading())
    }

    /// What is there now, without waiting; `None` while loading. For callers that need no particular freshness.
    pub fn current(&self) -> Option<Snapshot<F>> {
        let At { value: map, revision } = self.peek(|state| state.map.clone())?;
        Some(Snapshot { revision, map })
    }

    /// A reader of all changes after `from`; [`Error::Expired`] when some of them are no longer kept.
    pub async fn watch(self: &Arc<Self>, from: Revision) -> Result<Watcher<F>, Error> {
        self.wait(Freshness::Any).await?;
        let changed = self.wakes.subscribe(&Interest::All);
        let state = self.state.read();
        if from < state.ring.floor() {
            return Err(Error::Expired { oldest: state.ring.floor() });
        }
        let epoch = state.epoch;
        drop(state);
        Ok(Watcher { collection: self.clone(), cursor: from, epoch, interest: Interest::All, changed })
    }

    /// A snapshot and a reader of exactly the changes after it.
    pub async fn snapshot_and_watch(self: &Arc<Self>, freshness: Freshness) -> Result<(Snapshot<F>, Watcher<F>), Error> {
        let changed = self.wakes.subscribe(&Interest::All);
        self.wait(freshness).await?;
        let epoch = self.state.read().epoch;
        let snapshot = self.snapshot(freshness).await?;
        // Forgotten in between: the epoch differs and the watcher says Expired at its first step.
        let watcher = Watcher { collection: self.clone(), cursor: snapshot.revision, epoch, interest: Interest::All, changed };
        Ok((snapshot, watcher))
    }

    /// Up to `limit` changes after `cursor`, and the revision known with them.
    pub(super) fn changes_after(&self, cursor: Revision, epoch: u64, limit: usize) -> Result<Batch<F>, Error> {
        let progress = self.core.seen();
        let state = self.state.read();
        let expired = Error::Expired { oldest: state.ring.floor() };
        if state.epoch != epoch {
            return Err(if epoch < state.whole_since { expired } else { Error::Ended });
        }
        let mut rest = state.ring.after(cursor).ok_or(expired)?.peekable();
        let mut changes: Vec<_> = rest.by_ref().take(limit).cloned().collect();
        // What happened at one revision is told at once: the cursor cannot stand in between.
        while let (Some(last), Some(next)) = (changes.last(), rest.peek())
            && last.revision == next.revision
        {
            changes.extend(rest.next().cloned());
        }
        let revision = match (rest.next(), changes.last()) {
            (Some(_), Some(last)) => last.revision,
            _ => progress.max(state.last),
        };
        Ok(Batch { changes, revision })
    }

    /// Reads the state under its lock with the revision at which that is the whole truth; `None` while loading.
    fn peek<T>(&self, read: impl FnOnce(&State<F>) -> T) -> Option<At<T>> {
        // Progress first: every event up to it is in the state that is looked at afterwards.
        let progress = self.core.seen();
        let state = self.state.read();
        state.loaded.then(|| At { value: read(&state), revision: progress.max(state.last) })
    }

    /// The state at `revision`: the current one with the later changes undone, newest first.
    pub(super) fn rebuild(&self, revision: Revision) -> Result<Snapshot<F>, Error> {
        let oldest = self.core.history.lock().floor(Instant::now());
        if revision < oldest {
            return Err(Error::Expired { oldest });
        }
        let state = self.state.read();
        // Forgotten since that was waited for: what is there is nothing, not the state of any revision.
        if !state.loaded {
            return Err(loading());
        }
        let mut map = state.map.clone();
        let later = state.ring.after(revision).ok_or(Error::Expired { oldest: state.ring.floor() })?;
        let later: Vec<_> = later.rev().cloned().collect();
        drop(state);
        for change in later {
            match &change.before {
                Some(before) => map.insert(change.key.clone(), before.clone()),
                None => map.remove(change.key.as_str()),
            };
        }
        Ok(Snapshot { revision, map })
    }

    /// Waits until a read of this freshness can be answered.
    async fn wait(&self, freshness: Freshness) -> Result<(), Error> {
        let limits = &self.core.limits;
        match freshness {
            Freshness::Any => self.reach(Revision(0), limits.patience).await,
            Freshness::NotOlderThan(revision) | Freshness::Exact(revision) => self.reach(revision, limits.wait).await,
            Freshness::Latest => {
                let latest = self.core.latest().await?;
                self.reach(latest, limits.patience).await.map_err(|err| match err {
                    Error::TooNew { asked, current } => {
                        Error::Unavailable(format!("the store is at revision {asked}, the watch cache still at {current}"))
                    }
                    err => err,
                })
            }
        }
    }

    async fn reach(&self, revision: Revision, limit: Duration) -> Result<(), Error> {
        if self.has_reached(revision) {
            return Ok(());
        }
        self.core.store.expedite(revision);
        let mut progress = self.core.progress.subscribe();
        let reached = async {
            while !self.has_reached(revision) {
                if self.state.read().closed || progress.changed().await.is_err() {
                    break;
                }
            }
        };
        match timeout(limit, reached).await {
            Ok(()) => Ok(()),
            Err(_) if self.state.read().loaded => Err(Error::TooNew { asked: revision, current: self.seen() }),
            Err(_) => Err(loading()),
        }
    }

    fn has_reached(&self, revision: Revision) -> bool {
        let progress = self.core.seen();
        let state = self.state.read();
        state.loaded && progress.max(state.last) >= revision
    }

    /// Fills the collection with all there is at a revision; the feeding task only.
    pub(super) fn load(&self, objects: Vec<Arc<Cached<F>>>, revision: Revision, epoch: u64) {
        let map = objects.into_iter().map(|cached| (cached.key.clone(), cached)).collect();
        let mut state = self.state.write();
        // Forgotten while it was read: that read may be older than the reason to forget.
        if state.closed || state.epoch != epoch {
            return;
        }
        state.map = map;
        state.ring = Ring::new(revision);
        (state.last, state.told) = (revision, revision);
        state.loaded = true;
        drop(state);
        self.initialized.fetch_add(1, Ordering::Relaxed);
        self.wakes.tell_all();
    }

    /// Throws the state away, of which something was missed: reads wait for loading, watchers expire.
    pub(super) fn forget(&self) {
        self.throw_away(|state| state.whole_since = state.epoch);
    }

    /// Throws the state away because it is to be read again: reads wait for loading, watchers end.
    pub(super) fn renew(&self) {
        self.throw_away(|_| {});
    }

    fn throw_away(&self, note: impl FnOnce(&mut State<F>)) {
        let mut state = self.state.write();
        let old = std::mem::take(&mut state.map);
        state.ring = Ring::new(state.last);
        state.loaded = false;
        state.epoch += 1;
        note(&mut state);
        drop(state);
        drop(old);
        self.wakes.tell_all();
    }

    /// Throws the state away for good; whoever still holds the collection is told that it is unavailable.
    pub(super) fn close(&self) {
        self.state.write().closed = true;
        self.renew();
    }

    /// Rises whenever the state is thrown away; what was read before that is not to be loaded.
    pub(super) fn epoch(&self) -> u64 {
        self.state.read().epoch
    }

    pub(super) fn is_loaded(&self) -> bool {
        self.state.read().loaded
    }

    /// Applies one event (the feeding task only, in revision order); whether it was news.
    pub(super) fn apply(&self, event: &Event, now: Instant) -> bool {
        let (known, before) = {
            let state = self.state.read();
            (!state.loaded || event.revision <= state.last, state.map.get(event.key.as_str()).cloned())
        };
        if known {
            return false;
        }
        let after = event.after.as_ref().map(|entry| self.core.cached(entry));
        if before.is_none() && after.is_none() {
            return false;
        }
        let mut state = self.state.write();
        if !state.loaded {
            return false;
        }
        self.put(&mut state, event, before, after, now);
        true
    }

    /// Applies the events of one revision, those of other collections aside: nobody sees some of them without the others.
    pub(super) fn apply_together(&self, events: &[Event], now: Instant) -> bool {
        let known = |state: &State<F>| !state.loaded || events.first().is_none_or(|event| event.revision <= state.last);
        if known(&self.state.read()) {
            return false;
        }
        let ours = events.iter().filter(|event| event.key.as_str().starts_with(&*self.prefix));
        let decoded: Vec<_> = ours.map(|event| (event, event.after.as_ref().map(|entry| self.core.cached(entry)))).collect();
        let mut state = self.state.write();
        if known(&state) {
            return false;
        }
        let mut news = false;
        for (event, after) in decoded {
            let before = state.map.get(event.key.as_str()).cloned();
            if before.is_some() || after.is_some() {
                self.put(&mut state, event, before, after, now);
                news = true;
            }
        }
        news
    }

    fn put(&self, state: &mut State<F>, event: &Event, before: Option<Arc<Cached<F>>>, after: Option<Arc<Cached<F>>>, now: Instant) {
        match &after {
            Some(cached) => state.map.insert(cached.key.clone(), cached.clone()),
            None => state.map.remove(event.key.as_str()),
        };
        state.last = event.revision;
        let change = Change {
            revision: event.revision,
            key: event.key.clone(),
            before,
            after,
            frames: Forms::default(),
            departed: OnceLock::new(),
            decode: self.core.decode.clone(),
        };
        state.ring.push(Arc::new(change), now, &self.core.limits);
        self.received.fetch_add(1, Ordering::Relaxed);
    }

    /// Wakes the watchers that the latest events concern, once for however many.
    pub(super) fn announce(&self) {
        let mut state = self.state.write();
        let told = state.told;
        state.told = state.last;
        let changes: Option<Vec<_>> = match self.wakes.are_narrow() {
            true => state.ring.after(told).map(|changes| changes.cloned().collect()),
            false => Some(Vec::new()),
        };
        drop(state);
        match changes {
            Some(changes) => self.wakes.tell(&changes, &self.prefix, &self.core.limits),
            // More at once than the ring keeps.
            None => self.wakes.tell_all(),
        }
    }

    /// Drops old changes; whether some are left.
    pub(super) fn trim(&self, now: Instant) -> bool {
        if self.state.read().ring.is_empty() {
            return false;
        }
        // Who slept through changes is not to find them gone: by the next time it has seen these.
        self.wakes.rouse();
        let mut state = self.state.write();
        state.ring.trim(now, &self.core.limits);
        !state.ring.is_empty()
    }
}

fn loading() -> Error {
    Error::Unavailable("the collection is still loading".to_owned())
}
