//! The scheduler's writes: bindings, the PodScheduled condition, events.

use std::{sync::Arc, time::Duration};

use kube::Client;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tokio::{sync::mpsc, task::JoinSet};

use crate::pod::Pod;

/// How long one write may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Events waiting to be written; more are dropped and counted.
const EVENTS_WAITING: usize = 4096;
const EVENTS_AT_ONCE: usize = 8;

/// Binds a pod to a node.
pub(crate) async fn bind(client: &Client, pod: &Pod, node: &str) -> Result<(), kube::Error> {
    let meta = &pod.view.metadata;
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding",
        "metadata": {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    });
    let path = format!("/api/v1/namespaces/{}/pods/{}/binding", meta.namespace, meta.name);
    write(client, "POST", &path, "application/json", &binding).await
}

/// Says in the pod's status why it waits; nothing is written when it says so already.
pub(crate) async fn say_unschedulable(client: &Client, pod: &Pod, message: &str) -> Result<(), kube::Error> {
    let meta = &pod.view.metadata;
    let now = jiff::Timestamp::now();
    let condition = json!({
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message, "observedGeneration": meta.generation,
        "lastProbeTime": null, "lastTransitionTime": format!("{now:.0}"),
    });
    let path = format!("/api/v1/namespaces/{}/pods/{}/status", meta.namespace, meta.name);
    let patch = json!({"metadata": {"uid": meta.uid}, "status": {"conditions": [condition]}});
    write(client, "PATCH", &path, "application/strategic-merge-patch+json", &patch).await
}

/// Whether the pod's status already says this.
pub(crate) fn says_unschedulable(pod: &Pod, message: &str) -> bool {
    let conditions = &pod.view.status.conditions;
    conditions.iter().any(|c| c.kind == "PodScheduled" && c.status == "False" && c.reason == "Unschedulable" && c.message == message)
}

async fn write(client: &Client, method: &str, path: &str, content_type: &str, body: &Value) -> Result<(), kube::Error> {
    let request = http::Request::builder().method(method).uri(path).header("content-type", content_type);
    let request = request.body(body.to_string().into_bytes()).map_err(kube::Error::HttpError)?;
    match tokio::time::timeout(PATIENCE, client.request::<IgnoredAny>(request)).await {
        Ok(answer) => answer.map(|_| ()),
        Err(_) => Err(kube::Error::Service(format!("no answer to {method} {path} in {PATIENCE:?}").into())),
    }
}

/// Tells the story of pods. Never blocks the loop.
#[derive(Clone)]
pub(crate) struct Events {
    queue: mpsc::Sender<(String, Value)>,
    reporter: Arc<str>,
}

impl Events {
    /// Starts the writer; it ends when all senders are gone.
    pub(crate) fn start(client: Client, reporter: &str, tasks: &mut JoinSet<()>) -> Self {
        let (queue, receiver) = mpsc::channel(EVENTS_WAITING);
        tasks.spawn(write_events(client, receiver));
        Self { queue, reporter: reporter.into() }
    }

    /// One event about a pod: type, reason and note as kube-scheduler's.
    pub(crate) fn tell(&self, pod: &Pod, kind: &str, reason: &str, action: &str, note: &str) {
        let meta = &pod.view.metadata;
        let now = jiff::Timestamp::now();
        let event = json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event",
            "metadata": {"name": format!("{}.{:x}", meta.name, now.as_nanosecond()), "namespace": meta.namespace},
            "eventTime": format!("{now:.6}"),
            "type": kind, "reason": reason, "action": action, "note": note,
            "reportingController": &*self.reporter, "reportingInstance": &*self.reporter,
            "regarding": {"apiVersion": "v1", "kind": "Pod", "name": meta.name, "namespace": meta.namespace, "uid": meta.uid,
                "resourceVersion": meta.resource_version},
        });
        let path = format!("/apis/events.k8s.io/v1/namespaces/{}/events", meta.namespace);
        if self.queue.try_send((path, event)).is_err() {
            tracing::debug!(pod = pod.key(), reason, "too many events at once, this one is dropped");
        }
    }
}

async fn write_events(client: Client, mut queue: mpsc::Receiver<(String, Value)>) {
    let mut writing = JoinSet::new();
    while let Some((path, event)) = queue.recv().await {
        if writing.len() >= EVENTS_AT_ONCE {
            writing.join_next().await;
        }
        let client = client.clone();
        writing.spawn(async move {
            if let Err(error) = write(&client, "POST", &path, "application/json", &event).await {
                tracing::debug!(%error, "event not written");
            }
        });
    }
    while writing.join_next().await.is_some() {}
}
