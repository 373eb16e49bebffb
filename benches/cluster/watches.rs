//! What delivering an event costs, and how late it is: many watches of config maps that change at a steady rate.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use http::Method;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::{sync::mpsc, task::JoinSet, time::timeout};

use crate::{
    client::Body,
    own,
    server::{Program, Server, peers},
};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// Objects that change in turn.
const OBJECTS: usize = 200;
/// Streams of one connection, as many as clients that share one open.
const SHARED: usize = 50;
/// How long objects change, and how long the last events may take.
const LASTS: Duration = Duration::from_secs(5);
const LATE: Duration = Duration::from_secs(60);
const MERGE: &str = "application/merge-patch+json";

/// Watches, and changes a second.
#[derive(Clone, Copy)]
struct Load {
    watches: usize,
    rate: usize,
}

/// Microseconds of CPU of the server for a delivered event, those of the changes included; lags in milliseconds: the median and p99.
struct Made {
    each: f64,
    lags: [f64; 2],
}

/// 100 watches beside kube-apiserver, and 1,000.
pub async fn watches() -> Result<()> {
    let some = Load { watches: 100, rate: 50 };
    let peer = match peers() {
        Some(binaries) => Some(measure(Program::Peer(binaries, Vec::new()), some).await?),
        None => None,
    };
    for load in [some, Load { watches: 1_000, rate: 200 }] {
        let made = measure(own(&["--agent=off", "--without=scheduler,controllers"]), load).await?;
        let ratio = peer.as_ref().filter(|_| load.watches == some.watches);
        let ratio = ratio.map(|peer| {
            format!("; kube-apiserver + etcd {:.1} us: {:.1}x less CPU, p99 {:.1} ms", peer.each, peer.each / made.each, peer.lags[1])
        });
        println!(
            "watch   {} watches x {} changes/s: {:.1} us of CPU a delivered event, lag {:.1} ms, p99 {:.1} ms{}",
            load.watches,
            load.rate,
            made.each,
            made.lags[0],
            made.lags[1],
            ratio.unwrap_or_default()
        );
    }
    Ok(())
}

async fn measure(program: Program, load: Load) -> Result<Made> {
    let server = Server::start(program).await?;
    let client = server.client().await?;
    let first = stream::iter(0..OBJECTS).map(|n| {
        let (client, map) = (client.clone(), map(n));
        async move { crate::until(async || Ok(client.create(MAPS, &map).await.is_ok() || client.get(&name(n)).await.is_ok())).await }
    });
    first.buffer_unordered(16).try_collect::<()>().await?;
    let from = client.json(MAPS).await?["metadata"]["resourceVersion"].as_str().context("no resource version")?.to_owned();
    let path = format!("{MAPS}?watch=1&resourceVersion={from}");
    let began = Instant::now();
    let (lags, mut all) = mpsc::unbounded_channel();
    let mut readers = JoinSet::new();
    for _ in 0..load.watches.div_ceil(SHARED) {
        let shared = server.client().await?;
        for _ in 0..SHARED.min(load.watches) {
            let events = shared.open(&path).await?;
            readers.spawn(read(events, began, lags.clone()));
        }
    }
    let before = server.cpu()?;
    let (start, changes) = (Instant::now(), load.rate * LASTS.as_secs() as usize);
    for n in 0..changes {
        tokio::time::sleep_until((start + Duration::from_secs_f64(n as f64 / load.rate as f64)).into()).await;
        let change = json!({"data": {"sent": began.elapsed().as_nanos().to_string()}});
        let body = Body { content_type: MERGE, bytes: change.to_string().into() };
        client.send(Method::PATCH, &name(n % OBJECTS), body).await?;
    }
    let mut seen: Vec<u64> = Vec::with_capacity(changes * load.watches);
    while seen.len() < changes * load.watches {
        seen.push(timeout(LATE, all.recv()).await.context("events are missing")?.context("no watch is left")?);
    }
    let cpu = server.cpu()? - before;
    seen.sort_unstable();
    let lag = |share: f64| seen[((seen.len() - 1) as f64 * share) as usize] as f64 / 1e6;
    Ok(Made { each: cpu / seen.len() as f64 * 1e6, lags: [lag(0.5), lag(0.99)] })
}

fn name(n: usize) -> String {
    format!("{MAPS}/watched-{n}")
}

/// A kilobyte, as configurations are.
fn map(n: usize) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("watched-{n}")}, "data": {"config": "0123456789abcdef".repeat(56)}})
}

/// Tells for each event how many nanoseconds ago its change was sent.
async fn read(mut events: Incoming, began: Instant, lags: mpsc::UnboundedSender<u64>) {
    const SENT: &[u8] = b"\"sent\":\"";
    let mut rest = Vec::new();
    while let Some(Ok(frame)) = events.frame().await {
        rest.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        let now = began.elapsed().as_nanos() as u64;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            // Managed fields name the member, too, but not as text with a value.
            let sent = line.windows(SENT.len()).position(|window| window == SENT).map(|at| &line[at + SENT.len()..]);
            let digits = sent.map(|text| text.iter().take_while(|byte| byte.is_ascii_digit()));
            let at = digits.map(|digits| digits.fold(0, |number: u64, digit| number * 10 + u64::from(digit - b'0')));
            if at.is_some_and(|at| lags.send(now.saturating_sub(at)).is_err()) {
                return;
            }
        }
    }
}
