//! Up to which revision the log is to be compacted, and when to look again. Pure: `now` is passed in.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::log::Head;
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

/// Where the log stood while earlier processes wrote it, by what its rows say: what they kept goes when its time is over, whatever was started
/// again meanwhile.
pub(super) struct Stood {
    compacted: Revision,
    every_ms: i64,
    /// Revision, milliseconds of Unix time, and bytes of values written until then.
    marks: Vec<(Revision, i64, u64)>,
    written: u64,
}

impl Stood {
    /// Of a log that is compacted to this revision, at about regular moments.
    pub(super) fn new(compacted: Revision, every: Duration) -> Self {
        Self { compacted, every_ms: i64::try_from(every.as_millis()).unwrap_or(i64::MAX), marks: Vec::new(), written: 0 }
    }

    /// Takes in the next row.
    pub(super) fn note(&mut self, head: &Head) {
        let Some(at) = head.at.filter(|_| head.slot.revision > self.compacted) else { return };
        self.written += u64::from(head.size);
        match self.marks.last_mut() {
            // The last write of each moment.
            Some(last) if at - last.1 < self.every_ms => (last.0, last.2) = (head.slot.revision, self.written),
            _ => self.marks.push((head.slot.revision, at, self.written)),
        }
    }

    /// The same in times of this process; `now_ms` is `now` in milliseconds of Unix time.
    pub(super) fn marks(self, now: Instant, now_ms: i64) -> Vec<Mark> {
        let mark = |(revision, at, written)| {
            let age = Duration::from_millis(u64::try_from(now_ms.saturating_sub(at)).unwrap_or(0));
            // A machine that was just started has no such moment: it is as old as that machine.
            Mark { at: now.checked_sub(age).unwrap_or(now), revision, written }
        };
        self.marks.into_iter().map(mark).collect()
    }
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
    use crate::embedded::index::Slot;

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
    fn where_a_log_stood_is_told_by_its_rows_since_compaction() {
        let mut stood = Stood::new(Revision(2), MINUTE);
        let row = |revision, at, size| Head {
            key: "/a".into(),
            slot: Slot { revision: Revision(revision), created: Revision(1), version: 1, expires: None },
            previous: Revision(0),
            deleted: false,
            at,
            size,
        };
        let rows = [(2, Some(0), 99), (3, Some(0), 1), (4, Some(59_999), 2), (5, None, 99), (6, Some(60_000), 4), (7, Some(90_000), 8)];
        rows.iter().for_each(|(revision, at, size)| stood.note(&row(*revision, *at, *size)));
        let now = Instant::now() + 10 * MINUTE;
        let marks = stood.marks(now, 120_000);
        let found: Vec<_> = marks.iter().map(|mark| ((now - mark.at).as_millis(), mark.revision.0, mark.written)).collect();
        assert_eq!(found, [(120_000, 4, 3), (60_000, 7, 15)]);
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
