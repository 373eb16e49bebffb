//! What the finished binary costs: start, idle, lists, and 3,000 pods on 100 hollow nodes.
//!
//! `cargo bench --bench cluster [-- start idle list pods]`. Absolute times on a shared machine are a remark; CPU seconds and memory are the figures.

#![allow(clippy::print_stdout, reason = "a benchmark prints")]

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use futures::{StreamExt, stream};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api, Client, Config,
    api::{ListParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(300);

#[tokio::main]
async fn main() -> Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let runs = |name: &str| wanted.is_empty() || wanted.iter().any(|w| w == name);
    if runs("start") {
        start().await?;
    }
    if runs("idle") {
        idle().await?;
    }
    if runs("list") {
        list().await?;
    }
    if runs("pods") {
        pods().await?;
    }
    Ok(())
}

/// exec to the first good answer of /readyz, on an empty folder and again on what it left.
async fn start() -> Result<()> {
    for (store, rounds) in [("embedded", 5), ("memory", 5)] {
        let (mut first, mut again) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let mut server = Server::start(&["--agent=off", &format!("--store={store}")]).await?;
            first.push((server.ready_after, server.cpu()?));
            server.restart().await?;
            again.push((server.ready_after, server.cpu()?));
        }
        for (what, mut times) in [("first start", first), ("again", again)] {
            times.sort_by_key(|(wall, _)| *wall);
            let (wall, cpu) = times[times.len() / 2];
            println!(
                "start   {store:8} {what:12} readyz after {:6.1} ms, {:5.0} ms CPU (median of {rounds})",
                wall.as_secs_f64() * 1e3,
                cpu * 1e3
            );
        }
    }
    Ok(())
}

/// Memory and CPU of a server that nobody asks anything.
async fn idle() -> Result<()> {
    for (what, flags) in [
        ("API server only", &["--agent=off", "--without=scheduler,controllers"][..]),
        ("one hollow node", &["--agent=off", "--hollow-nodes=1"]),
    ] {
        let server = Server::start(flags).await?;
        tokio::time::sleep(Duration::from_secs(5)).await;
        let before = server.cpu()?;
        let window = Duration::from_secs(20);
        tokio::time::sleep(window).await;
        let share = (server.cpu()? - before) / window.as_secs_f64() * 100.0;
        println!("idle    {what:24} {:5.1} MiB resident, {share:.2} % of one core", server.resident_mib()?);
    }
    Ok(())
}

/// LIST of 10,000 pods: CPU a megabyte.
async fn list() -> Result<()> {
    let server = Server::start(&["--agent=off", "--without=scheduler,controllers"]).await?;
    let api: Api<Pod> = Api::default_namespaced(server.client().await?);
    let count = 10_000;
    let before = server.cpu()?;
    let started = Instant::now();
    let creates = stream::iter(0..count).map(|n| {
        let api = api.clone();
        async move { api.create(&PostParams::default(), &pod(n)).await.map(|_| ()) }
    });
    let results: Vec<_> = creates.buffer_unordered(32).collect().await;
    if let Some(error) = results.into_iter().find_map(Result::err) {
        bail!("creating pods: {error}");
    }
    let cpu = server.cpu()? - before;
    println!(
        "create  {count} pods, 32 at once: {:.0}/s, {:.2} s of CPU per 1,000",
        f64::from(count) / started.elapsed().as_secs_f64(),
        cpu / f64::from(count) * 1e3
    );
    let client = server.client().await?;
    let rounds = 10;
    let (before, started, mut bytes) = (server.cpu()?, Instant::now(), 0);
    for _ in 0..rounds {
        let request = http::Request::get("/api/v1/pods").body(Vec::new())?;
        bytes += client.request_text(request).await?.len();
    }
    let (cpu, megabytes) = (server.cpu()? - before, bytes as f64 / 1e6);
    let wall = started.elapsed().as_secs_f64() / f64::from(rounds);
    println!(
        "list    {count} pods, {:.1} MB: {:.2} ms of CPU a MB, {:.0} ms wall; {:.0} MiB resident",
        megabytes / f64::from(rounds),
        cpu / megabytes * 1e3,
        wall * 1e3,
        server.resident_mib()?
    );
    Ok(())
}

/// A Deployment of 3,000 replicas on 100 hollow nodes until all are ready.
async fn pods() -> Result<()> {
    let server = Server::start(&["--agent=off", "--hollow-nodes=100"]).await?;
    let client = server.client().await?;
    let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(client.clone());
    until(|| async { Ok(nodes.list(&ListParams::default()).await?.items.len() == 100) }).await?;
    let deployments: Api<Deployment> = Api::default_namespaced(client);
    let (before, started) = (server.cpu()?, Instant::now());
    let replicas = 3_000;
    let deployment = serde_json::from_value(json!({"metadata": {"name": "many"}, "spec": {"replicas": replicas,
        "selector": {"matchLabels": {"app": "many"}}, "template": {"metadata": {"labels": {"app": "many"}}, "spec": {"containers": [
            {"name": "web", "image": "registry.example/web:1", "resources": {"requests": {"cpu": "10m", "memory": "8Mi"}}}]}}}}))?;
    deployments.create(&PostParams::default(), &deployment).await?;
    until(|| async {
        let status = deployments.get("many").await?.status.unwrap_or_default();
        Ok(status.ready_replicas == Some(replicas))
    })
    .await?;
    let (wall, cpu) = (started.elapsed().as_secs_f64(), server.cpu()? - before);
    println!(
        "pods    {replicas} on 100 hollow nodes Running after {wall:.1} s: {:.0} pods/s, {:.1} s of CPU per 1,000, {:.0} MiB resident",
        f64::from(replicas) / wall,
        cpu / f64::from(replicas) * 1e3,
        server.resident_mib()?
    );
    Ok(())
}

fn pod(n: i32) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": format!("pod-{n:05}"), "labels": {"app": "bench", "n": n.to_string()}}, "spec": {"containers": [
        {"name": "main", "image": "registry.example/app:1.2.3", "args": ["--listen=:8080", "--verbose"], "ports": [{"containerPort": 8080}],
         "env": [{"name": "A", "value": "1"}, {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
         "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
         "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}}, "livenessProbe": {"httpGet": {"path": "/live", "port": 8080}}}]}}))
    .unwrap_or_default()
}

async fn until<F: Future<Output = Result<bool>>>(condition: impl Fn() -> F) -> Result<()> {
    let start = Instant::now();
    while !condition().await? {
        if start.elapsed() > PATIENCE {
            bail!("not within {PATIENCE:?}");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// A server of the finished binary in a folder of its own.
struct Server {
    folder: TempDir,
    flags: Vec<String>,
    process: Child,
    ready_after: Duration,
}

impl Server {
    async fn start(flags: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut all = vec![format!("--listen=127.0.0.1:{port}")];
        all.extend(flags.iter().map(ToString::to_string));
        let (process, ready_after) = spawn(folder.path(), &all).await?;
        Ok(Self { folder, flags: all, process, ready_after })
    }

    async fn restart(&mut self) -> Result<()> {
        self.end();
        std::fs::remove_file(kubeconfig(self.folder.path()))?;
        (self.process, self.ready_after) = spawn(self.folder.path(), &self.flags).await?;
        Ok(())
    }

    async fn client(&self) -> Result<Client> {
        connect(self.folder.path()).await
    }

    /// CPU seconds used so far.
    fn cpu(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id()))?;
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or_default();
        Ok((ticks(11) + ticks(12)) / 100.0)
    }

    fn resident_mib(&self) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS")).context("no VmRSS")?;
        let kib: f64 = line.split_whitespace().nth(1).context("no VmRSS")?.parse()?;
        Ok(kib / 1024.0)
    }

    fn end(&mut self) {
        let _ = Command::new("kill").arg(self.process.id().to_string()).status();
        let _ = self.process.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

fn kubeconfig(folder: &Path) -> PathBuf {
    folder.join("admin.kubeconfig")
}

async fn spawn(folder: &Path, flags: &[String]) -> Result<(Child, Duration)> {
    let start = Instant::now();
    let process = Command::new(env!("CARGO_BIN_EXE_coracle"))
        .arg("server")
        .arg("--data-dir")
        .arg(folder)
        .args(flags)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    while !kubeconfig(folder).exists() {
        tokio::time::sleep(Duration::from_millis(1)).await;
        if start.elapsed() > PATIENCE {
            bail!("the server did not start");
        }
    }
    let client = connect(folder).await?;
    loop {
        if client.request_text(http::Request::get("/readyz").body(Vec::new())?).await.is_ok_and(|text| text == "ok") {
            return Ok((process, start.elapsed()));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        if start.elapsed() > PATIENCE {
            bail!("the server is not ready");
        }
    }
}

async fn connect(folder: &Path) -> Result<Client> {
    let config = Kubeconfig::read_from(kubeconfig(folder))?;
    let mut config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
    config.read_timeout = Some(PATIENCE);
    Ok(Client::try_from(config)?)
}
