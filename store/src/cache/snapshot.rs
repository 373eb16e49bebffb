//! A collection at one revision.

use std::{ops::Bound, sync::Arc};

use imbl::OrdMap;

use super::Cached;
use crate::{Key, Revision};

/// All objects of a collection as they were at one revision, in key order. Cheap to make and to clone (shares structure with the live
/// map); keeps the objects alive while it lives.
pub struct Snapshot<F> {
    /// The revision at which this was the whole truth.
    pub revision: Revision,
    pub(super) map: OrdMap<Key, Arc<Cached<F>>>,
}

impl<F> Snapshot<F> {
    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// One object by its whole key.
    pub fn get(&self, key: &str) -> Option<&Arc<Cached<F>>> {
        self.map.get(key)
    }

    /// All objects, in key order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Cached<F>>> {
        self.map.values()
    }

    /// The objects whose key starts with `prefix` (whole keys: `/registry/pods/default/`) and comes after `after`, in key order.
    /// Starting somewhere costs one descent of the tree.
    pub fn range<'a>(&'a self, prefix: &'a str, after: Option<&'a str>) -> impl Iterator<Item = &'a Arc<Cached<F>>> {
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        self.map
            .range::<_, str>((start, Bound::Unbounded))
            .take_while(move |(key, _)| key.as_str().starts_with(prefix))
            .map(|(_, cached)| cached)
    }
}

impl<F> Clone for Snapshot<F> {
    fn clone(&self) -> Self {
        Self { revision: self.revision, map: self.map.clone() }
    }
}
