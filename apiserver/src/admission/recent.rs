//! A map of bounded size that forgets what nobody asked for the longest time (`k8s.io/utils/lru`).

use std::{
    borrow::Borrow,
    collections::{BTreeMap, HashMap},
    hash::Hash,
};

/// The map.
pub(super) struct Recent<K, V> {
    most: usize,
    entries: HashMap<K, (u64, V)>,
    /// By when they were asked for.
    order: BTreeMap<u64, K>,
    turn: u64,
}

impl<K: Hash + Eq + Clone, V> Recent<K, V> {
    /// Holds at most so many.
    pub(super) fn new(most: usize) -> Self {
        Self { most, entries: HashMap::new(), order: BTreeMap::new(), turn: 0 }
    }

    /// What stands there.
    pub(super) fn get<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let (turn, value) = self.entries.get_mut(key)?;
        let key = self.order.remove(turn)?;
        self.turn += 1;
        *turn = self.turn;
        self.order.insert(self.turn, key);
        Some(value)
    }

    /// Puts something there.
    pub(super) fn put(&mut self, key: K, value: V) {
        self.turn += 1;
        if let Some((turn, _)) = self.entries.insert(key.clone(), (self.turn, value)) {
            self.order.remove(&turn);
        }
        self.order.insert(self.turn, key);
        while self.entries.len() > self.most {
            let Some((_, oldest)) = self.order.pop_first() else { return };
            self.entries.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_asked_for_longest_is_forgotten_first() {
        let mut recent = Recent::new(2);
        recent.put("a", 1);
        recent.put("b", 2);
        assert_eq!(recent.get(&"a"), Some(&mut 1));
        recent.put("c", 3);
        assert_eq!((recent.get(&"a").copied(), recent.get(&"b").copied(), recent.get(&"c").copied()), (Some(1), None, Some(3)));
        recent.put("a", 4);
        recent.put("d", 5);
        assert_eq!((recent.get(&"a").copied(), recent.get(&"c").copied()), (Some(4), None));
        assert_eq!((recent.entries.len(), recent.order.len()), (2, 2));
    }
}
