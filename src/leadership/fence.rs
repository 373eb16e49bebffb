//! What keeps a leader that was paused or cut off from writing after its time: from the moment on at which its lease should have been renewed,
//! its requests are refused and those under way are given up. Another may lead a good while later.

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

/// How long writes may pass. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Fence {
    until: watch::Sender<Instant>,
}

impl Fence {
    /// Nothing passes yet.
    pub(crate) fn new() -> Self {
        Self { until: watch::Sender::new(Instant::now()) }
    }

    /// Open until then.
    pub(crate) fn open_until(&self, end: Instant) {
        self.until.send_replace(end);
    }

    /// Nothing passes from now on.
    pub(crate) fn close(&self) {
        self.open_until(Instant::now());
    }

    /// Waits until nothing passes; returns at once when that is so already.
    pub(crate) async fn closed(&self) {
        let mut changes = self.until.subscribe();
        loop {
            let end = *changes.borrow_and_update();
            if end <= Instant::now() {
                return;
            }
            tokio::select! {
                () = sleep_until(end) => {}
                // The sender is kept by this fence.
                _ = changes.changed() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_fence_is_open_until_its_end_and_can_be_opened_longer() {
        let (fence, hour) = (Fence::new(), Duration::from_secs(3600));
        assert!(fence.closed().now_or_never().is_some());
        fence.open_until(Instant::now() + hour);
        assert!(fence.closed().now_or_never().is_none());
        // Who waits learns of a later end, and of an earlier one.
        let waiting = tokio::spawn({
            let fence = fence.clone();
            async move { fence.closed().await }
        });
        fence.open_until(Instant::now() + 2 * hour);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        fence.close();
        waiting.await.unwrap();
        fence.open_until(Instant::now() + Duration::from_millis(20));
        fence.closed().await;
    }
}
