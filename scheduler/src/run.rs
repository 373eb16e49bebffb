//! The loop: changes in, decisions out. It alone owns the snapshot and the queue.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use kube::Client;
use tokio::{sync::mpsc, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    bind::{self, Events as Story},
    cycle::{Decision, cycle},
    plugins::Events,
    pod::Pod,
    queue::Queue,
    snapshot::Snapshot,
    view,
    watch::{Change, follow},
};

/// How to run a scheduler.
#[derive(Clone, Debug)]
pub struct Options {
    /// Pods with this `spec.schedulerName` are placed.
    pub name: String,
    /// Bindings and conditions written at once.
    pub writes_at_once: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { name: "default-scheduler".into(), writes_at_once: 64 }
    }
}

/// A scheduler, ready to run.
pub struct Scheduler {
    client: Client,
    options: Options,
}

const CHANGES_WAITING: usize = 1024;
/// Decisions between two looks at what changed.
const DECISIONS_AT_ONCE: usize = 32;

impl Scheduler {
    /// A scheduler that speaks through `client` (identity `system:kube-scheduler`).
    pub fn build(client: Client, options: Options) -> Self {
        Self { client, options }
    }

    /// Places pods until `stop`; bindings under way are finished.
    pub fn run(self, stop: CancellationToken) -> BoxFuture<'static, ()> {
        Box::pin(self.work(stop))
    }

    async fn work(self, stop: CancellationToken) {
        let mut tasks = JoinSet::new();
        let (pods_in, mut pods) = mpsc::channel(CHANGES_WAITING);
        let (nodes_in, mut nodes) = mpsc::channel(CHANGES_WAITING);
        tasks.spawn(follow::<view::Pod>(self.client.clone(), pods_in));
        tasks.spawn(follow::<view::Node>(self.client.clone(), nodes_in));
        let story = Story::start(self.client.clone(), &self.options.name, &mut tasks);
        let mut state = State::new(self.client, self.options, story);
        loop {
            let timer = state.next_wake();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(result) = state.writes.join_next() => {
                    if let Ok(Written::Binding { pod, node, result }) = result { state.bound(&pod, &node, result); }
                }
                Some(change) = nodes.recv() => {
                    state.node(change);
                    while let Ok(change) = nodes.try_recv() { state.node(change); }
                }
                Some(change) = pods.recv() => {
                    state.pod(change);
                    for _ in 0..CHANGES_WAITING {
                        let Ok(change) = pods.try_recv() else { break };
                        state.pod(change);
                    }
                }
                () = tokio::time::sleep_until(timer) => {}
            }
            state.decide();
        }
        drop((pods, nodes));
        while state.writes.join_next().await.is_some() {}
        drop(state);
        tasks.shutdown().await;
    }
}

struct State {
    client: Client,
    options: Options,
    story: Story,
    start: Instant,
    snapshot: Snapshot,
    queue: Queue,
    writes: JoinSet<Written>,
    binding: HashMap<String, Arc<Pod>>,
    /// Nothing is decided before both are known.
    synced: (bool, bool),
    turn: usize,
}

/// The end of one write.
enum Written {
    Binding { pod: Arc<Pod>, node: Arc<str>, result: Result<(), kube::Error> },
    Condition,
}

impl State {
    fn new(client: Client, options: Options, story: Story) -> Self {
        Self {
            client,
            options,
            story,
            start: Instant::now(),
            snapshot: Snapshot::default(),
            queue: Queue::default(),
            writes: JoinSet::new(),
            binding: HashMap::new(),
            synced: (false, false),
            turn: 0,
        }
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// When to look again if nothing changes; far away while bindings are at their limit or nothing is known yet.
    fn next_wake(&self) -> Instant {
        let far = Duration::from_secs(3600);
        let idle = self.synced != (true, true) || self.writes.len() >= self.options.writes_at_once;
        let wait = if idle { far } else { self.queue.next_wake().map_or(far, |at| at.saturating_sub(self.now())) };
        Instant::now() + wait
    }

    fn node(&mut self, change: Change<view::Node>) {
        let now = self.now();
        match change {
            Change::Applied(node) => {
                let new = node.clone();
                let events = match self.snapshot.set_node(node) {
                    None => Events::NODE_ADDED,
                    Some(old) => difference(&old, &new),
                };
                self.queue.happened(events, now);
            }
            Change::Deleted { name, .. } => self.snapshot.remove_node(&name),
            Change::Synced => self.synced.0 = true,
        }
    }

    fn pod(&mut self, change: Change<view::Pod>) {
        let now = self.now();
        match change {
            Change::Applied(view) if view.is_finished() => self.left(&view.metadata.uid),
            Change::Applied(view) if !view.spec.node_name.is_empty() => {
                let uid = view.metadata.uid.clone();
                self.queue.remove(&uid);
                let node = view.spec.node_name.clone();
                self.snapshot.place(Arc::new(Pod::new(view)), &node);
            }
            Change::Applied(view) => {
                let ours = view.spec.scheduler_name == self.options.name && view.metadata.deletion_timestamp.is_none();
                if !ours {
                    self.queue.remove(&view.metadata.uid);
                } else if !self.binding.contains_key(&view.metadata.uid) {
                    self.queue.add(Pod::new(view), now);
                }
            }
            Change::Deleted { uid, .. } => self.left(&uid),
            Change::Synced => self.synced.1 = true,
        }
    }

    /// A pod is gone or finished: what it used is free.
    fn left(&mut self, uid: &str) {
        self.queue.remove(uid);
        self.binding.remove(uid);
        if self.snapshot.unplace(uid).is_some() {
            self.queue.happened(Events::POD_LEFT, self.now());
        }
    }

    /// Decides for some pods whose turn it is.
    fn decide(&mut self) {
        if self.synced != (true, true) {
            return;
        }
        for _ in 0..DECISIONS_AT_ONCE {
            if self.writes.len() >= self.options.writes_at_once {
                return;
            }
            let Some(pod) = self.queue.next(self.now()) else { return };
            self.turn = self.turn.wrapping_add(1);
            match cycle(&pod, &self.snapshot, self.turn) {
                Decision::Bind(row) => {
                    let node = self.snapshot.name(row).clone();
                    self.assume(pod, node);
                }
                Decision::Wait { message, helped_by } => self.wait(pod, message, helped_by),
            }
        }
    }

    /// Counts the pod on its node at once and writes the binding beside the loop.
    fn assume(&mut self, pod: Arc<Pod>, node: Arc<str>) {
        let uid = pod.view.metadata.uid.clone();
        self.snapshot.place(pod.clone(), &node);
        self.binding.insert(uid, pod.clone());
        let client = self.client.clone();
        self.writes.spawn(async move {
            let result = bind::bind(&client, &pod, &node).await;
            Written::Binding { pod, node, result }
        });
    }

    fn bound(&mut self, pod: &Pod, node: &str, result: Result<(), kube::Error>) {
        let uid = &pod.view.metadata.uid;
        let still_there = self.binding.remove(uid).is_some();
        match result {
            Ok(()) => {
                self.queue.remove(uid);
                self.story.tell(pod, "Normal", "Scheduled", "Binding", &format!("Successfully assigned {} to {node}", pod.key()));
            }
            Err(error) => {
                self.snapshot.unplace(uid);
                let gone = matches!(&error, kube::Error::Api(status) if status.code == 404);
                if gone || !still_there {
                    self.queue.remove(uid);
                } else {
                    tracing::warn!(pod = pod.key(), %node, %error, "binding failed, trying again");
                    self.queue.retry(uid, self.now());
                }
            }
        }
    }

    fn wait(&mut self, pod: Arc<Pod>, message: String, helped_by: Events) {
        let now = self.now();
        self.queue.park(&pod.view.metadata.uid, helped_by, now);
        if bind::says_unschedulable(&pod, &message) {
            return;
        }
        self.story.tell(&pod, "Warning", "FailedScheduling", "Scheduling", &message);
        let client = self.client.clone();
        self.writes.spawn(async move {
            if let Err(error) = bind::say_unschedulable(&client, &pod, &message).await {
                tracing::debug!(pod = pod.key(), %error, "condition not written");
            }
            Written::Condition
        });
    }
}

/// What changed about a node that can matter to a waiting pod.
fn difference(old: &view::Node, new: &view::Node) -> Events {
    let mut events = Events::none();
    if old.metadata.labels != new.metadata.labels {
        events = events.or(Events::NODE_LABELS);
    }
    if old.spec.taints != new.spec.taints || old.spec.unschedulable != new.spec.unschedulable {
        events = events.or(Events::NODE_TAINTS);
    }
    if old.status.allocatable != new.status.allocatable {
        events = events.or(Events::NODE_ALLOCATABLE);
    }
    events
}
