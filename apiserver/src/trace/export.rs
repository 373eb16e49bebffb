//! Spans as OTLP (`opentelemetry.proto.collector.trace.v1`), sent over gRPC in batches. What a slow collector does not take is lost.

use std::time::{Duration, SystemTime};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
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
pub(super) struct Exporter {
    waiting: mpsc::Sender<Spans>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Exporter {
    /// Must be called within a runtime.
    pub(super) fn start(endpoint: &str) -> Self {
        let (waiting, spans) = mpsc::channel(WAITING);
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn(run(Client::tcp(endpoint, PATIENCE), spans, stop.clone()));
        Self { waiting, stop, tasks }
    }

    pub(super) fn take(&self, trace: [u8; 16], spans: Vec<Span>) {
        if self.waiting.try_send((trace, spans)).is_err() {
            debug!("spans of a request are lost: too many wait to be sent");
        }
    }

    /// Ends when what waits was sent, or could not be.
    pub(super) async fn close(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Ends with the exporter, or after `stop` when nothing waits any more.
async fn run(client: Client, mut waiting: mpsc::Receiver<Spans>, stop: CancellationToken) {
    let mut batch = Vec::new();
    let instance = uuid::Uuid::new_v4().to_string();
    loop {
        gather(&mut batch, &mut waiting, &stop).await;
        if batch.is_empty() {
            return;
        }
        if let Err(error) = client.call(EXPORT, &request(&batch, &instance)).await {
            debug!(%error, requests = batch.len(), "spans could not be sent");
        }
        batch.clear();
    }
}

/// As many as go at once, or what there is after a while or at the end. Nothing: nothing more will come.
async fn gather(batch: &mut Vec<Spans>, waiting: &mut mpsc::Receiver<Spans>, stop: &CancellationToken) {
    let mut until: Option<Instant> = None;
    while batch.len() < AT_ONCE {
        tokio::select! {
            biased;
            spans = waiting.recv() => match spans {
                Some(spans) => batch.push(spans),
                None => return,
            },
            () = stop.cancelled(), if !waiting.is_closed() => waiting.close(),
            () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => return,
        }
        if !batch.is_empty() {
            until.get_or_insert_with(|| Instant::now() + PAUSE);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn spans_are_gathered_for_a_while_and_at_the_end_none_is_left() {
        let (send, mut waiting) = mpsc::channel(8);
        let (stop, mut batch) = (CancellationToken::new(), Vec::new());
        send.send(([1; 16], Vec::new())).await.unwrap();
        let started = Instant::now();
        gather(&mut batch, &mut waiting, &stop).await;
        assert_eq!((batch.len(), started.elapsed()), (1, PAUSE));
        send.send(([2; 16], Vec::new())).await.unwrap();
        stop.cancel();
        gather(&mut batch, &mut waiting, &stop).await;
        assert_eq!((batch.len(), started.elapsed()), (2, PAUSE), "at once");
        batch.clear();
        gather(&mut batch, &mut waiting, &stop).await;
        assert!(batch.is_empty() && send.try_send(([3; 16], Vec::new())).is_err());
    }
}
