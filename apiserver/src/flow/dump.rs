//! `/debug/api_priority_and_fairness/…`: the levels, queues and requests as they are now (upstream `flowcontrol/apf_controller_debug.go`).

use std::time::Duration;

use coracle_schema::discovery::group_version;
use jiff::Timestamp;
use tokio::time::Instant;

use super::{Flow, queues::Entry};

/// A table: its columns in order.
type Table = Vec<Vec<String>>;

fn head(columns: &[&str]) -> Table {
    vec![columns.iter().map(|column| (*column).to_owned()).collect()]
}

/// As Go's tabwriter sets it: columns as wide as their widest cell, at least eight, the last as it is.
fn written(table: &Table) -> String {
    let columns = table.first().map_or(0, Vec::len);
    let mut widths = vec![8; columns];
    for row in table {
        for (width, cell) in widths.iter_mut().zip(row).take(columns.saturating_sub(1)) {
            *width = (*width).max(cell.chars().count() + 2);
        }
    }
    let mut out = String::new();
    for row in table {
        for (at, (cell, width)) in row.iter().zip(&widths).enumerate() {
            if at + 1 == columns {
                out.push_str(cell);
            } else {
                let cell = format!("{cell},");
                out.push_str(&format!("{cell:width$}"));
            }
        }
        out.push('\n');
    }
    out
}

/// Virtual time, as upstream prints it.
fn seat_seconds(nanos: i128) -> String {
    let hundred_millionths = nanos.div_euclid(10);
    format!("{}.{:08}ss", hundred_millionths.div_euclid(100_000_000), hundred_millionths.rem_euclid(100_000_000))
}

/// Go's form of a short duration.
fn duration(of: Duration) -> String {
    match of.as_nanos() {
        0 => "0s".to_owned(),
        nanos if nanos < 1_000_000 => format!("{}µs", nanos as f64 / 1e3),
        nanos if nanos < 1_000_000_000 => format!("{}ms", nanos as f64 / 1e6),
        nanos => format!("{}s", nanos as f64 / 1e9),
    }
}

impl Flow {
    /// A row for each level.
    pub(crate) fn dump_levels(&self) -> String {
        let mut table = head(&[
            "PriorityLevelName",
            "ActiveQueues",
            "IsIdle",
            "IsQuiescing",
            "WaitingRequests",
            "ExecutingRequests",
            "DispatchedRequests",
            "RejectedRequests",
            "TimedoutRequests",
            "CancelledRequests",
        ]);
        for (name, level) in &self.config().levels {
            let state = level.state.lock();
            let active = state.queues.lines().iter().filter(|line| !line.waiting.is_empty()).count();
            let totals = state.queues.totals;
            let mut row = vec![name.clone(), active.to_string(), state.queues.is_idle().to_string(), state.quiescing.to_string()];
            row.extend([totals.waiting, totals.executing].map(|n| n.to_string()));
            row.extend([totals.dispatched, totals.rejected, totals.timed_out, totals.cancelled].map(|n| n.to_string()));
            table.push(row);
        }
        written(&table)
    }

    /// A row for each queue.
    pub(crate) fn dump_queues(&self) -> String {
        let mut table = head(&[
            "PriorityLevelName",
            "Index",
            "PendingRequests",
            "ExecutingRequests",
            "SeatsInUse",
            "NextDispatchR",
            "InitialSeatsSum",
            "MaxSeatsSum",
            "TotalWorkSum",
        ]);
        for (name, level) in &self.config().levels {
            let state = level.state.lock();
            for (index, line) in state.queues.lines().iter().enumerate() {
                let initial: u64 = line.waiting.iter().map(|entry| entry.estimate.initial).sum();
                let most: usize = line.waiting.iter().map(|entry| entry.estimate.seats()).sum();
                table.push(vec![
                    name.clone(),
                    index.to_string(),
                    line.waiting.len().to_string(),
                    line.executing.len().to_string(),
                    line.seats_in_use.to_string(),
                    seat_seconds(line.next),
                    initial.to_string(),
                    most.to_string(),
                    seat_seconds(line.work),
                ]);
            }
        }
        written(&table)
    }

    /// A row for each request; `details` are who asks for what.
    pub(crate) fn dump_requests(&self, details: bool, now: Timestamp) -> String {
        let mut columns = vec![
            "PriorityLevelName",
            "FlowSchemaName",
            "QueueIndex",
            "RequestIndexInQueue",
            "FlowDistingsher",
            "ArriveTime",
            "InitialSeats",
            "FinalSeats",
            "AdditionalLatency",
            "StartTime",
        ];
        if details {
            columns.extend(["UserName", "Verb", "APIPath", "Namespace", "Name", "APIVersion", "Resource", "SubResource"]);
        }
        let mut table = head(&columns);
        let clock = (now, Instant::now());
        for (name, level) in &self.config().levels {
            let state = level.state.lock();
            for (queue, line) in state.queues.lines().iter().enumerate() {
                for (at, entry) in line.waiting.iter().enumerate() {
                    table.push(row(name, (queue.to_string(), at.to_string()), entry, details, clock));
                }
                for entry in &line.executing {
                    table.push(row(name, (queue.to_string(), "-1".to_owned()), entry, details, clock));
                }
            }
            for entry in state.queues.direct() {
                table.push(row(name, ("-1".to_owned(), "-1".to_owned()), entry, details, clock));
            }
        }
        written(&table)
    }
}

fn row(level: &str, (queue, at): (String, String), entry: &Entry, details: bool, clock: (Timestamp, Instant)) -> Vec<String> {
    let time = |then: Instant| (clock.0 - clock.1.saturating_duration_since(then)).to_string();
    let mut row = vec![
        level.to_owned(),
        entry.schema.name.clone(),
        queue,
        at,
        entry.schema.flow(&entry.user, &entry.info).to_owned(),
        time(entry.arrived),
        entry.estimate.initial.to_string(),
        entry.estimate.last.to_string(),
        duration(entry.estimate.latency),
        entry.started.map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), time),
    ];
    if details {
        let info = &entry.info;
        row.extend([&entry.user.name, info.verb.as_str(), &info.path, &info.namespace, &info.name].map(ToOwned::to_owned));
        row.push(group_version(&info.group, &info.version));
        row.extend([info.resource.clone(), info.subresource.clone()]);
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_set_as_go_sets_them() {
        let table = vec![vec!["a".to_owned(), "long-cell".to_owned(), "c".to_owned()], vec!["bb".into(), "x".into(), "last one".into()]];
        assert_eq!(written(&table), "a,      long-cell, c\nbb,     x,         last one\n");
        assert_eq!(
            [seat_seconds(0), seat_seconds(3_000_000), seat_seconds(12_345_678_901)].join(" "),
            "0.00000000ss 0.00300000ss 12.34567890ss"
        );
        assert_eq!([0, 5_000_000, 1_500_000_000].map(|n| duration(Duration::from_nanos(n))).join(" "), "0s 5ms 1.5s");
    }
}
