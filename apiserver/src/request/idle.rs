//! When nobody uses a connection any more.

use std::time::Duration;

use tokio::{sync::watch, time::timeout};

/// Counts the requests of one connection.
#[derive(Clone, Debug)]
pub(super) struct Activity(watch::Sender<usize>);

/// A request in flight, until its answer's body has ended.
#[derive(Debug)]
pub(super) struct Busy(Activity);

impl Activity {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(0))
    }

    /// A request begins.
    pub(super) fn begin(&self) -> Busy {
        self.0.send_modify(|requests| *requests += 1);
        Busy(self.clone())
    }

    /// Returns when there was no request for so long.
    pub(super) async fn none_for(&self, quiet: Duration) {
        let mut requests = self.0.subscribe();
        loop {
            // The sender lives as long as this.
            let _ = requests.wait_for(|requests| *requests == 0).await;
            if timeout(quiet, requests.changed()).await.is_err() {
                return;
            }
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.0.send_modify(|requests| *requests -= 1);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep};

    use super::*;

    const QUIET: Duration = Duration::from_secs(90);

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
