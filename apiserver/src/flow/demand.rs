//! How many seats a level wanted over time (upstream `fairqueuing/integrator.go`).

use tokio::time::Instant;

/// A value over time: its mean, its spread and its peak since the last reset.
#[derive(Debug)]
pub(super) struct Integrator {
    since: Instant,
    value: f64,
    seconds: f64,
    sum: f64,
    squares: f64,
    most: f64,
}

/// What was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Seen {
    pub seconds: f64,
    pub average: f64,
    pub deviation: f64,
    pub most: f64,
}

/// Demand as it counts for the next period: smoothed, with a half-life of five minutes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Demand {
    pub average: f64,
    pub deviation: f64,
    pub most: u64,
    pub smoothed: f64,
}

/// How much of the last smoothed value is kept each period.
const KEPT: f64 = 0.977;

impl Integrator {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, value: 0.0, seconds: 0.0, sum: 0.0, squares: 0.0, most: 0.0 }
    }

    /// The value is another one from now on.
    pub(super) fn set(&mut self, value: f64, now: Instant) {
        if value.to_bits() == self.value.to_bits() {
            return;
        }
        self.advance(now);
        self.value = value;
        self.most = self.most.max(value);
    }

    fn advance(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.since).as_secs_f64();
        self.since = now;
        self.seconds += passed;
        self.sum += passed * self.value;
        self.squares += passed * self.value * self.value;
    }

    /// What was seen since the last time this was asked.
    pub(super) fn reset(&mut self, now: Instant) -> Seen {
        self.advance(now);
        let mut seen = Seen { seconds: self.seconds, most: self.most, ..Seen::default() };
        if self.seconds > 0.0 {
            seen.average = self.sum / self.seconds;
            seen.deviation = (self.squares / self.seconds - seen.average * seen.average).max(0.0).sqrt();
        }
        (self.seconds, self.sum, self.squares, self.most) = (0.0, 0.0, 0.0, self.value);
        seen
    }
}

impl Demand {
    /// Takes a period into account.
    pub(super) fn update(&mut self, seen: Seen) {
        self.most = seen.most.round().max(0.0) as u64;
        if seen.seconds <= 0.0 {
            return;
        }
        (self.average, self.deviation) = (seen.average, seen.deviation);
        let envelope = seen.average + seen.deviation;
        self.smoothed = envelope.max(KEPT * self.smoothed + (1.0 - KEPT) * envelope);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_value_counts_as_long_as_it_held() {
        let start = Instant::now();
        let mut integrator = Integrator::new(start);
        integrator.set(4.0, start);
        integrator.set(4.0, start + Duration::from_secs(3));
        integrator.set(0.0, start + Duration::from_secs(5));
        let seen = integrator.reset(start + Duration::from_secs(10));
        assert_eq!((seen.seconds, seen.average, seen.deviation, seen.most), (10.0, 2.0, 2.0, 4.0));
        let mut demand = Demand::default();
        demand.update(seen);
        assert_eq!((demand.smoothed, demand.most), (4.0, 4));
        demand.update(integrator.reset(start + Duration::from_secs(20)));
        assert!((demand.smoothed - 4.0 * KEPT).abs() < 1e-9 && demand.most == 0, "it fades slowly: {demand:?}");
    }
}
