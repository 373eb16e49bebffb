//! A store that fails on purpose, from a seed: what callers must live with, on demand.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use crate::{At, Durability, Each, Entry, Events, Expect, Key, Page, Past, Revision, Stats, Steps, Store, StoreError, Write};

/// What goes wrong, and how often. Chances are from 0 (never) to 1 (always).
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// The same seed and the same calls give the same faults.
    pub seed: u64,
    /// Chance that a commit fails and nothing was written.
    pub before_commit: f64,
    /// Chance that a commit fails although it was written.
    pub after_commit: f64,
    /// Chance that a commit fails at once and is done some time later, after other calls ([`Faulty::settle`] waits for these).
    pub late_commit: f64,
    /// Chance that a read fails.
    pub read: f64,
    /// Chance, at each event, that a watch breaks instead.
    pub watch: f64,
    /// Watches that are opened tell nothing and do not end.
    pub still: bool,
    /// Every call takes up to this much longer.
    pub delay: Duration,
    /// The latest revision is not known without asking.
    pub asked: bool,
    /// Every put is relaxed.
    pub relaxed: bool,
}

/// Wraps a store with [`Faults`].
pub struct Faulty {
    inner: Arc<dyn Store>,
    faults: Mutex<Faults>,
    chance: Mutex<Chance>,
    late: Mutex<Vec<JoinHandle<()>>>,
}

impl Faulty {
    /// A wrapper around `inner`.
    pub fn new(inner: Arc<dyn Store>, faults: Faults) -> Self {
        Self { inner, faults: Mutex::new(faults), chance: Mutex::new(Chance(faults.seed)), late: Mutex::default() }
    }

    /// Changes what goes wrong from here on; watches that are open keep their chance.
    pub fn set(&self, faults: Faults) {
        *self.faults.lock() = faults;
    }

    /// Waits until every commit that is to be done late is done.
    pub async fn settle(&self) {
        let late = std::mem::take(&mut *self.late.lock());
        for commit in late {
            // It cannot be told to anybody any more.
            let _ = commit.await;
        }
    }

    fn commit_later(&self, key: Key, expect: Expect, write: Write) {
        let (inner, longest) = (Arc::clone(&self.inner), self.faults.lock().delay.max(Duration::from_millis(1)));
        let pause = longest.mul_f64(4.0 * self.chance.lock().fraction());
        let commit = async move {
            tokio::time::sleep(pause).await;
            // Refused when somebody was faster: the client was told nothing of it in any case.
            let _ = inner.commit(&key, expect, write).await;
        };
        self.late.lock().push(tokio::spawn(commit));
    }

    fn strikes(&self, chance: f64) -> bool {
        self.chance.lock().strikes(chance)
    }

    async fn dawdle(&self) {
        let longest = self.faults.lock().delay;
        if !longest.is_zero() {
            let part = self.chance.lock().fraction();
            tokio::time::sleep(longest.mul_f64(part)).await;
        }
    }

    /// The same stream, that breaks by chance at each item, or tells none.
    fn breaking<T: Send + 'static>(&self, items: BoxStream<'static, Result<T, StoreError>>) -> BoxStream<'static, Result<T, StoreError>> {
        let Faults { watch: chance, still, .. } = *self.faults.lock();
        if still {
            return stream::pending().boxed();
        }
        let seed = self.chance.lock().next();
        let state = Some((items, Chance(seed)));
        stream::unfold(state, move |state| async move {
            let (mut items, mut dice) = state?;
            let item = items.next().await?;
            if dice.strikes(chance) { Some((Err(injected("watch")), None)) } else { Some((item, Some((items, dice)))) }
        })
        .boxed()
    }

    async fn before_read(&self) -> Result<(), StoreError> {
        self.dawdle().await;
        let chance = self.faults.lock().read;
        if self.strikes(chance) { Err(injected("read")) } else { Ok(()) }
    }
}

#[async_trait]
impl Store for Faulty {
    async fn revision(&self) -> Result<Revision, StoreError> {
        self.before_read().await?;
        self.inner.revision().await
    }

    fn latest(&self) -> Option<Revision> {
        if self.faults.lock().asked { None } else { self.inner.latest() }
    }

    async fn get(&self, key: &Key) -> Result<At<Option<Entry>>, StoreError> {
        self.before_read().await?;
        self.inner.get(key).await
    }

    async fn range(&self, prefix: &str, page: Page) -> Result<At<Vec<Entry>>, StoreError> {
        self.before_read().await?;
        self.inner.range(prefix, page).await
    }

    async fn scan(&self, prefix: &str, each: Each) -> Result<Revision, StoreError> {
        self.before_read().await?;
        self.inner.scan(prefix, each).await
    }

    async fn commit(&self, key: &Key, expect: Expect, write: Write) -> Result<Revision, StoreError> {
        self.dawdle().await;
        let Faults { before_commit, after_commit, late_commit, relaxed, .. } = *self.faults.lock();
        let write = match write {
            Write::Put { value, ttl, .. } if relaxed => Write::Put { value, ttl, durability: Durability::Relaxed },
            write => write,
        };
        if self.strikes(before_commit) {
            return Err(injected("before commit"));
        }
        if self.strikes(late_commit) {
            self.commit_later(key.clone(), expect, write);
            return Err(injected("late commit"));
        }
        let revision = self.inner.commit(key, expect, write).await?;
        self.dawdle().await;
        if self.strikes(after_commit) { Err(injected("after commit")) } else { Ok(revision) }
    }

    fn watch(&self, prefix: &str, from: Revision) -> Events {
        self.breaking(self.inner.watch(prefix, from))
    }

    fn follow(&self, prefix: &str, from: Revision) -> Steps {
        self.breaking(self.inner.follow(prefix, from))
    }

    fn expedite(&self, to: Revision) {
        self.inner.expedite(to);
    }

    async fn count(&self, prefix: &str) -> Result<usize, StoreError> {
        self.before_read().await?;
        self.inner.count(prefix).await
    }

    fn bound_to(&self, key: &Key) -> Vec<u8> {
        self.inner.bound_to(key)
    }

    async fn past(&self, key: &Key) -> Result<Past, StoreError> {
        self.before_read().await?;
        self.inner.past(key).await
    }

    fn size(&self) -> Option<u64> {
        self.inner.size()
    }

    async fn stats(&self) -> Stats {
        self.inner.stats().await
    }

    fn alarm(&self) -> Option<String> {
        self.inner.alarm()
    }

    async fn compact(&self, to: Revision) -> Result<(), StoreError> {
        self.before_read().await?;
        self.inner.compact(to).await
    }
}

fn injected(place: &str) -> StoreError {
    StoreError::Unavailable(format!("injected fault: {place}"))
}

/// SplitMix64: small, seeded, good enough for dice.
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to just under 1.
    #[allow(clippy::cast_precision_loss)]
    fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn strikes(&mut self, chance: f64) -> bool {
        chance > 0.0 && self.fraction() < chance
    }
}
