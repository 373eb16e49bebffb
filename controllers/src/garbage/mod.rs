//! The collector of garbage: what lost its last owner is deleted, what is to be deleted in the foreground waits for what it
//! owns, what is to be orphaned is cut loose first (upstream `pkg/controller/garbagecollector`).
//!
//! The graph knows every object by its metadata. Kinds the room caches anyway are listened to; the others are watched as
//! metadata. An owner counts as absent only when its deletion was seen or the server said so.

mod graph;
mod monitor;

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::{api::core::v1::ObjectReference, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::{
    Client,
    core::{
        Request,
        params::{GetParams, PropagationPolicy},
    },
};
use parking_lot::RwLock;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use self::{
    graph::{Graph, Item, Owner},
    monitor::{Monitors, Partial},
};
use crate::{
    apply::{Error, Executor},
    caches::Caches,
    change::{Change, Note, PatchKind, Plan, Tolerate, Verb},
    discovery::Served,
    object::{Key, Object, Resource},
    queue::Queue,
    run::{Named, Reconcile, Wake},
};

/// The finalizer of foreground deletion.
pub(crate) const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer of deletion that leaves dependents alone.
pub(crate) const ORPHAN: &str = "orphan";
/// A dependent whose owner we do not know: it may only not have shown up yet.
const UNKNOWN_OWNER: Duration = Duration::from_millis(500);
/// An owner of a kind that does not exist may come to exist.
const UNKNOWN_KIND: Duration = Duration::from_secs(30);
const NOT_SYNCED: Duration = Duration::from_millis(100);

/// Kinds by group and kind, as owners name them.
type Kinds = Arc<RwLock<HashMap<(String, String), Served>>>;

/// The controller. Its keys are uids.
pub(crate) struct Garbage {
    caches: Arc<Caches>,
    graph: Arc<Graph>,
    kinds: Kinds,
    monitors: OnceLock<Arc<Monitors>>,
}

impl Garbage {
    /// The collector over these caches; it must be wired after all controllers whose caches it shall share.
    pub(crate) fn new(caches: Arc<Caches>) -> Self {
        Self { caches, graph: Arc::default(), kinds: Kinds::default(), monitors: OnceLock::new() }
    }
}

/// Says what became of the graph by a change to the queue.
fn enqueue(queue: &Queue, wakes: graph::Wakes) {
    for uid in wakes.now {
        queue.add(Key::new("", &uid));
    }
    for uid in wakes.later {
        queue.add_after(Key::new("", &uid), UNKNOWN_OWNER);
    }
}

impl Named for Garbage {
    fn name(&self) -> &'static str {
        "garbage-collector-controller"
    }
    fn identity(&self) -> &'static str {
        "generic-garbage-collector"
    }

    fn reads(&self, wake: &Wake) {
        let (graph, queue, caches) = (self.graph.clone(), wake.queue(), self.caches.clone());
        let monitors = Arc::new(Monitors::new(self.caches.clone(), self.graph.clone(), queue.clone(), self.kinds.clone()));
        let listener: Arc<crate::caches::AnyListener> = Arc::new(move |resource, old, new| {
            let wakes = match (old, new) {
                (_, Some(new)) => graph.put(resource, new),
                (Some(old), None) => {
                    caches.departures.tell(resource, old.namespace());
                    graph.remove(old.uid())
                }
                (None, None) => return,
            };
            enqueue(&queue, wakes);
        });
        monitors.covered(self.caches.listen_all(&listener));
        if self.monitors.set(monitors).is_err() {
            tracing::error!("the garbage collector was wired twice");
        }
    }

    fn workers(&self) -> Option<usize> {
        Some(20)
    }
}

#[async_trait]
impl Reconcile for Garbage {
    async fn reconcile(&self, key: &Key, executor: &Executor, _now: Timestamp) -> Result<Option<Duration>, Error> {
        if !self.monitors.get().is_some_and(|monitors| monitors.synced()) {
            return Ok(Some(NOT_SYNCED));
        }
        let Some(item) = self.graph.item(&key.name) else { return Ok(None) };
        if item.orphaning {
            return self.orphan(key, &item, executor).await;
        }
        if item.foreground {
            return self.wait_for_dependents(key, &item, executor).await;
        }
        if item.deleting || item.owners.is_empty() {
            return Ok(None);
        }
        self.attempt(key, &item, executor).await
    }

    async fn background(&self, client: Client, stop: CancellationToken) {
        if let Some(monitors) = self.monitors.get() {
            monitors.run(client, stop).await;
        }
    }
}

/// The owners of one object, by what they mean for it.
#[derive(Default)]
struct Owners {
    /// Those that keep it.
    solid: Vec<OwnerReference>,
    /// Those that are gone.
    dangling: Vec<OwnerReference>,
    /// Those that wait for it to go.
    waiting: Vec<OwnerReference>,
    /// At least one cannot be judged now.
    unknown: bool,
    /// At least one cannot be an owner of it at all.
    invalid: bool,
}

impl Garbage {
    /// Deletes the object if nothing keeps it, or cuts it off from what does not.
    async fn attempt(&self, key: &Key, item: &Item, executor: &Executor) -> Result<Option<Duration>, Error> {
        let owners = self.judge(item, executor).await?;
        if owners.invalid {
            return Ok(None);
        }
        if owners.unknown {
            return Ok(Some(UNKNOWN_KIND));
        }
        if !owners.solid.is_empty() {
            let cut: Vec<&str> = owners.dangling.iter().chain(&owners.waiting).map(|owner| owner.uid.as_str()).collect();
            if !cut.is_empty() {
                self.cut_off(key, item, &cut, executor).await?;
            }
            return Ok(None);
        }
        let propagation = if !owners.waiting.is_empty() && self.graph.has_dependents(&key.name) {
            if self.graph.dependents(&key.name).iter().any(|dependent| dependent.foreground) {
                // The owner that waits for us may be waiting for itself: we no longer stand in its way.
                self.unblock(key, item, executor).await?;
            }
            PropagationPolicy::Foreground
        } else {
            PropagationPolicy::Background
        };
        self.delete(key, item, propagation, executor).await
    }

    async fn judge(&self, item: &Item, executor: &Executor) -> Result<Owners, Error> {
        let mut owners = Owners::default();
        for owner in &item.owners {
            let served = self.served(owner);
            if item.key.namespace.is_empty() && served.as_ref().is_some_and(|served| served.namespaced) {
                executor.tell(wrong_namespace(item, owner));
                owners.invalid = true;
                continue;
            }
            match self.graph.owner(&owner.uid, &item.key.namespace) {
                Owner::Present => owners.solid.push(owner.clone()),
                Owner::Waiting => owners.waiting.push(owner.clone()),
                Owner::Absent => owners.dangling.push(owner.clone()),
                found @ (Owner::Unknown | Owner::Elsewhere) => {
                    if found == Owner::Elsewhere {
                        executor.tell(wrong_namespace(item, owner));
                    }
                    match served {
                        None => owners.unknown = true,
                        Some(served) => match self.ask(item, owner, &served, executor).await? {
                            None => {
                                self.graph.note_absent(&owner.uid);
                                owners.dangling.push(owner.clone());
                            }
                            Some(true) => owners.waiting.push(owner.clone()),
                            Some(false) => owners.solid.push(owner.clone()),
                        },
                    }
                }
            }
        }
        Ok(owners)
    }

    /// Asks the server for an owner: `None` if it is not there, otherwise whether it waits for its dependents.
    async fn ask(&self, item: &Item, owner: &OwnerReference, served: &Served, executor: &Executor) -> Result<Option<bool>, Error> {
        let namespace = if served.namespaced { item.key.namespace.as_ref() } else { "" };
        let found = live(executor.client(), &served.resource, &Key::new(namespace, &owner.name)).await?;
        let found = found.filter(|found| found.uid() == owner.uid);
        Ok(found.map(|found| found.deleted().is_some() && found.finalizers().iter().any(|finalizer| finalizer == FOREGROUND)))
    }

    fn served(&self, owner: &OwnerReference) -> Option<Served> {
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        self.kinds.read().get(&(group.to_owned(), owner.kind.clone())).cloned()
    }

    /// Deletes the object as the graph knows it; if it changed meanwhile, only if its owners did not.
    async fn delete(&self, key: &Key, item: &Item, propagation: PropagationPolicy, executor: &Executor) -> Result<Option<Duration>, Error> {
        let delete = |version: &str| {
            let verb = Verb::Delete {
                uid: Some(key.name.to_string()),
                version: Some(version.to_owned()),
                propagation: Some(if item.wants_orphans { PropagationPolicy::Orphan } else { propagation.clone() }),
                grace_seconds: None,
            };
            Change::new(item.resource.as_ref().clone(), item.key.clone(), verb).tolerate(Tolerate::NotFound)
        };
        match executor.execute(key, delete(&item.version).into()).await {
            Err(Error::Conflict { .. }) => {}
            other => return other.map(|_| None),
        }
        let Some(found) = live(executor.client(), &item.resource, &item.key).await? else { return Ok(None) };
        if found.uid() == key.name.as_ref() && found.owners() == item.owners {
            executor.execute(key, delete(found.resource_version()).into()).await?;
        }
        Ok(None)
    }

    /// Lets the owners of an object go before it does.
    async fn unblock(&self, key: &Key, item: &Item, executor: &Executor) -> Result<(), Error> {
        let Some(found) = live(executor.client(), &item.resource, &item.key).await?.filter(|found| *found.uid() == *item.uid) else {
            return Ok(());
        };
        let mut owners = found.owners().to_vec();
        let blocking = |owner: &&mut OwnerReference| owner.block_owner_deletion == Some(true);
        if owners.iter_mut().filter(blocking).map(|owner| owner.block_owner_deletion = Some(false)).count() == 0 {
            return Ok(());
        }
        let body = json!({"metadata": {"ownerReferences": owners, "uid": found.uid(), "resourceVersion": found.resource_version()}});
        let verb = Verb::Patch { kind: PatchKind::Merge, body, subresource: None };
        let change = Change::new(item.resource.as_ref().clone(), item.key.clone(), verb).tolerate(Tolerate::NotFound);
        executor.execute(key, change.into()).await.map(|_| ())
    }

    /// Takes owner references off an object.
    async fn cut_off(&self, key: &Key, item: &Item, owners: &[&str], executor: &Executor) -> Result<(), Error> {
        let Some(found) = live(executor.client(), &item.resource, &item.key).await?.filter(|found| *found.uid() == *item.uid) else {
            return Ok(());
        };
        let left: Vec<&OwnerReference> = found.owners().iter().filter(|owner| !owners.contains(&owner.uid.as_str())).collect();
        if left.len() == found.owners().len() {
            return Ok(());
        }
        let left = if left.is_empty() { serde_json::Value::Null } else { json!(left) };
        let body = json!({"metadata": {"ownerReferences": left, "uid": found.uid(), "resourceVersion": found.resource_version()}});
        let verb = Verb::Patch { kind: PatchKind::Merge, body, subresource: None };
        let change = Change::new(item.resource.as_ref().clone(), item.key.clone(), verb).tolerate(Tolerate::NotFound);
        executor.execute(key, change.into()).await.map(|_| ())
    }

    /// Cuts all dependents loose, then lets the owner go.
    async fn orphan(&self, key: &Key, item: &Item, executor: &Executor) -> Result<Option<Duration>, Error> {
        for dependent in self.graph.dependents(&key.name) {
            self.cut_off(key, &dependent, &[&key.name], executor).await?;
        }
        self.remove_finalizer(key, item, ORPHAN, executor).await?;
        Ok(None)
    }

    /// Lets the owner go when nothing that blocks it is left; until then sees to it that it goes.
    async fn wait_for_dependents(&self, key: &Key, item: &Item, executor: &Executor) -> Result<Option<Duration>, Error> {
        let blocking: Vec<Item> = self.graph.dependents(&key.name).into_iter().filter(|dependent| dependent.blocks(&key.name)).collect();
        if blocking.is_empty() {
            self.remove_finalizer(key, item, FOREGROUND, executor).await?;
        } else if let Some(monitors) = self.monitors.get() {
            for dependent in blocking.iter().filter(|dependent| !dependent.deleting) {
                monitors.queue().add(Key::new("", &dependent.uid));
            }
        }
        Ok(None)
    }

    async fn remove_finalizer(&self, key: &Key, item: &Item, finalizer: &str, executor: &Executor) -> Result<(), Error> {
        let Some(found) = live(executor.client(), &item.resource, &item.key).await?.filter(|found| *found.uid() == *item.uid) else {
            return Ok(());
        };
        let left: Vec<&String> = found.finalizers().iter().filter(|present| *present != finalizer).collect();
        if left.len() == found.finalizers().len() {
            return Ok(());
        }
        let body = json!({"metadata": {"finalizers": left, "uid": found.uid(), "resourceVersion": found.resource_version()}});
        let verb = Verb::Patch { kind: PatchKind::Merge, body, subresource: None };
        let mut plan = Plan::nothing();
        plan.push(Change::new(item.resource.as_ref().clone(), item.key.clone(), verb).tolerate(Tolerate::NotFound));
        executor.execute(key, plan).await.map(|_| ())
    }
}

/// An object's metadata, from the server and not from a cache.
async fn live(client: &Client, resource: &Resource, key: &Key) -> Result<Option<Partial>, Error> {
    let refused = |error: kube::Error| Error::Refused {
        verb: "get",
        resource: resource.plural.to_string(),
        key: key.clone(),
        source: Box::new(error),
    };
    let request = Request::new(resource.path(&key.namespace)).get_metadata(&key.name, &GetParams::default());
    match client.request::<Partial>(request.map_err(kube::Error::BuildRequest).map_err(refused)?).await {
        Ok(found) => Ok(Some(found)),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(None),
        Err(error) => Err(refused(error)),
    }
}

fn wrong_namespace(item: &Item, owner: &OwnerReference) -> Note {
    let namespace = &item.key.namespace;
    let owner = format!("[{}/{}, namespace: {namespace}, name: {}, uid: {}]", owner.api_version, owner.kind, owner.name, owner.uid);
    Note {
        regarding: ObjectReference {
            api_version: Some(item.resource.api_version()),
            kind: Some(item.resource.kind.to_string()),
            namespace: Some(namespace.to_string()).filter(|namespace| !namespace.is_empty()),
            name: Some(item.key.name.to_string()),
            uid: Some(item.uid.to_string()),
            ..ObjectReference::default()
        },
        warning: true,
        reason: "OwnerRefInvalidNamespace",
        message: format!("ownerRef {owner} does not exist in namespace {namespace:?}"),
    }
}
