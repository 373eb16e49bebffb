//! Events sent to a webhook as lists (`plugin/pkg/audit/webhook`).

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{runtime::Handle, sync::Semaphore};
use tokio_util::task::TaskTracker;
use tracing::{error, warn};

use super::{
    Batch, Mode, Truncation,
    batch::{Deliver, Queue},
};
use crate::{
    metrics::access::AUDIT_ERRORS,
    webhook::{Egress, Kubeconfig, Terms, Webhook, answered},
};

/// Where events are sent, and how.
#[derive(Clone, Debug)]
pub struct HookOptions {
    /// A kubeconfig that names the webhook (`--audit-webhook-config-file`).
    pub config: PathBuf,
    /// Whether requests wait until their events are sent.
    pub mode: Mode,
    /// How events are gathered when nobody waits for them.
    pub batch: Batch,
    /// What is too large.
    pub truncation: Option<Truncation>,
    /// The pause before something is sent again the first time.
    pub backoff: Duration,
}

/// The webhook.
pub(super) struct Hook {
    sender: Arc<Sender>,
    queue: Option<Queue>,
    /// Events that nobody waits for, in blocking modes: each is sent by a task of its own.
    left: Left,
    pub(super) mode: Mode,
    pub(super) truncation: Option<Truncation>,
}

struct Left {
    tasks: TaskTracker,
    /// A request may end where no runtime is entered any more.
    runtime: Handle,
    places: Arc<Semaphore>,
}

struct Sender {
    webhook: Webhook,
    backoff: Duration,
}

/// What one attempt may take (`util/webhook`: 30 s), and its answer in bytes.
const TERMS: Terms = Terms {
    timeout: Duration::from_secs(30),
    late: "context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
    largest: 1 << 20,
};
/// Attempts, and by how much longer each pause is than the last, and by chance (`DefaultRetryBackoffWithInitialDelay`).
const ATTEMPTS: i32 = 5;
const FACTOR: f64 = 1.5;
const JITTER: f64 = 0.2;
/// Events under way that nobody waits for; more are lost.
const LEFT: usize = 1024;
/// What an event says of its kind: in a list the list says it.
const KIND: &[u8] = br#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","#;

impl Hook {
    /// Reads the kubeconfig. The error is upstream's. Must be called within a runtime.
    pub(super) fn open(options: &HookOptions, egress: &Egress) -> Result<Self, String> {
        let file = Kubeconfig::read(&options.config).map_err(|why| format!("initializing audit webhook: {why}"))?;
        let sender = Arc::new(Sender { webhook: Webhook::at(file).through(egress), backoff: options.backoff });
        let queue = (options.mode == Mode::Batch).then(|| {
            let sender = Arc::clone(&sender);
            let deliver: Deliver = Arc::new(move |events| {
                let sender = Arc::clone(&sender);
                Box::pin(async move {
                    sender.send(&events).await;
                })
            });
            Queue::start(options.batch, true, deliver)
        });
        let left = Left { tasks: TaskTracker::new(), runtime: Handle::current(), places: Arc::new(Semaphore::new(LEFT)) };
        Ok(Self { sender, queue, left, mode: options.mode, truncation: options.truncation })
    }

    /// Takes an event; in blocking modes returns when it is sent. Whether it is.
    pub(super) async fn take(&self, event: Bytes) -> bool {
        match &self.queue {
            Some(queue) => {
                queue.take(event);
                true
            }
            None => self.sender.send(&[event]).await,
        }
    }

    /// Takes an event for which nobody waits.
    pub(super) fn leave(&self, event: Bytes) {
        match &self.queue {
            Some(queue) => queue.take(event),
            None => self.left.send(Arc::clone(&self.sender), event),
        }
    }

    /// Ends when all is sent.
    pub(super) async fn close(&self) {
        if let Some(queue) = &self.queue {
            queue.close().await;
        }
        self.left.tasks.close();
        self.left.tasks.wait().await;
    }
}

impl Left {
    fn send(&self, sender: Arc<Sender>, event: Bytes) {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            AUDIT_ERRORS.inc(["webhook"]);
            warn!("an audit event was lost: too many wait to be sent");
            return;
        };
        let send = async move {
            sender.send(&[event]).await;
            drop(place);
        };
        self.tasks.spawn_on(send, &self.runtime);
    }
}

impl Sender {
    /// Sends events; whatever goes wrong is tried again. Whether they arrived; if not, they are lost and counted.
    async fn send(&self, events: &[Bytes]) -> bool {
        let list = list(events);
        let mut pause = self.backoff;
        for attempt in 1.. {
            let why = match self.webhook.post(list.clone(), TERMS).await.and_then(answered) {
                Ok(_) => return true,
                Err(why) => why,
            };
            if attempt == ATTEMPTS {
                AUDIT_ERRORS.add(["webhook"], events.len() as u64);
                error!("Error in audit plugin 'webhook' affecting {} audit events: {why}", events.len());
                return false;
            }
            let chance = f64::from(uuid::Uuid::new_v4().as_bytes()[0]) / 255.0;
            tokio::time::sleep(pause.mul_f64(1.0 + JITTER * chance)).await;
            pause = pause.mul_f64(FACTOR);
        }
        false
    }
}

/// An `EventList`.
fn list(events: &[Bytes]) -> Bytes {
    let mut list = br#"{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":["#.to_vec();
    for (at, event) in events.iter().enumerate() {
        list.extend_from_slice(if at == 0 { b"{" } else { b",{" });
        let event = event.strip_suffix(b"\n").unwrap_or(event);
        list.extend_from_slice(event.strip_prefix(KIND).or_else(|| event.strip_prefix(b"{")).unwrap_or_default());
    }
    list.extend_from_slice(b"]}\n");
    list.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_says_once_what_its_events_are() {
        let event = Bytes::from_static(b"{\"kind\":\"Event\",\"apiVersion\":\"audit.k8s.io/v1\",\"level\":\"Metadata\"}\n");
        let list: coracle_tree::Value = serde_json::from_slice(&list(&[event.clone(), event])).unwrap();
        assert_eq!(list["kind"], "EventList");
        assert_eq!(list["items"], coracle_tree::json!([{"level": "Metadata"}, {"level": "Metadata"}]));
    }
}
