//! Whether what clients saw of one key can have happened one operation after another, each between its call and its return.
//!
//! The search of Wing and Gong with the memory of Lowe, as porcupine does it: try every operation that may come next, never the same set of
//! operations in the same state twice. The model is a register with compare-and-swap whose every write has a revision. An operation whose
//! outcome is unknown may have happened at any time after its call, or never.

use std::collections::HashSet;

use bytes::Bytes;

use crate::{Expect, Revision, StoreError};

/// What a client asked of the key.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    Read,
    /// `None`: a delete.
    Write(Expect, Option<Bytes>),
}

/// What it was told.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Found(Option<(Bytes, Revision)>),
    Written(Revision),
    Refused(StoreError),
    Unknown,
}

/// One operation, with the moments (of a clock that all clients share) of its call and its return.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) called: u64,
    pub(crate) returned: u64,
    pub(crate) action: Action,
    pub(crate) outcome: Outcome,
}

/// Operations on one key that one search takes.
pub(crate) const LONGEST: usize = 128;

/// The key's state between two operations.
#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    value: Option<Bytes>,
    /// The revision of the last write; `None`: it had no answer, so it is any above `floor`.
    revision: Option<u64>,
    floor: u64,
}

/// Whether there is an order; if not, the longest beginning of one that was found.
pub(crate) fn check(history: &[Operation], start: Revision) -> Result<(), String> {
    // A read that failed says nothing.
    let mut operations: Vec<_> =
        history.iter().filter(|op| !matches!((&op.action, &op.outcome), (Action::Read, Outcome::Unknown))).cloned().collect();
    assert!(operations.len() <= LONGEST, "{} operations on one key", operations.len());
    operations.sort_by_key(|op| op.called);
    for op in &mut operations {
        if matches!(op.outcome, Outcome::Unknown) {
            op.returned = u64::MAX;
        }
    }
    let mut search = Search { operations, seen: HashSet::new(), longest: 0 };
    let state = State { value: None, revision: None, floor: start.0 };
    if search.continues(0, &state) {
        return Ok(());
    }
    let placed = |at: &usize| search.longest >> at & 1 == 1;
    let (done, left): (Vec<_>, Vec<_>) = (0..search.operations.len()).partition(placed);
    let list = |ops: Vec<usize>| ops.into_iter().map(|at| format!("\n  {:?}", search.operations[at])).collect::<String>();
    Err(format!("no order of these operations explains what was seen; in order are{}\nbut not{}", list(done), list(left)))
}

struct Search {
    operations: Vec<Operation>,
    seen: HashSet<(u128, State)>,
    longest: u128,
}

impl Search {
    /// Whether the operations that are not in `placed` can follow from `state`.
    fn continues(&mut self, placed: u128, state: &State) -> bool {
        let is_left = |at: &usize| placed >> at & 1 == 0;
        let left: Vec<usize> = (0..self.operations.len()).filter(is_left).collect();
        let Some(deadline) = left.iter().map(|at| self.operations[*at].returned).min().filter(|returned| *returned < u64::MAX) else {
            return true;
        };
        if !self.seen.insert((placed, state.clone())) {
            return false;
        }
        if placed.count_ones() > self.longest.count_ones() {
            self.longest = placed;
        }
        for at in left {
            if self.operations[at].called > deadline {
                break;
            }
            for next in step(state, &self.operations[at]) {
                if self.continues(placed | 1 << at, &next) {
                    return true;
                }
                // What changes nothing can as well come first: nothing is won by placing it later.
                if next == *state {
                    return false;
                }
            }
        }
        false
    }
}

/// The states the operation can lead to; none: it cannot have been answered like this.
fn step(state: &State, operation: &Operation) -> Vec<State> {
    let next = match (&operation.action, &operation.outcome) {
        (Action::Read, Outcome::Found(None)) => state.value.is_none().then(|| state.clone()),
        (Action::Read, Outcome::Found(Some((value, at)))) => state.known(*at).filter(|known| known.value.as_ref() == Some(value)),
        (Action::Write(expect, value), Outcome::Written(at)) => {
            state.as_expected(*expect, value).and_then(|state| state.written(value, Some(at.0)))
        }
        (Action::Write(expect, value), Outcome::Unknown) => state.as_expected(*expect, value).and_then(|state| state.written(value, None)),
        (Action::Write(expect, value), Outcome::Refused(error)) => match (error, expect) {
            (StoreError::Absent, Expect::At(_)) => state.value.is_none().then(|| state.clone()),
            (StoreError::Absent, Expect::Absent) => (state.value.is_none() && value.is_none()).then(|| state.clone()),
            (StoreError::Exists { now }, Expect::Absent) => state.known(*now),
            (StoreError::Moved { now }, Expect::At(at)) if now != at => state.known(*now),
            _ => None,
        },
        (Action::Read, _) | (Action::Write(..), Outcome::Found(_)) => None,
    };
    next.into_iter().collect()
}

impl State {
    /// The same with the object there and last written at `at`, if that can be.
    fn known(&self, at: Revision) -> Option<Self> {
        let can_be = self.value.is_some() && self.revision.map_or(at.0 > self.floor, |known| known == at.0);
        can_be.then(|| Self { value: self.value.clone(), revision: Some(at.0), floor: at.0 })
    }

    /// The same, if a write that expects this succeeds in it.
    fn as_expected(&self, expect: Expect, value: &Option<Bytes>) -> Option<Self> {
        match expect {
            Expect::Absent => (self.value.is_none() && value.is_some()).then(|| self.clone()),
            Expect::At(at) => self.known(at),
        }
    }

    fn written(self, value: &Option<Bytes>, revision: Option<u64>) -> Option<Self> {
        let rises = revision.is_none_or(|revision| revision > self.floor);
        rises.then(|| Self { value: value.clone(), revision: revision.filter(|_| value.is_some()), floor: revision.unwrap_or(self.floor) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Revision = Revision(1);

    fn op(called: u64, returned: u64, action: Action, outcome: Outcome) -> Operation {
        Operation { called, returned, action, outcome }
    }

    fn put(expect: Expect, value: &'static str) -> Action {
        Action::Write(expect, Some(value.into()))
    }

    fn create(value: &'static str) -> Action {
        put(Expect::Absent, value)
    }

    fn update(at: u64, value: &'static str) -> Action {
        put(Expect::At(Revision(at)), value)
    }

    fn delete(at: u64) -> Action {
        Action::Write(Expect::At(Revision(at)), None)
    }

    fn wrote(at: u64) -> Outcome {
        Outcome::Written(Revision(at))
    }

    fn found(value: &'static str, at: u64) -> Outcome {
        Outcome::Found(Some((value.into(), Revision(at))))
    }

    fn is_sound(history: &[Operation]) -> bool {
        check(history, START).is_ok()
    }

    #[test]
    fn operations_one_after_another_are_in_order() {
        let history = [
            op(1, 2, create("a"), wrote(5)),
            op(3, 4, Action::Read, found("a", 5)),
            op(5, 6, create("b"), Outcome::Refused(StoreError::Exists { now: Revision(5) })),
            op(7, 8, update(5, "c"), wrote(6)),
            op(9, 10, update(5, "d"), Outcome::Refused(StoreError::Moved { now: Revision(6) })),
            op(11, 12, delete(6), wrote(9)),
            op(13, 14, Action::Read, Outcome::Found(None)),
            op(15, 16, delete(6), Outcome::Refused(StoreError::Absent)),
            op(17, 18, create("e"), wrote(10)),
        ];
        check(&history, START).unwrap();
        for missing in [0, 3, 5] {
            let mut history = history.to_vec();
            history.remove(missing);
            assert!(!is_sound(&history), "without the write {missing} the rest cannot have been seen");
        }
    }

    #[test]
    fn reads_during_a_write_see_either_but_not_one_and_then_the_other() {
        let write = [op(1, 2, create("a"), wrote(2)), op(3, 20, update(2, "b"), wrote(3))];
        let reads = |first, second| [&write[..], &[op(5, 6, Action::Read, first), op(7, 8, Action::Read, second)]].concat();
        assert!(is_sound(&reads(found("a", 2), found("b", 3))));
        assert!(is_sound(&reads(found("b", 3), found("b", 3))));
        assert!(!is_sound(&reads(found("b", 3), found("a", 2))), "back in time");
    }

    #[test]
    fn a_stale_read_is_found() {
        assert!(!is_sound(&[op(1, 2, create("a"), wrote(2)), op(3, 4, update(2, "b"), wrote(3)), op(5, 6, Action::Read, found("a", 2)),]));
        assert!(!is_sound(&[op(1, 2, create("a"), wrote(2)), op(3, 4, Action::Read, Outcome::Found(None))]), "a lost write");
    }

    #[test]
    fn of_two_writes_that_expect_the_same_only_one_can_succeed() {
        assert!(!is_sound(&[op(1, 9, create("a"), wrote(2)), op(1, 9, create("b"), wrote(3))]));
        let first = op(1, 2, create("a"), wrote(2));
        assert!(!is_sound(&[first.clone(), op(3, 9, update(2, "b"), wrote(3)), op(3, 9, update(2, "c"), wrote(4))]));
        assert!(!is_sound(&[first, op(3, 9, update(2, "b"), wrote(3)), op(3, 9, delete(2), wrote(4))]));
    }

    #[test]
    fn revisions_that_do_not_rise_are_found() {
        assert!(!is_sound(&[op(1, 2, create("a"), wrote(7)), op(3, 4, update(7, "b"), wrote(6))]));
        assert!(!is_sound(&[op(1, 2, create("a"), wrote(7)), op(3, 4, delete(7), wrote(8)), op(5, 6, create("b"), wrote(8))]));
        assert!(!is_sound(&[op(1, 2, create("a"), wrote(1))]), "the first is above the start");
    }

    #[test]
    fn a_refusal_without_a_reason_is_found() {
        let refused = |error| [op(1, 2, create("a"), wrote(2)), op(3, 4, update(2, "b"), Outcome::Refused(error))];
        assert!(!is_sound(&refused(StoreError::Absent)));
        assert!(!is_sound(&refused(StoreError::Moved { now: Revision(2) })));
        assert!(!is_sound(&refused(StoreError::Moved { now: Revision(3) })));
        assert!(!is_sound(&[op(1, 2, create("a"), Outcome::Refused(StoreError::Exists { now: Revision(2) }))]));
    }

    #[test]
    fn a_write_without_an_answer_happened_late_or_never_but_not_twice_and_not_before_its_call() {
        let lost = op(3, 4, update(2, "b"), Outcome::Unknown);
        let after = |rest: &[Operation]| [&[op(1, 2, create("a"), wrote(2)), lost.clone()][..], rest].concat();
        assert!(is_sound(&after(&[])));
        assert!(is_sound(&after(&[op(5, 6, Action::Read, found("a", 2)), op(7, 8, Action::Read, found("b", 9))])), "late");
        assert!(is_sound(&after(&[op(5, 6, update(2, "c"), wrote(5)), op(7, 8, Action::Read, found("c", 5))])), "never");
        let moved = Outcome::Refused(StoreError::Moved { now: Revision(4) });
        assert!(is_sound(&after(&[op(5, 6, update(2, "c"), moved), op(7, 8, update(4, "d"), wrote(5))])), "its revision shows");
        assert!(!is_sound(&after(&[op(5, 6, Action::Read, found("b", 3)), op(7, 8, Action::Read, found("a", 2))])), "seen and gone");
        assert!(!is_sound(&after(&[op(5, 6, update(2, "c"), wrote(5)), op(7, 8, Action::Read, found("b", 6))])), "after its chance");
        assert!(!is_sound(&after(&[op(5, 6, Action::Read, found("b", 3)), op(7, 8, Action::Read, found("b", 4))])), "twice");
        assert!(!is_sound(&[
            op(1, 2, create("a"), wrote(2)),
            op(3, 4, Action::Read, found("b", 3)),
            op(5, 6, update(2, "b"), Outcome::Unknown),
        ]));
    }

    #[test]
    fn many_concurrent_operations_without_an_order_are_refused_in_time() {
        let mut history = vec![op(1, 2, create("a"), wrote(2))];
        history.extend((0..24).map(|n| op(3, 100, update(2, ["b", "c", "d"][n % 3]), Outcome::Unknown)));
        history.extend((0..24).map(|n| op(4 + n, 100, Action::Read, found("a", 2))));
        check(&history, START).unwrap();
        history.push(op(101, 102, Action::Read, found("b", 3)));
        check(&history, START).unwrap();
        history.push(op(103, 104, Action::Read, found("a", 2)));
        assert!(!is_sound(&history));
    }
}
