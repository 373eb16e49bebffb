//! What the finished binary costs: start, idle, writes, lists, watches, definitions, gates, admission, growth to 100,000 pods, 3,000 pods on
//! 100 hollow nodes, and pods with containers.
//!
//! `cargo bench --bench cluster [-- start idle write list watch crds gates admission growth pods containers]`. With `LAB=FOLDER`, where
//! `FOLDER/bin` has `etcd` and `kube-apiserver`, these do the same in the same run, and each figure is followed by the ratio. On a shared machine times are a remark: CPU seconds and memory are
//! the figures, and only against a peer of the same run.

#![allow(clippy::print_stdout, missing_docs, unreachable_pub, reason = "a benchmark prints, and nothing calls it")]

mod admission;
mod client;
mod containers;
mod definitions;
mod gates;
mod growth;
mod idle;
mod server;
mod watches;
mod writes;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use futures::{StreamExt, stream};
use serde_json::json;

use client::Client;
use server::{Program, Server, peers};

const PATIENCE: Duration = Duration::from_secs(300);
const PODS: &str = "/api/v1/namespaces/default/pods";

#[tokio::main]
async fn main() -> Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let runs = |name: &str| wanted.is_empty() || wanted.iter().any(|w| w == name);
    if peers().is_none() {
        println!("no peer: LAB names no folder with bin/etcd and bin/kube-apiserver, so there are no ratios");
    }
    if runs("start") {
        start().await?;
    }
    if runs("idle") {
        idle::idle().await?;
    }
    if runs("write") {
        writes::writes().await?;
    }
    if runs("list") {
        list().await?;
    }
    if runs("watch") {
        watches::watches().await?;
    }
    if runs("crds") {
        definitions::definitions().await?;
    }
    if runs("gates") {
        gates::gates().await?;
    }
    if runs("admission") {
        admission::admission().await?;
    }
    if runs("growth") {
        growth::growth().await?;
    }
    if runs("pods") {
        pods().await?;
    }
    if runs("containers") {
        containers::containers().await?;
    }
    Ok(())
}

fn own(flags: &[&str]) -> Program {
    Program::Own(flags.iter().map(ToString::to_string).collect())
}

/// exec to the first good answer of /readyz, on an empty folder and again on what it left: medians of wall and CPU milliseconds.
async fn start() -> Result<()> {
    let peer = match peers() {
        Some(binaries) => Some(starts(Program::Peer(binaries, Vec::new()), 2).await?),
        None => None,
    };
    if let Some([first, again]) = peer {
        println!(
            "start   kube-apiserver + etcd: first {:.0} ms ({:.0} ms CPU), again {:.0} ms ({:.0} ms CPU)",
            first.0, first.1, again.0, again.1
        );
    }
    for store in ["embedded", "memory"] {
        let made = starts(own(&["--agent=off", &format!("--store={store}")]), 5).await?;
        for (at, what) in ["first", "again"].into_iter().enumerate() {
            let (wall, cpu) = made[at];
            let ratio =
                peer.map(|peer| format!(": {:.0}x sooner, {:.0}x less CPU", peer[at].0 / wall, peer[at].1 / cpu)).unwrap_or_default();
            println!("start   {store:8} {what}: ready after {wall:.1} ms, {cpu:.0} ms CPU{ratio}");
        }
    }
    Ok(())
}

/// Medians of first starts and of starts again.
async fn starts(program: Program, rounds: usize) -> Result<[(f64, f64); 2]> {
    let mut all = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        let mut server = Server::start(program.clone()).await?;
        all[0].push((server.ready_after, server.cpu()?));
        server.restart().await?;
        all[1].push((server.ready_after, server.cpu()?));
    }
    Ok(all.map(|mut times| {
        times.sort_by_key(|(wall, _)| *wall);
        let (wall, cpu) = times[times.len() / 2];
        (wall.as_secs_f64() * 1e3, cpu * 1e3)
    }))
}

/// 10,000 creations and LISTs of them: CPU.
async fn list() -> Result<()> {
    let peer = match peers() {
        Some(binaries) => Some(many(Program::Peer(binaries, Vec::new()), "kube-apiserver + etcd", 3).await?),
        None => None,
    };
    let (create, lists) = many(own(&["--agent=off", "--without=scheduler,controllers"]), "coracle", 10).await?;
    if let Some((peer_create, peer_lists)) = peer {
        println!("create  {:.1}x less CPU", peer_create / create);
        for ((how, list), (_, peer_list)) in lists.into_iter().zip(peer_lists) {
            println!("list    {:.1}x less CPU a list in {how}", peer_list / list);
        }
    }
    Ok(())
}

/// How lists are asked for: media type and whether the client takes gzip.
const LISTS: [(&str, &str, bool); 4] = [
    ("JSON", "application/json", false),
    ("JSON, gzip", "application/json", true),
    ("protobuf", writes::PROTOBUF, false),
    ("protobuf, gzip", writes::PROTOBUF, true),
];

/// CPU seconds of 1,000 creations, and CPU milliseconds of a list in each of the ways.
async fn many(program: Program, name: &str, rounds: u32) -> Result<(f64, Vec<(&'static str, f64)>)> {
    let server = Server::start(program).await?;
    let client = server.client().await?;
    account(&client).await?;
    let count = 10_000u32;
    let (before, started) = (server.cpu()?, Instant::now());
    let creates = stream::iter(0..count).map(|n| {
        let client = client.clone();
        async move { client.create(PODS, &writes::pod(&format!("pod-{n:05}"))).await }
    });
    let results: Vec<_> = creates.buffer_unordered(32).collect().await;
    if let Some(error) = results.into_iter().find_map(Result::err) {
        bail!("creating pods: {error}");
    }
    let create = (server.cpu()? - before) / f64::from(count) * 1e3;
    let rate = f64::from(count) / started.elapsed().as_secs_f64();
    println!("create  {name}: {count} pods, 32 at once: {create:.2} s of CPU per 1,000, {rate:.0}/s");
    let mut lists = Vec::new();
    for (how, accept, gzip) in LISTS {
        // The first makes what the next ones find.
        let (mut first, mut bytes) = (0.0, 0);
        let (mut before, mut started) = (server.cpu()?, Instant::now());
        for round in 0..=rounds {
            let path = "/api/v1/pods";
            bytes = if gzip { client.gzip(path, accept).await?.len() } else { client.accept(path, accept).await?.len() };
            if round == 0 {
                first = (server.cpu()? - before) * 1e3;
                (before, started) = (server.cpu()?, Instant::now());
            }
        }
        let (cpu, wall) = ((server.cpu()? - before) / f64::from(rounds) * 1e3, started.elapsed().as_secs_f64() / f64::from(rounds) * 1e3);
        let (sent, mib) = (bytes as f64 / 1e6, server.resident_mib()?);
        println!(
            "list    {name}: {count} pods in {how}: {cpu:.1} ms of CPU (the first {first:.0}), {wall:.0} ms wall, {sent:.1} MB sent; {mib:.0} MiB resident"
        );
        lists.push((how, cpu));
    }
    Ok((create, lists))
}

/// A Deployment of 3,000 replicas on 100 hollow nodes until all are ready.
async fn pods() -> Result<()> {
    let server = Server::start(own(&["--agent=off", "--hollow-nodes=100"])).await?;
    let client = server.client().await?;
    until(async || Ok(client.json("/api/v1/nodes").await?["items"].as_array().is_some_and(|nodes| nodes.len() == 100))).await?;
    let (before, started, replicas) = (server.cpu()?, Instant::now(), 3_000u32);
    let deployment = json!({"metadata": {"name": "many"}, "spec": {"replicas": replicas,
        "selector": {"matchLabels": {"app": "many"}}, "template": {"metadata": {"labels": {"app": "many"}}, "spec": {"containers": [
            {"name": "web", "image": "registry.example/web:1", "resources": {"requests": {"cpu": "10m", "memory": "8Mi"}}}]}}}});
    let path = "/apis/apps/v1/namespaces/default/deployments";
    client.create(path, &deployment).await?;
    let path = format!("{path}/many");
    until(async || Ok(client.json(&path).await?["status"]["readyReplicas"] == replicas)).await?;
    let (wall, cpu) = (started.elapsed().as_secs_f64(), server.cpu()? - before);
    println!(
        "pods    {replicas} on 100 hollow nodes Running after {wall:.1} s: {:.0} pods/s, {:.2} s of CPU per 1,000, {:.0} MiB resident",
        f64::from(replicas) / wall,
        cpu / f64::from(replicas) * 1e3,
        server.resident_mib()?
    );
    Ok(())
}

/// No controller runs, so nobody else makes the account that pods run as; its namespace may take a moment.
async fn account(client: &Client) -> Result<()> {
    let account = json!({"metadata": {"name": "default"}});
    until(async || Ok(client.create("/api/v1/namespaces/default/serviceaccounts", &account).await.is_ok())).await
}

async fn until(condition: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    every(Duration::from_millis(100), condition).await
}

/// For what is itself measured in milliseconds.
async fn soon(condition: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    every(Duration::from_millis(5), condition).await
}

async fn every(pause: Duration, mut condition: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !condition().await? {
        if start.elapsed() > PATIENCE {
            bail!("not within {PATIENCE:?}");
        }
        tokio::time::sleep(pause).await;
    }
    Ok(())
}
