//! A sandbox and its containers as the agent knows them, kept up to date by what its shim tells.

use std::collections::BTreeMap;
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::UnixStream;
use tokio::sync::{broadcast, watch};

use super::client;
use super::protocol::Reply;
use super::record::{ContainerRecord, Phase, SandboxDir, SandboxRecord, Status, timestamp};
use crate::images::Use;
use crate::runtime::{self, ContainerState, ContainerStatus, RuntimeError, RuntimeEvent, Sandbox, SandboxState};

/// One sandbox.
pub(super) struct Pod {
    /// Where it is on disk.
    pub(super) dir: SandboxDir,
    /// What is on disk about it.
    pub(super) record: Mutex<SandboxRecord>,
    /// Its containers by id.
    pub(super) containers: Mutex<BTreeMap<String, Arc<Container>>>,
    /// Whether its shim answers.
    pub(super) alive: AtomicBool,
    /// The shim, when this process started it: to be waited for.
    pub(super) shim: Mutex<Option<Child>>,
}

/// One container.
pub(super) struct Container {
    /// What is on disk about it.
    pub(super) record: ContainerRecord,
    /// Its status, to look at and to wait on.
    pub(super) status: watch::Sender<Status>,
    /// The image stays while this lives.
    pub(super) _image: Use,
}

impl Pod {
    /// A pod without containers.
    pub(super) fn new(dir: SandboxDir, record: SandboxRecord) -> Self {
        Self { dir, record: Mutex::new(record), containers: Mutex::default(), alive: AtomicBool::new(false), shim: Mutex::default() }
    }

    /// Whether it can take containers.
    pub(super) fn ready(&self) -> bool {
        self.alive.load(Ordering::Acquire) && !self.record.lock().stopped
    }

    /// Its containers.
    pub(super) fn all(&self) -> Vec<Arc<Container>> {
        self.containers.lock().values().cloned().collect()
    }

    /// As the seam shows it.
    pub(super) fn describe(&self) -> Sandbox {
        let ready = self.ready();
        let record = self.record.lock();
        Sandbox {
            id: record.id.clone(),
            name: record.config.name.clone(),
            namespace: record.config.namespace.clone(),
            uid: record.config.uid.clone(),
            attempt: record.config.attempt,
            state: if ready { SandboxState::Ready } else { SandboxState::NotReady },
            created_at: timestamp(record.created_ns).unwrap_or_default(),
            addresses: record.address.into_iter().map(Into::into).collect(),
            labels: record.config.labels.clone(),
            annotations: record.config.annotations.clone(),
        }
    }

    /// A container's status as the seam shows it.
    pub(super) fn container_status(&self, container: &Container) -> ContainerStatus {
        let sandbox_id = self.record.lock().id.clone();
        let lost = !self.alive.load(Ordering::Acquire);
        let status = container.status.borrow().clone();
        let config = &container.record.config;
        ContainerStatus {
            id: container.record.id.clone(),
            sandbox_id,
            name: config.name.clone(),
            attempt: config.attempt,
            state: match status.phase {
                Phase::Created => ContainerState::Created,
                Phase::Running if lost => ContainerState::Unknown,
                Phase::Running => ContainerState::Running,
                Phase::Exited => ContainerState::Exited,
            },
            created_at: timestamp(container.record.created_ns).unwrap_or_default(),
            started_at: timestamp(status.started_ns),
            finished_at: timestamp(status.finished_ns),
            exit_code: status.exit_code,
            reason: status.reason,
            message: status.message,
            image: config.image.clone(),
            image_id: config.image_id.clone(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            log_path: config.log_path.clone(),
        }
    }

    /// Takes a status from the shim; answers whether the container just ended.
    fn take(&self, id: &str, status: Status) -> Option<Arc<Container>> {
        let container = self.containers.lock().get(id).cloned()?;
        let before = container.status.send_replace(status);
        let now = container.status.borrow().phase;
        (now == Phase::Exited && before.phase == Phase::Running).then_some(container)
    }

    /// Reads the present statuses from a new subscription.
    pub(super) async fn catch_up(&self, stream: &mut UnixStream) -> std::io::Result<()> {
        loop {
            match client::next(stream).await? {
                Some(Reply::Status { id, status }) => {
                    self.take(&id, status);
                }
                Some(Reply::Current) => break,
                _ => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            }
        }
        self.alive.store(true, Ordering::Release);
        Ok(())
    }

    /// Follows a subscription until the shim is gone.
    pub(super) async fn follow(self: Arc<Self>, mut stream: UnixStream, events: broadcast::Sender<RuntimeEvent>) {
        let pod_uid = self.record.lock().config.uid.clone();
        while let Ok(Some(reply)) = client::next(&mut stream).await {
            if let Reply::Status { id, status } = reply
                && let Some(container) = self.take(&id, status)
            {
                let container = Box::new(self.container_status(&container));
                let _ = events.send(RuntimeEvent::ContainerExited { pod_uid: pod_uid.clone(), container });
            }
        }
        self.alive.store(false, Ordering::Release);
        let (stopped, sandbox_id) = {
            let record = self.record.lock();
            (record.stopped, record.id.clone())
        };
        // Wake those who wait for a container that nobody watches any more.
        self.all().iter().for_each(|container| container.status.send_modify(|_| ()));
        if !stopped {
            tracing::warn!(sandbox = %sandbox_id, "the pod's shim ended unexpectedly");
            let _ = events.send(RuntimeEvent::SandboxLost { pod_uid, sandbox_id });
        }
    }

    /// Waits until a container's status fits; `Timeout` after the time, `Failed` when its shim is gone.
    pub(super) async fn wait(&self, container: &Container, limit: Duration, fits: impl Fn(&Status) -> bool) -> runtime::Result<()> {
        let mut receiver = container.status.subscribe();
        let changed = receiver.wait_for(|status| fits(status) || !self.alive.load(Ordering::Acquire));
        match tokio::time::timeout(limit, changed).await {
            Ok(Ok(status)) if fits(&status) => Ok(()),
            Ok(_) => Err(RuntimeError::Failed("the pod's shim is gone".to_owned())),
            Err(_) => Err(RuntimeError::Timeout(limit)),
        }
    }
}
