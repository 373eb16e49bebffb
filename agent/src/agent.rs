//! The agent of one node, and a fleet of them in one process.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::future::BoxFuture;
use kube::Client;
use parking_lot::{Mutex, RwLock};
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cgroups::Cgroups;
use crate::context::{Context, Options, Reserve};
use crate::hollow::Hollow;
use crate::node;
use crate::objects::Objects;
use crate::pods::admit::{self, Taken};
use crate::pods::object::{BoundPod, Glance};
use crate::pods::qos::Amounts;
use crate::pods::registry::{Directory, PodHandle, Signal};
use crate::pods::state::Verdict;
use crate::pods::status::NodeFacts;
use crate::pods::worker::{Found, Worker};
use crate::pods::{CONTAINER_NAME_LABEL, POD_UID_LABEL};
use crate::recorder::{Level, Recorder, Writer};
use crate::runtime::{Runtime, RuntimeEvent};
use crate::source::{self, Selection, Sink};

/// Why an agent cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data directory cannot be used.
    #[error("data directory {path}: {error}")]
    DataDir {
        /// The directory.
        path: String,
        /// What is wrong with it.
        error: std::io::Error,
    },
    /// The container runtime did not answer.
    #[error("container runtime: {0}")]
    Runtime(#[from] crate::runtime::RuntimeError),
}

/// What the agents of one process share.
#[derive(Clone)]
pub struct Shared {
    /// All pods of the process: where the streaming server looks.
    pub directory: Arc<Directory>,
    /// Queue of the one event writer.
    pub events: Writer,
    /// Owner of all tasks.
    pub tasks: TaskTracker,
    /// Ends them.
    pub stop: CancellationToken,
}

impl Shared {
    /// Shared parts for the agents of one process, with the event writer running until `stop`.
    #[must_use]
    pub fn new(stop: CancellationToken) -> Self {
        let tasks = TaskTracker::new();
        // Events of the last seconds still go out while the pods' last status is written.
        let (events, write) = Writer::new(stop.clone());
        tasks.spawn(write);
        Self { directory: Arc::default(), events, tasks, stop }
    }
}

struct Entry {
    handle: Arc<PodHandle>,
    fingerprint: u64,
}

/// The agent of one node.
pub struct Agent {
    ctx: Arc<Context>,
    pods: Mutex<HashMap<String, Entry>>,
    /// What the runtime had at start and no pod has claimed yet.
    found: Mutex<HashMap<String, Found>>,
    me: std::sync::Weak<Self>,
}

impl Agent {
    /// Builds an agent that speaks to the API server as its node through `client`.
    ///
    /// # Errors
    /// When data directory or runtime cannot be used.
    pub fn build<'a>(
        client: Client,
        runtime: Arc<dyn Runtime>,
        options: Options,
        shared: &'a Shared,
    ) -> BoxFuture<'a, Result<Arc<Self>, Error>> {
        Box::pin(Self::make(client, runtime, options, shared))
    }

    async fn make(client: Client, runtime: Arc<dyn Runtime>, options: Options, shared: &Shared) -> Result<Arc<Self>, Error> {
        if options.materialize {
            let make = tokio::fs::create_dir_all(options.data_dir.join("pods")).await;
            make.map_err(|error| Error::DataDir { path: options.data_dir.display().to_string(), error })?;
        }
        let cgroups = if options.materialize && options.cgroups { detect_cgroups() } else { None };
        if !options.pod_cidrs.is_empty() {
            runtime.set_pod_cidrs(&options.pod_cidrs).await?;
        }
        let facts = NodeFacts { addresses: options.node_ips.clone(), scheme: runtime.version().name };
        let stop = shared.stop.child_token();
        let ctx = Arc::new(Context {
            recorder: Recorder::new(shared.events.clone(), client.clone(), &options.node_name, options.clock, options.events),
            objects: Objects::new(client.clone(), shared.directory.clone(), shared.tasks.clone(), stop.clone()),
            images: runtime.images(),
            tokens: crate::volumes::token::Tokens::default(),
            puller: crate::pull::Puller::default(),
            node: RwLock::default(),
            node_changed: tokio::sync::Notify::new(),
            directory: shared.directory.clone(),
            tasks: shared.tasks.clone(),
            cgroups,
            facts,
            client,
            runtime,
            options,
            stop,
        });
        let found = find(&ctx).await?;
        Ok(Arc::new_cyclic(|me| Self { ctx, pods: Mutex::default(), found: Mutex::new(found), me: me.clone() }))
    }

    /// Name of the node.
    #[must_use]
    pub fn node_name(&self) -> &str {
        &self.ctx.options.node_name
    }

    /// Runs the node alone: its object, its pods, its runtime's events; until the shared stop. Containers go on.
    pub fn run(self: Arc<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            self.start();
            let selection = Selection::Node(self.node_name().to_owned());
            source::run(&self.ctx.client, &selection, self.as_ref(), &self.ctx.stop).await;
        })
    }

    /// Starts all but the watch of pods (a fleet has one for all its nodes).
    fn start(self: &Arc<Self>) {
        self.ctx.tasks.spawn(node::run(self.ctx.clone()));
        let this = self.clone();
        self.ctx.tasks.spawn(async move { this.follow_runtime().await });
    }

    async fn follow_runtime(&self) {
        let mut events = self.ctx.runtime.events();
        loop {
            let event = tokio::select! {
                () = self.ctx.stop.cancelled() => return,
                event = events.recv() => event,
            };
            match event {
                Ok(RuntimeEvent::ContainerExited { pod_uid, container }) => self.signal(&pod_uid, Signal::Exited(container)),
                Ok(RuntimeEvent::SandboxLost { pod_uid, sandbox_id }) => self.signal(&pod_uid, Signal::SandboxLost(sandbox_id)),
                Err(RecvError::Lagged(_)) => {
                    let all: Vec<_> = self.pods.lock().values().map(|e| e.handle.clone()).collect();
                    for handle in all {
                        handle.signal(Signal::Relist);
                    }
                }
                Err(RecvError::Closed) => return,
            }
        }
    }

    fn signal(&self, uid: &str, signal: Signal) {
        let handle = self.pods.lock().get(uid).map(|e| e.handle.clone());
        if let Some(handle) = handle {
            handle.signal(signal);
        }
    }

    fn adopt_or_start(&self, pod: Arc<BoundPod>, fingerprint: u64) {
        let found = self.found.lock().remove(&pod.metadata.uid).unwrap_or_default();
        // What runs already was admitted once; a pod that is over or going needs no admission.
        let known = !found.sandboxes.is_empty() || pod.is_terminal() || pod.metadata.deletion_timestamp.is_some();
        let verdict = if known { None } else { self.admit(&pod).err() };
        if let Some(verdict) = &verdict {
            let words = verdict.message.trim_start_matches("Pod was rejected: ").to_owned();
            self.ctx.recorder.warning(&pod, None, static_reason(&verdict.reason), words);
        }
        let handle = Arc::new(PodHandle::new(self.ctx.clone(), &pod));
        self.ctx.directory.insert(&pod, handle.clone());
        self.pods.lock().insert(handle.uid.clone(), Entry { handle: handle.clone(), fingerprint });
        let worker = Worker::new(self.ctx.clone(), handle, pod.clone(), found, verdict);
        let me = self.me.clone();
        self.ctx.tasks.spawn(async move {
            worker.run().await;
            if let Some(agent) = me.upgrade() {
                agent.pods.lock().remove(&pod.metadata.uid);
                agent.ctx.directory.remove(&pod);
            }
        });
    }

    fn admit(&self, pod: &BoundPod) -> Result<(), Verdict> {
        let mut taken = Taken::default();
        let wants_ports = !admit::host_ports(pod).is_empty();
        for entry in self.pods.lock().values().filter(|e| !e.handle.is_over()) {
            taken.pods += 1;
            taken.requests = taken.requests.plus(entry.handle.requests);
            if wants_ports {
                taken.ports.extend(admit::host_ports(&entry.handle.view().pod));
            }
        }
        let node = self.ctx.node.read().clone();
        admit::admit(pod, &self.ctx.options.node_name, &node, self.ctx.options.max_pods, &taken)
    }

    /// Removes what no pod owns any more: the API server forgot it while the agent was away.
    fn remove_orphans(&self, uids: &HashSet<String>) {
        let orphans: Vec<(String, Found)> = self.found.lock().drain().filter(|(uid, _)| !uids.contains(uid)).collect();
        for (uid, found) in orphans {
            let ctx = self.ctx.clone();
            self.ctx.tasks.spawn(async move {
                tracing::info!(uid, containers = found.containers.len(), "removing a pod that no longer exists");
                for container in &found.containers {
                    let grace = container.annotations.get(crate::pods::GRACE_ANNOTATION).and_then(|g| g.parse().ok()).unwrap_or(30);
                    let _ = ctx.runtime.stop_container(&container.id, std::time::Duration::from_secs(grace)).await;
                    let _ = ctx.runtime.remove_container(&container.id).await;
                }
                for sandbox in &found.sandboxes {
                    let _ = ctx.runtime.stop_sandbox(&sandbox.id).await;
                    if let Err(error) = ctx.runtime.remove_sandbox(&sandbox.id).await {
                        tracing::warn!(uid, %error, "sandbox of a vanished pod not removed");
                    }
                    let _ = tokio::fs::remove_dir_all(ctx.log_dir(&sandbox.namespace, &sandbox.name, &uid)).await;
                }
                crate::volumes::remove_stale(&ctx.pod_dir(&uid)).await;
            });
        }
    }
}

impl Sink for Agent {
    fn offer(&self, glance: &Glance<'_>, decode: &dyn Fn() -> Result<BoundPod, serde_json::Error>) {
        let fingerprint = glance.fingerprint();
        let known = self.pods.lock().get(glance.uid()).map(|e| (e.fingerprint == fingerprint, e.handle.clone()));
        if let Some((true, handle)) = &known
            && (glance.ready().is_none() || glance.ready() == handle.said_ready())
        {
            return;
        }
        let pod = match decode() {
            Ok(pod) => Arc::new(pod),
            Err(error) => {
                tracing::error!(uid = glance.uid(), %error, "a pod cannot be read");
                return;
            }
        };
        match known {
            Some((_, handle)) => {
                if let Some(entry) = self.pods.lock().get_mut(glance.uid()) {
                    entry.fingerprint = fingerprint;
                }
                handle.update(pod);
            }
            None => self.adopt_or_start(pod, fingerprint),
        }
    }

    fn gone(&self, _node: &str, uid: &str) {
        let handle = self.pods.lock().get(uid).map(|e| e.handle.clone());
        if let Some(handle) = handle {
            handle.remove();
        }
    }

    fn synced(&self, uids: &HashSet<String>) {
        let gone: Vec<_> = self.pods.lock().values().filter(|e| !uids.contains(&e.handle.uid)).map(|e| e.handle.clone()).collect();
        for handle in gone {
            handle.remove();
        }
        self.remove_orphans(uids);
    }
}

/// Reasons of rejected pods, for events.
fn static_reason(reason: &str) -> &'static str {
    match reason {
        "OutOfcpu" => "OutOfcpu",
        "OutOfmemory" => "OutOfmemory",
        "OutOfpods" => "OutOfpods",
        "OutOfephemeral-storage" => "OutOfephemeral-storage",
        "NodeAffinity" => "NodeAffinity",
        "NodePorts" => "NodePorts",
        "Evicted" => "Evicted",
        _ => "UnexpectedAdmissionError",
    }
}

fn detect_cgroups() -> Option<Cgroups> {
    match Cgroups::detect("") {
        Ok(cgroups) => Some(cgroups),
        Err(error) => {
            tracing::warn!(%error, "pods get no cgroups of their own: limits of whole pods do not apply; run as root or delegate the cgroup");
            None
        }
    }
}

/// What the runtime has, by pod.
async fn find(ctx: &Context) -> Result<HashMap<String, Found>, Error> {
    let mut found: HashMap<String, Found> = HashMap::new();
    let mut owner = HashMap::new();
    for sandbox in ctx.runtime.list_sandboxes().await? {
        owner.insert(sandbox.id.clone(), sandbox.uid.clone());
        found.entry(sandbox.uid.clone()).or_default().sandboxes.push(sandbox);
    }
    for container in ctx.runtime.list_containers(None).await? {
        let uid = container.labels.get(POD_UID_LABEL).or_else(|| owner.get(&container.sandbox_id)).cloned();
        let mut container = container;
        if let Some(name) = container.labels.get(CONTAINER_NAME_LABEL) {
            container.name.clone_from(name);
        }
        if let Some(uid) = uid {
            found.entry(uid).or_default().containers.push(container);
        }
    }
    Ok(found)
}

/// Makes clients with a node's identity.
pub type ClientFor = Arc<dyn Fn(&str) -> Client + Send + Sync>;

/// Many hollow nodes in one process: the agents are real, one watch of pods serves them all.
pub struct Fleet {
    agents: HashMap<String, Arc<Agent>>,
    watch: Client,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// What a hollow node offers when nothing else is said.
const HOLLOW_CAPACITY: Amounts = Amounts { cpu_milli: 32_000, memory: 256 << 30, ephemeral_storage: 1 << 40 };

impl Fleet {
    /// Hollow nodes by the settings given, each with the client `client_for` makes for it; `watch` may list and watch all pods and nodes.
    /// Only warnings become events. Nodes without address ranges take those a controller writes into their objects.
    ///
    /// # Errors
    /// When one cannot be built.
    pub async fn hollow(watch: Client, client_for: &ClientFor, nodes: Vec<Options>, shared: &Shared) -> Result<Self, Error> {
        let mut agents = HashMap::with_capacity(nodes.len());
        for options in nodes {
            // As upstream's hollow nodes: ordinary events would cost more than all the rest.
            let events = Level::Warnings;
            let capacity = options.capacity.or(Some(HOLLOW_CAPACITY));
            let options = Options { materialize: false, cgroups: false, reserve: Reserve::NONE, events, capacity, ..options };
            let runtime = Hollow::new(&options.node_name, options.clock);
            let agent = Agent::build(client_for(&options.node_name), runtime, options, shared).await?;
            agents.insert(agent.node_name().to_owned(), agent);
        }
        Ok(Self { agents, watch, tasks: shared.tasks.clone(), stop: shared.stop.clone() })
    }

    /// Runs all nodes until the shared stop.
    pub fn run(self) -> BoxFuture<'static, ()> {
        Box::pin(async move { self.work().await })
    }

    async fn work(&self) {
        for agent in self.agents.values() {
            agent.start();
        }
        let contexts: HashMap<String, Arc<Context>> = self.agents.iter().map(|(name, agent)| (name.clone(), agent.ctx.clone())).collect();
        let (client, stop) = (self.watch.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = node::follow(client, contexts) => {}
            }
        });
        source::run(&self.watch, &Selection::Bound, self, &self.stop).await;
    }
}

impl Sink for Fleet {
    fn offer(&self, glance: &Glance<'_>, decode: &dyn Fn() -> Result<BoundPod, serde_json::Error>) {
        if let Some(agent) = self.agents.get(glance.node()) {
            agent.offer(glance, decode);
        }
    }

    fn gone(&self, node: &str, uid: &str) {
        if let Some(agent) = self.agents.get(node) {
            agent.gone(node, uid);
        }
    }

    fn synced(&self, uids: &HashSet<String>) {
        for agent in self.agents.values() {
            agent.synced(uids);
        }
    }
}
