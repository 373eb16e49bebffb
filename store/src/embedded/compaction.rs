//! Up to which revision the log is to be compacted, and when to look again. Pure: `now` is passed in.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::Revision;

/// How long superseded versions are kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keeping {
    /// As long always.
    pub(super) least: Duration,
    /// As long if they are few.
    pub(super) most: Duration,
    /// Few are those after which no more than this many bytes were written.
    pub(super) bytes: u64,
}

/// Where the log stood at some moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    pub(super) at: Instant,
    pub(super) revision: Revision,
    /// Bytes of values written until then, counted from anywhere.
    pub(super) written: u64,
}

/// The schedule of compaction: at regular moments it notes where the log stands, and what was noted long enough ago is the target.
pub(super) struct Compaction {
    every: Duration,
    keeping: Keeping,
    marks: VecDeque<Mark>,
    written: u64,
    target: Revision,
    next: Instant,
}

impl Compaction {
    /// `done` is the revision the log is compacted to; `marks` are those of before, in order.
    pub(super) fn new(every: Duration, keeping: Keeping, done: Revision, marks: Vec<Mark>, now: Instant) -> Self {
        let written = marks.last().map_or(0, |mark| mark.written);
        Self { every, keeping, marks: marks.into(), written, target: done, next: now + every }
    }

    /// So many bytes of values were written.
    pub(super) fn wrote(&mut self, bytes: u64) {
        self.written += bytes;
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
        if self.marks.back().is_none_or(|mark| mark.revision < head) {
            self.marks.push_back(Mark { at: now, revision: head, written: self.written });
        }
        while let Some(mark) = self.marks.front().copied() {
            let (age, since) = (now.saturating_duration_since(mark.at), self.written.saturating_sub(mark.written));
            if age < self.keeping.least || (age < self.keeping.most && since <= self.keeping.bytes) {
                break;
            }
            self.ask(mark.revision);
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

    fn always(keep: Duration) -> Keeping {
        Keeping { least: keep, most: keep, bytes: 0 }
    }

    #[test]
    fn what_is_little_is_kept_longer_and_a_restart_forgets_nothing_of_it() {
        let start = Instant::now();
        let keeping = Keeping { least: 2 * MINUTE, most: 10 * MINUTE, bytes: 100 };
        let mut compaction = Compaction::new(MINUTE, keeping, Revision(1), Vec::new(), start);
        for minute in 1..=6 {
            compaction.wrote(10);
            compaction.tick(start + minute * MINUTE, Revision(u64::from(minute) * 10));
        }
        assert_eq!(compaction.pending(Revision(1)), None);
        compaction.wrote(70);
        compaction.tick(start + 7 * MINUTE, Revision(70));
        assert_eq!(compaction.pending(Revision(1)), Some(Revision(20)), "120 bytes were written after 20, 100 after 30");
        let marks = [(3, 30, 30), (7, 70, 130)].map(|(minute, revision, written)| Mark {
            at: start + minute * MINUTE,
            revision: Revision(revision),
            written,
        });
        let mut again = Compaction::new(MINUTE, keeping, Revision(20), marks.into(), start + 11 * MINUTE);
        again.tick(start + 12 * MINUTE, Revision(71));
        assert_eq!(again.pending(Revision(20)), None);
        again.tick(start + 13 * MINUTE, Revision(71));
        assert_eq!(again.pending(Revision(20)), Some(Revision(30)), "older than the longest time");
    }

    #[test]
    fn the_target_is_the_revision_of_five_minutes_ago() {
        let start = Instant::now();
        let mut compaction = Compaction::new(MINUTE, always(5 * MINUTE), Revision(1), Vec::new(), start);
        for minute in 1..=8 {
            compaction.tick(start + minute * MINUTE, Revision(u64::from(minute) * 10));
        }
        assert_eq!(compaction.pending(Revision(1)), Some(Revision(30)));
        assert_eq!(compaction.pending(Revision(30)), None);
    }

    #[test]
    fn an_idle_store_is_compacted_once_and_then_sleeps() {
        let start = Instant::now();
        let mut compaction = Compaction::new(MINUTE, always(5 * MINUTE), Revision(1), Vec::new(), start);
        assert_eq!(compaction.pause(start, Revision(9), Revision(1)), Some(MINUTE));
        for minute in 1..=6 {
            compaction.tick(start + minute * MINUTE, Revision(9));
        }
        assert_eq!(compaction.pending(Revision(1)), Some(Revision(9)));
        assert_eq!(compaction.pause(start + 6 * MINUTE, Revision(9), Revision(9)), None);
    }
}
