//! Wiring of the room: options, the controllers chosen by them, their queues and workers, and the order of start and stop.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::future::BoxFuture;
use jiff::Timestamp;
use kube::Client;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    apply::{Error, Executor},
    caches::Caches,
    change::Plan,
    events::Recorder,
    object::{Key, Kind},
    queue::Queue,
    registry,
    store::{Delta, Store},
};

/// Gives a client that acts as the named controller: `deployment-controller` is
/// `system:serviceaccount:kube-system:deployment-controller`, `kube-controller-manager` the user of the shared watches.
pub type Clients = Arc<dyn Fn(&str) -> Client + Send + Sync>;

/// The name under which the room's shared watches are made.
pub const ROOM: &str = "kube-controller-manager";
/// Waits of a key that has not seen its own writes yet, should no event wake it.
const RECHECK: Duration = Duration::from_millis(500);
/// How long workers may take to finish what they began when the room stops.
const DRAIN: Duration = Duration::from_millis(1500);

/// How the room works. Defaults are upstream's.
#[derive(Clone, Debug)]
pub struct Options {
    /// Controllers to run by upstream's names; `*` is all, `-name` is not this one (`--controllers`).
    pub controllers: Vec<String>,
    /// Keys worked on at once by each controller.
    pub workers: usize,
    /// The range pod addresses of nodes are cut from; `None` leaves `spec.podCIDR` alone (`--cluster-cidr`).
    pub cluster_cidr: Option<(IpAddr, u8)>,
    /// Prefix length of one node's share (`--node-cidr-mask-size`).
    pub node_mask: u8,
    /// The certificates clients should trust, as PEM; `None` publishes none (`--root-ca-file`).
    pub root_ca: Option<String>,
    /// Silence after which a node's state is unknown (`--node-monitor-grace-period`).
    pub node_grace: Duration,
    /// Ended pods kept before the oldest are removed; 0 keeps all (`--terminated-pod-gc-threshold`).
    pub terminated_pods: usize,
    /// After so long without use the tokens of secrets end, and after as long again the secrets go
    /// (upstream's `--legacy-service-account-token-clean-up-period`, which is fixed here).
    pub unused_tokens: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            controllers: vec!["*".to_owned()],
            workers: 5,
            cluster_cidr: None,
            node_mask: 24,
            root_ca: None,
            node_grace: Duration::from_secs(50),
            terminated_pods: 12_500,
            unused_tokens: Duration::from_secs(365 * 24 * 3600),
        }
    }
}

impl Options {
    /// Whether the controller of this name shall run.
    #[must_use]
    pub fn runs(&self, name: &str) -> bool {
        if self.controllers.iter().any(|chosen| chosen.strip_prefix('-') == Some(name)) {
            return false;
        }
        self.controllers.iter().any(|chosen| chosen == "*" || chosen == name)
    }
}

/// Why the room cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// `controllers` names something that does not exist.
    #[error("controllers: {name:?} is no controller; there are {known}")]
    Unknown {
        /// The name given.
        name: String,
        /// The names there are.
        known: String,
    },
    /// The share of a node does not fit the range.
    #[error("node mask: /{mask} must be longer than the cluster CIDR's /{range} by at most 16 bits")]
    Mask {
        /// The node mask given.
        mask: u8,
        /// The cluster CIDR's prefix length.
        range: u8,
    },
}

/// Wakes keys of one controller.
pub struct Wake {
    /// The room's caches.
    pub caches: Arc<Caches>,
    queue: Arc<Queue>,
}

impl Wake {
    /// Wakes keys of this queue.
    #[must_use]
    pub fn new(caches: Arc<Caches>, queue: Arc<Queue>) -> Self {
        Self { caches, queue }
    }

    /// Wakes the keys that `keys` names for every change in `store`.
    pub fn on<K: Kind>(&self, store: &Store<K>, keys: impl Fn(Delta<'_, K>, &mut dyn FnMut(Key)) + Send + Sync + 'static) {
        let queue = self.queue.clone();
        store.listen(move |delta| keys(delta, &mut |key| queue.add(key)));
    }

    /// Wakes the object itself.
    pub fn on_self<K: Kind>(&self, store: &Store<K>) {
        self.on(store, |delta, wake| delta.last().into_iter().for_each(|object| wake(Key::of(object.as_ref()))));
    }

    /// Wakes the controllers of `kind` that own the object, before and after the change.
    pub fn on_owned<K: Kind>(&self, store: &Store<K>, kind: &'static str) {
        self.on(store, move |delta, wake| {
            for object in delta.both() {
                if let Some(owner) = object.controller().filter(|owner| owner.kind == kind) {
                    wake(Key::new(object.namespace(), &owner.name));
                }
            }
        });
    }

    /// The queue, for controllers that wake keys by other means.
    #[must_use]
    pub fn queue(&self) -> Arc<Queue> {
        self.queue.clone()
    }
}

/// What every controller has.
pub trait Named: Send + Sync + 'static {
    /// Upstream's name of the controller, as in `--controllers`.
    fn name(&self) -> &'static str;
    /// The service account it acts as and the source of its events.
    fn identity(&self) -> &'static str;
    /// Says which changes wake which keys. A kind that is read but wakes nobody must be `need`ed here.
    fn reads(&self, wake: &Wake);
    /// The shortest time between two runs of one key.
    fn pace(&self) -> Duration {
        Duration::ZERO
    }
    /// Keys worked on at once, if not as many as the room's options say.
    fn workers(&self) -> Option<usize> {
        None
    }
}

/// A controller whose decisions need nothing but the caches.
pub trait Controller: Named {
    /// What to do about `key`. Pure but for reading the caches.
    fn plan(&self, key: &Key, now: Timestamp) -> Plan;
}

/// A controller that must ask the server before it can decide: discovery, live reads.
#[async_trait]
pub trait Reconcile: Named {
    /// Brings `key` closer to what it should be; `Some`: look again after this long.
    async fn reconcile(&self, key: &Key, executor: &Executor, now: Timestamp) -> Result<Option<Duration>, Error>;

    /// Work beside the queue, until `stop`.
    async fn background(&self, _client: Client, _stop: CancellationToken) {}
}

/// A [`Controller`] run as a [`Reconcile`].
pub struct Planned<C>(pub C);

impl<C: Controller> Named for Planned<C> {
    fn name(&self) -> &'static str {
        self.0.name()
    }
    fn identity(&self) -> &'static str {
        self.0.identity()
    }
    fn reads(&self, wake: &Wake) {
        self.0.reads(wake);
    }
    fn pace(&self) -> Duration {
        self.0.pace()
    }
    fn workers(&self) -> Option<usize> {
        self.0.workers()
    }
}

#[async_trait]
impl<C: Controller> Reconcile for Planned<C> {
    async fn reconcile(&self, key: &Key, executor: &Executor, now: Timestamp) -> Result<Option<Duration>, Error> {
        let plan = self.0.plan(key, now);
        let again = plan.again;
        executor.execute(key, plan).await?;
        Ok(again)
    }
}

/// One controller with its queue and its hands.
struct Worker {
    controller: Arc<dyn Reconcile>,
    queue: Arc<Queue>,
    client: Client,
}

/// The built-in controllers, ready to run.
pub struct Controllers {
    caches: Arc<Caches>,
    workers: Vec<Worker>,
    options: Options,
    room: Client,
}

impl Controllers {
    /// Builds the controllers that `options` choose; nothing is started or watched yet.
    ///
    /// # Errors
    /// Names a wrong option and what is allowed.
    pub fn build(clients: &Clients, options: Options) -> Result<Self, BuildError> {
        let caches = Arc::new(Caches::default());
        let all = registry::all(&caches, clients, &options)?;
        let known: BTreeSet<&str> = all.iter().map(|controller| controller.name()).chain(registry::CONDITIONAL).collect();
        for chosen in &options.controllers {
            let name = chosen.trim_start_matches('-');
            if name != "*" && !known.contains(name) {
                let known = known.into_iter().collect::<Vec<_>>().join(", ");
                return Err(BuildError::Unknown { name: name.to_owned(), known });
            }
        }
        let mut workers = Vec::new();
        for controller in all.into_iter().filter(|controller| options.runs(controller.name())) {
            let queue = Arc::new(Queue::new(controller.pace()));
            controller.reads(&Wake::new(caches.clone(), queue.clone()));
            workers.push(Worker { client: clients(controller.identity()), controller, queue });
        }
        Ok(Self { caches, workers, options, room: clients(ROOM) })
    }

    /// The names of the controllers that will run.
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        self.workers.iter().map(|worker| worker.controller.name()).collect()
    }

    /// Runs until `stop`, then lets the workers finish what they began.
    pub fn run(self, stop: CancellationToken) -> BoxFuture<'static, ()> {
        Box::pin(self.work(stop))
    }

    async fn work(self, stop: CancellationToken) {
        let tasks = TaskTracker::new();
        let work = stop.child_token();
        for (_, reflector) in self.caches.reflectors(&self.room, &work) {
            tasks.spawn(reflector);
        }
        if !self.synced(&work).await {
            return;
        }
        tracing::debug!(controllers = self.workers.len(), "caches are filled");
        let stores = self.caches.stores();
        for worker in self.workers {
            let (recorder, sender) = Recorder::new(worker.controller.identity(), worker.client.clone());
            tasks.spawn(sender.run(work.clone()));
            tasks.spawn(background(worker.controller.clone(), worker.client.clone(), work.clone()));
            let executor = Arc::new(Executor::new(worker.client, recorder, &stores));
            for _ in 0..worker.controller.workers().unwrap_or(self.options.workers).max(1) {
                tasks.spawn(run_worker(worker.controller.clone(), worker.queue.clone(), executor.clone(), work.clone()));
            }
        }
        work.cancelled().await;
        tasks.close();
        if tokio::time::timeout(DRAIN, tasks.wait()).await.is_err() {
            tracing::warn!(tasks = tasks.len(), "controllers did not stop in time");
        }
    }

    /// Waits until every cache in use is filled; `false` when stopped before.
    async fn synced(&self, stop: &CancellationToken) -> bool {
        for store in self.caches.stores().into_iter().filter(|store| store.is_needed()) {
            let mut synced = store.synced();
            tokio::select! {
                () = stop.cancelled() => return false,
                result = synced.wait_for(|synced| *synced) => if result.is_err() { return false },
            }
        }
        true
    }
}

fn background(controller: Arc<dyn Reconcile>, client: Client, stop: CancellationToken) -> BoxFuture<'static, ()> {
    Box::pin(async move { controller.background(client, stop).await })
}

async fn run_worker(controller: Arc<dyn Reconcile>, queue: Arc<Queue>, executor: Arc<Executor>, stop: CancellationToken) {
    loop {
        let key = tokio::select! {
            () = stop.cancelled() => return,
            key = queue.take() => key,
        };
        if executor.expectations.satisfied(&key) {
            match controller.reconcile(&key, &executor, Timestamp::now()).await {
                Ok(again) => {
                    queue.forget(&key);
                    if let Some(delay) = again {
                        queue.add_after(key.clone(), delay);
                    }
                }
                Err(error) => {
                    match error {
                        Error::Conflict { .. } => tracing::debug!(controller = controller.name(), %key, %error, "will try again"),
                        _ => tracing::warn!(controller = controller.name(), %key, %error, "will try again"),
                    }
                    queue.add_failed(key.clone());
                }
            }
        } else {
            queue.add_after(key.clone(), RECHECK);
        }
        queue.done(&key);
    }
}
