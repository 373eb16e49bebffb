//! What a store that grows costs: a change, an event of it, memory and the start again with 1,000 to 100,000 pods of six kilobytes.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt, stream};
use http::Method;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::json;
use tokio::{task::JoinSet, time::timeout};

use crate::{
    PODS, account,
    client::{Body, Client},
    definitions::settle,
    own,
    server::{Program, Server, peers},
    writes,
};

/// Pods there are when something is measured.
const SIZES: [u32; 4] = [1_000, 9_000, 30_000, 100_000];
/// Those that kube-apiserver is measured with.
const COMPARED: u32 = 9_000;
/// Changes that are measured, without watches and then with these.
const CHANGES: u32 = 3_000;
const WATCHES: usize = 50;
const AT_ONCE: usize = 16;
/// How long the last events may take.
const LATE: Duration = Duration::from_secs(60);

/// What one size costs.
struct Point {
    /// Microseconds of CPU of a change, and of an event that is delivered.
    change: f64,
    event: f64,
    /// MiB resident after all of it, and of the pods as JSON.
    resident: f64,
    stored: f64,
    /// Milliseconds from exec to /readyz with these pods.
    ready: f64,
}

/// The curve, beside kube-apiserver at one size.
pub async fn growth() -> Result<()> {
    let peer = match peers() {
        Some(binaries) => {
            let mut server = Server::start(Program::Peer(binaries, Vec::new())).await?;
            account(&server.client().await?).await?;
            Some(measure(&mut server, 0, COMPARED).await?)
        }
        None => None,
    };
    let mut server = Server::start(own(&["--agent=off", "--without=scheduler,controllers"])).await?;
    account(&server.client().await?).await?;
    let (mut there, mut first) = (0, None);
    for size in SIZES {
        let point = measure(&mut server, there, size).await?;
        there = size;
        let (change, event) = *first.get_or_insert((point.change, point.event));
        let peer = peer.as_ref().filter(|_| size == COMPARED).map(|peer| {
            let (memory, start) = (peer.resident / point.resident, peer.ready / point.ready);
            format!("; kube-apiserver + etcd {:.0} MiB ({memory:.1}x), ready {:.0} ms ({start:.0}x)", peer.resident, peer.ready)
        });
        println!(
            "grow    {size:6} pods: a change {:.0} us of CPU ({:.2}x), an event {:.1} us ({:.2}x); {:.0} MiB resident, {:.1}x their JSON; \
             ready again after {:.0} ms{}",
            point.change,
            point.change / change,
            point.event,
            point.event / event,
            point.resident,
            point.resident / point.stored,
            point.ready,
            peer.unwrap_or_default()
        );
    }
    Ok(())
}

/// Makes the pods that are missing, changes some, and starts the server again.
async fn measure(server: &mut Server, there: u32, size: u32) -> Result<Point> {
    let client = server.client().await?;
    let creates = stream::iter(there..size).map(|n| {
        let client = client.clone();
        async move { client.create(PODS, &writes::pod(&name(n))).await }
    });
    creates.buffer_unordered(2 * AT_ONCE).try_collect::<()>().await?;
    settle().await;
    let page = client.get(&format!("{PODS}?limit=500")).await?.len() as f64;
    let change = changes(server, &client, size, "quiet").await?;
    let mut watches = watches(server, &client).await?;
    let watched = changes(server, &client, size, "seen").await?;
    let cpu = server.cpu()?;
    while let Some(seen) = timeout(LATE, watches.join_next()).await.context("events are missing")? {
        seen??;
    }
    let event = (watched - change + (server.cpu()? - cpu)) / (f64::from(CHANGES) * WATCHES as f64);
    settle().await;
    let resident = server.resident_mib()?;
    server.restart().await?;
    Ok(Point {
        change: change / f64::from(CHANGES) * 1e6,
        event: event * 1e6,
        resident,
        stored: page / 500.0 * f64::from(size) / f64::from(1 << 20),
        ready: server.ready_after.as_secs_f64() * 1e3,
    })
}

fn name(n: u32) -> String {
    format!("pod-{n:06}")
}

/// CPU seconds of changes of pods all over the kind.
async fn changes(server: &Server, client: &Client, size: u32, value: &str) -> Result<f64> {
    let change = |n: u32| {
        // Another value each time: a change that changes nothing is no write.
        let bytes = json!({"metadata": {"labels": {"changed": format!("{value}-{n}")}}}).to_string().into();
        let (client, path) = (client.clone(), format!("{PODS}/{}", name(n * (size / CHANGES).max(1) % size)));
        async move { client.send(Method::PATCH, &path, Body { content_type: "application/merge-patch+json", bytes }).await.map(drop) }
    };
    let before = server.cpu()?;
    stream::iter(0..CHANGES).map(change).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    Ok(server.cpu()? - before)
}

/// Watches of all pods from now on, each until it has seen every change.
async fn watches(server: &Server, client: &Client) -> Result<JoinSet<Result<()>>> {
    let list = client.json(&format!("{PODS}?limit=1")).await?;
    let from = list["metadata"]["resourceVersion"].as_str().context("no resource version")?;
    let shared = server.client().await?;
    let mut readers = JoinSet::new();
    for _ in 0..WATCHES {
        readers.spawn(read(shared.open(&format!("{PODS}?watch=1&resourceVersion={from}")).await?));
    }
    Ok(readers)
}

async fn read(mut events: Incoming) -> Result<()> {
    let mut seen = 0;
    while seen < CHANGES as usize {
        let Some(frame) = events.frame().await else { bail!("a watch ended after {seen} events") };
        seen += frame?.data_ref().map_or(0, |data| data.iter().filter(|byte| **byte == b'\n').count());
    }
    Ok(())
}
