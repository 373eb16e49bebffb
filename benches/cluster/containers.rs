//! A node with real containers: what five idle pods cost, and how soon a Deployment is ready. Needs root and a static busybox.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use http::Method;
use serde_json::{Value, json};

use crate::{
    client::{Body, Client},
    own,
    server::{CORACLE, Server, figure},
    until,
};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const IMAGE: &str = "docker.io/library/busybox:1.36";
/// Deployments whose median time to a ready replica counts.
const ROUNDS: u32 = 7;
/// What upstream takes with containerd on an idle machine of this size, measured apart; it is not started here.
const UPSTREAM_READY_MS: f64 = 870.0;

/// Memory and CPU of server and shims with five pods, and a Deployment's way to its ready replica.
pub async fn containers() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        println!("containers: skipped, they need root");
        return Ok(());
    }
    let server = Server::start(own(&["--agent=on", "--agent-port=0", "--node-name=here"])).await?;
    let client = server.client().await?;
    import(server.folder())?;
    let measured = measure(&server, &client).await;
    let stopped = Command::new(CORACLE).args(["stop", "--all", "--data-dir"]).arg(server.folder()).output()?;
    measured?;
    ensure!(stopped.status.success(), "coracle stop: {}", String::from_utf8_lossy(&stopped.stderr));
    Ok(())
}

async fn measure(server: &Server, client: &Client) -> Result<()> {
    let mut times = Vec::new();
    for n in 0..ROUNDS {
        let name = format!("one-{n}");
        let start = Instant::now();
        deploy(client, &name, 1).await?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
        client.send(Method::DELETE, &format!("{DEPLOYMENTS}/{name}"), Body::json(&json!({}))).await?;
        until(async || Ok(client.json("/api/v1/namespaces/default/pods").await?["items"].as_array().is_some_and(Vec::is_empty))).await?;
    }
    times.sort_by(f64::total_cmp);
    let median = times[times.len() / 2];
    println!("ready   a Deployment's pod with its image present: {median:.0} ms ({:.0} to {:.0})", times[0], times[times.len() - 1]);
    println!(
        "ready   upstream with containerd, measured apart on an idle machine: {UPSTREAM_READY_MS:.0} ms, {:.1}x",
        UPSTREAM_READY_MS / median
    );
    deploy(client, "five", 5).await?;
    tokio::time::sleep(Duration::from_secs(30)).await;
    let before = server.cpu()?;
    let window = Duration::from_secs(60);
    tokio::time::sleep(window).await;
    let share = (server.cpu()? - before) / window.as_secs_f64() * 100.0;
    let shims = shims(server.folder())?;
    let pss: Vec<f64> = shims.iter().map(|pid| Ok(figure(*pid, "smaps_rollup", "Pss")? / 1024.0)).collect::<Result<_>>()?;
    ensure!(pss.len() == 5, "{} shims run for five pods", pss.len());
    println!(
        "five    five pods: server and agent {:.1} MiB resident, {share:.2} % of one core; shims {:.2} MiB PSS each, {:.2} at most",
        server.resident_mib()?,
        pss.iter().sum::<f64>() / pss.len() as f64,
        pss.iter().copied().fold(0.0, f64::max)
    );
    Ok(())
}

/// Creates a Deployment and waits until all its replicas are ready.
async fn deploy(client: &Client, name: &str, replicas: u32) -> Result<()> {
    let labels = json!({"app": name});
    let container = json!({"name": "main", "image": IMAGE, "command": ["sleep", "86400"]});
    let spec = json!({"terminationGracePeriodSeconds": 0, "containers": [container]});
    let deployment: Value = json!({"metadata": {"name": name}, "spec": {"replicas": replicas, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": spec}}});
    client.create(DEPLOYMENTS, &deployment).await?;
    let path = format!("{DEPLOYMENTS}/{name}");
    crate::soon(async || Ok(client.json(&path).await?["status"]["readyReplicas"] == replicas)).await
}

/// Packs this machine's busybox and imports it.
fn import(folder: &Path) -> Result<()> {
    let archive = folder.join("busybox.tar");
    let pack = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/busybox-image.sh");
    let packed = Command::new(pack).arg(&archive).arg(IMAGE).output()?;
    ensure!(packed.status.success(), "busybox-image.sh: {}", String::from_utf8_lossy(&packed.stderr));
    let imported = Command::new(CORACLE).args(["image", "import"]).arg(&archive).arg("--data-dir").arg(folder).output()?;
    ensure!(imported.status.success(), "coracle image import: {}", String::from_utf8_lossy(&imported.stderr));
    Ok(())
}

/// The shims of the pods of this data folder.
fn shims(folder: &Path) -> Result<Vec<u32>> {
    let folder = folder.display().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Ok(pid) = entry?.file_name().to_string_lossy().parse::<u32>() else { continue };
        let words = std::fs::read(PathBuf::from(format!("/proc/{pid}/cmdline"))).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).into_owned();
        if words.contains("shim") && words.contains(&folder) {
            found.push(pid);
        }
    }
    Ok(found)
}
