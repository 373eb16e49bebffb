//! A runtime over the hollow one that keeps what it was asked for, has a process to exec (an echo), and log files.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use coracle_agent::clock::Clock;
use coracle_agent::hollow::Hollow;
use coracle_agent::runtime::{
    ContainerConfig, ContainerStats, ContainerStatus, ExecOutput, ExecRequest, Images, Resources, Result, Runtime, RuntimeEvent,
    RuntimeStatus, Sandbox, SandboxConfig, StreamSession, Version,
};
use futures::FutureExt;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::broadcast;

/// The runtime.
pub(crate) struct Recording {
    pub(crate) hollow: Arc<Hollow>,
    pub(crate) sandboxes: Mutex<Vec<SandboxConfig>>,
    pub(crate) containers: Mutex<Vec<(String, ContainerConfig)>>,
    /// Exit code of `exec_sync`.
    pub(crate) probe_result: Mutex<i32>,
}

impl Recording {
    pub(crate) fn new(clock: Clock) -> Arc<Self> {
        let hollow = Hollow::new("n1", clock);
        Arc::new(Self { hollow, sandboxes: Mutex::default(), containers: Mutex::default(), probe_result: Mutex::new(0) })
    }

    /// The configuration of the latest container of that name.
    pub(crate) fn config(&self, name: &str) -> ContainerConfig {
        self.containers.lock().iter().rev().find(|(_, c)| c.name == name).map(|(_, c)| c.clone()).unwrap()
    }

    fn with_log(&self, mut status: ContainerStatus) -> ContainerStatus {
        if let Some((_, config)) = self.containers.lock().iter().find(|(id, _)| *id == status.id) {
            status.log_path.clone_from(&config.log_path);
        }
        status
    }
}

#[async_trait]
impl Runtime for Recording {
    fn version(&self) -> Version {
        self.hollow.version()
    }
    async fn status(&self) -> RuntimeStatus {
        self.hollow.status().await
    }
    fn images(&self) -> Arc<dyn Images> {
        self.hollow.images()
    }
    fn events(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.hollow.events()
    }
    async fn set_pod_cidrs(&self, cidrs: &[String]) -> Result<()> {
        self.hollow.set_pod_cidrs(cidrs).await
    }
    async fn run_sandbox(&self, config: SandboxConfig) -> Result<Sandbox> {
        self.sandboxes.lock().push(config.clone());
        self.hollow.run_sandbox(config).await
    }
    async fn stop_sandbox(&self, id: &str) -> Result<()> {
        self.hollow.stop_sandbox(id).await
    }
    async fn remove_sandbox(&self, id: &str) -> Result<()> {
        self.hollow.remove_sandbox(id).await
    }
    async fn list_sandboxes(&self) -> Result<Vec<Sandbox>> {
        self.hollow.list_sandboxes().await
    }
    async fn create_container(&self, sandbox_id: &str, config: ContainerConfig) -> Result<String> {
        let id = self.hollow.create_container(sandbox_id, config.clone()).await?;
        std::fs::write(&config.log_path, "2027-01-15T08:00:00.000000001Z stdout F first\n2027-01-15T08:00:01.000000001Z stderr F second\n")
            .unwrap();
        self.containers.lock().push((id.clone(), config));
        Ok(id)
    }
    async fn start_container(&self, id: &str) -> Result<()> {
        self.hollow.start_container(id).await
    }
    async fn stop_container(&self, id: &str, grace: Duration) -> Result<()> {
        self.hollow.stop_container(id, grace).await
    }
    async fn remove_container(&self, id: &str) -> Result<()> {
        self.hollow.remove_container(id).await
    }
    async fn container_status(&self, id: &str) -> Result<ContainerStatus> {
        self.hollow.container_status(id).await.map(|s| self.with_log(s))
    }
    async fn list_containers(&self, sandbox_id: Option<&str>) -> Result<Vec<ContainerStatus>> {
        Ok(self.hollow.list_containers(sandbox_id).await?.into_iter().map(|s| self.with_log(s)).collect())
    }
    async fn update_resources(&self, id: &str, resources: &Resources) -> Result<()> {
        self.hollow.update_resources(id, resources).await
    }
    async fn exec_sync(&self, _id: &str, _command: &[String], _timeout: Duration) -> Result<ExecOutput> {
        Ok(ExecOutput { exit_code: *self.probe_result.lock(), ..ExecOutput::default() })
    }
    /// Echoes stdin in capitals until its end, then exits with the number of bytes.
    async fn exec(&self, _id: &str, _request: ExecRequest) -> Result<StreamSession> {
        let (stdin, mut from_client) = tokio::io::duplex(1024);
        let (stdout, mut to_client) = tokio::io::duplex(1024);
        let exit = tokio::spawn(async move {
            let mut all = Vec::new();
            from_client.read_to_end(&mut all).await.unwrap();
            to_client.write_all(&all.to_ascii_uppercase()).await.unwrap();
            Ok(i32::try_from(all.len()).unwrap())
        });
        let exit = exit.map(|code| code.unwrap()).boxed();
        Ok(StreamSession { stdin: Some(Box::new(stdin)), stdout: Some(Box::new(stdout)), stderr: None, resize: None, exit })
    }
    async fn reopen_log(&self, _id: &str) -> Result<()> {
        Ok(())
    }
    fn inline_log(&self, _id: &str) -> Option<Bytes> {
        None
    }
    async fn stats(&self) -> Result<Vec<ContainerStats>> {
        Ok(Vec::new())
    }
}
