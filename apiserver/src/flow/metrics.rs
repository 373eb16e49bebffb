//! What is counted of flow control, under upstream's names (`flowcontrol/metrics`).

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
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
const SECONDS: [f64; 13] = [0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0];
const LENGTHS: [f64; 8] = [0.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0];
const SEATS: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 100.0];
const WATCHES: [f64; 6] = [0.0, 1.0, 10.0, 100.0, 1000.0, 10000.0];

/// How often a value was how large.
#[derive(Debug)]
struct Histogram<const N: usize> {
    bounds: &'static [f64; N],
    counts: [AtomicU64; N],
    more: AtomicU64,
    /// In billionths.
    sum: AtomicU64,
}

impl<const N: usize> Histogram<N> {
    fn new(bounds: &'static [f64; N]) -> Self {
        Self { bounds, counts: std::array::from_fn(|_| AtomicU64::new(0)), more: AtomicU64::new(0), sum: AtomicU64::new(0) }
    }

    fn note(&self, value: f64) {
        let count = self.bounds.iter().position(|bound| value <= *bound).map_or(&self.more, |at| &self.counts[at]);
        count.fetch_add(1, Relaxed);
        self.sum.fetch_add((value * 1e9) as u64, Relaxed);
    }

    fn write(&self, out: &mut String, name: &str, labels: &str) {
        let mut total = 0;
        for (bound, count) in self.bounds.iter().zip(&self.counts) {
            total += count.load(Relaxed);
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {total}");
        }
        total += self.more.load(Relaxed);
        if total == 0 {
            // A series begins with what it first counts.
            let begun = out.rmatch_indices('\n').nth(N).map_or(0, |(at, _)| at + 1);
            out.truncate(begun);
            return;
        }
        let _ = writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {total}");
        let _ = writeln!(out, "{name}_sum{{{labels}}} {}", self.sum.load(Relaxed) as f64 / 1e9);
        let _ = writeln!(out, "{name}_count{{{labels}}} {total}");
    }
}

/// What is counted of one schema at one level.
#[derive(Debug)]
pub(super) struct Counts {
    in_queue: [AtomicI64; 2],
    executing: [AtomicI64; 2],
    dispatched: AtomicU64,
    rejected: [AtomicU64; 4],
    unaccommodated: AtomicU64,
    waited: [Histogram<13>; 2],
    executed: [Histogram<13>; 2],
    lengths: Histogram<8>,
    seats: Histogram<8>,
    watches: Histogram<6>,
}

impl Default for Counts {
    fn default() -> Self {
        let seconds = || [Histogram::new(&SECONDS), Histogram::new(&SECONDS)];
        Self {
            in_queue: Default::default(),
            executing: Default::default(),
            dispatched: AtomicU64::new(0),
            rejected: Default::default(),
            unaccommodated: AtomicU64::new(0),
            waited: seconds(),
            executed: seconds(),
            lengths: Histogram::new(&LENGTHS),
            seats: Histogram::new(&SEATS),
            watches: Histogram::new(&WATCHES),
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
        self.waited[usize::from(executed)].note(time.as_secs_f64());
    }

    pub(super) fn executed(&self, watch: bool, time: Duration) {
        self.executed[usize::from(watch)].note(time.as_secs_f64());
    }

    pub(super) fn length(&self, length: usize) {
        self.lengths.note(length as f64);
    }

    pub(super) fn estimated(&self, seats: usize) {
        self.seats.note(seats as f64);
    }

    pub(super) fn watched(&self, watches: usize) {
        self.watches.note(watches as f64);
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

/// Labels of a schema's series, and its counts.
type Series = (String, Arc<Counts>);

/// Writes one family: its head, then a line or more for each series.
fn family(out: &mut String, (name, kind, help): (&str, &str, &str), series: &[Series], line: impl Fn(&mut String, &str, &str, &Counts)) {
    let name = format!("apiserver_flowcontrol_{name}");
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    for (labels, counts) in series {
        line(out, &name, labels, counts);
    }
}

/// The part of `/metrics` about schemas; `all` are the counts by level and schema.
pub(super) fn write_schemas(out: &mut String, all: &BTreeMap<(String, String), Arc<Counts>>) {
    let series: Vec<Series> = all
        .iter()
        .map(|((level, schema), counts)| (format!("flow_schema=\"{schema}\",priority_level=\"{level}\""), Arc::clone(counts)))
        .collect();
    let value = |of: fn(&Counts) -> i64| {
        move |out: &mut String, name: &str, labels: &str, counts: &Counts| {
            let _ = writeln!(out, "{name}{{{labels}}} {}", of(counts));
        }
    };
    let gauge = |name, help| (name, "gauge", help);
    let pending = "Number of requests currently pending in queues of the API Priority and Fairness subsystem";
    family(out, gauge("current_inqueue_requests", pending), &series, value(|c| c.in_queue[0].load(Relaxed)));
    let pending = "Number of seats currently pending in queues of the API Priority and Fairness subsystem";
    family(out, gauge("current_inqueue_seats", pending), &series, value(|c| c.in_queue[1].load(Relaxed)));
    let running =
        "Number of requests in initial (for a WATCH) or any (for a non-WATCH) execution stage in the API Priority and Fairness subsystem";
    family(out, gauge("current_executing_requests", running), &series, value(|c| c.executing[0].load(Relaxed)));
    let running = "Concurrency (number of seats) occupied by the currently executing (initial stage for a WATCH, any stage otherwise) requests in the API Priority and Fairness subsystem";
    family(out, gauge("current_executing_seats", running), &series, value(|c| c.executing[1].load(Relaxed)));
    let done = ("dispatched_requests_total", "counter", "Number of requests executed by API Priority and Fairness subsystem");
    family(out, done, &series, value(|c| c.dispatched.load(Relaxed) as i64));
    let refused = ("rejected_requests_total", "counter", "Number of requests rejected by API Priority and Fairness subsystem");
    family(out, refused, &series, |out, name, labels, counts| {
        for (reason, count) in REASONS.iter().zip(&counts.rejected).filter(|(_, count)| count.load(Relaxed) > 0) {
            let _ = writeln!(out, "{name}{{{labels},reason=\"{reason}\"}} {}", count.load(Relaxed));
        }
    });
    let stuck = "Number of times a dispatch attempt resulted in a non accommodation due to lack of available seats";
    let stuck = ("request_dispatch_no_accommodation_total", "counter", stuck);
    family(out, stuck, &series, value(|c| c.unaccommodated.load(Relaxed) as i64));
    let waited = ("request_wait_duration_seconds", "histogram", "Length of time a request spent waiting in its queue");
    family(out, waited, &series, |out, name, labels, counts| {
        for (executed, histogram) in ["false", "true"].iter().zip(&counts.waited) {
            histogram.write(out, name, &format!("{labels},execute=\"{executed}\""));
        }
    });
    let executed = "Duration of initial stage (for a WATCH) or any (for a non-WATCH) stage of request execution in the API Priority and Fairness subsystem";
    family(out, ("request_execution_seconds", "histogram", executed), &series, |out, name, labels, counts| {
        for (kind, histogram) in ["regular", "watch"].iter().zip(&counts.executed) {
            histogram.write(out, name, &format!("{labels},type=\"{kind}\""));
        }
    });
    let length = "Length of queue in the API Priority and Fairness subsystem, as seen by each request after it is enqueued";
    family(out, ("request_queue_length_after_enqueue", "histogram", length), &series, |out, name, labels, c| {
        c.lengths.write(out, name, labels);
    });
    let seats = "Number of estimated seats (maximum of initial and final seats) associated with requests in API Priority and Fairness";
    family(out, ("work_estimated_seats", "histogram", seats), &series, |out, name, labels, c| {
        c.seats.write(out, name, labels);
    });
    let watches = "count of watchers for mutating requests in API Priority and Fairness";
    family(out, ("watch_count_samples", "histogram", watches), &series, |out, name, labels, c| {
        c.watches.write(out, name, labels);
    });
}

/// The part of `/metrics` about levels.
pub(super) fn write_levels(out: &mut String, all: &[(String, Figures)], fair: f64) {
    type Of = fn(&Figures) -> f64;
    let families: [(&str, &str, Of); 9] = [
        ("nominal_limit_seats", "Nominal number of execution seats configured for each priority level", |f| f.nominal as f64),
        ("lower_limit_seats", "Configured lower bound on number of execution seats available to each priority level", |f| f.lower as f64),
        ("upper_limit_seats", "Configured upper bound on number of execution seats available to each priority level", |f| f.upper as f64),
        ("current_limit_seats", "current derived number of execution seats available to each priority level", |f| f.current as f64),
        ("demand_seats_high_watermark", "High watermark, over last adjustment period, of demand_seats", |f| f.demand.most as f64),
        ("demand_seats_average", "Time-weighted average, over last adjustment period, of demand_seats", |f| f.demand.average),
        ("demand_seats_stdev", "Time-weighted standard deviation, over last adjustment period, of demand_seats", |f| f.demand.deviation),
        ("demand_seats_smoothed", "Smoothed seat demands", |f| f.demand.smoothed),
        ("target_seats", "Seat allocation targets", |f| f.target),
    ];
    for (name, help, of) in families {
        let name = format!("apiserver_flowcontrol_{name}");
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (level, figures) in all {
            let _ = writeln!(out, "{name}{{priority_level=\"{level}\"}} {}", of(figures));
        }
    }
    let name = "apiserver_flowcontrol_seat_fair_frac";
    let help = "Fair fraction of server's concurrency to allocate to each priority level that can use it";
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {fair}");
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
        let mut out = String::new();
        write_schemas(&mut out, &[(("low".to_owned(), "all".to_owned()), counts)].into());
        let labels = "flow_schema=\"all\",priority_level=\"low\"";
        let name = "apiserver_flowcontrol_request_wait_duration_seconds";
        assert!(out.contains(&format!("{name}_bucket{{{labels},execute=\"true\",le=\"0.02\"}} 0\n")), "{out}");
        assert!(out.contains(&format!("{name}_bucket{{{labels},execute=\"true\",le=\"0.05\"}} 1\n")));
        assert!(out.contains(&format!("{name}_count{{{labels},execute=\"true\"}} 2\n")));
        assert!(!out.contains("execute=\"false\""));
        assert!(out.contains(&format!("rejected_requests_total{{{labels},reason=\"queue-full\"}} 1\n")));
        assert!(out.lines().all(|line| line.starts_with('#') || line.starts_with("apiserver_flowcontrol_")), "{out}");
    }
}
