//! When a refused client may come again: the longer, the more were refused lately (upstream `flowcontrol/dropped_requests_tracker.go`).

use std::collections::VecDeque;

/// Seconds at most.
const LONGEST: i64 = 32;

/// Refusals of one level.
#[derive(Debug)]
pub(super) struct Dropped {
    /// Second, and refusals in it.
    history: VecDeque<(i64, i64)>,
    now: (i64, i64),
    pause: i64,
    changed: i64,
}

impl Default for Dropped {
    fn default() -> Self {
        Self { history: VecDeque::new(), now: (0, 0), pause: 1, changed: 0 }
    }
}

impl Dropped {
    /// One more, in this second; the seconds its client should wait.
    pub(super) fn note(&mut self, second: i64) -> i64 {
        if self.now.0 == second {
            self.now.1 += 1;
            return self.pause;
        }
        self.history.push_back(self.now);
        let kept = (2 * self.pause).min(LONGEST);
        let last = self.now.0;
        while self.history.front().is_some_and(|(at, _)| last - at > kept) {
            self.history.pop_front();
        }
        self.now = (second, 1);
        let lately: i64 = self.history.iter().filter(|(at, _)| *at < second && second - at <= self.pause).map(|(_, count)| count).sum();
        if second - self.changed >= self.pause && lately >= 3 * self.pause {
            self.pause = (2 * self.pause).min(LONGEST);
            self.changed = second;
        } else if lately < self.pause && self.pause > 1 {
            self.pause -= 1;
        }
        self.pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_grows_with_refusals_and_shrinks_without() {
        let mut dropped = Dropped::default();
        assert_eq!(dropped.note(100), 1);
        for _ in 0..10 {
            dropped.note(100);
        }
        assert_eq!(dropped.note(101), 2);
        for second in 102..200 {
            for _ in 0..200 {
                dropped.note(second);
            }
        }
        assert_eq!(dropped.note(200), LONGEST);
        for second in [300, 400, 500] {
            dropped.note(second);
        }
        assert_eq!(dropped.note(600), LONGEST - 4);
    }
}
