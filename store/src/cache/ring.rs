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

/// Changes behind which all who watch are taken to be done: what they made goes then.
const SETTLED: usize = 256;

/// A change, when it was made, the bytes it was counted as, and those of the object it tells of.
struct Kept<F> {
    at: Instant,
    change: Arc<Change<F>>,
    bytes: usize,
    text: usize,
}

/// Recent changes in revision order. Holds every change after `floor`.
pub(crate) struct Ring<F> {
    changes: VecDeque<Kept<F>>,
    bytes: usize,
    /// The first so many changes are counted with their encodings.
    counted: usize,
    /// Of the first so many of these no encodings are kept any more: who is so late makes his own. Settled changes are small, so that there
    /// are far more of them than of encodings there may be at a time.
    closed: usize,
    /// Bytes of the objects that the others tell of.
    open: usize,
    floor: Revision,
}

impl<F> Ring<F> {
    /// An empty ring: every change after `floor` will be in it.
    pub(crate) fn new(floor: Revision) -> Self {
        Self { changes: VecDeque::new(), bytes: 0, counted: 0, closed: 0, open: 0, floor }
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
        let (bytes, text) = (cost(&change), change.after.as_ref().map_or(0, |after| after.held()));
        (self.bytes, self.open) = (self.bytes + bytes, self.open + text);
        self.changes.push_back(Kept { at: now, change, bytes, text });
        self.count(self.changes.len().saturating_sub(SETTLED));
        while self.changes.len() > 1 && (self.changes.len() > limits.events || self.bytes > limits.bytes) {
            // Rather than forgotten, changes are settled before their time.
            match self.changes.len() <= limits.events && self.counted + 1 < self.changes.len() {
                true => self.count(self.counted + 1),
                false => self.drop_oldest(),
            }
        }
        while self.open > limits.bytes && self.closed < self.counted {
            let Some(kept) = self.changes.get(self.closed) else { break };
            kept.change.frames.close();
            (self.open, self.closed) = (self.open - kept.text, self.closed + 1);
        }
    }

    /// Drops what is older than the age bound, and gives room back after a burst.
    pub(crate) fn trim(&mut self, now: Instant, limits: &Limits) {
        self.counted = self.closed;
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
        if let Some(Kept { change, bytes, text, .. }) = self.changes.pop_front() {
            self.bytes -= bytes;
            self.counted = self.counted.saturating_sub(1);
            match self.closed.checked_sub(1) {
                Some(closed) => self.closed = closed,
                None => self.open -= text,
            }
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
