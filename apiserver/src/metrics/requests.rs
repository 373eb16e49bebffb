//! Series of requests (`endpoints/metrics/metrics.go`): how many, how long, how large, what is under way.
//!
//! Requests that reach a route are counted, as upstream's; those refused before are not.

use std::{
    cell::Cell,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::{HeaderMap, Method, header};
use tokio::time::Instant;

use super::{
    page::{Page, Type},
    series::{Counters, Family, Gauges, Held, Histogram, Histograms, Table},
};
use crate::{
    request::{Query, RequestInfo},
    trace::{Recording, Trace},
};

/// Bounds of `apiserver_request_duration_seconds`.
const DURATIONS: &[f64] =
    &[0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0];
/// Bounds of `apiserver_request_sli_duration_seconds`.
const SLI: &[f64] = &[0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0];
/// Bounds of `apiserver_watch_list_duration_seconds`.
const WATCH_LIST: &[f64] = &[
    0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0, 180.0,
    300.0,
];
const SIZES: &[f64] = &[1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
const EVENT_SIZES: &[f64] = &[1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0, 65536.0, 131_072.0];
/// From 0.05 MB on in steps of 0.1 MB.
const BODIES: &[f64] = &[
    50e3, 150e3, 250e3, 350e3, 450e3, 550e3, 650e3, 750e3, 850e3, 950e3, 1050e3, 1150e3, 1250e3, 1350e3, 1450e3, 1550e3, 1650e3, 1750e3,
    1850e3, 1950e3, 2050e3, 2150e3, 2250e3, 2350e3, 2450e3, 2550e3, 2650e3, 2750e3, 2850e3, 2950e3, 3050e3,
];

/// Answers that differ only in these are counted apart at most.
const CODES: usize = 16;

/// Watches and streams under way.
pub(crate) static LONG_RUNNING: Gauges<7> = Gauges::new(
    "apiserver_longrunning_requests",
    "[STABLE] Gauge of all active long-running apiserver requests broken out by verb, group, version, resource, scope and component. Not all requests are tracked this way.",
    ["verb", "group", "version", "resource", "subresource", "scope", "component"],
);

/// Requests given up in self-defence: too many, too slow.
pub(crate) static TERMINATIONS: Counters<8> = Counters::new(
    "apiserver_request_terminations_total",
    "[ALPHA] Number of requests which apiserver terminated in self-defense.",
    ["verb", "group", "version", "resource", "subresource", "scope", "component", "code"],
);

/// Bodies that were read.
pub(crate) static BODY_SIZES: Histograms<3> = Histograms::new(
    "apiserver_request_body_size_bytes",
    "[ALPHA] Apiserver request body size in bytes broken out by resource and verb.",
    ["group", "resource", "verb"],
    BODIES,
);

/// Events sent to watches.
pub(crate) static WATCH_EVENTS: Counters<3> =
    Counters::new("apiserver_watch_events_total", "[BETA] Number of events sent in watch clients", ["group", "version", "resource"]);

/// How large they were.
pub(crate) static WATCH_EVENT_SIZES: Histograms<3> = Histograms::new(
    "apiserver_watch_events_sizes",
    "[BETA] Watch event size distribution in bytes",
    ["group", "version", "resource"],
    EVENT_SIZES,
);

/// Objects of the state at the start of watches.
pub(crate) static INIT_EVENTS: Counters<2> = Counters::new(
    "apiserver_init_events_total",
    "[ALPHA] Counter of init events processed in watch cache broken by resource type.",
    ["group", "resource"],
);

/// How long the state at the start of a watch took to be sent, where the client asked for it.
pub(crate) static WATCH_LISTS: Histograms<4> = Histograms::new(
    "apiserver_watch_list_duration_seconds",
    "[BETA] Response latency distribution in seconds for watch list requests broken by group, version, resource and scope.",
    ["group", "version", "resource", "scope"],
    WATCH_LIST,
);

/// APIs on their way out that somebody still asks for.
pub(crate) static DEPRECATED: Gauges<5> = Gauges::new(
    "apiserver_requested_deprecated_apis",
    "[STABLE] Gauge of deprecated APIs that have been requested, broken out by API group, version, resource, subresource, and removed_release.",
    ["group", "version", "resource", "subresource", "removed_release"],
);

/// Requests by what they are: `apiserver_request_total` and its sisters, which share their labels and are found together.
pub(crate) static REQUESTS: Requests = Requests(Table::new());

/// The families of this file.
pub(super) static ALL: [&dyn Family; 9] =
    [&REQUESTS, &LONG_RUNNING, &TERMINATIONS, &BODY_SIZES, &WATCH_EVENTS, &WATCH_EVENT_SIZES, &INIT_EVENTS, &WATCH_LISTS, &DEPRECATED];

const LABELS: [&str; 8] = ["verb", "dry_run", "group", "version", "resource", "subresource", "scope", "component"];

/// See [`REQUESTS`].
pub(crate) struct Requests(Table<8, Answered>);

/// Requests with the same labels.
pub(crate) struct Answered {
    codes: [OnceLock<(u16, AtomicU64)>; CODES],
    took: Histogram,
    /// Less what others were waited for.
    sli: Histogram,
    size: OnceLock<Histogram>,
}

impl Answered {
    fn new() -> Self {
        Self {
            codes: [const { OnceLock::new() }; CODES],
            took: Histogram::of_seconds(DURATIONS),
            sli: Histogram::of_seconds(SLI),
            size: OnceLock::new(),
        }
    }

    fn count(&self, code: u16) {
        for place in &self.codes {
            let (there, count) = place.get_or_init(|| (code, AtomicU64::default()));
            if *there == code {
                count.fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
    }

    /// Sizes of what is read.
    fn sizes(&self) -> &Histogram {
        self.size.get_or_init(|| Histogram::of_bytes(SIZES))
    }
}

const TOTAL: (&str, &str) = (
    "apiserver_request_total",
    "[STABLE] Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code.",
);
const TOOK: (&str, &str) = (
    "apiserver_request_duration_seconds",
    "[STABLE] Response latency distribution in seconds for each verb, dry run value, group, version, resource, subresource, scope and component.",
);
const INDICATOR: (&str, &str) = (
    "apiserver_request_sli_duration_seconds",
    "[ALPHA] Response latency distribution (not counting webhook duration and priority & fairness queue wait times) in seconds for each verb, group, version, resource, subresource, scope and component.",
);
const SIZE: (&str, &str) = (
    "apiserver_response_sizes",
    "[STABLE] Response size distribution in bytes for each group, version, verb, resource, subresource, scope and component.",
);

impl Family for Requests {
    #[cfg(test)]
    fn abouts(&self) -> Vec<(&'static str, &'static str)> {
        vec![TOTAL, TOOK, INDICATOR, SIZE]
    }

    fn write(&self, page: &mut Page) {
        self.0.each(|labels, answered| {
            let mut total = page.family(TOTAL.0, Type::Counter, TOTAL.1);
            for (code, count) in answered.codes.iter().map_while(OnceLock::get) {
                let code = code.to_string();
                let mut pairs: Vec<(&str, &str)> = LABELS.into_iter().zip(labels.iter().map(|l| &**l)).collect();
                pairs.push(("code", &code));
                total.pairs(&pairs, count.load(Ordering::Relaxed) as f64);
            }
            page.family(TOOK.0, Type::Histogram, TOOK.1).histogram(&LABELS, labels, &answered.took);
            let (mut names, mut values) = (LABELS.to_vec(), labels.to_vec());
            names.remove(1);
            values.remove(1);
            page.family(INDICATOR.0, Type::Histogram, INDICATOR.1).histogram(&names, &values, &answered.sli);
            if let Some(size) = answered.size.get() {
                page.family(SIZE.0, Type::Histogram, SIZE.1).histogram(&names, &values, size);
            }
        });
    }
}

tokio::task_local! {
    static COURSE: Course;
}

/// What becomes known of a request on its way.
#[derive(Default)]
struct Course {
    /// It reached a route.
    routed: Cell<bool>,
    waits: Waits,
    trace: Trace,
}

/// What a request waited for that is not ours to hasten (`request.LatencyTrackers`).
#[derive(Default)]
struct Waits {
    /// One after the other: they add up.
    mutating: Cell<Duration>,
    /// At the same time: the longest counts.
    validating: Cell<Duration>,
    /// In a queue of fairness.
    queued: Cell<Duration>,
}

impl Waits {
    fn all(&self) -> Duration {
        self.mutating.get() + self.validating.get() + self.queued.get()
    }
}

/// What was waited for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wait {
    /// A mutating webhook.
    Mutating,
    /// A validating webhook.
    Validating,
    /// A seat (priority and fairness).
    Queue,
}

/// Notes that the request of this task waited so long; elsewhere it does nothing.
pub(crate) fn waited(what: Wait, time: Duration) {
    // Outside of a request nobody asks.
    let _ = COURSE.try_with(|course| {
        let Waits { mutating, validating, queued } = &course.waits;
        match what {
            Wait::Mutating => mutating.set(mutating.get() + time),
            Wait::Validating => validating.set(validating.get().max(time)),
            Wait::Queue => queued.set(queued.get() + time),
        }
    });
}

/// Notes that somebody serves what the request of this task asks for: only such requests are counted.
pub(crate) fn routed() {
    let _ = COURSE.try_with(|course| course.routed.set(true));
}

/// Shows the trace of the request of this task, if there is one.
pub(crate) fn traced<T>(see: impl FnOnce(&Trace) -> T) -> Option<T> {
    COURSE.try_with(|course| see(&course.trace)).ok()
}

/// What became of a request on its way.
#[derive(Debug)]
pub(crate) struct Tracked {
    /// It reached a route.
    pub(crate) routed: bool,
    /// How long it waited for others.
    pub(crate) waited: Duration,
    /// What was recorded of it.
    pub(crate) recording: Option<Recording>,
}

/// Runs a request that belongs to this trace. When it is dropped before it is answered, as its client has gone, it is counted as upstream
/// counts it: given up, with 504.
pub(crate) async fn tracked<T>(trace: Trace, labels: Option<Labels<'_>>, request: impl Future<Output = T>) -> (T, Tracked) {
    let counted = async {
        let unanswered = Unanswered { labels, started: Instant::now() };
        let made = request.await;
        unanswered.answered();
        let tracked =
            COURSE.with(|Course { routed, waits, trace }| Tracked { routed: routed.get(), waited: waits.all(), recording: trace.finish() });
        (made, tracked)
    };
    COURSE.scope(Course { trace, ..Course::default() }, counted).await
}

/// Held while a request has no answer.
struct Unanswered<'r> {
    labels: Option<Labels<'r>>,
    started: Instant,
}

impl Unanswered<'_> {
    fn answered(mut self) {
        self.labels = None;
    }
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        let Some(labels) = self.labels else { return };
        // A future that is dropped sees the course of its task still.
        let Ok((true, waited)) = COURSE.try_with(|course| (course.routed.get(), course.waits.all())) else { return };
        labels.terminated(504);
        if let Some(series) = labels.series() {
            series.count(504, self.started.elapsed(), waited);
        }
    }
}

/// What a request is counted as.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Labels<'r> {
    verb: &'static str,
    dry_run: &'static str,
    info: &'r RequestInfo,
    /// Of a path that is no object.
    path: &'static str,
    scope: &'static str,
}

/// Paths that are no objects and are counted nevertheless, and as what.
const COUNTED_PATHS: [(&str, &str); 4] =
    [("/healthz", "/healthz"), ("/livez", "/livez"), ("/readyz", "/readyz"), ("/openapi/v3", "openapi/v3")];

impl<'r> Labels<'r> {
    /// Of a request; `None` for paths that are not counted.
    pub(crate) fn of(info: &'r RequestInfo, method: &Method, query: &Query, headers: &HeaderMap) -> Option<Self> {
        let dry_run = match query.get("dryRun") {
            None => "",
            Some("All") => "All",
            Some(_) => "invalid",
        };
        if !info.is_resource {
            let (_, path) = COUNTED_PATHS.into_iter().find(|(path, _)| *path == info.path)?;
            return Some(Self { verb: "GET", dry_run, info, path, scope: "" });
        }
        let scope = match (info.name.is_empty() && info.verb != "create", info.namespace.is_empty()) {
            (false, _) => "resource",
            (true, false) => "namespace",
            (true, true) => "cluster",
        };
        Some(Self { verb: verb(info, method, scope, headers), dry_run, info, path: "", scope })
    }

    fn component(&self) -> &'static str {
        if self.info.is_resource { "apiserver" } else { "" }
    }

    fn subresource(&self) -> &str {
        if self.info.is_resource { &self.info.subresource } else { self.path }
    }

    /// `verb, group, version, resource, subresource, scope, component`
    fn seven(&self) -> [&str; 7] {
        let RequestInfo { group, version, resource, .. } = self.info;
        [self.verb, group, version, resource, self.subresource(), self.scope, self.component()]
    }

    /// Counts a request that was given up.
    pub(crate) fn terminated(&self, code: u16) {
        let [verb, group, version, resource, subresource, scope, component] = self.seven();
        let code = if code == 429 { "429" } else { "504" };
        TERMINATIONS.inc([verb, group, version, resource, subresource, scope, component, code]);
    }

    /// Counts a request among those under way until what is returned is dropped.
    pub(crate) fn under_way(&self) -> Option<Held> {
        LONG_RUNNING.hold(self.seven())
    }

    /// Notes how large the body was that a request brought.
    pub(crate) fn body(&self, size: usize) {
        let verb = match self.info.verb.as_str() {
            "create" => "create",
            "update" => "update",
            "patch" => "patch",
            "delete" => "delete",
            "deletecollection" => "delete_collection",
            _ => return,
        };
        BODY_SIZES.bytes([&self.info.group, &self.info.resource, verb], size as u64);
    }

    /// The request's series, to be written when it has ended.
    pub(crate) fn series(&self) -> Option<Ended> {
        let [verb, group, version, resource, subresource, scope, component] = self.seven();
        let answered = REQUESTS.0.get([verb, self.dry_run, group, version, resource, subresource, scope, component], Answered::new)?;
        Some(Ended { answered, reads: matches!(self.verb, "GET" | "LIST"), dry_run: !self.dry_run.is_empty() })
    }
}

/// The series of one request.
#[derive(Clone, Copy)]
pub(crate) struct Ended {
    answered: &'static Answered,
    reads: bool,
    dry_run: bool,
}

impl Ended {
    /// Counts the request. `waited` is how long of it others took.
    pub(crate) fn count(self, code: u16, took: Duration, waited: Duration) {
        self.answered.count(code);
        self.answered.took.took(took);
        if !self.dry_run {
            self.answered.sli.took(took.saturating_sub(waited));
        }
    }

    /// Where the size of the answer is noted, if it is.
    pub(crate) fn sizes(self) -> Option<&'static Histogram> {
        (self.reads && !self.dry_run).then(|| self.answered.sizes())
    }
}

/// Held by the body of an answer that goes on: the request has ended when it is dropped.
pub(crate) struct UnderWay {
    /// Where it is counted then.
    pub(crate) series: Option<Ended>,
    /// The code of its answer.
    pub(crate) code: u16,
    /// When it came.
    pub(crate) started: Instant,
    /// How long others took.
    pub(crate) waited: Duration,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if let Some(series) = self.series {
            series.count(self.code, self.started.elapsed(), self.waited);
        }
    }
}

/// The verb in upstream's words (`CanonicalVerb`, `CleanVerb`): a list is known by its scope, an apply by its type.
fn verb(info: &RequestInfo, method: &Method, scope: &str, headers: &HeaderMap) -> &'static str {
    if info.verb == "watch" {
        return "WATCH";
    }
    if matches!(info.subresource.as_str(), "log" | "exec" | "portforward" | "attach" | "proxy") {
        return "CONNECT";
    }
    match *method {
        Method::GET | Method::HEAD if scope == "resource" => "GET",
        Method::GET | Method::HEAD => "LIST",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::PATCH if headers.get(header::CONTENT_TYPE).is_some_and(|v| v == "application/apply-patch+yaml") => "APPLY",
        Method::PATCH => "PATCH",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(method: &Method, uri: &str) -> String {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let query = Query::parse(query);
        let info = RequestInfo::parse(method, path, &query).unwrap();
        let headers = HeaderMap::new();
        let labels = Labels::of(&info, method, &query, &headers);
        labels.map_or_else(String::new, |labels| format!("{}|{}", labels.seven().join("|"), labels.dry_run))
    }

    #[test]
    fn requests_are_counted_by_what_they_are_in_upstreams_words() {
        let cases = [
            (Method::GET, "/api/v1/pods", "LIST||v1|pods||cluster|apiserver|"),
            (Method::GET, "/api/v1/namespaces/a/pods/b", "GET||v1|pods||resource|apiserver|"),
            (Method::GET, "/api/v1/namespaces/a/pods?watch=1", "WATCH||v1|pods||namespace|apiserver|"),
            (Method::POST, "/apis/apps/v1/namespaces/a/deployments?dryRun=All", "POST|apps|v1|deployments||resource|apiserver|All"),
            (Method::DELETE, "/api/v1/namespaces/a/pods", "DELETE||v1|pods||namespace|apiserver|"),
            (Method::GET, "/api/v1/namespaces/a/pods/b/log", "CONNECT||v1|pods|log|resource|apiserver|"),
            (Method::GET, "/healthz", "GET||||/healthz|||"),
            (Method::GET, "/openapi/v3", "GET||||openapi/v3|||"),
            (Method::GET, "/version", ""),
        ];
        for (method, uri, expected) in cases {
            assert_eq!(counted(&method, uri), expected, "{method} {uri}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_nobody_waits_for_any_more_is_counted_as_given_up() {
        let query = Query::parse("");
        let info = RequestInfo::parse(&Method::POST, "/apis/example.com/v1/namespaces/a/abandoned", &query).unwrap();
        let labels = Labels::of(&info, &Method::POST, &query, &HeaderMap::new());
        let request = tracked(Trace::default(), labels, async {
            routed();
            std::future::pending::<()>().await;
        });
        assert!(tokio::time::timeout(Duration::from_millis(10), request).await.is_err());
        let given_up = TERMINATIONS.of(["POST", "example.com", "v1", "abandoned", "", "resource", "apiserver", "504"]);
        assert_eq!(given_up.unwrap().load(Ordering::Relaxed), 1);
        let ended = labels.unwrap().series().unwrap();
        assert_eq!(ended.answered.took.read().2, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_others_took_does_not_count_against_the_indicator() {
        let ((), Tracked { waited: others, routed: false, recording: None }) = tracked(Trace::default(), None, async {
            waited(Wait::Mutating, Duration::from_millis(30));
            waited(Wait::Mutating, Duration::from_millis(20));
            waited(Wait::Validating, Duration::from_millis(40));
            waited(Wait::Validating, Duration::from_millis(10));
        })
        .await
        else {
            panic!("nobody said that it was routed")
        };
        assert_eq!(others, Duration::from_millis(90));
        let answered = Answered::new();
        let ended = Ended { answered: Box::leak(Box::new(answered)), reads: false, dry_run: false };
        ended.count(200, Duration::from_millis(120), others);
        assert_eq!((ended.answered.took.read().1, ended.answered.sli.read().1), (0.12, 0.03));
    }
}
