//! Up to which revision the log is to be compacted, and when to look again. Pure: `now` is passed in.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::Revision;

/// The schedule of compaction: at regular moments it notes the revision, and what was noted long enough ago is the target.
pub(super) struct Compaction {
    every: Duration,
    keep: Duration,
    marks: VecDeque<(Instant, Revision)>,
    target: Revision,
    next: Instant,
}

impl Compaction {
    /// `done` is the revision the log is compacted to.
    pub(super) fn new(every: Duration, keep: Duration, done: Revision, now: Instant) -> Self {
        Self { every, keep, marks: VecDeque::new(), target: done, next: now + every }
    }

    /// Compacts to `to` at once, whatever the schedule says.
    pub(super) fn ask(&mut self, to: Revision) {
        self.target = self.target.max(to);
    }

    /// What is to be compacted to, if that is not `done`.
    pub(super) fn pending(&self, done: Revision) -> Option<Revision> {
        (self.target > done).then_some(self.target)
    }

    /// Looks at the clock: notes the store's revision `head` when it is time to, and raises the target to what is old enough.
    pub(super) fn tick(&mut self, now: Instant, head: Revision) {
        if now < self.next {
            return;
        }
        self.next = now + self.every;
        if self.marks.back().is_none_or(|(_, marked)| *marked < head) {
            self.marks.push_back((now, head));
        }
        while let Some((at, revision)) = self.marks.front().copied() {
            if now.duration_since(at) < self.keep {
                break;
            }
            self.ask(revision);
            self.marks.pop_front();
        }
    }

    /// How long to wait at most until the next look; `None` when everything up to `head` is compacted: an idle store sleeps.
    pub(super) fn pause(&self, now: Instant, head: Revision, done: Revision) -> Option<Duration> {
        (done < head).then(|| self.next.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn the_target_is_the_revision_of_five_minutes_ago() {
        let start = Instant::now();
        let mut compaction = Compaction::new(MINUTE, 5 * MINUTE, Revision(1), start);
        for minute in 1..=8 {
            compaction.tick(start + minute * MINUTE, Revision(u64::from(minute) * 10));
        }
        assert_eq!(compaction.pending(Revision(1)), Some(Revision(30)));
        assert_eq!(compaction.pending(Revision(30)), None);
    }

    #[test]
    fn an_idle_store_is_compacted_once_and_then_sleeps() {
        let start = Instant::now();
        let mut compaction = Compaction::new(MINUTE, 5 * MINUTE, Revision(1), start);
        assert_eq!(compaction.pause(start, Revision(9), Revision(1)), Some(MINUTE));
        for minute in 1..=6 {
            compaction.tick(start + minute * MINUTE, Revision(9));
        }
        assert_eq!(compaction.pending(Revision(1)), Some(Revision(9)));
        assert_eq!(compaction.pause(start + 6 * MINUTE, Revision(9), Revision(9)), None);
    }
}
