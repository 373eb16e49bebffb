//! How far back states can be asked for. Pure: `now` is passed in.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use crate::Revision;

/// Parts that the time kept is told in.
const GRAIN: u32 = 16;

/// Which revision was the latest when. A revision that was overtaken longer ago than is kept is history: nothing at it is served any
/// more, whether or not the collection asked about has changed since. Upstream's compaction of etcd does the same, and clients that page
/// through a list count on the end of their token.
pub(crate) struct History {
    keep: Duration,
    marks: VecDeque<(Instant, Revision)>,
}

impl History {
    /// Remembers for as long as `keep`.
    pub(crate) fn new(keep: Duration) -> Self {
        Self { keep, marks: VecDeque::new() }
    }

    /// At `now` the latest revision is `latest`.
    pub(crate) fn note(&mut self, now: Instant, latest: Revision) {
        if self.marks.back().is_some_and(|(at, marked)| latest <= *marked || now.duration_since(*at) < self.keep / GRAIN) {
            return;
        }
        self.marks.push_back((now, latest));
        while self.marks.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= self.keep) {
            self.marks.pop_front();
        }
    }

    /// The oldest revision that can be asked for.
    pub(crate) fn floor(&self, now: Instant) -> Revision {
        let old = self.marks.partition_point(|(at, _)| now.duration_since(*at) >= self.keep);
        old.checked_sub(1).and_then(|last| self.marks.get(last)).map_or(Revision(0), |(_, revision)| *revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn what_was_overtaken_longer_ago_than_is_kept_is_history() {
        let start = Instant::now();
        let mut history = History::new(5 * MINUTE);
        assert_eq!(history.floor(start), Revision(0));
        for minute in 0..10 {
            history.note(start + minute * MINUTE, Revision(u64::from(minute) * 10 + 10));
        }
        assert_eq!(history.floor(start + 9 * MINUTE), Revision(50), "the latest of five minutes ago");
        assert_eq!(history.floor(start + 60 * MINUTE), Revision(100), "the latest of all is never history");
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_store_costs_a_few_marks() {
        let start = Instant::now();
        let mut history = History::new(5 * MINUTE);
        for second in 0..3600 {
            history.note(start + Duration::from_secs(second), Revision(second));
        }
        assert!(history.marks.len() <= GRAIN as usize + 2, "{}", history.marks.len());
        let floor = history.floor(start + 60 * MINUTE).0;
        assert!((3600 - 330..=3600 - 300).contains(&floor), "{floor}");
    }
}
