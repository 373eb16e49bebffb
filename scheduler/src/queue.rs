//! Pods that wait: ready to be tried, backing off, or parked until something happens that can help them. Pure: `now` is passed in.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use crate::{plugins::Events, pod::Pod};

/// Time since the scheduler started.
pub(crate) type Now = Duration;

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LAST_BACKOFF: Duration = Duration::from_secs(10);
/// After this long a parked pod is tried again whatever happened (`podMaxInUnschedulablePodsDuration`).
const LONGEST_PARKING: Duration = Duration::from_secs(300);

/// Order of tries: higher priority, then longer waiting.
type Turn = (Reverse<i32>, Duration, Arc<str>);

#[derive(Default)]
pub(crate) struct Queue {
    pods: HashMap<Arc<str>, Waiting>,
    active: BTreeSet<Turn>,
    /// When to look at pods that back off or are parked.
    timers: BTreeSet<(Duration, Arc<str>)>,
}

struct Waiting {
    pod: Arc<Pod>,
    since: Now,
    attempts: u32,
    place: Place,
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    Active,
    /// Until then, whatever happens.
    Backoff {
        until: Now,
    },
    /// Until one of these happens, or long enough has passed.
    Parked {
        helped_by: Events,
        backoff: Now,
        until: Now,
    },
    /// Until its gates are taken away.
    Gated,
    /// Tried at this moment.
    Tried,
}

impl Queue {
    /// A new pod, or news of one that waits. A pod whose wishes may have changed is tried again.
    pub(crate) fn add(&mut self, pod: Pod, now: Now) {
        let uid: Arc<str> = pod.view.metadata.uid.as_str().into();
        let gated = !pod.view.spec.scheduling_gates.is_empty();
        let pod = Arc::new(pod);
        match self.pods.get_mut(&uid) {
            Some(waiting) => {
                let changed = wishes_changed(&waiting.pod, &pod);
                waiting.pod = pod;
                let waits = matches!(waiting.place, Place::Parked { .. } | Place::Gated);
                if waits && changed && !gated {
                    self.activate(&uid, now);
                }
            }
            None => {
                self.pods.insert(uid.clone(), Waiting { pod, since: now, attempts: 0, place: Place::Gated });
                if !gated {
                    self.activate(&uid, now);
                }
            }
        }
    }

    /// Forgets a pod: it is bound, or gone.
    pub(crate) fn remove(&mut self, uid: &str) {
        if let Some((uid, waiting)) = self.pods.remove_entry(uid) {
            self.forget_place(&uid, &waiting);
        }
    }

    /// The pod whose turn it is. It stays known until it is removed, parked or retried.
    pub(crate) fn next(&mut self, now: Now) -> Option<Arc<Pod>> {
        self.wake(now);
        let (_, _, uid) = self.active.pop_first()?;
        let waiting = self.pods.get_mut(&uid)?;
        waiting.place = Place::Tried;
        waiting.attempts += 1;
        Some(waiting.pod.clone())
    }

    /// The try failed for a reason that events can change.
    pub(crate) fn park(&mut self, uid: &str, helped_by: Events, now: Now) {
        let Some((uid, waiting)) = self.entry(uid) else { return };
        let until = now + LONGEST_PARKING;
        waiting.place = Place::Parked { helped_by, backoff: now + backoff(waiting.attempts), until };
        self.timers.insert((until, uid));
    }

    /// The try failed for a reason of the moment: again after a while.
    pub(crate) fn retry(&mut self, uid: &str, now: Now) {
        let Some((uid, waiting)) = self.entry(uid) else { return };
        let until = now + backoff(waiting.attempts);
        waiting.place = Place::Backoff { until };
        self.timers.insert((until, uid));
    }

    /// Something happened in the cluster: parked pods that it can help move on.
    pub(crate) fn happened(&mut self, events: Events, now: Now) {
        if events.is_none() {
            return;
        }
        let helped = |place: Place| matches!(place, Place::Parked { helped_by, .. } if helped_by.any_of(events));
        let uids: Vec<Arc<str>> = self.pods.iter().filter(|(_, w)| helped(w.place)).map(|(uid, _)| uid.clone()).collect();
        for uid in uids {
            let Some(waiting) = self.pods.get_mut(&uid) else { continue };
            let Place::Parked { backoff, until, .. } = waiting.place else { continue };
            self.timers.remove(&(until, uid.clone()));
            if backoff <= now {
                self.activate(&uid, now);
            } else {
                waiting.place = Place::Backoff { until: backoff };
                self.timers.insert((backoff, uid));
            }
        }
    }

    /// When [`Queue::next`] may have something again, if nothing happens before.
    pub(crate) fn next_wake(&self) -> Option<Now> {
        if self.active.is_empty() { self.timers.first().map(|(at, _)| *at) } else { Some(Duration::ZERO) }
    }

    fn wake(&mut self, now: Now) {
        while let Some((at, _)) = self.timers.first()
            && *at <= now
        {
            if let Some((_, uid)) = self.timers.pop_first() {
                self.activate(&uid, now);
            }
        }
    }

    fn activate(&mut self, uid: &Arc<str>, _now: Now) {
        let Some(waiting) = self.pods.get_mut(uid) else { return };
        if let Place::Backoff { until } | Place::Parked { until, .. } = waiting.place {
            self.timers.remove(&(until, uid.clone()));
        }
        waiting.place = Place::Active;
        self.active.insert(turn(uid, waiting));
    }

    fn forget_place(&mut self, uid: &Arc<str>, waiting: &Waiting) {
        match waiting.place {
            Place::Active => {
                self.active.remove(&turn(uid, waiting));
            }
            Place::Backoff { until } | Place::Parked { until, .. } => {
                self.timers.remove(&(until, uid.clone()));
            }
            Place::Gated | Place::Tried => {}
        }
    }

    fn entry(&mut self, uid: &str) -> Option<(Arc<str>, &mut Waiting)> {
        let (key, _) = self.pods.get_key_value(uid)?;
        let key = key.clone();
        self.pods.get_mut(&key).map(|waiting| (key, waiting))
    }
}

fn turn(uid: &Arc<str>, waiting: &Waiting) -> Turn {
    (Reverse(waiting.pod.view.spec.priority), waiting.since, uid.clone())
}

fn backoff(attempts: u32) -> Duration {
    FIRST_BACKOFF.saturating_mul(1 << attempts.saturating_sub(1).min(8)).min(LAST_BACKOFF)
}

/// Whether an update can matter to scheduling: labels, gates, tolerations, requests (in-place resize).
fn wishes_changed(old: &Pod, new: &Pod) -> bool {
    let (a, b) = (&old.view, &new.view);
    a.metadata.labels != b.metadata.labels
        || a.spec.scheduling_gates.len() != b.spec.scheduling_gates.len()
        || a.spec.tolerations.len() != b.spec.tolerations.len()
        || a.spec.node_selector != b.spec.node_selector
        || old.requests != new.requests
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pod::tests::pod;

    const fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn named(uid: &str, priority: i32) -> Pod {
        pod(json!({"metadata": {"uid": uid}, "spec": {"priority": priority, "containers": [{}]}}))
    }

    fn next(queue: &mut Queue, now: u64) -> Option<String> {
        queue.next(seconds(now)).map(|pod| pod.view.metadata.uid.clone())
    }

    #[test]
    fn higher_priority_goes_first_then_longer_waiting() {
        let mut queue = Queue::default();
        for (uid, priority, at) in [("late", 0, 3), ("early", 0, 1), ("urgent", 9, 5)] {
            queue.add(named(uid, priority), seconds(at));
        }
        let order: Vec<_> = std::iter::from_fn(|| next(&mut queue, 6)).collect();
        assert_eq!(order, ["urgent", "early", "late"]);
    }

    #[test]
    fn a_parked_pod_moves_only_by_an_event_that_can_help_and_after_its_backoff() {
        let mut queue = Queue::default();
        queue.add(named("a", 0), seconds(0));
        next(&mut queue, 0);
        queue.park("a", Events::POD_LEFT, seconds(0));
        queue.happened(Events::NODE_LABELS, seconds(5));
        assert_eq!(next(&mut queue, 5), None);
        queue.happened(Events::POD_LEFT.or(Events::NODE_ADDED), seconds(0));
        assert_eq!(next(&mut queue, 0), None, "first back-off is a second");
        assert_eq!(queue.next_wake(), Some(seconds(1)));
        assert_eq!(next(&mut queue, 1).as_deref(), Some("a"));
    }

    #[test]
    fn backoff_doubles_up_to_ten_seconds() {
        let mut queue = Queue::default();
        queue.add(named("a", 0), seconds(0));
        let mut now = 0;
        for wait in [1, 2, 4, 8, 10, 10] {
            assert!(next(&mut queue, now).is_some());
            queue.retry("a", seconds(now));
            assert_eq!(queue.next_wake(), Some(seconds(now + wait)));
            now += wait;
        }
    }

    #[test]
    fn a_forgotten_pod_never_comes_up_again() {
        let mut queue = Queue::default();
        queue.add(named("a", 0), seconds(0));
        next(&mut queue, 0);
        queue.park("a", Events::POD_LEFT, seconds(0));
        queue.remove("a");
        queue.happened(Events::POD_LEFT, seconds(9));
        assert_eq!((next(&mut queue, 999), queue.next_wake()), (None, None));
    }

    #[test]
    fn a_gated_pod_waits_until_its_gates_are_gone() {
        let mut queue = Queue::default();
        let mut gated = named("a", 0);
        let view = Arc::make_mut(&mut gated.view);
        view.spec.scheduling_gates.push(crate::view::Gate { name: "wait".into() });
        queue.add(gated, seconds(0));
        queue.happened(Events::NODE_ADDED, seconds(1));
        assert_eq!(next(&mut queue, 1), None);
        queue.add(named("a", 0), seconds(2));
        assert_eq!(next(&mut queue, 2).as_deref(), Some("a"));
    }

    #[test]
    fn a_parked_pod_is_tried_again_after_five_minutes() {
        let mut queue = Queue::default();
        queue.add(named("a", 0), seconds(0));
        next(&mut queue, 0);
        queue.park("a", Events::NODE_ADDED, seconds(0));
        assert_eq!(next(&mut queue, 299), None);
        assert_eq!(next(&mut queue, 300).as_deref(), Some("a"));
    }
}
