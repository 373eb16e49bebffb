//! A group of writes that share one transaction: which of them succeed, and as what. Pure: nothing is written here.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{
    index::{Index, Slot},
    log::Row,
};
use crate::{Durability, Event, Expect, Key, Revision, StoreError, Write};

/// Where the outcome of a write goes.
pub(super) type Answer = oneshot::Sender<Result<Revision, StoreError>>;

/// Bounds of a group.
const OPERATIONS: usize = 256;
const BYTES: usize = 1 << 20;

/// Writes decided against the index as the earlier ones of the group will leave it.
#[derive(Default)]
pub(super) struct Group {
    pub(super) rows: Vec<Row>,
    overlay: HashMap<Key, Option<Slot>>,
    bytes: usize,
    /// Rows that must be on disk before they are told; the others need not.
    strict: usize,
    outcomes: Vec<(Answer, Result<Revision, StoreError>, OwnedSemaphorePermit)>,
}

impl Group {
    /// Whether another write may join.
    pub(super) fn has_room(&self) -> bool {
        self.outcomes.len() < OPERATIONS && self.rows.len() < OPERATIONS && self.bytes < BYTES
    }

    /// Bytes of its keys and values.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether some of its rows need not be on disk before they are told.
    pub(super) fn has_relaxed(&self) -> bool {
        self.strict < self.rows.len()
    }

    /// Whether all of them need not.
    pub(super) fn is_relaxed(&self) -> bool {
        self.strict == 0 && !self.rows.is_empty()
    }

    /// The revision of its last row.
    pub(super) fn last(&self) -> Option<Revision> {
        self.rows.last().map(|row| row.slot.revision)
    }

    /// Decides a client's write. It is told with the group: its outcome may rest on writes that are not committed yet.
    pub(super) fn add(
        &mut self,
        index: &Index,
        (key, expect, write): (&Key, Expect, Write),
        now_ms: i64,
        (answer, permit): (Answer, OwnedSemaphorePermit),
    ) {
        let durability = match &write {
            Write::Put { durability, .. } => *durability,
            Write::Delete => Durability::Strict,
        };
        let outcome = self.decide(index, key, expect, write, now_ms);
        self.strict += usize::from(outcome.is_ok() && durability == Durability::Strict);
        self.outcomes.push((answer, outcome, permit));
    }

    /// Refuses a client's write, told with the group.
    pub(super) fn refuse(&mut self, error: StoreError, (answer, permit): (Answer, OwnedSemaphorePermit)) {
        self.outcomes.push((answer, Err(error), permit));
    }

    /// Deletes a version whose time to live is over, if it is still the latest. Relaxed: should that be lost, its time is still over.
    pub(super) fn expire(&mut self, index: &Index, key: &Key, revision: Revision) {
        // Moved or Absent: a write of this group was faster.
        let _ = self.decide(index, key, Expect::At(revision), Write::Delete, 0);
    }

    fn decide(&mut self, index: &Index, key: &Key, expect: Expect, write: Write, now_ms: i64) -> Result<Revision, StoreError> {
        let found = match self.overlay.get(key) {
            Some(slot) => *slot,
            None => index.get(key.as_str()).copied(),
        };
        check(found.as_ref(), expect, &write)?;
        let revision = Revision(index.head().0 + self.rows.len() as u64 + 1);
        let slot = Slot {
            revision,
            created: found.map_or(revision, |slot| slot.created),
            version: found.map_or(0, |slot| slot.version).saturating_add(1),
            expires: match &write {
                Write::Put { ttl: Some(ttl), .. } => Some(deadline(now_ms, *ttl)),
                _ => None,
            },
        };
        let value = match write {
            Write::Put { value, .. } => Some(value),
            Write::Delete => None,
        };
        self.bytes += value.as_ref().map_or(0, Bytes::len) + key.as_str().len();
        let key = index.shared_key(key);
        self.overlay.insert(key.clone(), value.is_some().then_some(slot));
        self.rows.push(Row { key, slot, previous: found.map_or(Revision(0), |slot| slot.revision), value });
        Ok(revision)
    }

    /// The events of the group's writes, in order.
    pub(super) fn events(&self) -> Vec<Event> {
        self.rows.iter().map(Row::event).collect()
    }

    /// Tells every client its outcome; after the commit.
    pub(super) fn answer(self) {
        for (answer, outcome, _permit) in self.outcomes {
            // A client that went away does not care.
            let _ = answer.send(outcome);
        }
    }

    /// Tells every client that nothing was written.
    pub(super) fn fail(self, error: &StoreError) {
        for (answer, _, _permit) in self.outcomes {
            let _ = answer.send(Err(error.clone()));
        }
    }
}

/// Rounded up: `now_ms` is already under way, and nothing goes before its time.
fn deadline(now_ms: i64, ttl: Duration) -> i64 {
    let ttl = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
    now_ms.saturating_add(ttl).saturating_add(1)
}

fn check(found: Option<&Slot>, expect: Expect, write: &Write) -> Result<(), StoreError> {
    match (expect, found) {
        (Expect::Absent, Some(slot)) => Err(StoreError::Exists { now: slot.revision }),
        (Expect::Absent, None) if *write == Write::Delete => Err(StoreError::Absent),
        (Expect::Absent, None) => Ok(()),
        (Expect::At(_), None) => Err(StoreError::Absent),
        (Expect::At(revision), Some(slot)) if slot.revision != revision => Err(StoreError::Moved { now: slot.revision }),
        (Expect::At(_), Some(_)) => Ok(()),
    }
}
