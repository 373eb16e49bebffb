//! Events as client-go's recorder makes them: the same event again becomes a count, many similar ones become one
//! "combined" event, and an object that is told about too often falls silent. Never in the way of a reconcile: the queue is
//! bounded and what does not fit is dropped.

use std::collections::{HashMap, HashSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Client,
    api::{Api, Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{apply::FIELD_MANAGER, change::Note, time};

/// Events waiting to be sent, per controller.
const WAITING: usize = 1000;
/// Similar events within [`WINDOW_SECONDS`] before they are combined (client-go's `defaultAggregateMaxEvents`).
const SIMILAR: usize = 10;
const WINDOW_SECONDS: i64 = 600;
/// Events about one object at once, and seconds until one more is allowed (client-go's spam filter).
const BURST: f64 = 25.0;
const REFILL_SECONDS: f64 = 300.0;
/// Entries remembered before the old ones are dropped.
const REMEMBERED: usize = 4096;

/// Takes events of one controller.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Note>,
}

/// Sends what a [`Recorder`] takes.
pub struct Sender {
    queue: mpsc::Receiver<Note>,
    correlator: Correlator,
    client: Client,
}

impl Recorder {
    /// A recorder for `component` and its sending end.
    #[must_use]
    pub fn new(component: &'static str, client: Client) -> (Self, Sender) {
        let (sender, queue) = mpsc::channel(WAITING);
        (Self { queue: sender }, Sender { queue, correlator: Correlator::new(component), client })
    }

    /// Records an event, or drops it when too many wait.
    pub fn record(&self, note: Note) {
        if let Err(dropped) = self.queue.try_send(note) {
            tracing::debug!(%dropped, "event dropped");
        }
    }
}

impl Sender {
    /// Sends events until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let note = tokio::select! {
                () = stop.cancelled() => return,
                note = self.queue.recv() => note,
            };
            let Some(note) = note else { return };
            if let Some(write) = self.correlator.take(note, Timestamp::now()) {
                self.send(write).await;
            }
        }
    }

    async fn send(&mut self, write: Write) {
        let namespace = write.event.metadata.namespace.clone().unwrap_or_default();
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        let name = write.event.metadata.name.clone().unwrap_or_default();
        if write.again {
            let patch = json!({"count": write.event.count, "lastTimestamp": write.event.last_timestamp, "message": write.event.message});
            match api.patch_metadata(&name, &PatchParams::default(), &Patch::Strategic(patch)).await {
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                Ok(_) => return,
                Err(error) => {
                    tracing::debug!(%error, "event not sent");
                    return;
                }
            }
        }
        let params = PostParams { dry_run: false, field_manager: Some(FIELD_MANAGER.to_owned()) };
        if let Err(error) = api.create(&params, &write.event).await {
            tracing::debug!(%error, "event not sent");
        }
    }
}

/// An event to write; `again`: as a new count of one written before.
#[derive(Debug, PartialEq)]
struct Write {
    event: Event,
    again: bool,
}

struct Correlator {
    component: &'static str,
    logged: HashMap<String, Logged>,
    groups: HashMap<String, Group>,
    allowance: HashMap<String, (f64, Timestamp)>,
    serial: u32,
}

struct Logged {
    name: String,
    count: i32,
    first: Timestamp,
    last: Timestamp,
}

struct Group {
    messages: HashSet<String>,
    last: Timestamp,
}

impl Correlator {
    fn new(component: &'static str) -> Self {
        Self { component, logged: HashMap::new(), groups: HashMap::new(), allowance: HashMap::new(), serial: 0 }
    }

    fn take(&mut self, note: Note, now: Timestamp) -> Option<Write> {
        self.forget_old(now);
        let object = object_key(&note.regarding);
        let similar = format!("{object}|{}|{}", note.warning, note.reason);
        let (key, message) = self.combine(similar, note.message, now);
        if !self.allow(object, now) {
            return None;
        }
        self.serial = self.serial.wrapping_add(1);
        // Unique although several events may be made in one tick of the clock.
        let fresh = format!("{}.{:x}", note.regarding.name.as_deref().unwrap_or_default(), now.as_nanosecond() + i128::from(self.serial));
        let logged = self.logged.entry(key).or_insert_with(|| Logged { name: fresh, count: 0, first: now, last: now });
        logged.count += 1;
        logged.last = now;
        let event = event(self.component, note.regarding, note.warning, note.reason, message, logged);
        Some(Write { again: logged.count > 1, event })
    }

    /// The key under which an event is counted, and its message: its own, or that of the group it drowned in.
    fn combine(&mut self, similar: String, message: String, now: Timestamp) -> (String, String) {
        let group = self.groups.entry(similar.clone()).or_insert_with(|| Group { messages: HashSet::new(), last: now });
        if now.duration_since(group.last) > SignedDuration::from_secs(WINDOW_SECONDS) {
            group.messages.clear();
        }
        group.last = now;
        if group.messages.len() < SIMILAR || group.messages.contains(&message) {
            group.messages.insert(message.clone());
        }
        if group.messages.len() < SIMILAR {
            (format!("{similar}|{message}"), message)
        } else {
            (similar, format!("(combined from similar events): {message}"))
        }
    }

    fn allow(&mut self, object: String, now: Timestamp) -> bool {
        let (left, at) = self.allowance.entry(object).or_insert((BURST, now));
        *left = (*left + now.duration_since(*at).as_secs_f64() / REFILL_SECONDS).min(BURST);
        *at = now;
        if *left < 1.0 {
            return false;
        }
        *left -= 1.0;
        true
    }

    fn forget_old(&mut self, now: Timestamp) {
        let recent = |last: Timestamp| now.duration_since(last) < SignedDuration::from_secs(WINDOW_SECONDS);
        if self.logged.len() > REMEMBERED {
            self.logged.retain(|_, logged| recent(logged.last));
        }
        if self.groups.len() > REMEMBERED {
            self.groups.retain(|_, group| recent(group.last));
        }
        if self.allowance.len() > REMEMBERED {
            self.allowance.retain(|_, (_, at)| recent(*at));
        }
    }
}

fn object_key(object: &ObjectReference) -> String {
    let part = |value: &Option<String>| value.clone().unwrap_or_default();
    format!("{}/{}/{}/{}/{}", part(&object.api_version), part(&object.kind), part(&object.namespace), part(&object.name), part(&object.uid))
}

fn event(component: &str, regarding: ObjectReference, warning: bool, reason: &str, message: String, logged: &Logged) -> Event {
    Event {
        metadata: ObjectMeta {
            name: Some(logged.name.clone()),
            namespace: Some(regarding.namespace.clone().unwrap_or_else(|| "default".to_owned())),
            ..ObjectMeta::default()
        },
        involved_object: regarding,
        reason: Some(reason.to_owned()),
        message: Some(message),
        type_: Some(if warning { "Warning" } else { "Normal" }.to_owned()),
        source: Some(EventSource { component: Some(component.to_owned()), host: None }),
        reporting_component: Some(component.to_owned()),
        reporting_instance: Some(String::new()),
        first_timestamp: Some(time::api(logged.first)),
        last_timestamp: Some(time::api(logged.last)),
        count: Some(logged.count),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(message: &str) -> Note {
        let regarding = ObjectReference { name: Some("web".into()), namespace: Some("a".into()), ..ObjectReference::default() };
        Note { regarding, warning: false, reason: "SuccessfulCreate", message: message.into() }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    #[test]
    fn the_same_event_again_is_a_count_of_the_first() {
        let mut correlator = Correlator::new("c");
        let first = correlator.take(note("x"), at(0)).unwrap();
        let second = correlator.take(note("x"), at(5)).unwrap();
        assert_eq!((first.again, second.again, second.event.count), (false, true, Some(2)));
        assert_eq!(first.event.metadata.name, second.event.metadata.name);
        assert_ne!(first.event.last_timestamp, second.event.last_timestamp);
    }

    #[test]
    fn many_similar_events_are_combined_and_then_silenced() {
        let mut correlator = Correlator::new("c");
        let written: Vec<Write> = (0..100).filter_map(|n| correlator.take(note(&format!("pod {n}")), at(0))).collect();
        assert_eq!(written.len(), 25, "the burst of one object");
        assert_eq!(written.iter().filter(|write| !write.again).count(), 10, "nine of their own and one combined");
        assert_eq!(written[24].event.message.as_deref(), Some("(combined from similar events): pod 24"));
        assert!(correlator.take(note("pod 1"), at(301)).is_some(), "one more is allowed after five minutes");
    }
}
