//! The [`Runtime`] seam over pods and their shims.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::broadcast;

use super::pod::{Container, Pod};
use super::protocol::{self, Request};
use super::record::{self, ContainerRecord, Phase, SandboxDir, SandboxRecord, Status, boot_id, now_ns};
use super::{Embedded, blocking, client, failed, new_id, rootfs, sandbox};
use crate::images::ImageError;
use crate::network::{Ipv4Net, NetworkError};
use crate::runtime::{
    Connection, ContainerConfig, ContainerStats, ContainerStatus, ExecOutput, ExecRequest, Images, Resources, Result, Runtime,
    RuntimeError, RuntimeEvent, RuntimeStatus, Sandbox, SandboxConfig, StreamSession, Version,
};

/// After SIGKILL a process ends at once, unless it is stuck in the kernel.
const KILL_PATIENCE: Duration = Duration::from_secs(30);
/// The kernel may need a moment to let go of a cgroup.
const CGROUP_PATIENCE: Duration = Duration::from_secs(2);
/// Between the shim's answer to a start and the news of it.
const NEWS_PATIENCE: Duration = Duration::from_secs(10);

impl Embedded {
    fn pod(&self, id: &str) -> Result<Arc<Pod>> {
        let pod = self.inner.pods.lock().get(id).cloned();
        pod.ok_or_else(|| RuntimeError::NotFound { what: "sandbox", id: id.to_owned() })
    }

    fn find(&self, id: &str) -> Result<(Arc<Pod>, Arc<Container>)> {
        let pods: Vec<_> = self.inner.pods.lock().values().cloned().collect();
        let found = pods.into_iter().find_map(|pod| {
            let container = pod.containers.lock().get(id).cloned()?;
            Some((pod, container))
        });
        found.ok_or_else(|| RuntimeError::NotFound { what: "container", id: id.to_owned() })
    }

    /// Everything a sandbox needs that blocks: directory, shim, namespaces, network.
    fn make_sandbox(&self, record: &mut SandboxRecord) -> Result<std::process::Child> {
        let dir = SandboxDir(self.inner.options.dir.join(&record.id));
        fs::create_dir_all(dir.containers()).map_err(failed("create the sandbox's directory"))?;
        record::write(&dir.record(), record).map_err(failed("write the sandbox's record"))?;
        let shim = self.start_shim(&dir).map_err(failed("start the pod's shim"))?;
        let made = (|| {
            sandbox::pin(record, &dir).map_err(failed("set up the sandbox"))?;
            if record.own_network() {
                let address = self.inner.network.attach(&record.id, &dir.namespace("net"), &record.config.port_mappings)?;
                record.address = Some(address);
                record::write(&dir.record(), record).map_err(failed("write the sandbox's record"))?;
            }
            Ok(())
        })();
        match made {
            Ok(()) => Ok(shim),
            Err(error) => {
                let _ = client::ask_blocking(&dir.0, &Request::Shutdown);
                let mut shim = shim;
                let _ = shim.wait();
                let _ = self.inner.network.detach(&record.id);
                sandbox::unpin(&dir);
                let _ = fs::remove_dir_all(&dir.0);
                Err(error)
            }
        }
    }

    fn start_shim(&self, dir: &SandboxDir) -> std::io::Result<std::process::Child> {
        let listener = protocol::listen(&dir.0, "shim.sock")?;
        let words = fs::File::options().create(true).append(true).open(dir.0.join("shim.log"))?;
        let program = self.inner.options.shim.clone().unwrap_or_else(|| PathBuf::from("/proc/self/exe"));
        let mut command = Command::new(program);
        command.arg("shim").arg(&dir.0).env_clear().current_dir("/");
        command.stdin(Stdio::from(std::os::fd::OwnedFd::from(listener))).stdout(Stdio::null()).stderr(words);
        command.spawn()
    }

    /// Kills what runs in a pod and lets go of its namespaces, network and shim.
    async fn wind_down(&self, pod: &Arc<Pod>) -> Result<()> {
        let record = {
            let mut record = pod.record.lock();
            record.stopped = true;
            record.clone()
        };
        for container in pod.all() {
            self.kill(pod, &container).await?;
        }
        let (this, pod) = (self.clone(), pod.clone());
        blocking(move || {
            record::write(&pod.dir.record(), &record).map_err(failed("write the sandbox's record"))?;
            if record.own_network() {
                this.inner.network.detach(&record.id)?;
            }
            sandbox::unpin(&pod.dir);
            let _ = client::ask_blocking(&pod.dir.0, &Request::Shutdown);
            if let Some(mut shim) = pod.shim.lock().take() {
                let _ = shim.wait();
            }
            Ok(())
        })
        .await
    }

    /// Ends a container without grace. Without a shim its cgroup is emptied.
    async fn kill(&self, pod: &Arc<Pod>, container: &Arc<Container>) -> Result<()> {
        if container.status.borrow().phase != Phase::Running {
            return Ok(());
        }
        let ask = Request::Signal { id: container.record.id.clone(), signal: libc::SIGKILL };
        if client::ask(&pod.dir.0, &ask).await.is_ok()
            && pod.wait(container, KILL_PATIENCE, |status| status.phase == Phase::Exited).await.is_ok()
        {
            return Ok(());
        }
        let (this, cgroup) = (self.clone(), cgroup_of(pod, container));
        blocking(move || {
            this.inner.hierarchies.kill(&cgroup, CGROUP_PATIENCE);
            Ok(())
        })
        .await?;
        container.status.send_modify(|status| {
            if status.phase == Phase::Running {
                status.phase = Phase::Exited;
                status.finished_ns = now_ns();
                status.exit_code = 137;
            }
        });
        let _ = record::write(&pod.dir.container(&container.record.id).status(), &*container.status.borrow());
        Ok(())
    }

    async fn discard(&self, pod: &Arc<Pod>, container: &Arc<Container>) -> Result<()> {
        self.kill(pod, container).await?;
        let id = container.record.id.clone();
        let _ = client::ask(&pod.dir.0, &Request::Forget { id: id.clone() }).await;
        let (this, dir, cgroup) = (self.clone(), pod.dir.container(&id), cgroup_of(pod, container));
        blocking(move || {
            this.inner.hierarchies.kill(&cgroup, CGROUP_PATIENCE);
            rootfs::unmount_overlay(&dir);
            this.inner.hierarchies.remove(&cgroup, CGROUP_PATIENCE).map_err(failed("remove container"))?;
            match fs::remove_dir_all(&dir.0) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(failed(format!("remove {}", dir.0.display()))(e)),
                _ => Ok(()),
            }
        })
        .await?;
        pod.containers.lock().remove(&container.record.id);
        Ok(())
    }
}

pub(super) fn cgroup_of(pod: &Pod, container: &Container) -> String {
    format!("{}/{}", pod.record.lock().cgroup_parent(), container.record.id)
}

/// The number of a signal by name, with or without `SIG`, or a number.
fn signal_number(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(offset) = short.strip_prefix("RTMIN+") {
        return offset.parse::<i32>().ok().map(|n| libc::SIGRTMIN() + n).filter(|n| *n <= 64);
    }
    if let Some(offset) = short.strip_prefix("RTMAX-") {
        return offset.parse::<i32>().ok().map(|n| 64 - n).filter(|n| *n >= libc::SIGRTMIN());
    }
    match short {
        "RTMIN" => Some(libc::SIGRTMIN()),
        "RTMAX" => Some(64),
        _ => format!("SIG{short}").parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32),
    }
}

impl From<NetworkError> for RuntimeError {
    fn from(error: NetworkError) -> Self {
        RuntimeError::Failed(format!("failed to setup network for sandbox: {error}"))
    }
}

#[async_trait]
impl Runtime for Embedded {
    fn version(&self) -> Version {
        Version { name: "coracle".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() }
    }

    async fn status(&self) -> RuntimeStatus {
        RuntimeStatus { not_ready: None, network_not_ready: self.inner.network.ready().err() }
    }

    fn images(&self) -> Arc<dyn Images> {
        Arc::new(self.inner.images.clone())
    }

    fn events(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.inner.events.subscribe()
    }

    async fn set_pod_cidrs(&self, cidrs: &[String]) -> Result<()> {
        let Some(range) = cidrs.iter().find_map(|cidr| cidr.parse::<Ipv4Net>().ok()) else {
            return Err(RuntimeError::InvalidConfig(format!("pod CIDRs {cidrs:?} have no IPv4 network")));
        };
        let this = self.clone();
        blocking(move || Ok(this.inner.network.set_pod_cidr(range)?)).await
    }

    async fn run_sandbox(&self, config: SandboxConfig) -> Result<Sandbox> {
        let mut record = SandboxRecord { id: new_id()?, config, created_ns: now_ns(), boot: boot_id(), address: None, stopped: false };
        let this = self.clone();
        let (record, shim) = blocking(move || {
            let shim = this.make_sandbox(&mut record)?;
            Ok((record, shim))
        })
        .await?;
        let id = record.id.clone();
        let pod = Arc::new(Pod::new(SandboxDir(self.inner.options.dir.join(&id)), record));
        *pod.shim.lock() = Some(shim);
        self.inner.pods.lock().insert(id.clone(), pod.clone());
        if let Err(error) = self.watch(&pod).await {
            let words = fs::read_to_string(pod.dir.0.join("shim.log")).unwrap_or_default();
            let _ = self.remove_sandbox(&id).await;
            return Err(RuntimeError::Failed(format!("the pod's shim does not answer: {error}: {}", words.trim())));
        }
        Ok(pod.describe())
    }

    async fn stop_sandbox(&self, id: &str) -> Result<()> {
        match self.pod(id) {
            Ok(pod) => self.wind_down(&pod).await,
            Err(_) => Ok(()),
        }
    }

    async fn remove_sandbox(&self, id: &str) -> Result<()> {
        let Ok(pod) = self.pod(id) else { return Ok(()) };
        for container in pod.all() {
            self.discard(&pod, &container).await?;
        }
        self.wind_down(&pod).await?;
        let (this, dir) = (self.clone(), pod.dir.0.clone());
        let own_cgroup = {
            let record = pod.record.lock();
            record.config.cgroup_parent.is_empty().then(|| record.cgroup_parent())
        };
        blocking(move || {
            if let Some(cgroup) = own_cgroup {
                this.inner.hierarchies.remove(&cgroup, CGROUP_PATIENCE).map_err(failed("remove sandbox"))?;
            }
            match fs::remove_dir_all(&dir) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(failed(format!("remove {}", dir.display()))(e)),
                _ => Ok(()),
            }
        })
        .await?;
        self.inner.pods.lock().remove(id);
        Ok(())
    }

    async fn list_sandboxes(&self) -> Result<Vec<Sandbox>> {
        let pods: Vec<_> = self.inner.pods.lock().values().cloned().collect();
        Ok(pods.iter().map(|pod| pod.describe()).collect())
    }

    async fn create_container(&self, sandbox_id: &str, config: ContainerConfig) -> Result<String> {
        let pod = self.pod(sandbox_id)?;
        if !pod.ready() {
            return Err(RuntimeError::WrongState(format!("sandbox {sandbox_id} is not ready")));
        }
        let in_use = self.inner.images.used(&config.image_id);
        let image = self.inner.images.config(&config.image_id).map_err(|e| match e {
            ImageError::NotFound(_) => RuntimeError::NotFound { what: "image", id: config.image_id.clone() },
            other => other.into(),
        })?;
        let (layers_dir, layers) = self.inner.images.layers(&image)?;
        let record = ContainerRecord { id: new_id()?, config, image, layers_dir, layers, created_ns: now_ns() };
        super::spec::command(&record).map_err(RuntimeError::InvalidConfig)?;
        let id = record.id.clone();
        let dir = pod.dir.container(&id);
        fs::create_dir_all(&dir.0)
            .and_then(|()| record::write(&dir.record(), &record))
            .and_then(|()| record::write(&dir.status(), &Status::default()))
            .map_err(failed("write the container's record"))?;
        let container = Container { record, status: tokio::sync::watch::Sender::default(), _image: in_use };
        pod.containers.lock().insert(id.clone(), Arc::new(container));
        Ok(id)
    }

    async fn start_container(&self, id: &str) -> Result<()> {
        let (pod, container) = self.find(id)?;
        if container.status.borrow().phase != Phase::Created {
            return Err(RuntimeError::WrongState(format!("container {id} was started before")));
        }
        let result = client::ask(&pod.dir.0, &Request::Run { id: id.to_owned() }).await;
        // The shim tells the news on another connection.
        let news = pod.wait(&container, NEWS_PATIENCE, |status| status.phase != Phase::Created).await;
        result.and(news)
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<()> {
        let Ok((pod, container)) = self.find(id) else { return Ok(()) };
        if container.status.borrow().phase != Phase::Running {
            return Ok(());
        }
        if !grace.is_zero() {
            let names = [container.record.config.stop_signal.as_deref(), Some(container.record.image.stop_signal.as_str())];
            let signal = names.into_iter().flatten().find_map(signal_number).unwrap_or(libc::SIGTERM);
            let asked = client::ask(&pod.dir.0, &Request::Signal { id: id.to_owned(), signal }).await;
            if asked.is_ok() && pod.wait(&container, grace, |status| status.phase == Phase::Exited).await.is_ok() {
                return Ok(());
            }
        }
        self.kill(&pod, &container).await
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        match self.find(id) {
            Ok((pod, container)) => self.discard(&pod, &container).await,
            Err(_) => Ok(()),
        }
    }

    async fn container_status(&self, id: &str) -> Result<ContainerStatus> {
        let (pod, container) = self.find(id)?;
        Ok(pod.container_status(&container))
    }

    async fn list_containers(&self, sandbox_id: Option<&str>) -> Result<Vec<ContainerStatus>> {
        let pods: Vec<_> = match sandbox_id {
            Some(id) => self.pod(id).into_iter().collect(),
            None => self.inner.pods.lock().values().cloned().collect(),
        };
        Ok(pods.iter().flat_map(|pod| pod.all().into_iter().map(|container| pod.container_status(&container))).collect())
    }

    async fn update_resources(&self, id: &str, resources: &Resources) -> Result<()> {
        let (pod, container) = self.find(id)?;
        let (this, cgroup, resources) = (self.clone(), cgroup_of(&pod, &container), resources.clone());
        blocking(move || this.inner.hierarchies.update(&cgroup, &resources).map_err(failed("update resources"))).await
    }

    async fn exec_sync(&self, id: &str, command: &[String], timeout: Duration) -> Result<ExecOutput> {
        let (pod, container) = self.find(id)?;
        pod.exec_sync(&container, command, timeout).await
    }

    async fn exec(&self, id: &str, request: ExecRequest) -> Result<StreamSession> {
        let (pod, container) = self.find(id)?;
        pod.exec(&container, &request).await
    }

    async fn port_forward(&self, sandbox_id: &str, port: u16) -> Result<Box<dyn Connection>> {
        let pod = self.pod(sandbox_id)?;
        let netns = if pod.record.lock().own_network() { pod.dir.namespace("net") } else { PathBuf::from("/proc/thread-self/ns/net") };
        let stream = blocking(move || {
            let inside = fs::File::open(&netns).map_err(failed("open the pod's network"))?;
            let connect = || {
                let limit = Duration::from_secs(10);
                std::net::TcpStream::connect_timeout(&(std::net::Ipv4Addr::LOCALHOST, port).into(), limit)
                    .or_else(|_| std::net::TcpStream::connect_timeout(&(std::net::Ipv6Addr::LOCALHOST, port).into(), limit))
            };
            crate::network::within(&inside, connect).map_err(failed(format!("failed to connect to localhost:{port} inside the pod")))
        })
        .await?;
        stream.set_nonblocking(true).map_err(failed("port-forward"))?;
        Ok(Box::new(tokio::net::TcpStream::from_std(stream).map_err(failed("port-forward"))?))
    }

    async fn reopen_log(&self, id: &str) -> Result<()> {
        let (pod, container) = self.find(id)?;
        client::ask(&pod.dir.0, &Request::ReopenLog { id: container.record.id.clone() }).await
    }

    async fn stats(&self) -> Result<Vec<ContainerStats>> {
        let this = self.clone();
        blocking(move || {
            let pods: Vec<_> = this.inner.pods.lock().values().cloned().collect();
            let mut all = Vec::new();
            for pod in pods {
                for container in pod.all() {
                    if container.status.borrow().phase != Phase::Running {
                        continue;
                    }
                    let Some((cpu, working_set, rss)) = this.inner.hierarchies.usage(&cgroup_of(&pod, &container)) else { continue };
                    all.push(ContainerStats {
                        container_id: container.record.id.clone(),
                        sandbox_id: pod.record.lock().id.clone(),
                        cpu_usage_ns: cpu,
                        memory_working_set_bytes: working_set,
                        memory_rss_bytes: rss,
                        writable_layer_bytes: None,
                    });
                }
            }
            Ok(all)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (name, number) in [("SIGTERM", 15), ("quit", 3), ("9", 9), ("SIGRTMIN+3", libc::SIGRTMIN() + 3), ("RTMAX-1", 63)] {
            assert_eq!(signal_number(name), Some(number), "{name}");
        }
        for bad in ["", "SIGNOPE", "0", "65", "RTMIN+99"] {
            assert_eq!(signal_number(bad), None, "{bad}");
        }
    }
}
