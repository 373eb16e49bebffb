//! A queue of keys: each waits once however often it is added, no two workers ever hold the same one, failures come back
//! later and later, and a busy key is held back a little so that a storm of events costs one run, not hundreds.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet, VecDeque},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use crate::object::Key;

/// Back-off of a failing key: 5 ms doubled at each failure, at most 1,000 s (client-go's default rate limiter).
const FIRST: Duration = Duration::from_millis(5);
const LONGEST: Duration = Duration::from_secs(1000);
/// Start times are forgotten in bulk above this many.
const RECENT: usize = 4096;

/// The queue of one controller.
pub struct Queue {
    inner: Mutex<Inner>,
    changed: Notify,
    pace: Duration,
}

#[derive(Default)]
struct Inner {
    ready: VecDeque<Key>,
    /// The keys in `ready`.
    queued: HashSet<Key>,
    /// Keys that must run: those in `ready`, those held back, and those added while a worker had them.
    dirty: HashSet<Key>,
    running: HashSet<Key>,
    later: BinaryHeap<Reverse<(Instant, Key)>>,
    /// When each delayed key is due; of several wishes the earliest counts, and entries of `later` that are not here are stale.
    due: HashMap<Key, Instant>,
    failures: HashMap<Key, u32>,
    began: HashMap<Key, Instant>,
}

impl Queue {
    /// A queue that starts the same key at most once in `pace`.
    #[must_use]
    pub fn new(pace: Duration) -> Self {
        Self { inner: Mutex::default(), changed: Notify::new(), pace }
    }

    /// Asks for a run of `key`.
    pub fn add(&self, key: Key) {
        let mut inner = self.inner.lock();
        if inner.dirty.contains(&key) {
            return;
        }
        if !self.pace.is_zero()
            && !inner.running.contains(&key)
            && let Some(next) = inner.began.get(&key).map(|began| *began + self.pace)
            && next > Instant::now()
        {
            inner.dirty.insert(key.clone());
            inner.delay(key, next);
            drop(inner);
            self.changed.notify_one();
            return;
        }
        inner.dirty.insert(key.clone());
        if !inner.running.contains(&key) {
            inner.push(key);
            drop(inner);
            self.changed.notify_one();
        }
    }

    /// Asks for a run of `key` when `delay` has passed.
    pub fn add_after(&self, key: Key, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        self.inner.lock().delay(key, Instant::now() + delay);
        self.changed.notify_one();
    }

    /// Asks for a run of a key that failed, after its back-off.
    pub fn add_failed(&self, key: Key) {
        let delay = {
            let mut inner = self.inner.lock();
            let failures = inner.failures.entry(key.clone()).or_default();
            *failures += 1;
            FIRST.saturating_mul(1u32.checked_shl(*failures - 1).unwrap_or(u32::MAX)).min(LONGEST)
        };
        self.add_after(key, delay);
    }

    /// Forgets the failures of a key that succeeded.
    pub fn forget(&self, key: &Key) {
        self.inner.lock().failures.remove(key);
    }

    /// Waits for the next key. The caller must give it back with [`Queue::done`].
    pub async fn take(&self) -> Key {
        loop {
            let changed = self.changed.notified();
            let next = {
                let mut inner = self.inner.lock();
                let now = Instant::now();
                inner.promote(now);
                if let Some(key) = inner.ready.pop_front() {
                    inner.queued.remove(&key);
                    inner.dirty.remove(&key);
                    inner.running.insert(key.clone());
                    if !self.pace.is_zero() {
                        inner.note(&key, now, self.pace);
                    }
                    if !inner.ready.is_empty() || !inner.later.is_empty() {
                        self.changed.notify_one();
                    }
                    return key;
                }
                inner.later.peek().map(|Reverse((at, _))| *at)
            };
            match next {
                Some(at) => {
                    tokio::select! { () = changed => {}, () = tokio::time::sleep_until(at) => {} }
                }
                None => changed.await,
            }
        }
    }

    /// Gives a key back; if it was added meanwhile it runs again.
    pub fn done(&self, key: &Key) {
        let mut inner = self.inner.lock();
        inner.running.remove(key);
        if inner.dirty.contains(key) {
            match inner.began.get(key).map(|began| *began + self.pace) {
                Some(next) if next > Instant::now() => inner.delay(key.clone(), next),
                _ => inner.push(key.clone()),
            }
            drop(inner);
            self.changed.notify_one();
        }
    }

    /// How many keys wait to run.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.inner.lock().dirty.len()
    }
}

impl Inner {
    /// Moves the keys whose time has come.
    fn promote(&mut self, now: Instant) {
        while self.later.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            let Some(Reverse((at, key))) = self.later.pop() else { return };
            if self.due.get(&key) != Some(&at) {
                continue;
            }
            self.due.remove(&key);
            self.dirty.insert(key.clone());
            if !self.running.contains(&key) {
                self.push(key);
            }
        }
    }

    fn delay(&mut self, key: Key, at: Instant) {
        if self.due.get(&key).is_none_or(|due| at < *due) {
            self.due.insert(key.clone(), at);
            self.later.push(Reverse((at, key)));
        }
    }

    fn push(&mut self, key: Key) {
        if self.queued.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    fn note(&mut self, key: &Key, now: Instant, pace: Duration) {
        if self.began.len() > RECENT {
            self.began.retain(|_, began| *began + pace > now);
        }
        self.began.insert(key.clone(), now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::new("a", name)
    }

    async fn next(queue: &Queue) -> Option<Key> {
        tokio::time::timeout(Duration::from_nanos(1), queue.take()).await.ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_added_twice_runs_once_and_again_only_if_added_while_it_ran() {
        let queue = Queue::new(Duration::ZERO);
        queue.add(key("x"));
        queue.add(key("x"));
        assert_eq!(next(&queue).await, Some(key("x")));
        assert_eq!(next(&queue).await, None);
        queue.add(key("x"));
        assert_eq!(next(&queue).await, None, "a running key must not be handed to a second worker");
        queue.done(&key("x"));
        assert_eq!(next(&queue).await, Some(key("x")));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_back_off_by_doubling_until_forgotten() {
        let queue = Queue::new(Duration::ZERO);
        for expected_ms in [5, 10, 20, 40] {
            let began = Instant::now();
            queue.add_failed(key("x"));
            let taken = queue.take().await;
            assert_eq!(began.elapsed().as_millis(), expected_ms);
            queue.done(&taken);
        }
        queue.forget(&key("x"));
        let began = Instant::now();
        queue.add_failed(key("x"));
        queue.take().await;
        assert_eq!(began.elapsed().as_millis(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_key_is_held_to_its_pace() {
        let queue = Queue::new(Duration::from_millis(50));
        queue.add(key("x"));
        let began = Instant::now();
        let taken = queue.take().await;
        assert_eq!(began.elapsed(), Duration::ZERO, "the first run is immediate");
        queue.add(key("x"));
        queue.done(&taken);
        let taken = queue.take().await;
        assert_eq!(began.elapsed().as_millis(), 50);
        queue.done(&taken);
        queue.add(key("x"));
        queue.add(key("y"));
        assert_eq!(queue.take().await, key("y"), "others are not held back");
    }

    #[tokio::test(start_paused = true)]
    async fn of_several_delays_of_one_key_the_earliest_counts_and_the_others_are_forgotten() {
        let queue = Queue::new(Duration::ZERO);
        for seconds in [5, 2, 9] {
            queue.add_after(key("x"), Duration::from_secs(seconds));
        }
        let began = Instant::now();
        let taken = queue.take().await;
        assert_eq!(began.elapsed().as_secs(), 2);
        queue.done(&taken);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(next(&queue).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn delayed_keys_come_in_order_of_time() {
        let queue = Queue::new(Duration::ZERO);
        queue.add_after(key("late"), Duration::from_secs(9));
        queue.add_after(key("soon"), Duration::from_secs(1));
        assert_eq!(queue.take().await, key("soon"));
        assert_eq!(queue.take().await, key("late"));
    }
}
