//! The access suite: every verb on every resource by many identities, against a model written from the documentation, and against
//! kube-apiserver with the same objects; then attempts to get further than one may.

mod attacks;
mod http2;
mod identities;
mod model;
mod questions;
mod secrecy;

use std::{
    io::Write,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value;

use self::{
    model::{Identity, Model, Shown},
    questions::Asked,
};
use crate::{
    cluster::Cluster,
    differential::{
        api::Api,
        http::{Connection, Question, Reply, Server},
        peer::{Peer, there},
    },
};

/// Requests that are under way at once.
const WORKERS: usize = 8;
/// Disagreements shown.
const SHOWN: usize = 40;
/// How long roles may take to take effect.
const PATIENCE: Duration = Duration::from_secs(30);

/// Flags of `coracle-conformance access`.
#[derive(Args)]
pub(crate) struct Options {
    /// The binary under test.
    #[arg(long, value_name = "FILE", default_value = "target/release/coracle")]
    binary: PathBuf,
    /// kube-apiserver of the same version: decisions are compared with its.
    #[arg(long, value_name = "FILE", requires = "etcd")]
    peer: Option<PathBuf>,
    /// etcd for it.
    #[arg(long, value_name = "FILE")]
    etcd: Option<PathBuf>,
}

/// How one identity fared.
#[derive(Default)]
struct Tally {
    asked: usize,
    refused: usize,
    against_model: usize,
    against_peer: usize,
}

/// Runs the suite; whether everything was decided as it should be.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(compare(options))
}

async fn compare(options: &Options) -> Result<bool> {
    let binary = there("binary", &options.binary)?;
    let mut peer = match (&options.peer, &options.etcd) {
        (Some(peer), Some(etcd)) => Some(Peer::start(&there("peer", peer)?, &there("etcd", etcd)?, "admin")?),
        _ => None,
    };
    let cluster = Cluster::start(&binary, &["--without=scheduler,controllers".into()])?;
    let server = Arc::new(Server::from_kubeconfig(&cluster.kubeconfig())?);
    let other = match &mut peer {
        Some(peer) => Some(peer.ready().await?),
        None => None,
    };
    for server in std::iter::once(&server).chain(&other) {
        prepare(server).await?;
    }
    if let Some(other) = &other {
        aggregate(other).await?;
    }
    let api = Api::read(&mut Connection::new(&server)).await?;
    let questions = questions::all(&api);
    let model = Model::new(&shown(&server).await?);
    let start = Instant::now();
    let (mut wrong, mut rows) = (Vec::new(), Vec::new());
    for who in identities::all() {
        let ours = ask_all(&server, &who, &questions).await;
        let theirs = match &other {
            Some(other) => Some(ask_all(other, &who, &questions).await),
            None => None,
        };
        let tally = judge(&model, &who, &questions, &ours, theirs.as_deref(), &mut wrong);
        rows.push((who.label, tally));
    }
    let mut attempts = attacks::run(&server, &other, &mut wrong).await?;
    attempts.push(http2::run(&server, &mut wrong).await?);
    attempts.push(secrecy::run(&binary, &mut wrong).await?);
    report(&rows, &api, &attempts, &wrong, other.is_some(), start)?;
    Ok(wrong.is_empty())
}

/// Makes the objects, and waits until the last of the roles counts.
async fn prepare(server: &Arc<Server>) -> Result<()> {
    let mut admin = Connection::new(server);
    for (path, object) in identities::objects() {
        let reply = admin.ask(&post(&path, &object)).await;
        if reply.code != 201 && reply.code != 409 {
            bail!("{path} {}: {} {}", object["metadata"]["name"], reply.code, reply.body);
        }
    }
    let (start, mut reader) = (Instant::now(), Connection::acting(server, headers("scraper", &[])));
    while reader.get("/logs/x").await.code == 403 {
        if start.elapsed() > PATIENCE {
            bail!("roles do not count after {PATIENCE:?}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Fills in the peer's aggregated roles, which it has no controller manager for, from its own roles that are labelled for them.
async fn aggregate(peer: &Arc<Server>) -> Result<()> {
    let path = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    let mut admin = Connection::new(peer);
    // In this order: each takes in the one before.
    for role in ["view", "edit", "admin"] {
        let all = admin.get(path).await.body;
        let label = format!("rbac.authorization.k8s.io/aggregate-to-{role}");
        let items = all["items"].as_array().into_iter().flatten();
        let parts = items.filter(|part| part["metadata"]["labels"][&label] == "true");
        let rules: Vec<&Value> = parts.flat_map(|part| part["rules"].as_array().into_iter().flatten()).collect();
        let body = serde_json::json!({"rules": rules}).to_string();
        let question = Question { method: "PATCH", path: format!("{path}/{role}"), content_type: "application/merge-patch+json", body };
        let reply = admin.ask(&question).await;
        if reply.code != 200 || rules.is_empty() {
            bail!("{path}/{role}: {} {}", reply.code, reply.body);
        }
    }
    let mut reader = Connection::acting(peer, headers("reader", &[]));
    let start = Instant::now();
    while reader.get("/api/v1/namespaces/dev/pods").await.code == 403 {
        if start.elapsed() > PATIENCE {
            bail!("roles do not count after {PATIENCE:?}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// A POST of an object.
fn post(path: &str, object: &Value) -> Question {
    Question { method: "POST", path: path.to_owned(), content_type: "application/json", body: object.to_string() }
}

/// What an administrator sends to be somebody else.
fn headers(user: &str, groups: &[&str]) -> Vec<(&'static str, String)> {
    let groups = groups.iter().map(|group| ("impersonate-group", (*group).to_owned()));
    std::iter::once(("impersonate-user", user.to_owned())).chain(groups).collect()
}

async fn shown(server: &Arc<Server>) -> Result<Shown> {
    let mut admin = Connection::new(server);
    let mut list = async |path: &str| -> Result<Vec<Value>> {
        let reply = admin.get(path).await;
        let items = reply.body.get("items").and_then(Value::as_array).cloned();
        items.with_context(|| format!("{path}: {} {}", reply.code, reply.body))
    };
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    Ok(Shown {
        cluster_roles: list(&format!("{rbac}/clusterroles")).await?,
        roles: list(&format!("{rbac}/roles")).await?,
        cluster_bindings: list(&format!("{rbac}/clusterrolebindings")).await?,
        bindings: list(&format!("{rbac}/rolebindings")).await?,
        pods: list("/api/v1/pods").await?,
        claims: list("/api/v1/persistentvolumeclaims").await?,
    })
}

/// Whether each request was let through; nothing for one that was not answered.
async fn ask_all(server: &Arc<Server>, who: &Identity, questions: &[Asked]) -> Vec<Option<bool>> {
    let next = AtomicUsize::new(0);
    let groups: Vec<&str> = who.groups.iter().map(String::as_str).collect();
    let work = async || {
        let mut connection = Connection::acting(server, headers(&who.user, &groups));
        let mut answers = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(asked) = questions.get(at) else { return answers };
            let reply = connection.ask(&asked.question).await;
            answers.push((at, (reply.code != 0).then(|| !is_refusal(&reply, &who.user))));
        }
    };
    let mut all = vec![None; questions.len()];
    for (at, answer) in futures::future::join_all((0..WORKERS).map(|_| work())).await.into_iter().flatten() {
        all[at] = answer;
    }
    all
}

/// A refusal of the authorizer; admission and the verbs refuse in other words.
fn is_refusal(reply: &Reply, user: &str) -> bool {
    let message = reply.body.get("message").and_then(Value::as_str).unwrap_or_default();
    reply.code == 403 && (message.contains(&format!("User {user:?} cannot ")) || message.ends_with("\" is forbidden: "))
}

fn judge(
    model: &Model,
    who: &Identity,
    questions: &[Asked],
    ours: &[Option<bool>],
    theirs: Option<&[Option<bool>]>,
    wrong: &mut Vec<String>,
) -> Tally {
    let mut tally = Tally::default();
    for (at, asked) in questions.iter().enumerate() {
        let expected = model.allows(who, &asked.ask);
        tally.asked += 1;
        tally.refused += usize::from(ours[at] == Some(false));
        let what = || format!("{}: {} {}", who.label, asked.question.method, asked.question.path);
        if ours[at] != Some(expected) {
            tally.against_model += 1;
            wrong.push(format!("{}: {}, by the documentation {}", what(), word(ours[at]), word(Some(expected))));
        }
        if let Some(theirs) = theirs.filter(|theirs| theirs[at] != ours[at]) {
            tally.against_peer += 1;
            wrong.push(format!("{}: {}, by kube-apiserver {}", what(), word(ours[at]), word(theirs[at])));
        }
    }
    tally
}

fn word(answer: Option<bool>) -> &'static str {
    match answer {
        Some(true) => "allowed",
        Some(false) => "refused",
        None => "not answered",
    }
}

fn report(rows: &[(&str, Tally)], api: &Api, attempts: &[attacks::Tried], wrong: &[String], compared: bool, start: Instant) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{:28} {:>7} {:>8} {:>8} {:>13} {:>12}", "identity", "asked", "allowed", "refused", "against model", "against peer")?;
    let mut all = Tally::default();
    for (label, tally) in rows {
        let allowed = tally.asked - tally.refused;
        writeln!(out, "{label:28} {:7} {allowed:8} {:8} {:13} {:12}", tally.asked, tally.refused, tally.against_model, tally.against_peer)?;
        all.asked += tally.asked;
        all.refused += tally.refused;
    }
    writeln!(
        out,
        "\n{} identities, {} resources: {} requests, {} allowed, {} refused{}, {:.1} s",
        rows.len(),
        api.resources().len(),
        all.asked,
        all.asked - all.refused,
        all.refused,
        if compared { "; each compared with kube-apiserver" } else { "" },
        start.elapsed().as_secs_f64()
    )?;
    for tried in attempts {
        writeln!(out, "{:28} {} tried, {} held off", tried.label, tried.tried, tried.held)?;
    }
    for line in wrong.iter().take(SHOWN) {
        writeln!(out, "{line}")?;
    }
    if wrong.len() > SHOWN {
        writeln!(out, "… and {} more", wrong.len() - SHOWN)?;
    }
    Ok(())
}
