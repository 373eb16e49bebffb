//! A reader of a collection's changes.

use std::sync::Arc;

use tokio::sync::watch;

use super::{Change, Collection, Error, Interest};
use crate::Revision;

/// Changes taken at once, so that one slow reader does not hold the collection long.
pub(super) const BATCH: usize = 256;

/// Reads the changes of a collection after a revision, in order and without a gap. Holds nothing but a cursor: a watcher that falls
/// behind the ring is told [`Error::Expired`] and must start over from a snapshot.
pub struct Watcher<F: Send + Sync + 'static> {
    pub(super) collection: Arc<Collection<F>>,
    pub(super) cursor: Revision,
    pub(super) epoch: u64,
    pub(super) interest: Interest,
    pub(super) changed: watch::Receiver<()>,
}

/// Some changes, in revision order.
pub struct Batch<F> {
    /// The changes; never empty when a watcher gives them.
    pub changes: Vec<Arc<Change<F>>>,
    /// With these, the watcher knows everything up to this revision (which may be later than the last change: bookmarks).
    pub revision: Revision,
}

impl<F: Send + Sync + 'static> Watcher<F> {
    /// From now on it need be woken only for these changes (it may be for others), and is given the others then, too.
    pub fn narrow(&mut self, interest: Interest) {
        let changed = self.collection.wakes.subscribe(&interest);
        self.collection.wakes.leave(&self.interest);
        (self.interest, self.changed) = (interest, changed);
    }

    /// Waits for the next changes. Dropping the future loses nothing. After an error the watcher is of no more use.
    pub async fn next_batch(&mut self) -> Result<Batch<F>, Error> {
        loop {
            self.changed.borrow_and_update();
            if let Some(batch) = self.try_batch()? {
                return Ok(batch);
            }
            if self.changed.changed().await.is_err() {
                return Err(Error::Unavailable("watch cache is closed".to_owned()));
            }
        }
    }

    /// The changes that are there already; `None` when there are none.
    pub fn try_batch(&mut self) -> Result<Option<Batch<F>>, Error> {
        let mut batch = self.collection.changes_after(self.cursor, self.epoch, BATCH)?;
        self.cursor = self.cursor.max(batch.revision);
        batch.revision = self.cursor;
        Ok((!batch.changes.is_empty()).then_some(batch))
    }

    /// The revision up to which this watcher has been given every change; for bookmarks. Moves on while other collections change,
    /// without waking anybody; where there are changes it was not woken for, [`Watcher::try_batch`] gives them.
    pub fn reached(&mut self) -> Result<Revision, Error> {
        let batch = self.collection.changes_after(self.cursor, self.epoch, 1)?;
        if batch.changes.is_empty() {
            self.cursor = self.cursor.max(batch.revision);
        }
        Ok(self.cursor)
    }
}

impl<F: Send + Sync + 'static> Drop for Watcher<F> {
    fn drop(&mut self) {
        self.collection.wakes.leave(&self.interest);
    }
}
