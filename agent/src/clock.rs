//! Wall-clock time as the agent sees it. Decisions are made in pure functions that are handed `now`; only the edges hold a [`Clock`].

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Source of wall-clock time.
#[derive(Debug, Clone, Copy)]
pub enum Clock {
    /// The machine's clock.
    System,
    /// A fixed start that advances with tokio's clock, so that paused-clock tests control it.
    Virtual {
        /// Wall time at `start`.
        base: Timestamp,
        /// The tokio instant that means `base`.
        start: tokio::time::Instant,
    },
}

impl Clock {
    /// A virtual clock that starts now at `base`.
    #[must_use]
    pub fn starting_at(base: Timestamp) -> Self {
        Self::Virtual { base, start: tokio::time::Instant::now() }
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        match self {
            Self::System => Timestamp::now(),
            Self::Virtual { base, start } => base.saturating_add(start.elapsed()).unwrap_or(*base),
        }
    }
}

/// A Kubernetes time: whole seconds, as it is on the wire, so that equal means equal after a round trip.
#[must_use]
pub fn time(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

/// How long from `now` until `then`; zero when past.
#[must_use]
pub fn until(now: Timestamp, then: Timestamp) -> Duration {
    Duration::try_from(then.duration_since(now)).unwrap_or(Duration::ZERO)
}

/// `at` plus `by`, stopping at the end of time.
#[must_use]
pub fn after(at: Timestamp, by: Duration) -> Timestamp {
    at.saturating_add(by).unwrap_or(Timestamp::MAX)
}
