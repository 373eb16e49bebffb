//! When nobody uses a connection any more.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep_until};
use tokio_util::task::task_tracker::TaskTrackerToken;

/// Counts the requests of one connection. Nobody is woken by them: whoever waits for quiet looks again when there could be some.
#[derive(Clone, Debug)]
pub(super) struct Activity(Arc<Requests>);

#[derive(Debug)]
struct Requests {
    /// The server waits until all are gone.
    _open: TaskTrackerToken,
    began: Instant,
    now: AtomicUsize,
    /// When the last one ended, in milliseconds after the beginning.
    ended: AtomicU64,
}

/// A request in flight, until its answer's body has ended.
#[derive(Debug)]
pub(super) struct Busy(Activity);

impl Activity {
    /// `open` is kept until the connection has ended, and with it every answer that left HTTP.
    pub(super) fn of(open: TaskTrackerToken) -> Self {
        Self(Arc::new(Requests { _open: open, began: Instant::now(), now: AtomicUsize::new(0), ended: AtomicU64::new(0) }))
    }

    /// Of a connection for which nobody waits.
    #[cfg(test)]
    pub(super) fn new() -> Self {
        Self::of(tokio_util::task::TaskTracker::new().token())
    }

    /// A request begins.
    pub(super) fn begin(&self) -> Busy {
        self.0.now.fetch_add(1, Ordering::Relaxed);
        Busy(self.clone())
    }

    /// How many requests there are now.
    pub(super) fn requests(&self) -> usize {
        self.0.now.load(Ordering::Relaxed)
    }

    /// Returns when there was no request for so long.
    pub(super) async fn none_for(&self, quiet: Duration) {
        let Requests { began, now: requests, ended, .. } = &*self.0;
        loop {
            let now = Instant::now();
            let since = match requests.load(Ordering::Acquire) {
                0 => *began + Duration::from_millis(ended.load(Ordering::Relaxed)),
                _ => now,
            };
            if since + quiet <= now {
                return;
            }
            sleep_until(since + quiet).await;
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let Requests { began, now, ended, .. } = &*self.0.0;
        ended.store(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        now.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::time::sleep;
    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::wire::Body;

    const QUIET: Duration = Duration::from_secs(90);

    #[tokio::test]
    async fn an_answer_that_left_http_is_waited_for() {
        let connections = TaskTracker::new();
        let activity = Activity::of(connections.token());
        let (body, beyond) = Body::leaving();
        drop(body.holding(activity.begin()));
        drop(activity);
        connections.close();
        assert!(connections.wait().now_or_never().is_none());
        drop(beyond);
        assert!(connections.wait().now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_when_its_last_request_ended_long_ago() {
        let activity = Activity::new();
        let began = Instant::now();
        let clients = activity.clone();
        tokio::spawn(async move {
            let long = clients.begin();
            drop(clients.begin());
            sleep(3 * QUIET).await;
            drop(long);
            sleep(QUIET / 2).await;
            drop(clients.begin());
        });
        activity.none_for(QUIET).await;
        assert_eq!(began.elapsed(), 3 * QUIET + QUIET / 2 + QUIET);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_never_asks_is_idle_too() {
        let began = Instant::now();
        Activity::new().none_for(QUIET).await;
        assert_eq!(began.elapsed(), QUIET);
    }
}
