//! The ring of a collection's recent changes, bounded by count, bytes and age.

use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock},
};

use tokio::time::Instant;

use super::{Change, Limits};
use crate::Revision;

/// What a change costs beside the object bytes it keeps alive.
const OVERHEAD: usize = 256;

/// Changes behind which all who watch are taken to be done: what they made is counted then.
const SETTLED: usize = 256;

/// A change, when it was made, and the bytes it was counted as.
struct Kept<F> {
    at: Instant,
    change: Arc<Change<F>>,
    bytes: usize,
}

/// Recent changes in revision order. Holds every change after `floor`.
pub(crate) struct Ring<F> {
    changes: VecDeque<Kept<F>>,
    bytes: usize,
    /// The first so many changes are counted with their encodings.
    counted: usize,
    floor: Revision,
}

impl<F> Ring<F> {
    /// An empty ring: every change after `floor` will be in it.
    pub(crate) fn new(floor: Revision) -> Self {
        Self { changes: VecDeque::new(), bytes: 0, counted: 0, floor }
    }

    /// The oldest revision from which nothing is missing.
    pub(crate) fn floor(&self) -> Revision {
        self.floor
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Appends the newest change, made at `now`, and drops the oldest ones that are over the bounds.
    pub(crate) fn push(&mut self, change: Arc<Change<F>>, now: Instant, limits: &Limits) {
        let bytes = cost(&change);
        self.bytes += bytes;
        self.changes.push_back(Kept { at: now, change, bytes });
        self.count(self.changes.len().saturating_sub(SETTLED));
        while self.changes.len() > 1 && (self.changes.len() > limits.events || self.bytes > limits.bytes) {
            // Rather than forgotten, changes are settled before their time.
            match self.changes.len() <= limits.events && self.counted + 1 < self.changes.len() {
                true => self.count(self.counted + 1),
                false => self.drop_oldest(),
            }
        }
    }

    /// Drops what is older than the age bound, and gives room back after a burst.
    pub(crate) fn trim(&mut self, now: Instant, limits: &Limits) {
        self.counted = 0;
        self.count(self.changes.len());
        while let Some(Kept { at, .. }) = self.changes.front() {
            if now.duration_since(*at) < limits.age && self.bytes <= limits.bytes {
                break;
            }
            self.drop_oldest();
        }
        if self.changes.capacity() > 64 && self.changes.capacity() > 4 * self.changes.len() {
            self.changes.shrink_to(2 * self.changes.len());
        }
    }

    /// The changes after `from`, oldest first; `None` when some of them are gone.
    pub(crate) fn after(&self, from: Revision) -> Option<impl DoubleEndedIterator<Item = &Arc<Change<F>>>> {
        if from < self.floor {
            return None;
        }
        let start = self.changes.partition_point(|kept| kept.change.revision <= from);
        Some(self.changes.range(start..).map(|kept| &kept.change))
    }

    fn drop_oldest(&mut self) {
        if let Some(Kept { change, bytes, .. }) = self.changes.pop_front() {
            self.bytes -= bytes;
            self.counted = self.counted.saturating_sub(1);
            self.floor = change.revision;
        }
    }

    /// Settles the first `upto` changes and counts them again: what watchers made of them since is kept alive, too.
    fn count(&mut self, upto: usize) {
        while self.counted < upto
            && let Some(kept) = self.changes.get_mut(self.counted)
        {
            settle(&mut kept.change);
            let bytes = cost(&kept.change);
            self.bytes = self.bytes - kept.bytes + bytes;
            kept.bytes = bytes;
            self.counted += 1;
        }
    }
}

/// Leaves of a change what little it takes to make the rest again, should somebody still ask.
fn settle<F>(change: &mut Arc<Change<F>>) {
    if let Some(before) = &change.before {
        before.forms.clear();
        change.after.iter().for_each(|after| before.fold(after));
    }
    change.frames.clear();
    // Who is just reading it may be about to tell this.
    if let Some(change) = Arc::get_mut(change) {
        change.departed = OnceLock::new();
    }
}

/// Bytes a change keeps alive that the collection's map does not: the state before, which the change superseded, with its encodings, and
/// the encoded events.
fn cost<F>(change: &Change<F>) -> usize {
    let before = change.before.as_ref().map_or(0, |before| before.held() + before.forms.bytes());
    before + change.frames.bytes() + change.departed.get().map_or(0, bytes::Bytes::len) + OVERHEAD
}
