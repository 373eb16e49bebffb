//! The keys in memory: where each one's last version is in the log.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
};

use bytes::Bytes;

use super::log::Row;
use crate::{Event, Key, Revision};

/// What the index knows of a key. The value stays on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) revision: Revision,
    pub(super) created: Revision,
    /// Writes since it was created, this one included.
    pub(super) version: u32,
    /// When it is to be deleted, in milliseconds of Unix time.
    pub(super) expires: Option<i64>,
}

/// All live keys at one revision.
#[derive(Default)]
pub(super) struct Index {
    slots: BTreeMap<Key, Slot>,
    head: Revision,
    /// The latest writes that are not in the log yet, in order: relaxed ones.
    waiting: VecDeque<Row>,
}

impl Index {
    /// The revision at which this is true.
    pub(super) fn head(&self) -> Revision {
        self.head
    }

    /// Where a store begins of which this was read: compacted to `compacted`, and all up to `reserved` may have been handed out. Where some
    /// of that was lost, beyond it: whoever goes on from the last that was handed out must be told, too, that it is gone.
    pub(super) fn begin(&mut self, compacted: Revision, reserved: Revision) {
        self.head = self.head.max(compacted);
        if reserved > self.head {
            self.head = Revision(reserved.0 + 1);
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&Slot> {
        self.slots.get(key)
    }

    /// The key as the index holds it, so that its text exists once.
    pub(super) fn shared_key(&self, key: &Key) -> Key {
        self.slots.get_key_value(key).map_or_else(|| key.clone(), |(shared, _)| shared.clone())
    }

    /// Keys under `prefix` after `after`, in order, at most `limit`.
    pub(super) fn range(&self, prefix: &str, after: Option<&Key>, limit: Option<usize>) -> Vec<(Key, Slot)> {
        let start = match after {
            Some(after) if after.as_str() >= prefix => Bound::Excluded(after.as_str()),
            _ => Bound::Included(prefix),
        };
        self.slots
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(|(key, _)| key.as_str().starts_with(prefix))
            .take(limit.unwrap_or(usize::MAX))
            .map(|(key, slot)| (key.clone(), *slot))
            .collect()
    }

    /// How many keys there are under `prefix`.
    pub(super) fn count(&self, prefix: &str) -> usize {
        let from = self.slots.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        from.take_while(|(key, _)| key.as_str().starts_with(prefix)).count()
    }

    /// Applies a committed write: `slot` is what is there now, `None` after a delete. Answers what was there.
    pub(super) fn apply(&mut self, key: &Key, slot: Option<Slot>, revision: Revision) -> Option<Slot> {
        self.head = revision;
        match slot {
            // A key that is there stays the one it is, so that its text exists once.
            Some(slot) => self.slots.insert(key.clone(), slot),
            None => self.slots.remove(key.as_str()),
        }
    }

    /// Writes that are not in the log yet.
    pub(super) fn waiting(&self) -> impl ExactSizeIterator<Item = &Row> {
        self.waiting.iter()
    }

    /// These writes, applied already, go to the log later.
    pub(super) fn hold(&mut self, rows: &[Row]) {
        self.waiting.extend(rows.iter().cloned());
    }

    /// All that waited is in the log.
    pub(super) fn logged(&mut self) {
        // The room of a burst is given back.
        self.waiting = VecDeque::new();
    }

    /// Everything up to here is in the log.
    pub(super) fn logged_to(&self) -> Revision {
        self.waiting.front().map_or(self.head, |row| Revision(row.slot.revision.0 - 1))
    }

    /// The value written at a revision, if that is not in the log yet.
    pub(super) fn waiting_value(&self, revision: Revision) -> Option<Bytes> {
        let at = self.waiting.partition_point(|row| row.slot.revision < revision);
        self.waiting.get(at).filter(|row| row.slot.revision == revision)?.value.clone()
    }

    /// The events after `from` that are not in the log yet.
    pub(super) fn waiting_after(&self, from: Revision) -> Vec<Event> {
        let at = self.waiting.partition_point(|row| row.slot.revision <= from);
        self.waiting.range(at..).map(Row::event).collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Key, &Slot)> {
        self.slots.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(revision: u64) -> Slot {
        Slot { revision: Revision(revision), created: Revision(revision), version: 1, expires: None }
    }

    #[test]
    fn a_store_begins_beyond_what_was_handed_out_unless_all_of_that_is_there() {
        let begins = |compacted, reserved| {
            let mut index = Index::default();
            index.apply(&"/a".into(), Some(slot(7)), Revision(7));
            index.begin(Revision(compacted), Revision(reserved));
            index.head().0
        };
        assert_eq!([begins(1, 0), begins(9, 0), begins(1, 7), begins(1, 8), begins(9, 8), begins(9, 20)], [7, 9, 7, 9, 9, 21]);
    }

    #[test]
    fn range_starts_after_a_key_and_ends_with_the_prefix() {
        let mut index = Index::default();
        for (n, key) in ["/a/1", "/a/2", "/a/3", "/b/1"].into_iter().enumerate() {
            index.apply(&key.into(), Some(slot(n as u64 + 1)), Revision(n as u64 + 1));
        }
        let keys = |prefix, after: Option<&str>, limit| -> Vec<String> {
            let after = after.map(Key::from);
            index.range(prefix, after.as_ref(), limit).into_iter().map(|(key, _)| key.to_string()).collect()
        };
        assert_eq!(keys("/a/", None, None), ["/a/1", "/a/2", "/a/3"]);
        assert_eq!(keys("/a/", Some("/a/1"), Some(1)), ["/a/2"]);
        assert_eq!(keys("/a/", Some("/"), None), ["/a/1", "/a/2", "/a/3"], "a start before the prefix does not widen the range");
        assert_eq!(keys("", None, None).len(), 4);
    }
}
