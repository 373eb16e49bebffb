//! Reading all values under a prefix, by several threads: fetching them and making something of them takes processors, hardly the disk.

use std::{
    sync::{
        Weak,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use super::{
    Shared,
    index::Slot,
    log::{self, LogError},
    open,
};
use crate::{Each, Entry, Key, Revision, StoreError};

/// Entries read at a time.
const PIECE: usize = 64;
/// Threads that read at most. More would wait for each other.
const READERS: usize = 4;

/// What is to be read, and how far that is.
pub(super) struct Scan {
    slots: Vec<(Key, Slot)>,
    revision: Revision,
    each: Each,
    /// The next piece that nobody reads yet.
    next: AtomicUsize,
}

impl Scan {
    /// Of the values that were there at a revision.
    pub(super) fn new(mut slots: Vec<(Key, Slot)>, revision: Revision, each: Each) -> Self {
        // Neighbours by revision share pages.
        slots.sort_unstable_by_key(|(_, slot)| slot.revision);
        Self { slots, revision, each, next: AtomicUsize::new(0) }
    }

    /// How many threads are of use.
    pub(super) fn readers(&self) -> usize {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        self.slots.len().div_ceil(PIECE).min(processors).min(READERS)
    }

    fn piece(&self) -> Option<Vec<(Key, Slot)>> {
        let at = self.next.fetch_add(1, Ordering::Relaxed);
        self.slots.chunks(PIECE).nth(at).map(<[_]>::to_vec)
    }

    fn tell(&self, shared: &Shared, found: Result<Option<Vec<Entry>>, LogError>) -> Result<(), StoreError> {
        match found.map_err(|err| err.naming(&shared.name))? {
            Some(entries) => (self.each)(&entries),
            None if shared.head() == self.revision => return Err(shared.row_missing(self.revision)),
            None => return Err(StoreError::Compacted { oldest: shared.head() }),
        }
        Ok(())
    }
}

/// Reads pieces until there are no more, one cannot be read, or nobody waits for them any more.
pub(super) fn run(shared: &Shared, scan: &Weak<Scan>) -> Result<(), StoreError> {
    let several = scan.upgrade().is_some_and(|scan| scan.readers() > 1);
    // One for each: they would wait for each other, and all other reads for them.
    let own = shared.path.as_deref().filter(|_| several).map(open::reading).transpose();
    let own = own.map_err(|err| LogError::from(err).naming(&shared.name))?;
    while let Some(scan) = scan.upgrade() {
        let Some(piece) = scan.piece() else { break };
        let found = match &own {
            Some(db) => log::entries(db, piece),
            None => log::entries(&shared.reads.lock(), piece),
        };
        if let Err(err) = scan.tell(shared, found) {
            // The others need not go on either.
            scan.next.store(scan.slots.len(), Ordering::Relaxed);
            return Err(err);
        }
    }
    Ok(())
}
