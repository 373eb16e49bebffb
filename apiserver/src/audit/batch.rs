//! Events gathered and passed on by a task of their own, so that no request waits for them (`plugin/pkg/audit/buffered`).

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::{
    sync::{Semaphore, mpsc},
    time::{Instant, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

use crate::metrics::access::AUDIT_ERRORS;

/// How events are gathered (`--audit-*-batch-*`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Batch {
    /// Events that wait at most; more are lost.
    pub buffer: usize,
    /// Events passed on at once, at most.
    pub size: usize,
    /// Fewer are passed on after this long.
    pub wait: Duration,
    /// Batches a second at most, on average, and at once; `None`: as many as there are.
    pub throttle: Option<(f64, usize)>,
}

/// Takes a batch and is done with it when the future is.
pub(super) type Deliver = Arc<dyn Fn(Vec<Bytes>) -> BoxFuture<'static, ()> + Send + Sync>;

/// Batches under way at a time: a receiver that is slow makes events wait, and in the end be lost, but holds no more memory than that.
const UNDER_WAY: usize = 64;

/// The events that wait.
pub(super) struct Queue {
    waiting: mpsc::Sender<Bytes>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Queue {
    /// Starts the task; batches are delivered at the same time when `together`, else one after the other by the task itself. Must be called
    /// within a runtime.
    pub(super) fn start(batch: Batch, together: bool, deliver: Deliver) -> Self {
        let (waiting, events) = mpsc::channel(batch.buffer.max(1));
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let gatherer = Gatherer {
            batch,
            events,
            stop: stop.clone(),
            places: together.then(|| Arc::new(Semaphore::new(UNDER_WAY))),
            deliver,
            tasks: tasks.clone(),
            bucket: batch.throttle.map(|(rate, burst)| Bucket::new(rate, burst, Instant::now())),
        };
        tasks.spawn(gatherer.run());
        Self { waiting, stop, tasks }
    }

    /// Takes an event. One for which there is no room is lost, and counted.
    pub(super) fn take(&self, event: Bytes) {
        if self.waiting.try_send(event).is_err() {
            AUDIT_ERRORS.inc(["buffered"]);
            warn!("an audit event was lost: too many wait to be written");
        }
    }

    /// Ends when everything that was taken is delivered.
    pub(super) async fn close(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

struct Gatherer {
    batch: Batch,
    events: mpsc::Receiver<Bytes>,
    stop: CancellationToken,
    /// Of those delivered at the same time.
    places: Option<Arc<Semaphore>>,
    deliver: Deliver,
    tasks: TaskTracker,
    bucket: Option<Bucket>,
}

impl Gatherer {
    async fn run(mut self) {
        loop {
            let batch = self.gather().await;
            if batch.is_empty() {
                // Nothing comes any more: the queue is closed and empty.
                return;
            }
            if let Some(bucket) = &mut self.bucket {
                let at = bucket.next(Instant::now());
                sleep_until(at).await;
            }
            let deliver = (self.deliver)(batch);
            let Some(places) = &self.places else {
                deliver.await;
                continue;
            };
            let Ok(place) = Arc::clone(places).acquire_owned().await else { return };
            self.tasks.spawn(async move {
                deliver.await;
                drop(place);
            });
        }
    }

    /// The next events: as many as go into a batch, or what there is after a while. Empty at the end.
    async fn gather(&mut self) -> Vec<Bytes> {
        let most = self.batch.size.max(1);
        let mut batch = Vec::new();
        let mut until: Option<Instant> = None;
        while batch.len() < most {
            // What is there already costs neither a timer nor a turn of the task.
            while let Ok(event) = self.events.try_recv() {
                batch.push(event);
                if batch.len() == most {
                    return batch;
                }
            }
            if !batch.is_empty() {
                if self.batch.wait.is_zero() {
                    break;
                }
                until.get_or_insert_with(|| Instant::now() + self.batch.wait);
            }
            let event = tokio::select! {
                biased;
                event = self.events.recv() => event,
                () = self.stop.cancelled(), if !self.events.is_closed() => {
                    self.events.close();
                    continue;
                }
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => break,
            };
            let Some(event) = event else { break };
            batch.push(event);
        }
        batch
    }
}

/// Longer nobody waits for a token: a rate may be next to nothing.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// A bucket that tokens drip into: who comes too early waits for the next.
struct Bucket {
    rate: f64,
    burst: f64,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn new(rate: f64, burst: usize, now: Instant) -> Self {
        Self { rate, burst: burst as f64, tokens: burst as f64, at: now }
    }

    /// When the next may go; takes its token.
    fn next(&mut self, now: Instant) -> Instant {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + since * self.rate).min(self.burst) - 1.0;
        self.at = now;
        let missing = (-self.tokens).max(0.0) / self.rate;
        let wait = Duration::try_from_secs_f64(missing).unwrap_or(LONGEST);
        now + wait.min(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    fn collecting(batch: Batch) -> (Queue, Arc<Mutex<Vec<usize>>>) {
        let sizes = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&sizes);
        let deliver: Deliver = Arc::new(move |events| {
            seen.lock().push(events.len());
            Box::pin(async {})
        });
        (Queue::start(batch, true, deliver), sizes)
    }

    const BATCH: Batch = Batch { buffer: 100, size: 4, wait: Duration::from_secs(30), throttle: None };

    #[tokio::test(start_paused = true)]
    async fn full_batches_go_at_once_and_the_rest_after_a_while_or_at_the_end() {
        let (queue, sizes) = collecting(BATCH);
        (0..9).for_each(|_| queue.take(Bytes::from_static(b"e")));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(*sizes.lock(), [4, 4]);
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!(*sizes.lock(), [4, 4, 1]);
        queue.take(Bytes::from_static(b"e"));
        queue.close().await;
        assert_eq!(*sizes.lock(), [4, 4, 1, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_wait_what_is_there_goes_together_and_at_once() {
        let (queue, sizes) = collecting(Batch { wait: Duration::ZERO, ..BATCH });
        (0..6).for_each(|_| queue.take(Bytes::from_static(b"e")));
        queue.close().await;
        assert_eq!(*sizes.lock(), [4, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_and_what_does_not_fit_is_lost_and_counted() {
        let stuck: Deliver = Arc::new(|_| Box::pin(std::future::pending()));
        let queue = Queue::start(Batch { buffer: 3, size: 1, ..BATCH }, false, stuck);
        let lost = || AUDIT_ERRORS.of(["buffered"]).unwrap().load(std::sync::atomic::Ordering::Relaxed);
        let before = lost();
        for _ in 0..50 {
            queue.take(Bytes::from_static(b"e"));
            tokio::task::yield_now().await;
        }
        assert!(lost() - before >= 40, "{}", lost() - before);
    }

    #[test]
    fn batches_are_as_many_as_the_throttle_lets_pass() {
        let now = Instant::now();
        let mut bucket = Bucket::new(2.0, 2, now);
        let waits: Vec<u128> = (0..4).map(|_| (bucket.next(now) - now).as_millis()).collect();
        assert_eq!(waits, [0, 0, 500, 1000]);
        let later = now + Duration::from_secs(60);
        assert_eq!(bucket.next(later), later);
        let mut slow = Bucket::new(1e-18, 1, now);
        assert_eq!([slow.next(now), slow.next(now)], [now, now + LONGEST]);
    }
}
