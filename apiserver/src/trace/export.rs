//! Spans as OTLP (`opentelemetry.proto.collector.trace.v1`), sent over gRPC in batches. What a slow collector does not take is lost.

use std::time::{Duration, SystemTime};

use tokio::{sync::mpsc, time::Instant};
use tracing::debug;

use super::Span;
use crate::{webhook::grpc::Client, wire::message::Writer};

/// Requests whose spans wait to be sent, and how many go at once.
const WAITING: usize = 2048;
const AT_ONCE: usize = 512;
/// How long fewer wait (OpenTelemetry's default), and how long sending may take.
const PAUSE: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(10);
const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// A request's trace and its spans.
type Spans = ([u8; 16], Vec<Span>);

/// What waits to be sent.
pub(super) struct Exporter(mpsc::Sender<Spans>);

impl Exporter {
    pub(super) fn start(endpoint: &str) -> Self {
        let (waiting, spans) = mpsc::channel(WAITING);
        tokio::spawn(run(Client::tcp(endpoint, PATIENCE), spans));
        Self(waiting)
    }

    pub(super) fn take(&self, trace: [u8; 16], spans: Vec<Span>) {
        if self.0.try_send((trace, spans)).is_err() {
            debug!("spans of a request are lost: too many wait to be sent");
        }
    }
}

/// Ends with the exporter.
async fn run(client: Client, mut waiting: mpsc::Receiver<Spans>) {
    let mut batch = Vec::new();
    let instance = uuid::Uuid::new_v4().to_string();
    while let Some(first) = waiting.recv().await {
        batch.push(first);
        let until = Instant::now() + PAUSE;
        while batch.len() < AT_ONCE {
            match tokio::time::timeout_at(until, waiting.recv()).await {
                Ok(Some(more)) => batch.push(more),
                Ok(None) | Err(_) => break,
            }
        }
        if let Err(error) = client.call(EXPORT, &request(&batch, &instance)).await {
            debug!(%error, requests = batch.len(), "spans could not be sent");
        }
        batch.clear();
    }
}

/// `ExportTraceServiceRequest`
fn request(batch: &[Spans], instance: &str) -> Vec<u8> {
    let resource =
        Writer::default().message(1, &attribute("service.name", "apiserver")).message(1, &attribute("service.instance.id", instance));
    let scope = Writer::default().bytes(1, b"k8s.io/apiserver");
    let mut of_scope = Writer::default().message(1, &scope);
    for (trace, spans) in batch {
        for span in spans {
            of_scope = of_scope.message(2, &message(trace, span));
        }
    }
    Writer::default().message(1, &Writer::default().message(1, &resource).message(2, &of_scope)).finish()
}

/// `Span`; the request itself is of the kind SERVER, its parts are INTERNAL.
fn message(trace: &[u8; 16], span: &Span) -> Writer {
    let nanos = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    let kind = if span.attributes.iter().any(|(name, _)| *name == "http.request.method") { 2 } else { 1 };
    let mut message = Writer::default().bytes(1, trace).bytes(2, &span.id);
    if let Some(parent) = &span.parent {
        message = message.bytes(4, parent);
    }
    message = message.bytes(5, span.name.as_bytes()).number(6, kind).fixed(7, nanos(span.start)).fixed(8, nanos(span.end));
    for (name, value) in &span.attributes {
        message = message.message(9, &attribute(name, value));
    }
    if span.failed { message.message(15, &Writer::default().number(3, 2)) } else { message }
}

/// `KeyValue` with a text.
fn attribute(name: &str, value: &str) -> Writer {
    Writer::default().bytes(1, name.as_bytes()).message(2, &Writer::default().bytes(1, value.as_bytes()))
}
