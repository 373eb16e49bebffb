//! The task that feeds all collections from the one event stream of the store.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{Cached, Collection, Shared, history::History};
use crate::{At, Entry, Revision, Step, StoreError};

/// Events applied before watchers are woken and progress is told.
const CHUNK: usize = 256;
/// How often a collection is read again when compaction overtook the read.
const ATTEMPTS: u32 = 8;
/// Collections read from the store at a time.
const LOADS: usize = 4;
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Feeds until stopped. When the stream breaks, everything is forgotten and loaded again.
pub(super) async fn run<F: Send + Sync + 'static>(shared: Arc<Shared<F>>, stop: CancellationToken) {
    let mut backoff = BACKOFF_MIN;
    loop {
        let started = Instant::now();
        let broken = tokio::select! {
            () = stop.cancelled() => break,
            result = follow(&shared) => result,
        };
        shared.forget();
        if let Err(err) = broken {
            warn!(error = %err, "the store's event stream broke; the watch cache is loading again");
        }
        backoff = if started.elapsed() > BACKOFF_MAX { BACKOFF_MIN } else { (backoff * 2).min(BACKOFF_MAX) };
        tokio::select! {
            () = stop.cancelled() => break,
            () = sleep(backoff) => {}
        }
    }
    shared.forget();
}

/// One life of the stream: load what is missing, then apply events until it breaks.
async fn follow<F: Send + Sync + 'static>(shared: &Shared<F>) -> Result<(), StoreError> {
    let store = &shared.core.store;
    let from = store.revision().await?;
    // Nothing is loaded now: a store that was put back to an older state is believed.
    if from < shared.core.seen() {
        *shared.core.history.lock() = History::new(shared.core.limits.history);
        shared.core.progress.send_modify(|seen| *seen = from);
    }
    let mut steps = store.follow("", from).ready_chunks(CHUNK);
    shared.load_missing().await?;
    shared.advance(from);
    let pause = shared.core.limits.age / 4;
    let mut trim_at: Option<Instant> = None;
    loop {
        tokio::select! {
            chunk = steps.next() => {
                let Some(chunk) = chunk else { return Ok(()) };
                shared.apply(chunk)?;
                trim_at.get_or_insert_with(|| Instant::now() + pause);
            }
            () = shared.wanted.notified() => shared.load_missing().await?,
            () = sleep_until(trim_at.unwrap_or_else(Instant::now)), if trim_at.is_some() => {
                trim_at = shared.trim(Instant::now()).then(|| Instant::now() + pause);
            }
        }
    }
}

impl<F: Send + Sync + 'static> Shared<F> {
    /// Loads the collections that are not. Each may be ahead of the stream: it skips the events it has.
    async fn load_missing(&self) -> Result<(), StoreError> {
        let missing: Vec<_> = self.collections.read().values().filter(|collection| !collection.is_loaded()).cloned().collect();
        let mut reads = stream::iter(missing)
            .map(|collection| async move {
                let epoch = collection.epoch();
                let read = self.read(&collection).await;
                read.map(|read| (collection, read, epoch))
            })
            .buffer_unordered(LOADS);
        while let Some(read) = reads.next().await {
            let (collection, At { value, revision }, epoch) = read?;
            collection.load(value, revision, epoch);
            self.advance(Revision(0));
        }
        Ok(())
    }

    /// All objects of a collection, decoded piece by piece: what is stored and what is kept of it are not there at once.
    async fn read(&self, collection: &Collection<F>) -> Result<At<Vec<Arc<Cached<F>>>>, StoreError> {
        let mut attempts = 0;
        loop {
            let made: Arc<Mutex<Vec<Arc<Cached<F>>>>> = Arc::default();
            let (core, into) = (self.core.clone(), made.clone());
            let each = move |entries: &[Entry]| {
                let piece: Vec<_> = entries.iter().map(|entry| core.cached(entry)).collect();
                into.lock().extend(piece);
            };
            match self.core.store.scan(collection.prefix(), Arc::new(each)).await {
                Ok(revision) => return Ok(At { value: std::mem::take(&mut made.lock()), revision }),
                Err(StoreError::Compacted { .. }) if attempts < ATTEMPTS => attempts += 1,
                Err(err) => return Err(err),
            }
        }
    }

    /// Applies a run of steps and then tells everybody.
    fn apply(&self, chunk: Vec<Result<Step, StoreError>>) -> Result<(), StoreError> {
        let now = Instant::now();
        let mut touched: Vec<Arc<Collection<F>>> = Vec::new();
        let mut reached = Revision(0);
        let mut result = Ok(());
        let touch = |touched: &mut Vec<Arc<Collection<F>>>, collection: &Arc<Collection<F>>| {
            if !touched.iter().any(|known| Arc::ptr_eq(known, collection)) {
                touched.push(collection.clone());
            }
        };
        for step in chunk {
            match step {
                Ok(Step::Write(event)) => {
                    self.concerned(event.key.as_str(), |collection| {
                        if collection.apply(&event, now) {
                            touch(&mut touched, collection);
                        }
                    });
                    reached = event.revision;
                }
                Ok(Step::Writes(events)) => {
                    let mut concerned = Vec::new();
                    for event in &events {
                        self.concerned(event.key.as_str(), |collection| touch(&mut concerned, collection));
                        reached = event.revision;
                    }
                    for collection in &concerned {
                        if collection.apply_together(&events, now) {
                            touch(&mut touched, collection);
                        }
                    }
                }
                Ok(Step::Unreadable(keys, revision)) => {
                    // Their collections are read again, as far as they can be; what is seen in the end is what the store says then.
                    for key in &keys {
                        self.concerned(key.as_str(), |collection| collection.forget());
                    }
                    self.wanted.notify_one();
                    reached = revision.max(reached);
                }
                Ok(Step::Reached(revision)) => reached = revision.max(reached),
                Err(err) => {
                    result = Err(err);
                    break;
                }
            }
        }
        self.core.history.lock().note(now, reached);
        self.advance(reached);
        for collection in touched {
            collection.announce();
        }
        result
    }

    /// Calls `f` for each collection whose prefix `key` starts with: prefixes end in `/`, so there are only a few candidates.
    fn concerned(&self, key: &str, mut f: impl FnMut(&Arc<Collection<F>>)) {
        let collections = self.collections.read();
        for (at, _) in key.match_indices('/') {
            if let Some(collection) = collections.get(&key[..=at]) {
                f(collection);
            }
        }
    }

    /// Tells waiting reads that every event up to `reached` is applied, or that a collection was loaded.
    fn advance(&self, reached: Revision) {
        self.core.progress.send_modify(|seen| *seen = reached.max(*seen));
    }

    fn forget(&self) {
        for collection in self.collections.read().values() {
            collection.forget();
        }
    }

    /// Drops old changes everywhere; whether some are left.
    fn trim(&self, now: Instant) -> bool {
        let collections: Vec<_> = self.collections.read().values().cloned().collect();
        collections.iter().filter(|collection| collection.trim(now)).count() > 0
    }
}
