//! What installed custom resource definitions cost: memory, installation, and discovery of all of them.

use std::time::{Duration, Instant};

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
/// Definitions that both install and whose discovery is compared; kube-apiserver takes minutes for a thousand.
const COMPARED: usize = 300;
/// Definitions that this project's binary installs in all.
const ALL: usize = 1_000;
/// Requests of discovery whose median counts.
const ROUNDS: usize = 50;

struct Figures {
    /// MiB that one definition adds.
    each: f64,
    /// Wall milliseconds until aggregated discovery of all has been received, and CPU milliseconds of the server for it.
    discovery: (f64, f64),
}

/// 1,000 definitions of 20 KiB schema: memory, and aggregated discovery against kube-apiserver with as many.
pub async fn definitions() -> Result<()> {
    let peer = match peers() {
        Some(binaries) => {
            let server = Server::start(Program::Peer(binaries, Vec::new())).await?;
            Some(compare(&server, &server.client().await?, "kube-apiserver + etcd").await?)
        }
        None => None,
    };
    let server = Server::start(own(&["--agent=off", "--without=scheduler,controllers"])).await?;
    let client = server.client().await?;
    let empty = server.resident_mib()?;
    let made = compare(&server, &client, "coracle").await?;
    if let Some(peer) = peer {
        println!(
            "crds    discovery of {COMPARED}: {:.0}x sooner, {:.0}x less CPU; {:.0}x less memory each",
            peer.discovery.0 / made.discovery.0,
            peer.discovery.1 / made.discovery.1,
            peer.each / made.each
        );
    }
    install(&client, COMPARED..ALL).await?;
    settle().await;
    let full = server.resident_mib()?;
    let discovery = discovery(&server, &client).await?;
    let one = Instant::now();
    let document = client.get("/openapi/v3/apis/g1.example.com/v1").await?.len();
    println!(
        "crds    coracle with {ALL}: {full:.0} MiB resident ({empty:.0} before), discovery in {:.1} ms ({:.1} ms CPU); OpenAPI of one group, \
         made when asked for: {:.1} ms, {:.1} MB; {:.0} MiB resident then",
        discovery.0,
        discovery.1,
        one.elapsed().as_secs_f64() * 1e3,
        document as f64 / 1e6,
        server.resident_mib()?
    );
    Ok(())
}

/// Installs the compared definitions and asks for discovery.
async fn compare(server: &Server, client: &Client, name: &str) -> Result<Figures> {
    let (empty, cpu, started) = (server.resident_mib()?, server.cpu()?, Instant::now());
    install(client, 0..COMPARED).await?;
    let (wall, cpu) = (started.elapsed().as_secs_f64(), server.cpu()? - cpu);
    settle().await;
    let each = (server.resident_mib()? - empty) / COMPARED as f64;
    let discovery = discovery(server, client).await?;
    println!(
        "crds    {name}: {COMPARED} served after {wall:.1} s, {cpu:.1} s CPU; {each:.2} MiB each; discovery in {:.2} ms ({:.2} ms CPU)",
        discovery.0, discovery.1
    );
    Ok(Figures { each, discovery })
}

/// Creates definitions and waits until the last of them is served and all are discovered.
async fn install(client: &Client, which: std::ops::Range<usize>) -> Result<()> {
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

/// Median wall milliseconds and mean CPU milliseconds of one answer.
async fn discovery(server: &Server, client: &Client) -> Result<(f64, f64)> {
    let before = server.cpu()?;
    let mut walls = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        client.accept("/apis", AGGREGATED).await?;
        walls.push(start.elapsed());
    }
    walls.sort();
    Ok((walls[ROUNDS / 2].as_secs_f64() * 1e3, (server.cpu()? - before) / ROUNDS as f64 * 1e3))
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
