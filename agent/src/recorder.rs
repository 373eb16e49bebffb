//! Events, with kubelet's reasons: a bounded queue and one writer that counts repetitions instead of writing them anew and that limits what one
//! object may cause (client-go `tools/record/events_cache.go`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use jiff::Timestamp;
use kube::Client;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::api;
use crate::clock::{Clock, time, until};
use crate::pods::object::BoundPod;

const QUEUE: usize = 4096;
/// Distinct events remembered for counting.
const REMEMBERED: usize = 4096;
/// Events one object may cause at once; one more every [`REFILL`].
const BURST: u32 = 25;
const REFILL: Duration = Duration::from_secs(300);

/// Which events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Level {
    /// All.
    #[default]
    All,
    /// Only warnings (hollow nodes: upstream's write none at all).
    Warnings,
}

/// What an event is about.
#[derive(Debug, Clone)]
enum About {
    Pod { pod: Arc<BoundPod>, container: Option<String> },
    Node,
}

struct Entry {
    client: Client,
    node: Arc<str>,
    about: About,
    warning: bool,
    reason: &'static str,
    message: String,
    at: Timestamp,
}

/// The queue of the one writer of a process.
#[derive(Debug, Clone)]
pub struct Writer(mpsc::Sender<Entry>);

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.reason, self.message)
    }
}

impl Writer {
    /// A writer's queue, and the task that empties it until `stop`.
    pub fn new(stop: CancellationToken) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (tx, rx) = mpsc::channel(QUEUE);
        (Self(tx), write(rx, stop))
    }
}

/// Records the events of one node.
#[derive(Clone)]
pub struct Recorder {
    writer: Writer,
    client: Client,
    node: Arc<str>,
    clock: Clock,
    level: Level,
}

impl Recorder {
    /// Events of `node` written through `client`.
    #[must_use]
    pub fn new(writer: Writer, client: Client, node: &str, clock: Clock, level: Level) -> Self {
        Self { writer, client, node: node.into(), clock, level }
    }

    /// Something normal about a pod or one of its containers.
    pub fn normal(&self, pod: &Arc<BoundPod>, container: Option<&str>, reason: &'static str, message: impl FnOnce() -> String) {
        if self.level == Level::All {
            self.send(About::Pod { pod: pod.clone(), container: container.map(str::to_owned) }, false, reason, message());
        }
    }

    /// Something wrong with a pod or one of its containers.
    pub fn warning(&self, pod: &Arc<BoundPod>, container: Option<&str>, reason: &'static str, message: String) {
        self.send(About::Pod { pod: pod.clone(), container: container.map(str::to_owned) }, true, reason, message);
    }

    /// Something normal about the node.
    pub fn node(&self, reason: &'static str, message: String) {
        if self.level == Level::All {
            self.send(About::Node, false, reason, message);
        }
    }

    fn send(&self, about: About, warning: bool, reason: &'static str, message: String) {
        let (client, node, at) = (self.client.clone(), self.node.clone(), self.clock.now());
        if self.writer.0.try_send(Entry { client, node, about, warning, reason, message, at }).is_err() {
            tracing::debug!(reason, "event dropped: the queue is full");
        }
    }
}

#[derive(Default)]
struct Cache {
    /// Name and count of the event that carries a repetition.
    written: HashMap<String, (String, u32)>,
    /// Tokens left and when last filled, by object.
    budget: HashMap<String, (u32, Timestamp)>,
}

impl Cache {
    fn allows(&mut self, object: &str, now: Timestamp) -> bool {
        if self.budget.len() > REMEMBERED {
            self.budget.clear();
        }
        let (tokens, filled) = self.budget.entry(object.to_owned()).or_insert((BURST, now));
        let gained = u32::try_from(until(*filled, now).as_secs() / REFILL.as_secs()).unwrap_or(BURST);
        if gained > 0 {
            *tokens = (*tokens + gained).min(BURST);
            *filled = now;
        }
        let allowed = *tokens > 0;
        *tokens = tokens.saturating_sub(1);
        allowed
    }
}

async fn write(mut queue: mpsc::Receiver<Entry>, stop: CancellationToken) {
    let mut cache = Cache::default();
    loop {
        let entry = tokio::select! {
            () = stop.cancelled() => return,
            entry = queue.recv() => match entry { Some(entry) => entry, None => return },
        };
        let send = write_one(&entry, &mut cache);
        match tokio::time::timeout(Duration::from_secs(10), send).await {
            Ok(Err(error)) => tracing::debug!(reason = entry.reason, %error, "event not written"),
            Err(_) => tracing::debug!(reason = entry.reason, "event not written: timeout"),
            Ok(Ok(())) => {}
        }
    }
}

async fn write_one(entry: &Entry, cache: &mut Cache) -> Result<(), api::ApiError> {
    let (namespace, name, involved) = involved(entry);
    let object = format!("{namespace}/{name}");
    let key = format!("{involved}|{}|{}|{}|{}", entry.node, entry.warning, entry.reason, entry.message);
    if !cache.allows(&object, entry.at) {
        return Ok(());
    }
    if let Some((event, count)) = cache.written.get_mut(&key) {
        *count += 1;
        let body = json!({"count": *count, "lastTimestamp": time(entry.at)});
        match api::patch(&entry.client, &format!("/api/v1/namespaces/{namespace}/events/{event}"), api::STRATEGIC_MERGE, &body).await {
            Err(error) if error.is_not_found() => {}
            other => return other,
        }
    }
    let event = format!("{name}.{:x}", entry.at.as_nanosecond());
    let body = json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"name": event, "namespace": namespace},
        "involvedObject": involved,
        "reason": entry.reason, "message": entry.message,
        "source": {"component": "kubelet", "host": &*entry.node},
        "firstTimestamp": time(entry.at), "lastTimestamp": time(entry.at), "count": 1,
        "type": if entry.warning { "Warning" } else { "Normal" },
        "eventTime": null, "reportingComponent": "kubelet", "reportingInstance": &*entry.node,
    });
    let bytes = serde_json::to_vec(&body).unwrap_or_default();
    api::call(&entry.client, Method::POST, &format!("/api/v1/namespaces/{namespace}/events"), api::JSON, bytes).await?;
    if cache.written.len() > REMEMBERED {
        cache.written.clear();
    }
    cache.written.insert(key, (event, 1));
    Ok(())
}

/// Namespace and name for the event, and the object reference.
fn involved(entry: &Entry) -> (String, String, serde_json::Value) {
    match &entry.about {
        About::Node => {
            // The uid of a node in events is its name: upstream's habit, which `kubectl describe node` relies on.
            let reference = json!({"kind": "Node", "name": &*entry.node, "uid": &*entry.node, "apiVersion": "v1"});
            ("default".to_owned(), entry.node.to_string(), reference)
        }
        About::Pod { pod, container } => {
            let meta = &pod.metadata;
            let mut reference = json!({
                "kind": "Pod", "namespace": meta.namespace, "name": meta.name, "uid": meta.uid, "apiVersion": "v1",
                "resourceVersion": meta.resource_version,
            });
            if let Some(container) = container {
                let list = match pod.container(container).map(|(role, _)| role) {
                    Some(crate::pods::object::Role::Init | crate::pods::object::Role::Sidecar) => "initContainers",
                    Some(crate::pods::object::Role::Ephemeral) => "ephemeralContainers",
                    _ => "containers",
                };
                reference["fieldPath"] = json!(format!("spec.{list}{{{container}}}"));
            }
            (meta.namespace.clone(), meta.name.clone(), reference)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_object_may_cause_twenty_five_events_and_then_one_in_five_minutes() {
        let mut cache = Cache::default();
        let start = Timestamp::UNIX_EPOCH;
        assert_eq!((0..40).filter(|_| cache.allows("a", start)).count(), 25);
        assert!(cache.allows("b", start), "another object has its own budget");
        let later = start + jiff::SignedDuration::from_secs(301);
        assert!(cache.allows("a", later));
        assert!(!cache.allows("a", later));
    }
}
