//! Counts and durations of requests, in the Prometheus text format, under kube-apiserver's names.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use parking_lot::Mutex;

use super::{RequestInfo, limits::Limits};

/// Upper bounds of the duration buckets, in seconds.
const BUCKETS: [f64; 10] = [0.005, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

/// What was answered so far.
#[derive(Debug, Default)]
pub struct Metrics(Mutex<BTreeMap<String, Series>>);

/// Requests that share their labels but the code.
#[derive(Debug, Default)]
struct Series {
    codes: BTreeMap<u16, u64>,
    buckets: [u64; BUCKETS.len()],
    count: u64,
    seconds: f64,
}

impl Metrics {
    /// Notes an answered request.
    pub fn observe(&self, info: &RequestInfo, code: u16, took: Duration) {
        let labels = labels(info);
        let mut all = self.0.lock();
        let series = match all.get_mut(&labels) {
            Some(series) => series,
            None => all.entry(labels).or_default(),
        };
        *series.codes.entry(code).or_default() += 1;
        if info.is_long_running() {
            return;
        }
        let seconds = took.as_secs_f64();
        series.count += 1;
        series.seconds += seconds;
        for (bucket, bound) in series.buckets.iter_mut().zip(BUCKETS) {
            *bucket += u64::from(seconds <= bound);
        }
    }

    /// The document at `/metrics`.
    pub fn render(&self, limits: &Limits) -> String {
        let mut out = String::new();
        self.write_requests(&mut out);
        let (reads, writes, long) = limits.in_flight();
        out.push_str(
            "# HELP apiserver_current_inflight_requests Requests in flight by kind.\n# TYPE apiserver_current_inflight_requests gauge\n",
        );
        let _ = writeln!(out, "apiserver_current_inflight_requests{{request_kind=\"mutating\"}} {writes}");
        let _ = writeln!(out, "apiserver_current_inflight_requests{{request_kind=\"readOnly\"}} {reads}");
        out.push_str("# HELP apiserver_longrunning_requests Watches and streams in flight.\n# TYPE apiserver_longrunning_requests gauge\n");
        let _ = writeln!(out, "apiserver_longrunning_requests {long}");
        process(&mut out);
        out
    }

    fn write_requests(&self, out: &mut String) {
        let all = self.0.lock();
        out.push_str("# HELP apiserver_request_total Requests answered.\n# TYPE apiserver_request_total counter\n");
        for (labels, series) in all.iter() {
            for (code, count) in &series.codes {
                let _ = writeln!(out, "apiserver_request_total{{code=\"{code}\",{labels}}} {count}");
            }
        }
        out.push_str("# HELP apiserver_request_duration_seconds Time to answer.\n# TYPE apiserver_request_duration_seconds histogram\n");
        for (labels, series) in all.iter().filter(|(_, s)| s.count > 0) {
            for (bucket, bound) in series.buckets.iter().zip(BUCKETS) {
                let _ = writeln!(out, "apiserver_request_duration_seconds_bucket{{{labels},le=\"{bound}\"}} {bucket}");
            }
            let _ = writeln!(out, "apiserver_request_duration_seconds_bucket{{{labels},le=\"+Inf\"}} {}", series.count);
            let _ = writeln!(out, "apiserver_request_duration_seconds_sum{{{labels}}} {}", series.seconds);
            let _ = writeln!(out, "apiserver_request_duration_seconds_count{{{labels}}} {}", series.count);
        }
    }
}

/// Labels of a request. Names of objects and paths are not among them: their number has no bound.
fn labels(info: &RequestInfo) -> String {
    let verb = match info.verb.as_str() {
        "get" => "GET",
        "list" => "LIST",
        "watch" => "WATCH",
        "create" => "POST",
        "update" => "PUT",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        _ => "other",
    };
    if !info.is_resource {
        return format!("component=\"apiserver\",group=\"\",resource=\"\",scope=\"\",subresource=\"\",verb=\"{verb}\",version=\"\"");
    }
    let scope = match (info.name.is_empty(), info.namespace.is_empty()) {
        (false, _) => "resource",
        (true, false) => "namespace",
        (true, true) => "cluster",
    };
    let (group, resource, part, version) = (&info.group, &info.resource, &info.subresource, &info.version);
    format!(
        "component=\"apiserver\",group=\"{group}\",resource=\"{resource}\",scope=\"{scope}\",subresource=\"{part}\",verb=\"{verb}\",version=\"{version}\""
    )
}

/// Memory and CPU of this process, where the kernel tells.
fn process(out: &mut String) {
    let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else { return };
    // After the command's closing parenthesis: state is field 3, utime 14, stime 15, rss 24 (pages).
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let number = |n: usize| fields.get(n - 3).and_then(|f| f.parse::<f64>().ok()).unwrap_or_default();
    let _ = writeln!(out, "# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total {}", (number(14) + number(15)) / 100.0);
    let _ = writeln!(out, "# TYPE process_resident_memory_bytes gauge\nprocess_resident_memory_bytes {}", number(24) * 4096.0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_what_they_are() {
        let metrics = Metrics::default();
        let info =
            RequestInfo { is_resource: true, verb: "list".into(), resource: "pods".into(), version: "v1".into(), ..RequestInfo::default() };
        metrics.observe(&info, 200, Duration::from_millis(30));
        metrics.observe(&info, 200, Duration::from_millis(3));
        let text = metrics.render(&Limits::new(1, 1));
        let labels = "component=\"apiserver\",group=\"\",resource=\"pods\",scope=\"cluster\",subresource=\"\",verb=\"LIST\",version=\"v1\"";
        assert!(text.contains(&format!("apiserver_request_total{{code=\"200\",{labels}}} 2")), "{text}");
        assert!(text.contains(&format!("apiserver_request_duration_seconds_bucket{{{labels},le=\"0.005\"}} 1")), "{text}");
    }
}
