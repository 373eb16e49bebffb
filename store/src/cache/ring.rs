//! The ring of a collection's recent changes, bounded by count, bytes and age.

use std::{collections::VecDeque, sync::Arc};

use tokio::time::Instant;

use super::{Change, Limits};
use crate::Revision;

/// What a change costs beside the object bytes it keeps alive.
const OVERHEAD: usize = 256;

/// Recent changes in revision order. Holds every change after `floor`.
pub(crate) struct Ring<F> {
    changes: VecDeque<(Instant, Arc<Change<F>>)>,
    bytes: usize,
    floor: Revision,
}

impl<F> Ring<F> {
    /// An empty ring: every change after `floor` will be in it.
    pub(crate) fn new(floor: Revision) -> Self {
        Self { changes: VecDeque::new(), bytes: 0, floor }
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
        self.bytes += cost(&change);
        self.changes.push_back((now, change));
        while self.changes.len() > limits.events || self.bytes > limits.bytes {
            if self.changes.len() == 1 {
                break;
            }
            self.drop_oldest();
        }
    }

    /// Drops what is older than the age bound, and gives room back after a burst.
    pub(crate) fn trim(&mut self, now: Instant, limits: &Limits) {
        while let Some((at, _)) = self.changes.front() {
            if now.duration_since(*at) < limits.age {
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
        let start = self.changes.partition_point(|(_, change)| change.revision <= from);
        Some(self.changes.range(start..).map(|(_, change)| change))
    }

    fn drop_oldest(&mut self) {
        if let Some((_, change)) = self.changes.pop_front() {
            self.bytes -= cost(&change);
            self.floor = change.revision;
        }
    }
}

/// Bytes a change keeps alive that the collection's map does not: the state before, which the change superseded.
fn cost<F>(change: &Change<F>) -> usize {
    change.before.as_ref().map_or(0, |before| before.wire.len()) + OVERHEAD
}
