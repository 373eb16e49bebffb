//! What the store tells of itself: how long commits take to be on disk, and whether there is room.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use crate::Durations;

/// The buckets of etcd's `etcd_disk_wal_fsync_duration_seconds`: from a millisecond on, doubling.
const BUCKETS: usize = 14;
const FIRST: Duration = Duration::from_millis(1);

/// Written by the writer, read by whoever asks.
#[derive(Default)]
pub(super) struct Meters {
    /// One more for what took longer than the last bound.
    commits: [AtomicU64; BUCKETS + 1],
    nanos: AtomicU64,
    full: AtomicBool,
}

impl Meters {
    /// A transaction was on disk after this long.
    pub(super) fn committed(&self, took: Duration) {
        let bucket = (0..BUCKETS).find(|at| took <= FIRST * (1 << at)).unwrap_or(BUCKETS);
        self.commits[bucket].fetch_add(1, Ordering::Relaxed);
        self.nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Whether the disk is full, as the writer knows it.
    pub(super) fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::Release);
    }

    pub(super) fn is_full(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }

    /// How many commits took at most how long.
    pub(super) fn durations(&self) -> Durations {
        let mut count = 0;
        let mut below = |at: usize| {
            count += self.commits[at].load(Ordering::Relaxed);
            count
        };
        let bounds = (0..BUCKETS).map(|at| ((FIRST * (1 << at)).as_secs_f64(), below(at))).collect();
        let count = below(BUCKETS);
        Durations { bounds, seconds: Duration::from_nanos(self.nanos.load(Ordering::Relaxed)).as_secs_f64(), count }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_commit_counts_in_its_bucket_and_all_above() {
        let meters = Meters::default();
        for millis in [1, 3, 3, 60_000] {
            meters.committed(Duration::from_millis(millis));
        }
        let Durations { bounds, seconds, count } = meters.durations();
        assert_eq!((bounds.len(), bounds[0], bounds[1], bounds[2], count), (14, (0.001, 1), (0.002, 1), (0.004, 3), 4));
        assert!((seconds - 60.007).abs() < 1e-9);
        assert_eq!(bounds[13], (8.192, 3));
    }
}
