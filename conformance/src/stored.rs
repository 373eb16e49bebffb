//! One etcd, and kube-apiserver and the binary on it in turns: each must read what the other wrote as the other answered it, to the resource
//! version, and go on writing. In the end kube-apiserver writes every object again as it is: it compares bytes, so that a revision that
//! moves tells a value that is kept in another form than its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    os::unix::fs::symlink,
    path::PathBuf,
    sync::Arc,
};

use anyhow::{Result, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::differential::{
    api::{Api, Resource},
    corpus::{self, Seed},
    http::{Connection, Question},
    peer::{Peer, Programs},
};

/// Flags of `coracle-conformance store`.
#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    programs: Programs,
    /// Folder of objects.
    #[arg(long, value_name = "DIR", default_value = "conformance/corpus")]
    corpus: PathBuf,
}

/// Objects by the path they are read under.
type Objects = BTreeMap<String, Value>;

/// Kept as JSON by both, in another order of members: kube-apiserver writes them anew.
const JSON: &[&str] = &["/apis/apiextensions.k8s.io/", "/apis/apiregistration.k8s.io/"];
/// What servers write about themselves when they start, and roles that upstream's controllers aggregate and the binary's API server does itself.
const OF_SERVERS: &[&str] = &[
    "/namespaces/kube-system/leases/",
    "/endpoints/kubernetes",
    "/endpointslices/kubernetes",
    "/clusterroles/admin",
    "/clusterroles/edit",
    "/clusterroles/view",
];
/// Other views of objects that are kept in another group or version: `diff` compares those.
const VIEWS: &[&str] = &["autoscaling/v1/horizontalpodautoscalers", "events.k8s.io/v1/events"];

/// What did not go well, and what was done.
#[derive(Default)]
struct Findings {
    wrong: Vec<String>,
    said: Vec<String>,
}

/// Runs the suite; whether nothing was wrong.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let findings = runtime.block_on(take_turns(options))?;
    let mut out = std::io::stdout();
    for line in findings.said.iter().chain(&findings.wrong) {
        writeln!(out, "{line}")?;
    }
    Ok(findings.wrong.is_empty())
}

async fn take_turns(options: &Options) -> Result<Findings> {
    let [binary, theirs, etcd] = options.programs.find()?;
    let mut peer = Peer::with_etcd(&etcd, "admin")?;
    let ours = peer.folder().join("kube-apiserver");
    symlink(&binary, &ours)?;
    let mut found = Findings::default();

    peer.serve(&theirs)?;
    let (mut connection, api) = ready(&mut peer).await?;
    found.create(&mut connection, &api, &corpus::seeds(&options.corpus)?).await;
    let written = list(&mut connection, &api).await?;
    let kinds: BTreeSet<&str> = written.keys().filter_map(|path| path.rsplit('/').nth(1)).collect();
    found.said.push(format!("kube-apiserver wrote {} objects of {} resources", written.len(), kinds.len()));

    // The names are the binary's; what differs is who wrote last.
    // What upstream's program ends with is its own affair.
    peer.end()?;
    peer.serve(&ours)?;
    let (mut connection, api) = ready(&mut peer).await?;
    found.compare("what kube-apiserver wrote, read by the binary", &written, &list(&mut connection, &api).await?);
    found.touch(&mut connection, "binary", &written).await;
    let written = list(&mut connection, &api).await?;

    found.end(&mut peer)?;
    peer.serve(&theirs)?;
    let (mut connection, api) = ready(&mut peer).await?;
    found.compare("what the binary wrote, read by kube-apiserver", &written, &list(&mut connection, &api).await?);
    found.write_again(&mut connection, &written).await;
    found.touch(&mut connection, "upstream", &written).await;
    let written = list(&mut connection, &api).await?;

    peer.end()?;
    peer.serve(&ours)?;
    let (mut connection, api) = ready(&mut peer).await?;
    found.compare("what kube-apiserver wrote after that, read by the binary", &written, &list(&mut connection, &api).await?);
    found.remove(&mut connection, &written).await;
    found.end(&mut peer)?;
    Ok(found)
}

/// Waits for the API server that was started.
async fn ready(peer: &mut Peer) -> Result<(Connection, Api)> {
    let server = peer.ready().await?;
    let mut connection = Connection::new(&Arc::clone(&server));
    let api = Api::read(&mut connection).await?;
    Ok((connection, api))
}

/// All objects of all resources.
async fn list(connection: &mut Connection, api: &Api) -> Result<Objects> {
    let mut objects = Objects::new();
    for resource in api.resources().iter().filter(|resource| resource.takes("GET")) {
        let all = resource.everywhere();
        let reply = connection.get(&all).await;
        if reply.code != 200 {
            bail!("{all}: {} {}", reply.code, reply.body);
        }
        if VIEWS.contains(&resource.label().as_str()) {
            continue;
        }
        for item in reply.body["items"].as_array().into_iter().flatten() {
            objects.insert(path(resource, item), item.clone());
        }
    }
    Ok(objects)
}

fn path(resource: &Resource, object: &Value) -> String {
    let text = |name: &str| object["metadata"][name].as_str().unwrap_or_default();
    format!("{}/{}", resource.collection(text("namespace")), text("name"))
}

fn revision(object: &Value) -> &str {
    object["metadata"]["resourceVersion"].as_str().unwrap_or_default()
}

/// Where two objects differ first.
fn difference(written: &Value, read: &Value, at: &str) -> String {
    match (written, read) {
        (Value::Object(left), Value::Object(right)) => {
            let differs = |name: &&String| left.get(*name) != right.get(*name);
            let Some(name) = left.keys().chain(right.keys()).find(differs) else { return String::new() };
            difference(&written[name], &read[name], &format!("{at}/{name}"))
        }
        (Value::Array(left), Value::Array(right)) if left.len() == right.len() => {
            let at_item = left.iter().zip(right).position(|(left, right)| left != right).unwrap_or_default();
            difference(&written[at_item], &read[at_item], &format!("{at}/{at_item}"))
        }
        _ => format!("{at}: written {written}, read {read}"),
    }
}

impl Findings {
    /// Ends the binary, which must end well.
    fn end(&mut self, peer: &mut Peer) -> Result<()> {
        let status = peer.end()?;
        if !status.success() {
            self.wrong.push(format!("told to end, the binary ends with {status}"));
        }
        Ok(())
    }

    async fn create(&mut self, connection: &mut Connection, api: &Api, seeds: &[Seed]) {
        let mut refused = 0;
        // What others need comes first.
        for seed in seeds.iter().filter(|seed| seed.setup).chain(seeds.iter().filter(|seed| !seed.setup)) {
            let Some(resource) = api.resource(seed.api_version(), seed.kind()) else { continue };
            let question = Question {
                method: "POST",
                path: resource.collection(seed.namespace()),
                content_type: "application/json",
                body: seed.object.to_string(),
            };
            let made = connection.ask(&question).await;
            refused += usize::from(made.code != 201);
            let (Some(status), true) = (&seed.status, made.code == 201 && resource.subresources.contains_key("status")) else { continue };
            let mut object = made.body.clone();
            object["status"] = status.clone();
            let path = format!("{}/status", path(resource, &object));
            connection.ask(&Question { method: "PUT", path, content_type: "application/json", body: object.to_string() }).await;
        }
        self.said.push(format!("{refused} of {} objects of the corpus are none to create (reviews, odd ones)", seeds.len()));
        if refused * 2 > seeds.len() {
            self.wrong.push(format!("kube-apiserver takes {} of {} objects of the corpus only", seeds.len() - refused, seeds.len()));
        }
    }

    /// What one wrote must be what the other reads.
    fn compare(&mut self, what: &str, written: &Objects, read: &Objects) {
        let (mut equal, mut rewritten) = (0, Vec::new());
        for (path, object) in written {
            match read.get(path) {
                Some(other) if other == object => equal += 1,
                _ if OF_SERVERS.iter().any(|part| path.contains(part)) => {}
                None => self.wrong.push(format!("{what}: {path} is missing")),
                Some(other) if revision(other) != revision(object) => rewritten.push(path.as_str()),
                Some(other) => self.wrong.push(format!("{what}: {path} differs: {}", difference(object, other, ""))),
            }
        }
        for path in read.keys().filter(|path| !written.contains_key(*path) && !OF_SERVERS.iter().any(|part| path.contains(part))) {
            rewritten.push(path);
        }
        self.said.push(format!("{what}: {equal} of {} objects are equal to the resource version", written.len()));
        if !rewritten.is_empty() {
            self.wrong.push(format!("{what}: written by the server's start: {}", rewritten.join(", ")));
        }
    }

    /// Changes every object a little.
    async fn touch(&mut self, connection: &mut Connection, by: &str, objects: &Objects) {
        let body = json!({"metadata": {"annotations": {"example.com/touched-by": by}}}).to_string();
        let (mut touched, mut refused) = (0, Vec::new());
        for path in objects.keys() {
            let question =
                Question { method: "PATCH", path: path.clone(), content_type: "application/merge-patch+json", body: body.clone() };
            let reply = connection.ask(&question).await;
            if reply.code == 200 {
                touched += 1;
            } else {
                refused.push(format!("{path} ({} {})", reply.code, reply.body["message"]));
            }
        }
        self.said.push(format!("{touched} of {} objects are written by {by}", objects.len()));
        self.refuses(by, &refused, objects.len());
    }

    /// A few objects were stored with something that is refused today.
    fn refuses(&mut self, by: &str, refused: &[String], of: usize) {
        if refused.len() * 10 > of {
            self.wrong.push(format!("{by} refuses to write {}", refused.join(", ")));
        }
    }

    /// What is kept must be what kube-apiserver would keep, or it keeps it anew.
    async fn write_again(&mut self, connection: &mut Connection, objects: &Objects) {
        let (mut kept, mut moved, mut json, mut refused) = (0, Vec::new(), 0, Vec::new());
        // Of an event kube-apiserver forgets who wrote it as one of the other group.
        for path in objects.keys().filter(|path| !path.contains("/events/")) {
            let before = connection.get(path).await.body;
            let question = Question { method: "PUT", path: path.clone(), content_type: "application/json", body: before.to_string() };
            let reply = connection.ask(&question).await;
            match (reply.code, revision(&reply.body) == revision(&before)) {
                (200, true) => kept += 1,
                (200, false) if JSON.iter().any(|of| path.starts_with(of)) => json += 1,
                (200, false) if OF_SERVERS.iter().any(|part| path.contains(part)) => {}
                (200, false) => moved.push(path.as_str()),
                (code, _) => refused.push(format!("{path} ({code} {})", reply.body["message"])),
            }
        }
        self.said.push(format!("{kept} values are byte for byte what kube-apiserver writes, {json} are the same JSON in another order"));
        self.refuses("kube-apiserver", &refused, objects.len());
        if !moved.is_empty() {
            self.wrong.push(format!("kept in another form than kube-apiserver's: {}", moved.join(", ")));
        }
    }

    /// Everything that is not the cluster's own goes.
    async fn remove(&mut self, connection: &mut Connection, objects: &Objects) {
        let mut removed = 0;
        for path in objects.keys().filter(|path| path.contains("/namespaces/demo/")) {
            let body = json!({"gracePeriodSeconds": 0}).to_string();
            let question = Question { method: "DELETE", path: path.clone(), content_type: "application/json", body };
            let reply = connection.ask(&question).await;
            if matches!(reply.code, 200 | 202 | 404) {
                removed += 1;
            } else {
                self.wrong.push(format!("{path} cannot be deleted: {} {}", reply.code, reply.body["message"]));
            }
        }
        self.said.push(format!("{removed} objects are deleted by the binary"));
    }
}
