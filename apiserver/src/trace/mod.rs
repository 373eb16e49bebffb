//! Traces: the W3C context of a request is taken and passed on to whom the server asks; where it is configured, spans of what happened on the way
//! are sent to a collector (`--tracing-config-file`, `endpoints/filters/traces.go`).
//!
//! | file | |
//! |---|---|
//! | `context` | `traceparent`: taken, made, told |
//! | `export` | spans as OTLP, sent in batches |
//!
//! Without a configuration a request costs the look at one header.

pub(crate) mod context;
mod export;

use std::{
    cell::RefCell,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, HeaderValue};
use serde::Deserialize;

use self::{context::Context, export::Exporter};
use crate::authn::User;

/// Where spans are sent, and of how many requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// `host:port` of a collector that speaks OTLP over gRPC in plaintext.
    pub endpoint: String,
    /// Of a million requests that come without a decision.
    pub per_million: u32,
}

/// Who may decide that their requests are recorded: others could fill the collector.
const TRUSTED: [&str; 2] = ["system:masters", "system:monitoring"];
/// Spans of one request, at most.
const SPANS: usize = 256;

/// Decides what is recorded, and sends it.
pub(crate) struct Tracer {
    per_million: u32,
    exporter: Exporter,
}

/// What happened, from when to when.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) name: String,
    id: [u8; 8],
    parent: Option<[u8; 8]>,
    start: SystemTime,
    end: SystemTime,
    attributes: Vec<(&'static str, String)>,
    failed: bool,
}

/// What is recorded of one request.
#[derive(Debug)]
pub(crate) struct Recording {
    context: Context,
    /// The span of the client, if it is believed.
    parent: Option<[u8; 8]>,
    start: SystemTime,
    spans: Vec<Span>,
}

/// The trace of a request on its way.
#[derive(Default, Debug)]
pub(crate) struct Trace(RefCell<State>);

#[derive(Default, Debug)]
enum State {
    /// Nobody asked for a trace.
    #[default]
    None,
    /// It is passed on as it came.
    Passing(Context),
    Recording(Box<Recording>),
}

/// `TracingConfiguration`
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Configuration {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    endpoint: Option<String>,
    sampling_rate_per_million: Option<i64>,
}

/// Where collectors listen.
const ENDPOINT: &str = "localhost:4317";

impl Options {
    /// Reads a `TracingConfiguration` (`apiserver.config.k8s.io`). The error is upstream's.
    pub fn parse(text: &str) -> Result<Self, String> {
        let first_line = |e: serde_saphyr::Error| e.to_string().lines().next().unwrap_or_default().to_owned();
        let read: Configuration = serde_saphyr::from_str(text)
            .map_err(|e| format!("failed to read tracing config: unable to decode tracing configuration data: {}", first_line(e)))?;
        let Configuration { api_version, kind, endpoint, sampling_rate_per_million: rate } = read;
        let versions = ["v1", "v1beta1", "v1alpha1"].map(|version| format!("apiserver.config.k8s.io/{version}"));
        if kind != "TracingConfiguration" || !versions.contains(&api_version) {
            return Err(format!(
                "failed to read tracing config: unable to decode tracing configuration data: no kind {kind:?} is registered for version {api_version:?}"
            ));
        }
        let wrong = |rate: i64, why: &str| {
            Err(format!("failed to validate tracing configuration: samplingRatePerMillion: Invalid value: {rate}: {why}"))
        };
        let per_million = match rate.unwrap_or_default() {
            rate if rate < 0 => return wrong(rate, "sampling rate must be positive"),
            rate if rate > 1_000_000 => return wrong(rate, "sampling rate per million must be less than or equal to one million"),
            rate => u32::try_from(rate).unwrap_or_default(),
        };
        let endpoint = endpoint.unwrap_or_else(|| ENDPOINT.to_owned());
        let host = endpoint.strip_prefix("http://").unwrap_or(&endpoint).trim_end_matches('/');
        if host.contains("://") || host.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
            return Err(format!(
                "failed to validate tracing configuration: endpoint: Invalid value: {endpoint:?}: must be host:port, in plaintext"
            ));
        }
        Ok(Self { endpoint: host.to_owned(), per_million })
    }
}

impl Tracer {
    /// Starts the sending. Must be called within a runtime.
    pub(crate) fn start(options: &Options) -> Self {
        Self { per_million: options.per_million, exporter: Exporter::start(&options.endpoint) }
    }

    /// Sends what was recorded of a request that has ended.
    pub(crate) fn end(&self, recording: Recording, name: String, attributes: Vec<(&'static str, String)>, failed: bool) {
        let Recording { context, parent, start, mut spans } = recording;
        spans.push(Span { name, id: context.span, parent, start, end: SystemTime::now(), attributes, failed });
        self.exporter.take(context.trace, spans);
    }

    /// Ends when what was recorded was sent, or could not be.
    pub(crate) async fn close(&self) {
        self.exporter.close().await;
    }
}

impl Trace {
    /// Takes the context a request came with.
    pub(crate) fn taken(headers: &HeaderMap) -> Self {
        Self(RefCell::new(Context::of(headers).map_or(State::None, State::Passing)))
    }

    /// Decides whether the request of this user is recorded.
    pub(crate) fn decide(&self, tracer: &Tracer, user: &User, took: Duration) {
        let remote = match &*self.0.borrow() {
            State::Passing(context) => Some(*context),
            _ => None,
        };
        let believed = remote.filter(|_| user.groups.iter().any(|group| TRUSTED.contains(&&**group)));
        let Some(mut context) = Context::new(believed) else { return };
        context.sampled = believed.is_some_and(|context| context.sampled) || context.is_among(tracer.per_million);
        let state = if context.sampled {
            let start = SystemTime::now() - took;
            State::Recording(Box::new(Recording { context, parent: believed.map(|context| context.span), start, spans: Vec::new() }))
        } else {
            State::Passing(context)
        };
        *self.0.borrow_mut() = state;
    }

    /// Notes what took so long and has just ended.
    pub(crate) fn note(&self, name: &str, took: Duration, failed: bool, attributes: &[(&'static str, &str)]) {
        if let State::Recording(recording) = &mut *self.0.borrow_mut()
            && recording.spans.len() < SPANS
            && let Some(id) = context::id()
        {
            let end = SystemTime::now();
            let attributes = attributes.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
            let parent = Some(recording.context.span);
            recording.spans.push(Span { name: name.to_owned(), id, parent, start: end - took, end, attributes, failed });
        }
    }

    /// What whoever is asked next is told.
    pub(crate) fn parent(&self) -> Option<HeaderValue> {
        match &*self.0.borrow() {
            State::None => None,
            State::Passing(context) => context.header(),
            State::Recording(recording) => recording.context.header(),
        }
    }

    /// Ends it.
    pub(crate) fn finish(&self) -> Option<Recording> {
        match self.0.take() {
            State::Recording(recording) => Some(*recording),
            _ => None,
        }
    }
}

/// A request's span as upstream names it (`getSpanNameFromRequestInfo`).
pub(crate) fn name(method: &http::Method, info: &crate::request::RequestInfo) -> String {
    if !info.is_resource {
        return method.to_string();
    }
    let mut name = format!("{method} {}", if info.group.is_empty() { "/api" } else { "/apis" });
    let mut part = |part: &str| {
        name.push('/');
        name.push_str(part);
    };
    if !info.group.is_empty() {
        part(&info.group);
    }
    part(&info.version);
    if !info.namespace.is_empty() {
        part("namespaces/{:namespace}");
    }
    part(&info.resource);
    if !info.name.is_empty() {
        part("{:name}");
    }
    if !info.subresource.is_empty() {
        part(&info.subresource);
    }
    name
}

/// What sends spans, if something does.
pub(crate) type Tracing = Option<Arc<Tracer>>;

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn headers(parent: &'static str) -> HeaderMap {
        [(http::HeaderName::from_static("traceparent"), HeaderValue::from_static(parent))].into_iter().collect()
    }

    #[tokio::test]
    async fn a_trace_is_passed_on_as_it_came_and_recorded_only_of_those_who_may_ask_for_it() {
        let trace = Trace::taken(&headers(GIVEN));
        assert_eq!(trace.parent().unwrap(), GIVEN);
        let tracer = Tracer::start(&Options { endpoint: "127.0.0.1:1".into(), per_million: 0 });
        trace.decide(&tracer, &User::new("jane", &[]), Duration::ZERO);
        let told = trace.parent().unwrap();
        assert!(told.to_str().unwrap().ends_with("-00") && !told.to_str().unwrap().contains("0af7651916cd43dd"), "{told:?}");
        assert!(trace.finish().is_none());
        let trace = Trace::taken(&headers(GIVEN));
        trace.decide(&tracer, &User::new("admin", &["system:masters"]), Duration::ZERO);
        trace.note("Authenticate", Duration::from_millis(2), false, &[]);
        let told = trace.parent().unwrap().to_str().unwrap().to_owned();
        assert!(told.starts_with(&GIVEN[..36]) && told.ends_with("-01") && told != GIVEN, "{told}");
        let recording = trace.finish().unwrap();
        assert_eq!(recording.parent.map(|id| id[0]), Some(0xb7));
        assert_eq!((recording.spans.len(), recording.spans[0].parent), (1, Some(recording.context.span)));
    }

    #[test]
    fn the_configuration_is_upstreams() {
        let of = |rest: &str| Options::parse(&format!("apiVersion: apiserver.config.k8s.io/v1\nkind: TracingConfiguration\n{rest}"));
        assert_eq!(of(""), Ok(Options { endpoint: "localhost:4317".into(), per_million: 0 }));
        assert_eq!(
            of("endpoint: 10.0.0.1:4317\nsamplingRatePerMillion: 100"),
            Ok(Options { endpoint: "10.0.0.1:4317".into(), per_million: 100 })
        );
        let wrong = of("samplingRatePerMillion: 1000001").unwrap_err();
        assert_eq!(
            wrong,
            "failed to validate tracing configuration: samplingRatePerMillion: Invalid value: 1000001: sampling rate per million must be less than or equal to one million"
        );
        assert!(of("samplingRatePerMillion: -1").unwrap_err().ends_with("sampling rate must be positive"));
        assert!(of("endpoint: https://x:1").is_err() && of("nonsense: 1").is_err() && Options::parse("kind: Pod").is_err());
    }

    #[test]
    fn spans_are_named_without_names_of_objects() {
        let named = |path: &str| {
            let query = crate::request::Query::default();
            name(&http::Method::GET, &crate::request::RequestInfo::parse(&http::Method::GET, path, &query).unwrap())
        };
        assert_eq!(named("/api/v1/namespaces/a/pods/b/log"), "GET /api/v1/namespaces/{:namespace}/pods/{:name}/log");
        assert_eq!(named("/apis/apps/v1/deployments"), "GET /apis/apps/v1/deployments");
        assert_eq!(named("/version"), "GET");
    }
}
