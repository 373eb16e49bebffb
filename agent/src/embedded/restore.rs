//! Starting with what is already there, and taking everything down.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::broadcast;

use super::cgroup::Hierarchies;
use super::pod::{Container, Pod};
use super::protocol::Request;
use super::record::{self, ContainerRecord, Phase, SandboxDir, SandboxRecord, Status, boot_id, now_ns};
use super::{Embedded, Inner, MAX_EVENTS, Options, blocking, client, failed, rootfs, sandbox};
use crate::images::Store;
use crate::network::Network;
use crate::runtime::{Result, RuntimeEvent};

/// A shim that runs answers in milliseconds.
const ANSWER: Duration = Duration::from_secs(10);
const CGROUP_PATIENCE: Duration = Duration::from_secs(2);

impl Embedded {
    /// Opens the runtime and finds the pods that are there: those whose shims answer run on as if nothing had been.
    ///
    /// # Errors
    /// When the directory cannot be read or made.
    pub async fn open(options: Options, images: Store) -> Result<Self> {
        fs::create_dir_all(&options.dir).map_err(failed(format!("create {}", options.dir.display())))?;
        let network = Network::new(options.network.clone());
        let inner = Inner {
            options,
            images,
            network,
            hierarchies: Hierarchies::detect(),
            events: broadcast::Sender::new(MAX_EVENTS),
            pods: Mutex::new(BTreeMap::new()),
        };
        let this = Self { inner: Arc::new(inner) };
        let entries = fs::read_dir(&this.inner.options.dir).map_err(failed(format!("list {}", this.inner.options.dir.display())))?;
        for entry in entries.flatten() {
            let dir = SandboxDir(entry.path());
            if let Err(error) = this.restore(&dir).await {
                tracing::warn!(path = %dir.0.display(), %error, "sandbox could not be restored");
            }
        }
        Ok(this)
    }

    async fn restore(&self, dir: &SandboxDir) -> Result<()> {
        let record: SandboxRecord = match record::read(&dir.record()) {
            Ok(record) => record,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                // Its making was cut off.
                sandbox::unpin(dir);
                let _ = fs::remove_dir_all(&dir.0);
                return Ok(());
            }
            Err(e) => return Err(failed("read its record")(e)),
        };
        let same_boot = record.boot == boot_id();
        let pod = Arc::new(Pod::new(dir.clone(), record.clone()));
        for entry in fs::read_dir(dir.containers()).into_iter().flatten().flatten() {
            self.restore_container(&pod, &entry.file_name().to_string_lossy(), same_boot);
        }
        if let (Some(address), true) = (record.address, same_boot && !record.stopped) {
            self.inner.network.restore(&record.id, address, &record.config.port_mappings);
        }
        self.inner.pods.lock().insert(record.id.clone(), pod.clone());
        if same_boot
            && !record.stopped
            && let Err(error) = self.watch(&pod).await
        {
            tracing::warn!(sandbox = %record.id, %error, "the pod's shim does not answer");
            let uid = record.config.uid.clone();
            let _ = self.inner.events.send(RuntimeEvent::SandboxLost { pod_uid: uid, sandbox_id: record.id.clone() });
        }
        Ok(())
    }

    fn restore_container(&self, pod: &Pod, id: &str, same_boot: bool) {
        let dir = pod.dir.container(id);
        let Ok(record) = record::read::<ContainerRecord>(&dir.record()) else {
            // Its making was cut off.
            let _ = fs::remove_dir_all(&dir.0);
            return;
        };
        let mut status: Status = record::read(&dir.status()).unwrap_or_default();
        if !same_boot && status.phase == Phase::Running {
            status = Status { phase: Phase::Exited, pid: 0, finished_ns: now_ns(), exit_code: 255, reason: "Unknown".to_owned(), ..status };
        }
        let in_use = self.inner.images.used(&record.config.image_id);
        let container = Container { record, status: tokio::sync::watch::Sender::new(status), _image: in_use };
        pod.containers.lock().insert(id.to_owned(), Arc::new(container));
    }

    /// Subscribes to a shim and follows it from then on.
    pub(super) async fn watch(&self, pod: &Arc<Pod>) -> io::Result<()> {
        let mut stream = client::open(&pod.dir.0, &Request::Subscribe, &[])?;
        match tokio::time::timeout(ANSWER, pod.catch_up(&mut stream)).await {
            Ok(result) => result?,
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        }
        tokio::spawn(pod.clone().follow(stream, self.inner.events.clone()));
        Ok(())
    }

    /// The store of this runtime's images.
    pub fn image_store(&self) -> &Store {
        &self.inner.images
    }

    /// Imports a folder of archives (those that are new or changed) without blocking the async runtime.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub async fn import_folder(&self, folder: &Path) -> Result<()> {
        let (store, folder) = (self.inner.images.clone(), folder.to_owned());
        blocking(move || {
            for (archive, result) in store.import_folder(&folder)? {
                match result {
                    Ok(images) => tracing::info!(archive, ?images, "images imported"),
                    Err(error) => tracing::warn!(archive, %error, "archive could not be imported"),
                }
            }
            Ok(())
        })
        .await
    }
}

/// Takes down all pods of a runtime, its network and the rules of services, whether or not an agent runs: kills the containers, ends the shims, unmounts, removes
/// the sandboxes' directories. Images stay. Blocks.
///
/// # Errors
/// The first failure; the rest is tried all the same.
pub fn teardown(options: &Options) -> io::Result<()> {
    let hierarchies = Hierarchies::detect();
    let mut result = Ok(());
    let mut keep = |r: io::Result<()>| {
        if result.is_ok() {
            result = r;
        }
    };
    for entry in fs::read_dir(&options.dir).into_iter().flatten().flatten() {
        let dir = SandboxDir(entry.path());
        let record: io::Result<SandboxRecord> = record::read(&dir.record());
        if let Ok(record) = &record {
            let parent = record.cgroup_parent();
            for container in fs::read_dir(dir.containers()).into_iter().flatten().flatten() {
                let id = container.file_name().to_string_lossy().into_owned();
                let cgroup = format!("{parent}/{id}");
                hierarchies.kill(&cgroup, CGROUP_PATIENCE);
                rootfs::unmount_overlay(&dir.container(&id));
                keep(hierarchies.remove(&cgroup, CGROUP_PATIENCE));
            }
            keep(hierarchies.remove(&parent, CGROUP_PATIENCE));
        }
        let _ = client::ask_blocking(&dir.0, &Request::Shutdown);
        sandbox::unpin(&dir);
        match fs::remove_dir_all(&dir.0) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                keep(Err(io::Error::new(e.kind(), format!("remove {}: {e}", dir.0.display()))));
            }
            _ => {}
        }
    }
    keep(Network::teardown(&options.network).map_err(io::Error::other));
    keep(crate::services::teardown());
    result
}
