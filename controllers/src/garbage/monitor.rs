//! Watches the kinds nobody else in the room watches, as metadata, and learns of new kinds as they come.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use kube::Client;
use parking_lot::{Mutex, RwLock};
use serde::Deserialize;
use tokio::{sync::Notify, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Kinds, enqueue, graph::Graph};
use crate::{
    caches::Caches,
    discovery::{Served, discover},
    object::{Meta, Object, Resource, object_by_meta},
    queue::Queue,
    reflector::{self, Collection, Sink},
};

/// Time for several new kinds to arrive together.
const SETTLE: Duration = Duration::from_millis(500);
/// Discovery is repeated after this long when it failed or was incomplete.
const RETRY: Duration = Duration::from_secs(10);
/// So long everybody waits for the objects of a kind (upstream's initial sync timeout).
const PATIENCE: Duration = Duration::from_secs(30);
/// Whose changes change what there is to watch.
const KINDS_OF_KINDS: [&str; 2] = ["customresourcedefinitions", "apiservices"];

/// An object's metadata.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Partial {
    /// The metadata.
    pub(super) metadata: Meta,
}

object_by_meta!(Partial);

/// The watches of the collector.
pub(super) struct Monitors {
    caches: Arc<Caches>,
    graph: Arc<Graph>,
    queue: Arc<Queue>,
    kinds: Kinds,
    covered: RwLock<HashSet<Resource>>,
    running: Mutex<HashMap<Resource, Monitor>>,
    discovered: AtomicBool,
    again: Arc<Notify>,
}

struct Monitor {
    synced: Arc<AtomicBool>,
    since: Instant,
    stop: CancellationToken,
}

impl Monitor {
    /// Whether nobody waits for it: its objects are in the graph, or they cannot be listed (a webhook that converts them does not answer)
    /// and others go on without. Owners that are not in the graph are asked for one by one before anything is deleted.
    fn is_settled(&self) -> bool {
        self.synced.load(Ordering::Acquire) || self.since.elapsed() >= PATIENCE
    }
}

impl Monitors {
    pub(super) fn new(caches: Arc<Caches>, graph: Arc<Graph>, queue: Arc<Queue>, kinds: Kinds) -> Self {
        Self {
            caches,
            graph,
            queue,
            kinds,
            covered: RwLock::default(),
            running: Mutex::default(),
            discovered: AtomicBool::new(false),
            again: Arc::default(),
        }
    }

    /// These kinds reach the graph by other ways.
    pub(super) fn covered(&self, resources: Vec<Resource>) {
        self.covered.write().extend(resources);
    }

    /// The collector's queue.
    pub(super) fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Whether the graph is as complete as it is going to be for now.
    pub(super) fn synced(&self) -> bool {
        self.discovered.load(Ordering::Acquire) && self.running.lock().values().all(Monitor::is_settled)
    }

    /// Discovers and watches until `stop`.
    pub(super) async fn run(&self, client: Client, stop: CancellationToken) {
        let tasks = TaskTracker::new();
        while !stop.is_cancelled() {
            let complete = match discover(&client).await {
                Ok((served, stale)) => {
                    self.adjust(served, stale, &client, &stop, &tasks);
                    self.discovered.store(true, Ordering::Release);
                    !stale
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot discover what there is to collect");
                    false
                }
            };
            let retry = async { if complete { std::future::pending().await } else { tokio::time::sleep(RETRY).await } };
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.again.notified() => tokio::time::sleep(SETTLE).await,
                () = retry => {}
            }
        }
        tasks.close();
        tasks.wait().await;
    }

    /// Starts the watches of new kinds and ends those of kinds that are gone.
    fn adjust(&self, served: Vec<Served>, stale: bool, client: &Client, stop: &CancellationToken, tasks: &TaskTracker) {
        let collectable = |kind: &Served| kind.allows(&["list", "watch", "delete"]) && kind.resource.plural != "events";
        let wanted: HashSet<Resource> = served.iter().filter(|kind| collectable(kind)).map(|kind| kind.resource.clone()).collect();
        let by_kind = served.into_iter().map(|kind| ((kind.resource.group.to_string(), kind.resource.kind.to_string()), kind));
        *self.kinds.write() = by_kind.collect();
        let covered = self.covered.read();
        let mut running = self.running.lock();
        if !stale {
            running.retain(|resource, monitor| {
                let keep = wanted.contains(resource);
                if !keep {
                    monitor.stop.cancel();
                }
                keep
            });
        }
        for resource in wanted.into_iter().filter(|resource| !covered.contains(resource)) {
            running.entry(resource.clone()).or_insert_with(|| {
                let (synced, stop) = (Arc::new(AtomicBool::new(false)), stop.child_token());
                let sink = Arc::new(Into {
                    resource: resource.clone(),
                    caches: self.caches.clone(),
                    graph: self.graph.clone(),
                    queue: self.queue.clone(),
                    synced: synced.clone(),
                    again: KINDS_OF_KINDS.contains(&resource.plural.as_ref()).then(|| self.again.clone()),
                });
                let collection = Collection { resource, fields: None, metadata_only: true };
                tasks.spawn(reflector::run::<Partial, Into>(collection, sink, client.clone(), stop.clone()));
                Monitor { synced, since: Instant::now(), stop }
            });
        }
    }
}

/// Puts one kind into the graph.
struct Into {
    resource: Resource,
    caches: Arc<Caches>,
    graph: Arc<Graph>,
    queue: Arc<Queue>,
    synced: Arc<AtomicBool>,
    again: Option<Arc<Notify>>,
}

impl Sink<Partial> for Into {
    fn replace(&self, objects: Vec<Partial>, _version: u64) {
        let found: HashSet<String> = objects.iter().map(|object| object.uid().to_owned()).collect();
        for object in objects {
            self.put(object);
        }
        for uid in self.graph.of_kind(&self.resource) {
            if !found.contains(uid.as_ref()) {
                if let Some(item) = self.graph.item(&uid) {
                    self.caches.departures.tell(&self.resource, &item.key.namespace);
                }
                enqueue(&self.queue, self.graph.remove(&uid));
            }
        }
        self.synced.store(true, Ordering::Release);
    }

    fn put(&self, object: Partial) {
        enqueue(&self.queue, self.graph.put(&self.resource, &object));
        if let Some(again) = &self.again {
            again.notify_one();
        }
    }

    fn remove(&self, object: &Partial, _version: u64) {
        self.caches.departures.tell(&self.resource, object.namespace());
        enqueue(&self.queue, self.graph.remove(object.uid()));
        if let Some(again) = &self.again {
            again.notify_one();
        }
    }

    fn advance(&self, _version: u64) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_kind_that_cannot_be_listed_is_not_waited_for_for_ever() {
        let monitors = Monitors::new(Arc::default(), Arc::default(), Arc::new(Queue::new(Duration::ZERO)), Kinds::default());
        assert!(!monitors.synced(), "nothing is known yet");
        monitors.discovered.store(true, Ordering::Release);
        let monitor = |synced| Monitor { synced: Arc::new(AtomicBool::new(synced)), since: Instant::now(), stop: CancellationToken::new() };
        let kind = |plural: &'static str| Resource::known("example.com", "v1", plural, "Kind");
        monitors.running.lock().extend([(kind("good"), monitor(true)), (kind("broken"), monitor(false))]);
        assert!(!monitors.synced());
        tokio::time::advance(PATIENCE).await;
        assert!(monitors.synced());
        monitors.running.lock().insert(kind("new"), monitor(false));
        assert!(!monitors.synced(), "the same holds for those that come later");
    }
}
