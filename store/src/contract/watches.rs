//! Whether a watcher was told everything, once and in order, also when it had to start over.

use std::collections::BTreeMap;

use crate::{At, Entry, Event, Key, Revision};

/// What a watcher was told, in its order.
#[derive(Clone, Debug)]
pub(crate) enum Told {
    /// It listed everything, and goes on from there.
    Listed(At<Vec<Entry>>),
    /// Its watch broke; it goes on where it was.
    Resumed,
    Event(Event),
}

/// Checks what a watcher was told against all that was committed (`truth`, in order of revisions, from an empty state on).
pub(crate) fn check(truth: &[Event], told: &[Told]) -> Result<(), String> {
    let mut cursor = None;
    for (step, told) in told.iter().enumerate() {
        match (told, cursor) {
            (Told::Listed(list), before) => {
                if before.is_some_and(|before| list.revision < before) {
                    return Err(format!("step {step}: a list at {} after {before:?} was known", list.revision));
                }
                let state = state_at(truth, list.revision);
                if !list.value.iter().eq(state.values()) {
                    return Err(format!("step {step}: listed at {}\n  {:?}\nbut there was\n  {state:?}", list.revision, list.value));
                }
                cursor = Some(list.revision);
            }
            (Told::Resumed, Some(_)) => {}
            (Told::Event(event), Some(known)) => {
                let next = truth.iter().find(|event| event.revision > known);
                if next != Some(event) {
                    return Err(format!("step {step}: after {known} came\n  {event:?}\nbut committed was\n  {next:?}"));
                }
                cursor = Some(event.revision);
            }
            (Told::Resumed | Told::Event(_), None) => return Err(format!("step {step}: {told:?} before any list")),
        }
    }
    match (cursor, truth.last()) {
        (Some(reached), Some(last)) if reached < last.revision => Err(format!("ended at {reached}, the last write is {}", last.revision)),
        (None, Some(_)) => Err("told nothing".to_owned()),
        _ => Ok(()),
    }
}

/// All objects at a revision.
pub(crate) fn state_at(truth: &[Event], revision: Revision) -> BTreeMap<Key, Entry> {
    let mut state = BTreeMap::new();
    for event in truth.iter().take_while(|event| event.revision <= revision) {
        match &event.after {
            Some(entry) => state.insert(event.key.clone(), entry.clone()),
            None => state.remove(&event.key),
        };
    }
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, created: u64, revision: u64) -> Event {
        let (key, revision, created) = (Key::from(key), Revision(revision), Revision(created));
        let entry = Entry { key: key.clone(), value: format!("v{revision}").into(), revision, created };
        Event { key, revision, after: Some(entry) }
    }

    fn delete(key: &str, revision: u64) -> Event {
        Event { key: key.into(), revision: Revision(revision), after: None }
    }

    fn truth() -> Vec<Event> {
        vec![put("/a", 2, 2), put("/b", 4, 4), put("/a", 2, 5), delete("/b", 7), put("/b", 9, 9)]
    }

    fn listed(revision: u64) -> Told {
        let value = state_at(&truth(), Revision(revision)).into_values().collect();
        Told::Listed(At { value, revision: Revision(revision) })
    }

    fn events(from: usize, to: usize) -> Vec<Told> {
        truth()[from..to].iter().cloned().map(Told::Event).collect()
    }

    #[test]
    fn everything_once_and_in_order_is_right_however_often_it_starts_over() {
        check(&truth(), &[vec![listed(1)], events(0, 5)].concat()).unwrap();
        check(&truth(), &[vec![listed(1)], events(0, 2), vec![Told::Resumed], events(2, 5)].concat()).unwrap();
        check(&truth(), &[vec![listed(1)], events(0, 1), vec![listed(6)], events(3, 5)].concat()).unwrap();
        check(&truth(), &[vec![listed(4), listed(9)]].concat()).unwrap();
    }

    #[test]
    fn what_is_missing_twice_swapped_or_foreign_is_found() {
        let whole = [vec![listed(1)], events(0, 5)].concat();
        for at in 1..whole.len() {
            let mut missing = whole.clone();
            missing.remove(at);
            assert!(check(&truth(), &missing).is_err(), "without {at}");
            let mut twice = whole.clone();
            twice.insert(at, whole[at].clone());
            assert!(check(&truth(), &twice).is_err(), "twice {at}");
            if at > 1 {
                let mut swapped = whole.clone();
                swapped.swap(at - 1, at);
                assert!(check(&truth(), &swapped).is_err(), "swapped {at}");
            }
        }
        let foreign = [whole, vec![Told::Event(put("/c", 10, 10))]].concat();
        assert!(check(&truth(), &foreign).is_err());
    }

    #[test]
    fn gaps_at_the_seams_are_found() {
        assert!(check(&truth(), &[vec![listed(1)], events(0, 2), vec![Told::Resumed], events(3, 5)].concat()).is_err(), "resumed too late");
        assert!(check(&truth(), &[vec![listed(4)], events(3, 5)].concat()).is_err(), "a list, then not what follows");
        assert!(check(&truth(), &[vec![listed(5), listed(4)], events(2, 5)].concat()).is_err(), "a list that goes back");
        assert!(check(&truth(), &events(0, 5)).is_err(), "events before a list");
        assert!(check(&truth(), &[]).is_err());
    }

    #[test]
    fn a_list_that_was_never_the_state_is_found() {
        for revision in [4, 5, 7] {
            let Told::Listed(list) = listed(revision) else { unreachable!() };
            for wrong in [revision - 2, revision + 2] {
                let torn = Told::Listed(At { revision: Revision(wrong), ..list.clone() });
                assert!(check(&truth(), &[torn, listed(9)]).is_err(), "the state of {revision} at {wrong}");
            }
        }
    }

    #[test]
    fn a_value_that_was_not_written_is_found() {
        let mut told = [vec![listed(1)], events(0, 5)].concat();
        let Some(Told::Event(Event { after: Some(entry), .. })) = told.last_mut() else { unreachable!() };
        entry.value = "other".into();
        assert!(check(&truth(), &told).is_err());
    }
}
