//! Which pods this process runs: a handle for each, found by uid (the agent) or by name (logs, exec).

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use k8s_openapi::api::core::v1::PodStatus;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use super::object::BoundPod;
use super::qos::Amounts;
use super::state::Verdict;
use crate::context::Context;
use crate::probes::Kind;
use crate::runtime::{ContainerStatus, Image};

/// Signals one pod may have waiting; beyond that it asks the runtime for everything instead.
const INBOX: usize = 128;

/// Something that happened to a pod outside its worker.
#[derive(Debug, Clone)]
pub enum Signal {
    /// A container ended, or is known to have.
    Exited(Box<ContainerStatus>),
    /// The sandbox broke.
    SandboxLost(String),
    /// A probe changed its mind.
    Probed {
        /// Runtime id of the container.
        id: String,
        /// Which probe.
        kind: Kind,
        /// Its result.
        passed: bool,
        /// What to say when it failed.
        message: String,
    },
    /// A pull ended.
    Pulled {
        /// Container it was for.
        container: String,
        /// The image, or the reason and words of the failure.
        result: Result<Arc<Image>, (&'static str, String)>,
    },
    /// A container could not be stopped.
    StopFailed(String),
    /// The hook after start failed: the container is to go.
    HookFailed {
        /// Runtime id of the container.
        id: String,
        /// Why.
        message: String,
    },
    /// A config map or secret a volume shows has changed, or one that was missing appeared.
    ObjectChanged,
    /// The agent decided against the pod.
    Evict(Verdict),
    /// Signals were lost: ask the runtime.
    Relist,
}

#[derive(Debug, Default)]
struct Inbox {
    pod: Option<Arc<BoundPod>>,
    removed: bool,
    signals: VecDeque<Signal>,
}

/// What a worker finds when it looks.
#[derive(Debug, Default)]
pub struct Mail {
    /// A newer copy of the pod.
    pub pod: Option<Arc<BoundPod>>,
    /// The object is gone from the API server.
    pub removed: bool,
    /// Signals in order.
    pub signals: VecDeque<Signal>,
}

/// A container as the streaming server needs it.
#[derive(Debug, Clone)]
pub struct ContainerRef {
    /// Name.
    pub name: String,
    /// Runtime id of the latest instance.
    pub id: Option<String>,
    /// Whether it runs.
    pub running: bool,
    /// Log of the latest instance.
    pub log_path: PathBuf,
    /// Id and log of the instance before.
    pub previous: Option<(String, PathBuf)>,
    /// Why there is no instance, for error messages.
    pub waiting: String,
}

/// What others may see of a pod.
#[derive(Debug, Clone, Default)]
pub struct PodView {
    /// The pod.
    pub pod: Arc<BoundPod>,
    /// Its status as last written.
    pub status: Arc<PodStatus>,
    /// Its sandbox.
    pub sandbox_id: Option<String>,
    /// Its containers.
    pub containers: Vec<ContainerRef>,
}

/// One pod of one node.
pub struct PodHandle {
    /// Uid.
    pub uid: String,
    /// The node's agent.
    pub context: Arc<Context>,
    /// What it asks for, counted against the node.
    pub requests: Amounts,
    inbox: Mutex<Inbox>,
    bell: Notify,
    view: RwLock<PodView>,
    over: AtomicBool,
    shown: Notify,
}

impl PodHandle {
    /// A handle for a pod that is about to get a worker.
    #[must_use]
    pub fn new(context: Arc<Context>, pod: &Arc<BoundPod>) -> Self {
        let requests = super::qos::pod_requests(&pod.spec);
        let status = Arc::new(pod.status.clone());
        let view = PodView { pod: pod.clone(), status, ..PodView::default() };
        Self {
            uid: pod.metadata.uid.clone(),
            context,
            requests,
            inbox: Mutex::default(),
            bell: Notify::new(),
            view: RwLock::new(view),
            over: AtomicBool::new(false),
            shown: Notify::new(),
        }
    }

    /// Hands over a newer copy of the pod.
    pub fn update(&self, pod: Arc<BoundPod>) {
        self.inbox.lock().pod = Some(pod);
        self.bell.notify_one();
    }

    /// Tells that the object is gone.
    pub fn remove(&self) {
        self.inbox.lock().removed = true;
        self.bell.notify_one();
    }

    /// Tells what happened.
    pub fn signal(&self, signal: Signal) {
        let mut inbox = self.inbox.lock();
        if inbox.signals.len() >= INBOX {
            inbox.signals.clear();
            inbox.signals.push_back(Signal::Relist);
        }
        inbox.signals.push_back(signal);
        drop(inbox);
        self.bell.notify_one();
    }

    /// Takes what has come since the last look.
    pub fn collect(&self) -> Mail {
        let mut inbox = self.inbox.lock();
        Mail { pod: inbox.pod.take(), removed: inbox.removed, signals: std::mem::take(&mut inbox.signals) }
    }

    /// Waits until something has come.
    pub async fn wait(&self) {
        self.bell.notified().await;
    }

    /// Whether the pod was ready when its status was last written; `None` when that was not said yet.
    #[must_use]
    pub fn said_ready(&self) -> Option<bool> {
        self.view.read().status.conditions.iter().flatten().find(|c| c.type_ == "Ready").map(|c| c.status == "True")
    }

    /// What others may see.
    #[must_use]
    pub fn view(&self) -> PodView {
        self.view.read().clone()
    }

    /// Whether nothing of it will run again, so that it takes no resources any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Notes that nothing of it will run again.
    pub fn set_over(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Shows others the present state.
    pub fn show(&self, view: PodView) {
        *self.view.write() = view;
        self.shown.notify_waiters();
    }

    /// Completes when the view has changed after this was called (and enabled or polled).
    pub fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.shown.notified()
    }

    /// Shows others the status last written.
    pub fn show_status(&self, status: Arc<PodStatus>) {
        self.view.write().status = status;
    }
}

/// All pods of all nodes of this process.
#[derive(Default)]
pub struct Directory {
    by_uid: RwLock<HashMap<String, Arc<PodHandle>>>,
    by_name: RwLock<HashMap<(String, String), Arc<PodHandle>>>,
}

impl Directory {
    /// The pod of that uid.
    #[must_use]
    pub fn get(&self, uid: &str) -> Option<Arc<PodHandle>> {
        self.by_uid.read().get(uid).cloned()
    }

    /// The pod of that name.
    #[must_use]
    pub fn find(&self, namespace: &str, name: &str) -> Option<Arc<PodHandle>> {
        self.by_name.read().get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// Adds a pod; a newer pod takes over the name of an older one that is still ending.
    pub fn insert(&self, pod: &BoundPod, handle: Arc<PodHandle>) {
        self.by_name.write().insert((pod.metadata.namespace.clone(), pod.metadata.name.clone()), handle.clone());
        self.by_uid.write().insert(handle.uid.clone(), handle);
    }

    /// Forgets a pod.
    pub fn remove(&self, pod: &BoundPod) {
        self.by_uid.write().remove(&pod.metadata.uid);
        let key = (pod.metadata.namespace.clone(), pod.metadata.name.clone());
        let mut names = self.by_name.write();
        if names.get(&key).is_some_and(|handle| handle.uid == pod.metadata.uid) {
            names.remove(&key);
        }
    }

    /// Pods of one node, or of all.
    #[must_use]
    pub fn list(&self, node: Option<&str>) -> Vec<Arc<PodHandle>> {
        let all = self.by_uid.read();
        all.values().filter(|handle| node.is_none_or(|name| handle.context.options.node_name == name)).cloned().collect()
    }
}
