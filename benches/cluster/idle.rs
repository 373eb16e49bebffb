//! What servers cost that nobody asks anything: memory, CPU, writes to disk; twenty side by side; ten thousand watches without an event.

use std::time::Duration;

use anyhow::Result;

use crate::{
    definitions::settle,
    own,
    server::{Program, Server, peers},
};

/// An API server as tests want it.
const ENVIRONMENT: &[&str] = &["--agent=off", "--store=memory", "--without=scheduler,controllers"];
/// Test environments at once.
const SIDE_BY_SIDE: usize = 20;
/// Idle watches, and how many of them share a connection.
const WATCHES: usize = 10_000;
const SHARED: usize = 100;
/// How long an idle server is looked at.
const WINDOW: Duration = Duration::from_secs(60);

/// MiB resident, per cent of a core, KiB written in an hour.
struct Rest {
    mib: f64,
    share: f64,
    written: f64,
}

/// Idle servers beside an idle kube-apiserver.
pub async fn idle() -> Result<()> {
    let peer = match peers() {
        Some(binaries) => Some(rest(Program::Peer(binaries, Vec::new())).await?),
        None => None,
    };
    if let Some(Rest { mib, share, written }) = peer {
        println!("idle    kube-apiserver + etcd: {mib:.0} MiB resident, {share:.2} % of one core, {written:.0} KiB written an hour");
    }
    for (what, flags) in [
        ("API server, in memory", ENVIRONMENT),
        ("API server", &["--agent=off", "--without=scheduler,controllers"]),
        ("no agent", &["--agent=off"]),
        ("one hollow node", &["--agent=off", "--hollow-nodes=1"]),
    ] {
        let Rest { mib, share, written } = rest(own(flags)).await?;
        let ratio = peer.as_ref().map(|peer| format!(": {:.0}x less memory, {:.0}x less CPU", peer.mib / mib, peer.share / share));
        let ratio = ratio.unwrap_or_default();
        println!("idle    {what}: {mib:.1} MiB resident, {share:.2} % of one core, {written:.0} KiB written an hour{ratio}");
    }
    side_by_side().await?;
    watches().await
}

async fn rest(program: Program) -> Result<Rest> {
    let server = Server::start(program).await?;
    settle().await;
    let (cpu, written) = (server.cpu()?, server.written_kib()?);
    tokio::time::sleep(WINDOW).await;
    let (seconds, hours) = (WINDOW.as_secs_f64(), WINDOW.as_secs_f64() / 3600.0);
    let share = (server.cpu()? - cpu) / seconds * 100.0;
    Ok(Rest { mib: server.resident_mib()?, share, written: (server.written_kib()? - written) / hours })
}

async fn side_by_side() -> Result<()> {
    let mut servers = Vec::new();
    for _ in 0..SIDE_BY_SIDE {
        servers.push(Server::start(own(ENVIRONMENT)).await?);
    }
    settle().await;
    let all = |of: fn(&Server) -> Result<f64>| servers.iter().map(of).sum::<Result<f64>>();
    let (own, resident) = (all(Server::pss_mib)?, all(Server::resident_mib)?);
    println!(
        "idle    {SIDE_BY_SIDE} API servers in memory: {own:.0} MiB in all, what they share counted once ({resident:.0} MiB resident in sum)"
    );
    Ok(())
}

async fn watches() -> Result<()> {
    let server = Server::start(own(&["--agent=off", "--without=scheduler,controllers"])).await?;
    settle().await;
    let before = server.resident_mib()?;
    let mut open = Vec::with_capacity(WATCHES);
    for _ in 0..WATCHES / SHARED {
        let shared = server.client().await?;
        for _ in 0..SHARED {
            open.push(shared.open("/api/v1/namespaces/default/configmaps?watch=1").await?);
        }
    }
    settle().await;
    let more = server.resident_mib()? - before;
    println!(
        "idle    {WATCHES} watches on {} connections: {more:.1} MiB more, {:.1} KiB each",
        WATCHES / SHARED,
        more * 1024.0 / WATCHES as f64
    );
    drop(open);
    Ok(())
}
