//! Which keys are due to be deleted because their time to live is over. Pure: `now` is passed in.

use std::{collections::BTreeSet, time::Duration};

use crate::{Key, Revision};

/// Even with a far deadline the clock is looked at this often: it may have been set.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Deadlines in order. An entry stands for one version of a key; when the key was written since, it is void.
#[derive(Default)]
pub(super) struct Expiry {
    deadlines: BTreeSet<(i64, Revision, Key)>,
}

impl Expiry {
    /// `key`, written at `revision`, is to go at `deadline` (milliseconds of Unix time).
    pub(super) fn add(&mut self, key: Key, revision: Revision, deadline: i64) {
        self.deadlines.insert((deadline, revision, key));
    }

    /// That version was superseded or deleted.
    pub(super) fn remove(&mut self, key: &Key, revision: Revision, deadline: i64) {
        self.deadlines.remove(&(deadline, revision, key.clone()));
    }

    /// The versions that are due at `now`, earliest first. They stay until removed.
    pub(super) fn due(&self, now: i64, limit: usize) -> Vec<(Key, Revision)> {
        let due = self.deadlines.iter().take_while(|(deadline, ..)| *deadline <= now);
        due.take(limit).map(|(_, revision, key)| (key.clone(), *revision)).collect()
    }

    /// How long to wait at most until something is due; `None`: for ever.
    pub(super) fn pause(&self, now: i64) -> Option<Duration> {
        let (deadline, ..) = self.deadlines.first()?;
        let left = u64::try_from(deadline - now).unwrap_or(0);
        Some(Duration::from_millis(left).min(LONGEST_PAUSE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_due_in_order_until_they_are_removed() {
        let mut expiry = Expiry::default();
        assert_eq!(expiry.pause(0), None);
        expiry.add("/b".into(), Revision(2), 200);
        expiry.add("/a".into(), Revision(1), 100);
        assert_eq!(expiry.pause(40), Some(Duration::from_millis(60)));
        assert_eq!(expiry.due(99, 10), []);
        assert_eq!(expiry.due(200, 10), [("/a".into(), Revision(1)), ("/b".into(), Revision(2))]);
        assert_eq!(expiry.due(200, 1).len(), 1);
        expiry.remove(&"/a".into(), Revision(1), 100);
        assert_eq!(expiry.due(200, 10), [("/b".into(), Revision(2))]);
        assert_eq!(expiry.pause(900), Some(Duration::ZERO));
    }

    #[test]
    fn a_far_deadline_does_not_hide_a_clock_that_is_set() {
        let mut expiry = Expiry::default();
        expiry.add("/a".into(), Revision(1), i64::MAX);
        assert_eq!(expiry.pause(0), Some(LONGEST_PAUSE));
    }
}
