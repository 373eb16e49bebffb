//! What is counted of flow control, under upstream's names (`flowcontrol/metrics`).

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::metrics::{
    page::{Page, Type},
    series::Histogram,
};

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    QueueFull = 0,
    ConcurrencyLimit = 1,
    TimeOut = 2,
    Cancelled = 3,
}

const REASONS: [&str; 4] = ["queue-full", "concurrency-limit", "time-out", "cancelled"];
static SECONDS: [f64; 13] = [0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0];
static LENGTHS: [f64; 8] = [0.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0];
static SEATS: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 100.0];
static WATCHES: [f64; 6] = [0.0, 1.0, 10.0, 100.0, 1000.0, 10000.0];

/// A family: its name, and what is said of it.
type Family = (&'static str, &'static str);

const IN_QUEUE: Family = (
    "apiserver_flowcontrol_current_inqueue_requests",
    "[BETA] Number of requests currently pending in queues of the API Priority and Fairness subsystem",
);
const SEATS_IN_QUEUE: Family = (
    "apiserver_flowcontrol_current_inqueue_seats",
    "[ALPHA] Number of seats currently pending in queues of the API Priority and Fairness subsystem",
);
const EXECUTING: Family = (
    "apiserver_flowcontrol_current_executing_requests",
    "[BETA] Number of requests in initial (for a WATCH) or any (for a non-WATCH) execution stage in the API Priority and Fairness subsystem",
);
const SEATS_IN_USE: Family = (
    "apiserver_flowcontrol_current_executing_seats",
    "[BETA] Concurrency (number of seats) occupied by the currently executing (initial stage for a WATCH, any stage otherwise) requests in the API Priority and Fairness subsystem",
);
const DISPATCHED: Family =
    ("apiserver_flowcontrol_dispatched_requests_total", "[BETA] Number of requests executed by API Priority and Fairness subsystem");
const REJECTED: Family =
    ("apiserver_flowcontrol_rejected_requests_total", "[BETA] Number of requests rejected by API Priority and Fairness subsystem");
const UNACCOMMODATED: Family = (
    "apiserver_flowcontrol_request_dispatch_no_accommodation_total",
    "[ALPHA] Number of times a dispatch attempt resulted in a non accommodation due to lack of available seats",
);
const WAITED: Family =
    ("apiserver_flowcontrol_request_wait_duration_seconds", "[BETA] Length of time a request spent waiting in its queue");
const EXECUTED: Family = (
    "apiserver_flowcontrol_request_execution_seconds",
    "[ALPHA] Duration of initial stage (for a WATCH) or any (for a non-WATCH) stage of request execution in the API Priority and Fairness subsystem",
);
const LENGTH: Family = (
    "apiserver_flowcontrol_request_queue_length_after_enqueue",
    "[ALPHA] Length of queue in the API Priority and Fairness subsystem, as seen by each request after it is enqueued",
);
const ESTIMATED: Family = (
    "apiserver_flowcontrol_work_estimated_seats",
    "[ALPHA] Number of estimated seats (maximum of initial and final seats) associated with requests in API Priority and Fairness",
);
const WATCHED: Family =
    ("apiserver_flowcontrol_watch_count_samples", "[ALPHA] count of watchers for mutating requests in API Priority and Fairness");
const FAIR: Family = (
    "apiserver_flowcontrol_seat_fair_frac",
    "[ALPHA] Fair fraction of server's concurrency to allocate to each priority level that can use it",
);

/// A family of levels, and its value.
type OfLevel = (Family, fn(&Figures) -> f64);

const LEVELS: [OfLevel; 9] = [
    (("apiserver_flowcontrol_nominal_limit_seats", "[BETA] Nominal number of execution seats configured for each priority level"), |f| {
        f.nominal as f64
    }),
    (
        (
            "apiserver_flowcontrol_lower_limit_seats",
            "[ALPHA] Configured lower bound on number of execution seats available to each priority level",
        ),
        |f| f.lower as f64,
    ),
    (
        (
            "apiserver_flowcontrol_upper_limit_seats",
            "[ALPHA] Configured upper bound on number of execution seats available to each priority level",
        ),
        |f| f.upper as f64,
    ),
    (
        ("apiserver_flowcontrol_current_limit_seats", "[ALPHA] current derived number of execution seats available to each priority level"),
        |f| f.current as f64,
    ),
    (("apiserver_flowcontrol_demand_seats_high_watermark", "[ALPHA] High watermark, over last adjustment period, of demand_seats"), |f| {
        f.demand.most as f64
    }),
    (("apiserver_flowcontrol_demand_seats_average", "[ALPHA] Time-weighted average, over last adjustment period, of demand_seats"), |f| {
        f.demand.average
    }),
    (
        (
            "apiserver_flowcontrol_demand_seats_stdev",
            "[ALPHA] Time-weighted standard deviation, over last adjustment period, of demand_seats",
        ),
        |f| f.demand.deviation,
    ),
    (("apiserver_flowcontrol_demand_seats_smoothed", "[ALPHA] Smoothed seat demands"), |f| f.demand.smoothed),
    (("apiserver_flowcontrol_target_seats", "[ALPHA] Seat allocation targets"), |f| f.target),
];

/// All of them.
#[cfg(test)]
pub(crate) const FAMILIES: [Family; 22] = [
    IN_QUEUE,
    SEATS_IN_QUEUE,
    EXECUTING,
    SEATS_IN_USE,
    DISPATCHED,
    REJECTED,
    UNACCOMMODATED,
    WAITED,
    EXECUTED,
    LENGTH,
    ESTIMATED,
    WATCHED,
    FAIR,
    LEVELS[0].0,
    LEVELS[1].0,
    LEVELS[2].0,
    LEVELS[3].0,
    LEVELS[4].0,
    LEVELS[5].0,
    LEVELS[6].0,
    LEVELS[7].0,
    LEVELS[8].0,
];

/// What is counted of one schema at one level.
pub(super) struct Counts {
    in_queue: [AtomicI64; 2],
    executing: [AtomicI64; 2],
    dispatched: AtomicU64,
    rejected: [AtomicU64; 4],
    unaccommodated: AtomicU64,
    waited: [Histogram; 2],
    executed: [Histogram; 2],
    lengths: Histogram,
    seats: Histogram,
    watches: Histogram,
}

impl Default for Counts {
    fn default() -> Self {
        let seconds = || [Histogram::of_seconds(&SECONDS), Histogram::of_seconds(&SECONDS)];
        Self {
            in_queue: Default::default(),
            executing: Default::default(),
            dispatched: AtomicU64::new(0),
            rejected: Default::default(),
            unaccommodated: AtomicU64::new(0),
            waited: seconds(),
            executed: seconds(),
            lengths: Histogram::of_bytes(&LENGTHS),
            seats: Histogram::of_bytes(&SEATS),
            watches: Histogram::of_bytes(&WATCHES),
        }
    }
}

impl Counts {
    pub(super) fn entered_queue(&self, seats: usize) {
        self.in_queue[0].fetch_add(1, Relaxed);
        self.in_queue[1].fetch_add(seats as i64, Relaxed);
    }

    pub(super) fn left_queue(&self, seats: usize) {
        self.in_queue[0].fetch_sub(1, Relaxed);
        self.in_queue[1].fetch_sub(seats as i64, Relaxed);
    }

    pub(super) fn executing_requests(&self, more: i64) {
        self.executing[0].fetch_add(more, Relaxed);
    }

    pub(super) fn executing_seats(&self, more: i64) {
        self.executing[1].fetch_add(more, Relaxed);
    }

    pub(super) fn no_accommodation(&self) {
        self.unaccommodated.fetch_add(1, Relaxed);
    }

    pub(super) fn dispatched(&self) {
        self.dispatched.fetch_add(1, Relaxed);
    }

    pub(super) fn rejected(&self, why: Reason) {
        self.rejected[why as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn waited(&self, executed: bool, time: Duration) {
        self.waited[usize::from(executed)].took(time);
    }

    pub(super) fn executed(&self, watch: bool, time: Duration) {
        self.executed[usize::from(watch)].took(time);
    }

    pub(super) fn length(&self, length: usize) {
        self.lengths.bytes(length as u64);
    }

    pub(super) fn estimated(&self, seats: usize) {
        self.seats.bytes(seats as u64);
    }

    pub(super) fn watched(&self, watches: usize) {
        self.watches.bytes(watches as u64);
    }
}

/// What is told of a level.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Figures {
    pub nominal: usize,
    pub lower: usize,
    pub upper: usize,
    pub current: usize,
    pub demand: super::demand::Demand,
    pub target: f64,
}

/// The part of `/metrics` about schemas.
pub(super) fn write_schemas(page: &mut Page, all: &BTreeMap<(String, String), Arc<Counts>>) {
    for ((level, schema), counts) in all {
        let (schema, level) = (("flow_schema", schema.as_str()), ("priority_level", level.as_str()));
        for ((name, help), value) in [
            (IN_QUEUE, &counts.in_queue[0]),
            (SEATS_IN_QUEUE, &counts.in_queue[1]),
            (EXECUTING, &counts.executing[0]),
            (SEATS_IN_USE, &counts.executing[1]),
        ] {
            page.gauge(name, help, &[schema, level], value.load(Relaxed) as f64);
        }
        for ((name, help), count) in [(DISPATCHED, &counts.dispatched), (UNACCOMMODATED, &counts.unaccommodated)] {
            page.family(name, Type::Counter, help).pairs(&[schema, level], count.load(Relaxed) as f64);
        }
        for (reason, count) in REASONS.into_iter().zip(&counts.rejected).filter(|(_, count)| count.load(Relaxed) > 0) {
            page.family(REJECTED.0, Type::Counter, REJECTED.1).pairs(&[schema, level, ("reason", reason)], count.load(Relaxed) as f64);
        }
        let names = [schema.0, level.0, "execute"];
        for (executed, histogram) in ["false", "true"].into_iter().zip(&counts.waited) {
            page.family(WAITED.0, Type::Histogram, WAITED.1).histogram(&names, &[schema.1, level.1, executed], histogram);
        }
        let names = [schema.0, level.0, "type"];
        for (kind, histogram) in ["regular", "watch"].into_iter().zip(&counts.executed) {
            page.family(EXECUTED.0, Type::Histogram, EXECUTED.1).histogram(&names, &[schema.1, level.1, kind], histogram);
        }
        for ((name, help), histogram) in [(LENGTH, &counts.lengths), (ESTIMATED, &counts.seats), (WATCHED, &counts.watches)] {
            page.family(name, Type::Histogram, help).histogram(&[schema.0, level.0], &[schema.1, level.1], histogram);
        }
    }
}

/// The part of `/metrics` about levels.
pub(super) fn write_levels(page: &mut Page, all: &[(String, Figures)], fair: f64) {
    for ((name, help), of) in LEVELS {
        for (level, figures) in all {
            page.gauge(name, help, &[("priority_level", level)], of(figures));
        }
    }
    page.gauge(FAIR.0, FAIR.1, &[], fair);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_is_cumulative_and_absent_until_it_counts() {
        let counts = Arc::new(Counts::default());
        counts.waited(true, Duration::from_millis(30));
        counts.waited(true, Duration::from_secs(60));
        counts.rejected(Reason::QueueFull);
        let mut page = Page::default();
        write_schemas(&mut page, &[(("low".to_owned(), "all".to_owned()), counts)].into());
        let out = page.finish();
        let (before, after) = ("execute=\"true\",flow_schema=\"all\"", "priority_level=\"low\"");
        let name = "apiserver_flowcontrol_request_wait_duration_seconds";
        assert!(out.contains(&format!("# HELP {name} [BETA] Length")), "{out}");
        assert!(out.contains(&format!("{name}_bucket{{{before},{after},le=\"0.02\"}} 0\n")), "{out}");
        assert!(out.contains(&format!("{name}_bucket{{{before},{after},le=\"0.05\"}} 1\n")));
        assert!(out.contains(&format!("{name}_count{{{before},{after}}} 2\n")));
        assert!(!out.contains("execute=\"false\""));
        assert!(out.contains(&format!("rejected_requests_total{{flow_schema=\"all\",{after},reason=\"queue-full\"}} 1\n")));
        assert!(out.lines().all(|line| line.starts_with('#') || line.starts_with("apiserver_flowcontrol_")), "{out}");
    }
}
