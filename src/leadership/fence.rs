//! What keeps a leader that was paused or cut off from writing after its time: its requests are refused from the moment on at which another
//! may lead.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// How long writes may pass. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Fence {
    start: Instant,
    /// Milliseconds after `start`.
    until: Arc<AtomicU64>,
}

impl Fence {
    /// Nothing passes yet.
    pub(crate) fn closed() -> Self {
        Self { start: Instant::now(), until: Arc::default() }
    }

    /// Open until then.
    pub(crate) fn open_until(&self, end: Instant) {
        let millis = end.saturating_duration_since(self.start).as_millis();
        self.until.store(u64::try_from(millis).unwrap_or(u64::MAX), Ordering::Release);
    }

    /// Whether it is open.
    pub(crate) fn is_open(&self, now: Instant) -> bool {
        now < self.start + Duration::from_millis(self.until.load(Ordering::Acquire))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_is_open_until_its_end_and_can_be_opened_longer() {
        let (fence, now) = (Fence::closed(), Instant::now());
        assert!(!fence.is_open(now));
        let second = Duration::from_secs(1);
        fence.open_until(now + second);
        assert!(fence.is_open(now) && !fence.is_open(now + second));
        fence.clone().open_until(now + 2 * second);
        assert!(fence.is_open(now + second));
    }
}
