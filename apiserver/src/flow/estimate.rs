//! What a request will take (upstream `flowcontrol/request`): lists by the size of what they show, writes by who is told of them.

use std::time::Duration;

use crate::request::{Query, RequestInfo};

/// Seats of a list at most, and of a write.
const LIST: u64 = 100;
const WRITE: u64 = 10;
/// What of a list one seat stands for, in bytes; no more than this is at hand at a time, as lists come from memory.
const BYTES: u64 = 100_000;
const AT_ONCE: u64 = 1_000_000;
/// Watches that are told by one seat, and how long that takes.
const WATCHES: usize = 10;
const TELLING: Duration = Duration::from_millis(5);

/// The seats of a request while it is executed, and afterwards for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Estimate {
    pub initial: u64,
    pub last: u64,
    pub latency: Duration,
}

/// What is known of the objects of a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stats {
    pub count: u64,
    /// Of one object, on average, in bytes.
    pub size: u64,
}

impl Estimate {
    /// What most take.
    pub(super) const ONE: Self = Self { initial: 1, last: 0, latency: Duration::ZERO };

    /// Seats it holds all the time.
    pub(super) fn seats(&self) -> usize {
        usize::try_from(self.initial.max(self.last)).unwrap_or(usize::MAX)
    }

    /// Of a list, or of the beginning of a watch. `stats` are absent for what is not kept here; `most` seats are the level's bound, 0 for none.
    pub(super) fn list(info: &RequestInfo, query: &Query, stats: Option<Stats>, most: u64) -> Self {
        let most = if most == 0 { LIST } else { most.min(LIST) };
        let seats = |initial| Self { initial, ..Self::ONE };
        let Ok(limit) = query.number("limit") else { return seats(most) };
        let begins_anew = matches!(query.text("resourceVersion"), "" | "0");
        if info.verb == "watch" && !query.flag("sendInitialEvents") && !begins_anew {
            return Self::ONE;
        }
        let Some(stats) = stats else { return Self::ONE };
        let limit = limit.and_then(|limit| u64::try_from(limit).ok()).filter(|limit| *limit > 0).unwrap_or(u64::MAX).min(stats.count);
        let objects = if info.name.is_empty() { limit } else { 1 };
        let bytes = objects.saturating_mul(stats.size).min(AT_ONCE);
        seats(bytes.div_ceil(BYTES).clamp(1, most))
    }

    /// Of a write that so many watches are told of.
    pub(super) fn write(info: &RequestInfo, watches: usize, most: u64) -> Self {
        // A token is nobody's event.
        let untold = info.resource == "serviceaccounts" && info.subresource == "token";
        if untold || watches < WATCHES {
            return Self::ONE;
        }
        let most = if most == 0 { WRITE } else { most.min(WRITE) };
        let wanted = watches.div_ceil(WATCHES) as u64;
        let last = wanted.min(most).max(1);
        // As many seats as there may be, for as long as the work then takes.
        let latency = TELLING.mul_f64(wanted as f64 / last as f64);
        Self { initial: 1, last, latency }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(verb: &str, query: &str, stats: Option<Stats>, most: u64) -> u64 {
        let info = RequestInfo { is_resource: true, verb: verb.into(), resource: "pods".into(), ..RequestInfo::default() };
        Estimate::list(&info, &Query::parse(query), stats, most).initial
    }

    #[test]
    fn a_list_takes_seats_by_its_size_up_to_what_is_at_hand_at_once() {
        let stats = |count, size| Some(Stats { count, size });
        assert_eq!(of("list", "", stats(10, 1_000), 0), 1);
        assert_eq!(of("list", "", stats(1_000, 1_000), 0), 10);
        assert_eq!(of("list", "", stats(100_000, 5_000), 0), 10);
        assert_eq!(of("list", "limit=250", stats(1_000, 1_000), 0), 3);
        assert_eq!(of("list", "", stats(1_000, 1_000), 4), 4);
        assert_eq!(of("list", "", None, 4), 1);
        assert_eq!(of("list", "limit=x", stats(1, 1), 7), 7, "it will fail");
        assert_eq!(of("watch", "watch=1&resourceVersion=7", stats(1_000, 1_000), 0), 1);
        assert_eq!(of("watch", "watch=1", stats(1_000, 1_000), 0), 10);
        let one = RequestInfo { name: "x".into(), ..RequestInfo::default() };
        assert_eq!(Estimate::list(&one, &Query::default(), stats(1_000, 1_000), 0), Estimate::ONE);
    }

    #[test]
    fn a_write_costs_what_telling_it_costs_but_never_more_seats_than_there_may_be() {
        let info = RequestInfo { verb: "create".into(), resource: "pods".into(), ..RequestInfo::default() };
        assert_eq!(Estimate::write(&info, 9, 0), Estimate::ONE);
        assert_eq!(Estimate::write(&info, 25, 0), Estimate { initial: 1, last: 3, latency: TELLING });
        assert_eq!(Estimate::write(&info, 200, 0), Estimate { initial: 1, last: 10, latency: 2 * TELLING });
        assert_eq!(Estimate::write(&info, 25, 1), Estimate { initial: 1, last: 1, latency: 3 * TELLING });
        let token = RequestInfo { resource: "serviceaccounts".into(), subresource: "token".into(), ..info };
        assert_eq!(Estimate::write(&token, 500, 0), Estimate::ONE);
    }
}
