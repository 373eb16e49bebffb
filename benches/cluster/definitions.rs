//! What installed custom resource definitions cost: memory, installation, and discovery of all of them.

use std::{
    fmt,
    time::{Duration, Instant},
};

use anyhow::Result;
use http::Method;
use serde_json::{Value, json};

use crate::{
    client::{Body, Client},
    own,
    server::{Program, Server, peers},
    until,
};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
/// Definitions that both install and whose discovery is compared, unless `DEFINITIONS` says otherwise; kube-apiserver takes minutes and 3 GB for
/// a thousand.
const COMPARED: usize = 300;
/// Definitions that this project's binary installs in all.
const ALL: usize = 1_000;
/// Requests of discovery whose median counts.
const ROUNDS: usize = 200;

struct Figures {
    /// MiB that one definition adds.
    each: f64,
    /// Aggregated discovery of all as it is, and compressed, as clients in Go ask for it.
    discovery: [Asked; 2],
}

/// Median wall milliseconds until an answer has been received, mean CPU milliseconds of the server for it, and its bytes.
struct Asked {
    wall: f64,
    cpu: f64,
    bytes: usize,
}

impl fmt::Display for Asked {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:.2} ms ({:.2} ms CPU, {} KB)", self.wall, self.cpu, self.bytes / 1000)
    }
}

/// 1,000 definitions of 20 KiB schema: memory, and aggregated discovery against kube-apiserver with as many.
pub async fn definitions() -> Result<()> {
    let compared = std::env::var("DEFINITIONS").ok().and_then(|count| count.parse().ok()).unwrap_or(COMPARED);
    let peer = match peers() {
        Some(binaries) => {
            let server = Server::start(Program::Peer(binaries, Vec::new())).await?;
            Some(compare(&server, &server.client().await?, "kube-apiserver + etcd", compared).await?)
        }
        None => None,
    };
    let server = Server::start(own(&["--agent=off", "--without=scheduler,controllers"])).await?;
    let client = server.client().await?;
    let empty = server.resident_mib()?;
    let made = compare(&server, &client, "coracle", compared).await?;
    if let Some(peer) = peer {
        let ratios = |at: usize| (peer.discovery[at].wall / made.discovery[at].wall, peer.discovery[at].cpu / made.discovery[at].cpu);
        let ((plain, plain_cpu), (packed, packed_cpu)) = (ratios(0), ratios(1));
        println!(
            "crds    discovery of {compared}: {plain:.0}x sooner, {plain_cpu:.0}x less CPU; compressed {packed:.0}x sooner, {packed_cpu:.0}x less CPU; \
             {:.0}x less memory each",
            peer.each / made.each
        );
    }
    install(&client, compared.min(ALL)..ALL).await?;
    settle().await;
    let full = server.resident_mib()?;
    let discovery = discovery(&server, &client).await?.map(|asked| asked.to_string()).join("; compressed ");
    let one = Instant::now();
    let document = client.get("/openapi/v3/apis/g1.example.com/v1").await?.len();
    println!(
        "crds    coracle with {ALL}: {full:.0} MiB resident ({empty:.0} before), discovery in {discovery}; OpenAPI of one group, \
         made when asked for: {:.1} ms, {:.1} MB; {:.0} MiB resident then",
        one.elapsed().as_secs_f64() * 1e3,
        document as f64 / 1e6,
        server.resident_mib()?
    );
    Ok(())
}

/// Installs the compared definitions and asks for discovery.
async fn compare(server: &Server, client: &Client, name: &str, count: usize) -> Result<Figures> {
    let (empty, cpu, started) = (server.resident_mib()?, server.cpu()?, Instant::now());
    install(client, 0..count).await?;
    let (wall, cpu) = (started.elapsed().as_secs_f64(), server.cpu()? - cpu);
    settle().await;
    let each = (server.resident_mib()? - empty) / count as f64;
    let discovery = discovery(server, client).await?;
    println!(
        "crds    {name}: {count} served after {wall:.1} s, {cpu:.1} s CPU; {each:.2} MiB each; discovery in {}; compressed {}",
        discovery[0], discovery[1]
    );
    Ok(Figures { each, discovery })
}

/// Creates definitions and waits until the last of them is served and all are discovered.
async fn install(client: &Client, which: std::ops::Range<usize>) -> Result<()> {
    if which.is_empty() {
        return Ok(());
    }
    let (last, count) = (which.end - 1, which.end);
    for n in which {
        client.send(Method::POST, DEFINITIONS, Body::json(&definition(n))).await?;
    }
    let path = format!("/apis/g{}.example.com/v1/namespaces/default/kind{last}s", last % 100);
    until(async || Ok(client.get(&path).await.is_ok())).await?;
    until(async || {
        let found: Value = serde_json::from_slice(&client.accept("/apis", AGGREGATED).await?)?;
        let groups = found["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        let custom = groups.iter().filter(|group| group["metadata"]["name"].as_str().is_some_and(|name| name.ends_with(".example.com")));
        Ok(custom.filter_map(|group| group["versions"][0]["resources"].as_array().map(Vec::len)).sum::<usize>() == count)
    })
    .await
}

/// Lets a server finish what installing left to do.
pub(crate) async fn settle() {
    tokio::time::sleep(Duration::from_secs(20)).await;
}

/// What discovery costs, as it is and compressed.
async fn discovery(server: &Server, client: &Client) -> Result<[Asked; 2]> {
    Ok([asked(server, client, false).await?, asked(server, client, true).await?])
}

async fn asked(server: &Server, client: &Client, packed: bool) -> Result<Asked> {
    let ask = async || if packed { client.gzip("/apis", AGGREGATED).await } else { client.accept("/apis", AGGREGATED).await };
    let bytes = ask().await?.len();
    let before = server.cpu()?;
    let mut walls = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        ask().await?;
        walls.push(start.elapsed());
    }
    walls.sort();
    let cpu = (server.cpu()? - before) / ROUNDS as f64 * 1e3;
    Ok(Asked { wall: walls[ROUNDS / 2].as_secs_f64() * 1e3, cpu, bytes })
}

/// A definition with a schema of 20 KiB, in one of a hundred groups.
fn definition(n: usize) -> Value {
    let field = |n: usize| {
        let words = |of: &str, count: usize| format!("{of} of field {n}. ").repeat(count);
        let properties = json!({
            "name": {"type": "string", "maxLength": 63, "description": words("The name", 3)},
            "count": {"type": "integer", "minimum": 0, "description": words("The count", 3)},
            "tags": {"type": "array", "items": {"type": "string"}}});
        (format!("field{n}"), json!({"type": "object", "description": words("The purpose", 8), "properties": properties}))
    };
    let fields: serde_json::Map<String, Value> = (0..40).map(field).collect();
    let schema = json!({"type": "object", "properties": {
        "spec": {"type": "object", "properties": fields},
        "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}});
    let (group, plural) = (format!("g{}.example.com", n % 100), format!("kind{n}s"));
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": format!("{plural}.{group}")},
        "spec": {"group": group, "scope": "Namespaced",
            "names": {"plural": plural, "singular": format!("kind{n}"), "kind": format!("Kind{n}"), "listKind": format!("Kind{n}List")},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}}, "schema": {"openAPIV3Schema": schema}}]}})
}
