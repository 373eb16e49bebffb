//! A runtime without containers: sandboxes and containers are entries in a table that start at once and run until they are stopped. The agent over
//! it is the real one, so a process can hold a thousand nodes to try schedulers, controllers and autoscalers on.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::sync::broadcast;

use crate::clock::Clock;
use crate::pods::HASH_ANNOTATION;
use crate::runtime::{
    ContainerConfig, ContainerState, ContainerStats, ContainerStatus, Credentials, ExecOutput, ExecRequest, Image, ImageFilesystem, Images,
    NamespaceMode, Resources, Result, Runtime, RuntimeError, RuntimeEvent, RuntimeStatus, Sandbox, SandboxConfig, SandboxState,
    StreamSession, Version,
};

/// How a stopped container ends: as a program that does not heed SIGTERM, not as one that has done its work: a job whose pod is taken
/// away must not count as done.
const STOPPED: i32 = 143;

/// What every hollow container has written.
const LOG_LINE: &str = "stdout F this container is hollow: nothing runs in it";

/// The runtime of one hollow node.
pub struct Hollow {
    node: String,
    clock: Clock,
    table: Mutex<Table>,
    events: broadcast::Sender<RuntimeEvent>,
}

#[derive(Default)]
struct Table {
    sandboxes: HashMap<String, HollowSandbox>,
    containers: HashMap<String, HollowContainer>,
    range: Option<(u32, u32)>,
    cursor: u32,
    used: HashSet<u32>,
    made: u64,
}

/// Only what can ever be asked for: thousands of these are held.
struct HollowSandbox {
    name: String,
    namespace: String,
    uid: String,
    attempt: u32,
    ready: bool,
    created_at: Timestamp,
    address: Option<u32>,
}

struct HollowContainer {
    sandbox_id: String,
    name: String,
    attempt: u32,
    state: ContainerState,
    created_at: Timestamp,
    started_at: Option<Timestamp>,
    finished_at: Option<Timestamp>,
    exit_code: i32,
    image: String,
    image_id: String,
    hash: String,
}

impl Hollow {
    /// A runtime for the node of that name.
    #[must_use]
    pub fn new(node: &str, clock: Clock) -> Arc<Self> {
        // Nothing is sent unasked here but by tests: the smallest buffer does.
        let (events, _) = broadcast::channel(16);
        Arc::new(Self { node: node.to_owned(), clock, table: Mutex::default(), events })
    }

    /// Ends a container as if its process had exited by itself.
    pub fn exit(&self, id: &str, exit_code: i32) {
        let now = self.clock.now();
        let mut table = self.table.lock();
        let Some(container) = table.containers.get_mut(id) else { return };
        container.end(exit_code, now);
        let status = container.status(id);
        let uid = table.sandboxes.get(&status.sandbox_id).map(|s| s.uid.clone()).unwrap_or_default();
        drop(table);
        let _ = self.events.send(RuntimeEvent::ContainerExited { pod_uid: uid, container: Box::new(status) });
    }

    fn fresh_id(&self, table: &mut Table) -> String {
        table.made += 1;
        let mut hasher = Sha256::new();
        hasher.update(self.node.as_bytes());
        hasher.update(table.made.to_le_bytes());
        hasher.update(self.clock.now().as_nanosecond().to_le_bytes());
        hex(&hasher.finalize())
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]]).map(char::from).collect()
}

impl Table {
    /// Takes the next free address after the network's own and the gateway's.
    fn take_address(&mut self) -> Result<u32> {
        let Some((first, size)) = self.range else {
            return Err(RuntimeError::Failed("this node has no pod address range yet".to_owned()));
        };
        let usable = size.saturating_sub(3);
        for _ in 0..usable {
            self.cursor = (self.cursor + 1) % usable.max(1);
            let address = first + 2 + self.cursor;
            if self.used.insert(address) {
                return Ok(address);
            }
        }
        Err(RuntimeError::Failed(format!("all {usable} addresses of the pod range are in use")))
    }
}

impl HollowSandbox {
    fn view(&self, id: &str) -> Sandbox {
        Sandbox {
            id: id.to_owned(),
            name: self.name.clone(),
            namespace: self.namespace.clone(),
            uid: self.uid.clone(),
            attempt: self.attempt,
            state: if self.ready { SandboxState::Ready } else { SandboxState::NotReady },
            created_at: self.created_at,
            addresses: self.address.map(|a| IpAddr::V4(Ipv4Addr::from(a))).into_iter().collect(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
        }
    }
}

impl HollowContainer {
    fn end(&mut self, exit_code: i32, now: Timestamp) {
        if self.state != ContainerState::Exited {
            self.state = ContainerState::Exited;
            self.exit_code = exit_code;
            self.finished_at = Some(now);
        }
    }

    fn status(&self, id: &str) -> ContainerStatus {
        ContainerStatus {
            id: id.to_owned(),
            sandbox_id: self.sandbox_id.clone(),
            name: self.name.clone(),
            attempt: self.attempt,
            state: self.state,
            created_at: self.created_at,
            started_at: self.started_at,
            finished_at: self.finished_at,
            exit_code: self.exit_code,
            reason: String::new(),
            message: String::new(),
            image: self.image.clone(),
            image_id: self.image_id.clone(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::from([(HASH_ANNOTATION.to_owned(), self.hash.clone())]),
            log_path: PathBuf::new(),
        }
    }
}

fn missing(what: &'static str, id: &str) -> RuntimeError {
    RuntimeError::NotFound { what, id: id.to_owned() }
}

/// `10.1.2.0/24` as first address and size.
fn parse_range(cidr: &str) -> Option<(u32, u32)> {
    let (address, bits) = cidr.split_once('/')?;
    let address: Ipv4Addr = address.parse().ok()?;
    let bits: u32 = bits.parse().ok().filter(|b| (8..=30).contains(b))?;
    let size = 1_u32 << (32 - bits);
    Some((u32::from(address) & !(size - 1), size))
}

#[async_trait]
impl Runtime for Hollow {
    fn version(&self) -> Version {
        Version { name: "hollow".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() }
    }

    async fn status(&self) -> RuntimeStatus {
        let missing = self.table.lock().range.is_none();
        RuntimeStatus {
            not_ready: None,
            network_not_ready: missing.then(|| "no pod address range has been assigned to the node".to_owned()),
        }
    }

    fn images(&self) -> Arc<dyn Images> {
        Arc::new(HollowImages)
    }

    fn events(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.events.subscribe()
    }

    async fn set_pod_cidrs(&self, cidrs: &[String]) -> Result<()> {
        let range = cidrs.iter().find_map(|cidr| parse_range(cidr));
        let range =
            range.ok_or_else(|| RuntimeError::InvalidConfig(format!("pod CIDRs {cidrs:?}: an IPv4 range of /8 to /30 is needed")))?;
        self.table.lock().range = Some(range);
        Ok(())
    }

    async fn run_sandbox(&self, config: SandboxConfig) -> Result<Sandbox> {
        let created_at = self.clock.now();
        let mut table = self.table.lock();
        let address = if config.namespaces.network == NamespaceMode::Node { None } else { Some(table.take_address()?) };
        let id = self.fresh_id(&mut table);
        let sandbox = HollowSandbox {
            name: config.name,
            namespace: config.namespace,
            uid: config.uid,
            attempt: config.attempt,
            ready: true,
            created_at,
            address,
        };
        let view = sandbox.view(&id);
        table.sandboxes.insert(id, sandbox);
        Ok(view)
    }

    async fn stop_sandbox(&self, id: &str) -> Result<()> {
        let now = self.clock.now();
        let mut table = self.table.lock();
        for container in table.containers.values_mut().filter(|c| c.sandbox_id == id) {
            container.end(137, now);
        }
        let address = table.sandboxes.get_mut(id).and_then(|sandbox| {
            sandbox.ready = false;
            sandbox.address.take()
        });
        if let Some(address) = address {
            table.used.remove(&address);
        }
        Ok(())
    }

    async fn remove_sandbox(&self, id: &str) -> Result<()> {
        self.stop_sandbox(id).await?;
        let mut table = self.table.lock();
        table.sandboxes.remove(id);
        table.containers.retain(|_, container| container.sandbox_id != id);
        Ok(())
    }

    async fn list_sandboxes(&self) -> Result<Vec<Sandbox>> {
        Ok(self.table.lock().sandboxes.iter().map(|(id, sandbox)| sandbox.view(id)).collect())
    }

    async fn create_container(&self, sandbox_id: &str, mut config: ContainerConfig) -> Result<String> {
        let created_at = self.clock.now();
        let mut table = self.table.lock();
        if !table.sandboxes.get(sandbox_id).is_some_and(|s| s.ready) {
            return Err(missing("sandbox", sandbox_id));
        }
        let id = self.fresh_id(&mut table);
        let container = HollowContainer {
            sandbox_id: sandbox_id.to_owned(),
            name: config.name,
            attempt: config.attempt,
            state: ContainerState::Created,
            created_at,
            started_at: None,
            finished_at: None,
            exit_code: 0,
            image: config.image,
            image_id: config.image_id,
            hash: config.annotations.remove(HASH_ANNOTATION).unwrap_or_default(),
        };
        table.containers.insert(id.clone(), container);
        Ok(id)
    }

    async fn start_container(&self, id: &str) -> Result<()> {
        let now = self.clock.now();
        let mut table = self.table.lock();
        let container = table.containers.get_mut(id).ok_or_else(|| missing("container", id))?;
        if container.state != ContainerState::Created {
            return Err(RuntimeError::WrongState(format!("container {id} was started before")));
        }
        container.state = ContainerState::Running;
        container.started_at = Some(now);
        Ok(())
    }

    async fn stop_container(&self, id: &str, _grace: Duration) -> Result<()> {
        let now = self.clock.now();
        if let Some(container) = self.table.lock().containers.get_mut(id) {
            container.end(STOPPED, now);
        }
        Ok(())
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        self.table.lock().containers.remove(id);
        Ok(())
    }

    async fn container_status(&self, id: &str) -> Result<ContainerStatus> {
        self.table.lock().containers.get(id).map(|c| c.status(id)).ok_or_else(|| missing("container", id))
    }

    async fn list_containers(&self, sandbox_id: Option<&str>) -> Result<Vec<ContainerStatus>> {
        let table = self.table.lock();
        let wanted = table.containers.iter().filter(|(_, c)| sandbox_id.is_none_or(|id| c.sandbox_id == id));
        Ok(wanted.map(|(id, c)| c.status(id)).collect())
    }

    async fn update_resources(&self, id: &str, _resources: &Resources) -> Result<()> {
        if self.table.lock().containers.contains_key(id) { Ok(()) } else { Err(missing("container", id)) }
    }

    async fn exec_sync(&self, _id: &str, _command: &[String], _timeout: Duration) -> Result<ExecOutput> {
        Err(RuntimeError::Unsupported("exec"))
    }

    async fn exec(&self, _id: &str, _request: ExecRequest) -> Result<StreamSession> {
        Err(RuntimeError::Unsupported("exec"))
    }

    async fn reopen_log(&self, _id: &str) -> Result<()> {
        Ok(())
    }

    fn inline_log(&self, id: &str) -> Option<Bytes> {
        let table = self.table.lock();
        let started = table.containers.get(id)?.started_at?;
        Some(Bytes::from(format!("{started} {LOG_LINE}\n")))
    }

    async fn stats(&self) -> Result<Vec<ContainerStats>> {
        Ok(Vec::new())
    }
}

/// An image store in which every image is present.
struct HollowImages;

fn image_of(reference: &str) -> Result<Image> {
    let bad = reference.is_empty()
        || reference.contains(char::is_whitespace)
        || reference.contains(char::is_uppercase) && !reference.contains(':');
    if bad {
        return Err(RuntimeError::InvalidReference { reference: reference.to_owned(), reason: "invalid reference format".to_owned() });
    }
    let digest = hex(&Sha256::digest(reference.as_bytes()));
    Ok(Image { id: format!("sha256:{digest}"), tags: vec![reference.to_owned()], uid: Some(65_532), ..Image::default() })
}

#[async_trait]
impl Images for HollowImages {
    async fn pull(&self, reference: &str, _credentials: &[Credentials]) -> Result<Image> {
        image_of(reference)
    }

    async fn status(&self, reference: &str) -> Result<Option<Image>> {
        image_of(reference).map(Some)
    }

    async fn list(&self) -> Result<Vec<Image>> {
        Ok(Vec::new())
    }

    async fn remove(&self, _reference: &str) -> Result<()> {
        Ok(())
    }

    async fn filesystem(&self) -> Result<ImageFilesystem> {
        Ok(ImageFilesystem::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_come_from_the_range_and_return_to_it() {
        let runtime = Hollow::new("n", Clock::System);
        let config = |uid: &str| SandboxConfig { uid: uid.to_owned(), ..SandboxConfig::default() };
        assert!(runtime.run_sandbox(config("a")).await.is_err(), "no range yet");
        runtime.set_pod_cidrs(&["10.4.0.0/29".to_owned()]).await.expect("a range");
        let mut ids = Vec::new();
        let mut addresses = HashSet::new();
        for uid in ["a", "b", "c", "d", "e"] {
            let sandbox = runtime.run_sandbox(config(uid)).await.expect("an address is free");
            addresses.insert(sandbox.addresses[0]);
            ids.push(sandbox.id);
        }
        assert_eq!(addresses.len(), 5, "each its own");
        assert!(addresses.iter().all(|a| a.to_string().starts_with("10.4.0.")));
        assert!(runtime.run_sandbox(config("f")).await.is_err(), "all in use");
        runtime.remove_sandbox(&ids[0]).await.expect("removed");
        assert!(runtime.run_sandbox(config("f")).await.is_ok());
    }
}
