//! Who leads, by client-go's algorithm (`tools/leaderelection/leaderelection.go`). Pure: what was seen and when goes in, the next step comes out.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{api::coordination::v1::LeaseSpec, apimachinery::pkg::apis::meta::v1::MicroTime};
use tokio::time::Instant;

/// How long things take in an election.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Times {
    /// Others wait this long after they saw the last renewal (`--leader-elect-lease-duration`).
    pub(crate) lease: Duration,
    /// A leader that has not renewed for this long leads no more (`--leader-elect-renew-deadline`).
    pub(crate) renew_deadline: Duration,
    /// Time between two renewals, and between two tries (`--leader-elect-retry-period`).
    pub(crate) retry: Duration,
}

/// What a candidate has seen of a lease.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    identity: String,
    seen: Option<(LeaseSpec, Instant)>,
}

/// What a candidate does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Try to get the lease now.
    Try,
    /// Somebody has it: until then, unless it changes.
    WaitUntil(Instant),
}

impl Candidate {
    pub(crate) fn new(identity: &str) -> Self {
        Self { identity: identity.to_owned(), seen: None }
    }

    /// Notes the lease as it is now. Clocks of others are not believed: what counts is how long it has not been seen to change.
    pub(crate) fn see(&mut self, spec: &LeaseSpec, now: Instant) {
        if self.seen.as_ref().is_none_or(|(known, _)| known != spec) {
            self.seen = Some((spec.clone(), now));
        }
    }

    /// What to do about what was seen.
    pub(crate) fn step(&self, now: Instant) -> Step {
        let Some((spec, since)) = &self.seen else { return Step::Try };
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        if holder.is_empty() || holder == self.identity {
            return Step::Try;
        }
        let lasts = u64::try_from(spec.lease_duration_seconds.unwrap_or_default()).unwrap_or_default();
        let end = *since + Duration::from_secs(lasts);
        if end <= now { Step::Try } else { Step::WaitUntil(end) }
    }
}

/// The lease as it is while `identity` leads, renewed `now`.
pub(crate) fn held(old: Option<&LeaseSpec>, identity: &str, times: &Times, now: Timestamp) -> LeaseSpec {
    let mine = old.filter(|old| old.holder_identity.as_deref() == Some(identity));
    let transitions = old.and_then(|old| old.lease_transitions).unwrap_or_default();
    LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: Some(i32::try_from(times.lease.as_secs()).unwrap_or(i32::MAX)),
        acquire_time: mine.and_then(|mine| mine.acquire_time.clone()).or(Some(MicroTime(now))),
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(if mine.is_some() || old.is_none() { transitions } else { transitions.saturating_add(1) }),
        ..LeaseSpec::default()
    }
}

/// The lease as a leader leaves it that ends: the next one need not wait.
pub(crate) fn released(old: &LeaseSpec, now: Timestamp) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(String::new()),
        lease_duration_seconds: Some(1),
        acquire_time: Some(MicroTime(now)),
        renew_time: Some(MicroTime(now)),
        lease_transitions: old.lease_transitions,
        ..LeaseSpec::default()
    }
}

impl Times {
    /// As client-go checks them; the error names the flag.
    pub(crate) fn check(&self) -> Result<(), String> {
        // Others can only be told whole seconds.
        if self.lease.subsec_nanos() != 0 || self.lease.is_zero() {
            return Err("--leader-elect-lease-duration must be whole seconds, at least 1s".to_owned());
        }
        if self.lease <= self.renew_deadline {
            return Err("--leader-elect-lease-duration must be greater than --leader-elect-renew-deadline".to_owned());
        }
        // client-go's jitter of 1.2.
        if self.retry.is_zero() || self.renew_deadline <= self.retry.mul_f64(1.2) {
            return Err("--leader-elect-renew-deadline must be greater than 1.2 times --leader-elect-retry-period, which must be positive"
                .to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: Times =
        Times { lease: Duration::from_secs(2), renew_deadline: Duration::from_millis(1500), retry: Duration::from_millis(500) };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    #[test]
    fn a_lease_is_taken_when_it_has_not_changed_for_as_long_as_it_lasts() {
        let (mut candidate, start) = (Candidate::new("b"), Instant::now());
        assert_eq!(candidate.step(start), Step::Try);
        // The holder's clock is years behind: nobody minds.
        let theirs = held(None, "a", &TIMES, at(-1_000_000));
        candidate.see(&theirs, start);
        assert_eq!(candidate.step(start), Step::WaitUntil(start + TIMES.lease));
        let later = start + Duration::from_millis(1900);
        candidate.see(&theirs, later);
        assert_eq!(candidate.step(later), Step::WaitUntil(start + TIMES.lease));
        candidate.see(&held(Some(&theirs), "a", &TIMES, at(-999_999)), later);
        assert_eq!(candidate.step(start + TIMES.lease), Step::WaitUntil(later + TIMES.lease));
        assert_eq!(candidate.step(later + TIMES.lease), Step::Try);
    }

    #[test]
    fn a_released_lease_is_taken_at_once() {
        let (mut candidate, start) = (Candidate::new("b"), Instant::now());
        let theirs = held(None, "a", &TIMES, at(0));
        candidate.see(&theirs, start);
        candidate.see(&released(&theirs, at(1)), start);
        assert_eq!(candidate.step(start), Step::Try);
    }

    #[test]
    fn transitions_count_leaders_and_not_renewals() {
        let first = held(None, "a", &TIMES, at(0));
        let renewed = held(Some(&first), "a", &TIMES, at(1));
        assert_eq!(
            (renewed.lease_transitions, &renewed.acquire_time, renewed.renew_time.clone()),
            (Some(0), &first.acquire_time, Some(MicroTime(at(1))))
        );
        let next = held(Some(&released(&renewed, at(2))), "b", &TIMES, at(3));
        assert_eq!((next.lease_transitions, next.acquire_time, next.lease_duration_seconds), (Some(1), Some(MicroTime(at(3))), Some(2)));
    }

    #[test]
    fn times_that_would_let_two_lead_are_refused() {
        assert_eq!(TIMES.check(), Ok(()));
        let of = |lease, renew, retry| {
            let millis = Duration::from_millis;
            Times { lease: millis(lease), renew_deadline: millis(renew), retry: millis(retry) }.check()
        };
        assert!(of(2000, 2000, 500).is_err() && of(1500, 1000, 100).is_err() && of(2000, 600, 500).is_err() && of(2000, 1000, 0).is_err());
    }
}
